/* SPDX-License-Identifier: Apache-2.0 */
/* Counts by time. Pure; the load's thread. */
#include "load/timeline.h"

#include <string.h>

static const double FIRST_WIDTH_S = 0.1;

void weir_timeline_init(weir_timeline *t) { *t = (weir_timeline){.width_s = FIRST_WIDTH_S}; }

static void halve(weir_timeline *t) {
  for (int32_t i = 0; i < WEIR_TIMELINE_SLOTS / 2; i++) {
    t->slot[i] = t->slot[2 * i];
    t->slot[i].tokens += t->slot[2 * i + 1].tokens;
    for (int k = 0; k < WEIR_LOAD_TIERS; k++) t->slot[i].by_tier[k] += t->slot[2 * i + 1].by_tier[k];
  }
  memset(&t->slot[WEIR_TIMELINE_SLOTS / 2], 0, sizeof t->slot / 2);
  t->n = (t->n + 1) / 2;
  t->width_s *= 2;
}

void weir_timeline_add(weir_timeline *t, double t_s, int32_t tokens, const int32_t *by_tier) {
  if (!(t_s >= 0) || t_s > 1e9) return;
  while (t_s / t->width_s >= WEIR_TIMELINE_SLOTS) halve(t);
  const int32_t i = (int32_t)(t_s / t->width_s);
  if (i >= t->n) t->n = i + 1;
  t->slot[i].tokens += tokens;
  for (int k = 0; by_tier && k < WEIR_LOAD_TIERS; k++) t->slot[i].by_tier[k] += by_tier[k];
}
