/* SPDX-License-Identifier: Apache-2.0 */
/* Shapes and made-up weights. Owns nothing after a call. */
#include "synth.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/quant.h"

typedef struct shape {
  const char *name;
  weir_arch arch;
  int32_t n_layers, dim, n_heads, n_kv_heads, head_dim, n_ff, n_vocab;
  float theta;
  bool tied, qk_norm;
} shape;

/* From the models' published config.json files. */
static const shape shapes[] = {
    {"qwen3-0.6b", WEIR_ARCH_QWEN3, 28, 1024, 16, 8, 128, 3072, 151936, 1e6f, true, true},
    {"qwen2.5-1.5b", WEIR_ARCH_QWEN2, 28, 1536, 12, 2, 128, 8960, 151936, 1e6f, true, false},
    {"llama-3.1-8b", WEIR_ARCH_LLAMA, 32, 4096, 32, 8, 128, 14336, 128256, 5e5f, false, false},
    {"qwen3-32b", WEIR_ARCH_QWEN3, 64, 5120, 64, 8, 128, 25600, 151936, 1e6f, false, true},
    {"llama-3-70b", WEIR_ARCH_LLAMA, 80, 8192, 64, 8, 128, 28672, 128256, 5e5f, false, false},
    {"llama-1.1b", WEIR_ARCH_LLAMA, 22, 2048, 32, 4, 64, 5632, 32000, 1e4f, false, false},
    {"llama-134m", WEIR_ARCH_LLAMA, 12, 768, 12, 12, 64, 2048, 32000, 1e4f, false, false},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

const char *weir_synth_names(void) {
  return "qwen3-0.6b qwen2.5-1.5b llama-3.1-8b qwen3-32b llama-3-70b llama-1.1b llama-134m";
}

weir_status weir_synth_shape(const char *name, int32_t n_layers, int32_t n_ctx, weir_hparams *h,
                             weir_err *e) {
  const shape *s = NULL;
  for (int i = 0; i < N_SHAPES; i++)
    if (!strcmp(shapes[i].name, name)) s = &shapes[i];
  if (!s) return weir_fail(e, WEIR_EINVAL, "shape \"%s\" is not one of %s", name, weir_synth_names());
  *h = (weir_hparams){.arch = s->arch,
                      .n_layers = n_layers > 0 && n_layers < s->n_layers ? n_layers : s->n_layers,
                      .dim = s->dim,
                      .n_heads = s->n_heads,
                      .n_kv_heads = s->n_kv_heads,
                      .head_dim = s->head_dim,
                      .n_ff = s->n_ff,
                      .n_ctx = n_ctx,
                      .n_vocab = s->n_vocab,
                      .norm_eps = 1e-5f,
                      .tied_head = s->tied,
                      .rope_dims = s->head_dim,
                      .rope_interleaved = s->arch == WEIR_ARCH_LLAMA,
                      .rope = {.theta = s->theta},
                      .rope_local = {.theta = s->theta},
                      .attn_scale = 1.0f / sqrtf((float)s->head_dim),
                      .qk_norm = s->qk_norm,
                      .act = WEIR_ACT_SILU,
                      .embed_scale = 1.0f};
  snprintf(h->name, sizeof h->name, "%s", s->name);
  return WEIR_OK;
}

/* One host matrix serves for all of its shape: rows of about normal numbers, quantised once for 64 rows and
 * repeated. */
typedef struct maker {
  weir_dev *dev;
  weir_dtype dtype;
  weir_err *e;
} maker;

static float noise(uint32_t *seed) {
  *seed = *seed * 1664525u + 1013904223u;
  return (float)(int32_t)*seed * 0x1p-31f;
}

static weir_status matrix(maker *m, int32_t rows, int32_t cols, weir_weight *out) {
  enum { OWN = 64 };
  weir_status st = WEIR_OK;
  weir_err *e = m->e;
  size_t row_bytes, bytes = 0;
  float *x = NULL;
  uint8_t *block = NULL;
  uint32_t seed = 1;
  const int32_t own = rows < OWN ? rows : OWN;
  WEIR_TRY(weir_dtype_row_bytes(m->dtype, cols, &row_bytes, e));
  if (!weir_mul_size((size_t)rows, row_bytes, &bytes))
    WEIR_TRY(weir_fail(e, WEIR_ENOMEM, "a weight of %d x %d overflows", rows, cols));
  WEIR_TRY(WEIR_NEW((size_t)cols, &x, e));
  WEIR_TRY(WEIR_NEW(bytes, &block, e));
  const float scale = 1.0f / sqrtf((float)cols);
  for (int32_t r = 0; r < own; r++) {
    for (int32_t k = 0; k < cols; k++) x[k] = noise(&seed) * scale;
    WEIR_TRY(weir_quantize_row(m->dtype, x, block + (size_t)r * row_bytes, cols, e));
  }
  for (int32_t r = own; r < rows; r++)
    memcpy(block + (size_t)r * row_bytes, block + (size_t)(r % own) * row_bytes, row_bytes);
  const weir_host_mat host = {block, m->dtype, rows, cols};
  WEIR_TRY(weir_weight_prepare(m->dev, &host, 1, out, e));
out:
  free(x);
  free(block);
  return st;
}

static weir_status ones(maker *m, int32_t n, float **out) {
  weir_status st = WEIR_OK;
  weir_err *e = m->e;
  float *x = NULL;
  WEIR_TRY(WEIR_NEW((size_t)n, &x, e));
  for (int32_t i = 0; i < n; i++) x[i] = 1.0f;
  WEIR_TRY(weir_dev_alloc(m->dev, (size_t)n * sizeof *x, (void **)out, e));
  WEIR_TRY(weir_dev_upload(m->dev, *out, x, (size_t)n * sizeof *x, e));
  WEIR_TRY(weir_dev_sync(m->dev, e));
out:
  free(x);
  return st;
}

/* h: of the rank's part. */
static weir_status layer(maker *m, const weir_hparams *h, const weir_shard *s, weir_layer *y) {
  const int32_t n_q = h->n_heads * h->head_dim, n_kv = h->n_kv_heads * h->head_dim;
  weir_status st = WEIR_OK;
  WEIR_TRY(ones(m, h->dim, &y->attn_norm));
  WEIR_TRY(ones(m, h->dim, &y->ffn_norm));
  if (h->qk_norm) {
    WEIR_TRY(ones(m, h->head_dim, &y->q_norm));
    WEIR_TRY(ones(m, h->head_dim, &y->k_norm));
  }
  WEIR_TRY(matrix(m, n_q + 2 * n_kv, h->dim, &y->qkv));
  WEIR_TRY(matrix(m, h->dim, s->att.n, &y->attn_out));
  if (h->n_ff == 0) goto out;
  WEIR_TRY(matrix(m, 2 * h->n_ff, h->dim, &y->gate_up));
  WEIR_TRY(matrix(m, h->dim, h->n_ff, &y->down));
out:
  return st;
}

weir_status weir_synth_weights(void *ctx, weir_dev *dev, const weir_hparams *h, const weir_shard *s,
                               weir_weights *w, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_hparams *part = NULL;
  maker m = {dev, *(const weir_dtype *)ctx, e};
  *w = (weir_weights){.dev = dev, .n_layers = h->n_layers};
  WEIR_TRY(WEIR_NEW((size_t)h->n_layers, &w->layer, e));
  WEIR_TRY(WEIR_NEW(1, &part, e));
  weir_shard_hparams(h, s, part);
  if (s->vocab.n > 0) WEIR_TRY(matrix(&m, s->vocab.n, h->dim, &w->embed));
  for (int32_t i = 0; i < h->n_layers; i++) {
    const weir_layer *y = &w->layer[i];
    WEIR_TRY(layer(&m, part, s, &w->layer[i]));
    w->bytes += y->qkv.bytes + y->attn_out.bytes + y->gate_up.bytes + y->down.bytes;
  }
  WEIR_TRY(ones(&m, h->dim, &w->out_norm));
  if (!h->tied_head && s->vocab.n > 0) WEIR_TRY(matrix(&m, s->vocab.n, h->dim, &w->head_own));
  w->head = h->tied_head ? &w->embed : &w->head_own;
  w->bytes += w->embed.bytes + w->head_own.bytes;
out:
  free(part);
  if (st != WEIR_OK) weir_weights_release(w);
  return st;
}
