/* SPDX-License-Identifier: Apache-2.0 */
/* Gates that `weir calibrate` fits before it chooses a threshold for them: on a third of the data that
 * nothing else looks at. Main thread. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calibrate/fit_gate.h"
#include "model/hparams.h"
#include "model/mfile.h"
#include "programs/calibrate_in.h"
#include "programs/calibration_file.h"
#include "programs/gate_file.h"
#include "run/exec_local.h"

static weir_status fit_head(weir_calibrating *x, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_fit_head_opts o = {.stat = {[WEIR_STAT_ENTROPY] = true, [WEIR_STAT_MARGIN] = true}};
  weir_cal_progress(x, "fitting the head");
  WEIR_TRY(weir_fit_gate_head(&x->trace, WEIR_PART_FIT, &o, &x->head, e));
  if (!x->models.pair) return WEIR_OK;
  /* From here on rows carry its score as the device works it out, which is what will decide. */
  WEIR_TRY(weir_exec_local_set_gate(weir_pair_exec(x->models.pair, 0), &x->head, e));
  weir_trace_fini(&x->trace);
  WEIR_TRY(weir_cal_log(x, false, e));
out:
  return st;
}

weir_status weir_cal_fit_gate(weir_calibrating *x, weir_err *e) {
  weir_status st = WEIR_OK;
  int64_t rows = 0;
  if (!weir_gate_is_fitted(x->gate.kind)) return WEIR_OK;
  for (int32_t k = 0; k < x->trace.n; k++)
    rows += x->trace.text[k].part == WEIR_PART_FIT ? x->trace.text[k].n : 0;
  if (rows == 0) {
    if (x->gate.kind == WEIR_GATE_HEAD && x->trace.text[0].n > 0 && !isnan(x->trace.text[0].row[0].q_gate))
      return WEIR_OK; /* a trace of a pair that has one */
    return weir_fail(e, WEIR_EINVAL, "the trace has no texts to fit a gate on: log it with --gate %s",
                     weir_gate_name(x->gate.kind));
  }
  if (x->gate.kind == WEIR_GATE_HEAD) {
    if (!x->models.pair) return WEIR_OK; /* the scores of the trace are those of the head fitted then */
    WEIR_TRY(fit_head(x, e));
  } else {
    WEIR_TRY(weir_fit_gate_map(&x->trace, WEIR_PART_FIT, WEIR_STAT_MARGIN, &x->map, e));
    x->gate.map = &x->map;
  }
out:
  return st;
}

static void name(char *to, const char *from) {
  size_t n = strlen(from);
  if (n > WEIR_GATE_NAME_BYTES - 1) n = WEIR_GATE_NAME_BYTES - 1;
  memcpy(to, from, n);
  to[n] = '\0';
}

weir_status weir_cal_write_gate(weir_calibrating *x, const char *path, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_mfile *file = NULL;
  weir_hparams h;
  weir_gate_file f = {.kind = x->gate.kind,
                      .map = x->map,
                      .head = x->head,
                      .small = {.n_vocab = weir_pair_n_vocab(x->models.pair)},
                      .threshold = x->r.choice.found ? (float)x->r.choice.threshold : NAN};
  WEIR_TRY(weir_mfile_open(x->paths.small, &file, e));
  WEIR_TRY(weir_hparams_read(file, &h, e));
  f.small.dim = h.dim;
  name(f.small.name, x->paths.small);
  name(f.large, x->paths.large);
  name(f.data, x->r.data);
  WEIR_TRY(weir_model_fingerprint(x->paths.small, &f.small.fingerprint, e));
  WEIR_TRY(weir_gate_measure(&x->trace, WEIR_PART_FIT, x->gate, NULL, &f.fitted, e));
  WEIR_TRY(weir_gate_measure(&x->trace, WEIR_PART_CONFIRM, x->gate, NULL, &f.held_out, e));
  st = weir_gate_file_write(path, &f, e); /* the head's weights are the caller's */
out:
  weir_mfile_close(file);
  return st;
}
