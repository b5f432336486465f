/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: a byte of options, a template up to a 0xff, and messages with 0xfe between, the first byte of
 * each its role. The template is recognised or not; then every format renders the messages: the spans must
 * lie in the text, ascend and be apart, the text outside of them must come from the messages, and a refusal
 * must leave nothing. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/chat.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_MESSAGES = 40 };

static void require(bool ok, const char *what, const weir_chat_format *f) {
  if (ok) return;
  fprintf(stderr, "fuzz_chat: %s: %s\n", f ? weir_chat_name(f) : "-", what);
  abort();
}

static void render(const weir_chat_format *f, const weir_chat_message *m, int32_t n, bool generate) {
  const weir_chat_words words = {
      .bos = weir_str_of("<s>"), .eos = weir_str_of("</s>"), .date = weir_str_of("today")};
  weir_chat_text t = {0};
  weir_err e = {0};
  const weir_status st = weir_chat_render(f, &words, m, n, generate, &t, &e);
  size_t at = 0, outside = 0, said = 0;
  if (st != WEIR_OK) {
    require(st == WEIR_EINVAL && e.msg[0], "an error without a reason", f);
    require(t.text.len == 0 && t.n_spans == 0, "a refusal that leaves something", f);
  }
  for (int32_t i = 0; i < t.n_spans; i++) {
    const weir_span s = t.span[i];
    require(s.begin < s.end && s.end <= t.text.len && (i == 0 || s.begin > at), "a span out of place", f);
    outside += s.begin - at;
    at = s.end;
  }
  outside += t.text.len - at;
  for (int32_t i = 0; i < n; i++) said += m[i].text.len;
  require(outside <= said + f->default_system.len, "more text outside of the spans than was said", f);
  weir_chat_text_fini(&t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 1) return 0;
  const bool generate = data[0] & 1;
  const char *text = (const char *)data + 1;
  const char *end = memchr(text, 0xff, size - 1);
  const weir_str jinja = {text, end ? (size_t)(end - text) : size - 1};
  weir_chat_message m[MAX_MESSAGES];
  int32_t n = 0;
  const char *p = end ? end + 1 : text + size - 1, *last = (const char *)data + size;
  while (p < last && n < MAX_MESSAGES) {
    const char *stop = memchr(p, 0xfe, (size_t)(last - p));
    const size_t len = stop ? (size_t)(stop - p) : (size_t)(last - p);
    if (len > 0)
      m[n++] = (weir_chat_message){(weir_chat_role)((uint8_t)*p % 3), {len > 1 ? p + 1 : NULL, len - 1}};
    p += len + 1;
  }
  weir_chat_format f;
  weir_err e = {0};
  const weir_status st = weir_chat_detect(jinja, &f, &e);
  require(st == WEIR_OK || (st == WEIR_EUNSUP && e.msg[0]), "neither known nor refused", NULL);
  if (st == WEIR_OK) {
    weir_chat_format same;
    require(weir_chat_by_name(weir_chat_name(&f), &same), "a format that has no name", &f);
    render(&f, m, n, generate);
  }
  char names[512], *rest = names;
  snprintf(names, sizeof names, "%s", weir_chat_names());
  for (char *name; (name = strtok_r(rest, ", ", &rest));) {
    require(weir_chat_by_name(name, &f), "a name without a format", NULL);
    render(&f, m, n, generate);
  }
  return 0;
}
