/* SPDX-License-Identifier: Apache-2.0 */
/* Reference of the sample op. One thread. */
#include "sample_ref.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/noise.h"

typedef struct item {
  float l;
  int32_t id;
} item;

static int descending(const void *a, const void *b) {
  const item *x = (const item *)a, *y = (const item *)b;
  if (x->l != y->l) return x->l > y->l ? -1 : 1;
  return x->id < y->id ? -1 : x->id > y->id;
}
static void near(double *boundary, double distance) {
  if (fabs(distance) < *boundary) *boundary = fabs(distance);
}

/* Rounded to float after each operation, as the op promises; a finite logit stays finite. */
static float edited(float logit, const weir_logit_edit *x) {
  if (isinf(logit)) return logit;
  const double scaled = logit > 0 ? (double)logit / (double)x->scale : (double)logit * (double)x->scale;
  const double sum = (double)(float)scaled + (double)x->add;
  return fabs(sum) > (double)FLT_MAX ? (float)copysign((double)FLT_MAX, sum) : (float)sum;
}

static void sort(item *order, const float *l, int32_t n) {
  for (int32_t v = 0; v < n; v++) order[v] = (item){l[v], v};
  qsort(order, (size_t)n, sizeof *order, descending);
}

void sample_ref_make(sample_ref *r, const float *logits, int32_t n, const weir_ask *ask) {
  memset(r, 0, sizeof *r);
  r->n = n;
  r->boundary = 1;
  r->order = (int32_t *)malloc(sizeof *r->order * (size_t)n);
  r->p = (double *)calloc((size_t)n, sizeof *r->p);
  r->shaped = (float *)malloc(sizeof *r->shaped * (size_t)n);
  item *order = (item *)malloc(sizeof *order * (size_t)n);
  double z = 0;
  sort(order, logits, n);
  for (int32_t v = 0; v < n; v++) r->order[v] = order[v].id;
  double max = (double)order[0].l;
  for (int32_t v = 0; v < n; v++) z += r->p[v] = exp((double)logits[v] - max);
  for (int32_t v = 0; v < n; v++) {
    const double down = (double)logits[v] - max - log(z);
    r->p[v] /= z;
    if (r->p[v] > 0) r->entropy -= r->p[v] * down;
  }
  r->p_max = 1 / z;
  r->margin = n > 1 ? (1 - exp((double)order[1].l - max)) / z : 1;
  for (int32_t v = 0; v < n; v++) r->shaped[v] = ask->only_edits && !isinf(logits[v]) ? -FLT_MAX : logits[v];
  for (int32_t i = 0; i < ask->n_edits; i++)
    if (ask->edit[i].id < n) r->shaped[ask->edit[i].id] = edited(logits[ask->edit[i].id], &ask->edit[i]);
  sort(order, r->shaped, n);
  max = (double)order[0].l;
  r->top = order[0].id;
  if (ask->temperature > 0) {
    const double t = (double)ask->temperature;
    r->w = (double *)calloc((size_t)n, sizeof *r->w);
    int32_t left = ask->top_k > 0 && ask->top_k < n ? ask->top_k : n;
    if (ask->top_p < 1) {
      double mass = 0, sum = 0;
      for (int32_t i = 0; i < left; i++) mass += exp(((double)order[i].l - max) / t);
      const double want = (double)ask->top_p * mass;
      int32_t i = 0;
      for (; i < left; i++) {
        sum += exp(((double)order[i].l - max) / t);
        near(&r->boundary, (sum - want) / mass);
        if (sum >= want) break;
      }
      left = i + 1 < left ? i + 1 : left;
    }
    for (int32_t i = 0; i < left; i++) {
      const double w = exp(((double)order[i].l - max) / t);
      if (ask->min_p > 0) near(&r->boundary, w / (double)ask->min_p - 1);
      if (w >= (double)ask->min_p) r->w[order[i].id] = w;
    }
  }
  free(order);
}
void sample_ref_free(sample_ref *r) {
  free(r->order);
  free(r->p);
  free(r->shaped);
  free(r->w);
}
double sample_ref_arrival(const sample_ref *r, const weir_ask *ask, uint32_t purpose, int32_t v) {
  if (!(r->w[v] > 0)) return INFINITY;
  const weir_noise4 x = weir_noise_quad(ask->seed, ask->pos, purpose, (uint32_t)v / 4);
  return -log1p(-weir_noise_unit(x.v[v % 4])) / r->w[v];
}
double sample_ref_keep(const sample_ref *r, const weir_ask *ask) {
  const double p = r->p[ask->probe], a = (double)ask->keep_a, open = (double)ask->keep_b * exp(-r->entropy);
  switch (ask->keep) {
    case WEIR_KEEP_NLL: return a + log(p);
    case WEIR_KEEP_V1: return (exp((double)ask->probe_q) - (r->p_max - a)) / r->p_max;
    case WEIR_KEEP_V2: return (p - (r->p_max - a)) / r->p_max;
    case WEIR_KEEP_V3: return p / r->p_max - (1 - a);
    case WEIR_KEEP_TYPICAL: return (p - fmin(a, open)) / r->p_max;
    default: return NAN;
  }
}
static double quotient(const sample_ref *r, const weir_ask *ask, int32_t v) { /* Q(v)/P(v) sum = Q(v) W/w */
  double sum = 0, q = 0;
  for (int32_t i = 0; i < r->n; i++) sum += r->w[i];
  for (int32_t i = 0; i < ask->n_draft; i++)
    if (ask->draft[i].id == v) q = exp((double)ask->draft[i].logprob);
  return q * sum;
}
double sample_ref_ratio(const sample_ref *r, const weir_ask *ask) {
  const weir_noise4 x = weir_noise_quad(ask->seed, ask->pos, WEIR_NOISE_RATIO, 0);
  return r->w[ask->probe] / quotient(r, ask, ask->probe) / weir_noise_unit(x.v[0]) - 1;
}
double sample_ref_rest(const sample_ref *r, const weir_ask *ask, int32_t v, double *lost) {
  const double rest = r->w[v] - quotient(r, ask, v);
  if (lost) *lost = rest > 0 ? r->w[v] / rest : INFINITY;
  if (!(rest > 0)) return INFINITY;
  const weir_noise4 x = weir_noise_quad(ask->seed, ask->pos, WEIR_NOISE_REST, (uint32_t)v / 4);
  return -log1p(-weir_noise_unit(x.v[v % 4])) / rest;
}
int32_t sample_ref_redraw(const sample_ref *r, const weir_ask *ask) {
  double first = INFINITY, sum = 0;
  int32_t best = ask->probe;
  for (int32_t v = 0; v < r->n; v++) sum += r->w[v];
  for (int32_t v = 0; v < r->n; v++) {
    double q = 0;
    for (int32_t i = 0; i < ask->n_draft; i++)
      if (ask->draft[i].id == v) q = exp((double)ask->draft[i].logprob);
    const double rest = r->w[v] - q * sum;
    if (!(rest > 0)) continue;
    const weir_noise4 x = weir_noise_quad(ask->seed, ask->pos, WEIR_NOISE_REST, (uint32_t)v / 4);
    const double at = -log1p(-weir_noise_unit(x.v[v % 4])) / rest;
    if (at < first) first = at, best = v;
  }
  return best;
}
int32_t sample_ref_draw(const sample_ref *r, const weir_ask *ask, uint32_t purpose) {
  if (r->w == NULL) return r->top;
  double first = INFINITY;
  int32_t best = -1;
  for (int32_t v = 0; v < r->n; v++) {
    const double at = sample_ref_arrival(r, ask, purpose, v);
    if (at < first) first = at, best = v;
  }
  return best;
}
