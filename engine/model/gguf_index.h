/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of a weir_gguf, shared by the parser (gguf.c) and the typed access to metadata (gguf_meta.c). */
#ifndef WEIR_MODEL_GGUF_INDEX_H
#define WEIR_MODEL_GGUF_INDEX_H
#include "model/gguf.h"

/* As in the format: a metadata value's type. */
typedef enum {
  WEIR_GGUF_U8,
  WEIR_GGUF_I8,
  WEIR_GGUF_U16,
  WEIR_GGUF_I16,
  WEIR_GGUF_U32,
  WEIR_GGUF_I32,
  WEIR_GGUF_F32,
  WEIR_GGUF_BOOL,
  WEIR_GGUF_STR,
  WEIR_GGUF_ARRAY,
  WEIR_GGUF_U64,
  WEIR_GGUF_I64,
  WEIR_GGUF_F64,
  WEIR_GGUF_TYPE_COUNT
} weir_gguf_type;

/* "u8", "array", ...; "type 77" is the caller's to print. */
const char *weir_gguf_type_name(weir_gguf_type);
/* Bytes of one value of a fixed size; 0 for strings and arrays. */
size_t weir_gguf_type_bytes(weir_gguf_type);
/* A tensor's type number in a file; false for one that files do not have. */
bool weir_gguf_dtype_id(weir_dtype, uint32_t *out);

typedef struct weir_gguf_entry {
  weir_str key;
  weir_gguf_type type;
  weir_gguf_type elem;    /* of an array */
  uint64_t n;             /* elements of an array; 1 otherwise */
  const uint8_t *value;   /* first byte of the value (of the first element, of a string's bytes) */
  size_t value_bytes;     /* of a string: its length; of an array: all elements as stored */
  const weir_str *string; /* [n] for an array of strings, else NULL; owned */
} weir_gguf_entry;

struct weir_gguf {
  const uint8_t *data; /* borrowed, or our mapping */
  size_t len;
  bool mapped;
  uint32_t version;
  weir_gguf_entry *entry; /* [n_keys] */
  int64_t n_keys;
  weir_gguf_tensor *tensor; /* [n_tensors] */
  int64_t n_tensors;
  weir_strmap key_map, tensor_map;
};

/* Little-endian loads; the file's bytes have no alignment. */
static inline uint16_t weir_gguf_load_u16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static inline uint32_t weir_gguf_load_u32(const uint8_t *p) {
  return (uint32_t)weir_gguf_load_u16(p) | (uint32_t)weir_gguf_load_u16(p + 2) << 16;
}
static inline uint64_t weir_gguf_load_u64(const uint8_t *p) {
  return (uint64_t)weir_gguf_load_u32(p) | (uint64_t)weir_gguf_load_u32(p + 4) << 32;
}

#endif
