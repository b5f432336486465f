/* SPDX-License-Identifier: Apache-2.0 */
/* Streaming detokenisation and the UTF-8 steps under it; also the escaping of strings for messages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/str.h"
#include "model/tokenizer.h"
#include "model/utf8.h"
#include "tiny_vocab.h"

#define FFFD "\xef\xbf\xbd"

/* Tokens that cut characters in every way: f09f, 9880, 98, f09f98, e4b8, ade4, c3a4, 61c3, a461, ffc3. */
static const char *const merge_bytes[] = {"\xf0\x9f", "\x98\x80",        "\xf0\x9f\x98", "\xe4\xb8",
                                          "\xad\xe4", "\xc3\xa4",        "a\xc3",        "\244a",
                                          "\xff\xc3", "\xf0\x9f\x98\x80"};
enum { N_MERGES = sizeof merge_bytes / sizeof merge_bytes[0], SPECIAL = 256 + N_MERGES, USER };

static weir_tokenizer *make_tokenizer(void) {
  static char spelled[N_MERGES][32];
  static const char *merges[N_MERGES];
  for (size_t i = 0; i < N_MERGES; i++) {
    /* The last byte is the right half; prefixes of longer ones stand before them in the list. */
    const size_t len = strlen(merge_bytes[i]);
    char *at = spelled[i];
    for (size_t k = 0; k < len; k++) {
      if (k + 1 == len) *at++ = ' ';
      tiny_vocab_spell((uint8_t)merge_bytes[i][k], at);
      at += strlen(at);
    }
    merges[i] = spelled[i];
  }
  const tiny_vocab v = {.pre = "qwen2",
                        .merges = merges,
                        .n_merges = N_MERGES,
                        .extra = {{"<|im_end|>", TINY_CONTROL}, {"<\xc3\xa4>", TINY_USER}}};
  gguf_writer w;
  size_t len;
  weir_gguf *g;
  weir_tokenizer *t;
  weir_err e = {0};
  gguf_writer_init(&w);
  tiny_vocab_write(&w, &v);
  uint8_t *file = gguf_writer_file(&w, &len);
  gguf_writer_fini(&w);
  if (weir_gguf_parse(file, len, &g, &e) != WEIR_OK) fail_msg("%s", e.msg);
  if (weir_tokenizer_from_gguf(g, &t, &e) != WEIR_OK) fail_msg("%s", e.msg);
  weir_gguf_close(g);
  free(file);
  return t;
}

/* ---- the rule, written from the standard's table 3-7 row by row ---- */

typedef struct utf8_row {
  uint8_t lo[4], hi[4];
  int len;
} utf8_row;

static const utf8_row table_3_7[] = {
    {{0x00}, {0x7f}, 1},
    {{0xc2, 0x80}, {0xdf, 0xbf}, 2},
    {{0xe0, 0xa0, 0x80}, {0xe0, 0xbf, 0xbf}, 3},
    {{0xe1, 0x80, 0x80}, {0xec, 0xbf, 0xbf}, 3},
    {{0xed, 0x80, 0x80}, {0xed, 0x9f, 0xbf}, 3},
    {{0xee, 0x80, 0x80}, {0xef, 0xbf, 0xbf}, 3},
    {{0xf0, 0x90, 0x80, 0x80}, {0xf0, 0xbf, 0xbf, 0xbf}, 4},
    {{0xf1, 0x80, 0x80, 0x80}, {0xf3, 0xbf, 0xbf, 0xbf}, 4},
    {{0xf4, 0x80, 0x80, 0x80}, {0xf4, 0x8f, 0xbf, 0xbf}, 4},
};

/* How many bytes of a row stand at p. */
static int matches(const utf8_row *r, const uint8_t *p, size_t n) {
  int k = 0;
  while (k < r->len && (size_t)k < n && p[k] >= r->lo[k] && p[k] <= r->hi[k]) k++;
  return k;
}

/* The whole text at once: characters, and one U+FFFD for each longest prefix of a row, else for each byte. */
static void replace_slowly(const uint8_t *p, size_t n, weir_buf *out) {
  while (n) {
    int longest = 1;
    bool whole = false;
    for (size_t r = 0; r < sizeof table_3_7 / sizeof table_3_7[0] && !whole; r++) {
      const int k = matches(&table_3_7[r], p, n);
      whole = k == table_3_7[r].len;
      if (whole || k > longest) longest = k;
    }
    assert_int_equal(whole ? weir_buf_put(out, p, (size_t)longest, NULL) : weir_buf_puts(out, FFFD, NULL),
                     WEIR_OK);
    p += longest;
    n -= (size_t)longest;
  }
}

static bool is_utf8(const char *p, size_t n) {
  while (n) {
    size_t r = 0;
    while (r < 9 && matches(&table_3_7[r], (const uint8_t *)p, n) != table_3_7[r].len) r++;
    if (r == 9) return false;
    p += table_3_7[r].len;
    n -= (size_t)table_3_7[r].len;
  }
  return true;
}

/* ---- tests ---- */

/* The standard's own examples (Unicode 15, section 3.9, tables 3-8 to 3-11). */
static void examples_of_the_standard(void **state) {
  (void)state;
  static const struct {
    const char *bytes, *want;
  } rows[] = {
      {"\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", FFFD FFFD FFFD FFFD FFFD FFFD FFFD FFFD "A"},
      {"\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", FFFD FFFD FFFD FFFD FFFD FFFD FFFD FFFD "A"},
      {"\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", FFFD FFFD FFFD FFFD FFFD "A" FFFD FFFD "B"},
      {"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", FFFD FFFD FFFD FFFD "A"},
      {"\x61\xf1\x80\x80\xe1\x80\xc2\x62\x80\x63\x80\xbf\x64", "a" FFFD FFFD FFFD "b" FFFD "c" FFFD FFFD "d"},
      {"\xf0\x9f\x98", FFFD},
      {"\xe4\xb8\xad", "\xe4\xb8\xad"},
      {"\xf4\x8f\xbf\xbf\xf4\x90", "\xf4\x8f\xbf\xbf" FFFD FFFD},
  };
  weir_tokenizer *t = make_tokenizer();
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    weir_buf got = {0}, slow = {0};
    weir_detok d = {0};
    weir_err e = {0};
    for (const char *p = rows[i].bytes; *p; p++)
      assert_int_equal(weir_detok_put(&d, t, (uint8_t)*p, false, &got, &e), WEIR_OK);
    assert_int_equal(weir_detok_end(&d, &got, &e), WEIR_OK);
    assert_string_equal(got.data, rows[i].want);
    replace_slowly((const uint8_t *)rows[i].bytes, strlen(rows[i].bytes), &slow);
    assert_string_equal(slow.data, rows[i].want);
    weir_buf_fini(&got);
    weir_buf_fini(&slow);
  }
  weir_tokenizer_destroy(t);
}

static uint32_t next_random(uint32_t *s) {
  *s ^= *s << 13;
  *s ^= *s >> 17;
  *s ^= *s << 5;
  return *s;
}

/* Random tokens: what came out is whole characters after every token, and in the end the slow way's text. */
static void streams_equal_whole(void **state) {
  (void)state;
  weir_tokenizer *t = make_tokenizer();
  uint32_t seed = 4711;
  for (int trial = 0; trial < 3000; trial++) {
    weir_buf got = {0}, raw = {0}, slow = {0};
    weir_detok d = {0};
    weir_err e = {0};
    const uint32_t n = 1 + next_random(&seed) % 30, kind = next_random(&seed) % 3;
    for (uint32_t i = 0; i < n; i++) {
      const uint32_t r = next_random(&seed);
      int32_t id = (int32_t)(256 + r % N_MERGES);
      if (kind == 0 || (kind == 1 && (r >> 16) % 2)) id = (int32_t)((r >> 8) & 0xff);
      const weir_str bytes = weir_token_bytes(t, id);
      assert_int_equal(weir_buf_put(&raw, bytes.data, bytes.len, &e), WEIR_OK);
      const size_t before = got.len;
      assert_int_equal(weir_detok_put(&d, t, id, false, &got, &e), WEIR_OK);
      assert_true(d.n_pending >= 0 && d.n_pending <= 3);
      if (got.len > before) assert_true(is_utf8(got.data + before, got.len - before));
    }
    assert_int_equal(weir_detok_end(&d, &got, &e), WEIR_OK);
    assert_int_equal(d.n_pending, 0);
    replace_slowly((const uint8_t *)raw.data, raw.len, &slow);
    assert_int_equal(got.len, slow.len);
    assert_memory_equal(got.data, slow.data, slow.len);
    weir_buf_fini(&got);
    weir_buf_fini(&raw);
    weir_buf_fini(&slow);
  }
  weir_tokenizer_destroy(t);
}

/* Nothing is held back longer than needed: a character comes out with its last byte. */
static void emits_at_once(void **state) {
  (void)state;
  static const struct {
    int32_t id;
    bool show;
    const char *want;
  } rows[] = {{'a', false, "a"},
              {0xf0, false, ""},
              {0x9f, false, ""},
              {0x98, false, ""},
              {0x80, false, "\xf0\x9f\x98\x80"},
              {0xc3, false, ""},
              {SPECIAL, false, ""},
              {0xa4, false, "\xc3\xa4"},
              {SPECIAL, true, "<|im_end|>"},
              {USER, false, "<\xc3\xa4>"},
              {0xc3, false, ""},
              {SPECIAL, true, FFFD "<|im_end|>"},
              {-1, true, ""},
              {USER + 1, true, ""},
              {0xe2, false, ""},
              {0x28, false, FFFD "("}};
  weir_tokenizer *t = make_tokenizer();
  weir_detok d = {0};
  weir_buf got = {0};
  weir_err e = {0};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    weir_buf_truncate(&got, 0);
    assert_int_equal(weir_detok_put(&d, t, rows[i].id, rows[i].show, &got, &e), WEIR_OK);
    if (strcmp(got.data ? got.data : "", rows[i].want) != 0)
      fail_msg("row %zu: got \"%s\", want \"%s\"", i, got.data, rows[i].want);
  }
  weir_buf_truncate(&got, 0);
  assert_int_equal(weir_detok_end(&d, &got, &e), WEIR_OK);
  assert_int_equal(got.len, 0);
  weir_buf_fini(&got);
  weir_tokenizer_destroy(t);
}

static void every_code_point(void **state) {
  (void)state;
  for (uint32_t c = 0; c <= 0x10ffff; c++) {
    char p[4];
    int32_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4, len;
    p[0] = (char)(n == 1 ? c : n == 2 ? 0xc0 | c >> 6 : n == 3 ? 0xe0 | c >> 12 : 0xf0 | c >> 18);
    for (int32_t k = 1; k < n; k++) p[k] = (char)(0x80 | ((c >> (6 * (n - 1 - k))) & 0x3f));
    const bool surrogate = c >= 0xd800 && c <= 0xdfff;
    const weir_utf8_kind kind = weir_utf8_next(p, (size_t)n, &len);
    if (surrogate ? kind != WEIR_UTF8_BROKEN || len != 1 : kind != WEIR_UTF8_CHAR || len != n)
      fail_msg("U+%04X: kind %d, length %d", c, kind, len);
    if (!surrogate && weir_utf8_code(p, n) != c) fail_msg("U+%04X: code U+%04X", c, weir_utf8_code(p, n));
    for (int32_t cut = 1; cut < n && !surrogate; cut++)
      if (weir_utf8_next(p, (size_t)cut, &len) != WEIR_UTF8_INCOMPLETE || len != cut)
        fail_msg("U+%04X cut to %d bytes", c, cut);
  }
}

static void strings_for_messages(void **state) {
  (void)state;
  static const struct {
    const char *in;
    size_t len;
    const char *want;
  } rows[] = {{"plain", 5, "\"plain\""},
              {"", 0, "\"\""},
              {"a\"b\\c", 5, "\"a\\\"b\\\\c\""},
              {"\n\t\0\x7f\xff", 5, "\"\\n\\x09\\x00\\x7f\\xff\""}};
  char shown[WEIR_STR_SHOW_BYTES];
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
    assert_string_equal(weir_str_show((weir_str){rows[i].in, rows[i].len}, shown), rows[i].want);
  char longest[1000];
  memset(longest, 'x', sizeof longest);
  weir_str_show((weir_str){longest, sizeof longest}, shown);
  const size_t n = strlen(shown);
  assert_true(n < WEIR_STR_SHOW_BYTES && n > WEIR_STR_SHOW_BYTES - 8);
  assert_string_equal(shown + n - 4, "...\"");
}

static void string_map(void **state) {
  (void)state;
  enum { N = 5000 };
  static char key[N][12];
  weir_strmap m = {0};
  weir_err e = {0};
  assert_int_equal(weir_strmap_get(&m, weir_str_of("x")), -1);
  assert_int_equal(weir_strmap_init(&m, N, &e), WEIR_OK);
  for (int32_t i = 0; i < N; i++) {
    snprintf(key[i], sizeof key[i], "%x", (unsigned)i * 2654435761u);
    assert_int_equal(weir_strmap_add(&m, weir_str_of(key[i]), i), i);
    assert_int_equal(weir_strmap_add(&m, weir_str_of(key[i]), i + 1), i); /* the first stays */
  }
  for (int32_t i = 0; i < N; i++) assert_int_equal(weir_strmap_get(&m, weir_str_of(key[i])), i);
  assert_int_equal(weir_strmap_get(&m, weir_str_of("not there")), -1);
  assert_int_equal(weir_strmap_get(&m, (weir_str){NULL, 0}), -1);
  weir_strmap_fini(&m);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(examples_of_the_standard),
      cmocka_unit_test(streams_equal_whole),
      cmocka_unit_test(emits_at_once),
      cmocka_unit_test(every_code_point),
      cmocka_unit_test(strings_for_messages),
      cmocka_unit_test(string_map),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
