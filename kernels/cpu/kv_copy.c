/* SPDX-License-Identifier: Apache-2.0 */
/* Copies pages of KV, in the order of the pairs. Owns nothing; runs on the caller's thread: a step copies the
 * few pages that two sequences stop sharing. */
#include <string.h>

#include "kernels/cpu/cpu_dev.h"

weir_status weir_cpu_kv_copy(weir_dev *dev, weir_kv_layer kv, const int32_t *src_dst, int32_t n_pairs,
                             weir_err *e) {
  (void)dev, (void)e;
  const size_t page_bytes = 2 * (size_t)kv.n_kv_heads * weir_kv_head_bytes(&kv);
  char *base = (char *)kv.base;
  for (int32_t i = 0; i < n_pairs; i++) {
    const int32_t src = src_dst[2 * i], dst = src_dst[2 * i + 1];
    if (src != dst) memcpy(base + (size_t)dst * page_bytes, base + (size_t)src * page_bytes, page_bytes);
  }
  return WEIR_OK;
}
