/* SPDX-License-Identifier: Apache-2.0 */
/* Hyper-parameters: what a well-formed file gives, and one row for each thing that is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gguf_writer.h"
#include "model/hparams.h"

/* A key as text: "u:12" unsigned, "i:-3" signed, "f:0.5" float, "s:text", "b:1"; "" leaves the key out. */
typedef struct setting {
  const char *key, *value; /* key without the architecture, unless it begins with "general." */
} setting;

static const setting base[] = {
    {"general.name", "s:A model"},      {"block_count", "u:3"},
    {"embedding_length", "u:64"},       {"feed_forward_length", "u:96"},
    {"context_length", "u:128"},        {"attention.head_count", "u:4"},
    {"attention.head_count_kv", "u:2"}, {"attention.layer_norm_rms_epsilon", "f:0.00001"},
    {"rope.freq_base", "f:500000"},
};
enum { N_BASE = sizeof base / sizeof base[0], MAX_CHANGES = 4 };

typedef struct model_case {
  const char *arch;            /* NULL: no general.architecture */
  setting change[MAX_CHANGES]; /* replaces or adds */
  uint64_t embd[2];            /* shape of token_embd.weight; {0}: [64, 10] */
  const char *tensor;          /* one more tensor of this name */
  uint32_t n_tokens;           /* entries of tokenizer.ggml.tokens; 0: no such key */
  weir_status status;
  const char *fragment;
} model_case;

static void put(gguf_writer *w, const char *arch, setting s) {
  char key[128];
  if (!*s.value) return;
  if (strncmp(s.key, "general.", 8) == 0)
    snprintf(key, sizeof key, "%s", s.key);
  else
    snprintf(key, sizeof key, "%s.%s", arch ? arch : "llama", s.key);
  const char *v = s.value + 2;
  switch (s.value[0]) {
    case 'u': gguf_writer_u32(w, key, (uint32_t)strtoul(v, NULL, 0)); break;
    case 'i': gguf_writer_i64(w, key, strtoll(v, NULL, 0)); break;
    case 'f': gguf_writer_f32(w, key, strtof(v, NULL)); break;
    case 's': gguf_writer_str(w, key, v); break;
    case 'b': gguf_writer_bool(w, key, *v == '1'); break;
    default: fail_msg("value %s", s.value);
  }
}

static weir_status read_case(const model_case *c, weir_hparams *h, weir_err *e) {
  gguf_writer w;
  gguf_writer_init(&w);
  if (c->arch) gguf_writer_str(&w, "general.architecture", c->arch);
  for (int i = 0; i < N_BASE; i++) {
    setting s = base[i];
    for (int k = 0; k < MAX_CHANGES && c->change[k].key; k++)
      if (strcmp(s.key, c->change[k].key) == 0) s.value = "";
    put(&w, c->arch, s);
  }
  for (int k = 0; k < MAX_CHANGES && c->change[k].key; k++) put(&w, c->arch, c->change[k]);
  const char *token[64];
  for (size_t i = 0; i < 64; i++) token[i] = "x";
  if (c->n_tokens) gguf_writer_strs(&w, "tokenizer.ggml.tokens", token, c->n_tokens);
  const uint64_t dim[2] = {c->embd[0] ? c->embd[0] : 64, c->embd[1] ? c->embd[1] : 10};
  if (c->embd[0] != 1) gguf_writer_tensor(&w, "token_embd.weight", GW_F16, dim, 2, NULL, dim[0] * dim[1] * 2);
  if (c->tensor) gguf_writer_tensor(&w, c->tensor, GW_F32, dim, 1, NULL, dim[0] * 4);
  size_t len;
  uint8_t *file = gguf_writer_file(&w, &len);
  gguf_writer_fini(&w);
  weir_gguf *g;
  weir_status st = weir_gguf_parse(file, len, &g, e);
  if (st != WEIR_OK) fail_msg("the test's file is malformed: %s", e->msg);
  st = weir_hparams_from_gguf(g, h, e);
  weir_gguf_close(g);
  free(file);
  return st;
}

/* ---- what is read ---- */

static void read_and_defaults(void **state) {
  (void)state;
  weir_err e = {0};
  weir_hparams h;
  assert_int_equal(read_case(&(model_case){.arch = "llama"}, &h, &e), WEIR_OK);
  assert_int_equal(h.arch, WEIR_ARCH_LLAMA);
  assert_string_equal(h.name, "A model");
  assert_int_equal(h.n_layers, 3);
  assert_int_equal(h.dim, 64);
  assert_int_equal(h.n_ff, 96);
  assert_int_equal(h.n_ctx, 128);
  assert_int_equal(h.n_heads, 4);
  assert_int_equal(h.n_kv_heads, 2);
  assert_int_equal(h.head_dim, 16);
  assert_int_equal(h.rope_dims, 16);
  assert_int_equal(h.n_vocab, 10);
  assert_true(h.rope.theta == 500000.0f);
  assert_true(h.norm_eps == 1e-5f);
  assert_true(h.rope_interleaved);
  assert_false(h.qk_norm);
  assert_true(h.tied_head);

  const model_case qwen3 = {.arch = "qwen3",
                            .change = {{"attention.key_length", "u:32"},
                                       {"attention.value_length", "u:32"},
                                       {"rope.dimension_count", "u:24"},
                                       {"attention.head_count_kv", ""}},
                            .tensor = "output.weight",
                            .n_tokens = 8};
  assert_int_equal(read_case(&qwen3, &h, &e), WEIR_OK);
  assert_int_equal(h.arch, WEIR_ARCH_QWEN3);
  assert_int_equal(h.head_dim, 32);
  assert_int_equal(h.rope_dims, 24);
  assert_int_equal(h.n_kv_heads, 4);
  assert_false(h.rope_interleaved);
  assert_true(h.qk_norm);
  assert_false(h.tied_head);

  const model_case qwen2 = {.arch = "qwen2",
                            .change = {{"general.name", ""},
                                       {"rope.freq_base", ""},
                                       {"rope.scaling.type", "s:none"},
                                       {"attention.sliding_window", "u:128"}},
                            .n_tokens = 10};
  assert_int_equal(read_case(&qwen2, &h, &e), WEIR_OK);
  assert_int_equal(h.arch, WEIR_ARCH_QWEN2);
  assert_string_equal(h.name, "qwen2");
  assert_true(h.rope.theta == 10000.0f);
  assert_false(h.rope_interleaved);
  assert_false(h.qk_norm);
  assert_string_equal(weir_arch_name(WEIR_ARCH_QWEN2), "qwen2");

  assert_int_equal(
      read_case(&(model_case){.arch = "llama", .change = {{"general.name", "s:\x1b[2J\n"}}}, &h, &e),
      WEIR_OK);
  assert_string_equal(h.name, "\\x1b[2J\\n");
}

/* ---- what is refused ---- */

static const model_case refused[] = {
    {NULL, .status = WEIR_EFORMAT, .fragment = "key \"general.architecture\" is missing"},
    {"gpt2", .status = WEIR_EUNSUP,
     .fragment = "architecture \"gpt2\" is not supported (known: llama qwen2 qwen3)"},
    {"llama4", .status = WEIR_EUNSUP, .fragment = "architecture \"llama4\""},
    {"", .status = WEIR_EUNSUP, .fragment = "architecture \"\""},
    {"llama",
     {{"block_count", ""}},
     .status = WEIR_EFORMAT,
     .fragment = "key \"llama.block_count\" is missing"},
    {"llama",
     {{"block_count", "u:0"}},
     .status = WEIR_EFORMAT,
     .fragment = "\"llama.block_count\": 0 is not in 1..1024"},
    {"llama", {{"block_count", "u:1025"}}, .status = WEIR_EFORMAT, .fragment = "1025 is not in"},
    {"llama", {{"block_count", "i:-1"}}, .status = WEIR_EFORMAT, .fragment = "-1 is not in"},
    {"llama",
     {{"block_count", "s:3"}},
     .status = WEIR_EFORMAT,
     .fragment = "want an integer, file has string"},
    {"llama",
     {{"embedding_length", ""}},
     .status = WEIR_EFORMAT,
     .fragment = "embedding_length\" is missing"},
    {"llama", {{"embedding_length", "u:131073"}}, .status = WEIR_EFORMAT, .fragment = "is not in 1..131072"},
    {"llama",
     {{"feed_forward_length", ""}},
     .status = WEIR_EFORMAT,
     .fragment = "feed_forward_length\" is missing"},
    {"llama",
     {{"feed_forward_length", "u:0"}},
     .status = WEIR_EFORMAT,
     .fragment = "feed_forward_length\": 0"},
    {"llama", {{"context_length", ""}}, .status = WEIR_EFORMAT, .fragment = "context_length\" is missing"},
    {"llama", {{"context_length", "u:0"}}, .status = WEIR_EFORMAT, .fragment = "context_length\": 0"},
    {"llama", {{"context_length", "u:16777217"}}, .status = WEIR_EFORMAT, .fragment = "16777217 is not in"},
    {"llama", {{"attention.head_count", ""}}, .status = WEIR_EFORMAT, .fragment = "head_count\" is missing"},
    {"llama", {{"attention.head_count", "u:0"}}, .status = WEIR_EFORMAT, .fragment = "head_count\": 0"},
    {"llama", {{"attention.head_count", "u:1025"}}, .status = WEIR_EFORMAT, .fragment = "head_count\": 1025"},
    {"llama", {{"attention.head_count_kv", "u:0"}}, .status = WEIR_EFORMAT, .fragment = "head_count_kv\": 0"},
    {"llama", {{"attention.head_count_kv", "u:8"}}, .status = WEIR_EFORMAT, .fragment = "8 is not in 1..4"},
    {"llama",
     {{"attention.head_count_kv", "u:3"}},
     .status = WEIR_EFORMAT,
     .fragment = "4 heads are not a multiple of 3 key/value heads"},
    {"llama",
     {{"attention.head_count", "u:6"}, {"attention.head_count_kv", "u:6"}},
     .status = WEIR_EFORMAT,
     .fragment =
         "embedding length 64 is not a multiple of 6 heads, and there is no \"llama.attention.key_length\""},
    {"llama",
     {{"attention.head_count", "u:64"}, {"attention.head_count_kv", "u:64"}},
     .status = WEIR_EFORMAT,
     .fragment = "key_length\": 1 is not in 2..512"},
    {"llama",
     {{"attention.key_length", "u:15"}, {"attention.value_length", "u:15"}},
     .status = WEIR_EFORMAT,
     .fragment = "head dimension 15 is odd"},
    {"llama", {{"attention.key_length", "u:1024"}}, .status = WEIR_EFORMAT, .fragment = "1024 is not in"},
    {"llama",
     {{"attention.value_length", "u:32"}},
     .status = WEIR_EUNSUP,
     .fragment = "heads with 16 key and 32 value elements"},
    {"llama", {{"rope.dimension_count", "u:18"}}, .status = WEIR_EFORMAT, .fragment = "18 is not in 2..16"},
    {"llama", {{"rope.dimension_count", "u:0"}}, .status = WEIR_EFORMAT, .fragment = "0 is not in 2..16"},
    {"llama",
     {{"rope.dimension_count", "u:7"}},
     .status = WEIR_EFORMAT,
     .fragment = "RoPE dimension count 7 is odd"},
    {"llama", {{"rope.freq_base", "f:0"}}, .status = WEIR_EFORMAT, .fragment = "freq_base\": 0 is below 1"},
    {"llama", {{"rope.freq_base", "f:nan"}}, .status = WEIR_EFORMAT, .fragment = "not a finite float"},
    {"llama",
     {{"rope.freq_base", "u:10000"}},
     .status = WEIR_EFORMAT,
     .fragment = "want a float, file has u32"},
    {"llama",
     {{"attention.layer_norm_rms_epsilon", ""}},
     .status = WEIR_EFORMAT,
     .fragment = "epsilon\" is missing"},
    {"llama",
     {{"attention.layer_norm_rms_epsilon", "f:0"}},
     .status = WEIR_EFORMAT,
     .fragment = "0 is not in 0..0.1"},
    {"llama",
     {{"attention.layer_norm_rms_epsilon", "f:-1"}},
     .status = WEIR_EFORMAT,
     .fragment = "-1 is not in"},
    {"llama",
     {{"attention.layer_norm_rms_epsilon", "f:1"}},
     .status = WEIR_EFORMAT,
     .fragment = "1 is not in"},
    {"llama",
     {{"rope.scaling.type", "s:linear"}},
     .status = WEIR_EUNSUP,
     .fragment = "key \"llama.rope.scaling.type\": RoPE scaling \"linear\" is not supported (only none)"},
    {"qwen2", {{"rope.scaling.type", "s:yarn"}}, .status = WEIR_EUNSUP, .fragment = "RoPE scaling \"yarn\""},
    {"llama",
     {{"rope.scale_linear", "f:2"}},
     .status = WEIR_EUNSUP,
     .fragment = "rope.scale_linear\": 2 is not"},
    {"llama", {{"logit_scale", "f:0.5"}}, .status = WEIR_EUNSUP, .fragment = "logit_scale\": 0.5 is not"},
    {"llama", .tensor = "rope_freqs.weight", .status = WEIR_EUNSUP,
     .fragment = "tensor \"rope_freqs.weight\": RoPE with frequency factors"},
    {"llama", {{"expert_count", "u:8"}}, .status = WEIR_EUNSUP, .fragment = "mixtures of experts"},
    {"llama",
     {{"attention.sliding_window", "u:64"}},
     .status = WEIR_EUNSUP,
     .fragment = "sliding-window attention (64 of 128 positions)"},
    {"llama", {{"attention.causal", "b:0"}}, .status = WEIR_EUNSUP, .fragment = "not causal"},
    {"llama", .embd = {1, 1}, .status = WEIR_EFORMAT, .fragment = "tensor \"token_embd.weight\" is missing"},
    {"llama", .embd = {32, 10}, .status = WEIR_EFORMAT, .fragment = "want rows of 64, file has [32,10]"},
    {"llama",
     {{"vocab_size", "u:11"}},
     .status = WEIR_EFORMAT,
     .fragment = "\"llama.vocab_size\": 11, but token_embd.weight has 10 rows"},
    {"llama", .n_tokens = 11, .status = WEIR_EFORMAT,
     .fragment = "11 tokens, but token_embd.weight has 10 rows"},
    {"llama", {{"general.name", "u:3"}}, .status = WEIR_EFORMAT, .fragment = "want a string, file has u32"},
};

static void refusals(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
    weir_err e = {0};
    weir_hparams h = {.n_layers = -7};
    const weir_status st = read_case(&refused[i], &h, &e);
    if (st != refused[i].status || !strstr(e.msg, refused[i].fragment))
      fail_msg("row %zu: got %d \"%s\", want %d with \"%s\"", i, st, e.msg, refused[i].status,
               refused[i].fragment);
    assert_int_equal(h.n_layers, -7); /* untouched */
  }
}

static void demo_models(void **state) {
  (void)state;
  static const struct {
    const char *path;
    int32_t layers, dim, heads, kv_heads, head_dim, ff;
  } rows[] = {{"models/weir-demo-small-Q8_0.gguf", 3, 128, 2, 1, 64, 256},
              {"models/weir-demo-large-Q8_0.gguf", 6, 256, 4, 2, 64, 768}};
  for (size_t i = 0; i < 2; i++) {
    weir_err e = {0};
    weir_gguf *g;
    weir_hparams h;
    if (weir_gguf_open(rows[i].path, &g, &e) != WEIR_OK) fail_msg("%s", e.msg);
    if (weir_hparams_from_gguf(g, &h, &e) != WEIR_OK) fail_msg("%s", e.msg);
    assert_int_equal(h.n_layers, rows[i].layers);
    assert_int_equal(h.dim, rows[i].dim);
    assert_int_equal(h.n_heads, rows[i].heads);
    assert_int_equal(h.n_kv_heads, rows[i].kv_heads);
    assert_int_equal(h.head_dim, rows[i].head_dim);
    assert_int_equal(h.n_ff, rows[i].ff);
    assert_int_equal(h.n_vocab, 4096);
    assert_int_equal(h.n_ctx, 512);
    assert_true(h.tied_head);
    weir_gguf_close(g);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(read_and_defaults),
      cmocka_unit_test(refusals),
      cmocka_unit_test(demo_models),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
