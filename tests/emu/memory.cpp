/* SPDX-License-Identifier: Apache-2.0 */
/* Device memory: allocations with guards around them, and the check that an access does not touch a guard.
 * Pages before and after an allocation of emu_mem_alloc cannot be touched at all; the bytes between its end
 * and the next page are seen by the wrappers of cu.h, by ASan, and by every access of an instrumented kernel.
 */
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <map>

#include "emu_impl.h"

namespace emu {

struct Span {
  size_t bytes, guard, mapped; /* mapped: of the mapping that begins a page before; 0: watched only */
};

/* Reads far outnumber changes; readers keep the last span they were in until something changes. */
static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
static std::map<const char *, Span> *spans; /* never destroyed: kernels may run at exit */
static uint64_t generation = 1;
static __thread uint64_t seen;
static __thread const char *seen_lo, *seen_hi; /* the span */
static __thread const char *free_lo, *free_hi; /* and, of other memory, between which spans it lies */

static int add(char *p, Span s) {
  pthread_rwlock_wrlock(&lock);
  if (!spans) spans = new std::map<const char *, Span>;
  const bool fresh = spans->emplace(p, s).second;
  __atomic_add_fetch(&generation, 1, __ATOMIC_RELEASE);
  pthread_rwlock_unlock(&lock);
  return fresh ? 0 : -1;
}

static bool take(const void *p, Span *out) {
  pthread_rwlock_wrlock(&lock);
  bool found = false;
  if (spans) {
    const auto it = spans->find((const char *)p);
    if ((found = it != spans->end())) {
      *out = it->second;
      spans->erase(it);
      __atomic_add_fetch(&generation, 1, __ATOMIC_RELEASE);
    }
  }
  pthread_rwlock_unlock(&lock);
  return found;
}

void mem_check(const void *p, size_t n, bool write) {
  const char *at = (const char *)p;
  if (seen == __atomic_load_n(&generation, __ATOMIC_ACQUIRE) &&
      ((at >= seen_lo && at + n <= seen_hi) || (at >= free_lo && at + n <= free_hi)))
    return;
  ptrdiff_t past = 0;
  size_t size = 0;
  pthread_rwlock_rdlock(&lock);
  if (seen != generation) seen_lo = seen_hi = free_lo = free_hi = NULL;
  seen = generation;
  const char *lo = NULL, *hi = (const char *)UINTPTR_MAX;
  bool inside = false;
  if (spans) {
    auto it = spans->upper_bound(at);
    if (it != spans->end()) {
      hi = it->first - it->second.guard;
      if (at + n > hi) {
        past = at - it->first;
        size = it->second.bytes;
      }
    }
    if (it != spans->begin()) {
      --it;
      const char *end = it->first + it->second.bytes;
      lo = end + it->second.guard;
      if (at + n <= end) {
        inside = true;
        seen_lo = it->first;
        seen_hi = end;
      } else if (at < lo) {
        past = at - it->first;
        size = it->second.bytes;
      }
    }
  }
  if (!past && !inside) {
    free_lo = lo;
    free_hi = hi;
  }
  pthread_rwlock_unlock(&lock);
  if (past)
    die("%s of %zu bytes at offset %td of a device allocation of %zu", write ? "write" : "read", n, past,
        size);
}

}  // namespace emu

void *emu_mem_alloc(size_t bytes) {
  using namespace emu;
  if (bytes > (size_t)1 << 46) return NULL;
  const size_t room = (bytes + 255) & ~(size_t)255, pages = (room + PAGE - 1) & ~(PAGE - 1),
               mapped = pages + 2 * PAGE;
  void *m = mmap(NULL, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (m == MAP_FAILED) return NULL;
  char *page = (char *)m + PAGE, *p = page + pages - room;
  if (pages && mprotect(page, pages, PROT_READ | PROT_WRITE) != 0) {
    munmap(m, mapped);
    return NULL;
  }
  asan_unpoison(page, pages);
  if (config.poison) memset(p, 0xff, bytes);
  asan_poison(page, (size_t)(p - page));
  asan_poison(p + bytes, room - bytes);
  add(p, {bytes, PAGE, mapped});
  return p;
}

int emu_mem_free(void *p) {
  using namespace emu;
  if (!p) return 0;
  Span s;
  if (!take(p, &s)) return -1;
  if (!s.mapped) {
    add((char *)p, s);
    return -1;
  }
  const size_t room = (s.bytes + 255) & ~(size_t)255, pages = s.mapped - 2 * PAGE;
  char *page = (char *)p + room - pages;
  asan_unpoison(page, pages);
  return munmap(page - PAGE, s.mapped);
}

size_t emu_mem_size(const void *p) {
  using namespace emu;
  const char *at = (const char *)p;
  size_t left = 0;
  pthread_rwlock_rdlock(&lock);
  if (spans) {
    auto it = spans->upper_bound(at);
    if (it != spans->begin()) {
      --it;
      if ((size_t)(at - it->first) < it->second.bytes) left = it->second.bytes - (size_t)(at - it->first);
    }
  }
  pthread_rwlock_unlock(&lock);
  return left;
}

int emu_mem_watch(void *p, size_t bytes, size_t guard_bytes) {
  return emu::add((char *)p, {bytes, guard_bytes, 0});
}

void emu_mem_unwatch(void *p) {
  emu::Span s;
  (void)emu::take(p, &s);
}
