/* SPDX-License-Identifier: Apache-2.0 */
/* Answers out of a list, spans of thresholds and fusion: the trie and the markers against naive ones, and all
 * three in random worlds, in every mode, with small pools, roll-backs, preemption and a large tier that dies.
 * usage: test_choices [--seed SEED] */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/log.h"
#include "sched/shape.h"
#include "world.h"

enum { WORLDS = 200 };
static int64_t only_seed = -1;
static uint64_t rnd_state;

static uint32_t rnd(uint32_t n) {
  rnd_state = rnd_state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(rnd_state >> 33) % n;
}

/* ---- the trie ---- */

enum { LISTS = 400, MOST = 12, DEEP = 6, LETTERS = 4, END = 2 /* this letter ends texts, too */ };

typedef struct naive_list {
  int32_t tok[MOST][DEEP], len[MOST], n;
} naive_list;

/* Whether `id` may follow tok[0..n); *whole: a text is written there. */
static bool naive_may(const naive_list *l, const int32_t *tok, int32_t n, int32_t id, bool *whole) {
  bool follows = false, more = false;
  *whole = false;
  for (int32_t i = 0; i < l->n; i++) {
    if (l->len[i] < n || memcmp(l->tok[i], tok, (size_t)n * sizeof *tok) != 0) continue;
    *whole |= l->len[i] == n;
    more |= l->len[i] > n;
    follows |= l->len[i] > n && l->tok[i][n] == id;
  }
  return follows || (*whole && more && id == END);
}

static void expect_node(const weir_choices *c, const naive_list *l, const int32_t *tok, int32_t n) {
  const weir_choice_node at = weir_choices_at(c, tok, n);
  int32_t next[2 * WEIR_MAX_CHOICES], k = 0, may = 0, last = -1;
  const int32_t n_next = weir_choices_next(c, at, next);
  bool whole;
  assert_true(n_next <= weir_choices_most(c));
  for (int32_t id = 0; id < LETTERS; id++) {
    if (!naive_may(l, tok, n, id, &whole)) continue;
    assert_true(k < n_next);
    assert_int_equal(next[k++], id);
    last = id;
    may++;
  }
  naive_may(l, tok, n, 0, &whole);
  assert_int_equal(k, n_next);
  assert_int_equal(weir_choices_forced(c, at), may == 1 && !whole ? last : -1);
  assert_int_equal(weir_choices_complete(c, at), whole && may == 0);
}

/* All words up to the longest, allowed or not. */
static void walk(const weir_choices *c, const naive_list *l, int32_t *tok, int32_t n, bool left) {
  bool whole;
  if (!left) expect_node(c, l, tok, n);
  if (n == DEEP) return;
  for (tok[n] = 0; tok[n] < LETTERS; tok[n]++) {
    const int32_t id = tok[n];
    const bool may = naive_may(l, tok, n, id, &whole);
    const weir_choice_node x = weir_choices_at(c, tok, n + 1);
    if (!may) {                                                          /* nowhere, and nothing follows */
      assert_int_equal(weir_choices_complete(c, x), whole && id == END); /* of what is whole: a second end */
      assert_int_equal(weir_choices_forced(c, x), -1);
      continue;
    }
    bool goes_on = false;
    for (int32_t i = 0; i < l->n; i++)
      goes_on |= l->len[i] > n && !memcmp(l->tok[i], tok, ((size_t)n + 1) * sizeof *tok);
    if (goes_on) {
      walk(c, l, tok, n + 1, false);
    } else { /* the text was ended */
      assert_true(x.ended && weir_choices_complete(c, x));
      assert_int_equal(weir_choices_forced(c, x), -1);
      const int32_t again = id;
      assert_false(weir_choices_complete(c, weir_choices_step(c, x, again)));
    }
  }
}

static void test_trie(void **state) {
  (void)state;
  const int32_t end[] = {END};
  rnd_state = 1;
  for (int32_t round = 0; round < LISTS; round++) {
    weir_choices c = {0};
    weir_err e = {0};
    naive_list l = {.n = 1 + (int32_t)rnd(MOST)};
    int32_t tok[DEEP + 1];
    for (int32_t i = 0; i < l.n; i++) {
      l.len[i] = 1 + (int32_t)rnd(DEEP);
      for (int32_t k = 0; k < l.len[i]; k++) l.tok[i][k] = (int32_t)rnd(rnd(2) ? 2 : LETTERS);
      assert_int_equal(weir_choices_add(&c, l.tok[i], l.len[i], &e), WEIR_OK);
    }
    assert_int_equal(weir_choices_seal(&c, end, 1, &e), WEIR_OK);
    walk(&c, &l, tok, 0, false);
    weir_choices_fini(&c);
  }
}

static void test_trie_that_cannot_end(void **state) {
  (void)state;
  weir_choices c = {0};
  weir_err e = {0};
  const int32_t tok[] = {1, 2, 3};
  assert_int_equal(weir_choices_add(&c, tok, 0, &e), WEIR_EINVAL);
  assert_int_equal(weir_choices_add(&c, tok, 3, &e), WEIR_OK);
  assert_int_equal(weir_choices_add(&c, tok, 3, &e), WEIR_OK);
  assert_int_equal(weir_choices_seal(&c, NULL, 0, &e), WEIR_OK); /* twice the same is one */
  assert_int_equal(c.n, 1);
  assert_int_equal(weir_choices_add(&c, tok, 2, &e), WEIR_OK);
  assert_int_equal(weir_choices_seal(&c, NULL, 0, &e), WEIR_EINVAL);
  assert_non_null(strstr(e.msg, "no token that ends a text"));
  while (c.n < WEIR_MAX_CHOICES) assert_int_equal(weir_choices_add(&c, tok, 1, &e), WEIR_OK);
  assert_int_equal(weir_choices_add(&c, tok, 1, &e), WEIR_EINVAL);
  weir_choices_fini(&c);
}

/* ---- edits ---- */

static void test_merge(void **state) {
  (void)state;
  rnd_state = 3;
  for (int32_t round = 0; round < 2000; round++) {
    weir_logit_edit list[2][16], got[32];
    float scale[32], add[32];
    bool named[32] = {false}, wanted[32] = {false};
    int32_t n[2] = {0, 0}, only[32], n_only = 0;
    const bool restrict_ = rnd(2);
    for (int32_t id = 0; id < 32; id++) {
      scale[id] = 1;
      add[id] = 0;
      for (int32_t s = 0; s < 2; s++) {
        if (rnd(3) || n[s] == 16) continue;
        list[s][n[s]++] = (weir_logit_edit){id, s == 0 ? 0.5f + (float)rnd(4) : 1, (float)rnd(9) - 4};
        if (s == 0) scale[id] = list[s][n[s] - 1].scale;
        add[id] += list[s][n[s] - 1].add;
        named[id] = true;
      }
      if (rnd(3) == 0) {
        only[n_only++] = id;
        wanted[id] = true;
      }
    }
    const int32_t k = weir_edits_merge(list[0], n[0], list[1], n[1], restrict_ ? only : NULL, n_only, got);
    int32_t at = 0;
    for (int32_t id = 0; id < 32; id++) {
      if (restrict_ ? !wanted[id] : !named[id]) continue;
      assert_true(at < k);
      assert_int_equal(got[at].id, id);
      assert_true(got[at].scale == scale[id] && got[at].add == add[id]);
      at++;
    }
    assert_int_equal(at, k);
  }
}

static void test_fusion_edits(void **state) {
  (void)state;
  const weir_top top[5] = {{7, -0.5f}, {3, -1}, {9, -2.5f}, {1, -INFINITY}, {-1, 0}};
  weir_logit_edit x[WEIR_TOP_MAX];
  assert_int_equal(weir_fusion_edits(2, top, 5, x), 3);
  static const int32_t id[] = {3, 7, 9};
  static const float add[] = {3, 4, 0};
  for (int32_t i = 0; i < 3; i++) {
    assert_int_equal(x[i].id, id[i]);
    assert_true(x[i].add == add[i] && x[i].scale == 1);
  }
  assert_int_equal(weir_fusion_edits(-1, top, 1, x), 1);
  assert_true(x[0].add == 0);
}

/* ---- spans over token boundaries ---- */

/* Texts of a few letters, one of two bytes, cut anywhere between characters; after each piece, the naive
 * machine that reads letter by letter. */
static void test_spans(void **state) {
  (void)state;
  static const char *const letter[] = {"a", "b", "`", "\xc3\xa9"};
  int32_t met[2] = {0, 0};
  rnd_state = 5;
  for (int32_t round = 0; round < 3000; round++) {
    char marker[2 * WORLD_SPANS][16] = {{0}}, text[256] = "";
    weir_gate_span span[WORLD_SPANS];
    weir_gate_spans s;
    weir_err e = {0};
    const int32_t n = 1 + (int32_t)rnd(WORLD_SPANS), pieces = 1 + (int32_t)rnd(30);
    for (int32_t i = 0; i < 2 * n; i++)
      for (int32_t k = i % 2 == 0 ? 1 + (int32_t)rnd(3) : (int32_t)rnd(4); k > 0; k--)
        strcat(marker[i], letter[rnd(4)]);
    for (int32_t i = 0; i < n; i++)
      span[i] = (weir_gate_span){marker[2 * i], rnd(8) ? marker[2 * i + 1] : NULL, (float)i};
    assert_int_equal(weir_gate_spans_init(&s, span, n, pieces, &e), WEIR_OK);
    size_t end[31] = {0};
    for (int32_t i = 0; i < pieces; i++) {
      for (int32_t k = (int32_t)rnd(4); k > 0; k--) strcat(text, letter[rnd(4)]);
      end[i + 1] = strlen(text);
      weir_gate_spans_note(&s, i, text, end[i + 1]);
    }
    for (int32_t back = 0; back < 2; back++) { /* the second time half of it was written anew */
      int32_t active = -1;
      size_t from = 0, to = 0;
      for (int32_t i = 0; i <= pieces; i++) {
        for (to = i ? end[i - 1] + 1 : 1; to <= end[i]; to++)
          for (int32_t k = 0; k < n; k++) {
            const char *mark = active < 0 ? span[k].start : span[active].end ? span[active].end : "";
            const size_t len = strlen(mark);
            if ((active >= 0 && k != active) || len == 0 || to - from < len) continue;
            if (memcmp(text + to - len, mark, len) != 0) continue;
            active = active < 0 ? k : -1;
            from = to;
            break;
          }
        const float got = weir_gate_spans_threshold(&s, i, -1);
        if (got != (float)active)
          fail_msg("round %d: \"%.*s\": span %g, want %d", round, (int)end[i], text, (double)got, active);
        met[active >= 0]++;
      }
      text[end[pieces / 2]] = '\0';
      for (int32_t i = pieces / 2; i < pieces; i++) {
        for (int32_t k = (int32_t)rnd(4); k > 0; k--) strcat(text, letter[rnd(4)]);
        end[i + 1] = strlen(text);
        weir_gate_spans_note(&s, i, text, end[i + 1]);
      }
    }
    weir_gate_spans_fini(&s);
  }
  assert_true(met[0] > 10000 && met[1] > 10000);
}

static void test_spans_that_are_refused(void **state) {
  (void)state;
  weir_gate_spans s;
  weir_err e = {0};
  char many[WEIR_MAX_SPAN_BYTES + 2];
  memset(many, 'x', sizeof many - 1);
  many[sizeof many - 1] = '\0';
  const weir_gate_span bad[] = {{NULL, "b", 1}, {"", "b", 1}, {"a", "b", NAN}, {many, "", 1}, {"a", many, 1}};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    const weir_gate_span two[2] = {{"ok", "", 1}, bad[i]};
    assert_int_equal(weir_gate_spans_init(&s, two, 2, 10, &e), WEIR_EINVAL);
    assert_non_null(strstr(e.msg, "span 2"));
  }
  assert_int_equal(weir_gate_spans_init(&s, bad, WEIR_MAX_GATE_SPANS + 1, 10, &e), WEIR_EINVAL);
  assert_int_equal(weir_gate_spans_init(&s, NULL, 0, 10, &e), WEIR_OK);
  assert_true(weir_gate_spans_threshold(&s, 3, 0.5f) == 0.5f);
}

/* ---- at the engine's door ---- */

static weir_status submit(world *w, const weir_job *job, weir_err *e) {
  *e = (weir_err){0};
  return weir_engine_submit(w->engine, job, NULL, e);
}

static void test_refusals(void **state) {
  (void)state;
  static world w;
  const world_opts o = world_roomy();
  weir_err e;
  weir_cascade_cfg cascade;
  static const char *const two[] = {" on", " off"}, *const hollow[] = {"a", ""}, *const stop[] = {"x"};
  static char many[WEIR_MAX_CHOICE_BYTES + 2];
  const char *const large[] = {many};
  static const char *all[WEIR_MAX_CHOICES + 1];
  const int32_t prompt[] = {5};
  const weir_gate_span span = {"a", "b", 1};
  memset(many, 'x', sizeof many - 1);
  for (int32_t i = 0; i <= WEIR_MAX_CHOICES; i++) all[i] = "a";
  world_open(&w, &o);
  assert_int_equal(weir_cascade_cfg_make(&(weir_cascade_opts){.mode = WEIR_MODE_DEFER}, &cascade, &e),
                   WEIR_OK);
  const weir_job good = {.prompt = prompt,
                         .n_prompt = 1,
                         .max_new = 8,
                         .draw = {.top_p = 1, .probe = -1},
                         .cascade = &cascade,
                         .choices = two,
                         .n_choices = 2};
  weir_cascade_cfg rated = cascade, one;
  rated.budget = (weir_budget){.rated = true, .rate = 0.1f};
  weir_cascade_cfg_single(&one);
  const struct {
    const char *says;
    weir_job job;
  } bad[] = {
#define BAD(text, ...)                                                                      \
  {                                                                                         \
    text, { .prompt = prompt, .n_prompt = 1, .max_new = 8, .draw = good.draw, __VA_ARGS__ } \
  }
      BAD("stop strings", .cascade = &cascade, .choices = two, .n_choices = 2, .stop = stop, .n_stop = 1),
      BAD("min_tokens", .cascade = &cascade, .choices = two, .n_choices = 2, .min_new = 1),
      BAD("ignore_eos", .cascade = &cascade, .choices = two, .n_choices = 2, .ignore_eos = true),
      BAD("number 2 is empty", .cascade = &cascade, .choices = hollow, .n_choices = 2),
      BAD("4097 bytes", .cascade = &cascade, .choices = large, .n_choices = 1),
      BAD("want at most 256", .cascade = &cascade, .choices = all, .n_choices = WEIR_MAX_CHOICES + 1),
      BAD("a budget", .cascade = &rated, .span = &span, .n_spans = 1),
      BAD("no gate", .cascade = &one, .span = &span, .n_spans = 1),
      BAD("at most 16", .cascade = &cascade, .span = &span, .n_spans = 17),
#undef BAD
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    assert_int_equal(submit(&w, &bad[i].job, &e), WEIR_EINVAL);
    if (!strstr(e.msg, bad[i].says)) fail_msg("\"%s\" does not say \"%s\"", e.msg, bad[i].says);
  }
  weir_job job = good;
  job.max_new = 1; /* " off" is of more tokens */
  assert_int_equal(submit(&w, &job, &e), WEIR_EINVAL);
  assert_non_null(strstr(e.msg, "tokens, and 1 may be written"));
  job = good;
  assert_int_equal(submit(&w, &job, &e), WEIR_OK);
  job.n_choices = WEIR_MAX_CHOICES;
  job.choices = all;
  assert_int_equal(submit(&w, &job, &e), WEIR_OK);
  bool busy = true;
  while (busy) assert_int_equal(weir_engine_step(w.engine, &busy, &e), WEIR_OK);
  world_close(&w);
}

/* ---- worlds ---- */

static const char *const texts[] = {" the",
                                    " the cat",
                                    " the cat sat",
                                    " the dog",
                                    "on",
                                    "one",
                                    "only",
                                    " and so on",
                                    " and so it is",
                                    "\xc3\xa9t\xc3\xa9",
                                    "\xc3\xa8",
                                    "1",
                                    "12",
                                    "123",
                                    "124",
                                    "a",
                                    " a",
                                    " ab",
                                    " once upon a time there lived a king who had a son and the son was",
                                    " once upon a time there lived a queen who had a cat and the cat was",
                                    " once upon a time there lived a queen who had a cat and the dog was"};

static void random_job(world_job *j) {
  static const float temps[] = {0, 0.7f, 1, 1.5f};
  static const weir_mode modes[] = {WEIR_MODE_SMALL, WEIR_MODE_LARGE,    WEIR_MODE_DEFER,
                                    WEIR_MODE_DEFER, WEIR_MODE_EXACT,    WEIR_MODE_ROLLBACK,
                                    WEIR_MODE_EXACT, WEIR_MODE_SPECULATE};
  *j = (world_job){.n_prompt = 1 + (int32_t)rnd(rnd(4) ? 40 : 200),
                   .max_new = 80 + (int32_t)rnd(WORLD_NEW - 80)};
  for (int32_t i = 0; i < j->n_prompt; i++) j->prompt[i] = i < 20 ? (i * 13) % 280 : (int32_t)rnd(280);
  j->mode = modes[rnd(8)];
  j->tau = j->mode == WEIR_MODE_EXACT && rnd(2) ? INFINITY : 0.5f + (float)rnd(400) / 100;
  j->draw = (weir_ask){.temperature = temps[rnd(4)], .top_p = 1, .seed = rnd(1000), .probe = -1};
  j->pinned = rnd(8) == 0 && j->mode != WEIR_MODE_LARGE;
  j->salt = rnd(2);
  j->arrives_ns = rnd(3) ? (int64_t)rnd(20000000) : 0;
  if (rnd(8) == 0) j->cancel_ns = 1 + (int64_t)rnd(20000000);
  if (rnd(3) == 0) j->n_top = 1 + (int32_t)rnd(WEIR_TOP_MAX);
  if (rnd(3) == 0) {
    j->penalties =
        (weir_penalties){.presence = (float)rnd(9) / 2 - 2, .n_bias = (int32_t)rnd(WORLD_BIAS + 1)};
    for (int32_t i = 0; i < j->penalties.n_bias; i++)
      j->bias[i] = (weir_bias){(int32_t)rnd(90) + 90 * (2 - i), (float)rnd(21) - 10};
  }
  if (rnd(3)) {
    j->n_choices = 1 + (int32_t)rnd(WORLD_CHOICES);
    for (int32_t i = 0; i < j->n_choices; i++) strcpy(j->choice[i], texts[rnd(sizeof texts / sizeof *texts)]);
  }
  const bool gated =
      j->mode == WEIR_MODE_DEFER || j->mode == WEIR_MODE_ROLLBACK || j->mode == WEIR_MODE_EXACT;
  if (gated && rnd(2)) {
    static const char *const marks[] = {"e", "t", " ", "a", "i", "o", "\xc3", "he", "in"};
    j->n_spans = 1 + (int32_t)rnd(WORLD_SPANS);
    for (int32_t i = 0; i < j->n_spans; i++) {
      strcpy(j->span[i].start, marks[rnd(9)]);
      strcpy(j->span[i].end, rnd(3) ? marks[rnd(9)] : "");
      j->span[i].tau = rnd(4) ? (float)rnd(500) / 100 : rnd(2) ? INFINITY : -1;
    }
  }
  if ((j->mode == WEIR_MODE_DEFER || j->mode == WEIR_MODE_ROLLBACK) && rnd(2))
    j->fusion = (float)rnd(9) / 2 - 2;
}

/* One of the texts; or, ended early, the beginning of one. */
static bool is_choice(const world *w, const world_job *j, bool whole) {
  for (int32_t i = 0; i < j->n_choices; i++) {
    int32_t tok[96], n = j->n;
    const int32_t len = world_choice(w, j, i, tok);
    if (whole && n == len + 1 && weir_tokenizer_is_end(w->tokenizer, j->tok[n - 1])) n--;
    if ((whole ? n == len : n <= len) && !memcmp(tok, j->tok, (size_t)n * sizeof *tok)) return true;
    if (!whole && n == len + 1 && !memcmp(tok, j->tok, (size_t)len * sizeof *tok)) return true;
  }
  return false;
}

typedef struct tally {
  int64_t choices, forced, refused, preempted, spanned, fused, ended, replaced;
} tally;

static void alone(const world_job *j, world_job *out) {
  static world w;
  const world_opts roomy = world_roomy();
  world_open(&w, &roomy);
  *out = *j;
  out->cancel_ns = out->arrives_ns = 0;
  out->n = out->done = 0;
  out->text = (world_text){.len = 0};
  out->submitted = false;
  world_run(&w, out, 1);
  world_close(&w);
}

static void check_job(const world *w, const world_job *j, int32_t at, tally *sum) {
  static weir_token_receipt receipt[WORLD_NEW];
  static world_job by_itself;
  int32_t tok[WORLD_NEW], n, all[WORLD_PROMPT + WORLD_NEW];
  const bool whole = j->end != WEIR_END_CANCEL,
             judged = !j->pinned && (j->mode == WEIR_MODE_ROLLBACK || j->mode == WEIR_MODE_SPECULATE);
  if (judged) {
    alone(j, &by_itself);
    n = by_itself.n;
    memcpy(tok, by_itself.tok, sizeof tok);
  } else {
    n = world_reference(w, j, tok, receipt);
  }
  if (whole ? j->n != n : j->n > n)
    fail_msg("seed %llu, job %d (%s): %d tokens, want %d", (unsigned long long)w->seed, at,
             weir_mode_name(j->mode), j->n, n);
  memcpy(all, j->prompt, (size_t)j->n_prompt * sizeof *all);
  memcpy(all + j->n_prompt, j->tok, (size_t)j->n * sizeof *all);
  for (int32_t k = 0; k < j->n; k++) {
    const weir_token_receipt *r = &j->receipt[k];
    if (j->tok[k] != tok[k])
      fail_msg("seed %llu, job %d (%s): token %d is %d, want %d", (unsigned long long)w->seed, at,
               weir_mode_name(j->mode), k, j->tok[k], tok[k]);
    if (!judged) assert_int_equal(r->why == WEIR_WHY_FORCED, receipt[k].why == WEIR_WHY_FORCED);
    if (r->why == WEIR_WHY_FORCED) {
      assert_true(isnan(r->entropy) && isnan(r->tau) && r->logprob == 0);
      if (j->n_top > 0) assert_true(j->top[k][0].id == r->id && j->top[k][0].logprob == 0);
      continue;
    }
    if (!isnan(r->tau) && j->n_spans > 0) {
      const float want = world_tau(w, j, all, j->n_prompt + k);
      assert_true(r->tau == want);
      sum->spanned += want != j->tau;
    }
    if (j->mode == WEIR_MODE_ROLLBACK && !j->pinned &&
        (r->why == WEIR_WHY_REPLACED || r->why == WEIR_WHY_DEFERRED)) { /* fused is the deferred one alone */
      weir_logit_edit edit[512];
      weir_ask a = world_ask(w, j, all, j->n_prompt + k, edit);
      if (r->why == WEIR_WHY_DEFERRED && j->fusion != 0) world_fuse(w, j, all, j->n_prompt + k, &a, edit);
      if (r->why == WEIR_WHY_REPLACED) { /* some token that never stands */
        a.probe = 0;
        a.keep = WEIR_KEEP_NLL;
        a.keep_a = -1;
      }
      assert_int_equal(fake_law_row(&w->law, 1, all, j->n_prompt + k, &a).token, r->id);
      sum->replaced += r->why == WEIR_WHY_REPLACED && j->fusion != 0;
    }
    if (j->mode == WEIR_MODE_DEFER && !j->pinned) {
      assert_int_equal(r->tier, r->entropy > r->tau);
      assert_true(r->entropy == receipt[k].entropy && r->logprob == receipt[k].logprob);
      sum->fused += j->fusion != 0 && r->tier == 1;
    }
  }
  if (j->n_choices == 0) return;
  if (!is_choice(w, j, whole))
    fail_msg("seed %llu, job %d (%s): none of its choices", (unsigned long long)w->seed, at,
             weir_mode_name(j->mode));
  if (whole)
    assert_int_equal(j->end, j->n > 0 && weir_tokenizer_is_end(w->tokenizer, j->tok[j->n - 1])
                                 ? WEIR_END_EOS
                                 : WEIR_END_STOP);
  if (j->pinned || j->mode == WEIR_MODE_SMALL) assert_int_equal(j->counts.fed[1], 0);
  if (j->mode == WEIR_MODE_LARGE && !j->pinned) assert_int_equal(j->counts.fed[0], 0);
  sum->choices++;
  sum->forced += j->counts.forced;
  sum->refused += j->counts.refused;
  sum->ended += j->end == WEIR_END_EOS;
}

static void run_world(uint64_t seed, bool dies, tally *sum) {
  static world w;
  static world_job job[12];
  rnd_state = seed * 7919 + 31;
  world_opts o = world_roomy();
  o.max_active = 3 + (int32_t)rnd(8);
  o.max_seqs = o.max_active;
  o.max_tokens = 1 + (int32_t)rnd(rnd(2) ? 12 : 200);
  for (int32_t t = 0; t < 2; t++) o.n_pages[t] = 20 + (int32_t)rnd(rnd(3) ? 4 : 100);
  o.large_batch = (int32_t)rnd(6);
  o.prefix_pages = rnd(3) ? (int32_t)rnd(60) : 0;
  o.async = rnd(2) || dies;
  o.overlap = rnd(2);
  o.ahead = (weir_ahead)rnd(3);
  const int32_t n = 1 + (int32_t)rnd(12);
  if (dies) {
    o.dead_wait_ns = 1000000000;
    o.n_deaths[1] = 1 + (int32_t)rnd(3);
    for (int32_t i = 0; i < o.n_deaths[1]; i++)
      o.death[1][i] = (virtual_death){
          .kind = DEATH_IN_STEP, .at = 2 + 9 * i + (int32_t)rnd(8), .down_ns = 1 + rnd(5000000)};
  }
  world_open(&w, &o);
  w.seed = seed;
  for (int32_t i = 0; i < n; i++) random_job(&job[i]);
  world_run(&w, job, n);
  const weir_engine_stats s = weir_engine_get_stats(w.engine);
  int64_t forced = 0;
  for (int32_t i = 0; i < n; i++) {
    forced += job[i].counts.forced;
    if (!dies)
      check_job(&w, &job[i], i, sum);
    else if (job[i].n_choices > 0 && job[i].end != WEIR_END_ERROR)
      assert_true(is_choice(&w, &job[i], job[i].end != WEIR_END_CANCEL));
  }
  assert_int_equal(s.tokens_forced, forced);
  for (int32_t t = 0; t < 2; t++) sum->preempted += s.tier[t].preempted;
  world_close(&w);
}

static void test_worlds(void **state) {
  (void)state;
  tally sum = {0};
  for (int32_t seed = 0; seed < WORLDS; seed++)
    if (only_seed < 0 || seed == only_seed) run_world((uint64_t)seed, false, &sum);
  print_message(
      "%lld answers of a list: %lld tokens forced, %lld refused, %lld ended by a token; preempted %lld, "
      "in spans %lld, fused %lld\n",
      (long long)sum.choices, (long long)sum.forced, (long long)sum.refused, (long long)sum.ended,
      (long long)sum.preempted, (long long)sum.spanned, (long long)sum.fused);
  if (only_seed >= 0) return;
  assert_true(sum.choices > 600 && sum.forced > 800 && sum.refused > 50 && sum.ended > 20);
  assert_true(sum.preempted > 10 && sum.spanned > 500 && sum.fused > 500 && sum.replaced > 20);
}

static void test_worlds_where_the_large_tier_dies(void **state) {
  (void)state;
  tally sum = {0};
  for (int32_t seed = 0; seed < WORLDS / 3; seed++)
    if (only_seed < 0 || seed == only_seed) run_world((uint64_t)seed, true, &sum);
}

/* A list of one costs no step; what is forced behind a decision costs none either, and is fed at once. */
static void test_steps(void **state) {
  (void)state;
  static world w;
  static world_job j[3];
  const world_opts o = world_roomy();
  int32_t tok[96];
  world_open(&w, &o);
  for (int32_t i = 0; i < 3; i++)
    j[i] = (world_job){.prompt = {1, 2, 3}, .n_prompt = 3, .max_new = 40, .draw = {.top_p = 1, .probe = -1}};
  for (int32_t i = 0; i < 3; i++) j[i].mode = i == 2 ? WEIR_MODE_LARGE : WEIR_MODE_SMALL;
  strcpy(j[0].choice[0], " a long and only choice");
  j[0].n_choices = 1;
  for (int32_t i = 1; i < 3; i++) {
    strcpy(j[i].choice[0], " yes, of course");
    strcpy(j[i].choice[1], " yes, or maybe no");
    j[i].n_choices = 2;
  }
  world_run(&w, j, 3);
  assert_int_equal(j[0].n, world_choice(&w, &j[0], 0, tok));
  assert_int_equal(j[0].counts.forced, j[0].n);
  assert_int_equal(j[0].counts.steps[0] + j[0].counts.steps[1], 0);
  for (int32_t i = 1; i < 3; i++) {
    assert_int_equal(j[i].counts.forced, j[i].n - 1); /* one question: what comes behind " yes, o" */
    assert_int_equal(j[i].counts.steps[i - 1], 1);
    assert_int_equal(j[i].receipt[0].tier, i - 1);
  }
  world_close(&w);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_trie),     cmocka_unit_test(test_trie_that_cannot_end),
      cmocka_unit_test(test_merge),    cmocka_unit_test(test_fusion_edits),
      cmocka_unit_test(test_spans),    cmocka_unit_test(test_spans_that_are_refused),
      cmocka_unit_test(test_refusals), cmocka_unit_test(test_steps),
      cmocka_unit_test(test_worlds),   cmocka_unit_test(test_worlds_where_the_large_tier_dies),
  };
  if (argc == 3 && !strcmp(argv[1], "--seed")) only_seed = strtol(argv[2], NULL, 10);
  weir_log_set_level(WEIR_LOG_ERROR - 1); /* planned deaths are not news */
  return cmocka_run_group_tests(tests, NULL, NULL);
}
