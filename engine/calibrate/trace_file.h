/* SPDX-License-Identifier: Apache-2.0 */
/* Traces as files, little-endian, sizes checked before anything is taken from them:
 *
 *   8 bytes   "WEIRTRC1"
 *   int32     texts, dim of hidden states (0: none), threads, batch (of the engine that wrote the texts)
 *   float32   temperature; int32 0
 *   uint64    seed
 *   text      small, large, data, device: 256 bytes each, padded with zeroes, the last byte zero
 *   cost      int32 n, int32 rows[16], int32 0; float64 ns[2][16], ns_all[2][16], flops[2], head_flops[2],
 *             weight_bytes[2], kv_bytes[2]                    (weir_cal_cost)
 *   then for each text
 *     int32   n_prompt, n, part, right, prompts (1: their entropies follow), hidden (1: likewise), 0, 0
 *     n rows of 14 numbers of 4 bytes, in the order of weir_trace_row
 *     float32 prompt_entropy[n_prompt - 1]
 *     float32 hidden[n][dim]
 *
 * In NumPy a row is
 * [('q_token','<i4'),('p_token','<i4'),('q_entropy','<f4'),('q_max','<f4'),('q_margin','<f4'),
 * ('q_logprob','<f4'),('q_of_p','<f4'),('q_gate','<f4'),('p_entropy','<f4'),('p_max','<f4'),('p_margin','<f4'),
 * ('p_logprob','<f4'),('p_of_q','<f4'),('q_ends','<i4')]. */
#ifndef WEIR_CALIBRATE_TRACE_FILE_H
#define WEIR_CALIBRATE_TRACE_FILE_H
#include "base/err.h"
#include "calibrate/result.h"
#include "calibrate/trace.h"

enum { WEIR_TRACE_NAME_BYTES = 256 };

/* Where a trace comes from. */
typedef struct weir_trace_meta {
  char small[WEIR_TRACE_NAME_BYTES], large[WEIR_TRACE_NAME_BYTES], data[WEIR_TRACE_NAME_BYTES],
      device[WEIR_TRACE_NAME_BYTES];
  int32_t n_threads, batch;
  weir_cal_cost cost;
} weir_trace_meta;

/* Errors name the path. Writing replaces the file as a whole or not at all. */
weir_status weir_trace_write(const char *path, const weir_trace *, const weir_trace_meta *, weir_err *e);
weir_status weir_trace_read(const char *path, weir_trace *out, weir_trace_meta *meta, weir_err *e);

#endif
