/* SPDX-License-Identifier: Apache-2.0 */
/* `weir worker` as a child of a test, beside the servers of serving.h. Every wait ends. */
#ifndef WEIR_TESTS_WORKERS_H
#define WEIR_TESTS_WORKERS_H
#include <stdbool.h>
#include <sys/types.h>

typedef struct worker {
  pid_t pid;
  char log[80];
} worker;

/* Starts `weir COMMAND`; its output goes to a file. Commands before it ("ip netns exec x") are `prefix`, ""
 * for none. */
worker worker_start(const char *prefix, const char *command);
char *worker_log(const worker *); /* owned */
/* Waits until its log has the words n times. */
void worker_wait_log(worker *, const char *words, int n);
/* Waits for its end, at most a minute: its exit status, 128 + signal when it was killed. */
int worker_wait(worker *);
/* Whether it has ended, without waiting. */
bool worker_ended(worker *, int *status);
/* A port of this machine that nobody has just now. */
int free_port(void);
/* A test's teardown: what still runs is ended. */
int worker_cleanup(void **state);

#endif
