/* SPDX-License-Identifier: Apache-2.0 */
/* Whether a server's traffic still looks like what its threshold was calibrated on.
 *
 * A request is one observation, since its tokens are not exchangeable: of its gate decisions the shares with
 * an entropy below each of WEIR_DRIFT_BINS bounds, its own distribution function. Over the last `window`
 * requests the mean of these is held against the calibration's mean, bound by bound, as Kolmogorov and
 * Smirnov do it for single draws; every `window / 4` requests. What a distance may be at a bound follows from
 * the variance over requests that the calibration saw there, by Bernstein's inequality for both means
 * together and Bonferroni's over bounds:
 *
 *   limit = sqrt(2 V L (1/M + 1/n)) + L/3 (1/M + 1/n),  L = log(2 bounds / rate)
 *
 * with M requests in the window and n in the calibration. So on traffic like the calibration's a check gives
 * an alarm with a probability of `rate` at most, whatever the distribution is (but for the error of V
 * itself), and there is a check every window / 4 requests: with the defaults at most one false alarm in
 * 640,000 requests on average. It stands until the score, distance over limit at the worst bound, falls below
 * 0.7.
 *
 * Pure but for the window's memory; one thread. */
#ifndef WEIR_CALIBRATE_DRIFT_H
#define WEIR_CALIBRATE_DRIFT_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum { WEIR_DRIFT_BINS = 64, WEIR_DRIFT_MIN_REQUESTS = 20, WEIR_DRIFT_WINDOW = 256 };
#define WEIR_DRIFT_BIN_WIDTH 0.0625 /* nats: 0 .. 4; the small models in use seldom have more */
#define WEIR_DRIFT_RATE      1e-4

/* ---- what the calibration saw ---- */

/* Sums over requests; zeroed: none yet. */
typedef struct weir_drift_sums {
  int32_t n;
  double cdf[WEIR_DRIFT_BINS], square[WEIR_DRIFT_BINS];
  double entropy, deferred; /* means of requests, summed */
} weir_drift_sums;

typedef struct weir_drift_profile {
  int32_t n; /* requests; 0: there is no profile */
  /* Over requests, of the share of its decisions with an entropy of (i + 1) * WEIR_DRIFT_BIN_WIDTH at most:
   * mean and variance. */
  double cdf[WEIR_DRIFT_BINS], var[WEIR_DRIFT_BINS];
  double entropy, deferred; /* means over requests: of its mean entropy; of its share of deferred decisions */
} weir_drift_profile;

/* One request: the entropies of its n rows that the gate looked at, in nats (NaN: left out), and how many of
 * them it deferred. One without any is no observation. */
void weir_drift_sums_add(weir_drift_sums *, const float *entropy, int32_t n, int32_t n_deferred);
void weir_drift_profile_make(const weir_drift_sums *, weir_drift_profile *out);
/* WEIR_EFORMAT: no distribution functions, too few requests, numbers that are none. */
weir_status weir_drift_profile_check(const weir_drift_profile *, weir_err *e);

/* ---- what a server sees ---- */

typedef enum { WEIR_DRIFT_NO_NEWS, WEIR_DRIFT_BEGAN, WEIR_DRIFT_ENDED } weir_drift_news;

typedef struct weir_drift {
  weir_drift_profile profile;
  int32_t window; /* requests, a multiple of 4 */
  double rate;    /* of false alarms, by check */
  float *seen;   /* [window][WEIR_DRIFT_BINS + 2], owned: of the last requests the distribution function, mean
                    entropy, share deferred */
  int32_t at, n; /* where the next one goes; how many there are, window at most */
  int32_t since; /* requests since the last check */
  int64_t checks;
  /* as of the last check */
  double score; /* worst distance over its limit; above 1: more than chance gives. 0 before the first */
  double nats;  /* the bound where that is */
  double entropy, deferred; /* of the window; NaN before the first check */
  bool alarm;
} weir_drift;

/* window: 32 .. 65536, else WEIR_EINVAL; rate in (0, 1). */
weir_status weir_drift_init(weir_drift *, const weir_drift_profile *, int32_t window, double rate,
                            weir_err *e);
void weir_drift_fini(weir_drift *); /* a zeroed one is fine */
/* A request has ended; as weir_drift_sums_add. */
weir_drift_news weir_drift_add(weir_drift *, const float *entropy, int32_t n, int32_t n_deferred);
/* The limit of the distance at a bound. */
double weir_drift_limit(double variance, int32_t window, int32_t n_calibration, double rate);

#endif
