/* SPDX-License-Identifier: Apache-2.0 */
/* Walks the wire format of protobuf (https://protobuf.dev/programming-guides/encoding/) beside a descriptor,
 * without allocating: every length lies inside its message, every string is UTF-8 without NUL. Fields that
 * the descriptor does not know are skipped by their wire type, as newer peers may send them. No message of
 * weir contains itself, so the depth of the walk is that of the schema. */
#include "proto/wire.h"

#include "proto/check.h"

enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };

typedef struct walk {
  const uint8_t *at, *end;
} walk;

/* A varint of at most `max` bytes. */
static bool read_varint(walk *w, int max, uint64_t *out) {
  uint64_t v = 0;
  for (int i = 0; i < max && w->at < w->end; i++) {
    const uint8_t b = *w->at++;
    v |= (uint64_t)(b & 0x7f) << (7 * i);
    if (!(b & 0x80)) {
      *out = v;
      return true;
    }
  }
  return false;
}

static bool skip(walk *w, uint64_t n_bytes) {
  if (n_bytes > (uint64_t)(w->end - w->at)) return false;
  w->at += n_bytes;
  return true;
}

static bool wants_bytes(const ProtobufCFieldDescriptor *f) {
  return f->type == PROTOBUF_C_TYPE_STRING || f->type == PROTOBUF_C_TYPE_BYTES ||
         f->type == PROTOBUF_C_TYPE_MESSAGE;
}

weir_status weir_wire_check(const ProtobufCMessageDescriptor *d, const uint8_t *body, size_t n_bytes,
                            weir_err *e) {
  walk w = {body, body + n_bytes};
  while (w.at < w.end) {
    uint64_t tag, n;
    if (!read_varint(&w, 5, &tag) || tag >> 3 == 0 || tag > UINT32_MAX)
      return weir_fail(e, WEIR_EFORMAT, "%s: a tag that is none", d->short_name);
    const ProtobufCFieldDescriptor *f = protobuf_c_message_descriptor_get_field(d, (unsigned)(tag >> 3));
    const char *name = f ? f->name : "a field not known here";
    const int kind = (int)(tag & 7);
    if (f && wants_bytes(f) != (kind == BYTES) && (wants_bytes(f) || f->label != PROTOBUF_C_LABEL_REPEATED))
      return weir_fail(e, WEIR_EFORMAT, "%s.%s: wire type %d", d->short_name, name, kind);
    bool whole;
    switch (kind) {
      case VARINT: whole = read_varint(&w, 10, &n); break;
      case FIXED64: whole = skip(&w, 8); break;
      case FIXED32: whole = skip(&w, 4); break;
      case BYTES: {
        whole = read_varint(&w, 10, &n);
        const uint8_t *inner = w.at;
        if (!whole || !(whole = skip(&w, n))) break;
        if (f && f->type == PROTOBUF_C_TYPE_STRING && !weir_check_utf8((const char *)inner, (size_t)n))
          return weir_fail(e, WEIR_EFORMAT, "%s.%s: not UTF-8, or a NUL in it", d->short_name, name);
        if (f && f->type == PROTOBUF_C_TYPE_MESSAGE) {
          const weir_status st =
              weir_wire_check((const ProtobufCMessageDescriptor *)f->descriptor, inner, (size_t)n, e);
          if (st != WEIR_OK) return st;
        }
        break;
      }
      default: return weir_fail(e, WEIR_EFORMAT, "%s.%s: wire type %d", d->short_name, name, kind);
    }
    if (!whole) return weir_fail(e, WEIR_EFORMAT, "%s.%s: cut short", d->short_name, name);
  }
  return WEIR_OK;
}
