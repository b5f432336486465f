/* SPDX-License-Identifier: Apache-2.0 */
/* What the text of a job says of its tokens and the other way round: the list its answer comes from as
 * tokens, where its text ends, and which threshold of the gate holds behind what was written. Loop thread
 * only. */
#include <string.h>

#include "base/mem.h"
#include "serve/engine_in.h"

/* ---- choices ---- */

/* What the tokens say behind the prompt; true when that is the text. */
static bool says(const weir_engine *g, const int32_t *id, int32_t n, bool started, const char *text,
                 size_t len, weir_buf *buf, weir_err *e) {
  weir_detok d = {.started = started};
  weir_status st = WEIR_OK;
  weir_buf_truncate(buf, 0);
  for (int32_t i = 0; i < n && st == WEIR_OK; i++)
    st = weir_detok_put(&d, g->cfg.tokenizer, id[i], false, buf, e);
  if (st == WEIR_OK) st = weir_detok_end(&d, buf, e);
  return st == WEIR_OK && n > 0 && buf->len == len && (len == 0 || !memcmp(buf->data, text, len));
}

/* The ids of a text that goes on the prompt's. A tokenizer that puts a space before every text is told to by
 * leaving out the text's own, or is given a line break to put it before. */
static weir_status tokenize_on(const weir_engine *g, const char *text, bool started, weir_tokens *out,
                               bool *good, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_buf buf = {0}, broken = {0};
  weir_tokens line = {0};
  const size_t len = strlen(text);
  *good = false;
  WEIR_TRY(weir_tokenize(g->cfg.tokenizer, text, len, false, out, e));
  *good = says(g, out->id, out->n, started, text, len, &buf, e);
  if (*good) goto out;
  if (text[0] == ' ' && len > 1) {
    out->n = 0;
    WEIR_TRY(weir_tokenize(g->cfg.tokenizer, text + 1, len - 1, false, out, e));
    *good = says(g, out->id, out->n, started, text, len, &buf, e);
    if (*good) goto out;
  }
  out->n = 0;
  WEIR_TRY(weir_buf_put(&broken, "\n", 1, e));
  WEIR_TRY(weir_buf_put(&broken, text, len, e));
  WEIR_TRY(weir_tokenize(g->cfg.tokenizer, "\n", 1, false, &line, e));
  WEIR_TRY(weir_tokenize(g->cfg.tokenizer, broken.data, broken.len, false, out, e));
  if (out->n <= line.n || memcmp(out->id, line.id, (size_t)line.n * sizeof *line.id) != 0) goto out;
  out->n -= line.n;
  memmove(out->id, out->id + line.n, (size_t)out->n * sizeof *out->id);
  *good = says(g, out->id, out->n, started, text, len, &buf, e);
out:
  weir_buf_fini(&buf);
  weir_buf_fini(&broken);
  weir_tokens_fini(&line);
  return st;
}

static weir_status check_choices(const weir_job *s, weir_err *e) {
  if (s->n_choices < 0 || s->n_choices > WEIR_MAX_CHOICES)
    return weir_fail(e, WEIR_EINVAL, "choices: %d of them, want at most %d", s->n_choices, WEIR_MAX_CHOICES);
  const char *other = s->n_stop > 0 ? "stop strings" : s->min_new > 0 ? "min_tokens" : NULL;
  if (s->ignore_eos) other = "ignore_eos";
  if (other)
    return weir_fail(e, WEIR_EINVAL, "choices say where the answer ends, and so do %s: give one of the two",
                     other);
  for (int32_t i = 0; i < s->n_choices; i++) {
    const size_t len = s->choices[i] ? strlen(s->choices[i]) : 0;
    if (len == 0) return weir_fail(e, WEIR_EINVAL, "choices: number %d is empty", i + 1);
    if (len > WEIR_MAX_CHOICE_BYTES)
      return weir_fail(e, WEIR_EINVAL, "choices: number %d has %zu bytes, want at most %d", i + 1, len,
                       WEIR_MAX_CHOICE_BYTES);
  }
  return WEIR_OK;
}

weir_status weir_engine_make_choices(const weir_engine *g, const weir_job *s, int32_t max_new,
                                     int32_t n_vocab, weir_choices *out, weir_err *e) {
  weir_tokens t = {0};
  weir_status st = WEIR_OK;
  if (s->n_choices == 0) return WEIR_OK;
  WEIR_TRY(check_choices(s, e));
  const bool started = !weir_tokenizer_is_special(g->cfg.tokenizer, s->prompt[s->n_prompt - 1]);
  for (int32_t i = 0; i < s->n_choices; i++) {
    bool good;
    t.n = 0;
    WEIR_TRY(tokenize_on(g, s->choices[i], started, &t, &good, e));
    for (int32_t k = 0; k < t.n; k++) good = good && t.id[k] < n_vocab;
    if (!good)
      WEIR_TRY(weir_fail(e, WEIR_EINVAL, "choices: number %d is nothing that the model can write", i + 1));
    if (t.n > max_new)
      WEIR_TRY(weir_fail(e, WEIR_EINVAL, "choices: number %d has %d tokens, and %d may be written", i + 1,
                         t.n, max_new));
    WEIR_TRY(weir_choices_add(out, t.id, t.n, e));
  }
  st = weir_choices_seal(out, g->end, g->n_end, e);
out:
  weir_tokens_fini(&t);
  return st;
}

/* ---- the text ---- */

weir_status weir_engine_follow(weir_engine *g, weir_engine_job *j, weir_err *e) {
  weir_request *r = j->req;
  while (j->stream.n < weir_request_n_new(r)) {
    const int32_t id = r->tok[r->n_prompt + j->stream.n];
    const weir_status st = weir_stream_append(&j->stream, id, e);
    if (st != WEIR_OK) return st;
    j->at_eos = !j->spec.ignore_eos && weir_tokenizer_is_end(g->cfg.tokenizer, id);
    weir_gate_spans_note(&j->spans, j->stream.n - 1, j->stream.text.data, j->stream.text.len);
  }
  const int32_t n_new = weir_request_n_new(r);
  if (n_new == 0) j->at_eos = false;
  j->whole = weir_request_is_complete(r);
  r->view.ended = n_new > 0 && (j->stream.stopped || j->at_eos || j->whole || n_new >= r->max_new);
  return WEIR_OK;
}

/* ---- spans ---- */

weir_status weir_engine_make_spans(weir_engine_job *j, const weir_job *s, int32_t max_new, weir_err *e) {
  if (s->n_spans != 0) {
    if (s->cascade->n_tiers < 2) return weir_fail(e, WEIR_EINVAL, "span: one model alone has no gate");
    if (weir_budget_moves(&s->cascade->budget) || s->cascade->route.on)
      return weir_fail(e, WEIR_EINVAL,
                       "span sets the threshold, and so does a budget of deferrals or a route");
  }
  return weir_gate_spans_init(&j->spans, s->span, s->n_spans, max_new, e);
}

void weir_engine_span_set(weir_engine_job *j) {
  weir_request *r = j->req;
  if (j->spans.n == 0 || r->need.tier != 0) return;
  r->cfg.gate[0].threshold = weir_gate_spans_threshold(&j->spans, weir_request_n_new(r), j->threshold);
}
