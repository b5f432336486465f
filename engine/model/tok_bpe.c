/* SPDX-License-Identifier: Apache-2.0 */
/* Byte-pair encoding. Owns the merge table and scratch; borrows the vocabulary at each call; one thread at a
 * time. Where llama.cpp and the tokenizers library differ it is the library's rules that hold
 * (models/bpe/model.rs, word.rs).
 *
 * A piece is a doubly linked list of symbols and a heap of the pairs that could merge: O(n log n) for any
 * input, because a piece may be a megabyte of one letter. Heap entries are not removed when their pair goes;
 * an entry counts only if the pair that now stands at its position has its rank. */
#include "model/tok_bpe.h"

#include <inttypes.h>
#include <stdlib.h>
#include <xxhash.h>

#include "base/buf.h"
#include "base/mem.h"
#include "model/tok_heap.h"
#include "model/utf8.h"

enum { SCRATCH_KEPT = 1 << 16 }; /* symbols; a larger piece's scratch is given back */

static uint64_t pair_key(int32_t left, int32_t right) {
  return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static weir_bpe_pair *find_pair(const weir_bpe *b, uint64_t key) {
  size_t i = (size_t)XXH3_64bits_withSeed(&key, sizeof key, b->seed) & b->mask;
  while (b->pair[i].rank >= 0 && b->pair[i].key != key) i = (i + 1) & b->mask;
  return &b->pair[i];
}

/* ---- the table ---- */

typedef struct merge_reader {
  const weir_vocab *vocab;
  bool byte_level, strict;
  weir_buf buf;
} merge_reader;

static weir_status fail_merge(weir_err *e, int64_t i, const weir_tok_merge *m, const char *what) {
  char left[WEIR_STR_SHOW_BYTES], right[WEIR_STR_SHOW_BYTES];
  return weir_fail(e, WEIR_EFORMAT, "merge %" PRId64 " of %s and %s: %s", i, weir_str_show(m->left, left),
                   weir_str_show(m->right, right), what);
}

static weir_status half(merge_reader *r, weir_str s, bool *known, weir_err *e) {
  *known = true;
  if (!r->byte_level) return weir_buf_put(&r->buf, s.data, s.len, e);
  const weir_status st = weir_buf_reserve(&r->buf, s.len, e);
  if (st != WEIR_OK) return st;
  const int64_t n = weir_vocab_unspell(s, r->buf.data + r->buf.len);
  *known = n >= 0;
  if (n > 0) r->buf.len += (size_t)n;
  return WEIR_OK;
}

static weir_status read_merge(merge_reader *r, int64_t i, const weir_tok_merge *m, int32_t *left,
                              int32_t *right, int32_t *merged, weir_err *e) {
  weir_status st = WEIR_OK;
  bool a, b;
  weir_buf_truncate(&r->buf, 0);
  WEIR_TRY(half(r, m->left, &a, e));
  const size_t n = r->buf.len;
  WEIR_TRY(half(r, m->right, &b, e));
  if (!a || !b) { /* no text becomes such a token: the library keeps what can never merge */
    *merged = -1;
    return r->strict ? fail_merge(e, i, m, "a character is not in the byte alphabet") : WEIR_OK;
  }
  const weir_strmap *map = &r->vocab->by_piece;
  *left = weir_strmap_get(map, (weir_str){r->buf.data, n});
  *right = weir_strmap_get(map, (weir_str){r->buf.data + n, r->buf.len - n});
  *merged = weir_strmap_get(map, (weir_str){r->buf.data, r->buf.len});
  if (*left < 0) return fail_merge(e, i, m, "the left half is no token");
  if (*right < 0) return fail_merge(e, i, m, "the right half is no token");
  if (*merged < 0) return fail_merge(e, i, m, "the result is no token");
out:
  return st;
}

weir_status weir_bpe_init(weir_bpe *b, const weir_tok_spec *s, const weir_vocab *v, weir_err *e) {
  weir_status st = WEIR_OK;
  merge_reader r = {.vocab = v, .byte_level = s->byte_level, .strict = !s->last_merge_counts};
  size_t slots = 8, want;
  *b = (weir_bpe){.seed = weir_hash_seed(),
                  .byte_level = s->byte_level,
                  .byte_fallback = s->byte_fallback,
                  .fuse_unk = s->fuse_unk,
                  .ignore_merges = s->ignore_merges,
                  .unk = s->unk};
  if (s->n_merges > INT32_MAX || !weir_mul_size((size_t)s->n_merges, 2, &want))
    return weir_fail(e, WEIR_EFORMAT, "%" PRId64 " merges", s->n_merges);
  while (slots < want) slots *= 2;
  WEIR_TRY(WEIR_NEW(slots, &b->pair, e));
  for (size_t i = 0; i < slots; i++) b->pair[i].rank = -1;
  b->mask = slots - 1;
  for (int64_t i = 0; i < s->n_merges; i++) {
    int32_t left = -1, right = -1, merged = -1;
    WEIR_TRY(read_merge(&r, i, &s->merge[i], &left, &right, &merged, e));
    if (merged < 0) continue;
    weir_bpe_pair *p = find_pair(b, pair_key(left, right));
    if (p->rank < 0 || s->last_merge_counts) *p = (weir_bpe_pair){pair_key(left, right), (int32_t)i, merged};
  }
out:
  weir_buf_fini(&r.buf);
  if (st != WEIR_OK) weir_bpe_fini(b);
  return st;
}

static void free_scratch(weir_bpe *b) {
  free(b->symbol);
  free(b->heap);
  b->symbol = NULL;
  b->heap = NULL;
  b->cap = 0;
}

void weir_bpe_fini(weir_bpe *b) {
  free(b->pair);
  free_scratch(b);
  *b = (weir_bpe){0};
}

/* ---- merging ---- */

/* The pair that begins at a position; NULL when it does not merge. */
static const weir_bpe_pair *pair_at(const weir_bpe *b, int32_t at) {
  const weir_bpe_symbol *s = &b->symbol[at];
  if (s->id < 0 || s->next < 0) return NULL;
  const weir_bpe_pair *p = find_pair(b, pair_key(s->id, b->symbol[s->next].id));
  return p->rank < 0 ? NULL : p;
}

static weir_status reserve(weir_bpe *b, size_t len, weir_err *e) {
  weir_status st = WEIR_OK;
  if (len <= b->cap) return WEIR_OK;
  free_scratch(b);
  WEIR_TRY(WEIR_NEW(len, &b->symbol, e));
  /* n - 1 pairs at first, and each of at most n - 1 merges makes two new ones and takes one entry away. */
  size_t entries;
  if (!weir_mul_size(len, 2, &entries))
    return weir_fail(e, WEIR_ENOMEM, "a piece of %zu bytes is too long", len);
  WEIR_TRY(WEIR_NEW(entries, &b->heap, e));
  b->cap = len;
out:
  if (st != WEIR_OK) free_scratch(b);
  return st;
}

static void merge_all(weir_bpe *b, size_t n_heap) {
  while (n_heap) {
    const uint64_t top = weir_heap_pop(b->heap, &n_heap);
    const int32_t at = (int32_t)(uint32_t)top, rank = (int32_t)(top >> 32);
    const weir_bpe_pair *p = pair_at(b, at);
    if (!p || p->rank != rank) continue;
    weir_bpe_symbol *left = &b->symbol[at], *right = &b->symbol[left->next];
    left->id = p->merged;
    right->id = -1;
    left->next = right->next;
    if (left->next >= 0) b->symbol[left->next].prev = at;
    const weir_bpe_pair *before = left->prev >= 0 ? pair_at(b, left->prev) : NULL;
    const weir_bpe_pair *after = pair_at(b, at);
    if (before)
      weir_heap_push(b->heap, &n_heap, (uint64_t)(uint32_t)before->rank << 32 | (uint32_t)left->prev);
    if (after) weir_heap_push(b->heap, &n_heap, (uint64_t)(uint32_t)after->rank << 32 | (uint32_t)at);
  }
}

/* The symbols that a piece begins as, and where an unknown character waits for the next known one: with
 * fuse_unk it may grow. The order in which byte tokens pass a waiting one is the library's. */
typedef struct first_symbols {
  weir_bpe *b;
  int32_t n;
  bool waiting;
} first_symbols;

static void add(first_symbols *f, int32_t id) { f->b->symbol[f->n++].id = id; }

static void add_unknown(first_symbols *f, const weir_vocab *v, const char *p, int32_t len) {
  bool bytes = f->b->byte_fallback && !f->b->byte_level;
  for (int32_t i = 0; i < len && bytes; i++) bytes = v->byte_id[(unsigned char)p[i]] >= 0;
  if (bytes) {
    for (int32_t i = 0; i < len; i++) add(f, v->byte_id[(unsigned char)p[i]]);
    return;
  }
  if (f->b->unk < 0) return;
  if (f->waiting && !f->b->fuse_unk) add(f, f->b->unk);
  f->waiting = true;
}

static int32_t begin_symbols(weir_bpe *b, const weir_vocab *v, const char *piece, int32_t len) {
  first_symbols f = {.b = b};
  for (int32_t at = 0; at < len;) {
    int32_t n = 1;
    if (!b->byte_level) weir_utf8_next(piece + at, (size_t)(len - at), &n);
    const int32_t id = b->byte_level ? v->byte_id[(unsigned char)piece[at]]
                                     : weir_strmap_get(&v->by_piece, (weir_str){piece + at, (size_t)n});
    if (id < 0) {
      add_unknown(&f, v, piece + at, n);
    } else {
      if (f.waiting) add(&f, b->unk);
      f.waiting = false;
      add(&f, id);
    }
    at += n;
  }
  if (f.waiting) add(&f, b->unk);
  for (int32_t i = 0; i < f.n; i++) {
    b->symbol[i].prev = i - 1;
    b->symbol[i].next = i + 1 < f.n ? i + 1 : -1;
  }
  return f.n;
}

weir_status weir_bpe_encode(weir_bpe *b, const weir_vocab *v, const char *piece, size_t len, weir_tokens *io,
                            weir_err *e) {
  weir_status st = WEIR_OK;
  size_t n_heap = 0;
  if (len == 0) return WEIR_OK;
  if (len > INT32_MAX) return weir_fail(e, WEIR_EINVAL, "a piece of %zu bytes is too long", len);
  if (b->ignore_merges) {
    const int32_t id = weir_strmap_get(&v->by_piece, (weir_str){piece, len});
    if (id >= 0) return weir_tokens_push(io, id, e);
  }
  WEIR_TRY(reserve(b, len, e));
  const int32_t n = begin_symbols(b, v, piece, (int32_t)len);
  for (int32_t i = 0; i + 1 < n; i++) {
    const weir_bpe_pair *p = pair_at(b, i);
    if (p) b->heap[n_heap++] = (uint64_t)(uint32_t)p->rank << 32 | (uint32_t)i;
  }
  for (size_t i = n_heap / 2; i-- > 0;) weir_heap_sift(b->heap, n_heap, i);
  merge_all(b, n_heap);
  for (int32_t i = n ? 0 : -1; i >= 0; i = b->symbol[i].next)
    WEIR_TRY(weir_tokens_push(io, b->symbol[i].id, e));
out:
  if (b->cap > SCRATCH_KEPT) free_scratch(b);
  return st;
}
