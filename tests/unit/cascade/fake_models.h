/* SPDX-License-Identifier: Apache-2.0 */
/* Fake language models over a vocabulary of five tokens, and the sample op for them in double precision: what
 * the cascade tests use in place of a device. Token 0 ends a text, and so does 3 followed by 1. */
#ifndef WEIR_TESTS_FAKE_MODELS_H
#define WEIR_TESTS_FAKE_MODELS_H
#include <stdbool.h>
#include <stdint.h>

#include "cascade/policy.h"

enum { FAKE_V = 5, FAKE_CTX = 97, FAKE_MODELS = 3, FAKE_LONG = 64, FAKE_EOS = 0 };

/* Random choices of a test; never a source of tokens. */
void fake_seed(uint64_t seed);
uint32_t fake_rnd(uint32_t n);

/* New random laws. Model 2 is the reference; 1 is close to it, 0 further away. */
void fake_models_make(uint64_t seed);
/* Models are aligned at the top: in a cascade of two tiers, tier 1 is model 2. */
int32_t fake_model_of(const weir_cascade_cfg *, int32_t tier);

int32_t fake_context(const int32_t *tok, int32_t n);
/* [FAKE_V] what a draw at this temperature and top_k follows; one-hot at temperature 0. Valid until it is
 * asked for at another temperature or top_k. */
const double *fake_law(int32_t model, int32_t ctx, float temperature, int32_t top_k);
/* The row at temperature 1 without a draw: entropy, p_max, margin. */
const weir_row *fake_stats(int32_t model, int32_t ctx);
const double *fake_raw(int32_t model, int32_t ctx); /* [FAKE_V] at temperature 1 */
/* The sample op. */
void fake_row(weir_row *out, int32_t model, int32_t ctx, const weir_ask *);

bool fake_ended(const int32_t *tok, int32_t n, int32_t n_prompt, int32_t n_max);

/* `--long` among the arguments: the full campaign instead of the quick one. */
bool fake_long(int argc, char **argv);

/* How a test names itself when it fails: the suite and the case number that reproduces it. */
void fake_case(const char *suite, long number);
void fake_fail(const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 3, 4), noreturn));
#define FAKE_CHECK(cond, ...)                                \
  do {                                                       \
    if (!(cond)) fake_fail(__FILE__, __LINE__, __VA_ARGS__); \
  } while (0)

#endif
