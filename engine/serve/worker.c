/* SPDX-License-Identifier: Apache-2.0 */
/* A worker process. Owns its devices and the model's file, for the length of the call; any one thread, which
 * is the executor's from then on. */
#include "serve/worker.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "comm/comm_nccl.h"
#include "kernels/cuda/open.h"
#include "model/hparams.h"
#include "model/mfile.h"
#include "run/tp.h"
#include "serve/placement.h"

typedef struct worker {
  const weir_worker_opts *o;
  weir_mfile *file;
  weir_hparams h;
  weir_places at;
  weir_placement devices;
  bool led, done; /* a leader was here; it went, and there is to be no other */
} worker;

static bool stop(void *ctx) {
  const worker *w = ctx;
  return w->done || (w->o->stop && w->o->stop(w->o->ctx));
}

/* The executor's lines are all that says whether a leader is there (run/tp_worker.c). */
static void tell(void *ctx, const char *line) {
  worker *w = ctx;
  if (!strncmp(line, "joined ", 7)) w->led = true;
  if (!strncmp(line, "the leader is gone", 18) && w->led && w->o->once) w->done = true;
  if (w->o->tell) w->o->tell(w->o->ctx, line);
}

/* Tokens that each rank here has room for; -1: not known. */
static int64_t room(void *ctx, int64_t token_bytes) {
  const worker *w = ctx;
  const weir_worker_opts *o = w->o;
  int64_t least = -1;
  for (int32_t r = 0; r < w->at.n; r++) {
    size_t free_bytes, total_bytes;
    weir_err ignored; /* a device that fails shows in the first step */
    int64_t all = 0, n = -1;
    for (int32_t k = 0; k < w->at.n; k++) all += weir_place_same(w->at.at[k], w->at.at[r]) ? token_bytes : 0;
    if (w->at.at[r].cuda) {
      if (weir_dev_memory(w->devices.rank[0][r], &free_bytes, &total_bytes, &ignored) == WEIR_OK)
        n = weir_placement_kv_tokens(free_bytes, total_bytes, o->gpu_share > 0 ? o->gpu_share : 0.9, all);
    } else {
      const int64_t available = weir_memory_available();
      if (o->n_local > 1) all *= o->n_local;
      if (available >= 0 && all > 0) n = available / 16 * 15 / all;
    }
    if (n >= 0 && (least < 0 || n < least)) least = n;
  }
  return least;
}

static weir_status open_devices(worker *w, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_worker_opts *o = w->o;
  const char *device = o->device ? o->device : "cpu";
  const int32_t n = o->tp / o->n_nodes;
  int32_t first = 0;
  weir_err ignored;
  if (o->n_local > 1 && !strcmp(device, "cuda"))
    first = weir_places_first(o->local, o->n_local, n, weir_cuda_count(o->cuda_library, &ignored));
  WEIR_TRY(weir_places_parse(device, n, first, &w->at, e));
  const weir_placement_opts at = {.n_tiers = 1,
                                  .ranks = {&w->at},
                                  .n_threads = o->n_threads,
                                  .process = o->cores_local,
                                  .n_processes = o->cores_n_local,
                                  .isa = o->isa,
                                  .cuda_library = o->cuda_library,
                                  .cuda_no_graphs = o->cuda_no_graphs};
  st = weir_placement_open(&at, &w->devices, e);
out:
  return st;
}

weir_status weir_worker_run(const weir_worker_opts *o, weir_err *e) {
  weir_status st = WEIR_OK;
  worker *w = NULL;
  bool left[WEIR_MAX_TIERS] = {false};
  if (o->n_nodes < 2 || o->node < 1 || o->node >= o->n_nodes)
    return weir_fail(e, WEIR_EINVAL, "process %d of %d is no worker: those are 1 to %d", o->node, o->n_nodes,
                     o->n_nodes - 1);
  if (o->tp < o->n_nodes || o->tp % o->n_nodes != 0 || o->tp > WEIR_MAX_RANKS)
    return weir_fail(e, WEIR_EINVAL, "%d ranks over %d processes: want as many on each, at most %d in all",
                     o->tp, o->n_nodes, WEIR_MAX_RANKS);
  weir_comm_nccl_library(o->nccl_library);
  WEIR_TRY(WEIR_NEW(1, &w, e));
  w->o = o;
  WEIR_TRY(open_devices(w, e));
  st = weir_mfile_open(o->path, &w->file, e);
  if (st == WEIR_OK) st = weir_hparams_read(w->file, &w->h, e);
  if (st != WEIR_OK) {
    if (!e || !strstr(e->msg, o->path)) weir_fail_ctx(e, st, "open the large model: %s", o->path);
    goto out;
  }
  const weir_tp_worker_opts opts = {.node = o->node,
                                    .n_nodes = o->n_nodes,
                                    .n_local = w->at.n,
                                    .addr = o->addr,
                                    .token = o->token,
                                    .version = o->version,
                                    .host = o->host,
                                    .bound_ns = o->bound_ns,
                                    .file = w->file,
                                    .h = &w->h,
                                    .dev = w->devices.rank[0],
                                    .room = room,
                                    .stop = stop,
                                    .tell = tell,
                                    .ctx = w,
                                    .left = &left[0]};
  st = weir_tp_worker_run(&opts, e);
out:
  if (w && !left[0]) { /* a thread that is stuck in a device may still look at all of it */
    weir_placement_close(&w->devices, left);
    weir_mfile_close(w->file);
    free(w);
  }
  return st;
}
