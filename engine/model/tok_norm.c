/* SPDX-License-Identifier: Apache-2.0 */
/* The normalisers of the tokenizers library and of SentencePiece, step by step. Owns copies of the steps,
 * their patterns and two buffers; one thread at a time. The rules are those of the library's normalizers/
 * (https://github.com/huggingface/tokenizers). */
#include "model/tok_norm.h"

#include <stdlib.h>

#include "base/mem.h"
#include "model/charsmap.h"
#include "model/tok_regex.h"
#include "model/tok_unicode.h"
#include "model/utf8.h"

typedef struct step {
  weir_norm_step is;  /* pattern unused; content owned */
  weir_regex *regex;  /* owned */
  weir_charsmap *map; /* owned */
} step;

struct weir_norm {
  step *step; /* [n] owned */
  int32_t n;
  weir_buf a, b;
};

weir_status weir_norm_create(const weir_tok_spec *s, bool no_jit, weir_norm **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_norm *n = NULL;
  *out = NULL;
  WEIR_TRY(WEIR_NEW(1, &n, e));
  WEIR_TRY(WEIR_NEW((size_t)s->n_norm, &n->step, e));
  for (; n->n < s->n_norm; n->n++) {
    step *to = &n->step[n->n];
    to->is = s->norm[n->n];
    const weir_str content = to->is.content, pattern = to->is.pattern;
    to->is.content = to->is.pattern = (weir_str){"", 0};
    char *copy;
    WEIR_TRY(WEIR_NEW(content.len, &copy, e));
    if (content.len) memcpy(copy, content.data, content.len);
    to->is.content = (weir_str){copy, content.len};
    if (to->is.kind == WEIR_NORM_REPLACE)
      st = weir_regex_create(pattern, to->is.is_regex, no_jit, &to->regex, e);
    else if (to->is.kind == WEIR_NORM_CHARSMAP)
      st = weir_charsmap_create(to->is.content, &to->map, e);
    if (st != WEIR_OK) {
      n->n++;
      goto out;
    }
  }
  *out = n;
  n = NULL;
out:
  weir_norm_destroy(n);
  return st;
}

void weir_norm_destroy(weir_norm *n) {
  if (!n) return;
  for (int32_t i = 0; i < n->n; i++) {
    weir_regex_destroy(n->step[i].regex);
    weir_charsmap_destroy(n->step[i].map);
    free((char *)(uintptr_t)n->step[i].is.content.data);
  }
  free(n->step);
  weir_buf_fini(&n->a);
  weir_buf_fini(&n->b);
  free(n);
}

bool weir_norm_changes(const weir_norm *n) { return n->n > 0; }

/* ---- single steps; each appends to an empty buffer ---- */

static weir_status replace(weir_regex *r, weir_str by, const char *p, size_t len, size_t most,
                           weir_regex_budget *budget, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_regex_scan scan = {.budget = budget};
  size_t from = 0, begin, end;
  bool found;
  if (len == 0) return WEIR_OK;
  for (;;) {
    WEIR_TRY(weir_regex_next(r, p, len, &scan, &begin, &end, &found, e));
    if (!found) break;
    WEIR_TRY(weir_buf_put(out, p + from, begin - from, e));
    WEIR_TRY(weir_buf_put(out, by.data, by.len, e));
    from = end;
    if (out->len > most) break; /* the caller says so */
  }
  WEIR_TRY(weir_buf_put(out, p + from, len - from, e));
out:
  return st;
}

static weir_status strip(const weir_norm_step *s, const char *p, size_t len, weir_buf *out, weir_err *e) {
  size_t begin = 0, last = 0; /* [begin, last) is what stays */
  bool seen = false;
  for (size_t at = 0; at < len;) {
    int32_t n;
    weir_utf8_next(p + at, len - at, &n);
    if (!weir_is_space(weir_utf8_code(p + at, n))) {
      if (!seen) begin = at;
      seen = true;
      last = at + (size_t)n;
    }
    at += (size_t)n;
  }
  if (!seen) return s->left || s->right ? WEIR_OK : weir_buf_put(out, p, len, e);
  if (!s->left) begin = 0;
  if (!s->right) last = len;
  return weir_buf_put(out, p + begin, last - begin, e);
}

static weir_status nmt(uint32_t c, weir_buf *out, weir_err *e) {
  if ((c >= 1 && c <= 8) || c == 0xb || (c >= 0xe && c <= 0x1f) || c == 0x7f || c == 0x8f || c == 0x9f)
    return WEIR_OK;
  if (c == 9 || c == 0xa || c == 0xc || c == 0xd || c == 0x1680 || (c >= 0x200b && c <= 0x200f) ||
      c == 0x2028 || c == 0x2029 || c == 0x2581 || c == 0xfeff || c == 0xfffd)
    c = ' ';
  return weir_put_utf8(c, out, e);
}

static weir_status by_character(weir_norm_kind kind, const char *p, size_t len, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  for (size_t at = 0; at < len;) {
    int32_t n;
    weir_utf8_next(p + at, len - at, &n);
    const uint32_t c = weir_utf8_code(p + at, n);
    if (kind == WEIR_NORM_LOWERCASE)
      WEIR_TRY(weir_put_lower(c, out, e));
    else if (kind == WEIR_NORM_NMT)
      WEIR_TRY(nmt(c, out, e));
    else if (!weir_is_mark(c))
      WEIR_TRY(weir_buf_put(out, p + at, (size_t)n, e));
    at += (size_t)n;
  }
out:
  return st;
}

/* Spaces are U+0020 alone: the character map has made them of others. */
static weir_status spaces(const weir_norm_step *s, const char *p, size_t len, bool at_start, weir_buf *out,
                          weir_err *e) {
  weir_status st = WEIR_OK;
  if (s->squeeze) {
    while (len && p[0] == ' ') p++, len--;
    while (len && p[len - 1] == ' ') len--;
  }
  if (len && at_start) WEIR_TRY(weir_buf_put(out, s->content.data, s->content.len, e));
  for (size_t at = 0; at < len;) {
    const char *space = memchr(p + at, ' ', len - at);
    const size_t end = space ? (size_t)(space - p) : len;
    WEIR_TRY(weir_buf_put(out, p + at, end - at, e));
    if (!space) break;
    WEIR_TRY(weir_buf_puts(out, WEIR_METASPACE, e));
    at = end + 1;
    while (s->squeeze && p[at] == ' ') at++; /* the last byte is none */
  }
out:
  return st;
}

static weir_status run_step(step *s, const char *p, size_t len, bool at_start, size_t most,
                            weir_regex_budget *budget, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  switch (s->is.kind) {
    case WEIR_NORM_NFC: return weir_normal_form(p, len, false, true, most, out, e);
    case WEIR_NORM_NFD: return weir_normal_form(p, len, false, false, most, out, e);
    case WEIR_NORM_NFKC: return weir_normal_form(p, len, true, true, most, out, e);
    case WEIR_NORM_NFKD: return weir_normal_form(p, len, true, false, most, out, e);
    case WEIR_NORM_LOWERCASE:
    case WEIR_NORM_NMT:
    case WEIR_NORM_STRIP_ACCENTS: return by_character(s->is.kind, p, len, out, e);
    case WEIR_NORM_STRIP: return strip(&s->is, p, len, out, e);
    case WEIR_NORM_REPLACE: return replace(s->regex, s->is.content, p, len, most, budget, out, e);
    case WEIR_NORM_PREPEND:
      if (len && at_start) WEIR_TRY(weir_buf_put(out, s->is.content.data, s->is.content.len, e));
      return weir_buf_put(out, p, len, e);
    case WEIR_NORM_CHARSMAP: return weir_charsmap_run(s->map, p, len, s->is.spm, most, out, e);
    case WEIR_NORM_SPACES: return spaces(&s->is, p, len, at_start, out, e);
    default: return weir_fail(e, WEIR_EINVAL, "normalizer step %d", (int)s->is.kind);
  }
out:
  return st;
}

weir_status weir_norm_run(weir_norm *n, const char *text, size_t len, bool at_start,
                          weir_regex_budget *budget, weir_str *out, weir_err *e) {
  enum { KEPT = 1 << 20 };
  weir_status st = WEIR_OK;
  weir_str now = {text, len};
  const size_t most = len < WEIR_NORM_MAX_BYTES / WEIR_NORM_MAX_GROWTH
                          ? len * WEIR_NORM_MAX_GROWTH + WEIR_NORM_SPARE_BYTES
                          : WEIR_NORM_MAX_BYTES;
  weir_regex_budget own;
  if (!budget) {
    own = weir_regex_budget_of(weir_regex_seconds(len));
    budget = &own;
  }
  if (n->a.cap > KEPT) weir_buf_fini(&n->a);
  if (n->b.cap > KEPT) weir_buf_fini(&n->b);
  for (int32_t i = 0; i < n->n; i++) {
    weir_buf *to = i % 2 ? &n->b : &n->a;
    weir_buf_truncate(to, 0);
    WEIR_TRY(run_step(&n->step[i], now.data, now.len, at_start, most, budget, to, e));
    if (to->len > most) {
      st = weir_fail(e, WEIR_EINVAL, "the normalised text is too long (limit %zu bytes)", most);
      goto out;
    }
    now = (weir_str){to->data ? to->data : "", to->len};
  }
  *out = now;
out:
  return st;
}
