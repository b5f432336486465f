/* SPDX-License-Identifier: Apache-2.0 */
/* The sample operation against golden draws that an independent implementation made in float64 from Philox
 * and the rules of kernels/row.h (tests/vectors/make_noise_goldens.py): tokens exactly, statistics closely,
 * on every instruction set. One thread. */
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kern_util.h"

#define GOLDEN "tests/vectors/noise/draws.jsonl"

enum { MAX_DRAWS = 300, MAX_COLS = 8192 }; /* of one row of logits */

typedef struct draw {
  weir_ask ask;
  weir_row want;
  weir_top draft[WEIR_TOP_MAX];
} draw;

/* One row of logits and what was asked about it. */
typedef struct golden {
  char name[32];
  int32_t n_valid, n_cols, n_draws;
  float logit[MAX_COLS];
  draw draw[MAX_DRAWS];
} golden;

static double number(const json_t *o, const char *key) {
  const json_t *v = json_object_get(o, key);
  if (!json_is_number(v)) fail_msg("%s: no number %s", GOLDEN, key);
  return json_number_value(v);
}
static const char *text(const json_t *o, const char *key) {
  const char *v = json_string_value(json_object_get(o, key));
  if (v == NULL) fail_msg("%s: no string %s", GOLDEN, key);
  return v;
}

static void read_row(const json_t *o, golden *g) {
  const json_t *logits = json_object_get(o, "logits");
  g->n_cols = (int32_t)json_array_size(logits);
  assert_in_range(g->n_cols, 1, MAX_COLS);
  g->n_valid = (int32_t)number(o, "n_valid");
  assert_in_range(g->n_valid, 1, g->n_cols);
  g->n_draws = 0;
  snprintf(g->name, sizeof g->name, "%s", text(o, "name"));
  for (int32_t i = 0; i < g->n_cols; i++)
    g->logit[i] = (float)json_number_value(json_array_get(logits, (size_t)i));
}

static void read_draw(const json_t *o, golden *g) {
  assert_in_range(g->n_draws, 0, MAX_DRAWS - 1);
  draw *d = &g->draw[g->n_draws++];
  const char *keep = text(o, "keep");
  d->ask = (weir_ask){.temperature = (float)number(o, "temperature"),
                      .top_k = (int32_t)number(o, "top_k"),
                      .top_p = (float)number(o, "top_p"),
                      .min_p = (float)number(o, "min_p"),
                      .seed = strtoull(text(o, "seed"), NULL, 16),
                      .pos = (int32_t)number(o, "pos"),
                      .probe = (int32_t)number(o, "probe"),
                      .keep_a = (float)number(o, "keep_nll")};
  const json_t *draft = json_object_get(o, "draft"); /* of the later rules, as are keep_b and probe_q */
  if (draft) {
    d->ask.keep_b = (float)number(o, "keep_b");
    d->ask.probe_q = (float)number(o, "probe_q");
    d->ask.n_draft = (int32_t)json_array_size(draft);
    assert_in_range(d->ask.n_draft, 0, WEIR_TOP_MAX);
    for (int32_t i = 0; i < d->ask.n_draft; i++) {
      const json_t *pair = json_array_get(draft, (size_t)i);
      d->draft[i] = (weir_top){(int32_t)json_integer_value(json_array_get(pair, 0)),
                               (float)json_number_value(json_array_get(pair, 1))};
    }
  }
  if (strcmp(keep, "own") == 0)
    d->ask.keep = WEIR_KEEP_OWN;
  else if (strcmp(keep, "nll") == 0)
    d->ask.keep = WEIR_KEEP_NLL;
  else if (strcmp(keep, "all") == 0)
    d->ask.keep = WEIR_KEEP_ALL;
  else if (strcmp(keep, "v1") == 0)
    d->ask.keep = WEIR_KEEP_V1;
  else if (strcmp(keep, "v2") == 0)
    d->ask.keep = WEIR_KEEP_V2;
  else if (strcmp(keep, "v3") == 0)
    d->ask.keep = WEIR_KEEP_V3;
  else if (strcmp(keep, "typical") == 0)
    d->ask.keep = WEIR_KEEP_TYPICAL;
  else if (strcmp(keep, "ratio") == 0)
    d->ask.keep = WEIR_KEEP_RATIO;
  else
    fail_msg("%s: unknown keep %s", GOLDEN, keep);
  d->want = (weir_row){.token = (int32_t)number(o, "token"),
                       .logprob = (float)number(o, "logprob"),
                       .entropy = (float)number(o, "entropy"),
                       .p_max = (float)number(o, "p_max"),
                       .margin = (float)number(o, "margin"),
                       .probe_logprob = (float)number(o, "probe_logprob")};
}

static void close_to(const golden *g, int32_t i, const char *isa, const char *what, float got, float want) {
  if (!(fabs((double)got - want) <= 1e-6 + 1e-5 * fabs((double)want)))
    fail_msg("%s, row %s, draw %d: %s is %.9g, want %.9g", isa, g->name, i, what, (double)got, (double)want);
}

static void check_on(weir_dev *dev, const char *isa, const golden *g) {
  weir_err e;
  weir_ask ask[MAX_DRAWS];
  weir_row row[MAX_DRAWS];
  float *dense = malloc(sizeof(float) * (size_t)g->n_draws * (size_t)g->n_cols);
  assert_non_null(dense);
  for (int32_t i = 0; i < g->n_draws; i++) {
    ask[i] = g->draw[i].ask;
    ask[i].draft = g->draw[i].draft;
    memcpy(dense + (size_t)i * (size_t)g->n_cols, g->logit, sizeof(float) * (size_t)g->n_cols);
  }
  const weir_mat logits = kern_mat(dev, g->n_draws, g->n_cols, 3);
  kern_put(dev, logits, dense);
  kern_ok(weir_op_sample(dev, row, NULL, logits, g->n_valid, ask, NULL, &e), &e, "sample");
  kern_ok(weir_dev_sync(dev, &e), &e, "sync");
  for (int32_t i = 0; i < g->n_draws; i++) {
    const weir_row *want = &g->draw[i].want;
    if (row[i].token != want->token)
      fail_msg("%s, row %s, draw %d: token %d, want %d (temperature %g top_k %d top_p %g min_p %g probe %d)",
               isa, g->name, i, row[i].token, want->token, (double)ask[i].temperature, ask[i].top_k,
               (double)ask[i].top_p, (double)ask[i].min_p, ask[i].probe);
    close_to(g, i, isa, "logprob", row[i].logprob, want->logprob);
    close_to(g, i, isa, "entropy", row[i].entropy, want->entropy);
    close_to(g, i, isa, "p_max", row[i].p_max, want->p_max);
    close_to(g, i, isa, "margin", row[i].margin, want->margin);
    close_to(g, i, isa, "probe_logprob", row[i].probe_logprob, want->probe_logprob);
  }
  kern_mat_free(dev, logits);
  free(dense);
}

static void check(const kern_devs *d, const golden *g) {
  for (int i = 0; i < d->n; i++) check_on(d->dev[i], weir_isa_name(d->isa[i]), g);
}

static void draws_are_the_golden_ones(void **state) {
  (void)state;
  FILE *f = fopen(GOLDEN, "r");
  if (f == NULL) fail_msg("cannot open %s (run from the source root)", GOLDEN);
  kern_devs d;
  kern_devs_open(&d, &(weir_dev_limits){.max_tokens = MAX_DRAWS,
                                        .max_cols = 32,
                                        .max_heads = 1,
                                        .max_head_dim = 32,
                                        .max_kv_len = 16,
                                        .max_rows_out = MAX_DRAWS,
                                        .max_vocab = MAX_COLS});
  golden *g = calloc(1, sizeof *g);
  assert_non_null(g);
  char *line = NULL;
  size_t cap = 0;
  int n_rows = 0, n_draws = 0;
  while (getline(&line, &cap, f) > 0) {
    json_error_t je;
    json_t *o = json_loads(line, 0, &je);
    if (o == NULL) fail_msg("%s: %s", GOLDEN, je.text);
    if (strcmp(text(o, "kind"), "row") == 0) {
      if (n_rows++ > 0) check(&d, g);
      read_row(o, g);
    } else {
      read_draw(o, g);
      n_draws++;
    }
    json_decref(o);
  }
  check(&d, g);
  print_message("%d draws of %d rows on %d devices\n", n_draws, n_rows, d.n);
  assert_true(n_rows >= 7 && n_draws >= 900);
  free(line);
  free(g);
  fclose(f);
  kern_devs_close(&d);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(draws_are_the_golden_ones)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
