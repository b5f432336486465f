/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/emu/race_cases.h"

#include "kernels/cuda/cu.h"

template <int BUG>
__global__ void race_kernel(float *mem, float *out) {
  CU_SHARED(float, s, 128);
  CU_SHARED(uint4, m, 32);
  CU_SHARED(int, count, 1);
  CU_DYN_SHARED(float, dyn);
  const int t = (int)threadIdx.x, lane = t & 31;
  float v = 0;
  if (t == 0) count[0] = 0;
  __syncthreads();
  for (int round = 0; round < 3; round++) {
    s[t] = (float)(t + round);
    if (BUG != RACE_NO_BARRIER) __syncthreads();
    v += s[127 - t];
    if (BUG != RACE_SECOND_WRITE) __syncthreads();
  }
  s[t] = v;
  if (BUG == RACE_NO_SYNCWARP)
    v = __shfl_sync(0xffffffffu, v, 0);
  else
    __syncwarp();
  v += s[t ^ 1];
  __syncthreads();
  if (BUG == RACE_BOTH_WRITE) s[t / 2] = v;
  if (t < 32) {
    m[lane] = make_uint4((unsigned)lane, 0, 0, 0);
    if (BUG != RACE_LDMATRIX) __syncwarp();
    uint32_t r[4];
    cu_ldmatrix_x4(r, &m[lane]);
    v += (float)(r[0] & 1);
  }
  if (t == 5) {
    cu_cp_async4(s, mem, true);
    cu_cp_async_wait_all();
  } else if (BUG == RACE_COPY) {
    v += s[0];
  }
  __syncthreads();
  atomicAdd(count, 1);
  if (BUG != RACE_ATOMIC_PLAIN) __syncthreads();
  v += (float)count[0];
  __syncthreads();
  /* Warps 0 and 1 pass something on; warps 2 and 3 do so between themselves. */
  s[t] = v;
  cu_bar_sync(1 + t / 64, 64);
  v += BUG == RACE_NAMED_BARRIER ? s[127 - t] : s[t ^ 63];
  int past = 125 + t; /* which the compiler would see and warn of */
  asm("" : "+r"(past));
  if (BUG == RACE_PAST_STATIC && t == 3) s[past] = 1;
  if (BUG == RACE_PAST_DYNAMIC && t == 3) v += dyn[5 + t];
  if (BUG == RACE_PAST_GLOBAL && t == 3) v += mem[125 + t];
  out[t] = v;
}

void race_case_run(race_case which, float *mem, float *out) {
#define CASE(c) \
  case c: CU_LAUNCH(race_kernel<c>, 1, 128, 32, 0, mem, out); break
  switch (which) {
    CASE(RACE_NONE);
    CASE(RACE_NO_BARRIER);
    CASE(RACE_NO_SYNCWARP);
    CASE(RACE_SECOND_WRITE);
    CASE(RACE_BOTH_WRITE);
    CASE(RACE_LDMATRIX);
    CASE(RACE_COPY);
    CASE(RACE_ATOMIC_PLAIN);
    CASE(RACE_ATOMICS);
    CASE(RACE_NAMED_BARRIER);
    CASE(RACE_PAST_STATIC);
    CASE(RACE_PAST_DYNAMIC);
    CASE(RACE_PAST_GLOBAL);
  }
#undef CASE
}
