/* SPDX-License-Identifier: Apache-2.0 */
/* Classes of characters and Unicode's normal forms, as tokenizer files mean them. */
#ifndef WEIR_MODEL_TOK_UNICODE_H
#define WEIR_MODEL_TOK_UNICODE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

bool weir_is_space(uint32_t code); /* White_Space */
bool weir_is_word(uint32_t code);  /* \w of the regex crate: Alphabetic, marks, Nd, Pc, Join_Control */
bool weir_is_mark(uint32_t code);  /* general category M */

/* Appends the full lower-case mapping of one character, without regard to its surroundings. */
weir_status weir_put_lower(uint32_t code, weir_buf *out, weir_err *e);
weir_status weir_put_utf8(uint32_t code, weir_buf *out, weir_err *e);

/* Appends the normal form of text[0..len), well-formed UTF-8 (Unicode Standard Annex 15). O(len) for any
 * text: long runs of marks are sorted by counting. WEIR_EINVAL once it, or what is decomposed at a time, is
 * longer than `most` bytes or code points. */
weir_status weir_normal_form(const char *text, size_t len, bool compat, bool compose, size_t most,
                             weir_buf *out, weir_err *e);

#endif
