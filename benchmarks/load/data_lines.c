/* SPDX-License-Identifier: Apache-2.0 */
/* Reads JSON lines of prompts and traces. Several people's forms are known: a plain "prompt"; OpenAI's
 * "messages"; "turns"; ShareGPT's "conversations" (of which the human's side is asked); Mooncake's traces
 * ("timestamp" in ms, "input_length", "output_length", "hash_ids"). Main thread, before the load. */
#include "load/data_lines.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "load/data.h"

static weir_status get_int(const json_t *o, const char *name, int32_t *out, weir_err *e) {
  const json_t *v = json_object_get(o, name);
  if (!v || json_is_null(v)) return WEIR_OK;
  const json_int_t n = json_is_integer(v) ? json_integer_value(v) : -1;
  if (n < 1 || n > WEIR_LENGTH_MAX)
    return weir_fail(e, WEIR_EFORMAT, "\"%s\": want a whole number, 1 .. %d", name, WEIR_LENGTH_MAX);
  *out = (int32_t)n;
  return WEIR_OK;
}

static weir_status read_conversation(weir_line *l, const json_t *list, weir_err *e) {
  size_t i;
  const json_t *m;
  l->turns = json_array();
  json_array_foreach(list, i, m) {
    const char *from = json_string_value(json_object_get(m, "from"));
    json_t *text = json_object_get(m, "value");
    if (from && (!strcmp(from, "human") || !strcmp(from, "user")) && json_is_string(text))
      json_array_append(l->turns, text);
  }
  if (json_array_size(l->turns) == 0)
    return weir_fail(e, WEIR_EFORMAT, "no text of a human in \"conversations\"");
  return WEIR_OK;
}

static weir_status check_turns(const json_t *turns, weir_err *e) {
  size_t i;
  const json_t *t;
  if (!json_is_array(turns) || json_array_size(turns) == 0 || json_array_size(turns) > WEIR_DATA_MAX_TURNS)
    return weir_fail(e, WEIR_EFORMAT, "\"turns\": want 1 .. %d strings", WEIR_DATA_MAX_TURNS);
  json_array_foreach(turns, i, t) {
    if (!json_is_string(t)) return weir_fail(e, WEIR_EFORMAT, "\"turns\": want strings");
  }
  return WEIR_OK;
}

static weir_status read_text(weir_line *l, const json_t *o, weir_err *e) {
  weir_status st = WEIR_OK;
  const json_t *prompt = json_object_get(o, "prompt"), *messages = json_object_get(o, "messages");
  const json_t *turns = json_object_get(o, "turns"), *talk = json_object_get(o, "conversations");
  if (json_is_string(prompt)) {
    l->prompt = strdup(json_string_value(prompt));
    if (!l->prompt) return weir_fail(e, WEIR_ENOMEM, "cannot keep a prompt");
  } else if (json_is_array(messages) && json_array_size(messages) > 0) {
    l->messages = json_incref((json_t *)messages);
  } else if (turns) {
    st = check_turns(turns, e);
    if (st == WEIR_OK) l->turns = json_incref((json_t *)turns);
  } else if (json_is_array(talk)) {
    st = read_conversation(l, talk, e);
    if (st == WEIR_OK) st = check_turns(l->turns, e);
  } else if (l->input_length == 0) {
    st = weir_fail(e, WEIR_EFORMAT,
                   "no \"prompt\", \"messages\", \"turns\", \"conversations\" or \"input_length\"");
  }
  return st;
}

static weir_status read_time(weir_line *l, const json_t *o, weir_err *e) {
  const json_t *s = json_object_get(o, "arrival_s"), *ms = json_object_get(o, "timestamp");
  if (!json_is_number(s) && !json_is_number(ms))
    return weir_fail(e, WEIR_EFORMAT, "no \"arrival_s\" (seconds) and no \"timestamp\" (milliseconds)");
  l->at_s = json_is_number(s) ? json_number_value(s) : json_number_value(ms) / 1e3;
  if (!isfinite(l->at_s)) return weir_fail(e, WEIR_EFORMAT, "a time that is no number");
  return WEIR_OK;
}

static weir_status read_line(weir_line *l, const char *text, size_t len, bool trace, weir_err *e) {
  weir_status st = WEIR_OK;
  json_error_t why;
  json_t *o = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
  if (!json_is_object(o)) {
    st = weir_fail(e, WEIR_EFORMAT, "not an object of JSON%s%s", o ? "" : ": ", o ? "" : why.text);
    goto out;
  }
  WEIR_TRY(get_int(o, "max_tokens", &l->max_tokens, e));
  WEIR_TRY(get_int(o, "output_length", &l->max_tokens, e));
  WEIR_TRY(get_int(o, "input_length", &l->input_length, e));
  if (trace) WEIR_TRY(read_time(l, o, e));
  WEIR_TRY(read_text(l, o, e));
  const json_t *ids = json_object_get(o, "hash_ids");
  if (json_is_array(ids)) l->hash_ids = json_incref((json_t *)ids);
out:
  json_decref(o);
  return st;
}

static weir_status grow(weir_lines *l, weir_err *e) {
  if (l->n < l->cap) return WEIR_OK;
  const int64_t cap = l->cap ? 2 * l->cap : 256;
  weir_line *grown = realloc(l->line, (size_t)cap * sizeof *grown);
  if (!grown) return weir_fail(e, WEIR_ENOMEM, "cannot keep %lld lines", (long long)cap);
  l->line = grown;
  l->cap = cap;
  return WEIR_OK;
}

static int by_time(const void *a, const void *b) {
  const double x = ((const weir_line *)a)->at_s, y = ((const weir_line *)b)->at_s;
  return (x > y) - (x < y);
}

static weir_status make_times(weir_lines *l, weir_err *e) {
  qsort(l->line, (size_t)l->n, sizeof *l->line, by_time);
  l->at_s = malloc((size_t)l->n * sizeof *l->at_s);
  if (!l->at_s) return weir_fail(e, WEIR_ENOMEM, "cannot keep a trace's times");
  for (int64_t i = 0; i < l->n; i++) l->at_s[i] = l->line[i].at_s - l->line[0].at_s;
  return WEIR_OK;
}

weir_status weir_lines_read(const char *path, bool trace, weir_lines *out, weir_err *e) {
  weir_status st = WEIR_OK;
  char *text = NULL;
  size_t cap = 0;
  ssize_t len;
  *out = (weir_lines){0};
  FILE *f = strcmp(path, "-") ? fopen(path, "rb") : stdin;
  if (!f) return weir_fail(e, WEIR_EIO, "%s: %s", path, strerror(errno));
  for (int64_t n = 1; (len = getline(&text, &cap, f)) >= 0; n++) {
    if (strspn(text, " \t\r\n") == (size_t)len) continue;
    if (len > WEIR_DATA_MAX_LINE_BYTES || out->n >= WEIR_DATA_MAX_ITEMS) {
      st = weir_fail(e, WEIR_EFORMAT, "longer than %d bytes, or more than %d lines", WEIR_DATA_MAX_LINE_BYTES,
                     WEIR_DATA_MAX_ITEMS);
    } else {
      WEIR_TRY(grow(out, e));
      out->line[out->n] = (weir_line){0};
      st = read_line(&out->line[out->n++], text, (size_t)len, trace, e);
    }
    if (st != WEIR_OK) {
      weir_fail_ctx(e, st, "%s:%lld", path, (long long)n);
      goto out;
    }
  }
  if (ferror(f))
    st = weir_fail(e, WEIR_EIO, "%s: %s", path, strerror(errno));
  else if (out->n == 0)
    st = weir_fail(e, WEIR_EFORMAT, "%s: nothing in it", path);
  else if (trace)
    st = make_times(out, e);
out:
  free(text);
  if (f != stdin) fclose(f);
  if (st != WEIR_OK) weir_lines_fini(out);
  return st;
}

void weir_lines_fini(weir_lines *l) {
  for (int64_t i = 0; i < l->n; i++) {
    free(l->line[i].prompt);
    json_decref(l->line[i].messages);
    json_decref(l->line[i].turns);
    json_decref(l->line[i].hash_ids);
  }
  free(l->line);
  free(l->at_s);
  *l = (weir_lines){0};
}
