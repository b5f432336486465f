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

static weir_place gpu(int32_t n) { return (weir_place){true, n}; }

static void test_places(void **state) {
  (void)state;
  const weir_place cpu = {false, 0};
  const struct {
    const char *names;
    int32_t n, first;
    weir_place want[4];
    const char *error; /* NULL: it is right */
  } c[] = {
      {"cpu", 1, 0, {cpu}, NULL},
      {"cpu", 3, 5, {cpu, cpu, cpu}, NULL},
      {"cpu,cpu", 2, 0, {cpu, cpu}, NULL},
      {"cuda", 1, 0, {gpu(0)}, NULL},
      {"cuda", 2, 0, {gpu(0), gpu(1)}, NULL},
      {"cuda", 2, 4, {gpu(4), gpu(5)}, NULL},
      {"cuda:3", 1, 4, {gpu(3)}, NULL},
      {"cuda:2,cuda:3", 2, 4, {gpu(2), gpu(3)}, NULL},
      {"cuda:1,cuda:0,cuda:1", 3, 0, {gpu(1), gpu(0), gpu(1)}, NULL},
      {"cuda:3", 2, 0, {{0}}, "\"cuda:3\" is 1 device for 2 ranks"},
      {"cuda:2,cuda:3", 1, 0, {{0}}, "\"cuda:2,cuda:3\" is 2 devices for 1 rank"},
      {"cpu,cuda:1", 2, 0, {{0}}, "\"cpu,cuda:1\": the ranks of a model are all on GPUs or all on the CPU"},
      {"cuda:0,", 2, 0, {{0}}, "device \"\" is not one of cpu, cuda, cuda:N"},
      {",", 2, 0, {{0}}, "device \"\" is not one of cpu, cuda, cuda:N"},
      {"gpu", 2, 0, {{0}}, "device \"gpu\" is not one of cpu, cuda, cuda:N"},
      {"cuda:0123456789012345678901234567890123456789",
       1,
       0,
       {{0}},
       "device \"cuda:01234567890123456789012345\" is not"},
      {"cpu", 0, 0, {{0}}, "0 ranks: there can be 1 to 64"},
      {"cpu", 65, 0, {{0}}, "65 ranks: there can be 1 to 64"},
  };
  for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
    weir_err e = {0};
    weir_places p;
    const weir_status st = weir_places_parse(c[i].names, c[i].n, c[i].first, &p, &e);
    if (c[i].error) {
      assert_int_equal(st, WEIR_EINVAL);
      if (!strstr(e.msg, c[i].error)) fail_msg("%s: \"%s\", want %s", c[i].names, e.msg, c[i].error);
      continue;
    }
    if (st != WEIR_OK) fail_msg("%s: %s", c[i].names, e.msg);
    assert_int_equal(p.n, c[i].n);
    for (int32_t r = 0; r < p.n; r++)
      if (!weir_place_same(p.at[r], c[i].want[r]))
        fail_msg("%s: rank %d at %d", c[i].names, r, p.at[r].ordinal);
  }
  char many[65 * 7 + 1] = "";
  weir_places p;
  weir_err e = {0};
  for (int i = 0; i < 65; i++) strcat(many, i ? ",cuda:0" : "cuda:0");
  assert_int_equal(weir_places_parse(many, 64, 0, &p, &e), WEIR_EINVAL);
  assert_string_equal(e.msg, "more than 64 devices are listed");
}

static void test_first_gpu(void **state) {
  (void)state;
  /* process, of so many, with so many ranks each, seeing so many GPUs; where it begins */
  static const int32_t c[][5] = {
      {0, 8, 1, 8, 0}, {3, 8, 1, 8, 3}, {7, 8, 1, 8, 7}, {1, 2, 4, 8, 4},
      {3, 8, 1, 1, 0}, {1, 2, 2, 2, 0}, {1, 2, 1, 0, 0},
  };
  for (size_t i = 0; i < sizeof c / sizeof *c; i++)
    assert_int_equal(weir_places_first(c[i][0], c[i][1], c[i][2], c[i][3]), c[i][4]);
}

/* What ranks talk over by themselves, and what they can. */
static void test_comm(void **state) {
  (void)state;
  static const struct {
    const char *names;
    int32_t n, n_nodes;
    weir_comm_kind want;
    unsigned can; /* 1 << kind */
  } c[] = {
      {"cpu", 1, 1, WEIR_COMM_SELF, 0x1f},
      {"cuda", 1, 1, WEIR_COMM_SELF, 0x1f},
      {"cpu", 2, 1, WEIR_COMM_SHM, 1 << WEIR_COMM_SHM | 1 << WEIR_COMM_TCP},
      {"cpu", 1, 2, WEIR_COMM_TCP, 1 << WEIR_COMM_SHM | 1 << WEIR_COMM_TCP},
      {"cuda", 2, 1, WEIR_COMM_NCCL, 1 << WEIR_COMM_NCCL},
      {"cuda:1", 1, 2, WEIR_COMM_NCCL, 1 << WEIR_COMM_NCCL},
      {"cuda", 4, 2, WEIR_COMM_NCCL, 1 << WEIR_COMM_NCCL},
      {"cuda:0,cuda:0", 2, 1, WEIR_COMM_LOCAL, 1 << WEIR_COMM_LOCAL},
      {"cuda:0,cuda:0", 2, 2, WEIR_COMM_NCCL, 0},
      {"cuda:0,cuda:0,cuda:1", 3, 1, WEIR_COMM_NCCL, 0},
  };
  for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
    weir_err e = {0};
    weir_places p;
    assert_int_equal(weir_places_parse(c[i].names, c[i].n, 0, &p, &e), WEIR_OK);
    assert_int_equal(weir_places_comm(&p, c[i].n_nodes), c[i].want);
    for (int k = 0; k < WEIR_N_COMMS; k++) {
      const weir_status st = weir_places_check_comm(&p, c[i].n_nodes, (weir_comm_kind)k, &e);
      if ((st == WEIR_OK) != ((c[i].can >> k & 1) != 0))
        fail_msg("%s over %d nodes by %s: %d", c[i].names, c[i].n_nodes,
                 weir_comm_kind_name((weir_comm_kind)k), st);
    }
  }
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

/* Ranks have a device each, of a part of the cores; a tier beside them has its own, and they take turns. */
static void test_ranks(void **state) {
  (void)state;
  weir_err e = {0};
  weir_placement p;
  weir_places two, one;
  char text[300], want[300];
  assert_int_equal(weir_places_parse("cpu", 2, 0, &two, &e), WEIR_OK);
  assert_int_equal(weir_places_parse("cpu", 1, 0, &one, &e), WEIR_OK);
  const weir_placement_opts o = {.n_tiers = 2, .ranks = {NULL, &two}, .n_threads = 1, .isa = "scalar"};
  assert_int_equal(weir_placement_open(&o, &p, &e), WEIR_OK);
  assert_int_equal(p.ranks[0].n, 1);
  assert_int_equal(p.ranks[1].n, 2);
  assert_ptr_equal(p.rank[0][0], p.dev[0]);
  assert_ptr_equal(p.rank[1][0], p.dev[1]);
  assert_ptr_not_equal(p.rank[1][0], p.rank[1][1]);
  assert_ptr_not_equal(p.dev[0], p.dev[1]);
  for (int r = 0; r < 2; r++) assert_int_equal(weir_cpu_n_threads(p.rank[1][r]), 1);
  assert_false(weir_placement_overlaps(&p));
  weir_placement_describe(&p, text, sizeof text);
  snprintf(want, sizeof want, "small on %s; large on 2 ranks, each %s", p.dev[0]->desc, p.dev[1]->desc);
  assert_string_equal(text, want);
  weir_placement_close(&p, none_left);
  assert_null(p.rank[1][1]);

  /* by default the cores are shared out, among the processes of the machine too */
  weir_cores mine;
  weir_cores_mine(&mine);
  const int32_t all = weir_cores_quota(mine.n);
  for (int32_t n = 1; n <= 3; n++) {
    const weir_placement_opts part = {.n_tiers = 1, .ranks = {&one}, .process = n - 1, .n_processes = n};
    assert_int_equal(weir_placement_open(&part, &p, &e), WEIR_OK);
    assert_int_equal(weir_cpu_n_threads(p.dev[0]), all / n > 0 ? all / n : 1);
    weir_placement_close(&p, none_left);
  }
  const weir_placement_opts wrong = {.n_tiers = 1, .ranks = {&one}, .process = 2, .n_processes = 2};
  assert_int_equal(weir_placement_open(&wrong, &p, &e), WEIR_EINVAL);
  assert_string_equal(e.msg, "process 2 of 2 on this machine");
}

static void test_overlaps(void **state) {
  (void)state;
  static const struct {
    const char *small, *large;
    int32_t n; /* of large */
    bool want;
  } c[] = {
      {"cpu", "cpu", 2, false},
      {"cpu", "cuda", 2, true},
      {"cuda", "cpu", 2, true},
      {"cuda:0", "cuda:0", 1, false},
      {"cuda:0", "cuda:1", 1, true},
      {"cuda:0", "cuda", 2, false},
      {"cuda:2", "cuda:0,cuda:1", 2, true},
      {"cuda:1", "cuda:0,cuda:1", 2, false},
  };
  for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
    weir_err e = {0};
    weir_placement p = {.n_tiers = 2};
    assert_int_equal(weir_places_parse(c[i].small, 1, 0, &p.ranks[0], &e), WEIR_OK);
    assert_int_equal(weir_places_parse(c[i].large, c[i].n, 0, &p.ranks[1], &e), WEIR_OK);
    if (weir_placement_overlaps(&p) != c[i].want) fail_msg("%s and %s", c[i].small, c[i].large);
  }
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
  static const weir_place cpu = {false, 0}, first = {true, 0}, second = {true, 1};
  static const weir_places two = {.n = 2, .at = {{false, 0}, {true, 0}}};
  const struct {
    weir_placement_opts o;
    weir_status st;
    const char *says;
  } c[] = {
      {{.n_tiers = 1, .place = {first}, .cuda_library = "/nowhere/weir-cuda.so"},
       WEIR_EUNSUP,
       "CUDA: there is no /nowhere/weir-cuda.so"},
      {{.n_tiers = 2, .place = {cpu, first}, .n_threads = 1, .cuda_library = "/nowhere/weir-cuda.so"},
       WEIR_EUNSUP,
       "CUDA: there is no /nowhere/weir-cuda.so"},
      {{.n_tiers = 2, .place = {first, second}, .cuda_library = "/dev/null"}, WEIR_EUNSUP, "CUDA: "},
      {{.n_tiers = 1, .ranks = {&two}, .n_threads = 1, .cuda_library = "/nowhere/weir-cuda.so"},
       WEIR_EUNSUP,
       "rank 1: CUDA: there is no /nowhere/weir-cuda.so"},
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
      cmocka_unit_test(test_places),      cmocka_unit_test(test_first_gpu), cmocka_unit_test(test_comm),
      cmocka_unit_test(test_ranks),       cmocka_unit_test(test_overlaps),  cmocka_unit_test(test_names),
      cmocka_unit_test(test_same),        cmocka_unit_test(test_kv_tokens), cmocka_unit_test(test_shared),
      cmocka_unit_test(test_left_behind), cmocka_unit_test(test_errors),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
