/* SPDX-License-Identifier: Apache-2.0 */
/* An RPC server without sockets over a service of fakes, for the tests of its core: messages go in by hand,
 * answers are kept by ticket, and a busy connection is a number. The thread of the test. */
#ifndef WEIR_TESTS_NET_CORE_RIG_H
#define WEIR_TESTS_NET_CORE_RIG_H
#include "net/rpc_core.h"
#include "rpc_rig.h"
#include "served.h"

enum { MAX_TICKETS = 4096 };

typedef struct core_rig {
  served served;
  weir_metrics *metrics;
  weir_rpc_core *core;
  uint64_t n;      /* messages sent */
  int64_t busy_ns; /* the connection is busy until then */
  struct {
    int32_t times;
    bool superseded;
    weir_buf frame;
  } got[MAX_TICKETS];
} core_rig;

/* limits NULL, max_requests 0: the usual. */
core_rig *core_open(const weir_rpc_limits *limits, const char *token, int32_t max_requests);
void core_close(core_rig *);
int64_t core_now(const core_rig *);

/* Of the RPC server's own registry. */
double core_metric(core_rig *, const char *name, const char *label);

/* Sends and empties b; the ticket. */
uint64_t core_send(core_rig *, weir_buf *b);
/* Turns until a ticket has its answer, which is then in *m (weir_frame_msg_fini). */
void core_reply(core_rig *, uint64_t ticket, weir_frame_msg *m);
/* Sends, and the code of the Error that comes; 0: something else came. */
int32_t core_code(core_rig *, weir_buf *b, char param[64]);
/* Whether the request was known before. *x, if not NULL, is a stream of it. */
bool core_submit(core_rig *, const rig_submit *s, rig_stream *x);
/* One poll and what it brings; true: `more`. */
bool core_poll(core_rig *, uint32_t session, rig_stream *const *x, int32_t n, uint32_t wait_ms,
               uint32_t max_bytes);
void core_poll_to_end(core_rig *, uint32_t session, rig_stream *const *x, int32_t n, uint32_t max_bytes);
/* Waits until the service has none open. */
void core_await_end(core_rig *);
/* What the small tier writes of rig_put_submit's prompt. */
void core_expect_law(const core_rig *, const rig_stream *x, uint32_t request, uint32_t n_ids);
/* A frame of that kind with these bytes for a body. */
void core_put_raw(weir_buf *b, int kind, const void *body, size_t n);

#endif
