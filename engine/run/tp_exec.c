/* SPDX-License-Identifier: Apache-2.0 */
/* The executor over a group. Called by one thread at a time; what it is told of a step's end comes from the
 * last rank's thread or, when the group is over, from the keeper.
 *
 * A step's batch is written once in the form in which workers get it; this node's ranks work from the same
 * bytes, and into rows of their own. So a rank that is stuck in its device when the step has long failed
 * touches nothing of the caller's.
 *
 * Nothing of the next step is prepared while one runs: its tokens are not known, and the rest is small. Of 64
 * sequences of 2048 tokens a batch of 37 KB is built in 4 us, checked and written in 6, handed to the crew in
 * 22, and read and checked by a worker in 5 (medians of benchmarks/bench_tp.c on a virtual machine of two
 * cores); of 256 sequences of 4096 tokens in 19, 38, 52 and 33. A step of a model that wants several machines
 * takes 10 ms and more: 0.4 % of it, and 1.4 % with 256 sequences, whose steps are longer still. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kv/pages.h"
#include "run/exec_local.h"
#include "run/tp_in.h"
#include "step/batch.h"

/* The caller's own arrays are not needed any more when this returns. */
static weir_status encode(weir_tp *tp, const weir_batch *b, uint64_t group, uint64_t number, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_tp_step s = {.group = group, .number = number, .batch = *b};
  const weir_exec_info *m = &tp->base.info;
  if (b->page_indptr[b->n_seqs] > (int64_t)m->max_seqs * weir_pages_for(m->n_ctx))
    WEIR_TRY(weir_fail(e, WEIR_EINVAL, "%s: batch of %d pages", tp->name, b->page_indptr[b->n_seqs]));
  WEIR_TRY(weir_tp_step_put(&s, &tp->message, e));
  WEIR_TRY(weir_tp_step_view(tp->message.data, tp->message.len, &tp->base.info, tp->ask, &s, e));
  for (int32_t i = 0; i < b->n_out; i++) tp->ask[i].law = b->ask[i].law; /* rank 0 is here, and tells */
  tp->batch = s.batch;
out:
  return st;
}

static weir_status send(weir_tp *tp, weir_err *e) {
  for (int32_t i = 1; i < tp->plan.n_nodes; i++) {
    const weir_status st = weir_crew_send(tp->crew, i, tp->message.data, tp->message.len, e);
    if (st != WEIR_OK) return st;
  }
  return WEIR_OK;
}

/* With the lock held. */
static weir_status dead(const weir_tp *tp, weir_err *e) {
  return weir_fail(e, WEIR_EDEVICE, "%s%s%s", tp->why.msg, tp->waits[0] ? "; waiting: " : "", tp->waits);
}

static weir_status submit(weir_exec *x, const weir_batch *b, weir_result *r, weir_err *e) {
  weir_tp *tp = (weir_tp *)x;
  weir_status st = weir_batch_check(b, &x->info, e);
  if (st == WEIR_OK) st = weir_batch_check_result(b, r, e);
  if (st != WEIR_OK) return weir_fail_ctx(e, st, "%s", tp->name);

  pthread_mutex_lock(&tp->lock);
  if (tp->step != WEIR_TP_IDLE)
    st = weir_fail(e, WEIR_EBUSY, "%s: a step is under way", tp->name);
  else if (!tp->alive || tp->blame != WEIR_TP_NO_BLAME)
    st = dead(tp, e);
  const uint64_t group = tp->group, number = tp->n_steps + 1;
  if (st == WEIR_OK) {
    tp->n_steps = number;
    tp->step = WEIR_TP_RUNNING;
    tp->busy = true;
    tp->ok = false;
    tp->result = r;
  }
  pthread_mutex_unlock(&tp->lock);
  if (st != WEIR_OK) return st;

  weir_err mine = {0};
  bool over = false; /* for workers may have heard of the step */
  st = encode(tp, b, group, number, &mine);
  if (st == WEIR_OK) {
    over = tp->plan.n_nodes > 1;
    st = send(tp, &mine);
  }
  if (st == WEIR_OK) st = weir_tp_ranks_step(&tp->ranks, &tp->batch, &mine);
  if (st == WEIR_OK) return WEIR_OK;
  pthread_mutex_lock(&tp->lock);
  if (over) weir_tp_blame_group(tp, WEIR_TP_RANK_SAYS, "%s", mine.msg);
  if (!over) tp->n_steps--;
  if (over) mine = tp->why;
  tp->step = WEIR_TP_IDLE;
  tp->busy = false;
  pthread_cond_broadcast(&tp->changed);
  pthread_mutex_unlock(&tp->lock);
  if (e) *e = mine;
  return mine.code;
}

static void take_rows(weir_tp *tp, weir_result *r) {
  const weir_tp_rank *first = &tp->ranks.rank[0];
  const weir_batch *b = &tp->batch;
  if (b->n_out > 0) memcpy(r->row, first->row, (size_t)b->n_out * sizeof *r->row);
  for (int32_t i = 0; i < b->n_out; i++)
    if (b->ask[i].n_top > 0)
      memcpy(r->top + (size_t)i * WEIR_TOP_MAX, first->top + (size_t)i * WEIR_TOP_MAX,
             (size_t)b->ask[i].n_top * sizeof *r->top);
  r->device_ns = first->step_ns;
}

static weir_status wait(weir_exec *x, weir_result **done, weir_err *e) {
  weir_tp *tp = (weir_tp *)x;
  pthread_mutex_lock(&tp->lock);
  if (tp->step == WEIR_TP_IDLE) {
    pthread_mutex_unlock(&tp->lock);
    return weir_fail(e, WEIR_EINVAL, "%s: no step was submitted", tp->name);
  }
  while (tp->step != WEIR_TP_DONE) pthread_cond_wait(&tp->finished, &tp->lock);
  weir_result *r = tp->result;
  r->status = tp->ok ? WEIR_OK : WEIR_EDEVICE;
  if (tp->ok)
    take_rows(tp, r);
  else
    r->err = tp->step_why;
  tp->result = NULL;
  tp->step = WEIR_TP_IDLE;
  pthread_mutex_unlock(&tp->lock);
  *done = r;
  return WEIR_OK;
}

static bool ready(weir_exec *x) {
  weir_tp *tp = (weir_tp *)x;
  pthread_mutex_lock(&tp->lock);
  const bool is = tp->step != WEIR_TP_RUNNING;
  pthread_mutex_unlock(&tp->lock);
  return is;
}

static void notify(weir_exec *x, void (*fn)(void *ctx), void *ctx) {
  weir_tp *tp = (weir_tp *)x;
  pthread_mutex_lock(&tp->notify_lock);
  tp->fn = fn;
  tp->ctx = ctx;
  pthread_mutex_unlock(&tp->notify_lock);
}

static uint64_t life_number(weir_exec *x, weir_err *why) {
  weir_tp *tp = (weir_tp *)x;
  pthread_mutex_lock(&tp->lock);
  const bool lives = tp->alive && tp->blame == WEIR_TP_NO_BLAME;
  const uint64_t number = lives ? tp->life : 0;
  if (!lives) dead(tp, why);
  pthread_mutex_unlock(&tp->lock);
  return number;
}

static void destroy(weir_exec *x) {
  weir_tp *tp = (weir_tp *)x;
  pthread_mutex_lock(&tp->lock);
  tp->quit = true;
  pthread_cond_broadcast(&tp->changed);
  pthread_mutex_unlock(&tp->lock);
  if (tp->kept) pthread_join(tp->keeper, NULL);
  weir_tp_free(tp);
}

const weir_exec_ops weir_tp_exec_ops = {submit, wait, destroy};
const weir_exec_async weir_tp_exec_async = {ready, notify};
const weir_exec_life weir_tp_exec_life = {life_number};

weir_tp_stats weir_exec_tp_stats(const weir_exec *x) {
  weir_tp *tp = (weir_tp *)x;
  pthread_mutex_lock(&tp->lock);
  const weir_tp_stats s = tp->stats;
  pthread_mutex_unlock(&tp->lock);
  return s;
}

/* ---- start ---- */

static weir_status check_local(const weir_tp *tp, int32_t n_pages, weir_err *e) {
  const weir_tp_plan *p = &tp->plan;
  for (int32_t i = 0; i < p->n_local; i++) {
    const weir_instance *m = tp->ranks.rank[i].instance;
    if (!m) return weir_fail(e, WEIR_EINVAL, "rank %d has no instance", i);
    if (m->max_tokens != p->max_tokens || m->max_seqs != p->max_seqs || m->kv_dtype != p->kv_dtype)
      return weir_fail(e, WEIR_EINVAL, "rank %d was not made with the numbers of the plan", i);
    if (m->shard.n_ranks > 1 && (m->shard.rank != i || m->shard.n_ranks != p->n_nodes * p->n_local))
      return weir_fail(e, WEIR_EINVAL, "rank %d of %d holds the part of rank %d of %d", i,
                       p->n_nodes * p->n_local, m->shard.rank, m->shard.n_ranks);
    if (m->n_pages > 0 && m->n_pages != n_pages)
      return weir_fail(e, WEIR_EINVAL, "rank %d has %d pages of KV, want %d", i, m->n_pages, n_pages);
  }
  return n_pages > 0 ? WEIR_OK : weir_fail(e, WEIR_EINVAL, "%d pages of KV", n_pages);
}

/* Of all ranks together, as far as this node's tell; they differ by a unit of a share. */
static void describe(weir_tp *tp, int32_t n_pages) {
  weir_exec_info all = weir_exec_local_info(tp->ranks.rank[0].instance, tp->name);
  for (int32_t i = 1; i < tp->plan.n_local; i++) {
    const weir_exec_info x = weir_exec_local_info(tp->ranks.rank[i].instance, tp->name);
    all.weight_bytes += x.weight_bytes;
    all.kv_bytes_per_token += x.kv_bytes_per_token;
    all.flops_per_token += x.flops_per_token;
    all.attn_flops += x.attn_flops;
    all.attn_flops_window += x.attn_flops_window;
    all.head_flops += x.head_flops;
  }
  all.n_pages = n_pages;
  all.weight_bytes *= tp->plan.n_nodes;
  all.kv_bytes_per_token *= tp->plan.n_nodes;
  all.flops_per_token *= tp->plan.n_nodes;
  all.attn_flops *= tp->plan.n_nodes;
  all.attn_flops_window *= tp->plan.n_nodes;
  all.head_flops *= tp->plan.n_nodes;
  tp->base = (weir_exec){
      .ops = &weir_tp_exec_ops, .info = all, .async = &weir_tp_exec_async, .life = &weir_tp_exec_life};
}

weir_status weir_tp_start(weir_tp *tp, weir_instance *const *local, int32_t n_pages, weir_exec **out,
                          weir_err *e) {
  weir_status st = WEIR_OK;
  int32_t taken = 0;
  const weir_tp_team_opts team = {
      .n = tp->plan.n_local, .on_fail = weir_tp_rank_failed, .on_done = weir_tp_job_done, .ctx = tp};
  *out = NULL;
  tp->ranks.plan = tp->plan;
  tp->ranks.host = tp->host[0] ? tp->host : NULL;
  tp->ranks.bound_ns = tp->bound_ns;
  WEIR_TRY(WEIR_NEW((size_t)tp->plan.max_tokens, &tp->ask, e));
  WEIR_TRY(weir_tp_ranks_init(&tp->ranks, &team, e));
  tp->started = true;
  for (; taken < tp->plan.n_local; taken++) {
    tp->ranks.rank[taken].instance = local[taken];
    tp->ranks.rank[taken].dev = local[taken] ? local[taken]->dev : NULL;
  }
  WEIR_TRY(check_local(tp, n_pages, e));
  describe(tp, n_pages);
  pthread_mutex_lock(&tp->lock);
  st = weir_tp_form(tp, e);
  pthread_mutex_unlock(&tp->lock);
  if (st != WEIR_OK) goto out;
  WEIR_TRY(weir_tp_keep(tp, e));
  *out = &tp->base;
  return WEIR_OK;
out:
  for (int32_t i = taken; i < tp->plan.n_local; i++) weir_instance_destroy(local[i]);
  weir_tp_free(tp);
  return st;
}
