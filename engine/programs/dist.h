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
  char token[WEIR_DIST_TOKEN_BYTES];  /* "": none */
  char host[WEIR_DIST_HOST_BYTES];    /* --dist-host; "": by itself */
  int32_t cores_local, cores_n_local; /* among which processes this machine's cores are divided: those of the
                                         launcher, unless it has bound this one to some of them itself */
} weir_dist;

/* WEIR_EINVAL: an option is wrong. */
weir_status weir_dist_read(const weir_config *, weir_dist *out, weir_err *e);
void weir_dist_fini(weir_dist *); /* forgets the token */

/* The address from which this machine reaches `addr` ("host:port"), as text. False: the host is not known
 * (yet), or there is no way to it. */
bool weir_dist_own_address(const char *addr, char *out, size_t bytes);

/* Of the program, which all processes must share. */
const char *weir_dist_version(void);

#endif
