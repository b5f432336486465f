/* SPDX-License-Identifier: Apache-2.0 */
/* The gate head in the forward pass: scores of every way a row can come about against float64, hidden states
 * that are what the LM head reads, batched as alone, and ranks. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gate_rig.h"
#include "golden.h"
#include "run/exec_local.h"
#include "run/forward.h"
#include "tp_group.h"

static const char *const names[] = {"llama-F32", "llama-Q8_0", "gemma2-Q8_0", "qwen3moe-Q8_0", "phi3-BF16"};
enum { N_NAMES = sizeof names / sizeof *names };
static const weir_ask draw = {.temperature = 0.8f, .top_p = 1, .seed = 5, .probe = -1};

/* A sum of some hundred products in float: measured 3e-7. */
static const double MOST = 2e-6;

static void must(weir_status st, const weir_err *e) {
  if (st != WEIR_OK) fail_msg("%s", e->msg);
}

static void test_scores_are_the_references(void **state) {
  (void)state;
  double worst = 0;
  for (int32_t k = 0; k < N_NAMES; k++) {
    model m = model_open(names[k], WEIR_ISA_BEST, 2, WEIR_F16);
    weir_gate_head h = gate_rig_head(m.inst, 7 + (uint32_t)k);
    weir_row rows[GATE_ROWS], again[GATE_ROWS], bare[GATE_ROWS];
    weir_batch_builder b;
    weir_err e;
    float least = 1, most = 0;
    must(weir_batch_builder_init(&b, 128, 2, GOLDEN_PAGES, 1, &e), &e);
    const weir_batch prompts = gate_rig_prompts(&b, &draw);
    must(weir_forward(m.inst, &prompts, bare, NULL, &e), &e);
    for (int32_t i = 0; i < GATE_ROWS; i++) assert_true(bare[i].gate == 0);

    must(weir_instance_set_gate(m.inst, &h, &e), &e);
    double off = gate_rig_step(m.inst, &prompts, &h, rows);
    for (int32_t i = 0; i < GATE_ROWS; i++) {
      if (rows[i].gate < least) least = rows[i].gate;
      if (rows[i].gate > most) most = rows[i].gate;
      again[i] = rows[i];
      again[i].gate = 0;
    }
    assert_memory_equal(again, bare, sizeof bare); /* nothing else changes */
    assert_true(most - least > 0.05f);             /* and the scores say something */
    const weir_batch decode = gate_rig_decode(&b, &draw);
    for (int32_t i = 0; i < 3; i++) {
      const double step = gate_rig_step(m.inst, &decode, &h, i == 0 ? rows : again);
      if (step > off) off = step;
      if (i > 0) assert_memory_equal(again, rows, 2 * sizeof *rows);
    }
    if (!(off <= MOST)) fail_msg("%s: off by %g", names[k], off);
    if (off > worst) worst = off;

    /* Another head in its place, then none. */
    weir_gate_head other = gate_rig_head(m.inst, 99);
    must(weir_instance_set_gate(m.inst, &other, &e), &e);
    assert_true(gate_rig_step(m.inst, &decode, &other, again) <= MOST && again[0].gate != rows[0].gate);
    must(weir_instance_set_gate(m.inst, NULL, &e), &e);
    must(weir_forward(m.inst, &decode, again, NULL, &e), &e);
    assert_true(again[0].gate == 0 && again[1].gate == 0);
    free(other.weight);
    free(h.weight);
    weir_batch_builder_fini(&b);
    model_close(&m);
  }
  print_message("  worst row: off by %.2g\n", worst);
}

/* What forward_hidden gives, once more through the LM head alone, is the logits, to the bit. */
static void test_hidden_is_what_the_head_reads(void **state) {
  (void)state;
  for (int32_t k = 0; k < N_NAMES; k++) {
    model m = model_open(names[k], WEIR_ISA_BEST, 1, WEIR_F16);
    const int32_t dim = m.inst->h.dim, vocab = m.inst->h.n_vocab;
    const size_t n = (size_t)GATE_ROWS * (size_t)vocab;
    float *hidden = malloc((size_t)GATE_ROWS * (size_t)dim * sizeof *hidden),
          *logits = malloc(n * sizeof *logits), *got = malloc(n * sizeof *got);
    weir_mat x = {.rows = GATE_ROWS, .cols = dim, .ld = dim},
             y = {.rows = GATE_ROWS, .cols = vocab, .ld = vocab};
    weir_batch_builder b;
    weir_err e;
    must(weir_batch_builder_init(&b, 128, 2, GOLDEN_PAGES, 1, &e), &e);
    const weir_batch prompts = gate_rig_prompts(&b, &draw);
    must(weir_forward_logits(m.inst, &prompts, logits, &e), &e);
    must(weir_forward_hidden(m.inst, &prompts, NULL, hidden, &e), &e);
    must(weir_dev_alloc(m.dev, (size_t)GATE_ROWS * (size_t)dim * sizeof(float), (void **)&x.data, &e), &e);
    must(weir_dev_alloc(m.dev, n * sizeof(float), (void **)&y.data, &e), &e);
    must(weir_dev_upload(m.dev, x.data, hidden, (size_t)GATE_ROWS * (size_t)dim * sizeof(float), &e), &e);
    must(weir_op_linear(m.dev, y, x, m.inst->w.head, NULL, &e), &e);
    if (m.inst->h.final_softcap > 0) must(weir_op_softcap(m.dev, y, m.inst->h.final_softcap, &e), &e);
    must(weir_dev_download(m.dev, got, y.data, n * sizeof(float), &e), &e);
    must(weir_dev_sync(m.dev, &e), &e);
    assert_memory_equal(got, logits, n * sizeof *got);
    weir_dev_release(m.dev, x.data);
    weir_dev_release(m.dev, y.data);
    free(hidden);
    free(logits);
    free(got);
    weir_batch_builder_fini(&b);
    model_close(&m);
  }
}

/* A row's score does not know its company: whole, alone and token by token it is the same bits. */
static void test_batched_is_alone(void **state) {
  (void)state;
  for (int32_t k = 0; k < N_NAMES; k++) {
    model m = model_open(names[k], WEIR_ISA_BEST, 2, WEIR_F16);
    weir_gate_head h = gate_rig_head(m.inst, 3);
    weir_row rows[GATE_ROWS], one;
    int32_t tok[GATE_LONG];
    weir_batch_builder b;
    weir_err e;
    must(weir_instance_set_gate(m.inst, &h, &e), &e);
    must(weir_batch_builder_init(&b, 128, 2, GOLDEN_PAGES, 1, &e), &e);
    const weir_batch prompts = gate_rig_prompts(&b, &draw);
    memcpy(tok, prompts.token, sizeof tok);
    must(weir_forward(m.inst, &prompts, rows, NULL, &e), &e);
    for (int32_t i = 0; i < GATE_LONG; i++) {
      weir_batch_builder_clear(&b);
      const int32_t at =
          weir_batch_add(&b, &(weir_batch_seq){tok, i, i + 1, straight_pages() + 20, i / 16 + 1});
      *weir_batch_ask(&b, at) = draw;
      b.ask[0].pos = i + 1;
      const weir_batch alone = weir_batch_get(&b);
      must(weir_forward(m.inst, &alone, &one, NULL, &e), &e);
      if (memcmp(&one, &rows[i], sizeof one) != 0)
        fail_msg("%s: row %d: score %.9g alone, %.9g batched", names[k], i, (double)one.gate,
                 (double)rows[i].gate);
    }
    free(h.weight);
    weir_batch_builder_fini(&b);
    model_close(&m);
  }
}

static void test_heads_that_do_not_fit(void **state) {
  (void)state;
  model m = model_open("llama-F32", WEIR_ISA_BEST, 1, WEIR_F16);
  weir_gate_head h = gate_rig_head(m.inst, 1);
  weir_err e;
  h.dim--;
  assert_int_equal(weir_instance_set_gate(m.inst, &h, &e), WEIR_EINVAL);
  assert_non_null(strstr(e.msg, "hidden states"));
  h.dim++;
  h.weight[2] = NAN;
  assert_int_equal(weir_instance_set_gate(m.inst, &h, &e), WEIR_EINVAL);
  h.weight[2] = 0;
  must(weir_instance_set_gate(m.inst, &h, &e), &e);
  h.bias = NAN; /* refused, and the one before stays */
  assert_int_equal(weir_instance_set_gate(m.inst, &h, &e), WEIR_EINVAL);
  h.bias = -0.3f;
  weir_batch_builder b;
  weir_row rows[2];
  must(weir_batch_builder_init(&b, 128, 2, GOLDEN_PAGES, 1, &e), &e);
  const weir_batch prompts = gate_rig_prompts(&b, &draw);
  weir_row all[GATE_ROWS];
  assert_true(gate_rig_step(m.inst, &prompts, &h, all) <= MOST);
  const weir_batch decode = gate_rig_decode(&b, &draw);
  assert_true(gate_rig_step(m.inst, &decode, &h, rows) <= MOST);
  free(h.weight);
  weir_batch_builder_fini(&b);

  /* Through an executor: what it says of itself, and hidden states. */
  weir_exec *x;
  int32_t dim = 0;
  float *hidden;
  must(weir_exec_local_create(m.inst, "small", &x, &e), &e);
  m.inst = NULL;
  assert_true(x->info.gate_head);
  must(weir_exec_local_hidden(x, NULL, NULL, NULL, &dim, &e), &e);
  hidden = malloc(GATE_ROWS * (size_t)dim * sizeof *hidden);
  must(weir_batch_builder_init(&b, 128, 2, GOLDEN_PAGES, 1, &e), &e);
  const weir_batch again = gate_rig_prompts(&b, &draw);
  weir_row with[GATE_ROWS];
  must(weir_exec_local_hidden(x, &again, with, hidden, NULL, &e), &e);
  assert_memory_equal(with, all, sizeof all);
  b.ask[0].pos = -5; /* what breaks the contract is refused here too */
  ((int32_t *)(uintptr_t)again.token)[0] = -1;
  assert_int_equal(weir_exec_local_hidden(x, &again, with, hidden, NULL, &e), WEIR_EINVAL);
  free(hidden);
  weir_batch_builder_fini(&b);
  x->ops->destroy(x);
  weir_dev_destroy(m.dev);
}

/* ---- ranks ---- */

typedef struct ranks {
  tp_group *g;
  const weir_batch *b;
  weir_row row[TP_MAX][GATE_ROWS];
  float *hidden[TP_MAX];
} ranks;

static weir_status rows_and_hidden(void *ctx, int32_t rank, weir_err *e) {
  ranks *r = ctx;
  const weir_status st = weir_forward_hidden(r->g->inst[rank], r->b, r->row[rank], r->hidden[rank], e);
  if (st != WEIR_OK) return st;
  weir_row plain[GATE_ROWS];
  const weir_status again = weir_forward(r->g->inst[rank], r->b, plain, NULL, e);
  if (again != WEIR_OK) return again;
  const bool same = !memcmp(plain, r->row[rank], (size_t)r->b->n_out * sizeof *plain);
  return same ? WEIR_OK : weir_fail(e, WEIR_EINVAL, "rank %d: other rows with hidden states", rank);
}

static void test_ranks(void **state) {
  (void)state;
  static const struct {
    const char *name;
    int32_t n;
  } cut[] = {{"llama-F32", 1}, {"llama-F32", 2}, {"llama-Q8_0", 2}, {"qwen3moe-Q8_0", 2}};
  weir_row first[GATE_ROWS];
  for (size_t k = 0; k < sizeof cut / sizeof *cut; k++) {
    tp_group g = tp_open(&(tp_opts){
        .name = cut[k].name, .n_ranks = cut[k].n, .isa = WEIR_ISA_BEST, .kv = WEIR_F16, .max_tokens = 128});
    weir_gate_head h = gate_rig_head(g.inst[0], 7);
    weir_batch_builder b;
    weir_err e;
    must(weir_batch_builder_init(&b, 128, 2, GOLDEN_PAGES, 1, &e), &e);
    const weir_batch prompts = gate_rig_prompts(&b, &draw);
    const size_t dim = (size_t)h.dim;
    ranks r = {.g = &g, .b = &prompts};
    for (int32_t i = 0; i < g.n; i++) {
      r.hidden[i] = malloc(GATE_ROWS * dim * sizeof(float));
      must(weir_instance_set_gate(g.inst[i], &h, &e), &e);
    }
    must(tp_run(&g, rows_and_hidden, &r, &e), &e);
    for (int32_t i = 0; i < GATE_ROWS; i++) {
      const weir_row *x = &r.row[0][i];
      const double want = gate_rig_score(&h, r.hidden[0] + (size_t)i * dim, x);
      assert_true(fabs((double)x->gate - want) <= MOST);
      if (k == 0) first[i] = *x;
      if (k == 1) assert_true(fabsf(x->gate - first[i].gate) < 1e-4f); /* sums in another order */
    }
    for (int32_t i = 1; i < g.n; i++) {
      assert_memory_equal(r.row[i], r.row[0], sizeof r.row[0]);
      assert_memory_equal(r.hidden[i], r.hidden[0], GATE_ROWS * dim * sizeof(float));
      must(weir_instance_set_gate(g.inst[i], NULL, &e), &e); /* rank 0 gives the rows */
    }
    memmove(first, r.row[0], sizeof first);
    must(tp_run(&g, rows_and_hidden, &r, &e), &e);
    assert_memory_equal(r.row[0], first, sizeof first);
    for (int32_t i = 1; i < g.n; i++) assert_true(r.row[i][3].gate == 0);
    for (int32_t i = 0; i < g.n; i++) free(r.hidden[i]);
    free(h.weight);
    weir_batch_builder_fini(&b);
    tp_close(&g);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_scores_are_the_references),
      cmocka_unit_test(test_hidden_is_what_the_head_reads),
      cmocka_unit_test(test_batched_is_alone),
      cmocka_unit_test(test_heads_that_do_not_fit),
      cmocka_unit_test(test_ranks),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
