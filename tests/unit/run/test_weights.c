/* SPDX-License-Identifier: Apache-2.0 */
/* What a model's file must hold and what it must not: one small llama, one row for each thing that is wrong
 * with it; progress, and the arithmetic a model asks for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gguf_writer.h"
#include "golden.h"
#include "run/exec_local.h"

/* ---- one layer: dim 32, 2 / 1 heads x 16, ff 48, 8 tokens; or 4 experts of 24 ---- */

typedef struct shape {
  const char *name;
  uint64_t dim[3]; /* dim[0] is the row length; {0}: the tensor is left out */
} shape;

static const shape common[] = {{"token_embd.weight", {32, 8}},    {"blk.0.attn_norm.weight", {32}},
                               {"blk.0.attn_q.weight", {32, 32}}, {"blk.0.attn_k.weight", {32, 16}},
                               {"blk.0.attn_v.weight", {32, 16}}, {"blk.0.attn_output.weight", {32, 32}},
                               {"blk.0.ffn_norm.weight", {32}},   {"output_norm.weight", {32}}};
static const shape plain[] = {{"blk.0.ffn_gate.weight", {32, 48}},
                              {"blk.0.ffn_up.weight", {32, 48}},
                              {"blk.0.ffn_down.weight", {48, 32}}};
static const shape experts[] = {{"blk.0.ffn_gate_inp.weight", {32, 4}},
                                {"blk.0.ffn_gate_exps.weight", {32, 24, 4}},
                                {"blk.0.ffn_up_exps.weight", {32, 24, 4}},
                                {"blk.0.ffn_down_exps.weight", {24, 32, 4}}};
#define COUNT(a) (sizeof(a) / sizeof *(a))
enum { MAX_CHANGES = 3 };

typedef struct load_case {
  shape change[MAX_CHANGES]; /* replaces or adds */
  bool experts;
  int32_t n_apart; /* experts in tensors of their own, so many, as files of 2023 have them; 0: stacked */
  weir_status status;
  const char *fragment;
} load_case;

static void put(gguf_writer *w, shape s) {
  uint32_t n_dims = 0;
  size_t bytes = sizeof(float);
  while (n_dims < 3 && s.dim[n_dims]) bytes *= s.dim[n_dims++];
  if (n_dims > 0) gguf_writer_tensor(w, s.name, GW_F32, s.dim, n_dims, NULL, bytes);
}

static void put_all(gguf_writer *w, const shape *s, size_t n, const load_case *c) {
  for (size_t i = 0; i < n; i++) {
    bool changed = false;
    for (int k = 0; k < MAX_CHANGES && c->change[k].name; k++)
      changed |= strcmp(c->change[k].name, s[i].name) == 0;
    if (!changed) put(w, s[i]);
  }
}

static void put_apart(gguf_writer *w, int32_t n) {
  static const shape each[] = {{"ffn_gate", {32, 24}}, {"ffn_up", {32, 24}}, {"ffn_down", {24, 32}}};
  for (int32_t i = 0; i < n; i++)
    for (size_t k = 0; k < COUNT(each); k++) {
      char name[64];
      snprintf(name, sizeof name, "blk.0.%s.%d.weight", each[k].name, i);
      put(w, (shape){name, {each[k].dim[0], each[k].dim[1]}});
    }
}

static uint8_t *file_of(const load_case *c, size_t *len) {
  gguf_writer w;
  gguf_writer_init(&w);
  gguf_writer_str(&w, "general.architecture", "llama");
  static const struct {
    const char *key;
    uint32_t value;
  } key[] = {{"llama.block_count", 1},
             {"llama.embedding_length", 32},
             {"llama.context_length", 64},
             {"llama.attention.head_count", 2},
             {"llama.attention.head_count_kv", 1}};
  for (size_t i = 0; i < COUNT(key); i++) gguf_writer_u32(&w, key[i].key, key[i].value);
  gguf_writer_u32(&w, "llama.feed_forward_length", c->experts ? 24 : 48);
  gguf_writer_f32(&w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
  if (c->experts) {
    gguf_writer_u32(&w, "llama.expert_count", 4);
    gguf_writer_u32(&w, "llama.expert_used_count", 2);
  }
  put_all(&w, common, COUNT(common), c);
  if (c->n_apart > 0) {
    put(&w, experts[0]);
    put_apart(&w, c->n_apart);
  } else {
    put_all(&w, c->experts ? experts : plain, c->experts ? COUNT(experts) : COUNT(plain), c);
  }
  for (int k = 0; k < MAX_CHANGES && c->change[k].name; k++) put(&w, c->change[k]);
  uint8_t *file = gguf_writer_file(&w, len);
  gguf_writer_fini(&w);
  return file;
}

static weir_status load(const load_case *c, weir_weights *out, weir_dev *dev, const weir_load_progress *p,
                        weir_err *e) {
  weir_mfile *m = NULL;
  weir_hparams h;
  size_t len;
  uint8_t *file = file_of(c, &len);
  weir_status st = weir_mfile_parse_gguf(file, len, &m, e);
  if (st == WEIR_OK) {
    st = weir_hparams_read(m, &h, e);
    if (st == WEIR_OK) st = weir_weights_load(dev, m, &h, NULL, p, out, e);
  }
  weir_mfile_close(m);
  free(file);
  return st;
}

static const load_case cases[] = {
    {.status = WEIR_OK},
    {.experts = true, .status = WEIR_OK},
    /* apart or in one */
    {.change = {{"blk.0.attn_qkv.weight", {32, 64}}, {"blk.0.attn_qkv.bias", {64}}},
     .status = WEIR_EUNSUP, /* both is once too often */
     .fragment = "tensor \"blk.0.attn_q.weight\": llama models have no such tensor"},
    {.change = {{"blk.0.attn_q.weight", {0}}, {"blk.0.attn_k.weight", {0}}, {"blk.0.attn_v.weight", {0}}},
     .status = WEIR_EFORMAT,
     .fragment = "tensor blk.0.attn_q.weight is missing"},
    {.change = {{"blk.0.attn_q.bias", {32}}, {"blk.0.attn_k.bias", {16}}, {"blk.0.attn_v.bias", {16}}},
     .status = WEIR_OK},
    {.change = {{"blk.0.attn_q.bias", {32}}},
     .status = WEIR_EFORMAT,
     .fragment = "tensor blk.0.attn_k.bias is missing"},
    {.change = {{"blk.0.ffn_gate.weight", {0}}, {"blk.0.ffn_up.weight", {32, 96}}}, .status = WEIR_OK},
    {.change = {{"blk.0.ffn_gate.weight", {0}}},
     .status = WEIR_EFORMAT,
     .fragment = "tensor blk.0.ffn_up.weight: want [96, 32], file has [1, 1, 48, 32] F32"},
    {.change = {{"blk.0.attn_output.weight", {32, 16}}},
     .status = WEIR_EFORMAT,
     .fragment = "tensor blk.0.attn_output.weight: want [32, 32], file has [1, 1, 16, 32]"},
    {.change = {{"output_norm.weight", {0}}},
     .status = WEIR_EFORMAT,
     .fragment = "tensor output_norm.weight is missing"},
    {.change = {{"blk.0.ffn_norm.weight", {16}}},
     .status = WEIR_EFORMAT,
     .fragment = "tensor blk.0.ffn_norm.weight: want [1, 32], file has [1, 1, 1, 16] F32"},
    /* what the forward pass would leave out */
    {.change = {{"blk.0.attn_output.bias", {32}}},
     .status = WEIR_EUNSUP,
     .fragment = "tensor \"blk.0.attn_output.bias\": llama models have no such tensor"},
    {.change = {{"blk.0.attn_q_norm.weight", {16}}},
     .status = WEIR_EUNSUP,
     .fragment = "tensor \"blk.0.attn_q_norm.weight\""},
    {.change = {{"blk.1.attn_norm.weight", {32}}},
     .status = WEIR_EUNSUP,
     .fragment = "tensor \"blk.1.attn_norm.weight\""},
    {.change = {{"output.bias", {8}}}, .status = WEIR_EUNSUP, .fragment = "tensor \"output.bias\""},
    {.change = {{"blk.0.ffn_gate_shexp.weight", {32, 24}}},
     .experts = true,
     .status = WEIR_EUNSUP,
     .fragment = "tensor \"blk.0.ffn_gate_shexp.weight\""},
    /* ... and what it knows otherwise */
    {.change = {{"blk.0.attn_rot_embd", {8}}}, .status = WEIR_OK},
    /* experts */
    {.change = {{"blk.0.ffn_gate_inp.weight", {32, 3}}},
     .experts = true,
     .status = WEIR_EFORMAT,
     .fragment = "tensor blk.0.ffn_gate_inp.weight: want [4, 32]"},
    {.change = {{"blk.0.ffn_up_exps.weight", {32, 24, 3}}},
     .experts = true,
     .status = WEIR_EFORMAT,
     .fragment = "tensor blk.0.ffn_up.3.weight is missing"},
    {.change = {{"blk.0.ffn_up_exps.weight", {32, 24, 5}}},
     .experts = true,
     .status = WEIR_EFORMAT,
     .fragment = "tensor \"blk.0.ffn_up_exps.weight\": more than 4 experts"},
    {.experts = true, .n_apart = 4, .status = WEIR_OK},
    {.experts = true,
     .n_apart = 3,
     .status = WEIR_EFORMAT,
     .fragment = "tensor blk.0.ffn_gate.3.weight is missing"},
    {.experts = true,
     .n_apart = 5,
     .status = WEIR_EFORMAT,
     .fragment = "tensor \"blk.0.ffn_gate.4.weight\": more than 4 experts"},
    {.change = {{"blk.0.ffn_down_exps.weight", {32, 32, 4}}},
     .experts = true,
     .status = WEIR_EFORMAT,
     .fragment = "tensor blk.0.ffn_down.0.weight: want [32, 24]"},
};

typedef struct progress_seen {
  int64_t done, total, calls;
} progress_seen;

static void see(void *ctx, int64_t done, int64_t total) {
  progress_seen *s = ctx;
  assert_true(done > s->done && done <= total);
  *s = (progress_seen){done, total, s->calls + 1};
}

static void loads_and_refusals(void **state) {
  (void)state;
  weir_dev *dev;
  weir_err e = {0};
  assert_int_equal(weir_dev_open_cpu(&(weir_cpu_opts){.n_threads = 1}, &dev, &e), WEIR_OK);
  for (size_t i = 0; i < COUNT(cases); i++) {
    weir_weights w;
    progress_seen seen = {0};
    e.msg[0] = '\0';
    const weir_status st = load(&cases[i], &w, dev, &(weir_load_progress){.report = see, .ctx = &seen}, &e);
    if (st != cases[i].status || (cases[i].fragment && !strstr(e.msg, cases[i].fragment)))
      fail_msg("row %zu: got %d \"%s\", want %d with \"%s\"", i, st, e.msg, cases[i].status,
               cases[i].fragment ? cases[i].fragment : "");
    if (st != WEIR_OK) continue;
    assert_true(seen.calls > 8 && w.bytes > 0);
    if (!cases[i].change[0].name) assert_int_equal(seen.done, seen.total);
    weir_weights_release(&w);
  }
  weir_dev_destroy(dev);
}

static bool seen_enough(void *ctx) { return ((progress_seen *)ctx)->calls == 5; }

/* Nothing of what was loaded is left. */
static void stops(void **state) {
  (void)state;
  weir_dev *dev;
  weir_err e = {0};
  assert_int_equal(weir_dev_open_cpu(&(weir_cpu_opts){.n_threads = 1}, &dev, &e), WEIR_OK);
  for (int32_t i = 0; i < 2; i++) {
    weir_weights w;
    progress_seen seen = {0};
    const weir_load_progress p = {.report = see, .ctx = &seen, .stop = seen_enough};
    assert_int_equal(load(&(load_case){.experts = i > 0}, &w, dev, &p, &e), WEIR_ECANCEL);
    assert_true(seen.calls == 5 && seen.done < seen.total && !w.layer);
  }
  weir_dev_destroy(dev);
}

/* Multiplications and additions a token takes, attention's scores aside. */
static void flops(void **state) {
  (void)state;
  static const struct {
    const char *name;
    int64_t want;
  } rows[] = {
      {"llama-F32", 2 * 2 * (64 * (64 + 2 * 32) + 64 * 64 + 3 * 96 * 64)},
      /* 4 experts to choose from, 2 at work, 32 wide */
      {"mixtral-BF16", 2 * 2 * (64 * (64 + 2 * 32) + 64 * 64 + 4 * 64 + 2 * 3 * 32 * 64)},
      {"gemma2-BF16", 2 * 3 * (64 * (96 + 2 * 48) + 96 * 64 + 3 * 64 * 64)},
  };
  for (size_t i = 0; i < COUNT(rows); i++) {
    weir_err e = {0};
    weir_exec *x;
    model m = model_open(rows[i].name, WEIR_ISA_BEST, 1, WEIR_F16);
    assert_int_equal(weir_exec_local_create(m.inst, "it", &x, &e), WEIR_OK);
    if (x->info.flops_per_token != rows[i].want)
      fail_msg("%s: %lld, want %lld", rows[i].name, (long long)x->info.flops_per_token,
               (long long)rows[i].want);
    x->ops->destroy(x);
    weir_dev_destroy(m.dev);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(loads_and_refusals), cmocka_unit_test(stops),
                                     cmocka_unit_test(flops)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
