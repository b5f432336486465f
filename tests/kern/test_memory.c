/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of the CPU device: zeroed whatever was there before, aligned, apart from its neighbours, not there
 * before it is touched and gone when it is released; sizes nobody has are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "kern_util.h"

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))
static const size_t MIB = (size_t)1 << 20;

static weir_dev *open_cpu(void) {
  weir_err e = {0};
  weir_dev *dev;
  const weir_cpu_opts o = {.n_threads = 1, .isa = WEIR_ISA_SCALAR};
  kern_ok(weir_dev_open_cpu(&o, &dev, &e), &e, "open");
  return dev;
}

static uint8_t *take(weir_dev *dev, size_t bytes) {
  weir_err e = {0};
  void *p;
  kern_ok(weir_dev_alloc(dev, bytes, &p, &e), &e, "alloc");
  assert_int_equal((uintptr_t)p % 64, 0);
  return p;
}

static bool is_all(const uint8_t *p, size_t bytes, uint8_t value) {
  return p[0] == value && memcmp(p, p + 1, bytes - 1) == 0;
}

/* Blocks of every size class come, are filled to the last byte, and go in an order of their own. */
static void blocks(void **state) {
  (void)state;
  static const size_t sizes[] = {1,     63,    64,     65,      4096,          65535,
                                 65536, 65537, 300000, 1 << 20, (2 << 20) + 7, 5000000};
  enum { LIVE = 24, TURNS = 400 };
  struct {
    uint8_t *p;
    size_t bytes;
    uint8_t value;
  } live[LIVE] = {0};
  kern_rng r = {81};
  weir_dev *dev = open_cpu();
  for (int t = 0; t < TURNS + LIVE; t++) {
    const int i = t < TURNS ? kern_below(&r, LIVE) : t - TURNS;
    if (live[i].p) {
      if (!is_all(live[i].p, live[i].bytes, live[i].value))
        fail_msg("turn %d: somebody wrote into a block", t);
      weir_dev_release(dev, live[i].p);
      live[i].p = NULL;
    } else if (t < TURNS) {
      live[i].bytes = sizes[kern_below(&r, COUNT(sizes))];
      live[i].p = take(dev, live[i].bytes);
      live[i].value = (uint8_t)(1 + kern_below(&r, 255));
      if (!is_all(live[i].p, live[i].bytes, 0)) fail_msg("turn %d: %zu bytes are not zero", t, live[i].bytes);
      memset(live[i].p, live[i].value, live[i].bytes);
    }
  }
  weir_dev_destroy(dev);
}

/* Pages of this process; 0: the system does not say. */
static size_t resident(void) {
  size_t all = 0, held = 0;
  FILE *f = fopen("/proc/self/statm", "r");
  if (!f) return 0;
  if (fscanf(f, "%zu %zu", &all, &held) != 2) held = 0;
  fclose(f);
  return held * (size_t)sysconf(_SC_PAGESIZE);
}

static void what_is_touched(void **state) {
  (void)state;
#ifdef __SANITIZE_THREAD__
  skip(); /* its notes of each access are resident too */
#endif
  weir_dev *dev = open_cpu();
  const size_t before = resident(), bytes = 256 * MIB;
  if (!before) skip();
  uint8_t *pin = take(dev, 20 * MIB), *p = take(dev, bytes);
  const size_t idle = resident();
  if (idle > before + 64 * MIB)
    fail_msg("%zu MiB are there before anything is touched", (idle - before) / MIB);
  memset(p, 1, bytes / 4);
  const size_t used = resident();
  if (used < idle + bytes / 4 - 8 * MIB || used > idle + bytes / 4 + 32 * MIB)
    fail_msg("%zu MiB for %zu that are touched", (used - idle) / MIB, bytes / 4 / MIB);
  weir_dev_release(dev, p);
  const size_t after = resident();
  if (after > idle + 16 * MIB) fail_msg("%zu MiB are left of what was released", (after - idle) / MIB);
  weir_dev_release(dev, pin);
  weir_dev_destroy(dev);
}

static void refusals(void **state) {
  (void)state;
  static const size_t sizes[] = {SIZE_MAX,     SIZE_MAX - 63,   SIZE_MAX - 127,       SIZE_MAX - (1 << 21),
                                 SIZE_MAX / 2, (size_t)1 << 62, ((size_t)1 << 47) + 1};
  weir_dev *dev = open_cpu();
  for (int i = 0; i < COUNT(sizes); i++) {
    weir_err e = {0};
    void *p = dev;
    assert_int_equal(weir_dev_alloc(dev, sizes[i], &p, &e), WEIR_ENOMEM);
    assert_null(p);
    assert_non_null(strstr(e.msg, "of device memory"));
  }
  uint8_t *p = take(dev, MIB); /* and nothing is broken */
  memset(p, 1, MIB);
  weir_dev_release(dev, p);
  weir_dev_destroy(dev);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(blocks), cmocka_unit_test(what_is_touched),
                                     cmocka_unit_test(refusals)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
