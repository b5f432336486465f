/* SPDX-License-Identifier: Apache-2.0 */
/* Drives weir_engine for `weir run` and `weir eval`: submits prompts while the engine takes them, steps it
 * until it is idle, collects text and receipts from its callbacks. Owns the answers; main thread. */
#include "programs/answer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "programs/interrupt.h"

weir_status weir_answers_init(weir_answers *a, int32_t n, weir_err *e) {
  *a = (weir_answers){.n = n};
  return WEIR_NEW((size_t)n, &a->one, e);
}

void weir_answers_clear(weir_answers *a) {
  for (int32_t i = 0; i < a->n; i++) {
    weir_answer *x = &a->one[i];
    const weir_tokens prompt = x->prompt;
    weir_buf_fini(&x->text);
    weir_decision_log_fini(&x->log);
    free(x->token);
    *x = (weir_answer){.prompt = prompt};
  }
}

void weir_answers_fini(weir_answers *a) {
  if (a->one) weir_answers_clear(a);
  for (int32_t i = 0; i < a->n && a->one; i++) weir_tokens_fini(&a->one[i].prompt);
  free(a->one);
  *a = (weir_answers){0};
}

void weir_answers_how_init(weir_answers_how *h, const weir_config *c, const weir_loaded *models) {
  *h = (weir_answers_how){
      .models = models,
      .max_new = (int32_t)weir_config_int(c, "max-tokens"),
      .max_active = (int32_t)weir_config_int(c, "batch"),
      .large_batch = (int32_t)weir_config_int(c, "large-batch"),
      .large_wait_ns = weir_config_int(c, "large-wait") * 1000000,
      .dead_wait_ns = weir_config_int(c, "recovery-wait") * 1000000000,
      .prefix_pages = -1,
      .show_special = weir_config_bool(c, "special"),
  };
}

/* ---- callbacks of the engine ---- */

static void take_piece(void *ctx, const weir_piece *p) {
  weir_answer *x = ctx;
  weir_answers *a = x->of;
  if (a->err.code != WEIR_OK) return;
  if (x->n == x->cap) {
    const int32_t cap = x->cap ? 2 * x->cap : 64;
    weir_answer_token *grown = realloc(x->token, (size_t)cap * sizeof *grown);
    if (!grown) {
      weir_fail(&a->err, WEIR_ENOMEM, "cannot keep %d tokens", cap);
      return;
    }
    x->token = grown;
    x->cap = cap;
  }
  if (weir_buf_put(&x->text, p->text, p->len, &a->err) != WEIR_OK) return;
  x->token[x->n++] = (weir_answer_token){*p->receipt, x->text.len};
  if (a->on_token) a->on_token(a->ctx, (int32_t)(x - a->one));
}

static void take_end(void *ctx, const weir_outcome *o) {
  weir_answer *x = ctx;
  weir_answers *a = x->of;
  x->done = true;
  x->end = o->end;
  if (o->err) x->err = *o->err;
  x->counts = *o->counts;
  x->queued_ns = o->queued_ns;
  x->first_token_ns = o->first_token_ns;
  x->total_ns = o->total_ns;
  if (a->on_done) a->on_done(a->ctx, (int32_t)(x - a->one));
}

static void take_decision(void *ctx, const weir_decision *d) {
  weir_answer *x = ctx;
  weir_answers *a = x->of;
  const weir_answers_how *h = a->how_;
  if (a->err.code != WEIR_OK) return;
  if (x->log.text.len > 0) {
    weir_decision_log_put(&x->log, d, &a->err);
    return;
  }
  const char *name[WEIR_MAX_TIERS];
  for (int32_t t = 0; t < h->models->n_tiers; t++) name[t] = h->models->tier_name[t];
  const weir_log_request q = {.request = (int32_t)(x - a->one),
                              .n_prompt = x->prompt.n,
                              .max_new = h->max_new,
                              .n_tiers = h->models->n_tiers,
                              .draw = &h->draw,
                              .tier_name = name};
  weir_decision_log_begin(&x->log, &q, d, &a->err);
}

/* ---- the loop ---- */

static weir_status submit(weir_engine *g, weir_answers *a, int32_t i, const weir_answers_how *h,
                          weir_err *e) {
  weir_answer *x = &a->one[i];
  x->of = a;
  const weir_job job = {
      .prompt = x->prompt.id,
      .n_prompt = x->prompt.n,
      .max_new = h->max_new,
      .draw = h->draw,
      .cascade = &h->cascade,
      .auto_ = h->auto_,
      .quality = h->quality,
      .ignore_eos = h->ignore_eos,
      .show_special = h->show_special,
      .stop = h->stop,
      .n_stop = h->n_stop,
      .choices = h->choices,
      .n_choices = h->n_choices,
      .span = h->span,
      .n_spans = h->n_spans,
      .on_piece = take_piece,
      .on_done = take_end,
      .on_decision = h->log_decisions ? take_decision : NULL,
      .ctx = x,
  };
  const weir_status st = weir_engine_submit(g, &job, &x->job, e);
  if (st == WEIR_OK) x->submitted = true;
  return st == WEIR_OK || st == WEIR_EBUSY ? st : weir_fail_ctx(e, st, "prompt %d", i + 1);
}

static void cancel_all(weir_engine *g, weir_answers *a) {
  for (int32_t i = 0; i < a->n; i++) {
    weir_answer *x = &a->one[i];
    if (x->submitted && !x->done) weir_engine_cancel(g, x->job);
    if (!x->submitted) {
      x->done = true;
      x->end = WEIR_END_CANCEL;
    }
  }
}

static weir_status loop(weir_engine *g, weir_answers *a, const weir_answers_how *h, weir_err *e) {
  int32_t next = 0;
  bool busy = true, cancelled = false;
  while (busy || next < a->n) {
    if (!cancelled && (weir_interrupt_pending() || a->give_up || a->err.code != WEIR_OK)) {
      cancel_all(g, a);
      next = a->n;
      cancelled = true;
    }
    while (next < a->n) {
      const weir_status st = submit(g, a, next, h, e);
      if (st == WEIR_EBUSY) break;
      if (st != WEIR_OK) return st;
      next++;
    }
    const weir_status st = weir_engine_step(g, &busy, e);
    if (st != WEIR_OK) return st;
  }
  if (a->err.code != WEIR_OK) return weir_fail(e, a->err.code, "%s", a->err.msg);
  return WEIR_OK;
}

weir_status weir_answers_run(weir_answers *a, const weir_answers_how *h, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_engine *g = NULL;
  weir_engine_cfg cfg = {
      .clock = weir_clock_system(),
      .max_active = h->max_active < a->n ? h->max_active : a->n,
      .large_batch = h->large_batch < h->max_active ? h->large_batch : h->max_active,
      .large_wait_ns = h->large_wait_ns,
      .dead_wait_ns = h->dead_wait_ns,
      .prefix_pages = h->prefix_pages,
      .prompt_chunk = {INT32_MAX, INT32_MAX}, /* nobody reads along: throughput alone counts */
  };
  weir_pair_configure(h->models->pair, &cfg);
  WEIR_TRY(weir_engine_create(&cfg, &g, e));
  a->how_ = h;
  const int64_t start = weir_now_ns(&cfg.clock);
  st = loop(g, a, h, e);
  a->wall_ns = weir_now_ns(&cfg.clock) - start;
  a->stats = weir_engine_get_stats(g);
out:
  weir_engine_destroy(g);
  return st;
}

/* ---- sums ---- */

static int by_value(const void *x, const void *y) {
  const int64_t a = *(const int64_t *)x, b = *(const int64_t *)y;
  return (a > b) - (a < b);
}

static int64_t median_first(const weir_answers *a) {
  int64_t *ns = NULL, median = 0;
  int32_t n = 0;
  if (WEIR_NEW((size_t)a->n, &ns, NULL) != WEIR_OK) return 0;
  for (int32_t i = 0; i < a->n; i++)
    if (a->one[i].n > 0) ns[n++] = a->one[i].first_token_ns;
  if (n > 0) {
    qsort(ns, (size_t)n, sizeof *ns, by_value);
    median = ns[n / 2];
  }
  free(ns);
  return median;
}

weir_totals weir_answers_totals(const weir_answers *a, const weir_loaded *models) {
  weir_totals s = {0};
  double entropy = 0;
  int64_t seen = 0;
  for (int32_t i = 0; i < a->n; i++) {
    const weir_answer *x = &a->one[i];
    s.prompt_tokens += x->prompt.n;
    s.tokens += x->n;
    s.refused += x->counts.refused;
    s.routed_up += x->counts.route.to == WEIR_ROUTED_LARGE;
    s.wanted_up += x->counts.wanted_up;
    s.forced += x->counts.forced;
    for (int32_t t = 0; t < models->n_tiers; t++) {
      s.steps[t] += x->counts.steps[t];
      s.fed[t] += x->counts.fed[t];
      s.prefix_hit[t] += x->counts.prefix_hit[t];
    }
    if (models->large >= 0 && x->counts.fed[models->large] > 0) {
      /* after a preemption the same prompt may be found twice */
      const int64_t left = x->prompt.n - x->counts.prefix_hit[models->large];
      s.large_prompt += left > 0 ? left : 0;
    }
    for (int32_t k = 0; k < x->n; k++) {
      const weir_token_receipt *r = &x->token[k].receipt;
      s.by_tier[r->tier]++;
      if (isnan(r->entropy)) continue;
      entropy += (double)r->entropy;
      seen++;
    }
  }
  s.large_tokens = models->large >= 0 ? s.by_tier[models->large] : 0;
  s.mean_entropy = seen > 0 ? entropy / (double)seen : NAN;
  s.deferral_rate = s.tokens > 0 ? (double)s.large_tokens / (double)s.tokens : 0;
  s.tokens_per_s = a->wall_ns > 0 ? 1e9 * (double)s.tokens / (double)a->wall_ns : 0;
  s.median_first_ns = median_first(a);
  return s;
}
