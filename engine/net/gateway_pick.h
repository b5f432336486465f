/* SPDX-License-Identifier: Apache-2.0 */
/* Which engine gets a request. Pure; any thread. */
#ifndef WEIR_NET_GATEWAY_PICK_H
#define WEIR_NET_GATEWAY_PICK_H
#include <stdbool.h>
#include <stdint.h>

typedef struct weir_gw_load {
  bool usable;
  uint32_t work; /* requests it has and has not ended */
  uint64_t seed; /* its name, hashed */
} weir_gw_load;

/* Rendezvous hashing: each key likes one engine best, and only the keys of an engine that goes away move. The
 * favourite gets the request unless it has more than twice the work of the idlest and a few; then the idlest
 * does. -1: none is usable. */
int32_t weir_gw_pick(const weir_gw_load *, int32_t n, uint64_t key);

#endif
