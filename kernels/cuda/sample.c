/* SPDX-License-Identifier: Apache-2.0 */
/* Sampling on the GPU: what is staged for it, which of its kernels the asks can need, and what became of it
 * when the device has been waited for. Launches: one for rows that are greedy or whose probe is measured, one
 * more each for races, for truncation, for the likeliest ids, for laws told, for drafts judged by weights. Of
 * a vocabulary in shards the host does not know what the rows turn out to need, so exchanges are as many as
 * the asks can need: one, one more for races, four for top_k or top_p, seven for both, one each for laws and
 * weights. The thread that owns the device. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/cuda/cuda_dev.h"
#include "kernels/cuda/sample_kernels.h"
#include "kernels/sample_core.h"

/* Rows that go through the kernels together: more would only make the scratch larger, for 64 rows of 32k ids
 * are four blocks for each SM already. */
enum { GROUP = 64 };
/* ... and histograms of all ranks together in an exchange, 16 MiB: GROUP rows of ten ranks. */
enum { HISTS = (16 << 20) / (int)sizeof(weir_sample_hist) };

/* Rows that go together, of n_ranks; 0: the whole. */
static int32_t group_rows(int32_t n_ranks) {
  if (n_ranks == 0) return GROUP;
  const int32_t rows = HISTS / n_ranks;
  return rows < 1 ? 1 : rows < GROUP ? rows : GROUP;
}

/* Where things lie in the scratch, in bytes from its beginning. */
typedef struct layout {
  size_t ask, draft, edit, state, part, best, win, hist, list, row, top, mass, law, all, total;
  size_t max_edits; /* of a group; at least a row's */
} layout;

static bool place(size_t *at, size_t n, size_t size, size_t *out) {
  size_t bytes, end;
  if (!weir_mul_size(n, size, &bytes) || !weir_add_size(*at, bytes, &end) || !weir_add_size(end, 255, &end))
    return false;
  *out = *at;
  *at = end / 256 * 256;
  return true;
}

/* Bytes that all ranks say in an exchange, whichever is the largest within the limits. */
static bool said_bytes(const weir_dev_limits *lim, size_t *out) {
  const int32_t chunks = weir_sample_n_chunks(lim->max_vocab);
  *out = 0;
  for (int32_t n = 1; n <= lim->max_ranks; n++) {
    const int32_t group = group_rows(n), rows = lim->max_rows_out < group ? lim->max_rows_out : group;
    size_t each = weir_sample_message_of(rows, chunks, rows, 0).total, all;
    const size_t hists = (size_t)rows * sizeof(weir_sample_hist);
    if (each < hists) each = hists;
    if (!weir_mul_size((size_t)n, each, &all)) return false;
    if (all > *out) *out = all;
  }
  return true;
}

/* Drafts and edits come straight behind the asks: all are staged by one copy. */
static bool make_layout(const weir_dev_limits *lim, layout *l) {
  const int32_t max_rows = lim->max_rows_out, max_vocab = lim->max_vocab;
  size_t said;
  if (!said_bytes(lim, &said)) return false;
  const size_t rows = (size_t)(max_rows < GROUP ? max_rows : GROUP);
  const size_t chunks = rows * (size_t)weir_sample_n_chunks(max_vocab);
  size_t at = 0;
  l->max_edits = (size_t)max_vocab;
  return place(&at, rows, sizeof(weir_cuk_sample_ask), &l->ask) &&
         place(&at, rows * WEIR_TOP_MAX, sizeof(weir_top), &l->draft) &&
         place(&at, l->max_edits, sizeof(weir_logit_edit), &l->edit) &&
         place(&at, rows, sizeof(weir_cuk_sample_state), &l->state) &&
         place(&at, chunks, sizeof(weir_sample_stat), &l->part) &&
         place(&at, chunks, sizeof(uint64_t), &l->best) &&
         place(&at, chunks, sizeof(weir_sample_win), &l->win) &&
         place(&at, rows, sizeof(weir_sample_hist), &l->hist) &&
         place(&at, chunks, sizeof(uint64_t) * WEIR_TOP_MAX, &l->list) &&
         place(&at, rows, sizeof(weir_row), &l->row) &&
         place(&at, rows, sizeof(weir_top) * WEIR_TOP_MAX, &l->top) &&
         place(&at, chunks, sizeof(double), &l->mass) &&
         place(&at, rows, sizeof(weir_top) * WEIR_TOP_MAX, &l->law) && place(&at, said, 1, &l->all) &&
         ((l->total = at), true);
}

size_t weir_cuda_sample_scratch(const weir_cuda *cu, const weir_dev_limits *lim) {
  layout l;
  (void)cu;
  return make_layout(lim, &l) ? l.total : SIZE_MAX;
}

/* How many of the asks go together: as many as a group takes, and the room for edits. */
static int32_t group_of(const weir_ask *ask, int32_t n, int32_t most, size_t max_edits) {
  size_t edits = 0;
  int32_t rows = 0;
  for (; rows < n && rows < most; rows++) {
    edits += (size_t)ask[rows].n_edits;
    if (rows > 0 && edits > max_edits) break;
  }
  return rows;
}

/* How many rows may need what. */
typedef struct needs {
  int32_t races, cuts, tops, edits, weighs, laws; /* laws: that race */
  bool both;                                      /* a row cuts by top_k and by top_p */
} needs;
static bool may_race(const weir_ask *ask) { return ask->temperature > 0 && weir_sample_may_draw(ask); }
static bool may_cut(const weir_ask *ask, int32_t n_valid) {
  return may_race(ask) && weir_sample_cuts(ask, n_valid);
}
static needs needs_of(const weir_ask *ask, int32_t rows, int32_t n_valid) {
  needs n = {0};
  for (int32_t i = 0; i < rows; i++) {
    const bool cuts = may_cut(&ask[i], n_valid);
    n.races += may_race(&ask[i]);
    n.cuts += cuts;
    n.both |= cuts && ask[i].top_k > 0 && ask[i].top_k < n_valid && ask[i].top_p < 1;
    n.tops += ask[i].n_top > 0;
    n.edits += ask[i].n_edits > 0;
    n.weighs += weir_sample_weighs(&ask[i]);
    n.laws += may_race(&ask[i]) && ask[i].tell_law;
  }
  return n;
}

/* The asks, with device addresses of their edits, and the edits, to the beginning of the scratch. */
static weir_status stage(weir_dev *dev, const layout *l, const weir_ask *ask, int32_t rows, int32_t n_valid,
                         weir_err *e) {
  char *base = (char *)weir_cuda_of(dev)->sample_scratch;
  size_t n_edits = 0;
  bool any_draft = false;
  for (int32_t i = 0; i < rows; i++) n_edits += (size_t)ask[i].n_edits;
  for (int32_t i = 0; i < rows; i++) any_draft |= ask[i].n_draft > 0;
  const size_t bytes = n_edits > 0 ? l->edit + n_edits * sizeof(weir_logit_edit)
                       : any_draft ? l->draft + (size_t)rows * WEIR_TOP_MAX * sizeof(weir_top)
                                   : l->ask + (size_t)rows * sizeof(weir_cuk_sample_ask);
  char *host = calloc(1, bytes);
  if (!host) return weir_fail(e, WEIR_ENOMEM, "sample: memory for %zu edits", n_edits);
  weir_cuk_sample_ask *to = (weir_cuk_sample_ask *)(void *)(host + l->ask);
  size_t at = l->edit;
  int32_t tops = 0, cuts = 0, races = 0, weighs = 0, laws = 0;
  for (int32_t i = 0; i < rows; i++) {
    to[i].top_at = ask[i].n_top > 0 ? tops++ : -1;
    to[i].cut_at = may_cut(&ask[i], n_valid) ? cuts++ : -1;
    to[i].race_at = may_race(&ask[i]) ? races++ : -1;
    to[i].weigh_at = weir_sample_weighs(&ask[i]) ? weighs++ : -1;
    to[i].tell_at = may_race(&ask[i]) && ask[i].tell_law ? laws++ : -1;
    const size_t size = (size_t)ask[i].n_edits * sizeof(weir_logit_edit);
    to[i].ask = ask[i];
    to[i].ask.edit = size > 0 ? (const weir_logit_edit *)(const void *)(base + at) : NULL;
    if (size > 0) memcpy(host + at, ask[i].edit, size);
    const size_t draft = l->draft + (size_t)i * WEIR_TOP_MAX * sizeof(weir_top);
    to[i].ask.draft = (const weir_top *)(const void *)(base + draft);
    to[i].ask.law = (weir_top *)(void *)(base + l->law) + (size_t)i * WEIR_TOP_MAX;
    if (ask[i].n_draft > 0) memcpy(host + draft, ask[i].draft, (size_t)ask[i].n_draft * sizeof(weir_top));
    at += size;
  }
  const weir_status st = weir_cuda_upload(dev, base, host, bytes, e);
  free(host);
  return st;
}

/* What the rows turned out to be; `first` is the group's first row in the call. */
static weir_status look_at_rows(const void *ctx, int32_t first, int32_t n, weir_err *e) {
  const weir_row *row = (const weir_row *)ctx;
  for (int32_t i = 0; i < n; i++)
    if (row[i].token < 0) {
      const weir_status st = weir_sample_fail((weir_sample_fault)(-1 - row[i].token), e);
      return weir_fail_ctx(e, st, "sample: row %d", first + i);
    }
  return WEIR_OK;
}

#define LAUNCH(kernel) \
  WEIR_TRY(weir_cuda_check(dev, weir_cuk_sample_##kernel(a, cu->stream), "launch sample_" #kernel, e))

static weir_status run_whole(weir_dev *dev, const weir_cuk_sample_args *a, const needs *need, weir_err *e) {
  const weir_cuda *cu = weir_cuda_of(dev);
  weir_status st = WEIR_OK;
  LAUNCH(stat);
  if (need->tops > 0) LAUNCH(top);
  if (need->cuts > 0) LAUNCH(cut);
  if (need->laws > 0) LAUNCH(tell);
  if (need->weighs > 0) LAUNCH(weigh);
  if (need->races > 0) LAUNCH(race);
out:
  return st;
}

/* Fills this rank's part of the next exchange, from byte `from` on. */
static weir_status fill(weir_dev *dev, const weir_cuk_sample_args *a, size_t from, int value, weir_err *e) {
  char *own = a->s.all + (size_t)a->s.rank * a->s.stride;
  return weir_cuda_check(
      dev, cudaMemsetAsync(own + from, value, a->s.stride - from, weir_cuda_of(dev)->stream), "clear", e);
}
static weir_status exchange(const weir_cuk_sample_args *a, const weir_vocab_shard *v, const char *what,
                            weir_err *e) {
  const weir_status st =
      v->all_gather(v->ctx, a->s.all, a->s.all + (size_t)a->s.rank * a->s.stride, a->s.stride, e);
  return st == WEIR_OK ? st : weir_fail_ctx(e, st, "sample: %s", what);
}

/* A rank that has no ids launches nothing over them: bytes of 0xff say that (id -1, a time that is no
 * number), and no counts are zeros. */
static weir_status run_shards(weir_dev *dev, weir_cuk_sample_args *a, const weir_vocab_shard *v, int32_t cols,
                              const needs *need, weir_err *e) {
  const weir_cuda *cu = weir_cuda_of(dev);
  const bool any = a->n_chunks > 0;
  const weir_sample_head head = {v->first, cols, {0, 0}};
  weir_status st = WEIR_OK;
  a->s.m = weir_sample_message_of(a->rows, v->max_chunks, need->tops, 0);
  a->s.stride = a->s.m.total;
  WEIR_TRY(weir_cuda_upload(dev, a->s.all + (size_t)v->rank * a->s.stride, &head, sizeof head, e));
  if (any) LAUNCH(stat);
  if (any && need->tops > 0) LAUNCH(top);
  if (!any) WEIR_TRY(fill(dev, a, a->s.m.say, 0xff, e));
  WEIR_TRY(exchange(a, v, "statistics", e));
  LAUNCH(plan);
  if (need->tops > 0) LAUNCH(likes);
  a->s.stride = (size_t)need->cuts * sizeof(weir_sample_hist);
  for (int32_t i = 0; need->cuts > 0 && i < (need->both ? 7 : 4); i++) {
    WEIR_TRY(fill(dev, a, 0, 0, e));
    if (any) LAUNCH(count);
    WEIR_TRY(exchange(a, v, "histograms", e));
    LAUNCH(step);
  }
  a->s.stride = (size_t)need->laws * WEIR_TOP_MAX * sizeof(weir_sample_like);
  if (need->laws > 0) {
    WEIR_TRY(fill(dev, a, 0, 0xff, e));
    if (any) LAUNCH(tell);
    WEIR_TRY(exchange(a, v, "laws", e));
    LAUNCH(laws);
  }
  a->s.stride = (size_t)need->weighs * weir_sample_weight_bytes(v->max_chunks);
  if (need->weighs > 0) {
    WEIR_TRY(fill(dev, a, 0, 0, e));
    if (any) LAUNCH(weigh);
    WEIR_TRY(exchange(a, v, "weights", e));
    LAUNCH(judge);
  }
  a->s.stride = (size_t)need->races * sizeof(weir_sample_came);
  if (need->races > 0) {
    if (any)
      LAUNCH(race);
    else
      WEIR_TRY(fill(dev, a, 0, 0xff, e));
    WEIR_TRY(exchange(a, v, "races", e));
    LAUNCH(finish);
  }
out:
  return st;
}

weir_status weir_cuda_sample(weir_dev *dev, weir_row *rows, weir_top *top, weir_mat logits, int32_t n_valid,
                             const weir_ask *ask, const weir_vocab_shard *v, weir_err *e) {
  weir_cuda *cu = weir_cuda_of(dev);
  weir_status st = WEIR_OK;
  layout l;
  if (!make_layout(&dev->limits, &l) || l.total > cu->sample_bytes)
    return weir_fail(e, WEIR_EINVAL, "sample: %d rows of %d tokens are beyond the limits reserved",
                     logits.rows, n_valid);
  char *base = (char *)cu->sample_scratch;
  const weir_sample_head here = {v ? v->first : 0, logits.cols, {0, 0}};
  const int32_t n_chunks = weir_sample_head_chunks(&here, n_valid), left = n_valid - here.first;
  for (int32_t at = 0, n = 0; at < logits.rows; at += n) {
    n = group_of(ask + at, logits.rows - at, group_rows(v ? v->n_ranks : 0), l.max_edits);
    const needs need = needs_of(ask + at, n, n_valid);
    weir_cuk_sample_args a = {
        .logits = logits.data ? logits.data + (size_t)at * (size_t)logits.ld : NULL,
        .ld = logits.ld,
        .rows = n,
        .n_valid = n_valid,
        .first = here.first,
        .end = n_chunks > 0 ? here.first + (left < logits.cols ? left : logits.cols) : here.first,
        .n_chunks = n_chunks,
        .aligned = (uintptr_t)logits.data % 16 == 0 && logits.ld % 4 == 0,
        .has_edits = need.edits > 0,
        .has_drafts = need.weighs > 0,
        .ask = (weir_cuk_sample_ask *)(void *)(base + l.ask),
        .state = (weir_cuk_sample_state *)(void *)(base + l.state),
        .part = (weir_sample_stat *)(void *)(base + l.part),
        .best = (uint64_t *)(void *)(base + l.best),
        .win = (weir_sample_win *)(void *)(base + l.win),
        .hist = (weir_sample_hist *)(void *)(base + l.hist),
        .list = (uint64_t *)(void *)(base + l.list),
        .row = (weir_row *)(void *)(base + l.row),
        .top = (weir_top *)(void *)(base + l.top),
        .mass = (double *)(void *)(base + l.mass),
    };
    WEIR_TRY(stage(dev, &l, ask + at, n, n_valid, e));
    if (v) {
      a.s = (weir_cuk_sample_shards){
          .rank = v->rank, .n_ranks = v->n_ranks, .max_chunks = v->max_chunks, .all = base + l.all};
      WEIR_TRY(run_shards(dev, &a, v, logits.cols, &need, e));
    } else {
      WEIR_TRY(run_whole(dev, &a, &need, e));
    }
    WEIR_TRY(weir_cuda_download(dev, rows + at, a.row, (size_t)n * sizeof *rows, e));
    WEIR_TRY(weir_cuda_at_sync(dev, look_at_rows, rows + at, at, n, e));
    for (int32_t i = 0; i < n && (!v || v->rank == 0); i++)
      if (ask[at + i].tell_law && ask[at + i].law)
        WEIR_TRY(weir_cuda_download(dev, ask[at + i].law,
                                    base + l.law + (size_t)i * WEIR_TOP_MAX * sizeof(weir_top),
                                    WEIR_TOP_MAX * sizeof(weir_top), e));
    for (int32_t i = 0; i < n; i++)
      if (ask[at + i].n_top > 0)
        WEIR_TRY(weir_cuda_download(dev, top + (size_t)(at + i) * WEIR_TOP_MAX, a.top + i * WEIR_TOP_MAX,
                                    (size_t)ask[at + i].n_top * sizeof *top, e));
  }
out:
  return st;
}
