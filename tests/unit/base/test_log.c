/* SPDX-License-Identifier: Apache-2.0 */
/* Log lines: what reaches standard error, byte for byte as text, and as JSON by the eyes of a parser. Each
 * case runs with standard error in a file. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
/* after the above */
#include <cmocka.h>

#include "base/log.h"

static int real_stderr = -1;
static FILE *file;

static void capture(void) {
  fflush(stderr);
  file = tmpfile();
  assert_non_null(file);
  real_stderr = dup(STDERR_FILENO);
  assert_true(real_stderr >= 0);
  fcntl(fileno(file), F_SETFL, O_APPEND);
  dup2(fileno(file), STDERR_FILENO);
}

/* What was written since; owned. */
static char *captured(void) {
  dup2(real_stderr, STDERR_FILENO);
  close(real_stderr);
  const off_t n = lseek(fileno(file), 0, SEEK_END);
  assert_true(n >= 0);
  char *text = calloc(1, (size_t)n + 1);
  assert_non_null(text);
  assert_int_equal(pread(fileno(file), text, (size_t)n, 0), n);
  fclose(file);
  return text;
}

static void reset(void) {
  weir_log_set_level(WEIR_LOG_INFO);
  weir_log_set_format(WEIR_LOG_TEXT);
  weir_log_set_component(NULL);
}

static void test_text(void **state) {
  (void)state;
  static const struct {
    weir_log_level level;
    const char *words, *want;
  } row[] = {
      {WEIR_LOG_INFO, "ready", "weir: ready\n"},
      {WEIR_LOG_ERROR, "no", "weir: error: no\n"},
      {WEIR_LOG_WARN, "hm", "weir: warning: hm\n"},
      {WEIR_LOG_DEBUG, "not at this level", ""},
      {WEIR_LOG_INFO, "", "weir: \n"},
      {WEIR_LOG_INFO, "say \"x\" \\ 'y'", "weir: say \"x\" \\ 'y'\n"},
      {WEIR_LOG_INFO, "a\nweir: error: forged", "weir: a\\nweir: error: forged\n"},
      {WEIR_LOG_INFO, "\033[2J\a\x7f\xc2\x9b", "weir: \\x1b[2J\\x07\\x7f\\x9b\n"},
      {WEIR_LOG_INFO, "gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x8c\x8a",
       "weir: gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x8c\x8a\n"},
      {WEIR_LOG_INFO, "\xff|\xc0\xaf|\xed\xa0\x80|\xe2\x82",
       "weir: "
       "\xef\xbf\xbd|\xef\xbf\xbd\xef\xbf\xbd|\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd|"
       "\xef\xbf\xbd\xef\xbf\xbd\n"},
  };
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    capture();
    weir_log(row[i].level, "%s", row[i].words);
    char *got = captured();
    if (strcmp(got, row[i].want) != 0) fail_msg("case %zu: \"%s\", want \"%s\"", i, got, row[i].want);
    free(got);
  }
}

static void test_level(void **state) {
  (void)state;
  for (int limit = WEIR_LOG_ERROR; limit <= WEIR_LOG_DEBUG; limit++) {
    capture();
    weir_log_set_level((weir_log_level)limit);
    for (int i = WEIR_LOG_ERROR; i <= WEIR_LOG_DEBUG; i++) weir_log((weir_log_level)i, "%d", i);
    char *got = captured();
    int lines = 0;
    for (const char *p = got; *p; p++) lines += *p == '\n';
    assert_int_equal(lines, limit + 1);
    free(got);
  }
  reset();
}

static void test_names(void **state) {
  (void)state;
  static const char *const level[] = {"error", "warning", "info", "debug"};
  weir_log_level l;
  weir_log_format f;
  for (int i = 0; i < 4; i++) {
    assert_true(weir_log_level_parse(level[i], &l));
    assert_int_equal(l, i);
  }
  assert_false(weir_log_level_parse("Error", &l));
  assert_false(weir_log_level_parse("", &l));
  assert_true(weir_log_format_parse("text", &f) && f == WEIR_LOG_TEXT);
  assert_true(weir_log_format_parse("json", &f) && f == WEIR_LOG_JSON);
  assert_false(weir_log_format_parse("yaml", &f));
}

static void test_component(void **state) {
  (void)state;
  capture();
  weir_log_set_component("gateway");
  weir_log(WEIR_LOG_INFO, "up");
  weir_log(WEIR_LOG_ERROR, "down");
  char *got = captured();
  assert_string_equal(got, "weir gateway: up\nweir gateway: error: down\n");
  free(got);
  reset();
}

static const weir_log_field *some_fields(int32_t *n) {
  static weir_log_field f[7];
  f[0] = weir_log_str("mode", "defer");
  f[1] = weir_log_str("path", "a b\"\n");
  f[2] = weir_log_str("none", NULL);
  f[3] = weir_log_int("tokens", -9007199254740993);
  f[4] = weir_log_num("share", 0.25);
  f[5] = weir_log_num("nan", NAN);
  f[6] = weir_log_str("empty", "");
  *n = 7;
  return f;
}

static void test_fields_as_text(void **state) {
  (void)state;
  int32_t n;
  const weir_log_field *f = some_fields(&n);
  capture();
  weir_log_with(WEIR_LOG_INFO, f, n, "done %d", 7);
  weir_log_also(WEIR_LOG_INFO, f, n, "words say it");
  char *got = captured();
  assert_string_equal(got,
                      "weir: done 7 mode=defer path=\"a b\\\"\\n\" none=null tokens=-9007199254740993 "
                      "share=0.25 nan=null empty=\"\"\nweir: words say it\n");
  free(got);
}

/* One line as JSON; fails the test when it is not exactly one object on one line. */
static json_t *parse(const char *text) {
  json_error_t why;
  const size_t len = strlen(text);
  assert_true(len > 0 && text[len - 1] == '\n');
  assert_true(memchr(text, '\n', len) == text + len - 1);
  json_t *o = json_loads(text, JSON_REJECT_DUPLICATES, &why);
  if (!json_is_object(o)) fail_msg("not JSON (%s): %s", why.text, text);
  return o;
}

static const char *str(const json_t *o, const char *key) {
  const char *s = json_string_value(json_object_get(o, key));
  if (!s) fail_msg("no string %s", key);
  return s;
}

static json_t *one_json(weir_log_level level, const char *words) {
  int32_t n;
  const weir_log_field *f = some_fields(&n);
  capture();
  weir_log_with(level, f, n, "%s", words);
  char *got = captured();
  json_t *o = parse(got);
  free(got);
  return o;
}

static void test_json(void **state) {
  (void)state;
  static const struct {
    const char *words, *want; /* NULL: the same */
  } row[] = {
      {"plain", NULL},
      {"", NULL},
      {"quote \" backslash \\ slash /", NULL},
      {"\n\t\r\b\f\x01\x1f\x7f", NULL},
      {"gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x8c\x8a \xc2\x85", NULL},
      {"\xff|\xf4\x90\x80\x80|x", "\xef\xbf\xbd|\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd|x"},
  };
  weir_log_set_format(WEIR_LOG_JSON);
  weir_log_set_component("engine");
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    json_t *o = one_json(WEIR_LOG_WARN, row[i].words);
    assert_string_equal(str(o, "msg"), row[i].want ? row[i].want : row[i].words);
    assert_string_equal(str(o, "level"), "warning");
    assert_string_equal(str(o, "component"), "engine");
    assert_string_equal(str(o, "mode"), "defer");
    assert_string_equal(str(o, "path"), "a b\"\n");
    assert_string_equal(str(o, "empty"), "");
    assert_true(json_is_null(json_object_get(o, "none")));
    assert_true(json_is_null(json_object_get(o, "nan")));
    assert_true(json_integer_value(json_object_get(o, "tokens")) == -9007199254740993);
    assert_true(json_real_value(json_object_get(o, "share")) == 0.25);
    const char *ts = str(o, "ts");
    int year, month, day, hour, minute, second, ms, end = 0;
    assert_int_equal(
        sscanf(ts, "%4d-%2d-%2dT%2d:%2d:%2d.%3dZ%n", &year, &month, &day, &hour, &minute, &second, &ms, &end),
        7);
    assert_int_equal(end, 24);
    assert_int_equal(strlen(ts), 24);
    json_decref(o);
  }
  weir_log_set_component(NULL);
  json_t *o = one_json(WEIR_LOG_INFO, "x");
  assert_null(json_object_get(o, "component"));
  json_decref(o);
  reset();
}

/* However long words and fields are, a line is one write's worth, whole, and legal. */
static void test_bounds(void **state) {
  (void)state;
  enum { LONG = 6000 };
  static const char *const unit[] = {"x", "\xe2\x82\xac", "\"", "\x01", "\xff"};
  char *words = malloc(LONG * 3 + 1);
  assert_non_null(words);
  for (size_t k = 0; k < sizeof unit / sizeof *unit; k++) {
    words[0] = '\0';
    for (size_t i = 0, len = strlen(unit[k]); i < LONG; i++) memcpy(words + i * len, unit[k], len + 1);
    for (int json = 0; json < 2; json++) {
      weir_log_field f[40];
      for (int i = 0; i < 40; i++)
        f[i] = weir_log_str(
            "field",
            i == 7 ? words : "0123456789012345678901234567890123456789012345678901234567890123456789");
      if (json)
        for (int i = 0; i < 40; i++) { /* keys of their own: two of a name are no JSON */
          static char key[40][8];
          snprintf(key[i], sizeof key[i], "f%d", i);
          f[i].key = key[i];
        }
      weir_log_set_format(json ? WEIR_LOG_JSON : WEIR_LOG_TEXT);
      capture();
      weir_log_with(WEIR_LOG_INFO, f, 40, "%s", words);
      char *got = captured();
      const size_t len = strlen(got);
      if (len > WEIR_LOG_MAX_LINE || len < 1000) fail_msg("a line of %zu bytes", len);
      assert_non_null(strstr(got, "..."));
      if (json) {
        json_t *o = parse(got);
        assert_true(strlen(str(o, "msg")) > 300);
        assert_null(json_object_get(o, "f7"));
        json_decref(o);
      } else {
        assert_true(memchr(got, '\n', len) == got + len - 1);
      }
      free(got);
    }
  }
  free(words);
  reset();
}

static void test_errno(void **state) {
  (void)state;
  capture();
  close(STDERR_FILENO);
  errno = ERANGE;
  weir_log(WEIR_LOG_INFO, "nobody hears this");
  assert_int_equal(errno, ERANGE);
  free(captured());
}

/* ---- threads ---- */

enum { WRITERS = 4, LINES = 200 };

static void *writer(void *ctx) {
  char words[64];
  memset(words, 'a' + *(int *)ctx, sizeof words - 1);
  words[sizeof words - 1] = '\0';
  for (int i = 0; i < LINES; i++) weir_log(WEIR_LOG_INFO, "%s", words);
  return NULL;
}

static void test_threads(void **state) {
  (void)state;
  pthread_t t[WRITERS];
  int number[WRITERS], lines = 0;
  capture();
  for (int i = 0; i < WRITERS; i++) {
    number[i] = i;
    assert_int_equal(pthread_create(&t[i], NULL, writer, &number[i]), 0);
  }
  for (int i = 0; i < WRITERS; i++) pthread_join(t[i], NULL);
  char *got = captured();
  for (char *p = got; *p; lines++) {
    const size_t len = strcspn(p, "\n");
    const char *words = p + strlen("weir: ");
    if (len != strlen("weir: ") + 63 || strspn(words, (char[]){*words, '\0'}) != 63)
      fail_msg("lines were mixed: %.*s", (int)len, p);
    p += len + 1;
  }
  assert_int_equal(lines, WRITERS * LINES);
  free(got);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_text),           cmocka_unit_test(test_level), cmocka_unit_test(test_names),
      cmocka_unit_test(test_component),      cmocka_unit_test(test_json),  cmocka_unit_test(test_bounds),
      cmocka_unit_test(test_fields_as_text), cmocka_unit_test(test_errno), cmocka_unit_test(test_threads),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
