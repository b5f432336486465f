/* SPDX-License-Identifier: Apache-2.0 */
/* Isotonic regression and gate maps. Owns its memory for the call, and the blocks it gives; any thread. */
#include "calibrate/fit_isotonic.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"

static int by_x(const void *p, const void *q) {
  const weir_isotonic_block *a = p, *b = q;
  return (a->lo > b->lo) - (a->lo < b->lo);
}

static void join(weir_isotonic_block *a, const weir_isotonic_block *b) {
  const double w = a->weight + b->weight;
  a->hi = b->hi;
  a->centre += (b->centre - a->centre) * (b->weight / w);
  a->y += (b->y - a->y) * (b->weight / w);
  a->weight = w;
}

/* Rows of one x become one. Returns how many are left. */
static int64_t join_ties(weir_isotonic_block *b, int64_t n) {
  int64_t last = 0;
  for (int64_t i = 1; i < n; i++)
    if (b[i].lo == b[last].lo)
      join(&b[last], &b[i]);
    else
      b[++last] = b[i];
  return last + 1;
}

/* x ascends; y is to. A block that is not above the one before is pooled with it, and so on down. */
static int64_t pool(weir_isotonic_block *b, int64_t n) {
  int64_t last = 0;
  for (int64_t i = 1; i < n; i++) {
    b[++last] = b[i];
    while (last > 0 && b[last].y <= b[last - 1].y) {
      join(&b[last - 1], &b[last]);
      last--;
    }
  }
  return last + 1;
}

weir_status weir_isotonic_fit(const double *x, const double *y, const double *weight, int64_t n, bool falling,
                              weir_isotonic *out, weir_err *e) {
  const double sign = falling ? -1 : 1;
  weir_isotonic_block *b;
  *out = (weir_isotonic){0};
  if (n < 1 || n > INT32_MAX) return weir_fail(e, WEIR_EINVAL, "%lld rows to fit", (long long)n);
  const weir_status st = WEIR_NEW((size_t)n, &b, e);
  if (st != WEIR_OK) return st;
  for (int64_t i = 0; i < n; i++) {
    const double w = weight ? weight[i] : 1;
    if (!isfinite(x[i]) || !isfinite(y[i]) || !isfinite(w) || !(w > 0)) {
      free(b);
      return weir_fail(e, WEIR_EINVAL, "row %lld: x %g, y %g, weight %g", (long long)i, x[i], y[i], w);
    }
    b[i] = (weir_isotonic_block){.lo = x[i], .hi = x[i], .centre = x[i], .y = sign * y[i], .weight = w};
  }
  qsort(b, (size_t)n, sizeof *b, by_x);
  n = pool(b, join_ties(b, n));
  for (int64_t i = 0; i < n; i++) b[i].y *= sign;
  *out = (weir_isotonic){b, (int32_t)n};
  return WEIR_OK;
}

void weir_isotonic_fini(weir_isotonic *f) {
  free(f->block);
  *f = (weir_isotonic){0};
}

double weir_isotonic_at(const weir_isotonic *f, double x) {
  int32_t lo = 0, hi = f->n; /* the block is in [lo, hi) */
  while (hi - lo > 1) {
    const int32_t mid = lo + (hi - lo) / 2;
    if (f->block[mid].lo <= x)
      lo = mid;
    else
      hi = mid;
  }
  return f->block[lo].y;
}

/* ---- maps ---- */

/* Levels of a map, and pieces of one part in so many into which long ones are cut: a knot each. */
enum { LEVELS = WEIR_GATE_MAP_KNOTS / 2, PIECES = WEIR_GATE_MAP_KNOTS / 2 };

/* Each block moves towards `rate` by the weight of one row; which may put neighbours out of order, since a
 * small block moves further. */
static void shrink(weir_isotonic *f, double rate, bool falling) {
  const double sign = falling ? -1 : 1;
  for (int32_t i = 0; i < f->n; i++) {
    weir_isotonic_block *b = &f->block[i];
    b->y = sign * (b->weight * b->y + rate) / (b->weight + 1);
  }
  f->n = (int32_t)pool(f->block, f->n);
  for (int32_t i = 0; i < f->n; i++) f->block[i].y *= sign;
}

/* Joins the pair of neighbours whose joining adds the least to the weighted squares. */
static void join_nearest(weir_isotonic *f) {
  int32_t best = 0;
  double least = INFINITY;
  for (int32_t i = 0; i + 1 < f->n; i++) {
    const weir_isotonic_block *a = &f->block[i], *b = a + 1;
    const double d = a->y - b->y, cost = d * d * (a->weight * b->weight / (a->weight + b->weight));
    if (cost < least) {
      least = cost;
      best = i;
    }
  }
  join(&f->block[best], &f->block[best + 1]);
  for (int32_t i = best + 1; i + 1 < f->n; i++) f->block[i] = f->block[i + 1];
  f->n--;
}

/* Equal ones are one knot: they have one y, for a block has all rows of an x. */
static void add_knot(weir_gate_map *m, double x, double y) {
  const float at = (float)x;
  if (m->n > 0 && at <= m->x[m->n - 1]) return;
  m->x[m->n] = at;
  m->y[m->n++] = (float)(y < 0 ? 0 : y > 1 ? 1 : y);
}

/* x[n] ascends. At most LEVELS blocks, of which no more than PIECES are cut off. */
static void make_knots(const weir_isotonic *f, const double *x, int64_t n, weir_gate_map *out) {
  const int64_t piece = (n + PIECES - 1) / PIECES;
  int64_t at = 0;
  for (int32_t b = 0; b < f->n; b++) {
    int64_t end = at;
    while (end < n && x[end] <= f->block[b].hi) end++;
    const int64_t rows = end - at, parts = rows < piece ? 1 : rows / piece;
    for (int64_t k = 0; k < parts; k++) {
      const int64_t from = at + rows * k / parts, to = at + rows * (k + 1) / parts;
      double mean = 0;
      for (int64_t i = from; i < to; i++) mean += (x[i] - mean) / (double)(i - from + 1);
      add_knot(out, mean, f->block[b].y);
    }
    at = end;
  }
}

static int ascending(const void *p, const void *q) {
  const double a = *(const double *)p, b = *(const double *)q;
  return (a > b) - (a < b);
}

weir_status weir_isotonic_map(weir_gate_stat stat, const float *value, const bool *wrong, int64_t n,
                              weir_gate_map *out, weir_err *e) {
  const bool falling = stat != WEIR_STAT_ENTROPY;
  weir_isotonic f = {0};
  double *x = NULL, *y = NULL, rate = 0;
  weir_status st = WEIR_OK;
  *out = (weir_gate_map){.stat = stat};
  if ((unsigned)stat >= WEIR_N_STATS)
    return weir_fail(e, WEIR_EINVAL, "statistic %d is not known", (int)stat);
  if (n < 1 || n > INT32_MAX) return weir_fail(e, WEIR_EINVAL, "%lld rows to fit", (long long)n);
  WEIR_TRY(WEIR_NEW((size_t)n, &x, e));
  WEIR_TRY(WEIR_NEW((size_t)n, &y, e));
  for (int64_t i = 0; i < n; i++) {
    x[i] = (double)value[i];
    y[i] = wrong[i];
    rate += y[i];
  }
  WEIR_TRY(weir_isotonic_fit(x, y, NULL, n, falling, &f, e));
  shrink(&f, rate / (double)n, falling);
  while (f.n > LEVELS) join_nearest(&f);
  qsort(x, (size_t)n, sizeof *x, ascending);
  make_knots(&f, x, n, out);
out:
  weir_isotonic_fini(&f);
  free(x);
  free(y);
  return st;
}
