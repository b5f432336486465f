/* SPDX-License-Identifier: Apache-2.0 */
/* SipHash-2-4. Owns nothing; any thread. */
#include "serve/keyed_hash.h"

#include "model/str.h"

weir_hash_key weir_hash_key_draw(void) { return (weir_hash_key){weir_hash_seed(), weir_hash_seed()}; }

static uint64_t rotl(uint64_t x, int b) { return x << b | x >> (64 - b); }

static void rounds(uint64_t v[4], int n) {
  for (int i = 0; i < n; i++) {
    v[0] += v[1], v[1] = rotl(v[1], 13), v[1] ^= v[0], v[0] = rotl(v[0], 32);
    v[2] += v[3], v[3] = rotl(v[3], 16), v[3] ^= v[2];
    v[0] += v[3], v[3] = rotl(v[3], 21), v[3] ^= v[0];
    v[2] += v[1], v[1] = rotl(v[1], 17), v[1] ^= v[2], v[2] = rotl(v[2], 32);
  }
}

uint64_t weir_keyed_hash(weir_hash_key k, const void *bytes, size_t n) {
  const unsigned char *p = bytes;
  uint64_t v[4] = {k.k0 ^ 0x736f6d6570736575u, k.k1 ^ 0x646f72616e646f6du, k.k0 ^ 0x6c7967656e657261u,
                   k.k1 ^ 0x7465646279746573u};
  for (size_t at = 0; at <= n; at += 8) {
    const size_t left = n - at < 8 ? n - at : 8;
    uint64_t m = left < 8 ? (uint64_t)(n & 0xff) << 56 : 0; /* the last word carries the length */
    for (size_t i = 0; i < left; i++) m |= (uint64_t)p[at + i] << (8 * i);
    v[3] ^= m;
    rounds(v, 2);
    v[0] ^= m;
  }
  v[2] ^= 0xff;
  rounds(v, 4);
  return v[0] ^ v[1] ^ v[2] ^ v[3];
}
