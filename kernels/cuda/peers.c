/* SPDX-License-Identifier: Apache-2.0 */
/* Exchange among devices of one GPU, and host memory that kernels see. Owns nothing; enqueues; the thread
 * that owns the device.
 *
 * The kernels of all ranks wait for each other on the GPU, so all their blocks must be resident at once. A
 * block has 512 threads and no shared memory to speak of; n_ranks times the blocks of one are kept at half
 * the number of SMs or less. Then, wherever they lie, half of the SMs have none, and what else is under way
 * (the ranks' other kernels, which wait for nobody) gets through there and makes room. 132 SMs: 16 blocks for
 * 4 ranks, 8 for 8. Streams wait for each other too when they share one of the driver's queues, of which
 * there are eight by default (CUDA_DEVICE_MAX_CONNECTIONS): WEIR_PEER_RANKS is no more. */
#include <stdint.h>
#include <string.h>

#include "kernels/cuda/cuda_dev.h"
#include "kernels/cuda/peers_kernels.h"

_Static_assert((int)WEIR_CUK_PEERS == (int)WEIR_PEER_RANKS, "the kernels' ranks are the group's");
_Static_assert((int)WEIR_CUK_PEER_REDUCE == (int)WEIR_PEER_REDUCE &&
                   (int)WEIR_CUK_PEER_GATHER == (int)WEIR_PEER_GATHER &&
                   (int)WEIR_CUK_PEER_BROADCAST == (int)WEIR_PEER_BROADCAST,
               "kinds of exchange have the same numbers");
_Static_assert(WEIR_PEER_SLICE_BYTES % 16 == 0 && WEIR_PEER_STAMP_BYTES % 16 == 0, "slices lie on 16 bytes");

weir_status weir_cuda_map_host(weir_dev *dev, size_t bytes, void **out, weir_err *e) {
  if (weir_cuda_of(dev)->capturing) return weir_fail(e, WEIR_EINVAL, "map memory: not within a record");
  *out = NULL;
  /* Unified addressing (all 64-bit Linux): the kernels' address is the host's. */
  const weir_status st = weir_cuda_check(
      dev, cudaHostAlloc(out, bytes, cudaHostAllocMapped | cudaHostAllocPortable), "map memory", e);
  if (st == WEIR_OK) memset(*out, 0, bytes);
  return st;
}

void weir_cuda_unmap_host(weir_dev *dev, void *p) {
  (void)weir_cuda_enter(dev, NULL); /* a dead device's memory goes too */
  (void)weir_cuda_check(dev, cudaFreeHost(p), "unmap memory", NULL);
}

/* Of a slice: below, a block more costs what it saves. */
enum { LEAST_SLICE = 2048 };

static size_t rounded(size_t bytes) { return (bytes + 15) / 16 * 16; }
static bool on(const void *p, size_t bytes) { return (uintptr_t)p % bytes == 0; }

weir_status weir_cuda_reduce_peers(weir_dev *dev, const weir_peers *p, const weir_exchange *x, weir_err *e) {
  weir_cuda *cu = weir_cuda_of(dev);
  const int32_t most = cu->n_sms / (2 * p->n_ranks);
  if (most < 1)
    return weir_fail(e, WEIR_EUNSUP, "exchange: %d ranks on a GPU of %d SMs, at most one for every two",
                     p->n_ranks, cu->n_sms);
  int32_t unit = 1;
  if (on(x->out, 4) && on(x->in, 4) && x->bytes % 4 == 0) unit = 4;
  if (on(x->out, 16) && on(x->in, 16) && x->bytes % 16 == 0) unit = 16;
  if (x->what == WEIR_PEER_REDUCE && unit == 1)
    return weir_fail(e, WEIR_EINVAL, "exchange: floats at %p", x->out);
  /* How blocks share the bytes follows from their number alone: ranks' addresses differ, and so may units. */
  const size_t at_most = (size_t)(most < WEIR_PEER_BLOCKS ? most : WEIR_PEER_BLOCKS);
  size_t slice = rounded((x->bytes + at_most - 1) / at_most);
  if (slice < LEAST_SLICE) slice = LEAST_SLICE;
  if (slice > WEIR_PEER_SLICE_BYTES) slice = WEIR_PEER_SLICE_BYTES;
  const size_t slices = (x->bytes + slice - 1) / slice;
  weir_cuk_exchange_args a = {.out = x->out,
                              .in = x->in,
                              .n = x->bytes / (size_t)unit,
                              .stop = p->stop,
                              .bound_ns = (uint64_t)p->bound_ns,
                              .late = WEIR_PEER_LATE,
                              .rank = p->rank,
                              .n_ranks = p->n_ranks,
                              .root = x->root,
                              .what = (int32_t)x->what,
                              .unit = unit,
                              .n_blocks = (int32_t)(slices < at_most ? slices : at_most),
                              .n_slots = WEIR_PEER_BLOCKS,
                              .stride = WEIR_PEER_STAMP_BYTES / 4,
                              .slot_bytes = WEIR_PEER_SLICE_BYTES,
                              .slice_bytes = (uint32_t)slice};
  for (int32_t r = 0; r < p->n_ranks; r++) {
    a.came[r] = p->part[r];
    a.data[r] = (char *)p->part[r] + (size_t)WEIR_PEER_BLOCKS * WEIR_PEER_STAMP_BYTES;
  }
  cu->waits = true;
  return weir_cuda_check(dev, weir_cuk_exchange(&a, cu->stream), "launch exchange", e);
}
