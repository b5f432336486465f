/* SPDX-License-Identifier: Apache-2.0 */
/* Which chat format a model or a pair gets. */
#ifndef WEIR_PROGRAMS_TEMPLATE_H
#define WEIR_PROGRAMS_TEMPLATE_H
#include <stdbool.h>

#include "base/buf.h"
#include "base/err.h"
#include "model/chat.h"
#include "serve/pair.h"

/* --template: a format by its name, or a file of Jinja to recognise, of which *jinja then keeps the text that
 * the format borrows from. */
weir_status weir_template_named(const char *name, weir_buf *jinja, weir_chat_format *out, weir_err *e);
/* The models' own template; that of the large one where two differ, with a warning. The format borrows from
 * the pair. *dated: it tells the model the day. */
weir_status weir_template_own(const weir_pair *, weir_chat_format *out, bool *dated, weir_err *e);

#endif
