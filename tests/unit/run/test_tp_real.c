/* SPDX-License-Identifier: Apache-2.0 */
/* Trained models over 2 and 4 ranks against one: the shipped pair, and where they are there those of
 * ../shared/data. Each is given a text of its own making. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "run/forward.h"
#include "tp_group.h"

/* Floats: relative to the row's largest, twice what one rank may be off (golden_models). Quantised, of a
 * logit: half of the gap above which test_greedy lets rounded activations turn no arg-max. */
static const double float_rel = 2e-5, rounding_abs = 0.25;

enum { TEXT = 112, FROM = 64 };

typedef weir_status (*step_fn)(void *, const weir_batch *, weir_row *, weir_top *, weir_err *);
static weir_status one_step(void *m, const weir_batch *b, weir_row *r, weir_top *t, weir_err *e) {
  return weir_forward(((model *)m)->inst, b, r, t, e);
}
static weir_status tp_step(void *g, const weir_batch *b, weir_row *r, weir_top *t, weir_err *e) {
  return tp_forward((tp_group *)g, b, r, t, e);
}

/* drawn[from, to) <- what follows tok[0, from), token by token; tok goes on with what was drawn, or, when it
 * is `forced`, as it is. */
static void generate(step_fn step, void *ctx, int32_t *tok, int32_t from, int32_t to, float temperature,
                     bool forced, int32_t *drawn) {
  weir_err e = {0};
  weir_batch_builder b;
  assert_int_equal(weir_batch_builder_init(&b, TEXT, 1, GOLDEN_PAGES, 1, &e), WEIR_OK);
  for (int32_t i = from, at = 0; i < to; at = i, i++) {
    weir_row row;
    weir_batch_builder_clear(&b);
    const int32_t first = weir_batch_add(&b, &(weir_batch_seq){tok, at, i, straight_pages(), (i + 15) / 16});
    *weir_batch_ask(&b, first + i - at - 1) =
        (weir_ask){.temperature = temperature, .top_p = 1, .seed = 9, .pos = i, .probe = -1};
    const weir_batch batch = weir_batch_get(&b);
    if (step(ctx, &batch, &row, NULL, &e) != WEIR_OK) fail_msg("%s", e.msg);
    drawn[i] = row.token;
    if (!forced) tok[i] = row.token;
  }
  weir_batch_builder_fini(&b);
}

/* The gap between the two largest. */
static double gap_of(const float *x, int32_t n) {
  double a = -INFINITY, b = -INFINITY;
  for (int32_t i = 0; i < n; i++) {
    if (x[i] > b) b = x[i];
    if (b > a) {
      const double t = a;
      a = b;
      b = t;
    }
  }
  return a - b;
}

/* Returns how many greedy tokens were compared. */
static int32_t check_ranks(const char *path, bool floats, model *m, const int32_t *text, const float *one,
                           int32_t n_ranks) {
  const int32_t vocab = m->inst->h.n_vocab;
  float *got = malloc((size_t)TEXT * (size_t)vocab * sizeof *got);
  tp_group g = tp_open(
      &(tp_opts){.name = path, .n_ranks = n_ranks, .isa = WEIR_ISA_BEST, .kv = WEIR_F32, .max_tokens = TEXT});
  double rel = 0, worst = 0;
  tp_feed(&g, text, 0, TEXT, straight_pages(), got);
  for (int32_t i = 0; i < TEXT; i++) {
    double max = 0, diff = 0;
    for (int32_t c = 0; c < vocab; c++) {
      const double w = one[(size_t)i * (size_t)vocab + (size_t)c],
                   d = fabs(got[(size_t)i * (size_t)vocab + (size_t)c] - w);
      if (!(d <= diff)) diff = d;
      if (fabs(w) > max) max = fabs(w);
    }
    if (!(diff / max <= rel)) rel = diff / max;
    if (!(diff <= worst)) worst = diff;
  }
  if (floats ? !(rel <= float_rel) : !(worst <= rounding_abs))
    fail_msg("%s on %d ranks: worst row %.3e relative, %.3e absolute", path, n_ranks, rel, worst);
  /* Greedy text, also forced to be one rank's: all of it is the same where there is no near tie. */
  const double bound = floats ? 1e-3 : 2 * rounding_abs;
  int32_t clear = 0, same = FROM, theirs[TEXT], mine[TEXT], drawn[TEXT];
  memcpy(theirs, text, FROM * sizeof *theirs);
  generate(one_step, m, theirs, FROM, TEXT, 0, false, drawn);
  feed(m, theirs, 0, TEXT, straight_pages(), got);
  generate(tp_step, &g, theirs, FROM, TEXT, 0, true, drawn);
  for (int32_t i = FROM; i < TEXT; i++) {
    if (gap_of(got + (size_t)(i - 1) * (size_t)vocab, vocab) < bound) continue;
    clear++;
    if (drawn[i] != theirs[i])
      fail_msg("%s on %d ranks: greedy token %d is %d, one rank says %d", path, n_ranks, i, drawn[i],
               theirs[i]);
  }
  memcpy(mine, text, FROM * sizeof *mine);
  generate(tp_step, &g, mine, FROM, TEXT, 0, false, drawn);
  while (same < TEXT && mine[same] == theirs[same]) same++;
  print_message(
      "%s on %d ranks: worst row %.1e relative, %.1e absolute; %d of %d greedy tokens are no near "
      "ties, the first %d are the same\n",
      path, n_ranks, rel, worst, clear, TEXT - FROM, same - FROM);
  tp_close(&g);
  free(got);
  return clear;
}

static int32_t check(const char *path, bool floats) {
  int32_t text[TEXT] = {1, 300, 301, 302}, drawn[TEXT];
  model m = model_open(path, WEIR_ISA_BEST, 1, WEIR_F32);
  const int32_t vocab = m.inst->h.n_vocab, n_heads = m.inst->h.n_heads;
  for (int32_t i = 0; i < 4; i++) text[i] %= vocab;
  float *one = malloc((size_t)TEXT * (size_t)vocab * sizeof *one);
  generate(one_step, &m, text, 4, TEXT, 0.8f, false, drawn);
  feed(&m, text, 0, TEXT, straight_pages(), one);
  int32_t clear = 0;
  for (int32_t n = 2; n <= 4 && n <= n_heads; n += 2) clear += check_ranks(path, floats, &m, text, one, n);
  free(one);
  model_close(&m);
  return clear;
}

static void the_shipped_pair(void **state) {
  (void)state;
  const int32_t small = check("models/weir-demo-small-Q8_0.gguf", false);
  assert_true(small + check("models/weir-demo-large-Q8_0.gguf", false) >= 48);
}

static void shared_models(void **state) {
  (void)state;
  static const struct {
    const char *path;
    bool floats;
  } rows[] = {{"../shared/data/models/pair-cpu/pair-large-F16.gguf", true},
              {"../shared/data/models/pair-cpu/pair-large-Q4_0.gguf", false},
              {"../shared/data/models/pair-cpu/pair-small-Q8_0.gguf", false}};
  int32_t clear = 0;
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    if (access(rows[i].path, R_OK) != 0) {
      print_message("SKIP: there is no %s\n", rows[i].path);
      skip();
    }
    clear += check(rows[i].path, rows[i].floats);
  }
  assert_true(clear >= 96);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(the_shipped_pair), cmocka_unit_test(shared_models)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
