/* SPDX-License-Identifier: Apache-2.0 */
/* Choices, chunks and usage as JSON. Pure; any thread. */
#include "net/openai_answer.h"

#include <math.h>
#include <string.h>

#include "net/openai_write.h"

weir_openai_finish weir_openai_finish_of(const weir_client_end *end, const weir_openai_request *q,
                                         uint32_t last_id) {
  weir_openai_finish f = {.reason = !strcmp(end->reason, "length") ? "length" : "stop"};
  /* the engine counts the ids of stop_token_ids among those that end a text: "eos" */
  if (strcmp(end->reason, "stop") != 0 && strcmp(end->reason, "eos") != 0) return f;
  if (end->stop && end->stop[0]) {
    f.stop = end->stop;
    return f;
  }
  for (size_t i = 0; i < q->ask.n_stop_ids; i++)
    if (q->ask.stop_ids[i] == last_id) {
      f.has_id = true;
      f.id = last_id;
    }
  return f;
}

/* ---- pieces ---- */

static weir_status put_finish(weir_buf *b, const weir_openai_finish *f, weir_err *e) {
  if (!f) return weir_buf_puts(b, ",\"finish_reason\":null", e);
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_buf_printf(b, e, ",\"finish_reason\":\"%s\",\"stop_reason\":", f->reason));
  if (f->stop)
    WEIR_TRY(weir_json_put_text(b, f->stop, strlen(f->stop), e));
  else if (f->has_id)
    WEIR_TRY(weir_buf_printf(b, e, "%u", f->id));
  else
    WEIR_TRY(weir_buf_puts(b, "null", e));
out:
  return st;
}

static weir_status put_array(weir_buf *b, const char *before, const weir_buf *items, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_buf_printf(b, e, "%s[", before));
  if (items->len) WEIR_TRY(weir_buf_put(b, items->data, items->len, e));
  WEIR_TRY(weir_buf_puts(b, "]", e));
out:
  return st;
}

static weir_status put_logprobs(weir_buf *b, const weir_openai_style *s, const weir_openai_part *p,
                                weir_err *e) {
  weir_status st = WEIR_OK;
  if (!s->logprobs || (s->stream && p->token.len == 0)) return weir_buf_puts(b, ",\"logprobs\":null", e);
  if (s->kind == WEIR_OPENAI_CHAT) {
    WEIR_TRY(put_array(b, ",\"logprobs\":{\"content\":", &p->token, e));
    WEIR_TRY(weir_buf_puts(b, ",\"refusal\":null}", e));
  } else {
    WEIR_TRY(put_array(b, ",\"logprobs\":{\"tokens\":", &p->token, e));
    WEIR_TRY(put_array(b, ",\"token_logprobs\":", &p->logprob, e));
    WEIR_TRY(put_array(b, ",\"top_logprobs\":", &p->top, e));
    WEIR_TRY(put_array(b, ",\"text_offset\":", &p->offset, e));
    WEIR_TRY(weir_buf_puts(b, "}", e));
  }
out:
  return st;
}

static weir_status put_receipts(weir_buf *b, const weir_openai_style *s, const weir_openai_part *p,
                                weir_err *e) {
  weir_status st = WEIR_OK;
  if (!s->receipts || (s->stream && p->receipt.len == 0)) return WEIR_OK;
  WEIR_TRY(put_array(b, ",\"weir\":{\"tokens\":", &p->receipt, e));
  WEIR_TRY(weir_buf_puts(b, "}", e));
out:
  return st;
}

static weir_status put_head(weir_buf *b, const weir_openai_style *s, weir_err *e) {
  static const char *const object[2][2] = {{"text_completion", "text_completion"},
                                           {"chat.completion", "chat.completion.chunk"}};
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_buf_printf(b, e, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", s->id,
                           object[s->kind == WEIR_OPENAI_CHAT][s->stream], (long long)s->created));
  WEIR_TRY(weir_json_put_text(b, s->model, strlen(s->model), e));
  WEIR_TRY(weir_buf_puts(b, ",\"choices\":[", e));
out:
  return st;
}

/* ---- usage ---- */

/* Of each tier, by name, one of the two: counts or sums. */
static weir_status put_tiers(weir_buf *b, const char *name, const weir_openai_style *s, const uint64_t *count,
                             const double *sum, uint32_t n, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_buf_printf(b, e, "\"%s\":{", name));
  for (uint32_t i = 0; i < n; i++) {
    if (i) WEIR_TRY(weir_buf_puts(b, ",", e));
    if (s->tier[i])
      WEIR_TRY(weir_json_put_text(b, s->tier[i], strlen(s->tier[i]), e));
    else
      WEIR_TRY(weir_buf_printf(b, e, "\"%u\"", i));
    WEIR_TRY(weir_buf_puts(b, ":", e));
    WEIR_TRY(count ? weir_buf_printf(b, e, "%llu", (unsigned long long)count[i])
                   : weir_json_put_number(b, sum[i], e));
  }
  WEIR_TRY(weir_buf_puts(b, "},", e));
out:
  return st;
}

/* What the answers have cost, and what they would have cost the large tier alone. */
static weir_status put_cost(weir_buf *b, const weir_openai_style *s, const weir_openai_usage *u,
                            weir_err *e) {
  weir_status st = WEIR_OK;
  double all = 0;
  for (uint32_t i = 0; i < u->n_tiers; i++) all += u->flops[i];
  if (!(all > 0)) return WEIR_OK; /* the engine tells none */
  WEIR_TRY(weir_buf_puts(b, ",\"cost\":{", e));
  WEIR_TRY(put_tiers(b, "flops", s, NULL, u->flops, u->n_tiers, e));
  WEIR_TRY(put_tiers(b, "weight_bytes", s, NULL, u->weight_bytes, u->n_tiers, e));
  WEIR_TRY(put_tiers(b, "kv_bytes_peak", s, NULL, u->kv_bytes_peak, u->n_tiers, e));
  WEIR_TRY(weir_buf_puts(b, "\"large_only\":{\"flops\":", e));
  WEIR_TRY(weir_json_put_number(b, u->large_only_flops, e));
  WEIR_TRY(weir_buf_puts(b, ",\"weight_bytes\":", e));
  WEIR_TRY(weir_json_put_number(b, u->large_only_weight_bytes, e));
  WEIR_TRY(weir_buf_puts(b, "}}", e));
out:
  return st;
}

static weir_status put_usage(weir_buf *b, const weir_openai_style *s, const weir_openai_usage *u,
                             weir_err *e) {
  weir_status st = WEIR_OK;
  const uint32_t top = u->n_tiers ? u->n_tiers - 1 : 0;
  const uint64_t large = u->n_tiers > 1 ? u->steps[top] : u->completion;
  const double rate = u->n_tiers > 1 && u->completion ? (double)u->by_tier[top] / (double)u->completion : 0;
  WEIR_TRY(weir_buf_printf(b, e,
                           "{\"prompt_tokens\":%llu,\"completion_tokens\":%llu,\"total_tokens\":%llu,"
                           "\"prompt_tokens_details\":{\"cached_tokens\":%llu},\"weir\":{",
                           (unsigned long long)u->prompt, (unsigned long long)u->completion,
                           (unsigned long long)(u->prompt + u->completion), (unsigned long long)u->cached));
  WEIR_TRY(put_tiers(b, "tokens_by_tier", s, u->by_tier, NULL, u->n_tiers, e));
  WEIR_TRY(put_tiers(b, "steps_by_tier", s, u->steps, NULL, u->n_tiers, e));
  WEIR_TRY(weir_buf_printf(b, e,
                           "\"large_steps_saved\":%llu,\"deferral_rate\":%.6g,\"refused\":%llu,"
                           "\"wanted_up\":%llu,\"mode\":",
                           (unsigned long long)(u->completion > large ? u->completion - large : 0), rate,
                           (unsigned long long)u->refused, (unsigned long long)u->wanted_up));
  WEIR_TRY(weir_json_put_text(b, u->mode, strlen(u->mode), e));
  WEIR_TRY(weir_buf_puts(b, ",\"entropy\":", e));
  WEIR_TRY(weir_json_put_number(b, u->any ? u->entropy : NAN, e));
  if (u->budgeted > 0) {
    WEIR_TRY(weir_buf_puts(b, ",\"defer_rate\":", e));
    WEIR_TRY(weir_json_put_number(b, u->has_rate ? (double)u->defer_rate : NAN, e));
    WEIR_TRY(
        weir_buf_printf(b, e, ",\"realised_rate\":%.6g,\"tau\":", (double)u->deferred / (double)u->budgeted));
    WEIR_TRY(weir_json_put_number(b, (double)u->tau, e));
  }
  if (u->forced > 0) WEIR_TRY(weir_buf_printf(b, e, ",\"forced\":%llu", (unsigned long long)u->forced));
  if (u->given_up > 0) WEIR_TRY(weir_buf_printf(b, e, ",\"given_up\":%llu", (unsigned long long)u->given_up));
  if (u->routed[0]) {
    WEIR_TRY(weir_buf_puts(b, ",\"routed\":", e));
    WEIR_TRY(weir_json_put_text(b, u->routed, strlen(u->routed), e));
    WEIR_TRY(weir_buf_puts(b, ",\"route_score\":", e));
    WEIR_TRY(weir_json_put_number(b, (double)u->route_score, e));
  }
  WEIR_TRY(put_cost(b, s, u, e));
  WEIR_TRY(weir_buf_printf(b, e, ",\"seed\":%lld,\"queue_ms\":%.3f,\"ttft_ms\":%.3f,\"total_ms\":%.3f}}",
                           (long long)u->seed, (double)u->queued_us / 1e3, (double)u->first_token_us / 1e3,
                           (double)u->total_us / 1e3));
out:
  return st;
}

/* ---- chunks ---- */

static weir_status put_chunk_choice(weir_buf *b, const weir_openai_style *s, uint32_t index,
                                    const weir_openai_part *p, bool first, const weir_openai_finish *f,
                                    weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_buf_printf(b, e, "{\"index\":%u,", index));
  if (s->kind == WEIR_OPENAI_COMPLETION) {
    WEIR_TRY(weir_buf_puts(b, "\"text\":", e));
    WEIR_TRY(weir_json_put_text(b, p->text.data, p->text.len, e));
  } else if (first) {
    WEIR_TRY(weir_buf_puts(b, "\"delta\":{\"role\":\"assistant\",\"content\":\"\"}", e));
  } else if (f && p->text.len == 0) {
    WEIR_TRY(weir_buf_puts(b, "\"delta\":{}", e));
  } else {
    WEIR_TRY(weir_buf_puts(b, "\"delta\":{\"content\":", e));
    WEIR_TRY(weir_json_put_text(b, p->text.data, p->text.len, e));
    WEIR_TRY(weir_buf_puts(b, "}", e));
  }
  WEIR_TRY(put_logprobs(b, s, p, e));
  WEIR_TRY(put_finish(b, f, e));
  WEIR_TRY(put_receipts(b, s, p, e));
  WEIR_TRY(weir_buf_puts(b, "}", e));
out:
  return st;
}

weir_status weir_openai_put_chunk(weir_buf *b, const weir_openai_style *s, uint32_t index,
                                  const weir_openai_part *p, bool first, const weir_openai_finish *f,
                                  weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_buf_puts(b, "data: ", e));
  WEIR_TRY(put_head(b, s, e));
  WEIR_TRY(put_chunk_choice(b, s, index, p, first, f, e));
  WEIR_TRY(weir_buf_puts(b, s->include_usage ? "],\"usage\":null}\n\n" : "]}\n\n", e));
out:
  return st;
}

weir_status weir_openai_put_usage_chunk(weir_buf *b, const weir_openai_style *s, const weir_openai_usage *u,
                                        weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_buf_puts(b, "data: ", e));
  WEIR_TRY(put_head(b, s, e));
  WEIR_TRY(weir_openai_put_end(b, s, u, e));
  WEIR_TRY(weir_buf_puts(b, "\n\n", e));
out:
  return st;
}

/* ---- whole answers ---- */

weir_status weir_openai_put_begin(weir_buf *b, const weir_openai_style *s, weir_err *e) {
  return put_head(b, s, e);
}

weir_status weir_openai_put_choice(weir_buf *b, const weir_openai_style *s, uint32_t index,
                                   const weir_openai_part *p, const weir_openai_finish *f, weir_err *e) {
  weir_status st = WEIR_OK;
  const bool chat = s->kind == WEIR_OPENAI_CHAT;
  WEIR_TRY(weir_buf_printf(b, e, "%s{\"index\":%u,%s", index ? "," : "", index,
                           chat ? "\"message\":{\"role\":\"assistant\",\"content\":" : "\"text\":"));
  WEIR_TRY(weir_json_put_text(b, p->text.data, p->text.len, e));
  if (chat) WEIR_TRY(weir_buf_puts(b, ",\"refusal\":null}", e));
  WEIR_TRY(put_logprobs(b, s, p, e));
  WEIR_TRY(put_finish(b, f, e));
  WEIR_TRY(put_receipts(b, s, p, e));
  WEIR_TRY(weir_buf_puts(b, "}", e));
out:
  return st;
}

weir_status weir_openai_put_end(weir_buf *b, const weir_openai_style *s, const weir_openai_usage *u,
                                weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_buf_puts(b, "],\"usage\":", e));
  WEIR_TRY(put_usage(b, s, u, e));
  WEIR_TRY(weir_buf_puts(b, "}", e));
out:
  return st;
}
