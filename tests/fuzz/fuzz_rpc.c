/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: the RPC server without sockets, in front of a service with fake models. An input is a sequence
 * of steps: a byte that says what, two of a length, and so many bytes. 0: a message as it is; 1 to 8: the
 * body of a message of that kind; 9: seconds pass; else: time for the server to turn. Every message has one
 * answer, which a client would take; nothing is left behind. Run from the repository root. */
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "net/rpc_core.h"
#include "proto/check.h"
#include "proto/frame.h"
#include "served.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_MESSAGES = 256 };

typedef struct run {
  weir_rpc_core *core;
  uint64_t n;
  uint8_t kind[MAX_MESSAGES], answered[MAX_MESSAGES]; /* kind 0: could not be told */
} run;

static served rig;
static bool is_open;

static void require(bool ok, const char *what) {
  if (ok) return;
  fprintf(stderr, "fuzz_rpc: %s\n", what);
  abort();
}

static void answer(void *ctx, uint64_t ticket, const void *frame, size_t n, bool superseded) {
  run *r = ctx;
  weir_frame f;
  weir_frame_msg m;
  weir_err e;
  (void)superseded;
  require(ticket < r->n && r->answered[ticket]++ == 0, "a message has two answers");
  require(weir_frame_parse(frame, n, &f, &e) == WEIR_OK, "an answer is no frame");
  require(weir_frame_unpack(f.kind, f.body, f.body_bytes, weir_frame_budget(f.kind, f.body_bytes), &m, &e) ==
              WEIR_OK,
          e.msg);
  require(weir_check_reply(&m, &e) == WEIR_OK, e.msg);
  require((int)f.kind == WEIR_FRAME_ERROR || (r->kind[ticket] | WEIR_FRAME_REPLY) == (int)f.kind,
          "the answer is one to another kind of message");
  weir_frame_msg_fini(&m);
}

static void send(run *r, const uint8_t *bytes, size_t n) {
  weir_frame f;
  weir_err e;
  if (r->n == MAX_MESSAGES) return;
  r->kind[r->n] = weir_frame_parse(bytes, n, &f, &e) == WEIR_OK ? (uint8_t)f.kind : 0;
  r->answered[r->n] = 0;
  weir_rpc_core_message(r->core, r->n++, bytes, n);
}

static void await_idle(void) {
  struct pollfd p = {.fd = weir_service_news_fd(rig.service), .events = POLLIN};
  uint64_t n;
  for (int i = 0; weir_service_open_requests(rig.service) > 0; i++) {
    const int ready = poll(&p, 1, 10000);
    if (ready < 0) continue; /* the fuzzer's own alarm */
    if (ready == 0 || i == 100000) {
      const weir_engine_stats g = weir_service_get_stats(rig.service);
      fprintf(stderr, "fuzz_rpc: %d requests open, engine: %d active, %d queued, %lld + %lld steps; %s\n",
              weir_service_open_requests(rig.service), g.active, g.queued, (long long)g.tier[0].steps,
              (long long)g.tier[1].steps, weir_service_get_health(rig.service).reason);
      require(false, "requests of clients that are gone go on");
    }
    (void)!read(p.fd, &n, sizeof n);
  }
}

static void step(run *r, uint8_t op, const uint8_t *payload, size_t n) {
  if (op <= WEIR_FRAME_LAST) {
    uint8_t *bytes = malloc(n + WEIR_FRAME_HEADER_BYTES); /* of just its size */
    const uint8_t head[WEIR_FRAME_HEADER_BYTES] = {'W', 'E', 'I', 'R', WEIR_FRAME_VERSION, op};
    const size_t skip = op == 0 ? 0 : sizeof head;
    memcpy(bytes, head, skip);
    if (n > 0) memcpy(bytes + skip, payload, n);
    send(r, bytes, n + skip);
    free(bytes);
  } else if (op == WEIR_FRAME_LAST + 1) {
    served_skip(&rig, (int64_t)(n % 64) * 1000000000);
  }
  weir_rpc_core_turn(r->core);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  weir_err e = {0};
  weir_metrics *metrics;
  static run r;
  if (!is_open) {
    served_opts o = served_usual();
    o.max_requests = 8;
    o.chat = true;
    served_open(&rig, &o);
    is_open = true;
  }
  memset(&r, 0, sizeof r);
  require(weir_metrics_create(&metrics, &e) == WEIR_OK, e.msg);
  const weir_rpc_core_cfg cfg = {
      .service = rig.service,
      .metrics = metrics,
      .clock = rig.cfg.engine.clock,
      .limits = {.max_sessions = 3, .max_per_session = 4, .max_kept = 8, .max_reply_memory = 1 << 20},
      .answer = answer,
      .ctx = &r};
  require(weir_rpc_core_create(&cfg, &r.core, &e) == WEIR_OK, e.msg);
  while (size >= 3) {
    const size_t says = data[1] | (size_t)data[2] << 8, n = says < size - 3 ? says : size - 3;
    step(&r, data[0] % 12, data + 3, n);
    data += 3 + n;
    size -= 3 + n;
  }
  weir_rpc_core_flush(r.core);
  require(weir_rpc_core_parked(r.core) == 0, "a poll is still parked");
  for (uint64_t i = 0; i < r.n; i++)
    require(r.answered[i] || r.kind[i] == WEIR_FRAME_TOKENIZE || r.kind[i] == WEIR_FRAME_DETOKENIZE,
            "a message has no answer");
  weir_rpc_core_destroy(r.core);
  await_idle();
  weir_metrics_destroy(metrics);
  return 0;
}
