/* SPDX-License-Identifier: Apache-2.0 */
/* Repetition of one job of a team: best and median. */
#ifndef WEIR_BENCH_MACHINE_TIME_H
#define WEIR_BENCH_MACHINE_TIME_H
#include "cpu/machine.h"

/* ns of a job, run for so long and three times at least. */
bench_rate machine_time(const bench_machine *, void (*fn)(void *ctx, int32_t rank, int32_t n_threads),
                        void *ctx, double seconds);
/* `amount` of something a job as an amount a second. */
bench_rate machine_per_second(double amount, bench_rate ns);

#endif
