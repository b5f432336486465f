/* SPDX-License-Identifier: Apache-2.0 */
/* The policy by example: gates, unsound configurations, one scripted run of each mode, and the ends of the
 * scale (small only, large only, pinned) and every two-tier configuration against references that know no
 * policy. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "fake_request.h"

static int n_cases = 1500;

static void gates(void **state) {
  (void)state;
  static const struct {
    weir_gate gate;
    weir_row row;
    bool defers, never;
  } table[] = {
      {{.kind = WEIR_GATE_ENTROPY, .threshold = 0.5f}, {.entropy = 0.5f}, false, false},
      {{.kind = WEIR_GATE_ENTROPY, .threshold = 0.5f}, {.entropy = 0.50001f}, true, false},
      {{.kind = WEIR_GATE_ENTROPY, .threshold = 0}, {.entropy = 0}, false, false},
      {{.kind = WEIR_GATE_ENTROPY, .threshold = 0}, {.entropy = 1e-6f}, true, false},
      {{.kind = WEIR_GATE_ENTROPY, .threshold = -1}, {.entropy = 0}, true, true},
      {{.kind = WEIR_GATE_ENTROPY, .threshold = INFINITY}, {.entropy = 11}, false, false},
      {{.kind = WEIR_GATE_TOP_PROB, .threshold = 0.6f}, {.p_max = 0.6f, .entropy = 9}, false, false},
      {{.kind = WEIR_GATE_TOP_PROB, .threshold = 0.6f}, {.p_max = 0.59f}, true, false},
      {{.kind = WEIR_GATE_TOP_PROB, .threshold = 0}, {.p_max = 0.001f}, false, false},
      {{.kind = WEIR_GATE_TOP_PROB, .threshold = 1}, {.p_max = 1}, false, false},
      {{.kind = WEIR_GATE_TOP_PROB, .threshold = 1.01f}, {.p_max = 1}, true, true},
      {{.kind = WEIR_GATE_MARGIN, .threshold = 0.3f}, {.margin = 0.3f, .p_max = 0.1f}, false, false},
      {{.kind = WEIR_GATE_MARGIN, .threshold = 0.3f}, {.margin = 0.2f}, true, false},
      {{.kind = WEIR_GATE_MARGIN, .threshold = -1}, {.margin = 0}, false, false},
      {{.kind = WEIR_GATE_MARGIN, .threshold = 2}, {.margin = 1}, true, true},
  };
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    fake_case("gates", (long)i);
    FAKE_CHECK(weir_gate_defers(table[i].gate, &table[i].row) == table[i].defers, "want defers %d",
               table[i].defers);
    FAKE_CHECK(weir_gate_never_passes(table[i].gate) == table[i].never, "want never passes %d",
               table[i].never);
  }
}

/* The coin falls as often as it should, for easy rows and hard ones alike, and the same way for the same row.
 */
static void chance_gate(void **state) {
  (void)state;
  enum { N = 20000 };
  static const float rates[] = {0, 0.05f, 0.3f, 0.9f, 1};
  for (size_t k = 0; k < sizeof rates / sizeof *rates; k++) {
    const weir_gate g = {.kind = WEIR_GATE_CHANCE, .threshold = rates[k]};
    int n[2] = {0};
    for (int i = 0; i < 2 * N; i++) {
      const float h = (i % 2 ? 3.0f : 0.01f) + (float)(i / 2) * 1e-6f; /* odd: hard, even: easy */
      const weir_row r = {.token = i % 7, .entropy = h, .p_max = expf(-h), .logprob = -h};
      const bool defers = weir_gate_defers(g, &r);
      n[i % 2] += defers;
      FAKE_CHECK(defers == weir_gate_defers(g, &r), "the same row, another coin at %d", i);
    }
    for (int hard = 0; hard < 2; hard++) {
      const double want = (double)rates[k] * N, sd = sqrt(want * (1 - (double)rates[k]));
      FAKE_CHECK(fabs(n[hard] - want) <= 4.5 * sd, "rate %g: %d of %d", (double)rates[k], n[hard], N);
    }
    FAKE_CHECK(weir_gate_never_passes(g) == (rates[k] >= 1), "rate %g", (double)rates[k]);
  }
}

/* What was drawn does not move the coin: a deferral that depends on the draw would change the law of the
 * text. Each of the three statistics moves it, by itself. */
static void chance_gate_is_blind_to_draws(void **state) {
  (void)state;
  const weir_gate g = {.kind = WEIR_GATE_CHANCE, .threshold = 0.5f};
  int moved[3] = {0};
  for (int i = 0; i < 200; i++) {
    const weir_row r = {.entropy = 1 + (float)i * 0.01f, .p_max = 0.4f, .margin = 0.1f};
    const float score = weir_gate_score(g, &r);
    weir_row draw[4] = {r, r, r, r};
    draw[0].token = i + 1;
    draw[1].logprob = -0.5f;
    draw[2].probe_logprob = -2;
    draw[3].gate = 0.7f;
    for (int k = 0; k < 4; k++)
      FAKE_CHECK(weir_gate_score(g, &draw[k]) == score, "draw %d: another coin at %d", k, i);
    weir_row stat[3] = {r, r, r};
    stat[0].entropy += 0.001f;
    stat[1].p_max += 0.001f;
    stat[2].margin += 0.001f;
    for (int k = 0; k < 3; k++) moved[k] += weir_gate_defers(g, &stat[k]) != weir_gate_defers(g, &r);
  }
  for (int k = 0; k < 3; k++)
    FAKE_CHECK(moved[k] > 60 && moved[k] < 140, "statistic %d: %d of 200", k, moved[k]);
}

typedef void spoil(weir_cascade_cfg *);
static void no_tiers(weir_cascade_cfg *g) { g->n_tiers = 0; }
static void five_tiers(weir_cascade_cfg *g) { g->n_tiers = 5; }
static void commit_below(weir_cascade_cfg *g) { g->commit_tier = -1; }
static void commit_above(weir_cascade_cfg *g) { g->commit_tier = 2; }
static void horizon_negative(weir_cascade_cfg *g) { g->horizon = -1; }
static void horizon_beyond(weir_cascade_cfg *g) { g->horizon = WEIR_FAR + 1; }
static void window_none(weir_cascade_cfg *g) { g->window[0] = 0; }
static void window_beyond(weir_cascade_cfg *g) { g->window[0] = WEIR_FAR + 1; }
static void hold_negative(weir_cascade_cfg *g) { g->hold[1] = -1; }
static void hold_beyond(weir_cascade_cfg *g) { g->hold[0] = WEIR_FAR + 1; }
static void gate_unknown(weir_cascade_cfg *g) { g->gate[0].kind = (weir_gate_kind)6; }
static void gate_nan(weir_cascade_cfg *g) { g->gate[0].threshold = NAN; }
static void keep_unknown(weir_cascade_cfg *g) { g->keep[1] = (weir_keep)WEIR_N_KEEPS; }
static void nll_nan(weir_cascade_cfg *g) { g->keep_a[1] = NAN; }
static void nll_negative(weir_cascade_cfg *g) { g->keep_a[1] = -0.1f; }
static void alpha_of(weir_cascade_cfg *g, weir_keep keep, float alpha) {
  g->keep[1] = keep;
  g->keep_a[1] = alpha;
}
static void v1_above(weir_cascade_cfg *g) { alpha_of(g, WEIR_KEEP_V1, 1.01f); }
static void v2_negative(weir_cascade_cfg *g) { alpha_of(g, WEIR_KEEP_V2, -0.01f); }
static void v3_nan(weir_cascade_cfg *g) { alpha_of(g, WEIR_KEEP_V3, NAN); }
static void epsilon_above(weir_cascade_cfg *g) { alpha_of(g, WEIR_KEEP_TYPICAL, 1.01f); }
static void delta_negative(weir_cascade_cfg *g) {
  alpha_of(g, WEIR_KEEP_TYPICAL, 0.1f);
  g->keep_b[1] = -0.1f;
}
static void delta_nan(weir_cascade_cfg *g) {
  alpha_of(g, WEIR_KEEP_TYPICAL, 0.1f);
  g->keep_b[1] = NAN;
}
static void eager_judge(weir_cascade_cfg *g) { g->commit_tier = 0; }
static void eager_own(weir_cascade_cfg *g) {
  g->commit_tier = 0;
  g->keep[1] = WEIR_KEEP_OWN;
}

static void unsound(void **state) {
  (void)state;
  static const struct {
    spoil *spoil;
    const char *says;
  } table[] = {
      {no_tiers, "number of tiers"},
      {five_tiers, "number of tiers"},
      {commit_below, "commit tier"},
      {commit_above, "commit tier"},
      {horizon_negative, "horizon"},
      {horizon_beyond, "horizon"},
      {window_none, "window"},
      {window_beyond, "window"},
      {hold_negative, "hold"},
      {hold_beyond, "hold"},
      {gate_unknown, "kind"},
      {gate_nan, "not a number"},
      {keep_unknown, "keep rule"},
      {nll_nan, "not a number >= 0"},
      {nll_negative, "not a number >= 0"},
      {v1_above, "alpha is not in 0 .. 1"},
      {v2_negative, "alpha is not in 0 .. 1"},
      {v3_nan, "alpha is not in 0 .. 1"},
      {epsilon_above, "epsilon is not in 0 .. 1"},
      {delta_negative, "delta is not a number >= 0"},
      {delta_nan, "delta is not a number >= 0"},
      {eager_judge, "cannot be recalled"},
      {eager_own, "cannot be recalled"},
  };
  const weir_cascade_cfg sound =
      fake_verified(2, 4, (weir_gate){.kind = WEIR_GATE_ENTROPY, .threshold = 1}, WEIR_KEEP_NLL);
  assert_null(weir_cascade_cfg_error(&sound));
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    weir_cascade_cfg g = sound;
    fake_case("unsound", (long)i);
    table[i].spoil(&g);
    const char *says = weir_cascade_cfg_error(&g);
    FAKE_CHECK(says && strstr(says, table[i].says), "said \"%s\", want \"%s\"", says ? says : "sound",
               table[i].says);
  }
  weir_cascade_cfg g = sound; /* what is not used is not looked at */
  g.gate[1].threshold = NAN;
  g.window[1] = 0;
  g.keep[0] = (weir_keep)9;
  g.keep_a[0] = NAN;
  assert_null(weir_cascade_cfg_error(&g));
  g.keep[1] = WEIR_KEEP_OWN;
  g.keep_a[1] = NAN;
  assert_null(weir_cascade_cfg_error(&g));
  g = fake_verified(4, WEIR_FAR, (weir_gate){.kind = WEIR_GATE_MARGIN, .threshold = INFINITY},
                    WEIR_KEEP_OWN); /* limits are allowed */
  g.window[2] = 1;
  g.hold[3] = 0;
  g.hold[2] = WEIR_FAR;
  assert_null(weir_cascade_cfg_error(&g));
  g.horizon = 0;
  assert_null(weir_cascade_cfg_error(&g));
  g.n_tiers = 1;
  g.commit_tier = 0;
  assert_null(weir_cascade_cfg_error(&g));
}

/* ---- scripted runs: rows by hand ---- */

typedef struct line {
  weir_need want; /* what must be asked */
  weir_row rows[4];
  weir_effect says;             /* truncate_to, append, endorsed_to, reason, why, wanted_up are compared */
  int32_t committed, held_back; /* after apply: tokens shown, tokens not yet */
  bool ends;                    /* the text ends with this effect */
} line;

static void play(const weir_cascade_cfg *g, const line *script, int n_lines, const char *name) {
  int32_t tok[FAKE_LONG] = {7, 8, 9};
  weir_cascade c;
  weir_view v = {.tok = tok, .n = 3, .committed = 3, .mark = {3, 3, 3, 3}};
  weir_need q;
  weir_effect e;
  weir_cascade_init(&c, g, false);
  for (int i = 0; i < n_lines; i++) {
    const line *l = &script[i];
    fake_case(name, i);
    FAKE_CHECK(weir_cascade_need(&c, &v, &q), "finished early");
    FAKE_CHECK(q.tier == l->want.tier && q.from == l->want.from && q.to == l->want.to &&
                   q.out_from == l->want.out_from && q.judge_from == l->want.out_from + 1,
               "asks tier %d for [%d,%d) rows from %d", (int)q.tier, (int)q.from, (int)q.to, (int)q.out_from);
    weir_cascade_observe(&c, &v, &q, l->rows, &e);
    FAKE_CHECK(e.truncate_to == l->says.truncate_to && e.append == l->says.append &&
                   e.reason == l->says.reason && e.endorsed_to == l->says.endorsed_to &&
                   e.why == l->says.why && e.wanted_up == l->says.wanted_up,
               "truncate_to %d append %d endorsed_to %d reason %d why %d", (int)e.truncate_to, (int)e.append,
               (int)e.endorsed_to, e.reason, e.why);
    v.kv_len[q.tier] = q.to;
    weir_cascade_apply(&c, &e, tok, &v);
    v.ended = l->ends;
    FAKE_CHECK(v.committed == l->committed && v.n - v.committed == l->held_back, "committed %d of %d",
               (int)v.committed, (int)v.n);
  }
  fake_case(name, n_lines);
  FAKE_CHECK(!weir_cascade_need(&c, &v, &q), "does not finish");
}

#define ROW(t, h) \
  { .token = (t), .entropy = (h) }
#define ASKS(...) \
  { __VA_ARGS__, 0 } /* tier, from, to, out_from */
#define WROTE(t, to, y) \
  { .truncate_to = -1, .append = (t), .endorsed_to = (to), .reason = WEIR_WROTE, .why = (y) }
#define NOTHING(to, r) \
  { .truncate_to = -1, .append = -1, .endorsed_to = (to), .reason = (r) }
#define REPLACED(at, t)                                                                   \
  {                                                                                       \
    .truncate_to = (at), .append = (t), .endorsed_to = (at) + 1, .reason = WEIR_REPLACED, \
    .why = WEIR_WHY_REPLACED                                                              \
  }

static void script_defer(void **state) {
  (void)state;
  weir_cascade_cfg g =
      fake_verified(2, WEIR_FAR, (weir_gate){.kind = WEIR_GATE_ENTROPY, .threshold = 1}, WEIR_KEEP_ALL);
  g.commit_tier = 0;
  g.hold[1] = 2;
  static const line script[] = {
      {ASKS(0, 0, 3, 2), {ROW(11, 0.2f)}, WROTE(11, 4, WEIR_WHY_EASY), 4, 0, false}, /* prefill, and a token
                                                                                      */
      {ASKS(0, 3, 4, 3), {ROW(12, 1.5f)}, NOTHING(4, WEIR_DEFERRED), 4, 0, false},
      {ASKS(1, 0, 4, 3), {ROW(13, 2.5f)}, WROTE(13, 5, WEIR_WHY_DEFERRED), 5, 0, false}, /* first deferral:
                                                                                            prefill */
      {ASKS(1, 4, 5, 4), {ROW(14, 0.1f)}, WROTE(14, 6, WEIR_WHY_HOLD), 6, 0, false},
      {ASKS(0, 4, 6, 5), {ROW(15, 0.3f)}, WROTE(15, 7, WEIR_WHY_EASY), 7, 0, false}, /* catch-up of two */
      {ASKS(0, 6, 7, 6), {ROW(16, 1.1f)}, NOTHING(7, WEIR_DEFERRED), 7, 0, false},
      {ASKS(1, 5, 7, 6), {ROW(0, 0.1f)}, WROTE(0, 8, WEIR_WHY_DEFERRED), 8, 0, true},
  };
  play(&g, script, sizeof script / sizeof *script, "defer");
}

static void script_rollback(void **state) {
  (void)state;
  const weir_cascade_cfg g =
      fake_verified(2, 3, (weir_gate){.kind = WEIR_GATE_ENTROPY, .threshold = 1}, WEIR_KEEP_NLL);
  static const line script[] = {
      {ASKS(0, 0, 3, 2), {ROW(11, 0)}, WROTE(11, 4, WEIR_WHY_EASY), 3, 1, false},
      {ASKS(0, 3, 4, 3), {ROW(12, 0)}, WROTE(12, 5, WEIR_WHY_EASY), 3, 2, false},
      {ASKS(0, 4, 5, 4), {ROW(13, 9)}, NOTHING(5, WEIR_DEFERRED), 3, 2, false},
      {ASKS(1, 0, 5, 2), {ROW(11, 0), ROW(99, 0), ROW(5, 0)}, REPLACED(4, 99), 5, 0, false}, /* 12 is refused
                                                                                              */
      {ASKS(0, 4, 5, 4), {ROW(13, 0)}, WROTE(13, 6, WEIR_WHY_EASY), 5, 1, false},
      {ASKS(0, 5, 6, 5), {ROW(14, 0)}, WROTE(14, 7, WEIR_WHY_EASY), 5, 2, false},
      {ASKS(0, 6, 7, 6), {ROW(15, 0)}, WROTE(15, 8, WEIR_WHY_EASY), 5, 3, false},
      /* the window is full: the large tier is asked without another small step; all stand, and it writes on
       */
      {ASKS(1, 4, 8, 4),
       {ROW(13, 0), ROW(14, 0), ROW(15, 0), ROW(16, 0)},
       WROTE(16, 9, WEIR_WHY_WINDOW),
       9,
       0,
       false},
      {ASKS(0, 7, 9, 8), {ROW(0, 0)}, WROTE(0, 10, WEIR_WHY_EASY), 9, 1, true},
      /* the end is judged before it is final; refused, the text goes on */
      {ASKS(1, 8, 10, 8), {ROW(17, 0), ROW(3, 0)}, REPLACED(9, 17), 10, 0, false},
      {ASKS(0, 9, 10, 9), {ROW(0, 0)}, WROTE(0, 11, WEIR_WHY_EASY), 10, 1, true},
      {ASKS(1, 9, 11, 9), {ROW(0, 0), ROW(4, 0)}, NOTHING(11, WEIR_ENDORSED), 11, 0, true},
  };
  play(&g, script, sizeof script / sizeof *script, "rollback");
}

/* With a horizon the oldest drafts are shown before they are judged, and are then left alone. */
static void script_horizon(void **state) {
  (void)state;
  weir_cascade_cfg g =
      fake_verified(2, 4, (weir_gate){.kind = WEIR_GATE_ENTROPY, .threshold = 1}, WEIR_KEEP_OWN);
  g.horizon = 1;
  static const line script[] = {
      {ASKS(0, 0, 3, 2), {ROW(11, 0)}, WROTE(11, 4, WEIR_WHY_EASY), 3, 1, false},
      {ASKS(0, 3, 4, 3), {ROW(12, 0)}, WROTE(12, 5, WEIR_WHY_EASY), 4, 1, false},
      {ASKS(0, 4, 5, 4), {ROW(13, 2)}, NOTHING(5, WEIR_DEFERRED), 4, 1, false},
      {ASKS(1, 0, 5, 3), {ROW(12, 0), ROW(0, 0)}, WROTE(0, 6, WEIR_WHY_DEFERRED), 6, 0, true},
  };
  play(&g, script, sizeof script / sizeof *script, "horizon");
}

/* The large tier goes down after a deferral: the small one writes, and says that it wanted help. */
static void script_down(void **state) {
  (void)state;
  const weir_cascade_cfg g =
      fake_verified(2, 4, (weir_gate){.kind = WEIR_GATE_ENTROPY, .threshold = 1}, WEIR_KEEP_OWN);
  int32_t tok[FAKE_LONG] = {7};
  weir_cascade c;
  weir_view v = {.tok = tok, .n = 1, .committed = 1, .mark = {1, 1, 1, 1}};
  weir_need q;
  weir_effect e;
  weir_receipt receipt[8];
  weir_row row = ROW(11, 0.5f);
  fake_case("down", 0);
  weir_cascade_init(&c, &g, false);
  weir_receipts_begin(receipt, 1);
  assert_true(weir_cascade_need(&c, &v, &q));
  weir_cascade_observe(&c, &v, &q, &row, &e);
  weir_receipts_note(receipt, v.n, &e);
  weir_cascade_apply(&c, &e, tok, &v);
  row.entropy = 3;
  assert_true(weir_cascade_need(&c, &v, &q));
  weir_cascade_observe(&c, &v, &q, &row, &e);
  assert_int_equal(e.reason, WEIR_DEFERRED);
  weir_receipts_note(receipt, v.n, &e);
  weir_cascade_apply(&c, &e, tok, &v);
  assert_int_equal(v.committed, 1);
  c.hi = 0;
  assert_int_equal(weir_cascade_commit(&c, &v), 2); /* what was pending is shown as it is */
  v.committed = weir_cascade_commit(&c, &v);
  assert_true(weir_cascade_need(&c, &v, &q));
  assert_int_equal(q.tier, 0);
  weir_cascade_observe(&c, &v, &q, &row, &e);
  assert_int_equal(e.append, 11);
  assert_true(e.wanted_up);
  weir_receipts_note(receipt, v.n, &e);
  weir_cascade_apply(&c, &e, tok, &v);
  assert_int_equal(v.committed, 3);
  assert_int_equal(receipt[2].why, WEIR_WHY_EASY);
  assert_int_equal(receipt[2].tier, 0);
  assert_true(receipt[2].wanted_up && !receipt[1].wanted_up);
  assert_true(receipt[1].entropy == 0.5f && receipt[2].entropy == 3);
  assert_int_equal(receipt[3].why, WEIR_WHY_NONE);
}

/* Rows before judge_from, should a caller want them, are measured and not judged; the last row is a draw. */
static void asks(void **state) {
  (void)state;
  const weir_cascade_cfg g =
      fake_verified(2, 4, (weir_gate){.kind = WEIR_GATE_ENTROPY, .threshold = 1}, WEIR_KEEP_NLL);
  const int32_t tok[] = {7, 8, 9, 10, 11};
  const weir_view v = {.tok = tok, .n = 5, .committed = 3, .mark = {5, 3, 3, 3}};
  const weir_need q = {.tier = 1, .from = 0, .to = 5, .out_from = 0, .judge_from = 3};
  static const struct {
    int32_t probe;
    weir_keep keep;
  } want[] = {
      {8, WEIR_KEEP_ALL}, {9, WEIR_KEEP_ALL}, {10, WEIR_KEEP_NLL}, {11, WEIR_KEEP_NLL}, {-1, WEIR_KEEP_ALL}};
  weir_cascade c;
  weir_cascade_init(&c, &g, false);
  for (int32_t p = 0; p < 5; p++) {
    weir_ask a = {.temperature = 0.5f, .seed = 77, .top_k = 3};
    fake_case("asks", p);
    weir_cascade_ask(&c, &v, &q, p, &a);
    FAKE_CHECK(a.pos == p + 1 && a.probe == want[p].probe && a.keep == want[p].keep,
               "pos %d probe %d keep %d", (int)a.pos, (int)a.probe, a.keep);
    FAKE_CHECK(a.temperature == 0.5f && a.seed == 77 && a.top_k == 3, "the draw is the caller's");
  }
}

static void why_names(void **state) {
  (void)state;
  static const char *const want[] = {"none", "easy", "kept", "replaced", "deferred", "window", "hold"};
  for (int i = 0; i < 7; i++) assert_string_equal(weir_why_name((weir_why)i), want[i]);
}

/* ---- against references ---- */

static void ends_of_the_scale(void **state) {
  (void)state;
  static const fake_chaos some = {5, 5, 50, 0};
  static fake_req r;
  static fake_text small, large;
  for (int i = 0; i < n_cases; i++) {
    fake_case("ends of the scale", i);
    if (i % 100 == 0) fake_models_make(1000 + (uint64_t)i);
    fake_seed((uint64_t)i * 31 + 1);
    weir_cascade_cfg g = fake_any_cfg();
    fake_job j = fake_any_job(&g, (uint64_t)i);
    fake_alone(&j, 0, &small);
    fake_alone(&j, 2, &large);

    j.pinned = true;
    fake_open(&r, &j);
    fake_finish(&r, &some);
    fake_same_text(&r, &small, "pinned");
    FAKE_CHECK(!r.calls[1] && !r.calls[2], "a pinned request reached a larger tier");
    j.pinned = false;

    weir_cascade_cfg s = g; /* tau = inf, eager: small only */
    s.commit_tier = 0;
    for (int t = 0; t < 3; t++)
      s.gate[t] = (weir_gate){.kind = WEIR_GATE_ENTROPY, .threshold = INFINITY}, s.keep[t] = WEIR_KEEP_ALL;
    j.cfg = &s;
    fake_open(&r, &j);
    fake_finish(&r, &some);
    fake_same_text(&r, &small, "small");
    FAKE_CHECK(!r.calls[1] && !r.calls[2], "small mode ran a larger tier");

    s.gate[0].threshold = 0; /* tau = 0 is not tau < 0 */
    fake_open(&r, &j);
    fake_finish(&r, &some);
    FAKE_CHECK(r.calls[0] > 0, "tau = 0 skipped the small tier");

    weir_cascade_cfg b = g; /* tau < 0: large only, whatever the rule and the commit */
    for (int t = 0; t < 3; t++)
      b.gate[t] = i % 2 ? (weir_gate){.kind = WEIR_GATE_ENTROPY, .threshold = -1}
                        : (weir_gate){.kind = WEIR_GATE_TOP_PROB, .threshold = 1.5f};
    j.cfg = &b;
    fake_open(&r, &j);
    fake_finish(&r, &some);
    fake_same_text(&r, &large, "large");
    FAKE_CHECK(!r.calls[0] && !r.v.kv_len[0] && (g.n_tiers == 2 || !r.calls[1]),
               "large mode ran a smaller tier");

    weir_cascade_cfg one = {.n_tiers = 1, .horizon = g.horizon, .hold = {g.hold[0]}}; /* one tier alone */
    j.cfg = &one;
    fake_open(&r, &j);
    fake_finish(&r, &some);
    fake_same_text(&r, &large, "single tier");
  }
}

static void two_tiers_as_told(void **state) {
  (void)state;
  static fake_req r;
  static fake_text x;
  long whys[7] = {0}, wanted = 0;
  for (int i = 0; i < n_cases * 4; i++) {
    fake_case("two tiers as told", i);
    if (i % 100 == 0) fake_models_make((uint64_t)i);
    fake_seed((uint64_t)i * 57 + 11);
    weir_cascade_cfg g;
    do g = fake_any_cfg();
    while (g.n_tiers != 2);
    fake_job j = fake_any_job(&g, (uint64_t)i);
    j.pinned = i % 16 == 0;
    fake_open(&r, &j);
    fake_finish(&r, &fake_calm);
    fake_oracle(&j, &x);
    fake_same_text(&r, &x, "cascade");
    fake_same_receipts(&r, &x);
    for (int t = 0; t < 2; t++)
      FAKE_CHECK(r.calls[t] == x.calls[t], "tier %d took %d steps, want %d", t, (int)r.calls[t],
                 (int)x.calls[t]);
    for (int32_t k = j.n_prompt; k < x.n; k++) whys[x.receipt[k].why]++, wanted += x.receipt[k].wanted_up;
  }
  for (int w = WEIR_WHY_EASY; w <= WEIR_WHY_HOLD; w++) /* the comparison has met every kind of token */
    FAKE_CHECK(whys[w] > n_cases / 10, "only %ld tokens were \"%s\"", whys[w], weir_why_name((weir_why)w));
  FAKE_CHECK(whys[WEIR_WHY_NONE] == 0 && wanted > 0, "%ld tokens without a reason, %ld wanted up", whys[0],
             wanted);
}

int main(int argc, char **argv) {
  if (fake_long(argc, argv)) n_cases = 6000;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(gates),
      cmocka_unit_test(chance_gate),
      cmocka_unit_test(chance_gate_is_blind_to_draws),
      cmocka_unit_test(unsound),
      cmocka_unit_test(script_defer),
      cmocka_unit_test(script_rollback),
      cmocka_unit_test(script_horizon),
      cmocka_unit_test(script_down),
      cmocka_unit_test(asks),
      cmocka_unit_test(why_names),
      cmocka_unit_test(ends_of_the_scale),
      cmocka_unit_test(two_tiers_as_told),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
