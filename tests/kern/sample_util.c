/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the sample op share. One thread. */
#include "sample_util.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

const weir_dev_limits sample_limits = {.max_tokens = 64,
                                       .max_cols = 64,
                                       .max_heads = 1,
                                       .max_head_dim = 64,
                                       .max_kv_len = 64,
                                       .max_rows_out = MAX_ROWS,
                                       .max_vocab = MAX_VOCAB};

weir_ask plain_ask(float temperature, uint64_t seed, int32_t pos) {
  return (weir_ask){.temperature = temperature, .top_p = 1, .seed = seed, .pos = pos, .probe = -1};
}

weir_ask *laws_begin(const weir_ask *ask, int32_t rows, weir_top **law) {
  weir_ask *own = (weir_ask *)malloc(sizeof *own * (size_t)rows);
  *law = (weir_top *)malloc(sizeof **law * (size_t)rows * WEIR_TOP_MAX);
  assert_true(own && *law);
  memset(*law, 0xff, sizeof **law * (size_t)rows * WEIR_TOP_MAX);
  for (int32_t r = 0; r < rows; r++) {
    own[r] = ask[r];
    own[r].law = ask[r].law ? *law + (size_t)r * WEIR_TOP_MAX : NULL;
  }
  return own;
}
void laws_end(const weir_ask *ask, int32_t rows, weir_ask *own, weir_top *law) {
  for (int32_t r = 0; r < rows; r++) {
    if (!ask[r].law) continue;
    const size_t bytes = sizeof *law * WEIR_TOP_MAX;
    weir_top *told = law + (size_t)r * WEIR_TOP_MAX;
    if (!ask[r].tell_law)
      for (int32_t i = 0; i < WEIR_TOP_MAX; i++) assert_int_equal(told[i].id, -1); /* untouched */
    else if (ask[r].law[0].id == LAW_UNTOLD)
      memcpy(ask[r].law, told, bytes);
    else
      kern_same(told, ask[r].law, bytes, "a law told again");
  }
  free(own);
  free(law);
}

weir_status answer_tops(weir_dev *dev, const float *logits, int32_t rows, int32_t n_valid,
                        const weir_ask *ask, weir_row *out, weir_top *top, weir_err *e) {
  const int32_t cols = n_valid + 3 < MAX_VOCAB ? n_valid + 3 : MAX_VOCAB;
  weir_mat m = kern_mat(dev, rows, cols, 5);
  float *wide = (float *)malloc(sizeof *wide * (size_t)rows * (size_t)cols);
  for (int32_t r = 0; r < rows; r++)
    for (int32_t c = 0; c < cols; c++)
      wide[(size_t)r * (size_t)cols + (size_t)c] = c < n_valid
                                                       ? logits[(size_t)r * (size_t)n_valid + (size_t)c]
                                                   : c % 2 ? NAN
                                                           : INFINITY;
  kern_put(dev, m, wide);
  memset(out, 0xff, sizeof *out * (size_t)rows);
  const size_t n_top = (size_t)rows * WEIR_TOP_MAX;
  if (top) memset(top, 0xff, sizeof *top * n_top);
  weir_top *law;
  weir_ask *own = laws_begin(ask, rows, &law);
  weir_status st = weir_op_sample(dev, out, top, m, n_valid, own, NULL, e);
  if (st == WEIR_OK) st = weir_dev_sync(dev, e);
  laws_end(ask, st == WEIR_OK ? rows : 0, own, law);
  weir_top untouched;
  memset(&untouched, 0xff, sizeof untouched);
  for (size_t i = 0; top && i < n_top; i++)
    if ((int32_t)(i % WEIR_TOP_MAX) >= ask[i / WEIR_TOP_MAX].n_top)
      kern_same(&top[i], &untouched, sizeof untouched, "place behind the tops");
  float *after = kern_get(dev, m);
  kern_same(after, wide, sizeof *wide * (size_t)rows * (size_t)cols, "logits after the op");
  free(after);
  free(wide);
  kern_mat_free(dev, m);
  return st;
}

/* The chunk as a shard draws from it. */
static const float *shaped_chunk(const weir_ask *ask, const float *l, int32_t first, int32_t n, float *buf) {
  int32_t n_edits;
  const weir_logit_edit *edit = weir_sample_edits(ask, first, n, &n_edits);
  weir_sample_shape(buf, l, first, n, edit, n_edits, ask->only_edits);
  return buf;
}

weir_row answer_in_shards(const weir_sample_chunks *ops, const float *logits, int32_t n_valid,
                          const weir_ask *ask, int32_t n_shards, weir_top *top) {
  const int32_t n_chunks = weir_sample_n_chunks(n_valid);
  int32_t begin[5], len[4]; /* in chunks, in ids */
  float *own[4], buf[WEIR_SAMPLE_CHUNK];
  for (int32_t s = 0; s <= n_shards; s++) begin[s] = n_chunks * s / n_shards;
  weir_sample_stat *part = (weir_sample_stat *)calloc((size_t)n_chunks, sizeof *part);
  for (int32_t s = 0; s < n_shards; s++) {
    const int32_t from = begin[s] * WEIR_SAMPLE_CHUNK;
    const int32_t to =
        begin[s + 1] * WEIR_SAMPLE_CHUNK < n_valid ? begin[s + 1] * WEIR_SAMPLE_CHUNK : n_valid;
    len[s] = to > from ? to - from : 0;
    own[s] = (float *)malloc(sizeof(float) * (size_t)len[s] + 1);
    memcpy(own[s], logits + (len[s] > 0 ? from : 0), sizeof(float) * (size_t)len[s]);
  }
#define EACH_CHUNK(s, c, at, first, n)                                                                \
  for (int32_t s = 0; s < n_shards; s++)                                                              \
    for (int32_t c = begin[s], first = c * WEIR_SAMPLE_CHUNK, at = 0, n = 0;                          \
         c < begin[s + 1] && (n = len[s] - at < WEIR_SAMPLE_CHUNK ? len[s] - at : WEIR_SAMPLE_CHUNK); \
         c++, at += WEIR_SAMPLE_CHUNK, first += WEIR_SAMPLE_CHUNK)
  EACH_CHUNK(s, c, at, first, n) ops->stat(own[s] + at, first, n, &part[c]);
  const weir_sample_stat stat = weir_sample_merge(part, n_chunks);
  weir_err e = {0};
  kern_ok(weir_sample_check(&stat, &e), &e, "check");
  /* a list a shard, put together from the last to the first: lists know no order */
  weir_sample_top best[4], peak[4];
  for (int32_t s = 0; s < n_shards; s++) {
    best[s] = (weir_sample_top){.want = ask->n_top};
    peak[s] = (weir_sample_top){.want = 1};
  }
  EACH_CHUNK(s, c, at, first, n) {
    if (ask->n_top > 0) ops->top(own[s] + at, first, n, &best[s]);
    ops->top(shaped_chunk(ask, own[s] + at, first, n, buf), first, n, &peak[s]);
  }
  for (int32_t s = n_shards - 1; s > 0; s--) {
    for (int32_t i = 0; i < best[s].n; i++)
      weir_sample_top_add(&best[s - 1], best[s].id[i], best[s].logit[i]);
    for (int32_t i = 0; i < peak[s].n; i++)
      weir_sample_top_add(&peak[s - 1], peak[s].id[i], peak[s].logit[i]);
  }
  weir_sample_top_finish(&best[0], &stat, top);
  const float probe_logit = ask->probe >= 0 ? logits[ask->probe] : 0;
  weir_sample_law law;
  int32_t token = ask->probe;
  if (weir_sample_draws(ask, &stat, probe_logit))
    token = weir_sample_plan(ask, peak[0].id[0], peak[0].logit[0], &law);
  if (token < 0 && weir_sample_cuts(ask, n_valid)) {
    weir_sample_cut cut;
    weir_sample_hist *sum = (weir_sample_hist *)malloc(sizeof *sum),
                     *h = (weir_sample_hist *)malloc(sizeof *h);
    bool more = true;
    weir_sample_cut_begin(ask, n_valid, &cut);
    while (more) {
      memset(sum, 0, sizeof *sum);
      EACH_CHUNK(s, c, at, first, n) {
        memset(h, 0, sizeof *h);
        ops->hist(shaped_chunk(ask, own[s] + at, first, n, buf), n, &law, &cut, h);
        for (int b = 0; b < WEIR_SAMPLE_BINS; b++) sum->count[b] += h->count[b], sum->mass[b] += h->mass[b];
      }
      more = weir_sample_cut_step(&cut, sum, &law);
    }
    if (cut.ties < cut.equal) {
      int32_t left = cut.ties;
      EACH_CHUNK(s, c, at, first, n) {
        const float *l = shaped_chunk(ask, own[s] + at, first, n, buf);
        const int32_t here = ops->ties(l, n, cut.key);
        if (left > 0 && here >= left) {
          for (int32_t v = 0; v < n && left > 0; v++)
            if (weir_sample_key(l[v]) == cut.key && --left == 0) law.end_ties = first + v + 1;
        } else {
          left -= left > 0 ? here : 0;
        }
      }
    }
    free(sum);
    free(h);
  }
  bool left_of_law = false;
  if (token < 0 && weir_sample_weighs(ask)) {
    double mass = 0;
    float w[WEIR_TOP_MAX], probe_w = 0;
    EACH_CHUNK(s, c, at, first, n)
    mass += ops->mass(shaped_chunk(ask, own[s] + at, first, n, buf), first, n, &law);
    for (int32_t i = 0; i < ask->n_draft; i++) {
      const int32_t id = ask->draft[i].id;
      const float l = weir_sample_shaped(ask, id, logits[id]);
      ops->weigh(&l, 1, &law, &w[i]);
      if (!weir_sample_stays(&law, id, l, w[i])) w[i] = 0;
      if (id == ask->probe) probe_w = w[i];
    }
    if (weir_sample_ratio_keeps(ask, probe_w, mass)) token = ask->probe;
    law.top = -1;
    law.head = (weir_sample_win){INFINITY, INT32_MAX, 0};
    for (int32_t i = 0; i < ask->n_draft; i++)
      law.head = weir_sample_first(
          law.head, weir_sample_rest(&law, ask->draft[i].id, w[i], ask->draft[i].logprob, mass));
    left_of_law = true;
  }
  if (token < 0) {
    weir_sample_win win = {INFINITY, INT32_MAX, 0};
    EACH_CHUNK(s, c, at, first, n) {
      weir_sample_win w;
      shaped_chunk(ask, own[s] + at, first, n, buf);
      for (int32_t i = 0; left_of_law && i < ask->n_draft; i++)
        if (ask->draft[i].id >= first && ask->draft[i].id < first + n)
          buf[ask->draft[i].id - first] = -INFINITY;
      ops->race(buf, first, n, &law, &w);
      win = weir_sample_first(w, win);
    }
    token = win.id == INT32_MAX ? ask->probe : win.id;
    if (ask->n_edits == 0 && !left_of_law) assert_true(win.logit == logits[token]);
  }
  weir_row row;
  weir_sample_finish(ask, &stat, token, logits[token], probe_logit, &row);
  for (int32_t s = 0; s < n_shards; s++) free(own[s]);
  free(part);
  return row;
}

static void hold(double got, double want, double bound, double *w, const char *what, int32_t n) {
  const double err =
      got == want ? 0 : fabs(got - want) / (fabs(want) > 1 ? fabs(want) : 1); /* both may be -inf */
  if (!(err <= bound)) fail_msg("%s of %d: %.9g, want %.9g", what, n, got, want);
  if (err > *w) *w = err;
}

static double ref_logprob(const float *logits, const sample_ref *ref, int32_t v) {
  return (double)logits[v] - (double)logits[ref->order[0]] + log(ref->p_max);
}

/* The law told: ids that race, likeliest first, and the logarithms of their shares. */
static void check_law(const weir_ask *ask, const sample_ref *ref, int32_t n, worst *w) {
  double sum = 0;
  bool taken[WEIR_TOP_MAX] = {false};
  if (ref->boundary < 1e-6) return;
  for (int32_t v = 0; ref->w && v < n; v++) sum += ref->w[v];
  int32_t told = 0, races = 0;
  for (; told < WEIR_TOP_MAX && ask->law[told].id >= 0; told++) {
    const int32_t v = ask->law[told].id;
    assert_in_range(v, 0, n - 1);
    assert_true(ask->law[told].logprob > -INFINITY); /* what is cut is not told */
    if (told > 0) assert_true(ask->law[told].logprob <= ask->law[told - 1].logprob);
    hold((double)ask->law[told].logprob,
         ref->w          ? log(ref->w[v] / sum)
         : v == ref->top ? 0
                         : -INFINITY,
         2e-6, &w->logprob, "logprob of a law", n);
    for (int32_t i = 0; i < told; i++) taken[told] |= ask->law[i].id == v;
    assert_false(taken[told]);
  }
  for (int32_t v = 0; ref->w && v < n; v++) races += ref->w[v] > 1e-37;
  if (told < (ref->w ? races : 1)) fail_msg("a law of %d ids, %d race", told, races);
  for (; told < WEIR_TOP_MAX; told++) assert_true(ask->law[told].id == -1 && isinf(ask->law[told].logprob));
}

/* By RATIO. */
static void check_ratio(const weir_row *row, const weir_ask *ask, const sample_ref *ref, worst *w) {
  const double by = sample_ref_ratio(ref, ask);
  double lost;
  if (ref->boundary < 1e-6 || fabs(by) < 1e-5) {
    w->close++;
    return;
  }
  const int32_t want = by > 0 ? ask->probe : sample_ref_redraw(ref, ask);
  if (row->token == want) return;
  const double a = sample_ref_rest(ref, ask, row->token, &lost), b = sample_ref_rest(ref, ask, want, NULL);
  if (by > 0 || !(a / b - 1 < 1e-6 * (lost + 1)))
    fail_msg(
        "ratio, %d ids, %d edits, T %g, k %d, p %g, m %g: token %d, want %d of %d (by %g; arrivals %g %g)",
        ref->n, ask->n_edits, (double)ask->temperature, ask->top_k, (double)ask->top_p, (double)ask->min_p,
        row->token, want, ask->probe, by, a, b);
  w->close++;
}

void check_row(const weir_row *row, const weir_top *top, const weir_ask *ask, const float *logits, int32_t n,
               worst *w) {
  sample_ref ref;
  sample_ref_make(&ref, logits, n, ask);
  hold((double)row->entropy, ref.entropy, 2e-6, &w->entropy, "entropy", n);
  hold((double)row->p_max, ref.p_max, 1e-6, &w->p, "p_max", n);
  hold((double)row->margin, ref.margin, 1e-6, &w->margin, "margin", n);
  if (row->token < 0 || row->token >= n) fail_msg("token %d of %d", row->token, n);
  hold((double)row->logprob, ref_logprob(logits, &ref, row->token), 1e-6, &w->logprob, "logprob", n);
  hold((double)row->probe_logprob, ref_logprob(logits, &ref, ask->probe >= 0 ? ask->probe : row->token), 1e-6,
       &w->logprob, "probe_logprob", n);
  for (int32_t i = 0; i < ask->n_top; i++) {
    const int32_t v = i < n && logits[ref.order[i]] > -INFINITY ? ref.order[i] : -1;
    if (top[i].id != v) fail_msg("%d ids: top %d of %d is %d, want %d", n, i, ask->n_top, top[i].id, v);
    hold((double)top[i].logprob, v < 0 ? -INFINITY : ref_logprob(logits, &ref, v), 1e-6, &w->logprob,
         "logprob of a top", n);
  }
  if (ask->tell_law && ask->law) check_law(ask, &ref, n, w);
  if (weir_sample_weighs(ask)) {
    check_ratio(row, ask, &ref, w);
    goto out;
  }
  uint32_t purpose = WEIR_NOISE_DRAW;
  bool kept = ask->probe >= 0 && ask->keep == WEIR_KEEP_ALL;
  if (ask->probe >= 0 && ask->keep > WEIR_KEEP_OWN && ask->keep != WEIR_KEEP_RATIO) {
    const double by = sample_ref_keep(&ref, ask);
    if (fabs(by) < 1e-5) goto out;
    kept = by > 0;
    purpose = WEIR_NOISE_AGAIN;
  }
  const int32_t want = kept ? ask->probe : sample_ref_draw(&ref, ask, purpose);
  if (row->token != want) {
    /* floats decide the weights: a race may be too close, or a cut may fall between two ids */
    const bool draw = !kept && ref.w != NULL;
    const double a = draw ? sample_ref_arrival(&ref, ask, purpose, row->token) : 0;
    const double b = draw ? sample_ref_arrival(&ref, ask, purpose, want) : 1;
    if (!(ref.boundary < 1e-6 || (draw && a / b - 1 < 1e-6)))
      fail_msg("%d ids, %d edits, T %g, k %d, p %g, m %g: token %d, want %d (boundary %g, arrivals %g %g)", n,
               ask->n_edits, (double)ask->temperature, ask->top_k, (double)ask->top_p, (double)ask->min_p,
               row->token, want, ref.boundary, a, b);
    w->close++;
  }
out:
  sample_ref_free(&ref);
}

weir_ask random_ask(kern_rng *rng, int32_t n) {
  static const float temps[] = {0, 0.3f, 0.7f, 1, 1.5f, 8};
  static const float nlls[] = {-1, 0.5f, 3, 8}, alphas[] = {0.01f, 0.1f, 0.4f, 0.9f},
                     deltas[] = {0.05f, 0.3f, 2};
  weir_ask a = plain_ask(temps[kern_below(rng, 6)], kern_u64(rng), kern_below(rng, 100000));
  if (kern_below(rng, 3) == 0) a.top_k = 1 + kern_below(rng, kern_below(rng, 2) ? 64 : n + 2);
  if (kern_below(rng, 3) == 0) a.top_p = (float)(0.05 + 0.94 * kern_unit(rng));
  if (kern_below(rng, 4) == 0) a.min_p = (float)(0.3 * kern_unit(rng));
  if (kern_below(rng, 2) == 0) {
    a.probe = kern_below(rng, n);
    a.keep = (weir_keep)kern_below(rng, WEIR_N_KEEPS);
    a.keep_a = (a.keep > WEIR_KEEP_NLL ? alphas : nlls)[kern_below(rng, 4)];
    a.keep_b = deltas[kern_below(rng, 3)];
    a.probe_q = (float)log(1e-3 + kern_unit(rng));
  }
  return a;
}

/* Numbers as penalties, biases and bans make them, and now and then ones that nobody should send. */
static weir_logit_edit random_edit(kern_rng *rng, int32_t id) {
  static const float scales[] = {1, 1.1f, 1.5f, 0.6f}, adds[] = {0, -0.5f, 2, -100};
  weir_logit_edit x = {id, scales[kern_below(rng, 4)], adds[kern_below(rng, 4)]};
  if (kern_below(rng, 5) == 0) x.add = WEIR_LOGIT_BAN;
  if (kern_below(rng, 2000) == 0) x.scale = kern_below(rng, 2) ? 1e-38f : 3e38f;
  if (kern_below(rng, 2000) == 0) x.add = kern_below(rng, 2) ? 3e38f : -3e38f;
  return x;
}

/* Of ids near the probe or anywhere, with shares small enough that some stand and large enough that some do
 * not. */
static void random_draft(kern_rng *rng, int32_t n, weir_ask *ask, weir_top *law) {
  const int32_t most = n < WEIR_TOP_MAX ? n : WEIR_TOP_MAX;
  ask->n_draft = 1 + kern_below(rng, most);
  ask->draft = law;
  const int32_t from = kern_below(rng, 2) && n > most ? kern_below(rng, n - most) : -1;
  for (int32_t i = 0; i < ask->n_draft;) {
    const int32_t id = i == 0 ? ask->probe : from >= 0 ? from + kern_below(rng, most) : kern_below(rng, n);
    bool once = true;
    for (int32_t k = 0; k < i; k++) once &= law[k].id != id;
    const float logprob = i == 0 || kern_below(rng, 8) ? -20 * (float)kern_unit(rng) : -INFINITY;
    if (once)
      law[i++] = (weir_top){id, logprob};
    else if (from >= 0)
      ask->n_draft--; /* that one is there already */
  }
}

weir_logit_edit *random_extras(kern_rng *rng, int32_t n, weir_ask *ask) {
  static const int32_t one_in[] = {1, 2, 20, 300, 4000};
  const int32_t every = one_in[kern_below(rng, 5)], from = kern_below(rng, 2) ? 0 : kern_below(rng, n),
                to = kern_below(rng, 2) ? n : from + kern_below(rng, n - from) + 1;
  /* edits, and behind them the ids of a draft or room for a law */
  weir_logit_edit *edit =
      (weir_logit_edit *)malloc(sizeof *edit * (size_t)n + sizeof(weir_top) * WEIR_TOP_MAX);
  weir_top *law = (weir_top *)(void *)(edit + n);
  int32_t n_edits = 0;
  for (int32_t v = from; v < to; v++)
    if (kern_below(rng, every) == 0) edit[n_edits++] = random_edit(rng, v);
  ask->edit = edit;
  ask->n_edits = n_edits;
  ask->n_top = kern_below(rng, 3) ? 0 : 1 + kern_below(rng, WEIR_TOP_MAX);
  ask->only_edits = n_edits > 0 && kern_below(rng, 4) == 0;
  if (ask->probe >= 0 && ask->keep == WEIR_KEEP_RATIO) random_draft(rng, n, ask, law);
  if (ask->probe < 0 && kern_below(rng, 2) == 0) {
    ask->tell_law = true;
    ask->top_k = 1 + kern_below(rng, WEIR_TOP_MAX);
    ask->law = law;
    law[0].id = LAW_UNTOLD;
  }
  return edit;
}

void random_logits(kern_rng *rng, float *l, int32_t n, int kind) {
  static const float scale[] = {3, 1, 0.01f, 2, 3};
  for (int32_t v = 0; v < n; v++) {
    l[v] = kern_normal(rng) * scale[kind];
    if (kind == 1 && kern_below(rng, 500) == 0) l[v] += 12;
    if (kind == 3) l[v] = (float)(rint((double)l[v] * 2) / 2); /* gives both zeros */
    if (kind == 4 && kern_below(rng, 3) == 0 && v != n / 2) l[v] = -INFINITY;
  }
}

double chi_squared(const int *seen, const double *p, int32_t cells, int total, int *freedom) {
  double x = 0, rest_p = 0;
  int rest = 0, used = 0;
  for (int32_t c = 0; c < cells; c++) {
    const double want = p[c] * total;
    if (want < 5) {
      rest += seen[c];
      rest_p += p[c];
      if (p[c] == 0 && seen[c] > 0) fail_msg("cell %d has probability 0 and was seen %d times", c, seen[c]);
      continue;
    }
    x += (seen[c] - want) * (seen[c] - want) / want;
    used++;
  }
  if (rest_p * total >= 5) {
    x += (rest - rest_p * total) * (rest - rest_p * total) / (rest_p * total);
    used++;
  }
  *freedom = used - 1;
  return x;
}
