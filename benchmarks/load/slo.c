/* SPDX-License-Identifier: Apache-2.0 */
/* The grammar of objectives. Pure; any thread. */
#include "load/slo.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"

static const char *const names[WEIR_SLO_N_METRICS] = {"ttft",        "tpot", "itl",        "e2e",
                                                      "queue",       "good", "error_rate", "deferral_rate",
                                                      "exact_match", "rps",  "goodput",    "tok_s"};

const char *weir_slo_metric_name(weir_slo_metric m) { return names[m]; }

static weir_status parse_name(const char *text, weir_slo_term *t, weir_err *e) {
  char name[64];
  snprintf(name, sizeof name, "%s", text);
  t->of = WEIR_SLO_VALUE;
  for (int i = 0; i < WEIR_SLO_N_METRICS; i++)
    if (!strcmp(name, names[i])) {
      t->metric = (weir_slo_metric)i;
      if (i < WEIR_SLO_N_TIMES) t->of = WEIR_SLO_EACH;
      return WEIR_OK;
    }
  char *tail = strrchr(name, '_');
  if (tail) {
    *tail++ = '\0';
    for (int i = 0; i < WEIR_SLO_N_TIMES; i++) {
      if (strcmp(name, names[i]) != 0) continue;
      t->metric = (weir_slo_metric)i;
      t->of = WEIR_SLO_QUANTILE;
      char *end = NULL;
      if (*tail == 'p' && isdigit((unsigned char)tail[1])) t->q = strtod(tail + 1, &end) / 100;
      if (end && *end == '\0' && t->q > 0 && t->q <= 1) return WEIR_OK;
      t->q = 1;
      if (!strcmp(tail, "max")) return WEIR_OK;
      t->q = 0;
      t->of = WEIR_SLO_MEAN;
      if (!strcmp(tail, "mean")) return WEIR_OK;
      return weir_fail(e, WEIR_EINVAL, "\"%.40s\": want %s_mean, %s_max or %s_p50 .. %s_p99.9", text, name,
                       name, name, name);
    }
  }
  const char *near = weir_nearest_name(text, names, WEIR_SLO_N_METRICS);
  return weir_fail(e, WEIR_EINVAL, "\"%.40s\" is not measured%s%s%s", text, near ? "; did you mean " : "",
                   near ? near : "",
                   near ? "?"
                        : ": ttft, tpot, itl, e2e, queue, good, error_rate, deferral_rate, "
                          "exact_match, rps, goodput, tok_s");
}

static weir_status parse_bound(const char *text, weir_slo_term *t, weir_err *e) {
  static const struct {
    const char *name;
    double s;
  } units[] = {{"us", 1e-6}, {"ms", 1e-3}, {"s", 1}, {"m", 60}};
  char *end;
  t->bound = strtod(text, &end);
  if (end == text || !isfinite(t->bound) || t->bound < 0)
    return weir_fail(e, WEIR_EINVAL, "\"%.40s\" is not a number of at least 0", text);
  const bool time = t->metric < WEIR_SLO_N_TIMES;
  for (size_t i = 0; time && i < sizeof units / sizeof *units; i++)
    if (!strcmp(end, units[i].name)) {
      t->bound *= units[i].s;
      return WEIR_OK;
    }
  if (time) return weir_fail(e, WEIR_EINVAL, "\"%.40s\": a time needs a unit: us, ms, s or m", text);
  if (!strcmp(end, "%")) {
    t->bound /= 100;
    end++;
  }
  if (*end) return weir_fail(e, WEIR_EINVAL, "\"%.40s\": want a plain number", text);
  return WEIR_OK;
}

static weir_status parse_term(const char *text, size_t n, weir_slo_term *t, weir_err *e) {
  weir_status st = WEIR_OK;
  char buf[64];
  *t = (weir_slo_term){0};
  if (n >= sizeof buf) return weir_fail(e, WEIR_EINVAL, "\"%.40s...\" is too long", text);
  size_t k = 0;
  for (size_t i = 0; i < n; i++)
    if (!isspace((unsigned char)text[i])) buf[k++] = text[i];
  buf[k] = '\0';
  memcpy(t->text, buf, k + 1);
  char *op = strpbrk(buf, "<>=");
  if (!op || op == buf)
    return weir_fail(e, WEIR_EINVAL, "\"%s\": want a metric, an operator and a bound, as in ttft=200ms", buf);
  const bool less = *op == '<', more = *op == '>', equal = *op == '=' || op[1] == '=';
  *op = '\0';
  WEIR_TRY(parse_name(buf, t, e));
  WEIR_TRY(parse_bound(op + 1 + ((less || more) && equal), t, e));
  const bool lower_is_better =
      t->metric < WEIR_SLO_N_TIMES || t->metric == WEIR_SLO_ERROR_RATE || t->metric == WEIR_SLO_DEFERRAL_RATE;
  t->at_least = more || (!less && !lower_is_better);
  t->strict = !equal;
  if (t->of == WEIR_SLO_EACH && t->at_least)
    st = weir_fail(e, WEIR_EINVAL, "\"%s\": a bound on each request is an upper one", t->text);
out:
  return st;
}

weir_status weir_slo_parse(const char *text, weir_slo *out, weir_err *e) {
  *out = (weir_slo){.good_share = 0.99};
  for (const char *s = text ? text : ""; *s;) {
    const size_t n = strcspn(s, ",");
    const bool blank = strspn(s, " \t") >= n;
    if (!blank) {
      if (out->n == WEIR_SLO_MAX_TERMS)
        return weir_fail(e, WEIR_EINVAL, "more than %d terms", WEIR_SLO_MAX_TERMS);
      const weir_status st = parse_term(s, n, &out->term[out->n], e);
      if (st != WEIR_OK) return st;
      out->n++;
    }
    s += n + (s[n] == ',');
  }
  return WEIR_OK;
}

bool weir_slo_has_each(const weir_slo *s) {
  for (int32_t i = 0; i < s->n; i++)
    if (s->term[i].of == WEIR_SLO_EACH) return true;
  return false;
}

static bool keeps(const weir_slo_term *t, double x) {
  if (t->at_least) return t->strict ? x > t->bound : x >= t->bound;
  return t->strict ? x < t->bound : x <= t->bound;
}

bool weir_slo_good(const weir_slo *s, const double time_s[WEIR_SLO_N_TIMES]) {
  for (int32_t i = 0; i < s->n; i++) {
    const weir_slo_term *t = &s->term[i];
    if (t->of == WEIR_SLO_EACH && !isnan(time_s[t->metric]) && !keeps(t, time_s[t->metric])) return false;
  }
  return true;
}

bool weir_slo_term_met(const weir_slo_term *t, double value) { return !isnan(value) && keeps(t, value); }
