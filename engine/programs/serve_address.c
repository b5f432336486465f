/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses of a server, checked before models are loaded: what cannot work is told in the first second. Owns
 * nothing; any thread. */
#include "programs/serve_address.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- HTTP ---- */

static bool is_loopback(const struct sockaddr_storage *s) {
  if (s->ss_family == AF_INET) {
    struct sockaddr_in a;
    memcpy(&a, s, sizeof a);
    return (ntohl(a.sin_addr.s_addr) >> 24) == 127;
  }
  if (s->ss_family == AF_INET6) {
    struct sockaddr_in6 a;
    memcpy(&a, s, sizeof a);
    return IN6_IS_ADDR_LOOPBACK(&a.sin6_addr) ||
           (IN6_IS_ADDR_V4MAPPED(&a.sin6_addr) && a.sin6_addr.s6_addr[12] == 127);
  }
  return false;
}

static void set_port(weir_address *a, uint16_t port) {
  a->port = port;
  if (a->sock.ss_family == AF_INET6)
    ((struct sockaddr_in6 *)&a->sock)->sin6_port = htons(port);
  else
    ((struct sockaddr_in *)&a->sock)->sin_port = htons(port);
}

static bool parse_port(const char *text, long least, uint16_t *out) {
  const size_t digits = strspn(text, "0123456789");
  if (digits < 1 || digits > 5 || text[digits]) return false;
  const long port = strtol(text, NULL, 10);
  if (port < least || port > 65535) return false;
  *out = (uint16_t)port;
  return true;
}

/* Splits "HOST:PORT" and "[HOST]:PORT". */
static bool split(const char *text, long least_port, char host[WEIR_HOST_BYTES], uint16_t *port) {
  const char *colon = strrchr(text, ':');
  if (!colon || !parse_port(colon + 1, least_port, port)) return false;
  const char *from = text, *to = colon;
  if (*from == '[') {
    if (to - from < 3 || to[-1] != ']') return false;
    from++;
    to--;
  } else if (memchr(from, ':', (size_t)(to - from))) {
    return false; /* IPv6 without brackets: where it ends would be a guess */
  }
  if (to - from >= WEIR_HOST_BYTES) return false;
  memcpy(host, from, (size_t)(to - from));
  host[to - from] = '\0';
  return true;
}

/* A name may stand for addresses that this machine does not have, such as ::1 where IPv6 is off. */
static bool is_here(const struct addrinfo *a) { /* its port is 0 */
  const int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const bool here = fd >= 0 && bind(fd, a->ai_addr, a->ai_addrlen) == 0;
  if (fd >= 0) close(fd);
  return here;
}

weir_status weir_address_parse(const char *text, weir_address *out, weir_err *e) {
  struct addrinfo want = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE},
                  *found = NULL;
  uint16_t port;
  *out = (weir_address){.port = 0};
  if (!split(text, 0, out->host, &port))
    return weir_fail(e, WEIR_EINVAL, "\"%.100s\" is not an address: want HOST:PORT, IPv6 in brackets", text);
  if (!out->host[0]) strcpy(out->host, "0.0.0.0");
  const int why = getaddrinfo(out->host, NULL, &want, &found);
  if (why != 0) return weir_fail(e, WEIR_EINVAL, "%.100s: %s", out->host, gai_strerror(why));
  const struct addrinfo *a = found;
  while (a && !is_here(a)) a = a->ai_next;
  if (!a) a = found; /* the first says why not */
  memcpy(&out->sock, a->ai_addr, a->ai_addrlen);
  out->sock_len = a->ai_addrlen;
  freeaddrinfo(found);
  out->loopback = is_loopback(&out->sock);
  set_port(out, port);
  return WEIR_OK;
}

void weir_address_print(const weir_address *a, char *buf, size_t bytes) {
  const bool v6 = strchr(a->host, ':') != NULL;
  snprintf(buf, bytes, "%s%s%s:%u", v6 ? "[" : "", a->host, v6 ? "]" : "", (unsigned)a->port);
}

weir_status weir_address_probe(weir_address *a, weir_err *e) {
  weir_status st = WEIR_OK;
  struct sockaddr_storage got;
  socklen_t len = sizeof got;
  const int on = 1, fd = socket(a->sock.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  /* REUSEADDR as every server sets it: connections of the one before that linger are no reason to refuse */
  if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
      bind(fd, (const struct sockaddr *)&a->sock, a->sock_len) != 0 || listen(fd, 1) != 0 ||
      getsockname(fd, (struct sockaddr *)&got, &len) != 0) {
    char text[WEIR_HOST_BYTES + 16];
    const int why = errno;
    weir_address_print(a, text, sizeof text);
    st = weir_fail(e, WEIR_EIO, "cannot listen on %s: %s", text, strerror(why));
  } else if (a->port == 0) {
    set_port(a, ntohs(got.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&got)->sin6_port
                                                : ((struct sockaddr_in *)&got)->sin_port));
  }
  if (fd >= 0) close(fd);
  return st;
}

weir_address weir_address_near(const weir_address *a) {
  weir_address near = *a;
  if (a->sock.ss_family == AF_INET) {
    struct sockaddr_in *in = (struct sockaddr_in *)&near.sock;
    if (in->sin_addr.s_addr != htonl(INADDR_ANY)) return near;
    in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    strcpy(near.host, "127.0.0.1");
  } else {
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&near.sock;
    if (!IN6_IS_ADDR_UNSPECIFIED(&in6->sin6_addr)) return near;
    in6->sin6_addr = in6addr_loopback;
    strcpy(near.host, "::1");
  }
  near.loopback = true;
  return near;
}

/* ---- RPC ---- */

weir_status weir_rpc_url_form(const char *url, weir_err *e) {
  char host[WEIR_HOST_BYTES];
  uint16_t port;
  static const char ipc[] = "ipc://", tcp[] = "tcp://";
  if (strlen(url) >= WEIR_URL_BYTES) return weir_fail(e, WEIR_EINVAL, "%.100s...: too long for a URL", url);
  if (!strncmp(url, ipc, sizeof ipc - 1)) {
    const char *path = url + sizeof ipc - 1;
    const size_t most = sizeof((struct sockaddr_un *)0)->sun_path - 1;
    if (*path != '/') return weir_fail(e, WEIR_EINVAL, "%.100s: want ipc:///PATH, a whole path", url);
    if (strlen(path) > most)
      return weir_fail(e, WEIR_EINVAL, "%.120s: the path of a socket has %zu bytes at most", url, most);
    return WEIR_OK;
  }
  if (!strncmp(url, tcp, sizeof tcp - 1) && split(url + sizeof tcp - 1, 1, host, &port) && host[0])
    return WEIR_OK;
  return weir_fail(e, WEIR_EINVAL, "%.100s: want ipc:///PATH or tcp://ADDRESS:PORT", url);
}

/* A folder that only this user can look into. Somebody else's, or a link, is refused: in /tmp anybody may
 * have been there first. */
static weir_status private_folder(const char *path, weir_err *e) {
  struct stat is;
  if (mkdir(path, 0700) != 0 && errno != EEXIST)
    return weir_fail(e, WEIR_EIO, "%s: %s", path, strerror(errno));
  if (lstat(path, &is) != 0) return weir_fail(e, WEIR_EIO, "%s: %s", path, strerror(errno));
  if (!S_ISDIR(is.st_mode) || is.st_uid != geteuid() || (is.st_mode & 077) != 0)
    return weir_fail(e, WEIR_EIO,
                     "%s is not a folder of this user alone (mode 0700): remove it, or say --rpc", path);
  return WEIR_OK;
}

weir_status weir_rpc_default_url(const char *dir, const char *name, char *url, size_t bytes, weir_err *e) {
  char folder[512];
  const int len = dir ? snprintf(folder, sizeof folder, "%s/weir", dir)
                      : snprintf(folder, sizeof folder, "/tmp/weir-%u", (unsigned)geteuid());
  if (len < 0 || (size_t)len >= sizeof folder)
    return weir_fail(e, WEIR_EINVAL, "%.100s...: too long for a folder of sockets", dir);
  const int n = snprintf(url, bytes, "ipc://%s/%s", folder, name);
  if (n < 0 || (size_t)n >= bytes)
    return weir_fail(e, WEIR_EINVAL, "%.100s is too long a path for a socket: say --rpc", folder);
  const weir_status st = weir_rpc_url_form(url, e);
  return st == WEIR_OK ? private_folder(folder, e) : st;
}
