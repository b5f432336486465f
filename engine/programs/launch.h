/* SPDX-License-Identifier: Apache-2.0 */
/* Which of several processes of the large model this is, and where the first of them is: from --nnodes,
 * --node-rank and --dist-init-addr, and, when --launcher asks for it, from what srun, mpirun, torchrun or
 * LeaderWorkerSet say in the environment. An option goes before a variable.
 *
 * Variables of launchers are looked at only when they are asked for: a shell inside of a Slurm allocation has
 * some of them, and nothing that is started there by hand must wait for others. */
#ifndef WEIR_PROGRAMS_LAUNCH_H
#define WEIR_PROGRAMS_LAUNCH_H
#include <stdbool.h>
#include <stdint.h>

#include "base/config.h"
#include "base/err.h"

enum {
  WEIR_LAUNCH_ADDR_BYTES = 288,
  WEIR_LAUNCH_TOLD_BYTES = 400,
  WEIR_LAUNCH_PORT = 5610 /* of an address without one */
};

typedef struct weir_launch {
  int32_t n_nodes, node; /* processes, and which this is; 0 leads */
  /* Of the processes on this machine: how many, and which this is. 1 and 0 when nothing says so. */
  int32_t n_local, local;
  char addr[WEIR_LAUNCH_ADDR_BYTES]; /* "host:port" of the leader; "" with one node */
  char told[WEIR_LAUNCH_TOLD_BYTES]; /* what was taken from where, for the log; "": nothing */
} weir_launch;

/* The options of a command that has them (weir_config_has "nnodes"), and of others one node. `get` reads the
 * environment as getenv does; NULL: getenv. WEIR_EINVAL names what is missing or contradicts itself. */
weir_status weir_launch_read(const weir_config *, const char *(*get)(const char *name), weir_launch *out,
                             weir_err *e);

/* ---- parts, for tests ---- */

/* The first host of a Slurm list, "gpu[01-04,07],cpu1" is gpu01. False: none, or too long. */
bool weir_launch_first_host(const char *list, char *out, int32_t bytes);
/* Tasks of node number `node` in a Slurm list such as "4(x2),1"; 0: it is not in there. */
int32_t weir_launch_tasks_of_node(const char *list, int32_t node);

#endif
