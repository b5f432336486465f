/* SPDX-License-Identifier: Apache-2.0 */
/* The communicator over TCP, and a crew, between two machines: network namespaces with a cable between them
 * that is pulled in the middle. Needs the right to make them (SKIP). This program is the nodes of the crew
 * too: "--node NODE ADDRESS". What it makes has names with its process id, and it removes what earlier runs
 * that were killed have left. */
#define _GNU_SOURCE /* setns */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "comm_conf.h"
#include "crew_box.h"

static const int64_t bound_ns = 1000000000, slack_ns = 4000000000;

#define PREFIX "weir-test-net-"
enum { SIDES = 2 };
static char space[SIDES][48]; /* names */
static const char *const address[SIDES] = {"10.213.77.1", "10.213.77.2"};

/* ---- namespaces ---- */

static bool sh(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static bool sh(const char *fmt, ...) {
  char line[400];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(line, sizeof line, fmt, ap);
  va_end(ap);
  return system(line) == 0;
}

static void remove_spaces(void) {
  for (int i = 0; i < SIDES; i++)
    if (space[i][0]) sh("ip netns del %s 2>/dev/null", space[i]); /* its end of the cable goes with it */
}

/* Those of processes that are no more. */
static void remove_old_spaces(void) {
  DIR *d = opendir("/run/netns");
  for (const struct dirent *f; d && (f = readdir(d));) {
    int pid, side;
    char rest;
    if (sscanf(f->d_name, PREFIX "%d-%d%c", &pid, &side, &rest) != 2 || pid <= 1) continue;
    if (kill(pid, 0) != 0) sh("ip netns del " PREFIX "%d-%d 2>/dev/null", pid, side);
  }
  if (d) closedir(d);
}

static bool make_spaces(void) {
  remove_old_spaces();
  atexit(remove_spaces);
  for (int i = 0; i < SIDES; i++) {
    snprintf(space[i], sizeof space[i], PREFIX "%d-%d", (int)getpid(), i);
    if (!sh("ip netns add %s 2>/dev/null", space[i])) return false;
  }
  if (!sh("ip -n %s link add cable type veth peer name cable netns %s 2>/dev/null", space[0], space[1]))
    return false;
  for (int i = 0; i < SIDES; i++)
    if (!sh("ip -n %s addr add %s/24 dev cable && ip -n %s link set cable up && ip -n %s link set lo up",
            space[i], address[i], space[i], space[i]))
      return false;
  return true;
}

static void set_cable(bool up) {
  assert_true(sh("ip -n %s link set cable %s", space[0], up ? "up" : "down"));
}

static bool enter(int side) {
  char path[80];
  snprintf(path, sizeof path, "/run/netns/%s", space[side]);
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  const bool ok = fd >= 0 && setns(fd, CLONE_NEWNET) == 0; /* of this thread */
  if (fd >= 0) close(fd);
  return ok;
}

/* ---- the communicator ---- */

typedef struct side {
  conf_rank r;
  weir_comm_seat *seat;
  int64_t took_ns;
  uint64_t hash;
  weir_err e;
  pthread_t id;
} side;

static const comm_conf conf = {.kind = WEIR_COMM_TCP, .in_order = true, .compares = true, .most = 300000};
static pthread_barrier_t all; /* both sides and the test */
static char invite[WEIR_COMM_INVITE_BYTES];

static void *side_main(void *arg) {
  side *s = arg;
  weir_err e = {0};
  const weir_comm_seat_opts o = {.host = address[s->r.rank], .bound_ns = bound_ns};
  if (!enter(s->r.rank) || weir_comm_seat_open(WEIR_COMM_TCP, &o, &s->seat, &e) != WEIR_OK)
    conf_fault(&s->r, "no seat: %s", e.msg);
  pthread_barrier_wait(&all);
  pthread_barrier_wait(&all); /* the invitation is there */
  if (!s->seat) return NULL;
  if (weir_comm_join(s->seat, invite, s->r.rank, &s->r.comm, &e) != WEIR_OK)
    conf_fault(&s->r, "%s", e.msg);
  else
    conf_do_copies(&s->r, &s->hash);
  pthread_barrier_wait(&all);
  pthread_barrier_wait(&all); /* the cable is out */
  const int64_t from = conf_now_ns();
  if (s->r.comm && conf_call(&s->r, 1000, &s->e) == WEIR_OK) conf_fault(&s->r, "summed without a cable");
  s->took_ns = conf_now_ns() - from;
  weir_comm_destroy(s->r.comm);
  return NULL;
}

static void test_comm(void **state) {
  static side s[SIDES];
  const char *offer[SIDES];
  weir_err e = {0};
  (void)state;
  pthread_barrier_init(&all, NULL, SIDES + 1);
  for (int i = 0; i < SIDES; i++) {
    s[i].r = (conf_rank){.conf = &conf, .rank = i, .n_ranks = SIDES};
    assert_int_equal(pthread_create(&s[i].id, NULL, side_main, &s[i]), 0);
  }
  pthread_barrier_wait(&all);
  for (int i = 0; i < SIDES; i++) {
    if (!s[i].seat) fail_msg("%s", s[i].r.fault);
    offer[i] = weir_comm_seat_offer(s[i].seat);
    assert_non_null(strstr(offer[i], address[i]));
  }
  assert_int_equal(weir_comm_invite(WEIR_COMM_TCP, SIDES, offer, invite, &e), WEIR_OK);
  pthread_barrier_wait(&all);
  pthread_barrier_wait(&all);
  set_cable(false);
  pthread_barrier_wait(&all);
  for (int i = 0; i < SIDES; i++) pthread_join(s[i].id, NULL);
  pthread_barrier_destroy(&all);
  set_cable(true);
  for (int i = 0; i < SIDES; i++) {
    char want[64];
    snprintf(want, sizeof want, "rank %d (%s:", 1 - i, address[1 - i]);
    if (s[i].r.fault[0]) fail_msg("%s", s[i].r.fault);
    if (!strstr(s[i].e.msg, want) || !strstr(s[i].e.msg, "within 1.0 s")) fail_msg("%s", s[i].e.msg);
    if (s[i].took_ns < bound_ns / 2 || s[i].took_ns > bound_ns + slack_ns)
      fail_msg("rank %d noticed after %.2f s", i, (double)s[i].took_ns / 1e9);
  }
  assert_true(s[0].hash == s[1].hash && s[0].hash != 0);
}

/* ---- a crew ---- */

typedef struct node {
  pid_t pid;
  int in, out;
} node;

static node start(int i, const char *addr) {
  int to[2], from[2];
  char number[8];
  snprintf(number, sizeof number, "%d", i);
  assert_int_equal(pipe2(to, O_CLOEXEC), 0);
  assert_int_equal(pipe2(from, O_CLOEXEC), 0);
  char *argv[] = {"test_comm_net", "--node", number, (char *)addr, NULL};
  const pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    dup2(to[0], STDIN_FILENO);
    dup2(from[1], STDOUT_FILENO);
    if (enter(i)) execv("/proc/self/exe", argv);
    _exit(127);
  }
  close(to[0]);
  close(from[1]);
  return (node){pid, to[1], from[0]};
}

static char told(const node *k) {
  struct pollfd p = {.fd = k->out, .events = POLLIN};
  char c = 0;
  if (poll(&p, 1, BOX_PATIENCE_MS) != 1 || read(k->out, &c, 1) != 1) return 0;
  return c;
}

static void test_crew(void **state) {
  static const char addr[] = "10.213.77.1:7171";
  node k[SIDES];
  (void)state;
  for (int i = 0; i < SIDES; i++) k[i] = start(i, addr);
  for (int i = 0; i < SIDES; i++) assert_int_equal(told(&k[i]), 'J');
  const int64_t from = conf_now_ns();
  set_cable(false);
  for (int i = 0; i < SIDES; i++) assert_int_equal(told(&k[i]), 'L');
  const int64_t took = conf_now_ns() - from;
  set_cable(true);
  if (took > bound_ns + slack_ns) fail_msg("noticed after %.2f s", (double)took / 1e9);
  for (int i = 0; i < SIDES; i++) assert_int_equal(told(&k[i]), 'J');
  for (int i = SIDES - 1; i >= 0; i--) {
    int status;
    close(k[i].in);
    assert_int_equal(waitpid(k[i].pid, &status, 0), k[i].pid);
    assert_int_equal(status, 0);
    close(k[i].out);
  }
}

int main(int argc, char **argv) {
  if (argc == 4 && !strcmp(argv[1], "--node")) {
    return box_be_node((weir_crew_opts){.addr = argv[3],
                                        .node = atoi(argv[2]),
                                        .n_nodes = SIDES,
                                        .token = "secret",
                                        .version = "1.0",
                                        .bound_ns = bound_ns});
  }
  if (geteuid() != 0 || !make_spaces()) {
    printf("SKIP: network namespaces cannot be made here\n");
    return 77;
  }
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_comm), cmocka_unit_test(test_crew)};
  return cmocka_run_group_tests_name("comm_net", tests, NULL, NULL);
}
