/* SPDX-License-Identifier: Apache-2.0 */
/* Requests and answers of the gateway over raw sockets, with engines that do what the prompt tells them
 * (fake_client.h). */
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
#include "gateway_rig.h"

static int setup(void **state) {
  fake_reset();
  *state = rig_ready(one, 1);
  return 0;
}

static int teardown(void **state) {
  rig_stop(*state);
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
  rig_post(*state, "/v1/completions",
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
  assert_int_equal(json_integer_value(json_object_get(w, "wanted_up")), 2);
  assert_int_equal(json_integer_value(json_object_get(w, "forced")), 1);
  assert_string_equal(text_at(w, "routed", NULL), "large");
  assert_true(json_number_value(json_object_get(w, "route_score")) == 0.75);
  const json_t *cost = json_object_get(w, "cost");
  assert_true(json_number_value(json_object_get(json_object_get(cost, "flops"), "large")) == 3e12);
  assert_true(json_number_value(json_object_get(json_object_get(cost, "weight_bytes"), "small")) == 5);
  assert_true(json_number_value(json_object_get(json_object_get(cost, "large_only"), "flops")) == 1.25e13);
  json_decref(j);
}

static void whole_chat(void **state) {
  rig *r = *state;
  rig_post(r, "/v1/chat/completions",
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
      rig_post(*state, "/v1/completions", body);
      if (!strstr(out, want)) fail_msg("%s: %s", body, out);
    }
}

static void stop_tokens_and_prompts(void **state) {
  rig_post(*state, "/v1/completions",
           "{\"prompt\":[\"stop\",\"write 1\",[1,2]],\"stop_token_ids\":[2],\"n\":2}");
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
  rig_post(*state, "/v1/chat/completions",
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
  rig_post(*state, "/v1/completions",
           "{\"prompt\":[\"write 2\",\"write 3\"],\"stream\":true,\"logprobs\":0}");
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
  rig_post(*state, "/v1/completions", "{\"prompt\":\"late 500\",\"stream\":true}");
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
    rig_post(*state, rows[i].path, rows[i].body);
    if (raw_status(out) != rows[i].code || !strstr(out, rows[i].says))
      fail_msg("%s %s: %s", rows[i].path, rows[i].body, out);
  }
  rig_get(*state, "/v1/completions");
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
    rig_format_post(ask, sizeof ask, "/v1/completions", body);
    const int fd = raw_connect(r->port);
    raw_puts(fd, ask);
    while (x->submits < had + 2 && time(NULL) < end) rig_get(r, "/health");
    if (i == 5) assert_true(raw_read(fd, "\"text\":\"Hel\"", out, OUT));
    rig_get(r, "/health"); /* a turn of the loop: the engine has been at it */
    close(fd);
    while (x->cancels < before + 2 && time(NULL) < end) rig_get(r, "/health");
    if (x->cancels != before + 2) fail_msg("%s, stream %s: not cancelled", rows[i].prompt, rows[i].stream);
    assert_int_equal(x->open, 0);
  }
  rig_get(r, "/metrics");
  assert_non_null(strstr(out, "weir:http_disconnects_total{state=\"queued\"} 2\n"));
  assert_non_null(strstr(out, "weir:http_disconnects_total{state=\"accepted\"} 2\n"));
  assert_non_null(strstr(out, "weir:http_disconnects_total{state=\"decode\"} 1\n"));
  assert_non_null(strstr(out, "weir:http_disconnects_total{state=\"stream\"} 1\n"));
}

/* ---- the other paths ---- */

static void models_tokens_page(void **state) {
  rig *r = *state;
  rig_get(r, "/v1/models");
  json_t *j = body_json();
  const json_t *m = json_array_get(json_object_get(j, "data"), 0);
  assert_string_equal(text_at(m, "id", NULL), "demo");
  assert_int_equal(json_integer_value(json_object_get(json_object_get(m, "weir"), "context")), 512);
  assert_int_equal(json_array_size(json_object_get(json_object_get(m, "weir"), "tiers")), 2);
  json_decref(j);
  rig_get(r, "/v1/models/d%65mo");
  assert_int_equal(raw_status(out), 200);
  rig_get(r, "/v1/models/other");
  assert_int_equal(raw_status(out), 404);
  rig_get(r, "/v1/models/%");
  assert_int_equal(raw_status(out), 404);
  rig_post(r, "/tokenize", "{\"prompt\":\"abc\"}");
  assert_string_equal(raw_body(out), "{\"tokens\":[1,2,3],\"count\":3,\"max_model_len\":512}");
  rig_post(r, "/detokenize", "{\"tokens\":[1]}");
  assert_string_equal(raw_body(out), "{\"prompt\":\"h\xef\xbf\xbd\"}");
  rig_get(r, "/");
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
  rig_get(r, "/stats");
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
    rig_pause(r);
    for (int k = 0; k < 2; k++) {
      const int64_t ago = rows[i].ago_s[k];
      r->gw->look[k] = (weir_gw_look){.ns = ago ? weir_now_ns(&r->gw->clock) - ago * 1000000000 : 0};
    }
    rig_go_on(r);
    rig_get(r, "/stats");
    json_t *j = body_json();
    const json_t *x = json_object_get(json_object_get(j, "tokens_per_second"), "small");
    const double rate = json_number_value(x); /* a little less than 9: time goes on */
    if (rows[i].rate > 0 ? !(rate > 7 && rate <= 9) : !json_is_null(x)) fail_msg("row %zu: %g", i, rate);
    json_decref(j);
  }
}

static void metrics_are_prometheus(void **state) {
  rig *r = *state;
  rig_post(r, "/v1/completions", "{\"prompt\":\"write 1\"}");
  rig_get(r, "/metrics");
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
  rig *r = rig_ready(two, 2);
  fake_engine *a = fake_engine_of("fake:a"), *b = fake_engine_of("fake:b");
  const time_t end = time(NULL) + 8;
  do rig_get(r, "/stats");
  while (strstr(out, "\"ready\":false") && time(NULL) < end);
  char body[128];
  for (int i = 0; i < 40; i++) {
    snprintf(body, sizeof body, "{\"prompt\":\"write 1 %d\"}", i);
    rig_post(r, "/v1/completions", body);
    assert_int_equal(raw_status(out), 200);
  }
  assert_true(a->submits > 5 && b->submits > 5); /* 40 prompts, one engine: 2^-35 */
  const int before = a->submits;
  rig_post(r, "/v1/completions", "{\"prompt\":\"write 1 same\"}");
  const bool is_a = a->submits > before;
  for (int i = 0; i < 5; i++) rig_post(r, "/v1/completions", "{\"prompt\":\"write 1 same\"}");
  assert_int_equal(a->submits, before + (is_a ? 6 : 0));
  /* refused at either: the other takes it */
  for (int i = 0; i < 2; i++) {
    snprintf(body, sizeof body, "{\"prompt\":\"refuse-on fake:%c 503\"}", 'a' + i);
    rig_post(r, "/v1/completions", body);
    assert_int_equal(raw_status(out), 200);
  }
  rig_post(r, "/v1/completions", "{\"prompt\":\"refuse 503\"}"); /* at both */
  assert_int_equal(raw_status(out), 503);
  rig_get(r, "/metrics");
  assert_non_null(strstr(out, "weir:tokens_total{tier=\"small\",engine=\"fake:b\"} 90\n"));
  assert_null(strstr(strstr(out, "# TYPE weir:tokens_total") + 5, "# TYPE weir:tokens_total"));
  /* one goes away: it is left out; both: 503; one comes back */
  a->live = false;
  const int had = a->submits;
  do rig_get(r, "/stats");
  while (!strstr(out, "{\"url\":\"fake:a\",\"live\":false") && time(NULL) < end);
  for (int i = 0; i < 10; i++) {
    snprintf(body, sizeof body, "{\"prompt\":\"write 1 %d\"}", i);
    rig_post(r, "/v1/completions", body);
    assert_int_equal(raw_status(out), 200);
  }
  assert_int_equal(a->submits, had);
  b->ready = false;
  rig_until(r, "/ready", 503);
  rig_get(r, "/health");
  assert_int_equal(raw_status(out), 200);
  rig_post(r, "/v1/completions", "{\"prompt\":\"write 1\",\"stream\":true}");
  assert_int_equal(raw_status(out), 503);
  assert_non_null(strstr(out, "Retry-After: "));
  b->silent = true; /* it hangs: no answer at all */
  rig_until(r, "/health", 503);
  a->live = true;
  rig_until(r, "/ready", 200);
  rig_stop(r);
}

/* Health says of each tier whether it is up, since when, and why not; /stats does too. */
static void tiers_in_health(void **state) {
  (void)state;
  fake_reset();
  rig *r = rig_ready(two, 2);
  fake_engine *a = fake_engine_of("fake:a");
  const time_t end = time(NULL) + 8;
  do rig_get(r, "/health");
  while (strstr(out, "\"tiers\":[]") && time(NULL) < end);
  assert_null(strstr(out, "\"up\":false"));
  a->no_large = true;
  do rig_get(r, "/health");
  while (!strstr(out, "\"up\":false") && time(NULL) < end);
  assert_int_equal(raw_status(out), 200);
  assert_null(strstr(out, "fake:a")); /* no key was asked for */
  json_t *j = body_json();
  const json_t *engines = json_object_get(j, "engines");
  assert_int_equal(json_array_size(engines), 2);
  for (size_t i = 0; i < 2; i++) {
    const json_t *x = json_array_get(engines, i), *tiers = json_object_get(x, "tiers");
    const json_t *small = json_array_get(tiers, 0), *large = json_array_get(tiers, 1);
    assert_true(json_is_true(json_object_get(x, "live")) && json_is_true(json_object_get(x, "ready")));
    assert_int_equal(json_array_size(tiers), 2);
    assert_string_equal(text_at(small, "name", NULL), "small");
    assert_true(json_is_true(json_object_get(small, "up")) && !json_object_get(small, "reason"));
    assert_true(json_number_value(json_object_get(small, "for_s")) >= 65);
    assert_true(json_is_true(json_object_get(large, "up")) == (i == 1));
    if (i == 1) continue;
    const double for_s = json_number_value(json_object_get(large, "for_s"));
    assert_true(for_s >= 1.5 && for_s < 10);
    assert_string_equal(text_at(large, "reason", NULL), "node 1 (\"gpu17\") is silent");
    assert_true(json_is_true(json_object_get(large, "comes_back")));
    assert_int_equal(json_integer_value(json_object_get(large, "deaths")), 1);
  }
  json_decref(j);
  rig_get(r, "/ready");
  assert_int_equal(raw_status(out), 200);
  assert_non_null(strstr(out, "\"up\":false"));
  rig_get(r, "/stats");
  assert_non_null(strstr(out, "\"tiers\":[{\"name\":\"small\",\"up\":true"));
  rig_stop(r);
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
  rig *r = rig_ready(two, 2);
  const time_t end = time(NULL) + 8;
  do rig_get(r, "/stats");
  while (strstr(out, "\"ready\":false") && time(NULL) < end);
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    int bad = 0;
    for (int k = 0; k < 2; k++) { /* it goes to one of the two at first */
      char body[512];
      int n = snprintf(body, sizeof body, "%s", turns);
      snprintf(body + n, sizeof body - (size_t)n, rows[i].last, 'a' + k);
      rig_post(r, "/v1/chat/completions", body);
      assert_int_equal(raw_status(out), 200);
      bad += strstr(out, "\"error\"") != NULL;
      if (i < 2 || i == 4) assert_non_null(strstr(out, "\"content\":\"Hello w\xef\xbf\xbd\""));
      if (i == 4) assert_non_null(strstr(out, "\"seed\":7,"));
    }
    assert_int_equal(bad, rows[i].good ? 0 : 1);
  }
  rig_post(r, "/v1/completions", "{\"prompt\":\"lose 1\"}"); /* at both */
  assert_int_equal(raw_status(out), 503);
  rig_get(r, "/metrics");
  assert_non_null(strstr(out, "weir:gateway_retries_total 7\n"));
  assert_int_equal(fake_engine_of("fake:a")->open + fake_engine_of("fake:b")->open, 0);
  rig_stop(r);
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
      cmocka_unit_test(tiers_in_health),
      cmocka_unit_test(lost_requests_are_written_elsewhere),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
