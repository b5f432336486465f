/* SPDX-License-Identifier: Apache-2.0 */
/* The work of `weir quantize`: rows become floats and floats become rows of another type, a piece of a tensor
 * at a time on all threads of the team, and the main thread writes the piece. Owns the piece's buffers. Which
 * thread does a row changes nothing: rows know nothing of each other, and the sums of the errors are added up
 * in the order of the rows. */
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/quant.h"
#include "programs/quantize.h"

enum {
  PIECE_BYTES =
      8 << 20,          /* of input and of output, at least a row: what is between two looks at the signals */
  GRAB_BYTES = 64 << 10 /* of input that a thread takes at once */
};

typedef struct sums {
  double err2, sum2;
} sums;

typedef struct piece {
  const weir_quantize_tensor *t;
  const uint8_t *in;           /* [rows of the part][in_row_bytes] */
  uint8_t *out;                /* [n_rows][out_row_bytes] */
  float *scratch;              /* [n_threads][2][cols] */
  sums *row;                   /* [n_rows] */
  int64_t n_rows, grab, first; /* first: of the part */
  int64_t base;                /* of the part in the tensor, for messages */
  _Atomic int64_t next;
  weir_err *err;    /* [n_threads] */
  int64_t *err_row; /* [n_threads]; -1: none */
} piece;

/* The row of the file that becomes row r. Of a head of n rows GGUF's llama has the two of a rotated pair side
 * by side, Hugging Face n/2 apart. */
static int64_t from_row(const weir_quantize_tensor *t, int64_t r) {
  if (t->head_rows == 0) return r;
  const int64_t head = r / t->head_rows, k = r % t->head_rows;
  return head * t->head_rows + k % 2 * (t->head_rows / 2) + k / 2;
}

/* One row: x from the file, its rounding into the piece, the error of it. */
static weir_status do_row(piece *p, int64_t r, float *x, float *y, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_quantize_tensor *t = p->t;
  const int64_t cols = t->in.dim[0];
  uint8_t *out = p->out + (size_t)r * t->out_row_bytes;
  const uint8_t *stored = p->in + (size_t)from_row(t, p->first + r) * t->in_row_bytes;
  sums s = {0, 0};
  if (t->to == t->in.dtype && t->add == 0) { /* here for its place alone */
    memcpy(out, stored, t->out_row_bytes);
    p->row[r] = s;
    return WEIR_OK;
  }
  WEIR_TRY(weir_dequantize_row(t->in.dtype, stored, x, cols, e));
  for (int64_t i = 0; t->add != 0 && i < cols; i++) x[i] += t->add;
  WEIR_TRY(weir_quantize_row(t->to, x, out, cols, e));
  WEIR_TRY(weir_dequantize_row(t->to, out, y, cols, e));
  for (int64_t i = 0; i < cols; i++) {
    const double d = (double)x[i] - (double)y[i];
    s.err2 += d * d;
    s.sum2 += (double)x[i] * (double)x[i];
  }
  if (!isfinite(s.err2)) {
    int64_t i = 0;
    while (i < cols && isfinite(x[i] - y[i])) i++;
    return weir_fail(e, WEIR_EINVAL, "element %lld (%g) does not fit %s", (long long)i, (double)x[i],
                     weir_dtype_get(t->to)->name);
  }
  p->row[r] = s;
out:
  return st;
}

static void do_rows(void *ctx, int32_t rank, int32_t n_threads) {
  piece *p = ctx;
  (void)n_threads;
  const int64_t cols = p->t->in.dim[0];
  float *x = p->scratch + 2 * (size_t)rank * (size_t)cols, *y = x + cols;
  for (;;) {
    const int64_t from = atomic_fetch_add(&p->next, p->grab);
    for (int64_t r = from; r < from + p->grab && r < p->n_rows; r++) {
      if (do_row(p, r, x, y, &p->err[rank]) == WEIR_OK) continue;
      p->err_row[rank] = r;
      return; /* the others finish their rows, so that the first bad one is found whoever has it */
    }
    if (from + p->grab >= p->n_rows) return;
  }
}

/* The error of the lowest row that has one. A thread takes rows in rising order and stops at its first. */
static weir_status first_error(const piece *p, int32_t n_threads, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  int32_t best = -1;
  for (int32_t k = 0; k < n_threads; k++)
    if (p->err_row[k] >= 0 && (best < 0 || p->err_row[k] < p->err_row[best])) best = k;
  if (best < 0) return WEIR_OK;
  if (e) *e = p->err[best];
  return weir_fail_ctx(e, p->err[best].code, "tensor %s, row %lld", weir_str_show(p->t->in.name, shown),
                       (long long)(p->base + p->first + p->err_row[best]));
}

typedef struct work {
  weir_gguf_writer *w;
  weir_pool *pool;
  const weir_quantize_watch *watch;
  uint64_t done, total;
} work;

static weir_status look(work *k, int64_t tensor, weir_err *e) {
  if (!k->watch->report(k->watch->ctx, tensor, k->done, k->total))
    return weir_fail(e, WEIR_ECANCEL, "interrupted");
  return WEIR_OK;
}

/* What stays as it is. */
static weir_status copy_part(work *k, size_t bytes, const uint8_t *in, weir_err *e) {
  weir_status st = WEIR_OK;
  for (size_t at = 0, n; at < bytes; at += n) {
    n = bytes - at < PIECE_BYTES ? bytes - at : PIECE_BYTES;
    WEIR_TRY(weir_gguf_writer_data(k->w, in + at, n, e));
    k->done += n;
    WEIR_TRY(look(k, -1, e));
  }
out:
  return st;
}

/* Rows [base, base + n_rows) of the tensor, which lie at `in`. */
static weir_status convert_part(work *k, weir_quantize_tensor *t, int64_t base, int64_t n_rows,
                                const uint8_t *in, weir_err *e) {
  weir_status st = WEIR_OK;
  const int32_t n_threads = weir_pool_size(k->pool);
  const size_t row_bytes = t->in_row_bytes > t->out_row_bytes ? t->in_row_bytes : t->out_row_bytes;
  int64_t rows = (int64_t)(PIECE_BYTES / row_bytes);
  size_t floats = 0, out_bytes;
  piece p = {.t = t, .in = in, .base = base};
  if (rows < 1) rows = 1;
  if (rows > n_rows) rows = n_rows;
  if (!weir_mul_size((size_t)t->in.dim[0], 2 * (size_t)n_threads, &floats))
    return weir_fail(e, WEIR_ENOMEM, "rows of %lld elements", (long long)t->in.dim[0]);
  out_bytes = (size_t)rows * t->out_row_bytes; /* at most the tensor's, which was checked */
  WEIR_TRY(WEIR_NEW(out_bytes, &p.out, e));
  WEIR_TRY(WEIR_NEW(floats, &p.scratch, e));
  WEIR_TRY(WEIR_NEW((size_t)rows, &p.row, e));
  WEIR_TRY(WEIR_NEW((size_t)n_threads, &p.err, e));
  WEIR_TRY(WEIR_NEW((size_t)n_threads, &p.err_row, e));
  for (int32_t i = 0; i < n_threads; i++) p.err_row[i] = -1;
  p.grab = (int64_t)(GRAB_BYTES / t->in_row_bytes);
  if (p.grab < 1) p.grab = 1;
  for (; p.first < n_rows; p.first += p.n_rows) {
    p.n_rows = n_rows - p.first < rows ? n_rows - p.first : rows;
    atomic_store(&p.next, 0);
    weir_pool_run(k->pool, do_rows, &p);
    WEIR_TRY(first_error(&p, n_threads, e));
    for (int64_t r = 0; r < p.n_rows; r++) {
      t->err2 += p.row[r].err2;
      t->sum2 += p.row[r].sum2;
    }
    WEIR_TRY(weir_gguf_writer_data(k->w, p.out, (size_t)p.n_rows * t->out_row_bytes, e));
    k->done += (uint64_t)p.n_rows * t->in_row_bytes;
    WEIR_TRY(look(k, -1, e));
  }
out:
  free(p.out);
  free(p.scratch);
  free(p.row);
  free(p.err);
  free(p.err_row);
  return st;
}

weir_status weir_quantize_declare(const weir_quantize_plan *p, weir_gguf_writer *w, weir_err *e) {
  weir_status st = WEIR_OK;
  for (int64_t i = 0; i < p->n; i++) {
    const weir_quantize_tensor *t = &p->tensor[i];
    WEIR_TRY(weir_gguf_writer_tensor(w, t->in.name, t->to, t->in.n_dims, t->in.dim, e));
  }
out:
  return st;
}

/* Part `i` of a tensor's parts, from the file's bytes. */
static weir_status do_part(work *k, const weir_mfile *m, weir_quantize_tensor *t, int32_t i, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_tensor stored = {0};
  char name[WEIR_GGUF_MAX_NAME_BYTES + 1], shown[WEIR_STR_SHOW_BYTES];
  const int64_t rows = t->n_parts ? t->rows / t->n_parts : t->rows;
  const uint8_t *data = (const uint8_t *)t->made;
  if (t->n_parts)
    snprintf(name, sizeof name, "%s%d.weight", t->part_name, i);
  else
    snprintf(name, sizeof name, "%.*s", (int)t->in.name.len, t->in.name.data);
  if (!t->made) {
    WEIR_TRY(weir_mfile_read(m, name, &stored, e));
    data = stored.data;
    int64_t there = stored.info.dim[1];
    for (int32_t d = 2; d < WEIR_GGUF_MAX_DIMS; d++) there *= stored.info.dim[d];
    if (stored.info.dtype != t->in.dtype || stored.info.dim[0] != t->in.dim[0] || there != rows) {
      st = weir_fail(e, WEIR_EFORMAT, "tensor %s: %s is of another type or shape",
                     weir_str_show(t->in.name, shown), name);
      goto out;
    }
  }
  if (t->to == t->in.dtype && t->head_rows == 0 && t->add == 0)
    st = copy_part(k, (size_t)rows * t->out_row_bytes, data, e);
  else
    st = convert_part(k, t, i * rows, rows, data, e);
out:
  weir_tensor_release(&stored);
  return st;
}

weir_status weir_quantize_work(weir_quantize_plan *p, const weir_mfile *m, weir_gguf_writer *w,
                               weir_pool *pool, const weir_quantize_watch *watch, weir_err *e) {
  weir_status st = WEIR_OK;
  work k = {.w = w, .pool = pool, .watch = watch, .total = p->bytes_in};
  WEIR_TRY(weir_gguf_writer_begin(w, e));
  for (int64_t i = 0; i < p->n; i++) {
    weir_quantize_tensor *t = &p->tensor[i];
    t->err2 = t->sum2 = 0;
    for (int32_t part = 0; part == 0 || part < t->n_parts; part++) WEIR_TRY(do_part(&k, m, t, part, e));
    t->rms = t->sum2 > 0 ? sqrt(t->err2 / t->sum2) : 0;
    WEIR_TRY(look(&k, i, e));
  }
out:
  return st;
}
