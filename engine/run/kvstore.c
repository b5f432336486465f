/* SPDX-License-Identifier: Apache-2.0 */
/* KV bytes. Owns the device memory; the thread that owns the device. */
#include "run/kvstore.h"

#include <stdlib.h>

#include "base/mem.h"
#include "kv/pages.h"

int64_t weir_kvstore_token_bytes(const weir_hparams *h, weir_dtype t) {
  const weir_dtype_info *info = weir_dtype_get(t);
  const int64_t blocks = (h->head_dim + info->block_elems - 1) / info->block_elems;
  return 2 * (int64_t)h->n_layers * h->n_kv_heads * blocks * info->block_bytes;
}

weir_status weir_kvstore_init(weir_kvstore *kv, weir_dev *dev, const weir_hparams *h, weir_dtype t,
                              int32_t n_pages, weir_err *e) {
  weir_status st = WEIR_OK;
  size_t bytes = 2;
  *kv = (weir_kvstore){.dev = dev};
  WEIR_TRY(weir_dev_check_kv(dev, t, h->head_dim, e));
  const weir_kv_layer shape = {.dtype = t, .page_size = WEIR_PAGE_TOKENS, .head_dim = h->head_dim};
  if (!weir_mul_size(bytes, (size_t)n_pages, &bytes) ||
      !weir_mul_size(bytes, (size_t)h->n_kv_heads, &bytes) ||
      !weir_mul_size(bytes, weir_kv_head_bytes(&shape), &bytes))
    return weir_fail(e, WEIR_ENOMEM, "the size of %d KV pages overflows", n_pages);
  WEIR_TRY(WEIR_NEW((size_t)h->n_layers, &kv->layer, e));
  kv->n_layers = h->n_layers;
  for (int32_t i = 0; i < h->n_layers; i++) {
    kv->layer[i] = (weir_kv_layer){.dtype = t,
                                   .n_pages = n_pages,
                                   .n_kv_heads = h->n_kv_heads,
                                   .page_size = WEIR_PAGE_TOKENS,
                                   .head_dim = h->head_dim};
    WEIR_TRY(weir_dev_alloc(dev, bytes, &kv->layer[i].base, e));
  }
out:
  if (st != WEIR_OK) {
    weir_kvstore_fini(kv);
    weir_fail_ctx(e, st, "KV of %d pages", n_pages);
  }
  return st;
}

void weir_kvstore_fini(weir_kvstore *kv) {
  for (int32_t i = 0; i < kv->n_layers; i++)
    if (kv->layer[i].base) weir_dev_release(kv->dev, kv->layer[i].base);
  free(kv->layer);
  *kv = (weir_kvstore){0};
}
