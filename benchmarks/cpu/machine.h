/* SPDX-License-Identifier: Apache-2.0 */
/* What this machine gives at most, measured with a team like the engine's: bytes a second out of memory and
 * caches, operations a second out of registers, the cost of a fork and join, the clock. What a share of a
 * limit is a share of. Everything runs on the thread that calls and the team. */
#ifndef WEIR_BENCH_MACHINE_H
#define WEIR_BENCH_MACHINE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/pool.h"
#include "kernels/cpu/cpu.h"

typedef struct bench_machine {
  weir_dev *dev; /* borrowed: its instruction set, and memory as the engine has it */
  weir_pool *pool;
  weir_isa isa;
  void *mine;                          /* owned: what is restored of the calling thread */
  size_t l1_bytes, l2_bytes, l3_bytes; /* of data; as the system says, else what is usual */
} bench_machine;

/* A team as large as the device's. The calling thread stays on one core until it closes: the team leaves its
 * caller to the scheduler, and a limit must not depend on when that moves it off a worker's core. */
weir_status bench_machine_open(bench_machine *, weir_dev *, weir_err *);
void bench_machine_close(bench_machine *);

/* Of the repetitions in a time: the best is what the machine can do, for other programs only ever take; the
 * median is what it did in this minute. Units: what the function says. */
typedef struct bench_rate {
  double best, median;
} bench_rate;

/* How memory is walked through. What is fastest differs from machine to machine; the limit is the fastest. */
typedef enum {
  BENCH_READ,         /* each thread its part from one end to the other */
  BENCH_READ_AHEAD,   /* the same, asking for lines some way ahead */
  BENCH_READ_STREAMS, /* each thread four parts at once */
  BENCH_COPY,         /* into the second half of the buffer */
  BENCH_COPY_AROUND,  /* the same with stores that go around the caches */
  BENCH_WALKS
} bench_walk;

const char *bench_walk_name(bench_walk);
bool bench_walk_copies(bench_walk);

/* Memory as the device has it, and every page of it there: unwritten ones would all be the same page of
 * zeros. *out is released with weir_dev_release. */
weir_status bench_machine_alloc(const bench_machine *, size_t bytes, uint8_t **out, weir_err *);

/* Bytes a second, of all threads; of a copy both those read and those written count. `bytes` in all; buffers
 * that fit into caches are walked through many times a job. `data` is of bench_machine_alloc. */
bench_rate bench_machine_walk(const bench_machine *, bench_walk, uint8_t *data, size_t bytes, double seconds);

/* Operations that one instruction set has; a multiply-add counts two. */
typedef struct bench_peak {
  const char *name; /* "f32 avx2", ... */
  weir_isa isa;     /* that has it */
} bench_peak;

/* Those that this machine may execute, and their number. */
int32_t bench_machine_peaks(const bench_machine *, bench_peak *out, int32_t max);
/* Operations a second of all threads; 0 for what the machine has not. */
bench_rate bench_machine_peak(const bench_machine *, const char *name, double seconds);

/* Nanoseconds of a fork and join around nothing. The caller does the parts of workers that have not come, so
 * this is a lower bound. */
bench_rate bench_machine_fork_empty(const bench_machine *, double seconds);
/* Nanoseconds that a fork and join add to five microseconds of work on each thread. */
bench_rate bench_machine_fork_work(const bench_machine *, double seconds);

/* Cycles a second, of the slowest thread: of a chain of multiplications, three cycles each on every x86-64
 * core of the last fifteen years. */
bench_rate bench_machine_clock(const bench_machine *, double seconds);

#endif
