/* SPDX-License-Identifier: Apache-2.0 */
/* The scheduler's small world: one thread, a clock that stands still unless a step or a wait moves it. */
#include "world.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "model/gguf.h"

static int64_t now(void *ctx) { return ((world *)ctx)->clock_ns; }

static weir_tokenizer *shared_tokenizer(void) {
  static weir_tokenizer *t;
  weir_err e = {0};
  weir_gguf *g;
  if (t) return t;
  if (weir_gguf_open("tests/vectors/models/pair-small.gguf", &g, &e) != WEIR_OK) fail_msg("%s", e.msg);
  if (weir_tokenizer_from_gguf(g, &t, &e) != WEIR_OK) fail_msg("%s", e.msg);
  weir_gguf_close(g);
  return t;
}

world_opts world_roomy(void) {
  return (world_opts){.max_active = 8,
                      .max_tokens = 256,
                      .max_seqs = 16,
                      .n_pages = {512, 512},
                      .large_batch = 4,
                      .prefix_pages = 128,
                      .large_wait_ns = 200000,
                      .step_ns = {100000, 400000},
                      .row_ns = {2000, 8000},
                      .fail_at = {-1, -1},
                      .hang_at = {-1, -1}};
}

static void on_step(void *ctx, int32_t tier, const weir_step_note *n) {
  world *w = ctx;
  w->note_rows[tier] += n->rows;
  w->note_steps[tier]++;
  w->note_ahead += n->rows_ahead;
  if (n->device_ns > w->slowest_ns) w->slowest_ns = n->device_ns;
  if (n->oldest_wait_ns > w->max_wait_ns) w->max_wait_ns = n->oldest_wait_ns;
  assert_int_equal(n->rows, n->rows_decode + n->rows_prompt + n->rows_catchup + n->rows_judged);
  assert_true(n->rows_ahead <= n->rows_prompt && n->seqs <= n->rows && n->seqs > 0);
}

static void on_ready(void *ctx) { (void)ctx; }

void world_bare(world *w) {
  *w = (world){.law = {.n_vocab = 288, .agreement = 0.8, .sharpness = 3, .end_id = 285},
               .tokenizer = shared_tokenizer(),
               .clock_ns = 1000000000};
}

void world_open(world *w, const world_opts *o) {
  weir_err e = {0};
  world_bare(w);
  w->o = *o;
  if (o->law.n_vocab > 0) w->law = o->law;
  weir_engine_cfg cfg = {.n_tiers = 2,
                         .tokenizer = w->tokenizer,
                         .clock = {now, w},
                         .max_active = o->max_active,
                         .max_queued = WORLD_JOBS,
                         .large_batch = o->large_batch,
                         .large_wait_ns = o->large_wait_ns,
                         .prefix_pages = o->prefix_pages,
                         .prompt_chunk = {o->prompt_chunk, o->prompt_chunk},
                         .overlap_tiers = o->overlap,
                         .prefill_ahead = o->ahead,
                         .age_ns = o->age_ns,
                         .step_timeout_ns = o->step_timeout_ns,
                         .dead_wait_ns = o->dead_wait_ns,
                         .on_step = on_step,
                         .on_ready = on_ready,
                         .hooks_ctx = w};
  for (int32_t t = 0; t < 2; t++) {
    virtual_opts x = {.fake = {.law = w->law,
                               .tier = t,
                               .n_ctx = 512,
                               .n_pages = o->n_pages[t],
                               .max_tokens = o->max_tokens,
                               .max_seqs = o->max_seqs,
                               .fail_at_step = o->fail_at[t],
                               .fed = o->fed[t]},
                      .clock_ns = &w->clock_ns,
                      .step_ns = o->step_ns[t],
                      .row_ns = o->row_ns[t],
                      .free_rows = o->free_rows[t],
                      .slow_every = o->slow_every[t],
                      .slow_ns = o->slow_ns[t],
                      .async = o->async,
                      .hang_at_step = o->hang_at[t],
                      .n_deaths = o->n_deaths[t]};
    memcpy(x.death, o->death[t], sizeof x.death);
    cfg.tier[t] = w->exec[t] = virtual_exec_create(&x);
  }
  if (weir_engine_create(&cfg, &w->engine, &e) != WEIR_OK) fail_msg("%s", e.msg);
}

void world_close(world *w) {
  for (int32_t t = 0; t < 2; t++) virtual_exec_let_go(w->exec[t]); /* else its memory is given up */
  weir_engine_destroy(w->engine);
  for (int32_t t = 0; t < 2; t++) w->exec[t]->ops->destroy(w->exec[t]);
}

/* ---- jobs ---- */

static void on_piece(void *ctx, const weir_piece *p) {
  world_job *j = ctx;
  assert_int_equal(p->index, j->n); /* in order, each once, nothing after the end */
  assert_int_equal(j->done, 0);
  assert_true(j->n < j->max_new);
  assert_int_equal(p->n_top, p->receipt->why == WEIR_WHY_FORCED && j->n_top > 0 ? 1 : j->n_top);
  if (j->n == 0) j->first_ns = j->world->clock_ns;
  for (int32_t i = 0; i < p->n_top; i++) j->top[j->n][i] = p->top[i];
  assert_true(p->len <= sizeof j->text.data - j->text.len);
  memcpy(j->text.data + j->text.len, p->text, p->len);
  j->text.len += p->len;
  j->tok[j->n] = p->receipt->id;
  j->receipt[j->n++] = *p->receipt;
}

static void on_done(void *ctx, const weir_outcome *r) {
  world_job *j = ctx;
  j->done++;
  j->end = r->end;
  j->text.stopped = r->end == WEIR_END_STOP;
  j->counts = *r->counts;
  j->done_ns = j->world->clock_ns;
  j->queued_ns = r->queued_ns;
  assert_int_equal(r->counts->new_tokens, j->n);
  assert_int_equal(r->counts->by_tier[0] + r->counts->by_tier[1], j->n);
  int32_t forced = 0;
  for (int32_t i = 0; i < j->n; i++) forced += j->receipt[i].why == WEIR_WHY_FORCED;
  assert_int_equal(r->counts->forced, forced);
  if (r->err) j->err = *r->err;
}

static weir_cascade_cfg cascade_of(const world_job *j) {
  weir_cascade_cfg cfg;
  weir_err e = {0};
  weir_cascade_opts o = {.mode = j->mode};
  if (j->mode != WEIR_MODE_SMALL && j->mode != WEIR_MODE_LARGE) {
    o.set = WEIR_OPT_GATE | WEIR_OPT_THRESHOLD;
    o.gate = WEIR_GATE_ENTROPY;
    o.threshold = j->tau;
  }
  if (j->mode == WEIR_MODE_ROUTE) {
    o.set |= WEIR_OPT_ROUTE_PROMPT | WEIR_OPT_ROUTE_AFTER;
    o.set |= j->route_rate > 0 ? WEIR_OPT_DEFER_RATE : WEIR_OPT_ROUTE_SHARE;
    o.route_prompt = j->route_prompt;
    o.route_after = j->route_after;
    o.route_share = j->route_share;
    o.defer_rate = j->route_rate;
  }
  if (j->mode == WEIR_MODE_SPECULATE && j->accept != WEIR_KEEP_ALL) {
    o.set |= WEIR_OPT_ACCEPT;
    o.accept = j->accept;
  }
  if (j->defer_rate > 0) {
    o.set = (o.set & ~(uint32_t)WEIR_OPT_THRESHOLD) | WEIR_OPT_DEFER_RATE | WEIR_OPT_DEFER_BURST;
    o.defer_rate = j->defer_rate;
    o.defer_burst = j->defer_burst;
  }
  const struct {
    bool given;
    uint32_t option;
  } more[] = {{j->window > 0, WEIR_OPT_WINDOW},
              {j->hold > 0, WEIR_OPT_HOLD},
              {j->horizon > 0, WEIR_OPT_HORIZON},
              {j->load_price > 0, WEIR_OPT_LOAD_PRICE}};
  for (size_t i = 0; i < sizeof more / sizeof *more; i++)
    if (more[i].given) o.set |= more[i].option;
  o.window = j->window;
  o.hold = j->hold;
  o.horizon = j->horizon;
  o.load_price = j->load_price;
  if (j->fusion != 0 &&
      (j->mode == WEIR_MODE_DEFER || j->mode == WEIR_MODE_ROLLBACK || j->mode == WEIR_MODE_AUTO)) {
    o.set |= WEIR_OPT_FUSION_WEIGHT;
    o.fusion_weight = j->fusion;
  }
  if (weir_cascade_cfg_make(&o, &cfg, &e) != WEIR_OK) fail_msg("%s", e.msg);
  cfg.defer_wait_ns = j->defer_wait_ns;
  return cfg;
}

void world_submit(world *w, world_job *j, int64_t start_ns) {
  weir_err e = {0};
  weir_cascade_cfg cascade = cascade_of(j);
  weir_bias bias[WORLD_BIAS];
  memcpy(bias, j->bias, sizeof bias);
  char stop_text[WORLD_STOPS][8];
  const char *stop[WORLD_STOPS];
  memcpy(stop_text, j->stop, sizeof stop_text);
  for (int32_t i = 0; i < WORLD_STOPS; i++) stop[i] = stop_text[i];
  char choice_text[WORLD_CHOICES][sizeof j->choice[0]];
  const char *choice[WORLD_CHOICES];
  weir_gate_span span[WORLD_SPANS];
  memcpy(choice_text, j->choice, sizeof choice_text);
  for (int32_t i = 0; i < WORLD_CHOICES; i++) choice[i] = choice_text[i];
  for (int32_t i = 0; i < WORLD_SPANS; i++)
    span[i] = (weir_gate_span){j->span[i].start, j->span[i].end, j->span[i].tau};
  weir_job job = {.prompt = j->prompt,
                  .n_prompt = j->n_prompt,
                  .max_new = j->max_new,
                  .draw = j->draw,
                  .cascade = &cascade,
                  .choices = choice,
                  .n_choices = j->n_choices,
                  .span = span,
                  .n_spans = j->n_spans,
                  .penalties = j->penalties,
                  .n_top = j->n_top,
                  .min_new = j->min_new,
                  .priority = j->priority,
                  .deadline_ns = j->deadline_ns ? start_ns + j->deadline_ns : 0,
                  .salt = j->salt,
                  .pinned = j->pinned,
                  .ignore_eos = j->ignore_eos,
                  .show_special = j->show_special,
                  .stop = stop,
                  .n_stop = j->n_stop,
                  .on_piece = on_piece,
                  .on_done = on_done,
                  .on_decision = j->on_decision,
                  .ctx = j,
                  .auto_ = j->mode == WEIR_MODE_AUTO,
                  .quality = j->quality};
  job.penalties.bias = bias;
  j->world = w;
  j->submitted = true;
  const weir_status st = weir_engine_submit(w->engine, &job, &j->id, &e);
  memset(bias, 0xee, sizeof bias); /* everything was copied */
  memset(&cascade, 0xee, sizeof cascade);
  memset(stop_text, 0xee, sizeof stop_text);
  memset(choice_text, 0xee, sizeof choice_text);
  memset(span, 0xee, sizeof span);
  if (st == WEIR_OK) return;
  if (st != WEIR_EDEVICE) fail_msg("submit: %s", e.msg);
  j->done = 1; /* a dead tier is told at the door */
  j->end = WEIR_END_ERROR;
  j->err = e;
}

/* Submits and cancels what is due; when the next of these is. */
static int64_t events(world *w, world_job *job, int32_t n, int64_t start_ns) {
  int64_t next = INT64_MAX;
  for (int32_t i = 0; i < n; i++) {
    world_job *j = &job[i];
    if (!j->submitted) {
      if (start_ns + j->arrives_ns > w->clock_ns) {
        if (start_ns + j->arrives_ns < next) next = start_ns + j->arrives_ns;
        continue;
      }
      world_submit(w, j, start_ns);
    }
    if (j->cancel_ns == 0 || j->done) continue;
    if (start_ns + j->cancel_ns <= w->clock_ns)
      weir_engine_cancel(w->engine, j->id);
    else if (start_ns + j->cancel_ns < next)
      next = start_ns + j->cancel_ns;
  }
  return next;
}

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

static void expect_no_pages(const world *w) {
  const weir_engine_stats s = weir_engine_get_stats(w->engine);
  assert_int_equal(s.active + s.queued, 0);
  for (int32_t t = 0; t < 2; t++) {
    if (s.tier[t].kv_pages_used != 0)
      fail_msg("seed %llu: tier %d: %d pages are held by nobody", (unsigned long long)w->seed, t,
               s.tier[t].kv_pages_used);
    assert_int_equal(s.tier[t].waiting, 0);
  }
}

void world_run(world *w, world_job *job, int32_t n) {
  const int64_t start = w->clock_ns, until = start + (w->horizon_ns ? w->horizon_ns : 60000000000);
  bool busy = true;
  int32_t still = 0;
  for (;;) {
    weir_err e = {0};
    const int64_t event = events(w, job, n, start), before = w->clock_ns;
    if (weir_engine_step(w->engine, &busy, &e) != WEIR_OK)
      fail_msg("seed %llu: step: %s", (unsigned long long)w->seed, e.msg);
    if (w->o.each_turn) w->o.each_turn(w);
    if (w->turns++ % 16 == 0) {
      const weir_engine_stats s = weir_engine_get_stats(w->engine);
      if (s.active == w->o.max_active) w->large_only = s.large_only_goodput;
    }
    const int64_t wake = weir_engine_next_wake_ns(w->engine);
    if (!busy && event == INT64_MAX) break;
    if (w->clock_ns > until)
      fail_msg("seed %llu: the jobs do not come to an end", (unsigned long long)w->seed);
    still = w->clock_ns == before ? still + 1 : 0;
    if (still > 2 * WORLD_JOBS) fail_msg("seed %llu: the engine spins", (unsigned long long)w->seed);
    if (wake <= w->clock_ns) {
      w->idle_turns += still > 0;
      continue;
    }
    int64_t next = min64(wake, event);
    for (int32_t t = 0; t < 2; t++) next = min64(next, virtual_exec_next(w->exec[t]));
    if (next == INT64_MAX) fail_msg("seed %llu: the engine waits for nothing", (unsigned long long)w->seed);
    if (next > w->clock_ns) {
      w->clock_ns = next;
      still = 0;
    }
  }
  /* Steps whose requests are all gone are taken in as well. */
  for (int32_t t = 0; t < 2; t++) {
    const int64_t due = virtual_exec_due(w->exec[t]);
    if (due == INT64_MAX) continue;
    if (due > w->clock_ns) w->clock_ns = due;
    assert_int_equal(weir_engine_step(w->engine, &busy, NULL), WEIR_OK);
  }
  for (int32_t i = 0; i < n; i++)
    if (job[i].done != 1)
      fail_msg("seed %llu: job %d ended %d times", (unsigned long long)w->seed, i, job[i].done);
  expect_no_pages(w);
}

/* ---- plain decoding ---- */

int32_t world_choice(const world *w, const world_job *j, int32_t i, int32_t *tok) {
  weir_tokens ids = {0};
  weir_err e = {0};
  if (weir_tokenize(w->tokenizer, j->choice[i], strlen(j->choice[i]), false, &ids, &e) != WEIR_OK)
    fail_msg("%s", e.msg);
  memcpy(tok, ids.id, (size_t)ids.n * sizeof *tok);
  const int32_t n = ids.n;
  weir_tokens_fini(&ids);
  return n;
}

/* Marks the ids that may follow; *forced: one must. Returns how many may. */
static int32_t allowed(const world *w, const world_job *j, const int32_t *tok, int32_t n, bool *may,
                       bool *forced) {
  const int32_t m = n - j->n_prompt;
  bool ends = false;
  int32_t one[96], count = 0;
  memset(may, 0, 512 * sizeof *may);
  for (int32_t i = 0; i < j->n_choices; i++) {
    const int32_t len = world_choice(w, j, i, one);
    if (len < m || (m > 0 && memcmp(one, tok + j->n_prompt, (size_t)m * sizeof *one) != 0)) continue;
    ends |= len == m;
    if (len == m) continue;
    count += !may[one[m]];
    may[one[m]] = true;
  }
  *forced = count == 1 && !ends;
  for (int32_t id = 0; count > 0 && ends && id < w->law.n_vocab; id++) {
    if (!weir_tokenizer_is_end(w->tokenizer, id) || may[id]) continue;
    may[id] = true;
    count++;
  }
  return count;
}

float world_tau(const world *w, const world_job *j, const int32_t *tok, int32_t n) {
  weir_detok d = {.started = !weir_tokenizer_is_special(w->tokenizer, j->prompt[j->n_prompt - 1])};
  weir_buf text = {0};
  weir_err e = {0};
  int32_t active = -1;
  for (int32_t i = j->n_prompt; i < n; i++)
    if (weir_detok_put(&d, w->tokenizer, tok[i], j->show_special, &text, &e) != WEIR_OK)
      fail_msg("%s", e.msg);
  size_t from = 0;
  for (size_t to = 1; to <= text.len; to++) { /* letter by letter: does any marker end here? */
    for (int32_t s = 0; s < j->n_spans; s++) {
      const char *mark = active < 0 ? j->span[s].start : j->span[active].end;
      const size_t len = strlen(mark);
      if ((active >= 0 && s != active) || len == 0 || to - from < len) continue;
      if (memcmp(text.data + to - len, mark, len) != 0) continue;
      active = active < 0 ? s : -1;
      from = to;
      break;
    }
  }
  weir_buf_fini(&text);
  return active < 0 ? j->tau : j->span[active].tau;
}

weir_ask world_ask(const world *w, const world_job *j, const int32_t *tok, int32_t n, weir_logit_edit *edit) {
  const weir_penalties *p = &j->penalties;
  weir_ask a = j->draw;
  a.pos = n;
  a.probe = -1;
  a.n_top = j->n_top;
  a.edit = edit;
  a.n_edits = 0;
  bool may[512], forced;
  if (j->n_choices > 0) allowed(w, j, tok, n, may, &forced);
  for (int32_t id = 0; id < w->law.n_vocab; id++) {
    weir_logit_edit x = {id, 1, 0};
    int32_t all = 0, new = 0;
    for (int32_t i = 0; i < n; i++) {
      all += tok[i] == id;
      new += i >= j->n_prompt &&tok[i] == id;
    }
    if (all > 0 && p->repetition != 0) x.scale = p->repetition;
    if (new > 0) x.add -= p->presence;
    x.add -= p->frequency * (float)new;
    for (int32_t i = 0; i < p->n_bias; i++)
      if (j->bias[i].id == id) x.add += j->bias[i].add;
    if (n - j->n_prompt < j->min_new && weir_tokenizer_is_end(w->tokenizer, id)) x.add = WEIR_LOGIT_BAN;
    if (j->n_choices > 0 && !may[id]) continue;
    if (j->n_choices > 0 || x.scale != 1 || x.add != 0) edit[a.n_edits++] = x;
  }
  a.only_edits = a.n_edits > 0 && j->n_choices > 0;
  return a;
}

/* Where the first of the stop strings begins that end in text[0..len) behind `before`; `len` when none. */
static size_t naive_stop(const world_job *j, const char *text, size_t len, size_t before) {
  for (size_t at = 0; at < len; at++)
    for (int32_t s = 0; s < j->n_stop; s++) {
      const size_t n = strlen(j->stop[s]);
      if (at + n > before && at + n <= len && memcmp(text + at, j->stop[s], n) == 0) return at;
    }
  return len;
}

void world_text_of(const world *w, const world_job *j, const int32_t *tok, int32_t n, world_text *out) {
  weir_detok d = {.started = !weir_tokenizer_is_special(w->tokenizer, j->prompt[j->n_prompt - 1])};
  weir_buf text = {0};
  size_t end = 0;
  weir_err e = {0};
  out->stopped = false;
  for (int32_t i = 0; i < n && !out->stopped; i++) {
    const size_t before = text.len;
    if (weir_detok_put(&d, w->tokenizer, tok[i], j->show_special, &text, &e) != WEIR_OK)
      fail_msg("%s", e.msg);
    end = i + 1 < j->min_new ? text.len : naive_stop(j, text.data, text.len, before);
    out->stopped = end < text.len;
  }
  if (!out->stopped) {
    if (weir_detok_end(&d, &text, &e) != WEIR_OK) fail_msg("%s", e.msg);
    end = text.len;
  }
  assert_true(end <= sizeof out->data);
  if (end > 0) memcpy(out->data, text.data, end);
  out->len = end;
  weir_buf_fini(&text);
}

void world_fuse(const world *w, const world_job *j, const int32_t *tok, int32_t n, weir_ask *a,
                weir_logit_edit *edit) {
  weir_top top[WEIR_TOP_MAX];
  weir_ask likeliest = *a;
  likeliest.n_top = WEIR_TOP_MAX;
  fake_law_top(&w->law, 0, tok, n, &likeliest, top);
  for (int32_t i = 0; i < WEIR_TOP_MAX; i++) {
    const double add = (double)j->fusion * ((double)top[i].logprob - (double)top[WEIR_TOP_MAX - 1].logprob);
    int32_t k = 0;
    while (k < a->n_edits && edit[k].id != top[i].id) k++;
    if (k == a->n_edits && a->only_edits) continue;
    if (k == a->n_edits)
      edit[a->n_edits++] = (weir_logit_edit){top[i].id, 1, 0}; /* in no order: the law's own */
    edit[k].add = (float)((double)edit[k].add + add);
  }
}

/* Plain decoding with this threshold. */
static int32_t decode(const world *w, const world_job *j, float tau, int32_t *tok,
                      weir_token_receipt *receipt) {
  int32_t all[WORLD_PROMPT + WORLD_NEW], n = j->n_prompt;
  weir_logit_edit edit[512];
  memcpy(all, j->prompt, (size_t)n * sizeof *all);
  for (int32_t i = 0; i < j->max_new; i++, n++) {
    weir_ask a = world_ask(w, j, all, n, edit);
    if (j->n_choices > 0) {
      bool may[512], forced;
      if (allowed(w, j, all, n, may, &forced) == 0) return i; /* one is whole */
      if (forced) {
        receipt[i] = (weir_token_receipt){.entropy = NAN, .why = WEIR_WHY_FORCED, .id = edit[0].id};
        tok[i] = all[n] = edit[0].id;
        continue;
      }
    }
    weir_row r = fake_law_row(&w->law, 0, all, n, &a);
    const float here = j->n_spans > 0 && !isinf(tau) && tau >= 0 ? world_tau(w, j, all, n) : tau;
    receipt[i] = (weir_token_receipt){.entropy = r.entropy, .tau = here, .tier = r.entropy > here};
    if (r.entropy > here) {
      if (j->fusion != 0 && j->mode == WEIR_MODE_DEFER) world_fuse(w, j, all, n, &a, edit);
      r = fake_law_row(&w->law, 1, all, n, &a);
    }
    receipt[i].id = tok[i] = all[n] = r.token;
    receipt[i].logprob = r.logprob;
    if (!j->ignore_eos && weir_tokenizer_is_end(w->tokenizer, r.token)) return i + 1;
    if (j->n_stop == 0) continue;
    world_text text;
    world_text_of(w, j, tok, i + 1, &text);
    if (text.stopped) return i + 1;
  }
  return j->max_new;
}

weir_routed world_route(const world *w, const world_job *j, float share, int32_t *tok, int32_t *n,
                        weir_route_state *s) {
  static weir_token_receipt receipt[WORLD_NEW];
  int32_t all[WORLD_PROMPT + WORLD_NEW];
  weir_logit_edit edit[512];
  *n = decode(w, j, INFINITY, tok, receipt);
  *s = (weir_route_state){.to = WEIR_ROUTED_NOT, .share = share};
  if (j->pinned) return s->to;
  memcpy(all, j->prompt, (size_t)j->n_prompt * sizeof *all);
  memcpy(all + j->n_prompt, tok, (size_t)*n * sizeof *tok);
  const int32_t in_prompt = j->route_prompt < j->n_prompt ? j->route_prompt : j->n_prompt;
  const int32_t after = j->route_after < *n ? j->route_after : *n;
  for (int32_t at = j->n_prompt + 1 - (in_prompt > 1 ? in_prompt : 1);
       at < j->n_prompt + (after > 1 ? after : 1); at++) {
    const weir_ask a = world_ask(w, j, all, at, edit);
    s->looked++;
    s->unsure += fake_law_row(&w->law, 0, all, at, &a).entropy > j->tau;
  }
  s->to = (double)s->unsure / s->looked > (double)share ? WEIR_ROUTED_LARGE : WEIR_ROUTED_SMALL;
  return s->to;
}

int32_t world_reference(const world *w, const world_job *j, int32_t *tok, weir_token_receipt *receipt) {
  float tau = -1;
  if (j->mode == WEIR_MODE_ROUTE) {
    weir_route_state s;
    int32_t n;
    tau = world_route(w, j, j->route_share, tok, &n, &s) == WEIR_ROUTED_LARGE ? -1 : INFINITY;
  } else if (j->pinned || j->mode == WEIR_MODE_SMALL) {
    tau = INFINITY;
  } else if (j->mode == WEIR_MODE_DEFER) {
    tau = j->tau;
  }
  return decode(w, j, tau, tok, receipt);
}

/* ---- with tiers that die ---- */

int32_t world_check_rule(const world *w, const world_job *j) {
  int32_t all[WORLD_PROMPT + WORLD_NEW], wanted = 0;
  weir_logit_edit edit[512];
  memcpy(all, j->prompt, (size_t)j->n_prompt * sizeof *all);
  for (int32_t i = 0; i < j->n; i++) {
    const int32_t n = j->n_prompt + i;
    const weir_token_receipt *r = &j->receipt[i];
    const weir_ask a = world_ask(w, j, all, n, edit);
    const weir_row small = fake_law_row(&w->law, 0, all, n, &a);
    const weir_row row = r->tier == 1 ? fake_law_row(&w->law, 1, all, n, &a) : small;
    const bool unsure = small.entropy > j->tau;
    if (r->entropy != small.entropy || r->p_max != small.p_max)
      fail_msg("seed %llu: token %d: the gate saw %g, not %g", (unsigned long long)w->seed, i,
               (double)r->entropy, (double)small.entropy);
    if (r->id != row.token || r->logprob != row.logprob)
      fail_msg("seed %llu: token %d of tier %d is %d, want %d", (unsigned long long)w->seed, i, r->tier,
               r->id, row.token);
    assert_true(r->tier == 0 || unsure);
    assert_int_equal(r->wanted_up, r->tier == 0 && unsure);
    assert_int_equal(r->why, r->tier == 1 ? WEIR_WHY_DEFERRED : WEIR_WHY_EASY);
    assert_true(r->tier == 1 ? r->wait_ns > 0 : r->wait_ns == 0);
    wanted += r->wanted_up;
    all[n] = r->id;
  }
  assert_int_equal(j->counts.wanted_up, wanted);
  return wanted;
}

int32_t world_check_routed(const world *w, const world_job *j) {
  int32_t all[WORLD_PROMPT + WORLD_NEW], tok[WORLD_NEW], n, k = 0, wanted = 0;
  weir_logit_edit edit[512];
  weir_route_state want;
  const weir_routed to = j->counts.route.to;
  world_route(w, j, j->route_share, tok, &n, &want);
  if (to == WEIR_ROUTED_OPEN || to == WEIR_ROUTED_NOT) { /* not: refused at the door */
    assert_int_equal(j->n, 0);
    return 0;
  }
  const bool up = to == WEIR_ROUTED_LARGE || to == WEIR_ROUTED_WANTED;
  if (up != (want.to == WEIR_ROUTED_LARGE))
    fail_msg("seed %llu: %s, want %s", (unsigned long long)w->seed, weir_routed_name(to),
             weir_routed_name(want.to));
  while (k < j->n && j->receipt[k].tier == 1) k++;
  if (to == WEIR_ROUTED_LARGE) assert_int_equal(k, j->n);
  if (!up) assert_int_equal(k, 0);
  memcpy(all, j->prompt, (size_t)j->n_prompt * sizeof *all);
  for (int32_t i = 0; i < j->n; i++) {
    const weir_token_receipt *r = &j->receipt[i];
    const weir_ask a = world_ask(w, j, all, j->n_prompt + i, edit);
    const weir_row row = fake_law_row(&w->law, i < k, all, j->n_prompt + i, &a);
    assert_int_equal(r->tier, i < k);
    if (r->id != row.token || r->logprob != row.logprob)
      fail_msg("seed %llu: token %d of tier %d is %d, want %d", (unsigned long long)w->seed, i, r->tier,
               r->id, row.token);
    assert_int_equal(r->why, i < k ? WEIR_WHY_ROUTED : WEIR_WHY_EASY);
    assert_int_equal(r->wanted_up, i >= k && to == WEIR_ROUTED_WANTED);
    wanted += r->wanted_up;
    all[j->n_prompt + i] = r->id;
  }
  assert_int_equal(j->counts.wanted_up, wanted);
  return wanted;
}
