/* SPDX-License-Identifier: Apache-2.0 */
/* RoPE frequencies. Pure functions; any thread. Formulas in double precision, as the published
 * implementations compute them in float32 or better; sources stand in rope.h. */
#include "model/rope.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>

static weir_status check(const weir_rope *r, int32_t dims, weir_err *e) {
  if (dims < 2 || dims > WEIR_MAX_ROPE_DIMS || dims % 2 != 0)
    return weir_fail(e, WEIR_EINVAL, "RoPE over %d dimensions", dims);
  if (!(r->theta >= 1.0f && isfinite(r->theta)))
    return weir_fail(e, WEIR_EINVAL, "RoPE theta %g is below 1", (double)r->theta);
  const bool stretched =
      r->kind == WEIR_ROPE_LINEAR || r->kind == WEIR_ROPE_LLAMA3 || r->kind == WEIR_ROPE_YARN;
  if (stretched && !(r->factor > 0.0f && isfinite(r->factor)))
    return weir_fail(e, WEIR_EINVAL, "RoPE scaling factor %g is not positive", (double)r->factor);
  const bool known =
      r->kind == WEIR_ROPE_LLAMA3 || r->kind == WEIR_ROPE_YARN || r->kind == WEIR_ROPE_LONGROPE;
  if (known && r->original_ctx < 1)
    return weir_fail(e, WEIR_EINVAL, "RoPE scaling without the original context length");
  if (r->kind == WEIR_ROPE_LLAMA3 && !(r->low_freq > 0.0f && r->high_freq > r->low_freq))
    return weir_fail(e, WEIR_EINVAL, "RoPE scaling llama3: low_freq_factor %g, high_freq_factor %g",
                     (double)r->low_freq, (double)r->high_freq);
  if (r->kind == WEIR_ROPE_YARN && !(r->beta_slow > 0.0f && r->beta_fast > r->beta_slow))
    return weir_fail(e, WEIR_EINVAL, "RoPE scaling yarn: beta_fast %g, beta_slow %g", (double)r->beta_fast,
                     (double)r->beta_slow);
  if (!(r->mscale >= 0.0f && isfinite(r->mscale)))
    return weir_fail(e, WEIR_EINVAL, "RoPE attention factor %g", (double)r->mscale);
  return WEIR_OK;
}

static const double two_pi = 6.283185307179586476925;

static double llama3(const weir_rope *r, double freq) {
  const double wave = two_pi / freq, low = r->original_ctx / (double)r->low_freq,
               high = r->original_ctx / (double)r->high_freq;
  if (wave < high) return freq;
  if (wave > low) return freq / (double)r->factor;
  const double smooth =
      (r->original_ctx / wave - (double)r->low_freq) / ((double)r->high_freq - (double)r->low_freq);
  return (1.0 - smooth) * freq / (double)r->factor + smooth * freq;
}

/* The dimension that turns `rotations` times within the original context (YaRN, section 3.2). */
static double yarn_dim(const weir_rope *r, int32_t dims, double rotations) {
  return dims * log(r->original_ctx / (rotations * two_pi)) / (2.0 * log((double)r->theta));
}

static double yarn(const weir_rope *r, int32_t dims, int32_t i, double freq) {
  double low = floor(yarn_dim(r, dims, (double)r->beta_fast)),
         high = ceil(yarn_dim(r, dims, (double)r->beta_slow));
  if (low < 0) low = 0;
  if (high > dims - 1) high = dims - 1;
  if (high == low) high += 0.001; /* the published guard against a step without width */
  double ramp = (i - low) / (high - low);
  ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
  return freq / (double)r->factor * ramp + freq * (1.0 - ramp);
}

weir_status weir_rope_frequencies(const weir_rope *r, int32_t dims, int32_t n_ctx, float *inv_freq,
                                  float *mscale, weir_err *e) {
  const weir_status st = check(r, dims, e);
  if (st != WEIR_OK) return st;
  const float *table = NULL;
  if (r->kind == WEIR_ROPE_FACTORS) table = r->table;
  if (r->kind == WEIR_ROPE_LONGROPE) table = n_ctx > r->original_ctx ? r->long_table : r->table;
  for (int32_t i = 0; i < dims / 2; i++) {
    double f = pow((double)r->theta, -2.0 * i / dims);
    if (r->kind == WEIR_ROPE_LINEAR) f /= (double)r->factor;
    if (r->kind == WEIR_ROPE_LLAMA3) f = llama3(r, f);
    if (r->kind == WEIR_ROPE_YARN) f = yarn(r, dims, i, f);
    if (table) {
      if (!(table[i] > 0.0f && isfinite(table[i])))
        return weir_fail(e, WEIR_EINVAL, "RoPE frequency factor %d is %g", i, (double)table[i]);
      f /= (double)table[i];
    }
    inv_freq[i] = (float)f;
  }
  *mscale = 1.0f;
  if (r->kind == WEIR_ROPE_YARN || r->kind == WEIR_ROPE_LONGROPE) *mscale = r->mscale;
  if (r->kind == WEIR_ROPE_YARN && r->mscale == 0.0f)
    *mscale = r->factor > 1.0f ? (float)(0.1 * log((double)r->factor) + 1.0) : 1.0f;
  if (r->kind == WEIR_ROPE_LONGROPE && r->mscale == 0.0f)
    *mscale =
        r->factor > 1.0f ? (float)sqrt(1.0 + log((double)r->factor) / log((double)r->original_ctx)) : 1.0f;
  return WEIR_OK;
}
