/* SPDX-License-Identifier: Apache-2.0 */
/* What a model file says of its tokenizer, in one form whatever the file: read by tok_gguf.c and tok_json.c,
 * run by tokenizer.c. A text goes through: added tokens that stand in it as they are, normaliser steps, added
 * tokens of the normalised text, pre-tokeniser steps, the model. */
#ifndef WEIR_MODEL_TOK_SPEC_H
#define WEIR_MODEL_TOK_SPEC_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "model/gguf.h"
#include "model/hf.h"
#include "model/str.h"

/* Copies of strings that live as long as it does. */
typedef struct weir_strings {
  struct weir_strings_block *block; /* owned */
} weir_strings;                     /* zeroed: empty */
weir_status weir_strings_keep(weir_strings *, weir_str s, weir_str *out, weir_err *e);
void weir_strings_fini(weir_strings *);

typedef enum {
  WEIR_TOK_BPE,    /* merges in order (GGUF "gpt2", tokenizer.json "BPE") */
  WEIR_TOK_SPM,    /* SentencePiece BPE: merges by score (GGUF "llama") */
  WEIR_TOK_UNIGRAM /* SentencePiece unigram (GGUF "t5", tokenizer.json "Unigram") */
} weir_tok_kind;

/* tokenizer.ggml.token_type, as the format numbers it. */
typedef enum {
  WEIR_TOKEN_NORMAL = 1,
  WEIR_TOKEN_UNKNOWN = 2,
  WEIR_TOKEN_CONTROL = 3,
  WEIR_TOKEN_USER = 4,
  WEIR_TOKEN_UNUSED = 5,
  WEIR_TOKEN_BYTE = 6
} weir_token_type;

typedef enum {
  WEIR_NORM_NFC,
  WEIR_NORM_NFD,
  WEIR_NORM_NFKC,
  WEIR_NORM_NFKD,
  WEIR_NORM_LOWERCASE,
  WEIR_NORM_STRIP,         /* white space at the ends: left, right */
  WEIR_NORM_STRIP_ACCENTS, /* drops all marks */
  WEIR_NORM_NMT,
  WEIR_NORM_REPLACE,  /* pattern by content */
  WEIR_NORM_PREPEND,  /* content, unless the text is empty */
  WEIR_NORM_CHARSMAP, /* content: SentencePiece's precompiled map, by characters as the tokenizers library
                         runs it, or by longest prefix as SentencePiece does (spm) */
  WEIR_NORM_SPACES    /* SentencePiece's: squeeze (runs become one, none at the ends), then content before the
                         text (dummy prefix; may be empty), then spaces to U+2581 */
} weir_norm_kind;

typedef struct weir_norm_step {
  weir_norm_kind kind;
  weir_str pattern, content;
  bool is_regex; /* pattern: Oniguruma's syntax; else literal */
  bool left, right;
  bool squeeze, spm;
} weir_norm_step;

typedef enum {
  WEIR_SPLIT_REMOVED,
  WEIR_SPLIT_ISOLATED,
  WEIR_SPLIT_PREVIOUS, /* MergedWithPrevious */
  WEIR_SPLIT_NEXT,     /* MergedWithNext */
  WEIR_SPLIT_CONTIGUOUS
} weir_split_behavior;

typedef enum { WEIR_PREPEND_ALWAYS, WEIR_PREPEND_FIRST, WEIR_PREPEND_NEVER } weir_prepend_scheme;

typedef enum {
  WEIR_PRE_SPLIT,        /* at the matches of pattern */
  WEIR_PRE_METASPACE,    /* spaces to content, content in front, pieces begin at content */
  WEIR_PRE_PREFIX_SPACE, /* a space in front of a piece that begins with none */
  WEIR_PRE_SPELL         /* bytes to GPT-2's alphabet, where steps behind it look at that */
} weir_pre_kind;

typedef struct weir_pre_step {
  weir_pre_kind kind;
  weir_str pattern, content;
  bool is_regex;
  weir_split_behavior behavior;
  bool invert;
  weir_prepend_scheme scheme; /* of METASPACE */
  bool split;                 /* of METASPACE */
} weir_pre_step;

/* From a token's spelling to the bytes it stands for; each step takes the result of the one before. */
typedef enum {
  WEIR_DECODE_BYTE_LEVEL, /* GPT-2's alphabet, unless a character is not of it */
  WEIR_DECODE_BYTE_FALLBACK /* <0xNN> is the byte NN */,
  WEIR_DECODE_REPLACE /* pattern by content */
} weir_decode_kind;

typedef struct weir_decode_step {
  weir_decode_kind kind;
  weir_str pattern, content;
  bool is_regex;
} weir_decode_step;

/* What the first token of a text loses. */
typedef enum {
  WEIR_FIRST_WHOLE,
  WEIR_FIRST_SPACE, /* one space at the start of the text */
  WEIR_FIRST_MARKS  /* every first_mark in the first token (Metaspace) */
} weir_first_rule;

typedef struct weir_tok_added {
  weir_str text;
  int32_t id;
  bool special;
  bool normalized;     /* matched after normalisation, by its own normalised text */
  bool lstrip, rstrip; /* takes the white space at that side with it */
  bool single_word;
} weir_tok_added;

typedef struct weir_tok_merge {
  weir_str left, right;
} weir_tok_merge;

enum { WEIR_TOK_MAX_STEPS = 64 }; /* of each sort */

typedef struct weir_tok_spec {
  weir_tok_kind kind;
  bool byte_level;        /* tokens are spelled in GPT-2's alphabet and the model works on bytes */
  bool sum_doubles;       /* UNIGRAM as the tokenizers library adds scores, not as SentencePiece does */
  bool byte_fallback;     /* a character the model lacks becomes tokens <0xNN> */
  bool fuse_unk;          /* BPE: a run of unknown characters is one token */
  bool ignore_merges;     /* BPE: a piece that is a token as a whole is taken as it is */
  bool last_merge_counts; /* BPE: of a pair listed twice; else the first */
  bool literal_added;     /* added tokens stand for their text and are not decoded */
  int32_t n;              /* ids */
  weir_str *text;         /* [n] as the file spells it; empty: the id has none */
  double *score;          /* [n]; NULL for BPE */
  uint8_t *type;          /* [n] weir_token_type */
  uint8_t *in_model;      /* [n] 1: the model may produce it */
  weir_tok_merge *merge;  /* [n_merges] in order */
  int64_t n_merges;
  weir_norm_step norm[WEIR_TOK_MAX_STEPS];
  weir_pre_step pre[WEIR_TOK_MAX_STEPS];
  weir_decode_step decode[WEIR_TOK_MAX_STEPS];
  int32_t n_norm, n_pre, n_decode;
  weir_first_rule first;
  weir_str first_mark;
  weir_tok_added *added; /* [n_added]; of equal texts the first counts */
  int32_t n_added;
  int32_t bos, eos, unk; /* -1: none */
  bool adds_bos, adds_eos;
  int32_t *end; /* [n_end] ids that end a text or turn */
  int32_t n_end, cap_end;
  weir_str chat_template; /* empty: none */
  weir_strings strings;   /* owned: all strings above */
} weir_tok_spec;

/* Owned by the caller; weir_tok_spec_fini. Nothing of the file is borrowed. */
weir_status weir_tok_spec_from_gguf(weir_tok_spec *, const weir_gguf *, weir_err *e);
/* From tokenizer.json, tokenizer_config.json, generation_config.json, config.json. */
weir_status weir_tok_spec_from_hf(weir_tok_spec *, const weir_hf *, weir_err *e);
/* From tokenizer.json alone. */
weir_status weir_tok_spec_from_json(weir_tok_spec *, weir_str json, weir_err *e);
void weir_tok_spec_fini(weir_tok_spec *);

/* ---- for the readers ---- */
/* Arrays of the given sizes, zeroed; ids -1. */
weir_status weir_tok_spec_reserve(weir_tok_spec *, int32_t n, bool scores, weir_err *e);
weir_status weir_tok_spec_add_end(weir_tok_spec *, int32_t id, weir_err *e);
weir_status weir_tok_spec_add_norm(weir_tok_spec *, weir_norm_step, weir_err *e);
weir_status weir_tok_spec_add_pre(weir_tok_spec *, weir_pre_step, weir_err *e);
weir_status weir_tok_spec_add_decode(weir_tok_spec *, weir_decode_step, weir_err *e);
/* The steps of a pre-tokeniser as GGUF names it (tokenizer.ggml.pre); WEIR_EUNSUP with the list of known
 * ones. Sets ignore_merges; *adds_bos is what add_bos_token is when the file does not say. */
weir_status weir_tok_spec_named_pre(weir_tok_spec *, weir_str name, bool *adds_bos, weir_err *e);
/* Whether chat models spell the end of a text or turn so ("<|im_end|>"). */
bool weir_tok_spells_end(weir_str text);
/* GPT-2's pattern, which ByteLevel uses. */
extern const char weir_gpt2_pattern[];
#define WEIR_METASPACE "\xe2\x96\x81" /* U+2581 */

#endif
