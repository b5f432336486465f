/* SPDX-License-Identifier: Apache-2.0 */
/* Groups of threads: the process's table of them, by number, and their meetings. A group is made by the first
 * rank that comes and goes with the last that leaves. One lock for the table, one for each group, taken in
 * this order; any thread. */
#include "comm/local_group.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"

struct weir_local_group {
  weir_local_group *next; /* of the table */
  uint64_t number;
  int32_t n_ranks, n_here; /* n_here: places taken and not left, under the table's lock */
  int64_t bound_ns;
  weir_peers peers;     /* rank is unset */
  pthread_mutex_t lock; /* of all below */
  pthread_cond_t change;
  bool entered[WEIR_PEER_RANKS], left[WEIR_PEER_RANKS];
  bool came[WEIR_PEER_RANKS]; /* to this meeting */
  int32_t n_entered, n_came, first;
  uint64_t meeting;
  weir_local_call call; /* of `first`, who came first */
  bool ok, last_ok;
  char why[WEIR_ERR_MSG_BYTES]; /* "": the group is well */
};

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static weir_local_group *table;
static uint64_t last_number;

uint64_t weir_local_group_number(void) {
  pthread_mutex_lock(&table_lock);
  const uint64_t n = ++last_number;
  pthread_mutex_unlock(&table_lock);
  return n;
}

/* ---- time ---- */

static struct timespec after(int64_t ns) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  ns += t.tv_nsec;
  t.tv_sec += (time_t)(ns / 1000000000);
  t.tv_nsec = (long)(ns % 1000000000);
  return t;
}

/* ---- the end of a group ---- */

/* The lock is held. */
static void end(weir_local_group *g, const char *why) {
  if (!g->why[0]) snprintf(g->why, sizeof g->why, "%s", why && why[0] ? why : "no reason was given");
  if (g->peers.stop && __atomic_load_n(g->peers.stop, __ATOMIC_RELAXED) == 0)
    __atomic_store_n(g->peers.stop, (uint32_t)WEIR_PEER_ABORTED, __ATOMIC_RELEASE);
  pthread_cond_broadcast(&g->change);
}

static weir_status over(const weir_local_group *g, weir_err *e) {
  return weir_fail(e, WEIR_EDEVICE, "%s", g->why);
}

void weir_local_group_end(weir_local_group *g, const char *why) {
  pthread_mutex_lock(&g->lock);
  end(g, why);
  pthread_mutex_unlock(&g->lock);
}

weir_status weir_local_group_look(weir_local_group *g, weir_err *e) {
  weir_status st = WEIR_OK;
  pthread_mutex_lock(&g->lock);
  const uint32_t word = __atomic_load_n(g->peers.stop, __ATOMIC_ACQUIRE);
  if (word & WEIR_PEER_LATE) {
    char why[128];
    snprintf(why, sizeof why, "rank %u waited on the GPU for rank %u, in vain for %.3g s", word >> 8 & 255,
             word & 255, (double)g->bound_ns * 1e-9);
    end(g, why);
    st = over(g, e);
  }
  pthread_mutex_unlock(&g->lock);
  return st;
}

/* ---- coming and going ---- */

static weir_local_group *make(uint64_t number, int32_t n_ranks, int64_t bound_ns, weir_err *e) {
  weir_local_group *g;
  pthread_condattr_t attr;
  if (WEIR_NEW(1, &g, e) != WEIR_OK) return NULL;
  pthread_condattr_init(&attr);
  pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  pthread_mutex_init(&g->lock, NULL);
  pthread_cond_init(&g->change, &attr);
  pthread_condattr_destroy(&attr);
  g->number = number;
  g->n_ranks = n_ranks;
  g->bound_ns = bound_ns;
  g->peers.n_ranks = n_ranks;
  g->peers.bound_ns = bound_ns;
  return g;
}

/* Finds or makes the group and takes a place in it. */
static weir_status place(uint64_t number, int32_t rank, int32_t n_ranks, int64_t bound_ns,
                         weir_local_group **out, weir_err *e) {
  weir_status st = WEIR_OK;
  pthread_mutex_lock(&table_lock);
  weir_local_group *g = table;
  while (g && g->number != number) g = g->next;
  if (!g) {
    g = make(number, n_ranks, bound_ns, e);
    if (!g) WEIR_TRY(WEIR_ENOMEM);
    g->next = table;
    table = g;
  }
  if (g->n_ranks != n_ranks || g->entered[rank]) {
    g = NULL;
    WEIR_TRY(weir_fail(e, WEIR_EINVAL, "the invitation has been used for this rank"));
  }
  g->entered[rank] = true;
  g->n_here++;
  *out = g;

out:
  pthread_mutex_unlock(&table_lock);
  return st;
}

static void drop(weir_dev *dev, void *part, uint32_t *stop) {
  if (part) weir_dev_release(dev, part);
  weir_dev_unmap_host(dev, stop);
}

void weir_local_group_leave(weir_local_group *g, int32_t rank, weir_dev *dev) {
  pthread_mutex_lock(&table_lock);
  pthread_mutex_lock(&g->lock);
  g->left[rank] = true;
  pthread_cond_broadcast(&g->change);
  pthread_mutex_unlock(&g->lock);
  const bool last = --g->n_here == 0;
  if (last) {
    weir_local_group **at = &table;
    while (*at != g) at = &(*at)->next;
    *at = g->next;
  }
  pthread_mutex_unlock(&table_lock);
  if (!last) return;
  for (int32_t r = 0; r < g->n_ranks; r++) drop(dev, g->peers.part[r], NULL);
  drop(dev, NULL, g->peers.stop);
  pthread_cond_destroy(&g->change);
  pthread_mutex_destroy(&g->lock);
  free(g);
}

/* "rank 1", "ranks 1, 3": those of whom `are` is false. */
static void list(const bool *are, int32_t n_ranks, char *out, size_t cap) {
  int32_t n = 0;
  size_t len = 0;
  for (int32_t r = 0; r < n_ranks; r++) n += !are[r];
  len = (size_t)snprintf(out, cap, n == 1 ? "rank" : "ranks");
  for (int32_t r = 0, k = 0; r < n_ranks && len < cap; r++)
    if (!are[r]) len += (size_t)snprintf(out + len, cap - len, "%s %d", k++ ? "," : "", (int)r);
}

weir_status weir_local_group_enter(uint64_t number, int32_t rank, int32_t n_ranks, weir_dev *dev, void *part,
                                   uint32_t *stop, int64_t bound_ns, weir_local_group **out, weir_err *e) {
  weir_local_group *g = NULL;
  const struct timespec until = after(bound_ns);
  *out = NULL;
  weir_status st = place(number, rank, n_ranks, bound_ns, &g, e);
  if (st != WEIR_OK) {
    drop(dev, part, stop);
    return st;
  }
  pthread_mutex_lock(&g->lock);
  g->peers.part[rank] = part;
  if (rank == 0) g->peers.stop = stop;
  if (++g->n_entered == n_ranks) pthread_cond_broadcast(&g->change);
  bool late = false;
  while (g->n_entered < n_ranks && !g->why[0] && !late)
    late = pthread_cond_timedwait(&g->change, &g->lock, &until) != 0;
  if (g->n_entered < n_ranks && !g->why[0]) {
    char who[64], why[160];
    bool here[WEIR_PEER_RANKS];
    for (int32_t r = 0; r < n_ranks; r++) here[r] = g->peers.part[r] != NULL;
    list(here, n_ranks, who, sizeof who);
    snprintf(why, sizeof why, "rank %d waits for %s to join since %.3g s", (int)rank, who,
             (double)bound_ns * 1e-9);
    end(g, why);
  }
  if (g->why[0]) st = over(g, e);
  pthread_mutex_unlock(&g->lock);
  if (st != WEIR_OK) {
    weir_local_group_leave(g, rank, dev);
    return st;
  }
  *out = g;
  return WEIR_OK;
}

void weir_local_group_peers(const weir_local_group *g, int32_t rank, weir_peers *out) {
  *out = g->peers; /* nothing of it changes after all have entered */
  out->rank = rank;
}

/* ---- meetings ---- */

static void describe(const weir_local_call *c, char *out, size_t cap) {
  static const char *const name[] = {"all_reduce", "all_gather", "broadcast", "the end of a launch",
                                     "the end of a record"};
  if (c->what == WEIR_LOCAL_BROADCAST)
    snprintf(out, cap, "%s of %zu bytes from rank %d", name[c->what], c->bytes, (int)c->root);
  else if (c->what < WEIR_LOCAL_LAUNCHED)
    snprintf(out, cap, "%s of %zu bytes", name[c->what], c->bytes);
  else
    snprintf(out, cap, "%s", name[c->what]);
}

static bool same(const weir_local_call *a, const weir_local_call *b) {
  return a->what == b->what && a->bytes == b->bytes && a->root == b->root;
}

static void end_differing(weir_local_group *g, int32_t rank, const weir_local_call *call) {
  char mine[80], theirs[80], why[256];
  describe(call, mine, sizeof mine);
  describe(&g->call, theirs, sizeof theirs);
  snprintf(why, sizeof why, "rank %d calls %s, rank %d %s", (int)rank, mine, (int)g->first, theirs);
  end(g, why);
}

static void end_late(weir_local_group *g, int32_t rank) {
  char who[64], what[80], why[256];
  list(g->came, g->n_ranks, who, sizeof who);
  describe(&g->call, what, sizeof what);
  snprintf(why, sizeof why, "rank %d waits for %s in %s since %.3g s", (int)rank, who, what,
           (double)g->bound_ns * 1e-9);
  end(g, why);
}

/* Somebody who has not come to this meeting will come to none. */
static bool somebody_left(weir_local_group *g) {
  for (int32_t r = 0; r < g->n_ranks; r++)
    if (g->left[r] && !g->came[r]) {
      char what[80], why[160];
      describe(&g->call, what, sizeof what);
      snprintf(why, sizeof why, "rank %d has left the group before %s", (int)r, what);
      end(g, why);
      return true;
    }
  return false;
}

weir_status weir_local_group_meet(weir_local_group *g, int32_t rank, const weir_local_call *call, bool *ok,
                                  weir_err *e) {
  weir_status st = WEIR_OK;
  const struct timespec until = after(g->bound_ns);
  pthread_mutex_lock(&g->lock);
  if (g->why[0]) WEIR_TRY(over(g, e));
  if (g->n_came == 0) {
    g->call = *call;
    g->first = rank;
    g->ok = true;
  } else if (!same(&g->call, call)) {
    end_differing(g, rank, call);
    WEIR_TRY(over(g, e));
  }
  const uint64_t now = g->meeting;
  g->came[rank] = true;
  if (ok) g->ok &= *ok;
  if (++g->n_came == g->n_ranks) {
    g->last_ok = g->ok;
    g->n_came = 0;
    memset(g->came, 0, sizeof g->came);
    g->meeting++;
    pthread_cond_broadcast(&g->change);
  }
  /* A meeting that all came to has taken place, whatever came after it. */
  while (g->meeting == now && !g->why[0] && !somebody_left(g))
    if (pthread_cond_timedwait(&g->change, &g->lock, &until) != 0 && g->meeting == now && !g->why[0])
      end_late(g, rank);
  if (g->meeting == now) WEIR_TRY(over(g, e));
  if (ok) *ok = g->last_ok; /* the next one takes place only when this rank comes to it */

out:
  pthread_mutex_unlock(&g->lock);
  return st;
}
