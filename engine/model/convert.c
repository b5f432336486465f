/* SPDX-License-Identifier: Apache-2.0 */
/* Conversion of quantised modules: what a directory says about them, and the choice of the kind. Owns
 * nothing; any thread. */
#include "model/convert.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"
#include "kernels/quant.h"
#include "model/hparams_hf_in.h"
#include "model/json.h"

/* ---- quantization_config ---- */

static bool is_one_of(weir_str s, const char *const *names, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (s.len == strlen(names[i]) && strncasecmp(s.data, names[i], s.len) == 0) return true;
  return false;
}
#define ONE_OF(s, ...)                             \
  is_one_of(s, (const char *const[]){__VA_ARGS__}, \
            sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

/* A text that must be one of a few when it is there at all. */
static weir_status want_text(const weir_hf_conf *c, const char *key, const char *const *names, size_t n,
                             weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  weir_str s;
  const weir_status st = weir_hf_conf_text(c, key, &s, e);
  if (st != WEIR_OK || !s.data || is_one_of(s, names, n)) return st;
  return weir_fail(e, WEIR_EUNSUP, "key \"%s%s\": %s is not supported", c->prefix, key,
                   weir_str_show(s, shown));
}

/* Four bits in groups; either spelling of the keys. */
static weir_status read_int4(const weir_hf_conf *c, weir_quant_conf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  const char *bits_key = weir_hf_conf_get(c, "w_bit") ? "w_bit" : "bits",
             *group_key = weir_hf_conf_get(c, "q_group_size") ? "q_group_size" : "group_size";
  int32_t bits, group;
  WEIR_TRY(weir_hf_conf_int(c, bits_key, 4, 1, 64, &bits, e));
  if (bits != 4)
    return weir_fail(e, WEIR_EUNSUP, "key \"%s%s\": %" PRId32 " bits are not supported (only 4)", c->prefix,
                     bits_key, bits);
  WEIR_TRY(weir_hf_conf_int(c, group_key, 128, -1, WEIR_MAX_FF, &group, e));
  out->group_size = group > 0 ? group : 0;
out:
  return st;
}

static weir_status read_gptq(const weir_hf_conf *c, weir_quant_conf *out, weir_err *e) {
  static const char *const formats[] = {"gptq", "gptq_v2"}, *const words[] = {"int32"};
  weir_status st = WEIR_OK;
  weir_str format;
  const char *key = weir_hf_conf_get(c, "checkpoint_format") ? "checkpoint_format" : "format";
  WEIR_TRY(want_text(c, key, formats, 2, e));
  WEIR_TRY(want_text(c, "pack_dtype", words, 1, e));
  WEIR_TRY(weir_hf_conf_text(c, key, &format, e));
  out->method = format.data && ONE_OF(format, "gptq_v2") ? WEIR_QUANT_GPTQ_V2 : WEIR_QUANT_GPTQ;
  if (json_object_size(weir_hf_conf_get(c, "dynamic")) > 0)
    return weir_fail(e, WEIR_EUNSUP, "key \"%sdynamic\": settings by module are not supported", c->prefix);
  WEIR_TRY(read_int4(c, out, e));
out:
  return st;
}

static weir_status read_awq(const weir_hf_conf *c, weir_quant_conf *out, weir_err *e) {
  static const char *const versions[] = {"gemm"};
  weir_status st = WEIR_OK;
  bool zero_point;
  out->method = WEIR_QUANT_AWQ;
  WEIR_TRY(want_text(c, "version", versions, 1, e));
  WEIR_TRY(want_text(c, "format", versions, 1, e));
  WEIR_TRY(weir_hf_conf_bool(c, "zero_point", true, &zero_point, e));
  if (!zero_point)
    return weir_fail(e, WEIR_EUNSUP, "key \"%szero_point\": false is not supported", c->prefix);
  WEIR_TRY(read_int4(c, out, e));
out:
  return st;
}

/* [rows, columns] of a block under one scale. */
static weir_status read_block(const weir_hf_conf *c, const char *key, weir_quant_conf *out, weir_err *e) {
  const json_t *v = weir_hf_conf_get(c, key);
  if (!v) return WEIR_OK;
  for (size_t i = 0; i < 2; i++) {
    const json_t *x = json_array_get(v, i);
    if (json_array_size(v) != 2 || !json_is_integer(x) || json_integer_value(x) < 1 ||
        json_integer_value(x) > WEIR_MAX_FF)
      return weir_fail(e, WEIR_EFORMAT, "key \"%s%s\": want two positive integers", c->prefix, key);
    *(i ? &out->block_cols : &out->block_rows) = json_integer_value(x);
  }
  return WEIR_OK;
}

static weir_status read_fp8(const weir_hf_conf *c, weir_quant_conf *out, weir_err *e) {
  static const char *const formats[] = {"e4m3", "float8_e4m3fn"};
  out->method = WEIR_QUANT_FP8;
  const weir_status st = want_text(c, "fmt", formats, 2, e);
  return st == WEIR_OK ? read_block(c, "weight_block_size", out, e) : st;
}

static weir_status read_compressed(const weir_hf_conf *c, weir_quant_conf *out, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  weir_status st = WEIR_OK;
  weir_str format;
  WEIR_TRY(weir_hf_conf_text(c, "format", &format, e));
  if (json_object_size(weir_hf_conf_get(c, "transform_config")) > 0)
    return weir_fail(e, WEIR_EUNSUP, "key \"%stransform_config\": transforms are not supported", c->prefix);
  if (format.data && ONE_OF(format, "pack-quantized"))
    out->method = WEIR_QUANT_PACKED;
  else if (format.data && ONE_OF(format, "float-quantized", "naive-quantized"))
    out->method = WEIR_QUANT_FP8;
  else
    return weir_fail(e, WEIR_EUNSUP,
                     "key \"%sformat\": %s is not supported (known: float-quantized pack-quantized)",
                     c->prefix, weir_str_show(format, shown));
  const json_t *groups = weir_hf_conf_get(c, "config_groups"), *group;
  const char *name;
  json_object_foreach((json_t *)(uintptr_t)groups, name, group) {
    const weir_hf_conf weights = {json_object_get(group, "weights"),
                                  "quantization_config.config_groups.weights."};
    WEIR_TRY(read_block(&weights, "block_structure", out, e));
  }
out:
  return st;
}

static weir_status read_modelopt(const weir_hf_conf *c, weir_quant_conf *out, weir_err *e) {
  static const char *const algorithms[] = {"FP8"};
  out->method = WEIR_QUANT_FP8;
  return want_text(c, "quant_algo", algorithms, 1, e);
}

static weir_status read_method(const json_t *q, const char *prefix, weir_str method, weir_quant_conf *out,
                               weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  const weir_hf_conf c = {q, prefix};
  if (!method.data) {
    const weir_status st = weir_hf_conf_text(&c, "quant_method", &method, e);
    if (st != WEIR_OK) return st;
  }
  if (method.data && ONE_OF(method, "gptq")) return read_gptq(&c, out, e);
  if (method.data && ONE_OF(method, "awq")) return read_awq(&c, out, e);
  if (method.data && ONE_OF(method, "fp8", "fbgemm_fp8")) return read_fp8(&c, out, e);
  if (method.data && ONE_OF(method, "compressed-tensors")) return read_compressed(&c, out, e);
  if (method.data && ONE_OF(method, "modelopt")) return read_modelopt(&c, out, e);
  return weir_fail(e, WEIR_EUNSUP,
                   "key \"%squant_method\": %s is not supported (known: fp8 fbgemm_fp8 gptq awq "
                   "compressed-tensors modelopt)",
                   prefix, weir_str_show(method, shown));
}

/* Before transformers knew of them, GPTQ and AWQ kept this in files of their own. */
static weir_status read_old_file(const weir_hf *hf, weir_quant_conf *out, weir_err *e) {
  static const struct {
    const char *file, *method;
  } old[] = {{"quantize_config.json", "gptq"}, {"quant_config.json", "awq"}};
  for (size_t i = 0; i < sizeof old / sizeof *old; i++) {
    const weir_str text = weir_hf_file(hf, old[i].file);
    json_t *q;
    if (!text.data) continue;
    weir_status st = weir_json_parse_object(text, &q, e);
    if (st == WEIR_OK) st = read_method(q, "", weir_str_of(old[i].method), out, e);
    json_decref(q);
    return st == WEIR_OK ? st : weir_fail_ctx(e, st, "%s", old[i].file);
  }
  return WEIR_OK;
}

weir_status weir_quant_conf_read(const weir_hf *hf, weir_quant_conf *out, weir_err *e) {
  *out = (weir_quant_conf){.method = WEIR_QUANT_NONE, .block_rows = 128, .block_cols = 128};
  const json_t *q = json_object_get(weir_hf_config(hf), "quantization_config");
  if (!q || json_is_null(q)) return read_old_file(hf, out, e);
  if (!json_is_object(q))
    return weir_fail(e, WEIR_EFORMAT, "config.json: key \"quantization_config\": want an object");
  const weir_status st = read_method(q, "quantization_config.", (weir_str){NULL, 0}, out, e);
  return st == WEIR_OK ? st : weir_fail_ctx(e, st, "config.json");
}

/* ---- elements ---- */

bool weir_convert_is_scale(const weir_st_tensor *t) {
  return t->dtype == WEIR_ST_F16 || t->dtype == WEIR_ST_BF16 || t->dtype == WEIR_ST_F32 ||
         t->dtype == WEIR_ST_F8_E8M0;
}

/* A finite half's bits, put where a float has them, are off by the difference of the biases, 2^112; also
 * those of subnormals. */
static float half_value(uint16_t h) {
  if ((h & 0x7c00) == 0x7c00) return weir_f16_to_f32(h);
  const uint32_t bits = (uint32_t)(h & 0x7fff) << 13;
  float f;
  memcpy(&f, &bits, sizeof f);
  return (h & 0x8000 ? -0x1p112f : 0x1p112f) * f;
}

float weir_convert_scale(const weir_st_tensor *t, int64_t i) {
  uint16_t half;
  float f;
  if (t->dtype == WEIR_ST_F32) {
    memcpy(&f, t->data + 4 * i, sizeof f);
    return f;
  }
  if (t->dtype == WEIR_ST_F8_E8M0) /* an exponent alone; 255 is NaN (OCP microscaling formats, 5.4.1) */
    return t->data[i] == 255 ? NAN : ldexpf(1.0f, t->data[i] - 127);
  memcpy(&half, t->data + 2 * i, sizeof half);
  return t->dtype == WEIR_ST_F16 ? half_value(half) : weir_bf16_to_f32(half);
}

uint32_t weir_convert_word(const weir_st_tensor *t, int64_t i) {
  uint32_t w;
  memcpy(&w, t->data + 4 * i, sizeof w);
  return w;
}

/* ---- the choice ---- */

/* Tensors that go with a form the module does not have. */
static weir_status refuse_strays(const weir_st_tensor *const p[WEIR_HF_PARAM_COUNT],
                                 const weir_hf_param *of_form, size_t n, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  for (int i = 0; i < WEIR_HF_PARAM_COUNT; i++) {
    bool fine = !p[i] || i == WEIR_HF_BIAS;
    for (size_t k = 0; k < n; k++) fine = fine || i == (int)of_form[k];
    if (!fine)
      return weir_fail(e, WEIR_EFORMAT, "tensor %s: does not go with the other tensors of its module",
                       weir_str_show(p[i]->name, shown));
  }
  return WEIR_OK;
}
#define STRAYS(p, ...)                                   \
  refuse_strays(p, (const weir_hf_param[]){__VA_ARGS__}, \
                sizeof((const weir_hf_param[]){__VA_ARGS__}) / sizeof(weir_hf_param), e)

weir_status weir_convert_plan(const weir_quant_conf *q, const weir_st_tensor *const p[WEIR_HF_PARAM_COUNT],
                              weir_convert *out, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  weir_status st = WEIR_OK;
  const weir_st_tensor *w = p[WEIR_HF_WEIGHT],
                       *packed = p[WEIR_HF_QWEIGHT] ? p[WEIR_HF_QWEIGHT] : p[WEIR_HF_PACKED];
  *out = (weir_convert){.method = WEIR_QUANT_NONE};
  if (packed) {
    const bool fits = p[WEIR_HF_QWEIGHT] ? q->method == WEIR_QUANT_GPTQ || q->method == WEIR_QUANT_GPTQ_V2 ||
                                               q->method == WEIR_QUANT_AWQ
                                         : q->method == WEIR_QUANT_PACKED;
    if (!fits)
      return weir_fail(e, WEIR_EFORMAT, "tensor %s: quantised, but config.json does not say how",
                       weir_str_show(packed->name, shown));
    if (p[WEIR_HF_QWEIGHT])
      WEIR_TRY(STRAYS(p, WEIR_HF_QWEIGHT, WEIR_HF_QZEROS, WEIR_HF_SCALES, WEIR_HF_G_IDX));
    else
      WEIR_TRY(
          STRAYS(p, WEIR_HF_PACKED, WEIR_HF_SHAPE, WEIR_HF_SCALE, WEIR_HF_ZERO_POINT, WEIR_HF_WEIGHT_G_IDX));
    return weir_convert_int4_plan(q, p, out, e);
  }
  if (w && w->dtype == WEIR_ST_F8_E4M3) {
    const weir_st_tensor *scale = p[WEIR_HF_SCALE] ? p[WEIR_HF_SCALE] : p[WEIR_HF_SCALE_INV];
    WEIR_TRY(STRAYS(p, WEIR_HF_WEIGHT, p[WEIR_HF_SCALE] ? WEIR_HF_SCALE : WEIR_HF_SCALE_INV));
    return weir_convert_fp8_plan(q, w, scale, out, e);
  }
  WEIR_TRY(STRAYS(p, WEIR_HF_WEIGHT));
out:
  return st;
}

void weir_convert_run(const weir_convert *c, weir_convert_part p, void *dst) {
  if (c->method == WEIR_QUANT_FP8)
    weir_convert_fp8_run(c, p, dst);
  else if (c->method != WEIR_QUANT_NONE)
    weir_convert_int4_run(c, p, dst);
}
