/* SPDX-License-Identifier: Apache-2.0 */
/* What detok.c, and tests, ask of a tokenizer. */
#ifndef WEIR_MODEL_TOKENIZER_IN_H
#define WEIR_MODEL_TOKENIZER_IN_H
#include "model/tok_spec.h"
#include "model/tokenizer.h"

/* What the first token of a text loses; *mark is borrowed for the tokenizer's life. */
weir_first_rule weir_tokenizer_first(const weir_tokenizer *, weir_str *mark);
/* What patterns may take on one text from now on, instead of what its length allows. For tests: the usual is
 * long. */
void weir_tokenizer_allow(weir_tokenizer *, double seconds);

#endif
