/* SPDX-License-Identifier: Apache-2.0 */
/* Rotary position embedding as a GGUF file describes it: keys rope.*, and tensors of frequency factors. Owns
 * nothing; reads an open weir_gguf; any thread.
 *
 * Names: ggml's docs/gguf.md and gguf-py's constants. Llama 3.1's way of stretching is not described by keys:
 * the converter works it out into one factor a frequency, rope_freqs.weight. */
#include <inttypes.h>
#include <math.h>
#include <stddef.h>

#include "kernels/quant.h"
#include "model/hparams_gguf_in.h"

/* One factor a rotated pair. */
static weir_status read_factors(const weir_gguf *g, const char *name, int32_t rope_dims, float *out,
                                weir_err *e) {
  const weir_gguf_tensor *t = weir_gguf_find(g, name);
  const int32_t n = rope_dims / 2;
  if (!t) return weir_fail(e, WEIR_EFORMAT, "tensor \"%s\" is missing", name);
  if (t->dim[0] != n || t->dim[1] != 1 || t->dim[2] != 1 || t->dim[3] != 1)
    return weir_fail(e, WEIR_EFORMAT,
                     "tensor \"%s\": want %" PRId32 " factors, file has [%" PRId64 ",%" PRId64 "] in %" PRId32
                     " dimensions",
                     name, n, t->dim[0], t->dim[1], t->n_dims);
  const weir_status st = weir_dequantize_row(t->dtype, t->data, out, n, e);
  return st == WEIR_OK ? st : weir_fail_ctx(e, st, "tensor \"%s\"", name);
}

/* Keys of YaRN that only some files have. */
static weir_status read_yarn(const weir_hparams_src *s, weir_rope *r, weir_err *e) {
  char key[WEIR_HPARAMS_KEY_BYTES];
  weir_status st = WEIR_OK;
  float ext, log_mul, attn, said;
  WEIR_TRY(weir_hparams_float(s, "rope.scaling.yarn_beta_fast", 32.0f, &r->beta_fast, e));
  WEIR_TRY(weir_hparams_float(s, "rope.scaling.yarn_beta_slow", 1.0f, &r->beta_slow, e));
  WEIR_TRY(weir_hparams_float(s, "rope.scaling.yarn_ext_factor", 1.0f, &ext, e));
  if (ext != 1.0f && ext != -1.0f) /* -1: as the method has it */
    return weir_fail(e, WEIR_EUNSUP, "key \"%s\": %g is not supported (only 1)",
                     weir_hparams_key(s, "rope.scaling.yarn_ext_factor", key), (double)ext);
  WEIR_TRY(weir_hparams_float(s, "rope.scaling.yarn_log_multiplier", 0.0f, &log_mul, e));
  if (log_mul != 0.0f)
    return weir_fail(e, WEIR_EUNSUP, "key \"%s\": %g is not supported (only 0)",
                     weir_hparams_key(s, "rope.scaling.yarn_log_multiplier", key), (double)log_mul);
  /* attn_factor multiplies what the method prescribes. yarn_attn_factor means that for some writers and the
   * whole factor for others: taken only where it says nothing new. */
  const float prescribed = r->factor > 1.0f ? (float)(0.1 * log((double)r->factor) + 1.0) : 1.0f;
  WEIR_TRY(weir_hparams_float(s, "rope.scaling.attn_factor", 1.0f, &attn, e));
  WEIR_TRY(weir_hparams_float(s, "rope.scaling.yarn_attn_factor", prescribed, &said, e));
  if (!(fabsf(said - prescribed) <= 1e-4f))
    return weir_fail(e, WEIR_EUNSUP, "key \"%s\": %g is not supported (only %g, which is YaRN's own)",
                     weir_hparams_key(s, "rope.scaling.yarn_attn_factor", key), (double)said,
                     (double)prescribed);
  r->mscale = attn == 1.0f ? 0.0f : prescribed * attn;
out:
  return st;
}

static weir_status read_longrope(const weir_hparams_src *s, int32_t n_ctx, int32_t rope_dims, weir_rope *r,
                                 weir_err *e) {
  char key[WEIR_HPARAMS_KEY_BYTES];
  weir_status st = WEIR_OK;
  WEIR_TRY(read_factors(s->gguf, "rope_factors_short.weight", rope_dims, r->table, e));
  WEIR_TRY(read_factors(s->gguf, "rope_factors_long.weight", rope_dims, r->long_table, e));
  WEIR_TRY(weir_hparams_int(s, "rope.scaling.original_context_length", WEIR_HPARAMS_REQUIRED, 2,
                            WEIR_MAX_CONTEXT, &r->original_ctx, e));
  r->kind = WEIR_ROPE_LONGROPE;
  r->factor = (float)n_ctx / (float)r->original_ctx;
  WEIR_TRY(weir_hparams_float(s, "rope.scaling.attn_factor", 0.0f, &r->mscale, e));
  if (r->mscale < 0.0f)
    return weir_fail(e, WEIR_EFORMAT, "key \"%s\": %g is negative",
                     weir_hparams_key(s, "rope.scaling.attn_factor", key), (double)r->mscale);
out:
  return st;
}

/* What the keys call for: PLAIN, LINEAR or YARN; LONGROPE is left to the tensors. */
static weir_status read_scaling(const weir_hparams_src *s, int32_t n_ctx, weir_rope *r, bool *longrope,
                                weir_err *e) {
  char key[WEIR_HPARAMS_KEY_BYTES], shown[WEIR_STR_SHOW_BYTES];
  weir_status st = WEIR_OK;
  weir_str type;
  float old_factor;
  *longrope = false;
  WEIR_TRY(weir_hparams_float(s, "rope.scale_linear", 1.0f, &old_factor, e)); /* the key's name until 2023 */
  WEIR_TRY(weir_hparams_float(s, "rope.scaling.factor", old_factor, &r->factor, e));
  WEIR_TRY(weir_gguf_str(s->gguf, weir_hparams_key(s, "rope.scaling.type", key), &type, e));
  if (type.data && weir_str_eq(type, weir_str_of("none"))) return WEIR_OK;
  if (type.data && weir_str_eq(type, weir_str_of("longrope"))) {
    *longrope = true;
    return WEIR_OK;
  }
  if (!(r->factor >= 0.0f))
    return weir_fail(e, WEIR_EFORMAT, "key \"%s\": %g is negative",
                     weir_hparams_key(s, "rope.scaling.factor", key), (double)r->factor);
  if (r->factor == 0.0f) r->factor = 1.0f; /* as converters write "no factor" */
  if (!type.data || weir_str_eq(type, weir_str_of("linear"))) {
    if (r->factor != 1.0f) r->kind = WEIR_ROPE_LINEAR;
    return WEIR_OK;
  }
  if (!weir_str_eq(type, weir_str_of("yarn")))
    return weir_fail(e, WEIR_EUNSUP,
                     "key \"%s\": RoPE scaling %s is not supported (known: none linear yarn longrope)", key,
                     weir_str_show(type, shown));
  r->kind = WEIR_ROPE_YARN;
  WEIR_TRY(weir_hparams_int(s, "rope.scaling.original_context_length", n_ctx, 2, WEIR_MAX_CONTEXT,
                            &r->original_ctx, e));
  WEIR_TRY(read_yarn(s, r, e));
out:
  return st;
}

/* Windowed layers of Gemma 3 turn at a pace of their own, never stretched. */
static weir_status read_local(const weir_hparams_src *s, weir_hparams *h, weir_err *e) {
  char key[WEIR_HPARAMS_KEY_BYTES];
  h->rope_local = h->rope;
  if (h->arch == WEIR_ARCH_GEMMA3) h->rope_local = (weir_rope){.kind = WEIR_ROPE_PLAIN, .theta = 10000.0f};
  const weir_status st =
      weir_hparams_float(s, "rope.freq_base_swa", h->rope_local.theta, &h->rope_local.theta, e);
  if (st != WEIR_OK) return st;
  return h->rope_local.theta >= 1.0f
             ? WEIR_OK
             : weir_fail(e, WEIR_EFORMAT, "key \"%s\": %g is below 1",
                         weir_hparams_key(s, "rope.freq_base_swa", key), (double)h->rope_local.theta);
}

weir_status weir_hparams_rope(const weir_hparams_src *s, weir_hparams *h, weir_err *e) {
  char key[WEIR_HPARAMS_KEY_BYTES];
  float inv_freq[WEIR_MAX_ROPE_DIMS / 2], mscale;
  weir_status st = WEIR_OK;
  weir_rope *r = &h->rope;
  bool longrope;
  *r = (weir_rope){.kind = WEIR_ROPE_PLAIN};
  WEIR_TRY(weir_hparams_float(s, "rope.freq_base", 10000.0f, &r->theta, e));
  if (!(r->theta >= 1.0f))
    return weir_fail(e, WEIR_EFORMAT, "key \"%s\": %g is below 1", weir_hparams_key(s, "rope.freq_base", key),
                     (double)r->theta);
  WEIR_TRY(read_scaling(s, h->n_ctx, r, &longrope, e));
  const bool factors = weir_gguf_find(s->gguf, "rope_freqs.weight") != NULL;
  longrope |= weir_gguf_find(s->gguf, "rope_factors_long.weight") ||
              weir_gguf_find(s->gguf, "rope_factors_short.weight");
  if (factors + longrope + (r->kind != WEIR_ROPE_PLAIN) > 1)
    return weir_fail(e, WEIR_EUNSUP,
                     "RoPE: more than one of rope.scaling.type, rope_freqs.weight and "
                     "rope_factors_long.weight at a time is not supported");
  if (factors) {
    r->kind = WEIR_ROPE_FACTORS;
    WEIR_TRY(read_factors(s->gguf, "rope_freqs.weight", h->rope_dims, r->table, e));
  }
  if (longrope) WEIR_TRY(read_longrope(s, h->n_ctx, h->rope_dims, r, e));
  if (r->kind != WEIR_ROPE_YARN && r->kind != WEIR_ROPE_LONGROPE) {
    WEIR_TRY(weir_hparams_float(s, "rope.scaling.attn_factor", 1.0f, &mscale, e));
    if (mscale != 1.0f)
      return weir_fail(e, WEIR_EUNSUP, "key \"%s\": %g is not supported without YaRN or LongRoPE",
                       weir_hparams_key(s, "rope.scaling.attn_factor", key), (double)mscale);
  }
  WEIR_TRY(read_local(s, h, e));
  WEIR_TRY(weir_rope_frequencies(&h->rope, h->rope_dims, h->n_ctx, inv_freq, &mscale, e));
  WEIR_TRY(weir_rope_frequencies(&h->rope_local, h->rope_dims, h->n_ctx, inv_freq, &mscale, e));
out:
  return st;
}
