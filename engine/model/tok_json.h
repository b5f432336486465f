/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of a tokenizer.json, shared by the files that read it. */
#ifndef WEIR_MODEL_TOK_JSON_H
#define WEIR_MODEL_TOK_JSON_H
#include <jansson.h>

#include "model/tok_spec.h"

/* What the steps of each sort say; null and absent are no steps. A step that is not known is WEIR_EUNSUP by
 * its name. */
weir_status weir_tok_json_normalizer(weir_tok_spec *, const json_t *, weir_err *e);
weir_status weir_tok_json_pre_tokenizer(weir_tok_spec *, const json_t *, weir_err *e);
weir_status weir_tok_json_decoder(weir_tok_spec *, const json_t *, weir_err *e);
/* Which tokens are put around a text: bos, eos, adds_bos, adds_eos. */
weir_status weir_tok_json_post_processor(weir_tok_spec *, const json_t *, weir_err *e);

/* ---- values; wrong types are WEIR_EFORMAT naming the key ---- */
weir_status weir_tok_json_text(const json_t *object, const char *key, weir_str *out, weir_err *e);
/* Absent and null: *out = def. */
weir_status weir_json_flag(const json_t *object, const char *key, bool def, bool *out, weir_err *e);
/* "type" of a step; WEIR_EFORMAT when it is no object with one. */
weir_status weir_json_type(const json_t *step, weir_str *out, weir_err *e);
weir_str weir_json_str(const json_t *string);

#endif
