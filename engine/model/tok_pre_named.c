/* SPDX-License-Identifier: Apache-2.0 */
/* The pre-tokenisers that GGUF files name (tokenizer.ggml.pre): patterns as the models' published
 * tokenizer.json files (and GPT-2's encoder.py) have them, in Oniguruma's syntax, stage by stage. Owns
 * nothing; any thread. */
#include "base/buf.h"
#include "model/tok_spec.h"

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"

#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
const char weir_gpt2_pattern[] = GPT2;

/* OpenAI's cl100k_base, with {1,3} digits for Llama 3 and one for Qwen 2 */
#define CL100K(digits)                                         \
  CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" digits  \
               "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+" \
               "|\\s+(?!\\S)|\\s+"

#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define REST  " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
/* o200k_base; Mistral's Tekken has it without contractions and with single digits */
#define O200K(contraction, digits)                                                                   \
  "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" contraction "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER \
  "*" contraction "|\\p{N}" digits "|" REST

#define DEEPSEEK3                                                                                       \
  "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| " \
  "?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* DeepSeek LLM's letters: those with case, as its tokenizer.json lists them. */
#define CASED                                                                                     \
  "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}"                  \
  "\\x{1c4}-\\x{293}\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}"          \
  "\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}"                   \
  "\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}"                        \
  "\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}"                  \
  "\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}"                  \
  "\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}"         \
  "\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}"          \
  "\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}"                  \
  "\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}"                   \
  "\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}\\x{212a}-\\x{212d}" \
  "\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}\\x{214e}\\x{2183}"          \
  "\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}"          \
  "\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}\\x{a771}-\\x{a787}"                  \
  "\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}"                  \
  "\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}"              \
  "\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}"          \
  "\\x{1e900}-\\x{1e943}"
/* Its CJK, written [U+4E00-U+9FA5, U+0800-U+4E00, U+AC00-U+D7FF] there. */
#define CJK               "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"
#define ASCII_PUNCTUATION "!-/:-@\\[-`{-~"

enum { MAX_STAGES = 6 };

typedef struct pattern_family {
  const char *stage[MAX_STAGES]; /* NULL behind the last; what a stage does not match stays a piece */
  bool ignore_merges, adds_bos;
  bool contiguous_first; /* the first stage's matches join (Punctuation "Contiguous") */
} pattern_family;

static const pattern_family gpt2 = {.stage = {GPT2}};
static const pattern_family llama3 = {.stage = {CL100K("{1,3}")}, .ignore_merges = true, .adds_bos = true};
static const pattern_family dbrx = {.stage = {CL100K("{1,3}")}};
static const pattern_family glm4 = {.stage = {CL100K("{1,3}")}, .ignore_merges = true};
static const pattern_family qwen2 = {.stage = {CL100K("")}};
static const pattern_family qwen35 = {
    .stage = {CONTRACTIONS
              "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|"
              "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}};
static const pattern_family gpt4o = {.stage = {O200K(CONTRACTIONS "?", "{1,3}")}};
static const pattern_family tekken = {.stage = {O200K("", "")}, .ignore_merges = true, .adds_bos = true};
/* Digits one by one, then GPT-2's pattern: StarCoder, SmolLM, Command R. */
static const pattern_family digits = {.stage = {"\\p{N}", GPT2}};
/* Punctuation in runs, GPT-2's pattern, digits by three */
static const pattern_family falcon = {.stage = {"[" ASCII_PUNCTUATION "\\p{P}]", GPT2, "[0-9][0-9][0-9]"},
                                      .contiguous_first = true};
static const pattern_family chameleon = {
    .stage = {"<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", "([\\t\\n]|    |  )", "\\p{N}",
              "[" ASCII_PUNCTUATION "\\p{P}]", GPT2},
    .adds_bos = true};
static const pattern_family deepseek_v3 = {
    .stage = {"\\p{N}{1,3}", "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+", DEEPSEEK3}};
static const pattern_family deepseek_coder = {
    .stage = {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", CJK, "\\p{N}"}};
static const pattern_family deepseek_llm = {
    .stage = {"[\\r\\n]", "\\s?[" CASED "]+",
              "\\s?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+",
              "\\s+$", CJK, "\\p{N}+"}};

/* tokenizer.ggml.pre, as llama.cpp assigns them to models. */
static const struct {
  const char *name;
  const pattern_family *family;
} names[] = {
    {"gpt-2", &gpt2},
    {"default", &gpt2},
    {"mpt", &gpt2},
    {"phi-2", &gpt2},
    {"olmo", &gpt2},
    {"jais", &gpt2},
    {"trillion", &gpt2},
    {"granite-docling", &gpt2},
    {"gigachat", &gpt2},
    {"a.x-4.0", &gpt2},
    {"mellum", &gpt2},
    {"modern-bert", &gpt2},
    {"llama-bpe", &llama3},
    {"llama3", &llama3},
    {"llama-v3", &llama3},
    {"falcon3", &llama3},
    {"falcon-h1", &llama3},
    {"pixtral", &llama3},
    {"midm-2.0", &llama3},
    {"lfm2", &llama3},
    {"dbrx", &dbrx},
    {"smaug-bpe", &dbrx},
    {"chatglm-bpe", &dbrx},
    {"glm4", &glm4},
    {"qwen2", &qwen2},
    {"deepseek-r1-qwen", &qwen2},
    {"megrez", &qwen2},
    {"stablelm2", &qwen2},
    {"hunyuan", &qwen2},
    {"grok-2", &qwen2},
    {"solar-open", &qwen2},
    {"qwen35", &qwen35},
    {"gpt-4o", &gpt4o},
    {"llama4", &gpt4o},
    {"minimax-m2", &gpt4o},
    {"tekken", &tekken},
    {"starcoder", &digits},
    {"refact", &digits},
    {"smollm", &digits},
    {"command-r", &digits},
    {"codeshell", &digits},
    {"exaone", &digits},
    {"minerva-7b", &digits},
    {"falcon", &falcon},
    {"chameleon", &chameleon},
    {"deepseek-llm", &deepseek_llm},
    {"deepseek-coder", &deepseek_coder},
    {"deepseek-v3", &deepseek_v3},
    {"hunyuan-dense", &deepseek_v3},
    {"joyai-llm", &deepseek_v3},
};
enum { N_NAMES = sizeof names / sizeof names[0] };

static weir_status find_family(weir_str name, const pattern_family **out, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  weir_status st = WEIR_OK;
  weir_buf known = {0};
  for (int i = 0; i < N_NAMES; i++) {
    *out = names[i].family;
    if (weir_str_eq(name, weir_str_of(names[i].name))) return WEIR_OK;
  }
  for (int i = 0; i < N_NAMES; i++) WEIR_TRY(weir_buf_printf(&known, e, " %s", names[i].name));
  st = weir_fail(e, WEIR_EUNSUP, "pre-tokenizer %s is not supported (known:%s)", weir_str_show(name, shown),
                 known.data);
out:
  weir_buf_fini(&known);
  return st;
}

weir_status weir_tok_spec_named_pre(weir_tok_spec *s, weir_str name, bool *adds_bos, weir_err *e) {
  weir_status st = WEIR_OK;
  const pattern_family *f = NULL;
  WEIR_TRY(find_family(name, &f, e));
  for (int i = 0; i < MAX_STAGES && f->stage[i]; i++)
    WEIR_TRY(weir_tok_spec_add_pre(
        s,
        (weir_pre_step){
            .kind = WEIR_PRE_SPLIT,
            .pattern = weir_str_of(f->stage[i]),
            .is_regex = true,
            .behavior = i == 0 && f->contiguous_first ? WEIR_SPLIT_CONTIGUOUS : WEIR_SPLIT_ISOLATED},
        e));
  s->ignore_merges = f->ignore_merges;
  *adds_bos = f->adds_bos;
out:
  return st;
}
