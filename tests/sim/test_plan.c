/* SPDX-License-Identifier: Apache-2.0 */
/* The planner by itself, one build at a time, with rows made up: who starts, who waits, whose pages are
 * taken, what is fed ahead, how much one step may hold. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cascade/cascade_conf.h"
#include "sched/plan.h"

enum { ROWS = 512, REQS = 40 };

typedef struct tier { /* one tier under test */
  int32_t at;
  weir_tier_kv kv;
  weir_plan plan;
  weir_plan_limits limits;
  weir_request *req[REQS]; /* [n], the most urgent first */
  int32_t n;
} tier;

static void tier_open(tier *t, int32_t at, int32_t n_pages, int32_t cached) {
  weir_err e = {0};
  *t = (tier){.at = at, .limits = {.tokens = 256, .prompt_chunk = 64}};
  assert_int_equal(weir_pages_create(n_pages, &t->kv.pages, &e), WEIR_OK);
  if (cached > 0) assert_int_equal(weir_prefix_create(t->kv.pages, cached, &t->kv.prefix, &e), WEIR_OK);
  assert_int_equal(weir_plan_init(&t->plan, ROWS, REQS, 2 * n_pages, &e), WEIR_OK);
}

static void tier_close(tier *t) {
  for (int32_t i = 0; i < t->n; i++) {
    weir_request_drop_kv(t->req[i], t->at, t->kv.pages);
    weir_request_destroy(t->req[i]);
  }
  weir_plan_fini(&t->plan, t->kv.pages);
  weir_prefix_destroy(t->kv.prefix);
  weir_pages_destroy(t->kv.pages);
}

/* A request less urgent than those before it; prompts are alike as far as they go. */
static weir_request *add(tier *t, int32_t n_prompt, int32_t max_new, weir_mode mode, float repetition) {
  weir_err e = {0};
  weir_request *r = NULL;
  weir_cascade_cfg cfg;
  assert_int_equal(weir_cascade_cfg_make(&(weir_cascade_opts){.mode = mode}, &cfg, &e), WEIR_OK);
  int32_t *prompt = malloc((size_t)n_prompt * sizeof *prompt);
  assert_non_null(prompt);
  for (int32_t i = 0; i < n_prompt; i++) prompt[i] = i;
  const weir_request_spec spec = {.prompt = prompt,
                                  .n_prompt = n_prompt,
                                  .max_new = max_new,
                                  .draw = {.top_p = 1},
                                  .cascade = &cfg,
                                  .urgency = t->n,
                                  .penalties = {.repetition = repetition}};
  assert_int_equal(weir_request_create(&spec, t->n + 1, &r, &e), WEIR_OK);
  free(prompt);
  return t->req[t->n++] = r;
}

/* Items of the next step. */
static int32_t build(tier *t) {
  weir_err e = {0};
  weir_request *culprit;
  assert_int_equal(weir_plan_build(&t->plan, t->at, t->req, t->n, &t->kv, &t->limits, &culprit, &e), WEIR_OK);
  assert_null(culprit);
  return t->plan.n_items;
}

/* The step ends; whoever has all it needs is given token 7. */
static void finish(tier *t) {
  weir_row rows[ROWS];
  int32_t same;
  for (int32_t i = 0; i < ROWS; i++) rows[i] = (weir_row){.token = 7, .p_max = 1};
  weir_plan_finish(&t->plan, t->at, rows, NULL, &t->kv);
  for (int32_t i = 0; i < t->n; i++) {
    weir_request *r = t->req[i];
    if (r->waiting && r->need.tier == t->at && r->fed_to == r->need.to) weir_request_observe(r, 1, &same);
  }
}

static void ask(tier *t) {
  for (int32_t i = 0; i < t->n; i++) assert_true(weir_request_next(t->req[i], 0));
}

/* ---- who starts ---- */

/* One that waits for pages holds up the less urgent who would fit: they would take what is given back. */
static void test_blocker(void **state) {
  (void)state;
  for (int32_t blocked = 0; blocked < 2; blocked++) {
    tier t;
    tier_open(&t, 0, 16, 0);
    weir_request *holder = add(&t, 150, 8, WEIR_MODE_SMALL, 0); /* ten pages of 16 */
    ask(&t);
    assert_int_equal(build(&t), 1);
    finish(&t);
    weir_request *first = add(&t, blocked ? 100 : 70, 8, WEIR_MODE_SMALL, 0); /* seven or five of six */
    weir_request *second = add(&t, blocked ? 40 : 8, 8, WEIR_MODE_SMALL, 0);  /* three or one */
    ask(&t);
    assert_int_equal(build(&t), blocked ? 1 : 3);
    assert_true(holder->place[0] >= 0);
    assert_int_equal(first->place[0] >= 0, !blocked);
    assert_int_equal(second->place[0] >= 0, !blocked);
    finish(&t);
    weir_request_drop_kv(holder, 0, t.kv.pages); /* it is preempted, say */
    holder->waiting = false;
    build(&t);
    if (blocked) assert_true(first->place[0] >= 0 && second->place[0] >= 0);
    finish(&t);
    tier_close(&t);
  }
}

/* Whose pages are taken starts from nothing: no page, no claim; the cache has what was committed. */
static void test_preempted(void **state) {
  (void)state;
  tier t;
  tier_open(&t, 0, 16, 16);
  weir_request *r = add(&t, 100, 8, WEIR_MODE_SMALL, 0); /* seven pages */
  weir_request *v = add(&t, 150, 8, WEIR_MODE_SMALL, 0); /* ten */
  for (int32_t i = 0; i < 100; i++) r->tok[i] += 1000;   /* nothing in common */
  assert_true(weir_request_next(v, 0));
  assert_true(weir_plan_claim(v, 0, t.req, t.n, &t.kv, false));
  assert_int_equal(v->claim[0], 10);
  v->view.committed = 100; /* a judge has yet to look at the rest */
  assert_int_equal(build(&t), 1);
  finish(&t);
  assert_int_equal(weir_prefix_get_stats(t.kv.prefix).held, 6); /* full pages of 100 */
  assert_int_equal(v->published[0], 6);
  v->view.committed = 150;
  assert_true(weir_request_next(r, 0));
  assert_int_equal(build(&t), 1);
  assert_int_equal(t.plan.preempted, 1);
  assert_true(r->place[0] >= 0 && v->place[0] < 0);
  assert_int_equal(v->seq[0].n_pages, 0);
  assert_int_equal(v->view.kv_len[0], 0);
  assert_int_equal(v->claim[0], 0);
  assert_int_equal(v->published[0], 0);
  assert_int_equal(weir_prefix_get_stats(t.kv.prefix).held, 9); /* it takes seven of 16: nine fit beside */
  finish(&t);
  assert_true(weir_request_next(v, 0)); /* and it finds them again */
  weir_request_drop_kv(r, 0, t.kv.pages);
  r->waiting = false;
  assert_int_equal(build(&t), 1);
  assert_int_equal(t.plan.item[0].from, 144);
  assert_int_equal(v->published[0], 9);
  finish(&t);
  tier_close(&t);
}

/* A prompt whose last page is known is copied, and the page it was copied from is let go with the step. */
static void test_copies_are_let_go(void **state) {
  (void)state;
  tier t;
  tier_open(&t, 0, 16, 8);
  add(&t, 32, 8, WEIR_MODE_SMALL, 0);
  ask(&t);
  assert_int_equal(build(&t), 1);
  finish(&t);
  t.req[0]->waiting = false;
  weir_request *r = add(&t, 32, 8, WEIR_MODE_SMALL, 0);
  assert_true(weir_request_next(r, 0));
  assert_int_equal(build(&t), 1);
  assert_int_equal(t.plan.copies.n, 1);
  const int32_t from = t.plan.copies.src_dst[0];
  const int32_t held = weir_pages_refs(t.kv.pages, from);
  finish(&t);
  assert_int_equal(t.plan.copies.n, 0);
  assert_int_equal(r->seq[0].page[1], from); /* the copy says the same: the known page in exchange for it */
  assert_int_equal(weir_pages_refs(t.kv.pages, from), held);
  tier_close(&t);
}

/* ---- ahead ---- */

static void test_who_may_go_ahead(void **state) {
  (void)state;
  tier t;
  tier_open(&t, 1, 40, 0);
  weir_request *r = add(&t, 100, 8, WEIR_MODE_DEFER, 0);
  assert_false(weir_plan_may_go_ahead(r, 1)); /* not likely to be needed */
  r->ahead = true;
  assert_true(weir_plan_may_go_ahead(r, 1));
  assert_false(weir_plan_may_go_ahead(r, 0));
  r->cascade.pinned = true;
  assert_false(weir_plan_may_go_ahead(r, 1));
  r->cascade.pinned = false;
  r->cascade.hi = 0; /* the large tier is gone */
  assert_false(weir_plan_may_go_ahead(r, 1));
  r->cascade.hi = 1;
  r->view.kv_len[1] = 99;
  assert_false(weir_plan_may_go_ahead(r, 1)); /* but for its last token it is there */
  r->view.kv_len[1] = 98;
  assert_true(weir_plan_may_go_ahead(r, 1));
  r->view.kv_len[1] = 0;
  r->place[1] = 3;
  assert_false(weir_plan_may_go_ahead(r, 1));
  r->place[1] = -1;
  weir_request *large = add(&t, 100, 8, WEIR_MODE_LARGE, 0);
  large->ahead = true;
  assert_true(weir_request_next(large, 0));
  assert_false(weir_plan_may_go_ahead(large, 1)); /* it has asked */
  tier_close(&t);
}

/* Fed ahead is what finds its pages beside what others hold and were promised. */
static void test_ahead_leaves_what_is_promised(void **state) {
  (void)state;
  for (int32_t n_pages = 17; n_pages <= 18; n_pages++) {
    tier t;
    tier_open(&t, 1, n_pages, 0);
    t.limits.ahead = 16;
    weir_request *r = add(&t, 100, 90, WEIR_MODE_LARGE, 0); /* takes seven pages now, is promised nine */
    weir_request *a = add(&t, 100, 90, WEIR_MODE_DEFER, 0); /* nine likewise */
    a->ahead = true;
    assert_true(weir_request_next(r, 0));
    assert_true(weir_plan_claim(r, 1, t.req, t.n, &t.kv, false));
    assert_int_equal(build(&t), n_pages == 18 ? 2 : 1);
    assert_int_equal(a->seq[1].n_pages, n_pages == 18);
    assert_int_equal(a->claim[1], n_pages == 18 ? 9 : 0);
    finish(&t);
    tier_close(&t);
  }
}

/* Nor does it ever take pages from anybody, be he less urgent. */
static void test_ahead_preempts_nobody(void **state) {
  (void)state;
  tier t;
  int32_t taken[64], n_taken = 0;
  tier_open(&t, 1, 40, 0);
  t.limits.ahead = 16;
  weir_request *a = add(&t, 100, 8, WEIR_MODE_DEFER, 0);
  weir_request *v = add(&t, 100, 8, WEIR_MODE_LARGE, 0);
  a->ahead = true;
  assert_true(weir_request_next(v, 0));
  assert_int_equal(build(&t), 2);
  finish(&t);
  assert_int_equal(a->view.kv_len[1], 16);
  while ((taken[n_taken] = weir_pages_take(t.kv.pages)) >= 0) n_taken++; /* others have grown */
  assert_int_equal(build(&t), 0);
  assert_int_equal(t.plan.preempted, 0);
  assert_int_equal(v->seq[1].n_pages, 7);
  while (n_taken > 0) weir_pages_unref(t.kv.pages, taken[--n_taken]);
  assert_int_equal(build(&t), 1);
  finish(&t);
  assert_int_equal(a->view.kv_len[1], 32);
  tier_close(&t);
}

/* ---- how much ---- */

/* Edits of logits of one step are bounded; one request that needs more alone runs alone. */
static void test_edits_are_bounded(void **state) {
  (void)state;
  enum { BOUND = 1 << 20, MANY = 40000, N = 30 };
  for (int32_t alone = 0; alone < 2; alone++) {
    const int32_t n_prompt = alone ? BOUND + 100 : MANY, n = alone ? 2 : N;
    tier t;
    tier_open(&t, 0, (n_prompt / WEIR_PAGE_TOKENS + 1) * n, 0);
    for (int32_t i = 0; i < n; i++) { /* all but the last token of its prompt is fed */
      weir_request *r = add(&t, n_prompt, 8, WEIR_MODE_SMALL, 1.5f);
      weir_err e;
      assert_int_equal(weir_seq_prepare(&r->seq[0], t.kv.pages, NULL, 0, n_prompt - 1, &t.plan.copies, &e),
                       WEIR_OK);
      r->view.kv_len[0] = n_prompt - 1;
    }
    ask(&t);
    const int32_t first = build(&t);
    assert_int_equal(first, alone ? 1 : BOUND / MANY);
    assert_true(alone || t.plan.edits.n_taken <= BOUND);
    finish(&t);
    for (int32_t i = 0; i < n; i++) t.req[i]->waiting = t.req[i]->waiting && t.req[i]->fed_to < n_prompt;
    assert_int_equal(build(&t), n - first); /* the others' turn */
    finish(&t);
    tier_close(&t);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_blocker),
      cmocka_unit_test(test_preempted),
      cmocka_unit_test(test_copies_are_let_go),
      cmocka_unit_test(test_who_may_go_ahead),
      cmocka_unit_test(test_ahead_leaves_what_is_promised),
      cmocka_unit_test(test_ahead_preempts_nobody),
      cmocka_unit_test(test_edits_are_bounded),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
