/* SPDX-License-Identifier: Apache-2.0 */
/* Where the tiers of a cascade run: which device each has, devices opened once each, and how the memory of a
 * GPU is cut between the KV of the tiers on it. */
#ifndef WEIR_SERVE_PLACEMENT_H
#define WEIR_SERVE_PLACEMENT_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "cascade/policy.h"
#include "kernels/device.h"

/* "cpu", "cuda" (the first GPU) or "cuda:N". */
typedef struct weir_place {
  bool cuda;
  int32_t ordinal; /* 0 for the CPU */
} weir_place;

/* WEIR_EINVAL, which names what is right, for anything else. */
weir_status weir_place_parse(const char *name, weir_place *out, weir_err *e);
static inline bool weir_place_same(weir_place a, weir_place b) {
  return a.cuda == b.cuda && a.ordinal == b.ordinal;
}

typedef struct weir_placement_opts {
  int32_t n_tiers;
  weir_place place[WEIR_MAX_TIERS];
  int32_t n_threads;        /* of the CPU device; 0: one a core */
  const char *isa;          /* of the CPU device: "auto" or NULL, "scalar", ... */
  const char *cuda_library; /* weir-cuda.so; NULL: found by itself */
  bool cuda_no_graphs;
} weir_placement_opts;

typedef struct weir_placement {
  int32_t n_tiers;
  weir_place place[WEIR_MAX_TIERS];
  weir_dev *dev[WEIR_MAX_TIERS]; /* of each tier; tiers of one place share one */
} weir_placement;

/* Opens the devices. Errors say of which place. */
weir_status weir_placement_open(const weir_placement_opts *, weir_placement *out, weir_err *e);
/* `left`: devices in whose driver a thread is still stuck; those are left behind, as it is. */
void weir_placement_close(weir_placement *, const bool left[WEIR_MAX_TIERS]);

/* Whether the tiers' steps can run at the same time: two tiers, each with a device of its own. */
bool weir_placement_overlaps(const weir_placement *);
/* The CPU device, NULL when no tier is on it. */
weir_dev *weir_placement_cpu(const weir_placement *);
/* "avx512-vnni, 2 threads", or "small on ..., large on ..." when they differ. */
void weir_placement_describe(const weir_placement *, char *out, size_t bytes);

/* Tokens that the KV of each tier of one GPU holds, of `free` bytes out of `total`, when weir may take
 * `share` of the total and a token takes token_bytes (of all tiers there together): so all tiers there hold
 * as many tokens, which is what a request needs, and the memory is cut by bytes per token. 0: not even one.
 */
int64_t weir_placement_kv_tokens(size_t free_bytes, size_t total_bytes, double share, int64_t token_bytes);

#endif
