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
    if (n >= 0 && (size_t)n < sizeof e->msg)
      snprintf(e->msg + n, sizeof e->msg - (size_t)n, ": %s", old);
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
