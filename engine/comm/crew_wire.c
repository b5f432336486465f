/* SPDX-License-Identifier: Apache-2.0 */
/* Frames and streams of a crew, to bytes and back. Owns queues of messages; whoever holds them calls. All
 * that is read here may come from anybody who reaches the port. */
#include "comm/crew_wire.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

static const char magic[4] = {'W', 'C', 'R', 'W'};

static void put_le(uint8_t *to, uint64_t v, int n) {
  for (int i = 0; i < n; i++) to[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t get_le(const uint8_t *from, int n) {
  uint64_t v = 0;
  for (int i = 0; i < n; i++) v |= (uint64_t)from[i] << (8 * i);
  return v;
}

/* ---- frames ---- */

void crew_frame_head(const crew_frame *f, uint8_t out[CREW_HEAD_BYTES]) {
  memcpy(out, magic, sizeof magic);
  out[4] = CREW_WIRE_VERSION;
  out[5] = (uint8_t)f->kind;
  put_le(out + 6, (uint64_t)f->node, 2);
  put_le(out + 8, f->link, 8);
  put_le(out + 16, f->turn, 8);
  put_le(out + 24, f->at, 8);
  put_le(out + 32, f->beat, 8);
}

weir_status crew_frame_parse(const void *bytes, size_t n, crew_frame *out, weir_err *e) {
  const uint8_t *b = bytes;
  *out = (crew_frame){0};
  if (n < CREW_HEAD_BYTES) return weir_fail(e, WEIR_EFORMAT, "a frame of %zu bytes", n);
  if (memcmp(b, magic, sizeof magic) != 0) return weir_fail(e, WEIR_EFORMAT, "no frame of a crew");
  const int kind = b[5];
  out->kind = (crew_kind)kind;
  out->node = (int32_t)get_le(b + 6, 2);
  if (b[4] != CREW_WIRE_VERSION)
    return weir_fail(e, WEIR_EUNSUP, "version %d of the crew's wire, want %d", b[4], CREW_WIRE_VERSION);
  if (n > CREW_FRAME_BYTES) return weir_fail(e, WEIR_EFORMAT, "a frame of %zu bytes", n);
  if (kind < CREW_HELLO || kind > CREW_LAST_ANSWER || (kind > CREW_LAST_REQUEST && kind < CREW_WELCOME))
    return weir_fail(e, WEIR_EFORMAT, "a frame of kind %d", kind);
  out->link = get_le(b + 8, 8);
  out->turn = get_le(b + 16, 8);
  out->at = get_le(b + 24, 8);
  out->beat = get_le(b + 32, 8);
  out->data = b + CREW_HEAD_BYTES;
  out->bytes = n - CREW_HEAD_BYTES;
  return WEIR_OK;
}

/* ---- who says hello ---- */

static uint8_t *put_text(uint8_t *to, const char *s, size_t cap) {
  size_t n = strlen(s);
  if (n >= cap) n = cap - 1;
  put_le(to, n, 2);
  memcpy(to + 2, s, n);
  return to + 2 + n;
}

size_t crew_hello_put(const crew_hello *h, uint8_t out[CREW_HELLO_BYTES]) {
  put_le(out, h->incarnation, 8);
  put_le(out + 8, (uint64_t)h->bound_ns, 8);
  put_le(out + 16, (uint64_t)h->n_nodes, 4);
  put_le(out + 20, (uint64_t)h->pid, 4);
  uint8_t *to = put_text(out + 24, h->host, sizeof h->host);
  to = put_text(to, h->token, sizeof h->token);
  to = put_text(to, h->version, sizeof h->version);
  return (size_t)(to - out);
}

static bool get_text(const uint8_t **at, const uint8_t *end, char *out, size_t cap) {
  if (end - *at < 2) return false;
  const size_t n = (size_t)get_le(*at, 2);
  *at += 2;
  if (n >= cap || n > (size_t)(end - *at) || memchr(*at, 0, n)) return false;
  memcpy(out, *at, n);
  out[n] = 0;
  *at += n;
  return true;
}

/* It goes to logs and terminals. */
static void make_printable(char *s) {
  for (; *s; s++)
    if ((unsigned char)*s < 0x20 || (unsigned char)*s > 0x7e) *s = '?';
}

weir_status crew_hello_parse(const void *bytes, size_t n, crew_hello *out, weir_err *e) {
  const uint8_t *b = bytes;
  memset(out, 0, sizeof *out);
  if (n < 24) return weir_fail(e, WEIR_EFORMAT, "a hello of %zu bytes", n);
  const uint8_t *at = b + 24, *end = b + n;
  const uint64_t bound = get_le(b + 8, 8), n_nodes = get_le(b + 16, 4), pid = get_le(b + 20, 4);
  out->incarnation = get_le(b, 8);
  if (bound == 0 || bound > INT64_MAX || n_nodes > INT32_MAX || pid > INT32_MAX)
    return weir_fail(e, WEIR_EFORMAT, "a hello with impossible numbers");
  out->bound_ns = (int64_t)bound;
  out->n_nodes = (int32_t)n_nodes;
  out->pid = (int32_t)pid;
  if (!get_text(&at, end, out->host, sizeof out->host) ||
      !get_text(&at, end, out->token, sizeof out->token) ||
      !get_text(&at, end, out->version, sizeof out->version) || at != end)
    return weir_fail(e, WEIR_EFORMAT, "a hello with impossible texts");
  make_printable(out->host);
  make_printable(out->version);
  return WEIR_OK;
}

void crew_text(const crew_frame *f, char *out, size_t cap) {
  const size_t n = f->bytes < cap ? f->bytes : cap - 1;
  if (n) memcpy(out, f->data, n);
  out[n] = 0;
  make_printable(out);
}

/* ---- what goes out ---- */

enum { LENGTH_BYTES = 4 };

struct crew_chunk {
  crew_chunk *next;
  size_t bytes;
  uint8_t data[]; /* the length, the message */
};

weir_status crew_out_put(crew_out *o, const void *data, size_t bytes, weir_err *e) {
  if (bytes > WEIR_CREW_MAX_MESSAGE)
    return weir_fail(e, WEIR_EINVAL, "a message of %zu bytes, at most %d are sent", bytes,
                     WEIR_CREW_MAX_MESSAGE);
  if (o->end - o->base + bytes > WEIR_CREW_MAX_QUEUED)
    return weir_fail(e, WEIR_EBUSY, "%llu bytes wait already", (unsigned long long)(o->end - o->base));
  crew_chunk *c = malloc(sizeof *c + LENGTH_BYTES + bytes);
  if (!c) return weir_fail(e, WEIR_ENOMEM, "no memory for a message of %zu bytes", bytes);
  c->next = NULL;
  c->bytes = LENGTH_BYTES + bytes;
  put_le(c->data, bytes, LENGTH_BYTES);
  if (bytes) memcpy(c->data + LENGTH_BYTES, data, bytes);
  if (o->last)
    o->last->next = c;
  else
    o->first = c;
  o->last = c;
  o->end += c->bytes;
  return WEIR_OK;
}

bool crew_out_take(crew_out *o, uint64_t at) {
  if (at < o->taken || at > o->end) return false;
  o->taken = at;
  while (o->first && at - o->base >= o->first->bytes) {
    crew_chunk *gone = o->first;
    o->base += gone->bytes;
    o->first = gone->next;
    if (!o->first) o->last = NULL;
    free(gone);
  }
  return true;
}

size_t crew_out_copy(const crew_out *o, void *to, size_t cap) {
  size_t skip = (size_t)(o->taken - o->base), done = 0;
  for (const crew_chunk *c = o->first; c && done < cap; c = c->next) {
    size_t n = c->bytes - skip;
    if (n > cap - done) n = cap - done;
    memcpy((uint8_t *)to + done, c->data + skip, n);
    done += n;
    skip = 0;
  }
  return done;
}

void crew_out_fini(crew_out *o) {
  for (crew_chunk *c = o->first, *next; c; c = next) {
    next = c->next;
    free(c);
  }
  *o = (crew_out){0};
}

/* ---- what comes in ---- */

enum { KEEP_BYTES = 4 << 20 }; /* a buffer that has grown beyond is given back after the message */

static void deliver(crew_in *in, crew_message_fn fn, void *ctx) {
  fn(ctx, in->msg.data ? in->msg.data : "", in->msg.len);
  in->n_head = 0;
  if (in->msg.cap > KEEP_BYTES)
    weir_buf_fini(&in->msg);
  else if (in->msg.data)
    weir_buf_truncate(&in->msg, 0);
}

weir_status crew_in_take(crew_in *in, uint64_t at, const void *data, size_t bytes, crew_message_fn fn,
                         void *ctx, weir_err *e) {
  const uint8_t *b = data;
  if (at > in->at)
    return weir_fail(e, WEIR_EFORMAT, "%llu bytes of the stream are missing",
                     (unsigned long long)(at - in->at));
  if (in->at - at >= bytes) return WEIR_OK;
  b += in->at - at;
  for (const uint8_t *end = (const uint8_t *)data + bytes; b < end;) {
    if (in->n_head < LENGTH_BYTES) {
      in->head[in->n_head++] = *b++;
      in->at++;
      if (in->n_head < LENGTH_BYTES) continue;
      in->want = (uint32_t)get_le(in->head, LENGTH_BYTES);
      if (in->want > WEIR_CREW_MAX_MESSAGE)
        return weir_fail(e, WEIR_EFORMAT, "a message of %u bytes, at most %d are taken", in->want,
                         WEIR_CREW_MAX_MESSAGE);
    }
    /* It grows with what comes, not with what was announced. */
    size_t n = (size_t)(end - b);
    if (n > in->want - in->msg.len) n = in->want - in->msg.len;
    const weir_status st = n ? weir_buf_put(&in->msg, b, n, e) : WEIR_OK;
    if (st != WEIR_OK) return st;
    b += n;
    in->at += n;
    if (in->msg.len == in->want) deliver(in, fn, ctx);
  }
  return WEIR_OK;
}

void crew_in_fini(crew_in *in) {
  weir_buf_fini(&in->msg);
  *in = (crew_in){0};
}
