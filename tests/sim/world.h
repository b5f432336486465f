/* SPDX-License-Identifier: Apache-2.0 */
/* A small world for the scheduler: jobs that arrive, are cancelled and expire at given times, executors on a
 * virtual clock, and what plain decoding, straight from the law, would have written. */
#ifndef WEIR_TESTS_WORLD_H
#define WEIR_TESTS_WORLD_H
#include <stdbool.h>
#include <stdint.h>

#include "cascade/cascade_conf.h"
#include "model/tokenizer.h"
#include "serve/engine.h"
#include "virtual_exec.h"

enum {
  WORLD_PROMPT = 400,
  WORLD_NEW = 96,
  WORLD_JOBS = 400,
  WORLD_BIAS = 3,
  WORLD_STOPS = 3,
  WORLD_CHOICES = 8,
  WORLD_SPANS = 3,
  WORLD_TEXT = 2048
};

struct world;

typedef struct world_text {
  char data[WORLD_TEXT];
  size_t len;
  bool stopped; /* it ends before a stop string */
} world_text;

typedef struct world_job {
  int32_t prompt[WORLD_PROMPT], n_prompt, max_new;
  weir_mode mode;
  float tau;
  weir_ask draw;
  weir_penalties penalties;
  weir_bias bias[WORLD_BIAS];
  int32_t min_new, n_top, priority;
  uint64_t salt;
  bool pinned, ignore_eos, show_special;
  char stop[WORLD_STOPS][8]; /* NUL-terminated */
  int32_t n_stop;
  int64_t arrives_ns, cancel_ns, deadline_ns; /* 0: at once; never; none */
  char choice[WORLD_CHOICES][80];             /* NUL-terminated */
  int32_t n_choices;
  struct {
    char start[8], end[8];
    float tau;
  } span[WORLD_SPANS];
  int32_t n_spans;
  float fusion;                      /* modes defer and rollback */
  int64_t defer_wait_ns;             /* 0: none */
  weir_quality quality;              /* in mode auto */
  int32_t route_prompt, route_after; /* mode route; not both 0 */
  float route_share, route_rate;     /* rate: >= 0 where there is one, else the share */
  weir_keep accept;                  /* mode speculate; KEEP_ALL: its default */
  int32_t window, hold, horizon;     /* 0: the mode's default; horizon where the rule has one */
  float defer_rate, load_price;      /* modes with a budget; 0: none. With a rate tau is not looked at */
  int32_t defer_burst;               /* with a rate */

  /* what came out */
  int64_t id, done_ns, first_ns, queued_ns;
  int32_t n, done;
  int32_t tok[WORLD_NEW];
  world_text text;
  weir_token_receipt receipt[WORLD_NEW];
  weir_top top[WORLD_NEW][WEIR_TOP_MAX];
  weir_end end;
  weir_err err;
  weir_counts counts;
  bool submitted;
  struct world *world;
  void (*on_decision)(void *ctx, const weir_decision *); /* as in weir_job, with the world_job; may be NULL */
  void *log;                                             /* for it */
} world_job;

typedef struct world_opts {
  int32_t max_active, max_tokens, max_seqs, n_pages[2], large_batch, prefix_pages;
  int32_t prompt_chunk; /* 0: default */
  int64_t large_wait_ns, age_ns, step_timeout_ns;
  int64_t step_ns[2], row_ns[2];
  int64_t fail_at[2], hang_at[2];         /* < 0: never */
  virtual_death death[2][VIRTUAL_DEATHS]; /* [n_deaths]; with any the tier has a life */
  int32_t n_deaths[2];
  int64_t dead_wait_ns;
  void (*each_turn)(struct world *); /* may be NULL: after each turn of the engine */
  bool async, overlap;
  weir_ahead ahead;
  int64_t slow_every[2], slow_ns[2]; /* every so manyth step takes so much longer; 0: none */
  int64_t *fed[2];                   /* fake_opts.fed; NULL: not wanted */
  int32_t free_rows[2];              /* of a step: only those beyond them take row_ns */
  fake_law law;                      /* n_vocab 0: the usual one */
} world_opts;

typedef struct world {
  world_opts o;
  uint64_t seed; /* of the test, for messages */
  fake_law law;
  weir_tokenizer *tokenizer; /* of the process */
  weir_exec *exec[2];
  weir_engine *engine;
  int64_t clock_ns, horizon_ns; /* a run that goes on for longer has failed; 0: one minute */
  double large_only;            /* what the engine last said it would be, with all places taken */
  int64_t turns, idle_turns; /* of the loop; those that found nothing to do though they were asked to come */
  int64_t note_rows[2], note_steps[2], note_ahead, max_wait_ns, slowest_ns;
} world;

world_opts world_roomy(void);
void world_open(world *, const world_opts *);
void world_close(world *);
/* Law and tokenizer alone, for a test that makes engine and executors itself. */
void world_bare(world *);
void world_submit(world *, world_job *, int64_t start_ns); /* deadline counted from start_ns */
/* Runs jobs from now to their ends; arrival, cancel and deadline are counted from now. Fails the test when
 * they do not end, end twice, or pages are missing afterwards. */
void world_run(world *, world_job *job, int32_t n);
/* What plain decoding gives for modes small, large, defer and exact; returns the number of tokens. */
int32_t world_reference(const world *, const world_job *, int32_t *tok, weir_token_receipt *receipt);
/* Who writes a job in mode route, by the small tier's rows along its own text: tok[0..*n) is that tier's
 * text. A share other than the job's may be given, as a rate moves it. */
weir_routed world_route(const world *, const world_job *, float share, int32_t *tok, int32_t *n,
                        weir_route_state *);
/* Of a job in mode route, whatever died meanwhile: the decision is what the rows say, each token is what its
 * tier says there, the large tier's come first and are all or none of them unless it went away, and who did
 * not get it has every token marked from there on. Returns how many. */
int32_t world_check_routed(const world *, const world_job *);
/* The text of tok[0..n) by the job's stop strings: of those that are whole with the first token to make any
 * whole, the one that begins first ends it. Worked out from the beginning each time. */
void world_text_of(const world *, const world_job *, const int32_t *tok, int32_t n, world_text *);
/* The ids of a choice. The vocabulary is of bytes: a text has one spelling. */
int32_t world_choice(const world *, const world_job *, int32_t i, int32_t *tok);
/* The threshold of the gate behind tok[0..n), by the job's spans, worked out from the beginning each time. */
float world_tau(const world *, const world_job *, const int32_t *tok, int32_t n);
/* The ask for the token at position n of tok[0..n), with edits worked out by counting; edit: [512]. */
weir_ask world_ask(const world *, const world_job *, const int32_t *tok, int32_t n, weir_logit_edit *edit);
/* Adds the small tier's likeliest ids to the edits of such an ask. */
void world_fuse(const world *, const world_job *, const int32_t *tok, int32_t n, weir_ask *io,
                weir_logit_edit *edit);
/* Of a job in mode defer, whatever died meanwhile: each token is what its tier says there, and which tier
 * that is follows from the row the gate saw and from whether the large one was there. Returns for how many
 * tokens it was not. */
int32_t world_check_rule(const world *, const world_job *);

#endif
