/* SPDX-License-Identifier: Apache-2.0 */
/* Between the parts that read a config.json: an object of it, typed access, RoPE. */
#ifndef WEIR_MODEL_HPARAMS_HF_IN_H
#define WEIR_MODEL_HPARAMS_HF_IN_H
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "model/hparams.h"
#include "model/str.h"

typedef struct weir_hf_conf {
  const json_t *object;
  const char *prefix; /* of its keys in messages: "", "rope_scaling." */
} weir_hf_conf;

/* NULL when absent or null. */
const json_t *weir_hf_conf_get(const weir_hf_conf *, const char *key);
/* A value of another type or out of [lo, hi] is WEIR_EFORMAT naming the key; absent or null gives `def`,
 * which for an integer has to lie in the range, too: it may follow from other keys. */
weir_status weir_hf_conf_int(const weir_hf_conf *, const char *key, int64_t def, int64_t lo, int64_t hi,
                             int32_t *out, weir_err *e);
weir_status weir_hf_conf_float(const weir_hf_conf *, const char *key, double def, double lo, double hi,
                               float *out, weir_err *e);
weir_status weir_hf_conf_bool(const weir_hf_conf *, const char *key, bool def, bool *out, weir_err *e);
weir_status weir_hf_conf_text(const weir_hf_conf *, const char *key, weir_str *out, weir_err *e);

/* rope_dims, rope and rope_local, of either spelling. Wants the sizes read. */
weir_status weir_hf_conf_rope(const weir_hf_conf *, weir_arch, double default_theta, weir_hparams *,
                              weir_err *e);

#endif
