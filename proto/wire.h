/* SPDX-License-Identifier: Apache-2.0 */
/* A walk over protobuf bytes before they are unpacked: lengths, tags, strings. Private to proto/. */
#ifndef WEIR_PROTO_WIRE_H
#define WEIR_PROTO_WIRE_H
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "proto/weir.pb-c.h"

/* Walks a message of type d; WEIR_EFORMAT names the field. Refuses what protobuf-c lets through: it keeps a
 * string as a C string, so that text behind a NUL vanishes, and does not look at UTF-8. */
weir_status weir_wire_check(const ProtobufCMessageDescriptor *d, const uint8_t *body, size_t n_bytes,
                            weir_err *e);

#endif
