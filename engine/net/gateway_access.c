/* SPDX-License-Identifier: Apache-2.0 */
/* Who may use the gateway: keys, and for one without keys the names by which it may be called. A page of
 * somebody else's can have its own name lead to 127.0.0.1 (DNS rebinding) and would then read answers as its
 * own; what it cannot do is to send another Host. Thread of the event base. */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"
#include "net/gateway_in.h"

enum { MAX_HOSTS = 64 };

/* ---- keys ---- */

/* Takes as long whatever is shown: no byte of a key can be found by its time. */
static bool key_is_good(const weir_gw *g, const char *shown) {
  char padded[WEIR_GW_KEY_BYTES] = {0};
  const size_t n = strlen(shown);
  unsigned any = 0;
  memcpy(padded, shown, n < sizeof padded ? n : sizeof padded);
  for (int32_t i = 0; i < g->n_keys; i++) {
    volatile unsigned differ = n != g->key[i].len;
    for (size_t k = 0; k < sizeof padded; k++) differ |= (unsigned char)(padded[k] ^ g->key[i].text[k]);
    any |= differ == 0;
  }
  return any != 0;
}

bool weir_gw_key_opens(const weir_gw *g, const char *authorization, const char *x_api_key) {
  if (g->n_keys == 0) return true;
  if (authorization && !strncasecmp(authorization, "Bearer ", 7))
    return key_is_good(g, authorization + 7 + strspn(authorization + 7, " "));
  return x_api_key && key_is_good(g, x_api_key);
}

static weir_status take_keys(weir_gw *g, const weir_gw_cfg *cfg, weir_err *e) {
  if (cfg->n_keys > WEIR_GW_MAX_KEYS)
    return weir_fail(e, WEIR_EINVAL, "more than %d API keys", WEIR_GW_MAX_KEYS);
  for (int32_t i = 0; i < cfg->n_keys; i++) {
    const size_t n = strlen(cfg->key[i]);
    if (n == 0 || n >= WEIR_GW_KEY_BYTES)
      return weir_fail(e, WEIR_EINVAL, "an API key must have 1 to %d bytes", WEIR_GW_KEY_BYTES - 1);
    for (size_t k = 0; k < n; k++)
      if (cfg->key[i][k] <= 0x20 || cfg->key[i][k] >= 0x7f)
        return weir_fail(e, WEIR_EINVAL, "an API key has a blank or a character that is not ASCII");
    memcpy(g->key[i].text, cfg->key[i], n);
    g->key[i].len = n;
    g->n_keys++;
  }
  return WEIR_OK;
}

/* ---- hosts ---- */

/* The length of the name in "name:port", "[::1]:port", without the dot that may end it; 0: it is none. */
static size_t name_length(const char *host) {
  size_t n = host[0] == '[' ? strcspn(host, "]") : strcspn(host, ":");
  if (host[0] == '[' && host[n]) n++;
  if (host[n] && host[n] != ':') return 0;
  if (n > 1 && host[n - 1] == '.') n--;
  return n;
}

static bool is_address(const char *name) {
  struct in6_addr six;
  struct in_addr four;
  char inside[INET6_ADDRSTRLEN] = "";
  const size_t n = strlen(name);
  if (name[0] != '[') return inet_pton(AF_INET, name, &four) == 1;
  if (n < 4 || name[n - 1] != ']' || n - 2 >= sizeof inside) return false;
  memcpy(inside, name + 1, n - 2);
  return inet_pton(AF_INET6, inside, &six) == 1;
}

bool weir_gw_host_is_ours(const weir_gw *g, const char *host) {
  char name[256] = "";
  if (!host) return true; /* HTTP/1.0: no browser */
  const size_t n = name_length(host);
  if (n == 0 || n >= sizeof name) return false;
  memcpy(name, host, n);
  if (is_address(name) || !strcasecmp(name, "localhost") || !strcasecmp(name, g->listen)) return true;
  for (int32_t i = 0; i < g->n_hosts; i++)
    if (!strcasecmp(name, g->host[i])) return true;
  return false;
}

/* ---- what a page may send ---- */

bool weir_gw_are_header_names(const char *list) {
  static const char token[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~";
  if (strlen(list) > 2048) return false;
  for (;;) {
    list += strspn(list, " ");
    const size_t n = strspn(list, token);
    if (n == 0) return false;
    list += n + strspn(list + n, " ");
    if (!*list) return true;
    if (*list++ != ',') return false;
  }
}

/* ---- life ---- */

weir_status weir_gw_access_take(weir_gw *g, const weir_gw_cfg *cfg, weir_err *e) {
  weir_status st = WEIR_OK;
  bool loopback;
  WEIR_TRY(take_keys(g, cfg, e));
  WEIR_TRY(weir_http_is_loopback(cfg->listen, &loopback, e));
  if (!loopback && cfg->n_keys == 0 && !cfg->insecure)
    WEIR_TRY(weir_fail(e, WEIR_EINVAL,
                       "%s is reached from other machines: give --api-key or --api-key-file, or --insecure",
                       cfg->listen));
  const size_t n = name_length(cfg->listen);
  memcpy(g->listen, cfg->listen, n < sizeof g->listen ? n : sizeof g->listen - 1);
  if (cfg->n_hosts > MAX_HOSTS) WEIR_TRY(weir_fail(e, WEIR_EINVAL, "more than %d hosts", MAX_HOSTS));
  if (cfg->n_hosts > 0) WEIR_TRY(WEIR_NEW((size_t)cfg->n_hosts, &g->host, e));
  for (int32_t i = 0; i < cfg->n_hosts; i++) {
    g->host[i] = strdup(cfg->host[i]);
    if (!g->host[i]) WEIR_TRY(weir_fail(e, WEIR_ENOMEM, "no memory for the hosts"));
    g->n_hosts++;
  }
  g->check_host = loopback && cfg->n_keys == 0;
out:
  return st;
}

void weir_gw_access_fini(weir_gw *g) {
  for (int32_t i = 0; i < g->n_hosts; i++) free(g->host[i]);
  free(g->host);
  explicit_bzero(g->key, sizeof g->key);
}
