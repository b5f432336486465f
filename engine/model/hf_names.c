/* SPDX-License-Identifier: Apache-2.0 */
/* Tensor names. Pure functions; any thread.
 *
 * Hugging Face's: the modules of transformers' modeling_<family>.py, as published checkpoints have them;
 * GGUF's: ggml's docs/gguf.md. Rows of q and k stay in the order of the file (hparams say so). */
#include "model/hf_names.h"

#include <stdio.h>
#include <string.h>

/* Exports of a bare model have no prefix, multimodal wrappers a longer one. */
static const char *const prefixes[] = {"model.language_model.", "language_model.model.", "language_model.",
                                       "model.", ""};

typedef struct pair {
  const char *hf, *gguf;
} pair;

static const pair outside[] = {
    {"embed_tokens", "token_embd"}, {"norm", "output_norm"}, {"lm_head", "output"}};

/* '#' is the number of an expert. */
static const pair in_layer[] = {
    {"input_layernorm", "attn_norm"},
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.qkv_proj", "attn_qkv"},
    {"self_attn.o_proj", "attn_output"},
    {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"},
    {"mlp.gate_proj", "ffn_gate"},
    {"mlp.up_proj", "ffn_up"},
    {"mlp.gate_up_proj", "ffn_up"}, /* gate and up in one, as GGUF's phi3 has them */
    {"mlp.down_proj", "ffn_down"},
    {"mlp.gate", "ffn_gate_inp"},
    {"mlp.experts.#.gate_proj", "ffn_gate.#"},
    {"mlp.experts.#.up_proj", "ffn_up.#"},
    {"mlp.experts.#.down_proj", "ffn_down.#"},
    {"block_sparse_moe.gate", "ffn_gate_inp"},
    {"block_sparse_moe.experts.#.w1", "ffn_gate.#"},
    {"block_sparse_moe.experts.#.w3", "ffn_up.#"},
    {"block_sparse_moe.experts.#.w2", "ffn_down.#"},
};
static const pair post_norm_plain[] = {{"post_attention_layernorm", "ffn_norm"}};
static const pair post_norm_gemma[] = {{"post_attention_layernorm", "post_attention_norm"},
                                       {"pre_feedforward_layernorm", "ffn_norm"},
                                       {"post_feedforward_layernorm", "post_ffw_norm"}};
/* Parameters of their own, not modules with a weight: all experts of a layer in one. */
static const pair stacked[] = {{"mlp.experts.gate_up_proj", "ffn_gate_up_exps"},
                               {"mlp.experts.down_proj", "ffn_down_exps"}};

static const char *const params[WEIR_HF_PARAM_COUNT] = {
    [WEIR_HF_WEIGHT] = "weight",
    [WEIR_HF_BIAS] = "bias",
    [WEIR_HF_SCALE] = "weight_scale",
    [WEIR_HF_SCALE_INV] = "weight_scale_inv",
    [WEIR_HF_QWEIGHT] = "qweight",
    [WEIR_HF_QZEROS] = "qzeros",
    [WEIR_HF_SCALES] = "scales",
    [WEIR_HF_G_IDX] = "g_idx",
    [WEIR_HF_PACKED] = "weight_packed",
    [WEIR_HF_SHAPE] = "weight_shape",
    [WEIR_HF_ZERO_POINT] = "weight_zero_point",
    [WEIR_HF_WEIGHT_G_IDX] = "weight_g_idx",
};
/* Rotary tables of old exports; ranges that quantised activations and keys were calibrated to. */
static const char *const skipped[] = {"rotary_emb.inv_freq", "input_scale", "input_scale_ub",
                                      "output_scale",        "k_scale",     "v_scale"};

#define COUNT(a) (sizeof(a) / sizeof *(a))

static bool ends_with(weir_str s, const char *end) {
  const size_t n = strlen(end);
  return s.len >= n && memcmp(s.data + s.len - n, end, n) == 0;
}

/* A decimal number without a leading zero, below `limit`; its length, 0 when there is none. */
static size_t number(weir_str s, int32_t limit, int32_t *out) {
  size_t n = 0;
  int32_t v = 0;
  while (n < s.len && s.data[n] >= '0' && s.data[n] <= '9') {
    v = v * 10 + (s.data[n++] - '0');
    if (v >= limit) return 0;
  }
  if (n == 0 || (n > 1 && s.data[0] == '0')) return 0;
  *out = v;
  return n;
}

/* Whether s is the pattern; the number at its '#'. */
static bool matches(weir_str s, const char *pattern, int32_t *expert) {
  const char *hash = strchr(pattern, '#');
  if (!hash) return weir_str_eq(s, weir_str_of(pattern));
  const size_t before = (size_t)(hash - pattern);
  if (s.len <= before || memcmp(s.data, pattern, before) != 0) return false;
  const weir_str rest = {s.data + before, s.len - before};
  const size_t n = number(rest, WEIR_MAX_EXPERTS, expert);
  return n > 0 && weir_str_eq((weir_str){rest.data + n, rest.len - n}, weir_str_of(hash + 1));
}

static bool look_up(weir_str module, const pair *table, size_t n, weir_hf_name *out) {
  int32_t expert = 0;
  char what[WEIR_HF_MODULE_BYTES];
  for (size_t i = 0; i < n; i++) {
    if (!matches(module, table[i].hf, &expert)) continue;
    const char *hash = strchr(table[i].gguf, '#');
    if (hash)
      snprintf(what, sizeof what, "%.*s%d", (int)(hash - table[i].gguf), table[i].gguf, expert);
    else
      snprintf(what, sizeof what, "%s", table[i].gguf);
    if (out->layer < 0)
      snprintf(out->module, sizeof out->module, "%s", what);
    else
      snprintf(out->module, sizeof out->module, "blk.%d.%.32s", out->layer, what);
    return true;
  }
  return false;
}

static bool look_up_module(weir_str module, weir_arch arch, weir_hf_name *out) {
  if (out->layer < 0) return look_up(module, outside, COUNT(outside), out);
  if (look_up(module, in_layer, COUNT(in_layer), out)) return true;
  if (arch == WEIR_ARCH_GEMMA2 || arch == WEIR_ARCH_GEMMA3)
    return look_up(module, post_norm_gemma, COUNT(post_norm_gemma), out);
  return look_up(module, post_norm_plain, COUNT(post_norm_plain), out);
}

/* `s` without its prefix. */
static bool parse_rest(weir_str s, weir_arch arch, weir_hf_name *out) {
  static const char layers[] = "layers.";
  const size_t n_layers = sizeof layers - 1;
  out->layer = -1;
  if (s.len > n_layers && memcmp(s.data, layers, n_layers) == 0) {
    s = (weir_str){s.data + n_layers, s.len - n_layers};
    const size_t n = number(s, WEIR_MAX_LAYERS, &out->layer);
    if (n == 0 || n >= s.len || s.data[n] != '.') return false;
    s = (weir_str){s.data + n + 1, s.len - n - 1};
    out->param = WEIR_HF_WEIGHT;
    if (look_up(s, stacked, COUNT(stacked), out)) return true;
  }
  for (int p = 0; p < WEIR_HF_PARAM_COUNT; p++) {
    const size_t n = strlen(params[p]);
    if (s.len <= n + 1 || !ends_with(s, params[p]) || s.data[s.len - n - 1] != '.') continue;
    out->param = (weir_hf_param)p;
    return look_up_module((weir_str){s.data, s.len - n - 1}, arch, out);
  }
  return false;
}

weir_hf_name_kind weir_hf_name_parse(weir_str name, weir_arch arch, weir_hf_name *out) {
  for (size_t i = 0; i < COUNT(prefixes); i++) {
    const size_t n = strlen(prefixes[i]);
    if (name.len <= n || memcmp(name.data, prefixes[i], n) != 0) continue;
    if (parse_rest((weir_str){name.data + n, name.len - n}, arch, out)) return WEIR_HF_NAME_KNOWN;
  }
  for (size_t i = 0; i < COUNT(skipped); i++)
    if (ends_with(name, skipped[i])) return WEIR_HF_NAME_SKIPPED;
  return WEIR_HF_NAME_UNKNOWN;
}

bool weir_expert_name_parse(const char *name, weir_expert_name *out) {
  static const char *const kinds[] = {"ffn_gate", "ffn_up", "ffn_down"};
  weir_str s = weir_str_of(name);
  int32_t layer;
  if (s.len < 4 || memcmp(s.data, "blk.", 4) != 0) return false;
  s = (weir_str){s.data + 4, s.len - 4};
  size_t n = number(s, WEIR_MAX_LAYERS, &layer);
  if (n == 0 || n >= s.len || s.data[n] != '.') return false;
  s = (weir_str){s.data + n + 1, s.len - n - 1};
  for (int k = 0; k < 3; k++) {
    n = strlen(kinds[k]);
    if (s.len <= n + 1 || memcmp(s.data, kinds[k], n) != 0 || s.data[n] != '.') continue;
    const weir_str rest = {s.data + n + 1, s.len - n - 1};
    const size_t digits = number(rest, WEIR_MAX_EXPERTS, &out->expert);
    if (digits == 0 ||
        !weir_str_eq((weir_str){rest.data + digits, rest.len - digits}, weir_str_of(".weight")))
      return false;
    out->is_up = k == 1;
    snprintf(out->stack, sizeof out->stack, "blk.%d.%s_exps.weight", layer, kinds[k]);
    out->fused[0] = '\0';
    if (k < 2) snprintf(out->fused, sizeof out->fused, "blk.%d.ffn_gate_up_exps.weight", layer);
    return true;
  }
  return false;
}
