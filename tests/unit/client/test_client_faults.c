/* SPDX-License-Identifier: Apache-2.0 */
/* The client when things go wrong: replies that are lost, late, doubled, of no sense or too long; an engine
 * that is not there, goes, comes back with or without its memory, refuses. Tokens come once and in order, or
 * the request ends with a reason, in bounded time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "talk.h"

#define MS INT64_C(1000000)

static bool submitted(void *ctx) { return ((fake_engine *)ctx)->n_requests > 0; }
static bool parked(void *ctx) { return ((fake_engine *)ctx)->parked_poll.as.poll != NULL; }
static bool has_two(void *ctx) { return ((heard *)ctx)->n_tokens == 2; }
static bool forgotten(void *ctx) { return ((fake_engine *)ctx)->request[0].forgotten; }
static bool cancelled(void *ctx) { return ((fake_engine *)ctx)->request[0].cancelled; }

static void lost_replies(void **state) {
  (void)state;
  fake_engine f;
  fake_open(&f, NULL);
  weir_client_cfg cfg = talk_cfg(f.url);
  cfg.call_timeout_ms = 900; /* control is sent again after 300 ms */
  talk t = {talk_client(&cfg), &f, 0};
  heard h = {0};
  f.drop[WEIR_FRAME_SUBMIT] = 1;
  f.drop[WEIR_FRAME_POLL] = 3;
  f.drop[WEIR_FRAME_CANCEL] = 1;
  heard_submit(t.client, NULL, &h);
  talk_until(&t, submitted, &f, "submitted");
  fake_write(&f, 2, NULL);
  talk_until(&t, has_two, &h, "two tokens");
  assert_int_equal(f.drop[WEIR_FRAME_SUBMIT] + f.drop[WEIR_FRAME_POLL], 0);
  assert_int_equal(f.n_requests, 1); /* one request, though it came twice */
  assert_true(f.request[0].submits >= 2);
  f.drop[WEIR_FRAME_POLL] = 1;
  weir_client_cancel(t.client, h.number);
  talk_until(&t, talk_ended, &h, "the end");
  heard_whole(&f, &h, 0, 2, "cancelled");
  weir_client_close(t.client);
  heard_fini(&h);
  fake_close(&f);
}

/* Every reply comes twice, and every update begins at token 0. */
static void repeated_replies(void **state) {
  (void)state;
  fake_engine f;
  fake_open(&f, NULL);
  f.twice = f.repeats = true;
  const weir_client_cfg cfg = talk_cfg(f.url);
  talk t = {talk_client(&cfg), &f, 0};
  heard h[2] = {{0}, {0}};
  heard_submit(t.client, NULL, &h[0]);
  heard_submit(t.client, NULL, &h[1]);
  talk_until(&t, submitted, &f, "submitted");
  for (int i = 0; i < 6; i++) {
    fake_write(&f, 2, NULL);
    fake_step(&f);
    talk_for(&t, 5);
  }
  fake_write(&f, 0, "eos");
  talk_until(&t, talk_ended, &h[0], "the first end");
  talk_until(&t, talk_ended, &h[1], "the second end");
  for (int i = 0; i < 2; i++) {
    heard_whole(&f, &h[i], i, f.request[i].written, "eos");
    heard_fini(&h[i]);
  }
  assert_int_equal(f.request[0].written, 12);
  weir_client_close(t.client);
  fake_close(&f);
}

/* The engine takes longer for an answer than the interval of resending. */
static void slow_engine(void **state) {
  (void)state;
  fake_engine f;
  fake_open(&f, NULL);
  f.delay_ns = 450 * MS;
  weir_client_cfg cfg = talk_cfg(f.url);
  cfg.lost_after_ms = 15000;
  talk t = {talk_client(&cfg), &f, 0};
  heard h = {0};
  heard_submit(t.client, NULL, &h);
  talk_until(&t, submitted, &f, "submitted");
  fake_write(&f, 3, NULL);
  talk_until(&t, parked, &f, "a poll");
  fake_write(&f, 3, "eos");
  talk_until(&t, talk_ended, &h, "the end");
  heard_whole(&f, &h, 0, 6, "eos");
  assert_int_equal(f.n_requests, 1);
  assert_true(f.request[0].submits + f.asked[WEIR_FRAME_POLL] > 3); /* and it did resend */
  weir_client_close(t.client);
  heard_fini(&h);
  fake_close(&f);
}

static void engine_comes_back(void **state) {
  (void)state;
  fake_engine f;
  fake_open(&f, NULL);
  weir_client_cfg cfg = talk_cfg(f.url);
  cfg.poll_ms = 30000; /* not what makes the client ask again: that the connection is back does */
  cfg.resend_ms = cfg.lost_after_ms = 90000;
  talk t = {talk_client(&cfg), &f, 0};
  heard h = {0};
  heard_submit(t.client, NULL, &h);
  talk_until(&t, parked, &f, "a parked poll");
  fake_write(&f, 2, NULL);
  talk_until(&t, has_two, &h, "two tokens");
  talk_until(&t, parked, &f, "a parked poll");
  fake_stop(&f);
  fake_write(&f, 2, NULL); /* while nobody could ask */
  talk_for(&t, 150);
  assert_int_equal(h.ends, 0);
  fake_reopen(&f);
  fake_write(&f, 1, "eos");
  talk_until(&t, talk_ended, &h, "the end");
  heard_whole(&f, &h, 0, 5, "eos");
  assert_int_equal(f.request[0].shown, 2); /* resumed from its cursor */
  talk_until(&t, forgotten, &f, "forgotten");
  weir_client_close(t.client);
  heard_fini(&h);
  fake_close(&f);
}

static void engine_forgot(void **state) {
  (void)state;
  fake_engine f;
  fake_open(&f, NULL);
  const weir_client_cfg cfg = talk_cfg(f.url);
  talk t = {talk_client(&cfg), &f, 0};
  heard h = {0};
  heard_submit(t.client, NULL, &h);
  talk_until(&t, parked, &f, "a parked poll");
  fake_write(&f, 2, NULL);
  talk_until(&t, has_two, &h, "two tokens");
  fake_stop(&f);
  f.n_requests = 0;
  fake_reopen(&f);
  talk_until(&t, talk_ended, &h, "the end");
  assert_string_equal(h.reason, "error");
  assert_int_equal(h.error.code, 503);
  assert_non_null(strstr(h.error.message, "does not know the request"));
  assert_int_equal(h.n_tokens, 2);
  heard again = {0}; /* the client goes on */
  heard_submit(t.client, NULL, &again);
  talk_until(&t, submitted, &f, "submitted");
  fake_write(&f, 1, "eos");
  talk_until(&t, talk_ended, &again, "the end of another");
  heard_whole(&f, &again, 0, 1, "eos");
  weir_client_close(t.client);
  heard_fini(&h);
  heard_fini(&again);
  fake_close(&f);
}

static void engine_goes(void **state) {
  (void)state;
  fake_engine f;
  fake_open(&f, NULL);
  weir_client_cfg cfg = talk_cfg(f.url);
  cfg.lost_after_ms = 300;
  cfg.call_timeout_ms = 400;
  talk t = {talk_client(&cfg), &f, 0};
  heard h = {0}, late = {0};
  heard_submit(t.client, NULL, &h);
  talk_until(&t, parked, &f, "a parked poll");
  fake_write(&f, 2, NULL);
  talk_until(&t, has_two, &h, "two tokens");
  f.silent = true;
  heard_submit(t.client, NULL, &late);
  talk_until(&t, talk_ended, &h, "lost");
  assert_string_equal(h.reason, "error");
  assert_int_equal(h.error.code, 503);
  assert_non_null(strstr(h.error.message, "has said nothing for 300 ms"));
  assert_int_equal(h.n_tokens, 2);
  assert_int_equal(h.usage.completion_tokens, 2);
  talk_until(&t, talk_ended, &late, "not taken");
  assert_int_equal(late.error.code, 503);
  assert_non_null(strstr(late.error.message, "Submit"));
  f.silent = false; /* it is told to stop what it may have */
  talk_for(&t, 450);
  heard again = {0};
  heard_submit(t.client, NULL, &again);
  talk_until(&t, parked, &f, "a parked poll");
  fake_write(&f, 1, "eos");
  talk_until(&t, talk_ended, &again, "the end of another");
  assert_string_equal(again.reason, "eos");
  weir_client_close(t.client);
  heard_fini(&h);
  heard_fini(&again);
  fake_close(&f);
}

/* No reply to a Submit ever comes, but the engine has the request: it is told to stop it. */
static void submit_unsure(void **state) {
  (void)state;
  fake_engine f;
  fake_open(&f, NULL);
  weir_client_cfg cfg = talk_cfg(f.url);
  cfg.call_timeout_ms = 200;
  talk t = {talk_client(&cfg), &f, 0};
  f.drop[WEIR_FRAME_SUBMIT] = 1000;
  heard h = {0};
  heard_submit(t.client, NULL, &h);
  talk_until(&t, talk_ended, &h, "the end");
  assert_int_equal(h.error.code, 503);
  talk_until(&t, cancelled, &f, "cancelled");
  talk_until(&t, forgotten, &f, "forgotten");
  weir_client_close(t.client);
  fake_close(&f);
}

typedef struct called {
  int n;
  weir_client_error error;
} called;
static bool was_called(void *ctx) { return ((called *)ctx)->n > 0; }
static void note(called *k, const weir_client_error *e) {
  k->n++;
  k->error = *e;
}
static void on_health(void *ctx, const weir_client_health *h, const weir_client_error *e) {
  assert_int_equal(h == NULL, e->code != 0);
  note(ctx, e);
}
static void on_model(void *ctx, const weir_client_model *m, const weir_client_error *e) {
  assert_int_equal(m == NULL, e->code != 0);
  note(ctx, e);
}
static void on_stats(void *ctx, const weir_client_stats *s, const weir_client_error *e) {
  assert_int_equal(s == NULL, e->code != 0);
  note(ctx, e);
}
static void on_ids(void *ctx, const weir_client_ids *ids, const weir_client_error *e) {
  assert_int_equal(ids == NULL, e->code != 0);
  note(ctx, e);
}
static void on_text(void *ctx, const char *text, size_t len, const weir_client_error *e) {
  (void)len;
  assert_int_equal(text == NULL, e->code != 0);
  note(ctx, e);
}

static void nobody_there(void **state) {
  (void)state;
  weir_client_cfg cfg = talk_cfg("ipc:///tmp/weir-test-nobody-there");
  cfg.call_timeout_ms = 200;
  talk t = {talk_client(&cfg), NULL, 0};
  heard h[3] = {{0}, {0}, {0}};
  called k = {0};
  for (int i = 0; i < 3; i++) heard_submit(t.client, NULL, &h[i]);
  assert_int_equal(weir_client_get_health(t.client, on_health, &k, NULL), 0);
  assert_int_equal(weir_client_run(t.client, 0), 4);
  weir_client_abandon(t.client, h[2].number);
  for (int i = 0; i < 2; i++) {
    talk_until(&t, talk_ended, &h[i], "refused in time");
    assert_string_equal(h[i].reason, "error");
    assert_int_equal(h[i].error.code, 503);
  }
  talk_until(&t, was_called, &k, "no health");
  assert_int_equal(k.error.code, 503);
  assert_non_null(strstr(k.error.message, cfg.url));
  assert_int_equal(h[2].ends, 0);
  assert_int_equal(weir_client_run(t.client, 0), 0);
  weir_client_close(t.client);
}

/* An engine that says "replaced" again and again gets polls, but not all the time. */
static void replaced_polls(void **state) {
  (void)state;
  fake_engine f;
  fake_open(&f, NULL);
  const weir_client_cfg cfg = talk_cfg(f.url);
  talk t = {talk_client(&cfg), &f, 0};
  heard h = {0};
  f.replaced = 100000;
  heard_submit(t.client, NULL, &h);
  talk_until(&t, submitted, &f, "submitted");
  talk_for(&t, 300);
  assert_in_range(f.asked[WEIR_FRAME_POLL], 2, 20);
  assert_int_equal(h.ends, 0);
  f.replaced = 0;
  fake_write(&f, 2, "eos");
  talk_until(&t, talk_ended, &h, "the end");
  heard_whole(&f, &h, 0, 2, "eos");
  weir_client_close(t.client);
  heard_fini(&h);
  fake_close(&f);
}

static void refusals(void **state) {
  (void)state;
  fake_engine f;
  fake_open(&f, NULL);
  weir_client_cfg cfg = talk_cfg(f.url);
  cfg.lost_after_ms = 600;
  talk t = {talk_client(&cfg), &f, 0};
  Weir__V1__Error full = WEIR__V1__ERROR__INIT, drain = WEIR__V1__ERROR__INIT, denied = WEIR__V1__ERROR__INIT;
  full.code = 429;
  full.message = "256 requests wait already";
  full.retry_after_ms = 1500;
  full.param = "queue";
  drain.code = 503;
  drain.message = "draining";
  denied.code = 401;
  denied.message = "the token is wrong";

  heard h = {0};
  f.error[WEIR_FRAME_SUBMIT] = &full;
  heard_submit(t.client, NULL, &h);
  talk_until(&t, talk_ended, &h, "refused");
  assert_true(h.error.code == 429 && h.error.retry_after_ms == 1500 && h.starts == 0);
  assert_string_equal(h.error.message, "256 requests wait already");
  assert_string_equal(h.error.param, "queue");
  assert_int_equal(f.asked[WEIR_FRAME_POLL], 0);
  f.error[WEIR_FRAME_SUBMIT] = NULL;

  h = (heard){0}; /* what passes */
  f.error[WEIR_FRAME_POLL] = &drain;
  heard_submit(t.client, NULL, &h);
  talk_until(&t, submitted, &f, "submitted");
  talk_for(&t, 250);
  assert_int_equal(h.ends, 0);
  assert_in_range(f.asked[WEIR_FRAME_POLL], 1, 8);
  f.error[WEIR_FRAME_POLL] = NULL;
  fake_write(&f, 1, "eos");
  talk_until(&t, talk_ended, &h, "the end");
  heard_whole(&f, &h, 0, 1, "eos");
  heard_fini(&h);

  h = (heard){0}; /* what does not pass in time */
  f.error[WEIR_FRAME_POLL] = &drain;
  heard_submit(t.client, NULL, &h);
  talk_until(&t, talk_ended, &h, "given up");
  assert_int_equal(h.error.code, 503);
  assert_string_equal(h.error.message, "draining");

  h = (heard){0}; /* what never passes */
  f.error[WEIR_FRAME_POLL] = &denied;
  heard_submit(t.client, NULL, &h);
  talk_until(&t, talk_ended, &h, "denied");
  assert_int_equal(h.error.code, 401);
  assert_string_equal(h.error.message, "the token is wrong");
  weir_client_close(t.client);
  fake_close(&f);
}

/* ---- answers that make no sense ---- */

#define HEAD(kind) "WEIR\1" kind "\0\0"
static const struct {
  const char *what;
  int kind;
  const char *bytes;
  size_t n;
} nonsense[] = {
    {"nothing", 0, "", 0},
    {"three bytes", 0, "WEI", 3},
    {"other magic", 0, "XEIR\1\x81\0\0", 8},
    {"version 9", 0, "WEIR\x09\x81\0\0", 8},
    {"reserved", 0, "WEIR\1\x81\1\0", 8},
    {"kind 0", 0, HEAD("\0"), 8},
    {"kind 0x7f", 0, HEAD("\x7f"), 8},
    {"a request", 0, HEAD("\1"), 8},
    {"an Error of code 0", 0, HEAD("\xff"), 8},
    {"an Error of code 999", 0, HEAD("\xff") "\x08\xe7\x07", 11},
    {"an Error of no sense", 0, HEAD("\xff") "\x08", 9},
    {"an Error in Latin-1", 0, HEAD("\xff") "\x08\xf4\x03\x12\1\xe9", 14},
    {"another reply", WEIR_FRAME_SUBMIT, HEAD("\x82"), 8},
    {"a Submit reply cut short", WEIR_FRAME_SUBMIT, HEAD("\x81") "\x08", 9},
    {"a group", WEIR_FRAME_SUBMIT, HEAD("\x81") "\x0b", 9},
    {"another reply", WEIR_FRAME_POLL, HEAD("\x81"), 8},
    {"an update without id", WEIR_FRAME_POLL, HEAD("\x82") "\x0a\0", 10},
    {"an update longer than the frame", WEIR_FRAME_POLL, HEAD("\x82") "\x0a\x7f", 10},
    {"an update of state 9", WEIR_FRAME_POLL,
     HEAD("\x82") "\x0a\x14\x0a\x10"
                  "0123456789abcdef"
                  "\x10\x09",
     30},
    {"an End before the end", WEIR_FRAME_POLL,
     HEAD("\x82") "\x0a\x14\x0a\x10"
                  "0123456789abcdef"
                  "\x32\0",
     30},
    {"another reply", WEIR_FRAME_MODELS, HEAD("\x82"), 8},
    {"requests of one byte", WEIR_FRAME_MODELS, HEAD("\x85") "\x68\1", 10},
    {"a model in Latin-1", WEIR_FRAME_MODELS, HEAD("\x85") "\x0a\1\xe9", 11},
    {"another reply", WEIR_FRAME_HEALTH, HEAD("\x82"), 8},
    {"a reason with a NUL", WEIR_FRAME_HEALTH, HEAD("\x88") "\x1a\1\0", 11},
    {"another reply", WEIR_FRAME_STATS, HEAD("\x82"), 8},
    {"a family of type 7", WEIR_FRAME_STATS, HEAD("\x84") "\x12\2\x18\7", 12},
    {"another reply", WEIR_FRAME_TOKENIZE, HEAD("\x82"), 8},
    {"ids without texts", WEIR_FRAME_TOKENIZE, HEAD("\x86") "\x0a\1\7", 11},
    {"another reply", WEIR_FRAME_DETOKENIZE, HEAD("\x82"), 8},
    {"a text as a number", WEIR_FRAME_DETOKENIZE, HEAD("\x87") "\x08\7", 10},
};

static void ask(weir_client *c, int kind, called *k) {
  static const uint32_t ids[] = {1};
  int st = -1;
  if (kind == WEIR_FRAME_HEALTH) st = weir_client_get_health(c, on_health, k, NULL);
  if (kind == WEIR_FRAME_MODELS) st = weir_client_get_model(c, on_model, k, NULL);
  if (kind == WEIR_FRAME_STATS) st = weir_client_get_stats(c, on_stats, k, NULL);
  if (kind == WEIR_FRAME_TOKENIZE)
    st = weir_client_tokenize(c, "x", 1, false, false, NULL, 0, on_ids, k, NULL);
  if (kind == WEIR_FRAME_DETOKENIZE) st = weir_client_detokenize(c, ids, 1, on_text, k, NULL);
  assert_int_equal(st, 0);
}

static void no_sense(const char *what, int kind, const weir_client_error *e) {
  if (e->code != 500 || strlen(e->message) < 12)
    print_error("%s to %s: %d %s\n", what, weir_frame_kind_name(kind), e->code, e->message);
  assert_int_equal(e->code, 500);
  assert_non_null(strstr(e->message, weir_frame_kind_name(kind)));
}

static void nonsense_of_every_kind(void **state) {
  (void)state;
  fake_engine f;
  fake_open(&f, NULL);
  const weir_client_cfg cfg = talk_cfg(f.url);
  talk t = {talk_client(&cfg), &f, 0};
  int n_done = 0;
  for (size_t i = 0; i < sizeof nonsense / sizeof *nonsense; i++)
    for (int kind = 1; kind <= WEIR_FRAME_LAST; kind++) {
      /* Cancel is not asked for by name: below */
      if (kind == WEIR_FRAME_CANCEL || (nonsense[i].kind != 0 && nonsense[i].kind != kind)) continue;
      f.raw[kind] = nonsense[i].bytes;
      f.n_raw[kind] = nonsense[i].n;
      heard h = {0};
      called k = {0};
      if (kind == WEIR_FRAME_SUBMIT || kind == WEIR_FRAME_POLL) {
        heard_submit(t.client, NULL, &h);
        talk_until(&t, talk_ended, &h, nonsense[i].what);
        assert_string_equal(h.reason, "error");
        assert_int_equal(h.n_tokens + (uint32_t)h.starts, 0);
        no_sense(nonsense[i].what, kind, &h.error);
      } else {
        ask(t.client, kind, &k);
        talk_until(&t, was_called, &k, nonsense[i].what);
        no_sense(nonsense[i].what, kind, &k.error);
      }
      f.raw[kind] = NULL;
      n_done++;
    }
  assert_int_equal(n_done, 12 * 7 + (int)(sizeof nonsense / sizeof *nonsense) - 12);
  heard h = {0}; /* a Cancel's answer is of no importance, the End is */
  f.raw[WEIR_FRAME_CANCEL] = "XXXX";
  f.n_raw[WEIR_FRAME_CANCEL] = 4;
  f.n_requests = 0;
  heard_submit(t.client, NULL, &h);
  talk_until(&t, submitted, &f, "submitted");
  talk_until(&t, parked, &f, "a parked poll");
  weir_client_cancel(t.client, h.number);
  talk_for(&t, 30);
  assert_int_equal(h.ends, 0);
  fake_write(&f, 1, "eos");
  talk_until(&t, talk_ended, &h, "the end");
  heard_whole(&f, &h, 0, 1, "eos");
  heard_fini(&h);
  weir_client_close(t.client);
  fake_close(&f);
}

/* The engine does not stop what it was told to stop: the owner does not wait for ever. */
static void cancel_in_vain(void **state) {
  (void)state;
  fake_engine f;
  fake_open(&f, NULL);
  weir_client_cfg cfg = talk_cfg(f.url);
  cfg.call_timeout_ms = 200;
  talk t = {talk_client(&cfg), &f, 0};
  f.raw[WEIR_FRAME_CANCEL] = "XXXX";
  f.n_raw[WEIR_FRAME_CANCEL] = 4;
  heard h = {0};
  heard_submit(t.client, NULL, &h);
  talk_until(&t, parked, &f, "a parked poll");
  fake_write(&f, 2, NULL);
  talk_until(&t, has_two, &h, "two tokens");
  weir_client_cancel(t.client, h.number);
  talk_until(&t, talk_ended, &h, "the end");
  heard_whole(&f, &h, 0, 2, "cancelled");
  assert_int_equal(h.error.code, 0);
  talk_until(&t, forgotten, &f, "forgotten");
  weir_client_close(t.client);
  heard_fini(&h);
  fake_close(&f);
}

/* Bytes of a good answer changed at random: never a crash, always an end. */
static void mutations(void **state) {
  (void)state;
  fake_engine f;
  fake_open(&f, NULL);
  const weir_client_cfg cfg = talk_cfg(f.url);
  talk t = {talk_client(&cfg), &f, 0};
  Weir__V1__Label label = WEIR__V1__LABEL__INIT, *label_at[] = {&label};
  Weir__V1__Bucket bucket = WEIR__V1__BUCKET__INIT, *bucket_at[] = {&bucket};
  Weir__V1__Sample sample = WEIR__V1__SAMPLE__INIT, *sample_at[] = {&sample, &sample};
  Weir__V1__Family family = WEIR__V1__FAMILY__INIT, *family_at[] = {&family, &family};
  Weir__V1__StatsReply m = WEIR__V1__STATS_REPLY__INIT;
  label.name = label.value = "text";
  bucket.count = 5;
  sample.label = label_at;
  sample.bucket = bucket_at;
  sample.n_label = sample.n_bucket = 1;
  family.name = "weir:x";
  family.sample = sample_at;
  family.n_sample = 2;
  m.family = family_at;
  m.n_family = 2;
  uint8_t good[512], bad[512];
  const size_t n = weir_frame_pack(WEIR_FRAME_STATS | WEIR_FRAME_REPLY, &m.base, good);
  assert_true(n < sizeof good);
  uint32_t seed = 20261123;
  int n_refused = 0;
  for (int round = 0; round < 300; round++) {
    memcpy(bad, good, n);
    for (int i = 0; i < 2; i++) {
      seed = seed * 1664525 + 1013904223;
      bad[8 + (seed >> 8) % (n - 8)] = (uint8_t)(seed >> 24);
    }
    f.raw[WEIR_FRAME_STATS] = bad;
    f.n_raw[WEIR_FRAME_STATS] = n - (seed >> 4) % 3;
    called k = {0};
    ask(t.client, WEIR_FRAME_STATS, &k);
    talk_until(&t, was_called, &k, "an answer or an error");
    assert_true(k.n == 1 && (k.error.code == 0 || k.error.code == 500));
    n_refused += k.error.code == 500;
  }
  assert_in_range(n_refused, 50, 299);
  weir_client_close(t.client);
  fake_close(&f);
}

/* Tokens that the client never got are missing before these. */
static void gap(void **state) {
  (void)state;
  fake_engine f;
  fake_open(&f, NULL);
  const weir_client_cfg cfg = talk_cfg(f.url);
  talk t = {talk_client(&cfg), &f, 0};
  heard h = {0};
  heard_submit(t.client, NULL, &h);
  talk_until(&t, parked, &f, "a parked poll");
  Weir__V1__Token token = WEIR__V1__TOKEN__INIT, *at[] = {&token};
  Weir__V1__Update update = WEIR__V1__UPDATE__INIT, *update_at[] = {&update};
  Weir__V1__PollReply m = WEIR__V1__POLL_REPLY__INIT;
  update.request_id = weir_frame_id(f.request[0].id);
  update.from = 4;
  update.state = 2;
  update.token = at;
  update.n_token = 1;
  m.update = update_at;
  m.n_update = 1;
  uint8_t bytes[128];
  f.n_raw[WEIR_FRAME_POLL] = weir_frame_pack(WEIR_FRAME_POLL | WEIR_FRAME_REPLY, &m.base, bytes);
  f.raw[WEIR_FRAME_POLL] = bytes;
  talk_until(&t, talk_ended, &h, "the end");
  assert_int_equal(h.error.code, 500);
  assert_non_null(strstr(h.error.message, "begins at token 4; token 0 is next"));
  talk_until(&t, cancelled, &f, "the engine is told to stop");
  weir_client_close(t.client);
  fake_close(&f);
}

/* The answer to the call before comes once more, in place of this one's (raw REP then drops the right one).
 */
static void stale_replies(void **state) {
  (void)state;
  fake_engine f;
  fake_open(&f, NULL);
  weir_client_cfg cfg = talk_cfg(f.url);
  cfg.call_timeout_ms = 300; /* asks again after 100 */
  talk t = {talk_client(&cfg), &f, 0};
  f.stale = true;
  int n_good = 0;
  for (int i = 0; i < 4; i++) {
    called k = {0};
    ask(t.client, i & 1 ? WEIR_FRAME_HEALTH : WEIR_FRAME_MODELS, &k);
    talk_until(&t, was_called, &k, "an answer");
    assert_true(k.n == 1 && (k.error.code == 0 || k.error.code == 503)); /* not that of another kind */
    n_good += k.error.code == 0;
  }
  assert_true(n_good >= 1);
  weir_client_close(t.client);
  fake_close(&f);
}

/* ---- sizes ---- */

static void reply_too_long(void **state) {
  (void)state;
  fake_engine f;
  fake_open(&f, NULL);
  weir_client_cfg cfg = talk_cfg(f.url);
  cfg.max_reply_bytes = 8192;
  cfg.lost_after_ms = 500;
  talk t = {talk_client(&cfg), &f, 0};
  uint8_t *big = calloc(1, 100000);
  memcpy(big, "WEIR\1\x82\0", 8);
  f.raw[WEIR_FRAME_POLL] = big;
  f.n_raw[WEIR_FRAME_POLL] = 100000;
  heard h = {0};
  heard_submit(t.client, NULL, &h);
  talk_until(&t, talk_ended, &h, "the end");
  assert_int_equal(h.error.code, 503);
  assert_in_range(f.asked[WEIR_FRAME_POLL], 1, 40);
  weir_client_close(t.client);
  free(big);
  fake_close(&f);
}

static void large_requests(void **state) {
  (void)state;
  char *text = malloc((3 << 20) + 1);
  memset(text, 'x', 3 << 20);
  text[3 << 20] = 0;
  static const struct {
    uint64_t max; /* that the engine tells; 0: it tells nothing */
    size_t n;     /* bytes of prompt */
    int code, models;
  } cases[] = {
      {4 << 20, 1000, 0, 0}, /* nobody asks for a limit */
      {4 << 20, 3 << 20, 0, 1}, {2 << 20, 3 << 20, 413, 1}, {0, 3 << 20, 413, 1}, {0, (1 << 20) - 1000, 0, 0},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    fake_engine f;
    fake_open(&f, NULL);
    f.max_request_bytes = cases[i].max;
    const weir_client_cfg cfg = talk_cfg(f.url);
    talk t = {talk_client(&cfg), &f, 0};
    heard h = {0};
    const weir_client_request q = {.prompt = text + (3 << 20) - cases[i].n};
    heard_submit(t.client, &q, &h);
    if (cases[i].code == 0) {
      talk_until(&t, submitted, &f, "submitted");
      fake_write(&f, 1, "eos");
    }
    talk_until(&t, talk_ended, &h, "the end");
    assert_int_equal(h.error.code, cases[i].code);
    assert_int_equal(f.asked[WEIR_FRAME_MODELS], cases[i].models);
    assert_int_equal(f.n_requests, cases[i].code == 0);
    if (cases[i].code == 413) { /* it is known now */
      weir_client_error e = {0};
      const weir_client_events none = {0};
      assert_int_equal(weir_client_submit(t.client, &q, &none, &e), -1);
      assert_int_equal(e.code, 413);
    }
    weir_client_close(t.client);
    heard_fini(&h);
    fake_close(&f);
  }
  fake_engine f; /* the question itself is refused */
  fake_open(&f, NULL);
  Weir__V1__Error denied = WEIR__V1__ERROR__INIT;
  denied.code = 401;
  f.error[WEIR_FRAME_MODELS] = &denied;
  const weir_client_cfg cfg = talk_cfg(f.url);
  talk t = {talk_client(&cfg), &f, 0};
  heard large = {0}, small = {0};
  const weir_client_request q = {.prompt = text};
  heard_submit(t.client, &q, &large);
  heard_submit(t.client, NULL, &small);
  talk_until(&t, talk_ended, &large, "the end");
  assert_int_equal(large.error.code, 401);
  talk_until(&t, submitted, &f, "the small one goes on");
  weir_client_close(t.client);
  assert_int_equal(small.ends, 1);
  free(text);
  fake_close(&f);
}

/* A Tokenize that takes its time does not hold a Submit. */
static void lanes(void **state) {
  (void)state;
  fake_engine f;
  fake_open(&f, NULL);
  weir_client_cfg cfg = talk_cfg(f.url);
  cfg.call_timeout_ms = 600;
  talk t = {talk_client(&cfg), &f, 0};
  f.drop[WEIR_FRAME_TOKENIZE] = 1000000;
  called k = {0};
  ask(t.client, WEIR_FRAME_TOKENIZE, &k);
  weir_client_run(t.client, 0);
  heard h = {0};
  heard_submit(t.client, NULL, &h);
  talk_until(&t, submitted, &f, "submitted");
  fake_write(&f, 3, "eos");
  talk_until(&t, talk_ended, &h, "the end");
  assert_int_equal(k.n, 0);
  heard_whole(&f, &h, 0, 3, "eos");
  talk_until(&t, was_called, &k, "the call's own time is over");
  assert_int_equal(k.error.code, 503);
  weir_client_close(t.client);
  heard_fini(&h);
  fake_close(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(lost_replies),
                                     cmocka_unit_test(repeated_replies),
                                     cmocka_unit_test(slow_engine),
                                     cmocka_unit_test(engine_comes_back),
                                     cmocka_unit_test(engine_forgot),
                                     cmocka_unit_test(engine_goes),
                                     cmocka_unit_test(nobody_there),
                                     cmocka_unit_test(submit_unsure),
                                     cmocka_unit_test(replaced_polls),
                                     cmocka_unit_test(refusals),
                                     cmocka_unit_test(nonsense_of_every_kind),
                                     cmocka_unit_test(cancel_in_vain),
                                     cmocka_unit_test(mutations),
                                     cmocka_unit_test(gap),
                                     cmocka_unit_test(stale_replies),
                                     cmocka_unit_test(reply_too_long),
                                     cmocka_unit_test(large_requests),
                                     cmocka_unit_test(lanes)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
