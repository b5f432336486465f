/* SPDX-License-Identifier: Apache-2.0 */
/* Reader of tests/vectors/tokenizer/sp_goldens.txt: small vocabularies, texts and their ids. */
#ifndef WEIR_TESTS_SP_GOLDENS_H
#define WEIR_TESTS_SP_GOLDENS_H
#include <stdbool.h>
#include <stdint.h>

#include "model/str.h"

enum { SP_MAX_PIECES = 400, SP_MAX_IDS = 256 };

typedef struct sp_vocabulary {
  char kind[16]; /* "bpe", "unigram", "json" */
  int32_t unk, n;
  bool byte_fallback;
  weir_str piece[SP_MAX_PIECES];
  double score[SP_MAX_PIECES];
  float score_f32[SP_MAX_PIECES];
  uint8_t type[SP_MAX_PIECES];
  char store[SP_MAX_PIECES * 32];
} sp_vocabulary;

typedef struct sp_text {
  weir_str text;
  int32_t id[SP_MAX_IDS], n;
} sp_text;

typedef struct sp_visitor {
  void (*begin)(void *self, const sp_vocabulary *);
  void (*text)(void *self, const sp_vocabulary *, const sp_text *);
  void (*end)(void *self);
  void *self;
} sp_visitor;

/* Visits the vocabularies of one kind and their texts; fails the cmocka test on a file it cannot read.
 * Returns how many texts there were. */
int sp_goldens_visit(const char *kind, const sp_visitor *);

#endif
