/* SPDX-License-Identifier: Apache-2.0 */
/* `weir perplexity`: reads a text, measures one model or two beside each other, prints a table or JSON. Main
 * thread. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "programs/interrupt.h"
#include "programs/load.h"
#include "programs/options.h"
#include "programs/out.h"
#include "programs/perplexity.h"
#include "programs/prompts.h"

enum { DEFAULT_CTX = 512, MIN_CTX = 4 };

typedef struct perplexing {
  const weir_config *c;
  weir_out out;
  weir_model_paths paths;
  weir_loaded models;
  const char *file; /* "-": standard input */
  weir_buf text;
  weir_tokens ids;
  weir_ppl_opts o;
  weir_clock clock;
  int64_t start_ns, wall_ns;
  bool quiet, shown;
} perplexing;

static weir_status read_input(perplexing *x, weir_err *e) {
  weir_status st = WEIR_OK;
  int32_t n;
  const char *const *files = weir_config_operands(x->c, &n);
  if (n > 1) return weir_fail(e, WEIR_EINVAL, "%d texts are given, want one", n);
  x->o.n_ctx = (int32_t)weir_config_int(x->c, "ctx");
  if (x->o.n_ctx == 0) x->o.n_ctx = DEFAULT_CTX; /* a file may say so for the other commands */
  x->o.stride = (int32_t)weir_config_int(x->c, "stride");
  x->o.tau = (float)weir_config_float(x->c, "entropy");
  if (x->o.n_ctx < MIN_CTX)
    return weir_fail(e, WEIR_EINVAL, "--ctx %d is too short, want at least %d", x->o.n_ctx, MIN_CTX);
  if (x->o.stride > x->o.n_ctx)
    return weir_fail(e, WEIR_EINVAL, "--stride %d is more than the window of %d tokens (--ctx)", x->o.stride,
                     x->o.n_ctx);
  x->file = n > 0 ? files[0] : "-";
  WEIR_TRY(weir_find_models(x->c, &x->paths, e));
  WEIR_TRY(weir_read_file(x->file, &x->text, e));
out:
  return st;
}

static const char *file_name(const perplexing *x) {
  return strcmp(x->file, "-") ? x->file : "standard input";
}

static weir_status encode(perplexing *x, weir_err *e) {
  const int64_t limit = weir_config_int(x->c, "limit");
  const weir_status st = weir_encode_prompt(weir_pair_tokenizer(x->models.pair), x->text.data, x->text.len,
                                            weir_config_bool(x->c, "special"), &x->ids, e);
  if (st != WEIR_OK) return weir_fail_ctx(e, st, "%s", file_name(x));
  if (limit > 0 && x->ids.n > limit) x->ids.n = (int32_t)limit;
  return WEIR_OK;
}

static bool show_progress(void *ctx, int64_t done, int64_t total, const double *ppl) {
  perplexing *x = ctx;
  if (x->out.terminal_err && !x->quiet) {
    const double s = 1e-9 * (double)(weir_now_ns(&x->clock) - x->start_ns);
    fprintf(stderr, "\r\033[K%lld/%lld windows, perplexity", (long long)done, (long long)total);
    for (int32_t t = 0; t < x->models.n_tiers; t++) fprintf(stderr, " %.4f", ppl[t]);
    fprintf(stderr, ", %.0f s to go", s * (double)(total - done) / (double)done);
    fflush(stderr);
    x->shown = true;
  }
  return weir_interrupt_pending() == 0;
}

static weir_status measure(perplexing *x, weir_ppl *p, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_exec *exec[WEIR_MAX_TIERS];
  /* several short windows share a step */
  const int32_t windows = WEIR_PAIR_DEFAULT_TOKENS / x->o.n_ctx;
  WEIR_TRY(weir_load(x->c, &x->paths, windows < 1 ? 1 : windows < 32 ? windows : 32, &x->out, &x->models, e));
  for (int32_t t = 0; t < x->models.n_tiers; t++) {
    exec[t] = weir_pair_exec(x->models.pair, t);
    if (exec[t]->info.n_ctx < x->o.n_ctx) x->o.n_ctx = exec[t]->info.n_ctx; /* which the pair has told */
  }
  if (x->o.stride > x->o.n_ctx) x->o.stride = x->o.n_ctx;
  WEIR_TRY(encode(x, e));
  x->o.progress = show_progress;
  x->o.progress_ctx = x;
  weir_interrupt_init();
  x->start_ns = weir_now_ns(&x->clock);
  st = weir_perplexity(exec, x->models.n_tiers, weir_pair_tokenizer(x->models.pair), &x->ids, &x->o, p, e);
  x->wall_ns = weir_now_ns(&x->clock) - x->start_ns;
  if (x->shown) fprintf(stderr, "\r\033[K");
  if (st != WEIR_OK) weir_fail_ctx(e, st, "%s", file_name(x));
out:
  return st;
}

/* ---- reports ---- */

static double tok_s(const weir_ppl_tier *t) {
  return t->device_ns > 0 ? 1e9 * (double)t->fed / (double)t->device_ns : 0;
}

static void print_tier(perplexing *x, const char *name, const weir_ppl_tier *t) {
  weir_out_printf(&x->out, "%-8s %12.4f %9.4f %9.5f %9.5f %9.4f %9.4f %9.4f %10.4f %9.0f\n", name, t->ppl,
                  t->ppl_error, t->nll, t->nll_error, t->bits_per_byte, t->accuracy, t->entropy, t->above_tau,
                  tok_s(t));
}

static void print_table(perplexing *x, const weir_ppl *p) {
  weir_out_printf(&x->out, "%-8s %12s %9s %9s %9s %9s %9s %9s %10s %9s\n", "model", "perplexity", "+-", "nll",
                  "+-", "bits/byte", "top-1", "entropy", "H > tau", "tok/s");
  for (int32_t t = 0; t < p->n_tiers; t++) print_tier(x, x->models.tier_name[t], &p->tier[t]);
  if (p->n_tiers < 2) return;
  const weir_ppl_pair *q = &p->pair;
  weir_out_printf(&x->out, "%-8s %12.4f %9s %9.5f %9s %9.4f\n", "cascade", q->ppl, "", q->nll, "",
                  q->bits_per_byte);
  weir_out_printf(&x->out, "\nthe same likeliest token: %.4f of all", q->top1);
  if (!isnan(q->top1_below)) weir_out_printf(&x->out, ", %.4f of those the gate lets pass", q->top1_below);
  weir_out_printf(&x->out, "\nthe small model gives the text's token more: %.4f\n", q->small_better);
}

static void print_summary(const perplexing *x, const weir_ppl *p) {
  fprintf(stderr, "%s: %lld tokens, %lld windows of %d", file_name(x), (long long)p->n_tokens,
          (long long)p->n_windows, x->o.n_ctx);
  if (x->o.stride > 0)
    fprintf(stderr, ", %d apart", x->o.stride);
  else
    fprintf(stderr, ", their second halves");
  fprintf(stderr, ": %lld tokens scored in %.2f s; tau %g nats; %s\n", (long long)p->n_scored,
          1e-9 * (double)x->wall_ns, (double)x->o.tau, weir_pair_devices(x->models.pair));
}

static json_t *json_tier(const perplexing *x, int32_t t, const weir_ppl_tier *m) {
  return json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "name",
                   weir_pair_exec(x->models.pair, t)->info.name, "perplexity", weir_json_real(m->ppl),
                   "perplexity_error", weir_json_real(m->ppl_error), "nll", weir_json_real(m->nll),
                   "nll_error", weir_json_real(m->nll_error), "bits_per_byte",
                   weir_json_real(m->bits_per_byte), "top1", weir_json_real(m->accuracy), "entropy",
                   weir_json_real(m->entropy), "above_tau", weir_json_real(m->above_tau), "tok_s",
                   weir_json_real(tok_s(m)));
}

static json_t *json_line(const perplexing *x, const weir_ppl *p) {
  json_t *tiers = json_object();
  for (int32_t t = 0; tiers && t < p->n_tiers; t++)
    json_object_set_new(tiers, x->models.tier_name[t], json_tier(x, t, &p->tier[t]));
  json_t *o = json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:i, s:i, s:o, s:f, s:s, s:i, s:o}", /**/
                        "schema", "weir.perplexity.v1", "file", file_name(x), "tokens",
                        (json_int_t)p->n_tokens, "windows", (json_int_t)p->n_windows, "scored",
                        (json_int_t)p->n_scored, "bytes", (json_int_t)p->n_bytes, "ctx", x->o.n_ctx, "stride",
                        x->o.stride, "tau", weir_json_real((double)x->o.tau), "seconds",
                        1e-9 * (double)x->wall_ns, "isa", weir_pair_isa(x->models.pair), "threads",
                        weir_pair_n_threads(x->models.pair), "models", tiers);
  if (!o || p->n_tiers < 2) return o;
  const weir_ppl_pair *q = &p->pair;
  json_object_set_new(
      o, "pair",
      json_pack("{s:o, s:o, s:o}", "same_top1", weir_json_real(q->top1), "same_top1_below_tau",
                weir_json_real(q->top1_below), "small_better", weir_json_real(q->small_better)));
  json_object_set_new(o, "cascade",
                      json_pack("{s:o, s:o, s:o, s:o}", "perplexity", weir_json_real(q->ppl), "nll",
                                weir_json_real(q->nll), "bits_per_byte", weir_json_real(q->bits_per_byte),
                                "deferral_rate", weir_json_real(p->tier[0].above_tau)));
  return o;
}

int weir_main_perplexity(const weir_config *c) {
  perplexing x = {.c = c, .clock = weir_clock_system(), .quiet = weir_config_bool(c, "quiet")};
  weir_ppl p;
  weir_err e = {0};
  int status = WEIR_EXIT_OK;
  weir_out_init(&x.out, c);
  if (read_input(&x, &e) != WEIR_OK) {
    status = e.code == WEIR_EINVAL ? weir_tell_usage("perplexity", &e) : weir_tell(&e, WEIR_EXIT_FAILED);
  } else if (measure(&x, &p, &e) != WEIR_OK) {
    const int sig = weir_interrupt_pending();
    status = weir_tell(&e, sig ? 128 + sig : WEIR_EXIT_FAILED);
  } else {
    if (weir_config_bool(c, "json"))
      weir_out_json(&x.out, json_line(&x, &p));
    else
      print_table(&x, &p);
    weir_out_flush(&x.out);
    if (!x.quiet && !x.out.gone) print_summary(&x, &p);
  }
  if (!weir_out_end(&x.out)) status = weir_tell(&x.out.err, WEIR_EXIT_FAILED);
  weir_loaded_close(&x.models);
  weir_tokens_fini(&x.ids);
  weir_buf_fini(&x.text);
  return status;
}
