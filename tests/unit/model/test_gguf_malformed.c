/* SPDX-License-Identifier: Apache-2.0 */
/* Files that are wrong on purpose. Each row is a file in a small notation, the status and a part of the
 * message:
 *
 *   'text'  these bytes         N:V  the integer V in N bytes, little endian (V as strtoull takes it)
 *   s:text  a string, its length in 8 bytes first         z:N  N zero bytes      a:N  zeros up to a multiple
 * of N
 *
 * A header is "'GGUF' 4:version 8:tensors 8:keys". */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "gguf_writer.h"
#include "model/gguf.h"
#include "model/hparams.h"
#include "model/tokenizer.h"
#include "tiny_vocab.h"

#define KEYS(n)    "'GGUF' 4:3 8:0 8:" #n " "
#define TENSORS(n) "'GGUF' 4:3 8:" #n " 8:0 "
#define U64_MAX    "0xffffffffffffffff"
/* One F32 tensor of a row of 8: name, dimensions, type, offset. */
#define T8(name, offset) "s:" name " 4:1 8:8 4:0 8:" offset " "

typedef struct bad_file {
  const char *spec;
  weir_status status;
  const char *fragment;
} bad_file;

static const bad_file bad_files[] = {
    /* header */
    {"", WEIR_EFORMAT, "not a GGUF file: 0 bytes"},
    {"'GGU'", WEIR_EFORMAT, "not a GGUF file: 3 bytes"},
    {"'GGML' 4:3 8:0 8:0", WEIR_EFORMAT, "not a GGUF file: it begins with \"GGML\""},
    {"4:0xff1b0a00 4:3 8:0 8:0", WEIR_EFORMAT, "it begins with \"\\x00\\n\\x1b\\xff\""},
    {"'GGUF' 2:3", WEIR_EFORMAT, "ends inside its header"},
    {"'GGUF' 4:1 4:0 4:0", WEIR_EUNSUP, "GGUF version 1; weir reads versions 2 and 3"},
    {"'GGUF' 4:0 8:0 8:0", WEIR_EUNSUP, "GGUF version 0"},
    {"'GGUF' 4:4 8:0 8:0", WEIR_EUNSUP, "GGUF version 4"},
    {"'GGUF' 4:0x03000000 8:0 8:0", WEIR_EUNSUP, "big-endian"},
    {"'GGUF' 4:0x02000000 8:0 8:0", WEIR_EUNSUP, "big-endian"},
    {"'GGUF' 4:3 8:0 4:0", WEIR_EFORMAT, "ends inside its header"},
    {KEYS(262145), WEIR_EFORMAT, "262145 keys (limit 262144)"},
    {KEYS(0xffffffffffffffff), WEIR_EFORMAT, "18446744073709551615 keys (limit"},
    {TENSORS(0xffffffffffffffff), WEIR_EFORMAT, "18446744073709551615 tensors (limit"},
    {KEYS(262144) "z:100", WEIR_EFORMAT, "262144 keys do not fit in 100 bytes"},
    {TENSORS(4) "z:100", WEIR_EFORMAT, "4 tensors do not fit in 100 bytes"},
    /* keys */
    {KEYS(1) "8:" U64_MAX " z:16", WEIR_EFORMAT, "key 0 of 1 at byte 24: its name runs past the end"},
    {KEYS(1) "8:0xfffffffffffffff8 z:16", WEIR_EFORMAT, "its name runs past the end"},
    {KEYS(1) "8:0x8000000000000000 z:16", WEIR_EFORMAT, "its name runs past the end"},
    {KEYS(1) "s: 4:4 4:1 z:16", WEIR_EFORMAT, "key 0 at byte 24: the name is empty"},
    {KEYS(1) "8:2 'a' 1:0 4:4 4:1 z:16", WEIR_EFORMAT, "the name contains a NUL byte: \"a\\x00\""},
    {KEYS(1) "8:65536 z:65536 4:4 4:1 z:16", WEIR_EFORMAT, "the name is too long"},
    {KEYS(1) "s:some.key 1:4", WEIR_EFORMAT, "key \"some.key\": the file ends before its type"},
    {KEYS(1) "s:some.key 4:13 8:0", WEIR_EFORMAT, "key \"some.key\": unknown value type 13"},
    {KEYS(1) "s:some.key 4:0xffffffff 8:0", WEIR_EFORMAT, "unknown value type 4294967295"},
    {KEYS(1) "s:some.key 4:10 4:0", WEIR_EFORMAT, "key \"some.key\": the file ends inside its value"},
    {KEYS(1) "s:some.key 4:4 3:0", WEIR_EFORMAT, "the file ends inside its value"},
    {KEYS(1) "s:some.key 4:7 1:2", WEIR_EFORMAT, "key \"some.key\": a bool that is neither 0 nor 1"},
    {KEYS(1) "s:some.key 4:8 8:5 'four'", WEIR_EFORMAT, "key \"some.key\": string runs past the end"},
    {KEYS(1) "s:some.key 4:8 8:" U64_MAX, WEIR_EFORMAT, "string runs past the end"},
    {KEYS(2) "s:twice 4:4 4:1 s:twice 4:4 4:1", WEIR_EFORMAT, "key \"twice\": appears twice"},
    {KEYS(2) "s:one 4:4 4:1 z:4", WEIR_EFORMAT, "2 keys do not fit"},
    {KEYS(2) "s:one 4:8 s:0123456789 z:4", WEIR_EFORMAT, "key 1 of 2 at byte 57: its name runs past the end"},
    /* arrays */
    {KEYS(1) "s:arr 4:9 4:0 4:0", WEIR_EFORMAT, "key \"arr\": the file ends inside its array header"},
    {KEYS(1) "s:arr 4:9 4:99 8:0", WEIR_EFORMAT, "key \"arr\": unknown array element type 99"},
    {KEYS(1) "s:arr 4:9 4:0 8:5 z:4", WEIR_EFORMAT, "key \"arr\": array of 5 u8 runs past the end"},
    {KEYS(1) "s:arr 4:9 4:10 8:0x2000000000000001 z:8", WEIR_EFORMAT,
     "array of 2305843009213693953 u64 runs past"},
    {KEYS(1) "s:arr 4:9 4:10 8:" U64_MAX " z:8", WEIR_EFORMAT, "array of 18446744073709551615 u64 runs past"},
    {KEYS(1) "s:arr 4:9 4:8 8:0x2000000000000000 z:8", WEIR_EFORMAT,
     "array of 2305843009213693952 string runs past"},
    {KEYS(1) "s:arr 4:9 4:8 8:2 s:fine 8:9 'short'", WEIR_EFORMAT,
     "key \"arr\": string 1 of the array runs past"},
    {KEYS(1) "s:arr 4:9 4:8 8:1 8:" U64_MAX, WEIR_EFORMAT, "string 0 of the array runs past"},
    {KEYS(1) "s:arr 4:9 4:9 8:1 4:0 8:" U64_MAX, WEIR_EFORMAT, "array of 18446744073709551615 u8 runs past"},
    {KEYS(1) "s:arr 4:9 4:9 8:2 4:0 8:0 z:11", WEIR_EFORMAT, "key \"arr\": array of 2 array runs past"},
    {KEYS(1) "s:arr 4:9 4:9 8:2 4:0 8:8 8:0 z:7", WEIR_EFORMAT, "key \"arr\": inner array runs past"},
    {KEYS(1) "s:arr 4:9 4:9 8:1 4:9 8:1 4:9 8:1 4:9 8:1 4:9 8:0 z:64", WEIR_EFORMAT,
     "key \"arr\": arrays nested deeper than 4"},
    {KEYS(1) "s:arr 4:9 4:9 8:0x1000000000000000 z:64", WEIR_EFORMAT,
     "array of 1152921504606846976 array runs past"},
    /* alignment */
    {KEYS(1) "s:general.alignment 4:4 4:0", WEIR_EFORMAT, "\"general.alignment\": 0 (a power of two, 8 to"},
    {KEYS(1) "s:general.alignment 4:4 4:3", WEIR_EFORMAT, "\"general.alignment\": 3 (a power of two"},
    {KEYS(1) "s:general.alignment 4:4 4:4", WEIR_EFORMAT, "\"general.alignment\": 4 (a power of two"},
    {KEYS(1) "s:general.alignment 4:4 4:48", WEIR_EFORMAT, "\"general.alignment\": 48 (a power of two"},
    {KEYS(1) "s:general.alignment 4:4 4:0x80000000", WEIR_EFORMAT,
     "\"general.alignment\": 2147483648 (a power"},
    {KEYS(1) "s:general.alignment 4:5 4:0xffffffe0", WEIR_EFORMAT,
     "\"general.alignment\": -32 (a power of two"},
    {KEYS(1) "s:general.alignment 4:10 8:" U64_MAX, WEIR_EFORMAT, "18446744073709551615 is too large"},
    {KEYS(1) "s:general.alignment 4:8 s:32", WEIR_EFORMAT,
     "\"general.alignment\": want an integer, file has string"},
    /* tensors */
    {TENSORS(1) "8:" U64_MAX " z:64", WEIR_EFORMAT, "tensor 0 of 1 at byte 24: its name runs past the end"},
    {TENSORS(1) "s: 4:1 8:8 4:0 8:0 z:64", WEIR_EFORMAT, "tensor 0 at byte 24: the name is empty"},
    {TENSORS(1) "8:256 z:256 4:1 8:8 4:0 8:0 z:64", WEIR_EFORMAT, "the name is too long"},
    {TENSORS(1) "8:3 'a' 1:0 'b' 4:1 8:8 4:0 8:0 z:64", WEIR_EFORMAT, "NUL byte: \"a\\x00b\""},
    {TENSORS(2) T8("w", "0") T8("w", "32") "a:32 z:64", WEIR_EFORMAT, "tensor \"w\": appears twice"},
    {TENSORS(1) "s:w 4:0 4:0 8:0 z:64", WEIR_EFORMAT, "tensor \"w\": 0 dimensions (1 to 4)"},
    {TENSORS(1) "s:w 4:5 z:64", WEIR_EFORMAT, "tensor \"w\": 5 dimensions (1 to 4)"},
    {TENSORS(1) "s:w 4:0xffffffff z:64", WEIR_EFORMAT, "4294967295 dimensions"},
    {TENSORS(1) "s:w 4:1 8:0 4:0 8:0 z:64", WEIR_EFORMAT, "tensor \"w\": dimension 0 is 0"},
    {TENSORS(1) "s:w 4:2 8:8 8:0 4:0 8:0 z:64", WEIR_EFORMAT, "tensor \"w\": dimension 1 is 0"},
    {TENSORS(1) "s:w 4:1 8:" U64_MAX " 4:0 8:0 z:64", WEIR_EFORMAT, "dimension 0 is 18446744073709551615"},
    {TENSORS(1) "s:w 4:2 8:0x100000000 8:0x80000000 4:0 8:0 z:64", WEIR_EFORMAT,
     "tensor \"w\": the product of its dimensions overflows"},
    {TENSORS(1) "s:w 4:4 8:65536 8:65536 8:65536 8:65536 4:0 8:0 z:64", WEIR_EFORMAT, "dimensions overflows"},
    {TENSORS(1) "s:w 4:1 8:0x4000000000000000 4:0 8:0 z:64", WEIR_EFORMAT, "tensor \"w\": "},
    {TENSORS(1) "s:w 4:2 8:0x40000000 8:0x100000000 4:0 8:0 z:64", WEIR_EFORMAT,
     "its size in bytes overflows"},
    {TENSORS(1) "s:w 4:1 8:33 4:8 8:0 z:64", WEIR_EFORMAT, "tensor \"w\": "},
    {TENSORS(1) "s:w 4:2 8:16 8:2 4:2 8:0 z:64", WEIR_EFORMAT, "tensor \"w\": "},
    {TENSORS(1) "s:w 4:1 8:8 4:10 8:0 z:64", WEIR_EUNSUP, "tensor \"w\": type Q2_K is not supported"},
    {TENSORS(1) "s:w 4:1 8:8 4:4 8:0 z:64", WEIR_EUNSUP, "tensor \"w\": unknown type 4"},
    {TENSORS(1) "s:w 4:1 8:8 4:0xffffffff 8:0 z:64", WEIR_EUNSUP, "unknown type 4294967295"},
    {TENSORS(1) "s:w 4:3 8:8 8:8 4:0", WEIR_EFORMAT, "tensor \"w\": the file ends inside its dimensions"},
    {TENSORS(1) "s:twenty-one-characters 4:1 8:8 2:0", WEIR_EFORMAT, "the file ends before its type"},
    {TENSORS(1) "s:twenty-one-characters 4:1 8:8 4:0 7:0", WEIR_EFORMAT, "the file ends before its offset"},
    {TENSORS(1) T8("w", "1") "a:32 z:64", WEIR_EFORMAT,
     "tensor \"w\": offset 1 is not a multiple of the alignment 32"},
    {TENSORS(1) T8("w", "0") "a:32 z:31", WEIR_EFORMAT, "tensor \"w\": 32 bytes at offset 0 of 31 bytes"},
    {TENSORS(1) T8("w", "0"), WEIR_EFORMAT, "32 bytes at offset 0 of 0 bytes of tensor data: past the end"},
    {TENSORS(1) T8("w", "64") "a:32 z:64", WEIR_EFORMAT, "32 bytes at offset 64 of 64 bytes"},
    {TENSORS(1) T8("w", "0xffffffffffffffe0") "a:32 z:64", WEIR_EFORMAT, "past the end of the file"},
    {TENSORS(1) "s:w 4:1 8:0x1000000000000000 4:0 8:0 a:32 z:64", WEIR_EFORMAT, "past the end of the file"},
    {TENSORS(2) T8("first", "0") T8("second", "0") "a:32 z:64", WEIR_EFORMAT, "overlaps tensor"},
    {TENSORS(3) T8("c", "64") "s:a 4:1 8:9 4:0 8:0 " T8("b", "32") "a:32 z:96", WEIR_EFORMAT,
     "tensor \"b\": overlaps tensor \"a\""},
};

/* Bytes of a notation; see the top. */
static void build(const char *spec, weir_buf *b) {
  for (const char *p = spec; *p;) {
    if (*p == ' ') {
      p++;
      continue;
    }
    const char *end = *p == '\'' ? strchr(p + 1, '\'') : p + strcspn(p, " ");
    if (!end) fail_msg("unfinished text in %s", spec);
    const char *colon = *p == '\'' ? NULL : strchr(p, ':');
    if (*p == '\'') {
      gguf_put(b, p + 1, (size_t)(end - p - 1));
      end++;
    } else if (!colon || colon > end) {
      fail_msg("cannot read %s in %s", p, spec);
    } else if (*p == 's') {
      gguf_put_int(b, (uint64_t)(end - colon - 1), 8);
      gguf_put(b, colon + 1, (size_t)(end - colon - 1));
    } else {
      const uint64_t v = strtoull(colon + 1, NULL, 0);
      if (*p == 'z')
        for (uint64_t i = 0; i < v; i++) gguf_put_int(b, 0, 1);
      else if (*p == 'a')
        while (b->len % v) gguf_put_int(b, 0, 1);
      else
        gguf_put_int(b, v, (size_t)(*p - '0'));
    }
    p = end;
  }
}

/* Parses a copy of exactly len bytes, so that a sanitizer sees any read beyond. */
static weir_status parse_copy(const void *bytes, size_t len, weir_gguf **g, uint8_t **copy, weir_err *e) {
  *copy = malloc(len ? len : 1);
  assert_non_null(*copy);
  if (len) memcpy(*copy, bytes, len);
  return weir_gguf_parse(len ? *copy : NULL, len, g, e);
}

static void named_faults(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof bad_files / sizeof bad_files[0]; i++) {
    weir_buf b = {0};
    weir_err e = {0};
    weir_gguf *g;
    uint8_t *copy;
    build(bad_files[i].spec, &b);
    const weir_status st = parse_copy(b.data, b.len, &g, &copy, &e);
    if (st != bad_files[i].status || !strstr(e.msg, bad_files[i].fragment))
      fail_msg("row %zu: got %d \"%s\", want %d with \"%s\"", i, st, e.msg, bad_files[i].status,
               bad_files[i].fragment);
    if (strchr(e.msg, '\n') || strchr(e.msg, '\x1b'))
      fail_msg("row %zu: the message is not one clean line", i);
    assert_null(g);
    free(copy);
    weir_buf_fini(&b);
  }
}

/* The same notation, right: else the rows above might all fail for a reason of their own. */
static void notation_makes_good_files(void **state) {
  (void)state;
  static const char *const good[] = {
      KEYS(0),
      KEYS(1) "s:some.key 4:4 4:1",
      KEYS(1) "s:some.key 4:8 s:text",
      KEYS(2) "s:one 4:4 4:1 s:two 4:7 1:1",
      KEYS(1) "s:arr 4:9 4:9 8:1 4:9 8:1 4:9 8:1 4:8 8:1 s:deep",
      KEYS(1) "s:general.alignment 4:4 4:8",
      TENSORS(1) T8("w", "0") "a:32 z:32",
      TENSORS(2) T8("first", "0") T8("second", "32") "a:32 z:64",
      TENSORS(3) T8("c", "64") "s:a 4:1 8:8 4:0 8:0 " T8("b", "32") "a:32 z:96",
      "'GGUF' 4:2 8:0 8:1 s:some.key 4:4 4:1",
  };
  for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
    weir_buf b = {0};
    weir_err e = {0};
    weir_gguf *g;
    uint8_t *copy;
    build(good[i], &b);
    if (parse_copy(b.data, b.len, &g, &copy, &e) != WEIR_OK) fail_msg("row %zu: %s", i, e.msg);
    weir_gguf_close(g);
    free(copy);
    weir_buf_fini(&b);
  }
}

/* A small whole model: hyper-parameters, a tokenizer of 256 bytes and two merges, one tensor. */
static uint8_t *small_model(size_t *len) {
  static const char *const merges[] = {"a b", "ab c"};
  static const tiny_vocab vocab = {.pre = "llama-bpe",
                                   .merges = merges,
                                   .n_merges = 2,
                                   .extra = {{"<|endoftext|>", TINY_CONTROL}, {"<user>", TINY_USER}}};
  static const uint64_t dim[] = {2, 260};
  gguf_writer w;
  gguf_writer_init(&w);
  gguf_writer_str(&w, "general.architecture", "llama");
  gguf_writer_u32(&w, "llama.block_count", 1);
  gguf_writer_u32(&w, "llama.embedding_length", 2);
  gguf_writer_u32(&w, "llama.feed_forward_length", 2);
  gguf_writer_u32(&w, "llama.context_length", 8);
  gguf_writer_u32(&w, "llama.attention.head_count", 1);
  gguf_writer_f32(&w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
  tiny_vocab_write(&w, &vocab);
  gguf_writer_u32(&w, "tokenizer.ggml.bos_token_id", 258);
  gguf_writer_tensor(&w, "token_embd.weight", GW_F16, dim, 2, NULL, 1040);
  uint8_t *file = gguf_writer_file(&w, len);
  gguf_writer_fini(&w);
  return file;
}

/* Everything that reads a file, on any bytes: either it works or it says what is wrong. */
static bool read_all(const uint8_t *bytes, size_t len) {
  weir_err e = {0};
  weir_gguf *g;
  uint8_t *copy;
  weir_hparams h;
  weir_tokenizer *t;
  bool ok = false;
  if (parse_copy(bytes, len, &g, &copy, &e) == WEIR_OK) {
    char text[64];
    for (int64_t i = 0; i < weir_gguf_n_keys(g); i++) weir_gguf_value_text(g, i, text, sizeof text);
    ok = weir_hparams_from_gguf(g, &h, &e) == WEIR_OK;
    if (weir_tokenizer_from_gguf(g, &t, &e) == WEIR_OK) {
      weir_tokens ids = {0};
      assert_int_equal(weir_tokenize(t, "abc \xff<|endoftext|><user>", 24, true, &ids, &e), WEIR_OK);
      weir_tokens_fini(&ids);
      weir_tokenizer_destroy(t);
    } else {
      ok = false;
    }
    weir_gguf_close(g);
  }
  if (!ok && e.msg[0] == '\0') fail_msg("a failure without a message");
  free(copy);
  return ok;
}

static void every_truncation(void **state) {
  (void)state;
  size_t len;
  uint8_t *file = small_model(&len);
  assert_true(read_all(file, len));
  for (size_t n = 0; n < len; n++)
    if (read_all(file, n)) fail_msg("the first %zu of %zu bytes were taken for a whole file", n, len);
  free(file);
}

static void every_byte_changed(void **state) {
  (void)state;
  static const uint8_t change[] = {0x01, 0x80, 0xff, 0x20};
  size_t len;
  uint8_t *file = small_model(&len);
  for (size_t i = 0; i < len - 1040; i++)
    for (size_t k = 0; k < sizeof change; k++) {
      file[i] ^= change[k];
      read_all(file, len); /* must only not crash: many changes are harmless */
      file[i] ^= change[k];
    }
  assert_true(read_all(file, len));
  free(file);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(named_faults),
      cmocka_unit_test(notation_makes_good_files),
      cmocka_unit_test(every_truncation),
      cmocka_unit_test(every_byte_changed),
  };
  weir_log_set_level(WEIR_LOG_ERROR); /* a missing pre-tokenizer is warned of a thousand times */
  return cmocka_run_group_tests(tests, NULL, NULL);
}
