/* SPDX-License-Identifier: Apache-2.0 */
/* Stored types the engine has no blocks for, turned into ones it has, exactly: what a converted element is
 * worth is what the format says it is worth, or, in F32 only, that product rounded once.
 *
 *   FP8 e4m3 with scales      BF16 when every code times every scale is one, else F32
 *   int4, half scales         Q4_0 when all zero points are 8 and groups are whole blocks, else Q8_0
 *   int4 otherwise            F32: scales that are no halves, groups in activation order or below a block
 *
 * Weights alone: what a file says of quantising activations or keys and values is not followed. */
#ifndef WEIR_MODEL_CONVERT_H
#define WEIR_MODEL_CONVERT_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "kernels/dtype.h"
#include "model/hf.h"
#include "model/hf_names.h"
#include "model/safetensors.h"

/* quantization_config: how the quantised modules of a directory are stored. */
typedef enum {
  WEIR_QUANT_NONE,
  WEIR_QUANT_FP8,     /* "fp8", "fbgemm_fp8", "modelopt", compressed-tensors "float-quantized" */
  WEIR_QUANT_GPTQ,    /* packed along the input, zero points less one */
  WEIR_QUANT_GPTQ_V2, /* zero points as they are */
  WEIR_QUANT_AWQ,     /* GEMM layout */
  WEIR_QUANT_PACKED   /* compressed-tensors "pack-quantized" */
} weir_quant_method;

typedef struct weir_quant_conf {
  weir_quant_method method;
  int64_t block_rows, block_cols; /* FP8: of one scale, where scales are a matrix of blocks */
  int64_t group_size;             /* int4: inputs that share a scale; 0: all */
} weir_quant_conf;

/* From config.json, else from the file that an older GPTQ or AWQ export has for it. Refuses by name what is
 * not one of the above. */
weir_status weir_quant_conf_read(const weir_hf *, weir_quant_conf *out, weir_err *e);

/* How one matrix [rows, cols] is converted. */
typedef struct weir_convert {
  weir_quant_method method; /* NONE: it is not */
  weir_dtype dtype;         /* result */
  int64_t rows, cols;
  int64_t scale_rows, scale_cols; /* elements of a block of one scale; a group of inputs: [1, group] */
  const weir_st_tensor *weight, *scale, *zero, *g_idx;
} weir_convert;

/* From the tensors of a module: checks their shapes against each other, reads scales and zero points to
 * choose the result. `param` are the module's tensors, NULL where it has none. *out is of method NONE for a
 * module with a plain weight. */
weir_status weir_convert_plan(const weir_quant_conf *, const weir_st_tensor *const param[WEIR_HF_PARAM_COUNT],
                              weir_convert *out, weir_err *e);
/* Rows [row, row + n_rows) and of these the columns [col, col + n_cols), which begin and end with blocks of
 * the result's type and lie within the matrix. */
typedef struct weir_convert_part {
  int64_t row, n_rows, col, n_cols;
} weir_convert_part;
/* dst[n_rows, n_cols] in rows of dtype's blocks, without gaps. Reads what that part is made of. */
void weir_convert_run(const weir_convert *, weir_convert_part, void *dst);

/* ---- the kinds (convert_fp8.c, convert_int4.c) ---- */

weir_status weir_convert_fp8_plan(const weir_quant_conf *, const weir_st_tensor *weight,
                                  const weir_st_tensor *scale, weir_convert *out, weir_err *e);
void weir_convert_fp8_run(const weir_convert *, weir_convert_part, void *dst);
weir_status weir_convert_int4_plan(const weir_quant_conf *,
                                   const weir_st_tensor *const param[WEIR_HF_PARAM_COUNT], weir_convert *out,
                                   weir_err *e);
void weir_convert_int4_run(const weir_convert *, weir_convert_part, void *dst);

/* Element i of a scale tensor of type F16, BF16, F32 or F8_E8M0; of an integer tensor of type I32. */
float weir_convert_scale(const weir_st_tensor *, int64_t i);
uint32_t weir_convert_word(const weir_st_tensor *, int64_t i);
bool weir_convert_is_scale(const weir_st_tensor *); /* of one of those types */

#endif
