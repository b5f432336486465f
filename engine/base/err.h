/* SPDX-License-Identifier: Apache-2.0 */
/* Errors: a code and one line of text, built where the fact is known and prefixed on the way up. */
#ifndef WEIR_BASE_ERR_H
#define WEIR_BASE_ERR_H

typedef enum {
  WEIR_OK = 0,
  WEIR_EINVAL = -1,  /* an argument or option is wrong */
  WEIR_ENOMEM = -2,  /* memory, pages or slots ran out */
  WEIR_EIO = -3,     /* the operating system refused */
  WEIR_EFORMAT = -4, /* a file is malformed */
  WEIR_EUNSUP = -5,  /* well-formed, but not something weir does */
  WEIR_EDEVICE = -6, /* a device failed; its tier is dead */
  WEIR_EBUSY = -7,   /* a queue is full; try again */
  WEIR_ECANCEL = -8  /* cancelled by its owner */
} weir_status;

enum { WEIR_ERR_MSG_BYTES = 508 };

typedef struct weir_err {
  weir_status code;
  char msg[WEIR_ERR_MSG_BYTES];
} weir_err;

/* Sets code and message; returns code. `e` may be NULL. */
weir_status weir_fail(weir_err *e, weir_status code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "context: " before the message and keeps the code, which it returns. `e` may be NULL, then
 * `code` is what is returned. */
weir_status weir_fail_ctx(weir_err *e, weir_status code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The code's name in words, for logs: "out of memory". Never NULL. */
const char *weir_status_name(weir_status code);

/* Evaluates an expression of type weir_status and jumps to `out` with `st` set when it failed.
 * The function using it has `weir_status st = WEIR_OK;` and one label `out`. */
#define WEIR_TRY(expr)           \
  do {                           \
    st = (expr);                 \
    if (st != WEIR_OK) goto out; \
  } while (0)

#endif
