/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: a tokenizer.json up to the first 0xFF, a text behind it. What is accepted must tokenize any
 * text into ids of its vocabulary, or say why not, and give UTF-8 back. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "model/tok_spec.h"
#include "model/tokenizer.h"
#include "model/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok, const char *what) {
  if (ok) return;
  fprintf(stderr, "fuzz_tok_json: %s\n", what);
  abort();
}

static bool is_utf8(const char *p, size_t n) {
  int32_t len;
  for (size_t at = 0; at < n; at += (size_t)len)
    if (weir_utf8_next(p + at, n - at, &len) != WEIR_UTF8_CHAR) return false;
  return true;
}

/* An id in the millions makes tables of that size: allowed, and slow. */
static bool has_large_number(const char *p, size_t n) {
  size_t digits = 0;
  for (size_t i = 0; i < n; i++) {
    digits = p[i] >= '0' && p[i] <= '9' ? digits + 1 : 0;
    if (digits > 5) return true;
  }
  return false;
}

static void run(weir_tokenizer *t, const char *text, size_t len, bool special) {
  weir_tokens ids = {0};
  weir_buf out = {0};
  weir_detok d = {0};
  weir_err e = {0};
  const weir_status st = weir_tokenize(t, text, len, special, &ids, &e);
  require(st == WEIR_OK || ids.n == 0, "ids of a text that is refused");
  for (int32_t i = 0; i < ids.n; i++) {
    require(ids.id[i] >= 0 && ids.id[i] < weir_tokenizer_n_vocab(t), "an id of no token");
    require(weir_detok_put(&d, t, ids.id[i], true, &out, &e) == WEIR_OK, e.msg);
  }
  require(weir_detok_end(&d, &out, &e) == WEIR_OK, e.msg);
  require(is_utf8(out.data, out.len), "the detokeniser gave broken UTF-8");
  weir_buf_fini(&out);
  weir_tokens_fini(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const uint8_t *end = size ? memchr(data, 0xff, size) : NULL;
  const size_t n = end ? (size_t)(end - data) : size;
  const char *text = end ? (const char *)end + 1 : "Ab 12\xc3\xa9";
  const size_t len = end ? size - n - 1 : strlen(text);
  weir_tokenizer *t;
  weir_err e = {0};
  int32_t common;
  weir_log_set_level(WEIR_LOG_ERROR);
  if (has_large_number((const char *)data, n)) return 0;
  if (weir_tokenizer_from_json((weir_str){(const char *)data, n}, &t, &e) != WEIR_OK) {
    require(e.msg[0] != 0 && t == NULL, "refused without a word");
    return 0;
  }
  run(t, text, len, true);
  run(t, text, len, false);
  require(weir_tokenizer_same(t, t, &common, &e) == WEIR_OK, "it is not the same as itself");
  weir_tokenizer_destroy(t);
  return 0;
}
