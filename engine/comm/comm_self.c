/* SPDX-License-Identifier: Apache-2.0 */
/* A communicator of one rank: nobody waits, everything is its own sum. It exists so that callers need not ask
 * how many ranks there are; an abort ends it like any other. Any thread aborts, the rank's does the rest. */
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "comm/comm.h"
#include "comm/meet_in.h"

typedef struct self {
  weir_comm comm;
  pthread_mutex_t lock; /* of why; held for a copy */
  char why[WEIR_ERR_MSG_BYTES];
} self;

static weir_status self_check(weir_comm *c, weir_err *e) {
  self *s = c->impl;
  weir_status st = WEIR_OK;
  pthread_mutex_lock(&s->lock);
  if (s->why[0]) st = weir_fail(e, WEIR_EDEVICE, "%s", s->why);
  pthread_mutex_unlock(&s->lock);
  return st;
}

static weir_status self_all_reduce(weir_comm *c, float *x, size_t n, weir_err *e) {
  (void)x;
  (void)n;
  return self_check(c, e);
}

static weir_status self_all_gather(weir_comm *c, void *out, const void *in, size_t bytes, weir_err *e) {
  const weir_status st = self_check(c, e);
  if (st == WEIR_OK && out != in) memmove(out, in, bytes);
  return st;
}

static weir_status self_broadcast(weir_comm *c, void *data, size_t bytes, int32_t root, weir_err *e) {
  (void)data;
  (void)bytes;
  (void)root;
  return self_check(c, e);
}

static void self_abort(weir_comm *c, const char *why) {
  self *s = c->impl;
  pthread_mutex_lock(&s->lock);
  if (!s->why[0]) snprintf(s->why, sizeof s->why, "rank 0 gave up: %s", why ? why : "no reason was given");
  pthread_mutex_unlock(&s->lock);
}

static void self_destroy(weir_comm *c) {
  self *s = c->impl;
  pthread_mutex_destroy(&s->lock);
  free(s);
}

static const weir_comm_ops ops = {
    .name = "self",
    .all_reduce = self_all_reduce,
    .all_gather = self_all_gather,
    .broadcast = self_broadcast,
    .abort = self_abort,
    .destroy = self_destroy,
};

static weir_status self_open(weir_comm_seat *s, char *offer, weir_err *e) {
  (void)s;
  (void)e;
  offer[0] = 0;
  return WEIR_OK;
}

static void self_close(weir_comm_seat *s) { (void)s; }

static weir_status self_invite(int32_t n_ranks, const char *const *offer, char *out, weir_err *e) {
  (void)n_ranks;
  (void)offer;
  (void)e;
  out[0] = 0;
  return WEIR_OK;
}

static weir_status self_join(weir_comm_seat *seat, const char *invite, int32_t n_ranks, int32_t rank,
                             weir_comm **out, weir_err *e) {
  (void)seat;
  (void)invite;
  self *s = NULL;
  const weir_status st = WEIR_NEW(1, &s, e);
  if (st != WEIR_OK) return st;
  pthread_mutex_init(&s->lock, NULL);
  s->comm = (weir_comm){.ops = &ops, .rank = rank, .n_ranks = n_ranks, .impl = s};
  *out = &s->comm;
  return WEIR_OK;
}

const weir_comm_back weir_comm_self_back = {
    .max_ranks = 1,
    .open = self_open,
    .close = self_close,
    .invite = self_invite,
    .join = self_join,
};
