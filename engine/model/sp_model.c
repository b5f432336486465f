/* SPDX-License-Identifier: Apache-2.0 */
/* Parser of SentencePiece model files. Owns the arrays of each model; may call base; any thread.
 *
 * A protocol buffer is a row of fields: a varint of field number * 8 + wire type, then a varint (0), 8 bytes
 * (1), a length and so many bytes (2) or 4 bytes (5). Groups (3, 4) are not used by this format. As in gguf.c
 * a number from the file is compared with what is left before it is used. Fields that are not known are
 * stepped over, as the format wants: SentencePiece adds some with most releases, all about training. */
#include "model/sp_model.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "model/hparams.h"
#include "model/piece_trie.h"
#include "model/tok_vocab.h"

/* Field numbers of sentencepiece_model.proto. */
enum { MODEL_PIECES = 1, MODEL_TRAINER = 2, MODEL_NORMALIZER = 3, MODEL_DENORMALIZER = 5 };
enum { PIECE_TEXT = 1, PIECE_SCORE = 2, PIECE_TYPE = 3 };
enum {
  TRAINER_MODEL_TYPE = 3,
  TRAINER_SPACE_IS_SUFFIX = 24,
  TRAINER_BYTE_FALLBACK = 35,
  TRAINER_UNK_SURFACE = 44,
  TRAINER_BOS_PIECE = 46,
  TRAINER_EOS_PIECE = 47,
  TRAINER_PAD_PIECE = 48
};
enum { NORM_NAME = 1, NORM_CHARSMAP = 2, NORM_DUMMY_PREFIX = 3, NORM_EXTRA_SPACES = 4, NORM_ESCAPE = 5 };
enum { MODEL_TYPE_WORD = 3, MODEL_TYPE_CHAR = 4 };

typedef enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 } wire_type;

typedef struct reader {
  const uint8_t *base, *at, *end;
  const char *what; /* the message being read, for errors */
} reader;

typedef struct field {
  uint32_t number;
  wire_type wire;
  uint64_t value; /* of a varint, or of 32 or 64 bits */
  weir_str bytes;
} field;

/* ---- fields ---- */

static weir_status fail_at(const reader *r, weir_err *e, const char *what) {
  return weir_fail(e, WEIR_EFORMAT, "SentencePiece model: %s at byte %zu: %s", r->what,
                   (size_t)(r->at - r->base), what);
}

static bool take_varint(reader *r, uint64_t *out) {
  *out = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    if (r->at == r->end) return false;
    const uint8_t b = *r->at++;
    if (shift == 63 && b > 1) return false; /* the tenth byte has one bit left */
    *out |= (uint64_t)(b & 0x7f) << shift;
    if (b < 0x80) return true;
  }
  return false;
}

static bool take_fixed(reader *r, size_t n, uint64_t *out) {
  if (n > (size_t)(r->end - r->at)) return false;
  *out = 0;
  for (size_t i = 0; i < n; i++) *out |= (uint64_t)r->at[i] << (8 * i);
  r->at += n;
  return true;
}

static weir_status take_field(reader *r, field *f, weir_err *e) {
  uint64_t key, n;
  bool ok;
  *f = (field){0};
  if (!take_varint(r, &key)) return fail_at(r, e, "the file ends inside a field's number");
  if (key >> 3 == 0 || key >> 3 > 0x1fffffff) return fail_at(r, e, "a field number out of range");
  f->number = (uint32_t)(key >> 3);
  f->wire = (wire_type)(key & 7);
  switch (f->wire) {
    case WIRE_VARINT: ok = take_varint(r, &f->value); break;
    case WIRE_64: ok = take_fixed(r, 8, &f->value); break;
    case WIRE_32: ok = take_fixed(r, 4, &f->value); break;
    case WIRE_BYTES:
      ok = take_varint(r, &n) && n <= (uint64_t)(r->end - r->at);
      if (!ok) break;
      f->bytes = (weir_str){(const char *)r->at, (size_t)n};
      r->at += (size_t)n;
      break;
    default: return fail_at(r, e, "a field of a wire type that the format does not use");
  }
  return ok ? WEIR_OK : fail_at(r, e, "a field runs past the end");
}

/* A field whose kind is known has the wire type that goes with it. */
static weir_status want(const reader *r, const field *f, wire_type wire, weir_err *e) {
  if (f->wire == wire) return WEIR_OK;
  return weir_fail(e, WEIR_EFORMAT, "SentencePiece model: %s: field %" PRIu32 " has wire type %d (want %d)",
                   r->what, f->number, (int)f->wire, (int)wire);
}

static weir_status want_bool(const reader *r, const field *f, bool *out, weir_err *e) {
  const weir_status st = want(r, f, WIRE_VARINT, e);
  if (st == WEIR_OK) *out = f->value != 0;
  return st;
}

static weir_status want_str(const reader *r, const field *f, weir_str *out, weir_err *e) {
  const weir_status st = want(r, f, WIRE_BYTES, e);
  if (st == WEIR_OK) *out = f->bytes;
  return st;
}

static reader inside(const reader *r, const field *f, const char *what) {
  const uint8_t *p = (const uint8_t *)f->bytes.data;
  return (reader){r->base, p, p + f->bytes.len, what};
}

/* ---- messages ---- */

static weir_status read_piece(weir_sp_model *m, int32_t i, reader r, weir_err *e) {
  weir_status st = WEIR_OK;
  char shown[WEIR_STR_SHOW_BYTES];
  field f;
  m->type[i] = WEIR_TOKEN_NORMAL;
  while (r.at < r.end) {
    WEIR_TRY(take_field(&r, &f, e));
    if (f.number == PIECE_TEXT) {
      WEIR_TRY(want_str(&r, &f, &m->piece[i], e));
    } else if (f.number == PIECE_SCORE) {
      WEIR_TRY(want(&r, &f, WIRE_32, e));
      const uint32_t bits = (uint32_t)f.value;
      memcpy(&m->score[i], &bits, sizeof bits);
    } else if (f.number == PIECE_TYPE) {
      WEIR_TRY(want(&r, &f, WIRE_VARINT, e));
      if (f.value < WEIR_TOKEN_NORMAL || f.value > WEIR_TOKEN_BYTE)
        return weir_fail(e, WEIR_EFORMAT, "SentencePiece model: piece %" PRId32 " has type %" PRIu64, i,
                         f.value);
      m->type[i] = (uint8_t)f.value;
    }
  }
  if (m->piece[i].len == 0)
    return weir_fail(e, WEIR_EFORMAT, "SentencePiece model: piece %" PRId32 " is empty", i);
  if (!isfinite(m->score[i]))
    return weir_fail(e, WEIR_EFORMAT, "SentencePiece model: piece %" PRId32 " %s: its score is no number", i,
                     weir_str_show(m->piece[i], shown));
out:
  return st;
}

/* What find_pieces needs beyond the model. */
typedef struct named_pieces {
  weir_str bos, eos, pad;
} named_pieces;

static weir_status read_trainer(weir_sp_model *m, named_pieces *names, reader r, weir_err *e) {
  weir_status st = WEIR_OK;
  field f;
  while (r.at < r.end) {
    WEIR_TRY(take_field(&r, &f, e));
    switch (f.number) {
      case TRAINER_MODEL_TYPE:
        WEIR_TRY(want(&r, &f, WIRE_VARINT, e));
        if (f.value == MODEL_TYPE_WORD || f.value == MODEL_TYPE_CHAR)
          return weir_fail(e, WEIR_EUNSUP,
                           "SentencePiece model: model type %s is not supported (known: UNIGRAM BPE)",
                           f.value == MODEL_TYPE_WORD ? "WORD" : "CHAR");
        if (f.value != WEIR_SP_UNIGRAM && f.value != WEIR_SP_BPE)
          return weir_fail(e, WEIR_EFORMAT, "SentencePiece model: model type %" PRIu64, f.value);
        m->kind = (weir_sp_kind)f.value;
        break;
      case TRAINER_SPACE_IS_SUFFIX: WEIR_TRY(want_bool(&r, &f, &m->space_is_suffix, e)); break;
      case TRAINER_BYTE_FALLBACK: WEIR_TRY(want_bool(&r, &f, &m->byte_fallback, e)); break;
      case TRAINER_UNK_SURFACE: WEIR_TRY(want_str(&r, &f, &m->unk_surface, e)); break;
      case TRAINER_BOS_PIECE: WEIR_TRY(want_str(&r, &f, &names->bos, e)); break;
      case TRAINER_EOS_PIECE: WEIR_TRY(want_str(&r, &f, &names->eos, e)); break;
      case TRAINER_PAD_PIECE: WEIR_TRY(want_str(&r, &f, &names->pad, e)); break;
      default: break; /* how it was trained */
    }
  }
out:
  return st;
}

static weir_status read_normalizer(weir_sp_model *m, reader r, weir_err *e) {
  weir_status st = WEIR_OK;
  field f;
  while (r.at < r.end) {
    WEIR_TRY(take_field(&r, &f, e));
    switch (f.number) {
      case NORM_NAME: WEIR_TRY(want_str(&r, &f, &m->normalizer_name, e)); break;
      case NORM_CHARSMAP: WEIR_TRY(want_str(&r, &f, &m->charsmap, e)); break;
      case NORM_DUMMY_PREFIX: WEIR_TRY(want_bool(&r, &f, &m->adds_dummy_prefix, e)); break;
      case NORM_EXTRA_SPACES: WEIR_TRY(want_bool(&r, &f, &m->removes_extra_spaces, e)); break;
      case NORM_ESCAPE: WEIR_TRY(want_bool(&r, &f, &m->escapes_spaces, e)); break;
      default: break; /* the rules' source */
    }
  }
out:
  return st;
}

/* Most files have the message, without rules. */
static weir_status check_denormalizer(reader r, weir_err *e) {
  weir_status st = WEIR_OK;
  field f;
  while (r.at < r.end) {
    WEIR_TRY(take_field(&r, &f, e));
    if (f.number != NORM_CHARSMAP) continue;
    WEIR_TRY(want(&r, &f, WIRE_BYTES, e));
    if (f.bytes.len)
      return weir_fail(e, WEIR_EUNSUP,
                       "SentencePiece model: a denormalizer (denormalizer_spec) is not supported");
  }
out:
  return st;
}

/* ---- the whole ---- */

static int32_t find_control(const weir_sp_model *m, weir_str name) {
  for (int32_t i = 0; i < m->n; i++)
    if (m->type[i] == WEIR_TOKEN_CONTROL && weir_str_eq(m->piece[i], name)) return i;
  return -1;
}

static weir_status find_pieces(weir_sp_model *m, const named_pieces *names, weir_err *e) {
  bool has_byte[256] = {false};
  char shown[WEIR_STR_SHOW_BYTES];
  for (int32_t i = 0; i < m->n; i++) {
    if (m->type[i] == WEIR_TOKEN_UNKNOWN) {
      if (m->unk >= 0)
        return weir_fail(e, WEIR_EFORMAT,
                         "SentencePiece model: pieces %" PRId32 " and %" PRId32 " are both unknown", m->unk,
                         i);
      m->unk = i;
    }
    if (m->type[i] != WEIR_TOKEN_BYTE) continue;
    const int32_t byte = weir_piece_byte(m->piece[i]);
    if (byte < 0 || !m->byte_fallback)
      return weir_fail(e, WEIR_EFORMAT, "SentencePiece model: piece %" PRId32 " %s is a byte%s", i,
                       weir_str_show(m->piece[i], shown),
                       byte < 0 ? " that is none" : " without byte_fallback");
    has_byte[byte] = true;
  }
  for (int b = 0; b < 256 && m->byte_fallback; b++)
    if (!has_byte[b])
      return weir_fail(e, WEIR_EFORMAT, "SentencePiece model: byte_fallback without a piece <0x%02X>",
                       (unsigned)b);
  if (m->unk < 0 && !m->byte_fallback)
    return weir_fail(e, WEIR_EFORMAT, "SentencePiece model: no piece is of type unknown");
  m->bos = find_control(m, names->bos);
  m->eos = find_control(m, names->eos);
  m->pad = find_control(m, names->pad);
  return WEIR_OK;
}

static weir_status count_pieces(reader r, weir_sp_model *m, weir_err *e) {
  weir_status st = WEIR_OK;
  field f;
  while (r.at < r.end) {
    WEIR_TRY(take_field(&r, &f, e));
    if (f.number != MODEL_PIECES) continue;
    if (m->n == WEIR_MAX_VOCAB)
      return weir_fail(e, WEIR_EFORMAT, "SentencePiece model: more than %d pieces", WEIR_MAX_VOCAB);
    m->n++;
  }
  if (m->n == 0) return weir_fail(e, WEIR_EFORMAT, "SentencePiece model: no pieces: not such a file?");
out:
  return st;
}

weir_status weir_sp_model_parse(const void *data, size_t len, weir_sp_model *m, weir_err *e) {
  weir_status st = WEIR_OK;
  named_pieces names = {weir_str_of("<s>"), weir_str_of("</s>"), weir_str_of("<pad>")};
  reader r = {data, data, (const uint8_t *)data + len, "the model"};
  field f;
  int32_t n = 0;
  *m = (weir_sp_model){.kind = WEIR_SP_UNIGRAM,
                       .unk = -1,
                       .bos = -1,
                       .eos = -1,
                       .pad = -1,
                       .adds_dummy_prefix = true,
                       .removes_extra_spaces = true,
                       .escapes_spaces = true,
                       .unk_surface = weir_str_of(" \342\201\207 ")};
  WEIR_TRY(count_pieces(r, m, e));
  WEIR_TRY(WEIR_NEW((size_t)m->n, &m->piece, e));
  WEIR_TRY(WEIR_NEW((size_t)m->n, &m->score, e));
  WEIR_TRY(WEIR_NEW((size_t)m->n, &m->type, e));
  while (r.at < r.end) {
    WEIR_TRY(take_field(&r, &f, e));
    const bool is_message = f.number == MODEL_PIECES || f.number == MODEL_TRAINER ||
                            f.number == MODEL_NORMALIZER || f.number == MODEL_DENORMALIZER;
    if (is_message) WEIR_TRY(want(&r, &f, WIRE_BYTES, e));
    switch (f.number) {
      case MODEL_PIECES:
        WEIR_TRY(read_piece(m, n, inside(&r, &f, "a piece"), e));
        n++;
        break;
      case MODEL_TRAINER: WEIR_TRY(read_trainer(m, &names, inside(&r, &f, "trainer_spec"), e)); break;
      case MODEL_NORMALIZER: WEIR_TRY(read_normalizer(m, inside(&r, &f, "normalizer_spec"), e)); break;
      case MODEL_DENORMALIZER: WEIR_TRY(check_denormalizer(inside(&r, &f, "denormalizer_spec"), e)); break;
      default: break;
    }
  }
  WEIR_TRY(find_pieces(m, &names, e));
out:
  if (st != WEIR_OK) weir_sp_model_fini(m);
  return st;
}

void weir_sp_model_fini(weir_sp_model *m) {
  free(m->piece);
  free(m->score);
  free(m->type);
  *m = (weir_sp_model){0};
}
