/* SPDX-License-Identifier: Apache-2.0 */
/* Sampling between the passes over logits: merging statistics, edits, the best ids, deciding what an ask
 * needs, searching the cut, finishing the row. Pure functions: no state, no memory, any thread.
 *
 * Top-k and top-p without a sort: histograms hold counts and integer masses, so the search walks one from the
 * top until what is wanted is reached, descends into that bin and asks for a finer one. All numbers are
 * integers: any split of the vocabulary gives the same cut. Bins of equal width in the exponent come first
 * because logits' leading bits alone would put most ids in a few bins. */
#include "kernels/sample_core.h"

#include <math.h>
#include <string.h>

weir_sample_stat weir_sample_merge(const weir_sample_stat *part, int32_t n) {
  weir_sample_stat s = part[0];
  for (int32_t i = 1; i < n; i++) weir_sample_join(&s, &part[i], weir_sample_ratio(s.max, part[i].max));
  return s;
}

weir_status weir_sample_fail(weir_sample_fault fault, weir_err *e) {
  static const char *const text[] = {"", "a logit is not a number", "a logit is infinite",
                                     "no logit is above -infinity",
                                     "what the ranks say does not fit together"};
  return fault == WEIR_SAMPLE_FINE ? WEIR_OK : weir_fail(e, WEIR_EDEVICE, "%s", text[fault]);
}
weir_status weir_sample_check(const weir_sample_stat *s, weir_err *e) {
  return weir_sample_fail(weir_sample_fault_of(s), e);
}

static weir_status check_draft(const weir_ask *ask, int32_t n_vocab, weir_err *e) {
  if (ask->n_draft < 0 || ask->n_draft > WEIR_TOP_MAX || !ask->draft)
    return weir_fail(e, WEIR_EINVAL, "draft of %d ids, want 0 to %d%s", ask->n_draft, WEIR_TOP_MAX,
                     ask->draft ? "" : ", and draft is NULL");
  bool has_probe = ask->probe < 0;
  for (int32_t i = 0; i < ask->n_draft; i++) {
    const weir_top *t = &ask->draft[i];
    bool once = true;
    for (int32_t k = 0; k < i; k++) once &= ask->draft[k].id != t->id;
    if (t->id < 0 || t->id >= n_vocab || !once)
      return weir_fail(e, WEIR_EINVAL, "draft %d is of id %d, want each once, below %d", i, t->id, n_vocab);
    if (!(t->logprob <= 1e-3f)) /* rounded, and NaN */
      return weir_fail(e, WEIR_EINVAL, "draft %d: log-probability %g", i, (double)t->logprob);
    has_probe |= t->id == ask->probe;
  }
  return has_probe ? WEIR_OK : weir_fail(e, WEIR_EINVAL, "the probe %d is not in its draft", ask->probe);
}

weir_status weir_sample_check_extras(const weir_ask *ask, int32_t n_vocab, weir_err *e) {
  if (ask->n_edits < 0) return weir_fail(e, WEIR_EINVAL, "n_edits is %d", ask->n_edits);
  if (ask->n_edits > 0 && !ask->edit)
    return weir_fail(e, WEIR_EINVAL, "%d edits, and edit is NULL", ask->n_edits);
  int32_t least = 0; /* of the next id */
  for (int32_t i = 0; i < ask->n_edits; i++) {
    const weir_logit_edit *x = &ask->edit[i];
    if (x->id < least || x->id >= n_vocab)
      return weir_fail(e, WEIR_EINVAL, "edit %d is of id %d, want ascending ids below %d", i, x->id, n_vocab);
    if (!(x->scale > 0 && isfinite(x->scale) && isfinite(x->add)))
      return weir_fail(e, WEIR_EINVAL, "edit %d: id %d: scale %g, add %g", i, x->id, (double)x->scale,
                       (double)x->add);
    least = x->id + 1;
  }
  if (ask->n_top < 0 || ask->n_top > WEIR_TOP_MAX)
    return weir_fail(e, WEIR_EINVAL, "n_top is %d, want 0 to %d", ask->n_top, WEIR_TOP_MAX);
  if (ask->only_edits && ask->n_edits == 0)
    return weir_fail(e, WEIR_EINVAL, "draws from its edits alone, and has none");
  if (ask->tell_law && (ask->top_k < 1 || ask->top_k > WEIR_TOP_MAX || ask->probe >= 0))
    return weir_fail(e, WEIR_EINVAL, "a law is told of a draw with top_k 1 to %d, got top_k %d, probe %d",
                     WEIR_TOP_MAX, ask->top_k, ask->probe);
  return ask->n_draft == 0 ? WEIR_OK : check_draft(ask, n_vocab, e);
}

void weir_sample_shape(float *out, const float *l, int32_t first, int32_t n, const weir_logit_edit *edit,
                       int32_t n_edits, bool only) {
  if (only)
    for (int32_t i = 0; i < n; i++) out[i] = l[i] > -INFINITY ? WEIR_SAMPLE_OUT : l[i];
  else
    memcpy(out, l, (size_t)n * sizeof *l);
  for (int32_t i = 0; i < n_edits; i++)
    out[edit[i].id - first] = weir_sample_edited(l[edit[i].id - first], &edit[i]);
}

void weir_sample_top_add(weir_sample_top *t, int32_t id, float logit) {
  int32_t at = t->n;
  if (!(logit > -INFINITY)) return;
  while (at > 0 && (logit > t->logit[at - 1] || (logit == t->logit[at - 1] && id < t->id[at - 1]))) at--;
  if (at == t->want) return;
  const int32_t behind = (t->n < t->want ? t->n++ : t->want - 1) - at;
  memmove(t->id + at + 1, t->id + at, (size_t)behind * sizeof *t->id);
  memmove(t->logit + at + 1, t->logit + at, (size_t)behind * sizeof *t->logit);
  t->id[at] = id;
  t->logit[at] = logit;
}

void weir_sample_top_finish(const weir_sample_top *t, const weir_sample_stat *s, weir_top *out) {
  for (int32_t i = 0; i < t->want; i++)
    out[i] = i < t->n ? (weir_top){t->id[i], (float)weir_sample_logprob(s, t->logit[i])}
                      : (weir_top){-1, -INFINITY};
}

static uint64_t sum_mass(const weir_sample_hist *h, int32_t begin) {
  uint64_t m = 0;
  for (int32_t b = begin; b < WEIR_SAMPLE_BINS; b++) m += h->mass[b];
  return m;
}

bool weir_sample_cut_step(weir_sample_cut *c, const weir_sample_hist *h, weir_sample_law *law) {
  if (weir_sample_cut_wants_all(c)) c->want = weir_sample_wanted_mass(c->top_p, sum_mass(h, 0));
  int32_t b = WEIR_SAMPLE_BINS - 1;
  uint64_t above = c->above;
  for (; b > 0; b--) {
    const uint64_t here = c->by_mass ? h->mass[b] : h->count[b];
    if (above + here >= c->want) break;
    above += here;
  }
  return weir_sample_cut_enter(c, b, above, c->by_mass ? 0 : sum_mass(h, b + 1), h->count[b], h->mass[b],
                               law);
}

/* top_p behind top_k is the search by histograms over the list alone: what it finds depends on nothing below
 * the top_k-th id. Ids at the same key are in ascending order. */
void weir_sample_cut_list(const weir_sample_chunks *ops, const weir_ask *ask, const weir_sample_top *best,
                          weir_sample_hist *h, weir_sample_law *law) {
  const bool all = best->n < best->want; /* that there are above -inf */
  uint32_t key = 0;
  int32_t ties = 0;
  if (ask->top_p < 1) {
    weir_ask mass_only = *ask;
    weir_sample_cut cut;
    if (all) mass_only.top_k = 0;
    weir_sample_cut_begin(&mass_only, INT32_MAX, &cut);
    bool have_coarse = false;
    weir_sample_hist *of;
    do {
      of = &h[cut.level > 0];
      if (cut.level > 0 || !have_coarse) {
        memset(of, 0, sizeof *of);
        ops->hist(best->logit, best->n, law, &cut, of);
      }
      have_coarse = true;
    } while (weir_sample_cut_step(&cut, of, law));
    key = cut.key;
    ties = cut.ties;
  } else if (!all) {
    key = weir_sample_key(best->logit[best->n - 1]);
    ties = best->n; /* whatever of them is at the key */
  } else {
    return;
  }
  law->min_key = key;
  for (int32_t i = 0; i < best->n; i++)
    if (weir_sample_key(best->logit[i]) == key && ties-- > 0) law->end_ties = best->id[i] + 1;
}

void weir_sample_tell_list(const weir_sample_chunks *ops, const weir_sample_top *best,
                           const weir_sample_law *law, weir_top *out) {
  float w[WEIR_SAMPLE_LIST];
  ops->weigh(best->logit, best->n, law, w);
  for (int32_t i = 0; i < best->n; i++)
    if (!weir_sample_stays(law, best->id[i], best->logit[i], w[i])) w[i] = 0;
  weir_sample_tell(best->id, w, best->n, out);
}
