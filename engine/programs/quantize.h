/* SPDX-License-Identifier: Apache-2.0 */
/* `weir quantize` in three parts: the plan (which tensor becomes what, decided and checked before a byte is
 * written), the work (rows through the thread team into the file) and the listing. */
#ifndef WEIR_PROGRAMS_QUANTIZE_H
#define WEIR_PROGRAMS_QUANTIZE_H
#include <stdbool.h>
#include <stdint.h>

#include "base/config.h"
#include "base/err.h"
#include "base/pool.h"
#include "kernels/dtype.h"
#include "model/gguf_write.h"
#include "model/mfile.h"
#include "programs/out.h"

/* Why a tensor gets its type. */
typedef enum {
  WEIR_BY_TYPE,   /* --type */
  WEIR_BY_HEAD,   /* --head, or what a head gets when the rest is coarse */
  WEIR_BY_EMBED,  /* --embed */
  WEIR_BY_RULE,   /* a --rule */
  WEIR_BY_VECTOR, /* vectors are F32 */
  WEIR_BY_KIND /* a matrix that is small and touchy (router, convolution): as it was; F32 out of a directory
                */
} weir_quantize_why;

typedef struct weir_quantize_tensor {
  weir_tensor_info in; /* name borrowed from the model file, or own_name */
  int64_t elems, rows; /* of all parts */
  size_t in_row_bytes, out_row_bytes, out_bytes;
  weir_dtype wanted; /* by `why` */
  weir_dtype to;     /* `wanted`, unless its blocks do not fit the rows */
  weir_quantize_why why;
  int32_t rule; /* index, with WEIR_BY_RULE */
  bool twice;   /* quantised in the file, and quantised again */
  double rms;   /* after the work: sqrt(sum (x-y)^2 / sum x^2) over the tensor's elements x, as stored y */
  double err2, sum2; /* those two sums */
  /* what a Hugging Face directory holds in another way (quantize_hf.h) */
  int32_t n_parts;   /* matrices that stand one behind the other: experts, of names part_name + number +
                        ".weight"; 0:   the tensor itself */
  int32_t head_rows; /* rows of a head whose two halves are interleaved; 0: rows are in order */
  float add;         /* to every element: Gemma's norms lack their 1 there */
  float *made;       /* elements that are not in the model's files; owned */
  char own_name[64], part_name[48];
} weir_quantize_tensor;

typedef struct weir_quantize_rule {
  const char *text; /* "REGEX=TYPE", borrowed from the configuration */
  void *code;       /* pcre2_code, owned */
  weir_dtype to;
  int64_t n_tensors; /* that it decided */
} weir_quantize_rule;

typedef struct weir_quantize_plan {
  weir_quantize_tensor *tensor; /* [n], owned; in the file's order */
  int64_t n;
  weir_quantize_rule *rule; /* [n_rules], owned */
  int32_t n_rules;
  weir_dtype type;
  bool tied;    /* the embedding is the head */
  bool from_hf; /* the model is a Hugging Face directory */
  int64_t elems, n_fallbacks, n_twice;
  uint64_t bytes_in, bytes_out; /* of the tensors */
} weir_quantize_plan;

/* Reads --type, --head, --embed, --rule and --requantize. The model file outlives the plan. */
weir_status weir_quantize_plan_make(const weir_config *, const weir_mfile *, weir_quantize_plan *out,
                                    weir_err *e);
void weir_quantize_plan_fini(weir_quantize_plan *); /* a zeroed one is fine */
/* general.file_type: ggml's number for the type that most weights have. */
uint32_t weir_quantize_file_type(const weir_quantize_plan *);

/* Told from the main thread: after a piece with tensor -1, after tensor i with its index. Bytes are those of
 * the input's tensors. False stops the work with WEIR_ECANCEL. */
typedef struct weir_quantize_watch {
  bool (*report)(void *ctx, int64_t tensor, uint64_t done, uint64_t total);
  void *ctx;
} weir_quantize_watch;

/* Declares the plan's tensors, begins the file and writes them; fills `rms` and the sums. The result does not
 * depend on the size of the team. */
weir_status weir_quantize_declare(const weir_quantize_plan *, weir_gguf_writer *, weir_err *e);
weir_status weir_quantize_work(weir_quantize_plan *, const weir_mfile *, weir_gguf_writer *, weir_pool *,
                               const weir_quantize_watch *, weir_err *e);

/* The two operands, checked: *out may be NULL in a dry run. OUT is none of the files that IN consists of, and
 * not there yet unless --force. */
weir_status weir_quantize_paths(const weir_config *, const char **in, const char **out, weir_err *e);

/* ---- listing ---- */

typedef struct weir_quantize_total {
  const char *in, *out;              /* paths; out NULL: none was named */
  uint64_t file_in, file_out;        /* bytes */
  double seconds;                    /* of the work; 0 in a dry run */
  int64_t n_scored;                  /* tokens of the text that were scored; 0: perplexity was not measured */
  double ppl_in, ppl_out, ppl_error; /* the error is that of ppl_in alone */
  double same_top1;                  /* share of tokens where both have the same likeliest one */
} weir_quantize_total;

/* With --text, before the work: the model runs, and the text is long enough. */
weir_status weir_quantize_check_text(const weir_config *, const char *in, const weir_mfile *, weir_err *e);
/* Perplexity of both files on that text, into the total. */
weir_status weir_quantize_measure(const weir_config *, const weir_out *, weir_quantize_total *, weir_err *e);

/* The plan: sizes by type, rules, fallbacks. */
void weir_quantize_show_plan(const weir_quantize_plan *, const weir_quantize_total *, bool every, weir_out *);
/* One tensor. `done`: with its error. */
void weir_quantize_show_tensor(const weir_quantize_plan *, int64_t i, bool done, weir_out *);
/* What came of it. */
void weir_quantize_show_total(const weir_quantize_plan *, const weir_quantize_total *, weir_out *);
void weir_quantize_json_tensor(const weir_quantize_plan *, int64_t i, bool done, weir_out *);
void weir_quantize_json_total(const weir_quantize_plan *, const weir_quantize_total *, weir_out *);

#endif
