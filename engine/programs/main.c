/* SPDX-License-Identifier: Apache-2.0 */
/* `weir`: picks the command, reads its options (defaults, file, environment, command line) and runs it. */
#define _GNU_SOURCE /* environ */
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/log.h"
#include "kernels/cpu/cpu.h"
#include "programs/interrupt.h"
#include "programs/options.h"
#include "programs/out.h"
#include "programs/version.h"
#include "programs/worker.h"

static int32_t width_of_terminal(void) {
  struct winsize w;
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col >= 40) return w.ws_col < 110 ? w.ws_col : 110;
  return 100;
}

static void print_overview(FILE *f) {
  fprintf(
      f,
      "weir runs two language models as a cascade: the small one writes, and a token whose entropy there is\n"
      "above a threshold is written by the large one.\n\n"
      "usage: weir COMMAND [options]\n\n");
  for (int32_t i = 0; i < weir_n_commands; i++)
    fprintf(f, "  %-10s %s\n", weir_commands[i].name, weir_commands[i].summary);
  fprintf(f,
          "\n`weir COMMAND --help` tells the options of one, `weir --version` the version.\n\n"
          "  weir run -p 'Question: Convert 7 hours and 25 minutes to minutes.\\nAnswer:'\n\n"
          "Options can also stand in a file (--config) and in the environment: --max-tokens is the key "
          "`max-tokens`\n"
          "and the variable WEIR_MAX_TOKENS. The command line goes before the environment, that before the "
          "file.\n"
          "Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.\n");
}

static int print_help(const weir_command *cmd, const weir_config *c) {
  weir_buf b = {0};
  weir_err e = {0};
  if (weir_config_help(c, width_of_terminal(), &b, &e) != WEIR_OK) {
    weir_buf_fini(&b);
    return weir_tell(&e, WEIR_EXIT_FAILED);
  }
  printf("usage: %s\n\n%s\n\nExamples\n%s\n%s", cmd->usage, cmd->text, cmd->examples, b.data);
  weir_buf_fini(&b);
  return fflush(stdout) == 0 ? WEIR_EXIT_OK : WEIR_EXIT_FAILED;
}

static int print_version(void) {
  weir_dev *dev = NULL;
  weir_err e = {0};
  const weir_cpu_opts one = {.n_threads = 1, .isa = WEIR_ISA_BEST, .no_pin = true};
  printf("weir %s%s%s%s\n", WEIR_VERSION, WEIR_REVISION[0] ? " (" : "", WEIR_REVISION,
         WEIR_REVISION[0] ? ")" : "");
  if (weir_dev_open_cpu(&one, &dev, &e) != WEIR_OK) return weir_tell(&e, WEIR_EXIT_FAILED);
  printf("cpu: %s\n", weir_isa_name(weir_cpu_isa(dev)));
  weir_dev_destroy(dev);
  return WEIR_EXIT_OK;
}

static const weir_command *find_command(const char *name) {
  for (int32_t i = 0; i < weir_n_commands; i++)
    if (!strcmp(name, weir_commands[i].name)) return &weir_commands[i];
  return NULL;
}

static int unknown_command(const char *word) {
  const char *names[16];
  int32_t n = 0;
  for (; n < weir_n_commands && n < 16; n++) names[n] = weir_commands[n].name;
  const char *near = weir_nearest_name(word, names, n);
  if (near)
    weir_log(WEIR_LOG_ERROR, "%.60s is not a command; did you mean %s?", word, near);
  else
    weir_log(WEIR_LOG_ERROR, "%.60s is not a command", word);
  fprintf(stderr, "weir: see `weir --help`\n");
  return WEIR_EXIT_USAGE;
}

static void warn_of_slips(const weir_config *c) {
  char meant[96];
  const char *odd = weir_config_odd_env(c, environ, meant, sizeof meant);
  if (odd)
    weir_log(WEIR_LOG_WARN, "%.*s in the environment is not an option; did you mean %s?",
             (int)strcspn(odd, "="), odd, meant);
}

static int run_command(const weir_command *cmd, int argc, char **argv) {
  weir_config *c = NULL;
  weir_err e = {0};
  int status = WEIR_EXIT_USAGE;
  if (weir_config_create(weir_options, weir_n_options, cmd->bit, &c, &e) != WEIR_OK)
    return weir_tell(&e, WEIR_EXIT_FAILED);
  const bool help = weir_config_peek_arg(c, argc, argv, "help") != NULL;
  if (!help) warn_of_slips(c);
  if (help)
    status = print_help(cmd, c);
  else if (weir_config_read_all(c, argc, argv, &e) != WEIR_OK)
    status = e.code == WEIR_EINVAL ? weir_tell_usage(cmd->name, &e) : weir_tell(&e, WEIR_EXIT_FAILED);
  else
    status = weir_run_or_work(cmd, c);
  weir_config_destroy(c);
  return status;
}

int main(int argc, char **argv) {
  weir_interrupt_ignore_pipe();
  if (argc < 2) {
    print_overview(stderr);
    return WEIR_EXIT_USAGE;
  }
  const char *word = argv[1];
  if (!strcmp(word, "--version") || !strcmp(word, "version")) return print_version();
  const bool help = !strcmp(word, "--help") || !strcmp(word, "-h") || !strcmp(word, "help");
  if (help && argc < 3) {
    print_overview(stdout);
    return WEIR_EXIT_OK;
  }
  const weir_command *cmd = find_command(help ? argv[2] : word);
  if (!cmd) return unknown_command(help ? argv[2] : word);
  if (help) return run_command(cmd, 1, (char *[]){(char *)"--help", NULL});
  return run_command(cmd, argc - 2, argv + 2);
}
