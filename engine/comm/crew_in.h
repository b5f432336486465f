/* SPDX-License-Identifier: Apache-2.0 */
/* What a leader and a worker of a crew have in common. */
#ifndef WEIR_COMM_CREW_IN_H
#define WEIR_COMM_CREW_IN_H
#include <pthread.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "comm/crew_nn.h"

enum { CREW_WHY_BYTES = CREW_REASON_BYTES };

typedef struct crew_leader crew_leader;
typedef struct crew_worker crew_worker;

struct weir_crew {
  weir_crew_opts o; /* its texts are owned */
  weir_clock clock;
  int64_t bound_ns;
  crew_hello self;
  pthread_mutex_t lock; /* of all that weir_crew_send touches; never held across an event */
  pthread_t thread;
  bool started;
  int wake_fd;
  _Atomic bool stop;
  _Atomic int64_t malformed;
  crew_leader *leader; /* one of both */
  crew_worker *worker;
};

/* To the crew's owner; from the thread, without the lock. */
void crew_tell(weir_crew *, weir_crew_event);
static inline int64_t crew_now(const weir_crew *c) { return weir_now_ns(&c->clock); }
static inline int64_t crew_between(int64_t least, int64_t x, int64_t most) {
  return x < least ? least : x > most ? most : x;
}
/* How often it looks whether a connection has broken: nobody says. */
static inline int64_t crew_look_ns(const weir_crew *c) {
  return crew_between(10000000, c->bound_ns / 20, 100000000);
}
/* Whether so much time between two turns of the thread is more than it sleeps: what has come is still on its
 * way through the sockets. */
static inline bool crew_stood_still(const weir_crew *c, int64_t ns) {
  return ns > crew_look_ns(c) + c->bound_ns / 8;
}
/* "node 1 (gpu17, process 4711)" */
void crew_put_who(char *out, size_t cap, int32_t node, const crew_hello *);
/* "nothing was heard of it for 5.0 s" */
void crew_put_silence(char out[CREW_WHY_BYTES], int64_t ns);
/* Sleeps until one of the descriptors is readable, or until then. */
struct pollfd; /* p[n] is its own */
void crew_sleep(weir_crew *, struct pollfd *, int n, int64_t until_ns);

/* Ends the sleep; any thread. */
void crew_wake(weir_crew *);

weir_status crew_leader_create(weir_crew *, weir_err *e);
void crew_leader_destroy(crew_leader *); /* the thread is gone */
/* Hears what has come and does what time brings; returns when that brings the next. */
int64_t crew_leader_step(weir_crew *);
void crew_leader_run(weir_crew *); /* until it is stopped, and the goodbyes */
weir_status crew_leader_send(weir_crew *, int32_t node, const void *data, size_t bytes, weir_err *e);
void crew_leader_missing(weir_crew *, char *out, size_t cap);
void crew_leader_who(weir_crew *, int32_t node, char *out, size_t cap);

weir_status crew_worker_create(weir_crew *, weir_err *e);
void crew_worker_destroy(crew_worker *);
int64_t crew_worker_step(weir_crew *);
void crew_worker_run(weir_crew *);
weir_status crew_worker_send(weir_crew *, const void *data, size_t bytes, weir_err *e);
void crew_worker_who(weir_crew *, char *out, size_t cap);

#endif
