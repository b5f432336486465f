/* SPDX-License-Identifier: Apache-2.0 */
/* The leader of a tensor-parallel model, for the files that make it up: tp.c (creating, gathering, what
 * workers say), tp_group.c (groups that form, end and form again), tp_exec.c (the executor).
 *
 * One lock guards the state and is never held across a call out of these files. Events of the crew and the
 * ends of the ranks' jobs only write down what happened and signal `changed`; a group is formed and ended by
 * one thread alone, the keeper. */
#ifndef WEIR_RUN_TP_IN_H
#define WEIR_RUN_TP_IN_H
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "comm/crew.h"
#include "run/tp.h"
#include "run/tp_ranks.h"
#include "run/tp_wire.h"

/* A worker, as far as it has come. */
typedef struct weir_tp_node {
  bool here, loaded;
  bool refused;        /* `why` says why; for good, or until it comes again */
  bool owed;           /* its HELLO is to be answered */
  bool offered, ready; /* in the group that is being made */
  int32_t percent;
  int64_t room;
  char who[WEIR_CREW_WHO_BYTES];
  char why[WEIR_TP_WHY_BYTES];
  char (*offer)[WEIR_COMM_OFFER_BYTES]; /* [n_local], owned */
} weir_tp_node;

/* How much a reason for a group's end explains: a rank whose neighbour died only sees that it does not come.
 */
typedef enum { WEIR_TP_NO_BLAME, WEIR_TP_RANK_SAYS, WEIR_TP_WORKER_SAYS, WEIR_TP_WORKER_LOST } weir_tp_blame;

typedef enum { WEIR_TP_IDLE, WEIR_TP_RUNNING, WEIR_TP_DONE } weir_tp_step_state;

struct weir_tp {
  weir_exec base;
  char name[192], host[256];
  weir_tp_plan plan;
  uint64_t model;
  int64_t bound_ns;
  bool *left;
  weir_tp_ranks ranks;
  pthread_t keeper;
  bool started, kept; /* ranks are there; the keeper is */

  pthread_mutex_t lock;    /* of what follows */
  pthread_cond_t changed;  /* anything but a step that went well */
  pthread_cond_t finished; /* step is DONE */
  weir_crew *crew;         /* NULL: one node, or still being opened */
  weir_tp_node *node;      /* [n_nodes], owned; 0 is this one and unused */
  bool quit;

  bool busy;           /* the ranks are at a job */
  weir_status job_st;  /* of the last one */
  weir_err job_err;    /* the first failure in it */
  uint64_t group;      /* number of the last attempt to make one */
  bool open, alive;    /* it is being made or used; it is used */
  weir_tp_blame blame; /* not NO_BLAME: it is over */
  weir_err why;        /* ... because of this; kept until the next group lives */
  char waits[512];     /* what a group that is to be made waits for; "" for nothing */
  int64_t died_ns;     /* when; 0: it did not */
  int64_t pause_ns;    /* before the next attempt */
  uint64_t life;
  weir_tp_stats stats;

  weir_tp_step_state step;
  uint64_t n_steps; /* of this group */
  weir_result *result;
  bool ok;
  weir_err step_why; /* when it is not */
  weir_batch batch;  /* looks into message and ask */
  weir_buf message;  /* the step as workers get it; this node's ranks work from it too */
  weir_ask *ask;     /* [max_tokens], owned */

  pthread_mutex_t notify_lock; /* of what follows */
  void (*fn)(void *ctx);
  void *ctx;
};

/* With the lock held: waits for `changed`, at most until then. False: it is past. */
bool weir_tp_wait(weir_tp *, int64_t until_ns);
/* With the lock held: the open group is over, if nothing better is known of it already. */
void weir_tp_blame_group(weir_tp *, weir_tp_blame, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* With the lock held: "rank 2 on node 1 (gpu17, process 4711)". */
void weir_tp_ranks_of(const weir_tp *, int32_t node, char *out, size_t cap);
/* Without the lock. */
weir_status weir_tp_tell(weir_tp *, int32_t node, const weir_tp_msg *, weir_err *e);
void weir_tp_tell_all(weir_tp *, const weir_tp_msg *);
/* Without the lock: what all workers are at, "" when they have loaded. */
void weir_tp_progress(weir_tp *, char *out, size_t cap);
/* With the lock held. */
bool weir_tp_all_loaded(const weir_tp *);
void weir_tp_free(weir_tp *); /* no threads are left but the crew's, which is closed here */
/* Tells who asked to be notified. Without the lock. */
void weir_tp_notify(weir_tp *);

/* tp_group.c; with the lock held, which is given up meanwhile. The first group; the error says why there is
 * none, and it is ended then. */
weir_status weir_tp_form(weir_tp *, weir_err *e);
weir_status weir_tp_keep(weir_tp *, weir_err *e); /* starts the keeper */
/* tp_group.c: callbacks of the team. */
void weir_tp_rank_failed(void *tp, int32_t i, const weir_err *e);
void weir_tp_job_done(void *tp, weir_status st);

extern const weir_exec_ops weir_tp_exec_ops;
extern const weir_exec_async weir_tp_exec_async;
extern const weir_exec_life weir_tp_exec_life;

#endif
