/* SPDX-License-Identifier: Apache-2.0 */
/* How ranks meet: texts from outside are checked, devices are the right ones, what a build lacks is said, and
 * nothing is left of what failed. The communicator of one rank with it. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "comm/meet_in.h"
#include "comm_conf.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

static const int64_t bound = INT64_C(300000000);

static void want(weir_status got, weir_status st, const weir_err *e, const char *text) {
  if (got != st || (st != WEIR_OK && !strstr(e->msg, text)))
    fail_msg("want %s with \"%s\", got %s: %s", weir_status_name(st), text, weir_status_name(got), e->msg);
}

static void test_names(void **state) {
  (void)state;
  weir_comm_kind k;
  for (int i = 0; i < WEIR_N_COMMS; i++) {
    assert_true(weir_comm_kind_parse(weir_comm_kind_name((weir_comm_kind)i), &k));
    assert_int_equal(k, i);
  }
  assert_false(weir_comm_kind_parse("", &k));
  assert_false(weir_comm_kind_parse("SHM", &k));
  assert_false(weir_comm_kind_parse("shm ", &k));
  assert_string_equal(weir_comm_kind_name((weir_comm_kind)99), "unknown");
}

/* A kind either works or says what it lacks; the three for CPUs always work. */
static void test_kinds(void **state) {
  (void)state;
  for (int i = 0; i < WEIR_N_COMMS; i++) {
    weir_err e = {0};
    const weir_status st = weir_comm_kind_check((weir_comm_kind)i, &e);
    if (i == WEIR_COMM_SELF || i == WEIR_COMM_SHM)
      want(st, WEIR_OK, &e, "");
    else if (st != WEIR_OK)
      want(st, WEIR_EUNSUP, &e, weir_comm_kind_name((weir_comm_kind)i));
  }
  weir_err e = {0};
  want(weir_comm_kind_check((weir_comm_kind)WEIR_N_COMMS, &e), WEIR_EINVAL, &e, "there is none");
  want(weir_comm_kind_check((weir_comm_kind)-1, &e), WEIR_EINVAL, &e, "there is none");
}

static weir_status seat(weir_comm_kind k, weir_dev *dev, const char *host, int64_t bound_ns, weir_err *e) {
  weir_comm_seat *s = NULL;
  const weir_comm_seat_opts o = {.dev = dev, .host = host, .bound_ns = bound_ns};
  const weir_status st = weir_comm_seat_open(k, &o, &s, e);
  if (st != WEIR_OK) assert_null(s);
  weir_comm_seat_close(s);
  return st;
}

static void test_seats(void **state) {
  (void)state;
  static const weir_dev_ops cpu_ops = {.name = "cpu"}, cuda_ops = {.name = "cuda"};
  weir_dev cpu = {.ops = &cpu_ops}, cuda = {.ops = &cuda_ops};
  char long_host[400];
  weir_err e = {0};
  const conf_traces before = conf_traces_now();
  memset(long_host, 'h', sizeof long_host - 1);
  long_host[sizeof long_host - 1] = 0;
  want(seat(WEIR_COMM_SHM, NULL, NULL, 0, &e), WEIR_OK, &e, "");
  want(seat(WEIR_COMM_SHM, &cpu, "", bound, &e), WEIR_OK, &e, "");
  want(seat(WEIR_COMM_SELF, &cuda, NULL, bound, &e), WEIR_OK, &e, "");
  want(seat(WEIR_COMM_SHM, &cuda, NULL, bound, &e), WEIR_EINVAL, &e, "cpu devices, this one is cuda");
  want(seat(WEIR_COMM_SHM, NULL, long_host, bound, &e), WEIR_EINVAL, &e, "host");
  want(seat(WEIR_COMM_SHM, NULL, "a\nb", bound, &e), WEIR_EINVAL, &e, "host");
  want(seat(WEIR_COMM_SHM, NULL, NULL, -1, &e), WEIR_EINVAL, &e, "bound");
  want(seat((weir_comm_kind)77, NULL, NULL, bound, &e), WEIR_EINVAL, &e, "there is none");
  for (int k = WEIR_COMM_NCCL; k <= WEIR_COMM_LOCAL; k++) { /* built or not: no GPU, no seat */
    assert_int_not_equal(seat((weir_comm_kind)k, &cpu, NULL, bound, &e), WEIR_OK);
    assert_non_null(strstr(e.msg, weir_comm_kind_name((weir_comm_kind)k)));
    assert_int_not_equal(seat((weir_comm_kind)k, NULL, NULL, bound, &e), WEIR_OK);
  }
  weir_comm_seat_close(NULL);
  conf_check_traces(before);
}

/* ---- texts ---- */

static weir_comm_seat *sit(weir_comm_kind k) {
  weir_comm_seat *s = NULL;
  weir_err e = {0};
  const weir_comm_seat_opts o = {.bound_ns = bound};
  want(weir_comm_seat_open(k, &o, &s, &e), WEIR_OK, &e, "");
  assert_true(strlen(weir_comm_seat_offer(s)) < WEIR_COMM_OFFER_BYTES);
  return s;
}

static void test_offers(void **state) {
  (void)state;
  static char out[WEIR_COMM_INVITE_BYTES];
  weir_comm_seat *a = sit(WEIR_COMM_SHM), *b = sit(WEIR_COMM_SHM), *self = sit(WEIR_COMM_SELF);
  const char *good = weir_comm_seat_offer(a), *other = weir_comm_seat_offer(b);
  char far[WEIR_COMM_OFFER_BYTES], endless[WEIR_COMM_OFFER_BYTES + 10];
  weir_err e = {0};
  snprintf(far, sizeof far, "%s", other);
  far[strlen(far) - 1] ^= 1; /* the last digit of the process space's number: another container */
  memset(endless, 'x', sizeof endless - 1);
  memcpy(endless, "weir-comm 1 shm 1 ", 18);
  endless[sizeof endless - 1] = 0;
  const struct {
    const char *offer;
    weir_status st;
    const char *text;
  } row[] = {
      {other, WEIR_OK, ""},
      {NULL, WEIR_EFORMAT, "rank 1"},
      {"", WEIR_EFORMAT, "rank 1"},
      {"hello", WEIR_EFORMAT, "no offer"},
      {"weir-comm 2 shm 1 x", WEIR_EFORMAT, "this version"},
      {"weir-comm 1 shm", WEIR_EFORMAT, "shm"},
      {"weir-comm 1 shm 1", WEIR_EFORMAT, "ranks"},
      {"weir-comm 1 shm 0 x", WEIR_EFORMAT, "1 to 64"},
      {"weir-comm 1 shm 65 x", WEIR_EFORMAT, "1 to 64"},
      {"weir-comm 1 shm 11111111111111111111 x", WEIR_EFORMAT, "1 to 64"},
      {"weir-comm 1 shm -1 x", WEIR_EFORMAT, "1 to 64"},
      {"weir-comm 1 shm 1 ", WEIR_EFORMAT, "shared memory"},
      {"weir-comm 1 shm 1 x", WEIR_EFORMAT, "shared memory"},
      {"weir-comm 1 shm 1 -4 5 00112233445566778899aabbccddeeff a-b/1", WEIR_EFORMAT, "shared memory"},
      {"weir-comm 1 shm 1 4 5 00112233 a-b/1", WEIR_EFORMAT, "shared memory"},
      {"weir-comm 1 shm 1 99999999999999999999 5 00112233445566778899aabbccddeeff a/1", WEIR_EFORMAT, ""},
      {"weir-comm 1 shm 1 4 5 00112233445566778899aabbccddeeff a\x01", WEIR_EFORMAT, "no offer"},
      {weir_comm_seat_offer(self), WEIR_EFORMAT, "kind self, where shm is wanted"},
      {endless, WEIR_EFORMAT, "no offer"},
      {far, WEIR_EINVAL, "rank 1 is on another machine"},
  };
  for (size_t i = 0; i < COUNT(row); i++) {
    const char *offer[] = {good, row[i].offer};
    const weir_status st = weir_comm_invite(WEIR_COMM_SHM, 2, offer, out, &e);
    if (st != row[i].st || (st != WEIR_OK && !strstr(e.msg, row[i].text)))
      fail_msg("row %zu: want %d \"%s\", got %d: %s", i, row[i].st, row[i].text, st, e.msg);
    assert_true((st == WEIR_OK) == (out[0] != 0));
  }
  want(weir_comm_invite(WEIR_COMM_SHM, 0, &good, out, &e), WEIR_EINVAL, &e, "1 to 64");
  want(weir_comm_invite(WEIR_COMM_SHM, WEIR_MAX_RANKS + 1, &good, out, &e), WEIR_EINVAL, &e, "1 to 64");
  want(weir_comm_invite(WEIR_COMM_SHM, -3, &good, out, &e), WEIR_EINVAL, &e, "1 to 64");
  want(weir_comm_invite((weir_comm_kind)9, 1, &good, out, &e), WEIR_EINVAL, &e, "there is none");
  weir_comm_seat_close(a);
  weir_comm_seat_close(b);
  weir_comm_seat_close(self);
}

/* Invitations that no rank must follow. All of them end at once, and take their seat with them. */
static void test_invitations(void **state) {
  (void)state;
  static char invite[WEIR_COMM_INVITE_BYTES], big[WEIR_COMM_INVITE_BYTES + 100], gone[WEIR_COMM_INVITE_BYTES];
  weir_err e = {0};
  weir_comm *comm = NULL;
  const conf_traces before = conf_traces_now();
  weir_comm_seat *host = sit(WEIR_COMM_SHM), *left = sit(WEIR_COMM_SHM);
  const char *offer[2] = {weir_comm_seat_offer(host), weir_comm_seat_offer(host)};
  want(weir_comm_invite(WEIR_COMM_SHM, 2, offer, invite, &e), WEIR_OK, &e, "");
  offer[0] = weir_comm_seat_offer(left);
  want(weir_comm_invite(WEIR_COMM_SHM, 2, offer, gone, &e), WEIR_OK, &e, "");
  weir_comm_seat_close(left); /* its file is closed: rank 0 is not there any more */
  memset(big, 'x', sizeof big - 1);
  memcpy(big, invite, strlen(invite));
  const struct {
    const char *invite;
    int32_t rank;
    const char *text;
  } row[] = {
      {NULL, 0, "no invitation"},
      {"", 0, "no invitation"},
      {"weir-comm 1 tcp 2 x", 0, "kind tcp, where shm is wanted"},
      {"weir-comm 1 shm 2 nonsense", 0, "shared memory"},
      {big, 0, "no invitation"},
      {invite, -1, "2 ranks"},
      {invite, 2, "2 ranks"},
      {gone, 1, "rank 0"},
      {"weir-comm 1 shm 2 999999999 5 00112233445566778899aabbccddeeff a/1", 1, "rank 0"},
      /* a file of this process that is something else: never written to */
      {"weir-comm 1 shm 2 1 0 00112233445566778899aabbccddeeff a/1", 1, ""},
  };
  for (size_t i = 0; i < COUNT(row); i++) {
    const int64_t from = conf_now_ns();
    const weir_status st = weir_comm_join(sit(WEIR_COMM_SHM), row[i].invite, row[i].rank, &comm, &e);
    if (st == WEIR_OK || comm || !strstr(e.msg, row[i].text) || !strstr(e.msg, "communicator shm, rank"))
      fail_msg("row %zu: want \"%s\", got %d: %s", i, row[i].text, st, e.msg);
    assert_true(conf_now_ns() - from < INT64_C(5000000000));
  }
  weir_comm_seat_close(host);
  conf_check_traces(before);
}

/* The same file number, another file: the token tells, and of a socket that it cannot be opened. */
static void test_other_file(void **state) {
  (void)state;
  static char invite[WEIR_COMM_INVITE_BYTES];
  for (int is_socket = 0; is_socket < 2; is_socket++) {
    weir_err e = {0};
    weir_comm *comm = NULL;
    weir_comm_seat *first = sit(WEIR_COMM_SHM);
    const char *offer[2] = {weir_comm_seat_offer(first), weir_comm_seat_offer(first)};
    want(weir_comm_invite(WEIR_COMM_SHM, 2, offer, invite, &e), WEIR_OK, &e, "");
    weir_comm_seat_close(first);
    const int s = is_socket ? socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0) : -1;
    weir_comm_seat *second = sit(WEIR_COMM_SHM); /* one of them takes the number */
    want(weir_comm_join(second, invite, 1, &comm, &e), WEIR_EDEVICE, &e, "rank 0");
    if (s >= 0) close(s);
  }
}

/* A rank is taken once: of two that want to be rank 1 one is refused, and the group is none the worse. */
typedef struct guest {
  weir_comm_seat *seat;
  const char *invite;
  int32_t rank;
  weir_status joined, called;
  weir_err e;
  pthread_t id;
} guest;

static void *guest_main(void *arg) {
  guest *g = arg;
  weir_comm *comm = NULL;
  float x[5] = {1};
  g->joined = weir_comm_join(g->seat, g->invite, g->rank, &comm, &g->e);
  if (g->joined == WEIR_OK) g->called = weir_comm_all_reduce(comm, x, 5, &g->e);
  weir_comm_destroy(comm);
  return NULL;
}

static void test_taken(void **state) {
  (void)state;
  enum { GUESTS = 4 };
  static char invite[WEIR_COMM_INVITE_BYTES];
  static guest g[GUESTS];
  static const int32_t rank[GUESTS] = {0, 1, 1, 2};
  const char *offer[GUESTS];
  weir_err e = {0};
  int refused = 0;
  const conf_traces before = conf_traces_now();
  for (int i = 0; i < GUESTS; i++) {
    weir_comm_seat *s = NULL;
    const weir_comm_seat_opts o = {.bound_ns = INT64_C(60000000000)};
    want(weir_comm_seat_open(WEIR_COMM_SHM, &o, &s, &e), WEIR_OK, &e, "");
    g[i] = (guest){.seat = s, .invite = invite, .rank = rank[i]};
    offer[i] = weir_comm_seat_offer(s);
  }
  want(weir_comm_invite(WEIR_COMM_SHM, 3, offer, invite, &e), WEIR_OK, &e, "");
  for (int i = 0; i < GUESTS; i++) assert_int_equal(pthread_create(&g[i].id, NULL, guest_main, &g[i]), 0);
  for (int i = 0; i < GUESTS; i++) pthread_join(g[i].id, NULL);
  for (int i = 0; i < GUESTS; i++) {
    refused += g[i].joined != WEIR_OK;
    if (g[i].joined != WEIR_OK && rank[i] != 1) fail_msg("rank %d: %s", (int)rank[i], g[i].e.msg);
    if (g[i].joined == WEIR_OK && g[i].called != WEIR_OK) fail_msg("rank %d: %s", (int)rank[i], g[i].e.msg);
  }
  assert_int_equal(refused, 1);
  conf_check_traces(before);
}

/* ---- one rank ---- */

static void test_self(void **state) {
  (void)state;
  static char invite[WEIR_COMM_INVITE_BYTES];
  weir_err e = {0};
  weir_comm *c = NULL;
  float x[3] = {1, -0.0f, 3};
  char gathered[4] = "";
  weir_comm_seat *s = sit(WEIR_COMM_SELF);
  const char *offer[2] = {weir_comm_seat_offer(s), weir_comm_seat_offer(s)};
  want(weir_comm_invite(WEIR_COMM_SELF, 2, offer, invite, &e), WEIR_EINVAL, &e, "1 to 1");
  want(weir_comm_invite(WEIR_COMM_SELF, 1, offer, invite, &e), WEIR_OK, &e, "");
  want(weir_comm_join(s, invite, 0, &c, &e), WEIR_OK, &e, "");
  assert_int_equal(c->n_ranks, 1);
  for (int round = 0; round < 2; round++) { /* with a communicator, and with none */
    weir_comm *with = round == 0 ? c : NULL;
    memset(gathered, 0, sizeof gathered);
    want(weir_comm_all_reduce(with, x, 3, &e), WEIR_OK, &e, "");
    want(weir_comm_all_gather(with, gathered, "abc", 4, &e), WEIR_OK, &e, "");
    want(weir_comm_all_gather(with, gathered, gathered, 4, &e), WEIR_OK, &e, "");
    want(weir_comm_broadcast(with, x, sizeof x, 0, &e), WEIR_OK, &e, "");
    assert_true(x[0] == 1 && x[2] == 3 && 1 / x[1] < 0);
    assert_string_equal(gathered, "abc");
  }
  want(weir_comm_broadcast(c, x, sizeof x, 1, &e), WEIR_EINVAL, &e, "rank 1 of 1");
  assert_int_equal(c->stats.calls, 4);
  assert_int_equal(c->stats.bytes, 12 + 4 + 4 + 12);
  weir_comm_abort(c, "enough");
  weir_comm_abort(c, "more than enough");
  want(weir_comm_all_reduce(c, x, 3, &e), WEIR_EDEVICE, &e, "rank 0 gave up: enough");
  want(weir_comm_all_gather(c, gathered, "abc", 4, &e), WEIR_EDEVICE, &e, "enough");
  want(weir_comm_broadcast(c, x, sizeof x, 0, &e), WEIR_EDEVICE, &e, "enough");
  weir_comm_destroy(c);
  weir_comm_destroy(NULL);
  weir_comm_abort(NULL, "nobody");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_names),  cmocka_unit_test(test_kinds),       cmocka_unit_test(test_seats),
      cmocka_unit_test(test_offers), cmocka_unit_test(test_invitations), cmocka_unit_test(test_other_file),
      cmocka_unit_test(test_taken),  cmocka_unit_test(test_self),
  };
  return cmocka_run_group_tests_name("meet", tests, NULL, NULL);
}
