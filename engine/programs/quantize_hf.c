/* SPDX-License-Identifier: Apache-2.0 */
/* Weights and settings of a Hugging Face directory as a GGUF file has them. Names are those of ggml's
 * docs/gguf.md already (model/hf_names.h); what remains: llama's rows of q and k, experts stacked,
 * Llama 3.1's stretched positions as a table. Owns nothing beyond its calls; main thread. */
#include "programs/quantize_hf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/hf_names.h"

/* ---- what can be told ---- */

static weir_status refuse(const char *what, weir_err *e) {
  return weir_fail(e, WEIR_EUNSUP, "%s: not something weir writes into a GGUF file yet", what);
}

/* Which layers have a window GGUF says by the architecture's name: every n-th of a Gemma sees all positions,
 * no layer of a Phi-3 does. */
static bool told_windows(const weir_hparams *h) {
  const int32_t every = h->arch == WEIR_ARCH_GEMMA2 ? 2 : h->arch == WEIR_ARCH_GEMMA3 ? 6 : 0;
  if (h->arch != WEIR_ARCH_GEMMA2 && h->arch != WEIR_ARCH_GEMMA3 && h->arch != WEIR_ARCH_PHI3) return false;
  for (int32_t i = 0; i < h->n_layers; i++)
    if (h->windowed[i] != (every == 0 || i % every < every - 1)) return false;
  return true;
}

static weir_status check(const weir_hparams *h, weir_err *e) {
  /* of the 27-billion Gemmas the scale is another one, which readers know by the number of layers */
  const bool is_27b = (h->arch == WEIR_ARCH_GEMMA2 && h->n_layers == 46) ||
                      (h->arch == WEIR_ARCH_GEMMA3 && h->n_layers == 62);
  const float scale = 1.0f / sqrtf((float)(is_27b ? h->dim / h->n_heads : h->head_dim));
  if (h->window > 0 && !told_windows(h)) return refuse("sliding windows of this pattern", e);
  if (fabsf(h->attn_scale - scale) > 1e-6f * scale) return refuse("a scale of attention of its own", e);
  if (h->n_experts > 0 && !h->expert_renorm) return refuse("norm_topk_prob false", e);
  if (h->arch == WEIR_ARCH_LLAMA && h->rope_dims != h->head_dim)
    return refuse("RoPE over a part of a head", e);
  if (h->rope.kind == WEIR_ROPE_YARN && h->rope.mscale != 0)
    return refuse("an attention factor of its own for YaRN", e);
  if (h->arch == WEIR_ARCH_GEMMA3 && (h->attn_softcap != 0 || h->final_softcap != 0))
    return refuse("soft caps of a gemma3", e);
  return WEIR_OK;
}

/* ---- tensors ---- */

/* A table that the model's files do not have as a tensor. */
static weir_status make_table(const char *name, const float *v, int32_t n, weir_quantize_tensor *t,
                              weir_err *e) {
  const weir_status st = WEIR_NEW((size_t)n, &t->made, e);
  if (st != WEIR_OK) return st;
  memcpy(t->made, v, (size_t)n * sizeof *v);
  t->in = (weir_tensor_info){.name = weir_str_of(name), .dtype = WEIR_F32, .n_dims = 1, .dim = {n, 1, 1, 1}};
  return WEIR_OK;
}

/* Llama 3.1's stretching as a file has it: what the plain frequencies are divided by. */
static weir_status make_factors(const weir_hparams *h, weir_quantize_tensor *t, weir_err *e) {
  weir_status st = WEIR_OK;
  float plain[WEIR_MAX_ROPE_DIMS / 2], stretched[WEIR_MAX_ROPE_DIMS / 2], mscale;
  const weir_rope unstretched = {.kind = WEIR_ROPE_PLAIN, .theta = h->rope.theta};
  WEIR_TRY(weir_rope_frequencies(&unstretched, h->rope_dims, h->n_ctx, plain, &mscale, e));
  WEIR_TRY(weir_rope_frequencies(&h->rope, h->rope_dims, h->n_ctx, stretched, &mscale, e));
  for (int32_t i = 0; i < h->rope_dims / 2; i++) plain[i] /= stretched[i];
  st = make_table("rope_freqs.weight", plain, h->rope_dims / 2, t, e);
out:
  return st;
}

static bool ends_with(weir_str s, const char *end) {
  const size_t n = strlen(end);
  return s.len >= n && memcmp(s.data + s.len - n, end, n) == 0;
}

/* Stacks experts 0 to n-1 of one kind of a layer under the name that GGUF has for them. */
static weir_status stack(const weir_mfile *m, const weir_hparams *h, int32_t layer, const char *kind,
                         weir_quantize_tensor *t, weir_err *e) {
  char name[WEIR_STACK_NAME_BYTES + 32];
  weir_tensor_info x, first = {0};
  snprintf(t->part_name, sizeof t->part_name, "blk.%d.ffn_%s.", layer, kind);
  snprintf(t->own_name, sizeof t->own_name, "blk.%d.ffn_%s_exps.weight", layer, kind);
  weir_str own = weir_str_of(t->own_name);
  for (int32_t i = 0; i < h->n_experts; i++) {
    snprintf(name, sizeof name, "%s%d.weight", t->part_name, i);
    if (!weir_mfile_find(m, name, &x)) return weir_fail(e, WEIR_EFORMAT, "tensor %s is missing", name);
    if (i == 0) first = x;
    if (x.dtype != first.dtype || x.dim[0] != first.dim[0] || x.dim[1] != first.dim[1] || x.dim[2] != 1)
      return weir_fail(e, WEIR_EUNSUP, "tensor %s: of another type or shape than that of expert 0", name);
  }
  t->in = first;
  t->in.name = own;
  t->in.n_dims = 3;
  t->in.dim[2] = h->n_experts;
  t->n_parts = h->n_experts;
  return WEIR_OK;
}

/* A tensor of one expert, or of all of a layer: they are taken by stack(). */
static bool is_expert(weir_str name) {
  char text[WEIR_GGUF_MAX_NAME_BYTES + 1];
  weir_expert_name x;
  snprintf(text, sizeof text, "%.*s", (int)name.len, name.data);
  return weir_expert_name_parse(text, &x) || ends_with(name, "_exps.weight");
}

weir_status weir_quantize_hf_list(const weir_mfile *m, weir_quantize_tensor **out, int64_t *n_out,
                                  weir_err *e) {
  static const char *const kinds[] = {"gate", "up", "down"};
  weir_status st = WEIR_OK;
  weir_hparams h;
  weir_quantize_tensor *all = NULL;
  const int64_t n = weir_mfile_n_tensors(m);
  int64_t k = 0;
  *out = NULL;
  *n_out = 0;
  WEIR_TRY(weir_hparams_read(m, &h, e));
  WEIR_TRY(check(&h, e));
  WEIR_TRY(WEIR_NEW((size_t)n + 3 * (size_t)h.n_layers + 2, &all, e));
  for (int64_t i = 0; i < n; i++) {
    weir_quantize_tensor *t = &all[k];
    weir_mfile_tensor_at(m, i, &t->in);
    if (h.n_experts > 0 && is_expert(t->in.name)) continue;
    const bool q = ends_with(t->in.name, ".attn_q.weight"), kv = ends_with(t->in.name, ".attn_k.weight");
    /* tied models may hold the head a second time */
    if (h.tied_head && weir_str_eq(t->in.name, weir_str_of("output.weight"))) continue;
    if (h.arch == WEIR_ARCH_LLAMA &&
        (ends_with(t->in.name, ".attn_q.bias") || ends_with(t->in.name, ".attn_k.bias"))) {
      st = refuse("biases of a llama", e);
      goto out;
    }
    if (h.arch == WEIR_ARCH_LLAMA && !h.rope_interleaved && (q || kv)) {
      t->head_rows = h.head_dim;
      if (t->in.dim[1] % h.head_dim != 0) {
        st = weir_fail(e, WEIR_EFORMAT, "tensor %.*s: %lld rows are no whole number of heads",
                       (int)t->in.name.len, t->in.name.data, (long long)t->in.dim[1]);
        goto out;
      }
    }
    if (h.norm_plus_one && ends_with(t->in.name, "norm.weight")) t->add = 1;
    k++;
  }
  for (int32_t layer = 0; h.n_experts > 0 && layer < h.n_layers; layer++)
    for (int i = 0; i < 3; i++) WEIR_TRY(stack(m, &h, layer, kinds[i], &all[k++], e));
  if (h.rope.kind == WEIR_ROPE_LLAMA3) WEIR_TRY(make_factors(&h, &all[k++], e));
  if (h.rope.kind == WEIR_ROPE_LONGROPE) {
    WEIR_TRY(make_table("rope_factors_long.weight", h.rope.long_table, h.rope_dims / 2, &all[k++], e));
    WEIR_TRY(make_table("rope_factors_short.weight", h.rope.table, h.rope_dims / 2, &all[k++], e));
  }
  *out = all;
  *n_out = k;
  all = NULL;
out:
  for (int64_t i = 0; all && i < k; i++) free(all[i].made);
  free(all);
  return st;
}

/* ---- keys ---- */

typedef struct keys {
  weir_gguf_writer *w;
  const char *arch;
  weir_status st; /* of the first that failed: the others are not tried */
  weir_err *e;
} keys;

static const char *key_of(const keys *k, const char *suffix, char buf[96]) {
  snprintf(buf, 96, "%s.%s", k->arch, suffix);
  return buf;
}

static void put_int(keys *k, const char *suffix, int32_t v) {
  char key[96];
  if (k->st == WEIR_OK) k->st = weir_gguf_writer_u32(k->w, key_of(k, suffix, key), (uint32_t)v, k->e);
}
static void put_float(keys *k, const char *suffix, float v) {
  char key[96];
  if (k->st == WEIR_OK) k->st = weir_gguf_writer_f32(k->w, key_of(k, suffix, key), v, k->e);
}
static void put_text(keys *k, const char *suffix, const char *v) {
  char key[96];
  if (k->st == WEIR_OK) k->st = weir_gguf_writer_str(k->w, key_of(k, suffix, key), weir_str_of(v), k->e);
}

static void put_rope(keys *k, const weir_hparams *h) {
  const weir_rope *r = &h->rope;
  put_int(k, "rope.dimension_count", h->rope_dims);
  put_float(k, "rope.freq_base", r->theta);
  if (h->window > 0 && h->arch == WEIR_ARCH_GEMMA3) put_float(k, "rope.freq_base_swa", h->rope_local.theta);
  if (r->kind == WEIR_ROPE_LINEAR || r->kind == WEIR_ROPE_YARN) {
    put_text(k, "rope.scaling.type", r->kind == WEIR_ROPE_YARN ? "yarn" : "linear");
    put_float(k, "rope.scaling.factor", r->factor);
  }
  if (r->kind == WEIR_ROPE_YARN || r->kind == WEIR_ROPE_LONGROPE)
    put_int(k, "rope.scaling.original_context_length", r->original_ctx);
  if (r->kind == WEIR_ROPE_YARN) {
    put_float(k, "rope.scaling.yarn_beta_fast", r->beta_fast);
    put_float(k, "rope.scaling.yarn_beta_slow", r->beta_slow);
  }
}

/* Phi-3's: readers do not work the factor for cos and sin out themselves. */
static weir_status put_longrope(keys *k, const weir_hparams *h, weir_err *e) {
  float freq[WEIR_MAX_ROPE_DIMS / 2], mscale;
  const weir_status st = weir_rope_frequencies(&h->rope, h->rope_dims, h->n_ctx, freq, &mscale, e);
  if (st == WEIR_OK) put_float(k, "rope.scaling.attn_factor", mscale);
  return st;
}

weir_status weir_quantize_hf_keys(const weir_mfile *m, weir_gguf_writer *w, weir_err *e) {
  weir_hparams h;
  weir_status st = weir_hparams_read(m, &h, e);
  if (st != WEIR_OK) return st;
  keys k = {w, weir_arch_name(h.arch), WEIR_OK, e};
  if ((st = weir_gguf_writer_str(w, "general.architecture", weir_str_of(k.arch), e)) != WEIR_OK ||
      (st = weir_gguf_writer_str(w, "general.type", weir_str_of("model"), e)) != WEIR_OK)
    return st;
  put_int(&k, "block_count", h.n_layers);
  put_int(&k, "context_length", h.n_ctx);
  put_int(&k, "embedding_length", h.dim);
  put_int(&k, "feed_forward_length", h.n_ff);
  put_int(&k, "attention.head_count", h.n_heads);
  put_int(&k, "attention.head_count_kv", h.n_kv_heads);
  put_int(&k, "attention.key_length", h.head_dim);
  put_int(&k, "attention.value_length", h.head_dim);
  put_float(&k, "attention.layer_norm_rms_epsilon", h.norm_eps);
  put_int(&k, "vocab_size", h.n_vocab);
  if (h.n_experts > 0) {
    put_int(&k, "expert_count", h.n_experts);
    put_int(&k, "expert_used_count", h.n_experts_used);
    put_int(&k, "expert_feed_forward_length", h.expert_ff);
  }
  if (h.window > 0) put_int(&k, "attention.sliding_window", h.window);
  if (h.attn_softcap != 0) put_float(&k, "attn_logit_softcapping", h.attn_softcap);
  if (h.final_softcap != 0) put_float(&k, "final_logit_softcapping", h.final_softcap);
  put_rope(&k, &h);
  if (h.rope.kind == WEIR_ROPE_LONGROPE && (st = put_longrope(&k, &h, e)) != WEIR_OK) return st;
  return k.st;
}
