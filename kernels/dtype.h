/* SPDX-License-Identifier: Apache-2.0 */
/* Element types of weights, activations and KV, and their storage in blocks. */
#ifndef WEIR_KERNELS_DTYPE_H
#define WEIR_KERNELS_DTYPE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

typedef enum {
  WEIR_F32,
  WEIR_F16,
  WEIR_BF16,
  WEIR_Q8_0,
  WEIR_Q4_0,
  WEIR_Q5_0,
  WEIR_Q4_K, /* the K types: super-blocks of 256 */
  WEIR_Q5_K,
  WEIR_Q6_K,
  WEIR_DTYPE_COUNT
} weir_dtype;

typedef struct weir_dtype_info {
  const char *name;    /* as in GGUF: "F32", "Q8_0" */
  int32_t block_elems; /* elements of one block: 1, 32, 256 */
  int32_t block_bytes; /* bytes of one block as stored in a file */
} weir_dtype_info;

/* NULL when `t` is out of range. */
const weir_dtype_info *weir_dtype_get(weir_dtype t);

/* Whether weights of this type meet quantised activations (blocks, scales) rather than floats. */
bool weir_dtype_is_quant(weir_dtype t);

/* The names of all types, separated by spaces, for messages. Static. */
const char *weir_dtype_names(void);

/* Bytes of a stored row of `cols` elements. Error when cols is not a whole number of blocks, is not
 * positive, or the size overflows. */
weir_status weir_dtype_row_bytes(weir_dtype t, int64_t cols, size_t *out, weir_err *e);

#endif
