/* SPDX-License-Identifier: Apache-2.0 */
/* `weir quantize` of Hugging Face directories: the GGUF file gives the logits that transformers confirmed for
 * the directory, cuts texts into the same tokens and writes the same text; what cannot be told in such a file
 * is refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
/* after the above */
#include <cmocka.h>

#include "e2e.h"
#include "golden.h"
#include "model/gguf_index.h"
#include "model/hparams.h"
#include "quantize_files.h"

static const char *const families[] = {"llama3",  "smollm", "qwen3",  "qwen2-yarn", "qwen3moe",
                                       "mixtral", "phi3",   "gemma2", "gemma3"};
enum { N_FAMILIES = sizeof families / sizeof *families };

/* The directory of a family as a file of the given type in the tests' folder. */
static const char *converted(const char *family, const char *type) {
  char line[1400];
  const char *path = quantize_path("hf.gguf");
  snprintf(line, sizeof line, "quantize -q --force --type %s " MODELS "hf-%s %s", type, family, path);
  quantize_must_run(line);
  return path;
}

/* Worst deviation over the largest logit of a position. */
static double deviation(const char *path, const wvec *v) {
  int32_t page[GOLDEN_PAGES];
  double worst = 0;
  for (int32_t i = 0; i < GOLDEN_PAGES; i++) page[i] = i;
  model m = model_open(path, WEIR_ISA_BEST, 1, WEIR_F32);
  assert_int_equal(m.inst->h.n_vocab, v->n_vocab);
  for (int32_t s = 0; s < v->n_seqs; s++) {
    const wvec_seq *q = &v->seq[s];
    float *got = malloc((size_t)q->n_tokens * (size_t)v->n_vocab * sizeof *got);
    feed(&m, q->id, 0, q->n_tokens, page, got);
    for (int32_t i = 0; i < q->n_tokens; i++) {
      double max = 0, diff = 0;
      for (int32_t c = 0; c < v->n_vocab; c++) {
        const double want = q->logits[(size_t)i * v->n_vocab + c],
                     d = fabs(got[(size_t)i * v->n_vocab + c] - want);
        if (!(d <= diff)) diff = d; /* NaN too */
        if (fabs(want) > max) max = fabs(want);
      }
      if (!(diff / max <= worst)) worst = diff / max;
    }
    free(got);
  }
  model_close(&m);
  return worst;
}

static void test_logits(void **state) {
  (void)state;
  for (int k = 0; k < N_FAMILIES; k++) {
    char path[128];
    snprintf(path, sizeof path, "tests/vectors/logits/%s.wvec", families[k]);
    wvec v = wvec_read(path);
    const double worst = deviation(converted(families[k], "BF16"), &v);
    print_message("%-12s worst position: relative %.2e\n", families[k], worst);
    if (!(worst <= 1e-5)) fail_msg("%s: worst position %.3e relative", families[k], worst);
    wvec_free(&v);
    assert_int_equal(quantize_sweep(), 1);
  }
}

static weir_hparams hparams_of(const char *path) {
  weir_err e = {0};
  weir_mfile *m = NULL;
  weir_hparams h = {0};
  if (weir_mfile_open(path, &m, &e) != WEIR_OK || weir_hparams_read(m, &h, &e) != WEIR_OK)
    fail_msg("%s", e.msg);
  weir_mfile_close(m);
  return h;
}

/* All that shapes the model is what it was, but for what the format stores in another way. */
static void test_hparams(void **state) {
  (void)state;
  for (int k = 0; k < N_FAMILIES; k++) {
    char dir[128];
    snprintf(dir, sizeof dir, MODELS "hf-%s", families[k]);
    weir_hparams want = hparams_of(dir), got = hparams_of(converted(families[k], "Q8_0"));
    float freq[2][WEIR_MAX_ROPE_DIMS / 2], mscale[2];
    weir_err e = {0};
    for (int local = 0; local < 2; local++) {
      const weir_rope *a = local ? &want.rope_local : &want.rope, *b = local ? &got.rope_local : &got.rope;
      assert_int_equal(weir_rope_frequencies(a, want.rope_dims, want.n_ctx, freq[0], &mscale[0], &e),
                       WEIR_OK);
      assert_int_equal(weir_rope_frequencies(b, got.rope_dims, got.n_ctx, freq[1], &mscale[1], &e), WEIR_OK);
      for (int32_t i = 0; i < want.rope_dims / 2; i++)
        if (!(fabsf(freq[0][i] - freq[1][i]) <= 1e-6f * freq[0][i]))
          fail_msg("%s: frequency %d: %g, want %g", families[k], i, (double)freq[1][i], (double)freq[0][i]);
      assert_true(fabsf(mscale[0] - mscale[1]) <= 1e-6f);
    }
    want.rope = want.rope_local = got.rope = got.rope_local = (weir_rope){0};
    assert_int_equal(got.rope_interleaved, want.arch == WEIR_ARCH_LLAMA);
    assert_false(got.norm_plus_one);
    got.rope_interleaved = want.rope_interleaved;
    got.norm_plus_one = want.norm_plus_one;
    assert_string_equal(got.name, want.name);
    memcpy(got.name, want.name, sizeof got.name);
    if (memcmp(&got, &want, sizeof got) != 0) {
      size_t at = 0;
      while (((const char *)&got)[at] == ((const char *)&want)[at]) at++;
      fail_msg("%s: hyper-parameters differ at byte %zu", families[k], at);
    }
    assert_int_equal(quantize_sweep(), 1);
  }
}

/* The same ids for texts, the same text from the model. */
static void test_text(void **state) {
  (void)state;
  static const char *const texts[] = {
      "the and", "She will pay $1234.50 -- today!", "  two  spaces\\n\\nlines\\t",
      "\xc3\xa9t\xc3\xa9 \xe4\xb8\xad\xe6\x96\x87 \xf0\x9f\x98\x80", "<|im_end|>a<|endoftext|>"};
  for (int k = 0; k < N_FAMILIES; k++) {
    const char *path = converted(families[k], "BF16");
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
      for (int special = 0; special < 2; special++) {
        const char *more = special ? "--special --bos" : "";
        e2e_result a = e2e("tokenize %s -p '%s' --model " MODELS "hf-%s", more, texts[i], families[k]),
                   b = e2e("tokenize %s -p '%s' --model %s", more, texts[i], path);
        e2e_want_status(&a, 0, families[k]);
        e2e_want_status(&b, 0, path);
        assert_string_equal(a.out, b.out);
        e2e_free(&a);
        e2e_free(&b);
      }
    e2e_result a = e2e("run -q -p 'the and' -n 24 --kv f32 --small " MODELS "hf-%s", families[k]),
               b = e2e("run -q -p 'the and' -n 24 --kv f32 --small %s", path);
    e2e_want_status(&a, 0, families[k]);
    e2e_want_status(&b, 0, path);
    assert_true(a.out_len > 1);
    assert_string_equal(a.out, b.out);
    e2e_free(&a);
    e2e_free(&b);
    quantize_sweep();
  }
}

/* ---- SentencePiece ---- */

#define MARK "\xe2\x96\x81"

/* A tokenizer.json as transformers makes it of a SentencePiece model: 3 control tokens, 256 bytes, then these
 * pieces; `merges` are all ways to put one together of two others, the best score first. */
static const char *const pieces[] = {MARK, "t",      "h",        "e",  "a",   "n",      "d",
                                     "he", MARK "t", MARK "the", "an", "and", MARK "a", MARK "and"};
static const char merges[] =
    "[\"h\",\"e\"],[\"" MARK "\",\"t\"],[\"" MARK "t\",\"he\"],[\"a\",\"n\"],[\"an\",\"d\"],[\"" MARK
    "\",\"a\"],[\"" MARK "\",\"and\"]";

static void write_spm(const char *dir, bool prefix, const char *merge_list) {
  static const char replace[] =
      "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"" MARK "\"}";
  char path[700];
  snprintf(path, sizeof path, "%s/tokenizer.json", dir);
  FILE *f = fopen(path, "w");
  assert_non_null(f);
  fputs("{\"version\":\"1.0\",\"added_tokens\":[", f);
  static const char *const control[] = {"<unk>", "<s>", "</s>"};
  for (int i = 0; i < 3; i++)
    fprintf(f,
            "%s{\"id\":%d,\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
            "\"normalized\":false,\"special\":true}",
            i ? "," : "", i, control[i]);
  if (prefix)
    fprintf(
        f,
        "],\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"" MARK
        "\"},%s]}",
        replace);
  else
    fprintf(f, "],\"normalizer\":%s", replace);
  fprintf(f,
          ",\"pre_tokenizer\":null,\"post_processor\":null,\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{"
          "\"type\":\"Replace\",\"pattern\":{\"String\":\"" MARK
          "\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}%s]}",
          prefix ? ",{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}" : "");
  fputs(
      ",\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":\"<unk>\",\"continuing_subword_prefix\":"
      "null,\"end_of_word_suffix\":null,"
      "\"fuse_unk\":true,\"byte_fallback\":true,\"ignore_merges\":false,\"vocab\":{\"<unk>\":0,\"<s>\":1,\"</"
      "s>\":2",
      f);
  for (int b = 0; b < 256; b++) fprintf(f, ",\"<0x%02X>\":%d", b, 3 + b);
  for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) fprintf(f, ",\"%s\":%zu", pieces[i], 259 + i);
  fprintf(f, "},\"merges\":[%s]}}\n", merge_list);
  assert_int_equal(fclose(f), 0);
}

/* The same tokenizer as SentencePiece has it, sentencepiece_model.proto: pieces of text, score and type, and
 * what is set of the trainer and the normaliser. */
static void put_piece(FILE *f, const char *text, float score, int type) {
  const int n = (int)strlen(text);
  uint32_t bits;
  memcpy(&bits, &score, sizeof bits);
  fprintf(f, "\x0a%c\x0a%c%s\x15", 2 + n + 5 + 2, n, text);
  for (int i = 0; i < 4; i++) fputc((int)(bits >> (8 * i) & 255), f);
  fputc(0x18, f);
  fputc(type, f);
}

static void write_sp_model(const char *dir) {
  static const float score[] = {-8, -9, -10, -11, -12, -13, -14, -1, -2, -3, -4, -5, -6, -7};
  static const char trainer[] = "\x12\x05\x18\x02\x98\x02\x01"; /* BPE, byte_fallback */
  static const char normalizer[] =
      "\x1a\x06\x18\x01\x20\x00\x28\x01"; /* dummy prefix, spaces kept and escaped */
  char path[700], name[8];
  snprintf(path, sizeof path, "%s/tokenizer.model", dir);
  FILE *f = fopen(path, "wb");
  assert_non_null(f);
  put_piece(f, "<unk>", 0, 2);
  put_piece(f, "<s>", 0, 3);
  put_piece(f, "</s>", 0, 3);
  for (int b = 0; b < 256; b++) {
    snprintf(name, sizeof name, "<0x%02X>", b);
    put_piece(f, name, 0, 6);
  }
  for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) put_piece(f, pieces[i], score[i], 1);
  fwrite(trainer, 1, sizeof trainer - 1, f);
  fwrite(normalizer, 1, sizeof normalizer - 1, f);
  assert_int_equal(fclose(f), 0);
}

static void copy_file(const char *from, const char *dir, const char *name) {
  char path[700];
  size_t n;
  static char bytes[1 << 20];
  FILE *f = fopen(from, "rb");
  assert_non_null(f);
  n = fread(bytes, 1, sizeof bytes, f);
  assert_true(n > 0 && n < sizeof bytes);
  fclose(f);
  snprintf(path, sizeof path, "%s/%s", dir, name);
  e2e_write(path, bytes, n);
}

static void test_sentencepiece(void **state) {
  (void)state;
  static const char *const texts[] = {"the and the", " the  and", "thethe\\nand x", "\xc3\xa9t\xc3\xa9 then",
                                      "tandhe</s>a"};
  static const char *const files[] = {"config.json", "model.safetensors", "tokenizer.json",
                                      "tokenizer_config.json"};
  static const char config[] = "{\"bos_token\":\"<s>\",\"eos_token\":\"</s>\",\"add_bos_token\":true}\n";
  char dir[600], out[600], path[700];
  snprintf(dir, sizeof dir, "%s", quantize_path("spm"));
  assert_int_equal(mkdir(dir, 0700), 0);
  copy_file(MODELS "hf-smollm/config.json", dir, files[0]);
  copy_file(MODELS "hf-smollm/model.safetensors", dir, files[1]);
  snprintf(path, sizeof path, "%s/%s", dir, files[3]);
  e2e_write(path, config, sizeof config - 1);
  snprintf(out, sizeof out, "%s", quantize_path("spm.gguf"));
  for (int prefix = 0; prefix < 2; prefix++) {
    write_spm(dir, prefix, merges);
    e2e_result r = e2e("quantize -q --force %s %s", dir, out);
    e2e_want_status(&r, 0, "SentencePiece");
    e2e_free(&r);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
      for (int special = 0; special < 2; special++) {
        const char *more = special ? "--special --bos" : "";
        e2e_result a = e2e("tokenize %s -p '%s' --model %s", more, texts[i], dir),
                   b = e2e("tokenize %s -p '%s' --model %s", more, texts[i], out);
        e2e_want_status(&a, 0, dir);
        e2e_want_status(&b, 0, out);
        assert_string_equal(a.out, b.out);
        if (i == 0 && prefix && !special) assert_string_equal(a.out, "268 272 268\n"); /* whole words */
        e2e_free(&a);
        e2e_free(&b);
      }
  }
  /* the model file itself, in the place of tokenizer.json */
  snprintf(path, sizeof path, "%s/%s", dir, files[2]);
  assert_int_equal(unlink(path), 0);
  write_sp_model(dir);
  e2e_result whole = e2e("quantize -q --force %s %s", dir, out);
  e2e_want_status(&whole, 0, "tokenizer.model");
  e2e_free(&whole);
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    e2e_result a = e2e("tokenize -p '%s' --model %s", texts[i], dir),
               b = e2e("tokenize -p '%s' --model %s", texts[i], out);
    e2e_want_status(&a, 0, dir);
    assert_string_equal(a.out, b.out);
    if (i == 0) assert_string_equal(a.out, "268 272 268\n");
    e2e_free(&a);
    e2e_free(&b);
  }
  snprintf(path, sizeof path, "%s/tokenizer.model", dir);
  assert_int_equal(unlink(path), 0);
  /* merges that no scores would give */
  write_spm(dir, true, "[\"h\",\"e\"],[\"" MARK "\",\"t\"]");
  e2e_result r = e2e("quantize --force %s %s", dir, out);
  e2e_want_status(&r, 1, "other merges");
  e2e_want_in(r.err, "its merges are not all that scores would give", "other merges");
  e2e_free(&r);
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    snprintf(path, sizeof path, "%s/%s", dir, files[i]);
    assert_int_equal(unlink(path), 0);
  }
  assert_int_equal(rmdir(dir), 0);
  assert_int_equal(quantize_sweep(), 1);
}

/* ---- pre-tokenisers ---- */

/* A llama of one layer whose weights are all 1, for a vocabulary of n. */
static void write_ones(const char *dir, int n) {
  static const struct {
    const char *name;
    int rows, cols; /* rows 0: a vector */
  } tensors[] = {{"model.norm", 0, 32},
                 {"model.layers.0.input_layernorm", 0, 32},
                 {"model.layers.0.post_attention_layernorm", 0, 32},
                 {"model.layers.0.self_attn.q_proj", 32, 32},
                 {"model.layers.0.self_attn.k_proj", 16, 32},
                 {"model.layers.0.self_attn.v_proj", 16, 32},
                 {"model.layers.0.self_attn.o_proj", 32, 32},
                 {"model.layers.0.mlp.gate_proj", 32, 32},
                 {"model.layers.0.mlp.up_proj", 32, 32},
                 {"model.layers.0.mlp.down_proj", 32, 32}};
  char path[700], head[4096];
  size_t at = (size_t)n * 32 * 2;
  int len = snprintf(
      head, sizeof head,
      "{\"model.embed_tokens.weight\":{\"dtype\":\"BF16\",\"shape\":[%d,32],\"data_offsets\":[0,%zu]}", n,
      at);
  for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
    char shape[32];
    const size_t bytes = (size_t)(tensors[i].rows ? tensors[i].rows : 1) * (size_t)tensors[i].cols * 2;
    if (tensors[i].rows)
      snprintf(shape, sizeof shape, "%d,%d", tensors[i].rows, tensors[i].cols);
    else
      snprintf(shape, sizeof shape, "%d", tensors[i].cols);
    len += snprintf(head + len, sizeof head - (size_t)len,
                    ",\"%s.weight\":{\"dtype\":\"BF16\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                    tensors[i].name, shape, at, at + bytes);
    at += bytes;
  }
  len += snprintf(head + len, sizeof head - (size_t)len, "}");
  assert_true(len > 0 && len < (int)sizeof head - 8);
  while (len % 8) head[len++] = ' ';
  snprintf(path, sizeof path, "%s/model.safetensors", dir);
  FILE *f = fopen(path, "wb");
  assert_non_null(f);
  for (int i = 0; i < 8; i++) fputc(i < 4 ? len >> (8 * i) & 255 : 0, f);
  fwrite(head, 1, (size_t)len, f);
  for (size_t i = 0; i < at; i += 2) fwrite("\x80\x3f", 1, 2, f);
  assert_int_equal(fclose(f), 0);
  snprintf(path, sizeof path, "%s/config.json", dir);
  f = fopen(path, "w");
  assert_non_null(f);
  fprintf(f,
          "{\"model_type\":\"llama\",\"hidden_size\":32,\"num_hidden_layers\":1,\"num_attention_heads\":2,"
          "\"num_key_value_heads\":1,"
          "\"intermediate_size\":32,\"max_position_embeddings\":64,\"rms_norm_eps\":1e-5,\"vocab_size\":%d,"
          "\"tie_word_embeddings\":true}\n",
          n);
  assert_int_equal(fclose(f), 0);
}

/* Tokenizers of published kinds: those GGUF has a name for get it and give the same ids, the others are
 * refused. */
static void test_pre(void **state) {
  (void)state;
  static const struct {
    const char *kind, *pre; /* pre NULL: refused, and how */
    const char *says;
  } cases[] = {{"gpt2", "gpt-2", NULL},
               {"llama3", "llama-bpe", NULL},
               {"qwen2", "qwen2", NULL},
               {"o200k", "gpt-4o", NULL},
               {"starcoder", "smollm", NULL},
               {"added", NULL, "rewrites texts in a way that GGUF has no word for"},
               {"roberta", NULL, "cuts texts in a way that GGUF has no name for"},
               {"t5", NULL, "neither byte-level BPE nor SentencePiece's"},
               {"mistral", NULL, "how it treats spaces"}};
  static const char text[] =
      "I don't think HE'LL pay 12345.67!!\n\n  caf\xc3\xa9 na\xc3\xafve \xe4\xb8\xad\xe6\x96\x87\tx_y == "
      "Z\xc3\x89 \r\n end  ";
  static const char *const files[] = {"config.json", "model.safetensors", "tokenizer.json"};
  char dir[600], out[600], path[700], line[2048];
  snprintf(dir, sizeof dir, "%s", quantize_path("pre"));
  snprintf(out, sizeof out, "%s", quantize_path("pre.gguf"));
  assert_int_equal(mkdir(dir, 0700), 0);
  write_ones(dir, 1200); /* more rows than any of them has tokens */
  for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
    snprintf(path, sizeof path, "tests/vectors/tokenizer/hf/%s/tokenizer.json", cases[k].kind);
    copy_file(path, dir, files[2]);
    e2e_result r = e2e("quantize --force %s %s", dir, out);
    e2e_want_status(&r, cases[k].pre ? 0 : 1, cases[k].kind);
    if (!cases[k].pre) {
      e2e_want_in(r.err, cases[k].says, cases[k].kind);
      e2e_free(&r);
      continue;
    }
    e2e_free(&r);
    weir_gguf *g = quantize_open(out);
    weir_err e = {0};
    weir_str pre;
    assert_int_equal(weir_gguf_str(g, "tokenizer.ggml.pre", &pre, &e), WEIR_OK);
    if (!weir_str_eq(pre, weir_str_of(cases[k].pre)))
      fail_msg("%s: %.*s, want %s", cases[k].kind, (int)pre.len, pre.data, cases[k].pre);
    weir_gguf_close(g);
    e2e_result ids[2];
    for (int i = 0; i < 2; i++) {
      snprintf(line, sizeof line, "tokenize --model %s", i ? out : dir);
      ids[i] = e2e_run(&(e2e_run_opts){.line = line, .in = text});
      e2e_want_status(&ids[i], 0, line);
    }
    assert_true(ids[0].out_len > 40);
    assert_string_equal(ids[0].out, ids[1].out);
    e2e_free(&ids[0]);
    e2e_free(&ids[1]);
  }
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    snprintf(path, sizeof path, "%s/%s", dir, files[i]);
    assert_int_equal(unlink(path), 0);
  }
  assert_int_equal(rmdir(dir), 0);
  assert_int_equal(quantize_sweep(), 1);
}

/* ---- directories with one thing changed ---- */

static const char *const smollm_files[] = {"config.json", "generation_config.json", "model.safetensors",
                                           "tokenizer.json", "tokenizer_config.json"};
enum { N_SMOLLM_FILES = sizeof smollm_files / sizeof *smollm_files };

/* A copy of hf-smollm, byte-level BPE, in a directory of that name in the tests' folder. */
static void copy_smollm(const char *name, char dir[600]) {
  char path[700];
  snprintf(dir, 600, "%s", quantize_path(name));
  assert_int_equal(mkdir(dir, 0700), 0);
  for (int i = 0; i < N_SMOLLM_FILES; i++) {
    snprintf(path, sizeof path, MODELS "hf-smollm/%s", smollm_files[i]);
    copy_file(path, dir, smollm_files[i]);
  }
}

static void remove_smollm(const char *dir) {
  char path[700];
  for (int i = 0; i < N_SMOLLM_FILES; i++) {
    snprintf(path, sizeof path, "%s/%s", dir, smollm_files[i]);
    assert_int_equal(unlink(path), 0);
  }
  assert_int_equal(rmdir(dir), 0);
}

/* Puts `to` in the place of the first `from` in a file of the directory. */
static void change(const char *dir, const char *name, const char *from, const char *to) {
  char path[700];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  char *text = e2e_read(path), *at = strstr(text, from);
  assert_non_null(at);
  FILE *f = fopen(path, "w");
  assert_non_null(f);
  fprintf(f, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
  assert_int_equal(fclose(f), 0);
  free(text);
}

/* Readers take some names for a word about the tokenizer: such a name is left out. */
static void test_names(void **state) {
  (void)state;
  static const struct {
    const char *dir, *name;
  } cases[] = {{"my-phi3-clone", "llama"}, {"Phi-3", "llama"}, {"phi", "phi"}};
  char dir[600], out[600];
  snprintf(out, sizeof out, "%s", quantize_path("named.gguf"));
  for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
    copy_smollm(cases[k].dir, dir);
    e2e_result r = e2e("quantize -q --force %s %s", dir, out);
    e2e_want_status(&r, 0, cases[k].dir);
    e2e_free(&r);
    assert_string_equal(hparams_of(out).name, cases[k].name);
    char line[700];
    e2e_result ids[2];
    for (int i = 0; i < 2; i++) {
      snprintf(line, sizeof line, "tokenize --special --model %s", i ? out : dir);
      ids[i] = e2e_run(&(e2e_run_opts){.line = line, .in = "<|im_end|>\nx"});
      e2e_want_status(&ids[i], 0, line);
    }
    e2e_want_in(ids[0].out, "287 ", dir);
    if (strcmp(ids[0].out, ids[1].out) != 0)
      fail_msg("%s: ids %s, want %s", cases[k].dir, ids[1].out, ids[0].out);
    e2e_free(&ids[0]);
    e2e_free(&ids[1]);
    remove_smollm(dir);
  }
  assert_int_equal(quantize_sweep(), 1);
}

/* Added tokens that take more of a text than what they spell. */
static void test_added(void **state) {
  (void)state;
  static const struct {
    const char *from, *to, *says;
  } cases[] = {
      {"\"lstrip\":false", "\"lstrip\":true", "<|endoftext|>\" takes the white space before it (lstrip)"},
      {"\"rstrip\":false", "\"rstrip\":true", "<|endoftext|>\" takes the white space behind it (rstrip)"},
      {"\"single_word\":false", "\"single_word\":true",
       "<|endoftext|>\" counts between words alone (single_word)"},
  };
  char dir[600], out[600];
  snprintf(out, sizeof out, "%s", quantize_path("added.gguf"));
  for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
    copy_smollm("added", dir);
    change(dir, "tokenizer.json", cases[k].from, cases[k].to);
    e2e_result r = e2e("quantize %s %s", dir, out);
    e2e_want_status(&r, 1, cases[k].to);
    e2e_want_in(r.err, cases[k].says, cases[k].to);
    e2e_free(&r);
    remove_smollm(dir);
  }
  assert_int_equal(quantize_sweep(), 0);
}

/* Ids that end a text: as many as the format has keys for, the others are told. */
static void test_ends(void **state) {
  (void)state;
  static const struct {
    const char *ids;
    int eos, eot, eom;
    const char *warns; /* NULL: of none */
  } cases[] = {{"[285]", 285, -1, -1, NULL},
               {"[285,287]", 285, 287, -1, NULL},
               {"[285,287,286]", 285, 287, 286, NULL},
               {"[285,287,286,4]", 285, 287, 286, "ends a text too, for which GGUF has no key left"}};
  static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                     "tokenizer.ggml.eom_token_id"};
  char dir[600], out[600], path[700], text[200];
  snprintf(out, sizeof out, "%s", quantize_path("ends.gguf"));
  for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
    copy_smollm("ends", dir);
    snprintf(path, sizeof path, "%s/generation_config.json", dir);
    snprintf(text, sizeof text, "{\"eos_token_id\":%s}", cases[k].ids);
    e2e_write(path, text, strlen(text));
    e2e_result r = e2e("quantize --force %s %s", dir, out);
    e2e_want_status(&r, 0, cases[k].ids);
    if (cases[k].warns)
      e2e_want_in(r.err, cases[k].warns, cases[k].ids);
    else
      assert_null(strstr(r.err, "ends a text too"));
    e2e_free(&r);
    weir_gguf *g = quantize_open(out);
    const int want[] = {cases[k].eos, cases[k].eot, cases[k].eom};
    for (int i = 0; i < 3; i++) {
      int64_t got;
      weir_err e = {0};
      assert_int_equal(weir_gguf_i64(g, keys[i], -1, &got, &e), WEIR_OK);
      if (got != want[i]) fail_msg("%s: %s is %d, want %d", cases[k].ids, keys[i], (int)got, want[i]);
    }
    weir_gguf_close(g);
    remove_smollm(dir);
  }
  assert_int_equal(quantize_sweep(), 1);
}

/* None of a directory's own files is replaced, under whatever name, however the directory is named. */
static void test_own_files(void **state) {
  (void)state;
  char dir[600], config[700], weights[700], link[600], line[1400];
  copy_smollm("own", dir);
  snprintf(config, sizeof config, "%s/config.json", dir);
  snprintf(weights, sizeof weights, "%s/model.safetensors", dir);
  snprintf(link, sizeof link, "%s", quantize_path("link.gguf"));
  assert_int_equal(symlink(weights, link), 0);
  const char *const in[] = {dir, config, weights}, *const out[] = {config, weights, link};
  for (int i = 0; i < 3; i++)
    for (int k = 0; k < 3; k++) {
      snprintf(line, sizeof line, "quantize --force %s %s", in[i], out[k]);
      e2e_result r = e2e("%s", line);
      e2e_want_status(&r, 2, line);
      const bool same = !strcmp(in[i], out[k]) || (in[i] == weights && out[k] == link);
      e2e_want_in(r.err, same ? "are the same file" : "is one of the files of", line);
      e2e_free(&r);
    }
  /* a new file beside them is fine */
  snprintf(line, sizeof line, "quantize -q %s %s/new.gguf", dir, dir);
  quantize_must_run(line);
  snprintf(line, sizeof line, "%s/new.gguf", dir);
  assert_int_equal(unlink(line), 0);
  remove_smollm(dir);
  assert_int_equal(quantize_sweep(), 1);
}

static void test_refused(void **state) {
  (void)state;
  static const struct {
    const char *dir, *says;
  } bad[] = {
      {"hf-mistral",
       "hf-mistral: sliding windows of this pattern: not something weir writes into a GGUF file yet"},
      {"hf-qwen3moe-plain", "hf-qwen3moe-plain: norm_topk_prob false: not something weir writes"},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    e2e_result r = e2e("quantize " MODELS "%s %s", bad[i].dir, quantize_path("no.gguf"));
    e2e_want_status(&r, 1, bad[i].dir);
    e2e_want_in(r.err, bad[i].says, bad[i].dir);
    e2e_free(&r);
  }
  assert_int_equal(quantize_sweep(), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_logits),        cmocka_unit_test(test_hparams), cmocka_unit_test(test_text),
      cmocka_unit_test(test_sentencepiece), cmocka_unit_test(test_pre),     cmocka_unit_test(test_names),
      cmocka_unit_test(test_added),         cmocka_unit_test(test_ends),    cmocka_unit_test(test_own_files),
      cmocka_unit_test(test_refused),
  };
  return cmocka_run_group_tests(tests, quantize_setup, quantize_teardown);
}
