/* SPDX-License-Identifier: Apache-2.0 */
/* The RPC server over nanomsg: many sessions at once with nothing lost and nothing doubled, messages sent
 * again, polls replaced on one connection and on two, slow readers, what is too large, where it listens. The
 * clients are raw REQ sockets, which see every reply there is. */
#include <arpa/inet.h>
#include <nanomsg/nn.h>
#include <nanomsg/reqrep.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "net/rpc.h"
#include "rpc_rig.h"
#include "served.h"

/* libnanomsg 1.1.5 itself: nn_bipc_create does not free its endpoint when bind() fails, which test_where
 * makes it do. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:nn_bipc_create\n"; }

typedef struct place {
  served served;
  weir_metrics *metrics;
  weir_rpc *rpc;
  char folder[32], url[64];
} place;

static void place_open(place *p, const weir_rpc_limits *limits, int32_t max_requests) {
  weir_err e = {0};
  served_opts o = served_usual();
  if (max_requests > 0) o.max_requests = max_requests;
  served_open(&p->served, &o);
  assert_int_equal(weir_metrics_create(&p->metrics, &e), WEIR_OK);
  snprintf(p->folder, sizeof p->folder, "/tmp/weir-test-XXXXXX");
  assert_non_null(mkdtemp(p->folder));
  snprintf(p->url, sizeof p->url, "ipc://%s/rpc", p->folder);
  const char *url = p->url;
  const weir_rpc_cfg cfg = {.url = &url,
                            .n_urls = 1,
                            .core = {.service = p->served.service,
                                     .metrics = p->metrics,
                                     .clock = p->served.cfg.engine.clock,
                                     .limits = limits ? *limits : (weir_rpc_limits){0}}};
  if (weir_rpc_create(&cfg, &p->rpc, &e) != WEIR_OK) fail_msg("%s", e.msg);
}

static void place_close(place *p) {
  char path[64];
  served_hold(&p->served, -1);
  weir_rpc_destroy(p->rpc);
  weir_metrics_destroy(p->metrics);
  served_close(&p->served);
  snprintf(path, sizeof path, "%s/rpc", p->folder);
  unlink(path);
  rmdir(p->folder);
}

static double metric(place *p, const char *name) {
  served *v = &p->served;
  weir_metrics *own = v->metrics;
  v->metrics = p->metrics;
  const double value = served_metric(v, name, NULL);
  v->metrics = own;
  return value;
}

/* ---- a client's socket: each message has a number, which its reply brings back ---- */

typedef struct lane {
  int socket, fd;
} lane;

static lane lane_open(const char *url) {
  lane l = {.socket = nn_socket(AF_SP_RAW, NN_REQ)};
  size_t n = sizeof l.fd;
  const int most = 16 << 20;
  assert_true(l.socket >= 0);
  assert_int_equal(nn_setsockopt(l.socket, NN_SOL_SOCKET, NN_RCVMAXSIZE, &most, sizeof most), 0);
  assert_int_equal(nn_getsockopt(l.socket, NN_SOL_SOCKET, NN_RCVFD, &l.fd, &n), 0);
  assert_true(nn_connect(l.socket, url) >= 0);
  return l;
}

static void lane_close(lane *l) { nn_close(l->socket); }

static void lane_send(lane *l, uint32_t number, weir_buf *b) {
  unsigned char header[NN_CMSG_SPACE(sizeof(size_t) + 4)] = {0};
  struct nn_cmsghdr *c = (struct nn_cmsghdr *)(void *)header;
  const size_t four = 4;
  const unsigned char id[4] = {(unsigned char)(0x80 | number >> 24), (unsigned char)(number >> 16),
                               (unsigned char)(number >> 8), (unsigned char)number};
  c->cmsg_len = NN_CMSG_LEN(sizeof four + sizeof id);
  c->cmsg_level = PROTO_SP;
  c->cmsg_type = SP_HDR;
  memcpy(NN_CMSG_DATA(c), &four, sizeof four);
  memcpy(NN_CMSG_DATA(c) + sizeof four, id, sizeof id);
  struct nn_iovec iov = {b->data, b->len};
  struct nn_msghdr h = {
      .msg_iov = &iov, .msg_iovlen = 1, .msg_control = header, .msg_controllen = sizeof header};
  if (nn_sendmsg(l->socket, &h, 0) < 0) fail_msg("send: %s", nn_strerror(nn_errno()));
  weir_buf_fini(b);
}

/* The next reply, unpacked; its number, or -1 when none came in so many ms. */
static int64_t lane_recv(lane *l, int timeout_ms, weir_frame_msg *m) {
  struct pollfd p = {.fd = l->fd, .events = POLLIN};
  void *body = NULL, *control = NULL;
  struct nn_iovec iov = {&body, NN_MSG};
  struct nn_msghdr h = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = NN_MSG};
  if (poll(&p, 1, timeout_ms) <= 0) return -1;
  const int n = nn_recvmsg(l->socket, &h, 0);
  if (n < 0) fail_msg("receive: %s", nn_strerror(nn_errno()));
  rig_unpack(body, (size_t)n, m);
  const unsigned char *id = NN_CMSG_DATA((struct nn_cmsghdr *)control) + sizeof(size_t);
  const int64_t number = (int64_t)(id[0] & 0x7f) << 24 | id[1] << 16 | id[2] << 8 | id[3];
  nn_freemsg(body);
  nn_freemsg(control);
  return number;
}

static void lane_call(lane *l, uint32_t number, weir_buf *b, weir_frame_msg *m) {
  lane_send(l, number, b);
  assert_int_equal(lane_recv(l, 20000, m), number);
}

static void lane_submit(lane *l, uint32_t number, const rig_submit *s, rig_stream *x) {
  weir_buf b = {0};
  weir_frame_msg m;
  rig_put_submit(&b, s);
  lane_call(l, number, &b, &m);
  assert_int_equal(m.kind, WEIR_FRAME_SUBMIT | WEIR_FRAME_REPLY);
  weir_frame_msg_fini(&m);
  *x = (rig_stream){.state = -1};
  rig_id(2, s->request, x->id);
}

static void expect_law(const place *p, const rig_stream *x, uint32_t request, uint32_t n_ids) {
  int32_t tok[RIG_MAX_TOKENS + 64], n = 0;
  for (; n < (int32_t)n_ids; n++) tok[n] = 5 + (int32_t)(((uint32_t)n * 7 + request) % 200);
  for (int32_t i = 0; i < x->n; i++, n++) {
    const weir_ask a = {.top_p = 1, .pos = n, .probe = -1, .seed = 7};
    tok[n] = fake_law_row(&p->served.law, 0, tok, n, &a).token;
    assert_int_equal(x->token[i], tok[n]);
  }
}

/* ---- tests ---- */

/* Every session has two lanes; every Submit is sent twice, every fifth Poll too. */
static void test_many_sessions(void **state) {
  (void)state;
  enum { SESSIONS = 64, EACH = 2 };
  static place p;
  static lane control[SESSIONS], polls[SESSIONS];
  static rig_stream x[SESSIONS][EACH];
  static uint32_t number[SESSIONS];
  weir_frame_msg m;
  place_open(&p, NULL, SESSIONS * EACH);
  for (uint32_t s = 0; s < SESSIONS; s++) {
    control[s] = lane_open(p.url);
    polls[s] = lane_open(p.url);
  }
  for (uint32_t s = 0; s < SESSIONS; s++)
    for (uint32_t i = 0; i < EACH; i++) {
      const rig_submit q = {.session = s, .request = s * EACH + i, .n_ids = 8, .max_tokens = 20 + s % 7};
      lane_submit(&control[s], 2 * i, &q, &x[s][i]);
      lane_submit(&control[s], 2 * i + 1, &q, &x[s][i]);
    }
  assert_true(metric(&p, "weir:rpc_duplicates_total") == SESSIONS * EACH);
  int32_t open = SESSIONS;
  for (uint32_t s = 0; s < SESSIONS; s++) {
    const rig_stream *at[] = {&x[s][0], &x[s][1]};
    weir_buf b = {0};
    rig_put_poll(&b, s, at, EACH, 5000, s % 3 ? 0 : 1024, NULL);
    lane_send(&polls[s], ++number[s], &b);
  }
  while (open > 0)
    for (uint32_t s = 0; s < SESSIONS; s++) {
      rig_stream *to[] = {&x[s][0], &x[s][1]};
      if (x[s][0].ended && x[s][1].ended) continue;
      const int64_t got = lane_recv(&polls[s], 20000, &m);
      if (got < 0) fail_msg("session %u: a poll was not answered", s);
      if (got == number[s]) rig_take(m.as.poll_reply, to, EACH); /* else of an older poll: not looked at */
      weir_frame_msg_fini(&m);
      if (got != number[s]) continue;
      if (x[s][0].ended && x[s][1].ended) {
        open--;
        continue;
      }
      for (int k = 0; k <= (number[s] % 5 == 0); k++) {
        weir_buf b = {0};
        rig_put_poll(&b, s, (const rig_stream *const *)to, EACH, 5000, s % 3 ? 0 : 1024, NULL);
        lane_send(&polls[s], ++number[s], &b);
      }
    }
  for (uint32_t s = 0; s < SESSIONS; s++)
    for (uint32_t i = 0; i < EACH; i++) {
      assert_int_equal(x[s][i].n, 20 + s % 7);
      expect_law(&p, &x[s][i], s * EACH + i, 8);
    }
  assert_true(served_metric(&p.served, "weir:request_success_total", "length") == SESSIONS * EACH);
  assert_true(metric(&p, "weir:rpc_replies_lost_total") == 0);
  for (uint32_t s = 0; s < SESSIONS; s++) {
    lane_close(&control[s]);
    lane_close(&polls[s]);
  }
  place_close(&p);
}

static void test_replaced(void **state) {
  (void)state;
  static place p;
  weir_buf b = {0};
  weir_frame_msg m;
  rig_stream x;
  const rig_stream *at = &x;
  place_open(&p, NULL, 0);
  lane a = lane_open(p.url), c = lane_open(p.url);
  served_hold(&p.served, 0);
  lane_submit(&c, 1, &(rig_submit){.session = 1, .request = 1, .n_ids = 8, .max_tokens = 5}, &x);
  served_await_held(&p.served);
  rig_put_poll(&b, 1, &at, 1, 10000, 0, NULL);
  lane_call(&a, 1, &b, &m); /* the state */
  weir_frame_msg_fini(&m);
  /* by another connection: both are answered */
  rig_put_poll(&b, 1, &at, 1, 10000, 0, NULL);
  lane_send(&a, 2, &b);
  assert_int_equal(lane_recv(&a, 100, &m), -1);
  rig_put_poll(&b, 1, &at, 1, 10000, 0, NULL);
  lane_send(&c, 3, &b);
  assert_int_equal(lane_recv(&a, 10000, &m), 2);
  assert_true(m.as.poll_reply->replaced);
  weir_frame_msg_fini(&m);
  /* by the same one: the first is not answered; the same message again is answered once */
  rig_put_poll(&b, 1, &at, 1, 300, 0, NULL);
  lane_send(&c, 4, &b);
  rig_put_poll(&b, 1, &at, 1, 300, 0, NULL);
  lane_send(&c, 4, &b);
  assert_int_equal(lane_recv(&c, 10000, &m), 4);
  assert_false(m.as.poll_reply->replaced);
  assert_int_equal(m.as.poll_reply->n_update, 0);
  weir_frame_msg_fini(&m);
  assert_int_equal(lane_recv(&c, 50, &m), -1);
  lane_close(&a);
  lane_close(&c);
  place_close(&p);
}

/* A burst on one connection, against the rule of one at a time: replies keep a distance and all arrive. */
static void test_burst(void **state) {
  (void)state;
  enum { N = 100 };
  static place p;
  bool seen[N] = {false};
  place_open(&p, NULL, 0);
  lane a = lane_open(p.url);
  for (uint32_t i = 0; i < N; i++) {
    weir_buf b = {0};
    const uint8_t health[] = {'W', 'E', 'I', 'R', 1, WEIR_FRAME_HEALTH, 0, 0};
    assert_int_equal(weir_buf_put(&b, health, sizeof health, NULL), WEIR_OK);
    lane_send(&a, i, &b);
  }
  for (uint32_t i = 0; i < N; i++) {
    weir_frame_msg m;
    const int64_t got = lane_recv(&a, 5000, &m);
    if (got < 0) fail_msg("%u of %d replies arrived", i, N);
    assert_false(seen[got]);
    seen[got] = true;
    assert_true(m.as.health_reply->live);
    weir_frame_msg_fini(&m);
  }
  lane_close(&a);
  place_close(&p);
}

static int64_t now_ns(void) {
  const weir_clock clock = weir_clock_system();
  return weir_now_ns(&clock);
}

/* A reply behind a large one keeps the distance that the large one needs on a slow connection. */
static void test_distance(void **state) {
  (void)state;
  static place p;
  static char text[200001];
  weir_buf b = {0};
  weir_frame_msg m;
  const uint8_t health[] = {'W', 'E', 'I', 'R', 1, WEIR_FRAME_HEALTH, 0, 0};
  place_open(&p, NULL, 0);
  lane a = lane_open(p.url);
  for (size_t i = 0; i < sizeof text - 1; i++) text[i] = (char)(i % 7 ? 'a' + i * 31 % 26 : ' ');
  Weir__V1__TokenizeRequest q = WEIR__V1__TOKENIZE_REQUEST__INIT;
  q.text = text;
  for (uint32_t n = 1; n <= 2; n++) { /* a small one has hardly any */
    if (n == 2) text[10] = 0;
    assert_int_equal(weir_frame_put(WEIR_FRAME_TOKENIZE, &q.base, &b, NULL), WEIR_OK);
    lane_send(&a, 2 * n, &b);
    struct pollfd readable = {.fd = a.fd, .events = POLLIN};
    assert_int_equal(poll(&readable, 1, 20000), 1);
    const int64_t from = now_ns(); /* before it is looked at, which takes its time */
    assert_int_equal(weir_buf_put(&b, health, sizeof health, NULL), WEIR_OK);
    lane_send(&a, 2 * n + 1, &b);
    assert_int_equal(lane_recv(&a, 20000, &m), 2 * n);
    assert_int_equal(m.kind, WEIR_FRAME_TOKENIZE | WEIR_FRAME_REPLY);
    const int64_t needs = (int64_t)weir_frame_size(m.as.base) * 100;
    weir_frame_msg_fini(&m);
    assert_int_equal(lane_recv(&a, 20000, &m), 2 * n + 1);
    weir_frame_msg_fini(&m);
    if (n == 1) assert_true(needs > 30000000);
    assert_true(now_ns() - from > needs / 4); /* the transfer itself takes some of it */
    assert_true(now_ns() - from < 5000000000);
  }
  lane_close(&a);
  place_close(&p);
}

/* One client reads nothing while it writes; another one is served meanwhile. Then it gets all there is. */
static void test_slow_reader(void **state) {
  (void)state;
  static place p;
  weir_buf b = {0};
  weir_frame_msg m;
  static rig_stream slow, quick;
  rig_stream *slow_at = &slow, *quick_at = &quick;
  place_open(&p, NULL, 0);
  lane a = lane_open(p.url), c = lane_open(p.url);
  lane_submit(&a, 1,
              &(rig_submit){.session = 1, .request = 1, .n_ids = 8, .max_tokens = 400, .receipts = true},
              &slow);
  rig_put_poll(&b, 1, (const rig_stream *const *)&slow_at, 1, 5000, 0, NULL);
  lane_send(&a, 2, &b); /* and does not look */
  lane_submit(&c, 1, &(rig_submit){.session = 2, .request = 2, .n_ids = 8, .max_tokens = 400}, &quick);
  for (uint32_t n = 2; !quick.ended; n++) {
    rig_put_poll(&b, 2, (const rig_stream *const *)&quick_at, 1, 5000, 0, NULL);
    lane_call(&c, n, &b, &m);
    rig_take(m.as.poll_reply, &quick_at, 1);
    weir_frame_msg_fini(&m);
  }
  assert_int_equal(quick.n, 400);
  for (uint32_t n = 2; !slow.ended; n++) {
    if (n > 2) {
      rig_put_poll(&b, 1, (const rig_stream *const *)&slow_at, 1, 5000, 2000, NULL);
      lane_send(&a, n, &b);
    }
    assert_int_equal(lane_recv(&a, 10000, &m), n);
    rig_take(m.as.poll_reply, &slow_at, 1);
    weir_frame_msg_fini(&m);
  }
  assert_int_equal(slow.n, 400);
  expect_law(&p, &slow, 1, 8);
  lane_close(&a);
  lane_close(&c);
  place_close(&p);
}

static void test_too_large(void **state) {
  (void)state;
  static place p;
  const weir_rpc_limits limits = {.max_request_bytes = 1 << 20};
  weir_frame_msg m;
  weir_buf b = {0};
  place_open(&p, &limits, 0);
  lane a = lane_open(p.url);
  const uint8_t head[] = {'W', 'E', 'I', 'R', 1, WEIR_FRAME_SUBMIT, 0, 0};
  assert_int_equal(weir_buf_put(&b, head, sizeof head, NULL), WEIR_OK);
  while (b.len < (1 << 20) + 1000) assert_int_equal(weir_buf_put(&b, "0123456789abcdef", 16, NULL), WEIR_OK);
  lane_call(&a, 1, &b, &m); /* a little: told */
  assert_int_equal(m.kind, WEIR_FRAME_ERROR);
  assert_int_equal(m.as.error->code, 413);
  weir_frame_msg_fini(&m);
  /* much: the connection is dropped, and counted; the server is still there */
  char *big = calloc(1, 2 << 20);
  assert_int_equal(weir_buf_put(&b, big, 2 << 20, NULL), WEIR_OK);
  free(big);
  lane_send(&a, 2, &b);
  lane c = lane_open(p.url);
  const uint8_t health[] = {'W', 'E', 'I', 'R', 1, WEIR_FRAME_HEALTH, 0, 0};
  for (uint32_t n = 0; metric(&p, "weir:rpc_broken_connections_total") < 1; n++) {
    assert_int_equal(weir_buf_put(&b, health, sizeof health, NULL), WEIR_OK);
    lane_call(&c, n, &b, &m);
    assert_true(m.as.health_reply->live);
    weir_frame_msg_fini(&m);
    served_skip(&p.served, 100000000); /* it looks at its sockets once a second */
    if (n > 5000) fail_msg("the broken connection was not counted");
  }
  lane_close(&a);
  lane_close(&c);
  place_close(&p);
}

static void test_where(void **state) {
  (void)state;
  static const struct {
    const char *url;
    bool token, fine;
  } cases[] = {
      {"ipc:///tmp/x", false, true},
      {"tcp://127.0.0.1:5600", false, true},
      {"tcp://[::1]:5600", false, true},
      {"tcp://localhost:5600", false, true},
      {"tcp://*:5600", false, false},
      {"tcp://0.0.0.0:5600", false, false},
      {"tcp://eth0:5600", false, false},
      {"tcp://10.0.0.1:5600", false, false},
      {"tcp://127.0.0.1.evil:1", false, false},
      {"tcp://*:5600", true, true},
      {"inproc://x", true, false},
      {"ipc://", false, false},
      {"ws://127.0.0.1:5600", false, false},
      {"", true, false},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    weir_err e = {0};
    const weir_status st = weir_rpc_check_url(cases[i].url, cases[i].token, &e);
    if ((st == WEIR_OK) != cases[i].fine) fail_msg("%s: %s", cases[i].url, e.msg);
    if (!cases[i].fine) assert_true(e.msg[0] != 0);
  }
  /* the socket is this user's alone; a second server is told so, and leaves nothing behind */
  static place p;
  place_open(&p, NULL, 0);
  struct stat is;
  assert_int_equal(stat(p.url + 6, &is), 0);
  assert_int_equal(is.st_mode & 077, 0);
  weir_metrics *other;
  weir_rpc *second = NULL;
  weir_err e = {0};
  assert_int_equal(weir_metrics_create(&other, &e), WEIR_OK);
  const char *url = p.url;
  const weir_rpc_cfg cfg = {
      .url = &url,
      .n_urls = 1,
      .core = {.service = p.served.service, .metrics = other, .clock = p.served.cfg.engine.clock}};
  assert_int_equal(weir_rpc_create(&cfg, &second, &e), WEIR_EIO);
  assert_null(second);
  assert_non_null(strstr(e.msg, "cannot listen"));
  weir_metrics_destroy(other);
  place_close(&p);
}

/* A port that nobody has at this moment; 0: there is no such address here. */
static int free_port(int family) {
  struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
  struct sockaddr *a = family == AF_INET ? (struct sockaddr *)&v4 : (struct sockaddr *)&v6;
  socklen_t n = family == AF_INET ? sizeof v4 : sizeof v6;
  const int fd = socket(family, SOCK_STREAM, 0);
  int port = 0;
  if (fd >= 0 && bind(fd, a, n) == 0 && getsockname(fd, a, &n) == 0)
    port = ntohs(family == AF_INET ? v4.sin_port : v6.sin6_port);
  if (fd >= 0) close(fd);
  return port;
}

/* What the check lets pass can be listened at, and is answered there. */
static void test_listens(void **state) {
  (void)state;
  static const struct {
    int family;
    const char *at, *to; /* the server's address, the client's */
  } cases[] = {
      {AF_INET, "127.0.0.1", "127.0.0.1"},
      {AF_INET, "localhost", "127.0.0.1"},
      {AF_INET, "lo", "127.0.0.1"},
      {AF_INET6, "[::1]", "[::1]"},
  };
  static place p;
  place_open(&p, NULL, 0);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char at[64], to[64];
    const int port = free_port(cases[i].family), off = 0;
    weir_metrics *metrics;
    weir_rpc *rpc = NULL;
    weir_err e = {0};
    weir_buf b = {0};
    weir_frame_msg m;
    if (port == 0) continue; /* a machine without IPv6 */
    snprintf(at, sizeof at, "tcp://%s:%d", cases[i].at, port);
    snprintf(to, sizeof to, "tcp://%s:%d", cases[i].to, port);
    const char *url = at;
    assert_int_equal(weir_metrics_create(&metrics, &e), WEIR_OK);
    const weir_rpc_cfg cfg = {
        .url = &url,
        .n_urls = 1,
        .core = {.service = p.served.service, .metrics = metrics, .clock = p.served.cfg.engine.clock}};
    if (weir_rpc_create(&cfg, &rpc, &e) != WEIR_OK) fail_msg("%s", e.msg);
    lane a = {.socket = nn_socket(AF_SP_RAW, NN_REQ)};
    size_t n = sizeof a.fd;
    if (cases[i].family == AF_INET6)
      assert_int_equal(nn_setsockopt(a.socket, NN_SOL_SOCKET, NN_IPV4ONLY, &off, sizeof off), 0);
    assert_int_equal(nn_getsockopt(a.socket, NN_SOL_SOCKET, NN_RCVFD, &a.fd, &n), 0);
    assert_true(nn_connect(a.socket, to) >= 0);
    const uint8_t health[] = {'W', 'E', 'I', 'R', 1, WEIR_FRAME_HEALTH, 0, 0};
    assert_int_equal(weir_buf_put(&b, health, sizeof health, NULL), WEIR_OK);
    lane_call(&a, 1, &b, &m);
    assert_true(m.as.health_reply->live);
    weir_frame_msg_fini(&m);
    lane_close(&a);
    weir_rpc_destroy(rpc);
    weir_metrics_destroy(metrics);
  }
  /* the name of a host is none of these, and the user is told so */
  weir_metrics *metrics;
  weir_rpc *rpc = NULL;
  weir_err e = {0};
  const char *url = "tcp://no-such-host:5600";
  assert_int_equal(weir_metrics_create(&metrics, &e), WEIR_OK);
  const weir_rpc_cfg cfg = {.url = &url,
                            .n_urls = 1,
                            .core = {.service = p.served.service,
                                     .metrics = metrics,
                                     .token = "secret",
                                     .clock = p.served.cfg.engine.clock}};
  assert_int_equal(weir_rpc_create(&cfg, &rpc, &e), WEIR_EIO);
  assert_non_null(strstr(e.msg, "no-such-host"));
  assert_non_null(strstr(e.msg, "want an address"));
  weir_metrics_destroy(metrics);
  place_close(&p);
}

static void *destroy(void *rpc) {
  weir_rpc_destroy(rpc);
  return NULL;
}

/* Polls that are parked when the server goes are answered, and its requests are cancelled. */
static void test_goodbye(void **state) {
  (void)state;
  static place p;
  weir_buf b = {0};
  weir_frame_msg m;
  rig_stream x;
  const rig_stream *at = &x;
  place_open(&p, NULL, 0);
  lane a = lane_open(p.url);
  served_hold(&p.served, 0);
  lane_submit(&a, 1, &(rig_submit){.session = 1, .request = 1, .n_ids = 8, .max_tokens = 300}, &x);
  served_await_held(&p.served);
  rig_put_poll(&b, 1, &at, 1, 10000, 0, NULL);
  lane_call(&a, 2, &b, &m);
  weir_frame_msg_fini(&m);
  rig_put_poll(&b, 1, &at, 1, 10000, 0, NULL);
  lane_send(&a, 3, &b);
  assert_int_equal(lane_recv(&a, 50, &m), -1);
  /* at the same time: nanomsg's client forgets what it has received when the connection goes */
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, destroy, p.rpc), 0);
  const int64_t got = lane_recv(&a, 5000, &m);
  pthread_join(thread, NULL);
  p.rpc = NULL;
  assert_int_equal(got, 3);
  assert_int_equal(m.as.poll_reply->n_update, 0);
  weir_frame_msg_fini(&m);
  lane_close(&a);
  place_close(&p);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_many_sessions), cmocka_unit_test(test_replaced),
      cmocka_unit_test(test_burst),         cmocka_unit_test(test_distance),
      cmocka_unit_test(test_slow_reader),   cmocka_unit_test(test_too_large),
      cmocka_unit_test(test_where),         cmocka_unit_test(test_listens),
      cmocka_unit_test(test_goodbye),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
