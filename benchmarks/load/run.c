/* SPDX-License-Identifier: Apache-2.0 */
/* The load itself. A `user` is one who has at most one request under way: a closed loop has as many users as
 * its concurrency, an open loop takes a free one for each arrival. All of it is callbacks of one event loop;
 * nothing here blocks. The load's thread. */
#include "load/run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "load/timeline.h"

enum { MAX_TEXT_BYTES = 1 << 20, TICK_US = 200000 };
/* How long a user of a closed loop waits after a failure when the server says nothing: an error at once,
 * asked again at once, would be a flood of our own making. */
static const double BACK_OFF_S = 0.1, BACK_OFF_BUSY_S = 1, BACK_OFF_MAX_S = 60;

typedef struct run run;

typedef struct user {
  run *run;
  void *call; /* under way */
  int64_t record;
  struct event *timer; /* the end of patience, or the next request */
  bool waiting;        /* the timer is for the next request */
  bool cancels;
  weir_buf text;
  json_t *history;
  int64_t item;
  int32_t turn, task;
  bool more;
  int64_t next_scheduled_ns;
  struct user *next_free;
} user;

struct run {
  weir_run_cfg cfg;
  weir_load_result *out;
  weir_clock clock;
  int64_t start_ns;
  user *users;
  user *free;
  int32_t n_users, running, waiting;
  int64_t items, ok, errors, tokens, tick_tokens, tick_ns;
  double tok_s;
  weir_arrivals arrivals;
  bool open, pending; /* pending: next_ns is an arrival not sent yet */
  int64_t next_ns;
  bool sent_all, ended;
  struct event *schedule, *tick, *deadline;
  weir_status st;
  weir_err err;
};

static const char *const outcomes[] = {"ok", "error", "cancelled", "cut"};
const char *weir_load_outcome_name(weir_load_outcome o) { return outcomes[o]; }

static int64_t now_ns(const run *r) { return weir_now_ns(&r->clock) - r->start_ns; }

static struct timeval span(int64_t ns) {
  if (ns < 0) ns = 0;
  return (struct timeval){ns / 1000000000, ns % 1000000000 / 1000};
}

static void set_timer(struct event *ev, int64_t ns) {
  const struct timeval t = span(ns);
  evtimer_add(ev, &t);
}

static int64_t ns_of(double s) { return s < 9e9 ? (int64_t)(s * 1e9) : INT64_MAX; }

static void end_run(run *r) {
  if (r->ended) return;
  r->ended = true;
  event_base_loopbreak(r->cfg.base);
}

static void fail_run(run *r, weir_status st) {
  if (r->st == WEIR_OK) r->st = st;
  r->sent_all = true;
  end_run(r);
}

static void end_if_done(run *r) {
  if ((r->sent_all || !r->open) && r->running == 0 && r->waiting == 0) end_run(r);
}

/* ---- records ---- */

static weir_status add_record(weir_load_result *out, weir_err *e) {
  if (out->n == out->cap) {
    const int64_t cap = out->cap ? 2 * out->cap : 1024;
    weir_load_record *grown = realloc(out->record, (size_t)cap * sizeof *grown);
    if (!grown) return weir_fail(e, WEIR_ENOMEM, "cannot keep %lld records", (long long)cap);
    out->record = grown;
    out->cap = cap;
  }
  out->record[out->n++] = (weir_load_record){.first_ns = -1,
                                             .last_ns = -1,
                                             .end_ns = -1,
                                             .longest_gap_ns = -1,
                                             .prompt_tokens = -1,
                                             .cached_tokens = -1,
                                             .output_tokens = -1,
                                             .queue_ms = NAN,
                                             .deferral_rate = NAN,
                                             .error = -1,
                                             .right = -1};
  return WEIR_OK;
}

static int16_t error_index(weir_load_result *out, int code, const char *what, const char *message) {
  int32_t i = 0;
  while (i < out->n_errors && (out->error[i].code != code || strcmp(out->error[i].what, what) != 0)) i++;
  if (i == WEIR_LOAD_MAX_ERRORS) i--; /* the last one takes what is left */
  weir_load_error *x = &out->error[i];
  if (i == out->n_errors) {
    out->n_errors++;
    x->code = code;
    snprintf(x->what, sizeof x->what, "%s", i == WEIR_LOAD_MAX_ERRORS - 1 ? "others" : what);
    snprintf(x->message, sizeof x->message, "%s", message);
  }
  x->n++;
  return (int16_t)i;
}

/* ---- a request's end ---- */

static void next_request(user *u, int64_t scheduled_ns);

static double back_off(const weir_target_end *end) {
  if (end->ok) return 0;
  double s = end->code == 429 || end->code == 503 ? BACK_OFF_BUSY_S : BACK_OFF_S;
  if (!isnan(end->retry_after_s)) s = end->retry_after_s;
  return fmin(s, BACK_OFF_MAX_S);
}

static void send_due(run *r);

/* Whether as many requests were sent as were asked for; turns of a conversation are requests too. */
static bool all_asked(run *r) {
  if (r->out->n < r->cfg.requests) return false;
  r->pending = false;
  r->sent_all = true;
  return true;
}

static void free_user(run *r, user *u) {
  u->next_free = r->free;
  r->free = u;
}

/* The user has nothing more to ask; of an open loop, one who came meanwhile may take the place. */
static void leave(run *r, user *u) {
  if (r->open) free_user(r, u);
  send_due(r);
  end_if_done(r);
}

/* What the user does now: the conversation's next turn, another request, or nothing. */
static void go_on(user *u, const weir_target_end *end, int64_t at_ns) {
  run *r = u->run;
  const bool talk = u->more && end && end->ok;
  const int64_t limit_ns = ns_of(r->cfg.duration_s);
  if (!talk) u->turn = -1; /* begins something new */
  double wait_s = end ? fmax(back_off(end), r->cfg.think_s) : r->cfg.think_s;
  if (r->open && !talk) {
    leave(r, u);
    return;
  }
  const int64_t next = at_ns + ns_of(wait_s);
  if (all_asked(r) || (r->sent_all && !talk) || next >= limit_ns || r->ended) {
    leave(r, u);
    return;
  }
  u->next_scheduled_ns = next;
  u->waiting = true;
  r->waiting++;
  set_timer(u->timer, next - now_ns(r));
}

static void close_record(user *u, weir_load_outcome outcome) {
  run *r = u->run;
  weir_load_record *rec = &r->out->record[u->record];
  rec->outcome = (uint8_t)outcome;
  rec->end_ns = now_ns(r);
  if (rec->output_tokens < 0) {
    rec->output_tokens = rec->pieces;
    rec->counted_pieces = true;
    if (rec->pieces > 0 && outcome == WEIR_LOAD_OK) r->out->counted_pieces = true;
  }
  u->call = NULL;
  r->running--;
  evtimer_del(u->timer);
}

static void take_usage(weir_load_record *rec, const weir_target_usage *usage) {
  rec->prompt_tokens = usage->prompt_tokens;
  rec->cached_tokens = usage->cached_tokens;
  if (usage->completion_tokens >= 0) rec->output_tokens = usage->completion_tokens;
  rec->queue_ms = usage->queue_ms;
  rec->deferral_rate = usage->deferral_rate;
  if (usage->tiers) {
    memcpy(rec->by_tier, usage->by_tier, sizeof rec->by_tier);
    rec->tiers = true;
  }
}

static void remember_answer(user *u) {
  if (!u->history || !u->more) return;
  json_t *said = json_stringn(u->text.data ? u->text.data : "", u->text.len);
  if (!said) said = json_string(""); /* not UTF-8 */
  json_array_append_new(u->history, json_pack("{s:s, s:o}", "role", "assistant", "content", said));
}

static void on_end(void *ctx, const weir_target_end *end) {
  user *u = ctx;
  run *r = u->run;
  weir_load_record *rec = &r->out->record[u->record];
  rec->code = (int16_t)end->code;
  take_usage(rec, &end->usage);
  snprintf(rec->reason, sizeof rec->reason, "%s", end->reason);
  if (!end->ok) rec->error = error_index(r->out, end->code, end->what, end->message);
  close_record(u, end->ok ? WEIR_LOAD_OK : WEIR_LOAD_ERROR);
  if (end->ok) {
    r->ok++;
    bool right = false;
    if (u->task >= 0) {
      const weir_status st = weir_data_right(r->cfg.data, u->task, u->text.data ? u->text.data : "",
                                             u->text.len, &right, &r->err);
      if (st != WEIR_OK) {
        fail_run(r, st);
        return;
      }
      rec->right = right;
    }
    remember_answer(u);
  } else {
    r->errors++;
    if (u->task >= 0) rec->right = 0; /* no answer is a wrong one */
  }
  go_on(u, end, rec->end_ns);
}

static void give_up(user *u, const char *what) {
  run *r = u->run;
  weir_load_record *rec = &r->out->record[u->record];
  r->cfg.target->ops->cancel(r->cfg.target, u->call);
  if (what) {
    rec->gave_up = true;
    rec->error = error_index(r->out, 0, what, "no end within --timeout");
    if (u->task >= 0) rec->right = 0;
    r->errors++;
    close_record(u, WEIR_LOAD_ERROR);
  } else {
    close_record(u, WEIR_LOAD_CANCELLED);
  }
  go_on(u, NULL, rec->end_ns);
}

static void on_timer(evutil_socket_t fd, short what, void *ctx) {
  user *u = ctx;
  run *r = u->run;
  (void)fd;
  (void)what;
  if (u->waiting) {
    u->waiting = false;
    r->waiting--;
    if (all_asked(r)) /* others have sent the last ones meanwhile */
      leave(r, u);
    else
      next_request(u, u->next_scheduled_ns);
  } else if (u->call) {
    give_up(u, u->cancels && r->cfg.cancel_s > 0 && r->cfg.cancel_s < r->cfg.timeout_s ? NULL : "timeout");
  }
}

/* ---- a piece of text ---- */

static void on_piece(void *ctx, const weir_target_piece *p) {
  user *u = ctx;
  run *r = u->run;
  weir_load_record *rec = &r->out->record[u->record];
  const int64_t now = now_ns(r);
  const int32_t tokens = p->n_tokens > 0 ? p->n_tokens : 1;
  weir_status st = WEIR_OK;
  if (rec->first_ns < 0) {
    rec->first_ns = now;
  } else {
    const int64_t gap = now - rec->last_ns;
    if (gap > rec->longest_gap_ns) rec->longest_gap_ns = gap;
    if (!rec->slow) st = weir_samples_add(&r->out->itl, (double)gap * 1e-9, &r->err);
    if (!rec->slow && st == WEIR_OK && p->tier >= 0)
      st = weir_samples_add(&r->out->itl_tier[p->tier], (double)gap * 1e-9, &r->err);
  }
  rec->last_ns = now;
  rec->pieces += tokens;
  for (int k = 0; k < WEIR_LOAD_TIERS; k++) {
    rec->by_tier[k] += p->by_tier[k];
    rec->tiers = rec->tiers || p->by_tier[k] > 0;
  }
  r->tokens += tokens;
  weir_timeline_add(&r->out->timeline, (double)now * 1e-9, tokens, p->by_tier);
  if ((u->task >= 0 || u->history) && st == WEIR_OK && u->text.len + p->len <= MAX_TEXT_BYTES)
    st = weir_buf_put(&u->text, p->text, p->len, &r->err);
  if (st != WEIR_OK)
    fail_run(r, st);
  else if (u->cancels && r->cfg.cancel_tokens > 0 && rec->pieces >= r->cfg.cancel_tokens)
    give_up(u, NULL);
}

/* ---- sending ---- */

static json_t *begin_history(const weir_item *item) {
  return item->messages ? json_deep_copy(item->messages) : json_array();
}

static weir_status make_ask(user *u, weir_target_ask *ask, weir_err *e) {
  run *r = u->run;
  weir_item item;
  if (u->turn < 0) {
    u->item = r->cfg.first_item + r->items++;
    u->turn = 0;
    json_decref(u->history);
    u->history = NULL;
  } else {
    u->turn++;
  }
  const weir_status st = weir_data_get(r->cfg.data, u->item, u->turn, &item, e);
  if (st != WEIR_OK) return st;
  if (item.messages && !r->cfg.history)
    return weir_fail(e, WEIR_EINVAL, "an item has messages, which only a chat can be asked");
  weir_buf_truncate(&u->text, 0);
  u->task = item.task;
  u->more = item.more;
  *ask = (weir_target_ask){.prompt = item.prompt, .max_tokens = item.max_tokens, .entropy = r->cfg.entropy};
  if (r->cfg.history && (item.messages || item.more || u->turn > 0)) {
    if (!u->history) u->history = begin_history(&item);
    if (item.prompt)
      json_array_append_new(u->history, json_pack("{s:s, s:s}", "role", "user", "content", item.prompt));
    ask->messages = u->history;
    ask->prompt = NULL;
  }
  return WEIR_OK;
}

static void plan_behaviour(user *u, weir_target_ask *ask) {
  const weir_run_cfg *c = &u->run->cfg;
  weir_rand rand;
  weir_rand_init(&rand, c->seed, 7 + ((uint64_t)u->record << 8));
  u->cancels = weir_rand_unit(&rand) < c->cancel_share;
  if (weir_rand_unit(&rand) < c->slow_share) ask->read_bytes_s = c->slow_bytes_s;
}

static void next_request(user *u, int64_t scheduled_ns) {
  run *r = u->run;
  weir_target_ask ask;
  const weir_target_events ev = {on_piece, on_end, u};
  weir_status st = add_record(r->out, &r->err);
  if (st == WEIR_OK) {
    u->record = r->out->n - 1;
    st = make_ask(u, &ask, &r->err);
  }
  if (st != WEIR_OK) {
    fail_run(r, st);
    return;
  }
  plan_behaviour(u, &ask);
  weir_load_record *rec = &r->out->record[u->record];
  rec->item = u->item;
  rec->turn = u->turn;
  rec->slow = ask.read_bytes_s > 0;
  rec->scheduled_ns = scheduled_ns;
  rec->sent_ns = now_ns(r);
  st = r->cfg.target->ops->start(r->cfg.target, &ask, &ev, &u->call, &r->err);
  if (st != WEIR_OK) { /* ours, not the server's: nothing was sent */
    rec->outcome = WEIR_LOAD_CUT;
    rec->end_ns = rec->sent_ns;
    fail_run(r, st);
    return;
  }
  r->running++;
  double patience = r->cfg.timeout_s;
  if (u->cancels && r->cfg.cancel_s > 0) patience = fmin(patience, r->cfg.cancel_s);
  set_timer(u->timer, ns_of(patience));
}

/* The next arrival, if there is one within the bounds. */
static void draw_arrival(run *r) {
  r->pending = false;
  if (all_asked(r) || !weir_arrivals_next(&r->arrivals, &r->next_ns) ||
      r->next_ns >= ns_of(r->cfg.duration_s))
    r->sent_all = true;
  else
    r->pending = true;
}

/* Sends what is due, as long as there are free users; comes back for the rest. */
static void send_due(run *r) {
  if (!r->open) return;
  while (!all_asked(r) && r->pending && r->free && !r->ended && r->next_ns <= now_ns(r)) {
    user *u = r->free;
    const int64_t at = r->next_ns;
    r->free = u->next_free;
    u->turn = -1;
    next_request(u, at);
    if (!r->ended) draw_arrival(r);
  }
  if (r->pending && r->free && !r->ended) set_timer(r->schedule, r->next_ns - now_ns(r));
}

static void on_schedule(evutil_socket_t fd, short what, void *ctx) {
  (void)fd;
  (void)what;
  send_due(ctx);
  end_if_done(ctx);
}

/* ---- the run's own time ---- */

static void on_tick(evutil_socket_t fd, short what, void *ctx) {
  run *r = ctx;
  (void)fd;
  (void)what;
  if (r->cfg.interrupted && r->cfg.interrupted()) {
    r->out->interrupted = true;
    end_run(r);
    return;
  }
  const int64_t now = now_ns(r);
  if (now - r->tick_ns >= 1000000000) {
    r->tok_s = (double)(r->tokens - r->tick_tokens) / ((double)(now - r->tick_ns) * 1e-9);
    r->tick_tokens = r->tokens;
    r->tick_ns = now;
  }
  if (!r->cfg.progress) return;
  const weir_load_progress p = {.t_s = (double)now * 1e-9,
                                .limit_s = r->cfg.duration_s,
                                .sent = r->out->n,
                                .limit = r->cfg.requests,
                                .running = r->running,
                                .ok = r->ok,
                                .errors = r->errors,
                                .tokens = r->tokens,
                                .tok_s = r->tok_s};
  r->cfg.progress(r->cfg.ctx, &p);
}

static void on_deadline(evutil_socket_t fd, short what, void *ctx) {
  (void)fd;
  (void)what;
  end_run(ctx);
}

/* What the run's end found under way. */
static void cut(run *r) {
  for (int32_t i = 0; i < r->n_users; i++) {
    user *u = &r->users[i];
    if (!u->call) continue;
    r->cfg.target->ops->cancel(r->cfg.target, u->call);
    close_record(u, WEIR_LOAD_CUT);
  }
  const int64_t now = now_ns(r);
  while (r->pending && r->out->n + r->out->unsent < r->cfg.requests && r->next_ns <= now &&
         r->next_ns < ns_of(r->cfg.duration_s)) {
    r->out->unsent++;
    if (!weir_arrivals_next(&r->arrivals, &r->next_ns)) break;
  }
}

static weir_status make_users(run *r, weir_err *e) {
  weir_status st = WEIR_OK;
  r->n_users = r->cfg.concurrency;
  if (r->cfg.requests < r->n_users) r->n_users = (int32_t)r->cfg.requests;
  WEIR_TRY(WEIR_NEW((size_t)r->n_users, &r->users, e));
  for (int32_t i = r->n_users - 1; i >= 0; i--) {
    user *u = &r->users[i];
    u->run = r;
    u->turn = -1;
    u->task = -1;
    u->timer = evtimer_new(r->cfg.base, on_timer, u);
    if (!u->timer) return weir_fail(e, WEIR_ENOMEM, "cannot make timers");
    free_user(r, u);
  }
out:
  return st;
}

static weir_status begin(run *r, weir_err *e) {
  weir_status st = WEIR_OK;
  const struct timeval tick = {0, TICK_US};
  r->schedule = evtimer_new(r->cfg.base, on_schedule, r);
  r->deadline = evtimer_new(r->cfg.base, on_deadline, r);
  r->tick = event_new(r->cfg.base, -1, EV_PERSIST, on_tick, r);
  if (!r->schedule || !r->deadline || !r->tick) return weir_fail(e, WEIR_ENOMEM, "cannot make timers");
  WEIR_TRY(make_users(r, e));
  r->open = r->cfg.arrivals.kind != WEIR_LOAD_CLOSED;
  if (r->open) WEIR_TRY(weir_arrivals_init(&r->arrivals, &r->cfg.arrivals, e));
  r->start_ns = weir_now_ns(&r->clock);
  event_add(r->tick, &tick);
  set_timer(r->deadline, ns_of(r->cfg.duration_s + r->cfg.drain_s));
  if (r->open) {
    draw_arrival(r);
    send_due(r);
  }
  for (int32_t i = 0; !r->open && i < r->n_users && !r->ended; i++) next_request(&r->users[i], now_ns(r));
  end_if_done(r);
out:
  return st;
}

static double last_end_s(const run *r) {
  int64_t last = 0;
  for (int64_t i = 0; i < r->out->n; i++)
    if (r->out->record[i].end_ns > last) last = r->out->record[i].end_ns;
  return (double)last * 1e-9;
}

weir_status weir_run(const weir_run_cfg *cfg, weir_load_result *out, weir_err *e) {
  weir_status st = WEIR_OK;
  run r = {.cfg = *cfg, .out = out, .clock = weir_clock_system()};
  *out = (weir_load_result){0};
  weir_samples_init(&out->itl, 0);
  for (int k = 0; k < WEIR_LOAD_TIERS; k++) weir_samples_init(&out->itl_tier[k], 0);
  weir_timeline_init(&out->timeline);
  if (cfg->requests <= 0 || cfg->concurrency <= 0 || !(cfg->duration_s > 0) || !(cfg->timeout_s > 0)) {
    st = weir_fail(e, WEIR_EINVAL, "a run needs requests, concurrency, a duration and a timeout above 0");
    goto out;
  }
  WEIR_TRY(begin(&r, e));
  while (!r.ended)
    if (event_base_dispatch(cfg->base) != 0) break;
  cut(&r);
  out->wall_s = last_end_s(&r);
  if (r.st != WEIR_OK) {
    if (e) *e = r.err;
    st = r.st;
  }
out:
  for (int32_t i = 0; i < r.n_users && r.users; i++) {
    if (r.users[i].timer) event_free(r.users[i].timer);
    weir_buf_fini(&r.users[i].text);
    json_decref(r.users[i].history);
  }
  free(r.users);
  if (r.schedule) event_free(r.schedule);
  if (r.deadline) event_free(r.deadline);
  if (r.tick) event_free(r.tick);
  if (st != WEIR_OK) weir_load_result_fini(out);
  return st;
}

void weir_load_result_fini(weir_load_result *out) {
  free(out->record);
  weir_samples_fini(&out->itl);
  for (int k = 0; k < WEIR_LOAD_TIERS; k++) weir_samples_fini(&out->itl_tier[k]);
  *out = (weir_load_result){0};
}
