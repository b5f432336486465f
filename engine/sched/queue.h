/* SPDX-License-Identifier: Apache-2.0 */
/* Those who wait, the most urgent first: a heap of nodes that live in their owners. Urgency is one number
 * that never changes: the time of arrival plus, for each unit of priority, the time by which a job of that
 * number stands behind one of the number below. So a job ages against those that come later without anybody
 * touching it, and nothing starves: all that arrives late enough is less urgent. */
#ifndef WEIR_SCHED_QUEUE_H
#define WEIR_SCHED_QUEUE_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum { WEIR_MAX_PRIORITY = 1000000 }; /* priorities are -WEIR_MAX_PRIORITY .. WEIR_MAX_PRIORITY */

typedef struct weir_queue_node {
  int64_t urgency; /* lower goes first, ... */
  int64_t id;      /* ... of equal ones the lower id */
  int32_t at;      /* its place in the heap; -1: not in one */
} weir_queue_node;

typedef struct weir_queue {
  weir_queue_node **node; /* [n], owned; the nodes are not */
  int32_t n, cap;
} weir_queue; /* zeroed: empty */

/* A number that grows with arrival and priority; age_ns > 0. */
int64_t weir_urgency(int64_t arrived_ns, int32_t priority, int64_t age_ns);
/* Whether a goes before b. */
bool weir_more_urgent(const weir_queue_node *a, const weir_queue_node *b);

weir_status weir_queue_reserve(weir_queue *, int32_t n, weir_err *e); /* room for n in all */
void weir_queue_push(weir_queue *, weir_queue_node *);                /* there must be room */
weir_queue_node *weir_queue_first(const weir_queue *);                /* NULL: empty */
void weir_queue_remove(weir_queue *, weir_queue_node *);
void weir_queue_fini(weir_queue *);

#endif
