/* SPDX-License-Identifier: Apache-2.0 */
/* A server of the program's as a child of the test: started, waited for, ended by its id. */
#ifndef WEIR_TESTS_SERVER_H
#define WEIR_TESTS_SERVER_H
#include <sys/types.h>

typedef struct server {
  pid_t pid;
  char log[320]; /* path of its standard error */
} server;

/* A folder of this test alone, made at the first call; short enough for ipc paths. */
const char *server_folder(void);
/* A TCP port on loopback that nobody listened on a moment ago. */
int server_free_port(void);

/* Starts `weir LINE` (words with blanks between; '...' keeps blanks). */
server server_start(const char *line);
/* Sends the signal, waits at most a minute, returns its exit status (128 + signal when it was killed; the
 * test fails, with its log, when it does not end). */
int server_stop(server *, int sig);
/* What it has logged so far; owned. */
char *server_log(const server *);
/* A group's teardown: ends what still runs and removes the folder. */
int server_cleanup(void **state);

#endif
