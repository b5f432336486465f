/* SPDX-License-Identifier: Apache-2.0 */
/* The command line itself: where text goes, what is refused and how it is said, options from file and
 * environment, stop strings, bad model files. */
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

#define QUESTION "'Question: Convert 7 hours and 25 minutes to minutes.\\nAnswer:'"

/* Wrong usage: exit 2, nothing on standard output, one line of error that names the option, a pointer to the
 * help. */
static void test_bad_usage(void **state) {
  (void)state;
  static const struct {
    const char *line, *says;
  } bad[] = {
      {"", "usage: weir COMMAND"},
      {"rnu", "did you mean run?"},
      {"run -p x --max-tokns 3", "--max-tokns is not an option; did you mean --max-tokens?"},
      {"run -p x --max-tokens 0", "--max-tokens: 0 is out of range, want 1 .. 1048576 (command line)"},
      {"run -p x -n three", "-n: \"three\" is not a whole number"},
      {"run -p x --temperature -1", "--temperature: -1 is out of range, want 0 .. 100"},
      {"run -p x --top-p 1.5", "--top-p"},
      {"run -p x --entropy nan", "--entropy"},
      {"run -p x --mode fast", "small|large|defer|rollback|exact|speculate"},
      {"run -p x --mode small --window 3", "window"},
      {"run -p x --mode defer --accept-nll 2", "accept-nll"},
      {"run -p x --mode exact --horizon 2", "horizon"},
      {"run -p x --mode exact --accept v3", "accept has no meaning in mode exact"},
      {"run -p x --mode rollback --accept-alpha 0.2", "accept-alpha has no meaning in mode rollback"},
      {"run -p x --mode speculate --accept-nll 2", "accept-nll has no meaning with accept v3"},
      {"run -p x --mode speculate --accept typical --accept-alpha 0.5",
       "accept-alpha has no meaning with accept typical"},
      {"run -p x --mode speculate --accept own --horizon 3", "horizon has no meaning with accept own"},
      {"run -p x --mode speculate --accept v4", "own|nll|v1|v2|v3|typical"},
      {"run -p x --mode speculate --accept-alpha 1.1", "--accept-alpha: 1.1 is out of range, want 0 .. 1"},
      {"run -p x --mode speculate --defer-rate 0.2", "defer-rate"},
      {"run -p x --entropy 1 --threshold 1", "--threshold"},
      {"run -p x --gate margin --entropy 1", "--gate margin"},
      {"run -p x --small models/weir-demo-small-Q8_0.gguf --mode exact", "mode exact needs --large"},
      {"run -p x --isa sse9", "--isa"},
      {"run -p ''", "the prompt is empty"},
      {"run -p x --stop ''", "--stop"},
      {"run -p x --svg a", "--svg belongs to another command"},
      {"run -p", "-p needs a value"},
      {"eval", "want one file of tasks"},
      {"eval a b", "want one file of tasks"},
      {"eval models/tasks-test.jsonl --gate margin", "--threshold"},
      {"eval models/tasks-test.jsonl --mode exact --random", "--random"},
      {"inspect", "want one model file"},
      {"inspect --pair models/weir-demo-small-Q8_0.gguf", "--pair wants"},
      {"tokenize --ids 4096", "token id 4096 is out of range, want 0 .. 4095"},
      {"tokenize --ids 1x", "\"1x\" is not a token id"},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    e2e_result r = e2e("%s", bad[i].line);
    e2e_want_status(&r, 2, bad[i].line);
    e2e_want_in(r.err, bad[i].says, bad[i].line);
    if (r.out_len) fail_msg("%s: standard output: %s", bad[i].line, r.out);
    if (i > 0) e2e_want_in(r.err, "--help`", bad[i].line);
    e2e_free(&r);
  }
}

/* What cannot be done: exit 1 and one line. */
static void test_failures(void **state) {
  (void)state;
  static char truncated[4096];
  const char *junk = e2e_temp("junk.gguf"), *cut = e2e_temp("cut.gguf"), *tasks = e2e_temp("tasks.jsonl");
  static const char lies[] = "GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\x7f and more";
  e2e_write(junk, lies, sizeof lies);
  FILE *f = fopen("models/weir-demo-small-Q8_0.gguf", "rb");
  assert_non_null(f);
  assert_int_equal(fread(truncated, 1, sizeof truncated, f), sizeof truncated);
  fclose(f);
  e2e_write(cut, truncated, sizeof truncated);
  static const char bad_task[] =
      "{\"prompt\": \"a\", \"answer\": \"b\", \"match\": \"c\"}\n{\"prompt\": \"a\"}\n";
  e2e_write(tasks, bad_task, sizeof bad_task - 1);
  struct {
    char line[700];
    const char *says;
  } bad[10];
  size_t n = 0;
  snprintf(bad[n].line, sizeof bad[0].line, "run -p x --small /nonexistent.gguf"),
      bad[n++].says = "/nonexistent.gguf";
  snprintf(bad[n].line, sizeof bad[0].line, "run -p x --small %s", junk), bad[n++].says = junk;
  snprintf(bad[n].line, sizeof bad[0].line, "run -p x --small %s", cut), bad[n++].says = cut;
  snprintf(bad[n].line, sizeof bad[0].line, "run -p x --small /dev/null"), bad[n++].says = "/dev/null";
  snprintf(bad[n].line, sizeof bad[0].line, "inspect %s", cut), bad[n++].says = cut;
  snprintf(bad[n].line, sizeof bad[0].line, "tokenize -p x --model %s", junk), bad[n++].says = junk;
  snprintf(bad[n].line, sizeof bad[0].line, "run -p x --models /nonexistent"), bad[n++].says = "/nonexistent";
  snprintf(bad[n].line, sizeof bad[0].line, "run /nonexistent.txt"), bad[n++].says = "/nonexistent.txt";
  snprintf(bad[n].line, sizeof bad[0].line, "eval %s", tasks),
      bad[n++].says = "tasks.jsonl:2: want a string \"answer\"";
  snprintf(bad[n].line, sizeof bad[0].line, "run -p x --config /nonexistent.yaml"),
      bad[n++].says = "/nonexistent.yaml";
  for (size_t i = 0; i < n; i++) {
    e2e_result r = e2e("%s", bad[i].line);
    e2e_want_status(&r, 1, bad[i].line);
    e2e_want_in(r.err, bad[i].says, bad[i].line);
    e2e_want_in(r.err, "weir: error: ", bad[i].line);
    if (strchr(r.err, '\n') != r.err + strlen(r.err) - 1)
      fail_msg("%s: not one line: %s", bad[i].line, r.err);
    if (r.out_len) fail_msg("%s: standard output: %s", bad[i].line, r.out);
    e2e_free(&r);
  }
}

static void test_prompt_too_long(void **state) {
  (void)state;
  const char *file = e2e_temp("long.txt");
  enum { N = 3000 };
  char *text = malloc(N);
  assert_non_null(text);
  for (int i = 0; i < N; i++) text[i] = i % 2 ? ' ' : (char)('a' + i / 2 % 26);
  e2e_write(file, text, N);
  free(text);
  e2e_result r = e2e("run %s", file);
  e2e_want_status(&r, 1, "long prompt");
  e2e_want_in(r.err, "prompt 1", "long prompt");
  e2e_want_in(r.err, "512", "long prompt"); /* the context it does not fit */
  assert_int_equal(r.out_len, 0);
  e2e_free(&r);
}

/* Standard output is the text and nothing else, in whatever way it is shown on a pipe. */
static void test_only_text(void **state) {
  (void)state;
  json_t *all = e2e_json_of("run -p %s --json -q", QUESTION);
  const char *want = json_string_value(json_object_get(json_array_get(all, 0), "text"));
  e2e_want_in(want, "445", "the text");
  static const char *const how[] = {"", "-q", "--stats", "--show none", "--threads 1", "--color never"};
  for (size_t i = 0; i < sizeof how / sizeof *how; i++) {
    e2e_result r = e2e("run -p %s %s", QUESTION, how[i]);
    e2e_want_status(&r, 0, how[i]);
    if (strncmp(r.out, want, strlen(want)) != 0 || strcmp(r.out + strlen(want), "\n") != 0)
      fail_msg("%s: standard output is not the text: \"%s\"", how[i], r.out);
    if (!strcmp(how[i], "-q")) assert_string_equal(r.err, "");
    if (!how[i][0]) e2e_want_in(r.err, "deferral rate", "the summary");
    e2e_free(&r);
  }
  e2e_result colored = e2e("run -p %s --color always", QUESTION),
             marked = e2e("run -p %s --show origin", QUESTION);
  e2e_want_in(colored.out, "\033[", "--color always");
  e2e_want_in(marked.out, "\xc2\xab", "--show origin");
  e2e_free(&colored);
  e2e_free(&marked);
  json_decref(all);
}

/* The same prompt by four ways gives the same text. */
static void test_ways_in(void **state) {
  (void)state;
  static const char text[] = "Question: Convert 7 hours and 25 minutes to minutes.\nAnswer:\n";
  static const char line[] = "Question: Convert 7 hours and 25 minutes to minutes.\\nAnswer:\n\n";
  const char *file = e2e_temp("prompt.txt"), *lines = e2e_temp("prompts.txt");
  e2e_write(file, text, sizeof text - 1);
  e2e_write(lines, line, sizeof line - 1);
  e2e_result want = e2e("run -q -p %s", QUESTION);
  e2e_result got[] = {e2e("run -q %s", file), e2e("run -q -f %s", lines),
                      e2e_run(&(e2e_run_opts){.line = "run -q", .in = text}),
                      e2e_run(&(e2e_run_opts){.line = "run -q -", .in = text}),
                      e2e_run(&(e2e_run_opts){.line = "run -q -f -", .in = line})};
  e2e_want_status(&want, 0, "-p");
  assert_true(want.out_len > 20);
  for (size_t i = 0; i < sizeof got / sizeof *got; i++) {
    e2e_want_status(&got[i], 0, "a way in");
    assert_string_equal(got[i].out, want.out);
    e2e_free(&got[i]);
  }
  e2e_free(&want);
}

static void test_ends_of_text(void **state) {
  (void)state;
  e2e_result whole = e2e("run -q -p %s", QUESTION);
  static const struct {
    const char *options, *end;
    int tokens; /* -1: any */
    const char *stop;
  } cases[] = {{"", "eos", -1, NULL},
               {"-n 5", "length", 5, NULL},
               {"--stop 445", "stop", -1, "445"},
               {"--stop nowhere --stop ' 420. '", "stop", -1, " 420. "},
               {"--stop 'minutes.'", "stop", -1, "minutes."},
               {"--ignore-eos -n 70", "length", 70, NULL}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    static const char *const modes[] = {"small", "large", "defer", "rollback", "exact", "speculate"};
    for (size_t m = 0; m < sizeof modes / sizeof *modes; m++) {
      json_t *all = e2e_json_of("run -q --json -p %s --mode %s %s", QUESTION, modes[m], cases[i].options);
      const json_t *a = json_array_get(all, 0);
      const char *end = json_string_value(json_object_get(a, "end"));
      const char *text = json_string_value(json_object_get(a, "text"));
      const int n = (int)json_integer_value(json_object_get(a, "tokens"));
      /* the small model alone computes something else, and may not come to a stop string */
      if (strcmp(modes[m], "small") != 0 && strcmp(end, cases[i].end) != 0)
        fail_msg("mode %s, %s: end \"%s\", want \"%s\": %s", modes[m], cases[i].options, end, cases[i].end,
                 text);
      if (cases[i].tokens >= 0 && n != cases[i].tokens)
        fail_msg("mode %s, %s: %d tokens, want %d", modes[m], cases[i].options, n, cases[i].tokens);
      if (cases[i].stop && strstr(text, cases[i].stop))
        fail_msg("mode %s, %s: the stop string is in the text: %s", modes[m], cases[i].options, text);
      if (!strcmp(modes[m], "defer") && strcmp(cases[i].options, "--ignore-eos -n 70") != 0 &&
          strncmp(whole.out, text, strlen(text)) != 0)
        fail_msg("%s: \"%s\" does not begin \"%s\"", cases[i].options, text, whole.out);
      json_decref(all);
    }
  }
  e2e_free(&whole);
}

static int tokens_of(const e2e_run_opts *o) {
  e2e_result r = e2e_run(o);
  e2e_want_status(&r, 0, o->line);
  json_t *all = e2e_json(&r);
  const int n = (int)json_integer_value(json_object_get(json_array_get(all, 0), "tokens"));
  json_decref(all);
  e2e_free(&r);
  return n;
}

static void test_precedence(void **state) {
  (void)state;
  const char *file = e2e_temp("weir.yaml");
  static const char yaml[] = "max-tokens: 3\njson: true\nquiet: true\nignore-eos: yes\nprompt-is-not: here\n";
  char config[400], line[800];
  snprintf(config, sizeof config, "WEIR_CONFIG=%s", file);
  const char *const env[] = {"WEIR_MAX_TOKENS=4", NULL}, *const env_file[] = {config, NULL};
  e2e_write(file, yaml, strchr(yaml, 'p') - yaml);
  snprintf(line, sizeof line, "run -p x --config %s", file);
  assert_int_equal(tokens_of(&(e2e_run_opts){.line = line}), 3);
  assert_int_equal(tokens_of(&(e2e_run_opts){.line = line, .env = env}), 4);
  assert_int_equal(tokens_of(&(e2e_run_opts){.line = "run -p x", .env = env_file}), 3);
  snprintf(line, sizeof line, "run -p x --config %s --max-tokens 5", file);
  assert_int_equal(tokens_of(&(e2e_run_opts){.line = line, .env = env}), 5);
  e2e_write(file, yaml, sizeof yaml - 1);
  e2e_result r = e2e("run -p x --config %s", file);
  e2e_want_status(&r, 2, "unknown key");
  e2e_want_in(r.err, "weir.yaml:5", "unknown key");
  e2e_want_in(r.err, "prompt-is-not is not an option", "unknown key");
  e2e_free(&r);
  const char *const bad[] = {"WEIR_TOP_P=7", NULL};
  r = e2e_run(&(e2e_run_opts){.line = "run -p x", .env = bad});
  e2e_want_status(&r, 2, "bad variable");
  e2e_want_in(r.err, "WEIR_TOP_P in the environment", "bad variable");
  e2e_free(&r);
  /* the configurations that come with weir are read, and a cascade's serves a model alone too */
  static const char *const shipped[] = {"configs/tasks.yaml", "configs/lossless.yaml",
                                        "configs/rollback.yaml", "configs/sharded.yaml"};
  for (size_t i = 0; i < sizeof shipped / sizeof *shipped; i++) {
    r = e2e("run -p x -n 4 --config %s", shipped[i]);
    e2e_want_status(&r, 0, shipped[i]);
    e2e_free(&r);
    r = e2e("run -p x -n 4 --mode small --config %s", shipped[i]);
    e2e_want_status(&r, 0, shipped[i]);
    e2e_free(&r);
    r = e2e("eval models/tasks-valid.jsonl --limit 2 --config %s", shipped[i]);
    e2e_want_status(&r, 0, shipped[i]);
    e2e_free(&r);
  }
}

static void test_help_and_version(void **state) {
  (void)state;
  static const struct {
    const char *line, *says;
  } good[] = {{"--help", "weir COMMAND"},       {"help", "tokenize"},     {"run --help", "--accept-nll"},
              {"help eval", "--svg"},           {"inspect -h", "--pair"}, {"tokenize --help", "--ids"},
              {"run --help --foo", "Examples"}, {"--version", "weir 0."}, {"--version", "cpu: "}};
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    e2e_result r = e2e("%s", good[i].line);
    e2e_want_status(&r, 0, good[i].line);
    e2e_want_in(r.out, good[i].says, good[i].line);
    assert_string_equal(r.err, "");
    e2e_free(&r);
  }
}

static void test_tokenize(void **state) {
  (void)state;
  static const char *const texts[] = {"Hello, world", "  two\n\nlines\t!", "na\xc3\xafve \xe2\x82\xac 12345",
                                      "x"};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    e2e_result ids = e2e_run(&(e2e_run_opts){.line = "tokenize", .in = texts[i]});
    e2e_want_status(&ids, 0, texts[i]);
    e2e_result back = e2e_run(&(e2e_run_opts){.line = "tokenize --ids", .in = ids.out});
    e2e_want_status(&back, 0, texts[i]);
    assert_string_equal(back.out, texts[i]);
    e2e_free(&ids);
    e2e_free(&back);
  }
  json_t *all = e2e_json_of("tokenize --json --bos -p 'Hello, world'");
  const json_t *ids = json_object_get(json_array_get(all, 0), "ids");
  assert_int_equal(json_integer_value(json_array_get(ids, 0)), 4093);
  json_decref(all);
}

static void test_inspect(void **state) {
  (void)state;
  json_t *all = e2e_json_of("inspect --json models/weir-demo-large-Q8_0.gguf");
  const json_t *o = json_array_get(all, 0);
  assert_int_equal(json_integer_value(json_object_get(o, "vocab")), 4096);
  assert_true(json_integer_value(json_object_get(o, "kv_bytes_per_token")) > 0);
  json_decref(all);
  all = e2e_json_of("inspect --json --pair");
  o = json_array_get(all, 0);
  const json_t *m = json_object_get(o, "measured");
  assert_true(json_real_value(json_object_get(m, "c")) > 0);
  assert_int_equal(json_array_size(json_object_get(o, "predicted")), 5);
  json_decref(all);
  e2e_result r = e2e("inspect --tensors --keys models/weir-demo-small-Q8_0.gguf");
  e2e_want_status(&r, 0, "inspect");
  e2e_want_in(r.out, "token_embd.weight", "inspect --tensors");
  e2e_want_in(r.out, "general.architecture", "inspect --keys");
  e2e_free(&r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_bad_usage),       cmocka_unit_test(test_failures),
      cmocka_unit_test(test_prompt_too_long), cmocka_unit_test(test_only_text),
      cmocka_unit_test(test_ways_in),         cmocka_unit_test(test_ends_of_text),
      cmocka_unit_test(test_precedence),      cmocka_unit_test(test_help_and_version),
      cmocka_unit_test(test_tokenize),        cmocka_unit_test(test_inspect),
  };
  return cmocka_run_group_tests(tests, NULL, e2e_cleanup);
}
