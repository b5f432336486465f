/* SPDX-License-Identifier: Apache-2.0 */
/* The client when all goes well: requests, their tokens, cancelling, every call, many at once, and that it
 * sleeps when there is nothing to do. */
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "talk.h"

static bool all_told(void *ctx) { /* the engine may forget all of its requests */
  const fake_engine *f = ctx;
  for (int i = 0; i < f->n_requests; i++)
    if (!f->request[i].forgotten) return false;
  return f->n_requests > 0;
}
static bool submitted(void *ctx) { return ((fake_engine *)ctx)->n_requests > 0; }
static bool parked(void *ctx) { return ((fake_engine *)ctx)->parked_poll.as.poll != NULL; }
static bool three_submitted(void *ctx) { return ((fake_engine *)ctx)->n_requests == 3; }
static bool has_two(void *ctx) { return ((heard *)ctx)->n_tokens == 2; }

static void complete(void **state) {
  (void)state;
  fake_engine f;
  fake_open(&f, NULL);
  const weir_client_cfg cfg = talk_cfg(f.url);
  talk t = {talk_client(&cfg), &f, 0};
  heard h = {0};
  heard_submit(t.client, NULL, &h);
  talk_until(&t, submitted, &f, "submitted");
  fake_write(&f, 2, NULL);
  talk_until(&t, has_two, &h, "two tokens");
  assert_int_equal(h.starts, 1);
  assert_int_equal(h.prompt_tokens, 5);
  assert_int_equal(h.ends, 0);
  assert_int_equal(weir_client_run(t.client, 0), 1);
  fake_write(&f, 3, "eos");
  talk_until(&t, talk_ended, &h, "the end");
  heard_whole(&f, &h, 0, 5, "eos");
  assert_int_equal(h.starts, 1);
  assert_int_equal(h.error.code, 0);
  assert_int_equal(h.usage.completion_tokens, 5);
  assert_int_equal(h.usage.n_tiers, 2);
  assert_int_equal(h.usage.tokens_by_tier[0], 3);
  assert_int_equal(h.usage.tokens_by_tier[1], 2);
  assert_int_equal(h.usage.wanted_up, 2);
  assert_true(h.usage.seed == 77 && isnan(h.usage.entropy));
  assert_string_equal(h.usage.mode, "defer");
  assert_true(h.usage.flops[0] == 1e12 && h.usage.flops[1] == 2e12 && h.usage.kv_bytes_peak[1] == 1024);
  assert_true(h.usage.large_only_flops == 4e12 && h.usage.forced == 1 && isnan(h.usage.route_score));
  assert_string_equal(h.usage.routed, "wanted");
  assert_int_equal(weir_client_run(t.client, 0), 0);
  talk_until(&t, all_told, &f, "the engine is told that it may forget");
  weir_client_cancel(t.client, h.number); /* long over: nothing */
  weir_client_abandon(t.client, 12345);
  assert_int_equal(f.request[0].submits, 1);
  assert_int_equal(f.asked[WEIR_FRAME_CANCEL], 0);
  weir_client_close(t.client);
  assert_int_equal(h.ends, 1);
  heard_fini(&h);
  fake_close(&f);
}

static void look_at_fields(void *ctx, const Weir__V1__SubmitRequest *m) {
  assert_string_equal(m->token, "secret");
  assert_int_equal(m->session.len, 16);
  assert_int_equal(m->n_chat, 2);
  assert_string_equal(m->chat[1]->role, "user");
  assert_string_equal(m->chat[1]->text, "Gr\xc3\xbc\xc3\x9f");
  assert_string_equal(m->model, "pair");
  assert_string_equal(m->user, "tenant");
  assert_int_equal(m->max_tokens, 9);
  assert_int_equal(m->min_tokens, 1);
  assert_int_equal(m->n_stop, 2);
  assert_string_equal(m->stop[1], "END");
  assert_int_equal(m->n_stop_ids, 1);
  assert_int_equal(m->stop_ids[0], 42);
  assert_true(m->ignore_eos && m->special && m->receipts && m->bare);
  assert_int_equal(m->sampling->has_temperature_case, WEIR__V1__SAMPLING__HAS_TEMPERATURE_TEMPERATURE);
  assert_true(m->sampling->temperature == 0);
  assert_true(m->sampling->top_p == 0.5f && m->sampling->min_p == 0.25f && m->sampling->top_k == 40);
  assert_true(m->sampling->seed == 7 && m->sampling->presence_penalty == 1);
  assert_true(m->sampling->frequency_penalty == -1 && m->sampling->repetition_penalty == 1.5f);
  assert_int_equal(m->sampling->n_logit_bias, 1);
  assert_true(m->sampling->logit_bias[0]->id == 3 && m->sampling->logit_bias[0]->add == -100);
  assert_string_equal(m->cascade->mode, "exact");
  assert_int_equal(m->cascade->n_setting, 2);
  assert_string_equal(m->cascade->setting[0]->name, "accept");
  assert_string_equal(m->cascade->setting[1]->value, "8");
  assert_int_equal(m->cascade->n_span, 1);
  assert_true(m->cascade->span[0]->threshold == 0.25f);
  assert_string_equal(m->cascade->span[0]->start, "<");
  assert_string_equal(m->cascade->span[0]->end, "");
  assert_int_equal(m->n_choices, 2);
  assert_string_equal(m->choices[1], "no");
  assert_true(m->cascade->entropy == 0.75f && m->cascade->pin);
  assert_int_equal(m->priority, -2);
  assert_int_equal(m->deadline_ms, 60000);
  assert_int_equal(m->top_logprobs, 5);
  *(bool *)ctx = true;
}

static void fields(void **state) {
  (void)state;
  fake_engine f;
  bool seen = false;
  fake_open(&f, NULL);
  f.on_submit = look_at_fields;
  f.ctx = &seen;
  const weir_client_cfg cfg = talk_cfg(f.url);
  talk t = {talk_client(&cfg), &f, 0};
  const weir_client_message chat[] = {{"system", "Be brief."}, {"user", "Gr\xc3\xbc\xc3\x9f"}};
  const char *stop[] = {"\n", "END"};
  const uint32_t stop_id = 42;
  const weir_client_bias bias = {3, -100};
  const weir_client_setting setting[] = {{"accept", "v2"}, {"window", "8"}};
  const weir_client_span span = {0.25f, "<", NULL};
  const char *choice[] = {"yes", "no"};
  const weir_client_request q = {.model = "pair",
                                 .chat = chat,
                                 .n_chat = 2,
                                 .max_tokens = 9,
                                 .min_tokens = 1,
                                 .stop = stop,
                                 .n_stop = 2,
                                 .stop_ids = &stop_id,
                                 .n_stop_ids = 1,
                                 .ignore_eos = true,
                                 .special = true,
                                 .bare = true,
                                 .has_temperature = true,
                                 .has_top_p = true,
                                 .has_seed = true,
                                 .top_p = 0.5f,
                                 .min_p = 0.25f,
                                 .top_k = 40,
                                 .seed = 7,
                                 .presence_penalty = 1,
                                 .frequency_penalty = -1,
                                 .repetition_penalty = 1.5f,
                                 .bias = &bias,
                                 .n_bias = 1,
                                 .mode = "exact",
                                 .has_entropy = true,
                                 .entropy = 0.75f,
                                 .setting = setting,
                                 .n_settings = 2,
                                 .span = &span,
                                 .n_spans = 1,
                                 .choice = choice,
                                 .n_choices = 2,
                                 .pin = true,
                                 .priority = -2,
                                 .deadline_ms = 60000,
                                 .top_logprobs = 5,
                                 .receipts = true,
                                 .user = "tenant"};
  heard h = {0};
  heard_submit(t.client, &q, &h);
  talk_until(&t, submitted, &f, "submitted");
  assert_true(seen);
  weir_client_close(t.client);
  assert_int_equal(h.ends, 1); /* closed while open */
  assert_int_equal(h.error.code, 499);
  heard_fini(&h);
  fake_close(&f);
}

/* Wrong on its face: no event, nothing sent. */
static void refused(void **state) {
  (void)state;
  const weir_client_cfg cfg = talk_cfg("ipc:///tmp/weir-test-nobody-there");
  weir_client *c = talk_client(&cfg);
  static const char *const bad_stop[] = {"fine", "\xff"}, *const null_stop[] = {NULL},
                           *const empty_stop[] = {""};
  static const weir_client_message tool = {"tool", "x"}, latin = {"user", "\xe9"};
  static const uint32_t ids[] = {1};
  static const weir_client_setting latin_setting[] = {{"window", "\xe9"}}, many[33];
  static const weir_client_span nan_span = {NAN, "a", "b"}, no_start = {1, NULL, "b"};
  static const struct {
    const char *param;
    weir_client_request q;
  } cases[] = {
      {"prompt", {0}},
      {"prompt", {.prompt = ""}},
      {"prompt", {.prompt = "a", .prompt_ids = ids, .n_prompt_ids = 1}},
      {"prompt", {.prompt = "caf\xe9"}},
      {"model", {.prompt = "a", .model = "\x80"}},
      {"user", {.prompt = "a", .user = "\xc0\x80"}},
      {"cascade.mode", {.prompt = "a", .mode = "\xff"}},
      {"cascade.setting", {.prompt = "a", .setting = latin_setting, .n_settings = 1}},
      {"cascade.setting", {.prompt = "a", .setting = many, .n_settings = 33}},
      {"cascade.span", {.prompt = "a", .span = &nan_span, .n_spans = 1}},
      {"cascade.span", {.prompt = "a", .span = &no_start, .n_spans = 1}},
      {"choices", {.prompt = "a", .choice = bad_stop, .n_choices = 2}},
      {"choices", {.prompt = "a", .choice = null_stop, .n_choices = 1}},
      {"choices", {.prompt = "a", .choice = empty_stop, .n_choices = 1}},
      {"stop", {.prompt = "a", .stop = bad_stop, .n_stop = 2}},
      {"stop", {.prompt = "a", .stop = null_stop, .n_stop = 1}},
      {"stop", {.prompt = "a", .stop = empty_stop, .n_stop = 1}},
      {"chat.role", {.chat = &tool, .n_chat = 1}},
      {"chat.text", {.chat = &latin, .n_chat = 1}},
      {"sampling.top_p", {.prompt = "a", .has_top_p = true, .top_p = 1.5f}},
      {"sampling.temperature", {.prompt = "a", .has_temperature = true, .temperature = NAN}},
      {"top_logprobs", {.prompt = "a", .top_logprobs = 21}},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    heard h = {0};
    weir_client_error e = {0};
    const weir_client_events events = heard_events(&h);
    const int64_t n = weir_client_submit(c, &cases[i].q, &events, &e);
    if (n != -1 || strcmp(e.param, cases[i].param) != 0) print_error("%zu: %s: %s\n", i, e.param, e.message);
    assert_int_equal(n, -1);
    assert_int_equal(e.code, 400);
    assert_string_equal(e.param, cases[i].param);
    assert_true(e.message[0] != 0);
  }
  weir_client_error e = {0};
  char *long_text = malloc((17 << 20) + 1);
  memset(long_text, 'x', 17 << 20);
  long_text[17 << 20] = 0;
  const weir_client_request huge = {.prompt = long_text};
  const weir_client_events none = {0};
  assert_int_equal(weir_client_submit(c, &huge, &none, &e), -1);
  assert_int_equal(e.code, 413);
  assert_int_equal(weir_client_tokenize(c, long_text, 17 << 20, false, false, NULL, 0, NULL, NULL, &e), -1);
  assert_int_equal(e.code, 413);
  assert_int_equal(weir_client_tokenize(c, "a\0b", 3, false, false, NULL, 0, NULL, NULL, &e), -1);
  assert_int_equal(e.code, 400);
  free(long_text);
  assert_int_equal(weir_client_run(c, 0), 0);
  weir_client_close(c);
}

static void configurations(void **state) {
  (void)state;
  static const struct {
    weir_client_cfg cfg;
    const char *param;
  } cases[] = {
      {{.url = NULL}, "url"},
      {{.url = ""}, "url"},
      {{.url = "http://127.0.0.1/"}, "url"},
      {{.url = "tcp://no port"}, "url"},
      {{.url = "ipc:///tmp/x", .token = "\xff"}, "token"},
      {{.url = "ipc:///tmp/x", .call_timeout_ms = -1}, "call_timeout_ms"},
      {{.url = "ipc:///tmp/x", .poll_ms = -1}, "poll_ms"},
      {{.url = "ipc:///tmp/x", .poll_ms = 200, .resend_ms = 400}, "resend_ms"},
      {{.url = "ipc:///tmp/x", .poll_ms = INT32_MAX, .resend_ms = INT32_MAX}, "resend_ms"},
      {{.url = "ipc:///tmp/x", .poll_ms = 200, .lost_after_ms = 200}, "lost_after_ms"},
      {{.url = "ipc:///tmp/x", .max_reply_bytes = 100}, "max_reply_bytes"},
      {{.url = "ipc:///tmp/x", .max_reply_bytes = SIZE_MAX}, "max_reply_bytes"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    weir_client *c = (weir_client *)&c;
    weir_client_error e = {0};
    assert_int_equal(weir_client_open(&cases[i].cfg, &c, &e), -1);
    if (strcmp(e.param, cases[i].param) != 0) print_error("%zu: %s: %s\n", i, e.param, e.message);
    assert_null(c);
    assert_int_equal(e.code, 400);
    assert_string_equal(e.param, cases[i].param);
  }
  weir_client_close(NULL);
}

/* ---- calls ---- */

typedef struct calls {
  int health, model, stats, ids, text, errors;
  weir_client_error error;
} calls;

static void note(calls *k, const weir_client_error *e) {
  if (e->code == 0) return;
  k->errors++;
  k->error = *e;
}
static void on_health(void *ctx, const weir_client_health *h, const weir_client_error *e) {
  calls *k = ctx;
  k->health++;
  note(k, e);
  if (!h) return;
  assert_true(h->live && !h->ready && h->queue_limit == 256);
  assert_string_equal(h->reason, "loading");
  assert_int_equal(h->n_tiers, WEIR_CLIENT_MAX_TIERS);
  assert_true(h->tier[0].up && !h->tier[1].up && h->tier[1].comes_back && h->tier[1].deaths == 1);
  assert_true(h->tier[1].for_ms == 1001 && !h->tier[0].comes_back);
  assert_string_equal(h->tier[1].name, "large");
  assert_string_equal(h->tier[1].reason, "node 1 is silent");
}
static void on_model(void *ctx, const weir_client_model *m, const weir_client_error *e) {
  calls *k = ctx;
  k->model++;
  note(k, e);
  if (!m) return;
  assert_string_equal(m->id, "pair");
  assert_true(m->context == 4096 && m->n_tiers == 1 && m->n_modes == 2);
  assert_string_equal(m->tier[0].device, "cpu");
  assert_true(m->tier[0].weight_bytes == UINT64_C(1) << 40);
  assert_string_equal(m->modes[1], "exact");
  assert_true(m->entropy == 0.5f && isnan(m->entropy_min));
  assert_true(m->max_request_bytes == 2 << 20);
}
static void on_stats(void *ctx, const weir_client_stats *s, const weir_client_error *e) {
  calls *k = ctx;
  k->stats++;
  note(k, e);
  if (!s) return;
  assert_int_equal(s->n_families, 2);
  assert_true(s->health.live && s->health.n_tiers == 0);
  const weir_client_family *f = s->family;
  assert_true(f[0].type == 2 && f[0].n_samples == 2 && f[1].n_samples == 1);
  assert_true(f[0].sample[0].value == 1 && f[0].sample[0].n_labels == 0);
  assert_string_equal(f[0].sample[1].label[0].value, "small");
  assert_int_equal(f[0].sample[1].n_buckets, 2);
  assert_true(isinf(f[0].sample[1].le[1]) && f[0].sample[1].count[1] == 4 && f[0].sample[1].n == 4);
  assert_true(f[1].sample[0].value == 9);
  assert_string_equal(f[1].name, "weir:b");
}
static void on_ids(void *ctx, const weir_client_ids *ids, const weir_client_error *e) {
  calls *k = ctx;
  k->ids++;
  note(k, e);
  if (!ids) return;
  assert_int_equal(ids->n, 3);
  assert_true(ids->id[2] == 'c' && ids->len[2] == 1 && ids->text[2][0] == 'c');
}
static void on_text(void *ctx, const char *text, size_t len, const weir_client_error *e) {
  calls *k = ctx;
  k->text++;
  note(k, e);
  if (!text) return;
  assert_int_equal(len, 3);
  assert_memory_equal(text, "a\0b", 3);
}
static bool all_calls(void *ctx) {
  const calls *k = ctx;
  return k->health && k->model && k->stats && k->ids > 1 && k->text;
}

static void ask_all(weir_client *c, calls *k) {
  static const uint32_t ids[] = {'a', 0, 'b'};
  static const weir_client_message chat = {"user", "abc"};
  weir_client_error e = {0};
  assert_int_equal(weir_client_get_health(c, on_health, k, &e), 0);
  assert_int_equal(weir_client_get_model(c, on_model, k, &e), 0);
  assert_int_equal(weir_client_get_stats(c, on_stats, k, &e), 0);
  assert_int_equal(weir_client_tokenize(c, "abc", 3, true, true, NULL, 0, on_ids, k, &e), 0);
  assert_int_equal(weir_client_tokenize(c, NULL, 0, true, true, &chat, 1, on_ids, k, &e), 0);
  assert_int_equal(weir_client_detokenize(c, ids, 3, on_text, k, &e), 0);
}

static void every_call(void **state) {
  (void)state;
  fake_engine f;
  fake_open(&f, NULL);
  f.max_request_bytes = 2 << 20;
  const weir_client_cfg cfg = talk_cfg(f.url);
  talk t = {talk_client(&cfg), &f, 0};
  calls k = {0};
  ask_all(t.client, &k);
  assert_true(weir_client_run(t.client, 0) > 0);
  talk_until(&t, all_calls, &k, "answers to all calls");
  assert_int_equal(k.errors, 0);
  assert_int_equal(weir_client_run(t.client, 0), 0);
  for (int kind = 0; kind <= WEIR_FRAME_LAST; kind++) f.error[kind] = NULL;
  Weir__V1__Error error = WEIR__V1__ERROR__INIT;
  error.code = 401;
  error.message = "who are you?";
  for (int kind = 1; kind <= WEIR_FRAME_LAST; kind++) f.error[kind] = &error;
  k = (calls){0};
  ask_all(t.client, &k);
  talk_until(&t, all_calls, &k, "errors to all calls");
  assert_int_equal(k.errors, 6);
  assert_int_equal(k.error.code, 401);
  assert_string_equal(k.error.message, "who are you?");
  k = (calls){0};
  ask_all(t.client, &k);
  weir_client_close(t.client); /* makes every callback */
  assert_int_equal(k.errors, 6);
  assert_int_equal(k.error.code, 499);
  fake_close(&f);
}

/* ---- cancelling ---- */

static void cancel_in_all_states(void **state) {
  (void)state;
  fake_engine f;
  fake_open(&f, NULL);
  const weir_client_cfg cfg = talk_cfg(f.url);
  talk t = {talk_client(&cfg), &f, 0};
  heard queued = {0}, sent = {0}, open = {0}, left = {0};
  heard_submit(t.client, NULL, &queued);
  weir_client_cancel(t.client, queued.number); /* before it was sent */
  assert_int_equal(queued.ends, 0);            /* not from here */
  talk_until(&t, talk_ended, &queued, "the end of what was never sent");
  assert_string_equal(queued.reason, "cancelled");
  assert_int_equal(queued.error.code, 0);
  talk_for(&t, 20);
  assert_int_equal(f.n_requests, 0);

  heard_submit(t.client, NULL, &sent);
  weir_client_run(t.client, 0); /* its Submit is under way */
  weir_client_cancel(t.client, sent.number);
  talk_until(&t, talk_ended, &sent, "the end of what was sent");
  heard_whole(&f, &sent, 0, 0, "cancelled");
  assert_true(f.request[0].cancelled);

  heard_submit(t.client, NULL, &open);
  talk_until(&t, parked, &f, "a parked poll");
  fake_write(&f, 2, NULL);
  talk_until(&t, has_two, &open, "two tokens");
  weir_client_cancel(t.client, open.number);
  weir_client_cancel(t.client, open.number); /* twice is once */
  talk_until(&t, talk_ended, &open, "the end of what was open");
  heard_whole(&f, &open, 1, 2, "cancelled");
  assert_int_equal(f.asked[WEIR_FRAME_CANCEL], 2);

  heard_submit(t.client, NULL, &left);
  talk_until(&t, parked, &f, "a parked poll");
  weir_client_abandon(t.client, left.number);
  assert_int_equal(weir_client_run(t.client, 0), 0);
  talk_until(&t, all_told, &f, "all forgotten");
  assert_true(f.request[2].cancelled);
  assert_int_equal(left.ends + left.starts, 0);
  weir_client_close(t.client);
  assert_int_equal(left.ends, 0);
  heard_fini(&open);
  fake_close(&f);
}

/* Owners that act from their callbacks: the first token makes one cancel itself, another go away, a third ask
 * anew. */
typedef struct actor {
  heard h; /* first */
  weir_client *client;
  int what;
  heard *next;
} actor;

static void act(void *ctx, const weir_client_token *token) {
  actor *a = ctx;
  a->h.n_tokens++;
  if (token->index > 0) return;
  if (a->what == 0) weir_client_cancel(a->client, a->h.number);
  if (a->what == 1) weir_client_abandon(a->client, a->h.number);
  if (a->what == 2) heard_submit(a->client, NULL, a->next);
  assert_true(weir_client_run(a->client, 100) > 0); /* of no effect here */
}

static void from_callbacks(void **state) {
  (void)state;
  fake_engine f;
  fake_open(&f, NULL);
  const weir_client_cfg cfg = talk_cfg(f.url);
  talk t = {talk_client(&cfg), &f, 0};
  heard next = {0};
  actor a[3];
  memset(a, 0, sizeof a);
  for (int i = 0; i < 3; i++) {
    a[i] = (actor){.client = t.client, .what = i, .next = &next};
    weir_client_events events = heard_events(&a[i].h);
    events.on_token = act;
    const weir_client_request q = {.prompt = "x"};
    a[i].h.number = weir_client_submit(t.client, &q, &events, NULL);
    assert_int_equal(a[i].h.number, i + 1);
  }
  talk_until(&t, three_submitted, &f, "three requests");
  fake_write(&f, 3, NULL);
  talk_until(&t, talk_ended, &a[0].h, "cancelled by itself");
  assert_string_equal(a[0].h.reason, "cancelled");
  assert_int_equal(a[0].h.n_tokens, 3);
  assert_int_equal(a[1].h.n_tokens, 1); /* no event after abandon */
  assert_int_equal(a[1].h.ends, 0);
  fake_write(&f, 0, "length");
  talk_until(&t, talk_ended, &a[2].h, "the one that went on");
  assert_int_equal(a[2].h.n_tokens, 3);
  fake_write(&f, 1, "stop");
  talk_until(&t, talk_ended, &next, "the one asked anew");
  assert_int_equal(next.n_tokens, f.request[3].written);
  weir_client_close(t.client);
  heard_fini(&next);
  fake_close(&f);
}

static void *answer_cancel(void *ctx) {
  fake_engine *f = ctx;
  for (int i = 0; i < 10 && f->asked[WEIR_FRAME_CANCEL] == 0; i++) {
    struct pollfd fd = {.fd = f->fd, .events = POLLIN};
    poll(&fd, 1, 20);
    fake_step(f);
  }
  return NULL;
}

/* A client that closes tells the engine, if that does not take long: on a busy machine not each time. */
static void goodbye(void **state) {
  (void)state;
  bool told = false;
  for (int i = 0; i < 20 && !told; i++) {
    fake_engine f;
    fake_open(&f, NULL);
    const weir_client_cfg cfg = talk_cfg(f.url);
    talk t = {talk_client(&cfg), &f, 0};
    heard h = {0};
    heard_submit(t.client, NULL, &h);
    talk_until(&t, submitted, &f,
               "submitted"); /* the reply is not read yet: it must not be taken for the other */
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, answer_cancel, &f), 0);
    weir_client_close(t.client);
    pthread_join(thread, NULL);
    told = f.request[0].cancelled;
    assert_int_equal(h.ends, 1);
    fake_close(&f);
  }
  assert_true(told);
}

/* ---- many, and none ---- */

enum { MANY = 256 };
static bool all_ended(void *ctx) {
  const heard *h = ctx;
  for (int i = 0; i < MANY; i++)
    if (!h[i].ends) return false;
  return true;
}
static bool all_there(void *ctx) { return ((fake_engine *)ctx)->n_requests == MANY; }

static void many(void **state) {
  (void)state;
  fake_engine f;
  fake_open(&f, NULL);
  f.per_reply = 3;
  const weir_client_cfg cfg = talk_cfg(f.url);
  talk t = {talk_client(&cfg), &f, 0};
  heard *h = calloc(MANY, sizeof *h);
  for (int i = 0; i < MANY; i++) heard_submit(t.client, NULL, &h[i]);
  talk_until(&t, all_there, &f, "256 requests submitted");
  for (int round = 0; round < 5; round++) {
    fake_write(&f, 4, NULL);
    fake_step(&f);
    weir_client_run(t.client, 0);
  }
  fake_write(&f, 1, "length");
  talk_until(&t, all_ended, h, "256 ends");
  for (int i = 0; i < MANY; i++) heard_whole(&f, &h[i], i, 21, "length"); /* submitted in order */
  talk_until(&t, all_told, &f, "256 forgotten");
  assert_int_equal(f.asked[WEIR_FRAME_SUBMIT], MANY);
  assert_in_range(f.asked[WEIR_FRAME_POLL], 8, MANY); /* one for all, not one for each */
  weir_client_close(t.client);
  for (int i = 0; i < MANY; i++) heard_fini(&h[i]);
  free(h);
  fake_close(&f);
}

static bool two_submitted(void *ctx) { return ((fake_engine *)ctx)->n_requests == 2; }

/* A request that comes while a poll is parked for another does not wait for that one's news. */
static void joins(void **state) {
  (void)state;
  fake_engine f;
  fake_open(&f, NULL);
  weir_client_cfg cfg = talk_cfg(f.url);
  cfg.poll_ms = 30000;
  cfg.resend_ms = cfg.lost_after_ms = 90000;
  talk t = {talk_client(&cfg), &f, 0};
  heard first = {0}, second = {0};
  heard_submit(t.client, NULL, &first);
  talk_until(&t, parked, &f, "a parked poll");
  heard_submit(t.client, NULL, &second);
  talk_until(&t, two_submitted, &f, "the second request");
  f.request[1].written = 3;
  f.request[1].reason = "eos";
  talk_until(&t, talk_ended, &second, "the end of the second");
  heard_whole(&f, &second, 1, 3, "eos");
  assert_int_equal(first.n_tokens + (uint32_t)first.ends, 0);
  weir_client_close(t.client);
  heard_fini(&second);
  fake_close(&f);
}

/* While a poll is parked and nothing happens, nobody wakes up. */
static void sleeps(void **state) {
  (void)state;
  fake_engine f;
  fake_open(&f, NULL);
  weir_client_cfg cfg = talk_cfg(f.url);
  cfg.poll_ms = 3000;
  cfg.resend_ms = 60000;
  talk t = {talk_client(&cfg), &f, 0};
  talk_for(&t, 20);
  assert_in_range(t.wakes, 0, 3); /* nothing asked; each lane was connected */
  heard h = {0};
  heard_submit(t.client, NULL, &h);
  talk_until(&t, parked, &f, "a parked poll");
  talk_for(&t, 20); /* what gathers new requests has run out */
  t.wakes = 0;
  talk_for(&t, 150);
  assert_int_equal(t.wakes, 0);
  fake_write(&f, 1, "eos");
  fake_step(&f);
  struct pollfd fd = {.fd = weir_client_fd(t.client), .events = POLLIN};
  assert_int_equal(poll(&fd, 1, 5000), 1);
  talk_until(&t, all_told, &f, "told");
  heard_whole(&f, &h, 0, 1, "eos");
  talk_for(&t, 20);
  t.wakes = 0;
  talk_for(&t, 100);
  assert_int_equal(t.wakes, 0);
  weir_client_close(t.client);
  heard_fini(&h);
  fake_close(&f);
}

/* run by itself, without an event loop. */
static void blocking(void **state) {
  (void)state;
  fake_engine f;
  fake_open(&f, NULL);
  const weir_client_cfg cfg = talk_cfg(f.url);
  weir_client *c = talk_client(&cfg);
  heard h = {0};
  heard_submit(c, NULL, &h);
  for (int i = 0; i < 10000 && weir_client_run(c, 1) > 0; i++) {
    fake_step(&f);
    if (f.n_requests == 1 && f.request[0].written < 5) fake_write(&f, 1, NULL);
    if (f.n_requests == 1 && f.request[0].written == 5) fake_write(&f, 0, "stop");
  }
  heard_whole(&f, &h, 0, 5, "stop");
  assert_int_equal(weir_client_run(c, -1), 0); /* nothing to wait for */
  weir_client_close(c);
  heard_fini(&h);
  fake_close(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(complete),       cmocka_unit_test(fields),     cmocka_unit_test(refused),
      cmocka_unit_test(configurations), cmocka_unit_test(every_call), cmocka_unit_test(cancel_in_all_states),
      cmocka_unit_test(from_callbacks), cmocka_unit_test(many),       cmocka_unit_test(goodbye),
      cmocka_unit_test(joins),          cmocka_unit_test(sleeps),     cmocka_unit_test(blocking)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
