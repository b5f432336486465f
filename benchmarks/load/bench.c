/* SPDX-License-Identifier: Apache-2.0 */
/* `weir-bench run`: from options to runs, and from runs to reports. Main thread. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "base/mem.h"
#include "load/options.h"
#include "load/progress.h"
#include "load/report.h"
#include "load/summary.h"
#include "load/sweep.h"
#include "programs/interrupt.h"

enum { SPARE_FILES = 64, SHORT_WORDS = 32, LONG_WORDS = 160 };
/* Items of the warm-up lie far from those that are measured: made-up text of the one is not cached for the
 * other. */
static const int64_t WARMUP_ITEMS = 1000000000;

typedef struct {
  const weir_config *c;
  struct event_base *base;
  weir_target *target;
  weir_data *data;
  weir_slo slo;
  weir_run_cfg run;
  weir_progress progress;
  FILE *csv;
  json_t *doc, *points;
  double words_per_token;
  bool interrupted, any_ok;
} bench;

/* ---- options ---- */

static double number(const weir_config *c, const char *name) {
  return weir_config_is_set(c, name) ? weir_config_float(c, name) : NAN;
}

static weir_load_kind kind_of(const weir_config *c) {
  const char *name = weir_config_string(c, "load");
  const bool rate_sweep = !strcmp(weir_config_string(c, "sweep"), "rate");
  for (int k = WEIR_LOAD_CLOSED; name && k <= WEIR_LOAD_TRACE; k++)
    if (!strcmp(name, weir_load_kind_name((weir_load_kind)k))) return (weir_load_kind)k;
  if (weir_config_string(c, "trace")) return WEIR_LOAD_TRACE;
  return rate_sweep || weir_config_is_set(c, "rate") ? WEIR_LOAD_POISSON : WEIR_LOAD_CLOSED;
}

static weir_status check_load(bench *b, weir_err *e) {
  const weir_config *c = b->c;
  const weir_load_kind kind = b->run.arrivals.kind;
  const char *sweep = weir_config_string(c, "sweep");
  const bool rated = kind != WEIR_LOAD_CLOSED && kind != WEIR_LOAD_TRACE;
  if (!strcmp(sweep, "rate") && (!rated || kind == WEIR_LOAD_RAMP))
    return weir_fail(e, WEIR_EINVAL, "--sweep rate needs --load constant, poisson or gamma");
  if (!strcmp(sweep, "concurrency") && kind != WEIR_LOAD_CLOSED)
    return weir_fail(e, WEIR_EINVAL, "--sweep concurrency needs --load closed");
  if (!strcmp(sweep, "entropy") && !weir_config_is_set(c, "points"))
    return weir_fail(e, WEIR_EINVAL, "--sweep entropy needs --points");
  if (!strcmp(sweep, "none") && weir_config_is_set(c, "points"))
    return weir_fail(e, WEIR_EINVAL, "--points needs --sweep");
  if (rated && strcmp(sweep, "rate") != 0 && !weir_config_is_set(c, "rate"))
    return weir_fail(e, WEIR_EINVAL, "--load %s needs --rate", weir_load_kind_name(kind));
  if (kind == WEIR_LOAD_RAMP && !weir_config_is_set(c, "rate-end"))
    return weir_fail(e, WEIR_EINVAL, "--load ramp needs --rate-end");
  if ((kind == WEIR_LOAD_TRACE) != (weir_config_string(c, "trace") != NULL))
    return weir_fail(e, WEIR_EINVAL, "--load trace and --trace go together");
  if (weir_config_int(c, "turns") > 1 && strcmp(weir_config_string(c, "api"), "chat") != 0)
    return weir_fail(e, WEIR_EINVAL, "--turns needs --api chat");
  const double cancels = weir_config_float(c, "cancel-share");
  if (cancels > 0 && weir_config_int(c, "cancel-tokens") == 0 && weir_config_float(c, "cancel-after") == 0)
    return weir_fail(e, WEIR_EINVAL, "--cancel-share needs --cancel-tokens or --cancel-after");
  return WEIR_OK;
}

static weir_status read_load(bench *b, weir_err *e) {
  const weir_config *c = b->c;
  const weir_load_kind kind = kind_of(c);
  const uint64_t seed = (uint64_t)weir_config_int(c, "seed");
  const double rate = weir_config_is_set(c, "rate") ? weir_config_float(c, "rate") : 1;
  b->run = (weir_run_cfg){.base = b->base,
                          .arrivals = {.kind = kind,
                                       .rate = rate,
                                       .rate_end = number(c, "rate-end"),
                                       .burstiness = weir_config_float(c, "burstiness"),
                                       .ramp_s = weir_config_float(c, "duration"),
                                       .trace_speed = weir_config_float(c, "trace-speed"),
                                       .seed = seed},
                          .concurrency = (int32_t)weir_config_int(
                              c, kind == WEIR_LOAD_CLOSED ? "concurrency" : "max-concurrency"),
                          .requests = weir_config_int(c, "requests"),
                          .duration_s = weir_config_float(c, "duration"),
                          .drain_s = weir_config_float(c, "drain"),
                          .timeout_s = weir_config_float(c, "timeout"),
                          .think_s = weir_config_float(c, "think"),
                          .entropy = number(c, "entropy"),
                          .cancel_share = weir_config_float(c, "cancel-share"),
                          .cancel_tokens = (int32_t)weir_config_int(c, "cancel-tokens"),
                          .cancel_s = weir_config_float(c, "cancel-after"),
                          .slow_share = weir_config_float(c, "slow-share"),
                          .slow_bytes_s = weir_config_int(c, "slow-rate"),
                          .seed = seed,
                          .history = !strcmp(weir_config_string(c, "api"), "chat"),
                          .interrupted = weir_interrupt_pending,
                          .progress = weir_progress_show,
                          .ctx = &b->progress};
  if (kind == WEIR_LOAD_TRACE && !weir_config_is_set(c, "requests")) b->run.requests = 1000000;
  return check_load(b, e);
}

static weir_status open_data(bench *b, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_config *c = b->c;
  weir_data_cfg d = {.prompts = weir_config_string(c, "prompts"),
                     .tasks = weir_config_string(c, "tasks"),
                     .trace = weir_config_string(c, "trace"),
                     .shared_prefix = weir_config_float(c, "shared-prefix"),
                     .n_prefixes = (int32_t)weir_config_int(c, "prefixes"),
                     .turns = (int32_t)weir_config_int(c, "turns"),
                     .max_tokens = (int32_t)weir_config_int(c, "max-tokens"),
                     .shuffle = weir_config_bool(c, "shuffle"),
                     .seed = b->run.seed};
  WEIR_TRY(weir_lengths_parse(weir_config_string(c, "input"), "--input", &d.input, e));
  WEIR_TRY(weir_lengths_parse(weir_config_string(c, "output"), "--output", &d.output, e));
  WEIR_TRY(weir_data_open(&d, &b->data, e));
  if (!b->run.history && weir_data_has_chats(b->data)) {
    st = weir_fail(e, WEIR_EINVAL, "%s has conversations (\"messages\", \"turns\"), which need --api chat",
                   d.prompts ? d.prompts : d.trace);
    goto out;
  }
  b->run.data = b->data;
  b->run.arrivals.trace_s = weir_data_arrivals(b->data, &b->run.arrivals.n_trace);
out:
  return st;
}

static weir_status open_target(bench *b, weir_err *e) {
  const weir_config *c = b->c;
  weir_target_cfg t = {.base = b->base,
                       .url = weir_config_string(c, "url"),
                       .key = weir_config_string(c, "key"),
                       .model = weir_config_string(c, "model"),
                       .chat = !strcmp(weir_config_string(c, "api"), "chat"),
                       .stream = weir_config_bool(c, "stream"),
                       .keep_alive = weir_config_bool(c, "keep-alive"),
                       .has_temperature = true,
                       .temperature = weir_config_float(c, "temperature"),
                       .has_top_p = weir_config_is_set(c, "top-p"),
                       .has_seed = weir_config_is_set(c, "request-seed"),
                       .ignore_eos = weir_config_bool(c, "ignore-eos"),
                       .receipts = weir_config_bool(c, "receipts"),
                       .mode = weir_config_string(c, "mode"),
                       .extra = weir_config_string(c, "extra"),
                       .connect_s = weir_config_float(c, "connect-timeout")};
  if (t.has_top_p) t.top_p = weir_config_float(c, "top-p");
  if (t.has_seed) t.seed = (uint64_t)weir_config_int(c, "request-seed");
  t.stop = weir_config_strings(c, "stop", &t.n_stop);
  const weir_status st = weir_target_open(&t, &b->target, e);
  b->run.target = b->target;
  if (st == WEIR_OK && b->run.slow_share > 0 && strcmp(b->target->about.kind, "http") != 0)
    return weir_fail(e, WEIR_EINVAL, "--slow-share needs HTTP: over RPC answers are fetched, not pushed");
  return st;
}

static weir_status raise_files(int32_t concurrency, weir_err *e) {
  struct rlimit l;
  if (getrlimit(RLIMIT_NOFILE, &l) != 0) return WEIR_OK;
  l.rlim_cur = l.rlim_max;
  setrlimit(RLIMIT_NOFILE, &l);
  if (getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur < (rlim_t)concurrency + SPARE_FILES)
    return weir_fail(e, WEIR_EINVAL,
                     "%d requests at a time need as many open files; the limit is %llu (ulimit -n)",
                     concurrency, (unsigned long long)l.rlim_cur);
  return WEIR_OK;
}

/* ---- before the load ---- */

/* Prompt tokens of n made-up words, as the server counts them; -1: it does not say. */
static weir_status count_words(bench *b, int32_t n, int32_t *tokens, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_load_result out = {0};
  const weir_data_cfg d = {.input = {WEIR_LENGTH_FIXED, n, n},
                           .output = {WEIR_LENGTH_FIXED, 1, 1},
                           .n_prefixes = 1,
                           .turns = 1,
                           .seed = b->run.seed};
  weir_run_cfg r = b->run;
  r.data = NULL;
  WEIR_TRY(weir_data_open(&d, &r.data, e));
  r.arrivals.kind = WEIR_LOAD_CLOSED;
  r.concurrency = 1;
  r.requests = 1;
  r.first_item = 2 * WARMUP_ITEMS;
  r.cancel_share = r.slow_share = 0;
  r.progress = NULL;
  WEIR_TRY(weir_run(&r, &out, e));
  *tokens = out.n == 1 && out.record[0].outcome == WEIR_LOAD_OK ? out.record[0].prompt_tokens : -1;
out:
  weir_load_result_fini(&out);
  weir_data_close(r.data);
  return st;
}

/* How many words make a token: from two prompts, so that what a chat template adds falls out. */
static weir_status calibrate(bench *b, weir_err *e) {
  weir_status st = WEIR_OK;
  int32_t few = -1, many = -1;
  b->words_per_token = NAN;
  if (!weir_data_made_up(b->data)) return WEIR_OK;
  WEIR_TRY(count_words(b, SHORT_WORDS, &few, e));
  if (few > 0) WEIR_TRY(count_words(b, LONG_WORDS, &many, e));
  if (many > few) {
    b->words_per_token = (double)(LONG_WORDS - SHORT_WORDS) / (many - few);
    weir_data_set_words_per_token(b->data, b->words_per_token);
  } else if (!b->interrupted) {
    fprintf(stderr,
            "weir-bench: warning: the server does not tell prompt tokens; one word is taken for a token\n");
  }
out:
  return st;
}

static weir_status warm_up(bench *b, weir_err *e) {
  weir_load_result out = {0};
  weir_run_cfg r = b->run;
  r.requests = weir_config_int(b->c, "warmup");
  if (r.requests == 0) return WEIR_OK;
  r.arrivals.kind = WEIR_LOAD_CLOSED;
  if (b->run.arrivals.kind != WEIR_LOAD_CLOSED || r.concurrency > r.requests)
    r.concurrency = (int32_t)fmin(4, (double)r.requests);
  r.first_item = WARMUP_ITEMS;
  r.cancel_share = r.slow_share = 0;
  snprintf(b->progress.what, sizeof b->progress.what, "warm-up");
  const weir_status st = weir_run(&r, &out, e);
  b->interrupted = b->interrupted || out.interrupted;
  weir_load_result_fini(&out);
  return st;
}

/* ---- the runs ---- */

static weir_status run_point(bench *b, json_t **point, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_load_result out = {0};
  WEIR_TRY(weir_run(&b->run, &out, e));
  weir_progress_clear(&b->progress);
  *point = weir_summary_point(&b->run, &b->slo, &out);
  if (!*point) {
    st = weir_fail(e, WEIR_ENOMEM, "no memory for the report");
    goto out;
  }
  if (b->csv) weir_report_csv(b->csv, (int32_t)json_array_size(b->points), &out);
  b->interrupted = b->interrupted || out.interrupted;
  b->any_ok =
      b->any_ok || weir_json_at(*point, "requests.ok") > 0 || weir_json_at(*point, "requests.cancelled") > 0;
  json_array_append_new(b->points, *point);
out:
  weir_load_result_fini(&out);
  return st;
}

static void set_load(bench *b, const char *sweep, double x) {
  if (!strcmp(sweep, "concurrency")) b->run.concurrency = (int32_t)x;
  if (!strcmp(sweep, "rate")) b->run.arrivals.rate = x;
  if (!strcmp(sweep, "entropy")) b->run.entropy = x;
  if (!strcmp(sweep, "none"))
    snprintf(b->progress.what, sizeof b->progress.what, "%s", weir_load_kind_name(b->run.arrivals.kind));
  else
    snprintf(b->progress.what, sizeof b->progress.what, "%s %.4g", sweep, x);
}

static weir_status run_sweep(bench *b, const char *name, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_config *c = b->c;
  weir_sweep sweep;
  double x;
  const bool entropy = !strcmp(name, "entropy");
  weir_sweep_cfg cfg = {.from = !strcmp(name, "rate") ? b->run.arrivals.rate : 1,
                        .most = weir_config_float(c, "most"),
                        .refine = (int32_t)weir_config_int(c, "refine"),
                        .whole = !strcmp(name, "concurrency"),
                        .to_end = entropy || weir_config_bool(c, "to-end")};
  cfg.points = weir_config_floats(c, "points", &cfg.n_points);
  WEIR_TRY(weir_sweep_init(&sweep, &cfg, e));
  while (!b->interrupted && weir_sweep_next(&sweep, &x)) {
    json_t *point;
    if (cfg.whole) WEIR_TRY(raise_files((int32_t)x, e));
    set_load(b, name, x);
    WEIR_TRY(run_point(b, &point, e));
    if (b->interrupted) break; /* half a point says nothing about the knee */
    weir_sweep_tell(&sweep, weir_summary_met(point), weir_summary_goodput(point));
    /* other requests at each load, or a cache of prompts would make later ones look better; the same at each
     * threshold, which are compared by their answers */
    if (!entropy) b->run.first_item += (int64_t)weir_json_at(point, "requests.sent");
  }
  json_object_set_new(b->doc, "sweep", json_string(name));
  const int32_t knee = weir_sweep_knee(&sweep);
  if (!entropy && knee >= 0) json_object_set_new(b->doc, "knee", json_integer(knee));
out:
  return st;
}

/* ---- the reports ---- */

static json_t *settings_json(const weir_config *c) {
  json_t *o = json_object();
  for (int32_t i = 0; i < weir_bench_n_options; i++) {
    const weir_option *w = &weir_bench_options[i];
    json_t *v = NULL;
    if (!(w->commands & WEIR_BENCH_RUN) || !weir_config_is_set(c, w->name)) continue;
    if (!strcmp(w->name, "key") || !strcmp(w->name, "help") || !strcmp(w->group, "Report")) continue;
    switch (w->type) {
      case WEIR_OPT_INT: v = json_integer(weir_config_int(c, w->name)); break;
      case WEIR_OPT_FLOAT: v = weir_json_number(weir_config_float(c, w->name)); break;
      case WEIR_OPT_BOOL: v = json_boolean(weir_config_bool(c, w->name)); break;
      case WEIR_OPT_STRING:
      case WEIR_OPT_ENUM: v = json_string(weir_config_string(c, w->name)); break;
      case WEIR_OPT_STRINGS:
      case WEIR_OPT_FLOATS: break; /* points stand in the points, stops change no number */
    }
    if (v) json_object_set_new(o, w->name, v);
  }
  return o;
}

static weir_status begin_doc(bench *b, weir_err *e) {
  const weir_target_about *a = &b->target->about;
  const char *label = weir_config_string(b->c, "label"), *slo = weir_config_string(b->c, "slo");
  char when[32] = "";
  const time_t now = time(NULL);
  struct tm tm;
  if (gmtime_r(&now, &tm)) strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &tm);
  b->points = json_array();
  b->doc = json_pack("{s:s, s:s, s:s*, s:s, s:{s:s, s:s, s:s*, s:s*, s:i}, s:o, s:s*, s:o, s:O}", "schema",
                     WEIR_LOAD_SCHEMA, "version", WEIR_BENCH_VERSION, "label", label, "started", when,
                     "target", "kind", a->kind, "url", weir_config_string(b->c, "url"), "model", a->model,
                     "server", a->server, "context", (int)a->context, "settings", settings_json(b->c), "slo",
                     slo, "words_per_token", weir_json_number(b->words_per_token), "points", b->points);
  return b->doc && b->points ? WEIR_OK : weir_fail(e, WEIR_ENOMEM, "no memory for the report");
}

static weir_status write_reports(bench *b, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_buf text = {0};
  char *json = NULL;
  const char *json_path = weir_config_string(b->c, "json"), *html_path = weir_config_string(b->c, "html");
  if (!weir_config_bool(b->c, "quiet")) {
    WEIR_TRY(weir_report_table(b->doc, &text, e));
    fputs(text.data, stdout);
    fflush(stdout);
  }
  if (json_path) {
    json = json_dumps(b->doc, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    if (!json) {
      st = weir_fail(e, WEIR_ENOMEM, "no memory for the report");
      goto out;
    }
    WEIR_TRY(weir_report_write(json_path, json, strlen(json), e));
  }
  if (html_path) {
    weir_buf_truncate(&text, 0);
    WEIR_TRY(weir_report_html(&b->doc, 1, &text, e));
    WEIR_TRY(weir_report_write(html_path, text.data, text.len, e));
  }
  if (b->csv && (fflush(b->csv) != 0 || ferror(b->csv)))
    st = weir_fail(e, WEIR_EIO, "%s: %s", weir_config_string(b->c, "csv"), strerror(errno));
out:
  weir_buf_fini(&text);
  free(json);
  return st;
}

static weir_status prepare(bench *b, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_config *c = b->c;
  const char *csv = weir_config_string(c, "csv");
  int32_t operands;
  struct event_config *precise = event_config_new();
  weir_config_operands(c, &operands);
  if (!weir_config_string(c, "url") || operands > 0) {
    st = weir_fail(e, WEIR_EINVAL,
                   operands > 0 ? "a word too many; --url names the server" : "want --url URL");
    goto out;
  }
  WEIR_TRY(weir_slo_parse(weir_config_string(c, "slo"), &b->slo, e));
  if (precise) event_config_set_flag(precise, EVENT_BASE_FLAG_PRECISE_TIMER);
  b->base = precise ? event_base_new_with_config(precise) : NULL;
  if (!b->base) {
    st = weir_fail(e, WEIR_ENOMEM, "no event loop");
    goto out;
  }
  WEIR_TRY(read_load(b, e));
  WEIR_TRY(raise_files(b->run.concurrency, e));
  WEIR_TRY(open_data(b, e));
  if (csv) { /* before the load: a wrong path should not cost a run */
    b->csv = fopen(csv, "wb");
    if (!b->csv) {
      st = weir_fail(e, WEIR_EIO, "%s: %s", csv, strerror(errno));
      goto out;
    }
    weir_report_csv_head(b->csv);
  }
  st = open_target(b, e);
out:
  if (precise) event_config_free(precise);
  return st;
}

static weir_status work(bench *b, weir_err *e) {
  weir_status st = WEIR_OK;
  const char *sweep = weir_config_string(b->c, "sweep");
  json_t *point;
  weir_interrupt_init();
  weir_progress_init(&b->progress, weir_config_bool(b->c, "quiet"));
  WEIR_TRY(calibrate(b, e));
  WEIR_TRY(begin_doc(b, e));
  if (!weir_interrupt_pending()) WEIR_TRY(warm_up(b, e));
  b->interrupted = b->interrupted || weir_interrupt_pending() != 0;
  if (strcmp(sweep, "none") != 0) {
    WEIR_TRY(run_sweep(b, sweep, e));
  } else if (!b->interrupted) {
    set_load(b, sweep, 0);
    WEIR_TRY(run_point(b, &point, e));
  }
  weir_progress_clear(&b->progress);
  st = write_reports(b, e);
out:
  return st;
}

static bool objectives_met(const bench *b) {
  if (b->slo.n == 0) return true;
  const json_t *sweep = json_object_get(b->doc, "sweep");
  if (sweep) { /* a sweep goes on until they are broken: met when some load met them */
    for (size_t i = 0; i < json_array_size(b->points); i++)
      if (weir_summary_met(json_array_get(b->points, i))) return true;
    return false;
  }
  return json_array_size(b->points) > 0 && weir_summary_met(json_array_get(b->points, 0));
}

int weir_bench_main_run(const weir_config *c) {
  bench b = {.c = c};
  weir_err e = {0};
  int status = WEIR_BENCH_OK;
  if (prepare(&b, &e) != WEIR_OK || work(&b, &e) != WEIR_OK) {
    weir_progress_clear(&b.progress);
    fprintf(stderr, "weir-bench: error: %s\n", e.msg);
    status = e.code == WEIR_EINVAL ? WEIR_BENCH_USAGE : WEIR_BENCH_FAILED;
  } else if (b.interrupted) {
    status = WEIR_BENCH_INTERRUPTED;
  } else if (!b.any_ok) {
    fprintf(stderr, "weir-bench: error: no request ended well\n");
    status = WEIR_BENCH_FAILED;
  } else if (!objectives_met(&b)) {
    status = WEIR_BENCH_NOT_MET;
  }
  if (b.csv) fclose(b.csv);
  json_decref(b.doc);
  json_decref(b.points);
  weir_target_close(b.target);
  weir_data_close(b.data);
  if (b.base) event_base_free(b.base);
  return status;
}
