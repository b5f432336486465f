/* SPDX-License-Identifier: Apache-2.0 */
/* The wire between a leader and its workers. Owns nothing; any thread. The header is 8 bytes: kind, version,
 * two that are 0, length of the whole. Numbers follow in the order of the struct, texts as a length and bytes
 * without the NUL. A step's arrays lie as they are used, so that a worker computes from the message itself.
 */
#include "run/tp_wire.h"

#include <stdbool.h>
#include <string.h>

#include "base/mem.h"
#include "kv/pages.h"
#include "step/batch.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the wire is little-endian, and its arrays are used where they lie"
#endif

enum { HEADER = 8 };

typedef struct header {
  uint8_t kind, version;
  uint16_t zero;
  uint32_t bytes;
} header;

weir_status weir_tp_wire_kind(const void *data, size_t bytes, weir_tp_kind *out, weir_err *e) {
  header h;
  if (bytes < sizeof h) return weir_fail(e, WEIR_EFORMAT, "message of %zu bytes", bytes);
  memcpy(&h, data, sizeof h);
  if (h.version != WEIR_TP_WIRE_VERSION)
    return weir_fail(e, WEIR_EUNSUP, "message of version %d, this program speaks %d", h.version,
                     WEIR_TP_WIRE_VERSION);
  if (h.zero != 0 || h.kind < WEIR_TP_HELLO || h.kind > WEIR_TP_LAST)
    return weir_fail(e, WEIR_EFORMAT, "message of an unknown kind %d", h.kind);
  if (h.bytes != bytes) return weir_fail(e, WEIR_EFORMAT, "message of %zu bytes says %u", bytes, h.bytes);
  *out = (weir_tp_kind)h.kind;
  return WEIR_OK;
}

/* Reads or writes, so that the order of fields stands in one place. A failed one goes on doing nothing. */
typedef struct wire {
  weir_buf *out;     /* writing */
  const uint8_t *in; /* reading; NULL: writing */
  size_t left;
  weir_status st;
  weir_err *e;
} wire;

static void raw(wire *w, void *x, size_t n, const char *what) {
  if (w->st != WEIR_OK) return;
  if (!w->in) {
    w->st = weir_buf_put(w->out, x, n, w->e);
  } else if (n > w->left) {
    w->st = weir_fail(w->e, WEIR_EFORMAT, "message ends before its %s", what);
  } else {
    memcpy(x, w->in, n);
    w->in += n;
    w->left -= n;
  }
}

static void u64(wire *w, uint64_t *x, const char *what) { raw(w, x, sizeof *x, what); }

static void within(wire *w, int64_t x, int64_t min, int64_t max, const char *what) {
  if (w->st == WEIR_OK && w->in && (x < min || x > max))
    w->st = weir_fail(w->e, WEIR_EFORMAT, "%s %lld, want %lld to %lld", what, (long long)x, (long long)min,
                      (long long)max);
}

static void i64(wire *w, int64_t *x, int64_t min, int64_t max, const char *what) {
  raw(w, x, sizeof *x, what);
  within(w, *x, min, max, what);
}

static void i32(wire *w, int32_t *x, int32_t min, int32_t max, const char *what) {
  raw(w, x, sizeof *x, what);
  within(w, *x, min, max, what);
}

/* Printable ASCII in offers and invitations; a line of any text elsewhere, what is no letter becomes '?'. */
static void text(wire *w, char *x, size_t cap, bool strict, const char *what) {
  uint32_t n = w->in ? 0 : (uint32_t)strnlen(x, cap - 1);
  raw(w, &n, sizeof n, what);
  if (w->st == WEIR_OK && n >= cap)
    w->st = weir_fail(w->e, WEIR_EFORMAT, "%s of %u bytes, at most %zu", what, n, cap - 1);
  raw(w, x, n, what);
  if (w->st != WEIR_OK || !w->in) return;
  x[n] = '\0';
  for (uint32_t i = 0; i < n; i++) {
    const unsigned char c = (unsigned char)x[i];
    if (c >= 0x20 && c != 0x7f && (c < 0x7f || !strict)) continue;
    if (strict) {
      w->st = weir_fail(w->e, WEIR_EFORMAT, "%s has byte %d", what, c);
      return;
    }
    x[i] = '?';
  }
}

static void plan(wire *w, weir_tp_plan *p) {
  int32_t comm = (int32_t)p->comm, kv = (int32_t)p->kv_dtype;
  i32(w, &p->n_nodes, 1, WEIR_CREW_MAX_NODES, "nodes");
  i32(w, &p->n_local, 1, WEIR_MAX_RANKS, "ranks of a node");
  if (w->st == WEIR_OK) within(w, (int64_t)p->n_nodes * p->n_local, 1, WEIR_MAX_RANKS, "ranks");
  i32(w, &comm, 0, WEIR_N_COMMS - 1, "communicator");
  i32(w, &p->n_ctx, 0, WEIR_MAX_CONTEXT, "context");
  i32(w, &p->max_tokens, 1, 1 << 20, "rows of a step");
  i32(w, &p->max_seqs, 1, 1 << 20, "sequences of a step");
  i32(w, &p->n_valid, 0, WEIR_MAX_VOCAB, "vocabulary");
  i32(w, &kv, 0, WEIR_DTYPE_COUNT - 1, "type of KV");
  if (!w->in || w->st != WEIR_OK) return;
  p->comm = (weir_comm_kind)comm;
  p->kv_dtype = (weir_dtype)kv;
}

static void body(wire *w, weir_tp_msg *m) {
  if (m->kind >= WEIR_TP_SEATS) u64(w, &m->group, "group");
  switch (m->kind) {
    case WEIR_TP_HELLO:
      u64(w, &m->model, "model");
      i32(w, &m->n_nodes, 1, WEIR_CREW_MAX_NODES, "nodes");
      i32(w, &m->n_local, 1, WEIR_MAX_RANKS, "ranks of a node");
      break;
    case WEIR_TP_PLAN:
      plan(w, &m->plan);
      i64(w, &m->bound_ns, 1, INT64_C(1000000000) * 86400, "bound");
      break;
    case WEIR_TP_PROGRESS: i32(w, &m->percent, 0, 100, "progress"); break;
    case WEIR_TP_LOADED: i64(w, &m->room, -1, INT64_MAX, "room"); break;
    case WEIR_TP_SEATS: i32(w, &m->n_pages, 1, INT32_MAX, "pages"); break;
    case WEIR_TP_OFFERS:
      i32(w, &m->n_offers, 1, WEIR_MAX_RANKS, "offers");
      for (int32_t i = 0; w->st == WEIR_OK && i < m->n_offers; i++)
        text(w, m->offer[i], sizeof m->offer[i], true, "offer");
      break;
    case WEIR_TP_INVITE: text(w, m->invite, sizeof m->invite, true, "invitation"); break;
    case WEIR_TP_FAILED:
      i32(w, &m->rank, -1, WEIR_MAX_RANKS - 1, "rank");
      text(w, m->why, sizeof m->why, false, "reason");
      break;
    case WEIR_TP_REFUSED:
    case WEIR_TP_ABORT: text(w, m->why, sizeof m->why, false, "reason"); break;
    case WEIR_TP_READY: break;
    case WEIR_TP_STEP: w->st = weir_fail(w->e, WEIR_EINVAL, "a step is no message of this kind"); break;
  }
}

weir_status weir_tp_msg_put(const weir_tp_msg *m, weir_buf *out, weir_err *e) {
  const size_t at = out->len;
  header h = {.kind = (uint8_t)m->kind, .version = WEIR_TP_WIRE_VERSION};
  wire w = {.out = out, .e = e};
  raw(&w, &h, sizeof h, "header");
  body(&w, (weir_tp_msg *)m); /* which is only read from */
  if (w.st != WEIR_OK) return w.st;
  h.bytes = (uint32_t)(out->len - at);
  memcpy(out->data + at, &h, sizeof h);
  return WEIR_OK;
}

weir_status weir_tp_msg_get(const void *data, size_t bytes, weir_tp_msg *out, weir_err *e) {
  weir_tp_kind kind = WEIR_TP_HELLO;
  const weir_status st = weir_tp_wire_kind(data, bytes, &kind, e);
  if (st != WEIR_OK) return st;
  wire w = {.in = (const uint8_t *)data + HEADER, .left = bytes - HEADER, .e = e};
  memset(out, 0, sizeof *out);
  out->kind = kind;
  body(&w, out);
  if (w.st == WEIR_OK && w.left > 0)
    w.st = weir_fail(e, WEIR_EFORMAT, "message with %zu bytes too many", w.left);
  return w.st;
}

/* ---- steps ---- */

typedef struct step_head {
  header h;
  uint64_t group, number;
  int32_t n_tokens, n_seqs, n_out, n_copies, n_pages, n_edits, n_drafts, zero;
} step_head;

enum { ONLY_EDITS = 1, TELL_LAW = 2 };

/* weir_ask without its pointers; the edits of all asks follow, one ask's after the other's, and their drafts.
 */
typedef struct ask_wire {
  float temperature, top_p, min_p, keep_a, keep_b, probe_q;
  int32_t top_k, pos, probe, keep, n_edits, n_top;
  uint64_t seed;
  int32_t flags, n_draft;
} ask_wire;

_Static_assert(sizeof(step_head) == 56 && sizeof(ask_wire) == 64 && sizeof(weir_logit_edit) == 12 &&
                   sizeof(weir_top) == 8,
               "no holes: what is written is what was meant");

/* Where a step's arrays lie, in bytes from its start. */
typedef struct layout {
  size_t token, pos, q_indptr, kv_len, page_indptr, page, out_row, copy, ask, edit, draft, end;
} layout;

/* Counts are not negative. They are int32, so that nothing here overflows. */
static layout lay(const step_head *s) {
  const size_t n = (size_t)s->n_tokens * 4, q = (size_t)s->n_seqs * 4, o = (size_t)s->n_out;
  layout l;
  l.token = sizeof *s;
  l.pos = l.token + n;
  l.q_indptr = l.pos + n;
  l.kv_len = l.q_indptr + q + 4;
  l.page_indptr = l.kv_len + q;
  l.page = l.page_indptr + q + 4;
  l.out_row = l.page + (size_t)s->n_pages * 4;
  l.copy = l.out_row + o * 4;
  l.ask = (l.copy + (size_t)s->n_copies * 8 + 7) / 8 * 8;
  l.edit = l.ask + o * sizeof(ask_wire);
  l.draft = l.edit + (size_t)s->n_edits * sizeof(weir_logit_edit);
  l.end = l.draft + (size_t)s->n_drafts * sizeof(weir_top);
  return l;
}

static void copy(char *to, const void *from, size_t bytes) {
  if (bytes > 0) memcpy(to, from, bytes);
}

weir_status weir_tp_step_put(const weir_tp_step *s, weir_buf *out, weir_err *e) {
  const weir_batch *b = &s->batch;
  step_head h = {.h = {.kind = WEIR_TP_STEP, .version = WEIR_TP_WIRE_VERSION},
                 .group = s->group,
                 .number = s->number,
                 .n_tokens = b->n_tokens,
                 .n_seqs = b->n_seqs,
                 .n_out = b->n_out,
                 .n_copies = b->n_copies};
  int64_t n_edits = 0, n_drafts = 0;
  h.n_pages = h.n_seqs < 1 ? -1 : b->page_indptr[h.n_seqs];
  if (h.n_tokens < 1 || h.n_out < 0 || h.n_copies < 0 || h.n_pages < 0)
    return weir_fail(e, WEIR_EINVAL, "batch of %d rows and %d sequences", h.n_tokens, h.n_seqs);
  for (int32_t i = 0; i < h.n_out; i++) {
    n_edits += b->ask[i].n_edits;
    n_drafts += b->ask[i].n_draft;
  }
  h.n_edits = n_edits > INT32_MAX ? INT32_MAX : (int32_t)n_edits;
  h.n_drafts = n_drafts > INT32_MAX ? INT32_MAX : (int32_t)n_drafts;
  const layout l = lay(&h);
  if (l.end > WEIR_CREW_MAX_MESSAGE)
    return weir_fail(e, WEIR_EINVAL, "batch of %zu bytes with %lld edits, at most %d bytes", l.end,
                     (long long)n_edits, (int)WEIR_CREW_MAX_MESSAGE);
  weir_buf_truncate(out, 0);
  const weir_status st = weir_buf_reserve(out, l.end, e);
  if (st != WEIR_OK) return st;
  const size_t n = (size_t)h.n_tokens * 4, q = (size_t)h.n_seqs * 4, w = (size_t)h.n_out;
  char *d = out->data;
  h.h.bytes = (uint32_t)l.end;
  memcpy(d, &h, sizeof h);
  copy(d + l.token, b->token, n);
  copy(d + l.pos, b->pos, n);
  copy(d + l.q_indptr, b->q_indptr, q + 4);
  copy(d + l.kv_len, b->kv_len, q);
  copy(d + l.page_indptr, b->page_indptr, q + 4);
  copy(d + l.page, b->page, (size_t)h.n_pages * 4);
  copy(d + l.out_row, b->out_row, w * 4);
  copy(d + l.copy, b->copy_src_dst, (size_t)h.n_copies * 8);
  memset(d + l.copy + (size_t)h.n_copies * 8, 0, l.ask - l.copy - (size_t)h.n_copies * 8);
  char *edit = d + l.edit, *draft = d + l.draft;
  for (size_t i = 0; i < w; i++) {
    const weir_ask *a = &b->ask[i];
    const ask_wire x = {.temperature = a->temperature,
                        .top_p = a->top_p,
                        .min_p = a->min_p,
                        .keep_a = a->keep_a,
                        .keep_b = a->keep_b,
                        .probe_q = a->probe_q,
                        .top_k = a->top_k,
                        .pos = a->pos,
                        .probe = a->probe,
                        .keep = (int32_t)a->keep,
                        .n_edits = a->n_edits,
                        .n_top = a->n_top,
                        .seed = a->seed,
                        .flags = (a->only_edits ? ONLY_EDITS : 0) | (a->tell_law ? TELL_LAW : 0),
                        .n_draft = a->n_draft};
    memcpy(d + l.ask + i * sizeof x, &x, sizeof x);
    copy(edit, a->edit, (size_t)a->n_edits * sizeof *a->edit);
    edit += (size_t)a->n_edits * sizeof *a->edit;
    copy(draft, a->draft, (size_t)a->n_draft * sizeof *a->draft);
    draft += (size_t)a->n_draft * sizeof *a->draft;
  }
  out->len = l.end;
  return WEIR_OK;
}

/* Counts against the plan and the message's length, before any is used. */
static weir_status check_counts(const step_head *h, size_t bytes, const weir_exec_info *m, weir_err *e) {
  const int64_t most_pages = (int64_t)m->max_seqs * weir_pages_for(m->n_ctx);
  if (h->n_tokens < 1 || h->n_tokens > m->max_tokens || h->n_seqs < 1 || h->n_seqs > m->max_seqs ||
      h->n_out < 0 || h->n_out > h->n_tokens)
    return weir_fail(e, WEIR_EFORMAT,
                     "step of %d rows, %d sequences, %d answers; at most %d rows, %d sequences", h->n_tokens,
                     h->n_seqs, h->n_out, m->max_tokens, m->max_seqs);
  if (h->n_pages < 0 || h->n_pages > most_pages || h->n_copies < 0 || h->n_edits < 0 || h->n_drafts < 0 ||
      h->zero != 0)
    return weir_fail(e, WEIR_EFORMAT, "step of %d pages, %d copies, %d edits, %d drafts", h->n_pages,
                     h->n_copies, h->n_edits, h->n_drafts);
  if (lay(h).end != bytes)
    return weir_fail(e, WEIR_EFORMAT, "step of %zu bytes, its counts make %zu", bytes, lay(h).end);
  return WEIR_OK;
}

static weir_status get_asks(const char *d, const step_head *h, const layout *l, weir_ask *ask, weir_err *e) {
  int32_t at = 0, drafts = 0;
  for (int32_t i = 0; i < h->n_out; i++) {
    ask_wire x;
    memcpy(&x, d + l->ask + (size_t)i * sizeof x, sizeof x);
    if (x.keep < WEIR_KEEP_ALL || x.keep >= WEIR_N_KEEPS || x.n_edits < 0 || x.n_edits > h->n_edits - at)
      return weir_fail(e, WEIR_EFORMAT, "ask %d: rule %d, %d edits of %d", i, x.keep, x.n_edits,
                       h->n_edits - at);
    if (x.n_draft < 0 || x.n_draft > h->n_drafts - drafts || (x.flags & ~(ONLY_EDITS | TELL_LAW)) != 0)
      return weir_fail(e, WEIR_EFORMAT, "ask %d: draft of %d ids of %d, flags %d", i, x.n_draft,
                       h->n_drafts - drafts, x.flags);
    ask[i] =
        (weir_ask){.temperature = x.temperature,
                   .top_k = x.top_k,
                   .top_p = x.top_p,
                   .min_p = x.min_p,
                   .seed = x.seed,
                   .pos = x.pos,
                   .probe = x.probe,
                   .keep = (weir_keep)x.keep,
                   .keep_a = x.keep_a,
                   .keep_b = x.keep_b,
                   .probe_q = x.probe_q,
                   .edit = x.n_edits > 0 ? (const weir_logit_edit *)(const void *)(d + l->edit) + at : NULL,
                   .n_edits = x.n_edits,
                   .n_top = x.n_top,
                   .only_edits = x.flags & ONLY_EDITS,
                   .tell_law = x.flags & TELL_LAW,
                   .draft = x.n_draft > 0 ? (const weir_top *)(const void *)(d + l->draft) + drafts : NULL,
                   .n_draft = x.n_draft};
    at += x.n_edits;
    drafts += x.n_draft;
  }
  if (drafts != h->n_drafts)
    return weir_fail(e, WEIR_EFORMAT, "step with drafts of %d ids, its asks have %d", h->n_drafts, drafts);
  if (at != h->n_edits)
    return weir_fail(e, WEIR_EFORMAT, "step with %d edits, its asks have %d", h->n_edits, at);
  return WEIR_OK;
}

weir_status weir_tp_step_view(const void *data, size_t bytes, const weir_exec_info *limits, weir_ask *ask,
                              weir_tp_step *out, weir_err *e) {
  const char *d = data;
  weir_status st = WEIR_OK;
  weir_tp_kind kind = WEIR_TP_HELLO;
  step_head h;
  if ((uintptr_t)data % 8 != 0) WEIR_TRY(weir_fail(e, WEIR_EINVAL, "step that is not aligned"));
  WEIR_TRY(weir_tp_wire_kind(data, bytes, &kind, e));
  if (kind != WEIR_TP_STEP || bytes < sizeof h)
    WEIR_TRY(weir_fail(e, WEIR_EFORMAT, "message of kind %d and %zu bytes is no step", kind, bytes));
  memcpy(&h, data, sizeof h);
  WEIR_TRY(check_counts(&h, bytes, limits, e));
  const layout l = lay(&h);
#define INTS(at) ((const int32_t *)(const void *)(d + (at)))
  *out = (weir_tp_step){.group = h.group,
                        .number = h.number,
                        .batch = {.n_tokens = h.n_tokens,
                                  .n_seqs = h.n_seqs,
                                  .n_out = h.n_out,
                                  .n_copies = h.n_copies,
                                  .token = INTS(l.token),
                                  .pos = INTS(l.pos),
                                  .q_indptr = INTS(l.q_indptr),
                                  .kv_len = INTS(l.kv_len),
                                  .page_indptr = INTS(l.page_indptr),
                                  .page = INTS(l.page),
                                  .out_row = INTS(l.out_row),
                                  .ask = ask,
                                  .copy_src_dst = INTS(l.copy)}};
#undef INTS
  const weir_batch *b = &out->batch;
  /* The checks of a batch take the ends of its lists for granted. */
  for (int32_t s = 0; s <= h.n_seqs; s++)
    if (b->page_indptr[s] < 0 || b->page_indptr[s] > h.n_pages || b->q_indptr[s] < 0 ||
        b->q_indptr[s] > h.n_tokens)
      WEIR_TRY(weir_fail(e, WEIR_EFORMAT, "step: sequence %d has rows to %d and pages to %d", s,
                         b->q_indptr[s], b->page_indptr[s]));
  if (b->page_indptr[h.n_seqs] != h.n_pages)
    WEIR_TRY(weir_fail(e, WEIR_EFORMAT, "step of %d pages, its sequences have %d", h.n_pages,
                       b->page_indptr[h.n_seqs]));
  WEIR_TRY(get_asks(d, &h, &l, ask, e));
out:
  return st;
}

weir_status weir_tp_step_get(const void *data, size_t bytes, const weir_exec_info *limits, weir_ask *ask,
                             weir_tp_step *out, weir_err *e) {
  const weir_status st = weir_tp_step_view(data, bytes, limits, ask, out, e);
  return st == WEIR_OK ? weir_batch_check(&out->batch, limits, e) : st;
}
