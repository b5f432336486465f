/* SPDX-License-Identifier: Apache-2.0 */
/* What this GPU can do at best: copying on the device, reading, matmul in BF16. Others' times are held
 * against these, measured on the same machine in the same minute, and not against a data sheet. Built by
 * nvcc; by g++ it runs on the emulator, where only the program is checked (--small). */
#include "kernels/cuda/cu.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
  THREADS = 256,
  LOADS = 4 /* 16 bytes each, under way a thread: 64 KB an SM at four blocks */,
  REPEATS = 9
};

/* Numbers of about one: zeros would spare power, and so give clocks that no real work has. */
static __global__ void fill(uint32_t *p, size_t n) {
  for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += (size_t)gridDim.x * THREADS) {
    const uint32_t r = (uint32_t)i * 2654435761u;
    p[i] = (r & 0x807f807fu) | 0x3f003f00u; /* two BF16 of +-[0.5, 1) */
  }
}

static __global__ void read_all(const uint4 *p, size_t n, uint32_t *out) {
  uint32_t sum = 0;
  size_t i = (size_t)blockIdx.x * THREADS * LOADS + threadIdx.x;
  for (; i < n; i += (size_t)gridDim.x * THREADS * LOADS) {
    uint4 v[LOADS];
#pragma unroll
    for (int k = 0; k < LOADS; k++)
      v[k] = i + k * THREADS < n ? cu_ldg16(p + i + k * THREADS) : make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int k = 0; k < LOADS; k++) sum ^= v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
  }
  if (sum == 0x12345678u) *out = sum; /* so that nothing is left out as unused */
}

static cudaStream_t stream;

static double now() {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int failed(const char *what, const char *why) {
  fprintf(stderr, "ceilings: %s: %s\n", what, why);
  return 1;
}

static int by_time(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Median seconds of one of `calls` runs of `work`; negative when the device says no. */
template <class F>
static double timed(int calls, F work) {
  double t[REPEATS];
  if (!work() || cudaDeviceSynchronize() != cudaSuccess) return -1;
  for (int r = 0; r < REPEATS; r++) {
    const double start = now();
    for (int i = 0; i < calls; i++)
      if (!work()) return -1;
    if (cudaDeviceSynchronize() != cudaSuccess) return -1;
    t[r] = (now() - start) / calls;
  }
  qsort(t, REPEATS, sizeof *t, by_time);
  return t[REPEATS / 2];
}

static int bandwidth(uint32_t *a, uint32_t *b, size_t bytes, int n_sms, int calls) {
  double s = timed(
      calls, [=] { return cudaMemcpyAsync(b, a, bytes, cudaMemcpyDeviceToDevice, stream) == cudaSuccess; });
  if (s <= 0) return failed("copy", cudaGetErrorString(cudaGetLastError()));
  printf("{\"name\":\"copy\",\"gb_s\":%.3f}\n", 2e-9 * (double)bytes / s); /* read and written */
  s = timed(calls, [=] {
    CU_LAUNCH(read_all, (unsigned)(n_sms * 8), THREADS, 0, stream, (const uint4 *)a, bytes / 16, b);
    return CU_LAUNCH_STATUS() == cudaSuccess;
  });
  if (s <= 0) return failed("read", cudaGetErrorString(cudaGetLastError()));
  printf("{\"name\":\"read\",\"gb_s\":%.3f}\n", 1e-9 * (double)bytes / s);
  return 0;
}

/* y[n, n] (F32) = x W^T of BF16, as linear calls it. */
static int matmul(const void *w, const void *x, void *y, void *workspace, size_t workspace_bytes, uint64_t n,
                  int calls) {
  cublasLtHandle_t lt = NULL;
  cublasLtMatmulDesc_t d = NULL;
  cublasLtMatrixLayout_t lw = NULL, ly = NULL;
  cublasLtMatmulPreference_t pref = NULL;
  cublasLtMatmulHeuristicResult_t found;
  const int32_t trans = CUBLAS_OP_T;
  const float one = 1, zero = 0;
  int n_found = 0, rc = 1;
  if (cublasLtCreate(&lt) == CUBLAS_STATUS_SUCCESS &&
      cublasLtMatmulDescCreate(&d, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
      cublasLtMatmulDescSetAttribute(d, CUBLASLT_MATMUL_DESC_TRANSA, &trans, sizeof trans) ==
          CUBLAS_STATUS_SUCCESS &&
      cublasLtMatrixLayoutCreate(&lw, CUDA_R_16BF, n, n, (int64_t)n) == CUBLAS_STATUS_SUCCESS &&
      cublasLtMatrixLayoutCreate(&ly, CUDA_R_32F, n, n, (int64_t)n) == CUBLAS_STATUS_SUCCESS &&
      cublasLtMatmulPreferenceCreate(&pref) == CUBLAS_STATUS_SUCCESS &&
      cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes,
                                           sizeof workspace_bytes) == CUBLAS_STATUS_SUCCESS &&
      cublasLtMatmulAlgoGetHeuristic(lt, d, lw, lw, ly, ly, pref, 1, &found, &n_found) ==
          CUBLAS_STATUS_SUCCESS &&
      n_found > 0) {
    const double s = timed(calls, [&] {
      return cublasLtMatmul(lt, d, &one, w, lw, x, lw, &zero, y, ly, y, ly, &found.algo, workspace,
                            workspace_bytes, stream) == CUBLAS_STATUS_SUCCESS;
    });
    rc = s <= 0;
    if (!rc)
      printf("{\"name\":\"matmul BF16\",\"tflop_s\":%.6f}\n", 2e-12 * (double)n * (double)n * (double)n / s);
  }
  if (pref) (void)cublasLtMatmulPreferenceDestroy(pref);
  if (ly) (void)cublasLtMatrixLayoutDestroy(ly);
  if (lw) (void)cublasLtMatrixLayoutDestroy(lw);
  if (d) (void)cublasLtMatmulDescDestroy(d);
  if (lt) (void)cublasLtDestroy(lt);
  return rc ? failed("matmul", "cuBLASLt does not run it") : 0;
}

int main(int argc, char **argv) {
  const bool small = argc > 1 && !strcmp(argv[1], "--small");
  const size_t bytes = small ? (size_t)64 << 10 : (size_t)1 << 30, workspace = 32 << 20;
  const uint64_t n = small ? 32 : 8192;
  const int calls = small ? 1 : 10;
  int n_sms = 0, rc = 1;
  uint32_t *a = NULL, *b = NULL;
  void *ws = NULL;
  if (cudaDeviceGetAttribute(&n_sms, cudaDevAttrMultiProcessorCount, 0) != cudaSuccess) {
    fprintf(stderr, "SKIP: no CUDA device\n");
    return 77;
  }
  if (small) n_sms = 2;
  if (cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess)
    return failed("stream", cudaGetErrorString(cudaGetLastError()));
  if (cudaMalloc((void **)&a, bytes) != cudaSuccess || cudaMalloc((void **)&b, bytes) != cudaSuccess ||
      cudaMalloc(&ws, workspace) != cudaSuccess) {
    rc = failed("memory", "2 GB are not free");
    goto out;
  }
  CU_LAUNCH(fill, (unsigned)(n_sms * 8), THREADS, 0, stream, a, bytes / 4);
  if (CU_LAUNCH_STATUS() != cudaSuccess || cudaDeviceSynchronize() != cudaSuccess) {
    rc = failed("fill", cudaGetErrorString(cudaGetLastError()));
    goto out;
  }
  rc = bandwidth(a, b, bytes, n_sms, calls);
  /* Two operands in a, the F32 product in b. */
  if (rc == 0) rc = matmul(a, (const char *)a + n * n * 2, b, ws, workspace, n, calls);
out:
  (void)cudaFree(a);
  (void)cudaFree(b);
  (void)cudaFree(ws);
  (void)cudaStreamDestroy(stream);
  return rc;
}
