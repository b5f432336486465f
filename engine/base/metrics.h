/* SPDX-License-Identifier: Apache-2.0 */
/* Metrics: counters, gauges and histograms with labels, as Prometheus knows them. Any thread may move a
 * metric (no lock, relaxed atomics); making one takes a lock and belongs to start-up, where all the label
 * values there can be are known. Names carry the "weir:" prefix. */
#ifndef WEIR_BASE_METRICS_H
#define WEIR_BASE_METRICS_H
#include <stdint.h>

#include "base/err.h"

typedef struct weir_metrics weir_metrics; /* a registry */
typedef struct weir_metric weir_metric;   /* one time series */

typedef enum { WEIR_METRIC_COUNTER, WEIR_METRIC_GAUGE, WEIR_METRIC_HISTOGRAM } weir_metric_type;

typedef struct weir_metric_label {
  const char *name, *value;
} weir_metric_label;

/* Bounds: labels of a series, buckets of a histogram with +Inf, bytes of a name, series of a registry. */
enum {
  WEIR_METRIC_MAX_LABELS = 4,
  WEIR_METRIC_MAX_BUCKETS = 40,
  WEIR_METRIC_MAX_TEXT = 128,
  WEIR_METRIC_MAX_SERIES = 4096
};

weir_status weir_metrics_create(weir_metrics **out, weir_err *e);
void weir_metrics_destroy(weir_metrics *); /* NULL is fine */

/* A series of a family. Series of one family name must agree in type, help, label names and buckets; the same
 * labels again are WEIR_EINVAL, and so is a name that Prometheus would refuse. All strings are copied.
 * le[n_le] (histograms alone, at least one): upper bounds, ascending, without +Inf. The series lives as long
 * as the registry. */
weir_status weir_metrics_add(weir_metrics *, weir_metric_type, const char *name, const char *help,
                             const weir_metric_label *, int32_t n_labels, const double *le, int32_t n_le,
                             weir_metric **out, weir_err *e);

/* What a series is not made for (a counter that would fall, a value observed of a gauge) does nothing. */
void weir_metric_inc(weir_metric *, double by); /* counter: by >= 0; gauge: any */
/* Gauge; a counter that is counted elsewhere: never falls. */
void weir_metric_set(weir_metric *, double value);
void weir_metric_observe(weir_metric *, double value); /* histogram; NaN is not counted */

/* One series as it stands; arrays are borrowed for the call. */
typedef struct weir_metric_view {
  const char *name, *help;
  weir_metric_type type;
  const weir_metric_label *label;
  int32_t n_labels;
  double value;
  const double *le;      /* [n_le] with +Inf at the end */
  const uint64_t *count; /* [n_le], cumulative */
  int32_t n_le;
  double sum;
} weir_metric_view;
/* Calls fn for every series, those of a family together, in order of their making. A histogram's buckets
 * never contradict each other, though a value observed meanwhile may be missing. */
void weir_metrics_visit(weir_metrics *, void (*fn)(void *ctx, const weir_metric_view *), void *ctx);

#endif
