/* SPDX-License-Identifier: Apache-2.0 */
/* From lists of options to settings. An option of a mode with several values is a row of `axes`; whether a
 * mode has it is asked of cascade_conf.c, which knows. Pure but for its memory; main thread. */
#include "programs/eval_plan.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "programs/setting.h"

/* Options of which a list may be given, outermost first: one whose meaning depends on another stands behind
 * it. The thresholds have rules of their own and are innermost. */
static const struct {
  const char *name;
  uint32_t option;
  size_t at; /* of its field in weir_cascade_opts */
  enum { FLOAT, INT, RULE } kind;
} axes[] = {
#define AT(field) offsetof(weir_cascade_opts, field)
    {"accept", WEIR_OPT_ACCEPT, AT(accept), RULE},
    {"accept-alpha", WEIR_OPT_ACCEPT_ALPHA, AT(accept_alpha), FLOAT},
    {"window", WEIR_OPT_WINDOW, AT(window), INT},
    {"route-share", WEIR_OPT_ROUTE_SHARE, AT(route_share), FLOAT},
#undef AT
};
enum { N_AXES = sizeof axes / sizeof *axes, MAX_MODES = 32 };

typedef struct planner {
  const weir_config *c;
  weir_eval_plan *plan;
  weir_mode mode[MAX_MODES];
  int32_t n_modes;
  const double *threshold; /* [n_thresholds], borrowed */
  int32_t n_thresholds;
  bool rated;      /* they are deferral rates */
  bool for_drafts; /* no mode of the list has a gate of its own: they end drafts */
  bool strict;     /* one mode with one rule: what it does not have is refused in its own words */
  uint32_t used;   /* options that meant something in some setting */
} planner;

/* ---- texts ---- */

static void add_part(char *buf, const char *part) {
  const size_t n = strlen(buf);
  snprintf(buf + n, WEIR_EVAL_NAME_BYTES - n, "%s%s", n ? ", " : "", part);
}

void weir_eval_setting_text(const weir_eval_setting *s, char buf[WEIR_EVAL_NAME_BYTES]) {
  const weir_cascade_opts *o = &s->opts;
  const weir_cascade_cfg *g = &s->cascade;
  const uint32_t has = weir_cascade_options(o);
  char part[64];
  buf[0] = '\0';
  if (has & WEIR_OPT_ACCEPT) {
    snprintf(part, sizeof part, "%s", weir_accept_name(g->keep[1]));
    if (has & (WEIR_OPT_ACCEPT_ALPHA | WEIR_OPT_ACCEPT_NLL | WEIR_OPT_ACCEPT_EPSILON))
      snprintf(part + strlen(part), sizeof part - strlen(part), " %g", (double)g->keep_a[1]);
    if (has & WEIR_OPT_ACCEPT_DELTA)
      snprintf(part + strlen(part), sizeof part - strlen(part), " %g", (double)g->keep_b[1]);
    add_part(buf, part);
  } else if (o->set & WEIR_OPT_ACCEPT_NLL) {
    snprintf(part, sizeof part, "nll %g", (double)o->accept_nll);
    add_part(buf, part);
  }
  if (o->set & WEIR_OPT_DEFER_RATE) {
    if (g->gate[0].kind != WEIR_GATE_ENTROPY) add_part(buf, weir_gate_name(g->gate[0].kind));
    snprintf(part, sizeof part, "rate %g", (double)o->defer_rate);
    add_part(buf, part);
  } else if ((o->set & WEIR_OPT_THRESHOLD) || isfinite(g->gate[0].threshold)) {
    const bool chance = g->gate[0].kind == WEIR_GATE_CHANCE;
    snprintf(part, sizeof part, chance ? "%s %.3f" : "%s %g", weir_gate_name(g->gate[0].kind),
             (double)g->gate[0].threshold);
    add_part(buf, part);
  }
  if ((has & WEIR_OPT_WINDOW) && g->window[0] < WEIR_FAR) {
    snprintf(part, sizeof part, "window %d", (int)g->window[0]);
    add_part(buf, part);
  }
  if (has & WEIR_OPT_ROUTE_SHARE) {
    if (!(o->set & WEIR_OPT_DEFER_RATE)) {
      snprintf(part, sizeof part, "share %g", (double)g->route.share);
      add_part(buf, part);
    }
    if (g->route.prompt > 0) {
      snprintf(part, sizeof part, "prompt %d", (int)g->route.prompt);
      add_part(buf, part);
    }
    if (g->route.after > 0) {
      snprintf(part, sizeof part, g->route.after >= WEIR_FAR ? "after end" : "after %d", (int)g->route.after);
      add_part(buf, part);
    }
  }
  if (o->set & WEIR_OPT_FUSION_WEIGHT) {
    snprintf(part, sizeof part, "fusion %g", (double)o->fusion_weight);
    add_part(buf, part);
  }
  if (o->set & WEIR_OPT_HOLD) {
    snprintf(part, sizeof part, "hold %d", (int)o->hold);
    add_part(buf, part);
  }
  if (o->set & WEIR_OPT_HORIZON) {
    snprintf(part, sizeof part, "horizon %d", (int)o->horizon);
    add_part(buf, part);
  }
}

/* ---- settings ---- */

/* In rollback and speculate, and with a longer hold, the large model writes more tokens than the gate defers,
 * and the share to repeat by chance is not the gate's. */
static bool has_control(const weir_eval_setting *s) {
  if (s->opts.mode == WEIR_MODE_ROUTE) return true; /* as many requests, by a coin each */
  return s->opts.mode == WEIR_MODE_DEFER && s->cascade.hold[1] <= 1;
}

static weir_status add_setting(planner *p, const weir_cascade_opts *o, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_eval_plan *plan = p->plan;
  if (plan->n == WEIR_MAX_EVAL_SETTINGS)
    return weir_fail(e, WEIR_EINVAL, "these lists come to more than %d settings", WEIR_MAX_EVAL_SETTINGS);
  if (plan->n == plan->cap) {
    const int32_t cap = plan->cap ? 2 * plan->cap : 16;
    weir_eval_setting *more = NULL;
    WEIR_TRY(WEIR_NEW((size_t)cap, &more, e));
    if (plan->n > 0) memcpy(more, plan->setting, (size_t)plan->n * sizeof *more);
    free(plan->setting);
    plan->setting = more;
    plan->cap = cap;
  }
  weir_eval_setting *s = &plan->setting[plan->n];
  s->opts = *o;
  if (!p->strict) s->opts.set &= weir_cascade_options(o);
  p->used |= s->opts.set;
  WEIR_TRY(weir_cascade_cfg_make(&s->opts, &s->cascade, e));
  s->control = has_control(s);
  plan->n++;
out:
  return st;
}

static weir_status add_thresholds(planner *p, const weir_cascade_opts *o, weir_err *e) {
  weir_status st = WEIR_OK;
  const uint32_t option = p->rated ? WEIR_OPT_DEFER_RATE : WEIR_OPT_THRESHOLD;
  if (!(weir_cascade_options(o) & option) || p->n_thresholds == 0 || (!weir_mode_gated(o->mode) && !p->for_drafts))
    return add_setting(p, o, e);
  for (int32_t i = 0; i < p->n_thresholds; i++) {
    weir_cascade_opts one = *o;
    *(p->rated ? &one.defer_rate : &one.threshold) = (float)p->threshold[i];
    one.set |= option;
    WEIR_TRY(add_setting(p, &one, e));
  }
out:
  return st;
}

/* What lies between the commas of the list's texts, one after the other; false at the end. */
static bool next_text(const char *const *list, int32_t n, int32_t *i, const char **at, char *buf,
                      size_t bytes) {
  while (*i < n) {
    if (!*at) *at = list[*i];
    const size_t len = strcspn(*at, ",");
    snprintf(buf, bytes, "%.*s", (int)(len < bytes ? len : bytes), *at);
    *at += len;
    if (**at == ',')
      ++*at;
    else {
      *at = NULL;
      ++*i;
    }
    return true;
  }
  return false;
}

static int32_t count_texts(const weir_config *c, const char *option) {
  int32_t n, i = 0, count = 0;
  const char *at = NULL;
  char text[WEIR_EVAL_NAME_BYTES];
  const char *const *list = weir_config_strings(c, option, &n);
  while (next_text(list, n, &i, &at, text, sizeof text)) count++;
  return count;
}

static weir_status expand(planner *p, int32_t axis, const weir_cascade_opts *o, weir_err *e) {
  weir_status st = WEIR_OK;
  if (axis == N_AXES) return add_thresholds(p, o, e);
  const char *name = axes[axis].name;
  if (!weir_config_is_set(p->c, name) || !(weir_cascade_options(o) & axes[axis].option))
    return expand(p, axis + 1, o, e);
  char text[WEIR_EVAL_NAME_BYTES];
  int32_t n, i = 0;
  const char *next = NULL;
  if (axes[axis].kind == RULE) {
    const char *const *list = weir_config_strings(p->c, name, &n);
    while (next_text(list, n, &i, &next, text, sizeof text)) {
      weir_cascade_opts one = *o;
      if (!weir_accept_parse(text, &one.accept))
        return weir_fail(e, WEIR_EINVAL, "accept rule %s is not known", text);
      one.set |= axes[axis].option;
      WEIR_TRY(expand(p, axis + 1, &one, e));
    }
    return WEIR_OK;
  }
  const double *value = weir_config_floats(p->c, name, &n);
  for (; i < n; i++) {
    weir_cascade_opts one = *o;
    void *field = (char *)&one + axes[axis].at;
    if (axes[axis].kind == INT && value[i] != floor(value[i]))
      return weir_fail(e, WEIR_EINVAL, "%s: want a whole number, got %g", name, value[i]);
    if (axes[axis].kind == INT)
      *(int32_t *)field = (int32_t)value[i]; /* within the option's bounds */
    else
      *(float *)field = (float)value[i];
    one.set |= axes[axis].option;
    WEIR_TRY(expand(p, axis + 1, &one, e));
  }
out:
  return st;
}

/* ---- the command line ---- */

static weir_status read_modes(planner *p, weir_err *e) {
  int32_t n, i = 0;
  const char *at = NULL;
  char name[WEIR_EVAL_NAME_BYTES];
  const char *const *list = weir_config_strings(p->c, "mode", &n);
  while (next_text(list, n, &i, &at, name, sizeof name)) {
    weir_mode mode;
    if (!weir_mode_parse(name, &mode)) return weir_fail(e, WEIR_EINVAL, "mode %s is not known", name);
    if (mode == WEIR_MODE_SMALL || mode == WEIR_MODE_LARGE) continue; /* both are measured anyway */
    for (int32_t k = 0; k < p->n_modes; k++)
      if (p->mode[k] == mode) return weir_fail(e, WEIR_EINVAL, "mode %s is given twice", name);
    if (p->n_modes == MAX_MODES) return weir_fail(e, WEIR_EINVAL, "want at most %d modes", MAX_MODES);
    p->mode[p->n_modes++] = mode;
  }
  return WEIR_OK;
}

static bool any_gated(const planner *p) {
  for (int32_t i = 0; i < p->n_modes; i++)
    if (weir_mode_gated(p->mode[i])) return true;
  return false;
}

/* Beside rates of requests, which move the share of rows, the gate keeps its threshold: one, not a list. */
static weir_status read_threshold_of_route(planner *p, weir_cascade_opts *o, const char *name, weir_err *e) {
  int32_t n;
  const double *x = weir_config_floats(p->c, name, &n);
  if (n != 1) return weir_fail(e, WEIR_EINVAL, "--%s: beside --defer-rate want one threshold, got %d", name, n);
  o->threshold = (float)x[0];
  o->set |= WEIR_OPT_THRESHOLD;
  return WEIR_OK;
}

/* Of --entropy, --threshold and --defer-rate the one that counts. */
static weir_status read_thresholds(planner *p, weir_cascade_opts *o, weir_err *e) {
  const bool of_requests = p->n_modes == 1 && p->mode[0] == WEIR_MODE_ROUTE;
  const bool other = (o->set & WEIR_OPT_GATE) && o->gate != WEIR_GATE_ENTROPY;
  static const char *const list[] = {"entropy", "threshold"};
  p->for_drafts = !any_gated(p);
  if (weir_config_is_set(p->c, "defer-rate")) {
    for (int i = 0; i < 2; i++)
      if (of_requests && weir_config_is_set(p->c, list[i])) {
        if (read_threshold_of_route(p, o, list[i], e) != WEIR_OK) return WEIR_EINVAL;
      } else if (weir_config_is_set(p->c, list[i]))
        return weir_fail(e, WEIR_EINVAL, "--defer-rate sets the threshold itself: leave out --%s (%s: %s)",
                         list[i], list[i], weir_config_source(p->c, list[i]));
    p->threshold = weir_config_floats(p->c, "defer-rate", &p->n_thresholds);
    p->rated = true;
    return WEIR_OK;
  }
  if (other && weir_config_is_set(p->c, "entropy"))
    return weir_fail(e, WEIR_EINVAL, "--entropy is for the entropy gate; with --gate %s give --threshold",
                     weir_gate_name(o->gate));
  if (!other && weir_config_is_set(p->c, "threshold"))
    return weir_fail(e, WEIR_EINVAL, "--threshold is for another --gate; the entropy gate has --entropy");
  if (p->for_drafts && !weir_config_is_set(p->c, list[other]))
    return WEIR_OK; /* drafts run to their window */
  p->threshold = weir_config_floats(p->c, list[other], &p->n_thresholds);
  if (other && p->n_thresholds == 0)
    return weir_fail(e, WEIR_EINVAL, "--gate %s needs --threshold or --defer-rate", weir_gate_name(o->gate));
  return WEIR_OK;
}

/* An option of which nothing came. With a single mode its own words are better. */
static weir_status refuse_unused(const planner *p, uint32_t given, weir_err *e) {
  const uint32_t unused = given & ~p->used;
  if (!unused) return WEIR_OK;
  const char *name = weir_cascade_option_name(unused & (~unused + 1));
  if (p->n_modes == 1)
    return weir_fail(e, WEIR_EINVAL, "%s has no meaning in mode %s%s", name, weir_mode_name(p->mode[0]),
                     weir_config_is_set(p->c, "accept") ? " with this rule" : "");
  return weir_fail(e, WEIR_EINVAL, "%s has no meaning in any of these modes", name);
}

weir_status weir_eval_plan_make(const weir_config *c, weir_eval_plan *plan, weir_err *e) {
  weir_status st = WEIR_OK;
  planner p = {.c = c, .plan = plan};
  weir_cascade_opts all;
  uint32_t given = 0;
  WEIR_TRY(read_modes(&p, e));
  /* a mode to ask with: what is set does not depend on which cascade it is */
  WEIR_TRY(weir_setting_cascade(c, WEIR_MODE_DEFER, &all, e));
  WEIR_TRY(read_thresholds(&p, &all, e));
  given = all.set;
  p.strict = p.n_modes == 1 && count_texts(c, "accept") <= 1;
  for (int32_t i = 0; i < N_AXES; i++)
    if (weir_config_is_set(c, axes[i].name)) given |= axes[i].option;
  if (p.n_thresholds > 0 &&
      (p.rated || weir_config_is_set(c, "entropy") || weir_config_is_set(c, "threshold")))
    given |= p.rated ? WEIR_OPT_DEFER_RATE : WEIR_OPT_THRESHOLD;
  for (int32_t i = 0; i < p.n_modes; i++) {
    weir_cascade_opts o = all;
    o.mode = p.mode[i];
    WEIR_TRY(expand(&p, 0, &o, e));
  }
  st = refuse_unused(&p, given, e);
out:
  return st;
}

void weir_eval_plan_fini(weir_eval_plan *plan) {
  free(plan->setting);
  *plan = (weir_eval_plan){0};
}

weir_status weir_eval_control(const weir_eval_setting *s, double rate, weir_eval_setting *out, weir_err *e) {
  *out = *s;
  out->control = false;
  out->opts.gate = WEIR_GATE_CHANCE;
  out->opts.threshold = (float)rate;
  out->opts.set |= WEIR_OPT_GATE | WEIR_OPT_THRESHOLD;
  out->opts.set &= ~(uint32_t)(WEIR_OPT_ROUTE_SHARE | WEIR_OPT_DEFER_RATE | WEIR_OPT_DEFER_BURST | WEIR_OPT_LOAD_PRICE);
  return weir_cascade_cfg_make(&out->opts, &out->cascade, e);
}
