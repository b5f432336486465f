/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: any bytes as a model file. Parser, metadata, hyper-parameters and tokenizer must give an
 * answer or one line that says why not. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "model/gguf.h"
#include "model/hparams.h"
#include "model/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok, const char *what) {
  if (ok) return;
  fprintf(stderr, "fuzz_gguf: %s\n", what);
  abort();
}

static void check_status(weir_status st, const weir_err *e) {
  if (st == WEIR_OK) return;
  require(e->code == st && e->msg[0] != '\0', "a failure without a message");
  for (const char *p = e->msg; *p; p++)
    require((unsigned char)*p >= 0x20, "a control character in a message");
}

static void check_tensors(const weir_gguf *g, const uint8_t *data, size_t size) {
  volatile uint8_t sum = 0;
  for (int64_t i = 0; i < weir_gguf_n_tensors(g); i++) {
    const weir_gguf_tensor *t = weir_gguf_tensor_at(g, i);
    const uint8_t *p = t->data;
    require(p >= data && t->bytes > 0 && t->bytes <= size - (size_t)(p - data), "a tensor outside the file");
    sum = (uint8_t)(sum + p[0] + p[t->bytes - 1]);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char text[] = "The weir, it's 12345 \n\n <|im_end|> \xff\xf0\x9f\x98\x80 ab abc";
  weir_err e = {0};
  weir_gguf *g = NULL;
  weir_hparams h;
  weir_tokenizer *t = NULL;
  weir_log_set_level(WEIR_LOG_ERROR);
  weir_status st = weir_gguf_parse(data, size, &g, &e);
  check_status(st, &e);
  if (st != WEIR_OK) return 0;
  check_tensors(g, data, size);
  char shown[80];
  for (int64_t i = 0; i < weir_gguf_n_keys(g); i++) {
    weir_gguf_value_text(g, i, shown, sizeof shown);
    require(strlen(shown) < sizeof shown, "a value's text without an end");
  }
  st = weir_hparams_from_gguf(g, &h, &e);
  check_status(st, &e);
  if (st == WEIR_OK) {
    require(
        h.n_heads % h.n_kv_heads == 0 && h.head_dim % 2 == 0 && h.rope_dims <= h.head_dim && h.n_vocab > 0,
        "hyper-parameters that contradict each other");
  }
  st = weir_tokenizer_from_gguf(g, &t, &e);
  check_status(st, &e);
  weir_gguf_close(g);
  if (st != WEIR_OK) return 0;
  weir_tokens ids = {0};
  for (int special = 0; special < 2; special++)
    check_status(weir_tokenize(t, text, sizeof text - 1, special, &ids, &e), &e);
  weir_buf out = {0};
  weir_detok d = {0};
  for (int32_t i = 0; i < ids.n; i++) {
    require(ids.id[i] >= 0 && ids.id[i] < weir_tokenizer_n_vocab(t), "an id out of range");
    require(weir_detok_put(&d, t, ids.id[i], true, &out, &e) == WEIR_OK, "detokenisation failed");
  }
  weir_buf_fini(&out);
  weir_tokens_fini(&ids);
  weir_tokenizer_destroy(t);
  return 0;
}
