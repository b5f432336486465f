/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: a crew's leader, and a worker, on a clock and with sockets of the test's own (the functions of
 * comm/crew_nn.h stand below in place of nanomsg's), which are sent what the input says. An input is a row of
 * records: a byte that says what, the length of its data in two bytes, the data.
 *
 * Whatever comes, events keep their order (joined, messages, lost), every request is answered or dropped
 * once, answers are frames, and nothing is left in the end. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "comm/crew_in.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { NODES = 3 };
enum { TO_LEADER, WAIT, LEADER_SENDS, ON_UP, ON_DOWN, WORKER_SENDS, BREAK, N_RECORDS };

typedef struct box {
  weir_crew crew;
  const uint8_t *mail; /* what is to be received next; NULL: nothing */
  size_t mail_bytes;
  const uint8_t *answer[2]; /* likewise, on lane up and lane down */
  size_t answer_bytes[2];
  int n_from; /* requests that are neither answered nor dropped */
  bool here[NODES];
  uint64_t link; /* of the worker's last request */
} box;

static box leader, worker;
static int64_t now_ns;
static uint64_t broken;

static void require(bool ok, const char *what) {
  if (ok) return;
  fprintf(stderr, "fuzz_crew: %s\n", what);
  abort();
}

/* ---- in place of nanomsg ---- */

static void check_frame(const crew_frame *f, const crew_out *out, bool request) {
  static uint8_t part[CREW_PART_BYTES];
  uint8_t head[CREW_HEAD_BYTES];
  crew_frame again;
  crew_frame_head(f, head);
  require(crew_frame_parse(head, sizeof head, &again, NULL) == WEIR_OK, "it says what is no frame");
  require(((int)again.kind <= CREW_LAST_REQUEST) == request, "a request where an answer belongs");
  require(f->bytes <= CREW_PART_BYTES, "a frame that is too long");
  if (out) crew_out_copy(out, part, sizeof part);
}

weir_status crew_port_open(crew_port *p, const char *addr, bool has_token, weir_err *e) {
  (void)addr;
  (void)has_token;
  (void)e;
  *p = (crew_port){-1, -1};
  return WEIR_OK;
}

void crew_port_close(crew_port *p) { (void)p; }

bool crew_port_recv(crew_port *p, crew_mail *out) {
  (void)p;
  *out = (crew_mail){0};
  if (!leader.mail) return false;
  out->body = malloc(leader.mail_bytes ? leader.mail_bytes : 1);
  out->from = malloc(1);
  if (!out->body || !out->from) abort();
  memcpy(out->body, leader.mail, leader.mail_bytes);
  out->bytes = leader.mail_bytes;
  leader.mail = NULL;
  leader.n_from++;
  return true;
}

void crew_mail_fini(crew_mail *m) {
  free(m->body);
  crew_port_drop(m->from);
  *m = (crew_mail){0};
}

void crew_port_drop(void *from) {
  if (from) leader.n_from--;
  free(from);
}

void crew_port_answer(crew_port *p, void *from, const crew_frame *f, const crew_out *out) {
  (void)p;
  require(from != NULL, "an answer to nobody");
  check_frame(f, out, false);
  crew_port_drop(from);
}

uint64_t crew_port_broken(const crew_port *p) {
  (void)p;
  return broken;
}

/* Each that breaks is one that had greeted. */
uint64_t crew_port_connected(const crew_port *p) {
  (void)p;
  return UINT64_MAX - broken;
}

weir_status crew_lane_open(crew_lane *l, const char *addr, weir_err *e) {
  (void)addr;
  (void)e;
  *l = (crew_lane){.socket = -1, .recv_fd = -1, .send_fd = -1};
  return WEIR_OK;
}

void crew_lane_forget(crew_lane *l) {
  free(l->msg);
  l->msg = NULL;
}

void crew_lane_close(crew_lane *l) { crew_lane_forget(l); }

weir_status crew_lane_send(crew_lane *l, const crew_frame *f, const crew_out *out, int64_t at_ns) {
  check_frame(f, out, true);
  crew_lane_forget(l);
  l->msg = malloc(1);
  l->sent = true;
  l->sent_ns = at_ns;
  worker.link = f->link;
  return WEIR_OK;
}

void crew_lane_step(crew_lane *l, int64_t at_ns, int64_t resend_ns) {
  (void)l;
  (void)at_ns;
  require(resend_ns > 0, "it sends without end");
}

void *crew_lane_recv(crew_lane *l, size_t *bytes) {
  const int k = l == (crew_lane *)(void *)worker.crew.worker ? 0 : 1; /* up comes first in it */
  if (!l->msg || !worker.answer[k]) return NULL;
  uint8_t *body = malloc(worker.answer_bytes[k] ? worker.answer_bytes[k] : 1);
  if (!body) abort();
  *bytes = worker.answer_bytes[k];
  memcpy(body, worker.answer[k], *bytes);
  worker.answer[k] = NULL;
  /* a link is drawn by lot: one of ones stands for the right one */
  if (*bytes >= 16 && memcmp(body + 8, "\xff\xff\xff\xff\xff\xff\xff\xff", 8) == 0)
    for (int i = 0; i < 8; i++) body[8 + i] = (uint8_t)(worker.link >> (8 * i));
  crew_lane_forget(l);
  return body;
}

void crew_lane_free(void *answer) { free(answer); }

/* ---- two crews ---- */

static int64_t look(void *ctx) {
  (void)ctx;
  return now_ns;
}

static void on_event(void *ctx, const weir_crew_event *ev) {
  box *b = ctx;
  volatile uint8_t sum = 0;
  require(ev->node >= 0 && ev->node < NODES && ev->who[0], "an event of nobody");
  if (ev->kind == WEIR_CREW_JOINED) {
    require(!b->here[ev->node], "joined twice");
    b->here[ev->node] = true;
  } else if (ev->kind == WEIR_CREW_LOST) {
    require(b->here[ev->node] || b == &worker, "lost what was not here"); /* a worker is refused */
    require(ev->why && ev->why[0], "lost for no reason");
    b->here[ev->node] = false;
  } else {
    require(b->here[ev->node], "a message of one that is not here");
    require(ev->bytes <= WEIR_CREW_MAX_MESSAGE, "a message that is too long");
    for (size_t i = 0; i < ev->bytes; i++) sum ^= ((const uint8_t *)ev->data)[i];
  }
  weir_crew_send(&b->crew, ev->node, "so?", 3, NULL);
}

static void open_box(box *b, int32_t node) {
  memset(b, 0, sizeof *b);
  b->crew.o = (weir_crew_opts){.node = node,
                               .n_nodes = NODES,
                               .addr = "",
                               .token = "secret",
                               .version = "1",
                               .on_event = on_event,
                               .ctx = b};
  b->crew.clock = (weir_clock){look, NULL};
  b->crew.bound_ns = 1000000000;
  b->crew.self = (crew_hello){.incarnation = 5, .bound_ns = 1000000000, .n_nodes = NODES, .host = "here"};
  b->crew.wake_fd = -1;
  pthread_mutex_init(&b->crew.lock, NULL);
  const weir_status st = node == 0 ? crew_leader_create(&b->crew, NULL) : crew_worker_create(&b->crew, NULL);
  require(st == WEIR_OK, "it cannot be made");
}

static void step(void) {
  require(crew_leader_step(&leader.crew) > now_ns, "the leader does not rest");
  require(crew_worker_step(&worker.crew) > now_ns, "the worker does not rest");
}

static void close_box(box *b) {
  crew_leader_destroy(b->crew.leader);
  crew_worker_destroy(b->crew.worker);
  pthread_mutex_destroy(&b->crew.lock);
  require(b->n_from == 0, "a request is neither answered nor dropped");
}

static void record(int what, const uint8_t *data, size_t n) {
  char text[512];
  const uint8_t node = n && what != WAIT ? data[0] : 0;
  if (what == TO_LEADER) {
    leader.mail = data;
    leader.mail_bytes = n;
  } else if (what == WAIT) {
    now_ns += (int64_t)n * 10000000;
  } else if (what == LEADER_SENDS) {
    weir_crew_send(&leader.crew, node, data, n, NULL);
  } else if (what == ON_UP || what == ON_DOWN) {
    worker.answer[what == ON_DOWN] = data;
    worker.answer_bytes[what == ON_DOWN] = n;
  } else if (what == BREAK) {
    broken++;
  } else {
    weir_crew_send(&worker.crew, 0, data, n, NULL);
  }
  step();
  weir_crew_missing(&leader.crew, text, sizeof text);
  weir_crew_who(&leader.crew, node, text, sizeof text);
  worker.answer[0] = worker.answer[1] = NULL; /* nothing was asked */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  weir_log_set_level(WEIR_LOG_ERROR);
  now_ns = 1;
  broken = 0;
  open_box(&leader, 0);
  open_box(&worker, 1);
  step();
  for (size_t at = 0; size - at >= 3;) {
    const int what = data[at] % N_RECORDS;
    size_t n = (size_t)(data[at + 1] | data[at + 2] << 8);
    at += 3;
    if (n > size - at && what != WAIT) n = size - at;
    record(what, data + at, n);
    if (what != WAIT) at += n;
  }
  close_box(&leader);
  close_box(&worker);
  return 0;
}
