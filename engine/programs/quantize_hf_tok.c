/* SPDX-License-Identifier: Apache-2.0 */
/* The tokenizer of a Hugging Face directory as tokenizer.* keys of GGUF. Of byte-level BPE the format names
 * the pre-tokenisers instead of describing them, so that only those can be told whose steps are the ones of a
 * name; SentencePiece's scores are worked out in quantize_hf_spm.c. Owns nothing beyond its calls; main
 * thread. */
#define _GNU_SOURCE /* strcasestr */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"
#include "model/hf.h"
#include "model/tok_spec.h"
#include "programs/quantize_hf.h"

#define KEY(name) "tokenizer.ggml." name

static bool same_step(const weir_pre_step *a, const weir_pre_step *b) {
  return a->kind == b->kind && a->is_regex == b->is_regex && a->behavior == b->behavior &&
         a->invert == b->invert && weir_str_eq(a->pattern, b->pattern) && weir_str_eq(a->content, b->content);
}

/* The name of the pre-tokeniser with exactly these steps; NULL when none has them. */
static weir_status find_pre(const weir_tok_spec *s, const char **out, weir_err *e) {
  /* one for each set of steps that model/tok_pre_named.c knows; of equal ones the most general */
  static const char *const names[] = {"gpt-2",        "llama-bpe",      "dbrx",        "glm4",     "qwen2",
                                      "qwen35",       "gpt-4o",         "tekken",      "smollm",   "falcon",
                                      "deepseek-llm", "deepseek-coder", "deepseek-v3", "chameleon"};
  *out = NULL;
  for (size_t i = 0; i < sizeof names / sizeof *names && !*out; i++) {
    weir_tok_spec named = {0};
    bool adds_bos;
    const weir_status st = weir_tok_spec_named_pre(&named, weir_str_of(names[i]), &adds_bos, e);
    bool same = st == WEIR_OK && named.n_pre == s->n_pre && named.ignore_merges == s->ignore_merges;
    for (int32_t k = 0; same && k < s->n_pre; k++) same = same_step(&named.pre[k], &s->pre[k]);
    weir_tok_spec_fini(&named);
    if (st != WEIR_OK) return st;
    if (same) *out = names[i];
  }
  return WEIR_OK;
}

static weir_status check_byte_level(const weir_tok_spec *s, const char **pre, weir_err *e) {
  for (int32_t i = 0; i < s->n_norm; i++) {
    if (s->norm[i].kind != WEIR_NORM_NFC)
      return weir_fail(e, WEIR_EUNSUP, "its tokenizer rewrites texts in a way that GGUF has no word for");
    weir_log(WEIR_LOG_WARN, "the tokenizer composes characters (NFC), for which GGUF has no word: left out");
  }
  const weir_status st = find_pre(s, pre, e);
  if (st != WEIR_OK || *pre) return st;
  return weir_fail(e, WEIR_EUNSUP, "its tokenizer cuts texts in a way that GGUF has no name for");
}

/* GGUF has no word for tokens that take more of a text than what they spell. */
static weir_status check_added(const weir_tok_spec *s, weir_err *e) {
  char shown[WEIR_STR_SHOW_BYTES];
  for (int32_t i = 0; i < s->n_added; i++) {
    const weir_tok_added *a = &s->added[i];
    const char *how = a->lstrip        ? "takes the white space before it (lstrip)"
                      : a->rstrip      ? "takes the white space behind it (rstrip)"
                      : a->single_word ? "counts between words alone (single_word)"
                                       : NULL;
    if (how)
      return weir_fail(e, WEIR_EUNSUP, "its tokenizer is not one that GGUF has a word for: token %s %s",
                       weir_str_show(a->text, shown), how);
  }
  return WEIR_OK;
}

/* llama.cpp takes a name with one of these for the tokenizer of Phi-3, whose tokens take white space. */
static bool names_phi3(const char *name) { return strcasestr(name, "phi-3") || strcasestr(name, "phi3"); }

/* The directory's name, unless it would change what readers make of the tokenizer. */
static weir_status write_name(const weir_mfile *m, const weir_tok_spec *s, weir_gguf_writer *w, weir_err *e) {
  weir_hparams h;
  const weir_status st = weir_hparams_read(m, &h, e);
  if (st != WEIR_OK) return st;
  const char *name = h.name, *arch = weir_arch_name(h.arch);
  if (names_phi3(name) && !(h.arch == WEIR_ARCH_PHI3 && s->byte_level)) {
    if (names_phi3(arch)) return WEIR_OK; /* SentencePiece: better none */
    name = arch;
  }
  return weir_gguf_writer_str(w, "general.name", weir_str_of(name), e);
}

/* Every row of the embedding has a token: those the tokenizer leaves out get a name that nobody writes. */
static weir_status write_tokens(const weir_tok_spec *s, int32_t n, bool *prefix, weir_gguf_writer *w,
                                weir_err *e) {
  enum { PAD_BYTES = 24 };
  weir_status st = WEIR_OK;
  weir_str *text = NULL;
  int32_t *type = NULL;
  float *score = NULL;
  char(*pad)[PAD_BYTES] = NULL;
  WEIR_TRY(WEIR_NEW((size_t)n, &text, e));
  WEIR_TRY(WEIR_NEW((size_t)n, &type, e));
  WEIR_TRY(WEIR_NEW((size_t)n, &pad, e));
  for (int32_t i = 0; i < n; i++) {
    const bool there = i < s->n && s->text[i].len > 0;
    if (!there) snprintf(pad[i], PAD_BYTES, "[PAD%d]", i);
    text[i] = there ? s->text[i] : weir_str_of(pad[i]);
    type[i] = there ? s->type[i] : WEIR_TOKEN_UNUSED;
  }
  if (!s->byte_level) {
    WEIR_TRY(
        WEIR_NEW((size_t)n, &score, e)); /* of the rows behind the last token: 0, and nothing makes them */
    WEIR_TRY(weir_quantize_hf_scores(s, score, prefix, e));
    if (s->unk >= 0) type[s->unk] = WEIR_TOKEN_UNKNOWN;
    WEIR_TRY(weir_gguf_writer_f32s(w, KEY("scores"), score, n, e));
  }
  WEIR_TRY(weir_gguf_writer_strs(w, KEY("tokens"), text, n, e));
  WEIR_TRY(weir_gguf_writer_i32s(w, KEY("token_type"), type, n, e));
out:
  free(text);
  free(type);
  free(score);
  free(pad);
  return st;
}

static weir_status write_merges(const weir_tok_spec *s, weir_gguf_writer *w, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_buf all = {0};
  weir_str *merge = NULL;
  size_t at = 0;
  WEIR_TRY(WEIR_NEW((size_t)s->n_merges, &merge, e));
  for (int64_t i = 0; i < s->n_merges; i++) {
    const weir_tok_merge *m = &s->merge[i];
    WEIR_TRY(weir_buf_put(&all, m->left.data, m->left.len, e));
    WEIR_TRY(weir_buf_put(&all, " ", 1, e));
    WEIR_TRY(weir_buf_put(&all, m->right.data, m->right.len, e));
  }
  for (int64_t i = 0; i < s->n_merges; i++) { /* the buffer moves no more */
    merge[i] = (weir_str){all.data + at, s->merge[i].left.len + 1 + s->merge[i].right.len};
    at += merge[i].len;
  }
  st = weir_gguf_writer_strs(w, KEY("merges"), merge, s->n_merges, e);
out:
  free(merge);
  weir_buf_fini(&all);
  return st;
}

static weir_status write_ids(const weir_tok_spec *s, weir_gguf_writer *w, weir_err *e) {
  /* what ends a text beside eos: readers stop at all of them alike */
  static const char *const more[] = {KEY("eot_token_id"), KEY("eom_token_id")};
  weir_status st = WEIR_OK;
  char shown[WEIR_STR_SHOW_BYTES];
  size_t n_more = 0;
  if (s->bos >= 0) WEIR_TRY(weir_gguf_writer_u32(w, KEY("bos_token_id"), (uint32_t)s->bos, e));
  if (s->eos >= 0) WEIR_TRY(weir_gguf_writer_u32(w, KEY("eos_token_id"), (uint32_t)s->eos, e));
  for (int32_t i = 0; i < s->n_end; i++) {
    if (s->end[i] == s->eos) continue;
    if (n_more < sizeof more / sizeof *more)
      WEIR_TRY(weir_gguf_writer_u32(w, more[n_more++], (uint32_t)s->end[i], e));
    else
      weir_log(WEIR_LOG_WARN, "token %s ends a text too, for which GGUF has no key left: left out",
               weir_str_show(s->text[s->end[i]], shown));
  }
  WEIR_TRY(weir_gguf_writer_bool(w, KEY("add_bos_token"), s->adds_bos, e));
  if (s->adds_eos) WEIR_TRY(weir_gguf_writer_bool(w, KEY("add_eos_token"), true, e));
  if (s->chat_template.len) WEIR_TRY(weir_gguf_writer_str(w, "tokenizer.chat_template", s->chat_template, e));
out:
  return st;
}

weir_status weir_quantize_hf_tokenizer(const weir_mfile *m, weir_gguf_writer *w, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_tok_spec s = {0};
  weir_tensor_info embed;
  const char *pre = NULL;
  bool prefix = false;
  if (!weir_mfile_find(m, "token_embd.weight", &embed))
    return weir_fail(e, WEIR_EFORMAT, "tensor token_embd.weight is missing");
  WEIR_TRY(weir_tok_spec_from_hf(&s, weir_mfile_hf(m), e));
  if (s.n > embed.dim[1]) {
    st = weir_fail(e, WEIR_EFORMAT, "its tokenizer has %d tokens, its embedding %lld rows", s.n,
                   (long long)embed.dim[1]);
    goto out;
  }
  if (s.byte_level) WEIR_TRY(check_byte_level(&s, &pre, e));
  WEIR_TRY(check_added(&s, e));
  WEIR_TRY(write_name(m, &s, w, e));
  WEIR_TRY(weir_gguf_writer_str(w, KEY("model"), weir_str_of(s.byte_level ? "gpt2" : "llama"), e));
  WEIR_TRY(weir_gguf_writer_str(w, KEY("pre"), weir_str_of(pre ? pre : "default"), e));
  WEIR_TRY(write_tokens(&s, (int32_t)embed.dim[1], &prefix, w, e));
  if (s.byte_level) {
    WEIR_TRY(write_merges(&s, w, e));
  } else {
    WEIR_TRY(weir_gguf_writer_bool(w, KEY("add_space_prefix"), prefix, e));
    if (s.unk >= 0) WEIR_TRY(weir_gguf_writer_u32(w, KEY("unknown_token_id"), (uint32_t)s.unk, e));
  }
  WEIR_TRY(write_ids(&s, w, e));
out:
  weir_tok_spec_fini(&s);
  return st;
}
