/* SPDX-License-Identifier: Apache-2.0 */
/* The kinds of communicators that this build has, one line each. */
#include "comm/meet_in.h"

const weir_comm_back *const weir_comm_backs[WEIR_N_COMMS] = {
    [WEIR_COMM_SELF] = &weir_comm_self_back,
    [WEIR_COMM_SHM] = &weir_comm_shm_back,
    [WEIR_COMM_TCP] = &weir_comm_tcp_back,
    [WEIR_COMM_NCCL] = &weir_comm_nccl_back,
    [WEIR_COMM_LOCAL] = &weir_comm_local_back,
};
