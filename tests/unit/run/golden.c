/* SPDX-License-Identifier: Apache-2.0 */
/* Golden vectors and tiny models for tests. */
#include "golden.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/mfile.h"
#include "run/forward.h"

static void must(weir_status st, const weir_err *e) {
  if (st != WEIR_OK) fail_msg("%s", e->msg);
}

static void get(FILE *f, void *to, size_t bytes, const char *path) {
  if (fread(to, 1, bytes, f) != bytes) fail_msg("%s is too short", path);
}

wvec wvec_read(const char *path) {
  char magic[4];
  uint32_t head[3];
  FILE *f = fopen(path, "rb");
  if (!f) fail_msg("cannot open %s", path);
  get(f, magic, sizeof magic, path);
  get(f, head, sizeof head, path);
  if (memcmp(magic, "WVEC", 4) != 0 || head[0] != 1) fail_msg("%s is no WVEC of version 1", path);
  wvec v = {.n_seqs = (int32_t)head[1], .n_vocab = (int32_t)head[2]};
  v.seq = calloc(head[1], sizeof *v.seq);
  for (int32_t i = 0; i < v.n_seqs; i++) {
    uint32_t n;
    get(f, &n, sizeof n, path);
    wvec_seq *s = &v.seq[i];
    s->n_tokens = (int32_t)n;
    s->id = malloc(n * sizeof *s->id);
    s->logits = malloc((size_t)n * head[2] * sizeof(float));
    get(f, s->id, n * sizeof *s->id, path);
    get(f, s->logits, (size_t)n * head[2] * sizeof(float), path);
  }
  fclose(f);
  return v;
}

void wvec_free(wvec *v) {
  for (int32_t i = 0; i < v->n_seqs; i++) {
    free(v->seq[i].id);
    free(v->seq[i].logits);
  }
  free(v->seq);
}

const golden_model golden_models[GOLDEN_MODELS] = {
    {"llama-F32", "llama-F32", 1e-5, 0, false, 0},
    {"llama-tied-F16", "llama-tied-F16", 1e-5, 0, false, 0},
    {"llama-tied-BF16", "llama-tied-BF16", 1e-5, 0, false, 0},
    {"qwen2-padded-F32", "qwen2-padded-F32", 1e-5, 0, false, 0},
    {"qwen3-F32", "qwen3-F32", 1e-5, 0, false, 0},
    {"stories260k", "stories260k", 1e-5, 0, false, 0},
    {"llama-Q8_0", "llama-Q8_0", 0, 0.2, true, 0},
    {"llama-Q4_0", "llama-Q4_0", 0, 0.2, true, 0},
    {"llama-mixed", "llama-mixed", 0, 0.2, true, 0},
    {"qwen2-padded-Q8_0", "qwen2-padded-Q8_0", 0, 0.2, true, 0},
    {"qwen3-Q4_0", "qwen3-Q4_0", 0, 0.2, true, 0},
    {"pair-small", "pair-small", 0, 0.2, true, 0},
    {"pair-large", "pair-large", 0, 0.2, true, 0},
    {"llama-K-mixed", "llama-K-mixed", 0, 0.2, true, 0},
    {"llama3-BF16", "llama3", 1e-5, 0, false, 0},
    {"hf-llama3", "llama3", 1e-5, 0, false, 0},
    {"llama-linear-BF16", "llama-linear", 1e-5, 0, false, 0},
    {"hf-smollm", "smollm", 1e-5, 0, false, 0},
    {"mistral-Q8_0", NULL, 0, 0, true, 0},
    {"hf-mistral", "mistral", 1e-5, 0, false, 0},
    {"mixtral-BF16", "mixtral", 1e-5, 0, false, 0},
    {"mixtral-Q4_0", NULL, 0, 0, true, 0},
    {"hf-mixtral", "mixtral", 1e-5, 0, false, 0},
    {"qwen2-yarn-BF16", "qwen2-yarn", 1e-5, 0, false, 0},
    {"hf-qwen2-yarn", "qwen2-yarn", 1e-5, 0, false, 0},
    {"hf-qwen3", "qwen3", 1e-5, 0, false, 0},
    {"qwen3moe-Q8_0", NULL, 0, 0, true, 0},
    {"hf-qwen3moe", "qwen3moe", 1e-5, 0, false, 0},
    {"hf-qwen3moe-plain", "qwen3moe-plain", 1e-5, 0, false, 0},
    {"gemma2-BF16", "gemma2", 1e-5, 0, false, 0},
    {"gemma2-Q8_0", NULL, 0, 0, true, 0},
    {"hf-gemma2", "gemma2", 1e-5, 0, false, 0},
    {"gemma3-BF16", "gemma3", 1e-5, 0, false, 0},
    {"gemma3-Q4_0", NULL, 0, 0, true, 0},
    {"hf-gemma3", "gemma3", 1e-5, 0, false, 0},
    {"phi3-BF16", "phi3", 1e-5, 0, false, 0},
    {"phi3-BF16", "phi3-short", 1e-5, 0, false, 32},
    {"phi3-Q8_0", NULL, 0, 0, true, 0},
    {"hf-phi3", "phi3", 1e-5, 0, false, 0},
    {"hf-phi3", "phi3-short", 1e-5, 0, false, 32},
    {"phi3-window-BF16", "phi3-window", 1e-5, 0, false, 0},
    {"hf-llama3-gptq", "llama3-gptq", 0, 0.4, true, 0},
    {"hf-qwen2-awq", "qwen2-awq", 0, 0.4, true, 0},
    {"hf-qwen3moe-fp8", "qwen3moe-fp8", 1e-5, 0, false, 0},
};

static wvec vectors_in(const char *folder, const char *name) {
  char path[256];
  snprintf(path, sizeof path, "tests/vectors/%s/%s.wvec", folder, name);
  return wvec_read(path);
}
wvec golden_vectors(const golden_model *g) {
  return g->exact ? vectors_in("logits", g->exact) : golden_vectors_rounded(g);
}
wvec golden_vectors_rounded(const golden_model *g) { return vectors_in("logits-q8", g->name); }

const weir_isa golden_isas[GOLDEN_ISAS] = {WEIR_ISA_SCALAR, WEIR_ISA_AVX2, WEIR_ISA_AVX512_VNNI,
                                           WEIR_ISA_AMX};

bool have_isa(weir_isa isa) {
  weir_dev *d;
  weir_err e;
  const weir_cpu_opts o = {.n_threads = 1, .isa = isa};
  if (weir_dev_open_cpu(&o, &d, &e) != WEIR_OK) return false;
  weir_dev_destroy(d);
  return true;
}

const int32_t *straight_pages(void) {
  static int32_t page[GOLDEN_PAGES];
  for (int32_t i = 0; i < GOLDEN_PAGES; i++) page[i] = i;
  return page;
}

static model open_model(const char *name, int32_t n_ctx, int32_t max_tokens, weir_dev *dev, weir_dtype kv) {
  model m = {.dev = dev};
  weir_err e = {0};
  weir_mfile *g;
  weir_hparams h;
  char path[256];
  const bool is_path = strchr(name, '/') != NULL, is_dir = strncmp(name, "hf-", 3) == 0;
  snprintf(path, sizeof path, "%s%s%s", is_path ? "" : "tests/vectors/models/", name,
           is_path || is_dir ? "" : ".gguf");
  must(weir_mfile_open(path, &g, &e), &e);
  must(weir_hparams_read(g, &h, &e), &e);
  const weir_instance_opts o = {.n_ctx = n_ctx,
                                .n_pages = GOLDEN_PAGES,
                                .max_tokens = max_tokens,
                                .max_seqs = GOLDEN_MAX_SEQS,
                                .kv_dtype = kv};
  must(weir_instance_create(m.dev, g, &h, &o, &m.inst, &e), &e);
  weir_mfile_close(g); /* nothing may point into the file any more */
  return m;
}

static model open_on_cpu(const char *name, int32_t n_ctx, weir_isa isa, int32_t n_threads, weir_dtype kv) {
  weir_err e = {0};
  weir_dev *dev;
  const weir_cpu_opts cpu = {.n_threads = n_threads, .isa = isa, .no_pin = true, .amx_small = true};
  must(weir_dev_open_cpu(&cpu, &dev, &e), &e);
  return open_model(name, n_ctx, GOLDEN_MAX_TOKENS, dev, kv);
}

model model_open_on(weir_dev *takes, const golden_model *g, int32_t max_tokens, weir_dtype kv) {
  return open_model(g->name, g->n_ctx, max_tokens, takes, kv);
}

model model_open(const char *name, weir_isa isa, int32_t n_threads, weir_dtype kv) {
  return open_on_cpu(name, 0, isa, n_threads, kv);
}
model model_open_golden(const golden_model *g, weir_isa isa, int32_t n_threads, weir_dtype kv) {
  return open_on_cpu(g->name, g->n_ctx, isa, n_threads, kv);
}

void model_close(model *m) {
  weir_instance_destroy(m->inst);
  weir_dev_destroy(m->dev);
}

void feed(model *m, const int32_t *tok, int32_t from, int32_t to, const int32_t *page, float *logits) {
  weir_err e = {0};
  weir_batch_builder b;
  must(weir_batch_builder_init(&b, GOLDEN_MAX_TOKENS, 1, GOLDEN_PAGES, 1, &e), &e);
  const weir_batch_seq s = {tok, from, to, page, (to + 15) / 16};
  const int32_t first = weir_batch_add(&b, &s);
  for (int32_t i = 0; i < to - from; i++) weir_batch_ask(&b, first + i);
  const weir_batch batch = weir_batch_get(&b);
  must(weir_forward_logits(m->inst, &batch, logits, &e), &e);
  weir_batch_builder_fini(&b);
}
