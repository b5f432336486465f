/* SPDX-License-Identifier: Apache-2.0 */
/* Lists of answers as a trie. Owns the token sequences; pure once sealed, any thread. */
#include "sched/choices.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* ---- the list ---- */

weir_status weir_choices_add(weir_choices *c, const int32_t *tok, int32_t n, weir_err *e) {
  weir_status st = WEIR_OK;
  int32_t *copy = NULL;
  if (c->n >= WEIR_MAX_CHOICES)
    return weir_fail(e, WEIR_EINVAL, "choices: more than %d of them", WEIR_MAX_CHOICES);
  if (n < 1) return weir_fail(e, WEIR_EINVAL, "choices: number %d has no tokens", c->n + 1);
  if (!c->one) WEIR_TRY(WEIR_NEW((size_t)WEIR_MAX_CHOICES, &c->one, e));
  WEIR_TRY(WEIR_NEW((size_t)n, &copy, e));
  memcpy(copy, tok, (size_t)n * sizeof *copy);
  c->one[c->n++] = (weir_choice){copy, n};
  if (n > c->longest) c->longest = n;
out:
  return st;
}

static int by_tokens(const void *x, const void *y) {
  const weir_choice *a = x, *b = y;
  const int32_t n = a->n < b->n ? a->n : b->n;
  for (int32_t i = 0; i < n; i++)
    if (a->tok[i] != b->tok[i]) return a->tok[i] < b->tok[i] ? -1 : 1;
  return (a->n > b->n) - (a->n < b->n);
}

static bool begins(const weir_choice *a, const weir_choice *b) {
  return a->n < b->n && !memcmp(a->tok, b->tok, (size_t)a->n * sizeof *a->tok);
}

weir_status weir_choices_seal(weir_choices *c, const int32_t *end, int32_t n_end, weir_err *e) {
  int32_t n = 0;
  c->end = end;
  c->n_end = n_end < WEIR_MAX_CHOICES ? n_end : WEIR_MAX_CHOICES;
  if (c->n == 0) return WEIR_OK;
  qsort(c->one, (size_t)c->n, sizeof *c->one, by_tokens);
  for (int32_t i = 0; i < c->n; i++) {
    if (n > 0 && by_tokens(&c->one[n - 1], &c->one[i]) == 0)
      free(c->one[i].tok);
    else
      c->one[n++] = c->one[i];
  }
  c->n = n;
  for (int32_t i = 1; i < n && n_end == 0; i++) /* those it begins follow it directly */
    if (begins(&c->one[i - 1], &c->one[i]))
      return weir_fail(e, WEIR_EINVAL,
                       "choices: one begins another one, and the model has no token that ends a text");
  return WEIR_OK;
}

void weir_choices_fini(weir_choices *c) {
  for (int32_t i = 0; i < c->n; i++) free(c->one[i].tok);
  free(c->one);
  *c = (weir_choices){0};
}

/* ---- the trie ---- */

/* The first of one[lo, hi), which agree up to `depth`, whose token there is not below `id`. One that ends
 * there goes before all. */
static int32_t first_not_below(const weir_choices *c, int32_t lo, int32_t hi, int32_t depth, int64_t id) {
  while (lo < hi) {
    const int32_t mid = lo + (hi - lo) / 2;
    const weir_choice *x = &c->one[mid];
    if (x->n <= depth || x->tok[depth] < id)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo;
}

/* One of the node's texts ends at it: the first, if any. */
static bool may_end(const weir_choices *c, weir_choice_node x) {
  return x.lo < x.hi && c->one[x.lo].n == x.depth;
}

static bool is_end(const weir_choices *c, int32_t id) {
  for (int32_t i = 0; i < c->n_end; i++)
    if (c->end[i] == id) return true;
  return false;
}

weir_choice_node weir_choices_step(const weir_choices *c, weir_choice_node x, int32_t id) {
  if (x.ended) return (weir_choice_node){0}; /* nothing follows */
  const int32_t lo = first_not_below(c, x.lo, x.hi, x.depth, id);
  const int32_t hi = first_not_below(c, lo, x.hi, x.depth, (int64_t)id + 1);
  if (lo == hi && may_end(c, x) && is_end(c, id)) {
    x.ended = true;
    return x;
  }
  return (weir_choice_node){.lo = lo, .hi = hi, .depth = x.depth + 1};
}

weir_choice_node weir_choices_at(const weir_choices *c, const int32_t *tok, int32_t n) {
  weir_choice_node x = {.hi = c->n};
  for (int32_t i = 0; i < n && x.lo < x.hi; i++) x = weir_choices_step(c, x, tok[i]);
  return x;
}

bool weir_choices_complete(const weir_choices *c, weir_choice_node x) {
  return x.ended || (x.hi == x.lo + 1 && may_end(c, x));
}

int32_t weir_choices_forced(const weir_choices *c, weir_choice_node x) {
  if (x.ended || x.lo == x.hi || may_end(c, x)) return -1;
  const int32_t first = c->one[x.lo].tok[x.depth];
  return c->one[x.hi - 1].tok[x.depth] == first ? first : -1; /* they are in order */
}

int32_t weir_choices_most(const weir_choices *c) { return c->n + c->n_end; }

int32_t weir_choices_next(const weir_choices *c, weir_choice_node x, int32_t *out) {
  int32_t n = 0, end = 0;
  if (x.ended || weir_choices_complete(c, x)) return 0;
  const int32_t n_end = may_end(c, x) ? c->n_end : 0;
  for (int32_t i = x.lo + (n_end > 0); i < x.hi;) {
    const int32_t id = c->one[i].tok[x.depth];
    while (end < n_end && c->end[end] < id) out[n++] = c->end[end++];
    if (end < n_end && c->end[end] == id) end++; /* a text goes on with what ends texts elsewhere */
    out[n++] = id;
    i = first_not_below(c, i, x.hi, x.depth, (int64_t)id + 1);
  }
  while (end < n_end) out[n++] = c->end[end++];
  return n;
}
