/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by the tests of engine/run: golden vectors (tests/vectors/README.md), models opened on a CPU device,
 * and whole sequences fed in any way. Failures end the test. */
#ifndef WEIR_TESTS_GOLDEN_H
#define WEIR_TESTS_GOLDEN_H
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

model model_open(const char *name, weir_isa isa, int32_t n_threads,
                 weir_dtype kv); /* of tests/vectors/models */
void model_close(model *);

/* Feeds tok[from, to) of a sequence living in pages page[], alone in its batch; logits of these rows. */
void feed(model *, const int32_t *tok, int32_t from, int32_t to, const int32_t *page, float *logits);

#endif
