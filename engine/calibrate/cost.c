/* SPDX-License-Identifier: Apache-2.0 */
/* The cost model: measured step times, and the engine's loop played with them. Owns its scratch; any thread.
 */
#include "calibrate/cost.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/mem.h"

/* ---- one step ---- */

static double at(const weir_cal_cost *c, const double *ns, int32_t rows) {
  if (c->n < 1) return 0;
  if (c->n == 1 || rows <= c->rows[0]) return ns[0];
  int32_t k = 1;
  while (k < c->n - 1 && c->rows[k] < rows) k++;
  const double x0 = c->rows[k - 1], x1 = c->rows[k];
  return ns[k - 1] + (ns[k] - ns[k - 1]) * ((double)rows - x0) / (x1 - x0);
}

double weir_cost_step_ns(const weir_cal_cost *c, int32_t tier, int32_t rows, int32_t asked) {
  const double one = at(c, c->ns[tier], rows);
  if (asked <= 1 || rows <= 1) return one;
  const double all = at(c, c->ns_all[tier], rows);
  return one + fmax(0, all - one) * ((double)asked - 1) / ((double)rows - 1);
}

/* ---- logs ---- */

void weir_cost_log_clear(weir_cost_log *l) {
  l->n = 0;
  l->n_requests = 0;
  l->err = (weir_err){0};
}

void weir_cost_log_fini(weir_cost_log *l) {
  free(l->step);
  free(l->end);
  *l = (weir_cost_log){0};
}

void weir_cost_log_step(void *ctx, const weir_replay_step *s) {
  weir_cost_log *l = ctx;
  if (l->n == l->cap) {
    const int64_t cap = l->cap ? 2 * l->cap : 4096;
    weir_replay_step *more = realloc(l->step, (size_t)cap * sizeof *more);
    if (!more) {
      weir_fail(&l->err, WEIR_ENOMEM, "no memory for %lld steps", (long long)cap);
      return;
    }
    l->step = more;
    l->cap = cap;
  }
  l->step[l->n++] = *s;
}

weir_status weir_cost_log_end(weir_cost_log *l, weir_err *e) {
  if (l->err.code != WEIR_OK) return weir_fail(e, l->err.code, "%s", l->err.msg);
  if (l->n_requests == l->cap_requests) {
    const int32_t cap = l->cap_requests ? 2 * l->cap_requests : 256;
    int64_t *more = realloc(l->end, (size_t)cap * sizeof *more);
    if (!more) return weir_fail(e, WEIR_ENOMEM, "no memory for %d requests", cap);
    l->end = more;
    l->cap_requests = cap;
  }
  l->end[l->n_requests++] = l->n;
  return WEIR_OK;
}

/* ---- the loop ---- */

typedef struct place {
  int64_t next, end; /* of its steps */
  int32_t fed;       /* rows of the next step already done, chunk by chunk */
  double since;
} place;

/* One step of `tier` over all that wait for it; returns its time. */
static double run_tier(const weir_cal_cost *c, const weir_cost_log *l, const weir_cost_engine *g, place *p,
                       int32_t n, int32_t tier, bool *moved) {
  int32_t rows = 0, asked = 0;
  for (int32_t i = 0; i < n; i++) {
    moved[i] = false;
    if (p[i].next >= p[i].end || l->step[p[i].next].tier != tier || rows >= g->max_rows) continue;
    const weir_replay_step *s = &l->step[p[i].next];
    const int32_t left = s->rows - p[i].fed, room = g->max_rows - rows, take = left < room ? left : room;
    rows += take;
    p[i].fed += take;
    if (p[i].fed < s->rows) continue;
    asked += s->asked;
    moved[i] = true;
  }
  return weir_cost_step_ns(c, tier, rows, asked);
}

static int32_t waiting(const weir_cost_log *l, const place *p, int32_t n, int32_t tier, double *oldest) {
  int32_t k = 0;
  *oldest = HUGE_VAL;
  for (int32_t i = 0; i < n; i++) {
    if (p[i].next >= p[i].end || l->step[p[i].next].tier != tier) continue;
    k++;
    *oldest = fmin(*oldest, p[i].since);
  }
  return k;
}

weir_status weir_cost_simulate(const weir_cal_cost *c, const weir_cost_log *l, const weir_cost_engine *g,
                               double *ns, int64_t steps[2], weir_err *e) {
  weir_status st = WEIR_OK;
  place *p = NULL;
  bool *moved = NULL;
  int64_t ran[2] = {0};
  double now = 0;
  int32_t next = 0, n = 0;
  if (g->batch < 1 || g->max_rows < 1) return weir_fail(e, WEIR_EINVAL, "a loop of no requests or no rows");
  WEIR_TRY(WEIR_NEW((size_t)g->batch, &p, e));
  WEIR_TRY(WEIR_NEW((size_t)g->batch, &moved, e));
  for (;;) {
    for (int32_t i = 0; i < g->batch && next < l->n_requests;
         i++) /* whoever has ended gives its place away */
      if (i >= n || p[i].next >= p[i].end) {
        p[i] = (place){next > 0 ? l->end[next - 1] : 0, l->end[next], 0, now};
        next++;
        if (i >= n) n = i + 1;
      }
    double old_small, old_large;
    const int32_t small = waiting(l, p, n, 0, &old_small), large = waiting(l, p, n, 1, &old_large);
    if (small + large == 0) {
      if (next >= l->n_requests) break;
      continue;
    }
    const bool go =
        large > 0 && (small == 0 || large >= g->large_batch || now - old_large >= g->large_wait_ns);
    const int32_t tier = go ? 1 : 0;
    now += run_tier(c, l, g, p, n, tier, moved);
    ran[tier]++;
    for (int32_t i = 0; i < n; i++)
      if (moved[i]) {
        p[i].next++;
        p[i].fed = 0;
        p[i].since = now;
      }
  }
  *ns = now;
  if (steps) steps[0] = ran[0], steps[1] = ran[1];
out:
  free(p);
  free(moved);
  return st;
}
