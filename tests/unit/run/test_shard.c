/* SPDX-License-Identifier: Apache-2.0 */
/* Cutting published models over ranks: shares are disjoint, cover everything, lie where blocks begin, and are
 * as even as whole units allow. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "comm/comm.h"
#include "kernels/sample_math.h"
#include "run/shard.h"

typedef struct numbers {
  const char *name;
  int32_t n_heads, n_kv_heads, head_dim, n_ff, n_experts,
      n_vocab; /* n_ff of an expert where there are some */
} numbers;

/* From the models' config.json files. */
static const numbers models[] = {
    {"Qwen2.5-0.5B", 14, 2, 64, 4864, 0, 151936},
    {"Qwen2.5-1.5B", 12, 2, 128, 8960, 0, 151936},
    {"Qwen2.5-3B", 16, 2, 128, 11008, 0, 151936},
    {"Qwen2.5-7B", 28, 4, 128, 18944, 0, 152064},
    {"Qwen2.5-14B", 40, 8, 128, 13824, 0, 152064},
    {"Qwen2.5-32B", 40, 8, 128, 27648, 0, 152064},
    {"Qwen2.5-72B", 64, 8, 128, 29568, 0, 152064},
    {"Qwen3-0.6B", 16, 8, 128, 3072, 0, 151936},
    {"Qwen3-8B", 32, 8, 128, 12288, 0, 151936},
    {"Qwen3-14B", 40, 8, 128, 17408, 0, 151936},
    {"Qwen3-32B", 64, 8, 128, 25600, 0, 151936},
    {"Qwen3-30B-A3B", 32, 4, 128, 768, 128, 151936},
    {"Qwen3-235B-A22B", 64, 4, 128, 1536, 128, 151936},
    {"Llama-3-8B", 32, 8, 128, 14336, 0, 128256},
    {"Llama-3-70B", 64, 8, 128, 28672, 0, 128256},
    {"Llama-2-7B", 32, 32, 128, 11008, 0, 32000},
    {"Gemma-2-2B", 8, 4, 256, 9216, 0, 256000},
    {"Gemma-2-9B", 16, 8, 256, 14336, 0, 256000},
    {"Gemma-2-27B", 32, 16, 128, 36864, 0, 256000},
    {"Gemma-3-1B", 4, 1, 256, 6912, 0, 262144},
    {"Gemma-3-12B", 16, 8, 256, 15360, 0, 262208},
    {"Gemma-3-27B", 32, 16, 128, 21504, 0, 262208},
    {"Phi-3-mini", 32, 32, 96, 8192, 0, 32064},
    {"Phi-3-medium", 40, 10, 128, 17920, 0, 32064},
    {"Phi-4", 40, 10, 128, 17920, 0, 100352},
    {"Mixtral-8x7B", 32, 8, 128, 14336, 8, 32000},
    {"Mistral-7B", 32, 8, 128, 14336, 0, 32768},
    {"SmolLM2-135M", 9, 3, 64, 1536, 0, 49152},
    {"SmolLM2-360M", 15, 5, 64, 2560, 0, 49152},
    {"SmolLM2-1.7B", 32, 32, 64, 8192, 0, 49152},
    {"tiny, 288 ids", 4, 2, 16, 96, 0, 288},
    {"stories260k", 8, 4, 8, 172, 0, 512},
};
enum { N_MODELS = sizeof models / sizeof *models };
static const int32_t rank_counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 16};
enum { N_COUNTS = sizeof rank_counts / sizeof *rank_counts };

static weir_hparams hparams_of(const numbers *m) {
  weir_hparams h = {.n_heads = m->n_heads,
                    .n_kv_heads = m->n_kv_heads,
                    .head_dim = m->head_dim,
                    .n_ff = m->n_ff,
                    .n_vocab = m->n_vocab,
                    .n_experts = m->n_experts,
                    .expert_ff = m->n_experts > 0 ? m->n_ff : 0};
  snprintf(h.name, sizeof h.name, "%s", m->name);
  return h;
}

static int32_t ceil_div(int32_t a, int32_t b) { return (a + b - 1) / b; }

#define EXPECT(got, op, want)                                                                              \
  do {                                                                                                     \
    if (!((got)op(want)))                                                                                  \
      fail_msg("%s, blocks %d %d, rank %d of %d: %s is %d, want %s %d", w->name, w->b.attn_out, w->b.down, \
               s->rank, s->n_ranks, #got, (int)(got), #op, (int)(want));                                   \
  } while (0)

typedef struct where {
  const char *name;
  const numbers *m;
  weir_shard_blocks b;
} where;

/* One rank by itself. */
static void check_rank(const where *w, const weir_hparams *h, const weir_shard *s) {
  const int32_t group = h->n_heads / h->n_kv_heads, n_q = h->n_heads * h->head_dim;
  EXPECT(s->heads.n, >=, 1);
  EXPECT(s->kv_heads.n, >=, 1);
  /* The device maps head i to KV head i / (n_heads / n_kv_heads): so it must be in the part as in the whole.
   */
  EXPECT(s->heads.n % s->kv_heads.n, ==, 0);
  for (int32_t i = 0; i < s->heads.n; i++)
    EXPECT((s->heads.first + i) / group, ==, s->kv_heads.first + i / (s->heads.n / s->kv_heads.n));
  EXPECT(s->heads.first + s->heads.n, <=, h->n_heads);
  /* Balance: no rank has more heads than it must. */
  if (s->n_ranks <= h->n_kv_heads)
    EXPECT(s->heads.n, <=, ceil_div(h->n_kv_heads, s->n_ranks) * group);
  else
    EXPECT(s->heads.n, <=, ceil_div(group, s->n_ranks / h->n_kv_heads));
  /* Whole blocks around the heads, and not a block more. */
  EXPECT(s->att.first % w->b.attn_out, ==, 0);
  EXPECT(s->att.n % w->b.attn_out, ==, 0);
  EXPECT(s->att.first, <=, s->heads.first * h->head_dim);
  EXPECT(s->att.first + w->b.attn_out, >, s->heads.first * h->head_dim);
  EXPECT(s->att.first + s->att.n, >=, (s->heads.first + s->heads.n) * h->head_dim);
  EXPECT(s->att.first + s->att.n, <, (s->heads.first + s->heads.n) * h->head_dim + w->b.attn_out);
  EXPECT(s->att.first + s->att.n, <=, n_q);
  /* The MLP. */
  const int32_t unit = w->b.down < 32 && w->m->n_ff % 32 == 0 ? 32 : w->b.down;
  EXPECT(s->ff.first % unit, ==, 0);
  EXPECT(s->ff.n % unit, ==, 0);
  if (w->m->n_ff % 32 == 0) EXPECT(s->ff.n, <=, ceil_div(w->m->n_ff / unit, s->n_ranks) * unit);
  /* Chunks of the vocabulary. */
  EXPECT(s->vocab.n, <=, s->max_vocab);
  EXPECT(s->max_vocab, <=, ceil_div(ceil_div(h->n_vocab, WEIR_SAMPLE_CHUNK), s->n_ranks) * WEIR_SAMPLE_CHUNK);
  if (s->vocab.n > 0) EXPECT(s->vocab.first % WEIR_SAMPLE_CHUNK, ==, 0);
  const weir_share v = weir_shard_vocab(h->n_vocab, s->rank, s->n_ranks);
  EXPECT(v.first, ==, s->vocab.first);
  EXPECT(v.n, ==, s->vocab.n);
  /* The numbers of the part. */
  weir_hparams part;
  weir_shard_hparams(h, s, &part);
  EXPECT(part.n_heads, ==, s->heads.n);
  EXPECT(part.n_kv_heads, ==, s->kv_heads.n);
  EXPECT(h->n_experts > 0 ? part.expert_ff : part.n_ff, ==, s->ff.n);
  EXPECT(part.n_vocab, ==, h->n_vocab);
}

static void check_model(const numbers *m, weir_shard_blocks b, int32_t n_ranks) {
  const weir_hparams h = hparams_of(m);
  const where w_ = {m->name, m, b}, *w = &w_;
  weir_shard all[WEIR_MAX_RANKS];
  int32_t max_vocab = 0;
  weir_err e = {0};
  for (int32_t r = 0; r < n_ranks; r++) {
    const weir_status st = weir_shard_cut(&h, b, r, n_ranks, &all[r], &e);
    if (n_ranks > m->n_heads) {
      char most[64];
      snprintf(most, sizeof most, "at most %d ranks", m->n_heads);
      assert_int_equal(st, WEIR_EUNSUP);
      if (!strstr(e.msg, most) || !strstr(e.msg, m->name)) fail_msg("%s: \"%s\"", m->name, e.msg);
      return;
    }
    if (st != WEIR_OK) fail_msg("%s over %d ranks: %s", m->name, n_ranks, e.msg);
    check_rank(w, &h, &all[r]);
  }
  for (int32_t r = 0; r < n_ranks; r++) {
    const weir_shard *s = &all[r];
    /* Each begins where the one before ended; KV heads may be the same again. */
    EXPECT(s->heads.first, ==, r ? s[-1].heads.first + s[-1].heads.n : 0);
    EXPECT(s->ff.first, ==, r ? s[-1].ff.first + s[-1].ff.n : 0);
    EXPECT(s->vocab.first, ==, r ? s[-1].vocab.first + s[-1].vocab.n : 0);
    if (s->vocab.n > max_vocab) max_vocab = s->vocab.n;
    if (n_ranks <= h.n_kv_heads)
      EXPECT(s->kv_heads.first, ==, r ? s[-1].kv_heads.first + s[-1].kv_heads.n : 0);
  }
  const weir_shard *s = &all[n_ranks - 1];
  EXPECT(s->heads.first + s->heads.n, ==, h.n_heads);
  EXPECT(s->kv_heads.first + s->kv_heads.n, ==, h.n_kv_heads);
  EXPECT(s->att.first + s->att.n, ==, h.n_heads * h.head_dim);
  EXPECT(s->ff.first + s->ff.n, ==, m->n_ff);
  EXPECT(s->vocab.first + s->vocab.n, ==, h.n_vocab);
  EXPECT(s->max_vocab, ==, max_vocab);
}

static void published_models(void **state) {
  (void)state;
  static const int32_t blocks[] = {1, 32, 256};
  int32_t checked = 0;
  for (int32_t i = 0; i < N_MODELS; i++)
    for (size_t a = 0; a < 3; a++)
      for (size_t d = 0; d < 3; d++) {
        /* A width that is no whole number of blocks is of another type in every file. */
        if (models[i].n_heads * models[i].head_dim % blocks[a] != 0 || models[i].n_ff % blocks[d] != 0)
          continue;
        for (int32_t k = 0; k < N_COUNTS; k++, checked++)
          check_model(&models[i], (weir_shard_blocks){blocks[a], blocks[d]}, rank_counts[k]);
      }
  assert_true(checked > 1500);
}

/* What the rules come to, by hand. */
static void some_by_hand(void **state) {
  (void)state;
  static const struct {
    int32_t model, a, d, rank, n_ranks;
    weir_share heads, kv, att, ff, vocab;
  } row[] = {
      /* 9 heads over 3 KV heads: two groups and one */
      {27, 32, 32, 0, 2, {0, 6}, {0, 2}, {0, 384}, {0, 768}, {0, 24576}},
      {27, 32, 32, 1, 2, {6, 3}, {2, 1}, {384, 192}, {768, 768}, {24576, 24576}},
      {27, 32, 32, 3, 4, {8, 1}, {2, 1}, {512, 64}, {1152, 384}, {36864, 12288}},
      /* 14 over 2, three ranks: the second KV head is cut, 19 blocks of 256 */
      {0, 32, 256, 0, 3, {0, 7}, {0, 1}, {0, 448}, {0, 1536}, {0, 53248}},
      {0, 32, 256, 1, 3, {7, 4}, {1, 1}, {448, 256}, {1536, 1536}, {53248, 53248}},
      {0, 32, 256, 2, 3, {11, 3}, {1, 1}, {704, 192}, {3072, 1792}, {106496, 45440}},
      /* 7 heads of 128 end inside a block of 256 */
      {3, 256, 256, 1, 4, {7, 7}, {1, 1}, {768, 1024}, {4608, 4864}, {40960, 36864}},
      /* three blocks of 256 for four ranks */
      {11, 256, 256, 0, 4, {0, 8}, {0, 1}, {0, 1024}, {0, 0}, {0, 40960}},
      {11, 256, 256, 3, 4, {24, 8}, {3, 1}, {3072, 1024}, {512, 256}, {118784, 33152}},
      /* fewer chunks than ranks */
      {30, 1, 1, 1, 2, {2, 2}, {1, 1}, {32, 32}, {32, 64}, {288, 0}},
  };
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    const numbers *m = &models[row[i].model];
    const weir_hparams h = hparams_of(m);
    weir_shard s;
    weir_err e = {0};
    assert_int_equal(
        weir_shard_cut(&h, (weir_shard_blocks){row[i].a, row[i].d}, row[i].rank, row[i].n_ranks, &s, &e),
        WEIR_OK);
    const weir_share got[] = {s.heads, s.kv_heads, s.att, s.ff, s.vocab};
    const weir_share want[] = {row[i].heads, row[i].kv, row[i].att, row[i].ff, row[i].vocab};
    static const char *const what[] = {"heads", "KV heads", "columns", "MLP", "vocabulary"};
    for (size_t k = 0; k < 5; k++)
      if (memcmp(&got[k], &want[k], sizeof *got) != 0)
        fail_msg("row %zu, %s: %s are %d from %d on, want %d from %d on", i, m->name, what[k], got[k].n,
                 got[k].first, want[k].n, want[k].first);
  }
}

static void refusals(void **state) {
  (void)state;
  static const struct {
    numbers m;
    weir_shard_blocks b;
    int32_t rank, n_ranks;
    weir_status status;
    const char *fragment;
  } row[] = {
      {{"a", 4, 2, 16, 96, 0, 288}, {1, 1}, 0, 0, WEIR_EINVAL, "rank 0 of 0"},
      {{"a", 4, 2, 16, 96, 0, 288}, {1, 1}, 2, 2, WEIR_EINVAL, "rank 2 of 2"},
      {{"a", 4, 2, 16, 96, 0, 288}, {1, 1}, -1, 2, WEIR_EINVAL, "rank -1 of 2"},
      {{"a", 4, 3, 16, 96, 0, 288}, {1, 1}, 0, 2, WEIR_EINVAL, "4 heads over 3 KV heads"},
      {{"a", 4, 0, 16, 96, 0, 288}, {1, 1}, 0, 2, WEIR_EINVAL, "4 heads over 0 KV heads"},
      {{"a", 4, 2, 16, 96, 0, 288}, {0, 1}, 0, 2, WEIR_EINVAL, "blocks of 0 and 1"},
      {{"a", 4, 2, 16, 96, 0, 288}, {1, 256}, 0, 2, WEIR_EFORMAT, "an MLP of 96"},
      {{"a", 4, 2, 16, 96, 0, 288},
       {1, 1},
       0,
       5,
       WEIR_EUNSUP,
       "a cannot be cut over 5 ranks: each rank wants a head of its own, at most 4 ranks"},
      {{"a", 128, 8, 16, 96, 0, 288}, {1, 1}, 0, 65, WEIR_EUNSUP, "a group has no more, at most 64 ranks"},
  };
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    const weir_hparams h = hparams_of(&row[i].m);
    weir_shard s;
    weir_err e = {0};
    const weir_status st = weir_shard_cut(&h, row[i].b, row[i].rank, row[i].n_ranks, &s, &e);
    if (st != row[i].status || !strstr(e.msg, row[i].fragment))
      fail_msg("row %zu: got %d \"%s\", want %d with \"%s\"", i, st, e.msg, row[i].status, row[i].fragment);
  }
}

/* The blocks' widths come from the file: the widest of all layers. */
static void widest_of_a_file(void **state) {
  (void)state;
  static const struct {
    const char *name;
    int32_t n_ranks;
    weir_share att1, ff1; /* of rank 1 */
  } row[] = {
      {"llama-F32", 2, {32, 32}, {32, 64}},       {"llama-Q8_0", 4, {0, 32}, {0, 32}},
      {"llama-K-mixed", 2, {0, 256}, {128, 160}}, {"mistral-Q8_0", 2, {32, 64}, {32, 32}},
      {"mixtral-Q4_0", 2, {32, 32}, {0, 32}},
  };
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    char path[128];
    weir_mfile *f;
    weir_hparams h;
    weir_shard s;
    weir_err e = {0};
    snprintf(path, sizeof path, "tests/vectors/models/%s.gguf", row[i].name);
    if (weir_mfile_open(path, &f, &e) != WEIR_OK || weir_hparams_read(f, &h, &e) != WEIR_OK ||
        weir_shard_plan(&h, f, 1, row[i].n_ranks, &s, &e) != WEIR_OK)
      fail_msg("%s: %s", row[i].name, e.msg);
    if (memcmp(&s.att, &row[i].att1, sizeof s.att) != 0 || memcmp(&s.ff, &row[i].ff1, sizeof s.ff) != 0)
      fail_msg("%s: columns %d from %d on, MLP %d from %d on", row[i].name, s.att.n, s.att.first, s.ff.n,
               s.ff.first);
    weir_mfile_close(f);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(published_models), cmocka_unit_test(some_by_hand),
                                     cmocka_unit_test(refusals), cmocka_unit_test(widest_of_a_file)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
