/* SPDX-License-Identifier: Apache-2.0 */
/* A leader with its worker processes, for tests: it is begun and ended, dies and lives again. Failures end
 * the test. */
#ifndef WEIR_TESTS_TP_CROWD_H
#define WEIR_TESTS_TP_CROWD_H
#include <stdint.h>

#include "tp_procs.h"
#include "tp_rig.h"

#define SECOND  INT64_C(1000000000)
#define LONG_NS (60 * SECOND) /* for what takes a moment, on a machine with other things to do */

enum { CROWD_WORKERS = 3 };
#define CROWD_MODEL "llama-F32"

typedef struct crowd {
  rig r;
  proc worker[CROWD_WORKERS]; /* node i is worker[i - 1] */
  char addr[128];
} crowd;

/* Over ipc and shared memory, until r.o and addr are changed; bound_ns 0: 20 s. */
void crowd_prepare(crowd *, int32_t n_nodes, int32_t n_local, int64_t bound_ns);
proc_opts crowd_worker_opts(const crowd *, int32_t node);
void crowd_start_worker(crowd *, int32_t node);
/* The workers that were not started yet, and the leader. */
void crowd_begin(crowd *);
void crowd_end(crowd *);

/* That it computes what one rank does. */
void crowd_expect_talk(crowd *, const char *what);
/* Waits until the executor is dead; its reason has all the words. */
void crowd_expect_dead(crowd *, int64_t within_ns, const char *const *word);
/* Waits until it lives again, not for long, and talks. */
void crowd_expect_alive(crowd *, uint64_t life, const char *what);

/* main of a program of such tests: the process that was asked for, or the tests; what one rank says comes
 * first. Each is to leave as many threads and descriptors as it found. */
struct CMUnitTest;
int crowd_main(int argc, char **argv, const struct CMUnitTest *tests, size_t n_tests);
int crowd_remember(void **state);
int crowd_compare(void **state);
#define CROWD_TEST(f) cmocka_unit_test_setup_teardown(f, crowd_remember, crowd_compare)

#endif
