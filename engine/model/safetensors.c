/* SPDX-License-Identifier: Apache-2.0 */
/* Parser of safetensors files. Owns the index and the parsed header, whose keys are the tensors' names; calls
 * jansson; any thread, read-only once parsed.
 *
 * As in gguf.c, a number of the file is compared with what it is about before it is used for anything. */
#include "model/safetensors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/json.h"

static const struct {
  const char *name;
  uint8_t bits;
} dtypes[WEIR_ST_DTYPE_COUNT] = {
    [WEIR_ST_BOOL] = {"BOOL", 8},       [WEIR_ST_U8] = {"U8", 8},
    [WEIR_ST_I8] = {"I8", 8},           [WEIR_ST_U16] = {"U16", 16},
    [WEIR_ST_I16] = {"I16", 16},        [WEIR_ST_U32] = {"U32", 32},
    [WEIR_ST_I32] = {"I32", 32},        [WEIR_ST_U64] = {"U64", 64},
    [WEIR_ST_I64] = {"I64", 64},        [WEIR_ST_F16] = {"F16", 16},
    [WEIR_ST_BF16] = {"BF16", 16},      [WEIR_ST_F32] = {"F32", 32},
    [WEIR_ST_F64] = {"F64", 64},        [WEIR_ST_F8_E4M3] = {"F8_E4M3", 8},
    [WEIR_ST_F8_E5M2] = {"F8_E5M2", 8}, [WEIR_ST_F8_E8M0] = {"F8_E8M0", 8},
    [WEIR_ST_F4] = {"F4", 4},
};

struct weir_safetensors {
  json_t *header;
  weir_st_tensor *tensor; /* [n], by offset */
  int32_t n;
  weir_strmap by_name;
};

const char *weir_st_dtype_name(weir_st_dtype t) {
  return (unsigned)t < WEIR_ST_DTYPE_COUNT ? dtypes[t].name : "unknown";
}

static weir_status fail_tensor(weir_err *e, weir_str name, const char *what) {
  char shown[WEIR_STR_SHOW_BYTES];
  return weir_fail(e, WEIR_EFORMAT, "tensor %s: %s", weir_str_show(name, shown), what);
}

static weir_status read_dtype(const json_t *j, weir_st_tensor *t, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES], type[WEIR_STR_SHOW_BYTES];
  const json_t *v = json_object_get(j, "dtype");
  if (!json_is_string(v)) return fail_tensor(e, t->name, "no \"dtype\" that is a string");
  const weir_str name = {json_string_value(v), json_string_length(v)};
  for (int i = 0; i < WEIR_ST_DTYPE_COUNT; i++)
    if (weir_str_eq(name, weir_str_of(dtypes[i].name))) {
      t->dtype = (weir_st_dtype)i;
      return WEIR_OK;
    }
  return weir_fail(e, WEIR_EUNSUP, "tensor %s: unknown dtype %s", weir_str_show(t->name, shown),
                   weir_str_show(name, type));
}

/* Dimensions, and from them the bytes. */
static weir_status read_shape(const json_t *j, weir_st_tensor *t, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  const json_t *v = json_object_get(j, "shape");
  if (!json_is_array(v)) return fail_tensor(e, t->name, "no \"shape\" that is an array");
  if (json_array_size(v) > WEIR_ST_MAX_DIMS)
    return weir_fail(e, WEIR_EFORMAT, "tensor %s: %zu dimensions (limit %d)", weir_str_show(t->name, shown),
                     json_array_size(v), WEIR_ST_MAX_DIMS);
  t->n_dims = (int32_t)json_array_size(v);
  size_t bits = dtypes[t->dtype].bits;
  bool zero = false;
  for (int32_t d = 0; d < WEIR_ST_MAX_DIMS; d++) {
    const json_t *x = json_array_get(v, (size_t)d);
    t->dim[d] = 1;
    if (d >= t->n_dims) continue;
    if (!json_is_integer(x) || json_integer_value(x) < 0)
      return weir_fail(e, WEIR_EFORMAT, "tensor %s: dimension %" PRId32 " is not a count",
                       weir_str_show(t->name, shown), d);
    t->dim[d] = json_integer_value(x);
    zero = zero || t->dim[d] == 0;
  }
  for (int32_t d = 0; d < t->n_dims && !zero; d++)
    if (!weir_mul_size(bits, (size_t)t->dim[d], &bits))
      return fail_tensor(e, t->name, "the product of its dimensions overflows");
  if (zero) bits = 0;
  if (bits % 8 != 0) return fail_tensor(e, t->name, "its elements do not fill whole bytes");
  t->bytes = bits / 8;
  return WEIR_OK;
}

/* The two offsets into the `space` bytes behind the header at `data`. */
static weir_status read_offsets(const json_t *j, weir_st_tensor *t, const uint8_t *data, size_t space,
                                weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  const json_t *v = json_object_get(j, "data_offsets"), *a = json_array_get(v, 0), *b = json_array_get(v, 1);
  if (json_array_size(v) != 2 || !json_is_integer(a) || !json_is_integer(b))
    return fail_tensor(e, t->name, "no \"data_offsets\" that are two integers");
  const json_int_t begin = json_integer_value(a), end = json_integer_value(b);
  if (begin < 0 || end < begin || (uintmax_t)end > space)
    return weir_fail(e, WEIR_EFORMAT,
                     "tensor %s: data_offsets [%" JSON_INTEGER_FORMAT ", %" JSON_INTEGER_FORMAT
                     "] do not lie in the %zu bytes of tensor data",
                     weir_str_show(t->name, shown), begin, end, space);
  if ((size_t)(end - begin) != t->bytes)
    return weir_fail(e, WEIR_EFORMAT,
                     "tensor %s: %" JSON_INTEGER_FORMAT " bytes of data, but its shape and dtype need %zu",
                     weir_str_show(t->name, shown), end - begin, t->bytes);
  t->data = data + begin;
  return WEIR_OK;
}

static int by_place(const void *a, const void *b) {
  const weir_st_tensor *x = a, *y = b;
  if (x->data != y->data) return x->data < y->data ? -1 : 1;
  return x->bytes < y->bytes ? -1 : x->bytes > y->bytes; /* empty ones before what begins at their place */
}

/* The format knows no holes: each tensor begins where the one before ends, the last ends with the file. */
static weir_status check_places(const weir_safetensors *s, const uint8_t *data, size_t space, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  size_t at = 0;
  for (int32_t i = 0; i < s->n; i++) {
    const weir_st_tensor *t = &s->tensor[i];
    const size_t begin = (size_t)(t->data - data);
    if (begin < at) return fail_tensor(e, t->name, "overlaps the tensor before it");
    if (begin > at)
      return weir_fail(e, WEIR_EFORMAT, "tensor %s: a hole of %zu bytes before it",
                       weir_str_show(t->name, shown), begin - at);
    at += t->bytes;
  }
  if (at != space)
    return weir_fail(e, WEIR_EFORMAT, "%zu bytes behind the last tensor belong to none", space - at);
  return WEIR_OK;
}

static weir_status read_tensors(weir_safetensors *s, const uint8_t *data, size_t space, weir_err *e) {
  weir_status st = WEIR_OK;
  char shown[WEIR_STR_SHOW_BYTES];
  for (void *it = json_object_iter(s->header); it; it = json_object_iter_next(s->header, it)) {
    weir_st_tensor t = {.name = weir_str_of(json_object_iter_key(it))};
    const json_t *j = json_object_iter_value(it);
    if (weir_str_eq(t.name, weir_str_of("__metadata__"))) {
      if (!json_is_object(j)) return fail_tensor(e, t.name, "not an object");
      continue;
    }
    if (t.name.len == 0) return fail_tensor(e, t.name, "the name is empty");
    if (t.name.len > WEIR_ST_MAX_NAME_BYTES)
      return weir_fail(e, WEIR_EFORMAT, "tensor %s: the name is too long", weir_str_show(t.name, shown));
    if (!json_is_object(j)) return fail_tensor(e, t.name, "not an object");
    WEIR_TRY(read_dtype(j, &t, e));
    WEIR_TRY(read_shape(j, &t, e));
    WEIR_TRY(read_offsets(j, &t, data, space, e));
    s->tensor[s->n++] = t;
  }
out:
  return st;
}

weir_status weir_safetensors_parse(const void *file, size_t len, weir_safetensors **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_safetensors *s = NULL;
  const uint8_t *p = file;
  uint64_t n = 0;
  *out = NULL;
  static const char pointer[] = "version https://git-lfs";
  if (len < 8) return weir_fail(e, WEIR_EFORMAT, "not a safetensors file: %zu bytes", len);
  if (len >= sizeof pointer - 1 && memcmp(p, pointer, sizeof pointer - 1) == 0)
    return weir_fail(e, WEIR_EFORMAT, "a Git LFS pointer in place of the file, which was not downloaded");
  for (int i = 7; i >= 0; i--) n = n << 8 | p[i];
  if (n > WEIR_ST_MAX_HEADER_BYTES)
    return weir_fail(e, WEIR_EFORMAT, "not a safetensors file: a header of %" PRIu64 " bytes (limit %d)", n,
                     WEIR_ST_MAX_HEADER_BYTES);
  if (n > len - 8)
    return weir_fail(e, WEIR_EFORMAT, "the file ends inside its header: %zu of %" PRIu64 " bytes", len - 8,
                     n);
  if (n == 0 || p[8] != '{') return weir_fail(e, WEIR_EFORMAT, "the header does not begin with '{'");
  const uint8_t *data = p + 8 + n;
  const size_t space = len - 8 - (size_t)n;
  WEIR_TRY(WEIR_NEW(1, &s, e));
  st = weir_json_parse_object((weir_str){(const char *)p + 8, (size_t)n}, &s->header, e);
  if (st != WEIR_OK) {
    weir_fail_ctx(e, st, "header");
    goto out;
  }
  const size_t keys = json_object_size(s->header);
  if (keys > WEIR_ST_MAX_TENSORS) {
    st = weir_fail(e, WEIR_EFORMAT, "%zu tensors (limit %d)", keys, WEIR_ST_MAX_TENSORS);
    goto out;
  }
  WEIR_TRY(WEIR_NEW(keys, &s->tensor, e));
  WEIR_TRY(weir_strmap_init(&s->by_name, keys, e));
  WEIR_TRY(read_tensors(s, data, space, e));
  qsort(s->tensor, (size_t)s->n, sizeof *s->tensor, by_place);
  for (int32_t i = 0; i < s->n; i++) weir_strmap_add(&s->by_name, s->tensor[i].name, i);
  WEIR_TRY(check_places(s, data, space, e));
  *out = s;
  s = NULL;
out:
  weir_safetensors_close(s);
  return st;
}

void weir_safetensors_close(weir_safetensors *s) {
  if (!s) return;
  json_decref(s->header);
  weir_strmap_fini(&s->by_name);
  free(s->tensor);
  free(s);
}

int32_t weir_safetensors_n(const weir_safetensors *s) { return s->n; }
const weir_st_tensor *weir_safetensors_at(const weir_safetensors *s, int32_t i) { return &s->tensor[i]; }
const weir_st_tensor *weir_safetensors_find(const weir_safetensors *s, weir_str name) {
  const int32_t i = weir_strmap_get(&s->by_name, name);
  return i < 0 ? NULL : &s->tensor[i];
}
