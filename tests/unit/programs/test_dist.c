/* SPDX-License-Identifier: Apache-2.0 */
/* Options of several processes: the token's file, shares of ranks, addresses that are this machine's alone
 * and names that nobody knows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
/* after the above */
#include <cmocka.h>

#include "programs/dist.h"

#define ANY 0, 0, NULL
#define TP  "Tensor parallelism"
static const weir_option table[] = {
    {"large-tp", 0, WEIR_OPT_INT, 1, TP, "N", "1", 1, 64, NULL, NULL, false, "N."},
    {"nnodes", 0, WEIR_OPT_INT, 1, TP, "N", "1", 1, 64, NULL, NULL, false, "N."},
    {"node-rank", 0, WEIR_OPT_INT, 1, TP, "K", "0", 0, 63, NULL, NULL, false, "K."},
    {"dist-init-addr", 0, WEIR_OPT_STRING, 1, TP, "A", NULL, ANY, NULL, false, "A."},
    {"dist-host", 0, WEIR_OPT_STRING, 1, TP, "H", NULL, ANY, NULL, false, "H."},
    {"dist-token-file", 0, WEIR_OPT_STRING, 1, TP, "F", NULL, ANY, NULL, false, "F."},
    {"launcher", 0, WEIR_OPT_ENUM, 1, TP, NULL, "none", 0, 0, "none|auto", NULL, false, "L."},
};
enum { ARGS = 12 };

static char token_path[64];

static weir_status read_with(const char *const *args, weir_dist *d, weir_err *e) {
  weir_config *c = NULL;
  int argc = 0;
  while (argc < ARGS && args[argc]) argc++;
  *e = (weir_err){0};
  assert_int_equal(weir_config_create(table, sizeof table / sizeof *table, 1, &c, e), WEIR_OK);
  if (weir_config_read_args(c, argc, (char *const *)args, e) != WEIR_OK) fail_msg("%s", e->msg);
  const weir_status st = weir_dist_read(c, d, e);
  weir_config_destroy(c);
  return st;
}

static void test_token(void **state) {
  (void)state;
  char longest[WEIR_DIST_TOKEN_BYTES + 2];
  memset(longest, 'x', sizeof longest);
  longest[WEIR_DIST_TOKEN_BYTES - 1] = '\0';
  const struct {
    const char *file, *want; /* NULL: refused */
    const char *says;
  } c[] = {
      {"secret\n", "secret", NULL},
      {"secret", "secret", NULL},
      {"two words\r\nand more\n", "two words", NULL},
      {longest, longest, NULL},
      {"", NULL, "no token in its first line"},
      {"\nsecret\n", NULL, "no token in its first line"},
      {"y", "y", NULL},
  };
  const char *const args[] = {
      "--nnodes", "2", "--dist-init-addr", "h:1", "--large-tp", "2", "--dist-token-file", token_path, NULL};
  weir_dist d;
  weir_err e;
  for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
    FILE *f = fopen(token_path, "w");
    assert_non_null(f);
    fputs(c[i].file, f);
    assert_int_equal(fclose(f), 0);
    const weir_status st = read_with(args, &d, &e);
    if ((st == WEIR_OK) != (c[i].want != NULL)) fail_msg("case %zu: %d, %s", i, st, e.msg);
    if (c[i].want) assert_string_equal(d.token, c[i].want);
    if (c[i].says && !strstr(e.msg, c[i].says)) fail_msg("case %zu: %s", i, e.msg);
    weir_dist_fini(&d);
    assert_string_equal(d.token, "");
  }
  longest[WEIR_DIST_TOKEN_BYTES - 1] = 'x';
  longest[WEIR_DIST_TOKEN_BYTES] = '\0';
  FILE *f = fopen(token_path, "w");
  fputs(longest, f);
  fclose(f);
  assert_int_equal(read_with(args, &d, &e), WEIR_EINVAL);
  assert_string_equal(d.token, "");
  unlink(token_path);
  assert_int_equal(read_with(args, &d, &e), WEIR_EIO);
}

static void test_shares(void **state) {
  (void)state;
  static const char *const odd[] = {"--nnodes", "2", "--dist-init-addr", "h:1", "--large-tp", "3", NULL};
  static const char *const one[] = {"--large-tp", "3", "--dist-token-file", "/nowhere", NULL};
  weir_dist d;
  weir_err e;
  assert_int_equal(read_with(odd, &d, &e), WEIR_EINVAL);
  assert_string_equal(e.msg, "--large-tp 3 over 2 processes: want as many ranks on each");
  assert_int_equal(read_with(one, &d, &e), WEIR_OK); /* nobody else: no token is looked for */
  assert_int_equal(d.launch.n_nodes, 1);
  assert_int_equal(d.cores_n_local, 1);
}

static bool at_once(void *ctx) {
  ++*(int *)ctx;
  return true;
}

static void test_find(void **state) {
  (void)state;
  static const struct {
    const char *addr, *node, *host;
    const char *want_host;
  } c[] = {
      {"127.0.0.1:7000", "0", NULL, ""}, /* what is loopback to all stays it */
      {"127.0.0.1:7000", "1", NULL, ""},
      {"localhost:7000", "1", NULL, ""},
      {"[::1]:7000", "1", NULL, ""},
      {"ipc:///run/x", "1", NULL, ""},
      {"127.0.0.1:7000", "1", "elsewhere", "elsewhere"},
  };
  weir_err e;
  weir_dist d;
  int asked = 0;
  for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
    const char *const args[] = {"--nnodes",    "2",          "--dist-init-addr",
                                c[i].addr,     "--large-tp", "2",
                                "--node-rank", c[i].node,    c[i].host ? "--dist-host" : NULL,
                                c[i].host,     NULL};
    if (read_with(args, &d, &e) != WEIR_OK) fail_msg("%s: %s", c[i].addr, e.msg);
    assert_int_equal(weir_dist_find(&d, NULL, NULL, &e), WEIR_OK);
    assert_string_equal(d.listen, c[i].addr);
    assert_string_equal(d.host, c[i].want_host);
  }
  /* RFC 6761: no such name ever */
  const char *const unknown[] = {"--nnodes",   "2", "--dist-init-addr", "nobody.invalid:7000",
                                 "--large-tp", "2", "--node-rank",      "1",
                                 NULL};
  assert_int_equal(read_with(unknown, &d, &e), WEIR_OK);
  assert_int_equal(weir_dist_find(&d, at_once, &asked, &e), WEIR_ECANCEL);
  assert_int_equal(asked, 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_token),
      cmocka_unit_test(test_shares),
      cmocka_unit_test(test_find),
  };
  snprintf(token_path, sizeof token_path, "/tmp/weir-token-%d", (int)getpid());
  return cmocka_run_group_tests(tests, NULL, NULL);
}
