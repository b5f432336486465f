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

model model_open(const char *name, weir_isa isa, int32_t n_threads, weir_dtype kv) {
  model m = {0};
  weir_err e = {0};
  weir_mfile *g;
  weir_hparams h;
  char path[256];
  snprintf(path, sizeof path, strchr(name, '/') ? "%s" : "tests/vectors/models/%s.gguf", name);
  const weir_cpu_opts cpu = {.n_threads = n_threads, .isa = isa, .no_pin = true};
  must(weir_dev_open_cpu(&cpu, &m.dev, &e), &e);
  must(weir_mfile_open(path, &g, &e), &e);
  must(weir_hparams_read(g, &h, &e), &e);
  const weir_instance_opts o = {
      .n_pages = GOLDEN_PAGES, .max_tokens = GOLDEN_MAX_TOKENS, .max_seqs = GOLDEN_MAX_SEQS, .kv_dtype = kv};
  must(weir_instance_create(m.dev, g, &h, &o, &m.inst, &e), &e);
  weir_mfile_close(g); /* nothing may point into the file any more */
  return m;
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
