/* SPDX-License-Identifier: Apache-2.0 */
/* Loads weights: which tensors a model has is said here and nowhere else. Owns the device copies; what was
 * read of the file is let go at once, and it may be closed afterwards. Calls the device and the file reader;
 * the thread that owns the device. */
#include "run/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/quant.h"

typedef struct loader {
  weir_dev *dev;
  const weir_mfile *file;
  const weir_hparams *h; /* the whole model's */
  weir_shard shard;
  const weir_load_progress *progress;
  int64_t done, total;
  bool counting;     /* all is looked for and checked and nothing read, so that the total is known */
  weir_strmap taken; /* names of the tensors that were found */
  weir_err *e;
} loader;

static void tensor_name(char *buf, size_t cap, int32_t layer, const char *what) {
  if (layer < 0)
    snprintf(buf, cap, "%s", what);
  else
    snprintf(buf, cap, "blk.%d.%s", layer, what);
}

static void report(const loader *l) {
  if (l->progress && l->progress->report) l->progress->report(l->progress->ctx, l->done, l->total);
}

static weir_status go_on(const loader *l) {
  if (!l->progress || !l->progress->stop || !l->progress->stop(l->progress->ctx)) return WEIR_OK;
  return weir_fail(l->e, WEIR_ECANCEL, "loading was stopped");
}

/* Looks for a tensor of [rows, cols]; cols < 0: for a vector of `rows`. */
static weir_status look(loader *l, const char *name, int64_t rows, int64_t cols, weir_tensor_info *t) {
  if (!weir_mfile_find(l->file, name, t)) return weir_fail(l->e, WEIR_EFORMAT, "tensor %s is missing", name);
  const int64_t want0 = cols < 0 ? rows : cols, want1 = cols < 0 ? 1 : rows;
  if (t->dim[0] != want0 || t->dim[1] != want1 || t->dim[2] != 1 || t->dim[3] != 1)
    return weir_fail(l->e, WEIR_EFORMAT, "tensor %s: want [%lld, %lld], file has [%lld, %lld, %lld, %lld] %s",
                     name, (long long)want1, (long long)want0, (long long)t->dim[3], (long long)t->dim[2],
                     (long long)t->dim[1], (long long)t->dim[0], weir_dtype_get(t->dtype)->name);
  if (l->counting) weir_strmap_add(&l->taken, t->name, 1);
  return WEIR_OK;
}

static weir_share all_of(int64_t n) { return (weir_share){0, (int32_t)n}; }

/* What a rank takes of a tensor of `rows` rows, or of a vector's elements. */
typedef struct part {
  const char *what;
  int64_t rows;
  weir_share take;
} part;

enum { MAX_PARTS = 3 };

static bool is_inside(weir_share s, int64_t whole) {
  return s.first >= 0 && s.n >= 0 && (int64_t)s.first + s.n <= whole;
}

/* Its share of the tensor's bytes as the file has them. */
static size_t share_of(const weir_tensor_info *t, weir_share s, int64_t whole) {
  const size_t of = (size_t)whole;
  return t->bytes % of == 0 ? t->bytes / of * (size_t)s.n
                            : (size_t)((double)t->bytes / (double)whole * (double)s.n);
}

/* A vector's part into to[n]; all of it is read, which is not much. */
static weir_status take_floats(loader *l, int32_t layer, const part *p, float *to) {
  char name[96];
  weir_tensor_info info;
  weir_tensor t = {0};
  float *whole = NULL;
  weir_status st = WEIR_OK;
  tensor_name(name, sizeof name, layer, p->what);
  if (!is_inside(p->take, p->rows))
    WEIR_TRY(weir_fail(l->e, WEIR_EINVAL, "tensor %s: the shard is not of this model", name));
  WEIR_TRY(look(l, name, p->rows, -1, &info));
  const size_t bytes = share_of(&info, p->take, p->rows);
  if (l->counting) {
    l->total += (int64_t)bytes;
    return WEIR_OK;
  }
  WEIR_TRY(go_on(l));
  WEIR_TRY(weir_mfile_read(l->file, name, &t, l->e));
  WEIR_TRY(WEIR_NEW((size_t)p->rows, &whole, l->e));
  WEIR_TRY(weir_dequantize_row(t.info.dtype, t.data, whole, p->rows, l->e));
  memcpy(to, whole + p->take.first, (size_t)p->take.n * sizeof *to);
  l->done += (int64_t)bytes;
out:
  weir_mfile_let_go(l->file, &t);
  free(whole);
  return st;
}

/* Concatenated, each with `plus` added. */
static weir_status load_floats(loader *l, int32_t layer, const part *p, int32_t n_parts, float plus,
                               float **out) {
  weir_status st = WEIR_OK;
  float *host = NULL;
  size_t n = 0, at = 0;
  for (int32_t i = 0; i < n_parts; i++) n += (size_t)p[i].take.n;
  if (!l->counting) WEIR_TRY(WEIR_NEW(n, &host, l->e));
  for (int32_t i = 0; i < n_parts; i++) {
    WEIR_TRY(take_floats(l, layer, &p[i], l->counting ? NULL : host + at));
    at += (size_t)p[i].take.n;
  }
  if (l->counting) return WEIR_OK;
  for (size_t i = 0; plus != 0.0f && i < n; i++) host[i] += plus;
  WEIR_TRY(weir_dev_alloc(l->dev, n * sizeof(float), (void **)out, l->e));
  WEIR_TRY(weir_dev_upload(l->dev, *out, host, n * sizeof(float), l->e));
  WEIR_TRY(weir_dev_sync(l->dev, l->e));
  report(l);
out:
  free(host);
  return st;
}

static weir_status load_norm(loader *l, int32_t layer, const char *what, int64_t n, float **out) {
  return load_floats(l, layer, &(part){what, n, all_of(n)}, 1, l->h->norm_plus_one ? 1.0f : 0.0f, out);
}

/* The part's rows, and of these `cut` of the columns. */
static weir_status take_part(loader *l, int32_t layer, const part *p, int64_t cols, weir_share cut,
                             weir_tensor *t, size_t *bytes) {
  char name[96];
  weir_tensor_info info;
  weir_status st = WEIR_OK;
  tensor_name(name, sizeof name, layer, p->what);
  if (!is_inside(p->take, p->rows) || !is_inside(cut, cols))
    WEIR_TRY(weir_fail(l->e, WEIR_EINVAL, "tensor %s: the shard is not of this model", name));
  WEIR_TRY(look(l, name, p->rows, cols, &info));
  *bytes = cut.n < cols ? share_of(&info, cut, cols) : share_of(&info, p->take, p->rows);
  if (l->counting) return WEIR_OK;
  WEIR_TRY(go_on(l));
  const weir_tensor_part in = {p->take.first, p->take.n, cut.first, cut.n};
  WEIR_TRY(weir_mfile_read_part(l->file, name, in, t, l->e));
out:
  return st;
}

/* Matrices that share an input become one weight, of `cut` of their columns. */
static weir_status load_matrix(loader *l, int32_t layer, const part *p, int32_t n_parts, int64_t cols,
                               weir_share cut, weir_weight *out) {
  weir_host_mat m[MAX_PARTS] = {0};
  weir_tensor t[MAX_PARTS] = {0};
  size_t bytes[MAX_PARTS] = {0};
  weir_status st = WEIR_OK;
  if (!l->counting && (p->take.n == 0 || cut.n == 0)) return WEIR_OK;
  for (int32_t i = 0; i < n_parts; i++) {
    WEIR_TRY(take_part(l, layer, &p[i], cols, cut, &t[i], &bytes[i]));
    if (l->counting) l->total += (int64_t)bytes[i];
    m[i] = (weir_host_mat){t[i].data, t[i].info.dtype, p[i].take.n, cut.n};
  }
  if (l->counting) return WEIR_OK;
  st = weir_weight_prepare(l->dev, m, n_parts, out, l->e);
  if (st != WEIR_OK) {
    char name[96];
    tensor_name(name, sizeof name, layer, p[0].what);
    weir_fail_ctx(l->e, st, "tensor %s", name);
    goto out;
  }
  for (int32_t i = 0; i < n_parts; i++) {
    l->done += (int64_t)bytes[i];
    report(l);
  }
out:
  for (int32_t i = 0; i < n_parts; i++) weir_mfile_let_go(l->file, &t[i]);
  return st;
}

static bool has(const loader *l, int32_t layer, const char *what) {
  char name[96];
  tensor_name(name, sizeof name, layer, what);
  return weir_mfile_find(l->file, name, NULL);
}

/* q, k and v as rows of a tensor of each, or of one tensor: the whole of that is one part. */
static int32_t qkv_parts(const loader *l, const char *fused, const char *const apart[3], bool is_fused,
                         part out[MAX_PARTS]) {
  const weir_hparams *h = l->h;
  const weir_shard *s = &l->shard;
  const int32_t d = h->head_dim, n_q = h->n_heads * d, n_kv = h->n_kv_heads * d;
  const weir_share q = {s->heads.first * d, s->heads.n * d}, kv = {s->kv_heads.first * d, s->kv_heads.n * d};
  if (!is_fused) {
    out[0] = (part){apart[0], n_q, q};
    out[1] = (part){apart[1], n_kv, kv};
    out[2] = (part){apart[2], n_kv, kv};
    return 3;
  }
  const int32_t rows = n_q + 2 * n_kv;
  out[0] = (part){fused, rows, s->n_ranks == 1 ? all_of(rows) : q};
  out[1] = (part){fused, rows, {n_q + kv.first, kv.n}};
  out[2] = (part){fused, rows, {n_q + n_kv + kv.first, kv.n}};
  return s->n_ranks == 1 ? 1 : 3;
}

static weir_status load_qkv(loader *l, int32_t i, weir_layer *y) {
  static const char *const weight[] = {"attn_q.weight", "attn_k.weight", "attn_v.weight"};
  static const char *const bias[] = {"attn_q.bias", "attn_k.bias", "attn_v.bias"};
  const bool one_bias = has(l, i, "attn_qkv.bias");
  part p[MAX_PARTS];
  weir_status st = WEIR_OK;
  int32_t n = qkv_parts(l, "attn_qkv.weight", weight, has(l, i, "attn_qkv.weight"), p);
  WEIR_TRY(load_matrix(l, i, p, n, l->h->dim, all_of(l->h->dim), &y->qkv));
  if (!one_bias && !has(l, i, bias[0]) && !has(l, i, bias[1]) && !has(l, i, bias[2])) goto out;
  n = qkv_parts(l, "attn_qkv.bias", bias, one_bias, p);
  WEIR_TRY(load_floats(l, i, p, n, 0.0f, &y->qkv_bias));
out:
  return st;
}

static weir_status load_attention(loader *l, int32_t i, weir_layer *y) {
  const weir_hparams *h = l->h;
  const part out_part = {"attn_output.weight", h->dim, all_of(h->dim)};
  weir_status st = WEIR_OK;
  WEIR_TRY(load_norm(l, i, "attn_norm.weight", h->dim, &y->attn_norm));
  WEIR_TRY(load_qkv(l, i, y));
  if (h->qk_norm) {
    WEIR_TRY(load_norm(l, i, "attn_q_norm.weight", h->head_dim, &y->q_norm));
    WEIR_TRY(load_norm(l, i, "attn_k_norm.weight", h->head_dim, &y->k_norm));
  }
  WEIR_TRY(load_matrix(l, i, &out_part, 1, (int64_t)h->n_heads * h->head_dim, l->shard.att, &y->attn_out));
  if (h->post_norms) WEIR_TRY(load_norm(l, i, "post_attention_norm.weight", h->dim, &y->attn_post_norm));
out:
  return st;
}

/* gate and up, of n rows each, then down. */
static weir_status load_glu(loader *l, int32_t i, const part *gate_up, int32_t n_parts, const char *down,
                            int32_t n, weir_weight *out_gate_up, weir_weight *out_down) {
  const int32_t dim = l->h->dim;
  weir_status st = WEIR_OK;
  WEIR_TRY(load_matrix(l, i, gate_up, n_parts, dim, all_of(dim), out_gate_up));
  WEIR_TRY(load_matrix(l, i, &(part){down, dim, all_of(dim)}, 1, n, l->shard.ff, out_down));
out:
  return st;
}

static weir_status load_mlp(loader *l, int32_t i, weir_layer *y) {
  const int32_t n = l->h->n_ff;
  const weir_share ff = l->shard.ff, up = {n + ff.first, ff.n};
  const bool is_fused = !has(l, i, "ffn_gate.weight"), is_cut = l->shard.n_ranks > 1;
  const part fused[] = {{"ffn_up.weight", 2 * (int64_t)n, is_cut ? ff : all_of(2 * (int64_t)n)},
                        {"ffn_up.weight", 2 * (int64_t)n, up}}; /* gate | up */
  const part apart[] = {{"ffn_gate.weight", n, ff}, {"ffn_up.weight", n, ff}};
  return load_glu(l, i, is_fused ? fused : apart, is_fused && !is_cut ? 1 : 2, "ffn_down.weight", n,
                  &y->gate_up, &y->down);
}

/* Experts beyond those that the router knows would be dropped in silence. */
static weir_status check_stacks(loader *l, int32_t i) {
  static const char *const what[] = {"ffn_gate", "ffn_up", "ffn_down"};
  for (size_t k = 0; k < sizeof what / sizeof *what; k++) {
    char beyond[48];
    weir_tensor_info t;
    char name[96], shown[WEIR_STR_SHOW_BYTES];
    snprintf(beyond, sizeof beyond, "%s.%d.weight", what[k], l->h->n_experts);
    tensor_name(name, sizeof name, i, beyond);
    if (weir_mfile_find(l->file, name, &t))
      return weir_fail(l->e, WEIR_EFORMAT, "tensor %s: more than %d experts", weir_str_show(t.name, shown),
                       l->h->n_experts);
  }
  return WEIR_OK;
}

static weir_status load_experts(loader *l, int32_t i, weir_layer *y) {
  const weir_hparams *h = l->h;
  const part router = {"ffn_gate_inp.weight", h->n_experts, all_of(h->n_experts)};
  weir_status st = WEIR_OK;
  WEIR_TRY(load_matrix(l, i, &router, 1, h->dim, all_of(h->dim), &y->router));
  WEIR_TRY(check_stacks(l, i));
  if (!l->counting) {
    WEIR_TRY(WEIR_NEW((size_t)h->n_experts, &y->expert_gate_up, l->e));
    WEIR_TRY(WEIR_NEW((size_t)h->n_experts, &y->expert_down, l->e));
  }
  for (int32_t k = 0; k < h->n_experts; k++) {
    char gate[32], up[32], down[32];
    snprintf(gate, sizeof gate, "ffn_gate.%d.weight", k);
    snprintf(up, sizeof up, "ffn_up.%d.weight", k);
    snprintf(down, sizeof down, "ffn_down.%d.weight", k);
    const part gate_up[] = {{gate, h->expert_ff, l->shard.ff}, {up, h->expert_ff, l->shard.ff}};
    WEIR_TRY(load_glu(l, i, gate_up, 2, down, h->expert_ff, l->counting ? NULL : &y->expert_gate_up[k],
                      l->counting ? NULL : &y->expert_down[k]));
  }
out:
  return st;
}

static weir_status load_layer(loader *l, int32_t i, weir_layer *y) {
  const weir_hparams *h = l->h;
  weir_status st = WEIR_OK;
  WEIR_TRY(load_attention(l, i, y));
  WEIR_TRY(load_norm(l, i, "ffn_norm.weight", h->dim, &y->ffn_norm));
  WEIR_TRY(h->n_experts > 0 ? load_experts(l, i, y) : load_mlp(l, i, y));
  if (h->post_norms) WEIR_TRY(load_norm(l, i, "post_ffw_norm.weight", h->dim, &y->ffn_post_norm));
out:
  return st;
}

static bool contains(weir_str s, const char *what) {
  const size_t n = strlen(what);
  for (size_t i = 0; i + n <= s.len; i++)
    if (memcmp(s.data + i, what, n) == 0) return true;
  return false;
}

/* A tensor of a layer that the forward pass would not use (a bias, a norm, a shared expert) must not be
 * dropped in silence. */
static weir_status check_taken(loader *l) {
  for (int64_t i = 0; i < weir_mfile_n_tensors(l->file); i++) {
    weir_tensor_info t;
    char shown[WEIR_STR_SHOW_BYTES];
    weir_mfile_tensor_at(l->file, i, &t);
    if (weir_strmap_get(&l->taken, t.name) >= 0) continue;
    if (contains(t.name, "rot_embd") || contains(t.name, "rope_f"))
      continue; /* known from the keys, or read */
    if ((t.name.len > 4 && memcmp(t.name.data, "blk.", 4) == 0) ||
        weir_str_eq(t.name, weir_str_of("output.bias")))
      return weir_fail(l->e, WEIR_EUNSUP, "tensor %s: %s models have no such tensor",
                       weir_str_show(t.name, shown), weir_arch_name(l->h->arch));
  }
  return WEIR_OK;
}

static size_t layer_bytes(const weir_layer *y, int32_t n_experts) {
  size_t n = y->qkv.bytes + y->attn_out.bytes + y->gate_up.bytes + y->down.bytes + y->router.bytes;
  for (int32_t k = 0; k < n_experts; k++) n += y->expert_gate_up[k].bytes + y->expert_down[k].bytes;
  return n;
}

static weir_status load_all(loader *l, weir_weights *w) {
  const weir_hparams *h = l->h;
  const part embed = {"token_embd.weight", h->n_vocab, l->shard.vocab};
  const part head = {"output.weight", h->n_vocab, l->shard.vocab};
  weir_status st = WEIR_OK;
  /* The largest two first: a weight is in memory twice while it is repacked, the file's pages and its own,
   * and with the others yet to come that is not the peak. */
  WEIR_TRY(load_matrix(l, -1, &embed, 1, h->dim, all_of(h->dim), &w->embed));
  if (!h->tied_head) WEIR_TRY(load_matrix(l, -1, &head, 1, h->dim, all_of(h->dim), &w->head_own));
  for (int32_t i = 0; i < h->n_layers; i++) {
    WEIR_TRY(load_layer(l, i, &w->layer[i]));
    if (!l->counting) w->bytes += layer_bytes(&w->layer[i], h->n_experts);
  }
  WEIR_TRY(load_norm(l, -1, "output_norm.weight", h->dim, &w->out_norm));
out:
  return st;
}

weir_status weir_weights_load(weir_dev *dev, const weir_mfile *file, const weir_hparams *h,
                              const weir_shard *shard, const weir_load_progress *p, weir_weights *w,
                              weir_err *e) {
  weir_status st = WEIR_OK;
  loader l = {.dev = dev, .file = file, .h = h, .progress = p, .counting = true, .e = e};
  *w = (weir_weights){.dev = dev, .n_layers = h->n_layers, .n_experts = h->n_experts};
  if (shard)
    l.shard = *shard;
  else
    WEIR_TRY(weir_shard_cut(h, (weir_shard_blocks){1, 1}, 0, 1, &l.shard, e));
  WEIR_TRY(weir_strmap_init(&l.taken, (size_t)weir_mfile_n_tensors(file), e));
  WEIR_TRY(WEIR_NEW((size_t)h->n_layers, &w->layer, e));
  WEIR_TRY(load_all(&l, w));
  WEIR_TRY(check_taken(&l));
  l.counting = false;
  WEIR_TRY(load_all(&l, w));
  w->head = h->tied_head ? &w->embed : &w->head_own;
  w->bytes += w->embed.bytes + w->head_own.bytes;
out:
  weir_strmap_fini(&l.taken);
  if (st != WEIR_OK) weir_weights_release(w);
  return st;
}

void weir_weights_release(weir_weights *w) {
  if (!w->dev) return;
  for (int32_t i = 0; w->layer && i < w->n_layers; i++) {
    weir_layer *y = &w->layer[i];
    float *const vectors[] = {y->attn_norm, y->qkv_bias,       y->q_norm,       y->k_norm,
                              y->ffn_norm,  y->attn_post_norm, y->ffn_post_norm};
    for (size_t k = 0; k < sizeof vectors / sizeof *vectors; k++)
      if (vectors[k]) weir_dev_release(w->dev, vectors[k]);
    weir_weight_release(&y->qkv);
    weir_weight_release(&y->attn_out);
    weir_weight_release(&y->gate_up);
    weir_weight_release(&y->down);
    weir_weight_release(&y->router);
    for (int32_t k = 0; k < w->n_experts; k++) {
      if (y->expert_gate_up) weir_weight_release(&y->expert_gate_up[k]);
      if (y->expert_down) weir_weight_release(&y->expert_down[k]);
    }
    free(y->expert_gate_up);
    free(y->expert_down);
  }
  if (w->out_norm) weir_dev_release(w->dev, w->out_norm);
  weir_weight_release(&w->embed);
  weir_weight_release(&w->head_own);
  free(w->layer);
  *w = (weir_weights){0};
}
