/* SPDX-License-Identifier: Apache-2.0 */
/* `weir inspect --pair`: the second half of that command. */
#ifndef WEIR_PROGRAMS_INSPECT_H
#define WEIR_PROGRAMS_INSPECT_H
#include "base/config.h"
#include "base/err.h"
#include "programs/load.h"
#include "programs/out.h"

/* Opens the pair, measures a few steps of each model and prints what they make as a cascade. */
weir_status weir_inspect_pair(const weir_config *, const weir_model_paths *, weir_out *, weir_err *e);
/* "4.39 MB", decimal units. */
void weir_bytes_text(double bytes, char *buf, size_t n);

#endif
