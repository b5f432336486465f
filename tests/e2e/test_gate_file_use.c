/* SPDX-License-Identifier: Apache-2.0 */
/* `--gate-file` as a user meets it. The files are written here, so that what they decide is known: a map and
 * a head that look at the entropy alone defer exactly where the entropy gate does, at a threshold that is
 * worked out by hand, and must write the same text token by token. Of the small model only its fingerprint is
 * asked for, of `weir calibrate`. */
#include <jansson.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* after the above */
#include <cmocka.h>

#include "e2e.h"
#include "serving.h"

static const char prompt[] = "Once upon a time";
enum { TOKENS = 60, DIM = 128, VOCAB = 4096 };

/* Entropy 0.75 nats in each gate's own measure: 0.75 / 8, and 1 / (1 + e^-(0.75 - 0.75)). */
static const char by_entropy[] = "--entropy 0.75", by_map[] = "--threshold 0.09375",
                  by_head[] = "--threshold 0.5";
static char print_[17], map_file[256], head_file[256], other_file[256], wide_file[256];

static void write_head(const char *path, const char *fingerprint, int dim) {
  char text[4096];
  int n =
      snprintf(text, sizeof text,
               "{\"schema\": \"weir.gate.v1\", \"gate\": \"head\", \"small\": {\"name\": \"the small one\", "
               "\"vocabulary\": %d, \"dim\": %d, \"fingerprint\": \"%s\"}, \"bias\": -0.75, "
               "\"statistics\": {\"entropy\": 1}, \"weights\": [",
               VOCAB, dim, fingerprint);
  for (int i = 0; i < dim; i++) n += snprintf(text + n, sizeof text - (size_t)n, i > 0 ? ", 0" : "0");
  n += snprintf(text + n, sizeof text - (size_t)n, "]}");
  assert_true((size_t)n < sizeof text);
  e2e_write(path, text, (size_t)n);
}

static int make_files(void **state) {
  (void)state;
  char text[1024], fitted[256];
  snprintf(fitted, sizeof fitted, "%s", e2e_temp("fitted.json"));
  e2e_result r =
      e2e("calibrate models/tasks-valid.jsonl -q --no-curves --limit 12 -n 16 --gate isotonic "
          "--gate-out %s --level 0.4",
          fitted);
  e2e_want_status(&r, 0, "a fit");
  e2e_free(&r);
  json_t *f = json_load_file(fitted, 0, NULL), *small = json_object_get(f, "small");
  assert_int_equal(json_integer_value(json_object_get(small, "dim")), DIM);
  assert_int_equal(json_integer_value(json_object_get(small, "vocabulary")), VOCAB);
  snprintf(print_, sizeof print_, "%s", json_string_value(json_object_get(small, "fingerprint")));
  json_decref(f);
  assert_int_equal(strlen(print_), 16);

  snprintf(map_file, sizeof map_file, "%s", e2e_temp("map.json"));
  snprintf(head_file, sizeof head_file, "%s", e2e_temp("head.json"));
  snprintf(other_file, sizeof other_file, "%s", e2e_temp("other.json"));
  snprintf(wide_file, sizeof wide_file, "%s", e2e_temp("wide.json"));
  const int n = snprintf(text, sizeof text,
                         "{\"schema\": \"weir.gate.v1\", \"gate\": \"isotonic\", \"small\": {\"name\": \"the "
                         "small one\", \"vocabulary\": %d, \"dim\": %d, \"fingerprint\": \"%s\"}, "
                         "\"statistic\": \"entropy\", \"knots\": [[0, 0], [8, 1]]}",
                         VOCAB, DIM, print_);
  e2e_write(map_file, text, (size_t)n);
  write_head(head_file, print_, DIM);
  char other[17];
  snprintf(other, sizeof other, "%s", print_);
  other[15] = other[15] == '0' ? '1' : '0';
  write_head(other_file, other, DIM);
  write_head(wide_file, print_, DIM * 2);
  return 0;
}

/* What `weir run` writes with these options. */
static char *run_text(const char *options) {
  json_t *lines = e2e_json_of("run --json -q -t 0 --ignore-eos -n %d -p '%s' %s", TOKENS, prompt, options);
  char *text = strdup(json_string_value(json_object_get(json_array_get(lines, 0), "text")));
  json_decref(lines);
  assert_non_null(text);
  return text;
}

static void test_run(void **state) {
  (void)state;
  char options[400];
  char *want = run_text(by_entropy), *small = run_text("-m small"), *large = run_text("-m large");
  assert_true(strcmp(want, small) != 0 && strcmp(want, large) != 0);
  const char *const file[] = {map_file, head_file}, *const at[] = {by_map, by_head};
  for (int k = 0; k < 2; k++) {
    snprintf(options, sizeof options, "--gate-file %s %s", file[k], at[k]);
    char *got = run_text(options);
    assert_string_equal(got, want);
    free(got);
    snprintf(options, sizeof options, "--gate-file %s --threshold -1", file[k]);
    got = run_text(options);
    assert_string_equal(got, large);
    free(got);
    snprintf(options, sizeof options, "--gate-file %s --threshold 1", file[k]);
    got = run_text(options);
    assert_string_equal(got, small);
    free(got);
  }
  free(want);
  free(small);
  free(large);
}

static bool ended(void *a) { return ((const asked *)a)->n_ends > 0; }

static void ask(weir_client *c, const weir_client_setting *setting, size_t n, asked *into) {
  const weir_client_request q = {.prompt = prompt,
                                 .max_tokens = TOKENS,
                                 .ignore_eos = true,
                                 .has_temperature = true,
                                 .setting = setting,
                                 .n_settings = n};
  serving_ask(c, &q, into);
  serving_run(c, ended, into);
  assert_int_equal(into->n_ends, 1);
}

/* Servers with each file and without one: what requests get that name a gate, or none. */
static void test_serve(void **state) {
  (void)state;
  static const weir_client_setting isotonic[] = {{"gate", "isotonic"}, {"threshold", "0.09375"}},
                                   head[] = {{"gate", "head"}, {"threshold", "0.5"}},
                                   entropy[] = {{"gate", "entropy"}, {"threshold", "0.75"}},
                                   high[] = {{"threshold", "20"}};
  char *want = run_text(by_entropy), *small = run_text("-m small");
  const char *const file[] = {NULL, map_file, head_file}, *const at[] = {by_entropy, by_map, by_head};
  for (int k = 0; k < 3; k++) {
    const struct {
      const weir_client_setting *setting;
      size_t n;
      const char *text; /* NULL: refused, by the name of the gate */
    } cases[] = {
        {NULL, 0, want},                     /* the server's own gate */
        {isotonic, 2, k == 1 ? want : NULL}, /* with its map alone */
        {head, 2, k == 2 ? want : NULL},     /* with its head alone */
        {entropy, 2, want},                  /* everywhere */
        {high, 1, small},                    /* a threshold of the server's gate */
    };
    char options[400];
    snprintf(options, sizeof options, "--no-http -t 0 %s %s %s", file[k] ? "--gate-file" : "",
             file[k] ? file[k] : "", at[k]);
    serving s = serving_start(options, NULL);
    weir_client *c = serving_client(&s, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
      asked a;
      ask(c, cases[i].setting, cases[i].n, &a);
      const int code = cases[i].text ? 0 : 400;
      if (a.error.code != code) fail_msg("server %d, case %zu: %d %s", k, i, a.error.code, a.error.message);
      if (code == 0) assert_string_equal(a.text, cases[i].text);
      if (code != 0 && (strcmp(a.error.param, "cascade.gate") != 0 || !strstr(a.error.message, "gate file")))
        fail_msg("server %d, case %zu: %s: %s", k, i, a.error.param, a.error.message);
    }
    weir_client_close(c);
    assert_int_equal(kill(s.pid, SIGTERM), 0);
    assert_int_equal(serving_wait(&s), 0);
  }
  free(want);
  free(small);
}

static char *chat_text(const char *options) {
  char line[600];
  snprintf(line, sizeof line, "chat --json -q -t 0 -n %d %s", TOKENS, options);
  e2e_result r = e2e_run(&(e2e_run_opts){.line = line, .in = "Convert 7 hours and 25 minutes to minutes.\n"});
  e2e_want_status(&r, 0, line);
  json_t *lines = e2e_json(&r), *turns = e2e_of_schema(lines, "weir.chat.v1");
  assert_int_equal(json_array_size(turns), 1);
  char *text = strdup(json_string_value(json_object_get(json_array_get(turns, 0), "text")));
  json_decref(turns);
  json_decref(lines);
  e2e_free(&r);
  return text;
}

static void test_chat(void **state) {
  (void)state;
  char options[400];
  char *want = chat_text(by_entropy);
  const char *const file[] = {map_file, head_file}, *const at[] = {by_map, by_head};
  for (int k = 0; k < 2; k++) {
    snprintf(options, sizeof options, "--gate-file %s %s", file[k], at[k]);
    char *got = chat_text(options);
    assert_string_equal(got, want);
    free(got);
  }
  free(want);
}

/* A file of another model, or none where one is needed, is told before anything is served. */
static void test_refused(void **state) {
  (void)state;
  static const char *const command[] = {"serve --no-http", "run -p x", "chat"};
  const struct {
    const char *options, *file;
    int status; /* 0: either */
    const char *says;
  } row[] = {
      {"--gate-file", other_file, 1, "fitted for other weights than those of the small model"},
      {"--gate-file", wide_file, 1, "fitted for another small model"},
      {"--gate isotonic --gate-file", head_file, 2, "holds a gate head"},
      {"--gate head --gate-file", map_file, 2, "holds a gate isotonic"},
      {"--gate head", "", 2, "give its --gate-file"},
      {"--gate-file", "/nowhere.json", 0, "/nowhere.json"},
      {"--gate-file", "models/tasks-test.jsonl", 0, "--gate-file"},
  };
  for (size_t i = 0; i < sizeof row / sizeof *row; i++)
    for (size_t k = 0; k < sizeof command / sizeof *command; k++) {
      char line[600];
      snprintf(line, sizeof line, "%s %s %s", command[k], row[i].options, row[i].file);
      e2e_result r = e2e("%s", line);
      if (row[i].status > 0) e2e_want_status(&r, row[i].status, line);
      assert_true(r.status == 1 || r.status == 2);
      e2e_want_in(r.err, row[i].says, line);
      e2e_free(&r);
    }
}

static int clean(void **state) {
  const int served = serving_cleanup(state);
  return e2e_cleanup(state) || served;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_run),
      cmocka_unit_test(test_serve),
      cmocka_unit_test(test_chat),
      cmocka_unit_test(test_refused),
  };
  return cmocka_run_group_tests(tests, make_files, clean);
}
