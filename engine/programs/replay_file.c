/* SPDX-License-Identifier: Apache-2.0 */
/* The reader of receipts: lines of JSON to decisions, and those to the policy (cascade/replay.h). What is in
 * a line may be anything: each member is asked for by name, type and range. Owns its state; any thread. */
#include "programs/replay_file.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cascade/cascade_conf.h"
#include "programs/decision_log.h"

enum { NAME_BYTES = 64 };

struct weir_replay_reader {
  weir_replay_report report;
  weir_replay replay;
  bool open; /* a request has begun and not ended */
  int32_t request, n_shown;
  int64_t k; /* decisions of it */
  uint64_t chain;
  int32_t by_tier[WEIR_MAX_TIERS], wanted_up;
  char name[WEIR_MAX_TIERS][NAME_BYTES]; /* of tiers */
  int32_t n_names;
  weir_row *row; /* [row_cap] */
  int32_t row_cap;
  int32_t *forced; /* [forced_cap] */
  int32_t forced_cap;
  weir_gate_map map;
};

/* ---- members ---- */

static weir_status wrong(weir_err *e, const char *name, const char *want) {
  return weir_fail(e, WEIR_EFORMAT, "%s: want %s", name, want);
}

static weir_status get_int(const json_t *o, const char *name, int64_t min, int64_t max, int64_t *out,
                           weir_err *e) {
  const json_t *x = json_object_get(o, name);
  if (!json_is_integer(x) || json_integer_value(x) < min || json_integer_value(x) > max)
    return weir_fail(e, WEIR_EFORMAT, "%s: want a whole number, %" PRId64 " to %" PRId64, name, min, max);
  *out = json_integer_value(x);
  return WEIR_OK;
}

static weir_status get_i32(const json_t *o, const char *name, int32_t min, int32_t *out, weir_err *e) {
  int64_t x = 0;
  const weir_status st = get_int(o, name, min, INT32_MAX, &x, e);
  *out = (int32_t)x;
  return st;
}

static weir_status get_bool(const json_t *o, const char *name, bool *out, weir_err *e) {
  const json_t *x = json_object_get(o, name);
  *out = json_is_true(x);
  return json_is_boolean(x) ? WEIR_OK : wrong(e, name, "true or false");
}

static bool to_float(const json_t *x, float *out) {
  const char *text = json_string_value(x);
  if (json_is_number(x))
    *out = (float)json_number_value(x);
  else if (json_is_null(x))
    *out = NAN;
  else if (text && (!strcmp(text, "inf") || !strcmp(text, "-inf")))
    *out = text[0] == '-' ? -INFINITY : INFINITY;
  else
    return false;
  return !json_is_number(x) || isfinite(*out);
}

static weir_status get_float(const json_t *o, const char *name, float *out, weir_err *e) {
  return to_float(json_object_get(o, name), out) ? WEIR_OK
                                                 : wrong(e, name, "a number, null, \"inf\" or \"-inf\"");
}

static weir_status get_floats(const json_t *o, const char *name, int32_t n, float *out, weir_err *e) {
  const json_t *a = json_object_get(o, name);
  if (!json_is_array(a) || json_array_size(a) != (size_t)n)
    return wrong(e, name, "a list of as many numbers");
  for (int32_t i = 0; i < n; i++)
    if (!to_float(json_array_get(a, (size_t)i), &out[i])) return wrong(e, name, "numbers");
  return WEIR_OK;
}

static weir_status get_ints(const json_t *o, const char *name, int32_t n, int32_t *out, weir_err *e) {
  const json_t *a = json_object_get(o, name);
  if (!json_is_array(a) || json_array_size(a) != (size_t)n)
    return wrong(e, name, "a list of as many numbers");
  for (int32_t i = 0; i < n; i++) {
    const json_t *x = json_array_get(a, (size_t)i);
    if (!json_is_integer(x) || json_integer_value(x) < INT32_MIN || json_integer_value(x) > INT32_MAX)
      return wrong(e, name, "whole numbers");
    out[i] = (int32_t)json_integer_value(x);
  }
  return WEIR_OK;
}

static const char *get_text(const json_t *o, const char *name) {
  const char *s = json_string_value(json_object_get(o, name));
  return s ? s : "";
}

/* Which of the names it is, by the function that gives them. */
#define FIND_NAME(text, name_of, n, type, out) \
  for (int i_ = 0; i_ < (n) && !found; i_++)   \
    if (!strcmp(text, name_of((type)i_))) {    \
      *(out) = (type)i_;                       \
      found = true;                            \
    }

static weir_status get_forced(weir_replay_reader *r, const json_t *o, int32_t *n, weir_err *e) {
  const json_t *a = json_object_get(o, "forced");
  *n = 0;
  if (!a) return WEIR_OK;
  if (!json_is_array(a) || json_array_size(a) > WEIR_REPLAY_TOKENS)
    return wrong(e, "forced", "a list of tokens");
  const int32_t count = (int32_t)json_array_size(a);
  if (count > r->forced_cap) {
    int32_t *grown = realloc(r->forced, (size_t)count * sizeof *grown);
    if (!grown) return weir_fail(e, WEIR_ENOMEM, "no memory for %d tokens", count);
    r->forced = grown;
    r->forced_cap = count;
  }
  *n = count;
  return count > 0 ? get_ints(o, "forced", count, r->forced, e) : WEIR_OK;
}

/* ---- the configuration ---- */

static weir_status get_gates(const json_t *o, weir_cascade_cfg *g, weir_err *e) {
  const json_t *gates = json_object_get(o, "gate"), *keeps = json_object_get(o, "keep");
  if (!json_is_array(gates) || json_array_size(gates) != (size_t)g->n_tiers)
    return wrong(e, "gate", "one a tier");
  if (!json_is_array(keeps) || json_array_size(keeps) != (size_t)g->n_tiers)
    return wrong(e, "keep", "one a tier");
  for (int32_t t = 0; t < g->n_tiers; t++) {
    const json_t *x = json_array_get(gates, (size_t)t);
    const char *keep = json_string_value(json_array_get(keeps, (size_t)t));
    if (!weir_gate_parse(get_text(x, "kind"), &g->gate[t].kind))
      return wrong(e, "gate.kind", "a gate's name");
    const weir_status st = get_float(x, "threshold", &g->gate[t].threshold, e);
    if (st != WEIR_OK) return st;
    g->keep[t] = WEIR_KEEP_ALL;
    if (!keep || (strcmp(keep, "all") != 0 && !weir_accept_parse(keep, &g->keep[t])))
      return wrong(e, "keep", "a rule's name");
  }
  return WEIR_OK;
}

static weir_status get_map(const json_t *o, weir_cascade_cfg *g, weir_gate_map *m, weir_err *e) {
  weir_status st = WEIR_OK;
  const json_t *map = json_object_get(o, "map"), *x = json_object_get(map, "x");
  if (!map) return WEIR_OK;
  if (!json_is_array(x) || json_array_size(x) < 1 || json_array_size(x) > WEIR_GATE_MAP_KNOTS)
    return wrong(e, "map.x", "a list of knots");
  *m = (weir_gate_map){.n = (int32_t)json_array_size(x)};
  if (!weir_gate_stat_parse(get_text(map, "stat"), &m->stat))
    return wrong(e, "map.stat", "a statistic's name");
  WEIR_TRY(get_floats(map, "x", m->n, m->x, e));
  WEIR_TRY(get_floats(map, "y", m->n, m->y, e));
  for (int32_t t = 0; t < g->n_tiers; t++) g->gate[t].map = m;
out:
  return st;
}

static weir_status get_cascade(weir_replay_reader *r, const json_t *line, weir_cascade_cfg *g, weir_err *e) {
  weir_status st = WEIR_OK;
  const json_t *o = json_object_get(line, "cascade"), *route = json_object_get(o, "route");
  int64_t tiers = 0;
  *g = (weir_cascade_cfg){0};
  WEIR_TRY(get_int(o, "tiers", 1, WEIR_MAX_TIERS, &tiers, e));
  g->n_tiers = (int32_t)tiers;
  WEIR_TRY(get_i32(o, "commit_tier", 0, &g->commit_tier, e));
  WEIR_TRY(get_i32(o, "horizon", 0, &g->horizon, e));
  WEIR_TRY(get_ints(o, "window", g->n_tiers, g->window, e));
  WEIR_TRY(get_ints(o, "hold", g->n_tiers, g->hold, e));
  WEIR_TRY(get_gates(o, g, e));
  WEIR_TRY(get_floats(o, "keep_a", g->n_tiers, g->keep_a, e));
  WEIR_TRY(get_floats(o, "keep_b", g->n_tiers, g->keep_b, e));
  WEIR_TRY(get_bool(o, "rated", &g->budget.rated, e));
  WEIR_TRY(get_float(o, "rate", &g->budget.rate, e));
  WEIR_TRY(get_i32(o, "burst", 0, &g->budget.burst, e));
  WEIR_TRY(get_float(o, "load_price", &g->budget.load_price, e));
  WEIR_TRY(get_float(o, "fusion", &g->fusion, e));
  WEIR_TRY(get_bool(o, "gate_moves", &g->gate_moves, e));
  WEIR_TRY(get_int(o, "defer_wait_ns", 0, INT64_MAX, &g->defer_wait_ns, e));
  WEIR_TRY(get_bool(route, "on", &g->route.on, e));
  WEIR_TRY(get_i32(route, "prompt", 0, &g->route.prompt, e));
  WEIR_TRY(get_i32(route, "after", 0, &g->route.after, e));
  WEIR_TRY(get_float(route, "share", &g->route.share, e));
  WEIR_TRY(get_map(o, g, &r->map, e));
out:
  return st;
}

/* ---- lines ---- */

static weir_status take_header(weir_replay_reader *r, const json_t *o, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_cascade_cfg cfg;
  int32_t n_prompt = 0, n_forced = 0;
  bool pinned = false, ended = false;
  const json_t *models = json_object_get(o, "models");
  if (r->open)
    return weir_fail(e, WEIR_EINVAL, "request %d has not ended, and another one begins", r->request);
  WEIR_TRY(get_i32(o, "request", 0, &r->request, e));
  WEIR_TRY(get_i32(o, "prompt_tokens", 1, &n_prompt, e));
  WEIR_TRY(get_bool(o, "pinned", &pinned, e));
  WEIR_TRY(get_bool(o, "ended", &ended, e));
  WEIR_TRY(get_cascade(r, o, &cfg, e));
  WEIR_TRY(get_forced(r, o, &n_forced, e));
  if (!json_is_array(models) || json_array_size(models) < (size_t)cfg.n_tiers ||
      json_array_size(models) > WEIR_MAX_TIERS)
    return wrong(e, "models", "a name for each tier");
  r->n_names = (int32_t)json_array_size(models);
  for (int32_t t = 0; t < r->n_names; t++) {
    const char *name = json_string_value(json_array_get(models, (size_t)t));
    if (!name || strlen(name) >= NAME_BYTES) return wrong(e, "models", "short names");
    strcpy(r->name[t], name);
  }
  weir_replay_fini(&r->replay);
  WEIR_TRY(weir_replay_begin(&r->replay, &cfg, pinned, n_prompt, r->forced, n_forced, ended, e));
  r->open = true;
  r->n_shown = r->wanted_up = 0;
  r->k = 0;
  memset(r->by_tier, 0, sizeof r->by_tier);
  r->report.requests++;
out:
  return st;
}

static weir_status get_rows(weir_replay_reader *r, const json_t *o, weir_decision *d, weir_err *e) {
  const json_t *a = json_object_get(o, "rows");
  if (!json_is_array(a) || json_array_size(a) < 1 || json_array_size(a) > WEIR_REPLAY_TOKENS)
    return wrong(e, "rows", "a list of rows");
  const int32_t n = (int32_t)json_array_size(a);
  if (n > r->row_cap) {
    weir_row *grown = realloc(r->row, (size_t)n * sizeof *grown);
    if (!grown) return weir_fail(e, WEIR_ENOMEM, "no memory for %d rows", n);
    r->row = grown;
    r->row_cap = n;
  }
  for (int32_t i = 0; i < n; i++) {
    const json_t *x = json_array_get(a, (size_t)i), *token = json_array_get(x, 0);
    float f[6];
    if (json_array_size(x) != 7 || !json_is_integer(token) || json_integer_value(token) < 0 ||
        json_integer_value(token) > INT32_MAX)
      return wrong(e, "rows", "[token, H, p_max, margin, logprob, probe_logprob, gate]");
    for (size_t k = 0; k < 6; k++)
      if (!to_float(json_array_get(x, k + 1), &f[k])) return wrong(e, "rows", "numbers");
    r->row[i] = (weir_row){.token = (int32_t)json_integer_value(token),
                           .logprob = f[3],
                           .entropy = f[0],
                           .p_max = f[1],
                           .margin = f[2],
                           .probe_logprob = f[4],
                           .gate = f[5]};
  }
  d->row = r->row;
  d->n_rows = n;
  return WEIR_OK;
}

static weir_status get_effect(const json_t *line, weir_effect *x, weir_err *e) {
  weir_status st = WEIR_OK;
  const json_t *o = json_object_get(line, "effect");
  int32_t pair[2];
  bool found = false;
  FIND_NAME(get_text(o, "reason"), weir_reason_name, WEIR_GAVE_UP + 1, weir_reason, &x->reason)
  if (!found) return wrong(e, "effect.reason", "a reason");
  found = false;
  FIND_NAME(get_text(o, "why"), weir_why_name, WEIR_WHY_ROUTED + 1, weir_why, &x->why)
  if (!found) return wrong(e, "effect.why", "a reason");
  WEIR_TRY(get_i32(o, "append", -1, &x->append, e));
  WEIR_TRY(get_i32(o, "truncate_to", -1, &x->truncate_to, e));
  WEIR_TRY(get_i32(o, "endorsed_by", 0, &x->endorsed_by, e));
  WEIR_TRY(get_i32(o, "endorsed_to", 0, &x->endorsed_to, e));
  WEIR_TRY(get_bool(o, "wanted_up", &x->wanted_up, e));
  WEIR_TRY(get_ints(o, "kept", 2, pair, e));
  x->kept_from = pair[0], x->kept_to = pair[1];
  WEIR_TRY(get_ints(o, "wanted", 2, pair, e));
  x->wanted_from = pair[0], x->wanted_to = pair[1];
  WEIR_TRY(get_float(o, "H", &x->entropy, e));
  WEIR_TRY(get_float(o, "tau", &x->tau, e));
out:
  return st;
}

static weir_status get_need(const json_t *line, weir_need *q, weir_err *e) {
  weir_status st = WEIR_OK;
  const json_t *o = json_object_get(line, "need");
  WEIR_TRY(get_i32(o, "tier", 0, &q->tier, e));
  WEIR_TRY(get_i32(o, "from", 0, &q->from, e));
  WEIR_TRY(get_i32(o, "to", 0, &q->to, e));
  WEIR_TRY(get_i32(o, "out_from", 0, &q->out_from, e));
  WEIR_TRY(get_i32(o, "judge_from", 0, &q->judge_from, e));
out:
  return st;
}

static weir_status take_decision(weir_replay_reader *r, const json_t *o, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_decision d = {0};
  weir_cascade_cfg cfg;
  int64_t k = 0;
  int32_t pair[2];
  bool found = false;
  FIND_NAME(get_text(o, "did"), weir_did_name, WEIR_N_DID, weir_did, &d.did)
  if (!found) return wrong(e, "did", "observe, give_up, settle or switch");
  WEIR_TRY(get_int(o, "k", 0, INT64_MAX, &k, e));
  if (k != r->k)
    return weir_fail(e, WEIR_EINVAL,
                     "this is decision %" PRId64 " of request %d, and %" PRId64 " is the next", k, r->request,
                     r->k);
  r->k++;
  WEIR_TRY(get_ints(o, "up", 2, pair, e));
  d.lo = pair[0], d.hi = pair[1];
  WEIR_TRY(get_ints(o, "asked_up", 2, pair, e));
  d.asked_lo = pair[0], d.asked_hi = pair[1];
  WEIR_TRY(get_float(o, "tau", &d.tau, e));
  WEIR_TRY(get_float(o, "share", &d.share, e));
  WEIR_TRY(get_i32(o, "n", 0, &d.n, e));
  WEIR_TRY(get_bool(o, "ended", &d.ended, e));
  if (d.did == WEIR_DID_OBSERVE) {
    WEIR_TRY(get_need(o, &d.need, e));
    WEIR_TRY(get_rows(r, o, &d, e));
  }
  if (d.did == WEIR_DID_SWITCH) {
    WEIR_TRY(get_cascade(r, o, &cfg, e));
    d.cfg = &cfg;
  } else {
    WEIR_TRY(get_effect(o, &d.fx, e));
  }
  WEIR_TRY(get_forced(r, o, &d.n_forced, e));
  d.forced = r->forced;
  st = weir_replay_decide(&r->replay, &d, e);
  if (st != WEIR_OK) {
    weir_fail_ctx(e, st, "request %d, decision %" PRId64, r->request, k);
    goto out;
  }
  r->report.decisions++;
  if (d.did == WEIR_DID_SWITCH)
    r->report.switches++;
  else
    r->report.by_reason[d.fx.reason]++;
out:
  return st;
}

/* A token's receipt, as the client got it, against that of the replay. */
static weir_status take_token(weir_replay_reader *r, const json_t *o, weir_err *e) {
  weir_status st = WEIR_OK;
  int32_t i = 0, id = 0;
  float h = 0, tau = 0;
  const weir_replay *p = &r->replay;
  WEIR_TRY(get_i32(o, "i", 0, &i, e));
  WEIR_TRY(get_i32(o, "id", 0, &id, e));
  WEIR_TRY(get_float(o, "H", &h, e));
  WEIR_TRY(get_float(o, "tau", &tau, e));
  if (i != r->n_shown)
    return weir_fail(e, WEIR_EINVAL, "token %d of request %d is missing", r->n_shown, r->request);
  if (i >= p->view.committed - p->n_prompt)
    return weir_fail(e, WEIR_EINVAL, "token %d of request %d: its decisions give %d", i, r->request,
                     p->view.committed - p->n_prompt);
  const int32_t at = p->n_prompt + i;
  const weir_receipt *x = &p->receipt[at];
  if (id != p->tok[at])
    return weir_fail(e, WEIR_EINVAL, "token %d of request %d is %d; the decisions give %d", i, r->request, id,
                     p->tok[at]);
  if (x->tier >= r->n_names || strcmp(get_text(o, "tier"), r->name[x->tier]) != 0)
    return weir_fail(e, WEIR_EINVAL, "token %d of request %d is by \"%.40s\"; the decisions give \"%s\"", i,
                     r->request, get_text(o, "tier"), x->tier < r->n_names ? r->name[x->tier] : "?");
  if (strcmp(get_text(o, "reason"), weir_why_name((weir_why)x->why)) != 0)
    return weir_fail(e, WEIR_EINVAL, "token %d of request %d is \"%.40s\"; the decisions give \"%s\"", i,
                     r->request, get_text(o, "reason"), weir_why_name((weir_why)x->why));
  if (json_is_true(json_object_get(o, "wanted_up")) != x->wanted_up)
    return weir_fail(e, WEIR_EINVAL, "token %d of request %d: wanted_up", i, r->request);
  if (isfinite(h) != isfinite(x->entropy) || (isfinite(h) && h != x->entropy))
    return weir_fail(e, WEIR_EINVAL, "token %d of request %d: H is %.9g; the decisions give %.9g", i,
                     r->request, (double)h, (double)x->entropy);
  if (isfinite(x->tau) && p->cfg.n_tiers > 1 && tau != x->tau)
    return weir_fail(e, WEIR_EINVAL, "token %d of request %d: tau is %.9g; the decisions give %.9g", i,
                     r->request, (double)tau, (double)x->tau);
  r->n_shown++;
  r->by_tier[x->tier]++;
  r->wanted_up += x->wanted_up;
  r->report.by_why[x->why]++;
  r->report.wanted_up += x->wanted_up;
  r->report.tokens++;
out:
  return st;
}

static weir_status take_end(weir_replay_reader *r, const json_t *o, weir_err *e) {
  weir_status st = WEIR_OK;
  int64_t n = 0;
  int32_t tokens = 0, wanted = 0, by[WEIR_MAX_TIERS] = {0};
  WEIR_TRY(get_int(o, "decisions", 0, INT64_MAX, &n, e));
  WEIR_TRY(get_i32(o, "tokens", 0, &tokens, e));
  WEIR_TRY(get_i32(o, "wanted_up", 0, &wanted, e));
  WEIR_TRY(get_ints(o, "by_tier", r->n_names, by, e));
  if (n != r->k)
    return weir_fail(e, WEIR_EINVAL, "request %d had %" PRId64 " decisions, and %" PRId64 " are here",
                     r->request, n, r->k);
  if (tokens != r->n_shown)
    return weir_fail(e, WEIR_EINVAL, "request %d had %d tokens, and %d are here", r->request, tokens,
                     r->n_shown);
  for (int32_t t = 0; t < r->n_names; t++)
    if (by[t] != r->by_tier[t])
      return weir_fail(e, WEIR_EINVAL, "request %d: %d tokens by %s, and %d are here", r->request, by[t],
                       r->name[t], r->by_tier[t]);
  if (wanted != r->wanted_up)
    return weir_fail(e, WEIR_EINVAL, "request %d: %d tokens wanted, and %d are here", r->request, wanted,
                     r->wanted_up);
  r->open = false;
out:
  return st;
}

/* ---- the chain ---- */

static weir_status check_chain(weir_replay_reader *r, const char *line, size_t len, weir_err *e) {
  static const char mark[] = ",\"chain\":\"";
  const size_t tail = sizeof mark - 1 + 16 + 2;
  char want[17];
  if (len < tail || memcmp(line + len - tail, mark, sizeof mark - 1) != 0 ||
      memcmp(line + len - 2, "\"}", 2) != 0)
    return wrong(e, "chain", "16 digits at the end of the line");
  r->chain = weir_chain_next(r->chain, line, len - tail);
  snprintf(want, sizeof want, "%016" PRIx64, r->chain);
  if (memcmp(line + len - 18, want, 16) != 0)
    return weir_fail(e, WEIR_EINVAL, "this line, or one before it, is not as it was written (chain)");
  return WEIR_OK;
}

/* ---- the file ---- */

weir_status weir_replay_reader_create(weir_replay_reader **out, weir_err *e) { return WEIR_NEW(1, out, e); }

void weir_replay_reader_destroy(weir_replay_reader *r) {
  if (!r) return;
  weir_replay_fini(&r->replay);
  free(r->row);
  free(r->forced);
  free(r);
}

static weir_status take_line(weir_replay_reader *r, const json_t *o, const char *line, size_t len,
                             weir_err *e) {
  weir_status st = WEIR_OK;
  const char *schema = get_text(o, "schema");
  const bool header = !strcmp(schema, WEIR_RECEIPT_SCHEMA), decision = !strcmp(schema, WEIR_DECISION_SCHEMA),
             end = !strcmp(schema, WEIR_RECEIPT_END);
  int32_t request = 0;
  if (!json_is_object(o)) return weir_fail(e, WEIR_EFORMAT, "no object of JSON");
  if (schema[0] && !header && !decision && !end)
    return weir_fail(e, WEIR_EFORMAT, "schema \"%.60s\" is not known", schema);
  WEIR_TRY(get_i32(o, "request", 0, &request, e));
  if (!header && !r->open)
    return weir_fail(e, WEIR_EINVAL, "request %d has no header: a file without decisions cannot be replayed",
                     request);
  if (!header && request != r->request)
    return weir_fail(e, WEIR_EINVAL, "a line of request %d within request %d", request, r->request);
  if (header) r->chain = weir_chain_begin();
  if (!schema[0]) return take_token(r, o, e);
  /* What the policy says tells more than a chain, and goes first. */
  st = header ? take_header(r, o, e) : decision ? take_decision(r, o, e) : take_end(r, o, e);
  if (st == WEIR_OK) st = check_chain(r, line, len, e);
out:
  return st;
}

weir_status weir_replay_reader_line(weir_replay_reader *r, const char *line, size_t len, weir_err *e) {
  json_error_t bad;
  r->report.lines++;
  json_t *o = json_loadb(line, len, JSON_REJECT_DUPLICATES, &bad);
  const weir_status st =
      o ? take_line(r, o, line, len, e) : weir_fail(e, WEIR_EFORMAT, "no JSON: %s", bad.text);
  json_decref(o);
  return st == WEIR_OK ? st : weir_fail_ctx(e, st, "line %" PRId64, r->report.lines);
}

weir_status weir_replay_reader_end(weir_replay_reader *r, weir_replay_report *out, weir_err *e) {
  *out = r->report;
  if (r->open)
    return weir_fail(e, WEIR_EINVAL, "line %" PRId64 ": the file ends within request %d", r->report.lines,
                     r->request);
  return WEIR_OK;
}

weir_replay_report weir_replay_reader_report(const weir_replay_reader *r) { return r->report; }
