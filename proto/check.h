/* SPDX-License-Identifier: Apache-2.0 */
/* Which values of an unpacked message are legal: what a server asks of a request before anything is done with
 * it, what a client asks of a reply, and what a client asks of its own request before it is sent. Models are
 * not known here: whether a mode is offered, a token id exists or a text fits is the service's to say. */
#ifndef WEIR_PROTO_CHECK_H
#define WEIR_PROTO_CHECK_H
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "proto/frame.h"

enum {
  WEIR_CHECK_MAX_STOP = 64,
  WEIR_CHECK_MAX_STOP_BYTES = 4096, /* of one */
  WEIR_CHECK_MAX_STOP_IDS = 256,
  WEIR_CHECK_MAX_BIAS = 1024,
  WEIR_CHECK_MAX_PRIORITY = 1000000, /* either way */
  WEIR_CHECK_MAX_CHAT = 16384,       /* messages */
  WEIR_CHECK_MAX_NAME = 256,         /* bytes of model, user */
  WEIR_CHECK_MAX_TOKEN = 4096,       /* bytes of the token of authorisation */
  WEIR_CHECK_MAX_TOP = 20,           /* of top_logprobs */
  WEIR_CHECK_MAX_SETTINGS = 32,
  WEIR_CHECK_MAX_SPANS = 16,
  WEIR_CHECK_MAX_CHOICES = 256,
  WEIR_CHECK_MAX_CHOICE_BYTES = 4096, /* of one */
  WEIR_CHECK_MAX_CURSORS = 8192      /* of a Poll, ids of a Cancel, updates of a reply */
};

/* Well-formed UTF-8 (Unicode table 3-7: no surrogates, nothing overlong, nothing above U+10FFFF) without
 * NUL. */
bool weir_check_utf8(const char *s, size_t n_bytes);

/* A request of any kind. WEIR_EINVAL with a line of text, and *param the name of the field ("sampling.top_p";
 * static, "" when it is none in particular). */
weir_status weir_check_request(const weir_frame_msg *, const char **param, weir_err *e);
weir_status weir_check_submit(const Weir__V1__SubmitRequest *, const char **param, weir_err *e);

/* A reply of any kind, or an Error. WEIR_EFORMAT with a line of text. */
weir_status weir_check_reply(const weir_frame_msg *, weir_err *e);

/* The HTTP-like code is one that the protocol has: 400 401 404 409 413 429 499 500 503 504. */
bool weir_check_code(uint32_t code);

#endif
