/* SPDX-License-Identifier: Apache-2.0 */
/* A process's ranks. Owns the team, the instances, the seats and the communicators; each rank's are touched
 * by its own thread alone while a job runs, but for abort. Between jobs they are whose the struct is. */
#include "run/tp_ranks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "run/forward.h"

static weir_status said(const weir_tp_ranks *r, int32_t i, weir_status st, weir_err *e) {
  return st == WEIR_OK || r->n_ranks == 1 ? st : weir_fail_ctx(e, st, "rank %d", r->first + i);
}

/* ---- load ---- */

typedef struct loading {
  weir_tp_ranks *r;
  weir_tp_rank *k;
} loading;

static void on_progress(void *ctx, int64_t done, int64_t total) {
  weir_tp_rank *k = ((loading *)ctx)->k;
  k->load = total;
  k->loaded = done;
}

static bool is_aborted(void *ctx) {
  weir_tp_ranks *r = ((loading *)ctx)->r;
  pthread_mutex_lock(&r->lock);
  const bool is = r->aborted;
  pthread_mutex_unlock(&r->lock);
  return is;
}

static weir_status load(void *ctx, int32_t i, weir_err *e) {
  weir_tp_ranks *r = ctx;
  weir_tp_rank *k = &r->rank[i];
  const weir_tp_plan *p = &r->plan;
  loading l = {r, k};
  const weir_load_progress progress = {.report = on_progress, .ctx = &l, .stop = is_aborted};
  weir_status st = WEIR_OK;
  weir_shard shard;
  weir_instance_destroy(k->instance);
  k->instance = NULL;
  WEIR_TRY(weir_shard_plan(r->h, r->file, r->first + i, r->n_ranks, &shard, e));
  const weir_instance_opts o = {.n_ctx = p->n_ctx,
                                .max_tokens = p->max_tokens,
                                .max_seqs = p->max_seqs,
                                .n_valid = p->n_valid,
                                .kv_dtype = p->kv_dtype,
                                .shard = &shard,
                                .progress = &progress};
  WEIR_TRY(weir_instance_create(k->dev, r->file, r->h, &o, &k->instance, e));
out:
  return said(r, i, st, e);
}

weir_status weir_tp_ranks_load(weir_tp_ranks *r, weir_err *e) {
  for (int32_t i = 0; i < r->n; i++) r->rank[i].loaded = r->rank[i].load = 0;
  return weir_tp_team_start(r->team, load, r, e);
}

int32_t weir_tp_ranks_percent(const weir_tp_ranks *r) {
  int64_t done = 0, all = 0;
  for (int32_t i = 0; i < r->n; i++) {
    done += r->rank[i].loaded;
    all += r->rank[i].load;
  }
  return all > 0 && done <= all ? (int32_t)((double)done / (double)all * 100) : 0;
}

/* ---- a group ---- */

static void add(weir_comm_stats *to, weir_comm_stats x) {
  to->calls += x.calls;
  to->bytes += x.bytes;
  to->ns += x.ns;
}

static void leave_group(weir_tp_ranks *r, weir_tp_rank *k) {
  if (k->instance) weir_instance_set_comm(k->instance, NULL);
  weir_comm_seat_close(k->seat);
  k->seat = NULL;
  pthread_mutex_lock(&r->lock);
  weir_comm *c = k->comm;
  k->comm = NULL;
  pthread_mutex_unlock(&r->lock);
  if (c) add(&k->done, c->stats);
  k->now = (weir_comm_stats){0};
  weir_comm_destroy(c);
}

static weir_status leave(void *ctx, int32_t i, weir_err *e) {
  weir_tp_ranks *r = ctx;
  leave_group(r, &r->rank[i]);
  return r->rank[i].dev ? said(r, i, weir_dev_sync(r->rank[i].dev, e), e) : WEIR_OK;
}

weir_status weir_tp_ranks_leave(weir_tp_ranks *r, weir_err *e) {
  return weir_tp_team_start(r->team, leave, r, e);
}

/* KV of another size than the last leader wanted. What is recorded of steps names the old one. */
static void drop_pages(weir_instance *m) {
  weir_dev_forget(m->dev, m->owner);
  weir_kvstore_fini(&m->kv);
  m->n_pages = 0;
}

static weir_status clear(void *ctx, int32_t i, weir_err *e) {
  weir_tp_ranks *r = ctx;
  (void)e;
  leave_group(r, &r->rank[i]);
  drop_pages(r->rank[i].instance);
  return WEIR_OK;
}

weir_status weir_tp_ranks_clear(weir_tp_ranks *r, weir_err *e) {
  return weir_tp_team_start(r->team, clear, r, e);
}

static weir_status seat(void *ctx, int32_t i, weir_err *e) {
  weir_tp_ranks *r = ctx;
  weir_tp_rank *k = &r->rank[i];
  weir_status st = WEIR_OK;
  leave_group(r, k);
  if (k->instance->n_pages > 0 && k->instance->n_pages != r->n_pages) drop_pages(k->instance);
  if (k->instance->n_pages == 0) WEIR_TRY(weir_instance_give_pages(k->instance, r->n_pages, e));
  const weir_comm_seat_opts o = {.dev = k->instance->dev, .host = r->host, .bound_ns = r->bound_ns};
  if (r->n_ranks > 1) WEIR_TRY(weir_comm_seat_open(r->plan.comm, &o, &k->seat, e));
out:
  return said(r, i, st, e);
}

weir_status weir_tp_ranks_seat(weir_tp_ranks *r, int32_t n_pages, weir_err *e) {
  pthread_mutex_lock(&r->lock);
  r->aborted = false;
  pthread_mutex_unlock(&r->lock);
  r->n_pages = n_pages;
  return weir_tp_team_start(r->team, seat, r, e);
}

static weir_status join(void *ctx, int32_t i, weir_err *e) {
  weir_tp_ranks *r = ctx;
  weir_tp_rank *k = &r->rank[i];
  weir_status st = WEIR_OK;
  weir_comm *c = NULL;
  if (r->n_ranks == 1) return WEIR_OK;
  weir_comm_seat *s = k->seat;
  k->seat = NULL;
  if (!s) return said(r, i, weir_fail(e, WEIR_EINVAL, "no seat was taken"), e);
  WEIR_TRY(weir_comm_join(s, r->invite, r->first + i, &c, e));
  pthread_mutex_lock(&r->lock);
  k->comm = c;
  const bool over = r->aborted;
  pthread_mutex_unlock(&r->lock);
  if (over) {
    weir_comm_abort(c, r->why); /* written once, before `aborted` */
    WEIR_TRY(weir_fail(e, WEIR_EDEVICE, "%s", r->why));
  }
  weir_instance_set_comm(k->instance, c);
out:
  return said(r, i, st, e);
}

weir_status weir_tp_ranks_join(weir_tp_ranks *r, const char *invite, weir_err *e) {
  snprintf(r->invite, sizeof r->invite, "%s", invite);
  return weir_tp_team_start(r->team, join, r, e);
}

void weir_tp_ranks_abort(weir_tp_ranks *r, const char *why) {
  pthread_mutex_lock(&r->lock);
  const bool first = !r->aborted;
  if (first) snprintf(r->why, sizeof r->why, "%s", why);
  r->aborted = true;
  pthread_mutex_unlock(&r->lock);
  for (int32_t i = 0; first && i < r->n; i++) {
    pthread_mutex_lock(&r->lock);
    weir_comm *c = r->rank[i].comm; /* destroyed by none but a later job, which our caller starts */
    pthread_mutex_unlock(&r->lock);
    weir_comm_abort(c, r->why);
  }
}

/* ---- a step ---- */

static weir_status step(void *ctx, int32_t i, weir_err *e) {
  weir_tp_ranks *r = ctx;
  weir_tp_rank *k = &r->rank[i];
  const int64_t start = weir_monotonic_ns();
  const weir_status st = weir_forward(k->instance, &r->batch, k->row, r->wants_top ? k->top : NULL, e);
  k->step_ns = weir_monotonic_ns() - start;
  if (k->comm) k->now = k->comm->stats;
  return said(r, i, st, e);
}

weir_status weir_tp_ranks_step(weir_tp_ranks *r, const weir_batch *b, weir_err *e) {
  r->batch = *b;
  r->wants_top = false;
  for (int32_t i = 0; i < b->n_out; i++) r->wants_top = r->wants_top || b->ask[i].n_top > 0;
  return weir_tp_team_start(r->team, step, r, e);
}

/* ---- the whole ---- */

weir_status weir_tp_ranks_init(weir_tp_ranks *r, const weir_tp_team_opts *team, weir_err *e) {
  const size_t rows = (size_t)r->plan.max_tokens;
  weir_status st = WEIR_OK;
  r->n = r->plan.n_local;
  r->n_ranks = r->plan.n_nodes * r->plan.n_local;
  pthread_mutex_init(&r->lock, NULL); /* with default attributes it cannot fail */
  WEIR_TRY(WEIR_NEW((size_t)r->n, &r->rank, e));
  for (int32_t i = 0; i < r->n; i++) {
    WEIR_TRY(WEIR_NEW(rows, &r->rank[i].row, e));
    WEIR_TRY(WEIR_NEW(rows * WEIR_TOP_MAX, &r->rank[i].top, e));
  }
  WEIR_TRY(weir_tp_team_create(team, &r->team, e));
out:
  if (st != WEIR_OK) weir_tp_ranks_fini(r);
  return st;
}

bool weir_tp_ranks_fini(weir_tp_ranks *r) {
  if (!weir_tp_team_destroy(r->team)) return false;
  for (int32_t i = 0; r->rank && i < r->n; i++) {
    weir_tp_rank *k = &r->rank[i];
    leave_group(r, k);
    weir_instance_destroy(k->instance);
    free(k->row);
    free(k->top);
  }
  free(r->rank);
  pthread_mutex_destroy(&r->lock);
  *r = (weir_tp_ranks){0};
  return true;
}
