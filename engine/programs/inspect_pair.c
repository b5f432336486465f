/* SPDX-License-Identifier: Apache-2.0 */
/* `weir inspect --pair`: memory by tier, steps timed on this machine, and the speed-up they predict. The
 * model: in units of one decode step of the large model, a token costs c (a small step), r (the share
 * deferred) and g for each token the large model must catch up on, so S = 1 / (c + r + g (1 - r)). Main
 * thread. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "programs/inspect.h"
#include "programs/step_times.h"

static const int32_t rows_of[] = {1, 2, 4, 8, 16}; /* rows of a step: decode, then catch-up */
enum { N_ROWS = sizeof rows_of / sizeof *rows_of };

typedef struct timed {
  double ns[N_ROWS]; /* the fastest step: what others on the machine take only ever adds */
} timed;

static weir_status time_steps(weir_exec *x, int32_t n_vocab, timed *out, weir_err *e) {
  const weir_timing how = {.rows = rows_of, .n = N_ROWS};
  return weir_time_steps(x, n_vocab, &how, out->ns, NULL, e);
}

static void print_tier(const char *name, const weir_loaded *m, int32_t t, weir_out *o) {
  const weir_exec_info *x = &weir_pair_exec(m->pair, t)->info;
  char weights[32], kv[32], full[32];
  weir_bytes_text((double)x->weight_bytes, weights, sizeof weights);
  weir_bytes_text((double)x->kv_bytes_per_token, kv, sizeof kv);
  weir_bytes_text((double)x->kv_bytes_per_token * x->n_ctx, full, sizeof full);
  weir_out_printf(o, "%-6s %-36s weights %10s   keys and values %8s a token, %9s a context of %d\n", name,
                  x->name, weights, kv, full, x->n_ctx);
}

/* Cost of one caught-up token in large decode steps, from a step of 1 + k rows. */
static double catch_up(const timed *l, int32_t k) { return (l->ns[k] / l->ns[0] - 1) / (rows_of[k] - 1); }

static double predicted(double c, double g, double r) { return 1 / (c + r + g * (1 - r)); }

static const double rates[] = {0.05, 0.1, 0.15, 0.2, 0.3};
enum { N_RATES = sizeof rates / sizeof *rates, USUAL = 3 /* index in rows_of: 8 rows */ };

static void print_pair(const weir_model_paths *p, const weir_loaded *m, const timed *s, const timed *l,
                       weir_out *o) {
  const double c = s->ns[0] / l->ns[0], g = catch_up(l, USUAL);
  weir_out_printf(o, "small: %s\nlarge: %s\nvocabulary: the same, %d tokens\n\n", p->small, p->large,
                  weir_pair_n_vocab(m->pair));
  print_tier("small", m, 0, o);
  print_tier("large", m, 1, o);
  const double bytes_s = (double)weir_pair_exec(m->pair, 0)->info.weight_bytes,
               bytes_l = (double)weir_pair_exec(m->pair, 1)->info.weight_bytes;
  weir_out_printf(o, "\nmeasured here (%s), fastest of %d steps of one sequence, microseconds\n%-8s",
                  weir_pair_devices(m->pair), (int)WEIR_TIMED_ROUNDS, "rows");
  for (int k = 0; k < N_ROWS; k++) weir_out_printf(o, "%9d", rows_of[k]);
  weir_out_printf(o, "\n%-8s", "small");
  for (int k = 0; k < N_ROWS; k++) weir_out_printf(o, "%9.1f", 1e-3 * s->ns[k]);
  weir_out_printf(o, "\n%-8s", "large");
  for (int k = 0; k < N_ROWS; k++) weir_out_printf(o, "%9.1f", 1e-3 * l->ns[k]);
  weir_out_printf(
      o,
      "\nweights read by a one-row step: small %.2f GB/s, large %.2f GB/s; by bytes alone c would be %.3f\n",
      bytes_s / s->ns[0], bytes_l / l->ns[0], bytes_s / bytes_l);
  weir_out_printf(
      o, "c = %.3f (small step / large step), g = %.3f (a token caught up / large step, from %d rows)\n", c,
      g, rows_of[USUAL]);
  weir_out_printf(o, "\npredicted speed-up over the large model alone, S = 1 / (c + r + g (1 - r))\n%-16s",
                  "deferral rate r");
  for (int k = 0; k < N_RATES; k++) weir_out_printf(o, "%9.2f", rates[k]);
  weir_out_printf(o, "\n%-16s", "S");
  for (int k = 0; k < N_RATES; k++) weir_out_printf(o, "%9.2f", predicted(c, g, rates[k]));
  weir_out_printf(o, "\n");
}

static json_t *json_tier(const weir_loaded *m, int32_t t, const timed *x) {
  const weir_exec_info *i = &weir_pair_exec(m->pair, t)->info;
  json_t *ns = json_object();
  for (int k = 0; ns && k < N_ROWS; k++) {
    char rows[12];
    snprintf(rows, sizeof rows, "%d", rows_of[k]);
    json_object_set_new(ns, rows, json_real(1e-3 * x->ns[k]));
  }
  return json_pack("{s:s, s:I, s:I, s:i, s:o}", "name", i->name, "weight_bytes", (json_int_t)i->weight_bytes,
                   "kv_bytes_per_token", (json_int_t)i->kv_bytes_per_token, "context", i->n_ctx,
                   "step_us_by_rows", ns);
}

static json_t *json_pair(const weir_loaded *m, const timed *s, const timed *l) {
  const double c = s->ns[0] / l->ns[0], g = catch_up(l, USUAL);
  json_t *speedup = json_array();
  for (int k = 0; speedup && k < N_RATES; k++)
    json_array_append_new(
        speedup, json_pack("{s:f, s:f}", "deferral_rate", rates[k], "speedup", predicted(c, g, rates[k])));
  return json_pack("{s:s, s:i, s:o, s:o, s:s, s:i, s:{s:f, s:f}, s:o}", "schema", "weir.inspect.pair.v1",
                   "vocab", weir_pair_n_vocab(m->pair), "small", json_tier(m, 0, s), "large",
                   json_tier(m, 1, l), "isa", weir_pair_isa(m->pair), "threads", weir_pair_n_threads(m->pair),
                   "measured", "c", c, "g", g, "predicted", speedup);
}

weir_status weir_inspect_pair(const weir_config *c, const weir_model_paths *p, weir_out *o, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_loaded m = {.large = -1};
  timed s, l;
  WEIR_TRY(weir_load(c, p, 1, o, &m, e));
  WEIR_TRY(time_steps(weir_pair_exec(m.pair, 0), weir_pair_n_vocab(m.pair), &s, e));
  WEIR_TRY(time_steps(weir_pair_exec(m.pair, 1), weir_pair_n_vocab(m.pair), &l, e));
  if (weir_config_bool(c, "json"))
    weir_out_json(o, json_pair(&m, &s, &l));
  else
    print_pair(p, &m, &s, &l, o);
out:
  weir_loaded_close(&m);
  return st;
}
