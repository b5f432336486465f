/* SPDX-License-Identifier: Apache-2.0 */
/* Options: precedence of file, environment and command line; what is refused, and that the message says what
 * and where; the YAML subset; the help. Environment and files are given from memory. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* after the above */
#include <cmocka.h>

#include "base/config.h"

enum { RUN = 1, EVAL = 2 };

static const weir_option table[] = {
    {"prompt", 'p', WEIR_OPT_STRINGS, RUN, "Input", "TEXT", NULL, 0, 0, NULL, "", true, "A prompt."},
    {"mode", 'm', WEIR_OPT_ENUM, RUN | EVAL, "Cascade", NULL, "defer", 0, 0, "small|large|defer", NULL, false,
     "Who."},
    {"entropy", 0, WEIR_OPT_FLOAT, RUN, "Cascade", "TAU", "0.5", -INFINITY, INFINITY, NULL, NULL, false,
     "Nats."},
    {"entropy", 0, WEIR_OPT_FLOATS, EVAL, "Cascade", "TAU,..", "0.1,0.5", -1, 100, NULL, NULL, false,
     "Nats."},
    {"max-tokens", 'n', WEIR_OPT_INT, RUN | EVAL, "Length", "N", "256", 1, 100000, NULL, NULL, false,
     "How many tokens at most, and a sentence long enough that it must be wrapped somewhere in the help."},
    {"stop", 0, WEIR_OPT_STRINGS, RUN, "Length", "TEXT", NULL, 0, 0, NULL, NULL, false, "Ends the text."},
    {"json", 0, WEIR_OPT_BOOL, RUN | EVAL, "Output", NULL, "false", 0, 0, NULL, NULL, false, "JSON lines."},
    {"escape", 0, WEIR_OPT_BOOL, RUN, "Output", NULL, "true", 0, 0, NULL, NULL, false, "Escapes."},
    {"no-color", 0, WEIR_OPT_BOOL, RUN, "Output", NULL, "false", 0, 0, NULL, "NO_COLOR", true, "No colours."},
    {"svg", 0, WEIR_OPT_STRING, EVAL, "Output", "FILE", NULL, 0, 0, NULL, NULL, false, "A drawing."},
};

static weir_config *make(uint32_t command) {
  weir_config *c = NULL;
  weir_err e = {0};
  if (weir_config_create(table, sizeof table / sizeof *table, command, &c, &e) != WEIR_OK)
    fail_msg("%s", e.msg);
  return c;
}

/* ---- a fake environment ---- */
static const char *const *env_now;
static const char *fake_env(const char *name) {
  for (const char *const *p = env_now; p && p[0]; p += 2)
    if (!strcmp(p[0], name)) return p[1];
  return NULL;
}

enum { MAX_ARGS = 8 };

static weir_status read_args(weir_config *c, const char *const *argv, weir_err *e) {
  int n = 0;
  while (n < MAX_ARGS && argv[n]) n++;
  return weir_config_read_args(c, n, (char *const *)argv, e);
}

static void test_defaults(void **state) {
  (void)state;
  weir_config *c = make(RUN);
  int32_t n;
  assert_string_equal(weir_config_string(c, "mode"), "defer");
  assert_true(weir_config_float(c, "entropy") == 0.5);
  assert_int_equal(weir_config_int(c, "max-tokens"), 256);
  assert_false(weir_config_bool(c, "json"));
  assert_true(weir_config_bool(c, "escape"));
  weir_config_strings(c, "stop", &n);
  assert_int_equal(n, 0);
  assert_false(weir_config_is_set(c, "mode"));
  assert_string_equal(weir_config_source(c, "mode"), "default");
  assert_true(weir_config_has(c, "prompt"));
  assert_false(weir_config_has(c, "svg"));
  weir_config_destroy(c);
}

static void test_precedence(void **state) {
  (void)state;
  static const char yaml[] = "mode: small\nmax-tokens: 10\nentropy: .inf\nstop: [a, b]\nsvg: drawing\n";
  static const char *const env[] = {"WEIR_MAX_TOKENS", "20", "WEIR_ENTROPY", "0.25", "WEIR_JSON", "", NULL};
  static const char *const argv[] = {"--max-tokens", "30", "--stop", "c", "--stop=d", NULL};
  weir_config *c = make(RUN);
  weir_err e = {0};
  int32_t n;
  assert_int_equal(weir_config_read_yaml(c, "x.yaml", yaml, strlen(yaml), &e), WEIR_OK);
  assert_int_equal(weir_config_int(c, "max-tokens"), 10);
  assert_true(isinf(weir_config_float(c, "entropy")));
  assert_string_equal(weir_config_source(c, "max-tokens"), "x.yaml:2");
  const char *const *stop = weir_config_strings(c, "stop", &n);
  assert_int_equal(n, 2);
  assert_string_equal(stop[1], "b");
  env_now = env;
  assert_int_equal(weir_config_read_env(c, fake_env, &e), WEIR_OK);
  assert_int_equal(weir_config_int(c, "max-tokens"), 20);
  assert_true(weir_config_float(c, "entropy") == 0.25);
  assert_false(weir_config_is_set(c, "json")); /* set to nothing is not set */
  assert_int_equal(read_args(c, argv, &e), WEIR_OK);
  assert_int_equal(weir_config_int(c, "max-tokens"), 30);
  assert_string_equal(weir_config_source(c, "max-tokens"), "command line");
  assert_string_equal(weir_config_string(c, "mode"), "small"); /* nobody later spoke */
  stop = weir_config_strings(c, "stop", &n);                   /* a later source replaces the list */
  assert_int_equal(n, 2);
  assert_string_equal(stop[0], "c");
  assert_string_equal(stop[1], "d");
  weir_config_destroy(c);
}

static void test_arguments(void **state) {
  (void)state;
  static const char *const argv[] = {"-p", "-x", "-pone", "--entropy", "-1", "--json", "--no-escape", NULL};
  static const char *const operands[] = {"file", "-", "--", "--json", NULL};
  weir_config *c = make(RUN);
  weir_err e = {0};
  int32_t n;
  assert_int_equal(read_args(c, argv, &e), WEIR_OK);
  const char *const *p = weir_config_strings(c, "prompt", &n);
  assert_int_equal(n, 2);
  assert_string_equal(p[0], "-x");
  assert_string_equal(p[1], "one");
  assert_true(weir_config_float(c, "entropy") == -1);
  assert_true(weir_config_bool(c, "json"));
  assert_false(weir_config_bool(c, "escape"));
  weir_config_destroy(c);
  c = make(RUN);
  assert_int_equal(read_args(c, operands, &e), WEIR_OK);
  p = weir_config_operands(c, &n);
  assert_int_equal(n, 3);
  assert_string_equal(p[1], "-");
  assert_string_equal(p[2], "--json");
  assert_false(weir_config_bool(c, "json"));
  weir_config_destroy(c);
}

static void test_float_lists(void **state) {
  (void)state;
  static const char *const argv[] = {"--entropy", "0.1, 2,1e-3", "--entropy=-1", NULL};
  static const double want[] = {0.1, 2, 1e-3, -1};
  weir_config *c = make(EVAL);
  weir_err e = {0};
  int32_t n;
  weir_config_floats(c, "entropy", &n);
  assert_int_equal(n, 2);
  assert_int_equal(read_args(c, argv, &e), WEIR_OK);
  const double *x = weir_config_floats(c, "entropy", &n);
  assert_int_equal(n, 4);
  for (int i = 0; i < 4; i++) assert_true(x[i] == want[i]);
  weir_config_destroy(c);
}

/* Wrong command lines and what the message must name. */
static void test_bad_arguments(void **state) {
  (void)state;
  static const struct {
    const char *argv[MAX_ARGS];
    const char *says[3];
  } bad[] = {
      {{"--max-tokens", "0"}, {"--max-tokens", "0 is out of range, want 1 .. 100000", "command line"}},
      {{"--max-tokens=100001"}, {"100001", "100000"}},
      {{"-n", "ten"}, {"-n", "\"ten\"", "whole number"}},
      {{"-n", "99999999999999999999"}, {"whole number"}},
      {{"-n", " 5"}, {"whole number"}},
      {{"-n", ""}, {"whole number"}},
      {{"--max-tokens"}, {"--max-tokens needs a value"}},
      {{"--max-token", "3"}, {"--max-token is not an option", "did you mean --max-tokens?"}},
      {{"--mx-tokens=3"}, {"--max-tokens?"}},
      {{"--svg", "x"}, {"--svg belongs to another command"}},
      {{"--zebra"}, {"--zebra is not an option (command line)"}},
      {{"-z"}, {"-z is not an option"}},
      {{"--entropy", "nan"}, {"--entropy", "\"nan\"", "not a number"}},
      {{"--entropy", "0x1p3"}, {"not a number"}},
      {{"--entropy", "1e999"}, {"not a number"}},
      {{"--entropy", ""}, {"not a number"}},
      {{"--mode", "smal"}, {"--mode", "\"smal\"", "one of small|large|defer"}},
      {{"--mode", "small|large"}, {"one of"}},
      {{"--json=maybe"}, {"--json", "true or false"}},
      {{"--no-json=true"}, {"--no-json takes no value"}},
      {{"--no-mode"}, {"--no-mode is not an option"}},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    weir_config *c = make(RUN);
    weir_err e = {0};
    const weir_status st = read_args(c, bad[i].argv, &e);
    if (st != WEIR_EINVAL) fail_msg("case %zu (%s): status %d, want %d", i, bad[i].argv[0], st, WEIR_EINVAL);
    for (int k = 0; k < 3 && bad[i].says[k]; k++)
      if (!strstr(e.msg, bad[i].says[k])) fail_msg("case %zu: \"%s\" lacks \"%s\"", i, e.msg, bad[i].says[k]);
    weir_config_destroy(c);
  }
}

static void test_bad_environment(void **state) {
  (void)state;
  static const char *const env[] = {"WEIR_MAX_TOKENS", "-3", NULL};
  weir_config *c = make(RUN);
  weir_err e = {0};
  env_now = env;
  assert_int_equal(weir_config_read_env(c, fake_env, &e), WEIR_EINVAL);
  assert_non_null(strstr(e.msg, "max-tokens: -3 is out of range"));
  assert_non_null(strstr(e.msg, "WEIR_MAX_TOKENS in the environment"));
  weir_config_destroy(c);
}

/* A variable with a name of its own counts when it is there and not empty, whatever it says (no-color.org).
 */
static void test_presence_variable(void **state) {
  (void)state;
  static const char *const values[] = {"1", "0", "false"};
  for (int i = 0; i < 4; i++) {
    const char *const env[] = {"NO_COLOR", i < 3 ? values[i] : "", NULL};
    weir_config *c = make(RUN);
    weir_err e = {0};
    env_now = env;
    assert_int_equal(weir_config_read_env(c, fake_env, &e), WEIR_OK);
    assert_int_equal(weir_config_bool(c, "no-color"), i < 3);
    weir_config_destroy(c);
  }
}

static void test_odd_environment(void **state) {
  (void)state;
  char *fine[] = {"PATH=/bin", "WEIR_MAX_TOKENS=3", "WEIR_SVG=x", "WEIR_SOMETHING_ELSE_ALTOGETHER=1", "WEIR",
                  NULL};
  char *slip[] = {"WEIR_JSON=1", "WEIR_MAX_TOKEN=3", NULL};
  char meant[96] = "";
  weir_config *c = make(RUN);
  assert_null(weir_config_odd_env(c, fine, meant, sizeof meant));
  assert_ptr_equal(weir_config_odd_env(c, slip, meant, sizeof meant), slip[1]);
  assert_string_equal(meant, "WEIR_MAX_TOKENS");
  weir_config_destroy(c);
}

static void test_good_yaml(void **state) {
  (void)state;
  static const char *const good[] = {
      "",
      "# nothing\n",
      "---\n",
      "{}",
      "{max-tokens: 7}",
      "max-tokens: \"7\"\n",
      "stop:\n  - a\n  - 'b c'\n",
      "json: yes\n",
  };
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    weir_config *c = make(RUN);
    weir_err e = {0};
    if (weir_config_read_yaml(c, "x", good[i], strlen(good[i]), &e) != WEIR_OK)
      fail_msg("case %zu: %s", i, e.msg);
    if (strstr(good[i], "max-tokens")) assert_int_equal(weir_config_int(c, "max-tokens"), 7);
    if (strstr(good[i], "json")) assert_true(weir_config_bool(c, "json"));
    weir_config_destroy(c);
  }
}

static void test_bad_yaml(void **state) {
  (void)state;
  static const struct {
    const char *text, *says;
  } bad[] = {
      {"max-tokens: 0\n", "max-tokens: 0 is out of range, want 1 .. 100000 (x.yaml:1)"},
      {"\n\nmax-tokns: 5\n", "max-tokns is not an option; did you mean max-tokens? (x.yaml:3)"},
      {"mode: small\nmode: large\n", "x.yaml:2: mode is given twice"},
      {"svg: a\nsvg: b\n", "x.yaml:2: svg is given twice"},
      {"a: &x 1\n", "a is not an option"},
      {"max-tokens: &x 1\n", "anchors"},
      {"stop: &x [a]\n", "anchors"},
      {"stop: [*x]\n", "aliases"},
      {"max-tokens: !!int 5\n", "tags"},
      {"max-tokens: {a: b}\n", "x.yaml:1: only single values"},
      {"stop: [[a]]\n", "only single values"},
      {"svg: {a: b}\n", "only single values"},
      {"max-tokens: [1]\n", "max-tokens takes one value"},
      {"max-tokens:\n", "max-tokens: has no value (x.yaml:1)"},
      {"max-tokens: ~\n", "has no value"},
      {"- a\n", "want lines of \"key: value\""},
      {"just text\n", "want lines of"},
      {"[a]: b\n", "a key must be a single word"},
      {"mode: small\n---\nmode: large\n", "more than one document"},
      {"prompt: x\n", "prompt cannot stand in a file"},
      {"mode: \"small\n", "not YAML"},
      {"\tmode: small\n", "not YAML"},
      {"mode: \"sm\\0all\"\n", "NUL"},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    weir_config *c = make(RUN);
    weir_err e = {0};
    const weir_status st = weir_config_read_yaml(c, "x.yaml", bad[i].text, strlen(bad[i].text), &e);
    if (st != WEIR_EINVAL) fail_msg("case %zu: status %d, want %d", i, st, WEIR_EINVAL);
    if (!strstr(e.msg, bad[i].says)) fail_msg("case %zu: \"%s\" lacks \"%s\"", i, e.msg, bad[i].says);
    weir_config_destroy(c);
  }
}

static void test_yaml_bounds(void **state) {
  (void)state;
  const size_t len = WEIR_CONFIG_MAX_BYTES + 1;
  char *text = malloc(len);
  assert_non_null(text);
  memset(text, '[', len);
  weir_config *c = make(RUN);
  weir_err e = {0};
  assert_int_equal(weir_config_read_yaml(c, "x", text, len, &e), WEIR_EINVAL);
  assert_non_null(strstr(e.msg, "longer than"));
  /* deep nesting is refused at its second level, before it can use the stack */
  assert_int_equal(weir_config_read_yaml(c, "x", text, 100000, &e), WEIR_EINVAL);
  assert_int_equal(weir_config_read_file(c, "/nonexistent/x.yaml", &e), WEIR_EIO);
  assert_non_null(strstr(e.msg, "/nonexistent/x.yaml"));
  weir_config_destroy(c);
  free(text);
}

/* Whatever the bytes are, the reader answers and leaks nothing (the sanitizers watch). */
static void test_yaml_noise(void **state) {
  (void)state;
  static const char alphabet[] = "ab:-[]{}&*!|>'\"#%@\n\n  ,?mode: small\n";
  uint64_t x = 88172645463325252u;
  for (int round = 0; round < 20000; round++) {
    char text[48];
    size_t len = 0;
    do {
      x ^= x << 13, x ^= x >> 7, x ^= x << 17;
      text[len++] = alphabet[x % (sizeof alphabet - 1)];
    } while (len < sizeof text && x >> 60);
    weir_config *c = make(RUN);
    weir_err e = {0};
    const weir_status st = weir_config_read_yaml(c, "x", text, len, &e);
    assert_true(st == WEIR_OK || st == WEIR_EINVAL);
    if (st != WEIR_OK) assert_true(e.msg[0] != '\0');
    weir_config_destroy(c);
  }
}

static void test_peek(void **state) {
  (void)state;
  weir_config *c = make(RUN);
  char *argv[] = {"--mode", "small", "--stop", "--mode", "--mode=large", "--", "--mode", "x"};
  assert_string_equal(weir_config_peek_arg(c, 8, argv, "mode"), "large");
  assert_string_equal(weir_config_peek_arg(c, 4, argv, "mode"), "small"); /* --mode is the value of --stop */
  assert_null(weir_config_peek_arg(c, 2, argv, "stop"));
  weir_config_destroy(c);
}

static void test_help(void **state) {
  (void)state;
  weir_config *c = make(RUN);
  weir_buf b = {0};
  weir_err e = {0};
  assert_int_equal(weir_config_help(c, 60, &b, &e), WEIR_OK);
  static const char *const has[] = {
      "Cascade\n",         "-n, --max-tokens N", "[1 .. 100000; default 256; WEIR_MAX_TOKENS]",
      "small|large|defer", "--[no-]escape",      "NO_COLOR",
      "may be repeated"};
  for (size_t i = 0; i < sizeof has / sizeof *has; i++) {
    char flat[4096];
    size_t n = 0; /* wrapped lines joined, to look for text across them */
    for (const char *p = b.data; *p && n + 1 < sizeof flat; p++)
      if (*p == '\n' && !strncmp(p + 1, "      ", 6))
        flat[n++] = ' ', p += 6;
      else
        flat[n++] = *p;
    flat[n] = '\0';
    if (!strstr(flat, has[i])) fail_msg("help lacks \"%s\":\n%s", has[i], b.data);
  }
  assert_null(strstr(b.data, "svg"));
  for (const char *p = b.data; *p; p += strcspn(p, "\n"), p += *p == '\n')
    if (strcspn(p, "\n") > 60 && !strstr(p, "--")) fail_msg("a line of the help is too long: %.80s", p);
  weir_buf_fini(&b);
  weir_config_destroy(c);
}

/* What is printed sets, read as a file, what was in force; what is secret stays so. */
static void test_print(void **state) {
  (void)state;
  static const char *const argv[] = {
      "--entropy", "-inf", "--stop=a b\"\\\n\t: #", "--stop", "yes", "--no-escape", "-m", "small"};
  static const char *const secret[] = {"max-tokens"};
  weir_config *c = make(RUN), *d = make(RUN);
  weir_buf b = {0};
  weir_err e = {0};
  int32_t n;
  env_now = (const char *const[]){"WEIR_MAX_TOKENS", "4711", NULL};
  assert_int_equal(weir_config_read_env(c, fake_env, &e), WEIR_OK);
  assert_int_equal(weir_config_read_args(c, sizeof argv / sizeof *argv, (char *const *)argv, &e), WEIR_OK);
  assert_int_equal(weir_config_print(c, secret, 1, &b, &e), WEIR_OK);
  static const char *const has[] = {"\nmode: small  # command line\n",
                                    "#json: false\n",
                                    "entropy: -.inf",
                                    "#max-tokens: (set)  # WEIR_MAX_TOKENS in the environment\n",
                                    "# ---- Cascade ----\n",
                                    "One of small|large|defer. [default defer; WEIR_MODE]"};
  for (size_t i = 0; i < sizeof has / sizeof *has; i++)
    if (!strstr(b.data, has[i])) fail_msg("lacks \"%s\":\n%s", has[i], b.data);
  assert_null(strstr(b.data, "4711"));
  assert_null(strstr(b.data, "svg"));
  assert_null(strstr(b.data, "prompt")); /* cannot stand in a file */
  if (weir_config_read_yaml(d, "printed", b.data, b.len, &e) != WEIR_OK) fail_msg("%s\n%s", e.msg, b.data);
  assert_string_equal(weir_config_string(d, "mode"), "small");
  assert_true(weir_config_float(d, "entropy") == -INFINITY);
  assert_false(weir_config_bool(d, "escape"));
  assert_false(weir_config_is_set(d, "json"));
  assert_int_equal(weir_config_int(d, "max-tokens"), 256);
  const char *const *stop = weir_config_strings(d, "stop", &n);
  assert_int_equal(n, 2);
  assert_string_equal(stop[0], "a b\"\\\n\t: #");
  assert_string_equal(stop[1], "yes");
  env_now = NULL;
  weir_buf_fini(&b);
  weir_config_destroy(c);
  weir_config_destroy(d);
}

static void test_bad_default(void **state) {
  (void)state;
  static const weir_option broken[] = {
      {"n", 0, WEIR_OPT_INT, RUN, "G", NULL, "0", 1, 2, NULL, NULL, false, "Broken."}};
  weir_config *c = NULL;
  weir_err e = {0};
  assert_int_equal(weir_config_create(broken, 1, RUN, &c, &e), WEIR_EINVAL);
  assert_null(c);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_defaults),
      cmocka_unit_test(test_precedence),
      cmocka_unit_test(test_arguments),
      cmocka_unit_test(test_float_lists),
      cmocka_unit_test(test_bad_arguments),
      cmocka_unit_test(test_bad_environment),
      cmocka_unit_test(test_presence_variable),
      cmocka_unit_test(test_odd_environment),
      cmocka_unit_test(test_good_yaml),
      cmocka_unit_test(test_bad_yaml),
      cmocka_unit_test(test_yaml_bounds),
      cmocka_unit_test(test_yaml_noise),
      cmocka_unit_test(test_peek),
      cmocka_unit_test(test_help),
      cmocka_unit_test(test_print),
      cmocka_unit_test(test_bad_default),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
