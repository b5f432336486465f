/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

char out[OUT];

rig *rig_start(weir_gw_cfg cfg) {
  rig *r = calloc(1, sizeof *r);
  weir_err e = {0};
  cfg.listen = "127.0.0.1:0";
  cfg.health_ms = 20;
  raw_loop_init(&r->loop);
  if (weir_gw_create(r->loop.base, &cfg, &r->gw, &e) != WEIR_OK) fail_msg("%s", e.msg);
  r->port = weir_gw_port(r->gw);
  raw_loop_start(&r->loop);
  r->running = true;
  return r;
}

void rig_stop(rig *r) {
  if (r->running) raw_loop_stop(&r->loop);
  weir_gw_destroy(r->gw);
  raw_loop_fini(&r->loop);
  free(r);
}

const char *const one[1] = {"fake:a"}, *const two[2] = {"fake:a", "fake:b"};

void rig_get(rig *r, const char *path) {
  char ask[256];
  snprintf(ask, sizeof ask, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", path);
  raw_ask(r->port, ask, out, OUT);
}

void rig_format_post(char *ask, size_t bytes, const char *path, const char *body) {
  snprintf(ask, bytes,
           "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
           "Content-Length: %zu\r\n\r\n%s",
           path, strlen(body), body);
}

void rig_post(rig *r, const char *path, const char *body) {
  char ask[8192];
  rig_format_post(ask, sizeof ask, path, body);
  raw_ask(r->port, ask, out, OUT);
}

/* Asks until the answer is that: health is found out by and by. */
void rig_until(rig *r, const char *path, int code) {
  const time_t end = time(NULL) + 8;
  do rig_get(r, path);
  while (raw_status(out) != code && time(NULL) < end);
  assert_int_equal(raw_status(out), code);
}

rig *rig_ready(const char *const *urls, int32_t n) {
  rig *r = rig_start((weir_gw_cfg){.engine = urls, .n_engines = n});
  rig_until(r, "/ready", 200);
  const time_t end = time(NULL) + 8; /* models come right after */
  do rig_get(r, "/v1/models");
  while (!strstr(out, "\"demo\"") && time(NULL) < end);
  return r;
}

void rig_pause(rig *r) {
  char byte;
  raw_loop_stop(&r->loop);
  assert_int_equal(read(r->loop.pipe[0], &byte, 1), 1);
}

void rig_go_on(rig *r) { raw_loop_start(&r->loop); }
