/* SPDX-License-Identifier: Apache-2.0 */
/* Legal values: one wrong field at a time, and that the check names it; UTF-8 against the table of Unicode.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/check.h"

static uint8_t id[17];

typedef struct parts {
  Weir__V1__SubmitRequest m;
  Weir__V1__Sampling sampling;
  Weir__V1__Cascade cascade;
  Weir__V1__ChatMessage chat, *chat_at[1];
  Weir__V1__Bias bias, *bias_at[1];
  char *stop[WEIR_CHECK_MAX_STOP + 1];
  uint32_t ids[2];
  char *big; /* WEIR_CHECK_MAX_TOKEN + 1 bytes of text */
} parts;

static void good(parts *p, char *big) {
  weir__v1__submit_request__init(&p->m);
  weir__v1__sampling__init(&p->sampling);
  weir__v1__cascade__init(&p->cascade);
  weir__v1__chat_message__init(&p->chat);
  weir__v1__bias__init(&p->bias);
  p->chat_at[0] = &p->chat;
  p->bias_at[0] = &p->bias;
  p->m.session = p->m.request_id = weir_frame_id(id);
  p->m.prompt = "Once";
  p->m.sampling = &p->sampling;
  p->m.cascade = &p->cascade;
  p->chat.role = "user";
  for (int i = 0; i <= WEIR_CHECK_MAX_STOP; i++) p->stop[i] = "x";
  p->m.stop = p->stop;
  p->big = big;
}

static void set_ids(parts *p) { p->m.prompt_ids = p->ids, p->m.n_prompt_ids = 2; }
static void only_chat(parts *p) { p->m.prompt = "", p->m.chat = p->chat_at, p->m.n_chat = 1; }

#define CASE(name, field, legal, ...) \
  static void name(parts *p) { __VA_ARGS__; }
#define CASES(X)                                                                                           \
  X(as_is, "", true, (void)p)                                                                              \
  X(ids_alone, "", true, p->m.prompt = ""; set_ids(p))                                                     \
  X(chat_alone, "", true, only_chat(p))                                                                    \
  X(no_prompt, "prompt", false, p->m.prompt = "")                                                          \
  X(two_prompts, "prompt", false, set_ids(p))                                                              \
  X(three_prompts, "prompt", false, set_ids(p); p->m.chat = p->chat_at; p->m.n_chat = 1)                   \
  X(no_session, "session", false, p->m.session.len = 0)                                                    \
  X(long_session, "session", false, p->m.session.len = 17)                                                 \
  X(short_id, "request_id", false, p->m.request_id.len = 15)                                               \
  X(long_token, "token", false, p->m.token = p->big)                                                       \
  X(long_model, "model", false, p->m.model = p->big)                                                       \
  X(long_user, "user", false, p->m.user = p->big)                                                          \
  X(strange_role, "chat.role", false, only_chat(p); p->chat.role = "tool")                                 \
  X(huge_max, "max_tokens", false, p->m.max_tokens = 1u << 31)                                             \
  X(min_of_max, "", true, p->m.max_tokens = p->m.min_tokens = 7)                                           \
  X(min_above_max, "min_tokens", false, p->m.max_tokens = 7; p->m.min_tokens = 8)                          \
  X(min_alone, "", true, p->m.min_tokens = 8)                                                              \
  X(all_stops, "", true, p->m.n_stop = WEIR_CHECK_MAX_STOP)                                                \
  X(too_many_stops, "stop", false, p->m.n_stop = WEIR_CHECK_MAX_STOP + 1)                                  \
  X(empty_stop, "stop", false, p->m.n_stop = 2; p->stop[1] = "")                                           \
  X(long_stop, "stop", false, p->m.n_stop = 1; p->stop[0] = p->big)                                        \
  X(zero_temperature, "", true, p->sampling.has_temperature_case = 1; p->sampling.temperature = 0)         \
  X(cold, "sampling.temperature", false, p->sampling.has_temperature_case = 1;                             \
    p->sampling.temperature = -0.5f)                                                                       \
  X(nan_temperature, "sampling.temperature", false, p->sampling.has_temperature_case = 1;                  \
    p->sampling.temperature = NAN)                                                                         \
  X(top_p_zero, "sampling.top_p", false, p->sampling.has_top_p_case = WEIR__V1__SAMPLING__HAS_TOP_P_TOP_P; \
    p->sampling.top_p = 0)                                                                                 \
  X(top_p_one, "", true, p->sampling.has_top_p_case = WEIR__V1__SAMPLING__HAS_TOP_P_TOP_P;                 \
    p->sampling.top_p = 1)                                                                                 \
  X(top_p_inf, "sampling.top_p", false, p->sampling.has_top_p_case = WEIR__V1__SAMPLING__HAS_TOP_P_TOP_P;  \
    p->sampling.top_p = INFINITY)                                                                          \
  X(min_p_two, "sampling.min_p", false, p->sampling.min_p = 2)                                             \
  X(top_k_huge, "sampling.top_k", false, p->sampling.top_k = UINT32_MAX)                                   \
  X(presence, "sampling.presence_penalty", false, p->sampling.presence_penalty = 2.5f)                     \
  X(frequency, "sampling.frequency_penalty", false, p->sampling.frequency_penalty = -2.5f)                 \
  X(repetition, "sampling.repetition_penalty", false, p->sampling.repetition_penalty = -1)                 \
  X(repetition_inf, "sampling.repetition_penalty", false, p->sampling.repetition_penalty = INFINITY)       \
  X(priority_most, "", true, p->m.priority = 1000000)                                                      \
  X(priority_least, "", true, p->m.priority = -1000000)                                                    \
  X(priority_above, "priority", false, p->m.priority = 1000001)                                            \
  X(priority_below, "priority", false, p->m.priority = -1000001)                                           \
  X(bias_fits, "", true, p->sampling.logit_bias = p->bias_at; p->sampling.n_logit_bias = 1;                \
    p->bias.add = -100)                                                                                    \
  X(bias_wild, "sampling.logit_bias", false, p->sampling.logit_bias = p->bias_at;                          \
    p->sampling.n_logit_bias = 1; p->bias.add = 101)                                                       \
  X(mode_known, "", true, p->cascade.mode = "rollback")                                                    \
  X(mode_speculate, "", true, p->cascade.mode = "speculate")                                               \
  X(mode_long, "cascade.mode", false, p->cascade.mode = p->big)                                            \
  X(entropy_nan, "cascade.entropy", false,                                                                 \
    p->cascade.has_entropy_case = WEIR__V1__CASCADE__HAS_ENTROPY_ENTROPY;                                  \
    p->cascade.entropy = NAN)                                                                              \
  X(entropy_inf, "", true, p->cascade.has_entropy_case = WEIR__V1__CASCADE__HAS_ENTROPY_ENTROPY;           \
    p->cascade.entropy = INFINITY)                                                                         \
  X(rate_above, "cascade.defer_rate", false,                                                               \
    p->cascade.has_defer_rate_case = WEIR__V1__CASCADE__HAS_DEFER_RATE_DEFER_RATE;                         \
    p->cascade.defer_rate = 1.5f)                                                                          \
  X(rate_nan, "cascade.defer_rate", false,                                                                 \
    p->cascade.has_defer_rate_case = WEIR__V1__CASCADE__HAS_DEFER_RATE_DEFER_RATE;                         \
    p->cascade.defer_rate = NAN)                                                                           \
  X(rate_one, "", true, p->cascade.has_defer_rate_case = WEIR__V1__CASCADE__HAS_DEFER_RATE_DEFER_RATE;     \
    p->cascade.defer_rate = 1)                                                                             \
  X(burst, "cascade.defer_burst", false, p->cascade.defer_burst = (1u << 20) + 1)                          \
  X(price_below, "cascade.load_price", false,                                                              \
    p->cascade.has_load_price_case = WEIR__V1__CASCADE__HAS_LOAD_PRICE_LOAD_PRICE;                         \
    p->cascade.load_price = -1)                                                                            \
  X(deadline, "deadline_ms", false, p->m.deadline_ms = UINT32_MAX)                                         \
  X(top_20, "", true, p->m.top_logprobs = 20)                                                              \
  X(top_21, "top_logprobs", false, p->m.top_logprobs = 21)                                                 \
  X(no_sampling, "", true, p->m.sampling = NULL; p->m.cascade = NULL)
/* clang-format off */
CASES(CASE)
/* clang-format on */
#define ROW(name, field, legal, ...) {#name, field, legal, name},

static void submits(void **state) {
  (void)state;
  static const struct {
    const char *name, *param;
    bool ok;
    void (*change)(parts *);
  } cases[] = {CASES(ROW)};
  char *big = malloc(WEIR_CHECK_MAX_TOKEN + 2);
  memset(big, 'x', WEIR_CHECK_MAX_TOKEN + 1);
  big[WEIR_CHECK_MAX_TOKEN + 1] = 0;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    parts p;
    memset(&p, 0, sizeof p);
    good(&p, big);
    cases[i].change(&p);
    const char *param = NULL;
    weir_err e = {0};
    const weir_frame_msg m = {.kind = WEIR_FRAME_SUBMIT, .as.submit = &p.m};
    const weir_status st = weir_check_request(&m, &param, &e);
    if (st != (cases[i].ok ? WEIR_OK : WEIR_EINVAL) || strcmp(param, cases[i].param) != 0)
      print_error("%s: %d, %s: %s\n", cases[i].name, st, param, e.msg);
    assert_int_equal(st, cases[i].ok ? WEIR_OK : WEIR_EINVAL);
    assert_string_equal(param, cases[i].param);
    assert_int_equal(e.msg[0] == 0, cases[i].ok);
  }
  free(big);
}

static weir_status ask(int kind, void *m, const char **param) {
  const weir_frame_msg msg = {.kind = (weir_frame_kind)kind, .as.base = m};
  weir_err e = {0};
  const weir_status st = weir_check_request(&msg, param, &e);
  assert_true(st == WEIR_OK || e.msg[0]);
  return st;
}

static void other_requests(void **state) {
  (void)state;
  const char *param;
  Weir__V1__PollRequest poll = WEIR__V1__POLL_REQUEST__INIT;
  assert_int_equal(ask(WEIR_FRAME_POLL, &poll, &param), WEIR_EINVAL);
  assert_string_equal(param, "session");
  poll.session = weir_frame_id(id);
  assert_int_equal(ask(WEIR_FRAME_POLL, &poll, &param), WEIR_OK);
  Weir__V1__Cursor cursor = WEIR__V1__CURSOR__INIT, **at = calloc(WEIR_CHECK_MAX_CURSORS + 1, sizeof *at);
  for (int i = 0; i <= WEIR_CHECK_MAX_CURSORS; i++) at[i] = &cursor;
  poll.cursor = at;
  poll.n_cursor = 1;
  assert_int_equal(ask(WEIR_FRAME_POLL, &poll, &param), WEIR_EINVAL);
  assert_string_equal(param, "cursor.request_id");
  cursor.request_id = weir_frame_id(id);
  poll.n_cursor = WEIR_CHECK_MAX_CURSORS;
  assert_int_equal(ask(WEIR_FRAME_POLL, &poll, &param), WEIR_OK);
  poll.n_cursor++;
  assert_int_equal(ask(WEIR_FRAME_POLL, &poll, &param), WEIR_EINVAL);
  assert_string_equal(param, "cursor");
  free(at);

  Weir__V1__CancelRequest cancel = WEIR__V1__CANCEL_REQUEST__INIT;
  assert_int_equal(ask(WEIR_FRAME_CANCEL, &cancel, &param), WEIR_EINVAL);
  cancel.session = weir_frame_id(id);
  assert_int_equal(ask(WEIR_FRAME_CANCEL, &cancel, &param), WEIR_OK);
  ProtobufCBinaryData short_id = {.len = 3, .data = id};
  cancel.request_id = &short_id;
  cancel.n_request_id = 1;
  assert_int_equal(ask(WEIR_FRAME_CANCEL, &cancel, &param), WEIR_EINVAL);
  assert_string_equal(param, "request_id");

  Weir__V1__ChatMessage chat = WEIR__V1__CHAT_MESSAGE__INIT, *chat_at[] = {&chat};
  Weir__V1__TokenizeRequest tokenize = WEIR__V1__TOKENIZE_REQUEST__INIT;
  assert_int_equal(ask(WEIR_FRAME_TOKENIZE, &tokenize, &param), WEIR_OK);
  tokenize.chat = chat_at;
  tokenize.n_chat = 1;
  assert_int_equal(ask(WEIR_FRAME_TOKENIZE, &tokenize, &param), WEIR_EINVAL);
  assert_string_equal(param, "chat.role");
  chat.role = "system";
  assert_int_equal(ask(WEIR_FRAME_TOKENIZE, &tokenize, &param), WEIR_OK);
  tokenize.text = "x";
  assert_int_equal(ask(WEIR_FRAME_TOKENIZE, &tokenize, &param), WEIR_EINVAL);
  assert_string_equal(param, "text");
  assert_int_equal(ask(WEIR_FRAME_TOKENIZE | WEIR_FRAME_REPLY, &tokenize, &param), WEIR_EINVAL);
}

static weir_status heard(int kind, void *m) {
  const weir_frame_msg msg = {.kind = (weir_frame_kind)kind, .as.base = m};
  weir_err e = {0};
  const weir_status st = weir_check_reply(&msg, &e);
  assert_int_equal(st == WEIR_OK, e.msg[0] == 0);
  return st;
}

static void replies(void **state) {
  (void)state;
  Weir__V1__Error error = WEIR__V1__ERROR__INIT;
  for (uint32_t code = 0; code < 1000; code++) {
    error.code = code;
    assert_int_equal(heard(WEIR_FRAME_ERROR, &error) == WEIR_OK, weir_check_code(code));
  }
  assert_true(weir_check_code(429) && weir_check_code(504) && !weir_check_code(200) && !weir_check_code(0));

  Weir__V1__Token token = WEIR__V1__TOKEN__INIT, *token_at[] = {&token, &token};
  Weir__V1__End end = WEIR__V1__END__INIT;
  Weir__V1__Update update = WEIR__V1__UPDATE__INIT, *update_at[] = {&update};
  Weir__V1__PollReply poll = WEIR__V1__POLL_REPLY__INIT;
  enum { POLL = WEIR_FRAME_POLL | WEIR_FRAME_REPLY };
  poll.update = update_at;
  poll.n_update = 1;
  assert_int_equal(heard(POLL, &poll), WEIR_EFORMAT); /* no id */
  update.request_id = weir_frame_id(id);
  assert_int_equal(heard(POLL, &poll), WEIR_OK);
  update.state = 5;
  assert_int_equal(heard(POLL, &poll), WEIR_EFORMAT);
  update.state = 2;
  update.token = token_at;
  update.n_token = 2;
  update.from = UINT32_MAX - 1;
  assert_int_equal(heard(POLL, &poll), WEIR_EFORMAT); /* its last token has no number */
  update.from = UINT32_MAX - 2;
  assert_int_equal(heard(POLL, &poll), WEIR_OK);
  token.n_top = WEIR_CHECK_MAX_TOP + 1;
  assert_int_equal(heard(POLL, &poll), WEIR_EFORMAT);
  token.n_top = 0;
  update.end = &end;
  end.reason = "eos";
  assert_int_equal(heard(POLL, &poll), WEIR_EFORMAT); /* an End of what has not ended */
  update.state = 3;
  assert_int_equal(heard(POLL, &poll), WEIR_OK);
  end.reason = "bored";
  assert_int_equal(heard(POLL, &poll), WEIR_EFORMAT);
  end.reason = "error";
  assert_int_equal(heard(POLL, &poll), WEIR_EFORMAT); /* without the error */
  end.error = &error;
  error.code = 700;
  assert_int_equal(heard(POLL, &poll), WEIR_EFORMAT);
  error.code = 500;
  assert_int_equal(heard(POLL, &poll), WEIR_OK);

  Weir__V1__ModelsReply models = WEIR__V1__MODELS_REPLY__INIT;
  enum { MODELS = WEIR_FRAME_MODELS | WEIR_FRAME_REPLY };
  assert_int_equal(heard(MODELS, &models), WEIR_OK);
  models.max_request_bytes = WEIR_FRAME_SURE_REQUEST - 1;
  assert_int_equal(heard(MODELS, &models), WEIR_EFORMAT);
  models.max_request_bytes = WEIR_FRAME_MAX_REQUEST;
  assert_int_equal(heard(MODELS, &models), WEIR_OK);
  models.max_request_bytes++;
  assert_int_equal(heard(MODELS, &models), WEIR_EFORMAT);

  uint32_t one_id = 1;
  Weir__V1__TokenizeReply tokenize = WEIR__V1__TOKENIZE_REPLY__INIT;
  tokenize.id = &one_id;
  tokenize.n_id = 1;
  assert_int_equal(heard(WEIR_FRAME_TOKENIZE | WEIR_FRAME_REPLY, &tokenize), WEIR_EFORMAT);

  Weir__V1__Family family = WEIR__V1__FAMILY__INIT, *family_at[] = {&family};
  Weir__V1__StatsReply stats = WEIR__V1__STATS_REPLY__INIT;
  stats.family = family_at;
  stats.n_family = 1;
  assert_int_equal(heard(WEIR_FRAME_STATS | WEIR_FRAME_REPLY, &stats), WEIR_OK);
  family.type = 3;
  assert_int_equal(heard(WEIR_FRAME_STATS | WEIR_FRAME_REPLY, &stats), WEIR_EFORMAT);
  assert_int_equal(heard(WEIR_FRAME_STATS, &stats), WEIR_EFORMAT); /* a request is no reply */
}

/* By another road: decodes, and asks of the code point what the table says of bytes. */
static bool decodes(const uint8_t *s, size_t n) {
  for (size_t i = 0; i < n;) {
    const int len = s[i] < 0x80 ? 1 : s[i] >> 5 == 6 ? 2 : s[i] >> 4 == 14 ? 3 : s[i] >> 3 == 30 ? 4 : 0;
    if (len == 0 || i + (size_t)len > n) return false;
    uint32_t c = len == 1 ? s[i] : s[i] & (0x7fu >> len);
    for (int k = 1; k < len; k++) {
      if (s[i + (size_t)k] >> 6 != 2) return false;
      c = c << 6 | (s[i + (size_t)k] & 0x3f);
    }
    static const uint32_t least[] = {0, 1, 0x80, 0x800, 0x10000};
    if (c < least[len] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) return false;
    i += (size_t)len;
  }
  return true;
}

static void utf8(void **state) {
  (void)state;
  for (uint32_t two = 0; two < 1 << 16; two++) { /* every pair, alone and with tails */
    const uint8_t s[] = {(uint8_t)(two >> 8), (uint8_t)two, 0x80, 0xbf};
    for (size_t n = 1; n <= sizeof s; n++)
      if (weir_check_utf8((const char *)s, n) != decodes(s, n)) {
        print_error("%02x %02x, %zu bytes\n", s[0], s[1], n);
        fail();
      }
  }
  assert_true(weir_check_utf8("", 0));
  assert_true(weir_check_utf8("\xf0\x9f\x98\x80 \xe4\xb8\xad", 8));
  assert_false(weir_check_utf8("a\0b", 3));
}

int main(void) {
  for (size_t i = 0; i < sizeof id; i++) id[i] = (uint8_t)(200 - i);
  const struct CMUnitTest tests[] = {cmocka_unit_test(submits), cmocka_unit_test(other_requests),
                                     cmocka_unit_test(replies), cmocka_unit_test(utf8)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
