/* SPDX-License-Identifier: Apache-2.0 */
/* CUDA graphs by key: a table of a few dozen records, searched from end to end. The thread that owns the
 * device. */
#include "kernels/cuda/graphs.h"

#include <inttypes.h>
#include <stdlib.h>

typedef enum { EMPTY, SEEN /* enqueued once */, RECORDED, PLAIN /* could not be recorded */ } record_state;

typedef struct {
  record_state state;
  uint64_t key, used; /* used: when, by the table's clock */
  cudaGraphExec_t exec;
} record;

struct weir_cuda_graphs {
  uint64_t clock;
  record record[WEIR_CUDA_MAX_RECORDS];
};

weir_status weir_cuda_graphs_create(weir_cuda_graphs **out, weir_err *e) {
  *out = calloc(1, sizeof **out);
  return *out ? WEIR_OK : weir_fail(e, WEIR_ENOMEM, "memory for records of steps");
}

/* What is under way of a record goes on when it is destroyed. */
static void clear(record *r) {
  if (r->exec) (void)cudaGraphExecDestroy(r->exec);
  *r = (record){0};
}

void weir_cuda_graphs_drop(weir_cuda_graphs *g) {
  for (int32_t i = 0; i < WEIR_CUDA_MAX_RECORDS; i++) clear(&g->record[i]);
}

void weir_cuda_graphs_destroy(weir_cuda_graphs *g) {
  if (!g) return;
  weir_cuda_graphs_drop(g);
  free(g);
}

void weir_cuda_graphs_forget(weir_cuda_graphs *g, uint32_t owner) {
  for (int32_t i = 0; i < WEIR_CUDA_MAX_RECORDS; i++)
    if (g->record[i].state != EMPTY && (uint32_t)(g->record[i].key >> 32) == owner) clear(&g->record[i]);
}

/* The record of that key; of an unknown key, an empty one in place of the one unused for longest. */
static record *find(weir_cuda_graphs *g, uint64_t key) {
  record *oldest = &g->record[0];
  for (int32_t i = 0; i < WEIR_CUDA_MAX_RECORDS; i++) {
    record *r = &g->record[i];
    if (r->state != EMPTY && r->key == key) return r;
    if (r->used < oldest->used) oldest = r; /* an empty one has used = 0 */
  }
  clear(oldest);
  oldest->key = key;
  return oldest;
}

/* Errors that say no more than that this cannot be recorded: the device goes on. Anything else is one. */
static bool unrecordable(cudaError_t ce) {
  return (ce >= cudaErrorStreamCaptureUnsupported && ce <= cudaErrorCapturedEvent) ||
         ce == cudaErrorMemoryAllocation || ce == cudaErrorNotSupported;
}

/* WEIR_EUNSUP: it cannot be recorded, the device is well. */
static weir_status refused(weir_dev *dev, cudaError_t ce, const char *what, weir_err *e) {
  if (!unrecordable(ce)) return weir_cuda_check(dev, ce, what, e);
  (void)cudaGetLastError();
  return weir_fail(e, WEIR_EUNSUP, "%s: %s", what, cudaGetErrorString(ce));
}

/* r->exec is set, or the status says why not. Nothing has been enqueued either way. */
static weir_status make(weir_dev *dev, record *r, weir_enqueue_fn enqueue, void *ctx, weir_err *e) {
  weir_cuda *cu = weir_cuda_of(dev);
  cudaGraph_t graph = NULL;
  weir_status st = WEIR_OK;
  /* Thread-local: other threads, with devices of their own, may allocate meanwhile. */
  WEIR_TRY(refused(dev, cudaStreamBeginCapture(cu->stream, cudaStreamCaptureModeThreadLocal),
                   "begin a record", e));
  cu->capturing = true;
  cu->waits = false;
  st = enqueue(ctx, e);
  cu->capturing = false;
  const cudaError_t ended = cudaStreamEndCapture(cu->stream, &graph);
  if (st != WEIR_OK) {
    /* Why ending failed as well is no news. */
    if (ended != cudaSuccess) (void)cudaGetLastError();
    if (cu->dead.code == WEIR_OK) st = weir_fail_ctx(e, WEIR_EUNSUP, "record");
    goto out;
  }
  WEIR_TRY(refused(dev, ended, "end a record", e));
  WEIR_TRY(refused(dev, cudaGraphInstantiate(&r->exec, graph, 0), "make a record playable", e));
out:
  if (st != WEIR_OK) r->exec = NULL;
  if (graph) (void)cudaGraphDestroy(graph);
  return st;
}

/* What is recorded may wait for other devices' records: either all are played or none is. WEIR_EDEVICE: the
 * others could not be asked. */
static weir_status agree(weir_dev *dev, record *r, weir_status st, weir_err *e) {
  bool ok = st == WEIR_OK;
  weir_err why = {0};
  if (!dev->watch.made || !weir_cuda_of(dev)->waits) return st;
  if (dev->watch.made(dev->watch.ctx, &ok, &why) != WEIR_OK) {
    if (e) *e = why;
    return WEIR_EDEVICE;
  }
  if (ok || st != WEIR_OK) return st;
  (void)cudaGraphExecDestroy(r->exec);
  r->exec = NULL;
  return weir_fail(e, WEIR_EUNSUP, "another rank has no record of it");
}

weir_status weir_cuda_graphs_replay(weir_dev *dev, uint64_t key, weir_enqueue_fn enqueue, void *ctx,
                                    weir_err *e) {
  weir_cuda *cu = weir_cuda_of(dev);
  if (cu->capturing) return weir_fail(e, WEIR_EINVAL, "replay: within a record");
  if (cu->no_graphs) return enqueue(ctx, e);
  record *r = find(cu->graphs, key);
  r->used = ++cu->graphs->clock;
  if (r->state == EMPTY) {
    /* Only a step that could be enqueued at all is worth a record. */
    const weir_status st = enqueue(ctx, e);
    if (st == WEIR_OK)
      r->state = SEEN;
    else
      clear(r);
    return st;
  }
  if (r->state == SEEN) {
    weir_err why = {0};
    weir_status st = make(dev, r, enqueue, ctx, &why);
    if (cu->dead.code != WEIR_OK) {
      if (e) *e = why;
      return st;
    }
    st = agree(dev, r, st, &why);
    if (st == WEIR_EDEVICE) {
      clear(r);
      if (e) *e = why;
      return st;
    }
    r->state = st == WEIR_OK ? RECORDED : PLAIN;
    if (st != WEIR_OK)
      cu->log(WEIR_LOG_WARN, "%s: step %" PRIx64 " is enqueued anew each time: %s", dev->desc, key, why.msg);
  }
  if (r->state == PLAIN) return enqueue(ctx, e);
  return weir_cuda_check(dev, cudaGraphLaunch(r->exec, cu->stream), "play a record", e);
}
