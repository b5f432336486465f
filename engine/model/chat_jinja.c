/* SPDX-License-Identifier: Apache-2.0 */
/* The form of a template. Jinja is split as its lexer does it under trim_blocks and lstrip_blocks, which is
 * how chat templates are rendered. Comments and white space that is not rendered go; a string is its bytes,
 * however it was quoted; text, {{ 'text' }} and pieces joined by + become one run of literals and
 * expressions; message['role'] is message.role. What is left must be equal for two templates to be of one
 * form, so an edit that changes what is rendered changes the form. Pure; any thread. */
#define _GNU_SOURCE /* memmem */
#include "model/chat_jinja.h"

#include <stdbool.h>
#include <string.h>

#include "base/buf.h"

/* A form: MARK literal MARK, {expression}, %statement%. Templates that hold a MARK or a HOLE are not
 * understood. */
enum { MARK = 1, HOLE = 2 };

typedef struct reader {
  const char *p, *end;
  weir_buf *out;
  bool in_literal, bad;
} reader;

static weir_status put(reader *r, const char *s, size_t n, weir_err *e) {
  return n > 0 ? weir_buf_put(r->out, s, n, e) : WEIR_OK;
}

static weir_status literal(reader *r, bool on, weir_err *e) {
  static const char mark = MARK;
  if (r->in_literal == on) return WEIR_OK;
  r->in_literal = on;
  return put(r, &mark, 1, e);
}

static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
static bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         (unsigned char)c >= 0x80;
}

/* Bytes of a text with line ends as Jinja reads them: \r\n and \r are \n. */
static weir_status put_text(reader *r, const char *s, size_t n, weir_err *e) {
  weir_status st = WEIR_OK;
  if (n == 0) return WEIR_OK;
  WEIR_TRY(literal(r, true, e));
  for (size_t i = 0; i < n; i++) {
    if (s[i] == '\r' && i + 1 < n && s[i + 1] == '\n') continue;
    const char c = s[i] == '\r' ? '\n' : s[i];
    WEIR_TRY(put(r, &c, 1, e));
  }
out:
  return st;
}

/* ---- the tokens of a tag ---- */

typedef enum { T_END, T_WORD, T_STRING, T_OTHER } token_kind;
typedef struct token {
  token_kind kind;
  const char *s; /* of a string what is between the quotes */
  size_t n;
} token;

/* The next token of [*p, end). A string that does not end is T_OTHER with its quote. */
static token next(const char **p, const char *end) {
  const char *s = *p;
  while (s < end && is_space(*s)) s++;
  const char *at = s;
  if (s == end) {
    *p = s;
    return (token){T_END, s, 0};
  }
  if (is_word(*s)) {
    while (s < end && is_word(*s)) s++;
    *p = s;
    return (token){T_WORD, at, (size_t)(s - at)};
  }
  if (*s == '\'' || *s == '"') {
    for (s++; s < end && *s != *at; s++)
      if (*s == '\\' && s + 1 < end) s++;
    if (s < end) {
      *p = s + 1;
      return (token){T_STRING, at + 1, (size_t)(s - at - 1)};
    }
    s = at;
  }
  *p = s + 1;
  return (token){T_OTHER, at, 1};
}

static bool is(token t, const char *word) { return t.n == strlen(word) && !memcmp(t.s, word, t.n); }

/* The bytes of a string; false when it has an escape that is not one of the plain ones. */
static weir_status put_string(reader *r, token t, weir_err *e) {
  static const char from[] = "nrt\\'\"", to[] = "\n\r\t\\'\"";
  weir_status st = WEIR_OK;
  size_t begin = 0, i = 0;
  for (; i < t.n; i++) {
    if (t.s[i] != '\\') continue;
    WEIR_TRY(put_text(r, t.s + begin, i - begin, e));
    const char *c = i + 1 < t.n && t.s[i + 1] ? strchr(from, t.s[i + 1]) : NULL;
    if (!c) {
      r->bad = true;
      return WEIR_OK;
    }
    WEIR_TRY(literal(r, true, e));
    WEIR_TRY(put(r, &to[c - from], 1, e));
    begin = ++i + 1;
  }
  if (begin < t.n) WEIR_TRY(put_text(r, t.s + begin, t.n - begin, e));
out:
  return st;
}

/* Tokens [p, end) with a blank where two words meet and nowhere else. */
static weir_status put_tokens(reader *r, const char *p, const char *end, weir_err *e) {
  weir_status st = WEIR_OK;
  token last = {T_END, NULL, 0};
  for (token t; (t = next(&p, end)).kind != T_END; last = t) {
    if (t.kind == T_STRING) {
      WEIR_TRY(literal(r, true, e)); /* also of an empty one */
      WEIR_TRY(put_string(r, t, e));
      WEIR_TRY(literal(r, false, e));
      continue;
    }
    if (t.kind == T_OTHER && *t.s == '[' && (last.kind == T_WORD || (last.n == 1 && *last.s == ']'))) {
      const char *q = p;
      const token name = next(&q, end), close = next(&q, end);
      if (name.kind == T_STRING && (is(name, "role") || is(name, "content")) && close.kind == T_OTHER &&
          *close.s == ']') {
        WEIR_TRY(put(r, ".", 1, e));
        WEIR_TRY(put(r, name.s, name.n, e));
        p = q;
        t = (token){T_WORD, name.s, name.n};
        continue;
      }
    }
    /* what belongs together, as ==, is never written with a blank between; "= =" is an error of Jinja's own
     */
    if (t.kind == T_WORD && last.kind == T_WORD) WEIR_TRY(put(r, " ", 1, e));
    WEIR_TRY(put(r, t.s, t.n, e));
  }
out:
  return st;
}

/* Whether an expression is pieces joined by + that can be written one after the other: at the top nothing but
 * names, strings, filters and what is in brackets. */
static bool is_chain(const char *p, const char *end) {
  static const char *const not_these[] = {"if", "else", "and", "or", "not", "in", "is"};
  int depth = 0;
  for (token t; (t = next(&p, end)).kind != T_END;) {
    if (t.kind == T_WORD && depth == 0) {
      if (*t.s >= '0' && *t.s <= '9') return false;
      for (size_t i = 0; i < sizeof not_these / sizeof *not_these; i++)
        if (is(t, not_these[i])) return false;
    }
    if (t.kind != T_OTHER) continue;
    if (strchr("([{", *t.s))
      depth++;
    else if (strchr(")]}", *t.s))
      depth--;
    else if (depth == 0 && !strchr("+.|", *t.s))
      return false;
    if (depth < 0) return false;
  }
  return depth == 0;
}

static weir_status put_piece(reader *r, const char *p, const char *end, weir_err *e) {
  weir_status st = WEIR_OK;
  const char *q = p;
  const token t = next(&q, end);
  const char *rest = q;
  if (t.kind == T_STRING && next(&rest, end).kind == T_END) return put_string(r, t, e);
  WEIR_TRY(literal(r, false, e));
  WEIR_TRY(put(r, "{", 1, e));
  WEIR_TRY(put_tokens(r, p, end, e));
  WEIR_TRY(put(r, "}", 1, e));
out:
  return st;
}

static weir_status put_output(reader *r, const char *p, const char *end, weir_err *e) {
  weir_status st = WEIR_OK;
  int depth = 0;
  const char *begin = p;
  if (!is_chain(p, end)) return put_piece(r, p, end, e);
  for (token t; (t = next(&p, end)).kind != T_END;) {
    if (t.kind != T_OTHER) continue;
    depth += strchr("([{", *t.s) ? 1 : strchr(")]}", *t.s) ? -1 : 0;
    if (*t.s != '+' || depth > 0) continue;
    WEIR_TRY(put_piece(r, begin, t.s, e));
    begin = p;
  }
  WEIR_TRY(put_piece(r, begin, end, e));
out:
  return st;
}

/* ---- the template ---- */

/* Where a tag that begins before p ends, NULL: nowhere. Strings may hold what ends it. */
static const char *tag_end(const char *p, const char *end, char kind) {
  if (kind == '#') {
    const char *q = memmem(p, (size_t)(end - p), "#}", 2);
    return q;
  }
  int depth = 0;
  const char close = kind == '{' ? '}' : '%';
  for (;;) {
    const token t = next(&p, end);
    if (t.kind == T_END) return NULL;
    if (t.kind != T_OTHER) continue;
    if (*t.s == '\'' || *t.s == '"') return NULL;
    if (depth == 0 && *t.s == close && p < end && *p == '}') return t.s;
    if (*t.s == '{') depth++;
    if (*t.s == '}') depth--;
  }
}

static weir_status read_all(reader *r, weir_err *e) {
  weir_status st = WEIR_OK;
  bool line_start = true, strip = false; /* strip: the tag before took what white space follows it */
  while (r->p < r->end) {
    const char *text = r->p, *tag = text;
    while (tag < r->end && !(*tag == '{' && r->end - tag > 1 && strchr("{%#", tag[1]) && tag[1])) tag++;
    const char *text_end = tag;
    const char kind = tag < r->end ? tag[1] : 0;
    const char sign = kind && r->end - tag > 2 ? tag[2] : 0;
    if (strip)
      while (text < text_end && is_space(*text)) text++;
    if (kind && sign == '-') {
      while (text < text_end && is_space(text_end[-1])) text_end--;
    } else if (kind && kind != '{' && sign != '+') { /* lstrip_blocks: blanks that begin the tag's line */
      const char *line = text_end;
      while (line > text && is_space(line[-1]) && line[-1] != '\n') line--;
      if (line > text ? line[-1] == '\n' : line_start || strip) text_end = line;
    }
    WEIR_TRY(put_text(r, text, (size_t)(text_end - text), e));
    if (!kind) break;
    const char *body = tag + 2 + (sign == '-' || sign == '+'), *close = tag_end(body, r->end, kind);
    if (!close) {
      r->bad = true;
      break;
    }
    r->p = close + 2;
    const char last = close > body ? close[-1] : 0;
    const char *body_end = close - (last == '-' || (last == '+' && kind != '{'));
    strip = last == '-';
    line_start = false;
    if (!strip && kind != '{' && last != '+') { /* trim_blocks */
      if (r->p < r->end && *r->p == '\r') r->p++, line_start = true;
      if (r->p < r->end && *r->p == '\n') r->p++, line_start = true;
    }
    if (kind == '{') WEIR_TRY(put_output(r, body, body_end, e));
    if (kind == '%') {
      const char *q = body;
      const token word = next(&q, body_end);
      if (is(word, "raw")) r->bad = true;
      WEIR_TRY(literal(r, false, e));
      WEIR_TRY(put(r, "%", 1, e));
      WEIR_TRY(put_tokens(r, body, body_end, e));
      WEIR_TRY(put(r, "%", 1, e));
    }
  }
  WEIR_TRY(literal(r, false, e));
out:
  return st;
}

/* ---- the system message ---- */

/* A ChatML template may bring one along: <|im_start|>system\nTEXT<|im_end|>\n, in one literal. */
static weir_str find_system(const weir_buf *form) {
  static const char open[] = "<|im_start|>system\n", close[] = "<|im_end|>\n";
  const char *p = form->data, *end = p + form->len;
  while (p < end && (p = memmem(p, (size_t)(end - p), open, sizeof open - 1))) {
    p += sizeof open - 1;
    const char *q = memmem(p, (size_t)(end - p), close, sizeof close - 1);
    if (!q) break;
    if (q > p && !memchr(p, MARK, (size_t)(q - p))) return (weir_str){p, (size_t)(q - p)};
  }
  return (weir_str){0};
}

static uint64_t add(uint64_t h, char c) { return (h ^ (unsigned char)c) * 0x100000001b3ULL; }

weir_status weir_chat_form_of(weir_str jinja, weir_chat_form *out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_buf form = {0};
  *out = (weir_chat_form){0};
  if (jinja.len == 0 || memchr(jinja.data, MARK, jinja.len) || memchr(jinja.data, HOLE, jinja.len)) return st;
  reader r = {.p = jinja.data, .end = jinja.data + jinja.len, .out = &form};
  if (r.end[-1] == '\n') r.end--; /* the last line feed is not rendered */
  if (r.end > r.p && r.end < jinja.data + jinja.len && r.end[-1] == '\r') r.end--;
  WEIR_TRY(read_all(&r, e));
  if (r.bad || form.len == 0) goto out;
  const weir_str system = find_system(&form);
  if (system.data) {
    out->system.data = memmem(jinja.data, jinja.len, system.data, system.len);
    out->system.len = system.len;
    if (!out->system.data) goto out; /* it is not in the template as it is rendered */
  }
  uint64_t h = 0xcbf29ce484222325ULL;
  for (size_t i = 0; i < form.len;) { /* the message is a hole wherever it stands */
    const bool hole = system.data && form.len - i >= system.len &&
                      (system.len >= 8 || form.data + i == system.data) &&
                      !memcmp(form.data + i, system.data, system.len);
    h = add(h, hole ? (char)HOLE : form.data[i]);
    i += hole ? system.len : 1;
  }
  out->id = h ? h : 1;
out:
  if (out->id == 0) out->system = (weir_str){0};
  weir_buf_fini(&form);
  return st;
}
