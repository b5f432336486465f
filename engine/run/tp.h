/* SPDX-License-Identifier: Apache-2.0 */
/* The executor of a model that is cut over ranks: threads of this process, and of worker processes when there
 * are several nodes. The leader (node 0, with rank 0) takes the step, fans the batch out, all ranks compute
 * it in lock step, and rank 0's rows are the answer. Every node has the same number of ranks, node k has
 * ranks k*n_local .. (k+1)*n_local - 1.
 *
 * A step is done when all ranks of this node are: what they have reduced proves that the others came as far.
 * A worker that fails later than that is heard of before the next step ends.
 *
 * When a rank fails, dies or falls silent, the group is over: the step under way fails within the bound, with
 * the reason, and the executor says that it is dead (step.h, weir_exec_life). It goes on by itself to gather
 * the ranks again, those of this process at once, worker processes when they come back, and lives again with
 * a new group and an empty KV, without loading its own weights again. Nothing of a KV is read that this life
 * has not written. */
#ifndef WEIR_RUN_TP_H
#define WEIR_RUN_TP_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "comm/crew.h"
#include "comm/meet.h"
#include "model/hparams.h"
#include "model/mfile.h"
#include "run/instance.h"
#include "step/step.h"

/* What all nodes must agree on; the leader tells its workers. */
typedef struct weir_tp_plan {
  int32_t n_nodes, n_local; /* ranks = n_nodes * n_local, at most WEIR_MAX_RANKS */
  weir_comm_kind comm;
  int32_t n_ctx, max_tokens, max_seqs, n_valid; /* as in weir_instance_opts */
  weir_dtype kv_dtype;
} weir_tp_plan;

/* ---- the leader ---- */
typedef struct weir_tp weir_tp;
typedef struct weir_tp_opts {
  const char *name; /* for messages: "large (pair-large)" */
  weir_tp_plan plan;
  uint64_t model;                     /* weir_tp_fingerprint: a worker with another model is refused */
  const char *addr, *token, *version; /* of the crew, when n_nodes > 1 */
  const char *host;                   /* tcp: where workers reach this node; NULL: the host of addr */
  int64_t bound_ns; /* a rank that is silent or late for so long is dead; 0: 10 s. Workers take it over */
  bool *left; /* may be NULL. Becomes true when the executor is destroyed and a thread of it does not come
                 back from its device within the bound: thread and instances are then left behind, and
                 devices must not be freed (exec_thread.h) */
} weir_tp_opts;
/* With several nodes it listens from now on: workers may come and load while the leader loads. */
weir_status weir_tp_create(const weir_tp_opts *, weir_tp **out, weir_err *e);
void weir_tp_destroy(weir_tp *); /* one that was not started; NULL is fine */
/* Waits until every worker has its weights, at most timeout_ns, calling `tell` (may be NULL) about once in
 * two seconds and when anything changes with a line such as "waiting for node 2 of 4; node 1 (gpu17) has
 * loaded 62 %". *room: the least number of KV tokens any worker has room for, -1 when there are none to ask.
 * Failure says which nodes did not come, and how far the others were. `stop` (may be NULL) is asked at least
 * ten times a second: true ends the waiting with WEIR_EBUSY. */
weir_status weir_tp_gather(weir_tp *, int64_t timeout_ns, void (*tell)(void *ctx, const char *line),
                           bool (*stop)(void *ctx), void *ctx, int64_t *room, weir_err *e);
/* Makes the group and the executor over this node's ranks: local[n_local], each with its own device, made
 * with the plan's numbers and the shard of its rank (run/instance.h), with n_pages of KV or with none yet.
 * Takes tp and the instances, on failure too. All ranks of all nodes get n_pages of KV. The executor has
 * async and life; its name and numbers are those of the whole model. */
weir_status weir_tp_start(weir_tp *takes, weir_instance *const *takes_local, int32_t n_pages, weir_exec **out,
                          weir_err *e);

/* Of an executor made here: what its ranks have said to each other, of rank 0. */
typedef struct weir_tp_stats {
  weir_comm_stats comm; /* of all groups together */
  int64_t groups;       /* made so far: 1 and one for each recovery */
  int64_t last_dead_ns; /* from the last failure to the new group; 0: none yet */
} weir_tp_stats;
weir_tp_stats weir_exec_tp_stats(const weir_exec *);

/* ---- a worker ---- */
typedef struct weir_tp_worker_opts {
  int32_t node, n_nodes, n_local;
  const char *addr, *token, *version, *host;
  int64_t bound_ns;       /* as of weir_tp_opts, until the leader has said its own; 0: 10 s */
  const weir_mfile *file; /* the same model as the leader's; read again when the leader's numbers change */
  const weir_hparams *h;
  weir_dev *const *dev; /* [n_local] a device for each rank */
  /* KV tokens a device set has room for once weights are loaded, for a token of so many bytes on each rank;
   * NULL: any number. */
  int64_t (*room)(void *ctx, int64_t token_bytes);
  /* Both from the thread that runs the worker; tell may be NULL. */
  bool (*stop)(void *ctx);                   /* asked at least ten times a second; true: leave */
  void (*tell)(void *ctx, const char *line); /* what changes, for a log */
  void *ctx;
  bool *left; /* may be NULL. Becomes true when a thread does not come back from its device: file, h and
                 devices must then not be freed */
} weir_tp_worker_opts;
/* Serves the leader until `stop` says so: joins, loads what it is told to, computes, and when the group or
 * the leader is gone joins again, with its weights kept. Returns WEIR_OK when stopped, and an error for what
 * trying again will not mend: refused by the leader (another model, version or token), weights that do not
 * load, a device that has died, a rank that does not come back from its device. Then a new process is to take
 * its place. */
weir_status weir_tp_worker_run(const weir_tp_worker_opts *, weir_err *e);

/* Of the model's numbers, of the names, shapes and types of its tensors, and of some bytes of each. */
weir_status weir_tp_fingerprint(const weir_mfile *, const weir_hparams *, uint64_t *out, weir_err *e);

#endif
