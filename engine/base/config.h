/* SPDX-License-Identifier: Apache-2.0 */
/* Options. One table says for each its name, type, default, range and help; a file of YAML, the environment
 * and the command line all write to it, the later winning, and `--help` is printed from it. What the table
 * does not know is refused with the nearest name it does; a value out of range is refused with where it came
 * from.
 *
 *   defaults  <  --config FILE  <  environment  <  command line
 *
 * An option `max-tokens` is --max-tokens N, the key `max-tokens` of the file, and WEIR_MAX_TOKENS. No other
 * environment variable is read anywhere in weir. */
#ifndef WEIR_BASE_CONFIG_H
#define WEIR_BASE_CONFIG_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

typedef enum {
  WEIR_OPT_INT,   /* decimal; bounded by min and max */
  WEIR_OPT_FLOAT, /* decimal, inf or -inf; bounded by min and max; never NaN */
  WEIR_OPT_BOOL,  /* --name, --no-name; in a file true/false, yes/no, on/off */
  WEIR_OPT_STRING,
  WEIR_OPT_ENUM,    /* one of `choices` */
  WEIR_OPT_STRINGS, /* a list: each occurrence adds one; in a file a sequence */
  WEIR_OPT_FLOATS   /* a list: numbers with commas between, each within min and max; occurrences add up */
} weir_opt_type;

typedef struct weir_option {
  const char *name; /* lower case, '-' between words */
  char letter;      /* -p, or 0 */
  weir_opt_type type;
  uint32_t
      commands; /* bit set of the commands that have it; two rows may share a name if no command has both */
  const char *group;   /* its heading in the help; rows of a group stand together */
  const char *arg;     /* how the help names the value: "N", "FILE"; NULL: by type */
  const char *def;     /* as a user would write it; NULL: unset (0, false, NULL, empty) */
  double min, max;     /* INT, FLOAT, FLOATS; both 0: any */
  const char *choices; /* ENUM: "a|b|c" */
  const char *env;  /* NULL: WEIR_ and the name in capitals; "": none; else this one. A BOOL with an `env` of
                       its own is true when that variable is there and not empty */
  bool no_file;     /* not a key of the file */
  const char *help; /* one or more sentences */
} weir_option;

typedef struct weir_config weir_config;

/* Bounds of a file. */
enum { WEIR_CONFIG_MAX_BYTES = 256 * 1024, WEIR_CONFIG_MAX_ITEMS = 1024 };

/* `table` of n rows is borrowed for the config's life; `command` is one bit of weir_option.commands. The
 * values are the defaults. A default that breaks its own row is WEIR_EINVAL. */
weir_status weir_config_create(const weir_option *table, int32_t n, uint32_t command, weir_config **out,
                               weir_err *e);
void weir_config_destroy(weir_config *); /* NULL is fine */

/* Reads a file: one mapping of keys to scalars or sequences of scalars. Refused: other nesting, aliases,
 * anchors, tags, keys given twice, more than one document, files over WEIR_CONFIG_MAX_BYTES. Keys of other
 * commands of the table are left alone, so that one file can serve all of them. */
weir_status weir_config_read_file(weir_config *, const char *path, weir_err *e);
/* The same from memory; `path` is for messages. */
weir_status weir_config_read_yaml(weir_config *, const char *path, const void *text, size_t len, weir_err *e);

/* Reads the variables the table names with `get` (as getenv does; NULL: getenv). A variable set to nothing is
 * as if it were not there. */
weir_status weir_config_read_env(weir_config *, const char *(*get)(const char *name), weir_err *e);
/* The first of env[] ("NAME=VALUE", NULL at the end) that begins with WEIR_ and is close to a variable of the
 * table without being one: a slip, of which the user should hear. *meant (at least 96 bytes) is what it is
 * close to. NULL: none. Other names that begin so may be somebody else's. */
const char *weir_config_odd_env(const weir_config *, char *const *env, char *meant, size_t bytes);

/* Reads argv[0, argc): options in any order, "--" ends them, the rest are operands. Values point into argv.
 */
weir_status weir_config_read_args(weir_config *, int argc, char *const *argv, weir_err *e);

/* The value of one option of a command line, read ahead of everything else: --config must be known before the
 * file it names. NULL when it is not there; the last one counts. */
const char *weir_config_peek_arg(const weir_config *, int argc, char *const *argv, const char *name);

/* All of it in the order above: the file that --config (or its variable) names, the environment, argv. */
weir_status weir_config_read_all(weir_config *, int argc, char *const *argv, weir_err *e);

/* ---- values. The name must be one of this command's and of the type asked for: anything else is a mistake
 * in the program, stopped by an assertion. ---- */
bool weir_config_has(const weir_config *, const char *name);    /* whether this command has such an option */
bool weir_config_is_set(const weir_config *, const char *name); /* by anything but the table's default */
int64_t weir_config_int(const weir_config *, const char *name);
double weir_config_float(const weir_config *, const char *name);
bool weir_config_bool(const weir_config *, const char *name);
/* STRING and ENUM; NULL when unset. Borrowed for the config's life. */
const char *weir_config_string(const weir_config *, const char *name);
/* STRINGS; *n of them. */
const char *const *weir_config_strings(const weir_config *, const char *name, int32_t *n);
const double *weir_config_floats(const weir_config *, const char *name, int32_t *n);
/* Whether it is STRINGS or FLOATS; of an option this command has. */
bool weir_config_is_list(const weir_config *, const char *name);
const char *const *weir_config_operands(const weir_config *, int32_t *n);
/* Where the value came from: "default", "FILE:LINE", "WEIR_X in the environment", "command line". */
const char *weir_config_source(const weir_config *, const char *name);

/* The rows of this command as text, group by group, wrapped to `width` columns. */
weir_status weir_config_help(const weir_config *, int32_t width, weir_buf *out, weir_err *e);

/* The options of this command as a file of YAML that sets what is in force: each with its help and its bounds
 * as a comment, those at their default as a comment too, the others with where they came from. Of the options
 * named in secret[0, n_secret) it is told whether they are set, not what they are. */
weir_status weir_config_print(const weir_config *, const char *const *secret, int32_t n_secret, weir_buf *out,
                              weir_err *e);

/* The one of names[0, n) closest to `word`, when it is close enough to be what was meant; else NULL. */
const char *weir_nearest_name(const char *word, const char *const *names, int32_t n);

#endif
