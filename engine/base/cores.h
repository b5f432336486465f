/* SPDX-License-Identifier: Apache-2.0 */
/* Which cores the parts of one process work on: those it may use, and their division among several teams of
 * threads that work side by side, along the machine's NUMA nodes where that comes out even. */
#ifndef WEIR_BASE_CORES_H
#define WEIR_BASE_CORES_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum { WEIR_CORES_MAX = 1024 };

typedef struct weir_cores {
  int32_t n;
  int32_t core[WEIR_CORES_MAX]; /* as the system numbers them, ascending where nothing else is said */
} weir_cores;

/* The cores that this process may run on; n is 0 when the system does not tell. */
void weir_cores_mine(weir_cores *out);
/* Whole cores that a control group's bandwidth limit grants; `none` when there is no limit, or it is above.
 */
int32_t weir_cores_quota(int32_t none);

/* One team's part. */
typedef struct weir_core_share {
  int32_t n_threads; /* at least 1 */
  bool crowded;      /* all teams together have more threads than cores: none has one to itself */
  weir_cores cores;  /* [n_threads] one for each thread; n is 0: not pinned */
} weir_core_share;

/* Divides `mine` among n_parts teams of n_threads each; 0 threads: all get as many, at least one, of what
 * `may_use` cores give. No core is given twice: when there are fewer cores than threads nobody is pinned. On
 * a machine with several NUMA nodes part p of n gets cores of node p*nodes/n, or of several nodes when there
 * are fewer parts than nodes; where that does not come out even, runs of neighbouring cores.
 * nodes_dir: NULL is /sys/devices/system/node. out has room for n_parts. */
weir_status weir_cores_divide(const weir_cores *mine, int32_t may_use, const char *nodes_dir, int32_t n_parts,
                              int32_t n_threads, weir_core_share *out, weir_err *e);

#endif
