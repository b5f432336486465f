/* SPDX-License-Identifier: Apache-2.0 */
/* Launches attention's kernel of long tiles (attend_prefill.cuh): one instance a head_dim, with and without a
 * soft cap, which costs an exponential and a division a score and more registers than there are to spare. */
#include "kernels/cuda/attend_prefill.cuh"

template <int D, bool CAP>
static cudaError_t launch(const weir_cuk_attend_args *a, cudaStream_t stream) {
  const size_t smem = weir_cuk_attend_prefill_smem(D);
  const cudaError_t rc = cu_allow_smem(attend_prefill<D, CAP>, smem);
  if (rc != cudaSuccess) return rc;
  CU_LAUNCH((attend_prefill<D, CAP>), dim3((unsigned)a->list.n_ctas), dim3(WEIR_PREFILL_THREADS), smem,
            stream, *a);
  return CU_LAUNCH_STATUS();
}

extern "C" cudaError_t weir_cuk_attend_prefill(const weir_cuk_attend_args *a, cudaStream_t stream) {
  if (!a->f16 || a->page_size % PREFILL_PAGE_ROWS != 0 || ((uintptr_t)a->kv & 15) != 0)
    return cudaErrorInvalidValue;
  const bool cap = a->softcap > 0.0f;
  if (a->head_dim == 128) return cap ? launch<128, true>(a, stream) : launch<128, false>(a, stream);
  if (a->head_dim == 64) return cap ? launch<64, true>(a, stream) : launch<64, false>(a, stream);
  return cudaErrorInvalidValue;
}
