/* SPDX-License-Identifier: Apache-2.0 */
/* Dense matmuls by cuBLASLt. Owns the handle, a bounded table of the algorithms chosen (one question to the
 * heuristic per shape: asking costs tens of microseconds, as much as a small matmul) and the tickets that
 * split sums count with. Enqueues on the device's stream; the thread that owns the device.
 *
 * cuBLASLt thinks in columns: what it multiplies is y^T [rows, n] = W [rows, cols] x^T [cols, n]. W lies
 * row-major, so it is a column-major [cols, rows] to be transposed; x and y are column-major x^T and y^T as
 * they lie. */
#include "kernels/cuda/dense.h"

#include <stdlib.h>
#include <string.h>

enum {
  /* Shapes whose algorithm is remembered: a model has a handful of weights, times the row counts of chunks
     that are not full. Beyond that the one unused for longest goes. */
  ALGOS = 256
};

typedef struct {
  int32_t type, rows, cols, n, x_ld, y_ld;
  int32_t align_w, align_x, align_y; /* bytes, powers of two up to 256 */
} shape_key;

typedef struct {
  shape_key key;
  uint64_t used; /* when, by the table's clock; 0: empty */
  bool none;     /* cuBLASLt has nothing for it */
  cublasLtMatmulAlgo_t algo;
  size_t workspace_bytes;
} algo_entry;

struct weir_cuda_dense {
  cublasLtHandle_t lt;
  uint32_t *tickets; /* owned, device memory */
  uint64_t clock;
  algo_entry entry[ALGOS];
};

/* The descriptors of one matmul. */
typedef struct {
  cublasLtMatmulDesc_t desc;
  cublasLtMatrixLayout_t w, x, y;
} gemm_desc;

/* As weir_cuda_check: memory that ran out, and what cannot be recorded, leave the device alive. */
static weir_status lt_check(weir_dev *dev, cublasStatus_t s, const char *what, weir_err *e) {
  if (s == CUBLAS_STATUS_SUCCESS) return WEIR_OK;
  if (s == CUBLAS_STATUS_ALLOC_FAILED || weir_cuda_of(dev)->capturing) {
    (void)cudaGetLastError(); /* or the next launch would report what may have been behind it */
    return weir_fail(e, s == CUBLAS_STATUS_ALLOC_FAILED ? WEIR_ENOMEM : WEIR_EUNSUP, "%s: cuBLASLt says %s",
                     what, cublasLtGetStatusName(s));
  }
  const weir_status st = weir_cuda_check(dev, cudaErrorUnknown, what, e);
  return weir_fail_ctx(e, st, "cuBLASLt says %s", cublasLtGetStatusName(s));
}

weir_status weir_cuda_dense_create(weir_cuda *cu, weir_cuda_dense **out, weir_err *e) {
  *out = NULL;
  weir_cuda_dense *d = calloc(1, sizeof *d);
  if (!d) return weir_fail(e, WEIR_ENOMEM, "no memory for the table of matmul algorithms");
  weir_status st = WEIR_OK;
  const size_t bytes = WEIR_DENSE_TICKETS * sizeof *d->tickets;
  void *tickets = NULL;
  const cublasStatus_t lt = cublasLtCreate(&d->lt);
  if (lt != CUBLAS_STATUS_SUCCESS) {
    d->lt = NULL;
    (void)cudaGetLastError();
    st = weir_fail(e, lt == CUBLAS_STATUS_ALLOC_FAILED ? WEIR_ENOMEM : WEIR_EDEVICE,
                   "create a cuBLASLt handle: %s", cublasLtGetStatusName(lt));
    goto out;
  }
  cudaError_t ce = cudaMalloc(&tickets, bytes);
  d->tickets = ce == cudaSuccess ? tickets : NULL;
  if (ce == cudaSuccess) ce = cudaMemsetAsync(d->tickets, 0, bytes, cu->stream);
  if (ce != cudaSuccess) {
    (void)cudaGetLastError();
    st = weir_fail(e, ce == cudaErrorMemoryAllocation ? WEIR_ENOMEM : WEIR_EDEVICE,
                   "device memory for matmul tickets: %s", cudaGetErrorString(ce));
    goto out;
  }
  *out = d;
out:
  if (st != WEIR_OK) weir_cuda_dense_destroy(d);
  return st;
}

void weir_cuda_dense_destroy(weir_cuda_dense *d) {
  if (!d) return;
  if (d->tickets) (void)cudaFree(d->tickets);
  if (d->lt) (void)cublasLtDestroy(d->lt);
  free(d);
}

uint32_t *weir_cuda_dense_tickets(weir_cuda_dense *d) { return d->tickets; }

/* ---- the algorithm of a shape ---- */

static int32_t alignment(const void *p) {
  const uintptr_t v = (uintptr_t)p | 256;
  return (int32_t)(v & (~v + 1));
}

static shape_key key_of(const weir_cuda_gemm *g) {
  shape_key k;
  memset(&k, 0, sizeof k);
  k.type = (int32_t)g->type;
  k.rows = g->rows;
  k.cols = g->cols;
  k.n = g->n;
  k.x_ld = g->x_ld;
  k.y_ld = g->y_ld;
  k.align_w = alignment(g->w);
  k.align_x = alignment(g->x);
  k.align_y = alignment(g->y);
  return k;
}

/* The entry of that key, or the one to be filled for it (its `used` is 0 then). */
static algo_entry *entry_of(weir_cuda_dense *d, const shape_key *key) {
  algo_entry *oldest = &d->entry[0];
  for (int32_t i = 0; i < ALGOS; i++) {
    algo_entry *a = &d->entry[i];
    if (a->used && memcmp(&a->key, key, sizeof *key) == 0) return a;
    if (a->used < oldest->used) oldest = a;
  }
  memset(oldest, 0, sizeof *oldest);
  oldest->key = *key;
  return oldest;
}

static weir_status choose(weir_dev *dev, const gemm_desc *m, algo_entry *a, weir_err *e) {
  weir_cuda_dense *d = weir_cuda_of(dev)->dense;
  weir_status st = WEIR_OK;
  cublasLtMatmulPreference_t pref = NULL;
  const size_t workspace = WEIR_DENSE_WORKSPACE;
  const struct {
    cublasLtMatmulPreferenceAttributes_t attr;
    int32_t value;
  } align[] = {{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, a->key.align_w},
               {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, a->key.align_x},
               {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, a->key.align_y},
               {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, a->key.align_y}};
  WEIR_TRY(lt_check(dev, cublasLtMatmulPreferenceCreate(&pref), "prepare a matmul", e));
  WEIR_TRY(lt_check(dev,
                    cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                         &workspace, sizeof workspace),
                    "prepare a matmul", e));
  for (size_t i = 0; i < sizeof align / sizeof *align; i++) {
    const uint32_t bytes = (uint32_t)align[i].value;
    WEIR_TRY(lt_check(dev, cublasLtMatmulPreferenceSetAttribute(pref, align[i].attr, &bytes, sizeof bytes),
                      "prepare a matmul", e));
  }
  cublasLtMatmulHeuristicResult_t found;
  int n_found = 0;
  const cublasStatus_t s =
      cublasLtMatmulAlgoGetHeuristic(d->lt, m->desc, m->w, m->x, m->y, m->y, pref, 1, &found, &n_found);
  if (s != CUBLAS_STATUS_NOT_SUPPORTED && s != CUBLAS_STATUS_INVALID_VALUE)
    WEIR_TRY(lt_check(dev, s, "choose a matmul", e));
  a->none = s != CUBLAS_STATUS_SUCCESS || n_found < 1 || found.state != CUBLAS_STATUS_SUCCESS;
  if (!a->none) {
    a->algo = found.algo;
    a->workspace_bytes = found.workspaceSize;
  }
out:
  if (pref) (void)cublasLtMatmulPreferenceDestroy(pref);
  return st;
}

/* ---- a matmul ---- */

static void describe_fini(gemm_desc *m) {
  if (m->y) (void)cublasLtMatrixLayoutDestroy(m->y);
  if (m->x) (void)cublasLtMatrixLayoutDestroy(m->x);
  if (m->w) (void)cublasLtMatrixLayoutDestroy(m->w);
  if (m->desc) (void)cublasLtMatmulDescDestroy(m->desc);
}

/* What was made is released by describe_fini, after a failure too. */
static weir_status describe(weir_dev *dev, const weir_cuda_gemm *g, gemm_desc *m, weir_err *e) {
  weir_status st = WEIR_OK;
  const int32_t trans = CUBLAS_OP_T;
  /* 32F keeps F32 inputs whole: TF32 is only used where it is asked for (CUBLAS_COMPUTE_32F_FAST_TF32). */
  WEIR_TRY(lt_check(dev, cublasLtMatmulDescCreate(&m->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                    "describe a matmul", e));
  WEIR_TRY(lt_check(
      dev, cublasLtMatmulDescSetAttribute(m->desc, CUBLASLT_MATMUL_DESC_TRANSA, &trans, sizeof trans),
      "describe a matmul", e));
  const uint64_t rows = (uint64_t)g->rows, cols = (uint64_t)g->cols, n = (uint64_t)g->n;
  WEIR_TRY(
      lt_check(dev, cublasLtMatrixLayoutCreate(&m->w, g->type, cols, rows, g->cols), "describe a matmul", e));
  WEIR_TRY(
      lt_check(dev, cublasLtMatrixLayoutCreate(&m->x, g->type, cols, n, g->x_ld), "describe a matmul", e));
  WEIR_TRY(
      lt_check(dev, cublasLtMatrixLayoutCreate(&m->y, CUDA_R_32F, rows, n, g->y_ld), "describe a matmul", e));
out:
  return st;
}

weir_status weir_cuda_dense_matmul(weir_dev *dev, const weir_cuda_gemm *g, bool *ran, weir_err *e) {
  weir_cuda *cu = weir_cuda_of(dev);
  weir_cuda_dense *d = cu->dense;
  weir_status st = WEIR_OK;
  gemm_desc m = {0};
  const float one = 1.0f, zero = 0.0f;
  *ran = false;
  const shape_key key = key_of(g);
  algo_entry *a = entry_of(d, &key);
  if (a->used && a->none) return WEIR_OK;
  WEIR_TRY(describe(dev, g, &m, e));
  if (!a->used) WEIR_TRY(choose(dev, &m, a, e));
  a->used = ++d->clock;
  if (a->none) goto out;
  WEIR_TRY(lt_check(dev,
                    cublasLtMatmul(d->lt, m.desc, &one, g->w, m.w, g->x, m.x, &zero, g->y, m.y, g->y, m.y,
                                   &a->algo, g->workspace, a->workspace_bytes, cu->stream),
                    "launch a dense matmul", e));
  *ran = true;
out:
  describe_fini(&m);
  return st;
}
