/* SPDX-License-Identifier: Apache-2.0 */
/* Parser of GGUF files (format: ggml's docs/gguf.md). Owns the index and, when it opened the file itself, the
 * mapping; may call base, kernels/dtype and the string map; any thread, and the finished index is read-only.
 *
 * The rule of this file: a number that came from the file is compared with what is left of the file (or with
 * a named limit) before it is used for anything, also before it is multiplied. */
#include "model/gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "model/gguf_index.h"

enum { DEFAULT_ALIGNMENT = 32, MIN_ALIGNMENT = 8 };
enum { MIN_KEY_BYTES = 8 + 4 + 1, MIN_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8 }; /* as stored, without the names */

static const struct {
  const char *name;
  uint8_t bytes;
} type_info[WEIR_GGUF_TYPE_COUNT] = {
    [WEIR_GGUF_U8] = {"u8", 1},       [WEIR_GGUF_I8] = {"i8", 1},     [WEIR_GGUF_U16] = {"u16", 2},
    [WEIR_GGUF_I16] = {"i16", 2},     [WEIR_GGUF_U32] = {"u32", 4},   [WEIR_GGUF_I32] = {"i32", 4},
    [WEIR_GGUF_F32] = {"f32", 4},     [WEIR_GGUF_BOOL] = {"bool", 1}, [WEIR_GGUF_STR] = {"string", 0},
    [WEIR_GGUF_ARRAY] = {"array", 0}, [WEIR_GGUF_U64] = {"u64", 8},   [WEIR_GGUF_I64] = {"i64", 8},
    [WEIR_GGUF_F64] = {"f64", 8},
};

const char *weir_gguf_type_name(weir_gguf_type t) {
  return t < WEIR_GGUF_TYPE_COUNT ? type_info[t].name : "unknown";
}
size_t weir_gguf_type_bytes(weir_gguf_type t) { return t < WEIR_GGUF_TYPE_COUNT ? type_info[t].bytes : 0; }

/* A tensor's type number in the file. Those without `known` exist in ggml and get their name into the
 * message. */
static const struct {
  uint32_t id;
  bool known;
  weir_dtype dtype;
  const char *name;
} tensor_types[] = {
    {0, true, WEIR_F32, "F32"},    {1, true, WEIR_F16, "F16"},    {2, true, WEIR_Q4_0, "Q4_0"},
    {3, false, 0, "Q4_1"},         {6, true, WEIR_Q5_0, "Q5_0"},  {7, false, 0, "Q5_1"},
    {8, true, WEIR_Q8_0, "Q8_0"},  {9, false, 0, "Q8_1"},         {10, false, 0, "Q2_K"},
    {11, false, 0, "Q3_K"},        {12, true, WEIR_Q4_K, "Q4_K"}, {13, true, WEIR_Q5_K, "Q5_K"},
    {14, true, WEIR_Q6_K, "Q6_K"}, {15, false, 0, "Q8_K"},        {16, false, 0, "IQ2_XXS"},
    {17, false, 0, "IQ2_XS"},      {18, false, 0, "IQ3_XXS"},     {19, false, 0, "IQ1_S"},
    {20, false, 0, "IQ4_NL"},      {21, false, 0, "IQ3_S"},       {22, false, 0, "IQ2_S"},
    {23, false, 0, "IQ4_XS"},      {24, false, 0, "I8"},          {25, false, 0, "I16"},
    {26, false, 0, "I32"},         {27, false, 0, "I64"},         {28, false, 0, "F64"},
    {29, false, 0, "IQ1_M"},       {30, true, WEIR_BF16, "BF16"}, {34, false, 0, "TQ1_0"},
    {35, false, 0, "TQ2_0"},       {39, false, 0, "MXFP4"},
};

bool weir_gguf_dtype_id(weir_dtype t, uint32_t *out) {
  for (size_t i = 0; i < sizeof tensor_types / sizeof tensor_types[0]; i++) {
    if (!tensor_types[i].known || tensor_types[i].dtype != t) continue;
    *out = tensor_types[i].id;
    return true;
  }
  return false;
}

/* ---- reading forward ---- */

typedef struct reader {
  const uint8_t *base, *at, *end;
} reader;

static size_t left(const reader *r) { return (size_t)(r->end - r->at); }
static size_t offset_of(const reader *r) { return (size_t)(r->at - r->base); }

static bool take(reader *r, size_t n, const uint8_t **out) {
  if (n > left(r)) return false;
  *out = r->at;
  r->at += n;
  return true;
}
static bool take_u32(reader *r, uint32_t *out) {
  const uint8_t *p;
  if (!take(r, 4, &p)) return false;
  *out = weir_gguf_load_u32(p);
  return true;
}
static bool take_u64(reader *r, uint64_t *out) {
  const uint8_t *p;
  if (!take(r, 8, &p)) return false;
  *out = weir_gguf_load_u64(p);
  return true;
}
/* A string with its length in front; the length alone may already lie past the end. */
static bool take_str(reader *r, weir_str *out) {
  uint64_t n;
  const uint8_t *p;
  if (!take_u64(r, &n) || n > left(r) || !take(r, (size_t)n, &p)) return false;
  *out = (weir_str){(const char *)p, (size_t)n};
  return true;
}

/* ---- metadata ---- */

static weir_status fail_key(weir_err *e, weir_status code, weir_str key, const char *what) {
  char shown[WEIR_STR_SHOW_BYTES];
  return weir_fail(e, code, "key %s: %s", weir_str_show(key, shown), what);
}

static weir_status check_type(uint32_t type, weir_str key, const char *of, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  if (type < WEIR_GGUF_TYPE_COUNT) return WEIR_OK;
  return weir_fail(e, WEIR_EFORMAT, "key %s: unknown %s type %" PRIu32, weir_str_show(key, shown), of, type);
}

/* Steps over the n elements of an array. Every element takes at least a byte of the file (an inner array 12),
 * so the work is linear in the file; `depth` counts the arrays around. */
static weir_status skip_array(reader *r, weir_str key, uint32_t elem, uint64_t n, int depth, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  if (depth > WEIR_GGUF_MAX_DEPTH)
    return weir_fail(e, WEIR_EFORMAT, "key %s: arrays nested deeper than %d", weir_str_show(key, shown),
                     WEIR_GGUF_MAX_DEPTH);
  const weir_status st = check_type(elem, key, "array element", e);
  if (st != WEIR_OK) return st;
  const size_t fixed = weir_gguf_type_bytes((weir_gguf_type)elem);
  const size_t least = fixed ? fixed : elem == WEIR_GGUF_STR ? 8 : 12;
  if (n > left(r) / least)
    return weir_fail(e, WEIR_EFORMAT, "key %s: array of %" PRIu64 " %s runs past the end of the file",
                     weir_str_show(key, shown), n, weir_gguf_type_name((weir_gguf_type)elem));
  if (fixed) {
    r->at += (size_t)n * fixed;
    return WEIR_OK;
  }
  for (uint64_t i = 0; i < n; i++) {
    weir_str s;
    uint32_t inner;
    uint64_t inner_n;
    if (elem == WEIR_GGUF_STR) {
      if (!take_str(r, &s))
        return weir_fail(e, WEIR_EFORMAT,
                         "key %s: string %" PRIu64 " of the array runs past the end of the file",
                         weir_str_show(key, shown), i);
    } else {
      if (!take_u32(r, &inner) || !take_u64(r, &inner_n))
        return fail_key(e, WEIR_EFORMAT, key, "inner array runs past the end of the file");
      const weir_status inner_st = skip_array(r, key, inner, inner_n, depth + 1, e);
      if (inner_st != WEIR_OK) return inner_st;
    }
  }
  return WEIR_OK;
}

/* Indexes the strings of an array that skip_array has already found to lie inside the file. */
static weir_status index_strings(weir_gguf_entry *k, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  if (k->n > WEIR_GGUF_MAX_STRINGS)
    return weir_fail(e, WEIR_EFORMAT, "key %s: array of %" PRIu64 " strings (limit %d)",
                     weir_str_show(k->key, shown), k->n, WEIR_GGUF_MAX_STRINGS);
  weir_str *string;
  const weir_status st = WEIR_NEW((size_t)k->n, &string, e);
  if (st != WEIR_OK) return st;
  reader r = {k->value, k->value, k->value + k->value_bytes};
  for (uint64_t i = 0; i < k->n; i++)
    if (!take_str(&r, &string[i])) { /* cannot be: checked before */
      free(string);
      return fail_key(e, WEIR_EFORMAT, k->key, "strings changed while being read");
    }
  k->string = string;
  return WEIR_OK;
}

static weir_status parse_value(reader *r, weir_gguf_entry *k, weir_err *e) {
  weir_status st = WEIR_OK;
  uint32_t type, elem;
  if (!take_u32(r, &type)) return fail_key(e, WEIR_EFORMAT, k->key, "the file ends before its type");
  WEIR_TRY(check_type(type, k->key, "value", e));
  k->type = (weir_gguf_type)type;
  k->n = 1;
  if (type == WEIR_GGUF_ARRAY) {
    if (!take_u32(r, &elem) || !take_u64(r, &k->n))
      return fail_key(e, WEIR_EFORMAT, k->key, "the file ends inside its array header");
    k->elem = (weir_gguf_type)elem;
    k->value = r->at;
    WEIR_TRY(skip_array(r, k->key, elem, k->n, 1, e));
    k->value_bytes = (size_t)(r->at - k->value);
    if (elem == WEIR_GGUF_STR) WEIR_TRY(index_strings(k, e));
  } else if (type == WEIR_GGUF_STR) {
    weir_str s;
    if (!take_str(r, &s)) return fail_key(e, WEIR_EFORMAT, k->key, "string runs past the end of the file");
    k->value = (const uint8_t *)s.data;
    k->value_bytes = s.len;
  } else {
    k->value_bytes = weir_gguf_type_bytes(k->type);
    if (!take(r, k->value_bytes, &k->value))
      return fail_key(e, WEIR_EFORMAT, k->key, "the file ends inside its value");
    if (type == WEIR_GGUF_BOOL && *k->value > 1)
      return fail_key(e, WEIR_EFORMAT, k->key, "a bool that is neither 0 nor 1");
  }
out:
  return st;
}

/* Names are looked up by C strings and printed: they hold no NUL and are not empty. */
static const char *name_fault(weir_str name, size_t max) {
  if (name.len == 0) return "the name is empty";
  if (name.len > max) return "the name is too long";
  if (memchr(name.data, '\0', name.len)) return "the name contains a NUL byte";
  return NULL;
}

static weir_status parse_keys(weir_gguf *g, reader *r, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  weir_status st = WEIR_OK;
  for (int64_t i = 0; i < g->n_keys; i++) {
    weir_gguf_entry *k = &g->entry[i];
    const size_t start = offset_of(r);
    if (!take_str(r, &k->key))
      return weir_fail(e, WEIR_EFORMAT,
                       "key %" PRId64 " of %" PRId64 " at byte %zu: its name runs past the end of the file",
                       i, g->n_keys, start);
    const char *fault = name_fault(k->key, WEIR_GGUF_MAX_KEY_BYTES);
    if (fault)
      return weir_fail(e, WEIR_EFORMAT, "key %" PRId64 " at byte %zu: %s: %s", i, start, fault,
                       weir_str_show(k->key, shown));
    if (weir_strmap_add(&g->key_map, k->key, (int32_t)i) != (int32_t)i)
      return fail_key(e, WEIR_EFORMAT, k->key, "appears twice");
    WEIR_TRY(parse_value(r, k, e));
  }
out:
  return st;
}

/* ---- tensors ---- */

typedef struct extent {
  uint64_t offset, bytes;
  int32_t index;
} extent;

static weir_status fail_tensor(weir_err *e, weir_status code, weir_str name, const char *what) {
  char shown[WEIR_STR_SHOW_BYTES];
  return weir_fail(e, code, "tensor %s: %s", weir_str_show(name, shown), what);
}

static weir_status tensor_dtype(weir_gguf_tensor *t, uint32_t id, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  for (size_t i = 0; i < sizeof tensor_types / sizeof tensor_types[0]; i++) {
    if (tensor_types[i].id != id) continue;
    t->dtype = tensor_types[i].dtype;
    if (tensor_types[i].known) return WEIR_OK;
    return weir_fail(e, WEIR_EUNSUP, "tensor %s: type %s is not supported (known: %s)",
                     weir_str_show(t->name, shown), tensor_types[i].name, weir_dtype_names());
  }
  return weir_fail(e, WEIR_EUNSUP, "tensor %s: unknown type %" PRIu32 " (known: %s)",
                   weir_str_show(t->name, shown), id, weir_dtype_names());
}

/* Dimensions, and from them the bytes. */
static weir_status parse_shape(reader *r, weir_gguf_tensor *t, uint32_t n_dims, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  if (n_dims < 1 || n_dims > WEIR_GGUF_MAX_DIMS)
    return weir_fail(e, WEIR_EFORMAT, "tensor %s: %" PRIu32 " dimensions (1 to %d)",
                     weir_str_show(t->name, shown), n_dims, WEIR_GGUF_MAX_DIMS);
  t->n_dims = (int32_t)n_dims;
  int64_t elements = 1;
  for (uint32_t d = 0; d < WEIR_GGUF_MAX_DIMS; d++) {
    uint64_t dim = 1;
    if (d < n_dims && !take_u64(r, &dim))
      return fail_tensor(e, WEIR_EFORMAT, t->name, "the file ends inside its dimensions");
    if (dim < 1 || dim > INT64_MAX)
      return weir_fail(e, WEIR_EFORMAT, "tensor %s: dimension %" PRIu32 " is %" PRIu64,
                       weir_str_show(t->name, shown), d, dim);
    if (__builtin_mul_overflow(elements, (int64_t)dim, &elements))
      return fail_tensor(e, WEIR_EFORMAT, t->name, "the product of its dimensions overflows");
    t->dim[d] = (int64_t)dim;
  }
  return WEIR_OK;
}

static weir_status tensor_bytes(weir_gguf_tensor *t, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  size_t row;
  const weir_status st = weir_dtype_row_bytes(t->dtype, t->dim[0], &row, e);
  if (st != WEIR_OK) return weir_fail_ctx(e, WEIR_EFORMAT, "tensor %s", weir_str_show(t->name, shown));
  t->bytes = row;
  for (int d = 1; d < WEIR_GGUF_MAX_DIMS; d++)
    if (!weir_mul_size(t->bytes, (size_t)t->dim[d], &t->bytes))
      return fail_tensor(e, WEIR_EFORMAT, t->name, "its size in bytes overflows");
  return WEIR_OK;
}

static weir_status parse_tensor(weir_gguf *g, reader *r, int32_t i, extent *x, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  weir_status st = WEIR_OK;
  weir_gguf_tensor *t = &g->tensor[i];
  const size_t start = offset_of(r);
  uint32_t n_dims, type;
  if (!take_str(r, &t->name))
    return weir_fail(e, WEIR_EFORMAT,
                     "tensor %" PRId32 " of %" PRId64 " at byte %zu: its name runs past the end of the file",
                     i, g->n_tensors, start);
  const char *fault = name_fault(t->name, WEIR_GGUF_MAX_NAME_BYTES);
  if (fault)
    return weir_fail(e, WEIR_EFORMAT, "tensor %" PRId32 " at byte %zu: %s: %s", i, start, fault,
                     weir_str_show(t->name, shown));
  if (weir_strmap_add(&g->tensor_map, t->name, i) != i)
    return fail_tensor(e, WEIR_EFORMAT, t->name, "appears twice");
  if (!take_u32(r, &n_dims))
    return fail_tensor(e, WEIR_EFORMAT, t->name, "the file ends before its dimensions");
  WEIR_TRY(parse_shape(r, t, n_dims, e));
  if (!take_u32(r, &type)) return fail_tensor(e, WEIR_EFORMAT, t->name, "the file ends before its type");
  WEIR_TRY(tensor_dtype(t, type, e));
  WEIR_TRY(tensor_bytes(t, e));
  if (!take_u64(r, &x->offset))
    return fail_tensor(e, WEIR_EFORMAT, t->name, "the file ends before its offset");
  x->bytes = t->bytes;
  x->index = i;
out:
  return st;
}

static int by_offset(const void *a, const void *b) {
  const extent *x = a, *y = b;
  return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Places the tensors in what is left behind the aligned end of the headers. */
static weir_status place_tensors(weir_gguf *g, const reader *r, size_t alignment, extent *x, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES], other[WEIR_STR_SHOW_BYTES];
  if (g->n_tensors == 0) return WEIR_OK;
  size_t begin = offset_of(r); /* below g->len, so that adding an alignment of at most 2^20 cannot wrap */
  begin = (begin + alignment - 1) / alignment * alignment;
  const size_t space = begin < g->len ? g->len - begin : 0;
  for (int64_t i = 0; i < g->n_tensors; i++) {
    weir_gguf_tensor *t = &g->tensor[i];
    if (x[i].offset % alignment != 0)
      return weir_fail(e, WEIR_EFORMAT,
                       "tensor %s: offset %" PRIu64 " is not a multiple of the alignment %zu",
                       weir_str_show(t->name, shown), x[i].offset, alignment);
    if (x[i].offset > space || t->bytes > space - x[i].offset)
      return weir_fail(e, WEIR_EFORMAT,
                       "tensor %s: %zu bytes at offset %" PRIu64
                       " of %zu bytes of tensor data: past the end of the file",
                       weir_str_show(t->name, shown), t->bytes, x[i].offset, space);
    t->data = g->data + begin + x[i].offset;
  }
  qsort(x, (size_t)g->n_tensors, sizeof *x, by_offset);
  for (int64_t i = 1; i < g->n_tensors; i++)
    if (x[i].offset - x[i - 1].offset < x[i - 1].bytes)
      return weir_fail(e, WEIR_EFORMAT, "tensor %s: overlaps tensor %s",
                       weir_str_show(g->tensor[x[i].index].name, shown),
                       weir_str_show(g->tensor[x[i - 1].index].name, other));
  return WEIR_OK;
}

static weir_status read_alignment(const weir_gguf *g, size_t *out, weir_err *e) {
  int64_t a;
  const weir_status st = weir_gguf_i64(g, "general.alignment", DEFAULT_ALIGNMENT, &a, e);
  if (st != WEIR_OK) return st;
  if (a < MIN_ALIGNMENT || a > WEIR_GGUF_MAX_ALIGNMENT || (a & (a - 1)) != 0)
    return weir_fail(e, WEIR_EFORMAT, "key \"general.alignment\": %" PRId64 " (a power of two, %d to %d)", a,
                     MIN_ALIGNMENT, WEIR_GGUF_MAX_ALIGNMENT);
  *out = (size_t)a;
  return WEIR_OK;
}

/* ---- the whole ---- */

static weir_status parse_header(weir_gguf *g, reader *r, weir_err *e) {
  const uint8_t *magic;
  uint64_t n_tensors, n_keys;
  char shown[WEIR_STR_SHOW_BYTES];
  if (!take(r, 4, &magic)) return weir_fail(e, WEIR_EFORMAT, "not a GGUF file: %zu bytes", g->len);
  if (memcmp(magic, "GGUF", 4) != 0)
    return weir_fail(e, WEIR_EFORMAT, "not a GGUF file: it begins with %s",
                     weir_str_show((weir_str){(const char *)magic, 4}, shown));
  if (!take_u32(r, &g->version)) return weir_fail(e, WEIR_EFORMAT, "the file ends inside its header");
  if (g->version != 0 && (g->version & 0xffff) == 0)
    return weir_fail(e, WEIR_EUNSUP, "a big-endian GGUF file; weir reads little-endian ones");
  if (g->version != 2 && g->version != 3)
    return weir_fail(e, WEIR_EUNSUP, "GGUF version %" PRIu32 "; weir reads versions 2 and 3", g->version);
  if (!take_u64(r, &n_tensors) || !take_u64(r, &n_keys))
    return weir_fail(e, WEIR_EFORMAT, "the file ends inside its header");
  if (n_keys > WEIR_GGUF_MAX_KEYS)
    return weir_fail(e, WEIR_EFORMAT, "%" PRIu64 " keys (limit %d)", n_keys, WEIR_GGUF_MAX_KEYS);
  if (n_tensors > WEIR_GGUF_MAX_TENSORS)
    return weir_fail(e, WEIR_EFORMAT, "%" PRIu64 " tensors (limit %d)", n_tensors, WEIR_GGUF_MAX_TENSORS);
  if (n_keys > left(r) / MIN_KEY_BYTES)
    return weir_fail(e, WEIR_EFORMAT, "%" PRIu64 " keys do not fit in %zu bytes", n_keys, left(r));
  if (n_tensors > left(r) / MIN_TENSOR_BYTES)
    return weir_fail(e, WEIR_EFORMAT, "%" PRIu64 " tensors do not fit in %zu bytes", n_tensors, left(r));
  g->n_keys = (int64_t)n_keys;
  g->n_tensors = (int64_t)n_tensors;
  return WEIR_OK;
}

weir_status weir_gguf_parse(const void *data, size_t len, weir_gguf **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_gguf *g = NULL;
  extent *x = NULL;
  size_t alignment = DEFAULT_ALIGNMENT;
  *out = NULL;
  WEIR_TRY(WEIR_NEW(1, &g, e));
  g->data = data;
  g->len = len;
  reader r = {g->data, g->data, len ? g->data + len : g->data};
  WEIR_TRY(parse_header(g, &r, e));
  WEIR_TRY(WEIR_NEW((size_t)g->n_keys, &g->entry, e));
  WEIR_TRY(WEIR_NEW((size_t)g->n_tensors, &g->tensor, e));
  WEIR_TRY(WEIR_NEW((size_t)g->n_tensors, &x, e));
  WEIR_TRY(weir_strmap_init(&g->key_map, (size_t)g->n_keys, e));
  WEIR_TRY(weir_strmap_init(&g->tensor_map, (size_t)g->n_tensors, e));
  WEIR_TRY(parse_keys(g, &r, e));
  WEIR_TRY(read_alignment(g, &alignment, e));
  for (int32_t i = 0; i < (int32_t)g->n_tensors; i++) WEIR_TRY(parse_tensor(g, &r, i, &x[i], e));
  WEIR_TRY(place_tensors(g, &r, alignment, x, e));
  *out = g;
  g = NULL;
out:
  free(x);
  weir_gguf_close(g);
  return st;
}

weir_status weir_gguf_open(const char *path, weir_gguf **out, weir_err *e) {
  weir_status st = WEIR_OK;
  void *map = MAP_FAILED;
  size_t len = 0;
  *out = NULL;
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    st = weir_fail(e, WEIR_EIO, "%s: %s", path, strerror(errno));
    goto out;
  }
  struct stat info;
  if (fstat(fd, &info) != 0) {
    st = weir_fail(e, WEIR_EIO, "%s: %s", path, strerror(errno));
    goto out;
  }
  if (!S_ISREG(info.st_mode)) {
    st = weir_fail(e, WEIR_EIO, "%s: not a regular file", path);
    goto out;
  }
  if (info.st_size <= 0) {
    st = weir_fail(e, WEIR_EFORMAT, "%s: the file is empty", path);
    goto out;
  }
  len = (size_t)info.st_size;
  /* Private or shared makes no difference to a read-only mapping, but a file cut short under us is a SIGBUS
   * either way: model files are replaced by renaming, never in place. */
  map = mmap(NULL, len, PROT_READ, MAP_PRIVATE, fd, 0);
  if (map == MAP_FAILED) {
    st = weir_fail(e, WEIR_EIO, "%s: cannot map %zu bytes: %s", path, len, strerror(errno));
    goto out;
  }
  st = weir_gguf_parse(map, len, out, e);
  if (st != WEIR_OK) {
    weir_fail_ctx(e, st, "%s", path);
    goto out;
  }
  (*out)->mapped = true;
  map = MAP_FAILED; /* theirs now */
out:
  if (map != MAP_FAILED) munmap(map, len);
  if (fd >= 0) close(fd);
  return st;
}

void weir_gguf_close(weir_gguf *g) {
  if (!g) return;
  for (int64_t i = 0; g->entry && i < g->n_keys; i++) free((void *)(uintptr_t)g->entry[i].string);
  free(g->entry);
  free(g->tensor);
  weir_strmap_fini(&g->key_map);
  weir_strmap_fini(&g->tensor_map);
  if (g->mapped) munmap((void *)(uintptr_t)g->data, g->len);
  free(g);
}

int64_t weir_gguf_n_tensors(const weir_gguf *g) { return g->n_tensors; }

const weir_gguf_tensor *weir_gguf_tensor_at(const weir_gguf *g, int64_t i) {
  return i >= 0 && i < g->n_tensors ? &g->tensor[i] : NULL;
}

const weir_gguf_tensor *weir_gguf_find(const weir_gguf *g, const char *name) {
  const int32_t i = weir_strmap_get(&g->tensor_map, weir_str_of(name));
  return i < 0 ? NULL : &g->tensor[i];
}

uint32_t weir_gguf_version(const weir_gguf *g) { return g->version; }
