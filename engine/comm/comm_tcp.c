/* SPDX-License-Identifier: Apache-2.0 */
/* The communicator of CPU ranks on several machines, over TCP: how sums and copies go through exchanges
 * (tcp_group.h), and its texts for meet.c. Owns the group and a buffer; the rank's thread, any for abort.
 *
 * all_reduce in one shot: each sends its numbers to all and adds up all of them itself: one exchange, n_ranks
 * - 1 times the data. In two shots: each adds up its own part only, and then sends the part's sums to all:
 * two exchanges, twice the data. In both, one function adds, in order of rank (sum.h). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/secret.h"
#include "comm/meet_in.h"
#include "comm/sum.h"
#include "comm/tcp_join.h"

enum {
  BLOCK_FLOATS = 1 << 20,                      /* added up at a time: what the buffer has to hold */
  ONE_SHOT_FLOATS = (64 << 10) / sizeof(float) /* to all others together */
};

typedef struct tcp {
  weir_comm comm;
  tcp_group group;
  float *buf; /* what the others sent: at most BLOCK_FLOATS and a cache line for each; owned */
} tcp;

/* ---- calls ---- */

static weir_status one_shot(tcp *t, float *x, size_t n, weir_err *e) {
  tcp_group *g = &t->group;
  tcp_flow flow[WEIR_MAX_RANKS] = {{0}};
  const float *from[WEIR_MAX_RANKS];
  float *to = t->buf;
  for (int32_t r = 0; r < g->n_ranks; r++) {
    from[r] = x;
    if (r == g->rank) continue;
    from[r] = to;
    flow[r] = (tcp_flow){.out = x, .out_bytes = n * sizeof *x, .in = to, .in_bytes = n * sizeof *x};
    to += n;
  }
  const weir_status st = tcp_exchange(g, flow, e);
  if (st == WEIR_OK) weir_comm_sum(x, from, g->n_ranks, n);
  return st;
}

static weir_status two_shots(tcp *t, float *x, size_t n, weir_err *e) {
  tcp_group *g = &t->group;
  tcp_flow flow[WEIR_MAX_RANKS] = {{0}};
  const float *from[WEIR_MAX_RANKS];
  const weir_comm_part mine = weir_comm_part_of(n, g->rank, g->n_ranks);
  float *to = t->buf;
  for (int32_t r = 0; r < g->n_ranks; r++) {
    const weir_comm_part p = weir_comm_part_of(n, r, g->n_ranks);
    from[r] = x + mine.at;
    if (r == g->rank) continue;
    from[r] = to;
    flow[r] =
        (tcp_flow){.out = x + p.at, .out_bytes = p.n * sizeof *x, .in = to, .in_bytes = mine.n * sizeof *x};
    to += mine.n;
  }
  weir_status st = tcp_exchange(g, flow, e);
  if (st != WEIR_OK) return st;
  weir_comm_sum(x + mine.at, from, g->n_ranks, mine.n);
  for (int32_t r = 0; r < g->n_ranks; r++) {
    const weir_comm_part p = weir_comm_part_of(n, r, g->n_ranks);
    flow[r] = (tcp_flow){
        .out = x + mine.at, .out_bytes = mine.n * sizeof *x, .in = x + p.at, .in_bytes = p.n * sizeof *x};
  }
  return tcp_exchange(g, flow, e);
}

/* One shot while that sends no more than two do, or little. */
static bool is_one_shot(const tcp_group *g, size_t n) {
  return g->n_ranks == 2 || n * (size_t)(g->n_ranks - 1) <= ONE_SHOT_FLOATS;
}

static weir_status tcp_all_reduce(weir_comm *c, float *x, size_t n, weir_err *e) {
  tcp *t = c->impl;
  weir_status st = tcp_begin(&t->group, TCP_ALL_REDUCE, n * sizeof *x, 0, e);
  for (size_t at = 0; at < n && st == WEIR_OK; at += BLOCK_FLOATS) {
    const size_t len = n - at < BLOCK_FLOATS ? n - at : BLOCK_FLOATS;
    st = is_one_shot(&t->group, len) ? one_shot(t, x + at, len, e) : two_shots(t, x + at, len, e);
  }
  return st;
}

static weir_status tcp_all_gather(weir_comm *c, void *out, const void *in, size_t bytes, weir_err *e) {
  tcp *t = c->impl;
  tcp_group *g = &t->group;
  tcp_flow flow[WEIR_MAX_RANKS] = {{0}};
  uint8_t *const to = out;
  const weir_status st = tcp_begin(g, TCP_ALL_GATHER, bytes, 0, e);
  if (st != WEIR_OK) return st;
  uint8_t *const own = to + (size_t)g->rank * bytes;
  if (own != in) memmove(own, in, bytes);
  for (int32_t r = 0; r < g->n_ranks; r++)
    flow[r] = (tcp_flow){.out = own, .out_bytes = bytes, .in = to + (size_t)r * bytes, .in_bytes = bytes};
  return tcp_exchange(g, flow, e);
}

/* All say to all that they make this call, so that one that makes another is noticed by each. */
static weir_status tcp_broadcast(weir_comm *c, void *data, size_t bytes, int32_t root, weir_err *e) {
  tcp *t = c->impl;
  tcp_group *g = &t->group;
  tcp_flow flow[WEIR_MAX_RANKS] = {{0}};
  const weir_status st = tcp_begin(g, TCP_BROADCAST, bytes, root, e);
  if (st != WEIR_OK) return st;
  if (g->rank != root)
    flow[root] = (tcp_flow){.in = data, .in_bytes = bytes};
  else
    for (int32_t r = 0; r < g->n_ranks; r++) flow[r] = (tcp_flow){.out = data, .out_bytes = bytes};
  return tcp_exchange(g, flow, e);
}

static void abort_tcp(weir_comm *c, const char *why) { tcp_abort(&((tcp *)c->impl)->group, why); }

static void destroy_tcp(weir_comm *c) {
  tcp *t = c->impl;
  tcp_group_fini(&t->group);
  free(t->buf);
  free(t);
}

static const weir_comm_ops ops = {
    .name = "tcp",
    .all_reduce = tcp_all_reduce,
    .all_gather = tcp_all_gather,
    .broadcast = tcp_broadcast,
    .abort = abort_tcp,
    .destroy = destroy_tcp,
};

/* ---- meeting ---- */

_Static_assert((int)TCP_PLACE_BYTES <= (int)WEIR_COMM_OFFER_BODY, "an offer");
_Static_assert(TCP_PLACE_BYTES *WEIR_MAX_RANKS <= WEIR_COMM_INVITE_BODY, "an invitation");

static weir_status open_seat(weir_comm_seat *s, char *offer, weir_err *e) {
  tcp_door *d = NULL;
  weir_status st = WEIR_NEW(1, &d, e);
  if (st != WEIR_OK) return st;
  s->impl = d;
  st = tcp_door_open(d, s->host, e);
  if (st == WEIR_OK) tcp_place_put(&d->place, offer);
  return st;
}

static void close_seat(weir_comm_seat *s) {
  tcp_door *d = s->impl;
  if (d) tcp_door_close(d);
  free(d);
  s->impl = NULL;
}

static bool is_same(const tcp_place *a, const tcp_place *b) {
  return a->port == b->port && strcmp(a->address, b->address) == 0 &&
         weir_secret_equal(a->secret, sizeof a->secret, b->secret, sizeof b->secret);
}

/* The offers, one behind the other. */
static weir_status invite(int32_t n_ranks, const char *const *offer, char *out, weir_err *e) {
  tcp_place place[WEIR_MAX_RANKS];
  for (int32_t r = 0; r < n_ranks; r++) {
    const char *end;
    weir_status st = tcp_place_parse(offer[r], &end, &place[r], e);
    if (st == WEIR_OK && *end) st = weir_fail(e, WEIR_EFORMAT, "an offer goes on after its end");
    for (int32_t k = 0; k < r && st == WEIR_OK; k++)
      if (is_same(&place[k], &place[r]))
        st = weir_fail(e, WEIR_EINVAL, "this is the offer of rank %d too", (int)k);
    if (st != WEIR_OK) return weir_fail_ctx(e, st, "rank %d", (int)r);
    if (r > 0) *out++ = ';';
    tcp_place_put(&place[r], out);
    out += strlen(out);
  }
  return WEIR_OK;
}

static weir_status read_invitation(const char *text, int32_t n_ranks, tcp_place *place, weir_err *e) {
  for (int32_t r = 0; r < n_ranks; r++) {
    const weir_status st = tcp_place_parse(text, &text, &place[r], e);
    if (st != WEIR_OK) return weir_fail_ctx(e, st, "place of rank %d", (int)r);
    if (*text != (r + 1 < n_ranks ? ';' : 0))
      return weir_fail(e, WEIR_EFORMAT, "an invitation for %d ranks has not as many places", (int)n_ranks);
    text += *text == ';';
  }
  return WEIR_OK;
}

static weir_status join_seat(weir_comm_seat *s, const char *text, int32_t n_ranks, int32_t rank,
                             weir_comm **out, weir_err *e) {
  weir_status st = WEIR_OK;
  const tcp_door *door = s->impl;
  tcp_place place[WEIR_MAX_RANKS];
  tcp *t = NULL;
  bool made = false;
  WEIR_TRY(read_invitation(text, n_ranks, place, e));
  if (!is_same(&place[rank], &door->place))
    WEIR_TRY(weir_fail(e, WEIR_EINVAL, "the invitation has another place for this rank"));
  WEIR_TRY(WEIR_NEW(1, &t, e));
  WEIR_TRY(weir_calloc_aligned((size_t)BLOCK_FLOATS + 16 * (size_t)n_ranks, sizeof *t->buf, "sums",
                               (void **)&t->buf, e));
  WEIR_TRY(tcp_group_init(&t->group, rank, n_ranks, s->bound_ns, e));
  made = true;
  WEIR_TRY(tcp_join(&t->group, door, place, e));
  t->comm = (weir_comm){.ops = &ops, .rank = rank, .n_ranks = n_ranks, .impl = t};
  *out = &t->comm;
  return WEIR_OK;
out:
  if (made) tcp_group_fini(&t->group);
  if (t) free(t->buf);
  free(t);
  return st;
}

const weir_comm_back weir_comm_tcp_back = {
    .device = "cpu",
    .open = open_seat,
    .close = close_seat,
    .invite = invite,
    .join = join_seat,
};
