/* SPDX-License-Identifier: Apache-2.0 */
/* Whole models through the kernels: every tiny model of tests/vectors, the forward pass on the emulated
 * device. Logits are held against the CPU device with the same weights as F32, which is first held against
 * the golden logits itself; the worst row counts, never the mean.
 *
 * A row's way through the kernels depends on how many rows its step has (kernels/cuda/linear.c), so chunks,
 * batches and subsets are held to the same bound as the whole; only a record of a step and the step itself,
 * and a page and its copy, give the same bits. One thread. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "cuda_util.h"
#include "golden.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cuda/pack.h"
#include "kernels/quant.h"
#include "run/forward.h"

static bool full;

/* Largest deviation of a row's logits over the largest logit of that row. Both sides keep KV in the same
 * type; what is left is how a linear sees its input (kernels/cuda/linear.c). Measured: up to two thirds
 * of each bound, in the models that were run. */
typedef enum { OF_F32, OF_F16, OF_BF16, OF_QUANT, N_CLASSES } class_of;
static const struct {
  const char *name;
  double most;
} bounds[N_CLASSES] = {
    [OF_F32] = {"F32", 2e-3},   /* multiplied as F32; half-precision KV may round to the other side */
    [OF_F16] = {"F16", 1e-2},   /* from nine rows on inputs have 11 bits, scaled by row */
    [OF_BF16] = {"BF16", 4e-2}, /* from nine rows on inputs have 8 bits: 2^-9 each, through every layer */
    [OF_QUANT] = {"quantised", 4e-2} /* as BF16 beyond 64 rows, and in parts that are BF16; better below */
};

enum { MOST = 128, MAX_LISTS = 3, ROOM = 8, SMOKE_TOKENS = 36 };

/* ---- the reference: the CPU device, all weights as F32 ---- */

/* Two experts whose logits are so close may change places on the device, and what follows is another model: a
 * list ends there. */
static const double TIE = 0.02;

static const weir_dev_ops *cpu_ops;
static weir_dev_ops plain_ops;

static weir_status prepare_plain(weir_dev *dev, const weir_host_mat *part, int32_t n, weir_weight *out,
                                 weir_err *e) {
  weir_host_mat plain[8];
  weir_status st = WEIR_OK;
  int32_t made = 0;
  assert_true(n <= 8);
  for (; made < n; made++) {
    const weir_host_mat *p = &part[made];
    const size_t n_values = (size_t)p->rows * (size_t)p->cols;
    float *x = malloc(n_values * sizeof *x);
    assert_non_null(x);
    plain[made] = (weir_host_mat){x, WEIR_F32, p->rows, p->cols};
    kern_ok(weir_dequantize_row(p->dtype, p->data, x, (int64_t)n_values, e), e, "dequantise");
  }
  st = cpu_ops->weight_prepare(dev, plain, n, out, e);
  for (int32_t i = 0; i < made; i++) free((void *)(uintptr_t)plain[i].data);
  return st;
}

/* How near another expert came in, of the rows of the last forward: the least difference over the layers
 * between the router's logit of the last chosen and of the first not chosen. */
static double chosen_by[MOST];

static int cmp_float(const void *a, const void *b) {
  const float x = *(const float *)a, y = *(const float *)b;
  return x < y ? 1 : x > y ? -1 : 0;
}

static weir_status moe_watched(weir_dev *dev, weir_mat y, const weir_moe_args *a, weir_err *e) {
  float l[64];
  assert_true(a->n_experts <= 64 && a->logits.rows <= MOST);
  for (int32_t r = 0; r < a->logits.rows; r++) {
    memcpy(l, a->logits.data + (size_t)r * (size_t)a->logits.ld, (size_t)a->n_experts * sizeof *l);
    qsort(l, (size_t)a->n_experts, sizeof *l, cmp_float);
    if (a->n_used < a->n_experts)
      chosen_by[r] = fmin(chosen_by[r], (double)l[a->n_used - 1] - (double)l[a->n_used]);
  }
  return cpu_ops->moe(dev, y, a, e);
}

static model open_reference(const golden_model *g, weir_dtype kv) {
  weir_err e = {0};
  weir_dev *dev = NULL;
  const weir_cpu_opts o = {.n_threads = 1, .isa = WEIR_ISA_BEST, .no_pin = true};
  kern_ok(weir_dev_open_cpu(&o, &dev, &e), &e, "open the CPU device");
  cpu_ops = dev->ops;
  plain_ops = *cpu_ops;
  plain_ops.weight_prepare = prepare_plain;
  plain_ops.moe = moe_watched;
  dev->ops = &plain_ops;
  return model_open_on(dev, g, MOST, kv);
}

static model open_cuda(const golden_model *g, weir_dtype kv, bool no_graphs, uint64_t seed) {
  cu_shim_config c = cu_shim_defaults();
  c.seed = seed;
  c.early = seed % 2 ? 64 : 0;
  if (!full) c.n_sms = 6; /* fewer, longer blocks: quicker here */
  cu_shim_reset(&c);
  return model_open_on(cuda_test_open(NULL, no_graphs), g, MOST, kv);
}

static void close_cuda(model *m) {
  weir_instance_destroy(m->inst);
  cuda_test_close(m->dev);
}

/* The coarsest of a model's weights on the device. */
static class_of class_of_weight(const weir_weight *w, class_of at_least) {
  const weir_cuda_weight *u = w->impl;
  for (int32_t i = 0; u && i < u->n_segments; i++) {
    const weir_dtype t = u->segment[i].dtype;
    const class_of c = weir_dtype_is_quant(t) ? OF_QUANT
                       : t == WEIR_BF16       ? OF_BF16
                       : t == WEIR_F16        ? OF_F16
                                              : OF_F32;
    if (c > at_least) at_least = c;
  }
  return at_least;
}

static class_of class_of_model(const model *m) {
  class_of c = class_of_weight(m->inst->w.head, OF_F32);
  for (int32_t i = 0; i < m->inst->w.n_layers; i++) {
    const weir_layer *y = &m->inst->w.layer[i];
    c = class_of_weight(&y->qkv, c);
    c = class_of_weight(&y->attn_out, c);
    c = class_of_weight(y->expert_down ? &y->expert_down[0] : &y->down, c);
    c = class_of_weight(y->expert_gate_up ? &y->expert_gate_up[0] : &y->gate_up, c);
  }
  return c;
}

/* ---- one model ---- */

typedef struct list { /* of tokens, and the reference's logits of each */
  int32_t n;
  const int32_t *id;
  float *logits;
} list;

typedef struct trial {
  const golden_model *g;
  wvec v;
  int32_t n_lists, vocab;
  list list[MAX_LISTS]; /* by length: the last is the longest */
  model m;
  double most, worst;
  float *got; /* [MOST * vocab] */
} trial;

static void near_reference(trial *t, const float *got, const list *l, int32_t at, int32_t n,
                           const char *what) {
  for (int32_t i = 0; i < n; i++) {
    const float *want = l->logits + (size_t)(at + i) * (size_t)t->vocab;
    double max = 0, diff = 0;
    for (int32_t c = 0; c < t->vocab; c++) {
      const double d = fabs((double)got[(size_t)i * (size_t)t->vocab + (size_t)c] - (double)want[c]);
      if (!(d <= diff)) diff = d;
      max = fmax(max, fabs((double)want[c]));
    }
    if (!(diff / max <= t->worst)) t->worst = diff / max;
    if (!(diff / max <= t->most))
      fail_msg("%s: %s: position %d is wrong by %g of its largest logit, at most %g", t->g->name, what,
               at + i, diff / max, t->most);
  }
}

/* ---- batches ---- */

typedef struct batch {
  weir_batch_builder b;
} batch;

static batch batch_new(void) {
  batch b;
  weir_err e = {0};
  kern_ok(weir_batch_builder_init(&b.b, MOST, GOLDEN_MAX_SEQS, GOLDEN_PAGES, ROOM, &e), &e, "batch");
  return b;
}

static int32_t add(batch *b, const int32_t *id, int32_t from, int32_t to, const int32_t *page) {
  return weir_batch_add(&b->b, &(weir_batch_seq){id, from, to, page, (to + 15) / 16});
}

static void run_logits(trial *t, batch *b, const char *what) {
  weir_err e = {0};
  const weir_batch x = weir_batch_get(&b->b);
  kern_ok(weir_forward_logits(t->m.inst, &x, t->got, &e), &e, what);
  weir_batch_builder_fini(&b->b);
}

/* In pieces, in pages that lie anywhere; `step` 0: of random lengths. */
static void check_pieces(trial *t, const list *l, int32_t step, const char *what) {
  int32_t page[GOLDEN_PAGES];
  for (int32_t i = 0; i < GOLDEN_PAGES; i++) page[i] = (i * 37 + 11) % GOLDEN_PAGES;
  for (int32_t at = 0; at < l->n;) {
    int32_t to = at + (step > 0 ? step : 1 + rand() % 30);
    if (to > l->n) to = l->n;
    feed(&t->m, l->id, at, to, page, t->got);
    near_reference(t, t->got, l, at, to - at, what);
    at = to;
  }
}

/* All lists together: chunks beside single tokens, each from where it stands. */
static void check_batched(trial *t) {
  int32_t done[MAX_LISTS] = {0}, page[MAX_LISTS][8];
  for (int32_t s = 0; s < t->n_lists; s++)
    for (int32_t p = 0; p < 8; p++) page[s][p] = (s * 8 + p) * 5 % GOLDEN_PAGES;
  for (bool more = true; more;) {
    batch b = batch_new();
    int32_t from[MAX_LISTS], row[MAX_LISTS];
    more = false;
    for (int32_t s = 0; s < t->n_lists; s++) {
      const list *l = &t->list[s];
      int32_t to = done[s] + (rand() % 3 ? 1 + rand() % (full ? 12 : 30) : 1);
      if (to > l->n) to = l->n;
      from[s] = done[s];
      if (to == done[s]) continue;
      row[s] = add(&b, l->id, done[s], to, page[s]);
      for (int32_t r = done[s]; r < to; r++) weir_batch_ask(&b.b, row[s] + r - done[s]);
      done[s] = to;
      more = true;
    }
    if (!more) {
      weir_batch_builder_fini(&b.b);
      return;
    }
    run_logits(t, &b, "a batch");
    for (int32_t s = 0; s < t->n_lists; s++)
      if (done[s] > from[s])
        near_reference(t, t->got + (size_t)row[s] * (size_t)t->vocab, &t->list[s], from[s], done[s] - from[s],
                       "batched");
  }
}

/* Two sequences of which few rows are wanted, then one none of which is. */
static void check_subset(trial *t) {
  const list *l = &t->list[t->n_lists - 1], *k = &t->list[0];
  const int32_t other[4] = {90, 91, 92, 93}, n = k->n < 20 ? k->n : 20;
  const int32_t wanted[3] = {1, l->n / 2, l->n - 1};
  for (int32_t with = 0; with < 2; with++) {
    batch b = batch_new();
    const int32_t first = add(&b, l->id, 0, l->n, straight_pages());
    const int32_t second = add(&b, k->id, 0, n, other);
    for (int32_t i = 0; i < 3; i++) weir_batch_ask(&b.b, first + wanted[i]);
    if (with) weir_batch_ask(&b.b, second + n - 1);
    run_logits(t, &b, "few rows wanted");
    for (int32_t i = 0; i < 3; i++)
      near_reference(t, t->got + (size_t)i * (size_t)t->vocab, l, wanted[i], 1, "few rows wanted");
    if (with) near_reference(t, t->got + 3 * (size_t)t->vocab, k, n - 1, 1, "few rows wanted, the second");
  }
  /* None wanted at all: KV is filled all the same. */
  batch b = batch_new();
  int32_t page[8];
  for (int32_t i = 0; i < 8; i++) page[i] = 40 + i;
  add(&b, l->id, 0, l->n - 1, page);
  run_logits(t, &b, "no row wanted");
  feed(&t->m, l->id, l->n - 1, l->n, page, t->got);
  near_reference(t, t->got, l, l->n - 1, 1, "after a step without rows");
}

/* A prefix whose pages are copied as the step begins; the rest on the copies has the bits of the rest on the
 * originals. */
static void check_copies(trial *t) {
  const list *l = &t->list[t->n_lists - 1];
  const int32_t prefix = l->n - 5, n_pages = (prefix + 15) / 16;
  int32_t from[8], to[8], pair[2 * ROOM];
  assert_true(n_pages <= ROOM && l->n <= 8 * 16);
  for (int32_t i = 0; i < 8; i++) {
    from[i] = 3 * i;
    to[i] = 70 - 2 * i;
  }
  for (int32_t i = 0; i < n_pages; i++) {
    pair[2 * i] = from[i];
    pair[2 * i + 1] = to[i];
  }
  feed(&t->m, l->id, 0, prefix, from, t->got);
  feed(&t->m, l->id, prefix, l->n, from, t->got);
  float *want = malloc(5 * (size_t)t->vocab * sizeof *want);
  memcpy(want, t->got, 5 * (size_t)t->vocab * sizeof *want);
  batch b = batch_new();
  const int32_t first = add(&b, l->id, prefix, l->n, to);
  for (int32_t i = 0; i < 5; i++) weir_batch_ask(&b.b, first + i);
  weir_batch_add_copies(&b.b, pair, n_pages);
  run_logits(t, &b, "copied pages");
  if (memcmp(want, t->got, 5 * (size_t)t->vocab * sizeof *want) != 0)
    fail_msg("%s: copied pages: other bits than on the originals", t->g->name);
  near_reference(t, t->got, l, prefix, 5, "copied pages");
  free(want);
}

/* ---- text ---- */

enum { NEW = 8, SMOKE_NEW = 4, TEXTS = 2 };
static int32_t n_new(void) { return full ? NEW : SMOKE_NEW; }

typedef struct text {
  weir_row row[TEXTS][NEW];
} text;

static void ask_greedy(batch *b, int32_t row, int32_t pos) {
  *weir_batch_ask(&b->b, row) = (weir_ask){.top_p = 1, .pos = pos, .probe = -1};
}

/* Greedy continuations of two lists' beginnings: prompts alone, then in one batch, whose steps are recorded.
 */
static void write_text(weir_instance *inst, const trial *t, text *out) {
  int32_t tok[TEXTS][32 + NEW], n[TEXTS], page[TEXTS][4];
  weir_err e = {0};
  for (int32_t s = 0; s < TEXTS; s++) {
    const list *l = &t->list[s % t->n_lists];
    n[s] = (l->n < 17 ? l->n : 17) - 5 * s;
    memcpy(tok[s], l->id, (size_t)n[s] * sizeof **tok);
    for (int32_t p = 0; p < 4; p++) page[s][p] = 10 * s + 3 * p;
    batch b = batch_new();
    ask_greedy(&b, add(&b, tok[s], 0, n[s], page[s]) + n[s] - 1, n[s]);
    const weir_batch x = weir_batch_get(&b.b);
    kern_ok(weir_forward(inst, &x, &out->row[s][0], NULL, &e), &e, "a prompt");
    weir_batch_builder_fini(&b.b);
  }
  for (int32_t i = 1; i < n_new(); i++) {
    batch b = batch_new();
    weir_row row[TEXTS];
    for (int32_t s = 0; s < TEXTS; s++) {
      tok[s][n[s]++] = out->row[s][i - 1].token;
      ask_greedy(&b, add(&b, tok[s], n[s] - 1, n[s], page[s]), n[s]);
    }
    const weir_batch x = weir_batch_get(&b.b);
    kern_ok(weir_forward(inst, &x, row, NULL, &e), &e, "a token");
    for (int32_t s = 0; s < TEXTS; s++) out->row[s][i] = row[s];
    weir_batch_builder_fini(&b.b);
  }
}

/* Tokens that were compared: to the first whose two likeliest are closer than the logits above can have moved
 * them, which is twice the worst row; half as much again for rows not seen there. A gap of probabilities
 * p1/p2 is one of logits log(p1/p2). */
static int32_t same_text(const trial *t, const text *got, const text *want, double max_logit) {
  int32_t n = 0;
  for (int32_t s = 0; s < TEXTS; s++)
    for (int32_t i = 0; i < n_new(); i++, n++) {
      const weir_row *w = &want->row[s][i];
      const double gap = log((double)w->p_max / ((double)w->p_max - (double)w->margin));
      if (gap < 3 * t->worst * max_logit) break;
      if (got->row[s][i].token != w->token)
        fail_msg("%s: token %d of text %d is %d, want %d: the two likeliest are %g apart", t->g->name, i, s,
                 got->row[s][i].token, w->token, gap);
    }
  return n;
}

static void same_rows(const trial *t, const text *a, const text *b) {
  for (int32_t s = 0; s < TEXTS; s++)
    for (int32_t i = 0; i < n_new(); i++)
      if (memcmp(&a->row[s][i], &b->row[s][i], sizeof(weir_row)) != 0)
        fail_msg("%s: row %d of text %d differs between a recorded and a plain step", t->g->name, i, s);
}

/* ---- all of it ---- */

static double largest(const trial *t) {
  double max = 0;
  for (int32_t s = 0; s < t->n_lists; s++)
    for (size_t i = 0; i < (size_t)t->list[s].n * (size_t)t->vocab; i++)
      max = fmax(max, fabs((double)t->list[s].logits[i]));
  return max;
}

/* Reference logits, and that they are the golden ones. */
static void make_reference(trial *t, weir_dtype kv, text *words) {
  model ref = open_reference(t->g, kv);
  t->vocab = ref.inst->h.n_vocab;
  assert_int_equal(t->vocab, t->v.n_vocab);
  for (int32_t s = 0; s < t->v.n_seqs; s++) {
    const wvec_seq *q = &t->v.seq[s];
    if (q->n_tokens < 2) continue;
    list *l = &t->list[t->n_lists++];
    assert_true(t->n_lists <= MAX_LISTS && q->n_tokens <= MOST);
    *l = (list){q->n_tokens, q->id, malloc((size_t)q->n_tokens * (size_t)t->vocab * sizeof(float))};
    if (!full && l->n > SMOKE_TOKENS) l->n = SMOKE_TOKENS;
    for (int32_t i = 0; i < MOST; i++) chosen_by[i] = INFINITY;
    feed(&ref, q->id, 0, l->n, straight_pages(), l->logits);
    if (t->g->exact) {
      const list golden = {l->n, q->id, q->logits};
      t->most = kv == WEIR_F32 ? 2e-5 : 2e-2;
      near_reference(t, l->logits, &golden, 0, l->n, "the reference itself");
    }
    for (int32_t i = 0; i < l->n; i++)
      if (chosen_by[i] < TIE) {
        print_message("%s: list of %d cut at %d, where experts are %.1e apart\n", t->g->name, l->n, i,
                      chosen_by[i]);
        l->n = i;
      }
    if (l->n < 12) { /* too short for what follows */
      free(l->logits);
      t->n_lists--;
    }
  }
  assert_true(t->n_lists > 0);
  write_text(ref.inst, t, words);
  model_close(&ref);
}

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int32_t n_texts; /* tokens compared, of all models */

static void check_model(const golden_model *g, weir_dtype kv, uint64_t seed) {
  trial t = {.g = g, .v = golden_vectors(g)};
  text want, recorded, plain;
  const double start = seconds();
  srand((unsigned)seed + 3);
  make_reference(&t, kv, &want);
  t.m = open_cuda(g, kv, false, seed);
  const class_of c = class_of_model(&t.m);
  t.most = bounds[c].most;
  t.worst = 0;
  t.got = malloc((size_t)MOST * (size_t)t.vocab * sizeof *t.got);
  const double whole = seconds();
  const list *longest = &t.list[t.n_lists - 1];
  for (int32_t s = full ? 0 : t.n_lists - 1; s < t.n_lists; s++) {
    feed(&t.m, t.list[s].id, 0, t.list[s].n, straight_pages(), t.got);
    near_reference(&t, t.got, &t.list[s], 0, t.list[s].n, "whole");
  }
  const double pieces = seconds();
  check_pieces(&t, longest, 0, "in chunks");
  if (full) check_pieces(&t, longest, 1, "token by token");
  check_batched(&t);
  check_subset(&t);
  check_copies(&t);
  const double texts = seconds();
  write_text(t.m.inst, &t, &recorded);
  const int32_t n = same_text(&t, &recorded, &want, largest(&t));
  n_texts += n;
  assert_int_equal(cu_shim_count().n_graph_launches, n_new() - 2); /* the first step is run as it is */
  close_cuda(&t.m);
  t.m = open_cuda(g, kv, true, seed + 1);
  write_text(t.m.inst, &t, &plain);
  assert_int_equal(cu_shim_count().n_graph_launches, 0);
  same_rows(&t, &recorded, &plain);
  close_cuda(&t.m);
  print_message("%-18s %-9s KV %s: worst row %.2e, %d tokens of text; s: %.2f whole, %.2f all, text %.2f\n",
                g->name, bounds[c].name, kv == WEIR_F16 ? "F16" : "F32", t.worst, n, pieces - whole,
                seconds() - start, seconds() - texts);
  for (int32_t s = 0; s < t.n_lists; s++) free(t.list[s].logits);
  free(t.got);
  wvec_free(&t.v);
}

/* Every weight type in one; caps, windows, post norms. */
static bool in_smoke(const golden_model *g) {
  static const char *const name[] = {"llama-mixed", "gemma2-BF16"};
  for (size_t i = 0; i < sizeof name / sizeof *name; i++)
    if (strcmp(g->name, name[i]) == 0) return true;
  return false;
}

static const char *only; /* beginning of a name; NULL: all */

static void test_models(void **state) {
  (void)state;
  for (int32_t kv = 0; kv < (full ? 2 : 1); kv++)
    for (int32_t k = 0; k < GOLDEN_MODELS; k++) {
      const golden_model *g = &golden_models[k];
      if (!full && !in_smoke(g)) continue;
      if (only && strncmp(g->name, only, strlen(only)) != 0) continue;
      check_model(g, kv ? WEIR_F32 : WEIR_F16, (uint64_t)k);
    }
  assert_true(only || n_texts > 0);
}

/* test_cuda_models [full [NAME]] */
int main(int argc, char **argv) {
  full = argc > 1 && strcmp(argv[1], "full") == 0;
  only = argc > 2 ? argv[2] : NULL;
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_models)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
