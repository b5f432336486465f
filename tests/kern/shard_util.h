/* SPDX-License-Identifier: Apache-2.0 */
/* A vocabulary in shards for the tests of the sample op, on any device: the ranks are threads, their exchange
 * is a barrier around copies, and faults can be planted in it. Failures outside of the op end the test. */
#ifndef WEIR_TESTS_SHARD_UTIL_H
#define WEIR_TESTS_SHARD_UTIL_H
#include <pthread.h>
#include <stdint.h>

#include "kern_util.h"

enum { SHARD_MAX = 8 };

typedef struct shard_crew shard_crew;
/* May change what the ranks have said before everybody gets it: of rank r at said[r], `bytes` each. Called
 * once an exchange, while all wait. */
typedef void (*shard_plant_fn)(void *ctx, int32_t exchange, int32_t n_ranks, char *const *said, size_t bytes);

struct shard_crew {
  int32_t n; /* ranks */
  weir_dev *dev[SHARD_MAX];
  void (*settle)(weir_dev *); /* waits until what was enqueued is done; NULL: nothing is */
  shard_plant_fn plant;       /* or NULL */
  void *plant_ctx;
  int32_t fail_at;     /* exchange that fails on all ranks, counted from 1; 0: none */
  int32_t n_exchanges; /* of the last call */
  size_t bytes;        /* said by a rank in it */
  /* the barrier */
  pthread_mutex_t lock;
  pthread_cond_t turn;
  int32_t here, turns;
  bool broken; /* somebody did not come, or came with another size */
  char *said[SHARD_MAX];
  size_t size[SHARD_MAX];
};
/* Before and after the first and last call; devices stay the caller's. */
void shard_crew_init(shard_crew *);
void shard_crew_fini(shard_crew *);

/* Rows of n_vocab logits, of which n_valid count; rank r has the ids [cut[r], cut[r+1]) and padding behind
 * the row's end. */
typedef struct shard_call {
  const float *logits; /* [rows*n_vocab] */
  int32_t rows, n_vocab, n_valid;
  const weir_ask *ask;
  int32_t cut[SHARD_MAX + 1]; /* ascending, cut[0] = 0, cut[n] = n_vocab */
  int32_t shift[SHARD_MAX];   /* what a rank says wrongly about its first id; 0: nothing */
} shard_call;

typedef struct shard_answer {
  weir_status st;
  weir_err err;
  weir_row *row; /* [rows] */
  weir_top *top; /* [rows][WEIR_TOP_MAX], 0xff where nothing was written */
} shard_answer;
/* out[n]; freed by shard_free. */
void shard_ask(shard_crew *, const shard_call *, shard_answer *out);
void shard_free(shard_answer *, int32_t n);
/* The same from the vocabulary in one piece, on any device. */
shard_answer shard_whole(weir_dev *, const shard_call *);
/* Shares chunks out: even, or random with empty shards. */
void shard_cut_even(shard_call *, int32_t n);
void shard_cut_random(shard_call *, int32_t n, kern_rng *);

#endif
