/* SPDX-License-Identifier: Apache-2.0 */
/* JSON straight into a buffer. Pure; any thread. */
#include "net/openai_write.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

#include "model/utf8.h"

static bool plain(unsigned char c) { return c >= 0x20 && c < 0x7f && c != '"' && c != '\\'; }

static weir_status put_escape(weir_buf *b, unsigned char c, weir_err *e) {
  switch (c) {
    case '"': return weir_buf_puts(b, "\\\"", e);
    case '\\': return weir_buf_puts(b, "\\\\", e);
    case '\n': return weir_buf_puts(b, "\\n", e);
    case '\r': return weir_buf_puts(b, "\\r", e);
    case '\t': return weir_buf_puts(b, "\\t", e);
    default: return weir_buf_printf(b, e, "\\u%04x", c);
  }
}

weir_status weir_json_put_text(weir_buf *b, const char *text, size_t len, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_buf_puts(b, "\"", e));
  for (size_t i = 0; i < len;) {
    size_t run = i;
    while (run < len && plain((unsigned char)text[run])) run++;
    if (run > i) WEIR_TRY(weir_buf_put(b, text + i, run - i, e));
    if (run == len) break;
    int32_t n = 1;
    const unsigned char c = (unsigned char)text[run];
    if (c < 0x80)
      WEIR_TRY(put_escape(b, c, e));
    else if (weir_utf8_next(text + run, len - run, &n) == WEIR_UTF8_CHAR)
      WEIR_TRY(weir_buf_put(b, text + run, (size_t)n, e));
    else
      WEIR_TRY(weir_buf_puts(b, "\xef\xbf\xbd", e));
    i = run + (size_t)n;
  }
  st = weir_buf_puts(b, "\"", e);
out:
  return st;
}

weir_status weir_json_put_number(weir_buf *b, double x, weir_err *e) {
  return isfinite(x) ? weir_buf_printf(b, e, "%.7g", x) : weir_buf_puts(b, "null", e);
}
