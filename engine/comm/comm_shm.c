/* SPDX-License-Identifier: Apache-2.0 */
/* The communicator over shared memory: how sums and copies go through the group's buffers (shm_group.h), and
 * how the memory is found. Owns its mapping; the rank's thread, any for abort.
 *
 * The memory is an anonymous file (memfd) of rank 0's, which the others open through /proc: it has no name
 * that could be left behind, whatever dies when, no limit of /dev/shm's applies to it, and only processes of
 * the same user get at it.
 *
 * all_reduce of what fits a buffer, or of each bufferful in turn. One shot: each rank puts its numbers where
 * all see them and adds up all of them itself: one meeting, n_ranks - 1 times the data read by each. Two
 * shots: each adds up its own part only, and then they take the parts' sums from each other: two meetings,
 * twice the data read by each. In both one function adds, comm/sum.h, so that bits are the same everywhere
 * (NaNs with them). */
#define _GNU_SOURCE /* memfd_create, file seals */
#include "comm/comm_shm.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "comm/meet_in.h"
#include "comm/shm_group.h"
#include "comm/sum.h"

enum {
  BUF_FLOATS = WEIR_SHM_BUF_BYTES / sizeof(float),
  /* One shot up to this many numbers divided by the square of the number of ranks: about where the two took
   * the same time with 2, 3, 4 and 8 ranks, at 64, 32, 16 and 4 KiB (two cores, Sapphire Rapids). */
  ONE_SHOT_FLOATS = 65536
};

typedef struct shm {
  weir_comm comm;
  weir_shm_group group;
  void *memory; /* owned when mapped_bytes is not 0 */
  size_t mapped_bytes;
  size_t one_shot_floats; /* up to here */
} shm;

/* ---- sums ---- */

static weir_status one_shot(shm *s, float *x, size_t n, weir_err *e) {
  weir_shm_group *g = &s->group;
  const float *from[WEIR_MAX_RANKS];
  memcpy(weir_shm_next_buf(g, g->rank), x, n * sizeof *x);
  const weir_status st = weir_shm_meet(g, e);
  if (st != WEIR_OK) return st;
  for (int32_t r = 0; r < g->n_ranks; r++) from[r] = r == g->rank ? x : weir_shm_buf(g, r);
  weir_comm_sum(x, from, g->n_ranks, n);
  return WEIR_OK;
}

static weir_status two_shots(shm *s, float *x, size_t n, weir_err *e) {
  weir_shm_group *g = &s->group;
  const weir_comm_part mine = weir_comm_part_of(n, g->rank, g->n_ranks);
  const size_t after = mine.at + mine.n;
  const float *from[WEIR_MAX_RANKS];
  weir_status st;
  float *put = weir_shm_next_buf(g, g->rank); /* nobody reads a rank's own part */
  memcpy(put, x, mine.at * sizeof *x);
  memcpy(put + after, x + after, (n - after) * sizeof *x);
  if ((st = weir_shm_meet(g, e)) != WEIR_OK) return st;
  for (int32_t r = 0; r < g->n_ranks; r++)
    from[r] = (r == g->rank ? x : (const float *)weir_shm_buf(g, r)) + mine.at;
  put = weir_shm_next_buf(g, g->rank);
  weir_comm_sum(put + mine.at, from, g->n_ranks, mine.n);
  memcpy(x + mine.at, put + mine.at, mine.n * sizeof *x);
  if ((st = weir_shm_meet(g, e)) != WEIR_OK) return st;
  for (int32_t i = 1; i < g->n_ranks; i++) {
    const int32_t r = (g->rank + i) % g->n_ranks;
    const weir_comm_part p = weir_comm_part_of(n, r, g->n_ranks);
    memcpy(x + p.at, (const float *)weir_shm_buf(g, r) + p.at, p.n * sizeof *x);
  }
  return WEIR_OK;
}

static weir_status shm_all_reduce(weir_comm *c, float *x, size_t n, weir_err *e) {
  shm *s = c->impl;
  weir_status st = weir_shm_begin(&s->group, WEIR_SHM_ALL_REDUCE, n * sizeof *x, 0, e);
  if (c->n_ranks == 1) return st;
  for (size_t at = 0; at < n && st == WEIR_OK; at += BUF_FLOATS) {
    const size_t m = n - at < BUF_FLOATS ? n - at : BUF_FLOATS;
    st = m <= s->one_shot_floats ? one_shot(s, x + at, m, e) : two_shots(s, x + at, m, e);
  }
  return st;
}

/* ---- copies ---- */

static weir_status shm_all_gather(weir_comm *c, void *out, const void *in, size_t bytes, weir_err *e) {
  shm *s = c->impl;
  weir_shm_group *g = &s->group;
  uint8_t *to = out, *own = to + (size_t)g->rank * bytes;
  weir_status st = weir_shm_begin(g, WEIR_SHM_ALL_GATHER, bytes, 0, e);
  for (size_t at = 0; at < bytes && st == WEIR_OK; at += WEIR_SHM_BUF_BYTES) {
    const size_t n = bytes - at < WEIR_SHM_BUF_BYTES ? bytes - at : WEIR_SHM_BUF_BYTES;
    memcpy(weir_shm_next_buf(g, g->rank), (const uint8_t *)in + at, n);
    st = weir_shm_meet(g, e);
    for (int32_t i = 1; i < g->n_ranks && st == WEIR_OK; i++) {
      const int32_t r = (g->rank + i) % g->n_ranks;
      memcpy(to + (size_t)r * bytes + at, weir_shm_buf(g, r), n);
    }
  }
  if (st == WEIR_OK && own != in) memcpy(own, in, bytes);
  return st;
}

/* The root waits too: it must not run ahead of who reads, and so it hears of a rank that has not come. */
static weir_status shm_broadcast(weir_comm *c, void *data, size_t bytes, int32_t root, weir_err *e) {
  shm *s = c->impl;
  weir_shm_group *g = &s->group;
  uint8_t *x = data;
  weir_status st = weir_shm_begin(g, WEIR_SHM_BROADCAST, bytes, root, e);
  for (size_t at = 0; at < bytes && st == WEIR_OK; at += WEIR_SHM_BUF_BYTES) {
    const size_t n = bytes - at < WEIR_SHM_BUF_BYTES ? bytes - at : WEIR_SHM_BUF_BYTES;
    if (g->rank == root) memcpy(weir_shm_next_buf(g, root), x + at, n);
    st = weir_shm_meet(g, e);
    if (st == WEIR_OK && g->rank != root) memcpy(x + at, weir_shm_buf(g, root), n);
  }
  return st;
}

/* ---- life ---- */

static void shm_abort(weir_comm *c, const char *why) { weir_shm_abort(&((shm *)c->impl)->group, why); }

static void drop(shm *s) {
  if (s->mapped_bytes) munmap(s->memory, s->mapped_bytes);
  free(s);
}

static void shm_destroy(weir_comm *c) {
  shm *s = c->impl;
  weir_shm_leave(&s->group);
  drop(s);
}

static const weir_comm_ops ops = {
    .name = "shm",
    .all_reduce = shm_all_reduce,
    .all_gather = shm_all_gather,
    .broadcast = shm_broadcast,
    .abort = shm_abort,
    .destroy = shm_destroy,
};

size_t weir_comm_shm_bytes(int32_t n_ranks) { return weir_shm_bytes(n_ranks); }

/* Takes the memory when mapped_bytes is not 0, on failure too. */
static weir_status enter(void *memory, size_t mapped_bytes, int32_t rank, int32_t n_ranks, int64_t bound_ns,
                         weir_comm **out, weir_err *e) {
  shm *s = NULL;
  weir_status st = WEIR_NEW(1, &s, e);
  if (st != WEIR_OK) {
    if (mapped_bytes) munmap(memory, mapped_bytes);
    return st;
  }
  s->memory = memory;
  s->mapped_bytes = mapped_bytes;
  s->comm = (weir_comm){.ops = &ops, .rank = rank, .n_ranks = n_ranks, .impl = s};
  s->one_shot_floats = (size_t)(ONE_SHOT_FLOATS / (n_ranks * n_ranks));
  st = weir_shm_enter(&s->group, memory, rank, n_ranks, bound_ns, e);
  if (st != WEIR_OK) {
    drop(s);
    return st;
  }
  *out = &s->comm;
  return WEIR_OK;
}

weir_status weir_comm_shm_over(void *memory, int32_t rank, int32_t n_ranks, int64_t bound_ns, weir_comm **out,
                               weir_err *e) {
  *out = NULL;
  return enter(memory, 0, rank, n_ranks, bound_ns, out, e);
}

/* ---- how they meet ---- */

/* Each seat has an anonymous file; rank 0's becomes the group's memory. */
typedef struct seat {
  int fd;
} seat;

enum { TOKEN_HEX = 2 * WEIR_SHM_TOKEN_BYTES, MACHINE_BYTES = 64 };

/* The boot, and the space in which process numbers mean something. */
static weir_status machine_name(char out[MACHINE_BYTES], weir_err *e) {
  static const char *const boot = "/proc/sys/kernel/random/boot_id", *const space = "/proc/self/ns/pid";
  struct stat ns;
  char id[40] = "";
  FILE *f = fopen(boot, "re");
  const bool read = f && fscanf(f, "%36[0-9a-f-]", id) == 1;
  const int err = errno;
  if (f) fclose(f);
  if (!read) return weir_fail(e, WEIR_EIO, "read %s: %s", boot, strerror(err));
  if (stat(space, &ns) != 0) return weir_fail(e, WEIR_EIO, "%s: %s", space, strerror(errno));
  snprintf(out, MACHINE_BYTES, "%s/%" PRIuMAX, id, (uintmax_t)ns.st_ino);
  return WEIR_OK;
}

static weir_status shm_open_seat(weir_comm_seat *s, char *offer, weir_err *e) {
  weir_status st = WEIR_OK;
  uint8_t token[WEIR_SHM_TOKEN_BYTES];
  char machine[MACHINE_BYTES], hex[TOKEN_HEX + 1];
  seat *own = NULL;
  WEIR_TRY(machine_name(machine, e));
  WEIR_TRY(WEIR_NEW(1, &own, e));
  s->impl = own;
  own->fd = memfd_create("weir-comm", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (own->fd < 0 || fchmod(own->fd, 0600) != 0 || getrandom(token, sizeof token, 0) != sizeof token ||
      pwrite(own->fd, token, sizeof token, 0) != sizeof token) {
    st = weir_fail(e, WEIR_EIO, "make shared memory: %s", strerror(errno));
    goto out;
  }
  for (int i = 0; i < WEIR_SHM_TOKEN_BYTES; i++) snprintf(hex + 2 * i, 3, "%02x", token[i]);
  snprintf(offer, WEIR_COMM_OFFER_BODY, "%d %d %s %s", (int)getpid(), own->fd, hex, machine);

out:
  return st;
}

static void shm_close_seat(weir_comm_seat *s) {
  seat *own = s->impl;
  if (own && own->fd >= 0) close(own->fd);
  free(own);
  s->impl = NULL;
}

/* What an offer says; an invitation is rank 0's offer. */
typedef struct place {
  int process, fd;
  char token[TOKEN_HEX + 1], machine[MACHINE_BYTES];
} place;

static weir_status parse(const char *text, place *p, weir_err *e) {
  if (sscanf(text, "%9d %9d %32[0-9a-f] %63[0-9a-f/-]", &p->process, &p->fd, p->token, p->machine) != 4 ||
      p->process < 1 || p->fd < 0 || strlen(p->token) != TOKEN_HEX)
    return weir_fail(e, WEIR_EFORMAT, "the text does not say where the shared memory is");
  return WEIR_OK;
}

static weir_status shm_invite(int32_t n_ranks, const char *const *offer, char *out, weir_err *e) {
  weir_status st = WEIR_OK;
  place first, other;
  WEIR_TRY(parse(offer[0], &first, e));
  for (int32_t r = 1; r < n_ranks; r++) {
    WEIR_TRY(parse(offer[r], &other, e));
    if (strcmp(other.machine, first.machine) != 0) {
      st = weir_fail(e, WEIR_EINVAL,
                     "rank %d is on another machine than rank 0, or in a container of its own: use tcp",
                     (int)r);
      goto out;
    }
  }
  snprintf(out, WEIR_COMM_INVITE_BODY, "%s", offer[0]);

out:
  return st;
}

static weir_status say_gone(const place *p, weir_err *e) {
  return weir_fail(e, WEIR_EDEVICE,
                   "rank 0 (process %d) waits for nobody: it has ended, given up or all it wants",
                   p->process);
}

static weir_status open_place(const place *p, int *fd, weir_err *e) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/fd/%d", p->process, p->fd);
  *fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY); /* the number may be another file's by now */
  if (*fd < 0 && (errno == ENOENT || errno == ESRCH || errno == ENXIO))
    return say_gone(p, e); /* ENXIO: a socket */
  if (*fd < 0)
    return weir_fail(e, WEIR_EIO, "open the shared memory of process %d: %s", p->process, strerror(errno));
  return WEIR_OK;
}

/* Whether it is the memory meant: numbers of processes and files are used again. */
static weir_status check_token(int fd, const place *p, weir_err *e) {
  uint8_t token[WEIR_SHM_TOKEN_BYTES];
  char hex[TOKEN_HEX + 1] = "";
  if (pread(fd, token, sizeof token, 0) == sizeof token)
    for (int i = 0; i < WEIR_SHM_TOKEN_BYTES; i++) snprintf(hex + 2 * i, 3, "%02x", token[i]);
  if (strcmp(hex, p->token) == 0) return WEIR_OK;
  return say_gone(p, e);
}

static weir_status shm_join(weir_comm_seat *s, const char *invite, int32_t n_ranks, int32_t rank,
                            weir_comm **out, weir_err *e) {
  weir_status st = WEIR_OK;
  const size_t bytes = weir_shm_bytes(n_ranks);
  int fd = -1;
  place p;
  WEIR_TRY(parse(invite, &p, e));
  WEIR_TRY(open_place(&p, &fd, e));
  WEIR_TRY(check_token(fd, &p, e));
  /* All ranks do so; once sealed, nobody can make it shorter under the others. */
  if (ftruncate(fd, (off_t)bytes) != 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) {
    st = weir_fail(e, WEIR_EIO, "size of the shared memory, %zu bytes: %s", bytes, strerror(errno));
    goto out;
  }
  void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) {
    st = weir_fail(e, WEIR_ENOMEM, "map %zu bytes of shared memory: %s", bytes, strerror(errno));
    goto out;
  }
  st = enter(memory, bytes, rank, n_ranks, s->bound_ns, out, e);

out:
  if (fd >= 0) close(fd);
  return st;
}

const weir_comm_back weir_comm_shm_back = {
    .device = "cpu",
    .open = shm_open_seat,
    .close = shm_close_seat,
    .invite = shm_invite,
    .join = shm_join,
};
