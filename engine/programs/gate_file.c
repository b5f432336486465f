/* SPDX-License-Identifier: Apache-2.0 */
/* Reads and writes gate files. Owns what it allocates for the call and the weights it gives; any thread. */
#include "programs/gate_file.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "model/filemap.h"
#include "model/json.h"

static const char schema[] = "weir.gate.v1";

void weir_gate_file_fini(weir_gate_file *f) {
  free(f->head.weight);
  *f = (weir_gate_file){0};
}

/* ---- reading ---- */

/* An object whose members are taken one by one; what is left over in the end is not known. */
typedef struct members {
  const json_t *object;
  const char *where; /* for messages: "gate file", "small" */
  size_t taken;
  weir_status st; /* the first failure; then nothing more is looked at */
  weir_err *e;
} members;

static const json_t *member(members *m, const char *name) {
  const json_t *x = m->st == WEIR_OK ? json_object_get(m->object, name) : NULL;
  m->taken += x != NULL;
  return x;
}

static void miss(members *m, const char *name, const char *want) {
  if (m->st == WEIR_OK) m->st = weir_fail(m->e, WEIR_EFORMAT, "%s: \"%s\": want %s", m->where, name, want);
}

static double number(members *m, const char *name, double least, double most) {
  const json_t *x = member(m, name);
  const double v = x && json_is_number(x) ? json_number_value(x) : NAN;
  if (m->st == WEIR_OK && !(v >= least && v <= most))
    m->st = weir_fail(m->e, WEIR_EFORMAT, "%s: \"%s\": want a number, %g to %g", m->where, name, least, most);
  return v;
}

static int64_t integer(members *m, const char *name, int64_t least, int64_t most) {
  const json_t *x = member(m, name);
  const int64_t v = x && json_is_integer(x) ? (int64_t)json_integer_value(x) : least - 1;
  if (m->st == WEIR_OK && (v < least || v > most))
    m->st = weir_fail(m->e, WEIR_EFORMAT, "%s: \"%s\": want an integer, %" PRId64 " to %" PRId64, m->where,
                      name, least, most);
  return v;
}

static const char *text(members *m, const char *name, bool may_lack) {
  const json_t *x = member(m, name);
  if (!x && may_lack) return "";
  const char *s = x && json_is_string(x) ? json_string_value(x) : NULL;
  /* jansson lets no NUL into a string unless told to */
  if (!s || strlen(s) >= WEIR_GATE_NAME_BYTES) {
    miss(m, name, "a text of less than 128 bytes");
    return "";
  }
  return s;
}

static float float_of(members *m, const json_t *x, const char *name) {
  const float v = x && json_is_number(x) ? (float)json_number_value(x) : NAN;
  if (!isfinite(v)) miss(m, name, "numbers that a float holds");
  return v;
}

static void done(members *m) {
  if (m->st != WEIR_OK || m->taken == json_object_size(m->object)) return;
  m->st = weir_fail(m->e, WEIR_EFORMAT, "%s: a member that is not known, or not of this gate", m->where);
}

static members inner(members *m, const char *name, bool may_lack) {
  const json_t *x = member(m, name);
  if (m->st == WEIR_OK && !(x ? json_is_object(x) : may_lack)) miss(m, name, "an object");
  return (members){.object = x, .where = name, .st = m->st, .e = m->e};
}

static void get_map(members *m, weir_gate_map *out) {
  const char *stat = text(m, "statistic", false);
  const json_t *knots = member(m, "knots");
  const size_t n = knots && json_is_array(knots) ? json_array_size(knots) : 0;
  if (m->st == WEIR_OK && !weir_gate_stat_parse(stat, &out->stat))
    miss(m, "statistic", "entropy, top-prob or margin");
  if (n < 1 || n > WEIR_GATE_MAP_KNOTS) miss(m, "knots", "1 to 256 pairs of numbers");
  for (size_t i = 0; m->st == WEIR_OK && i < n; i++) {
    const json_t *k = json_array_get(knots, i);
    if (!json_is_array(k) || json_array_size(k) != 2) {
      miss(m, "knots", "1 to 256 pairs of numbers");
      return;
    }
    out->x[i] = float_of(m, json_array_get(k, 0), "knots");
    out->y[i] = float_of(m, json_array_get(k, 1), "knots");
  }
  out->n = (int32_t)n;
  const char *wrong = m->st == WEIR_OK ? weir_gate_map_error(out) : NULL;
  if (wrong) m->st = weir_fail(m->e, WEIR_EFORMAT, "%s", wrong);
}

static void get_head(members *m, weir_gate_head *out) {
  const json_t *w = member(m, "weights");
  const size_t n = w && json_is_array(w) ? json_array_size(w) : 0;
  out->bias = float_of(m, member(m, "bias"), "bias");
  members s = inner(m, "statistics", true);
  for (int i = 0; s.object && i < WEIR_N_STATS; i++) {
    const char *name = weir_gate_stat_name((weir_gate_stat)i);
    const json_t *x = member(&s, name);
    if (x) out->stat_weight[i] = float_of(&s, x, name);
  }
  if (s.object) done(&s);
  m->st = s.st;
  if (n < 1 || n > WEIR_GATE_MAX_DIM) miss(m, "weights", "1 to 65536 numbers");
  if (m->st == WEIR_OK) m->st = WEIR_NEW(n, &out->weight, m->e);
  out->dim = (int32_t)n;
  for (size_t i = 0; m->st == WEIR_OK && i < n; i++)
    out->weight[i] = float_of(m, json_array_get(w, i), "weights");
  const char *wrong = m->st == WEIR_OK ? weir_gate_head_error(out) : NULL;
  if (wrong) m->st = weir_fail(m->e, WEIR_EFORMAT, "%s", wrong);
}

/* 16 hexadecimal digits: a JSON integer would not hold all of a uint64_t. */
static uint64_t fingerprint(members *m) {
  const char *s = text(m, "fingerprint", false);
  uint64_t v = 0;
  size_t n = 0;
  for (; m->st == WEIR_OK && s[n]; n++) {
    const char *digits = "0123456789abcdef", *at = strchr(digits, s[n]);
    if (!at) break;
    v = v << 4 | (uint64_t)(at - digits);
  }
  if (n != 16 || s[n]) miss(m, "fingerprint", "16 hexadecimal digits");
  return v;
}

static void get_small(members *m, weir_gate_model *out) {
  members s = inner(m, "small", false);
  snprintf(out->name, sizeof out->name, "%s", text(&s, "name", false));
  out->n_vocab = (int32_t)integer(&s, "vocabulary", 1, INT32_MAX);
  out->dim = (int32_t)integer(&s, "dim", 1, WEIR_GATE_MAX_DIM);
  out->fingerprint = fingerprint(&s);
  done(&s);
  m->st = s.st;
}

static void get_quality(members *m, const char *name, weir_gate_quality *out) {
  members s = inner(m, name, true);
  if (s.object) {
    out->rows = integer(&s, "rows", 1, INT64_MAX);
    out->error_rate = number(&s, "error_rate", 0, 1);
    out->auc = number(&s, "auc", 0, 1);
    out->brier = number(&s, "brier", 0, 1);
    out->ece = number(&s, "ece", 0, 1);
    done(&s);
  }
  m->st = s.st;
}

static void get_all(members *m, weir_gate_file *f) {
  const char *kind = text(m, "gate", false);
  if (m->st == WEIR_OK && strcmp(kind, "isotonic") != 0 && strcmp(kind, "head") != 0)
    miss(m, "gate", "isotonic or head");
  if (m->st != WEIR_OK) return;
  f->kind = strcmp(kind, "head") == 0 ? WEIR_GATE_HEAD : WEIR_GATE_ISOTONIC;
  if (f->kind == WEIR_GATE_HEAD)
    get_head(m, &f->head);
  else
    get_map(m, &f->map);
  get_small(m, &f->small);
  snprintf(f->large, sizeof f->large, "%s", text(m, "large", true));
  snprintf(f->data, sizeof f->data, "%s", text(m, "data", true));
  f->threshold = NAN;
  if (m->st == WEIR_OK && json_object_get(m->object, "threshold"))
    f->threshold = (float)number(m, "threshold", -1, 2);
  get_quality(m, "fitted", &f->fitted);
  get_quality(m, "held_out", &f->held_out);
  done(m);
  if (m->st == WEIR_OK && f->kind == WEIR_GATE_HEAD && f->head.dim != f->small.dim)
    m->st = weir_fail(m->e, WEIR_EFORMAT, "a head of %d weights for a model of dimension %d", f->head.dim,
                      f->small.dim);
}

weir_status weir_gate_file_parse(weir_str json, weir_gate_file *out, weir_err *e) {
  json_t *o = NULL;
  *out = (weir_gate_file){.threshold = NAN};
  if (json.len > WEIR_GATE_FILE_MAX)
    return weir_fail(e, WEIR_EFORMAT, "%zu bytes, at most %d", json.len, (int)WEIR_GATE_FILE_MAX);
  const weir_status st = weir_json_parse_object(json, &o, e);
  if (st != WEIR_OK) return st;
  members m = {.object = o, .where = "gate file", .e = e};
  if (strcmp(text(&m, "schema", false), schema) != 0) miss(&m, "schema", schema);
  get_all(&m, out);
  json_decref(o);
  if (m.st != WEIR_OK) weir_gate_file_fini(out);
  return m.st;
}

weir_status weir_gate_file_read(const char *path, weir_gate_file *out, weir_err *e) {
  weir_filemap map = {0};
  *out = (weir_gate_file){.threshold = NAN};
  weir_status st = weir_filemap_open(path, WEIR_GATE_FILE_MAX, &map, e);
  if (st != WEIR_OK) return st; /* says the path */
  st = weir_gate_file_parse((weir_str){(const char *)map.data, map.len}, out, e);
  weir_filemap_close(&map);
  return st == WEIR_OK ? st : weir_fail_ctx(e, st, "%s", path);
}

/* ---- writing ---- */

static weir_status put_text(weir_buf *b, const char *name, const char *value, weir_err *e) {
  json_t *s = json_string(value);
  char *escaped = s ? json_dumps(s, JSON_ENCODE_ANY) : NULL;
  json_decref(s);
  if (!escaped) return weir_fail(e, WEIR_EINVAL, "%s: no UTF-8, or no memory", name);
  const weir_status st = weir_buf_printf(b, e, "\"%s\": %s", name, escaped);
  free(escaped);
  return st;
}

static weir_status put_quality(weir_buf *b, const char *name, const weir_gate_quality *q, weir_err *e) {
  if (q->rows == 0) return WEIR_OK;
  return weir_buf_printf(b, e,
                         ",\n \"%s\": {\"rows\": %" PRId64
                         ", \"error_rate\": %.9g, \"auc\": %.9g, "
                         "\"brier\": %.9g, \"ece\": %.9g}",
                         name, q->rows, q->error_rate, q->auc, q->brier, q->ece);
}

static weir_status put_map(weir_buf *b, const weir_gate_map *m, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_buf_printf(b, e, ",\n \"statistic\": \"%s\",\n \"knots\": [", weir_gate_stat_name(m->stat)));
  for (int32_t i = 0; i < m->n; i++)
    WEIR_TRY(weir_buf_printf(b, e, "%s[%.9g, %.9g]", i ? ",\n  " : "\n  ", (double)m->x[i], (double)m->y[i]));
  st = weir_buf_puts(b, "]", e);
out:
  return st;
}

static weir_status put_head(weir_buf *b, const weir_gate_head *h, weir_err *e) {
  weir_status st = WEIR_OK;
  bool any = false;
  WEIR_TRY(weir_buf_printf(b, e, ",\n \"bias\": %.9g,\n \"statistics\": {", (double)h->bias));
  for (int i = 0; i < WEIR_N_STATS; i++) {
    if (h->stat_weight[i] == 0) continue;
    WEIR_TRY(weir_buf_printf(b, e, "%s\"%s\": %.9g", any ? ", " : "", weir_gate_stat_name((weir_gate_stat)i),
                             (double)h->stat_weight[i]));
    any = true;
  }
  WEIR_TRY(weir_buf_puts(b, "},\n \"weights\": [", e));
  for (int32_t i = 0; i < h->dim; i++)
    WEIR_TRY(weir_buf_printf(b, e, "%s%.9g", i == 0 ? "\n  " : i % 8 ? ", " : ",\n  ", (double)h->weight[i]));
  st = weir_buf_puts(b, "]", e);
out:
  return st;
}

weir_status weir_gate_file_print(const weir_gate_file *f, weir_buf *b, weir_err *e) {
  weir_status st = WEIR_OK;
  const bool head = f->kind == WEIR_GATE_HEAD;
  const char *wrong = head ? weir_gate_head_error(&f->head) : weir_gate_map_error(&f->map);
  if (!weir_gate_is_fitted(f->kind)) wrong = "its gate is neither isotonic nor head";
  if (wrong) return weir_fail(e, WEIR_EINVAL, "gate file: %s", wrong);
  WEIR_TRY(
      weir_buf_printf(b, e, "{\"schema\": \"%s\",\n \"gate\": \"%s\"", schema, head ? "head" : "isotonic"));
  WEIR_TRY(weir_buf_puts(b, ",\n \"small\": {", e));
  WEIR_TRY(put_text(b, "name", f->small.name, e));
  WEIR_TRY(weir_buf_printf(b, e, ", \"vocabulary\": %d, \"dim\": %d, \"fingerprint\": \"%016" PRIx64 "\"}",
                           f->small.n_vocab, f->small.dim, f->small.fingerprint));
  if (f->large[0]) {
    WEIR_TRY(weir_buf_puts(b, ",\n ", e));
    WEIR_TRY(put_text(b, "large", f->large, e));
  }
  if (f->data[0]) {
    WEIR_TRY(weir_buf_puts(b, ",\n ", e));
    WEIR_TRY(put_text(b, "data", f->data, e));
  }
  if (isfinite(f->threshold))
    WEIR_TRY(weir_buf_printf(b, e, ",\n \"threshold\": %.9g", (double)f->threshold));
  WEIR_TRY(put_quality(b, "fitted", &f->fitted, e));
  WEIR_TRY(put_quality(b, "held_out", &f->held_out, e));
  WEIR_TRY(head ? put_head(b, &f->head, e) : put_map(b, &f->map, e));
  st = weir_buf_puts(b, "}\n", e);
out:
  return st;
}

static weir_status write_all(const char *path, const weir_buf *b, weir_err *e) {
  FILE *f = fopen(path, "we");
  if (!f) return weir_fail(e, WEIR_EIO, "%s: %s", path, strerror(errno));
  const bool wrote = fwrite(b->data, 1, b->len, f) == b->len;
  const bool closed = fclose(f) == 0;
  return wrote && closed ? WEIR_OK : weir_fail(e, WEIR_EIO, "%s: %s", path, strerror(errno));
}

weir_status weir_gate_file_write(const char *path, const weir_gate_file *f, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_buf b = {0}, part = {0};
  WEIR_TRY(weir_gate_file_print(f, &b, e));
  WEIR_TRY(weir_buf_printf(&part, e, "%s.part-%ld", path, (long)getpid()));
  st = write_all(part.data, &b, e);
  if (st == WEIR_OK && rename(part.data, path) != 0)
    st = weir_fail(e, WEIR_EIO, "%s: %s", path, strerror(errno));
  if (st != WEIR_OK) unlink(part.data);
out:
  weir_buf_fini(&b);
  weir_buf_fini(&part);
  return st;
}
