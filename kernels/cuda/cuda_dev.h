/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the CUDA device: what its operation files share. Nobody outside kernels/cuda includes this, but
 * for tests.
 *
 * An operation is two files: <op>.c checks nothing more (device.c has), lays out scratch, chooses a kernel
 * and launches; <op>.cu has the kernels and one `extern "C" cudaError_t weir_cuk_<kernel>(const
 * weir_cuk_<kernel>_args *, cudaStream_t)` for each, declared in <op>_kernels.h, which is C and C++ alike.
 * .cu files include kernels/cuda/cu.h, their _kernels.h and headers of plain inline functions, nothing else.
 *
 * Everything is enqueued on one stream, so one scratch serves all operations, as on the CPU. Nothing but
 * weir_dev_sync waits.
 *
 * Times, rates and limits in the comments of these files are arithmetic from published figures and counted
 * instructions. Nothing here has run on a GPU yet. */
#ifndef WEIR_KERNELS_CUDA_CUDA_DEV_H
#define WEIR_KERNELS_CUDA_CUDA_DEV_H
#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include "kernels/cuda/open.h"
#include "kernels/device.h"

typedef struct weir_cuda_ring weir_cuda_ring;     /* pinned staging: ring.c */
typedef struct weir_cuda_graphs weir_cuda_graphs; /* records: graphs.c */
typedef struct weir_cuda_dense weir_cuda_dense;   /* cuBLASLt handle, chosen algorithms: dense.c */

/* Looks at what has come back from the device. */
typedef weir_status (*weir_cuda_look_fn)(const void *ctx, int32_t first, int32_t n, weir_err *);
typedef struct weir_cuda_look {
  weir_cuda_look_fn fn;
  const void *ctx;
  int32_t first, n;
} weir_cuda_look;

typedef struct weir_cuda {
  int32_t ordinal;
  int32_t n_sms;
  int32_t cc;      /* compute capability: 80, 90 */
  size_t max_smem; /* dynamic shared memory a block may opt in to, bytes */
  size_t l2_bytes;
  cudaStream_t stream;
  bool capturing; /* a record is being made: nothing may go between host and device */
  bool waits;     /* the last record has kernels that wait for other ranks' */
  bool no_graphs;
  weir_cuda_log_fn log;
  weir_cuda_ring *ring;
  weir_cuda_graphs *graphs;
  weir_cuda_dense *dense;
  void *scratch; /* [scratch_bytes] device memory, 256-byte aligned; undefined when an op starts */
  size_t scratch_bytes;
  void *moe_scratch; /* of moe alone: the linears it runs use `scratch` */
  size_t moe_bytes;
  void *sample_scratch; /* of sample alone: what is staged for it must outlive other operations */
  size_t sample_bytes;
  void *plan[WEIR_PLAN_SLOTS]; /* [plan_bytes] device memory each: attention's work */
  size_t plan_bytes;
  void *plan_host[WEIR_PLAN_SLOTS]; /* struct of attend.c that r->plan points to; free() */
  weir_cuda_look *look;             /* [n_looks], room for max_looks; owned */
  int32_t n_looks, max_looks;
  weir_err dead; /* the first failure of the GPU; code WEIR_OK while there is none */
} weir_cuda;

static inline weir_cuda *weir_cuda_of(const weir_dev *dev) { return (weir_cuda *)dev->impl; }

/* entry.c's two functions. */
weir_status weir_cuda_dev_open(const weir_cuda_opts *, weir_cuda_log_fn log, weir_dev **out, weir_err *e);
int32_t weir_cuda_dev_count(weir_err *e);

/* Turns a CUDA error into a status: the device is dead from the first one on, and every later call says what
 * that was. Two kinds leave it alive: memory that ran out (WEIR_ENOMEM), and what cannot be recorded while a
 * record is made (WEIR_EUNSUP). `what` names the call: "launch attend_decode". */
weir_status weir_cuda_check(weir_dev *, cudaError_t, const char *what, weir_err *e);

/* Host to device, enqueued; src may be reused at once (it is copied to pinned memory first). Refused while a
 * record is made. */
weir_status weir_cuda_upload(weir_dev *, void *dst, const void *src, size_t bytes, weir_err *e);
/* Device to host, enqueued; dst is written by the next weir_dev_sync. Refused while a record is made. */
weir_status weir_cuda_download(weir_dev *, void *dst, const void *src, size_t bytes, weir_err *e);
/* fn(ctx, first, n) is called once by the next sync that the GPU gets through, behind its downloads. The
 * first error is the sync's; the device is as well as before. */
weir_status weir_cuda_at_sync(weir_dev *, weir_cuda_look_fn fn, const void *ctx, int32_t first, int32_t n,
                              weir_err *e);

extern const weir_dev_ops weir_cuda_ops; /* ops.c */
/* WEIR_OK while the device lives; makes its GPU the thread's. Every slot of the table begins with it. */
weir_status weir_cuda_enter(weir_dev *, weir_err *e);
/* The slots of cuda_dev.c. */
void weir_cuda_dev_destroy(weir_dev *);
weir_status weir_cuda_alloc(weir_dev *, size_t bytes, void **out, weir_err *e);
void weir_cuda_release(weir_dev *, void *p);
weir_status weir_cuda_sync(weir_dev *, weir_err *e);
weir_status weir_cuda_reserve(weir_dev *, const weir_dev_limits *, weir_err *e);
weir_status weir_cuda_memory(weir_dev *, size_t *free_bytes, size_t *total_bytes, weir_err *e);

/* peers.c */
weir_status weir_cuda_map_host(weir_dev *, size_t bytes, void **out, weir_err *e);
void weir_cuda_unmap_host(weir_dev *, void *p);
weir_status weir_cuda_reduce_peers(weir_dev *, const weir_peers *, const weir_exchange *, weir_err *e);

/* Bytes operations need within `lim`; SIZE_MAX when that overflows. */
size_t weir_cuda_linear_scratch(const weir_cuda *, const weir_dev_limits *lim);
size_t weir_cuda_attend_scratch(const weir_cuda *, const weir_dev_limits *lim);
size_t weir_cuda_attend_plan_bytes(const weir_cuda *, const weir_dev_limits *lim);
size_t weir_cuda_moe_scratch(const weir_cuda *, const weir_dev_limits *lim);
size_t weir_cuda_sample_scratch(const weir_cuda *, const weir_dev_limits *lim);

/* dense.c: created with the device, before anything else runs. */
weir_status weir_cuda_dense_create(weir_cuda *, weir_cuda_dense **out, weir_err *e);
void weir_cuda_dense_destroy(weir_cuda_dense *);

/* The operations; arguments have passed the checks of device.c. */
weir_status weir_cuda_weight_prepare(weir_dev *, const weir_host_mat *part, int32_t n_parts, weir_weight *,
                                     weir_err *);
void weir_cuda_weight_release(weir_dev *, weir_weight *);
weir_status weir_cuda_embed(weir_dev *, weir_mat y, const weir_embed_args *, weir_err *);
weir_status weir_cuda_linear(weir_dev *, weir_mat y, weir_mat x, const weir_weight *, const float *bias,
                             weir_err *);
weir_status weir_cuda_add_rmsnorm(weir_dev *, weir_mat y, weir_mat resid, weir_mat delta, const float *w,
                                  float eps, weir_err *);
weir_status weir_cuda_rope_angles(weir_dev *, weir_mat angles, const weir_ragged *, const float *inv_freq,
                                  float mscale, weir_err *);
weir_status weir_cuda_rope_append(weir_dev *, const weir_rope_args *, const weir_ragged *, weir_err *);
weir_status weir_cuda_attend_plan(weir_dev *, weir_ragged *, int32_t slot, int32_t n_heads, weir_kv_layer,
                                  weir_err *);
weir_status weir_cuda_attend(weir_dev *, weir_mat out, weir_mat q, const weir_ragged *, weir_kv_layer,
                             const weir_attend_args *, weir_err *);
weir_status weir_cuda_glu(weir_dev *, weir_mat y, weir_mat gate_up, weir_act, weir_err *);
weir_status weir_cuda_moe(weir_dev *, weir_mat y, const weir_moe_args *, weir_err *);
weir_status weir_cuda_softcap(weir_dev *, weir_mat x, float cap, weir_err *);
weir_status weir_cuda_gather_rows(weir_dev *, weir_mat y, weir_mat x, const int32_t *row, weir_err *);
weir_status weir_cuda_sample(weir_dev *, weir_row *rows, weir_top *top, weir_mat logits, int32_t n_valid,
                             const weir_ask *ask, const weir_vocab_shard *, weir_err *);
weir_status weir_cuda_kv_copy(weir_dev *, weir_kv_layer, const int32_t *src_dst, int32_t n_pairs, weir_err *);

#endif
