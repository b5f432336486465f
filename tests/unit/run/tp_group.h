/* SPDX-License-Identifier: Apache-2.0 */
/* Tiny models cut over ranks for tests: each rank on a device and, while it works, a thread of its own. On
 * the CPU they talk over shared memory. Failures end the test. */
#ifndef WEIR_TESTS_TP_GROUP_H
#define WEIR_TESTS_TP_GROUP_H
#include <stdint.h>

#include "comm/meet.h"
#include "golden.h"
#include "run/instance.h"

enum { TP_MAX = 8 };

typedef struct tp_group {
  int32_t n;
  weir_dev *dev[TP_MAX];
  weir_instance *inst[TP_MAX];
  weir_comm *comm[TP_MAX];
  void *memory; /* of the communicators */
  bool lent;    /* devices are the caller's */
  weir_comm_kind kind;
} tp_group;

typedef struct tp_opts {
  const char *name; /* as in model_open */
  int32_t n_ctx;    /* 0: the model's own */
  int32_t n_ranks;
  weir_isa isa;
  weir_dtype kv;
  int32_t max_tokens;                 /* 0: GOLDEN_MAX_TOKENS */
  const weir_mfile *const *each;      /* [n_ranks] a file for each; NULL: the same for all */
  const weir_load_progress *progress; /* [n_ranks] or NULL */
  weir_dev *const *dev; /* [n_ranks] lent, and what they talk over; NULL: CPU devices of one thread */
  weir_comm_kind kind;
  /* Spoils the cut, to see that a test sees it; may be NULL. */
  void (*bend)(weir_shard *);
} tp_opts;

/* Ranks in a group of their own. */
tp_group tp_open(const tp_opts *);
/* The same over a model that is open. */
tp_group tp_open_file(const weir_mfile *, const tp_opts *);
void tp_close(tp_group *);
/* Leaves the group, if there is one, and makes a new one. */
void tp_join(tp_group *);
void tp_leave(tp_group *);

/* fn of each rank on a thread of its own; the status of the lowest rank that failed, with its error. */
typedef weir_status (*tp_fn)(void *ctx, int32_t rank, weir_err *e);
weir_status tp_run(const tp_group *, tp_fn fn, void *ctx, weir_err *e);

/* As feed() in golden.h; all ranks must give the same bits. */
void tp_feed(tp_group *, const int32_t *tok, int32_t from, int32_t to, const int32_t *page, float *logits);
/* A step's logits, and its rows, likewise; top may be NULL. */
weir_status tp_logits(tp_group *, const weir_batch *, float *logits, weir_err *e);
weir_status tp_forward(tp_group *, const weir_batch *, weir_row *row, weir_top *top, weir_err *e);

#endif
