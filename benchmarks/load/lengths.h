/* SPDX-License-Identifier: Apache-2.0 */
/* Distributions of lengths, in tokens: "128" or "fixed:128", "uniform:64:256", "lognormal:128:0.5" (median
 * and the logarithm's standard deviation). */
#ifndef WEIR_LOAD_LENGTHS_H
#define WEIR_LOAD_LENGTHS_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "load/rand.h"

enum { WEIR_LENGTH_MAX = 1 << 20 };

typedef struct weir_lengths {
  enum { WEIR_LENGTH_FIXED, WEIR_LENGTH_UNIFORM, WEIR_LENGTH_LOGNORMAL } kind;
  double a, b; /* FIXED: a; UNIFORM: from a to b, both in; LOGNORMAL: median a, sigma b */
} weir_lengths;

/* `what` names the option in errors. */
weir_status weir_lengths_parse(const char *text, const char *what, weir_lengths *out, weir_err *e);
/* In [1, WEIR_LENGTH_MAX]; a lognormal one at most 16 times its median. */
int32_t weir_lengths_draw(const weir_lengths *, weir_rand *);
double weir_lengths_mean(const weir_lengths *); /* of a lognormal one before it is cut */

#endif
