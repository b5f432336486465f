/* SPDX-License-Identifier: Apache-2.0 */
/* The prefill kernel of attention on the emulator against the sum written out in double precision; worst row.
 * Most cases call the kernel with items of their own, so that tiles are cut everywhere; the last ones go
 * through the operation. Everything that a row must not see is NaN in KV, page numbers that must not be
 * looked at lie outside of it. With the argument "full": the whole matrix instead of a part. One thread. */
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
#include "kernels/cuda/attend_prefill_kernels.h"
#include "kernels/quant.h"

#define WORST 2e-3

enum { MAX_SEQS = 8, TILE = WEIR_ATTN_LONG_ROWS };

static bool full; /* the whole matrix */

typedef struct shape {
  int32_t head_dim, group, n_kv, page_size;
  int32_t window;
  float softcap;
  float scale;  /* 0: 1/sqrt(head_dim) */
  float q_size; /* q are normal times this; 0: 1 */
  float climb;  /* every key has this much of q's direction a position more, in exponents; 0: none */
  int32_t gap;  /* rows are up to so many positions apart; 0, 1: neighbours */
  int32_t pad;  /* columns of q and out beyond the last */
} shape;

typedef struct lengths {
  int32_t n_seqs, q_len[MAX_SEQS], prefix[MAX_SEQS];
} lengths;

/* A batch in host memory, and its copy on the device. */
typedef struct batch {
  shape s;
  weir_ragged g;
  weir_kv_layer kv;
  weir_attend_args args;
  weir_mat q, out;
  int32_t n_rows, n_cols;
  int32_t q_indptr[MAX_SEQS + 1], page_indptr[MAX_SEQS + 1], kv_len[MAX_SEQS];
  int32_t *pos, *seq, *page;
  uint16_t *kv_host;
  float *q_host;
  void *dev_mem[7];
} batch;

static int32_t seen_from(const shape *s, int32_t pos) {
  return s->window > 0 && pos >= s->window ? pos - s->window + 1 : 0;
}

static uint16_t *kv_at(const batch *b, int32_t s, int32_t pos, int32_t is_v, int32_t head) {
  const shape *y = &b->s;
  const size_t page = (size_t)b->page[b->page_indptr[s] + pos / y->page_size];
  const size_t rows = (page * 2 + (size_t)is_v) * (size_t)y->n_kv + (size_t)head;
  return b->kv_host + (rows * (size_t)y->page_size + (size_t)(pos % y->page_size)) * (size_t)y->head_dim;
}

/* The rows' positions: q_len rows behind `prefix` positions, with gaps. */
static batch make_batch(weir_dev *dev, shape s, lengths n, uint64_t seed) {
  kern_rng rng = {seed};
  batch b = {.s = s};
  const int32_t d = s.head_dim, n_heads = s.n_kv * s.group;
  int32_t max_q = 0, max_kv = 0;
  for (int32_t i = 0; i < n.n_seqs; i++) b.n_rows += n.q_len[i];
  b.n_cols = n_heads * d;
  b.pos = (int32_t *)malloc(sizeof *b.pos * (size_t)b.n_rows);
  b.seq = (int32_t *)malloc(sizeof *b.seq * (size_t)b.n_rows);
  for (int32_t i = 0; i < n.n_seqs; i++) {
    int32_t at = n.prefix[i];
    for (int32_t r = b.q_indptr[i]; r < b.q_indptr[i] + n.q_len[i]; r++) {
      b.pos[r] = at;
      b.seq[r] = i;
      at += 1 + (s.gap > 1 ? kern_below(&rng, s.gap) : 0);
    }
    b.q_indptr[i + 1] = b.q_indptr[i] + n.q_len[i];
    b.kv_len[i] = n.q_len[i] > 0 ? b.pos[b.q_indptr[i + 1] - 1] + 1 : at > 0 ? at : 1;
    b.page_indptr[i + 1] = b.page_indptr[i] + (b.kv_len[i] + s.page_size - 1) / s.page_size;
    if (n.q_len[i] > max_q) max_q = n.q_len[i];
    if (b.kv_len[i] > max_kv) max_kv = b.kv_len[i];
  }
  const int32_t n_pages = b.page_indptr[n.n_seqs] + 2;
  b.page = (int32_t *)malloc(sizeof *b.page * (size_t)n_pages);
  for (int32_t i = 0; i < n_pages; i++) b.page[i] = i;
  kern_shuffle(&rng, b.page, n_pages);
  const size_t halves = (size_t)n_pages * 2 * (size_t)s.n_kv * (size_t)s.page_size * (size_t)d;
  b.kv_host = (uint16_t *)malloc(2 * halves);
  memset(b.kv_host, 0xff, 2 * halves); /* NaN */
  /* With a climb every q and the common part of every k are +-1 alike, exact in F16. */
  b.q_host = kern_normals(&rng, (size_t)b.n_rows * (size_t)b.n_cols, s.q_size > 0 ? s.q_size : 1.0f);
  if (s.climb > 0)
    for (size_t i = 0; i < (size_t)b.n_rows * (size_t)b.n_cols; i++) b.q_host[i] = i % 3 ? 1.0f : -1.0f;
  const float step = s.climb * sqrtf((float)d) / (float)d;
  for (int32_t i = 0; i < n.n_seqs; i++)
    for (int32_t p = n.q_len[i] > 0 ? seen_from(&s, b.pos[b.q_indptr[i]]) : b.kv_len[i]; p < b.kv_len[i]; p++)
      for (int32_t h = 0; h < s.n_kv; h++)
        for (int32_t c = 0; c < d; c++) {
          const float k = kern_normal(&rng);
          kv_at(&b, i, p, 0, h)[c] =
              weir_f32_to_f16(s.climb > 0 ? 0.1f * k + step * (float)p * (c % 3 ? 1.0f : -1.0f) : k);
          kv_at(&b, i, p, 1, h)[c] = weir_f32_to_f16(kern_normal(&rng));
        }
  int32_t *shown = (int32_t *)malloc(sizeof *shown * (size_t)n_pages);
  memcpy(shown, b.page, sizeof *shown * (size_t)n_pages);
  for (int32_t i = 0; i < n.n_seqs; i++) {
    const int32_t n_hidden = n.q_len[i] > 0 ? seen_from(&s, b.pos[b.q_indptr[i]]) / s.page_size : 0;
    for (int32_t k = 0; k < n_hidden; k++) shown[b.page_indptr[i] + k] = k % 2 ? INT32_MAX : -1;
  }
  for (int32_t i = b.page_indptr[n.n_seqs]; i < n_pages; i++) shown[i] = INT32_MAX;
  b.dev_mem[0] = kern_copy(dev, b.pos, sizeof *b.pos * (size_t)b.n_rows);
  b.dev_mem[1] = kern_copy(dev, b.seq, sizeof *b.seq * (size_t)b.n_rows);
  b.dev_mem[2] = kern_copy(dev, b.q_indptr, sizeof b.q_indptr);
  b.dev_mem[3] = kern_copy(dev, b.kv_len, sizeof b.kv_len);
  b.dev_mem[4] = kern_copy(dev, b.page_indptr, sizeof b.page_indptr);
  b.dev_mem[5] = kern_copy(dev, shown, sizeof *shown * (size_t)n_pages);
  b.dev_mem[6] = kern_copy(dev, b.kv_host, 2 * halves);
  free(shown);
  b.g = (weir_ragged){.n_tokens = b.n_rows,
                      .n_seqs = n.n_seqs,
                      .pos = (const int32_t *)b.dev_mem[0],
                      .seq = (const int32_t *)b.dev_mem[1],
                      .q_indptr = (const int32_t *)b.dev_mem[2],
                      .kv_len = (const int32_t *)b.dev_mem[3],
                      .page_indptr = (const int32_t *)b.dev_mem[4],
                      .page = (const int32_t *)b.dev_mem[5],
                      .max_q_len = max_q,
                      .max_kv_len = max_kv};
  b.kv = (weir_kv_layer){.base = b.dev_mem[6],
                         .dtype = WEIR_F16,
                         .n_pages = n_pages,
                         .n_kv_heads = s.n_kv,
                         .page_size = s.page_size,
                         .head_dim = d};
  b.args = (weir_attend_args){
      .scale = s.scale != 0 ? s.scale : 1.0f / sqrtf((float)d), .window = s.window, .softcap = s.softcap};
  b.q = kern_mat(dev, b.n_rows, b.n_cols, s.pad);
  b.out = kern_mat(dev, b.n_rows, b.n_cols, s.pad);
  kern_put(dev, b.q, b.q_host);
  return b;
}

static void free_batch(weir_dev *dev, batch *b) {
  for (size_t i = 0; i < sizeof b->dev_mem / sizeof *b->dev_mem; i++) weir_dev_release(dev, b->dev_mem[i]);
  kern_mat_free(dev, b->q);
  kern_mat_free(dev, b->out);
  free(b->pos), free(b->seq), free(b->page), free(b->kv_host), free(b->q_host);
}

/* [n_rows][n_cols], free(). */
static double *reference(const batch *b) {
  const int32_t d = b->s.head_dim;
  double *out = (double *)calloc((size_t)b->n_rows * (size_t)b->n_cols, sizeof *out);
  double *weight = (double *)malloc(sizeof *weight * (size_t)b->g.max_kv_len);
  for (int32_t r = 0; r < b->n_rows; r++)
    for (int32_t h = 0; h < b->n_cols / d; h++) {
      const int32_t from = seen_from(&b->s, b->pos[r]), s = b->seq[r];
      const size_t at = (size_t)r * (size_t)b->n_cols + (size_t)(h * d);
      double top = -INFINITY, sum = 0;
      for (int32_t p = from; p <= b->pos[r]; p++) {
        const uint16_t *k = kv_at(b, s, p, 0, h / b->s.group);
        double x = 0;
        for (int32_t c = 0; c < d; c++)
          x += (double)b->q_host[at + (size_t)c] * (double)weir_f16_to_f32(k[c]);
        x *= (double)b->args.scale;
        if (b->s.softcap > 0) x = (double)b->s.softcap * tanh(x / (double)b->s.softcap);
        weight[p] = x;
        if (x > top) top = x;
      }
      for (int32_t p = from; p <= b->pos[r]; p++) {
        const uint16_t *v = kv_at(b, s, p, 1, h / b->s.group);
        const double w = exp(weight[p] - top);
        sum += w;
        for (int32_t c = 0; c < d; c++) out[at + (size_t)c] += w * (double)weir_f16_to_f32(v[c]);
      }
      for (int32_t c = 0; c < d; c++) out[at + (size_t)c] /= sum;
    }
  free(weight);
  return out;
}

/* The kernel alone, every unit in `pieces` pieces, one to three items a CTA; pieces are merged here. */
static float *run_kernel(weir_dev *dev, const batch *b, int32_t pieces, uint64_t seed) {
  kern_rng rng = {seed};
  weir_err e = {0};
  const shape *s = &b->s;
  const int32_t d = s->head_dim;
  int32_t n_items = 0, n_ctas = 0, n_slots = 0;
  for (int32_t i = 0; i < b->g.n_seqs; i++)
    n_items += ((b->q_indptr[i + 1] - b->q_indptr[i]) * s->group + TILE - 1) / TILE * s->n_kv * pieces;
  weir_attn_item *item = (weir_attn_item *)malloc(sizeof *item * (size_t)n_items);
  int32_t *cta = (int32_t *)malloc(sizeof *cta * (size_t)(n_items + 2)), n = 0;
  for (int32_t i = 0; i < b->g.n_seqs; i++) {
    const int32_t rows = (b->q_indptr[i + 1] - b->q_indptr[i]) * s->group;
    for (int32_t row = 0; row < rows; row += TILE)
      for (int32_t h = 0; h < s->n_kv; h++)
        for (int32_t k = 0; k < pieces; k++)
          item[n++] = (weir_attn_item){.seq = i,
                                       .kv_head = h,
                                       .row = row,
                                       .n_rows = rows - row < TILE ? rows - row : TILE,
                                       .block0 = k,
                                       .block1 = k + 1,
                                       .n_blocks = pieces,
                                       .slot = pieces > 1 ? n_slots++ : -1};
  }
  cta[0] = 0;
  for (int32_t at = 0; at < n_items;) {
    at += 1 + kern_below(&rng, 3);
    if (at > n_items) at = n_items;
    cta[++n_ctas] = at;
  }
  cta[n_ctas + 1] = n_items; /* a CTA with nothing to do */
  n_ctas++;
  const size_t part_rows = (size_t)(n_slots > 0 ? n_slots : 1) * TILE;
  weir_mat acc = kern_mat(dev, (int32_t)part_rows, d, 0), ml = kern_mat(dev, (int32_t)part_rows, 2, 0);
  void *dev_item = kern_copy(dev, item, sizeof *item * (size_t)n_items);
  void *dev_cta = kern_copy(dev, cta, sizeof *cta * (size_t)(n_ctas + 1));
  const weir_cuk_attend_args a = {
      .q = b->q.data,
      .out = b->out.data,
      .kv = b->kv.base,
      .pos = b->g.pos,
      .q_indptr = b->g.q_indptr,
      .page_indptr = b->g.page_indptr,
      .page = b->g.page,
      .q_ld = b->q.ld,
      .out_ld = b->out.ld,
      .n_kv_heads = s->n_kv,
      .group = s->group,
      .page_size = s->page_size,
      .head_dim = d,
      .scale = b->args.scale,
      .softcap = s->softcap,
      .window = s->window,
      .f16 = true,
      .list = {.cta = (const int32_t *)dev_cta, .item = (const weir_attn_item *)dev_item, .n_ctas = n_ctas},
      .part = {.acc = acc.data, .ml = ml.data}};
  assert_int_equal(weir_cuk_attend_prefill(&a, weir_cuda_of(dev)->stream), cudaSuccess);
  kern_ok(weir_dev_sync(dev, &e), &e, "sync");
  float *out = kern_get(dev, b->out);
  if (pieces > 1) {
    float *got_acc = kern_get(dev, acc), *got_ml = kern_get(dev, ml);
    for (int32_t i = 0; i < n_items; i += pieces)
      for (int32_t r = 0; r < item[i].n_rows; r++) {
        const size_t first = (size_t)item[i].slot * TILE + (size_t)r;
        const int32_t f = item[i].row + r, row = b->q_indptr[item[i].seq] + f / s->group;
        float *to = out + (size_t)row * (size_t)b->n_cols +
                    (size_t)(item[i].kv_head * s->group + f % s->group) * (size_t)d;
        double top = -INFINITY, sum = 0, x[128] = {0};
        for (int32_t k = 0; k < pieces; k++) top = fmax(top, (double)got_ml[(first + (size_t)k * TILE) * 2]);
        for (int32_t k = 0; k < pieces; k++) {
          const size_t at = first + (size_t)k * TILE;
          const double m = (double)got_ml[at * 2], l = (double)got_ml[at * 2 + 1];
          if (isinf(m) || l == 0) {
            assert_true(isinf(m) && m < 0 && l == 0);
            continue;
          }
          sum += exp2(m - top) * l;
          for (int32_t c = 0; c < d; c++) x[c] += exp2(m - top) * (double)got_acc[at * (size_t)d + (size_t)c];
        }
        for (int32_t c = 0; c < d; c++) to[c] = (float)(x[c] / sum);
      }
    free(got_acc), free(got_ml);
  }
  kern_mat_free(dev, acc), kern_mat_free(dev, ml);
  weir_dev_release(dev, dev_item), weir_dev_release(dev, dev_cta);
  free(item), free(cta);
  return out;
}

/* The operation, its plan cut as `o` says. */
static float *run_op(weir_dev *dev, const batch *b, const weir_cuda_attend_opts *o) {
  weir_err e = {0};
  weir_ragged g = b->g;
  g.host_q_indptr = b->q_indptr;
  g.host_kv_len = b->kv_len;
  if (o)
    kern_ok(weir_cuda_attend_plan_with(dev, &g, 1, b->s.n_kv * b->s.group, b->kv, o, &e), &e, "plan");
  else
    kern_ok(weir_op_attend_plan(dev, &g, 0, b->s.n_kv * b->s.group, b->kv, &e), &e, "plan");
  kern_ok(weir_op_attend(dev, b->out, b->q, &g, b->kv, &b->args, &e), &e, "attend");
  kern_ok(weir_dev_sync(dev, &e), &e, "sync");
  if (o && o->n_ctas > 0) assert_true(weir_cuda_attend_count(&g).n_items[1] > 0);
  return kern_get(dev, b->out);
}

static void check(weir_dev *dev, shape s, lengths n, int32_t pieces, uint64_t seed) {
  char what[160];
  batch b = make_batch(dev, s, n, seed);
  float *got = run_kernel(dev, &b, pieces, seed);
  double *want = reference(&b);
  snprintf(what, sizeof what, "dim %d group %d kv heads %d page %d window %d cap %g gap %d, %d pieces",
           s.head_dim, s.group, s.n_kv, s.page_size, s.window, (double)s.softcap, s.gap, pieces);
  cuda_near(got, want, b.n_rows * s.n_kv * s.group, s.head_dim, WORST, what);
  free(got), free(want);
  free_batch(dev, &b);
}

/* ---- shapes ---- */

static const int32_t dims[] = {64, 128}, groups[] = {1, 4, 7, 8, 16}, windows[] = {0, 1, 16, 50};

static void test_matrix(void **state) {
  (void)state;
  const lengths smoke = {.n_seqs = 2, .q_len = {5, 33}, .prefix = {37, 16}};
  const lengths all[] = {{.n_seqs = 4, .q_len = {1, 5, 64, 130}, .prefix = {37, 0, 16, 37}},
                         {.n_seqs = 4, .q_len = {130, 64, 5, 1}, .prefix = {0, 37, 37, 16}},
                         {.n_seqs = 4, .q_len = {5, 130, 0, 64}, .prefix = {16, 16, 9, 0}}};
  weir_dev *dev = cuda_test_dev(NULL, 11);
  int32_t nth = 0;
  for (size_t i = 0; i < 2; i++)
    for (size_t j = 0; j < 5; j++)
      for (size_t k = 0; k < 4; k++, nth++) {
        shape s = {.head_dim = dims[i],
                   .group = groups[j],
                   .n_kv = j == 4 ? 1 : 2,
                   .page_size = 16,
                   .window = windows[k],
                   .softcap = nth % 3 == 2 ? 3.0f : 0.0f,
                   .gap = nth % 4 == 1 ? 3 : 0};
        if (!full) {
          if ((i + j + k) % 2 == 0) check(dev, s, smoke, 1 + nth % 2, 100 + (uint64_t)nth);
          continue;
        }
        for (int32_t l = 0; l < 3; l++) {
          s.softcap = (nth + l) % 3 == 2 ? 3.0f : 0.0f;
          s.gap = (nth + l) % 4 == 1 ? 3 : 0;
          check(dev, s, all[l], l == 0 ? 1 : l == 1 ? 3 : 7, 100 + (uint64_t)(nth * 3 + l));
        }
      }
  cuda_test_close(dev);
}

/* Pages of 16 and more, also such that are no power of two; a KV head alone, and three. */
static void test_pages(void **state) {
  (void)state;
  static const int32_t sizes[] = {16, 32, 48, 64, 80, 256};
  weir_dev *dev = cuda_test_dev(NULL, 12);
  for (size_t i = 0; i < 6; i++) {
    const shape s = {.head_dim = i % 2 ? 64 : 128,
                     .group = 4,
                     .n_kv = i % 2 ? 3 : 1,
                     .page_size = sizes[i],
                     .window = i > 3 ? 90 : 0};
    check(dev, s, (lengths){.n_seqs = 2, .q_len = {21, 3}, .prefix = {150, 15}}, 1 + (int32_t)i % 3, 200 + i);
  }
  cuda_test_close(dev);
}

/* Where blocks, tiles and warps end: one row before, at and after. */
static void test_edges(void **state) {
  (void)state;
  static const int32_t rows[] = {1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129};
  weir_dev *dev = cuda_test_dev(NULL, 13);
  for (size_t i = 0; i < 13; i += full ? 1 : 2)
    for (int32_t before = 0; before < 3; before++) {
      const shape s = {.head_dim = 64, .group = 1, .n_kv = 1, .page_size = 16};
      const int32_t prefix = before == 0 ? 0 : 62 + before - rows[i] % 2;
      check(dev, s, (lengths){.n_seqs = 1, .q_len = {rows[i]}, .prefix = {prefix}}, 1 + before, 300 + i);
    }
  cuda_test_close(dev);
}

/* ---- numbers ---- */

static void test_scales(void **state) {
  (void)state;
  static const struct {
    float scale, q_size, softcap;
  } of[] = {{1e-31f, 1e30f, 0},  {1e29f, 1e-30f, 0},  {-0.125f, 1, 0},  {-0.125f, 1, 2},
            {0.125f, 1e-30f, 0}, {1e-31f, 1e30f, 50}, {0.5f, 1, 1e-3f}, {1e-20f, 1, 0}};
  weir_dev *dev = cuda_test_dev(NULL, 14);
  for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
    const shape s = {.head_dim = i % 2 ? 128 : 64,
                     .group = 3,
                     .n_kv = 1,
                     .page_size = 16,
                     .scale = of[i].scale,
                     .q_size = of[i].q_size,
                     .softcap = of[i].softcap};
    check(dev, s, (lengths){.n_seqs = 1, .q_len = {9}, .prefix = {70}}, 1, 400 + i);
  }
  cuda_test_close(dev);
}

/* A scale of zero: every position weighs the same. */
static void test_zero_scale(void **state) {
  (void)state;
  weir_dev *dev = cuda_test_dev(NULL, 15);
  batch b = make_batch(dev, (shape){.head_dim = 64, .group = 2, .n_kv = 1, .page_size = 16},
                       (lengths){.n_seqs = 1, .q_len = {40}, .prefix = {50}}, 500);
  b.args.scale = 0;
  float *got = run_kernel(dev, &b, 1, 500);
  double *want = reference(&b);
  cuda_near(got, want, b.n_rows * 2, 64, WORST, "scale 0");
  free(got), free(want);
  free_batch(dev, &b);
  cuda_test_close(dev);
}

/* Scores that climb: the maximum moves by less than the slack in some blocks and by more in others, so that
 * what is there is scaled late, often, or not at all. */
static void test_climb(void **state) {
  (void)state;
  static const float climbs[] = {0.005f, 0.02f, 0.08f, 0.3f};
  weir_dev *dev = cuda_test_dev(NULL, 16);
  for (size_t i = 0; i < 4; i++) {
    const shape s = {
        .head_dim = i % 2 ? 64 : 128, .group = 5, .n_kv = 1, .page_size = 16, .climb = climbs[i]};
    check(dev, s, (lengths){.n_seqs = 1, .q_len = {14 + 13 * (i == 0)}, .prefix = {400}}, 1 + (int32_t)i % 3,
          600 + i);
  }
  cuda_test_close(dev);
}

/* ---- layouts ---- */

/* Rows that lie at no multiple of 16 or 8 bytes. */
static void test_unaligned(void **state) {
  (void)state;
  weir_dev *dev = cuda_test_dev(NULL, 17);
  for (int32_t i = 0; i < 4; i++) {
    const shape s = {
        .head_dim = i % 2 ? 64 : 128, .group = 2, .n_kv = 2, .page_size = 16, .pad = i < 2 ? 1 : 2};
    check(dev, s, (lengths){.n_seqs = 1, .q_len = {20}, .prefix = {5}}, 1, 700 + (uint64_t)i);
  }
  cuda_test_close(dev);
}

/* Not a bit depends on how rows come in chunks. Once with scores that climb by just the slack of the maximum
 * a block (8 ln 2 in 64 positions), so that neighbouring rows differ in when they scale what they have. */
static void test_chunks(void **state) {
  (void)state;
  weir_dev *dev = cuda_test_dev(NULL, 18);
  for (int32_t i = 0; i < 4; i++) {
    const shape s = {.head_dim = i % 2 ? 64 : 128,
                     .group = i == 0 ? 4 : 3,
                     .n_kv = 1,
                     .page_size = 16,
                     .window = i == 1 ? 50 : 0,
                     .softcap = i == 3 ? 5.0f : 0.0f,
                     .climb = i == 2 ? 0.0866f : 0.0f};
    const int32_t n = 70, cuts[] = {0, 1, 14, 47, n};
    batch b = make_batch(dev, s, (lengths){.n_seqs = 1, .q_len = {n}, .prefix = {i == 2 ? 300 : 37}},
                         800 + (uint64_t)i);
    float *whole = run_kernel(dev, &b, 1, 1);
    for (int32_t k = 0; k + 1 < 5; k++) {
      batch part = b;
      const int32_t q_indptr[2] = {0, cuts[k + 1] - cuts[k]};
      void *ints = kern_copy(dev, q_indptr, sizeof q_indptr);
      part.q_indptr[1] = part.n_rows = part.g.n_tokens = part.q.rows = part.out.rows = q_indptr[1];
      part.g.q_indptr = (const int32_t *)ints;
      part.g.pos += cuts[k];
      part.q.data += (size_t)cuts[k] * (size_t)b.q.ld;
      float *got = run_kernel(dev, &part, 1, 2 + (uint64_t)k);
      kern_same(got, whole + (size_t)cuts[k] * (size_t)b.n_cols,
                sizeof *got * (size_t)q_indptr[1] * (size_t)b.n_cols, "a chunk against the whole");
      free(got);
      weir_dev_release(dev, ints);
    }
    free(whole);
    free_batch(dev, &b);
  }
  cuda_test_close(dev);
}

/* ---- the operation ---- */

/* Decode rows, verification, chunks with and without a prefix in one step; as the device cuts it and in many
 * pieces over few CTAs. */
static void test_op(void **state) {
  (void)state;
  static const lengths mixes[] = {
      {.n_seqs = 6, .q_len = {1, 5, 64, 0, 70, 17}, .prefix = {200, 330, 0, 9, 16, 37}},
      {.n_seqs = 3, .q_len = {5, 5, 1}, .prefix = {900, 63, 5}},
      {.n_seqs = 1, .q_len = {130}, .prefix = {37}},
  };
  static const weir_cuda_attend_opts cuts[] = {{.n_ctas = 3, .piece_cost = -1, .min_blocks = 1},
                                               {.n_ctas = 7, .piece_cost = -1, .min_blocks = 1},
                                               {.n_ctas = 40, .piece_cost = -1, .min_blocks = 1}};
  const weir_dev_limits lim = cuda_test_limits();
  weir_dev *dev = cuda_test_dev(&lim, 20);
  int32_t nth = 0;
  for (size_t i = 0; i < 2; i++)
    for (size_t j = 0; j < 3; j++)
      for (size_t k = 0; k < 4; k++, nth++) {
        if (!full && nth % 3 != 0) continue;
        const shape s = {.head_dim = dims[i],
                         .group = j == 1 ? 8 : 5,
                         .n_kv = 2,
                         .page_size = nth % 2 ? 32 : 16,
                         .window = nth % 5 == 3 ? 50 : 0,
                         .softcap = nth % 7 == 6 ? 5.0f : 0.0f};
        batch b = make_batch(dev, s, mixes[j], 1000 + (uint64_t)nth);
        float *got = run_op(dev, &b, k == 0 ? NULL : &cuts[k - 1]);
        double *want = reference(&b);
        cuda_near(got, want, b.n_rows * s.n_kv * s.group, s.head_dim, WORST, "the operation");
        free(got), free(want);
        free_batch(dev, &b);
      }
  cuda_test_close(dev);
}

static void test_refused(void **state) {
  (void)state;
  weir_dev *dev = cuda_test_dev(NULL, 19);
  batch b = make_batch(dev, (shape){.head_dim = 64, .group = 1, .n_kv = 1, .page_size = 16},
                       (lengths){.n_seqs = 1, .q_len = {20}, .prefix = {0}}, 900);
  const weir_cuk_attend_args good = {.q = b.q.data,
                                     .out = b.out.data,
                                     .kv = b.kv.base,
                                     .n_kv_heads = 1,
                                     .group = 1,
                                     .page_size = 16,
                                     .head_dim = 64,
                                     .f16 = true};
  weir_cuk_attend_args a[5] = {good, good, good, good, good};
  a[0].head_dim = 96;
  a[1].head_dim = 256;
  a[2].page_size = 24;
  a[3].f16 = false;
  a[4].kv = (const char *)a[4].kv + 8;
  for (int i = 0; i < 5; i++)
    assert_int_equal(weir_cuk_attend_prefill(&a[i], weir_cuda_of(dev)->stream), cudaErrorInvalidValue);
  assert_int_equal(weir_cuk_attend_prefill_smem(128), 80 << 10);
  assert_int_equal(weir_cuk_attend_prefill_smem(64), 40 << 10);
  free_batch(dev, &b);
  cuda_test_close(dev);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_matrix),    cmocka_unit_test(test_pages),      cmocka_unit_test(test_edges),
      cmocka_unit_test(test_scales),    cmocka_unit_test(test_zero_scale), cmocka_unit_test(test_climb),
      cmocka_unit_test(test_unaligned), cmocka_unit_test(test_chunks),     cmocka_unit_test(test_op),
      cmocka_unit_test(test_refused),
  };
  full = argc > 1 && strcmp(argv[1], "full") == 0;
  return cmocka_run_group_tests(tests, NULL, NULL);
}
