/* SPDX-License-Identifier: Apache-2.0 */
/* Settings of a cascade as name and text, the way requests bring them: one table for every edge. */
#ifndef WEIR_CASCADE_CASCADE_SET_H
#define WEIR_CASCADE_CASCADE_SET_H
#include "base/err.h"
#include "cascade/cascade_conf.h"

enum { WEIR_SETTING_NAME_BYTES = 32, WEIR_SETTING_VALUE_BYTES = 64 }; /* longer ones are not known */

/* Sets the option that is called `name` on the command line, with _ for -, to what the text says. WEIR_EINVAL
 * when there is none, or when the text is no such value; whether it means something in the mode, and its
 * range, is for weir_cascade_cfg_make. `mode` and what bounds a server's cost (threshold of the entropy gate,
 * defer_rate, defer_burst, load_price) have fields of their own in a request and are not known here. */
weir_status weir_cascade_opts_set(weir_cascade_opts *io, const char *name, const char *value, weir_err *e);

/* Their names; NULL from the end of the list on. */
const char *weir_cascade_setting_name(int32_t i);

#endif
