/* SPDX-License-Identifier: Apache-2.0 */
/* Writes the lines of decisions into memory. Owns that; any thread, one at a time. */
#include "programs/decision_log.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "cascade/cascade_conf.h"

uint64_t weir_chain_begin(void) { return 0xcbf29ce484222325u; }

uint64_t weir_chain_next(uint64_t chain, const char *line, size_t len) {
  for (size_t i = 0; i < len; i++) chain = (chain ^ (unsigned char)line[i]) * 0x100000001b3u;
  return chain;
}

/* ---- parts of lines: the first failure is kept, and told at the end of the line ---- */

typedef struct writer {
  weir_buf *b;
  weir_err *e;
  weir_status st;
} writer;

#define PUT(w, ...)                                                                 \
  do {                                                                              \
    if ((w)->st == WEIR_OK) (w)->st = weir_buf_printf((w)->b, (w)->e, __VA_ARGS__); \
  } while (0)

static void put_float(writer *w, const char *before, float x) {
  if (isnan(x))
    PUT(w, "%snull", before);
  else if (isinf(x))
    PUT(w, "%s\"%sinf\"", before, x < 0 ? "-" : "");
  else
    PUT(w, "%s%.9g", before, (double)x);
}

static void put_ints(writer *w, const char *name, const int32_t *x, int32_t n) {
  PUT(w, ",\"%s\":[", name);
  for (int32_t i = 0; i < n; i++) PUT(w, "%s%" PRId32, i ? "," : "", x[i]);
  PUT(w, "]");
}

static void put_floats(writer *w, const char *name, const float *x, int32_t n) {
  PUT(w, ",\"%s\":[", name);
  for (int32_t i = 0; i < n; i++) put_float(w, i ? "," : "", x[i]);
  PUT(w, "]");
}

static const char *yes(bool b) { return b ? "true" : "false"; }

static void put_cascade(writer *w, const weir_cascade_cfg *g) {
  PUT(w, ",\"cascade\":{\"tiers\":%d,\"commit_tier\":%d,\"horizon\":%d", (int)g->n_tiers, (int)g->commit_tier,
      (int)g->horizon);
  put_ints(w, "window", g->window, g->n_tiers);
  put_ints(w, "hold", g->hold, g->n_tiers);
  PUT(w, ",\"gate\":[");
  for (int32_t t = 0; t < g->n_tiers; t++) {
    PUT(w, "%s{\"kind\":\"%s\"", t ? "," : "", weir_gate_name(g->gate[t].kind));
    put_float(w, ",\"threshold\":", g->gate[t].threshold);
    PUT(w, "}");
  }
  PUT(w, "],\"keep\":[");
  for (int32_t t = 0; t < g->n_tiers; t++)
    PUT(w, "%s\"%s\"", t ? "," : "", g->keep[t] == WEIR_KEEP_ALL ? "all" : weir_accept_name(g->keep[t]));
  PUT(w, "]");
  put_floats(w, "keep_a", g->keep_a, g->n_tiers);
  put_floats(w, "keep_b", g->keep_b, g->n_tiers);
  PUT(w, ",\"rated\":%s", yes(g->budget.rated));
  put_float(w, ",\"rate\":", g->budget.rate);
  PUT(w, ",\"burst\":%d", (int)g->budget.burst);
  put_float(w, ",\"load_price\":", g->budget.load_price);
  put_float(w, ",\"fusion\":", g->fusion);
  PUT(w, ",\"gate_moves\":%s,\"defer_wait_ns\":%" PRId64, yes(g->gate_moves), g->defer_wait_ns);
  PUT(w, ",\"route\":{\"on\":%s,\"prompt\":%d,\"after\":%d", yes(g->route.on), (int)g->route.prompt,
      (int)g->route.after);
  put_float(w, ",\"share\":", g->route.share);
  PUT(w, "}");
  const weir_gate_map *m = g->gate[0].kind == WEIR_GATE_ISOTONIC ? g->gate[0].map : NULL;
  if (m) {
    PUT(w, ",\"map\":{\"stat\":\"%s\"", weir_gate_stat_name(m->stat));
    put_floats(w, "x", m->x, m->n);
    put_floats(w, "y", m->y, m->n);
    PUT(w, "}");
  }
  PUT(w, "}");
}

static void put_effect(writer *w, const weir_effect *x) {
  PUT(w,
      ",\"effect\":{\"reason\":\"%s\",\"why\":\"%s\",\"append\":%d,\"truncate_to\":%d,\"endorsed_by\":%d,"
      "\"endorsed_to\":%d,\"wanted_up\":%s,\"kept\":[%d,%d],\"wanted\":[%d,%d]",
      weir_reason_name(x->reason), weir_why_name(x->why), (int)x->append, (int)x->truncate_to,
      (int)x->endorsed_by, (int)x->endorsed_to, yes(x->wanted_up), (int)x->kept_from, (int)x->kept_to,
      (int)x->wanted_from, (int)x->wanted_to);
  put_float(w, ",\"H\":", x->entropy);
  put_float(w, ",\"tau\":", x->tau);
  PUT(w, "}");
}

static void put_rows(writer *w, const weir_decision *d) {
  PUT(w, ",\"rows\":[");
  for (int32_t i = 0; i < d->n_rows; i++) {
    const weir_row *r = &d->row[i];
    const float x[] = {r->entropy, r->p_max, r->margin, r->logprob, r->probe_logprob, r->gate};
    PUT(w, "%s[%d", i ? "," : "", (int)r->token);
    for (size_t k = 0; k < sizeof x / sizeof *x; k++) put_float(w, ",", x[k]);
    PUT(w, "]");
  }
  PUT(w, "]");
}

/* ---- lines ---- */

static weir_status finish(weir_decision_log *l, writer *w, size_t from) {
  if (w->st == WEIR_OK) l->chain = weir_chain_next(l->chain, l->text.data + from, l->text.len - from);
  PUT(w, ",\"chain\":\"%016" PRIx64 "\"}\n", l->chain);
  return w->st;
}

void weir_decision_log_fini(weir_decision_log *l) {
  weir_buf_fini(&l->text);
  *l = (weir_decision_log){0};
}

weir_status weir_decision_log_begin(weir_decision_log *l, const weir_log_request *q, const weir_decision *d,
                                    weir_err *e) {
  *l = (weir_decision_log){.chain = weir_chain_begin(), .request = q->request};
  writer w = {&l->text, e, WEIR_OK};
  PUT(&w,
      "{\"schema\":\"" WEIR_RECEIPT_SCHEMA
      "\",\"request\":%d,\"prompt_tokens\":%d,\"max_tokens\":%d,\"pinned\":%s,"
      "\"seed\":%" PRIu64,
      (int)q->request, (int)q->n_prompt, (int)q->max_new, yes(q->pinned), q->draw->seed);
  put_float(&w, ",\"temperature\":", q->draw->temperature);
  PUT(&w, ",\"top_k\":%d", (int)q->draw->top_k);
  put_float(&w, ",\"top_p\":", q->draw->top_p);
  put_float(&w, ",\"min_p\":", q->draw->min_p);
  PUT(&w, ",\"models\":[");
  for (int32_t t = 0; t < q->n_tiers; t++) PUT(&w, "%s\"%s\"", t ? "," : "", q->tier_name[t]);
  PUT(&w, "]");
  put_cascade(&w, d->cfg);
  put_ints(&w, "forced", d->forced, d->n_forced);
  PUT(&w, ",\"ended\":%s", yes(d->ended));
  return finish(l, &w, 0);
}

weir_status weir_decision_log_put(weir_decision_log *l, const weir_decision *d, weir_err *e) {
  writer w = {&l->text, e, WEIR_OK};
  const size_t from = l->text.len;
  PUT(&w, "{\"schema\":\"" WEIR_DECISION_SCHEMA "\",\"request\":%d,\"k\":%" PRId64 ",\"did\":\"%s\"",
      (int)l->request, l->n++, weir_did_name(d->did));
  PUT(&w, ",\"up\":[%d,%d],\"asked_up\":[%d,%d]", (int)d->lo, (int)d->hi, (int)d->asked_lo, (int)d->asked_hi);
  if (d->did == WEIR_DID_OBSERVE) {
    const weir_need *q = &d->need;
    PUT(&w, ",\"need\":{\"tier\":%d,\"from\":%d,\"to\":%d,\"out_from\":%d,\"judge_from\":%d}", (int)q->tier,
        (int)q->from, (int)q->to, (int)q->out_from, (int)q->judge_from);
    put_rows(&w, d);
  }
  put_float(&w, ",\"tau\":", d->tau);
  put_float(&w, ",\"share\":", d->share);
  if (d->did == WEIR_DID_SWITCH)
    put_cascade(&w, d->cfg);
  else
    put_effect(&w, &d->fx);
  if (d->n_forced > 0) put_ints(&w, "forced", d->forced, d->n_forced);
  PUT(&w, ",\"n\":%d,\"ended\":%s,\"wait_us\":%" PRId64, (int)d->n, yes(d->ended), d->wait_ns / 1000);
  return finish(l, &w, from);
}

weir_status weir_decision_log_end(weir_decision_log *l, const char *end, const weir_counts *c,
                                  int32_t n_tiers, weir_err *e) {
  writer w = {&l->text, e, WEIR_OK};
  const size_t from = l->text.len;
  PUT(&w,
      "{\"schema\":\"" WEIR_RECEIPT_END "\",\"request\":%d,\"decisions\":%" PRId64
      ",\"end\":\"%s\",\"tokens\":%d,\"wanted_up\":%d,\"given_up\":%d,\"refused\":%d",
      (int)l->request, l->n, end, (int)c->new_tokens, (int)c->wanted_up, (int)c->given_up, (int)c->refused);
  put_ints(&w, "by_tier", c->by_tier, n_tiers);
  PUT(&w, ",\"cost\":[");
  for (int32_t t = 0; t < n_tiers && t < WEIR_COST_TIERS; t++) {
    const weir_tier_cost *x = &c->cost.tier[t];
    PUT(&w,
        "%s{\"flops\":%.17g,\"weight_bytes\":%.17g,\"kv_bytes_written\":%.17g,\"kv_bytes_peak\":%.17g,"
        "\"rows\":[%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 "],\"taken_back\":%" PRId64 "}",
        t ? "," : "", weir_cost_flops(x), x->weight_bytes, x->kv_bytes_written, x->kv_bytes_peak,
        x->rows[WEIR_ROW_PROMPT], x->rows[WEIR_ROW_CATCHUP], x->rows[WEIR_ROW_JUDGED],
        x->rows[WEIR_ROW_DECODE], x->taken_back);
  }
  PUT(&w, "],\"large_only_flops\":%.17g,\"large_only_weight_bytes\":%.17g", c->cost.large_only_flops,
      c->cost.large_only_weight_bytes);
  return finish(l, &w, from);
}
