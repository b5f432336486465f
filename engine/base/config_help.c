/* SPDX-License-Identifier: Apache-2.0 */
/* The help of a command, printed from its rows of the table; what of it a printed file of options has too.
 * Pure; any thread. */
#include <stdio.h>
#include <string.h>

#include "base/config.h"
#include "base/config_in.h"

static const char *arg_name(const weir_option *o) {
  if (o->arg) return o->arg;
  switch (o->type) {
    case WEIR_OPT_INT: return "N";
    case WEIR_OPT_FLOAT: return "X";
    case WEIR_OPT_FLOATS: return "X,X..";
    case WEIR_OPT_ENUM: return o->choices;
    case WEIR_OPT_STRING:
    case WEIR_OPT_STRINGS: return "TEXT";
    case WEIR_OPT_BOOL: return "";
  }
  return "";
}

weir_status weir_config_put_wrapped(weir_buf *out, const char *before, const char *text, int32_t width,
                                    weir_err *e) {
  weir_status st = WEIR_OK;
  int32_t column = 0;
  for (const char *p = text; *p;) {
    const size_t n = strcspn(p, " ");
    const bool first = column == 0;
    if (!first && column + 1 + (int32_t)n > width) {
      WEIR_TRY(weir_buf_puts(out, "\n", e));
      column = 0;
    }
    if (column == 0) {
      WEIR_TRY(weir_buf_puts(out, before, e));
      column = (int32_t)strlen(before);
    } else {
      WEIR_TRY(weir_buf_puts(out, " ", e));
      column++;
    }
    WEIR_TRY(weir_buf_put(out, p, n, e));
    column += (int32_t)n;
    p += n;
    p += strspn(p, " ");
  }
  st = weir_buf_puts(out, "\n", e);
out:
  return st;
}

weir_status weir_config_put_facts(weir_buf *text, const weir_option *o, weir_err *e) {
  weir_status st = WEIR_OK;
  char env[96];
  const char *sep = " [";
  const bool number = o->type == WEIR_OPT_INT || o->type == WEIR_OPT_FLOAT || o->type == WEIR_OPT_FLOATS;
  if (number && (o->min != 0 || o->max != 0)) {
    WEIR_TRY(weir_buf_printf(text, e, "%s%.10g .. %.10g", sep, o->min, o->max));
    sep = "; ";
  }
  if (o->def && !(o->type == WEIR_OPT_BOOL && !strcmp(o->def, "false"))) {
    WEIR_TRY(weir_buf_printf(text, e, "%sdefault %s", sep, o->def));
    sep = "; ";
  }
  if (o->type == WEIR_OPT_STRINGS) {
    WEIR_TRY(weir_buf_printf(text, e, "%smay be repeated", sep));
    sep = "; ";
  }
  weir_config_env_name(o, env, sizeof env);
  if (env[0]) {
    WEIR_TRY(weir_buf_printf(text, e, "%s%s", sep, env));
    sep = "; ";
  }
  if (*sep == ';') st = weir_buf_puts(text, "]", e);
out:
  return st;
}

static weir_status put_row(const weir_option *o, int32_t width, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_buf text = {0};
  const char *arg = arg_name(o);
  WEIR_TRY(weir_buf_puts(out, "  ", e));
  if (o->letter) WEIR_TRY(weir_buf_printf(out, e, "-%c, ", o->letter));
  const bool on = o->type == WEIR_OPT_BOOL && o->def && !strcmp(o->def, "true");
  WEIR_TRY(weir_buf_printf(out, e, "--%s%s%s%s\n", on ? "[no-]" : "", o->name, *arg ? " " : "", arg));
  WEIR_TRY(weir_buf_puts(&text, o->help, e));
  WEIR_TRY(weir_config_put_facts(&text, o, e));
  st = weir_config_put_wrapped(out, "      ", text.data, width, e);
out:
  weir_buf_fini(&text);
  return st;
}

weir_status weir_config_help(const weir_config *c, int32_t width, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  const char *group = NULL;
  for (int32_t i = 0; i < c->n_rows; i++) {
    const weir_option *o = &c->table[i];
    if (!(o->commands & c->command)) continue;
    if (!group || strcmp(group, o->group) != 0) {
      WEIR_TRY(weir_buf_printf(out, e, "%s%s\n", group ? "\n" : "", o->group));
      group = o->group;
    }
    WEIR_TRY(put_row(o, width, out, e));
  }
out:
  return st;
}
