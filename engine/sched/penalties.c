/* SPDX-License-Identifier: Apache-2.0 */
/* Edits of logits from the tokens so far. Owns the counts of a request and the memory of a step's edits;
 * calls nothing; loop thread only. */
#include "sched/penalties.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { BLOCK_EDITS = 4096 };

struct weir_edit_block {
  weir_edit_block *next;
  size_t used, cap;
  weir_logit_edit edit[];
};

/* ---- checks ---- */

static int by_id(const void *a, const void *b) {
  const int32_t x = ((const weir_bias *)a)->id, y = ((const weir_bias *)b)->id;
  return (x > y) - (x < y);
}

static weir_status copy_bias(const weir_penalties *p, weir_bias **out, weir_err *e) {
  const weir_status st = WEIR_NEW((size_t)p->n_bias, out, e);
  if (st != WEIR_OK || p->n_bias == 0) return st;
  memcpy(*out, p->bias, (size_t)p->n_bias * sizeof **out);
  qsort(*out, (size_t)p->n_bias, sizeof **out, by_id);
  return WEIR_OK;
}

weir_status weir_penalties_check(const weir_penalties *p, int32_t n_vocab, weir_err *e) {
  weir_bias *bias;
  if (!(p->presence >= -2 && p->presence <= 2))
    return weir_fail(e, WEIR_EINVAL, "presence_penalty is %g, want -2 to 2", (double)p->presence);
  if (!(p->frequency >= -2 && p->frequency <= 2))
    return weir_fail(e, WEIR_EINVAL, "frequency_penalty is %g, want -2 to 2", (double)p->frequency);
  if (!(p->repetition >= 0 && p->repetition <= 100) || (p->repetition > 0 && p->repetition < 1e-3f))
    return weir_fail(e, WEIR_EINVAL, "repetition_penalty is %g, want 0.001 to 100", (double)p->repetition);
  if (p->n_bias < 0 || p->n_bias > WEIR_MAX_BIAS)
    return weir_fail(e, WEIR_EINVAL, "logit_bias has %d entries, want at most %d", p->n_bias, WEIR_MAX_BIAS);
  for (int32_t i = 0; i < p->n_bias; i++) {
    if (p->bias[i].id < 0 || p->bias[i].id >= n_vocab)
      return weir_fail(e, WEIR_EINVAL, "logit_bias names token %d, outside the vocabulary of %d",
                       p->bias[i].id, n_vocab);
    if (!(p->bias[i].add >= -100 && p->bias[i].add <= 100))
      return weir_fail(e, WEIR_EINVAL, "logit_bias of token %d is %g, want -100 to 100", p->bias[i].id,
                       (double)p->bias[i].add);
  }
  weir_status st = copy_bias(p, &bias, e);
  if (st != WEIR_OK) return st;
  for (int32_t i = 1; i < p->n_bias && st == WEIR_OK; i++)
    if (bias[i].id == bias[i - 1].id)
      st = weir_fail(e, WEIR_EINVAL, "logit_bias names token %d twice", bias[i].id);
  free(bias);
  return st;
}

/* ---- the arena ---- */

weir_logit_edit *weir_edit_arena_take(weir_edit_arena *a, size_t n, weir_err *e) {
  weir_edit_block *b = a->last;
  while (b && b->cap - b->used < n && b->next) b = b->next;
  if (!b || b->cap - b->used < n) {
    size_t bytes;
    const size_t cap = n > BLOCK_EDITS ? n : BLOCK_EDITS;
    weir_edit_block *more = NULL;
    if (weir_mul_size(cap, sizeof *b->edit, &bytes) && weir_add_size(bytes, sizeof *b, &bytes))
      more = malloc(bytes);
    if (!more) {
      weir_fail(e, WEIR_ENOMEM, "no memory for %zu edits of logits", cap);
      return NULL;
    }
    *more = (weir_edit_block){.cap = cap};
    if (b)
      b->next = more;
    else
      a->first = more;
    b = more;
  }
  a->last = b;
  return b->edit + b->used;
}

void weir_edit_arena_commit(weir_edit_arena *a, size_t n) {
  a->last->used += n;
  a->n_taken += n;
}

void weir_edit_arena_reset(weir_edit_arena *a) {
  for (weir_edit_block *b = a->first; b; b = b->next) b->used = 0;
  a->last = a->first;
  a->n_taken = 0;
}

void weir_edit_arena_fini(weir_edit_arena *a) {
  for (weir_edit_block *b = a->first, *next; b; b = next) {
    next = b->next;
    free(b);
  }
  *a = (weir_edit_arena){0};
}

/* ---- counts ---- */

bool weir_shaper_wanted(const weir_penalties *p, int32_t min_new) {
  return p->presence != 0 || p->frequency != 0 || (p->repetition != 0 && p->repetition != 1) ||
         p->n_bias > 0 || min_new > 0;
}

static int by_value(const void *a, const void *b) {
  const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
  return (x > y) - (x < y);
}

weir_status weir_shaper_init(weir_shaper *s, const weir_penalties *p, int32_t min_new, const int32_t *end,
                             int32_t n_end, const int32_t *prompt, int32_t n_prompt, weir_err *e) {
  weir_status st = WEIR_OK;
  *s = (weir_shaper){.presence = p->presence,
                     .frequency = p->frequency,
                     .repetition = p->repetition == 0 ? 1 : p->repetition,
                     .n_bias = p->n_bias,
                     .end = end,
                     .n_end = n_end,
                     .min_new = min_new,
                     .n_prompt = n_prompt,
                     .upto = n_prompt};
  WEIR_TRY(copy_bias(p, &s->bias, e));
  if (s->repetition != 1) {
    WEIR_TRY(WEIR_NEW((size_t)n_prompt, &s->prompt, e));
    memcpy(s->prompt, prompt, (size_t)n_prompt * sizeof *prompt);
    qsort(s->prompt, (size_t)n_prompt, sizeof *prompt, by_value);
    for (int32_t i = 0; i < n_prompt; i++)
      if (i == 0 || s->prompt[i] != s->prompt[i - 1]) s->prompt[s->n_distinct++] = s->prompt[i];
  }
out:
  if (st != WEIR_OK) weir_shaper_fini(s);
  return st;
}

void weir_shaper_fini(weir_shaper *s) {
  free(s->bias);
  free(s->prompt);
  free(s->seen);
  *s = (weir_shaper){0};
}

/* Place of the first entry with an id not below `id`. */
static int32_t place_of(const weir_shaper *s, int32_t id) {
  int32_t lo = 0, hi = s->n_seen;
  while (lo < hi) {
    const int32_t mid = lo + (hi - lo) / 2;
    if (s->seen[mid].id < id)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo;
}

static weir_status count_up(weir_shaper *s, int32_t id, weir_err *e) {
  const int32_t at = place_of(s, id);
  if (at < s->n_seen && s->seen[at].id == id) {
    s->seen[at].times++;
    return WEIR_OK;
  }
  if (s->n_seen == s->cap) {
    const int32_t cap = s->cap ? 2 * s->cap : 64; /* never beyond twice the text */
    weir_seen *more = realloc(s->seen, (size_t)cap * sizeof *more);
    if (!more) return weir_fail(e, WEIR_ENOMEM, "no memory for the counts of %d tokens", cap);
    s->seen = more;
    s->cap = cap;
  }
  memmove(s->seen + at + 1, s->seen + at, (size_t)(s->n_seen - at) * sizeof *s->seen);
  s->seen[at] = (weir_seen){id, 1};
  s->n_seen++;
  return WEIR_OK;
}

static void count_down(weir_shaper *s, int32_t id) {
  const int32_t at = place_of(s, id);
  if (at == s->n_seen || s->seen[at].id != id) return;
  if (--s->seen[at].times > 0) return;
  s->n_seen--;
  memmove(s->seen + at, s->seen + at + 1, (size_t)(s->n_seen - at) * sizeof *s->seen);
}

void weir_shaper_truncate(weir_shaper *s, const int32_t *tok, int32_t n) {
  while (s->upto > n && s->upto > s->n_prompt) count_down(s, tok[--s->upto]);
}

static bool counts_text(const weir_shaper *s) {
  return s->presence != 0 || s->frequency != 0 || s->repetition != 1;
}

/* Makes the counts those of tok[n_prompt, n): rows of a judge lie before what the writer has seen. */
static weir_status count_upto(weir_shaper *s, const int32_t *tok, int32_t n, weir_err *e) {
  if (!counts_text(s)) return WEIR_OK;
  weir_shaper_truncate(s, tok, n);
  while (s->upto < n) {
    const weir_status st = count_up(s, tok[s->upto], e);
    if (st != WEIR_OK) return st;
    s->upto++;
  }
  return WEIR_OK;
}

/* ---- edits ---- */

int64_t weir_shaper_most(const weir_shaper *s, int32_t p) {
  const int64_t written = counts_text(s) ? (int64_t)p + 1 - s->n_prompt : 0;
  return (written > 0 ? written : 0) + s->n_distinct + s->n_bias + s->n_end;
}

weir_status weir_shaper_edits(weir_shaper *s, const int32_t *tok, int32_t p, weir_edit_arena *a,
                              const weir_logit_edit **out, int32_t *n, weir_err *e) {
  const weir_status st = count_upto(s, tok, p + 1, e);
  if (st != WEIR_OK) return st;
  const int32_t n_end = p + 1 - s->n_prompt < s->min_new ? s->n_end : 0;
  const int32_t most = s->n_seen + s->n_distinct + s->n_bias + n_end;
  weir_logit_edit *to = weir_edit_arena_take(a, (size_t)most, e);
  if (!to) return WEIR_ENOMEM;
  /* Four ascending lists into one. */
  int32_t seen = 0, prompt = 0, bias = 0, end = 0, k = 0;
  for (;;) {
    int32_t id = INT32_MAX;
    if (seen < s->n_seen) id = s->seen[seen].id;
    if (prompt < s->n_distinct && s->prompt[prompt] < id) id = s->prompt[prompt];
    if (bias < s->n_bias && s->bias[bias].id < id) id = s->bias[bias].id;
    if (end < n_end && s->end[end] < id) id = s->end[end];
    if (id == INT32_MAX) break;
    weir_logit_edit x = {.id = id, .scale = 1};
    if (seen < s->n_seen && s->seen[seen].id == id) {
      x.scale = s->repetition;
      x.add = -s->presence - s->frequency * (float)s->seen[seen++].times;
    }
    if (prompt < s->n_distinct && s->prompt[prompt] == id) {
      x.scale = s->repetition;
      prompt++;
    }
    if (bias < s->n_bias && s->bias[bias].id == id) x.add += s->bias[bias++].add;
    if (end < n_end && s->end[end] == id) {
      x.add = WEIR_LOGIT_BAN;
      end++;
    }
    if (x.scale != 1 || x.add != 0) to[k++] = x;
  }
  weir_edit_arena_commit(a, (size_t)k);
  *out = to;
  *n = k;
  return WEIR_OK;
}
