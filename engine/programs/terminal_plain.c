/* SPDX-License-Identifier: Apache-2.0 */
/* No line editor: libedit was not found when weir was built, and the terminal's own line discipline does. */
#include <stddef.h>

#include "programs/terminal.h"

weir_editor *weir_editor_open(void) { return NULL; }
void weir_editor_close(weir_editor *x) { (void)x; }

const char *weir_editor_read(weir_editor *x, const char *prompt) {
  (void)x;
  (void)prompt;
  return NULL;
}
