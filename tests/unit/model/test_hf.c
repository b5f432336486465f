/* SPDX-License-Identifier: Apache-2.0 */
/* Hugging Face directories: which files are read, what is refused about each, on disk and in memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/hf.h"
#include "model/json.h"

enum { MAX_FILES = 4 };

typedef struct text_file {
  const char *name, *text;
} text_file;

static int32_t parts_of(const text_file *f, weir_hf_part *p) {
  int32_t n = 0;
  for (; n < MAX_FILES && f[n].name; n++) p[n] = (weir_hf_part){f[n].name, {f[n].text, strlen(f[n].text)}};
  return n;
}

/* ---- what is read ---- */

static void documents(void **state) {
  (void)state;
  static const text_file f[MAX_FILES] = {{"config.json", "{\"model_type\": \"llama\"}"},
                                         {"generation_config.json", "{\"eos_token_id\": [1, 2]}"},
                                         {"tokenizer.json", "[not looked at"},
                                         {"chat_template.jinja", "{{ x }}"}};
  weir_hf_part p[MAX_FILES];
  weir_hf *hf;
  weir_err e = {0};
  if (weir_hf_parse(p, parts_of(f, p), &hf, &e) != WEIR_OK) fail_msg("%s", e.msg);
  assert_string_equal(json_string_value(json_object_get(weir_hf_config(hf), "model_type")), "llama");
  assert_int_equal(json_array_size(json_object_get(weir_hf_generation(hf), "eos_token_id")), 2);
  assert_null(weir_hf_tokenizer_config(hf));
  assert_true(weir_str_eq(weir_hf_file(hf, "tokenizer.json"), weir_str_of("[not looked at")));
  assert_true(weir_str_eq(weir_hf_file(hf, "chat_template.jinja"), weir_str_of("{{ x }}")));
  assert_null(weir_hf_file(hf, "tokenizer.model").data);
  assert_null(weir_hf_file(hf, "no such").data);
  assert_string_equal(weir_hf_path(hf), "");
  weir_hf_close(hf);
  weir_hf_close(NULL);
}

/* ---- what is refused ---- */

typedef struct bad_case {
  text_file file[MAX_FILES];
  weir_status status;
  const char *fragment;
} bad_case;

static const bad_case bad[] = {
    {{{"tokenizer.json", "{}"}}, WEIR_EIO, "config.json: no such file"},
    {{{"config.json", ""}}, WEIR_EFORMAT, "config.json: the file is empty"},
    {{{"config.json", "[]"}}, WEIR_EFORMAT, "config.json: JSON that is not an object"},
    {{{"config.json", "{\"a\": }"}}, WEIR_EFORMAT, "config.json: JSON, line 1, column 7: unexpected token"},
    {{{"config.json", "{\"a\": 1, \"a\": 2}"}}, WEIR_EFORMAT, "duplicate object key"},
    {{{"config.json", "{\"a\": 1} x"}}, WEIR_EFORMAT, "end of file expected"},
    {{{"config.json", "{\"a\": 1e999}"}}, WEIR_EFORMAT, "real number overflow"},
    {{{"config.json", "{\"a\": 1e999}"}}, WEIR_EFORMAT, "real number overflow"},
    {{{"config.json", "{\"a\": 1-00000000000000000000}"}}, WEIR_EFORMAT, "JSON, line 1"},
    {{{"config.json", "{\"a\": 00000000000000000000000}"}}, WEIR_EFORMAT, "JSON, line 1"},
    {{{"config.json", "{\"a\": \"\xff\"}"}}, WEIR_EFORMAT, "unable to decode byte 0xff"},
    {{{"config.json", "{\"a\": Infinity}"}}, WEIR_EFORMAT, "invalid token near 'Infinity'"},
    {{{"config.json", "{\"a\": \x1b[1m}"}}, WEIR_EFORMAT, "\\x1b"},
    {{{"config.json", "{}"}, {"generation_config.json", "{"}}, WEIR_EFORMAT, "generation_config.json: JSON"},
    {{{"config.json", "{}"}, {"tokenizer_config.json", "1"}}, WEIR_EFORMAT, "tokenizer_config.json: "},
};

static void refused(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    weir_hf_part p[MAX_FILES];
    weir_hf *hf;
    weir_err e = {0};
    const weir_status st = weir_hf_parse(p, parts_of(bad[i].file, p), &hf, &e);
    if (st != bad[i].status || !strstr(e.msg, bad[i].fragment))
      fail_msg("case %zu: want %d \"%s\", got %d \"%s\"", i, bad[i].status, bad[i].fragment, st, e.msg);
    assert_null(hf);
  }
}

/* Integers on both sides of what an int64_t holds. */
static void widest_integers(void **state) {
  (void)state;
  static const struct {
    const char *number;
    bool is_integer;
    double real;
  } rows[] = {{"9223372036854775807", true, 0},
              {"-9223372036854775808", true, 0},
              {"9223372036854775808", false, 9223372036854775808.0},
              {"9999999999999999999", false, 1e19},
              {"-9223372036854775809", false, -9223372036854775808.0},
              {"-9999999999999999999", false, -1e19},
              {"18446744073709551615", false, 18446744073709551616.0},
              {"999999999999999999", true, 0}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    char text[128];
    json_t *j;
    weir_err e = {0};
    snprintf(text, sizeof text, "{\"model_max_length\": %s, \"list\": [%s]}", rows[i].number, rows[i].number);
    if (weir_json_parse_object(weir_str_of(text), &j, &e) != WEIR_OK) fail_msg("%s: %s", text, e.msg);
    const json_t *v = json_object_get(j, "model_max_length");
    assert_int_equal(json_is_integer(v), rows[i].is_integer);
    if (rows[i].is_integer)
      assert_int_equal(json_integer_value(v), strtoll(rows[i].number, NULL, 10));
    else
      assert_true(json_real_value(v) == rows[i].real);
    assert_true(json_equal(json_array_get(json_object_get(j, "list"), 0), v));
    json_decref(j);
  }
}

/* tokenizer_config.json of many a model: int(1e30), as Python writes it. */
static void large_integers(void **state) {
  (void)state;
  static const char text[] =
      "{\"model_max_length\": 1000000000000000019884624838656, \"n\": -99999999999999999999, "
      "\"list\": [1, 123456789012345678901234567890], \"s\": \"\\\"1000000000000000019884624838656\\\\\", "
      "\"f\": 1.0000000000000000000000001, \"g\": 1e-00000000000000000000001, \"i\": 9223372036854775807, "
      "\"h\":1000000000000000019884624838656}";
  const weir_hf_part p = {"config.json", {text, sizeof text - 1}};
  weir_hf *hf;
  weir_err e = {0};
  if (weir_hf_parse(&p, 1, &hf, &e) != WEIR_OK) fail_msg("%s", e.msg);
  const json_t *c = weir_hf_config(hf);
  assert_true(json_real_value(json_object_get(c, "model_max_length")) == 1e30);
  assert_true(json_real_value(json_object_get(c, "h")) == 1e30);
  assert_true(json_real_value(json_object_get(c, "n")) == -1e20);
  assert_true(json_integer_value(json_array_get(json_object_get(c, "list"), 0)) == 1);
  assert_true(json_is_real(json_array_get(json_object_get(c, "list"), 1)));
  assert_string_equal(json_string_value(json_object_get(c, "s")), "\"1000000000000000019884624838656\\");
  assert_true(json_real_value(json_object_get(c, "f")) == 1.0);
  assert_true(json_real_value(json_object_get(c, "g")) == 0.1);
  assert_true(json_integer_value(json_object_get(c, "i")) == INT64_MAX);
  weir_hf_close(hf);
}

static void depth(void **state) {
  (void)state;
  for (int over = 0; over < 2; over++) {
    char text[400] = "{\"a\": \"[[[\\\"[[[\", \"b\": ";
    const int n = WEIR_JSON_MAX_DEPTH - 1 + over;
    for (int i = 0; i < n; i++) strcat(text, "[");
    for (int i = 0; i < n; i++) strcat(text, "]");
    strcat(text, "}");
    const weir_hf_part p = {"config.json", {text, strlen(text)}};
    weir_hf *hf;
    weir_err e = {0};
    const weir_status st = weir_hf_parse(&p, 1, &hf, &e);
    assert_int_equal(st, over ? WEIR_EFORMAT : WEIR_OK);
    if (over) assert_non_null(strstr(e.msg, "JSON nested deeper than 64"));
    weir_hf_close(hf);
  }
}

/* ---- names ---- */

static void names(void **state) {
  (void)state;
  const weir_hf_part p[] = {
      {"config.json", {"{}", 2}}, {"b.safetensors", {"12345678", 8}}, {"a.safetensors", {"1", 1}}};
  static const char *const wrong[] = {"", ".", "..", "../x", "a/b", "/etc/passwd", ".hidden", "a\nb", "a\\b"};
  weir_hf *hf;
  weir_str s;
  int32_t n;
  char first[256];
  weir_err e = {0};
  assert_int_equal(weir_hf_parse(p, 3, &hf, &e), WEIR_OK);
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    assert_int_equal(weir_hf_map(hf, wrong[i], 100, &s, &e), WEIR_EFORMAT);
    assert_non_null(strstr(e.msg, "is not the plain name of a file"));
  }
  assert_int_equal(weir_hf_map(hf, "b.safetensors", 7, &s, &e), WEIR_EFORMAT);
  assert_non_null(strstr(e.msg, "b.safetensors: 8 bytes (limit 7)"));
  for (int i = 0; i < 2; i++) {
    assert_int_equal(weir_hf_map(hf, "b.safetensors", 8, &s, &e), WEIR_OK);
    assert_true(weir_str_eq(s, weir_str_of("12345678")));
  }
  assert_int_equal(weir_hf_map(hf, "absent", 8, &s, &e), WEIR_EIO);
  assert_int_equal(weir_hf_count(hf, ".safetensors", &n, first, &e), WEIR_OK);
  assert_int_equal(n, 2);
  assert_string_equal(first, "a.safetensors");
  weir_hf_close(hf);
}

/* ---- on disk ---- */

static void put(const char *dir, const char *name, const char *text) {
  char path[256];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  FILE *f = fopen(path, "wb");
  assert_non_null(f);
  assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
  assert_int_equal(fclose(f), 0);
}

static void on_disk(void **state) {
  (void)state;
  char dir[] = "/tmp/weir-hf-XXXXXX", path[256], first[256];
  weir_hf *hf;
  weir_str s;
  int32_t n;
  weir_err e = {0};
  assert_non_null(mkdtemp(dir));
  assert_int_equal(weir_hf_open(dir, &hf, &e), WEIR_EIO);
  assert_int_equal(strncmp(e.msg, dir, strlen(dir)), 0);
  put(dir, "config.json", "{\"n\": 1}");
  put(dir, "model.safetensors", "xyz");
  put(dir, "merges.txt", "a b");
  snprintf(path, sizeof path, "%s//", dir);
  if (weir_hf_open(path, &hf, &e) != WEIR_OK) fail_msg("%s", e.msg);
  assert_string_equal(weir_hf_path(hf), dir);
  assert_int_equal(json_integer_value(json_object_get(weir_hf_config(hf), "n")), 1);
  assert_true(weir_str_eq(weir_hf_file(hf, "merges.txt"), weir_str_of("a b")));
  assert_null(weir_hf_file(hf, "model.safetensors").data);
  assert_int_equal(weir_hf_map(hf, "model.safetensors", 100, &s, &e), WEIR_OK);
  assert_true(weir_str_eq(s, weir_str_of("xyz")));
  assert_int_equal(weir_hf_count(hf, ".safetensors", &n, first, &e), WEIR_OK);
  assert_int_equal(n, 1);
  assert_string_equal(first, "model.safetensors");
  weir_hf_close(hf);
  put(dir, "tokenizer_config.json", "nonsense");
  assert_int_equal(weir_hf_open(dir, &hf, &e), WEIR_EFORMAT);
  assert_int_equal(strncmp(e.msg, dir, strlen(dir)), 0);
  assert_non_null(strstr(e.msg, "/tokenizer_config.json: JSON, line 1"));
  snprintf(path, sizeof path, "%s/tokenizer_config.json", dir);
  assert_int_equal(unlink(path), 0);
  assert_int_equal(mkfifo(path, 0600), 0);
  assert_int_equal(weir_hf_open(dir, &hf, &e), WEIR_EIO);
  assert_non_null(strstr(e.msg, "not a regular file"));
  static const char *const names_of[] = {"tokenizer_config.json", "config.json", "model.safetensors",
                                         "merges.txt"};
  for (size_t i = 0; i < sizeof names_of / sizeof *names_of; i++) {
    snprintf(path, sizeof path, "%s/%s", dir, names_of[i]);
    unlink(path);
  }
  assert_int_equal(rmdir(dir), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(documents),      cmocka_unit_test(refused), cmocka_unit_test(widest_integers),
      cmocka_unit_test(large_integers), cmocka_unit_test(depth),   cmocka_unit_test(names),
      cmocka_unit_test(on_disk),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
