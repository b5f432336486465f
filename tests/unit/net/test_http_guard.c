/* SPDX-License-Identifier: Apache-2.0 */
/* The guard: what it makes of requests, fed whole and byte by byte; what it refuses, and with which code. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "net/http_guard.h"

static const weir_http_limits limits = {.max_head_bytes = 512, .max_body_bytes = 64, .max_headers = 8};

/* Feeds in pieces of `step` bytes; *used: all that was taken. */
static weir_http_verdict feed(weir_http_guard *g, const char *p, size_t n, size_t step, size_t *used) {
  weir_http_verdict v = WEIR_HTTP_MORE;
  *used = 0;
  while (*used < n && v == WEIR_HTTP_MORE) {
    size_t got, left = n - *used;
    v = weir_http_guard_feed(g, p + *used, left < step ? left : step, &got);
    *used += got;
    if (v == WEIR_HTTP_MORE) assert_true(got == (left < step ? left : step));
  }
  return v;
}

#define H "Host: a\r\n"

static const struct {
  const char *in, *head, *body;
} good[] = {
    {"GET / HTTP/1.1\r\n" H "\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", ""},
    {"\r\nGET /x?y=1 HTTP/1.1\r\n" H "\r\n", "GET /x?y=1 HTTP/1.1\r\nHost: a\r\n\r\n", ""},
    {"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "GET / HTTP/1.0\r\nConnection: close\r\n\r\n", ""},
    {"GET / HTTP/1.1\r\nhost:a:80\r\nConnection: x , Close\r\n\r\n",
     "GET / HTTP/1.1\r\nhost: a:80\r\nConnection: close\r\n\r\n", ""},
    {"GET http://a/b HTTP/1.1\r\n" H "\r\n", "GET /b HTTP/1.1\r\nHost: a\r\n\r\n", ""},
    {"GET http://a HTTP/1.1\r\n" H "\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", ""},
    {"GET //evil/x HTTP/1.1\r\n" H "\r\n", "GET /evil/x HTTP/1.1\r\nHost: a\r\n\r\n", ""},
    {"OPTIONS * HTTP/1.1\r\n" H "\r\n", "OPTIONS / HTTP/1.1\r\nHost: a\r\n\r\n", ""},
    {"POST / HTTP/1.1\r\n" H "Content-Length: 3\r\nA: b  \r\n\r\nxyz",
     "POST / HTTP/1.1\r\nHost: a\r\nA: b\r\nContent-Length: 3\r\n\r\n", "xyz"},
    {"POST / HTTP/1.1\r\n" H "\r\n", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", ""},
    {"POST / HTTP/1.1\r\n" H
     "Transfer-Encoding: Chunked\r\n\r\n3;a=b\r\nxyz\r\n0A\r\n0123456789\r\n0\r\nT: t\r\n\r\n",
     "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 13\r\n\r\n", "xyz0123456789"},
    /* a body that the method has no use for is read and dropped */
    {"GET / HTTP/1.1\r\n" H "Content-Length: 3\r\n\r\nxyz", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", ""},
    {"POST / HTTP/1.1\r\n" H "Expect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
     "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n", "x"},
};

static void passes(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof good / sizeof *good; i++)
    for (size_t step = 1; step < 200; step += 66) {
      char in[1024];
      size_t used;
      weir_http_guard g;
      weir_http_guard_init(&g, &limits);
      /* what follows is left alone */
      snprintf(in, sizeof in, "%sGET", good[i].in);
      const weir_http_verdict v = feed(&g, in, strlen(in), step, &used);
      if (v != WEIR_HTTP_WHOLE) fail_msg("%s: %d %s", good[i].in, g.code, g.message ? g.message : "");
      assert_int_equal(used, strlen(good[i].in));
      assert_string_equal(g.head.data, good[i].head);
      assert_int_equal(g.body.len, strlen(good[i].body));
      if (g.body.len) assert_memory_equal(g.body.data, good[i].body, g.body.len);
      weir_http_guard_reset(&g);
      assert_false(g.began);
      assert_int_equal(feed(&g, good[0].in, strlen(good[0].in), step, &used), WEIR_HTTP_WHOLE);
      weir_http_guard_fini(&g);
    }
}

#define POST "POST / HTTP/1.1\r\n" H
#define X64  "0123456789012345678901234567890123456789012345678901234567890123"

static const struct {
  int code;
  const char *in, *says;
} bad[] = {
    {400, "GET / HTTP/1.1\nHost: a\n\n", "CR LF"},
    {400, "GET / HTTP/1.1\r\nHost: a\n\r\n", "CR LF"},
    {400, "GET / HTTP/1.1\r\nHost: a\r\n\n", "CR LF"},
    {400, "GET / HTTP/1.1\r\nA: b\rc\r\n", "control"},
    {400, "GET / HTTP/1.1\r\n\r\n", "no Host"},
    {400, "GET / HTTP/1.1\r\n" H H "\r\n", "more than one Host"},
    {400, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "malformed Host"},
    {400, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "malformed Host"},
    {400, "GET / HTTP/1.1\r\nHost : a\r\n\r\n", "malformed header"},
    {400, "GET / HTTP/1.1\r\n" H " folded\r\n\r\n", "malformed header"},
    {400, "GET / HTTP/1.1\r\n" H "noc\r\n\r\n", "malformed header"},
    {400, "GET / HTTP/1.1\r\n" H ": x\r\n\r\n", "malformed header"},
    {400, "GET / HTTP/1.1\r\n" H "A: \x01\r\n\r\n", "malformed header"},
    {400, "GET  / HTTP/1.1\r\n", "malformed"},
    {400, "GET /a b HTTP/1.1\r\n", "malformed HTTP version"},
    {400, "GET /\x80 HTTP/1.1\r\n", "malformed request target"},
    {400, "GET x HTTP/1.1\r\n", "malformed request target"},
    {400, "GET * HTTP/1.1\r\n", "malformed request target"},
    {400, "GET /\r\n", "malformed request line"},
    {400, "\r\n\r\nGET / HTTP/1.1\r\n", "malformed request line"},
    {400, "G@T / HTTP/1.1\r\n", "malformed request line"},
    {400, "GET / HTTP/11\r\n", "version"},
    {400, "GET / http/1.1\r\n", "version"},
    {505, "GET / HTTP/2.0\r\n", "HTTP/1.1"},
    {405, "get / HTTP/1.1\r\n", "method"},
    {405, "BREW / HTTP/1.1\r\n", "method"},
    {405, "TRACE / HTTP/1.1\r\n", "method"},
    {405, "CONNECT a:80 HTTP/1.1\r\n", "method"},
    {400, POST "Content-Length: 3\r\nContent-Length: 3\r\n\r\n", "more than one Content-Length"},
    {400, POST "Content-Length: 3, 3\r\n\r\n", "malformed Content-Length"},
    {400, POST "Content-Length: -3\r\n\r\n", "malformed Content-Length"},
    {400, POST "Content-Length: +3\r\n\r\n", "malformed Content-Length"},
    {400, POST "Content-Length: 0x3\r\n\r\n", "malformed Content-Length"},
    {400, POST "Content-Length:\r\n\r\n", "malformed Content-Length"},
    {413, POST "Content-Length: 65\r\n\r\n", "body too large"},
    {413, POST "Content-Length: 99999999999999999999999\r\n\r\n", "body too large"},
    {400, POST "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", "Content-Length with"},
    {400, POST "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", "Content-Length with"},
    {400, POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", "more than one Transfer"},
    {400, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.0"},
    {501, POST "Transfer-Encoding: gzip, chunked\r\n\r\n", "transfer coding"},
    {501, POST "Transfer-Encoding: identity\r\n\r\n", "transfer coding"},
    {417, POST "Expect: a-miracle\r\n\r\n", "100-continue"},
    {400, POST "Transfer-Encoding: chunked\r\n\r\n\r\n", "malformed chunk"},
    {400, POST "Transfer-Encoding: chunked\r\n\r\n3\nxyz", "CR LF"},
    {400, POST "Transfer-Encoding: chunked\r\n\r\n3 \r\n", "malformed chunk"},
    {400, POST "Transfer-Encoding: chunked\r\n\r\n-1\r\n", "malformed chunk"},
    {400, POST "Transfer-Encoding: chunked\r\n\r\n0x3\r\n", "malformed chunk"},
    {400, POST "Transfer-Encoding: chunked\r\n\r\n3\r\nxyzz\r\n", "malformed chunk"},
    {400, POST "Transfer-Encoding: chunked\r\n\r\n3\r\nxyz\n", "malformed chunk"},
    {400, POST "Transfer-Encoding: chunked\r\n\r\n0\r\nbad trailer\r\n", "malformed trailer"},
    {413, POST "Transfer-Encoding: chunked\r\n\r\n41\r\n", "body too large"},
    {413, POST "Transfer-Encoding: chunked\r\n\r\n40\r\n" X64 "\r\n1\r\n", "body too large"},
    {413, POST "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", "body too large"},
    {413, POST "Transfer-Encoding: chunked\r\n\r\n0000000000000000001\r\n", "body too large"},
    {400, POST "Transfer-Encoding: chunked\r\n\r\n1;" X64 X64 X64 X64, "malformed chunk"},
    {431, "GET / HTTP/1.1\r\nA:1\r\nA:1\r\nA:1\r\nA:1\r\nA:1\r\nA:1\r\nA:1\r\nA:1\r\nA:1\r\n", "too many"},
    {431, "GET / HTTP/1.1\r\nA: " X64 X64 X64 X64 X64 X64 X64 X64, "too large"},
    {414, "GET /" X64 X64 X64 X64 X64 X64 X64 X64, "too long"},
};

static void refuses(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    for (size_t step = 1; step < 1000; step += 333) {
      size_t used;
      weir_http_guard g;
      weir_http_guard_init(&g, &limits);
      const weir_http_verdict v = feed(&g, bad[i].in, strlen(bad[i].in), step, &used);
      if (v != WEIR_HTTP_REFUSED || g.code != bad[i].code || !strstr(g.message, bad[i].says))
        fail_msg("row %zu, %s: verdict %d, %d %s", i, bad[i].in, v, g.code, g.message ? g.message : "");
      assert_int_equal(weir_http_guard_feed(&g, "x", 1, &used), WEIR_HTTP_REFUSED);
      weir_http_guard_fini(&g);
    }
}

static void nul_is_refused(void **state) {
  (void)state;
  static const char in[] = "GET / HTTP/1.1\r\nA: b\0c\r\n";
  size_t used;
  weir_http_guard g;
  weir_http_guard_init(&g, &limits);
  assert_int_equal(feed(&g, in, sizeof in - 1, 7, &used), WEIR_HTTP_REFUSED);
  assert_int_equal(g.code, 400);
  weir_http_guard_fini(&g);
}

static void asks_to_continue(void **state) {
  (void)state;
  static const char in[] = POST "Expect: 100-continue\r\nContent-Length: 1\r\n\r\n";
  size_t used;
  weir_http_guard g;
  weir_http_guard_init(&g, &limits);
  assert_int_equal(feed(&g, in, sizeof in - 1, 9, &used), WEIR_HTTP_MORE);
  assert_true(g.wants_continue && weir_http_guard_in_body(&g));
  assert_int_equal(feed(&g, "x", 1, 1, &used), WEIR_HTTP_WHOLE);
  assert_false(g.wants_continue);
  weir_http_guard_fini(&g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(passes),
      cmocka_unit_test(refuses),
      cmocka_unit_test(nul_is_refused),
      cmocka_unit_test(asks_to_continue),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
