/* SPDX-License-Identifier: Apache-2.0 */
/* Index of a Hugging Face directory's weights. Owns the parsed headers of the shards and the list of tensors
 * under GGUF's names; their bytes stay with the weir_hf. Calls the safetensors reader, the name table and the
 * planner of conversions; one thread while opening, then read-only. */
#include "model/hf_weights.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "model/json.h"

enum { TENSOR_NAME_BYTES = WEIR_HF_MODULE_BYTES + 8 };

typedef struct shard {
  const char *name; /* borrowed from the index, or from weir_hf_weights.single */
  weir_safetensors *st;
} shard;

/* All that belongs to one matrix or vector. */
typedef struct module {
  weir_hf_name name;
  const weir_st_tensor *param[WEIR_HF_PARAM_COUNT];
} module;

typedef struct named_tensor {
  weir_hf_tensor t;
  char name[TENSOR_NAME_BYTES];
} named_tensor;

struct weir_hf_weights {
  json_t *index; /* NULL: one file */
  char single[256];
  shard *shard; /* [n_shards] */
  int32_t n_shards;
  weir_strmap shard_map;
  module *module; /* [n_modules], of room for every tensor */
  int32_t n_modules;
  weir_strmap module_map;
  named_tensor *tensor; /* [n] */
  int32_t n;
  weir_strmap tensor_map;
  int64_t n_unknown;
  weir_str first_unknown;
};

/* ---- files ---- */

static weir_status add_shard(weir_hf_weights *w, weir_hf *hf, const char *name, int32_t *out, weir_err *e) {
  weir_str bytes;
  weir_status st = WEIR_OK;
  *out = weir_strmap_get(&w->shard_map, weir_str_of(name));
  if (*out >= 0) return WEIR_OK;
  if (w->n_shards >= WEIR_HF_MAX_FILES)
    return weir_fail(e, WEIR_EFORMAT, "more than %d shards", WEIR_HF_MAX_FILES);
  WEIR_TRY(weir_hf_map(hf, name, SIZE_MAX, &bytes, e));
  weir_safetensors *s;
  st = weir_safetensors_parse(bytes.data, bytes.len, &s, e);
  if (st != WEIR_OK) {
    weir_fail_ctx(e, st, "%s%s%s", weir_hf_path(hf), *weir_hf_path(hf) ? "/" : "", name);
    goto out;
  }
  *out = w->n_shards;
  w->shard[w->n_shards++] = (shard){name, s};
  weir_strmap_add(&w->shard_map, weir_str_of(name), *out);
out:
  return st;
}

/* Says what is there instead of weights that could be read. */
static weir_status no_weights(const weir_hf *hf, weir_err *e) {
  static const char *const pickled[] = {".bin", ".pth", ".pt"};
  char first[256];
  int32_t n;
  for (size_t i = 0; i < sizeof pickled / sizeof *pickled; i++) {
    const weir_status st = weir_hf_count(hf, pickled[i], &n, first, e);
    char shown[WEIR_STR_SHOW_BYTES];
    if (st != WEIR_OK) return st;
    if (n > 0)
      return weir_fail(e, WEIR_EUNSUP,
                       "no *.safetensors files, only PyTorch's %s: convert them to safetensors",
                       weir_str_show(weir_str_of(first), shown));
  }
  return weir_fail(e, WEIR_EFORMAT, "no *.safetensors files");
}

static weir_status open_single(weir_hf_weights *w, weir_hf *hf, const char *name, weir_err *e) {
  int32_t unused;
  snprintf(w->single, sizeof w->single, "%s", name);
  weir_status st = WEIR_NEW(1, &w->shard, e);
  if (st == WEIR_OK) st = weir_strmap_init(&w->shard_map, 1, e);
  return st == WEIR_OK ? add_shard(w, hf, w->single, &unused, e) : st;
}

/* Quantisers like names of their own ("gptq_model-4bit-128g.safetensors"). */
static weir_status open_other(weir_hf_weights *w, weir_hf *hf, weir_err *e) {
  int32_t n;
  char first[256];
  const weir_status st = weir_hf_count(hf, ".safetensors", &n, first, e);
  if (st != WEIR_OK) return st;
  if (n == 0) return no_weights(hf, e);
  if (n > 1)
    return weir_fail(e, WEIR_EFORMAT,
                     "%" PRId32 " *.safetensors files, but neither model.safetensors nor its index is there",
                     n);
  return open_single(w, hf, first, e);
}

static weir_status read_index(weir_hf_weights *w, weir_hf *hf, weir_str text, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  const char *key;
  json_t *file;
  weir_status st = weir_json_parse_object(text, &w->index, e);
  json_t *map = json_object_get(w->index, "weight_map");
  if (st == WEIR_OK && !json_is_object(map)) st = weir_fail(e, WEIR_EFORMAT, "no object \"weight_map\"");
  if (st == WEIR_OK && json_object_size(map) > WEIR_ST_MAX_TENSORS)
    st = weir_fail(e, WEIR_EFORMAT, "%zu tensors (limit %d)", json_object_size(map), WEIR_ST_MAX_TENSORS);
  if (st == WEIR_OK) json_object_foreach(map, key, file) {
      if (json_is_string(file)) continue;
      st = weir_fail(e, WEIR_EFORMAT, "tensor %s: the name of its file is not a string",
                     weir_str_show(weir_str_of(key), shown));
      break;
    }
  if (st == WEIR_OK) st = WEIR_NEW(WEIR_HF_MAX_FILES, &w->shard, e);
  if (st == WEIR_OK) st = weir_strmap_init(&w->shard_map, WEIR_HF_MAX_FILES, e);
  if (st != WEIR_OK) return weir_fail_ctx(e, st, "model.safetensors.index.json");
  json_object_foreach(map, key, file) {
    int32_t i;
    st = add_shard(w, hf, json_string_value(file), &i, e);
    if (st != WEIR_OK) return st;
    if (weir_safetensors_find(w->shard[i].st, weir_str_of(key))) continue;
    char name[WEIR_STR_SHOW_BYTES];
    return weir_fail(e, WEIR_EFORMAT, "model.safetensors.index.json: tensor %s is not in %s",
                     weir_str_show(weir_str_of(key), shown),
                     weir_str_show(weir_str_of(w->shard[i].name), name));
  }
  return WEIR_OK;
}

static weir_status open_files(weir_hf_weights *w, weir_hf *hf, weir_err *e) {
  static const char single[] = "model.safetensors", index_name[] = "model.safetensors.index.json";
  weir_str text;
  if (weir_hf_has(hf, single)) return open_single(w, hf, single, e); /* transformers prefers it, too */
  if (!weir_hf_has(hf, index_name)) return open_other(w, hf, e);
  const weir_status st = weir_hf_map(hf, index_name, WEIR_HF_MAX_INDEX_BYTES, &text, e);
  return st == WEIR_OK ? read_index(w, hf, text, e) : st;
}

/* ---- modules ---- */

static weir_status add_param(weir_hf_weights *w, const weir_hparams *h, const weir_st_tensor *t,
                             weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES], other[WEIR_STR_SHOW_BYTES];
  weir_hf_name name;
  const weir_hf_name_kind kind = weir_hf_name_parse(t->name, h->arch, &name);
  if (kind == WEIR_HF_NAME_SKIPPED) return WEIR_OK;
  if (kind == WEIR_HF_NAME_UNKNOWN || name.layer >= h->n_layers) {
    if (w->n_unknown++ == 0) w->first_unknown = t->name;
    return WEIR_OK;
  }
  if (h->tied_head && !strcmp(name.module, "output")) return WEIR_OK; /* the embedding once more */
  module *m = &w->module[w->n_modules];
  m->name = name;
  const int32_t i = weir_strmap_add(&w->module_map, weir_str_of(m->name.module), w->n_modules);
  if (i == w->n_modules)
    w->n_modules++;
  else
    m = &w->module[i];
  if (m->param[name.param])
    return weir_fail(e, WEIR_EFORMAT, "tensors %s and %s are the same one",
                     weir_str_show(m->param[name.param]->name, shown), weir_str_show(t->name, other));
  m->param[name.param] = t;
  return WEIR_OK;
}

static weir_status collect(weir_hf_weights *w, const weir_hparams *h, weir_err *e) {
  weir_status st = WEIR_OK;
  size_t n = 0;
  for (int32_t i = 0; i < w->n_shards; i++) n += (size_t)weir_safetensors_n(w->shard[i].st);
  if (n > WEIR_ST_MAX_TENSORS)
    return weir_fail(e, WEIR_EFORMAT, "%zu tensors in all (limit %d)", n, WEIR_ST_MAX_TENSORS);
  WEIR_TRY(WEIR_NEW(n + 1, &w->module, e));
  WEIR_TRY(weir_strmap_init(&w->module_map, n + 1, e));
  for (int32_t i = 0; i < w->n_shards; i++)
    for (int32_t k = 0; k < weir_safetensors_n(w->shard[i].st); k++)
      WEIR_TRY(add_param(w, h, weir_safetensors_at(w->shard[i].st, k), e));
out:
  return st;
}

/* ---- tensors ---- */

static bool plain_dtype(weir_st_dtype from, weir_dtype *out) {
  if (from == WEIR_ST_F32)
    *out = WEIR_F32;
  else if (from == WEIR_ST_F16)
    *out = WEIR_F16;
  else if (from == WEIR_ST_BF16)
    *out = WEIR_BF16;
  else
    return false;
  return true;
}

static weir_status plain_info(const weir_st_tensor *s, weir_tensor_info *info, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  if (!plain_dtype(s->dtype, &info->dtype))
    return weir_fail(e, WEIR_EUNSUP, "tensor %s: %s is not supported here", weir_str_show(s->name, shown),
                     weir_st_dtype_name(s->dtype));
  if (s->n_dims < 1 || s->n_dims > 3)
    return weir_fail(e, WEIR_EFORMAT, "tensor %s: %" PRId32 " dimensions", weir_str_show(s->name, shown),
                     s->n_dims);
  info->n_dims = s->n_dims;
  for (int32_t d = 0; d < WEIR_GGUF_MAX_DIMS; d++)
    info->dim[d] = d < s->n_dims ? s->dim[s->n_dims - 1 - d] : 1;
  info->bytes = s->bytes;
  if (s->bytes == 0)
    return weir_fail(e, WEIR_EFORMAT, "tensor %s: no elements", weir_str_show(s->name, shown));
  return WEIR_OK;
}

static named_tensor *next_tensor(weir_hf_weights *w, const module *m, const char *what) {
  named_tensor *t = &w->tensor[w->n];
  snprintf(t->name, sizeof t->name, "%s.%s", m->name.module, what);
  t->t.info.name = weir_str_of(t->name);
  return t;
}
static void keep_tensor(weir_hf_weights *w, const named_tensor *t) {
  weir_strmap_add(&w->tensor_map, t->t.info.name, w->n++);
}

/* Old GPTQ exports give every matrix a bias; one of zeros adds nothing. */
static bool is_zero(const weir_st_tensor *t) {
  for (size_t i = 0; i < t->bytes; i++)
    if (t->data[i]) return false;
  return true;
}

/* transformers would drop what the model's class does not have; here that is said. */
static weir_status add_bias(weir_hf_weights *w, weir_arch arch, const module *m, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  const weir_st_tensor *bias = m->param[WEIR_HF_BIAS];
  const char *what = strrchr(m->name.module, '.');
  const bool belongs = arch == WEIR_ARCH_QWEN2 && what &&
                       (!strcmp(what, ".attn_q") || !strcmp(what, ".attn_k") || !strcmp(what, ".attn_v"));
  if (!bias || (!belongs && is_zero(bias))) return WEIR_OK;
  if (!belongs)
    return weir_fail(e, WEIR_EUNSUP, "tensor %s: %s models have no such bias",
                     weir_str_show(bias->name, shown), weir_arch_name(arch));
  named_tensor *t = next_tensor(w, m, "bias");
  const weir_status st = plain_info(bias, &t->t.info, e);
  if (st != WEIR_OK) return st;
  t->t.data = bias->data;
  keep_tensor(w, t);
  return WEIR_OK;
}

static weir_status add_tensors(weir_hf_weights *w, const weir_quant_conf *q, weir_arch arch, const module *m,
                               weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_st_tensor *weight = m->param[WEIR_HF_WEIGHT];
  named_tensor *t = next_tensor(w, m, "weight");
  WEIR_TRY(weir_convert_plan(q, m->param, &t->t.convert, e));
  if (t->t.convert.method != WEIR_QUANT_NONE) {
    weir_tensor_info *info = &t->t.info;
    info->dtype = t->t.convert.dtype;
    info->n_dims = 2;
    info->dim[0] = t->t.convert.cols;
    info->dim[1] = t->t.convert.rows;
    info->dim[2] = info->dim[3] = 1;
    for (int p = 0; p < WEIR_HF_PARAM_COUNT; p++)
      if (m->param[p] && p != WEIR_HF_BIAS) info->bytes += m->param[p]->bytes;
    keep_tensor(w, t);
  } else if (weight) {
    WEIR_TRY(plain_info(weight, &t->t.info, e));
    t->t.data = weight->data;
    keep_tensor(w, t);
  }
  WEIR_TRY(add_bias(w, arch, m, e));
out:
  return st;
}

static weir_status name_tensors(weir_hf_weights *w, const weir_quant_conf *q, weir_arch arch, weir_err *e) {
  weir_status st = WEIR_OK;
  const size_t most = 2 * (size_t)w->n_modules + 1;
  WEIR_TRY(WEIR_NEW(most, &w->tensor, e));
  WEIR_TRY(weir_strmap_init(&w->tensor_map, most, e));
  for (int32_t i = 0; i < w->n_modules; i++) WEIR_TRY(add_tensors(w, q, arch, &w->module[i], e));
out:
  return st;
}

/* ---- the whole ---- */

weir_status weir_hf_weights_open(weir_hf *hf, const weir_hparams *h, weir_hf_weights **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_hf_weights *w = NULL;
  weir_quant_conf quant;
  char shown[WEIR_STR_SHOW_BYTES];
  *out = NULL;
  WEIR_TRY(weir_quant_conf_read(hf, &quant, e));
  WEIR_TRY(WEIR_NEW(1, &w, e));
  WEIR_TRY(open_files(w, hf, e));
  WEIR_TRY(collect(w, h, e));
  WEIR_TRY(name_tensors(w, &quant, h->arch, e));
  if (w->n_unknown > 0)
    weir_log(WEIR_LOG_WARN, "%s: %" PRId64 " tensors are not used, the first is %s", weir_hf_path(hf),
             w->n_unknown, weir_str_show(w->first_unknown, shown));
  *out = w;
  w = NULL;
out:
  weir_hf_weights_close(w);
  return st;
}

void weir_hf_weights_close(weir_hf_weights *w) {
  if (!w) return;
  for (int32_t i = 0; i < w->n_shards; i++) weir_safetensors_close(w->shard[i].st);
  free(w->shard);
  weir_strmap_fini(&w->shard_map);
  free(w->module);
  weir_strmap_fini(&w->module_map);
  free(w->tensor);
  weir_strmap_fini(&w->tensor_map);
  json_decref(w->index);
  free(w);
}

int32_t weir_hf_weights_n(const weir_hf_weights *w) { return w->n; }
const weir_hf_tensor *weir_hf_weights_at(const weir_hf_weights *w, int32_t i) { return &w->tensor[i].t; }
const weir_hf_tensor *weir_hf_weights_find(const weir_hf_weights *w, const char *name) {
  const int32_t i = weir_strmap_get(&w->tensor_map, weir_str_of(name));
  return i < 0 ? NULL : &w->tensor[i].t;
}
