/* SPDX-License-Identifier: Apache-2.0 */
/* Messages of clients for tests of the RPC server, and what the answers bring, put together as a client does.
 */
#ifndef WEIR_TESTS_RPC_RIG_H
#define WEIR_TESTS_RPC_RIG_H
#include "base/buf.h"
#include "proto/frame.h"

enum { RIG_MAX_TOKENS = 512 };

/* Ids are made from numbers. */
void rig_id(uint32_t kind, uint32_t n, uint8_t id[16]);

/* A request of a session as its client sees it. */
typedef struct rig_stream {
  uint8_t id[16];
  uint32_t token[RIG_MAX_TOKENS];
  int32_t n;
  int32_t state, n_prompt; /* state -1: nothing heard */
  bool ended, unknown;
  char reason[16];
  int32_t code; /* of the End's error */
  uint64_t seed;
  uint32_t completion;
  int32_t updates;
} rig_stream;

typedef struct rig_submit {
  uint32_t session, request;
  const char *token;
  uint32_t n_ids, max_tokens;
  const char *mode;
  bool receipts;
} rig_submit;

/* Frames; appended to b. */
void rig_put_submit(weir_buf *b, const rig_submit *);
void rig_put_poll(weir_buf *b, uint32_t session, const rig_stream *const *stream, int32_t n, uint32_t wait_ms,
                  uint32_t max_bytes, const char *token);
void rig_put_cancel(weir_buf *b, uint32_t session, const uint32_t *request, int32_t n);

/* Unpacks an answer of any kind and checks it as a client would; fails the test when it is none. */
void rig_unpack(const void *bytes, size_t n, weir_frame_msg *out);
/* Checks that tokens come in order, none twice but those that were asked for again, and nothing after the
 * End. */
void rig_take(const Weir__V1__PollReply *, rig_stream *const *stream, int32_t n);

#endif
