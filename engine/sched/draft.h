/* SPDX-License-Identifier: Apache-2.0 */
/* What a request whose drafts are judged by the ratio of two laws (WEIR_KEEP_RATIO) keeps of them: for each
 * token the small tier wrote and nobody has judged, the law it was drawn from, cut to WEIR_TOP_MAX ids so
 * that it is known whole. A token whose law is not here is judged as by WEIR_KEEP_OWN, which loses nothing
 * either. Loop thread only. */
#ifndef WEIR_SCHED_DRAFT_H
#define WEIR_SCHED_DRAFT_H
#include "base/err.h"
#include "sched/request.h"

struct weir_drafts;

/* *out: NULL for a request that has none. */
weir_status weir_drafts_create(const weir_cascade_cfg *, const weir_ask *draw, int32_t max_new,
                               struct weir_drafts **out, weir_err *e);
void weir_drafts_destroy(struct weir_drafts *);

/* Row p of a step of `tier`, asked already: a draft is to tell its law, a judge is told it. law[WEIR_TOP_MAX]
 * lives until the step was waited for. */
void weir_drafts_ask(const weir_request *, int32_t tier, int32_t p, weir_ask *, weir_top *law);
/* The last row of its need is in: law is what the token at `pos` was drawn from, if the row was a draft. */
void weir_drafts_note(weir_request *, int32_t tier, int32_t pos, const weir_top *law);

#endif
