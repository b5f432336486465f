/* SPDX-License-Identifier: Apache-2.0 */
/* Text to token ids and back, as the model's file declares it: byte-level BPE, SentencePiece BPE and unigram,
 * with the normalisers, pre-tokenisers and added tokens of GGUF and of tokenizer.json. For text that is UTF-8
 * the ids are those of the tokenizers library (for GGUF: of llama.cpp). Immutable after creation except for
 * scratch: one thread at a time per tokenizer. */
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

typedef struct weir_span {
  size_t begin, end; /* bytes [begin, end) */
} weir_span;

/* Reads the model's tokenizer; keeps no pointer into the file. A kind or step weir does not know is
 * refused by name with the list of known ones. */
weir_status weir_tokenizer_create(const weir_mfile *, weir_tokenizer **out, weir_err *e);
/* From tokenizer.ggml.* of a GGUF file. */
weir_status weir_tokenizer_from_gguf(const weir_gguf *, weir_tokenizer **out, weir_err *e);
/* From the text of a tokenizer.json alone; it says nothing of ends and chat templates. */
weir_status weir_tokenizer_from_json(weir_str json, weir_tokenizer **out, weir_err *e);
void weir_tokenizer_destroy(weir_tokenizer *);

typedef struct weir_tokens {
  int32_t *id; /* owned */
  int32_t n, cap;
} weir_tokens; /* zeroed: empty */
void weir_tokens_fini(weir_tokens *);

enum { WEIR_TOKENIZE_MAX_BYTES = 1 << 28 };

/* Appends the ids of text[0..len), any bytes. On an error io is as before. Bytes that are no UTF-8 become
 * byte tokens where the vocabulary has them, so that the bytes of the ids are the bytes of the text, else
 * U+FFFD. A model that declares a normaliser (NFC, Lowercase, SentencePiece's rules, a dummy prefix) is given
 * the normalised text, and then the bytes of the ids are that text's. parse_special: the text of special
 * tokens
 * ("<|im_end|>") becomes their id; otherwise it is ordinary text. Added tokens that are not special are found
 * by their text always. The longest match counts. No BOS is added. */
weir_status weir_tokenize(weir_tokenizer *, const char *text, size_t len, bool parse_special, weir_tokens *io,
                          weir_err *e);

/* Like weir_tokenize, but the text of special tokens is recognised inside the given spans alone (ascending,
 * apart or touching, within the text; a token must lie in one span): the marks of a chat template are
 * special, what a user typed is not. A special token that is declared "normalized" is recognised where the
 * stretch between its neighbours that are not lies in one span. WEIR_EINVAL when the spans are not as said.
 */
weir_status weir_tokenize_marked(weir_tokenizer *, const char *text, size_t len, const weir_span *span,
                                 int32_t n_spans, weir_tokens *io, weir_err *e);

int32_t weir_tokenizer_n_vocab(const weir_tokenizer *); /* entries listed by the file */
int32_t weir_tokenizer_bos(const weir_tokenizer *);     /* -1: none */
bool weir_tokenizer_adds_bos(const weir_tokenizer *);
int32_t weir_tokenizer_eos(const weir_tokenizer *); /* -1: none; one of those that weir_tokenizer_is_end */
bool weir_tokenizer_is_end(const weir_tokenizer *, int32_t id);     /* end of text, of turn */
bool weir_tokenizer_is_special(const weir_tokenizer *, int32_t id); /* control tokens: no text of their own */
/* The raw bytes a token stands for in the middle of a text, of a special one its literal text; empty for an
 * id out of range. Borrowed for the tokenizer's life. */
weir_str weir_token_bytes(const weir_tokenizer *, int32_t id);
/* The token as the file spells it; for comparing vocabularies. */
weir_str weir_token_text(const weir_tokenizer *, int32_t id);

/* The id of a token by the file's spelling, -1 when there is none. */
int32_t weir_tokenizer_find(const weir_tokenizer *, weir_str text);
/* The chat template that came with the model (Jinja), empty when there is none. Borrowed for the tokenizer's
 * life. */
weir_str weir_tokenizer_template(const weir_tokenizer *);

/* Two models share a cascade only when ids mean the same text, however their files spell it. *n_common = ids
 * both have (a padded tail may differ in size; ids that one of them leaves free are not compared).
 * WEIR_EINVAL naming the first id that differs and both spellings. */
weir_status weir_tokenizer_same(const weir_tokenizer *small, const weir_tokenizer *large, int32_t *n_common,
                                weir_err *e);

/* ---- streaming detokenisation: bytes come out only at UTF-8 character boundaries ---- */
typedef struct weir_detok {
  unsigned char pending[4]; /* an incomplete character */
  int32_t n_pending;
  bool started; /* set it for a text that goes on another: SentencePiece's models put a space in front of a
                   text, which is dropped at its start */
} weir_detok;   /* zeroed: start of a text */
/* Appends to `out` what the token completes; invalid bytes become U+FFFD each maximal subpart, as the Unicode
 * standard advises (3.9, "substitution of maximal subparts"). Special tokens give nothing unless
 * show_special. */
weir_status weir_detok_put(weir_detok *, const weir_tokenizer *, int32_t id, bool show_special, weir_buf *out,
                           weir_err *e);
/* At the end of a text: what was pending becomes U+FFFD. */
weir_status weir_detok_end(weir_detok *, weir_buf *out, weir_err *e);

#endif
