/* SPDX-License-Identifier: Apache-2.0 */
/* A Hugging Face model directory: its small files parsed, its tokenizer files mapped, its weights found. What
 * the weights hold is for hf_weights.h to say. */
#ifndef WEIR_MODEL_HF_H
#define WEIR_MODEL_HF_H
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "model/mfile.h"
#include "model/str.h"

/* Most that is read of each, far above any published model. */
enum {
  WEIR_HF_MAX_JSON_BYTES = 16 << 20,       /* config.json, generation_config.json, tokenizer_config.json */
  WEIR_HF_MAX_TOKENIZER_BYTES = 256 << 20, /* tokenizer.json, tokenizer.model, vocab.json, merges.txt */
  WEIR_HF_MAX_TEMPLATE_BYTES = 4 << 20,    /* chat_template.jinja */
  WEIR_HF_MAX_INDEX_BYTES = 64 << 20,      /* model.safetensors.index.json */
  WEIR_HF_MAX_FILES = 4096                 /* shards */
};

/* Needs config.json; every other file may be absent and, when it is there, must be well-formed. Weights are
 * not looked at. Errors begin with the path. */
weir_status weir_hf_open(const char *dir, weir_hf **out, weir_err *e);
void weir_hf_close(weir_hf *); /* NULL is fine */

/* A directory in memory; names and bytes are borrowed until weir_hf_close. */
typedef struct weir_hf_part {
  const char *name;
  weir_str bytes;
} weir_hf_part;
weir_status weir_hf_parse(const weir_hf_part *part, int32_t n_parts, weir_hf **out, weir_err *e);

/* Objects; borrowed until weir_hf_close. */
const json_t *weir_hf_config(const weir_hf *);           /* config.json; never NULL */
const json_t *weir_hf_generation(const weir_hf *);       /* generation_config.json; NULL when absent */
const json_t *weir_hf_tokenizer_config(const weir_hf *); /* tokenizer_config.json; NULL when absent */

/* A file's bytes, {NULL, 0} when absent; borrowed until weir_hf_close. Known ones: config.json,
 * generation_config.json, tokenizer_config.json, tokenizer.json, tokenizer.model, vocab.json, merges.txt,
 * added_tokens.json, special_tokens_map.json, quantize_config.json, quant_config.json, chat_template.jinja,
 * chat_template.json. */
weir_str weir_hf_file(const weir_hf *, const char *name);

/* ---- for the reader of the weights ---- */

/* Like weir_hf_file for a file of any plain name (no '/', not "..", printable), which is mapped when it is
 * first asked for; absent: WEIR_EIO. Not for two threads at once. */
weir_status weir_hf_map(weir_hf *, const char *name, size_t max_bytes, weir_str *out, weir_err *e);
bool weir_hf_has(const weir_hf *, const char *name);
/* How many files of that ending the directory has, and the first of them by name (when there is one). */
weir_status weir_hf_count(const weir_hf *, const char *ending, int32_t *n, char first[256], weir_err *e);
/* The directory as it was named; "" for one in memory. */
const char *weir_hf_path(const weir_hf *);

#endif
