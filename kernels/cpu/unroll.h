/* SPDX-License-Identifier: Apache-2.0 */
/* How the files of the linear with vectors and tiles have their bodies unrolled. Included by those alone. */
#ifndef WEIR_KERNELS_CPU_UNROLL_H
#define WEIR_KERNELS_CPU_UNROLL_H

/* WEIR_PLAIN_TILES (sanitized builds): one body with loops instead of one unrolled body for each m and g.
 * Same arithmetic; with checks around every access the unrolled ones take minutes to compile. */
#ifdef WEIR_PLAIN_TILES
#define INLINE static __attribute__((noinline, unused))
#define UNROLL
#else
#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#endif

#endif
