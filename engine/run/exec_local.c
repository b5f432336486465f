/* SPDX-License-Identifier: Apache-2.0 */
/* Local executor: checks, runs, times. Owns its instance; one thread at a time. */
#include "run/exec_local.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "run/forward.h"
#include "run/gate.h"
#include "step/batch.h"

typedef struct exec_local {
  weir_exec base;
  weir_instance *instance;
  weir_batch batch;
  weir_result *result; /* of the step under way, else NULL */
  weir_clock clock;
  char name[192];
} exec_local;

static weir_status submit(weir_exec *x, const weir_batch *b, weir_result *r, weir_err *e) {
  exec_local *l = (exec_local *)x;
  if (l->result) return weir_fail(e, WEIR_EBUSY, "%s: a step is under way", l->name);
  weir_status st = weir_batch_check(b, &x->info, e);
  if (st == WEIR_OK) st = weir_batch_check_result(b, r, e);
  if (st != WEIR_OK) return weir_fail_ctx(e, st, "%s", l->name);
  l->batch = *b;
  l->result = r;
  return WEIR_OK;
}

static weir_status wait(weir_exec *x, weir_result **done, weir_err *e) {
  exec_local *l = (exec_local *)x;
  if (!l->result) return weir_fail(e, WEIR_EINVAL, "%s: no step was submitted", l->name);
  weir_result *r = l->result;
  const int64_t start = weir_now_ns(&l->clock);
  r->status = weir_forward(l->instance, &l->batch, r->row, r->top, &r->err);
  if (r->status != WEIR_OK) weir_fail_ctx(&r->err, r->status, "%s", l->name);
  r->device_ns = weir_now_ns(&l->clock) - start;
  l->result = NULL;
  *done = r;
  return WEIR_OK;
}

static void destroy(weir_exec *x) {
  exec_local *l = (exec_local *)x;
  weir_instance_destroy(l->instance);
  free(l);
}

static const weir_exec_ops ops = {submit, wait, destroy};

weir_exec_info weir_exec_local_info(const weir_instance *m, const char *name) {
  const weir_hparams *h = &m->h;
  const int64_t n_q = (int64_t)h->n_heads * h->head_dim, n_kv = (int64_t)h->n_kv_heads * h->head_dim;
  /* of the rank's part, when the model is cut */
  const int64_t ff = m->shard.ff.n, used = h->n_experts > 0 ? h->n_experts_used : 1;
  const int64_t mlp = (ff > 0 ? h->n_experts : 0) + 3 * used * ff;
  const int64_t macs = h->n_layers * ((n_q + 2 * n_kv + m->shard.att.n) + mlp) * h->dim;
  int64_t n_windowed = 0;
  for (int32_t i = 0; i < h->n_layers; i++) n_windowed += h->windowed[i] && h->window > 0;
  return (weir_exec_info){.name = name,
                          .n_vocab = h->n_vocab,
                          .n_ctx = m->n_ctx,
                          .n_pages = m->n_pages,
                          .max_tokens = m->max_tokens,
                          .max_seqs = m->max_seqs,
                          .weight_bytes = (int64_t)m->w.bytes,
                          .kv_bytes_per_token = weir_kvstore_token_bytes(h, m->kv_dtype),
                          .flops_per_token = 2 * macs,
                          .attn_flops = 4 * (h->n_layers - n_windowed) * n_q,
                          .attn_flops_window = 4 * n_windowed * n_q,
                          .head_flops = 2 * (int64_t)h->dim * m->shard.vocab.n,
                          .window = h->window,
                          .gate_head = weir_instance_has_gate(m)};
}

weir_status weir_exec_local_create(weir_instance *m, const char *name, weir_exec **out, weir_err *e) {
  exec_local *l;
  *out = NULL;
  const weir_status st = WEIR_NEW(1, &l, e);
  if (st != WEIR_OK) {
    weir_instance_destroy(m);
    return st;
  }
  snprintf(l->name, sizeof l->name, "%s", name);
  l->instance = m;
  l->clock = weir_clock_system();
  l->base.ops = &ops;
  l->base.info = weir_exec_local_info(m, l->name);
  *out = &l->base;
  return WEIR_OK;
}

weir_status weir_exec_local_set_gate(weir_exec *x, const weir_gate_head *h, weir_err *e) {
  exec_local *l = (exec_local *)x;
  if (x->ops != &ops) return weir_fail(e, WEIR_EUNSUP, "%s: it takes no gate head while it runs", x->info.name);
  if (l->result) return weir_fail(e, WEIR_EBUSY, "%s: a step is under way", l->name);
  const weir_status st = weir_instance_set_gate(l->instance, h, e);
  l->base.info.gate_head = weir_instance_has_gate(l->instance);
  return st;
}

weir_status weir_exec_local_hidden(weir_exec *x, const weir_batch *b, weir_row *rows, float *hidden,
                                   int32_t *dim, weir_err *e) {
  exec_local *l = (exec_local *)x;
  if (x->ops != &ops) return weir_fail(e, WEIR_EUNSUP, "%s: its hidden states are not at hand", x->info.name);
  if (l->result) return weir_fail(e, WEIR_EBUSY, "%s: a step is under way", l->name);
  if (dim) *dim = l->instance->h.dim;
  if (!b) return WEIR_OK;
  weir_status st = weir_batch_check(b, &x->info, e);
  if (st == WEIR_OK) st = weir_forward_hidden(l->instance, b, rows, hidden, e);
  return st == WEIR_OK ? st : weir_fail_ctx(e, st, "%s", l->name);
}
