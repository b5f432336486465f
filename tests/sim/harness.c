/* SPDX-License-Identifier: Apache-2.0 */
/* Simulation harness: virtual clock, one thread. */
#include "harness.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "model/gguf.h"

static int64_t tick(void *ctx) {
  sim *s = ctx;
  return s->clock_ns += 1000;
}

sim_opts sim_roomy(void) {
  return (sim_opts){.max_tokens = 256,
                    .max_seqs = 8,
                    .n_pages = 256,
                    .large_batch = 4,
                    .large_wait_ns = 20000,
                    .prefix_pages = 64,
                    .fail_small_at = -1,
                    .fail_large_at = -1};
}

void sim_open(sim *s, const sim_opts *o) {
  weir_err e = {0};
  weir_gguf *g;
  *s = (sim){.law = {.n_vocab = 288, .agreement = 0.8, .sharpness = 3, .end_id = 285}};
  if (weir_gguf_open("tests/vectors/models/pair-small.gguf", &g, &e) != WEIR_OK) fail_msg("%s", e.msg);
  if (weir_tokenizer_from_gguf(g, &s->tokenizer, &e) != WEIR_OK) fail_msg("%s", e.msg);
  weir_gguf_close(g);
  for (int32_t t = 0; t < 2; t++)
    s->exec[t] = fake_exec_create(&(fake_opts){.law = s->law,
                                               .tier = t,
                                               .n_ctx = 512,
                                               .n_pages = o->n_pages,
                                               .max_tokens = o->max_tokens,
                                               .max_seqs = o->max_seqs,
                                               .fail_at_step = t == 0 ? o->fail_small_at : o->fail_large_at});
  const weir_engine_cfg cfg = {.n_tiers = 2,
                               .tier = {s->exec[0], s->exec[1]},
                               .tokenizer = s->tokenizer,
                               .clock = {tick, s},
                               .max_active = o->max_seqs,
                               .large_batch = o->large_batch,
                               .large_wait_ns = o->large_wait_ns,
                               .prefix_pages = o->prefix_pages};
  if (weir_engine_create(&cfg, &s->engine, &e) != WEIR_OK) fail_msg("%s", e.msg);
}

void sim_close(sim *s) {
  weir_engine_destroy(s->engine);
  for (int32_t t = 0; t < 2; t++) s->exec[t]->ops->destroy(s->exec[t]);
  weir_tokenizer_destroy(s->tokenizer);
}

static void on_piece(void *ctx, const weir_piece *p) {
  sim_out *o = ctx;
  assert_int_equal(p->index, o->n); /* in order, each once, nothing after the end */
  assert_int_equal(o->done, 0);
  assert_true(o->n < MAX_NEW);
  o->tok[o->n] = p->receipt->id;
  o->receipt[o->n++] = *p->receipt;
  assert_int_equal(weir_buf_put(&o->text, p->text, p->len, NULL), WEIR_OK);
}

static void on_done(void *ctx, const weir_outcome *r) {
  sim_out *o = ctx;
  o->end = r->end;
  o->counts = *r->counts;
  o->done++;
  if (r->err) o->err = *r->err;
}

void sim_submit(sim *s, const sim_job *j, sim_out *o, int64_t *id) {
  weir_err e = {0};
  const weir_job job = {.prompt = j->prompt,
                        .n_prompt = j->n_prompt,
                        .max_new = j->max_new,
                        .draw = j->draw,
                        .cascade = &j->cascade,
                        .pinned = j->pinned,
                        .salt = j->salt,
                        .ignore_eos = j->ignore_eos,
                        .stop = j->stop,
                        .n_stop = j->n_stop,
                        .on_piece = on_piece,
                        .on_done = on_done,
                        .ctx = o};
  *o = (sim_out){0};
  if (weir_engine_submit(s->engine, &job, id, &e) != WEIR_OK) fail_msg("submit: %s", e.msg);
}

void sim_drain(sim *s) {
  bool busy = true;
  for (int32_t i = 0; busy; i++) {
    weir_err e = {0};
    if (i > 100000) fail_msg("the engine does not come to an end");
    if (weir_engine_step(s->engine, &busy, &e) != WEIR_OK) fail_msg("step: %s", e.msg);
  }
}

void sim_run(sim *s, const sim_job *job, sim_out *out, int32_t n) {
  for (int32_t i = 0; i < n; i++) sim_submit(s, &job[i], &out[i], NULL);
  sim_drain(s);
  for (int32_t i = 0; i < n; i++) assert_int_equal(out[i].done, 1);
}

void sim_out_fini(sim_out *o, int32_t n) {
  for (int32_t i = 0; i < n; i++) weir_buf_fini(&o[i].text);
}

weir_cascade_cfg sim_mode(weir_mode mode, float threshold) {
  weir_cascade_cfg cfg;
  weir_err e = {0};
  weir_cascade_opts o = {.mode = mode};
  if (mode != WEIR_MODE_SMALL && mode != WEIR_MODE_LARGE) {
    o.set = WEIR_OPT_GATE | WEIR_OPT_THRESHOLD;
    o.gate = WEIR_GATE_ENTROPY;
    o.threshold = threshold;
  }
  if (weir_cascade_cfg_make(&o, &cfg, &e) != WEIR_OK) fail_msg("%s", e.msg);
  return cfg;
}

int32_t sim_reference(const sim *s, const sim_job *j, float tau, int32_t *tok, float *entropy) {
  int32_t all[MAX_PROMPT + MAX_NEW], n = j->n_prompt;
  memcpy(all, j->prompt, (size_t)n * sizeof *all);
  for (int32_t i = 0; i < j->max_new; i++, n++) {
    weir_ask a = j->draw;
    a.pos = n;
    a.probe = -1;
    weir_row r = fake_law_row(&s->law, 0, all, n, &a);
    if (entropy) entropy[i] = r.entropy;
    if (r.entropy > tau) r = fake_law_row(&s->law, 1, all, n, &a);
    tok[i] = all[n] = r.token;
    if (!j->ignore_eos && weir_tokenizer_is_end(s->tokenizer, r.token)) return i + 1;
  }
  return j->max_new;
}
