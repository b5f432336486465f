/* SPDX-License-Identifier: Apache-2.0 */
/* A frontend without weir's client library: unmodified NNG, and protobuf-c from weir.proto. It keeps the
 * rules of proto/PROTOCOL.md by hand: a socket for Poll and one for everything else, random ids, cursors.
 * usage: example-nng [--greedy] [-n MAX_TOKENS] URL PROMPT */
#include <nng/nng.h>
#include <nng/protocol/reqrep0/req.h>
#include <proto/weir.pb-c.h> /* of protoc-c --c_out=... weir.proto */
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

enum { HEADER = 8, ID = 16, SUBMIT = 1, POLL = 2, CANCEL = 3, REPLY = 0x80, ERROR = 0xff };
/* A Poll is parked for less than half of its resend time, and that is well below the time to give up: a lost
 * answer is asked for again. Calls are answered at once. */
enum { POLL_MS = 2000, POLL_RESEND_MS = 6000, CALL_RESEND_MS = 3000, ANSWER_MS = 30000 };

static volatile sig_atomic_t interrupted;
static void on_interrupt(int signal_number) {
  (void)signal_number;
  interrupted = 1;
}

static int fail(const char *what, const char *why) {
  fprintf(stderr, "example-nng: %s: %s\n", what, why);
  return -1;
}

/* One call on a context: sends the message of this kind and unpacks the reply of type `d` into *out, to be
 * freed with protobuf_c_message_free_unpacked. -1 after a message on stderr. */
static int call(nng_ctx ctx, int kind, const ProtobufCMessage *m, const ProtobufCMessageDescriptor *d,
                ProtobufCMessage **out) {
  nng_aio *aio = NULL;
  nng_msg *msg = NULL;
  int rv = nng_aio_alloc(&aio, NULL, NULL), st = -1;
  *out = NULL;
  if (rv == 0) rv = nng_msg_alloc(&msg, HEADER + protobuf_c_message_get_packed_size(m));
  if (rv != 0) goto out;
  uint8_t *frame = nng_msg_body(msg);
  memcpy(frame, "WEIR\1\0\0\0", HEADER);
  frame[5] = (uint8_t)kind;
  protobuf_c_message_pack(m, frame + HEADER);
  nng_aio_set_timeout(aio, ANSWER_MS);
  nng_aio_set_msg(aio, msg);
  nng_ctx_send(ctx, aio);
  nng_aio_wait(aio);
  rv = nng_aio_result(aio);
  if (rv != 0) goto out; /* the message is still ours */
  msg = NULL;
  nng_ctx_recv(ctx, aio);
  nng_aio_wait(aio);
  rv = nng_aio_result(aio);
  if (rv != 0) goto out;
  msg = nng_aio_get_msg(aio);
  const uint8_t *reply = nng_msg_body(msg);
  const size_t n = nng_msg_len(msg);
  if (n < HEADER || memcmp(reply, "WEIR\1", 5) != 0 || reply[6] || reply[7]) {
    fail("the reply", "not a frame of weir's");
  } else if (reply[5] == ERROR) {
    Weir__V1__Error *e = weir__v1__error__unpack(NULL, n - HEADER, reply + HEADER);
    char text[256];
    snprintf(text, sizeof text, "%u: %s", e ? (unsigned)e->code : 0, e ? e->message : "malformed");
    fail("the engine says", text);
    if (e) weir__v1__error__free_unpacked(e, NULL);
  } else if (reply[5] != (kind | REPLY)) {
    fail("the reply", "of another kind");
  } else {
    *out = protobuf_c_message_unpack(d, NULL, n - HEADER, reply + HEADER);
    st = *out ? 0 : fail("the reply", "malformed");
  }
out:
  if (rv != 0) fail("nng", nng_strerror(rv));
  if (msg) nng_msg_free(msg);
  if (aio) nng_aio_free(aio);
  return st;
}

static void show(const Weir__V1__Token *t, bool color, uint32_t *tier) {
  if (color && t->text.len > 0 && t->tier != *tier) {
    *tier = t->tier;
    fputs(t->tier == 0 ? "\033[0m" : "\033[0;1;35m", stdout);
  }
  fwrite(t->text.data, 1, t->text.len, stdout);
  fflush(stdout);
}

/* Polls until the End; 0, or the status to end with. */
static int follow(nng_ctx poll_ctx, nng_ctx control, char *token, ProtobufCBinaryData session,
                  ProtobufCBinaryData id) {
  const bool color = isatty(STDOUT_FILENO) || getenv("WEIR_COLOR");
  uint32_t tier = 0;
  Weir__V1__Cursor cursor = WEIR__V1__CURSOR__INIT, *cursors[] = {&cursor};
  Weir__V1__PollRequest poll = WEIR__V1__POLL_REQUEST__INIT;
  cursor.request_id = id;
  poll.token = token;
  poll.session = session;
  poll.cursor = cursors;
  poll.n_cursor = 1;
  poll.wait_ms = POLL_MS;
  bool cancelled = false;
  int status = -1;
  while (status < 0) {
    ProtobufCMessage *m;
    if (interrupted && !cancelled) {
      Weir__V1__CancelRequest cancel = WEIR__V1__CANCEL_REQUEST__INIT;
      cancel.token = token;
      cancel.session = session;
      cancel.request_id = &id;
      cancel.n_request_id = 1;
      if (call(control, CANCEL, &cancel.base, &weir__v1__cancel_reply__descriptor, &m) != 0) return 1;
      protobuf_c_message_free_unpacked(m, NULL);
      cancelled = true;
    }
    if (call(poll_ctx, POLL, &poll.base, &weir__v1__poll_reply__descriptor, &m) != 0) return 1;
    const Weir__V1__PollReply *reply = (const Weir__V1__PollReply *)m;
    for (size_t i = 0; i < reply->n_update && status < 0; i++) {
      const Weir__V1__Update *u = reply->update[i];
      if (u->request_id.len != ID || memcmp(u->request_id.data, id.data, ID) != 0) continue;
      if (u->state == 4 || u->from > cursor.have) {
        fail("the request", u->state == 4 ? "the engine does not know it any more" : "tokens are missing");
        status = 1;
        continue;
      }
      for (size_t k = cursor.have - u->from; k < u->n_token; k++, cursor.have++)
        show(u->token[k], color, &tier);
      if (!u->end) continue;
      status = 0;
      if (!strcmp(u->end->reason, "cancelled")) status = 130;
      if (color) fputs("\033[0m", stdout);
      putchar('\n');
      fflush(stdout);
      if (u->end->error) status = 1;
      fprintf(stderr, "%s: %u tokens%s%s\n", u->end->reason, (unsigned)cursor.have, u->end->error ? ": " : "",
              u->end->error ? u->end->error->message : "");
    }
    protobuf_c_message_free_unpacked(m, NULL);
  }
  cursor.done = true; /* the engine may forget it */
  poll.wait_ms = 0;
  ProtobufCMessage *m;
  if (call(poll_ctx, POLL, &poll.base, &weir__v1__poll_reply__descriptor, &m) == 0)
    protobuf_c_message_free_unpacked(m, NULL);
  return status;
}

/* A socket with its one context. Two contexts of one socket would share a connection, and a reply may be lost
 * to another one that is still on its way there. 0, or a number of nng. */
static int open_socket(const char *url, nng_duration resend_ms, nng_socket *socket, nng_ctx *ctx) {
  int rv = nng_req0_open(socket);
  if (rv != 0) return rv;
  nng_socket_set_size(*socket, NNG_OPT_RECVMAXSZ, 16 << 20);
  nng_socket_set_ms(*socket, NNG_OPT_REQ_RESENDTIME, resend_ms);
  rv = nng_dial(*socket, url, NULL, NNG_FLAG_NONBLOCK);
  if (rv == 0) rv = nng_ctx_open(ctx, *socket);
  if (rv != 0) nng_close(*socket);
  return rv;
}

int main(int argc, char **argv) {
  uint32_t max_tokens = 0;
  bool greedy = false;
  int i = 1;
  for (; i < argc && argv[i][0] == '-'; i++) {
    if (!strcmp(argv[i], "--greedy")) {
      greedy = true;
    } else if (!strcmp(argv[i], "-n") && i + 1 < argc) {
      max_tokens = (uint32_t)strtoul(argv[++i], NULL, 10);
    } else {
      break;
    }
  }
  if (argc - i != 2) {
    fprintf(stderr, "usage: example-nng [--greedy] [-n MAX_TOKENS] URL PROMPT\n");
    return 2;
  }
  uint8_t ids[2][ID];
  if (getrandom(ids, sizeof ids, 0) != (ssize_t)sizeof ids) return 1;
  const ProtobufCBinaryData session = {ID, ids[0]}, id = {ID, ids[1]};
  char *token = getenv("WEIR_TOKEN") ? getenv("WEIR_TOKEN") : "";
  nng_socket control_socket, poll_socket;
  nng_ctx control, poll;
  int rv = open_socket(argv[i], CALL_RESEND_MS, &control_socket, &control);
  if (rv == 0 && (rv = open_socket(argv[i], POLL_RESEND_MS, &poll_socket, &poll)) != 0)
    nng_close(control_socket);
  if (rv != 0) return fail(argv[i], nng_strerror(rv)), 1;
  const struct sigaction action = {.sa_handler = on_interrupt};
  sigaction(SIGINT, &action, NULL);

  Weir__V1__SubmitRequest submit = WEIR__V1__SUBMIT_REQUEST__INIT;
  submit.token = token;
  submit.session = session;
  submit.request_id = id;
  submit.prompt = argv[i + 1];
  submit.max_tokens = max_tokens;
  submit.receipts = 1; /* who wrote each token */
  Weir__V1__Sampling sampling = WEIR__V1__SAMPLING__INIT;
  sampling.has_temperature_case = WEIR__V1__SAMPLING__HAS_TEMPERATURE_TEMPERATURE; /* 0 */
  if (greedy) submit.sampling = &sampling; /* else the engine's default */
  ProtobufCMessage *m;
  int status = 1;
  if (call(control, SUBMIT, &submit.base, &weir__v1__submit_reply__descriptor, &m) == 0) {
    protobuf_c_message_free_unpacked(m, NULL);
    status = follow(poll, control, token, session, id);
  }
  nng_close(control_socket);
  nng_close(poll_socket);
  return status;
}
