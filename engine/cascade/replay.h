/* SPDX-License-Identifier: Apache-2.0 */
/* A request once more, from the log of its decisions: each is derived again by the policy and held against
 * what the log says. Owns copies of all it is given; any thread. */
#ifndef WEIR_CASCADE_REPLAY_H
#define WEIR_CASCADE_REPLAY_H
#include "base/err.h"
#include "cascade/decision.h"

enum { WEIR_REPLAY_PROMPT = 1 << 24, WEIR_REPLAY_TOKENS = 1 << 20 }; /* at most */

typedef struct weir_replay {
  weir_cascade_cfg cfg;
  weir_gate_map map; /* what the gate looks up, where it does */
  weir_cascade cascade;
  weir_view view;
  int32_t *tok; /* [cap], of positions; the prompt's are 0: nothing looks at them */
  weir_receipt *receipt;
  int32_t n_prompt, cap;
  int64_t n_decisions, by_reason[WEIR_GAVE_UP + 1], n_switches;
} weir_replay;

/* A request as it was taken: its configuration (copied, with the gate's map), the length of its prompt, and
 * tokens that were forced before anybody was asked. WEIR_EINVAL: it cannot be one. */
weir_status weir_replay_begin(weir_replay *, const weir_cascade_cfg *, bool pinned, int32_t n_prompt,
                              const int32_t *forced, int32_t n_forced, bool ended, weir_err *e);
/* WEIR_EINVAL: the policy says something else, and the message what. The replay is of no use afterwards. */
weir_status weir_replay_decide(weir_replay *, const weir_decision *, weir_err *e);
void weir_replay_fini(weir_replay *);

#endif
