/* SPDX-License-Identifier: Apache-2.0 */
/* Output of the programs; see out.h. Owns the two standard streams; main thread only. */
#include "programs/out.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/log.h"
#include "programs/options.h"

void weir_out_init(weir_out *o, const weir_config *c) {
  const char *color = weir_config_string(c, "color");
  const bool always = !strcmp(color, "always"), never = !strcmp(color, "never");
  /* the command line goes before NO_COLOR, which goes before a terminal */
  const bool off = never || (!always && weir_config_bool(c, "no-color"));
  *o = (weir_out){.terminal = isatty(STDOUT_FILENO) != 0, .terminal_err = isatty(STDERR_FILENO) != 0};
  o->color = always || (o->terminal && !off);
  o->color_err = always || (o->terminal_err && !off);
}

static void broken(weir_out *o) {
  if (o->gone || o->failed) return;
  if (errno == EPIPE) {
    o->gone = true;
    return;
  }
  o->failed = true;
  weir_fail(&o->err, WEIR_EIO, "standard output: %s", strerror(errno));
}

void weir_out_write(weir_out *o, const void *bytes, size_t n) {
  if (o->gone || o->failed || n == 0) return;
  if (fwrite(bytes, 1, n, stdout) != n) broken(o);
}

void weir_out_printf(weir_out *o, const char *fmt, ...) {
  if (o->gone || o->failed) return;
  va_list ap;
  va_start(ap, fmt);
  if (vfprintf(stdout, fmt, ap) < 0) broken(o);
  va_end(ap);
}

void weir_out_text(weir_out *o, const char *text, size_t n) {
  static const char harmless[] = "\xef\xbf\xbd";
  if (!o->terminal) {
    weir_out_write(o, text, n);
    return;
  }
  size_t from = 0;
  for (size_t i = 0; i < n; i++) {
    const unsigned char b = (unsigned char)text[i];
    const bool c0 = (b < 0x20 && b != '\n' && b != '\t') || b == 0x7f;
    const bool c1 =
        b == 0xc2 && i + 1 < n && (unsigned char)text[i + 1] >= 0x80 && (unsigned char)text[i + 1] < 0xa0;
    if (!c0 && !c1) continue;
    weir_out_write(o, text + from, i - from);
    weir_out_write(o, harmless, sizeof harmless - 1);
    i += c1;
    from = i + 1;
  }
  weir_out_write(o, text + from, n - from);
}

void weir_out_flush(weir_out *o) {
  if (o->gone || o->failed) return;
  if (fflush(stdout) != 0) broken(o);
}

void weir_out_json(weir_out *o, json_t *takes) {
  char *line = takes ? json_dumps(takes, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
  json_decref(takes);
  if (!line) {
    o->failed = true;
    weir_fail(&o->err, WEIR_ENOMEM, "cannot write a line of JSON");
    return;
  }
  weir_out_printf(o, "%s\n", line);
  weir_out_flush(o);
  free(line);
}

bool weir_out_end(weir_out *o) {
  weir_out_flush(o);
  return !o->failed;
}

int weir_tell(const weir_err *e, int status) {
  weir_log(WEIR_LOG_ERROR, "%s", e->msg[0] ? e->msg : weir_status_name(e->code));
  return status;
}

int weir_tell_usage(const char *command, const weir_err *e) {
  weir_tell(e, 0);
  fprintf(stderr, "weir: see `weir %s --help`\n", command);
  return WEIR_EXIT_USAGE;
}

weir_status weir_json_line(FILE *f, const char *path, json_t *takes, weir_err *e) {
  const bool ok =
      takes && json_dumpf(takes, f, JSON_COMPACT | JSON_REAL_PRECISION(9)) == 0 && fputc('\n', f) != EOF;
  json_decref(takes);
  return ok ? WEIR_OK : weir_fail(e, WEIR_EIO, "%s: cannot write: %s", path, strerror(errno));
}

json_t *weir_json_real(double x) { return isfinite(x) ? json_real(x) : json_null(); }

json_t *weir_json_text(const char *text, size_t n) {
  json_t *whole = json_stringn(text ? text : "", n);
  if (whole) return whole;
  weir_buf b = {0};
  weir_status st = weir_buf_reserve(&b, n, NULL);
  for (size_t i = 0; i < n && st == WEIR_OK;) {
    size_t len = 1; /* the shortest run of bytes from here that is a character: jansson knows */
    json_t *one = NULL;
    while (len <= 4 && i + len <= n && !(one = json_stringn(text + i, len))) len++;
    if (!one) len = 1;
    st = one ? weir_buf_put(&b, text + i, len, NULL) : weir_buf_puts(&b, "\xef\xbf\xbd", NULL);
    json_decref(one);
    i += len;
  }
  if (st == WEIR_OK) whole = json_stringn(b.data, b.len);
  weir_buf_fini(&b);
  return whole;
}
