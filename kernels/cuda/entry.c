/* SPDX-License-Identifier: Apache-2.0 */
/* The one symbol that weir-cuda.so exports. */
#include "kernels/cuda/cuda_dev.h"

extern const weir_cuda_api weir_cuda_entry;
__attribute__((visibility("default"))) const weir_cuda_api weir_cuda_entry = {
    .abi = WEIR_CUDA_ABI,
    .dev_bytes = sizeof(weir_dev),
    .ops_bytes = sizeof(weir_dev_ops),
    .open = weir_cuda_dev_open,
    .count = weir_cuda_dev_count,
};
