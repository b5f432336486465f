/* SPDX-License-Identifier: Apache-2.0 */
/* The options of weir-gateway. */
#ifndef WEIR_PROGRAMS_GATEWAY_OPTIONS_H
#define WEIR_PROGRAMS_GATEWAY_OPTIONS_H
#include <stdint.h>

#include "base/config.h"

enum { WEIR_GATEWAY_COMMAND = 1 };
extern const weir_option weir_gateway_options[];
extern const int32_t weir_n_gateway_options;

#endif
