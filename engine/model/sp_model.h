/* SPDX-License-Identifier: Apache-2.0 */
/* A SentencePiece model file (tokenizer.model, spiece.model): the pieces, and what is done to a text before
 * it is segmented. Format: sentencepiece_model.proto, a protocol buffer. */
#ifndef WEIR_MODEL_SP_MODEL_H
#define WEIR_MODEL_SP_MODEL_H
#include "model/str.h"

typedef enum { WEIR_SP_UNIGRAM = 1, WEIR_SP_BPE = 2 } weir_sp_kind; /* TrainerSpec.ModelType */

/* Texts are borrowed from the file's bytes, the arrays are owned.
 *
 * A text is tokenized so: (1) user-defined pieces are cut out, the longest first, and nothing changes them;
 * (2) the rest is rewritten by charsmap (weir_charsmap_run, spm); (3) if removes_extra_spaces, spaces at both
 * ends go, and all but one of those in a row; (4) if adds_dummy_prefix, one space goes in front of the whole
 * text (behind it if space_is_suffix), unless the text is empty, by itself or by step 3; (5) if
 * escapes_spaces, each ' ' becomes U+2581; (6) weir_spm (BPE) or weir_unigram segments it, with the arrays as
 * they stand here. */
typedef struct weir_sp_model {
  weir_sp_kind kind;
  int32_t n;       /* pieces: the size of the vocabulary */
  weir_str *piece; /* [n] none is empty */
  float *score;    /* [n] */
  uint8_t *type;   /* [n] weir_token_type */
  bool byte_fallback;
  int32_t unk;           /* the piece of type UNKNOWN; -1: none, with byte_fallback only */
  int32_t bos, eos, pad; /* the control pieces of the names that the file gives; -1: none */

  weir_str charsmap;        /* for weir_charsmap_create; empty: no rules */
  weir_str normalizer_name; /* "identity", "nmt_nfkc", ...: for messages */
  bool adds_dummy_prefix, removes_extra_spaces, escapes_spaces, space_is_suffix;
  weir_str unk_surface; /* what unk is decoded to: " \342\201\207 " unless the file says */
} weir_sp_model;

/* WEIR_EFORMAT: no such file, or a broken one. WEIR_EUNSUP: what weir does not do, by name: model types WORD
 * and CHAR, a denormaliser with rules. The bytes are borrowed until weir_sp_model_fini. */
weir_status weir_sp_model_parse(const void *data, size_t len, weir_sp_model *out, weir_err *e);
void weir_sp_model_fini(weir_sp_model *);

#endif
