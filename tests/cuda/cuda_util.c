/* SPDX-License-Identifier: Apache-2.0 */
/* Helpers of the tests of the CUDA device. One thread. */
#include "cuda_util.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

weir_dev_limits cuda_test_limits(void) {
  return (weir_dev_limits){.max_tokens = 256,
                           .max_cols = 8192,
                           .max_heads = 64,
                           .max_head_dim = 256,
                           .max_kv_len = 1024,
                           .max_rows_out = 256,
                           .max_vocab = 4096,
                           .max_experts = 16,
                           .max_expert_ff = 1024};
}

weir_dev *cuda_test_open(const weir_dev_limits *lim, bool no_graphs) {
  weir_err e = {0};
  weir_dev *dev = NULL;
  const weir_cuda_opts o = {.no_graphs = no_graphs};
  kern_ok(weir_cuda_dev_open(&o, weir_log, &dev, &e), &e, "open the emulated device");
  if (lim) kern_ok(weir_dev_reserve(dev, lim, &e), &e, "reserve");
  return dev;
}

weir_dev *cuda_test_dev(const weir_dev_limits *lim, uint64_t seed) {
  cu_shim_config c = cu_shim_defaults();
  c.seed = seed;
  c.early = seed % 2 ? 64 : 0;
  cu_shim_reset(&c);
  return cuda_test_open(lim, false);
}

void cuda_test_close(weir_dev *dev) {
  cu_shim_check_guards();
  weir_dev_destroy(dev);
  const cu_shim_counts c = cu_shim_count();
  if (cu_shim_alive())
    fail_msg(
        "leaked: %zu blocks of device memory (%zu bytes), %zu pinned, %zu streams, %zu events, %zu graphs, "
        "%zu records, %zu handles",
        c.device_blocks, c.device_bytes, c.pinned_blocks, c.streams, c.events, c.graphs, c.execs, c.handles);
}

double cuda_worst_row(const float *got, const double *want, int32_t rows, int32_t cols) {
  double worst = 0;
  for (int32_t r = 0; r < rows; r++) {
    const double d = kern_row_error(got + (size_t)r * (size_t)cols, want + (size_t)r * (size_t)cols, cols);
    if (d > worst) worst = d;
  }
  return worst;
}

void cuda_near(const float *got, const double *want, int32_t rows, int32_t cols, double most,
               const char *what) {
  for (int32_t r = 0; r < rows; r++) {
    const double d = kern_row_error(got + (size_t)r * (size_t)cols, want + (size_t)r * (size_t)cols, cols);
    if (!(d <= most)) fail_msg("%s: row %d of %d is wrong by %g, at most %g", what, r, rows, d, most);
  }
}
