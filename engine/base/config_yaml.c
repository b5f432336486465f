/* SPDX-License-Identifier: Apache-2.0 */
/* Options from a file of YAML: one flat mapping. The only place that meets libyaml. Everything YAML has
 * beyond keys, scalars and lists of scalars is refused, because a configuration file is read by people in a
 * hurry: no anchors, no aliases (and so no exponential growth), no tags, no key twice. Runs on the caller's
 * thread. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/config.h"
#include "base/config_in.h"
#include "base/mem.h"

typedef struct reader {
  weir_config *c;
  const char *path;
  yaml_parser_t parser;
  yaml_event_t event;
  bool has_event;
  bool *seen; /* [n_rows] keys met */
  int32_t n_items;
  weir_err *e;
} reader;

static size_t line_of(const reader *r) { return r->event.start_mark.line + 1; }

static weir_status refuse(reader *r, const char *what) {
  return weir_fail(r->e, WEIR_EINVAL, "%s:%zu: %s", r->path, line_of(r), what);
}

/* Moves to the next event; refuses what no place allows. */
static weir_status next(reader *r) {
  if (r->has_event) yaml_event_delete(&r->event);
  r->has_event = false;
  if (!yaml_parser_parse(&r->parser, &r->event))
    return weir_fail(r->e, WEIR_EINVAL, "%s:%zu: not YAML: %s", r->path, r->parser.problem_mark.line + 1,
                     r->parser.problem ? r->parser.problem : "out of memory");
  r->has_event = true;
  if (++r->n_items > 4 * WEIR_CONFIG_MAX_ITEMS) return refuse(r, "too many entries");
  const yaml_event_t *v = &r->event;
  if (v->type == YAML_ALIAS_EVENT) return refuse(r, "aliases are not allowed");
  if (v->type == YAML_SCALAR_EVENT) {
    if (v->data.scalar.anchor) return refuse(r, "anchors are not allowed");
    if (v->data.scalar.tag) return refuse(r, "tags are not allowed");
    if (memchr(v->data.scalar.value, 0, v->data.scalar.length)) return refuse(r, "a value holds a NUL");
  }
  if (v->type == YAML_SEQUENCE_START_EVENT && (v->data.sequence_start.anchor || v->data.sequence_start.tag))
    return refuse(r, "anchors and tags are not allowed");
  if (v->type == YAML_MAPPING_START_EVENT && (v->data.mapping_start.anchor || v->data.mapping_start.tag))
    return refuse(r, "anchors and tags are not allowed");
  return WEIR_OK;
}

/* Takes one scalar (row < 0: only looks it over). */
static weir_status take(reader *r, int32_t row) {
  if (r->event.type != YAML_SCALAR_EVENT)
    return refuse(r, "only single values and lists of them are allowed");
  if (row < 0) return WEIR_OK;
  const char *text = (const char *)r->event.data.scalar.value;
  const bool plain = r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
  char source[300];
  snprintf(source, sizeof source, "%.250s:%zu", r->path, line_of(r));
  if (plain && (!*text || !strcmp(text, "~") || !strcmp(text, "null")))
    return weir_fail(r->e, WEIR_EINVAL, "%s: has no value (%s)", r->c->table[row].name, source);
  return weir_config_set(r->c, row, WEIR_FROM_FILE, r->c->table[row].name, source, text, r->e);
}

static weir_status read_value(reader *r, int32_t row) {
  weir_status st = next(r);
  if (st != WEIR_OK) return st;
  if (r->event.type != YAML_SEQUENCE_START_EVENT) return take(r, row);
  if (row >= 0 && r->c->table[row].type != WEIR_OPT_STRINGS && r->c->table[row].type != WEIR_OPT_FLOATS) {
    char what[128];
    snprintf(what, sizeof what, "%s takes one value, not a list", r->c->table[row].name);
    return refuse(r, what);
  }
  while ((st = next(r)) == WEIR_OK && r->event.type != YAML_SEQUENCE_END_EVENT)
    if ((st = take(r, row)) != WEIR_OK) break;
  return st;
}

static weir_status read_pair(reader *r) {
  if (r->event.type != YAML_SCALAR_EVENT) return refuse(r, "a key must be a single word");
  const char *key = (const char *)r->event.data.scalar.value;
  const size_t len = r->event.data.scalar.length;
  char source[300];
  snprintf(source, sizeof source, "%.250s:%zu", r->path, line_of(r));
  const int32_t row = weir_config_row(r->c, key, len);
  if (row < 0 && !weir_config_elsewhere(r->c, key, len))
    return weir_config_unknown(r->c, source, "", key, len, r->e);
  if (row >= 0 && r->c->table[row].no_file) {
    char what[128];
    snprintf(what, sizeof what, "%s cannot stand in a file", r->c->table[row].name);
    return refuse(r, what);
  }
  /* a key of another command is marked too: given twice is a mistake wherever it belongs */
  int32_t mark = row;
  for (int32_t i = 0; i < r->c->n_rows && mark < 0; i++)
    if (strlen(r->c->table[i].name) == len && !memcmp(r->c->table[i].name, key, len)) mark = i;
  if (r->seen[mark]) {
    char what[128];
    snprintf(what, sizeof what, "%s is given twice", r->c->table[mark].name);
    return refuse(r, what);
  }
  r->seen[mark] = true;
  return read_value(r, row);
}

static weir_status read_document(reader *r) {
  weir_status st = WEIR_OK;
  WEIR_TRY(next(r)); /* the stream begins */
  WEIR_TRY(next(r));
  if (r->event.type == YAML_STREAM_END_EVENT) return WEIR_OK; /* an empty file sets nothing */
  WEIR_TRY(next(r));
  if (r->event.type == YAML_SCALAR_EVENT && r->event.data.scalar.length == 0) return WEIR_OK;
  if (r->event.type != YAML_MAPPING_START_EVENT) return refuse(r, "want lines of \"key: value\"");
  WEIR_TRY(next(r));
  while (r->event.type != YAML_MAPPING_END_EVENT) {
    WEIR_TRY(read_pair(r));
    WEIR_TRY(next(r));
  }
  WEIR_TRY(next(r)); /* the document ends */
  WEIR_TRY(next(r));
  if (r->event.type != YAML_STREAM_END_EVENT) return refuse(r, "more than one document");
out:
  return st;
}

weir_status weir_config_read_yaml(weir_config *c, const char *path, const void *text, size_t len,
                                  weir_err *e) {
  if (len > WEIR_CONFIG_MAX_BYTES)
    return weir_fail(e, WEIR_EINVAL, "%s: longer than %d bytes", path, WEIR_CONFIG_MAX_BYTES);
  reader r = {.c = c, .path = path, .e = e};
  weir_status st = WEIR_NEW((size_t)c->n_rows, &r.seen, e);
  if (st != WEIR_OK) return st;
  if (!yaml_parser_initialize(&r.parser)) {
    free(r.seen);
    return weir_fail(e, WEIR_ENOMEM, "%s: cannot start the YAML parser", path);
  }
  yaml_parser_set_input_string(&r.parser, text ? text : "", len);
  st = read_document(&r);
  if (r.has_event) yaml_event_delete(&r.event);
  yaml_parser_delete(&r.parser);
  free(r.seen);
  return st;
}

weir_status weir_config_read_file(weir_config *c, const char *path, weir_err *e) {
  weir_status st = WEIR_OK;
  char *text = NULL;
  FILE *f = fopen(path, "rb");
  if (!f) return weir_fail(e, WEIR_EIO, "%s: %s", path, strerror(errno));
  WEIR_TRY(WEIR_NEW((size_t)WEIR_CONFIG_MAX_BYTES + 1, &text, e));
  const size_t len = fread(text, 1, (size_t)WEIR_CONFIG_MAX_BYTES + 1, f);
  if (ferror(f)) {
    st = weir_fail(e, WEIR_EIO, "%s: %s", path, strerror(errno));
    goto out;
  }
  st = weir_config_read_yaml(c, path, text, len, e);
out:
  free(text);
  fclose(f);
  return st;
}
