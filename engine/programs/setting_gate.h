/* SPDX-License-Identifier: Apache-2.0 */
/* --gate-file: the gate that was fitted for the pair. */
#ifndef WEIR_PROGRAMS_SETTING_GATE_H
#define WEIR_PROGRAMS_SETTING_GATE_H
#include "base/config.h"
#include "base/err.h"
#include "cascade/cascade_conf.h"
#include "programs/gate_file.h"
#include "serve/pair.h"

/* The file's gate into options that --gate may have set already, and then to the same gate; without a file a
 * gate that needs one is refused. The map stays where it is until the program ends. */
weir_status weir_setting_gate(const weir_config *, weir_cascade_opts *io, weir_err *e);
/* The threshold that the file recommends, where none was given. */
void weir_setting_gate_threshold(const weir_config *, weir_cascade_opts *io);
/* What a pair is to check, and its small model's head. False: --gate-file was not given. */
weir_status weir_setting_gate_pair(const weir_config *, weir_pair_gate *out, bool *has, weir_err *e);

#endif
