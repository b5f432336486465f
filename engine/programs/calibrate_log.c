/* SPDX-License-Identifier: Apache-2.0 */
/* Teacher-forces texts through one model after the other. The small model's pass comes first, and its draws
 * are what the large model's rows are probed with. Steps hold rows of several texts, long texts go over
 * several steps; nothing but the trace grows with the texts. Main thread. */
#include "programs/calibrate_log.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kv/pages.h"
#include "run/exec_local.h"
#include "step/batch.h"

typedef struct place {
  int32_t text, pos; /* the row is of tok[pos] and decides tok[pos + 1] */
} place;

typedef struct logging {
  const weir_log_how *how;
  const weir_log_text *text;
  int32_t n_texts;
  weir_trace *out;
  weir_batch_builder batch;
  int32_t *page;  /* [n_pages]: k at k */
  weir_row *row;  /* [max_tokens] */
  float *hidden;  /* [max_tokens][dim], of the small model; NULL: not wanted */
  place *where;   /* [max_tokens], of the step's rows */
  int32_t n_rows; /* of the step */
  int64_t done, total, differs;
} logging;

static int32_t fed(const weir_log_text *x) { return x->n > 0 ? x->n_prompt + x->n - 1 : 0; }

/* What is asked at a position, and whether anything is. */
static bool ask_at(const logging *g, bool large, int32_t k, int32_t p, weir_ask *ask) {
  const weir_log_text *x = &g->text[k];
  const int32_t i = p + 1 - x->n_prompt;
  if (i < 0) {
    if (large || !g->how->prompts) return false;
    *ask = (weir_ask){.top_p = 1, .pos = p + 1, .probe = x->tok[p + 1], .keep = WEIR_KEEP_ALL};
    return true;
  }
  *ask = g->how->draw;
  ask->pos = p + 1;
  ask->probe = large ? g->out->text[k].row[i].q_token : x->tok[p + 1];
  ask->keep = WEIR_KEEP_OWN; /* the row's token is then the model's own draw, whatever the probe */
  return true;
}

/* hidden: the row's state; NULL: none. */
static void take_row(logging *g, bool large, place at, const weir_row *r, const float *hidden) {
  const weir_log_text *x = &g->text[at.text];
  weir_trace_text *t = &g->out->text[at.text];
  const int32_t i = at.pos + 1 - x->n_prompt;
  if (i < 0) {
    t->prompt_entropy[at.pos] = r->entropy;
    return;
  }
  weir_trace_row *o = &t->row[i];
  if (large) {
    g->differs += r->token != x->tok[at.pos + 1];
    o->p_token = x->tok[at.pos + 1];
    o->p_entropy = r->entropy;
    o->p_max = r->p_max;
    o->p_margin = r->margin;
    o->p_logprob = r->logprob;
    o->p_of_q = r->probe_logprob;
    return;
  }
  o->q_token = r->token;
  o->q_entropy = r->entropy;
  o->q_max = r->p_max;
  o->q_margin = r->margin;
  o->q_logprob = r->logprob;
  o->q_of_p = r->probe_logprob;
  o->q_gate = g->how->small->info.gate_head ? r->gate : NAN;
  if (hidden)
    memcpy(t->hidden + (size_t)i * (size_t)g->out->dim, hidden, (size_t)g->out->dim * sizeof(float));
  o->q_ends = weir_tokenizer_is_end(g->how->tokenizer, r->token);
}

static weir_status run_step(logging *g, weir_exec *x, bool large, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_batch batch = weir_batch_get(&g->batch);
  weir_result result = {.row = g->row}, *done = NULL;
  if (batch.n_tokens == 0) return WEIR_OK;
  if (g->hidden) {
    WEIR_TRY(weir_exec_local_hidden(x, &batch, g->row, g->hidden, NULL, e));
  } else {
    WEIR_TRY(x->ops->submit(x, &batch, &result, e));
    WEIR_TRY(x->ops->wait(x, &done, e));
    if (done->status != WEIR_OK) WEIR_TRY(weir_fail(e, done->status, "%s", done->err.msg));
  }
  for (int32_t i = 0; i < g->n_rows; i++)
    take_row(g, large, g->where[i], &g->row[i],
             g->hidden ? g->hidden + (size_t)i * (size_t)g->out->dim : NULL);
  g->done += batch.n_tokens;
  g->n_rows = 0;
  weir_batch_builder_clear(&g->batch);
  if (g->how->progress && !g->how->progress(g->how->ctx, g->done, g->total))
    st = weir_fail(e, WEIR_ECANCEL, "stopped");
out:
  return st;
}

/* Texts [first, first + n), each with pages of its own. */
static weir_status feed(logging *g, weir_exec *x, bool large, int32_t first, int32_t n, weir_err *e) {
  weir_status st = WEIR_OK;
  int32_t page = 0;
  for (int32_t k = first; k < first + n; k++) {
    const int32_t len = fed(&g->text[k]);
    for (int32_t from = 0, to; from < len; from = to) {
      const int32_t room = x->info.max_tokens - g->batch.n_tokens;
      to = len - from < room ? len : from + room;
      const weir_batch_seq seq = {g->text[k].tok, from, to, g->page + page, weir_pages_for(to)};
      const int32_t at = weir_batch_add(&g->batch, &seq) - from;
      weir_ask ask;
      for (int32_t p = from; p < to; p++)
        if (ask_at(g, large, k, p, &ask)) {
          *weir_batch_ask(&g->batch, at + p) = ask;
          g->where[g->n_rows++] = (place){k, p};
        }
      if (g->batch.n_tokens == x->info.max_tokens || g->batch.n_seqs == g->batch.max_seqs)
        WEIR_TRY(run_step(g, x, large, e));
    }
    page += weir_pages_for(len);
  }
  st = run_step(g, x, large, e);
out:
  return st;
}

static weir_status pass(logging *g, weir_exec *x, bool large, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_exec_info *info = &x->info;
  WEIR_TRY(weir_batch_builder_init(&g->batch, info->max_tokens, info->max_seqs, info->n_pages, 1, e));
  WEIR_TRY(WEIR_NEW((size_t)info->n_pages, &g->page, e));
  WEIR_TRY(WEIR_NEW((size_t)info->max_tokens, &g->row, e));
  WEIR_TRY(WEIR_NEW((size_t)info->max_tokens, &g->where, e));
  if (!large && g->out->dim > 0)
    WEIR_TRY(WEIR_NEW((size_t)info->max_tokens * (size_t)g->out->dim, &g->hidden, e));
  for (int32_t i = 0; i < info->n_pages; i++) g->page[i] = i;
  for (int32_t k = 0, n; k < g->n_texts; k += n) {
    int32_t pages = 0;
    for (n = 0; k + n < g->n_texts && n < info->max_seqs; n++) {
      const int32_t more = weir_pages_for(fed(&g->text[k + n]));
      if (fed(&g->text[k + n]) > info->n_ctx || more > info->n_pages)
        WEIR_TRY(weir_fail(e, WEIR_EINVAL, "%s: text %d has %d tokens, the context %d", info->name, k + n + 1,
                           fed(&g->text[k + n]), info->n_ctx));
      if (pages + more > info->n_pages) break;
      pages += more;
    }
    WEIR_TRY(feed(g, x, large, k, n, e));
  }
out:
  weir_batch_builder_fini(&g->batch);
  free(g->page);
  free(g->row);
  free(g->where);
  free(g->hidden);
  g->hidden = NULL;
  g->page = NULL;
  g->row = NULL;
  g->where = NULL;
  return st;
}

weir_status weir_trace_log(const weir_log_how *how, const weir_log_text *text, int32_t n_texts,
                           weir_trace *out, int64_t *differs, weir_err *e) {
  weir_status st = WEIR_OK;
  logging g = {.how = how, .text = text, .n_texts = n_texts, .out = out};
  if (n_texts != out->n) return weir_fail(e, WEIR_EINVAL, "%d texts for a trace of %d", n_texts, out->n);
  out->temperature = how->draw.temperature;
  out->seed = how->draw.seed;
  if (how->hidden) WEIR_TRY(weir_exec_local_hidden(how->small, NULL, NULL, NULL, &out->dim, e));
  for (int32_t k = 0; k < n_texts; k++) {
    WEIR_TRY(weir_trace_text_init(&out->text[k], text[k].n_prompt, text[k].n, how->prompts, out->dim, e));
    g.total += 2 * (int64_t)fed(&text[k]);
  }
  WEIR_TRY(pass(&g, how->small, false, e));
  WEIR_TRY(pass(&g, how->large, true, e));
out:
  *differs = g.differs;
  return st;
}
