/* SPDX-License-Identifier: Apache-2.0 */
/* The description of a tokenizer from a SentencePiece model file, in a directory that has no tokenizer.json.
 */
#ifndef WEIR_MODEL_TOK_SP_H
#define WEIR_MODEL_TOK_SP_H
#include "model/tok_spec.h"

/* From tokenizer.model; tokens that tokenizer_config.json ("added_tokens_decoder") or else added_tokens.json
 * put on top of it are taken too, and may lie behind its last piece. WEIR_EUNSUP by name where the file asks
 * for what weir does not do. What else tokenizer_config.json says is for weir_tok_spec_from_hf to read. */
weir_status weir_tok_spec_from_sp(weir_tok_spec *, const weir_hf *, weir_err *e);

#endif
