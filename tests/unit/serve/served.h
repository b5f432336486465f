/* SPDX-License-Identifier: Apache-2.0 */
/* A service over two fake executors whose steps can be held, with a clock that tests move. */
#ifndef WEIR_TESTS_SERVED_H
#define WEIR_TESTS_SERVED_H
#include <pthread.h>
#include <stdatomic.h>

#include "fake_exec.h"
#include "serve/service.h"

typedef struct served_gate {
  pthread_mutex_t lock;
  pthread_cond_t moved;
  int64_t permits; /* steps that may still run; < 0: all */
  bool waiting;    /* a step stands before it */
} served_gate;

typedef struct served {
  fake_law law;
  weir_tokenizer *tokenizer[3]; /* of the engine, of the preparation, of long texts */
  weir_exec *exec[2];           /* with a gate before the fake */
  served_gate gate;
  weir_metrics *metrics;
  weir_chat_format chat;
  weir_service *service;
  weir_service_cfg cfg;
  _Atomic int64_t skew_ns; /* added to the machine's clock */
} served;

typedef struct served_opts {
  int32_t n_tiers, max_requests, n_ctx;
  int64_t fail_at[2]; /* steps of the tiers that fail; < 0: none */
  bool chat, long_thread;
  bool mortal; /* tiers have lives: served_kill, served_revive */
  int64_t dead_wait_ns;
  weir_mode mode;       /* of requests that ask for none */
  uint32_t cascade_set; /* and their budget: WEIR_OPT_DEFER_RATE, WEIR_OPT_DEFER_BURST */
  float defer_rate;
  int32_t defer_burst;
  bool unbounded; /* no least threshold of requests */
} served_opts;

served_opts served_usual(void);
void served_open(served *, const served_opts *);
void served_close(served *);
/* Steps wait from now on, but for `permits` of them; -1: none waits any more. */
void served_hold(served *, int64_t permits);
/* Until a step stands before the gate. */
void served_await_held(served *);
/* The tier of a mortal service dies, a step under way with it, and comes back with an empty KV. */
void served_kill(served *, int32_t tier);
void served_revive(served *, int32_t tier);
void served_await_tier(served *, int32_t tier, bool up); /* until the service knows */
/* The clock jumps. */
void served_skip(served *, int64_t ns);
/* A greedy request over ids; ends only at its length when max_tokens > 0. */
weir_service_request served_ids(const uint32_t *ids, size_t n, uint32_t max_tokens);
/* Waits for the end, at most some seconds of the machine's clock. */
const weir_reply_end *served_await(served *, weir_reply *);
void served_await_tokens(served *, weir_reply *, int32_t n);
const weir_call_result *served_await_call(served *, weir_call *);
/* The service lets go of a reply a moment after its end. */
void served_await_no_replies(served *);
/* The value of a series: name, and a label's value or NULL. */
double served_metric(served *, const char *name, const char *label);

#endif
