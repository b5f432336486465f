/* SPDX-License-Identifier: Apache-2.0 */
/* `weir chat`: several turns over one cache give what the whole text gives at once, commands do what they
 * say, and an answer can be stopped. On the pair that comes with weir, whose template is qa. */
#define _GNU_SOURCE /* posix_openpt, F_SETPIPE_SZ */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
/* after the above */
#include <cmocka.h>

#include "e2e.h"

static const char tiny_small[] = "tests/vectors/models/pair-small.gguf";
static const char tiny_large[] = "tests/vectors/models/pair-large.gguf";

static e2e_result chat(const char *options, const char *in) {
  char line[1024];
  snprintf(line, sizeof line, "chat %s", options);
  return e2e_run(&(e2e_run_opts){.line = line, .in = in});
}

/* The answers of a session that must succeed. */
static json_t *turns(const char *options, const char *in) {
  char all[512];
  snprintf(all, sizeof all, "--json -q %s", options);
  e2e_result r = chat(all, in);
  e2e_want_status(&r, 0, options);
  json_t *lines = e2e_json(&r);
  for (size_t i = 0; i < json_array_size(lines); i++)
    assert_string_equal(json_string_value(json_object_get(json_array_get(lines, i), "schema")),
                        "weir.chat.v1");
  e2e_free(&r);
  return lines;
}

static const char *text_of(const json_t *lines, size_t i) {
  const char *s = json_string_value(json_object_get(json_array_get(lines, i), "text"));
  assert_non_null(s);
  return s;
}

static json_int_t int_of(const json_t *lines, size_t i, const char *a, const char *b) {
  const json_t *x = json_object_get(json_array_get(lines, i), a);
  if (b) x = json_object_get(x, b);
  if (!json_is_integer(x)) fail_msg("line %zu: %s %s is not there", i, a, b ? b : "");
  return json_integer_value(x);
}

static const char q1[] = "Convert 7 hours and 25 minutes to minutes.";
static const char q2[] = "Ann has 12 coins. Ben gives Ann 7 more coins. How many coins does Ann have now?";
static const char q3[] = "Sort these numbers in ascending order: 14, 3, 27";

/* Earlier turns are found in the cache, but for a page that was not full; and the text is what `weir run`
 * makes of the whole conversation without any. */
static void test_turns(void **state) {
  (void)state;
  static const char *const modes[] = {"--mode small",           "--mode large",
                                      "--mode defer",           "--mode exact",
                                      "--mode rollback",        "--mode defer -t 0.8 --seed 5",
                                      "--mode speculate -t 0.8"};
  char in[512];
  snprintf(in, sizeof in, "%s\n%s\n%s\n", q1, q2, q3);
  for (size_t m = 0; m < sizeof modes / sizeof *modes; m++) {
    json_t *t = turns(modes[m], in);
    assert_int_equal(json_array_size(t), 3);
    char whole[2048], line[4096];
    snprintf(whole, sizeof whole, "Question: %s\\nAnswer:", q1);
    const char *const q[] = {q1, q2, q3};
    for (size_t i = 0; i < 3; i++) {
      if (i > 0) {
        const size_t n = strlen(whole);
        snprintf(whole + n, sizeof whole - n, " %s<|endoftext|>Question: %s\\nAnswer:", text_of(t, i - 1),
                 q[i]);
      }
      assert_null(strchr(whole, '\''));
      snprintf(line, sizeof line, "run --special --json -q -n 300 %s -p '%s'", modes[m], whole);
      json_t *run = e2e_json_of("%s", line);
      const char *want = text_of(run, 0);
      /* run shows special tokens here; the answers ended with one */
      char got[1024];
      snprintf(got, sizeof got, " %s<|endoftext|>", text_of(t, i));
      if (strcmp(want, got) != 0) fail_msg("%s, turn %zu: chat \"%s\", run \"%s\"", modes[m], i, got, want);
      assert_int_equal(int_of(t, i, "prompt_tokens", NULL), int_of(run, 0, "prompt_tokens", NULL));
      json_decref(run);
      const bool small = !strstr(modes[m], "large");
      const char *tier = small ? "small" : "large";
      const json_int_t hit = int_of(t, i, "prefix_hit", tier), fed = int_of(t, i, "fed", tier);
      const json_int_t before = i > 0 ? int_of(t, i - 1, "context", NULL) : 0;
      /* the last token was never fed; of the rest at most a page is not full */
      if (i > 0 && (hit < before - 1 - 16 || hit > before))
        fail_msg("%s, turn %zu: %lld of %lld tokens found", modes[m], i, (long long)hit, (long long)before);
      if (i == 0) assert_int_equal(hit, 0);
      const json_int_t most = int_of(t, i, "prompt_tokens", NULL) - hit + int_of(t, i, "tokens", NULL);
      if (!strstr(modes[m], "rollback") && !strstr(modes[m], "exact") && !strstr(modes[m], "speculate") &&
          fed > most)
        fail_msg("%s, turn %zu: %lld rows fed, want at most %lld", modes[m], i, (long long)fed,
                 (long long)most);
    }
    json_decref(t);
  }
}

/* How many tokens a text is when it is encoded. */
static json_int_t encoded(const char *text) {
  char in[1024];
  snprintf(in, sizeof in, " %s\n", text); /* the line feed is not of the text */
  e2e_result r = e2e_run(&(e2e_run_opts){.line = "tokenize --json", .in = in});
  e2e_want_status(&r, 0, "tokenize");
  json_t *lines = e2e_json(&r);
  const json_int_t n = int_of(lines, 0, "n", NULL);
  json_decref(lines);
  e2e_free(&r);
  return n;
}

/* A text has many encodings, and hot draws write odd ones: what was written is kept as it was, and the next
 * prompt is that and the new message, not the text encoded again. */
static void test_ids_are_kept(void **state) {
  (void)state;
  char in[256], options[128];
  int odd = 0;
  snprintf(in, sizeof in, "%s\n%s\n", q3, q3);
  for (int seed = 1; seed <= 6; seed++) {
    snprintf(options, sizeof options, "-m small --isa scalar -t 2 --top-k 100 -n 60 --seed %d", seed);
    json_t *t = turns(options, in);
    assert_int_equal(json_array_size(t), 2);
    const char *end = json_string_value(json_object_get(json_array_get(t, 0), "end"));
    const json_int_t question = int_of(t, 0, "prompt_tokens", NULL) - 1; /* without the begin-of-text token */
    const json_int_t before = int_of(t, 0, "context", NULL), now = int_of(t, 1, "prompt_tokens", NULL);
    const bool cut = !strcmp(end, "length"); /* then the end-of-text token comes from the template */
    if (now != before + cut + question)
      fail_msg("seed %d: %lld tokens after %lld and a question of %lld, %s: %s", seed, (long long)now,
               (long long)before, (long long)question, end, text_of(t, 0));
    odd += encoded(text_of(t, 0)) != int_of(t, 0, "tokens", NULL) - !cut;
    json_decref(t);
  }
  if (odd == 0) fail_msg("all were written as they are encoded: this says nothing");
}

static void test_commands(void **state) {
  (void)state;
  const char *saved = e2e_temp("saved.jsonl");
  char in[1024];
  snprintf(
      in, sizeof in,
      "%s\n/undo\n%s\n/retry\n/clear\n%s\n/mode small\n%s\n/undo\n/system You are terse.\n/save %s\n/stats\n"
      "/entropy\n/mode\n/template\n/temlate\n/help\n//x is no command\n/quit\nnever read\n",
      q1, q1, q1, q1, saved);
  e2e_result r = chat("--json", in);
  e2e_want_status(&r, 0, "commands");
  json_t *t = e2e_json(&r);
  assert_int_equal(json_array_size(t), 6);
  for (size_t i = 1; i < 4; i++) { /* each time the first question of a conversation */
    assert_string_equal(text_of(t, i), text_of(t, 0));
    assert_int_equal(int_of(t, i, "prompt_tokens", NULL), int_of(t, 0, "prompt_tokens", NULL));
    assert_true(int_of(t, i, "prefix_hit", "small") > 0);
  }
  assert_true(int_of(t, 4, "prompt_tokens", NULL) > int_of(t, 0, "prompt_tokens", NULL));
  assert_int_equal(int_of(t, 4, "by_tier", "large"), 0);
  assert_string_equal(json_string_value(json_object_get(json_array_get(t, 5), "user")), "/x is no command");
  e2e_want_in(r.err, "it has no system messages", "/system in qa");
  e2e_want_in(r.err, "2 messages saved", "/save");
  e2e_want_in(r.err, "last answer: ", "/stats");
  e2e_want_in(r.err, "tokens; keys and values small ", "/stats");
  e2e_want_in(r.err, "mode small\n", "/mode");
  e2e_want_in(r.err, "template qa; there are plain, qa, chatml", "/template");
  e2e_want_in(r.err, "did you mean /template?", "a slip");
  e2e_want_in(r.err, "/retry", "/help");
  json_decref(t);
  e2e_free(&r);
  char *text = e2e_read(saved);
  json_error_t why;
  json_t *first = json_loads(text, JSON_DISABLE_EOF_CHECK, &why);
  assert_string_equal(json_string_value(json_object_get(first, "role")), "user");
  assert_string_equal(json_string_value(json_object_get(first, "content")), q1);
  e2e_want_in(text, "{\"role\":\"assistant\",\"content\":\"", "what was saved");
  json_decref(first);
  free(text);
}

static void test_modes_and_draws(void **state) {
  (void)state;
  char in[512];
  snprintf(in, sizeof in,
           "%s\n/clear\n/entropy inf\n%s\n/clear\n/entropy -1\n%s\n/clear\n/mode large\n%s\n/clear\n/mode "
           "exact\n%s\n",
           q1, q1, q1, q1, q1);
  json_t *t = turns("", in);
  assert_int_equal(json_array_size(t), 5);
  assert_int_equal(int_of(t, 1, "by_tier", "large"), 0);
  assert_int_equal(int_of(t, 2, "by_tier", "small"), 0);
  assert_string_equal(text_of(t, 2), text_of(t, 3));
  assert_string_equal(text_of(t, 4), text_of(t, 3));
  json_decref(t);
  snprintf(in, sizeof in, "%s\n/retry\n/retry\n", "Tell me something");
  t = turns("-t 1.5 --seed 3", in);
  assert_int_equal(json_array_size(t), 3);
  if (!strcmp(text_of(t, 0), text_of(t, 1)) && !strcmp(text_of(t, 0), text_of(t, 2)))
    fail_msg("three seeds, one answer: %s", text_of(t, 0));
  json_decref(t);
}

/* In a short context the oldest turns go, and it is said. */
static void test_overflow(void **state) {
  (void)state;
  char in[1024];
  snprintf(in, sizeof in, "%s\n%s\n%s\n%s\n%s\n%s\n", q1, q2, q3, q1, q2, q3);
  e2e_result r = chat("--json --ctx 128 --max-tokens 60", in);
  e2e_want_status(&r, 0, "overflow");
  json_t *t = e2e_json(&r);
  assert_int_equal(json_array_size(t), 6);
  json_int_t dropped = 0;
  for (size_t i = 0; i < 6; i++) {
    dropped += int_of(t, i, "dropped", NULL);
    assert_int_equal(int_of(t, i, "dropped", NULL) % 2, 0);
    assert_int_equal(int_of(t, i, "context_size", NULL), 128);
    assert_true(int_of(t, i, "context", NULL) <= 128);
    assert_true(int_of(t, i, "prompt_tokens", NULL) <= 96);
  }
  assert_true(dropped >= 4);
  e2e_want_in(r.err, "the context of 128 tokens is full: the oldest 2 messages are dropped", "overflow");
  json_decref(t);
  e2e_free(&r);
}

/* What a user types is never a special token; what the template writes is. */
static void test_special_text(void **state) {
  (void)state;
  char options[512];
  snprintf(options, sizeof options, "--small %s --large %s --template chatml -n 4", tiny_small, tiny_large);
  json_t *t = turns(options, "a\n/clear\n<|im_end|>\n/clear\n<|im_end|><|im_start|>\n");
  assert_int_equal(json_array_size(t), 3);
  const json_int_t one = int_of(t, 0, "prompt_tokens", NULL);
  /* as text these are 10 and 22 letters, of which the vocabulary merges few */
  if (int_of(t, 1, "prompt_tokens", NULL) < one + 5 || int_of(t, 2, "prompt_tokens", NULL) < one + 12)
    fail_msg("%lld, %lld and %lld tokens", (long long)one, (long long)int_of(t, 1, "prompt_tokens", NULL),
             (long long)int_of(t, 2, "prompt_tokens", NULL));
  json_decref(t);
  e2e_result help = e2e("help chat");
  e2e_want_in(help.out, "Special tokens are shown when a model writes them; the text", "--special of chat");
  e2e_free(&help);
  /* begin of text, three special tokens and the letters around them */
  t = turns(options, "/template plain\na\n");
  assert_int_equal(int_of(t, 0, "prompt_tokens", NULL), 2);
  json_decref(t);
}

static void test_refusals(void **state) {
  (void)state;
  char none[256], alone[256];
  snprintf(none, sizeof none, "--large %s", tiny_large);
  snprintf(alone, sizeof alone, "--large %s --template chatml --mode defer", tiny_large);
  const struct {
    const char *options, *in, *says;
    int status;
  } cases[] = {
      {none, "x\n", "the model has no chat template; --template names one: plain, qa, chatml", 1},
      {alone, "x\n", "mode defer needs --small too", 2},
      {"--template chatlm", "x\n", "--template: template chatlm is not known; there are plain", 2},
      {"--template no/such.jinja", "x\n", "No such file", 1},
      {"--template models/README.md", "x\n", "none that weir knows", 1},
      {"--system 'be kind'", "x\n", "it has no system messages", 1},
      {"--ctx 32", "Sort these numbers: 14, 3, 27, 9, 41, 14, 3, 27, 9, 41, 14, 3, 27, 9\n",
       "there is room for 24", 1},
      {"an-operand", "x\n", "has no operands", 2},
      {"", "/mode quick\n", "route or auto, not quick", 0},
      {"", "/entropy x\n", "a number of nats", 0},
      {"-m small", "/mode large\n", "needs a model that is not loaded", 0},
      {"-m small", "/entropy 1\n", "mode small has no gate", 0},
      {"", "/undo\n/retry\n/save\n/save /no/such/file\n", "/no/such/file: No such file", 0},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    e2e_result r = chat(cases[i].options, cases[i].in);
    e2e_want_status(&r, cases[i].status, cases[i].options);
    e2e_want_in(r.err, cases[i].says, cases[i].options);
    assert_int_equal(r.out_len, 0);
    e2e_free(&r);
  }
}

/* Whatever is wrong with a model, the error says which it is, once. */
static void test_names_the_model(void **state) {
  (void)state;
  static const char from[] = "tests/vectors/models/hf-qwen3";
  static const struct {
    const char *file, *text, *says;
  } broken[] = {{"tokenizer.json", "{", "tokenizer.json"},
                {"config.json", "{", "config.json"},
                {"config.json", "{\"model_type\": \"nothing\"}", "config.json"},
                {"model.safetensors", "12345678", "safetensors"}};
  for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
    static const char *const files[] = {"config.json", "tokenizer.json", "model.safetensors"};
    char dir[400], path[512], options[512];
    snprintf(dir, sizeof dir, "%s", e2e_temp("dir"));
    remove(dir);
    assert_int_equal(mkdir(dir, 0700), 0);
    for (size_t k = 0; k < 3; k++) {
      struct stat is;
      snprintf(path, sizeof path, "%s/%s", from, files[k]);
      assert_int_equal(stat(path, &is), 0);
      char *bytes = e2e_read(path);
      snprintf(path, sizeof path, "%s/%s", dir, files[k]);
      e2e_write(path, bytes, (size_t)is.st_size);
      if (!strcmp(files[k], broken[i].file)) e2e_write(path, broken[i].text, strlen(broken[i].text));
      free(bytes);
    }
    snprintf(options, sizeof options, "--small %s --template plain", dir);
    e2e_result r = chat(options, "x\n");
    for (size_t k = 0; k < 3; k++) {
      snprintf(path, sizeof path, "%s/%s", dir, files[k]);
      remove(path);
    }
    rmdir(dir);
    e2e_want_status(&r, 1, broken[i].file);
    e2e_want_in(r.err, "open the small model: ", broken[i].file);
    e2e_want_in(r.err, broken[i].says, broken[i].file);
    const char *first = strstr(r.err, dir);
    if (!first || strstr(first + 1, dir))
      fail_msg("%s: the path is to be there once: %s", broken[i].file, r.err);
    e2e_free(&r);
  }
}

/* What is there is replaced when it is a conversation that was saved, and left alone when it is anything
 * else. */
static void test_save(void **state) {
  (void)state;
  static const struct {
    const char *before, *says;
    bool replaced;
  } cases[] = {
      {"{\"role\":\"user\",\"content\":\"old\"}\n", "2 messages saved", true},
      {"", "2 messages saved", true},
      {"GGUF and all that", "not a saved conversation", false},
      {"{\"architectures\": []}", "not a saved conversation", false},
      {"{", "not a saved conversation", false},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char in[1024];
    const char *path = e2e_temp("target");
    e2e_write(path, cases[i].before, strlen(cases[i].before));
    snprintf(in, sizeof in, "%s\n/save %s\n", q1, path);
    e2e_result r = chat("-m small -n 4 -q", in);
    e2e_want_status(&r, 0, cases[i].before);
    e2e_want_in(r.err, cases[i].says, cases[i].before);
    char *now = e2e_read(path);
    if (cases[i].replaced)
      e2e_want_in(now, q1, cases[i].before);
    else
      assert_string_equal(now, cases[i].before);
    free(now);
    e2e_free(&r);
  }
  e2e_result r = chat("-m small -q", "/save /dev/null\n");
  e2e_want_in(r.err, "/dev/null is there and not a file", "a device");
  e2e_free(&r);
}

/* Standard input that never has a line feed is refused where that is seen, whatever there is of it. */
static void test_endless_line(void **state) {
  (void)state;
  static const struct {
    const char *from, *says;
  } cases[] = {{"/dev/zero", "standard input: a line holds a NUL"},
               {"yes x | tr -d '\\n'", "standard input: a line is longer than 16777216 bytes"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char *argv[E2E_MAX_ARGS], err[4096];
    size_t n = 0;
    int status, out[2];
    char *words = e2e_split("chat -m small -q", argv);
    FILE *in = i == 0 ? fopen(cases[i].from, "r") : popen(cases[i].from, "r");
    assert_non_null(in);
    assert_int_equal(pipe(out), 0);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
      dup2(fileno(in), 0);
      dup2(out[1], 2);
      close(out[0]);
      execv(argv[0], argv);
      _exit(127);
    }
    close(out[1]);
    for (ssize_t got; n < sizeof err - 1 && (got = read(out[0], err + n, sizeof err - 1 - n)) > 0;)
      n += (size_t)got;
    err[n] = '\0';
    close(out[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (i == 0)
      fclose(in);
    else
      pclose(in); /* it ends by SIGPIPE */
    free(words);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
    e2e_want_in(err, cases[i].says, cases[i].from);
  }
}

/* Lines: nothing, one that goes on in the next, and a last one without a line feed. */
static void test_lines(void **state) {
  (void)state;
  json_t *t = turns("-n 4", "\n\none\\\ntwo\n/clear\nlast");
  assert_int_equal(json_array_size(t), 2);
  assert_string_equal(json_string_value(json_object_get(json_array_get(t, 0), "user")), "one\ntwo");
  assert_string_equal(json_string_value(json_object_get(json_array_get(t, 1), "user")), "last");
  json_decref(t);
  e2e_result r = chat("-q", "Convert 7 hours and 25 minutes to minutes.\n");
  e2e_want_status(&r, 0, "text");
  e2e_want_in(r.out, "445 minutes.\n", "text");
  assert_true(r.out[0] != ' ' && r.out[0] != '>');
  assert_string_equal(r.err, "");
  e2e_free(&r);
}

/* ---- a terminal ---- */

typedef struct pty {
  pid_t pid;
  int fd;
  char out[1 << 16];
  size_t n;
} pty;

static void pty_start(pty *p, const char *line) {
  char *argv[E2E_MAX_ARGS];
  char *words = e2e_split(line, argv);
  *p = (pty){.fd = posix_openpt(O_RDWR | O_NOCTTY)};
  assert_true(p->fd >= 0 && grantpt(p->fd) == 0 && unlockpt(p->fd) == 0);
  const char *name = ptsname(p->fd);
  assert_non_null(name);
  p->pid = fork();
  assert_true(p->pid >= 0);
  if (p->pid == 0) {
    setsid();
    const int slave = open(name, O_RDWR); /* the controlling terminal of the new session */
    for (int i = 0; i < 3; i++) dup2(slave, i);
    setenv("TERM", "xterm", 1);
    unsetenv("NO_COLOR");
    execv(argv[0], argv);
    _exit(127);
  }
  free(words);
}

/* Reads until `text` has come after byte `from` of the output; what happens when it never comes is the test's
 * time limit, or the program's end. Returns where it ends. */
static size_t pty_wait(pty *p, size_t from, const char *text) {
  for (;;) {
    const char *at = strstr(p->out + from, text);
    if (at) return (size_t)(at - p->out) + strlen(text);
    const ssize_t n = read(p->fd, p->out + p->n, sizeof p->out - 1 - p->n);
    if (n <= 0) fail_msg("the program ended before \"%s\" came: %s", text, p->out + from);
    p->n += (size_t)n;
  }
}

static void pty_type(const pty *p, const char *text) {
  assert_int_equal(write(p->fd, text, strlen(text)), (ssize_t)strlen(text));
}

static int pty_end(pty *p) {
  int status;
  while (p->n < sizeof p->out - 1) {
    const ssize_t n = read(p->fd, p->out + p->n, sizeof p->out - 1 - p->n);
    if (n <= 0) break; /* EIO: the other side is closed */
    p->n += (size_t)n;
  }
  assert_int_equal(waitpid(p->pid, &status, 0), p->pid);
  close(p->fd);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void test_terminal(void **state) {
  (void)state;
  static pty p;
  /* slow on purpose, so that Ctrl-C finds an answer to stop: seconds, where the key comes at once */
  pty_start(&p, "chat --mode large --isa scalar --threads 1 --template plain --ignore-eos -n 500");
  size_t at = pty_wait(&p, 0, "/help lists the commands");
  at = pty_wait(&p, at, "> ");
  pty_type(&p, "Once upon a time there was a little girl who\n");
  /* The answer has begun: by its words, for terminal and editor may both show what was typed. */
  at = pty_wait(&p, at, "lived");
  pty_type(&p, "\003");
  at = pty_wait(&p, at, "; stopped]");
  at = pty_wait(&p, at, "> ");
  pty_type(&p, "/stats\n");
  at = pty_wait(&p, at, "last answer: ");
  at = pty_wait(&p, at, "of 512 tokens");
  at = pty_wait(&p, at, "> ");
  pty_type(&p, "/quit\n");
  assert_int_equal(pty_end(&p), 0);

  /* colours of the cascade; at the prompt Ctrl-C leaves */
  pty_start(&p, "chat");
  at = pty_wait(&p, 0, "> ");
  pty_type(&p, "Convert 7 hours and 25 minutes to minutes.\n");
  at = pty_wait(&p, at, "\033[0;1;35m4\033[0m5");
  at = pty_wait(&p, at, "% by the large model]");
  at = pty_wait(&p, at, "> ");
  pty_type(&p, "\003");
  assert_int_equal(pty_end(&p), 130);
}

/* Without a terminal an interrupted answer is the last one. */
static void test_interrupt(void **state) {
  (void)state;
  char *argv[E2E_MAX_ARGS], first;
  int out[2], status;
  const char *in = e2e_temp("in.txt"), *err = e2e_temp("err.txt");
  char text[4096];
  for (int i = 0; i < 2; i++) {
    static const char one[] = "One day\n/clear\n";
    for (size_t k = 0; k < 64; k++) memcpy(text + k * (sizeof one - 1), one, sizeof one - 1);
    e2e_write(in, text, 64 * (sizeof one - 1));
    char *words = e2e_split("chat --template plain --ignore-eos --mode small -q", argv);
    assert_int_equal(pipe(out), 0);
    assert_true(fcntl(out[1], F_SETPIPE_SZ, 4096) >= 4096);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
      dup2(open(in, O_RDONLY), 0);
      dup2(out[1], 1);
      dup2(open(err, O_WRONLY), 2);
      close(out[0]);
      execv(argv[0], argv);
      _exit(127);
    }
    close(out[1]);
    free(words);
    assert_int_equal(read(out[0], &first, 1), 1);
    kill(pid, i ? SIGTERM : SIGINT);
    size_t n = 1;
    for (ssize_t got; (got = read(out[0], text, sizeof text)) > 0;) n += (size_t)got;
    close(out[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    assert_int_equal(code, 128 + (i ? SIGTERM : SIGINT));
    assert_true(n < 64 * 1000); /* 64 answers of 500 tokens would be more */
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_turns),           cmocka_unit_test(test_ids_are_kept),
      cmocka_unit_test(test_commands),        cmocka_unit_test(test_modes_and_draws),
      cmocka_unit_test(test_overflow),        cmocka_unit_test(test_special_text),
      cmocka_unit_test(test_refusals),        cmocka_unit_test(test_lines),
      cmocka_unit_test(test_names_the_model), cmocka_unit_test(test_save),
      cmocka_unit_test(test_endless_line),    cmocka_unit_test(test_terminal),
      cmocka_unit_test(test_interrupt),
  };
  return cmocka_run_group_tests(tests, NULL, e2e_cleanup);
}
