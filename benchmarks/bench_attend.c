/* SPDX-License-Identifier: Apache-2.0 */
/* Speed of attention over paged KV: decode rows over short and long contexts, prefill of a chunk, with and
 * without a window and a soft cap. One line a case on stdout; the best of the repetitions, for other programs
 * only ever make a run slower. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "bench_cpu.h"
#include "kernels/cpu/cpu.h"
#include "kernels/quant.h"

enum { PAGE = 16, MAX_KV = 32768, MAX_SEQS = 16, MAX_ROWS = 512 };

typedef struct options {
  bench_cpu cpu;
  int32_t only_kv; /* 0: all */
} options;

static const char *const help =
    "usage: bench_attend [options]\n"
    "Times weir's attention on the CPU and prints, for each case, microseconds, GB/s of the KV that the rows "
    "see\n"
    "(once a sequence) and GFLOP/s of their scores and values (a multiply-add is two).\n"
    "  -t, --threads N     threads (default: one per core)\n"
    "  -i, --isa NAME      scalar, avx2, avx512-vnni, amx or best (default: best)\n"
    "  -k, --kv N          only this length of context\n"
    "  -s, --seconds S     time spent on a case (default 0.2)\n"
    "  -h, --help          this text\n";

/* Heads of models people run. */
static const struct heads {
  int32_t n_heads, n_kv_heads, head_dim;
  const char *what;
} heads[] = {{32, 8, 128, "Llama 3 8B"}, {8, 4, 256, "Gemma 2 2B"}};

static const struct look {
  int32_t n_seqs, n_rows, kv_len; /* n_rows of each sequence, the last of kv_len positions */
  int32_t window;
  float softcap;
} looks[] = {{1, 1, 512, 0, 0},      {1, 1, 4096, 0, 0},    {1, 1, 8192, 0, 0},     {1, 1, 8192, 0, 50},
             {1, 1, 8192, 4096, 0},  {1, 1, 8192, 1024, 0}, {1, 1, 32768, 1024, 0}, {16, 1, 2048, 0, 0},
             {16, 1, 2048, 1024, 0}, {1, 512, 512, 0, 0},   {1, 512, 512, 0, 50},   {1, 512, 8192, 0, 0},
             {1, 512, 8192, 1024, 0}};

#define COUNT(a) (sizeof(a) / sizeof *(a))

typedef struct arrays {
  int32_t pos[MAX_ROWS], seq[MAX_ROWS], q_indptr[MAX_SEQS + 1], kv_len[MAX_SEQS], page_indptr[MAX_SEQS + 1];
  int32_t page[MAX_KV / PAGE]; /* of all sequences; scattered */
} arrays;

static weir_ragged make_ragged(const struct look *k, arrays *a) {
  const int32_t pages = (k->kv_len + PAGE - 1) / PAGE, n_pages = pages * k->n_seqs;
  for (int32_t s = 0; s < k->n_seqs; s++) {
    for (int32_t r = 0; r < k->n_rows; r++) {
      a->pos[s * k->n_rows + r] = k->kv_len - k->n_rows + r;
      a->seq[s * k->n_rows + r] = s;
    }
    a->kv_len[s] = k->kv_len;
  }
  for (int32_t s = 0; s <= k->n_seqs; s++) a->q_indptr[s] = s * k->n_rows, a->page_indptr[s] = s * pages;
  uint32_t x = 99;
  for (int32_t i = 0; i < n_pages; i++) {
    x = x * 1664525u + 1013904223u;
    const int32_t at = (int32_t)((x >> 8) % (uint32_t)(i + 1));
    a->page[i] = a->page[at];
    a->page[at] = i;
  }
  return (weir_ragged){.n_tokens = k->n_seqs * k->n_rows,
                       .n_seqs = k->n_seqs,
                       .pos = a->pos,
                       .seq = a->seq,
                       .q_indptr = a->q_indptr,
                       .kv_len = a->kv_len,
                       .page_indptr = a->page_indptr,
                       .page = a->page,
                       .max_q_len = k->n_rows,
                       .max_kv_len = k->kv_len};
}

static weir_status bench_case(weir_dev *dev, const options *o, const struct heads *h, weir_kv_layer kv,
                              weir_mat q, weir_mat out, const struct look *k, weir_err *e) {
  weir_status st = WEIR_OK;
  static arrays a; /* the CPU's memory is the device's */
  const weir_ragged g = make_ragged(k, &a);
  const weir_attend_args args = {1 / sqrtf((float)h->head_dim), k->window, k->softcap};
  double best = 1e30, seen = 0;
  int32_t from = k->kv_len;
  q.rows = out.rows = g.n_tokens;
  for (int32_t r = 0; r < g.n_tokens; r++) {
    const int32_t first = k->window > 0 && a.pos[r] >= k->window ? a.pos[r] - k->window + 1 : 0;
    seen += a.pos[r] + 1 - first;
    if (first < from) from = first;
  }
  const int64_t end = bench_now() + (int64_t)(o->cpu.seconds * 1e9);
  do {
    const int64_t began = bench_now();
    WEIR_TRY(weir_op_attend(dev, out, q, &g, kv, &args, e));
    WEIR_TRY(weir_dev_sync(dev, e));
    const double ns = (double)(bench_now() - began);
    if (ns < best) best = ns;
  } while (bench_now() < end);
  const double bytes =
      2.0 * k->n_seqs * (k->kv_len - from) * h->n_kv_heads * h->head_dim * (kv.dtype == WEIR_F16 ? 2 : 4);
  printf("%-3s kv %6d rows %2d x %-4d window %5d cap %2g %10.1f us %7.2f GB/s %8.1f GFLOP/s  %s\n",
         weir_dtype_get(kv.dtype)->name, k->kv_len, k->n_seqs, k->n_rows, k->window, (double)k->softcap,
         best / 1e3, bytes / best, 4 * seen * h->n_heads * h->head_dim / best, h->what);
  fflush(stdout);
out:
  return st;
}

static weir_status bench_heads(weir_dev *dev, const options *o, const struct heads *h, weir_dtype t,
                               weir_err *e) {
  weir_status st = WEIR_OK;
  const size_t n = (size_t)2 * MAX_KV * (size_t)h->n_kv_heads * (size_t)h->head_dim;
  const int32_t cols = h->n_heads * h->head_dim;
  weir_mat q = {NULL, MAX_ROWS, cols, cols}, out = q;
  void *kv = NULL;
  uint32_t s = 12345;
  WEIR_TRY(weir_dev_alloc(dev, n * (t == WEIR_F16 ? 2 : 4), &kv, e));
  WEIR_TRY(weir_dev_alloc(dev, sizeof(float) * MAX_ROWS * (size_t)cols, (void **)&q.data, e));
  WEIR_TRY(weir_dev_alloc(dev, sizeof(float) * MAX_ROWS * (size_t)cols, (void **)&out.data, e));
  for (size_t i = 0; i < n; i++) {
    s = s * 1664525u + 1013904223u;
    const float x = (float)(int32_t)s * 0x1p-31f;
    if (t == WEIR_F16)
      ((uint16_t *)kv)[i] = weir_f32_to_f16(x);
    else
      ((float *)kv)[i] = x;
    if (i < (size_t)MAX_ROWS * (size_t)cols) q.data[i] = 4 * x;
  }
  const weir_kv_layer layer = {kv, t, MAX_KV / PAGE, h->n_kv_heads, PAGE, h->head_dim};
  for (size_t i = 0; i < COUNT(looks); i++)
    if (!o->only_kv || o->only_kv == looks[i].kv_len)
      WEIR_TRY(bench_case(dev, o, h, layer, q, out, &looks[i], e));
out:
  weir_dev_release(dev, kv);
  weir_dev_release(dev, q.data);
  weir_dev_release(dev, out.data);
  return st;
}

static weir_status bench_all(weir_dev *dev, const void *ctx, weir_err *e) {
  const options *o = ctx;
  weir_status st = WEIR_OK;
  const weir_dev_limits lim = {
      .max_tokens = MAX_ROWS, .max_heads = 32, .max_head_dim = 256, .max_kv_len = MAX_KV};
  WEIR_TRY(weir_dev_reserve(dev, &lim, e));
  printf("%s, %d threads\n", weir_isa_name(weir_cpu_isa(dev)), weir_cpu_n_threads(dev));
  for (size_t i = 0; i < COUNT(heads); i++) {
    WEIR_TRY(bench_heads(dev, o, &heads[i], WEIR_F16, e));
    WEIR_TRY(bench_heads(dev, o, &heads[i], WEIR_F32, e));
  }
out:
  return st;
}

int main(int argc, char **argv) {
  const char *kv = NULL;
  options o = {.cpu = {"bench_attend", help, {{"kv", 'k', &kv}}, {.isa = WEIR_ISA_BEST}, 0.2}};
  const int done = bench_parse(&o.cpu, argc, argv);
  if (done) return done - 1;
  if (kv) o.only_kv = atoi(kv);
  return bench_run(&o.cpu, bench_all, &o);
}
