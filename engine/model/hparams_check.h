/* SPDX-License-Identifier: Apache-2.0 */
/* What hyper-parameters must satisfy whatever file they were read from. */
#ifndef WEIR_MODEL_HPARAMS_CHECK_H
#define WEIR_MODEL_HPARAMS_CHECK_H
#include "model/hparams.h"

/* WEIR_EFORMAT naming the numbers that contradict each other. Ranges are the readers' affair: they know the
 * keys. */
weir_status weir_hparams_check(const weir_hparams *, weir_err *e);

#endif
