/* SPDX-License-Identifier: Apache-2.0 */
/* What every communicator promises (comm/comm.h), as checks that any back end's test runs: sums, gathers and
 * broadcasts of all sizes, and that nothing waits for ever. Ranks are threads here, which meet through
 * comm/meet.h as in the engine; comm_procs.h does it with processes. A check that fails calls fail_msg. */
#ifndef TESTS_UNIT_COMM_COMM_CONF_H
#define TESTS_UNIT_COMM_COMM_CONF_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "comm/comm.h"
#include "comm/meet.h"
#include "kernels/device.h"

typedef struct comm_conf {
  weir_comm_kind kind;
  /* The device of a rank, borrowed; the same for the same rank. NULL: ranks work in host memory. */
  weir_dev *(*dev)(void *ctx, int32_t rank);
  void *ctx;
  bool in_order; /* sums are added in order of rank, to the bit; else to rounding, and the same everywhere */
  bool compares; /* ranks that call different things are told so */
  size_t most;   /* numbers of the largest all_reduce */
  const char *host; /* of weir_comm_seat_opts */
} comm_conf;

/* ---- ranks as threads ---- */
typedef struct conf_rank {
  const comm_conf *conf;
  int32_t rank, n_ranks;
  weir_dev *dev;   /* NULL: host memory */
  weir_comm *comm; /* destroyed after the rank's function, unless it set it to NULL */
  void *ctx;       /* of conf_ranks */
  char fault[600]; /* what the rank found wrong: conf_fault */
} conf_rank;
void conf_fault(conf_rank *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Makes a group of n threads and runs fn in each; fails the test when a rank could not join or found a fault.
 */
void conf_ranks(const comm_conf *, int32_t n, int64_t bound_ns, void (*fn)(conf_rank *), void *ctx);

/* ---- the checks, each with groups of its own of n ranks ---- */
void conf_check_sums(const comm_conf *, int32_t n);
void conf_check_copies(const comm_conf *, int32_t n); /* all_gather, broadcast */
void conf_check_mixed(const comm_conf *, int32_t n);  /* hundreds of calls of all kinds, one after another */
void conf_check_mismatch(const comm_conf *, int32_t n);
void conf_check_late(const comm_conf *, int32_t n);
void conf_check_patience(const comm_conf *, int32_t n); /* the bound is of a call, not of the group */
void conf_check_abort(const comm_conf *, int32_t n);
void conf_check_left(const comm_conf *, int32_t n);
void conf_check_absent(const comm_conf *, int32_t n); /* one does not join */
void conf_check_all(const comm_conf *, int32_t n);    /* those above; n is 2 or more */

/* ---- parts of them, for ranks that are no threads of conf_ranks ---- */
/* Whether all was right; else r->fault says what was not. What came out is added to *hash. */
bool conf_do_sums(conf_rank *, uint64_t *hash);
bool conf_do_copies(conf_rank *, uint64_t *hash);
bool conf_do_mixed(conf_rank *, uint64_t *hash);
/* One small all_reduce; waits for a device. */
weir_status conf_call(conf_rank *, size_t n, weir_err *);

/* ---- what a test leaves behind ---- */
typedef struct conf_traces {
  int files, threads, maps, names; /* open files, threads, mappings of shared memory, names in /dev/shm */
} conf_traces;
conf_traces conf_traces_now(void);
void conf_check_traces(conf_traces before);

int64_t conf_now_ns(void);

#endif
