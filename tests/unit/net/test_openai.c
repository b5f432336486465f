/* SPDX-License-Identifier: Apache-2.0 */
/* Requests in OpenAI's form: what is taken, what each wrong one is refused for; text that is cut between
 * tokens; which engine is picked. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "net/gateway_page.h"
#include "net/gateway_pick.h"
#include "net/openai.h"
#include "net/openai_answer.h"
#include "net/openai_write.h"
#include "net/sha256.h"

static const weir_openai_limits limits = {.max_n = 8, .max_prompts = 4, .max_answers = 16};

#define C    WEIR_OPENAI_COMPLETION
#define H    WEIR_OPENAI_CHAT
#define ASK  "{\"prompt\":\"x\","
#define CHAT "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],"

/* ---- what is refused, and by which name ---- */

static const struct {
  weir_openai_kind kind;
  const char *body, *param; /* "": of the whole */
} bad[] = {
    {C, "", ""},
    {C, "null", ""},
    {C, "[]", ""},
    {C, "{", ""},
    {C, "{} {}", ""},
    {C, "{\"prompt\":\"a\",\"prompt\":\"b\"}", ""},
    {C, "{\"prompt\":\"\xc3\"}", ""},
    {C, "{\"prompt\":\"\\ud800\"}", ""},
    {C, "{\"prompt\":\"\\u0000\"}", ""},
    {C, "{\"prompt\":\"x\",\"temperature\":1e999}", ""},
    {C, "{\"prompt\":\"x\",\"temperature\":NaN}", ""},
    {C, "{}", "prompt"},
    {C, "{\"prompt\":null}", "prompt"},
    {C, "{\"prompt\":5}", "prompt"},
    {C, "{\"prompt\":{}}", "prompt"},
    {C, "{\"prompt\":[]}", "prompt"},
    {C, "{\"prompt\":[[]]}", "prompt"},
    {C, "{\"prompt\":[1,\"a\"]}", "prompt"},
    {C, "{\"prompt\":[\"a\",1]}", "prompt"},
    {C, "{\"prompt\":[-1]}", "prompt"},
    {C, "{\"prompt\":[1.5]}", "prompt"},
    {C, "{\"prompt\":[4294967296]}", "prompt"},
    {C, "{\"prompt\":[[1],[\"a\"]]}", "prompt"},
    {C, "{\"prompt\":[\"a\",\"b\",\"c\",\"d\",\"e\"]}", "prompt"},
    {C, ASK "\"n\":0}", "n"},
    {C, ASK "\"n\":9}", "n"},
    {C, ASK "\"n\":1.5}", "n"},
    {C, ASK "\"n\":\"2\"}", "n"},
    {C, "{\"prompt\":[\"a\",\"b\",\"c\"],\"n\":8}", "n"},
    {C, ASK "\"best_of\":2}", "best_of"},
    {C, ASK "\"echo\":true}", "echo"},
    {C, ASK "\"echo\":1}", "echo"},
    {C, ASK "\"suffix\":\"y\"}", "suffix"},
    {C, ASK "\"max_tokens\":0}", "max_tokens"},
    {C, ASK "\"max_tokens\":-1}", "max_tokens"},
    {C, ASK "\"max_tokens\":2147483648}", "max_tokens"},
    {C, ASK "\"max_tokens\":1e30}", "max_tokens"},
    {C, ASK "\"max_tokens\":99999999999999999999}", "max_tokens"},
    {C, ASK "\"max_completion_tokens\":0}", "max_completion_tokens"},
    {C, ASK "\"min_tokens\":-1}", "min_tokens"},
    {C, ASK "\"max_tokens\":3,\"min_tokens\":4}", "min_tokens"},
    {C, ASK "\"temperature\":-0.1}", "temperature"},
    {C, ASK "\"temperature\":2.1}", "temperature"},
    {C, ASK "\"temperature\":\"1\"}", "temperature"},
    {C, ASK "\"temperature\":[]}", "temperature"},
    {C, ASK "\"top_p\":-0.1}", "top_p"},
    {C, ASK "\"top_p\":1.1}", "top_p"},
    {C, ASK "\"min_p\":-0.1}", "min_p"},
    {C, ASK "\"min_p\":2}", "min_p"},
    {C, ASK "\"top_k\":-2}", "top_k"},
    {C, ASK "\"top_k\":1.5}", "top_k"},
    {C, ASK "\"seed\":\"a\"}", "seed"},
    {C, ASK "\"seed\":1e300}", "seed"},
    {C, ASK "\"presence_penalty\":2.5}", "presence_penalty"},
    {C, ASK "\"frequency_penalty\":-2.5}", "frequency_penalty"},
    {C, ASK "\"repetition_penalty\":0}", "repetition_penalty"},
    {C, ASK "\"repetition_penalty\":-1}", "repetition_penalty"},
    {C, ASK "\"stop\":5}", "stop"},
    {C, ASK "\"stop\":\"\"}", "stop"},
    {C, ASK "\"stop\":[\"a\",\"\"]}", "stop"},
    {C, ASK "\"stop\":[1]}", "stop"},
    {C,
     ASK
     "\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"0\",\"1\",\"2\",\"3\",\"4\",\"5\","
     "\"6\",\"7\"]}",
     "stop"},
    {C, ASK "\"stop_token_ids\":5}", "stop_token_ids"},
    {C, ASK "\"stop_token_ids\":[-5]}", "stop_token_ids"},
    {C, ASK "\"logprobs\":21}", "logprobs"},
    {C, ASK "\"logprobs\":-1}", "logprobs"},
    {C, ASK "\"logprobs\":true}", "logprobs"},
    {C, ASK "\"logit_bias\":[]}", "logit_bias"},
    {C, ASK "\"logit_bias\":{\"a\":1}}", "logit_bias"},
    {C, ASK "\"logit_bias\":{\"-1\":1}}", "logit_bias"},
    {C, ASK "\"logit_bias\":{\"01\":1}}", "logit_bias"},
    {C, ASK "\"logit_bias\":{\"99999999999\":1}}", "logit_bias"},
    {C, ASK "\"logit_bias\":{\"1\":101}}", "logit_bias"},
    {C, ASK "\"logit_bias\":{\"1\":\"1\"}}", "logit_bias"},
    {C, ASK "\"stream\":1}", "stream"},
    {C, ASK "\"stream_options\":{}}", "stream_options"},
    {C, ASK "\"stream\":true,\"stream_options\":1}", "stream_options"},
    {C, ASK "\"stream\":true,\"stream_options\":{\"include_usage\":1}}", "stream_options.include_usage"},
    {C, ASK "\"priority\":2147483648}", "priority"},
    {C, ASK "\"deadline_ms\":0}", "deadline_ms"},
    {C, ASK "\"deadline_ms\":-5}", "deadline_ms"},
    {C, ASK "\"user\":5}", "user"},
    {C, ASK "\"model\":5}", "model"},
    {C, ASK "\"ignore_eos\":\"yes\"}", "ignore_eos"},
    {C, ASK "\"add_special_tokens\":1}", "add_special_tokens"},
    {C, ASK "\"weir\":5}", "weir"},
    {C, ASK "\"weir\":{\"speed\":1}}", "weir.speed"},
    {C, ASK "\"weir\":{\"mode\":1}}", "weir.mode"},
    {C, ASK "\"weir\":{\"mode\":\"0123456789abcdef\"}}", "weir.mode"},
    {C, ASK "\"weir\":{\"entropy\":-1}}", "weir.entropy"},
    {C, ASK "\"weir\":{\"entropy\":\"x\"}}", "weir.entropy"},
    {C, ASK "\"weir\":{\"defer_rate\":1.5}}", "weir.defer_rate"},
    {C, ASK "\"weir\":{\"defer_rate\":\"x\"}}", "weir.defer_rate"},
    {C, ASK "\"weir\":{\"defer_burst\":-1}}", "weir.defer_burst"},
    {C, ASK "\"weir\":{\"load_price\":101}}", "weir.load_price"},
    {C, ASK "\"weir\":{\"pin\":1}}", "weir.pin"},
    {C, ASK "\"weir\":{\"receipts\":0}}", "weir.receipts"},
    {C, ASK "\"weir\":{\"window\":[8]}}", "weir.window"},
    {C, ASK "\"weir\":{\"spans\":{}}}", "weir.spans"},
    {C, ASK "\"weir\":{\"spans\":[1]}}", "weir.spans"},
    {C, ASK "\"weir\":{\"spans\":[{\"threshold\":1,\"start\":\"\"}]}}", "weir.spans"},
    {C, ASK "\"weir\":{\"spans\":[{\"threshold\":\"1\",\"start\":\"a\"}]}}", "weir.spans"},
    {C, ASK "\"weir\":{\"spans\":[{\"threshold\":1,\"start\":\"a\",\"end\":7}]}}", "weir.spans"},
    {C, ASK "\"guided_choice\":[]}", "guided_choice"},
    {C, ASK "\"guided_choice\":[\"a\",\"\"]}", "guided_choice"},
    {C, ASK "\"guided_choice\":\"a\"}", "guided_choice"},
    {C, ASK "\"tools\":[{}]}", "tools"},
    {C, ASK "\"functions\":[{}]}", "functions"},
    {C, ASK "\"guided_json\":{\"a\":1}}", "guided_json"},
    {C, ASK "\"use_beam_search\":true}", "use_beam_search"},
    {C, ASK "\"prompt_logprobs\":1}", "prompt_logprobs"},
    {C, ASK "\"response_format\":{\"type\":\"json_object\"}}", "response_format"},
    {H, "{}", "messages"},
    {H, "{\"messages\":[]}", "messages"},
    {H, "{\"messages\":\"x\"}", "messages"},
    {H, "{\"messages\":[5]}", "messages"},
    {H, "{\"messages\":[{\"content\":\"x\"}]}", "messages"},
    {H, "{\"messages\":[{\"role\":\"tool\",\"content\":\"x\"}]}", "messages"},
    {H, "{\"messages\":[{\"role\":\"user\"}]}", "messages"},
    {H, "{\"messages\":[{\"role\":\"user\",\"content\":[]}]}", "messages"},
    {H, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}", "messages"},
    {H, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}", "messages"},
    {H, "{\"messages\":[{\"role\":\"user\",\"content\":[\"x\"]}]}", "messages"},
    {H, "{\"messages\":[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[1]}]}", "messages"},
    {H, CHAT "\"top_logprobs\":2}", "top_logprobs"},
    {H, CHAT "\"logprobs\":true,\"top_logprobs\":21}", "top_logprobs"},
    {H, CHAT "\"logprobs\":2}", "logprobs"},
    {H, CHAT "\"tool_choice\":\"required\"}", "tool_choice"},
    {H, CHAT "\"tool_choice\":{\"type\":\"function\"}}", "tool_choice"},
    {H, CHAT "\"function_call\":{\"name\":\"f\"}}", "function_call"},
    {H, CHAT "\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{}}}", "response_format"},
    {H, CHAT "\"response_format\":\"text\"}", "response_format"},
    {H, CHAT "\"modalities\":[\"text\",\"audio\"]}", "modalities"},
    {H, CHAT "\"add_generation_prompt\":false}", "add_generation_prompt"},
    {H, CHAT "\"continue_final_message\":true}", "continue_final_message"},
};

static void refusals_name_the_field(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    weir_openai_request q;
    weir_openai_error e;
    const int got = weir_openai_parse(bad[i].kind, bad[i].body, strlen(bad[i].body), &limits, &q, &e);
    if (got == 0 || e.code != 400 || strcmp(e.param, bad[i].param) != 0)
      fail_msg("%s: %d, %d %s: %s", bad[i].body, got, e.code, e.param, e.message);
    assert_true(e.message[0]);
    weir_buf b = {0};
    assert_int_equal(weir_openai_error_body(&e, &b, NULL), WEIR_OK);
    json_t *j = json_loadb(b.data, b.len, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(j);
    json_decref(j);
    weir_buf_fini(&b);
  }
}

/* ---- what is let through ---- */

static const struct {
  weir_openai_kind kind;
  const char *body;
} good[] = {
    {C,
     ASK "\"n\":null,\"stop\":null,\"max_tokens\":null,\"stream\":null,\"weir\":null,\"logit_bias\":null}"},
    {C, ASK "\"n\":8.0,\"max_tokens\":16.0,\"seed\":-9223372036854775808,\"top_k\":-1}"},
    {C, ASK
     "\"best_of\":1,\"echo\":false,\"suffix\":\"\",\"tools\":[],\"response_format\":{\"type\":\"text\"}}"},
    {C, ASK "\"who\":\"knows\",\"metadata\":{\"a\":[1,2]},\"service_tier\":\"auto\"}"},
    {C, ASK "\"temperature\":0,\"top_p\":1,\"min_p\":0,\"presence_penalty\":-2,\"repetition_penalty\":1}"},
    {C, "{\"prompt\":\"\"}"},
    {H, CHAT "\"tools\":[],\"tool_choice\":\"none\",\"function_call\":\"auto\",\"modalities\":[\"text\"]}"},
    {H,
     "{\"messages\":[{\"role\":\"developer\",\"content\":\"\"},{\"role\":\"assistant\",\"content\":null,"
     "\"tool_calls\":[]},{\"role\":\"user\",\"content\":\"x\",\"name\":\"n\"}]}"},
};

static void what_is_harmless_passes(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    weir_openai_request q;
    weir_openai_error e;
    if (weir_openai_parse(good[i].kind, good[i].body, strlen(good[i].body), &limits, &q, &e) != 0)
      fail_msg("%s: %s", good[i].body, e.message);
    weir_openai_request_fini(&q);
  }
}

static void every_field_arrives(void **state) {
  (void)state;
  static const char body[] =
      "{\"model\":\"m\",\"prompt\":[\"a\",\"b\"],\"n\":2,\"max_tokens\":5,\"max_completion_tokens\":7,"
      "\"min_tokens\":2,\"stop\":[\"S\",\"T\"],\"stop_token_ids\":[3,4],\"ignore_eos\":true,"
      "\"temperature\":0.5,\"top_p\":0.25,\"top_k\":9,\"min_p\":0.125,\"seed\":11,\"presence_penalty\":1,"
      "\"frequency_penalty\":-1,\"repetition_penalty\":1.5,\"logit_bias\":{\"5\":-100,\"6\":2.5},"
      "\"logprobs\":3,\"stream\":true,\"stream_options\":{\"include_usage\":true},\"priority\":-3,"
      "\"deadline_ms\":900,\"user\":\"u\",\"add_special_tokens\":false,"
      "\"weir\":{\"mode\":\"exact\",\"entropy\":0.75,\"pin\":true,\"receipts\":true,"
      "\"defer_rate\":0.25,\"defer_burst\":3,\"load_price\":0.5,\"window\":8,\"accept\":\"v2\","
      "\"accept_alpha\":0.25,\"hold\":null,\"spans\":[{\"threshold\":1,\"start\":\"<\"},"
      "{\"threshold\":-0.5,\"start\":\"[\",\"end\":\"]\"}]},\"guided_choice\":[\"yes\",\"no\"]}";
  weir_openai_request q;
  weir_openai_error e;
  assert_int_equal(weir_openai_parse(C, body, sizeof body - 1, &limits, &q, &e), 0);
  assert_true(q.stream && q.include_usage && q.logprobs);
  assert_int_equal(q.n_prompts, 2);
  assert_int_equal(q.n, 2);
  const weir_client_request a = weir_openai_ask(&q, 1, 1);
  assert_string_equal(a.model, "m");
  assert_string_equal(a.prompt, "b");
  assert_null(a.prompt_ids);
  assert_int_equal(a.n_chat, 0);
  assert_int_equal(a.max_tokens, 7);
  assert_int_equal(a.min_tokens, 2);
  assert_int_equal(a.n_stop, 2);
  assert_string_equal(a.stop[1], "T");
  assert_int_equal(a.n_stop_ids, 2);
  assert_int_equal(a.stop_ids[1], 4);
  assert_true(a.ignore_eos && a.bare && a.has_temperature && a.has_top_p && a.has_seed && a.has_entropy);
  assert_true(a.temperature == 0.5f && a.top_p == 0.25f && a.min_p == 0.125f && a.top_k == 9);
  assert_int_equal(a.seed, 12);
  assert_true(a.presence_penalty == 1 && a.frequency_penalty == -1 && a.repetition_penalty == 1.5f);
  assert_int_equal(a.n_bias, 2);
  assert_true(a.bias[0].id == 5 && a.bias[0].add == -100 && a.bias[1].id == 6 && a.bias[1].add == 2.5f);
  assert_int_equal(a.top_logprobs, 3);
  assert_int_equal(a.priority, -3);
  assert_int_equal(a.deadline_ms, 900);
  assert_string_equal(a.user, "u");
  assert_string_equal(a.mode, "exact");
  assert_true(a.entropy == 0.75f && a.pin && a.receipts);
  assert_true(a.has_defer_rate && a.defer_rate == 0.25f && a.defer_burst == 3);
  assert_true(a.has_load_price && a.load_price == 0.5f);
  assert_int_equal(a.n_settings, 3);
  assert_string_equal(a.setting[0].name, "window");
  assert_string_equal(a.setting[0].value, "8");
  assert_string_equal(a.setting[1].value, "v2");
  assert_string_equal(a.setting[2].name, "accept_alpha");
  assert_string_equal(a.setting[2].value, "0.25");
  assert_int_equal(a.n_spans, 2);
  assert_true(a.span[0].threshold == 1 && a.span[1].threshold == -0.5f && !a.span[0].end);
  assert_string_equal(a.span[0].start, "<");
  assert_string_equal(a.span[1].end, "]");
  assert_int_equal(a.n_choices, 2);
  assert_string_equal(a.choice[1], "no");
  weir_openai_request_fini(&q);

  static const char chat[] =
      "{\"messages\":[{\"role\":\"developer\",\"content\":\"d\"},{\"role\":\"user\",\"content\":[{\"type\":"
      "\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]},{\"role\":\"assistant\",\"content\":"
      "null}]}";
  assert_int_equal(weir_openai_parse(H, chat, sizeof chat - 1, &limits, &q, &e), 0);
  const weir_client_request h = weir_openai_ask(&q, 0, 0);
  assert_null(h.prompt);
  assert_int_equal(h.n_chat, 3);
  assert_string_equal(h.chat[0].role, "system");
  assert_string_equal(h.chat[1].text, "a\nb");
  assert_string_equal(h.chat[2].text, "");
  assert_false(h.has_temperature || h.has_seed || h.has_top_p || h.has_entropy);
  weir_openai_request_fini(&q);

  static const char nucleus[] = ASK "\"temperature\":1,\"top_p\":0}";
  assert_int_equal(weir_openai_parse(C, nucleus, sizeof nucleus - 1, &limits, &q, &e), 0);
  assert_true(q.ask.has_temperature && q.ask.temperature == 0 && !q.ask.has_top_p); /* the likeliest alone */
  weir_openai_request_fini(&q);

  static const char ids[] = "{\"prompt\":[1,2.0,3]}";
  assert_int_equal(weir_openai_parse(C, ids, sizeof ids - 1, &limits, &q, &e), 0);
  const weir_client_request i = weir_openai_ask(&q, 0, 0);
  assert_null(i.prompt);
  assert_int_equal(i.n_prompt_ids, 3);
  assert_int_equal(i.prompt_ids[2], 3);
  weir_openai_request_fini(&q);
}

static void depth_is_bounded(void **state) {
  (void)state;
  enum { DEEP = 100000 };
  char *body = malloc(DEEP + 16);
  weir_openai_request q;
  weir_openai_error e;
  memcpy(body, "{\"prompt\":", 10);
  memset(body + 10, '[', DEEP);
  assert_int_equal(weir_openai_parse(C, body, DEEP + 10, &limits, &q, &e), -1);
  assert_int_equal(e.code, 400);
  assert_non_null(strstr(e.message, "deeper"));
  free(body);
}

/* 2 MB that would become 100. A string of brackets is one value. */
static void values_are_bounded(void **state) {
  (void)state;
  enum { N = 1 << 20 };
  char *body = malloc(2 * N + 64);
  weir_openai_request q;
  weir_openai_error e;
  size_t n = (size_t)sprintf(body, "{\"prompt\":[1");
  for (int i = 0; i < N / 2; i++) n += (size_t)sprintf(body + n, ",1");
  n += (size_t)sprintf(body + n, "]}");
  assert_int_equal(weir_openai_parse(C, body, n, &limits, &q, &e), -1);
  assert_non_null(strstr(e.message, "values"));
  /* members cost more than values */
  n = (size_t)sprintf(body, "{\"prompt\":\"x\"");
  for (int i = 0; i < 70000; i++) n += (size_t)sprintf(body + n, ",\"%x\":1", i);
  n += (size_t)sprintf(body + n, "}");
  assert_int_equal(weir_openai_parse(C, body, n, &limits, &q, &e), -1);
  assert_non_null(strstr(e.message, "members"));
  n = (size_t)sprintf(body, "{\"prompt\":\"");
  memset(body + n, '[', N);
  n += N;
  n += (size_t)sprintf(body + n, "\"}");
  assert_int_equal(weir_openai_parse(C, body, n, &limits, &q, &e), 0);
  weir_openai_request_fini(&q);
  free(body);
}

static void tokenize_requests(void **state) {
  (void)state;
  static const struct {
    const char *body, *param; /* NULL: good */
  } rows[] = {
      {"{\"prompt\":\"x\"}", NULL},
      {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", NULL},
      {"{\"prompt\":\"x\",\"add_special_tokens\":false}", NULL},
      {"{}", "prompt"},
      {"{\"prompt\":[1]}", "prompt"},
      {"{\"prompt\":\"x\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", "prompt"},
      {"{\"messages\":[]}", "messages"},
  };
  weir_openai_tokenize q;
  weir_openai_error e;
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    const int got = weir_openai_parse_tokenize(rows[i].body, strlen(rows[i].body), &q, &e);
    if (rows[i].param ? got == 0 || strcmp(e.param, rows[i].param) != 0 : got != 0)
      fail_msg("%s: %d %s", rows[i].body, got, e.message);
    if (got == 0) weir_openai_tokenize_fini(&q);
  }
  assert_int_equal(weir_openai_parse_detokenize("{\"tokens\":[1,2]}", 16, &q, &e), 0);
  assert_int_equal(q.n_ids, 2);
  weir_openai_tokenize_fini(&q);
  assert_int_equal(weir_openai_parse_detokenize("{\"tokens\":\"1\"}", 14, &q, &e), -1);
  assert_string_equal(e.param, "tokens");
}

/* ---- text ---- */

/* However bytes are cut into tokens, the text is what the bytes say at once. */
static void cuts_do_not_change_the_text(void **state) {
  (void)state;
  static const char *const texts[] = {"plain",           "h\xc3\xb6\xe2\x82\xac\xf0\x9f\x98\x80.",
                                      "\xff\xc3",        "\xe2\x82 \xe2",
                                      "\xf0\x9f\x98",    "\xed\xa0\x80\xc0\x80",
                                      "\xc3\xc3\xb6\x80"};
  const weir_openai_style style = {.kind = WEIR_OPENAI_COMPLETION};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    const size_t n = strlen(texts[i]);
    weir_buf want = {0}, got = {0};
    assert_int_equal(weir_json_put_text(&want, texts[i], n, NULL), WEIR_OK);
    for (unsigned cuts = 0; cuts < 1u << (n - 1); cuts++) {
      weir_openai_part p = {0};
      size_t from = 0;
      for (size_t k = 0; k < n; k++)
        if (k + 1 == n || cuts >> k & 1) {
          const weir_client_token t = {.text = texts[i] + from, .len = k + 1 - from};
          assert_int_equal(weir_openai_part_add(&p, &style, &t, NULL), WEIR_OK);
          from = k + 1;
        }
      assert_int_equal(weir_openai_part_end(&p, NULL), WEIR_OK);
      weir_buf_truncate(&got, 0);
      assert_int_equal(weir_json_put_text(&got, p.text.data, p.text.len, NULL), WEIR_OK);
      assert_string_equal(got.data, want.data);
      weir_openai_part_fini(&p);
    }
    weir_buf_fini(&want);
    weir_buf_fini(&got);
  }
}

static void json_of_text_and_numbers(void **state) {
  (void)state;
  weir_buf b = {0};
  assert_int_equal(weir_json_put_text(&b, "a\"\\\n\t\x01\x7f\xff\xc3\xa4", 10, NULL), WEIR_OK);
  assert_string_equal(b.data, "\"a\\\"\\\\\\n\\t\\u0001\\u007f\xef\xbf\xbd\xc3\xa4\"");
  weir_buf_truncate(&b, 0);
  static const double numbers[] = {0, 0.45f, -9999, NAN, INFINITY, 1e-30};
  for (size_t i = 0; i < 6; i++) {
    weir_json_put_number(&b, numbers[i], NULL);
    weir_buf_puts(&b, " ", NULL);
  }
  assert_string_equal(b.data, "0 0.45 -9999 null null 1e-30 ");
  weir_buf_fini(&b);
}

/* ---- which engine ---- */

static void picks(void **state) {
  (void)state;
  enum { N = 5, KEYS = 4000 };
  weir_gw_load load[N];
  int count[N] = {0}, moved = 0;
  for (int i = 0; i < N; i++) load[i] = (weir_gw_load){true, 0, 1000003u * (uint64_t)(i + 1)};
  static int32_t first[KEYS];
  for (int k = 0; k < KEYS; k++) {
    first[k] = weir_gw_pick(load, N, (uint64_t)k);
    count[first[k]]++;
    assert_int_equal(weir_gw_pick(load, N, (uint64_t)k), first[k]);
  }
  for (int i = 0; i < N; i++)
    if (count[i] < KEYS / N * 8 / 10 || count[i] > KEYS / N * 12 / 10) fail_msg("engine %d: %d", i, count[i]);
  load[2].usable = false; /* only its keys move */
  for (int k = 0; k < KEYS; k++) {
    const int32_t now = weir_gw_pick(load, N, (uint64_t)k);
    assert_int_not_equal(now, 2);
    if (now != first[k]) {
      assert_int_equal(first[k], 2);
      moved++;
    }
  }
  assert_int_equal(moved, count[2]);
  load[2].usable = true;
  load[first[0]].work = 4; /* a little more than the others: still the favourite */
  assert_int_equal(weir_gw_pick(load, N, 0), first[0]);
  load[first[0]].work = 5;
  const int32_t other = weir_gw_pick(load, N, 0);
  assert_int_not_equal(other, first[0]);
  for (int i = 0; i < N; i++) load[i].usable = false;
  assert_int_equal(weir_gw_pick(load, N, 0), -1);
}

/* FIPS 180-4's examples, and lengths about a block's. */
static void hashes(void **state) {
  (void)state;
  static const struct {
    const char *text, *hex;
  } rows[] = {{"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
              {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
              {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
               "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
              {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnop"
               "qrsmnopqrst"
               "nopqrstu",
               "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    uint8_t digest[32];
    char hex[65] = "";
    weir_sha256(rows[i].text, strlen(rows[i].text), digest);
    for (int k = 0; k < 32; k++) snprintf(hex + 2 * k, 3, "%02x", digest[k]);
    assert_string_equal(hex, rows[i].hex);
  }
  char policy[512];
  weir_page_policy("<script>abc</script>", 20, policy, sizeof policy);
  assert_non_null(strstr(policy, "script-src 'sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=';"));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(refusals_name_the_field),
      cmocka_unit_test(what_is_harmless_passes),
      cmocka_unit_test(every_field_arrives),
      cmocka_unit_test(depth_is_bounded),
      cmocka_unit_test(values_are_bounded),
      cmocka_unit_test(tokenize_requests),
      cmocka_unit_test(cuts_do_not_change_the_text),
      cmocka_unit_test(json_of_text_and_numbers),
      cmocka_unit_test(picks),
      cmocka_unit_test(hashes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
