/* SPDX-License-Identifier: Apache-2.0 */
/* How the readers of requests take fields: each is absent or null (false, *out untouched), good (true), or an
 * error, after which the first one stays and everything else is false. */
#ifndef WEIR_NET_OPENAI_IN_H
#define WEIR_NET_OPENAI_IN_H
#include "net/openai.h"

typedef struct weir_openai_reader {
  json_t *root;
  const char *prefix; /* "" or "weir." for names in errors */
  weir_openai_error *e;
  void ***owned; /* memory that goes with the request */
  size_t *n_owned;
} weir_openai_reader;

/* An object of JSON, or NULL and *e. */
json_t *weir_openai_load(const char *body, size_t len, weir_openai_error *e);
bool weir_openai_failed(const weir_openai_reader *);
/* Zeroed memory that is freed with the request; NULL: *e is set. */
void *weir_openai_alloc(weir_openai_reader *, size_t n, size_t size);
json_t *weir_openai_get(weir_openai_reader *, const char *name); /* NULL when absent or null */
bool weir_openai_bool(weir_openai_reader *, const char *name, bool *out);
bool weir_openai_int(weir_openai_reader *, const char *name, int64_t min, int64_t max, int64_t *out);
/* min < value when `open`, else min <= value */
bool weir_openai_number(weir_openai_reader *, const char *name, double min, double max, bool open,
                        float *out);
bool weir_openai_string(weir_openai_reader *, const char *name, size_t max_bytes, const char **out);
/* An array of token ids. */
bool weir_openai_ids(weir_openai_reader *, const char *name, json_t *array, uint32_t **out, size_t *n);
void weir_openai_bad(weir_openai_reader *, const char *name, const char *what);
/* `weir`; `guided_choice`. */
void weir_openai_weir(weir_openai_reader *, weir_openai_request *);
void weir_openai_choices(weir_openai_reader *, weir_openai_request *);
/* `messages`. */
bool weir_openai_messages(weir_openai_reader *, weir_client_message **out, size_t *n);

#endif
