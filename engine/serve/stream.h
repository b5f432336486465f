/* SPDX-License-Identifier: Apache-2.0 */
/* The text of one request as its tokens come and go: detokenisation that can be rolled back, stop strings,
 * and what of it may be shown. */
#ifndef WEIR_SERVE_STREAM_H
#define WEIR_SERVE_STREAM_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "model/tokenizer.h"

typedef struct weir_stream_mark { /* the state after a token */
  size_t text_len;
  weir_detok detok;
} weir_stream_mark;

typedef struct weir_stream {
  const weir_tokenizer *tokenizer; /* borrowed */
  bool show_special;
  weir_detok start;       /* the state before the first token: zeroed, or with `started` behind a text */
  weir_buf text;          /* of all generated tokens, shown or not */
  weir_stream_mark *mark; /* [n], after token i */
  int32_t n, max_new;
  int32_t min_new; /* a stop string ends the text only with this token (counted from 1) or a later one */
  char **stop;     /* [n_stop], owned */
  int32_t n_stop;
  size_t longest_stop;
  bool stopped;     /* a stop string was found ... */
  size_t stop_at;   /* ... and begins here in the text */
  int32_t n_shown;  /* tokens given out */
  size_t shown_len; /* bytes given out */
} weir_stream;

/* stop[n_stop] is copied; an empty stop string is refused. */
weir_status weir_stream_init(weir_stream *, const weir_tokenizer *, int32_t max_new, bool show_special,
                             const char *const *stop, int32_t n_stop, weir_err *e);
void weir_stream_fini(weir_stream *);

/* Takes back all tokens but the first n; n is never below what was shown. */
void weir_stream_truncate(weir_stream *, int32_t n);
/* Adds a token; sets `stopped` when it completes a stop string. */
weir_status weir_stream_append(weir_stream *, int32_t id, weir_err *e);

/* Shows tokens [n_shown, n_committed) as far as they may be: text that could be the beginning of a stop
 * string waits for the next token, and so does a last token that leaves a character unfinished, unless
 * `final`: then tokens beyond n_committed are taken back, and what is unfinished becomes U+FFFD. A token is
 * shown once all its text may be; the text ends before a stop string. */
weir_status weir_stream_show(weir_stream *, int32_t n_committed, bool final,
                             void (*fn)(void *ctx, int32_t index, const char *text, size_t len), void *ctx,
                             weir_err *e);

#endif
