/* SPDX-License-Identifier: Apache-2.0 */
/* Virtual time around the fake executor. Single-threaded. */
#include "virtual_exec.h"

#include <stdlib.h>

typedef struct virtual_exec {
  weir_exec base;
  virtual_opts o;
  weir_exec *inner;
  int64_t due_ns, took_ns, steps, rows;
  bool under_way;
} virtual_exec;

static weir_status submit(weir_exec *base, const weir_batch *b, weir_result *r, weir_err *e) {
  virtual_exec *x = (virtual_exec *)base;
  const weir_status st = x->inner->ops->submit(x->inner, b, r, e);
  if (st != WEIR_OK) return st;
  x->took_ns = x->o.step_ns + b->n_tokens * x->o.row_ns;
  x->due_ns = x->steps++ == x->o.hang_at_step && x->o.async ? INT64_MAX : *x->o.clock_ns + x->took_ns;
  x->rows += b->n_tokens;
  x->under_way = true;
  return WEIR_OK;
}

static weir_status wait(weir_exec *base, weir_result **done, weir_err *e) {
  virtual_exec *x = (virtual_exec *)base;
  const weir_status st = x->inner->ops->wait(x->inner, done, e);
  x->under_way = false;
  if (x->due_ns != INT64_MAX && *x->o.clock_ns < x->due_ns) *x->o.clock_ns = x->due_ns;
  if (st == WEIR_OK) (*done)->device_ns = x->took_ns;
  return st;
}

static void destroy(weir_exec *base) {
  virtual_exec *x = (virtual_exec *)base;
  x->inner->ops->destroy(x->inner);
  free(x);
}

static bool ready(weir_exec *base) {
  const virtual_exec *x = (const virtual_exec *)base;
  return !x->under_way || *x->o.clock_ns >= x->due_ns;
}

static void notify(weir_exec *base, void (*fn)(void *ctx), void *ctx) {
  (void)base; /* who moves the clock knows */
  (void)fn;
  (void)ctx;
}

static const weir_exec_ops ops = {submit, wait, destroy};
static const weir_exec_async async = {ready, notify};

weir_exec *virtual_exec_create(const virtual_opts *o) {
  virtual_exec *x = calloc(1, sizeof *x);
  x->o = *o;
  x->inner = fake_exec_create(&o->fake);
  x->base = (weir_exec){.ops = &ops, .info = x->inner->info, .async = o->async ? &async : NULL};
  return &x->base;
}

int64_t virtual_exec_due(const weir_exec *base) {
  const virtual_exec *x = (const virtual_exec *)base;
  return x->under_way ? x->due_ns : INT64_MAX;
}

void virtual_exec_let_go(weir_exec *base) {
  virtual_exec *x = (virtual_exec *)base;
  if (x->due_ns == INT64_MAX) x->due_ns = *x->o.clock_ns;
}

int64_t virtual_exec_rows(const weir_exec *base) { return ((const virtual_exec *)base)->rows; }
