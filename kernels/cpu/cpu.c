/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU device itself: instruction set, team, memory, and the table of its operations, which are one file
 * each. Everything runs on the thread that calls, with the team's help; nothing is left running when a call
 * returns. */
#include "kernels/cpu/cpu.h"

#include <cpuid.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/mem.h"
#include "kernels/cpu/cpu_dev.h"

/* ---- instruction sets ---- */

/* The register state that the operating system saves (XCR0); 0 when it does not use XSAVE. */
static uint64_t saved_state(void) {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return 0;
  uint32_t lo, hi;
  __asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return (uint64_t)hi << 32 | lo;
}

/* AMX's tiles hold 8 KiB a thread, which Linux saves only for processes that have asked. Asking again is
 * fine. `c` and `d` are of CPUID's leaf 7; bytes are turned by GFNI on their way to the tiles, which every
 * processor with tiles has. */
static bool tiles_allowed(uint64_t state, unsigned c, unsigned d) {
  enum { TILES = 0x60000, TILE_DATA = 18, REQ_XCOMP_PERM = 0x1023 }; /* XCR0; asm/prctl.h */
  enum { AMX = 1 << 22 | 1 << 24 | 1 << 25 };                        /* of d: bfloat16, tiles, bytes */
  if ((state & TILES) != TILES || (d & AMX) != AMX || !(c & bit_GFNI)) return false;
  return syscall(SYS_arch_prctl, REQ_XCOMP_PERM, TILE_DATA) == 0;
}

static weir_isa best_isa(void) {
  enum { YMM = 0x6, ZMM = 0xe6 }; /* XCR0: SSE and AVX state; those, opmasks and both ZMM halves */
  enum { BASE = bit_FMA | bit_F16C | bit_AVX };
  enum { WIDE = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW };
  const unsigned long vl = bit_AVX512VL; /* bit 31: no enum constant */
  unsigned a, b, c, d;
  const uint64_t state = saved_state();
  if ((state & YMM) != YMM || !__get_cpuid(1, &a, &b, &c, &d) || (c & BASE) != BASE) return WEIR_ISA_SCALAR;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_AVX2)) return WEIR_ISA_SCALAR;
  if ((state & ZMM) != ZMM || (b & WIDE) != WIDE || !(b & vl) || !(c & bit_AVX512VNNI)) return WEIR_ISA_AVX2;
  return tiles_allowed(state, c, d) ? WEIR_ISA_AMX : WEIR_ISA_AVX512_VNNI;
}

const char *weir_isa_name(weir_isa isa) {
  switch (isa) {
    case WEIR_ISA_SCALAR: return "scalar";
    case WEIR_ISA_AVX2: return "avx2";
    case WEIR_ISA_AVX512_VNNI: return "avx512-vnni";
    case WEIR_ISA_AMX: return "amx";
    case WEIR_ISA_BEST: return "best";
  }
  return "unknown";
}

/* ---- memory ---- */

static weir_status cpu_copy(weir_dev *dev, void *dst, const void *src, size_t bytes, weir_err *e) {
  (void)dev;
  (void)e;
  memcpy(dst, src, bytes);
  return WEIR_OK;
}

static weir_status cpu_sync(weir_dev *dev, weir_err *e) {
  (void)dev;
  (void)e;
  return WEIR_OK;
}

static weir_status grow(weir_dev *dev, void **have, size_t *have_bytes, size_t bytes, weir_err *e) {
  void *p;
  if (bytes <= *have_bytes) return WEIR_OK;
  const weir_status st = weir_cpu_memory_alloc(dev, bytes, &p, e);
  if (st != WEIR_OK) return st;
  weir_cpu_memory_free(dev, *have);
  *have = p;
  *have_bytes = bytes;
  return WEIR_OK;
}

static weir_status cpu_reserve(weir_dev *dev, const weir_dev_limits *lim, weir_err *e) {
  weir_cpu *cpu = weir_cpu_of(dev);
  const size_t need[] = {weir_cpu_linear_scratch(lim, cpu->n_threads),
                         weir_cpu_attend_scratch(lim, cpu->n_threads),
                         weir_cpu_sample_scratch(lim, cpu->n_threads)};
  size_t most = 0;
  for (size_t i = 0; i < sizeof need / sizeof *need; i++)
    if (need[i] > most) most = need[i];
  const weir_status st = grow(dev, &cpu->scratch, &cpu->scratch_bytes, most, e);
  return st != WEIR_OK ? st : grow(dev, &cpu->moe_scratch, &cpu->moe_bytes, weir_cpu_moe_scratch(lim), e);
}

/* ---- the team ---- */

typedef struct range_job {
  weir_cpu_range_fn fn;
  void *ctx;
  int32_t n, grain, n_runs;
} range_job;

static void run_range(void *ctx, int32_t rank, int32_t n_threads) {
  const range_job *j = ctx;
  int32_t first, last;
  weir_cpu_part(j->n_runs, rank, n_threads, &first, &last);
  if (first == last) return;
  const int64_t end = (int64_t)last * j->grain;
  j->fn(j->ctx, first * j->grain, end < j->n ? (int32_t)end : j->n, rank);
}

void weir_cpu_for(weir_dev *dev, int32_t n, int32_t grain, weir_cpu_range_fn fn, void *ctx) {
  const weir_cpu *cpu = weir_cpu_of(dev);
  if (n <= 0) return;
  range_job j = {fn, ctx, n, grain, (int32_t)(((int64_t)n + grain - 1) / grain)};
  if (j.n_runs == 1 || cpu->n_threads == 1)
    run_range(&j, 0, 1);
  else
    weir_pool_run(cpu->pool, run_range, &j);
}

/* ---- the device ---- */

static void cpu_destroy(weir_dev *dev) {
  weir_cpu *cpu = weir_cpu_of(dev);
  if (cpu) {
    weir_pool_destroy(cpu->pool);
    weir_cpu_memory_free(dev, cpu->scratch);
    weir_cpu_memory_free(dev, cpu->moe_scratch);
    free(cpu);
  }
  free(dev);
}

static const weir_dev_ops cpu_ops = {
    .name = "cpu",
    .destroy = cpu_destroy,
    .alloc = weir_cpu_memory_alloc,
    .release = weir_cpu_memory_free,
    .upload = cpu_copy,
    .download = cpu_copy,
    .sync = cpu_sync,
    .reserve = cpu_reserve,
    .weight_prepare = weir_cpu_weight_prepare,
    .weight_release = weir_cpu_weight_release,
    .embed = weir_cpu_embed,
    .add_rmsnorm = weir_cpu_add_rmsnorm,
    .linear = weir_cpu_linear,
    .rope_angles = weir_cpu_rope_angles,
    .rope_append = weir_cpu_rope_append,
    .attend = weir_cpu_attend,
    .glu = weir_cpu_glu,
    .moe = weir_cpu_moe,
    .softcap = weir_cpu_softcap,
    .gather_rows = weir_cpu_gather_rows,
    .sample = weir_cpu_sample,
    .kv_copy = weir_cpu_kv_copy,
    .kv_q8_0 = true,
};

weir_status weir_dev_open_cpu(const weir_cpu_opts *opts, weir_dev **out, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_cpu_opts o = opts ? *opts : (weir_cpu_opts){.isa = WEIR_ISA_BEST};
  weir_dev *dev = NULL;
  weir_cpu *cpu = NULL;
  *out = NULL;
  const weir_isa best = best_isa();
  if ((unsigned)o.isa > WEIR_ISA_BEST)
    return weir_fail(e, WEIR_EINVAL, "open cpu: unknown instruction set %d", o.isa);
  if (o.isa != WEIR_ISA_BEST && o.isa > best)
    return weir_fail(e, WEIR_EUNSUP, "open cpu: asked for %s, this machine has %s", weir_isa_name(o.isa),
                     weir_isa_name(best));
  WEIR_TRY(WEIR_NEW(1, &dev, e));
  dev->ops = &cpu_ops;
  WEIR_TRY(WEIR_NEW(1, &cpu, e));
  dev->impl = cpu;
  cpu->isa = o.isa == WEIR_ISA_BEST ? best : o.isa;
  cpu->amx_small = o.amx_small;
  weir_pool_opts team = {.n_threads = o.n_threads, .no_pin = o.no_pin};
  if (o.share) {
    team.n_threads = o.share->n_threads;
    team.crowded = o.share->crowded;
    team.cores = o.share->cores.n > 0 ? o.share->cores.core : NULL;
    team.no_pin = o.no_pin || !team.cores;
    team.pin_caller = true;
  }
  WEIR_TRY(weir_pool_create(&team, &cpu->pool, e));
  cpu->n_threads = weir_pool_size(cpu->pool);
  snprintf(dev->desc, sizeof dev->desc, "cpu (%s), %d threads", weir_isa_name(cpu->isa), cpu->n_threads);
  *out = dev;
  dev = NULL;

out:
  if (dev) cpu_destroy(dev);
  if (st != WEIR_OK) weir_fail_ctx(e, st, "open cpu");
  return st;
}

weir_isa weir_cpu_isa(const weir_dev *dev) { return weir_cpu_of(dev)->isa; }
int32_t weir_cpu_n_threads(const weir_dev *dev) { return weir_cpu_of(dev)->n_threads; }
