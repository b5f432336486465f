/* SPDX-License-Identifier: Apache-2.0 */
/* Sampling on the GPU: what is staged for it, which of its kernels the asks can need, and what became of it
 * when the device has been waited for. Launches: one for rows that are greedy or whose probe is measured, one
 * more each for races, for truncation, for the likeliest ids. The thread that owns the device. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/cuda/cuda_dev.h"
#include "kernels/cuda/sample_kernels.h"
#include "kernels/sample_core.h"

/* Rows that go through the kernels together: more would only make the scratch larger, for 64 rows of 32k ids
 * are four blocks for each SM already. */
enum { GROUP = 64 };

/* Where things lie in the scratch, in bytes from its beginning. */
typedef struct layout {
  size_t ask, edit, state, part, best, win, hist, list, row, top, total;
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

/* The edits come straight behind the asks: both are staged by one copy. */
static bool make_layout(int32_t max_rows, int32_t max_vocab, layout *l) {
  const size_t rows = (size_t)(max_rows < GROUP ? max_rows : GROUP);
  const size_t chunks = rows * (size_t)weir_sample_n_chunks(max_vocab);
  size_t at = 0;
  l->max_edits = (size_t)max_vocab;
  return place(&at, rows, sizeof(weir_cuk_sample_ask), &l->ask) &&
         place(&at, l->max_edits, sizeof(weir_logit_edit), &l->edit) &&
         place(&at, rows, sizeof(weir_cuk_sample_state), &l->state) &&
         place(&at, chunks, sizeof(weir_sample_stat), &l->part) &&
         place(&at, chunks, sizeof(uint64_t), &l->best) &&
         place(&at, chunks, sizeof(weir_sample_win), &l->win) &&
         place(&at, rows, sizeof(weir_sample_hist), &l->hist) &&
         place(&at, chunks, sizeof(uint64_t) * WEIR_TOP_MAX, &l->list) &&
         place(&at, rows, sizeof(weir_row), &l->row) &&
         place(&at, rows, sizeof(weir_top) * WEIR_TOP_MAX, &l->top) && ((l->total = at), true);
}

size_t weir_cuda_sample_scratch(const weir_cuda *cu, const weir_dev_limits *lim) {
  layout l;
  (void)cu;
  return make_layout(lim->max_rows_out, lim->max_vocab, &l) ? l.total : SIZE_MAX;
}

/* How many of the asks go together: as many as a group takes, and the room for edits. */
static int32_t group_of(const weir_ask *ask, int32_t n, size_t max_edits) {
  size_t edits = 0;
  int32_t rows = 0;
  for (; rows < n && rows < GROUP; rows++) {
    edits += (size_t)ask[rows].n_edits;
    if (rows > 0 && edits > max_edits) break;
  }
  return rows;
}

typedef struct needs {
  bool races, cuts, tops, edits;
} needs;
static needs needs_of(const weir_ask *ask, int32_t rows, int32_t n_valid) {
  needs n = {false, false, false, false};
  for (int32_t i = 0; i < rows; i++) {
    const bool races = ask[i].temperature > 0 && (ask[i].probe < 0 || ask[i].keep != WEIR_KEEP_ALL);
    n.races |= races;
    n.cuts |= races && weir_sample_cuts(&ask[i], n_valid);
    n.tops |= ask[i].n_top > 0;
    n.edits |= ask[i].n_edits > 0;
  }
  return n;
}

/* The asks, with device addresses of their edits, and the edits, to the beginning of the scratch. */
static weir_status stage(weir_dev *dev, const layout *l, const weir_ask *ask, int32_t rows, weir_err *e) {
  char *base = (char *)weir_cuda_of(dev)->sample_scratch;
  size_t n_edits = 0;
  for (int32_t i = 0; i < rows; i++) n_edits += (size_t)ask[i].n_edits;
  const size_t bytes = n_edits > 0 ? l->edit + n_edits * sizeof(weir_logit_edit)
                                   : l->ask + (size_t)rows * sizeof(weir_cuk_sample_ask);
  char *host = calloc(1, bytes);
  if (!host) return weir_fail(e, WEIR_ENOMEM, "sample: memory for %zu edits", n_edits);
  weir_cuk_sample_ask *to = (weir_cuk_sample_ask *)(void *)(host + l->ask);
  size_t at = l->edit;
  for (int32_t i = 0; i < rows; i++) {
    const size_t size = (size_t)ask[i].n_edits * sizeof(weir_logit_edit);
    to[i].ask = ask[i];
    to[i].ask.edit = size > 0 ? (const weir_logit_edit *)(const void *)(base + at) : NULL;
    if (size > 0) memcpy(host + at, ask[i].edit, size);
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

weir_status weir_cuda_sample(weir_dev *dev, weir_row *rows, weir_top *top, weir_mat logits, int32_t n_valid,
                             const weir_ask *ask, const weir_vocab_shard *shard, weir_err *e) {
  weir_cuda *cu = weir_cuda_of(dev);
  if (shard) return weir_fail(e, WEIR_EUNSUP, "sample: the vocabulary in shards");
  weir_status st = WEIR_OK;
  layout l;
  if (!make_layout(dev->limits.max_rows_out, dev->limits.max_vocab, &l) || l.total > cu->sample_bytes)
    return weir_fail(e, WEIR_EINVAL, "sample: %d rows of %d tokens are beyond the limits reserved",
                     logits.rows, n_valid);
  char *base = (char *)cu->sample_scratch;
  for (int32_t at = 0, n = 0; at < logits.rows; at += n) {
    n = group_of(ask + at, logits.rows - at, l.max_edits);
    const needs need = needs_of(ask + at, n, n_valid);
    const weir_cuk_sample_args a = {
        .logits = logits.data + (size_t)at * (size_t)logits.ld,
        .ld = logits.ld,
        .rows = n,
        .n_valid = n_valid,
        .n_chunks = weir_sample_n_chunks(n_valid),
        .aligned = (uintptr_t)logits.data % 16 == 0 && logits.ld % 4 == 0,
        .has_edits = need.edits,
        .ask = (weir_cuk_sample_ask *)(void *)(base + l.ask),
        .state = (weir_cuk_sample_state *)(void *)(base + l.state),
        .part = (weir_sample_stat *)(void *)(base + l.part),
        .best = (uint64_t *)(void *)(base + l.best),
        .win = (weir_sample_win *)(void *)(base + l.win),
        .hist = (weir_sample_hist *)(void *)(base + l.hist),
        .list = (uint64_t *)(void *)(base + l.list),
        .row = (weir_row *)(void *)(base + l.row),
        .top = (weir_top *)(void *)(base + l.top),
    };
    WEIR_TRY(stage(dev, &l, ask + at, n, e));
    WEIR_TRY(weir_cuda_check(dev, weir_cuk_sample_stat(&a, cu->stream), "launch sample_stat", e));
    if (need.tops)
      WEIR_TRY(weir_cuda_check(dev, weir_cuk_sample_top(&a, cu->stream), "launch sample_top", e));
    if (need.cuts)
      WEIR_TRY(weir_cuda_check(dev, weir_cuk_sample_cut(&a, cu->stream), "launch sample_cut", e));
    if (need.races)
      WEIR_TRY(weir_cuda_check(dev, weir_cuk_sample_race(&a, cu->stream), "launch sample_race", e));
    WEIR_TRY(weir_cuda_download(dev, rows + at, a.row, (size_t)n * sizeof *rows, e));
    WEIR_TRY(weir_cuda_at_sync(dev, look_at_rows, rows + at, at, n, e));
    for (int32_t i = 0; i < n; i++)
      if (ask[at + i].n_top > 0)
        WEIR_TRY(weir_cuda_download(dev, top + (size_t)(at + i) * WEIR_TOP_MAX, a.top + i * WEIR_TOP_MAX,
                                    (size_t)ask[at + i].n_top * sizeof *top, e));
  }
out:
  return st;
}
