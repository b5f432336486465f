/* SPDX-License-Identifier: Apache-2.0 */
/* Launches of the quantised matmul: one row of the table for each type, one instantiation for each number of
 * batch tiles. */
#include "kernels/cuda/matmul.cuh"

namespace {

template <weir_dtype T, int NT>
cudaError_t go(const weir_cuk_matmul_args &m, cudaStream_t stream) {
  typedef mm_layout<T, NT> L;
  const int32_t side = weir_mm_slices_per_block(m.slices, m.n);
  const dim3 grid((unsigned)weir_mm_row_blocks(m.w.n_rtiles, m.slices, m.n), (unsigned)(m.slices / side));
  const cudaError_t e = cu_allow_smem(mm_kernel<T, NT>, L::SMEM);
  if (e != cudaSuccess) return e;
  CU_LAUNCH((mm_kernel<T, NT>), grid, WEIR_MM_WARPS * 32, L::SMEM, stream, m, side);
  return CU_LAUNCH_STATUS();
}

struct family {
  weir_dtype type;
  cudaError_t (*go[4])(const weir_cuk_matmul_args &, cudaStream_t); /* 8, 16, 32, 64 rows */
  int smem[4];
};
template <weir_dtype T>
constexpr family family_of() {
  return {T,
          {go<T, 1>, go<T, 2>, go<T, 4>, go<T, 8>},
          {mm_layout<T, 1>::SMEM, mm_layout<T, 2>::SMEM, mm_layout<T, 4>::SMEM, mm_layout<T, 8>::SMEM}};
}
const family families[] = {family_of<WEIR_Q8_0>(), family_of<WEIR_Q4_0>(), family_of<WEIR_Q5_0>(),
                           family_of<WEIR_Q4_K>(), family_of<WEIR_Q5_K>(), family_of<WEIR_Q6_K>()};

const family *find(weir_dtype t) {
  for (const family &f : families)
    if (f.type == t) return &f;
  return nullptr;
}

int step(int32_t n) { return n <= 8 ? 0 : n <= 16 ? 1 : n <= 32 ? 2 : 3; }

}  // namespace

extern "C" cudaError_t weir_cuk_matmul(const weir_cuk_matmul_args *m, cudaStream_t stream) {
  const family *f = find(m->w.dtype);
  if (!f || m->n < 1 || m->n > WEIR_MM_MAX_ROWS) return cudaErrorInvalidValue;
  return f->go[step(m->n)](*m, stream);
}

extern "C" size_t weir_cuk_matmul_smem(weir_dtype t, int32_t n) {
  const family *f = find(t);
  return f ? (size_t)f->smem[step(n)] : 0;
}
