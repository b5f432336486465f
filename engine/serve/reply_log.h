/* SPDX-License-Identifier: Apache-2.0 */
/* What was written for one request, kept until its reader has it. One thread appends, others read at the same
 * time without a lock: what was appended never moves and never changes. A slow reader costs this memory and
 * nothing else. */
#ifndef WEIR_SERVE_REPLY_LOG_H
#define WEIR_SERVE_REPLY_LOG_H
#include <stdatomic.h>
#include <stdint.h>

#include "base/err.h"
#include "sched/request.h"

typedef struct weir_reply_token {
  weir_token_receipt receipt;
  const char *text; /* what it adds to the text: may be empty; not NUL-terminated */
  uint32_t len;
  int32_t n_top;
  const weir_top *top; /* [n_top] */
} weir_reply_token;

enum { WEIR_REPLY_BLOCK = 64 }; /* tokens */

typedef struct weir_reply_log {
  weir_reply_token **block;       /* [blocks(max)], each of WEIR_REPLY_BLOCK or NULL so far; owned */
  int32_t max;                    /* tokens it can take */
  _Atomic int32_t n;              /* tokens a reader may look at */
  struct weir_reply_arena *arena; /* texts and likeliest tokens; the writer's */
  size_t arena_used;
  _Atomic int64_t *bytes; /* where its memory is counted; borrowed */
  int64_t own_bytes;      /* of it */
} weir_reply_log;

weir_status weir_reply_log_init(weir_reply_log *, int32_t max, _Atomic int64_t *bytes, weir_err *e);
void weir_reply_log_fini(weir_reply_log *); /* zeroed is fine; no reader left */
/* Everything is copied. WEIR_ENOMEM: nothing was appended. */
weir_status weir_reply_log_append(weir_reply_log *, const weir_token_receipt *, const char *text, size_t len,
                                  const weir_top *top, int32_t n_top, weir_err *e);
static inline int32_t weir_reply_log_n(const weir_reply_log *l) {
  return atomic_load_explicit(&l->n, memory_order_acquire);
}
/* 0 <= i < weir_reply_log_n; borrowed for the log's life. */
static inline const weir_reply_token *weir_reply_log_at(const weir_reply_log *l, int32_t i) {
  return &l->block[i / WEIR_REPLY_BLOCK][i % WEIR_REPLY_BLOCK];
}

#endif
