/* SPDX-License-Identifier: Apache-2.0 */
/* Ranks of tiny models for tests. */
#include "tp_group.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "comm/comm_shm.h"
#include "run/forward.h"

static const int64_t bound_ns = INT64_C(20000000000);

static void must(weir_status st, const weir_err *e) {
  if (st != WEIR_OK) fail_msg("%s", e->msg);
}

/* ---- threads ---- */

typedef struct job {
  tp_fn fn;
  void *ctx;
  int32_t rank;
  weir_status status;
  weir_err err;
  pthread_t thread;
} job;

static void *work(void *arg) {
  job *j = arg;
  j->status = j->fn(j->ctx, j->rank, &j->err);
  return NULL;
}

weir_status tp_run(const tp_group *g, tp_fn fn, void *ctx, weir_err *e) {
  job all[TP_MAX];
  weir_status st = WEIR_OK;
  for (int32_t r = 0; r < g->n; r++) {
    all[r] = (job){.fn = fn, .ctx = ctx, .rank = r};
    if (pthread_create(&all[r].thread, NULL, work, &all[r]) != 0) abort(); /* the others would wait for it */
  }
  for (int32_t r = 0; r < g->n; r++) pthread_join(all[r].thread, NULL);
  for (int32_t r = 0; r < g->n && st == WEIR_OK; r++)
    if (all[r].status != WEIR_OK) {
      st = all[r].status;
      *e = all[r].err;
    }
  return st;
}

/* ---- groups ---- */

static weir_status join(void *ctx, int32_t rank, weir_err *e) {
  tp_group *g = ctx;
  return weir_comm_shm_over(g->memory, rank, g->n, bound_ns, &g->comm[rank], e);
}

void tp_leave(tp_group *g) {
  for (int32_t r = 0; r < g->n; r++) {
    weir_instance_set_comm(g->inst[r], NULL);
    weir_comm_destroy(g->comm[r]);
    g->comm[r] = NULL;
  }
  free(g->memory);
  g->memory = NULL;
}

/* As in comm/meet.h, all seats in this thread. */
typedef struct meeting {
  tp_group *g;
  weir_comm_seat *seat[TP_MAX];
  char invite[WEIR_COMM_INVITE_BYTES];
} meeting;

static weir_status join_meeting(void *ctx, int32_t rank, weir_err *e) {
  meeting *m = ctx;
  return weir_comm_join(m->seat[rank], m->invite, rank, &m->g->comm[rank], e);
}

static void meet(tp_group *g) {
  weir_err e = {0};
  const char *offer[TP_MAX];
  meeting *m = calloc(1, sizeof *m);
  m->g = g;
  for (int32_t r = 0; r < g->n; r++) {
    const weir_comm_seat_opts o = {.dev = g->dev[r], .bound_ns = bound_ns};
    must(weir_comm_seat_open(g->kind, &o, &m->seat[r], &e), &e);
    offer[r] = weir_comm_seat_offer(m->seat[r]);
  }
  must(weir_comm_invite(g->kind, g->n, offer, m->invite, &e), &e);
  must(tp_run(g, join_meeting, m, &e), &e);
  for (int32_t r = 0; r < g->n; r++) weir_instance_set_comm(g->inst[r], g->comm[r]);
  free(m);
}

void tp_join(tp_group *g) {
  weir_err e = {0};
  tp_leave(g);
  if (g->lent) {
    meet(g);
    return;
  }
  const size_t page = 4096, bytes = (weir_comm_shm_bytes(g->n) + page - 1) / page * page;
  g->memory = aligned_alloc(page, bytes);
  if (!g->memory) fail_msg("no memory");
  memset(g->memory, 0, bytes);
  must(tp_run(g, join, g, &e), &e);
  for (int32_t r = 0; r < g->n; r++) weir_instance_set_comm(g->inst[r], g->comm[r]);
}

tp_group tp_open_file(const weir_mfile *file, const tp_opts *o) {
  tp_group g = {.n = o->n_ranks, .lent = o->dev != NULL, .kind = o->kind};
  weir_hparams h;
  weir_err e = {0};
  must(weir_hparams_read(file, &h, &e), &e);
  for (int32_t r = 0; r < g.n; r++) {
    weir_shard s;
    const weir_cpu_opts cpu = {.n_threads = 1, .isa = o->isa, .no_pin = true, .amx_small = true};
    must(weir_shard_plan(&h, file, r, g.n, &s, &e), &e);
    if (o->bend) o->bend(&s);
    const weir_instance_opts i = {.n_ctx = o->n_ctx,
                                  .n_pages = GOLDEN_PAGES,
                                  .max_tokens = o->max_tokens > 0 ? o->max_tokens : GOLDEN_MAX_TOKENS,
                                  .max_seqs = GOLDEN_MAX_SEQS,
                                  .kv_dtype = o->kv,
                                  .shard = &s,
                                  .progress = o->progress ? &o->progress[r] : NULL};
    if (g.lent)
      g.dev[r] = o->dev[r];
    else
      must(weir_dev_open_cpu(&cpu, &g.dev[r], &e), &e);
    must(weir_instance_create(g.dev[r], o->each ? o->each[r] : file, &h, &i, &g.inst[r], &e), &e);
  }
  tp_join(&g);
  return g;
}

tp_group tp_open(const tp_opts *o) {
  char path[256];
  weir_mfile *f;
  weir_err e = {0};
  const bool is_path = strchr(o->name, '/') != NULL, is_dir = strncmp(o->name, "hf-", 3) == 0;
  snprintf(path, sizeof path, "%s%s%s", is_path ? "" : "tests/vectors/models/", o->name,
           is_path || is_dir ? "" : ".gguf");
  must(weir_mfile_open(path, &f, &e), &e);
  const tp_group g = tp_open_file(f, o);
  weir_mfile_close(f);
  return g;
}

void tp_close(tp_group *g) {
  tp_leave(g);
  for (int32_t r = 0; r < g->n; r++) {
    weir_instance_destroy(g->inst[r]);
    if (!g->lent) weir_dev_destroy(g->dev[r]);
  }
}

/* ---- steps ---- */

typedef struct step {
  tp_group *g;
  const weir_batch *batch;
  float *logits[TP_MAX];
  weir_row *row[TP_MAX];
  weir_top *top[TP_MAX];
} step;

static weir_status logits_of_rank(void *ctx, int32_t rank, weir_err *e) {
  step *s = ctx;
  return weir_forward_logits(s->g->inst[rank], s->batch, s->logits[rank], e);
}

static weir_status rows_of_rank(void *ctx, int32_t rank, weir_err *e) {
  step *s = ctx;
  return weir_forward(s->g->inst[rank], s->batch, s->row[rank], s->top[rank], e);
}

static void same_on_all(const tp_group *g, void *const each[], size_t bytes, const char *what) {
  for (int32_t r = 1; r < g->n; r++)
    if (memcmp(each[r], each[0], bytes) != 0) fail_msg("ranks 0 and %d of %d differ in %s", r, g->n, what);
}

weir_status tp_logits(tp_group *g, const weir_batch *b, float *logits, weir_err *e) {
  step s = {.g = g, .batch = b};
  void *each[TP_MAX];
  const size_t bytes = (size_t)b->n_out * (size_t)g->inst[0]->h.n_vocab * sizeof(float);
  for (int32_t r = 0; r < g->n; r++) each[r] = s.logits[r] = malloc(bytes + 1);
  const weir_status st = tp_run(g, logits_of_rank, &s, e);
  if (st == WEIR_OK) same_on_all(g, each, bytes, "logits");
  if (st == WEIR_OK) memcpy(logits, s.logits[0], bytes);
  for (int32_t r = 0; r < g->n; r++) free(s.logits[r]);
  return st;
}

weir_status tp_forward(tp_group *g, const weir_batch *b, weir_row *row, weir_top *top, weir_err *e) {
  step s = {.g = g, .batch = b};
  void *rows[TP_MAX], *tops[TP_MAX];
  const size_t n = (size_t)b->n_out, most = n * WEIR_TOP_MAX;
  for (int32_t r = 0; r < g->n; r++) {
    rows[r] = s.row[r] = calloc(n + 1, sizeof *s.row[r]);
    tops[r] = calloc(most + 1, sizeof *s.top[r]);
    s.top[r] = top ? tops[r] : NULL;
  }
  const weir_status st = tp_run(g, rows_of_rank, &s, e);
  if (st == WEIR_OK) {
    same_on_all(g, rows, n * sizeof *row, "rows");
    same_on_all(g, tops, most * sizeof *top, "tops");
    memcpy(row, rows[0], n * sizeof *row);
    if (top) memcpy(top, tops[0], most * sizeof *top);
  }
  for (int32_t r = 0; r < g->n; r++) {
    free(rows[r]);
    free(tops[r]);
  }
  return st;
}

void tp_feed(tp_group *g, const int32_t *tok, int32_t from, int32_t to, const int32_t *page, float *logits) {
  weir_err e = {0};
  weir_batch_builder b;
  must(weir_batch_builder_init(&b, GOLDEN_MAX_TOKENS, 1, GOLDEN_PAGES, 1, &e), &e);
  const int32_t first = weir_batch_add(&b, &(weir_batch_seq){tok, from, to, page, (to + 15) / 16});
  for (int32_t i = 0; i < to - from; i++) weir_batch_ask(&b, first + i);
  const weir_batch batch = weir_batch_get(&b);
  must(tp_logits(g, &batch, logits, &e), &e);
  weir_batch_builder_fini(&b);
}
