/* SPDX-License-Identifier: Apache-2.0 */
/* Reads task files and applies their patterns. Both come from outside: lines are bounded, and a pattern may
 * take only so much time, depth and memory (PCRE2's limits). Main thread. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "programs/tasks.h"

#include <errno.h>
#include <jansson.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* Plenty for a text of some thousand characters; a pattern that needs more is running away. */
enum { MATCH_LIMIT = 1000000, DEPTH_LIMIT = 10000, HEAP_LIMIT_KIB = 16384, MAX_PATTERNS = 10000 };

struct weir_task_pattern {
  char *text;
  pcre2_code *code;
  uint32_t n_groups;
};

static weir_status compile(weir_tasks *t, const char *text, int32_t *out, weir_err *e) {
  for (int32_t i = 0; i < t->n_patterns; i++)
    if (!strcmp(t->pattern[i].text, text)) {
      *out = i;
      return WEIR_OK;
    }
  if (t->n_patterns >= MAX_PATTERNS) return weir_fail(e, WEIR_EINVAL, "more than %d patterns", MAX_PATTERNS);
  struct weir_task_pattern *grown = realloc(t->pattern, ((size_t)t->n_patterns + 1) * sizeof *grown);
  if (!grown) return weir_fail(e, WEIR_ENOMEM, "cannot keep a pattern");
  t->pattern = grown;
  struct weir_task_pattern *p = &t->pattern[t->n_patterns];
  int code;
  PCRE2_SIZE at;
  *p = (struct weir_task_pattern){.text = strdup(text)};
  if (!p->text) return weir_fail(e, WEIR_ENOMEM, "cannot keep a pattern");
  p->code = pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &code, &at, NULL);
  if (!p->code) {
    PCRE2_UCHAR why[120];
    pcre2_get_error_message(code, why, sizeof why);
    free(p->text);
    return weir_fail(e, WEIR_EINVAL, "match: %s at character %zu of \"%.80s\"", (const char *)why, (size_t)at,
                     text);
  }
  pcre2_pattern_info(p->code, PCRE2_INFO_CAPTURECOUNT, &p->n_groups);
  *out = t->n_patterns++;
  return WEIR_OK;
}

/* A member that must be a string without a NUL. */
static weir_status get_string(const json_t *o, const char *key, const char **out, weir_err *e) {
  const json_t *v = json_object_get(o, key);
  if (!json_is_string(v)) return weir_fail(e, WEIR_EFORMAT, "want a string \"%s\"", key);
  *out = json_string_value(v);
  if (strlen(*out) != json_string_length(v)) return weir_fail(e, WEIR_EFORMAT, "\"%s\" holds a NUL", key);
  return WEIR_OK;
}

static weir_status add_task(weir_tasks *t, const char *line, size_t len, weir_err *e) {
  weir_status st = WEIR_OK;
  json_error_t why;
  const char *prompt = NULL, *answer = NULL, *match = NULL;
  json_t *o = json_loadb(line, len, JSON_REJECT_DUPLICATES, &why);
  if (!json_is_object(o)) {
    st = weir_fail(e, WEIR_EFORMAT, "not an object of JSON%s%s", o ? "" : ": ", o ? "" : why.text);
    goto out;
  }
  WEIR_TRY(get_string(o, "prompt", &prompt, e));
  WEIR_TRY(get_string(o, "answer", &answer, e));
  WEIR_TRY(get_string(o, "match", &match, e));
  if (!prompt[0]) {
    st = weir_fail(e, WEIR_EFORMAT, "\"prompt\" is empty");
    goto out;
  }
  if (t->n == t->cap) {
    const int32_t cap = t->cap ? 2 * t->cap : 256;
    weir_eval_task *grown = realloc(t->task, (size_t)cap * sizeof *grown);
    if (!grown) {
      st = weir_fail(e, WEIR_ENOMEM, "cannot keep %d tasks", cap);
      goto out;
    }
    t->task = grown;
    t->cap = cap;
  }
  weir_eval_task x = {0};
  WEIR_TRY(compile(t, match, &x.pattern, e));
  x.prompt = strdup(prompt);
  x.answer = strdup(answer);
  t->task[t->n++] = x; /* weir_tasks_fini frees it from here on */
  if (!x.prompt || !x.answer) st = weir_fail(e, WEIR_ENOMEM, "cannot keep a task");
out:
  json_decref(o);
  return st;
}

static weir_status make_limits(weir_tasks *t, weir_err *e) {
  pcre2_match_context *c = pcre2_match_context_create(NULL);
  if (!c) return weir_fail(e, WEIR_ENOMEM, "cannot prepare matching");
  pcre2_set_match_limit(c, MATCH_LIMIT);
  pcre2_set_depth_limit(c, DEPTH_LIMIT);
  pcre2_set_heap_limit(c, HEAP_LIMIT_KIB);
  t->limits = c;
  return WEIR_OK;
}

weir_status weir_tasks_read(const char *path, int32_t limit, weir_tasks *t, weir_err *e) {
  weir_status st = WEIR_OK;
  char *line = NULL;
  size_t cap = 0;
  ssize_t len;
  *t = (weir_tasks){0};
  FILE *f = strcmp(path, "-") ? fopen(path, "rb") : stdin;
  if (!f) return weir_fail(e, WEIR_EIO, "%s: %s", path, strerror(errno));
  WEIR_TRY(make_limits(t, e));
  for (int32_t n = 1; (limit <= 0 || t->n < limit) && (len = getline(&line, &cap, f)) >= 0; n++) {
    if (strspn(line, " \t\r\n") == (size_t)len) continue;
    if (len > WEIR_MAX_TASK_BYTES || t->n >= WEIR_MAX_TASKS)
      st = weir_fail(e, WEIR_EFORMAT, "longer than %d bytes, or more than %d tasks", WEIR_MAX_TASK_BYTES,
                     WEIR_MAX_TASKS);
    else
      st = add_task(t, line, (size_t)len, e);
    if (st != WEIR_OK) {
      weir_fail_ctx(e, st, "%s:%d", path, n);
      goto out;
    }
  }
  if (ferror(f))
    st = weir_fail(e, WEIR_EIO, "%s: %s", path, strerror(errno));
  else if (t->n == 0)
    st = weir_fail(e, WEIR_EFORMAT, "%s: no task in it", path);
out:
  free(line);
  if (f != stdin) fclose(f);
  return st;
}

void weir_tasks_fini(weir_tasks *t) {
  for (int32_t i = 0; i < t->n; i++) {
    free(t->task[i].prompt);
    free(t->task[i].answer);
  }
  for (int32_t i = 0; i < t->n_patterns; i++) {
    free(t->pattern[i].text);
    pcre2_code_free(t->pattern[i].code);
  }
  free(t->task);
  free(t->pattern);
  if (t->limits) pcre2_match_context_free(t->limits);
  *t = (weir_tasks){0};
}

weir_status weir_task_find(const weir_tasks *t, int32_t i, const char *text, size_t len, weir_buf *found,
                           weir_err *e) {
  const struct weir_task_pattern *p = &t->pattern[t->task[i].pattern];
  weir_buf_truncate(found, 0);
  weir_status st = weir_buf_reserve(found, 0, e);
  if (st != WEIR_OK) return st;
  pcre2_match_data *m = pcre2_match_data_create_from_pattern(p->code, NULL);
  if (!m) return weir_fail(e, WEIR_ENOMEM, "cannot prepare a match");
  const PCRE2_SIZE *at = pcre2_get_ovector_pointer(m);
  PCRE2_SIZE from = 0, begin = 0, end = 0;
  uint32_t flags = 0;
  /* every match in turn; an empty one is followed by a try for another at the same place, then by a character
   * more */
  while (from <= len) {
    const int rc = pcre2_match(p->code, (PCRE2_SPTR)text, len, from, flags, m, t->limits);
    if (rc < 0 && (rc != PCRE2_ERROR_NOMATCH || flags == 0)) break;
    if (rc < 0) {
      for (from++; from < len && ((unsigned char)text[from] & 0xc0) == 0x80;) from++;
      flags = 0;
      continue;
    }
    const PCRE2_SIZE *group = at + 2 * (size_t)p->n_groups;
    begin = end = 0;
    if (group[0] != PCRE2_UNSET && group[1] >= group[0]) {
      begin = group[0];
      end = group[1];
    }
    flags = at[1] <= at[0] ? PCRE2_NOTEMPTY_ATSTART | PCRE2_ANCHORED : 0;
    if (at[1] < from) break; /* \K in a look-around can point back: enough */
    from = at[1];
  }
  while (begin < end && strchr(" \t\r\n", text[begin])) begin++;
  while (end > begin && strchr(" \t\r\n", text[end - 1])) end--;
  st = weir_buf_put(found, text + begin, end - begin, e);
  pcre2_match_data_free(m);
  return st;
}
