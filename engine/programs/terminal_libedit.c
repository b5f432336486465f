/* SPDX-License-Identifier: Apache-2.0 */
/* The line editor: libedit, with a history of this session. Owns the terminal while a line is read; a signal
 * gives the terminal its settings back first. Main thread. */
#include <histedit.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "programs/terminal.h"

enum { HISTORY_LINES = 1000 };

struct weir_editor {
  EditLine *el;
  History *history;
  const char *prompt;
};

static char *prompt_of(EditLine *el) {
  weir_editor *x = NULL;
  el_get(el, EL_CLIENTDATA, &x);
  return (char *)x->prompt;
}

weir_editor *weir_editor_open(void) {
  weir_editor *x = NULL;
  HistEvent event;
  if (WEIR_NEW(1, &x, NULL) != WEIR_OK) return NULL;
  setlocale(LC_CTYPE, ""); /* which bytes make a character */
  x->prompt = "> ";
  x->history = history_init();
  x->el = el_init("weir", stdin, stdout, stderr);
  if (!x->el || !x->history) {
    weir_editor_close(x);
    return NULL;
  }
  history(x->history, &event, H_SETSIZE, HISTORY_LINES);
  el_set(x->el, EL_CLIENTDATA, x);
  el_set(x->el, EL_PROMPT, prompt_of);
  el_set(x->el, EL_EDITOR, "emacs");
  el_set(x->el, EL_SIGNAL, 1);
  el_set(x->el, EL_HIST, history, x->history);
  return x;
}

void weir_editor_close(weir_editor *x) {
  if (x->el) el_end(x->el);
  if (x->history) history_end(x->history);
  free(x);
}

const char *weir_editor_read(weir_editor *x, const char *prompt) {
  int n = 0;
  HistEvent event;
  x->prompt = prompt;
  const char *line = el_gets(x->el, &n);
  if (!line || n <= 0) return NULL;
  if (n > 1) history(x->history, &event, H_ENTER, line);
  return line;
}
