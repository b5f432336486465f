/* SPDX-License-Identifier: Apache-2.0 */
/* `weir-bench`: picks the command, reads its options (defaults, file, environment, command line) and runs it.
 * A first word that is no command belongs to `run`. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "load/options.h"
#include "load/report.h"
#include "programs/interrupt.h"

static int tell(const weir_err *e, int status) {
  fprintf(stderr, "weir-bench: error: %s\n", e->msg);
  if (status == WEIR_BENCH_USAGE) fprintf(stderr, "weir-bench: see `weir-bench --help`\n");
  return status;
}

static int print_help(const weir_bench_command *cmd, const weir_config *c) {
  weir_buf b = {0};
  weir_err e = {0};
  if (weir_config_help(c, 100, &b, &e) != WEIR_OK) {
    weir_buf_fini(&b);
    return tell(&e, WEIR_BENCH_FAILED);
  }
  printf("usage: %s\n\n%s\n\nExamples\n%s\n\n%s", cmd->usage, cmd->text, cmd->examples, b.data);
  weir_buf_fini(&b);
  return fflush(stdout) == 0 ? WEIR_BENCH_OK : WEIR_BENCH_FAILED;
}

static int run_command(const weir_bench_command *cmd, int argc, char **argv) {
  weir_config *c = NULL;
  weir_err e = {0};
  int status;
  if (weir_config_create(weir_bench_options, weir_bench_n_options, cmd->bit, &c, &e) != WEIR_OK)
    return tell(&e, WEIR_BENCH_FAILED);
  if (weir_config_peek_arg(c, argc, argv, "help"))
    status = print_help(cmd, c);
  else if (weir_config_read_all(c, argc, argv, &e) != WEIR_OK)
    status = tell(&e, e.code == WEIR_EINVAL ? WEIR_BENCH_USAGE : WEIR_BENCH_FAILED);
  else
    status = cmd->main(c);
  weir_config_destroy(c);
  return status;
}

static int read_all(const weir_config *c, int32_t least, int32_t most, json_t **doc, int32_t *n,
                    weir_err *e) {
  int32_t n_paths;
  const char *const *path = weir_config_operands(c, &n_paths);
  *n = 0;
  if (n_paths < least || n_paths > most) {
    weir_fail(e, WEIR_EINVAL, "want %s files that --json wrote", least == most ? "two" : "one to sixteen");
    return tell(e, WEIR_BENCH_USAGE);
  }
  for (; *n < n_paths; ++*n)
    if (weir_report_read(path[*n], &doc[*n], e) != WEIR_OK) return tell(e, WEIR_BENCH_FAILED);
  return WEIR_BENCH_OK;
}

enum { MAX_FILES = 16 };

int weir_bench_main_compare(const weir_config *c) {
  json_t *doc[2] = {NULL};
  int32_t n;
  weir_buf b = {0};
  weir_err e = {0};
  int status = read_all(c, 2, 2, doc, &n, &e);
  if (status == WEIR_BENCH_OK && weir_report_compare(doc[0], doc[1], &b, &e) != WEIR_OK)
    status = tell(&e, WEIR_BENCH_FAILED);
  if (status == WEIR_BENCH_OK) fputs(b.data, stdout);
  weir_buf_fini(&b);
  for (int32_t i = 0; i < n; i++) json_decref(doc[i]);
  return status;
}

int weir_bench_main_report(const weir_config *c) {
  json_t *doc[MAX_FILES] = {NULL};
  int32_t n;
  weir_buf b = {0};
  weir_err e = {0};
  const char *path = weir_config_string(c, "html");
  int status = read_all(c, 1, MAX_FILES, doc, &n, &e);
  if (status == WEIR_BENCH_OK && !path) {
    weir_fail(&e, WEIR_EINVAL, "want --html FILE");
    status = tell(&e, WEIR_BENCH_USAGE);
  }
  if (status == WEIR_BENCH_OK &&
      (weir_report_html(doc, n, &b, &e) != WEIR_OK || weir_report_write(path, b.data, b.len, &e) != WEIR_OK))
    status = tell(&e, WEIR_BENCH_FAILED);
  weir_buf_fini(&b);
  for (int32_t i = 0; i < n; i++) json_decref(doc[i]);
  return status;
}

int main(int argc, char **argv) {
  weir_interrupt_ignore_pipe();
  if (argc < 2) {
    fprintf(stderr, "usage: %s\nweir-bench: see `weir-bench --help`\n", weir_bench_commands[0].usage);
    return WEIR_BENCH_USAGE;
  }
  if (!strcmp(argv[1], "--version")) {
    printf("weir-bench %s\n", WEIR_BENCH_VERSION);
    return WEIR_BENCH_OK;
  }
  for (int32_t i = 0; i < weir_bench_n_commands; i++)
    if (!strcmp(argv[1], weir_bench_commands[i].name))
      return run_command(&weir_bench_commands[i], argc - 2, argv + 2);
  return run_command(&weir_bench_commands[0], argc - 1, argv + 1);
}
