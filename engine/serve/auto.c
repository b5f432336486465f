/* SPDX-License-Identifier: Apache-2.0 */
/* The controller of mode auto: step times by size, what texts are like, what a mode costs at a load, and when
 * to change. Pure arithmetic; owns nothing; loop thread only. */
#include "serve/auto.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define HORIZON_NS 3e9           /* a load is taken to last so long: what a change must pay back within */
#define STALE_NS   60000000000LL /* a measurement older than that is tried again */
#define CREDIT_NS  5e9           /* of trials, at most */
#define LOAD_NS    50e6          /* time constant of the load */
enum { HOLD_STEPS = 6, LEAST_TOKENS = 16, FAR_AWAY = 6 };

weir_auto_rules weir_auto_rules_default(void) {
  return (weir_auto_rules){.margin = 0.05, .hold_ns = 150000000, .explore = 0.02};
}

void weir_auto_init(weir_auto *a, const weir_auto_rules *r) {
  *a = (weir_auto){.rules = *r, .up = {true, true}};
  /* What teaches most: both tiers' step times and how often the large one is needed. */
  for (int q = 0; q < WEIR_N_QUALITIES; q++)
    a->floor[q].mode = q == WEIR_QUALITY_EXACT ? WEIR_AUTO_EXACT : WEIR_AUTO_CASCADE;
}

static double clamp(double x, double lo, double hi) { return x < lo ? lo : x > hi ? hi : x; }

static bool uses(weir_auto_mode m, int32_t t) { return t == 0 ? m != WEIR_AUTO_LARGE : m != WEIR_AUTO_SMALL; }

/* Without it the mode does not work: `defer` goes on without the large tier. */
static bool needs(weir_auto_mode m, int32_t t) {
  return t == 0 ? m != WEIR_AUTO_LARGE : m == WEIR_AUTO_LARGE || m == WEIR_AUTO_EXACT;
}

bool weir_auto_needs(weir_quality q, int32_t t) {
  const unsigned allowed = weir_quality_modes(q);
  for (int m = 0; m < WEIR_N_AUTO_MODES; m++)
    if ((allowed >> m & 1) && !needs((weir_auto_mode)m, t)) return false;
  return true;
}

/* ---- step times ---- */

static int32_t size_of(double rows) {
  int32_t k = 0;
  while (k < 13 && rows >= (double)(2 << k)) k++;
  const int32_t i = 2 * k + (rows >= 1.5 * (double)(1 << k));
  return i < WEIR_AUTO_SIZES ? i : WEIR_AUTO_SIZES - 1;
}

static void learn_size(weir_auto_size *size, double rows, double ns) {
  weir_auto_size *z = &size[size_of(rows)];
  const double keep = z->rows == 0 ? 0 : 0.8;
  if (keep > 0 && ns > 4 * z->ns) ns = 4 * z->ns; /* somebody else had the machine */
  z->rows = keep * z->rows + (1 - keep) * rows;
  z->ns = keep * z->ns + (1 - keep) * ns;
}

/* Slope of time over rows between two points, never more than in proportion. */
static double slope(double r0, double t0, double r1, double t1) {
  return r1 > r0 ? clamp((t1 - t0) / (r1 - r0), 0, t0 / r0) : 0;
}

static double time_at(const weir_auto_size *z, const weir_auto_size *any, double rows) {
  int32_t lo = -1, hi = -1, first = -1, second = -1, before = -1;
  if (rows < 1) rows = 1;
  for (int32_t i = 0; i < WEIR_AUTO_SIZES; i++) {
    if (z[i].rows == 0) continue;
    if (first < 0)
      first = i;
    else if (second < 0)
      second = i;
    if (z[i].rows <= rows) {
      before = lo;
      lo = i;
    } else if (hi < 0) {
      hi = i;
    }
  }
  if (first < 0) return 0;
  if (lo >= 0 && hi >= 0) {
    const double at = (rows - z[lo].rows) / (z[hi].rows - z[lo].rows);
    return z[lo].ns + at * (z[hi].ns - z[lo].ns);
  }
  if (lo < 0) { /* below all: between in proportion and flat */
    const double r0 = z[first].rows, t0 = z[first].ns;
    if (second < 0) return t0 * sqrt(rows / r0);
    const double t = t0 - slope(r0, t0, z[second].rows, z[second].ns) * (r0 - rows);
    return t > t0 * rows / r0 ? t : t0 * rows / r0;
  }
  /* Above all: prompts have had larger steps, and say how these grow; else as the last two sizes did, or half
   * in proportion. */
  const double r0 = z[lo].rows, t0 = z[lo].ns;
  int32_t top = -1;
  for (int32_t i = lo + 1; i < WEIR_AUTO_SIZES; i++) {
    if (any[i].rows <= r0) continue;
    top = i;
    if (any[i].rows >= rows) break;
  }
  double s = 0.5 * t0 / r0;
  if (top >= 0)
    s = slope(r0, t0, any[top].rows, any[top].ns);
  else if (before >= 0)
    s = slope(z[before].rows, z[before].ns, r0, t0);
  return t0 + s * (rows - r0);
}

/* What a head on each row may add, as long as nobody has measured it. */
#define HEADS 1.25

double weir_auto_step_ns(const weir_auto_curve *c, double rows) {
  const double ns = time_at(c->full, c->any, rows);
  return ns > 0 ? ns : HEADS * time_at(c->part, c->any, rows);
}

double weir_auto_part_ns(const weir_auto_curve *c, double rows) {
  const double ns = time_at(c->part, c->any, rows);
  return ns > 0 ? ns : time_at(c->full, c->any, rows);
}

/* Time of the step that its prompt rows took. */
static double learn_step(weir_auto_curve *c, double rows, double prompt, double answers, double ns) {
  learn_size(c->any, rows, ns);
  if (prompt < 1) {
    learn_size(2 * answers >= rows ? c->full : c->part, rows, ns);
    return 0;
  }
  const double others = rows - prompt, beside = others >= 1 ? weir_auto_step_ns(c, others) : 0;
  if (others >= 1 && beside == 0) return ns * prompt / rows;
  const double one = clamp((ns - beside) / prompt, 0, ns / prompt);
  const double learn = c->prompt_row_ns == 0 ? 1 : clamp(prompt / 256, 0.02, 0.3);
  if (prompt >= 4 || c->prompt_row_ns == 0) c->prompt_row_ns += learn * (one - c->prompt_row_ns);
  return clamp(others >= 1 ? ns - beside : ns, 0, ns);
}

/* ---- what a mode costs ---- */

typedef struct machine { /* what predictions are made of */
  const weir_auto *a;
  double k, e, r; /* drafts and tokens of a cycle, share deferred */
} machine;

/* Before anything is known, or as an optimist would have it. */
static machine machine_of(const weir_auto *a, bool optimist) {
  machine x = {a, 5, 0, optimist ? 0.02 : 0.12};
  const double stands = optimist ? 0.9 : 0.7;
  if (a->cycles >= 4) x.k = a->cycle_drafts / a->cycles;
  x.e = (1 - pow(stands, x.k + 1)) / (1 - stands);
  if (a->cycles >= 4) x.e = a->cycle_tokens / a->cycles;
  if (a->written >= 16) x.r = a->deferred / a->written;
  return x;
}

static double step_ns(const machine *x, int32_t t, double rows) {
  const double ns = weir_auto_step_ns(&x->a->tier[t], rows);
  return ns > 0 ? ns + x->a->overhead_ns : 0;
}

/* Of the large tier, in `defer`: it catches up. */
static double part_ns(const machine *x, double rows) {
  const double ns = weir_auto_part_ns(&x->a->tier[1], rows);
  return ns > 0 ? ns + x->a->overhead_ns : 0;
}

/* Requests that a large step finds waiting, where `small` is the time of a step they come from. */
static double gathered(const machine *x, double b, double per_step, double small) {
  const double most =
      x->a->rules.large_batch > 0 && x->a->rules.large_batch < b ? x->a->rules.large_batch : b;
  const double waited = small > 0 ? 1 + (double)x->a->rules.large_wait_ns / small : 1;
  return clamp(per_step * waited, 1, most);
}

static double predict_shared(const machine *x, weir_auto_mode m, double b) {
  const double small = uses(m, 0) ? step_ns(x, 0, b) : 0;
  if (uses(m, 0) && small == 0) return 0;
  if (m == WEIR_AUTO_SMALL) return small / b;
  if (m == WEIR_AUTO_LARGE) return step_ns(x, 1, b) / b;
  if (step_ns(x, 1, b) == 0) return 0;
  if (m == WEIR_AUTO_EXACT) return (x->k * small + step_ns(x, 1, b * (x->k + 1))) / (b * x->e);
  if (x->r < 1e-6) return small / b;
  const double w = gathered(x, b, b * x->r, small), at_small = b > 1 ? b - w / 2 : 1;
  return step_ns(x, 0, at_small) / at_small + x->r / w * part_ns(x, w / x->r);
}

/* b requests go round: so long in small steps, so long for a large one, which is under way half the time when
 * there are others. Solved for the share that is at the large tier. */
static double predict_overlap(const machine *x, weir_auto_mode m, double b) {
  if (m == WEIR_AUTO_SMALL) return step_ns(x, 0, b) / b;
  if (m == WEIR_AUTO_LARGE) return step_ns(x, 1, b) / b;
  const bool exact = m == WEIR_AUTO_EXACT;
  if (!exact && x->r < 1e-6) return step_ns(x, 0, b) / b;
  const double turns = exact ? x->k : 1 / x->r, rows = exact ? x->k + 1 : 1 / x->r;
  const double gain = exact ? x->e : 1 / x->r, wait = 1 + 0.5 * (1 - 1 / b);
  double up = 0.3 * b, cycle = 0;
  for (int32_t i = 0; i < 30; i++) {
    const double down = b - up > 1 ? b - up : 1, w = up / wait > 1 ? up / wait : 1;
    const double small = step_ns(x, 0, down), large = exact ? step_ns(x, 1, w * rows) : part_ns(x, w * rows);
    if (small == 0 || large == 0) return 0;
    cycle = turns * small + wait * large;
    up = 0.5 * up + 0.5 * b * wait * large / cycle;
  }
  return cycle / (b * gain);
}

static double predict(const machine *x, weir_auto_mode m, double b) {
  return x->a->rules.overlap ? predict_overlap(x, m, b) : predict_shared(x, m, b);
}

static int32_t load_of(double b) {
  return (int32_t)clamp(floor(2 * log2(b < 1 ? 1 : b) + 0.5), 0, WEIR_AUTO_LOADS - 1);
}

static const struct weir_auto_cell *nearest(const weir_auto *a, weir_auto_mode m, double b, int32_t *away) {
  const int32_t at = load_of(b);
  for (int32_t d = 0; d < WEIR_AUTO_LOADS; d++)
    for (int32_t side = -1; side <= 1; side += 2) {
      const int32_t i = at + side * d;
      if (i < 0 || i >= WEIR_AUTO_LOADS || a->cell[m][i].ratio == 0) continue;
      *away = d;
      return &a->cell[m][i];
    }
  *away = WEIR_AUTO_LOADS;
  return NULL;
}

static double correction(const weir_auto *a, weir_auto_mode m, double b) {
  int32_t away;
  const struct weir_auto_cell *c = nearest(a, m, b, &away);
  return c && !a->rules.no_correction ? pow(c->ratio, pow(0.9, away)) : 1;
}

/* Of the prompt rows of a token, on the tiers the mode feeds. */
static double prompt_ns(const weir_auto *a, weir_auto_mode m) {
  const double rho = a->new_tokens > 0 ? a->prompt_rows / a->new_tokens : a->first_rho;
  double large = uses(m, 1) ? rho * a->tier[1].prompt_row_ns : 0;
  const double small = uses(m, 0) ? rho * a->tier[0].prompt_row_ns : 0;
  if (m == WEIR_AUTO_CASCADE && a->requests > 0) large *= a->needed_large / a->requests;
  if (a->rules.overlap) return small > large ? small : large;
  return small + large;
}

static double cost(const weir_auto *a, weir_auto_mode m, double b, bool optimist) {
  const machine x = machine_of(a, optimist);
  const double ns = predict(&x, m, b < 1 ? 1 : b);
  return ns > 0 ? ns / correction(a, m, b) + prompt_ns(a, m) : 0;
}

double weir_auto_cost(const weir_auto *a, weir_auto_mode m, double load) { return cost(a, m, load, false); }

/* To feed what the tiers of a mode have not seen of those under way. */
static double catchup_ns(const weir_auto *a, weir_auto_mode m) {
  const double small = needs(m, 0) ? (double)a->unseen[0] * a->tier[0].prompt_row_ns : 0;
  const double large = needs(m, 1) ? (double)a->unseen[1] * a->tier[1].prompt_row_ns : 0;
  return a->rules.overlap ? (small > large ? small : large) : small + large;
}

/* ---- measuring ---- */

/* For a measurement: some steps of the large tier, and many where few tokens have one. */
static double least_tokens(const weir_auto *a, weir_auto_mode m, double load) {
  double n = (m == WEIR_AUTO_LARGE || m == WEIR_AUTO_SMALL ? 6 : m == WEIR_AUTO_EXACT ? 10 : 20) * load;
  if (m == WEIR_AUTO_CASCADE) {
    const double r = machine_of(a, false).r, some = r > 0.02 ? 6 / r : 300;
    if (n < some) n = some;
  }
  return n > LEAST_TOKENS ? n : LEAST_TOKENS;
}

static void close_window(weir_auto *a) {
  struct weir_auto_window *w = &a->window;
  const double load = w->load / w->steps, ns = (w->ns - w->prompt_ns) / w->tokens;
  const machine x = machine_of(a, false);
  const double said = predict(&x, w->mode, load);
  struct weir_auto_cell *c = &a->cell[w->mode][load_of(load)];
  if (said == 0 || !(ns > 0)) return;
  const double ratio = clamp(said / ns, 0.1, 10), learn = c->ratio == 0 ? 1 : 0.3;
  c->ratio += learn * (ratio - c->ratio);
  c->ns_per_token += learn * (ns - c->ns_per_token);
  c->at_ns = a->now_ns;
}

/* All that run are in one mode, and its tiers have seen their texts: then time and tokens are the mode's. */
static bool is_pure(const weir_auto *a, const weir_auto_step *s, weir_auto_mode *m) {
  for (int i = 0; i < WEIR_N_AUTO_MODES; i++) {
    if (s->of[i] != s->active || s->active == 0) continue;
    *m = (weir_auto_mode)i;
    for (int32_t t = 0; t < 2; t++)
      if (needs(*m, t) && a->unseen[t] > 16 * (int64_t)s->active) return false;
    return true;
  }
  return false;
}

void weir_auto_unseen(weir_auto *a, const int64_t rows[2]) { memcpy(a->unseen, rows, sizeof a->unseen); }

void weir_auto_step_done(weir_auto *a, const weir_auto_step *s) {
  struct weir_auto_window *w = &a->window;
  weir_auto_mode mode;
  const double took = (double)(s->now_ns - s->from_ns), device = (double)s->device_ns;
  a->now_ns = s->now_ns;
  a->steps++;
  if (!w->drop) w->tokens += a->pending_tokens;
  a->pending_tokens = 0;
  w->drop = false;
  const double load = s->active, near = w->open && w->steps > 0 ? w->load / w->steps : load;
  if (fabs(load - near) > 1 && fabs(log2(load / near)) > 0.5) w->open = false;
  if (w->open && w->steps > 0 && w->tokens >= least_tokens(a, w->mode, near) * (w->whole ? 1 : 3)) {
    const bool whole = w->whole;
    close_window(a);
    *w = (struct weir_auto_window){.mode = w->mode, .open = whole};
  }

  const double prompt = learn_step(&a->tier[s->tier], s->rows, s->prompt_rows, s->answers, device);
  if (!a->rules.overlap) a->overhead_ns += 0.05 * (clamp(took - device, 0, device) - a->overhead_ns);
  const double follow = 1 - exp(-took / LOAD_NS);
  a->load += (a->load == 0 ? 1 : follow > 0.1 ? follow : 0.1) * (load - a->load);
  a->credit_ns = clamp(a->credit_ns + a->rules.explore * took, -CREDIT_NS, CREDIT_NS);

  if (!is_pure(a, s, &mode)) {
    w->open = false;
    return;
  }
  const bool ends = mode != WEIR_AUTO_EXACT || s->tier == 1; /* a cycle */
  if (!w->open || w->mode != mode) {                         /* from the end of this step on */
    *w = (struct weir_auto_window){.mode = mode, .open = ends, .drop = true};
    return;
  }
  w->whole = mode == WEIR_AUTO_CASCADE ? s->tier == 1 : ends;
  w->ns += took;
  w->prompt_ns += prompt;
  w->load += load;
  w->steps++;
}

void weir_auto_idle(weir_auto *a) {
  a->window.open = false;
  a->pending_tokens = 0;
}

void weir_auto_wrote(weir_auto *a, weir_auto_mode m, int32_t n) {
  a->tokens[m] += n;
  a->pending_tokens += n;
  for (int q = 0; q < WEIR_N_QUALITIES; q++)
    if (a->floor[q].trial_ns && a->floor[q].mode == m) a->floor[q].trial_tokens += n;
}

/* Sums in which what lies `memory` back counts for a third. */
static void decay(double *x, double *y, double *z, double memory) {
  const double keep = 1 - 1 / memory;
  *x *= keep;
  *y *= keep;
  if (z) *z *= keep;
}

void weir_auto_cycle(weir_auto *a, int32_t drafts, int32_t gained) {
  decay(&a->cycles, &a->cycle_drafts, &a->cycle_tokens, 500);
  a->cycles++;
  a->cycle_drafts += drafts;
  a->cycle_tokens += gained;
}

void weir_auto_deferral(weir_auto *a, bool large) {
  decay(&a->written, &a->deferred, NULL, 2000);
  a->written++;
  a->deferred += large;
}

void weir_auto_begin(weir_auto *a, weir_quality q, int32_t n_prompt, int32_t max_new) {
  a->floor[q].used = true;
  if (a->first_rho == 0 && max_new > 0) a->first_rho = (double)n_prompt / max_new;
}

void weir_auto_end(weir_auto *a, int32_t prompt_rows, int32_t new_tokens, int32_t needed_large) {
  decay(&a->prompt_rows, &a->new_tokens, NULL, 50);
  a->prompt_rows += prompt_rows;
  a->new_tokens += new_tokens;
  if (needed_large < 0) return;
  decay(&a->requests, &a->needed_large, NULL, 50);
  a->requests++;
  a->needed_large += needed_large;
}

void weir_auto_tier(weir_auto *a, int32_t t, bool up) { a->up[t] = up; }

/* ---- choosing ---- */

static bool works(const weir_auto *a, weir_quality q, weir_auto_mode m) {
  if (!(weir_quality_modes(q) >> m & 1)) return false;
  for (int32_t t = 0; t < 2; t++)
    if (!a->up[t] && needs(m, t)) return false;
  return true;
}

static double speed(double cost_ns) { return cost_ns > 0 ? 1e9 / cost_ns : 0; }

static void tell(const weir_auto *a, weir_quality q, weir_auto_mode from, const char *because, char *why,
                 size_t bytes) {
  const weir_auto_floor *f = &a->floor[q];
  const size_t have = why ? strlen(why) : 0;
  if (have + 1 >= bytes) return;
  const weir_auto_stats s = weir_auto_get_stats(a);
  snprintf(why + have, bytes - have,
           "%sauto, quality %s: %s instead of %s at %.0f requests: %.0f against %.0f tokens/s by prediction "
           "(measured here: %.0f, %.0f; 0: never)%s",
           have ? "\n" : "", weir_quality_name(q), weir_auto_mode_name(f->mode), weir_auto_mode_name(from),
           a->load, s.predicted[f->mode], s.predicted[from], s.measured[f->mode], s.measured[from], because);
}

/* Another mode from here on. */
static void enter(weir_auto_floor *f, weir_auto_mode m) {
  f->mode = m;
  f->better_ns = f->trial_ns = 0;
}

/* The mode in force cannot go on. */
static bool must_leave(weir_auto *a, weir_quality q, char *why, size_t bytes) {
  weir_auto_floor *f = &a->floor[q];
  if (works(a, q, f->mode)) return false;
  const weir_auto_mode from = f->mode;
  int32_t best = -1;
  double least = 0;
  for (int m = 0; m < WEIR_N_AUTO_MODES; m++) {
    if (!works(a, q, (weir_auto_mode)m)) continue;
    const double c = weir_auto_cost(a, (weir_auto_mode)m, a->load);
    if (best >= 0 && !(c > 0 && (least == 0 || c < least))) continue;
    best = m;
    least = c;
  }
  if (best < 0) return false; /* it waits for its tier, or ends */
  enter(f, (weir_auto_mode)best);
  a->switches++;
  tell(a, q, from, a->up[1] ? ": the small model is down" : ": the large model is down", why, bytes);
  return true;
}

/* A trial ends once its mode was measured, or when it takes far too long. */
static bool end_trial(weir_auto *a, weir_quality q, char *why, size_t bytes) {
  weir_auto_floor *f = &a->floor[q];
  const weir_auto_mode tried = f->mode;
  int32_t away;
  const struct weir_auto_cell *c = nearest(a, tried, a->load, &away);
  const bool known = c && c->at_ns > f->trial_ns;
  const double took = (double)(a->now_ns - f->trial_ns);
  if (!known && (took < 4 * f->trial_want_ns || a->steps - f->trial_steps < 32)) return false;
  const double now = weir_auto_cost(a, tried, a->load), then = weir_auto_cost(a, f->back, a->load);
  const double lost = took - f->trial_tokens * then;
  a->credit_ns -= lost > 0 ? lost : 0;
  /* Twice the margin: a trial is short, and what it measures rough. */
  const bool stays = known && works(a, q, tried) && now > 0 && now * (1 + 2 * a->rules.margin) < then;
  const weir_auto_mode back = f->back;
  enter(f, stays || !works(a, q, back) ? tried : back);
  if (!stays) return f->mode != tried;
  a->switches++;
  tell(a, q, back, " after a trial", why, bytes);
  return true;
}

/* What it could be at best where it has not run; 0: nothing to find out. */
static double hoped(const weir_auto *a, weir_auto_mode m) {
  int32_t away;
  const struct weir_auto_cell *c = nearest(a, m, a->load, &away);
  const bool stale = c && a->now_ns - c->at_ns > STALE_NS;
  if (c && away <= 1 && !stale) return 0;
  const double factor = c && stale && away <= 1 ? 0.9 : c ? 0.85 : 0.8;
  return factor * cost(a, m, a->load, true);
}

static bool try_another(weir_auto *a, weir_quality q) {
  weir_auto_floor *f = &a->floor[q];
  const double now = weir_auto_cost(a, f->mode, a->load);
  int32_t best = -1;
  double least = now / (1 + a->rules.margin);
  int32_t away;
  if (now == 0 || !nearest(a, f->mode, a->load, &away) || away > 0) return false; /* first know what it is */
  for (int m = 0; m < WEIR_N_AUTO_MODES; m++) {
    if (m == (int)f->mode || !works(a, q, (weir_auto_mode)m)) continue;
    const double c = hoped(a, (weir_auto_mode)m);
    if (c == 0 || c >= least) continue;
    best = m;
    least = c;
  }
  if (best < 0) return false;
  const weir_auto_mode m = (weir_auto_mode)best;
  const double likely = weir_auto_cost(a, m, a->load), took = 2 * least_tokens(a, m, a->load) * likely;
  const double slower = clamp(1 - now / likely, 0.1, 1);
  const double loss = took * slower + catchup_ns(a, m);
  if (loss > a->credit_ns) return false;
  f->back = f->mode;
  f->mode = m;
  f->trial_ns = a->now_ns;
  f->trial_steps = a->steps;
  f->trial_tokens = 0;
  f->trial_want_ns = took + catchup_ns(a, m);
  f->better_ns = 0;
  a->probes++;
  return true;
}

/* By how much it must be better: the further from its last measurement a prediction is, the more. */
static double margin_of(const weir_auto *a, weir_auto_mode m) {
  int32_t away;
  nearest(a, m, a->load, &away);
  return a->rules.margin * (1 + (away < FAR_AWAY ? away : FAR_AWAY));
}

static bool choose(weir_auto *a, weir_quality q, char *why, size_t bytes) {
  weir_auto_floor *f = &a->floor[q];
  const double now = weir_auto_cost(a, f->mode, a->load);
  weir_auto_mode best = f->mode;
  double least = now;
  for (int m = 0; m < WEIR_N_AUTO_MODES; m++) {
    const double c = works(a, q, (weir_auto_mode)m) ? weir_auto_cost(a, (weir_auto_mode)m, a->load) : 0;
    if (c == 0 || (least > 0 && c >= least)) continue;
    best = (weir_auto_mode)m;
    least = c;
  }
  const double gap = least > 0 ? now / least - 1 : 0;
  if (best == f->mode || (now > 0 && gap < margin_of(a, best))) {
    f->better_ns = 0;
    return try_another(a, q);
  }
  if (f->better_ns == 0 || f->other != best) {
    f->other = best;
    f->better_ns = a->now_ns;
    f->better_steps = a->steps;
  }
  const double hold = (double)a->rules.hold_ns * (now > 0 ? clamp(a->rules.margin / gap, 0.1, 1) : 0.1);
  if (a->rules.hold_ns > 0 &&
      ((double)(a->now_ns - f->better_ns) < hold || a->steps - f->better_steps < HOLD_STEPS))
    return false;
  /* Two predictions: the one that can be had for nothing is measured first, unless it is far behind. */
  int32_t away;
  nearest(a, f->mode, a->load, &away);
  if (now > 0 && away > 1 && gap < 0.5 && a->now_ns - f->better_ns < 4 * a->rules.hold_ns) return false;
  if (now > 0 && catchup_ns(a, best) > HORIZON_NS * (1 - least / now)) return false;
  const weir_auto_mode from = f->mode;
  enter(f, best);
  a->switches++;
  tell(a, q, from, "", why, bytes);
  return true;
}

bool weir_auto_decide(weir_auto *a, char *why, size_t bytes) {
  bool any = false;
  if (why && bytes) why[0] = '\0';
  for (int q = 0; q < WEIR_N_QUALITIES; q++) {
    weir_auto_floor *f = &a->floor[q];
    if (!f->used) {
      if (!works(a, (weir_quality)q, f->mode)) any |= must_leave(a, (weir_quality)q, NULL, 0);
      continue;
    }
    if (must_leave(a, (weir_quality)q, why, bytes))
      any = true;
    else if (f->trial_ns)
      any |= end_trial(a, (weir_quality)q, why, bytes);
    else if (a->load > 0)
      any |= choose(a, (weir_quality)q, why, bytes);
  }
  return any;
}

weir_auto_stats weir_auto_get_stats(const weir_auto *a) {
  weir_auto_stats s = {.switches = a->switches, .probes = a->probes, .load = a->load};
  for (int q = 0; q < WEIR_N_QUALITIES; q++) s.mode[q] = a->floor[q].mode;
  memcpy(s.tokens, a->tokens, sizeof s.tokens);
  for (int m = 0; m < WEIR_N_AUTO_MODES && a->load > 0; m++) {
    int32_t away;
    const struct weir_auto_cell *c = nearest(a, (weir_auto_mode)m, a->load, &away);
    s.predicted[m] = speed(weir_auto_cost(a, (weir_auto_mode)m, a->load));
    if (c && away <= 1) s.measured[m] = speed(c->ns_per_token + prompt_ns(a, (weir_auto_mode)m));
  }
  return s;
}
