/* SPDX-License-Identifier: Apache-2.0 */
/* Random numbers: xoshiro256** (Blackman and Vigna, 2018), seeded by splitmix64; gamma by Marsaglia and Tsang
 * (2000, "A simple method for generating gamma variables"). Pure; any thread. */
#include "load/rand.h"

#include <math.h>

static uint64_t splitmix(uint64_t *x) {
  uint64_t z = *x += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

void weir_rand_init(weir_rand *r, uint64_t seed, uint64_t stream) {
  uint64_t x = stream * 0xd1342543de82ef95u;
  x = splitmix(&x) ^ seed;
  for (int i = 0; i < 4; i++) r->s[i] = splitmix(&x);
}

static uint64_t rotate(uint64_t x, int k) { return x << k | x >> (64 - k); }

uint64_t weir_rand_bits(weir_rand *r) {
  uint64_t *s = r->s;
  const uint64_t out = rotate(s[1] * 5, 7) * 9, t = s[1] << 17;
  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= t;
  s[3] = rotate(s[3], 45);
  return out;
}

double weir_rand_unit(weir_rand *r) { return (double)(weir_rand_bits(r) >> 11) * 0x1p-53; }

uint64_t weir_rand_below(weir_rand *r, uint64_t n) {
  const uint64_t reject = -n % n; /* 2^64 mod n values too many for equal shares */
  uint64_t x;
  do x = weir_rand_bits(r);
  while (x < reject);
  return x % n;
}

double weir_rand_normal(weir_rand *r) {
  const double radius = sqrt(2 * weir_rand_exponential(r));
  return radius * cos(6.283185307179586 * weir_rand_unit(r));
}

double weir_rand_exponential(weir_rand *r) { return -log1p(-weir_rand_unit(r)); }

double weir_rand_gamma(weir_rand *r, double shape) {
  /* below 1: gamma(a) is gamma(a + 1) times a unit's a-th root, by the same paper */
  double boost = 1;
  const double a = shape < 1 ? shape + 1 : shape;
  if (shape < 1) boost = pow(1 - weir_rand_unit(r), 1 / shape);
  const double d = a - 1.0 / 3, c = 1 / sqrt(9 * d);
  for (;;) {
    const double x = weir_rand_normal(r), t = 1 + c * x, v = t * t * t;
    if (t <= 0) continue;
    const double u = 1 - weir_rand_unit(r);
    if (log(u) < 0.5 * x * x + d - d * v + d * log(v)) return d * v * boost / shape;
  }
}
