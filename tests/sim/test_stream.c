/* SPDX-License-Identifier: Apache-2.0 */
/* Text streams over a SentencePiece vocabulary, whose texts begin with a space that is not theirs: what is
 * shown, when, with and without stop strings. */
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

/* ---- what is shown ---- */

typedef struct shown {
  char text[256];
  size_t len;
  int32_t n;
} shown;

static void on_piece(void *ctx, int32_t index, const char *text, size_t len) {
  shown *x = ctx;
  assert_int_equal(index, x->n++); /* in order, each once */
  assert_true(x->len + len <= sizeof x->text);
  memcpy(x->text + x->len, text, len);
  x->len += len;
}

/* The tokens that write `text` and none of its space. */
static void tokens_of(weir_tokenizer *t, const char *text, weir_tokens *ids) {
  weir_err e = {0};
  if (weir_tokenize(t, text, strlen(text), false, ids, &e) != WEIR_OK) fail_msg("%s", e.msg);
}

static void expect_shown(const shown *x, const char *want, int32_t n) {
  if (x->len != strlen(want) || memcmp(x->text, want, x->len) != 0)
    fail_msg("\"%.*s\", want \"%s\"", (int)x->len, x->text, want);
  assert_int_equal(x->n, n);
}

/* A text that ends within a character: the same with stop strings and without, token by token or at once,
 * with tokens tried behind it and without. */
static void test_unfinished_character(void **state) {
  (void)state;
  static const char *const stops[] = {"never", "zz", "\xf0\x9f"};
  static const char *const want[] = {
      "a", "a\xef\xbf\xbd", "a\xef\xbf\xbd", "a\xef\xbf\xbd", "a\xf0\x9f\x98\x80", "a\xf0\x9f\x98\200b"};
  weir_tokenizer *t = open_tokenizer();
  weir_tokens ids = {0};
  weir_err e = {0};
  tokens_of(t, "a\xf0\x9f\x98\200b", &ids); /* the character is written byte by byte */
  assert_int_equal(ids.n, 6);
  for (int32_t n = 1; n <= 6; n++)
    for (int32_t n_stop = 0; n_stop <= 2; n_stop++)
      for (int32_t way = 0; way < 3; way++) {
        weir_stream s;
        shown x = {.n = 0};
        assert_int_equal(weir_stream_init(&s, t, 12, false, stops, n_stop, &e), WEIR_OK);
        for (int32_t i = 0; i < n; i++) {
          assert_int_equal(weir_stream_append(&s, ids.id[i], &e), WEIR_OK);
          if (way == 0) assert_int_equal(weir_stream_show(&s, i + 1, false, on_piece, &x, &e), WEIR_OK);
          if (way == 0 && (i == 0 || i > 3)) assert_int_equal(x.n, i + 1); /* nothing to wait for */
        }
        for (int32_t i = n; way == 2 && i < n + 3; i++)
          assert_int_equal(weir_stream_append(&s, ids.id[i % 6], &e), WEIR_OK);
        assert_int_equal(weir_stream_show(&s, n, true, on_piece, &x, &e), WEIR_OK);
        expect_shown(&x, want[n - 1], n);
        weir_stream_fini(&s);
      }
  weir_tokens_fini(&ids);
  weir_tokenizer_destroy(t);
}

/* A stop string that is whole with token min_new - 1 ends nothing; one that is whole with token min_new or a
 * later one does. What may be the beginning of one waits. */
static void test_stop_and_min_new(void **state) {
  (void)state;
  static const char *const stops[] = {"went", "home."};
  weir_tokenizer *t = open_tokenizer();
  weir_tokens ids = {0};
  weir_err e = {0};
  tokens_of(t, "Tom went home. He went.", &ids);
  for (int32_t min_new = 0; min_new <= ids.n; min_new++) {
    weir_stream s;
    shown x = {.n = 0};
    assert_int_equal(weir_stream_init(&s, t, ids.n, false, stops, 2, &e), WEIR_OK);
    s.min_new = min_new;
    size_t before = 0, stop_at = SIZE_MAX;
    int32_t n = 0;
    while (n < ids.n && !s.stopped) {
      assert_int_equal(weir_stream_append(&s, ids.id[n], &e), WEIR_OK);
      n++;
      for (size_t i = 0; i < 2 && n >= min_new; i++) { /* which ends with this token? */
        const size_t len = strlen(stops[i]);
        for (size_t at = 0; at + len <= s.text.len; at++)
          if (at + len > before && memcmp(s.text.data + at, stops[i], len) == 0 && at < stop_at) stop_at = at;
      }
      before = s.text.len;
      assert_int_equal(s.stopped, stop_at != SIZE_MAX);
      assert_int_equal(weir_stream_show(&s, n, false, on_piece, &x, &e), WEIR_OK);
      if (s.stopped) assert_int_equal(s.stop_at, stop_at);
    }
    assert_int_equal(weir_stream_show(&s, n, true, on_piece, &x, &e), WEIR_OK);
    char want[64] = {0};
    memcpy(want, "Tom went home. He went.", s.stopped ? stop_at : s.text.len);
    expect_shown(&x, want, n);
    weir_stream_fini(&s);
  }
  weir_tokens_fini(&ids);
  weir_tokenizer_destroy(t);
}

/* A stop string that was taken back has not been found. */
static void test_stop_taken_back(void **state) {
  (void)state;
  static const char *const stops[] = {"went"};
  weir_tokenizer *t = open_tokenizer();
  weir_tokens ids = {0}, other = {0};
  weir_err e = {0};
  weir_stream s;
  shown x = {.n = 0};
  tokens_of(t, "Tom went", &ids);
  tokens_of(t, "Tom came home", &other);
  assert_int_equal(ids.id[0], other.id[0]);
  assert_int_equal(weir_stream_init(&s, t, 20, false, stops, 1, &e), WEIR_OK);
  for (int32_t i = 0; i < ids.n; i++) assert_int_equal(weir_stream_append(&s, ids.id[i], &e), WEIR_OK);
  assert_true(s.stopped);
  weir_stream_truncate(&s, 1);
  assert_false(s.stopped);
  for (int32_t i = 1; i < other.n; i++) assert_int_equal(weir_stream_append(&s, other.id[i], &e), WEIR_OK);
  assert_false(s.stopped);
  assert_int_equal(weir_stream_show(&s, other.n, true, on_piece, &x, &e), WEIR_OK);
  expect_shown(&x, "Tom came home", other.n);
  weir_stream_fini(&s);
  weir_tokens_fini(&ids);
  weir_tokens_fini(&other);
  weir_tokenizer_destroy(t);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_first_space),
      cmocka_unit_test(test_unfinished_character),
      cmocka_unit_test(test_stop_and_min_new),
      cmocka_unit_test(test_stop_taken_back),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
