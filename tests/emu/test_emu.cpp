/* SPDX-License-Identifier: Apache-2.0 */
/* The emulator's features and each of its errors, on small kernels; the planted bugs of the second half must
 * be caught, by name. What needs instrumented kernels is in test_emu_race.cpp, arithmetic in conf.cu. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

extern "C" {
#include <cmocka.h>
}
#include <algorithm>
#include <string>
#include <vector>

#include "kernels/cuda/cu.h"

static const uint32_t ALL = 0xffffffffu;

/* Runs a launch that a check must stop; the message must have `want`. */
template <class F>
static void expect(const char *want, F f) {
  const std::string got = emu_expect_error([](void *p) { (*(F *)p)(); }, &f);
  if (got.find(want) == std::string::npos) {
    print_error("want an error with \"%s\", got \"%s\"\n", want, got.c_str());
    fail();
  }
}

struct Orders { /* every order a test should hold in */
  emu_config saved = *emu_config_of();
  ~Orders() { *emu_config_of() = saved; }
  template <class F>
  void each(F f) {
    for (int order = EMU_ASCENDING; order <= EMU_RANDOM; order++) {
      for (uint64_t seed = 1; seed <= (order == EMU_RANDOM ? 5u : 1u); seed++) {
        emu_config_of()->order = (emu_order)order;
        emu_config_of()->seed = seed;
        f();
      }
    }
  }
};

/* --- what works */

__global__ void indices_kernel(uint32_t *out) {
  const unsigned b = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned t = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  out[b * (blockDim.x * blockDim.y * blockDim.z) + t] = b * 1000 + t;
}

static void test_indices(void **) {
  Orders().each([] {
    std::vector<uint32_t> out(12 * 30, ~0u);
    CU_LAUNCH(indices_kernel, dim3(2, 3, 2), dim3(5, 3, 2), 0, 0, out.data());
    for (unsigned i = 0; i < out.size(); i++) assert_int_equal(out[i], i / 30 * 1000 + i % 30);
  });
}

struct Shuffles {
  float f;
  double d;
  int64_t l;
  int down, up, x, part;
};
__global__ void shuffle_kernel(Shuffles *out) {
  const int lane = (int)threadIdx.x;
  Shuffles s;
  s.f = __shfl_sync(ALL, (float)lane, lane + 3);
  s.d = __shfl_sync(ALL, lane * 1e100, 7);
  s.l = __shfl_xor_sync(ALL, (int64_t)lane << 40, 16);
  s.down = __shfl_down_sync(ALL, lane, 3, 8);
  s.up = __shfl_up_sync(ALL, lane, 3, 8);
  s.x = __shfl_xor_sync(ALL, lane, 5);
  /* Two halves of a warp, each in its own mask and its own time. */
  const uint32_t mask = lane < 16 ? 0xffffu : 0xffff0000u;
  s.part = __shfl_sync(mask, lane, lane < 16 ? 2 : 18);
  out[lane] = s;
}

static void test_shuffles(void **) {
  Orders().each([] {
    std::vector<Shuffles> out(32);
    CU_LAUNCH(shuffle_kernel, 1, 32, 0, 0, out.data());
    for (int l = 0; l < 32; l++) {
      assert_true(out[l].f == (float)((l + 3) % 32));
      assert_true(out[l].d == 7e100);
      assert_true(out[l].l == (int64_t)(l ^ 16) << 40);
      assert_int_equal(out[l].down, l % 8 + 3 < 8 ? l + 3 : l);
      assert_int_equal(out[l].up, l % 8 >= 3 ? l - 3 : l);
      assert_int_equal(out[l].x, l ^ 5);
      assert_int_equal(out[l].part, l < 16 ? 2 : 18);
    }
  });
}

struct Votes {
  uint32_t ballot, any_of, add, least, most, conj, disj, parity, match_all, active;
  int any, all, imin, imax, same;
};
__global__ void vote_kernel(Votes *out) {
  const unsigned lane = threadIdx.x;
  const uint32_t mask = 0x00ffffffu;
  if (lane >= 24) return;
  Votes v;
  v.ballot = __ballot_sync(mask, lane % 3 == 0);
  v.any = __any_sync(mask, lane == 9);
  v.all = __all_sync(mask, lane < 24);
  v.any_of = __match_any_sync(mask, lane / 4);
  v.match_all = __match_all_sync(mask, lane / 32, &v.same);
  v.add = __reduce_add_sync(mask, lane);
  v.least = __reduce_min_sync(mask, lane + 5u);
  v.most = __reduce_max_sync(mask, lane + 5u);
  v.imin = __reduce_min_sync(mask, 3 - (int)lane);
  v.imax = __reduce_max_sync(mask, 3 - (int)lane);
  v.conj = __reduce_and_sync(mask, lane | 64);
  v.disj = __reduce_or_sync(mask, lane);
  v.parity = __reduce_xor_sync(mask, lane);
  out[lane] = v;
}

static void test_votes(void **) {
  Orders().each([] {
    std::vector<Votes> out(24);
    CU_LAUNCH(vote_kernel, 1, 32, 0, 0, out.data());
    for (unsigned l = 0; l < 24; l++) {
      const Votes &v = out[l];
      assert_int_equal(v.ballot, 0x249249);
      assert_true(v.any && v.all && v.same);
      assert_int_equal(v.any_of, 0xfu << l / 4 * 4);
      assert_int_equal(v.match_all, 0xffffff);
      assert_int_equal(v.add, 276);
      assert_int_equal(v.least, 5);
      assert_int_equal(v.most, 28);
      assert_int_equal(v.imin, -20);
      assert_int_equal(v.imax, 3);
      assert_int_equal(v.conj, 64);
      assert_int_equal(v.disj, 31);
      assert_int_equal(v.parity, 0);
    }
  });
}

/* Threads leave one after the other; the barrier counts those who are left. */
__global__ void barrier_kernel(int *out) {
  CU_SHARED(int, turn, 1);
  const int t = (int)threadIdx.x;
  if (t == 0) turn[0] = 0;
  const int n_odd = __syncthreads_count(t & 1), some = __syncthreads_or(t == 77),
            every = __syncthreads_and(t != 77);
  if (t >= 64) return;
  const int left = __syncthreads_count(1);
  if (t < 32) {
    __syncwarp();
    atomicAdd(&turn[0], 1);
    cu_bar_arrive(3, 64); /* the first warp does not wait for the second */
  } else {
    cu_bar_sync(3, 64);
    out[t - 32] = turn[0] * 1000 + left + n_odd * 100000 + some * 10000000 + every * 20000000;
  }
}

static void test_barriers(void **) {
  Orders().each([] {
    std::vector<int> out(32, -1);
    CU_LAUNCH(barrier_kernel, 1, 96, 0, 0, out.data());
    for (int v : out) assert_int_equal(v, 32 * 1000 + 64 + 48 * 100000 + 10000000);
  });
}

__global__ void poison_kernel(uint32_t *out) {
  CU_SHARED(uint32_t, s, 4);
  CU_DYN_SHARED(uint32_t, d);
  out[blockIdx.x * 2] = s[3];
  out[blockIdx.x * 2 + 1] = d[9];
  s[3] = d[9] = 1;
}

static void test_poison(void **) {
  uint32_t out[4] = {0, 0, 0, 0};
  CU_LAUNCH(poison_kernel, 2, 1, 40, 0, out);
  for (uint32_t v : out) assert_int_equal(v, 0xffffffffu);
}

/* Two groups under way; after wait<1> the first has landed, the second has not. */
__global__ void copy_kernel(const uint32_t *in, uint32_t *out, bool pred) {
  CU_SHARED(uint32_t, s, 8);
  cu_cp_async16(s, in, true);
  cu_cp_async_commit();
  cu_cp_async4(s + 4, in + 4, true);
  cu_cp_async8(s + 6, in + 6, pred);
  cu_cp_async_commit();
  cu_cp_async_wait<1>();
  out[0] = s[3];
  out[1] = s[4];
  cu_cp_async_wait_all();
  for (int i = 0; i < 8; i++) out[2 + i] = s[i];
}

static void test_copies(void **) {
  alignas(16) const uint32_t in[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  for (int pred = 0; pred < 2; pred++) {
    uint32_t out[10];
    CU_LAUNCH(copy_kernel, 1, 1, 0, 0, in, out, pred != 0);
    assert_int_equal(out[0], 4);
    assert_int_equal(out[1], ~0u); /* late: not there yet */
    const uint32_t want[8] = {1, 2, 3, 4, 5, ~0u, pred ? 7u : 0u, pred ? 8u : 0u};
    assert_memory_equal(out + 2, want, sizeof want);
  }
}

struct Atoms {
  int i, least;
  unsigned u, most, bits, wrap;
  unsigned long long l;
  float f;
  double d;
};
__global__ void atomic_kernel(Atoms *g, unsigned *count, unsigned *seen) {
  CU_SHARED(unsigned, s, 1);
  const int t = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  if (threadIdx.x == 0) s[0] = 0;
  __syncthreads();
  atomicAdd(&g->i, -2);
  atomicMin(&g->least, 5 - t);
  atomicAdd(&g->u, 3u);
  atomicMax(&g->most, (unsigned)t);
  atomicOr(&g->bits, 1u << (t % 32));
  atomicSub(&g->wrap, 1u);
  atomicAdd(&g->l, 1ull << 33);
  atomicAdd(&g->f, 0.5f);
  atomicAdd(&g->d, 0.25);
  atomicAdd(s, 1u);
  unsigned old = *(volatile unsigned *)count;
  for (unsigned got; (got = atomicCAS(count, old, old + 1)) != old;) old = got;
  __syncthreads();
  if (threadIdx.x == 0) seen[blockIdx.x] = atomicExch(s, 0u);
}

static void test_atomics(void **) {
  Orders o;
  o.each([] {
    for (int threads = 1; threads <= 2; threads++) {
      emu_config_of()->threads = threads;
      Atoms a = {100, 0, 0, 0, 0, 0, 0, 0, 0};
      unsigned count = 0, seen[4] = {0, 0, 0, 0};
      CU_LAUNCH(atomic_kernel, 4, 64, 0, 0, &a, &count, seen);
      assert_int_equal(a.i, 100 - 512);
      assert_int_equal(a.least, 5 - 255);
      assert_int_equal(a.u, 768);
      assert_int_equal(a.most, 255);
      assert_int_equal(a.bits, ALL);
      assert_int_equal(a.wrap, (uint32_t)-256);
      assert_true(a.l == 256ull << 33);
      assert_true(a.f == 128 && a.d == 64);
      assert_int_equal(count, 256);
      for (unsigned n : seen) assert_int_equal(n, 64);
    }
  });
}

/* A grid-wide barrier in a spin loop, twice. */
__global__ void grid_kernel(unsigned *arrived, unsigned *value, unsigned *out) {
  for (unsigned round = 1; round <= 2; round++) {
    if (threadIdx.x == 0) {
      value[blockIdx.x] = round * 10 + blockIdx.x;
      cu_add_release(arrived, 1u);
      while (cu_ld_acquire(arrived) < round * gridDim.x) cu_spin();
      unsigned sum = 0;
      for (unsigned b = 0; b < gridDim.x; b++) sum += value[b];
      out[(round - 1) * gridDim.x + blockIdx.x] = sum;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      cu_add_release(arrived + 1, 1u); /* nobody may write its next value before all have read */
      while (cu_ld_acquire(arrived + 1) < round * gridDim.x) cu_spin();
    }
    __syncthreads();
  }
}

static void test_cooperative(void **) {
  Orders().each([] {
    unsigned arrived[2] = {0, 0}, value[5], out[10];
    CU_LAUNCH_COOP(grid_kernel, 5, 64, 0, 0, arrived, value, out);
    for (int i = 0; i < 10; i++) assert_int_equal(out[i], (i < 5 ? 50 : 100) + 10);
  });
}

struct Late {
  int *out;
  int add;
};
__global__ void late_kernel(Late a, const short k) { a.out[0] += a.add * k; }

static std::vector<std::function<void()>> queued;

static void test_hook(void **) {
  int out = 0;
  Late args = {&out, 7};
  const Late *p = &args;
  short k = 3;
  emu::launch_hook = [](void *, std::function<void()> work) { queued.push_back(work); };
  CU_LAUNCH(late_kernel, 1, 1, 0, 0, *p, k);
  args.add = k = 100; /* what was launched has its own copy */
  emu::launch_hook = nullptr;
  assert_int_equal(queued.size(), 1);
  assert_int_equal(out, 0);
  queued[0]();
  queued[0](); /* a recorded graph runs again and again */
  assert_int_equal(out, 42);
  queued.clear();
}

__global__ void nothing_kernel(int) {}
__global__ void greedy_kernel(int) {}

static void test_bad_launches(void **) {
  (void)CU_LAUNCH_STATUS();
  CU_LAUNCH(nothing_kernel, 1, 1025, 0, 0, 0);
  assert_int_equal(CU_LAUNCH_STATUS(), cudaErrorInvalidConfiguration);
  assert_int_equal(CU_LAUNCH_STATUS(), cudaSuccess);
  CU_LAUNCH(nothing_kernel, 0, 32, 0, 0, 0);
  assert_int_equal(CU_LAUNCH_STATUS(), cudaErrorInvalidConfiguration);
  CU_LAUNCH(nothing_kernel, dim3(1, 65536), 32, 0, 0, 0);
  assert_int_equal(CU_LAUNCH_STATUS(), cudaErrorInvalidConfiguration);
  CU_LAUNCH(nothing_kernel, 1, 32, 48 * 1024, 0, 0);
  assert_int_equal(CU_LAUNCH_STATUS(), cudaSuccess);
  CU_LAUNCH(greedy_kernel, 1, 32, 48 * 1024 + 1, 0, 0);
  assert_int_not_equal(CU_LAUNCH_STATUS(), cudaSuccess);
  assert_int_equal(cu_allow_smem(greedy_kernel, 100 * 1024), cudaSuccess);
  CU_LAUNCH(greedy_kernel, 1, 32, 100 * 1024, 0, 0);
  assert_int_equal(CU_LAUNCH_STATUS(), cudaSuccess);
  CU_LAUNCH(greedy_kernel, 1, 32, 100 * 1024 + 1, 0, 0);
  assert_int_not_equal(CU_LAUNCH_STATUS(), cudaSuccess);
  assert_int_not_equal(cu_allow_smem(greedy_kernel, 228 * 1024), cudaSuccess);
}

/* One 64 x 64 tile product by TMA and wgmma, two k tiles through one buffer each; `bug` leaves something out.
 */
enum HopperBug { NO_BUG, NO_WGMMA_WAIT, NO_MBAR_WAIT, NO_EXPECT };
CU_DEV uint64_t tile_desc(const void *p) {
  return (uint64_t)((cu_saddr(p) & 0x3ffff) >> 4) | 1ull << 16 | (uint64_t)(1024 >> 4) << 32 | 1ull << 62;
}
__global__ void hopper_kernel(const CUtensorMap ma, const CUtensorMap mb, float *out, int bug) {
  CU_DYN_SHARED(unsigned char, tiles);
  CU_SHARED(uint64_t, full, 2);
  const int tid = (int)threadIdx.x, lane = tid & 31;
  if (tid == 0) {
    cu_mbar_init(full, 1);
    cu_mbar_init(full + 1, 1);
    cu_mbar_fence_init();
  }
  __syncthreads();
  if (tid == 0) {
    for (int k = 0; k < 2; k++) {
      if (bug != NO_EXPECT) cu_mbar_expect_tx(full + k, 2 * 8192);
      cu_tma_load_2d(tiles + k * 16384, &ma, full + k, k * 64, 0);
      cu_tma_load_2d(tiles + k * 16384 + 8192, &mb, full + k, k * 64, 0);
    }
  }
  float acc[32];
  for (int i = 0; i < 32; i++) acc[i] = 0;
  for (int k = 0; k < 2; k++) {
    if (bug != NO_MBAR_WAIT) cu_mbar_wait(full + k, 0);
    const uint64_t a = tile_desc(tiles + k * 16384), b = tile_desc(tiles + k * 16384 + 8192);
    cu_wgmma_fence();
    for (int i = 0; i < 4; i++) cu_wgmma_m64n64k16_bf16(acc, a + (uint64_t)i * 2, b + (uint64_t)i * 2, 1);
    cu_wgmma_commit();
  }
  if (bug != NO_WGMMA_WAIT) cu_wgmma_wait<0>();
  for (int i = 0; i < 32; i++) {
    const int m = (tid >> 5) * 16 + (lane >> 2) + (i >> 1 & 1) * 8,
              n = (i >> 2) * 8 + (lane & 3) * 2 + (i & 1);
    out[m * 64 + n] = acc[i];
  }
}

static std::vector<float> run_hopper(const std::vector<bf16> &a, const std::vector<bf16> &b, int rows,
                                     int bug) {
  CUtensorMap ma, mb;
  assert_int_equal(cu_tmap_2d(&ma, a.data(), 128, (uint64_t)rows, 64, 64), 0);
  assert_int_equal(cu_tmap_2d(&mb, b.data(), 128, 64, 64, 64), 0);
  std::vector<float> out(64 * 64, NAN);
  CU_LAUNCH(hopper_kernel, 1, 128, 32768, 0, ma, mb, out.data(), bug);
  return out;
}

static void test_hopper(void **) {
  const int rows = 50; /* of 64: the rest of the box is zeros */
  std::vector<bf16> a(64 * 128), b(64 * 128);
  for (size_t i = 0; i < a.size(); i++) {
    a[i] = f2bf((float)((int)(i * 7 % 13) - 6));
    b[i] = f2bf((float)((int)(i * 5 % 11) - 5));
  }
  Orders().each([&] {
    const std::vector<float> out = run_hopper(a, b, rows, NO_BUG);
    for (int m = 0; m < 64; m++) {
      for (int n = 0; n < 64; n++) {
        float want = 0; /* small integers: exact */
        for (int k = 0; k < 128 && m < rows; k++) want += bf2f(a[m * 128 + k]) * bf2f(b[n * 128 + k]);
        assert_true(out[m * 64 + n] == want);
      }
    }
  });
  expect("without having waited for its wgmma", [&] { run_hopper(a, b, rows, NO_WGMMA_WAIT); });
  expect("nobody can run", [&] { run_hopper(a, b, rows, NO_EXPECT); });
  const std::vector<float> early = run_hopper(a, b, rows, NO_MBAR_WAIT);
  assert_true(std::any_of(early.begin(), early.end(), [](float v) { return v != v; }));
}

static void test_memory(void **) {
  unsigned char *p = (unsigned char *)emu_mem_alloc(1000);
  assert_non_null(p);
  assert_int_equal((uintptr_t)p % 256, 0);
  for (int i = 0; i < 1000; i++) assert_int_equal(p[i], 0xff);
  assert_int_equal(emu_mem_size(p), 1000);
  assert_int_equal(emu_mem_size(p + 999), 1);
  assert_int_equal(emu_mem_size(p + 1000), 0);
  assert_int_equal(emu_mem_free(p + 1), -1);
  assert_int_equal(emu_mem_free(p), 0);
  assert_int_equal(emu_mem_free(p), -1);
}

static void test_stats(void **) {
  Shuffles out[32];
  (void)emu_stats_take();
  CU_LAUNCH(shuffle_kernel, 1, 32, 0, 0, out);
  const emu_stats s = emu_stats_take();
  assert_int_equal(s.launches, 1);
  assert_int_equal(s.blocks, 1);
  assert_int_equal(s.threads, 32);
  assert_int_equal(s.collectives, 6 + 2);
}

/* --- errors, each by its name */

enum Misuse {
  DIVERGENT_OPS,
  DIVERGENT_PLACES,
  NOT_IN_MASK,
  SOURCE_OUTSIDE,
  EXITED_IN_MASK,
  MISSING_LANE,
  BAD_WIDTH,
  LDMATRIX_MISALIGNED,
  LDMATRIX_OUTSIDE,
  COPY_MISALIGNED,
  COPY_SOURCE_MISALIGNED,
  COPY_OUTSIDE,
  COPY_NOT_WAITED,
  COPY_NOT_COMMITTED,
  LOAD_MISALIGNED,
  STORE_MISALIGNED,
  STORE_OUTSIDE,
  ATOMIC_OUTSIDE,
  DIVERGENT_BARRIER,
  BARRIER_ODD,
  BARRIER_DISAGREES,
  HALF_BARRIER,
  STATIC_TOO_BIG,
  LOAD_PAST,
  STORE_PAST,
  COPY_PAST,
  SPINS
};
__global__ void misuse_kernel(int what, char *mem) {
  CU_SHARED(uint4, s, 8);
  CU_DYN_SHARED(char, dyn);
  const int lane = (int)threadIdx.x & 31;
  uint32_t r[4];
  int v = lane;
  switch (what) {
    case DIVERGENT_OPS:
      if (lane < 16)
        __syncwarp();
      else
        v = __shfl_sync(ALL, lane, 0);
      break;
    case DIVERGENT_PLACES:
      if (lane < 16)
        v = __shfl_sync(ALL, lane, 0);
      else
        v = __shfl_sync(ALL, lane, 1);
      break;
    case NOT_IN_MASK: __syncwarp(0xffffu); break;
    case SOURCE_OUTSIDE:
      if (lane < 16) v = __shfl_sync(0xffffu, lane, 20);
      break;
    case EXITED_IN_MASK: /* in any order: the others wait until it has gone */
      if (lane == 3) return;
      __syncwarp(ALL & ~8u);
      __syncwarp();
      break;
    case MISSING_LANE: v = __shfl_sync(ALL, lane, 0); break; /* launched with 24 threads */
    case BAD_WIDTH: v = __shfl_sync(ALL, lane, 0, 5); break;
    case LDMATRIX_MISALIGNED: cu_ldmatrix_x4(r, (char *)s + 8); break;
    case LDMATRIX_OUTSIDE: cu_ldmatrix_x4(r, dyn + 112 + 16 * lane); break;
    case COPY_MISALIGNED: cu_cp_async16((char *)s + 4, mem, true); break;
    case COPY_SOURCE_MISALIGNED: cu_cp_async8(s, mem + 4, true); break;
    case COPY_OUTSIDE: cu_cp_async16(dyn + 128, mem, true); break;
    case COPY_NOT_WAITED:
      cu_cp_async16(s, mem, true);
      cu_cp_async_commit();
      cu_cp_async_wait<1>();
      break;
    case COPY_NOT_COMMITTED:
      cu_cp_async16(s, mem, true);
      cu_cp_async_wait<0>();
      break;
    case LOAD_MISALIGNED: cu_st16(mem, cu_ldg16(mem + 8)); break;
    case STORE_MISALIGNED: cu_st8(mem + 4, make_uint2(0, 0)); break;
    case STORE_OUTSIDE: cu_st16(s + 8, make_uint4(0, 0, 0, 0)); break;
    case ATOMIC_OUTSIDE: atomicAdd((int *)(dyn + 128), 1); break;
    case DIVERGENT_BARRIER:
      if (lane < 16)
        __syncthreads();
      else
        __syncthreads();
      break;
    case BARRIER_ODD: cu_bar_sync(1, 40); break;
    case BARRIER_DISAGREES: cu_bar_sync(1, threadIdx.x < 32 ? 64 : 96); break;
    case HALF_BARRIER:
      if (threadIdx.x < 32) cu_bar_sync(2, 64);
      break;
    case STATIC_TOO_BIG: {
      CU_SHARED(char, big, 48 * 1024);
      big[0] = 1;
      break;
    }
    case LOAD_PAST: cu_st4(mem, cu_ldg16(mem + 256).x); break;
    case STORE_PAST: cu_st4(mem - 4, 1); break;
    case COPY_PAST: cu_cp_async16(s, mem + 256, true); break;
    default:
      while (cu_ld_acquire((unsigned *)mem) != 1) cu_spin();
  }
  if (v < 0) mem[0] = 1;
}

static void test_errors(void **) {
  static const struct {
    Misuse what;
    int threads;
    const char *want;
  } row[] = {
      {DIVERGENT_OPS, 32, "divergent collective"},
      {DIVERGENT_PLACES, 32, "divergent collective"},
      {NOT_IN_MASK, 32, "the calling lane is not in its mask"},
      {SOURCE_OUTSIDE, 32, "reads lane 20, which is not in mask 0000ffff"},
      {EXITED_IN_MASK, 32, "lanes that have exited"},
      {MISSING_LANE, 24, "lanes that have exited or never were"},
      {BAD_WIDTH, 32, "width 5"},
      {LDMATRIX_MISALIGNED, 32, "ldmatrix.x4: row address is not a multiple of 16"},
      {LDMATRIX_OUTSIDE, 32, "ldmatrix.x4: row address is outside of shared memory"},
      {COPY_MISALIGNED, 32, "cp.async of 16 bytes is misaligned"},
      {COPY_SOURCE_MISALIGNED, 32, "cp.async of 8 bytes is misaligned"},
      {COPY_OUTSIDE, 32, "cp.async writes outside of shared memory"},
      {COPY_NOT_WAITED, 32, "without having waited for 1 cp.async"},
      {COPY_NOT_COMMITTED, 32, "without having waited for 1 cp.async"},
      {LOAD_MISALIGNED, 32, "load of 16 bytes is misaligned"},
      {STORE_MISALIGNED, 32, "store of 8 bytes is misaligned"},
      {STORE_OUTSIDE, 32, "store outside of shared memory"},
      {ATOMIC_OUTSIDE, 32, "atomic outside of shared memory"},
      {DIVERGENT_BARRIER, 32, "divergent barrier"},
      {BARRIER_ODD, 64, "must be a multiple of 32"},
      {BARRIER_DISAGREES, 96, "others wait for"},
      {HALF_BARRIER, 64,
       "deadlock: nobody can run; block 0 warp 0: 32 lanes from thread 0 in cu_bar_sync at "},
      {STATIC_TOO_BIG, 32, "is over 48 KB"},
      {LOAD_PAST, 32, "read of 16 bytes at offset 256 of a device allocation of 256"},
      {STORE_PAST, 32, "write of 4 bytes at offset -4 of a device allocation of 256"},
      {COPY_PAST, 32, "read of 16 bytes at offset 256 of a device allocation of 256"},
      {SPINS, 32, "livelock"},
  };
  Orders o;
  emu_config_of()->spin_limit = 1000;
  o.each([] {
    for (const auto &r : row) {
      char *mem = (char *)emu_mem_alloc(256);
      expect(r.want, [&] { CU_LAUNCH(misuse_kernel, 1, r.threads, 128, 0, (int)r.what, mem); });
      expect("kernel misuse_kernel: ",
             [&] { CU_LAUNCH(misuse_kernel, 1, r.threads, 128, 0, (int)r.what, mem); });
      assert_int_equal(emu_mem_free(mem), 0);
    }
  });
  /* After all of these a correct kernel runs as ever. */
  uint32_t out[30];
  CU_LAUNCH(indices_kernel, 1, 30, 0, 0, out);
  assert_int_equal(out[29], 29);
}

/* --- planted bugs: values or errors must tell, in at least one order */

enum Plant { CORRECT, NO_COPY_WAIT, WAIT_TOO_FEW, NO_BARRIER, WRONG_TAIL_MASK, TAIL_UNGUARDED };
/* Sums rows of n floats: copies through shared memory, a tree in the block, blocks of 64 threads. */
template <int BUG>
__global__ void sum_kernel(const float *x, float *out, int n) {
  CU_SHARED(float, tile, 128);
  CU_SHARED(float, part, 2);
  const int t = (int)threadIdx.x, tiles = (n + 63) / 64;
  float sum = 0;
  for (int k = 0; k < tiles + 1; k++) {
    if (k < tiles) {
      const int i = k * 64 + t;
      const bool inside = BUG == TAIL_UNGUARDED || i < n;
      cu_cp_async4(&tile[k % 2 * 64 + t], x + (inside ? i : 0), inside);
    }
    cu_cp_async_commit();
    if (!k) continue;
    if (BUG == WAIT_TOO_FEW)
      cu_cp_async_wait<2>();
    else if (BUG != NO_COPY_WAIT)
      cu_cp_async_wait<1>();
    __syncthreads();
    sum += tile[(k - 1) % 2 * 64 + (t ^ 33)]; /* another thread's */
    __syncthreads();
  }
  cu_cp_async_wait<0>();
  if (BUG == WRONG_TAIL_MASK) {
    for (int o = 16; o; o >>= 1)
      if (t % 32 < 16) sum += __shfl_xor_sync(0xffffu, sum, o);
  } else {
    for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(ALL, sum, o);
  }
  if (t % 32 == 0) part[t / 32] = sum;
  if (BUG != NO_BARRIER) __syncthreads();
  out[t] = part[0] + part[1];
}

/* "" when all orders give the right sums; otherwise how the bug showed. */
template <int BUG>
static std::string plant() {
  std::string how;
  Orders().each([&] {
    const int n = 300;
    float *x = (float *)emu_mem_alloc(n * sizeof(float));
    float want = 0;
    for (int i = 0; i < n; i++) want += x[i] = (float)(i % 17 - 5);
    float out[64];
    std::fill(out, out + 64, NAN);
    auto f = [&] { CU_LAUNCH(sum_kernel<BUG>, 1, 64, 0, 0, x, out, n); };
    const std::string error = emu_expect_error([](void *p) { (*(decltype(f) *)p)(); }, &f);
    if (!error.empty()) {
      how += error + "; ";
    } else {
      for (float v : out)
        if (!(v == want)) {
          how += "values; ";
          break;
        }
    }
    assert_int_equal(emu_mem_free(x), 0);
  });
  return how;
}

static void test_planted_bugs(void **) {
  const struct {
    std::string how;
    const char *want;
  } row[] = {
      {plant<NO_COPY_WAIT>(), "values"},
      {plant<WAIT_TOO_FEW>(), "values"},
      {plant<NO_BARRIER>(), "values"},
      {plant<WRONG_TAIL_MASK>(), "reads lane"},
      {plant<TAIL_UNGUARDED>(), "read of 4 bytes at offset 1200 of a device allocation of 1200"},
  };
  assert_string_equal(plant<CORRECT>().c_str(), "");
  for (const auto &r : row) {
    if (r.how.find(r.want) != std::string::npos) continue;
    print_error("planted bug %td: want \"%s\", got \"%s\"\n", &r - row, r.want, r.how.c_str());
    fail();
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_indices),      cmocka_unit_test(test_shuffles),
      cmocka_unit_test(test_votes),        cmocka_unit_test(test_barriers),
      cmocka_unit_test(test_poison),       cmocka_unit_test(test_copies),
      cmocka_unit_test(test_atomics),      cmocka_unit_test(test_cooperative),
      cmocka_unit_test(test_hook),         cmocka_unit_test(test_bad_launches),
      cmocka_unit_test(test_hopper),       cmocka_unit_test(test_memory),
      cmocka_unit_test(test_stats),        cmocka_unit_test(test_errors),
      cmocka_unit_test(test_planted_bugs),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
