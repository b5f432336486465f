/* SPDX-License-Identifier: Apache-2.0 */
/* The gate file of this program: read when it is first asked for, and kept until the program ends, since what
 * decides borrows its map. Main thread. */
#include "programs/setting_gate.h"

#include <math.h>
#include <stdlib.h>

static struct {
  bool is_read;
  weir_gate_file file;
} kept;

/* NULL and WEIR_OK: none was given. */
static weir_status get(const weir_config *c, const weir_gate_file **out, weir_err *e) {
  *out = NULL;
  if (!weir_config_has(c, "gate-file")) return WEIR_OK; /* a command without the option */
  const char *path = weir_config_string(c, "gate-file");
  if (!path) return WEIR_OK;
  if (!kept.is_read) {
    const weir_status st = weir_gate_file_read(path, &kept.file, e);
    if (st != WEIR_OK) return weir_fail_ctx(e, st, "--gate-file (%s)", weir_config_source(c, "gate-file"));
    kept.is_read = true;
  }
  *out = &kept.file;
  return WEIR_OK;
}

weir_status weir_setting_gate(const weir_config *c, weir_cascade_opts *o, weir_err *e) {
  const weir_gate_file *f;
  const bool named = o->set & WEIR_OPT_GATE;
  const weir_status st = get(c, &f, e);
  if (st != WEIR_OK) return st;
  if (!f && named && weir_gate_is_fitted(o->gate))
    return weir_fail(e, WEIR_EINVAL, "gate %s is fitted to a pair: give its --gate-file",
                     weir_gate_name(o->gate));
  if (!f) return WEIR_OK;
  if (named && o->gate != f->kind)
    return weir_fail(e, WEIR_EINVAL, "--gate %s: the file of --gate-file holds a gate %s",
                     weir_gate_name(o->gate), weir_gate_name(f->kind));
  o->gate = f->kind;
  o->set |= WEIR_OPT_GATE;
  if (f->kind == WEIR_GATE_ISOTONIC) o->gate_map = &f->map;
  return WEIR_OK;
}

void weir_setting_gate_threshold(const weir_config *c, weir_cascade_opts *o) {
  const weir_gate_file *f;
  weir_err ignored; /* weir_setting_gate has told it */
  if (get(c, &f, &ignored) != WEIR_OK || !f || isnan(f->threshold)) return;
  if ((o->set & WEIR_OPT_THRESHOLD) || !(o->set & WEIR_OPT_GATE) || o->gate != f->kind) return;
  o->threshold = f->threshold;
  o->set |= WEIR_OPT_THRESHOLD;
}

weir_status weir_setting_gate_pair(const weir_config *c, weir_pair_gate *out, bool *has, weir_err *e) {
  const weir_gate_file *f;
  const weir_status st = get(c, &f, e);
  *has = f != NULL;
  if (!f) return st;
  *out = (weir_pair_gate){.name = f->small.name,
                          .n_vocab = f->small.n_vocab,
                          .dim = f->small.dim,
                          .fingerprint = f->small.fingerprint,
                          .head = f->kind == WEIR_GATE_HEAD ? &f->head : NULL};
  return WEIR_OK;
}
