/* SPDX-License-Identifier: Apache-2.0 */
/* Normaliser steps; what is expected is what the tokenizers library gives (normalize_str), and for normal
 * forms the rules of Unicode Standard Annex 15 written slowly. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <utf8proc.h>

#include "base/buf.h"
#include "model/tok_norm.h"
#include "model/tok_tables.h"
#include "model/tok_unicode.h"
#include "model/utf8.h"

#define M WEIR_METASPACE

static void check(const weir_norm_step *step, int32_t n, const char *text, bool at_start, const char *want) {
  weir_tok_spec s = {0};
  weir_norm *norm;
  weir_str got;
  weir_err e = {0};
  char a[WEIR_STR_SHOW_BYTES], b[WEIR_STR_SHOW_BYTES], c[WEIR_STR_SHOW_BYTES];
  for (int32_t i = 0; i < n; i++) assert_int_equal(weir_tok_spec_add_norm(&s, step[i], &e), WEIR_OK);
  if (weir_norm_create(&s, false, &norm, &e) != WEIR_OK) fail_msg("%s", e.msg);
  weir_tok_spec_fini(&s); /* nothing of it is borrowed: a sanitizer would see */
  if (weir_norm_run(norm, text, strlen(text), at_start, NULL, &got, &e) != WEIR_OK) fail_msg("%s", e.msg);
  if (!weir_str_eq(got, weir_str_of(want)))
    fail_msg("%s: got %s, want %s", weir_str_show(weir_str_of(text), a), weir_str_show(got, b),
             weir_str_show(weir_str_of(want), c));
  assert_int_equal(weir_norm_changes(norm), n > 0);
  weir_norm_destroy(norm);
}

static void single_steps(void **state) {
  (void)state;
  static const struct {
    weir_norm_step step;
    const char *text, *want;
  } rows[] = {
      {{.kind = WEIR_NORM_NFC}, "e\xcc\x81\xe1\x84\x80\xe1\x85\xa1", "\xc3\xa9\xea\xb0\x80"},
      {{.kind = WEIR_NORM_NFC}, "a\xcc\x81\xcc\xa3", "\xe1\xba\xa1\xcc\x81"}, /* marks sorted first */
      {{.kind = WEIR_NORM_NFC}, "\xe2\x84\xab\xef\xac\x81", "\xc3\x85\xef\xac\x81"},
      {{.kind = WEIR_NORM_NFC}, "\xe0\xa4\x95\xe0\xa4\xbc", "\xe0\xa4\x95\xe0\xa4\xbc"}, /* an exclusion */
      {{.kind = WEIR_NORM_NFD}, "\xc3\xa9\xea\xb0\x81", "e\xcc\x81\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8"},
      {{.kind = WEIR_NORM_NFKC},
       "\xef\xac\x81\xc2\xbd\xef\xbc\xa1",
       "fi1\xe2\x81\x84"
       "2A"},
      {{.kind = WEIR_NORM_NFKD}, "\xe2\x91\xa0\xc3\xa9", "1e\xcc\x81"},
      {{.kind = WEIR_NORM_NFKC}, "\xe3\x8b\xbf", "\xe3\x8b\xbf"}, /* newer than the library's tables */
      {{.kind = WEIR_NORM_LOWERCASE}, "AB\xc3\x84\xce\xa3\xe2\x84\xaa", "ab\xc3\xa4\xcf\x83k"},
      {{.kind = WEIR_NORM_LOWERCASE}, "\xc4\xb0", "i\xcc\x87"},
      {{.kind = WEIR_NORM_LOWERCASE}, "\xe1\xb2\x89", "\xe1\xb2\x8a"}, /* Unicode 16 */
      {{.kind = WEIR_NORM_STRIP_ACCENTS},
       "e\xcc\x81\xd9\x8b"
       "a",
       "ea"},
      {{.kind = WEIR_NORM_STRIP_ACCENTS}, "a\xdf\xbd", "a\xdf\xbd"}, /* a mark since Unicode 11 */
      {{.kind = WEIR_NORM_STRIP, .left = true}, " \xe3\x80\x80 a ", "a "},
      {{.kind = WEIR_NORM_STRIP, .right = true}, " a \xc2\xa0", " a"},
      {{.kind = WEIR_NORM_STRIP, .left = true, .right = true}, " \n ", ""},
      {{.kind = WEIR_NORM_STRIP}, " a ", " a "},
      {{.kind = WEIR_NORM_NMT}, "a\x01\tb\xe2\x80\x8b\xe2\x96\x81\x7f", "a b  "},
      {{.kind = WEIR_NORM_PREPEND, .content = {M, 3}}, "a", M "a"},
      {{.kind = WEIR_NORM_PREPEND, .content = {M, 3}}, "", ""},
      {{.kind = WEIR_NORM_REPLACE, .pattern = {" ", 1}, .content = {M, 3}}, " a  b", M "a" M M "b"},
      {{.kind = WEIR_NORM_REPLACE, .pattern = {"aa", 2}, .content = {"", 0}}, "aaab", "ab"},
      {{.kind = WEIR_NORM_REPLACE, .pattern = {" {2,}", 5}, .is_regex = true, .content = {" ", 1}},
       "a   b c",
       "a b c"},
      {{.kind = WEIR_NORM_REPLACE, .pattern = {"x*", 2}, .is_regex = true, .content = {"-", 1}},
       "axb",
       "-a-b-"},
      {{.kind = WEIR_NORM_SPACES, .content = {M, 3}}, " a  b ", M M "a" M M "b" M},
      {{.kind = WEIR_NORM_SPACES, .content = {M, 3}, .squeeze = true}, "  a  b  ", M "a" M "b"},
      {{.kind = WEIR_NORM_SPACES, .squeeze = true}, "   ", ""},
      {{.kind = WEIR_NORM_SPACES, .content = {"", 0}}, "a b", "a" M "b"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
    check(&rows[i].step, 1, rows[i].text, true, rows[i].want);
}

static void sequences(void **state) {
  (void)state;
  const weir_norm_step llama[] = {{.kind = WEIR_NORM_PREPEND, .content = {M, 3}},
                                  {.kind = WEIR_NORM_REPLACE, .pattern = {" ", 1}, .content = {M, 3}}};
  check(llama, 2, "a b", true, M "a" M "b");
  check(llama, 2, "a b", false, "a" M "b"); /* it goes on another text */
  check(llama, 0, "a b", true, "a b");
  const weir_norm_step bert[] = {
      {.kind = WEIR_NORM_NFD}, {.kind = WEIR_NORM_STRIP_ACCENTS}, {.kind = WEIR_NORM_LOWERCASE}};
  check(bert, 3, "\xc3\x89T\xc3\x89", true, "ete");
}

static void refused(void **state) {
  (void)state;
  weir_norm *norm;
  weir_err e = {0};
  weir_tok_spec s = {0};
  assert_int_equal(
      weir_tok_spec_add_norm(
          &s, (weir_norm_step){.kind = WEIR_NORM_REPLACE, .pattern = {"\\h", 2}, .is_regex = true}, &e),
      WEIR_OK);
  assert_int_equal(weir_norm_create(&s, false, &norm, &e), WEIR_EUNSUP);
  assert_null(norm);
  for (int i = s.n_norm; i < WEIR_TOK_MAX_STEPS; i++)
    assert_int_equal(weir_tok_spec_add_norm(&s, (weir_norm_step){.kind = WEIR_NORM_NFC}, &e), WEIR_OK);
  assert_int_equal(weir_tok_spec_add_norm(&s, (weir_norm_step){.kind = WEIR_NORM_NFC}, &e), WEIR_EUNSUP);
  weir_tok_spec_fini(&s);
}

/* A text that grows without end is stopped. */
static void growth(void **state) {
  (void)state;
  weir_tok_spec s = {0};
  weir_norm *norm;
  weir_str out;
  weir_err e = {0};
  char *wide = malloc(1 << 16), *text = malloc(1 << 16);
  assert_non_null(wide);
  assert_non_null(text);
  memset(wide, 'a', 1 << 16);
  memset(text, 'a', 1 << 16);
  assert_int_equal(
      weir_tok_spec_add_norm(
          &s, (weir_norm_step){.kind = WEIR_NORM_REPLACE, .pattern = {"a", 1}, .content = {wide, 1 << 16}},
          &e),
      WEIR_OK);
  assert_int_equal(weir_norm_create(&s, false, &norm, &e), WEIR_OK);
  assert_int_equal(weir_norm_run(norm, text, 1 << 16, true, NULL, &out, &e), WEIR_EINVAL);
  assert_non_null(strstr(e.msg, "normalised text is too long"));
  weir_norm_destroy(norm);
  weir_tok_spec_fini(&s);
  free(wide);
  free(text);
}

/* ---- normal forms ---- */

/* U+FDFA becomes 18 characters of 33 bytes; it stops where it is told to. */
static void growth_of_normal_forms(void **state) {
  (void)state;
  enum { N = 1 << 14, MOST = 1 << 15 };
  char *text = malloc(3 * N);
  assert_non_null(text);
  for (size_t i = 0; i < N; i++) memcpy(text + 3 * i, "\xef\xb7\xba", 3);
  for (int compose = 0; compose < 2; compose++) {
    weir_buf out = {0};
    weir_err e = {0};
    assert_int_equal(weir_normal_form(text, 3 * N, true, compose, MOST, &out, &e), WEIR_EINVAL);
    assert_non_null(strstr(e.msg, "normalised text is too long (limit 32768 bytes)"));
    assert_true(out.len <= MOST);
    weir_buf_truncate(&out, 0);
    assert_int_equal(weir_normal_form(text, 3 * N, true, compose, 33 * N, &out, &e), WEIR_OK);
    assert_int_equal(out.len, 33 * N);
    weir_buf_fini(&out);
  }
  free(text);
}

static uint32_t next_random(uint32_t *s) {
  *s ^= *s << 13;
  *s ^= *s >> 17;
  *s ^= *s << 5;
  return *s;
}

/* Against utf8proc's own normalisation, which sorts in another way, on texts of marks and letters that both
 * know. */
static void random_texts(void **state) {
  (void)state;
  static const uint32_t some[] = {'a',    'e',    0xe9,    0x1ea1,  0x301,  0x323,  0x315,
                                  0x300,  0x345,  0x1100,  0x1161,  0x11a8, 0xac00, 0xac01,
                                  0x212b, 0xfb01, 0x1d15e, 0x1d165, 0x958,  0x93c,  0x5d0,
                                  0x5b8,  0x5bc,  0xf73,   0xf71,   0x4e2d, 0x3b1,  0x1f80};
  static const utf8proc_option_t options[4] = {UTF8PROC_STABLE | UTF8PROC_DECOMPOSE,
                                               UTF8PROC_STABLE | UTF8PROC_COMPOSE,
                                               UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT,
                                               UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT};
  uint32_t seed = 99;
  for (int trial = 0; trial < 4000; trial++) {
    weir_buf text = {0}, got = {0};
    weir_err e = {0};
    const uint32_t n = 1 + next_random(&seed) % 40, marks = next_random(&seed) % 2;
    for (uint32_t i = 0; i < n; i++) {
      const uint32_t r = next_random(&seed);
      const uint32_t c =
          marks && r % 8 ? some[4 + (r >> 8) % 5] : some[(r >> 8) % (sizeof some / sizeof some[0])];
      assert_int_equal(weir_put_utf8(c, &text, &e), WEIR_OK);
    }
    for (int k = 0; k < 4; k++) {
      utf8proc_uint8_t *want;
      const utf8proc_ssize_t len =
          utf8proc_map((const utf8proc_uint8_t *)text.data, (utf8proc_ssize_t)text.len, &want, options[k]);
      assert_true(len >= 0);
      weir_buf_truncate(&got, 0);
      assert_int_equal(weir_normal_form(text.data, text.len, k >= 2, k % 2 == 1, SIZE_MAX, &got, &e),
                       WEIR_OK);
      if (got.len != (size_t)len || memcmp(got.data, want, got.len) != 0)
        fail_msg("trial %d, form %d", trial, k);
      free(want);
    }
    weir_buf_fini(&text);
    weir_buf_fini(&got);
  }
}

/* Decomposing twice is decomposing once, and composing gives what was composed, for every character. */
static void every_code_point(void **state) {
  (void)state;
  for (uint32_t c = 1; c <= 0x10ffff; c++) {
    if (c >= 0xd800 && c <= 0xdfff) continue;
    weir_buf text = {0}, once = {0}, twice = {0};
    weir_err e = {0};
    assert_int_equal(weir_put_utf8(c, &text, &e), WEIR_OK);
    assert_int_equal(weir_normal_form(text.data, text.len, false, false, SIZE_MAX, &once, &e), WEIR_OK);
    assert_int_equal(weir_normal_form(once.data, once.len, false, false, SIZE_MAX, &twice, &e), WEIR_OK);
    if (once.len != twice.len || memcmp(once.data, twice.data, once.len)) fail_msg("U+%04X", c);
    weir_buf_fini(&text);
    weir_buf_fini(&once);
    weir_buf_fini(&twice);
    if (c >= 0x30000 && c < 0xe0000) c += 0xff; /* nothing there decomposes */
  }
}

/* utf8proc's way to sort marks would take hours here. */
static void a_megabyte_of_marks(void **state) {
  (void)state;
  enum { BYTES = 1 << 20, SECONDS = 10 };
  static const char *const pairs[] = {"\xcc\x95\xcc\x80", "\xcc\x81\xcc\xa3", "\xcc\x81"};
  char *text = malloc(BYTES);
  assert_non_null(text);
  for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
    weir_buf out = {0};
    weir_err e = {0};
    const size_t len = strlen(pairs[i]);
    for (size_t k = 0; k < BYTES; k++) text[k] = pairs[i][k % len];
    const clock_t begin = clock();
    assert_int_equal(weir_normal_form(text, BYTES, true, true, SIZE_MAX, &out, &e), WEIR_OK);
    const double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
    if (seconds > SECONDS) fail_msg("%.1f s", seconds);
    assert_int_equal(out.len, BYTES); /* nothing to compose with: the same marks, sorted */
    weir_buf_fini(&out);
  }
  free(text);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(single_steps),
      cmocka_unit_test(sequences),
      cmocka_unit_test(refused),
      cmocka_unit_test(growth),
      cmocka_unit_test(growth_of_normal_forms),
      cmocka_unit_test(random_texts),
      cmocka_unit_test(every_code_point),
      cmocka_unit_test(a_megabyte_of_marks),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
