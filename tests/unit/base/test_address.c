/* SPDX-License-Identifier: Apache-2.0 */
/* Which addresses only this machine reaches, and secrets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/address.h"
#include "base/secret.h"

static void test_loopback(void **state) {
  static const struct {
    const char *address;
    bool loopback;
  } row[] = {
      {"127.0.0.1:80", true},
      {"127.1.2.3:80", true},
      {"localhost:80", true},
      {"lo:80", true},
      {"[::1]:80", true},
      {"0.0.0.0:80", false},
      {"*:80", false},
      {"[::]:80", false},
      {"10.0.0.1:80", false},
      {"127.evil.org:80", false},
      {"localhost.org:80", false},
      {"lo1:80", false},
      {"[::1]x:80", false},
      {"127.0.0.1", false},
      {"", false},
      {"1127.0.0.1:80", false},
      {"[::ffff:127.0.0.1]:80", false},
  };
  (void)state;
  for (size_t i = 0; i < sizeof row / sizeof *row; i++)
    if (weir_address_is_loopback(row[i].address) != row[i].loopback) fail_msg("%s", row[i].address);
}

static void test_equal(void **state) {
  static const struct {
    const char *secret, *given;
    bool equal;
  } row[] = {{"secret", "secret", true},
             {"secret", "secre", false},
             {"secret", "secrets", false},
             {"secret", "Secret", false},
             {"secret", "secreT", false},
             {"secret", "", false},
             {"", "", true},
             {"", "x", false}};
  (void)state;
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    const bool got =
        weir_secret_equal(row[i].secret, strlen(row[i].secret), row[i].given, strlen(row[i].given));
    if (got != row[i].equal) fail_msg("\"%s\" and \"%s\"", row[i].secret, row[i].given);
  }
  assert_false(weir_secret_equal("a\0b", 3, "a\0c", 3));
}

static void test_draw(void **state) {
  enum { N = 1000 };
  uint8_t a[N] = {0}, b[N] = {0};
  int count[256] = {0};
  (void)state;
  assert_int_equal(weir_secret_draw(a, N, NULL), WEIR_OK);
  assert_int_equal(weir_secret_draw(b, N, NULL), WEIR_OK);
  assert_memory_not_equal(a, b, N);
  for (int i = 0; i < N; i++) count[a[i]]++;
  for (int i = 0; i < 256; i++) assert_true(count[i] < 40); /* of 4 that are to be expected */
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_loopback), cmocka_unit_test(test_equal),
                                     cmocka_unit_test(test_draw)};
  return cmocka_run_group_tests_name("address", tests, NULL, NULL);
}
