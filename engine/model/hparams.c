/* SPDX-License-Identifier: Apache-2.0 */
/* Hyper-parameters of a model, wherever they stand. Owns nothing; any thread. */
#include "model/hparams.h"

#include <inttypes.h>

#include "model/hf.h"
#include "model/hparams_check.h"

const char *weir_arch_name(weir_arch a) {
  static const char *const name[] = {
      [WEIR_ARCH_LLAMA] = "llama",       [WEIR_ARCH_QWEN2] = "qwen2",   [WEIR_ARCH_QWEN3] = "qwen3",
      [WEIR_ARCH_QWEN3MOE] = "qwen3moe", [WEIR_ARCH_GEMMA2] = "gemma2", [WEIR_ARCH_GEMMA3] = "gemma3",
      [WEIR_ARCH_PHI3] = "phi3",
  };
  return (unsigned)a < sizeof name / sizeof *name ? name[a] : "unknown";
}

weir_status weir_hparams_read(const weir_mfile *m, weir_hparams *out, weir_err *e) {
  const weir_hf *hf = weir_mfile_hf(m);
  return hf ? weir_hparams_from_hf(hf, out, e) : weir_hparams_from_gguf(weir_mfile_gguf(m), out, e);
}

weir_status weir_hparams_check(const weir_hparams *h, weir_err *e) {
  if (h->n_kv_heads > h->n_heads || h->n_heads % h->n_kv_heads != 0)
    return weir_fail(e, WEIR_EFORMAT, "%" PRId32 " heads are not a multiple of %" PRId32 " key/value heads",
                     h->n_heads, h->n_kv_heads);
  if (h->head_dim % 2 != 0)
    return weir_fail(e, WEIR_EFORMAT, "head dimension %" PRId32 " is odd", h->head_dim);
  if (h->rope_dims % 2 != 0 || h->rope_dims > h->head_dim)
    return weir_fail(e, WEIR_EFORMAT, "RoPE over %" PRId32 " of %" PRId32 " elements of a head", h->rope_dims,
                     h->head_dim);
  return WEIR_OK;
}
