/* SPDX-License-Identifier: Apache-2.0 */
/* Signals. The handler only sets a flag, which the loop looks at between two steps. */
#include "programs/interrupt.h"

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

static volatile sig_atomic_t pending;

static void note(int sig) { pending = sig; }

void weir_interrupt_ignore_pipe(void) {
  struct sigaction ignore = {.sa_handler = SIG_IGN};
  sigemptyset(&ignore.sa_mask);
  sigaction(SIGPIPE, &ignore, NULL);
}

static const int taken[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
enum { N_TAKEN = sizeof taken / sizeof *taken };

/* What nohup, or a shell that starts a program in the background, set to outlive the terminal stays. */
static bool stays_ignored(int sig) {
  struct sigaction now;
  return (sig == SIGHUP || sig == SIGQUIT) && sigaction(sig, NULL, &now) == 0 && now.sa_handler == SIG_IGN;
}

void weir_interrupt_init(void) {
  /* a write under way goes on: the flag is looked at when it has returned */
  struct sigaction once = {.sa_handler = note, .sa_flags = (int)SA_RESETHAND | SA_RESTART};
  sigemptyset(&once.sa_mask);
  for (int i = 0; i < N_TAKEN; i++)
    if (!stays_ignored(taken[i])) sigaction(taken[i], &once, NULL);
}

void weir_interrupt_reset(void) {
  struct sigaction leave = {.sa_handler = SIG_DFL};
  sigemptyset(&leave.sa_mask);
  for (int i = 0; i < N_TAKEN; i++)
    if (!stays_ignored(taken[i])) sigaction(taken[i], &leave, NULL);
  pending = 0;
}

int weir_interrupt_pending(void) { return pending; }
