/* SPDX-License-Identifier: Apache-2.0 */
/* The table of element types. Constant data; any thread. */
#include "kernels/dtype.h"

#include "kernels/blocks.h"

/* type, name, elements of a block, bytes of a block */
#define TYPES(X)                                   \
  X(WEIR_F32, "F32", 1, 4)                         \
  X(WEIR_F16, "F16", 1, 2)                         \
  X(WEIR_BF16, "BF16", 1, 2)                       \
  X(WEIR_Q8_0, "Q8_0", WEIR_QK, WEIR_Q8_0_BYTES)   \
  X(WEIR_Q4_0, "Q4_0", WEIR_QK, WEIR_Q4_0_BYTES)   \
  X(WEIR_Q5_0, "Q5_0", WEIR_QK, WEIR_Q5_0_BYTES)   \
  X(WEIR_Q4_K, "Q4_K", WEIR_QK_K, WEIR_Q4_K_BYTES) \
  X(WEIR_Q5_K, "Q5_K", WEIR_QK_K, WEIR_Q5_K_BYTES) \
  X(WEIR_Q6_K, "Q6_K", WEIR_QK_K, WEIR_Q6_K_BYTES)

#define INFO(type, name, elems, bytes) [type] = {name, elems, bytes},
#define NAME(type, name, elems, bytes) " " name

static const weir_dtype_info infos[WEIR_DTYPE_COUNT] = {TYPES(INFO)};

const weir_dtype_info *weir_dtype_get(weir_dtype t) {
  if ((unsigned)t >= WEIR_DTYPE_COUNT) return NULL;
  return &infos[t];
}

bool weir_dtype_is_quant(weir_dtype t) {
  const weir_dtype_info *info = weir_dtype_get(t);
  return info && info->block_elems > 1;
}

const char *weir_dtype_names(void) {
  static const char all[] = TYPES(NAME);
  return all + 1; /* without the first space */
}

weir_status weir_dtype_row_bytes(weir_dtype t, int64_t cols, size_t *out, weir_err *e) {
  const weir_dtype_info *info = weir_dtype_get(t);
  if (!info) return weir_fail(e, WEIR_EUNSUP, "unknown element type %d", (int)t);
  if (cols <= 0) return weir_fail(e, WEIR_EINVAL, "a row of %lld elements", (long long)cols);
  if (cols % info->block_elems != 0)
    return weir_fail(e, WEIR_EINVAL, "a row of %lld elements is not a whole number of %s blocks of %d",
                     (long long)cols, info->name, info->block_elems);
  size_t bytes;
  if (__builtin_mul_overflow((uint64_t)(cols / info->block_elems), (uint64_t)info->block_bytes, &bytes))
    return weir_fail(e, WEIR_EINVAL, "a row of %lld %s elements overflows", (long long)cols, info->name);
  *out = bytes;
  return WEIR_OK;
}
