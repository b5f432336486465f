/* SPDX-License-Identifier: Apache-2.0 */
/* The vocabulary of a byte-level BPE: spellings, the bytes they stand for, kinds of token. */
#ifndef WEIR_MODEL_TOK_VOCAB_H
#define WEIR_MODEL_TOK_VOCAB_H
#include "model/gguf.h"
#include "model/hparams.h"

/* tokenizer.ggml.token_type, as the format numbers it. */
typedef enum {
  WEIR_TOKEN_NORMAL = 1,
  WEIR_TOKEN_UNKNOWN = 2,
  WEIR_TOKEN_CONTROL = 3,
  WEIR_TOKEN_USER = 4,
  WEIR_TOKEN_UNUSED = 5,
  WEIR_TOKEN_BYTE = 6
} weir_token_type;

typedef struct weir_vocab {
  int32_t n;
  weir_str *text; /* [n] as the file spells it */
  weir_str
      *bytes; /* [n] what it stands for; of special, user-defined and unspellable tokens: the text itself */
  uint8_t *type;        /* [n] weir_token_type */
  int32_t byte_id[256]; /* the token of a single byte; -1 where the vocabulary has none */
  bool has_all_bytes;
  weir_strmap by_bytes; /* tokens that merges can make */
  char *store;          /* owned: all the bytes above */
} weir_vocab;

weir_status weir_vocab_init(weir_vocab *, const weir_gguf *, weir_err *e);
void weir_vocab_fini(weir_vocab *);

/* GPT-2's printable stand-ins: decodes a spelling to out[0..text.len), returns the number of bytes, or -1
 * when a character is not one of the 256. */
int64_t weir_vocab_unspell(weir_str text, char *out);

#endif
