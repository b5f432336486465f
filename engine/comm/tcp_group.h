/* SPDX-License-Identifier: Apache-2.0 */
/* Ranks that are connected each with each over TCP: exchanging bytes with all others at once within a bound,
 * and one reason for the end of it all. comm_tcp.c moves numbers with it, tcp_join.c makes it.
 *
 * Two connections to each: one carries data and nothing else, on the other a rank says why the group is over,
 * or that it leaves, whatever stands half sent on the first. */
#ifndef WEIR_COMM_TCP_GROUP_H
#define WEIR_COMM_TCP_GROUP_H
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "comm/comm.h"

enum {
  TCP_SECRET_BYTES = 16,
  TCP_ADDRESS_BYTES = 64, /* "10.0.0.3", "fe80::1%eth0"; with the NUL */
  TCP_HEAD_BYTES = 24,
  TCP_WORD_BYTES = 3 + WEIR_ERR_MSG_BYTES
};

typedef enum { TCP_JOIN, TCP_ALL_REDUCE, TCP_ALL_GATHER, TCP_BROADCAST, TCP_N_OPS } tcp_op;

/* What a rank calls; all must call the same. */
typedef struct tcp_call {
  uint64_t bytes; /* of JOIN: the number of ranks */
  uint32_t number;
  uint16_t op, root;
} tcp_call;

/* Whether the group is over, and who has said so. */
typedef enum { TCP_LIVES, TCP_OVER_TOLD, TCP_OVER_OWN } tcp_over;

/* What goes to another rank in an exchange and what is to come from it; borrowed until it returns. */
typedef struct tcp_flow {
  const void *out;
  void *in;
  size_t out_bytes, in_bytes;
} tcp_flow;

typedef struct tcp_peer {
  int data, words; /* connections; -1 */
  char address[TCP_ADDRESS_BYTES];
  uint16_t port;
  bool left;    /* it said so */
  bool unheard; /* nothing comes on `words` any more */
  uint8_t word[TCP_WORD_BYTES];
  size_t n_word;
  uint8_t head[TCP_HEAD_BYTES]; /* of the call it makes */
  size_t sent, got;             /* of the exchange under way, head included */
} tcp_peer;

typedef struct tcp_group {
  int32_t rank, n_ranks;
  int64_t bound_ns, deadline_ns;
  int64_t looked_ns;             /* when the clock was looked at last, in the call under way */
  tcp_peer peer[WEIR_MAX_RANKS]; /* the rank's own is not used */
  int watch;                     /* readable: a word has come, or this rank's group is over */
  int over_fd;                   /* of watch: readable for ever once it is over */
  tcp_call call;                 /* under way, or the last one */
  bool drains;                   /* it is over, and the call under way may still succeed */
  bool headed;                   /* the next exchange is the first of the call */
  uint8_t head[TCP_HEAD_BYTES];
  pthread_mutex_t lock; /* of why, and of writing words; never held while anything waits */
  atomic_int over;      /* tcp_over */
  char why[WEIR_ERR_MSG_BYTES];
} tcp_group;

/* Without connections. After a failure nothing is left. */
weir_status tcp_group_init(tcp_group *, int32_t rank, int32_t n_ranks, int64_t bound_ns, weir_err *e);
/* The others are told that this rank has left, if the group still lives. */
void tcp_group_fini(tcp_group *);
/* From now on what comes on peer[rank].words is heard. */
weir_status tcp_group_watch(tcp_group *, int32_t rank, weir_err *e);

/* Begins a call: fails when the group is over. */
weir_status tcp_begin(tcp_group *, tcp_op, size_t bytes, int32_t root, weir_err *e);
/* flow[n_ranks], the own one is not looked at. Returns when all has gone and come. The first time in a call
 * the others' calls are compared with this rank's. When another rank ends the group meanwhile, what has been
 * sent already is still taken: a call that the others have come through succeeds here too. */
weir_status tcp_exchange(tcp_group *, const tcp_flow *flow, weir_err *e);

/* Ends the group with a reason, unless it is over; returns the failure with the reason it has. From any
 * thread; never blocks. */
weir_status tcp_end(tcp_group *, const char *why, weir_err *e);
void tcp_abort(tcp_group *, const char *why);
/* The words that have come. WEIR_EDEVICE: the group is over. The rank's thread. */
weir_status tcp_hear(tcp_group *, weir_err *e);
/* A connection of that rank has ended: the group is over, for the reason that it or another gives when there
 * is one. `what`: "has closed the connection". */
weir_status tcp_gone(tcp_group *, int32_t rank, const char *what, weir_err *e);
/* Those ranks (missing[n_ranks]) have not come within the bound. */
weir_status tcp_late(tcp_group *, const bool *missing, weir_err *e);

/* Waits until a descriptor is ready or the time has come; like poll. */
struct pollfd;
int tcp_wait(struct pollfd *, int n, int64_t until_ns);

#endif
