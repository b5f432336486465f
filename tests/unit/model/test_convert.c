/* SPDX-License-Identifier: Apache-2.0 */
/* Quantised modules: every case of tests/vectors/convert through config.json, safetensors and conversion, bit
 * for bit; and modules that are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "kernels/quant.h"
#include "model/hf.h"
#include "model/mfile.h"
#include "st_writer.h"

static const char tensor_name[] = "blk.0.ffn_down.weight";

/* ---- golden ---- */

typedef struct golden {
  const char *name;
  weir_dtype dtype;
  int64_t rows, cols;
} golden;

static const golden goldens[] = {
    {"fp8-tensor", WEIR_F32, 12, 40},
    {"fp8-scalar", WEIR_BF16, 12, 40},
    {"fp8-rows", WEIR_F32, 12, 40},
    {"fp8-blocks", WEIR_F32, 40, 36},
    {"fp8-blocks-exact", WEIR_BF16, 40, 36},
    {"fp8-blocks-128", WEIR_F32, 130, 136},
    {"gptq-sym", WEIR_Q4_0, 16, 128},
    {"gptq-asym", WEIR_Q8_0, 16, 128},
    {"gptq-asym-v2", WEIR_Q8_0, 16, 128},
    {"gptq-channel", WEIR_Q4_0, 24, 64},
    {"gptq-act-order", WEIR_F32, 16, 128},
    {"gptq-small-groups", WEIR_F32, 16, 64},
    {"gptq-last-group-short", WEIR_Q8_0, 16, 96},
    {"gptq-float-scales", WEIR_F32, 16, 64},
    {"awq-asym", WEIR_Q8_0, 24, 96},
    {"awq-sym", WEIR_Q4_0, 16, 128},
    {"packed-groups", WEIR_Q4_0, 10, 128},
    {"packed-rows", WEIR_Q4_0, 10, 64},
    {"packed-odd", WEIR_F32, 6, 44},
    {"packed-asym", WEIR_Q8_0, 12, 96},
    {"fp8-blocks-e8m0", WEIR_BF16, 40, 36},
};

static uint8_t *read_file(const char *name, const char *ending, size_t *len) {
  char path[256];
  snprintf(path, sizeof path, "tests/vectors/convert/%s.%s", name, ending);
  FILE *f = fopen(path, "rb");
  if (!f) fail_msg("%s is missing", path);
  assert_int_equal(fseek(f, 0, SEEK_END), 0);
  *len = (size_t)ftell(f);
  rewind(f);
  uint8_t *data = malloc(*len);
  assert_int_equal(fread(data, 1, *len, f), *len);
  fclose(f);
  return data;
}

static uint32_t bits_of(float f) {
  uint32_t u;
  memcpy(&u, &f, sizeof u);
  return u;
}

static void check_golden(const golden *g) {
  weir_hf_part part[2];
  size_t len[2], n_want;
  uint8_t *file[2] = {read_file(g->name, "json", &len[0]), read_file(g->name, "safetensors", &len[1])};
  uint8_t *want = read_file(g->name, "f32", &n_want);
  part[0] = (weir_hf_part){"config.json", {(char *)file[0], len[0]}};
  part[1] = (weir_hf_part){"model.safetensors", {(char *)file[1], len[1]}};
  assert_int_equal(n_want, g->rows * g->cols * 4);
  weir_mfile *m;
  weir_tensor t;
  weir_tensor_info info;
  weir_err e = {0};
  if (weir_mfile_parse_hf(part, 2, &m, &e) != WEIR_OK) fail_msg("%s: %s", g->name, e.msg);
  assert_int_equal(weir_mfile_n_tensors(m), 1);
  assert_true(weir_mfile_find(m, tensor_name, &info));
  if (info.dtype != g->dtype)
    fail_msg("%s: %s, want %s", g->name, weir_dtype_get(info.dtype)->name, weir_dtype_get(g->dtype)->name);
  assert_int_equal(info.n_dims, 2);
  assert_int_equal(info.dim[0], g->cols);
  assert_int_equal(info.dim[1], g->rows);
  if (weir_mfile_read(m, tensor_name, &t, &e) != WEIR_OK) fail_msg("%s: %s", g->name, e.msg);
  assert_non_null(t.own);
  size_t row_bytes;
  float row[256];
  int n_numbers = 0;
  assert_int_equal(weir_dtype_row_bytes(g->dtype, g->cols, &row_bytes, &e), WEIR_OK);
  for (int64_t r = 0; r < g->rows; r++) {
    assert_int_equal(
        weir_dequantize_row(g->dtype, (const uint8_t *)t.data + (size_t)r * row_bytes, row, g->cols, &e),
        WEIR_OK);
    for (int64_t i = 0; i < g->cols; i++) {
      float w;
      memcpy(&w, want + 4 * (r * g->cols + i), sizeof w);
      if (isnan(w) && isnan(row[i])) continue;
      if (bits_of(w) != bits_of(row[i]))
        fail_msg("%s: [%lld, %lld] is %.9g, want %.9g", g->name, (long long)r, (long long)i, (double)row[i],
                 (double)w);
      n_numbers++;
    }
  }
  assert_true(n_numbers > g->rows * g->cols * 9 / 10);
  weir_tensor_release(&t);
  weir_mfile_close(m);
  free(file[0]);
  free(file[1]);
  free(want);
}

static void golden_modules(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof goldens / sizeof *goldens; i++) check_golden(&goldens[i]);
}

/* ---- refused ---- */

#define MODULE "model.layers.0.mlp.down_proj."
enum { MAX_ENTRIES = 6 };

typedef struct bad_case {
  const char *quant; /* quantization_config; ' for " */
  st_entry entry[MAX_ENTRIES];
  weir_status status;
  const char *fragment;
} bad_case;

#define GPTQ   "{'quant_method': 'gptq', 'bits': 4, 'group_size': 32}"
#define AWQ    "{'quant_method': 'awq', 'bits': 4, 'group_size': 32}"
#define FP8    "{'quant_method': 'fp8', 'weight_block_size': [4, 8]}"
#define PACKED "{'quant_method': 'compressed-tensors', 'format': 'pack-quantized'}"

static const uint8_t zeros[1024], bad_group[64] = {[4] = 7}, infinite[4] = {0, 0, 0x80, 0x7f};
static const int64_t shape_8_32[2] = {8, 32}, shape_8_24[2] = {8, 24};

/* A GPTQ module of 8 rows and 32 inputs, but for what differs. */
#define QWEIGHT \
  { MODULE "qweight", "I32", "[4, 8]", zeros, 128 }
#define QZEROS \
  { MODULE "qzeros", "I32", "[1, 1]", zeros, 4 }
#define SCALES \
  { MODULE "scales", "F16", "[1, 8]", zeros, 16 }
#define WEIGHT8 \
  { MODULE "weight", "F8_E4M3", "[8, 8]", zeros, 64 }

static const bad_case bad[] = {
    /* config */
    {"3", {{0}}, WEIR_EFORMAT, "config.json: key \"quantization_config\": want an object"},
    {"{}", {{0}}, WEIR_EUNSUP, "key \"quantization_config.quant_method\": \"\" is not supported (known: fp8"},
    {"{'quant_method': 'bitsandbytes'}", {{0}}, WEIR_EUNSUP, "\"bitsandbytes\" is not supported"},
    {"{'quant_method': 7}", {{0}}, WEIR_EFORMAT, "want a string"},
    {"{'quant_method': 'gptq', 'bits': 3}",
     {{0}},
     WEIR_EUNSUP,
     "key \"quantization_config.bits\": 3 bits are not supported (only 4)"},
    {"{'quant_method': 'gptq', 'group_size': -2}", {{0}}, WEIR_EFORMAT, "quantization_config.group_size"},
    {"{'quant_method': 'gptq', 'checkpoint_format': 'marlin'}",
     {{0}},
     WEIR_EUNSUP,
     "\"marlin\" is not supported"},
    {"{'quant_method': 'gptq', 'pack_dtype': 'int16'}", {{0}}, WEIR_EUNSUP, "\"int16\" is not supported"},
    {"{'quant_method': 'gptq', 'dynamic': {'x': {}}}", {{0}}, WEIR_EUNSUP, "settings by module"},
    {"{'quant_method': 'awq', 'w_bit': 8}", {{0}}, WEIR_EUNSUP, "key \"quantization_config.w_bit\": 8 bits"},
    {"{'quant_method': 'awq', 'version': 'gemv'}", {{0}}, WEIR_EUNSUP, "\"gemv\" is not supported"},
    {"{'quant_method': 'awq', 'zero_point': false}",
     {{0}},
     WEIR_EUNSUP,
     "zero_point\": false is not supported"},
    {"{'quant_method': 'fp8', 'fmt': 'e5m2'}", {{0}}, WEIR_EUNSUP, "\"e5m2\" is not supported"},
    {"{'quant_method': 'fp8', 'weight_block_size': [128]}",
     {{0}},
     WEIR_EFORMAT,
     "want two positive integers"},
    {"{'quant_method': 'fp8', 'weight_block_size': [0, 1]}",
     {{0}},
     WEIR_EFORMAT,
     "want two positive integers"},
    {"{'quant_method': 'compressed-tensors'}",
     {{0}},
     WEIR_EUNSUP,
     "format\": \"\" is not supported (known: float-quantized pack-quantized)"},
    {"{'quant_method': 'compressed-tensors', 'format': 'int-quantized'}",
     {{0}},
     WEIR_EUNSUP,
     "int-quantized"},
    {"{'quant_method': 'compressed-tensors', 'format': 'pack-quantized', 'transform_config': {'a': 1}}",
     {{0}},
     WEIR_EUNSUP,
     "transforms are not supported"},
    /* which tensors */
    {"null",
     {QWEIGHT, QZEROS, SCALES},
     WEIR_EFORMAT,
     "qweight\": quantised, but config.json does not say how"},
    {PACKED, {QWEIGHT, QZEROS, SCALES}, WEIR_EFORMAT, "quantised, but config.json does not say how"},
    {GPTQ, {QWEIGHT, QZEROS, SCALES, WEIGHT8}, WEIR_EFORMAT, "weight\": does not go with the other tensors"},
    {GPTQ, {SCALES}, WEIR_EFORMAT, "scales\": does not go with the other tensors"},
    {GPTQ,
     {QZEROS, SCALES, QWEIGHT, {MODULE "weight_scale", "F32", "[1]", zeros, 4}},
     WEIR_EFORMAT,
     "weight_scale\": does not go with"},
    {"null", {{MODULE "weight", "I8", "[8, 8]", zeros, 64}}, WEIR_EUNSUP, "I8 is not supported here"},
    {"null",
     {{MODULE "weight", "F8_E5M2", "[8, 8]", zeros, 64}},
     WEIR_EUNSUP,
     "F8_E5M2 is not supported here"},
    {"null",
     {{MODULE "weight", "I8", "[8, 8]", zeros, 64}, {MODULE "weight_scale", "F32", "[1]", zeros, 4}},
     WEIR_EFORMAT,
     "weight_scale\": does not go with"},
    /* GPTQ */
    {GPTQ, {QWEIGHT, QZEROS}, WEIR_EFORMAT, "qweight\": no scales"},
    {GPTQ, {QWEIGHT, SCALES}, WEIR_EFORMAT, "qweight\": no qzeros"},
    {GPTQ,
     {{MODULE "qweight", "I32", "[32]", zeros, 128}, QZEROS, SCALES},
     WEIR_EFORMAT,
     "want a matrix of I32"},
    {GPTQ,
     {{MODULE "qweight", "F32", "[4, 8]", zeros, 128}, QZEROS, SCALES},
     WEIR_EFORMAT,
     "want a matrix of I32"},
    {GPTQ,
     {{MODULE "qweight", "I32", "[0, 8]", zeros, 0}, QZEROS, SCALES},
     WEIR_EFORMAT,
     "want a matrix of I32"},
    {GPTQ,
     {{MODULE "qweight", "I32", "[4, 4]", zeros, 64}, QZEROS, SCALES},
     WEIR_EFORMAT,
     "no multiple of 8"},
    {GPTQ,
     {QWEIGHT, QZEROS, {MODULE "scales", "F16", "[8]", zeros, 16}},
     WEIR_EFORMAT,
     "scales do not fit [8, 32]"},
    {GPTQ,
     {QWEIGHT, QZEROS, {MODULE "scales", "F16", "[2, 8]", zeros, 32}},
     WEIR_EFORMAT,
     "[2, 8] scales do not fit [8, 32] in groups of 32"},
    {GPTQ, {QWEIGHT, QZEROS, {MODULE "scales", "I32", "[1, 8]", zeros, 32}}, WEIR_EUNSUP, "scales of I32"},
    {GPTQ,
     {QWEIGHT, {MODULE "qzeros", "I32", "[1, 2]", zeros, 8}, SCALES},
     WEIR_EFORMAT,
     "qzeros\": I32 in 2 dimensions of [1, 2], want I32 [1, 1]"},
    {GPTQ,
     {QWEIGHT, QZEROS, SCALES, {MODULE "g_idx", "I32", "[16]", zeros, 64}},
     WEIR_EFORMAT,
     "g_idx\": I32 in 1 dimensions of [16, 1], want I32 [32]"},
    {"{'quant_method': 'gptq', 'group_size': 8}",
     {{MODULE "qweight", "I32", "[2, 8]", zeros, 64},
      {MODULE "qzeros", "I32", "[2, 1]", zeros, 8},
      {MODULE "scales", "F16", "[2, 8]", zeros, 32},
      {MODULE "g_idx", "I32", "[16]", bad_group, 64}},
     WEIR_EFORMAT,
     "g_idx\": group 7 of 2"},
    /* AWQ */
    {AWQ,
     {{MODULE "qweight", "I32", "[32, 1]", zeros, 128}, QZEROS, {MODULE "scales", "F16", "[1, 4]", zeros, 8}},
     WEIR_EFORMAT,
     "[1, 4] scales do not fit [8, 32]"},
    /* FP8 */
    {FP8, {WEIGHT8}, WEIR_EFORMAT, "weight\": F8_E4M3 without scales"},
    {FP8, {{MODULE "weight", "F8_E4M3", "[8]", zeros, 8}}, WEIR_EUNSUP, "F8_E4M3 in 1 dimensions"},
    {FP8,
     {WEIGHT8, {MODULE "weight_scale_inv", "F32", "[3, 1]", zeros, 12}},
     WEIR_EFORMAT,
     "[3, 1] scales do not fit a matrix of [8, 8] in blocks of [4, 8]"},
    {FP8, {WEIGHT8, {MODULE "weight_scale", "F32", "[2, 4]", zeros, 32}}, WEIR_EFORMAT, "scales do not fit"},
    {FP8, {WEIGHT8, {MODULE "weight_scale", "F32", "[0]", zeros, 0}}, WEIR_EUNSUP, "scales of F32"},
    {FP8,
     {WEIGHT8, {MODULE "weight_scale", "F8_E8M0", "[1]", "\xff", 1}},
     WEIR_EFORMAT,
     "scale 0 is not finite"},
    {FP8,
     {WEIGHT8, {MODULE "weight_scale", "F32", "[1]", infinite, 4}},
     WEIR_EFORMAT,
     "scale 0 is not finite"},
    {FP8,
     {WEIGHT8,
      {MODULE "weight_scale", "F32", "[1]", zeros, 4},
      {MODULE "weight_scale_inv", "F32", "[1]", zeros, 4}},
     WEIR_EFORMAT,
     "weight_scale_inv\": does not go with"},
    /* packed */
    {PACKED,
     {{MODULE "weight_packed", "I32", "[8, 4]", zeros, 128},
      {MODULE "weight_scale", "BF16", "[8, 1]", zeros, 16},
      {MODULE "weight_shape", "I64", "[2]", shape_8_24, 16}},
     WEIR_EFORMAT,
     "[8, 24] are not [8, 4] in words of eight"},
    {PACKED,
     {{MODULE "weight_packed", "I32", "[8, 4]", zeros, 128},
      {MODULE "weight_scale", "BF16", "[8, 5]", zeros, 80},
      {MODULE "weight_shape", "I64", "[2]", shape_8_32, 16}},
     WEIR_EFORMAT,
     "[8, 5] scales do not fit [8, 32]"},
    {PACKED,
     {{MODULE "weight_packed", "I32", "[8, 4]", zeros, 128},
      {MODULE "weight_scale", "BF16", "[8, 1]", zeros, 16},
      {MODULE "weight_shape", "I32", "[2]", zeros, 8}},
     WEIR_EFORMAT,
     "weight_shape\": I32 in 1 dimensions of [2, 1], want I64 [2]"},
    {PACKED,
     {{MODULE "weight_packed", "I32", "[8, 4]", zeros, 128},
      {MODULE "weight_scale", "BF16", "[8, 1]", zeros, 16},
      {MODULE "weight_zero_point", "I32", "[1, 2]", zeros, 8}},
     WEIR_EFORMAT,
     "weight_zero_point\": I32 in 2 dimensions of [1, 2], want I32 [1, 1]"},
    {"{'quant_method': 'modelopt', 'quant_algo': 'NVFP4'}", {{0}}, WEIR_EUNSUP, "\"NVFP4\" is not supported"},
};

static weir_status open_case(const char *quant, const st_entry *entry, weir_mfile **m, uint8_t **file,
                             weir_err *e) {
  static char config[1024];
  snprintf(config, sizeof config,
           "{'model_type': 'llama', 'num_hidden_layers': 1, 'quantization_config': %s}", quant);
  for (char *p = config; *p; p++)
    if (*p == '\'') *p = '"';
  size_t len;
  *file = st_file(entry, MAX_ENTRIES, 0, &len);
  const weir_hf_part part[] = {{"config.json", {config, strlen(config)}},
                               {"model.safetensors", {(char *)*file, len}}};
  return weir_mfile_parse_hf(part, 2, m, e);
}

static void refused(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    weir_mfile *m;
    uint8_t *file;
    weir_err e = {0};
    const weir_status st = open_case(bad[i].quant, bad[i].entry, &m, &file, &e);
    if (st != bad[i].status || e.code != st || !strstr(e.msg, bad[i].fragment))
      fail_msg("case %zu, %s: want %d \"%s\", got %d \"%s\"", i, bad[i].quant, bad[i].status, bad[i].fragment,
               st, e.msg);
    assert_null(m);
    free(file);
  }
}

/* The modules the refusals are made of are fine by themselves; so is a zero point of zeros. */
static void accepted(void **state) {
  (void)state;
  static const struct {
    const char *quant;
    st_entry entry[MAX_ENTRIES];
    weir_dtype dtype;
    int64_t rows, cols;
  } c[] = {
      {GPTQ, {QWEIGHT, QZEROS, SCALES}, WEIR_Q8_0, 8, 32},
      {AWQ, {{MODULE "qweight", "I32", "[32, 1]", zeros, 128}, QZEROS, SCALES}, WEIR_Q8_0, 8, 32},
      {FP8, {WEIGHT8, {MODULE "weight_scale_inv", "F32", "[2, 1]", zeros, 8}}, WEIR_BF16, 8, 8},
      {"null", {WEIGHT8, {MODULE "weight_scale", "F16", "[8, 1]", zeros, 16}}, WEIR_BF16, 8, 8},
      {PACKED,
       {{MODULE "weight_packed", "I32", "[8, 4]", zeros, 128},
        {MODULE "weight_scale", "BF16", "[8, 1]", zeros, 16},
        {MODULE "weight_zero_point", "I8", "[8, 1]", zeros, 8},
        {MODULE "weight_shape", "I64", "[2]", shape_8_32, 16}},
       WEIR_Q4_0,
       8,
       32},
  };
  for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
    weir_mfile *m;
    uint8_t *file;
    weir_tensor t;
    weir_err e = {0};
    if (open_case(c[i].quant, c[i].entry, &m, &file, &e) != WEIR_OK) fail_msg("case %zu: %s", i, e.msg);
    if (weir_mfile_read(m, tensor_name, &t, &e) != WEIR_OK) fail_msg("case %zu: %s", i, e.msg);
    assert_int_equal(t.info.dtype, c[i].dtype);
    assert_int_equal(t.info.dim[0], c[i].cols);
    assert_int_equal(t.info.dim[1], c[i].rows);
    size_t stored = 0;
    for (int k = 0; k < MAX_ENTRIES && c[i].entry[k].name; k++) stored += c[i].entry[k].bytes;
    assert_int_equal(t.info.bytes, stored);
    weir_tensor_release(&t);
    weir_mfile_close(m);
    free(file);
  }
}

/* Older exports say it in a file of their own. */
static void old_config_files(void **state) {
  (void)state;
  static const char config[] = "{\"model_type\": \"llama\", \"num_hidden_layers\": 1}";
  static const st_entry gptq[] = {QWEIGHT, QZEROS, SCALES},
                        awq[] = {{MODULE "qweight", "I32", "[32, 1]", zeros, 128}, QZEROS, SCALES};
  static const struct {
    const char *name, *text;
    const st_entry *entry;
    const char *fragment; /* NULL: fine */
  } c[] = {
      {"quantize_config.json", "{\"bits\": 4, \"group_size\": 32, \"desc_act\": false}", gptq, NULL},
      {"quantize_config.json", "{\"bits\": 8}", gptq, "quantize_config.json: key \"bits\": 8 bits"},
      {"quantize_config.json", "[", gptq, "quantize_config.json: JSON"},
      {"quant_config.json", "{\"w_bit\": 4, \"q_group_size\": 32, \"version\": \"GEMM\"}", awq, NULL},
      {"quant_config.json", "{\"version\": \"GEMV\"}", awq, "quant_config.json: key \"version\": \"GEMV\""},
      {"other.json", "{}", gptq, "quantised, but config.json does not say how"}};
  for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
    weir_mfile *m;
    weir_tensor_info info;
    weir_err e = {0};
    size_t len;
    uint8_t *file = st_file(c[i].entry, 3, 0, &len);
    const weir_hf_part part[] = {{"config.json", {config, sizeof config - 1}},
                                 {"model.safetensors", {(char *)file, len}},
                                 {c[i].name, {c[i].text, strlen(c[i].text)}}};
    const weir_status st = weir_mfile_parse_hf(part, 3, &m, &e);
    if ((st == WEIR_OK) != !c[i].fragment || (c[i].fragment && !strstr(e.msg, c[i].fragment)))
      fail_msg("case %zu: %d \"%s\"", i, st, e.msg);
    if (st == WEIR_OK) {
      assert_true(weir_mfile_find(m, tensor_name, &info));
      assert_int_equal(info.dtype, WEIR_Q8_0);
    }
    weir_mfile_close(m);
    free(file);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(golden_modules), cmocka_unit_test(refused),
                                     cmocka_unit_test(old_config_files), cmocka_unit_test(accepted)};
  weir_log_set_level(WEIR_LOG_ERROR);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
