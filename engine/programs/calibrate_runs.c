/* SPDX-License-Identifier: Apache-2.0 */
/* What `weir calibrate` asks of the models: answers end to end through the engine, the logging pass, the
 * times of steps. Main thread. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "programs/calibrate_in.h"
#include "programs/calibrate_log.h"
#include "programs/eval.h"
#include "programs/setting.h"
#include "programs/step_times.h"

/* ---- answers ---- */

static void on_done(void *ctx, int32_t i) {
  weir_calibrating *x = ctx;
  (void)i;
  x->n_done++;
  if (x->n_done % 8 == 0) weir_cal_progress(x, "%d requests answered", x->n_done);
}

/* An answer that failed says nothing about a setting. */
static weir_status check_whole(const weir_calibrating *x, const weir_answers *a, weir_err *e) {
  if (weir_cal_stopped()) return weir_fail(e, WEIR_ECANCEL, "interrupted");
  for (int32_t i = 0; i < a->n; i++)
    if (a->one[i].end == WEIR_END_ERROR)
      return weir_fail(e, a->one[i].err.code, "a request failed: %s", a->one[i].err.msg);
  for (int32_t t = 0; t < x->models.n_tiers; t++)
    if (a->stats.tier[t].dead)
      return weir_fail(e, WEIR_EDEVICE, "the %s model failed", x->models.tier_name[t]);
  return WEIR_OK;
}

static weir_status run(weir_calibrating *x, weir_answers *a, const weir_cascade_opts *o, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_answers_how how;
  weir_answers_how_init(&how, x->c, &x->models);
  WEIR_TRY(weir_cascade_cfg_make(o, &how.cascade, e));
  how.prefix_pages = 0;
  weir_setting_draw(x->c, &how.draw);
  weir_answers_clear(a);
  a->on_done = on_done;
  a->ctx = x;
  x->n_done = 0;
  WEIR_TRY(weir_answers_run(a, &how, e));
  st = check_whole(x, a, e);
out:
  return st;
}

static weir_status is_right(const weir_calibrating *x, int32_t item, const weir_answer *a, weir_buf *found,
                            bool *right, weir_err *e) {
  const weir_status st =
      weir_task_find(&x->tasks, item, a->text.data ? a->text.data : "", a->text.len, found, e);
  if (st == WEIR_OK) *right = !strcmp(found->data, x->tasks.task[item].answer);
  return st;
}

/* Figures of a run over a whole part. */
static weir_status sum_up(const weir_calibrating *x, const weir_cal_part *p, const weir_answers *a,
                          weir_cal_run *r, float *wrong, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_buf found = {0};
  int32_t same = 0;
  const weir_totals s = weir_answers_totals(a, &x->models);
  *r = (weir_cal_run){
      .ran = true, .n = p->n, .n_right = x->has_tasks ? 0 : -1, .tokens = s.tokens, .loss = NAN};
  for (int32_t i = 0; i < p->n; i++) {
    const weir_answer *one = &a->one[i];
    bool all = one->n == p->n_large[i], right = false;
    for (int32_t k = 0; all && k < one->n; k++)
      all = one->token[k].receipt.id == p->large[i][one->prompt.n + k];
    same += all;
    if (x->has_tasks) WEIR_TRY(is_right(x, p->item[i], one, &found, &right, e));
    r->n_right += right;
    if (wrong) wrong[i] = p->right[i] && !right ? 1 : 0;
  }
  r->exact = r->lo = r->hi = NAN;
  if (x->has_tasks) {
    r->exact = (double)r->n_right / r->n;
    weir_wilson(r->n_right, r->n, &r->lo, &r->hi);
  }
  r->same_text = (double)same / r->n;
  r->seconds = 1e-9 * (double)a->wall_ns;
  r->tok_s = r->seconds > 0 ? (double)r->tokens / r->seconds : 0;
  r->deferral_rate = s.deferral_rate;
  r->batch = x->meta.batch;
  r->speedup = p->run.ran && p->run.tok_s > 0 ? r->tok_s / p->run.tok_s : NAN;
out:
  weir_buf_fini(&found);
  return st;
}

/* Keeps what the large model wrote. */
static weir_status keep_texts(const weir_calibrating *x, weir_cal_part *p, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_buf found = {0};
  for (int32_t i = 0; i < p->n; i++) {
    const weir_answer *a = &p->answers.one[i];
    free(p->large[i]);
    p->large[i] = NULL;
    WEIR_TRY(WEIR_NEW((size_t)a->prompt.n + (size_t)a->n + 1, &p->large[i], e));
    memcpy(p->large[i], a->prompt.id, (size_t)a->prompt.n * sizeof(int32_t));
    for (int32_t k = 0; k < a->n; k++) p->large[i][a->prompt.n + k] = a->token[k].receipt.id;
    p->n_large[i] = a->n;
    if (x->has_tasks) WEIR_TRY(is_right(x, p->item[i], a, &found, &p->right[i], e));
  }
out:
  weir_buf_fini(&found);
  return st;
}

weir_status weir_cal_run_large(weir_calibrating *x, weir_trace_part part, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_cal_part *p = &x->part[part];
  const weir_cascade_opts large = {.mode = WEIR_MODE_LARGE};
  if (p->n == 0) return WEIR_OK;
  WEIR_TRY(run(x, &p->answers, &large, e));
  WEIR_TRY(keep_texts(x, p, e));
  WEIR_TRY(sum_up(x, p, &p->answers, &p->run, NULL, e));
  p->run.speedup = 1;
out:
  return st;
}

weir_status weir_cal_run_setting(weir_calibrating *x, weir_trace_part part, const weir_cascade_opts *o,
                                 weir_cal_run *out, float *wrong, weir_err *e) {
  weir_cal_part *p = &x->part[part];
  const weir_status st = run(x, &p->answers, o, e);
  return st == WEIR_OK ? sum_up(x, p, &p->answers, out, wrong, e) : st;
}

weir_status weir_cal_run_some(weir_calibrating *x, weir_trace_part part, const weir_cascade_opts *o,
                              const bool *pick, float *wrong, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_cal_part *p = &x->part[part];
  weir_answers some = {0};
  weir_buf found = {0};
  int32_t *which = NULL, n = 0;
  for (int32_t i = 0; i < p->n; i++) n += pick[i];
  if (n == 0) return WEIR_OK;
  WEIR_TRY(WEIR_NEW((size_t)n, &which, e));
  WEIR_TRY(weir_answers_init(&some, n, e));
  for (int32_t i = 0, k = 0; i < p->n; i++) {
    if (!pick[i]) continue;
    some.one[k].prompt = p->answers.one[i].prompt; /* borrowed, and given back below */
    which[k++] = i;
  }
  WEIR_TRY(run(x, &some, o, e));
  for (int32_t k = 0; k < n; k++) {
    bool right;
    WEIR_TRY(is_right(x, p->item[which[k]], &some.one[k], &found, &right, e));
    wrong[which[k]] = p->right[which[k]] && !right ? 1 : 0;
  }
out:
  for (int32_t k = 0; k < some.n && some.one; k++) some.one[k].prompt = (weir_tokens){0};
  weir_answers_fini(&some);
  weir_buf_fini(&found);
  free(which);
  return st;
}

/* ---- the logging pass ---- */

static bool on_logged(void *ctx, int64_t done, int64_t total) {
  weir_calibrating *x = ctx;
  weir_cal_progress(x, "logging both models: %lld of %lld tokens", (long long)done, (long long)total);
  return !weir_cal_stopped();
}

weir_status weir_cal_log(weir_calibrating *x, bool hidden, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_log_text *text = NULL;
  const int32_t n = x->n_data;
  weir_log_how how = {.small = weir_pair_exec(x->models.pair, 0),
                      .large = weir_pair_exec(x->models.pair, 1),
                      .tokenizer = weir_pair_tokenizer(x->models.pair),
                      .prompts = true,
                      .hidden = hidden,
                      .progress = on_logged,
                      .ctx = x};
  weir_setting_draw(x->c, &how.draw);
  WEIR_TRY(WEIR_NEW((size_t)n, &text, e));
  WEIR_TRY(weir_trace_init(&x->trace, n, e));
  for (int32_t p = 0; p < WEIR_N_PARTS; p++)
    for (int32_t i = 0; i < x->part[p].n; i++)
      text[x->part[p].first_text + i] =
          (weir_log_text){x->part[p].large[i], x->part[p].answers.one[i].prompt.n, x->part[p].n_large[i]};
  WEIR_TRY(weir_trace_log(&how, text, n, &x->trace, &x->differs, e));
  for (int32_t p = 0; p < WEIR_N_PARTS; p++)
    for (int32_t i = 0; i < x->part[p].n; i++) {
      weir_trace_text *t = &x->trace.text[x->part[p].first_text + i];
      t->part = p;
      t->right = x->has_tasks ? x->part[p].right[i] : -1;
    }
out:
  free(text);
  return st;
}

/* ---- times ---- */

weir_cost_engine weir_cal_engine(const weir_calibrating *x) {
  const int32_t most = WEIR_PAIR_DEFAULT_TOKENS, large = (int32_t)weir_config_int(x->c, "large-batch");
  return (weir_cost_engine){.batch = x->meta.batch,
                            .large_batch = large < x->meta.batch ? large : x->meta.batch,
                            .large_wait_ns = 1e6 * (double)weir_config_int(x->c, "large-wait"),
                            .max_rows = most};
}

weir_status weir_cal_time(weir_calibrating *x, weir_err *e) {
  static const int32_t sizes[] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128};
  weir_status st = WEIR_OK;
  weir_cal_cost *c = &x->meta.cost;
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    bool fits = true;
    for (int32_t t = 0; t < 2; t++)
      fits = fits && weir_timing_fits(&weir_pair_exec(x->models.pair, t)->info, sizes[i]);
    if (fits) c->rows[c->n++] = sizes[i];
  }
  const weir_timing how = {.rows = c->rows, .n = c->n, .all = true, .limit_ns = 1000000000};
  for (int32_t t = 0; t < 2; t++) {
    weir_exec *exec = weir_pair_exec(x->models.pair, t);
    weir_cal_progress(x, "timing steps of the %s model", x->models.tier_name[t]);
    WEIR_TRY(weir_time_steps(exec, weir_pair_n_vocab(x->models.pair), &how, c->ns[t], c->ns_all[t], e));
    c->flops[t] = (double)exec->info.flops_per_token;
    c->head_flops[t] = (double)exec->info.head_flops;
    c->weight_bytes[t] = (double)exec->info.weight_bytes;
    c->kv_bytes[t] = (double)exec->info.kv_bytes_per_token;
    if (weir_cal_stopped()) return weir_fail(e, WEIR_ECANCEL, "interrupted");
  }
out:
  return st;
}
