/* SPDX-License-Identifier: Apache-2.0 */
/* Calls: everything but Poll. Two lanes of them, so that a Tokenize that takes its time does not hold
 * Submits: control (Submit, Cancel, Models, Health) and query (Stats, Tokenize, Detokenize). One message a
 * lane is under way; the lane sends it again when no answer comes, and what is late is ended here. The
 * client's thread.
 */
#include <stdlib.h>
#include <string.h>

#include "client/client_in.h"

static client_call *call_of(client_call_link *q) { return (client_call *)(void *)q; } /* its first member */

static client_lane *lane_of(weir_client *c, weir_frame_kind kind) {
  return kind == WEIR_FRAME_STATS || kind == WEIR_FRAME_TOKENIZE || kind == WEIR_FRAME_DETOKENIZE
             ? &c->query
             : &c->control;
}

client_call *client_call_add(weir_client *c, weir_frame_kind kind, const ProtobufCMessage *m, bool front,
                             weir_client_error *e) {
  client_lane *lane = lane_of(c, kind);
  const size_t n = weir_frame_size(m);
  const size_t max = c->max_request_bytes ? (size_t)c->max_request_bytes : WEIR_FRAME_MAX_REQUEST;
  if (n > max) {
    client_fail(e, 413, "", "%s of %zu bytes; the engine takes %zu", weir_frame_kind_name((int)kind), n, max);
    return NULL;
  }
  if (c->closing) {
    client_fail(e, 499, "", "the client is being closed");
    return NULL;
  }
  /* What goes to the front is the client's own, few and small; the bytes that wait may need it to be sent. */
  if (!front && (lane->n_waiting >= CLIENT_MAX_CALLS || c->waiting_bytes >= CLIENT_MAX_WAITING ||
                 n > CLIENT_MAX_WAITING - c->waiting_bytes)) {
    client_fail(e, 429, "", "%d messages of %zu bytes wait to be sent already", lane->n_waiting,
                c->waiting_bytes);
    return NULL;
  }
  client_call *call = calloc(1, sizeof *call);
  void *msg = client_lane_msg(n);
  if (!call || !msg) {
    free(call);
    free(msg);
    client_fail(e, 500, "", "out of memory for a message of %zu bytes", n);
    return NULL;
  }
  weir_frame_pack(kind, m, msg);
  call->kind = kind;
  call->link.msg = msg;
  call->link.n_bytes = n;
  call->deadline_ns = client_now(c) + c->cfg.call_timeout_ms * CLIENT_MS;
  client_lane_push(lane, &call->link, front);
  c->waiting_bytes += n;
  client_wake(c);
  return call;
}

/* It was taken out of the queue, to be sent or forgotten. */
static void *take_msg(weir_client *c, client_call *call) {
  void *msg = call->link.msg;
  if (msg) c->waiting_bytes -= call->link.n_bytes;
  call->link.msg = NULL;
  return msg;
}

static void free_call(weir_client *c, client_call *call) {
  free(take_msg(c, call));
  if (!call->internal) c->n_open--;
  free(call);
}

void client_call_drop(weir_client *c, client_call *call) {
  client_lane_remove(lane_of(c, call->kind), &call->link);
  free_call(c, call);
}

/* Large requests wait for what the engine says it takes; it did not say. Taken out first: an owner that is
 * told may well ask again. */
static void fail_large(weir_client *c, client_lane *lane, const weir_client_error *e) {
  client_call_link *large = NULL;
  for (client_call_link *q = lane->first, *next; q; q = next) {
    next = q->next;
    if (q->n_bytes <= WEIR_FRAME_SURE_REQUEST) continue;
    client_lane_remove(lane, q);
    q->next = large;
    large = q;
  }
  for (client_call_link *q = large, *next; q; q = next) {
    next = q->next;
    client_call_fail(c, call_of(q), e);
  }
}

void client_call_fail(weir_client *c, client_call *call, const weir_client_error *e) {
  switch ((int)call->kind) {
    case WEIR_FRAME_SUBMIT: client_submit_answered(c, call, e); break;
    case WEIR_FRAME_CANCEL: client_cancel_answered(c, call); break;
    case WEIR_FRAME_HEALTH: call->done.health(call->ctx, NULL, e); break;
    case WEIR_FRAME_STATS: call->done.stats(call->ctx, NULL, e); break;
    case WEIR_FRAME_TOKENIZE: call->done.ids(call->ctx, NULL, e); break;
    case WEIR_FRAME_DETOKENIZE: call->done.text(call->ctx, NULL, 0, e); break;
    case WEIR_FRAME_MODELS:
      if (call->internal) {
        c->asking_models = false;
        fail_large(c, &c->control, e);
        fail_large(c, &c->query, e);
      } else {
        call->done.model(call->ctx, NULL, e);
      }
      break;
    default: break;
  }
  free_call(c, call);
}

static void take_answer(weir_client *c, client_call *call, const void *bytes, size_t n_bytes) {
  weir_frame_msg m;
  weir_client_error error;
  if (client_unpack(call->kind, bytes, n_bytes, &m, &error) != 0) {
    client_call_fail(c, call, &error);
    return;
  }
  if (call->kind == WEIR_FRAME_MODELS) {
    const uint64_t max = m.as.models_reply->max_request_bytes;
    c->max_request_bytes = max ? max : WEIR_FRAME_SURE_REQUEST;
    if (call->internal) c->asking_models = false;
  }
  if (call->kind == WEIR_FRAME_SUBMIT) {
    const weir_client_error none = {0};
    client_submit_answered(c, call, &none);
  } else if (call->kind == WEIR_FRAME_CANCEL) {
    client_cancel_answered(c, call);
  } else if (!call->internal) {
    client_answer(call, &m);
  }
  weir_frame_msg_fini(&m);
  free_call(c, call);
}

static bool receive(weir_client *c, client_lane *lane) {
  bool any = false;
  size_t n;
  for (void *msg; (msg = client_lane_recv(lane, &n, NULL)); any = true) {
    client_call_link *q = lane->out;
    lane->out = NULL;
    if (q) take_answer(c, call_of(q), msg, n); /* else: the answer to a call that was given up */
    client_lane_free_reply(msg);
  }
  return any;
}

static bool end_late(weir_client *c, client_lane *lane, int64_t now) {
  bool any = false;
  weir_client_error e;
  if (lane->out && call_of(lane->out)->deadline_ns <= now) {
    client_call *call = call_of(lane->out);
    client_fail(&e, 503, "", "the engine at %s did not answer %s within %d ms", c->cfg.url,
                weir_frame_kind_name((int)call->kind), c->cfg.call_timeout_ms);
    lane->out = NULL;
    client_lane_forget(lane);
    client_call_fail(c, call, &e);
    any = true;
  }
  /* Cancels at the front may be younger than what stands behind them. */
  for (client_call_link *q = lane->first; q;) {
    client_call *call = call_of(q);
    if (call->deadline_ns > now) {
      q = q->next;
      continue;
    }
    client_fail(&e, 503, "", "the engine at %s did not take %s within %d ms", c->cfg.url,
                weir_frame_kind_name((int)call->kind), c->cfg.call_timeout_ms);
    client_lane_remove(lane, q);
    client_call_fail(c, call, &e);
    any = true;
    q = lane->first;
  }
  return any;
}

/* A request of more than what every server takes waits until this one has said what it takes. */
static bool ask_models(weir_client *c) {
  if (c->asking_models) return false;
  Weir__V1__ModelsRequest m = WEIR__V1__MODELS_REQUEST__INIT;
  m.token = (char *)c->cfg.token;
  client_call *call = client_call_add(c, WEIR_FRAME_MODELS, &m.base, true, NULL);
  if (!call) return false;
  call->internal = true;
  c->asking_models = true;
  return true;
}

static bool send_next(weir_client *c, client_lane *lane) {
  client_call_link *q = lane->first;
  if (lane->out || !q) return false;
  weir_client_error error;
  if (q->n_bytes > WEIR_FRAME_SURE_REQUEST) {
    if (c->max_request_bytes == 0) return ask_models(c);
    if (q->n_bytes > c->max_request_bytes) {
      client_fail(&error, 413, "", "%s of %zu bytes; the engine takes %llu",
                  weir_frame_kind_name((int)call_of(q)->kind), q->n_bytes,
                  (unsigned long long)c->max_request_bytes);
      client_lane_remove(lane, q);
      client_call_fail(c, call_of(q), &error);
      return true;
    }
  }
  client_call *call = call_of(q);
  client_lane_remove(lane, q);
  client_lane_send(lane, take_msg(c, call), q->n_bytes, client_now(c));
  lane->out = q;
  if (call->request) call->request->state = REQUEST_SENT;
  return true;
}

bool client_calls_step(weir_client *c, client_lane *lane) {
  bool any = receive(c, lane);
  any |= end_late(c, lane, client_now(c));
  client_lane_step(lane, client_now(c));
  any |= send_next(c, lane);
  return any;
}

int64_t client_calls_due(const weir_client *c, const client_lane *lane) {
  const client_call_link *q = lane->first;
  const bool held =
      q && q->n_bytes > WEIR_FRAME_SURE_REQUEST && c->max_request_bytes == 0 && c->asking_models;
  if (q && !lane->out && !held) return 0;
  int64_t due = client_lane_due(lane);
  if (lane->out && ((const client_call *)(const void *)lane->out)->deadline_ns < due)
    due = ((const client_call *)(const void *)lane->out)->deadline_ns;
  for (; q; q = q->next) {
    const int64_t d = ((const client_call *)(const void *)q)->deadline_ns;
    if (d < due) due = d;
  }
  return due;
}
