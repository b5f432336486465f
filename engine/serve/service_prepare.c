/* SPDX-License-Identifier: Apache-2.0 */
/* The preparing threads: chat templates and tokenising, each with a tokenizer of its own, so that a long text
 * holds up neither the steps nor the edges. Long texts have their own thread, or go behind the short ones,
 * but not for ever. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "serve/service_in.h"

/* ---- ids ---- */

static weir_status put_bos(weir_tokenizer *t, weir_tokens *io, weir_err *e) {
  const int32_t bos = weir_tokenizer_bos(t);
  if (!weir_tokenizer_adds_bos(t) || bos < 0 || (io->n > 0 && io->id[0] == bos)) return WEIR_OK;
  if (io->n == io->cap) {
    const int64_t cap = (int64_t)io->n + 16;
    int32_t *grown = cap < INT32_MAX ? realloc(io->id, (size_t)cap * sizeof *grown) : NULL;
    if (!grown) return weir_fail(e, WEIR_ENOMEM, "cannot keep %d token ids", io->n);
    io->id = grown;
    io->cap = (int32_t)cap;
  }
  memmove(io->id + 1, io->id, (size_t)io->n * sizeof *io->id);
  io->id[0] = bos;
  io->n++;
  return WEIR_OK;
}

static weir_status chat_ids(weir_preparer *p, const weir_source *src, weir_tokens *out, weir_err *e) {
  weir_service *s = p->of;
  weir_status st = WEIR_OK;
  weir_chat_text text = {0};
  weir_chat_words words = s->words;
  char date[32];
  const time_t now = time(NULL);
  struct tm tm;
  if (gmtime_r(&now, &tm) && strftime(date, sizeof date, "%d %b %Y", &tm) > 0) words.date = weir_str_of(date);
  WEIR_TRY(weir_chat_render(s->cfg.chat, &words, src->chat, src->n_chat, true, &text, e));
  WEIR_TRY(
      weir_tokenize_marked(p->tokenizer, text.text.data, text.text.len, text.span, text.n_spans, out, e));
  /* a template may write the begin-of-text token itself */
  WEIR_TRY(put_bos(p->tokenizer, out, e));
out:
  weir_chat_text_fini(&text);
  return st;
}

static weir_status source_ids(weir_preparer *p, weir_source *src, weir_tokens *out, weir_err *e) {
  if (src->ids) {
    *out = (weir_tokens){.id = src->ids, .n = src->n_ids, .cap = src->n_ids};
    src->ids = NULL;
    src->n_ids = 0;
    return WEIR_OK;
  }
  if (src->chat) return chat_ids(p, src, out, e);
  weir_status st = weir_tokenize(p->tokenizer, src->text, src->len, src->special, out, e);
  if (st == WEIR_OK && !src->bare) st = put_bos(p->tokenizer, out, e);
  return st;
}

static int32_t code_of(weir_status st) { return st == WEIR_EINVAL || st == WEIR_EUNSUP ? 400 : 500; }

/* ---- requests ---- */

static weir_status prepare(weir_preparer *p, weir_reply *r, weir_service_error *x) {
  weir_service *s = p->of;
  weir_err e = {0};
  const weir_status st = source_ids(p, &r->source, &r->prompt, &e);
  const char *field = r->source.chat ? "chat" : "prompt";
  weir_reply_drop_source(r);
  if (st != WEIR_OK) return weir_service_error_set(x, code_of(st), field, "%s", e.msg);
  const int32_t n = r->prompt.n;
  if (n == 0) return weir_service_error_set(x, 400, "prompt", "prompt: it has no tokens");
  for (int32_t i = 0; i < n; i++)
    if (r->prompt.id[i] >= s->n_vocab)
      return weir_service_error_set(
          x, 400, "prompt", "prompt: token %d is of id %d, which not all models have", i, r->prompt.id[i]);
  if (n >= s->n_ctx) {
    r->too_long = true;
    return weir_service_error_set(
        x, 400, "prompt", "the prompt has %d tokens; with a context of %d at most %d fit, and one is written",
        n, s->n_ctx, s->n_ctx - 1);
  }
  r->job.prompt = r->prompt.id;
  r->job.n_prompt = n;
  return WEIR_OK;
}

static void handle_reply(weir_preparer *p, weir_reply *r) {
  weir_service *s = p->of;
  weir_service_error x = {0};
  weir_status st = WEIR_OK;
  weir_end end = WEIR_END_ERROR;
  if (r->job.deadline_ns > 0 && weir_service_now(s) >= r->job.deadline_ns) {
    end = WEIR_END_DEADLINE;
    st =
        weir_service_error_set(&x, 504, "deadline_ms", "the deadline passed before the request was prepared");
  } else {
    st = prepare(p, r, &x);
  }
  if (st != WEIR_OK) {
    weir_reply_finish(r, end, &x, NULL, WEIR_CANCEL_CLIENT); /* unless it was cancelled meanwhile */
    weir_reply_unref(r);
    return;
  }
  atomic_store_explicit(&r->n_prompt, r->prompt.n, memory_order_release);
  pthread_mutex_lock(&s->lock);
  const bool gone = r->stage == WEIR_AT_END;
  if (!gone) {
    r->stage = WEIR_AT_LOOP;
    weir_work_put(&s->inbox, &r->work);
    pthread_cond_signal(&s->loop_wake);
  }
  pthread_mutex_unlock(&s->lock);
  if (gone) weir_reply_unref(r);
}

/* ---- calls ---- */

static weir_status token_texts(weir_preparer *p, weir_call *c, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_tokenizer *t = p->tokenizer;
  size_t at = 0;
  WEIR_TRY(WEIR_NEW((size_t)c->ids.n, &c->text, e));
  for (int32_t i = 0; i < c->ids.n; i++) {
    const weir_str b = weir_token_bytes(t, c->ids.id[i]);
    c->text[i].len = b.len;
    WEIR_TRY(weir_buf_put(&c->bytes, b.data, b.len, e));
  }
  for (int32_t i = 0; i < c->ids.n; at += c->text[i++].len)
    c->text[i].data = c->bytes.data ? c->bytes.data + at : "";
  c->result.id = c->ids.id;
  c->result.text = c->text;
  c->result.n = c->ids.n;
out:
  return st;
}

static weir_status detokenize(weir_preparer *p, weir_call *c, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_detok d = {0};
  for (int32_t i = 0; i < c->source.n_ids; i++)
    WEIR_TRY(weir_detok_put(&d, p->tokenizer, c->source.ids[i], true, &c->bytes, e));
  WEIR_TRY(weir_detok_end(&d, &c->bytes, e));
  c->result.detokenized = (weir_str){c->bytes.data ? c->bytes.data : "", c->bytes.len};
out:
  return st;
}

static void handle_call(weir_preparer *p, weir_call *c) {
  weir_err e = {0};
  weir_status st = WEIR_OK;
  if (c->detokenize) {
    st = detokenize(p, c, &e);
  } else {
    st = source_ids(p, &c->source, &c->ids, &e);
    if (st == WEIR_OK) st = token_texts(p, c, &e);
  }
  const char *field = c->detokenize ? "id" : c->source.chat ? "chat" : "text";
  if (st != WEIR_OK) weir_service_error_set(&c->result.error, code_of(st), field, "%s", e.msg);
  weir_call_finish(c);
}

/* ---- the thread ---- */

/* NULL: stop. */
static weir_work *next_work(weir_preparer *p) {
  weir_service *s = p->of;
  weir_work *w = NULL;
  pthread_mutex_lock(&s->lock);
  for (;;) {
    weir_work *brief = p->shorts ? s->short_work.first : NULL,
              *lengthy = p->longs ? s->long_work.first : NULL;
    if (s->stop) break;
    const bool turn = lengthy && (!brief || p->shorts_in_a_row >= WEIR_SERVICE_SHORTS_IN_A_ROW);
    w = turn ? lengthy : brief;
    if (w) {
      p->shorts_in_a_row = turn ? 0 : p->shorts_in_a_row + 1;
      break;
    }
    pthread_cond_wait(&p->wake, &s->lock);
  }
  if (w) {
    weir_work_unlink(w);
    if (!w->is_call) ((weir_reply *)w)->stage = WEIR_AT_PREPARING;
  }
  pthread_mutex_unlock(&s->lock);
  return w;
}

void *weir_service_prepare_main(void *ctx) {
  weir_preparer *p = ctx;
  for (weir_work *w = next_work(p); w; w = next_work(p)) {
    atomic_store(&p->since_ns, weir_service_now(p->of));
    if (w->is_call)
      handle_call(p, (weir_call *)w);
    else
      handle_reply(p, (weir_reply *)w);
    atomic_store(&p->since_ns, 0);
  }
  return NULL;
}
