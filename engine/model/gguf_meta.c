/* SPDX-License-Identifier: Apache-2.0 */
/* Typed access to a parsed file's metadata, and its values as text. Owns nothing: reads the index that gguf.c
 * built; any thread. */
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "model/gguf_index.h"

static const weir_gguf_entry *find(const weir_gguf *g, const char *key) {
  const int32_t i = weir_strmap_get(&g->key_map, weir_str_of(key));
  return i < 0 ? NULL : &g->entry[i];
}

static weir_status wrong_type(weir_err *e, const weir_gguf_entry *k, const char *want) {
  char shown[WEIR_STR_SHOW_BYTES];
  const bool array = k->type == WEIR_GGUF_ARRAY;
  return weir_fail(e, WEIR_EFORMAT, "key %s: want %s, file has %s%s", weir_str_show(k->key, shown), want,
                   array ? "an array of " : "", weir_gguf_type_name(array ? k->elem : k->type));
}

static bool is_integer(weir_gguf_type t) {
  return t <= WEIR_GGUF_I32 || t == WEIR_GGUF_U64 || t == WEIR_GGUF_I64;
}
static bool is_float(weir_gguf_type t) { return t == WEIR_GGUF_F32 || t == WEIR_GGUF_F64; }

/* False when a u64 does not fit. */
static bool load_i64(weir_gguf_type t, const uint8_t *p, int64_t *out) {
  switch (t) {
    case WEIR_GGUF_U8: *out = p[0]; return true;
    case WEIR_GGUF_I8: *out = (int8_t)p[0]; return true;
    case WEIR_GGUF_U16: *out = weir_gguf_load_u16(p); return true;
    case WEIR_GGUF_I16: *out = (int16_t)weir_gguf_load_u16(p); return true;
    case WEIR_GGUF_U32: *out = weir_gguf_load_u32(p); return true;
    case WEIR_GGUF_I32: *out = (int32_t)weir_gguf_load_u32(p); return true;
    case WEIR_GGUF_I64: *out = (int64_t)weir_gguf_load_u64(p); return true;
    case WEIR_GGUF_U64:
      if (weir_gguf_load_u64(p) > INT64_MAX) return false;
      *out = (int64_t)weir_gguf_load_u64(p);
      return true;
    default: return false;
  }
}

static double load_float(weir_gguf_type t, const uint8_t *p) {
  if (t == WEIR_GGUF_F32) {
    const uint32_t u = weir_gguf_load_u32(p);
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
  }
  const uint64_t u = weir_gguf_load_u64(p);
  double d;
  memcpy(&d, &u, sizeof d);
  return d;
}

bool weir_gguf_has(const weir_gguf *g, const char *key) { return find(g, key) != NULL; }

weir_status weir_gguf_i64(const weir_gguf *g, const char *key, int64_t def, int64_t *out, weir_err *e) {
  const weir_gguf_entry *k = find(g, key);
  *out = def;
  if (!k) return WEIR_OK;
  if (!is_integer(k->type)) return wrong_type(e, k, "an integer");
  if (!load_i64(k->type, k->value, out))
    return weir_fail(e, WEIR_EFORMAT, "key \"%s\": %" PRIu64 " is too large", key,
                     weir_gguf_load_u64(k->value));
  return WEIR_OK;
}

weir_status weir_gguf_f32(const weir_gguf *g, const char *key, float def, float *out, weir_err *e) {
  const weir_gguf_entry *k = find(g, key);
  *out = def;
  if (!k) return WEIR_OK;
  if (!is_float(k->type)) return wrong_type(e, k, "a float");
  const double d = load_float(k->type, k->value);
  /* Compared as doubles: a finite f64 beyond float's range would be undefined to convert. */
  if (!isfinite(d) || fabs(d) > (double)FLT_MAX)
    return weir_fail(e, WEIR_EFORMAT, "key \"%s\": %g is not a finite float", key, d);
  *out = (float)d;
  return WEIR_OK;
}

weir_status weir_gguf_bool(const weir_gguf *g, const char *key, bool def, bool *out, weir_err *e) {
  const weir_gguf_entry *k = find(g, key);
  *out = def;
  if (!k) return WEIR_OK;
  if (k->type != WEIR_GGUF_BOOL) return wrong_type(e, k, "a bool");
  *out = *k->value == 1;
  return WEIR_OK;
}

weir_status weir_gguf_str(const weir_gguf *g, const char *key, weir_str *out, weir_err *e) {
  const weir_gguf_entry *k = find(g, key);
  *out = (weir_str){NULL, 0};
  if (!k) return WEIR_OK;
  if (k->type != WEIR_GGUF_STR) return wrong_type(e, k, "a string");
  *out = (weir_str){(const char *)k->value, k->value_bytes};
  return WEIR_OK;
}

weir_status weir_gguf_str_array(const weir_gguf *g, const char *key, const weir_str **out, int64_t *n,
                                weir_err *e) {
  const weir_gguf_entry *k = find(g, key);
  *out = NULL;
  *n = 0;
  if (!k) return WEIR_OK;
  if (k->type != WEIR_GGUF_ARRAY || k->elem != WEIR_GGUF_STR) return wrong_type(e, k, "an array of strings");
  *out = k->string;
  *n = (int64_t)k->n; /* at most WEIR_GGUF_MAX_STRINGS */
  return WEIR_OK;
}

weir_status weir_gguf_i32_array(const weir_gguf *g, const char *key, int32_t *out, int64_t cap, int64_t *n,
                                weir_err *e) {
  const weir_gguf_entry *k = find(g, key);
  *n = 0;
  if (!k) return WEIR_OK;
  if (k->type != WEIR_GGUF_ARRAY || !is_integer(k->elem)) return wrong_type(e, k, "an array of integers");
  const size_t size = weir_gguf_type_bytes(k->elem);
  for (uint64_t i = 0; i < k->n && (int64_t)i < cap; i++) {
    int64_t v;
    if (!load_i64(k->elem, k->value + i * size, &v) || v < INT32_MIN || v > INT32_MAX)
      return weir_fail(e, WEIR_EFORMAT, "key \"%s\": element %" PRIu64 " does not fit in 32 bits", key, i);
    out[i] = (int32_t)v;
  }
  *n = (int64_t)k->n; /* an element takes a byte of the file at least: far below 2^63 */
  return WEIR_OK;
}

weir_status weir_gguf_f32_array(const weir_gguf *g, const char *key, float *out, int64_t cap, int64_t *n,
                                weir_err *e) {
  const weir_gguf_entry *k = find(g, key);
  *n = 0;
  if (!k) return WEIR_OK;
  if (k->type != WEIR_GGUF_ARRAY || !is_float(k->elem)) return wrong_type(e, k, "an array of floats");
  const size_t size = weir_gguf_type_bytes(k->elem);
  for (uint64_t i = 0; i < k->n && (int64_t)i < cap; i++) {
    const double d = load_float(k->elem, k->value + i * size);
    if (!isfinite(d) || fabs(d) > (double)FLT_MAX)
      return weir_fail(e, WEIR_EFORMAT, "key \"%s\": element %" PRIu64 " is not a finite float", key, i);
    out[i] = (float)d;
  }
  *n = (int64_t)k->n;
  return WEIR_OK;
}

/* ---- text ---- */

int64_t weir_gguf_n_keys(const weir_gguf *g) { return g->n_keys; }

weir_str weir_gguf_key(const weir_gguf *g, int64_t i) {
  return i >= 0 && i < g->n_keys ? g->entry[i].key : (weir_str){NULL, 0};
}

static void scalar_text(weir_gguf_type t, const uint8_t *p, char *buf, size_t bytes) {
  int64_t v;
  if (t == WEIR_GGUF_BOOL)
    snprintf(buf, bytes, "%s", *p == 1 ? "true" : *p == 0 ? "false" : "bad bool");
  else if (is_float(t))
    snprintf(buf, bytes, "%.9g", load_float(t, p));
  else if (load_i64(t, p, &v))
    snprintf(buf, bytes, "%" PRId64, v);
  else
    snprintf(buf, bytes, "%" PRIu64, weir_gguf_load_u64(p));
}

static void array_text(const weir_gguf_entry *k, char *buf, size_t bytes) {
  enum { SHOWN = 4 };
  char one[WEIR_STR_SHOW_BYTES];
  int at = snprintf(buf, bytes, "%" PRIu64 " x %s [", k->n, weir_gguf_type_name(k->elem));
  const size_t size = weir_gguf_type_bytes(k->elem);
  for (uint64_t i = 0; i < k->n && i < SHOWN && k->elem != WEIR_GGUF_ARRAY; i++) {
    if (k->elem == WEIR_GGUF_STR)
      weir_str_show(k->string[i], one);
    else
      scalar_text(k->elem, k->value + i * size, one, sizeof one);
    if (at < 0 || (size_t)at >= bytes) return;
    at += snprintf(buf + at, bytes - (size_t)at, "%s%s", i ? ", " : "", one);
  }
  if (at < 0 || (size_t)at >= bytes) return;
  snprintf(buf + at, bytes - (size_t)at, "%s]", k->elem == WEIR_GGUF_ARRAY || k->n > SHOWN ? " ..." : "");
}

void weir_gguf_value_text(const weir_gguf *g, int64_t i, char *buf, size_t buf_bytes) {
  if (buf_bytes == 0) return;
  buf[0] = '\0';
  if (i < 0 || i >= g->n_keys) return;
  const weir_gguf_entry *k = &g->entry[i];
  if (k->type == WEIR_GGUF_ARRAY)
    array_text(k, buf, buf_bytes);
  else if (k->type != WEIR_GGUF_STR)
    scalar_text(k->type, k->value, buf, buf_bytes);
  else if (buf_bytes >= 8)
    weir_str_escape((weir_str){(const char *)k->value, k->value_bytes}, buf, buf_bytes);
}
