/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the client library share. */
#ifndef WEIR_CLIENT_IN_H
#define WEIR_CLIENT_IN_H
#include "base/buf.h"
#include "base/clock.h"
#include "base/err.h"
#include "client/client.h"
#include "client/lane.h"
#include "proto/check.h"
#include "proto/frame.h"

enum {
  CLIENT_MAX_REQUESTS = 4096,     /* known at once: a Poll carries a cursor for each */
  CLIENT_MAX_CALLS = 4096,        /* waiting in a lane */
  CLIENT_MAX_WAITING = 256 << 20, /* bytes of messages that wait to be sent */
  CLIENT_BUCKETS = 1024,          /* power of two */
  CLIENT_ROUNDS = 64,             /* of one run, so that an event loop gets its turn */
};
#define CLIENT_MS INT64_C(1000000)

typedef struct client_request client_request;

/* ---- calls: everything but Poll (calls.c) ---- */

typedef struct client_call {
  client_call_link link; /* first: the lane's queue */
  weir_frame_kind kind;
  bool internal; /* nobody waits for it: not counted as open */
  int64_t deadline_ns;
  client_request *request; /* of a Submit; borrowed */
  uint64_t cancel_seq;     /* of a Cancel */
  void *ctx;
  union {
    void (*health)(void *ctx, const weir_client_health *, const weir_client_error *);
    void (*model)(void *ctx, const weir_client_model *, const weir_client_error *);
    void (*stats)(void *ctx, const weir_client_stats *, const weir_client_error *);
    void (*ids)(void *ctx, const weir_client_ids *, const weir_client_error *);
    void (*text)(void *ctx, const char *text, size_t len, const weir_client_error *);
  } done;
} client_call;

/* ---- requests (requests.c) ---- */

typedef enum client_state {
  REQUEST_QUEUED, /* its Submit waits to be sent */
  REQUEST_SENT,   /* and is not answered */
  REQUEST_OPEN,   /* the engine has it */
  REQUEST_OVER    /* the engine may forget it: told with the next Poll */
} client_state;

struct client_request {
  client_request *next, *prev;                 /* all of the client, oldest first */
  client_request *next_by_id, *next_by_number; /* chains of the tables */
  int64_t number;
  uint8_t id[WEIR_FRAME_ID_BYTES];
  client_state state;
  bool started;        /* on_start was made */
  bool silent;         /* no event any more: on_end was made, or its owner is gone */
  bool cancel;         /* the engine shall stop it ... */
  uint64_t cancel_seq; /* ... told by this Cancel; 0: not yet */
  int64_t cancel_ns;   /* since when */
  int64_t over_ns;     /* since when it is over */
  uint64_t told_seq;   /* of the Poll that told the engine so */
  bool gone;           /* may be freed at the next sweep */
  client_call *call;   /* its Submit, until that is answered */
  uint32_t have;       /* tokens handed over */
  uint32_t seen;       /* the last state the engine told */
  uint64_t poll_seq;   /* of the Poll that carried its cursor last */
  int64_t open_ns;     /* the Submit was answered */
  weir_client_events events;
};

/* ---- the poll (poll.c) ---- */

typedef struct client_poll {
  uint64_t seq;          /* of the Poll sent last; counts from 1 */
  uint64_t heard_seq;    /* of the newest Poll that an answer has come to */
  bool out;              /* it is not answered */
  bool parked;           /* it asked the engine to wait for news */
  int64_t sent_ns;       /* it was sent */
  int64_t soon_ns;       /* when it is overdue because an older one's answer came instead; 0: none did */
  int64_t not_before_ns; /* of the next one: a server that has nothing to say does not make a busy loop */
  int32_t unanswered;    /* in a row: each is waited for twice as long */
  int64_t missing_ns; /* since when a request is open that the outstanding Poll does not carry; 0: none is */
  int64_t heard_ns;   /* the last good answer */
  bool refused;       /* the last answer was an Error that passes ... */
  weir_client_error error; /* ... this one */
} client_poll;

struct weir_client {
  weir_client_cfg cfg; /* with its defaults filled in; the strings are owned */
  weir_clock clock;
  uint8_t session[WEIR_FRAME_ID_BYTES];
  client_lane control, query, poll_lane;
  int epoll_fd, timer_fd;
  bool closing; /* nothing new is taken */
  bool running; /* in weir_client_run: the timer is set at its end */
  client_request *first, *last;
  client_request *by_id[CLIENT_BUCKETS], *by_number[CLIENT_BUCKETS];
  int32_t n_requests;   /* structs */
  int32_t n_open;       /* requests whose on_end is to come, and calls whose done is */
  size_t waiting_bytes; /* of messages in the queues */
  int64_t last_number;
  uint64_t last_cancel_seq;
  uint64_t max_request_bytes; /* 0: not known yet */
  bool asking_models;         /* an internal Models call is on its way */
  client_poll poll;
};

static inline int64_t client_now(const weir_client *c) { return weir_now_ns(&c->clock); }
/* Something is to be done: makes weir_client_fd readable. */
void client_wake(weir_client *);

/* Sets *e; returns -1. `e` may be NULL. */
int client_fail(weir_client_error *e, int code, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* From an Error of the engine. */
void client_error_from(weir_client_error *e, const Weir__V1__Error *);
/* Unpacks and checks a reply to `kind`. 0, or -1 with *e: the engine's Error, or 500 for what makes no sense.
 * *out is valid after 0 only. */
int client_unpack(weir_frame_kind kind, const void *bytes, size_t n_bytes, weir_frame_msg *out,
                  weir_client_error *e);

/* calls.c */
/* Packs and queues. The lane is that of the kind. `front`: before all that wait. NULL and *e: too large, too
 * many, no memory. */
client_call *client_call_add(weir_client *, weir_frame_kind, const ProtobufCMessage *, bool front,
                             weir_client_error *e);
/* Takes it out of the queue without a word; it must not have been sent. */
void client_call_drop(weir_client *, client_call *);
/* Ends the call with an error; it is in no queue any more. */
void client_call_fail(weir_client *, client_call *, const weir_client_error *);
/* The calls of a lane: takes an answer, ends what is late, sends the next. True when something happened. */
bool client_calls_step(weir_client *, client_lane *);
/* When the lane has to do something next; INT64_MAX: never. */
int64_t client_calls_due(const weir_client *, const client_lane *);

/* answers.c: hands a reply to its owner. */
void client_answer(client_call *, const weir_frame_msg *);

/* requests.c */
client_request *client_request_by_id(const weir_client *, const uint8_t *id);
void client_submit_answered(weir_client *, client_call *, const weir_client_error *);
void client_cancel_answered(weir_client *, client_call *);
/* on_end, unless it is silent. */
void client_request_end(weir_client *, client_request *, const weir_client_end *);
/* The same with an error of ours; the engine is asked to stop it if it may have it. */
void client_request_give_up(weir_client *, client_request *, const char *reason, const weir_client_error *);
/* Cancels, what is lost, what can be freed. True when something happened. */
bool client_requests_step(weir_client *);
int64_t client_requests_due(const weir_client *);
void client_requests_free(weir_client *);

/* poll.c */
bool client_poll_step(weir_client *);
int64_t client_poll_due(const weir_client *);
/* deliver.c: what a Poll brought. */
bool client_deliver(weir_client *, const Weir__V1__PollReply *);

#endif
