/* SPDX-License-Identifier: Apache-2.0 */
/* Which characters belong to what, where the tokenizers library's tables are of another Unicode version than
 * the libraries used here. */
#ifndef WEIR_MODEL_TOK_TABLES_H
#define WEIR_MODEL_TOK_TABLES_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Characters of the i-th general category or script, for the inside of a class, that Unicode 16 has
 * (Oniguruma's tables) and Unicode 14 (PCRE2 10.42's) has not; *name its name. NULL past the end. Newer
 * versions of PCRE2 know them too, which does no harm. */
const char *weir_newer_characters(size_t i, const char **name);

/* Punctuation as the "Punctuation" pre-tokenizer has it, for the inside of a class (unicode_categories 0.1).
 */
extern const char weir_punctuation[];

/* Marks that came after Unicode 9, and characters whose decomposition did: to the library's normalizers
 * (unicode-normalization-alignments 0.1) they are characters without properties. */
bool weir_is_newer_mark(uint32_t code);
bool weir_is_newer_composed(uint32_t code);

#endif
