/* SPDX-License-Identifier: Apache-2.0 */
/* Times steps of an executor that nobody else uses meanwhile. Owns its scratch; main thread. */
#include "programs/step_times.h"

#include <math.h>
#include <stddef.h>

#include "base/clock.h"
#include "step/batch.h"

enum { PAGE = 16 };

typedef struct timing {
  weir_exec *x;
  weir_batch_builder b;
  int32_t tok[WEIR_TIMED_PAST + WEIR_TIMED_MOST], page[(WEIR_TIMED_PAST + WEIR_TIMED_MOST) / PAGE + 1];
  weir_row row[WEIR_TIMED_MOST];
} timing;

/* One step over tokens [from, to) of one sequence, with rows for all or for the last. */
static weir_status step(timing *t, int32_t from, int32_t to, bool all, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_result result = {.row = t->row}, *done = NULL;
  weir_batch_builder_clear(&t->b);
  const weir_batch_seq seq = {t->tok, from, to, t->page, (to + PAGE - 1) / PAGE};
  const int32_t first = weir_batch_add(&t->b, &seq);
  for (int32_t p = all ? from : to - 1; p < to; p++)
    *weir_batch_ask(&t->b, first + p - from) = (weir_ask){.top_p = 1, .pos = p + 1, .probe = -1};
  const weir_batch batch = weir_batch_get(&t->b);
  WEIR_TRY(t->x->ops->submit(t->x, &batch, &result, e));
  WEIR_TRY(t->x->ops->wait(t->x, &done, e));
  if (done->status != WEIR_OK) st = weir_fail(e, done->status, "%s", done->err.msg);
out:
  return st;
}

bool weir_timing_fits(const weir_exec_info *x, int32_t rows) {
  return rows <= WEIR_TIMED_MOST && rows <= x->max_tokens && rows < x->n_ctx &&
         x->n_pages >= (rows + PAGE) / PAGE;
}

weir_status weir_time_steps(weir_exec *x, int32_t n_vocab, const weir_timing *how, double *ns, double *ns_all,
                            weir_err *e) {
  weir_status st = WEIR_OK;
  timing t = {.x = x};
  const weir_clock clock = weir_clock_system();
  const int32_t most = how->rows[how->n - 1];
  int32_t past = x->info.n_ctx >= WEIR_TIMED_PAST + most ? WEIR_TIMED_PAST : x->info.n_ctx - most;
  if (x->info.n_pages < (past + most + PAGE - 1) / PAGE) past = x->info.n_pages * PAGE - most;
  if (past < 1 || !weir_timing_fits(&x->info, most))
    return weir_fail(e, WEIR_EUNSUP, "%s: the context is too short to measure a step", x->info.name);
  const int32_t n_pages = (past + most + PAGE - 1) / PAGE;
  for (int32_t i = 0; i < past + most; i++) t.tok[i] = (i * 31 + 7) % n_vocab;
  for (int32_t i = 0; i < n_pages; i++) t.page[i] = i;
  WEIR_TRY(weir_batch_builder_init(&t.b, x->info.max_tokens, x->info.max_seqs, n_pages, 1, e));
  for (int32_t from = 0, to; from < past; from = to) {
    to = past - from > x->info.max_tokens ? from + x->info.max_tokens : past;
    WEIR_TRY(step(&t, from, to, false, e));
  }
  for (int32_t k = 0; k < how->n; k++) {
    ns[k] = HUGE_VAL;
    if (how->all) ns_all[k] = HUGE_VAL;
  }
  /* All sizes in every round, so that a slow spell of the machine touches them alike. The same positions are
   * written again each time. */
  const int64_t begin = weir_now_ns(&clock);
  for (int32_t i = 0; i < WEIR_TIMED_ROUNDS; i++) {
    if (i > 0 && how->limit_ns > 0 && weir_now_ns(&clock) - begin > how->limit_ns) break;
    for (int32_t k = 0; k < how->n; k++)
      for (int all = 0; all <= (how->all ? 1 : 0); all++) {
        double *best = all ? &ns_all[k] : &ns[k];
        const int64_t start = weir_now_ns(&clock);
        WEIR_TRY(step(&t, past, past + how->rows[k], all, e));
        *best = fmin(*best, (double)(weir_now_ns(&clock) - start));
      }
  }
out:
  weir_batch_builder_fini(&t.b);
  return st;
}
