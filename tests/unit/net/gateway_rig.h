/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of the gateway: one in front of fake engines (fake_client.h), on a thread of its own. */
#ifndef WEIR_TESTS_GATEWAY_RIG_H
#define WEIR_TESTS_GATEWAY_RIG_H
#include "http_raw.h"
#include "net/gateway_in.h"

typedef struct rig {
  raw_loop loop;
  weir_gw *gw;
  uint16_t port;
  bool running;
} rig;

enum { OUT = 1 << 17 };
extern char out[OUT];                           /* the last answer */
extern const char *const one[1], *const two[2]; /* engines */

rig *rig_start(weir_gw_cfg);
/* With engines that are ready, and their models known. */
rig *rig_ready(const char *const *urls, int32_t n);
void rig_stop(rig *);
/* Between the two the gateway is the caller's. */
void rig_pause(rig *);
void rig_go_on(rig *);
void rig_get(rig *, const char *path);
void rig_post(rig *, const char *path, const char *body);
void rig_format_post(char *ask, size_t bytes, const char *path, const char *body);
/* Asks until the answer is that: health is found out by and by. */
void rig_until(rig *, const char *path, int code);

#endif
