/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: what a leader and its workers say to each other, a message or a step. What is refused has a
 * reason; what is taken keeps within its bounds, and comes through writing and reading as the same bytes. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "run/tp_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_TOKENS = 64, MAX_SEQS = 8 };

static void require(bool ok, const char *what, const weir_err *e) {
  if (ok) return;
  fprintf(stderr, "fuzz_tp_wire: %s: %s\n", what, e->msg);
  abort();
}

static void check_text(const char *text, size_t cap, const char *what) {
  const weir_err e = {0};
  const size_t n = strnlen(text, cap);
  require(n < cap, what, &e);
  for (size_t i = 0; i < n; i++) require((unsigned char)text[i] >= 0x20, what, &e);
}

static void message(const void *data, size_t size) {
  static weir_tp_msg m, again;
  weir_err e = {0};
  weir_buf a = {0}, b = {0};
  if (weir_tp_msg_get(data, size, &m, &e) != WEIR_OK) {
    require(e.msg[0], "a refusal without a reason", &e);
    return;
  }
  check_text(m.why, sizeof m.why, "reason");
  check_text(m.invite, sizeof m.invite, "invitation");
  require(m.n_offers >= 0 && m.n_offers <= WEIR_MAX_RANKS, "offers", &e);
  for (int32_t i = 0; i < WEIR_MAX_RANKS; i++) check_text(m.offer[i], sizeof m.offer[i], "offer");
  require(weir_tp_msg_put(&m, &a, &e) == WEIR_OK, "what was taken is not written", &e);
  require(a.len == size, "other length", &e);
  require(weir_tp_msg_get(a.data, a.len, &again, &e) == WEIR_OK, "what was written is not taken", &e);
  require(memcmp(&m, &again, sizeof m) == 0, "another message", &e);
  require(weir_tp_msg_put(&again, &b, &e) == WEIR_OK && b.len == a.len && memcmp(a.data, b.data, a.len) == 0,
          "other bytes", &e);
  weir_buf_fini(&a);
  weir_buf_fini(&b);
}

static void step(const void *data, size_t size) {
  const weir_exec_info limits = {.name = "fuzz",
                                 .n_vocab = 300,
                                 .n_ctx = 128,
                                 .n_pages = 40,
                                 .max_tokens = MAX_TOKENS,
                                 .max_seqs = MAX_SEQS};
  weir_ask ask[MAX_TOKENS], ask_again[MAX_TOKENS];
  weir_tp_step s, again;
  weir_err e = {0};
  weir_buf a = {0}, b = {0};
  if (weir_tp_step_get(data, size, &limits, ask, &s, &e) != WEIR_OK) {
    require(e.msg[0], "a refusal without a reason", &e);
    return;
  }
  require(weir_batch_check(&s.batch, &limits, &e) == WEIR_OK, "a batch that is none", &e);
  require(weir_tp_step_put(&s, &a, &e) == WEIR_OK && a.len == size, "what was taken is not written", &e);
  require(weir_tp_step_get(a.data, a.len, &limits, ask_again, &again, &e) == WEIR_OK,
          "what was written is not taken", &e);
  require(again.group == s.group && again.number == s.number, "another step", &e);
  require(weir_tp_step_put(&again, &b, &e) == WEIR_OK && a.len == b.len && memcmp(a.data, b.data, a.len) == 0,
          "other bytes", &e);
  weir_buf_fini(&a);
  weir_buf_fini(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  weir_tp_kind kind;
  weir_err e = {0};
  void *aligned = malloc(size ? size : 1); /* of just its size */
  if (size > 0) memcpy(aligned, data, size);
  message(aligned, size);
  if (weir_tp_wire_kind(aligned, size, &kind, &e) == WEIR_OK && kind == WEIR_TP_STEP)
    step(aligned, size);
  else
    require(weir_tp_step_get(aligned, size, NULL, NULL, &(weir_tp_step){0}, &e) != WEIR_OK, "no step", &e);
  free(aligned);
  return 0;
}
