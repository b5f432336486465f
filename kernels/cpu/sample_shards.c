/* SPDX-License-Identifier: Apache-2.0 */
/* The sample op over a vocabulary in shards: the stages over the ids that are here, what the ranks tell each
 * other between them (kernels/sample_shard.h), and the answers, which every rank works out for itself from
 * the same numbers. Borrows the device's scratch; runs on the caller's thread and the device's team, and
 * waits in the shard's exchange.
 *
 * Nothing fails here between two exchanges but for what all ranks see alike, so none waits for one that has
 * left; but for a rank whose scratch is too small, which is a mistake of its caller. */
#include <string.h>

#include "base/mem.h"
#include "kernels/cpu/sample_stages.h"
#include "kernels/sample_shard.h"

/* Histograms of one exchange, of all ranks together: more rows go in turns. 8 MiB: 170 rows of two ranks. */
enum { HISTS = (8 << 20) / (int)sizeof(weir_sample_hist) };

/* Rows that truncate together. */
static int32_t group_of(int32_t n_ranks) { return n_ranks < HISTS ? HISTS / n_ranks : 1; }
static int32_t less(int32_t a, int32_t b) { return a < b ? a : b; }

/* Where things lie in the scratch; false on overflow. */
typedef struct layout {
  size_t row, win, hist, cut, coarse, listed, all, total;
} layout;
static bool place(size_t *at, size_t n, size_t size, size_t *out) {
  size_t bytes, end;
  if (!weir_mul_size(n, size, &bytes) || !weir_add_size(*at, bytes, &end) || !weir_add_size(end, 63, &end))
    return false;
  *out = *at;
  *at = end / 64 * 64;
  return true;
}

/* Of a rank, in a search of the cut. */
typedef struct search {
  weir_sample_cut cut;
  int32_t row, at; /* at: its place among the group's coarse histograms */
} search;

static bool make_layout(int32_t rows, int32_t max_chunks, int32_t n_ranks, int32_t group, int32_t n_threads,
                        layout *l) {
  const size_t n = (size_t)rows, ranks = (size_t)n_ranks, hists = (size_t)less(rows, group);
  size_t chunks, parts, said, at = 0;
  if (!weir_mul_size(n, (size_t)max_chunks, &chunks) || !weir_mul_size(chunks, 64, &parts) ||
      !weir_mul_size(n, 1024, &said) || !weir_add_size(parts, said, &parts)) /* nothing of a message wraps */
    return false;
  size_t all = weir_sample_message_of(rows, max_chunks, rows, rows).total;
  if (all < hists * sizeof(weir_sample_hist)) all = hists * sizeof(weir_sample_hist);
  return place(&at, n, sizeof(weir_cpu_sample_row), &l->row) &&
         place(&at, chunks, sizeof(weir_sample_win), &l->win) &&
         place(&at, 2 * (size_t)n_threads, sizeof(weir_sample_hist), &l->hist) &&
         place(&at, hists, sizeof(search), &l->cut) &&
         place(&at, hists, sizeof(weir_sample_hist), &l->coarse) &&
         place(&at, n, sizeof(int32_t), &l->listed) && place(&at, ranks, all, &l->all) &&
         ((l->total = at), true);
}

size_t weir_cpu_sample_shards_scratch(const weir_dev_limits *lim, int32_t n_threads) {
  /* Fewer ranks have larger groups, up to HISTS histograms in all. */
  const int32_t rows = lim->max_rows_out, chunks = weir_sample_n_chunks(lim->max_vocab);
  size_t most = 0;
  for (int32_t n = 1; n <= lim->max_ranks; n++) {
    layout l;
    if (!make_layout(rows, chunks, n, group_of(n), n_threads, &l)) return SIZE_MAX;
    if (l.total > most) most = l.total;
  }
  return most;
}

typedef struct shards {
  weir_cpu_sample_job job;
  const weir_vocab_shard *shard;
  weir_top *top; /* [rows][WEIR_TOP_MAX] or NULL */
  char *all;     /* [n_ranks][stride] what all have said in this exchange */
  size_t stride;
  weir_sample_message m;
  search *search; /* [n_searches] that go on */
  int32_t n_searches;
  weir_sample_hist *coarse; /* of all ranks, [group] */
  int32_t *listed;          /* [n_lists] rows whose cut is found by lists, if they race */
  int32_t n_lists;
} shards;

static char *said_by(const shards *s, int32_t rank) { return s->all + (size_t)rank * s->stride; }
static char *own(const shards *s) { return said_by(s, s->shard->rank); }

static weir_status exchange(const shards *s, const char *what, weir_err *e) {
  const weir_vocab_shard *v = s->shard;
  const weir_status st = v->all_gather(v->ctx, s->all, own(s), s->stride, e);
  return st == WEIR_OK ? st : weir_fail_ctx(e, st, "sample: %s", what);
}

/* ---- the first message ---- */

static const weir_sample_head *head_of(const shards *s, int32_t rank) {
  return (const weir_sample_head *)(const void *)said_by(s, rank);
}
static weir_sample_say *say_of(const shards *s, int32_t rank, int32_t row) {
  return (weir_sample_say *)(void *)(said_by(s, rank) + s->m.say) + row;
}
static weir_sample_like *like_of(const shards *s, int32_t rank, int32_t i) {
  return (weir_sample_like *)(void *)(said_by(s, rank) + s->m.like) + (size_t)i * WEIR_TOP_MAX;
}

static void say_rows(void *ctx, int32_t begin, int32_t end, int32_t rank) {
  const shards *s = (const shards *)ctx;
  const weir_cpu_sample_job *j = &s->job;
  float buf[WEIR_SAMPLE_CHUNK];
  (void)rank;
  for (int32_t r = begin; r < end; r++) {
    const weir_ask *ask = &j->ask[r];
    weir_sample_say *say = say_of(s, s->shard->rank, r);
    *say = (weir_sample_say){.top = -1, .best = -1};
    if (ask->probe >= 0 && weir_cpu_sample_has(j, ask->probe)) {
      say->has_probe = 1;
      say->probe_logit = weir_cpu_sample_logit(j, r, ask->probe);
    }
    const weir_sample_stat *part = weir_cpu_sample_parts(j, r);
    float max = -INFINITY;
    for (int32_t c = 0; c < j->n_chunks; c++)
      if (part[c].max > max) {
        max = part[c].max;
        say->top = part[c].top;
      }
    if (say->top >= 0) say->top_logit = weir_cpu_sample_logit(j, r, say->top);
    j->row[r].shaped = ask->n_edits > 0 && weir_sample_may_draw(ask);
    if (j->row[r].shaped) {
      weir_sample_top best = {.want = 1};
      weir_cpu_sample_best(j, r, buf, &best);
      if (best.n > 0) {
        say->best = best.id[0];
        say->best_shaped = best.logit[0];
        say->best_raw = weir_cpu_sample_logit(j, r, say->best);
      }
    }
  }
}

/* The lists of rows that want one; few of a batch do. */
static void say_tops(const shards *s) {
  const weir_cpu_sample_job *j = &s->job;
  for (int32_t r = 0, i = 0; r < j->logits.rows; r++) {
    weir_sample_top best = {.want = j->ask[r].n_top};
    if (best.want == 0) continue;
    weir_sample_like *like = like_of(s, s->shard->rank, i++);
    weir_cpu_sample_top(j, r, &best);
    for (int32_t k = 0; k < WEIR_TOP_MAX; k++)
      like[k] =
          k < best.n ? (weir_sample_like){best.id[k], best.logit[k]} : (weir_sample_like){-1, -INFINITY};
  }
}

/* Whether the row's cut, should it come to one, is found by lists; known before the logits are. */
static bool lists(const shards *s, int32_t r) {
  const weir_ask *ask = &s->job.ask[r];
  return ask->temperature > 0 && weir_sample_may_draw(ask) && weir_sample_lists(ask, s->job.n_valid);
}
static weir_sample_like *list_of(const shards *s, int32_t rank, int32_t i) {
  return (weir_sample_like *)(void *)(said_by(s, rank) + s->m.list) + (size_t)i * WEIR_SAMPLE_LIST;
}

static void say_lists(void *ctx, int32_t begin, int32_t end, int32_t rank) {
  const shards *s = (const shards *)ctx;
  float buf[WEIR_SAMPLE_CHUNK];
  (void)rank;
  for (int32_t i = begin; i < end; i++) {
    weir_sample_like *list = list_of(s, s->shard->rank, i);
    weir_sample_top best = {.want = s->job.ask[s->listed[i]].top_k};
    weir_cpu_sample_drawn(&s->job, s->listed[i], buf, &best);
    for (int32_t k = 0; k < WEIR_SAMPLE_LIST; k++)
      list[k] =
          k < best.n ? (weir_sample_like){best.id[k], best.logit[k]} : (weir_sample_like){-1, -INFINITY};
  }
}

/* Of the rows that race. What another rank says above the maximum has no place in a histogram. */
static void cut_lists(void *ctx, int32_t begin, int32_t end, int32_t rank) {
  const shards *s = (const shards *)ctx;
  for (int32_t i = begin; i < end; i++) {
    const int32_t r = s->listed[i];
    weir_cpu_sample_row *row = &s->job.row[r];
    if (row->token >= 0) continue;
    weir_sample_top best = {.want = s->job.ask[r].top_k};
    for (int32_t k = 0; k < s->shard->n_ranks; k++) {
      const weir_sample_like *list = list_of(s, k, i);
      for (int32_t v = 0; v < best.want && list[v].id >= 0; v++)
        if (list[v].id < s->job.n_valid && list[v].logit <= row->law.max)
          weir_sample_top_add(&best, list[v].id, list[v].logit);
    }
    weir_sample_cut_list(s->job.ops, &s->job.ask[r], &best, &s->job.hist[2 * rank], &row->law);
    const weir_ask *ask = &s->job.ask[r];
    if (ask->tell_law && ask->law && s->shard->rank == 0)
      weir_sample_tell_list(s->job.ops, &best, &row->law, ask->law);
  }
}

/* By all chunks of all ranks, in order. */
static weir_sample_stat merged(const shards *s, int32_t r) {
  weir_sample_stat sum = {0};
  bool any = false;
  for (int32_t k = 0; k < s->shard->n_ranks; k++) {
    const weir_sample_stat *part = (const weir_sample_stat *)(const void *)(said_by(s, k) + s->m.part) +
                                   (size_t)r * (size_t)s->shard->max_chunks;
    const int32_t n = weir_sample_head_chunks(head_of(s, k), s->job.n_valid);
    for (int32_t c = 0; c < n; c++) {
      if (any)
        weir_sample_join(&sum, &part[c], weir_sample_ratio(sum.max, part[c].max));
      else
        sum = part[c];
      any = true;
    }
  }
  return sum;
}

/* What a row needs, and the row's logits that other ranks have. */
static weir_status plan_row(const shards *s, int32_t r, weir_err *e) {
  const weir_ask *ask = &s->job.ask[r];
  weir_cpu_sample_row *row = &s->job.row[r];
  weir_sample_top best = {.want = 1};
  float best_raw = 0, top_logit = 0;
  row->stat = merged(s, r);
  weir_sample_fault fault = weir_sample_fault_of(&row->stat);
  row->probe_logit = 0;
  int32_t probes = ask->probe < 0, tops = 0;
  for (int32_t k = 0; k < s->shard->n_ranks; k++) {
    const weir_sample_say *say = say_of(s, k, r);
    if (ask->probe >= 0 && say->has_probe == 1) {
      row->probe_logit = say->probe_logit;
      probes++;
    }
    if (say->top >= 0 && say->top == row->stat.top) {
      top_logit = say->top_logit;
      tops++;
    }
    if (say->best >= 0) weir_sample_top_add(&best, say->best, say->best_shaped);
    if (best.n > 0 && best.id[0] == say->best) best_raw = say->best_raw;
  }
  /* Nothing is indexed by what another rank said before it was looked at. */
  const weir_sample_say *mine = say_of(s, s->shard->rank, r);
  if (fault == WEIR_SAMPLE_FINE && (probes != 1 || tops != 1 || row->stat.top >= s->job.n_valid ||
                                    (mine->top >= 0 && mine->top_logit > row->stat.max) ||
                                    (row->shaped && (best.n == 0 || best.id[0] >= s->job.n_valid))))
    fault = WEIR_SAMPLE_TORN;
  if (fault != WEIR_SAMPLE_FINE)
    return weir_fail_ctx(e, weir_sample_fail(fault, e), "sample: row %d", (int)r);
  const bool draws = weir_sample_draws(ask, &row->stat, row->probe_logit);
  row->shaped = draws && ask->n_edits > 0;
  row->weighed = false;
  if (!draws) {
    row->token = ask->probe;
    row->logit = row->probe_logit;
  } else if (row->shaped) {
    row->token = weir_sample_plan(ask, best.id[0], best.logit[0], &row->law);
    row->logit = best_raw;
  } else {
    row->token = weir_sample_plan(ask, row->stat.top, row->stat.max, &row->law);
    row->logit = top_logit;
  }
  return WEIR_OK;
}

static weir_status finish_tops(const shards *s, weir_err *e) {
  for (int32_t r = 0, i = 0; r < s->job.logits.rows; r++) {
    weir_sample_top best = {.want = s->job.ask[r].n_top};
    if (best.want == 0) continue;
    for (int32_t k = 0; k < s->shard->n_ranks; k++) {
      const weir_sample_like *like = like_of(s, k, i);
      for (int32_t v = 0; v < best.want && like[v].id >= 0; v++) {
        if (like[v].id >= s->job.n_valid)
          return weir_fail_ctx(e, weir_sample_fail(WEIR_SAMPLE_TORN, e), "sample: row %d", (int)r);
        weir_sample_top_add(&best, like[v].id, like[v].logit);
      }
    }
    i++;
    weir_sample_top_finish(&best, &s->job.row[r].stat, s->top + (size_t)r * WEIR_TOP_MAX);
  }
  return WEIR_OK;
}

static weir_status first_exchange(shards *s, weir_dev *dev, weir_err *e) {
  const int32_t n = s->job.logits.rows, n_ranks = s->shard->n_ranks;
  const weir_vocab_shard *v = s->shard;
  int32_t n_tops = 0, at;
  for (int32_t r = 0; r < n; r++) {
    n_tops += s->job.ask[r].n_top > 0;
    if (lists(s, r)) s->listed[s->n_lists++] = r;
  }
  s->m = weir_sample_message_of(n, v->max_chunks, n_tops, s->n_lists);
  s->stride = s->m.total;
  *(weir_sample_head *)(void *)own(s) = (weir_sample_head){v->first, s->job.logits.cols, {0, 0}};
  s->job.part = (weir_sample_stat *)(void *)(own(s) + s->m.part);
  for (int32_t r = 0; r < n; r++) /* nobody looks at what no chunk fills; but bytes sent should be known */
    for (int32_t c = s->job.n_chunks; c < v->max_chunks; c++)
      weir_cpu_sample_parts(&s->job, r)[c] = (weir_sample_stat){-INFINITY, -INFINITY, 0, 0, 0};
  weir_cpu_sample_stats(dev, &s->job);
  weir_cpu_for(dev, n, 1, say_rows, s);
  if (n_tops > 0) say_tops(s);
  weir_cpu_for(dev, s->n_lists, 1, say_lists, s);
  const weir_status st = exchange(s, "statistics", e);
  if (st != WEIR_OK) return st;
  if (!weir_sample_heads_fit(s->all, s->stride, n_ranks, v->max_chunks, s->job.n_valid, &at)) {
    if (at == n_ranks)
      return weir_fail(e, WEIR_EINVAL, "sample: the shards end before %d tokens", s->job.n_valid);
    return weir_fail(e, WEIR_EINVAL, "sample: rank %d has %d ids from %d on, which does not fit the others",
                     at, head_of(s, at)->n, head_of(s, at)->first);
  }
  for (int32_t r = 0; r < n; r++) {
    const weir_status row_st = plan_row(s, r, e);
    if (row_st != WEIR_OK) return row_st;
  }
  weir_cpu_for(dev, s->n_lists, 1, cut_lists, s);
  return n_tops > 0 ? finish_tops(s, e) : WEIR_OK;
}

/* ---- cuts ---- */

static weir_sample_hist *hist_of(const shards *s, int32_t rank, int32_t i) {
  return (weir_sample_hist *)(void *)said_by(s, rank) + i;
}

static void count_rows(void *ctx, int32_t begin, int32_t end, int32_t rank) {
  const shards *s = (const shards *)ctx;
  float buf[WEIR_SAMPLE_CHUNK];
  (void)rank;
  for (int32_t i = begin; i < end; i++)
    weir_cpu_sample_hist(&s->job, s->search[i].row, &s->search[i].cut, buf, hist_of(s, s->shard->rank, i));
}

/* Which ids stay of those at the key of the cut: histograms of the last level are still here. */
static void end_ties(const shards *s, int32_t i, float *buf) {
  const weir_sample_cut *cut = &s->search[i].cut;
  const int32_t row = s->search[i].row;
  const uint32_t b = weir_sample_bin(cut->key, 3);
  uint64_t before = 0;
  int32_t ties;
  for (int32_t k = 0; k < s->shard->rank; k++) before += hist_of(s, k, i)->count[b];
  weir_sample_law *law = &s->job.row[row].law;
  if (weir_sample_ties_split(cut, before, hist_of(s, s->shard->rank, i)->count[b], law, &ties))
    law->end_ties = weir_cpu_sample_end_of_ties(&s->job, row, cut->key, ties, buf);
}

/* A step of each search; one that is over has row -1. */
static void step_rows(void *ctx, int32_t begin, int32_t end, int32_t rank) {
  const shards *s = (const shards *)ctx;
  float buf[WEIR_SAMPLE_CHUNK];
  for (int32_t i = begin; i < end; i++) {
    search *x = &s->search[i];
    weir_sample_hist *coarse = &s->coarse[x->at], *sum = x->cut.level == 0 ? coarse : &s->job.hist[2 * rank];
    *sum = *hist_of(s, 0, i);
    for (int32_t k = 1; k < s->shard->n_ranks; k++) {
      const weir_sample_hist *h = hist_of(s, k, i);
      for (int32_t b = 0; b < WEIR_SAMPLE_BINS; b++) sum->count[b] += h->count[b];
      for (int32_t b = 0; b < WEIR_SAMPLE_BINS; b++) sum->mass[b] += h->mass[b];
    }
    weir_sample_law *law = &s->job.row[x->row].law;
    bool more = weir_sample_cut_step(&x->cut, sum, law);
    if (more && x->cut.level == 0) more = weir_sample_cut_step(&x->cut, coarse, law); /* top_p behind top_k */
    if (more) continue;
    if (x->cut.ties < x->cut.equal) end_ties(s, i, buf);
    x->row = -1;
  }
}

static weir_status cut_rows(shards *s, weir_dev *dev, weir_err *e) {
  const int32_t n = s->job.logits.rows, group = group_of(s->shard->n_ranks);
  for (int32_t r = 0; r < n;) {
    s->n_searches = 0;
    for (; r < n && s->n_searches < group; r++) {
      if (s->job.row[r].token >= 0 || !weir_sample_cuts(&s->job.ask[r], s->job.n_valid) || lists(s, r))
        continue;
      search *x = &s->search[s->n_searches];
      x->row = r;
      x->at = s->n_searches++;
      weir_sample_cut_begin(&s->job.ask[r], s->job.n_valid, &x->cut);
    }
    while (s->n_searches > 0) {
      s->stride = (size_t)s->n_searches * sizeof(weir_sample_hist);
      weir_cpu_for(dev, s->n_searches, 1, count_rows, s);
      const weir_status st = exchange(s, "histograms", e);
      if (st != WEIR_OK) return st;
      weir_cpu_for(dev, s->n_searches, 1, step_rows, s);
      int32_t left = 0;
      for (int32_t i = 0; i < s->n_searches; i++)
        if (s->search[i].row >= 0) s->search[left++] = s->search[i];
      s->n_searches = left;
    }
  }
  return WEIR_OK;
}

/* ---- rows judged by weights ---- */

static weir_sample_weight *weight_of(const shards *s, int32_t rank, int32_t i) {
  const size_t each = weir_sample_weight_bytes(s->shard->max_chunks);
  return (weir_sample_weight *)(void *)(said_by(s, rank) + (size_t)i * each);
}

/* A chunk that a rank does not have weighs 0, which changes no bit of the sum. */
static weir_status judge_rows(shards *s, weir_dev *dev, int32_t n_weighed, weir_err *e) {
  weir_cpu_sample_job *j = &s->job;
  const int32_t n = j->logits.rows, max_chunks = s->shard->max_chunks;
  s->stride = (size_t)n_weighed * weir_sample_weight_bytes(max_chunks);
  weir_cpu_sample_masses(dev, j);
  for (int32_t r = 0, i = 0; r < n; r++) {
    const int32_t probe = j->ask[r].probe;
    if (!weir_sample_weighs(&j->ask[r])) continue;
    weir_sample_weight *w = weight_of(s, s->shard->rank, i++);
    const bool here = weir_cpu_sample_has(j, probe);
    *w = (weir_sample_weight){here, here ? weir_cpu_sample_weight(j, r, probe) : 0};
    double *mass = (double *)(void *)(w + 1);
    for (int32_t c = 0; c < max_chunks; c++)
      mass[c] = c < j->n_chunks ? j->mass[(size_t)r * (size_t)j->n_chunks + (size_t)c] : 0;
  }
  const weir_status st = exchange(s, "weights", e);
  if (st != WEIR_OK) return st;
  for (int32_t r = 0, i = 0; r < n; r++) {
    if (!weir_sample_weighs(&j->ask[r])) continue;
    double sum = 0;
    float probe_w = 0;
    int32_t probes = 0;
    for (int32_t k = 0; k < s->shard->n_ranks; k++) {
      const weir_sample_weight *w = weight_of(s, k, i);
      const double *mass = (const double *)(const void *)(w + 1);
      for (int32_t c = 0; c < max_chunks; c++) sum += mass[c];
      if (w->has_probe == 1) {
        probe_w = w->probe_w;
        probes++;
      }
    }
    i++;
    if (probes != 1) return weir_fail_ctx(e, weir_sample_fail(WEIR_SAMPLE_TORN, e), "sample: row %d", (int)r);
    weir_cpu_sample_judge(j, r, probe_w, sum);
  }
  return WEIR_OK;
}

/* ---- races ---- */

static weir_sample_came *came_of(const shards *s, int32_t rank, int32_t i) {
  return (weir_sample_came *)(void *)said_by(s, rank) + i;
}

static weir_status run_races(shards *s, weir_dev *dev, int32_t n_races, weir_err *e) {
  weir_cpu_sample_job *j = &s->job;
  const int32_t n = j->logits.rows;
  s->stride = (size_t)n_races * sizeof(weir_sample_came);
  weir_cpu_sample_races(dev, j);
  for (int32_t r = 0, i = 0; r < n; r++) {
    if (j->row[r].token >= 0) continue;
    const weir_sample_win w = weir_cpu_sample_winner(j, r);
    weir_sample_came *came = came_of(s, s->shard->rank, i++);
    /* the row's top runs along everywhere; the rank that has it speaks for it */
    *came = (weir_sample_came){INFINITY, INT32_MAX, 0};
    if (weir_cpu_sample_has(j, w.id))
      *came = (weir_sample_came){w.at, w.id, weir_cpu_sample_logit(j, r, w.id)};
  }
  const weir_status st = exchange(s, "races", e);
  if (st != WEIR_OK) return st;
  for (int32_t r = 0, i = 0; r < n; r++) {
    if (j->row[r].token >= 0) continue;
    weir_sample_win first = {INFINITY, INT32_MAX, 0};
    for (int32_t k = 0; k < s->shard->n_ranks; k++) {
      const weir_sample_came *c = came_of(s, k, i);
      first = weir_sample_first(first, (weir_sample_win){c->at, c->id, c->logit});
    }
    i++;
    if (j->row[r].weighed && first.id == INT32_MAX) { /* nothing is left of a law that is the draft's */
      first.id = j->ask[r].probe;
      first.logit = j->row[r].probe_logit;
    }
    if (first.id < 0 || first.id >= j->n_valid)
      return weir_fail_ctx(e, weir_sample_fail(WEIR_SAMPLE_TORN, e), "sample: row %d", (int)r);
    j->row[r].token = first.id;
    j->row[r].logit = first.logit;
  }
  return WEIR_OK;
}

weir_status weir_cpu_sample_shards(weir_dev *dev, weir_row *rows, weir_top *top, weir_mat logits,
                                   int32_t n_valid, const weir_ask *ask, const weir_vocab_shard *shard,
                                   weir_err *e) {
  weir_cpu *cpu = weir_cpu_of(dev);
  const int32_t n = logits.rows;
  layout l;
  if (!make_layout(n, shard->max_chunks, shard->n_ranks, group_of(shard->n_ranks), cpu->n_threads, &l) ||
      l.total > cpu->scratch_bytes || n > INT32_MAX / shard->max_chunks)
    return weir_fail(e, WEIR_EINVAL,
                     "sample: %d rows of %d tokens in %d shards are beyond the limits reserved", (int)n,
                     (int)n_valid, (int)shard->n_ranks);
  char *mem = (char *)cpu->scratch;
  const weir_sample_head head = {shard->first, logits.cols, {0, 0}};
  const int32_t n_chunks = weir_sample_head_chunks(&head, n_valid);
  shards s = {.job = {.ops = &weir_simd_get(cpu->isa)->sample,
                      .logits = logits,
                      .ask = ask,
                      .n_valid = n_valid,
                      .first = shard->first,
                      .end = n_chunks > 0 ? less(shard->first + logits.cols, n_valid) : shard->first,
                      .n_chunks = n_chunks,
                      .part_ld = shard->max_chunks,
                      .row = (weir_cpu_sample_row *)(void *)(mem + l.row),
                      .win = (weir_sample_win *)(void *)(mem + l.win),
                      .mass = (double *)(void *)(mem + l.win),
                      .hist = (weir_sample_hist *)(void *)(mem + l.hist)},
              .shard = shard,
              .top = top,
              .all = mem + l.all,
              .search = (search *)(void *)(mem + l.cut),
              .coarse = (weir_sample_hist *)(void *)(mem + l.coarse),
              .listed = (int32_t *)(void *)(mem + l.listed)};
  int32_t races = 0, cuts = 0, weighed = 0;
  weir_status st = WEIR_OK;
  WEIR_TRY(first_exchange(&s, dev, e));
  for (int32_t r = 0; r < n; r++) {
    if (s.job.row[r].token >= 0) {
      if (ask[r].tell_law && ask[r].law && shard->rank == 0) /* greedy */
        weir_sample_tell(&s.job.row[r].token, &(float){1}, 1, ask[r].law);
      continue;
    }
    cuts += weir_sample_cuts(&ask[r], n_valid) && !lists(&s, r);
    weighed += weir_sample_weighs(&ask[r]);
  }
  if (cuts > 0) WEIR_TRY(cut_rows(&s, dev, e));
  if (weighed > 0) WEIR_TRY(judge_rows(&s, dev, weighed, e));
  for (int32_t r = 0; r < n; r++) races += s.job.row[r].token < 0;
  if (races > 0) WEIR_TRY(run_races(&s, dev, races, e));
  for (int32_t r = 0; r < n; r++) {
    const weir_cpu_sample_row *row = &s.job.row[r];
    weir_sample_finish(&ask[r], &row->stat, row->token, row->logit, row->probe_logit, &rows[r]);
  }
out:
  return st;
}
