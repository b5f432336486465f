/* SPDX-License-Identifier: Apache-2.0 */
/* Lines from standard input: edited ones with a history on a terminal where libedit was there at build time,
 * else as they come. Main thread. */
#ifndef WEIR_PROGRAMS_TERMINAL_H
#define WEIR_PROGRAMS_TERMINAL_H
#include <stdbool.h>

#include "base/buf.h"
#include "base/err.h"

enum { WEIR_MAX_LINE_BYTES = 1 << 24 };

typedef struct weir_editor weir_editor;
typedef struct weir_terminal {
  bool interactive;    /* both standard input and output are terminals */
  weir_editor *editor; /* owned; NULL: none */
} weir_terminal;

void weir_terminal_open(weir_terminal *);
void weir_terminal_close(weir_terminal *);
/* Reads a line into *line (emptied first), without its line feed; one that ends with a backslash goes on in
 * the next. `prompt` is shown on a terminal. *end: there was nothing more. A NUL in it is WEIR_EINVAL. */
weir_status weir_terminal_read(weir_terminal *, const char *prompt, weir_buf *line, bool *end, weir_err *e);

/* What terminal_libedit.c has, and terminal_plain.c has not. NULL: no editor. */
weir_editor *weir_editor_open(void);
void weir_editor_close(weir_editor *);
/* The line with its line feed, borrowed until the next call; NULL at the end. */
const char *weir_editor_read(weir_editor *, const char *prompt);

#endif
