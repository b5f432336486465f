/* SPDX-License-Identifier: Apache-2.0 */
/* Writes small GGUF files into memory, for tests. A test that runs out of memory stops: nothing here fails.
 */
#ifndef WEIR_TESTS_GGUF_WRITER_H
#define WEIR_TESTS_GGUF_WRITER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

typedef struct gguf_writer {
  weir_buf keys, infos, data;
  uint64_t n_keys, n_tensors;
  uint32_t version;   /* 3 */
  uint32_t alignment; /* 32; another value is also written as general.alignment */
} gguf_writer;

/* Tensor types as the format numbers them. */
enum { GW_F32 = 0, GW_F16 = 1, GW_Q4_0 = 2, GW_Q8_0 = 8, GW_Q6_K = 14, GW_BF16 = 30 };

void gguf_writer_init(gguf_writer *w);
void gguf_writer_fini(gguf_writer *w);

void gguf_writer_u32(gguf_writer *w, const char *key, uint32_t v);
void gguf_writer_i64(gguf_writer *w, const char *key, int64_t v);
void gguf_writer_u64(gguf_writer *w, const char *key, uint64_t v);
void gguf_writer_f32(gguf_writer *w, const char *key, float v);
void gguf_writer_f64(gguf_writer *w, const char *key, double v);
void gguf_writer_bool(gguf_writer *w, const char *key, bool v);
void gguf_writer_str(gguf_writer *w, const char *key, const char *v);
void gguf_writer_strs(gguf_writer *w, const char *key, const char *const *v, size_t n);
void gguf_writer_i32s(gguf_writer *w, const char *key, const int32_t *v, size_t n);
void gguf_writer_f32s(gguf_writer *w, const char *key, const float *v, size_t n);
/* A key whose type number and value bytes the caller chooses. */
void gguf_writer_raw(gguf_writer *w, const char *key, uint32_t type, const void *value, size_t bytes);

/* dim[0] is the row length. `data` may be NULL for zeros. */
void gguf_writer_tensor(gguf_writer *w, const char *name, uint32_t type, const uint64_t *dim, uint32_t n_dims,
                        const void *data, size_t bytes);

/* The file so far, malloc'ed, of exactly *len bytes (so that a sanitizer sees a read past its end). */
uint8_t *gguf_writer_file(const gguf_writer *w, size_t *len);

/* Little-endian pieces, for files that are wrong on purpose. */
void gguf_put(weir_buf *b, const void *p, size_t n);
void gguf_put_int(weir_buf *b, uint64_t v, size_t bytes);
void gguf_put_str(weir_buf *b, const char *s);

#endif
