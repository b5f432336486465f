/* SPDX-License-Identifier: Apache-2.0 */
/* /v1/completions and /v1/chat/completions: a job for each HTTP request, with one request to an engine for
 * each answer that was asked for. Events of the client library may come from inside of its run: nothing is
 * given back to it from there, but in the event loop (on_later). Thread of the event base.
 *
 * A stream's first byte waits until every answer of it has been taken by an engine; what is written before is
 * kept. What a slow reader has not read waits in the connection's buffer, which is bounded by the longest
 * answer there can be and by --max-unsent: tokens cannot be stopped on their way, so beyond it the reader is
 * cut, as is one who reads nothing at all for --stall-timeout. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/log.h"
#include "base/mem.h"
#include "net/gateway_in.h"
#include "net/openai_answer.h"

enum { KEY_BYTES = 1024 }; /* of a prompt's beginning, for affinity */

/* ACCEPTED: an engine has it, in its queue or reading the prompt; the client library does not say which. */
typedef enum { PART_QUEUED, PART_ACCEPTED, PART_WRITING, PART_ENDED } part_state;

typedef struct part {
  weir_gw_job *job;
  weir_gw_engine *engine; /* NULL: it has none of its number */
  int64_t number;
  size_t prompt;
  int32_t choice;
  part_state state;
  bool retried;
  bool started;           /* counted in n_started; stays when it is tried again */
  uint32_t prompt_tokens; /* as the engine said when it took it */
  weir_openai_part out;
  weir_openai_finish finish;
  char *stop; /* copy of the stop string met */
} part;

struct weir_gw_job {
  weir_gw *gw;
  weir_gw_job *prev, *next;
  weir_http_request *http; /* NULL: gone or answered */
  weir_gw_note *note;      /* the record's; valid while http is */
  weir_openai_request q;
  weir_openai_style style;
  char id[40], model[256], tier[WEIR_CLIENT_MAX_TIERS][32];
  part *part;
  int32_t n_parts, n_started, n_ended;
  bool begun; /* the status line was sent, of a stream */
  bool over;  /* answered, failed or gone: what is left is to give back */
  weir_buf pending;
  weir_openai_usage usage;
  struct event *later;
  int64_t since_ns;
};

/* ---- the end of a job ---- */

static void job_free(weir_gw_job *j) {
  for (int32_t i = 0; i < j->n_parts; i++) {
    part *p = &j->part[i];
    if (p->engine) {
      weir_client_abandon(p->engine->client, p->number);
      p->engine->open--;
      weir_gw_engine_wake(p->engine);
    }
    weir_openai_part_fini(&p->out);
    free(p->stop);
  }
  if (j->prev)
    j->prev->next = j->next;
  else if (j->gw->jobs == j)
    j->gw->jobs = j->next;
  if (j->next) j->next->prev = j->prev;
  if (j->later) event_free(j->later);
  weir_buf_fini(&j->pending);
  weir_openai_request_fini(&j->q);
  free(j->part);
  free(j);
}

static void on_later(evutil_socket_t fd, short what, void *ctx) {
  weir_gw_job *j = ctx;
  (void)fd;
  (void)what;
  if (j->over) job_free(j);
}

/* The HTTP request is done with, or gone. */
static void job_over(weir_gw_job *j) {
  j->over = true;
  j->http = NULL;
  j->note = NULL;
  event_active(j->later, EV_TIMEOUT, 0);
}

static const char *state_of(const weir_gw_job *j) {
  part_state furthest = PART_QUEUED;
  for (int32_t i = 0; i < j->n_parts; i++)
    if (j->part[i].state > furthest) furthest = j->part[i].state;
  if (furthest == PART_QUEUED) return "queued";
  if (furthest == PART_ACCEPTED) return "accepted";
  return j->q.stream ? "stream" : "decode";
}

/* Of what is known by now: of a request that failed, or whose client went, too. */
static void note_usage(weir_gw_job *j) {
  if (!j->note) return;
  uint64_t completion = 0, prompt = 0;
  for (int32_t i = 0; i < j->n_parts; i++) {
    completion += j->part[i].out.n_tokens;
    if (j->part[i].choice == 0) prompt += j->part[i].prompt_tokens;
  }
  j->note->prompt_tokens = j->usage.prompt > prompt ? j->usage.prompt : prompt;
  j->note->completion_tokens = completion;
}

static void on_gone(void *ctx) {
  weir_gw_job *j = ctx;
  if (j->note) j->note->state = state_of(j);
  note_usage(j);
  job_over(j);
}

/* ---- what goes out ---- */

static void flush(weir_gw_job *j) {
  if (!j->begun || j->pending.len == 0) return;
  weir_http_stream_write(j->http, j->pending.data, j->pending.len);
  weir_buf_truncate(&j->pending, 0);
}

static void fail(weir_gw_job *j, const weir_openai_error *error) {
  if (j->over) return;
  note_usage(j);
  weir_http_request *http = j->http;
  if (!j->begun) {
    job_over(j);
    weir_gw_reply_error(http, error);
    return;
  }
  weir_err e;
  if (weir_buf_puts(&j->pending, "data: ", &e) == WEIR_OK &&
      weir_openai_error_body(error, &j->pending, &e) == WEIR_OK &&
      weir_buf_puts(&j->pending, "\n\n", &e) == WEIR_OK)
    flush(j);
  job_over(j);
  weir_http_stream_end(http);
}

static void fail_memory(weir_gw_job *j) {
  weir_openai_error e;
  weir_openai_fail(&e, 503, NULL, NULL, "the gateway is out of memory");
  fail(j, &e);
}

static void begin_stream(weir_gw_job *j) {
  if (!j->q.stream || j->begun || j->n_started < j->n_parts) return;
  j->begun = true;
  weir_http_set_header(j->http, "Cache-Control", "no-cache");
  weir_http_set_header(j->http, "X-Accel-Buffering", "no"); /* nginx in front: pass it on as it comes */
  weir_http_stream_begin(j->http, 200, "text/event-stream; charset=utf-8");
  flush(j);
}

static weir_status put_whole(weir_gw_job *j, weir_buf *b, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_openai_put_begin(b, &j->style, e));
  for (int32_t i = 0; i < j->n_parts; i++)
    WEIR_TRY(weir_openai_put_choice(b, &j->style, (uint32_t)i, &j->part[i].out, &j->part[i].finish, e));
  WEIR_TRY(weir_openai_put_end(b, &j->style, &j->usage, e));
out:
  return st;
}

static weir_status put_stream_end(weir_gw_job *j, weir_err *e) {
  weir_status st = WEIR_OK;
  if (j->q.include_usage) WEIR_TRY(weir_openai_put_usage_chunk(&j->pending, &j->style, &j->usage, e));
  st = weir_buf_puts(&j->pending, "data: [DONE]\n\n", e);
out:
  return st;
}

static void finish(weir_gw_job *j) {
  weir_err e;
  weir_http_request *http = j->http;
  if (j->q.stream) {
    if (put_stream_end(j, &e) != WEIR_OK) {
      fail_memory(j);
      return;
    }
    begin_stream(j);
    flush(j);
    note_usage(j);
    job_over(j);
    weir_http_stream_end(http);
    return;
  }
  weir_buf b = {0};
  if (put_whole(j, &b, &e) != WEIR_OK) {
    fail_memory(j);
  } else {
    note_usage(j);
    job_over(j);
    weir_gw_reply_json(http, 200, &b);
  }
  weir_buf_fini(&b);
}

/* ---- events of the engine ---- */

static int submit(part *p, int32_t but, weir_openai_error *error);

static void set_started(part *p) {
  weir_gw_job *j = p->job;
  if (p->state == PART_QUEUED) p->state = PART_ACCEPTED;
  if (p->started) return;
  p->started = true;
  j->n_started++;
  if (j->q.stream && j->q.kind == WEIR_OPENAI_CHAT &&
      weir_openai_put_chunk(&j->pending, &j->style, (uint32_t)(p - j->part), &p->out, true, NULL, NULL) !=
          WEIR_OK) {
    fail_memory(j);
    return;
  }
  begin_stream(j);
  flush(j);
}

static void on_start(void *ctx, uint32_t prompt_tokens) {
  part *p = ctx;
  p->prompt_tokens = prompt_tokens;
  if (!p->job->over) set_started(p);
}

static void on_token(void *ctx, const weir_client_token *t) {
  part *p = ctx;
  weir_gw_job *j = p->job;
  weir_err e;
  if (j->over) return;
  set_started(p);
  if (j->over) return;
  p->state = PART_WRITING;
  if (weir_openai_part_add(&p->out, &j->style, t, &e) != WEIR_OK) {
    fail_memory(j);
    return;
  }
  if (!j->q.stream || !weir_openai_part_ready(&p->out)) return;
  if (weir_openai_put_chunk(&j->pending, &j->style, (uint32_t)(p - j->part), &p->out, false, NULL, &e) !=
      WEIR_OK) {
    fail_memory(j);
    return;
  }
  weir_openai_part_clear(&p->out);
  flush(j);
}

/* Refused, or lost with its engine, and nothing of its text was sent: another engine may write it. Its seed
 * is settled, so it writes the same. */
static bool retry(part *p, const weir_client_error *why) {
  weir_gw_job *j = p->job;
  weir_gw *g = j->gw;
  weir_openai_error error;
  const int32_t but = (int32_t)(p->engine - g->engine);
  if (p->retried || g->n_engines < 2 || (why->code != 429 && why->code != 503)) return false;
  if (j->q.stream && p->out.n_tokens > 0) return false;
  p->engine->open--;
  p->engine = NULL;
  p->retried = true;
  p->state = PART_QUEUED;
  weir_openai_part_fini(&p->out);
  p->out = (weir_openai_part){0};
  if (submit(p, but, &error) != 0) return false;
  if (j->note && p == j->part) j->note->engine = p->engine->url;
  weir_gw_metrics_retry(g->metrics);
  return true;
}

static void on_good_end(part *p, const weir_client_end *end) {
  weir_gw_job *j = p->job;
  weir_err e;
  p->finish = weir_openai_finish_of(end, &j->q, p->out.last_id);
  if (p->finish.stop) {
    p->stop = strdup(p->finish.stop);
    p->finish.stop = p->stop;
  }
  weir_openai_usage_add(&j->usage, &end->usage, p->choice == 0);
  bool good = weir_openai_part_end(&p->out, &e) == WEIR_OK;
  if (good && j->q.stream) {
    good = weir_openai_put_chunk(&j->pending, &j->style, (uint32_t)(p - j->part), &p->out, false, &p->finish,
                                 &e) == WEIR_OK;
    weir_openai_part_clear(&p->out);
  }
  if (!good) {
    fail_memory(j);
    return;
  }
  flush(j);
  if (++j->n_ended == j->n_parts) finish(j);
}

static void on_end(void *ctx, const weir_client_end *end) {
  part *p = ctx;
  weir_gw_job *j = p->job;
  weir_client_error why = end->error;
  if (!why.code && !strcmp(end->reason, "deadline")) {
    why.code = 504;
    snprintf(why.message, sizeof why.message, "the request's deadline passed");
  } else if (!why.code && (!strcmp(end->reason, "cancelled") || !strcmp(end->reason, "error"))) {
    why.code = 503;
    snprintf(why.message, sizeof why.message, "the engine ended the request: %s", end->reason);
  }
  if (!j->over && !j->gw->was_cut && why.code && retry(p, &why)) return;
  if (p->engine) p->engine->open--; /* its number is no longer open */
  p->engine = NULL;
  if (j->over) return;
  if (why.code) {
    const weir_openai_error error = weir_gw_error_of(&why, &j->q);
    p->state = PART_ENDED;
    fail(j, &error);
    return;
  }
  set_started(p);
  p->state = PART_ENDED;
  if (!j->over) on_good_end(p, end);
}

/* ---- a new job ---- */

/* Of the beginning of the prompt: what turns of one conversation share. */
static uint64_t affinity(const weir_openai_request *q, const weir_openai_prompt *prompt) {
  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  if (q->ask.user) XXH3_64bits_update(&state, q->ask.user, strlen(q->ask.user));
  size_t room = KEY_BYTES;
  for (size_t i = 0; i < q->ask.n_chat && i < 2; i++) {
    const size_t n = strlen(q->ask.chat[i].text), take = n < room ? n : room;
    if (i == 1 && !strcmp(q->ask.chat[0].role, "user"))
      break; /* the first answer is not there on the first turn */
    XXH3_64bits_update(&state, q->ask.chat[i].role, 1);
    XXH3_64bits_update(&state, q->ask.chat[i].text, take);
    room -= take;
  }
  if (q->kind == WEIR_OPENAI_COMPLETION && prompt->text)
    XXH3_64bits_update(&state, prompt->text, strnlen(prompt->text, KEY_BYTES));
  if (q->kind == WEIR_OPENAI_COMPLETION && prompt->ids) {
    const size_t most = KEY_BYTES / 4;
    XXH3_64bits_update(&state, prompt->ids, (prompt->n_ids < most ? prompt->n_ids : most) * 4);
  }
  return XXH3_64bits_digest(&state);
}

static int submit(part *p, int32_t but, weir_openai_error *error) {
  weir_gw_job *j = p->job;
  const weir_client_events events = {on_start, on_token, on_end, p};
  weir_client_error why;
  weir_gw_engine *x =
      weir_gw_engine_for(j->gw, j->q.ask.model, affinity(&j->q, &j->q.prompt[p->prompt]), but, error);
  if (!x) return -1;
  weir_client_request ask = weir_openai_ask(&j->q, p->prompt, p->choice);
  const int64_t gone_ms = (weir_now_ns(&j->gw->clock) - j->since_ns) / 1000000;
  if (ask.deadline_ms && gone_ms > 0) /* a second engine has what the first left */
    ask.deadline_ms = gone_ms < (int64_t)ask.deadline_ms ? ask.deadline_ms - (uint32_t)gone_ms : 1;
  p->number = weir_client_submit(x->client, &ask, &events, &why);
  if (p->number < 0) {
    *error = weir_gw_error_of(&why, &j->q);
    return -1;
  }
  p->engine = x;
  x->open++;
  weir_gw_engine_wake(x);
  return 0;
}

/* Names the answer, and draws a seed where none was asked for: one that every reader of JSON can give back.
 */
static int make_id(weir_gw_job *j) {
  uint8_t bits[12];
  if (getrandom(bits, sizeof bits, 0) != (ssize_t)sizeof bits) return -1;
  if (!j->q.ask.has_seed) {
    uint64_t seed = 0;
    if (getrandom(&seed, 6, 0) != 6) return -1;
    j->q.ask.has_seed = true;
    j->q.ask.seed = seed;
  }
  int n = snprintf(j->id, sizeof j->id, "%s", j->q.kind == WEIR_OPENAI_CHAT ? "chatcmpl-" : "cmpl-");
  for (size_t i = 0; i < sizeof bits; i++)
    n += snprintf(j->id + n, sizeof j->id - (size_t)n, "%02x", bits[i]);
  return 0;
}

static void set_style(weir_gw_job *j, const weir_gw_engine *x) {
  snprintf(j->model, sizeof j->model, "%s", x && x->model.known ? x->model.id : "");
  if (!j->model[0] && j->q.ask.model) snprintf(j->model, sizeof j->model, "%s", j->q.ask.model);
  j->style = (weir_openai_style){
      .kind = j->q.kind,
      .stream = j->q.stream,
      .logprobs = j->q.logprobs,
      .receipts = j->q.ask.receipts,
      .include_usage = j->q.include_usage,
      .top_logprobs = j->q.ask.top_logprobs,
      .id = j->id,
      .model = j->model,
      .created = time(NULL),
  };
  static const char *const usual[] = {"small", "large"};
  if (x) memcpy(j->tier, x->model.tier, sizeof j->tier);
  for (int t = 0; t < WEIR_CLIENT_MAX_TIERS; t++)
    j->style.tier[t] = j->tier[t][0] ? j->tier[t] : t < 2 ? usual[t] : NULL;
}

static weir_gw_job *job_new(weir_gw *g, weir_openai_request *q) {
  weir_gw_job *j = calloc(1, sizeof *j);
  const size_t n = q->n_prompts * (size_t)q->n;
  if (j) {
    j->gw = g;
    j->q = *q;
    /* what pointed into *q */
    if (j->q.ask.stop) j->q.ask.stop = j->q.stop;
    if (j->q.ask.stop_ids) j->q.ask.stop_ids = j->q.stop_id;
    j->part = calloc(n, sizeof *j->part);
    j->later = evtimer_new(g->base, on_later, j);
  }
  if (!j || !j->part || !j->later || make_id(j) != 0) {
    if (j) {
      if (j->later) event_free(j->later);
      free(j->part);
    }
    free(j);
    weir_openai_request_fini(q);
    return NULL;
  }
  j->n_parts = (int32_t)n;
  j->since_ns = weir_now_ns(&g->clock);
  j->usage.seed = j->q.ask.seed; /* of the first answer; the others' follow from it */
  for (int32_t i = 0; i < j->n_parts; i++) {
    j->part[i].job = j;
    j->part[i].prompt = (size_t)(i / q->n);
    j->part[i].choice = i % q->n;
  }
  j->next = g->jobs;
  if (j->next) j->next->prev = j;
  g->jobs = j;
  return j;
}

void weir_gw_complete(weir_gw *g, weir_http_request *http, weir_openai_kind kind) {
  size_t len;
  const char *body = weir_http_body(http, &len);
  const weir_openai_limits limits = {g->cfg.max_n, g->cfg.max_prompts, g->cfg.max_n * g->cfg.max_prompts};
  weir_openai_request q;
  weir_openai_error error;
  if (weir_openai_parse(kind, body, len, &limits, &q, &error) != 0) {
    weir_gw_reply_error(http, &error);
    return;
  }
  weir_gw_job *j = job_new(g, &q);
  if (!j) {
    weir_gw_reply_fail(http, 503, NULL, "the gateway is out of memory");
    return;
  }
  j->http = http;
  j->note = weir_gw_note_of(http);
  if (j->note) {
    snprintf(j->note->id, sizeof j->note->id, "%s", j->id);
    if (j->q.ask.model) snprintf(j->note->model, sizeof j->note->model, "%s", j->q.ask.model);
  }
  weir_http_request_set_gone(http, on_gone, j);
  for (int32_t i = 0; i < j->n_parts; i++)
    if (submit(&j->part[i], -1, &error) != 0) {
      fail(j, &error);
      return;
    }
  set_style(j, j->part[0].engine);
  weir_http_set_header(http, "X-Request-Id", j->id);
  if (j->note) {
    j->note->engine = j->part[0].engine->url;
    snprintf(j->note->model, sizeof j->note->model, "%s", j->model);
  }
}

void weir_gw_jobs_fail(weir_gw *g) {
  weir_openai_error e;
  weir_openai_fail(&e, 503, NULL, NULL, "the gateway ends: the request was cut");
  for (weir_gw_job *j = g->jobs; j; j = j->next) fail(j, &e); /* frees none of them */
}

void weir_gw_jobs_cancel(weir_gw *g) {
  while (g->jobs) job_free(g->jobs);
}
