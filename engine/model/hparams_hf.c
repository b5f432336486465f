/* SPDX-License-Identifier: Apache-2.0 */
/* Hyper-parameters of a Hugging Face directory: config.json. Owns nothing; any thread.
 *
 * Keys and defaults are those of transformers' configuration_<model type>.py (5.x, which also says how the
 * older spellings are read). Whatever a family's modelling code would do differently for a key is done or
 * refused by that key's name: a model that loads is a model that is right. */
#include "model/hparams.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/hf.h"
#include "model/hparams_check.h"
#include "model/hparams_hf_in.h"

typedef enum {
  WINDOW_NONE,
  WINDOW_ALL,      /* sliding_window, all layers */
  WINDOW_SWITCHED, /* the same, when use_sliding_window */
  WINDOW_UPPER,    /* when use_sliding_window: layer_types, else layers from max_window_layers on */
  WINDOW_PATTERN   /* layer_types, else all but each sliding_window_pattern-th layer */
} window_rule;

typedef struct family {
  const char *model_type;
  weir_arch arch;
  struct {
    int32_t vocab, dim, ff, layers, heads, kv_heads, head_dim,
        ctx; /* kv_heads 0: heads; head_dim 0: dim/heads */
    double eps, theta;
    int32_t window, pattern; /* window 0: none */
  } def;
  window_rule window;
  bool tied, qk_norm, gemma, biased; /* biased: q, k and v always have one, and no key says so */
} family;

static const family families[] = {
    {.model_type = "llama",
     .arch = WEIR_ARCH_LLAMA,
     .def = {32000, 4096, 11008, 32, 32, 0, 0, 2048, 1e-6, 1e4, 0, 0}},
    {.model_type = "mistral",
     .arch = WEIR_ARCH_LLAMA,
     .def = {32000, 4096, 14336, 32, 32, 8, 0, 131072, 1e-6, 1e4, 4096, 0},
     .window = WINDOW_ALL},
    {.model_type = "mixtral",
     .arch = WEIR_ARCH_LLAMA,
     .def = {32000, 4096, 14336, 32, 32, 8, 0, 131072, 1e-5, 1e6, 0, 0},
     .window = WINDOW_ALL},
    {.model_type = "qwen2",
     .arch = WEIR_ARCH_QWEN2,
     .def = {151936, 4096, 22016, 32, 32, 32, 0, 32768, 1e-6, 1e4, 4096, 0},
     .window = WINDOW_UPPER,
     .biased = true},
    {.model_type = "qwen3",
     .arch = WEIR_ARCH_QWEN3,
     .def = {151936, 4096, 22016, 32, 32, 32, 128, 32768, 1e-6, 1e4, 4096, 0},
     .window = WINDOW_UPPER,
     .qk_norm = true},
    {.model_type = "qwen3_moe",
     .arch = WEIR_ARCH_QWEN3MOE,
     .def = {151936, 2048, 6144, 24, 32, 4, 0, 32768, 1e-6, 1e4, 4096, 0},
     .window = WINDOW_SWITCHED,
     .qk_norm = true},
    {.model_type = "gemma2",
     .arch = WEIR_ARCH_GEMMA2,
     .def = {256000, 2304, 9216, 26, 8, 4, 256, 8192, 1e-6, 1e4, 4096, 2},
     .window = WINDOW_PATTERN,
     .tied = true,
     .gemma = true},
    {.model_type = "gemma3_text",
     .arch = WEIR_ARCH_GEMMA3,
     .def = {262208, 2304, 9216, 26, 8, 4, 256, 131072, 1e-6, 1e6, 4096, 6},
     .window = WINDOW_PATTERN,
     .tied = true,
     .qk_norm = true,
     .gemma = true},
    {.model_type = "phi3",
     .arch = WEIR_ARCH_PHI3,
     .def = {32064, 3072, 8192, 32, 32, 0, 0, 4096, 1e-5, 1e4, 0, 0},
     .window = WINDOW_ALL},
};
enum { N_FAMILIES = sizeof families / sizeof *families };

/* ---- which family ---- */

static weir_status find_family(const json_t *config, weir_hf_conf *c, const family **out, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES], known[256] = "";
  weir_str type;
  *c = (weir_hf_conf){config, ""};
  weir_status st = weir_hf_conf_text(c, "model_type", &type, e);
  if (st != WEIR_OK) return st;
  if (!type.data) return weir_fail(e, WEIR_EFORMAT, "key \"model_type\" is missing");
  if (weir_str_eq(type, weir_str_of("smollm3")))
    return weir_fail(e, WEIR_EUNSUP, "model type \"smollm3\": layers without RoPE are not supported");
  if (weir_str_eq(type, weir_str_of("gemma3"))) { /* with pictures; the text model stands in it */
    const json_t *text = json_object_get(config, "text_config");
    if (!json_is_object(text)) return weir_fail(e, WEIR_EFORMAT, "key \"text_config\": want an object");
    *c = (weir_hf_conf){text, "text_config."};
    type = weir_str_of("gemma3_text");
  }
  for (int i = 0; i < N_FAMILIES; i++) {
    *out = &families[i];
    if (weir_str_eq(type, weir_str_of(families[i].model_type))) return WEIR_OK;
    strncat(known, i ? " " : "", sizeof known - strlen(known) - 1);
    strncat(known, families[i].model_type, sizeof known - strlen(known) - 1);
  }
  return weir_fail(e, WEIR_EUNSUP, "model type %s is not supported (known: %s gemma3)",
                   weir_str_show(type, shown), known);
}

/* ---- sizes ---- */

static weir_status read_sizes(const weir_hf_conf *c, const family *f, weir_hparams *h, weir_err *e) {
  weir_status st = WEIR_OK;
  WEIR_TRY(weir_hf_conf_int(c, "vocab_size", f->def.vocab, 1, WEIR_MAX_VOCAB, &h->n_vocab, e));
  WEIR_TRY(weir_hf_conf_int(c, "hidden_size", f->def.dim, 1, WEIR_MAX_DIM, &h->dim, e));
  WEIR_TRY(weir_hf_conf_int(c, "intermediate_size", f->def.ff, 1, WEIR_MAX_FF, &h->n_ff, e));
  WEIR_TRY(weir_hf_conf_int(c, "num_hidden_layers", f->def.layers, 1, WEIR_MAX_LAYERS, &h->n_layers, e));
  WEIR_TRY(weir_hf_conf_int(c, "num_attention_heads", f->def.heads, 1, WEIR_MAX_HEADS, &h->n_heads, e));
  /* a null means one for each head, also where the class has another default */
  const bool kv_is_null = json_is_null(json_object_get(c->object, "num_key_value_heads"));
  WEIR_TRY(weir_hf_conf_int(c, "num_key_value_heads",
                            f->def.kv_heads && !kv_is_null ? f->def.kv_heads : h->n_heads, 1, WEIR_MAX_HEADS,
                            &h->n_kv_heads, e));
  WEIR_TRY(weir_hf_conf_int(c, "max_position_embeddings", f->def.ctx, 1, WEIR_MAX_CONTEXT, &h->n_ctx, e));
  if (!weir_hf_conf_get(c, "head_dim") && !f->def.head_dim && h->dim % h->n_heads != 0)
    return weir_fail(e, WEIR_EFORMAT,
                     "key \"%shidden_size\": %" PRId32 " is not a multiple of %" PRId32
                     " heads, and there is no \"head_dim\"",
                     c->prefix, h->dim, h->n_heads);
  WEIR_TRY(weir_hf_conf_int(c, "head_dim", f->def.head_dim ? f->def.head_dim : h->dim / h->n_heads, 2,
                            WEIR_MAX_HEAD_DIM, &h->head_dim, e));
  WEIR_TRY(weir_hf_conf_float(c, "rms_norm_eps", f->def.eps, 1e-30, 0.1, &h->norm_eps, e));
out:
  return st;
}

static weir_status read_experts(const weir_hf_conf *c, const family *f, weir_hparams *h, weir_err *e) {
  weir_status st = WEIR_OK;
  const bool mixtral = !strcmp(f->model_type, "mixtral"), qwen = f->arch == WEIR_ARCH_QWEN3MOE;
  int32_t step;
  if (!mixtral && !qwen) return WEIR_OK;
  const char *count = weir_hf_conf_get(c, "num_local_experts") ? "num_local_experts" : "num_experts";
  WEIR_TRY(weir_hf_conf_int(c, count, mixtral ? 8 : 128, 1, WEIR_MAX_EXPERTS, &h->n_experts, e));
  WEIR_TRY(
      weir_hf_conf_int(c, "num_experts_per_tok", mixtral ? 2 : 8, 1, h->n_experts, &h->n_experts_used, e));
  h->expert_ff = h->n_ff;
  h->expert_renorm = true;
  if (mixtral) return WEIR_OK;
  WEIR_TRY(weir_hf_conf_int(c, "moe_intermediate_size", 768, 1, WEIR_MAX_FF, &h->expert_ff, e));
  WEIR_TRY(weir_hf_conf_bool(c, "norm_topk_prob", false, &h->expert_renorm, e));
  WEIR_TRY(weir_hf_conf_int(c, "decoder_sparse_step", 1, 1, WEIR_MAX_LAYERS, &step, e));
  const json_t *plain = weir_hf_conf_get(c, "mlp_only_layers");
  if (step != 1 || (plain && json_array_size(plain) > 0))
    return weir_fail(e, WEIR_EUNSUP, "key \"%s%s\": layers without experts among such with are not supported",
                     c->prefix, step != 1 ? "decoder_sparse_step" : "mlp_only_layers");
  if (plain && !json_is_array(plain))
    return weir_fail(e, WEIR_EFORMAT, "key \"%smlp_only_layers\": want an array", c->prefix);
out:
  return st;
}

/* ---- windows ---- */

static weir_status read_layer_types(const weir_hf_conf *c, const json_t *types, weir_hparams *h,
                                    weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  if (!json_is_array(types) || json_array_size(types) != (size_t)h->n_layers)
    return weir_fail(e, WEIR_EFORMAT, "key \"%slayer_types\": want an array of %" PRId32 " strings",
                     c->prefix, h->n_layers);
  for (int32_t i = 0; i < h->n_layers; i++) {
    const json_t *t = json_array_get(types, (size_t)i);
    if (!json_is_string(t))
      return weir_fail(e, WEIR_EFORMAT, "key \"%slayer_types\": element %" PRId32 " is not a string",
                       c->prefix, i);
    const weir_str s = {json_string_value(t), json_string_length(t)};
    h->windowed[i] = weir_str_eq(s, weir_str_of("sliding_attention"));
    if (!h->windowed[i] && !weir_str_eq(s, weir_str_of("full_attention")))
      return weir_fail(e, WEIR_EUNSUP, "key \"%slayer_types\": %s is not supported", c->prefix,
                       weir_str_show(s, shown));
  }
  return WEIR_OK;
}

static weir_status read_window(const weir_hf_conf *c, const family *f, weir_hparams *h, weir_err *e) {
  weir_status st = WEIR_OK;
  bool on = f->window == WINDOW_ALL || f->window == WINDOW_PATTERN, any = false;
  int32_t first = 0, pattern = 0;
  if (f->window == WINDOW_NONE) return WEIR_OK;
  if (!on) WEIR_TRY(weir_hf_conf_bool(c, "use_sliding_window", false, &on, e));
  /* a null is not an absent key here: it says that there is no window */
  if (on && !json_is_null(json_object_get(c->object, "sliding_window")))
    WEIR_TRY(weir_hf_conf_int(c, "sliding_window", f->def.window, f->def.window ? 1 : 0, INT32_MAX,
                              &h->window, e));
  const json_t *types = weir_hf_conf_get(c, "layer_types");
  if (f->window == WINDOW_UPPER)
    WEIR_TRY(weir_hf_conf_int(c, "max_window_layers", 28, 0, INT32_MAX, &first, e));
  if (f->window == WINDOW_PATTERN)
    WEIR_TRY(weir_hf_conf_int(c, f->arch == WEIR_ARCH_GEMMA3 ? "sliding_window_pattern" : "", f->def.pattern,
                              1, WEIR_MAX_LAYERS, &pattern, e));
  if (types && (f->window == WINDOW_UPPER || f->window == WINDOW_PATTERN)) {
    WEIR_TRY(read_layer_types(c, types, h, e));
  } else {
    for (int32_t i = 0; i < h->n_layers; i++)
      h->windowed[i] = pattern ? (i + 1) % pattern != 0 : h->window > 0 && i >= first;
  }
  for (int32_t i = 0; i < h->n_layers; i++) any = any || h->windowed[i];
  if (any && h->window == 0)
    return weir_fail(e, WEIR_EFORMAT, "key \"%ssliding_window\": no window, but layers that have one",
                     c->prefix);
  /* A window that holds every position is none; but Gemma 3 tells its layers apart by more than that. */
  if (!any || (h->window >= h->n_ctx && f->arch != WEIR_ARCH_GEMMA3)) {
    h->window = 0;
    memset(h->windowed, 0, sizeof h->windowed);
  }
out:
  return st;
}

/* ---- the rest ---- */

static weir_status read_activation(const weir_hf_conf *c, const family *f, weir_hparams *h, weir_err *e) {
  static const struct {
    const char *name;
    weir_act act;
  } acts[] = {{"silu", WEIR_ACT_SILU},
              {"swish", WEIR_ACT_SILU},
              {"gelu_pytorch_tanh", WEIR_ACT_GELU_TANH},
              {"gelu_new", WEIR_ACT_GELU_TANH}};
  char shown[WEIR_STR_SHOW_BYTES];
  const char *key = f->gemma ? "hidden_activation" : "hidden_act";
  weir_str name;
  const weir_status st = weir_hf_conf_text(c, key, &name, e);
  if (st != WEIR_OK) return st;
  if (!name.data) name = weir_str_of(f->gemma ? "gelu_pytorch_tanh" : "silu");
  for (size_t i = 0; i < sizeof acts / sizeof *acts; i++) {
    h->act = acts[i].act;
    if (weir_str_eq(name, weir_str_of(acts[i].name))) return WEIR_OK;
  }
  return weir_fail(e, WEIR_EUNSUP, "key \"%s%s\": %s is not supported (known: silu gelu_pytorch_tanh)",
                   c->prefix, key, weir_str_show(name, shown));
}

static weir_status read_switches(const weir_hf_conf *c, const family *f, weir_hparams *h, weir_err *e) {
  static const char *const biases[] = {"attention_bias", "mlp_bias", "use_bidirectional_attention"};
  weir_status st = WEIR_OK;
  for (size_t i = 0; i < sizeof biases / sizeof *biases; i++) {
    bool on;
    if (f->biased && i == 0) continue;
    WEIR_TRY(weir_hf_conf_bool(c, biases[i], false, &on, e));
    if (on) return weir_fail(e, WEIR_EUNSUP, "key \"%s%s\": true is not supported", c->prefix, biases[i]);
  }
  h->embed_scale = 1.0f;
  h->attn_scale = 1.0f / sqrtf((float)h->head_dim);
  h->qk_norm = f->qk_norm;
  if (f->gemma) {
    float scalar;
    WEIR_TRY(weir_hf_conf_float(c, "query_pre_attn_scalar", 256, 1e-6, 1e9, &scalar, e));
    h->attn_scale = 1.0f / sqrtf(scalar);
    WEIR_TRY(weir_hf_conf_float(c, "attn_logit_softcapping", f->arch == WEIR_ARCH_GEMMA2 ? 50 : 0, 0, 1e9,
                                &h->attn_softcap, e));
    WEIR_TRY(weir_hf_conf_float(c, "final_logit_softcapping", f->arch == WEIR_ARCH_GEMMA2 ? 30 : 0, 0, 1e9,
                                &h->final_softcap, e));
    if (json_is_null(json_object_get(c->object, "attn_logit_softcapping"))) h->attn_softcap = 0;
    if (json_is_null(json_object_get(c->object, "final_logit_softcapping"))) h->final_softcap = 0;
    h->embed_scale = sqrtf((float)h->dim);
    h->post_norms = h->norm_plus_one = true;
  }
out:
  return st;
}

/* The directory's own name; of one in the cache of huggingface_hub, models--<org>--<name>/snapshots/<hash>,
 * that. */
static void read_name(const weir_hf *hf, const family *f, weir_hparams *h) {
  const char *path = weir_hf_path(hf), *slash = strrchr(path, '/');
  weir_str name = weir_str_of(slash ? slash + 1 : path);
  const char *end = strstr(path, "/snapshots/");
  const char *start = end;
  while (start && start > path && start[-1] != '/') start--;
  if (end && !strncmp(start, "models--", 8)) {
    size_t begin = 8;
    const size_t n = (size_t)(end - start);
    for (size_t i = begin; i + 2 < n; i++)
      if (start[i] == '-' && start[i + 1] == '-') begin = i + 2;
    name = (weir_str){start + begin, n - begin};
  }
  if (name.len == 0 || name.data[0] == '.') name = weir_str_of(f->model_type);
  weir_str_escape(name, h->name, sizeof h->name);
}

static weir_status read_all(const weir_hf *hf, weir_hparams *h, weir_err *e) {
  weir_status st = WEIR_OK;
  const family *f = NULL;
  weir_hf_conf c, outer = {weir_hf_config(hf), ""};
  WEIR_TRY(find_family(outer.object, &c, &f, e));
  h->arch = f->arch;
  read_name(hf, f, h);
  WEIR_TRY(read_sizes(&c, f, h, e));
  WEIR_TRY(read_experts(&c, f, h, e));
  WEIR_TRY(read_window(&c, f, h, e));
  WEIR_TRY(read_activation(&c, f, h, e));
  WEIR_TRY(read_switches(&c, f, h, e));
  WEIR_TRY(weir_hf_conf_bool(weir_hf_conf_get(&outer, "tie_word_embeddings") ? &outer : &c,
                             "tie_word_embeddings", f->tied, &h->tied_head, e));
  WEIR_TRY(weir_hf_conf_rope(&c, f->arch, f->def.theta, h, e));
  WEIR_TRY(weir_hparams_check(h, e));
out:
  return st;
}

weir_status weir_hparams_from_hf(const weir_hf *hf, weir_hparams *out, weir_err *e) {
  weir_hparams h = {0};
  const weir_status st = read_all(hf, &h, e);
  if (st != WEIR_OK) return weir_fail_ctx(e, st, "config.json");
  *out = h;
  return WEIR_OK;
}
