/* SPDX-License-Identifier: Apache-2.0 */
/* SentencePiece vocabularies in GGUF against llama.cpp (vectors/tokenizer/llamacpp.txt), on published files
 * of
 * ../shared. Skipped (77) where those are absent. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "model/tokenizer.h"
#include "vector_strings.h"

enum { N_STRINGS = 240, MAX_IDS = 1024, MAX_REPORTED = 5 };

static vector_strings strings;

static weir_tokenizer *open_vocabulary(const char *name) {
  char path[256];
  weir_gguf *g;
  weir_tokenizer *t;
  weir_err e = {0};
  snprintf(path, sizeof path, "%s/llama.cpp/ggml-vocab-%s.gguf", vector_archive(), name);
  if (weir_gguf_open(path, &g, &e) != WEIR_OK) fail_msg("%s", e.msg);
  if (weir_tokenizer_from_gguf(g, &t, &e) != WEIR_OK) fail_msg("%s: %s", name, e.msg);
  weir_gguf_close(g);
  return t;
}

/* A line: vocabulary, number of the string, ids. */
static void same_ids(void **state) {
  const char *name = *state;
  weir_buf file = {0};
  int rows = 0, wrong = 0;
  weir_tokenizer *t = open_vocabulary(name);
  vector_file_read(VECTORS "llamacpp.txt", &file);
  for (char *line = file.data, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
    static int32_t want[MAX_IDS];
    const size_t len = strlen(name);
    int32_t n = 0;
    *end = 0;
    if (strncmp(line, name, len) != 0 || line[len] != ' ') continue;
    char *p = line + len;
    const long i = strtol(p, &p, 10);
    assert_in_range(i, 0, N_STRINGS - 1);
    while (*p) {
      assert_true(n < MAX_IDS);
      want[n++] = (int32_t)strtol(p, &p, 10);
    }
    weir_tokens ids = {0};
    weir_err e = {0};
    if (weir_tokenize(t, strings.s[i].data, strings.s[i].len, true, &ids, &e) != WEIR_OK)
      fail_msg("%s", e.msg);
    if ((ids.n != n || (n && memcmp(ids.id, want, (size_t)n * sizeof *want) != 0)) &&
        wrong++ < MAX_REPORTED) {
      char shown[WEIR_STR_SHOW_BYTES];
      print_message("string %ld %s\n  got ", i, weir_str_show(strings.s[i], shown));
      for (int32_t k = 0; k < ids.n; k++) print_message(" %d", ids.id[k]);
      print_message("\n  want%s\n", strchr(line + len + 1, ' ') ? strchr(line + len + 1, ' ') : "");
    }
    weir_tokens_fini(&ids);
    rows++;
  }
  weir_buf_fini(&file);
  weir_tokenizer_destroy(t);
  assert_int_equal(rows, N_STRINGS);
  if (wrong) fail_msg("%s: %d of %d strings have other ids", name, wrong, rows);
}

#define VOCABULARY(name) \
  { name, same_ids, NULL, NULL, (void *)(uintptr_t)name }

int main(void) {
  const struct CMUnitTest tests[] = {VOCABULARY("llama-spm"), VOCABULARY("phi-3"), VOCABULARY("baichuan")};
  if (!vector_archive()) {
    printf("SKIP: no archive of vocabularies in ../shared\n");
    return 77;
  }
  vector_strings_read(VECTORS "hf/strings.txt", &strings);
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  vector_strings_fini(&strings);
  vector_archive_remove();
  return failed;
}
