/* SPDX-License-Identifier: Apache-2.0 */
/* Whole runs of the load tester against a server in the same event loop, good and bad. */
#define _GNU_SOURCE
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <netdb.h>

#include <cmocka.h>

#include "fake_server.h"
#include "load/report.h"
#include "load/summary.h"

/* The name "several" has three addresses, and nobody is at the first two: the second is of a family that this
 * machine may not even have. */
int __real_getaddrinfo(const char *, const char *, const struct addrinfo *, struct addrinfo **);
void __real_freeaddrinfo(struct addrinfo *);
int __wrap_getaddrinfo(const char *, const char *, const struct addrinfo *, struct addrinfo **);
void __wrap_freeaddrinfo(struct addrinfo *);

static struct addrinfo *of_several;

int __wrap_getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
                       struct addrinfo **out) {
  static const char *const name[] = {"127.0.0.2", "::1", "127.0.0.1"};
  if (strcmp(host, "several") != 0) return __real_getaddrinfo(host, port, hints, out);
  *out = NULL;
  for (int i = 2; i >= 0; i--) {
    struct addrinfo *a;
    assert_int_equal(__real_getaddrinfo(name[i], port, hints, &a), 0);
    assert_null(a->ai_next);
    a->ai_next = *out;
    *out = a;
  }
  of_several = *out;
  return 0;
}

void __wrap_freeaddrinfo(struct addrinfo *a) {
  while (a == of_several && a) {
    of_several = a->ai_next;
    a->ai_next = NULL;
    __real_freeaddrinfo(a);
    a = of_several;
  }
  if (a) __real_freeaddrinfo(a);
}

typedef struct {
  struct event_base *base;
  fake_server *server;
  weir_target *target;
  weir_data *data;
  weir_run_cfg cfg;
  weir_load_result out;
  weir_err e;
} rig;

static void rig_up(rig *r, const fake_cfg *server, const weir_target_cfg *target, const weir_data_cfg *data) {
  struct event_config *precise = event_config_new();
  event_config_set_flag(precise, EVENT_BASE_FLAG_PRECISE_TIMER);
  *r = (rig){.base = event_base_new_with_config(precise)};
  event_config_free(precise);
  assert_non_null(r->base);
  r->server = fake_server_start(r->base, server);
  assert_non_null(r->server);
  weir_target_cfg t = target ? *target : (weir_target_cfg){.stream = true};
  t.base = r->base;
  t.url = fake_server_url(r->server);
  t.connect_s = 5;
  if (weir_target_open(&t, &r->target, &r->e) != WEIR_OK) fail_msg("%s", r->e.msg);
  weir_data_cfg d = {.input = {WEIR_LENGTH_FIXED, 5, 5},
                     .output = {WEIR_LENGTH_FIXED, 4, 4},
                     .n_prefixes = 1,
                     .turns = 1,
                     .seed = 3};
  if (weir_data_open(data ? data : &d, &r->data, &r->e) != WEIR_OK) fail_msg("%s", r->e.msg);
  r->cfg = (weir_run_cfg){.base = r->base,
                          .target = r->target,
                          .data = r->data,
                          .concurrency = 4,
                          .requests = 12,
                          .duration_s = 20,
                          .drain_s = 5,
                          .timeout_s = 10,
                          .entropy = NAN,
                          .seed = 1};
}

static void rig_run(rig *r) {
  if (weir_run(&r->cfg, &r->out, &r->e) != WEIR_OK) fail_msg("%s", r->e.msg);
}

static void rig_down(rig *r) {
  weir_load_result_fini(&r->out);
  weir_target_close(r->target);
  fake_server_stop(r->server);
  weir_data_close(r->data);
  event_base_free(r->base);
}

static int count(const rig *r, weir_load_outcome o) {
  int n = 0;
  for (int64_t i = 0; i < r->out.n; i++) n += r->out.record[i].outcome == o;
  return n;
}

static void test_closed_loop(void **state) {
  (void)state;
  static const fake_mode modes[] = {FAKE_WELL, FAKE_NO_USAGE, FAKE_BYTE_BY_BYTE};
  for (size_t k = 0; k < sizeof modes / sizeof *modes; k++) {
    rig r;
    rig_up(&r, &(fake_cfg){.mode = modes[k], .tokens = 4, .gap_ms = 2}, NULL, NULL);
    assert_string_equal(r.target->about.model, "fake");
    assert_string_equal(r.target->about.server, "tests");
    assert_int_equal(r.target->about.context, 512);
    rig_run(&r);
    assert_int_equal(r.out.n, 12);
    assert_int_equal(fake_server_requests(r.server), 12);
    assert_int_equal(count(&r, WEIR_LOAD_OK), 12);
    assert_int_equal(r.out.counted_pieces, modes[k] == FAKE_NO_USAGE);
    assert_int_equal(r.out.itl.n, 12 * 3);
    for (int64_t i = 0; i < r.out.n; i++) {
      const weir_load_record *x = &r.out.record[i];
      assert_int_equal(x->output_tokens, 4);
      assert_int_equal(x->pieces, 4);
      assert_int_equal(x->prompt_tokens, modes[k] == FAKE_NO_USAGE ? -1 : 11);
      assert_string_equal(x->reason, "length");
      assert_true(x->scheduled_ns <= x->sent_ns && x->sent_ns < x->first_ns && x->first_ns < x->last_ns &&
                  x->last_ns <= x->end_ns);
      assert_true(x->last_ns - x->first_ns >= 3 * 2 * 900000); /* three gaps of 2 ms */
    }
    rig_down(&r);
  }
}

/* The requests as sent, and that one connection serves several where that is asked for. */
static void test_bodies(void **state) {
  (void)state;
  for (int keep = 0; keep < 2; keep++) {
    rig r;
    const char *stop[] = {"END"};
    const weir_target_cfg t = {.stream = true,
                               .keep_alive = keep,
                               .has_temperature = true,
                               .ignore_eos = true,
                               .stop = stop,
                               .n_stop = 1,
                               .mode = "defer",
                               .receipts = true,
                               .extra = "{\"top_k\": 5, \"max_tokens\": 3}"};
    rig_up(&r, &(fake_cfg){.tokens = 2}, &t, NULL);
    r.cfg.concurrency = 1;
    r.cfg.requests = 5;
    r.cfg.entropy = 0.5;
    rig_run(&r);
    assert_int_equal(count(&r, WEIR_LOAD_OK), 5);
    assert_int_equal(fake_server_connections(r.server), keep ? 1 : 6);
    json_t *o = json_loads(fake_server_last_body(r.server), 0, NULL);
    assert_non_null(o);
    assert_string_equal(json_string_value(json_object_get(o, "model")), "fake");
    assert_int_equal(json_integer_value(json_object_get(o, "top_k")), 5);
    assert_int_equal(json_integer_value(json_object_get(o, "max_tokens")), 3); /* extra goes last */
    assert_true(json_is_true(json_object_get(o, "stream")) && json_is_true(json_object_get(o, "ignore_eos")));
    assert_true(json_is_true(json_object_get(json_object_get(o, "stream_options"), "include_usage")));
    assert_string_equal(json_string_value(json_array_get(json_object_get(o, "stop"), 0)), "END");
    const json_t *w = json_object_get(o, "weir");
    assert_string_equal(json_string_value(json_object_get(w, "mode")), "defer");
    assert_true(json_number_value(json_object_get(w, "entropy")) == 0.5);
    assert_true(json_is_true(json_object_get(w, "receipts")));
    json_decref(o);
    rig_down(&r);
  }
}

/* A kept connection that the server ends while a request is on its way is replaced, and no error is counted.
 */
static void test_kept_connection_ends(void **state) {
  (void)state;
  rig r;
  const weir_target_cfg t = {.stream = true, .keep_alive = true};
  rig_up(&r, &(fake_cfg){.tokens = 2, .one_each = true}, &t, NULL);
  r.cfg.concurrency = 1;
  r.cfg.requests = 5;
  rig_run(&r);
  assert_int_equal(count(&r, WEIR_LOAD_OK), 5);
  assert_int_equal(fake_server_requests(r.server), 5);
  assert_int_equal(fake_server_connections(r.server), 6);
  rig_down(&r);
}

/* The longest gap is that of the middle of an answer, when the server stood still, not the last one. */
static void test_longest_gap(void **state) {
  (void)state;
  rig r;
  rig_up(&r, &(fake_cfg){.tokens = 20, .gap_ms = 2, .stall_at = 2, .stall_ms = 300}, NULL, NULL);
  r.cfg.concurrency = r.cfg.requests = 2;
  rig_run(&r);
  const weir_load_record *x = &r.out.record[0];
  if (x->longest_gap_ns < 250000000) fail_msg("longest gap %lld ns", (long long)x->longest_gap_ns);
  assert_true(fabs(weir_samples_quantile(&r.out.itl, 1) - (double)x->longest_gap_ns * 1e-9) < 1e-9);
  rig_down(&r);
}

static void test_errors(void **state) {
  (void)state;
  static const struct {
    fake_mode mode;
    int code;
    const char *what, *message;
  } row[] = {{FAKE_429, 429, "rate_limit_error", "queue full"},
             {FAKE_500, 500, "error", "oh no"},
             {FAKE_BAD_JSON, 0, "malformed answer", "not an object"},
             {FAKE_EARLY_CLOSE, 0, "closed early", "closed"},
             {FAKE_NO_DONE, 0, "closed early", "[DONE]"},
             {FAKE_STREAM_ERROR, 504, "timeout_error", "too late"},
             {FAKE_GARBAGE, 0, "malformed answer", "not an answer of HTTP"},
             {FAKE_NEVER, 0, "timeout", "--timeout"}};
  for (size_t k = 0; k < sizeof row / sizeof *row; k++) {
    rig r;
    rig_up(&r, &(fake_cfg){.mode = row[k].mode, .tokens = 4}, NULL, NULL);
    r.cfg.requests = 3;
    r.cfg.concurrency = 3;
    r.cfg.timeout_s = 0.3;
    rig_run(&r);
    assert_int_equal(r.out.record[0].gave_up, row[k].mode == FAKE_NEVER);
    if (count(&r, WEIR_LOAD_ERROR) != 3 || r.out.n_errors != 1)
      fail_msg("mode %d: %d errors of %d kinds", row[k].mode, count(&r, WEIR_LOAD_ERROR), r.out.n_errors);
    const weir_load_error *x = &r.out.error[0];
    if (x->code != row[k].code || strcmp(x->what, row[k].what) != 0 || !strstr(x->message, row[k].message) ||
        x->n != 3)
      fail_msg("mode %d: %lld x %d %s: %s", row[k].mode, (long long)x->n, x->code, x->what, x->message);
    rig_down(&r);
  }
}

/* A user of a closed loop who is told to wait does: two requests of one user take the second that was asked
 * for. */
static void test_retry_after(void **state) {
  (void)state;
  rig r;
  rig_up(&r, &(fake_cfg){.mode = FAKE_429}, NULL, NULL);
  r.cfg.requests = 2;
  r.cfg.concurrency = 1;
  rig_run(&r);
  assert_int_equal(count(&r, WEIR_LOAD_ERROR), 2);
  const int64_t gap = r.out.record[1].sent_ns - r.out.record[0].end_ns;
  if (gap < 1990000000) fail_msg("sent again after %lld ns", (long long)gap);
  rig_down(&r);
}

static void test_nobody_there(void **state) {
  (void)state;
  rig r;
  rig_up(&r, &(fake_cfg){.tokens = 1}, NULL, NULL);
  weir_target *t = NULL;
  weir_err e = {0};
  char url[64];
  snprintf(url, sizeof url, "%s", fake_server_url(r.server));
  fake_server *other = fake_server_start(r.base, &(fake_cfg){.tokens = 1}); /* has another port */
  fake_server_stop(r.server); /* now nobody answers on this one */
  r.server = other;
  const weir_target_cfg cfg = {.base = r.base, .url = url, .connect_s = 2, .stream = true};
  assert_int_equal(weir_target_open(&cfg, &t, &e), WEIR_EIO);
  assert_non_null(strstr(e.msg, "refused"));
  r.cfg.requests = 2; /* and the same in the middle of a run */
  r.cfg.concurrency = 1;
  rig_run(&r);
  assert_int_equal(count(&r, WEIR_LOAD_ERROR), 2);
  assert_string_equal(r.out.error[0].what, "connection");
  rig_down(&r);
}

static void test_several_addresses(void **state) {
  (void)state;
  for (int keep = 0; keep < 2; keep++) {
    rig r;
    rig_up(&r, &(fake_cfg){.tokens = 1}, NULL, NULL);
    char url[64];
    snprintf(url, sizeof url, "http://several%s", strrchr(fake_server_url(r.server), ':'));
    const weir_target_cfg cfg = {
        .base = r.base, .url = url, .connect_s = 5, .stream = true, .keep_alive = keep};
    weir_target_close(r.target);
    if (weir_target_open(&cfg, &r.target, &r.e) != WEIR_OK) fail_msg("%s", r.e.msg);
    r.cfg.target = r.target;
    rig_run(&r);
    assert_int_equal(count(&r, WEIR_LOAD_OK), 12);
    weir_load_result_fini(&r.out);
    fake_server_stop(r.server); /* now nobody is at any of them: one error for each request, and an end */
    r.server = fake_server_start(r.base, &(fake_cfg){.tokens = 1});
    r.cfg.slow_share = 1;
    r.cfg.slow_bytes_s = 1000;
    r.cfg.requests = 2;
    rig_run(&r);
    assert_int_equal(count(&r, WEIR_LOAD_ERROR), 2);
    assert_string_equal(r.out.error[0].what, "connection");
    rig_down(&r);
  }
}

static void test_whole_answer(void **state) {
  (void)state;
  rig r;
  rig_up(&r, &(fake_cfg){.mode = FAKE_WHOLE}, &(weir_target_cfg){.stream = false}, NULL);
  rig_run(&r);
  assert_int_equal(count(&r, WEIR_LOAD_OK), 12);
  assert_int_equal(r.out.record[0].output_tokens, 2);
  assert_string_equal(r.out.record[0].reason, "stop");
  assert_non_null(strstr(fake_server_last_body(r.server), "\"stream\":false"));
  rig_down(&r);
}

/* Coordinated omission: the server stops for a second. From the actual sending one request was slow; from the
 * schedule all that were due meanwhile were, and the percentiles must say so. */
static void test_stall_is_seen(void **state) {
  (void)state;
  rig r;
  rig_up(&r, &(fake_cfg){.tokens = 2, .stall_at = 10, .stall_ms = 1000}, NULL, NULL);
  r.cfg.arrivals = (weir_arrivals_cfg){.kind = WEIR_LOAD_CONSTANT, .rate = 40, .seed = 1};
  r.cfg.concurrency = 1; /* a load tester with one connection: it cannot send while the server stands */
  r.cfg.requests = 80;
  rig_run(&r);
  assert_int_equal(count(&r, WEIR_LOAD_OK), 80);
  int slow = 0, slow_from_sent = 0;
  for (int64_t i = 0; i < r.out.n; i++) {
    double due[WEIR_SLO_N_TIMES], sent[WEIR_SLO_N_TIMES];
    weir_record_times(&r.out.record[i], false, due);
    weir_record_times(&r.out.record[i], true, sent);
    slow += due[WEIR_SLO_TTFT] > 0.1 || due[WEIR_SLO_E2E] > 0.1;
    slow_from_sent += sent[WEIR_SLO_E2E] > 0.1;
  }
  /* Due every 25 ms: 36 of them waited for longer than 100 ms. A busy machine may add some to either. */
  if (slow < 30 || slow < 4 * slow_from_sent)
    fail_msg("%d requests slow from their schedule, %d from their sending", slow, slow_from_sent);
  weir_slo slo;
  assert_int_equal(weir_slo_parse("e2e_p90<300ms,e2e_p50<200ms", &slo, NULL), WEIR_OK);
  json_t *point = weir_summary_point(&r.cfg, &slo, &r.out);
  assert_true(weir_json_at(point, "latency_ms.e2e.p90") > 300);
  assert_true(weir_json_at(point, "latency_ms.e2e_from_sent.p50") < 100);
  assert_false(weir_summary_met(point));
  json_decref(point);
  rig_down(&r);
}

static void test_open_loop_keeps_time(void **state) {
  (void)state;
  rig r;
  rig_up(&r, &(fake_cfg){.tokens = 5, .gap_ms = 20}, NULL, NULL);
  r.cfg.arrivals = (weir_arrivals_cfg){.kind = WEIR_LOAD_CONSTANT, .rate = 100, .seed = 1};
  r.cfg.concurrency = 64;
  r.cfg.requests = 1000;
  r.cfg.duration_s = 0.5;
  rig_run(&r);
  assert_int_equal(r.out.n, 50);
  for (int64_t i = 0; i < r.out.n; i++) assert_int_equal(r.out.record[i].scheduled_ns, i * 10000000);
  rig_down(&r);
}

/* Broken off: the server sees the connection end; nothing of it counts as an error. */
static void test_cancel(void **state) {
  (void)state;
  for (int by_time = 0; by_time < 2; by_time++) {
    rig r;
    rig_up(&r, &(fake_cfg){.tokens = 500, .gap_ms = 2}, NULL, NULL);
    r.cfg.cancel_share = 1;
    r.cfg.cancel_tokens = by_time ? 0 : 3;
    r.cfg.cancel_s = by_time ? 0.05 : 0;
    rig_run(&r);
    assert_int_equal(count(&r, WEIR_LOAD_CANCELLED), 12);
    assert_int_equal(r.out.n_errors, 0);
    if (!by_time)
      for (int64_t i = 0; i < r.out.n; i++) assert_int_equal(r.out.record[i].pieces, 3);
    for (int i = 0; i < 100 && fake_server_left(r.server) < 12; i++) event_base_loop(r.base, EVLOOP_ONCE);
    assert_int_equal(fake_server_left(r.server), 12);
    rig_down(&r);
  }
}

/* 40 pieces of some 570 bytes at 40,000 bytes a second take over half a second; read at full speed they take
 * none. */
static void test_slow_reader(void **state) {
  (void)state;
  rig r;
  rig_up(&r, &(fake_cfg){.tokens = 40, .piece_bytes = 490}, NULL, NULL);
  r.cfg.slow_share = 1;
  r.cfg.slow_bytes_s = 40000;
  r.cfg.requests = r.cfg.concurrency = 2;
  rig_run(&r);
  assert_int_equal(count(&r, WEIR_LOAD_OK), 2);
  assert_true(r.out.record[0].slow);
  const double s = (double)(r.out.record[0].end_ns - r.out.record[0].sent_ns) * 1e-9;
  if (s < 0.3) fail_msg("a slow reader had all of it after %g s", s);
  json_t *point = weir_summary_point(&r.cfg, &(weir_slo){0}, &r.out);
  assert_int_equal(weir_json_at(point, "requests.slow_readers"), 2);
  assert_int_equal(weir_json_at(point, "latency_ms.e2e.n"), 0); /* their slowness is ours */
  assert_int_equal(r.out.itl.n, 0);
  json_decref(point);
  rig_down(&r);
}

static int stop_now(void) { return 2; }

static void test_interrupted(void **state) {
  (void)state;
  rig r;
  rig_up(&r, &(fake_cfg){.mode = FAKE_NEVER}, NULL, NULL);
  r.cfg.interrupted = stop_now;
  rig_run(&r);
  assert_true(r.out.interrupted);
  assert_int_equal(count(&r, WEIR_LOAD_CUT), 4);
  assert_true(r.out.wall_s < 2);
  rig_down(&r);
}

/* The end of time and drain cuts what runs and tells what was never sent. */
static void test_drain(void **state) {
  (void)state;
  rig r;
  rig_up(&r, &(fake_cfg){.mode = FAKE_NEVER}, NULL, NULL);
  r.cfg.arrivals = (weir_arrivals_cfg){.kind = WEIR_LOAD_CONSTANT, .rate = 100, .seed = 1};
  r.cfg.requests = 1000;
  r.cfg.duration_s = 0.2;
  r.cfg.drain_s = 0.1;
  rig_run(&r);
  assert_int_equal(count(&r, WEIR_LOAD_CUT), 4);
  assert_int_equal(r.out.unsent, 16); /* 20 were due */
  weir_slo slo;
  assert_int_equal(weir_slo_parse("ttft=1s", &slo, NULL), WEIR_OK);
  json_t *point = weir_summary_point(&r.cfg, &slo, &r.out);
  assert_true(weir_json_at(point, "goodput.share") == 0);
  assert_false(weir_summary_met(point));
  json_decref(point);
  rig_down(&r);
}

/* What was due but never sent is a part of what was asked for: the two together are not more. */
static void test_unsent_bounded(void **state) {
  (void)state;
  rig r;
  rig_up(&r, &(fake_cfg){.mode = FAKE_NEVER}, NULL, NULL);
  r.cfg.arrivals = (weir_arrivals_cfg){.kind = WEIR_LOAD_CONSTANT, .rate = 100, .seed = 1};
  r.cfg.requests = 10;
  r.cfg.duration_s = 0.2;
  r.cfg.drain_s = 0.1;
  rig_run(&r);
  assert_int_equal(r.out.n, 4);
  assert_int_equal(r.out.unsent, 6);
  rig_down(&r);
}

static void test_receipts(void **state) {
  (void)state;
  rig r;
  rig_up(&r, &(fake_cfg){.mode = FAKE_WEIR, .tokens = 4, .gap_ms = 1}, NULL, NULL);
  rig_run(&r);
  assert_int_equal(count(&r, WEIR_LOAD_OK), 12);
  const weir_load_record *x = &r.out.record[0];
  assert_int_equal(x->by_tier[0], 3);
  assert_int_equal(x->by_tier[1], 1);
  assert_true(x->queue_ms == 7.5);
  assert_int_equal(r.out.itl_tier[0].n, 24);
  assert_int_equal(r.out.itl_tier[1].n, 12);
  json_t *point = weir_summary_point(&r.cfg, &(weir_slo){0}, &r.out);
  assert_true(weir_json_at(point, "deferral_rate") == 0.25);
  assert_true(fabs(weir_json_at(point, "latency_ms.queue.p50") - 7.5) < 1e-9);
  json_decref(point);
  rig_down(&r);
}

/* Writes `text` to a file of its own; its path stands in `path`. */
static void write_file(char path[32], const char *text) {
  snprintf(path, 32, "/tmp/weir-bench-XXXXXX");
  const int fd = mkstemp(path);
  assert_true(fd >= 0);
  assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
  close(fd);
}

static void test_exact_match(void **state) {
  (void)state;
  char path[32];
  write_file(path,
             "{\"prompt\": \"a\", \"answer\": \"42\", \"match\": \"is (\\\\d+)\"}\n"
             "{\"prompt\": \"b\", \"answer\": \"41\", \"match\": \"is (\\\\d+)\"}\n");
  rig r;
  const weir_data_cfg d = {.tasks = path, .max_tokens = 9};
  rig_up(&r, &(fake_cfg){.tokens = 1, .answer = " it is 42."}, NULL, &d);
  rig_run(&r);
  json_t *point = weir_summary_point(&r.cfg, &(weir_slo){0}, &r.out);
  assert_int_equal(weir_json_at(point, "exact_match.n"), 12);
  assert_int_equal(weir_json_at(point, "exact_match.right"), 6);
  json_decref(point);
  rig_down(&r);
  unlink(path);
}

static void test_conversation(void **state) {
  (void)state;
  char path[32];
  write_file(path, "{\"turns\": [\"first\", \"second\", \"third\"], \"max_tokens\": 2}\n");
  rig r;
  const weir_data_cfg d = {.prompts = path, .max_tokens = 9};
  rig_up(&r, &(fake_cfg){.tokens = 1, .answer = "yes"}, &(weir_target_cfg){.stream = true, .chat = true}, &d);
  r.cfg.concurrency = 1;
  r.cfg.requests = 3;
  r.cfg.history = true;
  rig_run(&r);
  assert_int_equal(count(&r, WEIR_LOAD_OK), 3);
  json_t *o = json_loads(fake_server_last_body(r.server), 0, NULL);
  const json_t *m = json_object_get(o, "messages");
  static const char *const want[] = {"first", "yes", "second", "yes", "third"};
  assert_int_equal(json_array_size(m), 5);
  for (size_t i = 0; i < 5; i++) {
    assert_string_equal(json_string_value(json_object_get(json_array_get(m, i), "content")), want[i]);
    assert_string_equal(json_string_value(json_object_get(json_array_get(m, i), "role")),
                        i % 2 ? "assistant" : "user");
  }
  assert_int_equal(r.out.record[2].turn, 2);
  json_decref(o);
  rig_down(&r);
  unlink(path);
}

/* Of an open loop of conversations: --requests bounds their turns, and a conversation that has no time for
 * its next turn makes room for those that come. */
static void test_open_conversations(void **state) {
  (void)state;
  static const struct {
    double rate, think_s, duration_s;
    int requests, concurrency, want;
  } row[] = {{200, 0, 10, 7, 2, 7}, {200, 0.02, 10, 8, 8, 8}, {20, 1, 0.5, 100, 1, 10}};
  char path[32];
  write_file(path, "{\"turns\": [\"first\", \"second\", \"third\"], \"max_tokens\": 2}\n");
  const weir_data_cfg d = {.prompts = path, .max_tokens = 9};
  for (size_t k = 0; k < sizeof row / sizeof *row; k++) {
    rig r;
    rig_up(&r, &(fake_cfg){.tokens = 2, .gap_ms = 2}, &(weir_target_cfg){.stream = true, .chat = true}, &d);
    r.cfg.arrivals = (weir_arrivals_cfg){.kind = WEIR_LOAD_CONSTANT, .rate = row[k].rate, .seed = 1};
    r.cfg.concurrency = row[k].concurrency;
    r.cfg.requests = row[k].requests;
    r.cfg.duration_s = row[k].duration_s;
    r.cfg.think_s = row[k].think_s;
    r.cfg.drain_s = 2;
    r.cfg.history = true;
    rig_run(&r);
    if (r.out.n != row[k].want || count(&r, WEIR_LOAD_OK) != row[k].want || r.out.unsent != 0 ||
        r.out.wall_s > 2)
      fail_msg("row %zu: %lld sent, %d ok, %lld unsent, %g s", k, (long long)r.out.n, count(&r, WEIR_LOAD_OK),
               (long long)r.out.unsent, r.out.wall_s);
    rig_down(&r);
  }
  unlink(path);
}

static void test_trace(void **state) {
  (void)state;
  char path[32];
  write_file(path,
             "{\"timestamp\": 1200, \"input_length\": 600, \"output_length\": 2, \"hash_ids\": [7, 8]}\n"
             "{\"timestamp\": 1000, \"input_length\": 520, \"output_length\": 3, \"hash_ids\": [7, 9]}\n"
             "{\"arrival_s\": 1.4, \"prompt\": \"as it is\"}\n");
  rig r;
  const weir_data_cfg d = {.trace = path, .max_tokens = 9};
  rig_up(&r, &(fake_cfg){.tokens = 1}, NULL, &d);
  r.cfg.arrivals = (weir_arrivals_cfg){.kind = WEIR_LOAD_TRACE, .trace_speed = 2, .seed = 1};
  r.cfg.arrivals.trace_s = weir_data_arrivals(r.data, &r.cfg.arrivals.n_trace);
  rig_run(&r);
  assert_int_equal(r.out.n, 3);
  for (int i = 0; i < 3; i++) assert_true(llabs(r.out.record[i].scheduled_ns - i * 100000000LL) < 1000);
  weir_item a, b;
  assert_int_equal(weir_data_get(r.data, 0, 0, &a, NULL), WEIR_OK);
  assert_int_equal(a.max_tokens, 3); /* in the order of time */
  char *first = strdup(a.prompt);
  assert_int_equal(weir_data_get(r.data, 1, 0, &b, NULL), WEIR_OK);
  size_t same = 0;
  while (first[same] && first[same] == b.prompt[same]) same++;
  assert_true(same > 512 * 3 && same < strlen(first) + 1 &&
              strcmp(first, b.prompt) != 0); /* block 7 is in both */
  free(first);
  rig_down(&r);
  unlink(path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_closed_loop),
      cmocka_unit_test(test_bodies),
      cmocka_unit_test(test_errors),
      cmocka_unit_test(test_kept_connection_ends),
      cmocka_unit_test(test_longest_gap),
      cmocka_unit_test(test_retry_after),
      cmocka_unit_test(test_nobody_there),
      cmocka_unit_test(test_whole_answer),
      cmocka_unit_test(test_stall_is_seen),
      cmocka_unit_test(test_open_loop_keeps_time),
      cmocka_unit_test(test_cancel),
      cmocka_unit_test(test_slow_reader),
      cmocka_unit_test(test_interrupted),
      cmocka_unit_test(test_drain),
      cmocka_unit_test(test_receipts),
      cmocka_unit_test(test_exact_match),
      cmocka_unit_test(test_conversation),
      cmocka_unit_test(test_trace),
      cmocka_unit_test(test_unsent_bounded),
      cmocka_unit_test(test_several_addresses),
      cmocka_unit_test(test_open_conversations),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
