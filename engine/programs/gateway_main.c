/* SPDX-License-Identifier: Apache-2.0 */
/* `weir-gateway`: options, keys, signals, and the event loop that runs the gateway. One thread. */
#include <errno.h>
#include <event2/event.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/log.h"
#include "net/gateway.h"
#include "programs/gateway_options.h"
#include "programs/version.h"

enum { OK = 0, FAILED = 1, USAGE = 2 };
enum { MAX_KEYS = 256, MAX_KEY_BYTES = 256 };

/* The keys of options and file; the file's are owned. */
typedef struct keys {
  const char *key[MAX_KEYS];
  char *owned[MAX_KEYS];
  int32_t n, n_owned;
} keys;

static int tell(const weir_err *e, int status) {
  weir_log(WEIR_LOG_ERROR, "%s", e->msg);
  if (status == USAGE) fprintf(stderr, "weir-gateway: see `weir-gateway --help`\n");
  return status;
}

/* ---- keys ---- */

static weir_status add_key(keys *k, const char *key, weir_err *e) {
  if (k->n == MAX_KEYS) return weir_fail(e, WEIR_EINVAL, "more than %d API keys", MAX_KEYS);
  k->key[k->n++] = key;
  return WEIR_OK;
}

static weir_status read_key_file(keys *k, const char *path, weir_err *e) {
  char line[MAX_KEY_BYTES + 2];
  weir_status st = WEIR_OK;
  FILE *f = fopen(path, "re");
  if (!f) return weir_fail(e, WEIR_EIO, "--api-key-file %s: %s", path, strerror(errno));
  const int32_t before = k->n;
  while (st == WEIR_OK && fgets(line, sizeof line, f)) {
    size_t n = strlen(line);
    if (n + 1 == sizeof line && line[n - 1] != '\n') {
      st = weir_fail(e, WEIR_EINVAL, "--api-key-file %s: a line is too long for a key", path);
      break;
    }
    while (n > 0 && strchr(" \t\r\n", line[n - 1])) line[--n] = 0;
    const char *key = line + strspn(line, " \t");
    if (!*key || *key == '#') continue;
    char *copy = k->n_owned < MAX_KEYS ? strdup(key) : NULL;
    if (!copy) {
      st = weir_fail(e, WEIR_EINVAL, "--api-key-file %s: too many keys", path);
      break;
    }
    k->owned[k->n_owned++] = copy;
    st = add_key(k, copy, e);
  }
  if (st == WEIR_OK && ferror(f)) st = weir_fail(e, WEIR_EIO, "--api-key-file %s: %s", path, strerror(errno));
  if (st == WEIR_OK && k->n == before)
    st = weir_fail(e, WEIR_EINVAL, "--api-key-file %s: there is no key in it", path);
  explicit_bzero(line, sizeof line);
  fclose(f);
  return st;
}

static void free_keys(keys *k) {
  for (int32_t i = 0; i < k->n_owned; i++) {
    explicit_bzero(k->owned[i], strlen(k->owned[i]));
    free(k->owned[i]);
  }
}

/* The first line of a file, owned. */
static weir_status read_token_file(const char *path, char **out, weir_err *e) {
  char line[1024] = "";
  weir_status st = WEIR_OK;
  FILE *f = fopen(path, "re");
  if (!f) return weir_fail(e, WEIR_EIO, "--token-file %s: %s", path, strerror(errno));
  const bool got = fgets(line, sizeof line, f) != NULL;
  if (ferror(f)) st = weir_fail(e, WEIR_EIO, "--token-file %s: %s", path, strerror(errno));
  line[strcspn(line, "\r\n")] = '\0';
  if (st == WEIR_OK && (!got || !line[0]))
    st = weir_fail(e, WEIR_EINVAL, "--token-file %s: no token in its first line", path);
  if (st == WEIR_OK && strlen(line) + 1 == sizeof line)
    st = weir_fail(e, WEIR_EINVAL, "--token-file %s: its first line is too long", path);
  if (st == WEIR_OK && !(*out = strdup(line))) st = weir_fail(e, WEIR_ENOMEM, "no memory for the token");
  explicit_bzero(line, sizeof line);
  fclose(f);
  return st;
}

/* ---- signals ---- */

typedef struct ending {
  weir_gw *gw;
  struct event_base *base;
  int32_t drain_ms;
  int n;
} ending;

static void on_signal(evutil_socket_t sig, short what, void *ctx) {
  ending *x = ctx;
  (void)what;
  if (x->n++ == 0) {
    weir_log(WEIR_LOG_INFO, "%s: no new requests; what is under way has %.1f s", strsignal((int)sig),
             x->drain_ms / 1e3);
    weir_gw_drain(x->gw, x->drain_ms);
  } else if (x->n == 2) {
    weir_gw_cut(x->gw);
  } else {
    event_base_loopbreak(x->base);
  }
}

/* A connection is a descriptor: the limit of the system must not come first. */
static void raise_descriptors(int64_t want) {
  struct rlimit l;
  if (getrlimit(RLIMIT_NOFILE, &l) != 0 || l.rlim_cur >= (rlim_t)want) return;
  l.rlim_cur = l.rlim_max < (rlim_t)want ? l.rlim_max : (rlim_t)want;
  if (setrlimit(RLIMIT_NOFILE, &l) != 0 || l.rlim_cur < (rlim_t)want)
    weir_log(WEIR_LOG_WARN, "this process may open %llu files; --max-connections asks for %lld",
             (unsigned long long)l.rlim_cur, (long long)want);
}

static int run(const weir_gw_cfg *cfg, int32_t drain_ms) {
  static const int taken[] = {SIGTERM, SIGINT};
  weir_err e = {0};
  weir_gw *gw = NULL;
  struct event *ev[2] = {NULL, NULL};
  int status = FAILED;
  struct event_base *base = event_base_new();
  if (!base) {
    weir_fail(&e, WEIR_EIO, "no event loop: %m");
    return tell(&e, FAILED);
  }
  if (weir_gw_create(base, cfg, &gw, &e) != WEIR_OK) {
    status = tell(&e, e.code == WEIR_EINVAL ? USAGE : FAILED);
    goto out;
  }
  ending end = {gw, base, drain_ms, 0};
  for (int i = 0; i < 2; i++) {
    ev[i] = evsignal_new(base, taken[i], on_signal, &end);
    if (!ev[i] || event_add(ev[i], NULL) != 0) goto out;
  }
  weir_log(WEIR_LOG_INFO, "listening on %s, port %u, for %d engine%s", cfg->listen, weir_gw_port(gw),
           cfg->n_engines, cfg->n_engines == 1 ? "" : "s");
  if (event_base_dispatch(base) >= 0 && !weir_gw_was_cut(gw)) status = OK;
out:
  weir_gw_destroy(gw);
  for (int i = 0; i < 2; i++)
    if (ev[i]) event_free(ev[i]);
  event_base_free(base);
  return status;
}

/* ---- options ---- */

static int32_t ms_of(const weir_config *c, const char *name) {
  return (int32_t)(weir_config_float(c, name) * 1000 + 0.5);
}

static int run_with(const weir_config *c) {
  keys k = {0};
  weir_err e = {0};
  weir_log_level level = WEIR_LOG_INFO;
  weir_log_format format = WEIR_LOG_TEXT;
  if (weir_log_level_parse(weir_config_string(c, "log-level"), &level)) weir_log_set_level(level);
  if (weir_log_format_parse(weir_config_string(c, "log-format"), &format)) weir_log_set_format(format);
  weir_gw_cfg cfg = {
      .listen = weir_config_string(c, "listen"),
      .token = weir_config_string(c, "token"),
      .insecure = weir_config_bool(c, "insecure"),
      .cors = weir_config_string(c, "cors"),
      .max_body_bytes = weir_config_int(c, "max-body"),
      .max_connections = (int32_t)weir_config_int(c, "max-connections"),
      .max_n = (int32_t)weir_config_int(c, "max-n"),
      .max_prompts = (int32_t)weir_config_int(c, "max-prompts"),
      .max_unsent_bytes = weir_config_int(c, "max-unsent"),
      .head_ms = ms_of(c, "header-timeout"),
      .body_ms = ms_of(c, "body-timeout"),
      .idle_ms = ms_of(c, "idle-timeout"),
      .stall_ms = ms_of(c, "stall-timeout"),
      .lost_ms = ms_of(c, "engine-timeout"),
      .access_log = weir_config_bool(c, "access-log"),
  };
  cfg.engine = weir_config_strings(c, "engine", &cfg.n_engines);
  cfg.host = weir_config_strings(c, "allow-host", &cfg.n_hosts);
  int status = USAGE;
  int32_t n = 0;
  char *token = NULL;
  const char *token_file = weir_config_string(c, "token-file");
  if (token_file && cfg.token) {
    weir_fail(&e, WEIR_EINVAL, "--token and --token-file say the same thing: give one");
    status = tell(&e, USAGE);
    goto out;
  }
  if (token_file && read_token_file(token_file, &token, &e) != WEIR_OK) {
    status = tell(&e, e.code == WEIR_EINVAL ? USAGE : FAILED);
    goto out;
  }
  if (token) cfg.token = token;
  const char *const *given = weir_config_strings(c, "api-key", &n);
  for (int32_t i = 0; i < n; i++)
    if (add_key(&k, given[i], &e) != WEIR_OK) {
      status = tell(&e, USAGE);
      goto out;
    }
  const char *file = weir_config_string(c, "api-key-file");
  if (file && read_key_file(&k, file, &e) != WEIR_OK) {
    status = tell(&e, e.code == WEIR_EINVAL ? USAGE : FAILED);
    goto out;
  }
  cfg.key = k.key;
  cfg.n_keys = k.n;
  if (cfg.n_engines == 0) {
    weir_fail(&e, WEIR_EINVAL, "no --engine: the URL that `weir serve` listens on");
    status = tell(&e, USAGE);
    goto out;
  }
  raise_descriptors((int64_t)cfg.max_connections + 64 + 16 * (int64_t)cfg.n_engines);
  status = run(&cfg, ms_of(c, "drain-timeout"));
out:
  if (token) explicit_bzero(token, strlen(token));
  free(token);
  free_keys(&k);
  return status;
}

static int print_help(const weir_config *c) {
  weir_buf b = {0};
  weir_err e = {0};
  if (weir_config_help(c, 100, &b, &e) != WEIR_OK) {
    weir_buf_fini(&b);
    return tell(&e, FAILED);
  }
  printf(
      "usage: weir-gateway --engine URL [options]\n\n"
      "OpenAI's HTTP interface in front of engines started by `weir serve`: /v1/chat/completions,\n"
      "/v1/completions, /v1/models, /tokenize, /detokenize, /health, /ready, /metrics, /stats, and a page "
      "to\n"
      "talk to the model at /.\n\n"
      "Examples\n"
      "  weir-gateway --engine ipc:///run/weir.ipc\n"
      "  weir-gateway --listen 0.0.0.0:8000 --api-key-file keys --engine tcp://10.0.0.1:5600 --engine "
      "tcp://10.0.0.2:5600\n\n%s",
      b.data);
  weir_buf_fini(&b);
  return fflush(stdout) == 0 ? OK : FAILED;
}

/* The environment is read twice: it may name the file, and goes before what that says. */
static weir_status read_options(weir_config *c, int argc, char **argv, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_config_read_all(c, argc, argv, e));
  int32_t n;
  const char *const *operand = weir_config_operands(c, &n);
  if (n > 0) st = weir_fail(e, WEIR_EINVAL, "%s: there is nothing to name beside the options", operand[0]);
out:
  return st;
}

int main(int argc, char **argv) {
  weir_config *c = NULL;
  weir_err e = {0};
  int status;
  const struct sigaction ignore = {.sa_handler = SIG_IGN};
  sigaction(SIGPIPE, &ignore, NULL);
  weir_log_set_component("gateway");
  if (weir_config_create(weir_gateway_options, weir_n_gateway_options, WEIR_GATEWAY_COMMAND, &c, &e) !=
      WEIR_OK)
    return tell(&e, FAILED);
  argc--;
  argv++;
  if (weir_config_peek_arg(c, argc, argv, "help")) {
    status = print_help(c);
  } else if (weir_config_peek_arg(c, argc, argv, "version")) {
    printf("weir-gateway %s%s%s%s\n", WEIR_VERSION, WEIR_REVISION[0] ? " (" : "", WEIR_REVISION,
           WEIR_REVISION[0] ? ")" : "");
    status = OK;
  } else if (read_options(c, argc, argv, &e) != WEIR_OK) {
    status = tell(&e, e.code == WEIR_EINVAL ? USAGE : FAILED);
  } else {
    status = run_with(c);
  }
  weir_config_destroy(c);
  return status;
}
