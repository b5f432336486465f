/* SPDX-License-Identifier: Apache-2.0 */
/* The line that a server logs every few seconds while it works. Pure: two readings of the engine's numbers
 * in, text out. */
#ifndef WEIR_PROGRAMS_SERVE_STATUS_H
#define WEIR_PROGRAMS_SERVE_STATUS_H
#include <stdbool.h>
#include <stdint.h>

#include "base/log.h"
#include "serve/engine.h"

enum { WEIR_STATUS_TEXT_BYTES = 512, WEIR_STATUS_MAX_FIELDS = 12 };

typedef struct weir_serve_status {
  int32_t n_tiers;
  const char *tier_name[WEIR_MAX_TIERS]; /* borrowed */
  weir_engine_stats last;                /* as they stood at last_ns */
  int64_t last_ns;
  bool told_slower; /* that the large model alone would be faster */
  char text[WEIR_STATUS_TEXT_BYTES];
  weir_log_field field[WEIR_STATUS_MAX_FIELDS]; /* [n_fields] the same numbers for readers of JSON */
  int32_t n_fields;
} weir_serve_status;

/* now: what the engine has counted until now_ns. */
void weir_serve_status_init(weir_serve_status *, int32_t n_tiers, const char *const *tier_name,
                            const weir_engine_stats *now, int64_t now_ns);
/* Whether something happened since the last call, or is under way: then text and fields say what. */
bool weir_serve_status_next(weir_serve_status *, const weir_engine_stats *now, int64_t now_ns);
/* True once, when the engine has measured that the large model alone would be faster; then text says so. */
bool weir_serve_status_slower(weir_serve_status *, const weir_engine_stats *now);

#endif
