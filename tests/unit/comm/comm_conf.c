/* SPDX-License-Identifier: Apache-2.0 */
/* Groups of threads, and what ranks do together when nothing goes wrong; comm_faults.c has the rest. */
#include "comm_conf.h"

#include <dirent.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

int64_t conf_now_ns(void) {
  const weir_clock c = weir_clock_system();
  return weir_now_ns(&c);
}

void conf_fault(conf_rank *r, const char *fmt, ...) {
  va_list ap;
  if (r->fault[0]) return; /* the first tells most */
  const int n = snprintf(r->fault, sizeof r->fault, "%s, rank %d of %d: ", weir_comm_kind_name(r->conf->kind),
                         (int)r->rank, (int)r->n_ranks);
  va_start(ap, fmt);
  vsnprintf(r->fault + n, sizeof r->fault - (size_t)n, fmt, ap);
  va_end(ap);
}

/* ---- ranks as threads ---- */

typedef struct thread {
  conf_rank r;
  weir_comm_seat *seat;
  const char *invite;
  void (*fn)(conf_rank *);
  pthread_t id;
} thread;

static void *rank_main(void *arg) {
  thread *t = arg;
  weir_err e = {0};
  if (weir_comm_join(t->seat, t->invite, t->r.rank, &t->r.comm, &e) != WEIR_OK) {
    conf_fault(&t->r, "join: %s", e.msg);
    return NULL;
  }
  t->fn(&t->r);
  weir_comm_destroy(t->r.comm);
  return NULL;
}

void conf_ranks(const comm_conf *c, int32_t n, int64_t bound_ns, void (*fn)(conf_rank *), void *ctx) {
  static thread t[WEIR_MAX_RANKS];
  static char invite[WEIR_COMM_INVITE_BYTES];
  const char *offer[WEIR_MAX_RANKS] = {NULL};
  weir_err e = {0};
  memset(t, 0, sizeof t);
  for (int32_t r = 0; r < n; r++) {
    weir_dev *dev = c->dev ? c->dev(c->ctx, r) : NULL;
    t[r].r = (conf_rank){.conf = c, .rank = r, .n_ranks = n, .dev = dev, .ctx = ctx};
    t[r].fn = fn;
    t[r].invite = invite;
    const weir_comm_seat_opts o = {.dev = dev, .host = c->host, .bound_ns = bound_ns};
    if (weir_comm_seat_open(c->kind, &o, &t[r].seat, &e) != WEIR_OK) fail_msg("seat %d: %s", (int)r, e.msg);
    offer[r] = weir_comm_seat_offer(t[r].seat);
  }
  if (weir_comm_invite(c->kind, n, offer, invite, &e) != WEIR_OK) fail_msg("invite: %s", e.msg);
  for (int32_t r = 0; r < n; r++) assert_int_equal(pthread_create(&t[r].id, NULL, rank_main, &t[r]), 0);
  for (int32_t r = 0; r < n; r++) pthread_join(t[r].id, NULL);
  for (int32_t r = 0; r < n; r++)
    if (t[r].r.fault[0]) fail_msg("%s", t[r].r.fault);
}

/* ---- memory where the rank works ---- */

static void *take(conf_rank *r, size_t bytes) {
  void *p = NULL;
  weir_err e;
  if (!r->dev) return malloc(bytes ? bytes : 1);
  return weir_dev_alloc(r->dev, bytes, &p, &e) == WEIR_OK ? p : NULL;
}

static void drop(conf_rank *r, void *p) {
  if (r->dev)
    weir_dev_release(r->dev, p);
  else
    free(p);
}

static weir_status put(conf_rank *r, void *to, const void *from, size_t bytes, weir_err *e) {
  if (r->dev) return weir_dev_upload(r->dev, to, from, bytes, e);
  memcpy(to, from, bytes);
  return WEIR_OK;
}

static weir_status get(conf_rank *r, void *to, const void *from, size_t bytes, weir_err *e) {
  if (!r->dev) {
    memcpy(to, from, bytes);
    return WEIR_OK;
  }
  const weir_status st = weir_dev_download(r->dev, to, from, bytes, e);
  return st == WEIR_OK ? weir_dev_sync(r->dev, e) : st;
}

weir_status conf_call(conf_rank *r, size_t n, weir_err *e) {
  weir_status st;
  float *x = take(r, n * sizeof *x), *host = calloc(n, sizeof *host);
  if (!x || !host) {
    st = weir_fail(e, WEIR_ENOMEM, "memory of the test");
  } else {
    st = put(r, x, host, n * sizeof *x, e);
    if (st == WEIR_OK) st = weir_comm_all_reduce(r->comm, x, n, e);
    if (st == WEIR_OK) st = get(r, host, x, n * sizeof *x, e);
  }
  drop(r, x);
  free(host);
  return st;
}

/* ---- numbers ---- */

static uint64_t mix(uint64_t x) { /* splitmix64's finaliser (Steele, Lea, Flood 2014) */
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

static uint64_t hash_bytes(uint64_t h, const void *data, size_t bytes) {
  const uint8_t *p = data;
  uint64_t word = 0;
  for (; bytes >= 8; bytes -= 8, p += 8) {
    memcpy(&word, p, 8);
    h = mix(h ^ word);
  }
  word = bytes;
  memcpy(&word, p, bytes);
  return mix(h ^ word);
}

/* What a rank brings: magnitudes far enough apart that another order of adding gives other bits, and now and
 * then a zero of either sign, a denormal, an infinity, a NaN that says whose it is. */
static float value(uint64_t seed, int32_t rank, size_t i) {
  const uint64_t h = mix(seed ^ mix((uint64_t)i * WEIR_MAX_RANKS + (uint64_t)rank));
  union {
    uint32_t u;
    float f;
  } v;
  if (h % 61 == 0) {
    static const uint32_t odd[] = {0x80000000u, 0, 1, 0x807fffffu, 0x7f800000u, 0xff800000u, 0x7fc00000u};
    v.u = odd[h / 61 % COUNT(odd)];
    if (v.u == 0x7fc00000u) v.u += (uint32_t)rank + 1;
    return v.f;
  }
  return ldexpf((float)(int32_t)(h >> 32) * 0x1p-31f, (int)(h % 12) - 6);
}

static bool same_bits(float a, float b) { return memcmp(&a, &b, sizeof a) == 0; }

/* Compares a sum with the sum in order, or with the sum in twice the precision. Whatever payload a NaN
 * carries, it has to be one. */
static bool right_sum(conf_rank *r, uint64_t seed, size_t i, float got) {
  volatile float in_order = value(seed, 0, i);
  double exact = (double)in_order, size = fabs(exact);
  for (int32_t k = 1; k < r->n_ranks; k++) {
    const float v = value(seed, k, i);
    in_order = in_order + v;
    exact += (double)v;
    size += fabs((double)v);
  }
  const float want = in_order;
  if (isnan(want)) return isnan(got);
  if (r->conf->in_order || isinf(want)) return same_bits(got, want);
  return fabs((double)got - exact) <= size * r->n_ranks * 0x1p-24;
}

static bool do_sum(conf_rank *r, uint64_t seed, size_t n, uint64_t *hash) {
  weir_err e = {0};
  bool ok = false;
  float *host = malloc(n * sizeof *host + sizeof *host), *x = take(r, n * sizeof *x);
  if (!host || !x) {
    conf_fault(r, "memory of the test");
    goto out;
  }
  for (size_t i = 0; i < n; i++) host[i] = value(seed, r->rank, i);
  host[n] = 42;
  if (put(r, x, host, n * sizeof *x, &e) != WEIR_OK || weir_comm_all_reduce(r->comm, x, n, &e) != WEIR_OK ||
      get(r, host, x, n * sizeof *x, &e) != WEIR_OK) {
    conf_fault(r, "all_reduce of %zu: %s", n, e.msg);
    goto out;
  }
  for (size_t i = 0; i < n; i++)
    if (!right_sum(r, seed, i, host[i])) {
      conf_fault(r, "all_reduce of %zu: number %zu is %.9g", n, i, (double)host[i]);
      goto out;
    }
  *hash = hash_bytes(*hash, host, n * sizeof *host);
  ok = true;

out:
  drop(r, x);
  free(host);
  return ok;
}

static uint8_t byte_of(uint64_t seed, int32_t rank, size_t i) {
  return (uint8_t)(mix(seed ^ (uint64_t)rank << 32 ^ (uint64_t)(i / 8)) >> i % 8 * 8);
}

static bool do_gather(conf_rank *r, uint64_t seed, size_t bytes, bool in_place, uint64_t *hash) {
  weir_err e = {0};
  bool ok = false;
  const size_t all = bytes * (size_t)r->n_ranks;
  uint8_t *host = calloc(1, all), *out = take(r, all), *in = in_place ? NULL : take(r, bytes);
  if (!host || !out || (!in && !in_place)) {
    conf_fault(r, "memory of the test");
    goto out;
  }
  uint8_t *from = in_place ? out + (size_t)r->rank * bytes : in;
  if (put(r, out, host, all, &e) != WEIR_OK) goto failed;
  for (size_t i = 0; i < bytes; i++) host[i] = byte_of(seed, r->rank, i);
  if (put(r, from, host, bytes, &e) != WEIR_OK) goto failed;
  if (weir_comm_all_gather(r->comm, out, from, bytes, &e) != WEIR_OK) goto failed;
  if (get(r, host, out, all, &e) != WEIR_OK) goto failed;
  for (size_t i = 0; i < all; i++)
    if (host[i] != byte_of(seed, (int32_t)(i / bytes), i % bytes)) {
      conf_fault(r, "all_gather of %zu bytes: byte %zu of rank %zu is wrong", bytes, i % bytes, i / bytes);
      goto out;
    }
  *hash = hash_bytes(*hash, host, all);
  ok = true;
  goto out;

failed:
  conf_fault(r, "all_gather of %zu bytes: %s", bytes, e.msg);
out:
  drop(r, in);
  drop(r, out);
  free(host);
  return ok;
}

static bool do_broadcast(conf_rank *r, uint64_t seed, size_t bytes, int32_t root, uint64_t *hash) {
  weir_err e = {0};
  bool ok = false;
  uint8_t *host = malloc(bytes), *x = take(r, bytes);
  if (!host || !x) {
    conf_fault(r, "memory of the test");
    goto out;
  }
  for (size_t i = 0; i < bytes; i++) host[i] = byte_of(seed, r->rank, i);
  if (put(r, x, host, bytes, &e) != WEIR_OK || weir_comm_broadcast(r->comm, x, bytes, root, &e) != WEIR_OK ||
      get(r, host, x, bytes, &e) != WEIR_OK) {
    conf_fault(r, "broadcast of %zu bytes from rank %d: %s", bytes, (int)root, e.msg);
    goto out;
  }
  for (size_t i = 0; i < bytes; i++)
    if (host[i] != byte_of(seed, root, i)) {
      conf_fault(r, "broadcast of %zu bytes from rank %d: byte %zu is wrong", bytes, (int)root, i);
      goto out;
    }
  *hash = hash_bytes(*hash, host, bytes);
  ok = true;

out:
  drop(r, x);
  free(host);
  return ok;
}

/* ---- what ranks do together ---- */

bool conf_do_sums(conf_rank *r, uint64_t *hash) {
  static const size_t sizes[] = {1,     2,     3,     15,    16,    17,     31,     64,     65,     255,
                                 256,   257,   1000,  2047,  2048,  4095,   4096,   4097,   16383,  16385,
                                 65535, 65536, 65537, 65551, 70001, 131072, 131073, 300007, 1048583};
  for (size_t i = 0; i < COUNT(sizes); i++)
    if (sizes[i] <= r->conf->most && !do_sum(r, 100 + i, sizes[i], hash)) return false;
  return true;
}

bool conf_do_copies(conf_rank *r, uint64_t *hash) {
  static const size_t sizes[] = {1, 3, 63, 64, 65, 1000, 4096, 65537, 262143, 262144, 262145, 1048579};
  for (size_t i = 0; i < COUNT(sizes); i++) {
    if (sizes[i] > r->conf->most * sizeof(float)) continue;
    if (!do_gather(r, 200 + i, sizes[i], false, hash) || !do_gather(r, 300 + i, sizes[i], true, hash))
      return false;
    for (int32_t root = 0; root < r->n_ranks; root++)
      if (!do_broadcast(r, 400 + i, sizes[i], root, hash)) return false;
  }
  return true;
}

/* Small ones, so that ranks are at different calls all the time; now and then one gives its core away. */
bool conf_do_mixed(conf_rank *r, uint64_t *hash) {
  for (uint64_t i = 0; i < 400; i++) {
    const uint64_t h = mix(i ^ 0x5eed);
    const size_t n = 1 + (size_t)(h >> 8) % (i % 16 == 0 ? 20000 : 300);
    const int32_t root = (int32_t)((h >> 40) % (uint64_t)r->n_ranks);
    if (mix(h ^ (uint64_t)r->rank) % 8 == 0) sched_yield();
    if (h % 4 < 2 ? !do_sum(r, h, n, hash)
                  : (h % 4 == 2 ? !do_gather(r, h, n, i % 2 == 0, hash) : !do_broadcast(r, h, n, root, hash)))
      return false;
  }
  return true;
}

typedef struct together {
  bool (*fn)(conf_rank *, uint64_t *hash);
  uint64_t hash[WEIR_MAX_RANKS];
} together;

static void run_together(conf_rank *r) {
  together *t = r->ctx;
  if (!t->fn(r, &t->hash[r->rank])) weir_comm_abort(r->comm, "the test has found a fault");
}

/* No rank's results may differ from another's by a bit. */
static void check_together(const comm_conf *c, int32_t n, bool (*fn)(conf_rank *, uint64_t *)) {
  together t = {.fn = fn};
  conf_ranks(c, n, INT64_C(60000000000), run_together, &t);
  for (int32_t r = 1; r < n; r++)
    if (t.hash[r] != t.hash[0])
      fail_msg("%s: rank %d has other bits than rank 0", weir_comm_kind_name(c->kind), (int)r);
  assert_true(t.hash[0] != 0);
}

void conf_check_sums(const comm_conf *c, int32_t n) { check_together(c, n, conf_do_sums); }
void conf_check_copies(const comm_conf *c, int32_t n) { check_together(c, n, conf_do_copies); }
void conf_check_mixed(const comm_conf *c, int32_t n) { check_together(c, n, conf_do_mixed); }

void conf_check_all(const comm_conf *c, int32_t n) {
  conf_check_sums(c, n);
  conf_check_copies(c, n);
  conf_check_mixed(c, n);
  conf_check_mismatch(c, n);
  conf_check_late(c, n);
  conf_check_patience(c, n);
  conf_check_abort(c, n);
  conf_check_left(c, n);
  conf_check_absent(c, n);
}

/* ---- what a test leaves behind ---- */

static int entries(const char *path, const char *prefix) {
  DIR *d = opendir(path);
  int n = 0;
  if (!d) return 0;
  for (const struct dirent *f; (f = readdir(d));) n += strncmp(f->d_name, prefix, strlen(prefix)) == 0;
  closedir(d);
  return n;
}

static void *nothing(void *arg) { return arg; }

conf_traces conf_traces_now(void) {
  pthread_t id; /* with the first one a sanitizer may start a thread of its own */
  if (pthread_create(&id, NULL, nothing, NULL) == 0) pthread_join(id, NULL);
  conf_traces t = {entries("/proc/self/fd", ""), entries("/proc/self/task", ""), 0,
                   entries("/dev/shm", "weir")};
  char line[512];
  FILE *f = fopen("/proc/self/maps", "re");
  while (f && fgets(line, sizeof line, f)) t.maps += strstr(line, "weir-comm") != NULL;
  if (f) fclose(f);
  return t;
}

void conf_check_traces(conf_traces before) {
  conf_traces now = conf_traces_now();
  /* A thread that was joined is listed for another moment. */
  for (const int64_t until = conf_now_ns() + 5000000000;
       now.threads > before.threads && conf_now_ns() < until; now = conf_traces_now())
    sched_yield();
  assert_int_equal(now.files, before.files);
  assert_int_equal(now.threads, before.threads);
  assert_int_equal(now.maps, before.maps);
  assert_int_equal(now.names, before.names);
}
