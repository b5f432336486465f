/* SPDX-License-Identifier: Apache-2.0 */
/* Where the tiers of a cascade run: which device each has, devices opened once each, and how the memory of a
 * GPU is cut between the KV of the tiers on it. */
#ifndef WEIR_SERVE_PLACEMENT_H
#define WEIR_SERVE_PLACEMENT_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "cascade/policy.h"
#include "comm/meet.h"
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

/* Of the ranks of one model on this machine, in order. */
typedef struct weir_places {
  int32_t n; /* at most WEIR_MAX_RANKS */
  weir_place at[WEIR_MAX_RANKS];
} weir_places;
/* Places of n ranks: "cpu" is n ranks on the CPU, "cuda" the n GPUs from `first` on, and a list with commas
 * between ("cuda:2,cuda:3") names each. A GPU may stand there more than once. WEIR_EINVAL. */
weir_status weir_places_parse(const char *names, int32_t n, int32_t first, weir_places *out, weir_err *e);
/* The first GPU of process `local` of n_local on this machine, with n ranks each, that sees n_gpus: the next
 * after those of the others, or the first when the launcher has given each process GPUs of its own. */
int32_t weir_places_first(int32_t local, int32_t n_local, int32_t n, int32_t n_gpus);
/* How ranks at these places talk when nobody says: see --comm. */
weir_comm_kind weir_places_comm(const weir_places *, int32_t n_nodes);
/* Whether ranks there can talk so; WEIR_EINVAL. */
weir_status weir_places_check_comm(const weir_places *, int32_t n_nodes, weir_comm_kind, weir_err *e);

typedef struct weir_placement_opts {
  int32_t n_tiers;
  weir_place place[WEIR_MAX_TIERS];
  const weir_places
      *ranks[WEIR_MAX_TIERS];   /* of a tier that is cut over ranks; NULL: one device at `place` */
  int32_t n_threads;            /* of the CPU device, of each rank's; 0: one a core, which ranks share out */
  int32_t process, n_processes; /* of this machine, each with as many ranks on its cores; 0: one */
  const char *isa;              /* of the CPU device: "auto" or NULL, "scalar", ... */
  const char *cuda_library;     /* weir-cuda.so; NULL: found by itself */
  bool cuda_no_graphs;
} weir_placement_opts;

typedef struct weir_placement {
  int32_t n_tiers;
  weir_place place[WEIR_MAX_TIERS]; /* of the first rank, as is dev */
  weir_dev *dev[WEIR_MAX_TIERS];    /* tiers of one rank at one place share one */
  weir_places ranks[WEIR_MAX_TIERS];
  weir_dev *rank[WEIR_MAX_TIERS][WEIR_MAX_RANKS]; /* [ranks[t].n]; [0] is dev. Ranks have one each */
} weir_placement;

/* Opens the devices. Errors say of which place. */
weir_status weir_placement_open(const weir_placement_opts *, weir_placement *out, weir_err *e);
/* `left`: devices in whose driver a thread is still stuck; those are left behind, as it is. */
void weir_placement_close(weir_placement *, const bool left[WEIR_MAX_TIERS]);

/* Whether the tiers' steps can run at the same time: two tiers, and no place belongs to both. */
bool weir_placement_overlaps(const weir_placement *);
/* The CPU device, NULL when no tier is on it. */
weir_dev *weir_placement_cpu(const weir_placement *);
/* A tier's devices: "cpu (avx2), 8 threads", "2 ranks, each cpu (avx2), 4 threads". */
void weir_placement_describe_tier(const weir_placement *, int32_t tier, char *out, size_t bytes);
/* Of all: "cpu (avx512-vnni), 2 threads", or "small on ..., large on ..." when they differ. */
void weir_placement_describe(const weir_placement *, char *out, size_t bytes);

/* Tokens that the KV of each tier of one GPU holds, of `free` bytes out of `total`, when weir may take
 * `share` of the total and a token takes token_bytes (of all tiers there together): so all tiers there hold
 * as many tokens, which is what a request needs, and the memory is cut by bytes per token. 0: not even one.
 */
int64_t weir_placement_kv_tokens(size_t free_bytes, size_t total_bytes, double share, int64_t token_bytes);

#endif
