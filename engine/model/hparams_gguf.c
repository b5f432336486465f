/* SPDX-License-Identifier: Apache-2.0 */
/* Hyper-parameters of a GGUF file. Owns nothing; reads an open weir_gguf; any thread. RoPE is read by
 * hparams_gguf_rope.c.
 *
 * Key names: ggml's docs/gguf.md and gguf-py's constants. What a file says that would change the arithmetic
 * and that weir does not do is refused here, by name: a model that loads is a model that is right. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/gguf_index.h"
#include "model/hparams_gguf_in.h"

/* What an architecture's name alone says. */
typedef struct family {
  const char *name;
  weir_arch arch;
  bool rope_interleaved, qk_norm, gemma, experts;
  /* Which layers a window is for, when the file does not say: every n-th sees all positions, 0: none does;
   * -1: the file has to say it. */
  int32_t window_every;
  int32_t window;                    /* when the file has none */
  float attn_softcap, final_softcap; /* when the file has none */
  int32_t layers_of_27b;             /* the size whose queries are scaled by 1/sqrt(dim / heads) */
} family;

/* Converters permute llama's q and k rows so that a rotated pair is adjacent; all others' stay as Hugging
 * Face has them, pairs half a head apart. Gemma 2's numbers: arXiv 2408.00118; Gemma 3's: arXiv 2503.19786.
 */
static const family families[] = {
    {.name = "llama", .arch = WEIR_ARCH_LLAMA, .rope_interleaved = true},
    {.name = "qwen2", .arch = WEIR_ARCH_QWEN2, .window_every = -1},
    {.name = "qwen3", .arch = WEIR_ARCH_QWEN3, .qk_norm = true, .window_every = -1},
    {.name = "qwen3moe", .arch = WEIR_ARCH_QWEN3MOE, .qk_norm = true, .experts = true, .window_every = -1},
    {.name = "gemma2",
     .arch = WEIR_ARCH_GEMMA2,
     .gemma = true,
     .window_every = 2,
     .window = 4096,
     .attn_softcap = 50.0f,
     .final_softcap = 30.0f,
     .layers_of_27b = 46},
    {.name = "gemma3",
     .arch = WEIR_ARCH_GEMMA3,
     .gemma = true,
     .qk_norm = true,
     .window_every = 6,
     .layers_of_27b = 62},
    {.name = "phi3", .arch = WEIR_ARCH_PHI3},
};
enum { N_FAMILIES = sizeof families / sizeof families[0] };

const char *weir_hparams_key(const weir_hparams_src *s, const char *suffix,
                             char buf[WEIR_HPARAMS_KEY_BYTES]) {
  snprintf(buf, WEIR_HPARAMS_KEY_BYTES, "%s.%s", s->arch, suffix);
  return buf;
}

static weir_status find_family(const weir_gguf *g, const family **out, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES], known[128];
  weir_str name;
  const weir_status st = weir_gguf_str(g, "general.architecture", &name, e);
  if (st != WEIR_OK) return st;
  if (!name.data) return weir_fail(e, WEIR_EFORMAT, "key \"general.architecture\" is missing");
  int at = 0;
  for (int i = 0; i < N_FAMILIES; i++) {
    *out = &families[i];
    if (weir_str_eq(name, weir_str_of(families[i].name))) return WEIR_OK;
    if (at < (int)sizeof known)
      at += snprintf(known + at, sizeof known - (size_t)at, "%s%s", i ? " " : "", families[i].name);
  }
  return weir_fail(e, WEIR_EUNSUP, "architecture %s is not supported (known: %s)", weir_str_show(name, shown),
                   known);
}

weir_status weir_hparams_int(const weir_hparams_src *s, const char *suffix, int64_t def, int64_t lo,
                             int64_t hi, int32_t *out, weir_err *e) {
  char key[WEIR_HPARAMS_KEY_BYTES];
  int64_t v;
  weir_hparams_key(s, suffix, key);
  if (def == WEIR_HPARAMS_REQUIRED && !weir_gguf_has(s->gguf, key))
    return weir_fail(e, WEIR_EFORMAT, "key \"%s\" is missing", key);
  const weir_status st = weir_gguf_i64(s->gguf, key, def, &v, e);
  if (st != WEIR_OK) return st;
  if (v < lo || v > hi)
    return weir_fail(e, WEIR_EFORMAT, "key \"%s\": %" PRId64 " is not in %" PRId64 "..%" PRId64, key, v, lo,
                     hi);
  *out = (int32_t)v;
  return WEIR_OK;
}

weir_status weir_hparams_float(const weir_hparams_src *s, const char *suffix, float def, float *out,
                               weir_err *e) {
  char key[WEIR_HPARAMS_KEY_BYTES];
  return weir_gguf_f32(s->gguf, weir_hparams_key(s, suffix, key), def, out, e);
}

/* Keys that change the model unless they are absent or neutral. */
static weir_status refuse_variants(const weir_hparams_src *s, const weir_hparams *h, weir_err *e) {
  static const struct {
    const char *suffix;
    float neutral, also;
  } number[] = {
      {"logit_scale", 1, 1},
      {"embedding_scale", 1, 1},
      {"residual_scale", 1, 1},
      {"expert_weights_scale", 1, 0},
      {"attention.max_alibi_bias", 0, 0},
      {"attention.clamp_kqv", 0, 0},
      {"attention.temperature_scale", 0, 0},
      {"router_logit_softcapping", 0, 0},
      {"rope.scaling.alpha", 0, 0},
  };
  const struct {
    const char *suffix;
    int64_t neutral, also;
  } count[] = {
      {"leading_dense_block_count", 0, 0},
      {"interleave_moe_layer_step", 0, 1},
      {"moe_every_n_layers", 0, 1},
      {"expert_shared_count", 0, 0},
      {"expert_shared_feed_forward_length", 0, 0},
      {"expert_group_count", 0, 1},
      {"expert_gating_func", 0, 1}, /* 1: softmax */
      {"nextn_predict_layers", 0, 0},
      {"attention.shared_kv_layers", 0, 0},
      {"attention.key_length_swa", h->head_dim, h->head_dim},
      {"attention.value_length_swa", h->head_dim, h->head_dim},
      {"rope.dimension_count_swa", h->rope_dims, h->rope_dims},
  };
  static const char *const absent[] = {"rope.dimension_sections", "full_attention_interval"};
  char key[WEIR_HPARAMS_KEY_BYTES];
  weir_status st = WEIR_OK;
  bool causal;
  for (size_t i = 0; i < sizeof number / sizeof *number; i++) {
    float v;
    WEIR_TRY(weir_hparams_float(s, number[i].suffix, number[i].neutral, &v, e));
    if (v != number[i].neutral && v != number[i].also)
      return weir_fail(e, WEIR_EUNSUP, "key \"%s\": %g is not supported (only %g)",
                       weir_hparams_key(s, number[i].suffix, key), (double)v, (double)number[i].neutral);
  }
  for (size_t i = 0; i < sizeof count / sizeof *count; i++) {
    int64_t v;
    WEIR_TRY(weir_gguf_i64(s->gguf, weir_hparams_key(s, count[i].suffix, key), count[i].neutral, &v, e));
    if (v != count[i].neutral && v != count[i].also)
      return weir_fail(e, WEIR_EUNSUP, "key \"%s\": %" PRId64 " is not supported (only %" PRId64 ")", key, v,
                       count[i].also);
  }
  for (size_t i = 0; i < sizeof absent / sizeof *absent; i++)
    if (weir_gguf_has(s->gguf, weir_hparams_key(s, absent[i], key)))
      return weir_fail(e, WEIR_EUNSUP, "key \"%s\" is not supported", key);
  WEIR_TRY(weir_gguf_bool(s->gguf, weir_hparams_key(s, "attention.causal", key), true, &causal, e));
  if (!causal)
    return weir_fail(e, WEIR_EUNSUP, "key \"%s\": attention that is not causal is not supported", key);
out:
  return st;
}

static weir_status read_heads(const weir_hparams_src *s, weir_hparams *h, weir_err *e) {
  weir_status st = WEIR_OK;
  int32_t value_length;
  WEIR_TRY(
      weir_hparams_int(s, "attention.head_count", WEIR_HPARAMS_REQUIRED, 1, WEIR_MAX_HEADS, &h->n_heads, e));
  WEIR_TRY(weir_hparams_int(s, "attention.head_count_kv", h->n_heads, 1, h->n_heads, &h->n_kv_heads, e));
  if (h->n_heads % h->n_kv_heads != 0)
    return weir_fail(e, WEIR_EFORMAT, "%" PRId32 " heads are not a multiple of %" PRId32 " key/value heads",
                     h->n_heads, h->n_kv_heads);
  char key[WEIR_HPARAMS_KEY_BYTES];
  if (!weir_gguf_has(s->gguf, weir_hparams_key(s, "attention.key_length", key)) && h->dim % h->n_heads != 0)
    return weir_fail(e, WEIR_EFORMAT,
                     "embedding length %" PRId32 " is not a multiple of %" PRId32
                     " heads, and there is no \"%s\"",
                     h->dim, h->n_heads, key);
  WEIR_TRY(weir_hparams_int(s, "attention.key_length", h->dim / h->n_heads, 2, WEIR_MAX_HEAD_DIM,
                            &h->head_dim, e));
  WEIR_TRY(
      weir_hparams_int(s, "attention.value_length", h->head_dim, 1, WEIR_MAX_HEAD_DIM, &value_length, e));
  if (value_length != h->head_dim)
    return weir_fail(e, WEIR_EUNSUP,
                     "heads with %" PRId32 " key and %" PRId32 " value elements are not supported",
                     h->head_dim, value_length);
  if (h->head_dim % 2 != 0)
    return weir_fail(e, WEIR_EFORMAT, "head dimension %" PRId32 " is odd", h->head_dim);
  WEIR_TRY(weir_hparams_int(s, "rope.dimension_count", h->head_dim, 2, h->head_dim, &h->rope_dims, e));
  if (h->rope_dims % 2 != 0)
    return weir_fail(e, WEIR_EFORMAT, "RoPE dimension count %" PRId32 " is odd", h->rope_dims);
out:
  return st;
}

static weir_status read_eps(const weir_hparams_src *s, weir_hparams *h, weir_err *e) {
  char key[WEIR_HPARAMS_KEY_BYTES];
  weir_hparams_key(s, "attention.layer_norm_rms_epsilon", key);
  if (!weir_gguf_has(s->gguf, key)) return weir_fail(e, WEIR_EFORMAT, "key \"%s\" is missing", key);
  const weir_status st = weir_gguf_f32(s->gguf, key, 0.0f, &h->norm_eps, e);
  if (st != WEIR_OK) return st;
  return h->norm_eps > 0.0f && h->norm_eps < 0.1f
             ? WEIR_OK
             : weir_fail(e, WEIR_EFORMAT, "key \"%s\": %g is not in 0..0.1", key, (double)h->norm_eps);
}

/* An array of bools, one a layer (true: windowed), or the n of "every n-th sees all" (0: none does). */
static weir_status read_pattern(const weir_hparams_src *s, int32_t every, weir_hparams *h, weir_err *e) {
  char key[WEIR_HPARAMS_KEY_BYTES];
  weir_hparams_key(s, "attention.sliding_window_pattern", key);
  const int32_t at = weir_strmap_get(&s->gguf->key_map, weir_str_of(key));
  const weir_gguf_entry *k = at < 0 ? NULL : &s->gguf->entry[at];
  if (k && k->type == WEIR_GGUF_ARRAY && k->elem == WEIR_GGUF_BOOL) {
    if (k->n < (uint64_t)h->n_layers)
      return weir_fail(e, WEIR_EFORMAT, "key \"%s\": %" PRIu64 " elements for %" PRId32 " layers", key, k->n,
                       h->n_layers);
    for (int32_t i = 0; i < h->n_layers; i++) h->windowed[i] = k->value[i] == 1;
    return WEIR_OK;
  }
  const weir_status st =
      weir_hparams_int(s, "attention.sliding_window_pattern", every, 0, WEIR_MAX_LAYERS, &every, e);
  if (st != WEIR_OK) return st;
  for (int32_t i = 0; i < h->n_layers; i++) h->windowed[i] = every == 0 || i % every < every - 1;
  return WEIR_OK;
}

static weir_status read_window(const weir_hparams_src *s, const family *f, weir_hparams *h, weir_err *e) {
  char key[WEIR_HPARAMS_KEY_BYTES], pattern[WEIR_HPARAMS_KEY_BYTES];
  const weir_status st =
      weir_hparams_int(s, "attention.sliding_window", f->window, 0, INT32_MAX, &h->window, e);
  if (st != WEIR_OK || h->window == 0) return st;
  weir_hparams_key(s, "attention.sliding_window_pattern", pattern);
  if (f->window_every >= 0 || weir_gguf_has(s->gguf, pattern)) return read_pattern(s, f->window_every, h, e);
  if (h->window < h->n_ctx)
    return weir_fail(e, WEIR_EUNSUP,
                     "key \"%s\": sliding-window attention (%" PRId32 " of %" PRId32
                     " positions) without \"%s\" is not supported",
                     weir_hparams_key(s, "attention.sliding_window", key), h->window, h->n_ctx, pattern);
  h->window = 0; /* says nothing: it reaches back to the beginning */
  return WEIR_OK;
}

static weir_status read_attention(const weir_hparams_src *s, const family *f, weir_hparams *h, weir_err *e) {
  char key[WEIR_HPARAMS_KEY_BYTES];
  weir_status st = WEIR_OK;
  h->attn_scale = 1.0f / sqrtf((float)(h->n_layers == f->layers_of_27b ? h->dim / h->n_heads : h->head_dim));
  WEIR_TRY(weir_hparams_float(s, "attention.scale", h->attn_scale, &h->attn_scale, e));
  if (!(h->attn_scale > 0.0f))
    return weir_fail(e, WEIR_EFORMAT, "key \"%s\": %g is not positive",
                     weir_hparams_key(s, "attention.scale", key), (double)h->attn_scale);
  struct {
    const char *suffix;
    float def, *out;
  } cap[] = {{"attn_logit_softcapping", f->attn_softcap, &h->attn_softcap},
             {"final_logit_softcapping", f->final_softcap, &h->final_softcap}};
  for (size_t i = 0; i < sizeof cap / sizeof *cap; i++) {
    WEIR_TRY(weir_hparams_float(s, cap[i].suffix, cap[i].def, cap[i].out, e));
    if (*cap[i].out < 0.0f)
      return weir_fail(e, WEIR_EFORMAT, "key \"%s\": %g is negative", weir_hparams_key(s, cap[i].suffix, key),
                       (double)*cap[i].out);
  }
  WEIR_TRY(read_window(s, f, h, e));
out:
  return st;
}

static weir_status read_mlp(const weir_hparams_src *s, const family *f, weir_hparams *h, weir_err *e) {
  char key[WEIR_HPARAMS_KEY_BYTES];
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_hparams_int(s, "feed_forward_length", WEIR_HPARAMS_REQUIRED, 1, WEIR_MAX_FF, &h->n_ff, e));
  WEIR_TRY(weir_hparams_int(s, "expert_count", 0, 0, WEIR_MAX_EXPERTS, &h->n_experts, e));
  if (h->n_experts == 0) {
    int32_t used;
    WEIR_TRY(weir_hparams_int(s, "expert_used_count", 0, 0, 0, &used, e));
    return f->experts ? weir_fail(e, WEIR_EFORMAT, "key \"%s\" is missing or 0",
                                  weir_hparams_key(s, "expert_count", key))
                      : WEIR_OK;
  }
  if (h->arch != WEIR_ARCH_LLAMA && h->arch != WEIR_ARCH_QWEN3MOE)
    return weir_fail(e, WEIR_EUNSUP, "key \"%s\": experts in a %s model are not supported",
                     weir_hparams_key(s, "expert_count", key), s->arch);
  WEIR_TRY(weir_hparams_int(s, "expert_used_count", WEIR_HPARAMS_REQUIRED, 1, h->n_experts,
                            &h->n_experts_used, e));
  WEIR_TRY(weir_hparams_int(s, "expert_feed_forward_length", h->n_ff, 1, WEIR_MAX_FF, &h->expert_ff, e));
  WEIR_TRY(
      weir_gguf_bool(s->gguf, weir_hparams_key(s, "expert_weights_norm", key), true, &h->expert_renorm, e));
out:
  return st;
}

/* The embedding decides how many ids there are; what the metadata says must agree. */
static weir_status read_vocab(const weir_hparams_src *s, weir_hparams *h, weir_err *e) {
  char key[WEIR_HPARAMS_KEY_BYTES];
  weir_status st = WEIR_OK;
  const weir_str *tokens;
  int64_t said, n_tokens;
  const weir_gguf_tensor *t = weir_gguf_find(s->gguf, "token_embd.weight");
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
  WEIR_TRY(weir_gguf_i64(s->gguf, weir_hparams_key(s, "vocab_size", key), h->n_vocab, &said, e));
  if (said != h->n_vocab)
    return weir_fail(e, WEIR_EFORMAT, "key \"%s\": %" PRId64 ", but token_embd.weight has %" PRId32 " rows",
                     key, said, h->n_vocab);
  WEIR_TRY(weir_gguf_str_array(s->gguf, "tokenizer.ggml.tokens", &tokens, &n_tokens, e));
  if (n_tokens > h->n_vocab)
    return weir_fail(e, WEIR_EFORMAT,
                     "key \"tokenizer.ggml.tokens\": %" PRId64 " tokens, but token_embd.weight has %" PRId32
                     " rows",
                     n_tokens, h->n_vocab);
  h->tied_head = weir_gguf_find(s->gguf, "output.weight") == NULL;
out:
  return st;
}

static weir_status read_name(const weir_hparams_src *s, weir_hparams *h, weir_err *e) {
  weir_str name;
  const weir_status st = weir_gguf_str(s->gguf, "general.name", &name, e);
  if (st != WEIR_OK) return st;
  weir_str_escape(name.len ? name : weir_str_of(s->arch), h->name, sizeof h->name);
  return WEIR_OK;
}

weir_status weir_hparams_from_gguf(const weir_gguf *g, weir_hparams *out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_hparams h = {0};
  const family *f = NULL;
  WEIR_TRY(find_family(g, &f, e));
  const weir_hparams_src s = {g, f->name};
  h.arch = f->arch;
  h.rope_interleaved = f->rope_interleaved;
  h.qk_norm = f->qk_norm;
  h.post_norms = f->gemma; /* whose norms are stored with their 1 */
  h.act = f->gemma ? WEIR_ACT_GELU_TANH : WEIR_ACT_SILU;
  WEIR_TRY(read_name(&s, &h, e));
  WEIR_TRY(weir_hparams_int(&s, "block_count", WEIR_HPARAMS_REQUIRED, 1, WEIR_MAX_LAYERS, &h.n_layers, e));
  WEIR_TRY(weir_hparams_int(&s, "embedding_length", WEIR_HPARAMS_REQUIRED, 1, WEIR_MAX_DIM, &h.dim, e));
  WEIR_TRY(weir_hparams_int(&s, "context_length", WEIR_HPARAMS_REQUIRED, 1, WEIR_MAX_CONTEXT, &h.n_ctx, e));
  h.embed_scale = f->gemma ? sqrtf((float)h.dim) : 1.0f;
  WEIR_TRY(read_heads(&s, &h, e));
  WEIR_TRY(read_eps(&s, &h, e));
  WEIR_TRY(refuse_variants(&s, &h, e));
  WEIR_TRY(weir_hparams_rope(&s, &h, e));
  WEIR_TRY(read_attention(&s, f, &h, e));
  WEIR_TRY(read_mlp(&s, f, &h, e));
  WEIR_TRY(read_vocab(&s, &h, e));
  *out = h;
out:
  return st;
}
