/* SPDX-License-Identifier: Apache-2.0 */
/* Pinned memory through which everything between host and device goes: copies from and to memory that is not
 * pinned would make the caller wait. Bounded; inside kernels/cuda only. */
#ifndef WEIR_KERNELS_CUDA_RING_H
#define WEIR_KERNELS_CUDA_RING_H
#include "kernels/cuda/cuda_dev.h"

typedef struct weir_cuda_ring_sizes {
  size_t segment_bytes; /* longest piece of an upload */
  int32_t n_segments;   /* 2 or more: one is filled while the others are under way */
  size_t download_bytes;
} weir_cuda_ring_sizes;

/* *out released by weir_cuda_ring_destroy. */
weir_status weir_cuda_ring_create(weir_dev *, weir_cuda_ring_sizes, weir_cuda_ring **out, weir_err *e);
/* Nothing may be under way. NULL is fine. */
void weir_cuda_ring_destroy(weir_cuda_ring *);

/* Copies src into the ring and from there to dst, in pieces. Waits only when the whole ring is under way. */
weir_status weir_cuda_ring_upload(weir_dev *, weir_cuda_ring *, void *dst, const void *src, size_t bytes,
                                  weir_err *e);
/* dst, borrowed until the next weir_cuda_ring_deliver, is written by then. Waits for the stream when the
 * ring has no room for more. */
weir_status weir_cuda_ring_download(weir_dev *, weir_cuda_ring *, void *dst, const void *src, size_t bytes,
                                    weir_err *e);
/* Hands out what has arrived; the stream has been waited for. */
void weir_cuda_ring_deliver(weir_cuda_ring *);
/* Forgets what was on its way: the device is dead. */
void weir_cuda_ring_abandon(weir_cuda_ring *);

#endif
