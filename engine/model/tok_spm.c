/* SPDX-License-Identifier: Apache-2.0 */
/* SentencePiece's BPE. Owns the map of pieces, their order and scratch; borrows the pieces; may call the
 * trie, utf8 and the list of ids; one thread at a time.
 *
 * As in tok_bpe.c a text is a doubly linked list of symbols and a heap of the pairs that could merge, O(n log
 * n) for any input. A pair is known by its joined text, which lies in one piece in the input, so what stands
 * in the heap is the rank of its score and the position. Entries are not removed when their pair goes: one
 * counts only while the pair at its position has its rank, and then it is as good as the pair's own. The
 * rules are those of sentencepiece's bpe_model.cc. */
#include "model/tok_spm.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "model/hparams.h"
#include "model/piece_trie.h"
#include "model/tok_bpe.h"
#include "model/tok_heap.h"
#include "model/tok_vocab.h"
#include "model/utf8.h"

enum { SCRATCH_KEPT = 1 << 16 }; /* symbols; a larger text's scratch is given back */

typedef struct symbol {
  uint32_t at, len;   /* bytes of the text; len 0: merged into the one before */
  int32_t prev, next; /* -1: none */
  int32_t pair;       /* the piece that this and the next symbol make; -1: none */
  bool frozen;        /* never merges */
} symbol;

struct weir_spm {
  const weir_str *piece; /* borrowed */
  const uint8_t *type;   /* borrowed */
  weir_strmap by_text;   /* pieces that merges can make */
  weir_trie user;        /* pieces that are symbols from the start */
  uint32_t *rank;        /* [n] of the score: 0 the highest, equals alike */
  uint32_t *cut;         /* [n] of an UNUSED piece: the bytes of its left half when it last came about */
  int32_t unk;
  int32_t byte_id[256]; /* -1: none */
  size_t longest;       /* bytes of a piece */
  bool parts_at_spaces; /* no merge joins something to a U+2581 behind it: words can be done one by one */
  symbol *sym;          /* scratch [cap] */
  uint64_t *heap;       /* scratch [2 * cap]: rank << 32 | position, smallest first */
  size_t cap;
};

/* ---- creation ---- */

typedef struct scored {
  float score;
  int32_t id;
} scored;

static int by_score(const void *a, const void *b) {
  const scored *x = a, *y = b;
  return x->score > y->score ? -1 : x->score < y->score;
}

static weir_status rank_scores(weir_spm *s, const float *score, int32_t n, weir_err *e) {
  weir_status st = WEIR_OK;
  scored *order = NULL;
  WEIR_TRY(WEIR_NEW((size_t)n, &order, e));
  WEIR_TRY(WEIR_NEW((size_t)n, &s->rank, e));
  for (int32_t i = 0; i < n; i++) {
    if (!isfinite(score[i])) {
      st = weir_fail(e, WEIR_EFORMAT, "token %" PRId32 ": its score is no number", i);
      goto out;
    }
    order[i] = (scored){score[i], i};
  }
  qsort(order, (size_t)n, sizeof *order, by_score);
  uint32_t rank = 0;
  for (int32_t i = 0; i < n; i++) {
    if (i && order[i].score < order[i - 1].score) rank++;
    s->rank[order[i].id] = rank;
  }
out:
  free(order);
  return st;
}

static bool is_mergeable(uint8_t type) {
  return type == WEIR_TOKEN_NORMAL || type == WEIR_TOKEN_USER || type == WEIR_TOKEN_UNUSED;
}

static const char space[] = "\xe2\x96\x81"; /* U+2581, as SentencePiece spells it */
enum { SPACE_BYTES = sizeof space - 1 };

/* Whether a space stands behind something else than a space. */
static bool has_inner_space(weir_str p) {
  bool before = true;
  for (size_t at = 0; at < p.len;) {
    const bool is = p.len - at >= SPACE_BYTES && memcmp(p.data + at, space, SPACE_BYTES) == 0;
    if (is && !before) return true;
    before = is;
    at += is ? SPACE_BYTES : 1;
  }
  return false;
}

/* Enters the pieces, last ones first, so that of equal ones the highest id stays. */
static weir_status enter_pieces(weir_spm *s, int32_t n, weir_err *e) {
  weir_status st = WEIR_OK;
  int32_t *user = NULL, n_user = 0;
  char shown[WEIR_STR_SHOW_BYTES];
  WEIR_TRY(WEIR_NEW((size_t)n, &user, e));
  WEIR_TRY(weir_strmap_init(&s->by_text, (size_t)n, e));
  for (int32_t i = n - 1; i >= 0; i--) {
    const weir_str p = s->piece[i];
    if (s->type[i] == WEIR_TOKEN_BYTE) {
      const int32_t byte = weir_piece_byte(p);
      if (byte < 0) {
        st = weir_fail(e, WEIR_EFORMAT, "token %" PRId32 " is of type byte but spelled %s", i,
                       weir_str_show(p, shown));
        goto out;
      }
      if (s->byte_id[byte] < 0) s->byte_id[byte] = i;
    }
    if (!is_mergeable(s->type[i]) || p.len == 0) continue;
    if (p.len > WEIR_MAX_PIECE_BYTES) {
      st = weir_fail(e, WEIR_EFORMAT, "token %" PRId32 " has %zu bytes (limit %d)", i, p.len,
                     WEIR_MAX_PIECE_BYTES);
      goto out;
    }
    if (p.len > s->longest) s->longest = p.len;
    if (s->type[i] != WEIR_TOKEN_USER && has_inner_space(p)) s->parts_at_spaces = false;
    weir_strmap_add(&s->by_text, p, i);
    if (s->type[i] == WEIR_TOKEN_USER) user[n_user++] = i;
    if (s->type[i] == WEIR_TOKEN_UNUSED && !s->cut) WEIR_TRY(WEIR_NEW((size_t)n, &s->cut, e));
  }
  WEIR_TRY(weir_trie_init(&s->user, s->piece, user, n_user, e));
  if (s->cut) s->parts_at_spaces = false; /* how one came about last is a matter of the whole text */
out:
  free(user);
  return st;
}

weir_status weir_spm_create(const weir_str *piece, const float *score, const uint8_t *type, int32_t n,
                            int32_t unk, weir_spm **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_spm *s = NULL;
  *out = NULL;
  if (n < 1 || n > WEIR_MAX_VOCAB)
    return weir_fail(e, WEIR_EFORMAT, "a vocabulary of %" PRId32 " pieces (limit %d)", n, WEIR_MAX_VOCAB);
  if (unk < -1 || unk >= n)
    return weir_fail(e, WEIR_EFORMAT, "the unknown token is %" PRId32 " of %" PRId32, unk, n);
  WEIR_TRY(WEIR_NEW(1, &s, e));
  s->piece = piece;
  s->type = type;
  s->unk = unk;
  s->parts_at_spaces = true;
  for (int b = 0; b < 256; b++) s->byte_id[b] = -1;
  WEIR_TRY(enter_pieces(s, n, e));
  WEIR_TRY(rank_scores(s, score, n, e));
  *out = s;
  s = NULL;
out:
  weir_spm_destroy(s);
  return st;
}

static void free_scratch(weir_spm *s) {
  free(s->sym);
  free(s->heap);
  s->sym = NULL;
  s->heap = NULL;
  s->cap = 0;
}

void weir_spm_destroy(weir_spm *s) {
  if (!s) return;
  weir_strmap_fini(&s->by_text);
  weir_trie_fini(&s->user);
  free(s->rank);
  free(s->cut);
  free_scratch(s);
  free(s);
}

/* ---- merging ---- */

/* Characters, USER pieces, and what is no UTF-8; returns how many. */
static int32_t split(const weir_spm *s, const char *text, uint32_t len, symbol *sym) {
  int32_t n = 0;
  for (uint32_t at = 0; at < len; n++) {
    size_t bytes;
    bool frozen = weir_trie_longest(&s->user, text + at, len - at, &bytes) >= 0;
    if (!frozen) {
      int32_t unit;
      frozen = weir_utf8_next(text + at, len - at, &unit) != WEIR_UTF8_CHAR;
      bytes = (size_t)unit;
    }
    sym[n] = (symbol){at, (uint32_t)bytes, n - 1, n + 1, -1, frozen};
    at += (uint32_t)bytes;
  }
  return n;
}

/* Looks up the pair that begins at a symbol. */
static int32_t find_pair(weir_spm *s, const char *text, int32_t at) {
  symbol *left = &s->sym[at];
  left->pair = -1;
  if (left->next < 0 || left->frozen || s->sym[left->next].frozen) return -1;
  const size_t bytes = (size_t)left->len + s->sym[left->next].len;
  if (bytes > s->longest) return -1;
  left->pair = weir_strmap_get(&s->by_text, (weir_str){text + left->at, bytes});
  if (left->pair >= 0 && s->type[left->pair] == WEIR_TOKEN_UNUSED) s->cut[left->pair] = left->len;
  return left->pair;
}

static void offer(weir_spm *s, const char *text, int32_t at, size_t *n_heap) {
  const int32_t id = find_pair(s, text, at);
  if (id >= 0) weir_heap_push(s->heap, n_heap, (uint64_t)s->rank[id] << 32 | (uint32_t)at);
}

/* The end of the part of sym[0..n) that begins at `begin`: the next word, or all. */
static int32_t part_end(const weir_spm *s, const char *text, int32_t begin, int32_t n) {
  int32_t end = begin + 1;
  if (!s->parts_at_spaces) return n;
  for (; end < n; end++) {
    const symbol *last = &s->sym[end - 1];
    const bool before = last->len >= SPACE_BYTES &&
                        memcmp(text + last->at + last->len - SPACE_BYTES, space, SPACE_BYTES) == 0;
    if (!before && s->sym[end].len >= SPACE_BYTES && memcmp(text + s->sym[end].at, space, SPACE_BYTES) == 0)
      break;
  }
  return end;
}

/* Merges within sym[begin..end). At most n - 1 entries at first; each of at most n - 1 merges takes one away
 * and puts two. */
static void merge_part(weir_spm *s, const char *text, int32_t begin, int32_t end) {
  size_t n_heap = 0;
  s->sym[begin].prev = -1;
  s->sym[end - 1].next = -1;
  for (int32_t i = begin; i < end; i++) {
    const int32_t id = find_pair(s, text, i);
    if (id >= 0) s->heap[n_heap++] = (uint64_t)s->rank[id] << 32 | (uint32_t)i;
  }
  for (size_t i = n_heap / 2; i-- > 0;) weir_heap_sift(s->heap, n_heap, i);
  while (n_heap) {
    const uint64_t top = weir_heap_pop(s->heap, &n_heap);
    const int32_t at = (int32_t)(uint32_t)top;
    symbol *left = &s->sym[at];
    if (left->len == 0 || left->pair < 0 || s->rank[left->pair] != (uint32_t)(top >> 32)) continue;
    symbol *right = &s->sym[left->next];
    left->len += right->len;
    left->next = right->next;
    right->len = 0;
    if (left->next >= 0) s->sym[left->next].prev = at;
    if (left->prev >= 0) offer(s, text, left->prev, &n_heap);
    offer(s, text, at, &n_heap);
  }
}

/* ---- what is left ---- */

typedef struct emitter {
  weir_spm *s;
  weir_tokens *io;
  bool after_unk;
} emitter;

static weir_status emit_unknown(emitter *x, weir_str t, weir_err *e) {
  weir_status st = WEIR_OK;
  bool has_bytes = true;
  for (size_t i = 0; i < t.len; i++)
    if (x->s->byte_id[(unsigned char)t.data[i]] < 0) has_bytes = false;
  if (!has_bytes) {
    char shown[WEIR_STR_SHOW_BYTES];
    if (x->s->unk < 0)
      return weir_fail(e, WEIR_EINVAL, "the vocabulary has no token for %s and none for the unknown",
                       weir_str_show(t, shown));
    if (x->after_unk) return WEIR_OK;
    x->after_unk = true;
    return weir_tokens_push(x->io, x->s->unk, e);
  }
  x->after_unk = false;
  for (size_t i = 0; i < t.len; i++)
    WEIR_TRY(weir_tokens_push(x->io, x->s->byte_id[(unsigned char)t.data[i]], e));
out:
  return st;
}

/* An UNUSED piece falls apart where it last came about, again and again. The parts to come are a stack: the
 * right half waits while the left one is looked at, and as each is shorter, there are fewer than bytes. */
static weir_status emit(emitter *x, weir_str text, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_spm *s = x->s;
  weir_str wait[WEIR_MAX_PIECE_BYTES];
  int32_t n_wait = 0;
  for (;;) {
    const int32_t id = weir_strmap_get(&s->by_text, text);
    if (id >= 0 && s->type[id] == WEIR_TOKEN_UNUSED && s->cut[id] > 0 && s->cut[id] < text.len) {
      wait[n_wait++] = (weir_str){text.data + s->cut[id], text.len - s->cut[id]};
      text.len = s->cut[id];
      continue;
    }
    if (id < 0) {
      WEIR_TRY(emit_unknown(x, text, e));
    } else {
      x->after_unk = false;
      WEIR_TRY(weir_tokens_push(x->io, id, e));
    }
    if (n_wait == 0) break;
    text = wait[--n_wait];
  }
out:
  return st;
}

static weir_status reserve(weir_spm *s, size_t n, weir_err *e) {
  weir_status st = WEIR_OK;
  if (n <= s->cap) return WEIR_OK;
  free_scratch(s);
  WEIR_TRY(WEIR_NEW(n, &s->sym, e));
  WEIR_TRY(WEIR_NEW(n * 2, &s->heap, e)); /* n is at most WEIR_TOKENIZE_MAX_BYTES */
  s->cap = n;
out:
  if (st != WEIR_OK) free_scratch(s);
  return st;
}

weir_status weir_spm_encode(weir_spm *s, const char *text, size_t len, weir_tokens *io, weir_err *e) {
  weir_status st = WEIR_OK;
  const int32_t n_before = io->n;
  emitter x = {s, io, false};
  if (len == 0) return WEIR_OK;
  if (len > WEIR_TOKENIZE_MAX_BYTES)
    return weir_fail(e, WEIR_EINVAL, "a text of %zu bytes is too long (limit %d)", len,
                     WEIR_TOKENIZE_MAX_BYTES);
  WEIR_TRY(reserve(s, len, e));
  const int32_t n = split(s, text, (uint32_t)len, s->sym);
  for (int32_t begin = 0, end; begin < n; begin = end) {
    end = part_end(s, text, begin, n);
    merge_part(s, text, begin, end);
    for (int32_t i = begin; i >= 0; i = s->sym[i].next)
      WEIR_TRY(emit(&x, (weir_str){text + s->sym[i].at, s->sym[i].len}, e));
  }
out:
  if (st != WEIR_OK) io->n = n_before;
  if (s->cap > SCRATCH_KEPT) free_scratch(s);
  return st;
}
