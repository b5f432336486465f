/* SPDX-License-Identifier: Apache-2.0 */
/* Options of a large model in several processes. Reads the token's file and asks the resolver; main thread.
 */
#define _GNU_SOURCE /* explicit_bzero */
#include "programs/dist.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cores.h"
#include "programs/version.h"

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

/* A datagram socket that is connected sends nothing, but the system has chosen from where it would. */
bool weir_dist_own_address(const char *addr, char *out, size_t bytes) {
  char host[WEIR_LAUNCH_ADDR_BYTES];
  const struct addrinfo want = {.ai_socktype = SOCK_DGRAM};
  struct addrinfo *all = NULL;
  bool found = false;
  const char *colon = strrchr(addr, ':');
  if (!strncmp(addr, "ipc://", 6) || !colon || (size_t)(colon - addr) >= sizeof host) return false;
  snprintf(host, sizeof host, "%.*s", (int)(colon - addr), addr);
  size_t n = strlen(host);
  char *name = host;
  if (host[0] == '[' && n > 1 && host[n - 1] == ']') {
    host[n - 1] = '\0';
    name = host + 1;
  }
  if (getaddrinfo(name, colon + 1, &want, &all) != 0) return false;
  for (const struct addrinfo *a = all; a && !found; a = a->ai_next) {
    struct sockaddr_storage own;
    socklen_t len = sizeof own;
    const int fd = socket(a->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) continue;
    found = connect(fd, a->ai_addr, a->ai_addrlen) == 0 &&
            getsockname(fd, (struct sockaddr *)&own, &len) == 0 &&
            getnameinfo((struct sockaddr *)&own, len, out, (socklen_t)bytes, NULL, 0, NI_NUMERICHOST) == 0;
    close(fd);
  }
  freeaddrinfo(all);
  return found;
}

const char *weir_dist_version(void) { return WEIR_VERSION "-" WEIR_REVISION; }
