/* SPDX-License-Identifier: Apache-2.0 */
/* What is asked of a step besides a token, edits of logits and the likeliest ids, from the check of a batch
 * through the local executor to the answers, which are held against the reference of the sample op over the
 * logits of the same rows. */
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

#include "golden.h"
#include "kernels/noise.h"
#include "run/exec_local.h"
#include "run/forward.h"
#include "sample_ref.h"

enum { VOCAB = 50, ROWS = 3 };

/* A right batch of one sequence, to be bent. */
typedef struct trial {
  int32_t token[ROWS], pos[ROWS], out_row[ROWS], q_indptr[2], kv_len[1], page_indptr[2], page[1];
  weir_logit_edit edit[3];
  weir_ask ask[ROWS];
  weir_row row[ROWS];
  weir_top top[ROWS * WEIR_TOP_MAX];
  weir_batch batch;
  weir_result result;
} trial;

static void right(trial *t) {
  *t = (trial){.token = {3, 1, 4},
               .pos = {0, 1, 2},
               .out_row = {0, 1, 2},
               .q_indptr = {0, ROWS},
               .kv_len = {ROWS},
               .page_indptr = {0, 1},
               .page = {2},
               .edit = {{0, 1.2f, 0}, {7, 1, -100}, {VOCAB - 1, 1, WEIR_LOGIT_BAN}}};
  for (int32_t i = 0; i < ROWS; i++) t->ask[i] = (weir_ask){.top_p = 1, .pos = i + 1, .probe = -1};
  t->ask[1].edit = t->edit;
  t->ask[1].n_edits = 3;
  t->ask[2].n_top = WEIR_TOP_MAX;
  t->batch = (weir_batch){.n_tokens = ROWS,
                          .n_seqs = 1,
                          .n_out = ROWS,
                          .token = t->token,
                          .pos = t->pos,
                          .q_indptr = t->q_indptr,
                          .kv_len = t->kv_len,
                          .page_indptr = t->page_indptr,
                          .page = t->page,
                          .out_row = t->out_row,
                          .ask = t->ask};
  t->result = (weir_result){.row = t->row, .top = t->top};
}

#define BEND(name, body) \
  static void name(trial *t) { body; }
BEND(edits_minus, t->ask[1].n_edits = -1)
BEND(edits_null, t->ask[1].edit = NULL)
BEND(id_low, t->edit[0].id = -1)
BEND(id_high, t->edit[2].id = VOCAB)
BEND(id_twice, t->edit[1].id = 0)
BEND(descending, t->edit[1].id = VOCAB - 1; t->edit[2].id = 7)
BEND(scale_zero, t->edit[2].scale = 0)
BEND(scale_minus, t->edit[2].scale = -1)
BEND(scale_nan, t->edit[0].scale = NAN)
BEND(scale_inf, t->edit[0].scale = INFINITY)
BEND(add_nan, t->edit[1].add = NAN)
BEND(add_inf, t->edit[1].add = -INFINITY)
BEND(top_minus, t->ask[0].n_top = -1)
BEND(top_many, t->ask[0].n_top = WEIR_TOP_MAX + 1)
BEND(no_tops, t->result.top = NULL)
BEND(no_rows, t->result.row = NULL)
BEND(no_tops_wanted, t->result.top = NULL; t->ask[2].n_top = 0)
BEND(nothing_wanted, t->result.row = NULL; t->result.top = NULL; t->batch.n_out = 0)
BEND(as_it_is, (void)t)

static const struct {
  void (*bend)(trial *);
  const char *says; /* NULL: it is right */
} bends[] = {{as_it_is, NULL},
             {no_tops_wanted, NULL},
             {nothing_wanted, NULL},
             {edits_minus, "ask 1: n_edits is -1"},
             {edits_null, "ask 1: 3 edits, and edit is NULL"},
             {id_low, "ask 1: edit 0 is of id -1"},
             {id_high, "ask 1: edit 2 is of id 50, want ascending ids below 50"},
             {id_twice, "ask 1: edit 1 is of id 0"},
             {descending, "ask 1: edit 2 is of id 7"},
             {scale_zero, "ask 1: edit 2: id 49: scale 0"},
             {scale_minus, "scale -1"},
             {scale_nan, "scale nan"},
             {scale_inf, "scale inf"},
             {add_nan, "add nan"},
             {add_inf, "add -inf"},
             {top_minus, "ask 0: n_top is -1"},
             {top_many, "ask 0: n_top is 21"},
             {no_tops, "ask 2 wants the 20 likeliest ids"},
             {no_rows, "no memory for 3 answers"}};

static void test_batches_are_checked(void **state) {
  (void)state;
  const weir_exec_info info = {
      .name = "x", .n_vocab = VOCAB, .n_ctx = 64, .n_pages = 4, .max_tokens = 8, .max_seqs = 2};
  for (size_t i = 0; i < sizeof bends / sizeof *bends; i++) {
    trial t;
    weir_err e = {0};
    right(&t);
    bends[i].bend(&t);
    weir_status st = weir_batch_check(&t.batch, &info, &e);
    if (st == WEIR_OK) st = weir_batch_check_result(&t.batch, &t.result, &e);
    if (!bends[i].says) {
      if (st != WEIR_OK) fail_msg("case %zu: refused: %s", i, e.msg);
      continue;
    }
    if (st != WEIR_EINVAL) fail_msg("case %zu: status %d", i, (int)st);
    if (!strstr(e.msg, bends[i].says)) fail_msg("case %zu: \"%s\" lacks \"%s\"", i, e.msg, bends[i].says);
  }
}

/* Whatever the rows of a step ask, on a head that takes them in several parts: edits, tops, probes, none. */
static void check_model(const char *name) {
  enum { N = 150 }; /* more rows than the head takes at once */
  model m = model_open(name, WEIR_ISA_BEST, 2, WEIR_F16);
  const int32_t vocab = m.inst->h.n_vocab;
  assert_true(m.inst->ws.max_head_rows < N);
  int32_t tok[N];
  float *logits = malloc((size_t)N * (size_t)vocab * sizeof *logits);
  weir_logit_edit *edit = malloc((size_t)N * (size_t)vocab * sizeof *edit);
  weir_row row[N];
  static weir_top top[N][WEIR_TOP_MAX];
  weir_top untouched;
  weir_batch_builder b;
  weir_exec *x;
  weir_err e = {0};
  int edited_draws = 0;
  srand(5);
  for (int32_t i = 0; i < N; i++) tok[i] = rand() % 280;
  feed(&m, tok, 0, N, straight_pages(), logits);
  if (weir_exec_local_create(m.inst, name, &x, &e) != WEIR_OK) fail_msg("%s", e.msg);
  assert_int_equal(weir_batch_builder_init(&b, N, 1, GOLDEN_PAGES, 1, &e), WEIR_OK);
  weir_batch_add(&b, &(weir_batch_seq){tok, 0, N, straight_pages(), (N + 15) / 16});
  for (int32_t i = 0; i < N; i++) {
    weir_ask *a = weir_batch_ask(&b, i);
    weir_logit_edit *mine = edit + (size_t)i * (size_t)vocab;
    *a = (weir_ask){.temperature = i % 2 ? 0 : 0.8f, .top_p = 1, .seed = 11, .pos = i + 1, .probe = -1};
    if (i % 5 == 4) a->probe = rand() % vocab, a->keep = WEIR_KEEP_OWN;
    if (i % 3 == 0) a->n_top = 1 + rand() % WEIR_TOP_MAX;
    if (i % 4 == 0) continue;
    a->edit = mine;
    for (int32_t v = 0; v < vocab; v++)
      if (rand() % 3 == 0)
        mine[a->n_edits++] = (weir_logit_edit){v, 1.3f, rand() % 2 ? WEIR_LOGIT_BAN : -0.5f};
  }
  const weir_batch batch = weir_batch_get(&b);
  weir_result r = {.row = row}, *done = NULL;
  assert_int_equal(x->ops->submit(x, &batch, &r, &e), WEIR_EINVAL);
  if (!strstr(e.msg, "likeliest")) fail_msg("%s", e.msg);
  r.top = top[0];
  memset(top, 0xff, sizeof top);
  memset(&untouched, 0xff, sizeof untouched);
  if (x->ops->submit(x, &batch, &r, &e) != WEIR_OK) fail_msg("%s", e.msg);
  assert_int_equal(x->ops->wait(x, &done, &e), WEIR_OK);
  if (done->status != WEIR_OK) fail_msg("%s", done->err.msg);
  for (int32_t i = 0; i < N; i++) {
    const float *l = logits + (size_t)i * (size_t)vocab;
    sample_ref ref;
    sample_ref_make(&ref, l, vocab, &b.ask[i]);
    const int32_t want = sample_ref_draw(&ref, &b.ask[i], WEIR_NOISE_DRAW);
    if (row[i].token != want) fail_msg("%s: row %d: token %d, want %d", name, i, row[i].token, want);
    edited_draws += ref.top != ref.order[0];
    if (!(fabs((double)row[i].entropy - ref.entropy) < 1e-5))
      fail_msg("%s: row %d: entropy %g, want %g", name, i, (double)row[i].entropy, ref.entropy);
    for (int32_t k = 0; k < WEIR_TOP_MAX; k++) {
      if (k >= b.ask[i].n_top) {
        assert_memory_equal(&top[i][k], &untouched, sizeof untouched);
        continue;
      }
      const double logprob = log(ref.p[ref.order[k]]);
      if (top[i][k].id != ref.order[k] || !(fabs((double)top[i][k].logprob - logprob) < 1e-5))
        fail_msg("%s: row %d: top %d is %d with %g, want %d with %g", name, i, k, top[i][k].id,
                 (double)top[i][k].logprob, ref.order[k], logprob);
    }
    sample_ref_free(&ref);
  }
  assert_true(edited_draws > 20);
  weir_batch_builder_fini(&b);
  x->ops->destroy(x);
  weir_dev_destroy(m.dev);
  free(edit);
  free(logits);
}

static void test_answers(void **state) {
  (void)state;
  check_model("llama-F32");
  check_model("qwen2-padded-Q8_0");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_batches_are_checked),
                                     cmocka_unit_test(test_answers)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
