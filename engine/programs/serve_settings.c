/* SPDX-License-Identifier: Apache-2.0 */
/* From the options of `weir serve` to what its parts want, checked as far as can be without a model: a server
 * that cannot work says so in its first moment, not after minutes of loading. Main thread. */
#include "programs/serve_settings.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "model/utf8.h"
#include "net/rpc.h"
#include "programs/setting.h"
#include "programs/template.h"

/* ---- models ---- */

static weir_status check_name(const char *name, weir_err *e) {
  const size_t n = strlen(name);
  if (n == 0 || n >= WEIR_MODEL_NAME_BYTES)
    return weir_fail(e, WEIR_EINVAL, "--model-name: want 1 to %d bytes", WEIR_MODEL_NAME_BYTES - 1);
  for (size_t i = 0; i < n;) {
    int32_t len;
    if (weir_utf8_next(name + i, n - i, &len) != WEIR_UTF8_CHAR || (unsigned char)name[i] < 0x20 ||
        name[i] == 0x7f)
      return weir_fail(e, WEIR_EINVAL,
                       "the model's name is not UTF-8 without control characters: give --model-name");
    i += (size_t)len;
  }
  return WEIR_OK;
}

/* --model-name, else weir-demo for the shipped pair, else the last part of the large model's path. */
static weir_status read_name(weir_serve_settings *s, weir_err *e) {
  const char *name = weir_config_string(s->c, "model-name");
  char base[WEIR_PATH_BYTES];
  if (!name && !weir_config_string(s->c, "small") && !weir_config_string(s->c, "large")) name = "weir-demo";
  if (!name) {
    strcpy(base, s->paths.large[0] ? s->paths.large : s->paths.small);
    for (size_t n = strlen(base); n > 1 && base[n - 1] == '/'; n--) base[n - 1] = '\0';
    char *slash = strrchr(base, '/'), *dot = strrchr(base, '.');
    if (dot && !strcmp(dot, ".gguf")) *dot = '\0';
    name = slash ? slash + 1 : base;
  }
  const weir_status st = check_name(name, e);
  if (st == WEIR_OK) strcpy(s->model, name);
  return st;
}

/* ---- the cascade ---- */

static uint32_t bit(weir_mode m) { return UINT32_C(1) << m; }

static const uint32_t all_modes = (UINT32_C(1) << WEIR_N_MODES) - 1;

/* One of --modes: a name, or several with commas between. */
static weir_status add_modes(const char *text, uint32_t *modes, weir_err *e) {
  for (const char *p = text;;) {
    char name[16];
    weir_mode m;
    const size_t n = strcspn(p, ",");
    snprintf(name, sizeof name, "%.*s", (int)(n < sizeof name ? n : sizeof name - 1), p);
    if (n >= sizeof name || !weir_mode_parse(name, &m))
      return weir_fail(e, WEIR_EINVAL,
                       "--modes: %.60s is not known; there are small, large, defer, rollback, exact, speculate, "
                       "auto and route",
                       text);
    *modes |= bit(m);
    if (!p[n]) return WEIR_OK;
    p += n + 1;
  }
}

static weir_status read_modes(weir_serve_settings *s, weir_mode *mode, weir_err *e) {
  weir_status st = WEIR_OK;
  int32_t n;
  const bool small = s->paths.small[0], large = s->paths.large[0];
  const uint32_t possible = small && large ? all_modes : bit(small ? WEIR_MODE_SMALL : WEIR_MODE_LARGE);
  const char *const *named = weir_config_strings(s->c, "modes", &n);
  for (int32_t i = 0; i < n; i++) WEIR_TRY(add_modes(named[i], &s->modes, e));
  if (n == 0) s->modes = possible;
  if (s->modes & ~possible)
    return weir_fail(e, WEIR_EINVAL, "--modes names a mode that needs --%s too", small ? "large" : "small");

  if (!weir_mode_parse(weir_config_string(s->c, "mode"), mode))
    return weir_fail(e, WEIR_EINVAL, "--mode is not known");
  if (!(s->modes & bit(*mode)) && !weir_config_is_set(s->c, "mode")) /* the first of those there are */
    for (*mode = WEIR_MODE_SMALL; !(s->modes & bit(*mode));) (*mode)++;
  if (!(possible & bit(*mode)))
    return weir_fail(e, WEIR_EINVAL, "mode %s needs --%s too (mode: %s)", weir_mode_name(*mode),
                     small ? "large" : "small", weir_config_source(s->c, "mode"));
  if (!(s->modes & bit(*mode)))
    return weir_fail(e, WEIR_EINVAL, "mode %s is not among --modes (mode: %s)", weir_mode_name(*mode),
                     weir_config_source(s->c, "mode"));
  if (s->modes == bit(WEIR_MODE_SMALL)) s->paths.large[0] = '\0';
  if (s->modes == bit(WEIR_MODE_LARGE)) s->paths.small[0] = '\0';
out:
  return st;
}

static weir_status read_cascade(weir_serve_settings *s, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_mode mode;
  weir_cascade_cfg built;
  WEIR_TRY(read_modes(s, &mode, e));
  WEIR_TRY(weir_setting_cascade(s->c, mode, &s->cascade, e));
  WEIR_TRY(weir_setting_threshold(s->c, &s->cascade, e));
  WEIR_TRY(weir_cascade_cfg_make(&s->cascade, &built, e));
  s->entropy_min = (float)weir_config_float(s->c, "entropy-min");
  s->entropy_max = (float)weir_config_float(s->c, "entropy-max");
  if (s->entropy_min > s->entropy_max)
    WEIR_TRY(weir_fail(e, WEIR_EINVAL, "--entropy-min %g is above --entropy-max %g", (double)s->entropy_min,
                       (double)s->entropy_max));
out:
  return st;
}

static weir_status read_template(weir_serve_settings *s, weir_err *e) {
  const char *name = weir_config_string(s->c, "template");
  if (!name) return WEIR_OK;
  const weir_status st = weir_template_named(name, &s->jinja, &s->format, e);
  if (st != WEIR_OK) return weir_fail_ctx(e, st, "--template");
  s->has_format = true;
  return WEIR_OK;
}

static void read_draw(weir_serve_settings *s) {
  s->draw = (weir_ask){.temperature = (float)weir_config_float(s->c, "temperature"),
                       .top_k = (int32_t)weir_config_int(s->c, "top-k"),
                       .top_p = (float)weir_config_float(s->c, "top-p"),
                       .min_p = (float)weir_config_float(s->c, "min-p"),
                       .probe = -1};
}

/* ---- interfaces ---- */

/* --token, or the first line of --token-file. */
static weir_status read_token(weir_serve_settings *s, weir_err *e) {
  weir_status st = WEIR_OK;
  const char *token = weir_config_string(s->c, "token"), *path = weir_config_string(s->c, "token-file");
  char line[1026];
  if (token && path)
    return weir_fail(e, WEIR_EINVAL, "--token and --token-file say the same thing: give one");
  if (path) {
    FILE *f = fopen(path, "re");
    if (!f) return weir_fail(e, WEIR_EIO, "--token-file %s: %s", path, strerror(errno));
    const bool got = fgets(line, sizeof line, f) != NULL;
    fclose(f);
    if (got) line[strcspn(line, "\r\n")] = '\0';
    if (!got || !line[0])
      return weir_fail(e, WEIR_EINVAL, "--token-file %s: no token in its first line", path);
    token = line;
  }
  if (token && (!token[0] || strlen(token) > 1024))
    st = weir_fail(e, WEIR_EINVAL, "the token must have 1 to 1024 bytes");
  else if (token)
    st = weir_buf_puts(&s->token, token, e);
  explicit_bzero(line, sizeof line);
  return st;
}

static weir_status read_http(weir_serve_settings *s, weir_err *e) {
  const char *listen = weir_config_string(s->c, "listen");
  int32_t n_keys;
  s->http = weir_config_bool(s->c, "http");
  if (!s->http) return WEIR_OK;
  weir_status st = weir_address_parse(listen, &s->listen, e);
  if (st != WEIR_OK) return weir_fail_ctx(e, st, "--listen");
  weir_config_strings(s->c, "api-key", &n_keys);
  if (!s->listen.loopback && n_keys == 0 && !weir_config_string(s->c, "api-key-file") &&
      !weir_config_bool(s->c, "insecure"))
    return weir_fail(e, WEIR_EINVAL,
                     "--listen %s can be reached from other machines: give --api-key-file, or say --insecure",
                     listen);
  return weir_address_probe(&s->listen, e);
}

/* The URLs of --rpc, or a socket of this user's, named by the port so that several servers do not meet. */
static weir_status read_rpc(weir_serve_settings *s, weir_err *e) {
  weir_status st = WEIR_OK;
  char name[32] = "weir.ipc";
  s->rpc = weir_config_strings(s->c, "rpc", &s->n_rpc);
  for (int32_t i = 0; i < s->n_rpc; i++) {
    st = weir_rpc_url_form(s->rpc[i], e);
    if (st != WEIR_OK) return weir_fail_ctx(e, st, "--rpc");
    weir_err why;
    if (weir_rpc_check_url(s->rpc[i], s->token.len > 0, &why) != WEIR_OK)
      return weir_fail(e, WEIR_EINVAL, "%.400s (--token-file)", why.msg);
  }
  if (s->n_rpc > 0) return WEIR_OK;
  if (s->http) snprintf(name, sizeof name, "weir-%u.ipc", (unsigned)s->listen.port);
  const char *dir = weir_config_string(s->c, "runtime-dir");
  st = weir_rpc_default_url(dir, name, s->own_url, sizeof s->own_url, e);
  /* a session's variable may name a folder that is gone, or another user's: that is nobody's fault */
  if (st != WEIR_OK && dir && strstr(weir_config_source(s->c, "runtime-dir"), "environment"))
    st = weir_rpc_default_url(NULL, name, s->own_url, sizeof s->own_url, e);
  if (st != WEIR_OK) return st;
  s->own[0] = s->own_url;
  s->rpc = s->own;
  s->n_rpc = 1;
  return WEIR_OK;
}

weir_status weir_serve_settings_read(const weir_config *c, weir_serve_settings *s, weir_err *e) {
  weir_status st = WEIR_OK;
  int32_t n;
  *s = (weir_serve_settings){.c = c};
  weir_config_operands(c, &n);
  if (n > 0)
    WEIR_TRY(weir_fail(e, WEIR_EINVAL, "weir serve has no operands; models are --small and --large"));
  WEIR_TRY(weir_find_models(c, &s->paths, e));
  WEIR_TRY(read_cascade(s, e));
  WEIR_TRY(read_name(s, e));
  WEIR_TRY(read_template(s, e));
  read_draw(s);
  WEIR_TRY(read_token(s, e));
  WEIR_TRY(read_http(s, e));
  WEIR_TRY(read_rpc(s, e));
out:
  return st;
}

void weir_serve_settings_fini(weir_serve_settings *s) {
  if (s->token.data) explicit_bzero(s->token.data, s->token.cap);
  weir_buf_fini(&s->token);
  weir_buf_fini(&s->jinja);
}

const char *weir_serve_token(const weir_serve_settings *s) { return s->token.len > 0 ? s->token.data : NULL; }
