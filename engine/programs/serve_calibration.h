/* SPDX-License-Identifier: Apache-2.0 */
/* --calibration of `weir serve`. */
#ifndef WEIR_PROGRAMS_SERVE_CALIBRATION_H
#define WEIR_PROGRAMS_SERVE_CALIBRATION_H
#include "base/config.h"
#include "programs/calibration_file.h"
#include "programs/serve_settings.h"

/* Reads the file and holds it against the models and the settings: another pair is refused, another mode or
 * threshold is logged. *has false: the option was not given. */
weir_status weir_serve_calibration(const weir_config *, const weir_serve_settings *,
                                   weir_calibration_file *out, bool *has, weir_err *e);

#endif
