/* SPDX-License-Identifier: Apache-2.0 */
/* What the options of the cascade and of sampling come to. */
#ifndef WEIR_PROGRAMS_SETTING_H
#define WEIR_PROGRAMS_SETTING_H
#include <stdbool.h>

#include "base/config.h"
#include "base/err.h"
#include "cascade/cascade_conf.h"
#include "kernels/row.h"
#include "programs/load.h"

/* --mode, and which of the models found it needs: the others are emptied. With one model given the mode
 * follows from it. */
weir_status weir_setting_mode(const weir_config *, weir_model_paths *io, weir_mode *out, weir_err *e);
/* The cascade options of a mode as given, without the threshold (of which eval has a list): gate, accept and
 * its parameters, window, hold, horizon, defer-burst, load-price. */
weir_status weir_setting_cascade(const weir_config *, weir_mode, weir_cascade_opts *out, weir_err *e);
/* Adds the threshold of `run`: --entropy or --threshold, or --defer-rate in their place. */
weir_status weir_setting_threshold(const weir_config *, weir_cascade_opts *io, weir_err *e);
void weir_setting_draw(const weir_config *, weir_ask *out);

#endif
