/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by the tests of the CUDA device: the device on the emulator, and a score. Matrices and numbers are
 * kern_util's, which work over any device. Everything reports through cmocka. */
#ifndef WEIR_TESTS_CUDA_UTIL_H
#define WEIR_TESTS_CUDA_UTIL_H
#include <stdbool.h>
#include <stdint.h>

#include "cu_shim.h"
#include "kern_util.h"
#include "kernels/cuda/cuda_dev.h"

/* A device on a runtime that starts anew; of seeds, every other one has a stream that runs as late as it can,
 * the rest one that now and then runs early. Reserved for `lim` unless NULL. */
weir_dev *cuda_test_dev(const weir_dev_limits *lim, uint64_t seed);
/* The same on a runtime configured already (cu_shim_reset). */
weir_dev *cuda_test_open(const weir_dev_limits *lim, bool no_graphs);
/* Destroys it; fails when anything is still alive or a byte beyond a block was written. */
void cuda_test_close(weir_dev *dev);

/* Room enough for the shapes of kernel tests. */
weir_dev_limits cuda_test_limits(void);

/* The worst row's error by kern_row_error; both [rows * cols]. */
double cuda_worst_row(const float *got, const double *want, int32_t rows, int32_t cols);
/* Fails, and says which row is how wrong, when one is worse than `most`. */
void cuda_near(const float *got, const double *want, int32_t rows, int32_t cols, double most,
               const char *what);

#endif
