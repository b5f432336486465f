/* SPDX-License-Identifier: Apache-2.0 */
/* A conversation: its messages, and the ids of the text the models have read of it. The ids of earlier turns
 * are kept as they were generated, so that the prefix cache finds them again, as long as the template still
 * renders the same bytes. One thread. */
#ifndef WEIR_PROGRAMS_CHAT_TALK_H
#define WEIR_PROGRAMS_CHAT_TALK_H
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "model/chat.h"
#include "model/tokenizer.h"

typedef struct weir_turn {
  weir_chat_role role;
  weir_buf text;      /* owned */
  int32_t by_tier[2]; /* of an answer: tokens by the small and the large model */
} weir_turn;

typedef struct weir_talk {
  weir_tokenizer *tok; /* borrowed */
  weir_chat_format format;
  weir_chat_words words; /* borrowed */
  weir_turn *turn;       /* [n_turns], owned; a system message is the first */
  int32_t n_turns, cap;
  weir_tokens read;   /* prompt and answer of the last turn as the models have read them ... */
  weir_buf read_text; /* ... and the bytes that these ids stand for, without a begin-of-text token that was
                         put in front of what the template wrote */
} weir_talk;          /* zeroed but for the first three: empty */

void weir_talk_fini(weir_talk *);
weir_status weir_talk_add(weir_talk *, weir_chat_role, const char *text, size_t len, weir_err *e);
void weir_talk_drop_last(weir_talk *); /* the last message, if there is one */
void weir_talk_clear(weir_talk *);     /* all but the system message */
bool weir_talk_has_system(const weir_talk *);
/* Replaces the system message; an empty text removes it. WEIR_EINVAL when the format has none. */
weir_status weir_talk_set_system(weir_talk *, const char *text, size_t len, weir_err *e);

/* The ids for the next answer. When they are more than `room` the oldest turns are dropped for good, whole
 * questions with their answers; *dropped says how many messages. WEIR_EINVAL when the last message alone is
 * too long, or the template refuses the conversation. */
weir_status weir_talk_prompt(weir_talk *, int32_t room, weir_tokens *out, int32_t *dropped, weir_err *e);
/* An answer to that prompt: its ids (an end-of-turn token among them) and its text as it was shown. */
weir_status weir_talk_answered(weir_talk *, const weir_tokens *prompt, const int32_t *id, int32_t n,
                               const char *text, size_t len, weir_err *e);

/* Writes the messages as JSON lines of role and content; answers also by_tier. A file that is there is
 * replaced, when the new one is whole, if it is such a conversation or empty; WEIR_EINVAL when it is anything
 * else. */
weir_status weir_talk_save(const weir_talk *, const char *path, weir_err *e);

#endif
