/* SPDX-License-Identifier: Apache-2.0 */
/* What a whole engine emits when drafts are judged by the ratio of two laws: the large tier's own law, of the
 * first token and of the first two together, whatever the small tier's is and wherever windows end. Against
 * the law itself, worked out cell by cell. `--long`: eight times as many texts. One thread. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "harness.h"

enum { VOCAB = 24, BATCH = 64, NEW = 4 };
static int n_texts = 1 << 13;
static const int32_t prompt[] = {3, 1, 4, 1, 5, 9, 2, 6};
enum { N_PROMPT = sizeof prompt / sizeof *prompt };

/* The engine of the harness, over laws of few ids. */
static void open_small(sim *s) {
  const sim_opts roomy = sim_roomy();
  weir_err e = {0};
  sim_open(s, &roomy);
  weir_engine_destroy(s->engine);
  s->law = (fake_law){.n_vocab = VOCAB, .agreement = 0.6, .sharpness = 1.5, .end_id = -1};
  for (int32_t t = 0; t < 2; t++) {
    s->exec[t]->ops->destroy(s->exec[t]);
    s->exec[t] = fake_exec_create(&(fake_opts){.law = s->law,
                                               .tier = t,
                                               .n_ctx = 64,
                                               .n_pages = 256,
                                               .max_tokens = 256,
                                               .max_seqs = BATCH,
                                               .fail_at_step = -1});
  }
  const weir_engine_cfg cfg = {.n_tiers = 2,
                               .tier = {s->exec[0], s->exec[1]},
                               .tokenizer = s->tokenizer,
                               .clock = weir_clock_system(),
                               .max_active = BATCH,
                               .prefix_pages = 16};
  if (weir_engine_create(&cfg, &s->engine, &e) != WEIR_OK) fail_msg("%s", e.msg);
}

/* p[VOCAB]: what a tier draws from behind tok[0..n). */
static void law_of(const sim *s, int32_t tier, const int32_t *tok, int32_t n, const weir_ask *draw,
                   double *p) {
  double sum = 0, max = -INFINITY;
  for (int32_t v = 0; v < VOCAB; v++) {
    weir_ask a = *draw;
    a.pos = n;
    a.probe = v;
    a.keep = WEIR_KEEP_ALL;
    p[v] = (double)fake_law_row(&s->law, tier, tok, n, &a).probe_logprob / (double)draw->temperature;
    max = fmax(max, p[v]);
  }
  for (int32_t v = 0; v < VOCAB; v++) sum += p[v] = exp(p[v] - max);
  for (int32_t v = 0; v < VOCAB; v++) p[v] /= sum;
}

/* Normal deviate of a chi-squared (Wilson and Hilferty 1931); cells with few expected are one. */
static double deviate(const int *seen, const double *p, int32_t cells, int total) {
  double x2 = 0, rest_p = 0;
  int rest = 0, used = 0;
  for (int32_t c = 0; c < cells; c++) {
    if (p[c] * total < 5) {
      rest += seen[c];
      rest_p += p[c];
      continue;
    }
    x2 += pow(seen[c] - p[c] * total, 2) / (p[c] * total);
    used++;
  }
  if (rest_p * total >= 5) {
    x2 += pow(rest - rest_p * total, 2) / (rest_p * total);
    used++;
  }
  const double f = used - 1, h = 2 / (9 * f);
  assert_true(used > 5);
  return (cbrt(x2 / f) - (1 - h)) / sqrt(h);
}

typedef struct counted {
  double z[2]; /* of the first token, of the first two */
  int32_t refused;
} counted;

/* Texts of so many seeds; small: against the small tier's law, which they must not follow. */
static counted run(sim *s, weir_keep rule, int32_t window, float temperature, uint64_t seed, bool small) {
  static int one[VOCAB], two[VOCAB * VOCAB];
  static sim_job job[BATCH];
  static sim_out out[BATCH];
  const weir_cascade_opts o = {.mode = WEIR_MODE_SPECULATE,
                               .set = WEIR_OPT_ACCEPT | WEIR_OPT_WINDOW | WEIR_OPT_THRESHOLD,
                               .accept = rule,
                               .threshold = INFINITY, /* drafts end at the window */
                               .window = window};
  counted c = {0};
  weir_err e = {0};
  memset(one, 0, sizeof one);
  memset(two, 0, sizeof two);
  for (int32_t i = 0; i < BATCH; i++) {
    job[i] = (sim_job){.n_prompt = N_PROMPT, .max_new = NEW, .ignore_eos = true};
    memcpy(job[i].prompt, prompt, sizeof prompt);
    if (weir_cascade_cfg_make(&o, &job[i].cascade, &e) != WEIR_OK) fail_msg("%s", e.msg);
    job[i].draw = (weir_ask){.temperature = temperature, .top_p = 1, .probe = -1};
  }
  for (int32_t at = 0; at < n_texts; at += BATCH) {
    for (int32_t i = 0; i < BATCH; i++) job[i].draw.seed = (seed << 32) + (uint64_t)(at + i);
    sim_run(s, job, out, BATCH);
    for (int32_t i = 0; i < BATCH; i++) {
      if (out[i].end == WEIR_END_ERROR) fail_msg("%s", out[i].err.msg);
      assert_int_equal(out[i].n, NEW);
      one[out[i].tok[0]]++;
      two[out[i].tok[0] * VOCAB + out[i].tok[1]]++;
      c.refused += out[i].counts.refused;
    }
    sim_out_fini(out, BATCH);
  }
  double p[VOCAB], q[VOCAB], joint[VOCAB * VOCAB];
  int32_t tok[N_PROMPT + 1];
  memcpy(tok, prompt, sizeof prompt);
  law_of(s, small ? 0 : 1, tok, N_PROMPT, &job[0].draw, p);
  for (int32_t v = 0; v < VOCAB; v++) {
    tok[N_PROMPT] = v;
    law_of(s, 1, tok, N_PROMPT + 1, &job[0].draw, q);
    for (int32_t w = 0; w < VOCAB; w++) joint[v * VOCAB + w] = p[v] * q[w];
  }
  c.z[0] = deviate(one, p, VOCAB, n_texts);
  c.z[1] = deviate(two, joint, VOCAB * VOCAB, n_texts);
  return c;
}

static void test_law(void **state) {
  static const struct {
    int32_t window;
    float temperature;
  } cases[] = {{1, 1}, {2, 1}, {5, 0.7f}};
  sim s;
  double worst = -9;
  (void)state;
  open_small(&s);
  for (uint64_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const counted ratio = run(&s, WEIR_KEEP_RATIO, cases[i].window, cases[i].temperature, 7 + i, false);
    const counted own = run(&s, WEIR_KEEP_OWN, cases[i].window, cases[i].temperature, 7 + i, false);
    for (int k = 0; k < 2; k++) {
      worst = fmax(worst, fmax(ratio.z[k], own.z[k]));
      if (!(ratio.z[k] < 4.5 && own.z[k] < 4.5))
        fail_msg("case %d, %d tokens: z %.2f by ratio, %.2f by own", (int)i, k + 1, ratio.z[k], own.z[k]);
    }
    print_message("window %d, temperature %g: of %d drafts and more fell %d by ratio, %d by own\n",
                  cases[i].window, (double)cases[i].temperature, n_texts, ratio.refused, own.refused);
    assert_true(ratio.refused > n_texts / 20 && ratio.refused < own.refused);
  }
  /* the test sees a difference */
  assert_true(run(&s, WEIR_KEEP_RATIO, 2, 1, 77, true).z[0] > 20);
  sim_close(&s);
  print_message("%d texts each: worst z %.2f (bound 4.5)\n", n_texts, worst);
}

int main(int argc, char **argv) {
  for (int i = 1; i < argc; i++)
    if (!strcmp(argv[i], "--long")) n_texts = 1 << 16;
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_law)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
