/* SPDX-License-Identifier: Apache-2.0 */
/* A hash under a secret key: who does not know the key can neither find two inputs of one value nor guess a
 * value. SipHash-2-4 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012). */
#ifndef WEIR_SERVE_KEYED_HASH_H
#define WEIR_SERVE_KEYED_HASH_H
#include <stddef.h>
#include <stdint.h>

typedef struct weir_hash_key {
  uint64_t k0, k1;
} weir_hash_key;

/* A key that nobody outside the process can guess. */
weir_hash_key weir_hash_key_draw(void);
uint64_t weir_keyed_hash(weir_hash_key, const void *bytes, size_t n);

#endif
