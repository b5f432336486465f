/* SPDX-License-Identifier: Apache-2.0 */
/* The cost meter's arithmetic. Owns nothing, calls nothing; the loop thread. */
#include "sched/cost.h"

/* Sum over p in [from, to) of min(p + 1, most): positions that the rows look at. */
static double looked_at(int32_t from, int32_t to, int32_t most) {
  double sum = 0;
  const int32_t knee = to < most ? to : most > from ? most : from; /* from here on `most` each */
  if (knee > from) sum += 0.5 * ((double)from + 1 + knee) * ((double)knee - from);
  if (to > knee) sum += (double)most * ((double)to - knee);
  return sum;
}

double weir_cost_row_flops(const weir_exec_info *x, int32_t from, int32_t to) {
  if (to <= from) return 0;
  double sum = (double)x->flops_per_token * ((double)to - from);
  sum += (double)x->attn_flops * looked_at(from, to, INT32_MAX);
  if (x->attn_flops_window > 0) sum += (double)x->attn_flops_window * looked_at(from, to, x->window);
  return sum;
}

void weir_cost_step(weir_cost *c, int32_t t, const weir_exec_info *x, const weir_cost_feed *f) {
  if (t < 0 || t >= WEIR_COST_TIERS || f->n_seqs < 1) return;
  weir_tier_cost *y = &c->tier[t];
  int32_t at = f->from;
  for (int u = 0; u < WEIR_N_ROW_USES; u++) {
    y->rows[u] += f->rows[u];
    y->flops[u] += weir_cost_row_flops(x, at, at + f->rows[u]);
    y->kv_bytes_written += (double)f->rows[u] * (double)x->kv_bytes_per_token;
    at += f->rows[u];
  }
  y->answers += f->answers;
  y->head_flops += (double)f->answers * (double)x->head_flops;
  y->weight_bytes += (double)x->weight_bytes / f->n_seqs;
  y->weight_bytes_alone += (double)x->weight_bytes;
  const double held = 16.0 * f->pages * (double)x->kv_bytes_per_token;
  if (held > y->kv_bytes_peak) y->kv_bytes_peak = held;
  c->steps++;
  c->share += 1.0 / f->n_seqs;
}

void weir_cost_take_back(weir_cost *c, int32_t t, const weir_exec_info *x, int32_t from, int32_t to) {
  if (t < 0 || t >= WEIR_COST_TIERS || to >= from) return;
  c->tier[t].taken_back += from - to;
  c->tier[t].taken_back_flops += weir_cost_row_flops(x, to, from);
}

void weir_cost_large_only(weir_cost *c, const weir_exec_info *x, int32_t n_prompt, int32_t cached,
                          int32_t n_new) {
  c->large_only_flops = c->large_only_weight_bytes = 0;
  if (n_new < 1) return;
  c->large_only_flops =
      weir_cost_row_flops(x, cached, n_prompt + n_new - 1) + (double)n_new * (double)x->head_flops;
  c->large_only_weight_bytes = (double)x->weight_bytes * n_new * (c->steps > 0 ? c->share / c->steps : 1);
}

double weir_cost_flops(const weir_tier_cost *y) {
  double sum = y->head_flops;
  for (int u = 0; u < WEIR_N_ROW_USES; u++) sum += y->flops[u];
  return sum;
}

void weir_cost_add(weir_cost *sum, const weir_cost *c) {
  for (int t = 0; t < WEIR_COST_TIERS; t++) {
    weir_tier_cost *a = &sum->tier[t];
    const weir_tier_cost *b = &c->tier[t];
    for (int u = 0; u < WEIR_N_ROW_USES; u++) {
      a->rows[u] += b->rows[u];
      a->flops[u] += b->flops[u];
    }
    a->taken_back += b->taken_back;
    a->answers += b->answers;
    a->head_flops += b->head_flops;
    a->taken_back_flops += b->taken_back_flops;
    a->weight_bytes += b->weight_bytes;
    a->weight_bytes_alone += b->weight_bytes_alone;
    a->kv_bytes_written += b->kv_bytes_written;
    if (b->kv_bytes_peak > a->kv_bytes_peak) a->kv_bytes_peak = b->kv_bytes_peak;
  }
  sum->steps += c->steps;
  sum->share += c->share;
  sum->large_only_flops += c->large_only_flops;
  sum->large_only_weight_bytes += c->large_only_weight_bytes;
}
