/* SPDX-License-Identifier: Apache-2.0 */
/* Ranks that are threads of one process, as comm_local.c needs them: they find each other by a number, and
 * before and after each launch they meet on the host. Of the GPU this knows addresses only. Every function
 * may be called from any thread; none holds the group's lock for longer than a copy. */
#ifndef WEIR_COMM_LOCAL_GROUP_H
#define WEIR_COMM_LOCAL_GROUP_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "kernels/device.h"

typedef struct weir_local_group weir_local_group;

/* What a rank comes to a meeting for; all must come for the same. */
typedef enum {
  WEIR_LOCAL_REDUCE = WEIR_PEER_REDUCE,
  WEIR_LOCAL_GATHER = WEIR_PEER_GATHER,
  WEIR_LOCAL_BROADCAST = WEIR_PEER_BROADCAST,
  WEIR_LOCAL_LAUNCHED, /* the exchange before is on this rank's stream */
  WEIR_LOCAL_RECORDED  /* a record has been made: ok says whether */
} weir_local_what;
typedef struct weir_local_call {
  weir_local_what what;
  size_t bytes;
  int32_t root;
} weir_local_call;

/* A number that no group of this process has had. */
uint64_t weir_local_group_number(void);

/* Takes a place in the group of that number and waits, at most bound_ns, until all ranks have theirs. `part`
 * and `stop` (host memory, of rank 0, else NULL) are the group's from now on, also after a failure: they are
 * released by the last rank to leave, through its device, for a rank's kernels may still look at the others'.
 * On failure *out is NULL and the place is left. */
weir_status weir_local_group_enter(uint64_t number, int32_t rank, int32_t n_ranks, weir_dev *dev, void *part,
                                   uint32_t *stop, int64_t bound_ns, weir_local_group **out, weir_err *e);
/* The device has been waited for, or the group is over and its kernels are about to end. */
void weir_local_group_leave(weir_local_group *, int32_t rank, weir_dev *dev);

/* What the group's kernels work with; of a group that all have entered. */
void weir_local_group_peers(const weir_local_group *, int32_t rank, weir_peers *out);

/* Waits for all ranks, at most the bound. *ok (may be NULL) becomes whether all said so. WEIR_EDEVICE with
 * the group's reason when it is over. */
weir_status weir_local_group_meet(weir_local_group *, int32_t rank, const weir_local_call *, bool *ok,
                                  weir_err *e);
/* Ends the group, on host and GPU, for that reason unless it has one already. */
void weir_local_group_end(weir_local_group *, const char *why);
/* After the device has been waited for: WEIR_EDEVICE when a kernel gave up waiting, for the bound or because
 * the group was ended; which is the group's reason unless it has one. Exchanges that were complete before the
 * end of the group are good. */
weir_status weir_local_group_look(weir_local_group *, weir_err *e);

#endif
