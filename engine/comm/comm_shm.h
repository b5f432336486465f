/* SPDX-License-Identifier: Apache-2.0 */
/* CPU ranks of one machine, threads and processes alike, over shared memory. How they meet is comm/meet.h;
 * this is the inner half of it. */
#ifndef WEIR_COMM_COMM_SHM_H
#define WEIR_COMM_COMM_SHM_H
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "comm/comm.h"

/* Over memory that the caller has and keeps until all are destroyed: page aligned, weir_comm_shm_bytes long,
 * zeroed. Threads that see it at one address can be watched by a race detector. Returns when all ranks are
 * there. */
size_t weir_comm_shm_bytes(int32_t n_ranks);
weir_status weir_comm_shm_over(void *memory, int32_t rank, int32_t n_ranks, int64_t bound_ns, weir_comm **out,
                               weir_err *e);

#endif
