/* SPDX-License-Identifier: Apache-2.0 */
/* What the options of `weir serve` come to. */
#ifndef WEIR_PROGRAMS_SERVE_SETTINGS_H
#define WEIR_PROGRAMS_SERVE_SETTINGS_H
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/config.h"
#include "base/err.h"
#include "cascade/cascade_conf.h"
#include "kernels/row.h"
#include "model/chat.h"
#include "programs/load.h"
#include "programs/serve_address.h"

enum { WEIR_MODEL_NAME_BYTES = 128 };

typedef struct weir_serve_settings {
  const weir_config *c;   /* borrowed: what is not below is asked of it */
  weir_model_paths paths; /* "" where no mode that is allowed needs the model */
  char model[WEIR_MODEL_NAME_BYTES];
  weir_cascade_opts cascade;
  uint32_t modes; /* bit set of 1 << weir_mode */
  float entropy_min, entropy_max;
  weir_ask draw;
  bool has_format; /* --template says which: */
  weir_chat_format format;
  weir_buf jinja; /* of a --template FILE */

  bool http;
  weir_address listen;    /* of HTTP; its port is one */
  const char *const *rpc; /* [n_rpc], borrowed from the options or from own_url */
  int32_t n_rpc;
  char own_url[WEIR_URL_BYTES]; /* the default one; "" when others were given */
  const char *own[1];
  weir_buf token; /* "": none */
} weir_serve_settings;

/* Reads and checks everything that can be known before models are opened; whether an address is free too.
 * WEIR_EINVAL: an option is wrong. */
weir_status weir_serve_settings_read(const weir_config *, weir_serve_settings *out, weir_err *e);
void weir_serve_settings_fini(weir_serve_settings *);
const char *weir_serve_token(const weir_serve_settings *); /* NULL: none */

#endif
