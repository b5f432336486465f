/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by the tests of linear on CUDA: stored weights with what they mean, the product in double, one call.
 */
#ifndef WEIR_TESTS_CUDA_LINEAR_UTIL_H
#define WEIR_TESTS_CUDA_LINEAR_UTIL_H
#include "cuda_util.h"

typedef struct linear_weight {
  int32_t rows, cols;
  float *w; /* [rows][cols], what the stored rows mean; owned */
  weir_host_mat part[4];
  int32_t n_parts;
  weir_weight prepared;
} linear_weight;

/* Parts of rows[i] rows of type[i] each: random blocks of quantised types, normals of the others. */
linear_weight linear_make(weir_dev *dev, kern_rng *r, const weir_dtype *type, const int32_t *rows,
                          int32_t n_parts, int32_t cols);
/* Stored anew and prepared anew from data that a test has changed. */
void linear_refresh(weir_dev *dev, linear_weight *w);
void linear_free(linear_weight *w);
uint8_t *linear_data(linear_weight *w, int32_t part); /* stored bytes, to be changed */

/* Fails when a row of got[n][rows] is wrong, against x[n][cols] W^T + bias (NULL: none) in double, by more
 * than `most`: its largest difference over its largest element, or over the root of the sum of squares of an
 * element's terms where that is more (of few features all may come out small by cancellation). Returns the
 * worst. */
double linear_near(const linear_weight *w, const float *x, int32_t n, const float *bias, const float *got,
                   double most, const char *what);
/* x W^T + bias by weir_op_linear; owned by the caller. x and y lie in matrices with `pad` columns more; 3
 * makes rows unaligned. */
float *linear_run(weir_dev *dev, const linear_weight *w, const float *x, int32_t n, const float *bias,
                  int32_t pad);

/* `t` takes rows of `cols`. */
bool linear_legal(weir_dtype t, int32_t cols);
/* A case in words, for messages; static. */
const char *linear_name(weir_dtype t, int32_t rows, int32_t cols, int32_t n);

#endif
