/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the options: shared by config.c (values), config_yaml.c (files), config_help.c and
 * config_print.c. */
#ifndef WEIR_BASE_CONFIG_IN_H
#define WEIR_BASE_CONFIG_IN_H
#include "base/config.h"

typedef enum { WEIR_FROM_DEFAULT, WEIR_FROM_FILE, WEIR_FROM_ENV, WEIR_FROM_ARGS } weir_opt_rank;

typedef struct weir_opt_value {
  weir_opt_rank rank;
  char *source; /* owned; NULL: the default */
  int64_t i;    /* INT, BOOL */
  double f;
  char **str;  /* [n], owned, each owned: STRING and ENUM have one */
  double *num; /* [n], owned: FLOATS */
  int32_t n;
} weir_opt_value;

struct weir_config {
  const weir_option *table;
  int32_t n_rows;
  uint32_t command;
  weir_opt_value *value; /* [n_rows], owned; used where the command has the row */
  const char **operand;  /* [n_operands], owned; pointing into argv */
  int32_t n_operands;
};

/* The row of this command with that name, or -1. */
int32_t weir_config_row(const weir_config *, const char *name, size_t len);
/* Whether any command of the table has it. */
bool weir_config_elsewhere(const weir_config *, const char *name, size_t len);
/* Sets row `i` from text, a list by adding to what the same rank has set. `source` is copied, `spelled` is
 * how the user wrote the option's name. */
weir_status weir_config_set(weir_config *, int32_t i, weir_opt_rank rank, const char *spelled,
                            const char *source, const char *text, weir_err *e);
/* WEIR_EINVAL: `what` is not known, with the nearest name. */
weir_status weir_config_unknown(const weir_config *, const char *source, const char *prefix, const char *name,
                                size_t len, weir_err *e);
/* Writes the name of the row's environment variable; "" when it has none. */
void weir_config_env_name(const weir_option *, char *buf, size_t bytes);
/* Words with line breaks instead of some blanks, `before` at the beginning of each line. */
weir_status weir_config_put_wrapped(weir_buf *out, const char *before, const char *text, int32_t width,
                                    weir_err *e);
/* " [0 .. 2; default 0.8; WEIR_TEMPERATURE]", or nothing. */
weir_status weir_config_put_facts(weir_buf *text, const weir_option *, weir_err *e);

#endif
