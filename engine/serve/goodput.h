/* SPDX-License-Identifier: Apache-2.0 */
/* How fast the cascade is of late, and how fast the large tier alone would be at the same load.
 *
 *   goodput    = committed tokens / time, over the last seconds in which steps were run; what a step did is
 *                spread over the time it took, so that steps may be longer than a slot
 *   large only = 1 / (T(b) / b + rho * t_p)
 *
 * b: requests under way, one row each. T(b): time of a large step of b rows, between the two nearest sizes
 * that were measured (steps without prompt rows; below the smallest its time, above the largest in
 * proportion, so that the estimate errs towards the cascade). rho: prompt rows fed for each token written;
 * t_p: time of one such row on the large tier, from its steps that were mostly prompt. Acceptance rates are
 * no substitute: they hardly move while speculation turns from a gain into a loss. */
#ifndef WEIR_SERVE_GOODPUT_H
#define WEIR_SERVE_GOODPUT_H
#include <stdbool.h>
#include <stdint.h>

enum { WEIR_GOODPUT_SLOTS = 20, WEIR_GOODPUT_SIZES = 16 };

typedef struct weir_goodput {
  struct weir_goodput_slot {           /* a quarter of a second */
    int64_t number, first_ns, last_ns; /* work in it; first_ns 0: none */
    struct weir_goodput_done {
      double tokens, prompt_rows, small_rows;
    } done;
  } slot[WEIR_GOODPUT_SLOTS];
  struct weir_goodput_size { /* large steps of 2^i .. 2^(i+1) - 1 rows, averaged */
    double rows, ns;         /* rows 0: none was measured */
  } size[WEIR_GOODPUT_SIZES];
  int64_t from_ns, to_ns;       /* of the last step */
  double prompt_row_ns;         /* 0: not measured */
  int64_t since_ns, last_told;  /* since when the other side of the comparison holds; 0: it does not */
  bool large_faster, ever_told; /* what the hysteresis says */
} weir_goodput;                 /* zeroed: nothing known */

/* A step of a tier has ended. `large`: of the top tier of several. */
void weir_goodput_step(weir_goodput *, int64_t now_ns, bool large, int32_t rows, int32_t prompt_rows,
                       int64_t device_ns);
void weir_goodput_tokens(weir_goodput *, int64_t now_ns, int32_t n); /* were committed */
double weir_goodput_rate(const weir_goodput *, int64_t now_ns);      /* tokens a second; 0: none */
/* Tokens a second by the large tier alone with so many requests under way; 0: not known. */
double weir_goodput_large_only(const weir_goodput *, int64_t now_ns, int32_t n_requests);
/* Called now and then: true when the large tier alone has been faster by a tenth for three seconds; once each
 * time that comes to hold (it ends when the cascade has been faster for as long), and once a minute at most.
 */
bool weir_goodput_tell(weir_goodput *, int64_t now_ns, int32_t n_requests);

#endif
