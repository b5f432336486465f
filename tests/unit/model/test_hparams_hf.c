/* SPDX-License-Identifier: Apache-2.0 */
/* config.json: what published models say and what it means here, old and new spelling, and one row for each
 * thing that is refused. The texts are shortened to the keys that a model's code reads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/hf.h"
#include "model/hparams.h"

/* Quotes are written ' in this file. */
static weir_status read_text(const char *text, weir_hparams *h, weir_err *e) {
  char *json = strdup(text);
  assert_non_null(json);
  for (char *p = json; *p; p++)
    if (*p == '\'') *p = '"';
  const weir_hf_part part = {"config.json", {json, strlen(json)}};
  weir_hf *hf;
  if (weir_hf_parse(&part, 1, &hf, e) != WEIR_OK)
    fail_msg("the test's text is malformed: %s\n%s", e->msg, json);
  const weir_status st = weir_hparams_from_hf(hf, h, e);
  weir_hf_close(hf);
  free(json);
  return st;
}

/* ---- what is read ---- */

/* Everything in one line; the layers' kinds as letters, W with a window, F without. */
static void describe(const weir_hparams *h, char *buf, size_t n) {
  static const char *const kinds[] = {"plain", "linear", "llama3", "yarn", "factors", "longrope"};
  char layers[WEIR_MAX_LAYERS + 1] = "";
  for (int32_t i = 0; h->window && i < h->n_layers; i++) layers[i] = h->windowed[i] ? 'W' : 'F';
  snprintf(
      buf, n,
      "%s %d layers of %d, heads %d/%d of %d, ff %d, ctx %d, vocab %d, eps %g, %s, %s, scale %.6g embed %.6g"
      "%s%s%s; rope %s theta %g dims %d; local %s %g; window %d%s%s; caps %g %g; experts %d/%d ff %d%s",
      weir_arch_name(h->arch), h->n_layers, h->dim, h->n_heads, h->n_kv_heads, h->head_dim, h->n_ff, h->n_ctx,
      h->n_vocab, (double)h->norm_eps, h->tied_head ? "tied" : "own head",
      h->act == WEIR_ACT_SILU ? "silu" : "gelu", (double)h->attn_scale, (double)h->embed_scale,
      h->qk_norm ? ", qk norm" : "", h->post_norms ? ", post norms" : "",
      h->norm_plus_one ? ", plus one" : "", kinds[h->rope.kind], (double)h->rope.theta, h->rope_dims,
      kinds[h->rope_local.kind], (double)h->rope_local.theta, h->window, *layers ? " " : "", layers,
      (double)h->attn_softcap, (double)h->final_softcap, h->n_experts, h->n_experts_used, h->expert_ff,
      h->expert_renorm ? " renormed" : "");
}

typedef struct good_case {
  const char *name, *config, *want;
} good_case;

static const good_case good[] = {
    {"Llama-2-7b",
     "{'architectures': ['LlamaForCausalLM'], 'bos_token_id': 1, 'eos_token_id': 2, 'hidden_act': 'silu',"
     " 'hidden_size': 4096, 'initializer_range': 0.02, 'intermediate_size': 11008, "
     "'max_position_embeddings': 4096,"
     " 'model_type': 'llama', 'num_attention_heads': 32, 'num_hidden_layers': 32, 'num_key_value_heads': 32,"
     " 'pretraining_tp': 1, 'rms_norm_eps': 1e-05, 'rope_scaling': null, 'tie_word_embeddings': false,"
     " 'torch_dtype': 'float16', 'use_cache': true, 'vocab_size': 32000}",
     "llama 32 layers of 4096, heads 32/32 of 128, ff 11008, ctx 4096, vocab 32000, eps 1e-05, own head, "
     "silu, "
     "scale 0.0883883 embed 1; rope plain theta 10000 dims 128; local plain 10000; window 0; caps 0 0; "
     "experts 0/0 "
     "ff 0"},
    {"Llama-3.1-8B",
     "{'attention_bias': false, 'attention_dropout': 0.0, 'bos_token_id': 128000, 'eos_token_id': [128001, "
     "128008],"
     " 'hidden_act': 'silu', 'hidden_size': 4096, 'intermediate_size': 14336, 'max_position_embeddings': "
     "131072,"
     " 'mlp_bias': false, 'model_type': 'llama', 'num_attention_heads': 32, 'num_hidden_layers': 32,"
     " 'num_key_value_heads': 8, 'rms_norm_eps': 1e-05, 'rope_scaling': {'factor': 8.0, 'low_freq_factor': "
     "1.0,"
     " 'high_freq_factor': 4.0, 'original_max_position_embeddings': 8192, 'rope_type': 'llama3'},"
     " 'rope_theta': 500000.0, 'tie_word_embeddings': false, 'vocab_size': 128256}",
     "llama 32 layers of 4096, heads 32/8 of 128, ff 14336, ctx 131072, vocab 128256, eps 1e-05, own head, "
     "silu, "
     "scale 0.0883883 embed 1; rope llama3 theta 500000 dims 128; local llama3 500000; window 0; caps 0 0; "
     "experts "
     "0/0 ff 0"},
    {"SmolLM2-135M",
     "{'model_type': 'llama', 'hidden_act': 'silu', 'hidden_size': 576, 'intermediate_size': 1536,"
     " 'is_llama_config': true, 'max_position_embeddings': 8192, 'num_attention_heads': 9, "
     "'num_hidden_layers': 3,"
     " 'num_key_value_heads': 3, 'rms_norm_eps': 1e-05, 'rope_interleaved': false, 'rope_scaling': null,"
     " 'rope_theta': 100000, 'tie_word_embeddings': true, 'vocab_size': 49152}",
     "llama 3 layers of 576, heads 9/3 of 64, ff 1536, ctx 8192, vocab 49152, eps 1e-05, tied, silu, scale "
     "0.125 "
     "embed 1; rope plain theta 100000 dims 64; local plain 100000; window 0; caps 0 0; experts 0/0 ff 0"},
    {"Mistral-7B-v0.1",
     "{'architectures': ['MistralForCausalLM'], 'hidden_act': 'silu', 'hidden_size': 4096,"
     " 'intermediate_size': 14336, 'max_position_embeddings': 32768, 'model_type': 'mistral',"
     " 'num_attention_heads': 32, 'num_hidden_layers': 4, 'num_key_value_heads': 8, 'rms_norm_eps': 1e-05,"
     " 'rope_theta': 10000.0, 'sliding_window': 4096, 'tie_word_embeddings': false, 'vocab_size': 32000}",
     "llama 4 layers of 4096, heads 32/8 of 128, ff 14336, ctx 32768, vocab 32000, eps 1e-05, own head, "
     "silu, scale "
     "0.0883883 embed 1; rope plain theta 10000 dims 128; local plain 10000; window 4096 WWWW; caps 0 0; "
     "experts "
     "0/0 ff 0"},
    {"Mistral-7B-v0.3",
     "{'model_type': 'mistral', 'attention_dropout': 0.0, 'hidden_act': 'silu', 'hidden_size': 4096,"
     " 'intermediate_size': 14336, 'max_position_embeddings': 32768, 'num_attention_heads': 32,"
     " 'num_hidden_layers': 32, 'num_key_value_heads': 8, 'rms_norm_eps': 1e-05, 'rope_theta': 1000000.0,"
     " 'sliding_window': null, 'tie_word_embeddings': false, 'vocab_size': 32768}",
     "llama 32 layers of 4096, heads 32/8 of 128, ff 14336, ctx 32768, vocab 32768, eps 1e-05, own head, "
     "silu, "
     "scale 0.0883883 embed 1; rope plain theta 1e+06 dims 128; local plain 1e+06; window 0; caps 0 0; "
     "experts 0/0 "
     "ff 0"},
    {"Mixtral-8x7B-v0.1",
     "{'model_type': 'mixtral', 'hidden_act': 'silu', 'hidden_size': 4096, 'intermediate_size': 14336,"
     " 'max_position_embeddings': 32768, 'num_attention_heads': 32, 'num_experts_per_tok': 2,"
     " 'num_hidden_layers': 32, 'num_key_value_heads': 8, 'num_local_experts': 8, 'output_router_logits': "
     "false,"
     " 'rms_norm_eps': 1e-05, 'rope_theta': 1000000.0, 'router_aux_loss_coef': 0.02, 'sliding_window': null,"
     " 'tie_word_embeddings': false, 'vocab_size': 32000}",
     "llama 32 layers of 4096, heads 32/8 of 128, ff 14336, ctx 32768, vocab 32000, eps 1e-05, own head, "
     "silu, "
     "scale 0.0883883 embed 1; rope plain theta 1e+06 dims 128; local plain 1e+06; window 0; caps 0 0; "
     "experts 8/2 "
     "ff 14336 renormed"},
    {"Qwen2.5-0.5B",
     "{'model_type': 'qwen2', 'attention_dropout': 0.0, 'hidden_act': 'silu', 'hidden_size': 896,"
     " 'intermediate_size': 4864, 'max_position_embeddings': 32768, 'max_window_layers': 24,"
     " 'num_attention_heads': 14, 'num_hidden_layers': 24, 'num_key_value_heads': 2, 'rms_norm_eps': 1e-06,"
     " 'rope_theta': 1000000.0, 'sliding_window': 32768, 'tie_word_embeddings': true, 'use_mrope': false,"
     " 'use_sliding_window': false, 'vocab_size': 151936}",
     "qwen2 24 layers of 896, heads 14/2 of 64, ff 4864, ctx 32768, vocab 151936, eps 1e-06, tied, silu, "
     "scale "
     "0.125 embed 1; rope plain theta 1e+06 dims 64; local plain 1e+06; window 0; caps 0 0; experts 0/0 ff "
     "0"},
    {"Qwen2 with its window on in the upper layers",
     "{'model_type': 'qwen2', 'hidden_size': 64, 'num_attention_heads': 4, 'num_key_value_heads': 2,"
     " 'num_hidden_layers': 5, 'max_window_layers': 3, 'use_sliding_window': true, 'sliding_window': 512}",
     "qwen2 5 layers of 64, heads 4/2 of 16, ff 22016, ctx 32768, vocab 151936, eps 1e-06, own head, silu, "
     "scale "
     "0.25 embed 1; rope plain theta 10000 dims 16; local plain 10000; window 512 FFFWW; caps 0 0; experts "
     "0/0 ff "
     "0"},
    {"Qwen2.5 stretched by YaRN",
     "{'model_type': 'qwen2', 'hidden_size': 64, 'num_attention_heads': 4, 'num_key_value_heads': 2,"
     " 'num_hidden_layers': 2, 'max_position_embeddings': 32768, 'rope_theta': 1000000.0,"
     " 'rope_scaling': {'factor': 4.0, 'original_max_position_embeddings': 32768, 'type': 'yarn'}}",
     "qwen2 2 layers of 64, heads 4/2 of 16, ff 22016, ctx 32768, vocab 151936, eps 1e-06, own head, silu, "
     "scale "
     "0.25 embed 1; rope yarn theta 1e+06 dims 16; local yarn 1e+06; window 0; caps 0 0; experts 0/0 ff 0"},
    {"Qwen3-0.6B",
     "{'model_type': 'qwen3', 'attention_bias': false, 'head_dim': 128, 'hidden_act': 'silu', 'hidden_size': "
     "1024,"
     " 'intermediate_size': 3072, 'max_position_embeddings': 40960, 'max_window_layers': 28,"
     " 'num_attention_heads': 16, 'num_hidden_layers': 28, 'num_key_value_heads': 8, 'rms_norm_eps': 1e-06,"
     " 'rope_scaling': null, 'rope_theta': 1000000, 'sliding_window': null, 'tie_word_embeddings': true,"
     " 'use_sliding_window': false, 'vocab_size': 151936}",
     "qwen3 28 layers of 1024, heads 16/8 of 128, ff 3072, ctx 40960, vocab 151936, eps 1e-06, tied, silu, "
     "scale "
     "0.0883883 embed 1, qk norm; rope plain theta 1e+06 dims 128; local plain 1e+06; window 0; caps 0 0; "
     "experts "
     "0/0 ff 0"},
    {"Qwen3-30B-A3B",
     "{'model_type': 'qwen3_moe', 'attention_bias': false, 'decoder_sparse_step': 1, 'head_dim': 128,"
     " 'hidden_act': 'silu', 'hidden_size': 2048, 'intermediate_size': 6144, 'max_position_embeddings': "
     "40960,"
     " 'max_window_layers': 48, 'mlp_only_layers': [], 'moe_intermediate_size': 768, 'norm_topk_prob': true,"
     " 'num_attention_heads': 32, 'num_experts': 128, 'num_experts_per_tok': 8, 'num_hidden_layers': 48,"
     " 'num_key_value_heads': 4, 'output_router_logits': false, 'rms_norm_eps': 1e-06, 'rope_scaling': null,"
     " 'rope_theta': 1000000.0, 'router_aux_loss_coef': 0.001, 'sliding_window': null,"
     " 'tie_word_embeddings': false, 'use_sliding_window': false, 'vocab_size': 151936}",
     "qwen3moe 48 layers of 2048, heads 32/4 of 128, ff 6144, ctx 40960, vocab 151936, eps 1e-06, own head, "
     "silu, "
     "scale 0.0883883 embed 1, qk norm; rope plain theta 1e+06 dims 128; local plain 1e+06; window 0; caps 0 "
     "0; "
     "experts 128/8 ff 768 renormed"},
    {"gemma-2-2b",
     "{'model_type': 'gemma2', 'attention_bias': false, 'attn_logit_softcapping': 50.0, "
     "'cache_implementation':"
     " 'hybrid', 'final_logit_softcapping': 30.0, 'head_dim': 256, 'hidden_act': 'gelu_pytorch_tanh',"
     " 'hidden_activation': 'gelu_pytorch_tanh', 'hidden_size': 2304, 'intermediate_size': 9216,"
     " 'max_position_embeddings': 8192, 'num_attention_heads': 8, 'num_hidden_layers': 5, "
     "'num_key_value_heads': 4,"
     " 'query_pre_attn_scalar': 256, 'rms_norm_eps': 1e-06, 'rope_theta': 10000.0, 'sliding_window': 4096,"
     " 'vocab_size': 256000}",
     "gemma2 5 layers of 2304, heads 8/4 of 256, ff 9216, ctx 8192, vocab 256000, eps 1e-06, tied, gelu, "
     "scale "
     "0.0625 embed 48, post norms, plus one; rope plain theta 10000 dims 256; local plain 10000; window 4096 "
     "WFWFW; "
     "caps 50 30; experts 0/0 ff 0"},
    {"gemma-3-1b-it",
     "{'model_type': 'gemma3_text', 'architectures': ['Gemma3ForCausalLM'], 'attention_bias': false,"
     " 'attn_logit_softcapping': null, 'final_logit_softcapping': null, 'head_dim': 256,"
     " 'hidden_activation': 'gelu_pytorch_tanh', 'hidden_size': 1152, 'intermediate_size': 6912,"
     " 'max_position_embeddings': 32768, 'num_attention_heads': 4, 'num_hidden_layers': 8,"
     " 'num_key_value_heads': 1, 'query_pre_attn_scalar': 256, 'rms_norm_eps': 1e-06,"
     " 'rope_local_base_freq': 10000, 'rope_scaling': null, 'rope_theta': 1000000, 'sliding_window': 512,"
     " 'sliding_window_pattern': 6, 'vocab_size': 262144}",
     "gemma3 8 layers of 1152, heads 4/1 of 256, ff 6912, ctx 32768, vocab 262144, eps 1e-06, tied, gelu, "
     "scale "
     "0.0625 embed 33.9411, qk norm, post norms, plus one; rope plain theta 1e+06 dims 256; local plain "
     "10000; "
     "window 512 WWWWWFWW; caps 0 0; experts 0/0 ff 0"},
    {"gemma-3-4b-it: a picture model whose text part says only what differs",
     "{'model_type': 'gemma3', 'architectures': ['Gemma3ForConditionalGeneration'], 'eos_token_id': [1, 106],"
     " 'image_token_index': 262144, 'mm_tokens_per_image': 256, 'text_config': {'hidden_size': 2560,"
     " 'intermediate_size': 10240, 'model_type': 'gemma3_text', 'num_hidden_layers': 7, 'rope_scaling':"
     " {'factor': 8.0, 'rope_type': 'linear'}, 'sliding_window': 1024}, 'vision_config': {'hidden_size': "
     "1152}}",
     "gemma3 7 layers of 2560, heads 8/4 of 256, ff 10240, ctx 131072, vocab 262208, eps 1e-06, tied, gelu, "
     "scale "
     "0.0625 embed 50.5964, qk norm, post norms, plus one; rope linear theta 1e+06 dims 256; local plain "
     "10000; "
     "window 1024 WWWWWFW; caps 0 0; experts 0/0 ff 0"},
    {"Gemma 3 as transformers 5 writes it",
     "{'model_type': 'gemma3_text', '_sliding_window_pattern': 6, 'head_dim': 8, 'hidden_size': 32,"
     " 'intermediate_size': 48, 'layer_types': ['full_attention', 'sliding_attention'], 'num_hidden_layers': "
     "2,"
     " 'max_position_embeddings': 64, 'num_attention_heads': 4, 'num_key_value_heads': 2, 'rope_parameters':"
     " {'full_attention': {'rope_theta': 500000.0, 'rope_type': 'linear', 'factor': 4},"
     " 'sliding_attention': {'rope_theta': 20000.0, 'rope_type': 'default'}}, 'sliding_window': 64, "
     "'vocab_size': 9}",
     "gemma3 2 layers of 32, heads 4/2 of 8, ff 48, ctx 64, vocab 9, eps 1e-06, tied, gelu, scale 0.0625 "
     "embed "
     "5.65685, qk norm, post norms, plus one; rope linear theta 500000 dims 8; local plain 20000; window 64 "
     "FW; "
     "caps 0 0; experts 0/0 ff 0"},
    {"Phi-3-mini-4k",
     "{'model_type': 'phi3', 'attention_bias': false, 'attention_dropout': 0.0, 'embd_pdrop': 0.0,"
     " 'hidden_act': 'silu', 'hidden_size': 3072, 'intermediate_size': 8192, 'max_position_embeddings': 4096,"
     " 'num_attention_heads': 32, 'num_hidden_layers': 3, 'num_key_value_heads': 32,"
     " 'original_max_position_embeddings': 4096, 'resid_pdrop': 0.0, 'rms_norm_eps': 1e-05, 'rope_scaling': "
     "null,"
     " 'rope_theta': 10000.0, 'sliding_window': 2047, 'tie_word_embeddings': false, 'vocab_size': 32064}",
     "phi3 3 layers of 3072, heads 32/32 of 96, ff 8192, ctx 4096, vocab 32064, eps 1e-05, own head, silu, "
     "scale "
     "0.102062 embed 1; rope plain theta 10000 dims 96; local plain 10000; window 2047 WWW; caps 0 0; "
     "experts 0/0 "
     "ff 0"},
    {"Phi-3-mini-128k, of fewer dimensions",
     "{'model_type': 'phi3', 'hidden_size': 32, 'intermediate_size': 8192, 'max_position_embeddings': 131072,"
     " 'num_attention_heads': 4, 'num_hidden_layers': 2, 'num_key_value_heads': 4,"
     " 'original_max_position_embeddings': 4096, 'rope_scaling': {'long_factor': [1.5, 2, 30, 64.5],"
     " 'short_factor': [1.0, 1.05, 1.1, 2.5], 'type': 'longrope'}, 'rope_theta': 10000.0, 'sliding_window': "
     "262144,"
     " 'vocab_size': 32064}",
     "phi3 2 layers of 32, heads 4/4 of 8, ff 8192, ctx 131072, vocab 32064, eps 1e-05, own head, silu, "
     "scale "
     "0.353553 embed 1; rope longrope theta 10000 dims 8; local longrope 10000; window 0; caps 0 0; experts "
     "0/0 ff "
     "0"},
    {"part of a head turned",
     "{'model_type': 'phi3', 'hidden_size': 64, 'num_attention_heads': 4, 'num_hidden_layers': 2,"
     " 'partial_rotary_factor': 0.75}",
     "phi3 2 layers of 64, heads 4/4 of 16, ff 8192, ctx 4096, vocab 32064, eps 1e-05, own head, silu, scale "
     "0.25 "
     "embed 1; rope plain theta 10000 dims 12; local plain 10000; window 0; caps 0 0; experts 0/0 ff 0"},
    {"transformers 5 writes rope_parameters",
     "{'model_type': 'llama', 'num_hidden_layers': 1, 'rope_parameters': {'rope_type': 'default', "
     "'rope_theta':"
     " 250000.0}, 'tie_word_embeddings': true}",
     "llama 1 layers of 4096, heads 32/32 of 128, ff 11008, ctx 2048, vocab 32000, eps 1e-06, tied, silu, "
     "scale "
     "0.0883883 embed 1; rope plain theta 250000 dims 128; local plain 250000; window 0; caps 0 0; experts "
     "0/0 ff "
     "0"},
    {"a window no context reaches is none, and one that is not said is the class's",
     "{'model_type': 'mistral', 'num_hidden_layers': 1, 'max_position_embeddings': 4096}",
     "llama 1 layers of 4096, heads 32/8 of 128, ff 14336, ctx 4096, vocab 32000, eps 1e-06, own head, silu, "
     "scale "
     "0.0883883 embed 1; rope plain theta 10000 dims 128; local plain 10000; window 0; caps 0 0; experts 0/0 "
     "ff 0"},
};

static void published(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    weir_hparams h;
    weir_err e = {0};
    char line[2048];
    if (read_text(good[i].config, &h, &e) != WEIR_OK) fail_msg("%s: %s", good[i].name, e.msg);
    describe(&h, line, sizeof line);
    if (strcmp(line, good[i].want) != 0) fail_msg("%s:\nwant %s\ngot  %s", good[i].name, good[i].want, line);
    assert_false(h.rope_interleaved);
  }
}

/* What a null says. */
static void nulls(void **state) {
  (void)state;
  weir_hparams h;
  weir_err e = {0};
  assert_int_equal(read_text("{'model_type': 'mistral', 'num_key_value_heads': null, 'head_dim': null,"
                             " 'rope_theta': null, 'sliding_window': null, 'hidden_act': null}",
                             &h, &e),
                   WEIR_OK);
  assert_int_equal(h.n_kv_heads, 32);
  assert_int_equal(h.head_dim, 128);
  assert_int_equal(h.window, 0);
  assert_true(h.rope.theta == 10000);
  assert_int_equal(read_text("{'model_type': 'gemma2', 'attn_logit_softcapping': null,"
                             " 'final_logit_softcapping': null, 'hidden_activation': null}",
                             &h, &e),
                   WEIR_OK);
  assert_true(h.attn_softcap == 0 && h.final_softcap == 0);
  assert_int_equal(h.act, WEIR_ACT_GELU_TANH);
}

/* The numbers of the stretched ones, which the line above does not show. */
static void stretched(void **state) {
  (void)state;
  weir_hparams h;
  weir_err e = {0};
  assert_int_equal(
      read_text("{'model_type': 'llama', 'max_position_embeddings': 131072, 'rope_scaling':"
                " {'rope_type': 'llama3', 'factor': 32.0, 'low_freq_factor': 1.5, 'high_freq_factor': 4,"
                " 'original_max_position_embeddings': 8192}}",
                &h, &e),
      WEIR_OK);
  assert_true(h.rope.factor == 32 && h.rope.low_freq == 1.5f && h.rope.high_freq == 4);
  assert_int_equal(h.rope.original_ctx, 8192);
  assert_memory_equal(&h.rope, &h.rope_local, sizeof h.rope);

  assert_int_equal(
      read_text("{'model_type': 'qwen3', 'max_position_embeddings': 131072, 'rope_scaling':"
                " {'rope_type': 'yarn', 'original_max_position_embeddings': 32768, 'beta_fast': 16,"
                " 'beta_slow': 2, 'factor': null}}",
                &h, &e),
      WEIR_OK);
  assert_true(h.rope.factor == 4 && h.rope.beta_fast == 16 && h.rope.beta_slow == 2 && h.rope.mscale == 0);

  assert_int_equal(read_text("{'model_type': 'llama', 'rope_scaling': {'rope_type': 'yarn', 'factor': 8,"
                             " 'mscale': 0.5, 'mscale_all_dim': 2}}",
                             &h, &e),
                   WEIR_OK); /* (0.1*0.5*ln 8 + 1) / (0.1*2*ln 8 + 1) */
  assert_float_equal(h.rope.mscale, 0.7797028, 1e-6);
  assert_int_equal(h.rope.original_ctx, 2048);

  assert_int_equal(read_text("{'model_type': 'llama', 'rope_scaling': {'rope_type': 'yarn', 'factor': 8,"
                             " 'attention_factor': 1.25}}",
                             &h, &e),
                   WEIR_OK);
  assert_true(h.rope.mscale == 1.25f);

  /* Phi-3: the ratio of the contexts is the factor, whatever name an older file has for the method */
  static const char *const names[] = {"longrope", "su", "yarn"};
  for (int i = 0; i < 3; i++) {
    char text[600];
    snprintf(
        text, sizeof text,
        "{'model_type': 'phi3', 'hidden_size': 16, 'num_attention_heads': 2, 'num_key_value_heads': 2,"
        " 'max_position_embeddings': 131072, 'rope_scaling': {'type': '%s', 'short_factor': [1, 2, 3, 4],"
        " 'long_factor': [5, 6, 7, 8.5]}}",
        names[i]);
    assert_int_equal(read_text(text, &h, &e), WEIR_OK);
    assert_int_equal(h.rope.kind, WEIR_ROPE_LONGROPE);
    assert_int_equal(h.rope.original_ctx, 4096);
    assert_true(h.rope.factor == 32 && h.rope.mscale == 0);
    assert_true(h.rope.table[1] == 2 && h.rope.long_table[3] == 8.5f);
  }
}

/* ---- what is refused ---- */

typedef struct bad_case {
  const char *config;
  weir_status status;
  const char *fragment;
} bad_case;

#define LLAMA "{'model_type': 'llama', "
#define ROPE  LLAMA "'rope_scaling': "

static const bad_case bad[] = {
    {"{}", WEIR_EFORMAT, "config.json: key \"model_type\" is missing"},
    {"{'model_type': 7}", WEIR_EFORMAT, "key \"model_type\": want a string"},
    {"{'model_type': 'bert'}", WEIR_EUNSUP,
     "model type \"bert\" is not supported (known: llama mistral mixtral qwen2 qwen3 qwen3_moe gemma2 "
     "gemma3_text phi3"
     " gemma3)"},
    {"{'model_type': 'smollm3'}", WEIR_EUNSUP, "layers without RoPE"},
    {"{'model_type': 'gemma3'}", WEIR_EFORMAT, "key \"text_config\": want an object"},
    {"{'model_type': 'gemma3', 'text_config': {'head_dim': 7}}", WEIR_EFORMAT, "RoPE over 7 of 7"},
    {"{'model_type': 'gemma3', 'text_config': {'hidden_size': '7'}}", WEIR_EFORMAT,
     "key \"text_config.hidden_size\": want an integer"},
    {LLAMA "'hidden_size': 0}", WEIR_EFORMAT, "key \"hidden_size\": 0 is not in 1..131072"},
    {LLAMA "'hidden_size': -1}", WEIR_EFORMAT, "key \"hidden_size\": -1 is not in"},
    {LLAMA "'hidden_size': 64.0}", WEIR_EFORMAT, "key \"hidden_size\": want an integer"},
    {LLAMA "'hidden_size': 9223372036854775807}", WEIR_EFORMAT, "is not in 1..131072"},
    {LLAMA "'hidden_size': 100}", WEIR_EFORMAT,
     "100 is not a multiple of 32 heads, and there is no \"head_dim\""},
    {LLAMA "'num_hidden_layers': 1025}", WEIR_EFORMAT, "1025 is not in 1..1024"},
    {LLAMA "'num_attention_heads': 2000}", WEIR_EFORMAT, "2000 is not in 1..1024"},
    {LLAMA "'num_key_value_heads': 5}", WEIR_EFORMAT, "32 heads are not a multiple of 5 key/value heads"},
    {LLAMA "'num_key_value_heads': 64}", WEIR_EFORMAT, "32 heads are not a multiple of 64"},
    {LLAMA "'head_dim': 514}", WEIR_EFORMAT, "514 is not in 2..512"},
    {LLAMA "'head_dim': 9}", WEIR_EFORMAT, "RoPE over 9 of 9"},
    {LLAMA "'intermediate_size': 1048577}", WEIR_EFORMAT, "key \"intermediate_size\""},
    {LLAMA "'vocab_size': 4194305}", WEIR_EFORMAT, "key \"vocab_size\""},
    {LLAMA "'max_position_embeddings': 16777217}", WEIR_EFORMAT, "key \"max_position_embeddings\""},
    {LLAMA "'rms_norm_eps': 0}", WEIR_EFORMAT, "key \"rms_norm_eps\": 0 is not in"},
    {LLAMA "'rms_norm_eps': 'x'}", WEIR_EFORMAT, "key \"rms_norm_eps\": want a number"},
    {LLAMA "'attention_bias': true}", WEIR_EUNSUP, "key \"attention_bias\": true is not supported"},
    {LLAMA "'mlp_bias': true}", WEIR_EUNSUP, "key \"mlp_bias\": true is not supported"},
    {LLAMA "'mlp_bias': 0}", WEIR_EFORMAT, "key \"mlp_bias\": want true or false"},
    {LLAMA "'tie_word_embeddings': 1}", WEIR_EFORMAT, "key \"tie_word_embeddings\": want true or false"},
    {LLAMA "'hidden_act': 'gelu'}", WEIR_EUNSUP, "key \"hidden_act\": \"gelu\" is not supported"},
    {LLAMA "'hidden_act': ['silu']}", WEIR_EFORMAT, "key \"hidden_act\": want a string"},
    {"{'model_type': 'gemma2', 'hidden_activation': 'relu'}", WEIR_EUNSUP,
     "key \"hidden_activation\": \"relu\""},
    {"{'model_type': 'gemma3_text', 'use_bidirectional_attention': true}", WEIR_EUNSUP,
     "use_bidirectional_attention"},
    {"{'model_type': 'gemma2', 'query_pre_attn_scalar': 0}", WEIR_EFORMAT, "key \"query_pre_attn_scalar\""},
    {"{'model_type': 'gemma2', 'attn_logit_softcapping': -1}", WEIR_EFORMAT,
     "key \"attn_logit_softcapping\""},
    {"{'model_type': 'qwen3', 'attention_bias': true}", WEIR_EUNSUP, "key \"attention_bias\""},
    /* windows */
    {"{'model_type': 'mistral', 'sliding_window': 0}", WEIR_EFORMAT, "key \"sliding_window\": 0 is not in"},
    {"{'model_type': 'gemma2', 'sliding_window': null}", WEIR_EFORMAT,
     "key \"sliding_window\": no window, but layers that have one"},
    {"{'model_type': 'qwen2', 'num_hidden_layers': 2, 'layer_types': ['full_attention']}", WEIR_EFORMAT,
     "key \"layer_types\": want an array of 2 strings"},
    {"{'model_type': 'qwen2', 'num_hidden_layers': 1, 'layer_types': [3]}", WEIR_EFORMAT,
     "key \"layer_types\": element 0 is not a string"},
    {"{'model_type': 'qwen2', 'num_hidden_layers': 1, 'layer_types': ['chunked_attention']}", WEIR_EUNSUP,
     "key \"layer_types\": \"chunked_attention\" is not supported"},
    {"{'model_type': 'qwen3', 'num_hidden_layers': 1, 'layer_types': ['sliding_attention']}", WEIR_EFORMAT,
     "no window, but layers that have one"},
    {"{'model_type': 'gemma3_text', 'sliding_window_pattern': 0}", WEIR_EFORMAT,
     "key \"sliding_window_pattern\""},
    /* experts */
    {"{'model_type': 'mixtral', 'num_local_experts': 0}", WEIR_EFORMAT,
     "key \"num_local_experts\": 0 is not in"},
    {"{'model_type': 'mixtral', 'num_experts_per_tok': 9}", WEIR_EFORMAT, "9 is not in 1..8"},
    {"{'model_type': 'qwen3_moe', 'num_experts': 3}", WEIR_EFORMAT,
     "key \"num_experts_per_tok\": 8 is not in 1..3"},
    {"{'model_type': 'phi3', 'hidden_size': 4096, 'num_attention_heads': 1, 'partial_rotary_factor': 0.01}",
     WEIR_EFORMAT, "key \"head_dim\": 4096 is not in 2..512"},
    {"{'model_type': 'qwen3_moe', 'num_experts': 1025}", WEIR_EFORMAT, "key \"num_experts\": 1025"},
    {"{'model_type': 'qwen3_moe', 'decoder_sparse_step': 2}", WEIR_EUNSUP, "key \"decoder_sparse_step\""},
    {"{'model_type': 'qwen3_moe', 'mlp_only_layers': [0]}", WEIR_EUNSUP, "key \"mlp_only_layers\""},
    {"{'model_type': 'qwen3_moe', 'mlp_only_layers': 3}", WEIR_EFORMAT,
     "key \"mlp_only_layers\": want an array"},
    /* RoPE */
    {ROPE "3}", WEIR_EFORMAT, "key \"rope_scaling\": want an object"},
    {ROPE "{'type': 'dynamic', 'factor': 2}}", WEIR_EUNSUP,
     "key \"rope_scaling.type\": RoPE scaling \"dynamic\" is not supported (known: default linear llama3 "
     "yarn longrope)"},
    {ROPE "{'rope_type': 5}}", WEIR_EFORMAT, "key \"rope_scaling.rope_type\": want a string"},
    {ROPE "{'type': 'linear'}}", WEIR_EFORMAT, "key \"rope_scaling.factor\" is missing"},
    {ROPE "{'type': 'linear', 'factor': 0}}", WEIR_EFORMAT, "key \"rope_scaling.factor\": 0 is not in"},
    {ROPE "{'type': 'linear', 'factor': '2'}}", WEIR_EFORMAT, "key \"rope_scaling.factor\": want a number"},
    {ROPE "{'type': 'llama3', 'factor': 8}}", WEIR_EFORMAT,
     "key \"rope_scaling.low_freq_factor\" is missing"},
    {ROPE "{'type': 'llama3', 'factor': 8, 'low_freq_factor': 4, 'high_freq_factor': 4}}", WEIR_EFORMAT,
     "RoPE scaling llama3: low_freq_factor 4, high_freq_factor 4"},
    {ROPE "{'type': 'yarn', 'factor': 8, 'beta_fast': 1, 'beta_slow': 1}}", WEIR_EFORMAT,
     "yarn: beta_fast 1"},
    {ROPE "{'type': 'yarn', 'factor': 8, 'truncate': false}}", WEIR_EUNSUP, "key \"rope_scaling.truncate\""},
    {LLAMA "'rope_theta': 1, 'rope_scaling': {'type': 'yarn', 'factor': 8}}", WEIR_EFORMAT, "rope_theta"},
    {ROPE "{'type': 'mrope', 'mrope_section': [1]}}", WEIR_EUNSUP, "mrope"},
    {ROPE "{'type': 'default', 'mrope_section': [1]}}", WEIR_EUNSUP, "key \"rope_scaling.mrope_section\""},
    {ROPE "{'type': 'longrope', 'short_factor': [1], 'long_factor': [1]}}", WEIR_EFORMAT,
     "key \"rope_scaling.short_factor\": want an array of 64 numbers"},
    {"{'model_type': 'phi3', 'hidden_size': 8, 'num_attention_heads': 2, 'rope_scaling': {'type': 'longrope',"
     " 'short_factor': [1, 0], 'long_factor': [1, 1]}}",
     WEIR_EFORMAT, "key \"rope_scaling.short_factor\": element 1 is not a positive number"},
    {"{'model_type': 'phi3', 'hidden_size': 8, 'num_attention_heads': 2, 'rope_scaling': {'type': 'longrope',"
     " 'short_factor': [1, 1], 'long_factor': [1, null]}}",
     WEIR_EFORMAT, "key \"rope_scaling.long_factor\": element 1 is not a positive number"},
    {LLAMA "'original_max_position_embeddings': 5, 'rope_scaling': {'type': 'yarn', 'factor': 2,"
           " 'original_max_position_embeddings': 6}}",
     WEIR_EFORMAT, "key \"original_max_position_embeddings\": 5, but"},
    {LLAMA "'rope_theta': 0.5}", WEIR_EFORMAT, "key \"rope_theta\": 0.5 is not in"},
    {LLAMA "'partial_rotary_factor': 0.5}", WEIR_EUNSUP,
     "partial_rotary_factor\": 0.5 is not supported for llama"},
    {"{'model_type': 'phi3', 'partial_rotary_factor': 0.01}", WEIR_EFORMAT, "RoPE over 0 of 96"},
    {LLAMA "'rope_parameters': {'full_attention': {'rope_theta': 1e4}}}", WEIR_EUNSUP,
     "RoPE by kind of layer is not supported for llama"},
    {"{'model_type': 'gemma3_text', 'rope_parameters': {'rope_theta': 1e4}}", WEIR_EFORMAT,
     "want an object for each of full_attention and sliding_attention"},
    {"{'model_type': 'gemma3_text', 'rope_parameters': {'sliding_attention': 1e4}}", WEIR_EFORMAT,
     "key \"rope_parameters.sliding_attention\": want an object"},
};

static void refused(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    weir_hparams h;
    weir_err e = {0};
    const weir_status st = read_text(bad[i].config, &h, &e);
    if (st != bad[i].status || e.code != st || !strstr(e.msg, bad[i].fragment))
      fail_msg("%s:\nwant %d \"%s\"\ngot  %d \"%s\"", bad[i].config, bad[i].status, bad[i].fragment, st,
               e.msg);
    assert_int_equal(strncmp(e.msg, "config.json: ", 13), 0);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(published), cmocka_unit_test(nulls),
                                     cmocka_unit_test(stretched), cmocka_unit_test(refused)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
