/* SPDX-License-Identifier: Apache-2.0 */
/* How the ranks of a group find each other, the same for all back ends: each takes a seat, the seats' offers
 * are brought to rank 0 by whoever can, rank 0 makes one invitation of them, and with it every rank joins.
 * Offers and invitations are short printable texts. */
#ifndef WEIR_COMM_MEET_H
#define WEIR_COMM_MEET_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "comm/comm.h"
#include "kernels/device.h"

typedef enum {
  WEIR_COMM_SELF,
  WEIR_COMM_SHM,
  WEIR_COMM_TCP,
  WEIR_COMM_NCCL,
  WEIR_COMM_LOCAL,
  WEIR_N_COMMS
} weir_comm_kind;
const char *weir_comm_kind_name(weir_comm_kind); /* "self", "shm", ... */
bool weir_comm_kind_parse(const char *name, weir_comm_kind *out);
/* Whether this build and machine have it; the error says what is missing. */
weir_status weir_comm_kind_check(weir_comm_kind, weir_err *e);

enum {
  WEIR_COMM_OFFER_BYTES = 192,   /* with the NUL */
  WEIR_COMM_INVITE_BYTES = 16384 /* 64 ranks' addresses, NCCL's 128 bytes in hexadecimal; with the NUL */
};

typedef struct weir_comm_seat weir_comm_seat;
typedef struct weir_comm_seat_opts {
  weir_dev *dev; /* of the rank; borrowed for the communicator's life. NULL: host memory (self, shm, tcp) */
  const char
      *host; /* tcp: the name or address under which the other machines reach this one; NULL: 127.0.0.1 */
  int64_t bound_ns; /* no call lasts longer, joining included; 0: 10 s */
} weir_comm_seat_opts;
weir_status weir_comm_seat_open(weir_comm_kind, const weir_comm_seat_opts *, weir_comm_seat **out,
                                weir_err *e);
void weir_comm_seat_close(weir_comm_seat *); /* one that did not join; NULL is fine */
const char *weir_comm_seat_offer(const weir_comm_seat *);

/* Rank 0's part: offers in order of rank. `out` has room for WEIR_COMM_INVITE_BYTES. */
weir_status weir_comm_invite(weir_comm_kind, int32_t n_ranks, const char *const *offer, char *out,
                             weir_err *e);
/* Takes the seat, on failure too. Returns when all ranks are there, or says who is not when the bound is
 * over. An invitation is good for one group. */
weir_status weir_comm_join(weir_comm_seat *takes, const char *invite, int32_t rank, weir_comm **out,
                           weir_err *e);

#endif
