/* SPDX-License-Identifier: Apache-2.0 */
/* Counting by time in a fixed number of slots: when they are full, two become one. */
#ifndef WEIR_LOAD_TIMELINE_H
#define WEIR_LOAD_TIMELINE_H
#include "load/run.h"

void weir_timeline_init(weir_timeline *);
/* by_tier may be NULL. */
void weir_timeline_add(weir_timeline *, double t_s, int32_t tokens, const int32_t *by_tier);

#endif
