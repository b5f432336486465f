/* SPDX-License-Identifier: Apache-2.0 */
/* --span 'THRESHOLD START [END]': the three parts stand apart by blanks; one with blanks in it stands in
 * double quotes; \n, \t, \r, \\ and \" are what they are in C. Without END, or with "", a span goes to the
 * end. */
#ifndef WEIR_PROGRAMS_SPANS_H
#define WEIR_PROGRAMS_SPANS_H
#include <stdint.h>

#include "base/config.h"
#include "base/err.h"
#include "serve/gate_spans.h"

typedef struct weir_span_list {
  weir_gate_span span[WEIR_MAX_GATE_SPANS];
  char *text[WEIR_MAX_GATE_SPANS]; /* [n], owned: what their markers point into */
  int32_t n;
} weir_span_list; /* zeroed: empty */

/* Adds one. WEIR_EINVAL says what is wrong with it. */
weir_status weir_span_list_add(weir_span_list *, const char *text, weir_err *e);
/* All of --span. */
weir_status weir_span_list_read(weir_span_list *, const weir_config *, weir_err *e);
void weir_span_list_fini(weir_span_list *);

#endif
