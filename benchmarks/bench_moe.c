/* SPDX-License-Identifier: Apache-2.0 */
/* Speed of the mixture of experts at decode, catch-up and prefill, beside the same work done dense: each used
 * expert's two linears over the rows that it gets. One line a case on stdout; the best of the repetitions,
 * for other programs only ever make a run slower. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "bench_cpu.h"
#include "kernels/cpu/cpu.h"
#include "kernels/quant.h"

enum { MAX_ROWS = 512 };

typedef struct options {
  bench_cpu cpu;
  weir_dtype type;
  int32_t model; /* -1: all */
} options;

static const char *const help =
    "usage: bench_moe [options]\n"
    "Times one layer's mixture of experts on the CPU and prints, for each number of rows, microseconds, GB/s "
    "of\n"
    "the weights of the experts that are used and GOP/s (a multiply-add is two).\n"
    "  -t, --threads N     threads (default: one per core)\n"
    "  -i, --isa NAME      scalar, avx2, avx512-vnni or best (default: best)\n"
    "  -d, --type NAME     type of the weights, by its name in GGUF (default: Q4_0)\n"
    "  -m, --model N       only this one of the layers\n"
    "  -s, --seconds S     time spent on a case (default 0.5)\n"
    "  -h, --help          this text\n";

/* Layers of models people run; the second with fewer experts than it has, so that it fits a small machine. */
static const struct layer {
  int32_t dim, ff, n_experts, n_used;
  const char *what;
} layers[] = {{2048, 768, 128, 8, "Qwen3 30B-A3B"}, {4096, 14336, 4, 2, "Mixtral 8x7B, 4 experts"}};
static const int32_t batch_rows[] = {1, 4, 16, 64, 512};

#define COUNT(a) (sizeof(a) / sizeof *(a))

static weir_status prepare(weir_dev *dev, weir_dtype t, int32_t rows, int32_t cols, int32_t n, weir_weight *w,
                           int32_t *n_done, weir_err *e) {
  weir_status st = WEIR_OK;
  uint8_t *stored = NULL;
  float *x = NULL;
  size_t bytes;
  uint32_t s = 12345;
  WEIR_TRY(weir_dtype_row_bytes(t, cols, &bytes, e));
  WEIR_TRY(WEIR_NEW(bytes * (size_t)rows, &stored, e));
  WEIR_TRY(WEIR_NEW((size_t)cols, &x, e));
  for (int32_t r = 0; r < rows; r++) {
    if (r >= 64) { /* the same rows again: speed does not depend on them */
      memcpy(stored + (size_t)r * bytes, stored + (size_t)(r % 64) * bytes, bytes);
      continue;
    }
    for (int32_t c = 0; c < cols; c++) {
      s = s * 1664525u + 1013904223u;
      x[c] = (float)(int32_t)s * 0x1p-35f;
    }
    WEIR_TRY(weir_quantize_row(t, x, stored + (size_t)r * bytes, cols, e));
  }
  const weir_host_mat part = {stored, t, rows, cols};
  for (*n_done = 0; *n_done < n; ++*n_done) WEIR_TRY(weir_weight_prepare(dev, &part, 1, &w[*n_done], e));
out:
  free(stored);
  free(x);
  return st;
}

/* The best time of one call in nanoseconds; with `dense`, of the linears alone, each used expert over its
 * mean number of rows. */
static weir_status time_case(weir_dev *dev, const options *o, const weir_moe_args *a, weir_mat y, weir_mat h,
                             int32_t n_hit, bool dense, double *best, weir_err *e) {
  weir_status st = WEIR_OK;
  const int32_t mean = (int32_t)(((int64_t)a->x.rows * a->n_used + n_hit - 1) / n_hit), ff = a->down[0].cols;
  const int64_t end = bench_now() + (int64_t)(o->cpu.seconds * 1e9);
  weir_mat x = a->x, act = h;
  x.rows = y.rows = h.rows = act.rows = mean < x.rows ? mean : x.rows;
  act.cols = ff;
  *best = 1e30;
  do {
    const int64_t began = bench_now();
    if (dense)
      for (int32_t i = 0; i < n_hit; i++) {
        WEIR_TRY(weir_op_linear(dev, h, x, &a->gate_up[i], NULL, e));
        WEIR_TRY(weir_op_linear(dev, y, act, &a->down[i], NULL, e));
      }
    else
      WEIR_TRY(weir_op_moe(dev, (weir_mat){y.data, a->x.rows, y.cols, y.ld}, a, e));
    WEIR_TRY(weir_dev_sync(dev, e));
    const double ns = (double)(bench_now() - began);
    if (ns < *best) *best = ns;
  } while (bench_now() < end);
out:
  return st;
}

static weir_status bench_layer(weir_dev *dev, const options *o, const struct layer *l, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_weight *gate_up = NULL, *down = NULL;
  int32_t n_up = 0, n_down = 0;
  float *host = NULL;
  bool *hit = NULL;
  weir_mat x = {NULL, MAX_ROWS, l->dim, l->dim}, y = x, logits = {NULL, MAX_ROWS, l->n_experts, l->n_experts},
           h = {NULL, MAX_ROWS, 2 * l->ff, 2 * l->ff};
  const size_t n_x = (size_t)MAX_ROWS * (size_t)l->dim, n_logits = (size_t)MAX_ROWS * (size_t)l->n_experts;
  uint32_t s = 777;
  const weir_dev_limits lim = {.max_tokens = MAX_ROWS,
                               .max_cols = l->dim > l->ff ? l->dim : l->ff,
                               .max_experts = l->n_experts,
                               .max_expert_ff = l->ff};
  WEIR_TRY(weir_dev_reserve(dev, &lim, e));
  WEIR_TRY(WEIR_NEW((size_t)l->n_experts, &gate_up, e));
  WEIR_TRY(WEIR_NEW((size_t)l->n_experts, &down, e));
  WEIR_TRY(WEIR_NEW((size_t)l->n_experts, &hit, e));
  WEIR_TRY(prepare(dev, o->type, 2 * l->ff, l->dim, l->n_experts, gate_up, &n_up, e));
  WEIR_TRY(prepare(dev, o->type, l->dim, l->ff, l->n_experts, down, &n_down, e));
  WEIR_TRY(weir_dev_alloc(dev, n_x * sizeof(float), (void **)&x.data, e));
  WEIR_TRY(weir_dev_alloc(dev, n_x * sizeof(float), (void **)&y.data, e));
  WEIR_TRY(weir_dev_alloc(dev, n_logits * sizeof(float), (void **)&logits.data, e));
  WEIR_TRY(weir_dev_alloc(dev, (size_t)MAX_ROWS * 2 * (size_t)l->ff * sizeof(float), (void **)&h.data, e));
  WEIR_TRY(WEIR_NEW(n_x > n_logits ? n_x : n_logits, &host, e));
  for (size_t i = 0; i < n_x; i++) host[i] = (float)((int)(i * 7919 % 2003) - 1001) * 1e-3f;
  WEIR_TRY(weir_dev_upload(dev, x.data, host, n_x * sizeof(float), e));
  for (size_t i = 0; i < n_logits; i++) {
    s = s * 1664525u + 1013904223u;
    host[i] = (float)(int32_t)s * 0x1p-30f;
  }
  WEIR_TRY(weir_dev_upload(dev, logits.data, host, n_logits * sizeof(float), e));
  for (size_t b = 0; b < COUNT(batch_rows); b++) {
    int32_t n_hit = 0;
    double ns, linears;
    x.rows = logits.rows = batch_rows[b];
    memset(hit, 0, sizeof *hit * (size_t)l->n_experts);
    for (int32_t r = 0; r < x.rows; r++) /* an expert is used when fewer than n_used are better */
      for (int32_t i = 0; i < l->n_experts; i++) {
        const float *row = host + (size_t)r * (size_t)l->n_experts;
        int32_t better = 0;
        for (int32_t k = 0; k < l->n_experts; k++) better += row[k] > row[i];
        n_hit += better < l->n_used && !hit[i];
        hit[i] |= better < l->n_used;
      }
    const weir_moe_args a = {.x = x,
                             .logits = logits,
                             .gate_up = gate_up,
                             .down = down,
                             .n_experts = l->n_experts,
                             .n_used = l->n_used,
                             .renormalise = true};
    WEIR_TRY(time_case(dev, o, &a, y, h, n_hit, false, &ns, e));
    WEIR_TRY(time_case(dev, o, &a, y, h, n_hit, true, &linears, e));
    const double macs = 3.0 * l->dim * l->ff * l->n_used * x.rows;
    printf("%-4s n %-4d %3d experts of %d %10.1f us %7.2f GB/s %8.1f GOP/s, linears alone %10.1f us  %s\n",
           weir_dtype_get(o->type)->name, x.rows, n_hit, l->n_experts, ns / 1e3,
           (double)(gate_up[0].bytes + down[0].bytes) * n_hit / ns, 2 * macs / ns, linears / 1e3, l->what);
    fflush(stdout);
  }
out:
  for (int32_t i = 0; i < n_up; i++) weir_weight_release(&gate_up[i]);
  for (int32_t i = 0; i < n_down; i++) weir_weight_release(&down[i]);
  weir_dev_release(dev, x.data);
  weir_dev_release(dev, y.data);
  weir_dev_release(dev, logits.data);
  weir_dev_release(dev, h.data);
  free(gate_up);
  free(down);
  free(hit);
  free(host);
  return st;
}

static weir_status bench_all(weir_dev *dev, const void *ctx, weir_err *e) {
  const options *o = ctx;
  weir_status st = WEIR_OK;
  printf("%s, %d threads\n", weir_isa_name(weir_cpu_isa(dev)), weir_cpu_n_threads(dev));
  for (size_t i = 0; i < COUNT(layers); i++)
    if (o->model < 0 || o->model == (int32_t)i) WEIR_TRY(bench_layer(dev, o, &layers[i], e));
out:
  return st;
}

int main(int argc, char **argv) {
  const char *type = "Q4_0", *model = NULL;
  options o = {
      .cpu = {"bench_moe", help, {{"type", 'd', &type}, {"model", 'm', &model}}, {.isa = WEIR_ISA_BEST}, 0.5},
      .model = -1};
  const int done = bench_parse(&o.cpu, argc, argv);
  if (done) return done - 1;
  int t = 0;
  while (t < WEIR_DTYPE_COUNT && strcmp(weir_dtype_get((weir_dtype)t)->name, type) != 0) t++;
  if (t == WEIR_DTYPE_COUNT) return bench_usage(&o.cpu, "unknown type", type);
  o.type = (weir_dtype)t;
  if (model) o.model = atoi(model);
  return bench_run(&o.cpu, bench_all, &o);
}
