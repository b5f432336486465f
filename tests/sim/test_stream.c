/* SPDX-License-Identifier: Apache-2.0 */
/* Text streams over a SentencePiece vocabulary, whose texts begin with a space that is not theirs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "serve/stream.h"

static weir_tokenizer *open_tokenizer(void) {
  static char text[1 << 20];
  weir_tokenizer *t = NULL;
  weir_err e = {0};
  FILE *f = fopen("tests/vectors/tokenizer/hf/llama2/tokenizer.json", "rb");
  assert_non_null(f);
  const size_t n = fread(text, 1, sizeof text, f);
  fclose(f);
  assert_in_range(n, 1, sizeof text - 1);
  if (weir_tokenizer_from_json((weir_str){text, n}, &t, &e) != WEIR_OK) fail_msg("%s", e.msg);
  return t;
}

/* A text after `started`, and the same once all but its first token were taken back and written again. */
static void expect(weir_tokenizer *t, bool started, const char *text, const char *want) {
  weir_tokens ids = {0};
  weir_stream s;
  weir_err e = {0};
  assert_int_equal(weir_tokenize(t, text, strlen(text), false, &ids, &e), WEIR_OK);
  assert_true(ids.n > 2);
  assert_int_equal(weir_stream_init(&s, t, ids.n, false, NULL, 0, &e), WEIR_OK);
  s.start.started = started;
  for (int pass = 0; pass < 2; pass++) {
    for (int32_t i = s.n; i < ids.n; i++) assert_int_equal(weir_stream_append(&s, ids.id[i], &e), WEIR_OK);
    assert_int_equal(s.text.len, strlen(want));
    assert_memory_equal(s.text.data, want, s.text.len);
    weir_stream_truncate(&s, pass == 0 ? 1 : 0);
  }
  assert_int_equal(weir_stream_append(&s, ids.id[0], &e), WEIR_OK);
  assert_int_equal(s.text.data[0] == ' ', started);
  weir_stream_fini(&s);
  weir_tokens_fini(&ids);
}

static void test_first_space(void **state) {
  (void)state;
  weir_tokenizer *t = open_tokenizer();
  expect(t, false, "Tom went home.", "Tom went home.");
  expect(t, true, "Tom went home.", " Tom went home.");
  weir_tokenizer_destroy(t);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_first_space)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
