/* SPDX-License-Identifier: Apache-2.0 */
/* Spans of thresholds. Owns copies of the markers and the state after each token; loop thread only. */
#include "serve/gate_spans.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

static weir_status copy_marker(const char *text, int32_t i, const char *what, char **out, size_t *len,
                               weir_err *e) {
  *len = strlen(text);
  if (*len > WEIR_MAX_SPAN_BYTES)
    return weir_fail(e, WEIR_EINVAL, "span %d: its %s has more than %d bytes", i + 1, what,
                     WEIR_MAX_SPAN_BYTES);
  *out = strdup(text);
  return *out ? WEIR_OK : weir_fail(e, WEIR_ENOMEM, "cannot copy a marker of %zu bytes", *len);
}

weir_status weir_gate_spans_init(weir_gate_spans *s, const weir_gate_span *span, int32_t n, int32_t max_new,
                                 weir_err *e) {
  weir_status st = WEIR_OK;
  *s = (weir_gate_spans){.max_new = max_new};
  if (n < 0 || n > WEIR_MAX_GATE_SPANS)
    return weir_fail(e, WEIR_EINVAL, "%d spans, at most %d", n, WEIR_MAX_GATE_SPANS);
  if (n == 0) return WEIR_OK;
  WEIR_TRY(WEIR_NEW((size_t)n, &s->span, e));
  WEIR_TRY(WEIR_NEW((size_t)max_new, &s->mark, e));
  for (; s->n < n; s->n++) {
    const weir_gate_span *from = &span[s->n];
    struct weir_own_span *to = &s->span[s->n];
    if (!from->start || !from->start[0])
      WEIR_TRY(weir_fail(e, WEIR_EINVAL, "span %d has no start", s->n + 1));
    if (isnan(from->threshold))
      WEIR_TRY(weir_fail(e, WEIR_EINVAL, "span %d: its threshold is not a number", s->n + 1));
    to->threshold = from->threshold;
    WEIR_TRY(copy_marker(from->start, s->n, "start", &to->start, &to->n_start, e));
    st = copy_marker(from->end ? from->end : "", s->n, "end", &to->end, &to->n_end, e);
    if (st != WEIR_OK) {
      free(to->start);
      goto out;
    }
  }
out:
  if (st != WEIR_OK) weir_gate_spans_fini(s);
  return st;
}

void weir_gate_spans_fini(weir_gate_spans *s) {
  for (int32_t i = 0; i < s->n; i++) {
    free(s->span[i].start);
    free(s->span[i].end);
  }
  free(s->span);
  free(s->mark);
  *s = (weir_gate_spans){0};
}

/* Where the marker begins in text[from, len); len when it does not. */
static size_t find(const char *text, size_t from, size_t len, const char *marker, size_t n) {
  for (size_t at = from; at + n <= len; at++)
    if (text[at] == marker[0] && !memcmp(text + at, marker, n)) return at;
  return len;
}

/* The start that is complete first: what comes behind it cannot change that, wherever tokens end. */
static bool open_span(const weir_gate_spans *s, const char *text, size_t len, weir_span_mark *m) {
  size_t most = len; /* bytes that hold a start which is complete before the best so far */
  for (int32_t i = 0; i < s->n; i++) {
    const size_t at = find(text, m->from, most, s->span[i].start, s->span[i].n_start);
    if (at == most) continue;
    m->active = i;
    most = at + s->span[i].n_start - 1;
  }
  if (m->active >= 0) m->from = most + 1;
  return m->active >= 0;
}

static bool close_span(const weir_gate_spans *s, const char *text, size_t len, weir_span_mark *m) {
  const struct weir_own_span *x = &s->span[m->active];
  if (x->n_end == 0) return false;
  const size_t at = find(text, m->from, len, x->end, x->n_end);
  if (at == len) return false;
  m->from = at + x->n_end;
  m->active = -1;
  return true;
}

/* What cannot begin a marker that is still to be completed is done with. */
static void pass_over(const weir_gate_spans *s, size_t len, weir_span_mark *m) {
  size_t longest = m->active >= 0 ? s->span[m->active].n_end : 0;
  for (int32_t i = 0; i < s->n && m->active < 0; i++)
    if (s->span[i].n_start > longest) longest = s->span[i].n_start;
  const size_t keep = longest > 0 ? longest - 1 : 0;
  if (len > keep && len - keep > m->from) m->from = len - keep;
}

void weir_gate_spans_note(weir_gate_spans *s, int32_t i, const char *text, size_t len) {
  if (s->n == 0 || i < 0 || i >= s->max_new) return;
  weir_span_mark m = i > 0 ? s->mark[i - 1] : (weir_span_mark){.active = -1};
  if (m.from < len)
    while (m.active < 0 ? open_span(s, text, len, &m) : close_span(s, text, len, &m)) {
    }
  pass_over(s, len, &m);
  s->mark[i] = m;
}

float weir_gate_spans_threshold(const weir_gate_spans *s, int32_t n, float otherwise) {
  if (s->n == 0 || n < 1 || n > s->max_new) return otherwise;
  const int32_t active = s->mark[n - 1].active;
  return active < 0 ? otherwise : s->span[active].threshold;
}
