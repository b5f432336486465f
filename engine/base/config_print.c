/* SPDX-License-Identifier: Apache-2.0 */
/* The options in force, printed as a file of YAML that would set them again. Pure; any thread. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/config.h"
#include "base/config_in.h"

enum { WIDTH = 100 };

/* Words that YAML takes for something else than text. */
static bool reserved(const char *s) {
  static const char *const word[] = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"};
  for (size_t i = 0; i < sizeof word / sizeof *word; i++)
    if (!strcmp(s, word[i])) return true;
  return false;
}

static bool plain(const char *s) {
  const bool letter = (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || *s == '/' || *s == '_';
  return letter && !reserved(s) &&
         !s[strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-")];
}

static weir_status put_text(weir_buf *out, const char *s, weir_err *e) {
  weir_status st = WEIR_OK;
  if (plain(s)) return weir_buf_puts(out, s, e);
  WEIR_TRY(weir_buf_puts(out, "\"", e));
  for (; *s; s++) {
    const unsigned char b = (unsigned char)*s;
    if (b == '"' || b == '\\')
      WEIR_TRY(weir_buf_printf(out, e, "\\%c", b));
    else if (b < 0x20 || b == 0x7f)
      WEIR_TRY(weir_buf_printf(out, e, "\\x%02x", b));
    else
      WEIR_TRY(weir_buf_put(out, s, 1, e));
  }
  st = weir_buf_puts(out, "\"", e);
out:
  return st;
}

static weir_status put_float(weir_buf *out, double x, weir_err *e) {
  if (isinf(x)) return weir_buf_puts(out, x < 0 ? "-.inf" : ".inf", e);
  return weir_buf_printf(out, e, "%.9g", x);
}

static weir_status put_value(weir_buf *out, const weir_option *o, const weir_opt_value *v, weir_err *e) {
  weir_status st = WEIR_OK;
  switch (o->type) {
    case WEIR_OPT_INT: return weir_buf_printf(out, e, "%lld", (long long)v->i);
    case WEIR_OPT_FLOAT: return put_float(out, v->f, e);
    case WEIR_OPT_BOOL: return weir_buf_puts(out, v->i ? "true" : "false", e);
    case WEIR_OPT_STRING:
    case WEIR_OPT_ENUM: return v->n ? put_text(out, v->str[0], e) : WEIR_OK;
    case WEIR_OPT_STRINGS:
    case WEIR_OPT_FLOATS: break;
  }
  WEIR_TRY(weir_buf_puts(out, "[", e));
  for (int32_t i = 0; i < v->n; i++) {
    if (i > 0) WEIR_TRY(weir_buf_puts(out, ", ", e));
    if (o->type == WEIR_OPT_STRINGS)
      WEIR_TRY(put_text(out, v->str[i], e));
    else
      WEIR_TRY(put_float(out, v->num[i], e));
  }
  st = weir_buf_puts(out, "]", e);
out:
  return st;
}

/* Whether a default says anything: a value unset has none that a file could repeat. */
static bool has_value(const weir_option *o, const weir_opt_value *v) {
  return v->rank != WEIR_FROM_DEFAULT || o->def != NULL;
}

static weir_status put_row(weir_buf *out, const weir_option *o, const weir_opt_value *v, bool secret,
                           weir_err *e) {
  weir_status st = WEIR_OK;
  weir_buf text = {0};
  const bool set = v->rank != WEIR_FROM_DEFAULT;
  WEIR_TRY(weir_buf_puts(&text, o->help, e));
  if (o->type == WEIR_OPT_ENUM) WEIR_TRY(weir_buf_printf(&text, e, " One of %s.", o->choices));
  WEIR_TRY(weir_config_put_facts(&text, o, e));
  WEIR_TRY(weir_config_put_wrapped(out, "# ", text.data, WIDTH, e));
  if (secret) {
    WEIR_TRY(weir_buf_printf(out, e, "#%s: %s", o->name, set ? "(set)" : ""));
  } else {
    WEIR_TRY(weir_buf_printf(out, e, "%s%s: ", set ? "" : "#", o->name));
    if (has_value(o, v)) WEIR_TRY(put_value(out, o, v, e));
  }
  while (out->data[out->len - 1] == ' ') weir_buf_truncate(out, out->len - 1);
  if (set) WEIR_TRY(weir_buf_printf(out, e, "  # %s", v->source ? v->source : "default"));
  st = weir_buf_puts(out, "\n", e);
out:
  weir_buf_fini(&text);
  return st;
}

static bool named(const char *name, const char *const *names, int32_t n) {
  for (int32_t i = 0; i < n; i++)
    if (!strcmp(name, names[i])) return true;
  return false;
}

weir_status weir_config_print(const weir_config *c, const char *const *secret, int32_t n_secret,
                              weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  const char *group = NULL;
  for (int32_t i = 0; i < c->n_rows; i++) {
    const weir_option *o = &c->table[i];
    if (!(o->commands & c->command) || o->no_file) continue;
    if (!group || strcmp(group, o->group) != 0) {
      WEIR_TRY(weir_buf_printf(out, e, "%s# ---- %s ----\n", group ? "\n" : "", o->group));
      group = o->group;
    }
    WEIR_TRY(put_row(out, o, &c->value[i], named(o->name, secret, n_secret), e));
  }
out:
  return st;
}
