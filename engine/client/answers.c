/* SPDX-License-Identifier: Apache-2.0 */
/* Replies as client.h shows them: what is answered is borrowed for the callback, so the arrays here live as
 * long as one. Nothing is trusted but what proto/check.h checked. The client's thread. */
#include <math.h>
#include <stdlib.h>

#include "client/client_in.h"

static const weir_client_error none;

static void fail_memory(client_call *call) {
  weir_client_error e;
  client_fail(&e, 500, "", "out of memory for the answer");
  switch ((int)call->kind) {
    case WEIR_FRAME_STATS: call->done.stats(call->ctx, NULL, &e); break;
    case WEIR_FRAME_TOKENIZE: call->done.ids(call->ctx, NULL, &e); break;
    case WEIR_FRAME_MODELS: call->done.model(call->ctx, NULL, &e); break;
    default: break;
  }
}

/* tier: [WEIR_CLIENT_MAX_TIERS] */
static weir_client_health health_of(const Weir__V1__HealthReply *h, weir_client_tier_health *tier) {
  if (!h) return (weir_client_health){.reason = "the engine did not say"};
  const size_t n = h->n_tier < WEIR_CLIENT_MAX_TIERS ? h->n_tier : WEIR_CLIENT_MAX_TIERS;
  for (size_t i = 0; i < n; i++) {
    const Weir__V1__TierHealth *t = h->tier[i];
    tier[i] = (weir_client_tier_health){.name = t->name,
                                        .up = t->up,
                                        .comes_back = t->comes_back,
                                        .for_ms = t->for_ms,
                                        .reason = t->reason,
                                        .deaths = t->deaths};
  }
  return (weir_client_health){.live = h->live,
                              .ready = h->ready,
                              .reason = h->reason,
                              .running = h->running,
                              .waiting = h->waiting,
                              .queue_limit = h->queue_limit,
                              .tier = tier,
                              .n_tiers = n};
}

static void answer_model(client_call *call, const Weir__V1__ModelsReply *r) {
  weir_client_tier *tier = calloc(r->n_tier ? r->n_tier : 1, sizeof *tier);
  if (!tier) {
    fail_memory(call);
    return;
  }
  for (size_t i = 0; i < r->n_tier; i++) {
    const Weir__V1__TierInfo *t = r->tier[i];
    tier[i] = (weir_client_tier){.name = t->name,
                                 .model = t->model,
                                 .type = t->type,
                                 .device = t->device,
                                 .weight_bytes = t->weight_bytes,
                                 .kv_bytes_per_token = t->kv_bytes_per_token,
                                 .kv_pages = t->kv_pages};
  }
  const weir_client_model m = {
      .id = r->id,
      .chat_format = r->chat_format,
      .mode = r->mode,
      .version = r->version,
      .context = r->context,
      .vocab = r->vocab,
      .max_tokens_default = r->max_tokens_default,
      .tier = tier,
      .n_tiers = r->n_tier,
      .modes = (const char *const *)r->modes,
      .n_modes = r->n_modes,
      .entropy = r->has_entropy_case ? r->entropy : NAN,
      .entropy_min = r->has_entropy_min_case ? r->entropy_min : NAN,
      .entropy_max = r->has_entropy_max_case ? r->entropy_max : NAN,
      .defer_rate = r->has_defer_rate_case ? r->defer_rate : NAN,
      .max_request_bytes = r->max_request_bytes ? r->max_request_bytes : WEIR_FRAME_SURE_REQUEST};
  call->done.model(call->ctx, &m, &none);
  free(tier);
}

/* The arrays of all families, in four blocks. */
typedef struct stats_memory {
  weir_client_family *family;
  weir_client_sample *sample;
  weir_client_label *label;
  double *le;
  uint64_t *count;
} stats_memory;

static bool take_stats_memory(const Weir__V1__StatsReply *r, stats_memory *m) {
  size_t n_samples = 1, n_labels = 1, n_buckets = 1;
  for (size_t i = 0; i < r->n_family; i++) {
    n_samples += r->family[i]->n_sample;
    for (size_t k = 0; k < r->family[i]->n_sample; k++) {
      n_labels += r->family[i]->sample[k]->n_label;
      n_buckets += r->family[i]->sample[k]->n_bucket;
    }
  }
  *m = (stats_memory){.family = calloc(r->n_family + 1, sizeof *m->family),
                      .sample = calloc(n_samples, sizeof *m->sample),
                      .label = calloc(n_labels, sizeof *m->label),
                      .le = calloc(n_buckets, sizeof *m->le),
                      .count = calloc(n_buckets, sizeof *m->count)};
  return m->family && m->sample && m->label && m->le && m->count;
}

static void fill_stats(const Weir__V1__StatsReply *r, const stats_memory *m) {
  weir_client_sample *sample = m->sample;
  weir_client_label *label = m->label;
  double *le = m->le;
  uint64_t *count = m->count;
  for (size_t i = 0; i < r->n_family; i++) {
    const Weir__V1__Family *f = r->family[i];
    m->family[i] = (weir_client_family){
        .name = f->name, .help = f->help, .type = (int)f->type, .sample = sample, .n_samples = f->n_sample};
    for (size_t k = 0; k < f->n_sample; k++) {
      const Weir__V1__Sample *s = f->sample[k];
      *sample++ = (weir_client_sample){.label = label,
                                       .n_labels = s->n_label,
                                       .value = s->value,
                                       .le = le,
                                       .count = count,
                                       .n_buckets = s->n_bucket,
                                       .sum = s->sum,
                                       .n = s->count};
      for (size_t j = 0; j < s->n_label; j++)
        *label++ = (weir_client_label){s->label[j]->name, s->label[j]->value};
      for (size_t j = 0; j < s->n_bucket; j++) {
        *le++ = s->bucket[j]->le;
        *count++ = s->bucket[j]->count;
      }
    }
  }
}

static void answer_stats(client_call *call, const Weir__V1__StatsReply *r) {
  stats_memory m;
  weir_client_tier_health tier[WEIR_CLIENT_MAX_TIERS];
  if (take_stats_memory(r, &m)) {
    fill_stats(r, &m);
    const weir_client_stats s = {.model = r->model,
                                 .health = health_of(r->health, tier),
                                 .family = m.family,
                                 .n_families = r->n_family};
    call->done.stats(call->ctx, &s, &none);
  } else {
    fail_memory(call);
  }
  free(m.family);
  free(m.sample);
  free(m.label);
  free(m.le);
  free(m.count);
}

static void answer_ids(client_call *call, const Weir__V1__TokenizeReply *r) {
  const char **text = calloc(r->n_text + 1, sizeof *text);
  size_t *len = calloc(r->n_text + 1, sizeof *len);
  if (text && len) {
    for (size_t i = 0; i < r->n_text; i++) {
      text[i] = r->text[i].len ? (const char *)r->text[i].data : "";
      len[i] = r->text[i].len;
    }
    const weir_client_ids ids = {.id = r->id, .text = text, .len = len, .n = r->n_id};
    call->done.ids(call->ctx, &ids, &none);
  } else {
    fail_memory(call);
  }
  free(text);
  free(len);
}

void client_answer(client_call *call, const weir_frame_msg *m) {
  switch ((int)call->kind) {
    case WEIR_FRAME_HEALTH: {
      weir_client_tier_health tier[WEIR_CLIENT_MAX_TIERS];
      const weir_client_health h = health_of(m->as.health_reply, tier);
      call->done.health(call->ctx, &h, &none);
      break;
    }
    case WEIR_FRAME_MODELS: answer_model(call, m->as.models_reply); break;
    case WEIR_FRAME_STATS: answer_stats(call, m->as.stats_reply); break;
    case WEIR_FRAME_TOKENIZE: answer_ids(call, m->as.tokenize_reply); break;
    case WEIR_FRAME_DETOKENIZE: {
      const ProtobufCBinaryData t = m->as.detokenize_reply->text;
      call->done.text(call->ctx, t.len ? (const char *)t.data : "", t.len, &none);
      break;
    }
    default: break;
  }
}
