/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by the files of check_ops: numbers, device memory, one result, one timing. */
#ifndef WEIR_BENCH_GPU_CHECK_OPS_H
#define WEIR_BENCH_GPU_CHECK_OPS_H
#include <stdbool.h>
#include <stdint.h>

#include "kernels/device.h"

typedef struct ops_check {
  weir_dev *dev;
  bool on_cpu; /* whose bounds are others: it rounds activations to 8 bits */
  bool small;  /* tiny shapes, no timing worth the name */
  int32_t repeats;
  uint64_t seed;
  bool ok; /* of all so far */
} ops_check;

/* (-1, 1), and about normal. */
float ops_unit(ops_check *);
float ops_normal(ops_check *);

/* Device copy of host bytes; host NULL: zeros. */
weir_status ops_place(ops_check *, const void *host, size_t bytes, void **out, weir_err *e);
/* Device matrix without gaps, of numbers ops_normal * scale which also stand in *host (free()); host NULL:
 * zeros. */
weir_status ops_mat(ops_check *, int32_t rows, int32_t cols, float scale, float **host, weir_mat *out,
                    weir_err *e);

/* How many copies of something of `bytes` a timing goes round, so that the L2 holds none when it comes again.
 */
int32_t ops_copies(const ops_check *, size_t bytes);

/* Median time of one of `calls` operations that fn enqueues; played as a record, as steps are, or with
 * `plain` called anew each time (operations that no record takes). */
weir_status ops_time(ops_check *, weir_enqueue_fn fn, void *ctx, int32_t calls, bool plain, double *us,
                     weir_err *e);

/* A line of JSON. `bytes` and `flops` of one call: its floor on a machine of known limits. */
typedef struct ops_result {
  const char *name;
  double us, bytes, flops, err, bound;
} ops_result;
void ops_report(ops_check *, const ops_result *);

weir_status check_linear(ops_check *, weir_err *e);
weir_status check_attend(ops_check *, weir_err *e);
weir_status check_small(ops_check *, weir_err *e); /* norm, gate, sample */

#endif
