/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of linear: cuBLASLt with the algorithms chosen so far, and the tickets of split sums. */
#ifndef WEIR_KERNELS_CUDA_DENSE_H
#define WEIR_KERNELS_CUDA_DENSE_H
#include "kernels/cuda/cuda_dev.h"

/* y[n, rows] (F32, row stride y_ld) = x[n, cols] (x_ld) W^T, W [rows, cols] row-major without gaps; W and x
 * of one type: F32 is multiplied as F32 (no TF32), F16 and BF16 are summed in F32. Device pointers. */
typedef struct weir_cuda_gemm {
  cudaDataType_t type; /* CUDA_R_32F, CUDA_R_16F, CUDA_R_16BF */
  const void *w, *x;
  float *y;
  int32_t rows, cols, n;
  int32_t x_ld, y_ld; /* elements */
  void *workspace;    /* [WEIR_DENSE_WORKSPACE] device memory, 256-byte aligned */
} weir_cuda_gemm;

/* What cuBLASLt may use: 32 MiB is what NVIDIA recommends for Hopper, 4 MiB would do before it. */
enum { WEIR_DENSE_WORKSPACE = 32 << 20 };

/* *ran is false, and nothing was enqueued, when cuBLASLt has no algorithm for that shape and alignment: not
 * an error, the caller has kernels of its own. */
weir_status weir_cuda_dense_matmul(weir_dev *, const weir_cuda_gemm *, bool *ran, weir_err *);

/* [WEIR_DENSE_TICKETS] device memory: zero whenever no kernel runs; a kernel that counts in them leaves
 * zeros. */
enum { WEIR_DENSE_TICKETS = 4096 };
uint32_t *weir_cuda_dense_tickets(weir_cuda_dense *);

#endif
