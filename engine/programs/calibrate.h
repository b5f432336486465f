/* SPDX-License-Identifier: Apache-2.0 */
/* `weir calibrate`: what its parts have in common. */
#ifndef WEIR_PROGRAMS_CALIBRATE_H
#define WEIR_PROGRAMS_CALIBRATE_H
#include "base/buf.h"
#include "base/err.h"
#include "calibrate/result.h"

/* Appends the report, one HTML page that needs nothing else. */
weir_status weir_calibrate_report(const weir_calibration *, weir_buf *out, weir_err *e);

#endif
