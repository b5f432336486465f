/* SPDX-License-Identifier: Apache-2.0 */
/* Stretches of the written text in which another threshold of the gate holds.
 *
 * The text is read from its beginning: where the start of a span is complete (of several that end at the same
 * byte, the first of the list), that span holds from the next token on, until its end is found behind that,
 * and the search goes on behind the end. One holds at a time. Which one is a function of the tokens written:
 * the state after each is kept, so that taking tokens back needs no bookkeeping. */
#ifndef WEIR_SERVE_GATE_SPANS_H
#define WEIR_SERVE_GATE_SPANS_H
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { WEIR_MAX_GATE_SPANS = 16, WEIR_MAX_SPAN_BYTES = 256 /* of a start, of an end */ };

typedef struct weir_gate_span {
  const char *start; /* not empty */
  const char *end;   /* "" or NULL: the end of the answer */
  float threshold;   /* of the gate the request has */
} weir_gate_span;

typedef struct weir_span_mark { /* the state after a token */
  size_t from;                  /* bytes of the text before it are done with */
  int32_t active;               /* index of the span that holds; -1: none */
} weir_span_mark;

typedef struct weir_gate_spans {
  struct weir_own_span {
    char *start, *end;
    size_t n_start, n_end;
    float threshold;
  } * span;             /* [n], owned */
  weir_span_mark *mark; /* [max_new], after token i, owned */
  int32_t n, max_new;
} weir_gate_spans; /* zeroed: none */

/* Copies span[n]. WEIR_EINVAL names what is wrong. With n 0 nothing is allocated. */
weir_status weir_gate_spans_init(weir_gate_spans *, const weir_gate_span *span, int32_t n, int32_t max_new,
                                 weir_err *e);
void weir_gate_spans_fini(weir_gate_spans *);
/* Token i was written and text[0..len) is the text up to it; the states of the tokens before are there. */
void weir_gate_spans_note(weir_gate_spans *, int32_t i, const char *text, size_t len);
/* The threshold that holds for the token after the first n; `otherwise` where no span does. */
float weir_gate_spans_threshold(const weir_gate_spans *, int32_t n, float otherwise);

#endif
