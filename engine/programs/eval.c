/* SPDX-License-Identifier: Apache-2.0 */
/* `weir eval`: the same tasks through the small model, the large model and every setting of the cascade.
 * Every setting has its own engine over the same loaded models, the same number of tasks under way and an
 * empty prefix cache, and is timed as a whole by the wall clock, so that rows can be compared. Main thread.
 */
#include "programs/eval.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "programs/interrupt.h"
#include "programs/load.h"
#include "programs/options.h"
#include "programs/prompts.h"
#include "programs/setting.h"
#include "programs/spans.h"
#include "programs/tasks.h"

typedef struct evaluation {
  const weir_config *c;
  weir_span_list spans;
  weir_out out;
  weir_tasks tasks;
  weir_model_paths paths;
  weir_eval_plan plan;
  weir_loaded models;
  weir_answers answers;
  weir_eval v;
  int32_t n_rows; /* that there will be */
  int32_t n_done; /* tasks of the setting under way */
  FILE *log;      /* --answers */
  const char *log_path;
  bool quiet;
} evaluation;

/* ---- progress, on standard error ---- */

static void row_name(const weir_eval_row *r, char *buf, size_t bytes) {
  snprintf(buf, bytes, "%s%s%s", weir_mode_name(r->setting.opts.mode), r->text[0] ? " " : "", r->text);
}

static void show_progress(const evaluation *x, bool end) {
  if (x->quiet || (!x->out.terminal_err && !end)) return;
  const weir_eval_row *r = &x->v.row[x->v.n];
  char name[WEIR_EVAL_NAME_BYTES + 32];
  row_name(r, name, sizeof name);
  if (x->out.terminal_err) fprintf(stderr, "\r\033[K");
  fprintf(stderr, "[%d/%d] %s: ", x->v.n + 1, x->n_rows, name);
  if (end)
    fprintf(stderr, "exact match %.3f, deferral rate %.3f, %.1f tok/s, %.1f s\n", r->exact, r->deferral_rate,
            r->tok_s, r->seconds);
  else
    fprintf(stderr, "%d of %d tasks", x->n_done, x->tasks.n);
  fflush(stderr);
}

static void on_done(void *ctx, int32_t i) {
  evaluation *x = ctx;
  (void)i;
  x->n_done++;
  if (x->v.n < x->n_rows) show_progress(x, false);
}

/* ---- one setting ---- */

static weir_status log_answer(const evaluation *x, int32_t i, const weir_buf *found, bool right,
                              weir_err *e) {
  const weir_eval_row *r = &x->v.row[x->v.n];
  const weir_answer *a = &x->answers.one[i];
  char name[WEIR_EVAL_NAME_BYTES + 32];
  row_name(r, name, sizeof name);
  if (!x->log) return WEIR_OK;
  return weir_json_line(
      x->log, x->log_path,
      json_pack("{s:s, s:s, s:i, s:o, s:s, s:o, s:b, s:i, s:s, s:s, s:o}", "schema", "weir.eval.answer.v1", "setting",
                name, "task", i, "text", weir_json_text(a->text.data, a->text.len), "answer",
                x->tasks.task[i].answer, "found", weir_json_text(found->data, found->len), "right",
                (int)right, "tokens", a->n, "end", weir_end_name(a->end), "routed", weir_routed_name(a->counts.route.to),
                "score", weir_json_real(weir_route_score(&a->counts.route))),
      e);
}

static int by_value(const void *p, const void *q) {
  const double a = *(const double *)p, b = *(const double *)q;
  return (a > b) - (a < b);
}

/* Medians over tasks of the time from being taken up to the first text and to the end. */
static weir_status latencies(const weir_answers *a, weir_eval_row *r, weir_err *e) {
  double *ms = NULL;
  const weir_status st = WEIR_NEW((size_t)a->n, &ms, e);
  if (st != WEIR_OK) return st;
  int32_t n = 0;
  for (int32_t i = 0; i < a->n; i++)
    if (a->one[i].n > 0) ms[n++] = 1e-6 * (double)(a->one[i].first_token_ns - a->one[i].queued_ns);
  qsort(ms, (size_t)n, sizeof *ms, by_value);
  r->first_ms = n > 0 ? ms[n / 2] : 0;
  for (int32_t i = 0; i < a->n; i++) ms[i] = 1e-6 * (double)(a->one[i].total_ns - a->one[i].queued_ns);
  qsort(ms, (size_t)a->n, sizeof *ms, by_value);
  r->total_ms = ms[a->n / 2];
  free(ms);
  return WEIR_OK;
}

static weir_status score(evaluation *x, weir_eval_row *r, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_buf found = {0};
  for (int32_t i = 0; i < x->tasks.n; i++) {
    const weir_answer *a = &x->answers.one[i];
    WEIR_TRY(weir_task_find(&x->tasks, i, a->text.data ? a->text.data : "", a->text.len, &found, e));
    const bool right = !strcmp(found.data, x->tasks.task[i].answer);
    r->n_right += right;
    r->task_right[i] = right;
    r->task_tokens[i] = a->n;
    WEIR_TRY(log_answer(x, i, &found, right, e));
  }
  const weir_totals s = weir_answers_totals(&x->answers, &x->models);
  r->n_tasks = x->tasks.n;
  r->exact = (double)r->n_right / r->n_tasks;
  weir_wilson(r->n_right, r->n_tasks, &r->lo, &r->hi);
  r->tokens = s.tokens;
  r->deferral_rate = s.deferral_rate;
  r->mean_entropy = s.mean_entropy;
  const bool routes = r->setting.cascade.route.on;
  r->routed_share = routes ? (double)s.routed_up / r->n_tasks : NAN;
  /* The one in force at the end; where no row was looked at, none moved it. */
  const weir_route_stats *of = &x->answers.stats.routed;
  r->route_share = routes ? (double)(of->looked > 0 ? of->share : r->setting.cascade.route.share) : NAN;
  r->tau = routes ? (double)r->setting.cascade.gate[0].threshold : (double)x->answers.stats.budget.tau;
  r->large_passes =
      x->models.large >= 0 && s.tokens > 0 ? (double)s.steps[x->models.large] / (double)s.tokens : 0;
out:
  weir_buf_fini(&found);
  return st;
}

/* A run in which a tier died or an answer failed says nothing about a setting: it is shorter than it should
 * be. */
static weir_status check_whole(const evaluation *x, weir_err *e) {
  for (int32_t i = 0; i < x->answers.n; i++) {
    const weir_answer *a = &x->answers.one[i];
    if (a->end == WEIR_END_ERROR) return weir_fail(e, a->err.code, "task %d: %s", i + 1, a->err.msg);
  }
  for (int32_t t = 0; t < x->models.n_tiers; t++)
    if (x->answers.stats.tier[t].dead)
      return weir_fail(e, WEIR_EDEVICE, "the %s model failed during the evaluation", x->models.tier_name[t]);
  return WEIR_OK;
}

static weir_status run_tasks(evaluation *x, const weir_eval_setting *s, weir_err *e) {
  const weir_cascade_cfg *cascade = &s->cascade;
  weir_answers_how how;
  weir_answers_how_init(&how, x->c, &x->models);
  how.cascade = *cascade;
  how.auto_ = s->opts.mode == WEIR_MODE_AUTO;
  how.quality = s->opts.quality;
  how.prefix_pages = 0;
  if (cascade->gate_moves) { /* in this mode a gate is there for them */
    how.span = x->spans.span;
    how.n_spans = x->spans.n;
  }
  weir_setting_draw(x->c, &how.draw);
  weir_answers_clear(&x->answers);
  x->n_done = 0;
  const weir_status st = weir_answers_run(&x->answers, &how, e);
  return st == WEIR_OK ? check_whole(x, e) : st;
}

static weir_status take_times(const evaluation *x, weir_eval_row *r, weir_err *e) {
  r->seconds = 1e-9 * (double)x->answers.wall_ns;
  r->tok_s = r->seconds > 0 ? (double)r->tokens / r->seconds : 0;
  for (int32_t i = 0; i < x->tasks.n; i++) {
    const weir_answer *a = &x->answers.one[i];
    r->task_seconds[i] = 1e-9 * (double)(a->total_ns - a->queued_ns);
  }
  return latencies(&x->answers, r, e);
}

/* Measures a setting and appends its row. A signal leaves the row out. */
static weir_status measure(evaluation *x, const weir_eval_setting *s, bool chance, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_eval_row *r = &x->v.row[x->v.n];
  const size_t n = (size_t)x->tasks.n;
  *r = (weir_eval_row){.setting = *s, .chance = chance};
  if (s->opts.mode != WEIR_MODE_SMALL && s->opts.mode != WEIR_MODE_LARGE) weir_eval_setting_text(s, r->text);
  WEIR_TRY(WEIR_NEW(n, &r->task_right, e));
  WEIR_TRY(WEIR_NEW(n, &r->task_tokens, e));
  WEIR_TRY(WEIR_NEW(n, &r->task_seconds, e));
  WEIR_TRY(run_tasks(x, s, e));
  if (weir_interrupt_pending()) goto out;
  WEIR_TRY(score(x, r, e));
  WEIR_TRY(take_times(x, r, e));
  show_progress(x, true);
  x->v.n++;
  return WEIR_OK;
out:
  weir_eval_row_fini(r);
  return st;
}

/* Times all rows once more, round by round, so that a slow spell of the machine touches all settings alike;
 * each keeps its fastest. */
static weir_status time_again(evaluation *x, weir_err *e) {
  weir_status st = WEIR_OK;
  const int64_t rounds = weir_config_int(x->c, "repeat");
  const int32_t n = x->v.n;
  for (int64_t k = 1; k < rounds; k++) {
    if (!x->quiet) fprintf(stderr, "timing again, %lld of %lld\n", (long long)k + 1, (long long)rounds);
    for (int32_t i = 0; i < n; i++) {
      WEIR_TRY(run_tasks(x, &x->v.row[i].setting, e));
      if (weir_interrupt_pending()) return WEIR_OK;
      if (1e-9 * (double)x->answers.wall_ns < x->v.row[i].seconds) WEIR_TRY(take_times(x, &x->v.row[i], e));
    }
  }
out:
  return st;
}

/* A few tasks through everything, unmeasured: pages are faulted in, the processor has woken up. */
static weir_status warm_up(evaluation *x, const weir_cascade_cfg *cascade, weir_err *e) {
  weir_answers_how how;
  weir_answers few = x->answers;
  weir_answers_how_init(&how, x->c, &x->models);
  how.cascade = *cascade;
  weir_setting_draw(x->c, &how.draw);
  how.prefix_pages = 0;
  how.max_new = how.max_new < 16 ? how.max_new : 16;
  few.n = few.n < x->v.batch ? few.n : x->v.batch;
  few.on_done = NULL;
  const weir_status st = weir_answers_run(&few, &how, e);
  weir_answers_clear(&few);
  return st;
}

/* ---- all settings ---- */

static weir_status measure_alone(evaluation *x, weir_mode mode, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_eval_setting s = {.opts = {.mode = mode}};
  const int32_t row = x->v.n;
  if (x->models.n_tiers < 2)
    weir_cascade_cfg_single(&s.cascade);
  else
    WEIR_TRY(weir_cascade_cfg_make(&s.opts, &s.cascade, e));
  WEIR_TRY(measure(x, &s, false, e));
  if (x->v.n > row) *(mode == WEIR_MODE_SMALL ? &x->v.small : &x->v.large) = row;
out:
  return st;
}

/* A setting, and beside it its control with the rate just measured. */
static weir_status measure_setting(evaluation *x, const weir_eval_setting *s, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_eval_setting control;
  WEIR_TRY(measure(x, s, false, e));
  if (weir_interrupt_pending() || !s->control || !weir_config_bool(x->c, "random")) goto out;
  const weir_eval_row *r = &x->v.row[x->v.n - 1];
  WEIR_TRY(weir_eval_control(s, s->cascade.route.on ? r->routed_share : r->deferral_rate, &control, e));
  st = measure(x, &control, true, e);
out:
  return st;
}

static weir_status measure_all(evaluation *x, weir_err *e) {
  weir_status st = WEIR_OK;
  const bool both = x->models.n_tiers > 1;
  weir_cascade_cfg first;
  weir_cascade_cfg_single(&first);
  if (both) WEIR_TRY(weir_cascade_cfg_make(&(weir_cascade_opts){.mode = WEIR_MODE_DEFER}, &first, e));
  WEIR_TRY(warm_up(x, &first, e));
  if (both || x->models.large < 0) WEIR_TRY(measure_alone(x, WEIR_MODE_SMALL, e));
  if (x->models.large >= 0) WEIR_TRY(measure_alone(x, WEIR_MODE_LARGE, e));
  for (int32_t i = 0; both && i < x->plan.n && !weir_interrupt_pending(); i++)
    WEIR_TRY(measure_setting(x, &x->plan.setting[i], e));
  if (!weir_interrupt_pending()) st = time_again(x, e);
out:
  return st;
}

/* ---- the command ---- */

/* --random wants a setting in which the gate alone decides who writes. */
static weir_status check_random(const evaluation *x, weir_err *e) {
  if (!weir_config_bool(x->c, "random")) return WEIR_OK;
  for (int32_t i = 0; i < x->plan.n; i++)
    if (x->plan.setting[i].control) return WEIR_OK;
  return weir_fail(e, WEIR_EINVAL,
                   "--random is for mode defer with --hold 1: there the gate alone decides who writes");
}

/* One model alone has no use for the settings of a cascade: those of the command line are refused. */
static weir_status check_single(const evaluation *x, weir_err *e) {
  static const char *const option[] = {"mode",         "entropy",    "threshold",    "gate",
                                       "accept-nll",   "accept",     "accept-alpha", "accept-epsilon",
                                       "accept-delta", "window",     "hold",         "horizon",
                                       "random",       "defer-rate", "defer-burst",  "load-price"};
  if (x->paths.small[0] && x->paths.large[0]) return WEIR_OK;
  for (size_t i = 0; i < sizeof option / sizeof *option; i++)
    if (!strcmp(weir_config_source(x->c, option[i]), "command line"))
      return weir_fail(e, WEIR_EINVAL, "--%s has no meaning with one model alone", option[i]);
  return WEIR_OK;
}

static weir_status read_input(evaluation *x, weir_err *e) {
  weir_status st = WEIR_OK;
  int32_t n;
  const char *const *files = weir_config_operands(x->c, &n);
  if (n != 1) return weir_fail(e, WEIR_EINVAL, "want one file of tasks, got %d", n);
  WEIR_TRY(weir_eval_plan_make(x->c, &x->plan, e)); /* refuses before anything is loaded */
  WEIR_TRY(weir_span_list_read(&x->spans, x->c, e));
  WEIR_TRY(check_random(x, e));
  WEIR_TRY(weir_find_models(x->c, &x->paths, e));
  WEIR_TRY(check_single(x, e));
  x->v.tasks = files[0];
  st = weir_tasks_read(files[0], (int32_t)weir_config_int(x->c, "limit"), &x->tasks, e);
out:
  return st;
}

static weir_status prepare(evaluation *x, weir_err *e) {
  weir_status st = WEIR_OK;
  const int32_t batch = (int32_t)weir_config_int(x->c, "batch");
  x->v.batch = batch < x->tasks.n ? batch : x->tasks.n;
  WEIR_TRY(weir_load(x->c, &x->paths, x->v.batch, &x->out, &x->models, e));
  x->v.isa = weir_pair_isa(x->models.pair);
  x->v.device = weir_pair_devices(x->models.pair);
  x->v.threads = weir_pair_n_threads(x->models.pair);
  WEIR_TRY(weir_answers_init(&x->answers, x->tasks.n, e));
  x->answers.on_done = on_done;
  x->answers.ctx = x;
  for (int32_t i = 0; i < x->tasks.n; i++) {
    const char *p = x->tasks.task[i].prompt;
    WEIR_TRY(weir_encode_prompt(weir_pair_tokenizer(x->models.pair), p, strlen(p),
                                weir_config_bool(x->c, "special"), &x->answers.one[i].prompt, e));
  }
  x->n_rows = 1;
  if (x->models.n_tiers > 1) {
    x->n_rows = 2 + x->plan.n;
    for (int32_t i = 0; i < x->plan.n; i++)
      x->n_rows += x->plan.setting[i].control && weir_config_bool(x->c, "random");
  }
  st = WEIR_NEW((size_t)x->n_rows, &x->v.row, e);
out:
  return st;
}

static weir_status write_svg(const evaluation *x, const char *path,
                             weir_status (*draw)(const weir_eval *, weir_buf *, weir_err *), weir_err *e) {
  weir_buf b = {0};
  weir_status st = draw(&x->v, &b, e);
  FILE *f = NULL;
  if (st == WEIR_OK && !(f = fopen(path, "w"))) st = weir_fail(e, WEIR_EIO, "%s: %s", path, strerror(errno));
  if (f) {
    const bool wrote = fwrite(b.data, 1, b.len, f) == b.len;
    if ((fclose(f) != 0 || !wrote) && st == WEIR_OK)
      st = weir_fail(e, WEIR_EIO, "%s: %s", path, strerror(errno));
  }
  weir_buf_fini(&b);
  return st;
}

static weir_status report(evaluation *x, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_buf table = {0};
  const bool json = weir_config_bool(x->c, "json"), summary = weir_config_bool(x->c, "summary");
  const char *svg = weir_config_string(x->c, "svg"), *speed = weir_config_string(x->c, "svg-speed");
  weir_eval_choose(&x->v);
  WEIR_TRY(weir_eval_resample(&x->v, e));
  WEIR_TRY(weir_eval_table(&x->v, &table, e));
  if (!json && !summary)
    weir_out_write(&x->out, table.data, table.len);
  else if (!x->quiet)
    fwrite(table.data, 1, table.len, stderr);
  for (int32_t i = 0; i < x->v.n && json; i++) weir_out_json(&x->out, weir_eval_row_json(&x->v, i));
  if (json || summary) weir_out_json(&x->out, weir_eval_summary_json(&x->v));
  if (svg) WEIR_TRY(write_svg(x, svg, weir_eval_svg, e));
  if (speed) WEIR_TRY(write_svg(x, speed, weir_eval_svg_speed, e));
out:
  weir_buf_fini(&table);
  return st;
}

static weir_status evaluate(evaluation *x, weir_err *e) {
  weir_status st = WEIR_OK;
  x->log_path = weir_config_string(x->c, "answers");
  if (x->log_path && !(x->log = fopen(x->log_path, "w")))
    return weir_fail(e, WEIR_EIO, "%s: %s", x->log_path, strerror(errno));
  WEIR_TRY(prepare(x, e));
  weir_interrupt_init();
  WEIR_TRY(measure_all(x, e));
  st = report(x, e);
out:
  if (x->log && fclose(x->log) != 0 && st == WEIR_OK)
    st = weir_fail(e, WEIR_EIO, "%s: %s", x->log_path, strerror(errno));
  return st;
}

int weir_main_eval(const weir_config *c) {
  evaluation x = {
      .c = c, .v = {.small = -1, .large = -1, .chosen = -1}, .quiet = weir_config_bool(c, "quiet")};
  weir_err e = {0};
  int status = WEIR_EXIT_OK;
  weir_out_init(&x.out, c);
  const weir_status st = read_input(&x, &e);
  if (st != WEIR_OK)
    status = st == WEIR_EINVAL ? weir_tell_usage("eval", &e) : weir_tell(&e, WEIR_EXIT_FAILED);
  else if (evaluate(&x, &e) != WEIR_OK)
    status = weir_tell(&e, WEIR_EXIT_FAILED);
  else if (weir_interrupt_pending())
    status = 128 + weir_interrupt_pending();
  if (!weir_out_end(&x.out)) status = weir_tell(&x.out.err, WEIR_EXIT_FAILED);
  weir_span_list_fini(&x.spans);
  for (int32_t i = 0; i < x.v.n; i++) weir_eval_row_fini(&x.v.row[i]);
  free(x.v.row);
  weir_eval_plan_fini(&x.plan);
  weir_answers_fini(&x.answers);
  weir_loaded_close(&x.models);
  weir_tasks_fini(&x.tasks);
  return status;
}
