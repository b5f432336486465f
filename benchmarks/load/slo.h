/* SPDX-License-Identifier: Apache-2.0 */
/* Service-level objectives: "ttft=200ms,tpot=50ms,ttft_p99<500ms,error_rate<0.01".
 *
 *   ttft tpot itl e2e queue   bare: a bound on each request (itl: its longest gap); a request that keeps all
 * of them is good, and the run needs a share of good ones ("good>=0.95"; 0.99 by default)
 *   ..._mean _p50 _p90 _p99.9 _max   a bound on the run
 *   good error_rate deferral_rate exact_match rps goodput tok_s   a bound on the run
 *
 * Operators: = < <= > >=; for times and rates of error "=" means "at most". Times have a unit: us, ms, s, m.
 */
#ifndef WEIR_LOAD_SLO_H
#define WEIR_LOAD_SLO_H
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

typedef enum {
  WEIR_SLO_TTFT,
  WEIR_SLO_TPOT,
  WEIR_SLO_ITL,
  WEIR_SLO_E2E,
  WEIR_SLO_QUEUE,
  WEIR_SLO_N_TIMES,
  WEIR_SLO_GOOD = WEIR_SLO_N_TIMES,
  WEIR_SLO_ERROR_RATE,
  WEIR_SLO_DEFERRAL_RATE,
  WEIR_SLO_EXACT_MATCH,
  WEIR_SLO_RPS,
  WEIR_SLO_GOODPUT,
  WEIR_SLO_TOK_S,
  WEIR_SLO_N_METRICS
} weir_slo_metric;

typedef struct weir_slo_term {
  weir_slo_metric metric;
  enum { WEIR_SLO_EACH, WEIR_SLO_MEAN, WEIR_SLO_QUANTILE, WEIR_SLO_VALUE } of;
  double q; /* QUANTILE, in (0, 1] */
  bool at_least, strict;
  double bound;  /* seconds, or the metric's own unit */
  char text[64]; /* as the user wrote it */
} weir_slo_term;

enum { WEIR_SLO_MAX_TERMS = 32 };

typedef struct weir_slo {
  weir_slo_term term[WEIR_SLO_MAX_TERMS];
  int32_t n;
  double good_share; /* what `good` must reach where bounds on requests are set and no term tells it */
} weir_slo;

/* WEIR_EINVAL says what was not understood. "" and NULL: no term. */
weir_status weir_slo_parse(const char *text, weir_slo *out, weir_err *e);
bool weir_slo_has_each(const weir_slo *);
/* Whether one request keeps every bound; a time that is NaN (not measured) keeps its own. Seconds. */
bool weir_slo_good(const weir_slo *, const double time_s[WEIR_SLO_N_TIMES]);
/* Whether a value keeps a bound on the run; NaN does not. */
bool weir_slo_term_met(const weir_slo_term *, double value);
const char *weir_slo_metric_name(weir_slo_metric);

#endif
