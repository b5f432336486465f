/* SPDX-License-Identifier: Apache-2.0 */
/* A leader and its workers: processes, on one machine or on many, that send each other messages, in order,
 * each once, and notice within a bound when the other is gone. What the messages say is not known here
 * (run/tp_wire.h). Over nanomsg: the leader has one address; a worker has two connections to it. On one it
 * polls: the request is parked until the leader has something or a sign of life is due; on the other it says
 * what it has to say, and the leader answers at once. So neither waits for the other, there is never more
 * than one reply in flight on a connection, and what is lost on the way is asked for again (crew_wire.h).
 * Both sides have a thread of their own, which answers also while the process computes.
 *
 * Node 0 is the leader, workers are nodes 1 .. n_nodes-1. */
#ifndef WEIR_COMM_CREW_H
#define WEIR_COMM_CREW_H
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum {
  WEIR_CREW_MAX_NODES = 64,
  WEIR_CREW_MAX_MESSAGE = 64 << 20, /* bytes; a larger one is refused before it is sent */
  WEIR_CREW_MAX_QUEUED = 256 << 20, /* bytes that wait for one node; more are refused */
  WEIR_CREW_MAX_TEXT = 255,         /* bytes of a token, of a version */
  WEIR_CREW_WHO_BYTES = 96
};

typedef enum {
  WEIR_CREW_JOINED,  /* the leader: this worker is here (again); a worker: the leader knows it */
  WEIR_CREW_MESSAGE, /* data[bytes], borrowed for the call */
  WEIR_CREW_LOST     /* nothing was heard for the bound, or its connection broke and it did not come back for
                        a quarter of that, or it said goodbye, or came again: `why` says. What was sent and
                        not yet taken is dropped */
} weir_crew_event_kind;

typedef struct weir_crew_event {
  weir_crew_event_kind kind;
  int32_t node;    /* of the worker; 0 at a worker: the leader */
  const char *who; /* "node 1 (gpu17, process 4711)" */
  const char *why; /* of LOST */
  const void *data;
  size_t bytes;
} weir_crew_event;

/* From the crew's own thread, one call at a time; it may send, and must not block or close. */
typedef void (*weir_crew_fn)(void *ctx, const weir_crew_event *);

typedef struct weir_crew_opts {
  const char *addr; /* "host:port": the leader's, where it binds and workers connect; also "ipc://..." */
  int32_t node, n_nodes;
  const char *token;   /* the same at all nodes; NULL or "": none. Compared in constant time; needed on an
                          address that is not loopback or ipc. Nothing is encrypted: who can read the network
                          can read it */
  const char *version; /* of the program: a worker of another one is refused, and told why */
  int64_t bound_ns; /* silence after which the other is gone; 0: 5 s. Signs of life go three times as often */
  weir_crew_fn on_event;
  void *ctx;
} weir_crew_opts;

typedef struct weir_crew weir_crew;
/* node 0 binds (an address that is taken is an error here). Others connect, and go on trying: they are told
 * JOINED when the leader is there, LOST when it goes, JOINED when it is back. A worker that the leader
 * refuses (other version or token, a node out of range) gets LOST with the leader's reason, and tries again
 * no more. A second worker of the same node takes the place of the first when that was silent for the bound,
 * else it is refused. */
weir_status weir_crew_open(const weir_crew_opts *, weir_crew **out, weir_err *e);
/* Lets go what was sent, says goodbye to all that are here, waits for both at most half a second, joins the
 * thread. No event begins after the call did. NULL is fine. */
void weir_crew_close(weir_crew *);
/* Copies; from any thread; never blocks. WEIR_EDEVICE when that node is not here now, WEIR_EBUSY when
 * WEIR_CREW_MAX_QUEUED bytes wait for it. At a worker the node is 0. */
weir_status weir_crew_send(weir_crew *, int32_t node, const void *data, size_t bytes, weir_err *e);
/* The leader: what is to be said of the nodes that are not here, "node 2 of 4 has not come; node 3 (gpu19,
 * process 4713) has not come back: it said goodbye"; "" when all are. From any thread. */
void weir_crew_missing(weir_crew *, char *out, size_t cap);
/* "node 1 (gpu17, process 4711)", of the last that was here; "node 1" when none was. From any thread. */
void weir_crew_who(weir_crew *, int32_t node, char *out, size_t cap);
/* Messages from outside so far that were none of a crew's; they are not answered. From any thread. */
int64_t weir_crew_malformed(weir_crew *);

#endif
