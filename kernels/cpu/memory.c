/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of the CPU device. Large blocks are cut, one behind the other, from stretches the kernel gives in
 * huge pages: weights are read once a step from end to end, and with small pages address translation alone
 * would show; and a model of many weights wastes one huge page, not a part of one for each. The kernel zeroes
 * pages when they are first touched, so memory that is not used yet (KV, rows of larger steps) is not there
 * yet. A stretch goes back when all its blocks are released; what a block had of whole pages goes at once.
 * Small blocks come from the C library. The thread that owns the device. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/mem.h"
#include "kernels/cpu/cpu_dev.h"

#ifdef __has_feature
#define HAS_FEATURE(x) __has_feature(x)
#else
#define HAS_FEATURE(x) 0
#endif

enum {
  LINE = 64,
  PAGE = 4096,
  HUGE_PAGE = 1 << 21,
  STRETCH = 32 * HUGE_PAGE, /* or one block, where that is larger */
#if defined(__SANITIZE_ADDRESS__) || HAS_FEATURE(address_sanitizer)
  SMALL = 8 * HUGE_PAGE /* up to here the sanitizer watches over both ends of a block */
#else
  SMALL = 1 << 16
#endif
};

struct weir_cpu_stretch { /* at its own beginning */
  size_t bytes, used;     /* used: what blocks were cut from, ever */
  int32_t n_blocks;       /* that are not released */
};

/* What stands in the line before a block. */
typedef struct block {
  weir_cpu_stretch *stretch; /* NULL: from the C library */
  size_t bytes;              /* of the block, whole lines */
} block;

static_assert(sizeof(block) <= LINE && sizeof(weir_cpu_stretch) <= LINE, "a line holds each");

static weir_cpu_stretch *stretch_new(size_t least) {
  size_t bytes = least > STRETCH ? least : STRETCH, whole;
  if (!weir_add_size(bytes, HUGE_PAGE - 1, &bytes)) return NULL;
  bytes = bytes / HUGE_PAGE * HUGE_PAGE;
  if (!weir_add_size(bytes, HUGE_PAGE, &whole)) return NULL;
  uint8_t *map = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) return NULL;
  const size_t before = (HUGE_PAGE - (uintptr_t)map % HUGE_PAGE) % HUGE_PAGE;
  if (before) munmap(map, before);
  munmap(map + before + bytes, HUGE_PAGE - before);
  (void)madvise(map + before, bytes, MADV_HUGEPAGE);
  weir_cpu_stretch *s = (weir_cpu_stretch *)(void *)(map + before);
  *s = (weir_cpu_stretch){.bytes = bytes, .used = LINE};
  return s;
}

weir_status weir_cpu_memory_alloc(weir_dev *dev, size_t bytes, void **out, weir_err *e) {
  weir_cpu *cpu = weir_cpu_of(dev);
  size_t all; /* a line for what we say of it, then the block */
  *out = NULL;
  if (!weir_add_size(bytes, 2 * LINE - 1, &all))
    return weir_fail(e, WEIR_ENOMEM, "%zu bytes of device memory", bytes);
  all = all / LINE * LINE;
  uint8_t *at = NULL;
  weir_cpu_stretch *s = NULL;
  if (all <= SMALL) {
    at = aligned_alloc(LINE, all);
    if (at) memset(at, 0, all);
  } else {
    s = cpu->stretch;
    if (!s || s->bytes - s->used < all) {
      size_t least;
      s = weir_add_size(all, LINE, &least) ? stretch_new(least) : NULL;
      if (s) cpu->stretch = s;
    }
    if (s) {
      at = (uint8_t *)s + s->used;
      s->used += all;
      s->n_blocks++;
    }
  }
  if (!at) return weir_fail(e, WEIR_ENOMEM, "%zu bytes of device memory", bytes);
  *(block *)(void *)at = (block){s, all - LINE};
  *out = at + LINE;
  return WEIR_OK;
}

void weir_cpu_memory_free(weir_dev *dev, void *p) {
  weir_cpu *cpu = weir_cpu_of(dev);
  if (!p) return;
  uint8_t *at = (uint8_t *)p - LINE;
  const block b = *(block *)(void *)at;
  if (!b.stretch) {
    free(at);
  } else if (--b.stretch->n_blocks == 0) {
    if (cpu->stretch == b.stretch) cpu->stretch = NULL;
    munmap(b.stretch, b.stretch->bytes);
  } else {
    const uintptr_t first = ((uintptr_t)p + PAGE - 1) / PAGE * PAGE,
                    end = ((uintptr_t)p + b.bytes) / PAGE * PAGE;
    if (first < end) (void)madvise((void *)first, end - first, MADV_DONTNEED);
  }
}
