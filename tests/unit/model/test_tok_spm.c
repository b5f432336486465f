/* SPDX-License-Identifier: Apache-2.0 */
/* SentencePiece BPE: known answers, what sentencepiece gives on small vocabularies, a quadratic reference
 * over random ones, and texts made to be slow. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "model/tok_spm.h"
#include "model/tok_vocab.h"
#include "model/utf8.h"
#include "sp_goldens.h"

enum { N = WEIR_TOKEN_NORMAL, U = WEIR_TOKEN_UNKNOWN, C = WEIR_TOKEN_CONTROL };

typedef struct vocabulary {
  weir_str piece[512];
  float score[512];
  uint8_t type[512];
  int32_t n, unk;
  char store[512 * 16];
  size_t used;
} vocabulary;

static int32_t add(vocabulary *v, const char *text, size_t len, float score, int type) {
  assert_true(v->n < 512 && v->used + len <= sizeof v->store);
  memcpy(v->store + v->used, text, len);
  v->piece[v->n] = (weir_str){v->store + v->used, len};
  v->used += len;
  v->score[v->n] = score;
  v->type[v->n] = (uint8_t)type;
  return v->n++;
}

static int32_t add_text(vocabulary *v, const char *text, float score, int type) {
  return add(v, text, strlen(text), score, type);
}

static void add_bytes(vocabulary *v) {
  for (int b = 0; b < 256; b++) {
    char spelled[8];
    snprintf(spelled, sizeof spelled, "<0x%02X>", (unsigned)b);
    add_text(v, spelled, 0, WEIR_TOKEN_BYTE);
  }
}

static weir_spm *must_create(const vocabulary *v) {
  weir_spm *s;
  weir_err e = {0};
  if (weir_spm_create(v->piece, v->score, v->type, v->n, v->unk, &s, &e) != WEIR_OK) fail_msg("%s", e.msg);
  return s;
}

static weir_tokens must_encode(weir_spm *s, const char *text, size_t len) {
  weir_tokens ids = {0};
  weir_err e = {0};
  if (weir_spm_encode(s, text, len, &ids, &e) != WEIR_OK) fail_msg("%s", e.msg);
  return ids;
}

/* ---- known answers ---- */

static void known_answers(void **state) {
  (void)state;
  static const struct {
    const char *text, *want; /* pieces with "|" between */
  } rows[] = {
      {"", ""},
      {"a", "a"},
      {"ab", "ab"},
      {"abc", "a|bc"}, /* bc has the higher score */
      {"abab", "abab"},
      {"aaa", "aa|a"}, /* the leftmost of equals */
      {"aaaa", "aa|aa"},
      {"ca", "c|a"},
      {"<s>", "<0x3C>|<0x73>|<0x3E>"}, /* a control token is not made of text */
      {"\xc3\xa4", "<0xC3>|<0xA4>"},
      {"a\xc3", "a|<0xC3>"},
      {"\xf0\x9f\x98", "<0xF0>|<0x9F>|<0x98>"},
      {"a[x]b", "a|[x]|b"},
      {"[x]]", "[x]]"}, /* the longest user-defined one */
      {"[x", "<0x5B>|<0x78>"},
      {"b[x]c", "b|[x]|c"}, /* b[x] is a piece, but user-defined ones never merge */
      {"cbb", "c|b|b"},     /* cbb is unused: taken apart as it was made, cb first; that is unused too */
  };
  vocabulary v = {.unk = 0};
  add_text(&v, "<unk>", 0, U);
  add_text(&v, "<s>", 0, C);
  add_bytes(&v);
  add_text(&v, "ab", -2, N);
  add_text(&v, "bc", -1, N);
  add_text(&v, "abab", -3, N);
  add_text(&v, "aa", -4, N);
  add_text(&v, "a", -10, N);
  add_text(&v, "b", -11, N);
  add_text(&v, "c", -12, N);
  add_text(&v, "[x]", 0, WEIR_TOKEN_USER);
  add_text(&v, "[x]]", 0, WEIR_TOKEN_USER);
  add_text(&v, "b[x]", 0, N);
  add_text(&v, "cb", -5, WEIR_TOKEN_UNUSED);
  add_text(&v, "cbb", -6, WEIR_TOKEN_UNUSED);
  weir_spm *s = must_create(&v);
  for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
    char got[256];
    size_t n = 0;
    weir_tokens ids = must_encode(s, rows[r].text, strlen(rows[r].text));
    for (int32_t i = 0; i < ids.n; i++)
      n += (size_t)snprintf(got + n, sizeof got - n, "%s%.*s", i ? "|" : "", (int)v.piece[ids.id[i]].len,
                            v.piece[ids.id[i]].data);
    got[n] = 0;
    if (strcmp(got, rows[r].want) != 0) fail_msg("\"%s\" gives %s, want %s", rows[r].text, got, rows[r].want);
    weir_tokens_fini(&ids);
  }
  weir_spm_destroy(s);
  weir_spm_destroy(NULL);
}

static void without_bytes(void **state) {
  (void)state;
  vocabulary v = {.unk = 0};
  weir_err e = {0};
  add_text(&v, "<unk>", 0, U);
  add_text(&v, "a", -1, N);
  weir_spm *s = must_create(&v);
  weir_tokens ids = must_encode(s, "xya\xff\xfe", 5);
  static const int32_t want[] = {0, 1, 0}; /* runs of unknown characters are one token */
  assert_int_equal(ids.n, 3);
  assert_memory_equal(ids.id, want, sizeof want);
  weir_spm_destroy(s);
  v.unk = -1;
  s = must_create(&v);
  assert_int_equal(weir_spm_encode(s, "aax", 3, &ids, &e), WEIR_EINVAL);
  assert_int_equal(ids.n, 3); /* as before */
  if (!strstr(e.msg, "no token for \"x\"")) fail_msg("%s", e.msg);
  weir_tokens_fini(&ids);
  weir_spm_destroy(s);
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
      {{"a", 1}, 0, N, 1, -2, "the unknown token is -2"},
      {{"a", 1}, 0.0f / 0.0f, N, 1, -1, "token 0: its score is no number"},
      {{"<0xg0>", 6}, 0, WEIR_TOKEN_BYTE, 1, -1, "token 0 is of type byte but spelled \"<0xg0>\""},
      {{longest, sizeof longest}, 0, N, 1, -1, "token 0 has 1100 bytes (limit 1024)"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    weir_spm *s;
    weir_err e = {0};
    assert_int_equal(
        weir_spm_create(&rows[i].piece, &rows[i].score, &rows[i].type, rows[i].n, rows[i].unk, &s, &e),
        WEIR_EFORMAT);
    assert_null(s);
    if (!strstr(e.msg, rows[i].fragment)) fail_msg("row %zu: %s", i, e.msg);
  }
}

/* ---- sentencepiece itself ---- */

static void begin_golden(void *self, const sp_vocabulary *v) {
  weir_err e = {0};
  if (weir_spm_create(v->piece, v->score_f32, v->type, v->n, v->unk, (weir_spm **)self, &e) != WEIR_OK)
    fail_msg("%s", e.msg);
}

static void golden_text(void *self, const sp_vocabulary *v, const sp_text *t) {
  char shown[WEIR_STR_SHOW_BYTES];
  weir_tokens ids = must_encode(*(weir_spm **)self, t->text.data, t->text.len);
  if (ids.n != t->n) fail_msg("%s: %d ids, want %d", weir_str_show(t->text, shown), ids.n, t->n);
  for (int32_t i = 0; i < ids.n; i++)
    if (ids.id[i] != t->id[i])
      fail_msg("%s: id %d of %d is %d, want %d (%d pieces)", weir_str_show(t->text, shown), (int)i, ids.n,
               ids.id[i], t->id[i], v->n);
  weir_tokens_fini(&ids);
}

static void end_golden(void *self) { weir_spm_destroy(*(weir_spm **)self); }

static void goldens(void **state) {
  (void)state;
  weir_spm *s = NULL;
  const sp_visitor visitor = {begin_golden, golden_text, end_golden, &s};
  const int rows = sp_goldens_visit("bpe", &visitor);
  print_message("%d texts\n", rows);
  assert_true(rows > 300);
}

/* ---- a quadratic reference ---- */

static uint64_t rng_state;
static uint32_t rnd(uint32_t below) {
  rng_state = rng_state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)((rng_state >> 33) % below);
}

static const char *const letters[] = {"a", "b", "c", "\xc3\xa9", "\xe2\x96\x81", "\xf0\x9f\x98\x80", "\xff"};

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
  for (int32_t i = v->n; i-- > 0;)
    if (v->type[i] == N && weir_str_eq(v->piece[i], (weir_str){p, len})) return i;
  return -1;
}

/* Looks at every pair for every merge. */
static int32_t slow_encode(const vocabulary *v, const char *text, size_t len, int32_t *id) {
  size_t end[512];
  int32_t n = 0, n_ids = 0;
  for (size_t at = 0; at < len;) {
    int32_t unit;
    weir_utf8_next(text + at, len - at, &unit);
    end[n++] = at += (size_t)unit;
  }
  for (;;) {
    int32_t best = -1, best_id = -1;
    for (int32_t i = 0; i + 1 < n; i++) {
      const size_t begin = i ? end[i - 1] : 0;
      const int32_t joined = find(v, text + begin, end[i + 1] - begin);
      if (joined >= 0 && (best < 0 || v->score[joined] > v->score[best_id])) best = i, best_id = joined;
    }
    if (best < 0) break;
    memmove(end + best, end + best + 1, (size_t)(n - best - 1) * sizeof *end);
    n--;
  }
  bool after_unk = false;
  for (int32_t i = 0; i < n; i++) {
    const size_t begin = i ? end[i - 1] : 0;
    const int32_t one = find(v, text + begin, end[i] - begin);
    if (one >= 0 || !after_unk) id[n_ids++] = one >= 0 ? one : v->unk;
    after_unk = one < 0;
  }
  return n_ids;
}

static void against_reference(void **state) {
  (void)state;
  static vocabulary v;
  static int32_t want[1024];
  char text[1024], shown[WEIR_STR_SHOW_BYTES];
  int merged = 0;
  rng_state = 7;
  for (int round = 0; round < 300; round++) {
    const uint32_t n_letters = 1 + rnd(7);
    v = (vocabulary){.unk = 0};
    add_text(&v, "<unk>", 0, U);
    for (uint32_t i = 0; i < n_letters; i++)
      if (rnd(8)) add_text(&v, letters[i], -20.0f, N);
    for (int i = (int)rnd(40); i > 0; i--) {
      char piece[64];
      size_t len = random_text(piece, 2 + (int)rnd(5), n_letters < 6 ? n_letters : 6);
      piece[len] = 0;
      if (round % 3) { /* as real vocabularies are: spaces at the start alone */
        size_t at = 0;
        while (strncmp(piece + at, letters[4], 3) == 0) at += 3;
        const char *inner = strstr(piece + at, letters[4]);
        if (inner) len = (size_t)(inner - piece);
      }
      add(&v, piece, len > 16 ? 16 : len, -(float)rnd(round % 2 ? 4 : 1000), N);
    }
    weir_spm *s = must_create(&v);
    for (int k = 0; k < 20; k++) {
      const size_t len = random_text(text, (int)rnd(60), n_letters);
      weir_tokens ids = must_encode(s, text, len);
      const int32_t n = slow_encode(&v, text, len, want);
      if (ids.n != n || (n && memcmp(ids.id, want, (size_t)n * sizeof *want) != 0))
        fail_msg("round %d: %s gives %d ids, want %d", round, weir_str_show((weir_str){text, len}, shown),
                 ids.n, n);
      merged += (size_t)n < len;
      weir_tokens_fini(&ids);
    }
    weir_spm_destroy(s);
  }
  assert_true(merged > 2000);
}

/* ---- slow on purpose ---- */

static void hostile_texts(void **state) {
  (void)state;
  enum { BYTES = 1 << 20 };
  static const char *const pattern[] = {"a", "ab", "aab", "abcdefghijklmnopqrstuvwxyz", "\xc3\xa9", "\xff"};
  static vocabulary v;
  char *text = malloc(BYTES);
  assert_non_null(text);
  /* Runs of one letter in powers of two, chains that grow a letter at a time, alternating pairs. */
  v = (vocabulary){.unk = 0};
  add_text(&v, "<unk>", 0, U);
  add_bytes(&v);
  char run[17], chain[27];
  memset(run, 'a', 16);
  for (int n = 1; n <= 16; n *= 2) add(&v, run, (size_t)n, -(float)n, N);
  for (int n = 3; n <= 15; n += 2) add(&v, run, (size_t)n, (float)n, N);
  for (int i = 0; i < 26; i++) chain[i] = (char)('a' + i);
  for (int n = 2; n <= 15; n++) add(&v, chain, (size_t)n, (float)n, N);
  for (int n = 2; n <= 16; n *= 2) {
    for (int i = 0; i < n; i++) run[i] = "ab"[i % 2];
    add(&v, run, (size_t)n, -1, N);
  }
  weir_spm *s = must_create(&v);
  for (size_t p = 0; p < sizeof pattern / sizeof pattern[0]; p++) {
    struct timespec t0, t1;
    for (size_t i = 0; i < BYTES; i++) text[i] = pattern[p][i % strlen(pattern[p])];
    clock_gettime(CLOCK_MONOTONIC, &t0);
    weir_tokens ids = must_encode(s, text, BYTES);
    clock_gettime(CLOCK_MONOTONIC, &t1);
    const double took = (double)(t1.tv_sec - t0.tv_sec) + 1e-9 * (double)(t1.tv_nsec - t0.tv_nsec);
    print_message("%s: %d ids, %.2f s\n", pattern[p], ids.n, took);
    size_t bytes = 0;
    for (int32_t i = 0; i < ids.n; i++) bytes += v.type[ids.id[i]] == N ? v.piece[ids.id[i]].len : 1;
    assert_int_equal(bytes, BYTES);
    assert_true(took < 20); /* a quadratic one takes an hour */
    weir_tokens_fini(&ids);
  }
  weir_spm_destroy(s);
  free(text);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(known_answers), cmocka_unit_test(without_bytes),     cmocka_unit_test(refused),
      cmocka_unit_test(goldens),       cmocka_unit_test(against_reference), cmocka_unit_test(hostile_texts),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
