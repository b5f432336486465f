/* SPDX-License-Identifier: Apache-2.0 */
/* Text with its origin or its entropy made visible. */
#ifndef WEIR_PROGRAMS_PAINT_H
#define WEIR_PROGRAMS_PAINT_H
#include <stdbool.h>
#include <stddef.h>

#include "programs/out.h"

typedef enum { WEIR_SHOW_NONE, WEIR_SHOW_ORIGIN, WEIR_SHOW_ENTROPY } weir_show;

typedef struct weir_paint {
  weir_out *out;
  weir_show show;
  int style; /* in force: 0 plain */
} weir_paint;

/* `show` as --show has it; auto is settled here. */
void weir_paint_init(weir_paint *, weir_out *, const char *show);
/* One token's text. large: the large model wrote it. entropy: nats, NaN when unknown. */
void weir_paint_token(weir_paint *, const char *text, size_t n, bool large, float entropy);
/* Back to plain: at the end of a text. */
void weir_paint_end(weir_paint *);
/* One line on standard error that explains the colours; nothing when there are none. */
void weir_paint_legend(const weir_paint *);

#endif
