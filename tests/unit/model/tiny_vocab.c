/* SPDX-License-Identifier: Apache-2.0 */
/* Test vocabularies. Owns nothing that outlives a call; stops the program when memory runs out. */
#include "tiny_vocab.h"

#include <stdlib.h>
#include <string.h>

void tiny_vocab_spell(uint8_t byte, char out[3]) {
  uint32_t code = 256;
  for (uint32_t b = 0; b <= byte; b++) {
    const bool stays = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    if (b == byte && stays) code = b;
    if (b < byte && !stays) code++;
  }
  const size_t n = code < 0x80 ? 1 : 2;
  out[0] = (char)(n == 1 ? code : 0xc0 | code >> 6);
  out[1] = (char)(n == 1 ? 0 : 0x80 | (code & 0x3f));
  out[2] = 0;
}

void tiny_vocab_write(gguf_writer *w, const tiny_vocab *v) {
  size_t n_extra = 0;
  while (n_extra < sizeof v->extra / sizeof v->extra[0] && v->extra[n_extra].text) n_extra++;
  const size_t n = 256 + v->n_merges + n_extra;
  char **token = calloc(n, sizeof *token);
  int32_t *type = calloc(n, sizeof *type);
  if (!token || !type) abort();
  for (size_t i = 0; i < n; i++) {
    const char *text = i < 256                 ? "xx"
                       : i < 256 + v->n_merges ? v->merges[i - 256]
                                               : v->extra[i - 256 - v->n_merges].text;
    token[i] = malloc(strlen(text) + 1);
    if (!token[i]) abort();
    strcpy(token[i], text);
    type[i] = i < 256 + v->n_merges ? TINY_NORMAL : v->extra[i - 256 - v->n_merges].type;
    if (i < 256)
      tiny_vocab_spell((uint8_t)i, token[i]);
    else if (i < 256 + v->n_merges) { /* the merge without its space */
      char *space = strchr(token[i], ' ');
      memmove(space, space + 1, strlen(space));
    }
  }
  gguf_writer_str(w, "tokenizer.ggml.model", "gpt2");
  if (v->pre) gguf_writer_str(w, "tokenizer.ggml.pre", v->pre);
  gguf_writer_strs(w, "tokenizer.ggml.tokens", (const char *const *)token, n);
  gguf_writer_i32s(w, "tokenizer.ggml.token_type", type, n);
  gguf_writer_strs(w, "tokenizer.ggml.merges", v->merges, v->n_merges);
  for (size_t i = 0; i < n; i++) free(token[i]);
  free(token);
  free(type);
}
