/* SPDX-License-Identifier: Apache-2.0 */
/* The one header that kernels include. Under nvcc: thin wrappers of PTX. Under another compiler: the emulator
 * of tests/emu, which runs the same source on the CPU. Every instruction that C++ has no word for is a
 * wrapper here, with its line in tests/emu/conf.cu, which compares the two.
 *
 * Instructions and fragment layouts: PTX ISA 8.x, sections named at each group. Packed pairs (x2) are a
 * uint32_t, low half first. Shared memory: CU_SHARED(type, name, n) and CU_DYN_SHARED(type, name). */
#ifndef WEIR_KERNELS_CUDA_CU_H
#define WEIR_KERNELS_CUDA_CU_H
#if !defined(__CUDACC__)
#include <cu_emu.h> /* IWYU pragma: export */
#else
#include <cuda.h>
#include <cuda_runtime.h>
#include <stdint.h>

#define CU_DEV                __device__ __forceinline__
/* 16: halves are also read and written 16 bytes at a time. */
#define CU_SHARED(T, name, n) __shared__ __align__(16) T name[n]
/* 1024: what 128-byte swizzled TMA tiles ask for. */
#define CU_DYN_SHARED(T, name)                                    \
  extern __shared__ __align__(1024) unsigned char cu_dyn_smem_[]; \
  T *name = reinterpret_cast<T *>(cu_dyn_smem_)

#define CU_LAUNCH(kern, grid, block, smem, stream, ...) kern<<<grid, block, smem, stream>>>(__VA_ARGS__)
/* All blocks resident at once: grid-wide barriers. */
#define CU_LAUNCH_COOP(kern, grid, block, smem, stream, ...)                    \
  do {                                                                          \
    cudaLaunchConfig_t cu_cfg_ = {dim3(grid), dim3(block), smem, stream, 0, 0}; \
    cudaLaunchAttribute cu_attr_[1];                                            \
    cu_attr_[0].id = cudaLaunchAttributeCooperative;                            \
    cu_attr_[0].val.cooperative = 1;                                            \
    cu_cfg_.attrs = cu_attr_;                                                   \
    cu_cfg_.numAttrs = 1;                                                       \
    (void)cudaLaunchKernelEx(&cu_cfg_, kern, __VA_ARGS__);                      \
  } while (0)
/* What the launches since the last call came to; a launcher returns it. */
#define CU_LAUNCH_STATUS() cudaGetLastError()
/* Opts a kernel in to more than 48 KB of dynamic shared memory. */
template <class... P>
static inline cudaError_t cu_allow_smem(void (*kernel)(P...), size_t bytes) {
  return cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
}

typedef uint16_t bf16; /* storage of a bfloat16 */
typedef uint16_t f16;  /* storage of an IEEE binary16 */

CU_DEV uint32_t cu_saddr(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

/* --- 16-bit floats (PTX: cvt, fma/add/mul .f16x2 and .bf16x2) */
CU_DEV float bf2f(bf16 x) { return __uint_as_float((uint32_t)x << 16); }
CU_DEV float bf2lo(uint32_t x) { return __uint_as_float(x << 16); }
CU_DEV float bf2hi(uint32_t x) { return __uint_as_float(x & 0xffff0000u); }
CU_DEV uint32_t f2bf2(float lo, float hi) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
  return r;
}
CU_DEV bf16 f2bf(float x) { return (bf16)f2bf2(x, 0.f); }
CU_DEV float h2f(f16 x) {
  float r;
  asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(x));
  return r;
}
CU_DEV float h2lo(uint32_t x) { return h2f((f16)x); }
CU_DEV float h2hi(uint32_t x) { return h2f((f16)(x >> 16)); }
CU_DEV uint32_t f2h2(float lo, float hi) {
  uint32_t r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
  return r;
}
CU_DEV f16 f2h(float x) {
  f16 r;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(x));
  return r;
}
CU_DEV uint32_t cu_h2fma(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
CU_DEV uint32_t cu_h2add(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
CU_DEV uint32_t cu_h2sub(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
CU_DEV uint32_t cu_h2mul(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
CU_DEV uint32_t cu_bf2fma(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
/* mul and add of bf16x2 are sm_90; as a fused multiply-add with -0 or 1 they are exact on sm_80 too. */
CU_DEV uint32_t cu_bf2mul(uint32_t a, uint32_t b) { return cu_bf2fma(a, b, 0x80008000u); }
CU_DEV uint32_t cu_bf2add(uint32_t a, uint32_t b) { return cu_bf2fma(a, 0x3f803f80u, b); }

/* a & b | c as one LOP3 (PTX: lop3), which the compiler makes two of when b and c are constants. */
CU_DEV uint32_t cu_and_or(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

/* x, of which the compiler knows nothing any more: it computes what follows as it is written. */
CU_DEV int cu_opaque(int x) {
  asm("" : "+r"(x));
  return x;
}

/* --- approximations; subnormals are zero (PTX: ex2, lg2, rcp, tanh .approx) */
CU_DEV float cu_exp2(float x) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
CU_DEV float cu_log2(float x) {
  float r;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
CU_DEV float cu_rcp(float x) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
CU_DEV float cu_tanh(float x) {
  float r;
  asm("tanh.approx.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}

/* --- loads and stores (PTX: ld.global.nc, cache eviction hints, createpolicy) */
/* Data that is read once, such as weights: first out of L2, never in L1. */
CU_DEV uint64_t cu_policy_stream() {
  uint64_t p;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(p));
  return p;
}
CU_DEV uint32_t cu_ldg4(const void *p) {
  uint32_t v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.u32 %0, [%1], %2;"
               : "=r"(v)
               : "l"(__cvta_generic_to_global(p)), "l"(cu_policy_stream()));
  return v;
}
CU_DEV uint2 cu_ldg8(const void *p) {
  uint2 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v2.u32 {%0, %1}, [%2], %3;"
               : "=r"(v.x), "=r"(v.y)
               : "l"(__cvta_generic_to_global(p)), "l"(cu_policy_stream()));
  return v;
}
CU_DEV uint4 cu_ldg16(const void *p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 {%0, %1, %2, %3}, [%4], %5;"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(__cvta_generic_to_global(p)), "l"(cu_policy_stream()));
  return v;
}
CU_DEV uint4 cu_lds16(const void *p) { return *(const uint4 *)p; }
CU_DEV void cu_st4(void *p, uint32_t v) { *(uint32_t *)p = v; }
CU_DEV void cu_st8(void *p, uint2 v) { *(uint2 *)p = v; }
CU_DEV void cu_st16(void *p, uint4 v) { *(uint4 *)p = v; }

/* --- asynchronous copies, global to shared; zeros when !pred, and then src is not read (PTX: cp.async) */
CU_DEV void cu_cp_async4(void *dst, const void *src, bool pred) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(cu_saddr(dst)), "l"(src),
               "r"(pred ? 4 : 0)
               : "memory");
}
CU_DEV void cu_cp_async8(void *dst, const void *src, bool pred) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(cu_saddr(dst)), "l"(src),
               "r"(pred ? 8 : 0)
               : "memory");
}
CU_DEV void cu_cp_async16(void *dst, const void *src, bool pred) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(cu_saddr(dst)), "l"(src),
               "r"(pred ? 16 : 0)
               : "memory");
}
CU_DEV void cu_cp_async16_stream(void *dst, const void *src, bool pred) {
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(cu_saddr(dst)),
               "l"(src), "r"(pred ? 16 : 0), "l"(cu_policy_stream())
               : "memory");
}
CU_DEV void cu_cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/* Until at most N groups of this thread are under way. */
template <int N>
CU_DEV void cu_cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
CU_DEV void cu_cp_async_wait_all() { asm volatile("cp.async.wait_all;" ::: "memory"); }

/* --- matrices (PTX: ldmatrix; matrix fragments for mma.m16n8k16 and m16n8k32) */
CU_DEV void cu_ldmatrix_x1(uint32_t *r, const void *p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
               : "=r"(r[0])
               : "r"(cu_saddr(p))
               : "memory");
}
CU_DEV void cu_ldmatrix_x1_trans(uint32_t *r, const void *p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
               : "=r"(r[0])
               : "r"(cu_saddr(p))
               : "memory");
}
CU_DEV void cu_ldmatrix_x2(uint32_t *r, const void *p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(cu_saddr(p))
               : "memory");
}
CU_DEV void cu_ldmatrix_x2_trans(uint32_t *r, const void *p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(cu_saddr(p))
               : "memory");
}
CU_DEV void cu_ldmatrix_x4(uint32_t *r, const void *p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(cu_saddr(p))
               : "memory");
}
CU_DEV void cu_ldmatrix_x4_trans(uint32_t *r, const void *p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(cu_saddr(p))
               : "memory");
}
/* d += a b, and d = a b: a is [16][k] in rows, b [k][8] in columns, d [16][8]. */
#define CU_MMA_(name, T, cons, shape, types)                                                   \
  CU_DEV void name(T d[4], const uint32_t a[4], const uint32_t b[2]) {                         \
    asm volatile("mma.sync.aligned." shape ".row.col." types                                   \
                 " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"            \
                 : "+" cons(d[0]), "+" cons(d[1]), "+" cons(d[2]), "+" cons(d[3])              \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));          \
  }                                                                                            \
  CU_DEV void name##_zero(T d[4], const uint32_t a[4], const uint32_t b[2]) {                  \
    const T z = 0;                                                                             \
    asm volatile("mma.sync.aligned." shape ".row.col." types                                   \
                 " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"        \
                 : "=" cons(d[0]), "=" cons(d[1]), "=" cons(d[2]), "=" cons(d[3])              \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), cons(z)); \
  }
CU_MMA_(cu_mma_bf16, float, "f", "m16n8k16", "f32.bf16.bf16.f32")
CU_MMA_(cu_mma_f16, float, "f", "m16n8k16", "f32.f16.f16.f32")
CU_MMA_(cu_mma_s8, int32_t, "r", "m16n8k32", "s32.s8.s8.s32")
#undef CU_MMA_

/* --- threads that meet (PTX: bar, ld.acquire, st.release, atom.acq_rel) */
/* Barrier id of n threads, a multiple of 32; 0 is __syncthreads'. */
CU_DEV void cu_bar_sync(int id, int n) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n) : "memory"); }
CU_DEV void cu_bar_arrive(int id, int n) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(n) : "memory"); }
CU_DEV unsigned cu_ld_acquire(const unsigned *p) {
  unsigned v;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
CU_DEV void cu_st_release(unsigned *p, unsigned v) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
CU_DEV unsigned cu_add_release(unsigned *p, unsigned v) {
  unsigned o;
  asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], %2;" : "=r"(o) : "l"(p), "r"(v) : "memory");
  return o;
}
/* Words that the host, or another device, reads and writes too (PTX: ld, st .sys). */
CU_DEV unsigned cu_ld_system(const unsigned *p) {
  unsigned v;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
CU_DEV void cu_st_system(unsigned *p, unsigned v) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
/* Nanoseconds of a clock that all SMs share; it ticks about once in a microsecond (PTX: %globaltimer). */
CU_DEV uint64_t cu_clock_ns() {
  uint64_t t;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t)::"memory");
  return t;
}
/* The body of every loop that waits for another thread's store. */
CU_DEV void cu_spin() { __nanosleep(20); }

/* --- Hopper (PTX: mbarrier, cp.async.bulk.tensor, wgmma); bodies under __CUDA_ARCH_FEAT_SM90_ALL */
CU_DEV void cu_mbar_init(uint64_t *b, int n) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(cu_saddr(b)), "r"(n) : "memory");
}
CU_DEV void cu_mbar_fence_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
CU_DEV void cu_mbar_arrive(uint64_t *b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(cu_saddr(b)) : "memory");
}
CU_DEV void cu_mbar_expect_tx(uint64_t *b, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(cu_saddr(b)), "r"(bytes)
               : "memory");
}
CU_DEV void cu_mbar_wait(uint64_t *b, int parity) {
  asm volatile(
      "{\n.reg .pred p;\nAGAIN: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra DONE;\n"
      "bra AGAIN;\nDONE:\n}" ::"r"(cu_saddr(b)),
      "r"(parity)
      : "memory");
}
CU_DEV void cu_tma_load_2d(void *d, const CUtensorMap *m, uint64_t *bar, int c0, int c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], "
      "[%2];" ::"r"(cu_saddr(d)),
      "l"(m), "r"(cu_saddr(bar)), "r"(c0), "r"(c1)
      : "memory");
}
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
CU_DEV void cu_wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
CU_DEV void cu_wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N>
CU_DEV void cu_wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
template <int R>
CU_DEV void cu_setmaxnreg_dec() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(R));
}
template <int R>
CU_DEV void cu_setmaxnreg_inc() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(R));
}
/* Both operands in shared memory, K-major, 128-byte swizzle. */
CU_DEV void cu_wgmma_m64n64k16_bf16(float d[32], uint64_t da, uint64_t db, int acc) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, %32, %33, p, 1, 1, 0, 0;\n}"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]),
        "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
        "+f"(d[30]), "+f"(d[31])
      : "l"(da), "l"(db), "r"(acc));
}
#endif
/* A bf16 row-major [h][w] matrix in boxes of [bh][bw], 128-byte swizzle. 0, or not. The entry point is asked
 * for at run time: a program linked to libcuda does not start on a machine without a driver. */
static inline int cu_tmap_2d(CUtensorMap *m, const void *p, uint64_t w, uint64_t h, uint32_t bw,
                             uint32_t bh) {
  typedef CUresult (*encode_fn)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                                const cuuint64_t *, const cuuint32_t *, const cuuint32_t *,
                                CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                                CUtensorMapFloatOOBfill);
  void *f = 0;
  cudaDriverEntryPointQueryResult q;
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &q) !=
          cudaSuccess ||
      !f)
    return 1;
  cuuint64_t dims[2] = {w, h}, strides[1] = {w * 2};
  cuuint32_t box[2] = {bw, bh}, steps[2] = {1, 1};
  return (int)((encode_fn)f)(m, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)p, dims, strides, box, steps,
                             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}
#endif
#endif
