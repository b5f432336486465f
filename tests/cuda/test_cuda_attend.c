/* SPDX-License-Identifier: Apache-2.0 */
/* Attention on the emulated GPU against double precision, row by row and head by head: decode, general kernel
 * and merge, with what nobody may read made NaN and page numbers that nobody may follow made nonsense. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cuda_util.h"
#include "kernels/cuda/attend.h"
#include "kernels/cuda/attend_any_kernels.h"
#include "kernels/quant.h"

enum { MAX_SEQS = 8, PAD = 3 };
static const weir_dev_limits LIMITS = {.max_tokens = 160,
                                       .max_cols = 8192,
                                       .max_heads = 32,
                                       .max_head_dim = 512,
                                       .max_kv_len = 8192,
                                       .max_rows_out = 16,
                                       .max_vocab = 1024};

/* F32 sums everywhere; the tensor cores' with q and P in two F16 (tiles of at most 8 rows), and in one. */
#define F32_BOUND    1e-5
#define NARROW_BOUND 1e-5
#define F16_BOUND    2e-3

typedef struct seq {
  int32_t kv_len, n_rows;
} seq;

typedef struct spec {
  int32_t head_dim, n_kv, group, page_size;
  weir_dtype dtype;
  weir_cuda_attend_opts opts;
  int32_t window;
  float softcap, q_scale; /* q_scale: of q, taken back by the scale; 0: 1 */
  bool gaps;              /* rows' positions leave some out, and the last need not be the last in KV */
  int32_t lead, tail;     /* rows before and after those of the sequences, of no sequence */
  int32_t n_seqs;
  seq seq[MAX_SEQS];
} spec;

/* A batch in host memory, and what its rows come to. */
typedef struct batch {
  const spec *s;
  int32_t rows, n_pages;
  int32_t *pos, *of, *page;
  int32_t q_indptr[MAX_SEQS + 1], page_indptr[MAX_SEQS + 1], kv_len[MAX_SEQS];
  int32_t max_q, max_kv;
  float *q;
  unsigned char *kv;
  size_t kv_bytes;
  double *want; /* [rows][heads][head_dim] */
} batch;

static int32_t seen_from(const spec *s, int32_t pos) {
  return s->window > 0 && pos >= s->window ? pos - s->window + 1 : 0;
}

static size_t kv_at(const batch *b, int32_t i, int32_t t, int is_v, int32_t head) {
  const spec *s = b->s;
  const size_t pg = (size_t)b->page[b->page_indptr[i] + t / s->page_size];
  return (((pg * 2 + (size_t)is_v) * (size_t)s->n_kv + (size_t)head) * (size_t)s->page_size +
          (size_t)(t % s->page_size)) *
         (size_t)s->head_dim;
}
static double kv_get(const batch *b, size_t at) {
  if (b->s->dtype == WEIR_F16) {
    uint16_t h;
    memcpy(&h, b->kv + 2 * at, 2);
    return weir_f16_to_f32(h);
  }
  float x;
  memcpy(&x, b->kv + 4 * at, 4);
  return x;
}
static void kv_put(batch *b, size_t at, float x) {
  const uint16_t h = weir_f32_to_f16(x);
  if (b->s->dtype == WEIR_F16)
    memcpy(b->kv + 2 * at, &h, 2);
  else
    memcpy(b->kv + 4 * at, &x, 4);
}
static float scale_of(const spec *s) {
  return 1.0f / sqrtf((float)s->head_dim) / (s->q_scale > 0.0f ? s->q_scale : 1.0f);
}

static void reference(batch *b) {
  const spec *s = b->s;
  const int32_t d = s->head_dim, n_heads = s->n_kv * s->group;
  double *score = (double *)malloc(sizeof *score * (size_t)(b->max_kv + 1));
  for (int32_t i = 0; i < s->n_seqs; i++)
    for (int32_t r = b->q_indptr[i]; r < b->q_indptr[i + 1]; r++)
      for (int32_t h = 0; h < n_heads; h++) {
        const size_t at = ((size_t)r * (size_t)n_heads + (size_t)h) * (size_t)d;
        const int32_t from = seen_from(s, b->pos[r]);
        double top = -INFINITY, sum = 0;
        for (int32_t t = from; t <= b->pos[r]; t++) {
          const size_t k = kv_at(b, i, t, 0, h / s->group);
          double x = 0;
          for (int32_t c = 0; c < d; c++) x += (double)b->q[at + (size_t)c] * kv_get(b, k + (size_t)c);
          x *= (double)scale_of(s);
          if (s->softcap > 0) x = (double)s->softcap * tanh(x / (double)s->softcap);
          score[t - from] = x;
          if (x > top) top = x;
        }
        for (int32_t c = 0; c < d; c++) b->want[at + (size_t)c] = 0;
        for (int32_t t = from; t <= b->pos[r]; t++) {
          const double p = exp(score[t - from] - top);
          const size_t v = kv_at(b, i, t, 1, h / s->group);
          sum += p;
          for (int32_t c = 0; c < d; c++) b->want[at + (size_t)c] += p * kv_get(b, v + (size_t)c);
        }
        for (int32_t c = 0; c < d; c++) b->want[at + (size_t)c] /= sum;
      }
  free(score);
}

static batch make(const spec *s, uint64_t seed) {
  kern_rng rng = {seed};
  batch b = {.s = s};
  const int32_t d = s->head_dim;
  b.q_indptr[0] = s->lead;
  for (int32_t i = 0; i < s->n_seqs; i++) {
    b.kv_len[i] = s->seq[i].kv_len;
    b.q_indptr[i + 1] = b.q_indptr[i] + s->seq[i].n_rows;
    b.page_indptr[i + 1] = b.page_indptr[i] + (b.kv_len[i] + s->page_size - 1) / s->page_size;
    if (s->seq[i].n_rows > b.max_q) b.max_q = s->seq[i].n_rows;
    if (b.kv_len[i] > b.max_kv) b.max_kv = b.kv_len[i];
  }
  b.rows = b.q_indptr[s->n_seqs] + s->tail;
  b.n_pages = b.page_indptr[s->n_seqs] + 2;
  b.page = (int32_t *)malloc(sizeof *b.page * (size_t)b.n_pages);
  for (int32_t i = 0; i < b.n_pages; i++) b.page[i] = i;
  kern_shuffle(&rng, b.page, b.n_pages);
  b.pos = (int32_t *)malloc(sizeof *b.pos * (size_t)b.rows);
  b.of = (int32_t *)malloc(sizeof *b.of * (size_t)b.rows);
  for (int32_t r = 0; r < b.rows; r++) b.pos[r] = INT32_MAX, b.of[r] = INT32_MAX;
  const size_t n_q = (size_t)b.rows * (size_t)(s->n_kv * s->group * d);
  b.q = kern_normals(&rng, n_q, s->q_scale > 0.0f ? s->q_scale : 1.0f);
  b.want = (double *)malloc(sizeof *b.want * n_q);
  for (size_t i = 0; i < n_q; i++) b.want[i] = NAN;
  b.kv_bytes = (size_t)b.n_pages * 2 * (size_t)s->n_kv * (size_t)s->page_size * (size_t)d *
               (s->dtype == WEIR_F16 ? 2u : 4u);
  b.kv = (unsigned char *)malloc(b.kv_bytes);
  memset(b.kv, 0xff, b.kv_bytes); /* NaN in both types */
  for (int32_t i = 0; i < s->n_seqs; i++) {
    const int32_t n = s->seq[i].n_rows;
    int32_t at = b.kv_len[i];
    for (int32_t r = n - 1; r >= 0; r--) { /* from the last on, each with room for those before it */
      at -= 1 + (s->gaps && at - 1 > r ? kern_below(&rng, at - r < 9 ? at - r : 9) : 0);
      b.pos[b.q_indptr[i] + r] = at;
      b.of[b.q_indptr[i] + r] = i;
    }
    for (int32_t t = n ? seen_from(s, at) : 0; n && t <= b.pos[b.q_indptr[i + 1] - 1]; t++)
      for (int is_v = 0; is_v < 2; is_v++)
        for (int32_t h = 0; h < s->n_kv; h++)
          for (int32_t c = 0; c < d; c++) kv_put(&b, kv_at(&b, i, t, is_v, h) + (size_t)c, kern_normal(&rng));
  }
  reference(&b);
  /* From here on nobody may look up a page without a position that is seen. */
  for (int32_t i = 0; i < s->n_seqs; i++) {
    const int32_t n = s->seq[i].n_rows;
    const int32_t first = n ? seen_from(s, b.pos[b.q_indptr[i]]) / s->page_size : INT32_MAX;
    const int32_t last = n ? b.pos[b.q_indptr[i + 1] - 1] / s->page_size : -1;
    for (int32_t k = 0; k < b.page_indptr[i + 1] - b.page_indptr[i]; k++)
      if (k < first || k > last) b.page[b.page_indptr[i] + k] = k % 2 ? INT32_MAX : -1;
  }
  return b;
}
static void drop(batch *b) {
  free(b->pos), free(b->of), free(b->page), free(b->q), free(b->kv), free(b->want);
}

/* A batch on the device. */
typedef struct placed {
  weir_ragged g;
  weir_kv_layer kv;
  weir_mat q, out;
  weir_attend_args args;
  weir_dev *dev;
} placed;

static placed place(weir_dev *dev, const batch *b) {
  const spec *s = b->s;
  const int32_t cols = s->n_kv * s->group * s->head_dim;
  placed p = {
      .dev = dev,
      .q = kern_mat(dev, b->rows, cols, PAD),
      .out = kern_mat(dev, b->rows, cols, PAD),
      .args = {scale_of(s), s->window, s->softcap},
      .kv = {kern_copy(dev, b->kv, b->kv_bytes), s->dtype, b->n_pages, s->n_kv, s->page_size, s->head_dim}};
  kern_put(dev, p.q, b->q);
  p.g = (weir_ragged){.n_tokens = b->rows,
                      .n_seqs = s->n_seqs,
                      .pos = (int32_t *)kern_copy(dev, b->pos, sizeof *b->pos * (size_t)b->rows),
                      .seq = (int32_t *)kern_copy(dev, b->of, sizeof *b->of * (size_t)b->rows),
                      .q_indptr = (int32_t *)kern_copy(dev, b->q_indptr, sizeof b->q_indptr),
                      .kv_len = (int32_t *)kern_copy(dev, b->kv_len, sizeof b->kv_len),
                      .page_indptr = (int32_t *)kern_copy(dev, b->page_indptr, sizeof b->page_indptr),
                      .page = (int32_t *)kern_copy(dev, b->page, sizeof *b->page * (size_t)b->n_pages),
                      .max_q_len = b->max_q,
                      .max_kv_len = b->max_kv,
                      .host_q_indptr = b->q_indptr,
                      .host_kv_len = b->kv_len};
  return p;
}
static void unplace(placed *p) {
  const void *all[] = {p->g.pos,         p->g.seq,  p->g.q_indptr, p->g.kv_len,
                       p->g.page_indptr, p->g.page, p->kv.base};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) weir_dev_release(p->dev, (void *)(uintptr_t)all[i]);
  kern_mat_free(p->dev, p->q);
  kern_mat_free(p->dev, p->out);
}

/* Rows of sequences against the reference, rows of none still untouched. */
static void check(const batch *b, placed *p, double bound, const char *what) {
  const spec *s = b->s;
  const int32_t n_heads = s->n_kv * s->group, d = s->head_dim, first = b->q_indptr[0],
                end = b->q_indptr[s->n_seqs];
  const size_t row = (size_t)n_heads * (size_t)d;
  float *got = kern_get(p->dev, p->out);
  for (int32_t r = 0; r < b->rows; r++)
    if (r < first || r >= end)
      for (size_t c = 0; c < row; c++) assert_true(isnan(got[(size_t)r * row + c]));
  cuda_near(got + (size_t)first * row, b->want + (size_t)first * row, (end - first) * n_heads, d, bound,
            what);
  free(got);
}

static double bound_of(const spec *s, const weir_cuda_attend_counts *c) {
  const bool fast = !s->opts.any && s->dtype == WEIR_F16 && (s->head_dim == 64 || s->head_dim == 128) &&
                    s->page_size % 16 == 0;
  int32_t most = 0;
  for (int32_t i = 0; i < s->n_seqs; i++)
    if (s->seq[i].n_rows * s->group > most) most = s->seq[i].n_rows * s->group;
  (void)c;
  return !fast ? F32_BOUND : most <= 8 ? NARROW_BOUND : F16_BOUND;
}

static weir_cuda_attend_counts run(weir_dev *dev, const spec *s, uint64_t seed) {
  char what[160];
  snprintf(what, sizeof what,
           "D %d, %dx%d heads, page %d, %s, window %d, cap %g, %d seqs, first %d/%d, seed %d", s->head_dim,
           s->n_kv, s->group, s->page_size, s->dtype == WEIR_F16 ? "F16" : "F32", s->window,
           (double)s->softcap, s->n_seqs, s->seq[0].n_rows, s->seq[0].kv_len, (int)seed);
  weir_err e = {0};
  batch b = make(s, seed);
  placed p = place(dev, &b);
  kern_ok(weir_cuda_attend_plan_with(dev, &p.g, (int32_t)(seed % 2), s->n_kv * s->group, p.kv, &s->opts, &e),
          &e, what);
  kern_ok(weir_op_attend(dev, p.out, p.q, &p.g, p.kv, &p.args, &e), &e, what);
  const weir_cuda_attend_counts c = weir_cuda_attend_count(&p.g);
  check(&b, &p, bound_of(s, &c), what);
  unplace(&p);
  drop(&b);
  return c;
}

/* A small GPU: grids of a few CTAs, as slow to emulate as they are many. */
static weir_dev *open_small(uint64_t seed) {
  cu_shim_config c = cu_shim_defaults();
  c.seed = seed;
  c.n_sms = 4;
  cu_shim_reset(&c);
  return cuda_test_open(&LIMITS, false);
}

static bool everything; /* the whole matrix: asked for by the argument "full" */

/* head_dim x group x length; every page size that the fast kernels take, and splits by the planner's choice.
 */
static void test_decode(void **state) {
  (void)state;
  const int32_t dims[] = {64, 128}, groups[] = {1, 4, 7, 8, 16}, lens[] = {1, 15, 16, 17, 333, 31, 32, 33};
  weir_dev *dev = open_small(1);
  int n = 0;
  for (int d = 0; d < 2; d++)
    for (int g = 0; g < 5; g++)
      for (int l = 0; l < 8; l++, n++) {
        if (!everything && (n * 7 + l) % 5 != 0) continue;
        spec s = {dims[d], 2, groups[g], n % 3 ? 16 : 32, WEIR_F16, {.min_blocks = 1 + n % 3}, .n_seqs = 1};
        s.seq[0] = (seq){lens[l], 1};
        run(dev, &s, (uint64_t)n + 1);
      }
  cuda_test_close(dev);
}

static void test_general(void **state) {
  (void)state;
  const int32_t dims[] = {8, 32, 96, 256, 128, 16, 33, 512}, groups[] = {1, 4, 7, 8, 16},
                pages[] = {16, 5, 1, 7, 32};
  weir_dev *dev = open_small(2);
  for (int n = 0; n < (everything ? 160 : 24); n++) {
    spec s = {dims[n % 8],
              1 + n % 2,
              groups[n / 3 % 5],
              pages[n / 2 % 5],
              n % 3 ? WEIR_F32 : WEIR_F16,
              {.any = true, .min_blocks = 1, .n_ctas = n % 4},
              .n_seqs = 2};
    if (s.head_dim > 128) s.group = s.group > 4 ? 4 : s.group;
    s.seq[0] = (seq){n % 5 == 0 ? 333 : 1 + n, 1};
    s.seq[1] = (seq){40 + n, 1 + n % 6};
    if (n % 7 == 3) s.window = 5 + n;
    if (n % 5 == 2) s.softcap = 3.0f;
    run(dev, &s, (uint64_t)n + 1);
  }
  cuda_test_close(dev);
}

/* 1, 3 and 7 pieces of a unit, by as many CTAs a unit. */
static void test_splits(void **state) {
  (void)state;
  const int32_t splits[] = {1, 3, 7};
  weir_dev *dev = open_small(3);
  for (int n = 0; n < 12; n++) {
    const int32_t want = splits[n % 3];
    if (!everything && n % 4 == 3) continue;
    spec s = {n & 1 ? 64 : 128,
              1,
              n % 4 < 2 ? 4 : 12,
              16,
              n < 9 ? WEIR_F16 : WEIR_F32,
              {.n_ctas = want, .piece_cost = -1, .min_blocks = 1},
              .n_seqs = 1};
    s.seq[0] = (seq){333, 1};
    const weir_cuda_attend_counts c = run(dev, &s, (uint64_t)n + 50);
    assert_int_equal(c.n_items[0], want);
    assert_int_equal(c.n_merges[0], want > 1);
    assert_int_equal(c.most_pieces, want > 1 ? want : 0);
  }
  cuda_test_close(dev);
}

/* Ragged batches: rows of no sequence, sequences of no row, subsets of rows, windows, soft caps, large and
 * small q. */
static const spec ragged[] = {
    {128,
     2,
     4,
     16,
     WEIR_F16,
     {0},
     .lead = 1,
     .tail = 2,
     .n_seqs = 5,
     .seq = {{40, 1}, {7, 0}, {333, 1}, {0, 0}, {17, 1}}},
    {64,
     1,
     4,
     16,
     WEIR_F16,
     {.min_blocks = 1},
     .gaps = true,
     .n_seqs = 6,
     .seq = {{100, 4}, {33, 2}, {300, 3}, {5, 0}, {9, 0}, {64, 1}}},
    {128,
     1,
     4,
     16,
     WEIR_F16,
     {.n_ctas = 3, .piece_cost = -1, .min_blocks = 1},
     .window = 40,
     .n_seqs = 4,
     .seq = {{333, 4}, {100, 1}, {16, 1}, {200, 2}}},
    {64,
     2,
     8,
     16,
     WEIR_F16,
     {.min_blocks = 1},
     .window = 17,
     .softcap = 5.0f,
     .gaps = true,
     .n_seqs = 3,
     .seq = {{333, 1}, {100, 2}, {17, 0}}},
    {128,
     1,
     7,
     48,
     WEIR_F16,
     {.min_blocks = 1},
     .softcap = 50.0f,
     .q_scale = 3e5f,
     .n_seqs = 2,
     .seq = {{150, 1}, {49, 1}}},
    {64, 1, 16, 16, WEIR_F16, {0}, .q_scale = 1e-6f, .n_seqs = 2, .seq = {{150, 1}, {47, 1}}},
    {128, 1, 24, 16, WEIR_F16, {.min_blocks = 1}, .n_seqs = 2, .seq = {{150, 1}, {17, 1}}}, /* a group of two
                                                                                               tiles */
    {64, 1, 4, 16, WEIR_F16, {.min_blocks = 1}, .window = 1, .n_seqs = 3, .seq = {{150, 2}, {17, 1}, {4, 0}}},
    {96,
     1,
     4,
     6,
     WEIR_F16,
     {.min_blocks = 1},
     .window = 20,
     .gaps = true,
     .lead = 2,
     .n_seqs = 3,
     .seq = {{150, 9}, {17, 0}, {44, 5}}},
    {128,
     2,
     2,
     16,
     WEIR_F32,
     {.min_blocks = 1},
     .softcap = 2.0f,
     .gaps = true,
     .n_seqs = 3,
     .seq = {{150, 5}, {17, 0}, {44, 1}}},
    {64,
     1,
     4,
     16,
     WEIR_F16,
     {.min_blocks = 1},
     .n_seqs = 8, /* no more rows than sequences: decode does all 7 */
     .seq = {{90, 7}, {3, 0}, {3, 0}, {3, 0}, {3, 0}, {3, 0}, {3, 0}, {3, 0}}},
};
/* Short and long sequences in one batch: two kernels, one merge. */
static const struct {
  spec s;
  bool has_short, has_long, has_merges[2];
} mixed[] = {
    {{128,
      2,
      4,
      16,
      WEIR_F16,
      {.n_ctas = 3, .piece_cost = -1, .min_blocks = 1},
      .lead = 1,
      .tail = 1,
      .n_seqs = 4,
      .seq = {{300, 1}, {260, 30}, {9, 0}, {17, 4}}},
     true,
     true,
     {true, true}},
    {{64,
      1,
      8,
      16,
      WEIR_F16,
      {0},
      .window = 70,
      .gaps = true,
      .n_seqs = 3,
      .seq = {{333, 1}, {400, 40}, {50, 3}}},
     true,
     true,
     {false, false}},
    {{64, 2, 2, 32, WEIR_F16, {.min_blocks = 1}, .softcap = 4.0f, .n_seqs = 2, .seq = {{90, 70}, {600, 9}}},
     false,
     true,
     {false, true}},
};
static void test_mixed(void **state) {
  (void)state;
  weir_dev *dev = open_small(8);
  for (size_t n = 0; n < sizeof mixed / sizeof *mixed; n++) {
    const weir_cuda_attend_counts c = run(dev, &mixed[n].s, n + 70);
    assert_int_equal(c.n_items[0] > 0, mixed[n].has_short);
    assert_int_equal(c.n_items[1] > 0, mixed[n].has_long);
    for (int i = 0; i < 2; i++)
      if (mixed[n].has_merges[i]) assert_in_range(c.n_merges[i], 1, 99);
  }
  cuda_test_close(dev);
}

static void test_ragged(void **state) {
  (void)state;
  weir_dev *dev = open_small(4);
  for (size_t n = 0; n < sizeof ragged / sizeof *ragged; n++)
    for (uint64_t seed = 1; seed <= (everything ? 6u : 1u); seed++) run(dev, &ragged[n], seed * 100 + n);
  cuda_test_close(dev);
}

/* So long that a warp's page numbers are looked up a third time. */
static void test_long(void **state) {
  (void)state;
  weir_dev *dev = open_small(10);
  const spec s = {64, 1, 1, 16, WEIR_F16, {.n_ctas = 1}, .n_seqs = 1, .seq = {{4500, 1}}};
  assert_int_equal(run(dev, &s, 1).n_items[0], 1);
  cuda_test_close(dev);
}

/* The merge by itself: a piece that saw nothing need not have written its sums. */
static void test_merge(void **state) {
  (void)state;
  enum { DIM = 200, SLOTS = 9, ROWS = WEIR_ATTN_SHORT_ROWS, N = 3 };
  weir_dev *dev = open_small(11);
  weir_err e = {0};
  kern_rng rng = {5};
  float *acc = kern_normals(&rng, (size_t)SLOTS * ROWS * DIM, 1.0f),
        *ml = kern_normals(&rng, SLOTS * ROWS * 2, 9.0f);
  double want[N * DIM] = {0};
  for (int r = 0; r < N; r++) {
    double l = 0;
    for (int i = 1; i < SLOTS; i++) { /* of slot 0 nothing is merged */
      float *m = ml + (i * ROWS + r) * 2, *x = acc + (i * ROWS + r) * DIM;
      m[1] = fabsf(m[1]) + 0.1f;
      if ((i + r) % 3 == 0) {
        m[0] = -INFINITY, m[1] = 0;
        for (int d = 0; d < DIM; d++) x[d] = NAN;
        continue;
      }
      const double f = exp2((double)m[0]);
      l += f * (double)m[1];
      for (int d = 0; d < DIM; d++) want[r * DIM + d] += f * (double)x[d];
    }
    for (int d = 0; d < DIM; d++) want[r * DIM + d] /= l;
  }
  const weir_attn_merge merge = {
      .seq = 1, .kv_head = 1, .row = 2, .n_rows = N, .slot = 1, .n_slots = SLOTS - 1};
  const int32_t counts[] = {1, 0}, q_indptr[] = {0, 1, 4};
  const weir_mat out = kern_mat(dev, 4, 4 * DIM, PAD);
  weir_cuk_attend_merge_args a = {.out = out.data,
                                  .q_indptr = (int32_t *)kern_copy(dev, q_indptr, sizeof q_indptr),
                                  .out_ld = out.ld,
                                  .group = 2,
                                  .head_dim = DIM,
                                  .n_ctas = 2};
  int32_t *n = (int32_t *)kern_copy(dev, counts, sizeof counts);
  void *owned[] = {n, kern_copy(dev, &merge, sizeof merge),
                   kern_copy(dev, acc, sizeof *acc * SLOTS * ROWS * DIM),
                   kern_copy(dev, ml, sizeof *ml * SLOTS * ROWS * 2), (void *)(uintptr_t)a.q_indptr};
  for (int i = 0; i < WEIR_ATTN_LISTS; i++) {
    a.list[i].n_merges = n + i;
    a.list[i].merge = (weir_attn_merge *)owned[1];
    a.part[i] = (weir_attn_part){(float *)owned[2], (float *)owned[3]};
    a.tile_rows[i] = ROWS;
  }
  assert_int_equal(weir_cuk_attend_merge(&a, weir_cuda_of(dev)->stream), cudaSuccess);
  kern_ok(weir_dev_sync(dev, &e), &e, "sync");
  float *got = kern_get(dev, out);
  /* Packed rows 2, 3, 4 of the sequence at row 1: rows 2, 2, 3; heads 2, 3, 2. */
  const int32_t at[N] = {2 * 4 + 2, 2 * 4 + 3, 3 * 4 + 2};
  for (int r = 0; r < N; r++) {
    cuda_near(got + (size_t)at[r] * DIM, want + r * DIM, 1, DIM, F32_BOUND, "merged row");
    for (int d = 0; d < DIM; d++) got[(size_t)at[r] * DIM + (size_t)d] = NAN;
  }
  for (int i = 0; i < 16 * DIM; i++) assert_true(isnan(got[i]));
  for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) weir_dev_release(dev, owned[i]);
  kern_mat_free(dev, out);
  free(got), free(acc), free(ml);
  cuda_test_close(dev);
}

/* A window that reaches back to position 0 changes no bit; a row alone is as good as one in company. */
static void test_alone(void **state) {
  (void)state;
  weir_dev *dev = open_small(5);
  weir_err e = {0};
  const spec wide = {64, 2, 2, 16, WEIR_F16, {.min_blocks = 1}, .n_seqs = 2, .seq = {{200, 1}, {77, 1}}};
  batch b = make(&wide, 9);
  placed p = place(dev, &b);
  kern_ok(weir_op_attend_plan(dev, &p.g, 0, 4, p.kv, &e), &e, "plan");
  kern_ok(weir_op_attend(dev, p.out, p.q, &p.g, p.kv, &p.args, &e), &e, "attend");
  check(&b, &p, NARROW_BOUND, "company");
  float *all = kern_get(dev, p.out);
  p.args.window = 200;
  kern_ok(weir_op_attend(dev, p.out, p.q, &p.g, p.kv, &p.args, &e), &e, "attend");
  float *windowed = kern_get(dev, p.out);
  kern_same(all, windowed, sizeof(float) * 2 * 4 * 64, "a window back to 0");
  /* The first sequence by itself. */
  p.args.window = 0;
  p.g.n_seqs = p.g.n_tokens = 1;
  const weir_mat q1 = {p.q.data, 1, p.q.cols, p.q.ld}, out1 = {p.out.data, 1, p.out.cols, p.out.ld};
  kern_ok(weir_op_attend_plan(dev, &p.g, 1, 4, p.kv, &e), &e, "plan");
  kern_ok(weir_op_attend(dev, out1, q1, &p.g, p.kv, &p.args, &e), &e, "attend");
  float *alone = kern_get(dev, out1);
  cuda_near(alone, b.want, 4, 64, NARROW_BOUND, "alone");
  free(all), free(windowed), free(alone);
  unplace(&p);
  drop(&b);
  cuda_test_close(dev);
}

/* One record, played for ever longer KV. */
typedef struct step {
  placed *p;
  int n_enqueued;
} step;
static weir_status enqueue(void *ctx, weir_err *e) {
  step *s = (step *)ctx;
  s->n_enqueued++;
  return weir_op_attend(s->p->dev, s->p->out, s->p->q, &s->p->g, s->p->kv, &s->p->args, e);
}
static void test_replay(void **state) {
  (void)state;
  weir_dev *dev = open_small(6);
  weir_err e = {0};
  spec s = {128, 1, 4, 16, WEIR_F16, {0}, .n_seqs = 2, .seq = {{480, 1}, {450, 1}}};
  batch b = make(&s, 21);
  placed p = place(dev, &b);
  step t = {&p, 0};
  const uint64_t key = weir_replay_key(weir_dev_new_owner(dev), 2);
  const int32_t lens[][2] = {{1, 3}, {15, 16}, {17, 40}, {200, 2}, {480, 450}};
  const uint64_t played = cu_shim_count().n_graph_launches;
  for (int i = 0; i < 5; i++) {
    for (int k = 0; k < 2; k++) b.kv_len[k] = lens[i][k], b.pos[k] = lens[i][k] - 1;
    reference(&b);
    kern_ok(weir_dev_upload(dev, (void *)(uintptr_t)p.g.pos, b.pos, sizeof(int32_t) * 2, &e), &e, "pos");
    kern_ok(weir_dev_upload(dev, (void *)(uintptr_t)p.g.kv_len, b.kv_len, sizeof(int32_t) * 2, &e), &e,
            "kv_len");
    kern_ok(weir_op_attend_plan(dev, &p.g, 0, 4, p.kv, &e), &e, "plan");
    kern_ok(weir_dev_replay(dev, key, enqueue, &t, &e), &e, "replay");
    check(&b, &p, NARROW_BOUND, "replayed");
  }
  assert_int_equal(t.n_enqueued, 2);
  assert_true(cu_shim_count().n_graph_launches - played >= 4);
  weir_dev_forget(dev, (uint32_t)(key >> 32));
  unplace(&p);
  drop(&b);
  cuda_test_close(dev);
}

/* A record of a step that may have long sequences, played with and without. */
static void test_replay_mixed(void **state) {
  (void)state;
  weir_dev *dev = open_small(9);
  weir_err e = {0};
  const int32_t rows[][2] = {{1, 39}, {38, 2}, {20, 20}, {40, 0}, {2, 38}};
  const uint64_t key = weir_replay_key(weir_dev_new_owner(dev), 9);
  spec s = {64, 1, 4, 16, WEIR_F16, {0}, .n_seqs = 2, .seq = {{300, 20}, {200, 20}}};
  batch room = make(&s, 31);
  placed p = place(dev, &room);
  step t = {&p, 0};
  for (int i = 0; i < 5; i++) {
    for (int k = 0; k < 2; k++) s.seq[k].n_rows = rows[i][k];
    batch b = make(&s, 32 + (uint64_t)i);
    kern_put(dev, p.q, b.q);
    const struct {
      const void *to, *from;
      size_t bytes;
    } all[] = {{p.g.pos, b.pos, sizeof(int32_t) * 40},
               {p.g.q_indptr, b.q_indptr, sizeof b.q_indptr},
               {p.g.page, b.page, sizeof(int32_t) * (size_t)b.n_pages},
               {p.kv.base, b.kv, b.kv_bytes}};
    for (size_t k = 0; k < sizeof all / sizeof *all; k++)
      kern_ok(weir_dev_upload(dev, (void *)(uintptr_t)all[k].to, all[k].from, all[k].bytes, &e), &e,
              "upload");
    p.g.host_q_indptr = b.q_indptr;
    p.g.host_kv_len = b.kv_len;
    p.g.max_q_len = b.max_q;
    kern_ok(weir_op_attend_plan(dev, &p.g, 1, 4, p.kv, &e), &e, "plan");
    assert_true(weir_cuda_attend_count(&p.g).n_items[1] > 0);
    kern_ok(weir_dev_replay(dev, key, enqueue, &t, &e), &e, "replay");
    check(&b, &p, F16_BOUND, "replayed");
    drop(&b);
  }
  assert_int_equal(t.n_enqueued, 2);
  weir_dev_forget(dev, (uint32_t)(key >> 32));
  unplace(&p);
  drop(&room);
  cuda_test_close(dev);
}

static void test_refused(void **state) {
  (void)state;
  weir_dev *dev = open_small(7);
  weir_err e = {0};
  const spec s = {64, 1, 4, 16, WEIR_F16, {0}, .n_seqs = 1, .seq = {{20, 1}}};
  batch b = make(&s, 3);
  placed p = place(dev, &b);
  assert_int_equal(weir_op_attend(dev, p.out, p.q, &p.g, p.kv, &p.args, &e), WEIR_EINVAL);
  assert_non_null(strstr(e.msg, "no plan"));
  kern_ok(weir_op_attend_plan(dev, &p.g, 0, 4, p.kv, &e), &e, "plan");
  weir_kv_layer other = p.kv;
  other.page_size = 8;
  assert_int_equal(weir_op_attend(dev, p.out, p.q, &p.g, other, &p.args, &e), WEIR_EINVAL);
  assert_non_null(strstr(e.msg, "planned for 1 rows of 4 heads over [1, 16, 64]"));
  int32_t zero = 0;
  p.g.host_kv_len = &zero;
  assert_int_equal(weir_op_attend_plan(dev, &p.g, 0, 4, p.kv, &e), WEIR_EINVAL);
  assert_non_null(strstr(e.msg, "1 rows and 0 tokens"));
  assert_null(p.g.plan);
  assert_int_equal(
      weir_op_attend_plan(dev, &p.g, 0, 3, (weir_kv_layer){p.kv.base, WEIR_F16, 1, 2, 16, 64}, &e),
      WEIR_EINVAL);
  weir_kv_layer q8_0 = p.kv; /* which other devices keep */
  q8_0.dtype = WEIR_Q8_0;
  const int32_t pair[] = {0, 1};
  const weir_rope_args rope = {.qkv = p.q, .n_heads = 2, .kv = q8_0};
  weir_err why[5] = {{0}};
  const weir_status refused[] = {
      weir_op_attend(dev, p.out, p.q, &p.g, q8_0, &p.args, &why[0]),
      weir_op_attend_plan(dev, &p.g, 0, 4, q8_0, &why[1]), weir_op_rope_append(dev, &rope, &p.g, &why[2]),
      weir_op_kv_copy(dev, q8_0, pair, 1, &why[3]), weir_dev_check_kv(dev, WEIR_Q8_0, 64, &why[4])};
  for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
    assert_int_equal(refused[i], WEIR_EUNSUP);
    assert_non_null(strstr(why[i].msg, "KV of type Q8_0, the cuda device wants F16 or F32"));
  }
  unplace(&p);
  drop(&b);
  cuda_test_close(dev);
}

int main(int argc, char **argv) {
  everything = argc > 1 && strcmp(argv[1], "full") == 0;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_decode), cmocka_unit_test(test_general),      cmocka_unit_test(test_splits),
      cmocka_unit_test(test_ragged), cmocka_unit_test(test_long),         cmocka_unit_test(test_merge),
      cmocka_unit_test(test_mixed),  cmocka_unit_test(test_replay_mixed), cmocka_unit_test(test_alone),
      cmocka_unit_test(test_replay), cmocka_unit_test(test_refused),
  };
  return cmocka_run_group_tests_name("cuda_attend", tests, NULL, NULL);
}
