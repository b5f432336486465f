/* SPDX-License-Identifier: Apache-2.0 */
/* Runs the program `weir` as a user would and looks at what came out. */
#ifndef WEIR_TESTS_E2E_H
#define WEIR_TESTS_E2E_H
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

enum { E2E_MAX_ARGS = 48 };

typedef struct e2e_result {
  int status;      /* exit status; 128 + signal when it was killed */
  char *out, *err; /* owned, NUL-terminated */
  size_t out_len;
} e2e_result;

/* One line of a command as words with blanks between; '...' keeps blanks (and \n as two characters). */
typedef struct e2e_run_opts {
  const char *line;
  const char *in;         /* standard input; NULL: nothing */
  const char *const *env; /* "NAME=VALUE", NULL at the end; NULL: none besides PATH and HOME */
} e2e_run_opts;

e2e_result e2e_run(const e2e_run_opts *);
e2e_result e2e(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* the line alone */
void e2e_free(e2e_result *);
/* Splits a line; fills argv (argv[0] is the program) and returns the words' memory, to be freed. */
char *e2e_split(const char *line, char **argv);

/* Every line of the output as JSON, in an array; fails the test when one is not, or has no `schema`. */
json_t *e2e_json(const e2e_result *);
/* e2e + e2e_json of a run that must succeed. */
json_t *e2e_json_of(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The objects of a schema among those of an array; new reference. */
json_t *e2e_of_schema(const json_t *lines, const char *schema);

/* Asserts with both values and the command in the message. */
void e2e_want_status(const e2e_result *, int status, const char *what);
void e2e_want_in(const char *text, const char *part, const char *what);

/* A file of this test under the folder for temporary files, made empty; removed by e2e_cleanup. */
const char *e2e_temp(const char *name);
void e2e_write(const char *path, const void *bytes, size_t n);
char *e2e_read(const char *path); /* owned */
int e2e_cleanup(void **state);    /* the group's teardown */

#endif
