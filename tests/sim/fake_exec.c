/* SPDX-License-Identifier: Apache-2.0 */
/* Fake executor: pages hold (token, position) pairs instead of keys and values. Single-threaded. */
#include "fake_exec.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/noise.h"
#include "step/batch.h"

enum { PAGE = 16, MAX_VOCAB = 512 };

typedef struct slot {
  int32_t token, pos;
} slot;

typedef struct fake {
  weir_exec base;
  fake_opts o;
  slot *kv; /* [n_pages * PAGE] */
  weir_batch batch;
  weir_result *result;
  int64_t steps;
} fake;

static uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

static double unit(uint64_t h) { return (double)(h >> 11) * 0x1p-53; }

static void logits_of(const fake_law *l, int32_t tier, uint64_t history, double *out) {
  /* How hard a position is belongs to the position, so that the tiers find the same ones hard. */
  const double scale = l->sharpness * (0.2 + 1.8 * unit(mix(history ^ 0x5ca1e)));
  for (int32_t v = 0; v < l->n_vocab; v++) {
    const double common = -log1p(-unit(mix(history ^ (uint64_t)(v + 1) * 0x9e3779b97f4a7c15u)));
    const double own =
        -log1p(-unit(mix(history ^ (uint64_t)(v + 1) * 0xc2b2ae3d27d4eb4fu ^ (uint64_t)(tier + 1) << 40)));
    out[v] = scale * (l->agreement * common + (1 - l->agreement) * own);
  }
  if (l->end_id >= 0) out[l->end_id] += 0.5;
}

/* What is drawn from: the logits with the ask's edits. */
static int32_t shape(const double *logit, int32_t n, const weir_ask *a, double *out) {
  int32_t arg = 0;
  for (int32_t v = 0; v < n; v++) out[v] = a->only_edits ? -1e30 : logit[v];
  for (int32_t i = 0; i < a->n_edits; i++) {
    const weir_logit_edit *x = &a->edit[i];
    const double scale = (double)x->scale;
    if (x->id < n) out[x->id] = logit[x->id];
    if (x->id < n) out[x->id] = (out[x->id] > 0 ? out[x->id] / scale : out[x->id] * scale) + (double)x->add;
  }
  for (int32_t v = 1; v < n; v++)
    if (out[v] > out[arg]) arg = v;
  return arg;
}

/* The n_top likeliest, one after the other. */
static void top_of(const double *logit, int32_t n, int32_t n_top, weir_top *out) {
  double z = 0, max = -INFINITY;
  bool taken[MAX_VOCAB] = {false};
  for (int32_t v = 0; v < n; v++) max = logit[v] > max ? logit[v] : max;
  for (int32_t v = 0; v < n; v++) z += exp(logit[v] - max);
  for (int32_t i = 0; i < n_top; i++) {
    int32_t best = -1;
    for (int32_t v = 0; v < n; v++)
      if (!taken[v] && (best < 0 || logit[v] > logit[best])) best = v;
    out[i] = (weir_top){best, -INFINITY};
    if (best < 0) continue;
    taken[best] = true;
    out[i].logprob = (float)(logit[best] - max - log(z));
  }
}

/* The rules of kernels/row.h. */
static bool stands(const weir_ask *a, double p, double p_max, double entropy) {
  const double x = (double)a->keep_a, open = (double)a->keep_b * exp(-entropy);
  switch (a->keep) {
    case WEIR_KEEP_ALL: return true;
    case WEIR_KEEP_OWN:
    case WEIR_KEEP_RATIO: return false;
    case WEIR_KEEP_NLL: return -log(p) <= x;
    case WEIR_KEEP_V1: return exp((double)a->probe_q) >= p_max - x;
    case WEIR_KEEP_V2: return p >= p_max - x;
    case WEIR_KEEP_V3: return p >= (1 - x) * p_max;
    case WEIR_KEEP_TYPICAL: return p > (open < x ? open : x);
  }
  return false;
}

/* Leaves the k likeliest of w[n] and tells them. */
static void tell(double *w, int32_t n, const weir_ask *a) {
  double sum = 0, left[MAX_VOCAB] = {0};
  int32_t told = 0;
  for (int32_t k = 0; k < a->top_k && k < n; k++) {
    int32_t best = -1;
    for (int32_t v = 0; v < n; v++)
      if (w[v] > 0 && left[v] == 0 && (best < 0 || w[v] > w[best])) best = v;
    if (best < 0) break;
    sum += left[best] = w[best];
    if (a->law) a->law[told++].id = best;
  }
  memcpy(w, left, sizeof *w * (size_t)n);
  for (int32_t i = 0; a->law && i < WEIR_TOP_MAX; i++)
    a->law[i] =
        i < told ? (weir_top){a->law[i].id, (float)log(w[a->law[i].id] / sum)} : (weir_top){-1, -INFINITY};
}

/* By the ratio of what the tier draws from, w, and what the draft was drawn from. Noise 2 judges, 3 redraws.
 */
static int32_t by_ratio(const double *w, int32_t n, const weir_ask *a) {
  double sum = 0, q[MAX_VOCAB] = {0}, best = INFINITY;
  int32_t draw = a->probe;
  for (int32_t v = 0; v < n; v++) sum += w[v];
  for (int32_t i = 0; i < a->n_draft; i++)
    if (a->draft[i].id < n) q[a->draft[i].id] = exp((double)a->draft[i].logprob);
  const weir_noise4 u = weir_noise_quad(a->seed, a->pos, 2, 0);
  if (weir_noise_unit(u.v[0]) * q[a->probe] <= w[a->probe] / sum) return a->probe;
  for (int32_t v = 0; v < n; v++) {
    const weir_noise4 x = weir_noise_quad(a->seed, a->pos, 3, (uint32_t)v / 4);
    const double rest = w[v] / sum - q[v], at = -log1p(-weir_noise_unit(x.v[v % 4])) / rest;
    if (rest > 0 && at < best) {
      best = at;
      draw = v;
    }
  }
  return draw;
}

/* Double-precision sampling, independent of the engine's kernels. */
static weir_row row_of(const double *logit, int32_t n, const weir_ask *a) {
  double p[MAX_VOCAB], shaped[MAX_VOCAB], max = -INFINITY, second = -INFINITY, z = 0, h = 0;
  int32_t arg = 0;
  for (int32_t v = 0; v < n; v++)
    if (logit[v] > max) {
      max = logit[v];
      arg = v;
    }
  for (int32_t v = 0; v < n; v++) z += p[v] = exp(logit[v] - max);
  for (int32_t v = 0; v < n; v++) {
    p[v] /= z;
    h -= p[v] > 0 ? p[v] * log(p[v]) : 0;
    if (v != arg && p[v] > second) second = p[v];
  }
  int32_t draw = shape(logit, n, a, shaped);
  const double top = shaped[draw];
  if (a->temperature > 0) {
    const bool again = a->probe >= 0 && a->keep > WEIR_KEEP_OWN && a->keep != WEIR_KEEP_RATIO;
    const uint32_t purpose = again ? WEIR_NOISE_AGAIN : WEIR_NOISE_DRAW;
    double best = INFINITY, w[MAX_VOCAB];
    for (int32_t v = 0; v < n; v++) w[v] = exp((shaped[v] - top) / a->temperature);
    if (a->tell_law) tell(w, n, a);
    for (int32_t v = 0; v < n; v++) {
      const weir_noise4 q = weir_noise_quad(a->seed, a->pos, purpose, (uint32_t)v / 4);
      const double at = -log1p(-weir_noise_unit(q.v[v % 4])) / w[v];
      if (w[v] > 0 && at < best) {
        best = at;
        draw = v;
      }
    }
    if (a->probe >= 0 && a->keep == WEIR_KEEP_RATIO && a->n_draft > 0) draw = by_ratio(w, n, a);
  } else if (a->tell_law && a->law) {
    for (int32_t i = 0; i < WEIR_TOP_MAX; i++)
      a->law[i] = (weir_top){i == 0 ? draw : -1, i == 0 ? 0 : -INFINITY};
  }
  weir_row r = {
      .token = draw, .entropy = (float)h, .p_max = (float)p[arg], .margin = (float)(p[arg] - second)};
  if (a->probe >= 0 && stands(a, p[a->probe], p[arg], h)) r.token = a->probe;
  r.logprob = (float)log(p[r.token]);
  r.probe_logprob = a->probe >= 0 ? (float)log(p[a->probe]) : r.logprob;
  return r;
}

static uint64_t hash_step(uint64_t h, int32_t token) { return mix(h ^ (uint64_t)(uint32_t)token); }

static void law_logits(const fake_law *l, int32_t tier, const int32_t *tok, int32_t n, double *out) {
  uint64_t h = 7;
  for (int32_t i = 0; i < n; i++) h = hash_step(h, tok[i]);
  logits_of(l, tier, h, out);
}

weir_row fake_law_row(const fake_law *l, int32_t tier, const int32_t *tok, int32_t n, const weir_ask *a) {
  double logit[MAX_VOCAB];
  law_logits(l, tier, tok, n, logit);
  return row_of(logit, l->n_vocab, a);
}

void fake_law_top(const fake_law *l, int32_t tier, const int32_t *tok, int32_t n, const weir_ask *a,
                  weir_top *out) {
  double logit[MAX_VOCAB];
  law_logits(l, tier, tok, n, logit);
  top_of(logit, l->n_vocab, a->n_top, out);
}

static weir_status submit(weir_exec *x, const weir_batch *b, weir_result *r, weir_err *e) {
  fake *f = (fake *)x;
  if (f->result) return weir_fail(e, WEIR_EBUSY, "a step is under way");
  weir_status st = weir_batch_check(b, &x->info, e);
  if (st == WEIR_OK) st = weir_batch_check_result(b, r, e);
  if (st != WEIR_OK) return st;
  for (int32_t i = 0; f->o.fed && i < b->n_tokens; i++)
    f->o.fed[(size_t)b->pos[i] * MAX_VOCAB + (size_t)b->token[i]]++;
  f->batch = *b;
  f->result = r;
  return WEIR_OK;
}

static slot *slot_at(fake *f, const weir_batch *b, int32_t s, int32_t pos) {
  return &f->kv[(size_t)b->page[b->page_indptr[s] + pos / PAGE] * PAGE + (size_t)(pos % PAGE)];
}

/* Answers ask `o`; false when KV does not hold what the row should see. */
static bool answer(fake *f, const weir_batch *b, int32_t s, int32_t pos, int32_t o) {
  const weir_ask *a = &b->ask[o];
  weir_result *r = f->result;
  double logit[MAX_VOCAB];
  uint64_t h = 7;
  for (int32_t p = 0; p <= pos; p++) {
    const slot *k = slot_at(f, b, s, p);
    if (k->pos != p) return false;
    h = hash_step(h, k->token);
  }
  logits_of(&f->o.law, f->o.tier, h, logit);
  r->row[o] = row_of(logit, f->o.law.n_vocab, a);
  if (a->n_top > 0) top_of(logit, f->o.law.n_vocab, a->n_top, r->top + (size_t)o * WEIR_TOP_MAX);
  return true;
}

static weir_status wait(weir_exec *x, weir_result **done, weir_err *e) {
  fake *f = (fake *)x;
  const weir_batch *b = &f->batch;
  weir_result *r = f->result;
  if (!r) return weir_fail(e, WEIR_EINVAL, "nothing was submitted");
  *done = r;
  r->device_ns = 1000;
  r->status = WEIR_OK;
  if (f->steps++ == f->o.fail_at_step) {
    f->result = NULL;
    r->status = weir_fail(&r->err, WEIR_EDEVICE, "planned failure");
    return WEIR_OK;
  }
  for (int32_t i = 0; i < b->n_copies; i++)
    memcpy(&f->kv[(size_t)b->copy_src_dst[2 * i + 1] * PAGE], &f->kv[(size_t)b->copy_src_dst[2 * i] * PAGE],
           PAGE * sizeof(slot));
  int32_t o = 0;
  for (int32_t s = 0; s < b->n_seqs; s++)
    for (int32_t i = b->q_indptr[s]; i < b->q_indptr[s + 1]; i++)
      *slot_at(f, b, s, b->pos[i]) = (slot){b->token[i], b->pos[i]};
  for (int32_t s = 0; s < b->n_seqs; s++)
    for (int32_t i = b->q_indptr[s]; i < b->q_indptr[s + 1]; i++) {
      if (o >= b->n_out || b->out_row[o] != i) continue;
      if (!answer(f, b, s, b->pos[i], o))
        r->status =
            weir_fail(&r->err, WEIR_EDEVICE, "KV of sequence %d does not hold what row %d must see", s, i);
      o++;
    }
  f->result = NULL;
  return WEIR_OK;
}

static void destroy(weir_exec *x) {
  fake *f = (fake *)x;
  free(f->kv);
  free(f);
}

static const weir_exec_ops ops = {submit, wait, destroy};

weir_exec *fake_exec_create(const fake_opts *o) {
  fake *f = calloc(1, sizeof *f);
  f->base.ops = &ops;
  f->base.info = (weir_exec_info){.name = o->tier == 0 ? "fake small" : "fake large",
                                  .n_vocab = o->law.n_vocab,
                                  .n_ctx = o->n_ctx,
                                  .n_pages = o->n_pages,
                                  .max_tokens = o->max_tokens,
                                  .max_seqs = o->max_seqs};
  f->o = *o;
  f->kv = malloc((size_t)o->n_pages * PAGE * sizeof *f->kv);
  fake_exec_wipe(&f->base);
  return &f->base;
}

void fake_exec_wipe(weir_exec *x) {
  fake *f = (fake *)x;
  for (size_t i = 0; i < (size_t)f->o.n_pages * PAGE; i++) f->kv[i] = (slot){-1, -1};
}

int64_t fake_exec_steps(const weir_exec *x) { return ((const fake *)x)->steps; }
