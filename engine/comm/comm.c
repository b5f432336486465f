/* SPDX-License-Identifier: Apache-2.0 */
/* What all back ends share: arguments are checked, calls counted and timed. Owns nothing; the thread of the
 * rank. */
#include "comm/comm.h"

#include <string.h>

#include "base/clock.h"

static weir_status count(weir_comm *c, int64_t from, size_t bytes, weir_status st) {
  c->stats.calls++;
  c->stats.bytes += (int64_t)bytes;
  c->stats.ns += weir_monotonic_ns() - from;
  return st;
}

weir_status weir_comm_all_reduce(weir_comm *c, float *x, size_t n, weir_err *e) {
  if (!c || n == 0) return WEIR_OK;
  if (n > SIZE_MAX / sizeof *x) return weir_fail(e, WEIR_EINVAL, "all_reduce of %zu numbers", n);
  const int64_t from = weir_monotonic_ns();
  return count(c, from, n * sizeof *x, c->ops->all_reduce(c, x, n, e));
}

weir_status weir_comm_all_gather(weir_comm *c, void *out, const void *in, size_t bytes, weir_err *e) {
  if (bytes == 0) return WEIR_OK;
  if (!c) {
    if (out != in) memmove(out, in, bytes);
    return WEIR_OK;
  }
  if (bytes > SIZE_MAX / (size_t)c->n_ranks)
    return weir_fail(e, WEIR_EINVAL, "all_gather of %zu bytes", bytes);
  const int64_t from = weir_monotonic_ns();
  return count(c, from, bytes, c->ops->all_gather(c, out, in, bytes, e));
}

weir_status weir_comm_broadcast(weir_comm *c, void *data, size_t bytes, int32_t root, weir_err *e) {
  if (!c || bytes == 0) return WEIR_OK;
  if (root < 0 || root >= c->n_ranks)
    return weir_fail(e, WEIR_EINVAL, "broadcast from rank %d of %d", root, c->n_ranks);
  const int64_t from = weir_monotonic_ns();
  return count(c, from, bytes, c->ops->broadcast(c, data, bytes, root, e));
}

void weir_comm_abort(weir_comm *c, const char *why) {
  if (c) c->ops->abort(c, why);
}

void weir_comm_destroy(weir_comm *c) {
  if (c) c->ops->destroy(c);
}
