/* SPDX-License-Identifier: Apache-2.0 */
/* Frames: headers right and wrong, every kind there and back, bytes that protobuf-c would take and weir does
 * not, and that a message costs no more memory than its budget,
 * whatever it says; and the example of PROTOCOL.md. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/check.h"
#include "proto/frame.h"

static void headers(void **state) {
  (void)state;
  static const struct {
    const char *what;
    uint8_t bytes[12];
    size_t n;
    weir_status st;
  } cases[] = {
      {"an empty Health", "WEIR\1\10\0\0", 8, WEIR_OK},
      {"a body", "WEIR\1\1\0\0abc", 11, WEIR_OK},
      {"a reply", "WEIR\1\x82\0\0", 8, WEIR_OK},
      {"an Error", "WEIR\1\xff\0\0", 8, WEIR_OK},
      {"nothing", "", 0, WEIR_EFORMAT},
      {"seven bytes", "WEIR\1\1\0", 7, WEIR_EFORMAT},
      {"other magic", "WEIS\1\1\0\0", 8, WEIR_EFORMAT},
      {"HTTP", "GET / HTTP", 10, WEIR_EFORMAT},
      {"version 0", "WEIR\0\1\0\0", 8, WEIR_EUNSUP},
      {"version 2", "WEIR\2\1\0\0", 8, WEIR_EUNSUP},
      {"reserved", "WEIR\1\1\1\0", 8, WEIR_EFORMAT},
      {"reserved too", "WEIR\1\1\0\1", 8, WEIR_EFORMAT},
      {"kind 0", "WEIR\1\0\0\0", 8, WEIR_EUNSUP},
      {"kind 9", "WEIR\1\11\0\0", 8, WEIR_EUNSUP},
      {"reply 0", "WEIR\1\x80\0\0", 8, WEIR_EUNSUP},
      {"reply 9", "WEIR\1\x89\0\0", 8, WEIR_EUNSUP},
      {"kind 0x7f", "WEIR\1\x7f\0\0", 8, WEIR_EUNSUP},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    weir_frame f;
    weir_err e = {0};
    uint8_t *exact = malloc(cases[i].n ? cases[i].n : 1); /* a sanitizer sees a read past the end */
    memcpy(exact, cases[i].bytes, cases[i].n);
    const weir_status st = weir_frame_parse(exact, cases[i].n, &f, &e);
    if (st != cases[i].st) print_error("%s: %d, %s\n", cases[i].what, st, e.msg);
    assert_int_equal(st, cases[i].st);
    if (st == WEIR_OK) {
      assert_int_equal(f.kind, cases[i].bytes[5]);
      assert_int_equal(f.body_bytes, cases[i].n - 8);
      assert_ptr_equal(f.body, exact + 8);
    } else {
      assert_true(e.msg[0] != 0);
    }
    free(exact);
  }
  for (int kind = -1; kind < 300; kind++) {
    const int call = kind & 0x7f;
    const bool known = kind == 0xff || (kind > 0 && kind < 0x100 && call >= 1 && call <= WEIR_FRAME_LAST);
    assert_int_equal(strcmp(weir_frame_kind_name(kind), "unknown") != 0, known);
  }
}

static weir_frame_msg unpack_ok(weir_frame_kind kind, const void *body, size_t n) {
  weir_frame_msg m;
  weir_err e = {0};
  const weir_status st = weir_frame_unpack(kind, body, n, weir_frame_budget(kind, n), &m, &e);
  if (st != WEIR_OK) print_error("%s: %s\n", weir_frame_kind_name((int)kind), e.msg);
  assert_int_equal(st, WEIR_OK);
  assert_int_equal(m.kind, kind);
  return m;
}

/* Packs, parses, unpacks and packs again: the same bytes. */
static weir_frame_msg there_and_back(weir_frame_kind kind, const ProtobufCMessage *m) {
  weir_buf a = {0}, b = {0};
  weir_err e = {0};
  weir_frame f;
  assert_int_equal(weir_frame_put(kind, m, &a, &e), WEIR_OK);
  assert_int_equal(a.len, weir_frame_size(m));
  assert_int_equal(weir_frame_parse(a.data, a.len, &f, &e), WEIR_OK);
  assert_int_equal(f.kind, kind);
  weir_frame_msg out = unpack_ok(f.kind, f.body, f.body_bytes);
  assert_int_equal(weir_frame_put(kind, out.as.base, &b, &e), WEIR_OK);
  assert_int_equal(a.len, b.len);
  assert_memory_equal(a.data, b.data, a.len);
  weir_buf_fini(&a);
  weir_buf_fini(&b);
  return out;
}

static void round_trips(void **state) {
  (void)state;
  uint8_t id[WEIR_FRAME_ID_BYTES];
  for (size_t i = 0; i < sizeof id; i++) id[i] = (uint8_t)(i * 17);
  uint32_t ids[] = {0, 1, 127, 128, UINT32_MAX};
  char *stops[] = {"\n\n", "Ende \xe2\x82\xac"};
  Weir__V1__Sampling sampling = WEIR__V1__SAMPLING__INIT;
  sampling.has_temperature_case = WEIR__V1__SAMPLING__HAS_TEMPERATURE_TEMPERATURE; /* zero, and said so */
  sampling.has_seed_case = WEIR__V1__SAMPLING__HAS_SEED_SEED;
  sampling.seed = UINT64_MAX;
  Weir__V1__SubmitRequest submit = WEIR__V1__SUBMIT_REQUEST__INIT;
  submit.session = submit.request_id = weir_frame_id(id);
  submit.prompt_ids = ids;
  submit.n_prompt_ids = 5;
  submit.stop = stops;
  submit.n_stop = 2;
  submit.sampling = &sampling;
  submit.priority = -3;
  weir_frame_msg m = there_and_back(WEIR_FRAME_SUBMIT, &submit.base);
  assert_int_equal(m.as.submit->n_prompt_ids, 5);
  assert_int_equal(m.as.submit->prompt_ids[4], UINT32_MAX);
  assert_string_equal(m.as.submit->stop[1], stops[1]);
  assert_int_equal(m.as.submit->sampling->has_temperature_case,
                   WEIR__V1__SAMPLING__HAS_TEMPERATURE_TEMPERATURE);
  assert_int_equal(m.as.submit->sampling->has_top_p_case, 0);
  assert_true(m.as.submit->sampling->seed == UINT64_MAX);
  assert_int_equal(m.as.submit->priority, -3);
  weir_frame_msg_fini(&m);
  weir_frame_msg_fini(&m); /* zeroed */

  Weir__V1__Token token = WEIR__V1__TOKEN__INIT, *token_at[1000];
  token.text = (ProtobufCBinaryData){3, (uint8_t *)"\xff\0x"}; /* bytes: no UTF-8 is asked for */
  token.why = "deferred";
  token.has_entropy_case = WEIR__V1__TOKEN__HAS_ENTROPY_ENTROPY;
  token.entropy = 1.5f;
  for (int i = 0; i < 1000; i++) token_at[i] = &token;
  Weir__V1__Update update = WEIR__V1__UPDATE__INIT, *update_at[] = {&update, &update};
  update.request_id = weir_frame_id(id);
  update.token = token_at;
  update.n_token = 1000;
  Weir__V1__PollReply reply = WEIR__V1__POLL_REPLY__INIT;
  reply.update = update_at;
  reply.n_update = 2;
  m = there_and_back(WEIR_FRAME_POLL | WEIR_FRAME_REPLY, &reply.base);
  assert_int_equal(m.as.poll_reply->update[1]->n_token, 1000);
  assert_int_equal(m.as.poll_reply->update[1]->token[999]->text.len, 3);
  assert_memory_equal(m.as.poll_reply->update[1]->token[999]->text.data, "\xff\0x", 3);
  weir_frame_msg_fini(&m);

  for (int kind = 1; kind <= WEIR_FRAME_LAST; kind++) /* an empty message of each kind */
    for (int dir = 0; dir <= WEIR_FRAME_REPLY; dir += WEIR_FRAME_REPLY) {
      m = unpack_ok((weir_frame_kind)(kind | dir), NULL, 0);
      weir_frame_msg back = there_and_back((weir_frame_kind)(kind | dir), m.as.base);
      weir_frame_msg_fini(&back);
      weir_frame_msg_fini(&m);
    }
}

static void malformed(void **state) {
  (void)state;
  static const struct {
    const char *what;
    int kind;
    const char *body;
    size_t n;
    bool ok;
  } cases[] = {
      {"a prompt", WEIR_FRAME_SUBMIT, "\x2a\2hi", 4, true},
      {"a prompt cut short", WEIR_FRAME_SUBMIT, "\x2a\3hi", 4, false},
      {"a NUL in a prompt", WEIR_FRAME_SUBMIT, "\x2a\3h\0i", 5, false},
      {"a prompt of Latin-1", WEIR_FRAME_SUBMIT, "\x2a\2h\xe9", 4, false},
      {"a surrogate", WEIR_FRAME_SUBMIT, "\x2a\3\xed\xa0\x80", 5, false},
      {"a prompt as a number", WEIR_FRAME_SUBMIT, "\x28\2", 2, false},
      {"a length of 2^63", WEIR_FRAME_SUBMIT, "\x2a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 10, false},
      {"a varint of eleven bytes", WEIR_FRAME_SUBMIT, "\x40\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\1", 12,
       false},
      {"tag 0", WEIR_FRAME_SUBMIT, "\2\0", 2, false},
      {"a group", WEIR_FRAME_SUBMIT, "\x2b\x2c", 2, false},
      {"wire type 7", WEIR_FRAME_SUBMIT, "\x2f", 1, false},
      {"ids, packed", WEIR_FRAME_SUBMIT, "\x32\3\1\2\3", 5, true},
      {"ids, one by one", WEIR_FRAME_SUBMIT, "\x30\1\x30\2", 4, true},
      {"packed ids that end within one", WEIR_FRAME_SUBMIT, "\x32\2\1\x80", 4, false},
      {"a number as bytes", WEIR_FRAME_SUBMIT, "\x42\1x", 3, false},
      {"bad text in a chat message", WEIR_FRAME_SUBMIT, "\x3a\3\x12\1\xff", 5, false},
      {"a chat message longer than its place", WEIR_FRAME_SUBMIT, "\x3a\3\x12\2x", 5, false},
      {"an unknown number", WEIR_FRAME_HEALTH, "\xa0\x06\1", 3, true},
      {"unknown bytes", WEIR_FRAME_HEALTH, "\xa2\x06\1\xff", 4, true},
      {"unknown bytes cut short", WEIR_FRAME_HEALTH, "\xa2\x06\2\xff", 4, false},
      {"an unknown fixed64 cut short", WEIR_FRAME_HEALTH, "\xa1\x06\1\2\3", 5, false},
      {"a bool", WEIR_FRAME_SUBMIT, "\x60\1", 2, true},
      {"a float as fixed64", WEIR_FRAME_SUBMIT, "\x72\x09\x09\0\0\0\0\0\0\0\0", 11, false},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    weir_frame_msg m;
    weir_err e = {0};
    uint8_t *exact = malloc(cases[i].n);
    memcpy(exact, cases[i].body, cases[i].n);
    const weir_status st =
        weir_frame_unpack((weir_frame_kind)cases[i].kind, exact, cases[i].n, 1 << 20, &m, &e);
    if ((st == WEIR_OK) != cases[i].ok) print_error("%s: %d, %s\n", cases[i].what, st, e.msg);
    assert_int_equal(st, cases[i].ok ? WEIR_OK : WEIR_EFORMAT);
    assert_true(cases[i].ok || (e.msg[0] && !m.as.base && !m.memory));
    weir_frame_msg_fini(&m);
    free(exact);
  }
  weir_frame_msg m;
  weir_err e = {0};
  assert_int_equal(weir_frame_unpack((weir_frame_kind)0x42, "", 0, 1 << 20, &m, &e), WEIR_EUNSUP);
}

/* A megabyte of the smallest parts there are. */
static void hostile(void **state) {
  (void)state;
  static const struct {
    const char *what;
    int kind;
    const char *part;
    size_t n_part;
  } cases[] = {
      {"empty chat messages", WEIR_FRAME_SUBMIT, "\x3a\0", 2},
      {"empty stops", WEIR_FRAME_SUBMIT, "\x52\0", 2},
      {"ids one by one", WEIR_FRAME_SUBMIT, "\x30\1", 2},
      {"empty cursors", WEIR_FRAME_POLL, "\x1a\0", 2},
      {"empty ids", WEIR_FRAME_CANCEL, "\x1a\0", 2},
      {"empty updates", WEIR_FRAME_POLL | WEIR_FRAME_REPLY, "\x0a\0", 2},
      {"the same sampling again", WEIR_FRAME_SUBMIT, "\x72\0", 2},
      {"unknown fields", WEIR_FRAME_HEALTH, "\xa0\x06\1", 3},
  };
  enum { N = 1 << 20 };
  uint8_t *body = malloc(N);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const size_t n = N / cases[i].n_part * cases[i].n_part;
    for (size_t k = 0; k < n; k++) body[k] = (uint8_t)cases[i].part[k % cases[i].n_part];
    weir_frame_msg m;
    weir_err e = {0};
    const weir_frame_kind kind = (weir_frame_kind)cases[i].kind;
    const weir_status st = weir_frame_unpack(kind, body, n, weir_frame_budget(kind, n), &m, &e);
    if (st != WEIR_ENOMEM) print_error("%s: %d, %s\n", cases[i].what, st, e.msg);
    assert_int_equal(st, WEIR_ENOMEM);
    weir_frame_msg_fini(&m);
  }
  free(body);
}

/* With every budget up to what it needs: refused, never half there. */
static void budgets(void **state) {
  (void)state;
  weir_buf b = {0};
  weir_err e = {0};
  Weir__V1__ChatMessage chat = WEIR__V1__CHAT_MESSAGE__INIT, *chat_at[20];
  chat.role = "user";
  chat.text = "What do people do all day?";
  for (int i = 0; i < 20; i++) chat_at[i] = &chat;
  Weir__V1__TokenizeRequest r = WEIR__V1__TOKENIZE_REQUEST__INIT;
  r.chat = chat_at;
  r.n_chat = 20;
  assert_int_equal(weir_frame_put(WEIR_FRAME_TOKENIZE, &r.base, &b, &e), WEIR_OK);
  size_t first_ok = 0;
  for (size_t budget = 0; budget < 16384; budget += 16) {
    weir_frame_msg m;
    const weir_status st = weir_frame_unpack(WEIR_FRAME_TOKENIZE, b.data + 8, b.len - 8, budget, &m, &e);
    assert_true(st == WEIR_OK || st == WEIR_ENOMEM);
    if (st == WEIR_OK && first_ok == 0) first_ok = budget;
    assert_true(st == WEIR_OK || first_ok == 0); /* more is never worse */
    if (st == WEIR_OK) assert_string_equal(m.as.tokenize->chat[19]->text, chat.text);
    weir_frame_msg_fini(&m);
  }
  assert_in_range(first_ok, 1024, 8192);
  assert_true(first_ok <= weir_frame_budget(WEIR_FRAME_TOKENIZE, b.len - 8));
  weir_buf_fini(&b);
}

/* As many messages as a chat may have, each as short as one can be: they fit, and not many more would. */
static void longest_chat(void **state) {
  (void)state;
  static const char *const texts[] = {"", "x", "yes"};
  static Weir__V1__ChatMessage *at[WEIR_CHECK_MAX_CHAT];
  for (size_t k = 0; k < sizeof texts / sizeof *texts; k++) {
    weir_buf b = {0};
    weir_err e = {0};
    Weir__V1__ChatMessage chat = WEIR__V1__CHAT_MESSAGE__INIT;
    chat.role = "user";
    chat.text = (char *)texts[k];
    for (int i = 0; i < WEIR_CHECK_MAX_CHAT; i++) at[i] = &chat;
    Weir__V1__SubmitRequest r = WEIR__V1__SUBMIT_REQUEST__INIT;
    r.chat = at;
    r.n_chat = WEIR_CHECK_MAX_CHAT;
    assert_int_equal(weir_frame_put(WEIR_FRAME_SUBMIT, &r.base, &b, &e), WEIR_OK);
    weir_frame_msg m = unpack_ok(WEIR_FRAME_SUBMIT, b.data + 8, b.len - 8);
    assert_int_equal(m.as.submit->n_chat, WEIR_CHECK_MAX_CHAT);
    weir_frame_msg_fini(&m);
    weir_buf_fini(&b);
  }
}

/* The frames of PROTOCOL.md are what it says they are. */
static void document(void **state) {
  (void)state;
  static const char *const names[] = {"Submit",     "Submit reply", "Poll",       "Poll reply", "Poll",
                                      "Poll reply", "Poll",         "Poll reply", "Error"};
  enum { N_FRAMES = sizeof names / sizeof *names };
  FILE *in = fopen("proto/PROTOCOL.md", "r");
  assert_non_null(in); /* run from the source root */
  char line[1024];
  int n = 0;
  while (fgets(line, sizeof line, in)) {
    if (strncmp(line, "```hex ", 7) != 0) continue;
    line[strcspn(line, "\n")] = 0;
    assert_true(n < N_FRAMES);
    assert_string_equal(line + 7, names[n]);
    uint8_t bytes[256];
    size_t n_bytes = 0;
    while (fgets(line, sizeof line, in) && line[0] != '`')
      for (char *at = line, *end; n_bytes < sizeof bytes; at = end) {
        const unsigned long byte = strtoul(at, &end, 16);
        if (end == at) break;
        bytes[n_bytes++] = (uint8_t)byte;
      }
    weir_frame f;
    weir_err e = {0};
    assert_int_equal(weir_frame_parse(bytes, n_bytes, &f, &e), WEIR_OK);
    assert_string_equal(weir_frame_kind_name((int)f.kind), names[n]);
    weir_frame_msg m = unpack_ok(f.kind, f.body, f.body_bytes);
    const char *param = "";
    if (f.kind & WEIR_FRAME_REPLY)
      assert_int_equal(weir_check_reply(&m, &e), WEIR_OK);
    else
      assert_int_equal(weir_check_request(&m, &param, &e), WEIR_OK);
    if (n == 0) assert_true(!strcmp(m.as.submit->prompt, "Once") && m.as.submit->max_tokens == 2);
    if (n == 2) assert_true(m.as.poll->wait_ms == 5000 && m.as.poll->cursor[0]->have == 0);
    if (n == 3) {
      const Weir__V1__Token *t = m.as.poll_reply->update[0]->token[0];
      assert_int_equal(m.as.poll_reply->update[0]->prompt_tokens, 2);
      assert_true(t->id == 2402 && t->logprob == -0.125f && t->text.len == 5);
      assert_memory_equal(t->text.data, " upon", 5);
    }
    if (n == 5) {
      assert_int_equal(m.as.poll_reply->update[0]->from, 1);
      assert_string_equal(m.as.poll_reply->update[0]->end->reason, "length");
      assert_int_equal(m.as.poll_reply->update[0]->end->usage->seed, 7);
    }
    if (n == 6) assert_true(m.as.poll->cursor[0]->done && m.as.poll->cursor[0]->have == 2);
    if (n == 8) assert_true(m.as.error->code == 429 && m.as.error->retry_after_ms == 1000);
    weir_frame_msg_fini(&m);
    n++;
  }
  fclose(in);
  assert_int_equal(n, N_FRAMES);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(headers),   cmocka_unit_test(round_trips),
                                     cmocka_unit_test(malformed), cmocka_unit_test(hostile),
                                     cmocka_unit_test(budgets),   cmocka_unit_test(longest_chat),
                                     cmocka_unit_test(document)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
