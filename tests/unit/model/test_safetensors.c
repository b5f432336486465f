/* SPDX-License-Identifier: Apache-2.0 */
/* safetensors: what a well-formed file gives, files that are wrong on purpose, and files of random damage. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/safetensors.h"
#include "st_writer.h"

static void well_formed(void **state) {
  (void)state;
  size_t len;
  weir_safetensors *s;
  weir_err e = {0};
  /* offsets decide the order, not the header; a scalar, an empty tensor, half bytes */
  uint8_t *file = st_file_raw(
      "{'b': {'dtype': 'BF16', 'shape': [2, 3], 'data_offsets': [4, 16]},"
      " 'a': {'dtype': 'F32', 'shape': [], 'data_offsets': [0, 4]},"
      " '__metadata__': {'format': 'pt', 'x': 'y'},"
      " 'none': {'dtype': 'I64', 'shape': [9223372036854775807, 4, 0], 'data_offsets': [4, 4]},"
      " 'q': {'dtype': 'F4', 'shape': [3, 2], 'data_offsets': [16, 19]},"
      " 'f8': {'dtype': 'F8_E4M3', 'shape': [1, 1, 1, 1, 1, 1, 1, 2], 'data_offsets': [19, 21]"
      "}}   ",
      21, &len);
  if (weir_safetensors_parse(file, len, &s, &e) != WEIR_OK) fail_msg("%s", e.msg);
  assert_int_equal(weir_safetensors_n(s), 5);
  static const char *const order[] = {"a", "none", "b", "q", "f8"};
  for (int32_t i = 0; i < 5; i++)
    assert_true(weir_str_eq(weir_safetensors_at(s, i)->name, weir_str_of(order[i])));
  const weir_st_tensor *b = weir_safetensors_find(s, weir_str_of("b"));
  assert_non_null(b);
  assert_int_equal(b->dtype, WEIR_ST_BF16);
  assert_int_equal(b->n_dims, 2);
  assert_int_equal(b->dim[0], 2);
  assert_int_equal(b->dim[1], 3);
  assert_int_equal(b->dim[2], 1);
  assert_int_equal(b->bytes, 12);
  assert_int_equal(b->data[0], 4);
  assert_int_equal(weir_safetensors_at(s, 0)->n_dims, 0);
  assert_int_equal(weir_safetensors_at(s, 1)->bytes, 0);
  assert_int_equal(weir_safetensors_at(s, 3)->bytes, 3);
  assert_null(weir_safetensors_find(s, weir_str_of("__metadata__")));
  assert_null(weir_safetensors_find(s, weir_str_of("c")));
  weir_safetensors_close(s);
  free(file);
  file = st_file_raw("{}", 0, &len);
  assert_int_equal(weir_safetensors_parse(file, len, &s, &e), WEIR_OK);
  assert_int_equal(weir_safetensors_n(s), 0);
  weir_safetensors_close(s);
  free(file);
  weir_safetensors_close(NULL);
}

typedef struct bad_file {
  const char *header;
  size_t n_data;
  weir_status status;
  const char *fragment;
} bad_file;

#define T(name, dtype, shape, offsets) \
  "'" name "': {'dtype': '" dtype "', 'shape': " shape ", 'data_offsets': " offsets "}"
#define W(shape, offsets) "{" T("w", "F32", shape, offsets) "}"

static const bad_file bad[] = {
    {"", 8, WEIR_EFORMAT, "the header does not begin with '{'"},
    {" {}", 0, WEIR_EFORMAT, "the header does not begin with '{'"},
    {"[]", 0, WEIR_EFORMAT, "the header does not begin with '{'"},
    {"{", 0, WEIR_EFORMAT, "header: JSON, line 1"},
    {"{} x", 0, WEIR_EFORMAT, "header: JSON, line 1"},
    {"{'w': {'a': [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", 0, WEIR_EFORMAT,
     "header: JSON nested deeper than 64"},
    {"{" T("w", "F32", "[1]", "[0, 4]") ", " T("w", "F32", "[1]", "[4, 8]") "}", 8, WEIR_EFORMAT,
     "duplicate object key"},
    {"{'__metadata__': 3}", 0, WEIR_EFORMAT, "tensor \"__metadata__\": not an object"},
    {"{'w': 3}", 0, WEIR_EFORMAT, "tensor \"w\": not an object"},
    {"{" T("", "F32", "[1]", "[0, 4]") "}", 4, WEIR_EFORMAT, "tensor \"\": the name is empty"},
    {"{'w\\u0000': {}}", 0, WEIR_EFORMAT, "header: JSON"},
    {"{'w\\u001b[1m': {}}", 0, WEIR_EFORMAT, "tensor \"w\\x1b[1m\": no \"dtype\""},
    {"{'w': {'dtype': 7}}", 0, WEIR_EFORMAT, "tensor \"w\": no \"dtype\" that is a string"},
    {"{'w': {'dtype': 'F31'}}", 0, WEIR_EUNSUP, "tensor \"w\": unknown dtype \"F31\""},
    {"{'w': {'dtype': 'F32'}}", 0, WEIR_EFORMAT, "tensor \"w\": no \"shape\" that is an array"},
    {"{'w': {'dtype': 'F32', 'shape': [1]}}", 4, WEIR_EFORMAT, "no \"data_offsets\" that are two integers"},
    {W("3", "[0, 4]"), 4, WEIR_EFORMAT, "no \"shape\" that is an array"},
    {W("[1,1,1,1,1,1,1,1,1]", "[0, 4]"), 4, WEIR_EFORMAT, "tensor \"w\": 9 dimensions (limit 8)"},
    {W("[1, -1]", "[0, 4]"), 4, WEIR_EFORMAT, "tensor \"w\": dimension 1 is not a count"},
    {W("[1.0]", "[0, 4]"), 4, WEIR_EFORMAT, "tensor \"w\": dimension 0 is not a count"},
    {W("[18446744073709551615]", "[0, 4]"), 4, WEIR_EFORMAT, "dimension 0 is not a count"},
    {W("[9223372036854775808]", "[0, 4]"), 4, WEIR_EFORMAT, "dimension 0 is not a count"},
    {W("[4294967296, 4294967296]", "[0, 4]"), 4, WEIR_EFORMAT, "the product of its dimensions overflows"},
    {W("[9223372036854775807]", "[0, 4]"), 4, WEIR_EFORMAT, "the product of its dimensions overflows"},
    {W("[576460752303423488]", "[0, 4]"), 4, WEIR_EFORMAT, "the product of its dimensions overflows"},
    {"{" T("w", "F4", "[3]", "[0, 1]") "}", 1, WEIR_EFORMAT, "do not fill whole bytes"},
    {W("[1]", "[0]"), 4, WEIR_EFORMAT, "no \"data_offsets\""},
    {W("[1]", "[0, 4, 8]"), 4, WEIR_EFORMAT, "no \"data_offsets\""},
    {W("[1]", "[0, '4']"), 4, WEIR_EFORMAT, "no \"data_offsets\""},
    {W("[1]", "[-4, 0]"), 4, WEIR_EFORMAT, "data_offsets [-4, 0] do not lie in the 4 bytes"},
    {W("[1]", "[4, 0]"), 4, WEIR_EFORMAT, "data_offsets [4, 0] do not lie in the 4 bytes"},
    {W("[1]", "[1, 5]"), 4, WEIR_EFORMAT, "data_offsets [1, 5] do not lie in the 4 bytes"},
    {W("[1]", "[9223372036854775803, 9223372036854775807]"), 4, WEIR_EFORMAT, "do not lie in the 4 bytes"},
    {W("[1]", "[0, 3]"), 4, WEIR_EFORMAT, "tensor \"w\": 3 bytes of data, but its shape and dtype need 4"},
    {W("[2]", "[0, 4]"), 4, WEIR_EFORMAT, "4 bytes of data, but its shape and dtype need 8"},
    {W("[0]", "[0, 4]"), 4, WEIR_EFORMAT, "4 bytes of data, but its shape and dtype need 0"},
    {W("[1]", "[1, 5]"), 5, WEIR_EFORMAT, "tensor \"w\": a hole of 1 bytes before it"},
    {W("[1]", "[0, 4]"), 5, WEIR_EFORMAT, "1 bytes behind the last tensor belong to none"},
    {"{}", 1, WEIR_EFORMAT, "1 bytes behind the last tensor belong to none"},
    {"{" T("a", "F32", "[1]", "[0, 4]") ", " T("b", "F32", "[1]", "[3, 7]") "}", 7, WEIR_EFORMAT,
     "tensor \"b\": overlaps the tensor before it"},
    {"{" T("a", "F32", "[2]", "[0, 8]") ", " T("b", "F32", "[1]", "[0, 4]") "}", 8, WEIR_EFORMAT,
     "overlaps the tensor before it"},
    {"{" T("a", "U8", "[1]", "[0, 1]") ", " T("b", "U8", "[1]", "[2, 3]") "}", 3, WEIR_EFORMAT,
     "tensor \"b\": a hole of 1 bytes before it"},
};

static void malformed(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    size_t len;
    weir_safetensors *s;
    weir_err e = {0};
    uint8_t *file = st_file_raw(bad[i].header, bad[i].n_data, &len);
    const weir_status st = weir_safetensors_parse(file, len, &s, &e);
    if (st != bad[i].status || !strstr(e.msg, bad[i].fragment))
      fail_msg("%s: want %d \"%s\", got %d \"%s\"", bad[i].header, bad[i].status, bad[i].fragment, st, e.msg);
    assert_null(s);
    free(file);
  }
}

static void header_length(void **state) {
  (void)state;
  static const struct {
    uint64_t n;
    size_t len;
    const char *fragment;
  } c[] = {{0, 0, "not a safetensors file: 0 bytes"},
           {0, 7, "not a safetensors file: 7 bytes"},
           {0, 8, "does not begin with '{'"},
           {2, 9, "the file ends inside its header: 1 of 2 bytes"},
           {100000000, 10, "the file ends inside its header"},
           {100000001, 10, "a header of 100000001 bytes (limit 100000000)"},
           {UINT64_MAX, 10, "a header of 18446744073709551615 bytes"},
           {UINT64_MAX - 7, 10, "a header of 18446744073709551608 bytes"}};
  for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
    uint8_t *file = malloc(c[i].len ? c[i].len : 1); /* of its size: a sanitizer sees a read past the end */
    weir_safetensors *s;
    weir_err e = {0};
    for (size_t k = 0; k < c[i].len; k++)
      file[k] = k < 8 ? (uint8_t)(c[i].n >> 8 * k) : (uint8_t) "{}"[k - 8];
    assert_int_equal(weir_safetensors_parse(file, c[i].len, &s, &e), WEIR_EFORMAT);
    if (!strstr(e.msg, c[i].fragment)) fail_msg("case %zu: \"%s\"", i, e.msg);
    free(file);
  }
}

static void git_lfs_pointer(void **state) {
  (void)state;
  static const char text[] = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n";
  weir_safetensors *s;
  weir_err e = {0};
  assert_int_equal(weir_safetensors_parse(text, sizeof text - 1, &s, &e), WEIR_EFORMAT);
  assert_non_null(strstr(e.msg, "Git LFS pointer"));
}

/* Whatever comes out of damage is consistent: every tensor inside the file, no hole, or one printable line.
 */
static void check(const uint8_t *file, size_t len) {
  weir_safetensors *s;
  weir_err e = {0};
  const weir_status st = weir_safetensors_parse(file, len, &s, &e);
  if (st != WEIR_OK) {
    assert_true(e.code == st && e.msg[0]);
    for (const char *p = e.msg; *p; p++) assert_true((unsigned char)*p >= 0x20);
    return;
  }
  const uint8_t *at = NULL;
  for (int32_t i = 0; i < weir_safetensors_n(s); i++) {
    const weir_st_tensor *t = weir_safetensors_at(s, i);
    assert_true(t->data >= file && t->bytes <= len - (size_t)(t->data - file));
    assert_true(!at || t->data == at);
    at = t->data + t->bytes;
  }
  assert_true(!at || at == file + len);
  weir_safetensors_close(s);
}

static void damaged(void **state) {
  (void)state;
  static const st_entry entry[] = {{"model.norm.weight", "F32", "[4]", NULL, 16},
                                   {"model.layers.0.mlp.up_proj.weight", "BF16", "[2, 4]", NULL, 16},
                                   {"x", "I32", "[]", NULL, 4}};
  size_t len;
  uint8_t *file = st_file(entry, 3, 0, &len);
  check(file, len);
  for (size_t n = 0; n < len; n++) {
    uint8_t *cut = malloc(n ? n : 1);
    memcpy(cut, file, n);
    weir_safetensors *s;
    weir_err e = {0};
    assert_int_not_equal(weir_safetensors_parse(cut, n, &s, &e), WEIR_OK);
    free(cut);
  }
  static const uint8_t with[] = {0x00, 0xff, 0x80, '"', '{', ']', '9', '-'};
  for (size_t i = 0; i < len; i++)
    for (size_t k = 0; k < sizeof with; k++) {
      const uint8_t was = file[i];
      file[i] = with[k];
      check(file, len);
      file[i] = was;
    }
  free(file);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(well_formed), cmocka_unit_test(malformed),
                                     cmocka_unit_test(header_length), cmocka_unit_test(git_lfs_pointer),
                                     cmocka_unit_test(damaged)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
