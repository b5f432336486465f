/* SPDX-License-Identifier: Apache-2.0 */
/* Reader of GGUF v2 and v3 (little endian) over memory: every size, offset, count, depth, dimension and
 * string is checked before it is used, so that any bytes at all give either a consistent index or one line
 * naming the key or tensor and what is wrong. Nothing is copied: the index points into the file's bytes. */
#ifndef WEIR_MODEL_GGUF_H
#define WEIR_MODEL_GGUF_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "kernels/dtype.h"
#include "model/str.h"

typedef struct weir_gguf weir_gguf;

/* Limits, far above any real model and low enough that a hostile file cannot make the reader allocate more
 * than a few times its own size. */
enum {
  WEIR_GGUF_MAX_DIMS = 4,
  WEIR_GGUF_MAX_KEYS = 1 << 18,
  WEIR_GGUF_MAX_TENSORS = 1 << 18,
  WEIR_GGUF_MAX_KEY_BYTES = 65535,  /* the format's own limit */
  WEIR_GGUF_MAX_NAME_BYTES = 255,   /* of a tensor; the format says 64 */
  WEIR_GGUF_MAX_DEPTH = 4,          /* arrays in arrays */
  WEIR_GGUF_MAX_STRINGS = 1 << 23,  /* in one array */
  WEIR_GGUF_MAX_ALIGNMENT = 1 << 20 /* of tensor data; a power of two, at least 8 */
};

typedef struct weir_gguf_tensor {
  weir_str name;
  weir_dtype dtype;
  int32_t n_dims;
  int64_t dim[WEIR_GGUF_MAX_DIMS]; /* dim[0] is the row length (GGUF's order); unused ones are 1 */
  const void *data;                /* inside the mapping */
  size_t bytes;
} weir_gguf_tensor;

/* Parses [data, data+len), which is borrowed until weir_gguf_close. A tensor of a type weir does not know is
 * WEIR_EUNSUP naming tensor and type. */
weir_status weir_gguf_parse(const void *data, size_t len, weir_gguf **out, weir_err *e);
/* Maps a file read-only and parses it; errors begin with the path. */
weir_status weir_gguf_open(const char *path, weir_gguf **out, weir_err *e);
void weir_gguf_close(weir_gguf *); /* NULL is fine */

/* ---- metadata; key is a C string. A key of another type than asked is WEIR_EFORMAT. ---- */
bool weir_gguf_has(const weir_gguf *, const char *key);
/* Any integer type, checked to fit; *out is `def` when the key is absent. */
weir_status weir_gguf_i64(const weir_gguf *, const char *key, int64_t def, int64_t *out, weir_err *e);
weir_status weir_gguf_f32(const weir_gguf *, const char *key, float def, float *out, weir_err *e);
weir_status weir_gguf_bool(const weir_gguf *, const char *key, bool def, bool *out, weir_err *e);
/* Absent: *out = {NULL, 0}. */
weir_status weir_gguf_str(const weir_gguf *, const char *key, weir_str *out, weir_err *e);
/* Arrays: *n = 0 when absent. The pointer array of strings is owned by the weir_gguf. */
weir_status weir_gguf_str_array(const weir_gguf *, const char *key, const weir_str **out, int64_t *n,
                                weir_err *e);
/* Copies up to `cap` elements of an integer or float array as int32 / float; *n is its full length. */
weir_status weir_gguf_i32_array(const weir_gguf *, const char *key, int32_t *out, int64_t cap, int64_t *n,
                                weir_err *e);
weir_status weir_gguf_f32_array(const weir_gguf *, const char *key, float *out, int64_t cap, int64_t *n,
                                weir_err *e);

/* Enumeration, for `weir inspect`: value printed as text (arrays shortened), returns false past the end. */
int64_t weir_gguf_n_keys(const weir_gguf *);
weir_str weir_gguf_key(const weir_gguf *, int64_t i);
void weir_gguf_value_text(const weir_gguf *, int64_t i, char *buf, size_t buf_bytes);

/* ---- tensors ---- */
int64_t weir_gguf_n_tensors(const weir_gguf *);
const weir_gguf_tensor *weir_gguf_tensor_at(const weir_gguf *, int64_t i);
const weir_gguf_tensor *weir_gguf_find(const weir_gguf *, const char *name); /* NULL when absent */
uint32_t weir_gguf_version(const weir_gguf *);

#endif
