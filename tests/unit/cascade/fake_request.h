/* SPDX-License-Identifier: Apache-2.0 */
/* One request against the fake models: keeps the token list, each tier's KV and the receipts as the scheduler
 * will, and checks on every turn what must hold whatever the configuration. */
#ifndef WEIR_TESTS_FAKE_REQUEST_H
#define WEIR_TESTS_FAKE_REQUEST_H
#include <stdbool.h>
#include <stdint.h>

#include "cascade/policy.h"
#include "cascade/receipt.h"
#include "fake_models.h"

typedef struct fake_job { /* what a request is, apart from how it is run */
  const weir_cascade_cfg *cfg;
  bool pinned;
  float temperature;
  int32_t top_k;
  uint64_t seed;
  int32_t n_prompt, n_max;
} fake_job;

typedef struct fake_req {
  fake_job job;
  weir_cascade c;
  weir_view v;
  int32_t tok[FAKE_LONG], sent[FAKE_LONG];
  float logprob[FAKE_LONG];               /* of each token, by the tier that wrote it */
  int32_t kv_tok[FAKE_MODELS][FAKE_LONG]; /* what each tier was fed: the fake's KV */
  weir_receipt receipt[FAKE_LONG + 1];
  int32_t n_sent, steps, calls[FAKE_MODELS]; /* calls: steps that gave rows */
  bool switching;                            /* tiers or configurations change under way */
  struct fake_route_count { /* rows the small tier gave while it was open, by the tests' own counting */
    int32_t looked, unsure;
  } routed;
} fake_req;

typedef struct fake_chaos {
  uint32_t preempt, hit, chunk; /* percent of turns */
  uint32_t move;                /* percent of steps during which tiers come and go */
} fake_chaos;

extern const fake_chaos fake_calm;

typedef struct fake_counts {
  long rows, judged, kept, preemptions, hits, chunks, moves;
} fake_counts;
extern fake_counts fake_count;

void fake_open(fake_req *, const fake_job *);
/* One turn of the scheduler; true when the request has finished. */
bool fake_turn(fake_req *, const fake_chaos *);
void fake_finish(fake_req *, const fake_chaos *);
/* More turns than any run without chaos can take. */
int32_t fake_turn_bound(const fake_job *);

/* ---- references that know nothing of marks, needs and effects ---- */
typedef struct fake_text {
  int32_t tok[FAKE_LONG], n, calls[2];
  weir_receipt receipt[FAKE_LONG + 1];
} fake_text;

/* One model's own text. */
void fake_alone(const fake_job *, int32_t model, fake_text *out);
/* What a cascade of two tiers writes, told as a story. */
void fake_oracle(const fake_job *, fake_text *out);

void fake_same_text(const fake_req *, const fake_text *, const char *what);
void fake_same_receipts(const fake_req *, const fake_text *);

/* A random sound configuration, and its exact kin. */
weir_cascade_cfg fake_any_cfg(void);
weir_cascade_cfg fake_verified(int32_t n_tiers, int32_t window, weir_gate, weir_keep);
weir_gate fake_any_gate(void);
fake_job fake_any_job(const weir_cascade_cfg *, uint64_t seed);
/* The text of this configuration must be the top tier's own. */
bool fake_is_exact(const weir_cascade_cfg *);

#endif
