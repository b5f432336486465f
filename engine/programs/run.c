/* SPDX-License-Identifier: Apache-2.0 */
/* `weir run`: prompts in, text out as it is committed, a summary on standard error. Several prompts run side
 * by side; their texts come in order: the first unfinished one is streamed, those behind it wait in memory.
 * Main thread. */
#include <errno.h>
#include <jansson.h>
#include <libgen.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "programs/answer.h"
#include "programs/interrupt.h"
#include "programs/load.h"
#include "programs/options.h"
#include "programs/out.h"
#include "programs/paint.h"
#include "programs/prompts.h"
#include "programs/receipts.h"
#include "programs/setting.h"
#include "programs/spans.h"

typedef struct run {
  const weir_config *c;
  weir_out out;
  weir_paint paint;
  weir_texts prompts, stops, choices;
  const char **stop, **choice; /* [stops.n], [choices.n], owned; what they point to is not */
  weir_span_list spans;
  weir_model_paths paths;
  weir_cascade_opts opts;
  weir_loaded models;
  weir_answers answers;
  weir_answers_how how;
  int32_t head;  /* the answer that is streamed */
  int32_t shown; /* tokens of it that were shown */
  bool json, quiet;
} run;

/* ---- streaming ---- */

static void begin_text(const run *r) {
  if (r->quiet || r->prompts.n < 2) return;
  const weir_buf *p = &r->prompts.text[r->head];
  size_t len = strcspn(p->data, "\n");
  if (len > 90)
    for (len = 90; len > 0 && ((unsigned char)p->data[len] & 0xc0) == 0x80;) len--; /* whole characters */
  fprintf(stderr, "%s[%d/%d] ", r->head ? "\n" : "", r->head + 1, r->prompts.n);
  for (size_t i = 0; i < len; i++) fputc((unsigned char)p->data[i] < 0x20 ? ' ' : p->data[i], stderr);
  fprintf(stderr, "%s\n", len < p->len ? " ..." : "");
}

static void show_new_tokens(run *r) {
  const weir_answer *x = &r->answers.one[r->head];
  if (r->shown == x->n) return;
  if (r->shown == 0) begin_text(r);
  for (; r->shown < x->n; r->shown++) {
    const size_t from = r->shown ? x->token[r->shown - 1].text_end : 0;
    const weir_token_receipt *t = &x->token[r->shown].receipt;
    weir_paint_token(&r->paint, x->text.data + from, x->token[r->shown].text_end - from,
                     r->models.n_tiers > 1 && t->tier == r->models.large, t->entropy);
  }
  weir_out_flush(&r->out);
  if (r->out.gone || r->out.failed) r->answers.give_up = true; /* nobody reads what is still to come */
}

static void end_text(run *r) {
  const weir_answer *x = &r->answers.one[r->head];
  if (x->n == 0) begin_text(r);
  weir_paint_end(&r->paint);
  if (x->text.len == 0 || x->text.data[x->text.len - 1] != '\n') weir_out_write(&r->out, "\n", 1);
  weir_out_flush(&r->out);
  if (x->end == WEIR_END_ERROR) fprintf(stderr, "weir: error: prompt %d: %s\n", r->head + 1, x->err.msg);
}

static void on_token(void *ctx, int32_t i) {
  run *r = ctx;
  if (i == r->head) show_new_tokens(r);
}

static void on_done(void *ctx, int32_t i) {
  run *r = ctx;
  (void)i;
  while (r->head < r->answers.n && r->answers.one[r->head].done) {
    show_new_tokens(r);
    end_text(r);
    r->head++;
    r->shown = 0;
  }
  if (r->head < r->answers.n) show_new_tokens(r); /* what had waited in memory */
}

/* ---- JSON ---- */

static json_t *by_tier(const run *r, const int64_t *count) {
  json_t *o = json_object();
  for (int32_t t = 0; o && t < r->models.n_tiers; t++)
    json_object_set_new(o, r->models.tier_name[t], json_integer(count[t]));
  return o;
}

static json_t *ids_of(const weir_answer *x) {
  json_t *a = json_array();
  for (int32_t k = 0; a && k < x->n; k++) json_array_append_new(a, json_integer(x->token[k].receipt.id));
  return a;
}

static json_t *cost_of(const run *r, const weir_cost *c) {
  json_t *o = json_object();
  for (int32_t t = 0; o && t < r->models.n_tiers && t < WEIR_COST_TIERS; t++) {
    const weir_tier_cost *x = &c->tier[t];
    json_object_set_new(
        o, r->models.tier_name[t],
        json_pack("{s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:I, s:I, s:I}", "flops", weir_cost_flops(x),
                  "taken_back_flops", x->taken_back_flops, "weight_bytes", x->weight_bytes, "kv_bytes_written",
                  x->kv_bytes_written, "kv_bytes_peak", x->kv_bytes_peak, "prompt_rows",
                  (json_int_t)x->rows[WEIR_ROW_PROMPT], "catchup_rows", (json_int_t)x->rows[WEIR_ROW_CATCHUP],
                  "judged_rows", (json_int_t)x->rows[WEIR_ROW_JUDGED], "decode_rows",
                  (json_int_t)x->rows[WEIR_ROW_DECODE], "taken_back_rows", (json_int_t)x->taken_back));
  }
  if (o && r->models.n_tiers > 1)
    json_object_set_new(o, "large_only",
                        json_pack("{s:f, s:f}", "flops", c->large_only_flops, "weight_bytes",
                                  c->large_only_weight_bytes));
  return o;
}

static json_t *answer_line(const run *r, int32_t i) {
  weir_answer *x = &r->answers.one[i];
  const weir_answers alone = {.one = x, .n = 1, .wall_ns = x->total_ns - x->queued_ns};
  const weir_totals s = weir_answers_totals(&alone, &r->models);
  const weir_buf *p = &r->prompts.text[i];
  json_t *o = json_pack("{s:s, s:i, s:o, s:o, s:o, s:s, s:s?, s:i, s:i, s:o, s:f, s:I, s:I, s:o, s:I, s:I, s:I, s:s?, s:o}",
                   "schema", "weir.run.v1", "request", i, "prompt", weir_json_text(p->data, p->len), "text",
                   weir_json_text(x->text.data, x->text.len), "ids", ids_of(x), "end", weir_end_name(x->end),
                   "error", x->end == WEIR_END_ERROR ? x->err.msg : NULL, "prompt_tokens", x->prompt.n,
                   "tokens", x->n, "by_tier", by_tier(r, s.by_tier), "deferral_rate", s.deferral_rate,
                   "wanted_up", (json_int_t)s.wanted_up, "forced", (json_int_t)s.forced, "mean_entropy",
                   weir_json_real(s.mean_entropy),
                   "queued_us", (json_int_t)(x->queued_ns / 1000), "first_token_us",
                   (json_int_t)(x->first_token_ns / 1000), "total_us", (json_int_t)(x->total_ns / 1000), "routed",
                   r->how.cascade.route.on ? weir_routed_name(x->counts.route.to) : NULL, "route_score",
                   weir_json_real(weir_route_score(&x->counts.route)));
  if (o) json_object_set_new(o, "cost", cost_of(r, &x->counts.cost));
  return o;
}

static json_t *summary_line(const run *r, const weir_totals *s) {
  json_t *o = json_pack(
      "{s:s, s:i, s:I, s:I, s:o, s:f, s:I, s:I, s:o, s:f, s:f, s:I, s:o, s:o, s:o, s:I, s:s, s:i, s:s}", /**/
      "schema", "weir.run.summary.v1", "requests", r->answers.n, "prompt_tokens",
      (json_int_t)s->prompt_tokens, "tokens", (json_int_t)s->tokens, "by_tier", by_tier(r, s->by_tier),
      "deferral_rate", s->deferral_rate, "wanted_up", (json_int_t)s->wanted_up, "forced",
      (json_int_t)s->forced, "mean_entropy",
      weir_json_real(s->mean_entropy), "tok_s", s->tokens_per_s, "seconds", 1e-9 * (double)r->answers.wall_ns,
      "first_token_us", (json_int_t)(s->median_first_ns / 1000), "steps", by_tier(r, s->steps), "fed",
      by_tier(r, s->fed), "prefix_hit", by_tier(r, s->prefix_hit), "refused", (json_int_t)s->refused, "isa",
      weir_pair_isa(r->models.pair), "threads", weir_pair_n_threads(r->models.pair), "device",
      weir_pair_devices(r->models.pair));
  if (o) json_object_set_new(o, "cost", cost_of(r, &r->answers.stats.cost));
  return o;
}

/* ---- the summary for people ---- */

static void print_stats(const run *r) {
  int64_t hits = 0, preempted = 0;
  for (int32_t t = 0; t < r->models.n_tiers; t++) {
    const weir_tier_stats *g = &r->answers.stats.tier[t];
    const double busy = 1e-9 * (double)g->busy_ns;
    fprintf(stderr, "  %s: %lld steps, %lld rows, %.1f rows a step, busy %.3f s%s\n", r->models.tier_name[t],
            (long long)g->steps, (long long)g->rows, g->steps ? (double)g->rows / (double)g->steps : 0.0,
            busy, g->dead ? ", dead" : "");
    hits += g->prefix_hit_tokens;
    preempted += g->preempted;
  }
  const weir_cost *c = &r->answers.stats.cost;
  for (int32_t t = 0; t < r->models.n_tiers && t < WEIR_COST_TIERS; t++)
    fprintf(stderr, "  %s: %.3g GFLOP, %.3g GB of weights, %.3g MB of KV written, %lld rows taken back\n",
            r->models.tier_name[t], 1e-9 * weir_cost_flops(&c->tier[t]), 1e-9 * c->tier[t].weight_bytes,
            1e-6 * c->tier[t].kv_bytes_written, (long long)c->tier[t].taken_back);
  if (r->models.n_tiers > 1)
    fprintf(stderr, "  the large model alone: %.3g GFLOP, %.3g GB of weights\n", 1e-9 * c->large_only_flops,
            1e-9 * c->large_only_weight_bytes);
  fprintf(stderr, "  prefix hits %lld tokens, preempted %lld; %s\n", (long long)hits, (long long)preempted,
          weir_pair_devices(r->models.pair));
}

static void print_summary(const run *r, const weir_totals *s) {
  fprintf(stderr, "%d %s, %lld tokens in %.2f s: %.1f tok/s, first token after %.0f ms\n", r->answers.n,
          r->answers.n == 1 ? "prompt" : "prompts", (long long)s->tokens, 1e-9 * (double)r->answers.wall_ns,
          s->tokens_per_s, 1e-6 * (double)s->median_first_ns);
  if (r->models.n_tiers > 1) {
    fprintf(stderr, "mode %s", weir_mode_name(r->opts.mode));
    const weir_gate g = r->how.cascade.gate[0];
    const weir_budget *b = &r->how.cascade.budget;
    if (b->rated)
      fprintf(stderr, ", gate %s at rate %g, tau %.3f at the end", weir_gate_name(g.kind), (double)b->rate,
              (double)r->answers.stats.budget.tau);
    else if (isfinite(g.threshold))
      fprintf(stderr, ", gate %s %g", weir_gate_name(g.kind), (double)g.threshold);
    fprintf(stderr, ": small %lld, large %lld tokens, deferral rate %.3f", (long long)s->by_tier[0],
            (long long)s->large_tokens, s->deferral_rate);
    if (!isnan(s->mean_entropy)) fprintf(stderr, ", mean entropy %.3f nats", s->mean_entropy);
    if (s->forced) fprintf(stderr, ", forced %lld", (long long)s->forced);
    if (s->refused) fprintf(stderr, ", taken back %lld", (long long)s->refused);
    if (s->wanted_up) fprintf(stderr, ", wanted the large model %lld", (long long)s->wanted_up);
    fprintf(stderr, "\nlarge model: %lld rows fed, %lld of them prompt, in %lld passes\n",
            (long long)s->fed[r->models.large], (long long)s->large_prompt,
            (long long)s->steps[r->models.large]);
  }
  if (weir_config_bool(r->c, "stats")) print_stats(r);
  weir_paint_legend(&r->paint);
}

/* ---- the command ---- */

/* The texts of an option that takes several. */
static weir_status read_texts(const weir_config *c, const char *option, weir_texts *own, const char ***out,
                              weir_err *e) {
  weir_status st = WEIR_OK;
  int32_t n;
  const char *const *text = weir_config_strings(c, option, &n);
  for (int32_t i = 0; i < n; i++) {
    if (!text[i][0]) return weir_fail(e, WEIR_EINVAL, "--%s: the text is empty", option);
    WEIR_TRY(weir_texts_add(own, text[i], strlen(text[i]), weir_config_bool(c, "escape"), e));
  }
  WEIR_TRY(WEIR_NEW((size_t)n, out, e));
  for (int32_t i = 0; i < n; i++) (*out)[i] = own->text[i].data;
out:
  return st;
}

static weir_status read_input(run *r, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_mode mode;
  WEIR_TRY(weir_find_models(r->c, &r->paths, e));
  WEIR_TRY(weir_setting_mode(r->c, &r->paths, &mode, e));
  WEIR_TRY(weir_setting_cascade(r->c, mode, &r->opts, e));
  WEIR_TRY(weir_setting_threshold(r->c, &r->opts, e));
  WEIR_TRY(weir_cascade_cfg_make(&r->opts, &r->how.cascade, e)); /* refuses before anything is loaded */
  WEIR_TRY(read_texts(r->c, "stop", &r->stops, &r->stop, e));
  WEIR_TRY(read_texts(r->c, "choices", &r->choices, &r->choice, e));
  WEIR_TRY(weir_span_list_read(&r->spans, r->c, e));
  st = weir_read_prompts(r->c, &r->prompts, e);
out:
  return st;
}

static weir_status encode(run *r, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_tokenizer *tok = weir_pair_tokenizer(r->models.pair);
  WEIR_TRY(weir_answers_init(&r->answers, r->prompts.n, e));
  for (int32_t i = 0; i < r->prompts.n; i++) {
    const weir_buf *p = &r->prompts.text[i];
    WEIR_TRY(weir_encode_prompt(tok, p->data, p->len, r->how.show_special, &r->answers.one[i].prompt, e));
  }
out:
  return st;
}

static weir_status load_and_run(run *r, weir_err *e) {
  weir_status st = WEIR_OK;
  const int32_t batch = (int32_t)weir_config_int(r->c, "batch");
  const weir_cascade_cfg cascade = r->how.cascade;
  WEIR_TRY(weir_load(r->c, &r->paths, batch < r->prompts.n ? batch : r->prompts.n, &r->out, &r->models, e));
  weir_answers_how_init(&r->how, r->c, &r->models);
  r->how.cascade = cascade;
  if (r->models.n_tiers < 2) weir_cascade_cfg_single(&r->how.cascade);
  r->how.auto_ = r->opts.mode == WEIR_MODE_AUTO;
  r->how.quality = r->opts.quality;
  weir_setting_draw(r->c, &r->how.draw);
  r->how.ignore_eos = weir_config_bool(r->c, "ignore-eos");
  r->how.log_decisions = weir_config_string(r->c, "receipts") != NULL;
  r->how.stop = r->stop;
  r->how.n_stop = r->stops.n;
  r->how.choices = r->choice;
  r->how.n_choices = r->choices.n;
  r->how.span = r->spans.span;
  r->how.n_spans = r->spans.n;
  WEIR_TRY(encode(r, e));
  weir_paint_init(&r->paint, &r->out, weir_config_string(r->c, "show"));
  r->answers.ctx = r;
  if (!r->json) {
    r->answers.on_token = on_token;
    r->answers.on_done = on_done;
  }
  weir_interrupt_init();
  st = weir_answers_run(&r->answers, &r->how, e);
out:
  return st;
}

static weir_status write_receipts(const run *r, FILE *f, const char *path, weir_err *e) {
  weir_status st = WEIR_OK;
  for (int32_t i = 0; i < r->answers.n; i++)
    WEIR_TRY(weir_receipts_write(f, path, i, &r->answers.one[i], &r->how.cascade, &r->models, e));
out:
  return st;
}

static int report(run *r) {
  int status = WEIR_EXIT_OK;
  const weir_totals s = weir_answers_totals(&r->answers, &r->models);
  for (int32_t i = 0; i < r->answers.n; i++) {
    if (r->json) weir_out_json(&r->out, answer_line(r, i));
    if (r->answers.one[i].end == WEIR_END_ERROR) status = WEIR_EXIT_FAILED;
  }
  if (r->json) weir_out_json(&r->out, summary_line(r, &s));
  if (!r->quiet && !r->out.gone) print_summary(r, &s);
  return status;
}

static bool same_file(const struct stat *a, const char *path) {
  struct stat b;
  return path[0] && stat(path, &b) == 0 && a->st_dev == b.st_dev && a->st_ino == b.st_ino;
}

/* Receipts replace what is there; a model must not be that. */
static weir_status check_receipts(const weir_model_paths *models, const char *path, weir_err *e) {
  struct stat is, dir;
  char first[4] = {0}, folder[WEIR_PATH_BYTES];
  if (stat(path, &is) != 0 || !S_ISREG(is.st_mode)) return WEIR_OK;
  bool model = same_file(&is, models->small) || same_file(&is, models->large);
  if (strlen(path) < sizeof folder) { /* a file of a model that is a directory */
    strcpy(folder, path);
    if (stat(dirname(folder), &dir) == 0)
      model = model || same_file(&dir, models->small) || same_file(&dir, models->large);
  }
  FILE *f = model ? NULL : fopen(path, "rb"); /* the other parts of a model in several files; any model */
  if (f) {
    model = fread(first, 1, sizeof first, f) == sizeof first && !memcmp(first, "GGUF", sizeof first);
    fclose(f);
  }
  if (model) return weir_fail(e, WEIR_EINVAL, "--receipts: %s is a model; it was left as it is", path);
  return WEIR_OK;
}

int weir_main_run(const weir_config *c) {
  run r = {.c = c, .json = weir_config_bool(c, "json"), .quiet = weir_config_bool(c, "quiet")};
  weir_err e = {0};
  FILE *receipts = NULL;
  int status = WEIR_EXIT_OK;
  const char *path = weir_config_string(c, "receipts");
  weir_out_init(&r.out, c);
  if (read_input(&r, &e) != WEIR_OK) {
    status = e.code == WEIR_EINVAL ? weir_tell_usage("run", &e) : weir_tell(&e, WEIR_EXIT_FAILED);
    goto out;
  }
  if (path && check_receipts(&r.paths, path, &e) != WEIR_OK) {
    status = weir_tell_usage("run", &e);
    goto out;
  }
  if (path && !(receipts = fopen(path, "w"))) {
    weir_fail(&e, WEIR_EIO, "%s: %s", path, strerror(errno));
    status = weir_tell(&e, WEIR_EXIT_FAILED);
    goto out;
  }
  if (load_and_run(&r, &e) != WEIR_OK) {
    status = weir_tell(&e, WEIR_EXIT_FAILED);
    goto out;
  }
  status = report(&r);
  if (receipts && write_receipts(&r, receipts, path, &e) != WEIR_OK) status = weir_tell(&e, WEIR_EXIT_FAILED);
  if (weir_interrupt_pending()) status = 128 + weir_interrupt_pending();
out:
  if (receipts && fclose(receipts) != 0 && status == WEIR_EXIT_OK) {
    weir_fail(&e, WEIR_EIO, "%s: %s", path, strerror(errno));
    status = weir_tell(&e, WEIR_EXIT_FAILED);
  }
  if (!weir_out_end(&r.out)) status = weir_tell(&r.out.err, WEIR_EXIT_FAILED);
  weir_answers_fini(&r.answers);
  weir_loaded_close(&r.models);
  weir_texts_fini(&r.prompts);
  weir_texts_fini(&r.stops);
  weir_texts_fini(&r.choices);
  weir_span_list_fini(&r.spans);
  free((void *)r.stop);
  free((void *)r.choice);
  return status;
}
