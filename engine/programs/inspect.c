/* SPDX-License-Identifier: Apache-2.0 */
/* `weir inspect`: what a GGUF file holds. Main thread. */
#include "programs/inspect.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "model/gguf.h"
#include "model/hparams.h"
#include "model/tokenizer.h"
#include "programs/options.h"

void weir_bytes_text(double bytes, char *buf, size_t n) {
  static const char *const unit[] = {"B", "kB", "MB", "GB", "TB"};
  int u = 0;
  for (; bytes >= 1000 && u < 4; u++) bytes /= 1000;
  snprintf(buf, n, u ? "%.2f %s" : "%.0f %s", bytes, unit[u]);
}

typedef struct inspected {
  weir_mfile *file;
  const weir_gguf *gguf;
  weir_hparams h;
  weir_tokenizer *tok;
  int64_t params, bytes, bytes_of[WEIR_DTYPE_COUNT], elems_of[WEIR_DTYPE_COUNT];
} inspected;

static int64_t elements(const weir_gguf_tensor *t) {
  int64_t n = 1;
  for (int d = 0; d < t->n_dims; d++) n *= t->dim[d]; /* the reader has checked that the product fits */
  return n;
}

static weir_status open_model(const char *path, inspected *m, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_mfile_open(path, &m->file, e));
  m->gguf = weir_mfile_gguf(m->file);
  for (int64_t i = 0; i < weir_gguf_n_tensors(m->gguf); i++) {
    const weir_gguf_tensor *t = weir_gguf_tensor_at(m->gguf, i);
    m->params += elements(t);
    m->bytes += (int64_t)t->bytes;
    m->bytes_of[t->dtype] += (int64_t)t->bytes;
    m->elems_of[t->dtype] += elements(t);
  }
  st = weir_hparams_read(m->file, &m->h, e);
  if (st == WEIR_OK) st = weir_tokenizer_create(m->file, &m->tok, e);
  if (st != WEIR_OK) weir_fail_ctx(e, st, "%s", path);
out:
  return st;
}

static void close_model(inspected *m) {
  weir_tokenizer_destroy(m->tok);
  weir_mfile_close(m->file);
}

static int64_t kv_bytes(const weir_hparams *h, int64_t elem) {
  return 2 * elem * h->n_layers * (int64_t)h->n_kv_heads * h->head_dim;
}

static void print_model(const char *path, const inspected *m, int64_t kv_elem, weir_out *o) {
  const weir_hparams *h = &m->h;
  char weights[32], kv[32], full[32];
  weir_bytes_text((double)m->bytes, weights, sizeof weights);
  weir_bytes_text((double)kv_bytes(h, kv_elem), kv, sizeof kv);
  weir_bytes_text((double)kv_bytes(h, kv_elem) * h->n_ctx, full, sizeof full);
  weir_out_printf(o, "%s: %s, GGUF v%u, %lld keys, %lld tensors\n", path, h->name, weir_gguf_version(m->gguf),
                  (long long)weir_gguf_n_keys(m->gguf), (long long)weir_gguf_n_tensors(m->gguf));
  weir_out_printf(
      o, "architecture  %s, %d layers, dim %d, %d heads of %d (%d for keys and values), feed-forward %d\n",
      weir_arch_name(h->arch), h->n_layers, h->dim, h->n_heads, h->head_dim, h->n_kv_heads, h->n_ff);
  weir_out_printf(o, "positions     context %d, rope theta %g over %d dims%s%s\n", h->n_ctx,
                  (double)h->rope.theta, h->rope_dims, h->rope_interleaved ? ", interleaved" : "",
                  h->qk_norm ? ", q and k normed" : "");
  weir_out_printf(o, "vocabulary    %d rows, %d tokens%s%s\n", h->n_vocab, weir_tokenizer_n_vocab(m->tok),
                  weir_tokenizer_adds_bos(m->tok) ? ", begins a text with a token of its own" : "",
                  h->tied_head ? ", head tied to the embedding" : "");
  weir_out_printf(o, "parameters    %lld in %s:", (long long)m->params, weights);
  for (int t = 0; t < WEIR_DTYPE_COUNT; t++)
    if (m->elems_of[t] > 0)
      weir_out_printf(o, " %s %.3f", weir_dtype_get((weir_dtype)t)->name,
                      (double)m->elems_of[t] / (double)m->params);
  weir_out_printf(o, " of them\nmemory        weights %s, keys and values %s a token, %s a full context\n",
                  weights, kv, full);
}

static json_t *json_model(const char *path, const inspected *m, int64_t kv_elem) {
  const weir_hparams *h = &m->h;
  json_t *mix = json_object();
  for (int t = 0; mix && t < WEIR_DTYPE_COUNT; t++)
    if (m->elems_of[t] > 0)
      json_object_set_new(mix, weir_dtype_get((weir_dtype)t)->name,
                          json_real((double)m->elems_of[t] / (double)m->params));
  return json_pack(
      "{s:s, s:s, s:o, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:I, s:I, s:I, s:o}", /**/
      "schema", "weir.inspect.v1", "file", path, "name", weir_json_text(h->name, strlen(h->name)), "arch",
      weir_arch_name(h->arch), "layers", h->n_layers, "dim", h->dim, "heads", h->n_heads, "kv_heads",
      h->n_kv_heads, "head_dim", h->head_dim, "ff", h->n_ff, "vocab", h->n_vocab, "tokens",
      weir_tokenizer_n_vocab(m->tok), "context", h->n_ctx, "parameters", (json_int_t)m->params,
      "weight_bytes", (json_int_t)m->bytes, "kv_bytes_per_token", (json_int_t)kv_bytes(h, kv_elem), "mix",
      mix);
}

static void print_keys(const inspected *m, weir_out *o) {
  for (int64_t i = 0; i < weir_gguf_n_keys(m->gguf); i++) {
    char value[200];
    const weir_str key = weir_gguf_key(m->gguf, i);
    weir_gguf_value_text(m->gguf, i, value, sizeof value);
    weir_out_text(o, key.data, key.len);
    weir_out_printf(o, " = ");
    for (char *p = value; *p; p++)
      if (*p == '\n') *p = ' ';
    weir_out_text(o, value, strlen(value));
    weir_out_printf(o, "\n");
  }
}

static void print_tensors(const inspected *m, weir_out *o) {
  for (int64_t i = 0; i < weir_gguf_n_tensors(m->gguf); i++) {
    const weir_gguf_tensor *t = weir_gguf_tensor_at(m->gguf, i);
    char shape[96] = "", bytes[32];
    size_t n = 0;
    for (int d = 0; d < t->n_dims && n < sizeof shape; d++)
      n += (size_t)snprintf(shape + n, sizeof shape - n, "%s%lld", d ? " x " : "", (long long)t->dim[d]);
    weir_bytes_text((double)t->bytes, bytes, sizeof bytes);
    weir_out_printf(o, "%-5s %-22s %12s  ", weir_dtype_get(t->dtype)->name, shape, bytes);
    weir_out_text(o, t->name.data, t->name.len);
    weir_out_printf(o, "\n");
  }
}

static weir_status inspect_file(const weir_config *c, const char *path, weir_out *o, weir_err *e) {
  inspected m = {0};
  const int64_t kv_elem = !strcmp(weir_config_string(c, "kv"), "f32") ? 4 : 2;
  const weir_status st = open_model(path, &m, e);
  if (st == WEIR_OK && weir_config_bool(c, "json")) {
    weir_out_json(o, json_model(path, &m, kv_elem));
  } else if (st == WEIR_OK) {
    print_model(path, &m, kv_elem, o);
    if (weir_config_bool(c, "keys")) print_keys(&m, o);
    if (weir_config_bool(c, "tensors")) print_tensors(&m, o);
  }
  close_model(&m);
  return st;
}

static weir_status inspect(const weir_config *c, weir_out *o, weir_err *e) {
  int32_t n;
  const char *const *file = weir_config_operands(c, &n);
  if (!weir_config_bool(c, "pair")) {
    if (n != 1) return weir_fail(e, WEIR_EINVAL, "want one model file, got %d; two go with --pair", n);
    return inspect_file(c, file[0], o, e);
  }
  weir_model_paths paths = {{0}, {0}};
  if (n != 0 && n != 2)
    return weir_fail(e, WEIR_EINVAL, "--pair wants a small and a large model, got %d files", n);
  if (n == 2) {
    if (strlen(file[0]) >= sizeof paths.small || strlen(file[1]) >= sizeof paths.large)
      return weir_fail(e, WEIR_EINVAL, "a path is too long");
    strcpy(paths.small, file[0]);
    strcpy(paths.large, file[1]);
  } else {
    const weir_status st = weir_find_models(c, &paths, e);
    if (st != WEIR_OK) return st;
  }
  if (!paths.small[0] || !paths.large[0])
    return weir_fail(e, WEIR_EINVAL, "--pair wants --small and --large");
  return weir_inspect_pair(c, &paths, o, e);
}

int weir_main_inspect(const weir_config *c) {
  weir_out out;
  weir_err e = {0};
  int status = WEIR_EXIT_OK;
  weir_out_init(&out, c);
  const weir_status st = inspect(c, &out, &e);
  if (st != WEIR_OK)
    status = st == WEIR_EINVAL ? weir_tell_usage("inspect", &e) : weir_tell(&e, WEIR_EXIT_FAILED);
  if (!weir_out_end(&out)) status = weir_tell(&out.err, WEIR_EXIT_FAILED);
  return status;
}
