/* SPDX-License-Identifier: Apache-2.0 */
/* Ranks over shared memory: coming, waiting, ending. Owns nothing but what it opens to watch processes; all
 * but abort is the rank's thread.
 *
 * A rank waits in three steps: it looks for a microsecond or two, which is what a rank on another core needs
 * that works as long; then it looks and offers its core in between; then it sleeps on the other's word. To be
 * woken costs tens of microseconds, so it does not sleep soon, unless a rank that has not come was last seen
 * on this very core and so may want it. Who comes writes its word first and looks for sleepers then, who
 * sleeps says so first and looks at the word then (sequentially consistent, both), so one of them sees the
 * other.
 *
 * Ending: the reason is written to this rank's own place, and one exchange says whose reason it is; nobody
 * ever waits for a rank to finish writing, and a process may stop or die at any point. Then a bit is flipped
 * in every rank's word, so that who was about to sleep on it does not. */
#define _GNU_SOURCE /* sched_getcpu */
#include "comm/shm_group.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

enum {
  LINES = 128, /* two cache lines: they are fetched in pairs */
  PAGE = 4096,
  ENDED = 1, /* the bit of `step` that an abort flips */
  NAMED = 8, /* late ranks in a message */
  LOOKS = 64 /* at a word, a pause apart, between readings of the clock: one or two microseconds */
};

/* How long a rank stays awake. Measured on two cores: woken from sleep it came 45 us late; with 4 ranks that
 * work for 100 us or 1 ms between calls a short stay and a long one gave the same to a tenth. */
static const int64_t awake_ns = 200000, awake_sharing_ns = 20000;
static const int64_t slice_ns = 50000000;   /* of sleep, between looks whether the process is alive */
static const int64_t ending_ns = 100000000; /* for another thread to write a reason */

/* What a rank says to the others. */
typedef struct line {
  _Alignas(LINES) _Atomic uint32_t step; /* 2 * phase; lowest bit: ENDED */
  _Atomic uint32_t sleepers;             /* who may be asleep on it */
  _Atomic int32_t process;               /* 0: the place is free */
  _Atomic int32_t core;                  /* on which it came to its last phase */
  weir_shm_call call[2];                 /* by the parity of its number */
} line;

struct weir_shm_head {
  uint8_t token[WEIR_SHM_TOKEN_BYTES];
  _Alignas(LINES) _Atomic int32_t ended; /* 0: no; else 1 + the rank whose reason counts */
  line of[WEIR_MAX_RANKS];
  char why[WEIR_MAX_RANKS][WEIR_ERR_MSG_BYTES];
};

static const char *const op_names[WEIR_SHM_N_OPS] = {"join", "all_reduce", "all_gather", "broadcast"};

static size_t head_bytes(void) { return (sizeof(weir_shm_head) + PAGE - 1) / PAGE * PAGE; }

size_t weir_shm_bytes(int32_t n_ranks) { return head_bytes() + (size_t)n_ranks * 2 * WEIR_SHM_BUF_BYTES; }

static void *buf_of(const weir_shm_group *g, int32_t rank, uint32_t phase) {
  return (uint8_t *)g->head + head_bytes() + ((size_t)rank * 2 + phase % 2) * WEIR_SHM_BUF_BYTES;
}

void *weir_shm_next_buf(const weir_shm_group *g, int32_t rank) { return buf_of(g, rank, g->phase + 1); }

void *weir_shm_buf(const weir_shm_group *g, int32_t rank) { return buf_of(g, rank, g->phase); }

/* ---- the end ---- */

static void futex_wake_all(_Atomic uint32_t *word) {
  syscall(SYS_futex, (uint32_t *)word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static void futex_sleep(_Atomic uint32_t *word, uint32_t while_equal, int64_t at_most_ns) {
  const struct timespec t = {at_most_ns / 1000000000, at_most_ns % 1000000000};
  syscall(SYS_futex, (uint32_t *)word, FUTEX_WAIT, while_equal, &t, NULL, 0);
}

static void end(weir_shm_group *g, const char *why) {
  weir_shm_head *h = g->head;
  if (atomic_exchange(&g->failing, true)) return;
  if (atomic_load(&h->ended) == 0) {
    snprintf(h->why[g->rank], sizeof h->why[0], "%s", why);
    int32_t none = 0;
    atomic_compare_exchange_strong(&h->ended, &none, g->rank + 1);
  }
  for (int32_t r = 0; r < g->n_ranks; r++) { /* also when another was first: it may have stopped in here */
    atomic_fetch_or(&h->of[r].step, ENDED);
    futex_wake_all(&h->of[r].step);
  }
}

void weir_shm_abort(weir_shm_group *g, const char *why) {
  char text[WEIR_ERR_MSG_BYTES];
  snprintf(text, sizeof text, "rank %d gave up: %s", (int)g->rank, why ? why : "no reason was given");
  end(g, text);
}

void weir_shm_leave(weir_shm_group *g) {
  char text[64];
  snprintf(text, sizeof text, "rank %d has left the group", (int)g->rank);
  end(g, text);
  for (int32_t r = 0; r < g->n_ranks; r++)
    if (g->process_fd[r] >= 0) close(g->process_fd[r]);
}

static weir_status say_ended(const weir_shm_group *g, int32_t ended, weir_err *e) {
  const char *why = g->head->why[ended - 1];
  return weir_fail(e, WEIR_EDEVICE, "%.*s", (int)strnlen(why, WEIR_ERR_MSG_BYTES - 1), why);
}

static bool is_over(const weir_shm_group *g, weir_err *e) {
  const int32_t ended = atomic_load(&g->head->ended);
  if (ended < 1 || ended > g->n_ranks) return false;
  say_ended(g, ended, e);
  return true;
}

/* Ends the group, and says why it has ended: for this reason, or for another one that was first. */
static weir_status give_up(weir_shm_group *g, const char *why, weir_err *e) {
  end(g, why);
  const int64_t until = weir_monotonic_ns() + ending_ns;
  while (!is_over(g, e)) { /* an abort of this rank has begun: it has not said so yet */
    if (weir_monotonic_ns() > until) return weir_fail(e, WEIR_EDEVICE, "%s", why);
    sched_yield();
  }
  return WEIR_EDEVICE;
}

/* ---- waiting ---- */

static bool has_come(const weir_shm_group *g, int32_t rank) {
  const uint32_t step = atomic_load_explicit(&g->head->of[rank].step, memory_order_acquire);
  return (int32_t)(step - 2 * g->phase) >= 0;
}

/* "all_reduce 17"; joining has no number. */
static const char *call_name(const weir_shm_call *c, char *out, size_t cap) {
  const char *name = (unsigned)c->op < WEIR_SHM_N_OPS ? op_names[c->op] : "an unknown call";
  if (c->op == WEIR_SHM_JOIN)
    snprintf(out, cap, "%s", name);
  else
    snprintf(out, cap, "%s %u", name, (unsigned)c->number);
  return out;
}

static weir_status say_late(weir_shm_group *g, weir_err *e) {
  char why[WEIR_ERR_MSG_BYTES], call[48];
  int n = 0, late = 0;
  for (int32_t r = 0; r < g->n_ranks; r++) {
    if (has_come(g, r)) continue;
    if (late < NAMED) n += snprintf(why + n, sizeof why - (size_t)n, "%srank %d", late ? ", " : "", (int)r);
    late++;
  }
  if (late > NAMED) n += snprintf(why + n, sizeof why - (size_t)n, " and %d more", late - NAMED);
  snprintf(why + n, sizeof why - (size_t)n, " %s not come to %s within %.1f s", late > 1 ? "have" : "has",
           call_name(&g->call, call, sizeof call), (double)g->bound_ns * 1e-9);
  return give_up(g, why, e);
}

/* From now on the end of that rank's process is seen. */
static bool is_gone(weir_shm_group *g, int32_t rank) {
  const int32_t process = atomic_load(&g->head->of[rank].process);
  int *fd = &g->process_fd[rank];
  if (process == 0 || process == getpid()) return false;
  if (*fd == -1) {
    *fd = (int)syscall(SYS_pidfd_open, process, 0);
    if (*fd < 0 && errno == ESRCH) return true;
    if (*fd < 0) *fd = -2; /* this kernel cannot: the bound remains */
  }
  struct pollfd p = {.fd = *fd, .events = POLLIN};
  return *fd >= 0 && poll(&p, 1, 0) == 1;
}

static weir_status say_gone(weir_shm_group *g, int32_t rank, weir_err *e) {
  char why[160], call[48];
  snprintf(why, sizeof why, "rank %d has not come to %s: its process %d has ended", (int)rank,
           call_name(&g->call, call, sizeof call), (int)atomic_load(&g->head->of[rank].process));
  return give_up(g, why, e);
}

static bool look(const weir_shm_group *g, int32_t rank) {
  for (int i = 0; i < LOOKS; i++) {
    if (has_come(g, rank)) return true;
    __builtin_ia32_pause();
  }
  return false;
}

/* Whether it came; what has come is never called late, so this is asked before the clock is. */
static bool sleep_on(weir_shm_group *g, int32_t rank, int64_t at_most_ns) {
  line *l = &g->head->of[rank];
  atomic_fetch_add(&l->sleepers, 1);
  const uint32_t step = atomic_load(&l->step);
  if ((int32_t)(step - 2 * g->phase) < 0 && atomic_load(&g->head->ended) == 0)
    futex_sleep(&l->step, step, at_most_ns);
  atomic_fetch_sub(&l->sleepers, 1);
  return has_come(g, rank);
}

/* Whether a rank that has not come may want the core that this one is on. */
static bool shares_core(const weir_shm_group *g) {
  const int32_t core = sched_getcpu();
  for (int32_t r = 0; r < g->n_ranks; r++)
    if (r != g->rank && !has_come(g, r) &&
        atomic_load_explicit(&g->head->of[r].core, memory_order_relaxed) == core)
      return true;
  return false;
}

/* What the clock says. Who was stopped, or was on a machine that was suspended, finds the bound over when it
 * goes on; the others may have stood still as well. */
static int64_t look_at_clock(weir_shm_group *g) {
  const int64_t now = weir_monotonic_ns(), until = now + g->bound_ns / 2;
  if (g->deadline_ns == 0)
    g->deadline_ns = now + g->bound_ns;
  else if (now - g->looked_ns > slice_ns + g->bound_ns / 4 && g->deadline_ns < until)
    g->deadline_ns = until;
  g->looked_ns = now;
  return now;
}

/* The group is over. Who has come may have seen all others come, and left: then this rank has them all too.
 */
static weir_status come_or_over(const weir_shm_group *g, int32_t rank) {
  return has_come(g, rank) ? WEIR_OK : WEIR_EDEVICE;
}

static weir_status wait_for(weir_shm_group *g, int32_t rank, weir_err *e) {
  if (look(g, rank)) return WEIR_OK;
  int64_t now = look_at_clock(g);
  const int64_t awake_until = now + (shares_core(g) ? awake_sharing_ns : awake_ns);
  for (; now < awake_until && now < g->deadline_ns; now = look_at_clock(g)) {
    sched_yield();
    if (look(g, rank)) return WEIR_OK;
    if (is_over(g, e)) return come_or_over(g, rank);
  }
  for (;; now = look_at_clock(g)) {
    const int64_t left = g->deadline_ns - now;
    if (left <= 0) return has_come(g, rank) ? WEIR_OK : say_late(g, e);
    if (sleep_on(g, rank, left < slice_ns ? left : slice_ns)) return WEIR_OK;
    if (is_over(g, e)) return come_or_over(g, rank);
    if (is_gone(g, rank)) return has_come(g, rank) ? WEIR_OK : say_gone(g, rank, e);
  }
}

/* ---- calls ---- */

static int describe(const weir_shm_call *c, char *out, size_t cap) {
  char name[48];
  call_name(c, name, sizeof name);
  if (c->op == WEIR_SHM_BROADCAST)
    return snprintf(out, cap, "%s of %llu bytes from rank %d", name, (unsigned long long)c->bytes, c->root);
  return snprintf(out, cap, "%s of %llu bytes", name, (unsigned long long)c->bytes);
}

static weir_status compare(weir_shm_group *g, int32_t rank, weir_err *e) {
  const weir_shm_call *mine = &g->call, *other = &g->head->of[rank].call[mine->number % 2];
  if (other->bytes == mine->bytes && other->op == mine->op && other->root == mine->root &&
      other->number == mine->number)
    return WEIR_OK;
  char why[WEIR_ERR_MSG_BYTES], a[128], b[128];
  const bool first = g->rank < rank; /* the lower rank is named first, whoever notices */
  describe(first ? mine : other, a, sizeof a);
  describe(first ? other : mine, b, sizeof b);
  snprintf(why, sizeof why, "the ranks' calls differ: rank %d is in %s, rank %d in %s",
           (int)(first ? g->rank : rank), a, (int)(first ? rank : g->rank), b);
  return give_up(g, why, e);
}

weir_status weir_shm_meet(weir_shm_group *g, weir_err *e) {
  line *mine = &g->head->of[g->rank];
  g->phase++;
  atomic_store_explicit(&mine->core, sched_getcpu(), memory_order_relaxed);
  atomic_exchange(&mine->step, 2 * g->phase);
  if (atomic_load(&mine->sleepers) > 0) futex_wake_all(&mine->step);
  for (int32_t i = 1; i < g->n_ranks; i++) {
    const int32_t r = (g->rank + i) % g->n_ranks;
    if (!has_come(g, r)) {
      const weir_status st = wait_for(g, r, e);
      if (st != WEIR_OK) return st;
    }
    if (!g->checked) {
      const weir_status st = compare(g, r, e);
      if (st != WEIR_OK) return st;
    }
  }
  g->checked = true;
  return WEIR_OK;
}

static void set_call(weir_shm_group *g, weir_shm_op op, uint32_t number, size_t bytes, int32_t root) {
  g->call = (weir_shm_call){.bytes = bytes, .op = (int16_t)op, .root = (int16_t)root, .number = number};
  g->head->of[g->rank].call[number % 2] = g->call;
  g->checked = false;
  g->deadline_ns = 0;
}

weir_status weir_shm_begin(weir_shm_group *g, weir_shm_op op, size_t bytes, int32_t root, weir_err *e) {
  if (is_over(g, e)) return WEIR_EDEVICE;
  set_call(g, op, g->call.number + 1, bytes, root);
  return WEIR_OK;
}

weir_status weir_shm_enter(weir_shm_group *g, void *memory, int32_t rank, int32_t n_ranks, int64_t bound_ns,
                           weir_err *e) {
  *g = (weir_shm_group){.head = memory, .rank = rank, .n_ranks = n_ranks, .bound_ns = bound_ns};
  for (int32_t r = 0; r < n_ranks; r++) g->process_fd[r] = -1;
  int32_t nobody = 0;
  if (!atomic_compare_exchange_strong(&g->head->of[rank].process, &nobody, getpid()))
    return weir_fail(e, WEIR_EINVAL, "process %d has joined as this rank already", (int)nobody);
  memset(buf_of(g, rank, 0), 0, 2 * WEIR_SHM_BUF_BYTES); /* its pages, near this rank's core */
  set_call(g, WEIR_SHM_JOIN, 0, weir_shm_bytes(n_ranks), 0);
  weir_status st = weir_shm_meet(g, e);
  if (st != WEIR_OK) {
    weir_shm_leave(g);
    return st;
  }
  for (int32_t r = 0; r < n_ranks; r++) (void)is_gone(g, r); /* watch them while they are known to be there */
  return WEIR_OK;
}
