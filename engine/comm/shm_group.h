/* SPDX-License-Identifier: Apache-2.0 */
/* Ranks that share a piece of memory: who has come how far, waiting for each other within a bound, one reason
 * for the end of it all, and buffers that are handed round. The memory may be mapped by threads of one
 * process and by several processes alike. comm_shm.c moves data with it.
 *
 * The ranks go through the same phases, counted from 1. In a phase a rank writes its buffer, comes (says so),
 * and reads the others' once they have come. Each has two buffers, for odd and for even phases: nobody can
 * come to phase k before it has read what it wanted of phase k-2, so that whoever has seen all in phase k-1
 * may overwrite the buffer of k-2. */
#ifndef WEIR_COMM_SHM_GROUP_H
#define WEIR_COMM_SHM_GROUP_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "comm/comm.h"

enum {
  WEIR_SHM_BUF_BYTES = 256 << 10, /* of a phase: two of the group fit a core's level 2 cache */
  WEIR_SHM_TOKEN_BYTES = 16       /* at the start of the memory: tells it from others of its kind */
};

typedef enum {
  WEIR_SHM_JOIN,
  WEIR_SHM_ALL_REDUCE,
  WEIR_SHM_ALL_GATHER,
  WEIR_SHM_BROADCAST,
  WEIR_SHM_N_OPS
} weir_shm_op;

/* What a rank calls; all must call the same. */
typedef struct weir_shm_call {
  uint64_t bytes; /* of JOIN: of the whole memory */
  int16_t op, root;
  uint32_t number; /* of this rank's calls, JOIN is 0 */
} weir_shm_call;

typedef struct weir_shm_head weir_shm_head;

typedef struct weir_shm_group {
  weir_shm_head *head; /* the shared memory */
  int32_t rank, n_ranks;
  int64_t bound_ns;
  int64_t deadline_ns;            /* of the call under way; 0: the clock was not looked at yet */
  int64_t looked_ns;              /* when it was last */
  uint32_t phase;                 /* this rank has come to */
  weir_shm_call call;             /* under way, or the last one */
  bool checked;                   /* the others make the same call */
  atomic_bool failing;            /* a thread of this rank has begun to end the group */
  int process_fd[WEIR_MAX_RANKS]; /* of the ranks' processes: readable when it has ended */
} weir_shm_group;

size_t weir_shm_bytes(int32_t n_ranks);

/* Takes this rank's place in memory that was zeroed but for the token and is weir_shm_bytes long, page
 * aligned; returns when all ranks have. After a failure the memory may be unmapped. */
weir_status weir_shm_enter(weir_shm_group *, void *memory, int32_t rank, int32_t n_ranks, int64_t bound_ns,
                           weir_err *e);
/* The others are told that this rank has left, if the group still lives. The memory stays mapped. */
void weir_shm_leave(weir_shm_group *);

/* Begins a call: fails when the group is over. */
weir_status weir_shm_begin(weir_shm_group *, weir_shm_op, size_t bytes, int32_t root, weir_err *e);
/* WEIR_SHM_BUF_BYTES: a rank's buffer of the phase that this rank comes to next, or of the one it is in. */
void *weir_shm_next_buf(const weir_shm_group *, int32_t rank);
void *weir_shm_buf(const weir_shm_group *, int32_t rank);
/* Comes to the next phase and waits until all have. The first time in a call the others' calls are compared
 * with this rank's. */
weir_status weir_shm_meet(weir_shm_group *, weir_err *e);

/* Ends the group with a reason, unless it is over. From any thread; never blocks. */
void weir_shm_abort(weir_shm_group *, const char *why);

#endif
