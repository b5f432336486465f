/* SPDX-License-Identifier: Apache-2.0 */
/* The vocabulary of a tokenizer: spellings, the bytes they stand for, kinds of token. */
#ifndef WEIR_MODEL_TOK_VOCAB_H
#define WEIR_MODEL_TOK_VOCAB_H
#include "model/hparams.h"
#include "model/tok_spec.h"

typedef struct weir_vocab {
  int32_t n;
  weir_str *text;       /* [n] as the file spells it; empty where the id has none */
  weir_str *bytes;      /* [n] what it stands for */
  uint8_t *type;        /* [n] weir_token_type */
  int32_t byte_id[256]; /* the token of a single byte; -1 where the vocabulary has none */
  weir_strmap by_piece; /* what the model may produce: by bytes when byte_level, else by spelling */
  weir_strmap by_text;  /* all; an added token before others of its spelling */
  weir_strings strings; /* owned: all the bytes above */
} weir_vocab;

/* shown: [n] the spelling that is decoded where it is not the token's own, data NULL where it is; or NULL. */
weir_status weir_vocab_init(weir_vocab *, const weir_tok_spec *, const weir_str *shown, weir_err *e);
void weir_vocab_fini(weir_vocab *);

/* GPT-2's printable stand-ins: decodes a spelling to out[0..text.len), returns the number of bytes, or -1
 * when a character is not one of the 256. */
int64_t weir_vocab_unspell(weir_str text, char *out);
/* The other way: writes the one or two bytes of the character that stands for `byte`, returns how many. */
size_t weir_vocab_spell(unsigned char byte, char out[2]);

#endif
