/* SPDX-License-Identifier: Apache-2.0 */
/* Writer of GGUF v3 (little endian), streaming: keys and tensors are declared, the header is written, then
 * the bytes of the tensors follow in the order of their declaration. Everything is written to a file beside
 * the target that gets the target's name when it is whole: whoever looks at the target sees the old file or
 * the new one, and a writer that is closed early leaves nothing. Errors begin with the path. One thread. */
#ifndef WEIR_MODEL_GGUF_WRITE_H
#define WEIR_MODEL_GGUF_WRITE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "kernels/dtype.h"
#include "model/gguf.h"
#include "model/str.h"

typedef struct weir_gguf_writer weir_gguf_writer;

enum { WEIR_GGUF_WRITE_NAME_BYTES = 63 }; /* of a tensor: ggml keeps 64 with the NUL */

/* Writes nothing yet. `replace`: a regular file at `path` may be replaced (of a link that file, of a link to
 * nowhere the link); without it whatever is there is WEIR_EINVAL here, and WEIR_EIO when it has come by the
 * time the file gets its name. `path` NULL: for weir_gguf_writer_total alone. */
weir_status weir_gguf_writer_create(const char *path, bool replace, weir_gguf_writer **out, weir_err *e);
/* Without weir_gguf_writer_finish before it: removes what was written. NULL is fine. */
void weir_gguf_writer_close(weir_gguf_writer *);

/* ---- keys, before weir_gguf_writer_begin. A key that is there already is WEIR_EINVAL. ---- */

/* Key i of an open file, as it stands there, whatever its type. */
weir_status weir_gguf_writer_copy(weir_gguf_writer *, const weir_gguf *from, int64_t i, weir_err *e);
weir_status weir_gguf_writer_u32(weir_gguf_writer *, const char *key, uint32_t v, weir_err *e);
weir_status weir_gguf_writer_i32(weir_gguf_writer *, const char *key, int32_t v, weir_err *e);
weir_status weir_gguf_writer_u64(weir_gguf_writer *, const char *key, uint64_t v, weir_err *e);
weir_status weir_gguf_writer_f32(weir_gguf_writer *, const char *key, float v, weir_err *e);
weir_status weir_gguf_writer_bool(weir_gguf_writer *, const char *key, bool v, weir_err *e);
weir_status weir_gguf_writer_str(weir_gguf_writer *, const char *key, weir_str v, weir_err *e);
weir_status weir_gguf_writer_strs(weir_gguf_writer *, const char *key, const weir_str *v, int64_t n,
                                  weir_err *e);
weir_status weir_gguf_writer_i32s(weir_gguf_writer *, const char *key, const int32_t *v, int64_t n,
                                  weir_err *e);
weir_status weir_gguf_writer_f32s(weir_gguf_writer *, const char *key, const float *v, int64_t n,
                                  weir_err *e);

/* ---- tensors, before weir_gguf_writer_begin ---- */

/* dim[0] is the row length, a whole number of the type's blocks. */
weir_status weir_gguf_writer_tensor(weir_gguf_writer *, weir_str name, weir_dtype t, int32_t n_dims,
                                    const int64_t *dim, weir_err *e);

/* Bytes of the whole file as declared so far. */
weir_status weir_gguf_writer_total(const weir_gguf_writer *, uint64_t *out, weir_err *e);

/* ---- the file ---- */

/* Creates the file, asks the file system for its whole size (a full disk is noticed here, not after an hour)
 * and writes the header. */
weir_status weir_gguf_writer_begin(weir_gguf_writer *, weir_err *e);
/* The next n bytes of the tensors, in the order of their declaration; a call must not cross from one tensor
 * into the next. Padding is the writer's. */
weir_status weir_gguf_writer_data(weir_gguf_writer *, const void *bytes, size_t n, weir_err *e);
/* All bytes are there: they go to the disk and the file gets its name. */
weir_status weir_gguf_writer_finish(weir_gguf_writer *, weir_err *e);

#endif
