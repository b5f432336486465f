/* SPDX-License-Identifier: Apache-2.0 */
/* `weir inspect`: what a model holds, be it a GGUF file or a Hugging Face directory. Main thread. */
#include "programs/inspect.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf.h"
#include "model/hf.h"
#include "model/hparams.h"
#include "model/tokenizer.h"
#include "programs/load.h"
#include "programs/options.h"
#include "run/kvstore.h"

void weir_bytes_text(double bytes, char *buf, size_t n) {
  static const char *const unit[] = {"B", "kB", "MB", "GB", "TB"};
  int u = 0;
  for (; bytes >= 1000 && u < 4; u++) bytes /= 1000;
  snprintf(buf, n, u ? "%.2f %s" : "%.0f %s", bytes, unit[u]);
}

typedef struct inspected {
  weir_mfile *file;
  weir_hparams h;
  weir_tokenizer *tok;
  int64_t params, bytes, bytes_of[WEIR_DTYPE_COUNT], elems_of[WEIR_DTYPE_COUNT];
} inspected;

static int64_t elements(const weir_tensor_info *t) {
  int64_t n = 1;
  for (int d = 0; d < t->n_dims; d++) n *= t->dim[d]; /* the reader has checked that the product fits */
  return n;
}

/* A directory may hold weights alone. */
static bool has_tokenizer(const weir_mfile *file) {
  const weir_hf *hf = weir_mfile_hf(file);
  return !hf || weir_hf_file(hf, "tokenizer.json").data || weir_hf_file(hf, "tokenizer.model").data;
}
static int32_t n_tokens(const inspected *m) { return m->tok ? weir_tokenizer_n_vocab(m->tok) : 0; }

static weir_status open_model(const char *path, inspected *m, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_mfile_open(path, &m->file, e));
  for (int64_t i = 0; i < weir_mfile_n_tensors(m->file); i++) {
    weir_tensor_info t;
    weir_mfile_tensor_at(m->file, i, &t);
    m->params += elements(&t);
    m->bytes += (int64_t)t.bytes;
    m->bytes_of[t.dtype] += (int64_t)t.bytes;
    m->elems_of[t.dtype] += elements(&t);
  }
  st = weir_hparams_read(m->file, &m->h, e);
  if (st == WEIR_OK && has_tokenizer(m->file)) st = weir_tokenizer_create(m->file, &m->tok, e);
  if (st != WEIR_OK) weir_fail_ctx(e, st, "%s", path);
out:
  return st;
}

static void close_model(inspected *m) {
  weir_tokenizer_destroy(m->tok);
  weir_mfile_close(m->file);
}

static const json_t *hf_config(const inspected *m) { return weir_hf_config(weir_mfile_hf(m->file)); }

/* Counts the keys of an object, those of objects in it by "outer.inner"; prints them when there is an `o`.
 * The reader of the file has bounded the depth. */
static int64_t walk_json(const json_t *object, const char *prefix, weir_out *o) {
  const char *key;
  json_t *v;
  int64_t n = 0;
  json_object_foreach((json_t *)(uintptr_t)object, key, v) {
    char name[200], shown[160];
    weir_str_escape(weir_str_of(key), shown, sizeof shown);
    snprintf(name, sizeof name, "%s%s%s", prefix, *prefix ? "." : "", shown);
    if (json_object_size(v) > 0) {
      n += walk_json(v, name, o);
      continue;
    }
    n++;
    if (!o) continue;
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(12));
    weir_out_printf(o, "%s = %.196s%s\n", name, text ? text : "?", text && strlen(text) > 196 ? "..." : "");
    free(text);
  }
  return n;
}

static int32_t n_windowed(const weir_hparams *h) {
  int32_t n = 0;
  for (int32_t i = 0; h->window && i < h->n_layers; i++) n += h->windowed[i];
  return n;
}

static void print_attention(const weir_hparams *h, weir_out *o) {
  static const char *const stretch[] = {[WEIR_ROPE_LINEAR] = "linear",
                                        [WEIR_ROPE_LLAMA3] = "llama3",
                                        [WEIR_ROPE_YARN] = "yarn",
                                        [WEIR_ROPE_FACTORS] = "factors of its own",
                                        [WEIR_ROPE_LONGROPE] = "longrope"};
  const weir_rope *r = &h->rope;
  weir_out_printf(o, "positions     context %d, rope theta %g over %d dims", h->n_ctx, (double)r->theta,
                  h->rope_dims);
  if (r->kind != WEIR_ROPE_PLAIN) weir_out_printf(o, ", %s", stretch[r->kind]);
  if (r->kind != WEIR_ROPE_PLAIN && r->kind != WEIR_ROPE_FACTORS)
    weir_out_printf(o, " x%g", (double)r->factor);
  if (h->rope_local.theta != r->theta) weir_out_printf(o, " (%g in windows)", (double)h->rope_local.theta);
  weir_out_printf(o, "%s%s\n", h->rope_interleaved ? ", interleaved" : "",
                  h->qk_norm ? ", q and k normed" : "");
  if (h->window)
    weir_out_printf(o, "windows       %d positions in %d of %d layers\n", h->window, n_windowed(h),
                    h->n_layers);
  if (h->n_experts)
    weir_out_printf(o, "experts       %d of %d a token, feed-forward %d\n", h->n_experts_used, h->n_experts,
                    h->expert_ff);
}

static void print_model(const char *path, const inspected *m, weir_dtype kv_type, weir_out *o) {
  const weir_hparams *h = &m->h;
  char weights[32], kv[32], full[32];
  weir_bytes_text((double)m->bytes, weights, sizeof weights);
  weir_bytes_text((double)weir_kvstore_token_bytes(h, kv_type), kv, sizeof kv);
  weir_bytes_text((double)weir_kvstore_token_bytes(h, kv_type) * h->n_ctx, full, sizeof full);
  const weir_gguf *g = weir_mfile_gguf(m->file);
  weir_out_printf(o, "%s: %s, ", path, h->name);
  if (g)
    weir_out_printf(o, "GGUF v%u, %lld keys", weir_gguf_version(g), (long long)weir_gguf_n_keys(g));
  else
    weir_out_printf(o, "Hugging Face, %lld keys", (long long)walk_json(hf_config(m), "", NULL));
  weir_out_printf(o, ", %lld tensors\n", (long long)weir_mfile_n_tensors(m->file));
  weir_out_printf(
      o, "architecture  %s, %d layers, dim %d, %d heads of %d (%d for keys and values), feed-forward %d\n",
      weir_arch_name(h->arch), h->n_layers, h->dim, h->n_heads, h->head_dim, h->n_kv_heads, h->n_ff);
  print_attention(h, o);
  weir_out_printf(o, "vocabulary    %d rows, %d tokens%s%s\n", h->n_vocab, n_tokens(m),
                  m->tok && weir_tokenizer_adds_bos(m->tok) ? ", begins a text with a token of its own" : "",
                  h->tied_head ? ", head tied to the embedding" : "");
  weir_out_printf(o, "parameters    %lld in %s:", (long long)m->params, weights);
  for (int t = 0; t < WEIR_DTYPE_COUNT; t++)
    if (m->elems_of[t] > 0)
      weir_out_printf(o, " %s %.3f", weir_dtype_get((weir_dtype)t)->name,
                      (double)m->elems_of[t] / (double)m->params);
  weir_out_printf(o, " of them\nmemory        weights %s, keys and values %s a token, %s a full context\n",
                  weights, kv, full);
}

static json_t *json_model(const char *path, const inspected *m, weir_dtype kv_type) {
  const weir_hparams *h = &m->h;
  json_t *mix = json_object();
  for (int t = 0; mix && t < WEIR_DTYPE_COUNT; t++)
    if (m->elems_of[t] > 0)
      json_object_set_new(mix, weir_dtype_get((weir_dtype)t)->name,
                          json_real((double)m->elems_of[t] / (double)m->params));
  return json_pack(
      "{s:s, s:s, s:o, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:I, s:I, s:I, s:i, s:i, s:i, s:i, "
      "s:o}", /**/
      "schema", "weir.inspect.v1", "file", path, "name", weir_json_text(h->name, strlen(h->name)), "arch",
      weir_arch_name(h->arch), "layers", h->n_layers, "dim", h->dim, "heads", h->n_heads, "kv_heads",
      h->n_kv_heads, "head_dim", h->head_dim, "ff", h->n_ff, "vocab", h->n_vocab, "tokens", n_tokens(m),
      "context", h->n_ctx, "parameters", (json_int_t)m->params, "weight_bytes", (json_int_t)m->bytes,
      "kv_bytes_per_token", (json_int_t)weir_kvstore_token_bytes(h, kv_type), "window", h->window,
      "windowed_layers", n_windowed(h), "experts", h->n_experts, "experts_used", h->n_experts_used, "mix",
      mix);
}

static void print_key(const weir_gguf *g, int64_t i, weir_out *o) {
  char value[200];
  const weir_str key = weir_gguf_key(g, i);
  weir_gguf_value_text(g, i, value, sizeof value);
  weir_out_text(o, key.data, key.len);
  weir_out_printf(o, " = ");
  for (char *p = value; *p; p++)
    if (*p == '\n') *p = ' ';
  weir_out_text(o, value, strlen(value));
  weir_out_printf(o, "\n");
}

static void print_keys(const inspected *m, weir_out *o) {
  const weir_gguf *g = weir_mfile_gguf(m->file);
  if (!g) walk_json(hf_config(m), "", o);
  for (int64_t i = 0; g && i < weir_gguf_n_keys(g); i++) print_key(g, i, o);
}

static void print_tensors(const inspected *m, weir_out *o) {
  for (int64_t i = 0; i < weir_mfile_n_tensors(m->file); i++) {
    weir_tensor_info info;
    const weir_tensor_info *t = &info;
    weir_mfile_tensor_at(m->file, i, &info);
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
  const weir_dtype kv_type = weir_kv_type(c);
  const weir_status st = open_model(path, &m, e);
  if (st == WEIR_OK && weir_config_bool(c, "json")) {
    weir_out_json(o, json_model(path, &m, kv_type));
  } else if (st == WEIR_OK) {
    print_model(path, &m, kv_type, o);
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
