/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels of peers.cu. */
#ifndef WEIR_KERNELS_CUDA_PEERS_KERNELS_H
#define WEIR_KERNELS_CUDA_PEERS_KERNELS_H
#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

enum { WEIR_CUK_PEERS = 8, WEIR_CUK_PEER_THREADS = 512 };
typedef enum weir_cuk_exchange_what {
  WEIR_CUK_PEER_REDUCE,
  WEIR_CUK_PEER_GATHER,
  WEIR_CUK_PEER_BROADCAST
} weir_cuk_exchange_what;

/* An exchange of n_ranks kernels, one on each rank's stream, that wait for each other. */
typedef struct weir_cuk_exchange_args {
  void *out; /* [n]; of gather [n_ranks][n] */
  const void *in;
  uint64_t n;                     /* elements of unit bytes: 16, 4, or, but for sums, 1 */
  void *data[WEIR_CUK_PEERS];     /* [2][n_slots][slot_bytes] of each rank; a slot is a block's */
  uint32_t *came[WEIR_CUK_PEERS]; /* [n_slots * stride] of each rank: slices its block has laid out so far */
  uint32_t *stop;                 /* of the group, in host memory */
  uint64_t bound_ns;
  uint32_t late; /* what goes to `stop`, with rank << 8 | the missing one, when the bound is over */
  int32_t rank, n_ranks, root;
  int32_t what, unit;
  int32_t n_blocks, n_slots; /* blocks of this launch: the same at all ranks, at most n_slots */
  int32_t stride;            /* words */
  uint32_t slot_bytes;
  uint32_t slice_bytes; /* at most slot_bytes; both multiples of 16, and the same at all ranks */
} weir_cuk_exchange_args;
cudaError_t weir_cuk_exchange(const weir_cuk_exchange_args *, cudaStream_t);

#ifdef __cplusplus
}
#endif
#endif
