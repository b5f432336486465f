/* SPDX-License-Identifier: Apache-2.0 */
/* A byte-level BPE vocabulary for tests: ids 0..255 are the bytes, 256+i what merge i makes, then the extra
 * ones. */
#ifndef WEIR_TESTS_TINY_VOCAB_H
#define WEIR_TESTS_TINY_VOCAB_H
#include "gguf_writer.h"

enum { TINY_NORMAL = 1, TINY_UNKNOWN = 2, TINY_CONTROL = 3, TINY_USER = 4 };

typedef struct tiny_vocab {
  const char *pre;           /* tokenizer.ggml.pre; NULL: left out */
  const char *const *merges; /* "left right", spelled in GPT-2's alphabet: a space is U+0120 */
  size_t n_merges;
  struct {
    const char *text;
    int32_t type;
  } extra[16]; /* until text is NULL */
} tiny_vocab;

/* Adds tokenizer.ggml.{model,pre,tokens,token_type,merges}. */
void tiny_vocab_write(gguf_writer *w, const tiny_vocab *v);

/* GPT-2's spelling of one byte, NUL-terminated. */
void tiny_vocab_spell(uint8_t byte, char out[3]);

#endif
