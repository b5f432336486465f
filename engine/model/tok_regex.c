/* SPDX-License-Identifier: Apache-2.0 */
/* Patterns run by PCRE2. Owns the compiled pattern and what a match needs; one thread at a time.
 *
 * PCRE2 limits the steps from one starting point of a search, but not those of all starting points together:
 * a pattern that looks for the end of a long run from each of its characters is quadratic. Nor does it say
 * how many steps a search took, so what is counted over searches is time. A search goes in windows of
 * starting points, the more of them the fewer steps for each, and the clock is looked at behind each window.
 */
#define _GNU_SOURCE           /* memmem */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "model/tok_regex.h"

#include <pcre2.h>
#include <stdlib.h>
#include <time.h>

#include "base/mem.h"
#include "model/utf8.h"

enum { WINDOW_LEAST = 16, WINDOW_MOST = 1 << 14 }; /* starting points, bytes; each twice the one before */

struct weir_regex {
  char shown[WEIR_STR_SHOW_BYTES]; /* the pattern, for messages */
  char *literal;                   /* owned; NULL: a pattern */
  size_t literal_len;
  pcre2_code *code; /* owned, like the three below */
  pcre2_match_data *match;
  pcre2_match_context *context;
  pcre2_jit_stack *stack;
};

static weir_status fail_pcre(weir_err *e, weir_status code, int error, const char *what) {
  char text[160] = "unknown error";
  pcre2_get_error_message(error, (PCRE2_UCHAR *)text, sizeof text);
  return weir_fail(e, code, "%s: %s", what, text);
}

static weir_status compile(weir_regex *r, weir_str pattern, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  weir_status st = WEIR_OK;
  weir_buf translated = {0};
  int error;
  PCRE2_SIZE at;
  pcre2_compile_context *context = pcre2_compile_context_create(NULL);
  if (!context) return weir_fail(e, WEIR_ENOMEM, "cannot allocate a pattern's context");
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context, 64);
  WEIR_TRY(weir_regex_translate(pattern, &translated, e));
  r->code = pcre2_compile(
      (PCRE2_SPTR)(translated.data ? translated.data : ""), translated.len,
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_USE_OFFSET_LIMIT | PCRE2_NEVER_BACKSLASH_C, &error, &at,
      context);
  if (!r->code) {
    fail_pcre(e, WEIR_EUNSUP, error, "PCRE2 refuses it");
    st = weir_fail_ctx(e, WEIR_EUNSUP, "pattern %s", weir_str_show(pattern, shown));
  }
out:
  weir_buf_fini(&translated);
  pcre2_compile_context_free(context);
  return st;
}

weir_status weir_regex_create(weir_str pattern, bool is_regex, bool no_jit, weir_regex **out, weir_err *e) {
  enum { STACK_START = 32 << 10, STACK_MAX = 1 << 25, HEAP_KIB = 1 << 16 };
  weir_status st = WEIR_OK;
  weir_regex *r = NULL;
  *out = NULL;
  if (pattern.len == 0) return weir_fail(e, WEIR_EUNSUP, "an empty pattern is not supported");
  if (pattern.len > WEIR_REGEX_MAX_BYTES)
    return weir_fail(e, WEIR_EUNSUP, "a pattern of %zu bytes is too long (limit %d)", pattern.len,
                     WEIR_REGEX_MAX_BYTES);
  WEIR_TRY(WEIR_NEW(1, &r, e));
  weir_str_show(pattern, r->shown);
  if (!is_regex) {
    WEIR_TRY(WEIR_NEW(pattern.len, &r->literal, e));
    memcpy(r->literal, pattern.data, pattern.len);
    r->literal_len = pattern.len;
    goto done;
  }
  WEIR_TRY(compile(r, pattern, e));
  r->match = pcre2_match_data_create(1, NULL);
  r->context = pcre2_match_context_create(NULL);
  if (!r->match || !r->context) {
    st = weir_fail(e, WEIR_ENOMEM, "cannot allocate a pattern's match data");
    goto out;
  }
  pcre2_set_heap_limit(r->context, HEAP_KIB);
  /* Without a compiler for this machine PCRE2 interprets: slower, the same matches. */
  if (!no_jit && pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE) == 0) {
    r->stack = pcre2_jit_stack_create(STACK_START, STACK_MAX, NULL);
    if (r->stack) pcre2_jit_stack_assign(r->context, NULL, r->stack);
  }
done:
  *out = r;
  r = NULL;
out:
  weir_regex_destroy(r);
  return st;
}

void weir_regex_destroy(weir_regex *r) {
  if (!r) return;
  free(r->literal);
  pcre2_code_free(r->code);
  pcre2_match_data_free(r->match);
  pcre2_match_context_free(r->context);
  pcre2_jit_stack_free(r->stack);
  free(r);
}

#ifdef CLOCK_MONOTONIC_COARSE /* Linux: some ms exact, and the cheapest */
static const clockid_t cheap_clock = CLOCK_MONOTONIC_COARSE;
#else
static const clockid_t cheap_clock = CLOCK_MONOTONIC;
#endif

static double clock_seconds(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

weir_regex_budget weir_regex_budget_of(double seconds) {
  return (weir_regex_budget){clock_seconds(CLOCK_THREAD_CPUTIME_ID) + seconds, clock_seconds(cheap_clock)};
}

/* Ordinary patterns take some 10 ns a byte; the allowance is for slow machines. */
double weir_regex_seconds(size_t len) { return 5.0 + 4e-6 * (double)len; }

/* False when time is up. Asking for the thread's time takes longer than a short match does, so the clock that
 * is read without a system call says when it is worth it. */
static bool has_time(weir_regex_budget *b) {
  const double look_s = 1e-3, now = clock_seconds(cheap_clock);
  if (now < b->looked_s + look_s) return true;
  b->looked_s = now;
  return clock_seconds(CLOCK_THREAD_CPUTIME_ID) < b->deadline_s;
}

/* PCRE2 counts steps to stop runaway patterns. Sane ones take a few per byte, so the count that is right for
 * a text grows with it. */
static uint32_t steps_for(size_t len) {
  enum { STEPS_LEAST = 10000000, STEPS_PER_BYTE = 16 };
  if (len <= STEPS_LEAST / STEPS_PER_BYTE) return STEPS_LEAST;
  return len < UINT32_MAX / STEPS_PER_BYTE ? (uint32_t)(len * STEPS_PER_BYTE) : UINT32_MAX;
}

static size_t char_bytes(const char *p, size_t n) {
  int32_t len;
  weir_utf8_next(p, n, &len);
  return (size_t)len;
}

static weir_status too_slow(const weir_regex *r, weir_err *e) {
  return weir_fail(e, WEIR_EINVAL, "the text cannot be cut: pattern %s takes too long on it", r->shown);
}

/* The text is known to be UTF-8: PCRE2 checking it again at each match would make the whole quadratic. */
static weir_status search(weir_regex *r, const char *text, size_t len, weir_regex_scan *s, size_t *begin,
                          size_t *end, bool *found, weir_err *e) {
  size_t window = WINDOW_LEAST;
  *found = false;
  for (size_t from = s->at; from <= len;) {
    size_t last = len - from > window ? from + window : len;
    while (last < len && ((unsigned char)text[last] & 0xc0) == 0x80) last--; /* a character's start */
    pcre2_set_offset_limit(r->context, last);
    pcre2_set_match_limit(r->context, steps_for(len) / (uint32_t)(window / WINDOW_LEAST));
    const int rc =
        pcre2_match(r->code, (PCRE2_SPTR)text, len, from, PCRE2_NO_UTF_CHECK, r->match, r->context);
    if (!has_time(s->budget)) return too_slow(r, e);
    if (rc >= 0) {
      const PCRE2_SIZE *at = pcre2_get_ovector_pointer(r->match);
      if (at[1] < at[0] || at[1] > len) /* \K is refused, but nothing depends on it */
        return weir_fail(e, WEIR_EINVAL, "the text cannot be cut: a match ends before it begins");
      *begin = at[0];
      *end = at[1];
      *found = true;
      return WEIR_OK;
    }
    if (rc == PCRE2_ERROR_MATCHLIMIT) {
      if (window == WINDOW_LEAST) return too_slow(r, e);
      window = WINDOW_LEAST; /* again, with more steps for each */
      continue;
    }
    if (rc != PCRE2_ERROR_NOMATCH) {
      fail_pcre(e, WEIR_EINVAL, rc, "the text cannot be cut");
      return weir_fail_ctx(e, WEIR_EINVAL, "pattern %s", r->shown);
    }
    if (last == len) return WEIR_OK;
    from = last + char_bytes(text + last, len - last);
    if (window < WINDOW_MOST) window *= 2;
  }
  return WEIR_OK;
}

weir_status weir_regex_next(weir_regex *r, const char *text, size_t len, weir_regex_scan *s, size_t *begin,
                            size_t *end, bool *found, weir_err *e) {
  *found = false;
  if (r->literal) {
    const char *p = s->at < len ? memmem(text + s->at, len - s->at, r->literal, r->literal_len) : NULL;
    if (!p) return WEIR_OK;
    *begin = (size_t)(p - text);
    *end = s->at = *begin + r->literal_len;
    *found = true;
    return WEIR_OK;
  }
  while (s->at <= len) {
    const weir_status st = search(r, text, len, s, begin, end, found, e);
    if (st != WEIR_OK || !*found) return st;
    if (*begin != *end || !s->any || s->last_end != *end) {
      s->at = s->last_end = *end;
      s->any = true;
      return WEIR_OK;
    }
    /* nothing, right where the match before ended: on by a character */
    *found = false;
    s->at += s->at < len ? char_bytes(text + s->at, len - s->at) : 1;
  }
  return WEIR_OK;
}
