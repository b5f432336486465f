/* SPDX-License-Identifier: Apache-2.0 */
/* Picks rows. Owns nothing; runs on the caller's thread: it moves a few rows a step. */
#include <string.h>

#include "kernels/cpu/cpu_dev.h"

weir_status weir_cpu_gather_rows(weir_dev *dev, weir_mat y, weir_mat x, const int32_t *row, weir_err *e) {
  (void)dev;
  for (int32_t i = 0; i < y.rows; i++)
    if (row[i] < 0 || row[i] >= x.rows)
      return weir_fail(e, WEIR_EINVAL, "gather_rows: row %d of %d asked for", (int)row[i], (int)x.rows);
  for (int32_t i = 0; i < y.rows; i++)
    memcpy(y.data + (size_t)i * (size_t)y.ld, x.data + (size_t)row[i] * (size_t)x.ld,
           sizeof(float) * (size_t)y.cols);
  return WEIR_OK;
}
