/* SPDX-License-Identifier: Apache-2.0 */
/* The communicator of GPUs: NCCL, on the device's stream, so that it can be recorded with the rest of a step.
 * Made and destroyed by the thread that owns the rank's device, whose watch it takes (weir_dev_set_watch).
 *
 * Nothing waits for ever: NCCL's communicator is one that does not block, every call is polled until it is
 * through or the bound is over; and a thread of the communicator's own watches while the device is waited
 * for. When that takes longer than the bound, when NCCL says that something went wrong, or when
 * weir_comm_abort was called, it calls ncclCommAbort, which ends kernels that wait for other ranks, so that
 * weir_dev_sync comes back, with WEIR_EDEVICE and the reason. NCCL does not say which rank did not come.
 *
 * Bits: all ranks get the same sum, but its order is NCCL's, by the number of elements and the machine.
 *
 * Records that have collectives in them are forgotten (weir_dev_forget) before the communicator is destroyed.
 * Not yet run on a GPU. */
#ifndef WEIR_COMM_COMM_NCCL_H
#define WEIR_COMM_COMM_NCCL_H
#include "comm/meet_in.h"

extern const weir_comm_back weir_comm_nccl_back;

/* Where the library is; NULL: libnccl.so.2, where the loader looks. Before the first communicator. */
void weir_comm_nccl_library(const char *path);

#endif
