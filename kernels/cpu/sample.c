/* SPDX-License-Identifier: Apache-2.0 */
/* The sample op: the stages of kernels/sample_core.h over one whole vocabulary. Borrows the device's scratch;
 * runs on the caller's thread and the device's team. Rows are cut into chunks for the passes over all logits;
 * the best ids and the search of a cut take whole rows, because only few of a batch ask for these. A chunk
 * with edits is shaped on the stack of the thread that reads it, anew for each stage: saving 16 KiB of
 * copying would take memory for whole rows. */
#include <string.h>

#include "base/mem.h"
#include "kernels/cpu/cpu_dev.h"
#include "kernels/cpu/simd.h"
#include "kernels/sample_core.h"

enum { TEAM_CHUNKS = 4 }; /* chunks a thread should get at least: about 10 us */

typedef struct row_state {
  weir_sample_stat stat; /* of the raw row */
  weir_sample_law law;
  float probe_logit;
  int32_t token; /* -1 while a race is to be run */
  bool shaped;   /* a draw with edits */
} row_state;

typedef struct job {
  const weir_sample_chunks *ops;
  weir_mat logits;
  const weir_ask *ask;
  int32_t n_valid, n_chunks;
  row_state *row;         /* [rows] */
  weir_top *top;          /* [rows][WEIR_TOP_MAX] or NULL */
  weir_sample_stat *stat; /* [rows*n_chunks] */
  weir_sample_win *win;   /* the same memory, later */
  weir_sample_hist *hist; /* [n_threads][2] */
} job;

/* Sizes of the parts of the scratch, each in whole cache lines; false on overflow. */
typedef struct parts {
  size_t row, chunk, hist, total;
} parts;
static bool lines(size_t n, size_t size, size_t *out) {
  size_t b;
  if (!weir_mul_size(n, size, &b) || !weir_add_size(b, 63, &b)) return false;
  *out = b / 64 * 64;
  return true;
}
static bool make_parts(int32_t rows, int32_t n_chunks, int32_t n_threads, parts *p) {
  const size_t each =
      sizeof(weir_sample_stat) > sizeof(weir_sample_win) ? sizeof(weir_sample_stat) : sizeof(weir_sample_win);
  size_t n;
  return lines((size_t)rows, sizeof(row_state), &p->row) &&
         weir_mul_size((size_t)rows, (size_t)n_chunks, &n) && lines(n, each, &p->chunk) &&
         lines(2 * (size_t)n_threads, sizeof(weir_sample_hist), &p->hist) &&
         weir_add_size(p->row, p->chunk, &p->total) && weir_add_size(p->total, p->hist, &p->total);
}

size_t weir_cpu_sample_scratch(const weir_dev_limits *lim, int32_t n_threads) {
  parts p;
  return make_parts(lim->max_rows_out, weir_sample_n_chunks(lim->max_vocab), n_threads, &p) ? p.total
                                                                                            : SIZE_MAX;
}

static const float *logits_of(const job *j, int32_t row) {
  return j->logits.data + (size_t)row * (size_t)j->logits.ld;
}
static int32_t chunk_len(const job *j, int32_t chunk) {
  const int32_t left = j->n_valid - chunk * WEIR_SAMPLE_CHUNK;
  return left < WEIR_SAMPLE_CHUNK ? left : WEIR_SAMPLE_CHUNK;
}

static void stat_chunks(void *ctx, int32_t begin, int32_t end, int32_t rank) {
  job *j = (job *)ctx;
  (void)rank;
  for (int32_t i = begin; i < end; i++) {
    const int32_t chunk = i % j->n_chunks, first = chunk * WEIR_SAMPLE_CHUNK;
    j->ops->stat(logits_of(j, i / j->n_chunks) + first, first, chunk_len(j, chunk), &j->stat[i]);
  }
}

/* What a draw reads of a chunk: its logits, or buf[WEIR_SAMPLE_CHUNK] with the shaped ones. */
static const float *drawn_from(const job *j, int32_t row, int32_t chunk, float *buf) {
  const int32_t first = chunk * WEIR_SAMPLE_CHUNK, n = chunk_len(j, chunk);
  const float *l = logits_of(j, row) + first;
  if (!j->row[row].shaped) return l;
  int32_t n_edits;
  const weir_logit_edit *edit = weir_sample_edits(&j->ask[row], first, n, &n_edits);
  if (n_edits == 0) return l;
  weir_sample_shape(buf, l, first, n, edit, n_edits);
  return buf;
}

/* What a row needs, from its raw statistics; a draw from a shaped row is only marked. */
static weir_status plan_row(const job *j, int32_t r, weir_err *e) {
  const weir_ask *ask = &j->ask[r];
  row_state *s = &j->row[r];
  s->stat = weir_sample_merge(j->stat + (size_t)r * (size_t)j->n_chunks, j->n_chunks);
  const weir_status st = weir_sample_check(&s->stat, e);
  if (st != WEIR_OK) return weir_fail_ctx(e, st, "sample: row %d", (int)r);
  s->probe_logit = ask->probe >= 0 ? logits_of(j, r)[ask->probe] : 0;
  const bool draws = weir_sample_draws(ask, &s->stat, s->probe_logit);
  s->shaped = draws && ask->n_edits > 0;
  s->token = !draws ? ask->probe : s->shaped ? -1 : weir_sample_plan(ask, s->stat.top, s->stat.max, &s->law);
  return WEIR_OK;
}

/* The plans of shaped rows. */
static void plan_shaped_rows(void *ctx, int32_t begin, int32_t end, int32_t rank) {
  job *j = (job *)ctx;
  (void)rank;
  float buf[WEIR_SAMPLE_CHUNK];
  for (int32_t r = begin; r < end; r++) {
    if (!j->row[r].shaped) continue;
    weir_sample_top best = {.want = 1};
    for (int32_t c = 0; c < j->n_chunks; c++) {
      const weir_sample_stat *stat = &j->stat[(size_t)r * (size_t)j->n_chunks + (size_t)c];
      const float *l = drawn_from(j, r, c, buf);
      if (l == buf)
        j->ops->top(l, c * WEIR_SAMPLE_CHUNK, chunk_len(j, c), &best);
      else
        weir_sample_top_add(&best, stat->top, stat->max);
    }
    j->row[r].token = weir_sample_plan(&j->ask[r], best.id[0], best.logit[0], &j->row[r].law);
  }
}

/* Chunks whose best would not be among the row's are passed over. */
static void top_rows(void *ctx, int32_t begin, int32_t end, int32_t rank) {
  job *j = (job *)ctx;
  (void)rank;
  for (int32_t r = begin; r < end; r++) {
    weir_sample_top best = {.want = j->ask[r].n_top};
    if (best.want == 0) continue;
    for (int32_t c = 0; c < j->n_chunks; c++) {
      const int32_t first = c * WEIR_SAMPLE_CHUNK;
      const float max = j->stat[(size_t)r * (size_t)j->n_chunks + (size_t)c].max;
      if (best.n == best.want && !(max > best.logit[best.n - 1])) continue;
      j->ops->top(logits_of(j, r) + first, first, chunk_len(j, c), &best);
    }
    weir_sample_top_finish(&best, &j->row[r].stat, j->top + (size_t)r * WEIR_TOP_MAX);
  }
}

/* One past the ties-th lowest id whose key is `key`. */
static int32_t end_of_ties(const job *j, int32_t r, uint32_t key, int32_t ties) {
  float buf[WEIR_SAMPLE_CHUNK];
  for (int32_t c = 0; c < j->n_chunks; c++) {
    const float *l = drawn_from(j, r, c, buf);
    const int32_t first = c * WEIR_SAMPLE_CHUNK, n = chunk_len(j, c), here = j->ops->ties(l, n, key);
    if (here < ties) {
      ties -= here;
      continue;
    }
    for (int32_t v = 0; v < n; v++)
      if (weir_sample_key(l[v]) == key && --ties == 0) return first + v + 1;
  }
  return j->n_valid;
}

static void cut_rows(void *ctx, int32_t begin, int32_t end, int32_t rank) {
  job *j = (job *)ctx;
  weir_sample_hist *coarse = &j->hist[2 * rank], *fine = coarse + 1;
  float buf[WEIR_SAMPLE_CHUNK];
  for (int32_t r = begin; r < end; r++) {
    row_state *s = &j->row[r];
    if (s->token >= 0 || !weir_sample_cuts(&j->ask[r], j->n_valid)) continue;
    weir_sample_cut cut;
    weir_sample_cut_begin(&j->ask[r], j->n_valid, &cut);
    bool have_coarse = false;
    weir_sample_hist *h;
    do {
      h = cut.level == 0 ? coarse : fine;
      if (cut.level > 0 || !have_coarse) {
        memset(h, 0, sizeof *h);
        for (int32_t c = 0; c < j->n_chunks; c++)
          j->ops->hist(drawn_from(j, r, c, buf), chunk_len(j, c), &s->law, &cut, h);
        have_coarse = true;
      }
    } while (weir_sample_cut_step(&cut, h, &s->law));
    if (cut.ties < cut.equal) s->law.end_ties = end_of_ties(j, r, cut.key, cut.ties);
  }
}

static void race_chunks(void *ctx, int32_t begin, int32_t end, int32_t rank) {
  job *j = (job *)ctx;
  (void)rank;
  float buf[WEIR_SAMPLE_CHUNK];
  for (int32_t i = begin; i < end; i++) {
    const int32_t r = i / j->n_chunks, chunk = i % j->n_chunks, first = chunk * WEIR_SAMPLE_CHUNK;
    if (j->row[r].token < 0)
      j->ops->race(drawn_from(j, r, chunk, buf), first, chunk_len(j, chunk), &j->row[r].law, &j->win[i]);
  }
}

weir_status weir_cpu_sample(weir_dev *dev, weir_row *rows, weir_top *top, weir_mat logits, int32_t n_valid,
                            const weir_ask *ask, const weir_vocab_shard *shard, weir_err *e) {
  weir_cpu *cpu = weir_cpu_of(dev);
  if (shard) return weir_fail(e, WEIR_EUNSUP, "sample: the vocabulary in shards");
  const int32_t n_chunks = weir_sample_n_chunks(n_valid), n = logits.rows;
  parts p;
  if (!make_parts(n, n_chunks, cpu->n_threads, &p) || p.total > cpu->scratch_bytes ||
      n > INT32_MAX / n_chunks)
    return weir_fail(e, WEIR_EINVAL, "sample: %d rows of %d tokens are beyond the limits reserved", (int)n,
                     (int)n_valid);
  char *mem = (char *)cpu->scratch;
  job j = {.ops = &weir_simd_get(cpu->isa)->sample,
           .logits = logits,
           .ask = ask,
           .n_valid = n_valid,
           .n_chunks = n_chunks,
           .row = (row_state *)(void *)mem,
           .top = top,
           .stat = (weir_sample_stat *)(void *)(mem + p.row),
           .win = (weir_sample_win *)(void *)(mem + p.row),
           .hist = (weir_sample_hist *)(void *)(mem + p.row + p.chunk)};
  weir_cpu_for(dev, n * n_chunks, TEAM_CHUNKS, stat_chunks, &j);
  int32_t races = 0, cuts = 0, tops = 0, shaped = 0;
  for (int32_t r = 0; r < n; r++) {
    const weir_status st = plan_row(&j, r, e);
    if (st != WEIR_OK) return st;
    tops += ask[r].n_top > 0;
    shaped += j.row[r].shaped;
  }
  const int32_t grain = n_chunks >= TEAM_CHUNKS ? 1 : TEAM_CHUNKS; /* of whole rows */
  if (tops > 0) weir_cpu_for(dev, n, grain, top_rows, &j);
  if (shaped > 0) weir_cpu_for(dev, n, grain, plan_shaped_rows, &j);
  for (int32_t r = 0; r < n; r++) {
    if (j.row[r].token >= 0) continue;
    races++;
    cuts += weir_sample_cuts(&ask[r], n_valid);
  }
  if (cuts > 0) weir_cpu_for(dev, n, grain, cut_rows, &j);
  if (races > 0) weir_cpu_for(dev, n * n_chunks, TEAM_CHUNKS, race_chunks, &j);
  for (int32_t r = 0; r < n; r++) {
    const row_state *s = &j.row[r];
    int32_t token = s->token;
    float logit = token >= 0 ? logits_of(&j, r)[token] : 0;
    if (token < 0) {
      weir_sample_win w = j.win[(size_t)r * (size_t)n_chunks];
      for (int32_t c = 1; c < n_chunks; c++)
        w = weir_sample_first(w, j.win[(size_t)r * (size_t)n_chunks + (size_t)c]);
      token = w.id;
      logit = s->shaped ? logits_of(&j, r)[token] : w.logit;
    }
    weir_sample_finish(&ask[r], &s->stat, token, logit, s->probe_logit, &rows[r]);
  }
  return WEIR_OK;
}
