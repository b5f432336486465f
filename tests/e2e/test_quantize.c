/* SPDX-License-Identifier: Apache-2.0 */
/* `weir quantize` as a user runs it: the bytes of an independent implementation, metadata carried over, types
 * chosen as said and told, what is refused, nothing left of a run that fails or is stopped; and models that
 * run with the logits of their own dequantised weights. */
#define _GNU_SOURCE /* F_SETPIPE_SZ */
#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
/* after the above */
#include <cmocka.h>

#include "e2e.h"
#include "gguf_writer.h"
#include "kernels/quant.h"
#include "model/gguf.h"
#include "model/gguf_index.h"
#include "quantize_files.h"

static uint64_t fnv1a(const uint8_t *p, size_t n) {
  uint64_t h = 0xcbf29ce484222325u;
  for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3u;
  return h;
}

/* ---- bytes ---- */

/* Every matrix against the hash of what gguf-py makes of it, in types where all rounding is laid down. */
static void test_goldens(void **state) {
  (void)state;
  char line[256], name[64], type[16], tensor[80], options[64], open[96] = "";
  unsigned long long hash;
  int checked = 0;
  weir_gguf *g = NULL;
  FILE *f = fopen("tests/vectors/quantize/goldens.txt", "r");
  assert_non_null(f);
  /* lines of a name are ordered by tensor: take one type after the other */
  static const char *const types[] = {"Q8_0", "Q4_0", "Q5_0", "F16", "BF16"};
  for (size_t k = 0; k < sizeof types / sizeof *types; k++) {
    rewind(f);
    open[0] = '\0';
    while (fgets(line, sizeof line, f)) {
      assert_int_equal(sscanf(line, "%63s %15s %79s %llx", name, type, tensor, &hash), 4);
      if (strcmp(type, types[k]) != 0) continue;
      if (strcmp(open, name) != 0) {
        weir_gguf_close(g);
        snprintf(open, sizeof open, "%s", name);
        snprintf(options, sizeof options, "--type %s --head %s", type, type);
        g = quantize_open(quantized(name, options, "golden.gguf"));
      }
      const weir_gguf_tensor *t = weir_gguf_find(g, tensor);
      assert_non_null(t);
      assert_string_equal(weir_dtype_get(t->dtype)->name, type);
      const uint64_t got = fnv1a(t->data, t->bytes);
      if (got != hash)
        fail_msg("%s as %s: %s: %016llx, want %016llx", name, type, tensor, (unsigned long long)got, hash);
      checked++;
    }
  }
  weir_gguf_close(g);
  fclose(f);
  assert_int_equal(checked, 16 * 4 + 8 * 4 + 16 /* BF16 is one of the models' own type */);
  quantize_sweep();
}

static bool same_file(const char *a, const char *b) {
  weir_gguf *x = quantize_open(a), *y = quantize_open(b);
  const bool same = x->len == y->len && memcmp(x->data, y->data, x->len) == 0;
  weir_gguf_close(x);
  weir_gguf_close(y);
  return same;
}

static void test_threads(void **state) {
  (void)state;
  char one[600];
  snprintf(one, sizeof one, "%s", quantized("quantize-256", "--type Q4_K --threads 1", "one.gguf"));
  assert_true(same_file(one, quantized("quantize-256", "--type Q4_K --threads 3", "three.gguf")));
  json_t *a = e2e_json_of("quantize --json --threads 1 --type Q4_K " MODELS "quantize-256.gguf %s",
                          quantize_path("a.gguf")),
         *b = e2e_json_of("quantize --json --threads 3 --type Q4_K " MODELS "quantize-256.gguf %s",
                          quantize_path("b.gguf"));
  assert_int_equal(json_array_size(a), json_array_size(b));
  for (size_t i = 0; i + 1 < json_array_size(a); i++)
    if (!json_equal(json_array_get(a, i), json_array_get(b, i)))
      fail_msg("tensor %zu differs with the threads", i);
  json_decref(a);
  json_decref(b);
  assert_int_equal(quantize_sweep(), 4);
}

/* ---- metadata ---- */

static int64_t number(const weir_gguf *g, const char *key) {
  weir_err e = {0};
  int64_t v;
  if (weir_gguf_i64(g, key, -1, &v, &e) != WEIR_OK) fail_msg("%s", e.msg);
  return v;
}

static void test_keys(void **state) {
  (void)state;
  static const struct {
    const char *type;
    int file_type, version;
  } cases[] = {{"F32", 0, -1},  {"F16", 1, -1},  {"Q4_0", 2, 2},  {"Q8_0", 7, 2},  {"Q5_0", 8, 2},
               {"Q4_K", 14, 2}, {"Q5_K", 16, 2}, {"Q6_K", 18, 2}, {"BF16", 32, -1}};
  weir_gguf *in = quantize_open(MODELS "quantize-256.gguf");
  for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
    char options[64];
    snprintf(options, sizeof options, "--type %s", cases[k].type);
    weir_gguf *g = quantize_open(quantized("quantize-256", options, "keys.gguf"));
    assert_int_equal(number(g, "general.file_type"), cases[k].file_type);
    assert_int_equal(number(g, "general.quantization_version"), cases[k].version);
    for (int64_t i = 0; i < in->n_keys; i++) {
      const weir_gguf_entry *want = &in->entry[i], *got = &g->entry[i];
      if (!weir_str_eq(want->key, got->key) || want->type != got->type ||
          want->value_bytes != got->value_bytes || memcmp(want->value, got->value, want->value_bytes) != 0)
        fail_msg("%s: key %.*s is not what it was", cases[k].type, (int)want->key.len, want->key.data);
    }
    assert_int_equal(g->n_keys, in->n_keys + 1 + (cases[k].version > 0));
    /* a second round replaces the two keys */
    weir_gguf_close(g);
    char line[1400];
    snprintf(line, sizeof line, "quantize -q --type F16 --requantize %s %s", quantize_path("keys.gguf"),
             quantize_path("again.gguf"));
    quantize_must_run(line);
    g = quantize_open(quantize_path("again.gguf"));
    assert_int_equal(number(g, "general.file_type"), 1);
    assert_int_equal(number(g, "general.quantization_version"), -1);
    assert_int_equal(g->n_keys, in->n_keys + 1);
    weir_gguf_close(g);
    assert_int_equal(quantize_sweep(), 2);
  }
  weir_gguf_close(in);
}

/* A model in two files becomes one, which does not say it is a part. */
/* m-00001-of-00002.gguf and its second part. */
static void write_parts(void) {
  float x[64];
  for (int i = 0; i < 64; i++) x[i] = (float)(i % 8);
  for (uint32_t no = 0; no < 2; no++) {
    gguf_writer w;
    size_t len;
    gguf_writer_init(&w);
    if (no == 0) gguf_writer_str(&w, "general.architecture", "llama");
    gguf_writer_u32(&w, "split.no", no);
    gguf_writer_u32(&w, "split.count", 2);
    gguf_writer_u32(&w, "split.tensors.count", 2);
    gguf_writer_tensor(&w, no ? "b.weight" : "a.weight", GW_F32, (const uint64_t[]){32, 2}, 2, x, sizeof x);
    uint8_t *file = gguf_writer_file(&w, &len);
    e2e_write(quantize_path(no ? "m-00002-of-00002.gguf" : "m-00001-of-00002.gguf"), file, len);
    free(file);
    gguf_writer_fini(&w);
  }
}

static void test_split(void **state) {
  (void)state;
  write_parts();
  char line[1400];
  snprintf(line, sizeof line, "quantize -q %s %s", quantize_path("m-00001-of-00002.gguf"),
           quantize_path("one.gguf"));
  quantize_must_run(line);
  weir_gguf *g = quantize_open(quantize_path("one.gguf"));
  assert_int_equal(weir_gguf_n_tensors(g), 2);
  assert_int_equal(weir_gguf_find(g, "a.weight")->dtype, WEIR_Q8_0);
  assert_memory_equal(weir_gguf_find(g, "a.weight")->data, weir_gguf_find(g, "b.weight")->data, 68);
  assert_false(weir_gguf_has(g, "split.count") || weir_gguf_has(g, "split.no") ||
               weir_gguf_has(g, "split.tensors.count"));
  assert_true(weir_gguf_has(g, "general.architecture"));
  weir_gguf_close(g);
  assert_int_equal(quantize_sweep(), 3);
}

/* ---- the choice of types ---- */

typedef struct expect {
  const char *tensor, *to, *by;
} expect;

static void test_choice(void **state) {
  (void)state;
  static const struct {
    const char *model, *options;
    expect want[6];
    int fallbacks;
  } cases[] = {
      {"llama-F32",
       "--type Q8_0",
       {{"token_embd.weight", "Q8_0", "type"},
        {"output.weight", "Q8_0", "type"},
        {"output_norm.weight", "F32", "vector"}},
       0},
      /* rows of 64 are too short for Q6_K */
      {"llama-F32",
       "--type Q4_0",
       {{"token_embd.weight", "Q4_0", "type"}, {"output.weight", "Q8_0", "head"}},
       0},
      {"llama-F32",
       "--type q4_0 --head f16 --embed bf16",
       {{"token_embd.weight", "BF16", "embed"},
        {"output.weight", "F16", "head"},
        {"blk.0.attn_q.weight", "Q4_0", "type"}},
       0},
      /* the first rule that matches; rules go before --head, vectors stay */
      {"llama-F32",
       "--type Q4_0 --rule blk.0.=Q8_0 --rule attn_v=F16 --rule ^output=Q4_0 --rule norm=Q4_0",
       {{"blk.0.attn_v.weight", "Q8_0", "rule"},
        {"blk.1.attn_v.weight", "F16", "rule"},
        {"blk.1.attn_q.weight", "Q4_0", "type"},
        {"output.weight", "Q4_0", "rule"},
        {"blk.0.attn_norm.weight", "F32", "vector"}},
       0},
      /* tied: the embedding is the head; ff 288 */
      {"quantize-256",
       "--type Q4_K",
       {{"token_embd.weight", "Q6_K", "head"},
        {"blk.0.ffn_up.weight", "Q4_K", "type"},
        {"blk.0.ffn_down.weight", "Q5_0", "type"},
        {"blk.0.attn_norm.weight", "F32", "vector"}},
       1},
      {"quantize-256",
       "--type Q5_K",
       {{"token_embd.weight", "Q6_K", "head"}, {"blk.0.ffn_down.weight", "Q8_0", "type"}},
       1},
      {"quantize-256",
       "--type Q6_K",
       {{"token_embd.weight", "Q6_K", "type"}, {"blk.0.ffn_down.weight", "Q8_0", "type"}},
       1},
      {"quantize-256", "--type Q4_K --embed Q8_0", {{"token_embd.weight", "Q8_0", "embed"}}, 1},
      {"quantize-256", "--type Q4_K --head Q4_K", {{"token_embd.weight", "Q4_K", "head"}}, 1},
      /* rows of 172 fit no block; rows of 64 only small ones */
      {"stories260k",
       "--type Q4_K",
       {{"blk.0.attn_q.weight", "Q5_0", "type"},
        {"blk.4.ffn_down.weight", "F16", "type"},
        {"token_embd.weight", "Q8_0", "head"}},
       35},
      {"stories260k",
       "--type Q8_0",
       {{"blk.0.attn_q.weight", "Q8_0", "type"}, {"blk.4.ffn_down.weight", "F16", "type"}},
       5},
  };
  for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
    json_t *all = e2e_json_of("quantize --json %s " MODELS "%s.gguf %s", cases[k].options, cases[k].model,
                              quantize_path("choice.gguf"));
    weir_gguf *g = quantize_open(quantize_path("choice.gguf"));
    json_t *total = json_array_get(all, json_array_size(all) - 1), *t;
    size_t i;
    assert_string_equal(json_string_value(json_object_get(total, "schema")), "weir.quantize.v1");
    assert_int_equal(json_integer_value(json_object_get(total, "fallbacks")), cases[k].fallbacks);
    assert_int_equal(json_integer_value(json_object_get(total, "bytes_out")), g->len);
    assert_int_equal(json_array_size(all) - 1, g->n_tensors);
    for (const expect *w = cases[k].want; w < cases[k].want + 6 && w->tensor; w++) {
      bool seen = false;
      json_array_foreach(all, i, t) {
        const char *name = json_string_value(json_object_get(t, "name"));
        if (!name || strcmp(name, w->tensor) != 0) continue;
        seen = true;
        const char *to = json_string_value(json_object_get(t, "to")),
                   *by = json_string_value(json_object_get(t, "by"));
        if (strcmp(to, w->to) != 0 || strcmp(by, w->by) != 0)
          fail_msg("%s %s: %s became %s by %s, want %s by %s", cases[k].model, cases[k].options, name, to, by,
                   w->to, w->by);
        const weir_gguf_tensor *stored = weir_gguf_find(g, name);
        assert_string_equal(weir_dtype_get(stored->dtype)->name, w->to);
        assert_int_equal(json_integer_value(json_object_get(t, "bytes_out")), stored->bytes);
      }
      if (!seen) fail_msg("%s is not told", w->tensor);
    }
    weir_gguf_close(g);
    json_decref(all);
    assert_int_equal(quantize_sweep(), 1);
  }
}

/* Tensors that are no plain matrices: vectors become F32, routers and convolutions stay, experts are matrices
 * of three dimensions, and rows that fit no block keep their kind of 16 bits. */
static void test_kinds(void **state) {
  (void)state;
  static const struct {
    const char *name;
    uint32_t type;
    uint64_t dim[3];
    const char *to, *by;
  } cases[] = {
      {"output_norm.weight", GW_BF16, {64, 1, 1}, "F32", "vector"},
      {"blk.0.attn_q.bias", GW_F16, {64, 1, 1}, "F32", "vector"},
      {"blk.0.ffn_gate_inp.weight", GW_F32, {64, 4, 1}, "F32", "kind"},
      {"blk.1.ffn_gate_inp.weight", GW_F16, {64, 4, 1}, "F16", "kind"},
      {"blk.0.ssm_conv1d.weight", GW_F32, {32, 4, 1}, "F32", "kind"},
      {"blk.0.ffn_up_exps.bias", GW_F32, {64, 4, 1}, "F32", "kind"},
      {"blk.0.ffn_up_exps.weight", GW_F16, {64, 3, 4}, "Q8_0", "type"},
      {"blk.0.ffn_down_exps.weight", GW_BF16, {40, 3, 4}, "BF16", "type"},
      {"blk.1.ffn_down_exps.weight", GW_F32, {40, 3, 4}, "F16", "type"},
      {"token_embd.weight", GW_BF16, {64, 7, 1}, "F16", "embed"},
      {"output.weight", GW_F32, {64, 7, 1}, "Q8_0", "type"},
  };
  enum { N = sizeof cases / sizeof *cases };
  char in[600], out[600];
  gguf_writer w;
  size_t len, i;
  json_t *t;
  gguf_writer_init(&w);
  gguf_writer_str(&w, "general.architecture", "anything");
  for (int k = 0; k < N; k++) {
    uint8_t data[4096];
    const size_t n = (size_t)(cases[k].dim[0] * cases[k].dim[1] * cases[k].dim[2]);
    for (size_t j = 0; j < n; j++) { /* 1, 2, ... 8, exact in all three */
      const float x = (float)(1 + j % 8);
      uint32_t bits;
      memcpy(&bits, &x, 4);
      if (cases[k].type == GW_F32) memcpy(data + 4 * j, &bits, 4);
      const uint16_t half = (uint16_t)(cases[k].type == GW_BF16 ? bits >> 16 : (bits - 0x38000000u) >> 13);
      if (cases[k].type != GW_F32) memcpy(data + 2 * j, &half, 2);
    }
    gguf_writer_tensor(&w, cases[k].name, cases[k].type, cases[k].dim,
                       cases[k].dim[2] > 1   ? 3
                       : cases[k].dim[1] > 1 ? 2
                                             : 1,
                       data, n * (cases[k].type == GW_F32 ? 4 : 2));
  }
  uint8_t *file = gguf_writer_file(&w, &len);
  snprintf(in, sizeof in, "%s", quantize_path("kinds.gguf"));
  snprintf(out, sizeof out, "%s", quantize_path("out.gguf"));
  e2e_write(in, file, len);
  free(file);
  gguf_writer_fini(&w);
  json_t *all = e2e_json_of("quantize --json --embed F16 %s %s", in, out);
  weir_gguf *from = quantize_open(in), *g = quantize_open(out);
  json_array_foreach(all, i, t) {
    if (i == N) break; /* the total */
    const char *to = json_string_value(json_object_get(t, "to")),
               *by = json_string_value(json_object_get(t, "by"));
    assert_string_equal(json_string_value(json_object_get(t, "name")), cases[i].name);
    if (strcmp(to, cases[i].to) != 0 || strcmp(by, cases[i].by) != 0)
      fail_msg("%s became %s by %s, want %s by %s", cases[i].name, to, by, cases[i].to, cases[i].by);
    const weir_gguf_tensor *a = weir_gguf_find(from, cases[i].name), *b = weir_gguf_find(g, cases[i].name);
    assert_int_equal(a->n_dims, b->n_dims);
    assert_memory_equal(a->dim, b->dim, sizeof a->dim);
    for (int64_t r = 0; r < b->dim[1] * b->dim[2]; r++) {
      float x[64];
      weir_err e = {0};
      assert_int_equal(
          weir_dequantize_row(
              b->dtype, (const uint8_t *)b->data + (size_t)r * b->bytes / (size_t)(b->dim[1] * b->dim[2]), x,
              b->dim[0], &e),
          WEIR_OK);
      for (int64_t c = 0; c < b->dim[0]; c++) {
        const float want = (float)(1 + (r * b->dim[0] + c) % 8);
        if (fabsf(x[c] - want) > 0.04f)
          fail_msg("%s: row %lld, element %lld: %g, want %g", cases[i].name, (long long)r, (long long)c,
                   (double)x[c], (double)want);
      }
    }
  }
  weir_gguf_close(from);
  weir_gguf_close(g);
  json_decref(all);
  assert_int_equal(quantize_sweep(), 2);
}

/* ---- what is refused, and what is left behind ---- */

static void test_refused(void **state) {
  (void)state;
  char there[600];
  snprintf(there, sizeof there, "%s", quantize_path("there.gguf"));
  e2e_write(there, "x", 1);
  static const char source[] = MODELS "llama-F32.gguf";
  struct {
    char line[1400];
    int status;
    const char *says;
  } bad[28];
  size_t n = 0;
#define BAD(code, text, ...)                              \
  snprintf(bad[n].line, sizeof bad[0].line, __VA_ARGS__); \
  bad[n].status = code;                                   \
  bad[n++].says = text
  BAD(2, "want a model and the file to write, got 0 paths", "quantize");
  BAD(2, "got 1 path", "quantize %s", source);
  BAD(2, "got 3 paths", "quantize a b c");
  BAD(2, "the path of the model is empty", "quantize '' %s", quantize_path("n"));
  BAD(2, "the path of the file to write is empty", "quantize %s ''", source);
  BAD(2, "the path of the model is empty", "quantize --dry-run ''");
  BAD(2, "are the same file", "quantize --force %s ./%s", source, source);
  BAD(2, "there.gguf is there already; --force replaces it", "quantize %s %s", source, there);
  BAD(2, "--type: Q3_X is not a type (known: F32 F16", "quantize --type Q3_X %s %s", source,
      quantize_path("n"));
  BAD(2, "--type: Q4_K_M is a mixture of types: say Q4_K", "quantize --type Q4_K_M %s %s", source,
      quantize_path("n"));
  BAD(2, "--head: big is not a type", "quantize --head big %s %s", source, quantize_path("n"));
  BAD(2, "--embed: 8 is not a type", "quantize --embed 8 %s %s", source, quantize_path("n"));
  BAD(2, "want REGEX=TYPE", "quantize --rule ffn %s %s", source, quantize_path("n"));
  BAD(2, "want REGEX=TYPE", "quantize --rule =Q8_0 %s %s", source, quantize_path("n"));
  BAD(2, "missing closing parenthesis", "quantize --rule (ffn=Q8_0 %s %s", source, quantize_path("n"));
  BAD(2, "--rule: Q9 is not a type", "quantize --rule ffn=Q9 %s %s", source, quantize_path("n"));
  BAD(2, "is Q8_0 already; --requantize makes Q4_0 of that",
      "quantize --type Q4_0 " MODELS "llama-Q8_0.gguf %s", quantize_path("n"));
  BAD(2, "they are one tensor", "quantize --head Q8_0 --embed F16 " MODELS "quantize-256.gguf %s",
      quantize_path("n"));
  BAD(1, "/nonexistent.gguf", "quantize /nonexistent.gguf %s", quantize_path("n"));
  BAD(1, "not a GGUF file", "quantize README.md %s", quantize_path("n"));
  BAD(1, "No such file or directory", "quantize %s %s", source, quantize_path("no/n"));
  BAD(2, "not a regular file", "quantize --force %s %s", source, quantize_path("."));
#undef BAD
  for (size_t i = 0; i < n; i++) {
    e2e_result r = e2e("%s", bad[i].line);
    e2e_want_status(&r, bad[i].status, bad[i].line);
    e2e_want_in(r.err, bad[i].says, bad[i].line);
    e2e_want_in(r.err, "weir: error: ", bad[i].line);
    e2e_free(&r);
  }
  char *left = e2e_read(there);
  assert_string_equal(left, "x");
  free(left);
  assert_int_equal(quantize_sweep(), 1);
}

/* ---- files that stay ---- */

/* A model of several files is none of them any more once one is replaced. */
static void test_own_parts(void **state) {
  (void)state;
  char one[600], two[600], link[600], dir[600];
  write_parts();
  snprintf(one, sizeof one, "%s", quantize_path("m-00001-of-00002.gguf"));
  snprintf(two, sizeof two, "%s", quantize_path("m-00002-of-00002.gguf"));
  snprintf(link, sizeof link, "%s", quantize_path("link.gguf"));
  snprintf(dir, sizeof dir, "%s", quantize_path("."));
  assert_int_equal(symlink(two, link), 0);
  const struct {
    const char *in, *out, *says;
  } bad[] = {{one, two, "is a part of"},
             {one, link, "is a part of"}, /* the same file under another name */
             {one, one, "are the same file"},
             {dir, two, "is one of the files of"}};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    e2e_result r = e2e("quantize --force %s %s", bad[i].in, bad[i].out);
    e2e_want_status(&r, 2, bad[i].out);
    e2e_want_in(r.err, bad[i].says, bad[i].out);
    e2e_free(&r);
  }
  /* nothing else is in the way: of another set, the file beside is not a part */
  char line[1400];
  snprintf(line, sizeof line, "quantize -q %s %s", one, quantize_path("n-00002-of-00002.gguf"));
  quantize_must_run(line);
  snprintf(line, sizeof line, "quantize -q --force %s %s", one, quantize_path("n-00002-of-00002.gguf"));
  quantize_must_run(line);
  assert_int_equal(quantize_sweep(), 4);
}

/* A link to nowhere is there too; with --force it is what gets replaced. */
static void test_dangling(void **state) {
  (void)state;
  char out[600];
  struct stat info;
  snprintf(out, sizeof out, "%s", quantize_path("dangling.gguf"));
  assert_int_equal(symlink("nowhere.gguf", out), 0);
  e2e_result r = e2e("quantize " MODELS "llama-F32.gguf %s", out);
  e2e_want_status(&r, 2, "a link to nowhere");
  e2e_want_in(r.err, "dangling.gguf is there already; --force replaces it", "a link to nowhere");
  e2e_free(&r);
  assert_true(lstat(out, &info) == 0 && S_ISLNK(info.st_mode));
  r = e2e("quantize -q --force " MODELS "llama-F32.gguf %s", out);
  e2e_want_status(&r, 0, "--force");
  e2e_free(&r);
  assert_true(lstat(out, &info) == 0 && S_ISREG(info.st_mode));
  assert_int_equal(quantize_sweep(), 1);
}

/* A dry run needs no file to write, and no model of one file. */
static void test_dry_directory(void **state) {
  (void)state;
  char line[1400];
  quantize_must_run("quantize --dry-run " MODELS "llama-F32.gguf");
  quantize_must_run("quantize --dry-run " MODELS "hf-smollm");
  quantize_must_run("quantize --dry-run " MODELS "hf-smollm/config.json");
  write_parts();
  snprintf(line, sizeof line, "quantize --dry-run %s", quantize_path("."));
  quantize_must_run(line);
  assert_int_equal(quantize_sweep(), 2);
}

static void test_dry_run(void **state) {
  (void)state;
  e2e_result r = e2e("quantize --dry-run --type Q4_K --rule attn_v=Q8_0 --rule nothing=F16 " MODELS
                     "quantize-256.gguf %s",
                     quantize_path("dry.gguf"));
  e2e_want_status(&r, 0, "dry run");
  e2e_want_in(r.out, "BF16 Q4_K ", "dry run");
  e2e_want_in(r.out, "rule attn_v=Q8_0: 1 tensor\n", "dry run");
  e2e_want_in(r.out,
              "blk.0.ffn_down.weight: Q5_0 instead of Q4_K, whose blocks are 256 wide and its rows 288\n",
              "dry run");
  e2e_want_in(r.out, "token_embd.weight: Q6_K, being the head too\n", "dry run");
  e2e_want_in(r.err, "warning: rule nothing=F16 decides no tensor", "dry run");
  e2e_free(&r);
  assert_int_equal(quantize_sweep(), 0);
  /* the size that is told is the size that comes out */
  json_t *dry = e2e_json_of("quantize --dry-run --json --type Q4_K " MODELS "quantize-256.gguf");
  json_t *total = json_array_get(dry, json_array_size(dry) - 1);
  assert_true(json_is_false(json_object_get(total, "written")));
  struct stat info;
  assert_int_equal(stat(quantized("quantize-256", "--type Q4_K", "real.gguf"), &info), 0);
  assert_int_equal(json_integer_value(json_object_get(total, "bytes_out")), info.st_size);
  json_decref(dry);
  r = e2e("quantize -v --type Q8_0 --requantize " MODELS "llama-Q4_0.gguf %s", quantize_path("twice.gguf"));
  e2e_want_status(&r, 0, "requantize");
  e2e_want_in(r.out, "16 tensors were quantised before: the new rounding comes on top", "requantize");
  e2e_want_in(r.out, "%  blk.0.attn_q.weight\n", "--verbose");
  e2e_free(&r);
  assert_int_equal(quantize_sweep(), 2);
}

/* Weights that the type cannot hold: the tensor, the row and the element are told. */
static void test_bad_weights(void **state) {
  (void)state;
  static const struct {
    const char *type;
    float value;
    const char *says; /* NULL: it can */
  } cases[] = {{"F16", 1e6f, "row 1: element 3 (1e+06) does not fit F16"},
               {"BF16", 1e6f, NULL},
               {"Q8_0", 1e6f, NULL},
               {"Q8_0", 1e8f, "row 1: "},
               {"Q8_0", NAN, "row 1: "},
               {"F16", INFINITY, "row 1: element 3 (inf) does not fit F16"},
               {"F32", NAN, NULL}};
  for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
    float x[64] = {0.5f};
    gguf_writer w;
    size_t len;
    char in[600], line[1400];
    x[32 + 3] = cases[k].value;
    gguf_writer_init(&w);
    gguf_writer_str(&w, "general.architecture", "llama");
    gguf_writer_tensor(&w, "blk.0.ffn_up.weight", GW_F32, (const uint64_t[]){32, 2}, 2, x, sizeof x);
    uint8_t *file = gguf_writer_file(&w, &len);
    snprintf(in, sizeof in, "%s", quantize_path("bad.gguf"));
    e2e_write(in, file, len);
    free(file);
    gguf_writer_fini(&w);
    snprintf(line, sizeof line, "quantize --type %s %s %s", cases[k].type, in, quantize_path("out.gguf"));
    e2e_result r = e2e("%s", line);
    e2e_want_status(&r, cases[k].says ? 1 : 0, line);
    if (cases[k].says) {
      e2e_want_in(r.err, "tensor \"blk.0.ffn_up.weight\", row 1: ", line);
      e2e_want_in(r.err, cases[k].says, line);
    }
    e2e_free(&r);
    assert_int_equal(quantize_sweep(), cases[k].says ? 1 : 2);
  }
}

/* Starts it with its output in a pipe of a page, of which a byte has come out: there is more to come than the
 * page holds, so it cannot be done. `err`: a file, or NULL. */
static pid_t start(const char *line, int *out, void (*hup)(int), const char *err) {
  char *argv[E2E_MAX_ARGS], first;
  int p[2];
  char *words = e2e_split(line, argv);
  assert_int_equal(pipe(p), 0);
  assert_true(fcntl(p[1], F_SETPIPE_SZ, 4096) >= 4096);
  const pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    signal(SIGHUP, hup); /* whatever the tests run under */
    signal(SIGQUIT, SIG_DFL);
    dup2(p[1], 1);
    dup2(err ? open(err, O_WRONLY) : open("/dev/null", O_WRONLY), 2);
    close(p[0]);
    close(p[1]);
    execv(argv[0], argv);
    _exit(127);
  }
  close(p[1]);
  free(words);
  assert_int_equal(read(p[0], &first, 1), 1);
  *out = p[0];
  return pid;
}

static int finish(pid_t pid, int out) {
  char buf[4096];
  int status;
  while (read(out, buf, sizeof buf) > 0) continue;
  close(out);
  assert_int_equal(waitpid(pid, &status, 0), pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static const char slow[] = "quantize %s --json --requantize --type Q4_0 " MODELS "pair-large.gguf %s";

static void test_interrupted(void **state) {
  (void)state;
  static const struct {
    int signal;
    void (*hup)(int);
    int status;
  } cases[] = {{SIGINT, SIG_DFL, 130},
               {SIGTERM, SIG_DFL, 143},
               {SIGHUP, SIG_DFL, 129},
               {SIGQUIT, SIG_DFL, 131},
               {SIGHUP, SIG_IGN, 0}}; /* nohup */
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char line[1400];
    int out;
    const char *path = quantize_path("stopped.gguf");
    e2e_write(path, "old", 3);
    snprintf(line, sizeof line, slow, "--force", path);
    const pid_t pid = start(line, &out, cases[i].hup, NULL);
    kill(pid, cases[i].signal);
    const int status = finish(pid, out);
    if (status != cases[i].status)
      fail_msg("signal %d: status %d, want %d", cases[i].signal, status, cases[i].status);
    char *left = e2e_read(path);
    if (cases[i].status)
      assert_string_equal(left, "old");
    else
      assert_memory_equal(left, "GGUF", 4);
    free(left);
    assert_int_equal(quantize_sweep(), 1);
  }
}

/* A file that comes while the work is done is not replaced by a run that was not told to. */
static void test_came_between(void **state) {
  (void)state;
  char line[1400];
  for (int force = 0; force < 2; force++) {
    int out;
    const char *path = quantize_path("between.gguf"), *err = e2e_temp("between.txt");
    snprintf(line, sizeof line, slow, force ? "--force" : "-q", path);
    const pid_t pid = start(line, &out, SIG_DFL, err);
    e2e_write(path, "theirs", 6);
    assert_int_equal(finish(pid, out), force ? 0 : 1);
    char *left = e2e_read(path), *said = e2e_read(err);
    if (force)
      assert_memory_equal(left, "GGUF", 4);
    else
      assert_string_equal(left, "theirs");
    if (!force) e2e_want_in(said, "cannot give the file its name: File exists", "a file in between");
    free(left);
    free(said);
    assert_int_equal(quantize_sweep(), 1);
  }
}

/* A limit on the size of files stands in for a full disk. */
static void test_full_disk(void **state) {
  (void)state;
  char line[1400], *argv[E2E_MAX_ARGS];
  int status;
  const char *err = e2e_temp("full.txt");
  snprintf(line, sizeof line, "quantize -q " MODELS "llama-F32.gguf %s", quantize_path("full.gguf"));
  char *words = e2e_split(line, argv);
  const pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    const struct rlimit small = {50000, 50000};
    dup2(open(err, O_WRONLY), 2);
    setrlimit(RLIMIT_FSIZE, &small);
    execv(argv[0], argv);
    _exit(127);
  }
  free(words);
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_true(WIFEXITED(status));
  char *text = e2e_read(err);
  if (WEXITSTATUS(status) != 1) fail_msg("exit status %d: %s", WEXITSTATUS(status), text);
  e2e_want_in(text, "full.gguf: cannot ", "full disk");
  e2e_want_in(text, "File too large", "full disk");
  free(text);
  assert_int_equal(quantize_sweep(), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_goldens),      cmocka_unit_test(test_threads),
      cmocka_unit_test(test_keys),         cmocka_unit_test(test_split),
      cmocka_unit_test(test_choice),       cmocka_unit_test(test_kinds),
      cmocka_unit_test(test_refused),      cmocka_unit_test(test_dry_run),
      cmocka_unit_test(test_bad_weights),  cmocka_unit_test(test_interrupted),
      cmocka_unit_test(test_full_disk),    cmocka_unit_test(test_own_parts),
      cmocka_unit_test(test_dangling),     cmocka_unit_test(test_dry_directory),
      cmocka_unit_test(test_came_between),
  };
  return cmocka_run_group_tests(tests, quantize_setup, quantize_teardown);
}
