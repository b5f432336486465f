/* SPDX-License-Identifier: Apache-2.0 */
/* Questions that belong to no session: health, metrics, the models, the tokenizer. Those to the tokenizer are
 * parked until the service's preparing thread has the answer. The core's thread. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "net/rpc_core_in.h"
#include "net/rpc_stats.h"

/* ---- questions ---- */

void rpc_on_health(weir_rpc_core *c) {
  const weir_service_health h = weir_service_get_health(c->cfg.service);
  rpc_health m;
  rpc_health_fill(&m, &h);
  rpc_answer_message(c, c->ticket, WEIR_FRAME_HEALTH | WEIR_FRAME_REPLY, &m.reply.base);
}

void rpc_on_stats(weir_rpc_core *c) {
  weir_err e;
  const weir_service_health h = weir_service_get_health(c->cfg.service);
  weir_service_refresh_metrics(c->cfg.service);
  rpc_refresh_metrics(c);
  weir_buf_truncate(&c->out, 0);
  if (rpc_stats_put(c->cfg.metrics, &h, weir_service_get_cfg(c->cfg.service)->model, &c->out, &e) != WEIR_OK)
    rpc_answer_bare(c, c->ticket);
  else
    rpc_answer(c, c->ticket, false);
}

static void fill_tiers(const weir_rpc_core *c, const weir_service_cfg *g, Weir__V1__TierInfo *tier,
                       Weir__V1__TierInfo **at, Weir__V1__ModelsReply *m) {
  static const char *const names[] = {"small", "large"};
  m->context = m->vocab = UINT32_MAX;
  for (int32_t t = 0; t < g->engine.n_tiers; t++) {
    const weir_exec_info *info = &g->engine.tier[t]->info;
    weir__v1__tier_info__init(&tier[t]);
    at[t] = &tier[t];
    tier[t].name = (char *)names[t];
    tier[t].model = (char *)c->tier[t].model;
    tier[t].type = (char *)c->tier[t].type;
    tier[t].device = (char *)c->tier[t].device;
    tier[t].weight_bytes = (uint64_t)info->weight_bytes;
    tier[t].kv_bytes_per_token = (uint64_t)info->kv_bytes_per_token;
    tier[t].kv_pages = (uint32_t)info->n_pages;
    if ((uint32_t)info->n_ctx < m->context) m->context = (uint32_t)info->n_ctx;
    if ((uint32_t)info->n_vocab < m->vocab) m->vocab = (uint32_t)info->n_vocab;
  }
  m->tier = at;
  m->n_tier = (size_t)g->engine.n_tiers;
}

static void fill_modes(const weir_service_cfg *g, char **modes, Weir__V1__ModelsReply *m) {
  weir_cascade_cfg made;
  weir_err e;
  if (g->engine.n_tiers < 2) return;
  for (int i = 0; i < WEIR_N_MODES; i++)
    if (g->modes >> i & 1 || i == (int)g->cascade.mode)
      modes[m->n_modes++] = (char *)weir_mode_name((weir_mode)i);
  m->modes = modes;
  m->mode = (char *)weir_mode_name(g->cascade.mode);
  m->has_entropy_min_case = WEIR__V1__MODELS_REPLY__HAS_ENTROPY_MIN_ENTROPY_MIN;
  m->entropy_min = g->entropy_min;
  m->has_entropy_max_case = WEIR__V1__MODELS_REPLY__HAS_ENTROPY_MAX_ENTROPY_MAX;
  m->entropy_max = g->entropy_max;
  if (g->cascade.mode == WEIR_MODE_SMALL || g->cascade.mode == WEIR_MODE_LARGE) return;
  if (g->cascade.set & WEIR_OPT_DEFER_RATE) {
    m->has_defer_rate_case = WEIR__V1__MODELS_REPLY__HAS_DEFER_RATE_DEFER_RATE;
    m->defer_rate = g->cascade.defer_rate;
  }
  if (weir_cascade_cfg_make(&g->cascade, &made, &e) != WEIR_OK || made.gate[0].kind != WEIR_GATE_ENTROPY ||
      made.budget.rated || !isfinite(made.gate[0].threshold))
    return;
  m->has_entropy_case = WEIR__V1__MODELS_REPLY__HAS_ENTROPY_ENTROPY;
  m->entropy = made.gate[0].threshold;
}

void rpc_on_models(weir_rpc_core *c) {
  const weir_service_cfg *g = weir_service_get_cfg(c->cfg.service);
  Weir__V1__ModelsReply m = WEIR__V1__MODELS_REPLY__INIT;
  Weir__V1__TierInfo tier[WEIR_MAX_TIERS], *at[WEIR_MAX_TIERS];
  char *modes[WEIR_N_MODES];
  m.id = (char *)g->model;
  fill_tiers(c, g, tier, at, &m);
  fill_modes(g, modes, &m);
  m.chat_format = g->chat ? (char *)weir_chat_name(g->chat) : (char *)"";
  m.max_tokens_default = (uint32_t)g->max_tokens_default;
  m.version = c->version;
  m.max_request_bytes = c->cfg.limits.max_request_bytes;
  rpc_answer_message(c, c->ticket, WEIR_FRAME_MODELS | WEIR_FRAME_REPLY, &m.base);
}

/* ---- calls that the preparing thread answers ---- */

static void park_call(weir_rpc_core *c, weir_frame_kind kind, weir_status st, weir_call *call,
                      const weir_service_error *x) {
  if (st != WEIR_OK) {
    rpc_answer_error(c, c->ticket, x);
    return;
  }
  c->call[c->n_calls++] = (rpc_pending){c->ticket, kind, call};
  c->answered = true;
}

void rpc_on_tokenize(weir_rpc_core *c, const Weir__V1__TokenizeRequest *q) {
  weir_err e;
  weir_service_error x = {.code = 500, .message = "out of memory"};
  weir_service_message *chat = NULL;
  weir_call *call = NULL;
  weir_status st = rpc_copy_chat(q->chat, q->n_chat, &chat, &e);
  if (st == WEIR_OK) {
    const weir_service_text t = {.text = q->n_chat > 0 ? NULL : q->text,
                                 .len = q->n_chat > 0 ? 0 : strlen(q->text),
                                 .chat = chat,
                                 .n_chat = q->n_chat,
                                 .special = q->special,
                                 .bare = q->bare};
    st = weir_service_tokenize(c->cfg.service, &t, &call, &x);
  }
  free(chat);
  park_call(c, WEIR_FRAME_TOKENIZE, st, call, &x);
}

void rpc_on_detokenize(weir_rpc_core *c, const Weir__V1__DetokenizeRequest *q) {
  weir_service_error x = {0};
  weir_call *call = NULL;
  const weir_status st = weir_service_detokenize(c->cfg.service, q->id, q->n_id, &call, &x);
  park_call(c, WEIR_FRAME_DETOKENIZE, st, call, &x);
}

static void answer_tokenized(weir_rpc_core *c, uint64_t ticket, const weir_call_result *r) {
  Weir__V1__TokenizeReply m = WEIR__V1__TOKENIZE_REPLY__INIT;
  ProtobufCBinaryData *text = NULL;
  weir_err e;
  if (WEIR_NEW((size_t)r->n, &text, &e) != WEIR_OK) {
    rpc_answer_bare(c, ticket);
    return;
  }
  for (int32_t i = 0; i < r->n; i++)
    text[i] = (ProtobufCBinaryData){.len = r->text[i].len, .data = (uint8_t *)r->text[i].data};
  m.id = (uint32_t *)r->id; /* not negative */
  m.n_id = m.n_text = (size_t)r->n;
  m.text = text;
  if (weir_frame_size(&m.base) > WEIR_FRAME_MAX_REPLY) {
    const weir_service_error x = {
        .code = 413, .param = "text", .message = "text: it has too many tokens for an answer"};
    rpc_answer_error(c, ticket, &x);
  } else {
    rpc_answer_message(c, ticket, WEIR_FRAME_TOKENIZE | WEIR_FRAME_REPLY, &m.base);
  }
  free(text);
}

static void answer_call(weir_rpc_core *c, const rpc_pending *p, const weir_call_result *r) {
  if (r->error.code != 0) {
    rpc_answer_error(c, p->ticket, &r->error);
  } else if (p->kind == WEIR_FRAME_TOKENIZE) {
    answer_tokenized(c, p->ticket, r);
  } else if (r->detokenized.len > WEIR_FRAME_MAX_REPLY / 2) {
    const weir_service_error x = {
        .code = 413, .param = "id", .message = "id: the text is too long for an answer"};
    rpc_answer_error(c, p->ticket, &x);
  } else {
    Weir__V1__DetokenizeReply m = WEIR__V1__DETOKENIZE_REPLY__INIT;
    m.text = (ProtobufCBinaryData){.len = r->detokenized.len, .data = (uint8_t *)r->detokenized.data};
    rpc_answer_message(c, p->ticket, WEIR_FRAME_DETOKENIZE | WEIR_FRAME_REPLY, &m.base);
  }
}

void rpc_answer_calls(weir_rpc_core *c) {
  for (int32_t i = 0; i < c->n_calls;) {
    const rpc_pending p = c->call[i];
    const weir_call_result *r = weir_call_get(p.call);
    if (!r) {
      i++;
      continue;
    }
    c->call[i] = c->call[--c->n_calls];
    answer_call(c, &p, r);
    weir_call_release(p.call);
  }
}
