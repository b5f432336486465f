/* SPDX-License-Identifier: Apache-2.0 */
/* Any schedule gives the same text: requests interleaved, preempted, resumed from prefix hits and fed in
 * chunks write what they write undisturbed; an exact cascade writes the large tier's own text seed for seed,
 * even while window, gate, hold and the small tier change under way; and with tiers going down at any moment
 * every request still ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "fake_request.h"

static int n_cases = 4000;

static void any_schedule(void **state) {
  (void)state;
  enum { R = 3 };
  static const fake_chaos wild_ways = {8, 8, 50, 0};
  static fake_req plain[R], wild[R];
  static fake_text x;
  long exact = 0;
  for (int i = 0; i < n_cases; i++) {
    fake_case("any schedule", i);
    if (i % 50 == 0) fake_models_make(5000 + (uint64_t)i);
    fake_seed((uint64_t)i * 977 + 5);
    const weir_cascade_cfg g = fake_any_cfg();
    for (int k = 0; k < R; k++) {
      const fake_job j = fake_any_job(&g, (uint64_t)(i * R + k));
      fake_open(&plain[k], &j);
      fake_open(&wild[k], &j);
      if (fake_rnd(2)) { /* the prompt is in the cache to begin with */
        memcpy(wild[k].kv_tok[0], wild[k].tok, sizeof wild[k].tok);
        wild[k].v.kv_len[0] = j.n_prompt;
      }
      fake_finish(&plain[k], &fake_calm);
    }
    bool done[R] = {false};
    for (int left = R, turns = 0; left > 0; turns++) { /* in any order, one turn each */
      FAKE_CHECK(turns < 9000, "no progress");
      const int k = (int)fake_rnd(R);
      if (done[k]) continue;
      done[k] = fake_turn(&wild[k], &wild_ways);
      left -= done[k];
    }
    for (int k = 0; k < R; k++) {
      const fake_job *j = &plain[k].job;
      memcpy(x.tok, plain[k].tok, sizeof x.tok);
      memcpy(x.receipt, plain[k].receipt, sizeof x.receipt);
      x.n = plain[k].v.n;
      fake_same_text(&wild[k], &x, "under chaos");
      fake_same_receipts(&wild[k], &x);
      FAKE_CHECK(!memcmp(wild[k].calls, plain[k].calls, sizeof wild[k].calls), "other steps under chaos");
      if (!fake_is_exact(&g)) continue;
      fake_alone(j, 2, &x);
      fake_same_text(&plain[k], &x, "exact");
      exact++;
    }
  }
  FAKE_CHECK(exact > n_cases / 4, "only %ld exact cases", exact);
  FAKE_CHECK(fake_count.preemptions > n_cases && fake_count.hits > n_cases && fake_count.chunks > n_cases,
             "%ld preemptions, %ld hits, %ld chunks", fake_count.preemptions, fake_count.hits,
             fake_count.chunks);
}

/* No tier in the key of the noise, so nothing that changes who drafts can change an exact text. */
static void exact_while_switching(void **state) {
  (void)state;
  static const fake_chaos ways = {4, 4, 30, 0};
  static fake_req r;
  static fake_text x;
  for (int i = 0; i < n_cases; i++) {
    fake_case("exact while switching", i);
    if (i % 50 == 0) fake_models_make(6000 + (uint64_t)i);
    fake_seed((uint64_t)i * 131 + 7);
    weir_cascade_cfg g[2];
    const int32_t n_tiers = 2 + (int32_t)fake_rnd(2);
    for (int k = 0; k < 2; k++) {
      do g[k] = fake_any_cfg();
      while (g[k].n_tiers != n_tiers);
      g[k].commit_tier = n_tiers - 1;
      g[k].horizon = WEIR_FAR;
      g[k].keep[n_tiers - 1] = WEIR_KEEP_OWN;
    }
    const fake_job j = fake_any_job(&g[0], (uint64_t)i);
    fake_open(&r, &j);
    r.switching = true;
    for (bool done = false; !done;) {
      FAKE_CHECK(r.steps < 9000, "no progress");
      if (!fake_rnd(4)) r.c.cfg = &g[fake_rnd(2)];
      if (!fake_rnd(4)) r.c.lo = (int32_t)fake_rnd((uint32_t)n_tiers);
      done = fake_turn(&r, &ways);
    }
    fake_alone(&j, 2, &x);
    fake_same_text(&r, &x, "switching");
  }
}

static void tiers_come_and_go(void **state) {
  (void)state;
  static const fake_chaos ways = {4, 4, 30, 25};
  static fake_req r;
  for (int i = 0; i < n_cases; i++) {
    fake_case("tiers come and go", i);
    if (i % 50 == 0) fake_models_make(7000 + (uint64_t)i);
    fake_seed((uint64_t)i * 211 + 3);
    const weir_cascade_cfg g = fake_any_cfg();
    const fake_job j = fake_any_job(&g, (uint64_t)i);
    fake_open(&r, &j);
    r.switching = true;
    fake_finish(&r, &ways);
    for (int32_t k = j.n_prompt; k < r.v.n; k++)
      FAKE_CHECK(r.receipt[k].why != WEIR_WHY_NONE && r.receipt[k].tier < g.n_tiers,
                 "token %d has no receipt", (int)k);
  }
}

/* A large tier that is down from the start and stays down is small-only, with the tokens it would have had
 * marked. */
static void down_from_the_start(void **state) {
  (void)state;
  static fake_req r;
  static fake_text x;
  for (int i = 0; i < n_cases / 2; i++) {
    fake_case("down from the start", i);
    if (i % 50 == 0) fake_models_make(8000 + (uint64_t)i);
    fake_seed((uint64_t)i * 77 + 1);
    const weir_cascade_cfg g = fake_any_cfg();
    const fake_job j = fake_any_job(&g, (uint64_t)i);
    fake_open(&r, &j);
    r.switching = true;
    r.c.hi = 0;
    fake_finish(&r, &fake_calm);
    fake_alone(&j, 0, &x);
    fake_same_text(&r, &x, "without the large tier");
    for (int32_t k = j.n_prompt; k < x.n; k++) {
      const weir_row *row = fake_stats(0, fake_context(x.tok, k));
      FAKE_CHECK(
          r.receipt[k].wanted_up == weir_gate_defers(g.gate[0], row) && r.receipt[k].entropy == row->entropy,
          "token %d: wanted_up %d", (int)k, r.receipt[k].wanted_up);
    }
  }
}

int main(int argc, char **argv) {
  if (fake_long(argc, argv)) n_cases = 40000;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(any_schedule),
      cmocka_unit_test(exact_while_switching),
      cmocka_unit_test(tiers_come_and_go),
      cmocka_unit_test(down_from_the_start),
  };
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  printf(
      "%d cases of each; %ld rows, %ld judged, %ld kept, %ld preemptions, %ld prefix hits, %ld chunks, %ld "
      "moves\n",
      n_cases, fake_count.rows, fake_count.judged, fake_count.kept, fake_count.preemptions, fake_count.hits,
      fake_count.chunks, fake_count.moves);
  return failed;
}
