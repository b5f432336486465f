/* SPDX-License-Identifier: Apache-2.0 */
/* Operations a second out of registers, and the clock. The thread that calls and the team. What the device's
 * instruction set does not name (bfloat16) is asked of CPUID here. */
#include <cpuid.h>
#include <string.h>

#include "cpu/machine_isa.h"
#include "cpu/machine_time.h"

enum { JOB_NS = 300000, LOOPS_MAX = 1 << 24, CHAIN = 16, CYCLES = 3 };

typedef struct loop_job {
  void (*run)(int64_t loops);
  int64_t loops;
} loop_job;

static const struct {
  weir_isa isa;
  const machine_isa *code;
} sets[] = {
    {WEIR_ISA_AVX2, &machine_avx2}, {WEIR_ISA_AVX512_VNNI, &machine_avx512}, {WEIR_ISA_AMX, &machine_amx}};

#define COUNT(a) (sizeof(a) / sizeof *(a))

/* The state of the registers is the operating system's to save, which the device has looked at. */
static int machine_has(void) {
  enum { AMX_BF16 = 1 << 22, AVX512_BF16 = 1 << 5 }; /* leaf 7: EDX of 0, EAX of 1 */
  unsigned a, b, c, d;
  int has = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) && d & AMX_BF16) has |= MACHINE_AMX_BF16;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d) && a & AVX512_BF16) has |= MACHINE_BF16;
  return has;
}

static void run_loops(void *ctx, int32_t rank, int32_t n_threads) {
  const loop_job *j = ctx;
  (void)rank;
  (void)n_threads;
  j->run(j->loops);
}

/* ns of a job, and how many loops it has: so many that it takes some time. */
static bench_rate time_loops(const bench_machine *m, loop_job *j, double seconds) {
  for (j->loops = 64; j->loops < LOOPS_MAX && machine_time(m, run_loops, j, 0).best < JOB_NS;) j->loops *= 2;
  return machine_time(m, run_loops, j, seconds);
}

int32_t bench_machine_peaks(const bench_machine *m, bench_peak *out, int32_t max) {
  const int has = machine_has();
  int32_t n = 0;
  for (size_t s = 0; s < COUNT(sets); s++) {
    const machine_peak *p = sets[s].code->peak;
    if (m->isa < sets[s].isa) break;
    for (size_t i = 0; i < COUNT(sets[s].code->peak) && p[i].name && n < max; i++)
      if ((p[i].needs & ~has) == 0) out[n++] = (bench_peak){p[i].name, sets[s].isa};
  }
  return n;
}

static const machine_peak *find(const bench_machine *m, const char *name) {
  const int has = machine_has();
  for (size_t s = 0; s < COUNT(sets) && m->isa >= sets[s].isa; s++) {
    const machine_peak *p = sets[s].code->peak;
    for (size_t i = 0; i < COUNT(sets[s].code->peak) && p[i].name; i++)
      if (strcmp(p[i].name, name) == 0) return (p[i].needs & ~has) == 0 ? &p[i] : NULL;
  }
  return NULL;
}

bench_rate bench_machine_peak(const bench_machine *m, const char *name, double seconds) {
  const machine_peak *p = find(m, name);
  if (!p) return (bench_rate){0};
  loop_job j = {.run = p->run};
  const bench_rate ns = time_loops(m, &j, seconds);
  return machine_per_second(p->ops * (double)j.loops * weir_pool_size(m->pool), ns);
}

/* Not of additions, which newer cores do several of a cycle while renaming registers. */
static void chain(int64_t loops) {
  uint64_t x = 3;
  for (int64_t i = 0; i < loops; i++)
    __asm__ volatile(
        ".rept 16\n\t"
        "imul %0, %0\n\t"
        ".endr"
        : "+r"(x)
        :
        : "cc");
}

bench_rate bench_machine_clock(const bench_machine *m, double seconds) {
  loop_job j = {.run = chain};
  const bench_rate ns = time_loops(m, &j, seconds);
  return machine_per_second((double)(CHAIN * CYCLES) * (double)j.loops, ns);
}
