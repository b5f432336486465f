/* SPDX-License-Identifier: Apache-2.0 */
/* The part of the sampling core (kernels/sample_core.h) that devices share to the bit: its types and pure
 * functions of one value or one row. Includable from C and CUDA; no state, any thread.
 *
 * A compiler for GPUs contracts a*b + c into one rounding where a host compiler, told not to, rounds twice.
 * What decides tokens or is compared to the bit therefore goes through weir_mulf and weir_muld. */
#ifndef WEIR_KERNELS_SAMPLE_MATH_H
#define WEIR_KERNELS_SAMPLE_MATH_H
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/noise.h"
#include "kernels/row.h"

enum { WEIR_SAMPLE_CHUNK = 4096, WEIR_SAMPLE_BINS = 2048 };
/* The longest list of best ids. A top_k up to it is found by a list on the CPU, which reads the logits once
 * and asks for nothing else from other shards; beyond it by histograms, whose cost does not grow with k. */
enum { WEIR_SAMPLE_LIST = 64 };

/* Of one chunk, or of chunks merged. */
typedef struct weir_sample_stat {
  float max, second; /* the two highest logits; equal when they tie; -inf when there is none */
  int32_t top;       /* lowest id at max */
  double sum, dot;   /* sum of e, sum of e*(l - max), e = exp(l - max); NaN when a logit was NaN */
} weir_sample_stat;

/* The likeliest ids seen so far, best first: by logit, of equal ones the lowest id. */
typedef struct weir_sample_top {
  int32_t want, n; /* n <= want <= WEIR_SAMPLE_LIST */
  int32_t id[WEIR_SAMPLE_LIST];
  float logit[WEIR_SAMPLE_LIST];
} weir_sample_top;

typedef struct weir_sample_win {
  double at; /* time of arrival; INFINITY: nobody */
  int32_t id;
  float logit; /* as it raced: of a shaped row, not the raw one */
} weir_sample_win;

/* The distribution a row is drawn from; ids outside the cut do not race. */
typedef struct weir_sample_law {
  float max;         /* of the whole vocabulary */
  float temperature; /* > 0; weight of id v: w = exp((l_v - max) / temperature) */
  float min_w;       /* min_p: ids with a smaller w are out */
  uint32_t min_key;  /* ids whose weir_sample_key is smaller are out, */
  int32_t end_ties;  /* and of those with an equal key the ids from here on */
  int32_t top;       /* of the whole vocabulary; it always stays. -1: `head` has come before all others, whose
                        weights are those of the law, the draft's (weir_sample_rest) left out */
  uint64_t seed;
  int32_t pos;
  uint32_t purpose;     /* WEIR_NOISE_* */
  weir_sample_win head; /* with top -1; at INFINITY: nobody */
} weir_sample_law;

/* A histogram over one or several chunks, higher logits in higher bins; adding two is adding their numbers.
 */
typedef struct weir_sample_hist {
  uint32_t count[WEIR_SAMPLE_BINS];
  uint64_t mass[WEIR_SAMPLE_BINS]; /* of floor(w * 2^40), so that sums are exact and have no order */
} weir_sample_hist;

/* Search for the smallest key that stays. Levels: 0 bins ids by distance to the maximum, 64 bins a nat, which
 * leaves few in the bin where the search ends; 1, 2, 3 take the digits (11, 11, 10 bits) of their keys. */
typedef struct weir_sample_cut {
  int32_t level;        /* of the histogram wanted next */
  float bin_scale;      /* of level 0 */
  int32_t bin;          /* where level 0 ended */
  uint32_t prefix;      /* the digits of the key known so far */
  bool by_mass;         /* the second search, for top_p, follows the first, for top_k */
  uint64_t above, want; /* count or mass above what is known; how much is to stay */
  bool has_k, has_p;    /* searches asked for */
  float top_p;
  uint64_t k_mass_above; /* mass above what top_k has found so far */
  uint32_t key;          /* the result: keys above stay, and at it the `ties` lowest ids */
  int32_t ties, equal;   /* of `equal` ids at it */
} weir_sample_cut;

/* Products that are rounded before they are added to. */
static inline WEIR_HD float weir_mulf(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
static inline WEIR_HD double weir_muld(double a, double b) {
#ifdef __CUDA_ARCH__
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

/* Bits whose unsigned order is the order of the floats; -0 and 0 are equal, NaN is not asked for. */
static inline WEIR_HD uint32_t weir_sample_key(float x) {
  union {
    float f;
    uint32_t u;
  } b;
  b.f = x + 0.0f;
  return b.u & 0x80000000u ? ~b.u : b.u | 0x80000000u;
}
/* The float of a key, kept between the infinities. */
static inline WEIR_HD float weir_sample_unkey(uint32_t key) {
  const uint32_t low = 0x007fffffu, high = 0xff800000u; /* keys of -inf and inf */
  const uint32_t k = key < low ? low : key > high ? high : key;
  union {
    uint32_t u;
    float f;
  } b;
  b.u = k & 0x80000000u ? k & 0x7fffffffu : ~k;
  return b.f;
}
/* The first n digits (11, 11, 10 bits) of a key. */
static inline WEIR_HD uint32_t weir_sample_digits(uint32_t key, int32_t n) {
  return n == 0 ? 0 : n == 1 ? key >> 21 : n == 2 ? key >> 10 : key;
}
/* The bin of level 1, 2 or 3 a key falls into. */
static inline WEIR_HD uint32_t weir_sample_bin(uint32_t key, int32_t level) {
  return weir_sample_digits(key, level) & (level == 3 ? 0x3ffu : 0x7ffu);
}
static inline WEIR_HD uint64_t weir_sample_mass(float w) { return (uint64_t)(int64_t)weir_mulf(w, 0x1p40f); }
static inline WEIR_HD int32_t weir_sample_n_chunks(int32_t n_valid) {
  return (n_valid + WEIR_SAMPLE_CHUNK - 1) / WEIR_SAMPLE_CHUNK;
}
/* Arrival of one id with weight w > 0 under the noise `bits`. */
static inline WEIR_HD double weir_sample_arrival(uint32_t bits, float w) {
  return -log1p(-weir_noise_unit(bits)) / (double)w;
}
/* The earlier of two; at the same time the lower id. */
static inline WEIR_HD weir_sample_win weir_sample_first(weir_sample_win a, weir_sample_win b) {
  return b.at < a.at || (b.at == a.at && b.id < a.id) ? b : a;
}
/* Below this logit no id can arrive before `best`: u is at least 2^-33 and E >= u, so it needs w >
 * 2^-33/best; another factor of 2 covers the roundings of w. */
static inline WEIR_HD float weir_sample_race_floor(const weir_sample_law *law, double best) {
  const double d = (double)law->max + weir_muld((double)law->temperature, log(0x1p-34 / best));
  const float f = nextafterf((float)d, -INFINITY), cut = weir_sample_unkey(law->min_key);
  return f > cut ? f : cut;
}

/* exp of how far the lower of two maxima lies below the other: what weir_sample_join wants. */
static inline WEIR_HD double weir_sample_ratio(float a, float b) {
  return exp(b > a ? (double)a - b : (double)b - a);
}
/* Puts the next chunk's part behind those merged so far; ratio = weir_sample_ratio(s->max, p->max), which is
 * not looked at where one of the two has nothing above -inf. */
static inline WEIR_HD void weir_sample_join(weir_sample_stat *s, const weir_sample_stat *p, double ratio) {
  if (!(p->max > -INFINITY)) { /* nothing in there, or only NaN: let that show */
    s->sum += p->sum;
    return;
  }
  if (!(s->max > -INFINITY)) {
    const double was = s->sum;
    *s = *p;
    s->sum += was;
    return;
  }
  if (p->max > s->max) {
    const double down = (double)s->max - p->max;
    s->dot = p->dot + weir_muld(ratio, s->dot + weir_muld(down, s->sum));
    s->sum = p->sum + weir_muld(ratio, s->sum);
    s->second = s->max > p->second ? s->max : p->second;
    s->max = p->max;
    s->top = p->top;
  } else {
    const double down = (double)p->max - s->max;
    s->dot += weir_muld(ratio, p->dot + weir_muld(down, p->sum));
    s->sum += weir_muld(ratio, p->sum);
    s->second = p->max > s->second ? p->max : s->second;
  }
}

/* Why a row is no distribution. */
typedef enum {
  WEIR_SAMPLE_FINE,
  WEIR_SAMPLE_NAN,
  WEIR_SAMPLE_INF,
  WEIR_SAMPLE_EMPTY,
  WEIR_SAMPLE_TORN /* shards that do not fit, or what a rank said did not arrive as it was */
} weir_sample_fault;
static inline WEIR_HD weir_sample_fault weir_sample_fault_of(const weir_sample_stat *s) {
  if (s->sum != s->sum) return WEIR_SAMPLE_NAN;
  if (s->max == INFINITY) return WEIR_SAMPLE_INF;
  return s->max > -INFINITY ? WEIR_SAMPLE_FINE : WEIR_SAMPLE_EMPTY;
}

static inline WEIR_HD double weir_sample_logprob(const weir_sample_stat *s, float logit) {
  return (double)logit - s->max - log(s->sum);
}

/* How many edits are of ids below `id`. */
static inline WEIR_HD int32_t weir_sample_edits_below(const weir_ask *ask, int32_t id) {
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
/* The edits of ids [first, first + n), *n_edits of them. */
static inline WEIR_HD const weir_logit_edit *weir_sample_edits(const weir_ask *ask, int32_t first, int32_t n,
                                                               int32_t *n_edits) {
  *n_edits = 0;
  if (ask->n_edits == 0) return NULL;
  const int32_t begin = weir_sample_edits_below(ask, first);
  *n_edits = weir_sample_edits_below(ask, first + n) - begin;
  return ask->edit + begin;
}
/* What an ask whose draws are from its edits alone makes of the others: less than a ban, so that an allowed
 * id that is banned too wins against them. Finite, as a logit that is. */
#define WEIR_SAMPLE_OUT (-FLT_MAX)
/* A raw logit with its edit, each operation of which is rounded to float. Finite logits stay finite (what
 * would not, becomes +-FLT_MAX) and the others what they are: a distribution remains one. */
static inline WEIR_HD float weir_sample_edited(float raw, const weir_logit_edit *x) {
  if (!(raw > -INFINITY)) return raw;
  const float y = (raw > 0 ? raw / x->scale : weir_mulf(raw, x->scale)) + x->add;
  return y > FLT_MAX ? FLT_MAX : y < -FLT_MAX ? -FLT_MAX : y;
}

/* A raw logit as draws of the ask see it. */
static inline WEIR_HD float weir_sample_shaped(const weir_ask *ask, int32_t id, float raw) {
  if (ask->n_edits == 0) return raw;
  const int32_t i = weir_sample_edits_below(ask, id);
  if (i < ask->n_edits && ask->edit[i].id == id) return weir_sample_edited(raw, &ask->edit[i]);
  return ask->only_edits && raw > -INFINITY ? WEIR_SAMPLE_OUT : raw;
}

/* log sum - dot/sum is the entropy; rounding may leave a certain row a hair below zero. */
static inline WEIR_HD double weir_sample_entropy(const weir_sample_stat *s) {
  const double entropy = log(s->sum) - s->dot / s->sum;
  return entropy > 0 ? entropy : 0;
}
/* Whether the probe stands by a rule that asks for probabilities. Comparisons are written so that a NaN
 * refuses. */
static inline WEIR_HD bool weir_sample_keeps(const weir_ask *ask, const weir_sample_stat *s,
                                             float probe_logit) {
  const double a = (double)ask->keep_a, share = exp((double)probe_logit - s->max); /* p(probe)/max p */
  switch (ask->keep) {
    case WEIR_KEEP_NLL: return -weir_sample_logprob(s, probe_logit) <= a;
    case WEIR_KEEP_V1: return exp((double)ask->probe_q) >= 1 / s->sum - a;
    case WEIR_KEEP_V2: return share / s->sum >= 1 / s->sum - a;
    case WEIR_KEEP_V3: return share >= 1 - a;
    case WEIR_KEEP_TYPICAL: {
      const double open = weir_muld((double)ask->keep_b, exp(-weir_sample_entropy(s)));
      return share / s->sum > (open < a ? open : a);
    }
    default: return ask->keep == WEIR_KEEP_ALL;
  }
}
/* Whether a refused probe is replaced by noise of its own: by all rules but those where it is the tier's own
 * draw, or no draw at all. */
static inline WEIR_HD bool weir_sample_again(const weir_ask *ask) {
  return ask->probe >= 0 && ask->keep != WEIR_KEEP_ALL && ask->keep != WEIR_KEEP_OWN &&
         ask->keep != WEIR_KEEP_RATIO;
}
/* Whether the row is judged by the weights of its law: by RATIO, but where that is OWN. Such a row has a law
 * to race by until it is judged, and races if it is refused. */
static inline WEIR_HD bool weir_sample_weighs(const weir_ask *ask) {
  return ask->probe >= 0 && ask->keep == WEIR_KEEP_RATIO && ask->temperature > 0 && ask->n_draft > 0;
}
/* Whether `ask` needs a draw, given the raw statistics of all the vocabulary and the raw logit of the probe
 * (ignored without one); if not, its token is the probe. */
static inline WEIR_HD bool weir_sample_draws(const weir_ask *ask, const weir_sample_stat *s,
                                             float probe_logit) {
  return ask->probe < 0 || !weir_sample_keeps(ask, s, probe_logit);
}
/* What a draw has to do, given the best id and its logit of what is drawn from, the shaped row when there are
 * edits: returns the token, or -1 when a race must be run by *law. */
static inline WEIR_HD int32_t weir_sample_plan(const weir_ask *ask, int32_t top, float max,
                                               weir_sample_law *law) {
  if (!(ask->temperature > 0)) return top;
  law->max = max;
  law->temperature = ask->temperature;
  law->min_w = ask->min_p;
  law->min_key = 0;
  law->end_ties = INT32_MAX;
  law->top = top;
  law->head.at = INFINITY;
  law->head.id = INT32_MAX;
  law->head.logit = 0;
  law->seed = ask->seed;
  law->pos = ask->pos;
  law->purpose = weir_sample_again(ask)    ? WEIR_NOISE_AGAIN
                 : weir_sample_weighs(ask) ? WEIR_NOISE_REST
                                           : WEIR_NOISE_DRAW;
  return -1;
}
/* Whether an id of that logit and weight races. */
static inline WEIR_HD bool weir_sample_stays(const weir_sample_law *law, int32_t id, float logit, float w) {
  if (!(w > 0) || w < law->min_w) return false;
  const uint32_t key = weir_sample_key(logit);
  return key > law->min_key || (key == law->min_key && id < law->end_ties);
}

/* ---- RATIO: sum is that of the weights of all ids that race by the law, so that P(v) = w/sum ---- */

/* What the draft has of the sum: Q(v) sum. */
static inline WEIR_HD double weir_sample_share(float logprob, double sum) {
  return weir_muld(exp((double)logprob), sum);
}
/* Whether the probe stands; w: its weight, 0 when it is cut. */
static inline WEIR_HD bool weir_sample_ratio_keeps(const weir_ask *ask, float w, double sum) {
  float q = -INFINITY;
  for (int32_t i = 0; i < ask->n_draft; i++)
    if (ask->draft[i].id == ask->probe) q = ask->draft[i].logprob;
  const weir_noise4 n = weir_noise_quad(ask->seed, ask->pos, WEIR_NOISE_RATIO, 0);
  return weir_muld(weir_noise_unit(n.v[0]), weir_sample_share(q, sum)) <= (double)w;
}
/* Arrival of an id of the draft in the draw that replaces a refused probe: its weight is max(0, w - Q sum),
 * w being 0 when it is cut. That of an id not in the draft is w. */
static inline WEIR_HD weir_sample_win weir_sample_rest(const weir_sample_law *law, int32_t id, float w,
                                                       float logprob, double sum) {
  weir_sample_win win = {INFINITY, INT32_MAX, 0};
  const double rest = (double)w - weir_sample_share(logprob, sum);
  if (!(rest > 0)) return win;
  const weir_noise4 n = weir_noise_quad(law->seed, law->pos, law->purpose, (uint32_t)id / 4);
  const int32_t k = id % 4;
  const uint32_t bits = k == 0 ? n.v[0] : k == 1 ? n.v[1] : k == 2 ? n.v[2] : n.v[3];
  win.at = -log1p(-weir_noise_unit(bits)) / rest;
  win.id = id;
  return win;
}

/* Tells a law by its `n` likeliest ids, w their weights, 0 for one that does not race: out[WEIR_TOP_MAX],
 * which is all of it. */
static inline WEIR_HD void weir_sample_tell(const int32_t *id, const float *w, int32_t n, weir_top *out) {
  double sum = 0;
  int32_t told = 0;
  for (int32_t i = 0; i < n; i++) sum += (double)w[i];
  for (int32_t i = 0; i < n && told < WEIR_TOP_MAX; i++) {
    if (!(w[i] > 0)) continue;
    out[told].id = id[i];
    out[told++].logprob = (float)(log((double)w[i]) - log(sum));
  }
  for (; told < WEIR_TOP_MAX; told++) {
    out[told].id = -1;
    out[told].logprob = -INFINITY;
  }
}

/* Whether a race of this ask must be cut first; min_p alone needs none. */
static inline WEIR_HD bool weir_sample_cuts(const weir_ask *ask, int32_t n_valid) {
  return (ask->top_k > 0 && ask->top_k < n_valid) || ask->top_p < 1;
}
/* Whether the cut can be found by a list. A law that is to be told is one. */
static inline WEIR_HD bool weir_sample_lists(const weir_ask *ask, int32_t n_valid) {
  return ask->top_k > 0 && (ask->top_k < n_valid || ask->tell_law) && ask->top_k <= WEIR_SAMPLE_LIST;
}
/* Whether something comes between the plan of a race and the race. */
static inline WEIR_HD bool weir_sample_prepares(const weir_ask *ask, int32_t n_valid) {
  return weir_sample_cuts(ask, n_valid) || ask->tell_law;
}
static inline WEIR_HD void weir_sample_cut_begin(const weir_ask *ask, int32_t n_valid, weir_sample_cut *c) {
  const float scale = 64 / ask->temperature;
  c->level = 0;
  c->bin_scale = scale < 1e30f ? scale : 1e30f; /* times a distance of 0 it must be 0 */
  c->bin = 0;
  c->prefix = 0;
  c->has_k = ask->top_k > 0 && ask->top_k < n_valid;
  c->has_p = ask->top_p < 1;
  c->by_mass = !c->has_k;
  c->above = 0;
  c->want = c->has_k ? (uint64_t)ask->top_k : 0;
  c->top_p = ask->top_p;
  c->k_mass_above = 0;
  c->key = 0;
  c->ties = c->equal = 0;
}
/* How much must stay for top_p of a mass; at least something, so that the top token does. */
static inline WEIR_HD uint64_t weir_sample_wanted_mass(float top_p, uint64_t mass) {
  const double w = ceil((double)top_p * (double)mass);
  if (!(w >= 1)) return 1;
  return w >= (double)mass ? mass : (uint64_t)w;
}
/* Whether c->want is still to be had from the mass of the whole of level 0. */
static inline WEIR_HD bool weir_sample_cut_wants_all(const weir_sample_cut *c) {
  return c->by_mass && !c->has_k && c->level == 0;
}
/* The second half of a step, when the bin in which the search goes on is known: the highest one with which
 * c->want is reached, or 0. above: c->above and what the bins above it hold, of what is searched by;
 * mass_above: mass of the bins above it alone; count and mass: its own. Returns as weir_sample_cut_step. */
static inline WEIR_HD bool weir_sample_cut_enter(weir_sample_cut *c, int32_t b, uint64_t above,
                                                 uint64_t mass_above, uint32_t count, uint64_t mass,
                                                 weir_sample_law *law) {
  if (!c->by_mass) c->k_mass_above += mass_above;
  c->above = above;
  if (c->level == 0)
    c->bin = b;
  else
    c->prefix = c->prefix << (c->level == 3 ? 10 : 11) | (uint32_t)b;
  if (c->level++ < 3) return true;

  c->key = c->prefix;
  c->equal = (int32_t)count;
  const uint64_t each = count > 0 ? mass / count : 0; /* equal logits have equal weights */
  if (!c->by_mass) {
    c->ties = (int32_t)(c->want - above);
    if (c->has_p) { /* search again, by mass, in what is left */
      c->want = weir_sample_wanted_mass(c->top_p, c->k_mass_above + (uint64_t)c->ties * each);
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

/* `token` and its raw logit; the probe's logit is ignored without one. Statistics are the raw row's. */
static inline WEIR_HD void weir_sample_finish(const weir_ask *ask, const weir_sample_stat *s, int32_t token,
                                              float logit, float probe_logit, weir_row *row) {
  row->token = token;
  row->logprob = (float)weir_sample_logprob(s, logit);
  row->entropy = (float)weir_sample_entropy(s);
  row->p_max = (float)(1 / s->sum);
  row->margin = (float)(-expm1((double)s->second - s->max) / s->sum);
  row->probe_logprob = ask->probe >= 0 ? (float)weir_sample_logprob(s, probe_logit) : row->logprob;
  row->gate = 0; /* no business of the logits */
}

#endif
