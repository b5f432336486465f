/* SPDX-License-Identifier: Apache-2.0 */
/* Speed of linear at decode, catch-up and prefill shapes, beside what the machine gives: memory read by all
 * threads and, where it has VNNI, 8-bit dot products out of registers. One line a case on stdout; the best of
 * the repetitions, for other programs only ever make a run slower. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "bench_cpu.h"
#include "cpu/machine.h"
#include "kernels/cpu/cpu.h"
#include "kernels/quant.h"

enum { COPIES_MAX = 1024 };

typedef struct options {
  bench_cpu cpu;
  size_t set_bytes; /* of weights that decode walks through, so that caches hold little of them */
  const char *type; /* NULL: all */
  int32_t only_n;   /* 0: all */
} options;

static const char *const help =
    "usage: bench_ops [options]\n"
    "Times weir's linear operation on the CPU and prints, for each type and shape, microseconds, GB/s of\n"
    "weights and GOP/s (a multiply-add is two), with the share of the measured limits.\n"
    "  -t, --threads N     threads (default: one per core)\n"
    "  -i, --isa NAME      scalar, avx2, avx512-vnni, amx or best (default: best)\n"
    "  -d, --type NAME     only this weight type, by its name in GGUF\n"
    "  -n, --rows N        only this number of activation rows\n"
    "  -s, --seconds S     time spent on a case (default 0.2)\n"
    "  -m, --mib N         MiB of weights that big shapes walk through (default 256)\n"
    "  -h, --help          this text\n";

static const struct shape {
  int32_t rows, cols;
  const char *what;
} shapes[] = {
    {256, 128, "small demo"},
    {768, 256, "large demo"},
    {4096, 4096, "8B attention"},
    {14336, 4096, "8B mlp"},
};
static const int32_t batch_rows[] = {1, 2, 4, 8, 16, 32, 128, 512};

#define COUNT(a) (sizeof(a) / sizeof *(a))

/* ---- linear ---- */

typedef struct limits {
  double read, dot; /* a second */
} limits;

/* Random bytes with plausible scales: timing does not depend on values, except for denormals and NaN. */
static weir_status fill_stored(weir_dtype t, uint8_t *data, size_t rows, size_t row_bytes, size_t cols,
                               weir_err *e) {
  weir_status st = WEIR_OK;
  float *x = NULL;
  uint32_t s = 12345;
  WEIR_TRY(WEIR_NEW(cols, &x, e));
  for (size_t r = 0; r < rows; r++) {
    if (r >= 64) { /* the same rows again: quantising a gigabyte would take longer than the benchmark */
      memcpy(data + r * row_bytes, data + r % 64 * row_bytes, row_bytes);
      continue;
    }
    for (size_t c = 0; c < cols; c++) {
      s = s * 1664525u + 1013904223u;
      x[c] = (float)(int32_t)s * 0x1p-33f;
    }
    WEIR_TRY(weir_quantize_row(t, x, data + r * row_bytes, (int64_t)cols, e));
  }

out:
  free(x);
  return st;
}

/* Best time of one call in nanoseconds, walking through the copies. */
static weir_status time_linear(weir_dev *dev, weir_mat y, weir_mat x, const weir_weight *w, size_t copies,
                               double seconds, double *best, weir_err *e) {
  weir_status st = WEIR_OK;
  /* Short calls are timed in runs, else the clock would be timed too. */
  const double guess = (double)x.rows * w->rows * w->cols / 200.0;
  const size_t run = copies > 1 || guess > 50000 ? copies : 1 + (size_t)(50000 / guess);
  *best = 1e30;
  for (size_t i = 0; i < copies; i++) WEIR_TRY(weir_op_linear(dev, y, x, &w[i], NULL, e));
  const int64_t end = bench_now() + (int64_t)(seconds * 1e9);
  do {
    const int64_t began = bench_now();
    for (size_t i = 0; i < run; i++) WEIR_TRY(weir_op_linear(dev, y, x, &w[i % copies], NULL, e));
    WEIR_TRY(weir_dev_sync(dev, e));
    const double each = (double)(bench_now() - began) / (double)run;
    if (each < *best) *best = each;
  } while (bench_now() < end);

out:
  return st;
}

static weir_status bench_shape(weir_dev *dev, const options *o, const limits *lim, weir_dtype t,
                               const struct shape *s, weir_err *e) {
  weir_status st = WEIR_OK;
  uint8_t *stored = NULL;
  float *host = NULL, *xd = NULL, *yd = NULL;
  weir_weight *w = NULL;
  size_t row_bytes, n_w = 0;
  const size_t rows = (size_t)s->rows, cols = (size_t)s->cols;
  const int32_t most = batch_rows[COUNT(batch_rows) - 1];
  WEIR_TRY(weir_dtype_row_bytes(t, s->cols, &row_bytes, e));
  const size_t bytes = rows * row_bytes;
  size_t copies = bytes > ((size_t)4 << 20) ? (o->set_bytes + bytes - 1) / bytes : 1;
  if (copies > COPIES_MAX) copies = COPIES_MAX;
  if (copies < 1) copies = 1;
  WEIR_TRY(WEIR_NEW(bytes, &stored, e));
  WEIR_TRY(WEIR_NEW(copies, &w, e));
  WEIR_TRY(WEIR_NEW((size_t)most * cols, &host, e));
  WEIR_TRY(fill_stored(t, stored, rows, row_bytes, cols, e));
  for (size_t i = 0; i < (size_t)most * cols; i++) host[i] = (float)((int)(i * 7919 % 2003) - 1001) * 1e-3f;
  WEIR_TRY(weir_dev_alloc(dev, (size_t)most * cols * sizeof(float), (void **)&xd, e));
  WEIR_TRY(weir_dev_alloc(dev, (size_t)most * rows * sizeof(float), (void **)&yd, e));
  WEIR_TRY(weir_dev_upload(dev, xd, host, (size_t)most * cols * sizeof(float), e));
  const weir_host_mat part = {stored, t, s->rows, s->cols};
  for (; n_w < copies; n_w++) WEIR_TRY(weir_weight_prepare(dev, &part, 1, &w[n_w], e));
  for (size_t b = 0; b < COUNT(batch_rows); b++) {
    const int32_t n = batch_rows[b];
    double ns;
    if (o->only_n && o->only_n != n) continue;
    WEIR_TRY(time_linear(dev, (weir_mat){yd, n, s->rows, s->rows}, (weir_mat){xd, n, s->cols, s->cols}, w,
                         copies, o->cpu.seconds, &ns, e));
    const double rate = (double)w[0].bytes / ns, ops = 2.0 * n * (double)rows * (double)cols / ns;
    printf("%-4s %6d x %-5d n %-4d %10.1f us %7.2f GB/s", weir_dtype_get(t)->name, s->rows, s->cols, n,
           ns / 1e3, rate);
    if (copies > 1)
      printf(" (%4.2f of read)", rate / lim->read * 1e9);
    else
      printf("               ");
    printf(" %8.1f GOP/s", ops);
    if (lim->dot > 0 && weir_dtype_is_quant(t)) printf(" (%4.2f of dot)", ops / lim->dot * 1e9);
    printf("  %s\n", s->what);
    fflush(stdout);
  }

out:
  for (size_t i = 0; i < n_w; i++) weir_weight_release(&w[i]);
  weir_dev_release(dev, xd);
  weir_dev_release(dev, yd);
  free(w);
  free(host);
  free(stored);
  return st;
}

/* Bytes a second of the fastest way to read memory that the device allocated (huge pages alike). */
static weir_status read_limit(const bench_machine *m, size_t bytes, double *out, weir_err *e) {
  uint8_t *data;
  const weir_status st = bench_machine_alloc(m, bytes, &data, e);
  *out = 0;
  if (st != WEIR_OK) return st;
  for (bench_walk w = 0; w < BENCH_WALKS; w++) {
    const double rate = bench_walk_copies(w) ? 0 : bench_machine_walk(m, w, data, bytes, 0.2).best;
    if (rate > *out) *out = rate;
  }
  weir_dev_release(m->dev, data);
  return WEIR_OK;
}

static weir_status bench_all(weir_dev *dev, const void *ctx, weir_err *e) {
  const options *o = ctx;
  weir_status st = WEIR_OK;
  bench_machine m = {0};
  limits lim;
  int shown = 0;
  WEIR_TRY(weir_dev_reserve(dev, &(weir_dev_limits){.max_tokens = 512, .max_cols = 14336}, e));
  WEIR_TRY(bench_machine_open(&m, dev, e));
  WEIR_TRY(read_limit(&m, o->set_bytes, &lim.read, e));
  lim.dot = bench_machine_peak(&m, "i8 avx512-vnni", 0.3).best;
  printf("%s, %d threads: reads %.1f GB/s, 8-bit dot products %.0f GOP/s, fork and join %.2f us\n",
         weir_isa_name(weir_cpu_isa(dev)), weir_cpu_n_threads(dev), lim.read / 1e9, lim.dot / 1e9,
         bench_machine_fork_work(&m, 0.1).best / 1e3);
  for (int t = 0; t < WEIR_DTYPE_COUNT; t++) {
    if (o->type && strcmp(o->type, weir_dtype_get((weir_dtype)t)->name) != 0) continue;
    for (size_t s = 0; s < COUNT(shapes); s++) {
      if (shapes[s].cols % weir_dtype_get((weir_dtype)t)->block_elems != 0) continue;
      WEIR_TRY(bench_shape(dev, o, &lim, (weir_dtype)t, &shapes[s], e));
      shown++;
    }
  }
  if (!shown) st = weir_fail(e, WEIR_EINVAL, "no such type: %s", o->type);

out:
  bench_machine_close(&m);
  return st;
}

int main(int argc, char **argv) {
  const char *rows = NULL, *mib = NULL;
  options o = {.set_bytes = (size_t)256 << 20};
  o.cpu = (bench_cpu){"bench_ops",
                      help,
                      {{"type", 'd', &o.type}, {"rows", 'n', &rows}, {"mib", 'm', &mib}},
                      {.isa = WEIR_ISA_BEST},
                      0.2};
  const int done = bench_parse(&o.cpu, argc, argv);
  if (done) return done - 1;
  if (rows) o.only_n = atoi(rows);
  if (mib) o.set_bytes = (size_t)atoi(mib) << 20;
  return bench_run(&o.cpu, bench_all, &o);
}
