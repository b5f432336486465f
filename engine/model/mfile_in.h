/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of a weir_mfile: how it is opened (mfile_open.c), how it is read (mfile.c). */
#ifndef WEIR_MODEL_MFILE_IN_H
#define WEIR_MODEL_MFILE_IN_H
#include "model/hf.h"
#include "model/hf_weights.h"
#include "model/mfile.h"

struct weir_mfile {
  weir_gguf *gguf;  /* of a split file: the first part, which knows the tensors of all */
  weir_gguf **part; /* [n_parts] the others, for what they map */
  int32_t n_parts;
  weir_hf *hf;
  weir_hf_weights *weights;
};

/* Opens the other parts of a split GGUF file at `path`, if it is one. */
weir_status weir_mfile_join_parts(weir_mfile *, const char *path, weir_err *e);

#endif
