/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by the tests of tensor-parallel executors: a leader over a tiny model, and a conversation that is
 * held with any executor. Failures end the test. */
#ifndef WEIR_TESTS_TP_RIG_H
#define WEIR_TESTS_TP_RIG_H
#include <stdbool.h>
#include <stdint.h>

#include "model/mfile.h"
#include "run/instance.h"
#include "run/tp.h"
#include "step/step.h"

#define RIG_TOKEN "of the tests"
enum { RIG_TOKENS = 32, RIG_SEQS = 4, RIG_PAGES = 64, RIG_CTX = 128, RIG_LOCAL = 8, RIG_ROOM = 4096 };

typedef struct rig_opts {
  const char *model; /* of tests/vectors/models, without ".gguf" */
  int32_t n_nodes, n_local;
  weir_comm_kind comm;
  const char *addr, *version; /* NULL: none, "test" */
  int64_t bound_ns;           /* 0: 5 s */
  int64_t gather_ns;          /* 0: 60 s */
  int32_t max_seqs, n_pages;  /* 0: RIG_SEQS, RIG_PAGES */
} rig_opts;

typedef struct rig {
  rig_opts o;
  weir_mfile *file;
  weir_hparams h;
  uint64_t print;
  weir_dev *dev[RIG_LOCAL];
  weir_instance *local[RIG_LOCAL]; /* the executor's once it is there */
  weir_tp *tp;                     /* until then */
  weir_exec *exec;
  bool left;
} rig;

weir_tp_plan rig_plan(const rig_opts *);
/* The model, devices and instances, and what listens; without a group. */
void rig_open(rig *, const rig_opts *);
/* Gathers and starts. */
void rig_start(rig *);
void rig_close(rig *);
/* The same model whole, on one device. */
weir_exec *rig_local_exec(const char *model, weir_dev **dev);

/* Two sequences, prompts in chunks of different lengths, then `n_new` steps of one token each; asks of all
 * kinds. With follow NULL what the executor draws is fed to it, else what `follow` drew. */
enum { TALK_NEW = 12, TALK_ROWS = 2 * TALK_NEW };
typedef struct talk {
  int32_t n_vocab;
  weir_row row[TALK_ROWS];
  weir_top top[TALK_ROWS][WEIR_TOP_MAX];
} talk;
/* False: a step failed, with *e its reason. */
bool talk_hold(weir_exec *, const talk *follow, talk *out, weir_err *e);
/* Same draws where the choice is not closer than `bound`, statistics within it. */
void talk_expect_close(const talk *got, const talk *want, double bound, const char *what);

/* One step of n rows of one sequence, which is to succeed; or its error. */
weir_status rig_step(weir_exec *, int32_t n_tokens, weir_err *e);
/* Waits until the executor's life has this number, or none; fails after so long. */
void rig_await_life(weir_exec *, uint64_t number, int64_t timeout_ns);
void rig_await_death(weir_exec *, int64_t timeout_ns);
int64_t rig_now_ns(void);

/* Before a device has work. Those of a rig are. */
void rig_breakable(weir_dev *);
/* One such device of this process misbehaves once: in its nth linear operation, or nth wait, from now on. */
typedef enum { RIG_FAILS, RIG_HANGS, RIG_DIES /* fails from then on, in all it does */ } rig_fault;
void rig_break_linear(weir_dev *, int32_t nth, rig_fault);
void rig_break_sync(weir_dev *, int32_t nth, rig_fault);
/* ... or in every one. */
void rig_break_always(weir_dev *);
void rig_mend(void); /* what hangs goes on */

#endif
