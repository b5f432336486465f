/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: a byte of options, a request of JSON up to a 0 byte, and behind it texts of tokens, cut at
 * each 0xfe. A request is refused with a reason, or what it asks of an engine is within its bounds; then an
 * answer is written as it asks, whole and in chunks, which must be JSON, and the same text. */
#include <jansson.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/openai.h"
#include "net/openai_answer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_TOKENS = 200 };
static const weir_openai_limits limits = {.max_n = 4, .max_prompts = 8, .max_answers = 16};

static void require(bool ok, const char *what) {
  if (ok) return;
  fprintf(stderr, "fuzz_openai: %s\n", what);
  abort();
}

static json_t *load(const char *p, size_t n) {
  json_t *j = json_loadb(p, n, 0, NULL);
  require(j != NULL, "what was written is not JSON");
  return j;
}

static void check_error(const weir_openai_error *e) {
  weir_buf b = {0};
  require((e->code == 400 || e->code == 503) && e->message[0], "a refusal without a reason");
  require(weir_openai_error_body(e, &b, NULL) == WEIR_OK, "memory");
  json_decref(load(b.data, b.len));
  weir_buf_fini(&b);
}

static void check_ask(const weir_openai_request *q, const weir_client_request *a) {
  require((a->prompt != NULL) + (a->prompt_ids != NULL) + (a->n_chat > 0) == 1, "not one prompt");
  require(a->temperature >= 0 && a->temperature <= 2 && a->min_p >= 0 && a->min_p <= 1,
          "a draw out of range");
  require(!a->has_top_p || (a->top_p >= 0 && a->top_p <= 1), "top_p out of range");
  require(fabsf(a->presence_penalty) <= 2 && fabsf(a->frequency_penalty) <= 2, "penalties out of range");
  require(a->repetition_penalty >= 0 && a->repetition_penalty <= 100, "a penalty out of range");
  require(a->n_stop <= WEIR_OPENAI_MAX_STOPS && a->n_stop_ids <= WEIR_OPENAI_MAX_STOP_IDS, "too many stops");
  for (size_t i = 0; i < a->n_stop; i++) require(a->stop[i] && a->stop[i][0], "an empty stop");
  for (size_t i = 0; i < a->n_bias; i++) require(fabsf(a->bias[i].add) <= 100, "a bias out of range");
  for (size_t i = 0; i < a->n_chat; i++) require(a->chat[i].role && a->chat[i].text, "half a message");
  require(a->top_logprobs <= WEIR_OPENAI_MAX_TOP && a->n_bias <= WEIR_OPENAI_MAX_BIAS, "too many");
  require(a->max_tokens == 0 || a->min_tokens <= a->max_tokens, "more at least than at most");
  for (size_t i = 0; i < a->n_settings; i++)
    require(a->setting[i].name && a->setting[i].name[0] && a->setting[i].value, "half a setting");
  require(a->n_spans <= 16 && a->n_choices <= 256, "too many spans or choices");
  for (size_t i = 0; i < a->n_spans; i++)
    require(a->span[i].start && a->span[i].start[0] && isfinite(a->span[i].threshold), "half a span");
  for (size_t i = 0; i < a->n_choices; i++) require(a->choice[i] && a->choice[i][0], "an empty choice");
  require(q->n >= 1 && q->n <= limits.max_n && q->n_prompts <= (size_t)limits.max_prompts,
          "too many answers");
}

static const char *text_of(json_t *root, const char *outer) {
  json_t *c = json_array_get(json_object_get(root, "choices"), 0);
  json_t *in = outer ? json_object_get(c, outer) : c;
  json_t *t = json_object_get(in, outer ? "content" : "text");
  return t ? json_string_value(t) : "";
}

static void write_answer(const weir_openai_request *q, const char *p, size_t n) {
  const bool chat = q->kind == WEIR_OPENAI_CHAT;
  weir_openai_style s = {.kind = q->kind,
                         .logprobs = q->logprobs,
                         .receipts = q->ask.receipts,
                         .top_logprobs = q->ask.top_logprobs,
                         .id = "x-1",
                         .model = q->ask.model ? q->ask.model : "m",
                         .tier = {"small", "large"}};
  weir_openai_style in_chunks = s;
  in_chunks.stream = true;
  weir_openai_part whole = {0}, part = {0};
  weir_buf b = {0}, told = {0};
  const char *end = p + n;
  for (uint32_t i = 0; p < end && i < MAX_TOKENS; i++) {
    const char *stop = memchr(p, 0xfe, (size_t)(end - p));
    const size_t len = stop ? (size_t)(stop - p) : (size_t)(end - p);
    const weir_client_top top = {i, -1.5f, p, len};
    const weir_client_token t = {.index = i,
                                 .id = i,
                                 .tier = i % 3,
                                 .text = p,
                                 .len = len,
                                 .logprob = i % 5 ? -0.5f : -INFINITY,
                                 .entropy = NAN,
                                 .p_max = 1,
                                 .margin = 0,
                                 .why = "easy",
                                 .has_tau = i % 2,
                                 .tau = i % 4 == 1 ? INFINITY : 0.5f,
                                 .top = &top,
                                 .n_top = 1};
    require(weir_openai_part_add(&whole, &s, &t, NULL) == WEIR_OK, "memory");
    require(weir_openai_part_add(&part, &in_chunks, &t, NULL) == WEIR_OK, "memory");
    p += len + (stop != NULL);
    if (!weir_openai_part_ready(&part)) continue;
    weir_buf_truncate(&b, 0);
    require(weir_openai_put_chunk(&b, &in_chunks, 0, &part, false, NULL, NULL) == WEIR_OK, "memory");
    require(b.len > 8 && !memcmp(b.data, "data: ", 6) && !memcmp(b.data + b.len - 2, "\n\n", 2), "no event");
    require(memchr(b.data, '\n', b.len) == b.data + b.len - 2, "a line break within an event");
    json_t *j = load(b.data + 6, b.len - 8);
    require(weir_buf_puts(&told, text_of(j, chat ? "delta" : NULL), NULL) == WEIR_OK, "memory");
    json_decref(j);
    weir_openai_part_clear(&part);
  }
  require(weir_openai_part_end(&whole, NULL) == WEIR_OK && weir_openai_part_end(&part, NULL) == WEIR_OK,
          "memory");
  if (part.text.len) require(weir_buf_put(&told, part.text.data, part.text.len, NULL) == WEIR_OK, "memory");
  const weir_client_end over = {.reason = "stop",
                                .stop = q->ask.n_stop ? q->ask.stop[0] : "",
                                .usage = {.n_tiers = 1 + q->n % 2,
                                          .budgeted = (uint32_t)n % 3,
                                          .tau = INFINITY,
                                          .routed = "wanted",
                                          .route_score = NAN,
                                          .flops = {1e12, NAN},
                                          .weight_bytes = {INFINITY, 5},
                                          .large_only_flops = 1e300}};
  const weir_openai_finish f = weir_openai_finish_of(&over, q, whole.last_id);
  weir_openai_usage u = {0};
  weir_openai_usage_add(&u, &over.usage, true);
  weir_buf_truncate(&b, 0);
  require(weir_openai_put_begin(&b, &s, NULL) == WEIR_OK &&
              weir_openai_put_choice(&b, &s, 0, &whole, &f, NULL) == WEIR_OK &&
              weir_openai_put_end(&b, &s, &u, NULL) == WEIR_OK,
          "memory");
  json_t *j = json_loadb(b.data, b.len, JSON_ALLOW_NUL, NULL);
  require(j != NULL, "a whole answer that is not JSON");
  const char *text = text_of(j, chat ? "message" : NULL);
  require(!strcmp(text, told.data ? told.data : ""), "the chunks say something else");
  json_decref(j);
  weir_openai_part_fini(&whole);
  weir_openai_part_fini(&part);
  weir_buf_fini(&b);
  weir_buf_fini(&told);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 1) return 0;
  const char *body = (const char *)data + 1, *nul = memchr(body, 0, size - 1);
  const size_t len = nul ? (size_t)(nul - body) : size - 1;
  const char *tokens = nul ? nul + 1 : body + len;
  const size_t n_tokens = (size_t)((const char *)data + size - tokens);
  weir_openai_error e;
  weir_openai_tokenize t;
  weir_openai_request q;
  if (memchr(tokens, 0, n_tokens)) return 0; /* JSON's \u0000 would end the comparison of texts early */
  switch (data[0] % 4) {
    case 2:
      if (weir_openai_parse_tokenize(body, len, &t, &e) != 0)
        check_error(&e);
      else
        weir_openai_tokenize_fini(&t);
      return 0;
    case 3:
      if (weir_openai_parse_detokenize(body, len, &t, &e) != 0)
        check_error(&e);
      else
        weir_openai_tokenize_fini(&t);
      return 0;
    default: break;
  }
  if (weir_openai_parse(data[0] % 4 ? WEIR_OPENAI_CHAT : WEIR_OPENAI_COMPLETION, body, len, &limits, &q,
                        &e) != 0) {
    check_error(&e);
    return 0;
  }
  for (size_t p = 0; p < q.n_prompts; p++)
    for (int32_t i = 0; i < q.n; i++) {
      const weir_client_request a = weir_openai_ask(&q, p, i);
      check_ask(&q, &a);
    }
  write_answer(&q, tokens, n_tokens);
  weir_openai_request_fini(&q);
  return 0;
}
