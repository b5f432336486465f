/* SPDX-License-Identifier: Apache-2.0 */
/* Models of published shapes with made-up weights, for measurements: nothing but their speed makes sense. */
#ifndef WEIR_BENCH_SYNTH_H
#define WEIR_BENCH_SYNTH_H
#include <stdint.h>

#include "base/err.h"
#include "run/instance.h"

/* "qwen3-0.6b", "qwen2.5-1.5b", "llama-3.1-8b", "qwen3-32b", "llama-3-70b", "llama-1.1b", "llama-134m".
 * WEIR_EINVAL with the list for others. n_layers > 0 cuts the model short (times are then of a part of it).
 */
weir_status weir_synth_shape(const char *name, int32_t n_layers, int32_t n_ctx, weir_hparams *out,
                             weir_err *e);
const char *weir_synth_names(void);

/* Weights of one type everywhere, those of all layers alike (made once in host memory, taken to the device
 * for each layer). A weir_weights_fn; ctx is the weir_dtype. Every number is small, finite and not zero. */
weir_status weir_synth_weights(void *ctx, weir_dev *, const weir_hparams *whole, const weir_shard *,
                               weir_weights *out, weir_err *e);

#endif
