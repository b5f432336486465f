/* SPDX-License-Identifier: Apache-2.0 */
/* The fake engine: written from PROTOCOL.md and not from the client. */
#include "fake_engine.h"

#include <nanomsg/nn.h>
#include <nanomsg/reqrep.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static void must(bool ok, const char *what) {
  if (ok) return;
  fprintf(stderr, "fake engine: %s: %s\n", what, nn_strerror(nn_errno()));
  abort();
}

void fake_reopen(fake_engine *f) {
  size_t n = sizeof f->fd;
  const int max = 64 << 20;
  f->socket = nn_socket(AF_SP_RAW, NN_REP);
  must(f->socket >= 0, "socket");
  must(nn_setsockopt(f->socket, NN_SOL_SOCKET, NN_RCVMAXSIZE, &max, sizeof max) == 0, "size");
  must(nn_bind(f->socket, f->url) >= 0, f->url);
  must(nn_getsockopt(f->socket, NN_SOL_SOCKET, NN_RCVFD, &f->fd, &n) == 0, "descriptor");
}

void fake_open(fake_engine *f, const char *url) {
  memset(f, 0, sizeof *f);
  if (url) {
    snprintf(f->url, sizeof f->url, "%s", url);
  } else {
    char folder[] = "/tmp/weir-test-XXXXXX";
    must(mkdtemp(folder) != NULL, "folder");
    snprintf(f->url, sizeof f->url, "ipc://%s/e", folder);
  }
  fake_reopen(f);
}

static void free_held(fake_msg *m) {
  if (m->control) nn_freemsg(m->control);
  free(m->body);
  *m = (fake_msg){0};
}

static void forget_pending(fake_engine *f) {
  for (int i = 0; i < f->n_held; i++) free_held(&f->held[i]);
  f->n_held = 0;
  free_held(&f->last);
  free_held(&f->parked);
  weir_frame_msg_fini(&f->parked_poll);
}

void fake_stop(fake_engine *f) {
  if (f->socket >= 0) nn_close(f->socket);
  f->socket = -1;
  forget_pending(f);
}

void fake_close(fake_engine *f) {
  fake_stop(f);
  if (strncmp(f->url, "ipc://", 6) != 0) return;
  unlink(f->url + 6);
  *strrchr(f->url, '/') = 0;
  rmdir(f->url + 6);
}

void fake_text(const uint8_t *id, uint32_t i, char text[32]) {
  snprintf(text, 32, "%02x%02x.%u ", id[0], id[1], i);
}
uint32_t fake_id(const uint8_t *id, uint32_t i) { return id[2] * 1000u + i; }

static fake_request *find(fake_engine *f, ProtobufCBinaryData id) {
  for (int i = 0; i < f->n_requests; i++)
    if (!f->request[i].forgotten && id.len == sizeof f->request[i].id &&
        memcmp(f->request[i].id, id.data, id.len) == 0)
      return &f->request[i];
  return NULL;
}

/* ---- replies ---- */

static void send_copy(fake_engine *f, const fake_msg *m) {
  void *control = nn_allocmsg(((struct nn_cmsghdr *)m->control)->cmsg_len, 0);
  must(control != NULL, "memory");
  memcpy(control, m->control, ((struct nn_cmsghdr *)m->control)->cmsg_len);
  struct nn_iovec iov = {.iov_base = m->body, .iov_len = m->n_bytes};
  struct nn_msghdr hdr = {
      .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = NN_MSG};
  must(nn_sendmsg(f->socket, &hdr, NN_DONTWAIT) >= 0, "send");
}

static void send_now(fake_engine *f, fake_msg *m) {
  if (f->stale && f->last.control) send_copy(f, &f->last);
  for (int copy = 0; copy <= f->twice; copy++) send_copy(f, m);
  free_held(&f->last);
  f->last = *m;
  *m = (fake_msg){0};
}

/* Takes control and body. */
static void reply(fake_engine *f, int kind, void *control, void *body, size_t n_bytes) {
  fake_msg m = {.control = control, .body = body, .n_bytes = n_bytes, .at_ns = now_ns() + f->delay_ns};
  if (f->drop[kind] > 0) {
    f->drop[kind]--;
    free_held(&m);
  } else if (f->delay_ns > 0) {
    must(f->n_held < FAKE_HELD, "too many replies held");
    f->held[f->n_held++] = m;
  } else {
    send_now(f, &m);
  }
}

static void reply_msg(fake_engine *f, int kind, void *control, const ProtobufCMessage *m, bool error) {
  const size_t n = weir_frame_size(m);
  void *body = malloc(n);
  must(body != NULL, "memory");
  weir_frame_pack(error ? WEIR_FRAME_ERROR : (weir_frame_kind)(kind | WEIR_FRAME_REPLY), m, body);
  reply(f, kind, control, body, n);
}

/* ---- polls ---- */

typedef struct written { /* one update */
  Weir__V1__Update u;
  Weir__V1__Token *token, **at;
  char (*text)[32];
  Weir__V1__End end;
  Weir__V1__Usage usage;
  uint32_t by_tier[2];
  Weir__V1__TierCost cost[2], *cost_at[2];
} written;

static bool fill(fake_engine *f, const Weir__V1__Cursor *cursor, written *w) {
  memset(w, 0, sizeof *w);
  weir__v1__update__init(&w->u);
  w->u.request_id = cursor->request_id;
  fake_request *r = find(f, cursor->request_id);
  if (!r) {
    w->u.state = 4;
    return true;
  }
  if (cursor->done) {
    if (!r->reason) r->reason = "cancelled"; /* its End is not wanted */
    r->forgotten = true;
    return false;
  }
  if (cursor->have > r->shown) r->shown = cursor->have;
  if (f->tells_prompt && r->written == 0 && !r->reason) {
    if (r->told_prompt && !(cursor->has_state_case && cursor->state < 1)) return false;
    r->told_prompt = true;
    w->u.state = 1;
    w->u.prompt_tokens = 5;
    return true;
  }
  const uint32_t from = f->repeats ? 0 : cursor->have;
  uint32_t to = r->written;
  if (f->per_reply && to - from > f->per_reply) to = from + f->per_reply;
  const bool all = to == r->written;
  if (to == cursor->have && !(r->reason && all)) return false;
  w->u.prompt_tokens = 5;
  w->u.from = from;
  w->u.state = 2;
  const size_t n = to - from;
  w->token = calloc(n + 1, sizeof *w->token);
  w->at = calloc(n + 1, sizeof *w->at);
  w->text = calloc(n + 1, sizeof *w->text);
  must(w->token && w->at && w->text, "memory");
  for (uint32_t i = 0; i < n; i++) {
    Weir__V1__Token *t = &w->token[i];
    weir__v1__token__init(t);
    fake_text(r->id, from + i, w->text[i]);
    t->text = (ProtobufCBinaryData){strlen(w->text[i]), (uint8_t *)w->text[i]};
    t->id = fake_id(r->id, from + i);
    t->tier = i & 1;
    t->why = "easy";
    t->has_entropy_case = WEIR__V1__TOKEN__HAS_ENTROPY_ENTROPY;
    t->entropy = 0.25f;
    w->at[i] = t;
  }
  w->u.token = w->at;
  w->u.n_token = n;
  if (r->reason && all) {
    w->u.state = 3;
    weir__v1__end__init(&w->end);
    weir__v1__usage__init(&w->usage);
    w->end.reason = (char *)r->reason;
    w->end.usage = &w->usage;
    w->usage.prompt_tokens = 5;
    w->usage.completion_tokens = r->written;
    w->by_tier[0] = r->written / 2 + r->written % 2;
    w->by_tier[1] = r->written / 2;
    w->usage.tokens_by_tier = w->by_tier;
    w->usage.n_tokens_by_tier = 2;
    w->usage.wanted_up = r->written / 2;
    for (int t = 0; t < 2; t++) {
      w->cost_at[t] = &w->cost[t];
      weir__v1__tier_cost__init(w->cost_at[t]);
      w->cost[t].flops = 1e12 * (t + 1);
      w->cost[t].kv_bytes_peak = 512 * (t + 1);
    }
    w->usage.cost = w->cost_at;
    w->usage.n_cost = 2;
    w->usage.large_only_flops = 4e12;
    w->usage.forced = 1;
    w->usage.routed = "wanted";
    w->usage.seed = 77;
    w->usage.mode = "defer";
    w->u.end = &w->end;
  }
  return true;
}

/* Answers the parked poll if there is news or its time is over. */
static void look_at_poll(fake_engine *f) {
  const Weir__V1__PollRequest *p = f->parked_poll.as.poll;
  if (!p) return;
  const size_t n_cursors = p->n_cursor;
  written *w = calloc(n_cursors + 1, sizeof *w);
  Weir__V1__Update **at = calloc(n_cursors + 1, sizeof *at);
  must(w && at, "memory");
  Weir__V1__PollReply m = WEIR__V1__POLL_REPLY__INIT;
  for (size_t i = 0; i < n_cursors; i++)
    if (fill(f, p->cursor[i], &w[m.n_update])) {
      at[m.n_update] = &w[m.n_update].u;
      m.n_update++;
    }
  m.update = at;
  m.replaced = f->replaced > 0;
  if (m.replaced) m.n_update = 0;
  if (m.n_update > 0 || m.replaced || now_ns() >= f->parked_until_ns) {
    if (m.replaced) f->replaced--;
    void *control = f->parked.control;
    f->parked.control = NULL;
    reply_msg(f, WEIR_FRAME_POLL, control, &m.base, false);
    weir_frame_msg_fini(&f->parked_poll);
  }
  for (size_t i = 0; i < n_cursors; i++) {
    free(w[i].token);
    free(w[i].at);
    free(w[i].text);
  }
  free(w);
  free(at);
}

/* ---- the other calls ---- */

static void on_submit(fake_engine *f, const Weir__V1__SubmitRequest *q, void *control) {
  Weir__V1__SubmitReply m = WEIR__V1__SUBMIT_REPLY__INIT;
  fake_request *r = find(f, q->request_id);
  m.known = r != NULL;
  if (!r) {
    must(f->n_requests < FAKE_REQUESTS, "too many requests");
    r = &f->request[f->n_requests++];
    *r = (fake_request){0};
    memcpy(r->id, q->request_id.data, sizeof r->id);
    if (f->on_submit) f->on_submit(f->ctx, q);
  }
  r->submits++;
  reply_msg(f, WEIR_FRAME_SUBMIT, control, &m.base, false);
}

static void on_cancel(fake_engine *f, const Weir__V1__CancelRequest *q, void *control) {
  Weir__V1__CancelReply m = WEIR__V1__CANCEL_REPLY__INIT;
  for (int i = 0; i < f->n_requests; i++) {
    fake_request *r = &f->request[i];
    bool named = q->n_request_id == 0;
    for (size_t k = 0; k < q->n_request_id; k++) named |= find(f, q->request_id[k]) == r;
    if (!named || r->reason) continue;
    r->cancelled = true;
    r->reason = "cancelled";
    m.cancelled++;
  }
  reply_msg(f, WEIR_FRAME_CANCEL, control, &m.base, false);
}

static void on_models(fake_engine *f, void *control) {
  Weir__V1__TierInfo tier = WEIR__V1__TIER_INFO__INIT, *tier_at[] = {&tier};
  tier.name = "small";
  tier.device = "cpu";
  tier.weight_bytes = UINT64_C(1) << 40;
  char *modes[] = {"defer", "exact"};
  Weir__V1__ModelsReply m = WEIR__V1__MODELS_REPLY__INIT;
  m.id = "pair";
  m.context = 4096;
  m.tier = tier_at;
  m.n_tier = 1;
  m.modes = modes;
  m.n_modes = 2;
  m.has_entropy_case = WEIR__V1__MODELS_REPLY__HAS_ENTROPY_ENTROPY;
  m.entropy = 0.5f;
  m.max_request_bytes = f->max_request_bytes;
  reply_msg(f, WEIR_FRAME_MODELS, control, &m.base, false);
}

static void on_stats(fake_engine *f, void *control) {
  Weir__V1__Label label = WEIR__V1__LABEL__INIT, *label_at[] = {&label};
  label.name = "tier";
  label.value = "small";
  Weir__V1__Bucket bucket[2] = {WEIR__V1__BUCKET__INIT, WEIR__V1__BUCKET__INIT};
  Weir__V1__Bucket *bucket_at[] = {&bucket[0], &bucket[1]};
  bucket[0].le = 0.1;
  bucket[0].count = 3;
  bucket[1].le = __builtin_inf();
  bucket[1].count = 4;
  Weir__V1__Sample sample[3] = {WEIR__V1__SAMPLE__INIT, WEIR__V1__SAMPLE__INIT, WEIR__V1__SAMPLE__INIT};
  Weir__V1__Sample *sample_at[] = {&sample[0], &sample[1]}, *last_at[] = {&sample[2]};
  sample[0].value = 1;
  sample[1].label = label_at;
  sample[1].n_label = 1;
  sample[1].bucket = bucket_at;
  sample[1].n_bucket = 2;
  sample[1].count = 4;
  sample[2].value = 9;
  Weir__V1__Family family[2] = {WEIR__V1__FAMILY__INIT, WEIR__V1__FAMILY__INIT};
  Weir__V1__Family *family_at[] = {&family[0], &family[1]};
  family[0].name = "weir:a";
  family[0].type = 2;
  family[0].sample = sample_at;
  family[0].n_sample = 2;
  family[1].name = "weir:b";
  family[1].sample = last_at;
  family[1].n_sample = 1;
  Weir__V1__HealthReply health = WEIR__V1__HEALTH_REPLY__INIT;
  health.live = true;
  Weir__V1__StatsReply m = WEIR__V1__STATS_REPLY__INIT;
  m.family = family_at;
  m.n_family = 2;
  m.health = &health;
  m.model = "pair";
  reply_msg(f, WEIR_FRAME_STATS, control, &m.base, false);
}

/* Each byte is a token. */
static void on_tokenize(fake_engine *f, const Weir__V1__TokenizeRequest *q, void *control) {
  const char *text = q->n_chat ? q->chat[0]->text : q->text;
  const size_t n = strlen(text);
  uint32_t *id = calloc(n + 1, sizeof *id);
  ProtobufCBinaryData *piece = calloc(n + 1, sizeof *piece);
  must(id && piece, "memory");
  for (size_t i = 0; i < n; i++) {
    id[i] = (uint8_t)text[i];
    piece[i] = (ProtobufCBinaryData){1, (uint8_t *)text + i};
  }
  Weir__V1__TokenizeReply m = WEIR__V1__TOKENIZE_REPLY__INIT;
  m.id = id;
  m.text = piece;
  m.n_id = m.n_text = n;
  reply_msg(f, WEIR_FRAME_TOKENIZE, control, &m.base, false);
  free(id);
  free(piece);
}

static void on_detokenize(fake_engine *f, const Weir__V1__DetokenizeRequest *q, void *control) {
  uint8_t text[64];
  const size_t n = q->n_id < sizeof text ? q->n_id : sizeof text;
  for (size_t i = 0; i < n; i++) text[i] = (uint8_t)q->id[i];
  Weir__V1__DetokenizeReply m = WEIR__V1__DETOKENIZE_REPLY__INIT;
  m.text = (ProtobufCBinaryData){n, text};
  reply_msg(f, WEIR_FRAME_DETOKENIZE, control, &m.base, false);
}

/* Takes control and m. */
static void handle(fake_engine *f, weir_frame_msg *m, void *control) {
  const int kind = (int)m->kind;
  if (f->silent) {
    nn_freemsg(control);
  } else if (f->raw[kind]) {
    void *body = malloc(f->n_raw[kind] ? f->n_raw[kind] : 1);
    must(body != NULL, "memory");
    memcpy(body, f->raw[kind], f->n_raw[kind]);
    reply(f, kind, control, body, f->n_raw[kind]);
  } else if (f->error[kind]) {
    reply_msg(f, kind, control, &f->error[kind]->base, true);
  } else if (kind == WEIR_FRAME_POLL) {
    free_held(&f->parked); /* replaced, without a word: it came over the same connection */
    weir_frame_msg_fini(&f->parked_poll);
    f->parked.control = control;
    f->parked_until_ns = now_ns() + m->as.poll->wait_ms * INT64_C(1000000);
    f->parked_poll = *m;
    *m = (weir_frame_msg){0};
    look_at_poll(f);
  } else if (kind == WEIR_FRAME_SUBMIT) {
    on_submit(f, m->as.submit, control);
  } else if (kind == WEIR_FRAME_CANCEL) {
    on_cancel(f, m->as.cancel, control);
  } else if (kind == WEIR_FRAME_MODELS) {
    on_models(f, control);
  } else if (kind == WEIR_FRAME_STATS) {
    on_stats(f, control);
  } else if (kind == WEIR_FRAME_TOKENIZE) {
    on_tokenize(f, m->as.tokenize, control);
  } else if (kind == WEIR_FRAME_DETOKENIZE) {
    on_detokenize(f, m->as.detokenize, control);
  } else {
    Weir__V1__TierHealth tier[6], *at[6]; /* more than the library shows */
    for (int i = 0; i < 6; i++) {
      weir__v1__tier_health__init(at[i] = &tier[i]);
      tier[i].name = i ? "large" : "small";
      tier[i].up = i == 0;
      tier[i].for_ms = 1000 + (uint64_t)i;
      tier[i].reason = i ? "node 1 is silent" : "";
      tier[i].deaths = (uint64_t)i;
      tier[i].comes_back = i == 1;
    }
    Weir__V1__HealthReply h = WEIR__V1__HEALTH_REPLY__INIT;
    h.tier = at;
    h.n_tier = 6;
    h.live = true;
    h.reason = "loading";
    h.queue_limit = 256;
    reply_msg(f, kind, control, &h.base, false);
  }
  weir_frame_msg_fini(m);
}

void fake_step(fake_engine *f) {
  for (;;) {
    void *body = NULL, *control = NULL;
    struct nn_iovec iov = {.iov_base = &body, .iov_len = NN_MSG};
    struct nn_msghdr hdr = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = NN_MSG};
    const int n = f->socket < 0 ? -1 : nn_recvmsg(f->socket, &hdr, NN_DONTWAIT);
    if (n < 0) break;
    weir_frame frame;
    weir_frame_msg m;
    weir_err e = {0};
    const char *param = "";
    bool ok = weir_frame_parse(body, (size_t)n, &frame, &e) == WEIR_OK;
    ok = ok && weir_frame_unpack(frame.kind, frame.body, frame.body_bytes, SIZE_MAX, &m, &e) == WEIR_OK;
    ok = ok && weir_check_request(&m, &param, &e) == WEIR_OK;
    if (!ok) fprintf(stderr, "fake engine: the client sent nonsense: %s %s\n", param, e.msg);
    must(ok, "request");
    f->asked[m.kind]++;
    nn_freemsg(body);
    handle(f, &m, control);
  }
  look_at_poll(f);
  const int64_t now = now_ns();
  int kept = 0;
  for (int i = 0; i < f->n_held; i++) {
    if (f->held[i].at_ns <= now)
      send_now(f, &f->held[i]);
    else
      f->held[kept++] = f->held[i];
  }
  f->n_held = kept;
}

int64_t fake_due(const fake_engine *f) {
  int64_t due = f->parked_poll.as.poll ? f->parked_until_ns : INT64_MAX;
  for (int i = 0; i < f->n_held; i++)
    if (f->held[i].at_ns < due) due = f->held[i].at_ns;
  return due;
}

void fake_write(fake_engine *f, uint32_t n, const char *reason) {
  for (int i = 0; i < f->n_requests; i++) {
    fake_request *r = &f->request[i];
    if (r->reason) continue;
    r->written += n;
    r->reason = reason;
  }
  if (f->socket >= 0) look_at_poll(f);
}
