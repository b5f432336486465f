/* SPDX-License-Identifier: Apache-2.0 */
/* The memory of a tokenizer's description. Owns it; may call base; one thread. */
#include "model/tok_spec.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/mem.h"

enum { BLOCK_BYTES = 1 << 18 };

typedef struct weir_strings_block {
  struct weir_strings_block *next;
  size_t used, cap;
  char data[];
} weir_strings_block;

weir_status weir_strings_keep(weir_strings *s, weir_str from, weir_str *out, weir_err *e) {
  *out = (weir_str){"", 0};
  if (from.len == 0) return WEIR_OK;
  weir_strings_block *b = s->block;
  if (!b || b->cap - b->used < from.len) {
    const size_t cap = from.len > BLOCK_BYTES ? from.len : BLOCK_BYTES;
    size_t bytes;
    void *fresh = NULL;
    if (!weir_add_size(cap, sizeof *b, &bytes))
      return weir_fail(e, WEIR_ENOMEM, "a string of %zu bytes is too long", from.len);
    const weir_status st = weir_calloc(bytes, 1, "tokenizer text", &fresh, e);
    if (st != WEIR_OK) return st;
    b = fresh;
    b->cap = cap;
    b->next = s->block;
    s->block = b;
  }
  char *at = b->data + b->used;
  memcpy(at, from.data, from.len);
  b->used += from.len;
  *out = (weir_str){at, from.len};
  return WEIR_OK;
}

void weir_strings_fini(weir_strings *s) {
  while (s->block) {
    weir_strings_block *next = s->block->next;
    free(s->block);
    s->block = next;
  }
}

weir_status weir_tok_spec_reserve(weir_tok_spec *s, int32_t n, bool scores, weir_err *e) {
  weir_status st = WEIR_OK;
  s->n = n;
  s->bos = s->eos = s->unk = -1;
  WEIR_TRY(WEIR_NEW((size_t)n, &s->text, e));
  WEIR_TRY(WEIR_NEW((size_t)n, &s->type, e));
  WEIR_TRY(WEIR_NEW((size_t)n, &s->in_model, e));
  if (scores) WEIR_TRY(WEIR_NEW((size_t)n, &s->score, e));
  for (int32_t i = 0; i < n; i++) {
    s->text[i] = (weir_str){"", 0};
    s->type[i] = WEIR_TOKEN_UNUSED;
  }
out:
  return st;
}

weir_status weir_tok_spec_add_end(weir_tok_spec *s, int32_t id, weir_err *e) {
  for (int32_t i = 0; i < s->n_end; i++)
    if (s->end[i] == id) return WEIR_OK;
  if (s->n_end == s->cap_end) {
    const int32_t cap = s->cap_end ? s->cap_end * 2 : 8;
    int32_t *grown = realloc(s->end, (size_t)cap * sizeof *grown);
    if (!grown) return weir_fail(e, WEIR_ENOMEM, "cannot hold %" PRId32 " ids", cap);
    s->end = grown;
    s->cap_end = cap;
  }
  s->end[s->n_end++] = id;
  return WEIR_OK;
}

/* Room for a step behind the n there are, and the spec's own copies of its texts. */
static weir_status take_step(weir_tok_spec *s, int32_t n, const char *what, weir_str *pattern,
                             weir_str *content, weir_err *e) {
  weir_status st = WEIR_OK;
  if (n == WEIR_TOK_MAX_STEPS)
    return weir_fail(e, WEIR_EUNSUP, "more than %d steps of a %s", WEIR_TOK_MAX_STEPS, what);
  WEIR_TRY(weir_strings_keep(&s->strings, *pattern, pattern, e));
  WEIR_TRY(weir_strings_keep(&s->strings, *content, content, e));
out:
  return st;
}

weir_status weir_tok_spec_add_norm(weir_tok_spec *s, weir_norm_step step, weir_err *e) {
  const weir_status st = take_step(s, s->n_norm, "normalizer", &step.pattern, &step.content, e);
  if (st == WEIR_OK) s->norm[s->n_norm++] = step;
  return st;
}

weir_status weir_tok_spec_add_pre(weir_tok_spec *s, weir_pre_step step, weir_err *e) {
  const weir_status st = take_step(s, s->n_pre, "pre-tokenizer", &step.pattern, &step.content, e);
  if (st == WEIR_OK) s->pre[s->n_pre++] = step;
  return st;
}

weir_status weir_tok_spec_add_decode(weir_tok_spec *s, weir_decode_step step, weir_err *e) {
  const weir_status st = take_step(s, s->n_decode, "decoder", &step.pattern, &step.content, e);
  if (st == WEIR_OK) s->decode[s->n_decode++] = step;
  return st;
}

void weir_tok_spec_fini(weir_tok_spec *s) {
  weir_strings_fini(&s->strings);
  free(s->text);
  free(s->score);
  free(s->type);
  free(s->in_model);
  free(s->merge);
  free(s->added);
  free(s->end);
  *s = (weir_tok_spec){0};
}

bool weir_tok_spells_end(weir_str text) {
  /* DeepSeek's has U+FF5C bars and U+2581 for spaces; octal, because hex escapes have no end. */
  static const char *const spelled[] = {"<|im_end|>",
                                        "<|eot_id|>",
                                        "<|eom_id|>",
                                        "<|endoftext|>",
                                        "<|end|>",
                                        "<|end_of_text|>",
                                        "<|end_of_turn|>",
                                        "<end_of_turn>",
                                        "<|eot|>",
                                        "<|END_OF_TURN_TOKEN|>",
                                        "<\357\275\234end\342\226\201of\342\226\201sentence\357\275\234>"};
  for (size_t i = 0; i < sizeof spelled / sizeof spelled[0]; i++)
    if (weir_str_eq(text, weir_str_of(spelled[i]))) return true;
  return false;
}
