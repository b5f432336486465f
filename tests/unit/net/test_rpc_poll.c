/* SPDX-License-Identifier: Apache-2.0 */
/* What a Poll's answer may take: about as many bytes as were asked for, whatever the Ends have in them, and
 * every End comes. Replies are made by hand, without a service. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "net/rpc_poll.h"
#include "proto/frame.h"
#include "serve/service_in.h"

enum { N = 6, MAX_BYTES = 4096 };

typedef struct rig {
  weir_reply reply[N];
  rpc_entry entry[N];
  rpc_cursor cursor[N];
  rpc_session session;
  char stop[N][4097];
} rig;

static void rig_open(rig *r, const size_t *stop_bytes, const size_t *message_bytes, int32_t n_tokens) {
  weir_err e;
  memset(r, 0, sizeof *r);
  for (int i = 0; i < N; i++) {
    const weir_token_receipt receipt = {.id = 5};
    weir_reply *x = &r->reply[i];
    memset(r->stop[i], 's', stop_bytes[i]);
    x->end = (weir_reply_end){
        .end = message_bytes[i] ? WEIR_END_ERROR : WEIR_END_STOP, .stop = r->stop[i], .mode = ""};
    if (message_bytes[i]) {
      x->end.error.code = 500;
      memset(x->end.error.message, 'm', message_bytes[i]);
    }
    assert_int_equal(weir_reply_log_init(&x->log, 64, NULL, &e), WEIR_OK);
    for (int32_t k = 0; k < n_tokens; k++)
      assert_int_equal(weir_reply_log_append(&x->log, &receipt, "text", 4, NULL, 0, &e), WEIR_OK);
    x->state = WEIR_REPLY_ENDED;
    r->entry[i] = (rpc_entry){.id = {(uint8_t)i}, .of = &r->session, .reply = x};
    r->cursor[i] = (rpc_cursor){.entry = &r->entry[i], .state = -1};
  }
  r->session.cursor = r->cursor;
  r->session.n_cursors = N;
  r->session.max_bytes = MAX_BYTES;
}

static void rig_close(rig *r) {
  for (int i = 0; i < N; i++) weir_reply_log_fini(&r->reply[i].log);
}

static void test_ends(void **state) {
  (void)state;
  static const size_t stops[][N] = {{0}, {4000, 4000, 4000, 4000, 4000, 4000}, {10, 4000, 10, 10, 4000, 10}};
  static const size_t messages[][N] = {{0}, {440, 440, 440, 440, 440, 440}};
  static rig r;
  for (size_t c = 0; c < 3 * 2 * 2; c++) {
    const size_t *stop = stops[c % 3], *message = messages[c / 3 % 2];
    const int32_t n_tokens = c / 6 ? 40 : 0;
    bool ended[N] = {false};
    int32_t have[N] = {0};
    int n_ended = 0, n_replies = 0;
    rig_open(&r, stop, message, n_tokens);
    for (bool more = true; more; n_replies++) {
      const rpc_poll_env env = {NULL, 1, 1};
      weir_buf out = {0};
      weir_err e = {0};
      weir_frame f;
      weir_frame_msg m;
      assert_true(n_replies < 3 * N);
      assert_int_equal(rpc_poll_put(&r.session, &env, NULL, 0, &out, &e), WEIR_OK);
      assert_int_equal(weir_frame_parse(out.data, out.len, &f, &e), WEIR_OK);
      assert_int_equal(weir_frame_unpack(f.kind, f.body, f.body_bytes, SIZE_MAX, &m, &e), WEIR_OK);
      const Weir__V1__PollReply *p = m.as.poll_reply;
      assert_true(p->n_update > 0); /* it brings the client on */
      /* what was asked for, but for an End that is longer than that by itself */
      if (out.len > MAX_BYTES && !(p->n_update == 1 && p->update[0]->n_token == 0))
        fail_msg("case %zu: %zu bytes in %zu updates", c, out.len, p->n_update);
      for (size_t i = 0; i < p->n_update; i++) {
        const uint8_t at = p->update[i]->request_id.data[0];
        assert_int_equal(p->update[i]->from, have[at]);
        assert_true(p->update[i]->n_token > 0 || p->update[i]->end);
        assert_false(ended[at]);
        have[at] += (int32_t)p->update[i]->n_token;
        if (!p->update[i]->end) continue;
        assert_int_equal(have[at], n_tokens);
        assert_int_equal(strlen(p->update[i]->end->stop), stop[at]);
        ended[at] = true;
        n_ended++;
      }
      more = p->more;
      weir_frame_msg_fini(&m);
      weir_buf_fini(&out);
      /* a client names what it waits for */
      r.session.n_cursors = 0;
      for (int i = 0; i < N; i++)
        if (!ended[i])
          r.cursor[r.session.n_cursors++] = (rpc_cursor){.entry = &r.entry[i], .have = have[i], .state = -1};
      if (r.session.first_cursor >= r.session.n_cursors) r.session.first_cursor = 0;
    }
    assert_int_equal(n_ended, N);
    rig_close(&r);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_ends)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
