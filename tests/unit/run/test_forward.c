/* SPDX-License-Identifier: Apache-2.0 */
/* The forward pass of every family against golden logits at every position, on every instruction set. */
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
#include "run/forward.h"

static void test_golden_logits(void **state) {
  (void)state;
  for (int32_t k = 0; k < GOLDEN_MODELS; k++) {
    const golden_model *g = &golden_models[k];
    if (!g->exact) continue;
    wvec v = golden_vectors(g);
    for (int32_t a = 0; a < GOLDEN_ISAS; a++) {
      if (!have_isa(golden_isas[a])) {
        print_message("SKIP %s: this machine has no %s\n", g->name, weir_isa_name(golden_isas[a]));
        continue;
      }
      model m = model_open_golden(g, golden_isas[a], 1, WEIR_F32);
      assert_int_equal(m.inst->h.n_vocab, v.n_vocab);
      double worst_rel = 0, worst_rms = 0;
      for (int32_t s = 0; s < v.n_seqs; s++) {
        const wvec_seq *q = &v.seq[s];
        float *got = malloc((size_t)q->n_tokens * (size_t)v.n_vocab * sizeof *got);
        feed(&m, q->id, 0, q->n_tokens, straight_pages(), got);
        for (int32_t i = 0; i < q->n_tokens; i++) {
          double max = 0, diff = 0, sum = 0;
          for (int32_t c = 0; c < v.n_vocab; c++) {
            const double want = q->logits[(size_t)i * v.n_vocab + c],
                         d = fabs(got[(size_t)i * v.n_vocab + c] - want);
            if (!(d <= diff)) diff = d; /* NaN too */
            if (fabs(want) > max) max = fabs(want);
            sum += d * d;
          }
          const double rel = diff / max, rms = sqrt(sum / v.n_vocab);
          if (!(rel <= worst_rel)) worst_rel = rel;
          if (!(rms <= worst_rms)) worst_rms = rms;
        }
        free(got);
      }
      print_message("%-18s %-12s worst row: relative %.2e, rms %.2e\n", g->name,
                    weir_isa_name(golden_isas[a]), worst_rel, worst_rms);
      const bool ok = g->rel > 0 ? worst_rel <= g->rel : worst_rms <= g->rms;
      if (!ok)
        fail_msg("%s on %s: worst row %.3e relative, %.3e rms", g->name, weir_isa_name(golden_isas[a]),
                 worst_rel, worst_rms);
      model_close(&m);
    }
    wvec_free(&v);
  }
}

/* The sharper vectors of the quantised models: the reference rounds activations by the engine's own rule, so
 * a position agrees to float accuracy until some value falls on the other side of a rounding. An engine that
 * rounds by another rule meets none; this one must meet 40 % of the positions of each model. */
static void test_golden_logits_of_rounded_activations(void **state) {
  (void)state;
  for (int32_t k = 0; k < GOLDEN_MODELS; k++) {
    const golden_model *g = &golden_models[k];
    if (!g->rounded) continue;
    wvec v = golden_vectors_rounded(g);
    for (int32_t a = 0; a < GOLDEN_ISAS; a++) {
      if (!have_isa(golden_isas[a])) continue;
      model m = model_open_golden(g, golden_isas[a], 1, WEIR_F32);
      int32_t agree = 0, all = 0;
      for (int32_t s = 0; s < v.n_seqs; s++) {
        const wvec_seq *q = &v.seq[s];
        float *got = malloc((size_t)q->n_tokens * (size_t)v.n_vocab * sizeof *got);
        feed(&m, q->id, 0, q->n_tokens, straight_pages(), got);
        for (int32_t i = 0; i < q->n_tokens; i++, all++) {
          bool near = true;
          for (int32_t c = 0; c < v.n_vocab; c++) {
            const size_t at = (size_t)i * (size_t)v.n_vocab + (size_t)c;
            near &= fabs((double)got[at] - (double)q->logits[at]) <= 1e-4;
          }
          agree += near;
        }
        free(got);
      }
      print_message("%-18s %-12s %d of %d positions within 1e-4\n", g->name, weir_isa_name(golden_isas[a]),
                    agree, all);
      if (10 * agree < 4 * all)
        fail_msg("%s on %s: %d of %d positions within 1e-4", g->name, weir_isa_name(golden_isas[a]), agree,
                 all);
      model_close(&m);
    }
    wvec_free(&v);
  }
}

/* Each switch of a family, turned: the logits must leave the golden ones by far more than the bound, or the
 * vectors would not see that the forward pass forgets it. */
typedef enum {
  WINDOW,
  WIDER,
  LAYERS,
  ATTN_CAP,
  FINAL_CAP,
  SCALE,
  EMBED,
  ACT,
  RENORM,
  USED,
  DIMS,
  LOCAL,
  MSCALE
} turn;

static void turn_switch(weir_instance *m, turn t) {
  weir_hparams *h = &m->h;
  switch (t) {
    case WINDOW: h->window = 0; return;
    case WIDER: h->window++; return;
    case LAYERS: h->windowed[0] ^= 1; return;
    case ATTN_CAP: h->attn_softcap = 0; return;
    case FINAL_CAP: h->final_softcap = 0; return;
    case SCALE: h->attn_scale *= 0.9f; return;
    case EMBED: h->embed_scale = 1; return;
    case ACT: h->act = h->act == WEIR_ACT_SILU ? WEIR_ACT_GELU_TANH : WEIR_ACT_SILU; return;
    case RENORM: h->expert_renorm ^= 1; return;
    case USED: h->n_experts_used--; return;
    case DIMS: h->rope_interleaved ^= 1; return;
    case LOCAL: m->ws.turn_local.inv_freq = NULL; return; /* put back by the caller */
    case MSCALE: m->ws.turn.mscale = 1; return;
  }
}

static void test_switches_matter(void **state) {
  (void)state;
  static const struct {
    const char *name, *exact;
    turn turn;
  } rows[] = {
      {"hf-mistral", "mistral", WINDOW},
      {"hf-mistral", "mistral", WIDER},
      {"phi3-window-BF16", "phi3-window", WIDER},
      {"gemma2-BF16", "gemma2", WINDOW},
      {"gemma2-BF16", "gemma2", LAYERS},
      {"gemma2-BF16", "gemma2", ATTN_CAP},
      {"gemma2-BF16", "gemma2", FINAL_CAP},
      {"gemma2-BF16", "gemma2", SCALE},
      {"gemma2-BF16", "gemma2", EMBED},
      {"gemma2-BF16", "gemma2", ACT},
      {"gemma3-BF16", "gemma3", WIDER},
      {"gemma3-BF16", "gemma3", LAYERS},
      {"gemma3-BF16", "gemma3", LOCAL},
      {"gemma3-BF16", "gemma3", ACT},
      {"mixtral-BF16", "mixtral", RENORM},
      {"mixtral-BF16", "mixtral", USED},
      {"hf-qwen3moe-plain", "qwen3moe-plain", RENORM},
      {"llama3-BF16", "llama3", DIMS},
      {"llama3-BF16", "llama3", ACT},
      {"qwen2-yarn-BF16", "qwen2-yarn", MSCALE},
      {"phi3-BF16", "phi3", MSCALE},
  };
  for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
    wvec v = golden_vectors(&(golden_model){.name = rows[k].name, .exact = rows[k].exact});
    const wvec_seq *q = &v.seq[v.n_seqs - 1];
    const size_t n = (size_t)q->n_tokens * (size_t)v.n_vocab;
    float *got = malloc(n * sizeof *got);
    model m = model_open(rows[k].name, WEIR_ISA_BEST, 1, WEIR_F32);
    float *const inv_freq = m.inst->ws.turn_local.inv_freq;
    turn_switch(m.inst, rows[k].turn);
    feed(&m, q->id, 0, q->n_tokens, straight_pages(), got);
    m.inst->ws.turn_local.inv_freq = inv_freq;
    double diff = 0, max = 0;
    for (size_t i = 0; i < n; i++) {
      diff = fmax(diff, fabs((double)got[i] - (double)q->logits[i]));
      max = fmax(max, fabs((double)q->logits[i]));
    }
    if (!(diff / max > 0.02))
      fail_msg("%s with switch %d turned: largest deviation %.3e of %.3e", rows[k].name, (int)rows[k].turn,
               diff, max);
    model_close(&m);
    free(got);
    wvec_free(&v);
  }
}

/* ---- a step that fails behind operations that have borrowed the caller's rows ---- */

static weir_dev_ops real;
static int32_t n_lent;

static weir_status failing_sample(weir_dev *dev, weir_row *rows, weir_top *top, weir_mat logits,
                                  int32_t n_valid, const weir_ask *ask, const weir_vocab_shard *s,
                                  weir_err *e) {
  (void)dev, (void)rows, (void)top, (void)n_valid, (void)ask, (void)s;
  n_lent = logits.rows;
  return weir_fail(e, WEIR_ENOMEM, "no memory behind the first rows");
}
static weir_status counted_sync(weir_dev *dev, weir_err *e) {
  n_lent = 0;
  return real.sync(dev, e);
}

static void test_rows_come_back_from_a_failed_step(void **state) {
  (void)state;
  const int32_t tok[] = {1, 2, 3};
  weir_err e = {0};
  weir_batch_builder b;
  weir_row row[1];
  model m = model_open_golden(&golden_models[0], WEIR_ISA_SCALAR, 1, WEIR_F32);
  const weir_dev_ops *const whole = m.dev->ops;
  real = *whole;
  weir_dev_ops failing = real;
  failing.sample = failing_sample;
  failing.sync = counted_sync;
  m.dev->ops = &failing;
  assert_int_equal(weir_batch_builder_init(&b, 8, 1, GOLDEN_PAGES, 1, &e), WEIR_OK);
  const weir_batch_seq s = {tok, 0, 3, straight_pages(), 1};
  weir_batch_ask(&b, weir_batch_add(&b, &s) + 2);
  const weir_batch batch = weir_batch_get(&b);
  assert_int_equal(weir_forward(m.inst, &batch, row, NULL, &e), WEIR_ENOMEM);
  assert_string_equal(e.msg, "no memory behind the first rows");
  assert_int_equal(n_lent, 0);
  failing.sample = real.sample;
  e.msg[0] = '\0';
  assert_int_equal(weir_forward(m.inst, &batch, row, NULL, &e), WEIR_OK);
  weir_batch_builder_fini(&b);
  m.dev->ops = whole;
  model_close(&m);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_golden_logits),
      cmocka_unit_test(test_golden_logits_of_rounded_activations),
      cmocka_unit_test(test_switches_matter),
      cmocka_unit_test(test_rows_come_back_from_a_failed_step),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
