/* SPDX-License-Identifier: Apache-2.0 */
/* Traces: their memory. Any thread. */
#include "calibrate/trace.h"

#include <stdlib.h>

void weir_trace_fini(weir_trace *t) {
  for (int32_t i = 0; i < t->n; i++) {
    free(t->text[i].row);
    free(t->text[i].prompt_entropy);
    free(t->text[i].hidden);
  }
  free(t->text);
  *t = (weir_trace){0};
}
