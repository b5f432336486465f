/* SPDX-License-Identifier: Apache-2.0 */
/* Floors of quality, held against the law token by token. */
#include "world_auto.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "serve/engine_in.h"

void world_shuffle_modes(world *w) {
  weir_auto *a = &w->engine->auto_;
  a->rules.margin = 1e9;
  a->rules.explore = 0;
  if (!a->up[0] || !a->up[1]) return;
  for (int q = 0; q < WEIR_N_QUALITIES; q++) {
    uint64_t h =
        (w->seed * 31 + (uint64_t)w->turns) * 0x9e3779b97f4a7c15u + (uint64_t)q * 0xbf58476d1ce4e5b9u;
    h = (h ^ (h >> 31)) * 0x94d049bb133111ebu;
    const int m = (int)(h >> 40) % WEIR_N_AUTO_MODES;
    if ((h >> 60) < 4 && (weir_quality_modes((weir_quality)q) >> m & 1)) {
      a->floor[q].mode = (weir_auto_mode)m;
      a->floor[q].trial_ns = a->floor[q].better_ns = 0;
    }
  }
}

static void check_end(const world *w, const world_job *j) {
  int32_t ends = 0;
  for (int32_t i = 0; i < j->n; i++) {
    const bool end = !j->ignore_eos && weir_tokenizer_is_end(w->tokenizer, j->tok[i]);
    if (end && i + 1 < j->n)
      fail_msg("seed %llu: it goes on after the end of the text", (unsigned long long)w->seed);
    ends += end;
  }
  if (j->end == WEIR_END_EOS) assert_int_equal(ends, 1);
  if (j->end == WEIR_END_LENGTH) assert_int_equal(j->n, j->max_new);
}

void world_check_floor(const world *w, const world_job *j) {
  int32_t all[WORLD_PROMPT + WORLD_NEW], by_mode = 0;
  weir_logit_edit edit[512];
  memcpy(all, j->prompt, (size_t)j->n_prompt * sizeof *all);
  for (int32_t i = 0; i < j->n; i++) {
    const int32_t n = j->n_prompt + i;
    const weir_token_receipt *r = &j->receipt[i];
    const weir_ask a = world_ask(w, j, all, n, edit);
    const weir_row small = fake_law_row(&w->law, 0, all, n, &a), large = fake_law_row(&w->law, 1, all, n, &a);
    const bool passes = small.entropy <= j->tau || r->wanted_up;
    const bool as_large = r->id == large.token, as_small = r->tier == 0 && r->id == small.token;
    const bool fine = j->quality == WEIR_QUALITY_EXACT  ? as_large
                      : j->quality == WEIR_QUALITY_NEAR ? as_large || (as_small && passes)
                                                        : as_large || as_small;
    if (!fine)
      fail_msg(
          "seed %llu, quality %s: token %d (tier %d, %s, entropy %g, %sjudged) is %d; small says %d, large "
          "%d",
          (unsigned long long)w->seed, weir_quality_name(j->quality), i, r->tier,
          r->why == WEIR_WHY_EASY ? "easy" : "", (double)small.entropy, r->why == WEIR_WHY_KEPT ? "" : "not ",
          r->id, small.token, large.token);
    if (r->tier == 1 || r->why == WEIR_WHY_KEPT) assert_int_equal(r->id, large.token);
    if (r->tier == 0 && r->why != WEIR_WHY_KEPT) { /* the gate let it pass, and its receipt says by what */
      assert_int_equal(r->why, WEIR_WHY_EASY);
      if (j->quality == WEIR_QUALITY_NEAR) assert_true(r->entropy == small.entropy && r->tau == j->tau);
    }
    all[n] = r->id;
  }
  for (int m = 0; m < WEIR_N_AUTO_MODES; m++) {
    if (!(weir_quality_modes(j->quality) >> m & 1)) assert_int_equal(j->counts.by_mode[m], 0);
    by_mode += j->counts.by_mode[m];
  }
  assert_int_equal(by_mode, j->n);
  check_end(w, j);
}
