/* SPDX-License-Identifier: Apache-2.0 */
/* A frontend in a hundred lines, with weir's client library.
 * usage: example-frontend [--chat] [--greedy] [-n MAX_TOKENS] URL PROMPT */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <weir/client.h>

typedef struct talk {
  bool color, ended;
  uint32_t tier; /* that the terminal shows the colour of */
  int status;
} talk;

static volatile sig_atomic_t interrupted;
static void on_interrupt(int signal_number) {
  (void)signal_number;
  interrupted = 1;
}

static void show_tier(talk *t, uint32_t tier) {
  if (!t->color || tier == t->tier) return;
  t->tier = tier;
  fputs(tier == 0 ? "\033[0m" : "\033[0;1;35m", stdout);
}

static void on_token(void *ctx, const weir_client_token *token) {
  talk *t = ctx;
  if (token->len > 0) show_tier(t, token->tier);
  fwrite(token->text, 1, token->len, stdout);
  fflush(stdout);
}

static void on_end(void *ctx, const weir_client_end *end) {
  talk *t = ctx;
  show_tier(t, 0);
  putchar('\n');
  fflush(stdout);
  t->ended = true;
  if (end->error.code != 0) {
    fprintf(stderr, "example-frontend: %d: %s\n", end->error.code, end->error.message);
    t->status = 1;
    return;
  }
  if (!strcmp(end->reason, "cancelled")) t->status = 130;
  fprintf(stderr, "%s: %u tokens", end->reason, (unsigned)end->usage.completion_tokens);
  for (uint32_t i = 0; i < end->usage.n_tiers; i++)
    fprintf(stderr, ", %u by tier %u", (unsigned)end->usage.tokens_by_tier[i], (unsigned)i);
  if (!isnan(end->usage.entropy)) fprintf(stderr, ", threshold %.2f nats", (double)end->usage.entropy);
  fprintf(stderr, ", first after %.0f ms, all after %.0f ms\n", (double)end->usage.first_token_us / 1000,
          (double)end->usage.total_us / 1000);
}

int main(int argc, char **argv) {
  bool chat = false, greedy = false;
  uint32_t max_tokens = 0;
  int i = 1;
  for (; i < argc && argv[i][0] == '-'; i++) {
    if (!strcmp(argv[i], "--chat")) {
      chat = true;
    } else if (!strcmp(argv[i], "--greedy")) {
      greedy = true;
    } else if (!strcmp(argv[i], "-n") && i + 1 < argc) {
      max_tokens = (uint32_t)strtoul(argv[++i], NULL, 10);
    } else {
      break;
    }
  }
  if (argc - i != 2) {
    fprintf(stderr, "usage: example-frontend [--chat] [--greedy] [-n MAX_TOKENS] URL PROMPT\n");
    return 2;
  }
  const weir_client_cfg cfg = {.url = argv[i], .token = getenv("WEIR_TOKEN")};
  const weir_client_message message = {"user", argv[i + 1]};
  const weir_client_request request = {.prompt = chat ? NULL : argv[i + 1],
                                       .chat = &message,
                                       .n_chat = chat ? 1 : 0,
                                       .max_tokens = max_tokens,
                                       .has_temperature = greedy, /* 0; else the engine's default */
                                       .receipts = true};
  talk t = {.color = isatty(STDOUT_FILENO) || getenv("WEIR_COLOR")};
  const weir_client_events events = {.on_token = on_token, .on_end = on_end, .ctx = &t};
  weir_client *client;
  weir_client_error error;
  if (weir_client_open(&cfg, &client, &error) != 0) {
    fprintf(stderr, "example-frontend: %s\n", error.message);
    return 1;
  }
  const int64_t number = weir_client_submit(client, &request, &events, &error);
  if (number < 0) {
    fprintf(stderr, "example-frontend: %s\n", error.message);
    weir_client_close(client);
    return 1;
  }
  const struct sigaction action = {.sa_handler = on_interrupt}; /* without SA_RESTART: run wakes up */
  sigaction(SIGINT, &action, NULL);
  while (!t.ended) {
    weir_client_run(client, 1000);
    if (interrupted) weir_client_cancel(client, number);
  }
  weir_client_close(client);
  return t.status;
}
