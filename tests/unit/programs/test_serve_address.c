/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses of a server: what is understood, what is refused, who can reach it; ports in use and ports
 * chosen; the folder of its sockets, whoever was there first. */
#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
/* after the above */
#include <cmocka.h>

#include "programs/serve_address.h"

static void test_parse(void **state) {
  (void)state;
  static const struct {
    const char *text, *printed; /* NULL: refused */
    bool loopback;
    const char *near;
  } row[] = {
      {"127.0.0.1:8000", "127.0.0.1:8000", true, "127.0.0.1:8000"},
      {"127.9.8.7:1", "127.9.8.7:1", true, "127.9.8.7:1"},
      {"0.0.0.0:65535", "0.0.0.0:65535", false, "127.0.0.1:65535"},
      {":8000", "0.0.0.0:8000", false, "127.0.0.1:8000"},
      {"[::1]:80", "[::1]:80", true, "[::1]:80"},
      {"[::]:80", "[::]:80", false, "[::1]:80"},
      {"[::ffff:127.0.0.1]:80", "[::ffff:127.0.0.1]:80", true, "[::ffff:127.0.0.1]:80"},
      {"[::ffff:10.0.0.1]:80", "[::ffff:10.0.0.1]:80", false, "[::ffff:10.0.0.1]:80"},
      {"10.0.0.1:0", "10.0.0.1:0", false, "10.0.0.1:0"},
      {"localhost:8000", "localhost:8000", true, "localhost:8000"},
      {"", NULL, false, NULL},
      {"127.0.0.1", NULL, false, NULL},
      {"8000", NULL, false, NULL},
      {"127.0.0.1:", NULL, false, NULL},
      {"127.0.0.1:65536", NULL, false, NULL},
      {"127.0.0.1:-1", NULL, false, NULL},
      {"127.0.0.1:80x", NULL, false, NULL},
      {"127.0.0.1: 80", NULL, false, NULL},
      {"::1:80", NULL, false, NULL},
      {"[::1:80", NULL, false, NULL},
      {"[]:80", NULL, false, NULL},
  };
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    weir_address a;
    weir_err e = {0};
    char text[WEIR_HOST_BYTES + 16];
    const weir_status st = weir_address_parse(row[i].text, &a, &e);
    if (st != (row[i].printed ? WEIR_OK : WEIR_EINVAL)) fail_msg("\"%s\": %d %s", row[i].text, st, e.msg);
    if (!row[i].printed) continue;
    weir_address_print(&a, text, sizeof text);
    assert_string_equal(text, row[i].printed);
    if (a.loopback != row[i].loopback) fail_msg("%s: loopback %d", row[i].text, a.loopback);
    const weir_address near = weir_address_near(&a);
    weir_address_print(&near, text, sizeof text);
    assert_string_equal(text, row[i].near);
  }
}

static void test_probe(void **state) {
  (void)state;
  weir_address a, b;
  weir_err e = {0};
  char text[WEIR_HOST_BYTES + 16];
  assert_int_equal(weir_address_parse("127.0.0.1:0", &a, &e), WEIR_OK);
  if (weir_address_probe(&a, &e) != WEIR_OK) fail_msg("%s", e.msg);
  assert_true(a.port > 0);
  weir_address_print(&a, text, sizeof text);
  assert_int_equal(weir_address_parse(text, &b, &e), WEIR_OK);
  if (weir_address_probe(&b, &e) != WEIR_OK) fail_msg("%s", e.msg); /* nothing was left behind */
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  assert_true(fd >= 0);
  assert_int_equal(bind(fd, (const struct sockaddr *)&b.sock, b.sock_len), 0);
  assert_int_equal(listen(fd, 1), 0);
  assert_int_equal(weir_address_probe(&b, &e), WEIR_EIO);
  if (!strstr(e.msg, text) || !strstr(e.msg, strerror(EADDRINUSE))) fail_msg("says: %s", e.msg);
  close(fd);
  assert_int_equal(weir_address_parse("192.0.2.1:9", &a, &e), WEIR_OK); /* documentation's: not ours */
  assert_int_equal(weir_address_probe(&a, &e), WEIR_EIO);
}

static void test_rpc_urls(void **state) {
  (void)state;
  char long_path[128] = "ipc:///";
  memset(long_path + 7, 'a', 107);
  static const struct {
    const char *url;
    bool fine;
  } row[] = {
      {"ipc:///tmp/a.ipc", true},     {"ipc://a.ipc", false},       {"ipc://", false},
      {"tcp://127.0.0.1:5600", true}, {"tcp://[::1]:5600", true},   {"tcp://lo:5600", true},
      {"tcp://*:5600", true},         {"tcp://127.0.0.1:0", false}, {"tcp://127.0.0.1:65536", false},
      {"tcp://127.0.0.1", false},     {"tcp://:5600", false},       {"ws://127.0.0.1:5600", false},
      {"inproc://a", false},          {"127.0.0.1:5600", false},    {"", false},
  };
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    weir_err e = {0};
    const weir_status st = weir_rpc_url_form(row[i].url, &e);
    if (st != (row[i].fine ? WEIR_OK : WEIR_EINVAL)) fail_msg("%s: %d %s", row[i].url, st, e.msg);
  }
  weir_err e = {0};
  assert_int_equal(weir_rpc_url_form(long_path, &e), WEIR_EINVAL); /* 108 bytes of path with its slash */
  long_path[7 + 106] = '\0';
  assert_int_equal(weir_rpc_url_form(long_path, &e), WEIR_OK);
}

static void test_folder(void **state) {
  (void)state;
  char dir[] = "/tmp/weir-test-XXXXXX", want[128], url[WEIR_URL_BYTES], sub[64], elsewhere[64], long_dir[200];
  struct stat is;
  weir_err e = {0};
  assert_non_null(mkdtemp(dir));
  snprintf(sub, sizeof sub, "%s/weir", dir);
  snprintf(want, sizeof want, "ipc://%s/weir/a.ipc", dir);
  snprintf(elsewhere, sizeof elsewhere, "%s/other", dir);
  for (int again = 0; again < 2; again++) {
    if (weir_rpc_default_url(dir, "a.ipc", url, sizeof url, &e) != WEIR_OK) fail_msg("%s", e.msg);
    assert_string_equal(url, want);
    assert_int_equal(lstat(sub, &is), 0);
    assert_int_equal(is.st_mode & 0777, 0700);
  }
  assert_int_equal(chmod(sub, 0750), 0); /* others may look in */
  assert_int_equal(weir_rpc_default_url(dir, "a.ipc", url, sizeof url, &e), WEIR_EIO);
  assert_int_equal(rmdir(sub), 0);
  assert_int_equal(mkdir(elsewhere, 0700), 0); /* a link, even to a folder that would do */
  assert_int_equal(symlink(elsewhere, sub), 0);
  assert_int_equal(weir_rpc_default_url(dir, "a.ipc", url, sizeof url, &e), WEIR_EIO);
  assert_int_equal(unlink(sub), 0);
  assert_int_equal(rmdir(elsewhere), 0);
  memset(long_dir, 'a', sizeof long_dir - 1);
  long_dir[0] = '/';
  long_dir[sizeof long_dir - 1] = '\0';
  assert_int_equal(weir_rpc_default_url(long_dir, "a.ipc", url, sizeof url, &e), WEIR_EINVAL);
  assert_int_equal(rmdir(dir), 0);
  assert_int_equal(weir_rpc_default_url(dir, "a.ipc", url, sizeof url, &e), WEIR_EIO); /* not there at all */
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_parse),
      cmocka_unit_test(test_probe),
      cmocka_unit_test(test_rpc_urls),
      cmocka_unit_test(test_folder),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
