/* SPDX-License-Identifier: Apache-2.0 */
/* Rotation and append to KV against double precision; where the rows land; which bytes stay untouched. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kern_util.h"
#include "kernels/quant.h"

static const weir_dev_limits LIMITS = {.max_tokens = 256,
                                       .max_cols = 8192,
                                       .max_heads = 32,
                                       .max_head_dim = 256,
                                       .max_kv_len = 2048,
                                       .max_rows_out = 16,
                                       .max_vocab = 1024};

static void test_angles(void **state) {
  static const int32_t pos[] = {0, 1, 2, 3, 17, 511, 4095, 8191, 131071, 1048575};
  static const int32_t dims_of[] = {2, 6, 32, 64, 128};
  enum { ROWS = sizeof pos / sizeof *pos };
  static const weir_dev_limits far_limits = {.max_tokens = 16,
                                             .max_cols = 128,
                                             .max_heads = 1,
                                             .max_head_dim = 128,
                                             .max_kv_len = 1048576,
                                             .max_rows_out = 1,
                                             .max_vocab = 16};
  kern_devs devs;
  double worst = 0;
  (void)state;
  kern_devs_open(&devs, &far_limits);
  for (size_t k = 0; k < 2 * sizeof dims_of / sizeof *dims_of; k++)
    for (int i = 0; i < devs.n; i++) {
      weir_dev *dev = devs.dev[i];
      weir_err e = {0};
      const int32_t dims = dims_of[k / 2], half = dims / 2;
      const float mscale = k % 2 ? 1.3465736f : 1.0f; /* YaRN's at a factor of 32 */
      float freq[64];
      for (int32_t j = 0; j < half; j++) freq[j] = (float)pow(10000, -2.0 * j / dims);
      weir_mat a = kern_mat(dev, ROWS, dims, 7);
      int32_t *dpos = (int32_t *)kern_copy(dev, pos, sizeof pos);
      float *dfreq = (float *)kern_copy(dev, freq, sizeof *freq * (size_t)half);
      const int32_t zero[ROWS] = {0}, indptr[2] = {0, ROWS}, kv_len[1] = {1048576}, page_indptr[2] = {0, 0};
      const weir_ragged g = {.n_tokens = ROWS,
                             .n_seqs = 1,
                             .pos = dpos,
                             .seq = zero,
                             .q_indptr = indptr,
                             .kv_len = kv_len,
                             .page_indptr = page_indptr,
                             .page = zero,
                             .max_q_len = ROWS,
                             .max_kv_len = 1048576};
      kern_ok(weir_op_rope_angles(dev, a, &g, dfreq, mscale, &e), &e, "rope_angles");
      float *got = kern_get(dev, a);
      for (int32_t r = 0; r < ROWS; r++)
        for (int32_t j = 0; j < half; j++) {
          const double x = (double)pos[r] * (double)freq[j];
          const double c = fabs((double)got[r * dims + j] - (double)mscale * cos(x)),
                       s = fabs((double)got[r * dims + half + j] - (double)mscale * sin(x));
          const double err = c > s ? c : s;
          if (!(err <= 1e-7)) fail_msg("position %d, frequency %g: error %g", pos[r], (double)freq[j], err);
          if (err > worst) worst = err;
        }
      free(got);
      kern_mat_free(dev, a);
      weir_dev_release(dev, dpos);
      weir_dev_release(dev, dfreq);
    }
  kern_devs_close(&devs);
  print_message("worst error of an angle %.2g (bound 1e-7)\n", worst);
}

typedef struct shape {
  int32_t head_dim, rope_dims, n_heads, n_kv, page_size;
  bool interleaved, norm;
  weir_dtype dtype;
} shape;

/* Three sequences: a chunk across pages, one decode row, a fresh prompt. */
enum { SEQS = 3, ROWS = 26, PAGES = 40 };
static const int32_t Q_LEN[SEQS] = {17, 1, 8}, KV_LEN[SEQS] = {50, 33, 8};

static double check_head(const float *got, const float *x, const float *norm, float eps, const float *angles,
                         const shape *s) {
  double want[256], sq = 0;
  const int32_t d = s->head_dim, half = s->rope_dims / 2;
  for (int32_t i = 0; i < d; i++) want[i] = (double)x[i], sq += want[i] * want[i];
  if (norm != NULL)
    for (int32_t i = 0; i < d; i++) want[i] *= (double)norm[i] / sqrt(sq / d + (double)eps);
  for (int32_t i = 0; i < half; i++) {
    const int32_t a = s->interleaved ? 2 * i : i, b = s->interleaved ? 2 * i + 1 : i + half;
    const double c = (double)angles[i], n = (double)angles[half + i], u = want[a], v = want[b];
    want[a] = u * c - v * n;
    want[b] = u * n + v * c;
  }
  return kern_row_error(got, want, d);
}

/* The row in a head's part of a page -> F32; its bytes become what they were before. */
static void take_row(const shape *s, unsigned char *head, int32_t slot, float *out) {
  const size_t d = (size_t)s->head_dim, at = (size_t)slot, size = (size_t)s->page_size;
  for (size_t i = 0; i < d; i++) {
    uint16_t half;
    if (s->dtype == WEIR_F32) {
      memcpy(&out[i], head + (at * d + i) * 4, 4);
      memset(head + (at * d + i) * 4, 0xfe, 4);
    } else if (s->dtype == WEIR_F16) {
      memcpy(&half, head + (at * d + i) * 2, 2);
      memset(head + (at * d + i) * 2, 0xfe, 2);
      out[i] = weir_f16_to_f32(half);
    } else {
      memcpy(&half, head + size * d + (i / 32 * size + at) * 2, 2);
      out[i] = (int8_t)head[at * d + i] * weir_f16_to_f32(half);
      head[at * d + i] = 0xfe;
    }
  }
  for (size_t b = 0; s->dtype == WEIR_Q8_0 && b < d / 32; b++)
    memset(head + size * d + (b * size + at) * 2, 0xfe, 2);
}

/* What has been stored of a V row, which only its type rounds: exactly the nearest, and for Q8_0 the nearest
 * multiple of max/127 as a half. */
static void check_stored(const shape *s, const float *got, const float *x, int32_t row, int32_t head) {
  for (int32_t i = 0; i < s->head_dim; i++) {
    double want = (double)x[i], off = 0;
    if (s->dtype == WEIR_F16) want = (double)weir_f16_to_f32(weir_f32_to_f16(x[i]));
    if (s->dtype == WEIR_Q8_0) {
      float most = 0;
      for (int32_t k = i / 32 * 32; k < i / 32 * 32 + 32; k++) most = fabsf(x[k]) > most ? fabsf(x[k]) : most;
      const double d = (double)weir_f16_to_f32(weir_f32_to_f16(most / 127));
      want = d * fmin(127, fmax(-127, nearbyint(want / d)));
      off = fabs((double)x[i] / d - trunc((double)x[i] / d)) -
            0.5; /* a tie may go either way by rounding of x/d */
      off = fabs(off) < 1e-4 ? d : 0;
    }
    if (!(fabs((double)got[i] - want) <= off))
      fail_msg("v row %d head %d dim %d: %g, want %g", row, head, i, (double)got[i], want);
  }
}

static void run_append(weir_dev *dev, const shape *s, double *worst, unsigned char **kv_bytes,
                       size_t *kv_size) {
  kern_rng rng = {(uint64_t)s->head_dim * 31 + (uint64_t)s->rope_dims};
  const int32_t d = s->head_dim, cols = (s->n_heads + 2 * s->n_kv) * d;
  int32_t pos[ROWS], seq[ROWS], q_indptr[SEQS + 1] = {0}, page_indptr[SEQS + 1] = {0}, page[PAGES * 8];
  int32_t order[PAGES * 8];
  const int32_t n_pages = PAGES * 16 / s->page_size + 8;
  weir_err e = {0};
  for (int32_t i = 0; i < n_pages; i++) order[i] = i;
  kern_shuffle(&rng, order, n_pages);
  for (int32_t q = 0, n = 0, p = 0; q < SEQS; q++) {
    for (int32_t i = 0; i < Q_LEN[q]; i++, n++) pos[n] = KV_LEN[q] - Q_LEN[q] + i, seq[n] = q;
    q_indptr[q + 1] = n;
    for (int32_t i = 0; i < (KV_LEN[q] + s->page_size - 1) / s->page_size; i++, p++) page[p] = order[p];
    page_indptr[q + 1] = p;
  }
  float *x = kern_normals(&rng, (size_t)ROWS * (size_t)cols, 1), *qn = kern_normals(&rng, (size_t)d, 1);
  float *kn = kern_normals(&rng, (size_t)d, 1),
        *ang = kern_normals(&rng, (size_t)ROWS * (size_t)s->rope_dims, 1);
  for (int32_t r = 0; r < ROWS; r++)
    for (int32_t i = 0; i < s->rope_dims / 2; i++) {
      float *a = ang + r * s->rope_dims + i;
      const double t = (double)*a;
      a[0] = (float)cos(t);
      a[s->rope_dims / 2] = (float)sin(t);
    }
  weir_mat qkv = kern_mat(dev, ROWS, cols, 2), angles = {0}; /* no rotation: none is asked for */
  if (s->rope_dims > 0) angles = kern_mat(dev, ROWS, s->rope_dims, 4);
  kern_put(dev, qkv, x);
  if (s->rope_dims > 0) kern_put(dev, angles, ang);
  const size_t n_head = (size_t)s->page_size * (size_t)d;
  const size_t head_bytes =
      s->dtype == WEIR_Q8_0 ? n_head / 32 * 34 : n_head * (s->dtype == WEIR_F16 ? 2 : 4);
  const size_t kv_all = (size_t)n_pages * 2 * (size_t)s->n_kv * head_bytes;
  unsigned char *kv = (unsigned char *)malloc(kv_all);
  memset(kv, 0xfe, kv_all); /* NaN in F16 and F32 */
  void *dkv = kern_copy(dev, kv, kv_all);
  float *dqn = (float *)kern_copy(dev, qn, sizeof *qn * (size_t)d);
  float *dkn = (float *)kern_copy(dev, kn, sizeof *kn * (size_t)d);
  int32_t *dpos = (int32_t *)kern_copy(dev, pos, sizeof pos),
          *dseq = (int32_t *)kern_copy(dev, seq, sizeof seq);
  int32_t *dq = (int32_t *)kern_copy(dev, q_indptr, sizeof q_indptr);
  int32_t *dlen = (int32_t *)kern_copy(dev, KV_LEN, sizeof KV_LEN);
  int32_t *dpi = (int32_t *)kern_copy(dev, page_indptr, sizeof page_indptr);
  int32_t *dpage = (int32_t *)kern_copy(dev, page, sizeof *page * (size_t)page_indptr[SEQS]);
  const weir_ragged g = {.n_tokens = ROWS,
                         .n_seqs = SEQS,
                         .pos = dpos,
                         .seq = dseq,
                         .q_indptr = dq,
                         .kv_len = dlen,
                         .page_indptr = dpi,
                         .page = dpage,
                         .max_q_len = 17,
                         .max_kv_len = 50};
  const weir_rope_args args = {.qkv = qkv,
                               .angles = angles,
                               .n_heads = s->n_heads,
                               .rope_dims = s->rope_dims,
                               .interleaved = s->interleaved,
                               .q_norm = s->norm ? dqn : NULL,
                               .k_norm = s->norm ? dkn : NULL,
                               .norm_eps = 1e-6f,
                               .kv = {dkv, s->dtype, n_pages, s->n_kv, s->page_size, d}};
  kern_ok(weir_op_rope_append(dev, &args, &g, &e), &e, "rope_append");
  float *got = kern_get(dev, qkv);
  unsigned char *after = (unsigned char *)malloc(kv_all);
  kern_ok(weir_dev_download(dev, after, dkv, kv_all, &e), &e, "download");
  *kv_bytes = (unsigned char *)malloc(kv_all);
  memcpy(*kv_bytes, after, kv_all);
  *kv_size = kv_all;

  for (int32_t r = 0; r < ROWS; r++) {
    const float *a = ang + r * s->rope_dims, *in = x + (size_t)r * (size_t)cols;
    for (int32_t h = 0; h < s->n_heads; h++) {
      const double err =
          check_head(got + (size_t)r * (size_t)cols + h * d, in + h * d, s->norm ? qn : NULL, 1e-6f, a, s);
      if (err > 1e-6) fail_msg("head_dim %d, row %d, q head %d: error %g", d, r, h, err);
      if (err > *worst) *worst = err;
    }
    for (int32_t h = 0; h < s->n_kv; h++) {
      const int32_t p = page[page_indptr[seq[r]] + pos[r] / s->page_size], slot = pos[r] % s->page_size;
      unsigned char *k_head = after + ((size_t)p * 2 * (size_t)s->n_kv + (size_t)h) * head_bytes;
      unsigned char *v_head = k_head + (size_t)s->n_kv * head_bytes;
      const float *v_in = in + (s->n_heads + s->n_kv + h) * d, *k_in = in + (s->n_heads + h) * d;
      float k[256], v[256];
      take_row(s, k_head, slot, k);
      take_row(s, v_head, slot, v);
      check_stored(s, v, v_in, r, h);
      const double err = check_head(k, k_in, s->norm ? kn : NULL, 1e-6f, a, s);
      const double bound = s->dtype == WEIR_F16 ? 4.9e-4 : s->dtype == WEIR_Q8_0 ? 4.5e-3 : 1e-6;
      if (err > bound) fail_msg("k row %d head %d: error %g", r, h, err);
    }
  }
  kern_same(after, kv, kv_all, "KV beyond the rows of the step"); /* all else still untouched */
  void *dead[] = {dkv, dqn, dkn, dpos, dseq, dq, dlen, dpi, dpage};
  for (size_t i = 0; i < sizeof dead / sizeof *dead; i++) weir_dev_release(dev, dead[i]);
  kern_mat_free(dev, qkv);
  kern_mat_free(dev, angles);
  free(after);
  free(kv);
  free(got);
  free(x);
  free(qn);
  free(kn);
  free(ang);
}

static void test_append(void **state) {
  static const shape shapes[] = {
      {8, 8, 2, 1, 16, true, false, WEIR_F32},     {32, 32, 2, 1, 16, true, false, WEIR_F16},
      {64, 64, 4, 2, 16, true, false, WEIR_F16},   {64, 64, 4, 2, 16, false, false, WEIR_F32},
      {80, 32, 7, 1, 16, false, false, WEIR_F16},  {80, 20, 4, 4, 16, true, true, WEIR_F32},
      {128, 128, 8, 2, 16, false, true, WEIR_F16}, {128, 64, 8, 8, 16, true, true, WEIR_F16},
      {64, 0, 4, 2, 16, true, false, WEIR_F16},    {96, 0, 4, 1, 16, false, true, WEIR_F32},
      {256, 256, 4, 2, 16, false, true, WEIR_F16}, {96, 72, 4, 2, 16, false, false, WEIR_F16},
      {32, 32, 2, 1, 16, true, false, WEIR_Q8_0},  {64, 64, 4, 2, 16, true, false, WEIR_Q8_0},
      {128, 64, 8, 2, 16, false, true, WEIR_Q8_0}, {96, 96, 3, 3, 24, false, false, WEIR_Q8_0},
      {256, 0, 4, 1, 4, false, true, WEIR_Q8_0},   {10, 6, 3, 3, 4, false, true, WEIR_F16},
      {10, 10, 3, 3, 32, true, true, WEIR_F16},
  };
  kern_devs devs;
  double worst = 0;
  (void)state;
  kern_devs_open(&devs, &LIMITS);
  for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
    unsigned char *first = NULL;
    size_t first_size = 0;
    weir_isa first_isa = WEIR_ISA_BEST;
    for (int i = 0; i < devs.n; i++) {
      unsigned char *kv;
      size_t size;
      run_append(devs.dev[i], &shapes[k], &worst, &kv, &size);
      if (devs.isa[i] == first_isa) kern_same(kv, first, size, "another team");
      free(first);
      first = kv;
      first_size = size;
      first_isa = devs.isa[i];
    }
    assert_true(first_size > 0);
    free(first);
  }
  kern_devs_close(&devs);
  print_message("worst error of a head %.2g (bound 1e-6 before rounding to F16 or Q8_0)\n", worst);
}

/* Numbers that Q8_0 cannot keep make the scale of their block NaN, and change nothing else in KV. */
static void test_no_numbers_in_q8_0(void **state) {
  enum { N = 6, DIM = 96, KV_HEADS = 2, SIZE = 4, N_PAGES = 2, COLS = (1 + 2 * KV_HEADS) * DIM };
  enum { HEAD_BYTES = SIZE * DIM / 32 * 34, ALL = N_PAGES * 2 * KV_HEADS * HEAD_BYTES };
  static const float bad[] = {NAN, -NAN, INFINITY, -INFINITY, 3e38f, -9e6f};
  static const struct {
    int32_t is_v, head, dim, row;
  } places[] = {{0, 0, 0, 0}, {0, 1, 37, 3}, {1, 0, 95, 4}, {1, 1, 63, 5}};
  static const int32_t pos[N] = {0, 1, 2, 3, 4, 5}, seq[N] = {0}, q_indptr[2] = {0, N}, len[1] = {N},
                       page_indptr[2] = {0, N_PAGES}, page[N_PAGES] = {1, 0};
  const weir_ragged g = {.n_tokens = N,
                         .n_seqs = 1,
                         .pos = pos,
                         .seq = seq,
                         .q_indptr = q_indptr,
                         .kv_len = len,
                         .page_indptr = page_indptr,
                         .page = page,
                         .max_q_len = N,
                         .max_kv_len = N};
  kern_devs devs;
  kern_rng rng = {5};
  float *x = kern_normals(&rng, (size_t)N * COLS, 1);
  (void)state;
  kern_devs_open(&devs, &LIMITS);
  for (int i = 0; i < devs.n; i++) {
    weir_dev *dev = devs.dev[i];
    unsigned char sound[ALL] = {0}, got[ALL];
    for (size_t k = 0; k < 1 + sizeof places / sizeof *places * (sizeof bad / sizeof *bad); k++) {
      const size_t at = (k + 3) / 6 % 4; /* of no use before the first: it is sound */
      const int32_t is_v = places[at].is_v, head = places[at].head, dim = places[at].dim,
                    row = places[at].row;
      float *spot = x + (size_t)row * COLS + (1 + is_v * KV_HEADS + head) * DIM + dim;
      const float was = *spot;
      weir_err e = {0};
      memset(got, 0xaa, ALL);
      if (k > 0) *spot = bad[k % 6];
      void *kv = kern_copy(dev, got, ALL);
      weir_mat qkv = kern_mat(dev, N, COLS, 0);
      kern_put(dev, qkv, x);
      *spot = was;
      const weir_rope_args args = {
          .qkv = qkv, .n_heads = 1, .kv = {kv, WEIR_Q8_0, N_PAGES, KV_HEADS, SIZE, DIM}};
      kern_ok(weir_op_rope_append(dev, &args, &g, &e), &e, "rope_append");
      kern_ok(weir_dev_download(dev, got, kv, ALL, &e), &e, "download");
      kern_mat_free(dev, qkv);
      weir_dev_release(dev, kv);
      if (k == 0) {
        memcpy(sound, got, ALL);
        continue;
      }
      const size_t slot = (size_t)(row % SIZE), block = (size_t)dim / 32;
      const size_t of_head =
          (size_t)((page[row / SIZE] * 2 + is_v) * KV_HEADS + head) * HEAD_BYTES; /* in KV */
      const size_t bytes = of_head + slot * DIM + block * 32;
      const size_t scale = of_head + SIZE * DIM + (block * SIZE + slot) * 2;
      uint16_t d;
      memcpy(&d, got + scale, sizeof d);
      if (!isnan(weir_f16_to_f32(d)))
        fail_msg("%g in %c of head %d: scale %g", (double)bad[k % 6], is_v ? 'v' : 'k', head,
                 (double)weir_f16_to_f32(d));
      memcpy(got + scale, sound + scale, sizeof d);
      memcpy(got + bytes, sound + bytes, 32);
      kern_same(got, sound, ALL, "KV of other blocks");
    }
  }
  free(x);
  kern_devs_close(&devs);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_angles), cmocka_unit_test(test_append),
                                     cmocka_unit_test(test_no_numbers_in_q8_0)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
