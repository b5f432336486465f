/* SPDX-License-Identifier: Apache-2.0 */
/* Attention in the shape of Llama 3.1 8B, decode and prefill, over pages in random order. One thread. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "check_ops.h"
#include "kernels/quant.h"

enum { PAGE = 16, MAX_COPIES = 32, SAMPLES = 8 };

typedef struct attend {
  ops_check *c;
  int32_t n_heads, n_kv, dim; /* of heads */
  int32_t n_seqs, q_len, kv_len, rows, n_pages;
  int32_t *ints;             /* host: pos, seq, q_indptr, kv_len, page_indptr, page */
  int32_t *dev_ints;         /* the same on the device */
  const int32_t *pos, *page; /* in ints */
  uint16_t *kv;              /* host, F16 */
  float *q, *got;
  int32_t n_copies;
  void *layer[MAX_COPIES];
  weir_mat qm, out;
  weir_ragged r;
  weir_attend_args args;
} attend;

static weir_kv_layer layer_of(const attend *a, int32_t i) {
  return (weir_kv_layer){.base = a->layer[i],
                         .dtype = WEIR_F16,
                         .n_pages = a->n_pages,
                         .n_kv_heads = a->n_kv,
                         .page_size = PAGE,
                         .head_dim = a->dim};
}

static weir_status batch_make(attend *a, weir_err *e) {
  weir_status st = WEIR_OK;
  const int32_t per_seq = (a->kv_len + PAGE - 1) / PAGE;
  a->rows = a->n_seqs * a->q_len;
  a->n_pages = a->n_seqs * per_seq;
  const size_t n = 2 * (size_t)a->rows + 3 * ((size_t)a->n_seqs + 1) + (size_t)a->n_pages;
  WEIR_TRY(WEIR_NEW(n, &a->ints, e));
  int32_t *pos = a->ints, *seq = pos + a->rows, *q_indptr = seq + a->rows, *kv_len = q_indptr + a->n_seqs + 1,
          *page_indptr = kv_len + a->n_seqs + 1, *page = page_indptr + a->n_seqs + 1;
  for (int32_t i = 0; i < a->rows; i++) {
    pos[i] = a->kv_len - a->q_len + i % a->q_len;
    seq[i] = i / a->q_len;
  }
  for (int32_t s = 0; s <= a->n_seqs; s++) {
    q_indptr[s] = s * a->q_len;
    page_indptr[s] = s * per_seq;
    kv_len[s] = a->kv_len;
  }
  for (int32_t i = 0; i < a->n_pages; i++) page[i] = i;
  for (int32_t i = a->n_pages - 1; i > 0; i--) {
    const int32_t k = (int32_t)(fabsf(ops_unit(a->c)) * (float)i), t = page[i];
    page[i] = page[k];
    page[k] = t;
  }
  WEIR_TRY(ops_place(a->c, a->ints, n * sizeof *a->ints, (void **)&a->dev_ints, e));
  a->pos = pos;
  a->page = page;
#define ON_DEVICE(p) (a->dev_ints + ((p)-a->ints))
  a->r = (weir_ragged){.n_tokens = a->rows,
                       .n_seqs = a->n_seqs,
                       .pos = ON_DEVICE(pos),
                       .seq = ON_DEVICE(seq),
                       .q_indptr = ON_DEVICE(q_indptr),
                       .kv_len = ON_DEVICE(kv_len),
                       .page_indptr = ON_DEVICE(page_indptr),
                       .page = ON_DEVICE(page),
                       .max_q_len = a->q_len,
                       .max_kv_len = a->kv_len,
                       .host_q_indptr = q_indptr,
                       .host_kv_len = kv_len};
#undef ON_DEVICE
out:
  return st;
}

static weir_status kv_make(attend *a, weir_err *e) {
  weir_status st = WEIR_OK;
  const size_t n = 2 * (size_t)a->n_pages * (size_t)a->n_kv * PAGE * (size_t)a->dim;
  WEIR_TRY(WEIR_NEW(n, &a->kv, e));
  for (size_t i = 0; i < n; i++) a->kv[i] = weir_f32_to_f16(1.7f * ops_unit(a->c));
  a->n_copies = ops_copies(a->c, n * sizeof *a->kv);
  for (int32_t i = 0; i < a->n_copies; i++)
    WEIR_TRY(ops_place(a->c, a->kv, n * sizeof *a->kv, &a->layer[i], e));
out:
  return st;
}

static float kv_at(const attend *a, int32_t seq, int32_t t, int32_t is_v, int32_t head, int32_t k) {
  const int32_t per_seq = (a->kv_len + PAGE - 1) / PAGE;
  const size_t page = (size_t)a->page[seq * per_seq + t / PAGE];
  return weir_f16_to_f32(
      a->kv[(((page * 2 + (size_t)is_v) * (size_t)a->n_kv + (size_t)head) * PAGE + (size_t)(t % PAGE)) *
                (size_t)a->dim +
            (size_t)k]);
}

/* One row and head in double precision: want[dim]; w[kv_len] is room for the weights. */
static void reference(const attend *a, int32_t row, int32_t head, double *w, double *want) {
  const int32_t seq = row / a->q_len, kv_head = head / (a->n_heads / a->n_kv), last = a->pos[row];
  const float *q = a->q + ((size_t)row * (size_t)a->n_heads + (size_t)head) * (size_t)a->dim;
  double top = -INFINITY, sum = 0;
  for (int32_t t = 0; t <= last; t++) {
    w[t] = 0;
    for (int32_t k = 0; k < a->dim; k++) w[t] += (double)q[k] * (double)kv_at(a, seq, t, 0, kv_head, k);
    w[t] *= (double)a->args.scale;
    top = fmax(top, w[t]);
  }
  for (int32_t k = 0; k < a->dim; k++) want[k] = 0;
  for (int32_t t = 0; t <= last; t++) {
    const double p = exp(w[t] - top);
    sum += p;
    for (int32_t k = 0; k < a->dim; k++) want[k] += p * (double)kv_at(a, seq, t, 1, kv_head, k);
  }
  for (int32_t k = 0; k < a->dim; k++) want[k] /= sum;
}

/* The worst head of sampled rows; all that was not sampled must at least be finite. */
static weir_status worst_head(const attend *a, double *worst, weir_err *e) {
  weir_status st = WEIR_OK;
  double *w = NULL, *want = NULL;
  const int32_t samples = a->rows < SAMPLES ? a->rows : SAMPLES;
  *worst = 0;
  WEIR_TRY(WEIR_NEW((size_t)a->kv_len, &w, e));
  WEIR_TRY(WEIR_NEW((size_t)a->dim, &want, e));
  for (int32_t s = 0; s < samples; s++) {
    const int32_t row = samples > 1 ? (int32_t)((int64_t)s * (a->rows - 1) / (samples - 1)) : 0;
    for (int32_t head = s % 3; head < a->n_heads; head += 3) {
      const float *got = a->got + ((size_t)row * (size_t)a->n_heads + (size_t)head) * (size_t)a->dim;
      double far = 0, size = 0;
      reference(a, row, head, w, want);
      for (int32_t k = 0; k < a->dim; k++) {
        far = fmax(far, fabs((double)got[k] - want[k]));
        size = fmax(size, fabs(want[k]));
      }
      *worst = fmax(*worst, far / size);
    }
  }
  for (size_t i = 0; i < (size_t)a->rows * (size_t)a->n_heads * (size_t)a->dim; i++)
    if (!isfinite(a->got[i])) *worst = INFINITY;
out:
  free(w);
  free(want);
  return st;
}

static weir_status enqueue(void *ctx, weir_err *e) {
  attend *a = ctx;
  weir_status st = WEIR_OK;
  for (int32_t i = 0; i < a->n_copies; i++)
    WEIR_TRY(weir_op_attend(a->c->dev, a->out, a->qm, &a->r, layer_of(a, i), &a->args, e));
out:
  return st;
}

static weir_status check_case(ops_check *c, const char *what, int32_t n_seqs, int32_t q_len, int32_t kv_len,
                              weir_err *e) {
  weir_status st = WEIR_OK;
  attend a = {.c = c,
              .n_heads = c->small ? 8 : 32,
              .n_kv = c->small ? 2 : 8,
              .dim = c->small ? 64 : 128,
              .n_seqs = n_seqs,
              .q_len = q_len,
              .kv_len = kv_len};
  char name[96];
  double us = 0, worst = 0;
  a.args.scale = 1.0f / sqrtf((float)a.dim);
  const int32_t cols = a.n_heads * a.dim;
  WEIR_TRY(batch_make(&a, e));
  WEIR_TRY(kv_make(&a, e));
  WEIR_TRY(ops_mat(c, a.rows, cols, 1.0f, &a.q, &a.qm, e));
  WEIR_TRY(ops_mat(c, a.rows, cols, 0, NULL, &a.out, e));
  WEIR_TRY(weir_op_attend_plan(c->dev, &a.r, 0, a.n_heads, layer_of(&a, 0), e));
  WEIR_TRY(ops_time(c, enqueue, &a, a.n_copies, false, &us, e));
  const size_t bytes = (size_t)a.rows * (size_t)cols * sizeof(float);
  WEIR_TRY(WEIR_NEW((size_t)a.rows * (size_t)cols, &a.got, e));
  WEIR_TRY(weir_dev_download(c->dev, a.got, a.out.data, bytes, e));
  WEIR_TRY(weir_dev_sync(c->dev, e));
  WEIR_TRY(worst_head(&a, &worst, e));
  snprintf(name, sizeof name, "attend %s seqs=%d q=%d kv=%d", what, n_seqs, q_len, kv_len);
  /* Pairs of a row and a position it sees, of one sequence. */
  const double seen = (double)q_len * kv_len - 0.5 * q_len * (q_len - 1.0);
  ops_report(c, &(ops_result){.name = name,
                              .us = us,
                              .bytes = 4.0 * n_seqs * kv_len * a.n_kv * a.dim + 2.0 * (double)bytes,
                              .flops = 4.0 * n_seqs * seen * a.n_heads * a.dim,
                              .err = worst,
                              .bound = q_len == 1 ? 1e-5 : 2e-3}); /* tests/cuda/test_cuda_attend.c */
out:
  for (int32_t i = 0; i < a.n_copies; i++) weir_dev_release(c->dev, a.layer[i]);
  weir_dev_release(c->dev, a.dev_ints);
  weir_dev_release(c->dev, a.qm.data);
  weir_dev_release(c->dev, a.out.data);
  free(a.ints);
  free(a.kv);
  free(a.q);
  free(a.got);
  return st;
}

weir_status check_attend(ops_check *c, weir_err *e) {
  static const int32_t seqs[] = {1, 8, 32, 64, 128};
  weir_status st = WEIR_OK;
  if (c->small) {
    WEIR_TRY(check_case(c, "decode", 2, 1, 41, e));
    WEIR_TRY(check_case(c, "prefill", 1, 20, 37, e));
    goto out;
  }
  for (size_t i = 0; i < sizeof seqs / sizeof *seqs; i++)
    WEIR_TRY(check_case(c, "decode", seqs[i], 1, 1024, e));
  WEIR_TRY(check_case(c, "decode", 1, 1, 4096, e));
  WEIR_TRY(check_case(c, "prefill", 1, 512, 512, e));
  WEIR_TRY(check_case(c, "prefill", 1, 512, 4096, e));
  WEIR_TRY(check_case(c, "prefill", 1, 2048, 2048, e));
out:
  return st;
}
