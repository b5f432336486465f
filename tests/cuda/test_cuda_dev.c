/* SPDX-License-Identifier: Apache-2.0 */
/* The CUDA device's memory, copies and waits, on a runtime that does nothing before it must. One thread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cuda_util.h"
#include "kernels/cuda/graphs.h"
#include "kernels/cuda/ring.h"

/* ---- life ---- */

static void test_life(void **state) {
  (void)state;
  weir_dev *dev = cuda_test_dev(NULL, 1);
  assert_string_equal(dev->ops->name, "cuda");
  assert_string_equal(dev->desc, "Emulated GPU, 132 SMs, sm_90, 8 GiB");
  const weir_cuda *cu = weir_cuda_of(dev);
  assert_int_equal(cu->n_sms, 132);
  assert_int_equal(cu->cc, 90);
  assert_int_equal(cu->max_smem, 227 << 10);
  weir_err e = {0};
  size_t free0 = 0, free1 = 0, total = 0;
  kern_ok(weir_dev_memory(dev, &free0, &total, &e), &e, "memory");
  assert_int_equal(total, (size_t)8 << 30);
  void *p = NULL;
  kern_ok(weir_dev_alloc(dev, 100000, &p, &e), &e, "alloc");
  kern_ok(weir_dev_memory(dev, &free1, &total, &e), &e, "memory");
  assert_int_equal(free0 - free1, 100000);
  weir_dev_release(dev, p);
  cuda_test_close(dev);
}

static void test_zeroed(void **state) {
  (void)state;
  weir_dev *dev = cuda_test_dev(NULL, 2);
  weir_err e = {0};
  for (size_t bytes = 1; bytes < 3000; bytes = bytes * 3 + 1) {
    void *p = NULL;
    uint8_t got[3000];
    memset(got, 7, sizeof got);
    kern_ok(weir_dev_alloc(dev, bytes, &p, &e), &e, "alloc");
    assert_int_equal((uintptr_t)p % 256, 0);
    kern_ok(weir_dev_download(dev, got, p, bytes, &e), &e, "download");
    kern_ok(weir_dev_sync(dev, &e), &e, "sync");
    for (size_t i = 0; i < bytes; i++) assert_int_equal(got[i], 0);
    weir_dev_release(dev, p);
  }
  cuda_test_close(dev);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_life),
      cmocka_unit_test(test_zeroed),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
