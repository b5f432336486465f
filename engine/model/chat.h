/* SPDX-License-Identifier: Apache-2.0 */
/* Chat templates: what a conversation looks like as the text a model was trained on. The formats are built in
 * and named; a model file's own template, which is a program in Jinja, is not run but recognised by its
 * form. For the templates it recognises the text is, to the byte, what transformers' apply_chat_template
 * renders. */
#ifndef WEIR_MODEL_CHAT_H
#define WEIR_MODEL_CHAT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "model/str.h"
#include "model/tokenizer.h"

typedef enum { WEIR_CHAT_SYSTEM, WEIR_CHAT_USER, WEIR_CHAT_ASSISTANT } weir_chat_role;
const char *weir_chat_role_name(weir_chat_role); /* "system", "user", "assistant" */
/* False when the name is none of these. */
bool weir_chat_role_parse(const char *name, weir_chat_role *out);

typedef struct weir_chat_message {
  weir_chat_role role;
  weir_str text; /* borrowed; UTF-8 */
} weir_chat_message;

struct weir_chat_style; /* model/chat_style.h */

/* A format ready for use; plain data. */
typedef struct weir_chat_format {
  const struct weir_chat_style *style;
  weir_str default_system; /* the system message of conversations that have none; data NULL: there is none.
                              Borrowed from the template it was found in */
} weir_chat_format;

/* False when the name is none of weir_chat_names(). */
bool weir_chat_by_name(const char *name, weir_chat_format *out);
const char *weir_chat_name(const weir_chat_format *);
/* All names with ", " between. */
const char *weir_chat_names(void);
/* What stands between the generation prompt and the first character of an answer in this format: "" or " ". A
 * model writes it; the message it makes is what follows. */
const char *weir_chat_answer_lead(const weir_chat_format *);

/* Recognises a template; it must outlive `out`. WEIR_EUNSUP when it differs from the known ones in anything
 * that could be rendered; the message names the formats there are. */
weir_status weir_chat_detect(weir_str jinja, weir_chat_format *out, weir_err *e);

/* What a format takes from the model and the day. */
typedef struct weir_chat_words {
  weir_str bos, eos; /* spelling of the tokens; may be empty */
  weir_str
      date; /* "26 Jul 2024": of formats that tell the model; empty: that one, which is their own default */
} weir_chat_words;

/* A rendered conversation, for weir_tokenize_marked: inside the spans stands what the template wrote, outside
 * what people and models did. */
typedef struct weir_chat_text {
  weir_buf text;   /* owned */
  weir_span *span; /* [n_spans], owned; ascending, apart */
  int32_t n_spans, cap;
} weir_chat_text; /* zeroed: empty */
void weir_chat_text_fini(weir_chat_text *);
void weir_chat_text_clear(weir_chat_text *);

/* Renders m[0, n), n >= 1. generate: with the beginning of the answer that is to be written. WEIR_EINVAL,
 * naming the message, where the template refuses an order of roles, and where it would silently drop a
 * message. On an error `out` is empty. */
weir_status weir_chat_render(const weir_chat_format *, const weir_chat_words *, const weir_chat_message *m,
                             int32_t n, bool generate, weir_chat_text *out, weir_err *e);

#endif
