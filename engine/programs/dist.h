/* SPDX-License-Identifier: Apache-2.0 */
/* What the options of a large model in several processes come to. */
#ifndef WEIR_PROGRAMS_DIST_H
#define WEIR_PROGRAMS_DIST_H
#include "base/config.h"
#include "base/err.h"
#include "programs/launch.h"

enum { WEIR_DIST_TOKEN_BYTES = 256, WEIR_DIST_HOST_BYTES = 256 };

typedef struct weir_dist {
  weir_launch launch;
  char token[WEIR_DIST_TOKEN_BYTES]; /* "": none */
  char host[WEIR_DIST_HOST_BYTES];   /* where this machine's ranks are reached: --dist-host; "": by itself */
  char listen[WEIR_LAUNCH_ADDR_BYTES]; /* of the leader, after weir_dist_find */
  /* Among which processes this machine's cores are divided: those of the launcher, unless it has bound this
   * one to some of them itself. */
  int32_t cores_local, cores_n_local;
} weir_dist;

/* WEIR_EINVAL: an option is wrong. */
weir_status weir_dist_read(const weir_config *, weir_dist *out, weir_err *e);
void weir_dist_fini(weir_dist *); /* forgets the token */

/* Where the leader listens, and the host of this machine's ranks where it was not given: a worker's is the
 * address from which it reaches the leader. Many machines have a name of their own that means loopback
 * (127.0.1.1) to themselves alone: a leader with such a name listens everywhere, and its ranks are at its
 * first other address. Waits a minute for names to be known, as those of pods are not at once; `stop` (may be
 * NULL) ends that early, with WEIR_ECANCEL. */
weir_status weir_dist_find(weir_dist *, bool (*stop)(void *ctx), void *ctx, weir_err *e);

#endif
