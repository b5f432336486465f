/* SPDX-License-Identifier: Apache-2.0 */
/* Tokenizers of published vocabularies against llama.cpp's own expectations: 46 texts each, from
 * ../shared/data/tokenizers/vectors.tar.xz. Skipped (77) where that is absent. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "model/tokenizer.h"

#define ARCHIVE   "../shared/data/tokenizers/vectors.tar.xz"
#define SEPARATOR "\n__ggml_vocab_test__\n"
enum { N_TEXTS = 46 };

extern char **environ;
static char folder[] = "/tmp/weir-test-vectors-XXXXXX";

static int run(const char *const argv[]) {
  pid_t pid;
  int status;
  if (posix_spawnp(&pid, argv[0], NULL, NULL, (char *const *)(uintptr_t)argv, environ) != 0) return -1;
  return waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void read_file(const char *vocabulary, const char *ending, weir_buf *out) {
  char path[256], chunk[4096];
  snprintf(path, sizeof path, "%s/llama.cpp/ggml-vocab-%s.gguf%s", folder, vocabulary, ending);
  FILE *f = fopen(path, "rb");
  if (!f) fail_msg("cannot open %s", path);
  for (size_t n; (n = fread(chunk, 1, sizeof chunk, f)) > 0;)
    assert_int_equal(weir_buf_put(out, chunk, n, NULL), WEIR_OK);
  fclose(f);
}

static void one_vocabulary(void **state) {
  const char *name = *state;
  weir_err e = {0};
  weir_gguf *g;
  weir_tokenizer *t;
  weir_buf in = {0}, out = {0};
  char path[256];
  snprintf(path, sizeof path, "%s/llama.cpp/ggml-vocab-%s.gguf", folder, name);
  if (weir_gguf_open(path, &g, &e) != WEIR_OK) fail_msg("%s", e.msg);
  if (weir_tokenizer_from_gguf(g, &t, &e) != WEIR_OK) fail_msg("%s", e.msg);
  weir_gguf_close(g);
  read_file(name, ".inp", &in);
  read_file(name, ".out", &out);
  const char *text = in.data;
  char *want = out.data;
  int rows = 0;
  for (const char *end; (end = strstr(text, SEPARATOR)) != NULL; rows++, text = end + strlen(SEPARATOR)) {
    weir_tokens ids = {0};
    if (weir_tokenize(t, text, (size_t)(end - text), false, &ids, &e) != WEIR_OK) fail_msg("%s", e.msg);
    char *line_end = strchr(want, '\n');
    assert_non_null(line_end);
    for (int32_t i = 0; i < ids.n; i++) {
      char *after;
      const long id = strtol(want, &after, 10);
      if (after == want || after > line_end || id != ids.id[i])
        fail_msg("%s, text %d: id %d is %d, want %ld", name, rows, i, ids.id[i], id);
      want = after;
    }
    if (want != line_end) fail_msg("%s, text %d: more than %d ids expected", name, rows, ids.n);
    want = line_end + 1;
    weir_tokens_fini(&ids);
  }
  assert_int_equal(rows, N_TEXTS);
  weir_buf_fini(&in);
  weir_buf_fini(&out);
  weir_tokenizer_destroy(t);
}

/* What weir does not do is refused by name. */
static void refused_vocabularies(void **state) {
  (void)state;
  static const struct {
    const char *name, *fragment;
  } rows[] = {{"bert-bge", "tokenizer model \"bert\" is not supported (known: gpt2"}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    char path[256];
    weir_err e = {0};
    weir_gguf *g;
    weir_tokenizer *t;
    snprintf(path, sizeof path, "%s/llama.cpp/ggml-vocab-%s.gguf", folder, rows[i].name);
    if (weir_gguf_open(path, &g, &e) != WEIR_OK) fail_msg("%s", e.msg);
    assert_int_equal(weir_tokenizer_from_gguf(g, &t, &e), WEIR_EUNSUP);
    if (!strstr(e.msg, rows[i].fragment)) fail_msg("%s: %s", rows[i].name, e.msg);
    weir_gguf_close(g);
  }
}

static void same_is_particular(void **state) {
  (void)state;
  static const char *const name[2] = {"refact", "starcoder"};
  weir_tokenizer *t[2];
  weir_err e = {0};
  int32_t n;
  for (int i = 0; i < 2; i++) {
    char path[256];
    weir_gguf *g;
    snprintf(path, sizeof path, "%s/llama.cpp/ggml-vocab-%s.gguf", folder, name[i]);
    if (weir_gguf_open(path, &g, &e) != WEIR_OK) fail_msg("%s", e.msg);
    if (weir_tokenizer_from_gguf(g, &t[i], &e) != WEIR_OK) fail_msg("%s", e.msg);
    weir_gguf_close(g);
  }
  assert_int_equal(weir_tokenizer_same(t[0], t[0], &n, &e), WEIR_OK);
  assert_int_equal(weir_tokenizer_same(t[0], t[1], &n, &e), WEIR_EINVAL);
  if (!strstr(e.msg, "token 5 is \"<filename>\" in the small model and \"<repo_name>\" in the large one"))
    fail_msg("%s", e.msg);
  weir_tokenizer_destroy(t[0]);
  weir_tokenizer_destroy(t[1]);
}

#define VOCABULARY(name) \
  { name, one_vocabulary, NULL, NULL, (void *)(uintptr_t)name }

int main(void) {
  if (access(ARCHIVE, R_OK) != 0) {
    printf("SKIP: %s is absent\n", ARCHIVE);
    return 77;
  }
  if (!mkdtemp(folder)) {
    perror(folder);
    return 1;
  }
  const char *const unpack[] = {"tar", "xJf", ARCHIVE, "-C", folder, NULL};
  const char *const remove[] = {"rm", "-rf", folder, NULL};
  int failed = 1;
  if (run(unpack) == 0) {
    const struct CMUnitTest tests[] = {
        VOCABULARY("gpt-2"),
        VOCABULARY("mpt"),
        VOCABULARY("starcoder"),
        VOCABULARY("refact"),
        VOCABULARY("deepseek-llm"),
        VOCABULARY("deepseek-coder"),
        VOCABULARY("falcon"),
        VOCABULARY("llama-spm"),
        VOCABULARY("phi-3"),
        cmocka_unit_test(refused_vocabularies),
        cmocka_unit_test(same_is_particular),
    };
    failed = cmocka_run_group_tests(tests, NULL, NULL);
  } else {
    fprintf(stderr, "cannot unpack %s\n", ARCHIVE);
  }
  run(remove);
  return failed;
}
