/* SPDX-License-Identifier: Apache-2.0 */
/* A model's fingerprint: whether two processes have the same one. Owns nothing; any thread. Not a
 * cryptographic hash: it guards against mistakes. Tensors count in any order, since a split file has them in
 * another one than a whole; how a file is mapped or split does not matter, how its weights are stored does.
 * Of each tensor that is used as it is stored the first bytes count too, so that two fine-tunes of one model
 * differ; those that would have to be converted are not touched for this. */
#include <string.h>

#include "run/tp.h"

enum { SAMPLE_BYTES = 1024 };

static uint64_t mix(uint64_t h, uint64_t x) { /* the finaliser of splitmix64, over a running sum */
  h += 0x9e3779b97f4a7c15u + x;
  h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9u;
  h = (h ^ (h >> 27)) * 0x94d049bb133111ebu;
  return h ^ (h >> 31);
}

static uint64_t mix_int(uint64_t h, int64_t x) { return mix(h, (uint64_t)x); }

static uint64_t mix_bytes(uint64_t h, const void *data, size_t n) {
  const unsigned char *p = data;
  h = mix(h, n);
  for (size_t i = 0; i < n; i += 8) {
    uint64_t x = 0;
    memcpy(&x, p + i, n - i < 8 ? n - i : 8);
    h = mix(h, x);
  }
  return h;
}

static uint64_t mix_float(uint64_t h, float x) { return mix_bytes(h, &x, sizeof x); }

static uint64_t numbers(const weir_hparams *m) {
  const int32_t ints[] = {
      (int32_t)m->arch,  m->n_layers,  m->dim,          m->n_heads,    m->n_kv_heads,    m->head_dim,
      m->n_ff,           m->n_ctx,     m->n_vocab,      m->tied_head,  m->rope_dims,     m->rope_interleaved,
      m->window,         m->qk_norm,   (int32_t)m->act, m->post_norms, m->norm_plus_one, m->n_experts,
      m->n_experts_used, m->expert_ff, m->expert_renorm};
  uint64_t h = 1;
  for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) h = mix_int(h, ints[i]);
  h = mix_float(h, m->norm_eps);
  h = mix_float(h, m->attn_scale);
  h = mix_float(h, m->attn_softcap);
  h = mix_float(h, m->embed_scale);
  h = mix_float(h, m->final_softcap);
  h = mix_bytes(h, &m->rope, sizeof m->rope); /* fields of four bytes: no holes */
  h = mix_bytes(h, &m->rope_local, sizeof m->rope_local);
  return mix_bytes(h, m->windowed, (size_t)m->n_layers);
}

/* Whether the file's bytes are what is computed with: as many as its type says. */
static bool is_stored(const weir_tensor_info *t) {
  size_t row = 0, n = 1;
  if (weir_dtype_row_bytes(t->dtype, t->dim[0], &row, NULL) != WEIR_OK) return false;
  for (int32_t i = 1; i < t->n_dims; i++)
    if (__builtin_mul_overflow(n, (size_t)t->dim[i], &n)) return false;
  return !__builtin_mul_overflow(n, row, &n) && n == t->bytes;
}

static weir_status of_tensor(const weir_mfile *f, int64_t i, uint64_t *out, weir_err *e) {
  weir_tensor_info t;
  weir_tensor bytes = {0};
  char name[256];
  weir_mfile_tensor_at(f, i, &t);
  uint64_t h = mix_bytes(2, t.name.data, t.name.len);
  h = mix_int(mix_int(mix_int(h, (int64_t)t.dtype), (int64_t)t.bytes), t.n_dims);
  for (int32_t d = 0; d < t.n_dims; d++) h = mix_int(h, t.dim[d]);
  *out = h;
  if (!is_stored(&t) || t.name.len >= sizeof name) return WEIR_OK;
  memcpy(name, t.name.data, t.name.len);
  name[t.name.len] = '\0';
  const weir_status st = weir_mfile_read(f, name, &bytes, e);
  if (st != WEIR_OK) return st;
  *out = mix_bytes(h, bytes.data, t.bytes < SAMPLE_BYTES ? t.bytes : SAMPLE_BYTES);
  weir_tensor_release(&bytes);
  return WEIR_OK;
}

weir_status weir_tp_fingerprint(const weir_mfile *f, const weir_hparams *m, uint64_t *out, weir_err *e) {
  const int64_t n = weir_mfile_n_tensors(f);
  uint64_t sum = mix_int(numbers(m), n);
  for (int64_t i = 0; i < n; i++) {
    uint64_t h = 0;
    const weir_status st = of_tensor(f, i, &h, e);
    if (st != WEIR_OK) return weir_fail_ctx(e, st, "fingerprint");
    sum += h;
  }
  *out = mix(sum, 3);
  return WEIR_OK;
}
