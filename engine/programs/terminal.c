/* SPDX-License-Identifier: Apache-2.0 */
/* Lines; see terminal.h. Main thread. */
#include "programs/terminal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void weir_terminal_open(weir_terminal *t) {
  *t = (weir_terminal){.interactive = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)};
  if (t->interactive) t->editor = weir_editor_open();
}

void weir_terminal_close(weir_terminal *t) {
  if (t->editor) weir_editor_close(t->editor);
  *t = (weir_terminal){0};
}

static weir_status add_piece(const char *piece, size_t len, weir_buf *line, weir_err *e) {
  if (memchr(piece, 0, len)) return weir_fail(e, WEIR_EINVAL, "standard input: a line holds a NUL");
  if (len > WEIR_MAX_LINE_BYTES - line->len)
    return weir_fail(e, WEIR_EINVAL, "standard input: a line is longer than %d bytes", WEIR_MAX_LINE_BYTES);
  return weir_buf_put(line, piece, len, e);
}

/* One line of standard input, with its line feed. */
static weir_status read_plain(const weir_terminal *t, const char *prompt, weir_buf *line, bool *end,
                              weir_err *e) {
  weir_status st = WEIR_OK;
  char piece[4096];
  size_t n;
  int c;
  if (t->interactive) {
    fputs(prompt, stdout);
    fflush(stdout);
  }
  const size_t before = line->len;
  do { /* by pieces: a line without an end is refused where the limit is, not when memory is used up */
    for (n = 0, c = 0; n < sizeof piece && c != '\n' && (c = getc(stdin)) != EOF;) piece[n++] = (char)c;
    WEIR_TRY(add_piece(piece, n, line, e));
  } while (c != EOF && c != '\n');
  if (c == EOF && ferror(stdin)) WEIR_TRY(weir_fail(e, WEIR_EIO, "standard input: %s", strerror(errno)));
  *end = line->len == before;
out:
  return st;
}

static weir_status read_piece(weir_terminal *t, const char *prompt, weir_buf *line, bool *end, weir_err *e) {
  if (!t->editor) return read_plain(t, prompt, line, end, e);
  const char *got = weir_editor_read(t->editor, prompt);
  *end = !got;
  return got ? add_piece(got, strlen(got), line, e) : WEIR_OK;
}

weir_status weir_terminal_read(weir_terminal *t, const char *prompt, weir_buf *line, bool *end, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_buf_truncate(line, 0);
  *end = false;
  for (;;) {
    WEIR_TRY(read_piece(t, line->len > 0 ? "... " : prompt, line, end, e));
    if (*end) break;
    if (line->len > 0 && line->data[line->len - 1] == '\n') weir_buf_truncate(line, line->len - 1);
    if (line->len > 0 && line->data[line->len - 1] == '\r') weir_buf_truncate(line, line->len - 1);
    if (line->len == 0 || line->data[line->len - 1] != '\\') break;
    line->data[line->len - 1] = '\n';
  }
  if (*end && line->len > 0) *end = false; /* the end came within a line that was to go on */
  st = weir_buf_reserve(line, 0, e);
out:
  return st;
}
