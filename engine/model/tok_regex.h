/* SPDX-License-Identifier: Apache-2.0 */
/* Patterns of tokenizer files: Oniguruma's syntax (Ruby's, as the tokenizers library uses it), run by PCRE2.
 */
#ifndef WEIR_MODEL_TOK_REGEX_H
#define WEIR_MODEL_TOK_REGEX_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "model/str.h"

typedef struct weir_regex weir_regex;

enum { WEIR_REGEX_MAX_BYTES = 1 << 16 }; /* of a pattern */

/* is_regex: else the text is found as it stands. What the two engines understand differently, and what is not
 * known to be alike, is WEIR_EUNSUP naming it. no_jit: run by PCRE2's interpreter, as happens anyway where
 * there is no just-in-time compiler. */
weir_status weir_regex_create(weir_str pattern, bool is_regex, bool no_jit, weir_regex **out, weir_err *e);
void weir_regex_destroy(weir_regex *); /* NULL is fine */

/* The time that all searches for one text may take together, whatever number of steps and pieces they are
 * for. Of the thread that made it. */
typedef struct weir_regex_budget {
  double deadline_s; /* on the clock of this thread's processor time */
  double looked_s;   /* when that clock was last looked at, by a cheaper one */
} weir_regex_budget;

weir_regex_budget weir_regex_budget_of(double seconds);
/* What any sane pattern keeps to on a text of so many bytes, on slow machines too. */
double weir_regex_seconds(size_t len);

/* Where a search over one text stands. Zeroed but for the budget: at its start. */
typedef struct weir_regex_scan {
  weir_regex_budget *budget; /* borrowed */
  size_t at;
  size_t last_end; /* of the match before */
  bool any;
} weir_regex_scan;

/* The next match in text[0..len), well-formed UTF-8, len < 2^32: [*begin, *end), which may be empty; *found
 * false when there is none. No empty match at the end of the one before. A pattern that runs away on this
 * text, or a spent budget, is WEIR_EINVAL naming the pattern. One thread at a time. */
weir_status weir_regex_next(weir_regex *, const char *text, size_t len, weir_regex_scan *, size_t *begin,
                            size_t *end, bool *found, weir_err *e);

/* Oniguruma's pattern in PCRE2's syntax (options UTF, UCP, MULTILINE; newline is LF). For tests too. */
weir_status weir_regex_translate(weir_str pattern, weir_buf *out, weir_err *e);

#endif
