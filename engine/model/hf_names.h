/* SPDX-License-Identifier: Apache-2.0 */
/* What Hugging Face calls a tensor, and what GGUF calls it. */
#ifndef WEIR_MODEL_HF_NAMES_H
#define WEIR_MODEL_HF_NAMES_H
#include <stdbool.h>
#include <stdint.h>

#include "model/hparams.h"
#include "model/str.h"

enum { WEIR_HF_MODULE_BYTES = 48 };

/* The tensors a module may have: a plain layer the first two, quantised ones the others. */
typedef enum {
  WEIR_HF_WEIGHT,
  WEIR_HF_BIAS,
  WEIR_HF_SCALE,     /* weight_scale: FP8, compressed-tensors */
  WEIR_HF_SCALE_INV, /* weight_scale_inv: FP8 in blocks; a factor all the same */
  WEIR_HF_QWEIGHT,   /* qweight, qzeros, scales, g_idx: GPTQ and AWQ */
  WEIR_HF_QZEROS,
  WEIR_HF_SCALES,
  WEIR_HF_G_IDX,
  WEIR_HF_PACKED, /* weight_packed, weight_shape, weight_zero_point, weight_g_idx: compressed-tensors */
  WEIR_HF_SHAPE,
  WEIR_HF_ZERO_POINT,
  WEIR_HF_WEIGHT_G_IDX,
  WEIR_HF_PARAM_COUNT
} weir_hf_param;

typedef struct weir_hf_name {
  char module[WEIR_HF_MODULE_BYTES]; /* GGUF's name without ".weight": "blk.3.attn_q", "blk.3.ffn_up.17" */
  int32_t layer;                     /* -1: of no layer */
  weir_hf_param param;
} weir_hf_name;

typedef enum {
  WEIR_HF_NAME_KNOWN,
  WEIR_HF_NAME_SKIPPED, /* known to hold nothing the model needs: rotary tables, scales of activations */
  WEIR_HF_NAME_UNKNOWN
} weir_hf_name_kind;

weir_hf_name_kind weir_hf_name_parse(weir_str name, weir_arch, weir_hf_name *out);

/* "blk.3.ffn_up.17.weight": matrix 17 of layer 3. False for any other name. `stack` gets the name under which
 * all experts of a layer stand in one tensor, "blk.3.ffn_up_exps.weight"; `fused` the one where gate (first)
 * and up share it, "" for down. */
enum { WEIR_STACK_NAME_BYTES = 64 };
typedef struct weir_expert_name {
  int32_t expert;
  bool is_up; /* the second half of `fused` */
  char stack[WEIR_STACK_NAME_BYTES], fused[WEIR_STACK_NAME_BYTES];
} weir_expert_name;
bool weir_expert_name_parse(const char *name, weir_expert_name *out);

#endif
