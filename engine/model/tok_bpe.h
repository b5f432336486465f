/* SPDX-License-Identifier: Apache-2.0 */
/* Byte-pair merges: from a piece of text to token ids. */
#ifndef WEIR_MODEL_TOK_BPE_H
#define WEIR_MODEL_TOK_BPE_H
#include "model/tok_vocab.h"
#include "model/tokenizer.h"

typedef struct weir_bpe_pair {
  uint64_t key; /* left id << 32 | right id */
  int32_t rank; /* -1: free slot */
  int32_t merged;
} weir_bpe_pair;

typedef struct weir_bpe_symbol {
  int32_t id;         /* -1: merged into the one before */
  int32_t prev, next; /* -1: none */
} weir_bpe_symbol;

typedef struct weir_bpe {
  weir_bpe_pair *pair; /* [mask+1] owned, like all below */
  size_t mask;
  uint64_t seed;
  bool byte_level; /* symbols are bytes at first, else characters */
  bool byte_fallback, fuse_unk, ignore_merges;
  int32_t unk;
  weir_bpe_symbol *symbol; /* scratch [cap] */
  uint64_t *heap;          /* scratch [2 * cap]: rank << 32 | position, smallest first */
  size_t cap;
} weir_bpe;

weir_status weir_bpe_init(weir_bpe *, const weir_tok_spec *, const weir_vocab *, weir_err *e);
void weir_bpe_fini(weir_bpe *);

/* Appends the ids of piece[0..len), len < 2^31: of the pairs that merge, the one of lowest rank does, the
 * leftmost of equals, until none does. A character (or byte, when byte_level) that the vocabulary lacks
 * becomes its byte tokens, or unk, or, as in the tokenizers library, nothing. */
weir_status weir_bpe_encode(weir_bpe *, const weir_vocab *, const char *piece, size_t len, weir_tokens *io,
                            weir_err *e);

/* Appends one id. */
weir_status weir_tokens_push(weir_tokens *io, int32_t id, weir_err *e);

#endif
