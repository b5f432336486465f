/* SPDX-License-Identifier: Apache-2.0 */
/* Seeded random numbers for loads: the same seed gives the same load on every machine. */
#ifndef WEIR_LOAD_RAND_H
#define WEIR_LOAD_RAND_H
#include <stdint.h>

typedef struct weir_rand {
  uint64_t s[4];
} weir_rand;

/* Streams of one seed are independent of each other: arrivals do not change when the data do. */
void weir_rand_init(weir_rand *, uint64_t seed, uint64_t stream);
uint64_t weir_rand_bits(weir_rand *);
double weir_rand_unit(weir_rand *);                /* in [0, 1) */
uint64_t weir_rand_below(weir_rand *, uint64_t n); /* in [0, n), without bias; n > 0 */
double weir_rand_normal(weir_rand *);              /* mean 0, variance 1 */
double weir_rand_exponential(weir_rand *);         /* mean 1 */
double weir_rand_gamma(weir_rand *, double shape); /* mean 1, variance 1/shape; shape > 0 */
#endif
