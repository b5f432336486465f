/* SPDX-License-Identifier: Apache-2.0 */
/* Angles of rotation; norm and rotation of q and k with the append of k and v to the paged KV, in one kernel:
 * a head stays in the registers of a part of a warp from its load to its stores, and none waits for another.
 */
#include "kernels/cuda/rope_kernels.h"

#include "kernels/cuda/quad.cuh"

enum { ANGLE_THREADS = 128, HEAD_THREADS = 64, FULL_WARP = 32 };

/* Sine and cosine in double, as the CPU has them: x = q pi/2 + r, |r| <= pi/4, with pi/2 in two parts of
 * which the first has 33 bits, so that q times it is exact for q < 2^20: a context of 1.6 million positions.
 * Taylor up to r^13 and r^12, below 1e-11. The library's sincos would be right beyond that too, for a stack
 * frame. */
static __global__ void __launch_bounds__(ANGLE_THREADS) rope_angles(const weir_cuk_rope_angles_args a) {
  const int i = (int)(blockIdx.y * ANGLE_THREADS + threadIdx.x);
  if (i >= a.half) return;
  const int row = (int)blockIdx.x; /* a grid's y ends at 65535 */
  const double x = (double)a.pos[row] * (double)a.inv_freq[i];
  const double magic = x * 0x1.45f306dc9c883p-1 + 0x1.8p52; /* 2/pi; nearest integer in the low bits */
  const double q = magic - 0x1.8p52;
  const double r = (x - q * 0x1.921fb544p0) - q * 0x1.0b4611a626331p-34;
  const int quadrant = (int)q;
  const double z = r * r;
  double s = 1.0 / 6227020800;
  s = s * z - 1.0 / 39916800;
  s = s * z + 1.0 / 362880;
  s = s * z - 1.0 / 5040;
  s = s * z + 1.0 / 120;
  s = s * z - 1.0 / 6;
  s = s * z * r + r;
  double c = 1.0 / 479001600;
  c = c * z - 1.0 / 3628800;
  c = c * z + 1.0 / 40320;
  c = c * z - 1.0 / 720;
  c = c * z + 1.0 / 24;
  c = c * z - 0.5;
  c = c * z + 1;
  const double sw = quadrant & 1 ? c : s, cw = quadrant & 1 ? s : c, size = (double)a.mscale;
  float *out = a.angles + (int64_t)row * a.ld;
  out[i] = (float)(size * ((quadrant + 1) & 2 ? -cw : cw));
  out[a.half + i] = (float)(size * (quadrant & 2 ? -sw : sw));
}

/* Where one head of a row comes from and goes to. */
struct head {
  float *x;
  const float *norm; /* NULL: none */
  const float *cos, *sin;
  char *kv;    /* its row in the KV; NULL: nothing to append */
  bool turned; /* q and k, not v */
};

CU_DEV head find_head(const weir_cuk_rope_append_args &a, int row, int h) {
  head t;
  t.x = a.qkv + (int64_t)row * a.qkv_ld + (int64_t)h * a.head_dim;
  t.cos = a.angles + (int64_t)row * a.angles_ld;
  t.sin = t.cos + a.rope_dims / 2;
  t.turned = h < a.n_heads + a.n_kv_heads;
  t.norm = h < a.n_heads ? a.q_norm : t.turned ? a.k_norm : nullptr;
  t.kv = nullptr;
  if (h < a.n_heads) return t;
  const int pos = a.pos[row], slot = pos / a.page_size, page = a.page[a.page_indptr[a.seq[row]] + slot];
  if (page < 0 || page >= a.n_pages) return t; /* nobody's memory is written, whatever the table says */
  const int is_v = !t.turned, kv_head = h - a.n_heads - (is_v ? a.n_kv_heads : 0);
  const int64_t line =
      (((int64_t)page * 2 + is_v) * a.n_kv_heads + kv_head) * a.page_size + (pos - slot * a.page_size);
  t.kv = (char *)a.kv + line * a.head_dim * (a.f16 ? 2 : 4);
  return t;
}

template <bool ALIGNED>
CU_DEV void kv_store(const weir_cuk_rope_append_args &a, char *to, int i, float4 v) {
  if (!a.f16) {
    quad_store<ALIGNED>((float *)to + i, v, 4);
    return;
  }
  uint16_t *half = (uint16_t *)to + i;
  const uint2 two = {f2h2(v.x, v.y), f2h2(v.z, v.w)};
  if (ALIGNED) {
    *reinterpret_cast<uint2 *>(half) = two;
    return;
  }
  half[0] = (uint16_t)two.x, half[1] = (uint16_t)(two.x >> 16);
  half[2] = (uint16_t)two.y, half[3] = (uint16_t)(two.y >> 16);
}

/* L lanes a head, 8 elements each: two quads that turn by the same four angles, or 8 in a row of what is not
 * turned. For head_dim and rope_dims that are multiples of 8, head_dim up to 8 L. */
template <int L, bool ALIGNED>
static __global__ void __launch_bounds__(HEAD_THREADS) rope_append(const weir_cuk_rope_append_args a) {
  const int lane = (int)threadIdx.x % L, row = (int)blockIdx.x;
  const int h = (int)(blockIdx.y * (HEAD_THREADS / L) + threadIdx.x / L);
  /* Lanes without work stay for the sums. */
  const bool live = h < a.n_heads + 2 * a.n_kv_heads && lane < a.head_dim / 8;
  const bool turns = lane < a.rope_dims / 8;
  const int lo = turns && !a.interleaved ? 4 * lane : 8 * lane;
  const int hi = turns && !a.interleaved ? lo + a.rope_dims / 2 : lo + 4;
  const float4 zero = {0.0f, 0.0f, 0.0f, 0.0f};
  float4 u = zero, v = zero;
  head t = {};
  if (live) {
    t = find_head(a, row, h);
    u = quad_load<ALIGNED>(t.x + lo, 4);
    v = quad_load<ALIGNED>(t.x + hi, 4);
  }
  const float square = lanes_sum<L>(quad_square(u) + quad_square(v));
  if (!live) return;
  if (t.norm != nullptr) {
    const float scale = 1.0f / sqrtf(square / (float)a.head_dim + a.eps);
    u = quad_scale(u, scale, quad_load<ALIGNED>(t.norm + lo, 4));
    v = quad_scale(v, scale, quad_load<ALIGNED>(t.norm + hi, 4));
  }
  if (t.turned && turns) {
    const float4 c = quad_load<ALIGNED>(t.cos + 4 * lane, 4), s = quad_load<ALIGNED>(t.sin + 4 * lane, 4);
    if (a.interleaved) {
      const float4 p = u, q = v;
      u.x = p.x * c.x - p.y * s.x, u.y = p.x * s.x + p.y * c.x;
      u.z = p.z * c.y - p.w * s.y, u.w = p.z * s.y + p.w * c.y;
      v.x = q.x * c.z - q.y * s.z, v.y = q.x * s.z + q.y * c.z;
      v.z = q.z * c.w - q.w * s.w, v.w = q.z * s.w + q.w * c.w;
    } else {
      const float4 p = u, q = v;
      u.x = p.x * c.x - q.x * s.x, v.x = p.x * s.x + q.x * c.x;
      u.y = p.y * c.y - q.y * s.y, v.y = p.y * s.y + q.y * c.y;
      u.z = p.z * c.z - q.z * s.z, v.z = p.z * s.z + q.z * c.z;
      u.w = p.w * c.w - q.w * s.w, v.w = p.w * s.w + q.w * c.w;
    }
  }
  if (t.norm != nullptr || (t.turned && turns)) {
    quad_store<ALIGNED>(t.x + lo, u, 4);
    quad_store<ALIGNED>(t.x + hi, v, 4);
  }
  if (t.kv == nullptr) return;
  kv_store<ALIGNED>(a, t.kv, lo, u);
  kv_store<ALIGNED>(a, t.kv, hi, v);
}

CU_DEV void kv_store_one(const weir_cuk_rope_append_args &a, char *to, int i, float x) {
  if (to == nullptr) return;
  if (a.f16)
    ((uint16_t *)to)[i] = (uint16_t)f2h2(x, 0.0f);
  else
    ((float *)to)[i] = x;
}

/* Any other shape: a warp a head, an element at a time. */
static __global__ void __launch_bounds__(HEAD_THREADS) rope_append_any(const weir_cuk_rope_append_args a) {
  const int lane = (int)threadIdx.x % FULL_WARP, row = (int)blockIdx.x;
  const int h = (int)(blockIdx.y * (HEAD_THREADS / FULL_WARP) + threadIdx.x / FULL_WARP);
  if (h >= a.n_heads + 2 * a.n_kv_heads) return; /* the whole warp */
  const head t = find_head(a, row, h);
  float scale = 1.0f;
  if (t.norm != nullptr) {
    float square = 0.0f;
    for (int i = lane; i < a.head_dim; i += FULL_WARP) square += t.x[i] * t.x[i];
    square = lanes_sum<FULL_WARP>(square);
    scale = 1.0f / sqrtf(square / (float)a.head_dim + a.eps);
    __syncwarp(); /* all have read before one writes */
  }
  const int half = t.turned ? a.rope_dims / 2 : 0;
  for (int i = lane; i < half; i += FULL_WARP) {
    const int lo = a.interleaved ? 2 * i : i, hi = a.interleaved ? lo + 1 : lo + half;
    float p = t.x[lo], q = t.x[hi];
    if (t.norm != nullptr) p = p * scale * t.norm[lo], q = q * scale * t.norm[hi];
    const float u = p * t.cos[i] - q * t.sin[i], v = p * t.sin[i] + q * t.cos[i];
    t.x[lo] = u, t.x[hi] = v;
    kv_store_one(a, t.kv, lo, u);
    kv_store_one(a, t.kv, hi, v);
  }
  for (int i = 2 * half + lane; i < a.head_dim; i += FULL_WARP) {
    float u = t.x[i];
    if (t.norm != nullptr) t.x[i] = u = u * scale * t.norm[i];
    kv_store_one(a, t.kv, i, u);
  }
}

extern "C" cudaError_t weir_cuk_rope_angles(const weir_cuk_rope_angles_args *a, cudaStream_t stream) {
  const dim3 grid((unsigned)a->rows, (unsigned)(a->half + ANGLE_THREADS - 1) / ANGLE_THREADS);
  CU_LAUNCH(rope_angles, grid, ANGLE_THREADS, 0, stream, *a);
  return CU_LAUNCH_STATUS();
}

template <int L>
static cudaError_t launch(const weir_cuk_rope_append_args *a, cudaStream_t stream) {
  const int heads = a->n_heads + 2 * a->n_kv_heads, at_once = HEAD_THREADS / L;
  const dim3 grid((unsigned)a->n_tokens, (unsigned)((heads + at_once - 1) / at_once));
  if (a->aligned)
    CU_LAUNCH((rope_append<L, true>), grid, HEAD_THREADS, 0, stream, *a);
  else
    CU_LAUNCH((rope_append<L, false>), grid, HEAD_THREADS, 0, stream, *a);
  return CU_LAUNCH_STATUS();
}

/* Small blocks: at batch 1 the heads spread over more multiprocessors, and 32 blocks of 64 fill one. */
extern "C" cudaError_t weir_cuk_rope_append(const weir_cuk_rope_append_args *a, cudaStream_t stream) {
  if (a->head_dim % 8 == 0 && a->rope_dims % 8 == 0 && a->head_dim <= 256) {
    if (a->head_dim <= 64) return launch<8>(a, stream);
    return a->head_dim <= 128 ? launch<16>(a, stream) : launch<32>(a, stream);
  }
  const int heads = a->n_heads + 2 * a->n_kv_heads, at_once = HEAD_THREADS / FULL_WARP;
  const dim3 grid((unsigned)a->n_tokens, (unsigned)((heads + at_once - 1) / at_once));
  CU_LAUNCH(rope_append_any, grid, HEAD_THREADS, 0, stream, *a);
  return CU_LAUNCH_STATUS();
}
