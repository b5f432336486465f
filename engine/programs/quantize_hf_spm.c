/* SPDX-License-Identifier: Apache-2.0 */
/* SentencePiece BPE, whose scores GGUF wants. A tokenizer.model has them. A tokenizer.json has a list of
 * merges instead, made from the scores by taking every way to put a piece together of two others, the piece
 * of the best score first. Only the order of scores counts, and it is that of the merges; that the list was
 * made so is checked, as another list would mean another segmentation. Owns nothing beyond its calls; main
 * thread. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/tok_spec.h"
#include "programs/quantize_hf.h"

static weir_status refuse(const char *why, weir_err *e) {
  return weir_fail(e, WEIR_EUNSUP, "its tokenizer is not one that GGUF has a word for: %s", why);
}

static bool is(weir_str s, const char *text) { return weir_str_eq(s, weir_str_of(text)); }

static bool is_space_mark(const weir_norm_step *n) {
  return n->kind == WEIR_NORM_REPLACE && !n->is_regex && is(n->pattern, " ") &&
         is(n->content, WEIR_METASPACE);
}

/* Spaces become U+2581, and a text begins with one (*prefix) or not; nothing else happens to it. */
static weir_status read_spaces(const weir_tok_spec *s, bool *prefix, weir_err *e) {
  const weir_norm_step *n = s->norm;
  const weir_pre_step *p = s->pre;
  *prefix = false;
  if (s->n_norm == 2 && n[0].kind == WEIR_NORM_PREPEND && is(n[0].content, WEIR_METASPACE) &&
      is_space_mark(&n[1]) && s->n_pre == 0) { /* Llama 2 */
    *prefix = true;
    return WEIR_OK;
  }
  /* no space is left where Gemma's file says to cut at spaces */
  const bool idle =
      s->n_pre == 0 || (s->n_pre == 1 && p->kind == WEIR_PRE_SPLIT && !p->is_regex && is(p->pattern, " "));
  if (s->n_norm == 1 && is_space_mark(n) && idle) return WEIR_OK;
  if (s->n_norm == 0 && s->n_pre == 1 && p->kind == WEIR_PRE_METASPACE && is(p->content, WEIR_METASPACE) &&
      !p->split && p->scheme != WEIR_PREPEND_FIRST) {
    *prefix = p->scheme == WEIR_PREPEND_ALWAYS;
    return WEIR_OK;
  }
  return refuse("how it treats spaces", e);
}

/* Pieces of the model and their ids. */
static weir_status map_pieces(const weir_tok_spec *s, weir_strmap *map, weir_err *e) {
  const weir_status st = weir_strmap_init(map, (size_t)s->n, e);
  for (int32_t i = 0; st == WEIR_OK && i < s->n; i++)
    if (s->in_model[i] && s->text[i].len) weir_strmap_add(map, s->text[i], i);
  return st;
}

static bool starts_character(char c) { return ((unsigned char)c & 0xc0) != 0x80; }

/* In how many ways pieces are put together of two others. */
static int64_t count_splits(const weir_tok_spec *s, const weir_strmap *map) {
  int64_t n = 0;
  for (int32_t i = 0; i < s->n; i++) {
    const weir_str t = s->text[i];
    if (!s->in_model[i] || s->type[i] == WEIR_TOKEN_BYTE) continue;
    for (size_t k = 1; k < t.len; k++)
      n += starts_character(t.data[k]) && weir_strmap_get(map, (weir_str){t.data, k}) >= 0 &&
           weir_strmap_get(map, (weir_str){t.data + k, t.len - k}) >= 0;
  }
  return n;
}

/* score[n]: the first merge's piece has the highest. */
static weir_status score_pieces(const weir_tok_spec *s, const weir_strmap *map, float *score, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_buf piece = {0};
  int32_t last = -1, groups = 0;
  for (int32_t i = 0; i < s->n; i++) score[i] = 0;
  for (int64_t i = 0; i < s->n_merges; i++) {
    weir_buf_truncate(&piece, 0);
    WEIR_TRY(weir_buf_put(&piece, s->merge[i].left.data, s->merge[i].left.len, e));
    WEIR_TRY(weir_buf_put(&piece, s->merge[i].right.data, s->merge[i].right.len, e));
    const int32_t id = weir_strmap_get(map, (weir_str){piece.data, piece.len});
    if (id < 0) {
      st = refuse("a merge without its piece", e);
      goto out;
    }
    if (id == last) continue;
    if (score[id] != 0) {
      st = refuse("its merges are not in the order of scores", e);
      goto out;
    }
    score[id] = (float)-(++groups); /* exact: below 2^24 */
    last = id;
  }
  for (int32_t i = 0; i < s->n; i++)
    if (score[i] == 0) score[i] = (float)-(groups + 1); /* never the result of a merge */
out:
  weir_buf_fini(&piece);
  return st;
}

/* From a SentencePiece model file: it has the scores. */
static weir_status take_scores(const weir_tok_spec *s, float *score, bool *prefix, weir_err *e) {
  const weir_norm_step *n = s->norm;
  if (s->n_norm != 1 || n->kind != WEIR_NORM_SPACES || n->squeeze || s->n_pre != 0)
    return refuse("it rewrites texts before it cuts them", e);
  *prefix = n->content.len > 0;
  for (int32_t i = 0; i < s->n; i++) score[i] = (float)s->score[i];
  return WEIR_OK;
}

weir_status weir_quantize_hf_scores(const weir_tok_spec *s, float *score, bool *prefix, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_strmap map = {0};
  if (s->kind == WEIR_TOK_SPM) return take_scores(s, score, prefix, e);
  if (s->kind != WEIR_TOK_BPE || !s->byte_fallback || s->ignore_merges)
    return refuse("neither byte-level BPE nor SentencePiece's", e);
  WEIR_TRY(read_spaces(s, prefix, e));
  WEIR_TRY(map_pieces(s, &map, e));
  if (count_splits(s, &map) != s->n_merges) {
    st = refuse("its merges are not all that scores would give", e);
    goto out;
  }
  WEIR_TRY(score_pieces(s, &map, score, e));
out:
  weir_strmap_fini(&map);
  return st;
}
