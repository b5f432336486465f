/* SPDX-License-Identifier: Apache-2.0 */
/* Logistic regression by L-BFGS. Owns its memory for the call, and the weights it gives; any one thread. The
 * problem is solved for features of mean 0 and deviation 1, which are never stored: with u = w / deviation
 * and c = b - u mean, a row's z is c + u x, and the gradient in w_j is (sum r x_j - mean_j sum r) /
 * deviation_j, where r is the row's probability less its label. */
#include "calibrate/fit_head.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { MEMORY = 12, TURNS = 200, CUTS = 40 };

typedef struct problem {
  const weir_fit_rows *rows;
  double l2;
  double *mean, *scale; /* [dim]; scale: 1 / deviation, 0 where there is none */
  double *u;            /* [dim] scratch */
} problem;

static double dot(const double *a, const double *b, int32_t n) {
  double s = 0;
  for (int32_t i = 0; i < n; i++) s += a[i] * b[i];
  return s;
}

/* Four sums, of which the compiler makes vectors; in an order that is fixed. */
static double dot_row(const double *u, const float *x, int32_t n) {
  double s[4] = {0};
  int32_t i = 0;
  for (; i + 4 <= n; i += 4)
    for (int32_t k = 0; k < 4; k++) s[k] += u[i + k] * (double)x[i + k];
  for (; i < n; i++) s[0] += u[i] * (double)x[i];
  return (s[0] + s[1]) + (s[2] + s[3]);
}

/* ---- the features' means and deviations ---- */

static weir_status look(problem *p, weir_err *e) {
  const weir_fit_rows *r = p->rows;
  const int32_t dim = r->dim;
  int64_t n_wrong = 0;
  for (int64_t i = 0; i < r->n; i++) {
    bool wrong = false;
    const float *x = r->row(r->ctx, i, &wrong);
    n_wrong += wrong;
    for (int32_t j = 0; j < dim; j++) { /* Welford: the difference is from the mean so far */
      if (!isfinite(x[j]))
        return weir_fail(e, WEIR_EINVAL, "row %lld: feature %d is not a finite number", (long long)i, j);
      const double d = (double)x[j] - p->mean[j];
      p->mean[j] += d / (double)(i + 1);
      p->scale[j] += d * ((double)x[j] - p->mean[j]);
    }
  }
  if (n_wrong == 0 || n_wrong == r->n)
    return weir_fail(e, WEIR_EINVAL, "%lld of %lld rows are wrong: there is nothing to tell apart",
                     (long long)n_wrong, (long long)r->n);
  for (int32_t j = 0; j < dim; j++) {
    const double deviation = sqrt(p->scale[j] / (double)r->n);
    /* what rounding leaves of a constant is no spread */
    p->scale[j] = deviation > 1e-12 * (fabs(p->mean[j]) + 1) ? 1 / deviation : 0;
  }
  return WEIR_OK;
}

/* ---- the loss ---- */

/* at[dim + 1]: weights of standardised features, then the bias. Returns the loss with the penalty. */
static double loss_of(problem *p, const double *at, double *gradient, double *mean_loss) {
  const weir_fit_rows *r = p->rows;
  const int32_t dim = r->dim;
  const double share = 1 / (double)r->n;
  double c = at[dim], sum = 0, residuals = 0;
  for (int32_t j = 0; j < dim; j++) {
    p->u[j] = at[j] * p->scale[j];
    c -= p->u[j] * p->mean[j];
  }
  memset(gradient, 0, (size_t)(dim + 1) * sizeof *gradient);
  for (int64_t i = 0; i < r->n; i++) {
    bool wrong = false;
    const float *x = r->row(r->ctx, i, &wrong);
    const double z = c + dot_row(p->u, x, dim);
    const double tail = exp(-fabs(z)); /* never overflows */
    sum += log1p(tail) + (z > 0 ? z : 0) - (wrong ? z : 0);
    const double q = (z >= 0 ? 1 / (1 + tail) : tail / (1 + tail)) - wrong;
    residuals += q;
    for (int32_t j = 0; j < dim; j++) gradient[j] += q * (double)x[j];
  }
  double penalty = 0;
  for (int32_t j = 0; j < dim; j++) {
    gradient[j] = (gradient[j] - p->mean[j] * residuals) * p->scale[j] * share + p->l2 * at[j];
    penalty += at[j] * at[j];
  }
  gradient[dim] = residuals * share;
  *mean_loss = sum * share;
  return *mean_loss + p->l2 / 2 * penalty;
}

/* ---- L-BFGS ---- */

/* The last steps and the changes of the gradient, in a ring. */
typedef struct history {
  double *s[MEMORY], *y[MEMORY], rho[MEMORY];
  int32_t n, next;
} history;

/* direction <- - H gradient, by the two loops. */
static void direct(const history *h, const double *gradient, double *direction, int32_t n) {
  double alpha[MEMORY], scale = 1;
  for (int32_t i = 0; i < n; i++) direction[i] = -gradient[i];
  for (int32_t k = 1; k <= h->n; k++) {
    const int32_t at = (h->next + MEMORY - k) % MEMORY;
    alpha[at] = h->rho[at] * dot(h->s[at], direction, n);
    for (int32_t i = 0; i < n; i++) direction[i] -= alpha[at] * h->y[at][i];
    if (k == 1) scale = 1 / (h->rho[at] * dot(h->y[at], h->y[at], n));
  }
  for (int32_t i = 0; i < n; i++) direction[i] *= scale;
  for (int32_t k = h->n; k >= 1; k--) {
    const int32_t at = (h->next + MEMORY - k) % MEMORY;
    const double beta = h->rho[at] * dot(h->y[at], direction, n);
    for (int32_t i = 0; i < n; i++) direction[i] += (alpha[at] - beta) * h->s[at][i];
  }
}

/* Keeps a step; one along which the slope did not rise says nothing of the curvature. */
static void remember(history *h, const double *at, const double *tried, const double *gradient,
                     const double *next, int32_t n) {
  double *s = h->s[h->next], *y = h->y[h->next];
  for (int32_t i = 0; i < n; i++) {
    s[i] = tried[i] - at[i];
    y[i] = next[i] - gradient[i];
  }
  const double sy = dot(s, y, n);
  if (!(sy > 1e-300)) return;
  h->rho[h->next] = 1 / sy;
  h->next = (h->next + 1) % MEMORY;
  if (h->n < MEMORY) h->n++;
}

static double greatest(const double *g, int32_t n) {
  double most = 0;
  for (int32_t i = 0; i < n; i++)
    if (fabs(g[i]) > most) most = fabs(g[i]);
  return most;
}

typedef struct vectors {
  double *at, *tried, *gradient, *next, *direction;
  history h;
} vectors;

static void swap(double **a, double **b) {
  double *x = *a;
  *a = *b;
  *b = x;
}

static void descend(problem *p, const weir_logistic_opts *o, vectors *v, weir_logistic *out) {
  const int32_t n = p->rows->dim + 1, turns = o->max_turns > 0 ? o->max_turns : TURNS;
  const double tolerance = o->tolerance > 0 ? o->tolerance : 1e-6;
  double loss = loss_of(p, v->at, v->gradient, &out->loss);
  for (out->turns = 0; out->turns < turns; out->turns++) {
    out->gradient = greatest(v->gradient, n);
    if (out->gradient <= tolerance) break;
    direct(&v->h, v->gradient, v->direction, n);
    double slope = dot(v->direction, v->gradient, n);
    if (!(slope < 0)) { /* rounding has worn the memory out: once more from the gradient alone */
      v->h.n = 0;
      direct(&v->h, v->gradient, v->direction, n);
      slope = dot(v->direction, v->gradient, n);
    }
    double step = v->h.n > 0 ? 1 : 1 / sqrt(-slope), tried_loss = 0, mean_loss = 0;
    int32_t cut = 0;
    for (; cut < CUTS;
         cut++, step /= 2) { /* Armijo: the problem is convex, and a step of 1 is mostly right */
      for (int32_t i = 0; i < n; i++) v->tried[i] = v->at[i] + step * v->direction[i];
      tried_loss = loss_of(p, v->tried, v->next, &mean_loss);
      if (tried_loss <= loss + 1e-4 * step * slope) break;
      /* So near that the loss is rounding: there the gradient tells. */
      if (fabs(tried_loss - loss) <= 1e-13 * fabs(loss) && greatest(v->next, n) < out->gradient) break;
    }
    if (cut == CUTS) break; /* as low as rounding lets it go */
    remember(&v->h, v->at, v->tried, v->gradient, v->next, n);
    swap(&v->at, &v->tried);
    swap(&v->gradient, &v->next);
    loss = tried_loss;
    out->loss = mean_loss;
  }
  out->gradient = greatest(v->gradient, n);
  out->converged = out->gradient <= tolerance;
}

static void vectors_fini(vectors *v) {
  free(v->at);
  free(v->tried);
  free(v->gradient);
  free(v->next);
  free(v->direction);
  for (int32_t i = 0; i < MEMORY; i++) {
    free(v->h.s[i]);
    free(v->h.y[i]);
  }
}

static weir_status vectors_init(vectors *v, size_t n, weir_err *e) {
  double **const one[] = {&v->at, &v->tried, &v->gradient, &v->next, &v->direction};
  weir_status st = WEIR_OK;
  for (size_t i = 0; i < sizeof one / sizeof *one; i++) WEIR_TRY(WEIR_NEW(n, one[i], e));
  for (int32_t i = 0; i < MEMORY; i++) {
    WEIR_TRY(WEIR_NEW(n, &v->h.s[i], e));
    WEIR_TRY(WEIR_NEW(n, &v->h.y[i], e));
  }
out:
  return st;
}

weir_status weir_logistic_fit(const weir_fit_rows *rows, const weir_logistic_opts *o, weir_logistic *out,
                              weir_err *e) {
  const size_t dim = (size_t)rows->dim;
  problem p = {.rows = rows, .l2 = o->l2};
  vectors v = {0};
  weir_status st = WEIR_OK;
  *out = (weir_logistic){.dim = rows->dim};
  if (rows->dim < 1 || rows->dim > WEIR_GATE_MAX_DIM || rows->n < 1)
    return weir_fail(e, WEIR_EINVAL, "%lld rows of %d features to fit", (long long)rows->n, rows->dim);
  if (!(o->l2 >= 0) || !isfinite(o->l2)) return weir_fail(e, WEIR_EINVAL, "penalty %g", o->l2);
  WEIR_TRY(WEIR_NEW(dim, &p.mean, e));
  WEIR_TRY(WEIR_NEW(dim, &p.scale, e));
  WEIR_TRY(WEIR_NEW(dim, &p.u, e));
  WEIR_TRY(vectors_init(&v, dim + 1, e));
  WEIR_TRY(look(&p, e));
  descend(&p, o, &v, out);
  WEIR_TRY(WEIR_NEW(dim, &out->weight, e));
  out->bias = v.at[dim];
  for (size_t j = 0; j < dim; j++) {
    out->weight[j] = v.at[j] * p.scale[j];
    out->bias -= out->weight[j] * p.mean[j];
  }
out:
  free(p.mean);
  free(p.scale);
  free(p.u);
  vectors_fini(&v);
  return st;
}

void weir_logistic_fini(weir_logistic *f) {
  free(f->weight);
  *f = (weir_logistic){0};
}

double weir_logistic_at(const weir_logistic *f, const float *x) {
  return 1 / (1 + exp(-(f->bias + dot_row(f->weight, x, f->dim))));
}
