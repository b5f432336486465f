/* SPDX-License-Identifier: Apache-2.0 */
/* A thread team: n-1 workers and the caller run the parts of one job together; a call returns when all are
 * done. Part r belongs to worker r, so that it finds its share of the weights in its own cache; but when the
 * caller has done its own part and a worker has not come for its, because another program has its core or it
 * sleeps, the caller does that one too. Nobody ever waits for a thread that does not run, unless it stopped
 * in the middle. Workers spin for a moment after a job and then sleep, because the next operation of a
 * forward pass follows within microseconds while an idle server must cost nothing. */
#ifndef WEIR_BASE_POOL_H
#define WEIR_BASE_POOL_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

typedef struct weir_pool weir_pool;

typedef struct weir_pool_opts {
  int32_t n_threads; /* including the caller; 0: one per core this process may run on */
  bool no_pin;
  int64_t spin_ns; /* how long a worker spins before it sleeps; 0: default */
  /* One of several teams that work side by side (base/cores.h): */
  const int32_t *cores; /* [n_threads] the core of each thread, the caller's first; borrowed for the call of
                           create. NULL: those of this process, from the first on */
  bool pin_caller; /* whoever calls weir_pool_run, but for the thread that made the team, is pinned to the
                      first core by its first job: a thread that has nothing else to do */
  bool crowded;    /* other teams are on the same cores: nobody spins for long */
} weir_pool_opts;

weir_status weir_pool_create(const weir_pool_opts *, weir_pool **out, weir_err *e);
void weir_pool_destroy(weir_pool *); /* joins; NULL is fine */
int32_t weir_pool_size(const weir_pool *);

/* fn(ctx, rank, n_threads) once for each rank, 0 on the caller; not re-entrant; one caller at a time. Which
 * thread runs a rank is left open, so fn must not wait for other ranks. */
void weir_pool_run(weir_pool *, void (*fn)(void *ctx, int32_t rank, int32_t n_threads), void *ctx);

/* What the job after the next one will read: a worker that is done with the next and has nothing else to do
 * brings the start of its part of data[bytes] into its cache, part r of n from bytes / n * r on. Only a hint:
 * nothing is read as far as the program can tell, and the memory may be gone by then. NULL: nothing. By the
 * caller, between jobs. */
void weir_pool_fetch_ahead(weir_pool *, const void *data, size_t bytes);
/* Bytes that every worker has brought of its part; 0 when `data` is not what was named last. */
size_t weir_pool_fetched(const weir_pool *, const void *data);

#endif
