/* SPDX-License-Identifier: Apache-2.0 */
/* What a rank reads of a file: its own part and nothing else. Which bytes those are is worked out here once
 * more, from the names and shapes of the tensors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "tp_group.h"

static void must(weir_status st, const weir_err *e) {
  if (st != WEIR_OK) fail_msg("%s", e->msg);
}

/* A file in memory of its own, on whole pages. */
typedef struct copy {
  uint8_t *data;
  size_t len, bytes;
  weir_mfile *file;
} copy;

static copy copy_of(const char *name) {
  char path[128];
  copy c = {0};
  weir_err e = {0};
  snprintf(path, sizeof path, "tests/vectors/models/%s.gguf", name);
  FILE *f = fopen(path, "rb");
  if (!f || fseek(f, 0, SEEK_END) != 0) fail_msg("cannot open %s", path);
  const long len = ftell(f);
  assert_true(len > 0);
  rewind(f);
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);
  c.len = (size_t)len;
  c.bytes = (c.len + page - 1) / page * page;
  c.data = mmap(NULL, c.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  assert_true(c.data != MAP_FAILED);
  assert_int_equal(fread(c.data, 1, c.len, f), c.len);
  fclose(f);
  must(weir_mfile_parse_gguf(c.data, c.len, &c.file, &e), &e);
  return c;
}

static void copy_free(copy *c) {
  weir_mfile_close(c->file);
  munmap(c->data, c->bytes);
}

/* ---- whose a byte is ---- */

/* The bytes that belong to nobody but other ranks, as 1s. */
typedef struct mask {
  uint8_t *foreign; /* [len] */
  int64_t own;      /* bytes of tensors that are the rank's */
} mask;

static bool ends_in(weir_str name, const char *what) {
  const size_t n = strlen(what);
  return name.len >= n && memcmp(name.data + name.len - n, what, n) == 0;
}

/* Marks rows as the rank's; of vectors a row is an element. */
static void own_rows(uint8_t *of_tensor, const weir_gguf_tensor *t, int64_t rows, int64_t first, int64_t n) {
  const size_t each = t->bytes / (size_t)rows;
  memset(of_tensor + (size_t)first * each, 0, (size_t)n * each);
}

static void own_cols(uint8_t *of_tensor, const weir_gguf_tensor *t, int64_t first, int64_t n) {
  const int64_t rows = t->dim[1] * t->dim[2];
  const size_t each = t->bytes / (size_t)rows, per_col_num = each, cols = (size_t)t->dim[0];
  for (int64_t r = 0; r < rows; r++)
    memset(of_tensor + (size_t)r * each + (size_t)first * per_col_num / cols, 0,
           (size_t)n * per_col_num / cols);
}

static mask mask_of(const copy *c, const weir_hparams *h, const weir_shard *s) {
  mask m = {.foreign = calloc(c->len, 1)};
  const weir_gguf *g = weir_mfile_gguf(c->file);
  const int64_t d = h->head_dim, n_q = h->n_heads * d, n_kv = h->n_kv_heads * d;
  for (int64_t i = 0; i < weir_gguf_n_tensors(g); i++) {
    const weir_gguf_tensor *t = weir_gguf_tensor_at(g, i);
    uint8_t *at = m.foreign + ((const uint8_t *)t->data - c->data);
    if (ends_in(t->name, "rope_factors_long.weight") || ends_in(t->name, "rope_factors_short.weight"))
      continue; /* read with the model's numbers */
    memset(at, 1, t->bytes);
    const int64_t rows = t->n_dims == 1 ? t->dim[0] : t->dim[1];
    if (ends_in(t->name, "token_embd.weight") || weir_str_eq(t->name, weir_str_of("output.weight"))) {
      own_rows(at, t, rows, s->vocab.first, s->vocab.n);
    } else if (ends_in(t->name, "attn_q.weight") || ends_in(t->name, "attn_q.bias")) {
      own_rows(at, t, rows, s->heads.first * d, s->heads.n * d);
    } else if (ends_in(t->name, "attn_k.weight") || ends_in(t->name, "attn_k.bias") ||
               ends_in(t->name, "attn_v.weight") || ends_in(t->name, "attn_v.bias")) {
      own_rows(at, t, rows, s->kv_heads.first * d, s->kv_heads.n * d);
    } else if (ends_in(t->name, "attn_qkv.weight")) {
      own_rows(at, t, rows, s->heads.first * d, s->heads.n * d);
      own_rows(at, t, rows, n_q + s->kv_heads.first * d, s->kv_heads.n * d);
      own_rows(at, t, rows, n_q + n_kv + s->kv_heads.first * d, s->kv_heads.n * d);
    } else if (ends_in(t->name, "attn_output.weight")) {
      own_cols(at, t, s->att.first, s->att.n);
    } else if (ends_in(t->name, "ffn_down.weight") || ends_in(t->name, "ffn_down_exps.weight")) {
      own_cols(at, t, s->ff.first, s->ff.n);
    } else if (ends_in(t->name, "ffn_gate_exps.weight") || ends_in(t->name, "ffn_up_exps.weight")) {
      for (int64_t x = 0; x < h->n_experts; x++)
        own_rows(at, t, h->n_experts * h->expert_ff, x * h->expert_ff + s->ff.first, s->ff.n);
    } else if (ends_in(t->name, "ffn_gate.weight") || ends_in(t->name, "ffn_up.weight")) {
      own_rows(at, t, rows, s->ff.first, s->ff.n);
      if (rows == 2 * h->n_ff) own_rows(at, t, rows, h->n_ff + s->ff.first, s->ff.n); /* gate | up */
    } else {
      memset(at, 0, t->bytes);
    }
    for (size_t k = 0; k < t->bytes; k++) m.own += !at[k];
  }
  return m;
}

/* ---- */

static const struct {
  const char *name;
  int32_t n_ranks;
} rows[] = {{"llama-F32", 2},        {"llama-F32", 4},    {"llama-Q8_0", 3},    {"llama-K-mixed", 3},
            {"llama-tied-F16", 4},   {"mistral-Q8_0", 2}, {"mixtral-Q4_0", 2},  {"qwen2-padded-Q8_0", 3},
            {"qwen2-padded-F32", 2}, {"qwen3-Q4_0", 2},   {"qwen3moe-Q8_0", 2}, {"gemma2-Q8_0", 2},
            {"gemma3-BF16", 2},      {"phi3-BF16", 2},    {"phi3-Q8_0", 3},     {"phi3-window-BF16", 4},
            {"stories260k", 3},      {"llama-mixed", 2}};
enum { N_ROWS = sizeof rows / sizeof *rows };

static const int32_t prompt[] = {1, 5, 9, 13, 2, 77, 200};
enum { N_PROMPT = sizeof prompt / sizeof *prompt };

typedef struct seen {
  int64_t done, total;
} seen;

static void see(void *ctx, int64_t done, int64_t total) {
  seen *s = ctx;
  assert_true(done > s->done && done <= total && (s->total == 0 || s->total == total));
  *s = (seen){done, total};
}

/* Fills what is foreign with bytes that are NaN in every type (a number, or a block's scale), and takes pages
 * that are foreign from end to end out of reach. Returns how many pages. */
static int32_t spoil(copy *c, const mask *m) {
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);
  int32_t away = 0;
  for (size_t i = 0; i < c->len; i++)
    if (m->foreign[i]) c->data[i] = 0xff;
  for (size_t p = 0; p + page <= c->len; p += page) {
    bool all = true;
    for (size_t i = p; i < p + page; i++) all &= m->foreign[i];
    if (all && mprotect(c->data + p, page, PROT_NONE) == 0) away++;
  }
  return away;
}

static void a_rank_reads_its_own_part(void **state) {
  (void)state;
  int32_t pages = 0;
  for (int32_t k = 0; k < N_ROWS; k++) {
    const int32_t n = rows[k].n_ranks;
    copy whole = copy_of(rows[k].name), part[TP_MAX];
    const weir_mfile *each[TP_MAX];
    weir_load_progress progress[TP_MAX];
    seen saw[TP_MAX] = {{0, 0}};
    mask m[TP_MAX];
    weir_hparams h;
    weir_err e = {0};
    must(weir_hparams_read(whole.file, &h, &e), &e);
    for (int32_t r = 0; r < n; r++) {
      weir_shard s;
      must(weir_shard_plan(&h, whole.file, r, n, &s, &e), &e);
      part[r] = copy_of(rows[k].name);
      m[r] = mask_of(&part[r], &h, &s);
      pages += spoil(&part[r], &m[r]);
      each[r] = part[r].file;
      progress[r] = (weir_load_progress){.report = see, .ctx = &saw[r]};
    }
    const tp_opts o = {.n_ranks = n, .isa = WEIR_ISA_BEST, .kv = WEIR_F32},
                  spoilt = {
                      .n_ranks = n, .isa = WEIR_ISA_BEST, .kv = WEIR_F32, .each = each, .progress = progress};
    tp_group want_of = tp_open_file(whole.file, &o), got_of = tp_open_file(whole.file, &spoilt);
    const size_t bytes = (size_t)N_PROMPT * (size_t)h.n_vocab * sizeof(float);
    float *want = malloc(bytes), *got = malloc(bytes);
    tp_feed(&want_of, prompt, 0, N_PROMPT, straight_pages(), want);
    tp_feed(&got_of, prompt, 0, N_PROMPT, straight_pages(), got);
    if (memcmp(want, got, bytes) != 0) fail_msg("%s on %d ranks: other ranks' bytes matter", rows[k].name, n);
    for (int32_t r = 0; r < n; r++)
      if (saw[r].done != m[r].own || saw[r].total != m[r].own)
        fail_msg("%s: rank %d of %d read %lld of %lld bytes, its part is %lld", rows[k].name, r, n,
                 (long long)saw[r].done, (long long)saw[r].total, (long long)m[r].own);
    tp_close(&want_of);
    tp_close(&got_of);
    free(want);
    free(got);
    for (int32_t r = 0; r < n; r++) {
      copy_free(&part[r]);
      free(m[r].foreign);
    }
    copy_free(&whole);
  }
  print_message("%d pages were out of reach\n", pages);
  assert_true(pages > 100);
}

/* The same with one block of the rank's own spoilt in each of its weights: then the answers change, or the
 * test above could not fail. */
static void own_bytes_matter(void **state) {
  (void)state;
  static const char *const what[] = {"attn_q.weight", "attn_v.weight", "attn_output.weight", "ffn_up.weight",
                                     "ffn_down.weight"};
  const char *name = "llama-Q8_0";
  copy whole = copy_of(name);
  weir_hparams h;
  weir_shard s;
  weir_err e = {0};
  must(weir_hparams_read(whole.file, &h, &e), &e);
  must(weir_shard_plan(&h, whole.file, 1, 2, &s, &e), &e);
  const size_t bytes = (size_t)N_PROMPT * (size_t)h.n_vocab * sizeof(float);
  float *want = malloc(bytes), *got = malloc(bytes);
  tp_group g = tp_open_file(whole.file, &(tp_opts){.n_ranks = 2, .isa = WEIR_ISA_BEST, .kv = WEIR_F32});
  tp_feed(&g, prompt, 0, N_PROMPT, straight_pages(), want);
  tp_close(&g);
  for (size_t k = 0; k < sizeof what / sizeof *what; k++) {
    char tensor[64];
    copy part = copy_of(name);
    mask m = mask_of(&part, &h, &s);
    snprintf(tensor, sizeof tensor, "blk.1.%s", what[k]);
    const weir_gguf_tensor *t = weir_gguf_find(weir_mfile_gguf(part.file), tensor);
    assert_non_null(t);
    size_t at = (size_t)((const uint8_t *)t->data - part.data);
    while (m.foreign[at]) at++;
    part.data[at] ^= 0x40; /* of the first block's scale */
    part.data[at + 1] ^= 0x04;
    g = tp_open_file(whole.file, &(tp_opts){.n_ranks = 2,
                                            .isa = WEIR_ISA_BEST,
                                            .kv = WEIR_F32,
                                            .each = (const weir_mfile *[]){whole.file, part.file}});
    tp_feed(&g, prompt, 0, N_PROMPT, straight_pages(), got);
    if (memcmp(want, got, bytes) == 0) fail_msg("a block of rank 1's %s does not matter", tensor);
    tp_close(&g);
    copy_free(&part);
    free(m.foreign);
  }
  free(want);
  free(got);
  copy_free(&whole);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(a_rank_reads_its_own_part),
                                     cmocka_unit_test(own_bytes_matter)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
