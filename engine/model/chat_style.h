/* SPDX-License-Identifier: Apache-2.0 */
/* The table of chat formats, for chat.c and chat_detect.c alone. */
#ifndef WEIR_MODEL_CHAT_STYLE_H
#define WEIR_MODEL_CHAT_STYLE_H
#include <stdint.h>

enum {
  /* where system messages go; one of these */
  WEIR_CHAT_SYS_TURNS = 1 << 0, /* each has a turn of its own */
  WEIR_CHAT_SYS_NONE = 1 << 1,  /* refused */
  WEIR_CHAT_SYS_FIRST = 1 << 2, /* the first message's, before the text of the first user turn */
  WEIR_CHAT_SYS_LAST = 1 << 3,  /* the first message's, before the text of the user turn that ends it all */
  WEIR_CHAT_SYS_FRONT = 1 << 4, /* one, wherever it stands, comes before everything else */

  WEIR_CHAT_ALTERNATE = 1 << 5,    /* user, assistant, user ... after a system message in front */
  WEIR_CHAT_TRIM_SYS = 1 << 6,     /* without white space around */
  WEIR_CHAT_TRIM_USER = 1 << 7,    /* the same; with a system message in front: around the two together ... */
  WEIR_CHAT_TRIM_EACH = 1 << 8,    /* ... or of the user's alone */
  WEIR_CHAT_TRIM_ANSWER = 1 << 9,  /* of assistant messages */
  WEIR_CHAT_GEN_IN_USER = 1 << 10, /* the generation prompt follows every user turn */
  WEIR_CHAT_CUT_THOUGHT = 1 << 11, /* of an assistant message what follows its last </think> */
  WEIR_CHAT_QWEN3 = 1 << 12,       /* assistant messages as Qwen3 has them: see chat.c */
  WEIR_CHAT_SKIP_EMPTY_SYS = 1 << 13 /* an empty system message is as none */
};

/* \1 stands for the begin-of-text token, \2 for the end-of-text token, \3 for the date. */
typedef struct weir_chat_style {
  const char *name;
  uint32_t flags;
  const char *begin;     /* before everything */
  const char *sys_first; /* opens the system turn in front; NULL: sys_open */
  const char *sys_open, *sys_close;
  const char *user_open, *user_close;
  const char *answer_open, *answer_close;
  const char *generate, *no_generate; /* the end, with and without a generation prompt */
  const char *default_system;         /* NULL: none */
  const char *lead;                   /* weir_chat_answer_lead */
} weir_chat_style;

/* NULL when there is none of the name. */
const weir_chat_style *weir_chat_style_find(const char *name);

#endif
