/* SPDX-License-Identifier: Apache-2.0 */
/* The CUDA device itself: a GPU's properties, one stream, memory, scratch, and what happens when the GPU
 * fails. The operations are files of their own. The thread that owns the device; CUDA's current device is the
 * thread's, so every call sets it. */
#include "kernels/cuda/cuda_dev.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/graphs.h"
#include "kernels/cuda/ring.h"

/* Uploads: weights go through at the speed of one thread's memcpy, about 10 GB/s; 2 MiB then take 0.2 ms,
 * long beside what an event costs, and eight of them cover a GPU that is behind by a step. */
enum { SEGMENT_BYTES = 2 << 20, N_SEGMENTS = 8, DOWNLOAD_BYTES = 4 << 20 };

/* What kernels/cuda/CMakeLists.txt compiles for: 80-real runs on 8.x from there on, 90a-real on 9.0 alone, a
 * number without -real on everything newer. */
#ifndef WEIR_CUDA_ARCHS
#define WEIR_CUDA_ARCHS "80-real,90a-real"
#endif

/* ---- failure ---- */

static bool within_record(cudaError_t ce) {
  return ce >= cudaErrorStreamCaptureUnsupported && ce <= cudaErrorCapturedEvent;
}

weir_status weir_cuda_check(weir_dev *dev, cudaError_t ce, const char *what, weir_err *e) {
  weir_cuda *cu = weir_cuda_of(dev);
  if (ce == cudaSuccess) return WEIR_OK;
  (void)cudaGetLastError(); /* or the next launch would report it again */
  if (ce == cudaErrorMemoryAllocation) return weir_fail(e, WEIR_ENOMEM, "%s: out of GPU memory", what);
  if (cu->capturing && within_record(ce))
    return weir_fail(e, WEIR_EUNSUP, "%s: %s", what, cudaGetErrorString(ce));
  if (cu->dead.code == WEIR_OK)
    (void)weir_fail(&cu->dead, WEIR_EDEVICE, "GPU %d: %s: %s (%s)", cu->ordinal, what, cudaGetErrorString(ce),
                    cudaGetErrorName(ce));
  if (e) *e = cu->dead;
  return WEIR_EDEVICE;
}

weir_status weir_cuda_enter(weir_dev *dev, weir_err *e) {
  weir_cuda *cu = weir_cuda_of(dev);
  if (cu->dead.code != WEIR_OK) {
    if (e) *e = cu->dead;
    return cu->dead.code;
  }
  return weir_cuda_check(dev, cudaSetDevice(cu->ordinal), "select", e);
}

static weir_status outside_records(const weir_dev *dev, const char *what, weir_err *e) {
  return weir_cuda_of(dev)->capturing ? weir_fail(e, WEIR_EINVAL, "%s: not within a record", what) : WEIR_OK;
}

/* ---- memory ---- */

static double mib(size_t bytes) { return (double)bytes / (1 << 20); }

/* Aligned by CUDA to 256 bytes; what it holds is undefined. */
static weir_status take(weir_dev *dev, size_t bytes, void **out, weir_err *e) {
  size_t free_bytes = 0, total_bytes = 0;
  *out = NULL;
  const cudaError_t ce = cudaMalloc(out, bytes);
  if (ce != cudaErrorMemoryAllocation) return weir_cuda_check(dev, ce, "allocate", e);
  (void)cudaGetLastError();
  if (cudaMemGetInfo(&free_bytes, &total_bytes) != cudaSuccess) (void)cudaGetLastError();
  return weir_fail(e, WEIR_ENOMEM, "GPU %d: no room for %.1f MiB, %.1f of %.1f MiB are free",
                   weir_cuda_of(dev)->ordinal, mib(bytes), mib(free_bytes), mib(total_bytes));
}

weir_status weir_cuda_alloc(weir_dev *dev, size_t bytes, void **out, weir_err *e) {
  weir_cuda *cu = weir_cuda_of(dev);
  weir_status st = WEIR_OK;
  WEIR_TRY(outside_records(dev, "allocate", e));
  WEIR_TRY(take(dev, bytes, out, e));
  st = weir_cuda_check(dev, cudaMemsetAsync(*out, 0, bytes, cu->stream), "clear memory", e);
  if (st != WEIR_OK) {
    (void)cudaFree(*out);
    *out = NULL;
  }
out:
  return st;
}

/* cudaFree waits for the device: nothing that is under way loses its memory. */
void weir_cuda_release(weir_dev *dev, void *p) {
  (void)weir_cuda_enter(dev, NULL); /* a dead device's memory goes too */
  (void)weir_cuda_check(dev, cudaFree(p), "release memory", NULL);
}

weir_status weir_cuda_upload(weir_dev *dev, void *dst, const void *src, size_t bytes, weir_err *e) {
  const weir_status st = outside_records(dev, "upload", e);
  return st != WEIR_OK ? st : weir_cuda_ring_upload(dev, weir_cuda_of(dev)->ring, dst, src, bytes, e);
}

weir_status weir_cuda_download(weir_dev *dev, void *dst, const void *src, size_t bytes, weir_err *e) {
  const weir_status st = outside_records(dev, "download", e);
  return st != WEIR_OK ? st : weir_cuda_ring_download(dev, weir_cuda_of(dev)->ring, dst, src, bytes, e);
}

weir_status weir_cuda_at_sync(weir_dev *dev, weir_cuda_look_fn fn, const void *ctx, int32_t first, int32_t n,
                              weir_err *e) {
  weir_cuda *cu = weir_cuda_of(dev);
  if (cu->n_looks == cu->max_looks) {
    const int32_t max = cu->max_looks ? 2 * cu->max_looks : 8;
    weir_cuda_look *more = realloc(cu->look, sizeof *more * (size_t)max);
    if (!more) return weir_fail(e, WEIR_ENOMEM, "memory for %d checks of downloads", max);
    cu->look = more;
    cu->max_looks = max;
  }
  cu->look[cu->n_looks++] = (weir_cuda_look){fn, ctx, first, n};
  return WEIR_OK;
}

weir_status weir_cuda_sync(weir_dev *dev, weir_err *e) {
  weir_cuda *cu = weir_cuda_of(dev);
  weir_status st = outside_records(dev, "sync", e);
  if (st != WEIR_OK) return st;
  st = weir_cuda_check(dev, cudaStreamSynchronize(cu->stream), "wait", e);
  if (st == WEIR_OK)
    weir_cuda_ring_deliver(cu->ring);
  else
    weir_cuda_ring_abandon(cu->ring);
  for (int32_t i = 0; i < cu->n_looks && st == WEIR_OK; i++)
    st = cu->look[i].fn(cu->look[i].ctx, cu->look[i].first, cu->look[i].n, e);
  cu->n_looks = 0;
  return st;
}

weir_status weir_cuda_memory(weir_dev *dev, size_t *free_bytes, size_t *total_bytes, weir_err *e) {
  return weir_cuda_check(dev, cudaMemGetInfo(free_bytes, total_bytes), "ask for memory", e);
}

/* ---- scratch ---- */

/* The new memory comes before the old goes, so that a device that cannot grow still serves what it could. */
static weir_status grow(weir_dev *dev, void **have, size_t *have_bytes, size_t bytes, const char *what,
                        weir_err *e) {
  void *p;
  if (bytes <= *have_bytes) return WEIR_OK;
  if (bytes == SIZE_MAX) return weir_fail(e, WEIR_ENOMEM, "reserve: %s of more than any memory", what);
  const weir_status st = take(dev, bytes, &p, e);
  if (st != WEIR_OK) return weir_fail_ctx(e, st, "reserve: %s", what);
  weir_cuda_graphs_drop(weir_cuda_of(dev)->graphs); /* they have the old address in them */
  if (*have) weir_cuda_release(dev, *have);
  *have = p;
  *have_bytes = bytes;
  return WEIR_OK;
}

weir_status weir_cuda_reserve(weir_dev *dev, const weir_dev_limits *lim, weir_err *e) {
  weir_cuda *cu = weir_cuda_of(dev);
  weir_status st = WEIR_OK;
  const size_t linear = weir_cuda_linear_scratch(cu, lim), attend = weir_cuda_attend_scratch(cu, lim);
  const size_t plan = weir_cuda_attend_plan_bytes(cu, lim);
  WEIR_TRY(outside_records(dev, "reserve", e));
  WEIR_TRY(grow(dev, &cu->scratch, &cu->scratch_bytes, linear > attend ? linear : attend, "scratch", e));
  WEIR_TRY(grow(dev, &cu->moe_scratch, &cu->moe_bytes, weir_cuda_moe_scratch(cu, lim), "scratch of moe", e));
  WEIR_TRY(grow(dev, &cu->sample_scratch, &cu->sample_bytes, weir_cuda_sample_scratch(cu, lim),
                "scratch of sample", e));
  const size_t had = cu->plan_bytes;
  for (int32_t i = 0; i < WEIR_PLAN_SLOTS; i++) {
    size_t bytes = had; /* one number for all of them, set when all have grown */
    WEIR_TRY(grow(dev, &cu->plan[i], &bytes, plan, "plan of attention", e));
    if (i == WEIR_PLAN_SLOTS - 1) cu->plan_bytes = bytes;
  }
out:
  return st;
}

/* ---- a device's life ---- */

/* Whether a list such as "80-real,90a-real" has code that runs on compute capability cc. */
static bool have_code(const char *archs, int32_t cc) {
  for (const char *p = archs; *p;) {
    char *end;
    const long arch = strtol(p, &end, 10);
    const size_t n = strcspn(end, ",");
    const bool exact = *end == 'a', real = n >= 5 && strncmp(end + n - 5, "-real", 5) == 0;
    if (exact ? cc == arch : real ? cc >= arch && cc / 10 == arch / 10 : arch > 0 && cc >= arch) return true;
    p = end + n;
    if (*p == ',') p++;
  }
  return false;
}

static weir_status look_at(weir_dev *dev, weir_err *e) {
  weir_cuda *cu = weir_cuda_of(dev);
  static struct cudaDeviceProp none;
  struct cudaDeviceProp p = none;
  const weir_status st =
      weir_cuda_check(dev, cudaGetDeviceProperties(&p, cu->ordinal), "ask for properties", e);
  if (st != WEIR_OK) return st;
  cu->n_sms = p.multiProcessorCount;
  cu->cc = p.major * 10 + p.minor;
  cu->max_smem = p.sharedMemPerBlockOptin;
  cu->l2_bytes = p.l2CacheSize > 0 ? (size_t)p.l2CacheSize : 0;
  const double gib = (double)p.totalGlobalMem / (1 << 30);
  snprintf(dev->desc, sizeof dev->desc, "%.60s, %d SMs, sm_%d, %.0f GiB", p.name, cu->n_sms, cu->cc, gib);
  if (!have_code(WEIR_CUDA_ARCHS, cu->cc))
    return weir_fail(e, WEIR_EUNSUP, "GPU %d (%s): this build has code for %s only", cu->ordinal, dev->desc,
                     WEIR_CUDA_ARCHS);
  return WEIR_OK;
}

int32_t weir_cuda_dev_count(weir_err *e) {
  int n = 0;
  const cudaError_t ce = cudaGetDeviceCount(&n);
  if (ce == cudaSuccess && n > 0) return n;
  (void)cudaGetLastError();
  (void)weir_fail(e, WEIR_EUNSUP, "%s",
                  ce == cudaSuccess ? "no CUDA-capable device is detected" : cudaGetErrorString(ce));
  return 0;
}

#pragma weak weir_cuda_dense_create
#pragma weak weir_cuda_dense_destroy

void weir_cuda_dev_destroy(weir_dev *dev) {
  weir_cuda *cu = weir_cuda_of(dev);
  (void)cudaSetDevice(cu->ordinal);
  /* Copies may still be on their way out of the ring. */
  if (cu->stream) (void)cudaStreamSynchronize(cu->stream);
  if (cu->dense && weir_cuda_dense_destroy) weir_cuda_dense_destroy(cu->dense);
  weir_cuda_graphs_destroy(cu->graphs);
  weir_cuda_ring_destroy(cu->ring);
  for (int32_t i = 0; i < WEIR_PLAN_SLOTS; i++) {
    if (cu->plan[i]) (void)cudaFree(cu->plan[i]);
    free(cu->plan_host[i]);
  }
  if (cu->sample_scratch) (void)cudaFree(cu->sample_scratch);
  if (cu->moe_scratch) (void)cudaFree(cu->moe_scratch);
  if (cu->scratch) (void)cudaFree(cu->scratch);
  if (cu->stream) (void)cudaStreamDestroy(cu->stream);
  (void)cudaGetLastError();
  free(cu->look);
  free(cu);
  free(dev);
}

weir_status weir_cuda_dev_open(const weir_cuda_opts *opts, weir_cuda_log_fn log, weir_dev **out,
                               weir_err *e) {
  weir_status st = WEIR_OK;
  *out = NULL;
  const int32_t n = weir_cuda_dev_count(e);
  if (n == 0) return WEIR_EUNSUP;
  if (opts->ordinal < 0 || opts->ordinal >= n)
    return weir_fail(e, WEIR_EUNSUP, "there is no GPU %d: %d found, counted from 0", opts->ordinal, n);
  weir_dev *dev = calloc(1, sizeof *dev);
  weir_cuda *cu = calloc(1, sizeof *cu);
  if (!dev || !cu) {
    free(dev);
    free(cu);
    return weir_fail(e, WEIR_ENOMEM, "memory for a device");
  }
  dev->ops = &weir_cuda_ops;
  dev->impl = cu;
  cu->ordinal = opts->ordinal;
  dev->gpu = opts->ordinal + 1;
  cu->no_graphs = opts->no_graphs;
  cu->log = log;
  const weir_cuda_ring_sizes ring = {SEGMENT_BYTES, N_SEGMENTS, DOWNLOAD_BYTES};
  WEIR_TRY(look_at(dev, e));
  WEIR_TRY(weir_cuda_enter(dev, e));
  /* Not the default stream's kin: nobody else's work on that one holds ours up. */
  WEIR_TRY(weir_cuda_check(dev, cudaStreamCreateWithFlags(&cu->stream, cudaStreamNonBlocking),
                           "create a stream", e));
  WEIR_TRY(weir_cuda_ring_create(dev, ring, &cu->ring, e));
  WEIR_TRY(weir_cuda_graphs_create(&cu->graphs, e));
  if (weir_cuda_dense_create) WEIR_TRY(weir_cuda_dense_create(cu, &cu->dense, e));
  *out = dev;
out:
  if (st != WEIR_OK) weir_cuda_dev_destroy(dev);
  return st;
}
