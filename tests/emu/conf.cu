/* SPDX-License-Identifier: Apache-2.0 */
/* Runs every case of conf.h: on the emulator when built by g++, on a GPU when built by nvcc.
 *
 *   conf check          against conf_ref.cpp; what ctest runs
 *   conf write FILE     golden values, which the emulator's build makes
 *   conf compare FILE   against golden values: the first thing to run on a GPU; 77 when there is none */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cu.h"
#include "tests/emu/conf.h"

template <int CASE>
__global__ void element_kernel(const uint32_t *in, uint32_t *out) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  const uint32_t *w = in + i * CONF_WORDS;
  const uint32_t a = w[0], b = w[1], c = w[2];
  const float fa = __uint_as_float(w[3]), fb = __uint_as_float(w[4]), fc = __uint_as_float(w[5]);
  (void)a, (void)b, (void)c, (void)fa, (void)fb, (void)fc;
  uint32_t r = 0;
#define X(name, kind, expr) \
  if constexpr (CASE == CONF_E_##name) r = (expr);
  CONF_ELEMENTWISE(X)
#undef X
  out[i] = r;
}

/* A warp a block. `mem` is one word for each warp that atomics use, zero at first. */
template <int CASE>
__global__ void warp_kernel(const uint32_t *in, uint32_t *out, unsigned *mem) {
  CU_SHARED(uint4, rows, 32);
  const unsigned lane = threadIdx.x, i = blockIdx.x * 32 + lane, full = 0xffffffffu;
  const uint32_t *w = in + i * CONF_WORDS + 6;
  uint32_t *o = out + i * CONF_OUT;
  uint32_t r[4] = {0, 0, 0, 0};
  float f[4];
  int32_t n[4];
  for (int k = 0; k < 4; k++) {
    f[k] = (float)(int)(w[6 + k] % 2001u - 1000u) * 0.001f;
    n[k] = (int32_t)w[6 + k];
  }
  /* 16-bit operands of moderate size: sign, an exponent near the middle, all mantissa bits. */
  uint32_t h[6], bf[6];
  for (int k = 0; k < 6; k++) {
    h[k] = (w[k] & 0x87ff87ffu) | 0x38003800u;
    bf[k] = (w[k] & 0x80ff80ffu) | 0x3f003f00u;
  }
  rows[lane] = make_uint4(w[0], w[1], w[2], w[3]);
  __syncwarp();

  if constexpr (CASE == CONF_W_mma_bf16) cu_mma_bf16(f, bf, bf + 4);
  if constexpr (CASE == CONF_W_mma_bf16_zero) cu_mma_bf16_zero(f, bf, bf + 4);
  if constexpr (CASE == CONF_W_mma_f16) cu_mma_f16(f, h, h + 4);
  if constexpr (CASE == CONF_W_mma_f16_zero) cu_mma_f16_zero(f, h, h + 4);
  if constexpr (CASE <= CONF_W_mma_f16_zero)
    for (int k = 0; k < 4; k++) r[k] = __float_as_uint(f[k]);
  if constexpr (CASE == CONF_W_mma_s8) cu_mma_s8(n, w, w + 4);
  if constexpr (CASE == CONF_W_mma_s8_zero) cu_mma_s8_zero(n, w, w + 4);
  if constexpr (CASE == CONF_W_mma_s8 || CASE == CONF_W_mma_s8_zero)
    for (int k = 0; k < 4; k++) r[k] = (uint32_t)n[k];

  /* Rows in another order than lanes. */
  const uint4 *row = &rows[lane * 5 % 32];
  if constexpr (CASE == CONF_W_ldmatrix_x1) cu_ldmatrix_x1(r, row);
  if constexpr (CASE == CONF_W_ldmatrix_x2) cu_ldmatrix_x2(r, row);
  if constexpr (CASE == CONF_W_ldmatrix_x4) cu_ldmatrix_x4(r, row);
  if constexpr (CASE == CONF_W_ldmatrix_x1_trans) cu_ldmatrix_x1_trans(r, row);
  if constexpr (CASE == CONF_W_ldmatrix_x2_trans) cu_ldmatrix_x2_trans(r, row);
  if constexpr (CASE == CONF_W_ldmatrix_x4_trans) cu_ldmatrix_x4_trans(r, row);

  if constexpr (CASE == CONF_W_shfl) {
    r[0] = __shfl_sync(full, w[0], (int)(w[1] & 31));
    r[1] = __shfl_xor_sync(full, w[0], 11, 16);
    r[2] = __shfl_down_sync(full, w[0], 3, 8);
    r[3] = __shfl_up_sync(full, w[0], 5);
  }
  if constexpr (CASE == CONF_W_vote) {
    int same;
    r[0] = __ballot_sync(full, (int)(w[0] & 1));
    r[1] = (uint32_t)__any_sync(full, w[0] % 64 == 0) + 2u * (uint32_t)__all_sync(full, w[0] % 64 != 0);
    r[2] = __match_any_sync(full, w[0] % 5);
    r[3] = __match_all_sync(full, blockIdx.x % 2 ? 7u : w[0], &same);
    r[3] ^= (uint32_t)same << 8;
  }
  if constexpr (CASE == CONF_W_reduce) {
    r[0] = __reduce_add_sync(full, w[0]);
    r[1] = (uint32_t)__reduce_min_sync(full, (int)w[0]) ^ (uint32_t)__reduce_max_sync(full, (int)w[1]);
    r[2] = __reduce_min_sync(full, w[0]) ^ __reduce_max_sync(full, w[1]);
    r[3] = __reduce_and_sync(full, w[0] | 0xffffu) ^ __reduce_or_sync(full, w[1] & 0xffu) ^
           __reduce_xor_sync(full, w[2]);
  }
  if constexpr (CASE == CONF_W_cp_async) {
    uint32_t *s = (uint32_t *)&rows[lane];
    const uint32_t *src = in + i * CONF_WORDS;
    if (lane % 4 == 0) cu_cp_async16(s, src, lane % 8 != 0);
    if (lane % 4 == 1) cu_cp_async8(s + 2, src + 4, lane % 8 != 1);
    if (lane % 4 == 2) cu_cp_async4(s + 3, src + 7, lane % 8 != 2);
    if (lane % 4 == 3) cu_cp_async16_stream(s, src + 8, lane % 8 != 3);
    cu_cp_async_commit();
    cu_cp_async_wait<0>();
    __syncwarp();
    const uint4 v = cu_lds16(&rows[lane ^ 1]);
    r[0] = v.x, r[1] = v.y, r[2] = v.z, r[3] = v.w;
  }
  if constexpr (CASE == CONF_W_load_store) {
    const uint32_t *src = in + i * CONF_WORDS;
    const uint4 v = cu_ldg16(src + 8);
    const uint2 u = cu_ldg8(src + 6);
    rows[lane] = make_uint4(0, 0, 0, 0);
    cu_st16(&rows[lane], make_uint4(v.w, v.z, v.y, v.x));
    cu_st8(&rows[lane], make_uint2(u.y, u.x));
    cu_st4((uint32_t *)&rows[lane] + 2, cu_ldg4(src + 5) + __ldg(src + 6));
    r[0] = rows[lane].x, r[1] = rows[lane].y, r[2] = rows[lane].z, r[3] = rows[lane].w;
  }
  if constexpr (CASE == CONF_W_atomics) {
    unsigned *word = (unsigned *)rows;
    if (lane == 0) word[0] = 0, word[1] = 0, word[2] = 0xffffffffu, word[3] = 0;
    __syncwarp();
    atomicAdd(&word[0], w[0]);
    atomicMax((int *)&word[1], (int)w[0]);
    atomicMin(&word[2], w[1]);
    atomicAdd((float *)&word[3], (float)(w[2] % 1024u)); /* exact in any order */
    cu_add_release(&mem[blockIdx.x], w[3] & 0xffffu);
    __syncwarp();
    __threadfence();
    r[0] = word[0] ^ cu_ld_acquire(&mem[blockIdx.x]);
    r[1] = word[1];
    r[2] = word[2];
    r[3] = word[3];
  }
  if constexpr (CASE == CONF_W_system) {
    unsigned *word = &mem[blockIdx.x];
    const uint64_t t = cu_clock_ns();
    if (lane == 0) cu_st_system(word, w[0]);
    __syncwarp();
    const unsigned first = __shfl_sync(full, w[0], 0);
    r[0] = cu_ld_system(word);
    __syncwarp();
    if (lane == 1) cu_st_release(word, first + 1);
    __syncwarp();
    r[1] = cu_ld_acquire(word);
    r[2] = cu_clock_ns() >= t && t > 0;
    r[3] = cu_clock_ns() - t < 60000000000ull;
  }
  if constexpr (CASE == CONF_W_barriers) {
    r[0] = (uint32_t)__syncthreads_count((int)(w[0] & 1));
    r[1] = (uint32_t)(__syncthreads_or(w[0] % 64 == 0) != 0);
    r[2] = (uint32_t)(__syncthreads_and(w[0] % 64 != 0) != 0);
    ((uint32_t *)rows)[lane] = w[0];
    cu_bar_sync(1, 32);
    r[3] = ((uint32_t *)rows)[31 - lane];
  }
  for (int k = 0; k < CONF_OUT; k++) o[k] = r[k];
}

static int run_case(int c, const uint32_t *in, uint32_t *out, unsigned *mem) {
  switch (c) {
#define X(name, kind, expr) \
  case CONF_E_##name: CU_LAUNCH(element_kernel<CONF_E_##name>, CONF_N / 64, 64, 0, 0, in, out); break;
    CONF_ELEMENTWISE(X)
#undef X
#define X(name, kind) \
  case CONF_W_##name: CU_LAUNCH(warp_kernel<CONF_W_##name>, CONF_WARPS, 32, 0, 0, in, out, mem); break;
    CONF_WARP(X)
#undef X
    default: return -1;
  }
  return CU_LAUNCH_STATUS() == cudaSuccess ? 0 : -1;
}

#if defined(__CUDACC__)
static void *device_alloc(size_t n) {
  void *p = NULL;
  return cudaMalloc(&p, n) == cudaSuccess ? p : NULL;
}
static int to_device(void *d, const void *s, size_t n) {
  return cudaMemcpy(d, s, n, cudaMemcpyHostToDevice) == cudaSuccess ? 0 : -1;
}
static int to_host(void *d, const void *s, size_t n) {
  return cudaMemcpy(d, s, n, cudaMemcpyDeviceToHost) == cudaSuccess ? 0 : -1;
}
static int no_device() {
  int n = 0;
  return cudaGetDeviceCount(&n) != cudaSuccess || n < 1;
}
#else
static void *device_alloc(size_t n) { return emu_mem_alloc(n); }
static int to_device(void *d, const void *s, size_t n) { return memcpy(d, s, n) == d ? 0 : -1; }
static int to_host(void *d, const void *s, size_t n) { return memcpy(d, s, n) == d ? 0 : -1; }
static int no_device() { return 0; }
#endif

static uint32_t in[CONF_N * CONF_WORDS], got[CONF_N * CONF_OUT], want[CONF_N * CONF_OUT];
static unsigned zeros[CONF_WARPS];

int main(int argc, char **argv) {
  const char *mode = argc > 1 ? argv[1] : "check";
  const bool check = !strcmp(mode, "check"), write = !strcmp(mode, "write"),
             compare = !strcmp(mode, "compare");
  if (!check && !((write || compare) && argc == 3)) {
    fprintf(stderr, "usage: conf check | write FILE | compare FILE\n");
    return 2;
  }
  if (no_device()) {
    fprintf(stderr, "SKIP: no CUDA device\n");
    return 77;
  }
  FILE *f = check ? NULL : fopen(argv[2], write ? "wb" : "rb");
  if (!check && !f) {
    perror(argv[2]);
    return 1;
  }
  uint32_t *d_in = (uint32_t *)device_alloc(sizeof in), *d_out = (uint32_t *)device_alloc(sizeof got);
  unsigned *d_mem = (unsigned *)device_alloc(sizeof zeros);
  conf_inputs(in);
  if (!d_in || !d_out || !d_mem || to_device(d_in, in, sizeof in)) return 1;
  int bad = 0;
  for (int c = 0; c < CONF_N_CASES; c++) {
    const size_t n = (size_t)conf_n_out(c);
    if (to_device(d_mem, zeros, sizeof zeros) || run_case(c, d_in, d_out, d_mem) ||
        to_host(got, d_out, n * 4)) {
      fprintf(stderr, "%s: cannot run\n", conf_name(c));
      return 1;
    }
    if (write && fwrite(got, 4, n, f) != n) return 1;
    if (compare && fread(want, 4, n, f) != n) {
      fprintf(stderr, "%s: golden values end early\n", conf_name(c));
      return 1;
    }
    if (check) conf_reference(c, in, want);
    if (!write) bad += conf_compare(c, got, want, (int)n) != 0;
  }
  if (f && fclose(f)) return 1;
  printf("%d cases, %d differ\n", (int)CONF_N_CASES, bad);
  return bad != 0;
}
