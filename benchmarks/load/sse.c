/* SPDX-License-Identifier: Apache-2.0 */
/* The parser of server-sent events. Lines end in CR, LF or CR LF; only `data` fields matter to us, so
 * `event`, `id`, `retry`, comments and unknown fields are passed over. Pure but for its memory; the load's
 * thread. */
#include "load/sse.h"

#include <string.h>

void weir_sse_fini(weir_sse *s) {
  weir_buf_fini(&s->line);
  weir_buf_fini(&s->data);
  *s = (weir_sse){0};
}

static weir_status end_line(weir_sse *s, weir_sse_event event, void *ctx, weir_err *e) {
  weir_status st = WEIR_OK;
  const char *line = s->line.data;
  size_t n = s->line.len;
  if (!s->begun && n >= 3 && !memcmp(line, "\xef\xbb\xbf", 3)) { /* one byte order mark is allowed */
    line += 3;
    n -= 3;
  }
  s->begun = true;
  if (n == 0) {
    if (s->any_data) {
      s->any_data = false;
      st = event(ctx, s->data.data ? s->data.data : "", s->data.len, e);
      weir_buf_truncate(&s->data, 0);
    }
  } else if (n >= 4 && !memcmp(line, "data", 4) && (n == 4 || line[4] == ':')) {
    const size_t skip = n == 4 ? 4 : n > 5 && line[5] == ' ' ? 6 : 5;
    if (s->any_data) WEIR_TRY(weir_buf_put(&s->data, "\n", 1, e));
    WEIR_TRY(weir_buf_put(&s->data, line + skip, n - skip, e));
    s->any_data = true;
  }
out:
  weir_buf_truncate(&s->line, 0);
  return st;
}

weir_status weir_sse_feed(weir_sse *s, const char *bytes, size_t n, weir_sse_event event, void *ctx,
                          weir_err *e) {
  weir_status st = WEIR_OK;
  const size_t max = s->max_bytes ? s->max_bytes : WEIR_SSE_MAX_EVENT_BYTES;
  const char *p = bytes, *const end = bytes + n;
  while (p < end) {
    if (s->after_cr) {
      s->after_cr = false;
      if (*p == '\n') {
        p++;
        continue;
      }
    }
    const char *q = p;
    while (q < end && *q != '\n' && *q != '\r') q++;
    if (s->line.len + s->data.len + (size_t)(q - p) > max)
      return weir_fail(e, WEIR_EFORMAT, "an event of more than %zu bytes", max);
    WEIR_TRY(weir_buf_put(&s->line, p, (size_t)(q - p), e));
    if (q == end) break;
    s->after_cr = *q == '\r';
    p = q + 1;
    WEIR_TRY(end_line(s, event, ctx, e));
  }
out:
  return st;
}

bool weir_sse_unfinished(const weir_sse *s) { return s->line.len > 0 || s->any_data; }
