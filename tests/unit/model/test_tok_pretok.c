/* SPDX-License-Identifier: Apache-2.0 */
/* Pre-tokeniser steps and their patterns on small cases; what is expected is what the tokenizers library
 * gives (pre_tokenize_str). Many texts: test_tok_vectors.c, test_tok_json_vectors.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/buf.h"
#include "model/tok_pretok.h"
#include "model/tok_regex.h"

#define M WEIR_METASPACE

static void join(const weir_cut *cut, char *out, size_t bytes) {
  size_t n = 0;
  for (size_t i = 0; i < cut->n; i++) {
    const size_t len = cut->piece[i].end - cut->piece[i].begin;
    assert_true(len > 0 && n + len + 2 < bytes);
    if (i) out[n++] = '~';
    memcpy(out + n, cut->text + cut->piece[i].begin, len);
    n += len;
  }
  out[n] = 0;
}

static void check(const weir_pre_step *step, int32_t n, const char *text, const char *want) {
  weir_tok_spec s = {0};
  weir_pretok *p;
  weir_cut cut;
  weir_err e = {0};
  char got[256];
  for (int32_t i = 0; i < n; i++) assert_int_equal(weir_tok_spec_add_pre(&s, step[i], &e), WEIR_OK);
  if (weir_pretok_create(&s, false, &p, &e) != WEIR_OK) fail_msg("%s", e.msg);
  if (weir_pretok_run(p, text, strlen(text), true, true, NULL, &cut, &e) != WEIR_OK) fail_msg("%s", e.msg);
  join(&cut, got, sizeof got);
  if (strcmp(got, want)) fail_msg("\"%s\": got \"%s\", want \"%s\"", text, got, want);
  weir_pretok_destroy(p);
  weir_tok_spec_fini(&s);
}

static void behaviors(void **state) {
  (void)state;
  static const struct {
    weir_split_behavior how;
    bool invert;
    const char *want[4]; /* of the texts below */
  } rows[] = {
      {WEIR_SPLIT_REMOVED, false, {"a~b", "a~-b", "a~b", "c"}},
      {WEIR_SPLIT_REMOVED, true, {"-~.~.~-", "--~--", "xx", "ab~b~b"}},
      {WEIR_SPLIT_ISOLATED, false, {"a~-~.~b~.~-", "--~a~--~-b", "a~xx~b", "ab~b~c~b"}},
      {WEIR_SPLIT_ISOLATED, true, {"a~-~.~b~.~-", "--~a~--~-b", "a~xx~b", "ab~b~c~b"}},
      {WEIR_SPLIT_PREVIOUS, false, {"a-~.~b.~-", "--~a--~-b", "axx~b", "ab~b~cb"}},
      {WEIR_SPLIT_PREVIOUS, true, {"a~-~.b~.~-", "--a~---b", "a~xxb", "ab~bc~b"}},
      {WEIR_SPLIT_NEXT, false, {"a~-~.b~.~-", "--a~---b", "a~xxb", "ab~bc~b"}},
      {WEIR_SPLIT_NEXT, true, {"a-~.~b.~-", "--~a--~-b", "axx~b", "ab~b~cb"}},
      {WEIR_SPLIT_CONTIGUOUS, false, {"a~-.~b~.-", "--~a~--~-b", "a~xx~b", "abb~c~b"}},
      {WEIR_SPLIT_CONTIGUOUS, true, {"a~-.~b~.-", "--~a~--~-b", "a~xx~b", "abb~c~b"}},
  };
  static const struct {
    const char *pattern;
    bool is_regex;
    const char *text;
  } cases[4] = {
      {"[-.]", true, "a-.b.-"}, {"--", false, "--a---b"}, {"x*", true, "axxb"}, {"ab|b", true, "abbcb"}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
    for (int k = 0; k < 4; k++) {
      const weir_pre_step step = {.kind = WEIR_PRE_SPLIT,
                                  .pattern = weir_str_of(cases[k].pattern),
                                  .is_regex = cases[k].is_regex,
                                  .behavior = rows[i].how,
                                  .invert = rows[i].invert};
      check(&step, 1, cases[k].text, rows[i].want[k]);
    }
}

static void metaspace(void **state) {
  (void)state;
  static const struct {
    weir_prepend_scheme scheme;
    bool split;
    const char *text, *want;
  } rows[] = {{WEIR_PREPEND_ALWAYS, true, "a  b", M "a~" M "~" M "b"},
              {WEIR_PREPEND_ALWAYS, true, M "a b", M "a~" M "b"},
              {WEIR_PREPEND_ALWAYS, true, " x", M "x"},
              {WEIR_PREPEND_ALWAYS, true, "", ""},
              {WEIR_PREPEND_ALWAYS, false, "a  b", M "a" M M "b"},
              {WEIR_PREPEND_FIRST, true, "a b", M "a~" M "b"},
              {WEIR_PREPEND_FIRST, false, M "a b", M "a" M "b"},
              {WEIR_PREPEND_NEVER, true, "a  b", "a~" M "~" M "b"},
              {WEIR_PREPEND_NEVER, true, " x", M "x"},
              {WEIR_PREPEND_NEVER, false, "a  b", "a" M M "b"}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    const weir_pre_step step = {.kind = WEIR_PRE_METASPACE,
                                .content = weir_str_of(M),
                                .scheme = rows[i].scheme,
                                .split = rows[i].split};
    check(&step, 1, rows[i].text, rows[i].want);
  }
  const weir_pre_step first = {.kind = WEIR_PRE_METASPACE, .content = {M, 3}, .scheme = WEIR_PREPEND_FIRST};
  weir_tok_spec s = {.pre = {first}, .n_pre = 1};
  weir_pretok *p;
  weir_cut cut;
  weir_err e = {0};
  assert_int_equal(weir_pretok_create(&s, false, &p, &e), WEIR_OK);
  assert_int_equal(weir_pretok_run(p, "a", 1, false, true, NULL, &cut, &e),
                   WEIR_OK); /* not the first of the text */
  assert_int_equal(cut.piece[0].end, 1);
  weir_pretok_destroy(p);
  s.pre[1] = first;
  s.n_pre = 2;
  assert_int_equal(weir_pretok_create(&s, false, &p, &e), WEIR_EUNSUP);
  assert_non_null(strstr(e.msg, "prepend_scheme \"first\" behind another"));
}

static void sequences(void **state) {
  (void)state;
  const weir_pre_step prefix[] = {
      {.kind = WEIR_PRE_PREFIX_SPACE},
      {.kind = WEIR_PRE_SPLIT, .pattern = weir_str_of(weir_gpt2_pattern), .is_regex = true, .behavior = 1}};
  check(prefix, 2, "a12 b", " a~12~ b");
  check(prefix, 2, " a", " a");
  check(prefix, 2, "\ta", " ~\t~a");
  check(prefix, 2, "", "");
  /* behind ByteLevel its alphabet is what counts: of the bytes of U+00B2 the second is a digit */
  const weir_pre_step spelled[] = {
      prefix[0],
      prefix[1],
      {.kind = WEIR_PRE_SPELL},
      {.kind = WEIR_PRE_SPLIT, .pattern = weir_str_of("\\p{N}"), .is_regex = true, .behavior = 1}};
  check(spelled, 4, "a12 \xc3\xa9\xc2\xb2",
        "\xc4\xa0"
        "a~1~2~\xc4\xa0\xc3\x83\xc2\xa9~\xc3\x82~\xc2\xb2");
}

/* ---- patterns ---- */

static void refused_patterns(void **state) {
  (void)state;
  static const struct {
    const char *pattern, *fragment;
  } rows[] = {
      {"\\h+", "this escape at byte 1"},
      {"\\R", "this escape"},
      {"\\K", "this escape"},
      {"(a)\\1", "this escape"},
      {"\\Qa\\E", "this escape"},
      {"[[:alpha:]]", "such a class in a class"},
      {"[a-z&&[^b]]", "an intersection"},
      {"[]a]", "an empty class"},
      {"[abc", "a class without its end"},
      {"(?<name>a)", "this kind of group"},
      {"(?m:a)", "this kind of group"},
      {"(?i)a|b", "this kind of group"},
      {"(?#x)", "this kind of group"},
      {"(a", "a group without its end"},
      {"a)", "a closing parenthesis"},
      {"a{2}+", "a sign behind {n}"},
      {"a{2}?", "a sign behind {n}"},
      {"a{,2}", "{,n}"},
      {"\\p{IsAlpha}", "this property"},
      {"\\p{Cn}", "this property"},
      {"\\pL", "\\p without braces"},
      {"\\p{L", "\\p{ without its end"},
      {"(?i:\\p{Lu})", "\\p inside (?i:)"},
      {"(?i:tra\xc3\x9f"
       "e)",
       "beyond ASCII inside (?i:)"},
      {"(?i:ss)", "letters that fold into one"},
      {"\\xff", "this code point"},
      {"\\x{110000}", "this code point"},
      {"\\ud800", "this code point"},
      {"\\x{}", "this way to write"},
      {"[\\W]", "this escape"},
      {"\\", "a backslash at the end"},
      {"a\xff", "broken UTF-8"},
      {"*a", "PCRE2 refuses it"},
      {"(?<=a+)b", "PCRE2 refuses it"},
      {"a{3,2}", "PCRE2 refuses it"},
      {"", "an empty pattern"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    weir_regex *r;
    weir_err e = {0};
    assert_int_equal(weir_regex_create(weir_str_of(rows[i].pattern), true, false, &r, &e), WEIR_EUNSUP);
    assert_null(r);
    if (!strstr(e.msg, rows[i].fragment)) fail_msg("%s: %s", rows[i].pattern, e.msg);
  }
}

/* Where the two engines' own syntax means different things; ends of matches as Oniguruma has them. */
static void what_patterns_mean(void **state) {
  (void)state;
  static const struct {
    const char *pattern, *text, *want;
  } rows[] = {
      {"^a", "a\na", "a~\n~a"}, /* lines always */
      {"a$", "a\na", "a~\n~a"},
      {".+", "a\rb\nc", "a\rb~\n~c"}, /* only LF ends a line */
      {"\\s+",
       "a\xe1\xa0\x8e"
       "b c",
       "a\xe1\xa0\x8e"
       "b~ ~c"}, /* U+180E is no space */
      {"\\w+", "a\xc2\xb2-\xe2\x93\x90", "a\xc2\xb2~-~\xe2\x93\x90"},
      {"\\W", "a_\xcc\x81.", "a_\xcc\x81~."},
      {"\\d", "1\xd9\xa3\xc2\xb2", "1~\xd9\xa3~\xc2\xb2"}, /* the last as what is left */
      {"\\bb",
       "ab b\xc2\xb2"
       "b",
       "ab ~b~\xc2\xb2"
       "b"},
      {"[\\S]", "a ", "a~ "},
      {"\\v", "a\x0b\n", "a~\x0b~\n"},
      {"\\u0041|\\x42|\\x{43}", "ABCD", "A~B~C~D"},
      {"\\p{^L}", "a1", "a~1"},
      {"\\P{L}", "a1", "a~1"},
      {"\\p{Letter}+", "a1", "a~1"},
      {"\\p{Han}+", "\xe4\xb8\xad\xe3\x80\x81", "\xe4\xb8\xad~\xe3\x80\x81"}, /* not its extensions */
      {"(?i:k)",
       "K\xe2\x84\xaa"
       "s",
       "K~\xe2\x84\xaa~s"},
      {"(?i:'s|'t)|x", "'\xc5\xbfX", "'\xc5\xbf~X"},
      {"[^(\\s|[.,])]+", "ab.c(d e", "ab~.~c~(~d~ ~e"}, /* BLOOM's: joined */
      {"a{x", "a{x", "a{x"},
      {"a}]", "a}]", "a}]"},
      {"(ab)+c", "ababc", "ababc"},
      {"a++b|.", "aab", "aab"},
      {"a{1,2}", "aaa", "aa~a"},
      {"\\s+$", "a  b  ", "a  b~  "},
      {"\\s+$", "a \n\n b", "a~ \n~\n b"},
      {"(?<!\\s)-(?=x)", " --x-x", " -~-~x~-~x"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    const weir_pre_step step = {.kind = WEIR_PRE_SPLIT,
                                .pattern = weir_str_of(rows[i].pattern),
                                .is_regex = true,
                                .behavior = WEIR_SPLIT_ISOLATED};
    check(&step, 1, rows[i].text, rows[i].want);
  }
}

/* A pattern that takes ages from one starting point is stopped. */
static void runaway_patterns(void **state) {
  (void)state;
  enum { N = 1 << 17 };
  static const struct {
    const char *pattern;
    char letter;
  } rows[] = {{"(?:a|a)*c", 'a'}, {"(?:(?:a?)(?:a?))*c", 'a'}, {"(?:a+)+c", 'a'}};
  char *text = malloc(N);
  assert_non_null(text);
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    weir_regex *r;
    weir_regex_budget budget = weir_regex_budget_of(weir_regex_seconds(N));
    weir_regex_scan scan = {.budget = &budget};
    weir_err e = {0};
    size_t begin, end;
    bool found;
    memset(text, rows[i].letter, N);
    memcpy(text + N - 2, "!c", 2); /* so that a look for the c does not end it at once */
    if (weir_regex_create(weir_str_of(rows[i].pattern), true, false, &r, &e) != WEIR_OK)
      fail_msg("%s", e.msg);
    assert_int_equal(weir_regex_next(r, text, N, &scan, &begin, &end, &found, &e), WEIR_EINVAL);
    assert_non_null(strstr(e.msg, "the text cannot be cut"));
    assert_false(found);
    weir_regex_destroy(r);
  }
  free(text);
}

/* What a search costs may lie in many pieces, each of them below any limit of its own, or behind a stretch
 * that is searched fast. Steps and pieces share one budget; without that these take minutes. */
static void one_budget(void **state) {
  (void)state;
  enum { BYTES = 1 << 20, SECONDS = 5 };
  static const struct {
    const char *first, *repeated;
    size_t harmless; /* so many bytes in front that no step begins with */
  } rows[] = {{"\n", "aaaaaaaaaaaaaaaaaa\n", 0},
              {"!", "aaaaaaaaaaaaaaaaaa!", 0},
              {"x", "aaaaaaaaaaaaaaaaaa!", 1 << 19}};
  static const char slow[] = "(?:a|a)*[0-9]";
  char *text = malloc(BYTES);
  assert_non_null(text);
  for (size_t i = 0; i < 2 * sizeof rows / sizeof rows[0]; i++) {
    const bool no_jit = i % 2;
    const char *repeated = rows[i / 2].repeated;
    const size_t harmless = rows[i / 2].harmless, n = strlen(repeated);
    const weir_pre_step steps[] = {
        {.kind = WEIR_PRE_SPLIT, .pattern = weir_str_of(rows[i / 2].first), .behavior = WEIR_SPLIT_ISOLATED},
        {.kind = WEIR_PRE_SPLIT,
         .pattern = weir_str_of(slow),
         .is_regex = true,
         .behavior = WEIR_SPLIT_ISOLATED}};
    const weir_tok_spec s = {.pre = {steps[0], steps[1]}, .n_pre = 2};
    weir_pretok *p;
    weir_cut cut;
    weir_err e = {0};
    memset(text, '-', harmless);
    for (size_t k = harmless; k < BYTES; k++) text[k] = repeated[(k - harmless) % n];
    if (weir_pretok_create(&s, no_jit, &p, &e) != WEIR_OK) fail_msg("%s", e.msg);
    const clock_t begin = clock();
    weir_regex_budget budget = weir_regex_budget_of(0.1);
    assert_int_equal(weir_pretok_run(p, text, BYTES, true, true, &budget, &cut, &e), WEIR_EINVAL);
    const double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
    if (!strstr(e.msg, "pattern \"(?:a|a)*[0-9]\" takes too long")) fail_msg("%s", e.msg);
    if (seconds > SECONDS) fail_msg("row %zu: %.1f s", i / 2, seconds);
    budget = weir_regex_budget_of(10); /* the pattern itself is fine */
    assert_int_equal(weir_pretok_run(p, "aa7-", 4, true, true, &budget, &cut, &e), WEIR_OK);
    assert_int_equal(cut.n, 2);
    weir_pretok_destroy(p);
  }
  free(text);
}

/* Every name is known, cuts a text, and refuses with the list what it does not know. */
static void names(void **state) {
  (void)state;
  static const char *const known[] = {
      "gpt-2",  "default",   "mpt",    "olmo",   "llama-bpe",    "llama3",         "falcon3",    "tekken",
      "qwen2",  "qwen35",    "gpt-4o", "llama4", "smollm",       "starcoder",      "refact",     "command-r",
      "falcon", "chameleon", "dbrx",   "glm4",   "deepseek-llm", "deepseek-coder", "deepseek-v3"};
  weir_err e = {0};
  weir_pretok *p;
  for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
    weir_cut cut;
    static const char text[] =
        "The 1234 cats' caf\xc3\xa9, it's\n\n  <sentinel:3>\t\xe4\xb8\xad\xe6\x96\x87!";
    if (weir_pretok_create_named(weir_str_of(known[i]), false, &p, &e) != WEIR_OK) fail_msg("%s", e.msg);
    assert_int_equal(weir_pretok_run(p, text, sizeof text - 1, true, true, NULL, &cut, &e), WEIR_OK);
    assert_true(cut.n > 10);
    size_t at = 0;
    for (size_t k = 0; k < cut.n; k++) {
      assert_int_equal(cut.piece[k].begin, at);
      at = cut.piece[k].end;
    }
    assert_int_equal(at, sizeof text - 1);
    weir_pretok_destroy(p);
  }
  assert_int_equal(weir_pretok_create_named(weir_str_of("nothing"), false, &p, &e), WEIR_EUNSUP);
  assert_non_null(strstr(e.msg, "pre-tokenizer \"nothing\" is not supported (known: gpt-2 default"));
}

static void what_names_mean(void **state) {
  (void)state;
  static const struct {
    const char *name, *text, *want;
  } rows[] = {
      {"gpt-2", "it's 12 cats!!", "it~'s~ 12~ cats~!!"},
      {"llama-bpe", "IT'S 12345", "IT~'S~ ~123~45"},
      {"qwen2", "a 12", "a~ ~1~2"},
      {"falcon", "a...b 12345", "a~...~b~ ~123~45"},
      {"falcon", "x 123", "x~ ~123"},
      {"command-r", "a 12", "a~ ~1~2"},
      {"tekken", "HelloWorld's 12", "Hello~World~'s~ ~1~2"},
      {"gpt-4o", "HelloWorld's 1234", "Hello~World's~ ~123~4"},
      {"deepseek-v3", "a 1234\xe4\xb8\xad\xe6\x96\x87!x", "a~ ~123~4~\xe4\xb8\xad\xe6\x96\x87~!x"},
      {"chameleon", "x<sentinel:12>IMGIMGABZ    y\tz", "x~<~sentinel~:~1~2~>~IMGIMGABZ~    ~y~\t~z"},
      {"qwen35", "e\xcc\x81t", "e\xcc\x81t"},
      {"qwen2", "e\xcc\x81t", "e~\xcc\x81t"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    weir_tok_spec s = {0};
    weir_err e = {0};
    bool adds_bos;
    assert_int_equal(weir_tok_spec_named_pre(&s, weir_str_of(rows[i].name), &adds_bos, &e), WEIR_OK);
    check(s.pre, s.n_pre, rows[i].text, rows[i].want);
    weir_tok_spec_fini(&s);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(behaviors),          cmocka_unit_test(metaspace),
      cmocka_unit_test(sequences),          cmocka_unit_test(refused_patterns),
      cmocka_unit_test(what_patterns_mean), cmocka_unit_test(runaway_patterns),
      cmocka_unit_test(one_budget),         cmocka_unit_test(names),
      cmocka_unit_test(what_names_mean),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
