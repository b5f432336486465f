/* SPDX-License-Identifier: Apache-2.0 */
/* Unigram segmentation: known answers, what sentencepiece and the tokenizers library give on small
 * vocabularies, a reference that tries every segmentation, and texts made to be slow. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "model/tok_unigram.h"
#include "model/tok_vocab.h"
#include "model/utf8.h"
#include "sp_goldens.h"

enum { N = WEIR_TOKEN_NORMAL, U = WEIR_TOKEN_UNKNOWN, C = WEIR_TOKEN_CONTROL };

typedef struct vocabulary {
  weir_str piece[512];
  float score[512];
  double score_f64[512];
  uint8_t type[512];
  int32_t n, unk;
  bool byte_fallback;
  char store[512 * 16];
  size_t used;
} vocabulary;

static void add(vocabulary *v, const char *text, size_t len, float score, int type) {
  assert_true(v->n < 512 && v->used + len <= sizeof v->store);
  memcpy(v->store + v->used, text, len);
  v->piece[v->n] = (weir_str){v->store + v->used, len};
  v->used += len;
  v->score[v->n] = score;
  v->score_f64[v->n] = (double)score;
  v->type[v->n++] = (uint8_t)type;
}

static void add_text(vocabulary *v, const char *text, float score, int type) {
  add(v, text, strlen(text), score, type);
}

static void add_bytes(vocabulary *v) {
  for (int b = 0; b < 256; b++) {
    char spelled[8];
    snprintf(spelled, sizeof spelled, "<0x%02X>", (unsigned)b);
    add_text(v, spelled, 0, WEIR_TOKEN_BYTE);
  }
}

static weir_unigram *must_create(const vocabulary *v, bool json) {
  weir_unigram *u;
  weir_err e = {0};
  const weir_status st =
      json ? weir_unigram_create_json(v->piece, v->score_f64, v->n, v->unk, v->byte_fallback, &u, &e)
           : weir_unigram_create(v->piece, v->score, v->type, v->n, v->unk, v->byte_fallback, &u, &e);
  if (st != WEIR_OK) fail_msg("%s", e.msg);
  return u;
}

static weir_tokens must_encode(weir_unigram *u, const char *text, size_t len) {
  weir_tokens ids = {0};
  weir_err e = {0};
  if (weir_unigram_encode(u, text, len, &ids, &e) != WEIR_OK) fail_msg("%s", e.msg);
  return ids;
}

/* ---- known answers ---- */

typedef struct answer {
  const char *text, *want; /* pieces with "|" between */
} answer;

static void check_answers(const vocabulary *v, bool json, const answer *rows, size_t n_rows) {
  weir_unigram *u = must_create(v, json);
  for (size_t r = 0; r < n_rows; r++) {
    char got[256];
    size_t n = 0;
    weir_tokens ids = must_encode(u, rows[r].text, strlen(rows[r].text));
    for (int32_t i = 0; i < ids.n; i++)
      n += (size_t)snprintf(got + n, sizeof got - n, "%s%.*s", i ? "|" : "", (int)v->piece[ids.id[i]].len,
                            v->piece[ids.id[i]].data);
    got[n] = 0;
    if (strcmp(got, rows[r].want) != 0) fail_msg("\"%s\" gives %s, want %s", rows[r].text, got, rows[r].want);
    weir_tokens_fini(&ids);
  }
  weir_unigram_destroy(u);
}

/* The example of tokenizers' own documentation, and what else can happen without byte tokens. */
static void known_answers(void **state) {
  (void)state;
  static const answer both[] = {
      {"", ""},
      {"abcdacdxx", "abcd|a|cd|<unk>"},
      {"xaxx", "<unk>|a|<unk>"},
      {"a\xff\xfe"
       "a",
       "a|<unk>|a"},
      {"\xe4\xb8", "<unk>"},
      {"abab", "ab|ab"},
  };
  vocabulary v = {.unk = 0};
  add_text(&v, "<unk>", 0, U);
  add_text(&v, "a", 0, N);
  add_text(&v, "b", 0, N);
  add_text(&v, "c", 0, N);
  add_text(&v, "d", 0, N);
  add_text(&v, "cd", 1, N);
  add_text(&v, "ab", 2, N);
  add_text(&v, "abc", 5, N);
  add_text(&v, "abcd", 10, N);
  check_answers(&v, false, both, sizeof both / sizeof both[0]);
  check_answers(&v, true, both, sizeof both / sizeof both[0]);
}

static void byte_tokens_and_types(void **state) {
  (void)state;
  static const answer sentencepiece[] = {
      {"\xc3\xa4"
       "a",
       "<0xC3>|<0xA4>|a"},
      {"<s>", "<0x3C>|<0x73>|<0x3E>"}, /* control tokens are not found in text */
      {"a[x]a", "a|[x]|a"},            /* user-defined ones always, whatever the letters score */
      {"[xa", "<0x5B>|<0x78>|a"},
      {"aa", "a|a"}, /* unused */
      {"\xf0\x9f\x98"
       "a",
       "<0xF0>|<0x9F>|<0x98>|a"},
  };
  static const answer json[] = {
      {"\xc3\xa4"
       "a",
       "<0xC3>|<0xA4>|a"},
      {"<s>", "<s>"}, /* every entry is */
      {"<unk>", "<unk>"},
      {"<0x41>", "<0x41>"},
      {"aa", "aa"},
      {"x<unk>", "<0x78>|<0x3C>|<0x75>|<0x6E>|<0x6B>|<0x3E>"}, /* as tokenizers fuses them */
  };
  vocabulary v = {.unk = 0, .byte_fallback = true};
  add_text(&v, "<unk>", 0, U);
  add_text(&v, "<s>", 0, C);
  add_bytes(&v);
  add_text(&v, "a", -1, N);
  add_text(&v, "[x]", -50, WEIR_TOKEN_USER);
  add_text(&v, "]a", -2, N);
  add_text(&v, "aa", 0, WEIR_TOKEN_UNUSED);
  check_answers(&v, false, sentencepiece, sizeof sentencepiece / sizeof sentencepiece[0]);
  check_answers(&v, true, json, sizeof json / sizeof json[0]);
}

static void refused(void **state) {
  (void)state;
  static char longest[1100];
  memset(longest, 'a', sizeof longest);
  struct {
    weir_str piece;
    float score;
    uint8_t type;
    int32_t n, unk;
    const char *fragment;
  } rows[] = {
      {{"a", 1}, 0, N, 0, -1, "a vocabulary of 0 pieces"},
      {{"a", 1}, 0, N, 1, 1, "the unknown token is 1 of 1"},
      {{"a", 1}, 1.0f / 0.0f, N, 1, -1, "token 0: its score is no number"},
      {{"<0x1>", 5}, 0, WEIR_TOKEN_BYTE, 1, -1, "token 0 is of type byte but spelled \"<0x1>\""},
      {{longest, sizeof longest}, 0, N, 1, -1, "token 0 has 1100 bytes (limit 1024)"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    weir_unigram *u;
    weir_err e = {0};
    assert_int_equal(weir_unigram_create(&rows[i].piece, &rows[i].score, &rows[i].type, rows[i].n,
                                         rows[i].unk, true, &u, &e),
                     WEIR_EFORMAT);
    assert_null(u);
    if (!strstr(e.msg, rows[i].fragment)) fail_msg("row %zu: %s", i, e.msg);
  }
  vocabulary v = {.unk = -1};
  weir_err e = {0};
  weir_tokens ids = {0};
  add_text(&v, "a", -1, N);
  weir_unigram *u = must_create(&v, true);
  assert_int_equal(weir_unigram_encode(u, "ax", 2, &ids, &e), WEIR_EINVAL);
  assert_int_equal(ids.n, 0);
  if (!strstr(e.msg, "no token for \"x\"")) fail_msg("%s", e.msg);
  weir_tokens_fini(&ids);
  weir_unigram_destroy(u);
  weir_unigram_destroy(NULL);
}

/* ---- the libraries themselves ---- */

static void begin_golden(void *self, const sp_vocabulary *v) {
  weir_err e = {0};
  weir_unigram **u = self;
  const weir_status st =
      strcmp(v->kind, "json") == 0
          ? weir_unigram_create_json(v->piece, v->score, v->n, v->unk, v->byte_fallback, u, &e)
          : weir_unigram_create(v->piece, v->score_f32, v->type, v->n, v->unk, v->byte_fallback, u, &e);
  if (st != WEIR_OK) fail_msg("%s", e.msg);
}

static void golden_text(void *self, const sp_vocabulary *v, const sp_text *t) {
  char shown[WEIR_STR_SHOW_BYTES];
  weir_tokens ids = must_encode(*(weir_unigram **)self, t->text.data, t->text.len);
  if (ids.n != t->n) fail_msg("%s: %d ids, want %d", weir_str_show(t->text, shown), ids.n, t->n);
  for (int32_t i = 0; i < ids.n; i++)
    if (ids.id[i] != t->id[i])
      fail_msg("%s: id %d of %d is %d, want %d (%d pieces)", weir_str_show(t->text, shown), (int)i, ids.n,
               ids.id[i], t->id[i], v->n);
  weir_tokens_fini(&ids);
}

static void end_golden(void *self) { weir_unigram_destroy(*(weir_unigram **)self); }

static void goldens(void **state) {
  weir_unigram *u = NULL;
  const sp_visitor visitor = {begin_golden, golden_text, end_golden, &u};
  const int rows = sp_goldens_visit(*state, &visitor);
  print_message("%d texts\n", rows);
  assert_true(rows > 300);
}

/* ---- every segmentation ---- */

static uint64_t rng_state;
static uint32_t rnd(uint32_t below) {
  rng_state = rng_state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)((rng_state >> 33) % below);
}

static const char *const letters[] = {"a", "b", "\xc3\xa9", "\xe2\x96\x81", "\xf0\x9f\x98\x80", "\xff"};

static size_t random_text(char *out, int chars, uint32_t n_letters) {
  size_t n = 0;
  for (int i = 0; i < chars; i++) {
    const char *c = letters[rnd(n_letters)];
    memcpy(out + n, c, strlen(c));
    n += strlen(c);
  }
  return n;
}

static int32_t find(const vocabulary *v, const char *p, size_t len) {
  for (int32_t i = v->n; i-- > 1;)
    if (weir_str_eq(v->piece[i], (weir_str){p, len})) return i;
  return -1;
}

/* The highest sum over all ways to cut text[at..len), by trying them. Scores are small integers, so that sums
 * are exact in any order. */
static double best_sum(const vocabulary *v, double least, const char *text, size_t at, size_t len) {
  if (at == len) return 0;
  double best = -1e300;
  int32_t unit;
  weir_utf8_next(text + at, len - at, &unit);
  for (size_t n = 1; n <= len - at && n <= 16; n++) {
    const int32_t id = find(v, text + at, n);
    double score;
    if (id >= 0)
      score = v->score_f64[id];
    else if (n == (size_t)unit)
      score = least - 10;
    else
      continue;
    score += best_sum(v, least, text, at + n, len);
    if (score > best) best = score;
  }
  return best;
}

static double sum_of(const vocabulary *v, double least, const weir_tokens *ids, const char *text,
                     size_t len) {
  double sum = 0;
  size_t at = 0;
  for (int32_t i = 0; i < ids->n; i++) {
    const weir_str p = v->piece[ids->id[i]];
    if (ids->id[i] != v->unk) {
      assert_true(p.len <= len - at && memcmp(text + at, p.data, p.len) == 0);
      sum += v->score_f64[ids->id[i]];
      at += p.len;
      continue;
    }
    /* A run of unknown characters: up to where the next token can begin, all of them unknown alone. */
    for (int32_t unit; at < len; at += (size_t)unit) {
      weir_utf8_next(text + at, len - at, &unit);
      if (find(v, text + at, (size_t)unit) >= 0) break;
      const weir_str next = i + 1 < ids->n ? v->piece[ids->id[i + 1]] : (weir_str){"", 0};
      if (next.len && next.len <= len - at && memcmp(text + at, next.data, next.len) == 0) break;
      sum += least - 10;
    }
  }
  assert_int_equal(at, len);
  return sum;
}

static void against_reference(void **state) {
  (void)state;
  static vocabulary v;
  char text[256], shown[WEIR_STR_SHOW_BYTES];
  int joined = 0;
  rng_state = 11;
  for (int round = 0; round < 300; round++) {
    const uint32_t n_letters = 1 + rnd(6);
    double least = 0;
    v = (vocabulary){.unk = 0};
    add_text(&v, "<unk>", 0, U);
    /* Either all letters are pieces or none starts a longer one, so that a run of unknown ones ends clearly.
     */
    for (uint32_t i = 0; i < n_letters && i < 5; i++) add_text(&v, letters[i], -(float)rnd(10), N);
    for (int i = (int)rnd(30); i > 0; i--) {
      char piece[64];
      const size_t len = random_text(piece, 2 + (int)rnd(3), n_letters < 5 ? n_letters : 5);
      if (len <= 16 && find(&v, piece, len) < 0) add(&v, piece, len, -(float)rnd(12), N);
    }
    for (int32_t i = 1; i < v.n; i++)
      if (v.score_f64[i] < least || i == 1) least = v.score_f64[i];
    for (int json = 0; json < 2; json++) {
      double floor = least;
      if (json && v.score_f64[0] < floor) floor = v.score_f64[0]; /* <unk>'s own score counts there */
      weir_unigram *u = must_create(&v, json);
      for (int k = 0; k < 10; k++) {
        const size_t len = random_text(text, 1 + (int)rnd(9), n_letters);
        weir_tokens ids = must_encode(u, text, len);
        const double got = sum_of(&v, floor, &ids, text, len), want = best_sum(&v, floor, text, 0, len);
        if (got != want)
          fail_msg("round %d: %s: sum %g, want %g", round, weir_str_show((weir_str){text, len}, shown), got,
                   want);
        for (int32_t i = 0; i < ids.n; i++) joined += v.piece[ids.id[i]].len > 4;
        weir_tokens_fini(&ids);
      }
      weir_unigram_destroy(u);
    }
  }
  assert_true(joined > 1000);
}

/* ---- slow on purpose ---- */

static void hostile_texts(void **state) {
  (void)state;
  enum { BYTES = 1 << 20 };
  static const char *const pattern[] = {"a", "ab", "aab", "\xc3\xa9", "\xff", "z"};
  static vocabulary v;
  char run[17], *text = malloc(BYTES);
  assert_non_null(text);
  v = (vocabulary){.unk = 0, .byte_fallback = true};
  add_text(&v, "<unk>", 0, U);
  add_bytes(&v);
  memset(run, 'a', 16);
  for (int n = 1; n <= 16; n++) add(&v, run, (size_t)n, -1.5f, N);
  for (int n = 2; n <= 16; n += 2) {
    for (int i = 0; i < n; i++) run[i] = "ab"[i % 2];
    add(&v, run, (size_t)n, -1, N);
  }
  for (int json = 0; json < 2; json++) {
    weir_unigram *u = must_create(&v, json);
    for (size_t p = 0; p < sizeof pattern / sizeof pattern[0]; p++) {
      struct timespec t0, t1;
      for (size_t i = 0; i < BYTES; i++) text[i] = pattern[p][i % strlen(pattern[p])];
      clock_gettime(CLOCK_MONOTONIC, &t0);
      weir_tokens ids = must_encode(u, text, BYTES);
      clock_gettime(CLOCK_MONOTONIC, &t1);
      const double took = (double)(t1.tv_sec - t0.tv_sec) + 1e-9 * (double)(t1.tv_nsec - t0.tv_nsec);
      print_message("%s: %d ids, %.2f s\n", pattern[p], ids.n, took);
      size_t bytes = 0;
      for (int32_t i = 0; i < ids.n; i++) bytes += v.type[ids.id[i]] == N ? v.piece[ids.id[i]].len : 1;
      assert_int_equal(bytes, BYTES);
      assert_true(took < 20); /* a quadratic one takes an hour */
      weir_tokens_fini(&ids);
    }
    weir_unigram_destroy(u);
  }
  free(text);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(known_answers),
      cmocka_unit_test(byte_tokens_and_types),
      cmocka_unit_test(refused),
      {"sentencepiece", goldens, NULL, NULL, (void *)(uintptr_t) "unigram"},
      {"tokenizers", goldens, NULL, NULL, (void *)(uintptr_t) "json"},
      cmocka_unit_test(against_reference),
      cmocka_unit_test(hostile_texts),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
