/* SPDX-License-Identifier: Apache-2.0 */
/* Steps of ranks: batched as alone and chunked as whole to the bit; a vocabulary in shards, whose rows are
 * those of its logits in one piece; groups that are missing, that fail, that have memory of their own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gguf_writer.h"
#include "kernels/quant.h"
#include "run/exec_local.h"
#include "run/forward.h"
#include "run/kvstore.h"
#include "tp_group.h"

static void must(weir_status st, const weir_err *e) {
  if (st != WEIR_OK) fail_msg("%s", e->msg);
}

static void expect_same(const float *a, const float *b, int32_t rows, int32_t cols, const char *what,
                        const char *name) {
  for (int32_t i = 0; i < rows; i++)
    if (memcmp(a + (size_t)i * (size_t)cols, b + (size_t)i * (size_t)cols, (size_t)cols * sizeof *a) != 0)
      fail_msg("%s: %s: row %d differs", name, what, i);
}

/* ---- batches ---- */

/* One of each family and of each way weights and KV are kept. */
static const struct {
  const char *name;
  int32_t n_ranks;
  weir_dtype kv;
} batched[] = {
    {"llama-F32", 4, WEIR_F32},    {"llama-Q8_0", 2, WEIR_F16},     {"llama-Q4_0", 3, WEIR_F16},
    {"llama-mixed", 2, WEIR_F16},  {"llama-K-mixed", 4, WEIR_Q8_0}, {"llama-tied-F16", 3, WEIR_F16},
    {"mistral-Q8_0", 2, WEIR_F16}, {"mixtral-Q4_0", 2, WEIR_F16},   {"qwen2-padded-Q8_0", 3, WEIR_F16},
    {"qwen3-Q4_0", 2, WEIR_Q8_0},  {"qwen3moe-Q8_0", 3, WEIR_F16},  {"gemma2-Q8_0", 2, WEIR_F16},
    {"gemma3-BF16", 2, WEIR_F32},  {"phi3-BF16", 4, WEIR_F16},      {"phi3-Q8_0", 2, WEIR_F16},
    {"hf-qwen2-awq", 2, WEIR_F16}, {"stories260k", 3, WEIR_F16}};
enum { N_BATCHED = sizeof batched / sizeof *batched };

/* Many sequences at different places in one batch, decode rows beside chunks, after roll-backs. */
static void batched_is_alone_and_chunked_is_whole(void **state) {
  (void)state;
  enum { SEQS = 4, LEN = 48, STEPS = 16 };
  for (int32_t k = 0; k < N_BATCHED; k++) {
    tp_group g = tp_open(&(tp_opts){.name = batched[k].name,
                                    .n_ranks = batched[k].n_ranks,
                                    .isa = WEIR_ISA_BEST,
                                    .kv = batched[k].kv,
                                    .max_tokens = SEQS * LEN});
    const int32_t vocab = g.inst[0]->h.n_vocab;
    int32_t tok[SEQS][LEN], done[SEQS] = {0}, page[SEQS][3];
    float *alone = malloc((size_t)SEQS * LEN * (size_t)vocab * sizeof *alone),
          *got = malloc((size_t)SEQS * LEN * (size_t)vocab * sizeof *got);
    int32_t rows = 0;
    srand(11);
    for (int32_t s = 0; s < SEQS; s++) {
      for (int32_t i = 0; i < LEN; i++) tok[s][i] = rand() % 280;
      for (int32_t p = 0; p < 3; p++) page[s][p] = (s * 3 + p) * 5 % GOLDEN_PAGES + 1;
      tp_feed(&g, tok[s], 0, LEN, straight_pages(), alone + (size_t)s * LEN * (size_t)vocab);
    }
    for (int32_t step = 0; step < STEPS; step++) {
      weir_err e = {0};
      weir_batch_builder b;
      int32_t from[SEQS], to[SEQS], row[SEQS];
      must(weir_batch_builder_init(&b, SEQS * LEN, SEQS, GOLDEN_PAGES, 1, &e), &e);
      for (int32_t i = 0; i < SEQS; i++) {
        const int32_t s = (i + step) % SEQS;
        from[s] = to[s] = done[s];
        if (rand() % 4 == 0) continue;
        if (done[s] == LEN || rand() % 6 == 0) from[s] = done[s] > 0 ? rand() % done[s] : 0; /* roll back */
        to[s] = from[s] + (rand() % 2 ? 1 : 1 + rand() % 20);
        if (to[s] > LEN) to[s] = LEN;
        row[s] = weir_batch_add(&b, &(weir_batch_seq){tok[s], from[s], to[s], page[s], (to[s] + 15) / 16});
        for (int32_t r = 0; r < to[s] - from[s]; r++) weir_batch_ask(&b, row[s] + r);
      }
      const weir_batch batch = weir_batch_get(&b);
      if (batch.n_tokens > 0) {
        must(tp_logits(&g, &batch, got, &e), &e);
        for (int32_t s = 0; s < SEQS; s++) {
          if (to[s] > from[s])
            expect_same(got + (size_t)row[s] * (size_t)vocab,
                        alone + ((size_t)s * LEN + (size_t)from[s]) * (size_t)vocab, to[s] - from[s], vocab,
                        "batched", batched[k].name);
          rows += to[s] - from[s];
          done[s] = to[s];
        }
      }
      weir_batch_builder_fini(&b);
    }
    assert_true(rows > LEN);
    free(alone);
    free(got);
    tp_close(&g);
  }
}

/* ---- a vocabulary in shards ---- */

/* Three chunks, the last a short one; dim 64, 4 / 2 heads x 16, two layers. */
enum { DIM = 64, FF = 96, KV_DIM = 32, VOCAB = 9000, VALID = 8900, LAYERS = 2 };

static void put(gguf_writer *w, const char *name, weir_dtype t, uint64_t cols, uint64_t rows,
                uint32_t *seed) {
  const uint64_t dim[] = {cols, rows};
  const bool vector = rows == 1;
  size_t bytes;
  weir_err e = {0};
  must(weir_dtype_row_bytes(vector ? WEIR_F32 : t, (int64_t)cols, &bytes, &e), &e);
  uint8_t *data = malloc(bytes * rows);
  float *x = malloc(cols * sizeof *x);
  for (uint64_t r = 0; r < rows; r++) {
    for (uint64_t c = 0; c < cols; c++) {
      *seed = *seed * 1664525u + 1013904223u;
      x[c] = vector ? 1.0f : (float)(int32_t)*seed * 0x1p-31f * 0.4f;
    }
    must(weir_quantize_row(vector ? WEIR_F32 : t, x, data + r * bytes, (int64_t)cols, &e), &e);
  }
  const uint32_t type = vector || t == WEIR_F32 ? GW_F32 : t == WEIR_F16 ? GW_F16 : GW_Q8_0;
  gguf_writer_tensor(w, name, type, dim, vector ? 1 : 2, data, bytes * rows);
  free(x);
  free(data);
}

static uint8_t *big_vocabulary(weir_dtype t, bool tied, size_t *len) {
  static const struct {
    const char *what;
    uint64_t cols, rows;
  } each[] = {{"attn_norm", DIM, 1},   {"attn_q", DIM, DIM},      {"attn_k", DIM, KV_DIM},
              {"attn_v", DIM, KV_DIM}, {"attn_output", DIM, DIM}, {"ffn_norm", DIM, 1},
              {"ffn_gate", DIM, FF},   {"ffn_up", DIM, FF},       {"ffn_down", FF, DIM}};
  static const struct {
    const char *key;
    uint32_t value;
  } key[] = {{"llama.block_count", LAYERS},        {"llama.embedding_length", DIM},
             {"llama.context_length", 256},        {"llama.attention.head_count", 4},
             {"llama.attention.head_count_kv", 2}, {"llama.feed_forward_length", FF}};
  gguf_writer w;
  uint32_t seed = 3;
  gguf_writer_init(&w);
  gguf_writer_str(&w, "general.architecture", "llama");
  for (size_t i = 0; i < sizeof key / sizeof *key; i++) gguf_writer_u32(&w, key[i].key, key[i].value);
  gguf_writer_f32(&w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
  put(&w, "token_embd.weight", t, DIM, VOCAB, &seed);
  put(&w, "output_norm.weight", t, DIM, 1, &seed);
  if (!tied) put(&w, "output.weight", t, DIM, VOCAB, &seed);
  for (int l = 0; l < LAYERS; l++)
    for (size_t i = 0; i < sizeof each / sizeof *each; i++) {
      char name[64];
      snprintf(name, sizeof name, "blk.%d.%s.weight", l, each[i].what);
      put(&w, name, t, each[i].cols, each[i].rows, &seed);
    }
  uint8_t *file = gguf_writer_file(&w, len);
  gguf_writer_fini(&w);
  return file;
}

/* Asks of every kind about rows of a step. */
static void ask_all_kinds(weir_batch_builder *b, int32_t first, int32_t n, weir_logit_edit *edit,
                          weir_top draft[], weir_top law[][WEIR_TOP_MAX]) {
  for (int32_t i = 0; i < n; i++) {
    weir_ask *a = weir_batch_ask(b, first + i);
    *a = (weir_ask){.temperature = i % 2 ? 0.0f : 1.1f, .top_p = 1, .seed = 5, .pos = i + 1, .probe = -1};
    if (i % 3 == 1) a->n_top = WEIR_TOP_MAX;
    if (i % 4 == 2) a->top_k = 40, a->min_p = 0.01f;
    if (i % 5 == 3) a->top_p = 0.7f;
    if (i % 6 == 5) {
      a->probe = rand() % VALID;
      a->keep = (weir_keep)(i / 6 % WEIR_N_KEEPS);
      a->keep_a = i % 2 ? 9 : 0.3f;
      a->keep_b = 0.5f;
      a->probe_q = -1;
      if (a->keep == WEIR_KEEP_RATIO) {
        a->temperature = 0.9f;
        draft[i] = (weir_top){a->probe, i < n / 2 ? -0.1f : -15};
        a->draft = &draft[i];
        a->n_draft = 1;
      }
    } else if (i % 6 == 2) {
      a->top_k = WEIR_TOP_MAX;
      a->tell_law = true;
      a->law = law[i];
    }
    if (i % 3 == 0) continue;
    a->edit = edit + (size_t)i * VOCAB;
    for (int32_t v = 0; v < VOCAB; v++)
      if (rand() % 7 == 0)
        edit[(size_t)i * VOCAB + (size_t)a->n_edits++] =
            (weir_logit_edit){v, 1.3f, rand() % 2 ? WEIR_LOGIT_BAN : -0.5f};
    a->only_edits = i % 7 == 1;
  }
}

static void vocabulary_in_shards(void **state) {
  (void)state;
  enum { N = 80 }; /* rows: more than the head takes at once */
  static const struct {
    weir_dtype type;
    bool tied;
    int32_t n_ranks;
  } rows[] = {{WEIR_F32, false, 2}, {WEIR_Q8_0, true, 3}, {WEIR_F16, true, 4}};
  for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
    char name[64];
    size_t len;
    weir_mfile *f;
    weir_err e = {0};
    uint8_t *file = big_vocabulary(rows[k].type, rows[k].tied, &len);
    snprintf(name, sizeof name, "%s on %d ranks", weir_dtype_get(rows[k].type)->name, rows[k].n_ranks);
    must(weir_mfile_parse_gguf(file, len, &f, &e), &e);
    tp_group g = tp_open_file(
        f, &(tp_opts){.n_ranks = rows[k].n_ranks, .isa = WEIR_ISA_BEST, .kv = WEIR_F32, .max_tokens = 96});
    tp_group one =
        tp_open_file(f, &(tp_opts){.n_ranks = 1, .isa = WEIR_ISA_BEST, .kv = WEIR_F32, .max_tokens = 96});
    weir_mfile_close(f);
    free(file);
    int32_t with = 0;
    for (int32_t r = 0; r < g.n; r++) {
      g.inst[r]->n_valid = VALID;
      with += g.inst[r]->shard.vocab.n > 0;
    }
    one.inst[0]->n_valid = VALID;
    assert_int_equal(with, g.n < 3 ? g.n : 3);
    int32_t tok[N];
    srand(3);
    for (int32_t i = 0; i < N; i++) tok[i] = rand() % VOCAB; /* of all shards */
    float *logits = malloc((size_t)N * VOCAB * sizeof *logits),
          *want = malloc((size_t)N * VOCAB * sizeof *want);
    weir_logit_edit *edit = malloc((size_t)N * VOCAB * sizeof *edit);
    static weir_top top[N][WEIR_TOP_MAX], top_whole[N][WEIR_TOP_MAX];
    weir_row row[N], row_whole[N];
    weir_batch_builder b;
    must(weir_batch_builder_init(&b, N, 1, GOLDEN_PAGES, 1, &e), &e);
    const int32_t first = weir_batch_add(&b, &(weir_batch_seq){tok, 0, N, straight_pages(), (N + 15) / 16});
    static weir_top draft[N], law[N][WEIR_TOP_MAX], law_whole[N][WEIR_TOP_MAX];
    ask_all_kinds(&b, first, N, edit, draft, law);
    const weir_batch batch = weir_batch_get(&b);
    memset(top, 0, sizeof top);
    memset(top_whole, 0, sizeof top_whole);
    must(tp_forward(&g, &batch, row, top[0], &e), &e);
    must(tp_logits(&g, &batch, logits, &e), &e);
    for (int32_t i = 0; i < N; i++) /* from here on it is told elsewhere */
      if (b.ask[i].tell_law) b.ask[i].law = law_whole[i];
    /* The logits in one piece, asked the same on one device. */
    weir_mat mat = {.rows = 16, .cols = VOCAB, .ld = VOCAB};
    must(weir_dev_alloc(one.dev[0], 16 * VOCAB * sizeof(float), (void **)&mat.data, &e), &e);
    for (int32_t i = 0; i < N; i += 16) {
      must(weir_dev_upload(one.dev[0], mat.data, logits + (size_t)i * VOCAB, 16 * VOCAB * sizeof(float), &e),
           &e);
      must(weir_op_sample(one.dev[0], row_whole + i, top_whole[i], mat, VALID, b.ask + i, NULL, &e), &e);
      must(weir_dev_sync(one.dev[0], &e), &e);
    }
    weir_dev_release(one.dev[0], mat.data);
    for (int32_t i = 0; i < N; i++) {
      if (memcmp(&row[i], &row_whole[i], sizeof *row) != 0)
        fail_msg("%s: row %d: token %d, of the whole %d; entropy %g, of the whole %g", name, i, row[i].token,
                 row_whole[i].token, (double)row[i].entropy, (double)row_whole[i].entropy);
      if (memcmp(top[i], top_whole[i], sizeof top[i]) != 0) fail_msg("%s: tops of row %d", name, i);
      if (b.ask[i].tell_law && (memcmp(law[i], law_whole[i], sizeof law[i]) != 0 || law[i][0].id < 0))
        fail_msg("%s: the law of row %d", name, i);
    }
    /* ... which are one rank's, but for roundings. */
    tp_feed(&one, tok, 0, N, straight_pages(), want);
    double worst = 0, max = 0;
    for (size_t i = 0; i < (size_t)N * VOCAB; i++) {
      const double w = want[i], d = w > logits[i] ? w - logits[i] : logits[i] - w;
      if (!(d <= worst)) worst = d;
      if (w > max) max = w;
    }
    if (!(worst <= (rows[k].type == WEIR_Q8_0 ? 0.1 : 2e-5) * max))
      fail_msg("%s: logits are off by %g of %g", name, worst, max);
    weir_batch_builder_fini(&b);
    free(edit);
    free(want);
    free(logits);
    tp_close(&one);
    tp_close(&g);
  }
}

/* ---- groups ---- */

static const int32_t prompt[] = {1, 5, 9, 13, 2, 77, 200};
enum { N_PROMPT = sizeof prompt / sizeof *prompt };

static weir_status feed_status(tp_group *g, float *logits, weir_err *e) {
  weir_batch_builder b;
  must(weir_batch_builder_init(&b, N_PROMPT, 1, GOLDEN_PAGES, 1, e), e);
  weir_batch_add(&b, &(weir_batch_seq){prompt, 0, N_PROMPT, straight_pages(), 1});
  for (int32_t i = 0; i < N_PROMPT; i++) weir_batch_ask(&b, i);
  const weir_batch batch = weir_batch_get(&b);
  const weir_status st = tp_logits(g, &batch, logits, e);
  weir_batch_builder_fini(&b);
  return st;
}

static void expect_refused(tp_group *g, weir_status status, const char *fragment) {
  float *logits = calloc((size_t)N_PROMPT * (size_t)g->inst[0]->h.n_vocab, sizeof *logits);
  weir_err e = {0};
  const weir_status st = feed_status(g, logits, &e);
  if (st != status || !strstr(e.msg, fragment))
    fail_msg("got %d \"%s\", want %d with \"%s\"", st, e.msg, status, fragment);
  free(logits);
}

static void no_step_without_a_group(void **state) {
  (void)state;
  tp_group g = tp_open(&(tp_opts){.name = "llama-F32", .n_ranks = 2, .isa = WEIR_ISA_BEST, .kv = WEIR_F32});
  for (int32_t r = 0; r < 2; r++) weir_instance_set_comm(g.inst[r], NULL);
  expect_refused(&g, WEIR_EINVAL, "rank 0 of 2 is in no group");
  for (int32_t r = 0; r < 2; r++) weir_instance_set_comm(g.inst[r], g.comm[1 - r]);
  expect_refused(&g, WEIR_EINVAL, "rank 1 of 2 in the group is rank 0 of 2 of the model");
  tp_close(&g);
}

/* A group that fails in the middle of a step; the next one computes what the first did. */
static int64_t calls_until_failure;
static const weir_comm_ops *real;
static weir_status failing_reduce(weir_comm *c, float *x, size_t n, weir_err *e) {
  if (c->rank == 0 && calls_until_failure-- == 0) real->abort(c, "the test pulled the cable");
  return real->all_reduce(c, x, n, e);
}

static void a_new_group_after_a_failure(void **state) {
  (void)state;
  tp_group g = tp_open(&(tp_opts){.name = "gemma2-BF16", .n_ranks = 2, .isa = WEIR_ISA_BEST, .kv = WEIR_F32});
  const size_t n = (size_t)N_PROMPT * (size_t)g.inst[0]->h.n_vocab;
  float *before = malloc(n * sizeof *before), *after = malloc(n * sizeof *after);
  weir_err e = {0};
  must(feed_status(&g, before, &e), &e);
  const int64_t calls = g.comm[0]->stats.calls;
  assert_true(calls > 6);
  for (int64_t at = 0; at < calls - 1; at++) { /* the last call gathers */
    tp_join(&g);
    weir_comm_ops failing = *g.comm[0]->ops;
    real = g.comm[0]->ops;
    failing.all_reduce = failing_reduce;
    calls_until_failure = at;
    for (int32_t r = 0; r < 2; r++) g.comm[r]->ops = &failing;
    expect_refused(&g, WEIR_EDEVICE, "the test pulled the cable");
    for (int32_t r = 0; r < 2; r++) g.comm[r]->ops = real;
    expect_refused(&g, WEIR_EDEVICE, "the test pulled the cable"); /* it stays so */
    tp_join(&g);
    memset(after, 0, n * sizeof *after);
    must(feed_status(&g, after, &e), &e);
    expect_same(after, before, N_PROMPT, g.inst[0]->h.n_vocab, "after a failure", "gemma2-BF16");
  }
  free(before);
  free(after);
  tp_close(&g);
}

/* A communicator with memory of its own: what is reduced lies there, and goes back with the group. */
enum { KEPT = 4 };
static void *given[TP_MAX][KEPT];
static size_t given_bytes[TP_MAX][KEPT];
static int32_t n_given[TP_MAX], n_strange[TP_MAX];
static bool no_memory;

static weir_status give(weir_comm *c, size_t bytes, void **out, weir_err *e) {
  if (no_memory && n_given[c->rank] == 1) return weir_fail(e, WEIR_ENOMEM, "no registered memory");
  assert_true(n_given[c->rank] < KEPT);
  *out = calloc(1, bytes);
  given[c->rank][n_given[c->rank]] = *out;
  given_bytes[c->rank][n_given[c->rank]++] = bytes;
  return WEIR_OK;
}
static void take_back(weir_comm *c, void *p) {
  for (int32_t i = 0; i < n_given[c->rank]; i++)
    if (given[c->rank][i] == p) {
      given[c->rank][i] = given[c->rank][--n_given[c->rank]];
      free(p);
      return;
    }
  n_strange[c->rank]++;
}
static weir_status reduce_given(weir_comm *c, float *x, size_t n, weir_err *e) {
  bool mine = false;
  for (int32_t i = 0; i < n_given[c->rank]; i++) mine |= x == given[c->rank][i];
  n_strange[c->rank] += !mine;
  return real->all_reduce(c, x, n, e);
}

static void memory_of_the_group(void **state) {
  (void)state;
  static const char *const names[] = {"llama-F32", "gemma3-BF16"}; /* without and with norms behind */
  for (size_t k = 0; k < 2; k++) {
    tp_group g = tp_open(&(tp_opts){.name = names[k], .n_ranks = 2, .isa = WEIR_ISA_BEST, .kv = WEIR_F32});
    const int32_t vocab = g.inst[0]->h.n_vocab;
    const size_t n = (size_t)N_PROMPT * (size_t)vocab;
    float *before = malloc(n * sizeof *before), *after = malloc(n * sizeof *after);
    weir_err e = {0};
    weir_comm_ops own;
    must(feed_status(&g, before, &e), &e);
    for (int32_t round = 0; round < 3; round++) {
      tp_join(&g);
      real = g.comm[0]->ops;
      own = *real;
      own.alloc = give;
      own.release = take_back;
      own.all_reduce = reduce_given;
      for (int32_t r = 0; r < 2; r++) g.comm[r]->ops = &own;
      no_memory = round == 0;
      if (no_memory) expect_refused(&g, WEIR_ENOMEM, "no registered memory");
      no_memory = false;
      must(feed_status(&g, after, &e), &e);
      must(feed_status(&g, after, &e), &e); /* it asks once */
      expect_same(after, before, N_PROMPT, vocab, "in the group's memory", names[k]);
      for (int32_t r = 0; r < 2; r++) {
        assert_int_equal(n_given[r], 2);
        for (int32_t i = 0; i < 2; i++)
          assert_int_equal(given_bytes[r][i],
                           (size_t)GOLDEN_MAX_TOKENS * (size_t)g.inst[r]->h.dim * sizeof(float));
      }
      if (round < 2)
        for (int32_t r = 0; r < 2; r++) {
          weir_instance_set_comm(g.inst[r], NULL);
          assert_int_equal(n_given[r], 0);
          assert_int_equal(n_strange[r], 0);
          g.comm[r]->ops = real;
        }
    }
    /* An instance that goes with its group still there gives it back too. */
    for (int32_t r = 0; r < 2; r++) {
      weir_instance_destroy(g.inst[r]);
      assert_int_equal(n_given[r], 0);
      weir_dev_destroy(g.dev[r]);
      g.comm[r]->ops = real;
      weir_comm_destroy(g.comm[r]);
    }
    free(g.memory);
    free(before);
    free(after);
  }
}

/* ---- what a rank says of itself ---- */

static void parts_add_up(void **state) {
  (void)state;
  /* Models that divide without anything held twice. */
  static const char *const names[] = {"llama-F32", "qwen3-Q4_0", "phi3-BF16", "stories260k"};
  for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
    tp_group one = tp_open(&(tp_opts){.name = names[k], .n_ranks = 1, .kv = WEIR_F16});
    tp_group g = tp_open(&(tp_opts){.name = names[k], .n_ranks = 2, .kv = WEIR_F16});
    const weir_exec_info whole = weir_exec_local_info(one.inst[0], "whole");
    weir_exec_info sum = {0};
    for (int32_t r = 0; r < 2; r++) {
      const weir_exec_info i = weir_exec_local_info(g.inst[r], "part");
      sum.flops_per_token += i.flops_per_token;
      sum.kv_bytes_per_token += i.kv_bytes_per_token;
      assert_int_equal(i.n_vocab, whole.n_vocab);
    }
    if (sum.flops_per_token != whole.flops_per_token || sum.kv_bytes_per_token != whole.kv_bytes_per_token)
      fail_msg("%s: %lld operations and %lld bytes of KV, the whole has %lld and %lld", names[k],
               (long long)sum.flops_per_token, (long long)sum.kv_bytes_per_token,
               (long long)whole.flops_per_token, (long long)whole.kv_bytes_per_token);
    tp_close(&one);
    tp_close(&g);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(batched_is_alone_and_chunked_is_whole),
      cmocka_unit_test(vocabulary_in_shards),
      cmocka_unit_test(no_step_without_a_group),
      cmocka_unit_test(a_new_group_after_a_failure),
      cmocka_unit_test(memory_of_the_group),
      cmocka_unit_test(parts_add_up),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
