/* SPDX-License-Identifier: Apache-2.0 */
/* What is asked: prompts of a file, tasks with known answers, a trace, or made-up text. Item i is the same
 * for the same seed, whatever was asked before it. */
#ifndef WEIR_LOAD_DATA_H
#define WEIR_LOAD_DATA_H
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "load/lengths.h"

enum { WEIR_DATA_MAX_LINE_BYTES = 4 << 20, WEIR_DATA_MAX_ITEMS = 1000000, WEIR_DATA_MAX_TURNS = 64 };

typedef struct weir_data_cfg {
  /* at most one of the three; none: made-up text */
  const char *prompts; /* JSON lines: {"prompt"}, {"messages"}, {"turns": [..]} or {"conversations"}; also
                          "max_tokens" */
  const char *tasks;   /* programs/tasks.h */
  const char *trace;   /* JSON lines: "arrival_s" or "timestamp" (ms); "input_length"; "output_length" or
                          "max_tokens"; "prompt"; "hash_ids" (blocks of 512 tokens that prompts share) */
  weir_lengths input, output; /* made-up text */
  double shared_prefix;       /* share of a made-up prompt that others have too, 0 .. 1 */
  int32_t n_prefixes;         /* how many such beginnings there are */
  int32_t turns;              /* of a made-up conversation */
  int32_t max_tokens;         /* where an item tells none; made-up text has `output` */
  bool shuffle;
  uint64_t seed;
} weir_data_cfg;

typedef struct weir_item {
  const char *prompt;       /* this turn's text; NULL: messages. Borrowed until the next weir_data_get */
  const json_t *messages;   /* borrowed from the data */
  int32_t max_tokens, task; /* task: index, -1: none */
  bool more;                /* the conversation has another turn */
} weir_item;

typedef struct weir_data weir_data;

weir_status weir_data_open(const weir_data_cfg *, weir_data **out, weir_err *e);
void weir_data_close(weir_data *); /* NULL is fine */
/* Item `index` >= 0 (files begin anew when they end), turn >= 0 of it. */
weir_status weir_data_get(weir_data *, int64_t index, int32_t turn, weir_item *out, weir_err *e);
/* Made-up text has so many words a token; told once a server has counted some. */
void weir_data_set_words_per_token(weir_data *, double);
/* Whether an item is a conversation: it has messages or turns, which only a chat can be asked. */
bool weir_data_has_chats(const weir_data *);
bool weir_data_made_up(const weir_data *);
/* n words for such a count. */
weir_status weir_data_words(int32_t n, uint64_t seed, weir_buf *out, weir_err *e);
/* A trace's arrivals, ascending from 0; NULL without one. */
const double *weir_data_arrivals(const weir_data *, int64_t *n);
int64_t weir_data_count(const weir_data *); /* 0: endless */
/* Whether a text has task i's answer. */
weir_status weir_data_right(weir_data *, int32_t task, const char *text, size_t len, bool *right,
                            weir_err *e);

#endif
