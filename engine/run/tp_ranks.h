/* SPDX-License-Identifier: Apache-2.0 */
/* One process's ranks of a tensor-parallel group, the same at the leader and at a worker: their instances,
 * their places in the group, their step. What takes time is a job of the team, started here and ended by
 * on_done; who starts it calls nothing else of this but abort until then. */
#ifndef WEIR_RUN_TP_RANKS_H
#define WEIR_RUN_TP_RANKS_H
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "run/instance.h"
#include "run/tp.h"
#include "run/tp_team.h"
#include "run/tp_wire.h"

typedef struct weir_tp_rank {
  weir_instance *instance; /* owned; NULL: not loaded */
  weir_dev *dev;
  weir_comm_seat *seat;         /* owned */
  weir_comm *comm;              /* owned; written with the lock held */
  weir_row *row;                /* [max_tokens], owned: what the last step gave */
  weir_top *top;                /* [max_tokens][WEIR_TOP_MAX], owned */
  int64_t step_ns;              /* of the last step */
  weir_comm_stats done;         /* of groups that are over */
  weir_comm_stats now;          /* of this one, after its last step */
  _Atomic int64_t loaded, load; /* bytes of weights that were read, of so many */
} weir_tp_rank;

typedef struct weir_tp_ranks {
  weir_tp_plan plan;
  int32_t first, n, n_ranks; /* this process has ranks [first, first + n) */
  const char *host;          /* borrowed */
  int64_t bound_ns;
  weir_tp_team *team; /* owned */
  weir_tp_rank *rank; /* [n], owned */
  const weir_mfile *file;
  const weir_hparams *h; /* of loading; borrowed */
  weir_batch batch;
  bool wants_top;
  int32_t n_pages;
  char invite[WEIR_COMM_INVITE_BYTES];
  pthread_mutex_t lock; /* of what follows */
  bool aborted;
  char why[WEIR_TP_WHY_BYTES];
} weir_tp_ranks;

/* A zeroed struct with plan, first, host and bound_ns filled in. `team` as in weir_tp_team_opts. */
weir_status weir_tp_ranks_init(weir_tp_ranks *, const weir_tp_team_opts *team, weir_err *e);
/* False: a thread did not come back; then nothing of this may be freed, and nothing is. */
bool weir_tp_ranks_fini(weir_tp_ranks *);

/* ---- jobs ---- */
/* The instances, of file and h, on rank[].dev; those that are there go first. abort ends it too. */
weir_status weir_tp_ranks_load(weir_tp_ranks *, weir_err *e);
/* Leaves the group, and gives KV back. */
weir_status weir_tp_ranks_clear(weir_tp_ranks *, weir_err *e);
/* Gives back what the last group left, sees to n_pages of KV, takes a seat. Then each rank has an offer. */
weir_status weir_tp_ranks_seat(weir_tp_ranks *, int32_t n_pages, weir_err *e);
weir_status weir_tp_ranks_join(weir_tp_ranks *, const char *invite, weir_err *e);
/* The batch and what it points to stay as they are until the job is done. */
weir_status weir_tp_ranks_step(weir_tp_ranks *, const weir_batch *, weir_err *e);
/* Leaves the group; the error is of a device that will be in no other. */
weir_status weir_tp_ranks_leave(weir_tp_ranks *, weir_err *e);

/* While a job runs too: the group is over, the ranks come back from it, and one that is being joined is over
 * when it is there. Until the next seat. */
void weir_tp_ranks_abort(weir_tp_ranks *, const char *why);
/* 0 to 100. */
int32_t weir_tp_ranks_percent(const weir_tp_ranks *);

#endif
