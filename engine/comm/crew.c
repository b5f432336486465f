/* SPDX-License-Identifier: Apache-2.0 */
/* A crew's life, the same for its leader and its workers. Owns the options, the lock and the thread; any
 * thread calls. */
#define _GNU_SOURCE /* ppoll */
#include "comm/crew.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/secret.h"
#include "comm/crew_in.h"

static const int64_t default_bound_ns = 5000000000, least_bound_ns = 50000000;

void crew_tell(weir_crew *c, weir_crew_event ev) {
  if (!atomic_load(&c->stop)) c->o.on_event(c->o.ctx, &ev);
}

void crew_put_who(char *out, size_t cap, int32_t node, const crew_hello *h) {
  if (h)
    snprintf(out, cap, "node %d (%s, process %d)", node, h->host, h->pid);
  else
    snprintf(out, cap, "node %d", node);
}

void crew_put_silence(char out[CREW_WHY_BYTES], int64_t ns) {
  snprintf(out, CREW_WHY_BYTES, "nothing was heard of it for %.1f s", (double)ns / 1e9);
}

void crew_sleep(weir_crew *c, struct pollfd *p, int n, int64_t until_ns) {
  int64_t wait = until_ns - crew_now(c);
  if (wait < 0) wait = 0;
  const struct timespec t = {.tv_sec = wait / 1000000000, .tv_nsec = wait % 1000000000};
  p[n] = (struct pollfd){.fd = c->wake_fd, .events = POLLIN};
  if (ppoll(p, (nfds_t)n + 1, &t, NULL) < 0) return; /* EINTR */
  if (!p[n].revents) return;
  uint64_t times;
  const ssize_t got = read(c->wake_fd, &times, sizeof times);
  (void)got;
}

void crew_wake(weir_crew *c) {
  const uint64_t one = 1;
  const ssize_t n = write(c->wake_fd, &one, sizeof one);
  (void)n;
}

static void *run(void *ctx) {
  weir_crew *c = ctx;
  if (c->leader)
    crew_leader_run(c);
  else
    crew_worker_run(c);
  return NULL;
}

/* ---- life ---- */

static weir_status copy(const char **text, const char *what, size_t most, weir_err *e) {
  const char *from = *text ? *text : "";
  *text = NULL;
  if (strlen(from) > most)
    return weir_fail(e, WEIR_EINVAL, "%s: %zu bytes, at most %zu", what, strlen(from), most);
  *text = strdup(from);
  return *text ? WEIR_OK : weir_fail(e, WEIR_ENOMEM, "no memory for the %s", what);
}

static weir_status copy_opts(weir_crew *c, const weir_crew_opts *o, weir_err *e) {
  weir_status st = WEIR_OK;
  c->o = *o;
  c->o.addr = c->o.token = c->o.version = NULL;
  if (o->n_nodes < 2 || o->n_nodes > WEIR_CREW_MAX_NODES || o->node < 0 || o->node >= o->n_nodes)
    return weir_fail(e, WEIR_EINVAL, "node %d of %d, want 0 to %d of at most %d", o->node, o->n_nodes,
                     o->n_nodes - 1, WEIR_CREW_MAX_NODES);
  if (!o->addr || !o->addr[0] || !o->on_event || o->bound_ns < 0 ||
      (o->bound_ns > 0 && o->bound_ns < least_bound_ns))
    return weir_fail(e, WEIR_EINVAL, "want an address, a handler and a bound of 50 ms or more");
  c->o.addr = o->addr;
  c->o.token = o->token;
  c->o.version = o->version;
  st = copy(&c->o.addr, "address", 280, e);
  const weir_status token = copy(&c->o.token, "token", WEIR_CREW_MAX_TEXT, st == WEIR_OK ? e : NULL);
  if (st == WEIR_OK) st = token;
  const weir_status version = copy(&c->o.version, "version", WEIR_CREW_MAX_TEXT, st == WEIR_OK ? e : NULL);
  if (st == WEIR_OK) st = version;
  c->bound_ns = o->bound_ns ? o->bound_ns : default_bound_ns;
  return st;
}

static weir_status know_self(weir_crew *c, weir_err *e) {
  c->self = (crew_hello){.bound_ns = c->bound_ns, .n_nodes = c->o.n_nodes, .pid = (int32_t)getpid()};
  if (gethostname(c->self.host, sizeof c->self.host) != 0 && errno != ENAMETOOLONG)
    snprintf(c->self.host, sizeof c->self.host, "?");
  c->self.host[sizeof c->self.host - 1] = 0;
  snprintf(c->self.version, sizeof c->self.version, "%s", c->o.version);
  return weir_secret_draw(&c->self.incarnation, sizeof c->self.incarnation, e);
}

static void destroy(weir_crew *c) {
  if (!c) return;
  crew_leader_destroy(c->leader);
  crew_worker_destroy(c->worker);
  if (c->wake_fd >= 0) close(c->wake_fd);
  pthread_mutex_destroy(&c->lock);
  free((void *)c->o.addr);
  free((void *)c->o.token);
  free((void *)c->o.version);
  free(c);
}

weir_status weir_crew_open(const weir_crew_opts *o, weir_crew **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_crew *c = NULL;
  *out = NULL;
  WEIR_TRY(WEIR_NEW(1, &c, e));
  c->clock = weir_clock_system();
  pthread_mutex_init(&c->lock, NULL);
  c->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (c->wake_fd < 0) WEIR_TRY(weir_fail(e, WEIR_EIO, "eventfd: %s", strerror(errno)));
  WEIR_TRY(copy_opts(c, o, e));
  WEIR_TRY(know_self(c, e));
  WEIR_TRY(o->node == 0 ? crew_leader_create(c, e) : crew_worker_create(c, e));
  if (pthread_create(&c->thread, NULL, run, c) != 0)
    WEIR_TRY(weir_fail(e, WEIR_EIO, "cannot start a thread"));
  c->started = true;
  *out = c;
  c = NULL;
out:
  destroy(c);
  return st == WEIR_OK ? st : weir_fail_ctx(e, st, "crew of %d nodes", o->n_nodes);
}

void weir_crew_close(weir_crew *c) {
  if (!c) return;
  atomic_store(&c->stop, true);
  crew_wake(c);
  pthread_join(c->thread, NULL);
  destroy(c);
}

/* ---- calls ---- */

weir_status weir_crew_send(weir_crew *c, int32_t node, const void *data, size_t bytes, weir_err *e) {
  if (node == c->o.node || node < 0 || node >= c->o.n_nodes || (!c->leader && node != 0))
    return weir_fail(e, WEIR_EINVAL, "node %d sends no message to node %d", c->o.node, node);
  return c->leader ? crew_leader_send(c, node, data, bytes, e) : crew_worker_send(c, data, bytes, e);
}

void weir_crew_missing(weir_crew *c, char *out, size_t cap) {
  if (cap > 0) out[0] = 0;
  if (c->leader) crew_leader_missing(c, out, cap);
}

void weir_crew_who(weir_crew *c, int32_t node, char *out, size_t cap) {
  if (node == c->o.node)
    crew_put_who(out, cap, node, &c->self);
  else if (c->leader && node > 0 && node < c->o.n_nodes)
    crew_leader_who(c, node, out, cap);
  else if (c->worker && node == 0)
    crew_worker_who(c, out, cap);
  else
    crew_put_who(out, cap, node, NULL);
}

int64_t weir_crew_malformed(weir_crew *c) { return atomic_load(&c->malformed); }
