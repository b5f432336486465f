/* SPDX-License-Identifier: Apache-2.0 */
/* The pre-tokenisers, run by PCRE2. Owns compiled patterns and scratch; one thread at a time.
 *
 * Patterns are those of the models' published tokenizer.json files (and of GPT-2's encoder.py), stage by
 * stage: a later stage cuts the pieces of the one before, each piece being a text of its own, and what a
 * stage's pattern does not match stays a piece. One spelling differs: \s is written out, because PCRE2's
 * covers U+180E, which Unicode and the libraries that the vocabularies were trained with do not count as
 * white space. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "model/tok_pretok.h"

#include <pcre2.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/mem.h"

/* Unicode's White_Space, for the inside of a class. */
#define WS \
  "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define S     "[" WS "]"
#define NOT_S "[^" WS "]"

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" WS "\\p{L}\\p{N}]+|" S "+(?!" NOT_S ")|" S "+"

/* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
 * ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ with {1,3} for Llama 3 and without for Qwen 2 */
#define CL100K(digits)                                                                  \
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" digits "| ?[^" WS \
  "\\p{L}\\p{N}]+[\\r\\n]*|" S "*[\\r\\n]+|" S "+(?!" NOT_S ")|" S "+"

/* DeepSeek LLM's letters: those with case, as its tokenizer.json lists them. */
#define CASED                                                                                     \
  "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}"                  \
  "\\x{1c4}-\\x{293}\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}"          \
  "\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}"                   \
  "\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}"                        \
  "\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}"                  \
  "\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}"                  \
  "\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}"         \
  "\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}"          \
  "\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}"                  \
  "\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}"                   \
  "\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}\\x{212a}-\\x{212d}" \
  "\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}\\x{214e}\\x{2183}"          \
  "\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}"          \
  "\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}\\x{a771}-\\x{a787}"                  \
  "\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}"                  \
  "\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}"              \
  "\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}"          \
  "\\x{1e900}-\\x{1e943}"
/* Its CJK, written [U+4E00-U+9FA5, U+0800-U+4E00, U+AC00-U+D7FF] there. */
#define CJK "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"

/* \s+$, tried once for each run of white space instead of at each of its characters: on a long run before
 * something else the plain form is quadratic. Both find the same, the run that ends the piece. */
#define TRAILING "(?<!" S ")" S "++$"

enum { MAX_STAGES = 6 };

typedef struct pattern_family {
  const char *stage[MAX_STAGES]; /* NULL behind the last */
  bool takes_whole, adds_bos;
} pattern_family;

static const pattern_family gpt2 = {.stage = {GPT2}};
static const pattern_family llama3 = {.stage = {CL100K("{1,3}")}, .takes_whole = true, .adds_bos = true};
static const pattern_family qwen2 = {.stage = {CL100K("")}};
/* Digits one by one, then GPT-2's pattern: StarCoder, SmolLM. */
static const pattern_family digits = {.stage = {"\\p{N}", GPT2}};
static const pattern_family deepseek_coder = {
    .stage = {"[\\r\\n]", S "?\\p{L}+", S "?\\p{P}+", CJK, "\\p{N}"}};
static const pattern_family deepseek_llm = {
    .stage = {"[\\r\\n]", S "?[" CASED "]+",
              S "?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+",
              TRAILING, CJK, "\\p{N}+"}};

/* tokenizer.ggml.pre. Only names whose pattern was checked against vectors, or is the same string in both
 * models' tokenizer.json. */
static const struct {
  const char *name;
  const pattern_family *family;
} names[] = {
    {"gpt-2", &gpt2},
    {"default", &gpt2},
    {"mpt", &gpt2},
    {"llama-bpe", &llama3},
    {"llama3", &llama3},
    {"llama-v3", &llama3},
    {"qwen2", &qwen2},
    {"deepseek-r1-qwen", &qwen2},
    {"starcoder", &digits},
    {"refact", &digits},
    {"smollm", &digits},
    {"deepseek-llm", &deepseek_llm},
    {"deepseek-coder", &deepseek_coder},
};
enum { N_NAMES = sizeof names / sizeof names[0] };

typedef struct cuts {
  uint32_t *end; /* owned */
  size_t n, cap;
} cuts;

struct weir_pretok {
  const pattern_family *family;
  pcre2_code *code[MAX_STAGES]; /* owned */
  int n_stages;
  pcre2_match_data *match; /* owned, like the two below */
  pcre2_match_context *context;
  pcre2_jit_stack *stack;
  cuts a, b;
};

static weir_status fail_pcre(weir_err *e, weir_status code, int error, const char *what) {
  char text[160] = "unknown error";
  pcre2_get_error_message(error, (PCRE2_UCHAR *)text, sizeof text);
  return weir_fail(e, code, "pre-tokenizer: %s: %s", what, text);
}

static weir_status find_family(weir_str name, const pattern_family **out, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  weir_buf known = {0};
  for (int i = 0; i < N_NAMES; i++) {
    *out = names[i].family;
    if (weir_str_eq(name, weir_str_of(names[i].name))) return WEIR_OK;
  }
  for (int i = 0; i < N_NAMES; i++) {
    const weir_status st = weir_buf_printf(&known, e, " %s", names[i].name);
    if (st != WEIR_OK) {
      weir_buf_fini(&known);
      return st;
    }
  }
  weir_fail(e, WEIR_EUNSUP, "pre-tokenizer %s is not supported (known:%s)", weir_str_show(name, shown),
            known.data);
  weir_buf_fini(&known);
  return WEIR_EUNSUP;
}

weir_status weir_pretok_create(weir_str name, bool no_jit, weir_pretok **out, weir_err *e) {
  enum { STACK_START = 32 << 10, STACK_MAX = 1 << 20 };
  weir_status st = WEIR_OK;
  weir_pretok *p = NULL;
  const pattern_family *family = NULL;
  bool jit = !no_jit;
  *out = NULL;
  WEIR_TRY(find_family(name, &family, e));
  WEIR_TRY(WEIR_NEW(1, &p, e));
  p->family = family;
  for (; p->n_stages < MAX_STAGES && family->stage[p->n_stages]; p->n_stages++) {
    int error;
    PCRE2_SIZE at;
    p->code[p->n_stages] = pcre2_compile((PCRE2_SPTR)family->stage[p->n_stages], PCRE2_ZERO_TERMINATED,
                                         PCRE2_UTF | PCRE2_UCP, &error, &at, NULL);
    if (!p->code[p->n_stages]) {
      st = fail_pcre(e, WEIR_EUNSUP, error, "PCRE2 refuses the pattern");
      goto out;
    }
    /* Without a compiler for this machine PCRE2 interprets: slower, the same cuts. */
    jit = jit && pcre2_jit_compile(p->code[p->n_stages], PCRE2_JIT_COMPLETE) == 0;
  }
  p->match = pcre2_match_data_create(1, NULL);
  p->context = pcre2_match_context_create(NULL);
  if (!p->match || !p->context) {
    st = weir_fail(e, WEIR_ENOMEM, "cannot allocate a pattern's match data");
    goto out;
  }
  if (jit) {
    p->stack = pcre2_jit_stack_create(STACK_START, STACK_MAX, NULL);
    if (p->stack) pcre2_jit_stack_assign(p->context, NULL, p->stack);
  }
  *out = p;
  p = NULL;
out:
  weir_pretok_destroy(p);
  return st;
}

void weir_pretok_destroy(weir_pretok *p) {
  if (!p) return;
  for (int i = 0; i < MAX_STAGES; i++) pcre2_code_free(p->code[i]);
  pcre2_match_data_free(p->match);
  pcre2_match_context_free(p->context);
  pcre2_jit_stack_free(p->stack);
  free(p->a.end);
  free(p->b.end);
  free(p);
}

bool weir_pretok_takes_whole(const weir_pretok *p) { return p->family->takes_whole; }
bool weir_pretok_adds_bos(const weir_pretok *p) { return p->family->adds_bos; }

/* Gives back what an unusually long text had needed. */
static void shrink(cuts *c, size_t len) {
  enum { KEPT = 1 << 16 };
  if (c->cap <= KEPT || len > c->cap / 8) return;
  free(c->end);
  *c = (cuts){0};
}

static weir_status push(cuts *c, size_t end, weir_err *e) {
  if (c->n == c->cap) {
    size_t cap = c->cap ? c->cap * 2 : 256, bytes;
    uint32_t *grown = weir_mul_size(cap, sizeof *grown, &bytes) ? realloc(c->end, bytes) : NULL;
    if (!grown) return weir_fail(e, WEIR_ENOMEM, "cannot hold %zu pieces of a text", cap);
    c->end = grown;
    c->cap = cap;
  }
  c->end[c->n++] = (uint32_t)end;
  return WEIR_OK;
}

/* Cuts text[begin..end) by one pattern. The text is known to be UTF-8: PCRE2 checking it again at each match
 * would make the whole quadratic. */
static weir_status split_piece(weir_pretok *p, const pcre2_code *code, const char *text, size_t begin,
                               size_t end, cuts *out, weir_err *e) {
  weir_status st = WEIR_OK;
  const PCRE2_SPTR subject = (PCRE2_SPTR)text + begin;
  const size_t len = end - begin;
  size_t at = 0;
  while (at < len) {
    const int rc = pcre2_match(code, subject, len, at, PCRE2_NO_UTF_CHECK, p->match, p->context);
    if (rc == PCRE2_ERROR_NOMATCH) break;
    if (rc < 0) return fail_pcre(e, WEIR_EINVAL, rc, "the text cannot be cut");
    const PCRE2_SIZE *found = pcre2_get_ovector_pointer(p->match);
    if (found[1] <= found[0])
      break; /* no pattern matches nothing, but looping would be the price of an error */
    if (found[0] > at) WEIR_TRY(push(out, begin + found[0], e));
    WEIR_TRY(push(out, begin + found[1], e));
    at = found[1];
  }
  if (at < len) WEIR_TRY(push(out, end, e));
out:
  return st;
}

weir_status weir_pretok_split(weir_pretok *p, const char *text, size_t len, const uint32_t **end, size_t *n,
                              weir_err *e) {
  /* PCRE2 counts steps to stop runaway patterns. Ours take at most a few per byte, so the count that is right
   * for a text grows with it. */
  enum { STEPS_LEAST = 10000000, STEPS_PER_BYTE = 16 };
  weir_status st = WEIR_OK;
  cuts *in = &p->a, *out = &p->b;
  size_t steps = STEPS_LEAST;
  *n = 0;
  shrink(in, len);
  shrink(out, len);
  if (len > STEPS_LEAST / STEPS_PER_BYTE)
    steps = len < UINT32_MAX / STEPS_PER_BYTE ? len * STEPS_PER_BYTE : UINT32_MAX;
  pcre2_set_match_limit(p->context, (uint32_t)steps);
  in->n = 0;
  if (len) WEIR_TRY(push(in, len, e));
  for (int stage = 0; stage < p->n_stages; stage++) {
    size_t begin = 0;
    out->n = 0;
    for (size_t i = 0; i < in->n; i++) {
      WEIR_TRY(split_piece(p, p->code[stage], text, begin, in->end[i], out, e));
      begin = in->end[i];
    }
    cuts *t = in;
    in = out;
    out = t;
  }
  *end = in->end;
  *n = in->n;
out:
  return st;
}
