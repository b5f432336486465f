/* SPDX-License-Identifier: Apache-2.0 */
/* Tables of logits by hashed context, statistics worked out once, and draws as races over shared noise: the
 * rules of kernels/row.h said again in the plainest way. One thread. */
#include "fake_models.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/noise.h"

static double logit[FAKE_MODELS][FAKE_CTX][FAKE_V], raw[FAKE_MODELS][FAKE_CTX][FAKE_V];
static double law[FAKE_MODELS][FAKE_CTX][FAKE_V];
static bool have_law[FAKE_MODELS][FAKE_CTX];
static float law_temperature;
static int32_t law_top_k;
static weir_row stats[FAKE_MODELS][FAKE_CTX];
static uint64_t rng;
static const char *case_suite = "";
static long case_number;

void fake_seed(uint64_t seed) { rng = seed; }

uint32_t fake_rnd(uint32_t n) { /* splitmix64 */
  rng += 0x9e3779b97f4a7c15ull;
  uint64_t x = rng;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return (uint32_t)((x ^ (x >> 31)) >> 32) % n;
}

bool fake_long(int argc, char **argv) {
  for (int i = 1; i < argc; i++)
    if (!strcmp(argv[i], "--long")) return true;
  return false;
}

void fake_case(const char *suite, long number) {
  case_suite = suite;
  case_number = number;
}

void fake_fail(const char *file, int line, const char *fmt, ...) {
  char msg[512];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(msg, sizeof msg, fmt, ap);
  va_end(ap);
  print_error("%s, case %ld: %s\n", case_suite, case_number, msg);
  _fail(file, line);
  for (;;) {
  }
}

static void softmax(double *p, const double *z, double temperature) {
  int32_t best = 0;
  double sum = 0;
  for (int32_t v = 1; v < FAKE_V; v++)
    if (z[v] > z[best]) best = v;
  for (int32_t v = 0; v < FAKE_V; v++)
    p[v] = temperature > 0 ? exp((z[v] - z[best]) / temperature) : v == best;
  for (int32_t v = 0; v < FAKE_V; v++) sum += p[v];
  for (int32_t v = 0; v < FAKE_V; v++) p[v] /= sum;
}

static void cut_top_k(double *p, int32_t k) {
  double sum = 0;
  bool in[FAKE_V] = {false};
  for (int32_t i = 0; i < k && i < FAKE_V; i++) {
    int32_t best = -1;
    for (int32_t v = 0; v < FAKE_V; v++)
      if (!in[v] && (best < 0 || p[v] > p[best])) best = v;
    in[best] = true;
  }
  for (int32_t v = 0; v < FAKE_V; v++) sum += p[v] = in[v] ? p[v] : 0;
  for (int32_t v = 0; v < FAKE_V; v++) p[v] /= sum;
}

static weir_row stats_of(const double *p) {
  double h = 0, first = 0, second = 0;
  for (int32_t v = 0; v < FAKE_V; v++) {
    h -= p[v] * log(p[v]);
    if (p[v] > first) {
      second = first;
      first = p[v];
    } else if (p[v] > second) {
      second = p[v];
    }
  }
  return (weir_row){.entropy = (float)h,
                    .p_max = (float)first,
                    .margin = (float)(first - second),
                    .gate = (float)(second / first)};
}

static double uniform(void) { return 2 * ((double)fake_rnd(1u << 30) / (1u << 30)) - 1; }

void fake_models_make(uint64_t seed) {
  fake_seed(seed);
  memset(have_law, 0, sizeof have_law);
  for (int c = 0; c < FAKE_CTX; c++) {
    /* some contexts are certain for everybody, some open: gates must see both */
    const double sharp = 1.2 + (c % 4);
    for (int v = 0; v < FAKE_V; v++) {
      logit[2][c][v] = sharp * uniform() - (v == FAKE_EOS);
      logit[1][c][v] = logit[2][c][v] + 0.6 * uniform();
      logit[0][c][v] = logit[2][c][v] + 1.3 * uniform();
    }
    for (int m = 0; m < FAKE_MODELS; m++) {
      softmax(raw[m][c], logit[m][c], 1);
      stats[m][c] = stats_of(raw[m][c]);
    }
  }
}

int32_t fake_model_of(const weir_cascade_cfg *g, int32_t tier) {
  return tier == g->n_tiers - 1 ? FAKE_MODELS - 1 : tier;
}

int32_t fake_context(const int32_t *tok, int32_t n) {
  uint32_t h = 7;
  for (int32_t i = 0; i < n; i++) h = (h ^ (uint32_t)tok[i]) * 2654435761u, h ^= h >> 13;
  return (int32_t)(h % FAKE_CTX);
}

const double *fake_law(int32_t model, int32_t ctx, float temperature, int32_t top_k) {
  if (temperature != law_temperature || top_k != law_top_k) memset(have_law, 0, sizeof have_law);
  law_temperature = temperature;
  law_top_k = top_k;
  double *p = law[model][ctx];
  if (!have_law[model][ctx]) {
    softmax(p, logit[model][ctx], (double)temperature);
    if (top_k > 0) cut_top_k(p, top_k);
    have_law[model][ctx] = true;
  }
  return p;
}

const weir_row *fake_stats(int32_t model, int32_t ctx) { return &stats[model][ctx]; }
const double *fake_raw(int32_t model, int32_t ctx) { return raw[model][ctx]; }

/* Token v arrives at Exp(1)/p[v]; the first one is the draw. */
static int32_t race(const double *p, const weir_ask *a, uint32_t purpose) {
  int32_t best = -1;
  double first = INFINITY;
  for (int32_t v = 0; v < FAKE_V; v++) {
    if (p[v] <= 0) continue;
    const uint32_t bits = weir_noise_quad(a->seed, a->pos, purpose, (uint32_t)v / 4).v[v % 4];
    const double at = -log1p(-weir_noise_unit(bits)) / p[v];
    if (at < first) {
      first = at;
      best = v;
    }
  }
  return best;
}

static bool stands(const weir_ask *a, double p, const weir_row *s) {
  const double x = (double)a->keep_a, max = (double)s->p_max;
  switch (a->keep) {
    case WEIR_KEEP_ALL: return true;
    case WEIR_KEEP_OWN:
    case WEIR_KEEP_RATIO: return false;
    case WEIR_KEEP_NLL: return -log(p) <= x;
    case WEIR_KEEP_V1: return exp((double)a->probe_q) >= max - x;
    case WEIR_KEEP_V2: return p >= max - x;
    case WEIR_KEEP_V3: return p >= (1 - x) * max;
    case WEIR_KEEP_TYPICAL: return p > fmin(x, (double)a->keep_b * exp(-(double)s->entropy));
  }
  return false;
}

void fake_row(weir_row *out, int32_t model, int32_t ctx, const weir_ask *a) {
  const double *p = fake_law(model, ctx, a->temperature, a->top_k), *p1 = raw[model][ctx];
  *out = stats[model][ctx];
  if (a->probe >= 0 && stands(a, p1[a->probe], out))
    out->token = a->probe;
  else
    out->token =
        race(p, a,
             a->probe < 0 || a->keep == WEIR_KEEP_OWN || a->keep == WEIR_KEEP_RATIO ? WEIR_NOISE_DRAW
                                                                                    : WEIR_NOISE_AGAIN);
  out->logprob = (float)log(p1[out->token]);
  out->probe_logprob = a->probe < 0 ? out->logprob : (float)log(p1[a->probe]);
}

bool fake_ended(const int32_t *tok, int32_t n, int32_t n_prompt, int32_t n_max) {
  return n == n_max || (n > n_prompt && tok[n - 1] == FAKE_EOS) ||
         (n > n_prompt + 1 && tok[n - 2] == 3 && tok[n - 1] == 1);
}
