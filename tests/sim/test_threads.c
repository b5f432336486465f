/* SPDX-License-Identifier: Apache-2.0 */
/* Executors with threads of their own, for real: fake devices that take a moment, both tiers at once, a loop
 * that sleeps between turns; and a device that does not answer until the test lets it. Texts are those of
 * plain decoding. Meant for ThreadSanitizer as well. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/log.h"
#include "run/exec_thread.h"
#include "step/batch.h"
#include "world.h"

enum { JOBS = 10 };

/* ---- a device that takes a moment, or stops ---- */

typedef struct slow {
  weir_exec base;
  weir_exec *inner;
  int64_t step_ns;
  int64_t stop_at, steps; /* this step waits for `go`; < 0: none */
  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool go, stopped;
} slow;

static weir_status slow_submit(weir_exec *x, const weir_batch *b, weir_result *r, weir_err *e) {
  slow *s = (slow *)x;
  return s->inner->ops->submit(s->inner, b, r, e);
}

static weir_status slow_wait(weir_exec *x, weir_result **done, weir_err *e) {
  slow *s = (slow *)x;
  const weir_status st = s->inner->ops->wait(s->inner, done, e);
  nanosleep(&(struct timespec){.tv_nsec = s->step_ns}, NULL); /* what a device takes */
  pthread_mutex_lock(&s->lock);
  if (s->steps++ == s->stop_at) {
    s->stopped = true;
    pthread_cond_broadcast(&s->changed);
    while (!s->go) pthread_cond_wait(&s->changed, &s->lock);
  }
  pthread_mutex_unlock(&s->lock);
  return st;
}

static void slow_destroy(weir_exec *x) {
  slow *s = (slow *)x;
  s->inner->ops->destroy(s->inner);
  pthread_mutex_destroy(&s->lock);
  pthread_cond_destroy(&s->changed);
  free(s);
}

static const weir_exec_ops slow_ops = {slow_submit, slow_wait, slow_destroy};

static slow *slow_create(const world *w, int32_t tier, int64_t step_ns, int64_t stop_at) {
  slow *s = calloc(1, sizeof *s);
  s->inner = fake_exec_create(&(fake_opts){.law = w->law,
                                           .tier = tier,
                                           .n_ctx = 512,
                                           .n_pages = 60,
                                           .max_tokens = 64,
                                           .max_seqs = JOBS,
                                           .fail_at_step = -1});
  s->base = (weir_exec){.ops = &slow_ops, .info = s->inner->info};
  s->step_ns = step_ns;
  s->stop_at = stop_at;
  pthread_mutex_init(&s->lock, NULL);
  pthread_cond_init(&s->changed, NULL);
  return s;
}

static void slow_let_go(slow *s) {
  pthread_mutex_lock(&s->lock);
  s->go = true;
  pthread_cond_broadcast(&s->changed);
  pthread_mutex_unlock(&s->lock);
}

/* ---- a loop that sleeps, as a service has ---- */

typedef struct bell {
  pthread_mutex_t lock;
  pthread_cond_t rung;
  int64_t rings;
} bell;

static void ring(void *ctx) {
  bell *b = ctx;
  pthread_mutex_lock(&b->lock);
  b->rings++;
  pthread_cond_signal(&b->rung);
  pthread_mutex_unlock(&b->lock);
}

static int64_t real_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* Until the bell was rung since `seen` or the engine's timer is over; 10 s at most. */
static void doze(bell *b, int64_t seen, int64_t wake_ns) {
  const int64_t most = real_ns() + 10000000000, until = wake_ns < most ? wake_ns : most;
  int failed = 0;
  pthread_mutex_lock(&b->lock);
  while (b->rings == seen && !failed)
    failed = pthread_cond_timedwait(
        &b->rung, &b->lock, &(struct timespec){.tv_sec = until / 1000000000, .tv_nsec = until % 1000000000});
  pthread_mutex_unlock(&b->lock);
}

static void bell_init(bell *b) {
  pthread_condattr_t attr;
  *b = (bell){0};
  pthread_mutex_init(&b->lock, NULL);
  pthread_condattr_init(&attr);
  pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  pthread_cond_init(&b->rung, &attr);
  pthread_condattr_destroy(&attr);
}

static int64_t run(weir_engine *g, bell *b) {
  bool busy = true;
  int64_t turns = 0;
  while (busy) {
    weir_err e = {0};
    pthread_mutex_lock(&b->lock);
    const int64_t seen = b->rings;
    pthread_mutex_unlock(&b->lock);
    if (weir_engine_step(g, &busy, &e) != WEIR_OK) fail_msg("%s", e.msg);
    turns++;
    const int64_t wake = weir_engine_next_wake_ns(g);
    if (busy && wake > real_ns()) doze(b, seen, wake);
  }
  return turns;
}

typedef struct rig {
  world w;
  slow *device[2];
  weir_exec *exec[2];
  bell bell;
} rig;

static weir_engine *rig_open(rig *r, bool own_loop, bool overlap, int64_t stop_at, int64_t timeout_ns) {
  weir_err e = {0};
  world_bare(&r->w);
  bell_init(&r->bell);
  weir_engine_cfg cfg = {.n_tiers = 2,
                         .tokenizer = r->w.tokenizer,
                         .clock = weir_clock_system(),
                         .max_active = 6,
                         .large_batch = 2,
                         .large_wait_ns = 300000,
                         .prefix_pages = 20,
                         .overlap_tiers = overlap,
                         .step_timeout_ns = timeout_ns,
                         .on_ready = own_loop ? ring : NULL,
                         .hooks_ctx = &r->bell};
  for (int32_t t = 0; t < 2; t++) {
    r->device[t] = slow_create(&r->w, t, t == 0 ? 60000 : 200000, t == 1 ? stop_at : -1);
    if (weir_exec_thread_create(&r->device[t]->base, 0, NULL, &r->exec[t], &e) != WEIR_OK) fail_msg("%s", e.msg);
    cfg.tier[t] = r->exec[t];
  }
  if (weir_engine_create(&cfg, &r->w.engine, &e) != WEIR_OK) fail_msg("%s", e.msg);
  return r->w.engine;
}

static void rig_close(rig *r) {
  weir_engine_destroy(r->w.engine);
  for (int32_t t = 0; t < 2; t++) r->exec[t]->ops->destroy(r->exec[t]);
  pthread_mutex_destroy(&r->bell.lock);
  pthread_cond_destroy(&r->bell.rung);
}

static world_job job[JOBS];

static void make_jobs(uint32_t seed) {
  static const weir_mode modes[] = {WEIR_MODE_DEFER, WEIR_MODE_EXACT, WEIR_MODE_SMALL, WEIR_MODE_LARGE};
  for (int32_t i = 0; i < JOBS; i++) {
    world_job *j = &job[i];
    *j = (world_job){.n_prompt = 3 + i * 7, .max_new = 20, .mode = modes[((uint32_t)i + seed) % 4], .tau = 2};
    j->draw = (weir_ask){.temperature = 1, .top_p = 1, .seed = seed * 100 + (uint32_t)i, .probe = -1};
    j->n_top = i % 3;
    for (int32_t k = 0; k < j->n_prompt; k++) j->prompt[k] = (k * 13 + i % 2) % 280;
  }
}

static void expect_texts(const rig *r, int32_t skip) {
  for (int32_t i = 0; i < JOBS; i++) {
    int32_t tok[WORLD_NEW];
    static weir_token_receipt receipt[WORLD_NEW];
    if (i == skip) continue;
    const int32_t n = world_reference(&r->w, &job[i], tok, receipt);
    assert_int_equal(job[i].done, 1);
    assert_int_equal(job[i].n, n);
    assert_memory_equal(job[i].tok, tok, (size_t)n * sizeof *tok);
  }
}

static void test_texts(void **state) {
  (void)state;
  static rig r;
  for (uint32_t round = 0; round < 8; round++) {
    const bool own_loop = round & 1, overlap = round & 2;
    rig_open(&r, own_loop, overlap, -1, round & 4 ? 20000000000 : 0);
    make_jobs(round);
    for (int32_t i = 0; i < JOBS; i++) world_submit(&r.w, &job[i], 0);
    weir_engine_cancel(r.w.engine, job[4].id);
    const int64_t turns = run(r.w.engine, &r.bell);
    expect_texts(&r, 4);
    const weir_engine_stats s = weir_engine_get_stats(r.w.engine);
    assert_int_equal(s.tier[0].kv_pages_used + s.tier[1].kv_pages_used, 0);
    /* Each step that is done is worth a turn or two, and so is each that begins: the loop does not spin. */
    if (own_loop) assert_true(turns < 4 * (s.tier[0].steps + s.tier[1].steps) + 4 * JOBS);
    rig_close(&r);
  }
}

/* The large device stops in the middle of a step and says nothing: cancelling works at once; the others end
 * or go on when its time is over; and when it answers after all, everything can still be taken down. */
static void test_silent_device(void **state) {
  (void)state;
  static rig r;
  for (int32_t own_loop = 0; own_loop < 2; own_loop++) {
    rig_open(&r, own_loop, true, 3, 700000000);
    make_jobs(0);
    for (int32_t i = 0; i < JOBS; i++) world_submit(&r.w, &job[i], 0);
    bool busy;
    weir_err e;
    for (int32_t i = 0; i < 5; i++) assert_int_equal(weir_engine_step(r.w.engine, &busy, &e), WEIR_OK);
    weir_engine_cancel(r.w.engine, job[3].id);
    assert_int_equal(weir_engine_step(r.w.engine, &busy, &e), WEIR_OK);
    assert_int_equal(job[3].done, 1);
    assert_int_equal(job[3].end, WEIR_END_CANCEL);
    run(r.w.engine, &r.bell);
    assert_true(weir_engine_get_stats(r.w.engine).tier[1].dead);
    for (int32_t i = 0; i < JOBS; i++) {
      assert_int_equal(job[i].done, 1);
      const bool small_will_do = job[i].mode == WEIR_MODE_SMALL || job[i].mode == WEIR_MODE_DEFER;
      if (small_will_do) assert_int_not_equal(job[i].end, WEIR_END_ERROR);
    }
    slow_let_go(r.device[1]);
    while (!r.exec[1]->async->ready(r.exec[1])) /* else its memory would be given up */
      nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    rig_close(&r);
  }
}

/* ---- the wrapper itself ---- */

static void count(void *ctx) { __atomic_add_fetch((int32_t *)ctx, 1, __ATOMIC_SEQ_CST); }

static void test_contract(void **state) {
  (void)state;
  world w;
  weir_exec *x;
  weir_err e = {0};
  weir_result *done = NULL, result = {0};
  int32_t told = 0;
  world_bare(&w);
  slow *device = slow_create(&w, 0, 1000, 0);
  assert_int_equal(weir_exec_thread_create(&device->base, 0, NULL, &x, &e), WEIR_OK);
  x->async->notify(x, count, &told);
  assert_true(x->async->ready(x));
  assert_int_equal(x->ops->wait(x, &done, &e), WEIR_EINVAL);
  weir_batch_builder b;
  const int32_t tok[3] = {1, 2, 3}, page[1] = {0}, bad_page[1] = {999};
  assert_int_equal(weir_batch_builder_init(&b, 8, 2, 8, 2, &e), WEIR_OK);
  weir_batch_add(&b, &(weir_batch_seq){tok, 0, 3, bad_page, 1});
  weir_batch batch = weir_batch_get(&b);
  assert_int_equal(x->ops->submit(x, &batch, &result, &e), WEIR_EINVAL); /* nothing was started */
  assert_true(x->async->ready(x));
  weir_batch_builder_clear(&b);
  weir_batch_add(&b, &(weir_batch_seq){tok, 0, 3, page, 1});
  batch = weir_batch_get(&b);
  assert_int_equal(x->ops->submit(x, &batch, &result, &e), WEIR_OK);
  assert_false(x->async->ready(x)); /* the device has stopped */
  assert_int_equal(x->ops->submit(x, &batch, &result, &e), WEIR_EBUSY);
  slow_let_go(device);
  assert_int_equal(x->ops->wait(x, &done, &e), WEIR_OK);
  assert_ptr_equal(done, &result);
  assert_int_equal(done->status, WEIR_OK);
  x->async->notify(x, NULL, NULL);
  assert_true(__atomic_load_n(&told, __ATOMIC_SEQ_CST) <= 1);
  const int32_t before = told;
  assert_int_equal(x->ops->submit(x, &batch, &result, &e), WEIR_OK);
  assert_int_equal(x->ops->wait(x, &done, &e), WEIR_OK);
  assert_int_equal(told, before); /* nobody is told any more */
  x->ops->destroy(x);
  weir_batch_builder_fini(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_texts),
      cmocka_unit_test(test_silent_device),
      cmocka_unit_test(test_contract),
  };
  weir_log_set_level(WEIR_LOG_ERROR - 1);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
