/* SPDX-License-Identifier: Apache-2.0 */
/* What a leader and its workers say to each other, as bytes: flat, little-endian, every array with its count
 * before it. What comes from outside is checked against its own length, against these bounds, and steps
 * against the plan too; a message that does not end where it says it does is refused. Pure functions.
 *
 *   worker                            leader
 *   HELLO model, nodes, ranks   ->
 *                               <-    PLAN (or REFUSED: it is not to come again)
 *   PROGRESS percent ...        ->
 *   LOADED room                 ->
 *                               <-    SEATS group, pages: a group is to be made
 *   OFFERS of its ranks         ->
 *                               <-    INVITE
 *   READY                       ->
 *                               <-    STEP batch, any number of times; a step that goes well is not answered
 *   FAILED rank, why            ->    at any time in a group
 *                               <-    ABORT why, likewise: the group is over
 *
 * Who the other is, that it lives, and goodbye are the crew's (comm/crew.h). */
#ifndef WEIR_RUN_TP_WIRE_H
#define WEIR_RUN_TP_WIRE_H
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "comm/meet.h"
#include "run/tp.h"
#include "step/step.h"

typedef enum {
  WEIR_TP_HELLO = 1,
  WEIR_TP_PLAN,
  WEIR_TP_REFUSED,
  WEIR_TP_PROGRESS,
  WEIR_TP_LOADED,
  WEIR_TP_SEATS,
  WEIR_TP_OFFERS,
  WEIR_TP_INVITE,
  WEIR_TP_READY,
  WEIR_TP_FAILED,
  WEIR_TP_ABORT,
  WEIR_TP_STEP,
  WEIR_TP_LAST = WEIR_TP_STEP
} weir_tp_kind;

enum { WEIR_TP_WIRE_VERSION = 3, WEIR_TP_WHY_BYTES = 400 /* with the NUL */ };

/* All messages but STEP. Which fields a kind has is said beside them; others are not sent and read as 0. */
typedef struct weir_tp_msg {
  weir_tp_kind kind;
  uint64_t group;           /* SEATS to ABORT: which one; each attempt to make one has a number of its own */
  uint64_t model;           /* HELLO */
  int32_t n_nodes, n_local; /* HELLO */
  weir_tp_plan plan;        /* PLAN */
  int64_t bound_ns;         /* PLAN */
  int32_t percent;          /* PROGRESS: 0 to 100 */
  int64_t room;             /* LOADED: KV tokens; -1: any number */
  int32_t n_pages;          /* SEATS */
  int32_t rank;             /* FAILED: of the group; -1: not one of the ranks but the process */
  int32_t n_offers;         /* OFFERS: in order of rank, n_local of them */
  char why[WEIR_TP_WHY_BYTES]; /* REFUSED, FAILED, ABORT; one line */
  char offer[WEIR_MAX_RANKS][WEIR_COMM_OFFER_BYTES];
  char invite[WEIR_COMM_INVITE_BYTES]; /* INVITE */
} weir_tp_msg;

/* What the bytes claim to be, of any kind. WEIR_EFORMAT when they are no message, WEIR_EUNSUP when they are
 * of another version. */
weir_status weir_tp_wire_kind(const void *data, size_t bytes, weir_tp_kind *out, weir_err *e);
/* Appends; texts are cut to what they may be, numbers are sent as they are. */
weir_status weir_tp_msg_put(const weir_tp_msg *, weir_buf *out, weir_err *e);
weir_status weir_tp_msg_get(const void *data, size_t bytes, weir_tp_msg *out, weir_err *e);

typedef struct weir_tp_step {
  uint64_t group, number; /* steps of a group are counted from 1 */
  weir_batch batch;
} weir_tp_step;

/* Replaces what is in `out`. The batch has passed weir_batch_check. */
weir_status weir_tp_step_put(const weir_tp_step *, weir_buf *out, weir_err *e);
/* The batch looks into `data`, which is to be aligned to 8 bytes and to outlive it, and into ask[max_tokens].
 * It has passed weir_batch_check when this returns WEIR_OK. */
weir_status weir_tp_step_get(const void *data, size_t bytes, const weir_exec_info *limits, weir_ask *ask,
                             weir_tp_step *out, weir_err *e);
/* The same of bytes that weir_tp_step_put has written here, of a batch that has passed the check. */
weir_status weir_tp_step_view(const void *data, size_t bytes, const weir_exec_info *limits, weir_ask *ask,
                              weir_tp_step *out, weir_err *e);

#endif
