/* SPDX-License-Identifier: Apache-2.0 */
/* Times what a step of a tensor-parallel model costs beside computing: waking this node's ranks and hearing
 * that they are done, writing a batch as workers get it, reading it, and bringing it to a worker over the
 * loopback. Median and best of many. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "comm/crew.h"
#include "run/tp_team.h"
#include "run/tp_wire.h"
#include "step/batch.h"

enum { ROUNDS = 2000, MAX_TOKENS = 512, MAX_SEQS = 256, CTX = 8192, PAGES = MAX_SEQS * CTX / 16 };

static int by_size(const void *a, const void *b) {
  const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return x < y ? -1 : x > y;
}

static void report(const char *what, int64_t *ns, int32_t n) {
  qsort(ns, (size_t)n, sizeof *ns, by_size);
  printf("%-52s best %8.2f us, median %8.2f us\n", what, (double)ns[0] / 1e3, (double)ns[n / 2] / 1e3);
}

static int failed(const weir_err *e) {
  fprintf(stderr, "bench_tp: %s\n", e->msg);
  return 1;
}

/* A place where one thread waits for another. */
typedef struct post {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  int64_t n;
} post;

static void ring(post *p) {
  pthread_mutex_lock(&p->lock);
  p->n++;
  pthread_cond_signal(&p->changed);
  pthread_mutex_unlock(&p->lock);
}

static void await(post *p, int64_t n) {
  pthread_mutex_lock(&p->lock);
  while (p->n < n) pthread_cond_wait(&p->changed, &p->lock);
  pthread_mutex_unlock(&p->lock);
}

static weir_status nothing(void *ctx, int32_t i, weir_err *e) {
  (void)ctx;
  (void)i;
  (void)e;
  return WEIR_OK;
}

static void done(void *ctx, weir_status st) {
  (void)st;
  ring(ctx);
}

/* gap_ns between the end of a step and the next: what the engine does meanwhile. */
static int fan_out(int32_t ranks, int64_t gap_ns) {
  static int64_t ns[ROUNDS];
  weir_err e = {0};
  char what[64];
  weir_tp_team *t;
  post p = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
  const weir_tp_team_opts o = {.n = ranks, .on_done = done, .ctx = &p};
  if (weir_tp_team_create(&o, &t, &e) != WEIR_OK) return failed(&e);
  for (int32_t i = 0; i < ROUNDS; i++) {
    const int64_t from = weir_monotonic_ns();
    if (weir_tp_team_start(t, nothing, NULL, &e) != WEIR_OK) return failed(&e);
    await(&p, i + 1);
    ns[i] = weir_monotonic_ns() - from;
    for (const int64_t until = weir_monotonic_ns() + gap_ns; weir_monotonic_ns() < until;) {
    }
  }
  weir_tp_team_destroy(t);
  snprintf(what, sizeof what, "%d ranks, %lld us between steps: start to end", ranks,
           (long long)gap_ns / 1000);
  report(what, ns, ROUNDS);
  return 0;
}

static const weir_exec_info limits = {.name = "bench",
                                      .n_vocab = 152000,
                                      .n_ctx = CTX,
                                      .n_pages = PAGES,
                                      .max_tokens = MAX_TOKENS,
                                      .max_seqs = MAX_SEQS};

/* n_seqs sequences of `len` tokens, each with `fed` new ones and an answer. */
static void build(weir_batch_builder *b, int32_t n_seqs, int32_t len, int32_t fed) {
  static int32_t tok[CTX], page[CTX / 16];
  weir_batch_builder_clear(b);
  for (int32_t s = 0; s < n_seqs; s++) {
    for (int32_t i = 0; i < CTX / 16; i++) page[i] = (s * 37 + i) % PAGES;
    const weir_batch_seq q = {tok, len - fed, len, page, (len + 15) / 16};
    const int32_t first = weir_batch_add(b, &q);
    *weir_batch_ask(b, first + fed - 1) =
        (weir_ask){.temperature = 0.7f, .top_p = 0.9f, .top_k = 40, .probe = -1, .pos = len};
  }
}

static int batches(int32_t n_seqs, int32_t len, int32_t fed, weir_buf *out) {
  static int64_t put[ROUNDS], get[ROUNDS], made[ROUNDS];
  static weir_ask ask[MAX_TOKENS];
  weir_err e = {0};
  weir_batch_builder b;
  weir_tp_step s;
  if (weir_batch_builder_init(&b, MAX_TOKENS, MAX_SEQS, PAGES, 1, &e) != WEIR_OK) return failed(&e);
  for (int32_t i = 0; i < ROUNDS; i++) {
    const int64_t t0 = weir_monotonic_ns();
    build(&b, n_seqs, len, fed);
    const weir_tp_step x = {.group = 1, .number = (uint64_t)i + 1, .batch = weir_batch_get(&b)};
    const int64_t t1 = weir_monotonic_ns();
    if (weir_batch_check(&x.batch, &limits, &e) != WEIR_OK || weir_tp_step_put(&x, out, &e) != WEIR_OK)
      return failed(&e);
    const int64_t t2 = weir_monotonic_ns();
    if (weir_tp_step_get(out->data, out->len, &limits, ask, &s, &e) != WEIR_OK) return failed(&e);
    put[i] = t2 - t1;
    get[i] = weir_monotonic_ns() - t2;
    made[i] = t1 - t0;
  }
  printf("%d sequences of %d tokens, %d rows each: %zu bytes\n", n_seqs, len, fed, out->len);
  report("  built", made, ROUNDS);
  report("  checked and written", put, ROUNDS);
  report("  read and checked, by a worker", get, ROUNDS);
  weir_batch_builder_fini(&b);
  return 0;
}

/* ---- over the crew ---- */

typedef struct side {
  post here, got;
} side;

static void on_event(void *ctx, const weir_crew_event *ev) {
  side *s = ctx;
  if (ev->kind == WEIR_CREW_JOINED) ring(&s->here);
  if (ev->kind == WEIR_CREW_MESSAGE) ring(&s->got);
}

static int crew(int32_t n_seqs, const weir_buf *message) {
  static int64_t sent[ROUNDS], came[ROUNDS];
  weir_err e = {0};
  static const post empty = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
  side leader = {.here = empty, .got = empty}, worker = {.here = empty, .got = empty};
  weir_crew *a, *b;
  char what[64];
  weir_crew_opts o = {
      .addr = "127.0.0.1:47699", .n_nodes = 2, .version = "bench", .on_event = on_event, .ctx = &leader};
  if (weir_crew_open(&o, &a, &e) != WEIR_OK) return failed(&e);
  o.node = 1;
  o.ctx = &worker;
  if (weir_crew_open(&o, &b, &e) != WEIR_OK) return failed(&e);
  await(&leader.here, 1);
  await(&worker.here, 1);
  for (int32_t i = 0; i < ROUNDS; i++) {
    const int64_t from = weir_monotonic_ns();
    if (weir_crew_send(a, 1, message->data, message->len, &e) != WEIR_OK) return failed(&e);
    sent[i] = weir_monotonic_ns() - from;
    await(&worker.got, i + 1);
    came[i] = weir_monotonic_ns() - from;
    for (const int64_t until = weir_monotonic_ns() + 100000; weir_monotonic_ns() < until;) {
    }
  }
  snprintf(what, sizeof what, "  %d sequences: sent to one worker", n_seqs);
  report(what, sent, ROUNDS);
  report("  and there, over the loopback", came, ROUNDS);
  weir_crew_close(b);
  weir_crew_close(a);
  return 0;
}

int main(void) {
  static const struct {
    int32_t n_seqs, len, fed;
  } shapes[] = {{1, 1024, 1}, {16, 1024, 1}, {64, 2048, 1}, {256, 4096, 1}, {2, 2048, 256}};
  int bad = 0;
  for (int32_t ranks = 1; ranks <= 8 && !bad; ranks *= 2)
    bad = fan_out(ranks, 0) || fan_out(ranks, 50000) || fan_out(ranks, 500000);
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes && !bad; i++) {
    weir_buf b = {0};
    bad = batches(shapes[i].n_seqs, shapes[i].len, shapes[i].fed, &b) || crew(shapes[i].n_seqs, &b);
    weir_buf_fini(&b);
  }
  return bad;
}
