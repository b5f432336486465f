/* SPDX-License-Identifier: Apache-2.0 */
/* A leader for tests, and conversations. */
#include "tp_rig.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/clock.h"
#include "kernels/cpu/cpu.h"
#include "run/exec_local.h"
#include "step/batch.h"

#define SECOND INT64_C(1000000000)

static void must(weir_status st, const weir_err *e) {
  if (st != WEIR_OK) fail_msg("%s", e->msg);
}

int64_t rig_now_ns(void) {
  const weir_clock c = weir_clock_system();
  return weir_now_ns(&c);
}

static weir_dev *open_dev(void) {
  weir_err e = {0};
  weir_dev *dev = NULL;
  must(weir_dev_open_cpu(&(weir_cpu_opts){.n_threads = 1, .no_pin = true}, &dev, &e), &e);
  return dev;
}

static void open_model(const char *name, weir_mfile **file, weir_hparams *h) {
  char path[256];
  weir_err e = {0};
  snprintf(path, sizeof path, "tests/vectors/models/%s.gguf", name);
  must(weir_mfile_open(path, file, &e), &e);
  must(weir_hparams_read(*file, h, &e), &e);
}

weir_tp_plan rig_plan(const rig_opts *o) {
  return (weir_tp_plan){.n_nodes = o->n_nodes,
                        .n_local = o->n_local,
                        .comm = o->comm,
                        .n_ctx = RIG_CTX,
                        .max_tokens = RIG_TOKENS,
                        .max_seqs = o->max_seqs > 0 ? o->max_seqs : RIG_SEQS,
                        .kv_dtype = WEIR_F32};
}

static weir_instance *open_instance(weir_dev *dev, const weir_mfile *file, const weir_hparams *h,
                                    const weir_shard *shard, int32_t max_seqs, int32_t n_pages) {
  weir_err e = {0};
  weir_instance *m = NULL;
  const weir_instance_opts o = {.n_ctx = RIG_CTX,
                                .n_pages = n_pages,
                                .max_tokens = RIG_TOKENS,
                                .max_seqs = max_seqs,
                                .kv_dtype = WEIR_F32,
                                .shard = shard};
  must(weir_instance_create(dev, file, h, &o, &m, &e), &e);
  return m;
}

void rig_open(rig *r, const rig_opts *o) {
  weir_err e = {0};
  *r = (rig){.o = *o};
  open_model(o->model, &r->file, &r->h);
  must(weir_tp_fingerprint(r->file, &r->h, &r->print, &e), &e);
  const weir_tp_opts t = {.name = "large (tiny)",
                          .plan = rig_plan(o),
                          .model = r->print,
                          .addr = o->addr,
                          .token = RIG_TOKEN,
                          .version = o->version ? o->version : "test",
                          .bound_ns = o->bound_ns > 0 ? o->bound_ns : 5 * SECOND,
                          .left = &r->left};
  must(weir_tp_create(&t, &r->tp, &e), &e);
  for (int32_t i = 0; i < o->n_local; i++) {
    weir_shard s;
    must(weir_shard_plan(&r->h, r->file, i, o->n_nodes * o->n_local, &s, &e), &e);
    r->dev[i] = open_dev();
    rig_breakable(r->dev[i]);
    r->local[i] = open_instance(r->dev[i], r->file, &r->h, &s, t.plan.max_seqs, 0);
  }
}

static void tell(void *ctx, const char *line) {
  (void)ctx;
  print_message("%s\n", line);
}

void rig_start(rig *r) {
  weir_err e = {0};
  int64_t room = 0;
  must(weir_tp_gather(r->tp, r->o.gather_ns > 0 ? r->o.gather_ns : 60 * SECOND, tell, NULL, NULL, &room, &e),
       &e);
  assert_int_equal(room, r->o.n_nodes > 1 ? RIG_ROOM : -1);
  weir_tp *tp = r->tp;
  r->tp = NULL;
  must(weir_tp_start(tp, r->local, r->o.n_pages > 0 ? r->o.n_pages : RIG_PAGES, &r->exec, &e), &e);
}

void rig_close(rig *r) {
  if (r->exec) r->exec->ops->destroy(r->exec);
  for (int32_t i = 0; !r->exec && i < r->o.n_local; i++)
    if (r->tp) weir_instance_destroy(r->local[i]);
  weir_tp_destroy(r->tp);
  assert_false(r->left);
  for (int32_t i = 0; i < r->o.n_local; i++) weir_dev_destroy(r->dev[i]);
  weir_mfile_close(r->file);
}

weir_exec *rig_local_exec(const char *model, weir_dev **dev) {
  weir_err e = {0};
  weir_mfile *file;
  weir_hparams h;
  weir_exec *x;
  open_model(model, &file, &h);
  *dev = open_dev();
  must(weir_exec_local_create(open_instance(*dev, file, &h, NULL, RIG_SEQS, RIG_PAGES), model, &x, &e), &e);
  weir_mfile_close(file);
  return x;
}

/* ---- faults ---- */

/* All devices of a rig go through this; the counters are of the one that is to misbehave. */
static struct {
  const weir_dev_ops *real;
  weir_dev_ops ops;
  _Atomic(weir_dev *) dev;
  _Atomic int32_t linears_left, syncs_left;
  _Atomic int fault;
  pthread_mutex_t lock;
  pthread_cond_t mended;
  bool hangs;
} broken = {.lock = PTHREAD_MUTEX_INITIALIZER, .mended = PTHREAD_COND_INITIALIZER};

static weir_status misbehave(weir_err *e) {
  if (broken.fault == RIG_DIES) broken.linears_left = broken.syncs_left = -1;
  if (broken.fault != RIG_HANGS) return weir_fail(e, WEIR_EDEVICE, "the device has caught fire");
  pthread_mutex_lock(&broken.lock);
  while (broken.hangs) pthread_cond_wait(&broken.mended, &broken.lock);
  pthread_mutex_unlock(&broken.lock);
  return WEIR_OK;
}

static bool is_due(const weir_dev *dev, _Atomic int32_t *left) {
  return dev == broken.dev && (*left < 0 || (*left > 0 && --*left == 0));
}

static weir_status may_linear(weir_dev *dev, weir_mat y, weir_mat x, const weir_weight *w, const float *bias,
                              weir_err *e) {
  const weir_status st = is_due(dev, &broken.linears_left) ? misbehave(e) : WEIR_OK;
  return st == WEIR_OK ? broken.real->linear(dev, y, x, w, bias, e) : st;
}

static weir_status may_sync(weir_dev *dev, weir_err *e) {
  const weir_status st = is_due(dev, &broken.syncs_left) ? misbehave(e) : WEIR_OK;
  return st == WEIR_OK ? broken.real->sync(dev, e) : st;
}

void rig_breakable(weir_dev *dev) {
  if (!broken.real) {
    broken.real = dev->ops;
    broken.ops = *dev->ops;
    broken.ops.linear = may_linear;
    broken.ops.sync = may_sync;
  }
  dev->ops = &broken.ops;
}

static void break_dev(weir_dev *dev, rig_fault fault, int32_t linears, int32_t syncs) {
  pthread_mutex_lock(&broken.lock);
  broken.hangs = fault == RIG_HANGS;
  pthread_mutex_unlock(&broken.lock);
  broken.fault = (int)fault;
  broken.dev = dev;
  broken.linears_left = linears;
  broken.syncs_left = syncs;
}

void rig_break_linear(weir_dev *dev, int32_t nth, rig_fault fault) { break_dev(dev, fault, nth, 0); }
void rig_break_sync(weir_dev *dev, int32_t nth, rig_fault fault) { break_dev(dev, fault, 0, nth); }

void rig_break_always(weir_dev *dev) { break_dev(dev, RIG_FAILS, -1, 0); }

void rig_mend(void) {
  broken.linears_left = broken.syncs_left = 0;
  pthread_mutex_lock(&broken.lock);
  broken.hangs = false;
  pthread_cond_broadcast(&broken.mended);
  pthread_mutex_unlock(&broken.lock);
}

/* ---- conversations ---- */

static bool step(weir_exec *x, const weir_batch *b, weir_row *row, weir_top *top, weir_err *e) {
  weir_result r = {.row = row, .top = top}, *done = NULL;
  if (x->ops->submit(x, b, &r, e) != WEIR_OK) return false;
  must(x->ops->wait(x, &done, e), e);
  assert_ptr_equal(done, &r);
  if (r.status != WEIR_OK) *e = r.err;
  return r.status == WEIR_OK;
}

bool talk_hold(weir_exec *x, const talk *follow, talk *out, weir_err *e) {
  enum { SEQS = 2, LEN = 64 };
  static const int32_t prompt[SEQS] = {37, 5}, chunk = 13;
  int32_t tok[SEQS][LEN], done[SEQS] = {0}, page[SEQS][LEN / 16], decided = 0;
  weir_batch_builder b;
  bool ok = true;
  *out = (talk){.n_vocab = x->info.n_vocab};
  must(weir_batch_builder_init(&b, RIG_TOKENS, RIG_SEQS, RIG_PAGES, 1, e), e);
  for (int32_t s = 0; s < SEQS; s++) {
    for (int32_t i = 0; i < LEN; i++)
      tok[s][i] = (i * 7 + s * 31 + 3) % (x->info.n_vocab < 250 ? x->info.n_vocab : 250);
    for (int32_t i = 0; i < LEN / 16; i++) page[s][i] = (i * 5 + s * 20 + 1) % x->info.n_pages;
  }
  while (ok && decided < TALK_ROWS) {
    weir_row row[SEQS];
    weir_top top[SEQS][WEIR_TOP_MAX];
    int32_t who[SEQS];
    weir_batch_builder_clear(&b);
    for (int32_t s = 0; s < SEQS; s++) {
      const bool prefill = done[s] < prompt[s];
      const int32_t left = prefill ? prompt[s] - done[s] : 1, n = left < chunk ? left : chunk;
      const weir_logit_edit ban = {.id = 3, .scale = 1, .add = WEIR_LOGIT_BAN};
      static weir_logit_edit edit[SEQS];
      if (done[s] >= prompt[s] + TALK_NEW - 1) continue;
      const weir_batch_seq q = {tok[s], done[s], done[s] + n, page[s], (done[s] + n + 15) / 16};
      const int32_t first = weir_batch_add(&b, &q);
      done[s] += n;
      if (done[s] < prompt[s]) continue;
      who[b.n_out] = s;
      edit[s] = ban;
      *weir_batch_ask(&b, first + n - 1) = (weir_ask){.temperature = s == 0 ? 0.0f : 0.8f,
                                                      .top_k = s == 0 ? 0 : 40,
                                                      .top_p = 1,
                                                      .seed = 17,
                                                      .pos = done[s],
                                                      .probe = -1,
                                                      .edit = &edit[s],
                                                      .n_edits = s,
                                                      .n_top = s == 0 ? 3 : 0};
    }
    if (b.n_tokens == 0) break;
    const weir_batch batch = weir_batch_get(&b);
    ok = step(x, &batch, row, &top[0][0], e);
    for (int32_t i = 0; ok && i < batch.n_out; i++) {
      const int32_t s = who[i], at = s * TALK_NEW + done[s] - prompt[s];
      out->row[at] = row[i];
      memcpy(out->top[at], top[i], (size_t)batch.ask[i].n_top * sizeof *top[i]);
      tok[s][done[s]] = follow ? follow->row[at].token : row[i].token;
      decided++;
    }
  }
  assert_true(!ok || decided == TALK_ROWS);
  weir_batch_builder_fini(&b);
  return ok;
}

static void near(double got, double want, double bound, const char *name, int32_t i, const char *what) {
  if (!(fabs(got - want) <= bound)) fail_msg("%s: row %d: %s %g, want %g", what, i, name, got, want);
}

void talk_expect_close(const talk *got, const talk *want, double bound, const char *what) {
  int32_t sure = 0;
  for (int32_t i = 0; i < TALK_ROWS; i++) {
    const weir_row *g = &got->row[i], *w = &want->row[i];
    const bool greedy = i < TALK_NEW;
    near((double)g->entropy, (double)w->entropy, bound, "entropy", i, what);
    near((double)g->p_max, (double)w->p_max, bound, "p_max", i, what);
    if (greedy && (double)w->margin <= 2 * bound) continue;
    sure += greedy;
    if (greedy && g->token != w->token)
      fail_msg("%s: row %d: token %d, want %d", what, i, g->token, w->token);
    if (g->token == w->token) near((double)g->logprob, (double)w->logprob, bound * 10, "logprob", i, what);
    if (greedy) assert_int_equal(got->top[i][0].id, want->top[i][0].id);
  }
  assert_true(sure >= 3); /* greedy tokens that had to be the same */
}

weir_status rig_step(weir_exec *x, int32_t n_tokens, weir_err *e) {
  int32_t tok[RIG_TOKENS], page[RIG_TOKENS / 16 + 1];
  weir_batch_builder b;
  weir_row row;
  for (int32_t i = 0; i < n_tokens; i++) tok[i] = i + 4;
  for (int32_t i = 0; i <= RIG_TOKENS / 16; i++) page[i] = i;
  must(weir_batch_builder_init(&b, RIG_TOKENS, RIG_SEQS, RIG_PAGES, 1, e), e);
  const int32_t first = weir_batch_add(&b, &(weir_batch_seq){tok, 0, n_tokens, page, (n_tokens + 15) / 16});
  *weir_batch_ask(&b, first + n_tokens - 1) = (weir_ask){.top_p = 1, .probe = -1, .pos = n_tokens};
  const weir_batch batch = weir_batch_get(&b);
  const bool ok = step(x, &batch, &row, NULL, e);
  weir_batch_builder_fini(&b);
  return ok ? WEIR_OK : e->code;
}

/* ---- lives ---- */

typedef struct bell {
  pthread_mutex_t lock;
  pthread_cond_t rung;
} bell;

static void ring(void *ctx) {
  bell *b = ctx;
  pthread_mutex_lock(&b->lock);
  pthread_cond_broadcast(&b->rung);
  pthread_mutex_unlock(&b->lock);
}

static void await_life(weir_exec *x, uint64_t number, int64_t timeout_ns) {
  bell b;
  weir_err e = {0};
  pthread_condattr_t attr;
  const int64_t until = rig_now_ns() + timeout_ns;
  const struct timespec at = {.tv_sec = (time_t)(until / SECOND), .tv_nsec = (long)(until % SECOND)};
  pthread_condattr_init(&attr);
  pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  pthread_mutex_init(&b.lock, NULL);
  pthread_cond_init(&b.rung, &attr);
  x->async->notify(x, ring, &b); /* before the look: what changes later rings */
  uint64_t now = 0;
  int late = 0;
  pthread_mutex_lock(&b.lock);
  while (now = x->life->number(x, &e), now != number && late == 0)
    late = pthread_cond_timedwait(&b.rung, &b.lock, &at);
  pthread_mutex_unlock(&b.lock);
  x->async->notify(x, NULL, NULL);
  pthread_cond_destroy(&b.rung);
  pthread_mutex_destroy(&b.lock);
  pthread_condattr_destroy(&attr);
  if (now != number)
    fail_msg("life %d, want %d after %g s: %s", (int)now, (int)number, (double)timeout_ns / 1e9, e.msg);
}

void rig_await_life(weir_exec *x, uint64_t number, int64_t timeout_ns) { await_life(x, number, timeout_ns); }
void rig_await_death(weir_exec *x, int64_t timeout_ns) { await_life(x, 0, timeout_ns); }
