/* SPDX-License-Identifier: Apache-2.0 */
/* A worker: its ranks do what the leader says. The caller's thread runs the loop; the crew's thread and the
 * last thread of a job only write down what happened and wake it. What the leader says waits in order while a
 * job runs, but that the group is over, which ends the job. Owns its ranks and, through them, the weights,
 * which outlive groups and leaders.
 *
 * A step does not pass through the loop, whose wake-up would be added to each (5 to 70 us, by the machine):
 * while the loop sleeps with nothing to do, the crew's thread hands a step to the ranks, and the last rank
 * notes that it is done. `asleep` says that the loop's own fields are, for so long, whose the lock is. */
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "run/kvstore.h"
#include "run/tp_ranks.h"
#include "run/tp_wire.h"

#define SECOND      INT64_C(1000000000)
#define LOOK_NS     (SECOND / 12) /* between looks at `stop` */
#define PROGRESS_NS (SECOND / 2)  /* between reports of loading */
#define KV_NS       (60 * SECOND) /* for ranks that are at their KV when the group is over */
#define TELL_NS     (2 * SECOND)  /* between lines about it */
#define BOUND_NS    (10 * SECOND)

/* Something the leader said. */
typedef struct letter {
  struct letter *next;
  size_t bytes;
  _Alignas(8) unsigned char data[];
} letter;

typedef enum { NO_JOB, LOAD, CLEAR, SEAT, JOIN, STEP, LEAVE } job;

typedef struct worker {
  const weir_tp_worker_opts *o;
  weir_crew *crew;
  uint64_t model;
  int64_t bound_ns;

  /* the loop's own */
  weir_tp_ranks ranks;
  bool has_ranks, loaded;
  bool planned;          /* by the leader that is here */
  weir_exec_info limits; /* of steps */
  weir_ask *ask;         /* [max_tokens], owned */
  job job;
  letter *step;           /* what the ranks work from */
  uint64_t group, number; /* the group that seats were taken for; its last step */
  bool in_group, broken;  /* all have joined; it is over, and to be left ... */
  int64_t broken_ns;      /* ... since, or is being left since */
  int64_t progress_ns, told_ns;
  int32_t percent;

  pthread_mutex_t lock; /* of what follows */
  pthread_cond_t news;
  bool asleep;
  letter *first, **last;
  bool here;     /* the leader is */
  bool greet;    /* it is new, and wants HELLO */
  bool refused;  /* it wants no more of this worker */
  bool gone;     /* it went */
  bool deaf;     /* what it said is lost: `fail` */
  uint64_t over; /* this group and those before are; 0: none */
  bool failed;   /* a rank has; below */
  bool done;     /* the job is */
  weir_status job_st;
  weir_err fail;
  char why[WEIR_TP_WHY_BYTES]; /* of gone, refused, over */
  char who[WEIR_CREW_WHO_BYTES];
} worker;

static void tell(const worker *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void tell(const worker *w, const char *fmt, ...) {
  char line[768];
  va_list a;
  if (!w->o->tell) return;
  va_start(a, fmt);
  vsnprintf(line, sizeof line, fmt, a);
  va_end(a);
  w->o->tell(w->o->ctx, line);
}

static void say(worker *w, const weir_tp_msg *m) {
  weir_buf b = {0};
  weir_err e = {0};
  weir_status st = weir_tp_msg_put(m, &b, &e);
  /* A leader that is gone hears nothing; that it is gone is told by the crew. */
  if (st == WEIR_OK) st = weir_crew_send(w->crew, 0, b.data, b.len, &e);
  if (st != WEIR_OK) weir_log(WEIR_LOG_DEBUG, "to the leader: %s", e.msg);
  weir_buf_fini(&b);
}

static void say_failed(worker *w, uint64_t group, const char *why) {
  weir_tp_msg m = {.kind = WEIR_TP_FAILED, .group = group, .rank = -1};
  snprintf(m.why, sizeof m.why, "%.*s", (int)sizeof m.why - 1, why);
  say(w, &m);
}

/* ---- other threads ---- */

static void drop_letters(worker *w, uint64_t up_to_group) {
  for (letter **at = &w->first; *at;) {
    letter *l = *at;
    weir_tp_kind kind = WEIR_TP_HELLO;
    uint64_t group = 0;
    (void)weir_tp_wire_kind(l->data, l->bytes, &kind, NULL);
    if (kind >= WEIR_TP_SEATS && l->bytes >= 16) memcpy(&group, l->data + 8, sizeof group);
    if (up_to_group == UINT64_MAX || (group > 0 && group <= up_to_group)) {
      *at = l->next;
      free(l);
    } else {
      at = &l->next;
    }
  }
  w->last = &w->first;
  while (*w->last) w->last = &(*w->last)->next;
}

/* Takes the letter when it is WEIR_OK. The loop's thread, or the crew's while the loop sleeps. */
static weir_status start_step(worker *w, letter *l, weir_err *e) {
  weir_tp_step s;
  weir_status st = WEIR_OK;
  if (!w->in_group) return weir_fail(e, WEIR_EINVAL, "a step, and no group");
  WEIR_TRY(weir_tp_step_get(l->data, l->bytes, &w->limits, w->ask, &s, e));
  if (s.group != w->group || s.number != w->number + 1)
    WEIR_TRY(weir_fail(e, WEIR_EFORMAT,
                       "step %" PRIu64 " of group %" PRIu64 ", want step %" PRIu64 " of %" PRIu64, s.number,
                       s.group, w->number + 1, w->group));
  WEIR_TRY(weir_tp_ranks_step(&w->ranks, &s.batch, e));
  w->number = s.number;
  w->job = STEP;
  w->step = l;
out:
  return st;
}

/* With the lock held. */
static void on_said(worker *w, const weir_crew_event *ev) {
  weir_tp_kind kind = WEIR_TP_HELLO;
  weir_tp_msg m;
  weir_err e = {0};
  if (weir_tp_wire_kind(ev->data, ev->bytes, &kind, &e) == WEIR_OK && kind == WEIR_TP_ABORT &&
      weir_tp_msg_get(ev->data, ev->bytes, &m, &e) == WEIR_OK) {
    drop_letters(w, m.group);
    if (m.group > w->over) w->over = m.group;
    snprintf(w->why, sizeof w->why, "%s", m.why);
    pthread_cond_signal(&w->news);
    return;
  }
  letter *l = NULL;
  const size_t size = sizeof *l + ev->bytes; /* at most WEIR_CREW_MAX_MESSAGE and a little */
  if (weir_calloc(1, size, "message", (void **)&l, &e) != WEIR_OK) {
    w->deaf = true;
    w->fail = e;
    pthread_cond_signal(&w->news);
    return;
  }
  l->bytes = ev->bytes;
  memcpy(l->data, ev->data, ev->bytes);
  if (kind == WEIR_TP_STEP && w->asleep && w->job == NO_JOB && !w->first && start_step(w, l, &e) == WEIR_OK)
    return;
  *w->last = l; /* a step that cannot start too: the loop says why */
  w->last = &l->next;
  pthread_cond_signal(&w->news);
}

static void on_event(void *ctx, const weir_crew_event *ev) {
  worker *w = ctx;
  pthread_mutex_lock(&w->lock);
  if (ev->kind == WEIR_CREW_JOINED) {
    w->here = w->greet = true;
    snprintf(w->who, sizeof w->who, "%s", ev->who);
  } else if (ev->kind == WEIR_CREW_LOST) {
    /* Who was not here cannot go: it has refused this worker (comm/crew.h). */
    if (!w->here) w->refused = true;
    drop_letters(w, UINT64_MAX);
    w->here = w->greet = false;
    w->gone = true;
    snprintf(w->why, sizeof w->why, "%s", ev->why);
  } else {
    on_said(w, ev);
  }
  if (ev->kind != WEIR_CREW_MESSAGE) pthread_cond_signal(&w->news);
  pthread_mutex_unlock(&w->lock);
}

static void on_fail(void *ctx, int32_t i, const weir_err *err) {
  worker *w = ctx;
  (void)i; /* the error names it */
  pthread_mutex_lock(&w->lock);
  w->failed = true;
  w->fail = *err;
  pthread_cond_signal(&w->news);
  pthread_mutex_unlock(&w->lock);
}

static void on_done(void *ctx, weir_status st) {
  worker *w = ctx;
  pthread_mutex_lock(&w->lock);
  if (w->asleep && w->job == STEP && st == WEIR_OK && !w->first) {
    w->job = NO_JOB;
    free(w->step);
    w->step = NULL;
  } else {
    w->done = true;
    w->job_st = st;
    pthread_cond_signal(&w->news);
  }
  pthread_mutex_unlock(&w->lock);
}

/* ---- the loop's thread: the group ---- */

static weir_status start_job(worker *w, job j, weir_status st) {
  if (st == WEIR_OK) w->job = j;
  return st;
}

static void leave(worker *w) {
  w->broken = w->in_group = false;
  w->broken_ns = weir_monotonic_ns();
  (void)start_job(w, LEAVE, weir_tp_ranks_leave(&w->ranks, NULL)); /* the team is idle */
}

/* The group is over: who is inside comes back, then it is left. */
static void break_group(worker *w, const char *why) {
  if (!w->has_ranks || w->group == 0) return;
  if (w->job != LOAD && w->job != CLEAR && w->job != LEAVE) weir_tp_ranks_abort(&w->ranks, why);
  if (w->in_group) tell(w, "the group is over: %s", why);
  w->in_group = false;
  w->group = 0;
  w->broken = true;
  w->broken_ns = weir_monotonic_ns();
  if (w->job == NO_JOB) leave(w);
}

static void rank_failed(worker *w, const char *why) {
  if (w->job == LOAD || w->job == CLEAR) return; /* it is told when the job is done */
  const uint64_t group = w->group;
  if (group == 0) return;
  say_failed(w, group, why);
  break_group(w, why);
}

/* ---- what the leader says ---- */

static bool same_plan(const weir_tp_plan *a, const weir_tp_plan *b) {
  return a->n_nodes == b->n_nodes && a->n_local == b->n_local && a->n_ctx == b->n_ctx &&
         a->max_tokens == b->max_tokens && a->max_seqs == b->max_seqs && a->n_valid == b->n_valid &&
         a->kv_dtype == b->kv_dtype;
}

static void drop_ranks(worker *w) {
  if (w->has_ranks && !weir_tp_ranks_fini(&w->ranks) && w->o->left) *w->o->left = true;
  w->has_ranks = w->loaded = false;
  free(w->ask);
  w->ask = NULL;
}

static weir_status make_ranks(worker *w, const weir_tp_msg *m, weir_err *e) {
  const weir_tp_worker_opts *o = w->o;
  const weir_tp_team_opts team = {.n = o->n_local, .on_fail = on_fail, .on_done = on_done, .ctx = w};
  weir_status st = WEIR_OK;
  w->ranks = (weir_tp_ranks){.plan = m->plan,
                             .first = o->node * o->n_local,
                             .host = o->host,
                             .bound_ns = m->bound_ns,
                             .file = o->file,
                             .h = o->h};
  WEIR_TRY(WEIR_NEW((size_t)m->plan.max_tokens, &w->ask, e));
  WEIR_TRY(weir_tp_ranks_init(&w->ranks, &team, e));
  w->has_ranks = true;
  for (int32_t i = 0; i < o->n_local; i++) w->ranks.rank[i].dev = o->dev[i];
  tell(w, "loading the parts of ranks %d to %d of %d", w->ranks.first, w->ranks.first + o->n_local - 1,
       w->ranks.n_ranks);
  w->percent = 0;
  WEIR_TRY(start_job(w, LOAD, weir_tp_ranks_load(&w->ranks, e)));
out:
  if (st != WEIR_OK) drop_ranks(w);
  return st;
}

/* A leader with the numbers of the last one finds weights that are loaded. */
static weir_status on_plan(worker *w, const weir_tp_msg *m, weir_err *e) {
  const weir_tp_worker_opts *o = w->o;
  if (m->plan.n_nodes != o->n_nodes || m->plan.n_local != o->n_local)
    return weir_fail(e, WEIR_EINVAL, "the leader has %d nodes of %d ranks, here it is %d of %d",
                     m->plan.n_nodes, m->plan.n_local, o->n_nodes, o->n_local);
  w->planned = true;
  if (w->loaded && same_plan(&w->ranks.plan, &m->plan)) {
    w->ranks.plan = m->plan;
    w->ranks.bound_ns = m->bound_ns;
    return start_job(w, CLEAR, weir_tp_ranks_clear(&w->ranks, e));
  }
  drop_ranks(w);
  return make_ranks(w, m, e);
}

static void say_loaded(worker *w) {
  weir_tp_msg m = {.kind = WEIR_TP_LOADED, .room = -1};
  int64_t most = 0;
  for (int32_t i = 0; i < w->ranks.n; i++) {
    const weir_instance *x = w->ranks.rank[i].instance;
    const int64_t bytes = weir_kvstore_token_bytes(&x->h, x->kv_dtype);
    if (bytes > most) most = bytes;
  }
  if (w->o->room) m.room = w->o->room(w->o->ctx, most);
  if (m.room < -1) m.room = 0;
  w->loaded = true;
  if (!w->planned) return; /* the leader that wanted them is gone; another one's plan comes */
  if (m.room < 0)
    tell(w, "weights are loaded; waiting for the group");
  else
    tell(w, "weights are loaded, room for %" PRId64 " tokens of KV; waiting for the group", m.room);
  say(w, &m);
}

static void on_seats(worker *w, const weir_tp_msg *m) {
  weir_err e = {0};
  if (!w->loaded) {
    say_failed(w, m->group, "weights are not loaded");
    return;
  }
  w->group = m->group;
  w->number = 0;
  const weir_instance *x = w->ranks.rank[0].instance;
  w->limits = (weir_exec_info){.n_vocab = w->o->h->n_vocab,
                               .n_ctx = x->n_ctx,
                               .n_pages = m->n_pages,
                               .max_tokens = x->max_tokens,
                               .max_seqs = x->max_seqs};
  if (start_job(w, SEAT, weir_tp_ranks_seat(&w->ranks, m->n_pages, &e)) != WEIR_OK) rank_failed(w, e.msg);
}

static void on_invite(worker *w, const weir_tp_msg *m) {
  weir_err e = {0};
  if (m->group != w->group) return; /* of one that is over */
  if (start_job(w, JOIN, weir_tp_ranks_join(&w->ranks, m->invite, &e)) != WEIR_OK) rank_failed(w, e.msg);
}

/* Takes the letter when the ranks work from it. */
static bool on_step(worker *w, letter *l) {
  weir_err e = {0};
  if (!w->in_group) return false; /* the step of a group that is over */
  if (start_step(w, l, &e) == WEIR_OK) return true;
  rank_failed(w, e.msg);
  return false;
}

/* WEIR_OK, or what ends the worker. */
static weir_status on_letter(worker *w, letter *l, weir_err *e) {
  weir_tp_kind kind = WEIR_TP_HELLO;
  weir_tp_msg m;
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_tp_wire_kind(l->data, l->bytes, &kind, e));
  if (kind == WEIR_TP_STEP) {
    if (on_step(w, l)) l = NULL;
    goto out;
  }
  WEIR_TRY(weir_tp_msg_get(l->data, l->bytes, &m, e));
  if (kind == WEIR_TP_PLAN) {
    WEIR_TRY(on_plan(w, &m, e));
  } else if (kind == WEIR_TP_REFUSED) {
    WEIR_TRY(weir_fail(e, WEIR_EINVAL, "the leader refuses this worker: %s", m.why));
  } else if (kind == WEIR_TP_SEATS) {
    on_seats(w, &m);
  } else if (kind == WEIR_TP_INVITE) {
    on_invite(w, &m);
  } else {
    WEIR_TRY(weir_fail(e, WEIR_EFORMAT, "the leader says what only a worker says (%d)", (int)kind));
  }
out:
  free(l);
  return st;
}

/* ---- jobs that are done ---- */

static void say_offers(worker *w) {
  weir_tp_msg m = {.kind = WEIR_TP_OFFERS, .group = w->group, .n_offers = w->ranks.n};
  for (int32_t i = 0; i < w->ranks.n; i++)
    snprintf(m.offer[i], sizeof m.offer[i], "%s", weir_comm_seat_offer(w->ranks.rank[i].seat));
  say(w, &m);
}

static weir_status on_job(worker *w, job was, weir_status job_st, const weir_err *fail, weir_err *e) {
  w->job = NO_JOB;
  free(w->step);
  w->step = NULL;
  if (was == LOAD || was == CLEAR) {
    if (job_st != WEIR_OK) {
      say_failed(w, 0, fail->msg);
      return weir_fail(e, job_st, "%s", fail->msg);
    }
    say_loaded(w);
  } else if (was == SEAT && job_st == WEIR_OK && w->group > 0) {
    say_offers(w);
  } else if (was == JOIN && job_st == WEIR_OK && w->group > 0) {
    const weir_tp_msg m = {.kind = WEIR_TP_READY, .group = w->group};
    w->in_group = true;
    tell(w, "in the group, with ranks %d to %d of %d", w->ranks.first, w->ranks.first + w->ranks.n - 1,
         w->ranks.n_ranks);
    say(w, &m);
  } else if (was == LEAVE && job_st != WEIR_OK) {
    return weir_fail(e, job_st, "%s; that takes a new process", fail->msg);
  }
  if (w->broken) leave(w);
  return WEIR_OK;
}

static void report_progress(worker *w) {
  const int64_t now = weir_monotonic_ns();
  const int32_t percent = weir_tp_ranks_percent(&w->ranks);
  if (w->job != LOAD || percent == w->percent || now - w->progress_ns < PROGRESS_NS) return;
  const weir_tp_msg m = {.kind = WEIR_TP_PROGRESS, .percent = percent};
  w->percent = percent;
  w->progress_ns = now;
  say(w, &m);
  if (now - w->told_ns < TELL_NS) return;
  w->told_ns = now;
  tell(w, "loaded %d %%", percent);
}

/* ---- the loop ---- */

/* What happened since the last look. */
typedef struct news {
  bool greet, refused, gone, deaf, over, failed, done;
  weir_status job_st;
  weir_err fail;
  char why[WEIR_TP_WHY_BYTES], who[WEIR_CREW_WHO_BYTES];
} news;

static int sleep_until(worker *w, const struct timespec *at) {
  w->asleep = true;
  const int late = pthread_cond_timedwait(&w->news, &w->lock, at);
  w->asleep = false;
  return late;
}

static void await_news(worker *w, news *n) {
  const int64_t until = weir_monotonic_ns() + LOOK_NS;
  const struct timespec at = {.tv_sec = (time_t)(until / SECOND), .tv_nsec = (long)(until % SECOND)};
  pthread_mutex_lock(&w->lock);
  for (int late = 0; late == 0 && !w->greet && !w->refused && !w->gone && !w->deaf && !w->over &&
                     !w->failed && !w->done && (w->job != NO_JOB || !w->first);)
    late = sleep_until(w, &at);
  *n = (news){.greet = w->greet,
              .refused = w->refused,
              .gone = w->gone,
              .deaf = w->deaf,
              .over = w->group > 0 && w->over >= w->group,
              .failed = w->failed,
              .done = w->done,
              .job_st = w->job_st,
              .fail = w->fail};
  memcpy(n->why, w->why, sizeof n->why);
  memcpy(n->who, w->who, sizeof n->who);
  w->greet = w->gone = w->failed = w->done = false;
  w->over = 0;
  pthread_mutex_unlock(&w->lock);
}

/* NULL: nothing, or it has to wait. */
static letter *take_letter(worker *w) {
  if (w->job != NO_JOB) return NULL;
  pthread_mutex_lock(&w->lock);
  letter *l = w->first;
  if (l) w->first = l->next;
  if (!w->first) w->last = &w->first;
  pthread_mutex_unlock(&w->lock);
  return l;
}

/* A rank that has waited for all others, and then does not come back, keeps nobody waiting yet. */
static void watch_step(worker *w) {
  char why[96];
  int32_t i = 0;
  if (w->job != STEP || w->group == 0 || !weir_tp_team_late(w->ranks.team, w->ranks.bound_ns, &i)) return;
  snprintf(why, sizeof why, "rank %d has not come back from its device for %.1f s", w->ranks.first + i,
           (double)w->ranks.bound_ns / (double)SECOND);
  rank_failed(w, why);
}

/* Ranks that do not come back from a group that is over, or do not get out of it, will be in no other: a new
 * process has to take their place. */
static weir_status check_stuck(worker *w, weir_err *e) {
  const int64_t limit = 2 * w->ranks.bound_ns + (w->job == SEAT ? KV_NS : 0);
  if (!(w->broken || w->job == LEAVE) || w->job == NO_JOB || weir_monotonic_ns() - w->broken_ns < limit)
    return WEIR_OK;
  w->bound_ns = 0; /* it was waited for */
  return weir_fail(e, WEIR_EDEVICE, "a rank does not come back from its device");
}

static weir_status turn(worker *w, weir_err *e) {
  news n;
  weir_status st = WEIR_OK;
  await_news(w, &n);
  if (n.refused) WEIR_TRY(weir_fail(e, WEIR_EINVAL, "the leader refuses this worker: %s", n.why));
  if (n.deaf) WEIR_TRY(weir_fail(e, WEIR_ENOMEM, "%s", n.fail.msg));
  if (n.failed) rank_failed(w, n.fail.msg);
  watch_step(w);
  if (n.gone) {
    tell(w, "the leader is gone: %s%s", n.why, w->loaded ? "; weights are kept" : "");
    break_group(w, n.why);
  } else if (n.over) {
    break_group(w, n.why);
  }
  if (n.done) WEIR_TRY(on_job(w, w->job, n.job_st, &n.fail, e));
  if (n.greet) {
    const weir_tp_msg m = {
        .kind = WEIR_TP_HELLO, .model = w->model, .n_nodes = w->o->n_nodes, .n_local = w->o->n_local};
    tell(w, "joined %s", n.who);
    w->planned = false;
    say(w, &m);
  }
  letter *l = take_letter(w);
  if (l) WEIR_TRY(on_letter(w, l, e));
  if (w->job == LOAD) report_progress(w);
  WEIR_TRY(check_stuck(w, e));
out:
  return st;
}

static void init_locks(worker *w) {
  pthread_condattr_t attr;
  pthread_condattr_init(&attr); /* none of these can fail */
  pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  pthread_mutex_init(&w->lock, NULL);
  pthread_cond_init(&w->news, &attr);
  pthread_condattr_destroy(&attr);
}

/* The ranks come back, or are left behind; what they looked at then stays too. */
static void finish(worker *w) {
  const int64_t until = weir_monotonic_ns() + w->bound_ns;
  const struct timespec at = {.tv_sec = (time_t)(until / SECOND), .tv_nsec = (long)(until % SECOND)};
  weir_crew_close(w->crew);
  if (w->has_ranks) weir_tp_ranks_abort(&w->ranks, "the worker is stopped");
  pthread_mutex_lock(&w->lock);
  for (int late = 0; late == 0 && w->job != NO_JOB && !w->done;)
    late = pthread_cond_timedwait(&w->news, &w->lock, &at);
  const bool back = w->job == NO_JOB || w->done;
  pthread_mutex_unlock(&w->lock);
  if (back && (!w->has_ranks || weir_tp_ranks_fini(&w->ranks))) {
    drop_letters(w, UINT64_MAX);
    pthread_cond_destroy(&w->news);
    pthread_mutex_destroy(&w->lock);
    free(w->step);
    free(w->ask);
    free(w);
  } else {
    weir_log(WEIR_LOG_ERROR, "a rank does not come back; its thread is left behind");
    if (w->o->left) *w->o->left = true;
  }
}

weir_status weir_tp_worker_run(const weir_tp_worker_opts *o, weir_err *e) {
  weir_status st = WEIR_OK;
  worker *w = NULL;
  if (o->n_nodes < 2 || o->node < 1 || o->node >= o->n_nodes || o->n_local < 1 ||
      (int64_t)o->n_nodes * o->n_local > WEIR_MAX_RANKS)
    return weir_fail(e, WEIR_EINVAL,
                     "node %d of %d with %d ranks; want a node of 1 to %d, at most %d ranks in all", o->node,
                     o->n_nodes, o->n_local, o->n_nodes - 1, WEIR_MAX_RANKS);
  WEIR_TRY(WEIR_NEW(1, &w, e));
  init_locks(w);
  w->o = o;
  w->last = &w->first;
  w->bound_ns = o->bound_ns > 0 ? o->bound_ns : BOUND_NS;
  WEIR_TRY(weir_tp_fingerprint(o->file, o->h, &w->model, e));
  const weir_crew_opts c = {.addr = o->addr,
                            .node = o->node,
                            .n_nodes = o->n_nodes,
                            .token = o->token,
                            .version = o->version,
                            .bound_ns = w->bound_ns / 2,
                            .on_event = on_event,
                            .ctx = w};
  WEIR_TRY(weir_crew_open(&c, &w->crew, e));
  tell(w, "waiting for the leader at %s", o->addr);
  while (st == WEIR_OK && !(o->stop && o->stop(o->ctx))) st = turn(w, e);
out:
  if (w) finish(w);
  return st;
}
