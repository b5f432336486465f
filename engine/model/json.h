/* SPDX-License-Identifier: Apache-2.0 */
/* JSON of model files, read strictly: UTF-8, no key twice in an object, bounded depth, nothing behind the
 * value. Integers that an int64_t does not hold are read as reals. */
#ifndef WEIR_MODEL_JSON_H
#define WEIR_MODEL_JSON_H
#include <jansson.h>

#include "base/err.h"
#include "model/str.h"

enum { WEIR_JSON_MAX_DEPTH = 64 };

/* An object, or WEIR_EFORMAT saying where what is wrong. *out is owned by the caller (json_decref). */
weir_status weir_json_parse_object(weir_str text, json_t **out, weir_err *e);

#endif
