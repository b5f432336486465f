/* SPDX-License-Identifier: Apache-2.0 */
/* Unquantised weights times up to eight rows, F32 sums, each weight read once.
 *
 * A lane takes 16 bytes of a row of W at a time (8 halves, 4 floats), a warp a run of 256 or 128 columns, of
 * R rows: x is read from shared memory once for R rows of W. R is 4 from three rows of x on: at eight rows, x
 * costs 64 bytes a lane and column run for each 16 of W it meets; R = 4 makes that 64 bytes for 64, 21 bytes
 * a clock and SM (4.8 TB/s) ask for no more than what shared memory gives (128). x is staged in spans of
 * columns that take at most 32 KB, in the order in which lanes read it: runs' first quads, then their second
 * ones, so that neighbours do not meet in a bank.
 *
 * A row's sum: a lane adds its columns in order, lanes are added by butterfly, then the warps that share a
 * row, in order. How many share it depends on the number of rows, so that narrow outputs (a router) occupy
 * the GPU. */
#include "kernels/cuda/dense_gemv_kernels.h"

#include "kernels/cuda/cu.h"

namespace {

enum { WARPS = 8, X_FLOATS = 8192 };

template <weir_dtype T>
struct elem { /* F16, BF16 */
  typedef uint16_t type;
  enum { PER_LANE = 8 };
};
template <>
struct elem<WEIR_F32> {
  typedef float type;
  enum { PER_LANE = 4 };
};

CU_DEV uint32_t word_of(const uint4 &v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

CU_DEV void unpack(const uint4 &v, float *w, elem<WEIR_F32>) {
#pragma unroll
  for (int i = 0; i < 4; i++) w[i] = __uint_as_float(word_of(v, i));
}
CU_DEV void unpack(const uint4 &v, float *w, elem<WEIR_F16>) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    w[2 * i] = h2lo(word_of(v, i));
    w[2 * i + 1] = h2hi(word_of(v, i));
  }
}
CU_DEV void unpack(const uint4 &v, float *w, elem<WEIR_BF16>) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    w[2 * i] = bf2lo(word_of(v, i));
    w[2 * i + 1] = bf2hi(word_of(v, i));
  }
}
CU_DEV float value(float v, elem<WEIR_F32>) { return v; }
CU_DEV float value(uint16_t v, elem<WEIR_F16>) { return h2f(v); }
CU_DEV float value(uint16_t v, elem<WEIR_BF16>) { return bf2f(v); }

/* A lane's weights of one run; zeros beyond the row. */
template <weir_dtype T, bool ALIGNED>
CU_DEV void load(const typename elem<T>::type *p, int32_t left, float w[elem<T>::PER_LANE]) {
  enum { E = elem<T>::PER_LANE };
  if (ALIGNED) { /* cols is a multiple of 8: all or none */
    uint4 v = make_uint4(0, 0, 0, 0);
    if (left > 0) v = cu_ldg16(p);
    unpack(v, w, elem<T>());
  } else {
#pragma unroll
    for (int i = 0; i < E; i++) w[i] = i < left ? value(p[i], elem<T>()) : 0.0f;
  }
}

/* share: warps that split the columns of a row between them, 1, 2, 4 or 8. */
template <weir_dtype T, int N, bool ALIGNED>
__global__ void __launch_bounds__(WARPS * 32, 2)
    gemv_kernel(const __grid_constant__ weir_cuk_dense_gemv_args a, int32_t share) {
  typedef typename elem<T>::type W;
  enum { E = elem<T>::PER_LANE, RUN = 32 * E, QUADS = E / 4, R = N <= 2 ? 2 : 4, SPAN = X_FLOATS / N };
  CU_SHARED(float4, xs, X_FLOATS / 4);
  CU_SHARED(float, red, WARPS *R *N);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int32_t first = (blockIdx.x * (WARPS / share) + warp / share) * R;
  const W *w = static_cast<const W *>(a.w) + (size_t)first * a.cols + lane * E;
  float acc[R][N];
#pragma unroll
  for (int i = 0; i < R; i++)
#pragma unroll
    for (int j = 0; j < N; j++) acc[i][j] = 0.0f;

  for (int32_t at = 0; at < a.cols; at += SPAN) {
    const int32_t span = min((int32_t)SPAN, a.cols - at), runs = (span + RUN - 1) / RUN;
    if (at) __syncthreads(); /* the span before has been read */
    /* Quad q of a row: run q / (8E), in it half q % QUADS of lane. */
    for (int32_t q = threadIdx.x; q < runs * (RUN / 4) * N; q += WARPS * 32) {
      const int32_t j = q / (runs * (RUN / 4)), k = q % (runs * (RUN / 4)), l = k % (RUN / 4);
      const int32_t c = at + 4 * k;
      const float *x = a.x + j * a.x_ld + c;
      float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      if (j < a.n) {
        if (c < a.cols) v.x = x[0];
        if (c + 1 < a.cols) v.y = x[1];
        if (c + 2 < a.cols) v.z = x[2];
        if (c + 3 < a.cols) v.w = x[3];
      }
      xs[j * (SPAN / 4) + k / (RUN / 4) * (RUN / 4) + l % QUADS * 32 + l / QUADS] = v;
    }
    __syncthreads();
    /* Runs are dealt out by their number in the row, wherever spans begin: for N differs. share is a power of
     * two. */
    for (int32_t run = (warp - at / RUN) & (share - 1); run < runs; run += share) {
      const int32_t c = at + run * RUN;
      float x[N][E];
#pragma unroll
      for (int j = 0; j < N; j++)
#pragma unroll
        for (int h = 0; h < QUADS; h++) {
          const float4 v = xs[j * (SPAN / 4) + run * (RUN / 4) + h * 32 + lane];
          x[j][4 * h] = v.x;
          x[j][4 * h + 1] = v.y;
          x[j][4 * h + 2] = v.z;
          x[j][4 * h + 3] = v.w;
        }
#pragma unroll
      for (int i = 0; i < R; i++) {
        float v[E];
        load<T, ALIGNED>(w + (size_t)i * a.cols + c, first + i < a.rows ? a.cols - c - lane * E : 0, v);
#pragma unroll
        for (int j = 0; j < N; j++)
#pragma unroll
          for (int k = 0; k < E; k++) acc[i][j] = fmaf(v[k], x[j][k], acc[i][j]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < R; i++)
#pragma unroll
    for (int j = 0; j < N; j++) {
#pragma unroll
      for (int o = 16; o > 0; o >>= 1) acc[i][j] += __shfl_xor_sync(0xffffffffu, acc[i][j], o);
      if (lane == 0) red[(warp * R + i) * N + j] = acc[i][j];
    }
  __syncthreads();
  /* Sums of this block: WARPS / share groups of R rows, N each. */
  const int count = WARPS / share * R * N;
  if ((int)threadIdx.x >= count) return;
  const int j = threadIdx.x % N, i = threadIdx.x / N % R, g = threadIdx.x / (N * R);
  const int32_t f = (blockIdx.x * (WARPS / share) + g) * R + i;
  if (f >= a.rows || j >= a.n) return;
  float s = 0.0f;
  for (int k = 0; k < share; k++) s += red[((g * share + k) * R + i) * N + j];
  a.y[j * a.y_ld + f] = s + (a.bias ? a.bias[f] : 0.0f);
}

template <weir_dtype T, int N, bool ALIGNED>
cudaError_t go(const weir_cuk_dense_gemv_args &a, cudaStream_t stream) {
  const int32_t r = N <= 2 ? 2 : 4;
  int32_t share = 1; /* 16 warps an SM, by pairs of rows whatever N is */
  while (share < WARPS && (int64_t)((a.rows + 1) / 2) * share < (int64_t)16 * a.n_sms) share *= 2;
  const int32_t per_block = WARPS / share * r;
  CU_LAUNCH((gemv_kernel<T, N, ALIGNED>), dim3((unsigned)((a.rows + per_block - 1) / per_block)), WARPS * 32,
            0, stream, a, share);
  return CU_LAUNCH_STATUS();
}

/* Rows of odd length are rare: one width does for them. */
template <weir_dtype T>
cudaError_t go_n(const weir_cuk_dense_gemv_args &a, cudaStream_t stream) {
  if (!a.aligned) return go<T, 8, false>(a, stream);
  return a.n == 1   ? go<T, 1, true>(a, stream)
         : a.n == 2 ? go<T, 2, true>(a, stream)
         : a.n <= 4 ? go<T, 4, true>(a, stream)
                    : go<T, 8, true>(a, stream);
}

}  // namespace

extern "C" cudaError_t weir_cuk_dense_gemv(weir_dtype t, const weir_cuk_dense_gemv_args *a,
                                           cudaStream_t stream) {
  if (a->n < 1 || a->n > WEIR_GEMV_MAX_ROWS) return cudaErrorInvalidValue;
  switch (t) {
    case WEIR_F32: return go_n<WEIR_F32>(*a, stream);
    case WEIR_F16: return go_n<WEIR_F16>(*a, stream);
    case WEIR_BF16: return go_n<WEIR_BF16>(*a, stream);
    default: return cudaErrorInvalidValue;
  }
}
