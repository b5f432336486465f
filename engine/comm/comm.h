/* SPDX-License-Identifier: Apache-2.0 */
/* Communicators: what the ranks of one tensor-parallel model say to each other within a step. Five back ends:
 *
 *   self   one rank: nothing to do
 *   shm    CPU ranks of one machine, threads or processes, over shared memory
 *   tcp    CPU ranks of several machines
 *   nccl   GPUs
 *   local  several ranks on one GPU, as threads with streams of their own
 *
 * All ranks make the same calls in the same order with the same sizes. Data lies in memory of the rank's own
 * device; self, shm and tcp work at once in the caller's thread, nccl and local enqueue on the device's
 * stream. A communicator belongs to one thread at a time, but for abort.
 *
 * Nothing waits for ever: a call that lasts longer than the group's bound fails, and says which rank did not
 * come. On shm and tcp who was stopped or suspended itself meanwhile gives the others half the bound more.
 * After the first failure, of whatever kind, the group is over: all calls of all ranks fail from then
 * on with the same reason where they can be told, and a new group is to be made (comm/meet.h). */
#ifndef WEIR_COMM_COMM_H
#define WEIR_COMM_COMM_H
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { WEIR_MAX_RANKS = 64 };

typedef struct weir_comm weir_comm;

typedef struct weir_comm_ops {
  const char *name;
  /* x[n] <- the sum over the ranks, on all of them to the bit the same. On self, shm and tcp it is added up
   * in order of rank, each element by itself, so that it depends on nothing but the ranks' values. */
  weir_status (*all_reduce)(weir_comm *, float *x, size_t n, weir_err *);
  /* out[n_ranks][bytes] <- each rank's in[bytes]; `in` may be out's own part. */
  weir_status (*all_gather)(weir_comm *, void *out, const void *in, size_t bytes, weir_err *);
  weir_status (*broadcast)(weir_comm *, void *data, size_t bytes, int32_t root, weir_err *);
  /* From any thread, any number of times: what is under way and what comes fails with EDEVICE and `why`, here
   * and, where they can be told, at the other ranks. Never blocks. */
  void (*abort)(weir_comm *, const char *why);
  void (*destroy)(weir_comm *); /* nobody may be inside; does not wait for the other ranks */
  /* Optional (NULL: the device's own memory is as good): memory for what is reduced often, registered with
   * the interconnect; every rank asks for the same sizes in the same order. */
  weir_status (*alloc)(weir_comm *, size_t bytes, void **out, weir_err *);
  void (*release)(weir_comm *, void *);
} weir_comm_ops;

/* Since the group was made. Of back ends that enqueue, ns is the time of the calls, not of the wire. */
typedef struct weir_comm_stats {
  int64_t calls, bytes, ns; /* bytes: of this rank's data, as passed */
} weir_comm_stats;

struct weir_comm {
  const weir_comm_ops *ops;
  int32_t rank, n_ranks;
  weir_comm_stats stats;
  void *impl;
};

/* Check, time, count; NULL for the communicator means one rank: nothing to do, but that all_gather copies. */
weir_status weir_comm_all_reduce(weir_comm *, float *x, size_t n, weir_err *);
weir_status weir_comm_all_gather(weir_comm *, void *out, const void *in, size_t bytes, weir_err *);
weir_status weir_comm_broadcast(weir_comm *, void *data, size_t bytes, int32_t root, weir_err *);
void weir_comm_abort(weir_comm *, const char *why);
void weir_comm_destroy(weir_comm *);

#endif
