/* SPDX-License-Identifier: Apache-2.0 */
#include "http_raw.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/event.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { WAIT_MS = 8000 };

static void on_stop(evutil_socket_t fd, short what, void *ctx) {
  (void)fd;
  (void)what;
  event_base_loopbreak(ctx);
}

void raw_loop_init(raw_loop *l) {
  l->base = event_base_new();
  assert_non_null(l->base);
  assert_int_equal(pipe(l->pipe), 0);
  l->stop = event_new(l->base, l->pipe[0], EV_READ, on_stop, l->base);
  event_add(l->stop, NULL);
}

static void *turn(void *ctx) {
  raw_loop *l = ctx;
  event_base_dispatch(l->base);
  return NULL;
}

void raw_loop_start(raw_loop *l) {
  event_add(l->stop, NULL); /* it has fired when this is a second start */
  assert_int_equal(pthread_create(&l->thread, NULL, turn, l), 0);
}

void raw_loop_stop(raw_loop *l) {
  assert_int_equal(write(l->pipe[1], "x", 1), 1);
  pthread_join(l->thread, NULL);
}

void raw_loop_fini(raw_loop *l) {
  event_free(l->stop);
  event_base_free(l->base);
  close(l->pipe[0]);
  close(l->pipe[1]);
}

int raw_connect(uint16_t port) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  const struct timeval wait = {WAIT_MS / 1000, 0};
  const struct sockaddr_in to = {
      .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  assert_true(fd >= 0);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
  assert_int_equal(connect(fd, (const struct sockaddr *)&to, sizeof to), 0);
  return fd;
}

void raw_send(int fd, const char *text, size_t n) {
  while (n > 0) {
    const ssize_t got = send(fd, text, n, MSG_NOSIGNAL);
    if (got <= 0) return; /* closed early: what was answered tells */
    text += got;
    n -= (size_t)got;
  }
}

void raw_puts(int fd, const char *text) { raw_send(fd, text, strlen(text)); }

bool raw_read(int fd, const char *until, char *out, size_t bytes) {
  size_t n = 0;
  out[0] = 0;
  for (;;) {
    if (until && strstr(out, until)) return true;
    if (n + 1 >= bytes) return false;
    const ssize_t got = recv(fd, out + n, bytes - 1 - n, 0);
    if (got == 0) return !until;
    if (got < 0) return !until && errno == ECONNRESET;
    n += (size_t)got;
    out[n] = 0;
  }
}

void raw_ask(uint16_t port, const char *request, char *out, size_t bytes) {
  const int fd = raw_connect(port);
  raw_puts(fd, request);
  assert_true(raw_read(fd, NULL, out, bytes));
  close(fd);
}

int raw_status(const char *answer) {
  int code = 0;
  return sscanf(answer, "HTTP/1.%*d %d ", &code) == 1 ? code : 0;
}

const char *raw_body(const char *answer) {
  const char *p = strstr(answer, "\r\n\r\n");
  return p ? p + 4 : "";
}
