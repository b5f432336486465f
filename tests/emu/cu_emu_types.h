/* SPDX-License-Identifier: Apache-2.0 */
/* CUDA's types and qualifiers as plain C++. Vector types have CUDA's sizes and alignments, so that a
 * misaligned vector access is as wrong here as there. */
#ifndef WEIR_TESTS_EMU_CU_EMU_TYPES_H
#define WEIR_TESTS_EMU_CU_EMU_TYPES_H
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "include/cuda_runtime_api.h"

#define __global__
#define __device__
#define __host__
#define __constant__    static const
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__
#define CU_DEV static inline

struct alignas(4) char4 {
  signed char x, y, z, w;
};
struct alignas(4) uchar4 {
  unsigned char x, y, z, w;
};
struct alignas(4) short2 {
  short x, y;
};
struct alignas(4) ushort2 {
  unsigned short x, y;
};
struct alignas(8) short4 {
  short x, y, z, w;
};
struct alignas(8) ushort4 {
  unsigned short x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct int3 {
  int x, y, z;
};
struct uint3 {
  unsigned x, y, z;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct float3 {
  float x, y, z;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(16) longlong2 {
  long long x, y;
};
struct alignas(16) ulonglong2 {
  unsigned long long x, y;
};

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

static inline short2 make_short2(short x, short y) { return {x, y}; }
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline double2 make_double2(double x, double y) { return {x, y}; }

typedef uint16_t bf16; /* storage of a bfloat16 */
typedef uint16_t f16;  /* storage of an IEEE binary16 */

/* A 2-D tensor map: what cuTensorMapEncodeTiled is told, unpacked. */
struct CUtensorMap {
  const char *base = nullptr;
  uint64_t dim[2] = {0, 0}, stride = 0; /* elements, bytes */
  uint32_t box[2] = {0, 0}, elem_bytes = 0;
  int swizzle = 0; /* 128-byte swizzle */
};
#endif
