/* SPDX-License-Identifier: Apache-2.0 */
/* Receipts: for every generated token who wrote it, what the gate saw there, and why. Pure; the array belongs
 * to the caller and is indexed by position, like the tokens. */
#ifndef WEIR_CASCADE_RECEIPT_H
#define WEIR_CASCADE_RECEIPT_H
#include <stdbool.h>
#include <stdint.h>

#include "cascade/policy.h"

typedef struct weir_receipt {
  float entropy;  /* nats, of the lowest tier that looked at this position; NAN where none did (held tokens,
                     the  token after a full window). For a deferred token this is what made the gate defer. */
  float tau;      /* the gate's threshold then; NAN likewise */
  uint8_t tier;   /* who wrote the token */
  uint8_t why;    /* weir_why */
  bool wanted_up; /* a gate wanted a higher tier that was not there */
} weir_receipt;

/* An empty entry at position n: call once with the length of the prompt. */
void weir_receipts_begin(weir_receipt *r, int32_t n);
/* Notes an effect: between observe and apply, with n the view's length before apply. Needs room for r[n + 1].
 */
void weir_receipts_note(weir_receipt *r, int32_t n, const weir_effect *e);

/* The token at n was forced (weir_cascade_force) while `tier` had the pen. Likewise. */
void weir_receipts_force(weir_receipt *r, int32_t n, int32_t tier);

/* "easy", "kept", "replaced", "deferred", "window", "hold", "forced", "routed"; "none" for an empty entry. Never NULL. */
const char *weir_why_name(weir_why why);

#endif
