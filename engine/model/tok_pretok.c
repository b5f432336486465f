/* SPDX-License-Identifier: Apache-2.0 */
/* Pre-tokenisers, step by step: a step cuts each piece of the one before, each piece being a text of its own.
 * Owns compiled patterns and scratch; may call tok_regex.c; one thread at a time. The rules are those of the
 * tokenizers library (pre_tokenizers/, tokenizer/normalizer.rs, split). */
#define _GNU_SOURCE /* memmem */
#include "model/tok_pretok.h"

#include <stdlib.h>

#include "base/mem.h"
#include "model/tok_norm.h"
#include "model/tok_regex.h"
#include "model/tok_vocab.h"

typedef struct pieces {
  weir_piece *at; /* owned */
  size_t n, cap;
} pieces;

typedef struct step {
  weir_pre_step is; /* pattern unused */
  char content[8];  /* of METASPACE: one character */
  size_t content_len;
  weir_regex *regex; /* owned */
} step;

struct weir_pretok {
  step step[WEIR_TOK_MAX_STEPS];
  int32_t n;
  pieces a, b;
  weir_buf text_a, text_b;
};

weir_status weir_pretok_create(const weir_tok_spec *s, bool no_jit, weir_pretok **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_pretok *p = NULL;
  *out = NULL;
  WEIR_TRY(WEIR_NEW(1, &p, e));
  for (; p->n < s->n_pre; p->n++) {
    step *to = &p->step[p->n];
    to->is = s->pre[p->n];
    if (to->is.content.len > sizeof to->content) {
      st = weir_fail(e, WEIR_EUNSUP, "a Metaspace of %zu bytes", to->is.content.len);
      goto out;
    }
    to->content_len = to->is.content.len;
    if (to->content_len) memcpy(to->content, to->is.content.data, to->content_len);
    if (to->is.kind == WEIR_PRE_METASPACE && to->is.scheme == WEIR_PREPEND_FIRST && p->n > 0) {
      /* the library goes by where the piece stood before normalisation, which is not kept here */
      st = weir_fail(e, WEIR_EUNSUP, "Metaspace with prepend_scheme \"first\" behind another pre-tokenizer");
      goto out;
    }
    if (to->is.kind == WEIR_PRE_SPLIT)
      WEIR_TRY(weir_regex_create(to->is.pattern, to->is.is_regex, no_jit, &to->regex, e));
    to->is.pattern = to->is.content = (weir_str){"", 0};
  }
  *out = p;
  p = NULL;
out:
  if (st != WEIR_OK) weir_fail_ctx(e, st, "pre-tokenizer");
  weir_pretok_destroy(p);
  return st;
}

weir_status weir_pretok_create_named(weir_str name, bool no_jit, weir_pretok **out, weir_err *e) {
  weir_tok_spec s = {0};
  bool adds_bos;
  *out = NULL;
  weir_status st = weir_tok_spec_named_pre(&s, name, &adds_bos, e);
  if (st == WEIR_OK) st = weir_pretok_create(&s, no_jit, out, e);
  weir_tok_spec_fini(&s);
  return st;
}

void weir_pretok_destroy(weir_pretok *p) {
  if (!p) return;
  for (int32_t i = 0; i < WEIR_TOK_MAX_STEPS; i++) weir_regex_destroy(p->step[i].regex);
  free(p->a.at);
  free(p->b.at);
  weir_buf_fini(&p->text_a);
  weir_buf_fini(&p->text_b);
  free(p);
}

/* Gives back what an unusually long text had needed. */
static void shrink(pieces *c, size_t len) {
  enum { KEPT = 1 << 16 };
  if (c->cap <= KEPT || len > c->cap / 8) return;
  free(c->at);
  *c = (pieces){0};
}

static weir_status push(pieces *c, size_t begin, size_t end, weir_err *e) {
  if (begin == end) return WEIR_OK;
  if (c->n == c->cap) {
    size_t cap = c->cap ? c->cap * 2 : 256, bytes;
    weir_piece *grown = weir_mul_size(cap, sizeof *grown, &bytes) ? realloc(c->at, bytes) : NULL;
    if (!grown) return weir_fail(e, WEIR_ENOMEM, "cannot hold %zu pieces of a text", cap);
    c->at = grown;
    c->cap = cap;
  }
  c->at[c->n++] = (weir_piece){(uint32_t)begin, (uint32_t)end};
  return WEIR_OK;
}

/* ---- Split ---- */

/* What becomes of the matches and of what is between them, one after the other. */
typedef struct merger {
  weir_split_behavior behavior;
  pieces *out;
  size_t begin, end; /* the last part, which may still grow */
  bool any;          /* there is one */
  bool was_match;
} merger;

static weir_status flush(merger *m, weir_err *e) {
  const bool any = m->any;
  m->any = false;
  return any ? push(m->out, m->begin, m->end, e) : WEIR_OK;
}

static weir_status part(merger *m, size_t begin, size_t end, bool match, weir_err *e) {
  bool joins = false;
  switch (m->behavior) {
    case WEIR_SPLIT_REMOVED: return match ? WEIR_OK : push(m->out, begin, end, e);
    case WEIR_SPLIT_ISOLATED: return push(m->out, begin, end, e);
    case WEIR_SPLIT_CONTIGUOUS: joins = match == m->was_match; break;
    case WEIR_SPLIT_PREVIOUS: joins = match && !m->was_match; break;
    case WEIR_SPLIT_NEXT: joins = !match && m->was_match; break;
    default: return weir_fail(e, WEIR_EINVAL, "behavior %d of a split", (int)m->behavior);
  }
  m->was_match = match;
  if (joins && m->any) {
    m->end = end;
    return WEIR_OK;
  }
  const weir_status st = flush(m, e);
  m->begin = begin;
  m->end = end;
  m->any = true;
  return st;
}

static weir_status split_piece(const step *s, const char *text, weir_piece in, weir_regex_budget *budget,
                               pieces *out, weir_err *e) {
  weir_status st = WEIR_OK;
  merger m = {.behavior = s->is.behavior, .out = out};
  weir_regex_scan scan = {.budget = budget};
  const size_t len = in.end - in.begin;
  const bool invert = s->is.invert;
  size_t from = 0, begin, end;
  bool found;
  for (;;) {
    WEIR_TRY(weir_regex_next(s->regex, text + in.begin, len, &scan, &begin, &end, &found, e));
    if (!found) break;
    if (begin > from) WEIR_TRY(part(&m, in.begin + from, in.begin + begin, invert, e));
    WEIR_TRY(part(&m, in.begin + begin, in.begin + end, !invert, e));
    from = end;
  }
  if (from < len) WEIR_TRY(part(&m, in.begin + from, in.end, invert, e));
  WEIR_TRY(flush(&m, e));
out:
  return st;
}

/* ---- steps that change the text ---- */

static bool begins_with(const char *p, size_t len, const char *s, size_t n) {
  return len >= n && memcmp(p, s, n) == 0;
}

static weir_status prefix_space(const char *p, size_t len, bool fresh, weir_buf *text, pieces *out,
                                weir_err *e) {
  weir_status st = WEIR_OK;
  const size_t begin = text->len;
  if (fresh && p[0] != ' ') WEIR_TRY(weir_buf_puts(text, " ", e));
  WEIR_TRY(weir_buf_put(text, p, len, e));
  WEIR_TRY(push(out, begin, text->len, e));
out:
  return st;
}

static weir_status metaspace(const step *s, const char *p, size_t len, bool prepend, weir_buf *text,
                             pieces *out, weir_err *e) {
  weir_status st = WEIR_OK;
  const size_t begin = text->len, n = s->content_len;
  if (prepend && p[0] != ' ' && !begins_with(p, len, s->content, n))
    WEIR_TRY(weir_buf_put(text, s->content, n, e));
  for (size_t at = 0; at < len;) {
    const char *space = memchr(p + at, ' ', len - at);
    const size_t end = space ? (size_t)(space - p) : len;
    WEIR_TRY(weir_buf_put(text, p + at, end - at, e));
    if (!space) break;
    WEIR_TRY(weir_buf_put(text, s->content, n, e));
    at = end + 1;
  }
  if (!s->is.split) return push(out, begin, text->len, e);
  size_t from = begin;
  for (size_t at = begin; at < text->len;) {
    const char *next = memmem(text->data + at, text->len - at, s->content, n);
    if (!next) break;
    const size_t here = (size_t)(next - text->data);
    WEIR_TRY(push(out, from, here, e));
    from = here;
    at = here + n;
  }
  WEIR_TRY(push(out, from, text->len, e));
out:
  return st;
}

static weir_status spell(const char *p, size_t len, weir_buf *text, pieces *out, weir_err *e) {
  weir_status st = WEIR_OK;
  const size_t begin = text->len;
  WEIR_TRY(weir_buf_reserve(text, 2 * len, e)); /* len is below 2^31 */
  for (size_t i = 0; i < len; i++) text->len += weir_vocab_spell((unsigned char)p[i], text->data + text->len);
  WEIR_TRY(push(out, begin, text->len, e));
out:
  return st;
}

weir_status weir_pretok_run(weir_pretok *p, const char *text, size_t len, bool at_start, bool fresh,
                            weir_regex_budget *budget, weir_cut *out, weir_err *e) {
  enum { TEXT_KEPT = 1 << 20 };
  weir_status st = WEIR_OK;
  pieces *in = &p->a, *to = &p->b;
  weir_buf *spare = &p->text_a, *other = &p->text_b;
  weir_regex_budget own;
  if (!budget) {
    own = weir_regex_budget_of(weir_regex_seconds(len));
    budget = &own;
  }
  shrink(in, len);
  shrink(to, len);
  if (p->text_a.cap > TEXT_KEPT) weir_buf_fini(&p->text_a);
  if (p->text_b.cap > TEXT_KEPT) weir_buf_fini(&p->text_b);
  in->n = 0;
  WEIR_TRY(push(in, 0, len, e));
  for (int32_t k = 0; k < p->n; k++) {
    const step *s = &p->step[k];
    to->n = 0;
    weir_buf_truncate(spare, 0);
    for (size_t i = 0; i < in->n; i++) {
      const weir_piece one = in->at[i];
      const char *at = text + one.begin;
      const size_t n = one.end - one.begin;
      const bool may_prepend = fresh || i > 0;
      if (s->is.kind == WEIR_PRE_SPLIT)
        WEIR_TRY(split_piece(s, text, one, budget, to, e));
      else if (s->is.kind == WEIR_PRE_SPELL)
        WEIR_TRY(spell(at, n, spare, to, e));
      else if (s->is.kind == WEIR_PRE_PREFIX_SPACE)
        WEIR_TRY(prefix_space(at, n, may_prepend, spare, to, e));
      else
        WEIR_TRY(metaspace(s, at, n,
                           may_prepend && (s->is.scheme == WEIR_PREPEND_ALWAYS ||
                                           (s->is.scheme == WEIR_PREPEND_FIRST && at_start && i == 0)),
                           spare, to, e));
      if (spare->len > WEIR_NORM_MAX_BYTES) {
        st = weir_fail(e, WEIR_EINVAL, "the pre-tokenised text is too long (limit %d bytes)",
                       WEIR_NORM_MAX_BYTES);
        goto out;
      }
    }
    if (s->is.kind != WEIR_PRE_SPLIT) {
      text = spare->data ? spare->data : "";
      weir_buf *t = spare;
      spare = other;
      other = t;
    }
    pieces *t = in;
    in = to;
    to = t;
  }
  *out = (weir_cut){text, in->at, in->n};
out:
  return st;
}
