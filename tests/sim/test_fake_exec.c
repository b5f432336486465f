/* SPDX-License-Identifier: Apache-2.0 */
/* The fake executor's edits and likeliest ids: its law against the reference of the sample op, its steps
 * against its law. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fake_exec.h"
#include "kernels/noise.h"
#include "sample_ref.h"
#include "step/batch.h"

enum { VOCAB = WEIR_TOP_MAX, LEN = 40 }; /* all ids are among the likeliest: so the law shows itself */

static const fake_law LAW = {.n_vocab = VOCAB, .agreement = 0.7, .sharpness = 1.5, .end_id = -1};

static uint64_t rng_state = 1;
static int32_t below(int32_t n) {
  rng_state = rng_state * 6364136223846793005u + 1442695040888963407u;
  return (int32_t)((rng_state >> 33) % (uint64_t)n);
}

/* Additive edits, so that it does not matter that log-probabilities are logits less a constant. */
static int32_t random_adds(weir_logit_edit *edit) {
  static const float adds[] = {-2, -0.5f, 0.5f, 3, WEIR_LOGIT_BAN};
  int32_t n = 0;
  for (int32_t v = 0; v < VOCAB; v++)
    if (below(3) == 0) edit[n++] = (weir_logit_edit){v, 1, adds[below(5)]};
  return n;
}

static void test_law(void **state) {
  (void)state;
  int moved = 0;
  for (int round = 0; round < 2000; round++) {
    int32_t tok[LEN];
    const int32_t n = 1 + below(LEN), tier = below(2);
    weir_logit_edit edit[VOCAB];
    weir_top top[WEIR_TOP_MAX];
    float l[VOCAB];
    for (int32_t i = 0; i < n; i++) tok[i] = below(VOCAB);
    weir_ask a = {.temperature = (float)below(3) / 2, .top_p = 1, .seed = 5, .pos = n, .probe = -1};
    a.n_top = WEIR_TOP_MAX;
    if (below(2)) {
      a.probe = below(VOCAB);
      a.keep = (weir_keep)below(WEIR_N_KEEPS);
      a.keep_a = a.keep == WEIR_KEEP_NLL ? (float)below(4) : 0.03f + 0.1f * (float)below(9);
      a.keep_b = 0.31f * (float)below(4);
      a.probe_q = -0.31f * (float)below(9);
    }
    const weir_row raw = fake_law_row(&LAW, tier, tok, n, &a);
    a.edit = edit;
    a.n_edits = random_adds(edit);
    const weir_row row = fake_law_row(&LAW, tier, tok, n, &a);
    fake_law_top(&LAW, tier, tok, n, &a, top);
    for (int32_t i = 0; i < VOCAB; i++) l[top[i].id] = top[i].logprob;
    sample_ref ref;
    sample_ref_make(&ref, l, VOCAB, &a);
    for (int32_t i = 0; i < VOCAB; i++)
      if (top[i].id != ref.order[i]) fail_msg("round %d: top %d is %d", round, i, top[i].id);
    assert_true(fabs((double)row.entropy - ref.entropy) < 1e-5 && fabs((double)row.p_max - ref.p_max) < 1e-5);
    const bool again = a.probe >= 0 && a.keep > WEIR_KEEP_OWN && a.keep != WEIR_KEEP_RATIO;
    const bool stands = again ? sample_ref_keep(&ref, &a) > 0 : a.probe >= 0 && a.keep == WEIR_KEEP_ALL;
    const int32_t want =
        stands ? a.probe : sample_ref_draw(&ref, &a, again ? WEIR_NOISE_AGAIN : WEIR_NOISE_DRAW);
    if (row.token != want) fail_msg("round %d: token %d, want %d", round, row.token, want);
    assert_true(fabs((double)row.logprob - (double)l[want]) < 1e-6);
    moved += row.token != raw.token;
    /* a heavy repetition penalty takes the likeliest away: these logits are positive */
    const weir_logit_edit heavy = {top[0].id, 1e6f, 0};
    weir_ask greedy = {.top_p = 1, .pos = n, .probe = -1, .edit = &heavy, .n_edits = 1};
    assert_int_equal(fake_law_row(&LAW, tier, tok, n, &greedy).token, top[1].id);
    sample_ref_free(&ref);
  }
  assert_true(moved > 200);
}

static void test_steps(void **state) {
  (void)state;
  const fake_opts o = {
      .law = LAW, .tier = 1, .n_ctx = 64, .n_pages = 4, .max_tokens = LEN, .max_seqs = 1, .fail_at_step = -1};
  weir_exec *x = fake_exec_create(&o);
  weir_batch_builder b;
  weir_err e = {0};
  int32_t tok[LEN];
  const int32_t page[] = {2, 0, 3};
  weir_logit_edit edit[LEN][VOCAB];
  weir_row row[LEN];
  static weir_top top[LEN][WEIR_TOP_MAX];
  for (int32_t i = 0; i < LEN; i++) tok[i] = below(VOCAB);
  assert_int_equal(weir_batch_builder_init(&b, LEN, 1, 4, 1, &e), WEIR_OK);
  weir_batch_add(&b, &(weir_batch_seq){tok, 0, LEN, page, 3});
  for (int32_t i = 0; i < LEN; i++) {
    weir_ask *a = weir_batch_ask(&b, i);
    *a = (weir_ask){.temperature = 1, .top_p = 1, .seed = 9, .pos = i + 1, .probe = -1, .edit = edit[i]};
    a->n_edits = i % 3 ? random_adds(edit[i]) : 0;
    a->n_top = i % 4 ? 0 : 1 + below(WEIR_TOP_MAX);
  }
  const weir_batch batch = weir_batch_get(&b);
  weir_result r = {.row = row}, *done = NULL;
  assert_int_equal(x->ops->submit(x, &batch, &r, &e), WEIR_EINVAL);
  r.top = top[0];
  if (x->ops->submit(x, &batch, &r, &e) != WEIR_OK) fail_msg("%s", e.msg);
  assert_int_equal(x->ops->wait(x, &done, &e), WEIR_OK);
  assert_int_equal(done->status, WEIR_OK);
  for (int32_t i = 0; i < LEN; i++) {
    const weir_row want = fake_law_row(&LAW, 1, tok, i + 1, &b.ask[i]);
    weir_top want_top[WEIR_TOP_MAX];
    fake_law_top(&LAW, 1, tok, i + 1, &b.ask[i], want_top);
    assert_memory_equal(&row[i], &want, sizeof want);
    if (b.ask[i].n_top > 0) assert_memory_equal(top[i], want_top, sizeof *want_top * (size_t)b.ask[i].n_top);
  }
  weir_batch_builder_fini(&b);
  x->ops->destroy(x);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_law), cmocka_unit_test(test_steps)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
