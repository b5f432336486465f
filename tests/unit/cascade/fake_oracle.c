/* SPDX-License-Identifier: Apache-2.0 */
/* References for the policy: one model's own text, and a cascade of two tiers written down as a story,
 * without marks, needs or effects; and random configurations to compare them on. One thread. */
#include <math.h>
#include <string.h>

#include "fake_request.h"
#include "fake_route.h"

static void begin(const fake_job *j, fake_text *x) {
  memset(x, 0, sizeof *x);
  x->n = j->n_prompt;
  for (int i = 0; i < x->n; i++) x->tok[i] = 1 + i % 4;
}

static weir_row look(const fake_job *j, const fake_text *x, int32_t model, int32_t n, weir_keep keep,
                     float keep_a, float keep_b, int32_t probe) {
  weir_ask a = {.temperature = j->temperature,
                .top_k = j->top_k,
                .top_p = 1,
                .seed = j->seed,
                .pos = n,
                .probe = probe,
                .keep = keep,
                .keep_a = keep_a,
                .keep_b = keep_b};
  if (probe >= 0)
    a.probe_q = (float)log(fake_raw(0, fake_context(x->tok, n))[probe]); /* its drafts alone are judged */
  weir_row r;
  fake_row(&r, model, fake_context(x->tok, n), &a);
  return r;
}

void fake_alone(const fake_job *j, int32_t model, fake_text *x) {
  begin(j, x);
  while (!fake_ended(x->tok, x->n, j->n_prompt, j->n_max)) {
    x->tok[x->n] = look(j, x, model, x->n, WEIR_KEEP_ALL, 0, 0, -1).token;
    x->n++;
  }
}

static void write(fake_text *x, int32_t token, int tier, weir_why why, float entropy) {
  x->receipt[x->n] = (weir_receipt){.entropy = entropy, .tier = (uint8_t)tier, .why = (uint8_t)why};
  x->tok[x->n++] = token;
}

/* The large tier reads the draft tok[first..n): the first token it refuses is replaced and the rest dropped.
 * True when the whole draft stands. */
static bool judge(const fake_job *j, fake_text *x, int32_t first) {
  const weir_cascade_cfg *g = j->cfg;
  for (int32_t pos = first; pos < x->n; pos++) {
    const weir_row r = look(j, x, 2, pos, g->keep[1], g->keep_a[1], g->keep_b[1], x->tok[pos]);
    if (r.token != x->tok[pos]) {
      const float entropy = x->receipt[pos].entropy;
      x->n = pos;
      write(x, r.token, 1, WEIR_WHY_REPLACED, entropy);
      return false;
    }
    if (g->keep[1] != WEIR_KEEP_ALL) x->receipt[pos].why = WEIR_WHY_KEPT;
  }
  return true;
}

void fake_oracle(const fake_job *j, fake_text *x) {
  const weir_cascade_cfg *g = j->cfg;
  fake_route_count count;
  if (g->route.on) {
    fake_route_oracle(j, x, &count);
    return;
  }
  const bool eager = g->commit_tier == 0, no_small = weir_gate_never_passes(g->gate[0]) && !j->pinned;
  int32_t passed = j->n_prompt, shown = j->n_prompt, hold = 0; /* passed: endorsed by the large tier */
  begin(j, x);
  for (;;) {
    const bool ended = fake_ended(x->tok, x->n, j->n_prompt, j->n_max);
    if (eager || j->pinned) shown = x->n;
    if (x->n - g->horizon > shown) shown = x->n - g->horizon;
    if (passed > shown) shown = passed;
    if (ended && shown == x->n) return;
    const bool full = shown < x->n && x->n - passed >= g->window[0];
    float entropy = NAN;
    weir_why why = WEIR_WHY_HOLD;
    if (j->pinned || (!ended && hold == 0 && !full && !no_small)) { /* the small tier's turn */
      const weir_row r = look(j, x, j->pinned && g->n_tiers == 1 ? 2 : 0, x->n, WEIR_KEEP_ALL, 0, 0, -1);
      const bool defers = weir_gate_defers(g->gate[0], &r);
      x->calls[0]++;
      if (j->pinned || !defers) {
        write(x, r.token, 0, WEIR_WHY_EASY, r.entropy);
        x->receipt[x->n - 1].wanted_up = defers;
        continue;
      }
      entropy = r.entropy;
      why = WEIR_WHY_DEFERRED;
    } else if (full) {
      why = WEIR_WHY_WINDOW;
    }
    x->calls[1]++; /* the large tier's: judge what is not shown yet, then write */
    const bool stands = judge(j, x, passed > shown ? passed : shown);
    if (stands && !ended) {
      const weir_row r = look(j, x, 2, x->n, WEIR_KEEP_ALL, 0, 0, -1);
      if (no_small)
        write(x, r.token, 1, WEIR_WHY_EASY, r.entropy);
      else
        write(x, r.token, 1, why, entropy);
    }
    passed = x->n;
    if (stands && ended) continue;
    hold = why == WEIR_WHY_HOLD && stands ? hold - 1 : (g->hold[1] > 1 ? g->hold[1] - 1 : 0);
    if (no_small) hold = 0;
  }
}

/* ---- configurations ---- */

/* Maps of both directions, level in places. */
static const weir_gate_map maps[] = {
    {WEIR_STAT_ENTROPY, 4, {0.2f, 0.8f, 1.2f, 2}, {0.01f, 0.2f, 0.2f, 0.9f}},
    {WEIR_STAT_TOP_PROB, 3, {0.2f, 0.5f, 0.95f}, {1, 0.3f, 0}},
    {WEIR_STAT_MARGIN, 2, {0.05f, 0.7f}, {0.8f, 0.1f}},
};

weir_gate fake_any_gate(void) {
  const float step = (float)fake_rnd(6);
  switch (fake_rnd(12)) {
    case 9:
    case 10:
      return (weir_gate){
          .kind = WEIR_GATE_ISOTONIC, .threshold = 0.1f + 0.12f * step, .map = &maps[fake_rnd(3)]};
    case 11: return (weir_gate){.kind = WEIR_GATE_HEAD, .threshold = 0.1f + 0.15f * step};
    case 8: return (weir_gate){.kind = WEIR_GATE_CHANCE, .threshold = 0.1f + 0.15f * step};
    case 0: return (weir_gate){.kind = WEIR_GATE_ENTROPY, .threshold = INFINITY};
    case 1:
    case 2: return (weir_gate){.kind = WEIR_GATE_TOP_PROB, .threshold = 0.3f + 0.1f * step};
    case 3:
    case 4: return (weir_gate){.kind = WEIR_GATE_MARGIN, .threshold = 0.05f + 0.1f * step};
    default: return (weir_gate){.kind = WEIR_GATE_ENTROPY, .threshold = 0.6f + 0.2f * step};
  }
}

weir_cascade_cfg fake_verified(int32_t n_tiers, int32_t window, weir_gate gate, weir_keep keep) {
  weir_cascade_cfg g = {.n_tiers = n_tiers, .commit_tier = n_tiers - 1, .horizon = WEIR_FAR};
  for (int t = 0; t < WEIR_MAX_TIERS; t++) {
    g.window[t] = window < WEIR_FAR ? window + t * 2 : window;
    g.hold[t] = 1;
    g.gate[t] = gate;
    g.keep[t] = keep;
    g.keep_a[t] = 1;
  }
  return g;
}

weir_cascade_cfg fake_any_cfg(void) {
  static const weir_keep keeps[] = {WEIR_KEEP_ALL, WEIR_KEEP_OWN,    WEIR_KEEP_OWN, WEIR_KEEP_OWN,
                                    WEIR_KEEP_OWN, WEIR_KEEP_NLL,    WEIR_KEEP_V1,  WEIR_KEEP_V2,
                                    WEIR_KEEP_V3,  WEIR_KEEP_TYPICAL};
  weir_cascade_cfg g =
      fake_verified(2 + (int32_t)fake_rnd(2), 1 + (int32_t)fake_rnd(6), fake_any_gate(), WEIR_KEEP_ALL);
  for (int t = 0; t < 3; t++) {
    if (fake_rnd(2)) g.gate[t] = fake_any_gate();
    g.hold[t] = (int32_t)fake_rnd(5);
    g.keep[t] = keeps[fake_rnd(10)];
    g.keep_a[t] = g.keep[t] > WEIR_KEEP_NLL ? 0.2f * (float)fake_rnd(6) : 0.5f * (float)fake_rnd(6);
    g.keep_b[t] = 0.3f * (float)fake_rnd(6);
  }
  switch (fake_rnd(4)) {
    case 0: g.commit_tier = 0; break;
    case 1: g.horizon = (int32_t)fake_rnd(6); break;
    case 2: g.commit_tier = (int32_t)fake_rnd((uint32_t)g.n_tiers); break;
  }
  for (int t = g.commit_tier + 1; t < g.n_tiers; t++) g.keep[t] = WEIR_KEEP_ALL;
  if (!fake_rnd(8))
    g.gate[fake_rnd(2)] = fake_rnd(2) ? (weir_gate){.kind = WEIR_GATE_ENTROPY, .threshold = -1}
                                      : (weir_gate){.kind = WEIR_GATE_MARGIN, .threshold = 2};
  const char *wrong = weir_cascade_cfg_error(&g);
  FAKE_CHECK(!wrong, "a sound configuration is refused: %s", wrong);
  return g;
}

fake_job fake_any_job(const weir_cascade_cfg *g, uint64_t seed) {
  static const float temperatures[] = {0, 0.7f, 1.f, 1.5f};
  fake_job j = {
      .cfg = g, .seed = seed, .temperature = temperatures[fake_rnd(4)], .top_k = (int32_t)fake_rnd(2) * 3};
  j.n_prompt = 1 + (int32_t)fake_rnd(9);
  j.n_max = j.n_prompt + 1 + (int32_t)fake_rnd(40);
  return j;
}

bool fake_is_exact(const weir_cascade_cfg *g) {
  return g->commit_tier == g->n_tiers - 1 && g->horizon == WEIR_FAR &&
         g->keep[g->n_tiers - 1] == WEIR_KEEP_OWN;
}
