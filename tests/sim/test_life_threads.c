/* SPDX-License-Identifier: Apache-2.0 */
/* Tiers that die and come back with real threads: devices that compute in theirs, and one for each tier that
 * ends its life at odd moments, in steps and between them, and begins the next. Meant for ThreadSanitizer. */
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
#include "world.h"

enum { JOBS = 12 };

/* ---- a device with a thread, and a life above it ---- */

typedef struct mortal mortal;
typedef struct device {
  weir_exec base;
  weir_exec *fake;
  mortal *of;
  uint32_t state; /* of its dice */
} device;

struct mortal {
  weir_exec base;
  device device;
  weir_exec *inner; /* the device with a thread */
  pthread_t fate;
  pthread_mutex_t lock;
  pthread_cond_t changed;
  uint64_t life, last;       /* 0: dead; the last one there was */
  uint64_t step_life, wiped; /* of the step under way; whose KV the fake holds */
  bool stop;
  uint32_t seed; /* of its fate */
  void (*fn)(void *ctx);
  void *ctx;
};

static uint32_t roll(uint32_t *state, uint32_t n) {
  *state = *state * 1664525u + 1013904223u;
  return (*state >> 8) % n;
}

static void set_life(mortal *m, uint64_t life) {
  pthread_mutex_lock(&m->lock);
  m->life = life;
  if (life) m->last = life;
  pthread_cond_broadcast(&m->changed);
  if (m->fn) m->fn(m->ctx);
  pthread_mutex_unlock(&m->lock);
}

static weir_status device_submit(weir_exec *x, const weir_batch *b, weir_result *r, weir_err *e) {
  device *d = (device *)x;
  return d->fake->ops->submit(d->fake, b, r, e);
}

/* In the device's thread. */
static weir_status device_wait(weir_exec *x, weir_result **done, weir_err *e) {
  device *d = (device *)x;
  const weir_status st = d->fake->ops->wait(d->fake, done, e);
  nanosleep(&(struct timespec){.tv_nsec = 60000}, NULL); /* what a device takes */
  if (d->of->fate && roll(&d->state, 12) == 0) set_life(d->of, 0);
  return st;
}

static void device_destroy(weir_exec *x) {
  device *d = (device *)x;
  d->fake->ops->destroy(d->fake);
}

static const weir_exec_ops device_ops = {device_submit, device_wait, device_destroy};

/* Gathers the ranks again, which takes a moment, and now and then ends a life itself. */
static void *fate_main(void *ctx) {
  mortal *m = ctx;
  uint32_t state = m->seed;
  pthread_mutex_lock(&m->lock);
  while (!m->stop) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += 200000 + (long)roll(&state, 3000000);
    if (until.tv_nsec >= 1000000000) {
      until.tv_nsec -= 1000000000;
      until.tv_sec++;
    }
    const bool dead = m->life == 0;
    while (!m->stop && pthread_cond_timedwait(&m->changed, &m->lock, &until) == 0) {
    }
    if (m->stop) break;
    const bool jump = roll(&state, 2);
    const uint64_t next = dead || jump ? m->last + 1 : 0;
    pthread_mutex_unlock(&m->lock);
    set_life(m, next);
    pthread_mutex_lock(&m->lock);
  }
  pthread_mutex_unlock(&m->lock);
  return NULL;
}

static weir_status mortal_submit(weir_exec *x, const weir_batch *b, weir_result *r, weir_err *e) {
  mortal *m = (mortal *)x;
  pthread_mutex_lock(&m->lock);
  const uint64_t life = m->life;
  pthread_mutex_unlock(&m->lock);
  if (life == 0) return weir_fail(e, WEIR_EDEVICE, "planned death: it is dead");
  if (m->wiped != life) fake_exec_wipe(m->device.fake); /* no step is under way */
  m->wiped = m->step_life = life;
  return m->inner->ops->submit(m->inner, b, r, e);
}

static weir_status mortal_wait(weir_exec *x, weir_result **done, weir_err *e) {
  mortal *m = (mortal *)x;
  const weir_status st = m->inner->ops->wait(m->inner, done, e);
  if (st != WEIR_OK) return st;
  pthread_mutex_lock(&m->lock);
  const bool broken = m->life != m->step_life;
  pthread_mutex_unlock(&m->lock);
  (*done)->status = WEIR_OK; /* rows of an empty KV are rows like others: nobody is told */
  if (broken) (*done)->status = weir_fail(&(*done)->err, WEIR_EDEVICE, "planned death in a step");
  return WEIR_OK;
}

static void mortal_destroy(weir_exec *x) {
  mortal *m = (mortal *)x;
  pthread_mutex_lock(&m->lock);
  m->stop = true;
  pthread_cond_broadcast(&m->changed);
  pthread_mutex_unlock(&m->lock);
  if (m->fate) pthread_join(m->fate, NULL);
  m->inner->ops->destroy(m->inner);
  pthread_mutex_destroy(&m->lock);
  pthread_cond_destroy(&m->changed);
  free(m);
}

static bool mortal_ready(weir_exec *x) {
  mortal *m = (mortal *)x;
  return m->inner->async->ready(m->inner);
}

static void mortal_notify(weir_exec *x, void (*fn)(void *ctx), void *ctx) {
  mortal *m = (mortal *)x;
  m->inner->async->notify(m->inner, fn, ctx);
  pthread_mutex_lock(&m->lock);
  m->fn = fn;
  m->ctx = ctx;
  pthread_mutex_unlock(&m->lock);
}

static uint64_t mortal_number(weir_exec *x, weir_err *why) {
  mortal *m = (mortal *)x;
  pthread_mutex_lock(&m->lock);
  const uint64_t life = m->life;
  pthread_mutex_unlock(&m->lock);
  if (life == 0) weir_fail(why, WEIR_EDEVICE, "planned death between steps");
  return life;
}

static const weir_exec_ops mortal_ops = {mortal_submit, mortal_wait, mortal_destroy};
static const weir_exec_async mortal_async = {mortal_ready, mortal_notify};
static const weir_exec_life mortal_life = {mortal_number};

static weir_exec *mortal_create(const world *w, int32_t tier, bool dies, uint32_t seed) {
  weir_err e = {0};
  pthread_condattr_t attr;
  mortal *m = calloc(1, sizeof *m);
  m->device = (device){.of = m,
                       .state = seed,
                       .fake = fake_exec_create(&(fake_opts){.law = w->law,
                                                             .tier = tier,
                                                             .n_ctx = 512,
                                                             .n_pages = 60,
                                                             .max_tokens = 64,
                                                             .max_seqs = JOBS,
                                                             .fail_at_step = -1})};
  m->device.base = (weir_exec){.ops = &device_ops, .info = m->device.fake->info};
  m->seed = seed + 77;
  m->life = m->last = m->wiped = 1;
  m->base = (weir_exec){
      .ops = &mortal_ops, .info = m->device.base.info, .async = &mortal_async, .life = &mortal_life};
  pthread_mutex_init(&m->lock, NULL);
  pthread_condattr_init(&attr);
  pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  pthread_cond_init(&m->changed, &attr);
  pthread_condattr_destroy(&attr);
  if (weir_exec_thread_create(&m->device.base, 0, NULL, &m->inner, &e) != WEIR_OK) fail_msg("%s", e.msg);
  if (dies && pthread_create(&m->fate, NULL, fate_main, m) != 0) fail_msg("no thread");
  return &m->base;
}

/* ---- */

static world w;
static world_job job[JOBS];

static void make_jobs(uint32_t seed) {
  static const weir_mode modes[] = {WEIR_MODE_DEFER, WEIR_MODE_EXACT, WEIR_MODE_SMALL, WEIR_MODE_DEFER,
                                    WEIR_MODE_LARGE};
  for (int32_t i = 0; i < JOBS; i++) {
    world_job *j = &job[i];
    *j = (world_job){
        .n_prompt = 3 + i * 7, .max_new = 40, .mode = modes[((uint32_t)i + seed) % 5], .tau = 1.2f};
    j->draw = (weir_ask){.temperature = 1, .top_p = 1, .seed = seed * 100 + (uint32_t)i, .probe = -1};
    for (int32_t k = 0; k < j->n_prompt; k++) j->prompt[k] = (k * 13 + i % 2) % 280;
  }
}

static void check_job(const world_job *j, bool small_dies) {
  int32_t tok[WORLD_NEW];
  weir_token_receipt receipt[WORLD_NEW];
  assert_int_equal(j->done, 1);
  const bool failed = j->end == WEIR_END_ERROR;
  if (failed && !strstr(j->err.msg, "planned death")) fail_msg("%s", j->err.msg);
  if (failed && !small_dies) assert_true(j->mode == WEIR_MODE_EXACT || j->mode == WEIR_MODE_LARGE);
  if (j->mode == WEIR_MODE_DEFER) {
    world_check_rule(&w, j);
    return;
  }
  const int32_t n = world_reference(&w, j, tok, receipt);
  assert_true(failed ? j->n <= n : j->n == n);
  assert_memory_equal(j->tok, tok, (size_t)j->n * sizeof *tok);
}

static void test_lives(void **state) {
  (void)state;
  int64_t deaths = 0, recoveries = 0, ended = 0;
  for (uint32_t round = 0; round < 24; round++) {
    const bool small_dies = round % 4 == 3;
    weir_err e = {0};
    weir_exec *exec[2];
    world_bare(&w);
    for (int32_t t = 0; t < 2; t++)
      exec[t] = mortal_create(&w, t, t == 1 || small_dies, round * 2 + (uint32_t)t);
    const weir_engine_cfg cfg = {.n_tiers = 2,
                                 .tier = {exec[0], exec[1]},
                                 .tokenizer = w.tokenizer,
                                 .clock = weir_clock_system(),
                                 .max_active = 6,
                                 .large_batch = 2,
                                 .large_wait_ns = 300000,
                                 .prefix_pages = 20,
                                 .overlap_tiers = round & 1,
                                 .dead_wait_ns = round & 2 ? 20000000000 : 0};
    if (weir_engine_create(&cfg, &w.engine, &e) != WEIR_OK) fail_msg("%s", e.msg);
    make_jobs(round);
    for (int32_t i = 0; i < JOBS; i++) world_submit(&w, &job[i], 0);
    for (bool busy = true; busy;)
      if (weir_engine_step(w.engine, &busy, &e) != WEIR_OK) fail_msg("%s", e.msg);
    const weir_engine_stats s = weir_engine_get_stats(w.engine);
    for (int32_t i = 0; i < JOBS; i++) {
      check_job(&job[i], small_dies);
      ended += job[i].end != WEIR_END_ERROR;
    }
    for (int32_t t = 0; t < 2; t++) {
      deaths += s.tier[t].deaths;
      recoveries += s.tier[t].recoveries;
      assert_int_equal(s.tier[t].kv_pages_used, 0);
    }
    weir_engine_destroy(w.engine);
    for (int32_t t = 0; t < 2; t++) exec[t]->ops->destroy(exec[t]);
  }
  print_message("%lld deaths, %lld returns, %lld of %d ended well\n", (long long)deaths,
                (long long)recoveries, (long long)ended, 24 * JOBS);
  assert_true(deaths > 20 && recoveries > 10 && ended > 24);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_lives),
  };
  weir_log_set_level(WEIR_LOG_ERROR - 1);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
