/* SPDX-License-Identifier: Apache-2.0 */
/* The GGUF writer: what it writes the reader reads back the same, keys copied from a file are those of the
 * file byte for byte, and a writer that fails or is closed leaves neither a file nor half of one. */
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
/* after the above */
#include <cmocka.h>

#include "gguf_writer.h"
#include "model/gguf.h"
#include "model/gguf_index.h"
#include "model/gguf_write.h"

static char folder[256];

static int make_folder(void **state) {
  (void)state;
  const char *tmp = getenv("TMPDIR");
  snprintf(folder, sizeof folder, "%s/weir-gguf-XXXXXX", tmp ? tmp : "/tmp");
  return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
  (void)state;
  return rmdir(folder);
}

static const char *in_folder(const char *name) {
  static char path[4][400];
  static int turn;
  turn = (turn + 1) % 4;
  snprintf(path[turn], sizeof path[0], "%s/%s", folder, name);
  return path[turn];
}

/* Names in the folder, besides . and .. */
static int files_in_folder(void) {
  int n = 0;
  DIR *d = opendir(folder);
  assert_non_null(d);
  for (struct dirent *f = readdir(d); f; f = readdir(d)) n += f->d_name[0] != '.';
  closedir(d);
  return n;
}

static void must(weir_status st, const weir_err *e) {
  if (st != WEIR_OK) fail_msg("%s", e->msg);
}

static weir_gguf_writer *create(const char *path, bool replace) {
  weir_err e = {0};
  weir_gguf_writer *w;
  must(weir_gguf_writer_create(path, replace, &w, &e), &e);
  return w;
}

static weir_gguf *open_file(const char *path) {
  weir_err e = {0};
  weir_gguf *g;
  must(weir_gguf_open(path, &g, &e), &e);
  return g;
}

static void want_fail(weir_status st, weir_status want, const weir_err *e, const char *says) {
  if (st != want) fail_msg("status %d, want %d (%s): %s", st, want, says, e->msg);
  if (!strstr(e->msg, says)) fail_msg("\"%s\" is not in: %s", says, e->msg);
}

static void put_floats(weir_gguf_writer *w, const char *name, int64_t n, weir_err *e) {
  must(weir_gguf_writer_tensor(w, weir_str_of(name), WEIR_F32, 1, &n, e), e);
}

/* ---- what is written is read back ---- */

static void declare(weir_gguf_writer *w, uint32_t alignment) {
  weir_err e = {0};
  static const int32_t types[] = {1, -3, 2147483647};
  static const float scores[] = {0.5f, -1.25f, 3e30f};
  const weir_str tokens[] = {{"a", 1}, {"", 0}, {"\0\xff b", 4}};
  must(weir_gguf_writer_str(w, "general.architecture", weir_str_of("llama"), &e), &e);
  if (alignment) must(weir_gguf_writer_u32(w, "general.alignment", alignment, &e), &e);
  must(weir_gguf_writer_u32(w, "x.u32", 4294967295u, &e), &e);
  must(weir_gguf_writer_i32(w, "x.i32", -7, &e), &e);
  must(weir_gguf_writer_u64(w, "x.u64", (uint64_t)1 << 40, &e), &e);
  must(weir_gguf_writer_f32(w, "x.f32", 1e-5f, &e), &e);
  must(weir_gguf_writer_bool(w, "x.yes", true, &e), &e);
  must(weir_gguf_writer_bool(w, "x.no", false, &e), &e);
  must(weir_gguf_writer_strs(w, "x.tokens", tokens, 3, &e), &e);
  must(weir_gguf_writer_strs(w, "x.none", NULL, 0, &e), &e);
  must(weir_gguf_writer_i32s(w, "x.types", types, 3, &e), &e);
  must(weir_gguf_writer_f32s(w, "x.scores", scores, 3, &e), &e);
}

static void check_keys(const weir_gguf *g) {
  weir_err e = {0};
  int64_t v, n;
  float f, fs[3];
  int32_t is[3];
  bool b;
  weir_str s;
  const weir_str *strs;
  must(weir_gguf_str(g, "general.architecture", &s, &e), &e);
  assert_true(weir_str_eq(s, weir_str_of("llama")));
  must(weir_gguf_i64(g, "x.u32", 0, &v, &e), &e);
  assert_int_equal(v, 4294967295);
  must(weir_gguf_i64(g, "x.i32", 0, &v, &e), &e);
  assert_int_equal(v, -7);
  must(weir_gguf_i64(g, "x.u64", 0, &v, &e), &e);
  assert_int_equal(v, (int64_t)1 << 40);
  must(weir_gguf_f32(g, "x.f32", 0, &f, &e), &e);
  assert_true(f == 1e-5f);
  must(weir_gguf_bool(g, "x.yes", false, &b, &e), &e);
  assert_true(b);
  must(weir_gguf_bool(g, "x.no", true, &b, &e), &e);
  assert_false(b);
  must(weir_gguf_str_array(g, "x.tokens", &strs, &n, &e), &e);
  assert_int_equal(n, 3);
  assert_true(weir_str_eq(strs[0], weir_str_of("a")) && strs[1].len == 0);
  assert_true(weir_str_eq(strs[2], (weir_str){"\0\xff b", 4}));
  must(weir_gguf_str_array(g, "x.none", &strs, &n, &e), &e);
  assert_true(n == 0 && weir_gguf_has(g, "x.none"));
  must(weir_gguf_i32_array(g, "x.types", is, 3, &n, &e), &e);
  assert_true(n == 3 && is[0] == 1 && is[1] == -3 && is[2] == 2147483647);
  must(weir_gguf_f32_array(g, "x.scores", fs, 3, &n, &e), &e);
  assert_true(n == 3 && fs[0] == 0.5f && fs[1] == -1.25f && fs[2] == 3e30f);
}

/* Keys, and tensors whose sizes are no multiple of the alignment, written in pieces. */
static void test_read_back(void **state) {
  (void)state;
  static const uint32_t alignments[] = {0, 8, 64, 4096};
  static const struct {
    const char *name;
    weir_dtype type;
    int32_t n_dims;
    int64_t dim[4];
    size_t bytes;
  } tensors[] = {
      {"a", WEIR_F32, 1, {3}, 12},          {"b.weight", WEIR_Q8_0, 2, {64, 3}, 204},
      {"c", WEIR_F16, 3, {5, 2, 3}, 60},    {"d", WEIR_Q4_0, 2, {32, 1}, 18},
      {"e", WEIR_BF16, 4, {1, 1, 1, 1}, 2},
  };
  enum { N = sizeof tensors / sizeof *tensors };
  for (size_t k = 0; k < sizeof alignments / sizeof *alignments; k++) {
    weir_err e = {0};
    uint8_t bytes[256];
    uint64_t total;
    struct stat info;
    const char *path = in_folder("all.gguf");
    weir_gguf_writer *w = create(path, false);
    declare(w, alignments[k]);
    for (int i = 0; i < N; i++)
      must(weir_gguf_writer_tensor(w, weir_str_of(tensors[i].name), tensors[i].type, tensors[i].n_dims,
                                   tensors[i].dim, &e),
           &e);
    must(weir_gguf_writer_total(w, &total, &e), &e);
    must(weir_gguf_writer_begin(w, &e), &e);
    for (int i = 0; i < N; i++) {
      for (size_t j = 0; j < tensors[i].bytes; j++) bytes[j] = (uint8_t)(j * 7 + (size_t)i * 31 + 1);
      for (size_t at = 0, n; at < tensors[i].bytes; at += n) {
        n = 1 + at * 3 % 17;
        if (n > tensors[i].bytes - at) n = tensors[i].bytes - at;
        must(weir_gguf_writer_data(w, bytes + at, n, &e), &e);
      }
    }
    must(weir_gguf_writer_finish(w, &e), &e);
    weir_gguf_writer_close(w);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_size, total);
    assert_int_equal(files_in_folder(), 1);

    weir_gguf *g = open_file(path);
    assert_int_equal(weir_gguf_version(g), 3);
    check_keys(g);
    assert_int_equal(weir_gguf_n_keys(g), alignments[k] ? 12 : 11);
    assert_int_equal(weir_gguf_n_tensors(g), N);
    for (int i = 0; i < N; i++) {
      const weir_gguf_tensor *t = weir_gguf_tensor_at(g, i);
      assert_true(weir_str_eq(t->name, weir_str_of(tensors[i].name)));
      assert_int_equal(t->dtype, tensors[i].type);
      assert_int_equal(t->n_dims, tensors[i].n_dims);
      for (int d = 0; d < 4; d++) assert_int_equal(t->dim[d], d < t->n_dims ? tensors[i].dim[d] : 1);
      assert_int_equal(t->bytes, tensors[i].bytes);
      assert_int_equal(((uintptr_t)t->data - (uintptr_t)g->data) % (alignments[k] ? alignments[k] : 32), 0);
      for (size_t j = 0; j < t->bytes; j++) {
        const uint8_t want = (uint8_t)(j * 7 + (size_t)i * 31 + 1), got = ((const uint8_t *)t->data)[j];
        if (got != want) fail_msg("tensor %s byte %zu: %d, want %d", tensors[i].name, j, got, want);
      }
    }
    weir_gguf_close(g);
    unlink(path);
  }
}

/* A file whose keys and tensors are copied in their order is the file, byte for byte: those of gguf-py for
 * the committed models (version 3), and one of this repository's test writer with every type of value. */
static void check_copy(const weir_gguf *from) {
  weir_err e = {0};
  const char *path = in_folder("copy.gguf");
  weir_gguf_writer *w = create(path, false);
  for (int64_t i = 0; i < weir_gguf_n_keys(from); i++) must(weir_gguf_writer_copy(w, from, i, &e), &e);
  for (int64_t i = 0; i < weir_gguf_n_tensors(from); i++) {
    const weir_gguf_tensor *t = weir_gguf_tensor_at(from, i);
    must(weir_gguf_writer_tensor(w, t->name, t->dtype, t->n_dims, t->dim, &e), &e);
  }
  must(weir_gguf_writer_begin(w, &e), &e);
  for (int64_t i = 0; i < weir_gguf_n_tensors(from); i++) {
    const weir_gguf_tensor *t = weir_gguf_tensor_at(from, i);
    must(weir_gguf_writer_data(w, t->data, t->bytes, &e), &e);
  }
  must(weir_gguf_writer_finish(w, &e), &e);
  weir_gguf_writer_close(w);
  weir_gguf *g = open_file(path);
  assert_int_equal(g->len, from->len);
  for (size_t i = 0; i < g->len; i++)
    if (g->data[i] != from->data[i]) fail_msg("byte %zu: %d, want %d", i, g->data[i], from->data[i]);
  weir_gguf_close(g);
  unlink(path);
}

static void test_copy(void **state) {
  (void)state;
  static const char *const files[] = {"llama-mixed", "qwen2-padded-Q8_0", "stories260k"};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    char path[128];
    snprintf(path, sizeof path, "tests/vectors/models/%s.gguf", files[i]);
    weir_gguf *from = open_file(path);
    check_copy(from);
    weir_gguf_close(from);
  }
  static const struct {
    uint32_t type;
    size_t bytes;
  } values[] = {{WEIR_GGUF_U8, 1},  {WEIR_GGUF_I8, 1},  {WEIR_GGUF_U16, 2}, {WEIR_GGUF_I16, 2},
                {WEIR_GGUF_U32, 4}, {WEIR_GGUF_I32, 4}, {WEIR_GGUF_F32, 4}, {WEIR_GGUF_U64, 8},
                {WEIR_GGUF_I64, 8}, {WEIR_GGUF_F64, 8}};
  static const uint8_t value[8] = {0x81, 0x42, 0xf3, 0x3f, 0x15, 0x26, 0xc7, 0x3e};
  gguf_writer t;
  weir_buf nested = {0};
  size_t len;
  gguf_writer_init(&t);
  for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
    char key[16];
    snprintf(key, sizeof key, "v.%u", values[i].type);
    gguf_writer_raw(&t, key, values[i].type, value, values[i].bytes);
  }
  gguf_put_int(&nested, WEIR_GGUF_ARRAY, 4); /* two arrays: of two strings, of no bool */
  gguf_put_int(&nested, 2, 8);
  gguf_put_int(&nested, WEIR_GGUF_STR, 4);
  gguf_put_int(&nested, 2, 8);
  gguf_put_str(&nested, "in");
  gguf_put_str(&nested, "side");
  gguf_put_int(&nested, WEIR_GGUF_BOOL, 4);
  gguf_put_int(&nested, 0, 8);
  gguf_writer_raw(&t, "v.nested", WEIR_GGUF_ARRAY, nested.data, nested.len);
  gguf_writer_tensor(&t, "t", GW_F32, (const uint64_t[]){8}, 1, NULL, 32);
  uint8_t *file = gguf_writer_file(&t, &len);
  weir_err e = {0};
  weir_gguf *from;
  must(weir_gguf_parse(file, len, &from, &e), &e);
  check_copy(from);
  weir_gguf_close(from);
  free(file);
  weir_buf_fini(&nested);
  gguf_writer_fini(&t);
}

/* ---- what is refused ---- */

static void test_refused(void **state) {
  (void)state;
  weir_err e = {0};
  char name[70];
  memset(name, 'n', sizeof name);
  static const int64_t one[] = {1}, none[] = {0}, huge[] = {(int64_t)1 << 40, (int64_t)1 << 40},
                       wide[] = {(int64_t)1 << 60, 8}, odd[] = {33, 2}, most[] = {(int64_t)1 << 60};
  weir_gguf_writer *w = create(in_folder("no.gguf"), false);
  must(weir_gguf_writer_u32(w, "k", 1, &e), &e);
  want_fail(weir_gguf_writer_u32(w, "k", 1, &e), WEIR_EINVAL, &e, "key \"k\": the name comes twice");
  want_fail(weir_gguf_writer_str(w, "k", weir_str_of("x"), &e), WEIR_EINVAL, &e, "comes twice");
  want_fail(weir_gguf_writer_u32(w, "", 1, &e), WEIR_EINVAL, &e, "the name is empty");
  want_fail(weir_gguf_writer_u32(w, "general.alignment", 24, &e), WEIR_EINVAL, &e, "24 (a power of two");
  want_fail(weir_gguf_writer_strs(w, "n", NULL, -1, &e), WEIR_EINVAL, &e, "-1 strings");
  put_floats(w, "t", 1, &e);
  want_fail(weir_gguf_writer_tensor(w, weir_str_of("t"), WEIR_F32, 1, one, &e), WEIR_EINVAL, &e,
            "tensor \"t\": the name comes twice");
  want_fail(weir_gguf_writer_tensor(w, (weir_str){name, 64}, WEIR_F32, 1, one, &e), WEIR_EINVAL, &e,
            "too long");
  must(weir_gguf_writer_tensor(w, (weir_str){name, 63}, WEIR_F32, 1, one, &e), &e);
  want_fail(weir_gguf_writer_tensor(w, (weir_str){"a\0b", 3}, WEIR_F32, 1, one, &e), WEIR_EINVAL, &e, "NUL");
  want_fail(weir_gguf_writer_tensor(w, weir_str_of("u"), WEIR_F32, 0, one, &e), WEIR_EINVAL, &e,
            "dimensions");
  want_fail(weir_gguf_writer_tensor(w, weir_str_of("u"), WEIR_F32, 5, one, &e), WEIR_EINVAL, &e,
            "dimensions");
  want_fail(weir_gguf_writer_tensor(w, weir_str_of("u"), WEIR_F32, 1, none, &e), WEIR_EINVAL, &e, "below 1");
  want_fail(weir_gguf_writer_tensor(w, weir_str_of("u"), WEIR_F32, 2, huge, &e), WEIR_EINVAL, &e,
            "overflows");
  want_fail(weir_gguf_writer_tensor(w, weir_str_of("u"), WEIR_F32, 2, wide, &e), WEIR_EINVAL, &e,
            "overflows");
  want_fail(weir_gguf_writer_tensor(w, weir_str_of("u"), WEIR_Q8_0, 2, odd, &e), WEIR_EINVAL, &e, "Q8_0");
  want_fail(weir_gguf_writer_tensor(w, weir_str_of("u"), WEIR_DTYPE_COUNT, 1, one, &e), WEIR_EINVAL, &e,
            "no such type");
  want_fail(weir_gguf_writer_data(w, one, 4, &e), WEIR_EINVAL, &e, "before the header");
  want_fail(weir_gguf_writer_finish(w, &e), WEIR_EINVAL, &e, "nothing was written");
  /* each fits, the file does not */
  must(weir_gguf_writer_tensor(w, weir_str_of("m0"), WEIR_F32, 1, most, &e), &e);
  must(weir_gguf_writer_tensor(w, weir_str_of("m1"), WEIR_F32, 1, most, &e), &e);
  want_fail(weir_gguf_writer_begin(w, &e), WEIR_EINVAL, &e, "overflows");
  weir_gguf_writer_close(w);
  assert_int_equal(files_in_folder(), 0);
}

static void test_order(void **state) {
  (void)state;
  weir_err e = {0};
  static const float two[3] = {1, 2, 3};
  weir_gguf_writer *w = create(in_folder("order.gguf"), false);
  put_floats(w, "t", 2, &e);
  must(weir_gguf_writer_begin(w, &e), &e);
  want_fail(weir_gguf_writer_begin(w, &e), WEIR_EINVAL, &e, "second header");
  want_fail(weir_gguf_writer_u32(w, "late", 1, &e), WEIR_EINVAL, &e, "after the header");
  want_fail(weir_gguf_writer_tensor(w, weir_str_of("u"), WEIR_F32, 1, (const int64_t[]){1}, &e), WEIR_EINVAL,
            &e, "after the header");
  want_fail(weir_gguf_writer_data(w, two, 12, &e), WEIR_EINVAL, &e, "more bytes than it has");
  must(weir_gguf_writer_data(w, two, 4, &e), &e);
  want_fail(weir_gguf_writer_finish(w, &e), WEIR_EINVAL, &e, "tensor \"t\": its bytes are not all there");
  must(weir_gguf_writer_data(w, two + 1, 4, &e), &e);
  want_fail(weir_gguf_writer_data(w, two, 4, &e), WEIR_EINVAL, &e, "more data than tensors");
  weir_gguf_writer_close(w); /* not finished: it goes */
  assert_int_equal(files_in_folder(), 0);
}

/* ---- the target ---- */

static void write_small(const char *path, bool replace, float value) {
  weir_err e = {0};
  weir_gguf_writer *w = create(path, replace);
  put_floats(w, "t", 1, &e);
  must(weir_gguf_writer_begin(w, &e), &e);
  must(weir_gguf_writer_data(w, &value, 4, &e), &e);
  must(weir_gguf_writer_finish(w, &e), &e);
  weir_gguf_writer_close(w);
}

static float value_in(const char *path) {
  weir_gguf *g = open_file(path);
  float v;
  memcpy(&v, weir_gguf_find(g, "t")->data, 4);
  weir_gguf_close(g);
  return v;
}

static void test_target(void **state) {
  (void)state;
  weir_err e = {0};
  weir_gguf_writer *w;
  char path[400], link[400];
  snprintf(path, sizeof path, "%s", in_folder("target.gguf"));
  snprintf(link, sizeof link, "%s", in_folder("link.gguf"));
  write_small(path, false, 1);
  want_fail(weir_gguf_writer_create(path, false, &w, &e), WEIR_EINVAL, &e, "File exists");
  want_fail(weir_gguf_writer_create(folder, true, &w, &e), WEIR_EINVAL, &e, "not a regular file");
  want_fail(weir_gguf_writer_create("/dev/null", true, &w, &e), WEIR_EINVAL, &e, "/dev/null");
  write_small(path, true, 2);
  assert_true(value_in(path) == 2);
  assert_int_equal(symlink(path, link), 0);
  write_small(link, true, 3);
  assert_true(value_in(path) == 3);
  struct stat info;
  assert_int_equal(lstat(link, &info), 0);
  assert_true(S_ISLNK(info.st_mode));
  unlink(link);

  /* a link to nowhere is somebody's too */
  assert_int_equal(symlink("nowhere", link), 0);
  want_fail(weir_gguf_writer_create(link, false, &w, &e), WEIR_EINVAL, &e, "File exists");
  write_small(link, true, 5);
  assert_true(value_in(link) == 5);
  unlink(link);

  /* nowhere: the size can be had, a file cannot */
  uint64_t total;
  w = create(NULL, false);
  put_floats(w, "t", 1, &e);
  must(weir_gguf_writer_total(w, &total, &e), &e);
  assert_true(total > 4);
  want_fail(weir_gguf_writer_begin(w, &e), WEIR_EINVAL, &e, "no path to write it to");
  weir_gguf_writer_close(w);

  /* somebody puts a file there while this one is written: theirs stays, ours goes */
  w = create(link, false);
  put_floats(w, "t", 1, &e);
  must(weir_gguf_writer_begin(w, &e), &e);
  must(weir_gguf_writer_data(w, "abcd", 4, &e), &e);
  write_small(link, false, 4);
  want_fail(weir_gguf_writer_finish(w, &e), WEIR_EIO, &e, "File exists");
  weir_gguf_writer_close(w);
  assert_true(value_in(link) == 4);
  unlink(link);
  w = create(link, false);
  put_floats(w, "t", 1, &e);
  must(weir_gguf_writer_begin(w, &e), &e);
  must(weir_gguf_writer_data(w, "abcd", 4, &e), &e);
  assert_int_equal(symlink("nowhere", link), 0);
  want_fail(weir_gguf_writer_finish(w, &e), WEIR_EIO, &e, "File exists");
  weir_gguf_writer_close(w);
  unlink(link);

  /* the old one stays until the new one is whole */
  w = create(path, true);
  put_floats(w, "t", 1, &e);
  must(weir_gguf_writer_begin(w, &e), &e);
  assert_int_equal(files_in_folder(), 2);
  weir_gguf_writer_close(w);
  assert_true(value_in(path) == 3);
  unlink(path);

  w = create(in_folder("no/such/folder.gguf"), false);
  put_floats(w, "t", 1, &e);
  want_fail(weir_gguf_writer_begin(w, &e), WEIR_EIO, &e, "No such file");
  weir_gguf_writer_close(w);
  assert_int_equal(files_in_folder(), 0);
}

/* A limit on the size of files stands in for a full disk: noticed when the file is begun, and also when a
 * file system cannot reserve and it is the writing that fails. */
static void test_full(void **state) {
  (void)state;
  weir_err e = {0};
  static uint8_t many[1 << 16];
  struct rlimit old, now;
  signal(SIGXFSZ, SIG_IGN);
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
  now = old;
  for (int late = 0; late < 2; late++) {
    weir_gguf_writer *w = create(in_folder("full.gguf"), false);
    put_floats(w, "t", sizeof many / 4, &e);
    now.rlim_cur = late ? 4096 : 16;
    if (late) must(weir_gguf_writer_begin(w, &e), &e);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &now), 0);
    const weir_status st =
        late ? weir_gguf_writer_data(w, many, sizeof many, &e) : weir_gguf_writer_begin(w, &e);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    want_fail(st, WEIR_EIO, &e, "full.gguf: cannot ");
    want_fail(st, WEIR_EIO, &e, "File too large");
    weir_gguf_writer_close(w);
    assert_int_equal(files_in_folder(), 0);
  }
}

/* More names than the first allocation has room for. */
static void test_many(void **state) {
  (void)state;
  enum { N = 1000 };
  weir_err e = {0};
  const char *path = in_folder("many.gguf");
  weir_gguf_writer *w = create(path, false);
  char name[32];
  for (int i = 0; i < N; i++) {
    snprintf(name, sizeof name, "blk.%d.weight", i);
    must(weir_gguf_writer_i32(w, name, i, &e), &e);
    put_floats(w, name, 1, &e);
  }
  want_fail(weir_gguf_writer_i32(w, "blk.3.weight", 0, &e), WEIR_EINVAL, &e, "comes twice");
  must(weir_gguf_writer_begin(w, &e), &e);
  for (int i = 0; i < N; i++) must(weir_gguf_writer_data(w, &(float){(float)i}, 4, &e), &e);
  must(weir_gguf_writer_finish(w, &e), &e);
  weir_gguf_writer_close(w);
  weir_gguf *g = open_file(path);
  for (int i = 0; i < N; i++) {
    int64_t v;
    float f;
    snprintf(name, sizeof name, "blk.%d.weight", i);
    must(weir_gguf_i64(g, name, -1, &v, &e), &e);
    memcpy(&f, weir_gguf_find(g, name)->data, 4);
    assert_true(v == i && f == (float)i);
  }
  weir_gguf_close(g);
  unlink(path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_read_back), cmocka_unit_test(test_copy),   cmocka_unit_test(test_refused),
      cmocka_unit_test(test_order),     cmocka_unit_test(test_target), cmocka_unit_test(test_full),
      cmocka_unit_test(test_many),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
