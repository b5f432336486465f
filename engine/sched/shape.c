/* SPDX-License-Identifier: Apache-2.0 */
/* The shape of a draw, from its three sources. Owns nothing; loop thread only. */
#include "sched/shape.h"

#include <math.h>
#include <stdlib.h>

bool weir_shape_wanted(const weir_request *r) { return r->shaper || r->choices || r->fusion; }

int64_t weir_shape_most(const weir_request *r, int32_t p) {
  const int64_t own = r->shaper ? weir_shaper_most(r->shaper, p) : 0;
  const int64_t fused = r->fusion ? WEIR_TOP_MAX : 0;
  if (r->choices) return own + weir_choices_most(r->choices);
  return fused > 0 ? 2 * own + fused : own;
}

static int by_id(const void *a, const void *b) {
  const int32_t x = ((const weir_logit_edit *)a)->id, y = ((const weir_logit_edit *)b)->id;
  return (x > y) - (x < y);
}

int32_t weir_fusion_edits(float weight, const weir_top *top, int32_t n_top,
                          weir_logit_edit out[WEIR_TOP_MAX]) {
  int32_t n = 0;
  float least = INFINITY;
  for (int32_t i = 0; i < n_top; i++)
    if (top[i].id >= 0 && isfinite(top[i].logprob) && top[i].logprob < least) least = top[i].logprob;
  for (int32_t i = 0; i < n_top && n < WEIR_TOP_MAX; i++)
    if (top[i].id >= 0 && isfinite(top[i].logprob))
      out[n++] = (weir_logit_edit){top[i].id, 1, weight * (top[i].logprob - least)};
  qsort(out, (size_t)n, sizeof *out, by_id);
  return n;
}

int32_t weir_edits_merge(const weir_logit_edit *a, int32_t n_a, const weir_logit_edit *b, int32_t n_b,
                         const int32_t *only, int32_t n_only, weir_logit_edit *out) {
  int32_t i = 0, k = 0, n = 0;
  if (only) {
    for (int32_t o = 0; o < n_only; o++) {
      weir_logit_edit x = {.id = only[o], .scale = 1};
      while (i < n_a && a[i].id < x.id) i++;
      while (k < n_b && b[k].id < x.id) k++;
      if (i < n_a && a[i].id == x.id) x = a[i];
      if (k < n_b && b[k].id == x.id) x.add += b[k].add;
      out[n++] = x;
    }
    return n;
  }
  while (i < n_a || k < n_b) {
    if (k == n_b || (i < n_a && a[i].id < b[k].id)) {
      out[n++] = a[i++];
    } else if (i == n_a || b[k].id < a[i].id) {
      out[n++] = b[k++];
    } else {
      out[n] = a[i++];
      out[n++].add += b[k++].add;
    }
  }
  return n;
}

weir_status weir_shape_row(weir_request *r, int32_t tier, int32_t p, weir_edit_arena *arena,
                           weir_draw_shape *out, weir_err *e) {
  weir_logit_edit fused[WEIR_TOP_MAX];
  int32_t next[2 * WEIR_MAX_CHOICES], n_next = 0, n_fused = 0;
  *out = (weir_draw_shape){0};
  if (p + 1 < r->n_prompt) return WEIR_OK; /* decides nothing */
  if (r->shaper) {
    const weir_status st = weir_shaper_edits(r->shaper, r->tok, p, arena, &out->edit, &out->n, e);
    if (st != WEIR_OK) return st;
  }
  if (r->fusion && tier > 0 && r->fusion->at == p + 1)
    n_fused = weir_fusion_edits(r->fusion->weight, r->fusion->top, WEIR_TOP_MAX, fused);
  if (r->choices)
    n_next = weir_choices_next(r->choices,
                               weir_choices_at(r->choices, r->tok + r->n_prompt, p + 1 - r->n_prompt), next);
  if (n_fused == 0 && n_next == 0) return WEIR_OK;
  weir_logit_edit *to = weir_edit_arena_take(arena, (size_t)(n_next > 0 ? n_next : out->n + n_fused), e);
  if (!to) return WEIR_ENOMEM;
  out->n = weir_edits_merge(out->edit, out->n, fused, n_fused, n_next > 0 ? next : NULL, n_next, to);
  out->edit = to;
  out->only = n_next > 0;
  weir_edit_arena_commit(arena, (size_t)out->n);
  return WEIR_OK;
}
