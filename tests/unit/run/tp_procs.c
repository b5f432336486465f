/* SPDX-License-Identifier: Apache-2.0 */
/* Worker processes for tests. Owns nothing but what it starts. */
#define _GNU_SOURCE /* environ, setns */
#include "tp_procs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/cpu/cpu.h"
#include "tp_rig.h"

/* ---- in the process ---- */

static volatile sig_atomic_t stopped;

static void on_term(int s) {
  (void)s;
  stopped = 1;
}

static bool is_stopped(void *ctx) {
  (void)ctx;
  return stopped;
}

static int64_t room(void *ctx, int64_t token_bytes) {
  (void)ctx;
  return token_bytes > 0 ? RIG_ROOM : 0;
}

static void print_line(void *ctx, const char *line) {
  (void)ctx;
  fprintf(stderr, "%s\n", line);
}

static int as_worker(const proc_opts *p) {
  weir_err e = {0};
  weir_mfile *file = NULL;
  weir_hparams h;
  weir_dev *dev[RIG_LOCAL] = {0};
  char path[256];
  bool left = false;
  snprintf(path, sizeof path, "tests/vectors/models/%s.gguf", p->model);
  weir_status st = weir_mfile_open(path, &file, &e);
  if (st == WEIR_OK) st = weir_hparams_read(file, &h, &e);
  for (int32_t i = 0; st == WEIR_OK && i < p->n_local; i++)
    st = weir_dev_open_cpu(&(weir_cpu_opts){.n_threads = 1, .no_pin = true}, &dev[i], &e);
  const weir_tp_worker_opts o = {.node = p->node,
                                 .n_nodes = p->n_nodes,
                                 .n_local = p->n_local,
                                 .addr = p->addr,
                                 .token = RIG_TOKEN,
                                 .version = p->version,
                                 .host = p->host,
                                 .bound_ns = p->bound_ns,
                                 .file = file,
                                 .h = &h,
                                 .dev = dev,
                                 .room = room,
                                 .stop = is_stopped,
                                 .tell = print_line,
                                 .left = &left};
  if (st == WEIR_OK && p->fail_at > 0) rig_breakable(dev[0]);
  if (st == WEIR_OK && p->fail_at > 0)
    rig_break_linear(dev[0], p->fail_at, p->hang ? RIG_HANGS : p->die ? RIG_DIES : RIG_FAILS);
  if (st == WEIR_OK) st = weir_tp_worker_run(&o, &e);
  if (st != WEIR_OK) fprintf(stderr, "error: %s\n", e.msg);
  for (int32_t i = 0; i < p->n_local && !left; i++) weir_dev_destroy(dev[i]);
  if (!left) weir_mfile_close(file);
  fprintf(stderr, "end of the process\n");
  if (left) _exit(3); /* nobody is to look for what a thread still has */
  return st == WEIR_OK ? 0 : 1;
}

static int as_leader(const proc_opts *p) {
  rig r;
  const rig_opts o = {.model = p->model,
                      .n_nodes = p->n_nodes,
                      .n_local = p->n_local,
                      .comm = WEIR_COMM_SHM,
                      .addr = p->addr,
                      .version = p->version,
                      .bound_ns = p->bound_ns};
  rig_open(&r, &o);
  rig_start(&r);
  for (;;) {
    weir_err e = {0};
    if (rig_step(r.exec, 3, &e) != WEIR_OK) return 1;
    fprintf(stderr, "a step is done\n");
  }
}

int proc_main(int argc, char **argv) {
  if (argc < 12) return -1;
  const proc_opts p = {.role = argv[1],
                       .model = argv[2],
                       .addr = argv[3],
                       .version = argv[4],
                       .node = atoi(argv[5]),
                       .n_nodes = atoi(argv[6]),
                       .n_local = atoi(argv[7]),
                       .bound_ns = atoll(argv[8]),
                       .fail_at = abs(atoi(argv[9])),
                       .hang = argv[9][0] == '-',
                       .die = strchr(argv[9], 'd') != NULL,
                       .host = argv[10][0] ? argv[10] : NULL,
                       .netns = argv[11][0] ? argv[11] : NULL};
  if (p.netns && !netns_enter(p.netns)) return 1;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  signal(SIGTERM, on_term);
  return strcmp(p.role, "leader") == 0 ? as_leader(&p) : as_worker(&p);
}

/* ---- in the test ---- */

bool netns_enter(const char *name) {
  char path[128];
  snprintf(path, sizeof path, "/run/netns/%s", name);
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  const bool ok = fd >= 0 && setns(fd, CLONE_NEWNET) == 0;
  if (fd >= 0) close(fd);
  return ok;
}

proc proc_start(const proc_opts *o) {
  static int32_t count;
  proc p = {0};
  char node[16], n_nodes[16], n_local[16], bound[32], fail_at[16], self[] = "/proc/self/exe";
  posix_spawn_file_actions_t to;
  snprintf(p.log, sizeof p.log, "/tmp/weir-tp-%d-%d.log", (int)getpid(), count++);
  snprintf(node, sizeof node, "%d", o->node);
  snprintf(n_nodes, sizeof n_nodes, "%d", o->n_nodes);
  snprintf(n_local, sizeof n_local, "%d", o->n_local);
  snprintf(bound, sizeof bound, "%lld", (long long)o->bound_ns);
  snprintf(fail_at, sizeof fail_at, "%d%s", o->hang ? -o->fail_at : o->fail_at, o->die ? "d" : "");
  const char *const argv[] = {
      self,    o->role, o->model, o->addr, o->version ? o->version : "test", node,
      n_nodes, n_local, bound,    fail_at, o->host ? o->host : "",           o->netns ? o->netns : "",
      NULL};
  posix_spawn_file_actions_init(&to);
  posix_spawn_file_actions_addopen(&to, 2, p.log, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600);
  posix_spawn_file_actions_addopen(&to, 1, "/dev/null", O_WRONLY, 0);
  const int failed = posix_spawn(&p.pid, self, &to, NULL, (char *const *)argv, environ);
  posix_spawn_file_actions_destroy(&to);
  if (failed) fail_msg("start a process: %s", strerror(failed));
  return p;
}

int proc_end(proc *p, int sig) {
  int status = 0;
  if (p->pid == 0) return 0;
  if (sig) kill(p->pid, sig);
  while (waitpid(p->pid, &status, 0) < 0 && errno == EINTR) {
  }
  p->pid = 0;
  if (WIFEXITED(status) && WEXITSTATUS(status) != 0) { /* what it said explains it */
    char text[4096] = "";
    FILE *f = fopen(p->log, "r");
    const size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    text[n] = '\0';
    if (f) fclose(f);
    print_message("exit %d of:\n%s", WEXITSTATUS(status), text);
  }
  unlink(p->log);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

int32_t proc_said(const proc *p, const char *text) {
  char line[1024];
  int32_t n = 0;
  FILE *f = fopen(p->log, "r");
  if (!f) return 0; /* not yet */
  while (fgets(line, sizeof line, f)) n += strstr(line, text) != NULL;
  fclose(f);
  return n;
}

void proc_await(const proc *p, const char *text, int32_t n, int64_t timeout_ns) {
  const int64_t until = rig_now_ns() + timeout_ns;
  while (proc_said(p, text) < n) {
    if (rig_now_ns() >= until) fail_msg("it has said \"%s\" %d times, want %d", text, proc_said(p, text), n);
    /* The file is all there is to look at. */
    nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
  }
}

static int32_t count_in(const char *folder) {
  int32_t n = 0;
  DIR *d = opendir(folder);
  if (!d) return 0;
  for (const struct dirent *x = readdir(d); x; x = readdir(d)) n++;
  closedir(d);
  return n;
}

holdings holdings_now(void) {
  return (holdings){.threads = count_in("/proc/self/task"), .fds = count_in("/proc/self/fd")};
}
