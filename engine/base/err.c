/* SPDX-License-Identifier: Apache-2.0 */
/* Error values. Owns nothing; any thread. */
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

weir_status weir_fail(weir_err *e, weir_status code, const char *fmt, ...) {
  if (e) {
    va_list ap;
    va_start(ap, fmt);
    e->code = code;
    vsnprintf(e->msg, sizeof e->msg, fmt, ap);
    va_end(ap);
  }
  return code;
}

weir_status weir_fail_ctx(weir_err *e, weir_status code, const char *fmt, ...) {
  if (e) {
    char old[WEIR_ERR_MSG_BYTES];
    memcpy(old, e->msg, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(e->msg, sizeof e->msg, fmt, ap);
    va_end(ap);
    /* What does not fit is cut off: the beginning of a line says where, the end only more of what. */
    if (n >= 0 && (size_t)n + 2 < sizeof e->msg) {
      const size_t at = (size_t)n + 2, room = sizeof e->msg - 1 - at, len = strlen(old);
      memcpy(e->msg + n, ": ", 2);
      memcpy(e->msg + at, old, len < room ? len : room);
      e->msg[at + (len < room ? len : room)] = '\0';
    }
    e->code = code;
  }
  return code;
}

const char *weir_status_name(weir_status code) {
  switch (code) {
    case WEIR_OK: return "ok";
    case WEIR_EINVAL: return "invalid argument";
    case WEIR_ENOMEM: return "out of memory";
    case WEIR_EIO: return "input/output error";
    case WEIR_EFORMAT: return "malformed file";
    case WEIR_EUNSUP: return "not supported";
    case WEIR_EDEVICE: return "device failed";
    case WEIR_EBUSY: return "busy";
    case WEIR_ECANCEL: return "cancelled";
  }
  return "unknown status";
}
