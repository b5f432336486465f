/* SPDX-License-Identifier: Apache-2.0 */
/* A binary heap of numbers, smallest first: what merges next. Room is the caller's business. */
#ifndef WEIR_MODEL_TOK_HEAP_H
#define WEIR_MODEL_TOK_HEAP_H
#include <stddef.h>
#include <stdint.h>

static inline void weir_heap_sift(uint64_t *heap, size_t n, size_t i) {
  const uint64_t v = heap[i];
  for (;;) {
    size_t child = 2 * i + 1;
    if (child >= n) break;
    if (child + 1 < n && heap[child + 1] < heap[child]) child++;
    if (heap[child] >= v) break;
    heap[i] = heap[child];
    i = child;
  }
  heap[i] = v;
}

static inline void weir_heap_push(uint64_t *heap, size_t *n, uint64_t v) {
  size_t i = (*n)++;
  while (i > 0 && heap[(i - 1) / 2] > v) {
    heap[i] = heap[(i - 1) / 2];
    i = (i - 1) / 2;
  }
  heap[i] = v;
}

static inline uint64_t weir_heap_pop(uint64_t *heap, size_t *n) {
  const uint64_t least = heap[0];
  heap[0] = heap[--*n];
  if (*n) weir_heap_sift(heap, *n, 0);
  return least;
}

#endif
