/* SPDX-License-Identifier: Apache-2.0 */
/* What a run came to, as JSON: the one form that the table, the page, the comparison and other programs read.
 * Times in ms, rates a second, shares 0 .. 1, null where nothing was measured. */
#ifndef WEIR_LOAD_SUMMARY_H
#define WEIR_LOAD_SUMMARY_H
#include <jansson.h>

#include "load/run.h"
#include "load/slo.h"

#define WEIR_LOAD_SCHEMA "weir.load.v1"

/* One point: the load asked for, and all that was measured. NULL: memory ran out. Sorts samples. */
json_t *weir_summary_point(const weir_run_cfg *, const weir_slo *, weir_load_result *);
/* Whether the point's objectives were met; true when there are none. */
bool weir_summary_met(const json_t *point);
/* Good requests a second. */
double weir_summary_goodput(const json_t *point);

/* The times of one request in seconds, NaN where not measured, from its scheduled or its actual sending. */
void weir_record_times(const weir_load_record *, bool from_sent, double time_s[WEIR_SLO_N_TIMES]);

/* The 95 % interval of a share (Wilson 1927). */
void weir_share_interval(int64_t right, int64_t n, double *lo, double *hi);

/* A value at a path of members, "throughput.rps"; NaN when it is not there or no number. */
double weir_json_at(const json_t *o, const char *path);
json_t *weir_json_number(double x); /* null for what JSON has no number for */

#endif
