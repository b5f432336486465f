/* SPDX-License-Identifier: Apache-2.0 */
/* Spans of thresholds from the command line or a file. Owns the texts; main thread. */
#include "programs/spans.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static bool is_blank(char c) { return c == ' ' || c == '\t'; }

static char unescaped(char c) { return c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c; }

/* The next part of *at, unescaped in place and ended by NUL; NULL when there is none, or when its quotes are
 * not closed (*open). */
static char *next_part(char **at, bool *open) {
  char *from = *at;
  *open = false;
  while (is_blank(*from)) from++;
  if (!*from) return NULL;
  const bool quoted = *from == '"';
  from += quoted;
  char *to = from, *c = from;
  for (; *c && (quoted ? *c != '"' : !is_blank(*c)); c++) {
    if (*c == '\\' && c[1] && strchr("ntr\\\"", c[1]))
      c++, *to++ = unescaped(*c);
    else
      *to++ = *c;
  }
  *open = quoted && !*c;
  *at = *c ? c + 1 : c;
  *to = '\0';
  return *open ? NULL : from;
}

weir_status weir_span_list_add(weir_span_list *l, const char *text, weir_err *e) {
  bool open[4];
  char *end;
  if (l->n == WEIR_MAX_GATE_SPANS)
    return weir_fail(e, WEIR_EINVAL, "--span: more than %d of them", WEIR_MAX_GATE_SPANS);
  char *copy = strdup(text), *at = copy;
  if (!copy) return weir_fail(e, WEIR_ENOMEM, "--span: no memory");
  l->text[l->n] = copy;
  const char *number = next_part(&at, &open[0]), *from = next_part(&at, &open[1]),
             *to = next_part(&at, &open[2]), *more = next_part(&at, &open[3]);
  weir_gate_span *s = &l->span[l->n++];
  if (open[0] || open[1] || open[2] || open[3])
    return weir_fail(e, WEIR_EINVAL, "--span: quotes that are not closed: %s", text);
  if (!number || !from || more)
    return weir_fail(e, WEIR_EINVAL, "--span: want 'THRESHOLD START END', got '%s'", text);
  *s = (weir_gate_span){.start = from, .end = to ? to : "", .threshold = strtof(number, &end)};
  if (end == number || *end || isnan(s->threshold))
    return weir_fail(e, WEIR_EINVAL, "--span: %s is no threshold", number);
  if (!from[0]) return weir_fail(e, WEIR_EINVAL, "--span: the start is empty: %s", text);
  return WEIR_OK;
}

weir_status weir_span_list_read(weir_span_list *l, const weir_config *c, weir_err *e) {
  int32_t n;
  const char *const *given = weir_config_strings(c, "span", &n);
  for (int32_t i = 0; i < n; i++) {
    const weir_status st = weir_span_list_add(l, given[i], e);
    if (st != WEIR_OK) return st;
  }
  return WEIR_OK;
}

void weir_span_list_fini(weir_span_list *l) {
  for (int32_t i = 0; i < l->n; i++) free(l->text[i]);
  *l = (weir_span_list){0};
}
