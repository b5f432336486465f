/* SPDX-License-Identifier: Apache-2.0 */
/* Sums over ranks in host memory: what makes results the same bits on every rank and in every back end. */
#ifndef WEIR_COMM_SUM_H
#define WEIR_COMM_SUM_H
#include <stddef.h>
#include <stdint.h>

/* y[n] = the sum of from[n_ranks][n] in order of rank, each element by itself; n_ranks >= 2, y may be one of
 * them. */
void weir_comm_sum(float *y, const float *const *from, int32_t n_ranks, size_t n);

/* Of n numbers the part that a rank adds up for all; the last ranks' may be empty. Parts are whole cache
 * lines. */
typedef struct weir_comm_part {
  size_t at, n;
} weir_comm_part;
weir_comm_part weir_comm_part_of(size_t n, int32_t rank, int32_t n_ranks);

#endif
