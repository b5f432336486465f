/* SPDX-License-Identifier: Apache-2.0 */
/* THE MAIN LOOP. Owns all request state: who waits, who is under way, their streams, the KV accounting of
 * each tier. A turn takes in what executors have done (engine_steps.c), looks whether any has
 * died or come back (engine_life.c), lets jobs go and come (engine_jobs.c), and starts what can be started.
 * One thread; executors may have theirs, and tell through `signals`. */
#include "serve/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/mem.h"
#include "run/tp.h"
#include "serve/engine_in.h"

enum {
  DEFAULT_ACTIVE = 16,
  DEFAULT_QUEUED = 256,
  /* Measured on two cores with the pair that comes with weir, 16 requests, every third prompt of 440 tokens:
   * 99 of 100 tokens follow the one before within 12 ms at 64 rows, 19 at 128, 20 to 22 at 256 and 512;
   * tokens a second are the same within 3 %. Above some 32 rows a CPU step is bound by arithmetic, so smaller
   * steps lose little; a device that is not wants more. */
  DEFAULT_PROMPT_CHUNK = 64,
  MAX_ACTIVE = 1 << 20,
  TENANTS = 1024,   /* that have a tracker of their deferrals at once */
  LONGEST_NAP_S = 1 /* without a word of an executor, timers are looked at again */
};
#define DEFAULT_AGE_NS 5000000000LL
#define NAP_NS         1000000LL

const char *weir_end_name(weir_end end) {
  static const char *const name[] = {"stop", "eos", "length", "error", "cancelled", "deadline"};
  return (size_t)end < sizeof name / sizeof *name ? name[end] : "unknown";
}

/* ---- life ---- */

/* From an executor's thread. */
static void on_exec_ready(void *ctx) {
  weir_engine *g = ctx;
  pthread_mutex_lock(&g->lock);
  g->signals++;
  pthread_cond_signal(&g->signal);
  pthread_mutex_unlock(&g->lock);
  if (g->cfg.on_ready) g->cfg.on_ready(g->cfg.hooks_ctx);
}

static weir_status tier_init(weir_engine *g, int32_t at, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_engine_tier *t = &g->tier[at];
  const weir_engine_cfg *cfg = &g->cfg;
  weir_exec *x = cfg->tier[at];
  const weir_exec_info *info = &x->info;
  const int32_t cache = cfg->prefix_pages < 0 ? info->n_pages / 2 : cfg->prefix_pages;
  const int32_t tokens = cfg->step_tokens[at], chunk = cfg->prompt_chunk[at];
  t->exec = x;
  t->limits.tokens = tokens > 0 && tokens < info->max_tokens ? tokens : info->max_tokens;
  t->limits.prompt_chunk = chunk > 0 ? chunk : DEFAULT_PROMPT_CHUNK;
  WEIR_TRY(weir_pages_create(info->n_pages, &t->kv.pages, e));
  WEIR_TRY(weir_prefix_create(t->kv.pages, cache, &t->kv.prefix, e));
  /* Pages shared by several sequences stand in each one's table. */
  const int64_t entries = (int64_t)weir_pages_for(info->n_ctx) * info->max_seqs;
  if (entries > INT32_MAX)
    WEIR_TRY(weir_fail(e, WEIR_EINVAL, "%s: context times sequences is too large", info->name));
  WEIR_TRY(weir_plan_init(&t->plan, info->max_tokens, info->max_seqs, (int32_t)entries, e));
  WEIR_TRY(WEIR_NEW((size_t)info->max_tokens, &t->rows, e));
  t->changed_ns = weir_engine_now(g);
  if (x->async) x->async->notify(x, on_exec_ready, g); /* before its life is looked at: no change is missed */
  t->life = x->life ? x->life->number(x, NULL) : 0;
out:
  return st;
}

static weir_status signal_init(weir_engine *g, weir_err *e) {
  pthread_condattr_t attr;
  if (pthread_mutex_init(&g->lock, NULL) != 0) return weir_fail(e, WEIR_ENOMEM, "engine: no mutex");
  pthread_condattr_init(&attr);
  pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  const int failed = pthread_cond_init(&g->signal, &attr);
  pthread_condattr_destroy(&attr);
  if (!failed) return WEIR_OK;
  pthread_mutex_destroy(&g->lock);
  return weir_fail(e, WEIR_ENOMEM, "engine: no condition variable");
}

/* Which ids end a text: asked once, since every token is compared with them. */
static weir_status collect_ends(weir_engine *g, weir_err *e) {
  const int32_t n = weir_tokenizer_n_vocab(g->cfg.tokenizer);
  int32_t n_vocab = n;
  for (int32_t t = 0; t < g->cfg.n_tiers; t++)
    if (g->cfg.tier[t]->info.n_vocab < n_vocab) n_vocab = g->cfg.tier[t]->info.n_vocab;
  for (int32_t id = 0; id < n_vocab; id++) g->n_end += weir_tokenizer_is_end(g->cfg.tokenizer, id);
  const weir_status st = WEIR_NEW((size_t)g->n_end, &g->end, e);
  if (st != WEIR_OK) return st;
  for (int32_t id = 0, k = 0; id < n_vocab && k < g->n_end; id++)
    if (weir_tokenizer_is_end(g->cfg.tokenizer, id)) g->end[k++] = id;
  return WEIR_OK;
}

/* Tiers that are dead from the start. */
static void find_stillborn(weir_engine *g) {
  for (int32_t t = 0; t < g->cfg.n_tiers; t++) {
    weir_err why = {0};
    const weir_exec *x = g->tier[t].exec;
    if (!x->life || g->tier[t].life != 0) continue;
    g->tier[t].life = x->life->number(g->tier[t].exec, &why);
    if (g->tier[t].life == 0) weir_engine_bury(g, t, &why);
  }
}

weir_status weir_engine_create(const weir_engine_cfg *cfg, weir_engine **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_engine *g = NULL;
  *out = NULL;
  if (cfg->n_tiers < 1 || cfg->n_tiers > 2)
    return weir_fail(e, WEIR_EINVAL, "engine: %d tiers, want 1 or 2", cfg->n_tiers);
  if (cfg->max_active > MAX_ACTIVE || cfg->max_queued > MAX_ACTIVE || cfg->age_ns < 0 ||
      cfg->step_timeout_ns < 0 || cfg->dead_wait_ns < 0)
    return weir_fail(e, WEIR_EINVAL,
                     "engine: max_active, max_queued, age, step_timeout or dead_wait is out of range");
  for (int32_t t = 0; t < cfg->n_tiers; t++)
    if (cfg->tier[t]->life && !cfg->tier[t]->async)
      return weir_fail(e, WEIR_EINVAL, "%s: it has a life and cannot tell of it", cfg->tier[t]->info.name);
  WEIR_TRY(WEIR_NEW(1, &g, e));
  st = signal_init(g, e);
  if (st != WEIR_OK) {
    free(g);
    return st;
  }
  g->cfg = *cfg;
  g->next_id = 1;
  g->next_deadline = INT64_MAX;
  g->wake_ns = INT64_MIN;
  g->defers = 1;
  if (g->cfg.max_active <= 0) g->cfg.max_active = DEFAULT_ACTIVE;
  if (g->cfg.max_queued <= 0) g->cfg.max_queued = DEFAULT_QUEUED;
  if (g->cfg.age_ns == 0) g->cfg.age_ns = DEFAULT_AGE_NS;
  for (int32_t t = 0; t < cfg->n_tiers; t++) {
    const int32_t most = cfg->tier[t]->info.max_seqs;
    if (g->cfg.max_active > most) g->cfg.max_active = most;
    WEIR_TRY(tier_init(g, t, e));
  }
  weir_engine_auto_init(g);
  for (g->n_buckets = 64; g->n_buckets < g->cfg.max_active + g->cfg.max_queued;) g->n_buckets *= 2;
  WEIR_TRY(WEIR_NEW((size_t)g->n_buckets, &g->bucket, e));
  WEIR_TRY(WEIR_NEW((size_t)g->cfg.max_active, &g->active, e));
  WEIR_TRY(WEIR_NEW((size_t)TENANTS, &g->rates.slot, e));
  g->rates.n_slots = TENANTS;
  WEIR_TRY(collect_ends(g, e));
  find_stillborn(g);
  *out = g;
  g = NULL;
out:
  weir_engine_destroy(g);
  return st;
}

/* Waits for a step under way, for as long as steps may take; afterwards nobody writes to the tier's memory,
 * unless the executor is still at it. */
static void tier_settle(weir_engine *g, weir_engine_tier *t) {
  weir_result *done;
  weir_err e;
  if (!t->exec) return;
  const weir_exec_async *a = t->exec->async;
  if (t->in_flight && !t->hung) {
    /* Of real time: the engine's clock may be one that stands still. */
    for (int64_t ns = 0; a && ns < g->cfg.step_timeout_ns && !a->ready(t->exec); ns += NAP_NS)
      nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
    t->hung = a && g->cfg.step_timeout_ns > 0 && !a->ready(t->exec);
  }
  if (t->in_flight && (!t->hung || a->ready(t->exec))) {
    t->exec->ops->wait(t->exec, &done, &e);
    t->in_flight = t->hung = false;
  }
  if (a) a->notify(t->exec, NULL, NULL);
}

void weir_engine_destroy(weir_engine *g) {
  if (!g) return;
  for (int32_t t = 0; t < g->cfg.n_tiers; t++) tier_settle(g, &g->tier[t]);
  for (int32_t i = 0; i < g->n_active; i++) weir_engine_job_free(g, weir_engine_job_of(g->active[i]));
  for (int32_t i = 0; i < g->queue.n; i++)
    weir_engine_job_free(g, weir_engine_job_of((weir_request *)g->queue.node[i]));
  for (int32_t t = 0; t < g->cfg.n_tiers; t++) {
    weir_engine_tier *y = &g->tier[t];
    if (y->hung) { /* the step that never ended may still write: its memory cannot be given back */
      weir_log(WEIR_LOG_ERROR, "%s: a step is still under way; its memory is given up", y->exec->info.name);
      continue;
    }
    weir_plan_fini(&y->plan, y->kv.pages);
    weir_prefix_destroy(y->kv.prefix);
    weir_pages_destroy(y->kv.pages);
    free(y->rows);
    free(y->top);
  }
  weir_queue_fini(&g->queue);
  free(g->active);
  free(g->leaver);
  free(g->bucket);
  free(g->rates.slot);
  free(g->end);
  pthread_cond_destroy(&g->signal);
  pthread_mutex_destroy(&g->lock);
  for (int32_t t = 0; t < g->cfg.n_tiers; t++)
    if (g->tier[t].hung) return; /* `result` lies in it */
  free(g);
}

/* ---- jobs in ---- */

static weir_status check_draw(const weir_ask *a, weir_err *e) {
  if (!(a->temperature >= 0) || a->temperature > 100)
    return weir_fail(e, WEIR_EINVAL, "temperature is %g, want 0 to 100", (double)a->temperature);
  if (a->top_k < 0) return weir_fail(e, WEIR_EINVAL, "top_k is %d, want 0 (off) or more", a->top_k);
  if (!(a->top_p > 0 && a->top_p <= 1))
    return weir_fail(e, WEIR_EINVAL, "top_p is %g, want more than 0 and at most 1", (double)a->top_p);
  if (!(a->min_p >= 0 && a->min_p <= 1))
    return weir_fail(e, WEIR_EINVAL, "min_p is %g, want 0 to 1", (double)a->min_p);
  return WEIR_OK;
}

static weir_status check_limits(const weir_job *s, weir_err *e) {
  if (s->n_top < 0 || s->n_top > WEIR_TOP_MAX)
    return weir_fail(e, WEIR_EINVAL, "n_top is %d, want 0 to %d", s->n_top, WEIR_TOP_MAX);
  if (s->min_new < 0 || s->min_new > s->max_new)
    return weir_fail(e, WEIR_EINVAL, "min_new is %d, want 0 to max_new, which is %d", s->min_new, s->max_new);
  if (s->priority < -WEIR_MAX_PRIORITY || s->priority > WEIR_MAX_PRIORITY)
    return weir_fail(e, WEIR_EINVAL, "priority is %d, want -%d to %d", s->priority, WEIR_MAX_PRIORITY,
                     WEIR_MAX_PRIORITY);
  if (s->deadline_ns < 0)
    return weir_fail(e, WEIR_EINVAL, "deadline_ns is %lld, want 0 (none) or more", (long long)s->deadline_ns);
  return WEIR_OK;
}

static bool is_dead(const weir_engine *g, int32_t t) { return t < g->cfg.n_tiers && g->tier[t].dead; }

/* Dead, and whoever cannot do without it may wait for it. */
static bool is_awaited(const weir_engine *g, int32_t t) {
  return g->tier[t].orphans && weir_engine_now(g) < g->tier[t].give_up_ns;
}

static bool is_lost(const weir_engine *g, int32_t t) { return is_dead(g, t) && !is_awaited(g, t); }

static bool job_needs(const weir_job *s, int32_t t) {
  if (s->auto_ && !s->pinned && s->cascade->n_tiers > 1) return weir_auto_needs(s->quality, t);
  return weir_engine_needs_tier(s->cascade, s->pinned, t);
}

static weir_status check_cascade(const weir_engine *g, const weir_job *s, weir_err *e) {
  const char *why = weir_cascade_cfg_error(s->cascade);
  if (s->auto_ && (unsigned)s->quality >= WEIR_N_QUALITIES)
    return weir_fail(e, WEIR_EINVAL, "quality %d is not known", (int)s->quality);
  if (s->auto_ && s->n_spans > 0)
    return weir_fail(e, WEIR_EINVAL, "spans have no meaning in mode auto");
  if (why) return weir_fail(e, WEIR_EINVAL, "cascade: %s", why);
  if (s->cascade->n_tiers > g->cfg.n_tiers)
    return weir_fail(e, WEIR_EINVAL, "the cascade has %d tiers, this engine %d", s->cascade->n_tiers,
                     g->cfg.n_tiers);
  for (int32_t t = 0; t + 1 < s->cascade->n_tiers; t++)
    if (s->cascade->gate[t].kind == WEIR_GATE_HEAD && !g->tier[t].exec->info.gate_head)
      return weir_fail(e, WEIR_EINVAL, "gate head: %s has no head; it comes with a gate file",
                       g->tier[t].exec->info.name);
  if (s->pinned && g->cfg.lone_large)
    return weir_fail(e, WEIR_EINVAL, "the request is pinned to the small model, and there is only %s",
                     g->tier[0].exec->info.name);
  for (int32_t t = 0; t < g->cfg.n_tiers; t++)
    if (is_lost(g, t) && job_needs(s, t))
      return weir_fail(e, WEIR_EDEVICE, "%s is down: %s", g->tier[t].exec->info.name,
                       g->tier[t].why_dead.msg);
  return WEIR_OK;
}

/* Ids and length of the prompt, and the least vocabulary and context of the tiers. */
static weir_status check_prompt(const weir_engine *g, const weir_job *s, int32_t *n_ctx, int32_t *n_vocab,
                                weir_err *e) {
  *n_ctx = *n_vocab = INT32_MAX;
  for (int32_t t = 0; t < g->cfg.n_tiers; t++) {
    const weir_exec_info *info = &g->tier[t].exec->info;
    if (info->n_ctx < *n_ctx) *n_ctx = info->n_ctx;
    if (info->n_vocab < *n_vocab) *n_vocab = info->n_vocab;
  }
  for (int32_t i = 0; i < s->n_prompt; i++)
    if (s->prompt[i] < 0 || s->prompt[i] >= *n_vocab)
      return weir_fail(e, WEIR_EINVAL, "prompt token %d is id %d, outside the vocabulary of %d", i,
                       s->prompt[i], *n_vocab);
  if (s->n_prompt >= *n_ctx)
    return weir_fail(e, WEIR_EINVAL, "the prompt has %d tokens; with a context of %d at most %d fit",
                     s->n_prompt, *n_ctx, *n_ctx - 1);
  return WEIR_OK;
}

static void enter(weir_engine *g, weir_engine_job *j) {
  weir_engine_job **at = &g->bucket[j->req->id & (g->n_buckets - 1)];
  j->next = *at;
  *at = j;
  weir_queue_push(&g->queue, &j->req->node);
  if (j->spec.deadline_ns > 0 && j->spec.deadline_ns < g->next_deadline)
    g->next_deadline = j->spec.deadline_ns;
  g->wake_ns = INT64_MIN;
}

weir_status weir_engine_submit(weir_engine *g, const weir_job *s, int64_t *id, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_engine_job *j = NULL;
  int32_t n_ctx, n_vocab;
  WEIR_TRY(check_draw(&s->draw, e));
  WEIR_TRY(check_cascade(g, s, e));
  WEIR_TRY(check_prompt(g, s, &n_ctx, &n_vocab, e));
  WEIR_TRY(check_limits(s, e));
  WEIR_TRY(weir_penalties_check(&s->penalties, n_vocab, e));
  if (g->queue.n >= g->cfg.max_queued) return weir_fail(e, WEIR_EBUSY, "%d jobs are waiting", g->queue.n);
  const int32_t room = n_ctx - s->n_prompt, max_new = s->max_new < room ? s->max_new : room;
  const int32_t min_new = s->min_new < max_new ? s->min_new : max_new;
  WEIR_TRY(weir_queue_reserve(&g->queue, g->queue.n + 1, e));
  WEIR_TRY(WEIR_NEW(1, &j, e));
  j->spec = *s;
  WEIR_TRY(weir_engine_make_choices(g, s, max_new, n_vocab, &j->choices, e));
  WEIR_TRY(weir_engine_make_spans(j, s, max_new, e));
  j->submitted_ns = weir_engine_now(g);
  const weir_request_spec spec = {.prompt = s->prompt,
                                  .n_prompt = s->n_prompt,
                                  .max_new = max_new,
                                  .draw = s->draw,
                                  .cascade = s->cascade,
                                  .pinned = s->pinned,
                                  .salt = s->salt,
                                  .urgency = weir_urgency(j->submitted_ns, s->priority, g->cfg.age_ns),
                                  .penalties = s->penalties,
                                  .min_new = min_new,
                                  .n_top = s->n_top,
                                  .end = g->end,
                                  .n_end = g->n_end,
                                  .choices = s->n_choices > 0 ? &j->choices : NULL};
  WEIR_TRY(weir_request_create(&spec, g->next_id, &j->req, e));
  j->req->owner = j;
  j->threshold = j->req->cfg.gate[0].threshold;
  j->req->cfg.gate_moves = j->spans.n > 0;
  weir_engine_budget_begin(j);
  WEIR_TRY(weir_stream_init(&j->stream, g->cfg.tokenizer, max_new, s->show_special, s->stop, s->n_stop, e));
  j->stream.min_new = min_new;
  /* Behind a mark (of a turn, of the beginning) a new text starts; otherwise it goes on the prompt's. */
  j->stream.start.started =
      s->n_prompt > 0 && !weir_tokenizer_is_special(g->cfg.tokenizer, s->prompt[s->n_prompt - 1]);
  WEIR_TRY(weir_engine_follow(g, j, e)); /* what is forced from the beginning */
  if (is_dead(g, 1) && !job_needs(s, 1)) j->req->cascade.hi = 0;
  if (id) *id = g->next_id;
  g->next_id++;
  weir_engine_route_begin(g, j);
  g->pinned_jobs += s->pinned;
  weir_engine_auto_begin(g, j);
  weir_engine_log_begin(g, j);
  enter(g, j);
  j = NULL;
out:
  if (j) weir_engine_job_free(g, j);
  return st;
}

void weir_engine_cancel(weir_engine *g, int64_t id) {
  weir_engine_job *j = weir_engine_find(g, id);
  if (!j) return;
  j->cancelled = g->some_cancelled = true;
  g->wake_ns = INT64_MIN;
}

/* ---- the loop ---- */

static uint64_t signals(weir_engine *g) {
  pthread_mutex_lock(&g->lock);
  const uint64_t n = g->signals;
  pthread_mutex_unlock(&g->lock);
  return n;
}

/* Until an executor has told something since `seen`, or a timer runs out. */
static void sleep_for_signal(weir_engine *g, uint64_t seen) {
  struct timespec until;
  clock_gettime(CLOCK_MONOTONIC, &until);
  int64_t ns = g->wake_ns == INT64_MAX ? INT64_MAX : g->wake_ns - weir_engine_now(g);
  if (ns <= 0) return;
  if (ns > LONGEST_NAP_S * 1000000000LL) ns = LONGEST_NAP_S * 1000000000LL;
  ns += until.tv_nsec;
  until.tv_sec += ns / 1000000000;
  until.tv_nsec = ns % 1000000000;
  pthread_mutex_lock(&g->lock);
  while (g->signals == seen && pthread_cond_timedwait(&g->signal, &g->lock, &until) == 0) {
  }
  pthread_mutex_unlock(&g->lock);
}

static bool anything_in_flight(const weir_engine *g) {
  for (int32_t t = 0; t < g->cfg.n_tiers; t++)
    if (g->tier[t].in_flight && !g->tier[t].hung) return true;
  return false;
}

/* A tier is dead and may come back, and jobs may be waiting for it. */
static bool anyone_hopes(const weir_engine *g) {
  for (int32_t t = 0; t < g->cfg.n_tiers && g->n_active + g->queue.n > 0; t++)
    if (g->tier[t].dead && g->tier[t].orphans) return true;
  return false;
}

/* When nothing can be done at once: the next deadline, the end of a large batch's patience, of a step's, of
 * those who wait for a dead tier. */
static int64_t next_timer(const weir_engine *g) {
  const int64_t now = weir_engine_now(g);
  const int64_t give_up = weir_engine_give_up_at(g);
  int64_t at = g->next_deadline < give_up ? g->next_deadline : give_up;
  for (int32_t t = 0; t < g->cfg.n_tiers; t++) {
    const weir_engine_tier *y = &g->tier[t];
    int64_t oldest, due = INT64_MAX;
    if (y->dead) { /* a little later where its time is over: memory was short then */
      due = y->give_up_ns > now ? y->give_up_ns : now + NAP_NS;
      if (y->orphans && due < at) at = due;
      continue;
    }
    if (y->in_flight && !y->hung && g->cfg.step_timeout_ns > 0)
      due = y->launched_ns + g->cfg.step_timeout_ns + 1;
    else if (t == 1 && !y->in_flight && weir_engine_waiting(g, t, &oldest) > 0)
      due = oldest + g->cfg.large_wait_ns;
    if (t == 1 && !y->in_flight && due <= now) continue; /* it could not be placed: pages come with a step */
    if (due < at) at = due;
  }
  return at;
}

weir_status weir_engine_step(weir_engine *g, bool *busy, weir_err *e) {
  weir_status st = WEIR_OK;
  const uint64_t seen = signals(g);
  bool moved = weir_engine_collect(g);
  moved |= weir_engine_look(g);
  moved |= weir_engine_give_up(g);
  moved |= weir_engine_sweep(g);
  moved |= weir_engine_launch(g, &st, e);
  moved |= weir_engine_sweep(g);
  weir_engine_auto_idle(g);
  g->wake_ns = moved || g->some_cancelled ? INT64_MIN : next_timer(g);
  if (!moved && !g->cfg.on_ready && (anything_in_flight(g) || anyone_hopes(g))) {
    sleep_for_signal(g, seen);
    g->wake_ns = INT64_MIN;
    moved = weir_engine_collect(g);
    if (weir_engine_look(g) || moved) weir_engine_sweep(g);
  }
  if (g->n_active + g->queue.n == 0 && !anything_in_flight(g)) g->wake_ns = INT64_MAX;
  if (weir_goodput_tell(&g->speed, weir_engine_now(g), g->n_active))
    weir_log(WEIR_LOG_WARN,
             "the large model alone would be faster at this load: %.0f tokens/s against %.0f, %d requests",
             weir_goodput_large_only(&g->speed, weir_engine_now(g), g->n_active),
             weir_goodput_rate(&g->speed, weir_engine_now(g)), g->n_active);
  *busy = g->n_active + g->queue.n > 0;
  return st;
}

int64_t weir_engine_next_wake_ns(const weir_engine *g) {
  for (int32_t t = 0; t < g->cfg.n_tiers; t++) {
    const weir_engine_tier *y = &g->tier[t];
    if (y->in_flight && !y->hung && (!y->exec->async || y->exec->async->ready(y->exec))) return INT64_MIN;
    if (weir_engine_life_has_changed(y)) return INT64_MIN;
  }
  return g->wake_ns;
}

static void put_life(const weir_engine *g, int32_t t, weir_tier_stats *z) {
  const weir_engine_tier *y = &g->tier[t];
  z->dead = y->dead;
  z->comes_back = y->exec->life != NULL;
  z->awaited = y->dead && is_awaited(g, t);
  z->since_ns = y->changed_ns;
  if (y->dead) snprintf(z->why_dead, sizeof z->why_dead, "%s", y->why_dead.msg);
  if (!g->cfg.tp_stats[t]) return;
  const weir_tp_stats s = g->cfg.tp_stats[t](y->exec);
  z->comm_bytes = s.comm.bytes;
  z->comm_ns = s.comm.ns;
}

weir_engine_stats weir_engine_get_stats(const weir_engine *g) {
  const int64_t now = weir_engine_now(g);
  weir_engine_stats s = {.active = g->n_active,
                         .queued = g->queue.n,
                         .last_step_ns = g->last_step_ns,
                         .tokens_wanted_up = g->tokens_wanted_up,
                         .deferrals_given_up = g->given_up,
                         .cost = g->cost,
                         .pinned_jobs = g->pinned_jobs,
                         .pinned_large_rows = g->pinned_large_rows,
                         .pinned_refused = g->cfg.n_tiers > 1 ? g->tier[1].plan.pin_refused : 0,
                         .tokens_forced = g->tokens_forced,
                         .budget = weir_engine_budget_stats(g),
                         .routed = g->routed,
                         .goodput = weir_goodput_rate(&g->speed, now),
                         .auto_ = weir_auto_get_stats(&g->auto_)};
  if (g->cfg.n_tiers > 1) s.large_only_goodput = weir_goodput_large_only(&g->speed, now, g->n_active);
  memcpy(s.tokens_by_tier, g->tokens_by_tier, sizeof s.tokens_by_tier);
  memcpy(s.jobs_done, g->jobs_done, sizeof s.jobs_done);
  for (int32_t t = 0; t < g->cfg.n_tiers; t++) {
    const weir_engine_tier *y = &g->tier[t];
    weir_tier_stats *z = &s.tier[t];
    *z = y->stats;
    z->preempted = y->plan.preempted;
    z->prefix_lookup_tokens = y->kv.lookup_tokens;
    z->prefix_hit_tokens = y->kv.hit_tokens;
    z->kv_pages = weir_pages_total(y->kv.pages);
    z->kv_pages_cached = weir_prefix_idle(y->kv.prefix);
    z->kv_pages_used = z->kv_pages - weir_pages_free(y->kv.pages) - z->kv_pages_cached;
    z->waiting = weir_engine_waiting(g, t, NULL);
    put_life(g, t, z);
  }
  return s;
}
