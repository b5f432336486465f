/* SPDX-License-Identifier: Apache-2.0 */
/* Byte-pair encoding. Owns the merge table and scratch; borrows the vocabulary at each call; one thread at a
 * time.
 *
 * A piece is a doubly linked list of symbols and a heap of the pairs that could merge: O(n log n) for any
 * input, because a piece may be a megabyte of one letter. Heap entries are not removed when their pair goes;
 * an entry counts only if the pair that now stands at its position has its rank. */
#include "model/tok_bpe.h"

#include <inttypes.h>
#include <stdlib.h>
#include <xxhash.h>

#include "base/mem.h"

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
  char *buf; /* as long as the longest merge */
} merge_reader;

static weir_status fail_merge(weir_err *e, int64_t i, weir_str merge, const char *what) {
  char shown[WEIR_STR_SHOW_BYTES];
  return weir_fail(e, WEIR_EFORMAT, "key \"tokenizer.ggml.merges\": merge %" PRId64 " %s: %s", i,
                   weir_str_show(merge, shown), what);
}

/* "left right", both spelled in GPT-2's alphabet, which has no space. */
static weir_status read_merge(const merge_reader *r, int64_t i, weir_str merge, int32_t *left, int32_t *right,
                              int32_t *merged, weir_err *e) {
  const char *space = merge.len > 2 ? memchr(merge.data + 1, ' ', merge.len - 2) : NULL;
  if (!space) return fail_merge(e, i, merge, "want two tokens with a space between");
  const weir_str a = {merge.data, (size_t)(space - merge.data)};
  const weir_str b = {space + 1, merge.len - a.len - 1};
  const int64_t na = weir_vocab_unspell(a, r->buf);
  const int64_t nb = na < 0 ? -1 : weir_vocab_unspell(b, r->buf + na);
  if (nb < 0) return fail_merge(e, i, merge, "a character is not in the byte alphabet");
  *left = weir_strmap_get(&r->vocab->by_bytes, (weir_str){r->buf, (size_t)na});
  *right = weir_strmap_get(&r->vocab->by_bytes, (weir_str){r->buf + na, (size_t)nb});
  *merged = weir_strmap_get(&r->vocab->by_bytes, (weir_str){r->buf, (size_t)(na + nb)});
  if (*left < 0) return fail_merge(e, i, merge, "the left half is no token");
  if (*right < 0) return fail_merge(e, i, merge, "the right half is no token");
  if (*merged < 0) return fail_merge(e, i, merge, "the result is no token");
  return WEIR_OK;
}

weir_status weir_bpe_init(weir_bpe *b, const weir_gguf *g, const weir_vocab *v, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_str *merge;
  int64_t n;
  merge_reader r = {v, NULL};
  *b = (weir_bpe){.seed = weir_hash_seed()};
  WEIR_TRY(weir_gguf_str_array(g, "tokenizer.ggml.merges", &merge, &n, e));
  if (!weir_gguf_has(g, "tokenizer.ggml.merges")) {
    st = weir_fail(e, WEIR_EFORMAT, "key \"tokenizer.ggml.merges\" is missing");
    goto out;
  }
  size_t longest = 0, slots = 8;
  for (int64_t i = 0; i < n; i++)
    if (merge[i].len > longest) longest = merge[i].len;
  while (slots < (size_t)n * 2) slots *= 2; /* n is at most WEIR_GGUF_MAX_STRINGS */
  WEIR_TRY(WEIR_NEW(longest, &r.buf, e));
  WEIR_TRY(WEIR_NEW(slots, &b->pair, e));
  for (size_t i = 0; i < slots; i++) b->pair[i].rank = -1;
  b->mask = slots - 1;
  for (int64_t i = 0; i < n; i++) {
    int32_t left = -1, right = -1, merged = -1;
    WEIR_TRY(read_merge(&r, i, merge[i], &left, &right, &merged, e));
    weir_bpe_pair *p = find_pair(b, pair_key(left, right));
    if (p->rank < 0) *p = (weir_bpe_pair){pair_key(left, right), (int32_t)i, merged};
  }
out:
  free(r.buf);
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

static void sift_down(uint64_t *heap, size_t n, size_t i) {
  const uint64_t v = heap[i];
  for (;;) {
    size_t child = 2 * i + 1;
    if (child >= n) break;
    if (child + 1 < n && heap[child + 1] < heap[child]) child++;
    if (heap[child] >= v) break;
    heap[i] = heap[child];
    i = child;
  }
  heap[i] = v;
}

static void heap_push(uint64_t *heap, size_t *n, uint64_t v) {
  size_t i = (*n)++;
  while (i > 0 && heap[(i - 1) / 2] > v) {
    heap[i] = heap[(i - 1) / 2];
    i = (i - 1) / 2;
  }
  heap[i] = v;
}

static uint64_t heap_pop(uint64_t *heap, size_t *n) {
  const uint64_t least = heap[0];
  heap[0] = heap[--*n];
  if (*n) sift_down(heap, *n, 0);
  return least;
}

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
    const uint64_t top = heap_pop(b->heap, &n_heap);
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
    if (before) heap_push(b->heap, &n_heap, (uint64_t)(uint32_t)before->rank << 32 | (uint32_t)left->prev);
    if (after) heap_push(b->heap, &n_heap, (uint64_t)(uint32_t)after->rank << 32 | (uint32_t)at);
  }
}

weir_status weir_bpe_encode(weir_bpe *b, const weir_vocab *v, const char *piece, size_t len, weir_tokens *io,
                            weir_err *e) {
  weir_status st = WEIR_OK;
  size_t n_heap = 0;
  if (len == 0) return WEIR_OK;
  if (len > INT32_MAX) return weir_fail(e, WEIR_EINVAL, "a piece of %zu bytes is too long", len);
  WEIR_TRY(reserve(b, len, e));
  const int32_t n = (int32_t)len;
  for (int32_t i = 0; i < n; i++)
    b->symbol[i] = (weir_bpe_symbol){v->byte_id[(unsigned char)piece[i]], i - 1, i + 1 < n ? i + 1 : -1};
  for (int32_t i = 0; i + 1 < n; i++) {
    const weir_bpe_pair *p = pair_at(b, i);
    if (p) b->heap[n_heap++] = (uint64_t)(uint32_t)p->rank << 32 | (uint32_t)i;
  }
  for (size_t i = n_heap / 2; i-- > 0;) sift_down(b->heap, n_heap, i);
  merge_all(b, n_heap);
  for (int32_t i = 0; i >= 0; i = b->symbol[i].next) WEIR_TRY(weir_tokens_push(io, b->symbol[i].id, e));
out:
  if (b->cap > SCRATCH_KEPT) free_scratch(b);
  return st;
}
