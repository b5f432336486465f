/* SPDX-License-Identifier: Apache-2.0 */
/* How ranks find each other, the part that is the same for all kinds: seats are made on the right device,
 * offers and invitations get a head that says version, kind and number of ranks ("weir-comm 1 shm 4 ..."),
 * and what comes from outside is checked before a back end sees it. Owns seats; any thread. */
#include "comm/meet.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "comm/meet_in.h"

#define FORMAT "weir-comm 1 " /* the number changes with what back ends write */

static const int64_t default_bound_ns = INT64_C(10000000000);

static const char *const names[WEIR_N_COMMS] = {
    [WEIR_COMM_SELF] = "self", [WEIR_COMM_SHM] = "shm",     [WEIR_COMM_TCP] = "tcp",
    [WEIR_COMM_NCCL] = "nccl", [WEIR_COMM_LOCAL] = "local",
};

static bool is_kind(weir_comm_kind k) { return (unsigned)k < WEIR_N_COMMS; }

const char *weir_comm_kind_name(weir_comm_kind k) { return is_kind(k) ? names[k] : "unknown"; }

bool weir_comm_kind_parse(const char *name, weir_comm_kind *out) {
  for (int k = 0; k < WEIR_N_COMMS; k++)
    if (strcmp(name, names[k]) == 0) {
      *out = (weir_comm_kind)k;
      return true;
    }
  return false;
}

static int32_t max_ranks(weir_comm_kind k) {
  const int32_t most = weir_comm_backs[k]->max_ranks;
  return most ? most : WEIR_MAX_RANKS;
}

static weir_status check_built(weir_comm_kind k, weir_err *e) {
  if (!is_kind(k)) return weir_fail(e, WEIR_EINVAL, "communicator of kind %d: there is none", (int)k);
  if (!weir_comm_backs[k])
    return weir_fail(e, WEIR_EUNSUP, "communicator %s: this build of weir has none", names[k]);
  return WEIR_OK;
}

weir_status weir_comm_kind_check(weir_comm_kind k, weir_err *e) {
  weir_status st = check_built(k, e);
  if (st != WEIR_OK || !weir_comm_backs[k]->check) return st;
  st = weir_comm_backs[k]->check(e);
  return st == WEIR_OK ? st : weir_fail_ctx(e, st, "communicator %s", names[k]);
}

/* ---- heads ---- */

static bool is_printable(const char *s, size_t cap) {
  const size_t n = strnlen(s, cap);
  for (size_t i = 0; i < n; i++)
    if (s[i] < 0x20 || s[i] > 0x7e) return false;
  return n < cap;
}

/* "weir-comm 1 shm 4 "; *len its length, below WEIR_COMM_HEAD_BYTES. An offer knows of one rank: its own. */
static void put_head(weir_comm_kind k, int32_t n_ranks, char *out, size_t *len) {
  *len = (size_t)snprintf(out, WEIR_COMM_HEAD_BYTES, FORMAT "%s %d ", names[k], (int)n_ranks);
}

/* The body behind the head, NULL when the text is none of weir's or of another kind. */
static const char *after_head(const char *text, size_t cap, const char *what, weir_comm_kind k,
                              int32_t *n_ranks, weir_err *e) {
  const size_t fixed = sizeof FORMAT - 1, name = strlen(names[k]);
  if (!text || !is_printable(text, cap) || strncmp(text, FORMAT, fixed) != 0) {
    weir_fail(e, WEIR_EFORMAT, "this is no %s of this version of weir", what);
    return NULL;
  }
  const char *at = text + fixed;
  if (strncmp(at, names[k], name) != 0 || at[name] != ' ') {
    weir_fail(e, WEIR_EINVAL, "an %s for a communicator of kind %.*s, where %s is wanted", what,
              (int)strcspn(at, " "), at, names[k]);
    return NULL;
  }
  at += name + 1;
  int32_t n = 0;
  const char *const digits = at;
  while (*at >= '0' && *at <= '9' && at - digits < 3) n = n * 10 + (*at++ - '0');
  if (at == digits || *at != ' ' || n < 1 || n > max_ranks(k)) {
    weir_fail(e, WEIR_EFORMAT, "an %s for %.*s ranks: %s has 1 to %d", what, (int)strcspn(digits, " "),
              digits, names[k], (int)max_ranks(k));
    return NULL;
  }
  *n_ranks = n;
  return at + 1;
}

/* ---- seats ---- */

static weir_status check_device(weir_comm_kind k, const weir_dev *dev, weir_err *e) {
  const char *const want = weir_comm_backs[k]->device;
  if (!want || (!dev && strcmp(want, "cpu") == 0)) return WEIR_OK;
  if (!dev) return weir_fail(e, WEIR_EINVAL, "communicator %s: a %s device is needed", names[k], want);
  if (strcmp(dev->ops->name, want) != 0)
    return weir_fail(e, WEIR_EINVAL, "communicator %s: ranks have %s devices, this one is %s", names[k], want,
                     dev->ops->name);
  return WEIR_OK;
}

static weir_status bad_option(weir_comm_kind k, const char *what, weir_err *e) {
  return weir_fail(e, WEIR_EINVAL, "communicator %s: %s", names[k], what);
}

weir_status weir_comm_seat_open(weir_comm_kind k, const weir_comm_seat_opts *o, weir_comm_seat **out,
                                weir_err *e) {
  weir_status st = WEIR_OK;
  weir_comm_seat *s = NULL;
  size_t head;
  *out = NULL;
  WEIR_TRY(weir_comm_kind_check(k, e));
  WEIR_TRY(check_device(k, o->dev, e));
  const char *const host = o->host && o->host[0] ? o->host : "127.0.0.1";
  if (!is_printable(host, sizeof s->host)) WEIR_TRY(bad_option(k, "the host's name is too long or odd", e));
  if (o->bound_ns < 0) WEIR_TRY(bad_option(k, "a bound below zero", e));
  WEIR_TRY(weir_calloc(1, sizeof *s, "seat of a communicator", (void **)&s, e));
  s->kind = k;
  s->dev = o->dev;
  s->bound_ns = o->bound_ns ? o->bound_ns : default_bound_ns;
  memcpy(s->host, host, strlen(host) + 1);
  s->back = weir_comm_backs[k];
  put_head(k, 1, s->offer, &head);
  st = s->back->open(s, s->offer + head, e);
  if (st != WEIR_OK) {
    weir_fail_ctx(e, st, "communicator %s", names[k]);
    goto out;
  }
  *out = s;
  s = NULL;

out:
  weir_comm_seat_close(s);
  return st;
}

void weir_comm_seat_close(weir_comm_seat *s) {
  if (!s) return;
  if (s->back) s->back->close(s);
  free(s);
}

const char *weir_comm_seat_offer(const weir_comm_seat *s) { return s->offer; }

/* ---- invitations ---- */

weir_status weir_comm_invite(weir_comm_kind k, int32_t n_ranks, const char *const *offer, char *out,
                             weir_err *e) {
  weir_status st = WEIR_OK;
  const char *body[WEIR_MAX_RANKS];
  size_t head;
  out[0] = 0;
  WEIR_TRY(check_built(k, e));
  if (n_ranks < 1 || n_ranks > max_ranks(k)) {
    st = weir_fail(e, WEIR_EINVAL, "communicator %s of %d ranks: 1 to %d are possible", names[k],
                   (int)n_ranks, (int)max_ranks(k));
    goto out;
  }
  for (int32_t r = 0; r < n_ranks; r++) {
    int32_t one;
    body[r] = after_head(offer[r], WEIR_COMM_OFFER_BYTES, "offer", k, &one, e);
    if (!body[r]) {
      st = weir_fail_ctx(e, WEIR_EFORMAT, "rank %d", (int)r);
      goto out;
    }
  }
  put_head(k, n_ranks, out, &head);
  st = weir_comm_backs[k]->invite(n_ranks, body, out + head, e);
  if (st != WEIR_OK) weir_fail_ctx(e, st, "communicator %s", names[k]);

out:
  if (st != WEIR_OK) out[0] = 0;
  return st;
}

weir_status weir_comm_join(weir_comm_seat *s, const char *invite, int32_t rank, weir_comm **out,
                           weir_err *e) {
  weir_status st = WEIR_OK;
  weir_err why = {0};
  int32_t n_ranks;
  *out = NULL;
  const char *const body = after_head(invite, WEIR_COMM_INVITE_BYTES, "invitation", s->kind, &n_ranks, &why);
  if (!body)
    st = why.code;
  else if (rank < 0 || rank >= n_ranks)
    st = weir_fail(&why, WEIR_EINVAL, "the invitation is for %d ranks", (int)n_ranks);
  else
    st = s->back->join(s, body, n_ranks, rank, out, &why);
  if (st != WEIR_OK) weir_fail(e, st, "communicator %s, rank %d: %s", names[s->kind], (int)rank, why.msg);
  weir_comm_seat_close(s);
  return st;
}
