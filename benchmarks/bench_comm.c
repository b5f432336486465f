/* SPDX-License-Identifier: Apache-2.0 */
/* Times what the ranks of a tensor-parallel model say to each other: microseconds a call and bandwidth, for
 * each number of ranks and each size, threads or processes. Best and median over batches of calls that follow
 * each other without a gap; other programs only ever make a batch slower. */
#define _GNU_SOURCE /* affinity */
#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/config.h"
#include "base/mem.h"
#include "comm/comm.h"
#include "comm/meet.h"
#include "kernels/cuda/open.h"

enum { MAX_SIZES = 64, WARM_UP = 20, MAX_BATCHES = 4096 };

static const int64_t batch_ns = 1000000; /* a batch lasts about so long: the clock costs nothing then */

static const weir_option table[] = {
    {.name = "comm",
     .letter = 'c',
     .type = WEIR_OPT_ENUM,
     .commands = 1,
     .group = "What",
     .def = "shm",
     .choices = "shm|tcp|nccl|local",
     .env = "",
     .help = "Communicator. nccl takes a GPU for each rank, local the first GPU for all."},
    {.name = "ranks",
     .letter = 'r',
     .type = WEIR_OPT_FLOATS,
     .commands = 1,
     .group = "What",
     .def = "2",
     .min = 1,
     .max = WEIR_MAX_RANKS,
     .arg = "N,N",
     .env = "",
     .help = "Numbers of ranks."},
    {.name = "bytes",
     .letter = 'b',
     .type = WEIR_OPT_FLOATS,
     .commands = 1,
     .group = "What",
     .def = "1024,8192,65536,524288,2097152,16777216",
     .min = 4,
     .max = 1 << 30,
     .arg = "N,N",
     .env = "",
     .help = "Bytes of each rank; multiples of 4."},
    {.name = "op",
     .type = WEIR_OPT_ENUM,
     .commands = 1,
     .group = "What",
     .def = "all_reduce",
     .choices = "all_reduce|all_gather|broadcast",
     .env = "",
     .help = "What the ranks do."},
    {.name = "processes",
     .letter = 'p',
     .type = WEIR_OPT_BOOL,
     .commands = 1,
     .group = "What",
     .def = "false",
     .env = "",
     .help = "Each rank is a process, not a thread."},
    {.name = "cuda-library",
     .type = WEIR_OPT_STRING,
     .commands = 1,
     .group = "What",
     .arg = "FILE",
     .env = "",
     .help = "weir-cuda.so, where it is not beside the program."},
    {.name = "pin",
     .type = WEIR_OPT_BOOL,
     .commands = 1,
     .group = "How",
     .def = "true",
     .env = "",
     .help = "Each rank has a core of its own, where there are enough."},
    {.name = "seconds",
     .letter = 's',
     .type = WEIR_OPT_FLOAT,
     .commands = 1,
     .group = "How",
     .def = "0.3",
     .min = 0.001,
     .max = 60,
     .env = "",
     .help = "Time spent on a case."},
    {.name = "json",
     .letter = 'j',
     .type = WEIR_OPT_BOOL,
     .commands = 1,
     .group = "How",
     .def = "false",
     .env = "",
     .help = "One JSON object a line instead of a table."},
    {.name = "help",
     .letter = 'h',
     .type = WEIR_OPT_BOOL,
     .commands = 1,
     .group = "How",
     .def = "false",
     .env = "",
     .help = "This text."},
};

typedef struct bench {
  weir_comm_kind kind;
  const char *op, *cuda_library;
  bool processes, pin, json;
  double seconds;
  size_t bytes[MAX_SIZES];
  int32_t n_bytes, n_ranks;
} bench;

/* ---- one rank ---- */

typedef struct bench_rank {
  const bench *b;
  int32_t rank;
  weir_comm *comm;
  weir_dev *dev; /* NULL: host memory */
  void *in, *out;
} bench_rank;

static weir_status alloc(bench_rank *r, size_t bytes, void **out, weir_err *e) {
  return r->dev ? weir_dev_alloc(r->dev, bytes, out, e) : weir_calloc_aligned(bytes, 1, "data", out, e);
}

static void release(bench_rank *r, void *p) {
  if (r->dev)
    weir_dev_release(r->dev, p);
  else
    free(p);
}

static weir_status call(bench_rank *r, size_t bytes, weir_err *e) {
  switch (r->b->op[4]) { /* all_[r]educe, all_[g]ather, broa[d]cast */
    case 'r': return weir_comm_all_reduce(r->comm, r->in, bytes / sizeof(float), e);
    case 'g': return weir_comm_all_gather(r->comm, r->out, r->in, bytes, e);
    default: return weir_comm_broadcast(r->comm, r->in, bytes, 0, e);
  }
}

static weir_status calls(bench_rank *r, size_t bytes, int32_t n, int64_t *ns, weir_err *e) {
  weir_status st = WEIR_OK;
  const int64_t from = weir_monotonic_ns();
  for (int32_t i = 0; i < n; i++) WEIR_TRY(call(r, bytes, e));
  if (r->dev) WEIR_TRY(weir_dev_sync(r->dev, e));
  *ns = weir_monotonic_ns() - from;

out:
  return st;
}

/* Rank 0 says how much is done: the others hear it. */
static weir_status agree(bench_rank *r, int32_t plan[2], weir_err *e) {
  weir_status st = WEIR_OK;
  void *x = NULL;
  const size_t bytes = 2 * sizeof *plan;
  WEIR_TRY(alloc(r, bytes, &x, e));
  if (!r->dev) {
    memcpy(x, plan, bytes);
    WEIR_TRY(weir_comm_broadcast(r->comm, x, bytes, 0, e));
    memcpy(plan, x, bytes);
  } else {
    WEIR_TRY(weir_dev_upload(r->dev, x, plan, bytes, e));
    WEIR_TRY(weir_comm_broadcast(r->comm, x, bytes, 0, e));
    WEIR_TRY(weir_dev_download(r->dev, plan, x, bytes, e));
    WEIR_TRY(weir_dev_sync(r->dev, e));
  }

out:
  release(r, x);
  return st;
}

static int ascending(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Bytes that cross a link of each rank, for one of its own, as nccl-tests counts "bus bandwidth". */
static double bus_factor(const bench *b) {
  const double n = b->n_ranks;
  return b->op[4] == 'r' ? 2 * (n - 1) / n : (b->op[4] == 'g' ? n - 1 : 1);
}

static weir_status print(const bench *b, size_t bytes, double *ns, int32_t n, weir_err *e) {
  qsort(ns, (size_t)n, sizeof *ns, ascending);
  const double best = ns[0], median = ns[n / 2], rate = (double)bytes / best, bus = rate * bus_factor(b);
  const char *as = b->processes ? "processes" : "threads";
  if (!b->json) {
    printf("%-5s %-10s %3d %-9s %10zu bytes %10.2f us (median %10.2f) %8.2f GB/s %8.2f GB/s of bus\n",
           weir_comm_kind_name(b->kind), b->op, (int)b->n_ranks, as, bytes, best / 1e3, median / 1e3, rate,
           bus);
  } else {
    json_t *o =
        json_pack("{s:s, s:s, s:i, s:s, s:I, s:f, s:f, s:f, s:f}", "comm", weir_comm_kind_name(b->kind), "op",
                  b->op, "ranks", (int)b->n_ranks, "as", as, "bytes", (json_int_t)bytes, "us", best / 1e3,
                  "median_us", median / 1e3, "gb_s", rate, "bus_gb_s", bus);
    char *line = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(6)) : NULL;
    json_decref(o);
    if (!line) return weir_fail(e, WEIR_ENOMEM, "a line of JSON");
    puts(line);
    free(line);
  }
  fflush(stdout);
  return WEIR_OK;
}

static weir_status time_size(bench_rank *r, size_t bytes, weir_err *e) {
  weir_status st = WEIR_OK;
  int64_t ns;
  double *each = NULL;
  r->in = r->out = NULL;
  WEIR_TRY(alloc(r, bytes, &r->in, e));
  WEIR_TRY(alloc(r, bytes * (size_t)r->b->n_ranks, &r->out, e));
  WEIR_TRY(calls(r, bytes, WARM_UP, &ns, e));
  WEIR_TRY(calls(r, bytes, WARM_UP, &ns, e));
  const double guess = (double)ns / WARM_UP + 1, fit = (double)batch_ns / guess;
  int32_t plan[2] = {fit < 1 ? 1 : (int32_t)fit, 0}; /* calls a batch, batches */
  const double batches = r->b->seconds * 1e9 / (guess * plan[0]);
  plan[1] = batches < 3 ? 3 : (batches > MAX_BATCHES ? MAX_BATCHES : (int32_t)batches);
  WEIR_TRY(agree(r, plan, e));
  WEIR_TRY(WEIR_NEW((size_t)plan[1], &each, e));
  for (int32_t i = 0; i < plan[1]; i++) {
    WEIR_TRY(calls(r, bytes, plan[0], &ns, e));
    each[i] = (double)ns / plan[0];
  }
  if (r->rank == 0) WEIR_TRY(print(r->b, bytes, each, plan[1], e));

out:
  free(each);
  release(r, r->in);
  release(r, r->out);
  return st;
}

/* The rank'th of the cores that this process may use, when there is one for each. */
static void pin(const bench *b, int32_t rank) {
  cpu_set_t may, one;
  int32_t seen = 0;
  if (!b->pin || sched_getaffinity(0, sizeof may, &may) != 0 || CPU_COUNT(&may) < b->n_ranks) return;
  for (int c = 0; c < CPU_SETSIZE; c++) {
    if (!CPU_ISSET(c, &may) || seen++ != rank) continue;
    CPU_ZERO(&one);
    CPU_SET(c, &one);
    sched_setaffinity(0, sizeof one, &one);
    return;
  }
}

static weir_status open_seat(const bench *b, int32_t rank, weir_dev **dev, weir_comm_seat **seat,
                             weir_err *e) {
  weir_status st = WEIR_OK;
  *dev = NULL;
  if (b->kind == WEIR_COMM_NCCL || b->kind == WEIR_COMM_LOCAL) {
    const weir_cuda_opts o = {.ordinal = b->kind == WEIR_COMM_NCCL ? rank : 0, .library = b->cuda_library};
    WEIR_TRY(weir_dev_open_cuda(&o, dev, e));
  }
  WEIR_TRY(weir_comm_seat_open(b->kind, &(weir_comm_seat_opts){.dev = *dev}, seat, e));

out:
  return st;
}

static weir_status run_rank(const bench *b, int32_t which, weir_dev *dev, weir_comm_seat *takes,
                            const char *invite, weir_err *e) {
  weir_status st = WEIR_OK;
  bench_rank r = {.b = b, .rank = which, .dev = dev};
  pin(b, which);
  WEIR_TRY(weir_comm_join(takes, invite, which, &r.comm, e));
  for (int32_t i = 0; i < b->n_bytes; i++) WEIR_TRY(time_size(&r, b->bytes[i], e));

out:
  if (st != WEIR_OK) weir_comm_abort(r.comm, e->msg);
  weir_comm_destroy(r.comm);
  return st;
}

/* ---- ranks as threads ---- */

typedef struct thread {
  const bench *b;
  int32_t rank;
  weir_dev *dev;
  weir_comm_seat *seat;
  const char *invite;
  weir_status st;
  weir_err e;
  pthread_t id;
} thread;

static void *thread_main(void *arg) {
  thread *t = arg;
  t->st = run_rank(t->b, t->rank, t->dev, t->seat, t->invite, &t->e);
  return NULL;
}

static weir_status run_threads(const bench *b, char *invite, weir_err *e) {
  weir_status st = WEIR_OK;
  static thread t[WEIR_MAX_RANKS];
  const char *offer[WEIR_MAX_RANKS] = {NULL};
  int32_t started = 0;
  memset(t, 0, sizeof t);
  for (int32_t r = 0; r < b->n_ranks; r++) {
    t[r] = (thread){.b = b, .rank = r, .invite = invite};
    WEIR_TRY(open_seat(b, r, &t[r].dev, &t[r].seat, e));
    offer[r] = weir_comm_seat_offer(t[r].seat);
  }
  WEIR_TRY(weir_comm_invite(b->kind, b->n_ranks, offer, invite, e));
  for (; started < b->n_ranks; started++)
    if (pthread_create(&t[started].id, NULL, thread_main, &t[started]) != 0) {
      st = weir_fail(e, WEIR_EIO, "start a thread");
      break;
    }

out:
  for (int32_t r = 0; r < b->n_ranks; r++) {
    if (r < started)
      pthread_join(t[r].id, NULL);
    else
      weir_comm_seat_close(t[r].seat);
    if (st == WEIR_OK && t[r].st != WEIR_OK) {
      st = t[r].st;
      if (e) *e = t[r].e;
    }
    weir_dev_destroy(t[r].dev);
  }
  return st;
}

/* ---- ranks as processes ---- */

static bool read_all(int fd, void *to, size_t bytes) {
  for (size_t n = 0; n < bytes;) {
    const ssize_t got = read(fd, (char *)to + n, bytes - n);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    n += (size_t)got;
  }
  return true;
}

static bool write_all(int fd, const void *from, size_t bytes) {
  for (size_t n = 0; n < bytes;) {
    const ssize_t put = write(fd, (const char *)from + n, bytes - n);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return false;
    n += (size_t)put;
  }
  return true;
}

typedef struct child {
  pid_t pid;
  int offer[2], invite[2]; /* pipes */
} child;

/* The child's whole life; its exit status. */
static int child_main(const bench *b, int32_t rank, const child *c, char *invite) {
  weir_status st = WEIR_OK;
  weir_err err = {0}, *e = &err;
  char offer[WEIR_COMM_OFFER_BYTES] = "";
  weir_comm_seat *seat = NULL;
  weir_dev *dev = NULL;
  WEIR_TRY(open_seat(b, rank, &dev, &seat, e));
  snprintf(offer, sizeof offer, "%s", weir_comm_seat_offer(seat));
  if (!write_all(c->offer[1], offer, sizeof offer) || !read_all(c->invite[0], invite, WEIR_COMM_INVITE_BYTES))
    st = weir_fail(e, WEIR_EIO, "the parent does not answer");
  if (st != WEIR_OK) goto out;
  invite[WEIR_COMM_INVITE_BYTES - 1] = 0;
  st = run_rank(b, rank, dev, seat, invite, e);
  seat = NULL;

out:
  if (st != WEIR_OK) fprintf(stderr, "bench_comm: rank %d: %s\n", (int)rank, err.msg);
  weir_comm_seat_close(seat);
  weir_dev_destroy(dev);
  return st == WEIR_OK ? 0 : 1;
}

static void shut(int *fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

static weir_status start(const bench *b, child *c, int32_t rank, char *invite, weir_err *e) {
  if (pipe(c[rank].offer) != 0 || pipe(c[rank].invite) != 0)
    return weir_fail(e, WEIR_EIO, "a pipe: %s", strerror(errno));
  fflush(stdout);
  c[rank].pid = fork();
  if (c[rank].pid < 0) return weir_fail(e, WEIR_EIO, "a process: %s", strerror(errno));
  if (c[rank].pid == 0) {
    for (int32_t r = 0; r <= rank; r++) shut(&c[r].invite[1]); /* else a dead parent would not be noticed */
    const int status = child_main(b, rank, &c[rank], invite);
    fflush(stdout);
    _exit(status);
  }
  shut(&c[rank].offer[1]);
  shut(&c[rank].invite[0]);
  return WEIR_OK;
}

static weir_status run_processes(const bench *b, char *invite, weir_err *e) {
  weir_status st = WEIR_OK;
  static child c[WEIR_MAX_RANKS];
  static char text[WEIR_MAX_RANKS][WEIR_COMM_OFFER_BYTES];
  const char *offer[WEIR_MAX_RANKS] = {NULL};
  for (int32_t r = 0; r < b->n_ranks; r++) c[r] = (child){0, {-1, -1}, {-1, -1}};
  for (int32_t r = 0; r < b->n_ranks; r++) WEIR_TRY(start(b, c, r, invite, e));
  for (int32_t r = 0; r < b->n_ranks; r++) {
    offer[r] = text[r];
    if (!read_all(c[r].offer[0], text[r], sizeof text[r])) {
      st = weir_fail(e, WEIR_EIO, "rank %d has no offer", (int)r);
      goto out;
    }
    text[r][sizeof text[r] - 1] = 0;
  }
  WEIR_TRY(weir_comm_invite(b->kind, b->n_ranks, offer, invite, e));
  for (int32_t r = 0; r < b->n_ranks; r++)
    if (!write_all(c[r].invite[1], invite, WEIR_COMM_INVITE_BYTES))
      st = weir_fail(e, WEIR_EIO, "rank %d has gone", (int)r);

out:
  for (int32_t r = 0; r < b->n_ranks; r++) {
    for (int i = 0; i < 2; i++) {
      shut(&c[r].offer[i]);
      shut(&c[r].invite[i]);
    }
  }
  for (int32_t r = 0; r < b->n_ranks; r++) {
    int status = 0;
    if (c[r].pid <= 0 || waitpid(c[r].pid, &status, 0) != c[r].pid) continue;
    if (status != 0 && st == WEIR_OK) st = weir_fail(e, WEIR_EIO, "rank %d has failed", (int)r);
  }
  return st;
}

static weir_status whole(double x, const char *what, weir_err *e) {
  return x == (double)(int64_t)x ? WEIR_OK : weir_fail(e, WEIR_EINVAL, "--%s wants whole numbers", what);
}

int main(int argc, char **argv) {
  weir_status st = WEIR_OK;
  weir_err err = {0}, *e = &err;
  weir_config *c = NULL;
  static char invite[WEIR_COMM_INVITE_BYTES];
  bench b = {0};
  int32_t n_ranks;
  WEIR_TRY(weir_config_create(table, sizeof table / sizeof *table, 1, &c, e));
  WEIR_TRY(weir_config_read_args(c, argc - 1, argv + 1, e));
  if (weir_config_bool(c, "help")) {
    weir_buf help = {0};
    WEIR_TRY(weir_config_help(c, 100, &help, e));
    printf(
        "bench_comm [options]: times what the ranks of a tensor-parallel model say to each other. A call of\n"
        "so many bytes takes so long: the best and the median of batches; bytes a second of a rank's data,\n"
        "and of what crosses a link (nccl-tests: bus bandwidth).\n\n%s",
        help.data);
    weir_buf_fini(&help);
    goto out;
  }
  weir_comm_kind_parse(weir_config_string(c, "comm"), &b.kind);
  b.op = weir_config_string(c, "op");
  b.cuda_library = weir_config_string(c, "cuda-library");
  b.processes = weir_config_bool(c, "processes");
  b.pin = weir_config_bool(c, "pin");
  b.json = weir_config_bool(c, "json");
  b.seconds = weir_config_float(c, "seconds");
  const double *bytes = weir_config_floats(c, "bytes", &b.n_bytes);
  if (b.n_bytes > MAX_SIZES) WEIR_TRY(weir_fail(e, WEIR_EINVAL, "--bytes: %d sizes at most", MAX_SIZES));
  for (int32_t i = 0; i < b.n_bytes; i++) {
    WEIR_TRY(whole(bytes[i] / 4, "bytes (multiples of 4)", e));
    b.bytes[i] = (size_t)bytes[i];
  }
  const double *ranks = weir_config_floats(c, "ranks", &n_ranks);
  for (int32_t i = 0; i < n_ranks; i++) {
    WEIR_TRY(whole(ranks[i], "ranks", e));
    b.n_ranks = (int32_t)ranks[i];
    WEIR_TRY(b.processes ? run_processes(&b, invite, e) : run_threads(&b, invite, e));
  }

out:
  if (st != WEIR_OK) fprintf(stderr, "bench_comm: %s\n", err.msg);
  weir_config_destroy(c);
  return st == WEIR_OK ? 0 : 1;
}
