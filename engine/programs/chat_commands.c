/* SPDX-License-Identifier: Apache-2.0 */
/* The commands of a chat: lines that begin with a slash. What they have to say goes to standard error, as all
 * that is no answer. Main thread. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "programs/chat_in.h"

static weir_said tell(const weir_err *e) {
  weir_log(WEIR_LOG_ERROR, "%s", e->msg);
  return WEIR_SAID_COMMAND;
}

static weir_said do_mode(weir_chat *x, const char *arg) {
  weir_err e = {0};
  weir_mode mode;
  if (!*arg) {
    fprintf(stderr, "mode %s\n", weir_mode_name(x->opts.mode));
  } else if (!weir_mode_parse(arg, &mode)) {
    fprintf(stderr, "/mode: small, large, defer, rollback, exact, speculate, route or auto, not %s\n", arg);
  } else if (weir_chat_use_mode(x, mode, &e) != WEIR_OK) {
    return tell(&e);
  }
  return WEIR_SAID_COMMAND;
}

static weir_said do_entropy(weir_chat *x, const char *arg) {
  weir_err e = {0};
  char *end;
  const weir_cascade_opts before = x->opts;
  const weir_mode mode = x->opts.mode;
  const double tau = strtod(arg, &end);
  if (!*arg) {
    fprintf(stderr, "tau %g nats\n", (double)x->cascade.gate[0].threshold);
    return WEIR_SAID_COMMAND;
  }
  if (*end || end == arg || isnan(tau)) {
    fprintf(stderr, "/entropy: a number of nats, or inf, not %s\n", arg);
    return WEIR_SAID_COMMAND;
  }
  if (x->models.n_tiers < 2 || mode == WEIR_MODE_SMALL || mode == WEIR_MODE_LARGE) {
    fprintf(stderr, "/entropy: mode %s has no gate\n", weir_mode_name(mode));
    return WEIR_SAID_COMMAND;
  }
  x->opts.set =
      (x->opts.set | WEIR_OPT_THRESHOLD) & ~(uint32_t)WEIR_OPT_GATE; /* the entropy gate is the default */
  if (mode == WEIR_MODE_EXACT || mode == WEIR_MODE_SPECULATE)
    x->opts.set |= WEIR_OPT_GATE; /* which here has none */
  x->opts.gate = WEIR_GATE_ENTROPY;
  x->opts.threshold = (float)tau;
  if (weir_chat_use_mode(x, mode, &e) != WEIR_OK) {
    x->opts = before;
    return tell(&e);
  }
  return WEIR_SAID_COMMAND;
}

static void print_sums(const weir_chat *x, const char *what, const weir_chat_sums *s) {
  const double n = s->tokens > 0 ? (double)s->tokens : 1;
  fprintf(stderr, "%s: %lld tokens, %.1f tok/s, first token after %.0f ms", what, (long long)s->tokens,
          s->ns > 0 ? 1e9 * (double)s->tokens / (double)s->ns : 0.0,
          s->answers > 0 ? 1e-6 * (double)s->first_ns / (double)s->answers : 0.0);
  if (x->models.n_tiers > 1)
    fprintf(stderr, "; small %lld, large %lld, deferral rate %.3f", (long long)s->by_tier[0],
            (long long)s->by_tier[1], (double)s->by_tier[1] / n);
  if (s->seen > 0) fprintf(stderr, ", mean entropy %.3f nats", s->entropy / (double)s->seen);
  fprintf(stderr, "\n");
  for (int32_t t = 0; t < x->models.n_tiers; t++)
    fprintf(stderr, "  %s: %lld rows fed, %lld prompt tokens found in the prefix cache\n",
            x->models.tier_name[t], (long long)s->fed[t], (long long)s->hit[t]);
}

static weir_said do_stats(weir_chat *x, const char *arg) {
  (void)arg;
  const double used = (double)x->talk.read.n;
  print_sums(x, "last answer", &x->last);
  if (x->all.answers > 1) print_sums(x, "session", &x->all);
  fprintf(stderr, "context: %d of %d tokens; keys and values", x->talk.read.n, x->n_ctx);
  for (int32_t t = 0; t < x->models.n_tiers; t++) {
    const weir_exec_info *info = &weir_pair_exec(x->models.pair, t)->info;
    fprintf(stderr, "%s %s %.2f of %.2f MB", t ? "," : "", x->models.tier_name[t],
            1e-6 * used * (double)info->kv_bytes_per_token,
            1e-6 * (double)info->kv_bytes_per_token * x->n_ctx);
  }
  fprintf(stderr, "\n");
  return WEIR_SAID_COMMAND;
}

static weir_said do_system(weir_chat *x, const char *arg) {
  weir_err e = {0};
  return weir_talk_set_system(&x->talk, arg, strlen(arg), &e) == WEIR_OK ? WEIR_SAID_COMMAND : tell(&e);
}

static weir_said do_clear(weir_chat *x, const char *arg) {
  (void)arg;
  weir_talk_clear(&x->talk);
  return WEIR_SAID_COMMAND;
}

static bool last_is(const weir_chat *x, weir_chat_role role) {
  return x->talk.n_turns > 0 && x->talk.turn[x->talk.n_turns - 1].role == role;
}

static weir_said do_undo(weir_chat *x, const char *arg) {
  (void)arg;
  if (!last_is(x, WEIR_CHAT_ASSISTANT)) {
    fprintf(stderr, "/undo: nothing was said yet\n");
    return WEIR_SAID_COMMAND;
  }
  weir_talk_drop_last(&x->talk);
  if (last_is(x, WEIR_CHAT_USER)) weir_talk_drop_last(&x->talk);
  return WEIR_SAID_COMMAND;
}

static weir_said do_retry(weir_chat *x, const char *arg) {
  (void)arg;
  if (!last_is(x, WEIR_CHAT_ASSISTANT)) {
    fprintf(stderr, "/retry: there is no answer yet\n");
    return WEIR_SAID_COMMAND;
  }
  weir_talk_drop_last(&x->talk);
  x->draw.seed++;
  if (!(x->draw.temperature > 0)) fprintf(stderr, "/retry: at temperature 0 the answer will be the same\n");
  return WEIR_SAID_ANSWER;
}

static weir_said do_save(weir_chat *x, const char *arg) {
  weir_err e = {0};
  if (!*arg) {
    fprintf(stderr, "/save: a file is wanted\n");
  } else if (weir_talk_save(&x->talk, arg, &e) != WEIR_OK) {
    return tell(&e);
  } else {
    fprintf(stderr, "%d messages saved in %s\n", x->talk.n_turns, arg);
  }
  return WEIR_SAID_COMMAND;
}

static weir_said do_template(weir_chat *x, const char *arg) {
  weir_err e = {0};
  if (!*arg) {
    fprintf(stderr, "template %s; there are %s\n", weir_chat_name(&x->talk.format), weir_chat_names());
    return WEIR_SAID_COMMAND;
  }
  return weir_chat_use_template(x, arg, &e) == WEIR_OK ? WEIR_SAID_COMMAND : tell(&e);
}

static weir_said do_quit(weir_chat *x, const char *arg) {
  (void)x;
  (void)arg;
  return WEIR_SAID_QUIT;
}

static weir_said do_help(weir_chat *x, const char *arg);

static const struct {
  const char *name, *arg, *help;
  weir_said (*run)(weir_chat *, const char *arg);
} commands[] = {
    {"mode", "MODE", "small, large, defer, rollback, exact, speculate, route or auto, from the next answer on", do_mode},
    {"entropy", "TAU", "the gate's threshold, nats; inf: never defer, -1: always", do_entropy},
    {"stats", "", "tokens by model, speed, context in use; of the last answer and of the session", do_stats},
    {"system", "TEXT", "the system message; nothing after it removes it", do_system},
    {"clear", "", "forgets all but the system message", do_clear},
    {"undo", "", "forgets the last question and its answer", do_undo},
    {"retry", "", "another answer to the last question, with the next seed", do_retry},
    {"save", "FILE", "writes the conversation as JSON lines of role and content", do_save},
    {"template", "NAME", "the chat template; without a name, which it is", do_template},
    {"help", "", "this", do_help},
    {"quit", "", "leaves, as Ctrl-D does", do_quit},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static weir_said do_help(weir_chat *x, const char *arg) {
  (void)x;
  (void)arg;
  for (int32_t i = 0; i < N_COMMANDS; i++)
    fprintf(stderr, "  /%-8s %-5s %s\n", commands[i].name, commands[i].arg, commands[i].help);
  fprintf(stderr,
          "A line that ends with a backslash goes on in the next one; //text says /text. Ctrl-C stops an "
          "answer.\n");
  return WEIR_SAID_COMMAND;
}

weir_said weir_chat_command(weir_chat *x, const char *line, size_t *skip) {
  *skip = 0;
  if (line[0] != '/') return WEIR_SAID_TEXT;
  if (line[1] == '/') {
    *skip = 1;
    return WEIR_SAID_TEXT;
  }
  const char *names[N_COMMANDS];
  char word[32];
  const size_t len = strcspn(line + 1, " \t");
  const char *arg = line + 1 + len + strspn(line + 1 + len, " \t");
  snprintf(word, sizeof word, "%.*s", len < sizeof word ? (int)len : (int)sizeof word - 1, line + 1);
  for (int32_t i = 0; i < N_COMMANDS; i++) {
    if (!strcmp(word, commands[i].name)) return commands[i].run(x, arg);
    names[i] = commands[i].name;
  }
  const char *near = weir_nearest_name(word, names, N_COMMANDS);
  fprintf(stderr, "/%s is not a command%s%s%s; /help lists them\n", word, near ? "; did you mean /" : "",
          near ? near : "", near ? "?" : "");
  return WEIR_SAID_COMMAND;
}
