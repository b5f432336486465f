/* SPDX-License-Identifier: Apache-2.0 */
/* Log lines on stderr, as text ("weir: warning: words") or as one object of JSON each. Text that a user asked
 * for goes to stdout, never here. A line is one write of at most WEIR_LOG_MAX_LINE bytes, so that neither
 * threads nor processes that share a pipe mix theirs. Any thread. */
#ifndef WEIR_BASE_LOG_H
#define WEIR_BASE_LOG_H
#include <stdbool.h>
#include <stdint.h>

typedef enum { WEIR_LOG_ERROR, WEIR_LOG_WARN, WEIR_LOG_INFO, WEIR_LOG_DEBUG } weir_log_level;
typedef enum { WEIR_LOG_TEXT, WEIR_LOG_JSON } weir_log_format;

enum { WEIR_LOG_MAX_LINE = 4096 }; /* what a pipe takes in one piece on Linux */

/* Names as options have them: error, warning, info, debug; text, json. False: none of these. */
bool weir_log_level_parse(const char *name, weir_log_level *out);
bool weir_log_format_parse(const char *name, weir_log_format *out);

/* Lines above the level are dropped. Default: INFO. */
void weir_log_set_level(weir_log_level level);
/* Default: TEXT. */
void weir_log_set_format(weir_log_format format);
/* Which part of weir this process is: "gateway" makes lines of text begin with "weir gateway: ", and is a
 * member of those of JSON. Borrowed for ever; NULL, the default: not said. */
void weir_log_set_component(const char *name);

void weir_log(weir_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* A fact beside the words. Keys are the program's own: letters, digits, '_'. */
typedef struct weir_log_field {
  const char *key;
  enum { WEIR_LOG_FIELD_STR, WEIR_LOG_FIELD_INT, WEIR_LOG_FIELD_NUM } type;
  const char *str; /* NULL: null */
  int64_t i;
  double num; /* not finite: null */
} weir_log_field;

static inline weir_log_field weir_log_str(const char *key, const char *value) {
  return (weir_log_field){key, WEIR_LOG_FIELD_STR, value, 0, 0};
}
static inline weir_log_field weir_log_int(const char *key, int64_t value) {
  return (weir_log_field){key, WEIR_LOG_FIELD_INT, 0, value, 0};
}
static inline weir_log_field weir_log_num(const char *key, double value) {
  return (weir_log_field){key, WEIR_LOG_FIELD_NUM, 0, 0, value};
}

/* As text the fields follow the words as key=value, as JSON they are members of the object beside ts, level,
 * component and msg. Fields for which a line has no room are left out. */
void weir_log_with(weir_log_level level, const weir_log_field *field, int32_t n_fields, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* The same for readers of JSON alone: with text the words say it all. */
void weir_log_also(weir_log_level level, const weir_log_field *field, int32_t n_fields, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#endif
