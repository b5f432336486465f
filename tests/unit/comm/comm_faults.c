/* SPDX-License-Identifier: Apache-2.0 */
/* What communicators promise when something goes wrong: no rank waits longer than the bound, each is told
 * why, and the group stays over. Threads; comm_procs.c kills and stops processes. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "comm_conf.h"

static const int64_t second = INT64_C(1000000000);
/* What a loaded machine under a sanitizer may add to a bound. */
static const int64_t grace_ns = INT64_C(5000000000);
static const int64_t long_bound = INT64_C(60000000000); /* no test waits for it */

typedef struct scene {
  pthread_barrier_t all;                /* of the ranks */
  atomic_int about;                     /* ranks that are about to wait */
  void (*odd)(conf_rank *, weir_err *); /* what rank 1 does instead */
  const char *a, *b;                    /* both of them every rank's message has */
} scene;

static void must_fail(conf_rank *r, weir_status st, const weir_err *e, const char *want) {
  if (st == WEIR_OK)
    conf_fault(r, "a call of a group that is over succeeded");
  else if (st != WEIR_EDEVICE)
    conf_fault(r, "failed with %s instead of a device's failure: %s", weir_status_name(st), e->msg);
  else if (want && !strstr(e->msg, want))
    conf_fault(r, "the message lacks \"%s\": %s", want, e->msg);
}

/* All calls fail from now on, at once, and say what the first failure said. */
static void must_stay_over(conf_rank *r, const char *want) {
  const int64_t from = conf_now_ns();
  uint8_t gathered[WEIR_MAX_RANKS * 4] = {0};
  weir_err e = {0};
  must_fail(r, conf_call(r, 5, &e), &e, want);
  if (!r->dev) { /* host memory is the rank's own */
    must_fail(r, weir_comm_all_gather(r->comm, gathered, gathered + 4 * r->rank, 4, &e), &e, want);
    must_fail(r, weir_comm_broadcast(r->comm, gathered, 3, 0, &e), &e, want);
  }
  if (conf_now_ns() - from > grace_ns) conf_fault(r, "calls of a group that is over wait");
}

/* ---- ranks that call different things ---- */

static weir_status call_other(conf_rank *r, int what, weir_err *e) {
  static const size_t sum_bytes[] = {100 * sizeof(float), 101 * sizeof(float)};
  uint8_t data[WEIR_MAX_RANKS * 8] = {0};
  const bool odd = r->rank == 1;
  switch (what) {
    case 0: return conf_call(r, sum_bytes[odd] / sizeof(float), e);
    case 1: return odd ? weir_comm_broadcast(r->comm, data, 8, 0, e) : conf_call(r, 2, e);
    case 2: return weir_comm_broadcast(r->comm, data, 8, odd, e);
    case 3: return weir_comm_all_gather(r->comm, data, data + r->rank * 8, odd ? 7 : 8, e);
    default: return odd ? conf_call(r, 300001, e) : conf_call(r, 1, e); /* one meeting, and many */
  }
}

typedef struct differing {
  int what;
  const char *mine, *other;
} differing;

static void run_differing(conf_rank *r) {
  const differing *d = r->ctx;
  weir_err e = {0};
  if (conf_call(r, 3, &e) != WEIR_OK) conf_fault(r, "before: %s", e.msg);
  must_fail(r, call_other(r, d->what, &e), &e, "rank 1");
  if (!strstr(e.msg, d->mine) || !strstr(e.msg, d->other))
    conf_fault(r, "want \"%s\" and \"%s\" in: %s", d->mine, d->other, e.msg);
  must_stay_over(r, "rank 1");
}

void conf_check_mismatch(const comm_conf *c, int32_t n) {
  static const differing all[] = {{0, "all_reduce", "404"},
                                  {1, "all_reduce", "broadcast"},
                                  {2, "from rank 0", "from rank 1"},
                                  {3, "all_gather", "7"},
                                  {4, "all_reduce", "1200004"}};
  if (!c->compares) return;
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    differing d = all[i];
    conf_ranks(c, n, long_bound, run_differing, &d);
  }
}

/* ---- one that does not come in time ---- */

static void run_late(conf_rank *r) {
  scene *s = r->ctx;
  const int64_t bound = second / 5;
  weir_err e = {0};
  if (conf_call(r, 7, &e) != WEIR_OK) conf_fault(r, "before: %s", e.msg);
  const int64_t from = conf_now_ns();
  if (r->rank != 1) {
    must_fail(r, conf_call(r, 9, &e), &e, "rank 1");
    if (!strstr(e.msg, "all_reduce")) conf_fault(r, "the message does not say in what: %s", e.msg);
    const int64_t took = conf_now_ns() - from;
    if (took < bound / 2) conf_fault(r, "did not wait for the bound: %lld ns: %s", (long long)took, e.msg);
    if (took > bound + grace_ns) conf_fault(r, "waited for %lld ns", (long long)took);
  }
  pthread_barrier_wait(&s->all);
  must_stay_over(r, "rank 1"); /* rank 1 comes now, and learns that it is too late */
}

void conf_check_late(const comm_conf *c, int32_t n) {
  scene s = {.odd = NULL};
  pthread_barrier_init(&s.all, NULL, (unsigned)n);
  conf_ranks(c, n, second / 5, run_late, &s);
  pthread_barrier_destroy(&s.all);
}

/* Rank 1 is slow in each call, in all of them together for longer than the bound. */
static void run_slow(conf_rank *r) {
  weir_err e = {0};
  for (int i = 0; i < 4; i++) {
    for (const int64_t until = conf_now_ns() + second / 4; r->rank == 1 && conf_now_ns() < until;)
      sched_yield();
    if (conf_call(r, 5, &e) != WEIR_OK) conf_fault(r, "call %d of a slow rank: %s", i, e.msg);
  }
}

void conf_check_patience(const comm_conf *c, int32_t n) {
  if (n == 2) conf_ranks(c, n, second * 9 / 10, run_slow, NULL);
}

/* ---- an abort while others wait ---- */

typedef struct aborter {
  weir_comm *comm;
  atomic_int *about;
  int wait_for;
} aborter;

static void *abort_from_outside(void *arg) {
  aborter *a = arg;
  while (atomic_load(a->about) < a->wait_for) sched_yield();
  weir_comm_abort(a->comm, "the furnace is cold");
  weir_comm_abort(a->comm, "said twice");
  return NULL;
}

/* Every rank but 1 waits; a thread that is no rank aborts through rank 0's communicator. */
static void run_aborted(conf_rank *r) {
  scene *s = r->ctx;
  pthread_t id;
  weir_err e = {0};
  aborter a = {.comm = r->comm, .about = &s->about, .wait_for = r->n_ranks - 1};
  if (conf_call(r, 7, &e) != WEIR_OK) conf_fault(r, "before: %s", e.msg);
  if (r->rank == 0 && pthread_create(&id, NULL, abort_from_outside, &a) != 0) conf_fault(r, "no thread");
  const int64_t from = conf_now_ns();
  if (r->rank != 1) {
    atomic_fetch_add(&s->about, 1);
    must_fail(r, conf_call(r, 9, &e), &e, "the furnace is cold");
    if (conf_now_ns() - from > grace_ns) conf_fault(r, "an abort took too long");
  }
  if (r->rank == 0) pthread_join(id, NULL);
  pthread_barrier_wait(&s->all);
  must_stay_over(r, "the furnace is cold");
}

void conf_check_abort(const comm_conf *c, int32_t n) {
  for (int round = 0; round < 5; round++) { /* it meets ranks at different points of their wait */
    scene s = {.odd = NULL};
    pthread_barrier_init(&s.all, NULL, (unsigned)n);
    conf_ranks(c, n, long_bound, run_aborted, &s);
    pthread_barrier_destroy(&s.all);
  }
}

/* ---- one that leaves ---- */

static void run_left(conf_rank *r) {
  weir_err e = {0};
  for (int i = 0; i < 20; i++)
    if (conf_call(r, 1 + (size_t)i * 50, &e) != WEIR_OK) conf_fault(r, "before: %s", e.msg);
  if (r->rank == 1) return; /* destroyed while others are still in the last call, or in the next */
  const int64_t from = conf_now_ns();
  must_fail(r, conf_call(r, 9, &e), &e, "rank 1");
  if (conf_now_ns() - from > grace_ns) conf_fault(r, "a rank that has left was waited for");
}

void conf_check_left(const comm_conf *c, int32_t n) { conf_ranks(c, n, long_bound, run_left, NULL); }

/* ---- one that does not join ---- */

typedef struct joiner {
  weir_comm_seat *seat;
  const char *invite;
  int32_t rank;
  weir_status st;
  weir_err e;
  int64_t took;
} joiner;

static void *join_main(void *arg) {
  joiner *j = arg;
  const int64_t from = conf_now_ns();
  weir_comm *comm = NULL;
  j->st = weir_comm_join(j->seat, j->invite, j->rank, &comm, &j->e);
  j->took = conf_now_ns() - from;
  weir_comm_destroy(comm);
  return NULL;
}

void conf_check_absent(const comm_conf *c, int32_t n) {
  static joiner j[WEIR_MAX_RANKS];
  static char invite[WEIR_COMM_INVITE_BYTES];
  const char *offer[WEIR_MAX_RANKS] = {NULL};
  const int64_t bound = second / 5;
  const int32_t absent = n - 1;
  pthread_t id[WEIR_MAX_RANKS];
  char want[32];
  weir_err e = {0};
  memset(j, 0, sizeof j);
  for (int32_t r = 0; r < n; r++) {
    const weir_comm_seat_opts o = {
        .dev = c->dev ? c->dev(c->ctx, r) : NULL, .host = c->host, .bound_ns = bound};
    if (weir_comm_seat_open(c->kind, &o, &j[r].seat, &e) != WEIR_OK) fail_msg("seat %d: %s", (int)r, e.msg);
    offer[r] = weir_comm_seat_offer(j[r].seat);
    j[r].invite = invite;
    j[r].rank = r;
  }
  if (weir_comm_invite(c->kind, n, offer, invite, &e) != WEIR_OK) fail_msg("invite: %s", e.msg);
  for (int32_t r = 0; r < absent; r++) assert_int_equal(pthread_create(&id[r], NULL, join_main, &j[r]), 0);
  for (int32_t r = 0; r < absent; r++) pthread_join(id[r], NULL);
  join_main(&j[absent]); /* too late: nobody waits any more */
  snprintf(want, sizeof want, "rank %d", (int)absent);
  for (int32_t r = 0; r < n; r++) {
    if (j[r].st == WEIR_OK) fail_msg("rank %d joined a group that is not whole", (int)r);
    if (r != absent && !strstr(j[r].e.msg, want))
      fail_msg("rank %d: no \"%s\" in: %s", (int)r, want, j[r].e.msg);
    if (j[r].took > bound + grace_ns) fail_msg("rank %d joined for %lld ns", (int)r, (long long)j[r].took);
  }
}
