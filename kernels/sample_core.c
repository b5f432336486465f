/* SPDX-License-Identifier: Apache-2.0 */
/* Sampling between the passes over logits: merging statistics, edits, the best ids, deciding what an ask
 * needs, searching the cut, finishing the row. Pure functions: no state, no memory, any thread.
 *
 * Top-k and top-p without a sort: histograms hold counts and integer masses, so the search walks one from the
 * top until what is wanted is reached, descends into that bin and asks for a finer one. All numbers are
 * integers: any split of the vocabulary gives the same cut. Bins of equal width in the exponent come first
 * because logits' leading bits alone would put most ids in a few bins. */
#include "kernels/sample_core.h"

#include <float.h>
#include <math.h>
#include <string.h>

double weir_sample_arrival(uint32_t bits, float w) { return -log1p(-weir_noise_unit(bits)) / (double)w; }

weir_sample_stat weir_sample_merge(const weir_sample_stat *part, int32_t n) {
  weir_sample_stat s = part[0];
  for (int32_t i = 1; i < n; i++) {
    const weir_sample_stat *p = &part[i];
    if (!(p->max > -INFINITY)) { /* nothing in there, or only NaN: let that show */
      s.sum += p->sum;
      continue;
    }
    if (!(s.max > -INFINITY)) {
      const double was = s.sum;
      s = *p;
      s.sum += was;
      continue;
    }
    if (p->max > s.max) {
      const double down = (double)s.max - p->max, f = exp(down);
      s.dot = p->dot + f * (s.dot + down * s.sum);
      s.sum = p->sum + f * s.sum;
      s.second = s.max > p->second ? s.max : p->second;
      s.max = p->max;
      s.top = p->top;
    } else {
      const double down = (double)p->max - s.max, f = exp(down);
      s.dot += f * (p->dot + down * p->sum);
      s.sum += f * p->sum;
      s.second = p->max > s.second ? p->max : s.second;
    }
  }
  return s;
}

weir_status weir_sample_check(const weir_sample_stat *s, weir_err *e) {
  if (isnan(s->sum)) return weir_fail(e, WEIR_EDEVICE, "a logit is not a number");
  if (s->max == INFINITY) return weir_fail(e, WEIR_EDEVICE, "a logit is infinite");
  if (!(s->max > -INFINITY)) return weir_fail(e, WEIR_EDEVICE, "no logit is above -infinity");
  return WEIR_OK;
}

double weir_sample_logprob(const weir_sample_stat *s, float logit) {
  return (double)logit - s->max - log(s->sum);
}

weir_status weir_sample_check_extras(const weir_ask *ask, int32_t n_vocab, weir_err *e) {
  if (ask->n_edits < 0) return weir_fail(e, WEIR_EINVAL, "n_edits is %d", ask->n_edits);
  if (ask->n_edits > 0 && !ask->edit)
    return weir_fail(e, WEIR_EINVAL, "%d edits, and edit is NULL", ask->n_edits);
  int32_t least = 0; /* of the next id */
  for (int32_t i = 0; i < ask->n_edits; i++) {
    const weir_logit_edit *x = &ask->edit[i];
    if (x->id < least || x->id >= n_vocab)
      return weir_fail(e, WEIR_EINVAL, "edit %d is of id %d, want ascending ids below %d", i, x->id, n_vocab);
    if (!(x->scale > 0 && isfinite(x->scale) && isfinite(x->add)))
      return weir_fail(e, WEIR_EINVAL, "edit %d: id %d: scale %g, add %g", i, x->id, (double)x->scale,
                       (double)x->add);
    least = x->id + 1;
  }
  if (ask->n_top < 0 || ask->n_top > WEIR_TOP_MAX)
    return weir_fail(e, WEIR_EINVAL, "n_top is %d, want 0 to %d", ask->n_top, WEIR_TOP_MAX);
  return WEIR_OK;
}

/* How many edits are of ids below `id`. */
static int32_t edits_below(const weir_ask *ask, int32_t id) {
  int32_t low = 0, high = ask->n_edits;
  while (low < high) {
    const int32_t mid = low + (high - low) / 2;
    if (ask->edit[mid].id < id)
      low = mid + 1;
    else
      high = mid;
  }
  return low;
}

const weir_logit_edit *weir_sample_edits(const weir_ask *ask, int32_t first, int32_t n, int32_t *n_edits) {
  *n_edits = 0;
  if (ask->n_edits == 0) return NULL;
  const int32_t begin = edits_below(ask, first);
  *n_edits = edits_below(ask, first + n) - begin;
  return ask->edit + begin;
}

void weir_sample_shape(float *out, const float *l, int32_t first, int32_t n, const weir_logit_edit *edit,
                       int32_t n_edits) {
  memcpy(out, l, (size_t)n * sizeof *l);
  for (int32_t i = 0; i < n_edits; i++) {
    const float raw = l[edit[i].id - first];
    const float x = (raw > 0 ? raw / edit[i].scale : raw * edit[i].scale) + edit[i].add;
    if (raw > -INFINITY) out[edit[i].id - first] = x > FLT_MAX ? FLT_MAX : x < -FLT_MAX ? -FLT_MAX : x;
  }
}

void weir_sample_top_add(weir_sample_top *t, int32_t id, float logit) {
  int32_t at = t->n;
  if (!(logit > -INFINITY)) return;
  while (at > 0 && (logit > t->logit[at - 1] || (logit == t->logit[at - 1] && id < t->id[at - 1]))) at--;
  if (at == t->want) return;
  const int32_t behind = (t->n < t->want ? t->n++ : t->want - 1) - at;
  memmove(t->id + at + 1, t->id + at, (size_t)behind * sizeof *t->id);
  memmove(t->logit + at + 1, t->logit + at, (size_t)behind * sizeof *t->logit);
  t->id[at] = id;
  t->logit[at] = logit;
}

void weir_sample_top_merge(weir_sample_top *io, const weir_sample_top *other) {
  for (int32_t i = 0; i < other->n; i++) weir_sample_top_add(io, other->id[i], other->logit[i]);
}

void weir_sample_top_finish(const weir_sample_top *t, const weir_sample_stat *s, weir_top *out) {
  for (int32_t i = 0; i < t->want; i++)
    out[i] = i < t->n ? (weir_top){t->id[i], (float)weir_sample_logprob(s, t->logit[i])}
                      : (weir_top){-1, -INFINITY};
}

bool weir_sample_draws(const weir_ask *ask, const weir_sample_stat *s, float probe_logit) {
  if (ask->probe < 0 || ask->keep == WEIR_KEEP_OWN) return true;
  return ask->keep == WEIR_KEEP_NLL && !(-weir_sample_logprob(s, probe_logit) <= (double)ask->keep_nll);
}

int32_t weir_sample_plan(const weir_ask *ask, int32_t top, float max, weir_sample_law *law) {
  if (!(ask->temperature > 0)) return top;
  const bool again = ask->probe >= 0 && ask->keep == WEIR_KEEP_NLL;
  *law = (weir_sample_law){.max = max,
                           .temperature = ask->temperature,
                           .min_w = ask->min_p,
                           .min_key = 0,
                           .end_ties = INT32_MAX,
                           .top = top,
                           .seed = ask->seed,
                           .pos = ask->pos,
                           .purpose = again ? WEIR_NOISE_AGAIN : WEIR_NOISE_DRAW};
  return -1;
}

bool weir_sample_cuts(const weir_ask *ask, int32_t n_valid) {
  return (ask->top_k > 0 && ask->top_k < n_valid) || ask->top_p < 1;
}

void weir_sample_cut_begin(const weir_ask *ask, int32_t n_valid, weir_sample_cut *c) {
  memset(c, 0, sizeof *c);
  c->has_k = ask->top_k > 0 && ask->top_k < n_valid;
  c->has_p = ask->top_p < 1;
  c->top_p = ask->top_p;
  c->by_mass = !c->has_k;
  c->want = c->has_k ? (uint64_t)ask->top_k : 0;
  const float scale = 64 / ask->temperature;
  c->bin_scale = scale < 1e30f ? scale : 1e30f; /* times a distance of 0 it must be 0 */
}

/* How much must stay for top_p of a mass; at least something, so that the top token does. */
static uint64_t wanted_mass(float top_p, uint64_t mass) {
  const double w = ceil((double)top_p * (double)mass);
  if (!(w >= 1)) return 1;
  return w >= (double)mass ? mass : (uint64_t)w;
}

static uint64_t sum_mass(const weir_sample_hist *h, int32_t begin) {
  uint64_t m = 0;
  for (int32_t b = begin; b < WEIR_SAMPLE_BINS; b++) m += h->mass[b];
  return m;
}

bool weir_sample_cut_step(weir_sample_cut *c, const weir_sample_hist *h, weir_sample_law *law) {
  if (c->by_mass && !c->has_k && c->level == 0) c->want = wanted_mass(c->top_p, sum_mass(h, 0));
  int32_t b = WEIR_SAMPLE_BINS - 1;
  uint64_t above = c->above;
  for (; b > 0; b--) {
    const uint64_t here = c->by_mass ? h->mass[b] : h->count[b];
    if (above + here >= c->want) break;
    above += here;
  }
  if (!c->by_mass) c->k_mass_above += sum_mass(h, b + 1);
  c->above = above;
  if (c->level == 0)
    c->bin = b;
  else
    c->prefix = c->prefix << (c->level == 3 ? 10 : 11) | (uint32_t)b;
  if (c->level++ < 3) return true;

  c->key = c->prefix;
  c->equal = (int32_t)h->count[b];
  const uint64_t each = h->count[b] > 0 ? h->mass[b] / h->count[b] : 0; /* equal logits have equal weights */
  if (!c->by_mass) {
    c->ties = (int32_t)(c->want - above);
    if (c->has_p) { /* search again, by mass, in what is left */
      c->want = wanted_mass(c->top_p, c->k_mass_above + (uint64_t)c->ties * each);
      c->by_mass = true;
      c->level = 0;
      c->prefix = 0;
      c->above = 0;
      return true;
    }
  } else {
    /* never more than top_k left: what is wanted is a part of their mass */
    const uint64_t ties = each > 0 ? (c->want - above + each - 1) / each : (uint64_t)c->equal;
    c->ties = ties > (uint64_t)c->equal ? c->equal : (int32_t)ties;
  }
  law->min_key = c->key;
  law->end_ties = INT32_MAX;
  return false;
}

weir_sample_win weir_sample_first(weir_sample_win a, weir_sample_win b) {
  return b.at < a.at || (b.at == a.at && b.id < a.id) ? b : a;
}

void weir_sample_finish(const weir_ask *ask, const weir_sample_stat *s, int32_t token, float logit,
                        float probe_logit, weir_row *row) {
  /* log sum - dot/sum is the entropy; rounding may leave a certain row a hair below zero */
  const double entropy = log(s->sum) - s->dot / s->sum;
  row->token = token;
  row->logprob = (float)weir_sample_logprob(s, logit);
  row->entropy = entropy > 0 ? (float)entropy : 0;
  row->p_max = (float)(1 / s->sum);
  row->margin = (float)(-expm1((double)s->second - s->max) / s->sum);
  row->probe_logprob = ask->probe >= 0 ? (float)weir_sample_logprob(s, probe_logit) : row->logprob;
}
