/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of servers: a thread that turns an event base, and raw sockets to talk to what listens there. */
#ifndef WEIR_TESTS_HTTP_RAW_H
#define WEIR_TESTS_HTTP_RAW_H
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct event_base;
struct event;

typedef struct raw_loop {
  struct event_base *base;
  struct event *stop;
  int pipe[2];
  pthread_t thread;
} raw_loop;

void raw_loop_init(raw_loop *);  /* makes the base; the thread does not run yet */
void raw_loop_start(raw_loop *); /* from here on the base is the thread's */
void raw_loop_stop(raw_loop *);  /* joins; the base is the caller's again */
void raw_loop_fini(raw_loop *);

/* A socket to 127.0.0.1:port whose reads give up after a few seconds. */
int raw_connect(uint16_t port);
void raw_send(int fd, const char *text, size_t n);
void raw_puts(int fd, const char *text);
/* Reads until the other side closes, or `until` was read (NULL: it must close). False: neither came in time.
 * `out` is a string. */
bool raw_read(int fd, const char *until, char *out, size_t bytes);
/* One exchange on a connection of its own, until it is closed. */
void raw_ask(uint16_t port, const char *request, char *out, size_t bytes);
/* Of an answer. */
int raw_status(const char *answer);
const char *raw_body(const char *answer);

#endif
