/* SPDX-License-Identifier: Apache-2.0 */
/* The fake executor on a clock that only the test moves: a step takes a time that grows with its rows. Waited
 * for, it moves the clock to its end; asynchronous, it is ready once the clock has got there.
 *
 * With deaths planned it has a life (step.h): it dies as they say and comes back, with all KV wiped. */
#ifndef WEIR_TESTS_VIRTUAL_EXEC_H
#define WEIR_TESTS_VIRTUAL_EXEC_H
#include <stdbool.h>
#include <stdint.h>

#include "fake_exec.h"

typedef enum {
  DEATH_AT_TIME,   /* wherever that finds it: idle, or in a step, which fails */
  DEATH_IN_STEP,   /* the step fails at its end, and it is dead */
  DEATH_AFTER,     /* the step ends well, and it is dead before anybody has looked */
  DEATH_ON_SUBMIT, /* the step is refused */
  DEATH_UNSEEN,    /* it dies and is back just before it takes the step, whose rows come from an empty KV */
  DEATH_HANGS,     /* the step does not end for hang_ns, and then fails */
  DEATH_SEEMING,   /* the step does not end for hang_ns, and then well: dead to whoever has no patience */
  N_DEATH_KINDS,
  DEATH_CLAIMED = N_DEATH_KINDS /* the step is refused as by a dead one, which it is not */
} death_kind;

typedef struct virtual_death {
  death_kind kind;
  int64_t at;      /* the time in ns, or the number of the step, refused ones counted */
  int64_t down_ns; /* until it is back; 0: at once, INT64_MAX: never */
  int64_t hang_ns; /* of a step that hangs; of DEATH_AT_TIME: until a step under way is told */
} virtual_death;

enum { VIRTUAL_DEATHS = 8 };

typedef struct virtual_opts {
  fake_opts fake;
  int64_t *clock_ns; /* borrowed */
  int64_t step_ns, row_ns;
  int32_t free_rows; /* of a step: only those beyond them take row_ns */
  int64_t slow_every, slow_ns; /* every so manyth step takes so much longer; 0: none */
  bool async;
  int64_t hang_at_step; /* this step never ends (asynchronous ones alone); < 0: none */
  virtual_death death[VIRTUAL_DEATHS];
  int32_t n_deaths; /* > 0: it has a life; asynchronous ones alone */
} virtual_opts;

weir_exec *virtual_exec_create(const virtual_opts *);
/* When the step under way ends; INT64_MAX: none, or never. */
int64_t virtual_exec_due(const weir_exec *);
/* The next thing to come by itself: the end of a step, a death, a return. INT64_MAX: nothing. */
int64_t virtual_exec_next(const weir_exec *);
/* A step that never ends has ended after all: what an engine that has given it up must live with. */
void virtual_exec_let_go(weir_exec *);
/* Rows fed so far. */
int64_t virtual_exec_rows(const weir_exec *);
/* Planned deaths that have happened, one kind. */
int32_t virtual_exec_died(const weir_exec *, death_kind);

#endif
