/* SPDX-License-Identifier: Apache-2.0 */
/* Libraries that are no CUDA device of this weir, for test_open.c: OTHER is 1 without the symbol, 2 of
 * another interface, 3 with another struct. */
#include "kernels/cuda/open.h"

#if OTHER == 1
extern const int some_symbol;
const int some_symbol = 1;
#else
extern const weir_cuda_api weir_cuda_entry;
const weir_cuda_api weir_cuda_entry = {
    .abi = WEIR_CUDA_ABI + (OTHER == 2),
    .dev_bytes = sizeof(weir_dev) + 8 * (OTHER == 3),
    .ops_bytes = sizeof(weir_dev_ops),
};
#endif
