/* SPDX-License-Identifier: Apache-2.0 */
/* What the two halves of `weir chat` share: the session, and the commands typed in it. */
#ifndef WEIR_PROGRAMS_CHAT_IN_H
#define WEIR_PROGRAMS_CHAT_IN_H
#include <stdbool.h>
#include <stdint.h>

#include "base/config.h"
#include "cascade/cascade_conf.h"
#include "programs/chat_talk.h"
#include "programs/load.h"
#include "programs/out.h"
#include "programs/paint.h"
#include "programs/spans.h"
#include "programs/terminal.h"
#include "serve/engine.h"

/* Sums over answers: of one, or of the session. */
typedef struct weir_chat_sums {
  int64_t answers, prompt_tokens, tokens, by_tier[2]; /* 0 small, 1 large */
  int64_t hit[WEIR_MAX_TIERS], fed[WEIR_MAX_TIERS];
  int64_t ns, first_ns;
  double entropy; /* nats, summed over `seen` tokens */
  int64_t seen;
} weir_chat_sums;

typedef struct weir_chat {
  const weir_config *c;
  weir_out out;
  weir_paint paint;
  weir_terminal terminal;
  weir_model_paths paths;
  weir_loaded models;
  weir_engine *engine; /* owned; one for the session: its prefix cache holds the earlier turns */
  weir_talk talk;
  weir_buf jinja; /* of a --template FILE */
  char date[16];
  weir_cascade_opts opts;
  weir_span_list spans;
  weir_cascade_cfg cascade;
  weir_ask draw;
  int32_t max_new, n_ctx;
  bool json, quiet;
  weir_chat_sums last, all;

  /* the answer under way */
  weir_buf text;
  int32_t *id; /* [n], owned */
  int32_t n, cap;
  bool begun, done;
  weir_end end;
  weir_err job_err, err;
} weir_chat;

/* One answer to the messages so far: streamed to standard output, added to the conversation. */
weir_status weir_chat_answer(weir_chat *, weir_err *e);
/* A format by name, or recognised in a file of Jinja. */
weir_status weir_chat_use_template(weir_chat *, const char *name_or_file, weir_err *e);
/* Makes the cascade of the options, leaving out settings that the mode has no use for. */
weir_status weir_chat_use_mode(weir_chat *, weir_mode, weir_err *e);

typedef enum { WEIR_SAID_TEXT, WEIR_SAID_COMMAND, WEIR_SAID_ANSWER, WEIR_SAID_QUIT } weir_said;
/* A line that was read: a message (text from *skip on), a command that was carried out, one after which an
 * answer is due, or the wish to leave. A command's error is told here. */
weir_said weir_chat_command(weir_chat *, const char *line, size_t *skip);

#endif
