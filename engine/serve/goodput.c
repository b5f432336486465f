/* SPDX-License-Identifier: Apache-2.0 */
/* Measured speed. Pure arithmetic on what it is told; owns nothing; loop thread only. */
#include "serve/goodput.h"

#include <stddef.h>

#define SLOT_NS  250000000LL
#define HOLDS_NS 3000000000LL
#define QUIET_NS 60000000000LL

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

/* What was done in [from_ns, to_ns], by equal shares of that time, as far as the slots reach back. */
static void spread(weir_goodput *g, int64_t from_ns, int64_t to_ns, struct weir_goodput_done done) {
  const int64_t last = to_ns / SLOT_NS;
  for (int64_t n = max64(from_ns / SLOT_NS, last - WEIR_GOODPUT_SLOTS + 1); n <= last; n++) {
    struct weir_goodput_slot *s = &g->slot[(uint64_t)n % WEIR_GOODPUT_SLOTS];
    const int64_t a = max64(from_ns, n * SLOT_NS), b = min64(to_ns, (n + 1) * SLOT_NS);
    const double share = to_ns > from_ns ? (double)(b - a) / (double)(to_ns - from_ns) : 1;
    if (s->number != n || s->first_ns == 0)
      *s = (struct weir_goodput_slot){.number = n, .first_ns = a, .last_ns = b};
    s->first_ns = min64(s->first_ns, a);
    s->last_ns = max64(s->last_ns, b);
    s->done.tokens += share * done.tokens;
    s->done.prompt_rows += share * done.prompt_rows;
    s->done.small_rows += share * done.small_rows;
  }
}

/* How long its steps take. */
static void learn_large(weir_goodput *g, int32_t rows, int32_t prompt_rows, double ns) {
  const double keep = 0.8;
  if (rows < 1) return;
  if (2 * prompt_rows > rows) {
    const double one = ns / rows;
    g->prompt_row_ns = g->prompt_row_ns == 0 ? one : keep * g->prompt_row_ns + (1 - keep) * one;
  } else if (prompt_rows == 0) {
    int32_t i = 0;
    while (i + 1 < WEIR_GOODPUT_SIZES && rows >> (i + 1)) i++;
    struct weir_goodput_size *z = &g->size[i];
    const double k = z->rows == 0 ? 0 : keep;
    z->rows = k * z->rows + (1 - k) * rows;
    z->ns = k * z->ns + (1 - k) * ns;
  }
}

void weir_goodput_step(weir_goodput *g, int64_t now_ns, bool large, int32_t rows, int32_t prompt_rows,
                       int64_t device_ns) {
  g->from_ns =
      max64(now_ns - max64(device_ns, 0), 1); /* where steps of two devices overlap, slots are shared */
  g->to_ns = now_ns;
  struct weir_goodput_done done = {0};
  if (!large) done = (struct weir_goodput_done){.small_rows = rows, .prompt_rows = prompt_rows};
  spread(g, g->from_ns, now_ns, done);
  if (large) learn_large(g, rows, prompt_rows, (double)device_ns);
}

void weir_goodput_tokens(weir_goodput *g, int64_t now_ns, int32_t n) {
  if (n < 1) return;
  const bool of_step = g->to_ns > 0 && now_ns - g->to_ns < SLOT_NS; /* of the one that has just ended */
  spread(g, of_step ? g->from_ns : now_ns, of_step ? g->to_ns : now_ns,
         (struct weir_goodput_done){.tokens = n});
}

/* Sums over the last seconds. Slots in which nothing ran are not there and take no time. */
static struct weir_goodput_done window(const weir_goodput *g, int64_t now_ns, int64_t *span_ns) {
  struct weir_goodput_done sum = {0};
  const int64_t number = now_ns / SLOT_NS;
  *span_ns = 0;
  for (int32_t i = 0; i < WEIR_GOODPUT_SLOTS; i++) {
    const struct weir_goodput_slot *s = &g->slot[i];
    if (s->first_ns == 0 || s->number > number || s->number <= number - WEIR_GOODPUT_SLOTS) continue;
    sum.tokens += s->done.tokens;
    sum.prompt_rows += s->done.prompt_rows;
    sum.small_rows += s->done.small_rows;
    /* Work began in this slot when the one before was idle, and ended in it when the next one is. */
    const struct weir_goodput_slot *before = &g->slot[(uint64_t)(s->number - 1) % WEIR_GOODPUT_SLOTS];
    const struct weir_goodput_slot *after = &g->slot[(uint64_t)(s->number + 1) % WEIR_GOODPUT_SLOTS];
    const bool went_on = before->first_ns != 0 && before->number == s->number - 1;
    const bool goes_on = after->first_ns != 0 && after->number == s->number + 1;
    *span_ns +=
        (goes_on ? (s->number + 1) * SLOT_NS : s->last_ns) - (went_on ? s->number * SLOT_NS : s->first_ns);
  }
  return sum;
}

double weir_goodput_rate(const weir_goodput *g, int64_t now_ns) {
  int64_t span;
  const struct weir_goodput_done sum = window(g, now_ns, &span);
  return span > 0 ? 1e9 * sum.tokens / (double)span : 0;
}

static double step_ns(const weir_goodput *g, int32_t rows) {
  const struct weir_goodput_size *below = NULL, *above = NULL;
  for (int32_t i = 0; i < WEIR_GOODPUT_SIZES; i++) {
    const struct weir_goodput_size *z = &g->size[i];
    if (z->rows == 0) continue;
    if (z->rows <= rows)
      below = z;
    else if (!above)
      above = z;
  }
  if (!below) return above ? above->ns : 0;
  if (!above) return below->ns * (rows / below->rows);
  const double at = (rows - below->rows) / (above->rows - below->rows);
  return below->ns + at * (above->ns - below->ns);
}

double weir_goodput_large_only(const weir_goodput *g, int64_t now_ns, int32_t n_requests) {
  int64_t span;
  const struct weir_goodput_done sum = window(g, now_ns, &span);
  if (n_requests < 1) return 0;
  const double step = step_ns(g, n_requests);
  if (step <= 0) return 0;
  const double rho = sum.tokens > 0 ? sum.prompt_rows / sum.tokens : 0;
  return 1e9 / (step / n_requests + rho * g->prompt_row_ns);
}

bool weir_goodput_tell(weir_goodput *g, int64_t now_ns, int32_t n_requests) {
  int64_t span;
  const struct weir_goodput_done sum = window(g, now_ns, &span);
  const double rate = weir_goodput_rate(g, now_ns), large = weir_goodput_large_only(g, now_ns, n_requests);
  if (sum.small_rows == 0 || rate == 0 || large == 0) {
    g->since_ns = 0;
    return false;
  }
  const bool other = g->large_faster ? large < rate : large > 1.1 * rate;
  if (!other) {
    g->since_ns = 0;
    return false;
  }
  if (g->since_ns == 0) g->since_ns = now_ns;
  if (now_ns - g->since_ns < HOLDS_NS) return false;
  if (!g->large_faster && g->ever_told && now_ns - g->last_told < QUIET_NS)
    return false; /* later, if so still */
  g->since_ns = 0;
  g->large_faster = !g->large_faster;
  if (!g->large_faster) return false;
  g->ever_told = true;
  g->last_told = now_ns;
  return true;
}
