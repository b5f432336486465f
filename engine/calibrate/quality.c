/* SPDX-License-Identifier: Apache-2.0 */
/* Measures of scores. Owns its memory for the call; any thread. */
#include "calibrate/quality.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"

typedef struct scored {
  float score;
  bool wrong;
} scored;

static int by_score(const void *p, const void *q) {
  const scored *a = p, *b = q;
  return (a->score > b->score) - (a->score < b->score);
}

weir_status weir_quality_auc(const float *score, const bool *wrong, int64_t n, double *out, weir_err *e) {
  scored *s = NULL;
  double below = 0, pairs = 0; /* right rows with a lower score; pairs in order */
  int64_t n_wrong = 0;
  *out = 0.5;
  if (n < 1) return WEIR_OK;
  const weir_status st = WEIR_NEW((size_t)n, &s, e);
  if (st != WEIR_OK) return st;
  for (int64_t i = 0; i < n; i++) {
    if (!isfinite(score[i])) {
      free(s);
      return weir_fail(e, WEIR_EINVAL, "the score of row %lld is not a finite number", (long long)i);
    }
    s[i] = (scored){score[i], wrong[i]};
    n_wrong += wrong[i];
  }
  qsort(s, (size_t)n, sizeof *s, by_score);
  for (int64_t i = 0, end; i < n; i = end) {
    int64_t bad = 0;
    for (end = i; end < n && s[end].score == s[i].score; end++) bad += s[end].wrong;
    const double good = (double)(end - i - bad);
    pairs += (double)bad * (below + good / 2);
    below += good;
  }
  free(s);
  if (n_wrong > 0 && n_wrong < n) *out = pairs / ((double)n_wrong * (double)(n - n_wrong));
  return WEIR_OK;
}

double weir_quality_brier(const float *score, const bool *wrong, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) {
    const double d = (double)score[i] - wrong[i];
    sum += d * d;
  }
  return n > 0 ? sum / (double)n : 0;
}

double weir_quality_ece(const float *score, const bool *wrong, int64_t n, int32_t bins) {
  enum { MOST = 100 };
  double gap[MOST] = {0},
         sum = 0; /* of scores less labels: a bin's mean distance times its share is |gap| / n */
  if (bins < 1 || bins > MOST || n < 1) return 0;
  for (int64_t i = 0; i < n; i++) {
    const double at = (double)score[i] * bins;
    const int32_t b = !(at > 0) ? 0 : at >= bins ? bins - 1 : (int32_t)at;
    gap[b] += (double)score[i] - wrong[i];
  }
  for (int32_t b = 0; b < bins; b++) sum += fabs(gap[b]);
  return sum / (double)n;
}
