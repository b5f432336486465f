/* SPDX-License-Identifier: Apache-2.0 */
/* Virtual time around the fake executor. Single-threaded. */
#include "virtual_exec.h"

#include <stdlib.h>

typedef struct virtual_exec {
  weir_exec base;
  virtual_opts o;
  weir_exec *inner;
  int64_t due_ns, took_ns, steps, rows, submits;
  bool under_way;
  uint64_t life;                 /* of the present or last one */
  bool stale;                    /* KV is of another life */
  int64_t back_ns;               /* dead until then; INT64_MIN: it lives */
  bool dies_in, dies_after;      /* the step under way, at its end */
  bool broken;                   /* the step under way fails */
  bool blind;                    /* it was taken by another life than it was made for */
  int64_t down_ns;               /* of the planned death */
  bool happened[VIRTUAL_DEATHS]; /* by death */
  int32_t died[N_DEATH_KINDS];
} virtual_exec;

/* ---- lives ---- */

static int64_t after(int64_t at, int64_t ns) { return ns == INT64_MAX ? INT64_MAX : at + ns; }

/* KV is wiped when the next step begins: the fake computes one only when it is waited for. */
static void be_back(virtual_exec *x) {
  x->life++;
  x->back_ns = INT64_MIN;
  x->stale = true;
}

/* What the clock has brought about. */
static void live(virtual_exec *x) {
  const int64_t now = *x->o.clock_ns;
  for (int32_t i = 0; i < x->o.n_deaths; i++) {
    const virtual_death *d = &x->o.death[i];
    if (x->happened[i] || d->kind != DEATH_AT_TIME || d->at > now) continue;
    x->happened[i] = true;
    if (x->back_ns != INT64_MIN) continue; /* dead already */
    x->died[d->kind]++;
    x->back_ns = after(d->at, d->down_ns);
    if (!x->under_way || x->due_ns <= d->at) continue;
    x->broken = true;
    if (x->due_ns > d->at + d->hang_ns) x->due_ns = d->at + d->hang_ns;
  }
  if (x->under_way && now >= x->due_ns && (x->dies_in || x->dies_after)) {
    x->broken |= x->dies_in;
    x->dies_in = x->dies_after = false;
    if (x->back_ns == INT64_MIN) x->back_ns = after(x->due_ns, x->down_ns);
  }
  if (x->back_ns != INT64_MIN && x->back_ns <= now) be_back(x);
}

static const virtual_death *planned(virtual_exec *x, int64_t submit) {
  for (int32_t i = 0; i < x->o.n_deaths; i++) {
    const virtual_death *d = &x->o.death[i];
    if (x->happened[i] || d->kind == DEATH_AT_TIME || d->at != submit) continue;
    x->happened[i] = true;
    return d;
  }
  return NULL;
}

static uint64_t number(weir_exec *base, weir_err *why) {
  virtual_exec *x = (virtual_exec *)base;
  live(x);
  if (x->back_ns == INT64_MIN) return x->life;
  weir_fail(why, WEIR_EDEVICE, "%s: planned death", x->base.info.name);
  return 0;
}

/* ---- steps ---- */

static weir_status submit(weir_exec *base, const weir_batch *b, weir_result *r, weir_err *e) {
  virtual_exec *x = (virtual_exec *)base;
  const int64_t now = *x->o.clock_ns;
  live(x);
  const virtual_death *d = planned(x, x->submits++);
  if (d && x->back_ns != INT64_MIN) d = NULL; /* dead already */
  if (d && d->kind == DEATH_CLAIMED)
    return weir_fail(e, WEIR_EDEVICE, "%s: it says it is dead", x->base.info.name);
  if (d) x->died[d->kind]++;
  if (d && d->kind == DEATH_ON_SUBMIT) {
    x->back_ns = after(now, d->down_ns);
    const weir_status st = weir_fail(e, WEIR_EDEVICE, "%s: planned death", x->base.info.name);
    live(x);
    return st;
  }
  if (x->back_ns != INT64_MIN) return weir_fail(e, WEIR_EDEVICE, "%s: it is dead", x->base.info.name);
  if (d && d->kind == DEATH_UNSEEN) be_back(x);
  if (x->stale) fake_exec_wipe(x->inner);
  x->stale = false;
  const weir_status st = x->inner->ops->submit(x->inner, b, r, e);
  if (st != WEIR_OK) return st;
  const int32_t paid = b->n_tokens > x->o.free_rows ? b->n_tokens - x->o.free_rows : 0;
  x->took_ns = x->o.step_ns + paid * x->o.row_ns;
  if (x->o.slow_every > 0 && x->steps % x->o.slow_every == x->o.slow_every - 1) x->took_ns += x->o.slow_ns;
  if (d && (d->kind == DEATH_HANGS || d->kind == DEATH_SEEMING)) x->took_ns += d->hang_ns;
  x->due_ns = x->steps++ == x->o.hang_at_step && x->o.async ? INT64_MAX : now + x->took_ns;
  x->rows += b->n_tokens;
  x->under_way = true;
  x->broken = false;
  x->blind = d && d->kind == DEATH_UNSEEN;
  x->dies_in = d && (d->kind == DEATH_IN_STEP || d->kind == DEATH_HANGS);
  x->dies_after = d && d->kind == DEATH_AFTER;
  if (d) x->down_ns = d->down_ns;
  return WEIR_OK;
}

static weir_status wait(weir_exec *base, weir_result **done, weir_err *e) {
  virtual_exec *x = (virtual_exec *)base;
  if (x->due_ns != INT64_MAX && *x->o.clock_ns < x->due_ns) *x->o.clock_ns = x->due_ns;
  live(x);
  const weir_status st = x->inner->ops->wait(x->inner, done, e);
  x->under_way = false;
  if (st != WEIR_OK) return st;
  (*done)->device_ns = x->took_ns;
  if (x->blind) (*done)->status = WEIR_OK; /* nobody can tell by looking at the rows */
  if (x->broken)
    (*done)->status =
        weir_fail(&(*done)->err, WEIR_EDEVICE, "%s: planned death in a step", x->base.info.name);
  return st;
}

static void destroy(weir_exec *base) {
  virtual_exec *x = (virtual_exec *)base;
  x->inner->ops->destroy(x->inner);
  free(x);
}

static bool ready(weir_exec *base) {
  virtual_exec *x = (virtual_exec *)base;
  live(x);
  return !x->under_way || *x->o.clock_ns >= x->due_ns;
}

static void notify(weir_exec *base, void (*fn)(void *ctx), void *ctx) {
  (void)base; /* who moves the clock knows */
  (void)fn;
  (void)ctx;
}

static const weir_exec_ops ops = {submit, wait, destroy};
static const weir_exec_async async = {ready, notify};
static const weir_exec_life lives = {number};

weir_exec *virtual_exec_create(const virtual_opts *o) {
  virtual_exec *x = calloc(1, sizeof *x);
  x->o = *o;
  x->inner = fake_exec_create(&o->fake);
  x->base = (weir_exec){.ops = &ops,
                        .info = x->inner->info,
                        .async = o->async ? &async : NULL,
                        .life = o->async && o->n_deaths > 0 ? &lives : NULL};
  x->life = 1;
  x->back_ns = INT64_MIN;
  if (!x->base.life) x->o.n_deaths = 0;
  return &x->base;
}

int64_t virtual_exec_due(const weir_exec *base) {
  const virtual_exec *x = (const virtual_exec *)base;
  return x->under_way ? x->due_ns : INT64_MAX;
}

int64_t virtual_exec_next(const weir_exec *base) {
  const virtual_exec *x = (const virtual_exec *)base;
  const int64_t now = *x->o.clock_ns, due = virtual_exec_due(base);
  int64_t next = due > now ? due : INT64_MAX;
  if (x->back_ns > now && x->back_ns < next) next = x->back_ns;
  for (int32_t i = 0; i < x->o.n_deaths; i++)
    if (!x->happened[i] && x->o.death[i].kind == DEATH_AT_TIME && x->o.death[i].at < next)
      next = x->o.death[i].at;
  return next;
}

void virtual_exec_let_go(weir_exec *base) {
  virtual_exec *x = (virtual_exec *)base;
  if (x->due_ns == INT64_MAX) x->due_ns = *x->o.clock_ns;
}

int64_t virtual_exec_rows(const weir_exec *base) { return ((const virtual_exec *)base)->rows; }

int32_t virtual_exec_died(const weir_exec *base, death_kind kind) {
  return ((const virtual_exec *)base)->died[kind];
}
