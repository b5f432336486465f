/* SPDX-License-Identifier: Apache-2.0 */
/* What machine_*.c has of each instruction set; one file each, compiled for it and called only where the
 * device found it. */
#ifndef WEIR_BENCH_MACHINE_ISA_H
#define WEIR_BENCH_MACHINE_ISA_H
#include <stddef.h>
#include <stdint.h>

enum {
  WALK_STEP = 512,   /* bytes that a walk takes at a time: lengths are multiples of it */
  WALK_AHEAD = 4096, /* bytes */
  WALK_STREAMS = 4
};

/* Instructions that touch registers alone. `run` repeats a body of `ops` operations. */
typedef struct machine_peak {
  const char *name;
  double ops;
  void (*run)(int64_t loops);
  int needs; /* a bit of machine_has, 0: the instruction set's name says it all */
} machine_peak;
enum { MACHINE_BF16 = 1, MACHINE_AMX_BF16 = 2 };

/* Walks load or copy every byte and do nothing else. NULL: not in this set, the one below has it. */
typedef struct machine_isa {
  void (*read)(const uint8_t *p, size_t bytes);
  void (*read_ahead)(const uint8_t *p, size_t bytes);
  void (*read_streams)(const uint8_t *p, size_t bytes); /* of bytes / WALK_STREAMS each */
  void (*copy)(uint8_t *to, const uint8_t *from, size_t bytes);
  void (*copy_around)(uint8_t *to, const uint8_t *from, size_t bytes); /* `to` at a multiple of 64 */
  machine_peak peak[4];                                                /* until name is NULL */
} machine_isa;

extern const machine_isa machine_scalar, machine_avx2, machine_avx512, machine_amx;

#endif
