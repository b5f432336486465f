/* SPDX-License-Identifier: Apache-2.0 */
/* Bandwidths. Borrows the buffer that it walks through; the thread that calls and the team. */
#include <string.h>

#include "cpu/machine_isa.h"
#include "cpu/machine_time.h"

enum { JOB_BYTES = 32 << 20 }; /* of a job, so that it is not its own fork and join */

typedef struct walk_job {
  uint8_t *data;
  size_t steps, loops; /* of WALK_STEP bytes in all; times a thread walks through its part */
  void (*read)(const uint8_t *, size_t);
  void (*copy)(uint8_t *, const uint8_t *, size_t);
} walk_job;

const char *bench_walk_name(bench_walk w) {
  switch (w) {
    case BENCH_READ: return "plain";
    case BENCH_READ_AHEAD: return "ahead";
    case BENCH_READ_STREAMS: return "streams";
    case BENCH_COPY: return "copy";
    case BENCH_COPY_AROUND: return "copy-around";
    case BENCH_WALKS: break;
  }
  return "unknown";
}

bool bench_walk_copies(bench_walk w) { return w == BENCH_COPY || w == BENCH_COPY_AROUND; }

static void walk_part(void *ctx, int32_t rank, int32_t n_threads) {
  walk_job *j = ctx;
  const size_t from = j->steps * (size_t)rank / (size_t)n_threads * WALK_STEP,
               to = j->steps * (size_t)(rank + 1) / (size_t)n_threads * WALK_STEP;
  for (size_t i = 0; i < j->loops; i++) {
    if (j->copy)
      j->copy(j->data + j->steps * WALK_STEP + from, j->data + from, to - from);
    else
      j->read(j->data + from, to - from);
  }
}

typedef struct fill_job {
  uint8_t *data;
  size_t bytes;
} fill_job;

static void fill_part(void *ctx, int32_t rank, int32_t n_threads) {
  const fill_job *j = ctx;
  const size_t each = j->bytes / (size_t)n_threads, from = each * (size_t)rank;
  memset(j->data + from, 0x5a, rank + 1 == n_threads ? j->bytes - from : each);
}

weir_status bench_machine_alloc(const bench_machine *m, size_t bytes, uint8_t **out, weir_err *e) {
  void *p = NULL;
  *out = NULL;
  const weir_status st = weir_dev_alloc(m->dev, bytes, &p, e);
  if (st != WEIR_OK) return st;
  weir_pool_run(m->pool, fill_part, &(fill_job){p, bytes});
  *out = p;
  return WEIR_OK;
}

static const machine_isa *walks_of(weir_isa isa) {
  if (isa >= WEIR_ISA_AVX512_VNNI) return &machine_avx512;
  return isa >= WEIR_ISA_AVX2 ? &machine_avx2 : &machine_scalar;
}

bench_rate bench_machine_walk(const bench_machine *m, bench_walk w, uint8_t *data, size_t bytes,
                              double seconds) {
  const machine_isa *isa = walks_of(m->isa);
  walk_job j = {.data = data, .steps = bytes / WALK_STEP / (bench_walk_copies(w) ? 2 : 1)};
  switch (w) {
    case BENCH_READ: j.read = isa->read; break;
    case BENCH_READ_AHEAD: j.read = isa->read_ahead; break;
    case BENCH_READ_STREAMS: j.read = isa->read_streams; break;
    case BENCH_COPY: j.copy = isa->copy; break;
    case BENCH_COPY_AROUND: j.copy = isa->copy_around; break;
    case BENCH_WALKS: break;
  }
  if (j.steps == 0 || (!j.read && !j.copy)) return (bench_rate){0};
  const size_t moved = j.steps * WALK_STEP * (j.copy ? 2 : 1);
  j.loops = moved < JOB_BYTES ? JOB_BYTES / moved : 1;
  return machine_per_second((double)moved * (double)j.loops, machine_time(m, walk_part, &j, seconds));
}
