/* SPDX-License-Identifier: Apache-2.0 */
/* The ranks of a large model that live in a process of their own: opens the model's file and this process's
 * devices, and does what the leader says (run/tp.h). */
#ifndef WEIR_SERVE_WORKER_H
#define WEIR_SERVE_WORKER_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

typedef struct weir_worker_opts {
  const char *path;                          /* of the model: the leader's, or a copy of it */
  const char *device;                        /* weir_places_parse; NULL: the CPU */
  int32_t tp;                                /* ranks of all processes together, a multiple of n_nodes */
  int32_t node, n_nodes;                     /* 1 .. n_nodes-1 */
  const char *addr, *token, *host, *version; /* as in weir_tp_worker_opts */
  int32_t local, n_local; /* of the processes on this machine, which this is and how many; 0: alone */
  int32_t cores_local, cores_n_local; /* the same of those that divide the cores; 0: all are this one's */
  int64_t bound_ns;                   /* 0: 10 s */
  int32_t n_threads;                  /* of each rank on the CPU; 0: the ranks share the cores out */
  const char *isa, *cuda_library, *nccl_library;
  bool cuda_no_graphs;
  double gpu_share;        /* 0: 0.9 */
  bool once;               /* ends when the leader it worked for is gone, instead of waiting for the next */
  bool (*stop)(void *ctx); /* asked at least ten times a second */
  void (*tell)(void *ctx, const char *line); /* what changes, for a log */
  void *ctx;
} weir_worker_opts;

/* Until `stop` says so: WEIR_OK. An error is one that trying again will not mend. */
weir_status weir_worker_run(const weir_worker_opts *, weir_err *e);

#endif
