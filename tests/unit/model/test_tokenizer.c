/* SPDX-License-Identifier: Apache-2.0 */
/* The tokenizer on small vocabularies made here: merges, special tokens, bytes that are no UTF-8, what a file
 * may get wrong. Against published vocabularies: test_tok_vectors.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "model/tok_pretok.h"
#include "model/tokenizer.h"
#include "tiny_vocab.h"

/* Merges of "the cat sat": h+e before t+he; Gthe with the space in front; nothing makes "at" from c, a, t but
 * a+t. */
static const char *const merges[] = {"h e",
                                     "t he",
                                     "\xc4\xa0 the",
                                     "a t",
                                     "\xc4\xa0 c",
                                     "\304\240c at",
                                     "l l",
                                     "' ll",
                                     "1 2",
                                     "\xc4\xa0 \xc4\xa0",
                                     "\xc3\xb0 \xc5\x81"};
enum { N_MERGES = sizeof merges / sizeof merges[0], EXTRA = 256 + N_MERGES };

static const tiny_vocab vocab = {.pre = "qwen2",
                                 .merges = merges,
                                 .n_merges = N_MERGES,
                                 .extra = {{"<|endoftext|>", TINY_CONTROL},
                                           {"<|im_end|>", TINY_CONTROL},
                                           {"<|im", TINY_CONTROL},
                                           {"<user>", TINY_USER},
                                           {"<user>!", TINY_USER},
                                           {"<|x|>", TINY_UNKNOWN},
                                           {"\xc3\xa4\xc3\xb6", TINY_NORMAL},
                                           {"whole", TINY_NORMAL}}};
enum { END = EXTRA, IM_END, IM, USER, USER_BANG, UNKNOWN, AO, WHOLE, N_VOCAB };

static weir_status create(const tiny_vocab *v, void (*more)(gguf_writer *), weir_tokenizer **t, weir_err *e) {
  gguf_writer w;
  size_t len;
  weir_gguf *g;
  gguf_writer_init(&w);
  tiny_vocab_write(&w, v);
  if (more) more(&w);
  uint8_t *file = gguf_writer_file(&w, &len);
  gguf_writer_fini(&w);
  weir_status st = weir_gguf_parse(file, len, &g, e);
  if (st == WEIR_OK) {
    st = weir_tokenizer_from_gguf(g, t, e);
    weir_gguf_close(g);
  }
  free(file); /* the tokenizer keeps no pointer into it: a sanitizer would see */
  return st;
}

static weir_tokenizer *must_create(const tiny_vocab *v, void (*more)(gguf_writer *)) {
  weir_tokenizer *t;
  weir_err e = {0};
  if (create(v, more, &t, &e) != WEIR_OK) fail_msg("%s", e.msg);
  return t;
}

static weir_tokens must_tokenize(weir_tokenizer *t, const char *text, size_t len, bool special) {
  weir_tokens ids = {0};
  weir_err e = {0};
  if (weir_tokenize(t, text, len, special, &ids, &e) != WEIR_OK) fail_msg("%s", e.msg);
  return ids;
}

/* ids as the bytes they stand for, "|" between. */
static void join(const weir_tokenizer *t, const weir_tokens *ids, char *out, size_t bytes) {
  size_t n = 0;
  for (int32_t i = 0; i < ids->n; i++) {
    const weir_str s = weir_token_bytes(t, ids->id[i]);
    assert_true(n + s.len + 2 < bytes);
    if (i) out[n++] = '|';
    memcpy(out + n, s.data, s.len);
    n += s.len;
  }
  out[n] = 0;
}

static void merging(void **state) {
  (void)state;
  static const struct {
    const char *text;
    bool special;
    const char *want;
  } rows[] = {
      {"", true, ""},
      {"the cat", true, "the| cat"},
      {"cat", true, "c|at"}, /* no merge makes it without the space */
      {" the  the", true, " the| | the"},
      {"he'll", true, "he|'ll"},
      {"1212", true, "1|2|1|2"}, /* qwen2: digits stand alone, whatever the merges say */
      {"att", true, "at|t"},
      {"llll", true, "ll|ll"},
      {"lll", true, "ll|l"},
      {"a<|im_end|>b", true, "a|<|im_end|>|b"},
      {"a<|im_end|>b", false, "a|<|||i|m|_|e|n|d|||>|b"},
      {"<|im_en", true, "<|im|_|e|n"}, /* the longest that is whole */
      {"<|im_end|><|im_end|>", true, "<|im_end|>|<|im_end|>"},
      {"x<user>y", false, "x|<user>|y"}, /* user-defined: always */
      {"<user>!", false, "<user>!"},
      {"<user>?", false, "<user>|?"},
      {"<|x|>", true, "<|x|>"},
      {"<|x|>", false, "<|||x|||>"},
      {"the<user>the cat", false, "the|<user>|the| cat"},
  };
  weir_tokenizer *t = must_create(&vocab, NULL);
  char got[256];
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    weir_tokens ids = must_tokenize(t, rows[i].text, strlen(rows[i].text), rows[i].special);
    join(t, &ids, got, sizeof got);
    if (strcmp(got, rows[i].want))
      fail_msg("\"%s\": got \"%s\", want \"%s\"", rows[i].text, got, rows[i].want);
    weir_tokens_fini(&ids);
  }
  weir_tokens ids = must_tokenize(t, "<|im_end|>", 10, true);
  assert_int_equal(ids.id[0], IM_END);
  weir_err e = {0};
  assert_int_equal(weir_tokenize(t, "<user>", 6, true, &ids, &e), WEIR_OK); /* appends */
  assert_int_equal(ids.n, 2);
  assert_int_equal(ids.id[1], USER);
  weir_tokens_fini(&ids);
  weir_tokenizer_destroy(t);
}

/* A piece that is a token as a whole: Llama 3 takes it, the others only what merges make. */
static void whole_pieces(void **state) {
  (void)state;
  static const struct {
    const char *pre, *text, *want;
  } rows[] = {{"qwen2", "whole", "w|h|o|l|e"},      {"llama-bpe", "whole", "whole"},
              {"llama3", "whole", "whole"},         {"gpt-2", "whole", "w|h|o|l|e"},
              {"llama-bpe", "123412", "12|3|4|12"}, {"gpt-2", "1212", "12|12"},
              {"llama-bpe", "<|x|>", "<|||x|||>"}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    tiny_vocab v = vocab;
    v.pre = rows[i].pre;
    weir_tokenizer *t = must_create(&v, NULL);
    weir_tokens ids = must_tokenize(t, rows[i].text, strlen(rows[i].text), false);
    char got[256];
    join(t, &ids, got, sizeof got);
    if (strcmp(got, rows[i].want))
      fail_msg("%s \"%s\": got \"%s\", want \"%s\"", rows[i].pre, rows[i].text, got, rows[i].want);
    weir_tokens_fini(&ids);
    weir_tokenizer_destroy(t);
  }
}

/* ---- the rule of merging, written the slow way ---- */

static uint32_t next_random(uint32_t *s) {
  *s ^= *s << 13;
  *s ^= *s >> 17;
  *s ^= *s << 5;
  return *s;
}

enum { N_RANDOM_MERGES = 120, LETTERS = 5, LONGEST = 60 };

typedef struct slow_bpe {
  char made[N_RANDOM_MERGES][64];
  char merge[N_RANDOM_MERGES][64]; /* "left right" */
  size_t left[N_RANDOM_MERGES];    /* bytes of the left half */
  size_t n;
} slow_bpe;

/* Merges over a few letters, each of two things that exist already. */
static void random_merges(slow_bpe *b, uint32_t *seed) {
  b->n = 0;
  for (int tries = 0; tries < 5000 && b->n < N_RANDOM_MERGES; tries++) {
    char half[2][64];
    for (int k = 0; k < 2; k++) {
      const uint32_t r = next_random(seed) % (LETTERS + (uint32_t)b->n);
      if (r < LETTERS)
        snprintf(half[k], sizeof half[k], "%c", (char)('a' + r));
      else
        memcpy(half[k], b->made[r - LETTERS], sizeof half[k]);
    }
    if (strlen(half[0]) + strlen(half[1]) > 12) continue;
    char made[128], merge[130];
    snprintf(made, sizeof made, "%s%s", half[0], half[1]);
    snprintf(merge, sizeof merge, "%s %s", half[0], half[1]);
    bool known = false; /* two ways to one token are fine, but tiny_vocab has one id for each merge */
    for (size_t i = 0; i < b->n; i++) known = known || strcmp(b->made[i], made) == 0;
    if (known) continue;
    memcpy(b->made[b->n], made, 64);
    memcpy(b->merge[b->n], merge, 64);
    b->left[b->n++] = strlen(half[0]);
  }
}

/* Cuts text into end offsets: while any pair merges, the lowest rank does, the leftmost of equals. */
static size_t slow_encode(const slow_bpe *b, const char *text, size_t *end) {
  size_t n = strlen(text);
  for (size_t i = 0; i < n; i++) end[i] = i + 1;
  for (;;) {
    size_t best = b->n, at = 0;
    for (size_t i = 0; i + 1 < n; i++) {
      const size_t begin = i ? end[i - 1] : 0, left = end[i] - begin, all = end[i + 1] - begin;
      for (size_t r = 0; r < best; r++)
        if (strlen(b->made[r]) == all && b->left[r] == left && memcmp(b->made[r], text + begin, all) == 0) {
          best = r;
          at = i;
          break;
        }
    }
    if (best == b->n) return n;
    for (size_t i = at; i + 1 < n; i++) end[i] = end[i + 1];
    n--;
  }
}

static void same_as_the_slow_way(void **state) {
  (void)state;
  uint32_t seed = 20240611;
  for (int table = 0; table < 12; table++) {
    static slow_bpe b;
    const char *list[N_RANDOM_MERGES];
    random_merges(&b, &seed);
    for (size_t i = 0; i < b.n; i++) list[i] = b.merge[i];
    const tiny_vocab v = {.pre = "gpt-2", .merges = list, .n_merges = b.n};
    weir_tokenizer *t = must_create(&v, NULL);
    for (int trial = 0; trial < 150; trial++) {
      char text[LONGEST + 1];
      size_t end[LONGEST];
      const size_t len = 1 + next_random(&seed) % LONGEST;
      const uint32_t letters = 1 + next_random(&seed) % LETTERS;
      for (size_t i = 0; i < len; i++) text[i] = (char)('a' + next_random(&seed) % letters);
      text[len] = 0;
      const size_t n = slow_encode(&b, text, end);
      weir_tokens ids = must_tokenize(t, text, len, true);
      size_t at = 0;
      bool same = (size_t)ids.n == n;
      for (int32_t i = 0; same && i < ids.n; i++) {
        at += weir_token_bytes(t, ids.id[i]).len;
        same = at == end[i];
      }
      if (!same) fail_msg("table %d, text %s: the cuts differ", table, text);
      weir_tokens_fini(&ids);
    }
    weir_tokenizer_destroy(t);
  }
}

/* ---- bytes ---- */

static void assert_round_trip(weir_tokenizer *t, const char *text, size_t len) {
  for (int special = 0; special < 2; special++) {
    weir_tokens ids = must_tokenize(t, text, len, special);
    size_t at = 0;
    for (int32_t i = 0; i < ids.n; i++) {
      const weir_str s = weir_token_bytes(t, ids.id[i]);
      if (s.len == 0 || at + s.len > len || memcmp(text + at, s.data, s.len) != 0)
        fail_msg("token %d of a text of %zu bytes is not what stands at byte %zu", i, len, at);
      at += s.len;
    }
    assert_int_equal(at, len);
    weir_tokens_fini(&ids);
  }
}

static void no_bytes_lost(void **state) {
  (void)state;
  static const char *const pres[] = {"qwen2",     "gpt-2",        "llama-bpe",
                                     "starcoder", "deepseek-llm", "deepseek-coder"};
  static const char *const parts[] = {"the",          " cat",
                                      "  ",           "\r\n",
                                      "\n",           "12345",
                                      "'LL",          "\xc3\xa4",
                                      "\xe2\x80\xa8", "\xf0\x9f\x98\x80",
                                      "\xff",         "\xc3",
                                      "\xf0\x9f\x98", "\xed\xa0\x80",
                                      "\xc0\x80",     "\xf4\x90\x80\x80",
                                      "<|im_end|>",   "<|im",
                                      "<user>",       "\xe4\xb8\xad",
                                      "\t",           "\x80",
                                      "e\xcc\x81",    "\xc2\xa0",
                                      "\xef\xbb\xbf", "\xe1\xa0\x8e",
                                      "\x7f"};
  uint32_t seed = 77;
  for (size_t p = 0; p < sizeof pres / sizeof pres[0]; p++) {
    tiny_vocab v = vocab;
    v.pre = pres[p];
    weir_tokenizer *t = must_create(&v, NULL);
    for (int trial = 0; trial < 400; trial++) {
      char text[512];
      size_t len = 0;
      const uint32_t n = next_random(&seed) % 24;
      for (uint32_t i = 0; i < n; i++) {
        const uint32_t r = next_random(&seed);
        if (r % 8 == 0) {
          text[len++] = (char)(r >> 8); /* any byte, NUL too */
        } else {
          const char *s = parts[(r >> 8) % (sizeof parts / sizeof parts[0])];
          memcpy(text + len, s, strlen(s));
          len += strlen(s);
        }
      }
      char *exact = malloc(len ? len : 1); /* so that a sanitizer sees a read past the end */
      assert_non_null(exact);
      memcpy(exact, text, len);
      assert_round_trip(t, exact, len);
      free(exact);
    }
    weir_tokenizer_destroy(t);
  }
}

static void broken_utf8(void **state) {
  (void)state;
  static const struct {
    const char *text;
    size_t len;
    int32_t want[8];
    int32_t n;
  } rows[] = {
      {"\xff", 1, {0xff}, 1},
      {"\xc3", 1, {0xc3}, 1},
      {"a\xe2\x82", 3, {'a', 0xe2, 0x82}, 3},
      {"\xed\xa0\x80", 3, {0xed, 0xa0, 0x80}, 3}, /* a surrogate */
      {"\xc0\xaf", 2, {0xc0, 0xaf}, 2},           /* overlong */
      {"\xf0\x9f\x41", 3, {0xf0, 0x9f, 'A'}, 3},  /* the merge of f0 9f is for characters */
      {"\xf0\x9f\x98\x80", 4, {256 + 10, 0x98, 0x80}, 3},
  };
  weir_tokenizer *t = must_create(&vocab, NULL);
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    weir_tokens ids = must_tokenize(t, rows[i].text, rows[i].len, true);
    assert_int_equal(ids.n, rows[i].n);
    for (int32_t k = 0; k < ids.n; k++) assert_int_equal(ids.id[k], rows[i].want[k]);
    weir_tokens_fini(&ids);
  }
  weir_tokenizer_destroy(t);
}

/* ---- ids ---- */

static void with_ids(gguf_writer *w) {
  gguf_writer_u32(w, "tokenizer.ggml.bos_token_id", END);
  gguf_writer_u32(w, "tokenizer.ggml.eos_token_id", UNKNOWN);
  gguf_writer_u32(w, "tokenizer.ggml.eot_token_id", 65);
  gguf_writer_bool(w, "tokenizer.ggml.add_bos_token", true);
}
static void without_bos(gguf_writer *w) { gguf_writer_bool(w, "tokenizer.ggml.add_bos_token", true); }
static void bos_alone(gguf_writer *w) { gguf_writer_u32(w, "tokenizer.ggml.bos_token_id", END); }

static void known_ids(void **state) {
  (void)state;
  weir_tokenizer *t = must_create(&vocab, with_ids);
  assert_int_equal(weir_tokenizer_n_vocab(t), N_VOCAB);
  assert_int_equal(weir_tokenizer_bos(t), END);
  assert_true(weir_tokenizer_adds_bos(t));
  for (int32_t id = -2; id < N_VOCAB + 2; id++) {
    const bool end = id == END || id == IM_END || id == UNKNOWN || id == 65;
    const bool special = id == END || id == IM_END || id == IM || id == UNKNOWN;
    if (weir_tokenizer_is_end(t, id) != end) fail_msg("is_end(%d)", id);
    if (weir_tokenizer_is_special(t, id) != special) fail_msg("is_special(%d)", id);
  }
  assert_true(weir_str_eq(weir_token_bytes(t, 256 + 2), weir_str_of(" the")));
  assert_true(weir_str_eq(weir_token_text(t, 256 + 2), weir_str_of("\xc4\xa0the")));
  assert_true(weir_str_eq(weir_token_text(t, USER), weir_str_of("<user>")));
  assert_true(weir_str_eq(weir_token_bytes(t, AO), weir_str_of("\xe4\xf6"))); /* two bytes, as spelled */
  assert_int_equal(weir_token_bytes(t, -1).len, 0);
  assert_int_equal(weir_token_bytes(t, N_VOCAB).len, 0);
  assert_int_equal(weir_token_text(t, N_VOCAB).len, 0);
  weir_tokenizer_destroy(t);

  t = must_create(&vocab, without_bos);
  assert_int_equal(weir_tokenizer_bos(t), -1);
  assert_false(weir_tokenizer_adds_bos(t));
  weir_tokenizer_destroy(t);

  tiny_vocab v = vocab;
  t = must_create(&v, bos_alone); /* qwen2 adds none unless told to */
  assert_false(weir_tokenizer_adds_bos(t));
  weir_tokenizer_destroy(t);
  v.pre = "llama-bpe";
  t = must_create(&v, bos_alone);
  assert_true(weir_tokenizer_adds_bos(t));
  weir_tokenizer_destroy(t);
  weir_tokenizer_destroy(NULL);
}

/* A converter's mistake: the end of a turn as a user-defined token. Nobody types it all the same. */
static void ends_are_control_tokens(void **state) {
  (void)state;
  tiny_vocab v = vocab;
  v.extra[1].type = TINY_USER;
  weir_tokenizer *t = must_create(&v, NULL);
  assert_true(weir_tokenizer_is_special(t, IM_END));
  assert_true(weir_tokenizer_is_end(t, IM_END));
  for (int special = 0; special < 2; special++) {
    weir_tokens ids = must_tokenize(t, "<|im_end|>", 10, special);
    assert_int_equal(ids.n == 1 && ids.id[0] == IM_END, special);
    weir_tokens_fini(&ids);
  }
  weir_tokenizer_destroy(t);
}

static void same_vocabularies(void **state) {
  (void)state;
  weir_err e = {0};
  int32_t n;
  tiny_vocab v = vocab;
  weir_tokenizer *a = must_create(&vocab, NULL);
  v.extra[8].text = "[PAD]";
  v.extra[8].type = TINY_NORMAL;
  weir_tokenizer *b = must_create(&v, NULL);
  assert_int_equal(weir_tokenizer_same(a, a, &n, &e), WEIR_OK);
  assert_int_equal(n, N_VOCAB);
  assert_int_equal(weir_tokenizer_same(a, b, &n, &e), WEIR_OK);
  assert_int_equal(n, N_VOCAB);
  assert_int_equal(weir_tokenizer_same(b, a, &n, &e), WEIR_OK);
  assert_int_equal(n, N_VOCAB);
  weir_tokenizer_destroy(b);
  v.extra[3].text = "<User>";
  b = must_create(&v, NULL);
  assert_int_equal(weir_tokenizer_same(a, b, &n, &e), WEIR_EINVAL);
  char want[160];
  snprintf(want, sizeof want, "token %d is \"<user>\" in the small model and \"<User>\" in the large one",
           USER);
  if (!strstr(e.msg, want)) fail_msg("%s", e.msg);
  weir_tokenizer_destroy(a);
  weir_tokenizer_destroy(b);
}

/* ---- files that are refused ---- */

static void bos_too_high(gguf_writer *w) { gguf_writer_u32(w, "tokenizer.ggml.bos_token_id", N_VOCAB); }
static void eos_negative(gguf_writer *w) { gguf_writer_i64(w, "tokenizer.ggml.eos_token_id", -1); }
static void eot_text(gguf_writer *w) { gguf_writer_str(w, "tokenizer.ggml.eot_token_id", "x"); }
static void add_bos_int(gguf_writer *w) { gguf_writer_u32(w, "tokenizer.ggml.add_bos_token", 1); }

static void refused_by_ids_and_merges(void **state) {
  (void)state;
  static const char *const left[] = {"zz a"}, *const right[] = {"a zz"},
                           *const foreign[] = {"a \xe4\xb8\xad"}, *const empty[] = {"a "};
  tiny_vocab bad_pre = vocab;
  bad_pre.pre = "qwen3000";
  struct {
    tiny_vocab v;
    void (*more)(gguf_writer *);
    weir_status status;
    const char *fragment;
  } rows[] = {
      {vocab, bos_too_high, WEIR_EFORMAT, "key \"tokenizer.ggml.bos_token_id\": id 275 of 275 tokens"},
      {vocab, eos_negative, WEIR_EFORMAT, "key \"tokenizer.ggml.eos_token_id\": id -1"},
      {vocab, eot_text, WEIR_EFORMAT, "eot_token_id\": want an integer"},
      {vocab, add_bos_int, WEIR_EFORMAT, "add_bos_token\": want a bool"},
      {bad_pre, NULL, WEIR_EUNSUP, "pre-tokenizer \"qwen3000\" is not supported (known: gpt-2 "},
      {{.pre = "gpt-2", .merges = left, .n_merges = 1}, NULL, WEIR_EFORMAT, "the left half is no token"},
      {{.pre = "gpt-2", .merges = right, .n_merges = 1}, NULL, WEIR_EFORMAT, "the right half is no token"},
      {{.pre = "gpt-2", .merges = foreign, .n_merges = 1},
       NULL,
       WEIR_EFORMAT,
       "a character is not in the byte alphabet"},
      {{.pre = "gpt-2", .merges = empty, .n_merges = 1},
       NULL,
       WEIR_EFORMAT,
       "want two tokens with a space between"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    weir_err e = {0};
    weir_tokenizer *t;
    const weir_status st = create(&rows[i].v, rows[i].more, &t, &e);
    if (st != rows[i].status || !strstr(e.msg, rows[i].fragment))
      fail_msg("row %zu: got %d \"%s\", want %d with \"%s\"", i, st, e.msg, rows[i].status, rows[i].fragment);
    assert_null(t);
  }
}

/* One key set at a time on an otherwise empty file. */
static void refused_by_keys(void **state) {
  (void)state;
  enum {
    NOTHING,
    MODEL,
    TOKENS,
    TYPES_SHORT,
    TYPES_BAD,
    NO_MERGES,
    ONE_MERGE,
    BYTE_MISSING,
    LONG_SPECIAL,
    N_ROWS
  };
  static const struct {
    const char *model;
    weir_status status;
    const char *fragment;
  } rows[N_ROWS + 2] = {
      [NOTHING] = {NULL, WEIR_EFORMAT, "key \"tokenizer.ggml.model\" is missing"},
      [MODEL] = {"rwkv", WEIR_EUNSUP, "tokenizer model \"rwkv\" is not supported (known: gpt2"},
      [TOKENS] = {"gpt2", WEIR_EFORMAT, "key \"tokenizer.ggml.tokens\" is missing or empty"},
      [TYPES_SHORT] = {"gpt2", WEIR_EFORMAT, "token_type\": 1 entries for 256 tokens"},
      [TYPES_BAD] = {"gpt2", WEIR_EFORMAT, "token 3 has type 7"},
      [NO_MERGES] = {"gpt2", WEIR_EFORMAT, "key \"tokenizer.ggml.merges\" is missing"},
      [ONE_MERGE] = {"gpt2", WEIR_EFORMAT, "merge 0 \"ab\": want two tokens with a space between"},
      [BYTE_MISSING] = {"gpt2", WEIR_EFORMAT, "no token for the byte 0x41"},
      [LONG_SPECIAL] = {"gpt2", WEIR_EFORMAT, "special token 245 has 1500 bytes (limit 1024)"},
      [N_ROWS] = {"bert", WEIR_EUNSUP, "tokenizer model \"bert\" is not supported"},
      [N_ROWS + 1] = {"t5", WEIR_EFORMAT, "key \"tokenizer.ggml.scores\": 0 entries for 256 tokens"},
  };
  static char spelled[256][3], longest[1501];
  memset(longest, 'x', 1500);
  for (int i = 0; i < N_ROWS + 2; i++) {
    gguf_writer w;
    gguf_writer_init(&w);
    if (rows[i].model) gguf_writer_str(&w, "tokenizer.ggml.model", rows[i].model);
    gguf_writer_str(&w, "tokenizer.ggml.pre", "gpt-2");
    const char *token[256];
    int32_t type[256];
    for (int b = 0; b < 256; b++) {
      tiny_vocab_spell((uint8_t)b, spelled[b]);
      token[b] = spelled[b];
      type[b] = 1;
    }
    if (i == BYTE_MISSING) token['A'] = "AA";
    if (i == TYPES_BAD) type[3] = 7;
    if (i == LONG_SPECIAL) token[0xf5] = longest, type[0xf5] = 3; /* a byte that may be missing */
    ;
    static const char *const no_space[] = {"ab"};
    if (i >= TYPES_SHORT) {
      gguf_writer_strs(&w, "tokenizer.ggml.tokens", token, 256);
      gguf_writer_i32s(&w, "tokenizer.ggml.token_type", type, i == TYPES_SHORT ? 1 : 256);
    }
    if (i == LONG_SPECIAL) gguf_writer_strs(&w, "tokenizer.ggml.merges", no_space, 0);
    if (i == ONE_MERGE) gguf_writer_strs(&w, "tokenizer.ggml.merges", no_space, 1);
    size_t len;
    uint8_t *file = gguf_writer_file(&w, &len);
    gguf_writer_fini(&w);
    weir_err e = {0};
    weir_gguf *g;
    weir_tokenizer *t;
    assert_int_equal(weir_gguf_parse(file, len, &g, &e), WEIR_OK);
    const weir_status st = weir_tokenizer_from_gguf(g, &t, &e);
    if (st != rows[i].status || !strstr(e.msg, rows[i].fragment))
      fail_msg("row %d: got %d \"%s\", want %d with \"%s\"", i, st, e.msg, rows[i].status, rows[i].fragment);
    assert_null(t);
    weir_gguf_close(g);
    free(file);
  }
}

/* ---- long inputs ---- */

/* The work must grow about linearly, whatever is repeated and whatever ends it: a pattern that looks for the
 * end of a long run may begin its search again at each character (PCRE2 limits the steps from one starting
 * point only). The bound is loose because sanitizers and busy machines are slow; quadratic work on these
 * would take minutes. */
static void long_runs_of_anything(void **state) {
  (void)state;
  static const struct {
    const char *repeated, *last;
  } rows[] = {{"a", ""},          {" ", ""},
              {"\n", ""},         {"\xf0\x9f\x98\x80", ""},
              {"a1", ""},         {" \n", ""},
              {"'s", ""},         {"\xff", ""},
              {"<|im", ""},       {"l", ""},
              {"1", ""},          {"\xc3\xa4 ", ""},
              {"a\xff", ""},      {" \xc2\xa0", ""},
              {"\r\n", ""},       {"the cat ", ""},
              {" ", "1"},         {" ", "a"},
              {" ", "!"},         {"\n", "1"},
              {" ", "\n"},        {" ", "\xe4\xb8\xad"},
              {"\t", "\xc2\xb2"}, {"!", " "},
              {"a", "'s"},        {"1", "a"},
              {"!", "\n1"},       {"\xe2\x80\xa8", "1"},
              {" ", "\xcc\x81"}};
  enum { BYTES = 1 << 18, SECONDS = 10 };
  tiny_vocab v = vocab;
  static const char *const pres[] = {"qwen2",     "gpt-2",        "llama-bpe",
                                     "starcoder", "deepseek-llm", "deepseek-coder"};
  char *text = malloc(BYTES);
  assert_non_null(text);
  for (size_t p = 0; p < sizeof pres / sizeof pres[0]; p++) {
    v.pre = pres[p];
    weir_tokenizer *t = must_create(&v, NULL);
    weir_pretok *interpreted; /* without PCRE2's compiler other shortcuts hold */
    weir_err e = {0};
    assert_int_equal(weir_pretok_create_named(weir_str_of(pres[p]), true, &interpreted, &e), WEIR_OK);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
      const size_t len = strlen(rows[i].repeated), len_last = strlen(rows[i].last);
      for (size_t k = 0; k < BYTES; k++) text[k] = rows[i].repeated[k % len];
      memcpy(text + BYTES - len_last, rows[i].last, len_last);
      const clock_t begin = clock();
      weir_tokens ids = must_tokenize(t, text, BYTES, false);
      const double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
      if (seconds > SECONDS) fail_msg("%s, row %zu: %.1f s", pres[p], i, seconds);
      weir_cut cut;
      if (strchr(rows[i].repeated, '\xff') == NULL && strlen(rows[i].repeated) == 1 &&
          weir_pretok_run(interpreted, text, BYTES, true, true, NULL, &cut, &e) != WEIR_OK)
        fail_msg("%s, row %zu, interpreted: %s", pres[p], i, e.msg);
      size_t bytes = 0;
      for (int32_t k = 0; k < ids.n; k++) bytes += weir_token_bytes(t, ids.id[k]).len;
      assert_int_equal(bytes, BYTES);
      weir_tokens_fini(&ids);
    }
    weir_pretok_destroy(interpreted);
    weir_tokenizer_destroy(t);
  }
  free(text);
}

/* A model's name is free text: it is Phi-3's only where architecture and tokenizer are. */
static void white_space_behind_phi3_tokens(void **state) {
  (void)state;
  static const struct {
    const char *architecture, *model, *name;
    bool stripped;
  } rows[] = {
      {"phi3", "llama", "Phi-3 mini", true},
      {"phi3", "llama", "phi3", true},
      {"phi3", "llama", "Phi 4", false},
      {"llama", "llama", "Llama like phi-3", false},
      {"phi3", "gpt2", "Phi-3 small", false},
      {"qwen2", "gpt2", "distilled from Phi-3", false},
      {NULL, "llama", "Phi-3 without a word", false},
  };
  static const char *const pieces[] = {"<unk>", "<|end|>", "\xe2\x96\x81", "a"};
  static const int32_t types[] = {TINY_UNKNOWN, TINY_CONTROL, TINY_NORMAL, TINY_NORMAL};
  static const float scores[] = {0, 0, -1, -2};
  static const tiny_vocab bpe = {.pre = "gpt-2", .extra = {{"<|end|>", TINY_CONTROL}}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    const bool is_bpe = strcmp(rows[i].model, "gpt2") == 0;
    gguf_writer w;
    weir_gguf *g;
    weir_tokenizer *t;
    weir_err e = {0};
    size_t len;
    gguf_writer_init(&w);
    if (rows[i].architecture) gguf_writer_str(&w, "general.architecture", rows[i].architecture);
    gguf_writer_str(&w, "general.name", rows[i].name);
    if (is_bpe) {
      tiny_vocab_write(&w, &bpe);
    } else {
      gguf_writer_str(&w, "tokenizer.ggml.model", rows[i].model);
      gguf_writer_strs(&w, "tokenizer.ggml.tokens", pieces, 4);
      gguf_writer_i32s(&w, "tokenizer.ggml.token_type", types, 4);
      gguf_writer_f32s(&w, "tokenizer.ggml.scores", scores, 4);
      gguf_writer_bool(&w, "tokenizer.ggml.add_space_prefix", false);
    }
    uint8_t *file = gguf_writer_file(&w, &len);
    gguf_writer_fini(&w);
    if (weir_gguf_parse(file, len, &g, &e) != WEIR_OK) fail_msg("row %zu: %s", i, e.msg);
    if (weir_tokenizer_from_gguf(g, &t, &e) != WEIR_OK) fail_msg("row %zu: %s", i, e.msg);
    weir_tokens ids = must_tokenize(t, "<|end|> a", 9, true);
    if (ids.n != (rows[i].stripped ? 2 : 3)) fail_msg("row %zu: %d tokens", i, ids.n);
    assert_int_equal(ids.id[0], is_bpe ? 256 : 1);
    weir_tokens_fini(&ids);
    weir_tokenizer_destroy(t);
    weir_gguf_close(g);
    free(file);
  }
}

static void too_long(void **state) {
  (void)state;
  weir_tokenizer *t = must_create(&vocab, NULL);
  weir_tokens ids = {0};
  weir_err e = {0};
  assert_int_equal(weir_tokenize(t, "x", (size_t)WEIR_TOKENIZE_MAX_BYTES + 1, true, &ids, &e), WEIR_EINVAL);
  assert_non_null(strstr(e.msg, "is too long"));
  assert_int_equal(ids.n, 0);
  weir_tokenizer_destroy(t);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(merging),
      cmocka_unit_test(whole_pieces),
      cmocka_unit_test(same_as_the_slow_way),
      cmocka_unit_test(no_bytes_lost),
      cmocka_unit_test(broken_utf8),
      cmocka_unit_test(known_ids),
      cmocka_unit_test(ends_are_control_tokens),
      cmocka_unit_test(same_vocabularies),
      cmocka_unit_test(refused_by_ids_and_merges),
      cmocka_unit_test(refused_by_keys),
      cmocka_unit_test(long_runs_of_anything),
      cmocka_unit_test(white_space_behind_phi3_tokens),
      cmocka_unit_test(too_long),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
