/* SPDX-License-Identifier: Apache-2.0 */
/* Text to token ids and back. Byte-level BPE with the published gpt-2, llama-3 and qwen2 pre-tokeniser
 * patterns. Immutable after creation except for scratch: one thread at a time per tokenizer. */
#ifndef WEIR_MODEL_TOKENIZER_H
#define WEIR_MODEL_TOKENIZER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "model/gguf.h"
#include "model/mfile.h"

typedef struct weir_tokenizer weir_tokenizer;

/* Reads the model's tokenizer; keeps no pointer into the file. A kind or step weir does not know is
 * refused by name with the list of known ones. */
weir_status weir_tokenizer_create(const weir_mfile *, weir_tokenizer **out, weir_err *e);
/* From tokenizer.ggml.* of a GGUF file. */
weir_status weir_tokenizer_from_gguf(const weir_gguf *, weir_tokenizer **out, weir_err *e);
void weir_tokenizer_destroy(weir_tokenizer *);

typedef struct weir_tokens {
  int32_t *id; /* owned */
  int32_t n, cap;
} weir_tokens; /* zeroed: empty */
void weir_tokens_fini(weir_tokens *);

enum { WEIR_TOKENIZE_MAX_BYTES = 1 << 28 };

/* Appends the ids of text[0..len), any bytes (invalid UTF-8 is encoded byte by byte). On an error io is as
 * before. Nothing is normalised: the bytes of the ids are the bytes of the text. parse_special: the text of
 * special tokens ("<|im_end|>") becomes their id; otherwise it is ordinary text. User-defined tokens are
 * found by their text always. The longest match counts. No BOS is added. */
weir_status weir_tokenize(weir_tokenizer *, const char *text, size_t len, bool parse_special, weir_tokens *io,
                          weir_err *e);

typedef struct weir_span {
  size_t begin, end; /* bytes [begin, end) */
} weir_span;

/* Like weir_tokenize, but the text of special tokens is recognised inside the given spans alone (ascending,
 * apart or touching, within the text; a token must lie in one span): the marks of a chat template are
 * special, what a user typed is not. WEIR_EINVAL when the spans are not as said. */
weir_status weir_tokenize_marked(weir_tokenizer *, const char *text, size_t len, const weir_span *span,
                                 int32_t n_spans, weir_tokens *io, weir_err *e);

int32_t weir_tokenizer_n_vocab(const weir_tokenizer *); /* entries listed by the file */
int32_t weir_tokenizer_bos(const weir_tokenizer *);     /* -1: none */
bool weir_tokenizer_adds_bos(const weir_tokenizer *);
int32_t weir_tokenizer_eos(const weir_tokenizer *); /* -1: none; one of those that weir_tokenizer_is_end */
bool weir_tokenizer_is_end(const weir_tokenizer *, int32_t id);     /* end of text, of turn */
bool weir_tokenizer_is_special(const weir_tokenizer *, int32_t id); /* control tokens: no text of their own */
/* The raw bytes an ordinary token stands for, or the literal text of a special one; empty for an id out of
 * range. Borrowed for the tokenizer's life. */
weir_str weir_token_bytes(const weir_tokenizer *, int32_t id);
/* The token as the file spells it; for comparing vocabularies. */
weir_str weir_token_text(const weir_tokenizer *, int32_t id);

/* The id of a token by the file's spelling, -1 when there is none. */
int32_t weir_tokenizer_find(const weir_tokenizer *, weir_str text);
/* The chat template that came with the model (Jinja), empty when there is none. Borrowed for the tokenizer's
 * life. */
weir_str weir_tokenizer_template(const weir_tokenizer *);

/* Two models share a cascade only when ids mean the same text. *n_common = ids both have (a padded tail may
 * differ in size). WEIR_EINVAL naming the first id that differs and both spellings. */
weir_status weir_tokenizer_same(const weir_tokenizer *small, const weir_tokenizer *large, int32_t *n_common,
                                weir_err *e);

/* ---- streaming detokenisation: bytes come out only at UTF-8 character boundaries ---- */
typedef struct weir_detok {
  unsigned char pending[4]; /* an incomplete character */
  int32_t n_pending;
} weir_detok; /* zeroed: start */
/* Appends to `out` what the token completes; invalid bytes become U+FFFD each maximal subpart, as the Unicode
 * standard advises (3.9, "substitution of maximal subparts"). Special tokens give nothing unless
 * show_special. */
weir_status weir_detok_put(weir_detok *, const weir_tokenizer *, int32_t id, bool show_special, weir_buf *out,
                           weir_err *e);
/* At the end of a text: what was pending becomes U+FFFD. */
weir_status weir_detok_end(weir_detok *, weir_buf *out, weir_err *e);

#endif
