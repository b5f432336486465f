/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by the tests of the operations: devices of every instruction set, matrices with guard columns whose
 * contents start as NaN, seeded numbers. Everything reports through cmocka. */
#ifndef WEIR_TESTS_KERN_UTIL_H
#define WEIR_TESTS_KERN_UTIL_H
#include <stdint.h>

#include "kernels/cpu/cpu.h"

/* Devices to test on: each instruction set of this machine with one thread, and the best with 2, 3 and 4. */
enum { KERN_MAX_DEVS = 8 };
typedef struct kern_devs {
  int n;
  weir_dev *dev[KERN_MAX_DEVS];
  weir_isa isa[KERN_MAX_DEVS];
  int threads[KERN_MAX_DEVS];
} kern_devs;
/* All reserved for `lim`. Prints what it opened; an instruction set the machine lacks is named and left out.
 */
void kern_devs_open(kern_devs *d, const weir_dev_limits *lim);
void kern_devs_close(kern_devs *d);

/* Numbers. */
typedef struct kern_rng {
  uint64_t s;
} kern_rng;
uint64_t kern_u64(kern_rng *r);
int32_t kern_below(kern_rng *r, int32_t n);
double kern_unit(kern_rng *r); /* (0,1) */
float kern_normal(kern_rng *r);
float *kern_normals(kern_rng *r, size_t n, float scale); /* owned by the caller; free() */
/* Stored blocks of a quantised type: every bit random but those of the scales, which make values of about
 * one. */
void kern_blocks(kern_rng *r, weir_dtype t, size_t n_blocks, uint8_t *out);
void kern_shuffle(kern_rng *r, int32_t *x, int32_t n);

/* Device matrices with ld = cols + pad; everything NaN at first, guard columns too. */
weir_mat kern_mat(weir_dev *dev, int32_t rows, int32_t cols, int32_t pad);
void kern_put(weir_dev *dev, weir_mat m, const float *dense); /* [rows*cols] */
float *kern_get(weir_dev *dev, weir_mat m); /* dense copy, free(); fails when a guard column was written */
void kern_mat_free(weir_dev *dev, weir_mat m);
/* A device copy of host bytes. */
void *kern_copy(weir_dev *dev, const void *host, size_t bytes);

/* max |a-b| / max(|b|) over a row of doubles; NaN in `a` gives infinity. */
double kern_row_error(const float *a, const double *b, int32_t n);
void kern_ok(weir_status st, const weir_err *e, const char *what);
void kern_same(const void *a, const void *b, size_t bytes, const char *what); /* to the bit */

#endif
