/* SPDX-License-Identifier: Apache-2.0 */
/* Perplexity over executors. A group of windows is fed to each model in as few steps as its batch allows, a
 * row is asked for at every position whose next token is scored, and the sums are made per group; nothing
 * grows with the text. Owns its scratch; one thread. */
#include "programs/perplexity.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kv/pages.h"
#include "step/batch.h"

/* A window: tokens [start, end) of the text, of which [score_from, end) are scored. */
typedef struct window {
  int32_t start, end, score_from;
} window;

typedef struct sums {
  double nll, nll_sq, entropy;
  int64_t right, above;
} sums;

typedef struct measure {
  weir_exec *const *exec;
  int32_t n_tiers;
  const weir_tokenizer *tok;
  const weir_tokens *text;
  const weir_ppl_opts *o;
  int32_t bos;   /* put in the place of a chunk's first token; -1: none */
  int32_t group; /* windows of one round */
  int64_t n_windows;
  weir_batch_builder batch;
  int32_t *fed;     /* [n_ctx] one window's tokens */
  int32_t *page;    /* [group * pages_each] */
  weir_row *row[2]; /* [group * n_ctx] of each tier, in order of window and position */
  weir_row *step;   /* [max_tokens] answers of a step */
  sums s[2], cascade;
  int64_t agree, passed, agree_passed, small_better, device_ns[2], rows[2], n_scored, n_bytes;
} measure;

static int64_t count_windows(int32_t n, const weir_ppl_opts *o) {
  if (o->stride == 0) return n / o->n_ctx;
  if (n <= o->n_ctx) return 1;
  return 1 + (n - o->n_ctx + o->stride - 1) / o->stride;
}

static window window_at(const measure *m, int64_t i) {
  const int32_t n = m->text->n, len = m->o->n_ctx, stride = m->o->stride;
  if (stride == 0) {
    const int32_t start = (int32_t)(i * len);
    return (window){start, start + len, start + len / 2 + 1};
  }
  const int32_t start = (int32_t)(i * stride);
  window w = {start, n - start < len ? n : start + len, start + 1};
  if (i > 0 && w.start + (len - stride) > w.score_from) w.score_from = w.start + (len - stride);
  return w;
}

static weir_status run_step(measure *m, int32_t t, weir_row *into, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_exec *x = m->exec[t];
  const weir_batch batch = weir_batch_get(&m->batch);
  weir_result result = {.row = m->step}, *done = NULL;
  WEIR_TRY(x->ops->submit(x, &batch, &result, e));
  WEIR_TRY(x->ops->wait(x, &done, e));
  if (done->status != WEIR_OK) WEIR_TRY(weir_fail(e, done->status, "%s", done->err.msg));
  memcpy(into, m->step, (size_t)batch.n_out * sizeof *into);
  m->device_ns[t] += done->device_ns;
  m->rows[t] += batch.n_tokens;
  weir_batch_builder_clear(&m->batch);
out:
  return st;
}

/* Feeds windows [first, first + n) to tier t; its rows come to lie one behind the other in m->row[t]. */
static weir_status feed(measure *m, int32_t t, int64_t first, int32_t n, weir_err *e) {
  weir_status st = WEIR_OK;
  const int32_t pages_each = weir_pages_for(m->o->n_ctx), most = m->exec[t]->info.max_tokens;
  int32_t got = 0;
  weir_batch_builder_clear(&m->batch);
  for (int32_t i = 0; i < n; i++) {
    const window w = window_at(m, first + i);
    const int32_t len = w.end - w.start - 1; /* nobody asks what follows the last one */
    memcpy(m->fed, m->text->id + w.start, (size_t)len * sizeof *m->fed);
    if (m->bos >= 0) m->fed[0] = m->bos;
    for (int32_t from = 0, to; from < len; from = to) {
      const int32_t room = most - m->batch.n_tokens;
      to = len - from < room ? len : from + room;
      const weir_batch_seq seq = {m->fed, from, to, m->page + i * pages_each, weir_pages_for(to)};
      const int32_t at = weir_batch_add(&m->batch, &seq) - from;
      int32_t p = w.score_from - w.start - 1;
      for (p = p > from ? p : from; p < to; p++)
        *weir_batch_ask(&m->batch, at + p) = (weir_ask){
            .top_p = 1, .pos = p + 1, .probe = m->text->id[w.start + p + 1], .keep = WEIR_KEEP_OWN};
      if (m->batch.n_tokens < most && m->batch.n_seqs < m->batch.max_seqs) continue;
      const int32_t n_out = m->batch.n_out;
      WEIR_TRY(run_step(m, t, m->row[t] + got, e));
      got += n_out;
    }
  }
  if (m->batch.n_tokens > 0) WEIR_TRY(run_step(m, t, m->row[t] + got, e));
out:
  return st;
}

static void add_up(sums *s, const weir_row *r, int32_t target, float tau) {
  const double nll = -(double)r->probe_logprob;
  s->nll += nll;
  s->nll_sq += nll * nll;
  s->entropy += (double)r->entropy;
  s->right += r->token == target; /* at temperature 0 the row's token is the likeliest */
  s->above += r->entropy > tau;
}

static void score(measure *m, int64_t first, int32_t n) {
  const float tau = m->o->tau;
  const weir_row *small = m->row[0], *large = m->row[1];
  for (int32_t i = 0; i < n; i++) {
    const window w = window_at(m, first + i);
    for (int32_t k = w.score_from; k < w.end; k++, small++) {
      const int32_t target = m->text->id[k];
      m->n_scored++;
      if (!weir_tokenizer_is_special(m->tok, target))
        m->n_bytes += (int64_t)weir_token_bytes(m->tok, target).len;
      add_up(&m->s[0], small, target, tau);
      if (m->n_tiers < 2) continue;
      add_up(&m->s[1], large, target, tau);
      const bool defers = small->entropy > tau, same = small->token == large->token;
      add_up(&m->cascade, defers ? large : small, target, tau);
      m->agree += same;
      m->passed += !defers;
      m->agree_passed += same && !defers;
      m->small_better += small->probe_logprob > large->probe_logprob;
      large++;
    }
  }
}

static weir_status prepare(measure *m, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_ppl_opts *o = m->o;
  int32_t max_tokens = 0, max_seqs = INT32_MAX;
  if (m->n_tiers < 1 || m->n_tiers > 2)
    return weir_fail(e, WEIR_EINVAL, "%d models, want 1 or 2", m->n_tiers);
  if (o->n_ctx < 4) return weir_fail(e, WEIR_EINVAL, "windows of %d tokens, want at least 4", o->n_ctx);
  if (o->stride < 0 || o->stride > o->n_ctx)
    return weir_fail(e, WEIR_EINVAL, "stride %d is out of range, want 0 .. %d, the window", o->stride,
                     o->n_ctx);
  const int32_t pages_each = weir_pages_for(o->n_ctx);
  for (int32_t t = 0; t < m->n_tiers; t++) {
    const weir_exec_info *x = &m->exec[t]->info;
    if (o->n_ctx > x->n_ctx || pages_each > x->n_pages)
      return weir_fail(e, WEIR_EINVAL, "%s: windows of %d tokens in a context of %d", x->name, o->n_ctx,
                       x->n_ctx);
    if (x->max_tokens > max_tokens) max_tokens = x->max_tokens;
    if (x->max_seqs < max_seqs) max_seqs = x->max_seqs;
    if (x->n_pages / pages_each < max_seqs) max_seqs = x->n_pages / pages_each;
    for (int32_t i = 0; i < m->text->n; i++)
      if (m->text->id[i] < 0 || m->text->id[i] >= x->n_vocab)
        return weir_fail(e, WEIR_EINVAL, "token %d of the text is id %d, outside the vocabulary of %d", i,
                         m->text->id[i], x->n_vocab);
  }
  m->n_windows = count_windows(m->text->n, o);
  if (m->n_windows < 1 || m->text->n < 2)
    return weir_fail(e, WEIR_EINVAL, "the text has %d tokens, want at least %d, the window", m->text->n,
                     o->stride == 0 ? o->n_ctx : 2);
  m->bos = o->stride == 0 && weir_tokenizer_adds_bos(m->tok) ? weir_tokenizer_bos(m->tok) : -1;
  m->group = max_seqs;
  const size_t group = (size_t)m->group, len = (size_t)o->n_ctx;
  const int32_t n_pages = m->group * pages_each;
  WEIR_TRY(weir_batch_builder_init(&m->batch, max_tokens, max_seqs, n_pages, 1, e));
  WEIR_TRY(WEIR_NEW(len, &m->fed, e));
  WEIR_TRY(WEIR_NEW((size_t)n_pages, &m->page, e));
  WEIR_TRY(WEIR_NEW((size_t)max_tokens, &m->step, e));
  for (int32_t t = 0; t < m->n_tiers; t++) WEIR_TRY(WEIR_NEW(group * len, &m->row[t], e));
  for (int32_t i = 0; i < n_pages; i++) m->page[i] = i;
out:
  return st;
}

static weir_ppl_tier tier_of(const measure *m, int32_t t) {
  const sums *s = &m->s[t];
  const double n = (double)m->n_scored, mean = s->nll / n, var = s->nll_sq / n - mean * mean;
  weir_ppl_tier x = {.nll = mean, .ppl = exp(mean), .entropy = s->entropy / n};
  x.nll_error = var > 0 && m->n_scored > 1 ? sqrt(var / (n - 1)) : 0;
  x.ppl_error = x.ppl * x.nll_error;
  x.bits_per_byte = m->n_bytes > 0 ? s->nll / log(2) / (double)m->n_bytes : NAN;
  x.accuracy = (double)s->right / n;
  x.above_tau = (double)s->above / n;
  x.device_ns = m->device_ns[t];
  x.fed = m->rows[t];
  return x;
}

static void fill(const measure *m, weir_ppl *out) {
  const double n = (double)m->n_scored;
  *out = (weir_ppl){.n_tokens = m->text->n,
                    .n_windows = m->n_windows,
                    .n_scored = m->n_scored,
                    .n_bytes = m->n_bytes,
                    .n_tiers = m->n_tiers};
  for (int32_t t = 0; t < m->n_tiers; t++) out->tier[t] = tier_of(m, t);
  if (m->n_tiers < 2) return;
  out->pair = (weir_ppl_pair){
      .top1 = (double)m->agree / n,
      .top1_below = m->passed > 0 ? (double)m->agree_passed / (double)m->passed : NAN,
      .small_better = (double)m->small_better / n,
      .nll = m->cascade.nll / n,
      .ppl = exp(m->cascade.nll / n),
      .bits_per_byte = m->n_bytes > 0 ? m->cascade.nll / log(2) / (double)m->n_bytes : NAN,
  };
}

weir_status weir_perplexity(weir_exec *const *tier, int32_t n_tiers, const weir_tokenizer *tok,
                            const weir_tokens *text, const weir_ppl_opts *o, weir_ppl *out, weir_err *e) {
  weir_status st = WEIR_OK;
  measure m = {.exec = tier, .n_tiers = n_tiers, .tok = tok, .text = text, .o = o};
  WEIR_TRY(prepare(&m, e));
  for (int64_t i = 0; i < m.n_windows;) {
    const int32_t n = m.n_windows - i < m.group ? (int32_t)(m.n_windows - i) : m.group;
    for (int32_t t = 0; t < n_tiers; t++) WEIR_TRY(feed(&m, t, i, n, e));
    score(&m, i, n);
    i += n;
    double ppl[2] = {0};
    for (int32_t t = 0; t < n_tiers; t++) ppl[t] = exp(m.s[t].nll / (double)m.n_scored);
    if (o->progress && !o->progress(o->progress_ctx, i, m.n_windows, ppl))
      WEIR_TRY(weir_fail(e, WEIR_ECANCEL, "stopped after %lld of %lld windows", (long long)i,
                         (long long)m.n_windows));
  }
  fill(&m, out);
out:
  weir_batch_builder_fini(&m.batch);
  free(m.fed);
  free(m.page);
  free(m.step);
  free(m.row[0]);
  free(m.row[1]);
  return st;
}
