/* SPDX-License-Identifier: Apache-2.0 */
/* Colours of origin and entropy. Without colours: marks around what the large model wrote, and numbers behind
 * tokens of high entropy. Main thread. */
#include "programs/paint.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Styles: 1 the large model; from SHADE on, the steps of entropy. */
enum { LARGE = 1, SHADE = 2, N_SHADES = 6 };

/* Backgrounds from none to red of the 256-colour palette; the least entropy of each, nats. */
static const struct {
  float from;
  int color;
} shade[N_SHADES] = {{0, 0}, {0.05f, 194}, {0.2f, 229}, {0.5f, 222}, {1, 216}, {2, 209}};

static const char open_mark[] = "\xc2\xab", close_mark[] = "\xc2\xbb"; /* guillemets */

void weir_paint_init(weir_paint *p, weir_out *out, const char *show) {
  *p = (weir_paint){.out = out, .show = WEIR_SHOW_NONE};
  if (!strcmp(show, "origin") || (!strcmp(show, "auto") && out->color)) p->show = WEIR_SHOW_ORIGIN;
  if (!strcmp(show, "entropy")) p->show = WEIR_SHOW_ENTROPY;
}

static int style_of(const weir_paint *p, bool large, float entropy) {
  if (p->show == WEIR_SHOW_ORIGIN) return large ? LARGE : 0;
  if (p->show != WEIR_SHOW_ENTROPY || isnan(entropy)) return 0;
  int s = 0;
  while (s + 1 < N_SHADES && entropy >= shade[s + 1].from) s++;
  return s ? SHADE + s : 0;
}

static void set_style(weir_paint *p, int style) {
  if (style == p->style) return;
  if (!p->out->color) {
    if (p->style == LARGE) weir_out_printf(p->out, "%s", close_mark);
    if (style == LARGE) weir_out_printf(p->out, "%s", open_mark);
  } else if (style == 0) {
    weir_out_printf(p->out, "\033[0m");
  } else if (style == LARGE) {
    weir_out_printf(p->out, "\033[0;1;35m");
  } else {
    weir_out_printf(p->out, "\033[0;30;48;5;%dm", shade[style - SHADE].color);
  }
  p->style = style;
}

void weir_paint_token(weir_paint *p, const char *text, size_t n, bool large, float entropy) {
  if (n == 0) return;
  set_style(p, style_of(p, large, entropy));
  weir_out_text(p->out, text, n);
  if (p->show == WEIR_SHOW_ENTROPY && !p->out->color && p->style >= SHADE)
    weir_out_printf(p->out, "{%.2f}", (double)entropy);
}

void weir_paint_end(weir_paint *p) { set_style(p, 0); }

void weir_paint_legend(const weir_paint *p) {
  if (p->show == WEIR_SHOW_ORIGIN && p->out->color)
    fprintf(stderr, "plain: the small model wrote it; %s: the large one\n",
            p->out->color_err ? "\033[0;1;35mcoloured\033[0m" : "coloured");
  else if (p->show == WEIR_SHOW_ORIGIN)
    fprintf(stderr, "%sso marked%s: the large model wrote it; the rest: the small one\n", open_mark,
            close_mark);
  if (p->show != WEIR_SHOW_ENTROPY) return;
  fprintf(stderr, "entropy, nats, from:");
  for (int s = 1; s < N_SHADES; s++)
    if (p->out->color && p->out->color_err)
      fprintf(stderr, " \033[0;30;48;5;%dm %g \033[0m", shade[s].color, (double)shade[s].from);
    else
      fprintf(stderr, " %g", (double)shade[s].from);
  fprintf(stderr, "%s\n", p->out->color ? "" : "; tokens of at least the first have theirs behind them");
}
