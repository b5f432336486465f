/* SPDX-License-Identifier: Apache-2.0 */
/* Laws of drafts, in a ring as long as the window, by position. Owns it; loop thread only. What is taken back
 * needs no care: whoever writes there next overwrites it or is not judged, and a law without the token that
 * is judged is not looked at. */
#include "sched/draft.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

struct weir_drafts {
  int32_t n_slots;
  struct slot {
    int32_t pos; /* 0: none; nobody drafts position 0 */
    weir_top law[WEIR_TOP_MAX];
  } * slot; /* [n_slots], owned */
};

weir_status weir_drafts_create(const weir_cascade_cfg *g, const weir_ask *draw, int32_t max_new,
                               struct weir_drafts **out, weir_err *e) {
  weir_status st = WEIR_OK;
  struct weir_drafts *d = NULL;
  *out = NULL;
  if (g->n_tiers != 2 || g->keep[1] != WEIR_KEEP_RATIO || !(draw->temperature > 0)) return WEIR_OK;
  WEIR_TRY(WEIR_NEW(1, &d, e));
  d->n_slots = g->window[0] < max_new ? g->window[0] + 1 : max_new + 1;
  WEIR_TRY(WEIR_NEW((size_t)d->n_slots, &d->slot, e));
  *out = d;
  d = NULL;
out:
  weir_drafts_destroy(d);
  return st;
}

void weir_drafts_destroy(struct weir_drafts *d) {
  if (d) free(d->slot);
  free(d);
}

/* Whether a draw of the tier will be judged. A tier that is gone judges nothing. */
static bool drafts(const weir_request *r, int32_t tier) {
  return r->drafts && tier == 0 && !r->pinned && r->cascade.hi > 0;
}

void weir_drafts_ask(const weir_request *r, int32_t tier, int32_t p, weir_ask *a, weir_top *law) {
  const int32_t pos = p + 1;
  if (!r->drafts) return;
  law[0].id = -1; /* of a row that is not asked for its law, none is noted */
  if (drafts(r, tier) && a->probe < 0) {
    if (a->top_k == 0 || a->top_k > WEIR_TOP_MAX) a->top_k = WEIR_TOP_MAX;
    a->tell_law = true;
    a->law = law;
  } else if (tier == 1 && a->probe >= 0 && a->keep == WEIR_KEEP_RATIO) {
    const struct slot *s = &r->drafts->slot[pos % r->drafts->n_slots];
    int32_t n = 0;
    bool has_probe = false;
    for (; s->pos == pos && n < WEIR_TOP_MAX && s->law[n].id >= 0; n++) has_probe |= s->law[n].id == a->probe;
    if (!has_probe) return;
    memcpy(law, s->law, sizeof *law * (size_t)n);
    a->draft = law;
    a->n_draft = n;
  }
}

void weir_drafts_note(weir_request *r, int32_t tier, int32_t pos, const weir_top *law) {
  if (!drafts(r, tier)) return;
  struct slot *s = &r->drafts->slot[pos % r->drafts->n_slots];
  s->pos = pos;
  memcpy(s->law, law, sizeof s->law);
}
