/* SPDX-License-Identifier: Apache-2.0 */
/* The CUDA emulator as a test sees it: what it checks, in which order lanes run, device memory, planted
 * errors. C and C++ alike. Kernels see it through kernels/cuda/cu.h; README.md says how it works.
 *
 * Any OS thread may launch; blocks of one launch run on the calling thread (or on config.threads of them).
 * A launch returns when its work is done, unless a launch hook queues it. */
#ifndef WEIR_TESTS_EMU_EMU_H
#define WEIR_TESTS_EMU_EMU_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Exit status of a process that an emulator check ends; a race has its own, so that a mutation run can tell.
 */
#define EMU_EXIT_ERROR 86
#define EMU_EXIT_RACE  87

typedef enum emu_order {
  EMU_ASCENDING = 0,  /* lanes, warps and blocks by index */
  EMU_DESCENDING = 1, /* the other way round */
  EMU_RANDOM = 2      /* seeded; warps interleave */
} emu_order;

typedef struct emu_config {
  emu_order order;
  uint64_t seed;
  int late;    /* asynchronous copies and wgmma take effect at their wait only */
  int poison;  /* shared memory and device memory start as 0xff bytes: NaN in f16, bf16, f32; -1 */
  int race;    /* track accesses to shared memory; on by itself where kernels were built -fsanitize=thread */
  int threads; /* OS threads over the blocks of a launch; 1: deterministic float atomics */
  uint64_t spin_limit; /* rounds of nothing but cu_spin() before they count as a deadlock */
} emu_config;

/* The configuration of the process. Set it while no launch runs. It starts ascending, seed 1, late, poisoned,
 * one thread; WEIR_EMU_ORDER (up, down, random), WEIR_EMU_SEED, WEIR_EMU_LATE, WEIR_EMU_THREADS override. */
emu_config *emu_config_of(void);

typedef struct emu_stats {
  uint64_t launches, blocks, threads, switches, collectives, mmas, barriers;
} emu_stats;
emu_stats emu_stats_take(void); /* counts of this OS thread since the last call */

/* Runs fn(arg) with the checks of this OS thread not ending the process: the first one that fails abandons
 * its launch and is returned, "" when none did. The text stays until the next call on this thread. */
const char *emu_expect_error(void (*fn)(void *arg), void *arg);

/* Device memory: 256-byte aligned, poisoned, with the guards that make an access past either end an error.
 * NULL when there is none. */
void *emu_mem_alloc(size_t bytes);
/* 0, or -1 when p is no live allocation's start. */
int emu_mem_free(void *p);
/* Bytes from p to the end of the live allocation it lies in; 0 when it lies in none. */
size_t emu_mem_size(const void *p);

/* Memory that somebody else allocated: accesses to the guard_bytes before and after it become errors, where
 * accesses are watched (kernels built -fsanitize=thread, and the wrappers of cu.h). 0, or -1 when out of
 * room. */
int emu_mem_watch(void *p, size_t bytes, size_t guard_bytes);
void emu_mem_unwatch(void *p);

/* The error of this OS thread's first bad launch since the last call (a cudaError_t value), 0 for none. */
int emu_launch_status(void);
/* Makes it so: what a launch hook calls when it refuses a launch. */
void emu_launch_fail(int error);
/* Opts a kernel in to dynamic shared memory above 48 KB: cudaFuncSetAttribute. */
void emu_allow_smem(const void *kernel, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
