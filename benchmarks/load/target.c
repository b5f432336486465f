/* SPDX-License-Identifier: Apache-2.0 */
/* Which kind of target a URL means. The load's thread. */
#include "load/target.h"

#include <string.h>

weir_status weir_target_open(const weir_target_cfg *cfg, weir_target **out, weir_err *e) {
  static const char *const rpc[] = {"ipc://", "tcp://", "inproc://", "ws://"};
  for (size_t i = 0; i < sizeof rpc / sizeof *rpc; i++)
    if (!strncmp(cfg->url, rpc[i], strlen(rpc[i]))) return weir_target_open_rpc(cfg, out, e);
  return weir_target_open_http(cfg, out, e);
}

void weir_target_close(weir_target *t) {
  if (t) t->ops->close(t);
}
