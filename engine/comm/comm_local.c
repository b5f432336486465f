/* SPDX-License-Identifier: Apache-2.0 */
/* The communicator of ranks on one GPU: what goes to the host's meetings (local_group.h) and what to the
 * device. Owns its place in the group. The thread that owns the rank's device, any for abort. */
#include "comm/comm_local.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "comm/local_group.h"

typedef struct local {
  weir_comm comm;
  weir_dev *dev; /* borrowed */
  weir_local_group *group;
  weir_peers peers;
} local;

/* ---- exchanges ---- */

/* Everybody is ready to launch, launches, has launched: until then nobody goes on to what may wait for the
 * GPU.
 */
static weir_status exchange(weir_comm *c, const weir_exchange *x, weir_err *e) {
  local *l = c->impl;
  const weir_local_call ready = {(weir_local_what)x->what, x->bytes, x->root};
  const weir_local_call launched = {.what = WEIR_LOCAL_LAUNCHED};
  weir_err why = {0};
  weir_status st = weir_local_group_meet(l->group, c->rank, &ready, NULL, e);
  if (st != WEIR_OK) return st;
  st = weir_op_exchange(l->dev, &l->peers, x, &why);
  if (st == WEIR_OK) return weir_local_group_meet(l->group, c->rank, &launched, NULL, e);
  (void)weir_fail_ctx(&why, st, "rank %d", (int)c->rank);
  weir_local_group_end(l->group, why.msg);
  if (e) *e = why;
  return st;
}

static weir_status all_reduce(weir_comm *c, float *x, size_t n, weir_err *e) {
  return exchange(c, &(weir_exchange){.what = WEIR_PEER_REDUCE, .out = x, .in = x, .bytes = n * sizeof *x},
                  e);
}

static weir_status all_gather(weir_comm *c, void *out, const void *in, size_t bytes, weir_err *e) {
  return exchange(c, &(weir_exchange){.what = WEIR_PEER_GATHER, .out = out, .in = in, .bytes = bytes}, e);
}

static weir_status broadcast(weir_comm *c, void *data, size_t bytes, int32_t root, weir_err *e) {
  return exchange(
      c, &(weir_exchange){.what = WEIR_PEER_BROADCAST, .out = data, .in = data, .bytes = bytes, .root = root},
      e);
}

/* ---- waits ---- */

static weir_status waited(void *ctx, weir_status st, weir_err *e) {
  local *l = ctx;
  if (st == WEIR_OK) return weir_local_group_look(l->group, e);
  /* The others would wait for this rank's kernels in vain. */
  char why[WEIR_ERR_MSG_BYTES];
  snprintf(why, sizeof why, "rank %d: %.480s", (int)l->comm.rank, e ? e->msg : weir_status_name(st));
  weir_local_group_end(l->group, why);
  return st;
}

static weir_status recorded(void *ctx, bool *ok, weir_err *e) {
  local *l = ctx;
  const weir_local_call call = {.what = WEIR_LOCAL_RECORDED};
  return weir_local_group_meet(l->group, l->comm.rank, &call, ok, e);
}

/* ---- a communicator's life ---- */

static void local_abort(weir_comm *c, const char *why) {
  local *l = c->impl;
  weir_local_group_end(l->group, why);
}

/* Kernels under way have the parts' addresses: the stream is waited for, which the group's bound ends. */
static void destroy(weir_comm *c) {
  local *l = c->impl;
  weir_dev_set_watch(l->dev, NULL);
  (void)weir_dev_sync(l->dev, NULL);
  weir_local_group_leave(l->group, c->rank, l->dev);
  free(l);
}

static const weir_comm_ops ops = {
    .name = "local",
    .all_reduce = all_reduce,
    .all_gather = all_gather,
    .broadcast = broadcast,
    .abort = local_abort,
    .destroy = destroy,
};

/* ---- meeting ---- */

/* "process 17 GPU 0": two words with a number from 0 each; what follows is not looked at. */
static bool parse(const char *s, const char *first, int64_t *a, const char *second, int64_t *b) {
  int64_t *const to[] = {a, b};
  const char *const word[] = {first, second};
  for (int i = 0; i < 2; i++) {
    const size_t n = strlen(word[i]);
    if (strncmp(s, word[i], n) != 0) return false;
    const size_t digits = strspn(s + n, "0123456789");
    if (digits == 0 || digits > 18) return false; /* what an int64_t holds */
    *to[i] = (int64_t)strtoll(s + n, NULL, 10);
    s += n + digits;
  }
  return true;
}

static weir_status local_open(weir_comm_seat *s, char *offer, weir_err *e) {
  const weir_status st = weir_dev_check_peers(s->dev, 1, e);
  if (st == WEIR_OK)
    snprintf(offer, WEIR_COMM_OFFER_BODY, "process %ld GPU %d", (long)getpid(), (int)s->dev->gpu - 1);
  return st;
}

static void local_close(weir_comm_seat *s) { (void)s; }

static weir_status local_invite(int32_t n_ranks, const char *const *offer, char *out, weir_err *e) {
  int64_t process, gpu, first_gpu = 0;
  for (int32_t r = 0; r < n_ranks; r++) {
    if (!parse(offer[r], "process ", &process, " GPU ", &gpu))
      return weir_fail(e, WEIR_EFORMAT, "rank %d: \"%.60s\" is no offer", (int)r, offer[r]);
    if (r == 0) first_gpu = gpu;
    if (process != (int64_t)getpid())
      return weir_fail(e, WEIR_EUNSUP, "rank %d is in another process: ranks are threads of one", (int)r);
    if (gpu != first_gpu)
      return weir_fail(e, WEIR_EUNSUP, "rank %d is on GPU %lld, rank 0 on GPU %lld: nccl is for that", (int)r,
                       (long long)gpu, (long long)first_gpu);
  }
  snprintf(out, WEIR_COMM_INVITE_BODY, "process %ld group %" PRIu64, (long)getpid(),
           weir_local_group_number());
  return WEIR_OK;
}

/* The rank's own part, zero before anybody can look at it. */
static weir_status take_part(weir_dev *dev, int32_t rank, void **part, void **stop, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_dev_alloc(dev, WEIR_PEER_PART_BYTES, part, e));
  if (rank == 0) WEIR_TRY(weir_dev_map_host(dev, sizeof(uint32_t), stop, e));
  WEIR_TRY(weir_dev_sync(dev, e));
out:
  if (st != WEIR_OK) {
    weir_dev_unmap_host(dev, *stop);
    if (*part) weir_dev_release(dev, *part);
  }
  return st;
}

static weir_status local_join(weir_comm_seat *s, const char *invite, int32_t n_ranks, int32_t rank,
                              weir_comm **out, weir_err *e) {
  weir_status st = WEIR_OK;
  local *l = NULL;
  void *part = NULL, *stop = NULL;
  int64_t process, number;
  if (!parse(invite, "process ", &process, " group ", &number) || process != (int64_t)getpid())
    return weir_fail(e, WEIR_EUNSUP, "the invitation is of another process: ranks are threads of one");
  WEIR_TRY(weir_dev_check_peers(s->dev, n_ranks, e));
  WEIR_TRY(WEIR_NEW(1, &l, e));
  WEIR_TRY(take_part(s->dev, rank, &part, &stop, e));
  WEIR_TRY(
      weir_local_group_enter((uint64_t)number, rank, n_ranks, s->dev, part, stop, s->bound_ns, &l->group, e));
  l->dev = s->dev;
  l->comm = (weir_comm){.ops = &ops, .rank = rank, .n_ranks = n_ranks, .impl = l};
  weir_local_group_peers(l->group, rank, &l->peers);
  weir_dev_set_watch(s->dev, &(weir_dev_watch){.end = waited, .made = recorded, .ctx = l});
  *out = &l->comm;
  l = NULL;

out:
  free(l);
  return st;
}

const weir_comm_back weir_comm_local_back = {
    .device = "cuda",
    .max_ranks = WEIR_PEER_RANKS,
    .open = local_open,
    .close = local_close,
    .invite = local_invite,
    .join = local_join,
};
