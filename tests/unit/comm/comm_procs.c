/* SPDX-License-Identifier: Apache-2.0 */
/* Ranks as processes. A rank writes its offer to its standard output, reads the invitation from its standard
 * input, does what its arguments say and writes what came of it; the test in between brings texts from one to
 * another, and kills or stops one. Ranks die with the test. */
#define _GNU_SOURCE /* pipe2 */
#include "comm_procs.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

extern char **environ;

enum { LINE_BYTES = WEIR_COMM_INVITE_BYTES + 64, PATIENCE_MS = 60000, CALLS_BEFORE = 50 };

static const int64_t grace_ns = INT64_C(10000000000);
static const int64_t long_bound = INT64_C(60000000000);

/* ---- a rank ---- */

static void *abort_when_told(void *arg) {
  char line[64];
  if (fgets(line, sizeof line, stdin) && strcmp(line, "abort\n") == 0)
    weir_comm_abort(arg, "the furnace is cold");
  return NULL;
}

/* Calls until one fails: the parent sees to it. */
static weir_status loop(conf_rank *r, weir_err *e) {
  weir_status st = WEIR_OK;
  for (uint32_t i = 0; st == WEIR_OK; i++) {
    if (i == CALLS_BEFORE) {
      puts("running");
      fflush(stdout);
    }
    st = conf_call(r, 1 + i * 2654435761u % 3000, e);
  }
  return st;
}

/* argv: program conf-rank KIND RANK N BOUND_NS MOST HOST SCENARIO */
bool procs_is_rank(int argc, char **argv, int *status) {
  if (argc != 9 || strcmp(argv[1], "conf-rank") != 0) return false;
  static char invite[LINE_BYTES];
  const conf_traces before = conf_traces_now();
  comm_conf conf = {.in_order = true, .compares = true, .most = strtoul(argv[6], NULL, 10)};
  weir_comm_seat_opts o = {.bound_ns = strtoll(argv[5], NULL, 10), .host = argv[7]};
  conf_rank r = {.conf = &conf, .rank = atoi(argv[3]), .n_ranks = atoi(argv[4])};
  weir_comm_seat *seat;
  weir_err e = {0};
  weir_status st;
  uint64_t hash = 0;
  pthread_t aborter;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  *status = 1;
  if (!weir_comm_kind_parse(argv[2], &conf.kind)) return true;
  if (weir_comm_seat_open(conf.kind, &o, &seat, &e) != WEIR_OK) {
    printf("fault seat: %s\n", e.msg);
    return true;
  }
  printf("%s\n", weir_comm_seat_offer(seat));
  fflush(stdout);
  if (!fgets(invite, sizeof invite, stdin)) return true;
  invite[strcspn(invite, "\n")] = 0;
  st = weir_comm_join(seat, invite, r.rank, &r.comm, &e);
  if (st == WEIR_OK && strcmp(argv[8], "ops") == 0) {
    if (conf_do_sums(&r, &hash) && conf_do_copies(&r, &hash) && conf_do_mixed(&r, &hash))
      printf("done %" PRIx64 "\n", hash);
    else
      printf("fault %s\n", r.fault);
  } else {
    const bool aborts =
        r.rank == 0 && st == WEIR_OK && pthread_create(&aborter, NULL, abort_when_told, r.comm) == 0;
    if (st == WEIR_OK) st = loop(&r, &e);
    printf("failed %d %s\n", (int)st, e.msg);
    fflush(stdout);
    if (aborts) pthread_join(aborter, NULL); /* the parent closes its input */
  }
  weir_comm_destroy(r.comm);
  const conf_traces after = conf_traces_now();
  *status = after.files != before.files || after.maps != before.maps || after.names != before.names;
  return true;
}

/* ---- the test ---- */

typedef struct proc {
  pid_t pid;
  int to, from; /* its standard input and output */
} proc;

typedef struct troupe {
  int32_t n;
  proc p[WEIR_MAX_RANKS];
} troupe;

static void start(proc *p, char *const *argv) {
  int in[2], out[2];
  posix_spawn_file_actions_t a;
  assert_int_equal(pipe2(in, O_CLOEXEC), 0);
  assert_int_equal(pipe2(out, O_CLOEXEC), 0);
  posix_spawn_file_actions_init(&a);
  posix_spawn_file_actions_adddup2(&a, in[0], 0);
  posix_spawn_file_actions_adddup2(&a, out[1], 1);
  assert_int_equal(posix_spawn(&p->pid, "/proc/self/exe", &a, NULL, argv, environ), 0);
  posix_spawn_file_actions_destroy(&a);
  close(in[0]);
  close(out[1]);
  p->to = in[1];
  p->from = out[0];
}

/* The next line without its end; fails the test when none comes. */
static const char *hear(const proc *p, char *line) {
  size_t n = 0;
  for (;;) {
    struct pollfd f = {.fd = p->from, .events = POLLIN};
    if (poll(&f, 1, PATIENCE_MS) != 1) fail_msg("process %d says nothing", (int)p->pid);
    if (n + 1 >= LINE_BYTES || read(p->from, line + n, 1) != 1) fail_msg("process %d has gone", (int)p->pid);
    if (line[n] == '\n') break;
    n++;
  }
  line[n] = 0;
  if (strncmp(line, "fault", 5) == 0) fail_msg("%s", line);
  return line;
}

static void tell(const proc *p, const char *text) {
  const size_t n = strlen(text);
  if (write(p->to, text, n) != (ssize_t)n || write(p->to, "\n", 1) != 1)
    fail_msg("process %d does not listen", (int)p->pid);
}

/* Starts n ranks and makes the invitation, which they do not have yet. */
static void gather(troupe *t, const comm_conf *c, int32_t n, int64_t bound_ns, const char *scenario,
                   char *invite) {
  static char text[WEIR_MAX_RANKS][LINE_BYTES];
  const char *offer[WEIR_MAX_RANKS] = {NULL};
  char rank[16], all[16], bound[32], most[32];
  weir_err e = {0};
  t->n = n;
  snprintf(all, sizeof all, "%d", (int)n);
  snprintf(bound, sizeof bound, "%lld", (long long)bound_ns);
  snprintf(most, sizeof most, "%zu", c->most);
  for (int32_t r = 0; r < n; r++) {
    snprintf(rank, sizeof rank, "%d", (int)r);
    const char *argv[] = {"rank", "conf-rank", weir_comm_kind_name(c->kind), rank,     all,
                          bound,  most,        c->host ? c->host : "",       scenario, NULL};
    start(&t->p[r], (char *const *)argv);
  }
  for (int32_t r = 0; r < n; r++) offer[r] = hear(&t->p[r], text[r]);
  if (weir_comm_invite(c->kind, n, offer, invite, &e) != WEIR_OK) fail_msg("invite: %s", e.msg);
}

static void finish(const troupe *t, int32_t killed) {
  for (int32_t r = 0; r < t->n; r++) {
    int status;
    close(t->p[r].to);
    assert_int_equal(waitpid(t->p[r].pid, &status, 0), t->p[r].pid);
    close(t->p[r].from);
    if (r == killed)
      assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    else
      assert_int_equal(status, 0);
  }
}

/* Ranks that call until the group is over; all are at it when this returns. */
static void set_off(troupe *t, const comm_conf *c, int32_t n, int64_t bound_ns) {
  static char invite[WEIR_COMM_INVITE_BYTES], line[LINE_BYTES];
  gather(t, c, n, bound_ns, "loop", invite);
  for (int32_t r = 0; r < n; r++) tell(&t->p[r], invite);
  for (int32_t r = 0; r < n; r++) assert_string_equal(hear(&t->p[r], line), "running");
}

/* All but one have failed, for a reason that has this text. */
static void hear_failures(const troupe *t, int32_t but, const char *want) {
  static char line[LINE_BYTES];
  char head[32];
  snprintf(head, sizeof head, "failed %d ", (int)WEIR_EDEVICE);
  for (int32_t r = 0; r < t->n; r++) {
    if (r == but) continue;
    hear(&t->p[r], line);
    if (strncmp(line, head, strlen(head)) != 0 || !strstr(line, want))
      fail_msg("rank %d: want \"%s...%s\": %s", (int)r, head, want, line);
  }
}

static void check_took(int64_t from, int64_t bound_ns, const char *what) {
  const int64_t took = conf_now_ns() - from;
  if (took > bound_ns + grace_ns) fail_msg("%s was noticed after %lld ns", what, (long long)took);
}

void procs_check_ops(const comm_conf *c, int32_t n) {
  static char invite[WEIR_COMM_INVITE_BYTES], line[LINE_BYTES], first[LINE_BYTES];
  troupe t;
  gather(&t, c, n, long_bound, "ops", invite);
  for (int32_t r = 0; r < n; r++) tell(&t.p[r], invite);
  assert_non_null(strstr(hear(&t.p[0], first), "done "));
  for (int32_t r = 1; r < n; r++) assert_string_equal(hear(&t.p[r], line), first);
  finish(&t, -1);
}

void procs_check_killed(const comm_conf *c, int32_t n, int64_t bound_ns) {
  troupe t;
  set_off(&t, c, n, bound_ns);
  const int64_t from = conf_now_ns();
  kill(t.p[1].pid, SIGKILL);
  hear_failures(&t, 1, "rank 1");
  check_took(from, bound_ns < grace_ns ? bound_ns : 0, "a killed process");
  finish(&t, 1);
}

static void stop(const proc *p) {
  int status;
  kill(p->pid, SIGSTOP);
  assert_int_equal(waitpid(p->pid, &status, WUNTRACED), p->pid);
  assert_true(WIFSTOPPED(status));
}

/* It goes on, and has failed for the same reason as the others. */
static void go_on(const troupe *t, const char *want) {
  static char line[LINE_BYTES];
  kill(t->p[1].pid, SIGCONT);
  hear(&t->p[1], line);
  if (strncmp(line, "failed", 6) != 0 || !strstr(line, want)) fail_msg("want \"%s\": %s", want, line);
}

void procs_check_stopped(const comm_conf *c, int32_t n) {
  const int64_t bound = INT64_C(500000000);
  troupe t;
  set_off(&t, c, n, bound);
  stop(&t.p[1]);
  const int64_t from = conf_now_ns();
  hear_failures(&t, 1, "rank 1");
  check_took(from, bound, "a stopped process");
  go_on(&t, "rank 1");
  finish(&t, -1);
}

/* Nothing is said for so long. */
static void hear_nothing(const proc *p, int64_t ns) {
  struct pollfd f = {.fd = p->from, .events = POLLIN};
  assert_int_equal(poll(&f, 1, (int)(ns / 1000000)), 0);
}

void procs_check_all_stopped(const comm_conf *c, int32_t n) {
  const int64_t bound = INT64_C(1000000000);
  troupe t;
  set_off(&t, c, n, bound);
  for (int32_t r = 0; r < n; r++) stop(&t.p[r]);
  hear_nothing(&t.p[1], bound * 5 / 4);
  for (int32_t r = 1; r < n; r++) kill(t.p[r].pid, SIGCONT);
  hear_nothing(&t.p[1], bound / 20); /* the others wait for rank 0, which was stopped first */
  kill(t.p[0].pid, SIGCONT);
  tell(&t.p[0], "abort");
  hear_failures(&t, -1, "the furnace is cold");
  finish(&t, -1);
}

void procs_check_stopped_abort(const comm_conf *c, int32_t n) {
  troupe t;
  set_off(&t, c, n, long_bound);
  stop(&t.p[1]);
  const int64_t from = conf_now_ns();
  tell(&t.p[0], "abort");
  hear_failures(&t, 1, "the furnace is cold");
  check_took(from, 0, "an abort");
  go_on(&t, "the furnace is cold");
  finish(&t, -1);
}

void procs_check_killed_joining(const comm_conf *c, int32_t n) {
  static char invite[WEIR_COMM_INVITE_BYTES];
  const int64_t bound = INT64_C(500000000);
  troupe t;
  gather(&t, c, n, bound, "loop", invite);
  kill(t.p[1].pid, SIGKILL);
  const int64_t from = conf_now_ns();
  for (int32_t r = 0; r < n; r++)
    if (r != 1) tell(&t.p[r], invite);
  hear_failures(&t, 1, "rank 1");
  check_took(from, bound, "a process that died before it joined");
  finish(&t, 1);
}
