/* SPDX-License-Identifier: Apache-2.0 */
/* Whole runs of the load tester over RPC, against a scripted engine on a thread of its own: opening the
 * target waits for it. */
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fake_engine.h"
#include "load/summary.h"

/* What the engine does to each request: writes so many tokens, one each turn of its loop, then ends it. */
typedef struct {
  uint32_t tokens;
  const char *reason;      /* NULL: never ends it */
  Weir__V1__Error *refuse; /* NULL: takes it */
} script;

typedef struct {
  fake_engine engine;
  script script;
  pthread_t thread;
  atomic_bool over;
  /* of the last request that came */
  uint32_t max_tokens;
  bool receipts;
  size_t n_chat;
  char first_role[16], last_text[64];
} served;

enum { TURN_MS = 2 };

static void on_submit(void *ctx, const Weir__V1__SubmitRequest *q) {
  served *s = ctx;
  s->max_tokens = q->max_tokens;
  s->receipts = q->receipts;
  s->n_chat = q->n_chat;
  if (q->n_chat > 0) {
    snprintf(s->first_role, sizeof s->first_role, "%s", q->chat[0]->role);
    snprintf(s->last_text, sizeof s->last_text, "%s", q->chat[q->n_chat - 1]->text);
  }
}

static void write_one(served *s) {
  for (int i = 0; i < s->engine.n_requests; i++) {
    fake_request *r = &s->engine.request[i];
    if (r->reason) continue;
    if (r->written < s->script.tokens)
      r->written++;
    else
      r->reason = s->script.reason;
  }
}

static void *serve(void *ctx) {
  served *s = ctx;
  while (!s->over) {
    struct pollfd p = {.fd = s->engine.fd, .events = POLLIN};
    poll(&p, 1, TURN_MS);
    write_one(s);
    fake_step(&s->engine);
  }
  return NULL;
}

typedef struct {
  struct event_base *base;
  served s;
  weir_target *target;
  weir_data *data;
  weir_run_cfg cfg;
  weir_load_result out;
  weir_err e;
} rig;

static void rig_up(rig *r, const script *what, bool chat, bool receipts, const weir_data_cfg *data) {
  const weir_data_cfg d = {.input = {WEIR_LENGTH_FIXED, 5, 5},
                           .output = {WEIR_LENGTH_FIXED, 6, 6},
                           .n_prefixes = 1,
                           .turns = 1,
                           .seed = 3};
  struct event_config *precise = event_config_new();
  event_config_set_flag(precise, EVENT_BASE_FLAG_PRECISE_TIMER);
  *r = (rig){.base = event_base_new_with_config(precise)};
  event_config_free(precise);
  fake_open(&r->s.engine, NULL);
  r->s.script = *what;
  r->s.engine.on_submit = on_submit;
  r->s.engine.ctx = &r->s;
  r->s.engine.error[WEIR_FRAME_SUBMIT] = what->refuse;
  assert_int_equal(pthread_create(&r->s.thread, NULL, serve, &r->s), 0);
  const weir_target_cfg t = {
      .base = r->base, .url = r->s.engine.url, .chat = chat, .receipts = receipts, .connect_s = 20};
  if (weir_target_open(&t, &r->target, &r->e) != WEIR_OK) fail_msg("%s", r->e.msg);
  if (weir_data_open(data ? data : &d, &r->data, &r->e) != WEIR_OK) fail_msg("%s", r->e.msg);
  r->cfg = (weir_run_cfg){.base = r->base,
                          .target = r->target,
                          .data = r->data,
                          .concurrency = 3,
                          .requests = 6,
                          .duration_s = 20,
                          .drain_s = 5,
                          .timeout_s = 20,
                          .entropy = NAN,
                          .seed = 1,
                          .history = chat};
}

static void rig_run(rig *r) {
  if (weir_run(&r->cfg, &r->out, &r->e) != WEIR_OK) fail_msg("%s", r->e.msg);
}

/* Ends the engine too, but keeps what it knows for the test to look at. */
static void rig_stop(rig *r) {
  weir_target_close(r->target);
  r->target = NULL;
  if (!r->s.over) {
    r->s.over = true;
    pthread_join(r->s.thread, NULL);
  }
}

static void rig_down(rig *r) {
  rig_stop(r);
  fake_close(&r->s.engine);
  weir_load_result_fini(&r->out);
  weir_data_close(r->data);
  event_base_free(r->base);
}

static int count(const rig *r, weir_load_outcome o) {
  int n = 0;
  for (int64_t i = 0; i < r->out.n; i++) n += r->out.record[i].outcome == o;
  return n;
}

static void test_answers(void **state) {
  (void)state;
  for (int receipts = 0; receipts < 2; receipts++) {
    rig r;
    rig_up(&r, &(script){.tokens = 6, .reason = "length"}, false, receipts, NULL);
    assert_string_equal(r.target->about.kind, "rpc");
    assert_string_equal(r.target->about.model, "pair");
    assert_int_equal(r.target->about.context, 4096);
    rig_run(&r);
    rig_stop(&r);
    assert_int_equal(r.out.n, 6);
    assert_int_equal(count(&r, WEIR_LOAD_OK), 6);
    assert_int_equal(r.s.engine.n_requests, 6);
    assert_int_equal(r.s.max_tokens, 6);
    assert_int_equal(r.s.receipts, receipts);
    assert_int_equal(r.s.n_chat, 0);
    for (int64_t i = 0; i < r.out.n; i++) {
      const weir_load_record *x = &r.out.record[i];
      assert_string_equal(x->reason, "length");
      assert_int_equal(x->code, 200);
      assert_int_equal(x->pieces, 6);
      assert_int_equal(x->output_tokens, 6);
      assert_false(x->counted_pieces);
      assert_int_equal(x->prompt_tokens, 5);
      assert_true(x->tiers && x->by_tier[0] == 3 && x->by_tier[1] == 3);
      assert_true(x->deferral_rate == 0.5);
      assert_true(x->scheduled_ns <= x->sent_ns && x->sent_ns < x->first_ns && x->first_ns <= x->last_ns &&
                  x->last_ns <= x->end_ns);
    }
    assert_int_equal(r.out.itl.n, 6 * 5);
    assert_int_equal(r.out.itl_tier[0].n + r.out.itl_tier[1].n, receipts ? 6 * 5 : 0);
    rig_down(&r);
  }
}

/* What the engine ended for reasons of its own is no answer, as for a client of the gateway. */
static void test_ends(void **state) {
  (void)state;
  static const struct {
    const char *reason, *what;
    bool ok;
    int code;
  } row[] = {{"stop", "", true, 200},
             {"eos", "", true, 200},
             {"length", "", true, 200},
             {"cancelled", "ended by the engine", false, 503},
             {"deadline", "deadline", false, 504},
             {"error", "error", false, 500}};
  for (size_t k = 0; k < sizeof row / sizeof *row; k++) {
    rig r;
    rig_up(&r, &(script){.tokens = 4, .reason = row[k].reason}, false, false, NULL);
    r.cfg.requests = 3;
    rig_run(&r);
    const weir_load_record *x = &r.out.record[0];
    if (count(&r, row[k].ok ? WEIR_LOAD_OK : WEIR_LOAD_ERROR) != 3 || x->code != row[k].code)
      fail_msg("%s: %d ok, %d errors, code %d", row[k].reason, count(&r, WEIR_LOAD_OK),
               count(&r, WEIR_LOAD_ERROR), x->code);
    /* written all the same; a bare "error" is malformed, and nothing of that reply is taken */
    if (row[k].code != 500) assert_int_equal(x->output_tokens, 4);
    assert_string_equal(x->reason, row[k].reason);
    assert_int_equal(r.out.n_errors, row[k].ok ? 0 : 1);
    if (!row[k].ok) {
      assert_string_equal(r.out.error[0].what, row[k].what);
      if (row[k].code != 500) assert_non_null(strstr(r.out.error[0].message, row[k].reason));
    }
    rig_down(&r);
  }
}

static void test_refused(void **state) {
  (void)state;
  Weir__V1__Error busy = WEIR__V1__ERROR__INIT;
  busy.code = 429;
  busy.message = "so many already";
  busy.retry_after_ms = 100;
  rig r;
  rig_up(&r, &(script){.refuse = &busy}, false, false, NULL);
  r.cfg.requests = 2;
  r.cfg.concurrency = 1;
  rig_run(&r);
  assert_int_equal(count(&r, WEIR_LOAD_ERROR), 2);
  assert_int_equal(r.out.error[0].code, 429);
  assert_string_equal(r.out.error[0].what, "queue full");
  assert_non_null(strstr(r.out.error[0].message, "so many already"));
  assert_true(r.out.record[1].sent_ns - r.out.record[0].end_ns >= 99000000); /* waited as told */
  rig_down(&r);
}

/* Broken off after three tokens: the engine is told. */
static void test_cancel(void **state) {
  (void)state;
  rig r;
  rig_up(&r, &(script){.tokens = 100000}, false, false, NULL);
  r.cfg.cancel_share = 1;
  r.cfg.cancel_tokens = 3;
  rig_run(&r);
  assert_int_equal(count(&r, WEIR_LOAD_CANCELLED), 6);
  assert_int_equal(r.out.n_errors, 0);
  for (int64_t i = 0; i < r.out.n; i++) assert_int_equal(r.out.record[i].pieces, 3);
  rig_stop(&r);
  int told = 0;
  for (int i = 0; i < r.s.engine.n_requests; i++) told += r.s.engine.request[i].cancelled;
  assert_int_equal(told, 6);
  rig_down(&r);
}

static void test_timeout(void **state) {
  (void)state;
  rig r;
  rig_up(&r, &(script){.tokens = 1}, false, false, NULL);
  r.cfg.requests = 3;
  r.cfg.timeout_s = 1;
  rig_run(&r);
  assert_int_equal(count(&r, WEIR_LOAD_ERROR), 3);
  assert_true(r.out.record[0].gave_up && r.out.record[0].first_ns >= 0);
  assert_string_equal(r.out.error[0].what, "timeout");
  rig_down(&r);
}

/* Turns carry what was said before, as messages. */
static void test_chat(void **state) {
  (void)state;
  rig r;
  const weir_data_cfg d = {.input = {WEIR_LENGTH_FIXED, 1, 1},
                           .output = {WEIR_LENGTH_FIXED, 6, 6},
                           .n_prefixes = 1,
                           .turns = 2,
                           .seed = 3};
  rig_up(&r, &(script){.tokens = 2, .reason = "stop"}, true, false, &d);
  r.cfg.requests = 2;
  r.cfg.concurrency = 1;
  rig_run(&r);
  rig_stop(&r);
  assert_int_equal(count(&r, WEIR_LOAD_OK), 2);
  assert_int_equal(r.out.record[1].turn, 1);
  assert_int_equal(r.s.n_chat, 3); /* asked, answered, asked */
  assert_string_equal(r.s.first_role, "user");
  weir_item item;
  assert_int_equal(weir_data_get(r.data, 0, 1, &item, NULL), WEIR_OK);
  assert_string_equal(r.s.last_text, item.prompt);
  rig_down(&r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_answers), cmocka_unit_test(test_ends),    cmocka_unit_test(test_refused),
      cmocka_unit_test(test_cancel),  cmocka_unit_test(test_timeout), cmocka_unit_test(test_chat),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
