/* SPDX-License-Identifier: Apache-2.0 */
/* The end of a request: told once, by whichever thread comes first; what it counts for. */
#include <math.h>
#include <string.h>

#include "serve/service_in.h"

static weir_finished finished_as(weir_end end) {
  switch (end) {
    case WEIR_END_STOP:
    case WEIR_END_EOS: return WEIR_FINISHED_STOP;
    case WEIR_END_LENGTH: return WEIR_FINISHED_LENGTH;
    case WEIR_END_CANCEL:
    case WEIR_END_DEADLINE: return WEIR_FINISHED_ABORT;
    default: return WEIR_FINISHED_ERROR;
  }
}

static double seconds(int64_t ns) { return (double)ns * 1e-9; }

static void count_end(weir_reply *r, weir_cancel_why why) {
  const weir_service_metrics *m = &r->of->metrics;
  const weir_reply_end *x = &r->end;
  const int32_t n = x->counts.new_tokens;
  if (x->end == WEIR_END_ERROR && x->error.code >= 400 && x->error.code < 500) {
    /* The client's own mistake, found while the request was prepared: refused, not failed. */
    weir_metric_inc(m->refused[r->too_long ? WEIR_REFUSED_CONTEXT : WEIR_REFUSED_INVALID], 1);
    return;
  }
  weir_metric_inc(m->finished[finished_as(x->end)], 1);
  if (x->end == WEIR_END_CANCEL) weir_metric_inc(m->cancelled[why], 1);
  if (x->end == WEIR_END_DEADLINE) weir_metric_inc(m->cancelled[WEIR_CANCELLED_DEADLINE], 1);
  weir_metric_observe(m->e2e, seconds(x->total_ns));
  weir_metric_observe(m->queue_time, seconds(x->queued_ns));
  if (x->counts.refused > 0) weir_metric_inc(m->drafts_refused, x->counts.refused);
  if (n == 0) return;
  weir_metric_observe(m->prefill_time, seconds(x->first_token_ns - x->queued_ns));
  weir_metric_observe(m->decode_time, seconds(x->total_ns - x->first_token_ns));
  weir_metric_observe(m->inference_time, seconds(x->total_ns - x->queued_ns));
  weir_metric_inc(m->mode_tokens[r->mode], n);
  weir_metric_inc(m->mode_seconds[r->mode], seconds(x->total_ns - x->first_token_ns));
  weir_metric_observe(m->req_prompt, atomic_load(&r->n_prompt));
  weir_metric_observe(m->req_generation, n);
  weir_metric_observe(m->req_max_tokens, r->job.max_new);
  if (n > 1) weir_metric_observe(m->tpot, seconds((r->last_ns - r->first_ns) / (n - 1)));
}

/* What the client gets may be less than the engine wrote, when a stop id cut it. */
static void fill_counts(weir_reply *r, const weir_outcome *o) {
  weir_counts *c = &r->end.counts;
  *c = o ? *o->counts : (weir_counts){0};
  c->new_tokens = weir_reply_log_n(&r->log);
  memset(c->by_tier, 0, sizeof c->by_tier);
  c->wanted_up = 0;
  for (int32_t i = 0; i < c->new_tokens; i++) {
    const weir_token_receipt *receipt = &weir_reply_log_at(&r->log, i)->receipt;
    c->by_tier[receipt->tier]++;
    c->wanted_up += receipt->wanted_up;
  }
  int64_t cached = 0;
  for (int t = 0; t < WEIR_MAX_TIERS; t++) cached = c->prefix_hit[t] > cached ? c->prefix_hit[t] : cached;
  const int32_t n_prompt = atomic_load(&r->n_prompt);
  r->end.cached_tokens = cached < n_prompt ? (int32_t)cached : n_prompt;
}

bool weir_reply_finish(weir_reply *r, weir_end end, const weir_service_error *error, const weir_outcome *o,
                       weir_cancel_why why) {
  pthread_mutex_lock(&r->of->lock);
  const bool first = r->stage != WEIR_AT_END;
  r->stage = WEIR_AT_END;
  pthread_mutex_unlock(&r->of->lock);
  if (first) weir_reply_finish_claimed(r, end, error, o, why);
  return first;
}

void weir_reply_finish_claimed(weir_reply *r, weir_end end, const weir_service_error *error,
                               const weir_outcome *o, weir_cancel_why why) {
  weir_service *s = r->of;
  const int64_t total = weir_service_now(s) - r->submitted_ns;
  weir_reply_end *x = &r->end;
  x->end = end;
  if (!x->stop) x->stop = "";
  if (error) x->error = *error;
  fill_counts(r, o);
  x->total_ns = total;
  x->queued_ns = o && r->accepted_ns ? r->accepted_ns - r->submitted_ns + o->queued_ns : total;
  x->first_token_ns = r->first_ns ? r->first_ns - r->submitted_ns : total;
  if (x->queued_ns > x->first_token_ns) x->queued_ns = x->first_token_ns;
  x->seed = r->job.draw.seed;
  x->mode = s->cfg.engine.n_tiers == 1 ? "" : weir_mode_name(r->mode);
  x->entropy = r->threshold;
  x->defer_rate = r->cascade.budget.rated ? r->cascade.budget.rate : NAN;
  count_end(r, why);
  atomic_fetch_sub(&s->open, 1); /* before the reader knows: its next request finds the place free */
  atomic_store_explicit(&r->state, WEIR_REPLY_ENDED, memory_order_release);
  weir_service_tell(s);
}

void weir_reply_unref(weir_reply *r) {
  if (atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) == 1) weir_reply_free(r);
}
