/* SPDX-License-Identifier: Apache-2.0 */
/* The communicator of ranks that share one GPU: threads of one process, each with a device object, and so a
 * stream, of its own. Data is exchanged by kernels that wait for each other on the GPU (weir_op_exchange); it
 * can be recorded. Made and destroyed by the thread that owns the rank's device, whose watch it takes
 * (weir_dev_set_watch): a wait on the GPU that lasts longer than the bound ends there, and weir_dev_sync says
 * so.
 *
 * For trying tensor parallelism out where there is one GPU: ranks share its memory's bandwidth, so nothing
 * gets faster. Its limits: WEIR_PEER_RANKS; one SM in two has to be free of the kernels that wait; and what
 * CUDA does at the first use of a kernel waits for the whole GPU, kernels that wait included. Ranks therefore
 * meet on the host before and after each launch and before they play a record for the first time. Others in
 * the process who load kernels meanwhile can make ranks wait for the bound: CUDA_MODULE_LOADING=EAGER is the
 * way out. Not yet run on a GPU. */
#ifndef WEIR_COMM_COMM_LOCAL_H
#define WEIR_COMM_COMM_LOCAL_H
#include "comm/meet_in.h"

extern const weir_comm_back weir_comm_local_back;

#endif
