/* SPDX-License-Identifier: Apache-2.0 */
/* Attention's plan: every unit's blocks are covered once and in order, slots and merges agree, no CTA is
 * loaded much beyond the mean, contradictions are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/attn_plan.h"
#include "tests/kern/kern_util.h"

enum { MAX_SEQS = 300, MAX_CTAS = 600, MAX_ITEMS = 1 << 16, MARK = 0x5a5a5a5a };

typedef struct plan {
  int32_t cta[MAX_CTAS + 2];
  weir_attn_merge merge[MAX_CTAS + 1];
  weir_attn_item item[MAX_ITEMS];
  weir_attn_list_out out;
} plan;

static plan *plan_new(void) {
  plan *p = (plan *)malloc(sizeof *p);
  assert_non_null(p);
  memset(p, 0x5a, sizeof *p);
  p->out = (weir_attn_list_out){.cta = p->cta, .item = p->item, .merge = p->merge, .max_items = MAX_ITEMS};
  return p;
}

/* Walks the units as the documentation has them and takes the plan's items off one by one. */
static void check_cover(const plan *p, const weir_attn_batch *b, const weir_attn_shape *s) {
  const weir_attn_list_out *o = &p->out;
  int32_t at = o->first_item, slot = 0, merge = 0;
  for (int32_t seq = 0; seq < b->n_seqs; seq++) {
    const int32_t n_tok = b->q_indptr[seq + 1] - b->q_indptr[seq], rows = n_tok * b->group;
    if (rows < s->min_rows || rows > s->max_rows) continue;
    for (int32_t head = 0; head < b->n_kv_heads; head++) {
      for (int32_t row = 0; row < rows; row += s->tile_rows) {
        const int32_t n_rows = rows - row < s->tile_rows ? rows - row : s->tile_rows;
        const int32_t last_token = (row + n_rows - 1) / b->group;
        const int32_t tokens = b->kv_len[seq] - (n_tok - 1 - last_token);
        const int32_t n_blocks = (tokens + s->block - 1) / s->block, first = at, first_slot = slot;
        for (int32_t block = 0; block < n_blocks; at++) {
          assert_in_range(at, first, o->first_item + o->n_items - 1);
          const weir_attn_item *it = &p->item[at];
          assert_int_equal(it->seq, seq);
          assert_int_equal(it->kv_head, head);
          assert_int_equal(it->row, row);
          assert_int_equal(it->n_rows, n_rows);
          assert_int_equal(it->n_blocks, n_blocks);
          assert_int_equal(it->block0, block);
          assert_in_range(it->block1, block + 1, n_blocks);
          const int32_t n = it->block1 - block;
          assert_true(n == n_blocks || n >= s->min_blocks);
          if (n == n_blocks)
            assert_int_equal(it->slot, -1);
          else
            assert_int_equal(it->slot, slot++);
          block = it->block1;
        }
        if (slot == first_slot) continue;
        assert_in_range(merge, 0, o->n_merges - 1);
        const weir_attn_merge *m = &p->merge[merge++];
        assert_int_equal(m->seq, seq);
        assert_int_equal(m->kv_head, head);
        assert_int_equal(m->row, row);
        assert_int_equal(m->n_rows, n_rows);
        assert_int_equal(m->slot, first_slot);
        assert_int_equal(m->n_slots, slot - first_slot);
      }
    }
  }
  assert_int_equal(at - o->first_item, o->n_items);
  assert_int_equal(slot, o->n_slots);
  assert_int_equal(merge, o->n_merges);
  assert_in_range(slot, 0, weir_attn_max_slots(s->n_ctas));
  assert_true(merge < s->n_ctas || merge == 0);
}

/* The CTAs' runs are the items, and nothing was written behind what they need. Returns max load / mean load.
 */
static double check_ctas(const plan *p, const weir_attn_shape *s) {
  const weir_attn_list_out *o = &p->out;
  int64_t total = 0, most = 0;
  assert_int_equal(p->cta[0], o->first_item);
  assert_int_equal(p->cta[s->n_ctas], o->first_item + o->n_items);
  assert_int_equal(p->cta[s->n_ctas + 1], MARK);
  for (int32_t c = 0; c < s->n_ctas; c++) {
    int64_t load = 0;
    assert_true(p->cta[c] <= p->cta[c + 1]);
    for (int32_t i = p->cta[c]; i < p->cta[c + 1]; i++)
      load += p->item[i].block1 - p->item[i].block0 + s->piece_cost;
    total += load;
    if (load > most) most = load;
  }
  assert_int_equal(most, o->most);
  if (o->first_item + o->n_items < MAX_ITEMS) assert_int_equal(p->item[o->first_item + o->n_items].seq, MARK);
  for (int32_t i = 0; i < o->first_item; i++) assert_int_equal(p->item[i].seq, MARK);
  assert_int_equal(p->merge[o->n_merges].seq, MARK);
  return total ? (double)most * s->n_ctas / (double)total : 1.0;
}

static void test_random(void **state) {
  (void)state;
  kern_rng r = {7};
  plan *p = plan_new();
  int32_t q_indptr[MAX_SEQS + 1], kv_len[MAX_SEQS], n_cut = 0, n_busy = 0;
  double worst = 0;
  for (int round = 0; round < 400; round++) {
    const int32_t groups[] = {1, 4, 7, 8, 16, 71}, heads[] = {1, 2, 8, 3};
    const weir_attn_shape s = {.min_rows = round % 3 == 2 ? 17 : 1,
                               .max_rows = round % 3 == 0 ? 16 : INT32_MAX,
                               .tile_rows = round % 3 == 2 ? 128 : 16,
                               .block = round % 3 == 2 ? 64 : 16,
                               .n_ctas = 1 + kern_below(&r, MAX_CTAS),
                               .piece_cost = kern_below(&r, 9),
                               .min_blocks = 1 + kern_below(&r, 8)};
    weir_attn_batch b = {.n_seqs = 1 + kern_below(&r, round % 5 ? 20 : MAX_SEQS),
                         .n_kv_heads = heads[kern_below(&r, 4)],
                         .group = groups[kern_below(&r, 6)],
                         .q_indptr = q_indptr,
                         .kv_len = kv_len};
    const int32_t longest = round % 4 ? 3000 : 100000;
    q_indptr[0] = kern_below(&r, 3); /* rows of no sequence */
    for (int32_t i = 0; i < b.n_seqs; i++) {
      const int32_t rows = kern_below(&r, 4) == 0 ? kern_below(&r, 40) : kern_below(&r, 3);
      q_indptr[i + 1] = q_indptr[i] + rows;
      kv_len[i] = rows ? rows + kern_below(&r, longest) : kern_below(&r, 2) * 77;
    }
    b.n_tokens = q_indptr[b.n_seqs] + kern_below(&r, 3);
    memset(p, 0x5a, offsetof(plan, out));
    p->out.first_item = kern_below(&r, 2) * 5;
    weir_err e = {0};
    kern_ok(weir_attn_plan_list(&b, &s, &p->out, &e), &e, "plan");
    assert_true(p->out.n_items <=
                weir_attn_max_units((int64_t)b.n_tokens * b.n_kv_heads * b.group, s.min_rows) + s.n_ctas);
    check_cover(p, &b, &s);
    const double ratio = check_ctas(p, &s);
    n_cut += p->out.n_merges > 0;
    /* Where there is work for all: a CTA has at most the mean, what cuts add, and one piece's cost and
     * length. Where there is not, nothing is longer than the least piece that may be left behind. */
    const double mean = p->out.most / ratio;
    const double slack = 2.0 * (s.piece_cost + s.min_blocks) + 1;
    if (!(p->out.most <= mean * 1.02 + slack))
      fail_msg("round %d: most %d, mean %g, slack %g", round, p->out.most, mean, slack);
    if (mean > 20 * slack) {
      n_busy++;
      if (ratio > worst) worst = ratio;
    }
  }
  print_message("[   INFO   ] most loaded CTA / mean, %d plans of much work: at worst %.3f\n", n_busy, worst);
  assert_true(worst <= 1.08);
  assert_in_range(n_cut, 100, 400);
  assert_in_range(n_busy, 20, 400);
  free(p);
}

/* With as many CTAs as splits times units, costless pieces and equal units, each is cut so. */
static void test_forced_splits(void **state) {
  (void)state;
  const int32_t q_indptr[] = {0, 1, 2}, kv_len[] = {333, 333};
  for (int32_t splits = 1; splits <= 7; splits++) {
    plan *p = plan_new();
    const weir_attn_batch b = {2, 2, 2, 4, q_indptr, kv_len};
    const weir_attn_shape s = {1, 16, 16, 16, 4 * splits, 0, 1};
    weir_err e = {0};
    kern_ok(weir_attn_plan_list(&b, &s, &p->out, &e), &e, "plan");
    check_cover(p, &b, &s);
    check_ctas(p, &s);
    assert_int_equal(p->out.most, (21 + splits - 1) / splits);
    if (splits == 3 || splits == 7) { /* 21 blocks */
      assert_int_equal(p->out.n_items, 4 * splits);
      assert_int_equal(p->out.n_slots, 4 * splits);
    }
    free(p);
  }
}

static void test_same_again(void **state) {
  (void)state;
  const int32_t q_indptr[] = {0, 1, 4, 4, 5}, kv_len[] = {900, 17, 0, 40000};
  plan *p = plan_new(), *again = plan_new();
  const weir_attn_batch b = {5, 4, 8, 4, q_indptr, kv_len};
  const weir_attn_shape s = {1, 16, 16, 16, 264, 6, 8};
  weir_err e = {0};
  kern_ok(weir_attn_plan_list(&b, &s, &p->out, &e), &e, "plan");
  kern_ok(weir_attn_plan_list(&b, &s, &again->out, &e), &e, "plan");
  assert_memory_equal(p->item, again->item, sizeof p->item);
  assert_memory_equal(p->cta, again->cta, sizeof p->cta);
  assert_memory_equal(p->merge, again->merge, sizeof p->merge);
  free(p);
  free(again);
}

/* Whatever a kernel finds for first and end, the pieces of a unit cover it once. */
static void test_ranges(void **state) {
  (void)state;
  kern_rng r = {3};
  for (int round = 0; round < 3000; round++) {
    const int32_t block = round % 2 ? 16 : 64, n_blocks = 1 + kern_below(&r, 50);
    const int32_t end = 1 + kern_below(&r, 2000), first = kern_below(&r, end);
    int32_t at = first / block * block;
    for (int32_t from = 0; from < n_blocks;) {
      const int32_t to = from + 1 + kern_below(&r, n_blocks - from);
      const weir_attn_item it = {.block0 = from, .block1 = to, .n_blocks = n_blocks};
      const weir_attn_range g = weir_attn_item_range(&it, first, end, block);
      assert_int_equal(g.begin % block, 0);
      assert_true(g.begin <= g.end || at >= end);
      if (g.begin < g.end) {
        assert_int_equal(g.begin, at);
        at = g.end;
      }
      from = to;
    }
    assert_int_equal(at, end);
  }
  /* Of the planned number of blocks, a piece is the planned one. */
  const weir_attn_item it = {.block0 = 3, .block1 = 9, .n_blocks = 20};
  const weir_attn_range g = weir_attn_item_range(&it, 0, 320, 16);
  assert_int_equal(g.begin, 48);
  assert_int_equal(g.end, 144);
}

static void test_refused(void **state) {
  (void)state;
  const struct {
    int32_t q_indptr[3], kv_len[2], max_items;
    const char *say;
  } cases[] = {
      {{0, 2, 1}, {9, 9}, 999, "rows of sequence 1 are 2 .. 1 of 4"},
      {{0, 2, 5}, {9, 9}, 999, "rows of sequence 1 are 2 .. 5 of 4"},
      {{-1, 2, 4}, {9, 9}, 999, "q_indptr begins with -1"},
      {{0, 2, 4}, {9, 1}, 999, "sequence 1 has 2 rows and 1 tokens"},
      {{0, 2, 4}, {-9, 9}, 999, "sequence 0 has 2 rows and -9 tokens"},
      {{0, 2, 4}, {9, 9}, 11, "4 units, room for 11 items"},
  };
  plan *p = plan_new();
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const weir_attn_batch b = {4, 2, 2, 4, cases[i].q_indptr, cases[i].kv_len};
    const weir_attn_shape s = {1, 16, 16, 16, 8, 1, 1};
    weir_err e = {0};
    p->out.max_items = cases[i].max_items;
    assert_int_equal(weir_attn_plan_list(&b, &s, &p->out, &e), WEIR_EINVAL);
    if (!strstr(e.msg, cases[i].say)) fail_msg("%s: want %s", e.msg, cases[i].say);
  }
  free(p);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_random), cmocka_unit_test(test_forced_splits), cmocka_unit_test(test_same_again),
      cmocka_unit_test(test_ranges), cmocka_unit_test(test_refused),
  };
  return cmocka_run_group_tests_name("attn_plan", tests, NULL, NULL);
}
