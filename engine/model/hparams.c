/* SPDX-License-Identifier: Apache-2.0 */
/* Hyper-parameters of a model, wherever they stand. Owns nothing; any thread. */
#include "model/hparams.h"

const char *weir_arch_name(weir_arch a) {
  static const char *const name[] = {
      [WEIR_ARCH_LLAMA] = "llama",       [WEIR_ARCH_QWEN2] = "qwen2",   [WEIR_ARCH_QWEN3] = "qwen3",
      [WEIR_ARCH_QWEN3MOE] = "qwen3moe", [WEIR_ARCH_GEMMA2] = "gemma2", [WEIR_ARCH_GEMMA3] = "gemma3",
      [WEIR_ARCH_PHI3] = "phi3",
  };
  return (unsigned)a < sizeof name / sizeof *name ? name[a] : "unknown";
}

weir_status weir_hparams_read(const weir_mfile *m, weir_hparams *out, weir_err *e) {
  return weir_hparams_from_gguf(weir_mfile_gguf(m), out, e);
}
