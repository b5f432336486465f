/* SPDX-License-Identifier: Apache-2.0 */
/* cp.async. Late, bytes land at the wait and not before: what is read without one is poison. PTX ISA,
 * "cp.async", "cp.async.wait_group". Also the checked vector loads and stores. */
#include "emu_impl.h"

namespace emu {

static void land(const Copy &c) {
  touch(c.dst, c.n, true);
  if (c.pred) {
    touch(c.src, c.n, false);
    memcpy(c.dst, c.src, c.n);
  } else {
    memset(c.dst, 0, c.n);
  }
}

void copy_async(void *dst, const void *src, unsigned n, bool pred) {
  Thread *me = self();
  if ((uintptr_t)dst % n || (pred && (uintptr_t)src % n))
    die("cp.async of %u bytes is misaligned: %p from %p", n, dst, src);
  if (!in_arena(B, dst) || !shared_holds(B, dst, n)) die("cp.async writes outside of shared memory");
  if (pred) mem_check(src, n, false);
  const Copy c = {(char *)dst, (const char *)src, (uint8_t)n, pred, me->copy_group};
  if (!config.late) land(c);
  B->copies[me->index].push_back(c);
}

void copy_commit() { self()->copy_group++; }

void copy_wait(int n) {
  Thread *me = self();
  std::vector<Copy> &v = B->copies[me->index];
  size_t k = 0;
  for (; k < v.size() && v[k].group < me->copy_group - n; k++)
    if (config.late) land(v[k]);
  v.erase(v.begin(), v.begin() + (ptrdiff_t)k);
}

void copies_exit(const Thread *t) {
  if (!B->copies[t->index].empty())
    die("exits without having waited for %zu cp.async", B->copies[t->index].size());
}

void load(void *dst, const void *src, unsigned n) {
  if ((uintptr_t)src % n) die("load of %u bytes is misaligned: %p", n, src);
  if (in_arena(B, src) && !shared_holds(B, src, n)) die("load from outside of shared memory");
  mem_check(src, n, false);
  touch(src, n, false);
  memcpy(dst, src, n);
}

void store(void *dst, const void *src, unsigned n) {
  if ((uintptr_t)dst % n) die("store of %u bytes is misaligned: %p", n, dst);
  if (in_arena(B, dst) && !shared_holds(B, dst, n)) die("store outside of shared memory");
  mem_check(dst, n, true);
  touch(dst, n, true);
  memcpy(dst, src, n);
}

}  // namespace emu
