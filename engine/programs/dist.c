/* SPDX-License-Identifier: Apache-2.0 */
/* Options of a large model in several processes. Reads the token's file and asks the resolver; main thread.
 */
#define _GNU_SOURCE /* explicit_bzero, IFF_UP */
#include "programs/dist.h"

#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/address.h"
#include "base/clock.h"
#include "base/cores.h"
#include "base/log.h"

enum { RESOLVE_EVERY_MS = 200 };
static const int64_t RESOLVE_NS = INT64_C(60000000000);

static weir_status read_token(const char *path, char *out, weir_err *e) {
  char line[WEIR_DIST_TOKEN_BYTES + 2];
  FILE *f = fopen(path, "re");
  if (!f) return weir_fail(e, WEIR_EIO, "--dist-token-file %s: %s", path, strerror(errno));
  const bool got = fgets(line, sizeof line, f) != NULL;
  fclose(f);
  if (got) line[strcspn(line, "\r\n")] = '\0';
  const size_t n = got ? strlen(line) : 0;
  if (n > 0 && n < WEIR_DIST_TOKEN_BYTES) memcpy(out, line, n + 1);
  explicit_bzero(line, sizeof line);
  if (n == 0) return weir_fail(e, WEIR_EINVAL, "--dist-token-file %s: no token in its first line", path);
  if (n >= WEIR_DIST_TOKEN_BYTES)
    return weir_fail(e, WEIR_EINVAL, "--dist-token-file %s: a token of more than %d bytes", path,
                     WEIR_DIST_TOKEN_BYTES - 1);
  return WEIR_OK;
}

weir_status weir_dist_read(const weir_config *c, weir_dist *d, weir_err *e) {
  weir_status st = WEIR_OK;
  *d = (weir_dist){.cores_n_local = 1};
  WEIR_TRY(weir_launch_read(c, NULL, &d->launch, e));
  if (d->launch.n_nodes == 1) return WEIR_OK;
  const int32_t tp = (int32_t)weir_config_int(c, "large-tp");
  if (tp % d->launch.n_nodes != 0)
    return weir_fail(e, WEIR_EINVAL, "--large-tp %d over %d processes: want as many ranks on each", tp,
                     d->launch.n_nodes);
  const char *path = weir_config_string(c, "dist-token-file"), *host = weir_config_string(c, "dist-host");
  if (path) WEIR_TRY(read_token(path, d->token, e));
  if (host && strlen(host) >= sizeof d->host)
    return weir_fail(e, WEIR_EINVAL, "--dist-host: the name is too long");
  if (host) strcpy(d->host, host);
  weir_cores mine;
  weir_cores_mine(&mine);
  if (d->launch.n_local > 1 && mine.n == sysconf(_SC_NPROCESSORS_ONLN)) {
    d->cores_local = d->launch.local;
    d->cores_n_local = d->launch.n_local;
  }
out:
  return st;
}

void weir_dist_fini(weir_dist *d) { explicit_bzero(d->token, sizeof d->token); }

/* ---- addresses ---- */

static bool is_loopback(const struct sockaddr *a) {
  if (a->sa_family == AF_INET)
    return ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr) >> 24 == 127;
  const struct in6_addr *six = &((const struct sockaddr_in6 *)(const void *)a)->sin6_addr;
  return a->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(six);
}

static bool print(const struct sockaddr *a, char *out, size_t bytes) {
  const socklen_t len = a->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
  return getnameinfo(a, len, out, (socklen_t)bytes, NULL, 0, NI_NUMERICHOST) == 0;
}

/* Splits "host:port", "[host]:port"; false where there is nothing to look up. */
static bool split(const char *addr, char host[WEIR_LAUNCH_ADDR_BYTES], const char **port) {
  const char *colon = strrchr(addr, ':');
  if (!strncmp(addr, "ipc://", 6) || !colon || addr[0] == '*') return false;
  const bool bracket = addr[0] == '[' && colon > addr + 1 && colon[-1] == ']';
  snprintf(host, WEIR_LAUNCH_ADDR_BYTES, "%.*s", (int)(colon - addr) - (bracket ? 2 : 0),
           addr + (bracket ? 1 : 0));
  *port = colon + 1;
  return host[0] != '\0';
}

/* Whether the leader's host is loopback for this machine, and the address from which this machine reaches it:
 * a datagram socket that is connected sends nothing, but the system has chosen. */
static bool look_up(const char *host, const char *port, bool *loopback, char *own, size_t bytes) {
  const struct addrinfo want = {.ai_socktype = SOCK_DGRAM};
  struct addrinfo *all = NULL;
  bool found = false;
  if (getaddrinfo(host, port, &want, &all) != 0) return false;
  for (const struct addrinfo *a = all; a && !found; a = a->ai_next) {
    struct sockaddr_storage at;
    socklen_t len = sizeof at;
    const int fd = socket(a->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) continue;
    *loopback = is_loopback(a->ai_addr);
    found = connect(fd, a->ai_addr, a->ai_addrlen) == 0 &&
            getsockname(fd, (struct sockaddr *)&at, &len) == 0 && print((struct sockaddr *)&at, own, bytes);
    close(fd);
  }
  freeaddrinfo(all);
  return found;
}

/* Of an interface that is up and is not loopback; IPv4 before IPv6, whose link-local ones do not count. */
static bool first_address(char *out, size_t bytes) {
  struct ifaddrs *all = NULL;
  bool found = false;
  if (getifaddrs(&all) != 0) return false;
  for (int six = 0; six < 2 && !found; six++)
    for (const struct ifaddrs *a = all; a && !found; a = a->ifa_next) {
      if (!a->ifa_addr || !(a->ifa_flags & IFF_UP) || (a->ifa_flags & IFF_LOOPBACK)) continue;
      if (a->ifa_addr->sa_family != (six ? AF_INET6 : AF_INET)) continue;
      const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)a->ifa_addr;
      if (six && IN6_IS_ADDR_LINKLOCAL(&v6->sin6_addr)) continue;
      found = print(a->ifa_addr, out, bytes);
    }
  freeifaddrs(all);
  return found;
}

weir_status weir_dist_find(weir_dist *d, bool (*stop)(void *ctx), void *ctx, weir_err *e) {
  const weir_clock clock = weir_clock_system();
  const int64_t until = weir_now_ns(&clock) + RESOLVE_NS;
  const weir_launch *l = &d->launch;
  char host[WEIR_LAUNCH_ADDR_BYTES], own[WEIR_DIST_HOST_BYTES] = "";
  const char *port = NULL;
  bool loopback = false, told = false;
  strcpy(d->listen, l->addr);
  if (!split(l->addr, host, &port) || weir_address_is_loopback(l->addr)) return WEIR_OK;
  while (!look_up(host, port, &loopback, own, sizeof own)) {
    if (stop && stop(ctx)) return weir_fail(e, WEIR_ECANCEL, "asked to end");
    if (weir_now_ns(&clock) > until)
      return weir_fail(e, WEIR_EIO, "--dist-init-addr %s: the host is not known, or there is no way to it",
                       l->addr);
    if (!told)
      weir_log(WEIR_LOG_INFO,
               "--dist-init-addr %s: the host is not known yet; waiting for that, at most %d s", l->addr,
               (int)(RESOLVE_NS / INT64_C(1000000000)));
    told = true;
    (void)poll(NULL, 0, RESOLVE_EVERY_MS);
  }
  if (loopback && l->n_local < l->n_nodes) { /* others are on other machines */
    if (l->node == 0) snprintf(d->listen, sizeof d->listen, "*:%s", port);
    if (!d->host[0] && first_address(own, sizeof own))
      weir_log(WEIR_LOG_INFO, "%s is loopback to this machine: its ranks are at %s (--dist-host)", host, own);
  } else if (l->node == 0) {
    return WEIR_OK; /* its ranks are at the host of its address */
  }
  if (!d->host[0]) strcpy(d->host, own);
  return WEIR_OK;
}
