/* SPDX-License-Identifier: Apache-2.0 */
/* Speed of attention over paged KV: decode rows over short and long contexts, prefill of a chunk, with and
 * without a window and a soft cap. One line a case on stdout; the best of the repetitions, for other programs
 * only ever make a run slower. Cases of one row a sequence are timed by turns with a plain read of as many
 * bytes by as many threads, in order. Each repetition of either is over other bytes, as if layer came after
 * layer, so that they come from memory and not from a cache that keeps one layer. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/pool.h"
#include "bench_cpu.h"
#include "kernels/cpu/cpu.h"
#include "kernels/quant.h"

enum { PAGE = 16, MAX_KV = 65536, MAX_SEQS = 16, MAX_ROWS = 2048, TURN = 8 };

typedef struct options {
  bench_cpu cpu;
  const char *kv, *rows, *seqs, *heads, *type; /* NULL: all */
} options;

static const char *const help =
    "usage: bench_attend [options]\n"
    "Times weir's attention on the CPU and prints, for each case, microseconds, GB/s of the KV that the rows "
    "see\n"
    "(once a sequence), GFLOP/s of their scores and values (a multiply-add is two) and, where each sequence "
    "has\n"
    "one row, the time as a multiple of that of reading as many bytes once.\n"
    "  -t, --threads N     threads (default: one per core)\n"
    "  -i, --isa NAME      scalar, avx2, avx512-vnni, amx or best (default: best)\n"
    "  -k, --kv N          only this length of context\n"
    "  -r, --rows N        only this number of rows a sequence\n"
    "  -n, --seqs N        only this number of sequences\n"
    "  -m, --heads NAME    only the heads whose name begins so\n"
    "  -y, --type NAME     only KV of this type: F16, Q8_0, F32\n"
    "  -s, --seconds S     time spent on a case (default 0.2)\n"
    "  -h, --help          this text\n";

/* Heads of models people run. */
static const struct heads {
  int32_t n_heads, n_kv_heads, head_dim;
  const char *what;
} heads[] = {{32, 4, 64, "TinyLlama 1.1B"},
             {12, 12, 64, "OPT 125M"},
             {16, 4, 128, "group 4"},
             {32, 8, 128, "Llama 3 8B"},
             {8, 4, 256, "Gemma 2 2B"}};

static const struct look {
  int32_t n_seqs, n_rows, kv_len; /* n_rows of each sequence, the last of kv_len positions */
  int32_t window;
  float softcap;
} looks[] = {{1, 1, 512, 0, 0},      {1, 1, 4096, 0, 0},      {1, 1, 8192, 0, 0},     {1, 1, 8192, 0, 50},
             {1, 1, 8192, 4096, 0},  {1, 1, 8192, 1024, 0},   {1, 1, 32768, 1024, 0}, {16, 1, 2048, 0, 0},
             {16, 1, 2048, 1024, 0}, {8, 1, 8192, 0, 0},      {1, 512, 512, 0, 0},    {1, 512, 512, 0, 50},
             {1, 512, 8192, 0, 0},   {1, 512, 8192, 1024, 0}, {1, 2048, 2048, 0, 0}};

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

/* Bytes of a position's K, or V, of all heads. */
static size_t row_bytes(weir_dtype t, const struct heads *h) {
  const weir_dtype_info *info = weir_dtype_get(t);
  return (size_t)h->n_kv_heads * (size_t)h->head_dim / (size_t)info->block_elems * (size_t)info->block_bytes;
}

/* Memory that is read beside the cases, as a stream: each thread its part. */
typedef struct reader {
  weir_pool *pool;
  const uint64_t *data;
  size_t bytes;
  volatile uint64_t sum; /* so that the reads are done */
} reader;

enum { ARENA = 768 << 20 }; /* bytes of KV that the repetitions go round */

static void read_part(void *ctx, int32_t rank, int32_t n_threads) {
  reader *r = ctx;
  const size_t lines = r->bytes / 64, begin = lines * (size_t)rank / (size_t)n_threads,
               end = lines * ((size_t)rank + 1) / (size_t)n_threads;
  uint64_t s[8] = {0};
  for (size_t i = begin; i < end; i++) {
    __builtin_prefetch(r->data + 8 * i + 256);
    for (size_t u = 0; u < 8; u++) s[u] += r->data[8 * i + u];
  }
  r->sum = s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7];
}

static double read_once(reader *r, const void *data, size_t bytes) {
  r->data = data;
  r->bytes = bytes;
  const int64_t began = bench_now();
  weir_pool_run(r->pool, read_part, r);
  return (double)(bench_now() - began);
}

static weir_status bench_case(weir_dev *dev, const options *o, const struct heads *h, weir_kv_layer kv,
                              weir_mat q, weir_mat out, const struct look *k, reader *mem, weir_err *e) {
  weir_status st = WEIR_OK;
  static arrays a; /* the CPU's memory is the device's */
  const weir_ragged g = make_ragged(k, &a);
  const weir_attend_args args = {1 / sqrtf((float)h->head_dim), k->window, k->softcap};
  double best = 1e30, read = 1e30, seen = 0;
  int32_t from = k->kv_len;
  q.rows = out.rows = g.n_tokens;
  for (int32_t r = 0; r < g.n_tokens; r++) {
    const int32_t first = k->window > 0 && a.pos[r] >= k->window ? a.pos[r] - k->window + 1 : 0;
    seen += a.pos[r] + 1 - first;
    if (first < from) from = first;
  }
  const double bytes = 2.0 * k->n_seqs * (k->kv_len - from) * (double)row_bytes(kv.dtype, h);
  /* The arena's next part that KV of this case would take. */
  const size_t part =
      (size_t)(k->n_seqs * ((k->kv_len + PAGE - 1) / PAGE)) * 2 * PAGE * row_bytes(kv.dtype, h);
  const int n_parts = (int)(ARENA / part > 0 ? ARENA / part : 1);
  char *const arena = kv.base;
  int turn = 0;
  const int64_t end = bench_now() + (int64_t)(o->cpu.seconds * 1e9);
  do {
    for (int i = 0; i < TURN && k->n_rows == 1; i++) {
      const double ns = read_once(mem, arena + (size_t)(turn++ % n_parts) * part, (size_t)bytes);
      if (ns < read) read = ns;
    }
    for (int i = 0; i < (k->n_rows == 1 ? TURN : 1); i++) {
      kv.base = arena + (size_t)(turn++ % n_parts) * part;
      const int64_t began = bench_now();
      WEIR_TRY(weir_op_attend(dev, out, q, &g, kv, &args, e));
      WEIR_TRY(weir_dev_sync(dev, e));
      const double ns = (double)(bench_now() - began);
      if (ns < best) best = ns;
    }
  } while (bench_now() < end);
  printf("%-4s kv %6d rows %2d x %-4d window %5d cap %2g %10.1f us %7.2f GB/s %8.1f GFLOP/s",
         weir_dtype_get(kv.dtype)->name, k->kv_len, k->n_seqs, k->n_rows, k->window, (double)k->softcap,
         best / 1e3, bytes / best, 4 * seen * h->n_heads * h->head_dim / best);
  if (k->n_rows == 1)
    printf(" %5.2f x a read", best / read);
  else
    printf("               ");
  printf("  %s\n", h->what);
  fflush(stdout);
out:
  return st;
}

static float next_float(uint32_t *s) { /* -1 .. 1 */
  *s = *s * 1664525u + 1013904223u;
  return (float)(int32_t)*s * 0x1p-31f;
}

static void fill_page(char *page, size_t bytes, weir_dtype t) {
  uint32_t s = 99;
  if (t == WEIR_Q8_0) { /* scales that are bytes too: of 2^-10 or so */
    for (size_t i = 0; i < bytes; i++) page[i] = (char)(0x20 | (i * 7 & 0x13));
    return;
  }
  for (size_t i = 0; i < bytes / (t == WEIR_F16 ? 2 : 4); i++) {
    const float x = next_float(&s);
    const uint16_t x16 = weir_f32_to_f16(x);
    if (t == WEIR_F16)
      memcpy(page + 2 * i, &x16, 2);
    else
      memcpy(page + 4 * i, &x, 4);
  }
}

static bool chosen(const char *only, int32_t n) { return only == NULL || atoi(only) == n; }

static weir_status bench_heads(weir_dev *dev, const options *o, const struct heads *h, weir_dtype t,
                               reader *mem, weir_err *e) {
  weir_status st = WEIR_OK;
  const size_t page = 2 * PAGE * row_bytes(t, h),
               n_pages = (ARENA / page > MAX_KV / PAGE ? ARENA / page : MAX_KV / PAGE);
  const int32_t cols = h->n_heads * h->head_dim;
  weir_mat q = {NULL, MAX_ROWS, cols, cols}, out = q;
  char *kv = NULL;
  WEIR_TRY(weir_dev_alloc(dev, n_pages * page, (void **)&kv, e));
  WEIR_TRY(weir_dev_alloc(dev, sizeof(float) * MAX_ROWS * (size_t)cols, (void **)&q.data, e));
  WEIR_TRY(weir_dev_alloc(dev, sizeof(float) * MAX_ROWS * (size_t)cols, (void **)&out.data, e));
  fill_page(kv, page, t);
  for (size_t i = 1; i < n_pages; i++) memcpy(kv + i * page, kv, page);
  uint32_t s = 12345;
  for (size_t i = 0; i < (size_t)MAX_ROWS * (size_t)cols; i++) q.data[i] = 4 * next_float(&s);
  const weir_kv_layer layer = {kv, t, (int32_t)n_pages, h->n_kv_heads, PAGE, h->head_dim};
  for (size_t i = 0; i < COUNT(looks); i++)
    if (chosen(o->kv, looks[i].kv_len) && chosen(o->rows, looks[i].n_rows) &&
        chosen(o->seqs, looks[i].n_seqs))
      WEIR_TRY(bench_case(dev, o, h, layer, q, out, &looks[i], mem, e));
out:
  weir_dev_release(dev, kv);
  weir_dev_release(dev, q.data);
  weir_dev_release(dev, out.data);
  return st;
}

static weir_status bench_all(weir_dev *dev, const void *ctx, weir_err *e) {
  static const weir_dtype types[] = {WEIR_F16, WEIR_Q8_0, WEIR_F32};
  const options *o = ctx;
  weir_status st = WEIR_OK;
  reader mem = {0};
  const weir_dev_limits lim = {
      .max_tokens = MAX_ROWS, .max_heads = 32, .max_head_dim = 256, .max_kv_len = MAX_KV};
  const weir_pool_opts team = {.n_threads = weir_cpu_n_threads(dev), .spin_ns = 1};
  WEIR_TRY(weir_pool_create(&team, &mem.pool, e));
  WEIR_TRY(weir_dev_reserve(dev, &lim, e));
  printf("%s, %d threads\n", weir_isa_name(weir_cpu_isa(dev)), weir_cpu_n_threads(dev));
  for (size_t i = 0; i < COUNT(heads); i++)
    for (size_t k = 0; k < COUNT(types); k++)
      if ((!o->heads || !strncmp(o->heads, heads[i].what, strlen(o->heads))) &&
          (!o->type || !strcmp(o->type, weir_dtype_get(types[k])->name)))
        WEIR_TRY(bench_heads(dev, o, &heads[i], types[k], &mem, e));
out:
  weir_pool_destroy(mem.pool);
  return st;
}

int main(int argc, char **argv) {
  options o = {0};
  const bench_option own[] = {{.name = "kv", .letter = 'k', .value = &o.kv},
                              {.name = "rows", .letter = 'r', .value = &o.rows},
                              {.name = "seqs", .letter = 'n', .value = &o.seqs},
                              {.name = "heads", .letter = 'm', .value = &o.heads},
                              {.name = "type", .letter = 'y', .value = &o.type}};
  o.cpu = (bench_cpu){.program = "bench_attend", .help = help, .cpu = {.isa = WEIR_ISA_BEST}, .seconds = 0.2};
  memcpy(o.cpu.own, own, sizeof own);
  const int done = bench_parse(&o.cpu, argc, argv);
  if (done) return done - 1;
  return bench_run(&o.cpu, bench_all, &o);
}
