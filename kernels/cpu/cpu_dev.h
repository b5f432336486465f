/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the CPU device: what its operation files share. Nobody outside kernels/cpu includes this.
 *
 * Operations run one after the other on the thread that calls them and borrow the team for the length of the
 * call, so one scratch serves them all: each operation that needs some says how much for given limits, and
 * reserve keeps the largest. */
#ifndef WEIR_KERNELS_CPU_CPU_DEV_H
#define WEIR_KERNELS_CPU_CPU_DEV_H
#include "base/pool.h"
#include "kernels/cpu/cpu.h"
#include "kernels/device.h"

typedef struct weir_cpu_stretch weir_cpu_stretch; /* memory.c */

/* What was read after the weight at `data` when it was last read: addresses that are only compared and
 * fetched ahead, never followed, for the weights may be gone. */
enum { WEIR_CPU_FOLLOWS = 1024 };
typedef struct weir_cpu_follow {
  const void *data, *next;
  size_t next_bytes;
} weir_cpu_follow;

typedef struct weir_cpu {
  weir_pool *pool;
  int32_t n_threads;
  weir_isa isa; /* never WEIR_ISA_BEST */
  bool amx_small;
  void *scratch; /* [scratch_bytes], 64-byte aligned; contents are undefined when an operation starts */
  size_t scratch_bytes;
  void *moe_scratch; /* [moe_bytes] likewise, of moe alone: the linears it runs use `scratch` */
  size_t moe_bytes;
  weir_cpu_stretch *stretch; /* what large blocks are cut from now; NULL: the next begins one */
  const void *last;          /* the weight that linear read last */
  weir_cpu_follow follow[WEIR_CPU_FOLLOWS]; /* by hash of data; a collision forgets */
} weir_cpu;

static inline weir_cpu *weir_cpu_of(const weir_dev *dev) { return (weir_cpu *)dev->impl; }

/* fn over [begin, end), a part of 0..n, on the thread of that rank. */
typedef void (*weir_cpu_range_fn)(void *ctx, int32_t begin, int32_t end, int32_t rank);

/* Cuts 0..n into runs of `grain` (the last may be shorter) and gives each thread one contiguous part of them,
 * by rank: the same n, grain and team always cut alike. Returns when all are done. Runs inline on rank 0 when
 * there is one run or less, or one thread. Operations must give the same bits for every cut. */
void weir_cpu_for(weir_dev *, int32_t n, int32_t grain, weir_cpu_range_fn fn, void *ctx);

/* The part of `n_units` that falls to `rank` of `n_threads`: the split weir_cpu_for uses. */
static inline void weir_cpu_part(int32_t n_units, int32_t rank, int32_t n_threads, int32_t *begin,
                                 int32_t *end) {
  *begin = (int32_t)((int64_t)n_units * rank / n_threads);
  *end = (int32_t)((int64_t)n_units * (rank + 1) / n_threads);
}

/* `bytes` of zeroed memory, 64-byte aligned, on huge pages where the system gives them; what is never touched
 * costs nothing. *out owned by the caller (weir_cpu_memory_free). */
weir_status weir_cpu_memory_alloc(weir_dev *, size_t bytes, void **out, weir_err *e);
void weir_cpu_memory_free(weir_dev *, void *); /* NULL is fine */

/* Scratch bytes an operation needs within `lim` with a team of n_threads; SIZE_MAX when that overflows.
 * Limits have been checked: none is negative. */
size_t weir_cpu_linear_scratch(const weir_dev_limits *lim, int32_t n_threads);
size_t weir_cpu_attend_scratch(const weir_dev_limits *lim, int32_t n_threads);
size_t weir_cpu_sample_scratch(const weir_dev_limits *lim, int32_t n_threads);
size_t weir_cpu_moe_scratch(const weir_dev_limits *lim);

/* The operations; arguments have passed the checks of device.c. */
weir_status weir_cpu_weight_prepare(weir_dev *, const weir_host_mat *part, int32_t n_parts, weir_weight *,
                                    weir_err *);
void weir_cpu_weight_release(weir_dev *, weir_weight *);
weir_status weir_cpu_embed(weir_dev *, weir_mat y, const weir_embed_args *, weir_err *);
weir_status weir_cpu_linear(weir_dev *, weir_mat y, weir_mat x, const weir_weight *, const float *bias,
                            weir_err *);
weir_status weir_cpu_add_rmsnorm(weir_dev *, weir_mat y, weir_mat resid, weir_mat delta, const float *w,
                                 float eps, weir_err *);
weir_status weir_cpu_rope_angles(weir_dev *, weir_mat angles, const weir_ragged *, const float *inv_freq,
                                 float mscale, weir_err *);
weir_status weir_cpu_rope_append(weir_dev *, const weir_rope_args *, const weir_ragged *, weir_err *);
weir_status weir_cpu_attend(weir_dev *, weir_mat out, weir_mat q, const weir_ragged *, weir_kv_layer,
                            const weir_attend_args *, weir_err *);
weir_status weir_cpu_glu(weir_dev *, weir_mat y, weir_mat gate_up, weir_act, weir_err *);
weir_status weir_cpu_moe(weir_dev *, weir_mat y, const weir_moe_args *, weir_err *);
weir_status weir_cpu_softcap(weir_dev *, weir_mat x, float cap, weir_err *);
weir_status weir_cpu_gather_rows(weir_dev *, weir_mat y, weir_mat x, const int32_t *row, weir_err *);
weir_status weir_cpu_sample(weir_dev *, weir_row *rows, weir_top *top, weir_mat logits, int32_t n_valid,
                            const weir_ask *ask, const weir_vocab_shard *, weir_err *);
weir_status weir_cpu_kv_copy(weir_dev *, weir_kv_layer, const int32_t *src_dst, int32_t n_pairs, weir_err *);

#endif
