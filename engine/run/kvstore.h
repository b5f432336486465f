/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes of one instance's KV pages, layer by layer. Who holds which page is the business of engine/kv. */
#ifndef WEIR_RUN_KVSTORE_H
#define WEIR_RUN_KVSTORE_H
#include "base/err.h"
#include "kernels/device.h"
#include "model/hparams.h"

typedef struct weir_kvstore {
  weir_dev *dev;
  int32_t n_layers;
  weir_kv_layer *layer; /* [n_layers], owned */
} weir_kvstore;

weir_status weir_kvstore_init(weir_kvstore *, weir_dev *, const weir_hparams *, weir_dtype, int32_t n_pages,
                              weir_err *e);
void weir_kvstore_fini(weir_kvstore *);
/* Bytes one token takes over all layers; of a type that is known. */
int64_t weir_kvstore_token_bytes(const weir_hparams *, weir_dtype);

#endif
