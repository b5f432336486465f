/* SPDX-License-Identifier: Apache-2.0 */
/* SentencePiece's compiled normalisation rules: normalizer_spec.precompiled_charsmap of a tokenizer.model,
 * and the "Precompiled" normaliser of a tokenizer.json (there in base64). */
#ifndef WEIR_MODEL_CHARSMAP_H
#define WEIR_MODEL_CHARSMAP_H
#include "base/buf.h"
#include "model/str.h"

enum {
  WEIR_CHARSMAP_MAX_KEY_BYTES = 256,  /* of one rule's left side; bounds the work at each position */
  WEIR_CHARSMAP_MAX_TEXT_BYTES = 1024 /* of what it puts; bounds the result. Unicode's longest has 33 */
};

typedef struct weir_charsmap weir_charsmap;

/* Copies the blob. An empty one has no rules. All of it is checked here: that no step leaves the array, that
 * every rule's text ends and is UTF-8, and that keys are not too long. */
weir_status weir_charsmap_create(weir_str blob, weir_charsmap **out, weir_err *e);
void weir_charsmap_destroy(weir_charsmap *); /* NULL is fine */

/* Appends text[0..len) rewritten; bytes that are no UTF-8 stay as they are. WEIR_EINVAL before `out` has more
 * than `most` bytes. One thread at a time.
 *
 * spm: as SentencePiece does it. At each position the longest rule counts, else the character stays.
 * (SentencePiece puts U+FFFD for a byte that is no UTF-8. User-defined tokens, which it leaves alone here,
 * the caller cuts out before.)
 *
 * Else as the tokenizers library does it, which differs in two ways: a grapheme cluster below 6 bytes is
 * replaced as a whole where any rule's key begins it, and of the rules that match the shortest counts. So
 * U+FF21 U+0301, of which only U+FF21 has a rule, loses its accent. */
weir_status weir_charsmap_run(weir_charsmap *, const char *text, size_t len, bool spm, size_t most,
                              weir_buf *out, weir_err *e);

/* Standard base64 with its padding. */
weir_status weir_base64_decode(weir_str text, weir_buf *out, weir_err *e);

#endif
