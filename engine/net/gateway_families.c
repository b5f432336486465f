/* SPDX-License-Identifier: Apache-2.0 */
/* Families of metrics as text. Pure; any thread. */
#include "net/gateway_families.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the text form ---- */

static bool is_name(const char *s, bool colon) {
  if (!*s || (*s >= '0' && *s <= '9')) return false;
  for (; *s; s++)
    if (!((*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || (*s >= '0' && *s <= '9') || *s == '_' ||
          (colon && *s == ':')))
      return false;
  return true;
}

static weir_status put_escaped(weir_buf *b, const char *s, bool quotes, weir_err *e) {
  weir_status st = WEIR_OK;
  for (; *s; s++) {
    if (*s == '\n')
      WEIR_TRY(weir_buf_puts(b, "\\n", e));
    else if (*s == '\\' || (quotes && *s == '"'))
      WEIR_TRY(weir_buf_printf(b, e, "\\%c", *s));
    else
      WEIR_TRY(weir_buf_put(b, s, 1, e));
  }
out:
  return st;
}

weir_status weir_gw_put_help(weir_buf *b, const char *name, const char *help, int type, weir_err *e) {
  static const char *const types[] = {"counter", "gauge", "histogram"};
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_buf_printf(b, e, "# HELP %s ", name));
  WEIR_TRY(put_escaped(b, help, false, e));
  WEIR_TRY(weir_buf_printf(b, e, "\n# TYPE %s %s\n", name, types[type]));
out:
  return st;
}

weir_status weir_gw_put_label(weir_buf *b, const char *name, const char *value, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_buf_printf(b, e, "%s%s=\"", b->len ? "," : "", name));
  WEIR_TRY(put_escaped(b, value, true, e));
  WEIR_TRY(weir_buf_puts(b, "\"", e));
out:
  return st;
}

static weir_status put_number(weir_buf *b, double x, weir_err *e) {
  if (isnan(x)) return weir_buf_puts(b, "NaN", e);
  if (isinf(x)) return weir_buf_puts(b, x > 0 ? "+Inf" : "-Inf", e);
  /* the shortest that reads back as the same */
  char text[40];
  for (int digits = 6; digits <= 17; digits++) {
    snprintf(text, sizeof text, "%.*g", digits, x);
    if (strtod(text, NULL) == x) break;
  }
  return weir_buf_puts(b, text, e);
}

weir_status weir_gw_put_value(weir_buf *b, const char *name, const char *labels, double value, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(labels[0] ? weir_buf_printf(b, e, "%s{%s} ", name, labels) : weir_buf_printf(b, e, "%s ", name));
  WEIR_TRY(put_number(b, value, e));
  WEIR_TRY(weir_buf_puts(b, "\n", e));
out:
  return st;
}

static weir_status put_part(weir_buf *b, const char *name, const char *part, const char *labels,
                            weir_err *e) {
  return labels[0] ? weir_buf_printf(b, e, "%s_%s{%s} ", name, part, labels)
                   : weir_buf_printf(b, e, "%s_%s ", name, part);
}

weir_status weir_gw_put_histogram(weir_buf *b, const char *name, const char *labels, const double *le,
                                  const uint64_t *count, size_t n, double sum, uint64_t total, weir_err *e) {
  weir_status st = WEIR_OK;
  for (size_t i = 0; i < n; i++) {
    WEIR_TRY(weir_buf_printf(b, e, "%s_bucket{%s%sle=\"", name, labels, labels[0] ? "," : ""));
    WEIR_TRY(put_number(b, le[i], e));
    WEIR_TRY(weir_buf_printf(b, e, "\"} %llu\n", (unsigned long long)count[i]));
  }
  WEIR_TRY(put_part(b, name, "sum", labels, e));
  WEIR_TRY(put_number(b, sum, e));
  WEIR_TRY(weir_buf_puts(b, "\n", e));
  WEIR_TRY(put_part(b, name, "count", labels, e));
  WEIR_TRY(weir_buf_printf(b, e, "%llu\n", (unsigned long long)total));
out:
  return st;
}

/* ---- families of engines ---- */

static weir_status find(weir_gw_families *all, const weir_client_family *f, weir_gw_family **out,
                        weir_err *e) {
  *out = NULL;
  for (size_t i = 0; i < all->n; i++)
    if (!strcmp(all->family[i].name, f->name)) {
      *out = all->family[i].type == f->type ? &all->family[i] : NULL;
      return WEIR_OK;
    }
  if (all->n == all->cap) {
    const size_t cap = all->cap ? 2 * all->cap : 64;
    weir_gw_family *grown = realloc(all->family, cap * sizeof *grown);
    if (!grown) return weir_fail(e, WEIR_ENOMEM, "no memory for metrics");
    all->family = grown;
    all->cap = cap;
  }
  weir_gw_family *x = &all->family[all->n];
  *x = (weir_gw_family){.name = strdup(f->name), .help = strdup(f->help), .type = f->type};
  all->n++;
  if (!x->name || !x->help) return weir_fail(e, WEIR_ENOMEM, "no memory for metrics");
  *out = x;
  return WEIR_OK;
}

static weir_status add_sample(weir_gw_family *x, const weir_client_sample *s, const char *engine,
                              weir_err *e) {
  weir_status st = WEIR_OK;
  weir_buf labels = {0};
  for (size_t i = 0; i < s->n_labels; i++)
    if (is_name(s->label[i].name, false) && !(engine && !strcmp(s->label[i].name, "engine")))
      WEIR_TRY(weir_gw_put_label(&labels, s->label[i].name, s->label[i].value, e));
  if (engine) WEIR_TRY(weir_gw_put_label(&labels, "engine", engine, e));
  const char *text = labels.data ? labels.data : "";
  if (x->type == 2)
    WEIR_TRY(weir_gw_put_histogram(&x->lines, x->name, text, s->le, s->count, s->n_buckets, s->sum, s->n, e));
  else
    WEIR_TRY(weir_gw_put_value(&x->lines, x->name, text, s->value, e));
out:
  weir_buf_fini(&labels);
  return st;
}

weir_status weir_gw_families_add(weir_gw_families *all, const weir_client_family *f, size_t n,
                                 const char *engine, weir_err *e) {
  weir_status st = WEIR_OK;
  for (size_t i = 0; i < n; i++) {
    weir_gw_family *x;
    if (!is_name(f[i].name, true) || f[i].type < 0 || f[i].type > 2) continue;
    WEIR_TRY(find(all, &f[i], &x, e));
    for (size_t k = 0; x && k < f[i].n_samples; k++) WEIR_TRY(add_sample(x, &f[i].sample[k], engine, e));
  }
out:
  return st;
}

weir_status weir_gw_families_put(const weir_gw_families *all, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  for (size_t i = 0; i < all->n; i++) {
    const weir_gw_family *x = &all->family[i];
    if (x->lines.len == 0) continue;
    WEIR_TRY(weir_gw_put_help(out, x->name, x->help, x->type, e));
    WEIR_TRY(weir_buf_put(out, x->lines.data, x->lines.len, e));
  }
out:
  return st;
}

void weir_gw_families_fini(weir_gw_families *all) {
  for (size_t i = 0; i < all->n; i++) {
    free(all->family[i].name);
    free(all->family[i].help);
    weir_buf_fini(&all->family[i].lines);
  }
  free(all->family);
  *all = (weir_gw_families){0};
}
