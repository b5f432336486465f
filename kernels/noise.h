/* SPDX-License-Identifier: Apache-2.0 */
/* Counter-based noise of draws: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
 * SC 2011). A pure function of (seed, pos, purpose, token id): no state, no order, no tier, so that the same
 * position meets the same noise on every tier, device, batch and shard. Includable from C and CUDA. */
#ifndef WEIR_KERNELS_NOISE_H
#define WEIR_KERNELS_NOISE_H
#include <stdint.h>

#ifdef __CUDACC__
#define WEIR_HD __host__ __device__
#else
#define WEIR_HD
#endif

/* A draw and the redraw after a refused probe must not share noise, else the redraw would depend on what was
 * refused. RATIO: the number (of quad 0, the first) that the ratio of two probabilities is held against;
 * REST: the draw of what is left when it is refused. */
enum { WEIR_NOISE_DRAW = 0, WEIR_NOISE_AGAIN = 1, WEIR_NOISE_RATIO = 2, WEIR_NOISE_REST = 3 };

typedef struct weir_noise4 {
  uint32_t v[4];
} weir_noise4;

static inline WEIR_HD uint32_t weir_mulhi32(uint32_t a, uint32_t b) {
  return (uint32_t)(((uint64_t)a * b) >> 32);
}

/* The noise of token ids 4*quad .. 4*quad+3. */
static inline WEIR_HD weir_noise4 weir_noise_quad(uint64_t seed, int32_t pos, uint32_t purpose,
                                                  uint32_t quad) {
  uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
  uint32_t c0 = quad, c1 = (uint32_t)pos, c2 = purpose, c3 = 0x77656972u; /* "weir" */
  for (int r = 0; r < 10; r++) {
    const uint32_t h0 = weir_mulhi32(0xD2511F53u, c0), l0 = 0xD2511F53u * c0;
    const uint32_t h1 = weir_mulhi32(0xCD9E8D57u, c2), l1 = 0xCD9E8D57u * c2;
    c0 = h1 ^ c1 ^ k0;
    c1 = l1;
    c2 = h0 ^ c3 ^ k1;
    c3 = l0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  const weir_noise4 out = {{c0, c1, c2, c3}};
  return out;
}

/* Uniform in (0,1), spaced 2^-32. A race E = -log1p(-u) keeps full relative precision where races are won:
 * at small u. */
static inline WEIR_HD double weir_noise_unit(uint32_t bits) { return ((double)bits + 0.5) * 0x1p-32; }

#endif
