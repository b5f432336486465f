/* SPDX-License-Identifier: Apache-2.0 */
/* Distributions of lengths. Pure; any thread. */
#include "load/lengths.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

weir_status weir_lengths_parse(const char *text, const char *what, weir_lengths *out, weir_err *e) {
  double a = 0, b = 0;
  int used = -1;
  weir_lengths l = {WEIR_LENGTH_FIXED, 0, 0};
  if (sscanf(text, "uniform:%lf:%lf%n", &a, &b, &used) == 2 && used > 0 && !text[used])
    l.kind = WEIR_LENGTH_UNIFORM;
  else if (used = -1, sscanf(text, "lognormal:%lf:%lf%n", &a, &b, &used) == 2 && used > 0 && !text[used])
    l.kind = WEIR_LENGTH_LOGNORMAL;
  else if (used = -1,
           (sscanf(text, "fixed:%lf%n", &a, &used) == 1 || sscanf(text, "%lf%n", &a, &used) == 1) &&
               used > 0 && !text[used])
    b = a;
  else
    return weir_fail(e, WEIR_EINVAL,
                     "%s: \"%.60s\": want N, fixed:N, uniform:FROM:TO or lognormal:MEDIAN:SIGMA", what, text);
  const bool whole = l.kind != WEIR_LENGTH_LOGNORMAL;
  if (!(a >= 1 && a <= WEIR_LENGTH_MAX) ||
      (whole && (!(b >= a && b <= WEIR_LENGTH_MAX) || a != floor(a) || b != floor(b))) ||
      (!whole && !(b >= 0 && b <= 4)))
    return weir_fail(e, WEIR_EINVAL, "%s: \"%.60s\": lengths are 1 .. %d, FROM at most TO, SIGMA 0 .. 4",
                     what, text, WEIR_LENGTH_MAX);
  l.a = a;
  l.b = b;
  *out = l;
  return WEIR_OK;
}

int32_t weir_lengths_draw(const weir_lengths *l, weir_rand *r) {
  double x = l->a;
  if (l->kind == WEIR_LENGTH_UNIFORM) x = l->a + (double)weir_rand_below(r, (uint64_t)(l->b - l->a) + 1);
  if (l->kind == WEIR_LENGTH_LOGNORMAL) x = fmin(round(l->a * exp(l->b * weir_rand_normal(r))), 16 * l->a);
  return x < 1 ? 1 : x > WEIR_LENGTH_MAX ? WEIR_LENGTH_MAX : (int32_t)x;
}

double weir_lengths_mean(const weir_lengths *l) {
  switch (l->kind) {
    case WEIR_LENGTH_FIXED: return l->a;
    case WEIR_LENGTH_UNIFORM: return (l->a + l->b) / 2;
    case WEIR_LENGTH_LOGNORMAL: return l->a * exp(l->b * l->b / 2);
  }
  return l->a;
}
