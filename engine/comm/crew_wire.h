/* SPDX-License-Identifier: Apache-2.0 */
/* What a crew's processes write on the wire, and nothing of sockets, threads or time.
 *
 * A frame is a head of CREW_HEAD_BYTES, little endian, and data:
 *
 *   0  "WCRW"    4  CREW_WIRE_VERSION    5  kind    6  node, 16 bits
 *   8  link      16 turn                 24 at      32 beat, 64 bits each
 *
 * A link is one worker's time with one leader, from hello to loss. Each way it carries one stream of bytes:
 * messages, each behind its length in 32 bits. A request says how far it has the other's stream, or where in
 * its own stream the data stands, so that a frame that comes twice, late or never neither doubles nor loses a
 * byte, and a message of any length goes in parts.
 *
 *   request            answers
 *   HELLO              WELCOME, REFUSED (text), WAIT (text), GOODBYE (the leader is about to go)
 *   POLL   at: has     DOWN (at; data), GOODBYE, UNKNOWN (no such link)
 *   UP     at; data    TAKEN (at: has), UNKNOWN
 *   BYE                TAKEN, UNKNOWN
 *
 * turn: a worker's polls are numbered, so that an old one that was sent again is told apart. beat: a number
 * of the leader's, in its answers, that the next POLL brings back: who does is alive. */
#ifndef WEIR_COMM_CREW_WIRE_H
#define WEIR_COMM_CREW_WIRE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "comm/crew.h"

enum {
  CREW_WIRE_VERSION = 1,
  CREW_HEAD_BYTES = 40,
  CREW_PART_BYTES = 1 << 20, /* data of a frame at most */
  CREW_FRAME_BYTES = CREW_HEAD_BYTES + CREW_PART_BYTES,
  CREW_HOST_BYTES = 64,   /* with the NUL */
  CREW_REASON_BYTES = 400 /* with the NUL */
};

typedef enum {
  CREW_HELLO = 1,
  CREW_POLL,
  CREW_UP,
  CREW_BYE,
  CREW_LAST_REQUEST = CREW_BYE,
  CREW_WELCOME = 0x81,
  CREW_REFUSED,
  CREW_WAIT,
  CREW_DOWN,
  CREW_TAKEN,
  CREW_UNKNOWN,
  CREW_GOODBYE,
  CREW_LAST_ANSWER = CREW_GOODBYE
} crew_kind;

typedef struct crew_frame {
  crew_kind kind;
  int32_t node;
  uint64_t link, turn, at, beat;
  const void *data; /* borrowed */
  size_t bytes;
} crew_frame;

void crew_frame_head(const crew_frame *, uint8_t out[CREW_HEAD_BYTES]);
/* WEIR_EUNSUP: a crew's, of another wire version (*out has its kind and node as far as they can be told).
 * WEIR_EFORMAT: none. */
weir_status crew_frame_parse(const void *bytes, size_t n, crew_frame *out, weir_err *e);

/* Data of HELLO, and of WELCOME (token and version empty). */
typedef struct crew_hello {
  uint64_t incarnation; /* of the process's crew: drawn when it was opened */
  int64_t bound_ns;
  int32_t n_nodes, pid;
  char host[CREW_HOST_BYTES]; /* printable when parsed */
  char token[WEIR_CREW_MAX_TEXT + 1], version[WEIR_CREW_MAX_TEXT + 1];
} crew_hello;
enum { CREW_HELLO_BYTES = 24 + 6 + CREW_HOST_BYTES + 2 * WEIR_CREW_MAX_TEXT };
size_t crew_hello_put(const crew_hello *, uint8_t out[CREW_HELLO_BYTES]);
weir_status crew_hello_parse(const void *bytes, size_t n, crew_hello *out, weir_err *e);
/* Text out of a frame, made printable and cut to what there is room for. */
void crew_text(const crew_frame *, char *out, size_t cap);

/* ---- streams ---- */

typedef struct crew_chunk crew_chunk;
/* What was sent and is not known to be taken. A zeroed one is empty. */
typedef struct crew_out {
  crew_chunk *first, *last; /* owned; a message each */
  uint64_t base;            /* where the first stands in the stream */
  uint64_t taken, end;
} crew_out;
weir_status crew_out_put(crew_out *, const void *data, size_t bytes, weir_err *e);
/* The other has everything below `at`. False: it cannot. */
bool crew_out_take(crew_out *, uint64_t at);
/* Copies what stands from taken on, at most cap bytes; returns how many. */
size_t crew_out_copy(const crew_out *, void *to, size_t cap);
void crew_out_fini(crew_out *); /* and makes it a new one */

/* The other's stream, put together. A zeroed one is empty. */
typedef struct crew_in {
  uint64_t at; /* all below is here */
  uint8_t head[4];
  uint32_t n_head, want;
  weir_buf msg; /* of the message that is coming */
} crew_in;
typedef void (*crew_message_fn)(void *ctx, const void *data, size_t bytes);
/* Bytes that stand at `at`; what is here already is passed over. Fails when there is a gap before them, or a
 * message of a length that there is not; then it is to be ended. */
weir_status crew_in_take(crew_in *, uint64_t at, const void *data, size_t bytes, crew_message_fn, void *ctx,
                         weir_err *e);
void crew_in_fini(crew_in *); /* and makes it a new one */

#endif
