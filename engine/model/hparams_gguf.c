/* SPDX-License-Identifier: Apache-2.0 */
/* Hyper-parameters of a GGUF file. Owns nothing; reads an open weir_gguf; any thread.
 *
 * Key names: ggml's docs/gguf.md. What a file says that would change the arithmetic and that weir does not do
 * (scaled RoPE, experts, sliding windows) is refused here, by name: a model that loads is a model that is
 * right. */
#include "model/hparams.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "model/gguf.h"

typedef struct arch_info {
  const char *name;
  weir_arch arch;
  bool rope_interleaved, qk_norm;
} arch_info;

/* Converters permute llama's q and k rows so that a rotated pair is adjacent; qwen's stay as Hugging Face has
 * them, pairs half a head apart. */
static const arch_info archs[] = {
    {"llama", WEIR_ARCH_LLAMA, true, false},
    {"qwen2", WEIR_ARCH_QWEN2, false, false},
    {"qwen3", WEIR_ARCH_QWEN3, false, true},
};
enum { N_ARCHS = sizeof archs / sizeof archs[0] };

enum { KEY_BYTES = 96 };

static const char *key_of(const arch_info *a, const char *suffix, char buf[KEY_BYTES]) {
  snprintf(buf, KEY_BYTES, "%s.%s", a->name, suffix);
  return buf;
}

static weir_status find_arch(const weir_gguf *g, const arch_info **out, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  weir_str name;
  const weir_status st = weir_gguf_str(g, "general.architecture", &name, e);
  if (st != WEIR_OK) return st;
  if (!name.data) return weir_fail(e, WEIR_EFORMAT, "key \"general.architecture\" is missing");
  for (int i = 0; i < N_ARCHS; i++) {
    *out = &archs[i];
    if (weir_str_eq(name, weir_str_of(archs[i].name))) return WEIR_OK;
  }
  return weir_fail(e, WEIR_EUNSUP, "architecture %s is not supported (known: llama qwen2 qwen3)",
                   weir_str_show(name, shown));
}

enum { REQUIRED = -1 };

/* An integer of [lo, hi]; `def` REQUIRED: the key must be there. */
static weir_status read_int(const weir_gguf *g, const arch_info *a, const char *suffix, int64_t def,
                            int64_t lo, int64_t hi, int32_t *out, weir_err *e) {
  char key[KEY_BYTES];
  int64_t v;
  key_of(a, suffix, key);
  if (def == REQUIRED && !weir_gguf_has(g, key))
    return weir_fail(e, WEIR_EFORMAT, "key \"%s\" is missing", key);
  const weir_status st = weir_gguf_i64(g, key, def, &v, e);
  if (st != WEIR_OK) return st;
  if (v < lo || v > hi)
    return weir_fail(e, WEIR_EFORMAT, "key \"%s\": %" PRId64 " is not in %" PRId64 "..%" PRId64, key, v, lo,
                     hi);
  *out = (int32_t)v;
  return WEIR_OK;
}

/* Keys that change the model unless they are absent or neutral. */
static weir_status refuse_variants(const weir_gguf *g, const arch_info *a, int32_t n_ctx, weir_err *e) {
  char key[KEY_BYTES], shown[WEIR_STR_SHOW_BYTES];
  weir_status st = WEIR_OK;
  weir_str scaling;
  int64_t v;
  float f;
  bool causal;
  WEIR_TRY(weir_gguf_str(g, key_of(a, "rope.scaling.type", key), &scaling, e));
  if (scaling.data && !weir_str_eq(scaling, weir_str_of("none")))
    return weir_fail(e, WEIR_EUNSUP, "key \"%s\": RoPE scaling %s is not supported (only none)", key,
                     weir_str_show(scaling, shown));
  if (weir_gguf_find(g, "rope_freqs.weight"))
    return weir_fail(e, WEIR_EUNSUP,
                     "tensor \"rope_freqs.weight\": RoPE with frequency factors is not supported");
  static const char *const scale_is_one[] = {"rope.scale_linear", "logit_scale", "embedding_scale",
                                             "residual_scale"};
  for (size_t i = 0; i < sizeof scale_is_one / sizeof scale_is_one[0]; i++) {
    WEIR_TRY(weir_gguf_f32(g, key_of(a, scale_is_one[i], key), 1.0f, &f, e));
    if (f != 1.0f)
      return weir_fail(e, WEIR_EUNSUP, "key \"%s\": %g is not supported (only 1)", key, (double)f);
  }
  static const char *const count_is_zero[] = {"expert_count", "expert_used_count"};
  for (size_t i = 0; i < sizeof count_is_zero / sizeof count_is_zero[0]; i++) {
    WEIR_TRY(weir_gguf_i64(g, key_of(a, count_is_zero[i], key), 0, &v, e));
    if (v != 0) return weir_fail(e, WEIR_EUNSUP, "key \"%s\": mixtures of experts are not supported", key);
  }
  WEIR_TRY(weir_gguf_i64(g, key_of(a, "attention.sliding_window", key), 0, &v, e));
  if (v > 0 && v < n_ctx)
    return weir_fail(e, WEIR_EUNSUP,
                     "key \"%s\": sliding-window attention (%" PRId64 " of %" PRId32
                     " positions) is not supported",
                     key, v, n_ctx);
  WEIR_TRY(weir_gguf_bool(g, key_of(a, "attention.causal", key), true, &causal, e));
  if (!causal)
    return weir_fail(e, WEIR_EUNSUP, "key \"%s\": attention that is not causal is not supported", key);
out:
  return st;
}

static weir_status read_heads(const weir_gguf *g, const arch_info *a, weir_hparams *h, weir_err *e) {
  weir_status st = WEIR_OK;
  int32_t value_length;
  WEIR_TRY(read_int(g, a, "attention.head_count", REQUIRED, 1, WEIR_MAX_HEADS, &h->n_heads, e));
  WEIR_TRY(read_int(g, a, "attention.head_count_kv", h->n_heads, 1, h->n_heads, &h->n_kv_heads, e));
  if (h->n_heads % h->n_kv_heads != 0)
    return weir_fail(e, WEIR_EFORMAT, "%" PRId32 " heads are not a multiple of %" PRId32 " key/value heads",
                     h->n_heads, h->n_kv_heads);
  char key[KEY_BYTES];
  if (!weir_gguf_has(g, key_of(a, "attention.key_length", key)) && h->dim % h->n_heads != 0)
    return weir_fail(e, WEIR_EFORMAT,
                     "embedding length %" PRId32 " is not a multiple of %" PRId32
                     " heads, and there is no \"%s\"",
                     h->dim, h->n_heads, key);
  WEIR_TRY(
      read_int(g, a, "attention.key_length", h->dim / h->n_heads, 2, WEIR_MAX_HEAD_DIM, &h->head_dim, e));
  WEIR_TRY(read_int(g, a, "attention.value_length", h->head_dim, 1, WEIR_MAX_HEAD_DIM, &value_length, e));
  if (value_length != h->head_dim)
    return weir_fail(e, WEIR_EUNSUP,
                     "heads with %" PRId32 " key and %" PRId32 " value elements are not supported",
                     h->head_dim, value_length);
  if (h->head_dim % 2 != 0)
    return weir_fail(e, WEIR_EFORMAT, "head dimension %" PRId32 " is odd", h->head_dim);
  WEIR_TRY(read_int(g, a, "rope.dimension_count", h->head_dim, 2, h->head_dim, &h->rope_dims, e));
  if (h->rope_dims % 2 != 0)
    return weir_fail(e, WEIR_EFORMAT, "RoPE dimension count %" PRId32 " is odd", h->rope_dims);
out:
  return st;
}

static weir_status read_floats(const weir_gguf *g, const arch_info *a, weir_hparams *h, weir_err *e) {
  char key[KEY_BYTES];
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_gguf_f32(g, key_of(a, "rope.freq_base", key), 10000.0f, &h->rope.theta, e));
  if (!(h->rope.theta >= 1.0f))
    return weir_fail(e, WEIR_EFORMAT, "key \"%s\": %g is below 1", key, (double)h->rope.theta);
  key_of(a, "attention.layer_norm_rms_epsilon", key);
  if (!weir_gguf_has(g, key)) return weir_fail(e, WEIR_EFORMAT, "key \"%s\" is missing", key);
  WEIR_TRY(weir_gguf_f32(g, key, 0.0f, &h->norm_eps, e));
  if (!(h->norm_eps > 0.0f && h->norm_eps < 0.1f))
    return weir_fail(e, WEIR_EFORMAT, "key \"%s\": %g is not in 0..0.1", key, (double)h->norm_eps);
out:
  return st;
}

/* The embedding decides how many ids there are; what the metadata says must agree. */
static weir_status read_vocab(const weir_gguf *g, const arch_info *a, weir_hparams *h, weir_err *e) {
  char key[KEY_BYTES];
  weir_status st = WEIR_OK;
  const weir_str *tokens;
  int64_t said, n_tokens;
  const weir_gguf_tensor *t = weir_gguf_find(g, "token_embd.weight");
  if (!t) return weir_fail(e, WEIR_EFORMAT, "tensor \"token_embd.weight\" is missing");
  if (t->n_dims != 2 || t->dim[0] != h->dim)
    return weir_fail(e, WEIR_EFORMAT,
                     "tensor \"token_embd.weight\": want rows of %" PRId32 ", file has [%" PRId64 ",%" PRId64
                     "] in %" PRId32 " dimensions",
                     h->dim, t->dim[0], t->dim[1], t->n_dims);
  if (t->dim[1] > WEIR_MAX_VOCAB)
    return weir_fail(e, WEIR_EFORMAT, "tensor \"token_embd.weight\": %" PRId64 " rows (limit %d)", t->dim[1],
                     WEIR_MAX_VOCAB);
  h->n_vocab = (int32_t)t->dim[1];
  WEIR_TRY(weir_gguf_i64(g, key_of(a, "vocab_size", key), h->n_vocab, &said, e));
  if (said != h->n_vocab)
    return weir_fail(e, WEIR_EFORMAT, "key \"%s\": %" PRId64 ", but token_embd.weight has %" PRId32 " rows",
                     key, said, h->n_vocab);
  WEIR_TRY(weir_gguf_str_array(g, "tokenizer.ggml.tokens", &tokens, &n_tokens, e));
  if (n_tokens > h->n_vocab)
    return weir_fail(e, WEIR_EFORMAT,
                     "key \"tokenizer.ggml.tokens\": %" PRId64 " tokens, but token_embd.weight has %" PRId32
                     " rows",
                     n_tokens, h->n_vocab);
  h->tied_head = weir_gguf_find(g, "output.weight") == NULL;
out:
  return st;
}

static weir_status read_name(const weir_gguf *g, const arch_info *a, weir_hparams *h, weir_err *e) {
  weir_str name;
  const weir_status st = weir_gguf_str(g, "general.name", &name, e);
  if (st != WEIR_OK) return st;
  weir_str_escape(name.len ? name : weir_str_of(a->name), h->name, sizeof h->name);
  return WEIR_OK;
}

weir_status weir_hparams_from_gguf(const weir_gguf *g, weir_hparams *out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_hparams h = {0};
  const arch_info *a = NULL;
  WEIR_TRY(find_arch(g, &a, e));
  h.arch = a->arch;
  h.rope_interleaved = a->rope_interleaved;
  h.qk_norm = a->qk_norm;
  WEIR_TRY(read_name(g, a, &h, e));
  WEIR_TRY(read_int(g, a, "block_count", REQUIRED, 1, WEIR_MAX_LAYERS, &h.n_layers, e));
  WEIR_TRY(read_int(g, a, "embedding_length", REQUIRED, 1, WEIR_MAX_DIM, &h.dim, e));
  WEIR_TRY(read_int(g, a, "feed_forward_length", REQUIRED, 1, WEIR_MAX_FF, &h.n_ff, e));
  WEIR_TRY(read_int(g, a, "context_length", REQUIRED, 1, WEIR_MAX_CONTEXT, &h.n_ctx, e));
  WEIR_TRY(read_heads(g, a, &h, e));
  WEIR_TRY(read_floats(g, a, &h, e));
  WEIR_TRY(refuse_variants(g, a, h.n_ctx, e));
  WEIR_TRY(read_vocab(g, a, &h, e));
  h.rope_local = h.rope;
  h.attn_scale = 1.0f / sqrtf((float)h.head_dim);
  h.embed_scale = 1.0f;
  *out = h;
out:
  return st;
}
