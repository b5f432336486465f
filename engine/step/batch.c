/* SPDX-License-Identifier: Apache-2.0 */
/* Batches: built from sequences, and checked against the contract before an executor believes them. Owns the
 * builder's arrays; called by the loop thread (builder) and by executors (check). */
#include "step/batch.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/sample_core.h"
#include "kv/pages.h"

weir_status weir_batch_builder_init(weir_batch_builder *b, int32_t max_tokens, int32_t max_seqs,
                                    int32_t max_pages, int32_t max_copies, weir_err *e) {
  weir_status st = WEIR_OK;
  *b = (weir_batch_builder){
      .max_tokens = max_tokens, .max_seqs = max_seqs, .max_pages = max_pages, .max_copies = max_copies};
  const size_t tokens = (size_t)max_tokens, seqs = (size_t)max_seqs + 1;
  WEIR_TRY(WEIR_NEW(tokens, &b->token, e));
  WEIR_TRY(WEIR_NEW(tokens, &b->pos, e));
  WEIR_TRY(WEIR_NEW(tokens, &b->out_row, e));
  WEIR_TRY(WEIR_NEW(tokens, &b->ask, e));
  WEIR_TRY(WEIR_NEW(seqs, &b->q_indptr, e));
  WEIR_TRY(WEIR_NEW(seqs, &b->kv_len, e));
  WEIR_TRY(WEIR_NEW(seqs, &b->page_indptr, e));
  WEIR_TRY(WEIR_NEW((size_t)max_pages, &b->page, e));
  WEIR_TRY(WEIR_NEW((size_t)max_copies * 2, &b->copy, e));
out:
  if (st != WEIR_OK) weir_batch_builder_fini(b);
  return st;
}

void weir_batch_builder_fini(weir_batch_builder *b) {
  free(b->token);
  free(b->pos);
  free(b->out_row);
  free(b->ask);
  free(b->q_indptr);
  free(b->kv_len);
  free(b->page_indptr);
  free(b->page);
  free(b->copy);
  *b = (weir_batch_builder){0};
}

void weir_batch_builder_clear(weir_batch_builder *b) {
  b->n_tokens = b->n_seqs = b->n_out = b->n_copies = b->n_pages = 0;
}

bool weir_batch_fits(const weir_batch_builder *b, int32_t n_tokens, int32_t n_pages, int32_t n_copies) {
  return n_tokens <= b->max_tokens - b->n_tokens && b->n_seqs < b->max_seqs &&
         n_pages <= b->max_pages - b->n_pages && n_copies <= b->max_copies - b->n_copies;
}

int32_t weir_batch_add(weir_batch_builder *b, const weir_batch_seq *s) {
  const int32_t first = b->n_tokens, n = s->to - s->from;
  memcpy(b->token + first, s->tok + s->from, (size_t)n * sizeof *b->token);
  for (int32_t i = 0; i < n; i++) b->pos[first + i] = s->from + i;
  memcpy(b->page + b->n_pages, s->page, (size_t)s->n_pages * sizeof *b->page);
  b->q_indptr[b->n_seqs] = first;
  b->page_indptr[b->n_seqs] = b->n_pages;
  b->kv_len[b->n_seqs] = s->to;
  b->n_tokens += n;
  b->n_pages += s->n_pages;
  b->n_seqs++;
  b->q_indptr[b->n_seqs] = b->n_tokens;
  b->page_indptr[b->n_seqs] = b->n_pages;
  return first;
}

weir_ask *weir_batch_ask(weir_batch_builder *b, int32_t row) {
  b->out_row[b->n_out] = row;
  return &b->ask[b->n_out++];
}

void weir_batch_add_copies(weir_batch_builder *b, const int32_t *src_dst, int32_t n) {
  if (n == 0) return;
  memcpy(b->copy + 2 * b->n_copies, src_dst, (size_t)n * 2 * sizeof *b->copy);
  b->n_copies += n;
}

weir_batch weir_batch_get(const weir_batch_builder *b) {
  return (weir_batch){.n_tokens = b->n_tokens,
                      .n_seqs = b->n_seqs,
                      .n_out = b->n_out,
                      .n_copies = b->n_copies,
                      .token = b->token,
                      .pos = b->pos,
                      .q_indptr = b->q_indptr,
                      .kv_len = b->kv_len,
                      .page_indptr = b->page_indptr,
                      .page = b->page,
                      .out_row = b->out_row,
                      .ask = b->ask,
                      .copy_src_dst = b->copy};
}

static weir_status check_ask(const weir_ask *a, int32_t i, int32_t n_vocab, weir_err *e) {
  if (!(a->temperature >= 0) || a->temperature > 1e6f)
    return weir_fail(e, WEIR_EINVAL, "batch: ask %d: temperature %g is not in [0, 1e6]", i,
                     (double)a->temperature);
  if (a->top_k < 0 || !(a->top_p > 0 && a->top_p <= 1) || !(a->min_p >= 0 && a->min_p <= 1))
    return weir_fail(e, WEIR_EINVAL, "batch: ask %d: top_k %d, top_p %g or min_p %g is out of range", i,
                     a->top_k, (double)a->top_p, (double)a->min_p);
  if (a->probe < -1 || a->probe >= n_vocab)
    return weir_fail(e, WEIR_EINVAL, "batch: ask %d: probe %d is not in a vocabulary of %d", i, a->probe,
                     n_vocab);
  const weir_status st = weir_sample_check_extras(a, n_vocab, e);
  return st == WEIR_OK ? st : weir_fail_ctx(e, st, "batch: ask %d", i);
}

static weir_status check_seq(const weir_batch *b, int32_t s, const weir_exec_info *info, weir_err *e) {
  const int32_t q0 = b->q_indptr[s], q1 = b->q_indptr[s + 1], p0 = b->page_indptr[s],
                p1 = b->page_indptr[s + 1];
  const int32_t len = b->kv_len[s];
  if (q0 < 0 || q1 <= q0 || q1 > b->n_tokens)
    return weir_fail(e, WEIR_EINVAL, "batch: sequence %d has rows [%d, %d) of %d", s, q0, q1, b->n_tokens);
  if (len < q1 - q0 || len > info->n_ctx)
    return weir_fail(e, WEIR_EINVAL, "batch: sequence %d: %d tokens with %d new ones in a context of %d", s,
                     len, q1 - q0, info->n_ctx);
  if (p0 < 0 || p1 < p0 || p1 - p0 < weir_pages_for(len))
    return weir_fail(e, WEIR_EINVAL, "batch: sequence %d: %d pages for %d tokens", s, p1 - p0, len);
  for (int32_t i = q0; i < q1; i++)
    if (b->pos[i] != len - (q1 - i))
      return weir_fail(e, WEIR_EINVAL, "batch: sequence %d: row %d is at position %d, want %d", s, i,
                       b->pos[i], len - (q1 - i));
  for (int32_t i = p0; i < p1; i++)
    if (b->page[i] < 0 || b->page[i] >= info->n_pages)
      return weir_fail(e, WEIR_EINVAL, "batch: sequence %d: page %d of %d", s, b->page[i], info->n_pages);
  return WEIR_OK;
}

weir_status weir_batch_check(const weir_batch *b, const weir_exec_info *info, weir_err *e) {
  if (b->n_tokens < 1 || b->n_tokens > info->max_tokens)
    return weir_fail(e, WEIR_EINVAL, "batch: %d rows, want 1 to %d", b->n_tokens, info->max_tokens);
  if (b->n_seqs < 1 || b->n_seqs > info->max_seqs)
    return weir_fail(e, WEIR_EINVAL, "batch: %d sequences, want 1 to %d", b->n_seqs, info->max_seqs);
  if (b->n_out < 0 || b->n_out > b->n_tokens || b->n_copies < 0)
    return weir_fail(e, WEIR_EINVAL, "batch: %d answers of %d rows, %d copies", b->n_out, b->n_tokens,
                     b->n_copies);
  if (b->q_indptr[0] != 0 || b->q_indptr[b->n_seqs] != b->n_tokens || b->page_indptr[0] != 0)
    return weir_fail(e, WEIR_EINVAL, "batch: sequences cover rows [%d, %d) of %d", b->q_indptr[0],
                     b->q_indptr[b->n_seqs], b->n_tokens);
  for (int32_t i = 0; i < b->n_tokens; i++)
    if (b->token[i] < 0 || b->token[i] >= info->n_vocab)
      return weir_fail(e, WEIR_EINVAL, "batch: row %d: token %d is not in a vocabulary of %d", i, b->token[i],
                       info->n_vocab);
  for (int32_t s = 0; s < b->n_seqs; s++) {
    const weir_status st = check_seq(b, s, info, e);
    if (st != WEIR_OK) return st;
  }
  for (int32_t i = 0; i < b->n_out; i++) {
    if (b->out_row[i] < 0 || b->out_row[i] >= b->n_tokens || (i > 0 && b->out_row[i] <= b->out_row[i - 1]))
      return weir_fail(e, WEIR_EINVAL, "batch: answer %d is about row %d, want ascending rows below %d", i,
                       b->out_row[i], b->n_tokens);
    const weir_status st = check_ask(&b->ask[i], i, info->n_vocab, e);
    if (st != WEIR_OK) return st;
  }
  for (int32_t i = 0; i < 2 * b->n_copies; i++)
    if (b->copy_src_dst[i] < 0 || b->copy_src_dst[i] >= info->n_pages)
      return weir_fail(e, WEIR_EINVAL, "batch: copy names page %d of %d", b->copy_src_dst[i], info->n_pages);
  return WEIR_OK;
}

weir_status weir_batch_check_result(const weir_batch *b, const weir_result *r, weir_err *e) {
  if (b->n_out > 0 && !r->row) return weir_fail(e, WEIR_EINVAL, "batch: no memory for %d answers", b->n_out);
  for (int32_t i = 0; i < b->n_out; i++)
    if (b->ask[i].n_top > 0 && !r->top)
      return weir_fail(e, WEIR_EINVAL, "batch: ask %d wants the %d likeliest ids, no memory for them", i,
                       b->ask[i].n_top);
  return WEIR_OK;
}
