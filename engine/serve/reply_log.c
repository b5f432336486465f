/* SPDX-License-Identifier: Apache-2.0 */
/* The log of a reply: blocks of tokens that never move behind a directory of fixed size, texts in an arena.
 * The count is published last, so a reader that sees it sees what is behind it. One writer at a time. */
#include "serve/reply_log.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { ARENA_BYTES = 4096 };

struct weir_reply_arena {
  struct weir_reply_arena *next;
  size_t cap;
  _Alignas(max_align_t) char data[];
};

static void count(weir_reply_log *l, size_t bytes) {
  l->own_bytes += (int64_t)bytes;
  if (l->bytes) atomic_fetch_add_explicit(l->bytes, (int64_t)bytes, memory_order_relaxed);
}

weir_status weir_reply_log_init(weir_reply_log *l, int32_t max, _Atomic int64_t *bytes, weir_err *e) {
  *l = (weir_reply_log){.max = max, .bytes = bytes};
  const size_t n = ((size_t)max + WEIR_REPLY_BLOCK - 1) / WEIR_REPLY_BLOCK;
  const weir_status st = WEIR_NEW(n, &l->block, e);
  if (st == WEIR_OK) count(l, n * sizeof *l->block);
  return st;
}

void weir_reply_log_fini(weir_reply_log *l) {
  if (l->bytes) atomic_fetch_sub_explicit(l->bytes, l->own_bytes, memory_order_relaxed);
  for (int32_t i = 0; l->block && i * WEIR_REPLY_BLOCK < l->max; i++) free(l->block[i]);
  free(l->block);
  while (l->arena) {
    struct weir_reply_arena *next = l->arena->next;
    free(l->arena);
    l->arena = next;
  }
  *l = (weir_reply_log){0};
}

static void *take(weir_reply_log *l, size_t n) {
  const size_t align = _Alignof(weir_top);
  n = (n + align - 1) / align * align;
  if (!l->arena || n > l->arena->cap - l->arena_used) {
    const size_t cap = n > ARENA_BYTES ? n : ARENA_BYTES;
    struct weir_reply_arena *a = malloc(sizeof *a + cap);
    if (!a) return NULL;
    a->next = l->arena;
    a->cap = cap;
    l->arena = a;
    l->arena_used = 0;
    count(l, sizeof *a + cap);
  }
  void *p = l->arena->data + l->arena_used;
  l->arena_used += n;
  return p;
}

weir_status weir_reply_log_append(weir_reply_log *l, const weir_token_receipt *receipt, const char *text,
                                  size_t len, const weir_top *top, int32_t n_top, weir_err *e) {
  const int32_t n = atomic_load_explicit(&l->n, memory_order_relaxed);
  if (n >= l->max) return weir_fail(e, WEIR_ENOMEM, "a reply of %d tokens is full", l->max);
  if (len > UINT32_MAX) return weir_fail(e, WEIR_ENOMEM, "a token's text of %zu bytes", len);
  weir_reply_token **b = &l->block[n / WEIR_REPLY_BLOCK];
  if (!*b) {
    const weir_status st = WEIR_NEW(WEIR_REPLY_BLOCK, b, e);
    if (st != WEIR_OK) return st;
    count(l, WEIR_REPLY_BLOCK * sizeof **b);
  }
  const size_t top_bytes = (size_t)n_top * sizeof *top;
  char *copy = NULL;
  if (len + top_bytes > 0) {
    copy = take(l, top_bytes + len);
    if (!copy) return weir_fail(e, WEIR_ENOMEM, "cannot keep a token's text of %zu bytes", len);
    if (n_top > 0) memcpy(copy, top, top_bytes);
    if (len > 0) memcpy(copy + top_bytes, text, len);
  }
  (*b)[n % WEIR_REPLY_BLOCK] = (weir_reply_token){.receipt = *receipt,
                                                  .text = copy ? copy + top_bytes : "",
                                                  .len = (uint32_t)len,
                                                  .n_top = n_top,
                                                  .top = n_top > 0 ? (const weir_top *)(void *)copy : NULL};
  atomic_store_explicit(&l->n, n + 1, memory_order_release);
  return WEIR_OK;
}
