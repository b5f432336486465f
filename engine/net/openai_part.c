/* SPDX-License-Identifier: Apache-2.0 */
/* What an answer has written: its text in whole characters, log-probabilities and receipts as elements of the
 * arrays they will stand in; and what was used for it. Pure; any thread. */
#include <math.h>
#include <string.h>

#include "model/utf8.h"
#include "net/openai_answer.h"
#include "net/openai_write.h"

static weir_status comma(weir_buf *b, weir_err *e) { return b->len ? weir_buf_puts(b, ",", e) : WEIR_OK; }

/* ---- text ---- */

static weir_status put_char(weir_openai_part *p, const char *c, int32_t n, bool good, weir_err *e) {
  return good ? weir_buf_put(&p->text, c, (size_t)n, e) : weir_buf_puts(&p->text, "\xef\xbf\xbd", e);
}

/* Characters may be cut between tokens. */
static weir_status add_text(weir_openai_part *p, const char *text, size_t len, weir_err *e) {
  weir_status st = WEIR_OK;
  size_t i = 0;
  while (p->n_tail > 0 && i < len) { /* byte by byte until the character is whole, or cannot be */
    int32_t n;
    p->tail[p->n_tail] = text[i];
    const weir_utf8_kind kind = weir_utf8_next(p->tail, (size_t)p->n_tail + 1, &n);
    if (kind == WEIR_UTF8_INCOMPLETE && p->n_tail < 3) {
      p->n_tail++;
      i++;
      continue;
    }
    const bool took = kind == WEIR_UTF8_CHAR;
    WEIR_TRY(put_char(p, p->tail, n, took, e));
    p->n_tail = 0;
    i += took;
  }
  while (i < len) {
    int32_t n;
    const weir_utf8_kind kind = weir_utf8_next(text + i, len - i, &n);
    if (kind == WEIR_UTF8_INCOMPLETE && len - i <= 3) {
      p->n_tail = (int32_t)(len - i);
      memcpy(p->tail, text + i, len - i);
      break;
    }
    WEIR_TRY(put_char(p, text + i, n, kind == WEIR_UTF8_CHAR, e));
    i += (size_t)n;
  }
out:
  return st;
}

static uint32_t count_chars(const char *text, size_t len) {
  uint32_t n = 0;
  for (size_t i = 0; i < len; i++) n += ((unsigned char)text[i] & 0xc0) != 0x80;
  return n;
}

weir_status weir_openai_part_end(weir_openai_part *p, weir_err *e) {
  const weir_status st = p->n_tail ? put_char(p, NULL, 0, false, e) : WEIR_OK;
  p->n_tail = 0;
  return st;
}

/* ---- log-probabilities ---- */

static weir_status put_logprob(weir_buf *b, float x, weir_err *e) {
  return weir_json_put_number(b, x < -9999.0f ? -9999.0 : x, e); /* JSON has no infinity; vLLM's bound */
}

static weir_status put_token(weir_buf *b, const char *text, size_t len, float logprob, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_buf_puts(b, "{\"token\":", e));
  WEIR_TRY(weir_json_put_text(b, text, len, e));
  WEIR_TRY(weir_buf_puts(b, ",\"logprob\":", e));
  WEIR_TRY(put_logprob(b, logprob, e));
  WEIR_TRY(weir_buf_puts(b, ",\"bytes\":[", e));
  for (size_t i = 0; i < len; i++)
    WEIR_TRY(weir_buf_printf(b, e, i ? ",%u" : "%u", (unsigned)(unsigned char)text[i]));
  WEIR_TRY(weir_buf_puts(b, "]", e));
out:
  return st;
}

static weir_status add_chat_logprobs(weir_openai_part *p, const weir_client_token *t, size_t n_top,
                                     weir_err *e) {
  weir_status st = WEIR_OK;
  weir_buf *b = &p->token;
  WEIR_TRY(comma(b, e));
  WEIR_TRY(put_token(b, t->text, t->len, t->logprob, e));
  WEIR_TRY(weir_buf_puts(b, ",\"top_logprobs\":[", e));
  for (size_t i = 0; i < n_top; i++) {
    if (i) WEIR_TRY(weir_buf_puts(b, ",", e));
    WEIR_TRY(put_token(b, t->top[i].text, t->top[i].len, t->top[i].logprob, e));
    WEIR_TRY(weir_buf_puts(b, "}", e));
  }
  WEIR_TRY(weir_buf_puts(b, "]}", e));
out:
  return st;
}

static weir_status put_pair(weir_buf *b, bool first, const char *text, size_t len, float logprob,
                            weir_err *e) {
  weir_status st = WEIR_OK;
  if (!first) WEIR_TRY(weir_buf_puts(b, ",", e));
  WEIR_TRY(weir_json_put_text(b, text, len, e));
  WEIR_TRY(weir_buf_puts(b, ":", e));
  WEIR_TRY(put_logprob(b, logprob, e));
out:
  return st;
}

static weir_status add_completion_logprobs(weir_openai_part *p, const weir_client_token *t, size_t n_top,
                                           uint32_t offset, weir_err *e) {
  weir_status st = WEIR_OK;
  bool own = false; /* among the likeliest */
  WEIR_TRY(comma(&p->token, e));
  WEIR_TRY(weir_json_put_text(&p->token, t->text, t->len, e));
  WEIR_TRY(comma(&p->logprob, e));
  WEIR_TRY(put_logprob(&p->logprob, t->logprob, e));
  WEIR_TRY(comma(&p->offset, e));
  WEIR_TRY(weir_buf_printf(&p->offset, e, "%u", offset));
  WEIR_TRY(comma(&p->top, e));
  if (n_top == 0) {
    st = weir_buf_puts(&p->top, "null", e);
    goto out;
  }
  WEIR_TRY(weir_buf_puts(&p->top, "{", e));
  for (size_t i = 0; i < n_top; i++) {
    WEIR_TRY(put_pair(&p->top, i == 0, t->top[i].text, t->top[i].len, t->top[i].logprob, e));
    own = own || t->top[i].id == t->id;
  }
  if (!own) WEIR_TRY(put_pair(&p->top, false, t->text, t->len, t->logprob, e));
  WEIR_TRY(weir_buf_puts(&p->top, "}", e));
out:
  return st;
}

/* ---- receipts ---- */

static weir_status add_receipt(weir_openai_part *p, const weir_openai_style *s, const weir_client_token *t,
                               weir_err *e) {
  weir_status st = WEIR_OK;
  weir_buf *b = &p->receipt;
  const char *tier = t->tier < WEIR_CLIENT_MAX_TIERS ? s->tier[t->tier] : NULL;
  WEIR_TRY(comma(b, e));
  WEIR_TRY(weir_buf_printf(b, e, "{\"id\":%u,\"text\":", t->id));
  WEIR_TRY(weir_json_put_text(b, t->text, t->len, e));
  WEIR_TRY(weir_buf_puts(b, ",\"tier\":", e));
  if (tier)
    WEIR_TRY(weir_json_put_text(b, tier, strlen(tier), e));
  else
    WEIR_TRY(weir_buf_printf(b, e, "\"%u\"", t->tier));
  WEIR_TRY(weir_buf_puts(b, ",\"why\":", e));
  WEIR_TRY(weir_json_put_text(b, t->why ? t->why : "", t->why ? strlen(t->why) : 0, e));
  const struct {
    const char *name;
    double x;
  } numbers[] = {
      {"H", t->entropy}, {"p_max", t->p_max}, {"margin", t->margin}, {"wait_ms", t->wait_us / 1000.0}};
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    WEIR_TRY(weir_buf_printf(b, e, ",\"%s\":", numbers[i].name));
    WEIR_TRY(weir_json_put_number(b, numbers[i].x, e));
  }
  if (t->has_tau) {
    WEIR_TRY(weir_buf_puts(b, ",\"tau\":", e));
    WEIR_TRY(weir_json_put_number(b, (double)t->tau, e));
  }
  WEIR_TRY(weir_buf_puts(b, ",\"logprob\":", e));
  WEIR_TRY(put_logprob(b, t->logprob, e));
  WEIR_TRY(weir_buf_puts(b, t->wanted_up ? ",\"wanted_up\":true}" : "}", e));
out:
  return st;
}

/* ---- parts ---- */

weir_status weir_openai_part_add(weir_openai_part *p, const weir_openai_style *s, const weir_client_token *t,
                                 weir_err *e) {
  weir_status st = WEIR_OK;
  const size_t n_top = t->n_top < s->top_logprobs ? t->n_top : s->top_logprobs;
  const uint32_t offset = p->chars + count_chars(p->text.data, p->text.len);
  p->last_id = t->id;
  p->n_tokens++;
  WEIR_TRY(add_text(p, t->text, t->len, e));
  if (s->logprobs)
    WEIR_TRY(s->kind == WEIR_OPENAI_CHAT ? add_chat_logprobs(p, t, n_top, e)
                                         : add_completion_logprobs(p, t, n_top, offset, e));
  if (s->receipts) WEIR_TRY(add_receipt(p, s, t, e));
out:
  return st;
}

bool weir_openai_part_ready(const weir_openai_part *p) {
  return p->text.len > 0 || p->token.len > 0 || p->receipt.len > 0;
}

void weir_openai_part_clear(weir_openai_part *p) {
  weir_buf *const all[] = {&p->text, &p->token, &p->logprob, &p->top, &p->offset, &p->receipt};
  p->chars += count_chars(p->text.data, p->text.len);
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) weir_buf_truncate(all[i], 0);
}

void weir_openai_part_fini(weir_openai_part *p) {
  weir_buf *const all[] = {&p->text, &p->token, &p->logprob, &p->top, &p->offset, &p->receipt};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) weir_buf_fini(all[i]);
}

/* ---- usage ---- */

static uint64_t most(uint64_t a, uint64_t b) { return a > b ? a : b; }

void weir_openai_usage_add(weir_openai_usage *u, const weir_client_usage *c, bool count_prompt) {
  if (count_prompt) {
    u->prompt += c->prompt_tokens;
    u->cached += c->cached_tokens;
  }
  u->completion += c->completion_tokens;
  u->refused += c->refused;
  u->wanted_up += c->wanted_up;
  const uint32_t n = c->n_tiers < WEIR_CLIENT_MAX_TIERS ? c->n_tiers : WEIR_CLIENT_MAX_TIERS;
  if (n > u->n_tiers) u->n_tiers = n;
  for (uint32_t i = 0; i < n; i++) {
    u->by_tier[i] += c->tokens_by_tier[i];
    u->steps[i] += c->steps_by_tier[i];
    u->flops[i] += c->flops[i];
    u->weight_bytes[i] += c->weight_bytes[i];
    u->kv_bytes_peak[i] += c->kv_bytes_peak[i];
  }
  u->large_only_flops += c->large_only_flops;
  u->large_only_weight_bytes += c->large_only_weight_bytes;
  u->forced += c->forced;
  u->given_up += c->given_up;
  u->queued_us = most(u->queued_us, c->queued_us);
  u->first_token_us = most(u->first_token_us, c->first_token_us);
  u->total_us = most(u->total_us, c->total_us);
  u->budgeted += c->budgeted;
  u->deferred += c->deferred;
  if (c->budgeted > 0) u->tau = c->tau;
  if (c->has_rate) u->has_rate = true, u->defer_rate = c->defer_rate;
  if (!u->any) { /* of the first answer: the others' follow from them */
    u->entropy = c->entropy;
    u->route_score = c->route_score;
    memcpy(u->routed, c->routed, sizeof u->routed);
    u->routed[sizeof u->routed - 1] = 0;
    memcpy(u->mode, c->mode, sizeof u->mode);
    u->mode[sizeof u->mode - 1] = 0;
  }
  u->any = true;
}
