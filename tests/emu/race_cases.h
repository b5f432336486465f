/* SPDX-License-Identifier: Apache-2.0 */
/* The kernels of test_emu_race.cpp. They are in a file of their own, which is built -fsanitize=thread. */
#ifndef WEIR_TESTS_EMU_RACE_CASES_H
#define WEIR_TESTS_EMU_RACE_CASES_H
typedef enum race_case {
  RACE_NONE,          /* barriers and __syncwarp wherever they are needed */
  RACE_NO_BARRIER,    /* between a write and another warp's read */
  RACE_NO_SYNCWARP,   /* between lanes of one warp: a shuffle does not order memory */
  RACE_SECOND_WRITE,  /* the next round's write before the last one's reads are done */
  RACE_BOTH_WRITE,    /* two threads, one byte */
  RACE_LDMATRIX,      /* ldmatrix of what other lanes wrote */
  RACE_COPY,          /* a copy lands where another thread still reads */
  RACE_ATOMIC_PLAIN,  /* an atomic add, and a plain read without a barrier */
  RACE_ATOMICS,       /* many atomic adds to one word: correct */
  RACE_NAMED_BARRIER, /* a named barrier of the wrong warps */
  RACE_PAST_STATIC,   /* plain accesses outside: not races, but seen here only */
  RACE_PAST_DYNAMIC,
  RACE_PAST_GLOBAL
} race_case;
/* 128 threads; mem is device memory of 512 bytes, out has 128 floats. */
void race_case_run(race_case, float *mem, float *out);
#endif
