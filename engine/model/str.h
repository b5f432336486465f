/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes that belong to somebody else, how to print them, and a map from them to a number. */
#ifndef WEIR_MODEL_STR_H
#define WEIR_MODEL_STR_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/err.h"

/* Borrowed bytes; not NUL-terminated, any value. */
typedef struct weir_str {
  const char *data;
  size_t len;
} weir_str;

static inline bool weir_str_eq(weir_str a, weir_str b) {
  return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}
static inline weir_str weir_str_of(const char *s) { return (weir_str){s, strlen(s)}; }

enum { WEIR_STR_SHOW_BYTES = 112 };

/* `s` as one line of printable ASCII between double quotes, other bytes as \xNN, cut with "..." when it does
 * not fit. Returns buf. For messages: what a hostile file says never reaches a terminal raw. */
const char *weir_str_show(weir_str s, char buf[WEIR_STR_SHOW_BYTES]);
/* The same for a buffer of any size >= 8, without the quotes. */
void weir_str_escape(weir_str s, char *buf, size_t buf_bytes);

/* From strings to int32 >= 0. Keys are borrowed: they must outlive the map. Seeded, so that chosen keys
 * cannot make it slow. */
typedef struct weir_strmap_slot {
  weir_str key;
  int32_t value; /* -1: free */
  uint32_t tag;  /* upper half of the hash */
} weir_strmap_slot;

typedef struct weir_strmap {
  weir_strmap_slot *slot; /* owned; [mask + 1] */
  size_t mask;
  uint64_t seed;
} weir_strmap; /* zeroed: empty, and every look-up says -1 */

/* Room for n keys. */
weir_status weir_strmap_init(weir_strmap *, size_t n, weir_err *e);
void weir_strmap_fini(weir_strmap *);
/* Puts key -> value unless the key is there; returns what the map now holds for it. At most n distinct keys.
 */
int32_t weir_strmap_add(weir_strmap *, weir_str key, int32_t value);
/* -1 when absent. */
int32_t weir_strmap_get(const weir_strmap *, weir_str key);

/* A number nobody outside the process can guess, drawn once per call; for hash seeds. */
uint64_t weir_hash_seed(void);

#endif
