/* SPDX-License-Identifier: Apache-2.0 */
/* The client on a slow connection: the answer to a Poll is still on its way when the next Poll is sent, and
 * the next one's answer is lost to it. What comes late is taken, and what was lost is asked for again soon.
 * Then a queue that is full, and a start that was told in an answer that was lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "client/client_in.h"
#include "talk.h"

#define MS INT64_C(1000000)

static bool parked(void *ctx) { return ((fake_engine *)ctx)->parked_poll.as.poll != NULL; }
static bool two_submitted(void *ctx) { return ((fake_engine *)ctx)->n_requests == 2; }
enum { N = 10 };
static bool all_submitted(void *ctx) { return ((fake_engine *)ctx)->n_requests == N; }
static bool nothing_to_drop(void *ctx) { return ((fake_engine *)ctx)->drop[WEIR_FRAME_POLL] == 0; }
static bool has_two(void *ctx) { return ((heard *)ctx)->n_tokens == 2; }
static bool both_forgotten(void *ctx) {
  const fake_engine *f = ctx;
  return f->request[0].forgotten && f->request[1].forgotten;
}

static int64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * INT64_C(1000) + t.tv_nsec / 1000000;
}

/* Polls that are held to be lost after ten seconds if nothing else says so. */
static weir_client_cfg patient(const fake_engine *f) {
  weir_client_cfg cfg = talk_cfg(f->url);
  cfg.poll_ms = 5000;
  cfg.resend_ms = 30000;
  cfg.lost_after_ms = 30000;
  return cfg;
}

static void late_answers(void **state) {
  (void)state;
  for (int ended = 0; ended < 2; ended++) {
    fake_engine f;
    fake_open(&f, NULL);
    const weir_client_cfg cfg = patient(&f);
    talk t = {talk_client(&cfg), &f, 0};
    heard h[2] = {{0}, {0}};
    heard_submit(t.client, NULL, &h[0]);
    talk_until(&t, parked, &f, "a parked poll");
    const int64_t from = now_ms();
    f.delay_ns = 300 * MS; /* of this answer: it is large */
    fake_write(&f, 2, ended ? "eos" : NULL);
    f.delay_ns = 0;
    f.drop[WEIR_FRAME_POLL] = 1; /* the one behind it */
    heard_submit(t.client, NULL, &h[1]);
    talk_until(&t, two_submitted, &f, "a second request");
    talk_until(&t, nothing_to_drop, &f, "a second poll");
    assert_int_equal(h[0].n_tokens, 0);
    talk_until(&t, has_two, &h[0], "the late answer");
    assert_in_range(now_ms() - from, 250, 3000);
    assert_int_equal(h[0].ends, ended);
    const int asked = f.asked[WEIR_FRAME_POLL];
    fake_write(&f, 1, "eos"); /* nobody is there who could be told */
    talk_until(&t, talk_ended, &h[0], "the first end");
    talk_until(&t, talk_ended, &h[1], "the second end");
    heard_whole(&f, &h[0], 0, ended ? 2 : 3, "eos");
    heard_whole(&f, &h[1], 1, 1, "eos");
    talk_until(&t, both_forgotten, &f, "both forgotten");
    assert_in_range(now_ms() - from, 250, 5000);
    assert_in_range(f.asked[WEIR_FRAME_POLL] - asked, 1, 8);
    weir_client_close(t.client);
    heard_fini(&h[0]);
    heard_fini(&h[1]);
    fake_close(&f);
  }
}

/* Answers that are all late, each behind the next Poll: tokens come, once and in order. */
static void always_late(void **state) {
  (void)state;
  fake_engine f;
  fake_open(&f, NULL);
  const weir_client_cfg cfg = patient(&f);
  talk t = {talk_client(&cfg), &f, 0};
  heard h[N];
  memset(h, 0, sizeof h);
  f.delay_ns = 40 * MS;
  for (int i = 0; i < N; i++) { /* each makes a new Poll */
    heard_submit(t.client, NULL, &h[i]);
    talk_for(&t, 30);
    fake_write(&f, 1, NULL);
  }
  talk_until(&t, all_submitted, &f, "all submitted");
  fake_write(&f, 1, "eos");
  const int64_t from = now_ms();
  for (int i = 0; i < N; i++) talk_until(&t, talk_ended, &h[i], "an end");
  assert_in_range(now_ms() - from, 0, 4000);
  for (int i = 0; i < N; i++) heard_whole(&f, &h[i], i, f.request[i].written, "eos");
  weir_client_close(t.client);
  for (int i = 0; i < N; i++) heard_fini(&h[i]);
  fake_close(&f);
}

static bool was_asked(void *ctx) { return ((fake_engine *)ctx)->asked[WEIR_FRAME_MODELS] > 0; }

/* As many bytes wait as may, and they wait for what the engine takes: the question goes out all the same, and
 * the client does not run in circles. */
static void full_queue(void **state) {
  (void)state;
  enum { BYTES = 2 << 20 };
  fake_engine f;
  fake_open(&f, NULL);
  f.max_request_bytes = 4 << 20;
  const weir_client_cfg cfg = patient(&f);
  talk t = {talk_client(&cfg), &f, 0};
  heard h = {0};
  char *text = malloc(BYTES + 1);
  assert_non_null(text);
  memset(text, 'x', BYTES);
  text[BYTES] = 0;
  const weir_client_request q = {.prompt = text};
  heard_submit(t.client, &q, &h);
  const size_t more = CLIENT_MAX_WAITING - t.client->waiting_bytes; /* as if others waited behind it */
  t.client->waiting_bytes += more;
  talk_until(&t, was_asked, &f, "the question");
  assert_in_range(t.wakes, 1, 50);
  weir_client_error e = {0};
  const weir_client_request small = {.prompt = "Once"};
  assert_int_equal(weir_client_submit(t.client, &small, &(weir_client_events){0}, &e), -1);
  assert_int_equal(e.code, 429);
  t.client->waiting_bytes -= more;
  talk_until(&t, parked, &f, "a parked poll");
  fake_write(&f, 1, "eos");
  talk_until(&t, talk_ended, &h, "the end");
  heard_whole(&f, &h, 0, 1, "eos");
  weir_client_close(t.client);
  heard_fini(&h);
  free(text);
  fake_close(&f);
}

static bool has_started(void *ctx) { return ((heard *)ctx)->starts > 0; }

/* The engine says once that it reads the prompt, and that answer is lost: the client says what it knows, and
 * is told again. */
static void lost_start(void **state) {
  (void)state;
  fake_engine f;
  fake_open(&f, NULL);
  const weir_client_cfg cfg = talk_cfg(f.url);
  talk t = {talk_client(&cfg), &f, 0};
  heard h = {0};
  f.tells_prompt = true;
  f.drop[WEIR_FRAME_POLL] = 1;
  heard_submit(t.client, NULL, &h);
  talk_until(&t, has_started, &h, "the start");
  assert_int_equal(h.prompt_tokens, 5);
  assert_int_equal(h.n_tokens, 0);
  talk_until(&t, parked, &f, "a parked poll"); /* it knows now: no news */
  talk_for(&t, 30);
  assert_int_equal(h.starts, 1);
  fake_write(&f, 2, "eos");
  talk_until(&t, talk_ended, &h, "the end");
  heard_whole(&f, &h, 0, 2, "eos");
  weir_client_close(t.client);
  heard_fini(&h);
  fake_close(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(late_answers), cmocka_unit_test(always_late),
                                     cmocka_unit_test(full_queue), cmocka_unit_test(lost_start)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
