/* SPDX-License-Identifier: Apache-2.0 */
/* Oniguruma's syntax into PCRE2's. Owns nothing; any thread.
 *
 * Both are backtracking engines that try alternatives in order, so what must agree is what single items mean.
 * Classes are written out as Oniguruma has them for UTF-8: its \s is Unicode's White_Space (PCRE2's has
 * U+180E too), its \w is letters, marks, decimal digits, connectors and what else is Alphabetic (PCRE2's is
 * narrower); ^ and $ are about lines always; script names mean the script and not its extensions. Anything
 * whose meaning is not known to be alike is refused: \h (a hex digit there, a blank here), [:alpha:],
 * {n}+ and so on. */
#include "model/tok_regex.h"
#include "model/tok_tables.h"
#include "model/utf8.h"

/* Unicode's White_Space, for the inside of a class, and what is not. */
#define WS \
  "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define NOT_WS                                                                                            \
  "\\x00-\\x08\\x0e-\\x1f\\x21-\\x84\\x86-\\x9f\\xa1-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}\\x{" \
  "202a}"                                                                                                 \
  "-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"
/* What \w has besides categories: symbols that are Alphabetic (circled and squared letters), and digits of
 * Latin-1 that Oniguruma's table for it counts (superscripts, fractions). */
static const char *const word_categories[] = {"L", "M", "Nd", "Nl", "Pc"};
#define WORD_TOO                                                                                            \
  "\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}\\xb2\\xb3\\xb9\\xbc-" \
  "\\xbe"

/* \s+$ as it stands would look for the end of a run of white space from each of its characters. From the
 * first alone it finds the same: the run at the end of the text, or the part of a run before its last
 * newline. */
static const char trailing_space[] = "\\s+$";
static const char trailing_space_once[] = "(?<![" WS "])(?:[" WS "]++\\z|[" WS "]+(?=\\n))";

enum { MAX_NESTING = 60 };

typedef struct translator {
  weir_str in;
  size_t at;
  weir_buf *out;
  int depth, i_depth; /* groups open; of the outermost (?i:, 0: none */
} translator;

static weir_status refuse(const translator *t, const char *what, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  return weir_fail(e, WEIR_EUNSUP, "pattern %s: %s at byte %zu is not supported", weir_str_show(t->in, shown),
                   what, t->at);
}

static int peek(const translator *t, size_t ahead) {
  return t->at + ahead < t->in.len ? (unsigned char)t->in.data[t->at + ahead] : -1;
}
static weir_status put(translator *t, const char *s, weir_err *e) { return weir_buf_puts(t->out, s, e); }
static bool is_digit(int c) { return c >= '0' && c <= '9'; }
static bool is_letter(int c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
static int hex_of(int c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* ---- properties ---- */

static const char *const categories[] = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N",
                                         "Nd", "Nl", "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po",
                                         "S",  "Sm", "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp", "Cc", "Cf"};
static const char *const long_names[][2] = {{"Letter", "L"},
                                            {"Uppercase_Letter", "Lu"},
                                            {"Lowercase_Letter", "Ll"},
                                            {"Titlecase_Letter", "Lt"},
                                            {"Modifier_Letter", "Lm"},
                                            {"Other_Letter", "Lo"},
                                            {"Mark", "M"},
                                            {"Nonspacing_Mark", "Mn"},
                                            {"Spacing_Mark", "Mc"},
                                            {"Enclosing_Mark", "Me"},
                                            {"Number", "N"},
                                            {"Decimal_Number", "Nd"},
                                            {"Letter_Number", "Nl"},
                                            {"Other_Number", "No"},
                                            {"Punctuation", "P"},
                                            {"Symbol", "S"},
                                            {"Separator", "Z"},
                                            {"Space_Separator", "Zs"}};
static const char *const scripts[] = {"Han",     "Hiragana",   "Katakana",  "Hangul",   "Bopomofo", "Latin",
                                      "Greek",   "Cyrillic",   "Armenian",  "Hebrew",   "Arabic",   "Thai",
                                      "Lao",     "Khmer",      "Myanmar",   "Tibetan",  "Bengali",  "Tamil",
                                      "Telugu",  "Kannada",    "Malayalam", "Gujarati", "Gurmukhi", "Oriya",
                                      "Sinhala", "Devanagari", "Georgian",  "Ethiopic", "Mongolian"};

/* The newer characters of a category (of "L": of "Lu" too) or script. */
static weir_status put_newer(translator *t, const char *name, bool script, bool *any, weir_err *e) {
  const char *entry, *items;
  *any = false;
  for (size_t i = 0; (items = weir_newer_characters(i, &entry)) != NULL; i++) {
    const bool is_category = strlen(entry) == 2;
    const bool part = !script && is_category && strlen(name) == 1 && entry[0] == name[0];
    if (!part && (is_category == script || strcmp(entry, name) != 0)) continue;
    const weir_status st = put(t, items, e);
    if (st != WEIR_OK) return st;
    *any = true;
  }
  return WEIR_OK;
}

static weir_status put_items(translator *t, const char *name, bool script, weir_err *e) {
  bool any;
  const weir_status st = weir_buf_printf(t->out, e, "\\p{%s%s}", script ? "sc:" : "", name);
  return st == WEIR_OK ? put_newer(t, name, script, &any, e) : st;
}

/* A property; inside a class a negated one has the newer characters in it. */
static weir_status put_property(translator *t, const char *name, bool script, bool negative, bool in_class,
                                weir_err *e) {
  weir_status st = WEIR_OK;
  if (in_class && negative) return weir_buf_printf(t->out, e, "\\P{%s%s}", script ? "sc:" : "", name);
  if (!in_class) WEIR_TRY(put(t, negative ? "[^" : "[", e));
  WEIR_TRY(put_items(t, name, script, e));
  if (!in_class) WEIR_TRY(put(t, "]", e));
out:
  return st;
}

static weir_status put_word_class(translator *t, const char *open, const char *close, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(put(t, open, e));
  for (size_t i = 0; i < sizeof word_categories / sizeof word_categories[0]; i++)
    WEIR_TRY(put_items(t, word_categories[i], false, e));
  WEIR_TRY(put(t, WORD_TOO, e));
  WEIR_TRY(put(t, close, e));
out:
  return st;
}

static weir_status word_boundary(translator *t, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(put_word_class(t, "(?:(?<=[", "])", e));
  WEIR_TRY(put_word_class(t, "(?![", "])", e));
  WEIR_TRY(put_word_class(t, "|(?<![", "])", e));
  WEIR_TRY(put_word_class(t, "(?=[", "]))", e));
out:
  return st;
}

/* At "p{" or "P{". */
static weir_status property(translator *t, bool in_class, weir_err *e) {
  bool negative = peek(t, 0) == 'P';
  size_t n = 0;
  if (peek(t, 1) != '{') return refuse(t, "\\p without braces", e);
  if (peek(t, 2) == '^') negative = !negative;
  const size_t begin = t->at + (peek(t, 2) == '^' ? 3 : 2);
  while (begin + n < t->in.len && t->in.data[begin + n] != '}') n++;
  if (begin + n == t->in.len) return refuse(t, "\\p{ without its end", e);
  if (t->i_depth) return refuse(t, "\\p inside (?i:)", e);
  const weir_str name = {t->in.data + begin, n};
  const char *category = NULL, *script = NULL;
  for (size_t i = 0; i < sizeof categories / sizeof categories[0]; i++)
    if (weir_str_eq(name, weir_str_of(categories[i]))) category = categories[i];
  for (size_t i = 0; i < sizeof long_names / sizeof long_names[0]; i++)
    if (weir_str_eq(name, weir_str_of(long_names[i][0]))) category = long_names[i][1];
  for (size_t i = 0; i < sizeof scripts / sizeof scripts[0]; i++)
    if (weir_str_eq(name, weir_str_of(scripts[i]))) script = scripts[i];
  if (!category && !script) return refuse(t, "this property", e);
  t->at = begin + n + 1;
  return put_property(t, script ? script : category, script != NULL, negative, in_class, e);
}

/* At "x" or "u": a code point. */
static weir_status code_point(translator *t, weir_err *e) {
  const bool braces = peek(t, 0) == 'x' && peek(t, 1) == '{';
  const size_t want = peek(t, 0) == 'u' ? 4 : 2;
  size_t n = 0;
  uint32_t c = 0;
  const size_t skip = braces ? 2 : 1;
  while (n < (braces ? 6 : want) && hex_of(peek(t, skip + n)) >= 0) {
    c = c * 16 + (uint32_t)hex_of(peek(t, skip + n));
    n++;
  }
  if (braces ? n == 0 || peek(t, skip + n) != '}' : n != want)
    return refuse(t, "this way to write a character", e);
  /* \xNN from 0x80 on is a byte there, not a character */
  if (c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff) || (!braces && want == 2 && c >= 0x80))
    return refuse(t, "this code point", e);
  if (t->i_depth && c >= 0x80) return refuse(t, "a character beyond ASCII inside (?i:)", e);
  t->at += skip + n + (braces ? 1 : 0);
  return weir_buf_printf(t->out, e, "\\x{%x}", (unsigned)c);
}

/* An item as it is; a character beyond ASCII whole. */
static weir_status literal(translator *t, bool escaped, weir_err *e) {
  int32_t len;
  const char *p = t->in.data + t->at;
  if (weir_utf8_next(p, t->in.len - t->at, &len) != WEIR_UTF8_CHAR) return refuse(t, "broken UTF-8", e);
  if (len > 1 && t->i_depth) return refuse(t, "a character beyond ASCII inside (?i:)", e);
  t->at += (size_t)len;
  if (escaped && len == 1) {
    const weir_status st = put(t, "\\", e);
    if (st != WEIR_OK) return st;
  }
  return weir_buf_put(t->out, p, (size_t)len, e);
}

/* Behind a backslash; in_class: inside [ ]. */
static weir_status escape(translator *t, bool in_class, weir_err *e) {
  const int c = peek(t, 0);
  const char *text = NULL;
  if (c < 0) return refuse(t, "a backslash at the end", e);
  if (t->i_depth && (c == 'w' || c == 'W' || c == 'b')) return refuse(t, "\\w inside (?i:)", e);
  if (c == 'd' || c == 'D') {
    t->at++;
    return put_property(t, "Nd", false, c == 'D', in_class, e);
  }
  if (c == 'w' || (c == 'W' && !in_class)) {
    t->at++;
    return put_word_class(t, in_class ? "" : c == 'w' ? "[" : "[^", in_class ? "" : "]", e);
  }
  if (c == 'b' && !in_class) {
    t->at++;
    return word_boundary(t, e);
  }
  switch (c) {
    case 'r': text = "\\r"; break;
    case 'n': text = "\\n"; break;
    case 't': text = "\\t"; break;
    case 'f': text = "\\x0c"; break;
    case 'v': text = "\\x0b"; break;
    case 'a': text = "\\x07"; break;
    case 'e': text = "\\x1b"; break;
    case 's': text = in_class ? WS : "[" WS "]"; break;
    case 'S': text = in_class ? NOT_WS : "[^" WS "]"; break;
    case 'A': text = in_class ? NULL : "\\A"; break;
    case 'z': text = in_class ? NULL : "\\z"; break;
    case 'p':
    case 'P': return property(t, in_class, e);
    case 'x':
    case 'u': return code_point(t, e);
    default: break;
  }
  if (text) {
    t->at++;
    return put(t, text, e);
  }
  if (is_letter(c) || is_digit(c)) return refuse(t, "this escape", e);
  return literal(t, true, e);
}

static weir_status class_of(translator *t, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(put(t, "[", e));
  t->at++;
  if (peek(t, 0) == '^') {
    t->at++;
    WEIR_TRY(put(t, "^", e));
  }
  int inner = 0; /* classes in this one, which are joined to it */
  if (peek(t, 0) == ']') return refuse(t, "an empty class", e);
  while (inner || peek(t, 0) != ']') {
    const int c = peek(t, 0);
    if (c < 0) return refuse(t, "a class without its end", e);
    if (c == ']') {
      inner--;
      t->at++;
      continue;
    }
    if (c == '[') {
      const int next = peek(t, 1);
      if (next == '^' || next == ':' || next == ']') return refuse(t, "such a class in a class", e);
      inner++;
      t->at++;
      continue;
    }
    if (c == '&' && peek(t, 1) == '&') return refuse(t, "an intersection of classes", e);
    if (c == '\\') {
      t->at++;
      WEIR_TRY(escape(t, true, e));
    } else {
      WEIR_TRY(literal(t, c == '^', e));
    }
  }
  t->at++;
  WEIR_TRY(put(t, "]", e));
out:
  return st;
}

static weir_status group(translator *t, weir_err *e) {
  static const char *const alike[] = {"?:", "?=", "?!", "?<=", "?<!", "?>"};
  const weir_str rest = {t->in.data + t->at + 1, t->in.len - t->at - 1};
  const char *text = NULL;
  size_t skip = 0;
  if (rest.len == 0 || rest.data[0] != '?') text = "(?:"; /* what it captures is nobody's business */
  for (size_t i = 0; i < sizeof alike / sizeof alike[0] && !text; i++) {
    skip = strlen(alike[i]);
    if (rest.len >= skip && memcmp(rest.data, alike[i], skip) == 0) {
      const weir_status st = put(t, "(", e);
      if (st != WEIR_OK) return st;
      text = alike[i];
    }
  }
  if (!text && rest.len >= 3 && memcmp(rest.data, "?i:", 3) == 0) {
    text = "(?i:";
    skip = 3;
    if (!t->i_depth) t->i_depth = t->depth + 1;
  }
  if (!text) return refuse(t, "this kind of group", e);
  if (rest.len == 0 || rest.data[0] != '?') skip = 0;
  if (++t->depth > MAX_NESTING) return refuse(t, "such deep nesting", e);
  t->at += 1 + skip;
  return put(t, text, e);
}

static weir_status interval(translator *t, weir_err *e) {
  size_t n = 1;
  bool comma = false;
  const bool number = is_digit(peek(t, 1));
  while (is_digit(peek(t, n)) || (peek(t, n) == ',' && !comma)) {
    comma = comma || peek(t, n) == ',';
    n++;
  }
  if (peek(t, n) != '}' || n == 1) { /* no interval: the character itself */
    return literal(t, true, e);
  }
  const int after = peek(t, n + 1);
  if (!number) return refuse(t, "{,n}", e);
  if (after == '+' || (after == '?' && !comma)) return refuse(t, "a sign behind {n}", e);
  const weir_status st = weir_buf_put(t->out, t->in.data + t->at, n + 1, e);
  t->at += n + 1;
  return st;
}

/* Letters that folding joins into one: the library would let "ss" match U+00DF. */
static bool folds_together(const translator *t) {
  static const char pairs[][3] = {"ss", "ff", "fi", "fl", "st"};
  for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++)
    if ((peek(t, 0) | 0x20) == pairs[i][0] && peek(t, 1) >= 0 && (peek(t, 1) | 0x20) == pairs[i][1])
      return true;
  return false;
}

static weir_status one_item(translator *t, weir_err *e) {
  weir_status st = WEIR_OK;
  switch (peek(t, 0)) {
    case '\\': t->at++; return escape(t, false, e);
    case '[': return class_of(t, e);
    case '(': return group(t, e);
    case '{': return interval(t, e);
    case ')':
      if (t->i_depth == t->depth) t->i_depth = 0;
      t->depth--;
      t->at++;
      return put(t, ")", e);
    case '}':
    case ']': return literal(t, true, e);
    default:
      if (t->i_depth && folds_together(t)) return refuse(t, "letters that fold into one inside (?i:)", e);
      WEIR_TRY(literal(t, false, e));
  }
out:
  return st;
}

weir_status weir_regex_translate(weir_str pattern, weir_buf *out, weir_err *e) {
  translator t = {.in = pattern, .out = out};
  weir_status st = WEIR_OK;
  if (weir_str_eq(pattern, weir_str_of(trailing_space))) return put(&t, trailing_space_once, e);
  while (t.at < pattern.len) {
    WEIR_TRY(one_item(&t, e));
    if (t.depth < 0) return refuse(&t, "a closing parenthesis without its opening one", e);
  }
  if (t.depth) return refuse(&t, "a group without its end", e);
out:
  return st;
}
