/* SPDX-License-Identifier: Apache-2.0 */
/* Reader of safetensors files over memory (format: huggingface/safetensors, README.md "Format"): eight bytes
 * of header length, a JSON header, then the tensors' bytes, without holes and to the end of the file. Any
 * bytes at all give either a consistent index or one line saying what is wrong. No tensor is copied. */
#ifndef WEIR_MODEL_SAFETENSORS_H
#define WEIR_MODEL_SAFETENSORS_H
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "model/str.h"

typedef struct weir_safetensors weir_safetensors;

enum {
  WEIR_ST_MAX_HEADER_BYTES = 100000000, /* the format's own limit */
  WEIR_ST_MAX_TENSORS = 1 << 18,
  WEIR_ST_MAX_DIMS = 8,
  WEIR_ST_MAX_NAME_BYTES = 255
};

typedef enum {
  WEIR_ST_BOOL,
  WEIR_ST_U8,
  WEIR_ST_I8,
  WEIR_ST_U16,
  WEIR_ST_I16,
  WEIR_ST_U32,
  WEIR_ST_I32,
  WEIR_ST_U64,
  WEIR_ST_I64,
  WEIR_ST_F16,
  WEIR_ST_BF16,
  WEIR_ST_F32,
  WEIR_ST_F64,
  WEIR_ST_F8_E4M3,
  WEIR_ST_F8_E5M2,
  WEIR_ST_F8_E8M0,
  WEIR_ST_F4,
  WEIR_ST_DTYPE_COUNT
} weir_st_dtype;

typedef struct weir_st_tensor {
  weir_str name; /* borrowed from the weir_safetensors */
  weir_st_dtype dtype;
  int32_t n_dims; /* 0: a scalar */
  int64_t
      dim[WEIR_ST_MAX_DIMS]; /* the file's order: the last one runs fastest; may be 0; unused ones are 1 */
  const uint8_t *data;       /* inside the file, of any alignment */
  size_t bytes;
} weir_st_tensor;

/* [data, data+len) is borrowed until weir_safetensors_close. A type weir does not know is WEIR_EUNSUP. */
weir_status weir_safetensors_parse(const void *data, size_t len, weir_safetensors **out, weir_err *e);
void weir_safetensors_close(weir_safetensors *); /* NULL is fine */

int32_t weir_safetensors_n(const weir_safetensors *);
const weir_st_tensor *weir_safetensors_at(const weir_safetensors *, int32_t i); /* 0 <= i < n; by offset */
const weir_st_tensor *weir_safetensors_find(const weir_safetensors *, weir_str name); /* NULL when absent */

const char *weir_st_dtype_name(weir_st_dtype); /* the file's: "BF16" */

#endif
