/* SPDX-License-Identifier: Apache-2.0 */
/* Compiled character maps against sentencepiece and the tokenizers library
 * (vectors/tokenizer/make_charsmap_goldens.py), broken maps, and texts made to be slow. The large map is in
 * ../shared. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "model/charsmap.h"
#include "model/sp_model.h"
#include "vector_strings.h"

enum { N_SMALL = 3000, N_LARGE = 10000 };

static weir_charsmap *must_create(weir_str blob) {
  weir_charsmap *m;
  weir_err e = {0};
  if (weir_charsmap_create(blob, &m, &e) != WEIR_OK) fail_msg("%s", e.msg);
  return m;
}

/* The strings from `word` on in charsmap.bin. */
static void check(weir_charsmap *m, bool spm, int32_t n, size_t word) {
  vector_strings strings;
  weir_buf want = {0}, out = {0};
  weir_err e = {0};
  int changed = 0;
  vector_strings_read(VECTORS "hf/strings.txt", &strings);
  vector_file_read(VECTORS "charsmap.bin", &want);
  assert_int_equal(strings.n, N_LARGE);
  for (int32_t i = 0; i < n; i++) {
    char shown[WEIR_STR_SHOW_BYTES], got[WEIR_STR_SHOW_BYTES];
    const weir_str s = strings.s[i];
    weir_buf_truncate(&out, 0);
    if (weir_charsmap_run(m, s.data, s.len, spm, SIZE_MAX, &out, &e) != WEIR_OK) fail_msg("%s", e.msg);
    if (vector_hash(out.data, out.len) != vector_word(&want, word + (size_t)i))
      fail_msg("string %d %s becomes %s", i, weir_str_show(s, shown),
               weir_str_show((weir_str){out.data, out.len}, got));
    changed += !weir_str_eq(s, (weir_str){out.data, out.len});
  }
  print_message("%d of %d strings change\n", changed, n);
  assert_true(changed > n / 3);
  weir_buf_fini(&out);
  weir_buf_fini(&want);
  vector_strings_fini(&strings);
}

static void small_map(void **state) {
  (void)state;
  weir_buf blob = {0};
  vector_file_read(VECTORS "charsmap_small.bin", &blob);
  weir_charsmap *m = must_create((weir_str){blob.data, blob.len});
  weir_buf_fini(&blob); /* it was copied */
  check(m, true, N_SMALL, 0);
  check(m, false, N_SMALL, N_SMALL);
  weir_charsmap_destroy(m);
}

static weir_charsmap *large_map(void) {
  char path[256];
  weir_buf file = {0};
  weir_sp_model model;
  weir_err e = {0};
  const char *folder = vector_archive();
  if (!folder) {
    print_message("SKIP: no archive of vocabularies in ../shared\n");
    skip();
  }
  snprintf(path, sizeof path, "%s/transformers-fixtures/test_sentencepiece.model", folder);
  vector_file_read(path, &file);
  if (weir_sp_model_parse(file.data, file.len, &model, &e) != WEIR_OK) fail_msg("%s", e.msg);
  weir_charsmap *m = must_create(model.charsmap);
  weir_sp_model_fini(&model);
  weir_buf_fini(&file);
  return m;
}

static void nmt_nfkc(void **state) {
  (void)state;
  weir_charsmap *m = large_map();
  check(m, true, N_LARGE, 2 * N_SMALL);
  check(m, false, N_LARGE, 2 * N_SMALL + N_LARGE);
  weir_charsmap_destroy(m);
}

static void bytes_that_are_no_text(void **state) {
  (void)state;
  static const weir_str text = {"\xff\xef\xac\x81\x80 \xe2\x80\xa6\xef\xac", 11};
  static const char want[] =
      "\xff"
      "fi\x80 ...\xef\xac";
  weir_buf blob = {0}, out = {0};
  weir_err e = {0};
  vector_file_read(VECTORS "charsmap_small.bin", &blob);
  weir_charsmap *m = must_create((weir_str){blob.data, blob.len});
  for (int spm = 0; spm < 2; spm++) {
    weir_buf_truncate(&out, 0);
    assert_int_equal(weir_charsmap_run(m, text.data, text.len, spm, SIZE_MAX, &out, &e), WEIR_OK);
    assert_string_equal(out.data, want);
  }
  weir_charsmap_destroy(m);
  m = must_create((weir_str){NULL, 0});
  weir_buf_truncate(&out, 0);
  assert_int_equal(weir_charsmap_run(m, text.data, text.len, true, SIZE_MAX, &out, &e), WEIR_OK);
  assert_int_equal(out.len, text.len);
  assert_memory_equal(out.data, text.data, text.len);
  weir_charsmap_destroy(m);
  weir_charsmap_destroy(NULL);
  weir_buf_fini(&out);
  weir_buf_fini(&blob);
}

/* ---- broken maps ---- */

static void put_u32(weir_buf *b, uint32_t v) {
  const unsigned char le[4] = {(unsigned char)v, (unsigned char)(v >> 8), (unsigned char)(v >> 16),
                               (unsigned char)(v >> 24)};
  assert_int_equal(weir_buf_put(b, le, 4, NULL), WEIR_OK);
}

/* A map of n units, all unused but those given as index, value pairs; then the texts. */
static void build(weir_buf *b, uint32_t n, const uint32_t (*unit)[2], size_t n_given, const char *texts,
                  size_t len) {
  put_u32(b, n * 4);
  for (uint32_t i = 0; i < n; i++) {
    uint32_t v = 0x80000000u;
    for (size_t k = n_given; k-- > 0;) /* the first of those with one index counts: rows end in zeros */
      if (unit[k][0] == i) v = unit[k][1];
    put_u32(b, v);
  }
  assert_int_equal(weir_buf_put(b, texts, len, NULL), WEIR_OK);
}

#define NODE(label, distance, leaf) ((uint32_t)(label) | (uint32_t)(leaf) << 8 | (uint32_t)(distance) << 10)

static void broken_maps(void **state) {
  (void)state;
  static char long_text[1200];
  memset(long_text, 'x', sizeof long_text - 1);
  const struct {
    uint32_t n;
    uint32_t unit[4][2];
    const char *texts;
    size_t len;
    weir_status status;
    const char *fragment;
  } rows[] = {
      /* 'a' -> "b": root's children at 0 ^ 4, 'a' at 4 ^ 0x61 = 0x65, its leaf at 0x65 ^ 8 */
      {256, {{0, NODE(0, 4, 0)}, {0x65, NODE('a', 8, 1)}, {0x6d, 0x80000000u}}, "b", 2, WEIR_OK, ""},
      {255, {{0, NODE(0, 4, 0)}}, "b", 2, WEIR_EFORMAT, "an array of 255 units"},
      {0, {{0, 0}}, "b", 2, WEIR_EFORMAT, "an array of 0 units"},
      {256, {{0, 0x80000000u}}, "b", 2, WEIR_EFORMAT, "the root is a leaf"},
      {256, {{0, NODE(0, 256, 0)}}, "b", 2, WEIR_EFORMAT, "a node's children lie outside"},
      {256, {{0, NODE(0, 4, 0) | 0x200}}, "b", 2, WEIR_EFORMAT, "a node's children lie outside"}, /* 4 << 8 */
      {256,
       {{0, NODE(0, 4, 0)}, {0x65, NODE('a', 8, 1)}, {0x6d, NODE(1, 0, 0)}},
       "b",
       2,
       WEIR_EFORMAT,
       "a node's leaf is none"},
      {256,
       {{0, NODE(0, 4, 0)}, {0x65, NODE('a', 8, 1)}, {0x6d, 0x80000002u}},
       "b",
       2,
       WEIR_EFORMAT,
       "a rule's text lies outside"},
      {256,
       {{0, NODE(0, 4, 0)}, {0x65, NODE('a', 8, 1)}, {0x6d, 0x80000001u}},
       "\xc3\xa9",
       3,
       WEIR_EFORMAT,
       "a rule's text begins inside a character"},
      {256, {{0, NODE(0, 4, 0)}}, "b", 1, WEIR_EFORMAT, "its texts do not end"},
      {256, {{0, NODE(0, 4, 0)}}, "", 0, WEIR_EFORMAT, "its texts do not end"},
      {256, {{0, NODE(0, 4, 0)}}, "\xc3", 2, WEIR_EFORMAT, "its texts are no UTF-8"},
      {256,
       {{0, NODE(0, 4, 0)}},
       long_text,
       sizeof long_text,
       WEIR_EUNSUP,
       "a rule puts more than 1024 bytes"},
      /* 'a' whose children are its own siblings: a, aa, aaa, ... */
      {256,
       {{0, NODE(0, 4, 0)}, {0x65, NODE('a', 0x61, 0)}},
       "b",
       2,
       WEIR_EFORMAT,
       "a rule's key has no end"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    weir_buf b = {0};
    weir_err e = {0};
    weir_charsmap *m;
    build(&b, rows[i].n, rows[i].unit, 4, rows[i].texts, rows[i].len);
    const weir_status st = weir_charsmap_create((weir_str){b.data, b.len}, &m, &e);
    if (st != rows[i].status || !strstr(e.msg, rows[i].fragment))
      fail_msg("row %zu: got %d \"%s\", want %d with \"%s\"", i, st, e.msg, rows[i].status, rows[i].fragment);
    if (st == WEIR_OK) {
      weir_buf out = {0};
      assert_int_equal(weir_charsmap_run(m, "cab", 3, true, SIZE_MAX, &out, &e), WEIR_OK);
      assert_string_equal(out.data, "cbb");
      weir_buf_fini(&out);
      weir_charsmap_destroy(m);
    }
    weir_buf_fini(&b);
  }
}

/* A rule that makes much of little: nothing is put beyond the limit, which itself may be reached. */
static void growth(void **state) {
  (void)state;
  enum { MADE = WEIR_CHARSMAP_MAX_TEXT_BYTES, N = 4096, MOST = 64 * N };
  static const uint32_t units[][2] = {
      {0, NODE(0, 1, 0)}, {1 ^ 'a', NODE('a', (1 ^ 'a') ^ 200, 1)}, {200, 0x80000000u}};
  char made[MADE + 1], text[N];
  weir_buf b = {0};
  weir_err e = {0};
  memset(made, 'x', MADE);
  made[MADE] = 0;
  memset(text, 'a', N);
  build(&b, 256, units, 3, made, sizeof made);
  weir_charsmap *m = must_create((weir_str){b.data, b.len});
  for (int spm = 0; spm < 2; spm++) {
    weir_buf out = {0};
    assert_int_equal(weir_charsmap_run(m, text, MOST / MADE, spm, MOST, &out, &e), WEIR_OK);
    assert_int_equal(out.len, MOST);
    weir_buf_fini(&out);
    assert_int_equal(weir_charsmap_run(m, text, N, spm, MOST, &out, &e), WEIR_EINVAL);
    if (!strstr(e.msg, "normalised text is too long (limit 262144 bytes)")) fail_msg("%s", e.msg);
    assert_int_equal(out.len, MOST);
    weir_buf_fini(&out);
    memset(text, 'b', MOST / MADE); /* what no rule is for counts too */
    assert_int_equal(weir_charsmap_run(m, text, MOST / MADE, spm, MOST / MADE - 1, &out, &e), WEIR_EINVAL);
    memset(text, 'a', MOST / MADE);
    weir_buf_fini(&out);
  }
  weir_charsmap_destroy(m);
  weir_buf_fini(&b);
}

/* Paths may join: two letters with the same children. Keys that are too long for their number: a chain. */
static void joined_and_long_paths(void **state) {
  (void)state;
  static const uint32_t joined[][2] = {{0, NODE(0, 1, 0)},
                                       {1 ^ 'a', NODE('a', (1 ^ 'a') ^ 200, 0)},
                                       {1 ^ 'b', NODE('b', (1 ^ 'b') ^ 200, 0)},
                                       {200 ^ 'c', NODE('c', 3, 1)},
                                       {200 ^ 'c' ^ 3, 0x80000000u}};
  weir_buf b = {0}, out = {0};
  weir_err e = {0};
  build(&b, 256, joined, 5, "!", 2);
  weir_charsmap *m = must_create((weir_str){b.data, b.len});
  assert_int_equal(weir_charsmap_run(m, "acbcabc", 7, true, SIZE_MAX, &out, &e), WEIR_OK);
  assert_string_equal(out.data, "!!a!");
  weir_charsmap_destroy(m);
  weir_buf_fini(&out);
  /* A key of so many 'a'. The node of depth d stands at 256 d + 'a', its children at 256 (d + 1). */
  for (uint32_t length = WEIR_CHARSMAP_MAX_KEY_BYTES; length <= WEIR_CHARSMAP_MAX_KEY_BYTES + 1; length++) {
    const uint32_t n = (length + 2) * 256;
    weir_buf_truncate(&b, 0);
    put_u32(&b, n * 4);
    for (uint32_t i = 0; i < n; i++) {
      const uint32_t depth = i / 256;
      uint32_t v = 0x80000000u;
      if (i == 0) v = NODE(0, 256, 0);
      if (depth >= 1 && depth <= length && i % 256 == 'a')
        v = NODE('a', i ^ (depth + 1) * 256, depth == length);
      put_u32(&b, v);
    }
    assert_int_equal(weir_buf_put(&b, "x", 2, NULL), WEIR_OK);
    const weir_status st = weir_charsmap_create((weir_str){b.data, b.len}, &m, &e);
    if (length == WEIR_CHARSMAP_MAX_KEY_BYTES) {
      char text[WEIR_CHARSMAP_MAX_KEY_BYTES + 2];
      memset(text, 'a', sizeof text);
      assert_int_equal(st, WEIR_OK);
      out = (weir_buf){0};
      assert_int_equal(weir_charsmap_run(m, text, sizeof text, true, SIZE_MAX, &out, &e), WEIR_OK);
      assert_string_equal(out.data, "xaa");
      weir_buf_fini(&out);
      weir_charsmap_destroy(m);
    } else {
      assert_int_equal(st, WEIR_EUNSUP);
      if (!strstr(e.msg, "a rule for more than 256 bytes")) fail_msg("%s", e.msg);
    }
  }
  weir_buf_fini(&b);
}

static void every_byte_changed(void **state) {
  (void)state;
  static const uint8_t change[] = {0x01, 0x80, 0xff, 0x02};
  static const char raw[] = "a\xef\xac\x81 e\xcc\x81 \xe2\x80\xa6\xf0\x9f\x98\x80\0\t\xff";
  const weir_str text = {raw, sizeof raw - 1};
  weir_buf blob = {0};
  int good = 0, bad = 0;
  vector_file_read(VECTORS "charsmap_small.bin", &blob);
  for (size_t i = 0; i < blob.len; i++)
    for (size_t k = 0; k < sizeof change; k++) {
      weir_charsmap *m;
      weir_err e = {0};
      weir_buf out = {0};
      blob.data[i] = (char)((uint8_t)blob.data[i] ^ change[k]);
      if (weir_charsmap_create((weir_str){blob.data, blob.len}, &m, &e) == WEIR_OK) {
        assert_int_equal(weir_charsmap_run(m, text.data, text.len, true, SIZE_MAX, &out, &e), WEIR_OK);
        assert_int_equal(weir_charsmap_run(m, text.data, text.len, false, SIZE_MAX, &out, &e), WEIR_OK);
        weir_charsmap_destroy(m);
        good++;
      } else {
        assert_true(e.msg[0] != 0);
        bad++;
      }
      weir_buf_fini(&out);
      blob.data[i] = (char)((uint8_t)blob.data[i] ^ change[k]);
    }
  for (size_t n = 1; n < blob.len; n++) {
    weir_charsmap *m;
    weir_err e = {0};
    if (weir_charsmap_create((weir_str){blob.data, n}, &m, &e) == WEIR_OK) {
      weir_charsmap_destroy(m); /* less text at the end, that no rule needs or that ends by chance */
      good++;
    }
  }
  print_message("%d maps taken, %d refused\n", good, bad);
  assert_true(bad > 100 && good > 100);
  weir_buf_fini(&blob);
}

static void hostile_texts(void **state) {
  (void)state;
  enum { BYTES = 1 << 20 };
  static const char *const pattern[] = {
      "e\xcc\x81", "\xcc\x81", "\xf0\x9f\x87\xa9", "\xe2\x80\x8d", "\xef\xac\x81", "\r\n", "\xff"};
  char *text = malloc(BYTES);
  weir_buf blob = {0};
  weir_err e = {0};
  assert_non_null(text);
  vector_file_read(VECTORS "charsmap_small.bin", &blob);
  weir_charsmap *m = must_create((weir_str){blob.data, blob.len});
  for (size_t p = 0; p < sizeof pattern / sizeof pattern[0]; p++)
    for (int spm = 0; spm < 2; spm++) {
      struct timespec t0, t1;
      weir_buf out = {0};
      const size_t unit = strlen(pattern[p]), len = BYTES / unit * unit;
      for (size_t i = 0; i < len; i++) text[i] = pattern[p][i % unit];
      clock_gettime(CLOCK_MONOTONIC, &t0);
      assert_int_equal(weir_charsmap_run(m, text, len, spm, SIZE_MAX, &out, &e), WEIR_OK);
      clock_gettime(CLOCK_MONOTONIC, &t1);
      const double took = (double)(t1.tv_sec - t0.tv_sec) + 1e-9 * (double)(t1.tv_nsec - t0.tv_nsec);
      print_message("pattern %zu, %s: %zu bytes, %.2f s\n", p, spm ? "longest" : "clusters", out.len, took);
      assert_true(took < 20);
      weir_buf_fini(&out);
    }
  weir_charsmap_destroy(m);
  weir_buf_fini(&blob);
  free(text);
}

static void base64(void **state) {
  (void)state;
  static const struct {
    const char *text, *want; /* want NULL: refused */
  } rows[] = {{"", ""},        {"Zg==", "f"},          {"Zm8=", "fo"},
              {"Zm9v", "foo"}, {"Zm9vYmFy", "foobar"}, {"+/+/", "\xfb\xff\xbf"},
              {"Zg=", NULL},   {"Zg", NULL},           {"Z===", NULL},
              {"Zh==", NULL},  {"Zm9=", NULL},         {"Zg==Zg==", NULL},
              {"Zm 9", NULL},  {"Zm9\n", NULL},        {"====", NULL}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    weir_buf out = {0};
    weir_err e = {0};
    assert_int_equal(weir_buf_puts(&out, ">", &e), WEIR_OK);
    const weir_status st = weir_base64_decode(weir_str_of(rows[i].text), &out, &e);
    if (st != (rows[i].want ? WEIR_OK : WEIR_EFORMAT)) fail_msg("row %zu: %d %s", i, st, e.msg);
    assert_string_equal(out.data + 1, rows[i].want ? rows[i].want : "");
    weir_buf_fini(&out);
  }
}

static int finish(void **state) {
  (void)state;
  vector_archive_remove();
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(small_map),
      cmocka_unit_test(nmt_nfkc),
      cmocka_unit_test(bytes_that_are_no_text),
      cmocka_unit_test(broken_maps),
      cmocka_unit_test(growth),
      cmocka_unit_test(joined_and_long_paths),
      cmocka_unit_test(every_byte_changed),
      cmocka_unit_test(hostile_texts),
      cmocka_unit_test(base64),
  };
  return cmocka_run_group_tests(tests, NULL, finish);
}
