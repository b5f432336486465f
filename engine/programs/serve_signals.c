/* SPDX-License-Identifier: Apache-2.0 */
/* Signals of a server. Handlers only count and write to an eventfd, which the main thread polls; any thread
 * may run them. */
#include "programs/serve_signals.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static int fd = -1;
static volatile sig_atomic_t begun, asked;

static void note(int sig) {
  const int saved = errno;
  const uint64_t one = 1;
  if (sig != SIGCHLD) {
    if (!begun) _exit(128 + sig);
    asked = asked + 1;
  }
  (void)!write(fd, &one, sizeof one);
  errno = saved;
}

static bool is_ignored(int sig) {
  struct sigaction now;
  return sigaction(sig, NULL, &now) == 0 && now.sa_handler == SIG_IGN;
}

weir_status weir_serve_signals_init(weir_err *e) {
  static const int taken[] = {SIGTERM, SIGINT, SIGCHLD};
  struct sigaction act = {.sa_handler = note, .sa_flags = SA_RESTART | SA_NOCLDSTOP},
                   ignore = {.sa_handler = SIG_IGN};
  sigemptyset(&act.sa_mask);
  sigemptyset(&ignore.sa_mask);
  for (int i = 0; i < 3; i++) sigaddset(&act.sa_mask, taken[i]); /* one at a time: `asked` is no atomic */
  fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) return weir_fail(e, WEIR_EIO, "cannot make an eventfd: %s", strerror(errno));
  for (int i = 0; i < 3; i++)
    if (taken[i] != SIGINT || !is_ignored(SIGINT)) sigaction(taken[i], &act, NULL);
  sigaction(SIGHUP, &ignore, NULL);
  return WEIR_OK;
}

void weir_serve_signals_begin(void) { begun = 1; }
int weir_serve_signals_fd(void) { return fd; }

int weir_serve_signals_asked(void) {
  uint64_t n;
  (void)!read(fd, &n, sizeof n);
  return asked;
}
