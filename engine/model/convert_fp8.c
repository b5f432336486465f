/* SPDX-License-Identifier: Apache-2.0 */
/* FP8 e4m3 matrices with scales of the whole matrix, of rows or of blocks. Owns nothing; any thread.
 *
 * e4m3 (Micikevicius et al., arXiv 2209.05433): sign, four bits of exponent with bias 7, three of mantissa;
 * no infinities, S.1111.111 is NaN. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "model/convert.h"

static float e4m3(uint8_t code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  float f = exponent ? ldexpf((float)(8 + mantissa), exponent - 10) : ldexpf((float)mantissa, -9);
  if (exponent == 15 && mantissa == 7) f = NAN;
  return code & 0x80 ? -f : f;
}

/* Whether every finite code times the scale is a bfloat16. The product has at most 4 + 24 significant bits:
 * exact in double. */
static bool is_exact_bf16(float scale) {
  for (int code = 1; code < 127; code++) {
    const double product = (double)e4m3((uint8_t)code) * (double)scale;
    const float f = (float)product;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if ((double)f != product || (bits & 0xffff) != 0) return false;
  }
  return true;
}

static int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0); }

/* Which elements share a scale, by the shape of the scales. */
static weir_status place_scales(const weir_quant_conf *q, const weir_st_tensor *s, weir_convert *c,
                                weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  int64_t n = 1;
  for (int32_t d = 0; d < s->n_dims; d++) /* the reader has checked that the product fits */
    n *= s->dim[d];
  c->scale_rows = c->rows;
  c->scale_cols = c->cols;
  if (n == 1) return WEIR_OK;
  c->scale_rows = 1;
  if (n == c->rows && s->n_dims >= 1 && s->n_dims <= 2 && s->dim[0] == c->rows) return WEIR_OK;
  c->scale_rows = q->block_rows;
  c->scale_cols = q->block_cols;
  if (s->n_dims == 2 && s->dim[0] == ceil_div(c->rows, q->block_rows) &&
      s->dim[1] == ceil_div(c->cols, q->block_cols))
    return WEIR_OK;
  return weir_fail(e, WEIR_EFORMAT,
                   "tensor %s: [%" PRId64 ", %" PRId64 "] scales do not fit a matrix of [%" PRId64
                   ", %" PRId64 "] in blocks of [%" PRId64 ", %" PRId64 "]",
                   weir_str_show(s->name, shown), s->dim[0], s->dim[1], c->rows, c->cols, q->block_rows,
                   q->block_cols);
}

weir_status weir_convert_fp8_plan(const weir_quant_conf *q, const weir_st_tensor *w, const weir_st_tensor *s,
                                  weir_convert *out, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  if (w->n_dims != 2 || w->bytes == 0)
    return weir_fail(e, WEIR_EUNSUP, "tensor %s: F8_E4M3 in %" PRId32 " dimensions is not supported",
                     weir_str_show(w->name, shown), w->n_dims);
  if (!s)
    return weir_fail(e, WEIR_EFORMAT, "tensor %s: F8_E4M3 without scales", weir_str_show(w->name, shown));
  if (!weir_convert_is_scale(s) || s->bytes == 0)
    return weir_fail(e, WEIR_EUNSUP, "tensor %s: scales of %s are not supported",
                     weir_str_show(s->name, shown), weir_st_dtype_name(s->dtype));
  weir_convert c = {.method = WEIR_QUANT_FP8,
                    .dtype = WEIR_BF16,
                    .rows = w->dim[0],
                    .cols = w->dim[1],
                    .weight = w,
                    .scale = s};
  const weir_status st = place_scales(q, s, &c, e);
  if (st != WEIR_OK) return st;
  int64_t n = 1;
  for (int32_t d = 0; d < s->n_dims; d++) n *= s->dim[d];
  for (int64_t i = 0; i < n; i++) {
    const float scale = weir_convert_scale(s, i);
    if (!isfinite(scale))
      return weir_fail(e, WEIR_EFORMAT, "tensor %s: scale %" PRId64 " is not finite",
                       weir_str_show(s->name, shown), i);
    if (c.dtype == WEIR_BF16 && !is_exact_bf16(scale)) c.dtype = WEIR_F32;
  }
  *out = c;
  return WEIR_OK;
}

void weir_convert_fp8_run(const weir_convert *c, weir_convert_part p, void *dst) {
  float value[256];
  for (int i = 0; i < 256; i++) value[i] = e4m3((uint8_t)i);
  const int64_t per_row = ceil_div(c->cols, c->scale_cols), end = p.col + p.n_cols;
  for (int64_t r = 0; r < p.n_rows; r++) {
    const uint8_t *code = c->weight->data + (p.row + r) * c->cols;
    const int64_t to = r * p.n_cols - p.col; /* of column 0 */
    for (int64_t i = p.col; i < end;) {
      const int64_t b = i / c->scale_cols, next = (b + 1) * c->scale_cols;
      const float scale = weir_convert_scale(c->scale, (p.row + r) / c->scale_rows * per_row + b);
      for (; i < end && i < next; i++) {
        const float f = value[code[i]] * scale;
        if (c->dtype == WEIR_F32) {
          ((float *)dst)[to + i] = f;
        } else {
          uint32_t bits;
          memcpy(&bits, &f, sizeof bits);
          ((uint16_t *)dst)[to + i] = (uint16_t)(bits >> 16); /* the rest is zero, or a NaN's */
        }
      }
    }
  }
}
