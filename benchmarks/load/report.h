/* SPDX-License-Identifier: Apache-2.0 */
/* Reports of runs, all made from the JSON of summary.h. */
#ifndef WEIR_LOAD_REPORT_H
#define WEIR_LOAD_REPORT_H
#include <jansson.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/err.h"
#include "load/run.h"

/* {"schema", "points": [..], ...}: the whole of one file. */
weir_status weir_report_table(const json_t *doc, weir_buf *out, weir_err *e);
/* One page for one file or several: [n] documents. Needs nothing but itself: drawings are SVG inside it. */
weir_status weir_report_html(json_t *const *doc, int32_t n, weir_buf *out, weir_err *e);
/* What b has to a, as a table; each ratio with whether it stands out of the noise. WEIR_EINVAL: the two do
 * not go together. */
weir_status weir_report_compare(const json_t *a, const json_t *b, weir_buf *out, weir_err *e);

void weir_report_csv_head(FILE *f);
void weir_report_csv(FILE *f, int32_t point, const weir_load_result *);

/* Reads a file that --json wrote; refuses another schema. Returns owned. */
weir_status weir_report_read(const char *path, json_t **out, weir_err *e);
weir_status weir_report_write(const char *path, const void *bytes, size_t n, weir_err *e);

/* "concurrency 8", "2.5 requests/s", "entropy 0.4": what tells a point from its neighbours. */
void weir_report_load_text(const json_t *point, char *buf, size_t bytes);
/* A time of x ms in few digits with its unit: "812 us", "4.21 ms", "1.3 s"; "-" for NaN. */
void weir_report_ms_text(double ms, char *buf, size_t bytes);
/* An objective's value as text; "longer than any" where it falls among requests that had no answer. */
void weir_report_term_text(const json_t *term, char *buf, size_t bytes);
/* The document's name: its label, else its model and server. */
void weir_report_name(const json_t *doc, char *buf, size_t bytes);

#endif
