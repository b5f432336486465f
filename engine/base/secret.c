/* SPDX-License-Identifier: Apache-2.0 */
/* Secrets: compared and drawn. Owns nothing; any thread. */
#include "base/secret.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

bool weir_secret_equal(const void *secret, size_t n, const void *given, size_t n_given) {
  const unsigned char *s = secret, *g = given;
  unsigned differs = n != n_given;
  for (size_t i = 0; i < n; i++) differs |= (unsigned)s[i] ^ (unsigned)(i < n_given ? g[i] : 0);
  return differs == 0;
}

weir_status weir_secret_draw(void *out, size_t n, weir_err *e) {
  for (size_t done = 0; done < n;) {
    const ssize_t got = getrandom((char *)out + done, n - done, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return weir_fail(e, WEIR_EIO, "random bytes: %s", strerror(errno));
    done += (size_t)got;
  }
  return WEIR_OK;
}
