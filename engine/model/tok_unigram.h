/* SPDX-License-Identifier: Apache-2.0 */
/* SentencePiece unigram ("t5" in GGUF, "Unigram" in tokenizer.json): the segmentation whose pieces' scores
 * sum up highest. */
#ifndef WEIR_MODEL_TOK_UNIGRAM_H
#define WEIR_MODEL_TOK_UNIGRAM_H
#include "model/tokenizer.h"

typedef struct weir_unigram weir_unigram;

/* As SentencePiece does it (GGUF, tokenizer.model): sums are floats, pieces of type NORMAL and USER are
 * matched, and USER ones always win over scores that are logarithms of probabilities. Nothing is borrowed
 * after the call. byte_fallback: an unknown character becomes the tokens <0xNN> of its bytes (type BYTE). Of
 * equal pieces the highest id counts. Scores that are no numbers are refused. unk -1: none. */
weir_status weir_unigram_create(const weir_str *piece, const float *score, const uint8_t *type /* [n] */,
                                int32_t n, int32_t unk, bool byte_fallback, weir_unigram **out, weir_err *e);

/* As the tokenizers library does it (tokenizer.json; the scores are given as correctly read, and lose the bit
 * that its parser loses in here): sums are doubles, every entry of "vocab" is matched,
 * also "<unk>" and "<0x0A>"; byte_fallback looks the spellings <0xNN> up among all entries. */
weir_status weir_unigram_create_json(const weir_str *piece, const double *score, int32_t n, int32_t unk,
                                     bool byte_fallback, weir_unigram **out, weir_err *e);
void weir_unigram_destroy(weir_unigram *); /* NULL is fine */

/* Appends the ids of text[0..len), already normalised. A character that is no piece costs the lowest score
 * less 10; of equal sums the one whose last piece is longer wins. A run of unknown characters becomes one
 * unk, or byte tokens; bytes that are no UTF-8 are unknown characters, each maximal subpart for itself.
 * WEIR_EINVAL where an unknown character meets a vocabulary without unk (and without its bytes). On an error
 * io is as before. O(len * longest piece). One thread at a time: it keeps scratch. */
weir_status weir_unigram_encode(weir_unigram *, const char *text, size_t len, weir_tokens *io, weir_err *e);

#endif
