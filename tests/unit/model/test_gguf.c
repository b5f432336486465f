/* SPDX-License-Identifier: Apache-2.0 */
/* Round trips through the GGUF reader, and its typed access. Malformed files: test_gguf_malformed.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gguf_writer.h"
#include "model/gguf.h"

typedef struct opened {
  uint8_t *file;
  size_t len;
  weir_gguf *g;
} opened;

static opened open_writer(gguf_writer *w) {
  weir_err e = {0};
  opened o;
  o.file = gguf_writer_file(w, &o.len);
  gguf_writer_fini(w);
  if (weir_gguf_parse(o.file, o.len, &o.g, &e) != WEIR_OK) fail_msg("%s", e.msg);
  return o;
}
static void close_opened(opened *o) {
  weir_gguf_close(o->g);
  free(o->file);
}

static void assert_fails(weir_status got, weir_status want, const weir_err *e, const char *fragment) {
  if (got != want || !strstr(e->msg, fragment))
    fail_msg("got %d \"%s\", want %d with \"%s\"", got, e->msg, want, fragment);
}

static void scalars(void **state) {
  (void)state;
  gguf_writer w;
  gguf_writer_init(&w);
  static const uint8_t minus_two[8] = {0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
  gguf_writer_raw(&w, "u8", 0, "\xfe", 1);
  gguf_writer_raw(&w, "i8", 1, minus_two, 1);
  gguf_writer_raw(&w, "u16", 2, minus_two, 2);
  gguf_writer_raw(&w, "i16", 3, minus_two, 2);
  gguf_writer_raw(&w, "i32", 5, minus_two, 4);
  gguf_writer_u32(&w, "u32", 4294967294u);
  gguf_writer_i64(&w, "i64", INT64_MIN);
  gguf_writer_u64(&w, "u64", INT64_MAX);
  gguf_writer_u64(&w, "u64 big", (uint64_t)INT64_MAX + 1);
  gguf_writer_f32(&w, "f32", 1.5f);
  gguf_writer_f64(&w, "f64", -0.25);
  gguf_writer_f64(&w, "f64 big", 1e300);
  gguf_writer_f32(&w, "f32 nan", (float)strtod("nan", NULL));
  gguf_writer_bool(&w, "yes", true);
  gguf_writer_bool(&w, "no", false);
  gguf_writer_str(&w, "str", "a\"b\\\n\x01\xff");
  gguf_writer_str(&w, "empty", "");
  opened o = open_writer(&w);
  static const struct {
    const char *key;
    int64_t want;
  } ints[] = {{"u8", 254},         {"i8", -2},         {"u16", 65534},     {"i16", -2},   {"i32", -2},
              {"u32", 4294967294}, {"i64", INT64_MIN}, {"u64", INT64_MAX}, {"absent", 77}};
  weir_err e = {0};
  int64_t v;
  float f;
  bool b;
  weir_str s;
  for (size_t i = 0; i < sizeof ints / sizeof ints[0]; i++) {
    assert_int_equal(weir_gguf_i64(o.g, ints[i].key, 77, &v, &e), WEIR_OK);
    if (v != ints[i].want)
      fail_msg("%s: got %lld, want %lld", ints[i].key, (long long)v, (long long)ints[i].want);
  }
  assert_fails(weir_gguf_i64(o.g, "u64 big", 0, &v, &e), WEIR_EFORMAT, &e,
               "key \"u64 big\": 9223372036854775808 is too large");
  assert_fails(weir_gguf_i64(o.g, "f32", 0, &v, &e), WEIR_EFORMAT, &e,
               "key \"f32\": want an integer, file has f32");
  assert_fails(weir_gguf_i64(o.g, "yes", 0, &v, &e), WEIR_EFORMAT, &e, "want an integer, file has bool");
  assert_int_equal(weir_gguf_f32(o.g, "f32", 0, &f, &e), WEIR_OK);
  assert_true(f == 1.5f);
  assert_int_equal(weir_gguf_f32(o.g, "f64", 0, &f, &e), WEIR_OK);
  assert_true(f == -0.25f);
  assert_int_equal(weir_gguf_f32(o.g, "absent", 3.5f, &f, &e), WEIR_OK);
  assert_true(f == 3.5f);
  assert_fails(weir_gguf_f32(o.g, "f64 big", 0, &f, &e), WEIR_EFORMAT, &e, "not a finite float");
  assert_fails(weir_gguf_f32(o.g, "f32 nan", 0, &f, &e), WEIR_EFORMAT, &e, "not a finite float");
  assert_fails(weir_gguf_f32(o.g, "u32", 0, &f, &e), WEIR_EFORMAT, &e, "want a float, file has u32");
  assert_int_equal(weir_gguf_bool(o.g, "yes", false, &b, &e), WEIR_OK);
  assert_true(b);
  assert_int_equal(weir_gguf_bool(o.g, "no", true, &b, &e), WEIR_OK);
  assert_false(b);
  assert_int_equal(weir_gguf_bool(o.g, "absent", true, &b, &e), WEIR_OK);
  assert_true(b);
  assert_fails(weir_gguf_bool(o.g, "u8", true, &b, &e), WEIR_EFORMAT, &e, "want a bool, file has u8");
  assert_int_equal(weir_gguf_str(o.g, "str", &s, &e), WEIR_OK);
  assert_int_equal(s.len, 7);
  assert_memory_equal(s.data, "a\"b\\\n\x01\xff", 7);
  assert_int_equal(weir_gguf_str(o.g, "empty", &s, &e), WEIR_OK);
  assert_non_null(s.data);
  assert_int_equal(s.len, 0);
  assert_int_equal(weir_gguf_str(o.g, "absent", &s, &e), WEIR_OK);
  assert_null(s.data);
  assert_fails(weir_gguf_str(o.g, "u8", &s, &e), WEIR_EFORMAT, &e, "want a string, file has u8");
  assert_true(weir_gguf_has(o.g, "u8"));
  assert_false(weir_gguf_has(o.g, "u"));
  assert_false(weir_gguf_has(o.g, ""));
  assert_int_equal(weir_gguf_version(o.g), 3);
  close_opened(&o);
}

static void arrays(void **state) {
  (void)state;
  gguf_writer w;
  gguf_writer_init(&w);
  static const char *const words[] = {"one", "", "three"};
  static const int32_t ints[] = {1, -2, 300000};
  static const float floats[] = {0.5f, -1.0f};
  gguf_writer_strs(&w, "strs", words, 3);
  gguf_writer_strs(&w, "none", words, 0);
  gguf_writer_i32s(&w, "ints", ints, 3);
  gguf_writer_f32s(&w, "floats", floats, 2);
  weir_buf b = {0};
  gguf_put_int(&b, 10, 4); /* u64 */
  gguf_put_int(&b, 1, 8);
  gguf_put_int(&b, (uint64_t)1 << 31, 8);
  gguf_writer_raw(&w, "big", 9, b.data, b.len);
  weir_buf_truncate(&b, 0);
  gguf_put_int(&b, 9, 4); /* an array of two arrays: of u8 {7,8}, of one string */
  gguf_put_int(&b, 2, 8);
  gguf_put_int(&b, 0, 4);
  gguf_put_int(&b, 2, 8);
  gguf_put(&b, "\x07\x08", 2);
  gguf_put_int(&b, 8, 4);
  gguf_put_int(&b, 1, 8);
  gguf_put_str(&b, "deep");
  gguf_writer_raw(&w, "nested", 9, b.data, b.len);
  weir_buf_fini(&b);
  gguf_writer_u32(&w, "after", 5);
  opened o = open_writer(&w);
  weir_err e = {0};
  const weir_str *s;
  int64_t n, v;
  int32_t i[4] = {9, 9, 9, 9};
  float f[2] = {9, 9};
  assert_int_equal(weir_gguf_str_array(o.g, "strs", &s, &n, &e), WEIR_OK);
  assert_int_equal(n, 3);
  for (int k = 0; k < 3; k++) assert_true(weir_str_eq(s[k], weir_str_of(words[k])));
  assert_int_equal(weir_gguf_str_array(o.g, "none", &s, &n, &e), WEIR_OK);
  assert_int_equal(n, 0);
  assert_int_equal(weir_gguf_str_array(o.g, "absent", &s, &n, &e), WEIR_OK);
  assert_int_equal(n, 0);
  assert_fails(weir_gguf_str_array(o.g, "ints", &s, &n, &e), WEIR_EFORMAT, &e,
               "want an array of strings, file has an array of i32");
  assert_fails(weir_gguf_str_array(o.g, "after", &s, &n, &e), WEIR_EFORMAT, &e,
               "want an array of strings, file has u32");
  assert_int_equal(weir_gguf_i32_array(o.g, "ints", i, 2, &n, &e), WEIR_OK);
  assert_int_equal(n, 3);
  assert_int_equal(i[0], 1);
  assert_int_equal(i[1], -2);
  assert_int_equal(i[2], 9); /* beyond cap: untouched */
  assert_fails(weir_gguf_i32_array(o.g, "big", i, 4, &n, &e), WEIR_EFORMAT, &e,
               "element 0 does not fit in 32 bits");
  assert_fails(weir_gguf_i32_array(o.g, "floats", i, 4, &n, &e), WEIR_EFORMAT, &e,
               "want an array of integers");
  assert_int_equal(weir_gguf_f32_array(o.g, "floats", f, 2, &n, &e), WEIR_OK);
  assert_int_equal(n, 2);
  assert_true(f[0] == 0.5f && f[1] == -1.0f);
  assert_fails(weir_gguf_f32_array(o.g, "strs", f, 2, &n, &e), WEIR_EFORMAT, &e, "want an array of floats");
  assert_int_equal(weir_gguf_i64(o.g, "after", 0, &v, &e), WEIR_OK); /* nested was stepped over */
  assert_int_equal(v, 5);
  close_opened(&o);
}

static void values_as_text(void **state) {
  (void)state;
  gguf_writer w;
  gguf_writer_init(&w);
  static const char *const words[] = {"a", "b\n", "c", "d", "e"};
  static const int32_t ints[] = {1, 2};
  gguf_writer_u32(&w, "int", 7);
  gguf_writer_f32(&w, "float", 0.5f);
  gguf_writer_bool(&w, "bool", true);
  gguf_writer_str(&w, "str", "x\x1b[31m\xc3\xa4");
  gguf_writer_strs(&w, "strs", words, 5);
  gguf_writer_i32s(&w, "ints", ints, 2);
  gguf_writer_u64(&w, "u64", UINT64_MAX);
  opened o = open_writer(&w);
  static const char *const want[] = {"7",
                                     "0.5",
                                     "true",
                                     "x\\x1b[31m\\xc3\\xa4",
                                     "5 x string [\"a\", \"b\\n\", \"c\", \"d\" ...]",
                                     "2 x i32 [1, 2]",
                                     "18446744073709551615"};
  assert_int_equal(weir_gguf_n_keys(o.g), sizeof want / sizeof want[0]);
  char text[256];
  for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
    weir_gguf_value_text(o.g, (int64_t)i, text, sizeof text);
    assert_string_equal(text, want[i]);
    for (size_t bytes = 1; bytes < 40; bytes++) { /* any buffer ends in a NUL and is not overrun */
      char *small = malloc(bytes);
      assert_non_null(small);
      weir_gguf_value_text(o.g, (int64_t)i, small, bytes);
      assert_true(strlen(small) < bytes);
      free(small);
    }
  }
  assert_true(weir_str_eq(weir_gguf_key(o.g, 3), weir_str_of("str")));
  assert_int_equal(weir_gguf_key(o.g, 7).len, 0);
  assert_int_equal(weir_gguf_key(o.g, -1).len, 0);
  close_opened(&o);
}

static void tensors(void **state) {
  (void)state;
  static const struct {
    const char *name;
    uint32_t type;
    uint64_t dim[4];
    uint32_t n_dims;
    weir_dtype dtype;
    size_t bytes;
  } rows[] = {
      {"vector", GW_F32, {3}, 1, WEIR_F32, 12},         {"half", GW_F16, {5, 2}, 2, WEIR_F16, 20},
      {"brain", GW_BF16, {1, 1, 7}, 3, WEIR_BF16, 14},  {"q8", GW_Q8_0, {64, 3}, 2, WEIR_Q8_0, 204},
      {"q4", GW_Q4_0, {32, 2, 1, 2}, 4, WEIR_Q4_0, 72},
  };
  static const uint32_t versions[] = {2, 3}, alignments[] = {8, 32, 4096};
  enum { N = sizeof rows / sizeof rows[0] };
  for (size_t v = 0; v < 2; v++)
    for (size_t a = 0; a < 3; a++) {
      gguf_writer w;
      gguf_writer_init(&w);
      w.version = versions[v];
      w.alignment = alignments[a];
      uint8_t bytes[256];
      for (size_t i = 0; i < N; i++) {
        memset(bytes, (int)(i + 1), sizeof bytes);
        gguf_writer_tensor(&w, rows[i].name, rows[i].type, rows[i].dim, rows[i].n_dims, bytes, rows[i].bytes);
      }
      opened o = open_writer(&w);
      assert_int_equal(weir_gguf_version(o.g), versions[v]);
      assert_int_equal(weir_gguf_n_tensors(o.g), N);
      for (size_t i = 0; i < N; i++) {
        const weir_gguf_tensor *t = weir_gguf_find(o.g, rows[i].name);
        assert_non_null(t);
        assert_ptr_equal(t, weir_gguf_tensor_at(o.g, (int64_t)i));
        assert_int_equal(t->dtype, rows[i].dtype);
        assert_int_equal(t->n_dims, rows[i].n_dims);
        assert_int_equal(t->bytes, rows[i].bytes);
        for (uint32_t d = 0; d < 4; d++) assert_int_equal(t->dim[d], d < rows[i].n_dims ? rows[i].dim[d] : 1);
        memset(bytes, (int)(i + 1), sizeof bytes);
        assert_memory_equal(t->data, bytes, t->bytes);
        assert_int_equal(((const uint8_t *)t->data - o.file) % alignments[a], 0);
      }
      assert_null(weir_gguf_find(o.g, "q"));
      assert_null(weir_gguf_tensor_at(o.g, N));
      assert_null(weir_gguf_tensor_at(o.g, -1));
      close_opened(&o);
    }
}

static void files(void **state) {
  (void)state;
  weir_err e = {0};
  weir_gguf *g;
  assert_int_equal(weir_gguf_open("models/weir-demo-small-Q8_0.gguf", &g, &e), WEIR_OK);
  assert_non_null(weir_gguf_find(g, "token_embd.weight"));
  weir_gguf_close(g);
  weir_gguf_close(NULL);
  assert_fails(weir_gguf_open("models/absent.gguf", &g, &e), WEIR_EIO, &e,
               "models/absent.gguf: No such file");
  assert_null(g);
  assert_fails(weir_gguf_open("models", &g, &e), WEIR_EIO, &e, "models: not a regular file");
  assert_fails(weir_gguf_open("models/README.md", &g, &e), WEIR_EFORMAT, &e,
               "models/README.md: not a GGUF file");
  char path[] = "/tmp/weir-test-gguf-XXXXXX";
  const int fd = mkstemp(path);
  assert_true(fd >= 0);
  close(fd);
  assert_fails(weir_gguf_open(path, &g, &e), WEIR_EFORMAT, &e, "the file is empty");
  unlink(path);
}

/* Look-ups stay fast with as many keys as fit the limits' order of magnitude; linear probing over an unseeded
 * or constant hash would take minutes here. */
static void many_keys(void **state) {
  (void)state;
  enum { N = 100000 };
  gguf_writer w;
  gguf_writer_init(&w);
  char name[32];
  static const uint64_t dim[1] = {1};
  for (uint32_t i = 0; i < N; i++) {
    snprintf(name, sizeof name, "key.%u", i);
    gguf_writer_u32(&w, name, i);
  }
  for (uint32_t i = 0; i < N / 10; i++) {
    snprintf(name, sizeof name, "blk.%u", i);
    gguf_writer_tensor(&w, name, GW_F32, dim, 1, &i, 4);
  }
  opened o = open_writer(&w);
  weir_err e = {0};
  for (uint32_t i = 0; i < N; i++) {
    int64_t v;
    snprintf(name, sizeof name, "key.%u", i);
    assert_int_equal(weir_gguf_i64(o.g, name, -1, &v, &e), WEIR_OK);
    assert_int_equal(v, i);
  }
  for (uint32_t i = 0; i < N / 10; i++) {
    snprintf(name, sizeof name, "blk.%u", i);
    const weir_gguf_tensor *t = weir_gguf_find(o.g, name);
    assert_non_null(t);
    assert_memory_equal(t->data, &i, 4);
  }
  close_opened(&o);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(scalars), cmocka_unit_test(arrays), cmocka_unit_test(values_as_text),
      cmocka_unit_test(tensors), cmocka_unit_test(files),  cmocka_unit_test(many_keys),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
