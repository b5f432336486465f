/* SPDX-License-Identifier: Apache-2.0 */
/* The client's half of tests of the RPC server. */
#include "rpc_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/check.h"

void rig_id(uint32_t kind, uint32_t n, uint8_t id[16]) {
  memset(id, 0x5a, 16);
  memcpy(id, &kind, sizeof kind);
  memcpy(id + 4, &n, sizeof n);
}

static void put(weir_buf *b, weir_frame_kind kind, const ProtobufCMessage *m) {
  weir_err e;
  if (weir_frame_put(kind, m, b, &e) != WEIR_OK) fail_msg("%s", e.msg);
}

void rig_put_submit(weir_buf *b, const rig_submit *s) {
  Weir__V1__SubmitRequest m = WEIR__V1__SUBMIT_REQUEST__INIT;
  Weir__V1__Sampling sampling = WEIR__V1__SAMPLING__INIT;
  Weir__V1__Cascade cascade = WEIR__V1__CASCADE__INIT;
  uint8_t session[16], request[16];
  uint32_t ids[64];
  assert_true(s->n_ids <= 64);
  for (uint32_t i = 0; i < s->n_ids; i++) ids[i] = 5 + (i * 7 + s->request) % 200;
  rig_id(1, s->session, session);
  rig_id(2, s->request, request);
  m.token = (char *)(s->token ? s->token : "");
  m.session = weir_frame_id(session);
  m.request_id = weir_frame_id(request);
  m.prompt_ids = ids;
  m.n_prompt_ids = s->n_ids;
  m.max_tokens = s->max_tokens;
  m.ignore_eos = true;
  m.receipts = s->receipts;
  sampling.has_seed_case = WEIR__V1__SAMPLING__HAS_SEED_SEED;
  sampling.seed = 7;
  m.sampling = &sampling;
  cascade.mode = (char *)(s->mode ? s->mode : "small");
  m.cascade = &cascade;
  put(b, WEIR_FRAME_SUBMIT, &m.base);
}

void rig_put_poll(weir_buf *b, uint32_t session, const rig_stream *const *stream, int32_t n, uint32_t wait_ms,
                  uint32_t max_bytes, const char *token) {
  Weir__V1__PollRequest m = WEIR__V1__POLL_REQUEST__INIT;
  Weir__V1__Cursor cursor[64], *at[64];
  uint8_t id[16];
  assert_true(n <= 64);
  rig_id(1, session, id);
  for (int32_t i = 0; i < n; i++) {
    weir__v1__cursor__init(&cursor[i]);
    cursor[i].request_id = weir_frame_id(stream[i]->id);
    cursor[i].have = (uint32_t)stream[i]->n;
    cursor[i].done = stream[i]->ended;
    at[i] = &cursor[i];
  }
  m.token = (char *)(token ? token : "");
  m.session = weir_frame_id(id);
  m.cursor = at;
  m.n_cursor = (size_t)n;
  m.wait_ms = wait_ms;
  m.max_bytes = max_bytes;
  put(b, WEIR_FRAME_POLL, &m.base);
}

void rig_put_cancel(weir_buf *b, uint32_t session, const uint32_t *request, int32_t n) {
  Weir__V1__CancelRequest m = WEIR__V1__CANCEL_REQUEST__INIT;
  uint8_t id[16], (*ids)[16] = calloc((size_t)n + 1, sizeof *ids);
  ProtobufCBinaryData *at = calloc((size_t)n + 1, sizeof *at);
  assert_true(ids && at);
  rig_id(1, session, id);
  for (int32_t i = 0; i < n; i++) {
    rig_id(2, request[i], ids[i]);
    at[i] = weir_frame_id(ids[i]);
  }
  m.token = (char *)"";
  m.session = weir_frame_id(id);
  m.request_id = at;
  m.n_request_id = (size_t)n;
  put(b, WEIR_FRAME_CANCEL, &m.base);
  free(ids);
  free(at);
}

void rig_unpack(const void *bytes, size_t n, weir_frame_msg *out) {
  weir_frame f;
  weir_err e;
  if (weir_frame_parse(bytes, n, &f, &e) != WEIR_OK) fail_msg("%s", e.msg);
  if (weir_frame_unpack(f.kind, f.body, f.body_bytes, weir_frame_budget(f.kind, f.body_bytes), out, &e) !=
      WEIR_OK)
    fail_msg("%s", e.msg);
  if (weir_check_reply(out, &e) != WEIR_OK) fail_msg("%s", e.msg);
}

static void take_one(const Weir__V1__Update *u, rig_stream *s) {
  s->updates++;
  if (u->state == 4) {
    s->unknown = true;
    return;
  }
  assert_false(s->ended);
  assert_true((int32_t)u->state >= s->state);
  s->state = (int32_t)u->state;
  if (u->prompt_tokens > 0) s->n_prompt = (int32_t)u->prompt_tokens;
  assert_int_equal(u->from, s->n); /* the server has the cursor */
  for (size_t i = 0; i < u->n_token; i++) {
    assert_true(s->n < RIG_MAX_TOKENS);
    s->token[s->n++] = u->token[i]->id;
  }
  assert_int_equal(u->state == 3, u->end != NULL);
  if (!u->end) return;
  s->ended = true;
  snprintf(s->reason, sizeof s->reason, "%s", u->end->reason);
  s->code = u->end->error ? (int32_t)u->end->error->code : 0;
  s->seed = u->end->usage->seed;
  s->completion = u->end->usage->completion_tokens;
  assert_int_equal(s->completion, s->n);
}

void rig_take(const Weir__V1__PollReply *r, rig_stream *const *stream, int32_t n) {
  for (size_t i = 0; i < r->n_update; i++) {
    int32_t k = 0;
    while (k < n && memcmp(stream[k]->id, r->update[i]->request_id.data, 16) != 0) k++;
    if (k == n) fail_msg("an update of a request that was not asked for");
    take_one(r->update[i], stream[k]);
  }
}
