/* SPDX-License-Identifier: Apache-2.0 */
/* The sample op written plainly in double precision: sorts, sums, no shards. */
#ifndef WEIR_TESTS_SAMPLE_REF_H
#define WEIR_TESTS_SAMPLE_REF_H
#include <stdbool.h>
#include <stdint.h>

#include "kernels/row.h"

typedef struct sample_ref {
  int32_t n;
  int32_t *order; /* [n] ids by logit, highest first, of equal ones the lowest id first */
  double *p;      /* [n] at temperature 1 */
  float *shaped;  /* [n] logits with the ask's edits, which w and top are of; the rest is of the raw ones */
  double *w;      /* [n] what races: exp((l - max)/T), 0 where cut; NULL when greedy */
  double entropy, p_max, margin;
  double
      boundary; /* how far the cut is from falling elsewhere, as a share of what it cuts; 1 without a cut */
  int32_t top;
} sample_ref;

/* Fills r for logits[n] and the ask's temperature, truncation and edits. sample_ref_free releases. */
void sample_ref_make(sample_ref *r, const float *logits, int32_t n, const weir_ask *ask);
void sample_ref_free(sample_ref *r);
/* When token v arrives under the noise of that purpose; infinity when it does not race. */
double sample_ref_arrival(const sample_ref *r, const weir_ask *ask, uint32_t purpose, int32_t v);
/* How far the probe is on the right side of what ask->keep demands, as a share of p_max (NLL: nats): > 0 it
 * stands, < 0 it falls. Only for rules that ask for probabilities. */
double sample_ref_keep(const sample_ref *r, const weir_ask *ask);
/* By RATIO, at a temperature above 0 and with a draft: how far the probe is on the right side, as a share;
 * the arrival of token v in the draw from what is left, *lost (may be NULL) how many times its weight is what
 * is left of it; who arrives first, the probe when nothing is left. */
double sample_ref_ratio(const sample_ref *r, const weir_ask *ask);
double sample_ref_rest(const sample_ref *r, const weir_ask *ask, int32_t v, double *lost);
int32_t sample_ref_redraw(const sample_ref *r, const weir_ask *ask);
/* The first to arrive, or the top when greedy. */
int32_t sample_ref_draw(const sample_ref *r, const weir_ask *ask, uint32_t purpose);

#endif
