/* SPDX-License-Identifier: Apache-2.0 */
/* What is told of mode auto. */
#ifndef WEIR_SERVE_AUTO_STATS_H
#define WEIR_SERVE_AUTO_STATS_H
#include <stdint.h>

#include "cascade/quality.h"

typedef struct weir_auto_stats {
  weir_auto_mode mode[WEIR_N_QUALITIES]; /* in force, by floor */
  int64_t switches, probes;              /* of all floors; probes: short trials, not among the switches */
  int64_t tokens[WEIR_N_AUTO_MODES];     /* committed, by the mode they were written under */
  double load;                           /* requests under way, of late */
  /* Tokens a second at that load, prompts included; 0: not known. Predicted: what the controller goes by, its
   * correction by earlier measurements applied. Measured: when the mode ran at about this load. */
  double predicted[WEIR_N_AUTO_MODES], measured[WEIR_N_AUTO_MODES];
} weir_auto_stats;

#endif
