/* SPDX-License-Identifier: Apache-2.0 */
/* Traces: their memory. Any thread. */
#include "calibrate/trace.h"

#include <stdlib.h>

#include "base/mem.h"

weir_status weir_trace_init(weir_trace *t, int32_t n_texts, weir_err *e) {
  *t = (weir_trace){0};
  if (n_texts < 1 || n_texts > WEIR_TRACE_MAX_TEXTS)
    return weir_fail(e, WEIR_EINVAL, "a trace of %d texts, want 1 .. %d", n_texts, WEIR_TRACE_MAX_TEXTS);
  const weir_status st = WEIR_NEW((size_t)n_texts, &t->text, e);
  if (st == WEIR_OK) t->n = n_texts;
  return st;
}

weir_status weir_trace_text_init(weir_trace_text *x, int32_t n_prompt, int32_t n, bool prompts, int32_t dim,
                                 weir_err *e) {
  weir_status st = WEIR_OK;
  if (n_prompt < 1 || n_prompt > WEIR_TRACE_MAX_TOKENS || n < 0 || n > WEIR_TRACE_MAX_TOKENS)
    return weir_fail(e, WEIR_EINVAL, "a prompt of %d and a text of %d tokens, want 1 and 0 .. %d at most",
                     n_prompt, n, WEIR_TRACE_MAX_TOKENS);
  if (dim < 0 || dim > WEIR_TRACE_MAX_DIM)
    return weir_fail(e, WEIR_EINVAL, "hidden states of %d numbers, want 0 .. %d", dim, WEIR_TRACE_MAX_DIM);
  x->n_prompt = n_prompt;
  x->n = n;
  x->right = -1;
  if (n > 0) WEIR_TRY(WEIR_NEW((size_t)n, &x->row, e));
  if (prompts && n_prompt > 1) WEIR_TRY(WEIR_NEW((size_t)n_prompt - 1, &x->prompt_entropy, e));
  if (dim > 0 && n > 0) WEIR_TRY(WEIR_NEW((size_t)n * (size_t)dim, &x->hidden, e));
out:
  return st;
}

void weir_trace_fini(weir_trace *t) {
  for (int32_t i = 0; i < t->n; i++) {
    free(t->text[i].row);
    free(t->text[i].prompt_entropy);
    free(t->text[i].hidden);
  }
  free(t->text);
  *t = (weir_trace){0};
}

int64_t weir_trace_tokens(const weir_trace *t) {
  int64_t n = 0;
  for (int32_t i = 0; i < t->n; i++) n += t->text[i].n;
  return n;
}
