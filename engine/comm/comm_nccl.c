/* SPDX-License-Identifier: Apache-2.0 */
/* Collectives by NCCL. Owns the NCCL communicator, the memory registered with it and one thread, the watch.
 * The rank's thread makes calls; the watch, and nobody else, ends the communicator before its time.
 *
 * A communicator that does not block launches from a thread that NCCL starts for each call and is polled
 * until that is done (NCCL 2.28, src/group.cc): some tens of microseconds a call where a step is enqueued,
 * nothing where it is played from a record. A communicator that blocks would spare that and could not be
 * ended while it is made.
 *
 * Two locks, never both: `use` is held for a call of NCCL with the communicator, which ncclCommAbort frees;
 * `state` for a few instructions. */
#include "comm/comm_nccl.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"
#include "comm/nccl_lib.h"

static const int64_t LOOK_NS = 100000000; /* between two questions of the watch */
static const int EAGER_POLLS = 500;       /* with the core only offered to others; then sleep in between */
static const long POLL_SLEEP_NS = 50000;

typedef struct window {
  struct window *next;
  void *p;
  ncclWindow_t win; /* NULL: not registered */
} window;

typedef struct nccl {
  weir_comm comm;
  const weir_nccl *lib;
  weir_dev *dev; /* borrowed */
  cudaStream_t stream;
  int64_t bound_ns;
  window *windows; /* owned; the rank's thread */
  pthread_t watch;
  pthread_mutex_t use;
  ncclComm_t handle;     /* NULL: ended */
  pthread_mutex_t state; /* of all below */
  pthread_cond_t change;
  bool armed, quit, ended;      /* ended: nothing is left for the watch to do */
  int64_t deadline_ns;          /* while armed */
  char why[WEIR_ERR_MSG_BYTES]; /* "": it is well */
} nccl;

/* ---- the end ---- */

/* state is held. */
static void end_locked(nccl *c, const char *why) {
  if (c->why[0]) return;
  snprintf(c->why, sizeof c->why, "%s", why && why[0] ? why : "no reason was given");
  pthread_cond_broadcast(&c->change);
}

static void end(nccl *c, const char *why) {
  pthread_mutex_lock(&c->state);
  end_locked(c, why);
  pthread_mutex_unlock(&c->state);
}

/* WEIR_EDEVICE and the reason when there is one. */
static weir_status over(nccl *c, weir_err *e) {
  weir_status st = WEIR_OK;
  pthread_mutex_lock(&c->state);
  if (c->why[0]) st = weir_fail(e, WEIR_EDEVICE, "%s", c->why);
  pthread_mutex_unlock(&c->state);
  return st;
}

static const char *hint(const char *text) {
  return strstr(text, "uplicate GPU")
             ? "; several ranks on one GPU are for the communicator `local` (NCCL itself "
               "can from 2.30 on, with NCCL_MULTI_RANK_GPU_ENABLE=1)"
             : "";
}

/* use is held, or nobody else has the communicator. */
static void describe(const weir_nccl *lib, ncclComm_t handle, ncclResult_t r, char *out, size_t cap) {
  const char *last = lib->GetLastError(handle);
  const bool more = last && last[0];
  snprintf(out, cap, "NCCL: %s%s%.200s%s", lib->GetErrorString(r), more ? ": " : "", more ? last : "",
           more ? hint(last) : "");
}

/* What NCCL says of the communicator; *text when that is an error. ncclInvalidUsage when it has been ended.
 */
static ncclResult_t ask(nccl *c, char *text, size_t cap) {
  ncclResult_t r = ncclInvalidUsage, state = ncclSuccess;
  pthread_mutex_lock(&c->use);
  if (c->handle) {
    r = c->lib->CommGetAsyncError(c->handle, &state);
    if (r == ncclSuccess) r = state;
    if (r != ncclSuccess && r != ncclInProgress) describe(c->lib, c->handle, r, text, cap);
  } else {
    snprintf(text, cap, "it has been ended");
  }
  pthread_mutex_unlock(&c->use);
  return r;
}

/* ---- polling ---- */

/* Lets others run, for longer the longer it takes. */
static void pause_poll(int n) {
  const struct timespec t = {0, POLL_SLEEP_NS};
  if (n < EAGER_POLLS)
    sched_yield();
  else
    (void)nanosleep(&t, NULL);
}

/* Until the last call is through. */
static weir_status settle(nccl *c, const char *what, weir_err *e) {
  const int64_t from = weir_monotonic_ns();
  char text[320], why[WEIR_ERR_MSG_BYTES];
  for (int n = 0;; n++) {
    const weir_status st = over(c, e);
    if (st != WEIR_OK) return st;
    const ncclResult_t r = ask(c, text, sizeof text);
    if (r == ncclSuccess) return WEIR_OK;
    if (r != ncclInProgress)
      snprintf(why, sizeof why, "rank %d: %s: %s", (int)c->comm.rank, what, text);
    else if (weir_monotonic_ns() - from > c->bound_ns)
      snprintf(why, sizeof why, "rank %d: %s has not been enqueued within %.3g s: another rank does not come",
               (int)c->comm.rank, what, (double)c->bound_ns * 1e-9);
    else {
      pause_poll(n);
      continue;
    }
    end(c, why);
    return over(c, e);
  }
}

/* ---- the watch ---- */

static struct timespec at_time(int64_t ns) {
  return (struct timespec){.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
}

/* Ends kernels that wait for other ranks, and frees the communicator. */
static void kill_it(nccl *c) {
  pthread_mutex_lock(&c->use);
  const ncclComm_t handle = c->handle;
  c->handle = NULL;
  pthread_mutex_unlock(&c->use);
  if (handle) (void)c->lib->CommAbort(handle);
}

/* state is held, and let go for the question. */
static void look(nccl *c) {
  char text[320], why[WEIR_ERR_MSG_BYTES];
  pthread_mutex_unlock(&c->state);
  const ncclResult_t r = ask(c, text, sizeof text);
  pthread_mutex_lock(&c->state);
  if (r == ncclSuccess || r == ncclInProgress) return;
  snprintf(why, sizeof why, "rank %d: %s", (int)c->comm.rank, text);
  end_locked(c, why);
}

static void *watch_main(void *arg) {
  nccl *c = arg;
  pthread_mutex_lock(&c->state);
  for (;;) {
    if (c->why[0] && !c->ended) {
      pthread_mutex_unlock(&c->state);
      kill_it(c);
      pthread_mutex_lock(&c->state);
      c->ended = true;
    } else if (c->quit) {
      break;
    } else if (!c->armed || c->ended) {
      pthread_cond_wait(&c->change, &c->state);
    } else if (weir_monotonic_ns() >= c->deadline_ns) {
      char why[WEIR_ERR_MSG_BYTES];
      snprintf(why, sizeof why,
               "rank %d waits on its GPU for other ranks since %.3g s; NCCL does not say for which",
               (int)c->comm.rank, (double)c->bound_ns * 1e-9);
      end_locked(c, why);
    } else {
      const int64_t next = weir_monotonic_ns() + LOOK_NS;
      const struct timespec until = at_time(next < c->deadline_ns ? next : c->deadline_ns);
      (void)pthread_cond_timedwait(&c->change, &c->state, &until);
      if (c->armed && !c->why[0] && !c->quit) look(c);
    }
  }
  pthread_mutex_unlock(&c->state);
  return NULL;
}

static void arm(void *ctx) {
  nccl *c = ctx;
  pthread_mutex_lock(&c->state);
  c->deadline_ns = weir_monotonic_ns() + c->bound_ns;
  if (!c->armed) pthread_cond_broadcast(&c->change);
  c->armed = true;
  pthread_mutex_unlock(&c->state);
}

/* What was computed while the communicator ended is worth nothing, whatever the device says. */
static weir_status waited(void *ctx, weir_status st, weir_err *e) {
  nccl *c = ctx;
  char why[WEIR_ERR_MSG_BYTES];
  pthread_mutex_lock(&c->state);
  c->armed = false;
  if (st != WEIR_OK) {
    snprintf(why, sizeof why, "rank %d: %.480s", (int)c->comm.rank, e ? e->msg : weir_status_name(st));
    end_locked(c, why);
  }
  pthread_mutex_unlock(&c->state);
  return st != WEIR_OK ? st : over(c, e);
}

/* ---- calls ---- */

typedef enum { ALL_REDUCE, ALL_GATHER, BROADCAST, REGISTER } what;
static const char *const what_name[] = {"all_reduce", "all_gather", "broadcast",
                                        "memory of the interconnect"};
typedef struct call {
  what what;
  void *out;
  const void *in;
  size_t n; /* floats of all_reduce, else bytes */
  int root;
  ncclWindow_t *win; /* of REGISTER */
} call;

/* use is held, the communicator is there. */
static ncclResult_t issue(nccl *c, const call *k) {
  switch (k->what) {
    case ALL_REDUCE:
      return c->lib->AllReduce(k->in, k->out, k->n, ncclFloat32, ncclSum, c->handle, c->stream);
    case ALL_GATHER: return c->lib->AllGather(k->in, k->out, k->n, ncclInt8, c->handle, c->stream);
    case BROADCAST: return c->lib->Broadcast(k->in, k->out, k->n, ncclInt8, k->root, c->handle, c->stream);
    case REGISTER: break;
  }
  return c->lib->CommWindowRegister(c->handle, k->out, k->n, k->win, NCCL_WIN_COLL_SYMMETRIC);
}

static weir_status enqueue(nccl *c, const call *k, weir_err *e) {
  char text[320], why[WEIR_ERR_MSG_BYTES];
  weir_status st = over(c, e);
  if (st != WEIR_OK) return st;
  pthread_mutex_lock(&c->use);
  const ncclResult_t r = c->handle ? issue(c, k) : ncclInvalidUsage;
  const bool ok = r == ncclSuccess || r == ncclInProgress;
  if (!ok && c->handle) describe(c->lib, c->handle, r, text, sizeof text);
  if (!ok && !c->handle) snprintf(text, sizeof text, "it has been ended");
  pthread_mutex_unlock(&c->use);
  if (ok) {
    st = settle(c, what_name[k->what], e);
    /* From now on something may wait on the GPU, whoever waits for that. */
    if (st == WEIR_OK && k->what != REGISTER) arm(c);
    return st;
  }
  snprintf(why, sizeof why, "rank %d: %s: %s", (int)c->comm.rank, what_name[k->what], text);
  end(c, why);
  return over(c, e);
}

static weir_status all_reduce(weir_comm *comm, float *x, size_t n, weir_err *e) {
  return enqueue(comm->impl, &(call){.what = ALL_REDUCE, .out = x, .in = x, .n = n}, e);
}

static weir_status all_gather(weir_comm *comm, void *out, const void *in, size_t bytes, weir_err *e) {
  return enqueue(comm->impl, &(call){.what = ALL_GATHER, .out = out, .in = in, .n = bytes}, e);
}

static weir_status broadcast(weir_comm *comm, void *data, size_t bytes, int32_t root, weir_err *e) {
  return enqueue(comm->impl,
                 &(call){.what = BROADCAST, .out = data, .in = data, .n = bytes, .root = (int)root}, e);
}

static void nccl_abort(weir_comm *comm, const char *why) { end(comm->impl, why); }

/* ---- memory ---- */

/* Makes the device the thread's: NCCL takes what is current. */
static weir_status select_device(weir_dev *dev, weir_err *e) {
  size_t free_bytes, total_bytes;
  return weir_dev_memory(dev, &free_bytes, &total_bytes, e);
}

static void drop(nccl *c, window *w) {
  if (w->win && over(c, NULL) == WEIR_OK) {
    pthread_mutex_lock(&c->use);
    if (c->handle) (void)c->lib->CommWindowDeregister(c->handle, w->win);
    pthread_mutex_unlock(&c->use);
    (void)settle(c, "taking memory back", NULL);
  }
  (void)c->lib->MemFree(w->p);
  free(w);
}

static weir_status nccl_alloc(weir_comm *comm, size_t bytes, void **out, weir_err *e) {
  nccl *c = comm->impl;
  weir_status st = WEIR_OK;
  window *w = NULL;
  *out = NULL;
  if (!c->lib->windows) return weir_dev_alloc(c->dev, bytes, out, e);
  if (bytes == 0 || bytes > SIZE_MAX - NCCL_WIN_REQUIRED_ALIGNMENT)
    return weir_fail(e, WEIR_EINVAL, "memory of %zu bytes", bytes);
  bytes =
      (bytes + NCCL_WIN_REQUIRED_ALIGNMENT - 1) / NCCL_WIN_REQUIRED_ALIGNMENT * NCCL_WIN_REQUIRED_ALIGNMENT;
  WEIR_TRY(select_device(c->dev, e));
  WEIR_TRY(WEIR_NEW(1, &w, e));
  const ncclResult_t r = c->lib->MemAlloc(&w->p, bytes);
  if (r != ncclSuccess) {
    w->p = NULL;
    st = weir_fail(e, WEIR_ENOMEM, "%zu bytes of GPU memory: NCCL: %s", bytes, c->lib->GetErrorString(r));
    goto out;
  }
  WEIR_TRY(enqueue(c, &(call){.what = REGISTER, .out = w->p, .n = bytes, .win = &w->win}, e));
  w->next = c->windows;
  c->windows = w;
  *out = w->p;
  w = NULL;

out:
  if (w && w->p) (void)c->lib->MemFree(w->p);
  free(w);
  return st;
}

static void nccl_release(weir_comm *comm, void *p) {
  nccl *c = comm->impl;
  window **at = &c->windows;
  while (*at && (*at)->p != p) at = &(*at)->next;
  if (!*at) {
    weir_dev_release(c->dev, p);
    return;
  }
  window *w = *at;
  *at = w->next;
  (void)select_device(c->dev, NULL);
  drop(c, w);
}

/* ---- a communicator's life ---- */

static void destroy(weir_comm *comm) {
  nccl *c = comm->impl;
  weir_dev_set_watch(c->dev, NULL);
  (void)select_device(c->dev, NULL);
  while (c->windows) {
    window *w = c->windows;
    c->windows = w->next;
    drop(c, w);
  }
  /* What this rank has to send is sent; then nothing of it is needed. */
  if (over(c, NULL) == WEIR_OK) {
    pthread_mutex_lock(&c->use);
    if (c->handle) (void)c->lib->CommFinalize(c->handle);
    pthread_mutex_unlock(&c->use);
    (void)settle(c, "leaving", NULL);
  }
  pthread_mutex_lock(&c->state);
  c->quit = true;
  pthread_cond_broadcast(&c->change);
  pthread_mutex_unlock(&c->state);
  pthread_join(c->watch, NULL); /* after which the communicator is gone if there was a reason */
  if (c->handle) (void)c->lib->CommDestroy(c->handle);
  pthread_cond_destroy(&c->change);
  pthread_mutex_destroy(&c->state);
  pthread_mutex_destroy(&c->use);
  free(c);
}

static const weir_comm_ops ops = {
    .name = "nccl",
    .all_reduce = all_reduce,
    .all_gather = all_gather,
    .broadcast = broadcast,
    .abort = nccl_abort,
    .destroy = destroy,
    .alloc = nccl_alloc,
    .release = nccl_release,
};

/* ---- meeting ---- */

static weir_status nccl_check(weir_err *e) {
  const weir_nccl *lib;
  return weir_nccl_open(&lib, e);
}

static weir_status nccl_open(weir_comm_seat *s, char *offer, weir_err *e) {
  (void)s;
  (void)e;
  offer[0] = 0;
  return WEIR_OK;
}

static void nccl_close(weir_comm_seat *s) { (void)s; }

_Static_assert(2 * sizeof(ncclUniqueId) + 1 <= WEIR_COMM_INVITE_BODY,
               "an id in hexadecimal is an invitation");

static weir_status nccl_invite(int32_t n_ranks, const char *const *offer, char *out, weir_err *e) {
  (void)n_ranks;
  (void)offer;
  const weir_nccl *lib;
  ncclUniqueId id;
  unsigned char bytes[sizeof id];
  const weir_status st = weir_nccl_open(&lib, e);
  if (st != WEIR_OK) return st;
  const ncclResult_t r = lib->GetUniqueId(&id);
  if (r != ncclSuccess) return weir_fail(e, WEIR_EDEVICE, "NCCL makes no id: %s", lib->GetErrorString(r));
  memcpy(bytes, &id, sizeof id);
  for (size_t i = 0; i < sizeof id; i++) snprintf(out + 2 * i, 3, "%02x", bytes[i]);
  return WEIR_OK;
}

static int digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static weir_status parse_id(const char *invite, ncclUniqueId *id, weir_err *e) {
  unsigned char bytes[sizeof *id];
  size_t n = 0;
  for (; n < sizeof *id; n++) {
    const int high = digit(invite[2 * n]), low = high < 0 ? -1 : digit(invite[2 * n + 1]);
    if (low < 0) break;
    bytes[n] = (unsigned char)(high * 16 + low);
  }
  if (n < sizeof *id || invite[2 * n] != 0)
    return weir_fail(e, WEIR_EFORMAT, "the invitation is no NCCL id of %zu bytes", sizeof *id);
  memcpy(id, bytes, sizeof *id);
  return WEIR_OK;
}

/* The communicator, or none; until the bound. */
static weir_status init(const weir_nccl *lib, const ncclUniqueId *id, int32_t n_ranks, int32_t rank,
                        int64_t bound_ns, ncclComm_t *out, weir_err *e) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  ncclComm_t handle = NULL;
  char text[320] = "";
  const int64_t from = weir_monotonic_ns();
  config.blocking = 0;
  ncclResult_t r = lib->CommInitRankConfig(&handle, (int)n_ranks, *id, (int)rank, &config), state;
  for (int n = 0; r == ncclInProgress && weir_monotonic_ns() - from <= bound_ns; n++) {
    if (n > 0) pause_poll(n);
    r = lib->CommGetAsyncError(handle, &state);
    if (r == ncclSuccess) r = state;
  }
  *out = handle;
  if (r == ncclSuccess) return WEIR_OK;
  if (r != ncclInProgress) describe(lib, handle, r, text, sizeof text);
  if (handle) (void)lib->CommAbort(handle);
  *out = NULL;
  if (r == ncclInProgress)
    return weir_fail(e, WEIR_EDEVICE,
                     "not all of %d ranks have joined within %.3g s; NCCL does not say which", (int)n_ranks,
                     (double)bound_ns * 1e-9);
  return weir_fail(e, WEIR_EDEVICE, "%s", text);
}

static weir_status start_watch(nccl *c, weir_err *e) {
  pthread_condattr_t attr;
  pthread_condattr_init(&attr);
  pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  pthread_mutex_init(&c->use, NULL);
  pthread_mutex_init(&c->state, NULL);
  pthread_cond_init(&c->change, &attr);
  pthread_condattr_destroy(&attr);
  if (pthread_create(&c->watch, NULL, watch_main, c) == 0) return WEIR_OK;
  pthread_cond_destroy(&c->change);
  pthread_mutex_destroy(&c->state);
  pthread_mutex_destroy(&c->use);
  return weir_fail(e, WEIR_ENOMEM, "no thread for the watch");
}

static weir_status nccl_join(weir_comm_seat *s, const char *invite, int32_t n_ranks, int32_t rank,
                             weir_comm **out, weir_err *e) {
  weir_status st = WEIR_OK;
  nccl *c = NULL;
  ncclUniqueId id;
  WEIR_TRY(parse_id(invite, &id, e));
  WEIR_TRY(WEIR_NEW(1, &c, e));
  WEIR_TRY(weir_nccl_open(&c->lib, e));
  WEIR_TRY(select_device(s->dev, e));
  c->dev = s->dev;
  c->stream = weir_dev_stream(s->dev);
  c->bound_ns = s->bound_ns;
  c->comm = (weir_comm){.ops = &ops, .rank = rank, .n_ranks = n_ranks, .impl = c};
  WEIR_TRY(init(c->lib, &id, n_ranks, rank, s->bound_ns, &c->handle, e));
  WEIR_TRY(start_watch(c, e));
  weir_dev_set_watch(s->dev, &(weir_dev_watch){.begin = arm, .end = waited, .ctx = c});
  *out = &c->comm;
  c = NULL;

out:
  if (c && c->handle) (void)c->lib->CommAbort(c->handle);
  free(c);
  return st;
}

const weir_comm_back weir_comm_nccl_back = {
    .device = "cuda",
    .check = nccl_check,
    .open = nccl_open,
    .close = nccl_close,
    .invite = nccl_invite,
    .join = nccl_join,
};
