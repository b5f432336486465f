/* SPDX-License-Identifier: Apache-2.0 */
/* Compiled character maps. Owns a copy of the blob and a pattern with its scratch; may call base, utf8 and
 * PCRE2; one thread at a time per map.
 *
 * A blob is the size of a double array in bytes, the array, and NUL-terminated texts (sentencepiece,
 * normalizer.cc, EncodePrecompiledCharsMap). A unit of the array (darts-clone's) is 32 bits: its label in
 * bits 0 to 7 and 31, "has a leaf" in bit 8, and the distance to its children, xor-ed to its own index, in
 * bits 10 to 30, times 256 if bit 9 is set. The child by byte c stands at that place ^ c, the leaf at ^ 0; a
 * leaf has bit 31 and its value, an offset into the texts, below it. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "model/charsmap.h"

#include <pcre2.h>
#include <stdlib.h>

#include "base/mem.h"
#include "model/utf8.h"

enum { HEADER_BYTES = 4, UNIT_BYTES = 4, JSON_GRAPHEME_BYTES = 6 };
static const uint32_t leaf_bit = 0x80000000u;

struct weir_charsmap {
  unsigned char *blob;       /* owned */
  const unsigned char *unit; /* [n_units * 4] in the blob; none: no rules */
  size_t n_units;
  weir_str text;    /* in the blob: what the rules put, each up to a NUL */
  pcre2_code *code; /* owned: \X, a grapheme cluster */
  pcre2_match_data *match;
};

static uint32_t load_u32(const unsigned char *p) {
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static uint32_t unit_at(const weir_charsmap *m, size_t i) { return load_u32(m->unit + i * UNIT_BYTES); }
static uint32_t label(uint32_t unit) { return unit & (leaf_bit | 0xff); }
static bool has_leaf(uint32_t unit) { return unit >> 8 & 1; }
static size_t distance(uint32_t unit) { return (size_t)(unit >> 10) << ((unit & 0x200) >> 6); }

/* ---- checks ---- */

static weir_status fail_map(weir_err *e, const char *what) {
  return weir_fail(e, WEIR_EFORMAT, "precompiled character map: %s", what);
}

/* Every step that any text can cause stays inside. The array comes in blocks of 256 units, and children lie
 * in one block, so a place is inside with all its 256 neighbours or not at all. */
static weir_status check_units(const weir_charsmap *m, weir_err *e) {
  if (m->n_units == 0 || m->n_units % 256 != 0)
    return weir_fail(e, WEIR_EFORMAT, "precompiled character map: an array of %zu units (want blocks of 256)",
                     m->n_units);
  for (size_t i = 0; i < m->n_units; i++) {
    const uint32_t u = unit_at(m, i);
    if (i == 0 && label(u) & leaf_bit) return fail_map(e, "the root is a leaf");
    if (label(u) & leaf_bit) continue; /* looked at where a node names it */
    const size_t children = i ^ distance(u);
    if (children >= m->n_units) return fail_map(e, "a node's children lie outside of it");
    if (!has_leaf(u)) continue;
    const uint32_t leaf = unit_at(m, children);
    if (!(leaf & leaf_bit)) return fail_map(e, "a node's leaf is none");
    const size_t value = leaf & ~leaf_bit;
    if (value >= m->text.len) return fail_map(e, "a rule's text lies outside of it");
    if (((unsigned char)m->text.data[value] & 0xc0) == 0x80)
      return fail_map(e, "a rule's text begins inside a character");
  }
  return WEIR_OK;
}

static weir_status check_text(const weir_charsmap *m, weir_err *e) {
  int32_t n;
  if (m->text.len == 0 || m->text.data[m->text.len - 1] != 0) return fail_map(e, "its texts do not end");
  size_t begin = 0;
  for (size_t at = 0; at < m->text.len; at += (size_t)n) {
    if (weir_utf8_next(m->text.data + at, m->text.len - at, &n) != WEIR_UTF8_CHAR)
      return fail_map(e, "its texts are no UTF-8");
    if (m->text.data[at] == 0) begin = at + 1;
    if (at >= begin + WEIR_CHARSMAP_MAX_TEXT_BYTES)
      return weir_fail(e, WEIR_EUNSUP, "precompiled character map: a rule puts more than %d bytes",
                       WEIR_CHARSMAP_MAX_TEXT_BYTES);
  }
  return WEIR_OK;
}

/* One node on the path from the root. */
typedef struct path_step {
  uint32_t node, next_byte;
} path_step;

/* Walks all keys, depth first and each node once. Paths may join, since the builder shares what ends alike;
 * one that goes round is refused. */
static weir_status check_depth(const weir_charsmap *m, weir_err *e) {
  enum { OPEN = 0x8000 }; /* on the path that is being walked */
  weir_status st = WEIR_OK;
  path_step path[WEIR_CHARSMAP_MAX_KEY_BYTES + 1];
  uint16_t *way = NULL; /* 1 + bytes of the longest way on from a node; 0: not seen */
  WEIR_TRY(WEIR_NEW(m->n_units, &way, e));
  size_t depth = 0;
  path[0] = (path_step){0, 1};
  way[0] = 1 | OPEN;
  for (;;) {
    path_step *const at = &path[depth];
    const size_t children = at->node ^ distance(unit_at(m, at->node));
    while (at->next_byte < 256 && label(unit_at(m, children ^ at->next_byte)) != at->next_byte)
      at->next_byte++;
    size_t child;
    if (at->next_byte < 256) {
      child = children ^ at->next_byte++;
      if (way[child] & OPEN) {
        st = fail_map(e, "a rule's key has no end");
        goto out;
      }
      if (depth + (way[child] ? way[child] : 1) > WEIR_CHARSMAP_MAX_KEY_BYTES) {
        st = weir_fail(e, WEIR_EUNSUP, "precompiled character map: a rule for more than %d bytes",
                       WEIR_CHARSMAP_MAX_KEY_BYTES);
        goto out;
      }
      if (!way[child]) {
        way[child] = 1 | OPEN;
        path[++depth] = (path_step){(uint32_t)child, 1};
        continue;
      }
    } else {
      child = at->node;
      way[child] &= (uint16_t)~OPEN;
      if (depth-- == 0) break;
    }
    uint16_t *const above = &way[path[depth].node];
    if ((*above & ~OPEN) < way[child] + 1) *above = (uint16_t)((way[child] + 1) | OPEN);
  }
out:
  free(way);
  return st;
}

static weir_status make_pattern(weir_charsmap *m, weir_err *e) {
  int error;
  PCRE2_SIZE at;
  m->code = pcre2_compile((PCRE2_SPTR) "\\X", 2, PCRE2_UTF | PCRE2_ANCHORED, &error, &at, NULL);
  m->match = m->code ? pcre2_match_data_create(1, NULL) : NULL;
  return m->match ? WEIR_OK : weir_fail(e, WEIR_ENOMEM, "no pattern for grapheme clusters");
}

static weir_status open_blob(weir_charsmap *m, weir_str blob, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(WEIR_NEW(blob.len, &m->blob, e));
  memcpy(m->blob, blob.data, blob.len);
  if (blob.len < HEADER_BYTES || load_u32(m->blob) > blob.len - HEADER_BYTES)
    return fail_map(e, "the array does not end");
  const size_t bytes = load_u32(m->blob);
  if (bytes % UNIT_BYTES != 0) return fail_map(e, "the array ends inside a unit");
  m->unit = m->blob + HEADER_BYTES;
  m->n_units = bytes / UNIT_BYTES;
  m->text = (weir_str){(const char *)m->unit + bytes, blob.len - HEADER_BYTES - bytes};
  WEIR_TRY(check_text(m, e));
  WEIR_TRY(check_units(m, e));
  WEIR_TRY(check_depth(m, e));
  WEIR_TRY(make_pattern(m, e));
out:
  return st;
}

weir_status weir_charsmap_create(weir_str blob, weir_charsmap **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_charsmap *m = NULL;
  *out = NULL;
  WEIR_TRY(WEIR_NEW(1, &m, e));
  if (blob.len) WEIR_TRY(open_blob(m, blob, e));
  *out = m;
  m = NULL;
out:
  weir_charsmap_destroy(m);
  return st;
}

void weir_charsmap_destroy(weir_charsmap *m) {
  if (!m) return;
  pcre2_match_data_free(m->match);
  pcre2_code_free(m->code);
  free(m->blob);
  free(m);
}

/* ---- looking up ---- */

/* A rule whose key text[0..len) begins with: the longest, or the shortest. Its text is *out, its key's length
 * is returned; 0 when there is none. */
static size_t find_rule(const weir_charsmap *m, const char *text, size_t len, bool shortest, weir_str *out) {
  size_t found = 0;
  size_t at = distance(unit_at(m, 0));
  for (size_t i = 0; i < len; i++) {
    const unsigned char c = (unsigned char)text[i];
    at ^= c;
    const uint32_t u = c ? unit_at(m, at) : leaf_bit; /* no key holds a NUL: its place is the leaf's */
    if (label(u) != c) break;
    at ^= distance(u);
    if (!has_leaf(u)) continue;
    const char *to = m->text.data + (unit_at(m, at) & ~leaf_bit);
    *out = (weir_str){to, strlen(to)};
    found = i + 1;
    if (shortest) break;
  }
  return found;
}

/* Where the result goes, and what it may be long. */
typedef struct sink {
  weir_buf *out;
  size_t most;
} sink;

/* Looks before it puts: one character may become WEIR_CHARSMAP_MAX_TEXT_BYTES. */
static weir_status put(const sink *to, const char *text, size_t len, weir_err *e) {
  if (to->out->len > to->most || len > to->most - to->out->len)
    return weir_fail(e, WEIR_EINVAL, "the normalised text is too long (limit %zu bytes)", to->most);
  return weir_buf_put(to->out, text, len, e);
}

static weir_status run_spm(const weir_charsmap *m, const char *text, size_t len, const sink *out,
                           weir_err *e) {
  weir_status st = WEIR_OK;
  size_t kept = 0; /* text[kept..at) is copied as it is */
  for (size_t at = 0; at < len;) {
    weir_str to;
    size_t n = find_rule(m, text + at, len - at, false, &to);
    if (n == 0) {
      int32_t unit;
      weir_utf8_next(text + at, len - at, &unit);
      at += (size_t)unit;
      continue;
    }
    WEIR_TRY(put(out, text + kept, at - kept, e));
    WEIR_TRY(put(out, to.data, to.len, e));
    at += n;
    kept = at;
  }
  WEIR_TRY(put(out, text + kept, len - kept, e));
out:
  return st;
}

/* ---- by grapheme clusters ---- */

/* Bytes of the cluster that well-formed text[0..len) begins with. The text given to PCRE2 begins here too:
 * for flags it would otherwise count back over all of them each time. */
static weir_status cluster_bytes(const weir_charsmap *m, const char *text, size_t len, size_t *n,
                                 weir_err *e) {
  const unsigned char *p = (const unsigned char *)text;
  *n = 1;
  if (p[0] < 0x80 && (len == 1 || (p[1] < 0x80 && !(p[0] == '\r' && p[1] == '\n')))) return WEIR_OK;
  const int rc = pcre2_match(m->code, p, len, 0, PCRE2_NO_UTF_CHECK, m->match, NULL);
  if (rc < 1) return weir_fail(e, WEIR_ENOMEM, "grapheme clusters: PCRE2 error %d", rc);
  *n = (size_t)pcre2_get_ovector_pointer(m->match)[1];
  return WEIR_OK;
}

/* One cluster, or one character of it. False: no rule. */
static bool put_rule(const weir_charsmap *m, const char *text, size_t len, const sink *out, weir_status *st,
                     weir_err *e) {
  weir_str to;
  if (find_rule(m, text, len, true, &to) == 0) return false;
  *st = put(out, to.data, to.len, e);
  return true;
}

static weir_status put_cluster(const weir_charsmap *m, const char *text, size_t len, const sink *out,
                               weir_err *e) {
  weir_status st = WEIR_OK;
  if (len < JSON_GRAPHEME_BYTES && put_rule(m, text, len, out, &st, e)) return st;
  for (size_t at = 0; at < len && st == WEIR_OK;) {
    int32_t n;
    weir_utf8_next(text + at, len - at, &n);
    if (!put_rule(m, text + at, (size_t)n, out, &st, e)) st = put(out, text + at, (size_t)n, e);
    at += (size_t)n;
  }
  return st;
}

static weir_status put_clusters(const weir_charsmap *m, const char *text, size_t len, const sink *out,
                                weir_err *e) {
  weir_status st = WEIR_OK;
  for (size_t at = 0, n; at < len; at += n) {
    WEIR_TRY(cluster_bytes(m, text + at, len - at, &n, e));
    WEIR_TRY(put_cluster(m, text + at, n, out, e));
  }
out:
  return st;
}

static weir_status run_json(const weir_charsmap *m, const char *text, size_t len, const sink *out,
                            weir_err *e) {
  weir_status st = WEIR_OK;
  size_t begin = 0; /* of a run of UTF-8 */
  for (size_t at = 0; at < len;) {
    int32_t n;
    const bool whole = weir_utf8_next(text + at, len - at, &n) == WEIR_UTF8_CHAR;
    if (!whole) {
      WEIR_TRY(put_clusters(m, text + begin, at - begin, out, e));
      WEIR_TRY(put(out, text + at, (size_t)n, e));
      begin = at + (size_t)n;
    }
    at += (size_t)n;
  }
  WEIR_TRY(put_clusters(m, text + begin, len - begin, out, e));
out:
  return st;
}

weir_status weir_charsmap_run(weir_charsmap *m, const char *text, size_t len, bool spm, size_t most,
                              weir_buf *out, weir_err *e) {
  const sink to = {out, most};
  if (m->n_units == 0) return put(&to, text, len, e);
  return spm ? run_spm(m, text, len, &to, e) : run_json(m, text, len, &to, e);
}

/* ---- base64 ---- */

static int32_t base64_digit(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  return c == '+' ? 62 : c == '/' ? 63 : -1;
}

weir_status weir_base64_decode(weir_str s, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  const size_t before = out->len;
  if (s.len % 4 != 0) return weir_fail(e, WEIR_EFORMAT, "base64 of %zu characters (want groups of 4)", s.len);
  for (size_t at = 0; at < s.len; at += 4) {
    const bool last = at + 4 == s.len;
    const int pad = !last || s.data[at + 3] != '=' ? 0 : s.data[at + 2] != '=' ? 1 : 2;
    uint32_t bits = 0;
    for (int i = 0; i < 4; i++) {
      const int32_t d = i < 4 - pad ? base64_digit(s.data[at + (size_t)i]) : 0;
      if (d < 0) {
        st = weir_fail(e, WEIR_EFORMAT, "base64: character %zu is none of its digits", at + (size_t)i);
        goto out;
      }
      bits = bits << 6 | (uint32_t)d;
    }
    const unsigned char three[3] = {(unsigned char)(bits >> 16), (unsigned char)(bits >> 8),
                                    (unsigned char)bits};
    if ((pad == 1 && three[2]) || (pad == 2 && (three[1] || three[2]))) {
      st = weir_fail(e, WEIR_EFORMAT, "base64: bits behind the end");
      goto out;
    }
    WEIR_TRY(weir_buf_put(out, three, (size_t)(3 - pad), e));
  }
out:
  if (st != WEIR_OK) weir_buf_truncate(out, before);
  return st;
}
