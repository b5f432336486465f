/* SPDX-License-Identifier: Apache-2.0 */
/* The sample op over a whole vocabulary; one in shards is sample_shards.c. Borrows the device's scratch; runs
 * on the caller's thread and the device's team. */
#include "base/mem.h"
#include "kernels/cpu/sample_stages.h"

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
  return lines((size_t)rows, sizeof(weir_cpu_sample_row), &p->row) &&
         weir_mul_size((size_t)rows, (size_t)n_chunks, &n) && lines(n, each, &p->chunk) &&
         lines(2 * (size_t)n_threads, sizeof(weir_sample_hist), &p->hist) &&
         weir_add_size(p->row, p->chunk, &p->total) && weir_add_size(p->total, p->hist, &p->total);
}

size_t weir_cpu_sample_scratch(const weir_dev_limits *lim, int32_t n_threads) {
  const size_t shards = lim->max_ranks > 0 ? weir_cpu_sample_shards_scratch(lim, n_threads) : 0;
  parts p;
  if (!make_parts(lim->max_rows_out, weir_sample_n_chunks(lim->max_vocab), n_threads, &p)) return SIZE_MAX;
  return p.total > shards ? p.total : shards;
}

typedef struct whole {
  weir_cpu_sample_job job;
  weir_top *top; /* [rows][WEIR_TOP_MAX] or NULL */
} whole;

/* What a row needs, from its raw statistics; a draw from a shaped row is only marked. */
static weir_status plan_row(const weir_cpu_sample_job *j, int32_t r, weir_err *e) {
  const weir_ask *ask = &j->ask[r];
  weir_cpu_sample_row *s = &j->row[r];
  s->stat = weir_sample_merge(weir_cpu_sample_parts(j, r), j->n_chunks);
  const weir_status st = weir_sample_check(&s->stat, e);
  if (st != WEIR_OK) return weir_fail_ctx(e, st, "sample: row %d", (int)r);
  s->probe_logit = ask->probe >= 0 ? weir_cpu_sample_logit(j, r, ask->probe) : 0;
  const bool draws = weir_sample_draws(ask, &s->stat, s->probe_logit);
  s->shaped = draws && ask->n_edits > 0;
  s->weighed = false;
  s->token = !draws ? ask->probe : s->shaped ? -1 : weir_sample_plan(ask, s->stat.top, s->stat.max, &s->law);
  return WEIR_OK;
}

static void plan_shaped_rows(void *ctx, int32_t begin, int32_t end, int32_t rank) {
  const weir_cpu_sample_job *j = &((whole *)ctx)->job;
  (void)rank;
  float buf[WEIR_SAMPLE_CHUNK];
  for (int32_t r = begin; r < end; r++) {
    if (!j->row[r].shaped) continue;
    weir_sample_top best = {.want = 1};
    weir_cpu_sample_best(j, r, buf, &best);
    j->row[r].token = weir_sample_plan(&j->ask[r], best.id[0], best.logit[0], &j->row[r].law);
  }
}

static void top_rows(void *ctx, int32_t begin, int32_t end, int32_t rank) {
  const whole *w = (const whole *)ctx;
  (void)rank;
  for (int32_t r = begin; r < end; r++) {
    weir_sample_top best = {.want = w->job.ask[r].n_top};
    if (best.want == 0) continue;
    weir_cpu_sample_top(&w->job, r, &best);
    weir_sample_top_finish(&best, &w->job.row[r].stat, w->top + (size_t)r * WEIR_TOP_MAX);
  }
}

static void cut_rows(void *ctx, int32_t begin, int32_t end, int32_t rank) {
  const weir_cpu_sample_job *j = &((whole *)ctx)->job;
  weir_sample_hist *coarse = &j->hist[2 * rank], *fine = coarse + 1, *h;
  float buf[WEIR_SAMPLE_CHUNK];
  for (int32_t r = begin; r < end; r++) {
    weir_cpu_sample_row *s = &j->row[r];
    if (s->token >= 0 || !weir_sample_prepares(&j->ask[r], j->n_valid)) continue;
    if (weir_sample_lists(&j->ask[r], j->n_valid)) {
      weir_sample_top best = {.want = j->ask[r].top_k};
      weir_cpu_sample_drawn(j, r, buf, &best);
      weir_sample_cut_list(j->ops, &j->ask[r], &best, coarse, &s->law);
      if (j->ask[r].tell_law && j->ask[r].law) weir_sample_tell_list(j->ops, &best, &s->law, j->ask[r].law);
      continue;
    }
    weir_sample_cut cut;
    weir_sample_cut_begin(&j->ask[r], j->n_valid, &cut);
    bool have_coarse = false;
    do {
      h = cut.level == 0 ? coarse : fine;
      if (cut.level > 0 || !have_coarse) weir_cpu_sample_hist(j, r, &cut, buf, h);
      have_coarse = true;
    } while (weir_sample_cut_step(&cut, h, &s->law));
    if (cut.ties < cut.equal) s->law.end_ties = weir_cpu_sample_end_of_ties(j, r, cut.key, cut.ties, buf);
  }
}

/* Rows judged by weights, once their laws are cut. */
static void judge_rows(weir_dev *dev, weir_cpu_sample_job *j) {
  weir_cpu_sample_masses(dev, j);
  for (int32_t r = 0; r < j->logits.rows; r++) {
    if (j->row[r].token >= 0 || !weir_sample_weighs(&j->ask[r])) continue;
    double sum = 0;
    for (int32_t c = 0; c < j->n_chunks; c++) sum += j->mass[(size_t)r * (size_t)j->n_chunks + (size_t)c];
    weir_cpu_sample_judge(j, r, weir_cpu_sample_weight(j, r, j->ask[r].probe), sum);
  }
}

weir_status weir_cpu_sample(weir_dev *dev, weir_row *rows, weir_top *top, weir_mat logits, int32_t n_valid,
                            const weir_ask *ask, const weir_vocab_shard *shard, weir_err *e) {
  if (shard) return weir_cpu_sample_shards(dev, rows, top, logits, n_valid, ask, shard, e);
  weir_cpu *cpu = weir_cpu_of(dev);
  const int32_t n_chunks = weir_sample_n_chunks(n_valid), n = logits.rows;
  parts p;
  if (!make_parts(n, n_chunks, cpu->n_threads, &p) || p.total > cpu->scratch_bytes ||
      n > INT32_MAX / n_chunks)
    return weir_fail(e, WEIR_EINVAL, "sample: %d rows of %d tokens are beyond the limits reserved", (int)n,
                     (int)n_valid);
  char *mem = (char *)cpu->scratch;
  whole w = {.job = {.ops = &weir_simd_get(cpu->isa)->sample,
                     .logits = logits,
                     .ask = ask,
                     .n_valid = n_valid,
                     .end = n_valid,
                     .n_chunks = n_chunks,
                     .part_ld = n_chunks,
                     .row = (weir_cpu_sample_row *)(void *)mem,
                     .part = (weir_sample_stat *)(void *)(mem + p.row),
                     .win = (weir_sample_win *)(void *)(mem + p.row),
                     .mass = (double *)(void *)(mem + p.row),
                     .hist = (weir_sample_hist *)(void *)(mem + p.row + p.chunk)},
             .top = top};
  weir_cpu_sample_job *j = &w.job;
  weir_cpu_sample_stats(dev, j);
  int32_t races = 0, cuts = 0, tops = 0, shaped = 0, weighed = 0;
  for (int32_t r = 0; r < n; r++) {
    const weir_status st = plan_row(j, r, e);
    if (st != WEIR_OK) return st;
    tops += ask[r].n_top > 0;
    shaped += j->row[r].shaped;
  }
  const int32_t grain = n_chunks >= WEIR_CPU_TEAM_CHUNKS ? 1 : WEIR_CPU_TEAM_CHUNKS; /* of whole rows */
  if (tops > 0) weir_cpu_for(dev, n, grain, top_rows, &w);
  if (shaped > 0) weir_cpu_for(dev, n, grain, plan_shaped_rows, &w);
  for (int32_t r = 0; r < n; r++) {
    if (j->row[r].token >= 0) continue;
    races++;
    cuts += weir_sample_prepares(&ask[r], n_valid);
    weighed += weir_sample_weighs(&ask[r]);
  }
  if (cuts > 0) weir_cpu_for(dev, n, grain, cut_rows, &w);
  if (weighed > 0) judge_rows(dev, j);
  if (races > 0) weir_cpu_sample_races(dev, j);
  for (int32_t r = 0; r < n; r++) {
    const weir_cpu_sample_row *s = &j->row[r];
    int32_t token = s->token;
    float logit = token >= 0 ? weir_cpu_sample_logit(j, r, token) : 0;
    if (token < 0) {
      const weir_sample_win first = weir_cpu_sample_winner(j, r);
      /* nothing is left of a law that is the draft's to the last bit */
      token = s->weighed && first.id == INT32_MAX ? ask[r].probe : first.id;
      logit = s->shaped || s->weighed ? weir_cpu_sample_logit(j, r, token) : first.logit;
    } else if (ask[r].tell_law && ask[r].law) { /* greedy */
      weir_sample_tell(&token, &(float){1}, 1, ask[r].law);
    }
    weir_sample_finish(&ask[r], &s->stat, token, logit, s->probe_logit, &rows[r]);
  }
  return WEIR_OK;
}
