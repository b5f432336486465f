/* SPDX-License-Identifier: Apache-2.0 */
/* The frame around each message, packing and unpacking. A frame is one nanomsg message: eight bytes
 *   'W' 'E' 'I' 'R'  u8 version  u8 kind  u16 zero
 * and the protobuf message of that kind. PROTOCOL.md says the same to implementers in other languages.
 *
 * Unpacking trusts nothing: the bytes are walked before protobuf-c sees them (every length, every string
 * UTF-8 without NUL), and all memory comes from an arena with a budget. No function keeps state; any
 * thread. */
#ifndef WEIR_PROTO_FRAME_H
#define WEIR_PROTO_FRAME_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "proto/weir.pb-c.h"

enum {
  WEIR_FRAME_HEADER_BYTES = 8,
  WEIR_FRAME_VERSION = 1,
  WEIR_FRAME_ID_BYTES = 16, /* of a session, of a request */

  /* Whole frames. Every server takes requests of SURE_REQUEST; a larger one is only sent by a client that has
   * read ModelsReply.max_request_bytes, which is never above MAX_REQUEST. */
  WEIR_FRAME_SURE_REQUEST = 1 << 20,
  WEIR_FRAME_MAX_REQUEST = 16 << 20,
  WEIR_FRAME_MAX_REPLY = 16 << 20,
  /* What a server sets NN_RCVMAXSIZE above its max_request_bytes: a request that is a little too long is
   * answered with 413, where nanomsg would drop the connection and the client send it again for ever. */
  WEIR_FRAME_SLACK = 64 << 10,
};

typedef enum weir_frame_kind {
  WEIR_FRAME_SUBMIT = 1,
  WEIR_FRAME_POLL,
  WEIR_FRAME_CANCEL,
  WEIR_FRAME_STATS,
  WEIR_FRAME_MODELS,
  WEIR_FRAME_TOKENIZE,
  WEIR_FRAME_DETOKENIZE,
  WEIR_FRAME_HEALTH,
  WEIR_FRAME_LAST = WEIR_FRAME_HEALTH,
  WEIR_FRAME_REPLY = 0x80, /* a reply's kind is its request's | this */
  WEIR_FRAME_ERROR = 0xff  /* Error, in place of any reply */
} weir_frame_kind;

/* "Submit", "Submit reply", "Error"; "unknown" for what is no kind. */
const char *weir_frame_kind_name(int kind);

typedef struct weir_frame {
  weir_frame_kind kind;
  const uint8_t *body; /* [body_bytes], in the bytes parsed */
  size_t body_bytes;
} weir_frame;

/* Reads the header. Any kind that is known, request, reply or Error: whether it is expected is the caller's
 * business. WEIR_EFORMAT: no frame of weir's; WEIR_EUNSUP: another version or kind. */
weir_status weir_frame_parse(const void *bytes, size_t n_bytes, weir_frame *out, weir_err *e);

/* ---- packing: ask the size, have memory for it (nn_allocmsg), pack ---- */

/* Of header and message. `kind` must be the kind of `msg`. */
size_t weir_frame_size(const ProtobufCMessage *msg);
/* Writes weir_frame_size(msg) bytes and returns how many. */
size_t weir_frame_pack(weir_frame_kind kind, const ProtobufCMessage *msg, void *out);
/* Appends to b. */
weir_status weir_frame_put(weir_frame_kind kind, const ProtobufCMessage *msg, weir_buf *b, weir_err *e);
/* WEIR_FRAME_ID_BYTES at id, as the generated structs want them; borrowed. */
static inline ProtobufCBinaryData weir_frame_id(const uint8_t *id) {
  return (ProtobufCBinaryData){.len = WEIR_FRAME_ID_BYTES, .data = (uint8_t *)id};
}

/* ---- unpacking ---- */

typedef struct weir_frame_block weir_frame_block;

typedef struct weir_frame_msg {
  weir_frame_kind kind;
  union { /* by kind; the same pointer */
    ProtobufCMessage *base;
    Weir__V1__SubmitRequest *submit;
    Weir__V1__SubmitReply *submit_reply;
    Weir__V1__PollRequest *poll;
    Weir__V1__PollReply *poll_reply;
    Weir__V1__CancelRequest *cancel;
    Weir__V1__CancelReply *cancel_reply;
    Weir__V1__StatsRequest *stats;
    Weir__V1__StatsReply *stats_reply;
    Weir__V1__ModelsRequest *models;
    Weir__V1__ModelsReply *models_reply;
    Weir__V1__TokenizeRequest *tokenize;
    Weir__V1__TokenizeReply *tokenize_reply;
    Weir__V1__DetokenizeRequest *detokenize;
    Weir__V1__DetokenizeReply *detokenize_reply;
    Weir__V1__HealthRequest *health;
    Weir__V1__HealthReply *health_reply;
    Weir__V1__Error *error;
  } as;
  weir_frame_block *memory; /* owned: all of the message lies in it */
} weir_frame_msg;

/* What unpacking a body of so many bytes may cost in heap when the sender means well: repeated numbers are
 * packed, messages are not full of empty parts. */
size_t weir_frame_budget(weir_frame_kind kind, size_t body_bytes);

/* Unpacks a body into memory of at most `budget` bytes; the result is independent of `body`. WEIR_EFORMAT:
 * malformed, or a string that is not UTF-8 or has a NUL; WEIR_ENOMEM: the budget, or memory itself. Which
 * values are legal is weir_check_* of proto/check.h. On failure *out is zeroed. */
weir_status weir_frame_unpack(weir_frame_kind kind, const void *body, size_t body_bytes, size_t budget,
                              weir_frame_msg *out, weir_err *e);
/* Frees; a zeroed message is fine. Not protobuf_c_message_free_unpacked: the memory is the arena's. */
void weir_frame_msg_fini(weir_frame_msg *);

#endif
