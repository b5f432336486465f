/* SPDX-License-Identifier: Apache-2.0 */
/* The file that `weir calibrate --calibration` writes and `weir serve --calibration` reads, `"schema":
 * "weir.calibration.v1"`: for which pair, which setting, and what the traffic looked like. */
#ifndef WEIR_PROGRAMS_CALIBRATION_FILE_H
#define WEIR_PROGRAMS_CALIBRATION_FILE_H
#include <jansson.h>
#include <stdint.h>

#include "base/err.h"
#include "calibrate/drift.h"
#include "cascade/cascade_conf.h"

enum { WEIR_CALIBRATION_FILE_MAX = 1 << 20, WEIR_CALIBRATION_NAME_BYTES = 256 };

typedef struct weir_calibration_file {
  char small[WEIR_CALIBRATION_NAME_BYTES], large[WEIR_CALIBRATION_NAME_BYTES]; /* files, for messages */
  uint64_t fingerprint[2]; /* weir_tp_fingerprint, of the small and of the large model */
  weir_mode mode;
  weir_gate_kind gate;
  double threshold, level; /* threshold: NaN where the choice is the large model alone */
  weir_drift_profile drift;
} weir_calibration_file;

/* Members `requests` (the profile) and `fingerprints` of the file. NULL: memory ran out. */
json_t *weir_drift_json(const weir_drift_profile *);
json_t *weir_fingerprints_json(const uint64_t fingerprint[2]);
/* Of a model file. */
weir_status weir_model_fingerprint(const char *path, uint64_t *out, weir_err *e);

/* Errors name the file and the member. Everything is checked before it is used. */
weir_status weir_calibration_file_read(const char *path, weir_calibration_file *out, weir_err *e);
weir_status weir_calibration_file_parse(const char *json, size_t len, weir_calibration_file *out,
                                        weir_err *e);
/* WEIR_EINVAL: one of the two models is another than that of the file; says which. */
weir_status weir_calibration_file_check(const weir_calibration_file *, const char *small, const char *large,
                                        weir_err *e);

#endif
