/* SPDX-License-Identifier: Apache-2.0 */
/* The calls of client.h that are not requests. The client's thread. */
#include <stdlib.h>
#include <string.h>

#include "client/client_in.h"
#include "client/pack.h"

static client_call *add(weir_client *c, weir_frame_kind kind, const ProtobufCMessage *m, void *ctx,
                        weir_client_error *e) {
  client_call *call = client_call_add(c, kind, m, false, e);
  if (!call) return NULL;
  call->ctx = ctx;
  c->n_open++;
  return call;
}

int weir_client_get_health(weir_client *c,
                           void (*done)(void *ctx, const weir_client_health *, const weir_client_error *),
                           void *ctx, weir_client_error *e) {
  Weir__V1__HealthRequest m = WEIR__V1__HEALTH_REQUEST__INIT;
  client_call *call = add(c, WEIR_FRAME_HEALTH, &m.base, ctx, e);
  if (!call) return -1;
  call->done.health = done;
  return 0;
}

int weir_client_get_model(weir_client *c,
                          void (*done)(void *ctx, const weir_client_model *, const weir_client_error *),
                          void *ctx, weir_client_error *e) {
  Weir__V1__ModelsRequest m = WEIR__V1__MODELS_REQUEST__INIT;
  m.token = (char *)c->cfg.token;
  client_call *call = add(c, WEIR_FRAME_MODELS, &m.base, ctx, e);
  if (!call) return -1;
  call->done.model = done;
  return 0;
}

int weir_client_get_stats(weir_client *c,
                          void (*done)(void *ctx, const weir_client_stats *, const weir_client_error *),
                          void *ctx, weir_client_error *e) {
  Weir__V1__StatsRequest m = WEIR__V1__STATS_REQUEST__INIT;
  m.token = (char *)c->cfg.token;
  client_call *call = add(c, WEIR_FRAME_STATS, &m.base, ctx, e);
  if (!call) return -1;
  call->done.stats = done;
  return 0;
}

int weir_client_tokenize(weir_client *c, const char *text, size_t len, bool special, bool bare,
                         const weir_client_message *chat, size_t n_chat,
                         void (*done)(void *ctx, const weir_client_ids *, const weir_client_error *),
                         void *ctx, weir_client_error *e) {
  Weir__V1__ChatMessage *messages = NULL, **at = NULL;
  Weir__V1__TokenizeRequest m = WEIR__V1__TOKENIZE_REQUEST__INIT;
  char *copy = NULL;
  client_call *call = NULL;
  m.token = (char *)c->cfg.token;
  m.special = special;
  m.bare = bare;
  if (n_chat > 0) {
    if (client_chat_pack(chat, n_chat, &messages, &at, e) != 0) goto out;
    m.chat = at;
    m.n_chat = n_chat;
  } else {
    if (len > WEIR_FRAME_MAX_REQUEST) {
      client_fail(e, 413, "text", "text of %zu bytes; a request has at most %d", len, WEIR_FRAME_MAX_REQUEST);
      goto out;
    }
    if (len > 0 && !weir_check_utf8(text, len)) {
      client_fail(e, 400, "text", "text: not UTF-8, or a NUL in it");
      goto out;
    }
    copy = malloc(len + 1);
    if (!copy) {
      client_fail(e, 500, "", "out of memory for a text of %zu bytes", len);
      goto out;
    }
    if (len > 0) memcpy(copy, text, len);
    copy[len] = 0;
    m.text = copy;
  }
  call = add(c, WEIR_FRAME_TOKENIZE, &m.base, ctx, e);
  if (call) call->done.ids = done;
out:
  free(messages);
  free(at);
  free(copy);
  return call ? 0 : -1;
}

int weir_client_detokenize(weir_client *c, const uint32_t *id, size_t n,
                           void (*done)(void *ctx, const char *text, size_t len, const weir_client_error *),
                           void *ctx, weir_client_error *e) {
  Weir__V1__DetokenizeRequest m = WEIR__V1__DETOKENIZE_REQUEST__INIT;
  m.token = (char *)c->cfg.token;
  m.id = (uint32_t *)id;
  m.n_id = n;
  client_call *call = add(c, WEIR_FRAME_DETOKENIZE, &m.base, ctx, e);
  if (!call) return -1;
  call->done.text = done;
  return 0;
}
