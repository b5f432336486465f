/* SPDX-License-Identifier: Apache-2.0 */
/* A cascade whose large tier is on the emulated GPU, in a thread of its own, and a GPU that fails in the
 * middle: the tier is dead with a reason, requests go on without it or end with that reason, everything
 * closes. And a GPU with too little memory. One thread, and the tiers' own. */
#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/log.h"
#include "cascade/cascade_conf.h"
#include "cu_shim.h"
#include "serve/engine.h"
#include "serve/pair.h"

static const char emu[] = CUDA_LIBRARY;

/* The runtime lies within the library. */
static struct {
  cu_shim_config (*defaults)(void);
  void (*reset)(const cu_shim_config *);
  size_t (*alive)(void);
  void (*fail_launch)(uint64_t n, cudaError_t error, bool when_it_runs);
  const char *(*failed)(void);
} shim;

static int find_shim(void **state) {
  (void)state;
  void *h = dlopen(emu, RTLD_NOW | RTLD_LOCAL);
  if (!h) {
    print_message("%s\n", dlerror());
    return 1;
  }
  *(void **)&shim.defaults = dlsym(h, "cu_shim_defaults");
  *(void **)&shim.reset = dlsym(h, "cu_shim_reset");
  *(void **)&shim.alive = dlsym(h, "cu_shim_alive");
  *(void **)&shim.fail_launch = dlsym(h, "cu_shim_fail_launch");
  *(void **)&shim.failed = dlsym(h, "cu_shim_failed");
  return !shim.defaults || !shim.reset || !shim.alive || !shim.fail_launch || !shim.failed;
}

static weir_status open_pair(size_t memory_bytes, int64_t kv_tokens, weir_pair **out, weir_err *e) {
  cu_shim_config c = shim.defaults();
  c.n_sms = 6;
  if (memory_bytes) c.memory_bytes = memory_bytes;
  shim.reset(&c);
  const weir_pair_opts o = {.small_path = "tests/vectors/models/pair-small.gguf",
                            .large_path = "tests/vectors/models/pair-large.gguf",
                            .small_device = "cpu",
                            .large_device = "cuda",
                            .cuda_library = emu,
                            .n_threads = 1,
                            .n_ctx = 64,
                            .max_seqs = 2,
                            .max_tokens = 64,
                            .kv_tokens = kv_tokens,
                            .kv_dtype = WEIR_F16};
  return weir_pair_open(&o, out, e);
}

static void close_pair(weir_pair *p) {
  weir_pair_close(p);
  assert_int_equal(shim.alive(), 0);
}

enum { MAX_NEW = 12 };
typedef struct got {
  int32_t n, done, by_large;
  weir_end end;
  char why[sizeof((weir_err *)0)->msg];
} got;

static void on_piece(void *ctx, const weir_piece *p) {
  got *g = ctx;
  g->n++;
  g->by_large += p->receipt->tier == 1;
}
static void on_done(void *ctx, const weir_outcome *r) {
  got *g = ctx;
  g->done++;
  g->end = r->end;
  if (r->err) snprintf(g->why, sizeof g->why, "%s", r->err->msg);
}

static weir_status submit(weir_engine *g, weir_mode mode, got *to, weir_err *e) {
  static const int32_t prompt[] = {285, 84, 72, 69, 200, 81};
  weir_cascade_cfg c;
  weir_cascade_opts o = {.mode = mode};
  if (mode == WEIR_MODE_DEFER || mode == WEIR_MODE_EXACT) {
    o.set = WEIR_OPT_GATE | WEIR_OPT_THRESHOLD;
    o.threshold = 1.0f;
  }
  if (weir_cascade_cfg_make(&o, &c, e) != WEIR_OK) fail_msg("%s", e->msg);
  const weir_job job = {.prompt = prompt,
                        .n_prompt = sizeof prompt / sizeof *prompt,
                        .max_new = MAX_NEW,
                        .draw = {.top_p = 1, .probe = -1},
                        .cascade = &c,
                        .ignore_eos = true,
                        .on_piece = on_piece,
                        .on_done = on_done,
                        .ctx = to};
  return weir_engine_submit(g, &job, NULL, e);
}

static void finish(weir_engine *g) {
  weir_err e = {0};
  for (bool busy = true; busy;)
    if (weir_engine_step(g, &busy, &e) != WEIR_OK) fail_msg("%s", e.msg);
}

/* Which launch fails: in the first step of the large tier, or in a later one, which is a record. */
static void check_failing(uint64_t launch, bool when_it_runs) {
  weir_err e = {0};
  weir_pair *p = NULL;
  weir_engine *g = NULL;
  got defer = {0}, exact = {0}, small = {0}, late = {0};
  if (open_pair(0, 0, &p, &e) != WEIR_OK) fail_msg("%s", e.msg);
  assert_true(weir_pair_overlaps(p));
  const weir_engine_cfg cfg = {.n_tiers = 2,
                               .tier = {weir_pair_exec(p, 0), weir_pair_exec(p, 1)},
                               .tokenizer = weir_pair_tokenizer(p),
                               .clock = weir_clock_system(),
                               .max_active = 2,
                               .overlap_tiers = true};
  if (weir_engine_create(&cfg, &g, &e) != WEIR_OK) fail_msg("%s", e.msg);
  shim.fail_launch(launch, cudaErrorIllegalAddress, when_it_runs);
  if (submit(g, WEIR_MODE_DEFER, &defer, &e) != WEIR_OK) fail_msg("%s", e.msg);
  if (submit(g, WEIR_MODE_EXACT, &exact, &e) != WEIR_OK) fail_msg("%s", e.msg);
  finish(g);
  assert_non_null(shim.failed());
  const weir_engine_stats now = weir_engine_get_stats(g);
  assert_true(now.tier[1].dead);
  assert_false(now.tier[0].dead);
  /* What the small tier may finish, it does; what promised the large tier's word ends with the reason. */
  assert_int_equal(defer.done, 1);
  assert_int_equal(defer.end, WEIR_END_LENGTH);
  assert_int_equal(defer.n, MAX_NEW);
  assert_true(defer.by_large < MAX_NEW);
  assert_int_equal(exact.done, 1);
  assert_int_equal(exact.end, WEIR_END_ERROR);
  if (!strstr(exact.why, "large (") || !strstr(exact.why, "illegal memory access"))
    fail_msg("the reason is \"%s\"", exact.why);
  /* Later ones: refused with the reason, or served by the small tier alone. */
  assert_int_equal(submit(g, WEIR_MODE_EXACT, &late, &e), WEIR_EDEVICE);
  if (!strstr(e.msg, "is down: ") || !strstr(e.msg, "illegal memory access")) fail_msg("says \"%s\"", e.msg);
  if (submit(g, WEIR_MODE_SMALL, &small, &e) != WEIR_OK) fail_msg("%s", e.msg);
  finish(g);
  assert_int_equal(small.n, MAX_NEW);
  assert_int_equal(small.end, WEIR_END_LENGTH);
  weir_engine_destroy(g);
  close_pair(p);
}

static void test_failing_gpu(void **state) {
  (void)state;
  for (int32_t when = 0; when < 2; when++) {
    check_failing(5, when);
    check_failing(60, when);
  }
}

static void test_too_little_memory(void **state) {
  (void)state;
  const size_t MiB = (size_t)1 << 20;
  static const struct {
    size_t mib;
    int64_t kv_tokens;
    const char *says;
  } c[] = {
      {16, 0, "load the large model tests/vectors/models/pair-large.gguf: "},
      {300, 0, "the GPU has room for the KV of 0 tokens beside the weights, and 64 are wanted"},
      {600, 4000000, "the GPU has room for the KV of "}, /* the CPU's share of so many is 1 GB */
      {600, 4000000, "beside the weights, and 4000000 are wanted: a smaller context, fewer KV tokens"},
  };
  for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
    weir_err e = {0};
    weir_pair *p = NULL;
    assert_int_equal(open_pair(c[i].mib * MiB, c[i].kv_tokens, &p, &e), WEIR_ENOMEM);
    assert_null(p);
    if (!strstr(e.msg, c[i].says)) fail_msg("case %zu says \"%s\"", i, e.msg);
    assert_int_equal(shim.alive(), 0);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_failing_gpu),
                                     cmocka_unit_test(test_too_little_memory)};
  return cmocka_run_group_tests(tests, find_shim, NULL);
}
