/* SPDX-License-Identifier: Apache-2.0 */
#include "crew_box.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

int64_t box_now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

void box_address(char out[64]) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t n = sizeof a;
  const int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int port = 0;
  if (s >= 0 && bind(s, (struct sockaddr *)&a, sizeof a) == 0 &&
      getsockname(s, (struct sockaddr *)&a, &n) == 0)
    port = ntohs(a.sin_port);
  if (s >= 0) close(s);
  snprintf(out, 64, "127.0.0.1:%d", port);
}

uint8_t box_byte(int message, size_t at) { return (uint8_t)((size_t)message * 31 + at * 7 + (at >> 8)); }

void box_fill(uint8_t *to, int message, size_t bytes) {
  for (size_t i = 0; i < bytes; i++) to[i] = box_byte(message, i);
}

static bool is_right(const crew_box *b, int message, const uint8_t *data, size_t bytes) {
  if (bytes != b->size_of(message)) return false;
  for (size_t i = 0; i < bytes; i++)
    if (data[i] != box_byte(message, i)) return false;
  return true;
}

static void on_event(void *ctx, const weir_crew_event *ev) {
  crew_box *b = ctx;
  const int k = ev->node;
  if (k < 0 || k >= BOX_NODES) return;
  pthread_mutex_lock(&b->lock);
  snprintf(b->who[k], sizeof b->who[k], "%s", ev->who);
  weir_crew *crew = b->crew;
  if (ev->kind == WEIR_CREW_JOINED) b->joined[k]++;
  if (ev->kind == WEIR_CREW_LOST) {
    b->lost[k]++;
    b->lost_ns[k] = box_now_ns();
    snprintf(b->why[k], sizeof b->why[k], "%s", ev->why);
  }
  if (ev->kind == WEIR_CREW_MESSAGE) {
    if (b->size_of && !is_right(b, b->got[k], ev->data, ev->bytes)) b->wrong[k]++;
    b->got[k]++;
  }
  pthread_cond_broadcast(&b->changed);
  pthread_mutex_unlock(&b->lock);
  if (b->tell_fd && ev->kind != WEIR_CREW_MESSAGE) {
    const char c = ev->kind == WEIR_CREW_JOINED ? 'J' : strstr(ev->why, "already") ? 'R' : 'L';
    const ssize_t n = write(b->tell_fd, &c, 1);
    (void)n;
  }
  if (ev->kind == WEIR_CREW_MESSAGE && b->echo && crew) weir_crew_send(crew, k, ev->data, ev->bytes, NULL);
}

weir_status box_open(crew_box *b, weir_crew_opts o, weir_err *e) {
  pthread_mutex_init(&b->lock, NULL);
  pthread_condattr_t attr;
  pthread_condattr_init(&attr);
  pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  pthread_cond_init(&b->changed, &attr);
  pthread_condattr_destroy(&attr);
  o.on_event = on_event;
  o.ctx = b;
  pthread_mutex_lock(&b->lock); /* the first event waits until it can send */
  const weir_status st = weir_crew_open(&o, &b->crew, e);
  pthread_mutex_unlock(&b->lock);
  return st;
}

void box_close(crew_box *b) {
  weir_crew_close(b->crew);
  b->crew = NULL;
}

int box_be_node(weir_crew_opts o) {
  crew_box b = {.echo = true, .tell_fd = STDOUT_FILENO};
  weir_err e = {0};
  char c;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (box_open(&b, o, &e) != WEIR_OK) {
    fprintf(stderr, "%s\n", e.msg);
    return 1;
  }
  while (read(STDIN_FILENO, &c, 1) > 0) {
  }
  box_close(&b);
  return 0;
}

bool box_wait(crew_box *b, const int *counter, int least) {
  const int64_t end = box_now_ns() + BOX_PATIENCE_MS * INT64_C(1000000);
  const struct timespec t = {.tv_sec = end / 1000000000, .tv_nsec = end % 1000000000};
  pthread_mutex_lock(&b->lock);
  while (*counter < least)
    if (pthread_cond_timedwait(&b->changed, &b->lock, &t) == ETIMEDOUT) break;
  const bool there = *counter >= least;
  pthread_mutex_unlock(&b->lock);
  return there;
}

int box_read(crew_box *b, const int *counter) {
  pthread_mutex_lock(&b->lock);
  const int n = *counter;
  pthread_mutex_unlock(&b->lock);
  return n;
}
