/* SPDX-License-Identifier: Apache-2.0 */
/* The gateway's process. It is a child of the main thread and dies with it (PR_SET_PDEATHSIG), in a process
 * group of its own so that a Ctrl-C reaches the engine alone, which ends in order. Whether it listens is seen
 * by connecting: that needs no word between the two. All calls from the main thread. */
#define _GNU_SOURCE /* memfd_create, close_range, environ */
#include "programs/serve_gateway.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

enum { MAX_ARGS = 64, PROBE_MS = 25, ANSWER_MS = 500, MAX_KEY_BYTES = 1 << 16 };
#define SECOND INT64_C(1000000000)

typedef enum { STARTING, UP, DOWN } gateway_state;

struct weir_gateway {
  weir_gateway_cfg cfg; /* strings owned below */
  char *argv[MAX_ARGS]; /* owned, NULL at the end */
  char **env;           /* owned, each owned, NULL at the end */
  int keys;             /* a file without a name; -1: none */
  pid_t pid;            /* 0: not running */
  gateway_state state;
  bool was_up;      /* it has listened once */
  bool unclean;     /* asked to end, it did not say that everything was answered */
  int64_t since_ns; /* of the state */
  int64_t wait_ns;  /* before the next start */
};

weir_status weir_gateway_find(const char *name, char *out, size_t bytes, weir_err *e) {
  char at[PATH_MAX];
  const ssize_t n = readlink("/proc/self/exe", at, sizeof at - 1);
  if (n <= 0) return weir_fail(e, WEIR_EIO, "cannot tell where this program lies: %s", strerror(errno));
  at[n] = '\0';
  char *slash = strrchr(at, '/');
  if (slash) *slash = '\0';
  const int len = snprintf(out, bytes, "%s/%s", at, name);
  if (len < 0 || (size_t)len >= bytes || access(out, X_OK) != 0)
    return weir_fail(e, WEIR_EIO, "no %s beside weir in %s: say where it is with --gateway, or --no-http",
                     name, at);
  return WEIR_OK;
}

/* ---- what it is given ---- */

static weir_status push(char **list, int32_t *n, int32_t most, const char *text, weir_err *e) {
  if (*n + 1 >= most) return weir_fail(e, WEIR_EINVAL, "too many words for the gateway");
  list[*n] = strdup(text);
  if (!list[*n]) return weir_fail(e, WEIR_ENOMEM, "cannot keep the gateway's command line");
  (*n)++;
  return WEIR_OK;
}

static weir_status put_key_file(weir_buf *keys, const char *path, weir_err *e) {
  weir_status st = WEIR_OK;
  char part[4096];
  size_t got;
  FILE *f = fopen(path, "rbe");
  if (!f) return weir_fail(e, WEIR_EIO, "--api-key-file %s: %s", path, strerror(errno));
  while (st == WEIR_OK && (got = fread(part, 1, sizeof part, f)) > 0) {
    st = weir_buf_put(keys, part, got, e);
    if (st == WEIR_OK && keys->len > MAX_KEY_BYTES)
      st = weir_fail(e, WEIR_EINVAL, "--api-key-file %s: longer than %d bytes", path, MAX_KEY_BYTES);
  }
  if (st == WEIR_OK && ferror(f)) st = weir_fail(e, WEIR_EIO, "--api-key-file %s: %s", path, strerror(errno));
  fclose(f);
  return st;
}

/* All keys, one a line, in memory that is a file to the child. */
static weir_status make_key_file(weir_gateway *g, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_buf keys = {0};
  if (g->cfg.api_key_file) {
    WEIR_TRY(put_key_file(&keys, g->cfg.api_key_file, e));
    if (keys.len > 0 && keys.data[keys.len - 1] != '\n') WEIR_TRY(weir_buf_puts(&keys, "\n", e));
  }
  for (int32_t i = 0; i < g->cfg.n_api_keys; i++) {
    if (!g->cfg.api_key[i][0] || strpbrk(g->cfg.api_key[i], "\r\n"))
      WEIR_TRY(weir_fail(e, WEIR_EINVAL, "--api-key: a key is empty or has a line break"));
    WEIR_TRY(weir_buf_printf(&keys, e, "%s\n", g->cfg.api_key[i]));
  }
  g->keys = memfd_create("api-keys", MFD_CLOEXEC);
  if (g->keys < 0 || write(g->keys, keys.data, keys.len) != (ssize_t)keys.len)
    st = weir_fail(e, WEIR_EIO, "cannot keep the keys for the gateway: %s", strerror(errno));
out:
  if (keys.data) explicit_bzero(keys.data, keys.cap);
  weir_buf_fini(&keys);
  return st;
}

static weir_status make_args(weir_gateway *g, weir_err *e) {
  weir_status st = WEIR_OK;
  int32_t n = 0;
  char text[WEIR_HOST_BYTES + 16];
  WEIR_TRY(push(g->argv, &n, MAX_ARGS, "weir-gateway", e));
  WEIR_TRY(push(g->argv, &n, MAX_ARGS, "--listen", e));
  weir_address_print(&g->cfg.listen, text, sizeof text);
  WEIR_TRY(push(g->argv, &n, MAX_ARGS, text, e));
  WEIR_TRY(push(g->argv, &n, MAX_ARGS, "--engine", e));
  WEIR_TRY(push(g->argv, &n, MAX_ARGS, g->cfg.engine_url, e));
  if (g->keys >= 0 || g->cfg.api_key_file) {
    snprintf(text, sizeof text, "/proc/self/fd/%d", g->keys);
    WEIR_TRY(push(g->argv, &n, MAX_ARGS, "--api-key-file", e));
    WEIR_TRY(push(g->argv, &n, MAX_ARGS, g->keys >= 0 ? text : g->cfg.api_key_file, e));
  }
  if (g->cfg.insecure) WEIR_TRY(push(g->argv, &n, MAX_ARGS, "--insecure", e));
  for (int32_t i = 0; i < g->cfg.n_more; i++) WEIR_TRY(push(g->argv, &n, MAX_ARGS, g->cfg.more[i], e));
out:
  return st;
}

static weir_status put_env(weir_gateway *g, int32_t *n, int32_t most, const char *name, const char *value,
                           weir_err *e) {
  weir_buf b = {0};
  if (!value) return WEIR_OK;
  weir_status st = weir_buf_printf(&b, e, "%s=%s", name, value);
  if (st == WEIR_OK) st = push(g->env, n, most, b.data, e);
  if (b.data) explicit_bzero(b.data, b.cap);
  weir_buf_fini(&b);
  return st;
}

/* Ours without the options of `weir serve`, some of which the gateway has too with another meaning. */
static weir_status make_env(weir_gateway *g, weir_err *e) {
  weir_status st = WEIR_OK;
  int32_t have = 0, n = 0;
  while (environ && environ[have]) have++;
  const int32_t most = have + 8;
  WEIR_TRY(WEIR_NEW((size_t)most, &g->env, e));
  for (int32_t i = 0; i < have; i++)
    if (strncmp(environ[i], "WEIR_", 5) != 0) WEIR_TRY(push(g->env, &n, most, environ[i], e));
  WEIR_TRY(put_env(g, &n, most, "WEIR_TOKEN", g->cfg.token, e));
  WEIR_TRY(put_env(g, &n, most, "WEIR_LOG_LEVEL", g->cfg.log_level, e));
  WEIR_TRY(put_env(g, &n, most, "WEIR_LOG_FORMAT", g->cfg.log_format, e));
out:
  return st;
}

/* ---- the process ---- */

/* Between fork and exec: only calls that are safe there. Tells errno through `told` when exec failed. */
static _Noreturn void become(const weir_gateway *g, pid_t parent, int told) {
  sigset_t none;
  struct sigaction plain = {.sa_handler = SIG_DFL};
  static const int reset[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGCHLD, SIGQUIT};
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent) _exit(1); /* it is gone already */
  setpgid(0, 0);
  for (size_t i = 0; i < sizeof reset / sizeof *reset; i++) sigaction(reset[i], &plain, NULL);
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  const int null = open("/dev/null", O_RDONLY);
  if (null >= 0) dup2(null, STDIN_FILENO);
  /* nothing of the engine's: a connection would never end for its other side while somebody holds it */
  if (close_range(3, ~0u, CLOSE_RANGE_CLOEXEC) != 0)
    for (int fd = 3; fd < 4096; fd++) fcntl(fd, F_SETFD, FD_CLOEXEC);
  if (g->keys >= 0) fcntl(g->keys, F_SETFD, 0);
  execve(g->cfg.program, g->argv, g->env);
  const int why = errno;
  (void)!write(told, &why, sizeof why);
  _exit(127);
}

static weir_status start(weir_gateway *g, int64_t now_ns, weir_err *e) {
  int told[2], why = 0;
  if (pipe2(told, O_CLOEXEC) != 0)
    return weir_fail(e, WEIR_EIO, "cannot start the gateway: %s", strerror(errno));
  const pid_t self = getpid(), pid = fork();
  if (pid == 0) become(g, self, told[1]);
  close(told[1]);
  if (pid < 0) {
    close(told[0]);
    return weir_fail(e, WEIR_EIO, "cannot start the gateway: %s", strerror(errno));
  }
  ssize_t n;
  while ((n = read(told[0], &why, sizeof why)) < 0 && errno == EINTR) {
  }
  close(told[0]);
  if (n == (ssize_t)sizeof why) {
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
    }
    return weir_fail(e, WEIR_EIO, "cannot start the gateway %s: %s", g->cfg.program, strerror(why));
  }
  g->pid = pid;
  g->state = STARTING;
  g->since_ns = now_ns;
  return WEIR_OK;
}

/* A connection to it; -1: nobody takes it. */
static int reach(const weir_gateway *g) {
  const weir_address to = weir_address_near(&g->cfg.listen);
  const int fd = socket(to.sock.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  bool up = connect(fd, (const struct sockaddr *)&to.sock, to.sock_len) == 0;
  if (!up && errno == EINPROGRESS) {
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    int why = 0;
    socklen_t len = sizeof why;
    up = poll(&p, 1, PROBE_MS) == 1 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &why, &len) == 0 && why == 0;
  }
  if (up) return fd;
  close(fd);
  return -1;
}

static bool listens(const weir_gateway *g) {
  const int fd = reach(g);
  if (fd >= 0) close(fd);
  return fd >= 0;
}

bool weir_gateway_ready(const weir_gateway *g) {
  static const char ask[] = "GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
                    yes[] = "HTTP/1.1 200 ";
  char got[sizeof yes];
  const int fd = reach(g);
  if (fd < 0) return false;
  struct pollfd p = {.fd = fd, .events = POLLIN};
  const bool ready = send(fd, ask, sizeof ask - 1, MSG_NOSIGNAL) == (ssize_t)sizeof ask - 1 &&
                     poll(&p, 1, ANSWER_MS) == 1 &&
                     recv(fd, got, sizeof yes - 1, MSG_WAITALL) == (ssize_t)sizeof yes - 1 &&
                     !memcmp(got, yes, sizeof yes - 1);
  close(fd);
  return ready;
}

weir_status weir_gateway_create(const weir_gateway_cfg *cfg, weir_gateway **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_gateway *g = NULL;
  const weir_clock clock = weir_clock_system();
  *out = NULL;
  WEIR_TRY(WEIR_NEW(1, &g, e));
  g->cfg = *cfg;
  g->keys = -1;
  if (g->cfg.start_ns <= 0) g->cfg.start_ns = 10 * SECOND;
  if (g->cfg.backoff_ns <= 0) g->cfg.backoff_ns = SECOND / 2;
  if (g->cfg.backoff_most_ns <= 0) g->cfg.backoff_most_ns = 30 * SECOND;
  g->wait_ns = g->cfg.backoff_ns;
  if (cfg->n_api_keys > 0) WEIR_TRY(make_key_file(g, e));
  WEIR_TRY(make_args(g, e));
  WEIR_TRY(make_env(g, e));
  g->cfg.program = NULL; /* what was borrowed, but for this one */
  if (!(g->cfg.program = strdup(cfg->program)))
    WEIR_TRY(weir_fail(e, WEIR_ENOMEM, "cannot keep the gateway's name"));
  g->cfg.engine_url = g->cfg.token = g->cfg.api_key_file = g->cfg.log_level = g->cfg.log_format = NULL;
  g->cfg.api_key = g->cfg.more = NULL;
  WEIR_TRY(start(g, weir_now_ns(&clock), e));
  *out = g;
  return WEIR_OK;
out:
  if (g && g->cfg.program == cfg->program) g->cfg.program = NULL;
  weir_gateway_destroy(g);
  return st;
}

static const char *how_it_ended(int status, char *buf, size_t bytes) {
  if (WIFSIGNALED(status))
    snprintf(buf, bytes, "was killed by signal %d", WTERMSIG(status));
  else
    snprintf(buf, bytes, "ended with status %d", WEXITSTATUS(status));
  return buf;
}

/* It has died: waits before the next start, longer each time until one lasts. */
static weir_status died(weir_gateway *g, int64_t now_ns, int status, weir_err *e) {
  char how[64], where[WEIR_HOST_BYTES + 16];
  how_it_ended(status, how, sizeof how);
  weir_address_print(&g->cfg.listen, where, sizeof where);
  g->pid = 0;
  if (!g->was_up) return weir_fail(e, WEIR_EIO, "the gateway %s before it listened on %s", how, where);
  if (g->state == UP && now_ns - g->since_ns > 60 * SECOND) g->wait_ns = g->cfg.backoff_ns;
  weir_log(WEIR_LOG_ERROR, "the gateway %s; it is started again in %.1f s", how,
           (double)g->wait_ns / (double)SECOND);
  g->state = DOWN;
  g->since_ns = now_ns;
  return WEIR_OK;
}

static weir_status tend_starting(weir_gateway *g, int64_t now_ns, weir_err *e) {
  if (listens(g)) {
    if (g->was_up) weir_log(WEIR_LOG_INFO, "the gateway is up again");
    g->was_up = true;
    g->state = UP;
    g->since_ns = now_ns;
    return WEIR_OK;
  }
  if (now_ns - g->since_ns <= g->cfg.start_ns) return WEIR_OK;
  if (g->was_up) { /* as if it had died: it is of no use */
    kill(g->pid, SIGKILL);
    return WEIR_OK;
  }
  return weir_fail(e, WEIR_EIO, "the gateway does not listen after %.0f s",
                   (double)g->cfg.start_ns / (double)SECOND);
}

weir_status weir_gateway_tend(weir_gateway *g, int64_t now_ns, int64_t *next_ns, weir_err *e) {
  weir_status st = WEIR_OK;
  int status = 0;
  if (g->pid > 0 && waitpid(g->pid, &status, WNOHANG) == g->pid) WEIR_TRY(died(g, now_ns, status, e));
  if (g->state == DOWN && now_ns - g->since_ns >= g->wait_ns) {
    weir_err why = {0};
    const int64_t twice = 2 * g->wait_ns;
    g->wait_ns = twice < g->cfg.backoff_most_ns ? twice : g->cfg.backoff_most_ns;
    g->since_ns = now_ns;
    if (start(g, now_ns, &why) != WEIR_OK) weir_log(WEIR_LOG_ERROR, "%s", why.msg); /* and again later */
  } else if (g->state == STARTING) {
    WEIR_TRY(tend_starting(g, now_ns, e));
  }
  *next_ns = g->state == STARTING ? PROBE_MS * (SECOND / 1000)
             : g->state == DOWN   ? g->since_ns + g->wait_ns - now_ns
                                  : 3600 * SECOND;
out:
  return st;
}

bool weir_gateway_up(const weir_gateway *g) { return g->state == UP; }
pid_t weir_gateway_pid(const weir_gateway *g) { return g->pid; }

void weir_gateway_ask(weir_gateway *g) {
  if (g->pid > 0) kill(g->pid, SIGTERM);
  g->state = DOWN;
  g->since_ns = INT64_MAX / 2; /* never again */
}

bool weir_gateway_gone(weir_gateway *g) {
  int status;
  if (g->pid > 0 && waitpid(g->pid, &status, WNOHANG) == g->pid) {
    g->pid = 0;
    g->unclean = !WIFEXITED(status) || WEXITSTATUS(status) != 0;
  }
  return g->pid == 0;
}

bool weir_gateway_clean(const weir_gateway *g) { return !g->unclean; }

void weir_gateway_stop(weir_gateway *g, int64_t wait_ns) {
  const struct timespec tick = {0, 10000000};
  const weir_clock clock = weir_clock_system();
  const int64_t until = weir_now_ns(&clock) + wait_ns;
  bool killed = false;
  weir_gateway_ask(g);
  while (g->pid > 0) {
    int status = 0;
    const pid_t got = waitpid(g->pid, &status, killed ? 0 : WNOHANG);
    if (got == g->pid || (got < 0 && errno != EINTR)) {
      g->pid = 0;
      g->unclean = g->unclean || status != 0;
    } else if (!killed && weir_now_ns(&clock) >= until) {
      kill(g->pid, SIGKILL);
      killed = g->unclean = true;
    } else if (!killed) {
      nanosleep(&tick, NULL);
    }
  }
}

void weir_gateway_destroy(weir_gateway *g) {
  if (!g) return;
  if (g->pid > 0) weir_gateway_stop(g, 0);
  for (int i = 0; i < MAX_ARGS; i++) free(g->argv[i]);
  for (char **p = g->env; p && *p; p++) {
    explicit_bzero(*p, strlen(*p));
    free(*p);
  }
  free(g->env);
  if (g->keys >= 0) close(g->keys);
  free((char *)g->cfg.program);
  free(g);
}
