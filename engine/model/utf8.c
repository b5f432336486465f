/* SPDX-License-Identifier: Apache-2.0 */
/* UTF-8 as the Unicode standard's table 3-7 has it: no surrogates, nothing above U+10FFFF, no overlong forms.
 * Owns nothing; any thread. */
#include "model/utf8.h"

weir_utf8_kind weir_utf8_next(const char *text, size_t n, int32_t *len) {
  const unsigned char *p = (const unsigned char *)text;
  const unsigned char c = p[0];
  *len = 1;
  if (c < 0x80) return WEIR_UTF8_CHAR;
  if (c < 0xc2 || c > 0xf4) return WEIR_UTF8_BROKEN;
  const int32_t want = c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
  /* Only the second byte's range depends on the first. */
  unsigned char lo = 0x80, hi = 0xbf;
  if (c == 0xe0) lo = 0xa0;
  if (c == 0xed) hi = 0x9f;
  if (c == 0xf0) lo = 0x90;
  if (c == 0xf4) hi = 0x8f;
  for (int32_t i = 1; i < want; i++) {
    if ((size_t)i >= n) {
      *len = i;
      return WEIR_UTF8_INCOMPLETE;
    }
    if (p[i] < lo || p[i] > hi) {
      *len = i;
      return WEIR_UTF8_BROKEN;
    }
    lo = 0x80, hi = 0xbf;
  }
  *len = want;
  return WEIR_UTF8_CHAR;
}

bool weir_utf8_valid(const char *p, size_t n) {
  int32_t len;
  for (size_t at = 0; at < n; at += (size_t)len)
    if (weir_utf8_next(p + at, n - at, &len) != WEIR_UTF8_CHAR) return false;
  return true;
}

uint32_t weir_utf8_code(const char *text, int32_t len) {
  const unsigned char *p = (const unsigned char *)text;
  switch (len) {
    case 1: return p[0];
    case 2: return (uint32_t)(p[0] & 0x1f) << 6 | (p[1] & 0x3f);
    case 3: return (uint32_t)(p[0] & 0x0f) << 12 | (uint32_t)(p[1] & 0x3f) << 6 | (p[2] & 0x3f);
    default:
      return (uint32_t)(p[0] & 0x07) << 18 | (uint32_t)(p[1] & 0x3f) << 12 | (uint32_t)(p[2] & 0x3f) << 6 |
             (p[3] & 0x3f);
  }
}
