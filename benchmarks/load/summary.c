/* SPDX-License-Identifier: Apache-2.0 */
/* Makes a point's JSON from its records. Latencies are those of requests that ended well and were read at
 * full speed; times to the first token also those of requests that were broken off or cut later. What was
 * asked and not answered has no latency: objectives take it for longer than any bound, and as a failure, or a
 * server would look the better the fewer requests it answered. The load's thread. */
#include "load/summary.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CDF_STEPS = 100, BATCHES = 10 };

json_t *weir_json_number(double x) { return isfinite(x) ? json_real(x) : json_null(); }

double weir_json_at(const json_t *o, const char *path) {
  char name[64];
  while (o && *path) {
    const size_t n = strcspn(path, ".");
    snprintf(name, sizeof name, "%.*s", (int)n, path);
    o = json_object_get(o, name);
    path += n + (path[n] == '.');
  }
  return json_is_number(o) ? json_number_value(o) : NAN;
}

void weir_share_interval(int64_t right, int64_t n, double *lo, double *hi) {
  *lo = 0;
  *hi = 1;
  if (n <= 0) return;
  const double z = 1.959963984540054, m = (double)n, p = (double)right / m, z2 = z * z / m;
  const double mid = (p + z2 / 2) / (1 + z2), half = z * sqrt(p * (1 - p) / m + z2 / (4 * m)) / (1 + z2);
  *lo = fmax(0, mid - half);
  *hi = fmin(1, mid + half);
}

void weir_record_times(const weir_load_record *r, bool from_sent, double t[WEIR_SLO_N_TIMES]) {
  const int64_t from = from_sent ? r->sent_ns : r->scheduled_ns;
  t[WEIR_SLO_TTFT] = r->first_ns >= 0 ? (double)(r->first_ns - from) * 1e-9 : NAN;
  t[WEIR_SLO_TPOT] = r->first_ns >= 0 && r->output_tokens > 1
                         ? (double)(r->last_ns - r->first_ns) * 1e-9 / (r->output_tokens - 1)
                         : NAN;
  t[WEIR_SLO_ITL] = r->longest_gap_ns >= 0 ? (double)r->longest_gap_ns * 1e-9 : NAN;
  t[WEIR_SLO_E2E] = r->end_ns >= 0 ? (double)(r->end_ns - from) * 1e-9 : NAN;
  t[WEIR_SLO_QUEUE] = r->queue_ms * 1e-3;
}

static json_t *spread(weir_samples *s) {
  json_t *o = json_object(), *cdf = json_array();
  static const struct {
    const char *name;
    double q;
  } at[] = {{"p50", .5}, {"p90", .9}, {"p95", .95}, {"p99", .99}, {"max", 1}};
  double lo, hi;
  json_object_set_new(o, "n", json_integer(s->n));
  json_object_set_new(o, "mean", weir_json_number(weir_samples_mean(s) * 1e3));
  json_object_set_new(o, "sd", weir_json_number(weir_samples_deviation(s) * 1e3));
  json_object_set_new(o, "min", weir_json_number(weir_samples_quantile(s, 0) * 1e3));
  for (size_t i = 0; i < sizeof at / sizeof *at; i++)
    json_object_set_new(o, at[i].name, weir_json_number(weir_samples_quantile(s, at[i].q) * 1e3));
  weir_samples_interval(s, .5, &lo, &hi);
  json_object_set_new(o, "p50_95",
                      json_pack("[o, o]", weir_json_number(lo * 1e3), weir_json_number(hi * 1e3)));
  weir_samples_interval(s, .99, &lo, &hi);
  json_object_set_new(o, "p99_95",
                      json_pack("[o, o]", weir_json_number(lo * 1e3), weir_json_number(hi * 1e3)));
  for (int i = 0; i <= CDF_STEPS && s->n > 0; i++)
    json_array_append_new(cdf, weir_json_number(weir_samples_quantile(s, (double)i / CDF_STEPS) * 1e3));
  json_object_set_new(o, "quantiles", cdf);
  return o;
}

/* ---- counting ---- */

typedef struct {
  weir_samples time[WEIR_SLO_N_TIMES], sent[WEIR_SLO_N_TIMES], lag;
  int64_t ok, errors, cancelled, cut, slow, good, judged, tasks, right;
  int64_t unanswered;       /* cut, but not by the user, or never sent */
  int64_t no_first, no_end; /* of those and of the ones whose time was over: without a first token, an end */
  int64_t prompt, output, cached, by_tier[WEIR_LOAD_TIERS], shorter;
  bool tiers, prompts;
  double deferral, deferral_weight;
} tally;

static weir_status count_times(tally *t, const weir_load_record *r, const weir_slo *slo) {
  double sched[WEIR_SLO_N_TIMES], sent[WEIR_SLO_N_TIMES];
  weir_status st = WEIR_OK;
  weir_record_times(r, false, sched);
  weir_record_times(r, true, sent);
  const bool ok = r->outcome == WEIR_LOAD_OK;
  for (int k = 0; k < WEIR_SLO_N_TIMES && st == WEIR_OK; k++) {
    if (!ok && k != WEIR_SLO_TTFT) continue; /* what had no first token has NaN, which is left out */
    st = weir_samples_add(&t->time[k], sched[k], NULL);
    if (st == WEIR_OK) st = weir_samples_add(&t->sent[k], sent[k], NULL);
  }
  if (ok && weir_slo_good(slo, sched)) t->good++;
  return st;
}

static weir_status count(tally *t, const weir_load_record *r, const weir_slo *slo, bool interrupted) {
  weir_status st = WEIR_OK;
  t->ok += r->outcome == WEIR_LOAD_OK;
  t->errors += r->outcome == WEIR_LOAD_ERROR;
  t->cancelled += r->outcome == WEIR_LOAD_CANCELLED;
  t->cut += r->outcome == WEIR_LOAD_CUT;
  t->slow += r->slow;
  t->output += r->output_tokens > 0 ? r->output_tokens : 0;
  if (r->prompt_tokens >= 0) {
    t->prompt += r->prompt_tokens;
    t->prompts = true;
  }
  if (r->cached_tokens > 0) t->cached += r->cached_tokens;
  for (int k = 0; k < WEIR_LOAD_TIERS && r->tiers; k++) t->by_tier[k] += r->by_tier[k];
  t->tiers = t->tiers || r->tiers;
  if (!isnan(r->deferral_rate) && r->output_tokens > 0) {
    t->deferral += r->deferral_rate * r->output_tokens;
    t->deferral_weight += r->output_tokens;
  }
  if (r->right >= 0 && r->outcome != WEIR_LOAD_CANCELLED && r->outcome != WEIR_LOAD_CUT) {
    t->tasks++;
    t->right += r->right;
  }
  if (r->slow) return WEIR_OK;
  const bool planned = r->outcome == WEIR_LOAD_CANCELLED || (r->outcome == WEIR_LOAD_CUT && interrupted);
  const bool unanswered = r->outcome == WEIR_LOAD_CUT && !interrupted;
  t->judged += !planned;
  t->unanswered += unanswered;
  t->no_end += unanswered || r->gave_up;
  t->no_first += (unanswered || r->gave_up) && r->first_ns < 0;
  if (r->outcome != WEIR_LOAD_ERROR || r->gave_up) st = count_times(t, r, slo);
  if (st == WEIR_OK) st = weir_samples_add(&t->lag, (double)(r->sent_ns - r->scheduled_ns) * 1e-9, NULL);
  return st;
}

static double deferral_of(const tally *t) {
  if (t->deferral_weight > 0) return t->deferral / t->deferral_weight;
  int64_t all = 0;
  for (int k = 0; k < WEIR_LOAD_TIERS; k++) all += t->by_tier[k];
  return t->tiers && all > 0 ? (double)(all - t->by_tier[0]) / (double)all : NAN;
}

/* How far the mean of a rate over a run may be off: from ten batches of time (batch means; Law, "Simulation
 * modeling and analysis", 9.5). As a share of the mean, 95 %; NaN for runs too short. */
static double rate_noise(const double *count, int32_t n) {
  double sum = 0, sum2 = 0;
  if (n < BATCHES) return NAN;
  for (int b = 0; b < BATCHES; b++) {
    double x = 0;
    const int32_t from = (int32_t)((int64_t)n * b / BATCHES), to = (int32_t)((int64_t)n * (b + 1) / BATCHES);
    for (int32_t i = from; i < to; i++) x += count[i];
    x /= to - from;
    sum += x;
    sum2 += x * x;
  }
  const double mean = sum / BATCHES, v = (sum2 - sum * mean) / (BATCHES - 1);
  return mean > 0 ? 2.262 * sqrt(fmax(v, 0) / BATCHES) / mean : NAN; /* Student, 9 degrees of freedom */
}

/* ---- the timeline ---- */

typedef struct {
  double running[WEIR_TIMELINE_SLOTS], started[WEIR_TIMELINE_SLOTS], ended[WEIR_TIMELINE_SLOTS],
      errors[WEIR_TIMELINE_SLOTS], tokens[WEIR_TIMELINE_SLOTS], deferral[WEIR_TIMELINE_SLOTS];
  int32_t n;
  double width_s;
} course;

static int32_t slot_of(const course *c, int64_t ns) {
  const int32_t i = (int32_t)((double)ns * 1e-9 / c->width_s);
  return i < 0 ? 0 : i >= c->n ? c->n - 1 : i;
}

static void add_running(course *c, const weir_load_record *r) {
  const double from = (double)r->sent_ns * 1e-9, to = (double)r->end_ns * 1e-9;
  for (int32_t i = slot_of(c, r->sent_ns); i < c->n && i * c->width_s < to; i++) {
    const double a = fmax(from, i * c->width_s), b = fmin(to, (i + 1) * c->width_s);
    if (b > a) c->running[i] += (b - a) / c->width_s;
  }
}

static void make_course(course *c, const weir_load_result *out) {
  *c = (course){.width_s = out->timeline.width_s};
  while (out->wall_s / c->width_s > WEIR_TIMELINE_SLOTS) c->width_s *= 2;
  c->n = (int32_t)ceil(out->wall_s / c->width_s);
  if (c->n < 1) c->n = 1;
  if (c->n > WEIR_TIMELINE_SLOTS) c->n = WEIR_TIMELINE_SLOTS;
  for (int64_t i = 0; i < out->n; i++) {
    const weir_load_record *r = &out->record[i];
    c->started[slot_of(c, r->sent_ns)] += 1 / c->width_s;
    if (r->end_ns < 0) continue;
    if (r->outcome == WEIR_LOAD_OK) c->ended[slot_of(c, r->end_ns)] += 1 / c->width_s;
    if (r->outcome == WEIR_LOAD_ERROR) c->errors[slot_of(c, r->end_ns)] += 1 / c->width_s;
    add_running(c, r);
  }
  double large[WEIR_TIMELINE_SLOTS] = {0}, known[WEIR_TIMELINE_SLOTS] = {0};
  for (int32_t i = 0; i < out->timeline.n; i++) {
    const int32_t at = slot_of(c, (int64_t)((i + .5) * out->timeline.width_s * 1e9));
    c->tokens[at] += (double)out->timeline.slot[i].tokens / c->width_s;
    for (int k = 0; k < WEIR_LOAD_TIERS; k++) {
      known[at] += (double)out->timeline.slot[i].by_tier[k];
      if (k > 0) large[at] += (double)out->timeline.slot[i].by_tier[k];
    }
  }
  for (int32_t i = 0; i < c->n; i++) c->deferral[i] = known[i] > 0 ? large[i] / known[i] : NAN;
}

static json_t *numbers(const double *x, int32_t n) {
  json_t *a = json_array();
  for (int32_t i = 0; i < n; i++) json_array_append_new(a, weir_json_number(x[i]));
  return a;
}

static json_t *course_json(const course *c) {
  return json_pack("{s:f, s:o, s:o, s:o, s:o, s:o, s:o}", "width_s", c->width_s, "running",
                   numbers(c->running, c->n), "started_s", numbers(c->started, c->n), "ok_s",
                   numbers(c->ended, c->n), "errors_s", numbers(c->errors, c->n), "tok_s",
                   numbers(c->tokens, c->n), "deferral_rate", numbers(c->deferral, c->n));
}

/* ---- objectives ---- */

static double run_value(const weir_slo_term *t, tally *c, const json_t *point) {
  const int64_t beyond = t->metric == WEIR_SLO_TTFT ? c->no_first : c->no_end;
  if (t->of == WEIR_SLO_MEAN) return beyond > 0 ? INFINITY : weir_samples_mean(&c->time[t->metric]);
  if (t->of == WEIR_SLO_QUANTILE) return weir_samples_quantile_beyond(&c->time[t->metric], t->q, beyond);
  switch (t->metric) {
    case WEIR_SLO_GOOD: return weir_json_at(point, "goodput.share");
    case WEIR_SLO_ERROR_RATE: return weir_json_at(point, "requests.error_rate");
    case WEIR_SLO_DEFERRAL_RATE: return weir_json_at(point, "deferral_rate");
    case WEIR_SLO_EXACT_MATCH: return weir_json_at(point, "exact_match.share");
    case WEIR_SLO_RPS: return weir_json_at(point, "throughput.rps");
    case WEIR_SLO_GOODPUT: return weir_json_at(point, "goodput.rps");
    case WEIR_SLO_TOK_S: return weir_json_at(point, "throughput.output_tok_s");
    default: return NAN;
  }
}

static json_t *judge(const weir_slo *slo, tally *c, const json_t *point) {
  json_t *terms = json_array();
  bool met = true, told = false;
  for (int32_t i = 0; i < slo->n; i++) {
    const weir_slo_term *t = &slo->term[i];
    if (t->of == WEIR_SLO_EACH) continue;
    told = told || t->metric == WEIR_SLO_GOOD;
    const double value = run_value(t, c, point);
    const bool ok = weir_slo_term_met(t, value);
    met = met && ok;
    json_t *o =
        json_pack("{s:s, s:o, s:b}", "text", t->text, "value",
                  weir_json_number(t->metric < WEIR_SLO_N_TIMES ? value * 1e3 : value), "met", (int)ok);
    if (isinf(value)) json_object_set_new(o, "unanswered", json_true());
    json_array_append_new(terms, o);
  }
  if (weir_slo_has_each(slo) && !told) {
    char text[256];
    int n = snprintf(text, sizeof text, "%g of requests keep", slo->good_share);
    for (int32_t i = 0; i < slo->n; i++)
      if (slo->term[i].of == WEIR_SLO_EACH && n > 0 && n < (int)sizeof text)
        n += snprintf(text + n, sizeof text - (size_t)n, " %s", slo->term[i].text);
    const double share = weir_json_at(point, "goodput.share");
    const bool ok = share >= slo->good_share;
    met = met && ok;
    json_array_append_new(
        terms, json_pack("{s:s, s:o, s:b}", "text", text, "value", weir_json_number(share), "met", (int)ok));
  }
  return json_pack("{s:b, s:o}", "met", (int)met, "terms", terms);
}

/* ---- the point ---- */

static json_t *load_json(const weir_run_cfg *c) {
  const weir_arrivals_cfg *a = &c->arrivals;
  const bool open = a->kind != WEIR_LOAD_CLOSED, rated = open && a->kind != WEIR_LOAD_TRACE;
  json_t *o = json_pack("{s:s, s:i}", "kind", weir_load_kind_name(a->kind),
                        open ? "max_concurrency" : "concurrency", (int)c->concurrency);
  if (rated) json_object_set_new(o, "rate", weir_json_number(a->rate));
  if (a->kind == WEIR_LOAD_RAMP) json_object_set_new(o, "rate_end", weir_json_number(a->rate_end));
  if (a->kind == WEIR_LOAD_GAMMA) json_object_set_new(o, "burstiness", weir_json_number(a->burstiness));
  if (!isnan(c->entropy)) json_object_set_new(o, "entropy", weir_json_number(c->entropy));
  return o;
}

static json_t *errors_json(const weir_load_result *out) {
  json_t *a = json_array();
  for (int32_t i = 0; i < out->n_errors; i++) {
    const weir_load_error *x = &out->error[i];
    json_t *message = json_string(x->message);
    json_array_append_new(a,
                          json_pack("{s:i, s:s*, s:o, s:I}", "code", x->code, "what", x->what, "message",
                                    message ? message : json_string("(not UTF-8)"), "n", (json_int_t)x->n));
  }
  return a;
}

static json_t *requests_json(const weir_load_result *out, const tally *t) {
  const int64_t failed = t->errors + t->unanswered, all = t->ok + failed;
  return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o}", "sent", (json_int_t)out->n, "ok",
                   (json_int_t)t->ok, "errors", (json_int_t)t->errors, "cancelled", (json_int_t)t->cancelled,
                   "cut", (json_int_t)t->cut, "unsent", (json_int_t)out->unsent, "unanswered",
                   (json_int_t)t->unanswered, "slow_readers", (json_int_t)t->slow, "error_rate",
                   weir_json_number(all > 0 ? (double)failed / (double)all : NAN), "by_error",
                   errors_json(out));
}

static json_t *throughput_json(const weir_load_result *out, const tally *t, const course *c) {
  const double s = out->wall_s > 0 ? out->wall_s : NAN;
  double large = NAN;
  if (t->tiers) {
    large = 0;
    for (int k = 1; k < WEIR_LOAD_TIERS; k++) large += (double)t->by_tier[k] / s;
  }
  return json_pack(
      "{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "rps", weir_json_number((double)t->ok / s), "rps_noise",
      weir_json_number(rate_noise(c->ended, c->n)), "output_tok_s", weir_json_number((double)t->output / s),
      "output_tok_s_noise", weir_json_number(rate_noise(c->tokens, c->n)), "total_tok_s",
      weir_json_number(t->prompts ? (double)(t->output + t->prompt) / s : NAN), "small_tok_s",
      weir_json_number(t->tiers ? (double)t->by_tier[0] / s : NAN), "large_tok_s", weir_json_number(large));
}

static json_t *latency_json(tally *t, weir_load_result *out) {
  json_t *o = json_object();
  static const struct {
    const char *name;
    int at;
  } part[] = {
      {"ttft", WEIR_SLO_TTFT}, {"tpot", WEIR_SLO_TPOT}, {"e2e", WEIR_SLO_E2E}, {"queue", WEIR_SLO_QUEUE}};
  for (size_t i = 0; i < sizeof part / sizeof *part; i++)
    json_object_set_new(o, part[i].name, spread(&t->time[part[i].at]));
  json_object_set_new(o, "itl", spread(&out->itl));
  if (out->itl_tier[0].n > 0) json_object_set_new(o, "itl_small", spread(&out->itl_tier[0]));
  if (out->itl_tier[1].n > 0) json_object_set_new(o, "itl_large", spread(&out->itl_tier[1]));
  json_object_set_new(o, "ttft_from_sent", spread(&t->sent[WEIR_SLO_TTFT]));
  json_object_set_new(o, "e2e_from_sent", spread(&t->sent[WEIR_SLO_E2E]));
  json_object_set_new(o, "sent_late", spread(&t->lag));
  return o;
}

static json_t *tokens_json(const weir_load_result *out, const tally *t) {
  return json_pack("{s:o, s:I, s:o, s:s}", "prompt", t->prompts ? json_integer(t->prompt) : json_null(),
                   "output", (json_int_t)t->output, "cached",
                   t->prompts ? json_integer(t->cached) : json_null(), "counted_by",
                   out->counted_pieces ? "pieces" : "usage");
}

static json_t *exact_json(const tally *t) {
  double lo, hi;
  if (t->tasks == 0) return json_null();
  weir_share_interval(t->right, t->tasks, &lo, &hi);
  return json_pack("{s:I, s:I, s:f, s:[f,f]}", "n", (json_int_t)t->tasks, "right", (json_int_t)t->right,
                   "share", (double)t->right / (double)t->tasks, "interval95", lo, hi);
}

json_t *weir_summary_point(const weir_run_cfg *cfg, const weir_slo *slo, weir_load_result *out) {
  tally t = {0};
  json_t *point = NULL;
  course *c = malloc(sizeof *c);
  weir_status st = c ? WEIR_OK : WEIR_ENOMEM;
  for (int k = 0; k < WEIR_SLO_N_TIMES; k++) {
    weir_samples_init(&t.time[k], 0);
    weir_samples_init(&t.sent[k], 0);
  }
  weir_samples_init(&t.lag, 0);
  for (int64_t i = 0; i < out->n && st == WEIR_OK; i++)
    st = count(&t, &out->record[i], slo, out->interrupted);
  if (st != WEIR_OK) goto out;
  t.unanswered += out->unsent;
  t.no_first += out->unsent;
  t.no_end += out->unsent;
  make_course(c, out);
  const double judged = (double)(t.judged + out->unsent);
  point = json_object();
  json_object_set_new(point, "load", load_json(cfg));
  json_object_set_new(point, "wall_s", weir_json_number(out->wall_s));
  json_object_set_new(point, "interrupted", json_boolean(out->interrupted));
  json_object_set_new(point, "requests", requests_json(out, &t));
  json_object_set_new(point, "throughput", throughput_json(out, &t, c));
  json_object_set_new(
      point, "goodput",
      json_pack("{s:o, s:o}", "rps", weir_json_number(out->wall_s > 0 ? (double)t.good / out->wall_s : NAN),
                "share", weir_json_number(judged > 0 ? (double)t.good / judged : NAN)));
  json_object_set_new(point, "tokens", tokens_json(out, &t));
  json_object_set_new(point, "deferral_rate", weir_json_number(deferral_of(&t)));
  json_object_set_new(point, "exact_match", exact_json(&t));
  json_object_set_new(point, "latency_ms", latency_json(&t, out));
  json_object_set_new(point, "timeline", course_json(c));
  json_object_set_new(point, "slo", slo->n > 0 ? judge(slo, &t, point) : json_null());
out:
  free(c);
  for (int k = 0; k < WEIR_SLO_N_TIMES; k++) {
    weir_samples_fini(&t.time[k]);
    weir_samples_fini(&t.sent[k]);
  }
  weir_samples_fini(&t.lag);
  return point;
}

bool weir_summary_met(const json_t *point) {
  const json_t *met = json_object_get(json_object_get(point, "slo"), "met");
  return !met || json_is_true(met);
}

double weir_summary_goodput(const json_t *point) { return weir_json_at(point, "goodput.rps"); }
