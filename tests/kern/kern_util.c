/* SPDX-License-Identifier: Apache-2.0 */
/* Helpers of the operation tests. One thread. */
#include "kern_util.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/quant.h"

static const uint32_t GUARD = 0x7fc0beefu; /* a NaN nobody computes */

void kern_devs_open(kern_devs *d, const weir_dev_limits *lim) {
  memset(d, 0, sizeof *d);
  for (int isa = WEIR_ISA_SCALAR; isa < WEIR_ISA_BEST; isa++) {
    weir_err e = {0};
    const weir_cpu_opts o = {.n_threads = 1, .isa = (weir_isa)isa, .no_pin = true, .amx_small = true};
    if (weir_dev_open_cpu(&o, &d->dev[d->n], &e) != WEIR_OK) {
      print_message("left out: %s\n", e.msg);
      continue;
    }
    d->isa[d->n] = (weir_isa)isa;
    d->threads[d->n++] = 1;
  }
  for (int threads = 2; threads <= 4; threads++) {
    weir_err e = {0};
    const weir_cpu_opts o = {.n_threads = threads, .isa = WEIR_ISA_BEST, .no_pin = true, .amx_small = true};
    kern_ok(weir_dev_open_cpu(&o, &d->dev[d->n], &e), &e, "open");
    d->isa[d->n] = weir_cpu_isa(d->dev[d->n]);
    d->threads[d->n++] = threads;
  }
  for (int i = 0; i < d->n; i++) {
    weir_err e = {0};
    kern_ok(weir_dev_reserve(d->dev[i], lim, &e), &e, "reserve");
  }
}

void kern_devs_close(kern_devs *d) {
  for (int i = 0; i < d->n; i++) weir_dev_destroy(d->dev[i]);
  d->n = 0;
}

uint64_t kern_u64(kern_rng *r) { /* splitmix64 */
  uint64_t z = (r->s += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}
int32_t kern_below(kern_rng *r, int32_t n) { return (int32_t)(kern_u64(r) % (uint64_t)n); }
double kern_unit(kern_rng *r) { return ((double)(kern_u64(r) >> 12) + 0.5) * 0x1p-52; }
float kern_normal(kern_rng *r) {
  return (float)(sqrt(-2 * log(kern_unit(r))) * cos(6.283185307179586 * kern_unit(r)));
}
float *kern_normals(kern_rng *r, size_t n, float scale) {
  float *x = (float *)malloc(sizeof *x * (n > 0 ? n : 1));
  assert_non_null(x);
  for (size_t i = 0; i < n; i++) x[i] = kern_normal(r) * scale;
  return x;
}

void kern_blocks(kern_rng *r, weir_dtype t, size_t n_blocks, uint8_t *out) {
  /* Where a block has its halves, and the largest factor that multiplies them. */
  static const struct {
    int at[2];
    float most[2];
  } scale[WEIR_DTYPE_COUNT] = {
      [WEIR_Q8_0] = {{0, -1}, {127, 0}},     [WEIR_Q4_0] = {{0, -1}, {8, 0}},
      [WEIR_Q5_0] = {{0, -1}, {16, 0}},      [WEIR_Q4_K] = {{0, 2}, {63 * 15, 63}},
      [WEIR_Q5_K] = {{0, 2}, {63 * 31, 63}}, [WEIR_Q6_K] = {{208, -1}, {127 * 32, 0}},
  };
  assert_true(weir_dtype_is_quant(t));
  const size_t bytes = (size_t)weir_dtype_get(t)->block_bytes;
  for (size_t b = 0; b < n_blocks; b++, out += bytes) {
    for (size_t i = 0; i < bytes; i++) out[i] = (uint8_t)kern_u64(r);
    for (int h = 0; h < 2; h++) {
      if (scale[t].at[h] < 0) continue;
      const float d = (0.5f + (float)kern_unit(r)) * 2.0f / scale[t].most[h];
      const uint16_t half = weir_f32_to_f16(kern_below(r, 8) ? d : -d);
      memcpy(out + scale[t].at[h], &half, sizeof half);
    }
  }
}
void kern_shuffle(kern_rng *r, int32_t *x, int32_t n) {
  for (int32_t i = n - 1; i > 0; i--) {
    const int32_t j = kern_below(r, i + 1), t = x[i];
    x[i] = x[j];
    x[j] = t;
  }
}

static size_t mat_len(weir_mat m) { return (size_t)m.rows * (size_t)m.ld; }
static float *host_of(weir_dev *dev, weir_mat m) {
  weir_err e = {0};
  float *h = (float *)malloc(sizeof *h * (mat_len(m) + 1));
  assert_non_null(h);
  kern_ok(weir_dev_download(dev, h, m.data, sizeof *h * mat_len(m), &e), &e, "download");
  kern_ok(weir_dev_sync(dev, &e), &e, "sync");
  return h;
}

weir_mat kern_mat(weir_dev *dev, int32_t rows, int32_t cols, int32_t pad) {
  weir_err e = {0};
  weir_mat m = {NULL, rows, cols, cols + pad};
  void *p = NULL;
  kern_ok(weir_dev_alloc(dev, sizeof(float) * (mat_len(m) + 1), &p, &e), &e, "alloc");
  m.data = (float *)p;
  uint32_t *h = (uint32_t *)malloc(sizeof *h * (mat_len(m) + 1));
  assert_non_null(h);
  for (size_t i = 0; i < mat_len(m); i++) h[i] = GUARD;
  kern_ok(weir_dev_upload(dev, m.data, h, sizeof *h * mat_len(m), &e), &e, "upload");
  free(h);
  return m;
}
void kern_put(weir_dev *dev, weir_mat m, const float *dense) {
  weir_err e = {0};
  float *h = host_of(dev, m);
  for (size_t r = 0; r < (size_t)m.rows; r++)
    memcpy(h + r * (size_t)m.ld, dense + r * (size_t)m.cols, sizeof *h * (size_t)m.cols);
  kern_ok(weir_dev_upload(dev, m.data, h, sizeof *h * mat_len(m), &e), &e, "upload");
  free(h);
}
float *kern_get(weir_dev *dev, weir_mat m) {
  float *h = host_of(dev, m), *dense = (float *)malloc(sizeof *h * ((size_t)m.rows * (size_t)m.cols + 1));
  assert_non_null(dense);
  for (size_t r = 0; r < (size_t)m.rows; r++) {
    memcpy(dense + r * (size_t)m.cols, h + r * (size_t)m.ld, sizeof *h * (size_t)m.cols);
    for (size_t c = (size_t)m.cols; c < (size_t)m.ld; c++) {
      uint32_t bits;
      memcpy(&bits, h + r * (size_t)m.ld + c, sizeof bits);
      if (bits != GUARD) fail_msg("row %zu: guard column %zu was written", r, c);
    }
  }
  free(h);
  return dense;
}
void kern_mat_free(weir_dev *dev, weir_mat m) { weir_dev_release(dev, m.data); }
void *kern_copy(weir_dev *dev, const void *host, size_t bytes) {
  weir_err e = {0};
  void *p = NULL;
  kern_ok(weir_dev_alloc(dev, bytes, &p, &e), &e, "alloc");
  kern_ok(weir_dev_upload(dev, p, host, bytes, &e), &e, "upload");
  return p;
}

double kern_row_error(const float *a, const double *b, int32_t n) {
  double top = 0, worst = 0;
  for (int32_t i = 0; i < n; i++) {
    const double d = fabs((double)a[i] - b[i]);
    if (!(d <= 1e30)) return INFINITY;
    if (d > worst) worst = d;
    if (fabs(b[i]) > top) top = fabs(b[i]);
  }
  return top > 0 ? worst / top : worst;
}
void kern_ok(weir_status st, const weir_err *e, const char *what) {
  if (st != WEIR_OK) fail_msg("%s: %s (%d)", what, e->msg, (int)st);
}
void kern_same(const void *a, const void *b, size_t bytes, const char *what) {
  const unsigned char *x = (const unsigned char *)a, *y = (const unsigned char *)b;
  for (size_t i = 0; i < bytes; i++)
    if (x[i] != y[i]) fail_msg("%s: byte %zu of %zu differs", what, i, bytes);
}
