/* SPDX-License-Identifier: Apache-2.0 */
/* Calibration files. Main thread. */
#include "programs/calibration_file.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/hparams.h"
#include "model/json.h"
#include "model/mfile.h"
#include "programs/out.h"
#include "programs/prompts.h"
#include "run/tp.h"

/* ---- writing ---- */

json_t *weir_drift_json(const weir_drift_profile *p) {
  json_t *cdf = json_array(), *var = json_array();
  for (int k = 0; cdf && var && k < WEIR_DRIFT_BINS; k++) {
    json_array_append_new(cdf, weir_json_real(p->cdf[k]));
    json_array_append_new(var, weir_json_real(p->var[k]));
  }
  return json_pack("{s:i, s:f, s:o, s:o, s:f, s:f}", "n", p->n, "bin_width", WEIR_DRIFT_BIN_WIDTH, "cdf", cdf,
                   "variance", var, "mean_entropy", p->entropy, "deferral_rate", p->deferred);
}

json_t *weir_fingerprints_json(const uint64_t f[2]) {
  char text[2][24];
  for (int t = 0; t < 2; t++) snprintf(text[t], sizeof text[t], "%016" PRIx64, f[t]);
  return json_pack("[s,s]", text[0], text[1]);
}

weir_status weir_model_fingerprint(const char *path, uint64_t *out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_mfile *file = NULL;
  weir_hparams h;
  WEIR_TRY(weir_mfile_open(path, &file, e));
  WEIR_TRY(weir_hparams_read(file, &h, e));
  st = weir_tp_fingerprint(file, &h, out, e);
out:
  weir_mfile_close(file);
  return st;
}

/* ---- reading ---- */

static weir_status miss(const char *name, const char *want, weir_err *e) {
  return weir_fail(e, WEIR_EFORMAT, "%s: want %s", name, want);
}

static weir_status get_number(const json_t *o, const char *name, double *out, weir_err *e) {
  const json_t *v = json_object_get(o, name);
  if (!json_is_number(v)) return miss(name, "a number", e);
  *out = json_number_value(v);
  return WEIR_OK;
}

static weir_status get_shares(const json_t *o, const char *name, double out[WEIR_DRIFT_BINS], weir_err *e) {
  const json_t *a = json_object_get(o, name);
  if (!json_is_array(a) || json_array_size(a) != WEIR_DRIFT_BINS) return miss(name, "64 numbers", e);
  for (size_t k = 0; k < WEIR_DRIFT_BINS; k++) {
    if (!json_is_number(json_array_get(a, k))) return miss(name, "64 numbers", e);
    out[k] = json_number_value(json_array_get(a, k));
  }
  return WEIR_OK;
}

static weir_status get_profile(const json_t *o, weir_drift_profile *p, weir_err *e) {
  weir_status st = WEIR_OK;
  double width = 0, n = 0;
  if (!json_is_object(o)) return miss("requests", "an object", e);
  WEIR_TRY(get_number(o, "n", &n, e));
  WEIR_TRY(get_number(o, "bin_width", &width, e));
  if (!(n >= 0 && n <= 1e9 && n == floor(n))) return miss("n", "a number of requests", e);
  if (width != WEIR_DRIFT_BIN_WIDTH)
    return weir_fail(e, WEIR_EFORMAT, "bin_width: %g nats; this program counts in %g", width,
                     WEIR_DRIFT_BIN_WIDTH);
  p->n = (int32_t)n;
  WEIR_TRY(get_shares(o, "cdf", p->cdf, e));
  WEIR_TRY(get_shares(o, "variance", p->var, e));
  WEIR_TRY(get_number(o, "mean_entropy", &p->entropy, e));
  WEIR_TRY(get_number(o, "deferral_rate", &p->deferred, e));
  st = weir_drift_profile_check(p, e);
out:
  return st;
}

static weir_status get_fingerprints(const json_t *a, uint64_t out[2], weir_err *e) {
  if (json_is_null(a))
    return weir_fail(e, WEIR_EFORMAT, "fingerprints: none; it was made of a trace without the models");
  for (size_t t = 0; t < 2; t++) {
    const char *s = json_string_value(json_array_get(a, t));
    if (!json_is_array(a) || json_array_size(a) != 2 || !s || strlen(s) != 16 ||
        strspn(s, "0123456789abcdef") != 16)
      return miss("fingerprints", "two of 16 hexadecimal digits", e);
    out[t] = strtoull(s, NULL, 16);
  }
  return WEIR_OK;
}

static weir_status get_name(const json_t *o, const char *name, char *buf, size_t bytes, weir_err *e) {
  const char *s = json_string_value(json_object_get(o, name));
  if (!s) return miss(name, "a text", e);
  snprintf(buf, bytes, "%s", s);
  return WEIR_OK;
}

weir_status weir_calibration_file_parse(const char *json, size_t len, weir_calibration_file *f, weir_err *e) {
  weir_status st = WEIR_OK;
  json_t *o = NULL;
  char mode[32], gate[32], schema[64];
  *f = (weir_calibration_file){.threshold = NAN};
  WEIR_TRY(weir_json_parse_object((weir_str){json, len}, &o, e));
  WEIR_TRY(get_name(o, "schema", schema, sizeof schema, e));
  if (strcmp(schema, "weir.calibration.v1") != 0) {
    st = miss("schema", "weir.calibration.v1, as `weir calibrate --calibration FILE` writes it", e);
    goto out;
  }
  WEIR_TRY(get_name(o, "small", f->small, sizeof f->small, e));
  WEIR_TRY(get_name(o, "large", f->large, sizeof f->large, e));
  WEIR_TRY(get_fingerprints(json_object_get(o, "fingerprints"), f->fingerprint, e));
  WEIR_TRY(get_name(o, "mode", mode, sizeof mode, e));
  WEIR_TRY(get_name(o, "gate", gate, sizeof gate, e));
  WEIR_TRY(get_number(o, "level", &f->level, e));
  if (!weir_mode_parse(mode, &f->mode) || !weir_gate_parse(gate, &f->gate)) {
    st = miss("mode, gate", "ones that this program has", e);
    goto out;
  }
  if (!json_is_null(json_object_get(o, "threshold"))) WEIR_TRY(get_number(o, "threshold", &f->threshold, e));
  st = get_profile(json_object_get(o, "requests"), &f->drift, e);
out:
  json_decref(o);
  return st;
}

weir_status weir_calibration_file_read(const char *path, weir_calibration_file *f, weir_err *e) {
  weir_buf b = {0};
  weir_status st = weir_read_file(path, &b, e);
  if (st == WEIR_OK && b.len > WEIR_CALIBRATION_FILE_MAX)
    st = weir_fail(e, WEIR_EFORMAT, "a calibration is no file of %zu bytes", b.len);
  if (st == WEIR_OK) st = weir_calibration_file_parse(b.data ? b.data : "", b.len, f, e);
  weir_buf_fini(&b);
  return st == WEIR_OK ? st : weir_fail_ctx(e, st, "calibration %s", path);
}

weir_status weir_calibration_file_check(const weir_calibration_file *f, const char *small, const char *large,
                                        weir_err *e) {
  const char *path[2] = {small, large}, *role[2] = {"small", "large"}, *was[2] = {f->small, f->large};
  for (int t = 0; t < 2; t++) {
    uint64_t print = 0;
    if (!path[t] || !path[t][0])
      return weir_fail(e, WEIR_EINVAL, "--calibration is for a pair; there is no %s model", role[t]);
    const weir_status st = weir_model_fingerprint(path[t], &print, e);
    if (st != WEIR_OK) return st;
    if (print != f->fingerprint[t])
      return weir_fail(e, WEIR_EINVAL,
                       "--calibration is of another %s model: it was made with %s (%016" PRIx64
                       "), and %s is %016" PRIx64,
                       role[t], was[t], f->fingerprint[t], path[t], print);
  }
  return WEIR_OK;
}
