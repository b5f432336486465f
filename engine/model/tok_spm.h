/* SPDX-License-Identifier: Apache-2.0 */
/* SentencePiece BPE ("llama" in GGUF, model type BPE in a tokenizer.model): adjacent symbols merge while the
 * joined text is a piece, highest score first, the leftmost of equals. */
#ifndef WEIR_MODEL_TOK_SPM_H
#define WEIR_MODEL_TOK_SPM_H
#include "model/tokenizer.h"

typedef struct weir_spm weir_spm;

/* piece, score and type (weir_token_type) have n entries and are borrowed for its life. Merges make pieces of
 * type NORMAL, USER and UNUSED alone: text never becomes a control token here. A USER piece that stands in
 * the text is one symbol (the longest of several) that never merges. UNUSED pieces help others to come about
 * but are taken apart again at the end. BYTE pieces must be spelled <0x00> to <0xFF>. Of equal pieces the
 * highest id counts. Scores that are no numbers are refused. unk -1: none. */
weir_status weir_spm_create(const weir_str *piece, const float *score, const uint8_t *type, int32_t n,
                            int32_t unk, weir_spm **out, weir_err *e);
void weir_spm_destroy(weir_spm *); /* NULL is fine */

/* Appends the ids of text[0..len), already normalised: spaces are U+2581 or whatever the vocabulary has. A
 * character that is in no piece becomes its byte tokens, else unk, a run of them one unk (as SentencePiece
 * has it); bytes that are no UTF-8 likewise, each maximal subpart for itself. WEIR_EINVAL where the
 * vocabulary has neither. On an error io is as before. O(n log n). One thread at a time: it keeps scratch. */
weir_status weir_spm_encode(weir_spm *, const char *text, size_t len, weir_tokens *io, weir_err *e);

#endif
