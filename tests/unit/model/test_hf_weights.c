/* SPDX-License-Identifier: Apache-2.0 */
/* Weights of Hugging Face directories: names, shards and their index, what is skipped and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "model/hf.h"
#include "model/hf_names.h"
#include "model/mfile.h"
#include "st_writer.h"

/* ---- names ---- */

typedef struct name_case {
  const char *name;
  weir_arch arch;
  const char *module; /* NULL: not known */
  int32_t layer;
  weir_hf_param param;
} name_case;

static const name_case names[] = {
    {"model.embed_tokens.weight", WEIR_ARCH_LLAMA, "token_embd", -1, WEIR_HF_WEIGHT},
    {"model.norm.weight", WEIR_ARCH_LLAMA, "output_norm", -1, WEIR_HF_WEIGHT},
    {"lm_head.weight", WEIR_ARCH_LLAMA, "output", -1, WEIR_HF_WEIGHT},
    {"lm_head.qweight", WEIR_ARCH_LLAMA, "output", -1, WEIR_HF_QWEIGHT},
    {"embed_tokens.weight", WEIR_ARCH_LLAMA, "token_embd", -1, WEIR_HF_WEIGHT},
    {"language_model.model.embed_tokens.weight", WEIR_ARCH_GEMMA3, "token_embd", -1, WEIR_HF_WEIGHT},
    {"model.language_model.embed_tokens.weight", WEIR_ARCH_GEMMA3, "token_embd", -1, WEIR_HF_WEIGHT},
    {"language_model.lm_head.weight", WEIR_ARCH_GEMMA3, "output", -1, WEIR_HF_WEIGHT},
    {"model.layers.0.input_layernorm.weight", WEIR_ARCH_LLAMA, "blk.0.attn_norm", 0, WEIR_HF_WEIGHT},
    {"layers.31.self_attn.q_proj.weight", WEIR_ARCH_LLAMA, "blk.31.attn_q", 31, WEIR_HF_WEIGHT},
    {"model.layers.3.self_attn.q_proj.bias", WEIR_ARCH_QWEN2, "blk.3.attn_q", 3, WEIR_HF_BIAS},
    {"model.layers.3.self_attn.k_proj.weight", WEIR_ARCH_QWEN2, "blk.3.attn_k", 3, WEIR_HF_WEIGHT},
    {"model.layers.3.self_attn.v_proj.scales", WEIR_ARCH_QWEN2, "blk.3.attn_v", 3, WEIR_HF_SCALES},
    {"model.layers.3.self_attn.o_proj.qzeros", WEIR_ARCH_QWEN2, "blk.3.attn_output", 3, WEIR_HF_QZEROS},
    {"model.layers.3.self_attn.q_norm.weight", WEIR_ARCH_QWEN3, "blk.3.attn_q_norm", 3, WEIR_HF_WEIGHT},
    {"model.layers.3.self_attn.k_norm.weight", WEIR_ARCH_QWEN3, "blk.3.attn_k_norm", 3, WEIR_HF_WEIGHT},
    {"model.layers.3.self_attn.qkv_proj.weight", WEIR_ARCH_PHI3, "blk.3.attn_qkv", 3, WEIR_HF_WEIGHT},
    {"model.layers.3.mlp.gate_up_proj.weight", WEIR_ARCH_PHI3, "blk.3.ffn_up", 3, WEIR_HF_WEIGHT},
    {"model.layers.3.mlp.gate_proj.weight_scale", WEIR_ARCH_LLAMA, "blk.3.ffn_gate", 3, WEIR_HF_SCALE},
    {"model.layers.3.mlp.up_proj.weight_scale_inv", WEIR_ARCH_LLAMA, "blk.3.ffn_up", 3, WEIR_HF_SCALE_INV},
    {"model.layers.3.mlp.down_proj.g_idx", WEIR_ARCH_LLAMA, "blk.3.ffn_down", 3, WEIR_HF_G_IDX},
    {"model.layers.3.mlp.down_proj.weight_g_idx", WEIR_ARCH_LLAMA, "blk.3.ffn_down", 3, WEIR_HF_WEIGHT_G_IDX},
    {"model.layers.3.mlp.down_proj.weight_packed", WEIR_ARCH_LLAMA, "blk.3.ffn_down", 3, WEIR_HF_PACKED},
    {"model.layers.3.mlp.down_proj.weight_shape", WEIR_ARCH_LLAMA, "blk.3.ffn_down", 3, WEIR_HF_SHAPE},
    {"model.layers.3.mlp.down_proj.weight_zero_point", WEIR_ARCH_LLAMA, "blk.3.ffn_down", 3,
     WEIR_HF_ZERO_POINT},
    {"model.layers.3.post_attention_layernorm.weight", WEIR_ARCH_LLAMA, "blk.3.ffn_norm", 3, WEIR_HF_WEIGHT},
    {"model.layers.3.post_attention_layernorm.weight", WEIR_ARCH_GEMMA2, "blk.3.post_attention_norm", 3,
     WEIR_HF_WEIGHT},
    {"model.layers.3.pre_feedforward_layernorm.weight", WEIR_ARCH_GEMMA3, "blk.3.ffn_norm", 3,
     WEIR_HF_WEIGHT},
    {"model.layers.3.post_feedforward_layernorm.weight", WEIR_ARCH_GEMMA2, "blk.3.post_ffw_norm", 3,
     WEIR_HF_WEIGHT},
    {"model.layers.3.pre_feedforward_layernorm.weight", WEIR_ARCH_LLAMA, NULL, 0, 0},
    {"model.layers.1023.block_sparse_moe.gate.weight", WEIR_ARCH_LLAMA, "blk.1023.ffn_gate_inp", 1023,
     WEIR_HF_WEIGHT},
    {"model.layers.9.block_sparse_moe.experts.7.w1.weight", WEIR_ARCH_LLAMA, "blk.9.ffn_gate.7", 9,
     WEIR_HF_WEIGHT},
    {"model.layers.9.block_sparse_moe.experts.7.w2.weight", WEIR_ARCH_LLAMA, "blk.9.ffn_down.7", 9,
     WEIR_HF_WEIGHT},
    {"model.layers.9.block_sparse_moe.experts.7.w3.qweight", WEIR_ARCH_LLAMA, "blk.9.ffn_up.7", 9,
     WEIR_HF_QWEIGHT},
    {"model.layers.9.mlp.gate.weight", WEIR_ARCH_QWEN3MOE, "blk.9.ffn_gate_inp", 9, WEIR_HF_WEIGHT},
    {"model.layers.9.mlp.experts.127.gate_proj.weight", WEIR_ARCH_QWEN3MOE, "blk.9.ffn_gate.127", 9,
     WEIR_HF_WEIGHT},
    {"model.layers.9.mlp.experts.0.up_proj.weight", WEIR_ARCH_QWEN3MOE, "blk.9.ffn_up.0", 9, WEIR_HF_WEIGHT},
    {"model.layers.9.mlp.experts.1023.down_proj.weight", WEIR_ARCH_QWEN3MOE, "blk.9.ffn_down.1023", 9,
     WEIR_HF_WEIGHT},
    {"model.layers.9.mlp.experts.gate_up_proj", WEIR_ARCH_QWEN3MOE, "blk.9.ffn_gate_up_exps", 9,
     WEIR_HF_WEIGHT},
    {"model.layers.9.mlp.experts.down_proj", WEIR_ARCH_QWEN3MOE, "blk.9.ffn_down_exps", 9, WEIR_HF_WEIGHT},
    /* not names */
    {"model.layers.9.mlp.experts.1024.down_proj.weight", WEIR_ARCH_QWEN3MOE, NULL, 0, 0},
    {"model.layers.9.mlp.experts.01.down_proj.weight", WEIR_ARCH_QWEN3MOE, NULL, 0, 0},
    {"model.layers.9.mlp.experts..down_proj.weight", WEIR_ARCH_QWEN3MOE, NULL, 0, 0},
    {"model.layers.1024.input_layernorm.weight", WEIR_ARCH_LLAMA, NULL, 0, 0},
    {"model.layers.00.input_layernorm.weight", WEIR_ARCH_LLAMA, NULL, 0, 0},
    {"model.layers.99999999999999999999.input_layernorm.weight", WEIR_ARCH_LLAMA, NULL, 0, 0},
    {"model.layers.-1.input_layernorm.weight", WEIR_ARCH_LLAMA, NULL, 0, 0},
    {"model.layers..input_layernorm.weight", WEIR_ARCH_LLAMA, NULL, 0, 0},
    {"model.layers.1", WEIR_ARCH_LLAMA, NULL, 0, 0},
    {"model.layers.1.", WEIR_ARCH_LLAMA, NULL, 0, 0},
    {"model.layers.1.weight", WEIR_ARCH_LLAMA, NULL, 0, 0},
    {"model.layers.1.input_layernorm", WEIR_ARCH_LLAMA, NULL, 0, 0},
    {"model.layers.1.input_layernorm.weights", WEIR_ARCH_LLAMA, NULL, 0, 0},
    {"model.layers.1.input_layernormXweight", WEIR_ARCH_LLAMA, NULL, 0, 0},
    {"model.", WEIR_ARCH_LLAMA, NULL, 0, 0},
    {"weight", WEIR_ARCH_LLAMA, NULL, 0, 0},
    {".weight", WEIR_ARCH_LLAMA, NULL, 0, 0},
    {"vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight", WEIR_ARCH_GEMMA3, NULL, 0, 0},
};

static void name_table(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    weir_hf_name n;
    const name_case *c = &names[i];
    const weir_hf_name_kind kind = weir_hf_name_parse(weir_str_of(c->name), c->arch, &n);
    if (kind != (c->module ? WEIR_HF_NAME_KNOWN : WEIR_HF_NAME_UNKNOWN))
      fail_msg("%s: kind %d", c->name, kind);
    if (!c->module) continue;
    if (strcmp(n.module, c->module) != 0 || n.layer != c->layer || n.param != c->param)
      fail_msg("%s: %s, layer %d, param %d", c->name, n.module, n.layer, n.param);
  }
  static const char *const skipped[] = {"model.layers.0.self_attn.rotary_emb.inv_freq", "rotary_emb.inv_freq",
                                        "model.layers.0.self_attn.k_scale",
                                        "model.layers.0.mlp.up_proj.input_scale"};
  for (size_t i = 0; i < sizeof skipped / sizeof *skipped; i++) {
    weir_hf_name n;
    assert_int_equal(weir_hf_name_parse(weir_str_of(skipped[i]), WEIR_ARCH_LLAMA, &n), WEIR_HF_NAME_SKIPPED);
  }
}

/* ---- directories in memory ---- */

enum { MAX_FILES = 4, MAX_ENTRIES = 6 };

typedef struct dir_file {
  const char *name;
  const char *text; /* ' for "; NULL: a safetensors file of */
  st_entry entry[MAX_ENTRIES];
  size_t pad;
} dir_file;

static weir_status open_dir(const dir_file *f, weir_mfile **m, uint8_t *data[MAX_FILES], weir_err *e) {
  static weir_hf_part part[MAX_FILES];
  int32_t n = 0;
  for (; n < MAX_FILES && f[n].name; n++) {
    size_t len;
    if (f[n].text) {
      data[n] = (uint8_t *)strdup(f[n].text);
      len = strlen(f[n].text);
      for (size_t i = 0; i < len; i++)
        if (data[n][i] == '\'') data[n][i] = '"';
    } else {
      data[n] = st_file(f[n].entry, MAX_ENTRIES, f[n].pad, &len);
    }
    part[n] = (weir_hf_part){f[n].name, {(char *)data[n], len}};
  }
  return weir_mfile_parse_hf(part, n, m, e);
}

static void release(uint8_t *data[MAX_FILES]) {
  for (int i = 0; i < MAX_FILES; i++) free(data[i]);
}

#define CONFIG \
  { .name = "config.json", .text = "{'model_type': 'llama', 'num_hidden_layers': 2}" }
#define INDEX(map) \
  { .name = "model.safetensors.index.json", .text = "{'metadata': {}, 'weight_map': " map "}" }
#define NORM \
  { "model.norm.weight", "F32", "[4]", NULL, 16 }
#define EMBED \
  { "model.embed_tokens.weight", "BF16", "[3, 4]", NULL, 24 }

static void shards(void **state) {
  (void)state;
  static const dir_file dir[MAX_FILES] = {
      CONFIG,
      INDEX("{'model.norm.weight': 'b.safetensors', 'model.embed_tokens.weight': 'a.safetensors'}"),
      {.name = "a.safetensors", .entry = {EMBED}},
      {.name = "b.safetensors", .entry = {NORM}, .pad = 3}};
  uint8_t *data[MAX_FILES] = {0};
  weir_mfile *m;
  weir_tensor t;
  weir_tensor_info info;
  weir_err e = {0};
  if (open_dir(dir, &m, data, &e) != WEIR_OK) fail_msg("%s", e.msg);
  assert_int_equal(weir_mfile_n_tensors(m), 2);
  assert_true(weir_mfile_find(m, "token_embd.weight", &info));
  assert_int_equal(info.dtype, WEIR_BF16);
  assert_int_equal(info.n_dims, 2);
  assert_int_equal(info.dim[0], 4);
  assert_int_equal(info.dim[1], 3);
  assert_int_equal(info.dim[3], 1);
  assert_int_equal(info.bytes, 24);
  assert_int_equal(weir_mfile_read(m, "token_embd.weight", &t, &e), WEIR_OK);
  assert_null(t.own);
  weir_tensor_release(&t);
  /* a place that is no place for a float is copied from */
  assert_int_equal(weir_mfile_read(m, "output_norm.weight", &t, &e), WEIR_OK);
  assert_non_null(t.own);
  assert_int_equal((uintptr_t)t.data % 4, 0);
  for (int i = 0; i < 16; i++) assert_int_equal(((const uint8_t *)t.data)[i], i);
  weir_tensor_release(&t);
  assert_int_equal(weir_mfile_read(m, "output.weight", &t, &e), WEIR_EFORMAT);
  assert_string_equal(e.msg, "tensor output.weight is missing");
  assert_null(weir_mfile_gguf(m));
  assert_non_null(weir_mfile_hf(m));
  weir_mfile_close(m);
  release(data);
}

typedef struct count_case {
  const char *what;
  dir_file file[MAX_FILES];
  int64_t n_tensors;
} count_case;

static const count_case counted[] = {
    {"a file of another name", {CONFIG, {.name = "gptq_model.safetensors", .entry = {NORM}}}, 1},
    {"the whole file is preferred to the index",
     {CONFIG, INDEX("{}"), {.name = "model.safetensors", .entry = {NORM}}},
     1},
    {"known buffers and unknown tensors are left out",
     {CONFIG,
      {.name = "model.safetensors",
       .entry = {NORM,
                 {"model.layers.0.self_attn.rotary_emb.inv_freq", "F32", "[2]", NULL, 8},
                 {"vision_tower.patch.weight", "F64", "[2]", NULL, 16},
                 {"model.layers.2.input_layernorm.weight", "F32", "[2]", NULL, 8}}}},
     1},
    {"an output that is the embedding once more",
     {{.name = "config.json", .text = "{'model_type': 'llama', 'tie_word_embeddings': true}"},
      {.name = "model.safetensors", .entry = {EMBED, {"lm_head.weight", "BF16", "[3, 4]", NULL, 24}}}},
     1},
    {"an output of its own",
     {CONFIG,
      {.name = "model.safetensors", .entry = {EMBED, {"lm_head.weight", "BF16", "[3, 4]", NULL, 24}}}},
     2},
    {"a bias of zeros where none belongs; one where it does",
     {{.name = "config.json", .text = "{'model_type': 'qwen2'}"},
      {.name = "model.safetensors",
       .entry = {{"model.layers.0.mlp.up_proj.bias", "F16", "[2]", "\0\0\0\0", 4},
                 {"model.layers.0.self_attn.o_proj.bias", "F16", "[2]", "\0\0\0\0", 4},
                 {"model.layers.0.self_attn.q_proj.bias", "F16", "[2]", "\0\0\0\0", 4}}}},
     1},
};

static void what_is_kept(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof counted / sizeof *counted; i++) {
    uint8_t *data[MAX_FILES] = {0};
    weir_mfile *m;
    weir_err e = {0};
    if (open_dir(counted[i].file, &m, data, &e) != WEIR_OK) fail_msg("%s: %s", counted[i].what, e.msg);
    if (weir_mfile_n_tensors(m) != counted[i].n_tensors)
      fail_msg("%s: %lld tensors", counted[i].what, (long long)weir_mfile_n_tensors(m));
    weir_mfile_close(m);
    release(data);
  }
}

typedef struct bad_case {
  dir_file file[MAX_FILES];
  weir_status status;
  const char *fragment;
} bad_case;

static const bad_case bad[] = {
    {{CONFIG}, WEIR_EFORMAT, "no *.safetensors files"},
    {{CONFIG, {.name = "pytorch_model-00001-of-00002.bin", .text = "x"}},
     WEIR_EUNSUP,
     "only PyTorch's \"pytorch_model-00001-of-00002.bin\": convert them to safetensors"},
    {{CONFIG, {.name = "a.safetensors", .entry = {NORM}}, {.name = "b.safetensors", .entry = {NORM}}},
     WEIR_EFORMAT,
     "2 *.safetensors files, but neither model.safetensors nor its index is there"},
    {{CONFIG, {.name = "model.safetensors", .text = "{}"}},
     WEIR_EFORMAT,
     "model.safetensors: not a safetensors file"},
    {{CONFIG, {.name = "model.safetensors.index.json", .text = "["}},
     WEIR_EFORMAT,
     "model.safetensors.index.json: JSON"},
    {{CONFIG, {.name = "model.safetensors.index.json", .text = "{}"}},
     WEIR_EFORMAT,
     "model.safetensors.index.json: no object \"weight_map\""},
    {{CONFIG, INDEX("[1]")}, WEIR_EFORMAT, "no object \"weight_map\""},
    {{CONFIG, INDEX("{'a': 1}")}, WEIR_EFORMAT, "tensor \"a\": the name of its file is not a string"},
    {{CONFIG, INDEX("{'a': 'x', 'a': 'y'}")}, WEIR_EFORMAT, "duplicate object key"},
    {{CONFIG, INDEX("{'a': '../x.safetensors'}")},
     WEIR_EFORMAT,
     "\"../x.safetensors\" is not the plain name of a file"},
    {{CONFIG, INDEX("{'a': '/etc/passwd'}")}, WEIR_EFORMAT, "is not the plain name of a file"},
    {{CONFIG, INDEX("{'a': 'sub/x.safetensors'}")}, WEIR_EFORMAT, "is not the plain name of a file"},
    {{CONFIG, INDEX("{'a': '..'}")}, WEIR_EFORMAT, "is not the plain name of a file"},
    {{CONFIG, INDEX("{'a': ''}")}, WEIR_EFORMAT, "is not the plain name of a file"},
    {{CONFIG, INDEX("{'a': 'x.safetensors'}")}, WEIR_EIO, "x.safetensors: no such file"},
    {{CONFIG, INDEX("{'a': 'x.safetensors'}"), {.name = "x.safetensors", .entry = {NORM}}},
     WEIR_EFORMAT,
     "tensor \"a\" is not in \"x.safetensors\""},
    {{CONFIG, INDEX("{'a': 'config.json'}")}, WEIR_EFORMAT, "config.json: not a safetensors file"},
    {{CONFIG, {.name = "model.safetensors", .entry = {NORM, {"norm.weight", "F32", "[4]", NULL, 16}}}},
     WEIR_EFORMAT,
     "tensors \"model.norm.weight\" and \"norm.weight\" are the same one"},
    {{CONFIG, {.name = "model.safetensors", .entry = {{"model.norm.weight", "F64", "[2]", NULL, 16}}}},
     WEIR_EUNSUP,
     "tensor \"model.norm.weight\": F64 is not supported here"},
    {{CONFIG, {.name = "model.safetensors", .entry = {{"model.norm.weight", "F32", "[]", NULL, 4}}}},
     WEIR_EFORMAT,
     "tensor \"model.norm.weight\": 0 dimensions"},
    {{CONFIG, {.name = "model.safetensors", .entry = {{"model.norm.weight", "F32", "[1,1,1,1]", NULL, 4}}}},
     WEIR_EFORMAT,
     "tensor \"model.norm.weight\": 4 dimensions"},
    {{CONFIG, {.name = "model.safetensors", .entry = {{"model.norm.weight", "F32", "[0]", NULL, 0}}}},
     WEIR_EFORMAT,
     "tensor \"model.norm.weight\": no elements"},
    {{CONFIG,
      {.name = "model.safetensors",
       .entry = {{"model.layers.0.self_attn.q_proj.bias", "F32", "[4]", NULL, 16}}}},
     WEIR_EUNSUP,
     "tensor \"model.layers.0.self_attn.q_proj.bias\": llama models have no such bias"},
    {{{.name = "config.json", .text = "{'model_type': 'qwen2'}"},
      {.name = "model.safetensors",
       .entry = {{"model.layers.0.self_attn.o_proj.bias", "F32", "[4]", NULL, 16}}}},
     WEIR_EUNSUP,
     "o_proj.bias\": qwen2 models have no such bias"},
    {{{.name = "config.json", .text = "{'model_type': 'gpt2'}"}, {.name = "model.safetensors", .text = "x"}},
     WEIR_EUNSUP,
     "model type \"gpt2\" is not supported"},
};

static void refused(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    uint8_t *data[MAX_FILES] = {0};
    weir_mfile *m;
    weir_err e = {0};
    const weir_status st = open_dir(bad[i].file, &m, data, &e);
    if (st != bad[i].status || e.code != st || !strstr(e.msg, bad[i].fragment))
      fail_msg("case %zu: want %d \"%s\", got %d \"%s\"", i, bad[i].status, bad[i].fragment, st, e.msg);
    assert_null(m);
    release(data);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(name_table), cmocka_unit_test(shards),
                                     cmocka_unit_test(what_is_kept), cmocka_unit_test(refused)};
  weir_log_set_level(WEIR_LOG_ERROR);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
