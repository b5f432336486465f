/* SPDX-License-Identifier: Apache-2.0 */
/* The weights of a Hugging Face directory under GGUF's names: shards opened, names translated, quantised
 * modules put together. */
#ifndef WEIR_MODEL_HF_WEIGHTS_H
#define WEIR_MODEL_HF_WEIGHTS_H
#include <stdint.h>

#include "base/err.h"
#include "model/convert.h"
#include "model/hf.h"
#include "model/hparams.h"
#include "model/mfile.h"

typedef struct weir_hf_weights weir_hf_weights;

typedef struct weir_hf_tensor {
  weir_tensor_info info;
  const uint8_t *data; /* plain: in the file, of any alignment; converted: NULL */
  weir_convert convert;
} weir_hf_tensor;

/* Reads model.safetensors, or the shards of model.safetensors.index.json, or the one *.safetensors file of
 * another name. The hf must outlive it and is used by it while this runs. Tensors that belong to nothing
 * known are warned of once, by count and first name. */
weir_status weir_hf_weights_open(weir_hf *, const weir_hparams *, weir_hf_weights **out, weir_err *e);
void weir_hf_weights_close(weir_hf_weights *); /* NULL is fine */

int32_t weir_hf_weights_n(const weir_hf_weights *);
const weir_hf_tensor *weir_hf_weights_at(const weir_hf_weights *, int32_t i);
const weir_hf_tensor *weir_hf_weights_find(const weir_hf_weights *, const char *name); /* NULL when absent */

#endif
