/* SPDX-License-Identifier: Apache-2.0 */
/* config.json: typed access to its keys, and what it says about RoPE. Owns nothing; any thread.
 *
 * Two spellings are in use: rope_theta and rope_scaling side by side, and (transformers 5) all of it in
 * rope_parameters, which for Gemma 3 holds one object for each kind of layer. Precedence follows
 * transformers' modeling_rope_utils.py. */
#include "model/hparams_hf_in.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

/* ---- typed access ---- */

const json_t *weir_hf_conf_get(const weir_hf_conf *c, const char *key) {
  const json_t *v = json_object_get(c->object, key);
  return json_is_null(v) ? NULL : v;
}

static weir_status fail_type(const weir_hf_conf *c, const char *key, const char *want, weir_err *e) {
  return weir_fail(e, WEIR_EFORMAT, "key \"%s%s\": want %s", c->prefix, key, want);
}

weir_status weir_hf_conf_int(const weir_hf_conf *c, const char *key, int64_t def, int64_t lo, int64_t hi,
                             int32_t *out, weir_err *e) {
  const json_t *v = weir_hf_conf_get(c, key);
  if (v && !json_is_integer(v)) return fail_type(c, key, "an integer", e);
  const int64_t n = v ? json_integer_value(v) : def;
  if (n < lo || n > hi)
    return weir_fail(e, WEIR_EFORMAT, "key \"%s%s\": %" PRId64 " is not in %" PRId64 "..%" PRId64, c->prefix,
                     key, n, lo, hi);
  *out = (int32_t)n;
  return WEIR_OK;
}

weir_status weir_hf_conf_float(const weir_hf_conf *c, const char *key, double def, double lo, double hi,
                               float *out, weir_err *e) {
  const json_t *v = weir_hf_conf_get(c, key);
  *out = (float)def;
  if (!v) return WEIR_OK;
  if (!json_is_number(v)) return fail_type(c, key, "a number", e);
  const double x = json_number_value(v);
  if (!(x >= lo && x <= hi))
    return weir_fail(e, WEIR_EFORMAT, "key \"%s%s\": %g is not in %g..%g", c->prefix, key, x, lo, hi);
  *out = (float)x;
  return WEIR_OK;
}

weir_status weir_hf_conf_bool(const weir_hf_conf *c, const char *key, bool def, bool *out, weir_err *e) {
  const json_t *v = weir_hf_conf_get(c, key);
  *out = v ? json_is_true(v) : def;
  return v && !json_is_boolean(v) ? fail_type(c, key, "true or false", e) : WEIR_OK;
}

weir_status weir_hf_conf_text(const weir_hf_conf *c, const char *key, weir_str *out, weir_err *e) {
  const json_t *v = weir_hf_conf_get(c, key);
  *out = (weir_str){NULL, 0};
  if (!v) return WEIR_OK;
  if (!json_is_string(v)) return fail_type(c, key, "a string", e);
  *out = (weir_str){json_string_value(v), json_string_length(v)};
  return WEIR_OK;
}

/* ---- RoPE ---- */

/* What surrounds the object: defaults for what it does not say itself. */
typedef struct around {
  const weir_hf_conf *config;
  weir_arch arch;
  double theta;
  int32_t n_ctx, head_dim;
} around;

static weir_status read_table(const weir_hf_conf *c, const char *key, int32_t n, float *out, weir_err *e) {
  const json_t *v = weir_hf_conf_get(c, key);
  if (!json_is_array(v) || json_array_size(v) != (size_t)n)
    return weir_fail(e, WEIR_EFORMAT, "key \"%s%s\": want an array of %" PRId32 " numbers", c->prefix, key,
                     n);
  for (int32_t i = 0; i < n; i++) {
    const json_t *x = json_array_get(v, (size_t)i);
    const double f = json_number_value(x);
    if (!json_is_number(x) || !(f > 1e-30 && f < 1e30))
      return weir_fail(e, WEIR_EFORMAT, "key \"%s%s\": element %" PRId32 " is not a positive number",
                       c->prefix, key, i);
    out[i] = (float)f;
  }
  return WEIR_OK;
}

/* Phi-3 keeps it beside the object, and there it counts; the others in it. */
static weir_status read_original(const weir_hf_conf *c, const around *a, weir_rope *r, weir_err *e) {
  static const char key[] = "original_max_position_embeddings";
  weir_status st = WEIR_OK;
  int32_t beside;
  WEIR_TRY(weir_hf_conf_int(a->config, key, a->arch == WEIR_ARCH_PHI3 ? 4096 : a->n_ctx, 1, WEIR_MAX_CONTEXT,
                            &beside, e));
  WEIR_TRY(weir_hf_conf_int(c, key, beside, 1, WEIR_MAX_CONTEXT, &r->original_ctx, e));
  if (a->arch == WEIR_ARCH_PHI3) r->original_ctx = beside;
  if (weir_hf_conf_get(a->config, key) && r->original_ctx != beside)
    return weir_fail(e, WEIR_EFORMAT, "key \"%s\": %" PRId32 ", but \"%s%s\" says %" PRId32, key, beside,
                     c->prefix, key, r->original_ctx);
out:
  return st;
}

/* (0.1 m ln(factor) + 1): YaRN's attention factor for a factor above 1. */
static double yarn_mscale(double factor, double m) { return factor <= 1 ? 1 : 0.1 * m * log(factor) + 1; }

static weir_status read_yarn(const weir_hf_conf *c, weir_rope *r, weir_err *e) {
  weir_status st = WEIR_OK;
  float m, all;
  bool truncate;
  WEIR_TRY(weir_hf_conf_float(c, "beta_fast", 32, 1e-3, 1e6, &r->beta_fast, e));
  WEIR_TRY(weir_hf_conf_float(c, "beta_slow", 1, 1e-3, 1e6, &r->beta_slow, e));
  WEIR_TRY(weir_hf_conf_float(c, "mscale", 0, 0, 1e3, &m, e));
  WEIR_TRY(weir_hf_conf_float(c, "mscale_all_dim", 0, 0, 1e3, &all, e));
  WEIR_TRY(weir_hf_conf_bool(c, "truncate", true, &truncate, e));
  if (!truncate) return weir_fail(e, WEIR_EUNSUP, "key \"%struncate\": false is not supported", c->prefix);
  if (r->mscale == 0 && m != 0 && all != 0)
    r->mscale =
        (float)(yarn_mscale((double)r->factor, (double)m) / yarn_mscale((double)r->factor, (double)all));
out:
  return st;
}

static weir_status read_stretch(const weir_hf_conf *c, const around *a, int32_t dims, weir_rope *r,
                                weir_err *e) {
  weir_status st = WEIR_OK;
  const bool wants_original = r->kind != WEIR_ROPE_LINEAR;
  if (wants_original) WEIR_TRY(read_original(c, a, r, e));
  const double ratio = wants_original ? (double)a->n_ctx / r->original_ctx : 0;
  if (!weir_hf_conf_get(c, "factor") && r->kind != WEIR_ROPE_YARN && r->kind != WEIR_ROPE_LONGROPE)
    return weir_fail(e, WEIR_EFORMAT, "key \"%sfactor\" is missing", c->prefix);
  WEIR_TRY(weir_hf_conf_float(c, "factor", ratio, 1e-6, 1e6, &r->factor, e));
  if (r->kind == WEIR_ROPE_LLAMA3) {
    static const char *const needed[] = {"low_freq_factor", "high_freq_factor"};
    for (int i = 0; i < 2; i++)
      if (!weir_hf_conf_get(c, needed[i]))
        return weir_fail(e, WEIR_EFORMAT, "key \"%s%s\" is missing", c->prefix, needed[i]);
    WEIR_TRY(weir_hf_conf_float(c, "low_freq_factor", 0, 1e-6, 1e6, &r->low_freq, e));
    WEIR_TRY(weir_hf_conf_float(c, "high_freq_factor", 0, 1e-6, 1e6, &r->high_freq, e));
  }
  if (r->kind == WEIR_ROPE_YARN || r->kind == WEIR_ROPE_LONGROPE)
    WEIR_TRY(weir_hf_conf_float(c, "attention_factor", 0, 1e-6, 1e6, &r->mscale, e));
  if (r->kind == WEIR_ROPE_YARN) WEIR_TRY(read_yarn(c, r, e));
  if (r->kind == WEIR_ROPE_LONGROPE) {
    WEIR_TRY(read_table(c, "short_factor", dims / 2, r->table, e));
    WEIR_TRY(read_table(c, "long_factor", dims / 2, r->long_table, e));
  }
out:
  return st;
}

static weir_status read_kind(const weir_hf_conf *c, const around *a, weir_rope *r, weir_err *e) {
  static const struct {
    const char *name;
    weir_rope_kind kind;
  } kinds[] = {{"default", WEIR_ROPE_PLAIN}, {"linear", WEIR_ROPE_LINEAR},     {"llama3", WEIR_ROPE_LLAMA3},
               {"yarn", WEIR_ROPE_YARN},     {"longrope", WEIR_ROPE_LONGROPE}, {"su", WEIR_ROPE_LONGROPE}};
  char shown[WEIR_STR_SHOW_BYTES];
  weir_str name;
  const char *key = weir_hf_conf_get(c, "rope_type") ? "rope_type" : "type";
  const weir_status st = weir_hf_conf_text(c, key, &name, e);
  if (st != WEIR_OK) return st;
  r->kind = WEIR_ROPE_PLAIN;
  if (weir_hf_conf_get(c, "mrope_section"))
    return weir_fail(e, WEIR_EUNSUP, "key \"%smrope_section\": positions of several axes are not supported",
                     c->prefix);
  if (!name.data) return WEIR_OK;
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    if (!weir_str_eq(name, weir_str_of(kinds[i].name))) continue;
    r->kind = kinds[i].kind;
    /* transformers reads a Phi-3 of either older name as longrope */
    if (a->arch == WEIR_ARCH_PHI3 && r->kind == WEIR_ROPE_YARN) r->kind = WEIR_ROPE_LONGROPE;
    return WEIR_OK;
  }
  return weir_fail(
      e, WEIR_EUNSUP,
      "key \"%s%s\": RoPE scaling %s is not supported (known: default linear llama3 yarn longrope)",
      c->prefix, key, weir_str_show(name, shown));
}

/* `c` may hold no object at all: then what stands beside it decides. */
static weir_status read_rope(const weir_hf_conf *c, const around *a, int32_t *dims, weir_rope *r,
                             weir_err *e) {
  weir_status st = WEIR_OK;
  float part, inv_freq[WEIR_MAX_ROPE_DIMS / 2], mscale;
  *r = (weir_rope){0};
  WEIR_TRY(read_kind(c, a, r, e));
  WEIR_TRY(weir_hf_conf_float(a->config, "rope_theta", a->theta, 1, 1e30, &r->theta, e));
  WEIR_TRY(weir_hf_conf_float(c, "rope_theta", (double)r->theta, 1, 1e30, &r->theta, e));
  WEIR_TRY(weir_hf_conf_float(a->config, "partial_rotary_factor", 1, 1e-3, 1, &part, e));
  WEIR_TRY(weir_hf_conf_float(c, "partial_rotary_factor", (double)part, 1e-3, 1, &part, e));
  if (part != 1 && a->arch != WEIR_ARCH_PHI3)
    return weir_fail(e, WEIR_EUNSUP, "key \"%spartial_rotary_factor\": %g is not supported for %s", c->prefix,
                     (double)part, weir_arch_name(a->arch));
  *dims = (int32_t)((double)a->head_dim * (double)part);
  if (*dims < 2 || *dims % 2 != 0)
    return weir_fail(e, WEIR_EFORMAT, "RoPE over %" PRId32 " of %" PRId32 " elements of a head", *dims,
                     a->head_dim);
  if (r->kind != WEIR_ROPE_PLAIN) WEIR_TRY(read_stretch(c, a, *dims, r, e));
  /* what remains to be said against them is said there */
  weir_err inner = {0};
  if (weir_rope_frequencies(r, *dims, a->n_ctx, inv_freq, &mscale, &inner) != WEIR_OK)
    return weir_fail(e, WEIR_EFORMAT, "key \"%s%s\": %s", c->prefix, "rope_theta", inner.msg);
  for (int32_t i = 0; i < *dims / 2; i++)
    if (!isfinite(inv_freq[i]))
      return weir_fail(e, WEIR_EFORMAT, "key \"%s%s\": frequency %" PRId32 " is %g", c->prefix, "rope_theta",
                       i, (double)inv_freq[i]);
out:
  return st;
}

static weir_status object_of(const weir_hf_conf *c, const char *key, const json_t **out, weir_err *e) {
  *out = weir_hf_conf_get(c, key);
  return *out && !json_is_object(*out) ? fail_type(c, key, "an object", e) : WEIR_OK;
}

/* Layers of both kinds: rope_scaling is of the full ones alone, and the windowed ones have a base of their
 * own. */
static weir_status read_gemma3(const weir_hf_conf *c, const json_t *scaling, const json_t *params, around *a,
                               weir_hparams *h, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_hf_conf full = {scaling, "rope_scaling."}, local = {NULL, "rope_local_base_freq."};
  float theta;
  int32_t dims;
  const weir_hf_conf both = {params, "rope_parameters."};
  if (params) {
    WEIR_TRY(object_of(&both, "sliding_attention", &local.object, e));
    local.prefix = "rope_parameters.sliding_attention.";
    if (!scaling) {
      WEIR_TRY(object_of(&both, "full_attention", &full.object, e));
      full.prefix = "rope_parameters.full_attention.";
    } else if (weir_hf_conf_get(&both, "full_attention")) {
      return weir_fail(e, WEIR_EFORMAT, "keys \"rope_scaling\" and \"rope_parameters\" both speak of RoPE");
    }
    if (weir_hf_conf_get(&both, "rope_type") || weir_hf_conf_get(&both, "rope_theta"))
      return weir_fail(
          e, WEIR_EFORMAT,
          "key \"rope_parameters\": want an object for each of full_attention and sliding_attention");
  }
  WEIR_TRY(read_rope(&full, a, &h->rope_dims, &h->rope, e));
  WEIR_TRY(weir_hf_conf_float(c, "rope_local_base_freq", 1e4, 1, 1e30, &theta, e));
  /* nothing beside the object of the windowed layers is theirs */
  const weir_hf_conf none = {NULL, ""};
  const around windowed = {&none, a->arch, (double)theta, a->n_ctx, a->head_dim};
  WEIR_TRY(read_rope(&local, &windowed, &dims, &h->rope_local, e));
out:
  return st;
}

weir_status weir_hf_conf_rope(const weir_hf_conf *c, weir_arch arch, double default_theta, weir_hparams *h,
                              weir_err *e) {
  weir_status st = WEIR_OK;
  around a = {c, arch, default_theta, h->n_ctx, h->head_dim};
  const json_t *scaling, *params;
  WEIR_TRY(object_of(c, "rope_scaling", &scaling, e));
  WEIR_TRY(object_of(c, "rope_parameters", &params, e));
  if (json_object_size(scaling) == 0) scaling = NULL;
  if (arch == WEIR_ARCH_GEMMA3) return read_gemma3(c, scaling, params, &a, h, e);
  weir_hf_conf r = {scaling ? scaling : params, scaling ? "rope_scaling." : params ? "rope_parameters." : ""};
  if (weir_hf_conf_get(&r, "full_attention") || weir_hf_conf_get(&r, "sliding_attention"))
    return weir_fail(e, WEIR_EUNSUP,
                     "key \"%sfull_attention\": RoPE by kind of layer is not supported for %s", r.prefix,
                     weir_arch_name(arch));
  WEIR_TRY(read_rope(&r, &a, &h->rope_dims, &h->rope, e));
  h->rope_local = h->rope;
out:
  return st;
}
