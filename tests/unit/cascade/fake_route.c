/* SPDX-License-Identifier: Apache-2.0 */
/* References for routed requests. One thread. */
#include "fake_route.h"

#include <math.h>
#include <string.h>

static bool goes_up(fake_route_count c, float share) {
  return c.looked > 0 && (double)c.unsure / c.looked > (double)share;
}

static void write_receipts(const fake_job *j, fake_text *x, bool large, bool skipped) {
  for (int32_t k = j->n_prompt; k < x->n; k++) {
    const bool seen = !large || (k == j->n_prompt && !skipped);
    x->receipt[k] = (weir_receipt){.entropy = seen ? fake_stats(0, fake_context(x->tok, k))->entropy : NAN,
                                   .tier = large,
                                   .why = large ? WEIR_WHY_ROUTED : WEIR_WHY_EASY};
  }
}

weir_routed fake_route_oracle(const fake_job *j, fake_text *x, fake_route_count *c) {
  const weir_cascade_cfg *g = j->cfg;
  const weir_route *o = &g->route;
  const bool no_row = weir_gate_never_passes(g->gate[0]) && o->share < 1;
  *c = (fake_route_count){0, 0};
  fake_alone(j, 0, x);
  weir_routed to = WEIR_ROUTED_SMALL;
  if (j->pinned) {
    to = WEIR_ROUTED_NOT;
  } else if (no_row) {
    to = WEIR_ROUTED_LARGE;
  } else if (o->share < 1) {
    const int32_t in_prompt = o->prompt < j->n_prompt ? o->prompt : j->n_prompt;
    const int32_t after = o->after > x->n - j->n_prompt ? x->n - j->n_prompt : o->after;
    for (int32_t n = j->n_prompt + 1 - (in_prompt > 1 ? in_prompt : 1);
         n < j->n_prompt + (after > 1 ? after : 1); n++) {
      if (g->gate[0].kind == WEIR_GATE_CHANCE && n != j->n_prompt) continue; /* one coin, of the first row */
      c->looked++;
      c->unsure += weir_gate_defers(g->gate[0], fake_stats(0, fake_context(x->tok, n)));
    }
    if (goes_up(*c, o->share)) to = WEIR_ROUTED_LARGE;
  }
  if (to == WEIR_ROUTED_LARGE) fake_alone(j, 2, x);
  write_receipts(j, x, to == WEIR_ROUTED_LARGE, no_row);
  return to;
}

void fake_route_check(fake_req *r, const weir_cascade *before, const weir_need *q, const weir_row *rows,
                      const weir_effect *e) {
  const weir_cascade_cfg *g = r->c.cfg;
  const weir_view *v = &r->v;
  const int32_t prompt = r->job.n_prompt;
  fake_route_count *c = &r->routed;
  if (before->route.to != WEIR_ROUTED_OPEN || q->tier > 0) return;
  const bool coin = g->gate[0].kind == WEIR_GATE_CHANCE;
  for (int32_t p = q->out_from; p < v->n && !v->ended; p++) {
    if (coin && p != prompt - 1) continue;
    c->looked++;
    c->unsure += weir_gate_defers(g->gate[0], &rows[p - q->out_from]);
  }
  FAKE_CHECK(r->c.route.looked == c->looked && r->c.route.unsure == c->unsure, "%d of %d rows, want %d of %d",
             (int)r->c.route.unsure, (int)r->c.route.looked, (int)c->unsure, (int)c->looked);
  FAKE_CHECK(v->committed == prompt, "%d tokens are shown and it is open", (int)(v->committed - prompt));
  const bool now = v->ended || v->n + 1 - prompt >= g->route.after, up = now && goes_up(*c, g->route.share);
  const weir_routed want = !now             ? WEIR_ROUTED_OPEN
                           : !up            ? WEIR_ROUTED_SMALL
                           : before->hi < 1 ? WEIR_ROUTED_WANTED
                                            : WEIR_ROUTED_LARGE;
  FAKE_CHECK(r->c.route.to == want, "%s, want %s", weir_routed_name(r->c.route.to), weir_routed_name(want));
  FAKE_CHECK((e->reason == WEIR_ROUTED) == (want == WEIR_ROUTED_LARGE), "reason %d", e->reason);
  if (want == WEIR_ROUTED_LARGE)
    FAKE_CHECK(e->append < 0 && e->truncate_to == (v->n > prompt ? prompt : -1), "cuts to %d, appends %d",
               (int)e->truncate_to, (int)e->append);
  if (want == WEIR_ROUTED_WANTED)
    FAKE_CHECK(e->wanted_from == prompt && e->wanted_to == v->n && (v->ended || e->wanted_up),
               "marks %d to %d", (int)e->wanted_from, (int)e->wanted_to);
}

weir_cascade_cfg fake_any_route(void) {
  static const int32_t prompts[] = {0, 0, 1, 2, 4, 9, 64}, afters[] = {0, 0, 1, 2, 5, 30, WEIR_FAR};
  weir_cascade_cfg g = {.n_tiers = 2, .horizon = WEIR_FAR};
  for (int t = 0; t < WEIR_MAX_TIERS; t++) {
    g.window[t] = WEIR_FAR;
    g.hold[t] = 1;
  }
  g.gate[0] = fake_any_gate();
  if (!fake_rnd(12)) g.gate[0] = (weir_gate){.kind = WEIR_GATE_ENTROPY, .threshold = -1};
  g.route = (weir_route){.on = true, .prompt = prompts[fake_rnd(7)], .after = afters[fake_rnd(7)]};
  if (g.route.prompt + g.route.after == 0) g.route.prompt = 3;
  g.route.share = 0.1f * (float)fake_rnd(11);
  if (g.gate[0].kind == WEIR_GATE_CHANCE) g.route.share = 0.5f;
  const char *wrong = weir_cascade_cfg_error(&g);
  FAKE_CHECK(!wrong, "a sound configuration is refused: %s", wrong);
  return g;
}
