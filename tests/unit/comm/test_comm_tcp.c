/* SPDX-License-Identifier: Apache-2.0 */
/* The communicator over TCP: all that communicators promise, with threads; strangers at its doors, a process
 * that is killed in the middle, and texts from outside. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "comm_procs.h"

static const int64_t second = INT64_C(1000000000);

enum { MOST = 2500003 }; /* three blocks */

static const comm_conf tcp = {.kind = WEIR_COMM_TCP, .in_order = true, .compares = true, .most = MOST};
static const comm_conf tcp_small = {
    .kind = WEIR_COMM_TCP, .in_order = true, .compares = true, .most = 140000};
static const comm_conf tcp_six = {
    .kind = WEIR_COMM_TCP, .in_order = true, .compares = true, .most = 1000, .host = "::1"};

static void test_threads(void **state) {
  const int32_t n = *(const int32_t *)*state;
  const conf_traces before = conf_traces_now();
  const comm_conf *c = n > 3 ? &tcp_small : &tcp;
  if (n <= 3) {
    conf_check_all(c, n);
  } else { /* but for what has a bound that connecting so many may take on a loaded machine */
    if (n <= 4) conf_check_sums(c, n);
    conf_check_copies(c, n);
    conf_check_mixed(c, n);
    conf_check_mismatch(c, n);
    conf_check_abort(c, n);
    conf_check_left(c, n);
  }
  conf_check_traces(before);
}

static bool has_ipv6(void) {
  struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
  const int s = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const bool can = s >= 0 && bind(s, (struct sockaddr *)&a, sizeof a) == 0;
  if (s >= 0) close(s);
  return can;
}

static void test_ipv6(void **state) {
  (void)state;
  if (!has_ipv6()) skip();
  conf_check_copies(&tcp_six, 3);
  conf_check_late(&tcp_six, 2);
}

/* ---- seats ---- */

typedef struct seat {
  weir_comm_seat *seat;
  const char *invite;
  int32_t rank;
  weir_comm *comm;
  weir_status st;
  weir_err e;
  pthread_t id;
} seat;

static void open_seats(seat *s, int32_t n, int64_t bound_ns, char *invite) {
  const char *offer[WEIR_MAX_RANKS];
  weir_err e = {0};
  for (int32_t r = 0; r < n; r++) {
    const weir_comm_seat_opts o = {.bound_ns = bound_ns};
    s[r] = (seat){.rank = r, .invite = invite};
    if (weir_comm_seat_open(WEIR_COMM_TCP, &o, &s[r].seat, &e) != WEIR_OK) fail_msg("%s", e.msg);
    offer[r] = weir_comm_seat_offer(s[r].seat);
  }
  if (weir_comm_invite(WEIR_COMM_TCP, n, offer, invite, &e) != WEIR_OK) fail_msg("%s", e.msg);
}

static void *join_main(void *arg) {
  seat *s = arg;
  s->st = weir_comm_join(s->seat, s->invite, s->rank, &s->comm, &s->e);
  s->seat = NULL;
  return NULL;
}

static void join_all(seat *s, int32_t n) {
  for (int32_t r = 0; r < n; r++) assert_int_equal(pthread_create(&s[r].id, NULL, join_main, &s[r]), 0);
  for (int32_t r = 0; r < n; r++) pthread_join(s[r].id, NULL);
}

/* ---- strangers ---- */

static uint16_t port_of(const char *offer) {
  const char *at = strstr(offer, "127.0.0.1 ");
  assert_non_null(at);
  return (uint16_t)atoi(at + strlen("127.0.0.1 "));
}

static int dial(uint16_t port) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  a.sin_port = htons(port);
  const int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_true(s >= 0);
  assert_int_equal(connect(s, (struct sockaddr *)&a, sizeof a), 0);
  return s;
}

/* A hello in everything but the secret: magic, which, from, to, of how many. */
static void wrong_hello(uint8_t out[32], uint8_t kind, uint8_t from, uint8_t to, uint8_t n) {
  memset(out, 0x5a, 32);
  memset(out, 0, 16);
  memcpy(out, "WTJ1", 4);
  out[4] = kind;
  out[8] = from;
  out[10] = to;
  out[12] = n;
}

static void test_strangers(void **state) {
  enum { N = 3, CROWD = 220 };
  static seat s[N];
  static char invite[WEIR_COMM_INVITE_BYTES];
  static int crowd[CROWD];
  uint8_t bytes[64];
  (void)state;
  const conf_traces before = conf_traces_now();
  open_seats(s, N, 20 * second, invite);
  /* the last rank is connected to by all others: everybody who comes is there before them */
  const uint16_t port = port_of(weir_comm_seat_offer(s[N - 1].seat));
  for (int i = 0; i < CROWD; i++) {
    crowd[i] = dial(port);
    wrong_hello(bytes, (uint8_t)(i % 3), (uint8_t)(i % 2), N - 1, N);
    if (i % 4 == 1) memset(bytes, i, sizeof bytes);
    if (i % 4 != 3) send(crowd[i], bytes, i % 4 == 2 ? 31 : i % 4 == 1 ? 64 : 32, MSG_NOSIGNAL);
  }
  join_all(s, N);
  for (int32_t r = 0; r < N; r++)
    if (s[r].st != WEIR_OK) fail_msg("rank %d: %s", (int)r, s[r].e.msg);
  for (int i = 0; i < CROWD; i++) {
    char c;
    assert_true(recv(crowd[i], &c, 1, 0) <= 0); /* hung up on, without a word */
    close(crowd[i]);
  }
  for (int32_t r = 0; r < N; r++) weir_comm_destroy(s[r].comm);
  conf_check_traces(before);
}

/* Somebody else listens where a rank was: it does not know this rank's secret. */
static void test_somebody_else(void **state) {
  static seat s[2];
  static char invite[WEIR_COMM_INVITE_BYTES];
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  const int on = 1;
  (void)state;
  open_seats(s, 2, 20 * second, invite);
  a.sin_port = htons(port_of(weir_comm_seat_offer(s[1].seat)));
  weir_comm_seat_close(s[1].seat);
  const int door = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  setsockopt(door, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  assert_int_equal(bind(door, (struct sockaddr *)&a, sizeof a), 0);
  assert_int_equal(listen(door, 4), 0);
  assert_int_equal(pthread_create(&s[0].id, NULL, join_main, &s[0]), 0);
  const int k = accept(door, NULL, NULL);
  uint8_t hello[32], reply[24] = {'W', 'T', 'J', '2'};
  assert_int_equal(recv(k, hello, sizeof hello, MSG_WAITALL), sizeof hello);
  reply[4] = hello[4];
  memcpy(reply + 8, hello + 16, 16); /* what it was told, it can tell */
  send(k, reply, sizeof reply, MSG_NOSIGNAL);
  pthread_join(s[0].id, NULL);
  assert_int_equal(s[0].st, WEIR_EDEVICE);
  if (!strstr(s[0].e.msg, "rank 1 (127.0.0.1:") || !strstr(s[0].e.msg, "is somebody else"))
    fail_msg("%s", s[0].e.msg);
  close(k);
  close(door);
}

/* A rank that may open no more files says so, at once, and does not blame others. */
static void test_no_files(void **state) {
  enum { FILES = 300 };
  static seat s[2];
  static char invite[WEIR_COMM_INVITE_BYTES];
  static int filler[FILES];
  struct rlimit had;
  int n = 0;
  (void)state;
  open_seats(s, 2, 20 * second, invite);
  const int k = dial(port_of(weir_comm_seat_offer(s[1].seat)));
  assert_int_equal(getrlimit(RLIMIT_NOFILE, &had), 0);
  const struct rlimit few = {.rlim_cur = FILES, .rlim_max = had.rlim_max};
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
  while ((filler[n] = fcntl(k, F_DUPFD_CLOEXEC, 0)) >= 0) n++;
  assert_true(n > 2);
  for (int i = 0; i < 2; i++) close(filler[--n]); /* what a group opens before it lets anybody in */
  const int64_t from = conf_now_ns();
  join_main(&s[1]);
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &had), 0);
  while (n > 0) close(filler[--n]);
  assert_int_equal(s[1].st, WEIR_EDEVICE);
  if (!strstr(s[1].e.msg, "rank 1 cannot take a connection: ")) fail_msg("%s", s[1].e.msg);
  assert_true(conf_now_ns() - from < 10 * second);
  close(k);
  weir_comm_seat_close(s[0].seat);
}

/* ---- a rank that is cut off in the middle ---- */

typedef struct cut {
  pthread_barrier_t all;
  int step;
} cut;

/* All descriptors of sockets that are connected to somebody and were opened by this process after `from`. */
static void cut_sockets(int from, int to) {
  for (int fd = from; fd < to; fd++) shutdown(fd, SHUT_RDWR);
}

static void run_cut(conf_rank *r) {
  weir_err e = {0};
  float x[1000] = {0};
  for (int i = 0; i < 50; i++)
    if (weir_comm_all_reduce(r->comm, x, 1000, &e) != WEIR_OK) conf_fault(r, "before: %s", e.msg);
  cut *c = r->ctx;
  pthread_barrier_wait(&c->all);
  if (r->rank == 1) cut_sockets(3, 200);
  pthread_barrier_wait(&c->all);
  const int64_t from = conf_now_ns();
  if (weir_comm_all_reduce(r->comm, x, 1000, &e) != WEIR_EDEVICE) conf_fault(r, "summed without a wire");
  if (!strstr(e.msg, "has closed the connection") || !strstr(e.msg, "(127.0.0.1:"))
    conf_fault(r, "%s", e.msg);
  if (conf_now_ns() - from > 5 * second) conf_fault(r, "it took too long");
  weir_err again = {0};
  if (weir_comm_broadcast(r->comm, x, 4, 0, &again) != WEIR_EDEVICE || strcmp(e.msg, again.msg) != 0)
    conf_fault(r, "another reason: %s", again.msg);
}

static void test_cut(void **state) {
  cut c = {.step = 0};
  (void)state;
  pthread_barrier_init(&c.all, NULL, 2);
  conf_ranks(&tcp, 2, 60 * second, run_cut, &c);
  pthread_barrier_destroy(&c.all);
}

/* ---- processes ---- */

static void test_processes(void **state) {
  (void)state;
  const conf_traces before = conf_traces_now();
  procs_check_ops(&tcp_small, 3);
  procs_check_killed(&tcp_small, 3, 20 * second);
  procs_check_stopped(&tcp_small, 3);
  procs_check_all_stopped(&tcp_small, 3);
  procs_check_stopped_abort(&tcp_small, 3);
  procs_check_killed_joining(&tcp_small, 3);
  conf_check_traces(before);
}

/* ---- texts ---- */

static void test_texts(void **state) {
  static seat s[2];
  static char invite[WEIR_COMM_INVITE_BYTES];
  static const char good[] = "weir-comm 1 tcp 1 127.0.0.1 7000 00112233445566778899aabbccddeeff";
  static const struct {
    const char *offer, *why;
  } row[] = {
      {"weir-comm 1 tcp 1 ", "want an address"},
      {"weir-comm 1 tcp 1 127.0.0.1", "want an address"},
      {"weir-comm 1 tcp 1 127.0.0.1 ", "want an address"},
      {"weir-comm 1 tcp 1 127.0.0.1 0 00112233445566778899aabbccddeeff", "want an address"},
      {"weir-comm 1 tcp 1 127.0.0.1 65536 00112233445566778899aabbccddeeff", "want an address"},
      {"weir-comm 1 tcp 1 127.0.0.1 700000 00112233445566778899aabbccddeeff", "want an address"},
      {"weir-comm 1 tcp 1 some.host 7000 00112233445566778899aabbccddeeff", "want an address"},
      {"weir-comm 1 tcp 1 127.0.0.1 7000 00112233445566778899aabbccddeef", "want an address"},
      {"weir-comm 1 tcp 1 127.0.0.1 7000 00112233445566778899aabbccddeefg", "want an address"},
      {"weir-comm 1 tcp 1 127.0.0.1 7000 00112233445566778899aabbccddeeffff", "goes on after its end"},
      {"weir-comm 1 tcp 1 127.0.0.1 7000 00112233445566778899aabbccddeeff", "the offer of rank 0 too"},
  };
  weir_err e = {0};
  (void)state;
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    const char *offer[] = {good, row[i].offer};
    assert_true(weir_comm_invite(WEIR_COMM_TCP, 2, offer, invite, &e) != WEIR_OK);
    if (!strstr(e.msg, row[i].why) || !strstr(e.msg, "rank 1")) fail_msg("row %zu: %s", i, e.msg);
  }
  /* an invitation that lacks a place, and another seat's */
  for (int i = 0; i < 2; i++) {
    open_seats(s, 2, second, invite);
    if (i == 0) strchr(invite, ';')[0] = 0;
    weir_comm *c = NULL;
    assert_int_equal(weir_comm_join(s[0].seat, invite, i, &c, &e), i == 0 ? WEIR_EFORMAT : WEIR_EINVAL);
    assert_non_null(strstr(e.msg, i == 0 ? "has not as many places" : "has another place for this rank"));
    assert_null(c);
    weir_comm_seat_close(s[1].seat);
  }
  static const struct {
    const char *host, *why;
  } door[] = {
      {"0.0.0.0", "the address under which the others reach"},
      {"::", "the address under which the others reach"},
      {"192.0.2.1", "want a name or an address of this machine"},
      {"no such host", ""},
  };
  for (size_t i = 0; i < sizeof door / sizeof *door; i++) {
    const weir_comm_seat_opts o = {.host = door[i].host};
    weir_comm_seat *none = NULL;
    assert_true(weir_comm_seat_open(WEIR_COMM_TCP, &o, &none, &e) != WEIR_OK);
    if (!strstr(e.msg, door[i].why)) fail_msg("%s: %s", door[i].host, e.msg);
    assert_null(none);
  }
}

int main(int argc, char **argv) {
  int status;
  if (procs_is_rank(argc, argv, &status)) return status;
  static int32_t two = 2, three = 3, four = 4, eight = 8;
  signal(SIGPIPE, SIG_DFL); /* nothing may raise it */
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_texts),
      cmocka_unit_test(test_cut), /* the first threads: what a sanitizer starts beside them stays */
      cmocka_unit_test(test_strangers),
      cmocka_unit_test(test_somebody_else),
      cmocka_unit_test(test_no_files),
      cmocka_unit_test(test_ipv6),
      cmocka_unit_test(test_processes),
      {"two ranks", test_threads, NULL, NULL, &two},
      {"three ranks", test_threads, NULL, NULL, &three},
      {"four ranks", test_threads, NULL, NULL, &four},
      {"eight ranks", test_threads, NULL, NULL, &eight},
  };
  return cmocka_run_group_tests_name("comm_tcp", tests, NULL, NULL);
}
