/* SPDX-License-Identifier: Apache-2.0 */
/* A Hugging Face directory on its way into a GGUF file: its metadata as GGUF's keys, its tensors as GGUF has
 * them. */
#ifndef WEIR_PROGRAMS_QUANTIZE_HF_H
#define WEIR_PROGRAMS_QUANTIZE_HF_H
#include "model/hparams.h"
#include "model/tok_spec.h"
#include "programs/quantize.h"

/* The tensors the file will have: in, rows, elems, and how their rows come about. Architectures and settings
 * that cannot be told in a GGUF file by this are WEIR_EUNSUP. *out is owned by the caller. */
weir_status weir_quantize_hf_list(const weir_mfile *, weir_quantize_tensor **out, int64_t *n, weir_err *e);
/* general.* but general.name, and <architecture>.* keys. */
weir_status weir_quantize_hf_keys(const weir_mfile *, weir_gguf_writer *, weir_err *e);
/* Scores of SentencePiece BPE, [spec->n], and whether a text begins with a space of its own; WEIR_EUNSUP for
 * tokenizers of another kind. */
weir_status weir_quantize_hf_scores(const weir_tok_spec *, float *score, bool *prefix, weir_err *e);
/* tokenizer.* keys and general.name, which some readers take for a word about the tokenizer. */
weir_status weir_quantize_hf_tokenizer(const weir_mfile *, weir_gguf_writer *, weir_err *e);

#endif
