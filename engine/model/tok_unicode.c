/* SPDX-License-Identifier: Apache-2.0 */
/* Unicode's properties and normal forms from utf8proc. Owns nothing that outlives a call; any thread.
 *
 * utf8proc would sort marks by bubbling, quadratic on a megabyte of them, so only its tables and its
 * composition, which is linear, are used. */
#include "model/tok_unicode.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/mem.h"
#include "model/tok_tables.h"
#include "model/utf8.h"

bool weir_is_space(uint32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

bool weir_is_mark(uint32_t c) {
  const utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
  if (c == 0x1cf2 || c == 0x1cf3) return true; /* letters since Unicode 12 */
  return (k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_MC || k == UTF8PROC_CATEGORY_ME) &&
         !weir_is_newer_mark(c);
}

bool weir_is_word(uint32_t c) {
  switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default: break;
  }
  /* symbols that are Alphabetic, and the joiners */
  return (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) || (c >= 0x1f150 && c <= 0x1f169) ||
         (c >= 0x1f170 && c <= 0x1f189) || c == 0x200c || c == 0x200d;
}

weir_status weir_put_utf8(uint32_t code, weir_buf *out, weir_err *e) {
  utf8proc_uint8_t p[4];
  const utf8proc_ssize_t n = utf8proc_encode_char((utf8proc_int32_t)code, p);
  return weir_buf_put(out, p, (size_t)n, e);
}

/* Of letters that came after Unicode 15, which utf8proc 2.8 does not know. */
static uint32_t newer_lower(uint32_t c) {
  static const struct {
    uint32_t upper, lower;
  } pairs[] = {{0x1c89, 0x1c8a}, {0xa7cb, 0x264},  {0xa7cc, 0xa7cd}, {0xa7ce, 0xa7cf},
               {0xa7d2, 0xa7d3}, {0xa7d4, 0xa7d5}, {0xa7da, 0xa7db}, {0xa7dc, 0x19b}};
  if (c >= 0x10d50 && c <= 0x10d65) return c + 0x20;
  if (c >= 0x16ea0 && c <= 0x16eb8) return c + 0x1b;
  for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++)
    if (c == pairs[i].upper) return pairs[i].lower;
  return (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
}

weir_status weir_put_lower(uint32_t code, weir_buf *out, weir_err *e) {
  if (code == 0x130) return weir_buf_put(out, "i\xcc\x87", 3, e); /* the only one that becomes two */
  return weir_put_utf8(newer_lower(code), out, e);
}

/* ---- normal forms ---- */

typedef struct codes {
  utf8proc_int32_t *at; /* owned */
  size_t n, cap;
} codes;

static weir_status reserve(codes *c, size_t more, weir_err *e) {
  if (c->cap - c->n >= more) return WEIR_OK;
  size_t cap, bytes;
  if (!weir_add_size(c->cap, more, &cap) || !weir_mul_size(cap, 2, &cap) ||
      !weir_mul_size(cap, sizeof *c->at, &bytes))
    return weir_fail(e, WEIR_ENOMEM, "a text is too long to be normalised");
  utf8proc_int32_t *grown = realloc(c->at, bytes);
  if (!grown) return weir_fail(e, WEIR_ENOMEM, "cannot hold %zu characters", cap);
  c->at = grown;
  c->cap = cap;
  return WEIR_OK;
}

static int class_of(utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; }

/* Stable, by combining class; all of them above 0. */
static weir_status sort_marks(utf8proc_int32_t *at, size_t n, weir_err *e) {
  enum { FEW = 16 };
  if (n <= FEW) {
    for (size_t i = 1; i < n; i++) {
      const utf8proc_int32_t c = at[i];
      size_t k = i;
      for (; k > 0 && class_of(at[k - 1]) > class_of(c); k--) at[k] = at[k - 1];
      at[k] = c;
    }
    return WEIR_OK;
  }
  size_t first[257] = {0};
  utf8proc_int32_t *sorted;
  const weir_status st = WEIR_NEW(n, &sorted, e);
  if (st != WEIR_OK) return st;
  for (size_t i = 0; i < n; i++) first[class_of(at[i]) + 1]++;
  for (int k = 0; k < 256; k++) first[k + 1] += first[k];
  for (size_t i = 0; i < n; i++) sorted[first[class_of(at[i])]++] = at[i];
  memcpy(at, sorted, n * sizeof *at);
  free(sorted);
  return WEIR_OK;
}

static weir_status order(codes *c, weir_err *e) {
  for (size_t i = 0; i < c->n;) {
    if (class_of(c->at[i]) == 0) {
      i++;
      continue;
    }
    size_t end = i + 1;
    while (end < c->n && class_of(c->at[end]) != 0) end++;
    const weir_status st = sort_marks(c->at + i, end - i, e);
    if (st != WEIR_OK) return st;
    i = end;
  }
  return WEIR_OK;
}

static weir_status too_long(size_t most, weir_err *e) {
  return weir_fail(e, WEIR_EINVAL, "the normalised text is too long (limit %zu bytes)", most);
}

static weir_status one_segment(codes *c, const char *p, size_t n, bool compat, bool compose, size_t most,
                               weir_buf *out, weir_err *e) {
  enum { LONGEST = 32 }; /* code points that one decomposes to; U+FDFA's 18 are the most */
  const utf8proc_option_t options =
      UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : (utf8proc_option_t)0);
  weir_status st = WEIR_OK;
  c->n = 0;
  for (size_t at = 0; at < n;) {
    int32_t len;
    weir_utf8_next(p + at, n - at, &len);
    WEIR_TRY(reserve(c, LONGEST, e));
    const utf8proc_ssize_t made = utf8proc_decompose_char((utf8proc_int32_t)weir_utf8_code(p + at, len),
                                                          c->at + c->n, LONGEST, options, NULL);
    if (made < 0 || made > LONGEST) return weir_fail(e, WEIR_EINVAL, "%s", utf8proc_errmsg(made));
    c->n += (size_t)made;
    if (c->n > most) return too_long(most, e);
    at += (size_t)len;
  }
  WEIR_TRY(order(c, e));
  if (compose) {
    const utf8proc_ssize_t left =
        utf8proc_normalize_utf32(c->at, (utf8proc_ssize_t)c->n, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (left < 0) return weir_fail(e, WEIR_EINVAL, "%s", utf8proc_errmsg(left));
    c->n = (size_t)left;
  }
  for (size_t i = 0; i < c->n; i++) WEIR_TRY(weir_put_utf8((uint32_t)c->at[i], out, e));
  if (out->len > most) return too_long(most, e);
out:
  return st;
}

/* A character that the library does not know: nothing joins it, nothing moves past it. */
static bool is_unknown(const char *p, size_t n, size_t *len) {
  int32_t got;
  weir_utf8_next(p, n, &got);
  *len = (size_t)got;
  const uint32_t code = weir_utf8_code(p, got);
  return weir_is_newer_mark(code) || weir_is_newer_composed(code);
}

weir_status weir_normal_form(const char *text, size_t len, bool compat, bool compose, size_t most,
                             weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  codes c = {0};
  for (size_t at = 0; at < len;) {
    /* ASCII stays, but for one that marks may follow: it goes with what is behind it. Nothing joins an ASCII
     * character to what is before it, so a segment ends there. */
    size_t ascii = at, n = 0;
    while (ascii < len && (unsigned char)text[ascii] < 0x80) ascii++;
    const size_t begin = ascii < len && ascii > at ? ascii - 1 : ascii;
    size_t end = ascii;
    bool unknown = false;
    while (end < len && (unsigned char)text[end] >= 0x80) {
      unknown = is_unknown(text + end, len - end, &n);
      if (unknown) break;
      end += n;
    }
    WEIR_TRY(weir_buf_put(out, text + at, begin - at, e));
    WEIR_TRY(one_segment(&c, text + begin, end - begin, compat, compose, most, out, e));
    at = end;
    if (!unknown) continue;
    WEIR_TRY(weir_buf_put(out, text + at, n, e));
    at += n;
  }
out:
  free(c.at);
  return st;
}
