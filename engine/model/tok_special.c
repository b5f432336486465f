/* SPDX-License-Identifier: Apache-2.0 */
/* Longest match of special tokens. Owns a sorted list of ids; borrows the vocabulary; read-only after init.
 *
 * A sorted list narrowed byte by byte is a trie without nodes: memory is one int per token whatever a file
 * claims, and a position costs at most (longest text) x log(tokens). */
#include "model/tok_special.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/mem.h"

static bool is_matched(const weir_vocab *v, int32_t i) {
  const uint8_t t = v->type[i];
  return v->text[i].len > 0 && (t == WEIR_TOKEN_CONTROL || t == WEIR_TOKEN_UNKNOWN || t == WEIR_TOKEN_USER);
}

typedef struct sort_item {
  weir_str text;
  int32_t id;
  bool user;
} sort_item;

static int by_text(const void *a, const void *b) {
  const sort_item *x = a, *y = b;
  const size_t n = x->text.len < y->text.len ? x->text.len : y->text.len;
  const int c = memcmp(x->text.data, y->text.data, n);
  if (c) return c;
  if (x->text.len != y->text.len) return x->text.len < y->text.len ? -1 : 1;
  if (x->user != y->user) return x->user ? -1 : 1;
  return x->id < y->id ? -1 : x->id > y->id;
}

weir_status weir_specials_init(weir_specials *s, const weir_vocab *v, weir_err *e) {
  weir_status st = WEIR_OK;
  sort_item *item = NULL;
  *s = (weir_specials){.vocab = v};
  for (int32_t i = 0; i < v->n; i++) {
    if (!is_matched(v, i)) continue;
    if (v->text[i].len > WEIR_MAX_SPECIAL_BYTES)
      return weir_fail(e, WEIR_EFORMAT, "special token %" PRId32 " has %zu bytes (limit %d)", i,
                       v->text[i].len, WEIR_MAX_SPECIAL_BYTES);
    s->n++;
  }
  WEIR_TRY(WEIR_NEW((size_t)s->n, &item, e));
  WEIR_TRY(WEIR_NEW((size_t)s->n, &s->id, e));
  int32_t n = 0;
  for (int32_t i = 0; i < v->n; i++)
    if (is_matched(v, i)) item[n++] = (sort_item){v->text[i], i, v->type[i] == WEIR_TOKEN_USER};
  qsort(item, (size_t)n, sizeof *item, by_text);
  s->n = 0;
  for (int32_t i = 0; i < n; i++) {
    /* Of tokens with one text the user-defined one counts, else the lowest id. */
    if (i > 0 && weir_str_eq(item[i].text, item[i - 1].text)) continue;
    const unsigned char c = (unsigned char)item[i].text.data[0];
    if (s->first[c].hi == 0) s->first[c].lo = s->n;
    s->id[s->n++] = item[i].id;
    s->first[c].hi = s->n;
  }
out:
  free(item);
  if (st != WEIR_OK) weir_specials_fini(s);
  return st;
}

void weir_specials_fini(weir_specials *s) {
  free(s->id);
  *s = (weir_specials){0};
}

/* First index of [lo, hi) whose text has at `depth` a byte >= c. All of them share their first `depth` bytes;
 * a text that ends there sorts first. */
static int32_t lower(const weir_specials *s, int32_t lo, int32_t hi, size_t depth, int c) {
  while (lo < hi) {
    const int32_t mid = lo + (hi - lo) / 2;
    const weir_str t = s->vocab->text[s->id[mid]];
    const int at = depth < t.len ? (unsigned char)t.data[depth] : -1;
    if (at < c)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo;
}

int32_t weir_specials_at(const weir_specials *s, const char *p, size_t n, bool special) {
  if (n == 0) return -1;
  const unsigned char c0 = (unsigned char)p[0];
  int32_t lo = s->first[c0].lo, hi = s->first[c0].hi, best = -1;
  for (size_t depth = 1; lo < hi; depth++) {
    /* Here [lo, hi) are the texts that begin with p[0..depth); the one that ends here, if any, comes first.
     */
    const int32_t id = s->id[lo];
    if (s->vocab->text[id].len == depth && (special || s->vocab->type[id] == WEIR_TOKEN_USER)) best = id;
    if (depth >= n) break;
    const int c = (unsigned char)p[depth];
    lo = lower(s, lo, hi, depth, c);
    hi = lower(s, lo, hi, depth, c + 1);
  }
  return best;
}
