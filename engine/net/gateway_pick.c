/* SPDX-License-Identifier: Apache-2.0 */
#include "net/gateway_pick.h"

enum { SLACK = 4 };

/* The finaliser of SplitMix64: every bit of the two names moves every bit of their affinity. */
static uint64_t mix(uint64_t x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9u;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

int32_t weir_gw_pick(const weir_gw_load *load, int32_t n, uint64_t key) {
  int32_t favourite = -1, idlest = -1;
  uint64_t best = 0;
  for (int32_t i = 0; i < n; i++) {
    if (!load[i].usable) continue;
    const uint64_t affinity = mix(load[i].seed ^ mix(key));
    if (favourite < 0 || affinity > best) {
      favourite = i;
      best = affinity;
    }
    if (idlest < 0 || load[i].work < load[idlest].work) idlest = i;
  }
  if (favourite < 0) return -1;
  return load[favourite].work > 2 * (uint64_t)load[idlest].work + SLACK ? idlest : favourite;
}
