/* SPDX-License-Identifier: Apache-2.0 */
/* Nothing is lost and nothing comes twice: 256 streams at once over ipc and over tcp, with readers that are
 * slow, clients that die in the middle and resume from an older cursor, and messages sent again every 300 ms.
 * What each stream brings is the text that its request brings alone, token for token. Speaks the protocol of
 * proto/PROTOCOL.md with plain nanomsg sockets, so that it does not depend on the client library's care. */
#include <errno.h>
#include <inttypes.h>
#include <nanomsg/nn.h>
#include <nanomsg/reqrep.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
/* after the above */
#include <cmocka.h>

#include "proto/weir.pb-c.h"
#include "server.h"

enum {
  SESSIONS = 16,
  STREAMS = 16, /* of each session: 256 in all */
  KINDS = 12,   /* different requests */
  TOKENS = 24,
  RESEND_MS = 300,
  POLL_MS = 120, /* less than half of it */
  ID = 16,
  KIND_SUBMIT = 1,
  KIND_POLL = 2,
  KIND_HEALTH = 8,
  REPLY = 0x80,
  LIMIT_S = 120
};

/* A thread of a session cannot leave the test by cmocka's way: it says what is wrong and ends. */
static _Thread_local char *wrong_text; /* [256] of the session; NULL in the test's own thread */

static void __attribute__((format(printf, 1, 2), noreturn)) wrong(const char *fmt, ...) {
  char text[256];
  va_list args;
  va_start(args, fmt);
  vsnprintf(text, sizeof text, fmt, args);
  va_end(args);
  if (!wrong_text) fail_msg("%s", text);
  memcpy(wrong_text, text, sizeof text);
  pthread_exit(NULL);
}
#define WANT(x)                                             \
  do {                                                      \
    if (!(x)) wrong("line %d: " #x " is not so", __LINE__); \
  } while (0)

static int64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static uint32_t next_random(uint64_t *s) {
  *s = *s * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(*s >> 33);
}

static void make_id(uint8_t id[ID], uint32_t a, uint32_t b, uint32_t c) {
  const uint32_t word[4] = {0x77656972u, a, b, c};
  memcpy(id, word, ID);
}

/* ---- one message there and its answer back ---- */

/* Raw REQ: the header and the resending are ours, because nanomsg's own REQ frees a doubled reply twice. */
static int connect_to(const char *url) {
  const int s = nn_socket(AF_SP_RAW, NN_REQ), wait = RESEND_MS, most = 16 << 20;
  WANT(s >= 0);
  WANT(nn_setsockopt(s, NN_SOL_SOCKET, NN_RCVTIMEO, &wait, sizeof wait) == 0);
  WANT(nn_setsockopt(s, NN_SOL_SOCKET, NN_RCVMAXSIZE, &most, sizeof most) == 0);
  WANT(nn_connect(s, url) >= 0);
  return s;
}

/* The header of SP in a control message: its length, then the id. */
typedef union header {
  struct nn_cmsghdr head;
  uint8_t bytes[NN_CMSG_SPACE(sizeof(size_t) + 4)];
} header;

static void send_frame(int sock, uint32_t id, uint8_t *frame, size_t n) {
  header c;
  memset(&c, 0, sizeof c);
  c.head.cmsg_len = sizeof c.bytes;
  c.head.cmsg_level = PROTO_SP;
  c.head.cmsg_type = SP_HDR;
  const uint32_t wire = htonl(id);
  const size_t len = sizeof wire;
  memcpy(NN_CMSG_DATA(&c.head), &len, sizeof len);
  memcpy(NN_CMSG_DATA(&c.head) + sizeof len, &wire, sizeof wire);
  struct nn_iovec iov = {.iov_base = frame, .iov_len = n};
  const struct nn_msghdr h = {
      .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof c.bytes};
  WANT(nn_sendmsg(sock, &h, 0) == (int)n);
}

/* A reply, whoever it answers; -1 when none came before it is time to send again. */
static int receive_frame(int sock, uint32_t *id, uint8_t **frame) {
  header c;
  memset(&c, 0, sizeof c);
  struct nn_iovec iov = {.iov_base = frame, .iov_len = NN_MSG};
  struct nn_msghdr h = {
      .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof c.bytes};
  const int n = nn_recvmsg(sock, &h, 0);
  memcpy(id, NN_CMSG_DATA(&c.head) + sizeof(size_t), sizeof *id);
  *id = ntohl(*id);
  return n;
}

static uint8_t *frame_of(uint8_t kind, const ProtobufCMessage *m, size_t *n) {
  *n = 8 + protobuf_c_message_get_packed_size(m);
  uint8_t *frame = malloc(*n);
  const uint8_t head[8] = {'W', 'E', 'I', 'R', 1, kind, 0, 0};
  WANT(frame);
  memcpy(frame, head, sizeof head);
  protobuf_c_message_pack(m, frame + 8);
  return frame;
}

static _Atomic uint32_t next_id = 1, resent;

/* Sends a message and forgets it. */
static void send_only(int sock, uint8_t kind, const ProtobufCMessage *m) {
  size_t n;
  uint8_t *frame = frame_of(kind, m, &n);
  send_frame(sock, next_id++ | 0x80000000u, frame, n);
  free(frame);
}

/* Sends a message, again every RESEND_MS, until its reply is there, which must be of the kind asked for. */
static ProtobufCMessage *call(int sock, uint8_t kind, const ProtobufCMessage *m,
                              const ProtobufCMessageDescriptor *type) {
  const int64_t until = now_ms() + LIMIT_S * 1000;
  const uint32_t id = next_id++ | 0x80000000u;
  uint8_t *reply = NULL;
  uint32_t of = 0;
  size_t n;
  int got = -1;
  uint8_t *frame = frame_of(kind, m, &n);
  while (got < 0) {
    WANT(now_ms() < until);
    send_frame(sock, id, frame, n);
    while ((got = receive_frame(sock, &of, &reply)) >= 0 && of != id) nn_freemsg(reply);
    resent += got < 0;
  }
  free(frame);
  WANT(got >= 8);
  if (reply[5] == 0xff) {
    Weir__V1__Error *e = weir__v1__error__unpack(NULL, (size_t)got - 8, reply + 8);
    wrong("answered with error %u: %s", e ? e->code : 0, e ? e->message : "?");
  }
  WANT(reply[5] == (kind | REPLY));
  ProtobufCMessage *a = protobuf_c_message_unpack(type, NULL, (size_t)got - 8, reply + 8);
  WANT(a);
  nn_freemsg(reply);
  return a;
}

/* ---- requests ---- */

static const char *const prompts[4] = {
    "Question: Ann has 12 coins. Ben gives Ann 7 more coins. How many coins does Ann have now?\nAnswer:",
    "Question: Convert 7 hours and 25 minutes to minutes.\nAnswer:",
    "Once upon a time there was a little girl who", "The old man looked at the sea, and"};
static char *const modes[3] = {"defer", "large", "exact"};

static void submit(int sock, const uint8_t session[ID], const uint8_t id[ID], int kind) {
  Weir__V1__SubmitRequest q = WEIR__V1__SUBMIT_REQUEST__INIT;
  Weir__V1__Sampling draw = WEIR__V1__SAMPLING__INIT;
  Weir__V1__Cascade cascade = WEIR__V1__CASCADE__INIT;
  uint8_t s[ID], r[ID];
  memcpy(s, session, ID);
  memcpy(r, id, ID);
  q.session = (ProtobufCBinaryData){ID, s};
  q.request_id = (ProtobufCBinaryData){ID, r};
  q.prompt = (char *)(uintptr_t)prompts[kind % 4];
  q.max_tokens = TOKENS;
  q.ignore_eos = 1;
  draw.has_temperature_case = WEIR__V1__SAMPLING__HAS_TEMPERATURE_TEMPERATURE;
  draw.temperature = kind % 2 ? 0.8f : 0;
  draw.has_seed_case = WEIR__V1__SAMPLING__HAS_SEED_SEED;
  draw.seed = 100 + (uint64_t)kind;
  q.sampling = &draw;
  cascade.mode = modes[kind % 3];
  q.cascade = &cascade;
  ProtobufCMessage *a = call(sock, KIND_SUBMIT, &q.base, &weir__v1__submit_reply__descriptor);
  protobuf_c_message_free_unpacked(a, NULL);
}

typedef struct stream {
  uint8_t id[ID];
  int kind;
  uint32_t token[TOKENS], n;
  bool ended;
} stream;

typedef struct session {
  const char *url;
  uint8_t id[ID];
  stream stream[STREAMS];
  int n_streams;
  bool slow, dies, doubles, small_replies;
  uint64_t random;
  int polls, deaths, replayed;
  char wrong[256]; /* what ended it early */
} session;

/* Polls from the given cursors, which may lie back of what the session has. NULL when the answer is not
 * waited for.
 */
static Weir__V1__PollReply *ask(session *s, int sock, const uint32_t have[STREAMS], uint32_t wait_ms,
                                bool wait) {
  Weir__V1__PollRequest q = WEIR__V1__POLL_REQUEST__INIT;
  Weir__V1__Cursor cursor[STREAMS], *list[STREAMS];
  for (int i = 0; i < s->n_streams; i++) {
    cursor[i] = (Weir__V1__Cursor)WEIR__V1__CURSOR__INIT;
    cursor[i].request_id = (ProtobufCBinaryData){ID, s->stream[i].id};
    cursor[i].have = have[i];
    cursor[i].done = s->stream[i].ended && have[i] == s->stream[i].n;
    list[i] = &cursor[i];
  }
  q.session = (ProtobufCBinaryData){ID, s->id};
  q.n_cursor = (size_t)s->n_streams;
  q.cursor = list;
  q.wait_ms = wait_ms;
  q.max_bytes = s->small_replies ? 200 : 0;
  s->polls++;
  if (wait) return (Weir__V1__PollReply *)call(sock, KIND_POLL, &q.base, &weir__v1__poll_reply__descriptor);
  send_only(sock, KIND_POLL, &q.base);
  return NULL;
}

/* Takes in an answer: tokens begin at the cursor that was sent, or before it, and what the session had
 * already is the same.
 */
static void take(session *s, const Weir__V1__PollReply *a, const uint32_t have[STREAMS]) {
  for (size_t u = 0; u < a->n_update; u++) {
    const Weir__V1__Update *up = a->update[u];
    stream *to = NULL;
    uint32_t from = 0;
    for (int i = 0; i < s->n_streams; i++)
      if (up->request_id.len == ID && !memcmp(up->request_id.data, s->stream[i].id, ID)) {
        to = &s->stream[i];
        from = have[i];
      }
    WANT(to);
    if (up->state == 4) wrong("a stream became unknown after %u tokens", to->n);
    if (up->n_token > 0) WANT(up->from <= from);
    for (size_t k = 0; k < up->n_token; k++) {
      const uint32_t at = up->from + (uint32_t)k;
      WANT(at < TOKENS && at <= to->n);
      if (at < to->n) {
        WANT(to->token[at] == up->token[k]->id);
        s->replayed++;
        continue;
      }
      to->token[to->n++] = up->token[k]->id;
    }
    if (!up->end) continue;
    if (strcmp(up->end->reason, "length") != 0)
      wrong("ended with \"%s\": %s", up->end->reason, up->end->error ? up->end->error->message : "");
    WANT(up->end->usage->completion_tokens == TOKENS);
    WANT(to->n == TOKENS);
    to->ended = true;
  }
}

static bool all_ended(const session *s) {
  for (int i = 0; i < s->n_streams; i++)
    if (!s->stream[i].ended) return false;
  return true;
}

static void pause_ms(uint32_t ms) {
  const struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};
  nanosleep(&t, NULL);
}

static void *run_session(void *arg) {
  session *s = arg;
  wrong_text = s->wrong;
  const int64_t until = now_ms() + LIMIT_S * 1000;
  int control = connect_to(s->url), poll = connect_to(s->url);
  for (int i = 0; i < s->n_streams; i++) {
    submit(control, s->id, s->stream[i].id, s->stream[i].kind);
    if (s->doubles) submit(control, s->id, s->stream[i].id, s->stream[i].kind);
  }
  if (s->doubles) { /* parked for longer than a message waits before it is sent again */
    const uint32_t none[STREAMS] = {0};
    const int n = s->n_streams;
    s->n_streams = 0;
    Weir__V1__PollReply *a = ask(s, poll, none, 4 * RESEND_MS, true);
    s->n_streams = n;
    weir__v1__poll_reply__free_unpacked(a, NULL);
  }
  while (!all_ended(s) && now_ms() < until) {
    uint32_t have[STREAMS];
    for (int i = 0; i < s->n_streams; i++) have[i] = s->stream[i].n;
    if (s->dies && next_random(&s->random) % 4 == 0) {
      /* Dies with a poll on its way; the one that comes after it knows only an older cursor. */
      ask(s, poll, have, POLL_MS, false);
      nn_close(poll);
      nn_close(control);
      control = connect_to(s->url);
      poll = connect_to(s->url);
      s->deaths++;
      for (int i = 0; i < s->n_streams; i++)
        if (!s->stream[i].ended && have[i] > 0) have[i] -= next_random(&s->random) % (have[i] + 1) % 3;
    }
    Weir__V1__PollReply *a = ask(s, poll, have, POLL_MS, true);
    take(s, a, have);
    weir__v1__poll_reply__free_unpacked(a, NULL);
    if (s->slow) pause_ms(50 + next_random(&s->random) % 400);
  }
  nn_close(poll);
  nn_close(control);
  return NULL;
}

/* ---- the test ---- */

static void wait_ready(const char *url) {
  const int64_t until = now_ms() + LIMIT_S * 1000;
  const int sock = connect_to(url);
  for (bool ready = false; !ready;) {
    Weir__V1__HealthRequest q = WEIR__V1__HEALTH_REQUEST__INIT;
    assert_true(now_ms() < until);
    Weir__V1__HealthReply *a =
        (Weir__V1__HealthReply *)call(sock, KIND_HEALTH, &q.base, &weir__v1__health_reply__descriptor);
    ready = a->ready;
    weir__v1__health_reply__free_unpacked(a, NULL);
    if (!ready) pause_ms(20);
  }
  nn_close(sock);
}

static void alone(const char *url, uint32_t token[KINDS][TOKENS]) {
  for (uint32_t k = 0; k < KINDS; k++) {
    session s = {.url = url, .n_streams = 1};
    make_id(s.id, 1, k, 0);
    make_id(s.stream[0].id, 1, k, 1);
    s.stream[0].kind = (int)k;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, run_session, &s), 0);
    pthread_join(thread, NULL);
    assert_string_equal(s.wrong, "");
    assert_true(s.stream[0].ended);
    memcpy(token[k], s.stream[0].token, sizeof token[k]);
  }
}

static void over(const char *url) {
  static session s[SESSIONS];
  static uint32_t want[KINDS][TOKENS];
  pthread_t thread[SESSIONS];
  char line[512];
  snprintf(line, sizeof line, "serve --no-http --rpc %s --max-requests 512", url);
  server engine = server_start(line);
  wait_ready(url);
  alone(url, want);
  memset(s, 0, sizeof s);
  for (uint32_t i = 0; i < SESSIONS; i++) {
    s[i] = (session){.url = url,
                     .n_streams = STREAMS,
                     .slow = i % 4 == 1,
                     .dies = i % 4 == 2,
                     .doubles = i % 4 == 3,
                     .small_replies = i % 8 >= 6,
                     .random = i + 1};
    make_id(s[i].id, 2, i, 0);
    for (uint32_t k = 0; k < STREAMS; k++) {
      make_id(s[i].stream[k].id, 2, i, k + 1);
      s[i].stream[k].kind = (int)((i * STREAMS + k) % KINDS);
    }
    assert_int_equal(pthread_create(&thread[i], NULL, run_session, &s[i]), 0);
  }
  int deaths = 0, replayed = 0, polls = 0;
  for (uint32_t i = 0; i < SESSIONS; i++) pthread_join(thread[i], NULL);
  for (uint32_t i = 0; i < SESSIONS; i++) {
    if (s[i].wrong[0]) fail_msg("session %u: %s", i, s[i].wrong);
    deaths += s[i].deaths;
    replayed += s[i].replayed;
    polls += s[i].polls;
    for (int k = 0; k < STREAMS; k++) {
      const stream *t = &s[i].stream[k];
      if (!t->ended)
        fail_msg("session %u, stream %d: %u of %d tokens after %d s", i, k, t->n, TOKENS, LIMIT_S);
      assert_memory_equal(t->token, want[t->kind], sizeof t->token);
    }
  }
  assert_true(deaths > 0 && replayed > 0 && resent > 0);
  assert_int_equal(server_stop(&engine, SIGTERM), 0);
  print_message(
      "%s: %d streams, %d polls, %d deaths, %d tokens asked for again, %u messages sent again; none lost or "
      "doubled\n",
      url, SESSIONS * STREAMS, polls, deaths, replayed, (unsigned)resent);
  resent = 0;
}

static void test_ipc(void **state) {
  char url[256];
  (void)state;
  snprintf(url, sizeof url, "ipc://%s/engine.ipc", server_folder());
  over(url);
}

static void test_tcp(void **state) {
  char url[64];
  (void)state;
  snprintf(url, sizeof url, "tcp://127.0.0.1:%d", server_free_port());
  over(url);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_ipc), cmocka_unit_test(test_tcp)};
  return cmocka_run_group_tests(tests, NULL, server_cleanup);
}
