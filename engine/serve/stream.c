/* SPDX-License-Identifier: Apache-2.0 */
/* Text streams. Owns the text; loop thread only. */
#include "serve/stream.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

weir_status weir_stream_init(weir_stream *s, const weir_tokenizer *tok, int32_t max_new, bool show_special,
                             const char *const *stop, int32_t n_stop, weir_err *e) {
  weir_status st = WEIR_OK;
  *s = (weir_stream){.tokenizer = tok, .show_special = show_special, .max_new = max_new};
  WEIR_TRY(WEIR_NEW((size_t)max_new + 1, &s->mark, e));
  WEIR_TRY(WEIR_NEW((size_t)n_stop, &s->stop, e));
  for (int32_t i = 0; i < n_stop; i++) {
    const size_t len = strlen(stop[i]);
    if (len == 0) WEIR_TRY(weir_fail(e, WEIR_EINVAL, "stop string %d is empty", i));
    s->stop[i] = strdup(stop[i]);
    if (!s->stop[i]) WEIR_TRY(weir_fail(e, WEIR_ENOMEM, "cannot copy a stop string of %zu bytes", len));
    s->n_stop = i + 1;
    if (len > s->longest_stop) s->longest_stop = len;
  }
out:
  if (st != WEIR_OK) weir_stream_fini(s);
  return st;
}

void weir_stream_fini(weir_stream *s) {
  for (int32_t i = 0; i < s->n_stop; i++) free(s->stop[i]);
  free(s->stop);
  free(s->mark);
  weir_buf_fini(&s->text);
  *s = (weir_stream){0};
}

void weir_stream_truncate(weir_stream *s, int32_t n) {
  if (n >= s->n) return;
  s->n = n;
  weir_buf_truncate(&s->text, n > 0 ? s->mark[n - 1].text_len : 0);
  s->stopped =
      false; /* no token follows one that completes a stop string, so it was among those taken back */
}

/* The first stop string that ends in the text behind `from`. */
static void find_stop(weir_stream *s, size_t from) {
  const size_t start = from > s->longest_stop ? from - s->longest_stop : 0;
  for (size_t at = start; at < s->text.len && !s->stopped; at++) {
    for (int32_t i = 0; i < s->n_stop; i++) {
      const size_t len = strlen(s->stop[i]);
      if (len > s->text.len - at || at + len <= from || memcmp(s->text.data + at, s->stop[i], len) != 0)
        continue;
      s->stopped = true;
      s->stop_at = at;
      break;
    }
  }
}

weir_status weir_stream_append(weir_stream *s, int32_t id, weir_err *e) {
  if (s->n >= s->max_new) return weir_fail(e, WEIR_EINVAL, "a stream of %d tokens is full", s->max_new);
  weir_detok d = s->n > 0 ? s->mark[s->n - 1].detok : s->start;
  const size_t before = s->text.len;
  const weir_status st = weir_detok_put(&d, s->tokenizer, id, s->show_special, &s->text, e);
  if (st != WEIR_OK) return st;
  s->mark[s->n++] = (weir_stream_mark){s->text.len, d};
  if (s->n_stop > 0 && !s->stopped && s->n >= s->min_new) find_stop(s, before);
  return WEIR_OK;
}

/* Bytes of text[0..len) that cannot be the beginning of a stop string. */
static size_t clear_of_stops(const weir_stream *s, size_t len) {
  const size_t most = s->longest_stop > 0 ? s->longest_stop - 1 : 0;
  for (size_t k = most < len ? most : len; k > 0; k--)
    for (int32_t i = 0; i < s->n_stop; i++)
      if (strlen(s->stop[i]) > k && memcmp(s->text.data + len - k, s->stop[i], k) == 0) return len - k;
  return len;
}

weir_status weir_stream_show(weir_stream *s, int32_t n_committed, bool final,
                             void (*fn)(void *ctx, int32_t index, const char *text, size_t len), void *ctx,
                             weir_err *e) {
  if (final) weir_stream_truncate(s, n_committed); /* the text ends here, whatever was tried behind it */
  if (n_committed <= 0) return WEIR_OK;
  weir_stream_mark *last = &s->mark[n_committed - 1];
  int32_t ready = n_committed;
  if (final) { /* an unfinished character at the very end is the last token's */
    const weir_status st = weir_detok_end(&last->detok, &s->text, e);
    if (st != WEIR_OK) return st;
    last->text_len = s->text.len;
  } else if (last->detok.n_pending > 0) {
    ready--;
  }
  size_t may = final ? last->text_len : clear_of_stops(s, last->text_len);
  if (s->stopped && s->stop_at < may) may = s->stop_at;
  while (s->n_shown < ready && (final || s->mark[s->n_shown].text_len <= may)) {
    const size_t to = s->mark[s->n_shown].text_len < may ? s->mark[s->n_shown].text_len : may;
    const size_t from = s->shown_len < to ? s->shown_len : to;
    fn(ctx, s->n_shown, s->text.data ? s->text.data + from : "", to - from);
    s->shown_len = to;
    s->n_shown++;
  }
  return WEIR_OK;
}
