/* SPDX-License-Identifier: Apache-2.0 */
/* The progress line. Main thread. */
#include "load/progress.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { BAR = 20 };

void weir_progress_init(weir_progress *p, bool quiet) {
  *p = (weir_progress){.on = !quiet && isatty(STDERR_FILENO)};
}

void weir_progress_text(const char *what, const weir_load_progress *p, int width, char *buf, size_t bytes) {
  const double by_time = p->limit_s > 0 ? p->t_s / p->limit_s : 0;
  const double by_count = p->limit > 0 ? (double)(p->sent - p->running) / (double)p->limit : 0;
  const double done = fmin(1, fmax(by_time, by_count)); /* what comes first ends it */
  char bar[BAR + 1], eta[32] = "";
  for (int i = 0; i < BAR; i++) bar[i] = i < (int)(done * BAR + 0.5) ? '#' : '.';
  bar[BAR] = '\0';
  if (done > 0.02) snprintf(eta, sizeof eta, ", %.0f s left", p->t_s / done - p->t_s);
  const int n = snprintf(buf, bytes, "[%s] %s  %.1f req/s  %.0f tok/s  running %lld  ok %lld  errors %lld%s",
                         bar, what, p->t_s > 0 ? (double)p->ok / p->t_s : 0, p->tok_s, (long long)p->running,
                         (long long)p->ok, (long long)p->errors, eta);
  if (n > width && width > 0 && (size_t)width < bytes) buf[width] = '\0';
}

void weir_progress_show(void *ctx, const weir_load_progress *p) {
  const weir_progress *x = ctx;
  char line[256];
  struct winsize w;
  if (!x->on) return;
  const int width = ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 10 ? w.ws_col - 1 : 100;
  weir_progress_text(x->what, p, width, line, sizeof line);
  fprintf(stderr, "\r\033[K%s", line);
  fflush(stderr);
}

void weir_progress_clear(weir_progress *x) {
  if (!x->on) return;
  fputs("\r\033[K", stderr);
  fflush(stderr);
}
