/* SPDX-License-Identifier: Apache-2.0 */
/* One decision about one request, as told to whoever keeps a log: what the policy was asked, what it saw and
 * what came of it. Replayed in order (cascade/replay.h), decisions give the text and its receipts again. */
#ifndef WEIR_CASCADE_DECISION_H
#define WEIR_CASCADE_DECISION_H
#include <stdbool.h>
#include <stdint.h>

#include "cascade/policy.h"
#include "cascade/receipt.h"

typedef enum {
  WEIR_DID_OBSERVE, /* rows of a need came in: weir_cascade_need, _observe, _apply */
  WEIR_DID_GIVE_UP, /* weir_cascade_give_up, _apply */
  WEIR_DID_SETTLE,  /* weir_cascade_settle, _apply */
  WEIR_DID_SWITCH   /* weir_cascade_switch to another configuration */
} weir_did;
enum { WEIR_N_DID = WEIR_DID_SWITCH + 1 };

const char *weir_did_name(weir_did);       /* "observe", "give_up", "settle", "switch"; never NULL */
const char *weir_reason_name(weir_reason); /* "wrote", "replaced", ...; never NULL */

/* Everything is borrowed for the call. */
typedef struct weir_decision {
  weir_did did;
  int32_t lo, hi;             /* tiers that were up */
  int32_t asked_lo, asked_hi; /* observe: when the need arose */
  weir_need need;             /* observe */
  const weir_row *row;        /* observe: [n_rows] */
  int32_t n_rows;
  float tau, share;            /* in force: gate[0].threshold, route.share */
  weir_effect fx;              /* but of switch */
  const weir_cascade_cfg *cfg; /* switch */
  const int32_t *forced;       /* [n_forced] tokens appended behind that, nothing else might follow */
  int32_t n_forced;
  int32_t n;       /* tokens afterwards, the prompt's too */
  bool ended;      /* they end the text */
  int64_t wait_ns; /* since the need arose */
} weir_decision;

#endif
