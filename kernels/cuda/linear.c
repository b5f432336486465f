/* SPDX-License-Identifier: Apache-2.0 */
/* y = x W^T + bias: which way each segment of a weight goes, and where in scratch its helpers lie. Owns
 * nothing; enqueues; the thread that owns the device.
 *
 *   quantised, n <= 64    the tensor-core matmul, which converts x itself for n <= 8, else reads panels
 *   quantised, beyond     a block of rows as BF16, then cuBLASLt, and the next block
 *   dense, n <= 8         a kernel that reads each weight once
 *   dense, beyond         cuBLASLt; where it has nothing for a shape, the kernel in groups of eight rows
 *
 * A row's result is the same bits for every n within one of our own ways; cuBLASLt's algorithm, and with it
 * the order of a sum, may change with n. */
#include "kernels/cuda/cast_kernels.h"
#include "kernels/cuda/dense.h"
#include "kernels/cuda/dense_gemv_kernels.h"
#include "kernels/cuda/dequant_kernels.h"
#include "kernels/cuda/matmul_kernels.h"

enum {
  /* Of quantised weights: to here they are unpacked in the matmul, beyond that as BF16 in scratch first. At
     64 rows the matmul is bound by tensor cores and shared memory; cuBLASLt must earn back 4.5 bytes of
     traffic per weight (2 written, 2 read, 0.5) against 0.5. To be measured. */
  DEQUANT_FROM = WEIR_MM_MAX_ROWS + 1,
  /* BF16 rows unpacked at a time: they stay in L2 where that is large, and are few launches where not. */
  DEQUANT_BYTES = 64 << 20,
  ALIGN = 256
};

static size_t padded(size_t bytes) { return (bytes + ALIGN - 1) / ALIGN * ALIGN; }

static int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }
static int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }

/* Row stride of x as a 16-bit matrix: rows start on 16 bytes, which cuBLASLt's fast kernels want. */
static int32_t cast_ld(int32_t cols) { return (cols + 7) / 8 * 8; }

/* Rows of W in a dequantised block: whole tiles, one at least. */
static int32_t dequant_rows(int32_t cols) {
  const int32_t rows =
      (int32_t)((size_t)DEQUANT_BYTES / ((size_t)cols * 2)) / WEIR_PACK_ROWS * WEIR_PACK_ROWS;
  return larger(rows, WEIR_PACK_ROWS);
}

/* Scratch is cut the same way for all shapes within limits. Only one way is taken at a time:
 * [panels][partial sums], or [workspace][x as 16 bits][scales of its rows][block of W]. */
static size_t panel_bytes(int32_t cols, int32_t n) {
  return padded((size_t)weir_mm_chunks(cols) * (size_t)weir_mm_panel_rows(n) * WEIR_PANEL_ROW_BYTES);
}

/* For this and every smaller width: a narrower weight's whole tiles may fill more of DEQUANT_BYTES. */
static size_t block_bytes_most(int32_t cols) {
  const size_t tile = padded((size_t)WEIR_PACK_ROWS * (size_t)cols * 2);
  return tile > DEQUANT_BYTES ? tile : DEQUANT_BYTES;
}

/* Several blocks add up only where a power of two below left fewer than 12 warps an SM: so there are fewer
 * than 24 row tiles times slices. */
static size_t partial_bytes_most(const weir_cuda *cu) {
  return (size_t)24 * (size_t)cu->n_sms * WEIR_MM_MAX_ROWS * WEIR_PACK_ROWS * sizeof(float);
}

size_t weir_cuda_linear_scratch(const weir_cuda *cu, const weir_dev_limits *lim) {
  const int32_t rows = larger(lim->max_tokens, lim->max_rows_out);
  const int32_t cols = larger(lim->max_cols, 1);
  const size_t few = panel_bytes(cols, smaller(larger(rows, 1), WEIR_MM_MAX_ROWS)) + partial_bytes_most(cu);
  size_t x,
      many = WEIR_DENSE_WORKSPACE + padded((size_t)larger(rows, 1) * sizeof(float)) + block_bytes_most(cols);
  if (__builtin_mul_overflow((size_t)larger(rows, 1), (size_t)cast_ld(cols) * 2, &x)) return SIZE_MAX;
  if (__builtin_add_overflow(many, padded(x), &many) || many < x) return SIZE_MAX;
  return few > many ? few : many;
}

static bool rows_aligned(const float *x, int32_t ld) { return (uintptr_t)x % 16 == 0 && ld % 4 == 0; }

/* ---- quantised, few rows ---- */

/* As many rows as the shared memory of this GPU allows, and no more than there are. */
static int32_t group_rows(const weir_cuda *cu, weir_dtype t, int32_t n) {
  while (n > WEIR_MM_SELF_ROWS && weir_cuk_matmul_smem(t, n) > cu->max_smem) n = weir_mm_panel_rows(n) / 2;
  return n;
}

static weir_status make_panels(weir_dev *dev, weir_mat x, weir_err *e) {
  weir_cuda *cu = weir_cuda_of(dev);
  const weir_cuk_panels_args p = {.x = x.data,
                                  .panel = cu->scratch,
                                  .x_ld = x.ld,
                                  .n = x.rows,
                                  .cols = x.cols,
                                  .panel_rows = weir_mm_panel_rows(x.rows),
                                  .x_aligned = rows_aligned(x.data, x.ld)};
  return weir_cuda_check(dev, weir_cuk_panels(&p, cu->stream), "launch linear's panels", e);
}

/* Rows of y and x that one launch takes; x lies in panels of as many rows when there are more than eight. */
static weir_status matmul_group(weir_dev *dev, weir_mat y, weir_mat x, const weir_segment *s,
                                const float *bias, weir_err *e) {
  weir_cuda *cu = weir_cuda_of(dev);
  const bool self = x.rows <= WEIR_MM_SELF_ROWS;
  char *partial = (char *)cu->scratch + panel_bytes(x.cols, x.rows);
  weir_cuk_matmul_args m = {.w = *s,
                            .y = y.data + s->first,
                            .bias = bias ? bias + s->first : NULL,
                            .x = self ? x.data : NULL,
                            .panel = self ? NULL : cu->scratch,
                            .x_ld = x.ld,
                            .y_ld = y.ld,
                            .n = x.rows,
                            .x_aligned = rows_aligned(x.data, x.ld),
                            .slices = weir_mm_slices(s->n_rtiles, s->cols, cu->n_sms),
                            .partial = (float *)(void *)partial,
                            .ticket = weir_cuda_dense_tickets(cu->dense)};
  return weir_cuda_check(dev, weir_cuk_matmul(&m, cu->stream), "launch linear", e);
}

static weir_status quant_few(weir_dev *dev, weir_mat y, weir_mat x, const weir_cuda_weight *w,
                             const float *bias, weir_err *e) {
  const weir_cuda *cu = weir_cuda_of(dev);
  weir_status st = WEIR_OK;
  int32_t group = x.rows;
  bool any = false;
  for (int32_t i = 0; i < w->n_segments; i++)
    if (weir_dtype_is_quant(w->segment[i].dtype)) {
      group = smaller(group, group_rows(cu, w->segment[i].dtype, x.rows));
      any = true;
    }
  if (!any) return WEIR_OK; /* and x may have a length that panels know nothing of */
  for (int32_t at = 0; at < x.rows; at += group) {
    const int32_t n = smaller(group, x.rows - at);
    const weir_mat xs = {x.data + (size_t)at * (size_t)x.ld, n, x.cols, x.ld};
    const weir_mat ys = {y.data + (size_t)at * (size_t)y.ld, n, y.cols, y.ld};
    if (n > WEIR_MM_SELF_ROWS) WEIR_TRY(make_panels(dev, xs, e));
    for (int32_t i = 0; i < w->n_segments; i++)
      if (weir_dtype_is_quant(w->segment[i].dtype))
        WEIR_TRY(matmul_group(dev, ys, xs, &w->segment[i], bias, e));
  }
out:
  return st;
}

/* ---- cuBLASLt ---- */

/* What a matmul by cuBLASLt finds in scratch. */
typedef struct {
  void *workspace;
  uint16_t *x;  /* [n, cast_ld(cols)] */
  float *scale; /* [n] */
  void *block;  /* dequantised rows */
} many_scratch;

static many_scratch cut_many(const weir_cuda *cu, int32_t n, int32_t cols) {
  many_scratch m;
  char *p = cu->scratch;
  m.workspace = p;
  p += WEIR_DENSE_WORKSPACE;
  m.x = (uint16_t *)(void *)p;
  p += padded((size_t)n * (size_t)cast_ld(cols) * 2);
  m.scale = (float *)(void *)p;
  p += padded((size_t)n * sizeof(float));
  m.block = p;
  return m;
}

static weir_status cast(weir_dev *dev, const many_scratch *m, weir_mat x, weir_dtype to, weir_err *e) {
  const weir_cuk_cast_args a = {.x = x.data,
                                .out = m->x,
                                .scale = to == WEIR_F16 ? m->scale : NULL,
                                .x_ld = x.ld,
                                .out_ld = cast_ld(x.cols),
                                .n = x.rows,
                                .cols = x.cols};
  return weir_cuda_check(dev, weir_cuk_cast(&a, weir_cuda_of(dev)->stream), "launch linear's cast", e);
}

/* `rows` columns of y from `first` on. */
static weir_status finish(weir_dev *dev, weir_mat y, int32_t first, int32_t rows, const float *scale,
                          const float *bias, weir_err *e) {
  if (!scale && !bias) return WEIR_OK;
  const weir_cuk_finish_args a = {.y = y.data + first,
                                  .scale = scale,
                                  .bias = bias ? bias + first : NULL,
                                  .y_ld = y.ld,
                                  .n = y.rows,
                                  .rows = rows};
  return weir_cuda_check(dev, weir_cuk_finish(&a, weir_cuda_of(dev)->stream), "launch linear's finish", e);
}

/* ---- dense ---- */

static weir_status gemv(weir_dev *dev, weir_mat y, weir_mat x, weir_dtype t, const void *w, int32_t first,
                        int32_t rows, const float *bias, weir_err *e) {
  const weir_cuda *cu = weir_cuda_of(dev);
  weir_status st = WEIR_OK;
  for (int32_t at = 0; at < x.rows; at += WEIR_GEMV_MAX_ROWS) {
    const weir_cuk_dense_gemv_args a = {.w = w,
                                        .x = x.data + (size_t)at * (size_t)x.ld,
                                        .bias = bias ? bias + first : NULL,
                                        .y = y.data + (size_t)at * (size_t)y.ld + first,
                                        .x_ld = x.ld,
                                        .y_ld = y.ld,
                                        .rows = rows,
                                        .cols = x.cols,
                                        .n = smaller(WEIR_GEMV_MAX_ROWS, x.rows - at),
                                        .aligned = (uintptr_t)w % 16 == 0 && x.cols % 8 == 0,
                                        .n_sms = cu->n_sms};
    WEIR_TRY(weir_cuda_check(dev, weir_cuk_dense_gemv(t, &a, cu->stream), "launch linear", e));
  }
out:
  return st;
}

static cudaDataType_t lt_type(weir_dtype t) {
  return t == WEIR_F32 ? CUDA_R_32F : t == WEIR_F16 ? CUDA_R_16F : CUDA_R_16BF;
}

/* Rows [first, first + rows) of the weight by cuBLASLt, or by ourselves where it has nothing: w is their
 * matrix, and m->x has x in its type unless that is F32. */
static weir_status multiply(weir_dev *dev, weir_mat y, weir_mat x, const many_scratch *m, weir_dtype t,
                            const void *w, int32_t first, int32_t rows, const float *bias, weir_err *e) {
  weir_status st = WEIR_OK;
  bool ran;
  const weir_cuda_gemm g = {.type = lt_type(t),
                            .w = w,
                            .x = t == WEIR_F32 ? (const void *)x.data : m->x,
                            .y = y.data + first,
                            .rows = rows,
                            .cols = x.cols,
                            .n = x.rows,
                            .x_ld = t == WEIR_F32 ? x.ld : cast_ld(x.cols),
                            .y_ld = y.ld,
                            .workspace = m->workspace};
  WEIR_TRY(weir_cuda_dense_matmul(dev, &g, &ran, e));
  st = ran ? finish(dev, y, first, rows, t == WEIR_F16 ? m->scale : NULL, bias, e)
           : gemv(dev, y, x, t, w, first, rows, bias, e);
out:
  return st;
}

static weir_status dequant_many(weir_dev *dev, weir_mat y, weir_mat x, const many_scratch *m,
                                const weir_segment *s, const float *bias, weir_err *e) {
  weir_cuda *cu = weir_cuda_of(dev);
  weir_status st = WEIR_OK;
  const int32_t most = dequant_rows(s->cols);
  for (int32_t at = 0; at < s->rows; at += most) {
    const int32_t rows = smaller(most, s->rows - at);
    const weir_cuk_dequant_rows_args d = {.w = *s, .out = m->block, .first = at, .rows = rows};
    WEIR_TRY(weir_cuda_check(dev, weir_cuk_dequant_rows(&d, cu->stream), "launch linear's dequantiser", e));
    WEIR_TRY(multiply(dev, y, x, m, WEIR_BF16, m->block, s->first + at, rows, bias, e));
  }
out:
  return st;
}

/* ---- the operation ---- */

weir_status weir_cuda_linear(weir_dev *dev, weir_mat y, weir_mat x, const weir_weight *weight,
                             const float *bias, weir_err *e) {
  const weir_cuda *cu = weir_cuda_of(dev);
  const weir_cuda_weight *w = weight->impl;
  weir_status st = WEIR_OK;
  const bool quant_is_few = x.rows < DEQUANT_FROM;
  const many_scratch m = cut_many(cu, x.rows, x.cols);
  weir_dtype held = WEIR_F32; /* what m.x has now: F32 for nothing */
  if (quant_is_few) WEIR_TRY(quant_few(dev, y, x, w, bias, e));
  for (int32_t i = 0; i < w->n_segments; i++) {
    const weir_segment *s = &w->segment[i];
    const bool quant = weir_dtype_is_quant(s->dtype);
    if (quant && quant_is_few) continue;
    if (!quant && x.rows <= WEIR_GEMV_MAX_ROWS) {
      WEIR_TRY(gemv(dev, y, x, s->dtype, s->low, s->first, s->rows, bias, e));
      continue;
    }
    const weir_dtype want = quant ? WEIR_BF16 : s->dtype;
    if (want != WEIR_F32 && want != held) {
      WEIR_TRY(cast(dev, &m, x, want, e));
      held = want;
    }
    if (quant)
      WEIR_TRY(dequant_many(dev, y, x, &m, s, bias, e));
    else
      WEIR_TRY(multiply(dev, y, x, &m, s->dtype, s->low, s->first, s->rows, bias, e));
  }
out:
  return st;
}
