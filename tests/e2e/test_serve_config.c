/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration of `weir serve`: where values come from, what is refused, and that docs/config.md is what
 * the program prints. No server runs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* after the above */
#include <cmocka.h>

#include "e2e.h"

static void test_documented(void **state) {
  (void)state;
  char *page = e2e_read("docs/config.md");
  e2e_result r = e2e("serve --print-config");
  e2e_want_status(&r, 0, "--print-config");
  if (!strstr(page, r.out))
    fail_msg("docs/config.md is not what --print-config prints: tools/config_doc.sh writes it");
  e2e_free(&r);
  free(page);
}

static void test_sources(void **state) {
  (void)state;
  static const char yaml[] = "entropy: 0.3\nmax-active: 5\nmax-requests: 50\ntoken: of-the-file\n";
  static const char *const env[] = {"WEIR_MAX_ACTIVE=6", "WEIR_MAX_REQUESTS=60",
                                    "WEIR_API_KEY=of-the-environment", NULL};
  const char *path = e2e_temp("sources.yaml");
  char line[512], want[512];
  e2e_write(path, yaml, strlen(yaml));
  snprintf(line, sizeof line, "serve -c %s --max-requests 70 --print-config", path);
  e2e_result r = e2e_run(&(e2e_run_opts){.line = line, .env = env});
  e2e_want_status(&r, 0, line);
  snprintf(want, sizeof want, "\nentropy: 0.3  # %s:1\n", path);
  e2e_want_in(r.out, want, "of the file");
  e2e_want_in(r.out, "\nmax-active: 6  # WEIR_MAX_ACTIVE in the environment\n", "of the environment");
  e2e_want_in(r.out, "\nmax-requests: 70  # command line\n", "of the command line");
  e2e_want_in(r.out, "\n#max-tokens: 0\n", "a default");
  snprintf(want, sizeof want, "\n#token: (set)  # %s:4\n", path);
  e2e_want_in(r.out, want, "a secret");
  e2e_want_in(r.out, "\n#api-key: (set)  # WEIR_API_KEY in the environment\n", "a secret");
  assert_null(strstr(r.out, "of-the-file"));
  assert_null(strstr(r.out, "of-the-environment"));

  /* what was printed sets the same again */
  const char *again = e2e_temp("again.yaml");
  e2e_write(again, r.out, r.out_len);
  e2e_result second = e2e("serve --config %s --print-config", again);
  e2e_want_status(&second, 0, "what was printed, read");
  e2e_want_in(second.out, "\nentropy: 0.3  # ", "read again");
  e2e_want_in(second.out, "\nmax-active: 6  # ", "read again");
  e2e_want_in(second.out, "\nmax-requests: 70  # ", "read again");
  e2e_free(&second);
  e2e_free(&r);
}

static void test_refused(void **state) {
  (void)state;
  static const struct {
    const char *yaml, *says;
  } row[] = {
      {"max-activ: 3\n", "did you mean max-active?"},
      {"lissten: 127.0.0.1:1\n", "did you mean listen?"},
      {"zzzzzzzzzz: 1\n", "zzzzzzzzzz is not an option"},
      {"max-active: 0\n", "out of range, want 1 .. 256"},
      {"max-active: many\n", "not a whole number"},
      {"max-active: [1, 2]\n", "takes one value"},
      {"max-active: 1\nmax-active: 2\n", "given twice"},
      {"prefix-cache: 1.5\n", "out of range"},
      {"log-format: xml\n", "text|json"},
      {"print-config: true\n", "cannot stand in a file"},
      {"listen:\n", "has no value"},
      {"- listen\n", "key: value"},
      {"listen: {a: b}\n", "only single values"},
  };
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    char name[32], where[400];
    snprintf(name, sizeof name, "bad%zu.yaml", i);
    const char *path = e2e_temp(name);
    e2e_write(path, row[i].yaml, strlen(row[i].yaml));
    e2e_result r = e2e("serve -c %s --print-config", path);
    e2e_want_status(&r, 2, row[i].yaml);
    e2e_want_in(r.err, row[i].says, row[i].yaml);
    snprintf(where, sizeof where, "%s:", path); /* and in which line */
    e2e_want_in(r.err, where, row[i].yaml);
    e2e_free(&r);
  }
}

/* The files that come with weir can be read, by serve too where they are of other commands. */
static void test_shipped(void **state) {
  (void)state;
  static const char *const file[] = {"configs/demo.yaml", "configs/tasks.yaml", "configs/rollback.yaml",
                                     "configs/lossless.yaml", "configs/sharded.yaml"};
  for (size_t i = 0; i < sizeof file / sizeof *file; i++) {
    e2e_result r = e2e("serve -c %s --print-config", file[i]);
    e2e_want_status(&r, 0, file[i]);
    e2e_want_in(r.out, file[i], file[i]);
    e2e_free(&r);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_documented),
      cmocka_unit_test(test_sources),
      cmocka_unit_test(test_refused),
      cmocka_unit_test(test_shipped),
  };
  return cmocka_run_group_tests(tests, NULL, e2e_cleanup);
}
