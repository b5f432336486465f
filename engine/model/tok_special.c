/* SPDX-License-Identifier: Apache-2.0 */
/* Longest match of added tokens. Owns a sorted list of them; read-only after init.
 *
 * A sorted list narrowed byte by byte is a trie without nodes: memory is one item per token whatever a file
 * claims, and a position costs at most (longest text) x log(tokens). */
#include "model/tok_special.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/mem.h"
#include "model/tok_unicode.h"
#include "model/utf8.h"

typedef struct sort_item {
  weir_special is;
  int32_t place;
} sort_item;

static int by_text(const void *a, const void *b) {
  const sort_item *x = a, *y = b;
  const size_t n = x->is.text.len < y->is.text.len ? x->is.text.len : y->is.text.len;
  const int c = n ? memcmp(x->is.text.data, y->is.text.data, n) : 0;
  if (c) return c;
  if (x->is.text.len != y->is.text.len) return x->is.text.len < y->is.text.len ? -1 : 1;
  return x->place < y->place ? -1 : x->place > y->place;
}

weir_status weir_specials_init(weir_specials *s, const weir_special *item, int32_t n, weir_err *e) {
  weir_status st = WEIR_OK;
  sort_item *sorted = NULL;
  int32_t n_sorted = 0;
  *s = (weir_specials){0};
  WEIR_TRY(WEIR_NEW((size_t)n, &sorted, e));
  WEIR_TRY(WEIR_NEW((size_t)n, &s->item, e));
  for (int32_t i = 0; i < n; i++) {
    if (item[i].text.len == 0) continue;
    if (item[i].text.len > WEIR_MAX_SPECIAL_BYTES) {
      st = weir_fail(e, WEIR_EFORMAT, "special token %" PRId32 " has %zu bytes (limit %d)", item[i].id,
                     item[i].text.len, WEIR_MAX_SPECIAL_BYTES);
      goto out;
    }
    sorted[n_sorted++] = (sort_item){item[i], i};
  }
  qsort(sorted, (size_t)n_sorted, sizeof *sorted, by_text);
  for (int32_t i = 0; i < n_sorted; i++) {
    if (i > 0 && weir_str_eq(sorted[i].is.text, sorted[i - 1].is.text)) continue;
    const unsigned char c = (unsigned char)sorted[i].is.text.data[0];
    weir_special *to = &s->item[s->n];
    *to = sorted[i].is;
    WEIR_TRY(weir_strings_keep(&s->strings, sorted[i].is.text, &to->text, e));
    if (s->first[c].hi == 0) s->first[c].lo = s->n;
    s->first[c].hi = ++s->n;
  }
out:
  free(sorted);
  if (st != WEIR_OK) weir_specials_fini(s);
  return st;
}

void weir_specials_fini(weir_specials *s) {
  free(s->item);
  weir_strings_fini(&s->strings);
  *s = (weir_specials){0};
}

/* First index of [lo, hi) whose text has at `depth` a byte >= c. All of them share their first `depth` bytes;
 * a text that ends there sorts first. */
static int32_t lower(const weir_specials *s, int32_t lo, int32_t hi, size_t depth, int c) {
  while (lo < hi) {
    const int32_t mid = lo + (hi - lo) / 2;
    const weir_str t = s->item[mid].text;
    const int at = depth < t.len ? (unsigned char)t.data[depth] : -1;
    if (at < c)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo;
}

const weir_special *weir_specials_at(const weir_specials *s, const char *p, size_t n, size_t n_special) {
  if (n == 0) return NULL;
  const unsigned char c0 = (unsigned char)p[0];
  int32_t lo = s->first[c0].lo, hi = s->first[c0].hi;
  const weir_special *best = NULL;
  for (size_t depth = 1; lo < hi; depth++) {
    /* Here [lo, hi) are the texts that begin with p[0..depth); the one that ends here, if any, comes first.
     */
    const weir_special *one = &s->item[lo];
    if (one->text.len == depth && (!one->special || depth <= n_special)) best = one;
    if (depth >= n) break;
    const int c = (unsigned char)p[depth];
    lo = lower(s, lo, hi, depth, c);
    hi = lower(s, lo, hi, depth, c + 1);
  }
  return best;
}

/* ---- cutting ---- */

void weir_sections_fini(weir_sections *s) {
  free(s->at);
  *s = (weir_sections){0};
}

static weir_status push(weir_sections *s, size_t begin, size_t end, int32_t id, weir_err *e) {
  if (s->n == s->cap) {
    size_t cap = s->cap ? s->cap * 2 : 64, bytes;
    weir_section *grown = weir_mul_size(cap, sizeof *grown, &bytes) ? realloc(s->at, bytes) : NULL;
    if (!grown) return weir_fail(e, WEIR_ENOMEM, "cannot hold %zu sections of a text", cap);
    s->at = grown;
    s->cap = cap;
  }
  s->at[s->n++] = (weir_section){begin, end, id};
  return WEIR_OK;
}

/* The character that ends at p[at], at > 0; false when the bytes there are none. */
static bool char_before(const char *p, size_t at, uint32_t *code, size_t *len) {
  for (size_t n = 1; n <= 4 && n <= at; n++) {
    int32_t got;
    if (((unsigned char)p[at - n] & 0xc0) == 0x80) continue;
    if (weir_utf8_next(p + at - n, n, &got) != WEIR_UTF8_CHAR || (size_t)got != n) return false;
    *code = weir_utf8_code(p + at - n, got);
    *len = n;
    return true;
  }
  return false;
}

static bool char_at(const char *p, size_t n, uint32_t *code, size_t *len) {
  int32_t got;
  if (n == 0 || weir_utf8_next(p, n, &got) != WEIR_UTF8_CHAR) return false;
  *code = weir_utf8_code(p, got);
  *len = (size_t)got;
  return true;
}

static bool stands_alone(const char *text, size_t len, size_t begin, size_t end) {
  uint32_t code;
  size_t n;
  if (begin > 0 && char_before(text, begin, &code, &n) && weir_is_word(code)) return false;
  return !(char_at(text + end, len - end, &code, &n) && weir_is_word(code));
}

typedef struct cutter {
  const char *text;
  size_t len;
  size_t from;               /* what is before is cut */
  size_t run_begin, run_end; /* white space that was walked over: a run is walked once */
} cutter;

static size_t space_end(cutter *c, size_t at) {
  if (at >= c->run_begin && at < c->run_end) return c->run_end;
  uint32_t code;
  size_t n;
  c->run_begin = at;
  while (char_at(c->text + at, c->len - at, &code, &n) && weir_is_space(code)) at += n;
  c->run_end = at;
  return at;
}

static size_t space_begin(const cutter *c, size_t at) {
  uint32_t code;
  size_t n;
  while (at > c->from && char_before(c->text, at, &code, &n) && weir_is_space(code)) at -= n;
  return at > c->from ? at : c->from;
}

static weir_status found(cutter *c, const weir_special *t, size_t at, weir_sections *out, weir_err *e) {
  size_t begin = at, end = at + t->text.len;
  if (t->single_word && !stands_alone(c->text, c->len, begin, end)) return WEIR_OK;
  if (t->lstrip) begin = space_begin(c, begin);
  if (t->rstrip) end = space_end(c, end);
  if (c->from < begin) {
    const weir_status st = push(out, c->from, begin, -1, e);
    if (st != WEIR_OK) return st;
  }
  c->from = end;
  return push(out, begin, end, t->id, e);
}

weir_status weir_specials_cut(const weir_specials *s, const char *text, size_t len, weir_marks marks,
                              weir_sections *out, weir_err *e) {
  weir_status st = WEIR_OK;
  cutter c = {.text = text, .len = len};
  int32_t m = 0;
  for (size_t at = 0; at < len && s->n > 0;) {
    const unsigned char b = (unsigned char)text[at];
    if (s->first[b].lo == s->first[b].hi) {
      at++;
      continue;
    }
    while (m < marks.n && marks.span[m].end <= at) m++;
    const bool inside = m < marks.n && at >= marks.span[m].begin;
    const size_t edge = m == marks.n ? len : inside ? marks.span[m].end : marks.span[m].begin;
    const weir_special *t = weir_specials_at(s, text + at, len - at, edge - at);
    if (!t) {
      at++;
      continue;
    }
    if (!t->special || inside) WEIR_TRY(found(&c, t, at, out, e));
    at += t->text.len;
  }
  if (c.from < len) WEIR_TRY(push(out, c.from, len, -1, e));
out:
  return st;
}
