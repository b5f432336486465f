/* SPDX-License-Identifier: Apache-2.0 */
/* Ranks as threads, with an exchange that waits at most 60 s. cmocka is used on the test's own thread only.
 */
#include "shard_util.h"
#include "sample_util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "kernels/sample_math.h"

void shard_crew_init(shard_crew *c) {
  assert_int_equal(pthread_mutex_init(&c->lock, NULL), 0);
  assert_int_equal(pthread_cond_init(&c->turn, NULL), 0);
}
void shard_crew_fini(shard_crew *c) {
  pthread_cond_destroy(&c->turn);
  pthread_mutex_destroy(&c->lock);
}

/* True for the last to come, when all have; it holds the lock and calls release(). */
static bool arrive(shard_crew *c) {
  struct timespec until;
  pthread_mutex_lock(&c->lock);
  if (++c->here == c->n && !c->broken) return true;
  const int32_t turn = c->turns;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += 60;
  while (c->turns == turn && !c->broken)
    if (pthread_cond_timedwait(&c->turn, &c->lock, &until) != 0) c->broken = true;
  pthread_mutex_unlock(&c->lock);
  return false;
}
static void release(shard_crew *c) {
  c->here = 0;
  c->turns++;
  pthread_cond_broadcast(&c->turn);
  pthread_mutex_unlock(&c->lock);
}

typedef struct member {
  shard_crew *crew;
  const shard_call *call;
  shard_answer *out;
  weir_mat logits;
  int32_t rank, max_chunks;
  weir_ask *ask; /* of call, with laws of its own */
  weir_top *law;
} member;

static weir_status all_gather(void *ctx, void *out, const void *in, size_t bytes, weir_err *e) {
  const member *m = (const member *)ctx;
  shard_crew *c = m->crew;
  char *const own = (char *)out + (size_t)m->rank * bytes;
  if (in != own) return weir_fail(e, WEIR_EINVAL, "what is said lies elsewhere");
  if (c->settle) c->settle(c->dev[m->rank]);
  c->said[m->rank] = own;
  c->size[m->rank] = bytes;
  if (arrive(c)) {
    for (int32_t r = 0; r < c->n; r++) c->broken |= c->size[r] != bytes;
    c->n_exchanges++;
    c->bytes += bytes;
    if (c->plant && !c->broken) c->plant(c->plant_ctx, c->n_exchanges, c->n, c->said, bytes);
    release(c);
  }
  if (c->broken) return weir_fail(e, WEIR_EDEVICE, "an exchange that does not fit");
  for (int32_t r = 0; r < c->n; r++)
    if (r != m->rank) memcpy((char *)out + (size_t)r * bytes, c->said[r], bytes);
  const bool fails = c->n_exchanges == c->fail_at;
  if (arrive(c)) release(c); /* what is said may change again */
  return fails ? weir_fail(e, WEIR_EDEVICE, "planted") : WEIR_OK;
}

static void *work(void *ctx) {
  member *m = (member *)ctx;
  const shard_call *call = m->call;
  const weir_vocab_shard shard = {.rank = m->rank,
                                  .n_ranks = m->crew->n,
                                  .first = call->cut[m->rank] + call->shift[m->rank],
                                  .max_chunks = m->max_chunks,
                                  .all_gather = all_gather,
                                  .ctx = m};
  weir_dev *dev = m->crew->dev[m->rank];
  shard_answer *a = m->out;
  a->st = weir_op_sample(dev, a->row, a->top, m->logits, call->n_valid, m->ask, &shard, &a->err);
  if (a->st == WEIR_OK) a->st = weir_dev_sync(dev, &a->err);
  if (a->st != WEIR_OK) { /* whoever still waits for this rank waits no longer */
    pthread_mutex_lock(&m->crew->lock);
    m->crew->broken = true;
    pthread_cond_broadcast(&m->crew->turn);
    pthread_mutex_unlock(&m->crew->lock);
  }
  return NULL;
}

static shard_answer empty_answer(int32_t rows) {
  shard_answer a = {.row = malloc(sizeof *a.row * (size_t)rows),
                    .top = malloc(sizeof *a.top * (size_t)rows * WEIR_TOP_MAX)};
  assert_non_null(a.row);
  assert_non_null(a.top);
  memset(a.row, 0xff, sizeof *a.row * (size_t)rows);
  memset(a.top, 0xff, sizeof *a.top * (size_t)rows * WEIR_TOP_MAX);
  return a;
}
void shard_free(shard_answer *a, int32_t n) {
  for (int32_t i = 0; i < n; i++) {
    free(a[i].row);
    free(a[i].top);
  }
}

/* The columns [from, to) of the rows, on the device, with a stride of their own. */
static weir_mat columns(weir_dev *dev, const shard_call *c, int32_t from, int32_t to) {
  const int32_t cols = to - from;
  if (cols == 0) return (weir_mat){NULL, c->rows, 0, 0};
  float *dense = malloc(sizeof *dense * (size_t)c->rows * (size_t)cols);
  assert_non_null(dense);
  for (int32_t r = 0; r < c->rows; r++)
    memcpy(dense + (size_t)r * (size_t)cols, c->logits + (size_t)r * (size_t)c->n_vocab + from,
           sizeof *dense * (size_t)cols);
  const weir_mat m = kern_mat(dev, c->rows, cols, from % 3 + cols % 2);
  kern_put(dev, m, dense);
  free(dense);
  return m;
}

shard_answer shard_whole(weir_dev *dev, const shard_call *c) {
  shard_answer a = empty_answer(c->rows);
  const weir_mat m = columns(dev, c, 0, c->n_vocab);
  weir_top *law;
  weir_ask *ask = laws_begin(c->ask, c->rows, &law);
  a.st = weir_op_sample(dev, a.row, a.top, m, c->n_valid, ask, NULL, &a.err);
  if (a.st == WEIR_OK) a.st = weir_dev_sync(dev, &a.err);
  laws_end(c->ask, a.st == WEIR_OK ? c->rows : 0, ask, law);
  kern_mat_free(dev, m);
  return a;
}

void shard_ask(shard_crew *c, const shard_call *call, shard_answer *out) {
  member m[SHARD_MAX];
  pthread_t thread[SHARD_MAX];
  int32_t max_chunks = 1;
  for (int32_t r = 0; r < c->n; r++) {
    const int32_t chunks = weir_sample_n_chunks(call->cut[r + 1] - call->cut[r]);
    max_chunks = chunks > max_chunks ? chunks : max_chunks;
  }
  c->here = c->turns = c->n_exchanges = 0;
  c->bytes = 0;
  c->broken = false;
  for (int32_t r = 0; r < c->n; r++) {
    out[r] = empty_answer(call->rows);
    m[r] = (member){.crew = c,
                    .call = call,
                    .out = &out[r],
                    .logits = columns(c->dev[r], call, call->cut[r], call->cut[r + 1]),
                    .rank = r,
                    .max_chunks = max_chunks};
    m[r].ask = laws_begin(call->ask, call->rows, &m[r].law);
  }
  for (int32_t r = 0; r < c->n; r++) assert_int_equal(pthread_create(&thread[r], NULL, work, &m[r]), 0);
  for (int32_t r = 0; r < c->n; r++) assert_int_equal(pthread_join(thread[r], NULL), 0);
  for (int32_t r = 1; r < c->n; r++) /* rank 0 tells, nobody else */
    for (int32_t i = 0; i < call->rows * WEIR_TOP_MAX; i++) assert_int_equal(m[r].law[i].id, -1);
  for (int32_t r = 0; r < c->n; r++)
    laws_end(call->ask, out[r].st == WEIR_OK && r == 0 ? call->rows : 0, m[r].ask, m[r].law);
  for (int32_t r = 0; r < c->n; r++)
    if (m[r].logits.data) kern_mat_free(c->dev[r], m[r].logits);
}

void shard_cut_even(shard_call *c, int32_t n) {
  const int32_t chunks = weir_sample_n_chunks(c->n_vocab);
  for (int32_t r = 0; r < n; r++) {
    const int32_t first = (int32_t)((int64_t)chunks * r / n) * WEIR_SAMPLE_CHUNK;
    c->cut[r] = first < c->n_vocab ? first : c->n_vocab;
  }
  c->cut[n] = c->n_vocab;
}

void shard_cut_random(shard_call *c, int32_t n, kern_rng *rng) {
  const int32_t chunks = weir_sample_n_chunks(c->n_vocab);
  int32_t at[SHARD_MAX + 1];
  for (int32_t r = 1; r < n; r++) { /* sorted as they come */
    int32_t x = kern_below(rng, chunks + 1), i = r;
    for (; i > 1 && at[i - 1] > x; i--) at[i] = at[i - 1];
    at[i] = x;
  }
  c->cut[0] = 0;
  for (int32_t r = 1; r < n; r++) {
    const int64_t first = (int64_t)at[r] * WEIR_SAMPLE_CHUNK;
    c->cut[r] = first < c->n_vocab ? (int32_t)first : c->n_vocab;
  }
  c->cut[n] = c->n_vocab;
}
