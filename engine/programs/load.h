/* SPDX-License-Identifier: Apache-2.0 */
/* Finds and opens the models of a command. */
#ifndef WEIR_PROGRAMS_LOAD_H
#define WEIR_PROGRAMS_LOAD_H
#include <stdbool.h>
#include <stdint.h>

#include "base/config.h"
#include "base/err.h"
#include "programs/out.h"
#include "serve/pair.h"

enum { WEIR_PATH_BYTES = 4096 };

/* The type that --kv names. */
weir_dtype weir_kv_type(const weir_config *);

typedef struct weir_model_paths {
  char small[WEIR_PATH_BYTES], large[WEIR_PATH_BYTES]; /* "": none */
} weir_model_paths;

/* --small and --large, else the pair that comes with weir. */
weir_status weir_find_models(const weir_config *, weir_model_paths *, weir_err *e);

typedef struct weir_loaded {
  weir_pair *pair; /* owned */
  int32_t n_tiers;
  const char *tier_name[WEIR_MAX_TIERS]; /* "small", "large" */
  int32_t large;                         /* the tier of the large model, -1: not opened */
} weir_loaded;

/* Opens the models with the options of the machine, for max_seqs contexts; shows progress on a terminal. A
 * path of "" is left out. */
weir_status weir_load(const weir_config *, const weir_model_paths *, int32_t max_seqs, const weir_out *,
                      weir_loaded *out, weir_err *e);
void weir_loaded_close(weir_loaded *); /* a zeroed one is fine */

#endif
