/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by the tests of engine/run: golden vectors (tests/vectors/README.md), models opened on a CPU device,
 * and whole sequences fed in any way. Failures end the test. */
#ifndef WEIR_TESTS_GOLDEN_H
#define WEIR_TESTS_GOLDEN_H
#include <stdbool.h>
#include <stdint.h>

#include "kernels/cpu/cpu.h"
#include "run/instance.h"
#include "step/batch.h"

typedef struct wvec_seq {
  int32_t n_tokens, *id;
  float *logits; /* [n_tokens, n_vocab] */
} wvec_seq;

typedef struct wvec {
  int32_t n_seqs, n_vocab;
  wvec_seq *seq;
} wvec;

wvec wvec_read(const char *path);
void wvec_free(wvec *);

typedef struct model {
  weir_dev *dev;
  weir_instance *inst;
} model;

enum { GOLDEN_MAX_TOKENS = 512, GOLDEN_MAX_SEQS = 6, GOLDEN_PAGES = 96 };

/* A tiny model and what it is held against. Bounds are on the worst row: largest deviation over the row's
 * largest logit, for float weights; root mean square over the row for quantised ones, whose activations are
 * rounded to 8 bits (tests/vectors/README.md has what the reference itself makes of that rounding). Families
 * come as GGUF and as Hugging Face has them; weights that are the same have one golden. */
typedef struct golden_model {
  const char *name;
  const char *exact; /* logits/<exact>.wvec; NULL: there is none */
  double rel, rms;   /* bounds on these; 0: not asked */
  bool rounded;      /* logits-q8/<name>.wvec is there */
  int32_t n_ctx;     /* 0: the model's own */
} golden_model;

enum { GOLDEN_MODELS = 44 };
extern const golden_model golden_models[GOLDEN_MODELS];

/* Sequences of a model, with its exact logits where there are such; or with those of rounded activations. */
wvec golden_vectors(const golden_model *);
wvec golden_vectors_rounded(const golden_model *);

enum { GOLDEN_ISAS = 4 };
extern const weir_isa golden_isas[GOLDEN_ISAS];
/* Whether this machine has it. */
bool have_isa(weir_isa);

/* 0, 1, 2, ...: [GOLDEN_PAGES]. */
const int32_t *straight_pages(void);

/* Of tests/vectors/models: "hf-..." a directory, else a GGUF file; with a '/': a path. */
model model_open(const char *name, weir_isa isa, int32_t n_threads, weir_dtype kv);
model model_open_golden(const golden_model *, weir_isa isa, int32_t n_threads, weir_dtype kv);
/* The same on any device, which the model takes; steps of at most max_tokens rows. */
model model_open_on(weir_dev *takes, const golden_model *, int32_t max_tokens, weir_dtype kv);
void model_close(model *);

/* Feeds tok[from, to) of a sequence living in pages page[], alone in its batch; logits of these rows. */
void feed(model *, const int32_t *tok, int32_t from, int32_t to, const int32_t *page, float *logits);

#endif
