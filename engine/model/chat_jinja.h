/* SPDX-License-Identifier: Apache-2.0 */
/* The form of a chat template: what of its Jinja decides what it renders, without what does not. Two
 * templates of one form render the same. For chat_detect.c and the tool that lists forms. */
#ifndef WEIR_MODEL_CHAT_JINJA_H
#define WEIR_MODEL_CHAT_JINJA_H
#include <stdint.h>

#include "base/err.h"
#include "model/str.h"

typedef struct weir_chat_form {
  uint64_t id;     /* FNV-1a of the form; 0: the template was not understood */
  weir_str system; /* the system message that a ChatML template brings along, which is not part of the form;
                      data NULL: none. Borrowed from the template */
} weir_chat_form;

/* Fails for want of memory alone. */
weir_status weir_chat_form_of(weir_str jinja, weir_chat_form *out, weir_err *e);

#endif
