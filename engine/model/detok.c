/* SPDX-License-Identifier: Apache-2.0 */
/* Streaming detokenisation: tokens end anywhere inside characters, clients must see whole ones. Owns nothing
 * but the caller's weir_detok; any thread, one at a time per stream. */
#include "model/tokenizer.h"
#include "model/utf8.h"

static const char replacement[] = "\xef\xbf\xbd"; /* U+FFFD */

weir_status weir_detok_put(weir_detok *d, const weir_tokenizer *t, int32_t id, bool show_special,
                           weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  if (weir_tokenizer_is_special(t, id) && !show_special) return WEIR_OK;
  const weir_str bytes = weir_token_bytes(t, id);
  /* One byte more, then out with every unit that is now decided: at most 3 bytes are ever left. */
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

weir_status weir_detok_end(weir_detok *d, weir_buf *out, weir_err *e) {
  const bool some = d->n_pending > 0; /* a prefix of one character: one maximal subpart */
  d->n_pending = 0;
  return some ? weir_buf_put(out, replacement, 3, e) : WEIR_OK;
}
