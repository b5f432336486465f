/* SPDX-License-Identifier: Apache-2.0 */
/* The inner loops that exist once an instruction set. simd_scalar.c, simd_avx2.c and simd_avx512.c each
 * instantiate rows_kernel.h, attend_kernel.h and sample_kernel.h over their vec_*.h and fill one table. */
#ifndef WEIR_KERNELS_CPU_SIMD_H
#define WEIR_KERNELS_CPU_SIMD_H
#include <stdbool.h>
#include <stdint.h>

#include "kernels/cpu/cpu.h"
#include "kernels/device.h"
#include "kernels/sample_core.h"

/* One row of q|k|v, rotated; k and v stored. */
typedef struct weir_rope_row {
  float *qkv;                   /* [(n_heads + 2*n_kv_heads) * head_dim]; q and k are rotated in place */
  const float *cos, *sin;       /* [rope_dims/2] */
  const float *q_norm, *k_norm; /* [head_dim] or NULL */
  float norm_eps;
  int32_t n_heads, n_kv_heads, head_dim, rope_dims;
  bool interleaved;
  weir_dtype kv_type;
  char *k, *v;       /* where head 0 of this position is stored */
  size_t head_bytes; /* from one head to the next there */
  size_t scale_at; /* Q8_0: from the row to the scale of its first block; those of others follow page_size */
  int32_t page_size; /* scales apart */
} weir_rope_row;

/* Rows of one KV head attending to a run of positions; the unit of work of attend. A row is one query head of
 * one token. */
enum { WEIR_ATTEND_ROWS = 32, WEIR_ATTEND_BLOCK = 32 };
typedef struct weir_attend_tile {
  int32_t n_rows, head_dim, dp; /* dp: head_dim rounded up to a multiple of 16 */
  int32_t group;                /* query heads a KV head, of the model */
  int32_t from[WEIR_ATTEND_ROWS],
      pos[WEIR_ATTEND_ROWS];           /* each row sees positions from .. pos; both ascend */
  const float *q_in[WEIR_ATTEND_ROWS]; /* [head_dim] */
  float *q;           /* scaled, set by load_q: [n_rows][dp], zero padded, or as the kernel wants it, in at
                         most 2*dp floats a row, with rows rounded up to a multiple of 8 */
  float *acc, *m, *l; /* [n_rows][dp], [n_rows], [n_rows]: sum of e v, maximum, sum of e, in one span */
  float *k, *v;       /* [WEIR_ATTEND_BLOCK][dp] scratch, on lines */
  const char *kv;     /* layer base at this head: token t of page p at kv + p*page_bytes + t*row_bytes */
  size_t page_bytes, row_bytes, v_bytes; /* v_bytes: from a K row to its V row */
  const int32_t *page;                   /* of the sequence, in order of position */
  int32_t page_size;
  weir_dtype type;      /* of KV; of Q8_0, kv and row_bytes are about the bytes, and the scales ... */
  size_t scale_at;      /* ... of a page's blocks 0 begin here, from the head's first byte in it */
  float scale, softcap; /* with a soft cap, scale is already divided by it */
} weir_attend_tile;

/* What is done to a tile. */
typedef struct weir_attend_kernel {
  void (*load_q)(weir_attend_tile *);
  /* acc, m, l as before the first position of a span: zeros and -infinity. */
  void (*start)(weir_attend_tile *);
  /* acc, m, l take in positions [begin, end), which follow those before; begin is a multiple of the block.
   * Blocks that no row sees are left out, and a row that sees nothing of this is left as it is. */
  void (*run)(weir_attend_tile *, int32_t begin, int32_t end);
  /* (acc, m, l) of one row <- the row's with a later span's put behind. */
  void (*merge)(float *acc, float *m, float *l, const float *acc2, float m2, float l2, int32_t dp);
  void (*finish)(float *out, const float *acc, float l, int32_t head_dim);
} weir_attend_kernel;

typedef struct weir_simd {
  void (*add_rmsnorm)(float *y, float *resid, const float *delta, const float *w, float eps, int32_t n);
  /* y may be gate. */
  void (*glu)(float *y, const float *gate, const float *up, weir_act act, int32_t n);
  void (*softcap)(float *x, float cap, int32_t n);
  void (*exp_minus)(float *y, const float *x, float top, int32_t n); /* y = e^(x - top), all ISAs alike */
  void (*add_scaled)(float *y, const float *x, float w, int32_t n);  /* y += w x, all ISAs alike */
  void (*rope_angles)(float *cos_out, float *sin_out, int32_t pos, const float *inv_freq, float mscale,
                      int32_t n);
  void (*rope_row)(const weir_rope_row *);
  weir_attend_kernel attend;
  weir_sample_chunks sample;
} weir_simd;

extern const weir_simd weir_simd_scalar, weir_simd_avx2, weir_simd_avx512;
extern const weir_attend_kernel weir_attend_amx;

/* Rows a thread should get at least, for work of about `cols` cheap elements a row: waking the team costs
 * about as much as 32,000 of them. */
static inline int32_t weir_cpu_grain(int32_t cols) {
  return cols > 32768 ? 1 : 32768 / (cols > 0 ? cols : 1);
}

/* The table of an instruction set this machine has; never NULL. */
const weir_simd *weir_simd_get(weir_isa isa);

#endif
