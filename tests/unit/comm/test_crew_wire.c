/* SPDX-License-Identifier: Apache-2.0 */
/* Frames and streams of a crew: bytes that are lost, doubled and late on the way; what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "comm/crew_wire.h"
#include "crew_box.h"

static uint32_t next(uint32_t *x) { /* xorshift */
  *x ^= *x << 13;
  *x ^= *x >> 17;
  *x ^= *x << 5;
  return *x;
}

/* ---- streams ---- */

typedef struct heard {
  int n, wrong;
} heard;

static size_t size_of(int i) { return (size_t)i * 2654435761u % 700; }

static void on_message(void *ctx, const void *data, size_t bytes) {
  heard *h = ctx;
  bool right = bytes == size_of(h->n);
  for (size_t i = 0; right && i < bytes; i++) right = ((const uint8_t *)data)[i] == box_byte(h->n, i);
  h->wrong += !right;
  h->n++;
}

/* Parts of any length, some of which get lost, come twice, or come again long after. */
static void test_stream(void **state) {
  enum { N = 3000, PART = 1000 };
  static uint8_t part[PART], old[PART], data[700];
  uint32_t seed = 88172645;
  (void)state;
  crew_out out = {0};
  crew_in in = {0};
  heard h = {0};
  weir_err e = {0};
  uint64_t old_at = 0;
  size_t old_bytes = 0;
  for (int sent = 0; sent < N || out.taken < out.end;) {
    for (uint32_t k = next(&seed) % 8; k > 0 && sent < N; k--, sent++) {
      box_fill(data, sent, size_of(sent));
      assert_int_equal(crew_out_put(&out, data, size_of(sent), &e), WEIR_OK);
    }
    const size_t n = crew_out_copy(&out, part, 1 + next(&seed) % PART);
    const uint32_t fate = next(&seed) % 8;
    if (fate == 0) continue; /* lost */
    if (fate == 1) {
      memcpy(old, part, n);
      old_at = out.taken;
      old_bytes = n;
    }
    for (uint32_t k = 0; k <= (fate == 2); k++)
      assert_int_equal(crew_in_take(&in, out.taken, part, n, on_message, &h, &e), WEIR_OK);
    if (fate == 3) assert_int_equal(crew_in_take(&in, old_at, old, old_bytes, on_message, &h, &e), WEIR_OK);
    if (fate > 4) assert_true(crew_out_take(&out, in.at)); /* else the answer is lost */
  }
  assert_int_equal(h.n, N);
  assert_int_equal(h.wrong, 0);
  assert_false(crew_out_take(&out, out.end + 1));
  assert_false(crew_out_take(&out, out.end - 1));
  assert_int_equal(crew_in_take(&in, in.at + 1, "x", 1, on_message, &h, &e), WEIR_EFORMAT);
  crew_in_fini(&in);
  crew_out_fini(&out);
}

static void test_limits(void **state) {
  (void)state;
  crew_out out = {0};
  crew_in in = {0};
  heard h = {0};
  weir_err e = {0};
  const size_t large = 63 << 20;
  uint8_t *data = calloc(1, large);
  assert_non_null(data);
  for (int i = 0; i < 4; i++) assert_int_equal(crew_out_put(&out, data, large, &e), WEIR_OK);
  assert_int_equal(crew_out_put(&out, data, large, &e), WEIR_EBUSY);
  assert_true(crew_out_take(&out, large + 4));
  assert_int_equal(crew_out_put(&out, data, large, &e), WEIR_OK); /* there is room again */
  crew_out_fini(&out);
  free(data);
  assert_int_equal(crew_in_take(&in, 0, "\x01\0\0\x04", 4, on_message, &h, &e), WEIR_EFORMAT);
  assert_non_null(strstr(e.msg, "a message of 67108865 bytes"));
  crew_in_fini(&in);
  assert_int_equal(crew_in_take(&in, 0, "\0\0\0\x04x", 5, on_message, &h, &e), WEIR_OK);
  assert_true(in.msg.cap < 1000); /* what is announced costs nothing */
  crew_in_fini(&in);
  assert_int_equal(h.n, 0);
}

/* ---- frames ---- */

static void test_frames(void **state) {
  uint8_t b[CREW_HEAD_BYTES + 4] = {0};
  weir_err e = {0};
  (void)state;
  for (int kind = 0; kind < 256; kind++) {
    const crew_frame f = {.kind = (crew_kind)kind,
                          .node = 63,
                          .link = UINT64_MAX,
                          .turn = 1,
                          .at = (uint64_t)1 << 40,
                          .beat = 77};
    crew_frame again;
    crew_frame_head(&f, b);
    const bool known = (kind >= CREW_HELLO && kind <= CREW_LAST_REQUEST) ||
                       (kind >= CREW_WELCOME && kind <= CREW_LAST_ANSWER);
    assert_int_equal(crew_frame_parse(b, sizeof b, &again, &e), known ? WEIR_OK : WEIR_EFORMAT);
    if (!known) continue;
    assert_int_equal(again.kind, kind);
    assert_int_equal(again.node, 63);
    assert_true(again.link == f.link && again.turn == 1 && again.at == f.at && again.beat == 77);
    assert_int_equal(again.bytes, 4);
    for (size_t n = 0; n < CREW_HEAD_BYTES; n++)
      assert_int_equal(crew_frame_parse(b, n, &again, &e), WEIR_EFORMAT);
    b[4]++;
    assert_int_equal(crew_frame_parse(b, sizeof b, &again, &e), WEIR_EUNSUP);
    b[0] = 'X';
    assert_int_equal(crew_frame_parse(b, sizeof b, &again, &e), WEIR_EFORMAT);
  }
}

static void test_hello(void **state) {
  uint8_t b[CREW_HELLO_BYTES], shorter[CREW_HELLO_BYTES];
  crew_hello h = {.incarnation = 1, .bound_ns = 5, .n_nodes = 4, .pid = 4711, .host = "gpu\t17"}, again;
  weir_err e = {0};
  (void)state;
  memset(h.token, 't', WEIR_CREW_MAX_TEXT);
  memset(h.version, 'v', WEIR_CREW_MAX_TEXT);
  const size_t n = crew_hello_put(&h, b);
  assert_true(n <= sizeof b);
  assert_int_equal(crew_hello_parse(b, n, &again, &e), WEIR_OK);
  assert_string_equal(again.host, "gpu?17");
  assert_string_equal(again.token, h.token);
  assert_string_equal(again.version, h.version);
  assert_true(again.incarnation == 1 && again.bound_ns == 5 && again.n_nodes == 4 && again.pid == 4711);
  for (size_t k = 0; k < n; k++) {
    memcpy(shorter, b, k);
    assert_int_equal(crew_hello_parse(shorter, k, &again, &e), WEIR_EFORMAT);
  }
  b[15] |= 0x80; /* a bound below zero */
  assert_int_equal(crew_hello_parse(b, n, &again, &e), WEIR_EFORMAT);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_stream), cmocka_unit_test(test_limits),
                                     cmocka_unit_test(test_frames), cmocka_unit_test(test_hello)};
  return cmocka_run_group_tests_name("crew_wire", tests, NULL, NULL);
}
