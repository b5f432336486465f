/* SPDX-License-Identifier: Apache-2.0 */
/* Answers in OpenAI's form, whole or chunk by chunk, from what the client library hands over. Both forms are
 * written by the same code: what an answer has written gathers in a part, and is told at its end or token by
 * token. Pure; any thread. */
#ifndef WEIR_NET_OPENAI_ANSWER_H
#define WEIR_NET_OPENAI_ANSWER_H
#include "net/openai.h"

/* What the answers of one request have in common. */
typedef struct weir_openai_style {
  weir_openai_kind kind;
  bool stream, logprobs, receipts, include_usage;
  uint32_t top_logprobs;
  const char *id, *model;                  /* of the answer */
  int64_t created;                         /* s since 1970 */
  const char *tier[WEIR_CLIENT_MAX_TIERS]; /* their names; NULL: by number */
} weir_openai_style;

/* What one answer has written and nobody was told yet. A zeroed one is empty. */
typedef struct weir_openai_part {
  weir_buf text; /* whole characters */
  char tail[4];  /* of a character whose other bytes are still to come */
  int32_t n_tail;
  uint32_t chars;   /* written before `text` */
  uint32_t last_id; /* of the last token */
  uint32_t n_tokens;
  /* elements of arrays, with commas between. Chat has `token` alone, of whole objects. */
  weir_buf token, logprob, top, offset, receipt;
} weir_openai_part;

weir_status weir_openai_part_add(weir_openai_part *, const weir_openai_style *, const weir_client_token *,
                                 weir_err *e);
/* What is left of a broken character is told as U+FFFD. */
weir_status weir_openai_part_end(weir_openai_part *, weir_err *e);
/* Something worth a chunk. */
bool weir_openai_part_ready(const weir_openai_part *);
void weir_openai_part_clear(weir_openai_part *); /* was told; the counts go on */
void weir_openai_part_fini(weir_openai_part *);

/* Sums over answers; times are those of the slowest. */
typedef struct weir_openai_usage {
  uint64_t prompt, cached, completion, refused, wanted_up, by_tier[WEIR_CLIENT_MAX_TIERS],
      steps[WEIR_CLIENT_MAX_TIERS];
  uint32_t n_tiers;
  uint64_t queued_us, first_token_us, total_us, seed;
  char mode[16];
  float entropy;               /* NaN: none */
  uint64_t budgeted, deferred; /* decisions under a rate or a price, and what they deferred */
  float tau, defer_rate;       /* of the last decision; the rate, where has_rate */
  bool has_rate;
  bool any;
  uint64_t forced, given_up;
  char routed[8];    /* of the first answer; "" */
  float route_score; /* likewise; NaN */
  double flops[WEIR_CLIENT_MAX_TIERS], weight_bytes[WEIR_CLIENT_MAX_TIERS],
      kv_bytes_peak[WEIR_CLIENT_MAX_TIERS];
  double large_only_flops, large_only_weight_bytes;
} weir_openai_usage;
/* A prompt counts once for all answers to it. The seed is the request's, for the caller to set. */
void weir_openai_usage_add(weir_openai_usage *, const weir_client_usage *, bool count_prompt);

/* How an answer ended; NULL while it goes on. */
typedef struct weir_openai_finish {
  const char *reason; /* "stop", "length" */
  const char *stop;   /* the stop string, or NULL */
  bool has_id;        /* the stop token */
  uint32_t id;
} weir_openai_finish;
/* Of an end without an error. */
weir_openai_finish weir_openai_finish_of(const weir_client_end *, const weir_openai_request *,
                                         uint32_t last_id);

/* One event of a stream: "data: {...}\n\n". `first`: the chunk that names the role (chat). */
weir_status weir_openai_put_chunk(weir_buf *, const weir_openai_style *, uint32_t index,
                                  const weir_openai_part *, bool first, const weir_openai_finish *,
                                  weir_err *e);
weir_status weir_openai_put_usage_chunk(weir_buf *, const weir_openai_style *, const weir_openai_usage *,
                                        weir_err *e);
/* A whole answer: begin, each choice, end. */
weir_status weir_openai_put_begin(weir_buf *, const weir_openai_style *, weir_err *e);
weir_status weir_openai_put_choice(weir_buf *, const weir_openai_style *, uint32_t index,
                                   const weir_openai_part *, const weir_openai_finish *, weir_err *e);
weir_status weir_openai_put_end(weir_buf *, const weir_openai_style *, const weir_openai_usage *,
                                weir_err *e);

#endif
