/* SPDX-License-Identifier: Apache-2.0 */
/* JSON straight into a buffer. Pure; any thread. */
#ifndef WEIR_NET_OPENAI_WRITE_H
#define WEIR_NET_OPENAI_WRITE_H
#include "base/buf.h"

/* A string with its quotes; bytes that are not UTF-8 become U+FFFD. */
weir_status weir_json_put_text(weir_buf *, const char *text, size_t len, weir_err *e);
/* A number with the digits that a float has; what JSON has no number for is null. */
weir_status weir_json_put_number(weir_buf *, double x, weir_err *e);

#endif
