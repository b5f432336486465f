/* SPDX-License-Identifier: Apache-2.0 */
/* The leader's beginning: it is created, listens, and gathers its workers. Owns the crew; what workers say is
 * written down here, from the crew's thread. */
#include "run/tp.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "run/tp_in.h"

#define SECOND   INT64_C(1000000000)
#define LOOK_NS  (SECOND / 10) /* between looks at `stop` */
#define TELL_NS  (2 * SECOND)  /* between lines that say the same */
#define BOUND_NS (10 * SECOND)

bool weir_tp_wait(weir_tp *tp, int64_t until_ns) {
  const struct timespec until = {.tv_sec = (time_t)(until_ns / SECOND), .tv_nsec = (long)(until_ns % SECOND)};
  pthread_cond_timedwait(&tp->changed, &tp->lock, &until);
  return weir_monotonic_ns() < until_ns;
}

void weir_tp_notify(weir_tp *tp) {
  pthread_mutex_lock(&tp->notify_lock);
  if (tp->fn) tp->fn(tp->ctx);
  pthread_mutex_unlock(&tp->notify_lock);
}

void weir_tp_ranks_of(const weir_tp *tp, int32_t node, char *out, size_t cap) {
  const int32_t n = tp->plan.n_local, first = node * n;
  const char *who = tp->node[node].who;
  if (n == 1)
    snprintf(out, cap, "rank %d on %s", first, who);
  else
    snprintf(out, cap, "ranks %d to %d on %s", first, first + n - 1, who);
}

void weir_tp_blame_group(weir_tp *tp, weir_tp_blame blame, const char *fmt, ...) {
  char text[WEIR_TP_WHY_BYTES];
  va_list a;
  if (!tp->open || blame <= tp->blame) return;
  va_start(a, fmt);
  vsnprintf(text, sizeof text, fmt, a);
  va_end(a);
  weir_fail(&tp->why, WEIR_EDEVICE, "%s: %s", tp->name, text);
  if (tp->blame == WEIR_TP_NO_BLAME && tp->alive) tp->died_ns = weir_monotonic_ns();
  tp->blame = blame;
  pthread_cond_broadcast(&tp->changed);
}

/* ---- to the workers ---- */

weir_status weir_tp_tell(weir_tp *tp, int32_t node, const weir_tp_msg *m, weir_err *e) {
  weir_buf b = {0};
  weir_status st = weir_tp_msg_put(m, &b, e);
  if (st == WEIR_OK) st = weir_crew_send(tp->crew, node, b.data, b.len, e);
  weir_buf_fini(&b);
  return st;
}

void weir_tp_tell_all(weir_tp *tp, const weir_tp_msg *m) {
  /* Who is not here hears nothing, and is known not to be here. */
  for (int32_t i = 1; i < tp->plan.n_nodes; i++) (void)weir_tp_tell(tp, i, m, NULL);
}

/* Answers who has said HELLO: it may have been before the crew was open here. */
static void answer(weir_tp *tp) {
  for (int32_t i = 1; i < tp->plan.n_nodes; i++) {
    weir_tp_msg m = {.kind = WEIR_TP_PLAN, .plan = tp->plan, .bound_ns = tp->bound_ns};
    pthread_mutex_lock(&tp->lock);
    weir_tp_node *n = &tp->node[i];
    const bool owed = n->owed && tp->crew;
    if (owed && n->refused) {
      m.kind = WEIR_TP_REFUSED;
      snprintf(m.why, sizeof m.why, "%s", n->why);
    }
    if (owed) n->owed = false;
    pthread_mutex_unlock(&tp->lock);
    if (owed) (void)weir_tp_tell(tp, i, &m, NULL);
  }
}

/* ---- from the workers: the crew's thread, with the lock held ---- */

static void refuse(weir_tp *tp, int32_t node, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void refuse(weir_tp *tp, int32_t node, const char *fmt, ...) {
  weir_tp_node *n = &tp->node[node];
  va_list a;
  va_start(a, fmt);
  vsnprintf(n->why, sizeof n->why, fmt, a);
  va_end(a);
  n->refused = n->owed = true;
}

static void on_hello(weir_tp *tp, int32_t node, const weir_tp_msg *m) {
  const weir_tp_plan *p = &tp->plan;
  weir_tp_node *n = &tp->node[node];
  if (m->n_nodes != p->n_nodes || m->n_local != p->n_local)
    refuse(tp, node, "it has %d ranks and says there are %d nodes; here it is %d nodes of %d ranks",
           m->n_local, m->n_nodes, p->n_nodes, p->n_local);
  else if (m->model != tp->model)
    refuse(tp, node, "it has another model: %016" PRIx64 ", here it is %016" PRIx64, m->model, tp->model);
  else
    n->owed = true;
}

static void on_failed(weir_tp *tp, int32_t node, const weir_tp_msg *m) {
  weir_tp_node *n = &tp->node[node];
  if (m->group == 0) { /* it could not load, and will not come again by itself */
    snprintf(n->why, sizeof n->why, "%s", m->why);
    n->refused = true;
  } else if (m->group == tp->group) {
    weir_tp_blame_group(tp, WEIR_TP_WORKER_SAYS, "%s: %s", n->who, m->why);
  }
}

static void on_offers(weir_tp *tp, weir_tp_node *n, const weir_tp_msg *m) {
  if (m->group != tp->group || m->n_offers != tp->plan.n_local) return;
  memcpy(n->offer, m->offer, (size_t)m->n_offers * sizeof *n->offer);
  n->offered = true;
}

static void on_message(weir_tp *tp, const weir_crew_event *ev, const weir_tp_msg *m) {
  weir_tp_node *n = &tp->node[ev->node];
  switch (m->kind) {
    case WEIR_TP_HELLO: on_hello(tp, ev->node, m); break;
    case WEIR_TP_PROGRESS: n->percent = m->percent; break;
    case WEIR_TP_LOADED:
      n->room = m->room;
      n->loaded = !n->refused;
      break;
    case WEIR_TP_OFFERS: on_offers(tp, n, m); break;
    case WEIR_TP_READY: n->ready = n->ready || m->group == tp->group; break;
    case WEIR_TP_FAILED: on_failed(tp, ev->node, m); break;
    case WEIR_TP_PLAN:
    case WEIR_TP_REFUSED:
    case WEIR_TP_SEATS:
    case WEIR_TP_INVITE:
    case WEIR_TP_ABORT:
    case WEIR_TP_STEP: refuse(tp, ev->node, "it says what only the leader says (%d)", m->kind); break;
  }
}

static void on_gone(weir_tp *tp, int32_t node, const char *why) {
  weir_tp_node *n = &tp->node[node];
  char ranks[WEIR_CREW_WHO_BYTES + 64];
  weir_tp_ranks_of(tp, node, ranks, sizeof ranks);
  weir_tp_blame_group(tp, WEIR_TP_WORKER_LOST, "%s: %s", ranks, why);
  n->here = n->loaded = n->owed = n->offered = n->ready = false;
}

static void on_event(void *ctx, const weir_crew_event *ev) {
  weir_tp *tp = ctx;
  weir_tp_msg m;
  weir_err e = {0};
  if (ev->node < 1 || ev->node >= tp->plan.n_nodes) return;
  const bool understood =
      ev->kind != WEIR_CREW_MESSAGE || weir_tp_msg_get(ev->data, ev->bytes, &m, &e) == WEIR_OK;
  pthread_mutex_lock(&tp->lock);
  weir_tp_node *n = &tp->node[ev->node];
  if (ev->kind == WEIR_CREW_LOST) {
    on_gone(tp, ev->node, ev->why);
  } else if (ev->kind == WEIR_CREW_JOINED) {
    if (n->here) on_gone(tp, ev->node, "it came again");
    n->here = true;
    n->refused = false;
    n->percent = 0;
    snprintf(n->who, sizeof n->who, "%s", ev->who);
  } else if (understood) {
    on_message(tp, ev, &m);
  } else {
    refuse(tp, ev->node, "%s", e.msg);
  }
  pthread_cond_broadcast(&tp->changed);
  pthread_mutex_unlock(&tp->lock);
  answer(tp);
}

/* ---- gathering ---- */

bool weir_tp_all_loaded(const weir_tp *tp) {
  for (int32_t i = 1; i < tp->plan.n_nodes; i++)
    if (!tp->node[i].loaded) return false;
  return true;
}

void weir_tp_progress(weir_tp *tp, char *out, size_t cap) {
  char missing[400] = "";
  if (tp->crew) weir_crew_missing(tp->crew, missing, sizeof missing);
  size_t n = (size_t)snprintf(out, cap, "%s", missing);
  pthread_mutex_lock(&tp->lock);
  for (int32_t i = 1; i < tp->plan.n_nodes && n < cap; i++) {
    const weir_tp_node *w = &tp->node[i];
    const char *gap = n > 0 ? "; " : "";
    if (!w->here) continue;
    if (w->refused)
      n += (size_t)snprintf(out + n, cap - n, "%s%s is refused: %s", gap, w->who, w->why);
    else if (!w->loaded)
      n += (size_t)snprintf(out + n, cap - n, "%s%s has loaded %d %%", gap, w->who, w->percent);
  }
  pthread_mutex_unlock(&tp->lock);
}

/* A worker that waiting will not mend; with the lock held. */
static weir_status any_refused(const weir_tp *tp, weir_err *e) {
  for (int32_t i = 1; i < tp->plan.n_nodes; i++)
    if (tp->node[i].refused)
      return weir_fail(e, WEIR_EINVAL, "%s: %s: %s", tp->name, tp->node[i].who, tp->node[i].why);
  return WEIR_OK;
}

static int64_t least_room(const weir_tp *tp) {
  int64_t least = -1;
  for (int32_t i = 1; i < tp->plan.n_nodes; i++) {
    const int64_t room = tp->node[i].room;
    if (room >= 0 && (least < 0 || room < least)) least = room;
  }
  return least;
}

weir_status weir_tp_gather(weir_tp *tp, int64_t timeout_ns, void (*tell)(void *ctx, const char *line),
                           bool (*stop)(void *ctx), void *ctx, int64_t *room, weir_err *e) {
  const int64_t until = weir_monotonic_ns() + timeout_ns;
  char line[512] = "", told[512] = "";
  int64_t told_ns = 0;
  weir_status st = WEIR_OK;
  *room = -1;
  for (;;) {
    pthread_mutex_lock(&tp->lock);
    st = any_refused(tp, e);
    const bool all = weir_tp_all_loaded(tp);
    if (all) *room = least_room(tp);
    pthread_mutex_unlock(&tp->lock);
    if (st != WEIR_OK || all) return st;
    weir_tp_progress(tp, line, sizeof line);
    const int64_t now = weir_monotonic_ns();
    if (now >= until)
      return weir_fail(e, WEIR_EDEVICE, "%s: waited %lld s: %s", tp->name, (long long)(timeout_ns / SECOND),
                       line);
    if (stop && stop(ctx)) return weir_fail(e, WEIR_EBUSY, "%s: stopped; %s", tp->name, line);
    if (tell && line[0] && (strcmp(line, told) != 0 || now - told_ns >= TELL_NS)) {
      char full[sizeof line + 16];
      snprintf(full, sizeof full, "waiting: %s", line);
      tell(ctx, full);
      memcpy(told, line, sizeof told);
      told_ns = now;
    }
    pthread_mutex_lock(&tp->lock);
    if (!weir_tp_all_loaded(tp)) weir_tp_wait(tp, now + LOOK_NS < until ? now + LOOK_NS : until);
    pthread_mutex_unlock(&tp->lock);
  }
}

/* ---- the beginning and the end ---- */

/* What stands before the port; nothing of an address that has none. */
static void host_of(const char *addr, char *out, size_t cap) {
  const char *from = strstr(addr, "://"), *colon = strrchr(addr, ':');
  if (strncmp(addr, "ipc:", 4) == 0 || !colon) return;
  from = from ? from + 3 : addr;
  const char *semi = strchr(from, ';'); /* of "interface;address" */
  if (semi) from = semi + 1;
  if (colon > from) snprintf(out, cap, "%.*s", (int)(colon - from), from);
}

static weir_status check_plan(const weir_tp_opts *o, weir_err *e) {
  const weir_tp_plan *p = &o->plan;
  const int64_t ranks = (int64_t)p->n_nodes * p->n_local;
  if (p->n_nodes < 1 || p->n_nodes > WEIR_CREW_MAX_NODES || p->n_local < 1 || ranks > WEIR_MAX_RANKS)
    return weir_fail(e, WEIR_EINVAL, "%d nodes of %d ranks; want at most %d nodes, %d ranks", p->n_nodes,
                     p->n_local, WEIR_CREW_MAX_NODES, WEIR_MAX_RANKS);
  if (p->max_tokens < 1 || p->max_seqs < 1)
    return weir_fail(e, WEIR_EINVAL, "max_tokens %d, max_seqs %d", p->max_tokens, p->max_seqs);
  if (ranks > 1 && p->comm == WEIR_COMM_SELF)
    return weir_fail(e, WEIR_EINVAL, "%lld ranks do not speak over \"%s\"", (long long)ranks,
                     weir_comm_kind_name(p->comm));
  if (p->n_nodes > 1 && p->comm == WEIR_COMM_LOCAL)
    return weir_fail(e, WEIR_EINVAL, "ranks of %d nodes do not speak over \"%s\"", p->n_nodes,
                     weir_comm_kind_name(p->comm));
  if (p->n_nodes > 1 && !o->addr) return weir_fail(e, WEIR_EINVAL, "%d nodes and no address", p->n_nodes);
  return ranks > 1 ? weir_comm_kind_check(p->comm, e) : WEIR_OK;
}

static weir_status listen_for_workers(weir_tp *tp, const weir_tp_opts *o, weir_err *e) {
  weir_crew *crew = NULL;
  /* Half the bound, so that a process that is gone is known by name before a rank is said to be late. */
  const weir_crew_opts c = {.addr = o->addr,
                            .node = 0,
                            .n_nodes = tp->plan.n_nodes,
                            .token = o->token,
                            .version = o->version,
                            .bound_ns = tp->bound_ns / 2,
                            .on_event = on_event,
                            .ctx = tp};
  const weir_status st = weir_crew_open(&c, &crew, e);
  if (st != WEIR_OK) return st;
  pthread_mutex_lock(&tp->lock);
  tp->crew = crew;
  pthread_mutex_unlock(&tp->lock);
  answer(tp);
  return WEIR_OK;
}

static void init_locks(weir_tp *tp) {
  pthread_condattr_t attr;
  pthread_condattr_init(&attr); /* none of these can fail */
  pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  pthread_mutex_init(&tp->lock, NULL);
  pthread_mutex_init(&tp->notify_lock, NULL);
  pthread_cond_init(&tp->changed, &attr);
  pthread_cond_init(&tp->finished, &attr);
  pthread_condattr_destroy(&attr);
}

weir_status weir_tp_create(const weir_tp_opts *o, weir_tp **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_tp *tp = NULL;
  *out = NULL;
  WEIR_TRY(check_plan(o, e));
  WEIR_TRY(WEIR_NEW(1, &tp, e));
  init_locks(tp);
  snprintf(tp->name, sizeof tp->name, "%s", o->name);
  tp->plan = o->plan;
  tp->model = o->model;
  tp->left = o->left;
  tp->bound_ns = o->bound_ns > 0 ? o->bound_ns : BOUND_NS;
  if (o->host)
    snprintf(tp->host, sizeof tp->host, "%s", o->host);
  else if (o->addr)
    host_of(o->addr, tp->host, sizeof tp->host);
  WEIR_TRY(WEIR_NEW((size_t)o->plan.n_nodes, &tp->node, e));
  for (int32_t i = 1; i < o->plan.n_nodes; i++) {
    snprintf(tp->node[i].who, sizeof tp->node[i].who, "node %d", i);
    WEIR_TRY(WEIR_NEW((size_t)o->plan.n_local, &tp->node[i].offer, e));
  }
  if (o->plan.n_nodes > 1) WEIR_TRY(listen_for_workers(tp, o, e));
  *out = tp;
  tp = NULL;
out:
  if (tp) weir_tp_free(tp);
  return st == WEIR_OK ? st : weir_fail_ctx(e, st, "%s", o->name);
}

void weir_tp_free(weir_tp *tp) {
  weir_crew_close(tp->crew);
  tp->crew = NULL;
  if (tp->started && !weir_tp_ranks_fini(&tp->ranks)) {
    weir_log(WEIR_LOG_ERROR, "%s: a step does not end; its threads are left behind", tp->name);
    if (tp->left) *tp->left = true;
    return;
  }
  for (int32_t i = 0; tp->node && i < tp->plan.n_nodes; i++) free(tp->node[i].offer);
  free(tp->node);
  free(tp->ask);
  weir_buf_fini(&tp->message);
  pthread_cond_destroy(&tp->changed);
  pthread_cond_destroy(&tp->finished);
  pthread_mutex_destroy(&tp->lock);
  pthread_mutex_destroy(&tp->notify_lock);
  free(tp);
}

void weir_tp_destroy(weir_tp *tp) {
  if (tp) weir_tp_free(tp);
}
