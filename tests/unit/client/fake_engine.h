/* SPDX-License-Identifier: Apache-2.0 */
/* An engine without a model: a raw REP socket that keeps requests, parks polls and writes the tokens that a
 * test tells it to. What it does wrong is a switch. It runs on the test's thread, between runs of the client.
 */
#ifndef FAKE_ENGINE_H
#define FAKE_ENGINE_H
#include "client/client.h"
#include "proto/check.h"
#include "proto/frame.h"

enum { FAKE_REQUESTS = 512, FAKE_HELD = 64 };

typedef struct fake_request {
  uint8_t id[WEIR_FRAME_ID_BYTES];
  uint32_t written;   /* tokens there are */
  uint32_t shown;     /* most that a cursor had before the end */
  const char *reason; /* NULL: not ended */
  bool cancelled, forgotten;
  bool told_prompt;
  int submits; /* times it came */
} fake_request;

typedef struct fake_msg { /* a reply to come */
  void *control;          /* who asked; owned */
  void *body;             /* NULL: a parked poll */
  size_t n_bytes;
  int64_t at_ns;
} fake_msg;

typedef struct fake_engine {
  int socket, fd;
  char url[128];
  fake_request request[FAKE_REQUESTS];
  int n_requests;
  fake_msg parked; /* the one poll */
  weir_frame_msg parked_poll;
  int64_t parked_until_ns;
  fake_msg held[FAKE_HELD]; /* replies under delay */
  int n_held;

  int asked[WEIR_FRAME_LAST + 1];       /* messages received, by kind */
  int drop[WEIR_FRAME_LAST + 1];        /* replies to throw away, by kind */
  int replaced;                         /* polls to answer with `replaced` */
  bool twice;                           /* each reply two times */
  bool stale;                           /* the reply before is sent again just before each */
  fake_msg last;                        /* that one */
  bool repeats;                         /* each update begins at token 0, whatever the cursor */
  bool tells_prompt;                    /* state 1, once, or when the cursor says less */
  bool silent;                          /* receives and says nothing */
  uint32_t per_reply;                   /* tokens of a request in one reply; 0: all */
  int64_t delay_ns;                     /* of each reply */
  const void *raw[WEIR_FRAME_LAST + 1]; /* whole frames to answer with, instead */
  size_t n_raw[WEIR_FRAME_LAST + 1];
  Weir__V1__Error *error[WEIR_FRAME_LAST + 1]; /* to answer with, instead */
  uint64_t max_request_bytes;
  void (*on_submit)(void *ctx, const Weir__V1__SubmitRequest *);
  void *ctx;
} fake_engine;

/* At a new ipc address when url is NULL. Ends the program when it cannot. */
void fake_open(fake_engine *, const char *url);
/* Closes the socket and keeps what it knows: fake_reopen makes it be back. */
void fake_stop(fake_engine *);
void fake_reopen(fake_engine *);
void fake_close(fake_engine *);
/* Answers what is there and what is due. */
void fake_step(fake_engine *);
/* When it has to do something by itself; INT64_MAX: never. */
int64_t fake_due(const fake_engine *);

/* Writes n more tokens of every request that has not ended; then ends them with `reason`, NULL: not yet. */
void fake_write(fake_engine *, uint32_t n, const char *reason);
/* The text of token i of a request with this id. */
void fake_text(const uint8_t *id, uint32_t i, char text[32]);
uint32_t fake_id(const uint8_t *id, uint32_t i);

#endif
