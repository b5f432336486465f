/* SPDX-License-Identifier: Apache-2.0 */
/* What comm/meet.c asks of a back end: one table for each kind, in the back end's file (or in its stub, whose
 * `check` says what is missing), and one line in meet_table.c. Texts pass here without what meet.c puts
 * before them (version, kind, number of ranks), which it has checked; they are printable ASCII, spaces
 * included. What comes in them is from outside all the same: parse it with care. */
#ifndef WEIR_COMM_MEET_IN_H
#define WEIR_COMM_MEET_IN_H
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "comm/comm.h"
#include "comm/meet.h"
#include "kernels/device.h"

enum {
  WEIR_COMM_HEAD_BYTES = 32,                                             /* what meet.c puts before a text */
  WEIR_COMM_OFFER_BODY = WEIR_COMM_OFFER_BYTES - WEIR_COMM_HEAD_BYTES,   /* with the NUL */
  WEIR_COMM_INVITE_BODY = WEIR_COMM_INVITE_BYTES - WEIR_COMM_HEAD_BYTES, /* likewise */
  WEIR_COMM_HOST_BYTES = 128
};

typedef struct weir_comm_back weir_comm_back;

struct weir_comm_seat {
  const weir_comm_back *back;
  weir_comm_kind kind;
  weir_dev *dev;                   /* borrowed; NULL is possible where `device` is "cpu": plain host memory */
  char host[WEIR_COMM_HOST_BYTES]; /* never empty */
  int64_t bound_ns;                /* > 0 */
  char offer[WEIR_COMM_OFFER_BYTES]; /* meet.c's, head and body */
  void *impl;                        /* the back end's own; NULL before open */
};

struct weir_comm_back {
  /* weir_dev_ops.name that a rank's device must have: "cpu", "cuda"; NULL: any, or none. */
  const char *device;
  int32_t max_ranks; /* 0: WEIR_MAX_RANKS */
  /* Whether build and machine have it; NULL: always. Called before each open. */
  weir_status (*check)(weir_err *);
  /* Fills s->impl and the offer's body (cap WEIR_COMM_OFFER_BODY; may stay empty). After a failure close is
   * called. */
  weir_status (*open)(weir_comm_seat *s, char *offer, weir_err *);
  /* Releases what s->impl still holds, and nothing else of s; impl may be NULL. Called once for each seat,
   * after join too. */
  void (*close)(weir_comm_seat *s);
  /* offer[n_ranks]: bodies, in order of rank; the invitation's body goes to out (cap WEIR_COMM_INVITE_BODY).
   */
  weir_status (*invite)(int32_t n_ranks, const char *const *offer, char *out, weir_err *);
  /* 0 <= rank < n_ranks have been checked, against the seat's kind and max_ranks too. Fills all of *out, a
   * communicator that owns what it needs: what it takes out of s->impl is to be gone from there. */
  weir_status (*join)(weir_comm_seat *s, const char *invite, int32_t n_ranks, int32_t rank, weir_comm **out,
                      weir_err *);
};

/* By kind; NULL: not in this build. meet_table.c. */
extern const weir_comm_back *const weir_comm_backs[WEIR_N_COMMS];

extern const weir_comm_back weir_comm_self_back, weir_comm_shm_back, weir_comm_tcp_back, weir_comm_nccl_back,
    weir_comm_local_back;

#endif
