/* SPDX-License-Identifier: Apache-2.0 */
/* `weir calibrate`: lets the large model answer, logs what both models say along its answers, replays
 * settings on that, chooses one by conformal risk control, confirms it end to end on other data, writes it
 * down. Main thread. */
#include "programs/calibrate.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "calibrate/curves.h"
#include "programs/calibrate_in.h"
#include "programs/interrupt.h"
#include "programs/options.h"
#include "programs/version.h"
#include "run/exec_local.h"

void weir_cal_progress(const weir_calibrating *x, const char *fmt, ...) {
  if (x->quiet || !x->out.terminal_err) return;
  va_list args;
  va_start(args, fmt);
  fprintf(stderr, "\r\033[K");
  vfprintf(stderr, fmt, args);
  va_end(args);
  fflush(stderr);
}

bool weir_cal_stopped(void) { return weir_interrupt_pending() != 0; }

/* ---- what was asked ---- */

static weir_status read_options(weir_calibrating *x, weir_err *e) {
  const char *gate = weir_config_string(x->c, "gate"), *loss = weir_config_string(x->c, "loss");
  x->gate.kind = WEIR_GATE_ENTROPY;
  if (gate && !weir_gate_parse(gate, &x->gate.kind))
    return weir_fail(e, WEIR_EINVAL, "gate %s is not known", gate);
  const char *file = weir_config_string(x->c, "gate-out");
  x->gate_path = file;
  if (file && !weir_gate_is_fitted(x->gate.kind))
    return weir_fail(e, WEIR_EINVAL, "--gate-out is for a gate that is fitted: give --gate isotonic or head");
  if (!file && weir_config_is_set(x->c, "out") && weir_gate_is_fitted(x->gate.kind))
    return weir_fail(e, WEIR_EINVAL, "--out needs --gate-out for gate %s: the file it is kept in",
                     weir_gate_name(x->gate.kind));
  if (file && weir_config_is_set(x->c, "from-trace"))
    return weir_fail(e, WEIR_EINVAL, "--gate-out wants the models: it is not for --from-trace");
  x->r.choice.level = weir_config_float(x->c, "level");
  x->loss = !strcmp(loss, "wrong") ? WEIR_LOSS_WRONG : WEIR_LOSS_TOKENS;
  return WEIR_OK;
}

/* The loss of answers wants answers. */
static weir_status settle_loss(weir_calibrating *x, weir_err *e) {
  const char *loss = weir_config_string(x->c, "loss");
  if (!strcmp(loss, "auto") && x->has_tasks) x->loss = WEIR_LOSS_WRONG;
  if (x->loss == WEIR_LOSS_WRONG && !x->has_tasks)
    return weir_fail(e, WEIR_EINVAL,
                     "--loss wrong wants tasks with answers: prompts have the loss of tokens alone");
  return WEIR_OK;
}

/* Cut to what there is room for. */
static void name(char *to, size_t bytes, const char *from) {
  size_t n = strlen(from);
  if (n > bytes - 1) n = bytes - 1;
  memcpy(to, from, n);
  memset(to + n, 0, bytes - n);
}

static weir_status read_trace(weir_calibrating *x, const char *path, weir_err *e) {
  weir_status st = WEIR_OK;
  int32_t n;
  weir_config_operands(x->c, &n);
  if (n > 0) return weir_fail(e, WEIR_EINVAL, "--from-trace has its data: leave out the file");
  if (x->loss == WEIR_LOSS_WRONG)
    return weir_fail(e, WEIR_EINVAL, "--loss wrong runs the models: it is not for --from-trace");
  WEIR_TRY(weir_trace_read(path, &x->trace, &x->meta, e));
  x->has_tasks = x->trace.text[0].right >= 0;
  x->n_data = x->trace.n;
out:
  return st;
}

static weir_status read_data(weir_calibrating *x, weir_err *e) {
  weir_status st = WEIR_OK;
  int32_t n;
  const char *const *files = weir_config_operands(x->c, &n);
  if (n != 1) return weir_fail(e, WEIR_EINVAL, "want one file of tasks or prompts, got %d", n);
  WEIR_TRY(weir_find_models(x->c, &x->paths, e));
  if (!x->paths.small[0] || !x->paths.large[0])
    return weir_fail(e, WEIR_EINVAL, "calibrate wants two models, a small and a large one");
  WEIR_TRY(weir_cal_read(x, files[0], e));
  WEIR_TRY(settle_loss(x, e));
  name(x->meta.data, sizeof x->meta.data, files[0]);
  name(x->meta.small, sizeof x->meta.small, x->paths.small);
  name(x->meta.large, sizeof x->meta.large, x->paths.large);
out:
  return st;
}

/* ---- with models ---- */

static weir_status prepare(weir_calibrating *x, weir_err *e) {
  weir_status st = WEIR_OK;
  const int32_t batch = (int32_t)weir_config_int(x->c, "batch"), half = x->part[WEIR_PART_CONFIRM].n;
  x->meta.batch = batch < half ? batch : half;
  WEIR_TRY(weir_load(x->c, &x->paths, x->meta.batch, &x->out, &x->models, e));
  if (x->models.n_tiers != 2) return weir_fail(e, WEIR_EINVAL, "calibrate wants two models");
  /* A head is fitted on hidden states, which an executor of its own thread or of ranks keeps to itself. */
  if (x->gate.kind == WEIR_GATE_HEAD &&
      weir_exec_local_hidden(weir_pair_exec(x->models.pair, 0), NULL, NULL, NULL, NULL, e) != WEIR_OK)
    return weir_fail(e, WEIR_EUNSUP,
                     "calibrate --gate head wants the small model whole and on the large one's "
                     "device: leave out --small-device");
  name(x->meta.device, sizeof x->meta.device, weir_pair_devices(x->models.pair));
  x->meta.n_threads = weir_pair_n_threads(x->models.pair);
  st = weir_cal_encode(x, e);
out:
  return st;
}

static double seconds_since(int64_t start) {
  const weir_clock clock = weir_clock_system();
  return 1e-9 * (double)(weir_now_ns(&clock) - start);
}

static weir_status log_all(weir_calibrating *x, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_cal_time(x, e));
  for (int32_t p = 0; p < WEIR_N_PARTS; p++) WEIR_TRY(weir_cal_run_large(x, (weir_trace_part)p, e));
  st = weir_cal_log(x, x->gate.kind == WEIR_GATE_HEAD, e);
out:
  return st;
}

/* ---- from a trace on ---- */

static bool on_point(void *ctx, int32_t done, int32_t total) {
  weir_cal_progress(ctx, "replaying setting %d of %d", done, total);
  return !weir_cal_stopped();
}

static weir_status replay(weir_calibrating *x, weir_err *e) {
  weir_status st = WEIR_OK;
  bool head = x->trace.text[0].n > 0 && !isnan(x->trace.text[0].row[0].q_gate);
  const weir_curves_how how = {.trace = &x->trace,
                               .part = WEIR_PART_CALIBRATE,
                               .cost = &x->meta.cost,
                               .engine = weir_cal_engine(x),
                               .map = x->gate.map,
                               .head = head,
                               .progress = on_point,
                               .ctx = x};
  if (!weir_config_bool(x->c, "curves")) return WEIR_OK;
  WEIR_TRY(weir_curves_make(&how, &x->r, e));
  for (int32_t k = 0; k < x->trace.n; k++)
    x->r.n_replayed += x->trace.text[k].part == WEIR_PART_CALIBRATE && x->trace.text[k].n > 0;
out:
  return st;
}

static void describe(weir_calibrating *x) {
  weir_calibration *r = &x->r;
  const time_t now = time(NULL);
  struct tm utc;
  if (gmtime_r(&now, &utc)) strftime(r->when, sizeof r->when, "%Y-%m-%dT%H:%M:%SZ", &utc);
  name(r->version, sizeof r->version, WEIR_VERSION);
  name(r->device, sizeof r->device, x->meta.device);
  r->data = x->meta.data;
  r->small = x->paths.small[0] ? x->paths.small : x->meta.small;
  r->large = x->paths.large[0] ? x->paths.large : x->meta.large;
  r->n_threads = x->meta.n_threads;
  r->batch = x->meta.batch;
  r->temperature = (double)x->trace.temperature;
  r->seed = x->trace.seed;
  r->tasks = x->has_tasks;
  r->n_texts = x->trace.n;
  r->n_tokens = weir_trace_tokens(&x->trace);
  r->cost = x->meta.cost;
}

static weir_status calibrate(weir_calibrating *x, bool models, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_clock clock = weir_clock_system();
  int64_t start = weir_now_ns(&clock);
  if (models) WEIR_TRY(log_all(x, e));
  WEIR_TRY(weir_cal_fit_gate(x, e));
  x->r.log_seconds = seconds_since(start);
  describe(x);
  start = weir_now_ns(&clock);
  WEIR_TRY(replay(x, e));
  x->r.replay_seconds = seconds_since(start);
  start = weir_now_ns(&clock);
  WEIR_TRY(weir_cal_choose(x, e));
  weir_cal_drift_fill(x);
  WEIR_TRY(weir_cal_drift_from_trace(x, e));
  weir_cal_reliability_fill(x);
  if (models && weir_config_bool(x->c, "confirm")) WEIR_TRY(weir_cal_confirm_choice(x, e));
  x->r.run_seconds = seconds_since(start);
  weir_cal_progress(x, "%s", "");
  if (weir_config_bool(x->c, "json"))
    weir_cal_json(x);
  else
    weir_cal_print(x);
  st = weir_cal_files(x, e);
out:
  return st;
}

static weir_status run(weir_calibrating *x, bool *usage, weir_err *e) {
  weir_status st = WEIR_OK;
  const char *trace = weir_config_string(x->c, "from-trace");
  *usage = true;
  WEIR_TRY(read_options(x, e));
  if (trace)
    WEIR_TRY(read_trace(x, trace, e));
  else
    WEIR_TRY(read_data(x, e));
  *usage = false;
  if (!trace) WEIR_TRY(prepare(x, e));
  weir_interrupt_init();
  st = calibrate(x, !trace, e);
out:
  return st;
}

int weir_main_calibrate(const weir_config *c) {
  weir_calibrating x = {.c = c, .quiet = weir_config_bool(c, "quiet"), .models = {.large = -1}};
  weir_err e = {0};
  int status = WEIR_EXIT_OK;
  bool usage;
  weir_out_init(&x.out, c);
  const weir_status st = run(&x, &usage, &e);
  if (st != WEIR_OK) {
    weir_cal_progress(&x, "%s", "");
    if (weir_cal_stopped())
      status = 128 + weir_interrupt_pending();
    else
      status =
          st == WEIR_EINVAL && usage ? weir_tell_usage("calibrate", &e) : weir_tell(&e, WEIR_EXIT_FAILED);
  }
  if (!weir_out_end(&x.out)) status = weir_tell(&x.out.err, WEIR_EXIT_FAILED);
  weir_calibration_fini(&x.r);
  free(x.head.weight);
  weir_trace_fini(&x.trace);
  weir_cal_data_fini(&x);
  weir_loaded_close(&x.models);
  return status;
}
