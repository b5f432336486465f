/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: a byte that sets the budget of memory, and a frame. What is parsed and unpacked is checked as
 * a request or as a reply; a message that was taken must come through packing and unpacking as the same
 * bytes, and what is refused must have a reason and leave nothing. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/check.h"
#include "proto/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok, const char *what, const weir_err *e) {
  if (ok) return;
  fprintf(stderr, "fuzz_frame: %s: %s\n", what, e->msg);
  abort();
}

static void check(const weir_frame_msg *m) {
  weir_err e = {0};
  const char *param = NULL;
  if (m->kind & WEIR_FRAME_REPLY) {
    const weir_status st = weir_check_reply(m, &e);
    require(st == WEIR_OK || (st == WEIR_EFORMAT && e.msg[0]), "a reply without a verdict", &e);
  } else {
    const weir_status st = weir_check_request(m, &param, &e);
    require(st == WEIR_OK || (st == WEIR_EINVAL && e.msg[0]), "a request without a verdict", &e);
    require(param && (st == WEIR_EINVAL || !param[0]), "no name of a field", &e);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 1) return 0;
  const size_t budget = data[0] & 1 ? (size_t)data[0] << 5 : SIZE_MAX;
  weir_frame f;
  weir_err e = {0};
  weir_status st = weir_frame_parse(data + 1, size - 1, &f, &e);
  require(st == WEIR_OK || ((st == WEIR_EFORMAT || st == WEIR_EUNSUP) && e.msg[0]), "no verdict", &e);
  if (st != WEIR_OK) return 0;
  const size_t allowed = budget == SIZE_MAX ? weir_frame_budget(f.kind, f.body_bytes) : budget;
  weir_frame_msg m, again;
  st = weir_frame_unpack(f.kind, f.body, f.body_bytes, allowed, &m, &e);
  if (st != WEIR_OK) {
    require((st == WEIR_EFORMAT || st == WEIR_ENOMEM) && e.msg[0], "a refusal without a reason", &e);
    require(!m.as.base && !m.memory, "a refusal that leaves something", &e);
    return 0;
  }
  check(&m);
  weir_buf a = {0}, b = {0};
  require(weir_frame_put(m.kind, m.as.base, &a, &e) == WEIR_OK, "packing failed", &e);
  require(a.len == weir_frame_size(m.as.base), "not of the size that was told", &e);
  require(weir_frame_parse(a.data, a.len, &f, &e) == WEIR_OK && f.kind == m.kind, "not a frame", &e);
  require(weir_frame_unpack(f.kind, f.body, f.body_bytes, SIZE_MAX, &again, &e) == WEIR_OK,
          "what was packed is refused", &e);
  require(weir_frame_put(again.kind, again.as.base, &b, &e) == WEIR_OK, "packing failed", &e);
  require(a.len == b.len && memcmp(a.data, b.data, a.len) == 0, "other bytes the second time", &e);
  weir_frame_msg_fini(&again);
  weir_frame_msg_fini(&m);
  weir_buf_fini(&a);
  weir_buf_fini(&b);
  return 0;
}
