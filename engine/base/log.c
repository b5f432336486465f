/* SPDX-License-Identifier: Apache-2.0 */
/* Log lines. A line is put together in memory of the caller's stack and leaves in one write, so lines of
 * several threads, or of processes that share a pipe, do not mix. What is not text (control characters, bytes
 * that are not UTF-8) never reaches a terminal or a parser of JSON as it is: names and prompts of other
 * people come here too. Any thread. */
#include "base/log.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_WORDS = 2048 }; /* bytes of a line that the words may take, escaped */

static _Atomic int current = WEIR_LOG_INFO, shape = WEIR_LOG_TEXT;
static const char *_Atomic component;

static const char *const level_name[] = {"error", "warning", "info", "debug"};

bool weir_log_level_parse(const char *name, weir_log_level *out) {
  for (int i = 0; i < 4; i++)
    if (!strcmp(name, level_name[i])) {
      *out = (weir_log_level)i;
      return true;
    }
  return false;
}

bool weir_log_format_parse(const char *name, weir_log_format *out) {
  const bool json = !strcmp(name, "json");
  if (!json && strcmp(name, "text") != 0) return false;
  *out = json ? WEIR_LOG_JSON : WEIR_LOG_TEXT;
  return true;
}

void weir_log_set_level(weir_log_level level) { atomic_store(&current, (int)level); }
void weir_log_set_format(weir_log_format format) { atomic_store(&shape, (int)format); }
void weir_log_set_component(const char *name) { atomic_store(&component, name); }

/* ---- a line in the making ---- */

typedef struct line {
  char data[WEIR_LOG_MAX_LINE];
  size_t len;
  bool full; /* something did not fit */
} line;

/* All of it or nothing; the last two bytes are kept for "}\n". */
static void put(line *l, const char *bytes, size_t n, size_t limit) {
  if (l->full || n > limit || l->len > limit - n) {
    l->full = true;
    return;
  }
  memcpy(l->data + l->len, bytes, n);
  l->len += n;
}

/* Bytes of the character of UTF-8 at s, 0 when there is none: no overlong forms, no surrogates. */
static size_t character(const unsigned char *s) {
  if (s[0] < 0x80) return 1;
  const size_t n = s[0] >= 0xc2 && s[0] <= 0xdf   ? 2
                   : (s[0] & 0xf0) == 0xe0        ? 3
                   : s[0] >= 0xf0 && s[0] <= 0xf4 ? 4
                                                  : 0;
  for (size_t i = 1; i < n; i++)
    if ((s[i] & 0xc0) != 0x80) return 0; /* the NUL at the end is none either */
  if (n == 3 && ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] >= 0xa0))) return 0;
  if (n == 4 && ((s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] >= 0x90))) return 0;
  return n;
}

/* Text made harmless. JSON: as inside a string. Else control characters as C writes them, and quotes escaped
 * when the text stands between some. Stops at `limit` between two characters. */
static void put_escaped(line *l, const char *text, bool json, bool quoted, size_t limit) {
  for (const unsigned char *s = (const unsigned char *)text; *s && !l->full;) {
    const size_t n = character(s);
    char out[8];
    const bool c1 = n == 2 && s[0] == 0xc2 && s[1] < 0xa0; /* of terminals */
    if (n == 0)
      put(l, "\xef\xbf\xbd", 3, limit);
    else if ((json || quoted) && (*s == '"' || *s == '\\'))
      put(l, (char[]){'\\', (char)*s}, 2, limit);
    else if (*s == '\n' || *s == '\t' || *s == '\r')
      put(l, (char[]){'\\', *s == '\n' ? 'n' : *s == '\t' ? 't' : 'r'}, 2, limit);
    else if (*s < 0x20 || *s == 0x7f || c1)
      put(l, out, (size_t)snprintf(out, sizeof out, json ? "\\u%04x" : "\\x%02x", c1 ? s[1] : *s), limit);
    else
      put(l, (const char *)s, n, limit);
    s += n ? n : 1;
  }
}

static void put_number(line *l, double x, size_t limit) {
  char out[40];
  if (isfinite(x))
    put(l, out, (size_t)snprintf(out, sizeof out, "%.6g", x), limit);
  else
    put(l, "null", 4, limit);
}

/* All of a field or nothing of it. */
static void put_field(line *l, const weir_log_field *f, bool json) {
  const size_t limit = sizeof l->data - 2, from = l->len;
  char out[32];
  if (l->full) return;
  put(l, json ? ",\"" : " ", json ? 2 : 1, limit);
  put(l, f->key, strlen(f->key), limit);
  put(l, json ? "\":" : "=", json ? 2 : 1, limit);
  if (f->type == WEIR_LOG_FIELD_INT)
    put(l, out, (size_t)snprintf(out, sizeof out, "%lld", (long long)f->i), limit);
  else if (f->type == WEIR_LOG_FIELD_NUM)
    put_number(l, f->num, limit);
  else if (!f->str)
    put(l, "null", 4, limit);
  else {
    const bool quoted = json || !*f->str || strpbrk(f->str, " \"=\\\n\t\r");
    if (quoted) put(l, "\"", 1, limit);
    put_escaped(l, f->str, json, quoted, limit);
    if (quoted) put(l, "\"", 1, limit);
  }
  if (l->full) l->len = from;
}

static void put_time(line *l) {
  struct timespec now;
  struct tm tm;
  char day[32], out[48];
  clock_gettime(CLOCK_REALTIME, &now);
  gmtime_r(&now.tv_sec, &tm);
  strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &tm);
  const int n = snprintf(out, sizeof out, "{\"ts\":\"%s.%03ldZ\"", day, now.tv_nsec / 1000000);
  put(l, out, (size_t)n, sizeof l->data);
}

static void put_words(line *l, const char *words, bool json) {
  const size_t limit = l->len + MAX_WORDS;
  put_escaped(l, words, json, json, limit);
  if (!l->full) return;
  l->full = false;
  put(l, "...", 3, limit + 3);
}

static void begin_json(line *l, weir_log_level level, const char *words) {
  const char *part = atomic_load(&component);
  const size_t most = sizeof l->data;
  put_time(l);
  put(l, ",\"level\":\"", 10, most);
  put(l, level_name[level], strlen(level_name[level]), most);
  if (part) {
    put(l, "\",\"component\":\"", 15, most);
    put_escaped(l, part, true, true, l->len + 64);
    l->full = false;
  }
  put(l, "\",\"msg\":\"", 9, most);
  put_words(l, words, true);
  put(l, "\"", 1, most);
}

static void begin_text(line *l, weir_log_level level, const char *words) {
  static const char *const kind[] = {": error: ", ": warning: ", ": ", ": debug: "};
  const char *part = atomic_load(&component);
  put(l, "weir", 4, sizeof l->data);
  if (part) {
    put(l, " ", 1, sizeof l->data);
    put_escaped(l, part, false, false, l->len + 64);
    l->full = false;
  }
  put(l, kind[level], strlen(kind[level]), sizeof l->data);
  put_words(l, words, false);
}

static void write_line(const line *l) {
  for (size_t at = 0; at < l->len;) {
    const ssize_t n = write(STDERR_FILENO, l->data + at, l->len - at);
    if (n > 0)
      at += (size_t)n;
    else if (n == 0 || errno != EINTR)
      return; /* nobody could be told */
  }
}

/* Words that were longer: the last whole characters make room for three points. */
static void cut(char *words, size_t bytes) {
  size_t at = bytes - 4;
  while (at > 0 && ((unsigned char)words[at] & 0xc0) == 0x80) at--;
  strcpy(words + at, "...");
}

static void log_line(weir_log_level level, const weir_log_field *field, int32_t n, bool also, const char *fmt,
                     va_list ap) {
  if ((int)level > atomic_load(&current)) return;
  const bool json = atomic_load(&shape) == WEIR_LOG_JSON;
  char words[MAX_WORDS];
  line l;
  l.len = 0;
  l.full = false;
  if (vsnprintf(words, sizeof words, fmt, ap) >= (int)sizeof words) cut(words, sizeof words);
  if (json)
    begin_json(&l, level, words);
  else
    begin_text(&l, level, words);
  for (int32_t i = 0; i < n && (json || !also); i++) put_field(&l, &field[i], json);
  l.full = false;
  put(&l, json ? "}\n" : "\n", json ? 2 : 1, sizeof l.data);
  const int saved = errno; /* a line of a log changes nothing for who writes it */
  write_line(&l);
  errno = saved;
}

void weir_log(weir_log_level level, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  log_line(level, NULL, 0, false, fmt, ap);
  va_end(ap);
}

void weir_log_with(weir_log_level level, const weir_log_field *field, int32_t n, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  log_line(level, field, n, false, fmt, ap);
  va_end(ap);
}

void weir_log_also(weir_log_level level, const weir_log_field *field, int32_t n, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  log_line(level, field, n, true, fmt, ap);
  va_end(ap);
}
