/* SPDX-License-Identifier: Apache-2.0 */
/* Closed loop: so many requests are under way in each phase, another begins when one ends. */
#include "auto_trace.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "serve/engine_in.h"

static const struct {
  int32_t concurrent, requests;
} phases[] = {{1, 8},   {2, 10},  {4, 16}, {8, 24}, {16, 48}, {32, 80}, {64, 160},
              {32, 64}, {16, 40}, {8, 24}, {4, 12}, {2, 8},   {1, 6}};

enum { N_PHASES = sizeof phases / sizeof *phases };

static int by_value(const void *x, const void *y) {
  const float a = *(const float *)x, b = *(const float *)y;
  return (a > b) - (a < b);
}

/* The threshold that stops this share of the small tier's tokens. */
static float tau_of(const fake_law *law, double share) {
  enum { N = 600 };
  float h[N];
  int32_t tok[N + 4] = {1, 2, 3, 4};
  for (int32_t i = 0; i < N; i++) {
    const weir_ask a = {.temperature = 1, .top_p = 1, .seed = 7, .pos = i + 4, .probe = -1};
    const weir_row r = fake_law_row(law, i % 16 == 15, tok, i + 4, &a);
    h[i] = fake_law_row(law, 0, tok, i + 4, &a).entropy;
    tok[i + 4] = r.token;
  }
  qsort(h, N, sizeof *h, by_value);
  return h[(int32_t)((1 - share) * (N - 1))];
}

static void make_job(world_job *j, int32_t i, weir_mode mode, weir_quality q, float tau) {
  *j = (world_job){.n_prompt = 16 + i % 3 * 12, .max_new = 40 + i * 7 % 50, .mode = mode, .tau = tau};
  j->quality = q;
  j->ignore_eos = true;
  j->draw = (weir_ask){.temperature = 1, .top_p = 1, .seed = (uint64_t)i, .probe = -1};
  for (int32_t k = 0; k < j->n_prompt; k++) j->prompt[k] = (i * 5 + k * 3) % 32;
}

static void run(world *w, world_job *job, int32_t n) {
  int32_t phase = 0, left = phases[0].requests, next = 0, ended = 0;
  bool busy;
  weir_err e = {0};
  while (ended < n) {
    ended = 0;
    for (int32_t i = 0; i < next; i++) ended += job[i].done;
    while (next < n && next - ended < phases[phase].concurrent) {
      world_submit(w, &job[next++], w->clock_ns);
      if (--left == 0 && phase + 1 < N_PHASES) left = phases[++phase].requests;
    }
    if (weir_engine_step(w->engine, &busy, &e) != WEIR_OK) fail_msg("step: %s", e.msg);
    const int64_t wake = weir_engine_next_wake_ns(w->engine);
    if (wake <= w->clock_ns) continue;
    int64_t at = wake;
    for (int32_t t = 0; t < 2; t++) {
      const int64_t x = virtual_exec_next(w->exec[t]);
      if (x < at) at = x;
    }
    if (at == INT64_MAX) continue;
    w->clock_ns = at;
  }
}

auto_ran auto_trace(const auto_machine *m, weir_mode mode, weir_quality q, const weir_auto_rules *rules) {
  static world w;
  static world_job job[512];
  int32_t n = 0;
  world_opts o = world_roomy();
  for (int32_t i = 0; i < N_PHASES; i++) n += phases[i].requests;
  o.law = (fake_law){.n_vocab = 32, .agreement = m->agreement, .sharpness = m->sharpness, .end_id = -1};
  o.max_active = o.max_seqs = 64;
  o.max_tokens = 512;
  o.n_pages[0] = o.n_pages[1] = 1024;
  o.prefix_pages = 0;
  o.large_batch = 0;
  o.large_wait_ns = 0;
  o.async = o.overlap = m->overlap;
  for (int32_t t = 0; t < 2; t++) {
    o.step_ns[t] = (int64_t)(1e6 * m->step_ms[t]);
    o.row_ns[t] = (int64_t)(1e6 * m->row_ms[t]);
    o.free_rows[t] = m->free_rows[t];
  }
  const float tau = tau_of(&o.law, m->deferred);
  world_open(&w, &o);
  if (rules) {
    const weir_auto_rules own = w.engine->auto_.rules;
    w.engine->auto_.rules = *rules;
    w.engine->auto_.rules.overlap = own.overlap;
    w.engine->auto_.rules.large_batch = own.large_batch;
    w.engine->auto_.rules.large_wait_ns = own.large_wait_ns;
  }
  for (int32_t i = 0; i < n; i++) make_job(&job[i], i, mode, q, tau);
  const int64_t start = w.clock_ns;
  run(&w, job, n);
  const weir_engine_stats s = weir_engine_get_stats(w.engine);
  auto_ran r = {1e-9 * (double)(w.clock_ns - start), s.auto_.switches, s.auto_.probes, {0}, 0};
  memcpy(r.tokens, s.auto_.tokens, sizeof r.tokens);
  int64_t refused = 0, judged = 0;
  for (int32_t i = 0; i < n; i++) refused += job[i].counts.refused;
  judged = s.tier[1].rows_judged;
  r.stands = judged > 0 ? 1 - (double)refused / (double)judged : 0;
  world_close(&w);
  return r;
}
