/* SPDX-License-Identifier: Apache-2.0 */
/* Unigram segmentation by Viterbi's algorithm over byte positions. Owns the trie, scores and scratch; may
 * call the trie, utf8 and the list of ids; one thread at a time.
 *
 * Both libraries that made such vocabularies walk alike (sentencepiece 0.2.3, unigram_model.cc,
 * EncodeOptimized; tokenizers, models/unigram/model.rs, encode_optimized) and differ in arithmetic:
 * sentencepiece adds floats and takes the sum so far off all open paths when it is beyond 1e5, tokenizers
 * adds doubles. On ties, which short pieces in different order make daily, the last bit decides, so both are
 * done as they are. */
#include "model/tok_unigram.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/hparams.h"
#include "model/piece_trie.h"
#include "model/tok_bpe.h"
#include "model/tok_vocab.h"
#include "model/utf8.h"

enum { SCRATCH_KEPT = 1 << 16 };            /* positions; a larger text's scratch is given back */
static const double unknown_penalty = 10.0; /* kUnkPenalty of both libraries */
static const double reset_beyond = 1e5;     /* kScoreResetThreshold of sentencepiece */

/* The best segmentation of text[0..position). */
typedef struct best_path {
  double score;
  int32_t id;    /* of its last piece; -1: an unknown character */
  int32_t start; /* where that begins; -1: not reached */
} best_path;

struct weir_unigram {
  weir_trie trie;
  double *score; /* [n] */
  double unknown_score;
  bool keeps_float, is_json;
  int32_t unk;
  int32_t byte_id[256]; /* -1: none */
  best_path *best;      /* scratch [cap] */
  size_t cap;
};

static weir_status begin(int32_t n, int32_t unk, weir_unigram **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_unigram *u = NULL;
  *out = NULL;
  if (n < 1 || n > WEIR_MAX_VOCAB)
    return weir_fail(e, WEIR_EFORMAT, "a vocabulary of %" PRId32 " pieces (limit %d)", n, WEIR_MAX_VOCAB);
  if (unk < -1 || unk >= n)
    return weir_fail(e, WEIR_EFORMAT, "the unknown token is %" PRId32 " of %" PRId32, unk, n);
  WEIR_TRY(WEIR_NEW(1, &u, e));
  u->unk = unk;
  for (int b = 0; b < 256; b++) u->byte_id[b] = -1;
  WEIR_TRY(WEIR_NEW((size_t)n, &u->score, e));
  *out = u;
  u = NULL;
out:
  weir_unigram_destroy(u);
  return st;
}

static weir_status check_score(double score, int32_t i, weir_err *e) {
  return isfinite(score) ? WEIR_OK
                         : weir_fail(e, WEIR_EFORMAT, "token %" PRId32 ": its score is no number", i);
}

/* The least is that of NORMAL pieces. A USER piece scores by its length: above all others, whose scores are
 * logarithms of probabilities, and one above two halves. */
static void set_scores(weir_unigram *u, const weir_str *piece, const float *score, const uint8_t *type,
                       int32_t n) {
  float least = FLT_MAX;
  for (int32_t i = 0; i < n; i++)
    if (type[i] == WEIR_TOKEN_NORMAL && score[i] < least) least = score[i];
  u->unknown_score = (double)(float)((double)least - unknown_penalty);
  for (int32_t i = 0; i < n; i++)
    u->score[i] =
        type[i] == WEIR_TOKEN_USER ? (double)(float)(0.1 * ((double)piece[i].len - 1)) : (double)score[i];
}

weir_status weir_unigram_create(const weir_str *piece, const float *score, const uint8_t *type, int32_t n,
                                int32_t unk, bool byte_fallback, weir_unigram **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_unigram *u = NULL;
  int32_t *which = NULL, n_which = 0;
  *out = NULL;
  WEIR_TRY(begin(n, unk, &u, e));
  u->keeps_float = true;
  WEIR_TRY(WEIR_NEW((size_t)n, &which, e));
  for (int32_t i = 0; i < n; i++) {
    WEIR_TRY(check_score((double)score[i], i, e));
    if (type[i] == WEIR_TOKEN_NORMAL || type[i] == WEIR_TOKEN_USER) which[n_which++] = i;
    if (type[i] != WEIR_TOKEN_BYTE || !byte_fallback) continue;
    const int32_t byte = weir_piece_byte(piece[i]);
    if (byte < 0) {
      char shown[WEIR_STR_SHOW_BYTES];
      st = weir_fail(e, WEIR_EFORMAT, "token %" PRId32 " is of type byte but spelled %s", i,
                     weir_str_show(piece[i], shown));
      goto out;
    }
    u->byte_id[byte] = i;
  }
  set_scores(u, piece, score, type, n);
  WEIR_TRY(weir_trie_init(&u->trie, piece, which, n_which, e));
  *out = u;
  u = NULL;
out:
  free(which);
  weir_unigram_destroy(u);
  return st;
}

/* ---- numbers as the tokenizers library reads them ----
 *
 * Its JSON parser (serde_json without "float_roundtrip", de.rs, f64_from_parts) takes the digits of a number
 * as one integer, makes that a double and multiplies or divides it by a power of ten: two roundings, and one
 * number in four comes out a bit off. Which of two paths of equal pieces wins hangs on that bit ("0" and
 * "00", in either order). The digits are found again as the shortest that read back the same, which is what
 * such files are written with. */

enum { POWERS = 309, MAX_DIGITS = 17 };

static double read_by_parts(double exact, const double *power) {
  char text[32];
  int digits = 15; /* up to so many always come back */
  do {
    snprintf(text, sizeof text, "%.*e", digits - 1, fabs(exact));
  } while (strtod(text, NULL) != fabs(exact) && ++digits <= MAX_DIGITS);
  const char *const e = strchr(text, 'e');
  if (!e) return exact;
  uint64_t significand = 0;
  int exponent = (int)strtol(e + 1, NULL, 10), zeros = 0;
  bool point = false;
  for (const char *p = text; p < e; p++) {
    if (*p < '0' || *p > '9') {
      point = true;
      continue;
    }
    if (point) exponent--;
    zeros++;
    if (*p == '0') continue;
    for (; zeros > 1; zeros--) significand *= 10;
    significand = significand * 10 + (uint64_t)(*p - '0');
    zeros = 0;
  }
  exponent += zeros; /* at the end they are not written */
  double v = (double)significand;
  if (exponent >= 0) {
    v *= power[exponent < POWERS ? exponent : POWERS - 1];
  } else {
    for (; - exponent >= POWERS; exponent += POWERS - 1) v /= power[POWERS - 1];
    v /= power[-exponent];
  }
  return exact < 0 ? -v : v;
}

static weir_status make_powers(double **out, weir_err *e) {
  const weir_status st = WEIR_NEW(POWERS, out, e);
  for (int i = 0; st == WEIR_OK && i < POWERS; i++) {
    char text[8];
    snprintf(text, sizeof text, "1e%d", i);
    (*out)[i] = strtod(text, NULL);
  }
  return st;
}

weir_status weir_unigram_create_json(const weir_str *piece, const double *score, int32_t n, int32_t unk,
                                     bool byte_fallback, weir_unigram **out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_unigram *u = NULL;
  int32_t *which = NULL;
  double least = INFINITY, *power = NULL;
  *out = NULL;
  WEIR_TRY(begin(n, unk, &u, e));
  u->is_json = true;
  WEIR_TRY(make_powers(&power, e));
  WEIR_TRY(WEIR_NEW((size_t)n, &which, e));
  for (int32_t i = 0; i < n; i++) {
    WEIR_TRY(check_score(score[i], i, e));
    which[i] = i;
    u->score[i] = read_by_parts(score[i], power);
    if (u->score[i] < least) least = u->score[i];
    const int32_t byte = byte_fallback ? weir_piece_byte(piece[i]) : -1;
    if (byte >= 0) u->byte_id[byte] = i;
  }
  u->unknown_score = least - unknown_penalty;
  WEIR_TRY(weir_trie_init(&u->trie, piece, which, n, e));
  *out = u;
  u = NULL;
out:
  free(which);
  free(power);
  weir_unigram_destroy(u);
  return st;
}

void weir_unigram_destroy(weir_unigram *u) {
  if (!u) return;
  weir_trie_fini(&u->trie);
  free(u->score);
  free(u->best);
  free(u);
}

/* ---- the best path ---- */

/* `score`, then `so_far` in the arithmetic of the library. A double's sum of two floats rounds to their sum
 * as floats, because it has more than twice their bits. */
static void offer(const weir_unigram *u, int32_t end, double score, double so_far, int32_t id,
                  int32_t start) {
  best_path *const p = &u->best[end];
  const double sum = u->keeps_float ? (double)(float)(score + so_far) : score + so_far;
  if (p->start < 0 || sum > p->score) *p = (best_path){sum, id, start};
}

/* Takes the sum at `start` off all paths that reach it or go beyond; `far` is the farthest end so far. */
static void reset_scores(best_path *best, int32_t start, int32_t far) {
  const double off = best[start].score;
  for (int32_t i = start; i <= far; i++)
    if (i == start || best[i].start >= 0) best[i].score = (double)(float)(best[i].score - off);
}

static void find_best(weir_unigram *u, const char *text, int32_t len) {
  best_path *const best = u->best;
  int32_t char_bytes, far = 0;
  best[0] = (best_path){.id = -1};
  for (int32_t i = 1; i <= len; i++) best[i] = (best_path){.id = -1, .start = -1};
  for (int32_t start = 0; start < len; start += char_bytes) {
    bool char_is_piece = false;
    if (u->keeps_float && fabs(best[start].score) > reset_beyond) reset_scores(best, start, far);
    const double so_far = best[start].score;
    if (weir_utf8_next(text + start, (size_t)(len - start), &char_bytes) == WEIR_UTF8_CHAR) {
      int32_t node = 0;
      for (int32_t i = start; i < len; i++) {
        node = weir_trie_step(&u->trie, node, (unsigned char)text[i]);
        if (node < 0) break;
        const int32_t id = u->trie.node[node].value;
        if (id < 0) continue;
        offer(u, i + 1, u->score[id], so_far, id, start);
        if (i + 1 > far) far = i + 1;
        if (i + 1 - start == char_bytes) char_is_piece = true;
      }
    }
    if (char_is_piece) continue;
    offer(u, start + char_bytes, u->unknown_score, so_far, -1, start);
    if (start + char_bytes > far) far = start + char_bytes;
  }
}

/* The chain of ends, from the last to the first, the other way round; returns the first. */
static int32_t reverse(best_path *best, int32_t len) {
  int32_t after = -1;
  for (int32_t at = len; at > 0;) {
    const int32_t start = best[at].start;
    best[at].start = after;
    after = at;
    at = start;
  }
  return after;
}

static bool push_bytes(const weir_unigram *u, const char *p, int32_t n, weir_tokens *io, weir_status *st,
                       weir_err *e) {
  for (int32_t i = 0; i < n; i++)
    if (u->byte_id[(unsigned char)p[i]] < 0) return false;
  for (int32_t i = 0; i < n && *st == WEIR_OK; i++)
    *st = weir_tokens_push(io, u->byte_id[(unsigned char)p[i]], e);
  return true;
}

static weir_status push_unknown(const weir_unigram *u, const char *p, int32_t n, weir_tokens *io,
                                weir_err *e) {
  weir_status st = WEIR_OK;
  char shown[WEIR_STR_SHOW_BYTES];
  /* tokenizers looks the joined run up once more: "<unk>" written out is such a run. */
  const int32_t id = u->is_json ? weir_trie_find(&u->trie, (weir_str){p, (size_t)n}) : -1;
  if (id >= 0) return weir_tokens_push(io, id, e);
  if (push_bytes(u, p, n, io, &st, e)) return st;
  if (u->unk >= 0) return weir_tokens_push(io, u->unk, e);
  return weir_fail(e, WEIR_EINVAL, "the vocabulary has no token for %s and none for the unknown",
                   weir_str_show((weir_str){p, (size_t)n}, shown));
}

static weir_status push_path(const weir_unigram *u, const char *text, int32_t len, weir_tokens *io,
                             weir_err *e) {
  weir_status st = WEIR_OK;
  int32_t at = 0, run = -1; /* where a run of unknown characters began */
  for (int32_t end = reverse(u->best, len); end > 0; end = u->best[end].start) {
    const int32_t id = u->best[end].id;
    if (id < 0 || id == u->unk) {
      if (run < 0) run = at;
    } else {
      if (run >= 0) WEIR_TRY(push_unknown(u, text + run, at - run, io, e));
      run = -1;
      WEIR_TRY(weir_tokens_push(io, id, e));
    }
    at = end;
  }
  if (run >= 0) WEIR_TRY(push_unknown(u, text + run, at - run, io, e));
out:
  return st;
}

weir_status weir_unigram_encode(weir_unigram *u, const char *text, size_t len, weir_tokens *io, weir_err *e) {
  weir_status st = WEIR_OK;
  const int32_t n_before = io->n;
  if (len == 0) return WEIR_OK;
  if (len > WEIR_TOKENIZE_MAX_BYTES)
    return weir_fail(e, WEIR_EINVAL, "a text of %zu bytes is too long (limit %d)", len,
                     WEIR_TOKENIZE_MAX_BYTES);
  if (len + 1 > u->cap) {
    free(u->best);
    u->best = NULL;
    u->cap = 0;
    WEIR_TRY(WEIR_NEW(len + 1, &u->best, e));
    u->cap = len + 1;
  }
  find_best(u, text, (int32_t)len);
  WEIR_TRY(push_path(u, text, (int32_t)len, io, e));
out:
  if (st != WEIR_OK) io->n = n_before;
  if (u->cap > SCRATCH_KEPT) {
    free(u->best);
    u->best = NULL;
    u->cap = 0;
  }
  return st;
}
