/* SPDX-License-Identifier: Apache-2.0 */
/* Worker processes for tests: the test program itself, started again with "worker" as its first argument.
 * Whatever happens to the test, they end with it. */
#ifndef WEIR_TESTS_TP_PROCS_H
#define WEIR_TESTS_TP_PROCS_H
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct proc_opts {
  const char *role; /* "worker"; "leader": serves one conversation after the other until it is killed */
  const char *model, *addr, *version;
  const char *host,
      *netns; /* under which name others reach it; the network namespace it enters. NULL: none */
  int32_t node, n_nodes, n_local;
  int64_t bound_ns;
  int32_t fail_at; /* a worker's device fails once, in this call of linear; 0: never */
  bool hang, die;  /* ... or rather hangs for ever; fails from then on */
} proc_opts;

typedef struct proc {
  pid_t pid;     /* 0: reaped */
  char log[128]; /* file of what it said */
} proc;

/* For main: the exit status when this process is one of these, -1 when it is the test. */
int proc_main(int argc, char **argv);
proc proc_start(const proc_opts *);
/* Sends the signal and reaps it (0: waits for its end). Returns the exit status, or -signal. */
int proc_end(proc *, int signal);
/* Waits until it has said `text` n times; fails after `timeout_ns`. */
void proc_await(const proc *, const char *text, int32_t n, int64_t timeout_ns);
/* How often it has said so. */
int32_t proc_said(const proc *, const char *text);

/* This thread, and those it makes, enter a network namespace. */
bool netns_enter(const char *name);

/* What a process holds, to be compared before and after. */
typedef struct holdings {
  int32_t threads, fds; /* of this process */
} holdings;
holdings holdings_now(void);

#endif
