/* SPDX-License-Identifier: Apache-2.0 */
/* Streaming detokenisation: tokens end anywhere inside characters, clients must see whole ones. Owns nothing
 * but the caller's weir_detok; any thread, one at a time per stream. */
#define _GNU_SOURCE /* memmem */
#include "model/tokenizer.h"
#include "model/tokenizer_in.h"
#include "model/utf8.h"

static const char replacement[] = "\xef\xbf\xbd"; /* U+FFFD */

/* One byte more, then out with every unit that is now decided: at most 3 bytes are ever left. */
static weir_status put_bytes(weir_detok *d, weir_str bytes, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  for (size_t i = 0; i < bytes.len; i++) {
    d->pending[d->n_pending++] = (unsigned char)bytes.data[i];
    while (d->n_pending > 0) {
      const char *p = (const char *)d->pending;
      int32_t len;
      const weir_utf8_kind kind = weir_utf8_next(p, (size_t)d->n_pending, &len);
      if (kind == WEIR_UTF8_INCOMPLETE) break;
      if (kind == WEIR_UTF8_CHAR)
        WEIR_TRY(weir_buf_put(out, p, (size_t)len, e));
      else
        WEIR_TRY(weir_buf_put(out, replacement, 3, e));
      for (int32_t k = len; k < d->n_pending; k++) d->pending[k - len] = d->pending[k];
      d->n_pending -= len;
    }
  }
out:
  return st;
}

/* The token's spelling without the marks that stand for spaces. */
static weir_status put_unmarked(weir_detok *d, weir_str text, weir_str mark, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  size_t from = 0;
  for (size_t at = 0; at + mark.len <= text.len;) {
    if (memcmp(text.data + at, mark.data, mark.len) != 0) {
      at++;
      continue;
    }
    WEIR_TRY(put_bytes(d, (weir_str){text.data + from, at - from}, out, e));
    from = at += mark.len;
  }
  WEIR_TRY(put_bytes(d, (weir_str){text.data + from, text.len - from}, out, e));
out:
  return st;
}

static bool holds(weir_str text, weir_str mark) {
  return mark.len && text.len >= mark.len && memmem(text.data, text.len, mark.data, mark.len);
}

weir_status weir_detok_put(weir_detok *d, const weir_tokenizer *t, int32_t id, bool show_special,
                           weir_buf *out, weir_err *e) {
  if (weir_tokenizer_is_special(t, id) && !show_special) return WEIR_OK;
  weir_str bytes = weir_token_bytes(t, id), mark;
  if (!d->started) {
    const weir_first_rule rule = weir_tokenizer_first(t, &mark);
    const weir_str text = weir_token_text(t, id);
    d->started = rule != WEIR_FIRST_SPACE || bytes.len > 0;
    if (rule == WEIR_FIRST_SPACE && bytes.len && bytes.data[0] == ' ')
      bytes = (weir_str){bytes.data + 1, bytes.len - 1};
    else if (rule == WEIR_FIRST_MARKS && holds(text, mark))
      return put_unmarked(d, text, mark, out, e);
  }
  return put_bytes(d, bytes, out, e);
}

weir_status weir_detok_end(weir_detok *d, weir_buf *out, weir_err *e) {
  const bool some = d->n_pending > 0; /* a prefix of one character: one maximal subpart */
  d->n_pending = 0;
  return some ? weir_buf_put(out, replacement, 3, e) : WEIR_OK;
}
