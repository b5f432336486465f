/* SPDX-License-Identifier: Apache-2.0 */
/* The calibration that a server's traffic is held against. Main thread, before models are loaded. */
#include "programs/serve_calibration.h"

#include <math.h>

#include "base/log.h"

weir_status weir_serve_calibration(const weir_config *c, const weir_serve_settings *set,
                                   weir_calibration_file *f, bool *has, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_cascade_cfg cascade;
  const char *path = weir_config_string(c, "calibration");
  *has = path != NULL;
  if (!path) return WEIR_OK;
  WEIR_TRY(weir_calibration_file_read(path, f, e));
  WEIR_TRY(weir_calibration_file_check(f, set->paths.small, set->paths.large, e));
  WEIR_TRY(weir_cascade_cfg_make(&set->cascade, &cascade, e));
  if (set->cascade.mode == WEIR_MODE_SMALL || set->cascade.mode == WEIR_MODE_LARGE) {
    weir_log(WEIR_LOG_WARN, "--calibration: in mode %s no gate decides anything; the traffic is not compared",
             weir_mode_name(set->cascade.mode));
    *has = false;
  } else if (f->mode != set->cascade.mode || f->gate != cascade.gate[0].kind ||
             !(fabs(f->threshold - (double)cascade.gate[0].threshold) < 1e-6)) {
    weir_log(WEIR_LOG_WARN,
             "--calibration chose mode %s, gate %s, threshold %.6g; this server has mode %s, gate %s, "
             "threshold %.6g: "
             "drift is told, but what the calibration promises is not promised",
             weir_mode_name(f->mode), weir_gate_name(f->gate), f->threshold,
             weir_mode_name(set->cascade.mode), weir_gate_name(cascade.gate[0].kind),
             (double)cascade.gate[0].threshold);
  }
out:
  return st;
}
