/* SPDX-License-Identifier: Apache-2.0 */
/* Groups: how one forms, ends, and forms again. After the start the keeper alone does this: it sleeps while
 * the group lives, and is woken by whoever notes that it is over. The order of an end: all local ranks and
 * all workers are told, the step under way gets the reason, the ranks come back and leave. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "run/tp_in.h"

#define SECOND       INT64_C(1000000000)
#define KV_NS        (60 * SECOND) /* for a worker to take its KV; tens of gigabytes are cleared */
#define BETTER_NS    (SECOND / 10) /* for a worker to say what only it knows */
#define PAUSE_MIN_NS (SECOND / 10) /* between attempts to make a group: from this ... */
#define PAUSE_MAX_NS (5 * SECOND)  /* ... to this */
#define TELL_NS      (10 * SECOND) /* between lines that say what is waited for */

void weir_tp_rank_failed(void *ctx, int32_t i, const weir_err *err) {
  weir_tp *tp = ctx;
  (void)i; /* the error names it */
  pthread_mutex_lock(&tp->lock);
  tp->job_err = *err;
  weir_tp_blame_group(tp, WEIR_TP_RANK_SAYS, "%s", err->msg);
  pthread_mutex_unlock(&tp->lock);
}

void weir_tp_job_done(void *ctx, weir_status st) {
  weir_tp *tp = ctx;
  weir_comm_stats sum = tp->ranks.rank[0].done;
  sum.calls += tp->ranks.rank[0].now.calls;
  sum.bytes += tp->ranks.rank[0].now.bytes;
  sum.ns += tp->ranks.rank[0].now.ns;
  pthread_mutex_lock(&tp->lock);
  const bool is_step = tp->step == WEIR_TP_RUNNING && st == WEIR_OK;
  tp->stats.comm = sum;
  tp->job_st = st;
  tp->busy = false;
  if (is_step) {
    tp->ok = true;
    tp->step = WEIR_TP_DONE;
    tp->pause_ns = 0;
    pthread_cond_broadcast(&tp->finished);
  }
  if (!is_step || tp->blame != WEIR_TP_NO_BLAME) pthread_cond_broadcast(&tp->changed);
  pthread_mutex_unlock(&tp->lock);
  if (is_step) weir_tp_notify(tp);
}

/* All below: with the lock held, which is given up while others are called. */

/* Whether the ranks came back before that time; 0: whenever they do. */
static bool await_ranks(weir_tp *tp, int64_t until) {
  while (tp->busy) {
    const bool early = weir_tp_wait(tp, until > 0 ? until : weir_monotonic_ns() + SECOND);
    if (!early && until > 0) break;
  }
  return !tp->busy;
}

/* ---- the end ---- */

static void publish_end(weir_tp *tp) {
  const bool fails = tp->step == WEIR_TP_RUNNING;
  const weir_err why = tp->why;
  if (fails) {
    tp->ok = false;
    tp->step_why = why;
    tp->step = WEIR_TP_DONE;
    pthread_cond_broadcast(&tp->finished);
  }
  const bool died = tp->alive && !tp->quit;
  tp->open = tp->alive = false;
  pthread_mutex_unlock(&tp->lock);
  if (died) weir_log(WEIR_LOG_ERROR, "%s; the ranks are gathered again", why.msg);
  if (died || fails) weir_tp_notify(tp);
  pthread_mutex_lock(&tp->lock);
}

/* The step under way fails before its ranks are back: they look at nothing of the caller's. */
static void end_group(weir_tp *tp) {
  const int64_t better = weir_monotonic_ns() + BETTER_NS;
  weir_tp_msg m = {.kind = WEIR_TP_ABORT, .group = tp->group};
  snprintf(m.why, sizeof m.why, "%.*s", (int)sizeof m.why - 1, tp->why.msg);
  pthread_mutex_unlock(&tp->lock);
  weir_tp_ranks_abort(&tp->ranks, m.why);
  if (tp->crew) weir_tp_tell_all(tp, &m);
  pthread_mutex_lock(&tp->lock);
  /* Who waited for a rank only knows that it did not come. */
  while (tp->plan.n_nodes > 1 && tp->blame == WEIR_TP_RANK_SAYS && weir_tp_wait(tp, better)) {
  }
  publish_end(tp);
  tp->blame = WEIR_TP_NO_BLAME;
  if (!await_ranks(tp, weir_monotonic_ns() + tp->bound_ns)) return;
  tp->busy = true;
  pthread_mutex_unlock(&tp->lock);
  (void)weir_tp_ranks_leave(&tp->ranks, NULL); /* the team is idle */
  pthread_mutex_lock(&tp->lock);
  await_ranks(tp, weir_monotonic_ns() + tp->bound_ns);
}

/* ---- the beginning ---- */

static bool all_offered(const weir_tp *tp) {
  for (int32_t i = 1; i < tp->plan.n_nodes; i++)
    if (!tp->node[i].offered) return false;
  return true;
}
static bool all_ready(const weir_tp *tp) {
  for (int32_t i = 1; i < tp->plan.n_nodes; i++)
    if (!tp->node[i].ready) return false;
  return true;
}

/* Waits for this node's ranks and for the workers; blames the group when it is over before. */
static bool await_all(weir_tp *tp, bool (*all)(const weir_tp *), int64_t until, const char *what) {
  while (tp->blame == WEIR_TP_NO_BLAME && !tp->quit && (tp->busy || !all(tp)))
    if (!weir_tp_wait(tp, until)) break;
  if (tp->blame == WEIR_TP_NO_BLAME && (tp->busy || !all(tp))) {
    char ranks[WEIR_CREW_WHO_BYTES + 64] = "a rank of this node";
    for (int32_t i = tp->plan.n_nodes - 1; i > 0; i--)
      if (!(all == all_offered ? tp->node[i].offered : tp->node[i].ready))
        weir_tp_ranks_of(tp, i, ranks, sizeof ranks);
    weir_tp_blame_group(tp, WEIR_TP_RANK_SAYS, "%s has not %s", ranks, tp->quit ? "come: stopped" : what);
  }
  return tp->blame == WEIR_TP_NO_BLAME;
}

static weir_status invite(weir_tp *tp, char out[WEIR_COMM_INVITE_BYTES], weir_err *e) {
  const weir_tp_plan *p = &tp->plan;
  const char *offer[WEIR_MAX_RANKS];
  for (int32_t node = 0; node < p->n_nodes; node++)
    for (int32_t i = 0; i < p->n_local; i++)
      offer[node * p->n_local + i] =
          node == 0 ? weir_comm_seat_offer(tp->ranks.rank[i].seat) : tp->node[node].offer[i];
  return weir_comm_invite(p->comm, p->n_nodes * p->n_local, offer, out, e);
}

/* The offers of workers are written no more once all have come; a late one would be of another group. */
static bool form(weir_tp *tp) {
  weir_tp_msg m = {.kind = WEIR_TP_SEATS, .group = ++tp->group, .n_pages = tp->base.info.n_pages};
  weir_err e = {0};
  weir_status st;
  tp->open = true;
  tp->blame = WEIR_TP_NO_BLAME;
  tp->n_steps = 0;
  for (int32_t i = 1; i < tp->plan.n_nodes; i++)
    if (!tp->node[i].loaded) { /* it went after it was waited for */
      char ranks[WEIR_CREW_WHO_BYTES + 64];
      weir_tp_ranks_of(tp, i, ranks, sizeof ranks);
      weir_tp_blame_group(tp, WEIR_TP_WORKER_LOST, "%s: it is gone, or has not loaded", ranks);
      return false;
    }
  tp->busy = true;
  for (int32_t i = 1; i < tp->plan.n_nodes; i++) tp->node[i].offered = tp->node[i].ready = false;
  pthread_mutex_unlock(&tp->lock);
  if (tp->crew) weir_tp_tell_all(tp, &m);
  (void)weir_tp_ranks_seat(&tp->ranks, m.n_pages, NULL); /* the team is idle */
  pthread_mutex_lock(&tp->lock);
  if (!await_all(tp, all_offered, weir_monotonic_ns() + tp->bound_ns + KV_NS, "taken its seats"))
    return false;
  if (tp->plan.n_nodes * tp->plan.n_local == 1) return true;

  m.kind = WEIR_TP_INVITE;
  pthread_mutex_unlock(&tp->lock);
  st = invite(tp, m.invite, &e);
  pthread_mutex_lock(&tp->lock);
  if (st != WEIR_OK) weir_tp_blame_group(tp, WEIR_TP_RANK_SAYS, "%s", e.msg);
  if (tp->blame != WEIR_TP_NO_BLAME) return false;
  tp->busy = true;
  pthread_mutex_unlock(&tp->lock);
  if (tp->crew) weir_tp_tell_all(tp, &m);
  (void)weir_tp_ranks_join(&tp->ranks, m.invite, NULL);
  pthread_mutex_lock(&tp->lock);
  return await_all(tp, all_ready, weir_monotonic_ns() + tp->bound_ns * 3 / 2, "joined");
}

weir_status weir_tp_form(weir_tp *tp, weir_err *e) {
  if (!form(tp)) {
    end_group(tp);
    if (e) *e = tp->why;
    return tp->why.code;
  }
  const int64_t now = weir_monotonic_ns();
  tp->alive = true;
  tp->life++;
  tp->stats.groups++;
  tp->stats.last_dead_ns = tp->died_ns > 0 ? now - tp->died_ns : 0;
  tp->died_ns = 0;
  tp->waits[0] = '\0';
  return WEIR_OK;
}

/* ---- the keeper ---- */

/* Waits for what a new group needs: ranks that are back, workers with their weights. */
static void await_workers(weir_tp *tp) {
  char line[sizeof tp->waits] = "";
  int64_t told = 0;
  while (!tp->quit && (tp->busy || !weir_tp_all_loaded(tp))) {
    const bool stuck = tp->busy;
    pthread_mutex_unlock(&tp->lock);
    if (stuck)
      snprintf(line, sizeof line, "a rank of this node does not come back from its device");
    else
      weir_tp_progress(tp, line, sizeof line);
    const int64_t now = weir_monotonic_ns();
    if (line[0] && (told == 0 || now - told >= TELL_NS)) {
      weir_log(WEIR_LOG_WARN, "%s: waiting: %s", tp->name, line);
      told = now;
    }
    pthread_mutex_lock(&tp->lock);
    memcpy(tp->waits, line, sizeof tp->waits);
    if (!tp->quit && (tp->busy || !weir_tp_all_loaded(tp))) weir_tp_wait(tp, now + TELL_NS);
  }
  tp->waits[0] = '\0';
}

static void revive(weir_tp *tp) {
  await_workers(tp);
  for (const int64_t until = weir_monotonic_ns() + tp->pause_ns; !tp->quit;)
    if (!weir_tp_wait(tp, until)) break;
  if (tp->quit || tp->busy || !weir_tp_all_loaded(tp)) return;
  /* A group that lives but for a moment is as good as none: the pause grows until a step went well. */
  tp->pause_ns = tp->pause_ns * 2 < PAUSE_MIN_NS ? PAUSE_MIN_NS : tp->pause_ns * 2;
  if (tp->pause_ns > PAUSE_MAX_NS) tp->pause_ns = PAUSE_MAX_NS;
  const bool lives = weir_tp_form(tp, NULL) == WEIR_OK;
  const int64_t dead_ns = tp->stats.last_dead_ns;
  const weir_err why = tp->why;
  const bool quit = tp->quit;
  pthread_mutex_unlock(&tp->lock);
  if (lives) {
    weir_log(WEIR_LOG_INFO, "%s: lives again after %.1f s", tp->name, (double)dead_ns / (double)SECOND);
    weir_tp_notify(tp);
  } else if (!quit) {
    weir_log(WEIR_LOG_WARN, "%s; trying again", why.msg);
  }
  pthread_mutex_lock(&tp->lock);
}

/* Sleeps while the group lives. A rank that has waited for all others, and then does not come back from its
 * device, keeps nobody waiting but us. */
static void watch(weir_tp *tp) {
  int32_t i = 0;
  if (tp->step == WEIR_TP_RUNNING && weir_tp_team_late(tp->ranks.team, tp->bound_ns, &i))
    weir_tp_blame_group(tp, WEIR_TP_RANK_SAYS, "rank %d has not come back from its device for %.1f s", i,
                        (double)tp->bound_ns / (double)SECOND);
  else
    weir_tp_wait(tp, weir_monotonic_ns() + tp->bound_ns / 4);
}

static void *keep(void *arg) {
  weir_tp *tp = arg;
  pthread_mutex_lock(&tp->lock);
  while (!tp->quit) {
    if (tp->blame != WEIR_TP_NO_BLAME)
      end_group(tp);
    else if (tp->alive)
      watch(tp);
    else
      revive(tp);
  }
  weir_tp_blame_group(tp, WEIR_TP_RANK_SAYS, "the executor is destroyed");
  if (tp->alive) end_group(tp);
  pthread_mutex_unlock(&tp->lock);
  return NULL;
}

weir_status weir_tp_keep(weir_tp *tp, weir_err *e) {
  const int failed = pthread_create(&tp->keeper, NULL, keep, tp);
  if (failed) return weir_fail(e, WEIR_EIO, "%s: start a thread: %s", tp->name, strerror(failed));
  tp->kept = true;
  return WEIR_OK;
}
