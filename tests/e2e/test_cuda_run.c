/* SPDX-License-Identifier: Apache-2.0 */
/* The program on a CUDA device: `weir run` through the kernels, on the library of the emulated device. The
 * pair is the tiny one, whose text means nothing but costs little. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* after the above */
#include <cmocka.h>

#include "e2e.h"

#define PAIR "--small tests/vectors/models/pair-small.gguf --large tests/vectors/models/pair-large.gguf "
#define CUDA "--cuda-library " CUDA_LIBRARY " "
/* Prompts after which no two likeliest tokens are close: a continuation is the same on both devices. */
#define ASK PAIR "-p 'the quick' -n 3 -t 0 --ctx 64 -b 1 --threads 1 --json -q "

static json_t *answer(const char *options) {
  json_t *all = e2e_json_of("run %s %s", ASK, options), *of = e2e_of_schema(all, "weir.run.v1");
  json_decref(all);
  assert_int_equal(json_array_size(of), 1);
  return of;
}

static void want_same_ids(const char *options, const char *as) {
  json_t *a = answer(options), *b = answer(as);
  const json_t *x = json_object_get(json_array_get(a, 0), "ids"),
               *y = json_object_get(json_array_get(b, 0), "ids");
  assert_int_equal(json_array_size(y), 3);
  if (!json_equal((json_t *)x, (json_t *)y)) {
    char *xs = json_dumps(x, JSON_ENCODE_ANY), *ys = json_dumps(y, JSON_ENCODE_ANY);
    fail_msg("[%s] %s\n[%s] %s", options, xs, as, ys);
  }
  json_decref(a);
  json_decref(b);
}

static void test_same_text(void **state) {
  (void)state;
  want_same_ids("--mode small --device cuda " CUDA, "--mode small");
  want_same_ids("--mode large --device cuda " CUDA, "--mode large");
}

/* Tiers on devices of their own work at the same time, in threads. */
static void test_mixed(void **state) {
  (void)state;
  want_same_ids("--mode defer --entropy -1 --small-device cpu --large-device cuda " CUDA, "--mode large");
  want_same_ids("--mode defer --entropy inf --small-device cuda --large-device cpu " CUDA, "--mode small");
  want_same_ids("--mode exact --small-device cpu --large-device cuda " CUDA, "--mode large");
}

/* Two ranks on the one GPU there is, each a thread with a device of its own; a small model beside them. */
static void test_ranks(void **state) {
  (void)state;
#define RANKS "--large-tp 2 --large-device cuda:0,cuda:0 " CUDA
  want_same_ids("--mode large " RANKS, "--mode large");
  want_same_ids("--mode defer --entropy -1 --small-device cpu " RANKS, "--mode large");
  want_same_ids("--mode exact --small-device cuda --comm local " RANKS, "--mode large");
  static const struct {
    const char *options, *says;
  } bad[] = {
      {"--comm nccl " RANKS, "comm nccl wants a GPU for each rank"},
      {"--comm shm " RANKS, "comm shm is for ranks on the CPU"},
      {"--large-tp 2 --large-device cuda --comm local " CUDA,
       "comm local is for ranks that are all on one GPU"},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    e2e_result r = e2e("run %s --mode large %s", ASK, bad[i].options);
    e2e_want_status(&r, 1, bad[i].options);
    e2e_want_in(r.err, bad[i].says, bad[i].options);
    e2e_free(&r);
  }
}

/* Who wrote a token follows from the row that decided it. */
static void test_receipts(void **state) {
  (void)state;
  static const char *const where[] = {"--device cuda", "--small-device cpu --large-device cuda",
                                      "--small-device cuda --large-device cpu"};
  for (size_t i = 0; i < sizeof where / sizeof *where; i++) {
    const char *path = e2e_temp("receipts.jsonl");
    json_t *all =
        e2e_json_of("run %s -n 7 --mode defer --entropy 1.7 --receipts %s " CUDA "%s", ASK, path, where[i]);
    char *text = e2e_read(path), *rest = NULL;
    int n[2] = {0, 0}; /* large, small */
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
      json_t *o = json_loads(line, 0, NULL);
      assert_non_null(o);
      if (json_object_get(o, "schema")) { /* a decision, not a token */
        json_decref(o);
        continue;
      }
      const double H = json_number_value(json_object_get(o, "H")),
                   tau = json_number_value(json_object_get(o, "tau"));
      const bool easy = H <= tau;
      assert_true(tau > 1.69 && tau < 1.71);
      assert_string_equal(json_string_value(json_object_get(o, "tier")), easy ? "small" : "large");
      assert_string_equal(json_string_value(json_object_get(o, "reason")), easy ? "easy" : "deferred");
      n[easy]++;
      json_decref(o);
    }
    assert_int_equal(n[0] + n[1], 7);
    if (n[0] == 0 || n[1] == 0) fail_msg("%s: %d of the large model, %d of the small", where[i], n[0], n[1]);
    free(text);
    json_decref(all);
  }
}

/* What cannot be had: exit status, one line that says what. */
static void test_errors(void **state) {
  (void)state;
  static const struct {
    const char *options;
    int status;
    const char *says;
  } bad[] = {
      {"--device cuda --cuda-library /nowhere/weir-cuda.so", 1, "CUDA: there is no /nowhere/weir-cuda.so"},
      {"--device cuda --cuda-library /dev/null", 1, "CUDA: "},
      {"--device cuda:7 " CUDA, 1, "CUDA: there is no GPU 7: 1 found, counted from 0"},
      {"--large-device cuda:99999999999 " CUDA, 1, "not one of cpu, cuda, cuda:N"},
      {"--device gpu", 1, "device \"gpu\" is not one of cpu, cuda, cuda:N"},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    e2e_result r = e2e("run %s --mode defer --entropy 1 %s", ASK, bad[i].options);
    e2e_want_status(&r, bad[i].status, bad[i].options);
    e2e_want_in(r.err, bad[i].says, bad[i].options);
    if (strchr(r.err, '\n') != r.err + strlen(r.err) - 1) fail_msg("not one line: %s", r.err);
    if (r.out_len) fail_msg("%s: standard output: %s", bad[i].options, r.out);
    e2e_free(&r);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_text), cmocka_unit_test(test_mixed),
                                     cmocka_unit_test(test_ranks), cmocka_unit_test(test_receipts),
                                     cmocka_unit_test(test_errors)};
  return cmocka_run_group_tests(tests, NULL, e2e_cleanup);
}
