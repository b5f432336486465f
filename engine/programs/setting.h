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

/* The cascade options as given, without the threshold (which eval gives a list of): mode, gate, accept-nll,
 * window, hold, horizon. */
weir_status weir_setting_cascade(const weir_config *, weir_cascade_opts *out, weir_err *e);
/* Adds the threshold of `run`: --entropy or --threshold. */
weir_status weir_setting_threshold(const weir_config *, weir_cascade_opts *io, weir_err *e);
void weir_setting_draw(const weir_config *, weir_ask *out);

/* Which of the models found a mode needs: the others are emptied. With one model given the mode follows from
 * it. */
weir_status weir_setting_models(const weir_config *, weir_model_paths *io, weir_cascade_opts *mode,
                                weir_err *e);

#endif
