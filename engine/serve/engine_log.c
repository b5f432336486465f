/* SPDX-License-Identifier: Apache-2.0 */
/* Tells the owner of a job of each decision about it (weir_job.on_decision). Reads, and changes nothing. Loop
 * thread only. */
#include "serve/engine_in.h"

static weir_decision describe(const weir_engine *g, const weir_request *r, weir_did did) {
  return (weir_decision){
      .did = did,
      .lo = r->cascade.lo,
      .hi = r->cascade.hi,
      .asked_lo = r->asked_lo,
      .asked_hi = r->asked_hi,
      .tau = r->cfg.gate[0].threshold,
      .share = r->cfg.route.share,
      .n = r->view.n,
      .ended = r->view.ended,
      .wait_ns = did == WEIR_DID_OBSERVE || did == WEIR_DID_GIVE_UP ? weir_engine_now(g) - r->since_ns : 0};
}

void weir_engine_log_begin(const weir_engine *g, weir_engine_job *j) {
  const weir_request *r = j->req;
  if (!j->spec.on_decision) return;
  weir_decision d = describe(g, r, WEIR_DID_SWITCH);
  d.cfg = &r->cfg;
  d.forced = r->tok + r->n_prompt;
  d.n_forced = weir_request_n_new(r);
  j->logged = true;
  j->spec.on_decision(j->spec.ctx, &d);
}

void weir_engine_log(const weir_engine *g, const weir_engine_job *j, weir_did did) {
  const weir_request *r = j->req;
  if (!j->logged) return;
  weir_decision d = describe(g, r, did);
  if (did == WEIR_DID_SWITCH) {
    d.cfg = &r->cfg;
  } else {
    d.fx = r->effect;
    const int32_t before = did == WEIR_DID_OBSERVE ? r->need.to : r->view.n;
    const int32_t at = (d.fx.truncate_to >= 0 ? d.fx.truncate_to : before) + (d.fx.append >= 0);
    d.forced = r->tok + at;
    d.n_forced = r->view.n - at;
  }
  if (did == WEIR_DID_OBSERVE) {
    d.need = r->need;
    d.row = r->row;
    d.n_rows = r->need.to - r->need.out_from;
  }
  j->spec.on_decision(j->spec.ctx, &d);
}
