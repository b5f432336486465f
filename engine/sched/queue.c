/* SPDX-License-Identifier: Apache-2.0 */
/* A binary heap of nodes that know their place, so that any can leave in O(log n). Loop thread only. */
#include "sched/queue.h"

#include <stdlib.h>

int64_t weir_urgency(int64_t arrived_ns, int32_t priority, int64_t age_ns) {
  int64_t shift, at;
  if (__builtin_mul_overflow((int64_t)priority, age_ns, &shift)) return priority > 0 ? INT64_MAX : INT64_MIN;
  if (__builtin_add_overflow(arrived_ns, shift, &at)) return shift > 0 ? INT64_MAX : INT64_MIN;
  return at;
}

bool weir_more_urgent(const weir_queue_node *a, const weir_queue_node *b) {
  return a->urgency != b->urgency ? a->urgency < b->urgency : a->id < b->id;
}

static void put(weir_queue *q, int32_t at, weir_queue_node *x) {
  q->node[at] = x;
  x->at = at;
}

static void up(weir_queue *q, int32_t at, weir_queue_node *x) {
  for (; at > 0 && weir_more_urgent(x, q->node[(at - 1) / 2]); at = (at - 1) / 2)
    put(q, at, q->node[(at - 1) / 2]);
  put(q, at, x);
}

static void down(weir_queue *q, int32_t at, weir_queue_node *x) {
  for (int32_t kid; (kid = 2 * at + 1) < q->n; at = kid) {
    if (kid + 1 < q->n && weir_more_urgent(q->node[kid + 1], q->node[kid])) kid++;
    if (!weir_more_urgent(q->node[kid], x)) break;
    put(q, at, q->node[kid]);
  }
  put(q, at, x);
}

weir_status weir_queue_reserve(weir_queue *q, int32_t n, weir_err *e) {
  if (n <= q->cap) return WEIR_OK;
  const int32_t cap = n < 64 ? 64 : n > INT32_MAX / 2 ? n : 2 * n;
  weir_queue_node **more = realloc(q->node, (size_t)cap * sizeof(weir_queue_node *));
  if (!more) return weir_fail(e, WEIR_ENOMEM, "cannot queue %d jobs", n);
  q->node = more;
  q->cap = cap;
  return WEIR_OK;
}

void weir_queue_push(weir_queue *q, weir_queue_node *x) { up(q, q->n++, x); }

weir_queue_node *weir_queue_first(const weir_queue *q) { return q->n > 0 ? q->node[0] : NULL; }

void weir_queue_remove(weir_queue *q, weir_queue_node *x) {
  const int32_t at = x->at;
  weir_queue_node *last = q->node[--q->n];
  x->at = -1;
  if (last == x) return;
  down(q, at, last);
  up(q, last->at, last);
}

void weir_queue_fini(weir_queue *q) {
  free(q->node);
  *q = (weir_queue){0};
}
