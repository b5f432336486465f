/* SPDX-License-Identifier: Apache-2.0 */
/* A page pool that is short: what fits runs, however often it was there before; the prefix cache costs nobody
 * a page; who is preempted goes on from what is known of it. On the virtual clock. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/log.h"
#include "world.h"

static world w;
static world_job job[WORLD_JOBS];

static void plain(world_job *j, int32_t n_prompt, int32_t max_new, weir_mode mode) {
  *j = (world_job){.n_prompt = n_prompt, .max_new = max_new, .mode = mode, .tau = 1.5f, .ignore_eos = true};
  j->draw = (weir_ask){.temperature = 1, .top_p = 1, .seed = 5, .probe = -1};
  for (int32_t i = 0; i < n_prompt; i++) j->prompt[i] = (i * 31 + 7) % 280;
}

static void expect_reference(const world_job *j) {
  int32_t tok[WORLD_NEW];
  weir_token_receipt receipt[WORLD_NEW];
  const int32_t n = world_reference(&w, j, tok, receipt);
  if (j->end != WEIR_END_LENGTH) fail_msg("ended with %s: %s", weir_end_name(j->end), j->err.msg);
  assert_int_equal(j->n, n);
  assert_memory_equal(j->tok, tok, (size_t)n * sizeof *tok);
}

/* ---- the prefix cache ---- */

/* A pool of one context: a request that fits, and fits again though the cache knows its text. */
static void test_same_prompt_again(void **state) {
  (void)state;
  static const weir_mode modes[] = {WEIR_MODE_SMALL, WEIR_MODE_LARGE, WEIR_MODE_DEFER, WEIR_MODE_ROLLBACK,
                                    WEIR_MODE_SPECULATE};
  for (size_t m = 0; m < sizeof modes / sizeof *modes; m++)
    for (int32_t n_prompt = 10; n_prompt <= 310; n_prompt += 100)
      for (int32_t cached = 1; cached <= 2; cached++) {
        world_opts o = world_roomy();
        o.n_pages[0] = o.n_pages[1] = weir_pages_for(n_prompt + 90);
        o.prefix_pages = o.n_pages[0] / cached;
        world_open(&w, &o);
        for (int32_t k = 0; k < 4; k++) {
          plain(&job[k], n_prompt, 90, modes[m]);
          job[k].draw.temperature = 0;
          world_run(&w, &job[k], 1);
          if (modes[m] != WEIR_MODE_ROLLBACK && modes[m] != WEIR_MODE_SPECULATE) expect_reference(&job[k]);
          assert_int_equal(job[k].end, WEIR_END_LENGTH);
          assert_memory_equal(job[k].tok, job[0].tok, sizeof job[0].tok);
        }
        world_close(&w);
      }
}

/* Two that begin alike and are fed at once: the second finds its beginning known when it has fed it. */
static void test_same_beginning_at_once(void **state) {
  (void)state;
  for (int32_t pages = 25; pages <= 41; pages += 4)
    for (int32_t large = 0; large < 2; large++) {
      world_opts o = world_roomy();
      o.n_pages[large] = pages;
      o.prefix_pages = 20;
      o.max_tokens = o.prompt_chunk = 512;
      world_open(&w, &o);
      plain(&job[0], 164, 4, large ? WEIR_MODE_LARGE : WEIR_MODE_SMALL); /* ten full pages, ends soon */
      plain(&job[1], 304, 90, job[0].mode);                              /* 25 pages in the end */
      world_run(&w, job, 2);
      for (int32_t i = 0; i < 2; i++) expect_reference(&job[i]);
      world_close(&w);
    }
}

/* Eight at once of five texts, over and over: with the cache nobody is preempted who was not without. */
static void test_cache_costs_nobody_a_page(void **state) {
  (void)state;
  int64_t preempted[2], rows[2];
  for (int32_t cache = 0; cache < 2; cache++) {
    world_opts o = world_roomy();
    o.n_pages[0] = 60; /* seven pages each in the end */
    o.prefix_pages = cache ? 30 : 0;
    world_open(&w, &o);
    const int32_t n = 200;
    for (int32_t i = 0; i < n; i++) {
      const int32_t k = i % 5;
      plain(&job[i], 10 + k, 96, WEIR_MODE_SMALL);
      for (int32_t q = 0; q < job[i].n_prompt; q++) job[i].prompt[q] = (q * 31 + k * 7) % 280;
      job[i].draw.temperature = 0;
      job[i].arrives_ns = i * 100000;
    }
    world_run(&w, job, n);
    for (int32_t i = 0; i < n; i++) expect_reference(&job[i]);
    preempted[cache] = weir_engine_get_stats(w.engine).tier[0].preempted;
    rows[cache] = weir_engine_get_stats(w.engine).tier[0].rows;
    world_close(&w);
  }
  assert_true(preempted[1] <= preempted[0]);
  assert_true(rows[1] <= rows[0]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_same_prompt_again),
      cmocka_unit_test(test_same_beginning_at_once),
      cmocka_unit_test(test_cache_costs_nobody_a_page),
  };
  weir_log_set_level(WEIR_LOG_ERROR - 1);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
