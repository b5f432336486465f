/* SPDX-License-Identifier: Apache-2.0 */
/* Crews whose nodes are all in this process: messages in order, each once, both ways; who may come and who is
 * refused; what is said of those that are not here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "crew_box.h"

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#ifdef __SANITIZE_THREAD__
enum { RACE_DETECTOR = 1 };
#else
enum { RACE_DETECTOR = __has_feature(thread_sanitizer) };
#endif

static const int64_t s_ns = 1000000000;

static weir_crew_opts opts(const char *addr, int32_t node, int32_t n_nodes) {
  return (weir_crew_opts){.addr = addr,
                          .node = node,
                          .n_nodes = n_nodes,
                          .token = "secret",
                          .version = "1.0",
                          .bound_ns = 20 * s_ns};
}

static void open_box(crew_box *b, weir_crew_opts o) {
  weir_err e = {0};
  if (box_open(b, o, &e) != WEIR_OK) fail_msg("%s", e.msg);
}

/* ---- messages ---- */

static size_t size_of(int i) {
  const uint32_t x = (uint32_t)i * 2654435761u;
  if (i % 200 == 199) return 1 + x % (1 << 20);
  if (i == 50) return 1 << 20;
  return i % 50 == 7 ? 0 : 1 + (x >> 8) % (1u << (x % 12));
}

typedef struct talk {
  crew_box *box;
  int32_t to;
  int n;
  int failed;
} talk;

static void *say(void *ctx) {
  talk *t = ctx;
  uint8_t *data = malloc(1 << 20);
  for (int i = 0; i < t->n; i++) {
    box_fill(data, i, size_of(i));
    if (weir_crew_send(t->box->crew, t->to, data, size_of(i), NULL) != WEIR_OK) t->failed++;
  }
  free(data);
  return NULL;
}

/* 10,000 messages each way between the leader and each of two workers, all at once. */
static void all_arrive_in_order(const char *addr) {
  enum { N = 10000, WORKERS = 2 };
  crew_box box[WORKERS + 1] = {0};
  talk t[2 * WORKERS];
  pthread_t thread[2 * WORKERS];
  for (int k = 0; k <= WORKERS; k++) {
    box[k].size_of = size_of;
    open_box(&box[k], opts(addr, k, WORKERS + 1));
  }
  for (int k = 1; k <= WORKERS; k++) {
    assert_true(box_wait(&box[0], &box[0].joined[k], 1));
    assert_true(box_wait(&box[k], &box[k].joined[0], 1));
    t[k - 1] = (talk){&box[0], k, N, 0};
    t[WORKERS + k - 1] = (talk){&box[k], 0, N, 0};
  }
  for (int i = 0; i < 2 * WORKERS; i++) pthread_create(&thread[i], NULL, say, &t[i]);
  for (int i = 0; i < 2 * WORKERS; i++) {
    pthread_join(thread[i], NULL);
    assert_int_equal(t[i].failed, 0);
  }
  for (int k = 1; k <= WORKERS; k++) {
    if (!box_wait(&box[k], &box[k].got[0], N)) fail_msg("worker %d got %d", k, box[k].got[0]);
    if (!box_wait(&box[0], &box[0].got[k], N)) fail_msg("leader got %d of %d", box[0].got[k], k);
  }
  for (int k = WORKERS; k >= 0; k--) box_close(&box[k]);
  for (int k = 1; k <= WORKERS; k++) {
    assert_int_equal(box[k].got[0], N);
    assert_int_equal(box[0].got[k], N);
    assert_int_equal(box[k].wrong[0], 0);
    assert_int_equal(box[0].wrong[k], 0);
    assert_int_equal(box[k].lost[0], 0);
  }
}

static void test_order_tcp(void **state) {
  char addr[64];
  (void)state;
  box_address(addr);
  all_arrive_in_order(addr);
}

static void test_order_ipc(void **state) {
  char addr[64];
  (void)state;
  snprintf(addr, sizeof addr, "ipc:///tmp/weir-test-crew-%d", (int)getpid());
  all_arrive_in_order(addr);
  unlink(addr + 6);
}

static void test_largest(void **state) {
  char addr[64];
  crew_box box[2] = {{.echo = false}, {.echo = true}};
  weir_err e = {0};
  (void)state;
  box_address(addr);
  for (int k = 0; k < 2; k++) open_box(&box[k], opts(addr, k, 2));
  assert_true(box_wait(&box[0], &box[0].joined[1], 1));
  uint8_t *data = calloc(1, (size_t)WEIR_CREW_MAX_MESSAGE + 1);
  assert_non_null(data);
  assert_int_equal(weir_crew_send(box[0].crew, 1, data, (size_t)WEIR_CREW_MAX_MESSAGE + 1, &e), WEIR_EINVAL);
  assert_non_null(strstr(e.msg, "node 1 ("));
  assert_int_equal(weir_crew_send(box[0].crew, 1, data, WEIR_CREW_MAX_MESSAGE, &e), WEIR_OK);
  free(data);
  assert_true(box_wait(&box[0], &box[0].got[1], 1)); /* there and back */
  box_close(&box[0]);
  assert_true(box_wait(&box[1], &box[1].lost[0], 1));
  assert_string_equal(box[1].why[0], "it said goodbye");
  box_close(&box[1]);
}

/* What was sent just before closing arrives. */
static void test_last_words(void **state) {
  (void)state;
  for (int from = 0; from < 2; from++) {
    char addr[64];
    crew_box box[2] = {{.size_of = size_of}, {.size_of = size_of}};
    box_address(addr);
    for (int k = 0; k < 2; k++) open_box(&box[k], opts(addr, k, 2));
    assert_true(box_wait(&box[from], &box[from].joined[1 - from], 1));
    assert_true(box_wait(&box[1 - from], &box[1 - from].joined[from], 1));
    talk t = {&box[from], 1 - from, 60, 0};
    say(&t);
    box_close(&box[from]);
    assert_true(box_wait(&box[1 - from], &box[1 - from].lost[from], 1));
    assert_int_equal(box[1 - from].got[from], 60);
    assert_int_equal(box[1 - from].wrong[from], 0);
    assert_string_equal(box[1 - from].why[from], "it said goodbye");
    box_close(&box[1 - from]);
  }
}

/* As many workers as a box has room for; one word of the leader's to all, and their answers, many times. */
static void test_many(void **state) {
  enum { ROUNDS = 300 };
  char addr[64];
  static crew_box box[BOX_NODES];
  (void)state;
  memset(box, 0, sizeof box);
  box_address(addr);
  for (int k = BOX_NODES - 1; k >= 0; k--) { /* the leader comes last */
    box[k].echo = k > 0;
    open_box(&box[k], opts(addr, k, BOX_NODES));
  }
  for (int k = 1; k < BOX_NODES; k++) assert_true(box_wait(&box[0], &box[0].joined[k], 1));
  for (int i = 1; i <= ROUNDS; i++) {
    for (int k = 1; k < BOX_NODES; k++)
      assert_int_equal(weir_crew_send(box[0].crew, k, &i, sizeof i, NULL), WEIR_OK);
    for (int k = 1; k < BOX_NODES; k++) assert_true(box_wait(&box[0], &box[0].got[k], i));
  }
  for (int k = 0; k < BOX_NODES; k++) box_close(&box[k]);
  for (int k = 1; k < BOX_NODES; k++) {
    assert_int_equal(box[k].got[0], ROUNDS);
    assert_int_equal(box[0].joined[k], 1);
    assert_string_equal(box[k].why[0], "it said goodbye");
  }
}

/* ---- coming and going ---- */

static void test_return(void **state) {
  char addr[64], missing[512], who[WEIR_CREW_WHO_BYTES], want[WEIR_CREW_WHO_BYTES];
  crew_box leader = {0}, worker[3] = {0};
  weir_err e = {0};
  (void)state;
  box_address(addr);
  open_box(&worker[1], opts(addr, 1, 3)); /* before there is a leader */
  assert_int_equal(weir_crew_send(worker[1].crew, 0, "x", 1, &e), WEIR_EDEVICE);
  assert_string_equal(e.msg, "message to the leader: it is not there yet");
  open_box(&leader, opts(addr, 0, 3));
  weir_crew_who(leader.crew, 2, who, sizeof who);
  assert_string_equal(who, "node 2");
  assert_true(box_wait(&leader, &leader.joined[1], 1));
  weir_crew_missing(leader.crew, missing, sizeof missing);
  assert_string_equal(missing, "node 2 of 3 has not come");
  assert_int_equal(weir_crew_send(leader.crew, 2, "x", 1, &e), WEIR_EDEVICE);
  assert_string_equal(e.msg, "message to node 2: it has not come");
  assert_int_equal(weir_crew_send(leader.crew, 0, "x", 1, &e), WEIR_EINVAL);
  assert_int_equal(weir_crew_send(leader.crew, 3, "x", 1, &e), WEIR_EINVAL);
  assert_int_equal(weir_crew_send(worker[1].crew, 1, "x", 1, &e), WEIR_EINVAL);
  open_box(&worker[2], opts(addr, 2, 3));
  assert_true(box_wait(&leader, &leader.joined[2], 1));
  weir_crew_missing(leader.crew, missing, sizeof missing);
  assert_string_equal(missing, "");

  /* a worker goes and comes again */
  weir_crew_who(leader.crew, 1, want, sizeof want);
  assert_non_null(strstr(want, "node 1 ("));
  assert_non_null(strstr(want, ", process "));
  box_close(&worker[1]);
  assert_true(box_wait(&leader, &leader.lost[1], 1));
  assert_string_equal(leader.why[1], "it said goodbye");
  assert_string_equal(leader.who[1], want);
  weir_crew_missing(leader.crew, missing, sizeof missing);
  assert_non_null(strstr(missing, want));
  assert_non_null(strstr(missing, "has not come back: it said goodbye"));
  memset(&worker[1], 0, sizeof worker[1]);
  open_box(&worker[1], opts(addr, 1, 3));
  assert_true(box_wait(&leader, &leader.joined[1], 2));

  /* so does the leader */
  assert_true(box_wait(&worker[1], &worker[1].joined[0], 1));
  box_close(&leader);
  for (int k = 1; k < 3; k++) assert_true(box_wait(&worker[k], &worker[k].lost[0], 1));
  memset(&leader, 0, sizeof leader);
  leader.size_of = size_of;
  open_box(&leader, opts(addr, 0, 3));
  for (int k = 1; k < 3; k++) {
    assert_true(box_wait(&leader, &leader.joined[k], 1));
    assert_true(box_wait(&worker[k], &worker[k].joined[0], 2));
    talk t = {&worker[k], 0, 100, 0};
    say(&t);
    assert_int_equal(t.failed, 0);
    assert_true(box_wait(&leader, &leader.got[k], 100));
    assert_int_equal(leader.wrong[k], 0);
  }
  for (int k = 1; k < 3; k++) box_close(&worker[k]);
  box_close(&leader);
}

static void test_refused(void **state) {
  char addr[64];
  crew_box leader = {0}, worker = {0};
  (void)state;
  box_address(addr);
  open_box(&leader, opts(addr, 0, 3));
  open_box(&worker, opts(addr, 1, 3));
  assert_true(box_wait(&leader, &leader.joined[1], 1));
  const struct {
    int32_t node, n_nodes;
    const char *token, *version, *why;
  } row[] = {
      {2, 3, "wrong", "1.0", "its token is not the leader's"},
      {2, 3, "secretive", "1.0", "its token is not the leader's"},
      {2, 3, "secre", "1.0", "its token is not the leader's"},
      {2, 3, NULL, "1.0", "its token is not the leader's"},
      {2, 3, "secret", "1.1", "the leader is of version \"1.0\", this one of \"1.1\""},
      {2, 4, "secret", "1.0", "the leader counts 3 nodes, this one 4"},
      {1, 3, "secret", "1.0", "is here already"},
  };
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    crew_box b = {0};
    weir_crew_opts o = opts(addr, row[i].node, row[i].n_nodes);
    o.token = row[i].token;
    o.version = row[i].version;
    open_box(&b, o);
    assert_true(box_wait(&b, &b.lost[0], 1));
    if (!strstr(b.why[0], row[i].why)) fail_msg("row %zu: %s", i, b.why[0]);
    assert_int_equal(weir_crew_send(b.crew, 0, "x", 1, NULL), WEIR_EDEVICE);
    const int64_t from = box_now_ns();
    box_close(&b);
    assert_true(box_now_ns() - from < 10 * s_ns);
    assert_int_equal(b.joined[0], 0);
  }
  /* the one that is here has noticed nothing */
  assert_int_equal(weir_crew_send(worker.crew, 0, "x", 1, NULL), WEIR_OK);
  assert_true(box_wait(&leader, &leader.got[1], 1));
  box_close(&worker);
  box_close(&leader);
  assert_int_equal(leader.joined[1], 1);
  assert_int_equal(leader.joined[2], 0);
}

static void test_open(void **state) {
  char addr[64];
  static char text[400];
  (void)state;
  memset(text, 'x', sizeof text - 1);
  box_address(addr);
  crew_box holder = {0};
  open_box(&holder, opts(addr, 0, 2));
  const struct {
    weir_crew_opts o;
    weir_status st;
    const char *why;
  } row[] = {
      {{.addr = addr, .n_nodes = 2}, WEIR_EIO, "in use"},
      {{.addr = "0.0.0.0:0", .n_nodes = 2}, WEIR_EINVAL, "a token is needed"},
      {{.addr = "*:7000", .n_nodes = 2}, WEIR_EINVAL, "a token is needed"},
      {{.addr = "[::]:7000", .n_nodes = 2}, WEIR_EINVAL, "a token is needed"},
      {{.addr = "127.0.0.1", .n_nodes = 2}, WEIR_EINVAL, "want HOST:PORT"},
      {{.addr = ":80", .n_nodes = 2}, WEIR_EINVAL, "want HOST:PORT"},
      {{.addr = "127.0.0.1:80x", .n_nodes = 2}, WEIR_EINVAL, "want HOST:PORT"},
      {{.addr = "nowhere", .n_nodes = 2, .node = 1}, WEIR_EINVAL, "want HOST:PORT"},
      {{.addr = "192.0.2.1:7000", .n_nodes = 2, .token = "t"}, WEIR_EIO, "cannot listen"},
      {{.addr = "", .n_nodes = 2}, WEIR_EINVAL, "want an address"},
      {{.addr = addr, .n_nodes = 65}, WEIR_EINVAL, "node 0 of 65"},
      {{.addr = addr, .n_nodes = 2, .node = 2}, WEIR_EINVAL, "node 2 of 2"},
      {{.addr = addr, .n_nodes = 2, .node = -1}, WEIR_EINVAL, "node -1 of 2"},
      {{.addr = addr, .n_nodes = 2, .node = 1, .token = text}, WEIR_EINVAL, "token: 399 bytes"},
      {{.addr = addr, .n_nodes = 2, .node = 1, .version = text}, WEIR_EINVAL, "version: 399 bytes"},
      {{.addr = text, .n_nodes = 2, .node = 1}, WEIR_EINVAL, "address: 399 bytes"},
      {{.addr = addr, .n_nodes = 2, .node = 1, .bound_ns = 1}, WEIR_EINVAL, "a bound of 50 ms"},
  };
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    crew_box b = {0};
    weir_err e = {0};
    const weir_status st = box_open(&b, row[i].o, &e);
    if (st != row[i].st || !strstr(e.msg, row[i].why)) fail_msg("row %zu: %d, %s", i, st, e.msg);
    assert_null(b.crew);
  }
  box_close(&holder);
  weir_crew_close(NULL);
}

/* localhost is a name; a leader listens there without a token. */
static void test_localhost(void **state) {
  char at[64], addr[64];
  crew_box box[2] = {0};
  (void)state;
  box_address(at);
  snprintf(addr, sizeof addr, "localhost:%s", strchr(at, ':') + 1);
  for (int k = 0; k < 2; k++) {
    weir_crew_opts o = opts(k == 0 ? addr : at, k, 2);
    o.token = NULL;
    open_box(&box[k], o);
  }
  assert_true(box_wait(&box[0], &box[0].joined[1], 1));
  for (int k = 0; k < 2; k++) box_close(&box[k]);
}

/* A name that is not known yet may be known later; to close does not wait for it. */
static void test_unknown_name(void **state) {
  crew_box lost = {0};
  (void)state;
  if (RACE_DETECTOR) skip(); /* the C library looks names up in a thread that it does not know, and crashes */
  open_box(&lost, opts("no-such-host.invalid:7000", 1, 2));
  const int64_t from = box_now_ns();
  box_close(&lost);
  assert_true(box_now_ns() - from < 10 * s_ns);
  assert_int_equal(lost.lost[0], 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_order_tcp),  cmocka_unit_test(test_order_ipc),
      cmocka_unit_test(test_largest),    cmocka_unit_test(test_many),
      cmocka_unit_test(test_last_words), cmocka_unit_test(test_return),
      cmocka_unit_test(test_refused),    cmocka_unit_test(test_open),
      cmocka_unit_test(test_localhost),  cmocka_unit_test(test_unknown_name),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
