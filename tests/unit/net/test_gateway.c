/* SPDX-License-Identifier: Apache-2.0 */
/* The gateway over raw sockets, with engines that do what the prompt tells them (fake_client.h). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <event2/event.h>
#include <jansson.h>

#include "base/log.h"
#include "fake_client.h"
#include "http_raw.h"
#include "net/gateway_in.h"

typedef struct rig {
  raw_loop loop;
  weir_gw *gw;
  uint16_t port;
  bool running;
} rig;

enum { OUT = 1 << 17 };
static char out[OUT];

static rig *start(weir_gw_cfg cfg) {
  rig *r = calloc(1, sizeof *r);
  weir_err e = {0};
  cfg.listen = "127.0.0.1:0";
  cfg.health_ms = 20;
  raw_loop_init(&r->loop);
  if (weir_gw_create(r->loop.base, &cfg, &r->gw, &e) != WEIR_OK) fail_msg("%s", e.msg);
  r->port = weir_gw_port(r->gw);
  raw_loop_start(&r->loop);
  r->running = true;
  return r;
}

static void stop(rig *r) {
  if (r->running) raw_loop_stop(&r->loop);
  weir_gw_destroy(r->gw);
  raw_loop_fini(&r->loop);
  free(r);
}

static const char *const one[] = {"fake:a"}, *const two[] = {"fake:a", "fake:b"};

static void get(rig *r, const char *path) {
  char ask[256];
  snprintf(ask, sizeof ask, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", path);
  raw_ask(r->port, ask, out, OUT);
}

static void format_post(char *ask, size_t bytes, const char *path, const char *body) {
  snprintf(ask, bytes,
           "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
           "Content-Length: %zu\r\n\r\n%s",
           path, strlen(body), body);
}

static void post(rig *r, const char *path, const char *body) {
  char ask[8192];
  format_post(ask, sizeof ask, path, body);
  raw_ask(r->port, ask, out, OUT);
}

/* Asks until the answer is that: health is found out by and by. */
static void until(rig *r, const char *path, int code) {
  const time_t end = time(NULL) + 8;
  do get(r, path);
  while (raw_status(out) != code && time(NULL) < end);
  assert_int_equal(raw_status(out), code);
}

static rig *ready(const char *const *urls, int32_t n) {
  rig *r = start((weir_gw_cfg){.engine = urls, .n_engines = n});
  until(r, "/ready", 200);
  const time_t end = time(NULL) + 8; /* models come right after */
  do get(r, "/v1/models");
  while (!strstr(out, "\"demo\"") && time(NULL) < end);
  return r;
}

static int setup(void **state) {
  fake_reset();
  *state = ready(one, 1);
  return 0;
}

static int teardown(void **state) {
  stop(*state);
  return 0;
}

/* The chunks of a chunked body put together. */
static char *unchunk(const char *answer) {
  static char text[OUT];
  size_t n = 0;
  const char *p = raw_body(answer);
  if (!strstr(answer, "Transfer-Encoding: chunked")) return strcpy(text, p);
  for (;;) {
    char *end;
    const unsigned long size = strtoul(p, &end, 16);
    if (size == 0 || n + size >= sizeof text) break;
    memcpy(text + n, end + 2, size);
    n += size;
    p = end + 2 + size + 2;
  }
  text[n] = 0;
  return text;
}

static json_t *body_json(void) {
  json_error_t why;
  json_t *j = json_loads(raw_body(out), JSON_REJECT_DUPLICATES, &why);
  if (!j) fail_msg("%s in %s", why.text, out);
  return j;
}

/* The events of a stream; each is JSON but the last, when that is [DONE]. */
static size_t events(json_t **list, size_t most, bool *done) {
  size_t n = 0;
  *done = false;
  for (char *p = unchunk(out); *p;) {
    char *end = strstr(p, "\n\n");
    assert_non_null(end);
    *end = 0;
    assert_memory_equal(p, "data: ", 6);
    assert_false(*done); /* nothing behind it */
    if (!strcmp(p + 6, "[DONE]")) {
      *done = true;
    } else {
      assert_true(n < most);
      list[n] = json_loads(p + 6, JSON_REJECT_DUPLICATES, NULL);
      assert_non_null(list[n]);
      n++;
    }
    p = end + 2;
  }
  return n;
}

static const json_t *choice(const json_t *j, size_t i) {
  return json_array_get(json_object_get(j, "choices"), i);
}
static const char *text_at(const json_t *j, const char *a, const char *b) {
  const json_t *x = json_object_get(j, a);
  return json_string_value(b ? json_object_get(x, b) : x);
}

/* ---- whole answers ---- */

static void whole_completion(void **state) {
  post(*state, "/v1/completions",
       "{\"model\":\"demo\",\"prompt\":\"write 6\",\"logprobs\":1,\"weir\":{\"receipts\":true}}");
  assert_int_equal(raw_status(out), 200);
  json_t *j = body_json();
  const json_t *c = choice(j, 0), *lp = json_object_get(c, "logprobs");
  assert_string_equal(text_at(j, "object", NULL), "text_completion");
  assert_string_equal(text_at(j, "model", NULL), "demo");
  assert_string_equal(text_at(c, "text", NULL), "Hello w\xc3\xb6rld\"\n\xef\xbf\xbd");
  assert_string_equal(text_at(c, "finish_reason", NULL), "length");
  assert_int_equal(json_array_size(json_object_get(lp, "tokens")), 6);
  const double lowest = json_number_value(json_array_get(json_object_get(lp, "token_logprobs"), 1));
  assert_true(lowest == -9999);
  static const int offsets[] = {0, 3, 5, 7, 11, 13};
  for (size_t i = 0; i < 6; i++)
    assert_int_equal(json_integer_value(json_array_get(json_object_get(lp, "text_offset"), i)), offsets[i]);
  const json_t *top = json_array_get(json_object_get(lp, "top_logprobs"), 0);
  assert_int_equal(json_object_size(top), 1);
  const json_t *receipts = json_object_get(json_object_get(c, "weir"), "tokens");
  assert_int_equal(json_array_size(receipts), 6);
  assert_string_equal(text_at(json_array_get(receipts, 1), "tier", NULL), "large");
  assert_string_equal(text_at(json_array_get(receipts, 1), "why", NULL), "deferred");
  assert_true(json_is_null(json_object_get(json_array_get(receipts, 0), "H")));
  assert_true(json_is_true(json_object_get(json_array_get(receipts, 2), "wanted_up")));
  const json_t *u = json_object_get(j, "usage"), *w = json_object_get(u, "weir");
  assert_int_equal(json_integer_value(json_object_get(u, "prompt_tokens")), 5);
  assert_int_equal(json_integer_value(json_object_get(u, "completion_tokens")), 6);
  assert_int_equal(json_integer_value(json_object_get(u, "total_tokens")), 11);
  assert_int_equal(json_integer_value(json_object_get(json_object_get(w, "tokens_by_tier"), "large")), 3);
  assert_int_equal(json_integer_value(json_object_get(w, "large_steps_saved")), 3);
  assert_true(json_number_value(json_object_get(w, "deferral_rate")) == 0.5);
  json_decref(j);
}

static void whole_chat(void **state) {
  rig *r = *state;
  post(r, "/v1/chat/completions",
       "{\"messages\":[{\"role\":\"system\",\"content\":\"x\"},{\"role\":\"user\",\"content\":[{\"type\":"
       "\"text\","
       "\"text\":\"stop END\"}]}],\"logprobs\":true,\"top_logprobs\":2,\"n\":2,\"seed\":5,\"user\":\"u\","
       "\"weir\":{\"mode\":\"exact\",\"entropy\":0.25,\"pin\":true}}");
  assert_int_equal(raw_status(out), 200);
  json_t *j = body_json();
  assert_string_equal(text_at(j, "object", NULL), "chat.completion");
  for (size_t i = 0; i < 2; i++) {
    const json_t *c = choice(j, i);
    assert_int_equal(json_integer_value(json_object_get(c, "index")), i);
    assert_string_equal(text_at(c, "message", "content"), "Hello");
    assert_string_equal(text_at(c, "message", "role"), "assistant");
    assert_string_equal(text_at(c, "finish_reason", NULL), "stop");
    assert_string_equal(text_at(c, "stop_reason", NULL), "END");
    const json_t *content = json_object_get(json_object_get(c, "logprobs"), "content");
    assert_int_equal(json_array_size(content), 2);
    assert_int_equal(json_array_size(json_object_get(json_array_get(content, 0), "top_logprobs")), 2);
    assert_int_equal(json_array_size(json_object_get(json_array_get(content, 0), "bytes")), 3);
  }
  const json_t *u = json_object_get(j, "usage");
  assert_int_equal(json_integer_value(json_object_get(json_object_get(u, "weir"), "seed")), 5); /* as asked */
  assert_int_equal(json_integer_value(json_object_get(u, "prompt_tokens")), 5); /* one prompt */
  assert_int_equal(json_integer_value(json_object_get(u, "completion_tokens")), 4);
  json_decref(j);
  const fake_engine *x = fake_engine_of("fake:a");
  assert_string_equal(x->last_mode, "exact");
  assert_string_equal(x->last_user, "u");
  assert_true(x->last.pin && x->last.has_entropy && x->last.entropy == 0.25f);
  assert_int_equal(x->last.seed, 6); /* of the second answer */
}

static void seeds_are_told_as_they_came(void **state) {
  static const char *const seeds[] = {"0", "-1", "-9223372036854775808", "9223372036854775807", "4"};
  for (size_t i = 0; i < sizeof seeds / sizeof *seeds; i++)
    for (int n = 1; n < 4; n++) {
      char body[128], want[64];
      snprintf(body, sizeof body, "{\"prompt\":\"write 1\",\"n\":%d,\"seed\":%s}", n, seeds[i]);
      snprintf(want, sizeof want, "\"seed\":%s,", seeds[i]);
      post(*state, "/v1/completions", body);
      if (!strstr(out, want)) fail_msg("%s: %s", body, out);
    }
}

static void stop_tokens_and_prompts(void **state) {
  post(*state, "/v1/completions", "{\"prompt\":[\"stop\",\"write 1\",[1,2]],\"stop_token_ids\":[2],\"n\":2}");
  assert_int_equal(raw_status(out), 200);
  json_t *j = body_json();
  assert_int_equal(json_array_size(json_object_get(j, "choices")), 6);
  assert_int_equal(json_integer_value(json_object_get(choice(j, 0), "stop_reason")), 2);
  assert_string_equal(text_at(choice(j, 2), "text", NULL), "Hel");
  assert_int_equal(json_integer_value(json_object_get(json_object_get(j, "usage"), "prompt_tokens")), 15);
  json_decref(j);
}

/* ---- streams ---- */

static void stream_of_chat(void **state) {
  post(*state, "/v1/chat/completions",
       "{\"messages\":[{\"role\":\"user\",\"content\":\"write 4\"}],\"stream\":true,"
       "\"stream_options\":{\"include_usage\":true},\"weir\":{\"receipts\":true}}");
  assert_int_equal(raw_status(out), 200);
  assert_non_null(strstr(out, "Content-Type: text/event-stream"));
  json_t *e[16];
  bool done;
  char text[64] = "";
  size_t receipts = 0;
  const size_t n = events(e, 16, &done);
  assert_true(done);
  assert_true(n >= 4);
  assert_string_equal(text_at(choice(e[0], 0), "delta", "role"), "assistant");
  assert_string_equal(text_at(choice(e[0], 0), "delta", "content"), "");
  for (size_t i = 0; i < n; i++) {
    assert_string_equal(text_at(e[i], "object", NULL), "chat.completion.chunk");
    assert_string_equal(text_at(e[i], "id", NULL), text_at(e[0], "id", NULL));
    const char *more =
        json_string_value(json_object_get(json_object_get(choice(e[i], 0), "delta"), "content"));
    if (more) strcat(text, more);
    receipts += json_array_size(json_object_get(json_object_get(choice(e[i], 0), "weir"), "tokens"));
  }
  assert_string_equal(text, "Hello w\xc3\xb6rld");
  assert_int_equal(receipts, 4);
  assert_string_equal(text_at(choice(e[n - 2], 0), "finish_reason", NULL), "length");
  assert_int_equal(json_object_size(json_object_get(choice(e[n - 2], 0), "delta")), 0);
  assert_true(json_is_null(json_object_get(e[n - 2], "usage")));
  assert_int_equal(json_array_size(json_object_get(e[n - 1], "choices")), 0);
  assert_int_equal(
      json_integer_value(json_object_get(json_object_get(e[n - 1], "usage"), "completion_tokens")), 4);
  for (size_t i = 0; i < n; i++) json_decref(e[i]);
}

static void stream_of_completions(void **state) {
  post(*state, "/v1/completions", "{\"prompt\":[\"write 2\",\"write 3\"],\"stream\":true,\"logprobs\":0}");
  json_t *e[16];
  bool done;
  char text[2][64] = {"", ""};
  const char *last[2] = {NULL, NULL};
  const size_t n = events(e, 16, &done);
  assert_true(done);
  for (size_t i = 0; i < n; i++) {
    const json_t *c = choice(e[i], 0);
    const json_int_t index = json_integer_value(json_object_get(c, "index"));
    assert_true(index == 0 || index == 1);
    strcat(text[index], text_at(c, "text", NULL));
    if (json_is_string(json_object_get(c, "finish_reason"))) last[index] = text_at(c, "finish_reason", NULL);
    assert_null(json_object_get(e[i], "usage"));
  }
  assert_string_equal(text[0], "Hello");
  assert_string_equal(text[1], "Hello w\xef\xbf\xbd"); /* the character was cut by the end */
  assert_string_equal(last[0], "length");
  assert_string_equal(last[1], "length");
  for (size_t i = 0; i < n; i++) json_decref(e[i]);
}

static void late_errors_end_a_stream(void **state) {
  post(*state, "/v1/completions", "{\"prompt\":\"late 500\",\"stream\":true}");
  assert_int_equal(raw_status(out), 200);
  json_t *e[16];
  bool done;
  const size_t n = events(e, 16, &done);
  assert_false(done);
  assert_string_equal(text_at(e[n - 1], "error", "type"), "server_error");
  for (size_t i = 0; i < n; i++) json_decref(e[i]);
}

/* ---- errors ---- */

static void errors_come_with_their_status(void **state) {
  static const struct {
    const char *path, *body;
    int code;
    const char *says;
  } rows[] = {
      {"/v1/completions", "{\"prompt\":\"refuse 429\"}", 429, "\"type\":\"rate_limit_error\""},
      {"/v1/completions", "{\"prompt\":\"refuse 429\",\"stream\":true}", 429, "Retry-After: 3\r\n"},
      {"/v1/completions", "{\"prompt\":\"refuse 503\",\"stream\":true}", 503, "Retry-After: 1\r\n"},
      {"/v1/completions", "{\"prompt\":[\"write 1\",\"refuse 400\"],\"stream\":true}", 400, "told to fail"},
      {"/v1/completions", "{\"prompt\":\"refuse 400\"}", 400,
       "\"weir.mode: told to fail with 400\",\"type\":\"invalid_request_error\",\"param\":\"weir.mode\""},
      {"/v1/completions", "{\"prompt\":\"late 500\"}", 500, "\"type\":\"server_error\""},
      {"/v1/completions", "{\"prompt\":\"refuse 401\"}", 500, "token"},
      {"/v1/completions", "{\"prompt\":\"deadline\"}", 504, "\"type\":\"timeout_error\""},
      {"/v1/completions", "{\"prompt\":\"write 1\",\"model\":\"other\"}", 404,
       "\"code\":\"model_not_found\""},
      {"/v1/completions", "{\"prompt\":\"write 1\",\"temperature\":-1}", 400, "\"param\":\"temperature\""},
      {"/v1/completions", "", 400, "empty"},
      {"/v1/completions", "[1]", 400, "not an object"},
      {"/v1/completions", "{\"prompt\":\"a\",\"prompt\":\"b\"}", 400, "duplicate"},
      {"/v1/completions", "{\"prompt\":\"\xff\"}", 400, "unable to decode byte 0xff"},
      {"/tokenize", "{}", 400, "\"param\":\"prompt\""},
      {"/nothing", "{}", 404, "\"type\":\"not_found_error\""},
      {"/health", "{}", 405, "Allow: GET, HEAD, OPTIONS\r\n"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    post(*state, rows[i].path, rows[i].body);
    if (raw_status(out) != rows[i].code || !strstr(out, rows[i].says))
      fail_msg("%s %s: %s", rows[i].path, rows[i].body, out);
  }
  get(*state, "/v1/completions");
  assert_int_equal(raw_status(out), 405);
  assert_non_null(strstr(out, "Allow: POST, OPTIONS\r\n"));
}

/* ---- hanging up ---- */

static void hang_ups_cancel(void **state) {
  rig *r = *state;
  fake_engine *x = fake_engine_of("fake:a");
  static const struct {
    const char *prompt, *stream, *state;
  } rows[] = {{"hold queued", "false", "queued"},     {"hold queued", "true", "queued"},
              {"hold accepted", "false", "accepted"}, {"hold accepted", "true", "accepted"},
              {"hold decode", "false", "decode"},     {"hold decode", "true", "stream"}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    char body[128], ask[512];
    const time_t end = time(NULL) + 8;
    const int before = x->cancels, had = x->submits;
    snprintf(body, sizeof body, "{\"prompt\":\"%s\",\"stream\":%s,\"n\":2}", rows[i].prompt, rows[i].stream);
    format_post(ask, sizeof ask, "/v1/completions", body);
    const int fd = raw_connect(r->port);
    raw_puts(fd, ask);
    while (x->submits < had + 2 && time(NULL) < end) get(r, "/health");
    if (i == 5) assert_true(raw_read(fd, "\"text\":\"Hel\"", out, OUT));
    get(r, "/health"); /* a turn of the loop: the engine has been at it */
    close(fd);
    while (x->cancels < before + 2 && time(NULL) < end) get(r, "/health");
    if (x->cancels != before + 2) fail_msg("%s, stream %s: not cancelled", rows[i].prompt, rows[i].stream);
    assert_int_equal(x->open, 0);
  }
  get(r, "/metrics");
  assert_non_null(strstr(out, "weir:http_disconnects_total{state=\"queued\"} 2\n"));
  assert_non_null(strstr(out, "weir:http_disconnects_total{state=\"accepted\"} 2\n"));
  assert_non_null(strstr(out, "weir:http_disconnects_total{state=\"decode\"} 1\n"));
  assert_non_null(strstr(out, "weir:http_disconnects_total{state=\"stream\"} 1\n"));
}

/* ---- the other paths ---- */

static void models_tokens_page(void **state) {
  rig *r = *state;
  get(r, "/v1/models");
  json_t *j = body_json();
  const json_t *m = json_array_get(json_object_get(j, "data"), 0);
  assert_string_equal(text_at(m, "id", NULL), "demo");
  assert_int_equal(json_integer_value(json_object_get(json_object_get(m, "weir"), "context")), 512);
  assert_int_equal(json_array_size(json_object_get(json_object_get(m, "weir"), "tiers")), 2);
  json_decref(j);
  get(r, "/v1/models/d%65mo");
  assert_int_equal(raw_status(out), 200);
  get(r, "/v1/models/other");
  assert_int_equal(raw_status(out), 404);
  get(r, "/v1/models/%");
  assert_int_equal(raw_status(out), 404);
  post(r, "/tokenize", "{\"prompt\":\"abc\"}");
  assert_string_equal(raw_body(out), "{\"tokens\":[1,2,3],\"count\":3,\"max_model_len\":512}");
  post(r, "/detokenize", "{\"tokens\":[1]}");
  assert_string_equal(raw_body(out), "{\"prompt\":\"h\xef\xbf\xbd\"}");
  get(r, "/");
  assert_int_equal(raw_status(out), 200);
  assert_non_null(strstr(out, "Content-Type: text/html; charset=utf-8\r\n"));
  assert_non_null(strstr(out, "Content-Security-Policy: default-src 'none'; script-src 'sha256-"));
  char ask[256], tag[64];
  assert_int_equal(sscanf(strstr(out, "ETag: "), "ETag: %63s", tag), 1);
  snprintf(ask, sizeof ask,
           "GET / HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: %s\r\nConnection: close\r\n\r\n", tag);
  raw_ask(r->port, ask, out, OUT);
  assert_int_equal(raw_status(out), 304);
  assert_string_equal(raw_body(out), "");
  get(r, "/stats");
  j = body_json();
  assert_true(json_number_value(json_object_get(j, "deferral_rate")) == 0.1);
  assert_true(json_number_value(json_object_get(j, "goodput")) == 12.5);
  assert_int_equal(json_integer_value(json_object_get(j, "queue_limit")), 64);
  json_decref(j);
}

/* Rates are of lately: a look of a minute ago is none. */
static void rates_are_of_lately(void **state) {
  rig *r = *state;
  static const struct {
    int64_t ago_s[2]; /* when /stats looked; 0: it did not */
    double rate;      /* of the small tier, which has written 90; 0: none is told */
  } rows[] = {{{10, 5}, 9}, {{60, 10}, 9}, {{60, 30}, 0}, {{0, 30}, 0}, {{0, 10}, 9}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    char byte;
    raw_loop_stop(&r->loop); /* the gateway is ours for a moment */
    assert_int_equal(read(r->loop.pipe[0], &byte, 1), 1);
    for (int k = 0; k < 2; k++) {
      const int64_t ago = rows[i].ago_s[k];
      r->gw->look[k] = (weir_gw_look){.ns = ago ? weir_now_ns(&r->gw->clock) - ago * 1000000000 : 0};
    }
    raw_loop_start(&r->loop);
    get(r, "/stats");
    json_t *j = body_json();
    const json_t *x = json_object_get(json_object_get(j, "tokens_per_second"), "small");
    const double rate = json_number_value(x); /* a little less than 9: time goes on */
    if (rows[i].rate > 0 ? !(rate > 7 && rate <= 9) : !json_is_null(x)) fail_msg("row %zu: %g", i, rate);
    json_decref(j);
  }
}

static void metrics_are_prometheus(void **state) {
  rig *r = *state;
  post(r, "/v1/completions", "{\"prompt\":\"write 1\"}");
  get(r, "/metrics");
  assert_int_equal(raw_status(out), 200);
  const char *text = raw_body(out);
  static const char *const lines[] = {
      "# HELP weir:tokens_total Tokens, by \\\\ and\\nlines.\n# TYPE weir:tokens_total counter\n"
      "weir:tokens_total{tier=\"small\"} 90\nweir:tokens_total{tier=\"large\"} 10\n",
      "weir:time_to_first_token_seconds_bucket{le=\"+Inf\"} 3\nweir:time_to_first_token_seconds_sum 4.5\n"
      "weir:time_to_first_token_seconds_count 3\n",
      "weir:http_requests_total{path=\"/v1/completions\",code=\"200\"} 1\n",
      "weir:gateway_engine_up{engine=\"fake:a\"} 1\n"};
  for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
    if (!strstr(text, lines[i])) fail_msg("%s is not in %s", lines[i], text);
  assert_null(strstr(text, "not a name"));
  /* promtool, where it is there: 1 is what cannot be read, 3 its opinions about names */
  FILE *p = popen(
      "if command -v promtool >/dev/null; then promtool check metrics >/dev/null 2>&1; else cat >/dev/null; "
      "fi",
      "w");
  assert_non_null(p);
  fputs(text, p);
  const int status = pclose(p);
  assert_true(WIFEXITED(status));
  assert_true(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 3);
}

/* ---- several engines ---- */

static void engines_share_and_stand_in(void **state) {
  (void)state;
  fake_reset();
  rig *r = ready(two, 2);
  fake_engine *a = fake_engine_of("fake:a"), *b = fake_engine_of("fake:b");
  const time_t end = time(NULL) + 8;
  do get(r, "/stats");
  while (strstr(out, "\"ready\":false") && time(NULL) < end);
  char body[128];
  for (int i = 0; i < 40; i++) {
    snprintf(body, sizeof body, "{\"prompt\":\"write 1 %d\"}", i);
    post(r, "/v1/completions", body);
    assert_int_equal(raw_status(out), 200);
  }
  assert_true(a->submits > 5 && b->submits > 5); /* 40 prompts, one engine: 2^-35 */
  const int before = a->submits;
  post(r, "/v1/completions", "{\"prompt\":\"write 1 same\"}");
  const bool is_a = a->submits > before;
  for (int i = 0; i < 5; i++) post(r, "/v1/completions", "{\"prompt\":\"write 1 same\"}");
  assert_int_equal(a->submits, before + (is_a ? 6 : 0));
  /* refused at either: the other takes it */
  for (int i = 0; i < 2; i++) {
    snprintf(body, sizeof body, "{\"prompt\":\"refuse-on fake:%c 503\"}", 'a' + i);
    post(r, "/v1/completions", body);
    assert_int_equal(raw_status(out), 200);
  }
  post(r, "/v1/completions", "{\"prompt\":\"refuse 503\"}"); /* at both */
  assert_int_equal(raw_status(out), 503);
  get(r, "/metrics");
  assert_non_null(strstr(out, "weir:tokens_total{tier=\"small\",engine=\"fake:b\"} 90\n"));
  assert_null(strstr(strstr(out, "# TYPE weir:tokens_total") + 5, "# TYPE weir:tokens_total"));
  /* one goes away: it is left out; both: 503; one comes back */
  a->live = false;
  const int had = a->submits;
  do get(r, "/stats");
  while (!strstr(out, "{\"url\":\"fake:a\",\"live\":false") && time(NULL) < end);
  for (int i = 0; i < 10; i++) {
    snprintf(body, sizeof body, "{\"prompt\":\"write 1 %d\"}", i);
    post(r, "/v1/completions", body);
    assert_int_equal(raw_status(out), 200);
  }
  assert_int_equal(a->submits, had);
  b->ready = false;
  until(r, "/ready", 503);
  get(r, "/health");
  assert_int_equal(raw_status(out), 200);
  post(r, "/v1/completions", "{\"prompt\":\"write 1\",\"stream\":true}");
  assert_int_equal(raw_status(out), 503);
  assert_non_null(strstr(out, "Retry-After: "));
  b->silent = true; /* it hangs: no answer at all */
  until(r, "/health", 503);
  a->live = true;
  until(r, "/ready", 200);
  stop(r);
}

/* What was lost with its engine is written by the other, unless some of it was sent. */
static void lost_requests_are_written_elsewhere(void **state) {
  (void)state;
  static const struct {
    const char *last; /* %c: the engine */
    bool good;
  } rows[] = {{"lose-on fake:%c 0\"}]}", true},
              {"lose-on fake:%c 2\"}]}", true},
              {"lose-on fake:%c 0\"}],\"stream\":true}", true},
              {"lose-on fake:%c 2\"}],\"stream\":true}", false},
              {"lose-on fake:%c 1\"}],\"n\":3,\"seed\":7}", true}};
  /* conversations that begin alike go to the same engine: one of the two loses it */
  static const char turns[] =
      "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\",\"content\":\"y\"},"
      "{\"role\":\"user\",\"content\":\"";
  fake_reset();
  rig *r = ready(two, 2);
  const time_t end = time(NULL) + 8;
  do get(r, "/stats");
  while (strstr(out, "\"ready\":false") && time(NULL) < end);
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    int bad = 0;
    for (int k = 0; k < 2; k++) { /* it goes to one of the two at first */
      char body[512];
      int n = snprintf(body, sizeof body, "%s", turns);
      snprintf(body + n, sizeof body - (size_t)n, rows[i].last, 'a' + k);
      post(r, "/v1/chat/completions", body);
      assert_int_equal(raw_status(out), 200);
      bad += strstr(out, "\"error\"") != NULL;
      if (i < 2 || i == 4) assert_non_null(strstr(out, "\"content\":\"Hello w\xef\xbf\xbd\""));
      if (i == 4) assert_non_null(strstr(out, "\"seed\":7,"));
    }
    assert_int_equal(bad, rows[i].good ? 0 : 1);
  }
  post(r, "/v1/completions", "{\"prompt\":\"lose 1\"}"); /* at both */
  assert_int_equal(raw_status(out), 503);
  get(r, "/metrics");
  assert_non_null(strstr(out, "weir:gateway_retries_total 7\n"));
  assert_int_equal(fake_engine_of("fake:a")->open + fake_engine_of("fake:b")->open, 0);
  stop(r);
}

/* ---- who may ---- */

static void keys(void **state) {
  (void)state;
  fake_reset();
  static const char *const key[] = {"sesame", "second"};
  rig *r =
      start((weir_gw_cfg){.engine = one, .n_engines = 1, .key = key, .n_keys = 2, .cors = "https://a.b"});
  until(r, "/ready", 200);
  static const struct {
    const char *path, *header;
    int code;
  } rows[] = {{"/health", "", 200},
              {"/", "", 200},
              {"/v1/models", "", 401},
              {"/metrics", "", 401},
              {"/stats", "", 401},
              {"/nothing", "", 401},
              {"/v1/models", "Authorization: Bearer sesame\r\n", 200},
              {"/v1/models", "authorization: bearer  second\r\n", 200},
              {"/v1/models", "X-Api-Key: second\r\n", 200},
              {"/v1/models", "Authorization: Bearer sesam\r\n", 401},
              {"/v1/models", "Authorization: Bearer sesame2\r\n", 401},
              {"/v1/models", "Authorization: Bearer \r\n", 401},
              {"/v1/models", "Authorization: Basic sesame\r\n", 401},
              {"/nothing", "Authorization: Bearer sesame\r\n", 404}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    char ask[256];
    snprintf(ask, sizeof ask, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%s\r\n",
             rows[i].path, rows[i].header);
    raw_ask(r->port, ask, out, OUT);
    if (raw_status(out) != rows[i].code) fail_msg("%s %s: %s", rows[i].path, rows[i].header, out);
    assert_non_null(strstr(out, "Access-Control-Allow-Origin: https://a.b\r\n"));
  }
  raw_ask(r->port, "OPTIONS /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", out,
          OUT);
  assert_int_equal(raw_status(out), 204);
  assert_non_null(strstr(out, "Access-Control-Allow-Methods: "));
  assert_non_null(strstr(out, "Access-Control-Allow-Headers: Authorization, Content-Type, X-Api-Key\r\n"));
  raw_ask(r->port,
          "OPTIONS /v1/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
          "Access-Control-Request-Headers: authorization,x-stainless-lang, x-stainless-os\r\n\r\n",
          out, OUT);
  assert_non_null(
      strstr(out, "Access-Control-Allow-Headers: authorization,x-stainless-lang, x-stainless-os\r\n"));
  raw_ask(r->port,
          "OPTIONS /v1/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
          "Access-Control-Request-Headers: a;b\r\n\r\n",
          out, OUT);
  assert_non_null(strstr(out, "Access-Control-Allow-Headers: Authorization, Content-Type, X-Api-Key\r\n"));
  /* without a key no byte of a body is waited for */
  raw_ask(r->port, "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n", out, OUT);
  assert_int_equal(raw_status(out), 401);
  assert_non_null(strstr(out, "WWW-Authenticate: Bearer\r\n"));
  raw_ask(
      r->port,
      "POST /nothing HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer sesame\r\nContent-Length: 1\r\nConnection: "
      "close\r\n\r\nx",
      out, OUT);
  assert_int_equal(raw_status(out), 404);
  stop(r);
}

/* A page whose name was made to lead here is a page of somebody else's. */
static void hosts(void **state) {
  (void)state;
  fake_reset();
  static const char *const host[] = {"weir.example"};
  rig *r = start((weir_gw_cfg){.engine = one, .n_engines = 1, .host = host, .n_hosts = 1});
  until(r, "/ready", 200);
  static const struct {
    const char *path, *host;
    int code;
  } rows[] = {{"/stats", "localhost", 200},          {"/stats", "LOCALHOST:8000", 200},
              {"/stats", "127.0.0.1", 200},          {"/stats", "127.0.0.1:8000", 200},
              {"/stats", "10.1.2.3:8000", 200},      {"/stats", "[::1]:8000", 200},
              {"/stats", "weir.example:80", 200},    {"/stats", "weir.example.", 200},
              {"/stats", "evil.example", 403},       {"/", "evil.example", 403},
              {"/stats", "localhost.evil", 403},     {"/stats", "127.0.0.1.evil", 403},
              {"/stats", "[::1].evil", 403},         {"/stats", "[evil]", 403},
              {"/health", "evil.example:8000", 200}, {"/stats", "", 403}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    char ask[256];
    snprintf(ask, sizeof ask, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", rows[i].path,
             rows[i].host);
    raw_ask(r->port, ask, out, OUT);
    if (raw_status(out) != rows[i].code) fail_msg("%s %s: %s", rows[i].path, rows[i].host, out);
  }
  raw_ask(r->port, "GET /stats HTTP/1.0\r\n\r\n", out, OUT);
  assert_int_equal(raw_status(out), 200);
  stop(r);
}

/* A table full of the silent leaves /health to be asked. */
static void health_on_a_full_table(void **state) {
  (void)state;
  fake_reset();
  enum { MOST = 4 };
  rig *r = start((weir_gw_cfg){.engine = one, .n_engines = 1, .max_connections = MOST});
  int fd[MOST];
  until(r, "/ready", 200);
  for (int i = 0; i < MOST; i++) {
    fd[i] = raw_connect(r->port);
    raw_puts(fd[i], "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n");
  }
  until(r, "/stats", 503);
  get(r, "/health");
  assert_int_equal(raw_status(out), 200);
  get(r, "/ready");
  assert_int_equal(raw_status(out), 200);
  for (int i = 0; i < MOST; i++) close(fd[i]);
  until(r, "/stats", 200);
  stop(r);
}

static void says_that_it_loads(void **state) {
  (void)state;
  fake_reset();
  fake_engine_of("fake:a")->silent = true;
  rig *r = start((weir_gw_cfg){.engine = one, .n_engines = 1});
  get(r, "/health");
  assert_int_equal(raw_status(out), 503);
  assert_non_null(strstr(out, "loading"));
  stop(r);
}

static void addresses_of_others_need_a_key(void **state) {
  (void)state;
  struct {
    const char *listen;
    bool insecure, key;
    weir_status want;
  } rows[] = {{"0.0.0.0:0", false, false, WEIR_EINVAL},
              {"0.0.0.0:0", true, false, WEIR_OK},
              {"0.0.0.0:0", false, true, WEIR_OK},
              {"127.0.0.1:0", false, false, WEIR_OK},
              {"127.0.0.1", false, false, WEIR_EINVAL}};
  static const char *const key[] = {"k"};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    raw_loop l;
    weir_gw *g = NULL;
    weir_err e = {0};
    raw_loop_init(&l);
    const weir_gw_cfg cfg = {.listen = rows[i].listen,
                             .engine = one,
                             .n_engines = 1,
                             .insecure = rows[i].insecure,
                             .key = key,
                             .n_keys = rows[i].key};
    const weir_status st = weir_gw_create(l.base, &cfg, &g, &e);
    if (st != rows[i].want) fail_msg("%s: %d %s", rows[i].listen, st, e.msg);
    weir_gw_destroy(g);
    raw_loop_fini(&l);
  }
}

/* ---- the end ---- */

static void begin_drain(evutil_socket_t fd, short what, void *ctx) {
  (void)fd;
  (void)what;
  weir_gw_drain(ctx, 200);
}

static void begin_long_drain(evutil_socket_t fd, short what, void *ctx) {
  (void)fd;
  (void)what;
  weir_gw_drain(ctx, 60000);
}

static void drains(void **state) {
  rig *r = *state;
  const int held = raw_connect(r->port);
  char ask[512];
  format_post(ask, sizeof ask, "/v1/completions", "{\"prompt\":\"hold decode\",\"stream\":true}");
  raw_puts(held, ask);
  assert_true(raw_read(held, "\"text\":\"Hel\"", out, OUT));
  const int half = raw_connect(r->port); /* a request that does not come is not waited for */
  char half_out[1024];
  raw_puts(half, "GET /sta");
  raw_loop_stop(&r->loop); /* the base is ours for a moment */
  struct timeval now = {0, 0};
  char byte;
  assert_int_equal(read(r->loop.pipe[0], &byte, 1), 1);
  event_base_once(r->loop.base, -1, EV_TIMEOUT, begin_drain, r->gw, &now);
  raw_loop_start(&r->loop);
  pthread_join(r->loop.thread, NULL); /* the held request does not end: the time to drain does */
  r->running = false;
  assert_true(weir_gw_was_cut(r->gw));
  weir_gw_destroy(r->gw);
  r->gw = NULL;
  assert_true(raw_read(held, NULL, out, OUT));
  assert_non_null(strstr(out, "\"type\":\"overloaded_error\"")); /* it was told */
  assert_true(raw_read(half, NULL, half_out, sizeof half_out));
  close(half);
  close(held);
  assert_int_equal(fake_engine_of("fake:a")->open, 0);
}

/* With nothing to answer it does not wait for its time. */
static void drains_at_once(void **state) {
  rig *r = *state;
  const time_t from = time(NULL);
  char byte;
  const struct timeval now = {0, 0};
  const int half = raw_connect(r->port);
  raw_puts(half, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx");
  get(r, "/health");
  raw_loop_stop(&r->loop);
  assert_int_equal(read(r->loop.pipe[0], &byte, 1), 1);
  event_base_once(r->loop.base, -1, EV_TIMEOUT, begin_long_drain, r->gw, &now);
  raw_loop_start(&r->loop);
  pthread_join(r->loop.thread, NULL);
  r->running = false;
  assert_true(time(NULL) - from < 8);
  assert_false(weir_gw_was_cut(r->gw));
  close(half);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
  weir_log_set_level(WEIR_LOG_ERROR);
  const struct CMUnitTest tests[] = {
      TEST(whole_completion),
      TEST(whole_chat),
      TEST(seeds_are_told_as_they_came),
      TEST(stop_tokens_and_prompts),
      TEST(stream_of_chat),
      TEST(stream_of_completions),
      TEST(late_errors_end_a_stream),
      TEST(errors_come_with_their_status),
      TEST(hang_ups_cancel),
      TEST(models_tokens_page),
      TEST(rates_are_of_lately),
      TEST(metrics_are_prometheus),
      cmocka_unit_test(engines_share_and_stand_in),
      cmocka_unit_test(lost_requests_are_written_elsewhere),
      cmocka_unit_test(keys),
      cmocka_unit_test(hosts),
      cmocka_unit_test(health_on_a_full_table),
      cmocka_unit_test(says_that_it_loads),
      cmocka_unit_test(addresses_of_others_need_a_key),
      TEST(drains),
      TEST(drains_at_once),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
