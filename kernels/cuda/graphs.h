/* SPDX-License-Identifier: Apache-2.0 */
/* Records of what is enqueued (CUDA graphs), by key: weir_dev_replay of the CUDA device. Inside of
 * kernels/cuda. */
#ifndef WEIR_KERNELS_CUDA_GRAPHS_H
#define WEIR_KERNELS_CUDA_GRAPHS_H
#include "kernels/cuda/cuda_dev.h"

/* Records kept; of more the one unused for longest goes. A decode step of a model has one for each number of
 * sequences: steps of more sizes than this in turn are recorded anew each time. */
enum { WEIR_CUDA_MAX_RECORDS = 64 };

weir_status weir_cuda_graphs_create(weir_cuda_graphs **out, weir_err *e);
void weir_cuda_graphs_destroy(weir_cuda_graphs *); /* NULL is fine */

/* The first time a key comes, enqueue(ctx) runs as it is: what is loaded or chosen on first use (kernels,
 * cuBLASLt's algorithms) cannot be recorded. The second time it is recorded and the record played, later only
 * played. A key whose recording fails is enqueued as it is from then on; that is logged once.
 *
 * What can be recorded is what stays on the device: kernels, cuBLASLt, the exchange among ranks on one GPU
 * (whose counts are in device memory, so that a record goes on where the last one stopped) and NCCL's
 * collectives. Where kernels of a record wait for those of other ranks, the device's watch is asked
 * (weir_dev_watch.made) between making it and playing it for the first time, so that all ranks play theirs or
 * none does. */
weir_status weir_cuda_graphs_replay(weir_dev *, uint64_t key, weir_enqueue_fn enqueue, void *ctx,
                                    weir_err *e);
void weir_cuda_graphs_forget(weir_cuda_graphs *, uint32_t owner);
/* Addresses within records have changed. */
void weir_cuda_graphs_drop(weir_cuda_graphs *);

#endif
