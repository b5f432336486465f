/* SPDX-License-Identifier: Apache-2.0 */
/* The log of a reply: what was appended is there, also for a reader that looks at the same time; memory is
 * counted and given back. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "serve/reply_log.h"

enum { N = 3000 };

/* Token i: its text has i % 7 bytes, some have thousands; i % 4 likeliest ids. */
static int32_t text_of(int32_t i, char *text) {
  const int32_t len = i % 500 == 499 ? 5000 : i % 7;
  for (int32_t k = 0; k < len; k++) text[k] = (char)('a' + (i + k) % 26);
  return len;
}

static weir_status append(weir_reply_log *l, int32_t i, weir_err *e) {
  char text[5000];
  weir_top top[4];
  const int32_t len = text_of(i, text);
  for (int32_t k = 0; k < i % 4; k++) top[k] = (weir_top){i + k, -(float)k};
  return weir_reply_log_append(l, &(weir_token_receipt){.id = i, .tier = i % 2}, text, (size_t)len, top,
                               i % 4, e);
}

static bool is_right(const weir_reply_token *t, int32_t i) {
  char text[5000];
  const int32_t len = text_of(i, text);
  bool right = t->receipt.id == i && t->receipt.tier == i % 2 && (int32_t)t->len == len &&
               memcmp(t->text, text, (size_t)len) == 0 && t->n_top == i % 4;
  for (int32_t k = 0; right && k < t->n_top; k++)
    right = t->top[k].id == i + k && t->top[k].logprob == -(float)k;
  return right;
}

static void *read_along(void *ctx) {
  const weir_reply_log *l = ctx;
  int32_t seen = 0;
  while (seen < N)
    for (const int32_t n = weir_reply_log_n(l); seen < n; seen++)
      if (!is_right(weir_reply_log_at(l, seen), seen)) return (void *)"a token is wrong";
  return NULL;
}

static void test_written_and_read(void **state) {
  (void)state;
  weir_reply_log l;
  weir_err e = {0};
  _Atomic int64_t bytes = 0;
  pthread_t reader;
  void *wrong;
  assert_int_equal(weir_reply_log_init(&l, N, &bytes, &e), WEIR_OK);
  assert_int_equal(pthread_create(&reader, NULL, read_along, &l), 0);
  for (int32_t i = 0; i < N; i++)
    if (append(&l, i, &e) != WEIR_OK) fail_msg("%s", e.msg);
  pthread_join(reader, &wrong);
  if (wrong) fail_msg("%s", (const char *)wrong);
  for (int32_t i = 0; i < N; i++) assert_true(is_right(weir_reply_log_at(&l, i), i));
  /* full: nothing is appended */
  assert_int_equal(append(&l, N, &e), WEIR_ENOMEM);
  assert_int_equal(weir_reply_log_n(&l), N);
  assert_true(atomic_load(&bytes) > N * (int64_t)sizeof(weir_reply_token));
  weir_reply_log_fini(&l);
  assert_int_equal(atomic_load(&bytes), 0);
}

/* A log that nothing was written to costs its directory alone. */
static void test_empty(void **state) {
  (void)state;
  weir_reply_log l;
  weir_err e = {0};
  _Atomic int64_t bytes = 0;
  assert_int_equal(weir_reply_log_init(&l, 1 << 20, &bytes, &e), WEIR_OK);
  assert_int_equal(weir_reply_log_n(&l), 0);
  assert_int_equal(atomic_load(&bytes), (1 << 20) / WEIR_REPLY_BLOCK * (int64_t)sizeof(void *));
  weir_reply_log_fini(&l);
  weir_reply_log_fini(&l); /* zeroed is fine */
  assert_int_equal(atomic_load(&bytes), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_written_and_read), cmocka_unit_test(test_empty)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
