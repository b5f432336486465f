/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE /* pipe2 */
/* Crews of several processes: killed, stopped, started again, two of one node; and what strangers send to the
 * leader's port. This program is the other processes too: "--node NODE ADDRESS" echoes until its input ends.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "comm/crew_wire.h"
#include "crew_box.h"

/* Slack: this machine may be busy. */
static const int64_t bound_ns = 1000000000, slack_ns = 2000000000;

static weir_crew_opts opts(const char *addr, int32_t node) {
  return (weir_crew_opts){
      .addr = addr, .node = node, .n_nodes = 2, .token = "secret", .version = "1.0", .bound_ns = bound_ns};
}

/* ---- the other process ---- */

typedef struct child {
  pid_t pid;
  int in, out; /* its input, what it tells */
} child;

static child start(int32_t node, const char *addr) {
  int to[2], from[2];
  char number[16];
  snprintf(number, sizeof number, "%d", node);
  assert_int_equal(pipe2(to, O_CLOEXEC), 0);
  assert_int_equal(pipe2(from, O_CLOEXEC), 0);
  char *argv[] = {"test_crew_process", "--node", number, (char *)addr, NULL};
  const pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    dup2(to[0], STDIN_FILENO);
    dup2(from[1], STDOUT_FILENO);
    execv("/proc/self/exe", argv);
    _exit(127);
  }
  close(to[0]);
  close(from[1]);
  return (child){pid, to[1], from[0]};
}

static char told(const child *k) {
  struct pollfd p = {.fd = k->out, .events = POLLIN};
  char c = 0;
  if (poll(&p, 1, BOX_PATIENCE_MS) != 1 || read(k->out, &c, 1) != 1) return 0;
  return c;
}

static void end(child *k, bool kill_it) {
  int status;
  if (kill_it) kill(k->pid, SIGKILL);
  close(k->in);
  assert_int_equal(waitpid(k->pid, &status, 0), k->pid);
  if (!kill_it) assert_int_equal(status, 0);
  close(k->out);
}

static void open_box(crew_box *b, weir_crew_opts o) {
  weir_err e = {0};
  if (box_open(b, o, &e) != WEIR_OK) fail_msg("%s", e.msg);
}

static void talk(crew_box *b, int32_t node) {
  const int had = box_read(b, &b->got[node]);
  weir_err e = {0};
  if (weir_crew_send(b->crew, node, "hello", 5, &e) != WEIR_OK) fail_msg("%s", e.msg);
  assert_true(box_wait(b, &b->got[node], had + 1));
}

static const char silence[] = "nothing was heard of it for ";

static void check_lost(crew_box *b, int32_t node, int64_t from_ns, const char *why) {
  assert_true(box_wait(b, &b->lost[node], 1));
  const int64_t took = b->lost_ns[node] - from_ns;
  if (took > bound_ns + slack_ns) fail_msg("noticed after %.2f s", (double)took / 1e9);
  if (!strstr(b->why[node], why)) fail_msg("%s", b->why[node]);
}

/* ---- death and return ---- */

static void other_dies(int32_t node) {
  char addr[64];
  crew_box b = {0};
  const int32_t other = 1 - node;
  box_address(addr);
  child a = start(other, addr);
  open_box(&b, opts(addr, node));
  assert_true(box_wait(&b, &b.joined[other], 1));
  talk(&b, other);
  const int64_t from = box_now_ns();
  end(&a, true);
  child again = start(other, addr); /* at once: the first may be here still, as far as is known */
  check_lost(&b, other, from, node == 0 ? "its connection has broken" : "it was started again");
  assert_true(box_wait(&b, &b.joined[other], 2));
  talk(&b, other);
  assert_int_equal(told(&again), 'J');
  end(&again, false);
  assert_true(box_wait(&b, &b.lost[other], 2));
  assert_string_equal(b.why[other], "it said goodbye");
  box_close(&b);
}

static void test_worker_dies(void **state) {
  (void)state;
  other_dies(0);
}

static void test_leader_dies(void **state) {
  (void)state;
  other_dies(1);
}

static void other_stops(int32_t node) {
  char addr[64];
  crew_box b = {0};
  const int32_t other = 1 - node;
  box_address(addr);
  child a = start(other, addr);
  open_box(&b, opts(addr, node));
  assert_true(box_wait(&b, &b.joined[other], 1));
  assert_int_equal(told(&a), 'J');
  talk(&b, other);
  const int64_t from = box_now_ns();
  kill(a.pid, SIGSTOP);
  check_lost(&b, other, from, silence);
  assert_int_equal(weir_crew_send(b.crew, other, "x", 1, NULL), WEIR_EDEVICE);
  kill(a.pid, SIGCONT);
  assert_true(box_wait(&b, &b.joined[other], 2));
  /* it is told as well that there was a gap */
  assert_int_equal(told(&a), 'L');
  assert_int_equal(told(&a), 'J');
  talk(&b, other);
  kill(a.pid, SIGSTOP); /* and to close does not wait for it */
  const int64_t closing = box_now_ns();
  box_close(&b);
  assert_true(box_now_ns() - closing < 500000000 + slack_ns);
  end(&a, true);
}

static void test_worker_stops(void **state) {
  (void)state;
  other_stops(0);
}

static void test_leader_stops(void **state) {
  (void)state;
  other_stops(1);
}

/* Its connection breaks off, and nobody comes back: known before the bound. */
static void dies_for_good(int32_t node) {
  char addr[64];
  crew_box b = {0};
  weir_crew_opts o;
  const int32_t other = 1 - node;
  box_address(addr);
  child a = start(other, addr);
  o = opts(addr, node);
  o.bound_ns = 4 * bound_ns;
  open_box(&b, o);
  assert_true(box_wait(&b, &b.joined[other], 1));
  const int64_t from = box_now_ns();
  end(&a, true);
  assert_true(box_wait(&b, &b.lost[other], 1));
  assert_string_equal(b.why[other], "its connection has broken");
  const int64_t took = b.lost_ns[other] - from;
  if (took > 3 * bound_ns) fail_msg("noticed after %.2f s", (double)took / 1e9);
  box_close(&b);
}

static void test_dies_for_good(void **state) {
  (void)state;
  dies_for_good(0);
  dies_for_good(1);
}

/* A second process of a node takes the place of one that is silent; that one may not come back. */
static void test_second_worker(void **state) {
  char addr[64], first[WEIR_CREW_WHO_BYTES], second[WEIR_CREW_WHO_BYTES];
  crew_box b = {0};
  (void)state;
  box_address(addr);
  open_box(&b, opts(addr, 0));
  child a = start(1, addr);
  assert_true(box_wait(&b, &b.joined[1], 1));
  assert_int_equal(told(&a), 'J');
  weir_crew_who(b.crew, 1, first, sizeof first);
  kill(a.pid, SIGSTOP);
  const int64_t from = box_now_ns();
  child c = start(1, addr);
  check_lost(&b, 1, from, silence);
  assert_true(box_wait(&b, &b.joined[1], 2));
  assert_int_equal(told(&c), 'J');
  weir_crew_who(b.crew, 1, second, sizeof second);
  assert_string_not_equal(first, second);
  kill(a.pid, SIGCONT);
  assert_int_equal(told(&a), 'L');
  assert_int_equal(told(&a), 'R');
  talk(&b, 1);
  assert_int_equal(box_read(&b, &b.lost[1]), 1);
  end(&a, false);
  end(&c, false);
  box_close(&b);
}

/* ---- strangers ---- */

static int dial(const char *addr) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  a.sin_port = htons((uint16_t)atoi(strchr(addr, ':') + 1));
  const int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_true(s >= 0);
  assert_int_equal(connect(s, (struct sockaddr *)&a, sizeof a), 0);
  return s;
}

/* Somebody looks whether the port is open. That connection breaks, and says nothing about a worker that is
 * held up: it has the whole bound. */
static void test_probe(void **state) {
  char addr[64];
  crew_box b = {0};
  (void)state;
  box_address(addr);
  open_box(&b, opts(addr, 0));
  child a = start(1, addr);
  assert_true(box_wait(&b, &b.joined[1], 1));
  talk(&b, 1);
  const int64_t from = box_now_ns();
  kill(a.pid, SIGSTOP);
  close(dial(addr));
  check_lost(&b, 1, from, silence);
  kill(a.pid, SIGCONT);
  assert_true(box_wait(&b, &b.joined[1], 2));
  end(&a, false);
  box_close(&b);
}

static void put(int s, const void *data, size_t n) {
  const ssize_t sent = send(s, data, n, MSG_NOSIGNAL); /* the leader may have hung up: its right */
  (void)sent;
}

/* The bytes by which two sockets of nanomsg greet: REQ. */
static const uint8_t greeting[8] = {0, 'S', 'P', 0, 0, 48, 0, 0};

static void put_sp(int s, uint32_t id, const void *body, size_t n) {
  uint8_t head[12] = {0};
  const uint64_t size = n + 4;
  for (int i = 0; i < 8; i++) head[i] = (uint8_t)(size >> (56 - 8 * i));
  for (int i = 0; i < 4; i++) head[8 + i] = (uint8_t)(id >> (24 - 8 * i));
  put(s, head, sizeof head);
  put(s, body, n);
}

static bool comes(int s, int ms) {
  struct pollfd p = {.fd = s, .events = POLLIN};
  return poll(&p, 1, ms) == 1;
}

static uint32_t next(uint32_t *x) { /* xorshift */
  *x ^= *x << 13;
  *x ^= *x >> 17;
  *x ^= *x << 5;
  return *x;
}

static size_t hello_of(uint8_t *to, const char *token, int32_t node, uint64_t link) {
  crew_hello h = {.incarnation = 7, .bound_ns = bound_ns, .n_nodes = 2, .pid = 1, .host = "stranger\x1b[31m"};
  snprintf(h.token, sizeof h.token, "%s", token);
  snprintf(h.version, sizeof h.version, "1.0");
  const crew_frame f = {.kind = CREW_HELLO, .node = node, .link = link};
  crew_frame_head(&f, to);
  return CREW_HEAD_BYTES + crew_hello_put(&h, to + CREW_HEAD_BYTES);
}

static void raw_bytes(const char *addr, uint32_t *seed) {
  uint8_t data[4096];
  for (int i = 0; i < 20; i++) {
    const int s = dial(addr);
    for (size_t k = 0; k < sizeof data; k++) data[k] = (uint8_t)next(seed);
    if (i % 2) put(s, greeting, i % 3 ? 8 : 5);
    put(s, data, next(seed) % sizeof data);
    close(s);
  }
}

/* Reads answers until that to a request comes. */
static void read_until(int s, uint32_t id) {
  for (uint32_t got = ~id; got != id;) {
    uint8_t head[12], body[1024];
    assert_true(comes(s, BOX_PATIENCE_MS));
    assert_int_equal(recv(s, head, sizeof head, MSG_WAITALL), sizeof head);
    const size_t n = (size_t)(head[6] << 8 | head[7]) - 4;
    assert_true(n <= sizeof body);
    assert_int_equal(recv(s, body, n, MSG_WAITALL), n);
    got = (uint32_t)head[8] << 24 | (uint32_t)head[9] << 16 | (uint32_t)head[10] << 8 | head[11];
  }
}

static void frames(const char *addr, uint32_t *seed) {
  uint8_t good[CREW_HEAD_BYTES + CREW_HELLO_BYTES], data[sizeof good];
  const int s = dial(addr);
  uint8_t got[64];
  put(s, greeting, sizeof greeting);
  assert_true(comes(s, BOX_PATIENCE_MS));
  assert_int_equal(recv(s, got, 8, MSG_WAITALL), 8);
  for (uint32_t i = 0; i < 2000; i++) {
    /* a hello with another token, of which some bytes are others: never one that is welcome */
    const size_t n = hello_of(good, "secreT", (int32_t)(i % 3), next(seed));
    memcpy(data, good, n);
    for (uint32_t k = next(seed) % 4; k > 0; k--) data[next(seed) % CREW_HEAD_BYTES] = (uint8_t)next(seed);
    put_sp(s, 0x80000000u | i, data, i % 5 == 0 ? next(seed) % n : n);
    if (i % 50 != 49) continue;
    put_sp(s, 0x80010000u | i, good, n);
    read_until(s, 0x80010000u | i);
  }
  close(s);
}

/* Nothing comes to what is no frame; to one of another wire version a refusal, with the reason. */
static void answers(const char *addr) {
  uint8_t data[CREW_HEAD_BYTES + CREW_HELLO_BYTES], got[600];
  const int s = dial(addr);
  put(s, greeting, sizeof greeting);
  assert_int_equal(recv(s, got, 8, MSG_WAITALL), 8);
  const size_t n = hello_of(data, "secret", 1, 99);
  put_sp(s, 0x80000001u, data, 3);
  data[0] = 'X';
  put_sp(s, 0x80000002u, data, n);
  data[0] = 'W';
  data[4]++;
  put_sp(s, 0x80000003u, data, n);
  assert_true(comes(s, BOX_PATIENCE_MS));
  const ssize_t len = recv(s, got, sizeof got - 1, 0);
  assert_true(len > 12 + CREW_HEAD_BYTES);
  got[len] = 0;
  assert_int_equal(got[11], 3);
  assert_int_equal(got[12 + 5], CREW_REFUSED);
  assert_non_null(strstr((char *)got + 12 + CREW_HEAD_BYTES, "version 1 of the crew's wire"));
  close(s);
}

static void test_strangers(void **state) {
  char addr[64];
  crew_box b[2] = {{0}, {.echo = true}};
  uint32_t seed = 2463534242u;
  (void)state;
  box_address(addr);
  for (int k = 0; k < 2; k++) {
    weir_crew_opts o = opts(addr, k);
    o.bound_ns = 20 * bound_ns;
    open_box(&b[k], o);
  }
  assert_true(box_wait(&b[0], &b[0].joined[1], 1));
  raw_bytes(addr, &seed);
  frames(addr, &seed);
  answers(addr);
  /* an announced message of 2^62 bytes */
  const uint8_t size[8] = {0x40};
  const int s = dial(addr);
  put(s, greeting, sizeof greeting);
  put(s, size, sizeof size);
  talk(&b[0], 1);
  close(s);
  assert_int_equal(b[0].joined[1], 1);
  assert_int_equal(b[0].lost[1], 0);
  assert_true(weir_crew_malformed(b[0].crew) >= 100);
  assert_int_equal(weir_crew_malformed(b[1].crew), 0);
  for (int k = 1; k >= 0; k--) box_close(&b[k]);
}

int main(int argc, char **argv) {
  if (argc == 4 && !strcmp(argv[1], "--node")) return box_be_node(opts(argv[3], atoi(argv[2])));
  signal(SIGPIPE, SIG_IGN);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_worker_dies),   cmocka_unit_test(test_leader_dies),
      cmocka_unit_test(test_worker_stops),  cmocka_unit_test(test_leader_stops),
      cmocka_unit_test(test_dies_for_good), cmocka_unit_test(test_second_worker),
      cmocka_unit_test(test_strangers),     cmocka_unit_test(test_probe),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
