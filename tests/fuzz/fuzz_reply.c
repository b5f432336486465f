/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: what an engine answers, as the client library takes it: a byte that says which call it
 * answers, then the frame. Everything that is handed to an owner is read to its end; tokens must come in
 * order, an end once and last, and an answer that is refused must have a reason. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/client_in.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok, const char *what) {
  if (ok) return;
  fprintf(stderr, "fuzz_reply: %s\n", what);
  abort();
}

/* What keeps the reading of what was handed over. */
static volatile size_t seen;
static void read_text(const char *s) { seen += strlen(s); }
static void read_bytes(const char *s, size_t n) {
  for (size_t i = 0; i < n; i++) seen += (uint8_t)s[i];
}
static void no_error(const weir_client_error *e) { require(e->code == 0, "an answer with an error"); }

static void on_health(void *ctx, const weir_client_health *h, const weir_client_error *e) {
  ++*(int *)ctx;
  no_error(e);
  read_text(h->reason);
}

static void on_model(void *ctx, const weir_client_model *m, const weir_client_error *e) {
  ++*(int *)ctx;
  no_error(e);
  read_text(m->id), read_text(m->chat_format), read_text(m->mode), read_text(m->version);
  for (size_t i = 0; i < m->n_tiers; i++)
    read_text(m->tier[i].name), read_text(m->tier[i].model), read_text(m->tier[i].type),
        read_text(m->tier[i].device);
  for (size_t i = 0; i < m->n_modes; i++) read_text(m->modes[i]);
}

static void on_stats(void *ctx, const weir_client_stats *s, const weir_client_error *e) {
  ++*(int *)ctx;
  no_error(e);
  read_text(s->model), read_text(s->health.reason);
  for (size_t i = 0; i < s->n_families; i++) {
    read_text(s->family[i].name), read_text(s->family[i].help);
    for (size_t k = 0; k < s->family[i].n_samples; k++) {
      const weir_client_sample *x = &s->family[i].sample[k];
      for (size_t j = 0; j < x->n_labels; j++) read_text(x->label[j].name), read_text(x->label[j].value);
      for (size_t j = 0; j < x->n_buckets; j++) seen += (x->le[j] > 0) + (size_t)x->count[j];
    }
  }
}

static void on_ids(void *ctx, const weir_client_ids *ids, const weir_client_error *e) {
  ++*(int *)ctx;
  no_error(e);
  for (size_t i = 0; i < ids->n; i++) read_bytes(ids->text[i], ids->len[i] + 0 * ids->id[i]);
}

static void on_text(void *ctx, const char *text, size_t len, const weir_client_error *e) {
  ++*(int *)ctx;
  no_error(e);
  read_bytes(text, len);
}

typedef struct owner {
  uint32_t n_tokens;
  int starts, ends;
} owner;

static void on_start(void *ctx, uint32_t prompt_tokens) {
  owner *o = ctx;
  (void)prompt_tokens;
  require(++o->starts == 1 && o->n_tokens == 2 && !o->ends, "a start out of order");
}

static void on_token(void *ctx, const weir_client_token *t) {
  owner *o = ctx;
  require(t->index == o->n_tokens++ && o->starts && !o->ends, "a token out of order");
  read_bytes(t->text, t->len), read_text(t->why);
  for (size_t i = 0; i < t->n_top; i++) read_bytes(t->top[i].text, t->top[i].len);
}

static void on_end(void *ctx, const weir_client_end *end) {
  owner *o = ctx;
  require(++o->ends == 1, "two ends");
  read_text(end->reason), read_text(end->stop), read_text(end->error.message), read_text(end->error.param);
  read_text(end->usage.mode);
  require(end->usage.n_tiers <= WEIR_CLIENT_MAX_TIERS, "too many tiers");
}

/* A client without sockets, and one request that has two tokens already. */
static void deliver(const Weir__V1__PollReply *reply) {
  static weir_client c;
  owner o = {.n_tokens = 2};
  client_request r = {
      .state = REQUEST_OPEN, .have = 2, .number = 1, .events = {on_start, on_token, on_end, &o}};
  for (size_t i = 0; i < sizeof r.id; i++) r.id[i] = (uint8_t)(100 + i); /* of make_frame_corpus.py */
  memset(&c, 0, sizeof c);
  c.clock = weir_clock_system();
  c.running = true; /* no timer */
  c.n_open = 1;
  c.first = c.last = &r;
  for (int i = 0; i < CLIENT_BUCKETS; i++) c.by_id[i] = &r;
  client_deliver(&c, reply);
  require(c.n_open == 1 - o.ends && r.have == o.n_tokens && r.silent == (o.ends == 1), "other books");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 1) return 0;
  const weir_frame_kind kind = (weir_frame_kind)(1 + data[0] % WEIR_FRAME_LAST);
  weir_frame_msg m;
  weir_client_error e;
  int n_done = 0;
  if (client_unpack(kind, data + 1, size - 1, &m, &e) != 0) {
    require(weir_check_code((uint32_t)e.code) && memchr(e.message, 0, sizeof e.message),
            "a refusal without a reason");
    return 0;
  }
  client_call call = {.kind = kind, .ctx = &n_done};
  switch ((int)kind) {
    case WEIR_FRAME_HEALTH: call.done.health = on_health; break;
    case WEIR_FRAME_MODELS: call.done.model = on_model; break;
    case WEIR_FRAME_STATS: call.done.stats = on_stats; break;
    case WEIR_FRAME_TOKENIZE: call.done.ids = on_ids; break;
    case WEIR_FRAME_DETOKENIZE: call.done.text = on_text; break;
    default: n_done = 1; /* Submit and Cancel have nothing to hand over */
  }
  if (kind == WEIR_FRAME_POLL)
    deliver(m.as.poll_reply);
  else
    client_answer(&call, &m);
  require(n_done == 1, "not one answer");
  weir_frame_msg_fini(&m);
  return 0;
}
