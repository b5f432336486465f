/* SPDX-License-Identifier: Apache-2.0 */
/* Requests from Submit to on_end: their table, cancelling, what is lost. A request is freed when neither its
 * owner nor the engine needs it any more, and only in the sweep at the end of a step, so that callbacks may
 * do what they like. The client's thread. */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "client/client_in.h"
#include "client/pack.h"

/* Ids are random: their bytes are as good a hash as any. */
static size_t id_bucket(const uint8_t *id) { return (id[0] | (size_t)id[1] << 8) & (CLIENT_BUCKETS - 1); }
static size_t number_bucket(int64_t number) { return (size_t)number & (CLIENT_BUCKETS - 1); }

client_request *client_request_by_id(const weir_client *c, const uint8_t *id) {
  client_request *r = c->by_id[id_bucket(id)];
  while (r && memcmp(r->id, id, sizeof r->id) != 0) r = r->next_by_id;
  return r;
}

static client_request *by_number(const weir_client *c, int64_t number) {
  if (number <= 0) return NULL;
  client_request *r = c->by_number[number_bucket(number)];
  while (r && r->number != number) r = r->next_by_number;
  return r;
}

static void insert(weir_client *c, client_request *r) {
  r->prev = c->last;
  if (c->last)
    c->last->next = r;
  else
    c->first = r;
  c->last = r;
  client_request **b = &c->by_id[id_bucket(r->id)];
  r->next_by_id = *b;
  *b = r;
  b = &c->by_number[number_bucket(r->number)];
  r->next_by_number = *b;
  *b = r;
  c->n_requests++;
}

static void remove_and_free(weir_client *c, client_request *r) {
  *(r->prev ? &r->prev->next : &c->first) = r->next;
  *(r->next ? &r->next->prev : &c->last) = r->prev;
  client_request **b = &c->by_id[id_bucket(r->id)];
  while (*b != r) b = &(*b)->next_by_id;
  *b = r->next_by_id;
  b = &c->by_number[number_bucket(r->number)];
  while (*b != r) b = &(*b)->next_by_number;
  *b = r->next_by_number;
  c->n_requests--;
  free(r);
}

int64_t weir_client_submit(weir_client *c, const weir_client_request *q, const weir_client_events *events,
                           weir_client_error *e) {
  client_request *r = NULL;
  client_submit_pack pack = {0};
  int64_t number = -1;
  if (c->n_requests >= CLIENT_MAX_REQUESTS) {
    client_fail(e, 429, "", "%d requests are open in this client already", c->n_requests);
    goto out;
  }
  r = calloc(1, sizeof *r);
  if (!r || getrandom(r->id, sizeof r->id, 0) != (ssize_t)sizeof r->id) {
    client_fail(e, 500, "", r ? "the system has no random bytes" : "out of memory for a request");
    goto out;
  }
  if (client_submit_fill(&pack, q, e) != 0) goto out;
  pack.m.token = (char *)c->cfg.token;
  pack.m.session = weir_frame_id(c->session);
  pack.m.request_id = weir_frame_id(r->id);
  const char *param;
  weir_err err = {0};
  if (weir_check_submit(&pack.m, &param, &err) != WEIR_OK) {
    client_fail(e, 400, param, "%s", err.msg);
    goto out;
  }
  r->call = client_call_add(c, WEIR_FRAME_SUBMIT, &pack.m.base, false, e);
  if (!r->call) goto out;
  r->call->internal = true; /* the request itself is counted */
  r->call->request = r;
  r->events = *events;
  r->number = number = ++c->last_number;
  insert(c, r);
  c->n_open++;
  r = NULL;
out:
  client_submit_pack_fini(&pack);
  free(r);
  return number;
}

static void ask_to_stop(weir_client *c, client_request *r) {
  if (r->cancel) return;
  r->cancel = true;
  r->cancel_ns = client_now(c);
  client_wake(c);
}

void weir_client_cancel(weir_client *c, int64_t request) {
  client_request *r = by_number(c, request);
  if (r && !r->silent) ask_to_stop(c, r);
}

void weir_client_abandon(weir_client *c, int64_t request) {
  client_request *r = by_number(c, request);
  if (!r || r->silent) return;
  r->silent = true;
  c->n_open--;
  ask_to_stop(c, r);
}

static void set_over(weir_client *c, client_request *r) {
  r->state = REQUEST_OVER;
  r->over_ns = client_now(c);
}

void client_request_end(weir_client *c, client_request *r, const weir_client_end *end) {
  if (r->silent) return;
  r->silent = true;
  c->n_open--;
  if (r->events.on_end) r->events.on_end(r->events.ctx, end);
}

void client_request_give_up(weir_client *c, client_request *r, const char *reason,
                            const weir_client_error *error) {
  weir_client_end end = {.reason = reason, .stop = "", .error = *error};
  end.usage.completion_tokens = r->have;
  end.usage.entropy = __builtin_nanf("");
  if (r->state == REQUEST_QUEUED) {
    if (r->call) client_call_drop(c, r->call);
    r->call = NULL;
    r->gone = true;
  } else {
    ask_to_stop(c, r);
  }
  client_request_end(c, r, &end);
}

void client_submit_answered(weir_client *c, client_call *call, const weir_client_error *error) {
  client_request *r = call->request;
  if (!r) return; /* the client is being closed */
  const bool sent = r->state == REQUEST_SENT;
  r->call = NULL;
  if (error->code == 0) {
    r->state = REQUEST_OPEN;
    r->open_ns = client_now(c);
    if (!r->silent && c->poll.missing_ns == 0) c->poll.missing_ns = r->open_ns;
    return;
  }
  /* After these the engine may have it all the same: the answer was lost, or made no sense. */
  const bool unsure = sent && (error->code == 500 || error->code == 503);
  if (unsure) {
    r->state = REQUEST_OPEN;
    r->open_ns = client_now(c);
  } else {
    r->state = REQUEST_QUEUED;
    r->gone = true;
  }
  client_request_give_up(c, r, "error", error);
}

void client_cancel_answered(weir_client *c, client_call *call) {
  for (client_request *r = c->first; r; r = r->next)
    if (r->cancel_seq == call->cancel_seq && r->state == REQUEST_OPEN && r->silent) set_over(c, r);
}

/* One Cancel for all that wait for one. */
static bool send_cancels(weir_client *c, int32_t n) {
  ProtobufCBinaryData *id = calloc((size_t)n, sizeof *id);
  if (!id) return false;
  Weir__V1__CancelRequest m = WEIR__V1__CANCEL_REQUEST__INIT;
  m.token = (char *)c->cfg.token;
  m.session = weir_frame_id(c->session);
  m.request_id = id;
  for (client_request *r = c->first; r; r = r->next)
    if (r->state == REQUEST_OPEN && r->cancel && r->cancel_seq == 0 && m.n_request_id < (size_t)n)
      id[m.n_request_id++] = weir_frame_id(r->id);
  client_call *call = client_call_add(c, WEIR_FRAME_CANCEL, &m.base, true, NULL);
  free(id);
  if (!call) return false;
  call->internal = true;
  call->cancel_seq = ++c->last_cancel_seq;
  for (client_request *r = c->first; r; r = r->next)
    if (r->state == REQUEST_OPEN && r->cancel && r->cancel_seq == 0) r->cancel_seq = call->cancel_seq;
  return true;
}

static int64_t lost_at(const weir_client *c, const client_request *r) {
  const int64_t heard = c->poll.heard_ns > r->open_ns ? c->poll.heard_ns : r->open_ns;
  return heard + c->cfg.lost_after_ms * CLIENT_MS;
}

static void lose(weir_client *c, client_request *r) {
  weir_client_error e;
  if (c->poll.refused)
    e = c->poll.error;
  else
    client_fail(&e, 503, "", "the engine at %s has said nothing for %d ms", c->cfg.url, c->cfg.lost_after_ms);
  client_request_give_up(c, r, "error", &e);
}

/* When a request needs to be looked at next, by itself. */
static int64_t due_of(const weir_client *c, const client_request *r) {
  if (r->gone) return 0;
  const int64_t stop_by = r->cancel_ns + c->cfg.call_timeout_ms * CLIENT_MS;
  int64_t due = INT64_MAX;
  switch (r->state) {
    case REQUEST_QUEUED: return r->cancel ? 0 : INT64_MAX;
    case REQUEST_SENT: return INT64_MAX; /* its Submit has a deadline */
    case REQUEST_OPEN:
      if (r->cancel && r->cancel_seq == 0) return 0;
      if (!r->silent) due = lost_at(c, r);
      return r->cancel && stop_by < due ? stop_by : due;
    case REQUEST_OVER: return r->over_ns + c->cfg.lost_after_ms * CLIENT_MS;
  }
  return INT64_MAX;
}

static void step_one(weir_client *c, client_request *r, int64_t now) {
  static const weir_client_error none;
  if (r->state == REQUEST_QUEUED && r->cancel) {
    client_request_give_up(c, r, "cancelled", &none);
  } else if (r->state == REQUEST_OVER) {
    r->gone = true; /* no Poll was answered that would have told the engine: it finds out by itself */
  } else if (r->state == REQUEST_OPEN && !r->silent && now >= lost_at(c, r)) {
    lose(c, r);
  } else if (r->state == REQUEST_OPEN && r->cancel && r->cancel_seq != 0) {
    /* Told, and still no End after all this time. */
    client_request_give_up(c, r, "cancelled", &none);
    set_over(c, r);
  }
}

bool client_requests_step(weir_client *c) {
  const int64_t now = client_now(c);
  bool any = false;
  int32_t n_cancel = 0;
  for (client_request *r = c->first; r; r = r->next) {
    if (r->gone) continue;
    if (r->state == REQUEST_OPEN && r->cancel && r->cancel_seq == 0) {
      n_cancel++;
    } else if (due_of(c, r) <= now) {
      step_one(c, r, now);
      any = true;
      if (r->state == REQUEST_OPEN && r->cancel && r->cancel_seq == 0) n_cancel++;
    }
  }
  if (n_cancel > 0) any |= send_cancels(c, n_cancel);
  for (client_request *r = c->first, *next; r; r = next) {
    next = r->next;
    if (r->gone) remove_and_free(c, r);
  }
  return any;
}

int64_t client_requests_due(const weir_client *c) {
  int64_t due = INT64_MAX;
  for (const client_request *r = c->first; r; r = r->next) {
    const int64_t d = due_of(c, r);
    if (d < due) due = d;
  }
  return due;
}

void client_requests_free(weir_client *c) {
  weir_client_error e;
  client_fail(&e, 499, "", "the client was closed");
  for (client_request *r = c->first; r; r = r->next) client_request_give_up(c, r, "error", &e);
  for (client_request *r = c->first, *next; r; r = next) {
    next = r->next;
    if (r->call) r->call->request = NULL;
    remove_and_free(c, r);
  }
}
