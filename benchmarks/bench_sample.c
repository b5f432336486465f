/* SPDX-License-Identifier: Apache-2.0 */
/* Speed of the sample op on the CPU, over a vocabulary in one piece and in shards. The ranks of a vocabulary
 * in shards are threads of this process, each with a device of its own and the same number of threads; their
 * exchange is a copy between two barriers. One line a case on stdout; the best of the repetitions, for other
 * programs only ever make a run slower. */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "bench_cpu.h"
#include "kernels/cpu/cpu.h"
#include "kernels/sample_math.h"

enum { MAX_RANKS = 8, MAX_ROWS = 64, VOCAB = 151936 };

static const char *const help =
    "usage: bench_sample [options]\n"
    "Times the sample op on the CPU over rows of 151936 logits and prints microseconds a call.\n"
    "  -n, --ranks N       shards of the vocabulary, 1 to 8; 0: one piece (default: 0)\n"
    "  -t, --threads N     threads of each rank (default: one per core)\n"
    "  -i, --isa NAME      scalar, avx2, avx512-vnni or best (default: best)\n"
    "  -s, --seconds S     time spent on a case (default 0.5)\n"
    "  -h, --help          this text\n";

static const struct what {
  const char *name;
  float temperature, top_p;
  int32_t top_k, n_top;
  weir_keep keep; /* of a probe; ALL: none */
  float q;        /* RATIO: log-probability of the probe in its draft */
  bool tell;      /* a draft that tells its law */
} whats[] = {
    {.name = "greedy", .top_p = 1},
    {.name = "greedy, 20 likeliest", .top_p = 1, .n_top = 20},
    {.name = "draw", .temperature = 1, .top_p = 1},
    {.name = "top_k 40", .temperature = 0.8f, .top_p = 1, .top_k = 40},
    {.name = "top_p 0.9", .temperature = 0.8f, .top_p = 0.9f},
    {.name = "both", .temperature = 0.8f, .top_p = 0.95f, .top_k = 40},
    {.name = "draft, law told", .temperature = 0.8f, .top_p = 1, .top_k = 20, .tell = true},
    {.name = "judged, own", .temperature = 0.8f, .top_p = 1, .keep = WEIR_KEEP_OWN},
    {.name = "judged, ratio, stands", .temperature = 0.8f, .top_p = 1, .keep = WEIR_KEEP_RATIO, .q = -60},
    {.name = "judged, ratio, falls", .temperature = 0.8f, .top_p = 1, .keep = WEIR_KEEP_RATIO, .q = -0.1f}};
static const int32_t batch_rows[] = {1, 16, 64};
#define COUNT(a) (sizeof(a) / sizeof *(a))

typedef struct group {
  int32_t n; /* ranks; 0: one piece */
  bench_cpu opts;
  float *logits; /* [MAX_ROWS*VOCAB] */
  pthread_barrier_t barrier;
  char *said[MAX_RANKS];
  _Atomic bool go_on;
  int32_t exchanges; /* of rank 0 in the last call */
  size_t bytes;
} group;

typedef struct rank {
  group *g;
  weir_dev *dev;
  int32_t index;
  weir_status st;
  weir_err err;
} rank;

static weir_status all_gather(void *ctx, void *out, const void *in, size_t bytes, weir_err *e) {
  const rank *k = ctx;
  group *g = k->g;
  (void)in, (void)e;
  g->said[k->index] = (char *)out + (size_t)k->index * bytes;
  if (k->index == 0) g->exchanges++, g->bytes += bytes;
  pthread_barrier_wait(&g->barrier);
  for (int32_t r = 0; r < g->n; r++)
    if (r != k->index) memcpy((char *)out + (size_t)r * bytes, g->said[r], bytes);
  pthread_barrier_wait(&g->barrier);
  return WEIR_OK;
}

/* The rank's first id; of the rank behind the last, the end. */
static int32_t first_of(const group *g, int32_t r) {
  const int32_t n = g->n > 0 ? g->n : 1, chunks = weir_sample_n_chunks(VOCAB);
  const int32_t first = (int32_t)((int64_t)chunks * r / n) * WEIR_SAMPLE_CHUNK;
  return first < VOCAB ? first : VOCAB;
}

/* Every rank repeats the call until rank 0 says that it was enough. */
static weir_status time_case(rank *k, weir_row *row, weir_top *top, weir_mat m, const weir_ask *ask,
                             const weir_vocab_shard *v, double *best, weir_err *e) {
  weir_status st = WEIR_OK;
  group *g = k->g;
  const int64_t end = bench_now() + (int64_t)(g->opts.seconds * 1e9);
  *best = INFINITY;
  for (int32_t i = 0;; i++) {
    if (k->index == 0) atomic_store(&g->go_on, i < 3 || bench_now() < end);
    if (v) pthread_barrier_wait(&g->barrier);
    if (!atomic_load(&g->go_on)) break;
    if (v) pthread_barrier_wait(&g->barrier); /* nobody changes its mind before all have read it */
    if (k->index == 0) g->exchanges = 0, g->bytes = 0;
    const int64_t t = bench_now();
    WEIR_TRY(weir_op_sample(k->dev, row, top, m, VOCAB, ask, v, e));
    const double ns = (double)(bench_now() - t);
    if (ns < *best) *best = ns;
  }
out:
  return st;
}

static weir_status run_rank(rank *k, weir_err *e) {
  weir_status st = WEIR_OK;
  group *g = k->g;
  weir_row *row = NULL;
  weir_top *top = NULL;
  const int32_t first = first_of(g, k->index), cols = first_of(g, k->index + 1) - first;
  int32_t max_chunks = 1;
  for (int32_t r = 0; r < g->n; r++) {
    const int32_t chunks = weir_sample_n_chunks(first_of(g, r + 1) - first_of(g, r));
    if (chunks > max_chunks) max_chunks = chunks;
  }
  const weir_vocab_shard shard = {.rank = k->index,
                                  .n_ranks = g->n,
                                  .first = first,
                                  .max_chunks = max_chunks,
                                  .all_gather = all_gather,
                                  .ctx = k};
  WEIR_TRY(WEIR_NEW(MAX_ROWS, &row, e));
  WEIR_TRY(WEIR_NEW(MAX_ROWS * WEIR_TOP_MAX, &top, e));
  for (size_t w = 0; w < COUNT(whats); w++)
    for (size_t b = 0; b < COUNT(batch_rows); b++) {
      weir_ask ask[MAX_ROWS];
      double ns;
      weir_top draft[WEIR_TOP_MAX], law[WEIR_TOP_MAX];
      for (int32_t i = 0; i < WEIR_TOP_MAX; i++)
        draft[i] = (weir_top){1 + 7000 * i, i == 0 ? whats[w].q : -6};
      for (int32_t r = 0; r < batch_rows[b]; r++)
        ask[r] = (weir_ask){.temperature = whats[w].temperature,
                            .top_k = whats[w].top_k,
                            .top_p = whats[w].top_p,
                            .seed = 1,
                            .pos = r,
                            .probe = whats[w].keep != WEIR_KEEP_ALL ? draft[0].id : -1,
                            .keep = whats[w].keep,
                            .n_top = whats[w].n_top,
                            .tell_law = whats[w].tell,
                            .law = law,
                            .draft = draft,
                            .n_draft = whats[w].keep == WEIR_KEEP_RATIO ? WEIR_TOP_MAX : 0};
      const weir_mat m = {g->logits + first, batch_rows[b], cols, VOCAB};
      WEIR_TRY(time_case(k, row, top, m, ask, g->n > 0 ? &shard : NULL, &ns, e));
      if (k->index == 0) {
        printf("%-22s rows %-3d %9.1f us", whats[w].name, batch_rows[b], ns / 1e3);
        if (g->n > 0) printf(", %d exchanges, %zu bytes a rank", g->exchanges, g->bytes);
        printf("\n");
        fflush(stdout);
      }
    }
out:
  free(row);
  free(top);
  return st;
}

static void *work(void *ctx) {
  rank *k = ctx;
  k->st = run_rank(k, &k->err);
  return NULL;
}

static weir_status run(weir_dev *dev, const void *ctx, weir_err *e) {
  group *g = (group *)(uintptr_t)ctx;
  const weir_dev_limits lim = {
      .max_tokens = 1, .max_rows_out = MAX_ROWS, .max_vocab = VOCAB, .max_ranks = g->n};
  rank k[MAX_RANKS] = {{.dev = dev}};
  pthread_t thread[MAX_RANKS];
  int32_t n_threads = 0;
  weir_status st = WEIR_OK;
  uint32_t s = 12345;
  WEIR_TRY(WEIR_NEW((size_t)MAX_ROWS * VOCAB, &g->logits, e));
  for (size_t i = 0; i < (size_t)MAX_ROWS * VOCAB; i++) { /* a sum of four: about normal, of width 3 */
    float x = 0;
    for (int j = 0; j < 4; j++) {
      s = s * 1664525u + 1013904223u;
      x += (float)(int32_t)s * 0x1p-31f;
    }
    g->logits[i] = x * 2.6f;
  }
  printf("%s, %d ranks of %d threads\n", weir_isa_name(weir_cpu_isa(dev)), g->n, weir_cpu_n_threads(dev));
  for (int32_t r = 0; r < g->n || r == 0; r++) {
    if (r > 0) WEIR_TRY(weir_dev_open_cpu(&g->opts.cpu, &k[r].dev, e));
    WEIR_TRY(weir_dev_reserve(k[r].dev, &lim, e));
    k[r].g = g;
    k[r].index = r;
  }
  for (int32_t r = 1; r < g->n; r++) {
    if (pthread_create(&thread[r], NULL, work, &k[r]) != 0) abort(); /* the others would wait for it */
    n_threads++;
  }
  work(&k[0]);
  for (int32_t r = 1; r <= n_threads; r++) pthread_join(thread[r], NULL);
  for (int32_t r = 0; r <= n_threads && st == WEIR_OK; r++)
    if (k[r].st != WEIR_OK) {
      st = k[r].st;
      *e = k[r].err;
    }
out:
  for (int32_t r = 1; r < g->n; r++) weir_dev_destroy(k[r].dev);
  free(g->logits);
  return st;
}

int main(int argc, char **argv) {
  const char *ranks = "0";
  group g = {.opts = {"bench_sample", help, {{"ranks", 'n', &ranks}}, {.isa = WEIR_ISA_BEST}, 0.5}};
  const int done = bench_parse(&g.opts, argc, argv);
  if (done) return done - 1;
  char *end;
  const long n = strtol(ranks, &end, 10);
  if (*end != '\0' || n < 0 || n > MAX_RANKS) return bench_usage(&g.opts, "not a number of ranks", ranks);
  g.n = (int32_t)n;
  if (g.n > 0 && pthread_barrier_init(&g.barrier, NULL, (unsigned)g.n) != 0) return 1;
  const int status = bench_run(&g.opts, run, &g);
  if (g.n > 0) pthread_barrier_destroy(&g.barrier);
  return status;
}
