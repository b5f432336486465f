/* SPDX-License-Identifier: Apache-2.0 */
/* A file of receipts read again: every decision derived by the policy, tokens and receipts compared. */
#ifndef WEIR_PROGRAMS_REPLAY_FILE_H
#define WEIR_PROGRAMS_REPLAY_FILE_H
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "cascade/replay.h"

typedef struct weir_replay_report {
  int64_t lines, requests, decisions, tokens, switches;
  int64_t by_reason[WEIR_GAVE_UP + 1];
  int64_t by_why[WEIR_WHY_ROUTED + 1], wanted_up; /* of tokens */
} weir_replay_report;

typedef struct weir_replay_reader weir_replay_reader;

weir_status weir_replay_reader_create(weir_replay_reader **out, weir_err *e);
void weir_replay_reader_destroy(weir_replay_reader *);
/* The next line, without its end. WEIR_EINVAL: it contradicts what was before it or what the policy says;
 * WEIR_EFORMAT: it is none of the file's. The message begins with the number of the line. */
weir_status weir_replay_reader_line(weir_replay_reader *, const char *line, size_t len, weir_err *e);
/* The file ends here: WEIR_EINVAL when a request does not. */
weir_status weir_replay_reader_end(weir_replay_reader *, weir_replay_report *out, weir_err *e);
/* What was read so far. */
weir_replay_report weir_replay_reader_report(const weir_replay_reader *);

#endif
