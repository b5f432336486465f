/* SPDX-License-Identifier: Apache-2.0 */
/* Names of devices, tokens that a GPU's memory holds, tiers of one place on one device, and what is said when
 * a device cannot be opened. No GPU is needed. One thread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/cpu/cpu.h"
#include "serve/placement.h"

static void test_names(void **state) {
  (void)state;
  static const struct {
    const char *name;
    weir_place place;
  } good[] = {
      {"cpu", {false, 0}},   {"cuda", {true, 0}},    {"cuda:0", {true, 0}},
      {"cuda:1", {true, 1}}, {"cuda:07", {true, 7}}, {"cuda:1023", {true, 1023}},
  };
  static const char *const bad[] = {
      "",
      "CPU",
      "cpu ",
      " cpu",
      "cpu:0",
      "gpu",
      "cud",
      "cuda ",
      "cuda0",
      "cudax",
      "cuda:",
      "cuda:-1",
      "cuda:+1",
      "cuda: 1",
      "cuda:x",
      "cuda:1x",
      "cuda:1 ",
      "cuda::1",
      "cuda:0x1",
      "cuda:1.5",
      "cuda:1024",
      "cuda:1,2",
      "CUDA:0",
      "cuda:99999999999",
      "cuda:99999999999999999999999",
  };
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    weir_err e = {0};
    weir_place p = {.cuda = !good[i].place.cuda, .ordinal = -5};
    if (weir_place_parse(good[i].name, &p, &e) != WEIR_OK) fail_msg("%s: %s", good[i].name, e.msg);
    if (!weir_place_same(p, good[i].place)) fail_msg("%s is cuda %d, %d", good[i].name, p.cuda, p.ordinal);
  }
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    weir_err e = {0};
    weir_place p = {.cuda = true, .ordinal = 5};
    char want[120];
    if (weir_place_parse(bad[i], &p, &e) != WEIR_EINVAL) fail_msg("\"%s\" is taken", bad[i]);
    snprintf(want, sizeof want, "device \"%s\" is not one of cpu, cuda, cuda:N", bad[i]);
    assert_string_equal(e.msg, want);
    assert_true(weir_place_same(p, (weir_place){false, 0}));
  }
}

static void test_same(void **state) {
  (void)state;
  const weir_place p[] = {{false, 0}, {true, 0}, {true, 1}};
  for (int i = 0; i < 3; i++)
    for (int k = 0; k < 3; k++) assert_int_equal(weir_place_same(p[i], p[k]), i == k);
}

static void test_kv_tokens(void **state) {
  (void)state;
  const size_t MiB = (size_t)1 << 20, GiB = (size_t)1 << 30;
  const struct {
    size_t free_bytes, total_bytes;
    double share;
    int64_t token_bytes, want;
  } c[] = {
      /* 256 MiB stay free besides what weir may not take */
      {256 * MiB + 1000, 512 * MiB, 1, 10, 100},
      {256 * MiB + 1000, 512 * MiB, 1, 7, 142},
      {256 * MiB + 1000, 512 * MiB, 1, 1000, 1},
      {256 * MiB + 1000, 512 * MiB, 1, 1001, 0},
      {256 * MiB, 512 * MiB, 1, 1, 0},
      {256 * MiB + 1, 512 * MiB, 1, 1, 1},
      {0, 512 * MiB, 1, 1, 0},
      /* half of a gigabyte is held back: what others have taken counts towards nothing */
      {GiB, GiB, 0.5, 1024, 256 * 1024},
      {768 * MiB, GiB, 0.5, 1024, 0},
      {768 * MiB + 4096, GiB, 0.5, 1024, 4},
      {80 * GiB, 80 * GiB, 0.75, 131072, (60 * 1024 - 256) * 8},
      /* a share beyond the whole takes the whole */
      {256 * MiB + 1000, 512 * MiB, 1.5, 10, 100},
      /* a token that takes nothing is a mistake, no reason to divide by it */
      {GiB, GiB, 1, 0, 0},
      {GiB, GiB, 1, -1, 0},
      /* more than 32 bits hold */
      {1024 * GiB + 256 * MiB, 1024 * GiB, 1, 2, (int64_t)512 << 30},
  };
  for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
    const int64_t got =
        weir_placement_kv_tokens(c[i].free_bytes, c[i].total_bytes, c[i].share, c[i].token_bytes);
    if (got != c[i].want)
      fail_msg("case %zu: %lld tokens, want %lld", i, (long long)got, (long long)c[i].want);
  }
}

static const bool none_left[WEIR_MAX_TIERS];

static void test_shared(void **state) {
  (void)state;
  weir_err e = {0};
  weir_placement p;
  char text[200];
  const weir_placement_opts two = {.n_tiers = 2, .n_threads = 1, .isa = "scalar"};
  assert_int_equal(weir_placement_open(&two, &p, &e), WEIR_OK);
  assert_non_null(p.dev[0]);
  assert_ptr_equal(p.dev[0], p.dev[1]);
  assert_ptr_equal(weir_placement_cpu(&p), p.dev[0]);
  assert_false(weir_placement_overlaps(&p));
  assert_int_equal(weir_cpu_isa(p.dev[0]), WEIR_ISA_SCALAR);
  weir_placement_describe(&p, text, sizeof text);
  assert_string_equal(text, p.dev[0]->desc);
  weir_placement_close(&p, none_left);
  assert_null(p.dev[0]);
  assert_int_equal(p.n_tiers, 0);
  weir_placement_describe(&p, text, sizeof text);
  assert_string_equal(text, "no device");
  weir_placement_close(&p, none_left); /* once more is nothing */

  const weir_placement_opts one = {.n_tiers = 1, .n_threads = 1};
  assert_int_equal(weir_placement_open(&one, &p, &e), WEIR_OK);
  assert_null(p.dev[1]);
  assert_false(weir_placement_overlaps(&p));
  weir_placement_close(&p, none_left);
}

/* A device in whose driver a thread is stuck stays as it is, whichever of its tiers it was. */
static void test_left_behind(void **state) {
  (void)state;
  for (int32_t tier = 0; tier < 2; tier++) {
    weir_err e = {0};
    weir_placement p;
    bool left[WEIR_MAX_TIERS] = {false};
    const weir_placement_opts two = {.n_tiers = 2, .n_threads = 1};
    assert_int_equal(weir_placement_open(&two, &p, &e), WEIR_OK);
    weir_dev *dev = p.dev[0];
    left[tier] = true;
    weir_placement_close(&p, left);
    void *still = NULL; /* it works, so it was not destroyed */
    assert_int_equal(weir_dev_alloc(dev, 64, &still, &e), WEIR_OK);
    weir_dev_release(dev, still);
    weir_dev_destroy(dev);
  }
}

/* The device that was opened before the one that cannot be goes again: LeakSanitizer looks. */
static void test_errors(void **state) {
  (void)state;
  static const weir_place cpu = {false, 0}, gpu = {true, 0}, second = {true, 1};
  const struct {
    weir_placement_opts o;
    weir_status st;
    const char *says;
  } c[] = {
      {{.n_tiers = 1, .place = {gpu}, .cuda_library = "/nowhere/weir-cuda.so"},
       WEIR_EUNSUP,
       "CUDA: there is no /nowhere/weir-cuda.so"},
      {{.n_tiers = 2, .place = {cpu, gpu}, .n_threads = 1, .cuda_library = "/nowhere/weir-cuda.so"},
       WEIR_EUNSUP,
       "CUDA: there is no /nowhere/weir-cuda.so"},
      {{.n_tiers = 2, .place = {gpu, second}, .cuda_library = "/dev/null"}, WEIR_EUNSUP, "CUDA: "},
      {{.n_tiers = 1, .isa = "sse9"}, WEIR_EINVAL, "isa \"sse9\" is not one of auto, scalar, avx2, "},
  };
  for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
    weir_err e = {0};
    weir_placement p;
    assert_int_equal(weir_placement_open(&c[i].o, &p, &e), c[i].st);
    if (strncmp(e.msg, c[i].says, strlen(c[i].says)) != 0) fail_msg("case %zu says \"%s\"", i, e.msg);
    assert_null(p.dev[0]);
    assert_null(p.dev[1]);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_names),  cmocka_unit_test(test_same),        cmocka_unit_test(test_kv_tokens),
      cmocka_unit_test(test_shared), cmocka_unit_test(test_left_behind), cmocka_unit_test(test_errors),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
