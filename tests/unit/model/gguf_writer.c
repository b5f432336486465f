/* SPDX-License-Identifier: Apache-2.0 */
/* In-memory GGUF writer of the tests. Owns its buffers; stops the program when memory runs out. */
#include "gguf_writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  T_U32 = 4,
  T_I32 = 5,
  T_F32 = 6,
  T_BOOL = 7,
  T_STR = 8,
  T_ARRAY = 9,
  T_U64 = 10,
  T_I64 = 11,
  T_F64 = 12
};

void gguf_put(weir_buf *b, const void *p, size_t n) {
  if (weir_buf_put(b, p, n, NULL) != WEIR_OK) {
    fprintf(stderr, "gguf_writer: out of memory\n");
    abort();
  }
}

void gguf_put_int(weir_buf *b, uint64_t v, size_t bytes) {
  uint8_t le[8];
  for (size_t i = 0; i < bytes; i++) le[i] = (uint8_t)(v >> (8 * i));
  gguf_put(b, le, bytes);
}

void gguf_put_str(weir_buf *b, const char *s) {
  gguf_put_int(b, strlen(s), 8);
  gguf_put(b, s, strlen(s));
}

void gguf_writer_init(gguf_writer *w) { *w = (gguf_writer){.version = 3, .alignment = 32}; }

void gguf_writer_fini(gguf_writer *w) {
  weir_buf_fini(&w->keys);
  weir_buf_fini(&w->infos);
  weir_buf_fini(&w->data);
}

static void key(gguf_writer *w, const char *name, uint32_t type) {
  gguf_put_str(&w->keys, name);
  gguf_put_int(&w->keys, type, 4);
  w->n_keys++;
}

static void array(gguf_writer *w, const char *name, uint32_t elem, size_t n) {
  key(w, name, T_ARRAY);
  gguf_put_int(&w->keys, elem, 4);
  gguf_put_int(&w->keys, n, 8);
}

static uint64_t bits_of_float(float v) {
  uint32_t u;
  memcpy(&u, &v, sizeof u);
  return u;
}

void gguf_writer_u32(gguf_writer *w, const char *name, uint32_t v) {
  key(w, name, T_U32);
  gguf_put_int(&w->keys, v, 4);
}
void gguf_writer_i64(gguf_writer *w, const char *name, int64_t v) {
  key(w, name, T_I64);
  gguf_put_int(&w->keys, (uint64_t)v, 8);
}
void gguf_writer_u64(gguf_writer *w, const char *name, uint64_t v) {
  key(w, name, T_U64);
  gguf_put_int(&w->keys, v, 8);
}
void gguf_writer_f32(gguf_writer *w, const char *name, float v) {
  key(w, name, T_F32);
  gguf_put_int(&w->keys, bits_of_float(v), 4);
}
void gguf_writer_f64(gguf_writer *w, const char *name, double v) {
  uint64_t u;
  memcpy(&u, &v, sizeof u);
  key(w, name, T_F64);
  gguf_put_int(&w->keys, u, 8);
}
void gguf_writer_bool(gguf_writer *w, const char *name, bool v) {
  key(w, name, T_BOOL);
  gguf_put_int(&w->keys, v, 1);
}
void gguf_writer_str(gguf_writer *w, const char *name, const char *v) {
  key(w, name, T_STR);
  gguf_put_str(&w->keys, v);
}
void gguf_writer_strs(gguf_writer *w, const char *name, const char *const *v, size_t n) {
  array(w, name, T_STR, n);
  for (size_t i = 0; i < n; i++) gguf_put_str(&w->keys, v[i]);
}
void gguf_writer_i32s(gguf_writer *w, const char *name, const int32_t *v, size_t n) {
  array(w, name, T_I32, n);
  for (size_t i = 0; i < n; i++) gguf_put_int(&w->keys, (uint32_t)v[i], 4);
}
void gguf_writer_f32s(gguf_writer *w, const char *name, const float *v, size_t n) {
  array(w, name, T_F32, n);
  for (size_t i = 0; i < n; i++) gguf_put_int(&w->keys, bits_of_float(v[i]), 4);
}
void gguf_writer_raw(gguf_writer *w, const char *name, uint32_t type, const void *value, size_t bytes) {
  key(w, name, type);
  gguf_put(&w->keys, value, bytes);
}

static void pad(weir_buf *b, size_t alignment) {
  static const uint8_t zero[1] = {0};
  while (b->len % alignment) gguf_put(b, zero, 1);
}

void gguf_writer_tensor(gguf_writer *w, const char *name, uint32_t type, const uint64_t *dim, uint32_t n_dims,
                        const void *data, size_t bytes) {
  pad(&w->data, w->alignment);
  gguf_put_str(&w->infos, name);
  gguf_put_int(&w->infos, n_dims, 4);
  for (uint32_t d = 0; d < n_dims; d++) gguf_put_int(&w->infos, dim[d], 8);
  gguf_put_int(&w->infos, type, 4);
  gguf_put_int(&w->infos, w->data.len, 8);
  if (data)
    gguf_put(&w->data, data, bytes);
  else
    for (size_t i = 0; i < bytes; i++) gguf_put_int(&w->data, 0, 1);
  w->n_tensors++;
}

uint8_t *gguf_writer_file(const gguf_writer *w, size_t *len) {
  weir_buf b = {0};
  const bool aligned = w->alignment == 32;
  gguf_put(&b, "GGUF", 4);
  gguf_put_int(&b, w->version, 4);
  gguf_put_int(&b, w->n_tensors, 8);
  gguf_put_int(&b, w->n_keys + !aligned, 8);
  if (!aligned) {
    gguf_put_str(&b, "general.alignment");
    gguf_put_int(&b, T_U32, 4);
    gguf_put_int(&b, w->alignment, 4);
  }
  gguf_put(&b, w->keys.data, w->keys.len);
  gguf_put(&b, w->infos.data, w->infos.len);
  if (w->n_tensors) {
    pad(&b, w->alignment);
    gguf_put(&b, w->data.data, w->data.len);
  }
  uint8_t *file = malloc(b.len);
  if (!file) abort();
  memcpy(file, b.data, b.len);
  *len = b.len;
  weir_buf_fini(&b);
  return file;
}
