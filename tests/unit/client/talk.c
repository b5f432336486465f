/* SPDX-License-Identifier: Apache-2.0 */
#include "talk.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

weir_client_cfg talk_cfg(const char *url) {
  return (weir_client_cfg){.url = url,
                           .token = "secret",
                           .call_timeout_ms = 2000,
                           .poll_ms = TALK_POLL_MS,
                           .resend_ms = 300,
                           .lost_after_ms = 4000};
}

weir_client *talk_client(const weir_client_cfg *cfg) {
  weir_client *c = NULL;
  weir_client_error e = {0};
  if (weir_client_open(cfg, &c, &e) != 0) print_error("open: %s\n", e.message);
  assert_non_null(c);
  return c;
}

/* Waits for either of the two, no longer than to `until`, and lets both act. */
static void turn(talk *t, int64_t until) {
  struct pollfd fd[2] = {{.fd = weir_client_fd(t->client), .events = POLLIN}, {.fd = -1}};
  if (t->engine) {
    fd[1] = (struct pollfd){.fd = t->engine->socket < 0 ? -1 : t->engine->fd, .events = POLLIN};
    if (fake_due(t->engine) < until) until = fake_due(t->engine);
  }
  const int64_t left = until - now_ns();
  poll(fd, 2, left <= 0 ? 0 : (int)(left / 1000000) + 1);
  if (fd[0].revents) {
    t->wakes++;
    weir_client_run(t->client, 0);
  }
  if (t->engine) fake_step(t->engine);
}

void talk_until(talk *t, bool (*done)(void *ctx), void *ctx, const char *what) {
  const int64_t until = now_ns() + TALK_MAX_MS * INT64_C(1000000);
  while (!done(ctx)) {
    if (now_ns() > until) {
      print_error("not in %d ms: %s\n", TALK_MAX_MS, what);
      fail();
    }
    turn(t, until);
  }
}

void talk_for(talk *t, int ms) {
  for (const int64_t until = now_ns() + ms * INT64_C(1000000); now_ns() < until;) turn(t, until);
}

bool talk_ended(void *heard_one) { return ((heard *)heard_one)->ends > 0; }

/* ---- callbacks ---- */

static void on_start(void *ctx, uint32_t prompt_tokens) {
  heard *h = ctx;
  h->starts++;
  h->prompt_tokens = prompt_tokens;
}

static void on_token(void *ctx, const weir_client_token *t) {
  heard *h = ctx;
  if (t->index != h->n_tokens || h->ends || !h->starts) h->out_of_order = true;
  h->n_tokens++;
  weir_buf_put(&h->text, t->text, t->len, NULL);
}

static void on_end(void *ctx, const weir_client_end *end) {
  heard *h = ctx;
  h->ends++;
  h->error = end->error;
  h->usage = end->usage;
  snprintf(h->reason, sizeof h->reason, "%s", end->reason);
}

weir_client_events heard_events(heard *h) {
  return (weir_client_events){.on_start = on_start, .on_token = on_token, .on_end = on_end, .ctx = h};
}

void heard_submit(weir_client *c, const weir_client_request *q, heard *h) {
  static const weir_client_request once = {.prompt = "Once"};
  const weir_client_events events = heard_events(h);
  weir_client_error e = {0};
  h->number = weir_client_submit(c, q ? q : &once, &events, &e);
  if (h->number <= 0) print_error("submit: %d %s\n", e.code, e.message);
  assert_true(h->number > 0);
}

void heard_fini(heard *h) { weir_buf_fini(&h->text); }

void heard_whole(const fake_engine *f, const heard *h, int index, uint32_t n, const char *reason) {
  weir_buf want = {0};
  for (uint32_t i = 0; i < n; i++) {
    char text[32];
    fake_text(f->request[index].id, i, text);
    weir_buf_puts(&want, text, NULL);
  }
  if (strcmp(h->reason, reason) != 0 || h->n_tokens != n)
    print_error("request %d: %u tokens, %s, %d %s\n", index, h->n_tokens, h->reason, h->error.code,
                h->error.message);
  assert_int_equal(h->ends, 1);
  assert_int_equal(h->n_tokens, n);
  assert_false(h->out_of_order);
  assert_string_equal(h->reason, reason);
  assert_string_equal(h->text.data ? h->text.data : "", want.data ? want.data : "");
  weir_buf_fini(&want);
}
