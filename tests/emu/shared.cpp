/* SPDX-License-Identifier: Apache-2.0 */
/* Shared memory: statics are found by the site that declares them, dynamic memory lies against the end of the
 * arena. Gaps between the statics are nobody's. */
#include "emu_impl.h"

namespace emu {

/* wgmma descriptors hold 18 bits of address: dynamic memory starts at 0, statics come after it. */
static const uint32_t STATIC_ADDRESS = (uint32_t)DYN_ROOM;

void *shared_static(const void *site, size_t bytes, size_t align) {
  Block *b = B;
  for (int i = 0; i < b->n_sites; i++)
    if (b->site[i].key == site) return b->arena + b->site[i].at;
  const size_t gap = b->n_sites ? 16 : 0;
  const size_t at = (b->static_used + gap + align - 1) & ~(align - 1);
  b->static_bytes = ((b->static_bytes + align - 1) & ~(align - 1)) + bytes;
  if (b->n_sites == (int)MAX_SITES) die("more than %u shared arrays", MAX_SITES);
  if (b->static_bytes > STATIC_LIMIT || at + bytes > STATIC_ROOM)
    die("static shared memory of %zu bytes is over 48 KB", b->static_bytes);
  if (b->static_bytes + b->dyn_bytes > SMEM_LIMIT)
    die("%zu + %zu bytes of shared memory are over 227 KB", b->static_bytes, b->dyn_bytes);
  asan_unpoison(b->arena + at, bytes);
  if (config.poison) memset(b->arena + at, 0xff, bytes);
  b->site[b->n_sites++] = {site, at, bytes};
  b->static_used = at + bytes;
  return b->arena + at;
}

void *shared_dynamic() { return B->dyn; }

uint32_t shared_address(const void *p) {
  if (!in_arena(B, p)) die("%p is no address of shared memory", p);
  const char *c = (const char *)p;
  return c >= B->arena + STATIC_ROOM ? (uint32_t)(c - B->dyn) : STATIC_ADDRESS + (uint32_t)(c - B->arena);
}

bool shared_holds(const Block *b, const void *p, size_t n) {
  const char *c = (const char *)p;
  if (c >= b->arena + STATIC_ROOM) return c >= b->dyn && c + n <= b->dyn + b->dyn_bytes;
  const size_t at = (size_t)(c - b->arena);
  for (int i = 0; i < b->n_sites; i++)
    if (at >= b->site[i].at && at + n <= b->site[i].at + b->site[i].bytes) return true;
  return false;
}

}  // namespace emu
