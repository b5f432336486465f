/* SPDX-License-Identifier: Apache-2.0 */
/* Token rows of a packed table, as F32, scaled; of a shard -0 where the id is another's. */
#include "kernels/cpu/cpu_dev.h"
#include "kernels/cpu/pack.h"

typedef struct embed_job {
  weir_mat y;
  const weir_pack *table; /* ids [first, end) */
  const int32_t *token;
  int32_t first, end;
  float scale;
} embed_job;

static void embed_rows(void *ctx, int32_t begin, int32_t end, int32_t rank) {
  (void)rank;
  const embed_job *j = ctx;
  for (int32_t i = begin; i < end; i++) {
    float *y = j->y.data + (size_t)i * (size_t)j->y.ld;
    if (j->token[i] < j->first || j->token[i] >= j->end) {
      for (int32_t c = 0; c < j->y.cols; c++) y[c] = -0.0f;
      continue;
    }
    weir_pack_get_row(j->table, j->token[i] - j->first, y);
    if (j->scale != 1.0f)
      for (int32_t c = 0; c < j->y.cols; c++) y[c] *= j->scale;
  }
}

weir_status weir_cpu_embed(weir_dev *dev, weir_mat y, const weir_embed_args *a, weir_err *e) {
  /* Here the ids are at hand, so a bad one is an error and not a wild read. */
  for (int32_t i = 0; i < y.rows; i++)
    if (a->token[i] < 0 || a->token[i] >= a->n_vocab)
      return weir_fail(e, WEIR_EINVAL, "embed: token %d in row %d of a table of %d rows", a->token[i], i,
                       a->n_vocab);
  embed_job j = {.y = y, .token = a->token, .first = a->first, .end = a->first, .scale = a->scale};
  if (a->table) {
    j.table = weir_pack_of(a->table);
    j.end += a->table->rows;
  }
  const int32_t grain =
      y.cols < 4096 ? 4096 / y.cols : 1; /* below some thousand elements a fork costs more */
  weir_cpu_for(dev, y.rows, grain, embed_rows, &j);
  return WEIR_OK;
}
