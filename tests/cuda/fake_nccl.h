/* SPDX-License-Identifier: Apache-2.0 */
/* A libnccl.so.2 of the tests' own, over threads and the emulator's streams: what it counts and what a test
 * can make go wrong. It is stricter than NCCL: a call while the last one is not through, or with a
 * communicator that is no more, is a misuse. The library exports fake_nccl_tests_of besides NCCL's calls. */
#ifndef WEIR_TESTS_CUDA_FAKE_NCCL_H
#define WEIR_TESTS_CUDA_FAKE_NCCL_H
#include <stdbool.h>

typedef struct fake_nccl_plan {
  int polls;         /* questions that are answered "in progress" after each call, before it takes effect */
  bool init_never;   /* joining never ends */
  bool duplicate;    /* joining ends as on two ranks with one GPU */
  int refuse_call;   /* the n-th collective from now is refused at once (1: the next) */
  int refuse_memory; /* the same of an allocation */
} fake_nccl_plan;

typedef struct fake_nccl_counts {
  int made, finalized, destroyed, aborted; /* communicators */
  int alive;                               /* of them */
  int calls, recorded, run;                /* collectives: all; put into a record; come to by a stream */
  int windows, memory;                     /* alive */
  int misuses;
} fake_nccl_counts;

typedef struct fake_nccl_tests {
  void (*reset)(const fake_nccl_plan *); /* nothing may be alive */
  void (*plan)(const fake_nccl_plan *);
  fake_nccl_counts (*counts)(void);
  const char *(*misuse)(void); /* the last one in words */
  void (*break_rank)(int rank,
                     int result); /* that rank's communicator has an error (a ncclResult_t) from now on */
} fake_nccl_tests;
typedef const fake_nccl_tests *(*fake_nccl_tests_fn)(void);

#endif
