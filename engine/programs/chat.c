/* SPDX-License-Identifier: Apache-2.0 */
/* `weir chat`: a conversation in the terminal, or of the lines of a file. One engine serves the session, so
 * that its prefix cache still holds the KV of earlier turns when the next one is asked. Main thread. */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "model/chat.h"
#include "programs/chat_in.h"
#include "programs/interrupt.h"
#include "programs/options.h"
#include "programs/setting.h"
#include "programs/template.h"

/* ---- one answer ---- */

static bool by_large(const weir_chat *x, const weir_token_receipt *r) { return r->tier == x->models.large; }

static void take_piece(void *ctx, const weir_piece *p) {
  weir_chat *x = ctx;
  const weir_token_receipt *r = p->receipt;
  const char *lead = weir_chat_answer_lead(&x->talk.format), *text = p->text;
  size_t len = p->len;
  if (x->err.code != WEIR_OK) return;
  if (x->n == x->cap) {
    const int32_t cap = x->cap ? 2 * x->cap : 256;
    int32_t *grown = realloc(x->id, (size_t)cap * sizeof *grown);
    if (!grown) {
      weir_fail(&x->err, WEIR_ENOMEM, "cannot keep %d tokens", cap);
      return;
    }
    x->id = grown;
    x->cap = cap;
  }
  x->id[x->n++] = r->id;
  x->last.by_tier[by_large(x, r)]++;
  if (!isnan(r->entropy)) {
    x->last.entropy += (double)r->entropy;
    x->last.seen++;
  }
  if (weir_buf_put(&x->text, text, len, &x->err) != WEIR_OK || x->json || len == 0) return;
  if (!x->begun && len >= strlen(lead) && !memcmp(text, lead, strlen(lead))) { /* not for the eye */
    text += strlen(lead);
    len -= strlen(lead);
  }
  x->begun = true;
  weir_paint_token(&x->paint, text, len, x->models.n_tiers > 1 && by_large(x, r), r->entropy);
  weir_out_flush(&x->out);
}

static void take_end(void *ctx, const weir_outcome *o) {
  weir_chat *x = ctx;
  x->done = true;
  x->end = o->end;
  if (o->err) x->job_err = *o->err;
  x->last.answers = 1;
  x->last.prompt_tokens = o->n_prompt;
  x->last.tokens = x->n;
  for (int32_t t = 0; t < x->models.n_tiers; t++) {
    x->last.hit[t] = o->counts->prefix_hit[t];
    x->last.fed[t] = o->counts->fed[t];
  }
  x->last.ns = o->total_ns;
  x->last.first_ns = o->first_token_ns;
}

static void add_sums(weir_chat_sums *to, const weir_chat_sums *s) {
  to->answers += s->answers;
  to->prompt_tokens += s->prompt_tokens;
  to->tokens += s->tokens;
  for (int32_t i = 0; i < 2; i++) to->by_tier[i] += s->by_tier[i];
  for (int32_t t = 0; t < WEIR_MAX_TIERS; t++) {
    to->hit[t] += s->hit[t];
    to->fed[t] += s->fed[t];
  }
  to->ns += s->ns;
  to->first_ns += s->first_ns;
  to->entropy += s->entropy;
  to->seen += s->seen;
}

static weir_status generate(weir_chat *x, const weir_tokens *prompt, weir_err *e) {
  weir_status st = WEIR_OK;
  int64_t id;
  bool busy = true, cancelled = false;
  static const char *const next_question[] = {"\nQuestion:"}; /* of a base model, which might go on asking */
  const bool qa = !strcmp(weir_chat_name(&x->talk.format), "qa");
  const weir_job job = {.prompt = prompt->id,
                        .n_prompt = prompt->n,
                        .max_new = x->max_new,
                        .draw = x->draw,
                        .cascade = &x->cascade,
                        .auto_ = x->opts.mode == WEIR_MODE_AUTO,
                        .quality = x->opts.quality,
                        .ignore_eos = weir_config_bool(x->c, "ignore-eos"),
                        .show_special = weir_config_bool(x->c, "special"),
                        .stop = next_question,
                        .n_stop = qa,
                        .span = x->spans.span,
                        .n_spans = x->cascade.gate_moves ? x->spans.n : 0,
                        .on_piece = take_piece,
                        .on_done = take_end,
                        .ctx = x};
  x->n = 0;
  x->begun = x->done = false;
  x->err = x->job_err = (weir_err){0};
  x->last = (weir_chat_sums){0};
  weir_buf_truncate(&x->text, 0);
  WEIR_TRY(weir_engine_submit(x->engine, &job, &id, e));
  weir_interrupt_init();
  while (busy) {
    if (!cancelled && (weir_interrupt_pending() || x->err.code != WEIR_OK || x->out.gone || x->out.failed)) {
      weir_engine_cancel(x->engine, id);
      cancelled = true;
    }
    WEIR_TRY(weir_engine_step(x->engine, &busy, e));
  }
  if (x->err.code != WEIR_OK) WEIR_TRY(weir_fail(e, x->err.code, "%s", x->err.msg));
  if (x->end == WEIR_END_ERROR) WEIR_TRY(weir_fail(e, x->job_err.code, "%s", x->job_err.msg));
out:
  return st;
}

static double tok_s(const weir_chat_sums *s) {
  return s->ns > 0 ? 1e9 * (double)s->tokens / (double)s->ns : 0;
}

/* On a terminal: what an answer was, in a dim line under it. */
static void tell_answer(const weir_chat *x) {
  const weir_chat_sums *s = &x->last;
  if (x->quiet || !x->terminal.interactive || !x->out.terminal_err) return;
  const char *dim = x->out.color_err ? "\033[2m" : "", *plain = x->out.color_err ? "\033[0m" : "";
  fprintf(stderr, "%s[%lld tokens, %.0f tok/s", dim, (long long)s->tokens, tok_s(s));
  if (x->models.n_tiers > 1 && s->tokens > 0)
    fprintf(stderr, ", %.1f %% by the large model", 100.0 * (double)s->by_tier[1] / (double)s->tokens);
  if (x->end == WEIR_END_LENGTH)
    fprintf(stderr, "; cut: %s", s->tokens >= x->max_new ? "--max-tokens" : "the context is full");
  if (x->end == WEIR_END_CANCEL) fprintf(stderr, "; stopped");
  fprintf(stderr, "]%s\n", plain);
}

static json_t *by_tier(const weir_chat *x, const int64_t *count) {
  json_t *o = json_object();
  for (int32_t t = 0; o && t < x->models.n_tiers; t++)
    json_object_set_new(o, x->models.tier_name[t], json_integer(count[t]));
  return o;
}

static json_t *answer_line(const weir_chat *x, const weir_buf *user, const weir_buf *answer,
                           int32_t dropped) {
  const weir_chat_sums *s = &x->last;
  const double n = (double)s->tokens;
  return json_pack(
      "{s:s, s:I, s:o, s:o, s:s, s:s, s:I, s:I, s:{s:I, s:I}, s:f, s:o, s:o, s:o, s:i, s:i, s:i, s:I, s:I}",
      "schema", "weir.chat.v1", "turn", (json_int_t)x->all.answers - 1, "user",
      weir_json_text(user->data, user->len), "text", weir_json_text(answer->data, answer->len), "end",
      weir_end_name(x->end), "template", weir_chat_name(&x->talk.format), "prompt_tokens",
      (json_int_t)s->prompt_tokens, "tokens", (json_int_t)s->tokens, "by_tier", "small",
      (json_int_t)s->by_tier[0], "large", (json_int_t)s->by_tier[1], "deferral_rate",
      n > 0 ? (double)s->by_tier[1] / n : 0, "mean_entropy",
      weir_json_real(s->seen > 0 ? s->entropy / (double)s->seen : NAN), "prefix_hit", by_tier(x, s->hit),
      "fed", by_tier(x, s->fed), "context", x->talk.read.n, "context_size", x->n_ctx, "dropped", dropped,
      "first_token_us", (json_int_t)(s->first_ns / 1000), "total_us", (json_int_t)(s->ns / 1000));
}

weir_status weir_chat_answer(weir_chat *x, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_tokens prompt = {0};
  int32_t dropped = 0;
  const int32_t quarter = x->n_ctx / 4, reserve = x->max_new < quarter ? x->max_new : quarter;
  WEIR_TRY(weir_talk_prompt(&x->talk, x->n_ctx - (reserve > 1 ? reserve : 1), &prompt, &dropped, e));
  if (dropped > 0)
    weir_log(WEIR_LOG_WARN, "the context of %d tokens is full: the oldest %d messages are dropped", x->n_ctx,
             dropped);
  WEIR_TRY(generate(x, &prompt, e));
  weir_paint_end(&x->paint);
  WEIR_TRY(
      weir_talk_answered(&x->talk, &prompt, x->id, x->n, x->text.data ? x->text.data : "", x->text.len, e));
  weir_turn *answer = &x->talk.turn[x->talk.n_turns - 1];
  for (int32_t i = 0; i < 2; i++) answer->by_tier[i] = (int32_t)x->last.by_tier[i];
  add_sums(&x->all, &x->last);
  if (x->json) {
    weir_out_json(&x->out, answer_line(x, &answer[-1].text, &answer->text, dropped));
  } else {
    weir_out_printf(&x->out, "\n");
    weir_out_flush(&x->out);
    tell_answer(x);
  }
out:
  if (st != WEIR_OK && !x->json) weir_paint_end(&x->paint);
  weir_tokens_fini(&prompt);
  return st;
}

/* ---- settings ---- */

weir_status weir_chat_use_mode(weir_chat *x, weir_mode mode, weir_err *e) {
  static const uint32_t less[] = {~0u, WEIR_OPT_GATE | WEIR_OPT_THRESHOLD, 0};
  if (x->models.pair && x->models.n_tiers < 2) {
    const weir_mode only = x->models.large >= 0 ? WEIR_MODE_LARGE : WEIR_MODE_SMALL;
    if (mode != only)
      return weir_fail(e, WEIR_EINVAL, "mode %s needs a model that is not loaded", weir_mode_name(mode));
  }
  for (size_t i = 0; i < sizeof less / sizeof *less; i++) {
    weir_cascade_opts o = x->opts;
    o.mode = mode;
    o.set &= less[i];
    weir_cascade_cfg cfg;
    const weir_status st = weir_cascade_cfg_make(&o, &cfg, e);
    if (st != WEIR_OK) continue;
    x->opts.mode = mode;
    x->cascade = cfg;
    if (x->models.pair && x->models.n_tiers < 2) weir_cascade_cfg_single(&x->cascade);
    return WEIR_OK;
  }
  return e->code;
}

weir_status weir_chat_use_template(weir_chat *x, const char *name, weir_err *e) {
  return weir_template_named(name, &x->jinja, &x->talk.format, e);
}

static weir_status use_own_template(weir_chat *x, weir_err *e) {
  bool dated = false;
  const weir_status st = weir_template_own(x->models.pair, &x->talk.format, &dated, e);
  if (st != WEIR_OK || !dated) return st;
  const time_t now = time(NULL);
  struct tm tm;
  if (localtime_r(&now, &tm) && strftime(x->date, sizeof x->date, "%d %b %Y", &tm) > 0)
    x->talk.words.date = weir_str_of(x->date);
  return WEIR_OK;
}

static weir_status read_settings(weir_chat *x, weir_err *e) {
  weir_status st = WEIR_OK;
  int32_t n;
  weir_mode mode;
  weir_config_operands(x->c, &n);
  if (n > 0)
    return weir_fail(e, WEIR_EINVAL, "weir chat has no operands; what is said comes from standard input");
  WEIR_TRY(weir_find_models(x->c, &x->paths, e));
  WEIR_TRY(weir_setting_mode(x->c, &x->paths, &mode, e));
  WEIR_TRY(weir_setting_cascade(x->c, mode, &x->opts, e));
  WEIR_TRY(weir_span_list_read(&x->spans, x->c, e));
  WEIR_TRY(weir_setting_threshold(x->c, &x->opts, e));
  WEIR_TRY(weir_cascade_cfg_make(&x->opts, &x->cascade, e));
  const char *name = weir_config_string(x->c, "template");
  if (name) {
    st = weir_chat_use_template(x, name, e);
    if (st != WEIR_OK) WEIR_TRY(weir_fail_ctx(e, st, "--template"));
  }
  weir_setting_draw(x->c, &x->draw);
  x->max_new = (int32_t)weir_config_int(x->c, "max-tokens");
out:
  return st;
}

static weir_str spelling(const weir_tokenizer *tok, int32_t id) {
  return id >= 0 ? weir_token_bytes(tok, id) : (weir_str){0};
}

static weir_status open_engine(weir_chat *x, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_load(x->c, &x->paths, 1, &x->out, &x->models, e));
  weir_tokenizer *tok = weir_pair_tokenizer(x->models.pair);
  x->talk.tok = tok;
  x->talk.words.bos = spelling(tok, weir_tokenizer_bos(tok));
  x->talk.words.eos = spelling(tok, weir_tokenizer_eos(tok));
  if (x->models.n_tiers < 2) weir_cascade_cfg_single(&x->cascade);
  if (!weir_config_string(x->c, "template")) WEIR_TRY(use_own_template(x, e));
  const char *system = weir_config_string(x->c, "system");
  if (system) WEIR_TRY(weir_talk_set_system(&x->talk, system, strlen(system), e));
  weir_engine_cfg cfg = {.clock = weir_clock_system(),
                         .max_active = 1,
                         .dead_wait_ns = weir_config_int(x->c, "recovery-wait") * 1000000000};
  weir_pair_configure(x->models.pair, &cfg);
  x->n_ctx = INT32_MAX;
  for (int32_t t = 0; t < cfg.n_tiers; t++) {
    const weir_exec_info *info = &cfg.tier[t]->info;
    if (info->n_ctx < x->n_ctx) x->n_ctx = info->n_ctx;
    if (info->n_pages > cfg.prefix_pages)
      cfg.prefix_pages = info->n_pages; /* all there are: one conversation */
  }
  st = weir_engine_create(&cfg, &x->engine, e);
out:
  return st;
}

/* ---- the session ---- */

static void greet(const weir_chat *x) {
  if (x->quiet || !x->terminal.interactive) return;
  fprintf(stderr, "template %s, context %d tokens", weir_chat_name(&x->talk.format), x->n_ctx);
  if (x->models.n_tiers > 1) fprintf(stderr, ", mode %s", weir_mode_name(x->opts.mode));
  fprintf(stderr, "; /help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves\n");
  if (x->models.n_tiers > 1) weir_paint_legend(&x->paint);
}

static int answer(weir_chat *x) {
  weir_err e = {0};
  const weir_status st = weir_chat_answer(x, &e);
  const int sig = weir_interrupt_pending();
  weir_interrupt_reset();
  if (st != WEIR_OK) {
    weir_talk_drop_last(&x->talk); /* the question: it can be asked again */
    weir_tell(&e, 0);
    if (!x->terminal.interactive || st == WEIR_EDEVICE) return WEIR_EXIT_FAILED;
  }
  if (sig && (!x->terminal.interactive || sig != WEIR_EXIT_INTERRUPTED - 128)) return 128 + sig;
  return WEIR_EXIT_OK;
}

static int converse(weir_chat *x) {
  int status = WEIR_EXIT_OK;
  weir_buf line = {0};
  while (status == WEIR_EXIT_OK && !x->out.gone && !x->out.failed) {
    weir_err e = {0};
    bool end;
    size_t skip;
    if (weir_terminal_read(&x->terminal, "> ", &line, &end, &e) != WEIR_OK) {
      status = weir_tell(&e, WEIR_EXIT_FAILED);
      break;
    }
    if (end) break;
    if (line.len == 0) continue;
    const weir_said said = weir_chat_command(x, line.data, &skip);
    if (said == WEIR_SAID_QUIT) break;
    if (said == WEIR_SAID_COMMAND) continue;
    if (said == WEIR_SAID_TEXT &&
        weir_talk_add(&x->talk, WEIR_CHAT_USER, line.data + skip, line.len - skip, &e) != WEIR_OK)
      status = weir_tell(&e, WEIR_EXIT_FAILED);
    else
      status = answer(x);
  }
  if (x->terminal.interactive && status == WEIR_EXIT_OK && !x->out.gone) weir_out_printf(&x->out, "\n");
  weir_buf_fini(&line);
  return status;
}

int weir_main_chat(const weir_config *c) {
  weir_chat x = {.c = c, .json = weir_config_bool(c, "json"), .quiet = weir_config_bool(c, "quiet")};
  weir_err e = {0};
  int status;
  x.models.large = -1;
  weir_out_init(&x.out, c);
  if (read_settings(&x, &e) != WEIR_OK) {
    status = e.code == WEIR_EINVAL ? weir_tell_usage("chat", &e) : weir_tell(&e, WEIR_EXIT_FAILED);
  } else if (open_engine(&x, &e) != WEIR_OK) {
    status = weir_tell(&e, WEIR_EXIT_FAILED);
  } else {
    weir_terminal_open(&x.terminal);
    weir_paint_init(&x.paint, &x.out, weir_config_string(c, "show"));
    greet(&x);
    status = converse(&x);
    weir_terminal_close(&x.terminal);
  }
  if (!weir_out_end(&x.out)) status = weir_tell(&x.out.err, WEIR_EXIT_FAILED);
  weir_talk_fini(&x.talk);
  weir_span_list_fini(&x.spans);
  weir_engine_destroy(x.engine);
  weir_loaded_close(&x.models);
  weir_buf_fini(&x.jinja);
  weir_buf_fini(&x.text);
  free(x.id);
  return status;
}
