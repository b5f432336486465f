/* SPDX-License-Identifier: Apache-2.0 */
/* A model as its owner keeps it: one GGUF file, or a Hugging Face directory (config.json, *.safetensors,
 * tokenizer.json). What follows asks for tensors by GGUF's names and does not care which it is. */
#ifndef WEIR_MODEL_MFILE_H
#define WEIR_MODEL_MFILE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "kernels/dtype.h"
#include "model/gguf.h"
#include "model/str.h"

typedef struct weir_mfile weir_mfile;
typedef struct weir_hf weir_hf; /* model/hf.h */

/* What is known of a tensor before its bytes are touched. */
typedef struct weir_tensor_info {
  weir_str name;    /* GGUF's, whatever the file calls it; borrowed from the mfile */
  weir_dtype dtype; /* as weir will see it; of converted ones (FP8, int4) the converted type */
  int32_t n_dims;
  int64_t dim[WEIR_GGUF_MAX_DIMS]; /* dim[0] is the row length; unused ones are 1 */
  size_t bytes;                    /* stored in the file, which a conversion may change */
} weir_tensor_info;

/* A tensor's rows as stored blocks of info.dtype. */
typedef struct weir_tensor {
  weir_tensor_info info;
  const void *data; /* in the mapping, or in own */
  void *own;        /* converted copy; NULL when data lies in the mapping */
} weir_tensor;

/* `path`: a GGUF file (of a split one the first part: the others are found beside it), a directory with
 * config.json and *.safetensors, or with one GGUF file, or config.json or *.safetensors in such a directory.
 * Errors begin with the path. All that is declared is checked here, before anything large is allocated. */
weir_status weir_mfile_open(const char *path, weir_mfile **out, weir_err *e);
/* Over a GGUF file in memory, borrowed until weir_mfile_close. */
weir_status weir_mfile_parse_gguf(const void *data, size_t len, weir_mfile **out, weir_err *e);
/* Over a Hugging Face directory in memory: names and bytes are borrowed until weir_mfile_close. */
struct weir_hf_part;
weir_status weir_mfile_parse_hf(const struct weir_hf_part *part, int32_t n_parts, weir_mfile **out,
                                weir_err *e);
void weir_mfile_close(weir_mfile *); /* NULL is fine */

/* The file behind it: one of the two is NULL. */
const weir_gguf *weir_mfile_gguf(const weir_mfile *);
const weir_hf *weir_mfile_hf(const weir_mfile *);

int64_t weir_mfile_n_tensors(const weir_mfile *);
void weir_mfile_tensor_at(const weir_mfile *, int64_t i, weir_tensor_info *out); /* 0 <= i < n_tensors */
/* False when absent; `out` may be NULL. Experts answer to names of their own, "blk.3.ffn_up.17.weight", also
 * where all of a layer stand in one tensor ("blk.3.ffn_up_exps.weight", or gate and up together in
 * "blk.3.ffn_gate_up_exps.weight"): then info.name is that tensor's. */
bool weir_mfile_find(const weir_mfile *, const char *name, weir_tensor_info *out);
/* The tensor's bytes, converted where its stored type is not one of the engine's. WEIR_EFORMAT when absent.
 */
weir_status weir_mfile_read(const weir_mfile *, const char *name, weir_tensor *out, weir_err *e);
/* Of a matrix the rows [row, row + n_rows), and of these the columns [col, col + n_cols), which begin and end
 * with blocks: dim and bytes are the part's as it lies in memory. Nothing else of the tensor is read, but for
 * what shares its pages. WEIR_EINVAL for a part that is not in the tensor, of no rows or
 * columns, or that cuts blocks. */
typedef struct weir_tensor_part {
  int64_t row, n_rows, col, n_cols;
} weir_tensor_part;
weir_status weir_mfile_read_part(const weir_mfile *, const char *name, weir_tensor_part, weir_tensor *out,
                                 weir_err *e);
void weir_tensor_release(weir_tensor *); /* zeroes it; a zeroed one is fine */
/* The same, and of a tensor in a mapped file it gives back the memory that reading it took: so a load holds
 * each weight once, not in the mapping too. Who reads it later gets it from the file again. */
void weir_mfile_let_go(const weir_mfile *, weir_tensor *);

#endif
