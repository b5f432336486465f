/* SPDX-License-Identifier: Apache-2.0 */
/* OpenAI's API as a client sees it: the body of a request, and what the pieces of an answer mean. weir,
 * llama.cpp's llama-server and vLLM differ in details, which are met here. */
#ifndef WEIR_LOAD_OPENAI_H
#define WEIR_LOAD_OPENAI_H
#include <jansson.h>

#include "base/buf.h"
#include "load/target.h"

/* The body, as JSON. `extra` (an object or NULL) goes over what the options say. */
weir_status weir_openai_body(const weir_target_cfg *, const char *model, const weir_target_ask *,
                             const json_t *extra, weir_buf *out, weir_err *e);

/* What one answer has told so far. */
typedef struct weir_openai_answer {
  bool done;     /* [DONE] has come */
  bool finished; /* a finish reason has come */
  weir_target_end end;
} weir_openai_answer;

void weir_openai_answer_init(weir_openai_answer *);
/* One event of a stream, or a whole answer (`whole`). Text goes to on_piece. WEIR_EFORMAT: it is malformed;
 * WEIR_EUNSUP: it tells an error, which stands in a->end. */
weir_status weir_openai_read(weir_openai_answer *a, const char *json, size_t len, bool whole,
                             const weir_target_events *ev, weir_err *e);
/* The error in the body of an answer whose status is not 200. */
void weir_openai_read_error(weir_openai_answer *a, int status, const char *body, size_t len);

#endif
