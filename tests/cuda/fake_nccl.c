/* SPDX-License-Identifier: Apache-2.0 */
/* See fake_nccl.h. Compiled several times: OTHER 1 is of an old version, 2 lacks a call, 3 has no windows.
 * The emulator's runtime is the program's. One lock; any thread. */
#include <nccl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake_nccl.h"

#ifndef OTHER
#define OTHER 0
#endif

/* tests/emu/host/cu_shim.h, whose runtime's header would meet CUDA's own here. */
extern cudaError_t cu_shim_enqueue(cudaStream_t, void (*fn)(void *), void *);
__attribute__((visibility("default"))) const fake_nccl_tests *fake_nccl_tests_of(void);

enum { MAX_RANKS = 8, MAX_COMMS = 256, MAX_WINDOWS = 64 };

typedef enum { REDUCE, GATHER, BROADCAST } op_kind;

/* What a stream comes to, as often as it does. */
typedef struct op {
  struct op *next; /* all there are, freed by reset */
  ncclComm_t comm;
  op_kind kind;
  const void *in;
  void *out;
  size_t n;
  int root;
  cudaStream_t stream;
} op;

typedef struct group {
  char id[NCCL_UNIQUE_ID_BYTES];
  int n_ranks, n_joined;
  /* A meeting of ranks whose streams have come to a collective. */
  const op *at[MAX_RANKS];
  int n_came;
  uint64_t meeting;
} group;

struct ncclComm {
  bool used, dead, finalized;
  int rank, n_ranks, polls, device;
  group *g;
  ncclResult_t error;
  op *waiting; /* takes effect when polls is over */
  ncclWindow_t *win_out;
  bool joining;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t change = PTHREAD_COND_INITIALIZER;
static fake_nccl_plan plan;
static fake_nccl_counts count;
static char misuse_text[200], last_error[200];
static struct ncclComm comms[MAX_COMMS];
static group groups[MAX_COMMS];
static int n_groups, n_ids;
static op *ops;
static int window_places[MAX_WINDOWS]; /* whose addresses are windows */

static ncclResult_t misuse(const char *what) {
  count.misuses++;
  snprintf(misuse_text, sizeof misuse_text, "%s", what);
  return ncclInvalidUsage;
}

/* A communicator that may be called now. */
static bool ready(ncclComm_t c, const char *what) {
  if (!c || !c->used || c->dead) {
    misuse(what);
    return false;
  }
  if (c->polls > 0 || c->joining || c->waiting) {
    misuse("a call while the last one is in progress");
    return false;
  }
  return true;
}

/* ---- what streams do ---- */

/* Waits for all ranks' streams; false when this one's communicator is aborted. */
static bool meet(ncclComm_t c, const op *o) {
  group *g = c->g;
  const uint64_t now = g->meeting;
  g->at[c->rank] = o;
  if (++g->n_came == c->n_ranks) {
    g->n_came = 0;
    g->meeting++;
    pthread_cond_broadcast(&change);
  }
  while (g->meeting == now && !c->dead) pthread_cond_wait(&change, &lock);
  return g->meeting != now;
}

static void run(void *ctx) {
  const op *o = ctx;
  ncclComm_t c = o->comm;
  const size_t bytes = o->kind == REDUCE ? o->n * sizeof(float) : o->n;
  const size_t all = o->kind == GATHER ? bytes * (size_t)c->n_ranks : bytes;
  char *result = malloc(all);
  pthread_mutex_lock(&lock);
  count.run++;
  if (!result || c->dead || !meet(c, o)) goto out;
  for (int r = 0; r < c->n_ranks; r++) {
    const op *theirs = c->g->at[r];
    if (theirs->kind != o->kind || theirs->n != o->n || theirs->root != o->root) {
      misuse("ranks call different things");
      goto out;
    }
    if (o->kind == GATHER) memcpy(result + bytes * (size_t)r, theirs->in, bytes);
    if (o->kind == BROADCAST && r == o->root) memcpy(result, theirs->in, bytes);
    if (o->kind == REDUCE)
      for (size_t i = 0; i < o->n; i++) {
        float *to = (float *)(void *)result + i;
        const float from = ((const float *)theirs->in)[i];
        *to = r ? *to + from : from;
      }
  }
  if (!meet(c, o)) goto out; /* nobody reads any more */
  memcpy(o->out, result, all);
out:
  pthread_mutex_unlock(&lock);
  free(result);
}

/* ---- communicators ---- */

ncclResult_t ncclGetVersion(int *version) {
  *version = OTHER == 1 ? 21605 : OTHER == 3 ? 22602 : 22809;
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
  pthread_mutex_lock(&lock);
  memset(id, 0, sizeof *id);
  id->internal[0] = (char)++n_ids;
  id->internal[sizeof id->internal - 1] = (char)0xa5;
  pthread_mutex_unlock(&lock);
  return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t r) {
  return r == ncclRemoteError    ? "remote process exited or there was a network error"
         : r == ncclInvalidUsage ? "invalid usage"
                                 : "unhandled";
}

const char *ncclGetLastError(ncclComm_t c) {
  (void)c;
  return last_error;
}

static group *group_of(const ncclUniqueId *id, int n_ranks) {
  for (int i = 0; i < n_groups; i++)
    if (memcmp(groups[i].id, id->internal, sizeof groups[i].id) == 0) return &groups[i];
  if (n_groups == MAX_COMMS) return NULL;
  group *g = &groups[n_groups++];
  memset(g, 0, sizeof *g);
  memcpy(g->id, id->internal, sizeof g->id);
  g->n_ranks = n_ranks;
  return g;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int n_ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t *config) {
  ncclResult_t r = ncclInProgress;
  int device = -1;
  *out = NULL;
  pthread_mutex_lock(&lock);
  group *g = group_of(&id, n_ranks);
  int i = 0;
  while (i < MAX_COMMS && comms[i].used) i++;
  if (config->blocking != 0 || cudaGetDevice(&device) != cudaSuccess || i == MAX_COMMS || !g ||
      g->n_ranks != n_ranks || rank < 0 || rank >= n_ranks || n_ranks > MAX_RANKS) {
    r = misuse("communicator of that kind");
  } else {
    comms[i] = (struct ncclComm){.used = true,
                                 .rank = rank,
                                 .n_ranks = n_ranks,
                                 .polls = plan.polls,
                                 .device = device,
                                 .g = g,
                                 .joining = true};
    if (!plan.init_never) g->n_joined++;
    if (plan.duplicate) {
      comms[i].error = ncclInvalidUsage;
      snprintf(last_error, sizeof last_error,
               "Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 1b000");
    }
    count.made++;
    count.alive++;
    *out = &comms[i];
  }
  pthread_mutex_unlock(&lock);
  return r;
}

/* The last call takes effect, on the communicator's GPU whoever asks. */
static void settle(ncclComm_t c) {
  op *o = c->waiting;
  int before = c->device;
  enum cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  c->waiting = NULL;
  (void)cudaGetDevice(&before);
  (void)cudaSetDevice(c->device);
  if (o) {
    (void)cudaStreamIsCapturing(o->stream, &status);
    count.recorded += status == cudaStreamCaptureStatusActive;
    if (cu_shim_enqueue(o->stream, run, o) != cudaSuccess) c->error = ncclUnhandledCudaError;
  }
  if (c->win_out) *c->win_out = (ncclWindow_t)(void *)&window_places[count.windows++ % MAX_WINDOWS];
  c->win_out = NULL;
  (void)cudaSetDevice(before);
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *state) {
  ncclResult_t r = ncclSuccess;
  pthread_mutex_lock(&lock);
  *state = ncclSuccess;
  if (!c || !c->used || c->dead)
    r = misuse("a question about a communicator that is no more");
  else if (c->error != ncclSuccess)
    *state = c->error;
  else if (c->polls > 0 && c->polls--)
    *state = ncclInProgress;
  else if (c->joining && c->g->n_joined < c->n_ranks)
    *state = ncclInProgress;
  else {
    c->joining = false;
    settle(c);
    *state = c->error;
  }
  pthread_mutex_unlock(&lock);
  return r;
}

static void gone(ncclComm_t c) {
  c->dead = true;
  count.alive--;
  pthread_cond_broadcast(&change);
}

ncclResult_t ncclCommFinalize(ncclComm_t c) {
  pthread_mutex_lock(&lock);
  const bool ok = ready(c, "finalize of a communicator that is no more");
  if (ok) {
    c->finalized = true;
    c->polls = plan.polls;
    count.finalized++;
  }
  pthread_mutex_unlock(&lock);
  return ok ? ncclInProgress : ncclInvalidUsage;
}

ncclResult_t ncclCommDestroy(ncclComm_t c) {
  pthread_mutex_lock(&lock);
  const bool ok = ready(c, "destroy of a communicator that is no more");
  if (ok && !c->finalized) misuse("destroyed before it was finalized");
  if (ok) {
    gone(c);
    count.destroyed++;
  }
  pthread_mutex_unlock(&lock);
  return ok ? ncclSuccess : ncclInvalidUsage;
}

#if OTHER != 2
ncclResult_t ncclCommAbort(ncclComm_t c) {
  pthread_mutex_lock(&lock);
  const bool ok = c && c->used && !c->dead;
  if (!ok) misuse("abort of a communicator that is no more");
  if (ok) {
    gone(c);
    count.aborted++;
  }
  pthread_mutex_unlock(&lock);
  return ok ? ncclSuccess : ncclInvalidUsage;
}
#endif

/* ---- collectives ---- */

static ncclResult_t collective(ncclComm_t c, op want) {
  ncclResult_t r = ncclInProgress;
  pthread_mutex_lock(&lock);
  if (!ready(c, "a collective of a communicator that is no more")) {
    r = ncclInvalidUsage;
    goto out;
  }
  count.calls++;
  if (plan.refuse_call > 0 && --plan.refuse_call == 0) {
    snprintf(last_error, sizeof last_error, "refused as planned");
    r = ncclInvalidArgument;
    goto out;
  }
  op *o = malloc(sizeof *o);
  if (!o) {
    r = ncclSystemError;
    goto out;
  }
  *o = want;
  o->comm = c;
  o->next = ops;
  ops = o;
  c->waiting = o;
  c->polls = plan.polls;
out:
  pthread_mutex_unlock(&lock);
  return r;
}

ncclResult_t ncclAllReduce(const void *in, void *out, size_t n, ncclDataType_t type, ncclRedOp_t op_,
                           ncclComm_t c, cudaStream_t stream) {
  if (type != ncclFloat32 || op_ != ncclSum) return ncclInvalidArgument;
  return collective(c, (op){.kind = REDUCE, .in = in, .out = out, .n = n, .stream = stream});
}

ncclResult_t ncclAllGather(const void *in, void *out, size_t n, ncclDataType_t type, ncclComm_t c,
                           cudaStream_t stream) {
  if (type != ncclInt8) return ncclInvalidArgument;
  return collective(c, (op){.kind = GATHER, .in = in, .out = out, .n = n, .stream = stream});
}

ncclResult_t ncclBroadcast(const void *in, void *out, size_t n, ncclDataType_t type, int root, ncclComm_t c,
                           cudaStream_t stream) {
  if (type != ncclInt8) return ncclInvalidArgument;
  return collective(c, (op){.kind = BROADCAST, .in = in, .out = out, .n = n, .root = root, .stream = stream});
}

/* ---- windows ---- */

#if OTHER != 3
ncclResult_t ncclMemAlloc(void **p, size_t bytes) {
  pthread_mutex_lock(&lock);
  const bool refused = plan.refuse_memory > 0 && --plan.refuse_memory == 0;
  pthread_mutex_unlock(&lock);
  if (refused || cudaMalloc(p, bytes) != cudaSuccess) return ncclUnhandledCudaError;
  pthread_mutex_lock(&lock);
  count.memory++;
  pthread_mutex_unlock(&lock);
  return ncclSuccess;
}

ncclResult_t ncclMemFree(void *p) {
  pthread_mutex_lock(&lock);
  count.memory--;
  pthread_mutex_unlock(&lock);
  return cudaFree(p) == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

ncclResult_t ncclCommWindowRegister(ncclComm_t c, void *p, size_t bytes, ncclWindow_t *win, int flags) {
  ncclResult_t r = ncclInProgress;
  pthread_mutex_lock(&lock);
  if (!ready(c, "a window of a communicator that is no more") || flags != NCCL_WIN_COLL_SYMMETRIC ||
      (uintptr_t)p % 256 != 0 || bytes % NCCL_WIN_REQUIRED_ALIGNMENT != 0) {
    r = misuse("a window of that kind");
  } else {
    c->win_out = win;
    c->polls = plan.polls;
  }
  pthread_mutex_unlock(&lock);
  return r;
}

ncclResult_t ncclCommWindowDeregister(ncclComm_t c, ncclWindow_t win) {
  ncclResult_t r = ncclSuccess;
  pthread_mutex_lock(&lock);
  if (!win || !ready(c, "the window of a communicator that is no more"))
    r = ncclInvalidUsage;
  else
    count.windows--;
  pthread_mutex_unlock(&lock);
  return r;
}
#endif

/* ---- tests ---- */

static void set_plan(const fake_nccl_plan *p) {
  pthread_mutex_lock(&lock);
  plan = *p;
  pthread_mutex_unlock(&lock);
}

static void reset(const fake_nccl_plan *p) {
  pthread_mutex_lock(&lock);
  plan = *p;
  memset(&count, 0, sizeof count);
  memset(comms, 0, sizeof comms);
  n_groups = 0;
  misuse_text[0] = last_error[0] = 0;
  while (ops) {
    op *o = ops;
    ops = o->next;
    free(o);
  }
  pthread_mutex_unlock(&lock);
}

static fake_nccl_counts counts(void) {
  pthread_mutex_lock(&lock);
  const fake_nccl_counts c = count;
  pthread_mutex_unlock(&lock);
  return c;
}

static const char *misuse_of(void) { return misuse_text; }

static void break_rank(int rank, int result) {
  pthread_mutex_lock(&lock);
  for (int i = 0; i < MAX_COMMS; i++)
    if (comms[i].used && !comms[i].dead && comms[i].rank == rank) comms[i].error = (ncclResult_t)result;
  snprintf(last_error, sizeof last_error, "socketProgress: Connection closed by remote peer gpu17");
  pthread_mutex_unlock(&lock);
}

const fake_nccl_tests *fake_nccl_tests_of(void) {
  static const fake_nccl_tests tests = {reset, set_plan, counts, misuse_of, break_rank};
  return &tests;
}
