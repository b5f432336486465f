/* SPDX-License-Identifier: Apache-2.0 */
/* Starts the program with its streams in temporary files: nothing can block, nothing must be waited for by
 * the clock. WEIR_PROGRAM is the path of the program under test, given by CMake. */
#include "e2e.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
/* after the above */
#include <cmocka.h>

char *e2e_split(const char *line, char **argv) {
  char *words = strdup(line);
  assert_non_null(words);
  int n = 0;
  argv[n++] = (char *)WEIR_PROGRAM;
  for (char *p = words; *p;) {
    while (*p == ' ') *p++ = '\0';
    if (!*p) break;
    assert_true(n < E2E_MAX_ARGS - 1);
    const char stop = *p == '\'' ? '\'' : ' ';
    if (stop == '\'') p++;
    argv[n++] = p;
    while (*p && *p != stop) p++;
    if (*p) *p++ = '\0';
  }
  argv[n] = NULL;
  return words;
}

static char *slurp(FILE *f, size_t *len) {
  fseek(f, 0, SEEK_END);
  const long n = ftell(f);
  assert_true(n >= 0);
  rewind(f);
  char *text = malloc((size_t)n + 1);
  assert_non_null(text);
  const size_t got = fread(text, 1, (size_t)n, f);
  text[got] = '\0';
  if (len) *len = got;
  return text;
}

e2e_result e2e_run(const e2e_run_opts *o) {
  char *argv[E2E_MAX_ARGS];
  char *words = e2e_split(o->line, argv);
  FILE *in = tmpfile(), *out = tmpfile(), *err = tmpfile();
  assert_true(in && out && err);
  if (o->in) fputs(o->in, in);
  fflush(in);
  rewind(in);
  const pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    char path[4096], home[4096];
    const char *env[16];
    int n = 0;
    snprintf(path, sizeof path, "PATH=%s", getenv("PATH") ? getenv("PATH") : "/usr/bin:/bin");
    snprintf(home, sizeof home, "HOME=%s", getenv("HOME") ? getenv("HOME") : "/");
    env[n++] = path;
    env[n++] = home;
    for (int i = 0; o->env && o->env[i] && n < 15; i++) env[n++] = o->env[i];
    env[n] = NULL;
    dup2(fileno(in), 0);
    dup2(fileno(out), 1);
    dup2(fileno(err), 2);
    execve(argv[0], argv, (char *const *)env);
    _exit(127);
  }
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  e2e_result r = {.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status)};
  r.out = slurp(out, &r.out_len);
  r.err = slurp(err, NULL);
  fclose(in);
  fclose(out);
  fclose(err);
  free(words);
  return r;
}

e2e_result e2e(const char *fmt, ...) {
  char line[4096];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(line, sizeof line, fmt, ap);
  va_end(ap);
  return e2e_run(&(e2e_run_opts){.line = line});
}

void e2e_free(e2e_result *r) {
  free(r->out);
  free(r->err);
  *r = (e2e_result){0};
}

json_t *e2e_json(const e2e_result *r) {
  json_t *lines = json_array();
  for (const char *p = r->out; *p;) {
    const size_t len = strcspn(p, "\n");
    json_error_t why;
    json_t *o = json_loadb(p, len, JSON_REJECT_DUPLICATES, &why);
    if (!json_is_object(o)) fail_msg("not an object of JSON (%s): %.200s", why.text, p);
    if (!json_is_string(json_object_get(o, "schema"))) fail_msg("no schema: %.200s", p);
    json_array_append_new(lines, o);
    p += len + (p[len] == '\n');
  }
  return lines;
}

json_t *e2e_json_of(const char *fmt, ...) {
  char line[4096];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(line, sizeof line, fmt, ap);
  va_end(ap);
  e2e_result r = e2e_run(&(e2e_run_opts){.line = line});
  e2e_want_status(&r, 0, line);
  json_t *lines = e2e_json(&r);
  e2e_free(&r);
  return lines;
}

json_t *e2e_of_schema(const json_t *lines, const char *schema) {
  json_t *some = json_array(), *o;
  size_t i;
  json_array_foreach(lines, i, o) {
    if (!strcmp(json_string_value(json_object_get(o, "schema")), schema)) json_array_append(some, o);
  }
  return some;
}

void e2e_want_status(const e2e_result *r, int status, const char *what) {
  if (r->status != status) fail_msg("%s: exit status %d, want %d\n%s", what, r->status, status, r->err);
}

void e2e_want_in(const char *text, const char *part, const char *what) {
  if (!strstr(text, part)) fail_msg("%s: \"%s\" is not in: %.600s", what, part, text);
}

/* ---- files ---- */

static char folder[256];
static char made[16][320];
static int n_made;

const char *e2e_temp(const char *name) {
  if (!folder[0]) {
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/weir-e2e-XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(folder));
  }
  assert_true(n_made < 16);
  snprintf(made[n_made], sizeof made[0], "%s/%s", folder, name);
  e2e_write(made[n_made], "", 0);
  return made[n_made++];
}

void e2e_write(const char *path, const void *bytes, size_t n) {
  FILE *f = fopen(path, "wb");
  assert_non_null(f);
  assert_int_equal(fwrite(bytes, 1, n, f), n);
  assert_int_equal(fclose(f), 0);
}

char *e2e_read(const char *path) {
  FILE *f = fopen(path, "rb");
  if (!f) fail_msg("cannot read %s", path);
  char *text = slurp(f, NULL);
  fclose(f);
  return text;
}

int e2e_cleanup(void **state) {
  (void)state;
  for (int i = 0; i < n_made; i++) unlink(made[i]);
  if (folder[0]) rmdir(folder);
  n_made = 0;
  folder[0] = '\0';
  return 0;
}
