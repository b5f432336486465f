/* SPDX-License-Identifier: Apache-2.0 */
/* Communicators of GPUs, checked and timed: ranks that share a GPU, NCCL with one rank, and with a GPU a rank
 * where there are several. Every sum is computed as it is enqueued, as it is recorded and as it is played,
 * held against double precision, and against the other ranks' bits; then records of many are timed, beside
 * records of plain copies of as many bytes, which the ranks make at the same time.
 *
 * Ranks are threads. Nothing is allocated or released between the first sum and the last: that can wait for a
 * GPU on which another rank's kernel waits for this one. */
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/config.h"
#include "base/mem.h"
#include "comm/comm_nccl.h"
#include "comm/meet.h"
#include "kernels/cuda/open.h"

enum { COLS = 1024, MAX_SIZES = 8, MAX_RANKS = 8 };

static const weir_option table[] = {
    {.name = "cuda-library",
     .type = WEIR_OPT_STRING,
     .commands = 1,
     .group = "What",
     .arg = "FILE",
     .env = "",
     .help = "weir-cuda.so, where it is not beside the program."},
    {.name = "nccl-library",
     .type = WEIR_OPT_STRING,
     .commands = 1,
     .group = "What",
     .arg = "FILE",
     .env = "",
     .help = "libnccl.so.2, where it is not one that the loader finds."},
    {.name = "small",
     .type = WEIR_OPT_BOOL,
     .commands = 1,
     .group = "What",
     .def = "false",
     .env = "",
     .help = "Tiny sizes: for emulators."},
    {.name = "repeats",
     .type = WEIR_OPT_INT,
     .commands = 1,
     .group = "What",
     .def = "15",
     .min = 1,
     .max = 1000,
     .env = "",
     .help = "The median of so many times is reported."},
    {.name = "help",
     .letter = 'h',
     .type = WEIR_OPT_BOOL,
     .commands = 1,
     .group = "Other",
     .env = "",
     .help = "This text."},
};

typedef struct check {
  const char *library;
  bool small, ok;
  int32_t repeats, n_sizes, n_calls; /* n_calls: in one record */
  size_t floats[MAX_SIZES];          /* multiples of COLS, ascending */
} check;

/* What a rank has found, for each size. */
typedef struct finding {
  double us, copy_us, err;
  uint64_t bits; /* of the sums */
} finding;

typedef struct rank {
  const check *c;
  weir_comm_kind kind;
  int32_t rank, n_ranks;
  weir_dev *dev;
  weir_comm_seat *seat;
  const char *invite;
  weir_comm *comm;
  float *x, *y;  /* device, the largest size */
  int32_t *rows; /* device: 0, 1, 2, ... */
  size_t n;      /* floats of the size at hand */
  finding found[MAX_SIZES];
  pthread_t id;
  weir_status st;
  weir_err err;
} rank;

static float value(int32_t r, size_t i) {
  uint64_t z = (uint64_t)i * 64 + (uint64_t)r + 0x9e3779b97f4a7c15u; /* splitmix64's finaliser */
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return (float)(int32_t)(z >> 32) * 0x1p-31f;
}

/* ---- what is enqueued ---- */

/* Through the table: a communicator of one rank is to work as well. */
static weir_status enqueue_sum(void *ctx, weir_err *e) {
  const rank *k = ctx;
  return k->comm->ops->all_reduce(k->comm, k->x, k->n, e);
}

static weir_status enqueue_sums(void *ctx, weir_err *e) {
  const rank *k = ctx;
  weir_status st = WEIR_OK;
  for (int32_t i = 0; i < k->c->n_calls && st == WEIR_OK; i++) st = enqueue_sum(ctx, e);
  return st;
}

static weir_status enqueue_copies(void *ctx, weir_err *e) {
  const rank *k = ctx;
  weir_status st = WEIR_OK;
  const weir_mat x = {k->x, (int32_t)(k->n / COLS), COLS, COLS}, y = {k->y, x.rows, COLS, COLS};
  for (int32_t i = 0; i < k->c->n_calls && st == WEIR_OK; i++)
    st = weir_op_gather_rows(k->dev, y, x, k->rows, e);
  return st;
}

/* ---- one size ---- */

static weir_status check_sums(rank *k, float *host, finding *f, weir_err *e) {
  weir_status st = WEIR_OK;
  const uint32_t owner = weir_dev_new_owner(k->dev);
  f->bits = 0xcbf29ce484222325u;         /* FNV-1a */
  for (int turn = 0; turn < 3; turn++) { /* as it is, recorded, played */
    for (size_t i = 0; i < k->n; i++) host[i] = value(k->rank, i);
    WEIR_TRY(weir_dev_upload(k->dev, k->x, host, k->n * sizeof *host, e));
    WEIR_TRY(weir_dev_replay(k->dev, weir_replay_key(owner, 1), enqueue_sum, k, e));
    WEIR_TRY(weir_dev_download(k->dev, host, k->x, k->n * sizeof *host, e));
    WEIR_TRY(weir_dev_sync(k->dev, e));
    for (size_t i = 0; i < k->n; i++) {
      double want = 0, size = 0;
      uint32_t bits;
      for (int32_t r = 0; r < k->n_ranks; r++) {
        want += (double)value(r, i);
        size += fabs((double)value(r, i));
      }
      const double d = fabs((double)host[i] - want) / size;
      f->err = isnan(d) || d > f->err ? d : f->err;
      memcpy(&bits, &host[i], sizeof bits);
      f->bits = (f->bits ^ bits) * 0x100000001b3u;
    }
  }
out:
  weir_dev_forget(k->dev, owner);
  return st;
}

static int ascending(const void *a, const void *b) {
  const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

static weir_status median_us(rank *k, weir_enqueue_fn fn, int64_t *ns, double *us, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_clock clock = weir_clock_system();
  const uint32_t owner = weir_dev_new_owner(k->dev);
  const int32_t repeats = k->c->small ? 1 : k->c->repeats;
  for (int32_t i = -3; i < repeats; i++) {
    const int64_t from = weir_now_ns(&clock);
    WEIR_TRY(weir_dev_replay(k->dev, weir_replay_key(owner, 1), fn, k, e));
    WEIR_TRY(weir_dev_sync(k->dev, e));
    if (i >= 0) ns[i] = weir_now_ns(&clock) - from;
  }
  qsort(ns, (size_t)repeats, sizeof *ns, ascending);
  *us = 1e-3 * (double)ns[repeats / 2] / k->c->n_calls;
out:
  weir_dev_forget(k->dev, owner);
  return st;
}

/* ---- a rank ---- */

static weir_status run_rank(rank *k, weir_err *e) {
  weir_status st = WEIR_OK;
  const check *c = k->c;
  const size_t most = c->floats[c->n_sizes - 1];
  float *host = NULL;
  int64_t *ns = NULL;
  int32_t *rows = NULL;
  void *p = NULL;
  weir_comm_seat *seat = k->seat;
  k->seat = NULL;
  WEIR_TRY(weir_comm_join(seat, k->invite, k->rank, &k->comm, e));
  WEIR_TRY(WEIR_NEW(most, &host, e));
  WEIR_TRY(WEIR_NEW((size_t)c->repeats, &ns, e));
  WEIR_TRY(WEIR_NEW(most / COLS, &rows, e));
  for (size_t i = 0; i < most / COLS; i++) rows[i] = (int32_t)i;
  WEIR_TRY(weir_dev_alloc(k->dev, most * sizeof *host, &p, e));
  k->x = p;
  WEIR_TRY(weir_dev_alloc(k->dev, most * sizeof *host, &p, e));
  k->y = p;
  WEIR_TRY(weir_dev_alloc(k->dev, most / COLS * sizeof *rows, &p, e));
  k->rows = p;
  WEIR_TRY(weir_dev_upload(k->dev, k->rows, rows, most / COLS * sizeof *rows, e));
  for (int32_t i = 0; i < c->n_sizes; i++) {
    k->n = c->floats[i];
    WEIR_TRY(check_sums(k, host, &k->found[i], e));
    memset(host, 0, k->n * sizeof *host); /* sums of sums of sums stay finite */
    WEIR_TRY(weir_dev_upload(k->dev, k->x, host, k->n * sizeof *host, e));
    WEIR_TRY(median_us(k, enqueue_sums, ns, &k->found[i].us, e));
    WEIR_TRY(median_us(k, enqueue_copies, ns, &k->found[i].copy_us, e));
  }
out:
  /* The others are not to wait for the bound. */
  if (st != WEIR_OK && k->comm) weir_comm_abort(k->comm, e->msg);
  weir_comm_destroy(k->comm);
  if (k->x) weir_dev_release(k->dev, k->x);
  if (k->y) weir_dev_release(k->dev, k->y);
  if (k->rows) weir_dev_release(k->dev, k->rows);
  free(host);
  free(ns);
  free(rows);
  return st;
}

static void *rank_main(void *arg) {
  rank *k = arg;
  k->st = run_rank(k, &k->err);
  return NULL;
}

/* ---- a group ---- */

static void report(check *c, weir_comm_kind kind, int32_t n_ranks, const rank *k) {
  for (int32_t i = 0; i < c->n_sizes; i++) {
    const finding *f = &k[0].found[i];
    const double bound = n_ranks * 0x1p-24;
    double err = 0;
    bool same = true;
    for (int32_t r = 0; r < n_ranks; r++) {
      const double d = k[r].found[i].err;
      err = isnan(d) || d > err ? d : err;
      same &= k[r].found[i].bits == f->bits;
    }
    const bool good = err <= bound && same;
    c->ok &= good;
    printf(
        "{\"name\":\"%s all_reduce %zu B x%d\",\"us\":%.3f,\"copy_us\":%.3f,\"bytes\":%zu,\"ranks\":%d,"
        "\"same_bits\":%s,\"err\":",
        weir_comm_kind_name(kind), c->floats[i] * sizeof(float), (int)n_ranks, f->us, f->copy_us,
        c->floats[i] * sizeof(float), (int)n_ranks, same ? "true" : "false");
    printf(isfinite(err) ? "%.3g" : "null", err);
    printf(",\"bound\":%.3g,\"ok\":%s}\n", bound, good ? "true" : "false");
  }
  (void)fflush(stdout);
}

static weir_status run_group(check *c, weir_comm_kind kind, int32_t n_ranks, bool spread, weir_err *e) {
  weir_status st = WEIR_OK;
  rank k[MAX_RANKS] = {{0}};
  const char *offer[MAX_RANKS] = {NULL};
  char invite[WEIR_COMM_INVITE_BYTES];
  int32_t n_started = 0;
  for (int32_t r = 0; r < n_ranks; r++) {
    k[r] = (rank){.c = c, .kind = kind, .rank = r, .n_ranks = n_ranks, .invite = invite};
    const weir_cuda_opts o = {.ordinal = spread ? r : 0, .library = c->library};
    const weir_dev_limits lim = {.max_tokens = (int32_t)(c->floats[c->n_sizes - 1] / COLS), .max_cols = COLS};
    WEIR_TRY(weir_dev_open_cuda(&o, &k[r].dev, e));
    WEIR_TRY(weir_dev_reserve(k[r].dev, &lim, e));
    WEIR_TRY(weir_comm_seat_open(kind, &(weir_comm_seat_opts){.dev = k[r].dev}, &k[r].seat, e));
    offer[r] = weir_comm_seat_offer(k[r].seat);
  }
  WEIR_TRY(weir_comm_invite(kind, n_ranks, offer, invite, e));
  for (; n_started < n_ranks && st == WEIR_OK; n_started++)
    if (pthread_create(&k[n_started].id, NULL, rank_main, &k[n_started]) != 0) {
      st = weir_fail(e, WEIR_ENOMEM, "no thread for rank %d", (int)n_started);
      break;
    }
  for (int32_t r = 0; r < n_started; r++) pthread_join(k[r].id, NULL);
  for (int32_t r = 0; r < n_started && st == WEIR_OK; r++)
    if (k[r].st != WEIR_OK) st = weir_fail(e, k[r].st, "rank %d: %s", (int)r, k[r].err.msg);
  if (st == WEIR_OK) report(c, kind, n_ranks, k);
out:
  for (int32_t r = 0; r < n_ranks; r++) {
    weir_comm_seat_close(k[r].seat);
    weir_dev_destroy(k[r].dev);
  }
  return st == WEIR_OK ? st : weir_fail_ctx(e, st, "%s, %d ranks", weir_comm_kind_name(kind), (int)n_ranks);
}

/* ---- all of it ---- */

static weir_status run(check *c, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_err why = {0};
  WEIR_TRY(run_group(c, WEIR_COMM_LOCAL, 2, false, e));
  WEIR_TRY(run_group(c, WEIR_COMM_LOCAL, 4, false, e));
  if (weir_comm_kind_check(WEIR_COMM_NCCL, &why) != WEIR_OK) {
    fprintf(stderr, "check_comm: without NCCL: %s\n", why.msg);
    goto out;
  }
  WEIR_TRY(run_group(c, WEIR_COMM_NCCL, 1, true, e));
  const int32_t n_gpus = weir_cuda_count(c->library, e);
  for (int32_t n = 2; n <= n_gpus && n <= MAX_RANKS; n *= 2)
    WEIR_TRY(run_group(c, WEIR_COMM_NCCL, n, true, e));
out:
  return st;
}

int main(int argc, char **argv) {
  static const size_t floats[] = {1024, 4096, 16384, 262144, 2097152}, small[] = {1024, 3072};
  weir_status st = WEIR_OK;
  weir_err err = {0}, *e = &err;
  weir_config *config = NULL;
  check c = {.ok = true};
  WEIR_TRY(weir_config_create(table, sizeof table / sizeof *table, 1, &config, e));
  WEIR_TRY(weir_config_read_args(config, argc - 1, argv + 1, e));
  if (weir_config_bool(config, "help")) {
    weir_buf help = {0};
    WEIR_TRY(weir_config_help(config, 100, &help, e));
    printf("check_comm [options]: communicators of GPUs, checked and timed.\n\n%s", help.data);
    weir_buf_fini(&help);
    goto out;
  }
  const char *nccl = weir_config_string(config, "nccl-library");
  c.library = weir_config_string(config, "cuda-library");
  c.small = weir_config_bool(config, "small");
  c.n_calls = c.small ? 2 : 8;
  c.repeats = (int32_t)weir_config_int(config, "repeats");
  c.n_sizes = (int32_t)(c.small ? sizeof small / sizeof *small : sizeof floats / sizeof *floats);
  memcpy(c.floats, c.small ? small : floats, (size_t)c.n_sizes * sizeof *c.floats);
  if (nccl) {
    weir_comm_nccl_library(nccl);
    /* In a rehearsal that one is a stand-in, which looks for its runtime in the device's library. */
    if (c.library && !dlopen(c.library, RTLD_NOW | RTLD_GLOBAL))
      fprintf(stderr, "check_comm: %s\n", dlerror());
  }
  WEIR_TRY(run(&c, e));
out:
  if (st != WEIR_OK) fprintf(stderr, "check_comm: %s\n", err.msg);
  weir_config_destroy(config);
  return st == WEIR_OK && c.ok ? 0 : 1;
}
