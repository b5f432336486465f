/* SPDX-License-Identifier: Apache-2.0 */
/* Frames: the header, the kinds, packing, and unpacking into an arena with a budget. A hostile message of
 * 1 MiB full of empty parts makes protobuf-c ask for sixty times its size; here the arena says no, protobuf-c
 * gives up, and all it had taken is freed at once. Owns nothing between calls; any thread. */
#include "proto/frame.h"

#include <stdlib.h>
#include <string.h>

#include "proto/wire.h"

static const uint8_t magic[4] = {'W', 'E', 'I', 'R'};

static const struct {
  const char *name;
  const ProtobufCMessageDescriptor *request, *reply;
} kinds[WEIR_FRAME_LAST + 1] = {
    [WEIR_FRAME_SUBMIT] = {"Submit", &weir__v1__submit_request__descriptor,
                           &weir__v1__submit_reply__descriptor},
    [WEIR_FRAME_POLL] = {"Poll", &weir__v1__poll_request__descriptor, &weir__v1__poll_reply__descriptor},
    [WEIR_FRAME_CANCEL] = {"Cancel", &weir__v1__cancel_request__descriptor,
                           &weir__v1__cancel_reply__descriptor},
    [WEIR_FRAME_STATS] = {"Stats", &weir__v1__stats_request__descriptor, &weir__v1__stats_reply__descriptor},
    [WEIR_FRAME_MODELS] = {"Models", &weir__v1__models_request__descriptor,
                           &weir__v1__models_reply__descriptor},
    [WEIR_FRAME_TOKENIZE] = {"Tokenize", &weir__v1__tokenize_request__descriptor,
                             &weir__v1__tokenize_reply__descriptor},
    [WEIR_FRAME_DETOKENIZE] = {"Detokenize", &weir__v1__detokenize_request__descriptor,
                               &weir__v1__detokenize_reply__descriptor},
    [WEIR_FRAME_HEALTH] = {"Health", &weir__v1__health_request__descriptor,
                           &weir__v1__health_reply__descriptor},
};
static const char *const reply_name[WEIR_FRAME_LAST + 1] = {
    [WEIR_FRAME_SUBMIT] = "Submit reply",         [WEIR_FRAME_POLL] = "Poll reply",
    [WEIR_FRAME_CANCEL] = "Cancel reply",         [WEIR_FRAME_STATS] = "Stats reply",
    [WEIR_FRAME_MODELS] = "Models reply",         [WEIR_FRAME_TOKENIZE] = "Tokenize reply",
    [WEIR_FRAME_DETOKENIZE] = "Detokenize reply", [WEIR_FRAME_HEALTH] = "Health reply",
};

/* NULL: no such kind. */
static const ProtobufCMessageDescriptor *descriptor_of(int kind) {
  if (kind == WEIR_FRAME_ERROR) return &weir__v1__error__descriptor;
  const int call = kind & ~WEIR_FRAME_REPLY;
  if (call < 1 || call > WEIR_FRAME_LAST) return NULL;
  return kind & WEIR_FRAME_REPLY ? kinds[call].reply : kinds[call].request;
}

const char *weir_frame_kind_name(int kind) {
  if (kind == WEIR_FRAME_ERROR) return "Error";
  if (!descriptor_of(kind)) return "unknown";
  return kind & WEIR_FRAME_REPLY ? reply_name[kind & ~WEIR_FRAME_REPLY] : kinds[kind].name;
}

weir_status weir_frame_parse(const void *bytes, size_t n_bytes, weir_frame *out, weir_err *e) {
  const uint8_t *b = bytes;
  memset(out, 0, sizeof *out);
  if (n_bytes < WEIR_FRAME_HEADER_BYTES)
    return weir_fail(e, WEIR_EFORMAT, "a frame of %zu bytes; its header alone has %d", n_bytes,
                     WEIR_FRAME_HEADER_BYTES);
  if (memcmp(b, magic, sizeof magic) != 0) return weir_fail(e, WEIR_EFORMAT, "no frame of weir's");
  if (b[4] != WEIR_FRAME_VERSION)
    return weir_fail(e, WEIR_EUNSUP, "version %d of the protocol; this is version %d", b[4],
                     WEIR_FRAME_VERSION);
  if (b[6] != 0 || b[7] != 0)
    return weir_fail(e, WEIR_EFORMAT, "bytes 6 and 7 of a frame are zero, these are %d %d", b[6], b[7]);
  if (!descriptor_of(b[5])) return weir_fail(e, WEIR_EUNSUP, "a frame of kind %d: there is none", b[5]);
  *out = (weir_frame){.kind = (weir_frame_kind)b[5],
                      .body = b + WEIR_FRAME_HEADER_BYTES,
                      .body_bytes = n_bytes - WEIR_FRAME_HEADER_BYTES};
  return WEIR_OK;
}

size_t weir_frame_size(const ProtobufCMessage *msg) {
  return WEIR_FRAME_HEADER_BYTES + protobuf_c_message_get_packed_size(msg);
}

size_t weir_frame_pack(weir_frame_kind kind, const ProtobufCMessage *msg, void *out) {
  uint8_t *b = out;
  memcpy(b, magic, sizeof magic);
  b[4] = WEIR_FRAME_VERSION;
  b[5] = (uint8_t)kind;
  b[6] = b[7] = 0;
  return WEIR_FRAME_HEADER_BYTES + protobuf_c_message_pack(msg, b + WEIR_FRAME_HEADER_BYTES);
}

weir_status weir_frame_put(weir_frame_kind kind, const ProtobufCMessage *msg, weir_buf *b, weir_err *e) {
  const size_t n = weir_frame_size(msg);
  const weir_status st = weir_buf_reserve(b, n + 1, e);
  if (st != WEIR_OK) return st;
  weir_frame_pack(kind, msg, b->data + b->len);
  b->len += n;
  b->data[b->len] = 0;
  return WEIR_OK;
}

/* ---- the arena ---- */

struct weir_frame_block {
  weir_frame_block *next;
  _Alignas(max_align_t) uint8_t data[];
};

typedef struct arena {
  weir_frame_block *block; /* newest first */
  uint8_t *at, *end;       /* what is left of the newest that is shared */
  size_t left;             /* bytes that may still be taken from the heap */
  size_t next_block;
  bool refused;
} arena;

enum { FIRST_BLOCK = 1 << 10, LAST_BLOCK = 64 << 10 };

static void free_blocks(weir_frame_block *b) {
  while (b) {
    weir_frame_block *next = b->next;
    free(b);
    b = next;
  }
}

/* A block with room for n bytes, taken from the budget. */
static weir_frame_block *new_block(arena *a, size_t n) {
  if (n > a->left || a->left - n < sizeof(weir_frame_block)) return NULL;
  weir_frame_block *b = malloc(sizeof *b + n);
  if (!b) return NULL;
  a->left -= sizeof *b + n;
  b->next = a->block;
  a->block = b;
  return b;
}

static void *arena_alloc(void *ctx, size_t n) {
  arena *a = ctx;
  const size_t align = _Alignof(max_align_t);
  if (n == 0) n = 1; /* NULL would mean that there is no memory */
  if (n > SIZE_MAX - align) n = SIZE_MAX - align;
  n = (n + align - 1) / align * align;
  if (n <= (size_t)(a->end - a->at)) {
    void *p = a->at;
    a->at += n;
    return p;
  }
  weir_frame_block *b;
  if (n > a->next_block / 4) { /* alone in a block of its own: the rest of the shared one is not given up */
    b = new_block(a, n);
    if (!b) a->refused = true;
    return b ? b->data : NULL;
  }
  b = new_block(a, a->next_block);
  if (!b) {
    a->refused = true;
    return NULL;
  }
  a->at = b->data + n;
  a->end = b->data + a->next_block;
  if (a->next_block < LAST_BLOCK) a->next_block *= 2;
  return b->data;
}

static void arena_free(void *ctx, void *p) { (void)ctx, (void)p; /* all at once, with the message */ }

size_t weir_frame_budget(weir_frame_kind kind, size_t body_bytes) {
  /* A token of a reply is 12 bytes or more on the wire, and a struct of 150 with its place in the list of
   * what was scanned (40). Requests are text and packed numbers, which protobuf-c at most quadruples; the
   * shortest chat messages cost twenty times, and their number is bounded: they are what the rest is for. */
  const size_t times = kind & WEIR_FRAME_REPLY ? 32 : 12;
  size_t budget;
  if (__builtin_mul_overflow(body_bytes, times, &budget) || budget > SIZE_MAX - (2u << 20)) return SIZE_MAX;
  return budget + (2u << 20);
}

weir_status weir_frame_unpack(weir_frame_kind kind, const void *body, size_t body_bytes, size_t budget,
                              weir_frame_msg *out, weir_err *e) {
  memset(out, 0, sizeof *out);
  const ProtobufCMessageDescriptor *d = descriptor_of((int)kind);
  if (!d) return weir_fail(e, WEIR_EUNSUP, "a message of kind %d: there is none", (int)kind);
  const char *name = weir_frame_kind_name((int)kind);
  const weir_status st = weir_wire_check(d, body, body_bytes, e);
  if (st != WEIR_OK) return weir_fail_ctx(e, st, "%s", name);
  arena a = {.left = budget, .next_block = FIRST_BLOCK};
  ProtobufCAllocator allocator = {.alloc = arena_alloc, .free = arena_free, .allocator_data = &a};
  ProtobufCMessage *msg = protobuf_c_message_unpack(d, &allocator, body_bytes, body);
  if (!msg) {
    free_blocks(a.block);
    if (a.refused)
      return weir_fail(e, WEIR_ENOMEM, "%s: its %zu bytes need more than %zu bytes of memory", name,
                       body_bytes, budget);
    return weir_fail(e, WEIR_EFORMAT, "%s: malformed", name);
  }
  *out = (weir_frame_msg){.kind = kind, .as.base = msg, .memory = a.block};
  return WEIR_OK;
}

void weir_frame_msg_fini(weir_frame_msg *m) {
  free_blocks(m->memory);
  memset(m, 0, sizeof *m);
}
