/* SPDX-License-Identifier: Apache-2.0 */
/* Receipts as lines of JSON. Main thread. */
#include "programs/receipts.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <string.h>

#include "cascade/cascade_conf.h"
#include "programs/out.h"

static json_t *line_of(int32_t request, int32_t i, const weir_token_receipt *r, const weir_cascade_cfg *g,
                       const weir_loaded *models) {
  json_t *o = json_object();
  if (!o) return NULL;
  const bool one_tier = g->n_tiers < 2;
  /* Where no gate looked, the threshold that stood still; one that moves had no value there. */
  const bool looked =
      !isnan(r->tau) || weir_budget_moves(&g->budget) || g->gate_moves || r->why == WEIR_WHY_FORCED;
  const float tau = looked ? r->tau : g->gate[0].threshold;
  int bad = json_object_set_new(o, "request", json_integer(request));
  bad |= json_object_set_new(o, "i", json_integer(i));
  bad |= json_object_set_new(o, "id", json_integer(r->id));
  bad |= json_object_set_new(o, "tier", json_string(models->tier_name[r->tier]));
  bad |= json_object_set_new(o, "H", weir_json_real((double)r->entropy));
  bad |= json_object_set_new(o, "tau", one_tier ? json_null() : weir_json_real((double)tau));
  bad |= json_object_set_new(o, "reason", json_string(weir_why_name(r->why)));
  bad |= json_object_set_new(o, "wait_us", json_integer(r->wait_ns / 1000));
  if (!one_tier && g->gate[0].kind != WEIR_GATE_ENTROPY) {
    bad |= json_object_set_new(o, "gate", json_string(weir_gate_name(g->gate[0].kind)));
    bad |= json_object_set_new(o, "score", weir_json_real((double)r->score));
  }
  if (r->wanted_up) bad |= json_object_set_new(o, "wanted_up", json_true());
  if (bad == 0) return o;
  json_decref(o);
  return NULL;
}

weir_status weir_receipts_write(FILE *f, const char *path, int32_t request, const weir_answer *a,
                                const weir_cascade_cfg *g, const weir_loaded *models, weir_err *e) {
  weir_decision_log log = a->log; /* its text stays the answer's */
  const size_t n = log.text.len;
  if (n > 0 && fwrite(log.text.data, 1, n, f) != n)
    return weir_fail(e, WEIR_EIO, "%s: cannot write: %s", path, strerror(errno));
  for (int32_t i = 0; i < a->n; i++) {
    const weir_status st = weir_json_line(f, path, line_of(request, i, &a->token[i].receipt, g, models), e);
    if (st != WEIR_OK) return st;
  }
  if (n == 0) return WEIR_OK;
  log.text = (weir_buf){0};
  weir_status st = weir_decision_log_end(&log, weir_end_name(a->end), &a->counts, models->n_tiers, e);
  if (st == WEIR_OK && fwrite(log.text.data, 1, log.text.len, f) != log.text.len)
    st = weir_fail(e, WEIR_EIO, "%s: cannot write: %s", path, strerror(errno));
  weir_buf_fini(&log.text);
  return st;
}
