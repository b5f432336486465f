/* SPDX-License-Identifier: Apache-2.0 */
/* Causal attention over the paged KV: how the work is cut. What is computed for a row is in attend_kernel.h
 * and does not depend on the cut. Borrows the device's scratch; runs on the caller's thread and the device's
 * team.
 *
 * The rows of one sequence under one KV head (tokens times query heads of the group) are taken in tiles of up
 * to WEIR_ATTEND_ROWS, which share the conversion of K and V. A row's positions are cut into spans of SPAN:
 * each span starts anew and spans are merged in order, always, so that a long context can be shared out over
 * the team span by span (`apart`) when there are too few tiles to keep it busy. With a window, work begins at
 * the span and block of the first position that any row of the tile sees.
 *
 * An item of work is a run of tiles over the same positions. Where a sequence has few rows, one tile under
 * each KV head, an item is several heads, which go through the positions together, CHUNK by CHUNK: memory is
 * then read nearly page by page and the machine's own prefetch keeps up, where a head's part of each page is
 * too short a run for it. (Asking for the next chunk of all heads in advance is slower than asking for
 * nothing: requests of ours take the places of the machine's.) */
#include <stdatomic.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/cpu/cpu_dev.h"
#include "kernels/cpu/simd.h"

enum {
  SPAN = 512,             /* positions */
  CHUNK = 64,             /* positions that a head works on before the next head does, ... */
  CHUNK_AMX = 128,        /* ... and where it is quicker with them */
  ITEM_TILES = 16,        /* heads that go together, at most, ... */
  ITEM_ROWS = 128,        /* ... and rows of them */
  APART_FLOATS = 2 << 20, /* results of spans kept at once, at most, and at least those of one token */
  TEAM_WORK = 1 << 18     /* products below which the team is not woken: some 10 us of one thread */
};

/* Where a thread's scratch lies, in floats. */
typedef struct layout {
  int32_t dp;
  size_t q, acc, merged, k, v, m, l, m2, l2, total;
} layout;

typedef struct job {
  const weir_attend_kernel *kernel;
  const weir_ragged *g;
  weir_mat out, q;
  weir_kv_layer kv;
  weir_attend_args args;
  int32_t group; /* query heads a KV head */
  layout lay;
  float *local; /* [n_threads][lay.total] */
  bool apart;
  int32_t heads;   /* KV heads of an item, at most, of sequences with one tile a head */
  int32_t n_spans; /* of a sequence, at most */
  float *part;     /* apart: [n_tokens*n_heads][n_spans, from the sequence's first][dp + 16]: acc, m, l */
  int32_t n_items;
  atomic_int next;
} job;

static layout make_layout(int32_t head_dim) {
  layout y = {.dp = (head_dim + 15) / 16 * 16};
  const size_t rows = (size_t)ITEM_ROWS * (size_t)y.dp, block = (size_t)WEIR_ATTEND_BLOCK * (size_t)y.dp;
  size_t at = 0;
  y.q = at, at += 4 * rows; /* two floats for each, and rows of a head rounded up to a multiple of 8 */
  y.acc = at, at += rows;
  y.merged = at, at += rows;
  y.k = at, at += block;
  y.v = at, at += block;
  y.m = at, at += ITEM_ROWS;
  y.l = at, at += ITEM_ROWS;
  y.m2 = at, at += ITEM_ROWS;
  y.l2 = at, at += ITEM_ROWS;
  y.total = at;
  return y;
}

static int32_t n_spans_of(int32_t kv_len) { return kv_len / SPAN + (kv_len % SPAN != 0); }

size_t weir_cpu_attend_scratch(const weir_dev_limits *lim, int32_t n_threads) {
  const layout lay = make_layout(lim->max_head_dim);
  size_t local, one, all;
  if (!weir_mul_size(lay.total * sizeof(float), (size_t)n_threads, &local)) return SIZE_MAX;
  if (!weir_mul_size((size_t)lim->max_heads * (size_t)n_spans_of(lim->max_kv_len), (size_t)lay.dp + 16,
                     &one) ||
      !weir_mul_size(one, (size_t)lim->max_tokens, &all))
    return SIZE_MAX;
  size_t floats = all < APART_FLOATS ? all : APART_FLOATS;
  if (floats < one) floats = one;
  if (n_threads == 1) floats = 0;
  if (!weir_mul_size(floats, sizeof(float), &floats) || !weir_add_size(local, floats, &local))
    return SIZE_MAX;
  return local;
}

static int32_t tiles_of(const job *j, int32_t s) { /* of one KV head */
  const int32_t rows = (j->g->q_indptr[s + 1] - j->g->q_indptr[s]) * j->group;
  return (rows + WEIR_ATTEND_ROWS - 1) / WEIR_ATTEND_ROWS;
}

/* The first position that a row at pos sees. */
static int32_t seen_from(const job *j, int32_t pos) {
  return j->args.window > 0 && pos >= j->args.window ? pos - j->args.window + 1 : 0;
}
/* The span of the first position that any row of sequence s sees, and the number of spans from there on. */
static int32_t first_span_of(const job *j, int32_t s) {
  return seen_from(j, j->g->pos[j->g->q_indptr[s]]) / SPAN;
}
static int32_t spans_of(const job *j, int32_t s) {
  const int32_t begin = j->g->q_indptr[s], end = j->g->q_indptr[s + 1];
  return begin == end ? 0 : j->g->pos[end - 1] / SPAN - first_span_of(j, s) + 1;
}
/* KV heads that an item of sequence s has, and in how many such parts the heads are. */
static int32_t heads_of(const job *j, int32_t s) {
  const int32_t rows = (j->g->q_indptr[s + 1] - j->g->q_indptr[s]) * j->group;
  if (rows > WEIR_ATTEND_ROWS) return 1;
  return rows * j->heads > ITEM_ROWS ? ITEM_ROWS / rows : j->heads;
}
static int32_t parts_of(const job *j, int32_t s) {
  const int32_t heads = heads_of(j, s);
  return (j->kv.n_kv_heads + heads - 1) / heads;
}
static int32_t items_of(const job *j, int32_t s) {
  if (j->g->q_indptr[s] == j->g->q_indptr[s + 1]) return 0;
  return tiles_of(j, s) * parts_of(j, s) * (j->apart ? spans_of(j, s) : 1);
}
static int32_t all_items(const job *j) {
  int32_t n = 0;
  for (int32_t s = 0; s < j->g->n_seqs; s++) n += items_of(j, s);
  return n;
}

/* A tile, and where its rows come from. */
typedef struct tile_job {
  weir_attend_tile t;
  size_t row[WEIR_ATTEND_ROWS], head[WEIR_ATTEND_ROWS];
  int32_t first, end; /* positions that any row sees lie in first .. end - 1; first is a multiple of SPAN */
} tile_job;

/* The item's tile whose rows come behind `before` others in the thread's memory, and its queries behind
 * q_before. */
static void make_tile(const job *j, float *mem, int32_t s, int32_t kv_head, int32_t tile, int32_t before,
                      int32_t q_before, tile_job *out) {
  const weir_ragged *g = j->g;
  const layout *y = &j->lay;
  const int32_t d = j->kv.head_dim, n_flat = (g->q_indptr[s + 1] - g->q_indptr[s]) * j->group;
  const int32_t flat = tile * WEIR_ATTEND_ROWS;
  const size_t row_bytes = (size_t)d * (j->kv.dtype == WEIR_Q8_0 ? 1 : j->kv.dtype == WEIR_F16 ? 2 : 4);
  const size_t head_bytes = weir_kv_head_bytes(&j->kv), half_bytes = head_bytes * (size_t)j->kv.n_kv_heads;
  const size_t at = (size_t)before * (size_t)y->dp;
  weir_attend_tile *t = &out->t;
  *t = (weir_attend_tile){.n_rows = n_flat - flat < WEIR_ATTEND_ROWS ? n_flat - flat : WEIR_ATTEND_ROWS,
                          .head_dim = d,
                          .dp = y->dp,
                          .group = j->group,
                          .q = mem + y->q + 2 * (size_t)q_before * (size_t)y->dp,
                          .acc = mem + y->acc + at,
                          .m = mem + y->m + before,
                          .l = mem + y->l + before,
                          .k = mem + y->k,
                          .v = mem + y->v,
                          .kv = (const char *)j->kv.base + (size_t)kv_head * head_bytes,
                          .page_bytes = 2 * half_bytes,
                          .row_bytes = row_bytes,
                          .v_bytes = half_bytes,
                          .page = g->page + g->page_indptr[s],
                          .page_size = j->kv.page_size,
                          .type = j->kv.dtype,
                          .scale_at = row_bytes * (size_t)j->kv.page_size,
                          .scale = j->args.scale,
                          .softcap = j->args.softcap};
  if (t->softcap > 0.0f) t->scale /= t->softcap;
  for (int32_t r = 0; r < t->n_rows; r++) {
    out->row[r] = (size_t)(g->q_indptr[s] + (flat + r) / j->group);
    out->head[r] = (size_t)kv_head * (size_t)j->group + (size_t)((flat + r) % j->group);
    t->pos[r] = g->pos[out->row[r]];
    t->from[r] = seen_from(j, t->pos[r]);
    t->q_in[r] = j->q.data + out->row[r] * (size_t)j->q.ld + out->head[r] * (size_t)d;
  }
  out->first = t->from[0] / SPAN * SPAN;
  out->end = t->pos[t->n_rows - 1] + 1;
}

/* All tiles over one span, from begin on. */
static void run_span(const job *j, tile_job *w, int32_t n, int32_t begin) {
  const int32_t end = w->end < begin + SPAN ? w->end : begin + SPAN;
  for (int32_t i = 0; i < n; i++) j->kernel->start(&w[i].t);
  if (n == 1) {
    j->kernel->run(&w->t, begin, end);
    return;
  }
  const int32_t chunk = j->kernel == &weir_attend_amx ? CHUNK_AMX : CHUNK;
  if (begin < w->t.from[0]) begin += (w->t.from[0] - begin) / chunk * chunk;
  for (int32_t at = begin; at < end; at += chunk)
    for (int32_t i = 0; i < n; i++) j->kernel->run(&w[i].t, at, end - at < chunk ? end : at + chunk);
}

/* apart: the parts of the span that begins at `begin`, the sequence's `nth`. */
static void run_one_span(const job *j, tile_job *w, int32_t n, int32_t begin, int32_t nth) {
  if (begin < w->first || begin >= w->end) return;
  run_span(j, w, n, begin);
  const size_t dp = (size_t)w->t.dp, n_heads = (size_t)j->q.cols / (size_t)w->t.head_dim;
  for (int32_t i = 0; i < n; i++)
    for (int32_t r = 0; r < w[i].t.n_rows; r++) {
      const weir_attend_tile *t = &w[i].t;
      const size_t at = (w[i].row[r] * n_heads + w[i].head[r]) * (size_t)j->n_spans + (size_t)nth;
      float *part = j->part + at * (dp + 16);
      memcpy(part, t->acc + (size_t)r * dp, sizeof(float) * dp);
      part[dp] = t->m[r];
      part[dp + 1] = t->l[r];
    }
}

/* The span that begins at `begin` put behind those before it. */
static void merge_span(const job *j, const tile_job *w, int32_t begin, float *merged, float *m, float *l) {
  const weir_attend_tile *t = &w->t;
  const size_t dp = (size_t)t->dp;
  for (int32_t r = 0; r < t->n_rows; r++) {
    float *to = merged + (size_t)r * dp, *acc = t->acc + (size_t)r * dp;
    const int32_t own = t->from[r] / SPAN * SPAN; /* the row's first span; it may see none of this one */
    if (begin == own) {
      memcpy(to, acc, sizeof(float) * dp);
      m[r] = t->m[r];
      l[r] = t->l[r];
    } else if (begin > own && t->pos[r] >= begin) {
      j->kernel->merge(to, m + r, l + r, acc, t->m[r], t->l[r], t->dp);
    }
  }
}

/* All spans of the tiles, and the result. */
static void run_spans(const job *j, float *mem, tile_job *w, int32_t n) {
  const size_t dp = (size_t)w->t.dp;
  float *merged = mem + j->lay.merged, *m = mem + j->lay.m2, *l = mem + j->lay.l2;
  for (int32_t begin = w->first;; begin += SPAN) {
    const bool last = w->end - begin <= SPAN;
    run_span(j, w, n, begin);
    if (begin == w->first && last) {
      merged = mem + j->lay.acc, l = mem + j->lay.l;
      break;
    }
    for (int32_t i = 0, before = 0; i < n; before += w[i++].t.n_rows)
      merge_span(j, &w[i], begin, merged + (size_t)before * dp, m + before, l + before);
    if (last) break;
  }
  for (int32_t i = 0, before = 0; i < n; i++)
    for (int32_t r = 0; r < w[i].t.n_rows; r++, before++)
      j->kernel->finish(j->out.data + w[i].row[r] * (size_t)j->out.ld + w[i].head[r] * (size_t)w->t.head_dim,
                        merged + (size_t)before * dp, l[before], w->t.head_dim);
}

/* Items are numbered by sequence, then span, part of the KV heads, tile; threads take them one by one. */
static void take_items(void *ctx, int32_t begin, int32_t end, int32_t rank) {
  job *j = (job *)ctx;
  float *mem = j->local + (size_t)rank * j->lay.total;
  tile_job w[ITEM_TILES];
  int32_t s = 0, before = 0;
  (void)begin, (void)end;
  for (;;) {
    const int32_t i = atomic_fetch_add_explicit(&j->next, 1, memory_order_relaxed);
    if (i >= j->n_items) return;
    while (i - before >= items_of(j, s)) before += items_of(j, s++);
    const int32_t tiles = tiles_of(j, s), parts = parts_of(j, s), heads = heads_of(j, s), at = i - before;
    const int32_t nth = at / (tiles * parts), first = at / tiles % parts * heads;
    int32_t n = 0, rows = 0, q_rows = 0;
    for (; n < heads && first + n < j->kv.n_kv_heads; rows += w[n++].t.n_rows) {
      make_tile(j, mem, s, first + n, at % tiles, rows, q_rows, &w[n]);
      q_rows += (w[n].t.n_rows + 7) / 8 * 8;
      j->kernel->load_q(&w[n].t);
    }
    if (j->apart)
      run_one_span(j, w, n, (first_span_of(j, s) + nth) * SPAN, nth);
    else
      run_spans(j, mem, w, n);
  }
}

/* apart: rows from their spans' parts, in order. */
static void merge_rows(void *ctx, int32_t begin, int32_t end, int32_t rank) {
  job *j = (job *)ctx;
  const int32_t d = j->kv.head_dim, dp = j->lay.dp, n_heads = j->q.cols / d;
  const size_t stride = (size_t)dp + 16;
  (void)rank;
  for (int32_t i = begin; i < end; i++) {
    const int32_t row = i / n_heads, head = i % n_heads;
    const int32_t pos = j->g->pos[row], own = seen_from(j, pos) / SPAN, n = pos / SPAN - own + 1;
    const size_t at = (size_t)i * (size_t)j->n_spans + (size_t)(own - first_span_of(j, j->g->seq[row]));
    float *first = j->part + at * stride;
    for (int32_t s = 1; s < n; s++) {
      const float *next = first + (size_t)s * stride;
      j->kernel->merge(first, first + dp, first + dp + 1, next, next[dp], next[dp + 1], dp);
    }
    j->kernel->finish(j->out.data + (size_t)row * (size_t)j->out.ld + (size_t)head * (size_t)d, first,
                      first[dp + 1], d);
  }
}

weir_status weir_cpu_attend(weir_dev *dev, weir_mat out, weir_mat q, const weir_ragged *g, weir_kv_layer kv,
                            const weir_attend_args *a, weir_err *e) {
  weir_cpu *cpu = weir_cpu_of(dev);
  const int32_t n_heads = q.cols / kv.head_dim;
  job j = {.kernel = cpu->isa == WEIR_ISA_AMX ? &weir_attend_amx : &weir_simd_get(cpu->isa)->attend,
           .g = g,
           .out = out,
           .q = q,
           .kv = kv,
           .args = *a,
           .group = n_heads / kv.n_kv_heads,
           .lay = make_layout(kv.head_dim),
           .local = (float *)cpu->scratch};
  size_t work = 0;
  for (int32_t s = 0; s < g->n_seqs; s++) {
    const int32_t begin = g->q_indptr[s], end = g->q_indptr[s + 1], spans = spans_of(&j, s);
    if (begin == end) continue;
    work += (size_t)(end - begin) * (size_t)(g->pos[end - 1] + 1 - seen_from(&j, g->pos[end - 1]));
    if (spans > j.n_spans) j.n_spans = spans;
  }
  work *= (size_t)q.cols;
  const int32_t n_threads = work < TEAM_WORK ? 1 : cpu->n_threads;
  const size_t local = (size_t)n_threads * j.lay.total;
  const size_t part = (size_t)g->n_tokens * (size_t)n_heads * (size_t)j.n_spans * ((size_t)j.lay.dp + 16);
  if (local * sizeof(float) > cpu->scratch_bytes)
    return weir_fail(e, WEIR_EINVAL, "attend: head_dim %d is beyond the limits reserved", (int)kv.head_dim);
  j.part = j.local + local;
  j.heads = kv.n_kv_heads < ITEM_TILES ? kv.n_kv_heads : ITEM_TILES;
  j.apart = n_threads > 1 && j.n_spans > 1 && all_items(&j) < 8 * n_threads &&
            (local + part) * sizeof(float) <= cpu->scratch_bytes;
  while (n_threads > 1 && j.heads > 1 && all_items(&j) < 4 * n_threads) j.heads = (j.heads + 1) / 2;
  j.n_items = all_items(&j);
  if (n_threads == 1)
    take_items(&j, 0, 1, 0);
  else
    weir_cpu_for(dev, n_threads, 1, take_items, &j);
  if (j.apart) weir_cpu_for(dev, g->n_tokens * n_heads, weir_cpu_grain(j.n_spans * j.lay.dp), merge_rows, &j);
  return WEIR_OK;
}
