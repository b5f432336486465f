/* SPDX-License-Identifier: Apache-2.0 */
/* Angles, and rotation with the append to the KV, on the emulated GPU: against double precision, against the
 * CPU device, and every byte of the KV that no row of the step owns stays as it was. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cuda_util.h"
#include "kernels/quant.h"

#define COUNT(a) ((int32_t)(sizeof(a) / sizeof *(a)))

/* Both devices, and what is set up on each alike. */
enum { CUDA, CPU, N_DEVS, N_ARRAYS = 6 };
typedef struct pair {
  weir_dev *dev[N_DEVS];
} pair;

static pair open_pair(uint64_t seed) {
  weir_dev_limits lim = cuda_test_limits();
  const weir_cpu_opts o = {.n_threads = 1};
  pair p;
  weir_err e = {0};
  lim.max_kv_len = 1 << 21;
  p.dev[CUDA] = cuda_test_dev(&lim, seed);
  kern_ok(weir_dev_open_cpu(&o, &p.dev[CPU], &e), &e, "open the CPU device");
  kern_ok(weir_dev_reserve(p.dev[CPU], &lim, &e), &e, "reserve");
  return p;
}
static void close_pair(pair p) {
  weir_dev_destroy(p.dev[CPU]);
  cuda_test_close(p.dev[CUDA]);
}

/* A batch in host memory, and on a device. */
typedef struct batch {
  int32_t n, seqs, max_q, max_kv;
  const int32_t *pos, *seq, *q_indptr, *kv_len, *page_indptr, *page;
} batch;

static weir_ragged put_batch(weir_dev *dev, const batch *b, void *held[N_ARRAYS]) {
  const size_t one = sizeof(int32_t), n = (size_t)b->n, seqs = (size_t)b->seqs;
  held[0] = kern_copy(dev, b->pos, n * one);
  held[1] = kern_copy(dev, b->seq, n * one);
  held[2] = kern_copy(dev, b->q_indptr, (seqs + 1) * one);
  held[3] = kern_copy(dev, b->kv_len, seqs * one);
  held[4] = kern_copy(dev, b->page_indptr, (seqs + 1) * one);
  held[5] = kern_copy(dev, b->page, ((size_t)b->page_indptr[seqs] + 1) * one);
  return (weir_ragged){.n_tokens = b->n,
                       .n_seqs = b->seqs,
                       .pos = held[0],
                       .seq = held[1],
                       .q_indptr = held[2],
                       .kv_len = held[3],
                       .page_indptr = held[4],
                       .page = held[5],
                       .max_q_len = b->max_q,
                       .max_kv_len = b->max_kv};
}
static void drop_batch(weir_dev *dev, void *held[N_ARRAYS]) {
  for (int i = 0; i < N_ARRAYS; i++) weir_dev_release(dev, held[i]);
}

/* ---- angles ---- */

static void angles_of(weir_dev *dev, const batch *b, int32_t dims, float base, float mscale, double *worst) {
  const int32_t half = dims / 2;
  weir_err e = {0};
  void *held[N_ARRAYS];
  float freq[128];
  for (int32_t j = 0; j < half; j++) freq[j] = (float)pow((double)base, -2.0 * j / dims);
  const weir_ragged g = put_batch(dev, b, held);
  float *on_device = kern_copy(dev, freq, sizeof *freq * (size_t)half);
  const weir_mat a = kern_mat(dev, b->n, dims, 3);
  kern_ok(weir_op_rope_angles(dev, a, &g, on_device, mscale, &e), &e, "rope_angles");
  float *got = kern_get(dev, a);
  for (int32_t r = 0; r < b->n; r++)
    for (int32_t j = 0; j < half; j++) {
      const double x = (double)b->pos[r] * (double)freq[j], m = (double)mscale;
      const double c = m * cos(x), s = m * sin(x);
      /* An ulp of what it should be, and what double leaves of the reduction near a zero. */
      const double err = fmax(fabs((double)got[r * dims + j] - c) / (fabs(c) * 0x1p-23 + 1e-10),
                              fabs((double)got[r * dims + half + j] - s) / (fabs(s) * 0x1p-23 + 1e-10));
      if (!(err <= 1))
        fail_msg("position %d, frequency %g: wrong by %g ulp", b->pos[r], (double)freq[j], err);
      *worst = fmax(*worst, err);
    }
  free(got);
  kern_mat_free(dev, a);
  weir_dev_release(dev, on_device);
  drop_batch(dev, held);
}

static void test_angles(void **state) {
  static const int32_t pos[] = {0, 1, 2, 3, 17, 511, 4095, 8191, 131071, 999999, 1000000, 1048575, 1600000};
  static const int32_t dims_of[] = {2, 6, 64, 80, 128, 256};
  enum { ROWS = sizeof pos / sizeof *pos };
  static const int32_t zero[ROWS] = {0}, indptr[] = {0, ROWS}, len[] = {1600001}, none[] = {0, 0};
  const batch b = {ROWS, 1, ROWS, 1600001, pos, zero, indptr, len, none, zero};
  double worst = 0;
  (void)state;
  const pair p = open_pair(1);
  for (int32_t i = 0; i < COUNT(dims_of); i++) {
    angles_of(p.dev[CUDA], &b, dims_of[i], i % 2 ? 1e6f : 1e4f, 1.0f, &worst);
    angles_of(p.dev[CUDA], &b, dims_of[i], 1e4f, 1.3465736f, &worst);
  }
  close_pair(p);
  print_message("angles: worst %.2g ulp (bound 1)\n", worst);
}

/* ---- rotation and append ---- */

typedef struct shape {
  int32_t head_dim, rope_dims, n_heads, n_kv, page_size, pad;
  bool interleaved, q_norm, k_norm;
  weir_dtype dtype;
} shape;

/* Four sequences: a chunk across pages, a decode row, a fresh prompt, a decode row on the last slot of a
 * page. */
enum { SEQS = 4, ROWS = 27, MAX_PAGES = 1024 };
static const int32_t Q_LEN[SEQS] = {17, 1, 8, 1}, KV_LEN[SEQS] = {50, 33, 8, 48};

typedef struct step {
  int32_t pos[ROWS], seq[ROWS], q_indptr[SEQS + 1], page_indptr[SEQS + 1], page[MAX_PAGES];
  int32_t n_pages;
  batch b;
} step;

static void make_step(step *t, int32_t page_size, kern_rng *rng) {
  int32_t order[MAX_PAGES];
  t->n_pages = 3;
  for (int32_t s = 0; s < SEQS; s++) t->n_pages += (KV_LEN[s] + page_size - 1) / page_size;
  assert_in_range(t->n_pages, 1, MAX_PAGES);
  for (int32_t i = 0; i < t->n_pages; i++) order[i] = i;
  kern_shuffle(rng, order, t->n_pages);
  memcpy(t->page, order, sizeof order);
  t->q_indptr[0] = t->page_indptr[0] = 0;
  for (int32_t s = 0, n = 0; s < SEQS; s++) {
    for (int32_t i = 0; i < Q_LEN[s]; i++, n++) t->pos[n] = KV_LEN[s] - Q_LEN[s] + i, t->seq[n] = s;
    t->q_indptr[s + 1] = n;
    t->page_indptr[s + 1] = t->page_indptr[s] + (KV_LEN[s] + page_size - 1) / page_size;
  }
  t->b = (batch){ROWS, SEQS, 17, 50, t->pos, t->seq, t->q_indptr, KV_LEN, t->page_indptr, t->page};
}

typedef struct result {
  float *qkv;
  unsigned char *kv;
} result;

typedef struct inputs {
  float *x, *q_norm, *k_norm, *angles;
  size_t kv_bytes;
  int fill; /* of the KV before */
} inputs;

static result run(weir_dev *dev, const shape *s, const step *t, const inputs *in) {
  const int32_t cols = (s->n_heads + 2 * s->n_kv) * s->head_dim;
  const size_t norm_bytes = sizeof(float) * (size_t)s->head_dim;
  weir_err e = {0};
  void *held[N_ARRAYS];
  result r = {NULL, malloc(in->kv_bytes)};
  assert_non_null(r.kv);
  memset(r.kv, in->fill, in->kv_bytes);
  const weir_ragged g = put_batch(dev, &t->b, held);
  const weir_mat qkv = kern_mat(dev, ROWS, cols, s->pad), none = {0},
                 angles = s->rope_dims ? kern_mat(dev, ROWS, s->rope_dims, s->pad) : none;
  float *q_norm = kern_copy(dev, in->q_norm, norm_bytes), *k_norm = kern_copy(dev, in->k_norm, norm_bytes);
  void *kv = kern_copy(dev, r.kv, in->kv_bytes);
  kern_put(dev, qkv, in->x);
  if (s->rope_dims) kern_put(dev, angles, in->angles);
  const weir_rope_args a = {.qkv = qkv,
                            .angles = angles,
                            .n_heads = s->n_heads,
                            .rope_dims = s->rope_dims,
                            .interleaved = s->interleaved,
                            .q_norm = s->q_norm ? q_norm : NULL,
                            .k_norm = s->k_norm ? k_norm : NULL,
                            .norm_eps = 1e-6f,
                            .kv = {kv, s->dtype, t->n_pages, s->n_kv, s->page_size, s->head_dim}};
  kern_ok(weir_op_rope_append(dev, &a, &g, &e), &e, "rope_append");
  kern_ok(weir_dev_download(dev, r.kv, kv, in->kv_bytes, &e), &e, "download");
  r.qkv = kern_get(dev, qkv);
  drop_batch(dev, held);
  weir_dev_release(dev, q_norm);
  weir_dev_release(dev, k_norm);
  weir_dev_release(dev, kv);
  kern_mat_free(dev, qkv);
  if (s->rope_dims) kern_mat_free(dev, angles);
  return r;
}

static void turned(const shape *s, const float *x, const float *norm, const float *angle, double *want) {
  const int32_t d = s->head_dim, half = s->rope_dims / 2;
  double square = 0;
  for (int32_t i = 0; i < d; i++) want[i] = (double)x[i], square += want[i] * want[i];
  for (int32_t i = 0; i < d && norm; i++) want[i] *= (double)norm[i] / sqrt(square / d + 1e-6);
  for (int32_t i = 0; i < half; i++) {
    const int32_t a = s->interleaved ? 2 * i : i, b = s->interleaved ? a + 1 : i + half;
    const double c = (double)angle[i], n = (double)angle[half + i], u = want[a], v = want[b];
    want[a] = u * c - v * n;
    want[b] = u * n + v * c;
  }
}

/* A row of one head in the KV: exactly what qkv has, in its type; and untouched from here on. */
static void kv_row(const shape *s, unsigned char *kv, size_t at, const float *x, int fill, const char *what) {
  for (int32_t i = 0; i < s->head_dim; i++) {
    if (s->dtype == WEIR_F16) {
      const uint16_t want = weir_f32_to_f16(x[i]);
      uint16_t got;
      memcpy(&got, kv + 2 * (at + (size_t)i), 2);
      if (got != want) fail_msg("%s, element %d: %04x, want %04x", what, i, got, want);
      memset(kv + 2 * (at + (size_t)i), fill, 2);
    } else {
      kern_same(kv + 4 * (at + (size_t)i), x + i, 4, what);
      memset(kv + 4 * (at + (size_t)i), fill, 4);
    }
  }
}

static void check(const shape *s, const step *t, const inputs *in, const result *got, double *worst) {
  const size_t d = (size_t)s->head_dim, cols = (size_t)(s->n_heads + 2 * s->n_kv) * d;
  for (int32_t r = 0; r < ROWS; r++) {
    const float *x = in->x + (size_t)r * cols, *y = got->qkv + (size_t)r * cols;
    for (int32_t h = 0; h < s->n_heads + 2 * s->n_kv; h++) {
      const bool is_q = h < s->n_heads, is_v = h >= s->n_heads + s->n_kv;
      const float *norm = is_q ? (s->q_norm ? in->q_norm : NULL) : s->k_norm ? in->k_norm : NULL;
      const size_t at = (size_t)h * d;
      if (is_v) {
        kern_same(y + at, x + at, sizeof *x * d, "v, which only goes to the KV");
      } else {
        double want[512];
        turned(s, x + at, norm, in->angles + (size_t)r * (size_t)s->rope_dims, want);
        cuda_near(y + at, want, 1, s->head_dim, 1e-6, is_q ? "q" : "k");
        *worst = fmax(*worst, cuda_worst_row(y + at, want, 1, s->head_dim));
      }
      if (is_q) continue;
      const int32_t kv_head = (h - s->n_heads) % s->n_kv,
                    page = t->page[t->page_indptr[t->seq[r]] + t->pos[r] / s->page_size];
      const size_t line =
          (((size_t)page * 2 + is_v) * (size_t)s->n_kv + (size_t)kv_head) * (size_t)s->page_size +
          (size_t)(t->pos[r] % s->page_size);
      kv_row(s, got->kv, line * d, y + at, in->fill, is_v ? "v in the KV" : "k in the KV");
    }
  }
  for (size_t i = 0; i < in->kv_bytes; i++)
    if (got->kv[i] != in->fill) fail_msg("byte %zu of the KV is no row's, and was written", i);
}

static void run_shape(const pair *p, const shape *s, double *worst) {
  kern_rng rng = {(uint64_t)s->head_dim * 31 + (uint64_t)s->rope_dims};
  const size_t d = (size_t)s->head_dim, cols = (size_t)(s->n_heads + 2 * s->n_kv) * d,
               half = (size_t)s->rope_dims / 2;
  step *t = malloc(sizeof *t);
  assert_non_null(t);
  make_step(t, s->page_size, &rng);
  const inputs in = {.x = kern_normals(&rng, ROWS * cols, 2),
                     .q_norm = kern_normals(&rng, d, 1),
                     .k_norm = kern_normals(&rng, d, 1),
                     .angles = kern_normals(&rng, ROWS * 2 * half + 1, 3),
                     .kv_bytes = (size_t)t->n_pages * 2 * (size_t)s->n_kv * (size_t)s->page_size * d *
                                 (s->dtype == WEIR_F16 ? 2 : 4),
                     .fill = 0xfe}; /* NaN in both types */
  for (size_t r = 0; r < ROWS; r++)
    for (size_t i = 0; i < half; i++) {
      float *a = in.angles + r * 2 * half + i;
      const double x = (double)*a;
      a[0] = (float)cos(x), a[half] = (float)sin(x);
    }
  const result gpu = run(p->dev[CUDA], s, t, &in), cpu = run(p->dev[CPU], s, t, &in);
  for (size_t h = 0; h < ROWS * cols / d; h++) { /* the CPU's, head by head */
    double want[512];
    for (size_t i = 0; i < d; i++) want[i] = (double)cpu.qkv[h * d + i];
    cuda_near(gpu.qkv + h * d, want, 1, s->head_dim, 1e-6, "the CPU's head");
  }
  for (size_t i = 0; s->dtype == WEIR_F16 && i < in.kv_bytes / 2; i++) { /* within a rounding of the CPU's */
    uint16_t a, b;
    memcpy(&a, gpu.kv + 2 * i, 2);
    memcpy(&b, cpu.kv + 2 * i, 2);
    if (abs((a & 0x7fff) - (b & 0x7fff)) > 1 && fabsf(weir_f16_to_f32(a) - weir_f16_to_f32(b)) > 1e-5f)
      fail_msg("element %zu of the KV: %04x, the CPU has %04x", i, a, b);
  }
  check(s, t, &in, &gpu, worst);
  free(gpu.qkv), free(gpu.kv), free(cpu.qkv), free(cpu.kv);
  free(in.x), free(in.q_norm), free(in.k_norm), free(in.angles), free(t);
}

static void test_append(void **state) {
  static const shape shapes[] = {
      {8, 8, 2, 1, 16, 0, true, false, false, WEIR_F32},
      {32, 32, 2, 1, 16, 0, true, false, false, WEIR_F16},
      {64, 64, 4, 2, 16, 0, true, false, false, WEIR_F16},
      {64, 64, 5, 5, 1, 0, false, false, false, WEIR_F32},
      {80, 32, 7, 1, 16, 0, false, false, false, WEIR_F16},
      {80, 20, 4, 4, 16, 0, true, true, true, WEIR_F32},
      {128, 128, 8, 2, 16, 0, false, true, true, WEIR_F16},
      {128, 64, 8, 8, 16, 4, true, true, true, WEIR_F16},
      {128, 128, 3, 1, 32, 3, false, true, true, WEIR_F16},
      {128, 128, 3, 1, 7, 2, true, true, true, WEIR_F32},
      {64, 0, 4, 2, 16, 0, true, false, false, WEIR_F16},
      {96, 0, 4, 1, 16, 0, false, true, true, WEIR_F32},
      {256, 256, 4, 2, 16, 0, false, true, true, WEIR_F16},
      {256, 64, 2, 1, 16, 1, false, true, false, WEIR_F16},
      {96, 72, 4, 2, 16, 0, false, false, true, WEIR_F16},
      {10, 6, 3, 3, 4, 0, false, true, true, WEIR_F16},
      {10, 10, 3, 3, 32, 1, true, true, true, WEIR_F16},
      {1, 0, 1, 1, 5, 0, false, true, true, WEIR_F32},
      {192, 192, 2, 1, 64, 0, false, false, true, WEIR_F16},
      {2, 2, 9, 3, 16, 0, false, false, false, WEIR_F32},
  };
  double worst = 0;
  (void)state;
  for (int32_t i = 0; i < COUNT(shapes); i++) {
    const pair p = open_pair((uint64_t)i);
    run_shape(&p, &shapes[i], &worst);
    close_pair(p);
  }
  print_message("rope_append: worst head %.2g (bound 1e-6)\n", worst);
}

/* Values beyond a half become infinite and no number stays none: in their own places. A page that the KV does
 * not have is written nowhere. */
static void test_odd_values(void **state) {
  const shape s = {64, 64, 1, 1, 16, 0, false, false, false, WEIR_F16};
  enum { COLS = 192 };
  kern_rng rng = {3};
  step *t = malloc(sizeof *t);
  (void)state;
  assert_non_null(t);
  make_step(t, 16, &rng);
  const inputs in = {.x = kern_normals(&rng, ROWS * COLS, 1),
                     .q_norm = kern_normals(&rng, 64, 1),
                     .k_norm = kern_normals(&rng, 64, 1),
                     .angles = kern_normals(&rng, ROWS * 64, 1),
                     .kv_bytes = (size_t)t->n_pages * 2 * 16 * 64 * 2,
                     .fill = 0};
  const pair p = open_pair(5);
  result before = run(p.dev[CUDA], &s, t, &in);
  in.x[3 * COLS + 128] = 1e6f, in.x[3 * COLS + 129] = -1e6f, in.x[3 * COLS + 130] = NAN;
  in.x[5 * COLS + 64] = NAN; /* k: and its partner */
  result after = run(p.dev[CUDA], &s, t, &in);
  size_t changed = 0;
  for (size_t i = 0; i < in.kv_bytes / 2; i++) changed += memcmp(before.kv + 2 * i, after.kv + 2 * i, 2) != 0;
  assert_int_equal(changed, 5);
  free(before.qkv), free(before.kv);
  before = after;
  const int32_t lost = t->page[t->page_indptr[1] + 32 / 16]; /* the decode row's */
  t->page[t->page_indptr[1] + 32 / 16] = t->n_pages;
  after = run(p.dev[CUDA], &s, t, &in);
  changed = 0;
  for (size_t i = 0; i < in.kv_bytes / 2; i++) changed += memcmp(before.kv + 2 * i, after.kv + 2 * i, 2) != 0;
  assert_in_range(changed, 120, 128); /* of its 128 hardly one is zero */
  t->page[t->page_indptr[1] + 32 / 16] = lost;
  close_pair(p);
  free(before.qkv), free(before.kv), free(after.qkv), free(after.kv);
  free(in.x), free(in.q_norm), free(in.k_norm), free(in.angles), free(t);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_angles), cmocka_unit_test(test_append),
                                     cmocka_unit_test(test_odd_values)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
