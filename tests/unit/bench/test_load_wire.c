/* SPDX-License-Identifier: Apache-2.0 */
/* Parsers of what a server sends, cut at every place, and fed with nonsense. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "load/http_parse.h"
#include "load/openai.h"
#include "load/rand.h"
#include "load/sse.h"

static weir_status collect(void *ctx, const char *data, size_t len, weir_err *e) {
  weir_buf *b = ctx;
  weir_status st = weir_buf_put(b, data, len, e);
  return st == WEIR_OK ? weir_buf_put(b, "|", 1, e) : st;
}

static const struct {
  const char *text, *want;
  bool unfinished;
} events[] = {{"data: a\n\ndata: b\n\n", "a|b|", false},
              {"data: a\r\n\r\ndata: b\r\n\r\n", "a|b|", false},
              {"data: a\r\rdata:b\r\r", "a|b|", false},
              {"data: one\ndata: two\n\n", "one\ntwo|", false},
              {"data: one\r\ndata: two\r\n\r\n", "one\ntwo|", false},
              {": comment\nevent: x\nid: 3\nretry: 5\ndata: a\n\n", "a|", false},
              {"\n\n\ndata: a\n\n\n", "a|", false},
              {"data\n\ndata:\n\n", "||", false},
              {"data:  two blanks\n\n", " two blanks|", false},
              {"database: no\n\n", "", false},
              {"\xef\xbb\xbf"
               "data: a\n\n",
               "a|", false},
              {"data: a\n", "", true},
              {"data: a\n\ndata: b", "a|", true},
              {"data: {\"x\": \"\xc3\xa9\"}\n\n", "{\"x\": \"\xc3\xa9\"}|", false}};

static void test_sse(void **state) {
  (void)state;
  for (size_t k = 0; k < sizeof events / sizeof *events; k++) {
    const size_t n = strlen(events[k].text);
    for (size_t cut = 0; cut <= n; cut++) /* in two parts, cut everywhere; n: byte by byte */
    {
      weir_sse s = {0};
      weir_buf got = {0};
      if (cut < n) {
        assert_int_equal(weir_sse_feed(&s, events[k].text, cut, collect, &got, NULL), WEIR_OK);
        assert_int_equal(weir_sse_feed(&s, events[k].text + cut, n - cut, collect, &got, NULL), WEIR_OK);
      } else {
        for (size_t i = 0; i < n; i++)
          assert_int_equal(weir_sse_feed(&s, events[k].text + i, 1, collect, &got, NULL), WEIR_OK);
      }
      if (strcmp(got.data ? got.data : "", events[k].want) != 0 ||
          weir_sse_unfinished(&s) != events[k].unfinished)
        fail_msg("event %zu cut at %zu: \"%s\", unfinished %d", k, cut, got.data ? got.data : "",
                 weir_sse_unfinished(&s));
      weir_buf_fini(&got);
      weir_sse_fini(&s);
    }
  }
}

static void test_sse_bounded(void **state) {
  (void)state;
  weir_sse s = {.max_bytes = 1000};
  weir_buf got = {0};
  weir_status st = WEIR_OK;
  for (int i = 0; i < 200 && st == WEIR_OK; i++)
    st = weir_sse_feed(&s, "data: 12345678\n", 15, collect, &got, NULL);
  assert_int_equal(st, WEIR_EFORMAT);
  weir_sse_fini(&s);
  s = (weir_sse){.max_bytes = 1000};
  for (st = WEIR_OK; st == WEIR_OK;) st = weir_sse_feed(&s, "no line break ever ", 19, collect, &got, NULL);
  assert_int_equal(st, WEIR_EFORMAT);
  weir_sse_fini(&s);
  weir_buf_fini(&got);
}

typedef struct {
  weir_http_head head;
  weir_buf body;
} answer;

static weir_status on_head(void *ctx, const weir_http_head *h, weir_err *e) {
  (void)e;
  ((answer *)ctx)->head = *h;
  return WEIR_OK;
}
static weir_status on_body(void *ctx, const char *bytes, size_t n, weir_err *e) {
  return weir_buf_put(&((answer *)ctx)->body, bytes, n, e);
}

static weir_status feed(weir_http_parser *p, const char *text, size_t n, size_t step, answer *a,
                        weir_err *e) {
  const weir_http_sink sink = {on_head, on_body, a};
  for (size_t i = 0; i < n && !weir_http_done(p);) {
    size_t used;
    const weir_status st = weir_http_feed(p, text + i, n - i < step ? n - i : step, &used, &sink, e);
    if (st != WEIR_OK) return st;
    if (used == 0) break;
    i += used;
  }
  return WEIR_OK;
}

static void test_http(void **state) {
  (void)state;
  static const struct {
    const char *text;
    int status;
    const char *type, *body;
    bool done, close;
    double retry;
  } row[] = {{"HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; charset=utf-8\r\nTransfer-Encoding: "
              "chunked\r\n\r\n5\r\nhello\r\n"
              "6;ext=1\r\n world\r\n0\r\nTrailer: x\r\n\r\n",
              200, "text/event-stream", "hello world", true, false, NAN},
             {"HTTP/1.1 429 Too Many\r\nretry-after:  7 \r\ncontent-length: 3\r\n\r\nabc", 429, "", "abc",
              true, false, 7},
             {"HTTP/1.0 200\r\n\r\nto the end", 200, "", "to the end", false, true, NAN},
             {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", 204, "",
              "", true, true, NAN},
             {"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", 200, "", "ok", true, false, NAN},
             {"HTTP/1.1 503 x\r\nRetry-After: Wed, 21 Oct 2026 07:28:00 GMT\r\nContent-Length: 0\r\n\r\n",
              503, "", "", true, false, NAN}};
  for (size_t k = 0; k < sizeof row / sizeof *row; k++)
    for (size_t step = 1; step < 400; step = step < 8 ? step + 1 : step * 7) {
      weir_http_parser p;
      answer a = {0};
      weir_err e = {0};
      weir_http_parser_init(&p);
      if (feed(&p, row[k].text, strlen(row[k].text), step, &a, &e) != WEIR_OK)
        fail_msg("%zu step %zu: %s", k, step, e.msg);
      assert_int_equal(a.head.status, row[k].status);
      assert_string_equal(a.head.type, row[k].type);
      assert_string_equal(a.body.data ? a.body.data : "", row[k].body);
      assert_int_equal(weir_http_done(&p), row[k].done);
      assert_int_equal(a.head.close, row[k].close);
      assert_true(isnan(row[k].retry) ? isnan(a.head.retry_after_s) : a.head.retry_after_s == row[k].retry);
      assert_int_equal(weir_http_eof(&p, &e), WEIR_OK);
      weir_http_parser_fini(&p);
      weir_buf_fini(&a.body);
    }
}

static void test_http_refused(void **state) {
  (void)state;
  static const char *const row[] = {
      "nonsense\r\n\r\n",
      "HTTP/2 200 OK\r\n\r\n",
      "HTTP/1.1 20 OK\r\n\r\n",
      "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
      "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
      "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n"};
  for (size_t k = 0; k < sizeof row / sizeof *row; k++) {
    weir_http_parser p;
    answer a = {0};
    weir_http_parser_init(&p);
    if (feed(&p, row[k], strlen(row[k]), 1000, &a, NULL) != WEIR_EFORMAT) fail_msg("row %zu was taken", k);
    weir_http_parser_fini(&p);
    weir_buf_fini(&a.body);
  }
  weir_http_parser p; /* headers without an end */
  answer a = {0};
  weir_status st = WEIR_OK;
  weir_http_parser_init(&p);
  feed(&p, "HTTP/1.1 200 OK\r\n", 17, 100, &a, NULL);
  for (int i = 0; i < 100000 && st == WEIR_OK; i++) st = feed(&p, "x: yyyyyyyy\r\n", 13, 100, &a, NULL);
  assert_int_equal(st, WEIR_EFORMAT);
  weir_http_parser_fini(&p);
  weir_http_parser_init(&p); /* an end too early */
  feed(&p, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", 41, 100, &a, NULL);
  assert_int_equal(weir_http_eof(&p, NULL), WEIR_EIO);
  weir_http_parser_fini(&p);
  weir_buf_fini(&a.body);
}

/* Random changes of right answers: nothing may be read beyond its end (the sanitizers look) or go on for
 * ever. */
static void test_http_mangled(void **state) {
  (void)state;
  static const char good[] =
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: a\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
  weir_rand r;
  int refused = 0;
  weir_rand_init(&r, 12, 0);
  for (int k = 0; k < 20000; k++) {
    char text[sizeof good];
    weir_http_parser p;
    answer a = {0};
    memcpy(text, good, sizeof good);
    for (int i = 0; i < 3; i++) text[weir_rand_below(&r, sizeof good - 1)] = (char)weir_rand_below(&r, 256);
    weir_http_parser_init(&p);
    refused += feed(&p, text, sizeof good - 1, 1 + weir_rand_below(&r, 40), &a, NULL) != WEIR_OK;
    weir_http_parser_fini(&p);
    weir_buf_fini(&a.body);
  }
  assert_in_range(refused, 2000, 19999);
}

typedef struct {
  char text[64];
  int pieces, tokens, large;
} heard;

static void on_piece(void *ctx, const weir_target_piece *p) {
  heard *h = ctx;
  snprintf(h->text + strlen(h->text), sizeof h->text - strlen(h->text), "%.*s", (int)p->len, p->text);
  h->pieces++;
  h->tokens += p->n_tokens;
  h->large += p->by_tier[1];
}

/* One event of each server's form. */
static void test_openai(void **state) {
  (void)state;
  static const struct {
    const char *json;
    bool whole;
    weir_status st;
    const char *text;
    int pieces, tokens, large, completion;
    const char *reason, *what;
  } row[] = {
      {"{\"choices\":[{\"text\":\"hi\",\"finish_reason\":null}]}", false, WEIR_OK, "hi", 1, 0, 0, -1, "", ""},
      {"{\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":null}}]}", false, WEIR_OK, "", 0, 0, 0,
       -1, "", ""},
      {"{\"choices\":[{\"delta\":{\"content\":\"yo\"},\"finish_reason\":\"stop\"}]}", false, WEIR_OK, "yo", 1,
       0, 0, -1, "stop", ""},
      {"{\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"}}]}", false, WEIR_OK, "", 1, 0, 0, -1, "", ""},
      {"{\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":9}}", false, WEIR_OK, "", 0, 0,
       0, 9, "", ""},
      {"{\"choices\":[{\"message\":{\"content\":\"all\"},\"finish_reason\":\"length\"}],\"usage\":{"
       "\"completion_tokens\":1}}",
       true, WEIR_OK, "all", 1, 0, 0, 1, "length", ""},
      {"{\"choices\":[{\"text\":\"ab\",\"weir\":{\"tokens\":[{\"tier\":\"small\"},{\"tier\":\"large\"}]}}]}",
       false, WEIR_OK, "ab", 1, 2, 1, -1, "", ""},
      {"{\"choices\":[{\"text\":\"\",\"weir\":{\"tokens\":[{\"tier\":\"large\"}]}}]}", false, WEIR_OK, "", 1,
       1, 1, -1, "", ""},
      {"{\"error\":{\"message\":\"no\",\"type\":\"overloaded_error\",\"code\":503}}", false, WEIR_EUNSUP, "",
       0, 0, 0, -1, "", "overloaded_error"},
      {"{\"object\":\"error\",\"message\":\"no\",\"type\":\"BadRequestError\",\"code\":400}", false,
       WEIR_EUNSUP, "", 0, 0, 0, -1, "", "BadRequestError"},
      /* a model may write any byte */
      {"{\"choices\":[{\"text\":\"a\\u0000\"}]}", false, WEIR_OK, "a", 1, 0, 0, -1, "", ""},
      {"{}", false, WEIR_EFORMAT, "", 0, 0, 0, -1, "", ""},
      {"[1]", false, WEIR_EFORMAT, "", 0, 0, 0, -1, "", ""},
      {"{\"choices\":[{\"text\":\"a\"}]", false, WEIR_EFORMAT, "", 0, 0, 0, -1, "", ""},
      {"{\"choices\":[{\"text\":7,\"finish_reason\":9}],\"usage\":{\"completion_tokens\":\"x\"}}", false,
       WEIR_OK, "", 0, 0, 0, -1, "", ""},
      {"{\"choices\":{\"a\":1}}", false, WEIR_OK, "", 0, 0, 0, -1, "", ""},
      {"{\"choices\":[{\"text\":\"a\",\"weir\":{\"tokens\":[7,{\"tier\":3}]}}]}", false, WEIR_OK, "a", 1, 2,
       0, -1, "", ""},
      {"{\"usage\":{\"prompt_tokens\":-4,\"completion_tokens\":99999999999}}", false, WEIR_OK, "", 0, 0, 0,
       -1, "", ""},
  };
  for (size_t k = 0; k < sizeof row / sizeof *row; k++) {
    weir_openai_answer a;
    heard h = {0};
    const weir_target_events ev = {.on_piece = on_piece, .ctx = &h};
    weir_openai_answer_init(&a);
    const weir_status st = weir_openai_read(&a, row[k].json, strlen(row[k].json), row[k].whole, &ev, NULL);
    if (st != row[k].st || strcmp(h.text, row[k].text) != 0 || h.pieces != row[k].pieces ||
        h.tokens != row[k].tokens || h.large != row[k].large ||
        a.end.usage.completion_tokens != row[k].completion || strcmp(a.end.reason, row[k].reason) != 0 ||
        strcmp(a.end.what, row[k].what) != 0)
      fail_msg("row %zu: status %d text \"%s\" pieces %d tokens %d large %d completion %d reason %s what %s",
               k, st, h.text, h.pieces, h.tokens, h.large, a.end.usage.completion_tokens, a.end.reason,
               a.end.what);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_sse),          cmocka_unit_test(test_sse_bounded),  cmocka_unit_test(test_http),
      cmocka_unit_test(test_http_refused), cmocka_unit_test(test_http_mangled), cmocka_unit_test(test_openai),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
