/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by the tests of the sample op: random rows and asks, one way of calling the op on a device and one
 * in pretended shards, and the comparison with the reference. Failures end the test. */
#ifndef WEIR_TESTS_SAMPLE_UTIL_H
#define WEIR_TESTS_SAMPLE_UTIL_H
#include <stdint.h>

#include "kern_util.h"
#include "kernels/cpu/simd.h"
#include "kernels/sample_core.h"
#include "sample_ref.h"

enum { MAX_VOCAB = 152064, MAX_ROWS = 64 };
extern const weir_dev_limits sample_limits;

weir_ask plain_ask(float temperature, uint64_t seed, int32_t pos);
weir_ask random_ask(kern_rng *rng, int32_t n);
/* Gives the ask edits of some of the ids below n, few or all, spread or in a block, an n_top, and what else
 * it can have: only_edits, a draft, a law to be told. All of it is in the memory returned, the caller's
 * (free()).
 */
weir_logit_edit *random_extras(kern_rng *rng, int32_t n, weir_ask *ask);
/* Kinds of rows, 0 .. 4: spread, peaked, nearly flat, coarse with many ties, with masked ids. */
void random_logits(kern_rng *rng, float *l, int32_t n, int kind);

/* Laws of the same ask are the same, whoever tells them: the first to tell one writes it to ask.law, whose
 * first id is LAW_UNTOLD until then. begin gives asks with memory for what one device tells, *law; end
 * compares and frees both. */
enum { LAW_UNTOLD = -7 };
weir_ask *laws_begin(const weir_ask *ask, int32_t rows, weir_top **law);
void laws_end(const weir_ask *ask, int32_t rows, weir_ask *own, weir_top *law);
/* Rows of n_valid logits in a matrix that is wider by padding ids, whose logits are NaN; fails when the
 * logits are written, or of top[rows][WEIR_TOP_MAX] (NULL: none) more than was asked for. */
weir_status answer_tops(weir_dev *dev, const float *logits, int32_t rows, int32_t n_valid,
                        const weir_ask *ask, weir_row *out, weir_top *top, weir_err *e);
static inline weir_status answer(weir_dev *dev, const float *logits, int32_t rows, int32_t n_valid,
                                 const weir_ask *ask, weir_row *out, weir_err *e) {
  return answer_tops(dev, logits, rows, n_valid, ask, out, NULL, e);
}
/* One row by n_shards <= 4 pretended shards, each with its own copy of its logits: what a tensor-parallel
 * head will do with messages between the loops. top[WEIR_TOP_MAX]. */
weir_row answer_in_shards(const weir_sample_chunks *ops, const float *logits, int32_t n_valid,
                          const weir_ask *ask, int32_t n_shards, weir_top *top);

typedef struct worst {
  double logprob, entropy, p, margin;
  int close; /* draws the reference decides otherwise by less than rounding */
} worst;
/* A row and its tops against the reference; the verdict on a probe at the threshold is left open. */
void check_row(const weir_row *row, const weir_top *top, const weir_ask *ask, const float *logits, int32_t n,
               worst *w);

/* Sum of (seen - expected)^2 / expected over cells with at least 5 expected; the rest is one cell. */
double chi_squared(const int *seen, const double *p, int32_t cells, int total, int *freedom);

#endif
