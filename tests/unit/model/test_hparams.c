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
enum { N_BASE = sizeof base / sizeof base[0], MAX_CHANGES = 6 };

typedef struct model_case {
  const char *arch;            /* NULL: no general.architecture */
  setting change[MAX_CHANGES]; /* replaces or adds */
  uint64_t embd[2];            /* shape of token_embd.weight; {0}: [64, 10] */
  const char *tensor;          /* one more tensor of this name ... */
  const char *tensor2;         /* ... and another */
  uint64_t n_tensor;           /* elements of both; 0: 64 */
  const float *tensor_data;    /* of both; NULL: zeros */
  const char *bools;           /* attention.sliding_window_pattern as an array of bools, of '0' and '1' */
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

/* A GGUF array: type of its elements (7: bool), their number, the elements. */
static void put_bools(gguf_writer *w, const char *arch, const char *bools) {
  uint8_t value[12 + 32] = {7};
  char key[128];
  const size_t n = strlen(bools);
  assert_true(n <= 32);
  value[4] = (uint8_t)n;
  for (size_t i = 0; i < n; i++) value[12 + i] = bools[i] == '1';
  snprintf(key, sizeof key, "%s.attention.sliding_window_pattern", arch);
  gguf_writer_raw(w, key, 9, value, 12 + n);
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
  const uint64_t n = c->n_tensor ? c->n_tensor : 64;
  if (c->tensor) gguf_writer_tensor(&w, c->tensor, GW_F32, &n, 1, c->tensor_data, n * 4);
  if (c->tensor2) gguf_writer_tensor(&w, c->tensor2, GW_F32, &n, 1, c->tensor_data, n * 4);
  if (c->bools) put_bools(&w, c->arch, c->bools);
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

static weir_hparams must_read(const model_case *c) {
  weir_err e = {0};
  weir_hparams h;
  if (read_case(c, &h, &e) != WEIR_OK) fail_msg("%s", e.msg);
  return h;
}

static const float ones[8] = {1, 1, 1, 1, 1, 1, 1, 1};

static void ropes(void **state) {
  (void)state;
  weir_hparams h = must_read(&(model_case){.arch = "llama", .change = {{"rope.scaling.factor", "f:4"}}});
  assert_int_equal(h.rope.kind, WEIR_ROPE_LINEAR); /* as llama.cpp reads a factor without a type */
  assert_true(h.rope.factor == 4.0f);
  h = must_read(&(model_case){.arch = "llama", .change = {{"rope.scale_linear", "f:2"}}});
  assert_int_equal(h.rope.kind, WEIR_ROPE_LINEAR);
  assert_true(h.rope.factor == 2.0f);
  h = must_read(&(model_case){.arch = "llama",
                              .change = {{"rope.scaling.type", "s:none"}, {"rope.scaling.factor", "f:2"}}});
  assert_int_equal(h.rope.kind, WEIR_ROPE_PLAIN);
  h = must_read(&(model_case){.arch = "llama", .change = {{"rope.scaling.type", "s:linear"}}});
  assert_int_equal(h.rope.kind, WEIR_ROPE_PLAIN);

  h = must_read(&(model_case){.arch = "qwen2",
                              .change = {{"rope.scaling.type", "s:yarn"}, {"rope.scaling.factor", "f:4"}}});
  assert_int_equal(h.rope.kind, WEIR_ROPE_YARN);
  assert_int_equal(h.rope.original_ctx, 128); /* the context, when nothing is said */
  assert_true(h.rope.factor == 4.0f && h.rope.beta_fast == 32.0f && h.rope.beta_slow == 1.0f);
  assert_true(h.rope.mscale == 0.0f);
  h = must_read(&(model_case){.arch = "qwen2",
                              .change = {{"rope.scaling.type", "s:yarn"},
                                         {"rope.scaling.factor", "f:4"},
                                         {"rope.scaling.original_context_length", "u:32"},
                                         {"rope.scaling.attn_factor", "f:2"},
                                         {"rope.scaling.yarn_beta_fast", "f:16"},
                                         {"rope.scaling.yarn_beta_slow", "f:2"}}});
  assert_int_equal(h.rope.original_ctx, 32);
  assert_true(h.rope.beta_fast == 16.0f && h.rope.beta_slow == 2.0f);
  assert_true(h.rope.mscale > 2.27725f && h.rope.mscale < 2.27727f); /* 2 (0.1 ln 4 + 1) */

  static const float factor[8] = {1, 1, 1.5f, 2, 4, 8, 8, 8};
  h = must_read(
      &(model_case){.arch = "llama", .tensor = "rope_freqs.weight", .n_tensor = 8, .tensor_data = factor});
  assert_int_equal(h.rope.kind, WEIR_ROPE_FACTORS);
  assert_memory_equal(h.rope.table, factor, sizeof factor);
  h = must_read(&(model_case){
      .arch = "phi3",
      .change = {{"rope.scaling.original_context_length", "u:32"}, {"rope.scaling.attn_factor", "f:1.19"}},
      .tensor = "rope_factors_long.weight",
      .tensor2 = "rope_factors_short.weight",
      .n_tensor = 8,
      .tensor_data = factor});
  assert_int_equal(h.rope.kind, WEIR_ROPE_LONGROPE);
  assert_int_equal(h.rope.original_ctx, 32);
  assert_true(h.rope.mscale == 1.19f && h.rope.factor == 4.0f);
  assert_memory_equal(h.rope.table, factor, sizeof factor);
  assert_memory_equal(h.rope.long_table, factor, sizeof factor);
}

static void expect_windowed(const weir_hparams *h, const char *want) {
  char got[64] = "";
  for (int32_t i = 0; i < h->n_layers; i++) got[i] = (char)('0' + h->windowed[i]);
  assert_string_equal(got, want);
}

static void other_families(void **state) {
  (void)state;
  weir_hparams h = must_read(
      &(model_case){.arch = "llama", .change = {{"attention.sliding_window", "u:64"}}}); /* Mistral */
  assert_int_equal(h.window, 64);
  expect_windowed(&h, "111");
  assert_int_equal(h.act, WEIR_ACT_SILU);
  assert_true(h.embed_scale == 1.0f && h.attn_scale == 0.25f && h.attn_softcap == 0.0f);
  assert_false(h.post_norms || h.norm_plus_one);
  h = must_read(&(model_case){.arch = "llama", .change = {{"attention.sliding_window", "u:0"}}});
  expect_windowed(&h, "000");
  h = must_read(&(model_case){.arch = "phi3", .change = {{"attention.sliding_window", "u:64"}}});
  expect_windowed(&h, "111");
  h = must_read(&(model_case){
      .arch = "qwen2",
      .change = {{"attention.sliding_window", "u:64"}, {"attention.sliding_window_pattern", "u:2"}}});
  expect_windowed(&h, "101");

  h = must_read(&(model_case){.arch = "gemma2"});
  assert_int_equal(h.window, 4096);
  expect_windowed(&h, "101");
  assert_int_equal(h.act, WEIR_ACT_GELU_TANH);
  assert_true(h.embed_scale == 8.0f && h.attn_scale == 0.25f);
  assert_true(h.attn_softcap == 50.0f && h.final_softcap == 30.0f);
  assert_true(h.post_norms && !h.qk_norm && !h.norm_plus_one && !h.rope_interleaved);
  assert_memory_equal(&h.rope, &h.rope_local, sizeof h.rope);
  h = must_read(&(model_case){.arch = "gemma2",
                              .change = {{"block_count", "u:46"},
                                         {"attn_logit_softcapping", "f:5"},
                                         {"final_logit_softcapping", "f:0"},
                                         {"attention.key_length", "u:32"},
                                         {"attention.value_length", "u:32"}}});
  assert_true(h.attn_scale == 0.25f); /* 27B: by dim / heads = 16, not by head_dim */
  assert_true(h.attn_softcap == 5.0f && h.final_softcap == 0.0f);

  h = must_read(&(model_case){.arch = "gemma3",
                              .change = {{"block_count", "u:8"},
                                         {"attention.sliding_window", "u:64"},
                                         {"rope.scaling.type", "s:linear"},
                                         {"rope.scaling.factor", "f:8"}}});
  expect_windowed(&h, "11111011");
  assert_true(h.rope.theta == 500000.0f && h.rope_local.theta == 10000.0f);
  assert_int_equal(h.rope.kind, WEIR_ROPE_LINEAR);
  assert_int_equal(h.rope_local.kind, WEIR_ROPE_PLAIN);
  assert_true(h.post_norms && h.qk_norm && h.attn_softcap == 0.0f && h.final_softcap == 0.0f);
  h = must_read(
      &(model_case){.arch = "gemma3",
                    .change = {{"attention.sliding_window", "u:64"}, {"rope.freq_base_swa", "f:20000"}},
                    .bools = "101"});
  expect_windowed(&h, "101");
  assert_true(h.rope_local.theta == 20000.0f);
  h = must_read(&(model_case){.arch = "gemma3"}); /* no window: all layers are global */
  expect_windowed(&h, "000");

  h = must_read(&(model_case){
      .arch = "llama", .change = {{"expert_count", "u:8"}, {"expert_used_count", "u:2"}}}); /* Mixtral */
  assert_int_equal(h.n_experts, 8);
  assert_int_equal(h.n_experts_used, 2);
  assert_int_equal(h.expert_ff, 96);
  assert_true(h.expert_renorm);
  h = must_read(&(model_case){.arch = "qwen3moe",
                              .change = {{"expert_count", "u:8"},
                                         {"expert_used_count", "u:2"},
                                         {"expert_feed_forward_length", "u:32"},
                                         {"expert_weights_norm", "b:0"}}});
  assert_int_equal(h.expert_ff, 32);
  assert_true(h.qk_norm && !h.expert_renorm);
}

/* ---- what is refused ---- */

static const model_case refused[] = {
    {NULL, .status = WEIR_EFORMAT, .fragment = "key \"general.architecture\" is missing"},
    {"gpt2", .status = WEIR_EUNSUP,
     .fragment =
         "architecture \"gpt2\" is not supported (known: llama qwen2 qwen3 qwen3moe gemma2 gemma3 phi3)"},
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
     {{"rope.scaling.type", "s:dynamic"}},
     .status = WEIR_EUNSUP,
     .fragment = "key \"llama.rope.scaling.type\": RoPE scaling \"dynamic\" is not supported (known: none "
                 "linear yarn longrope)"},
    {"llama",
     {{"rope.scaling.factor", "f:-2"}},
     .status = WEIR_EFORMAT,
     .fragment = "scaling.factor\": -2 is negative"},
    {"qwen2",
     {{"rope.scaling.type", "s:yarn"},
      {"rope.scaling.factor", "f:4"},
      {"rope.scaling.yarn_ext_factor", "f:0"}},
     .status = WEIR_EUNSUP,
     .fragment = "yarn_ext_factor\": 0 is not supported (only 1)"},
    {"qwen2",
     {{"rope.scaling.type", "s:yarn"},
      {"rope.scaling.factor", "f:4"},
      {"rope.scaling.yarn_log_multiplier", "f:0.1"}},
     .status = WEIR_EUNSUP,
     .fragment = "yarn_log_multiplier\": 0.1 is not"},
    {"qwen2",
     {{"rope.scaling.type", "s:yarn"},
      {"rope.scaling.factor", "f:4"},
      {"rope.scaling.yarn_attn_factor", "f:1"}},
     .status = WEIR_EUNSUP,
     .fragment = "yarn_attn_factor\": 1 is not supported (only 1.13863, which is YaRN's own)"},
    {"qwen2",
     {{"rope.scaling.type", "s:yarn"}, {"rope.scaling.yarn_beta_fast", "f:0.5"}},
     .status = WEIR_EINVAL,
     .fragment = "beta_fast 0.5, beta_slow 1"},
    {"qwen2",
     {{"rope.scaling.type", "s:yarn"}, {"rope.scaling.original_context_length", "u:0"}},
     .status = WEIR_EFORMAT,
     .fragment = "original_context_length\": 0 is not in"},
    {"llama",
     {{"rope.scaling.attn_factor", "f:1.2"}},
     .status = WEIR_EUNSUP,
     .fragment = "attn_factor\": 1.2 is not supported without YaRN or LongRoPE"},
    {"llama", .tensor = "rope_freqs.weight", .status = WEIR_EFORMAT,
     .fragment = "tensor \"rope_freqs.weight\": want 8 factors, file has [64,1] in 1 dimensions"},
    {"llama", .tensor = "rope_freqs.weight", .n_tensor = 8, .status = WEIR_EINVAL,
     .fragment = "RoPE frequency factor 0 is 0"},
    {"llama",
     {{"rope.scaling.type", "s:linear"}, {"rope.scaling.factor", "f:2"}},
     .tensor = "rope_freqs.weight",
     .n_tensor = 8,
     .status = WEIR_EUNSUP,
     .fragment = "RoPE: more than one of"},
    {"phi3", .tensor = "rope_factors_long.weight", .n_tensor = 8, .status = WEIR_EFORMAT,
     .fragment = "tensor \"rope_factors_short.weight\" is missing"},
    {"phi3", {{"rope.scaling.type", "s:longrope"}}, .status = WEIR_EFORMAT, .fragment = "is missing"},
    {"phi3", .tensor = "rope_factors_long.weight", .tensor2 = "rope_factors_short.weight", .n_tensor = 8,
     .tensor_data = ones, .status = WEIR_EFORMAT,
     .fragment = "key \"phi3.rope.scaling.original_context_length\" is missing"},
    {"gemma3", {{"rope.freq_base_swa", "f:0"}}, .status = WEIR_EFORMAT, .fragment = "freq_base_swa\": 0 is"},
    {"llama", {{"logit_scale", "f:0.5"}}, .status = WEIR_EUNSUP, .fragment = "logit_scale\": 0.5 is not"},
    {"llama",
     {{"expert_weights_scale", "f:2.5"}},
     .status = WEIR_EUNSUP,
     .fragment = "expert_weights_scale\": 2.5 is not supported (only 1)"},
    {"llama",
     {{"attention.temperature_scale", "f:0.1"}},
     .status = WEIR_EUNSUP,
     .fragment = "temperature_scale\": 0.1 is not supported (only 0)"},
    {"qwen3moe",
     {{"expert_shared_count", "u:1"}},
     .status = WEIR_EUNSUP,
     .fragment = "expert_shared_count\": 1 is not supported (only 0)"},
    {"qwen3moe",
     {{"expert_gating_func", "u:2"}},
     .status = WEIR_EUNSUP,
     .fragment = "expert_gating_func\": 2 is not supported (only 1)"},
    {"qwen3",
     {{"rope.dimension_count_swa", "u:8"}},
     .status = WEIR_EUNSUP,
     .fragment = "rope.dimension_count_swa\": 8 is not supported (only 16)"},
    {"qwen3",
     {{"rope.dimension_sections", "u:8"}},
     .status = WEIR_EUNSUP,
     .fragment = "dimension_sections\""},
    {"llama",
     {{"expert_count", "u:8"}},
     .status = WEIR_EFORMAT,
     .fragment = "expert_used_count\" is missing"},
    {"llama",
     {{"expert_count", "u:8"}, {"expert_used_count", "u:9"}},
     .status = WEIR_EFORMAT,
     .fragment = "expert_used_count\": 9 is not in 1..8"},
    {"llama", {{"expert_count", "u:1025"}}, .status = WEIR_EFORMAT, .fragment = "1025 is not in 0..1024"},
    {"llama", {{"expert_used_count", "u:2"}}, .status = WEIR_EFORMAT, .fragment = "2 is not in 0..0"},
    {"qwen3moe", .status = WEIR_EFORMAT, .fragment = "key \"qwen3moe.expert_count\" is missing or 0"},
    {"gemma2",
     {{"expert_count", "u:8"}},
     .status = WEIR_EUNSUP,
     .fragment = "experts in a gemma2 model are not supported"},
    {"qwen2",
     {{"attention.sliding_window", "u:64"}},
     .status = WEIR_EUNSUP,
     .fragment = "sliding-window attention (64 of 128 positions) without "
                 "\"qwen2.attention.sliding_window_pattern\" is not supported"},
    {"gemma2",
     {{"attention.sliding_window", "i:-1"}},
     .status = WEIR_EFORMAT,
     .fragment = "sliding_window\": -1 is not in"},
    {"gemma3",
     {{"attention.sliding_window", "u:64"}},
     .bools = "10",
     .status = WEIR_EFORMAT,
     .fragment = "sliding_window_pattern\": 2 elements for 3 layers"},
    {"gemma3",
     {{"attention.sliding_window", "u:64"}, {"attention.sliding_window_pattern", "s:x"}},
     .status = WEIR_EFORMAT,
     .fragment = "want an integer, file has string"},
    {"gemma2", {{"attn_logit_softcapping", "f:-1"}}, .status = WEIR_EFORMAT, .fragment = "-1 is negative"},
    {"gemma2", {{"final_logit_softcapping", "f:-1"}}, .status = WEIR_EFORMAT, .fragment = "-1 is negative"},
    {"llama", {{"attention.scale", "f:0"}}, .status = WEIR_EFORMAT, .fragment = "scale\": 0 is not positive"},
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
      cmocka_unit_test(read_and_defaults), cmocka_unit_test(ropes),       cmocka_unit_test(other_families),
      cmocka_unit_test(refusals),          cmocka_unit_test(demo_models),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
