/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: any bytes as a SentencePiece model. What parses is put to work: its character map, and the
 * segmentation of a text, which must give back every byte where nothing is unknown. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/charsmap.h"
#include "model/sp_model.h"
#include "model/tok_spm.h"
#include "model/tok_unigram.h"
#include "model/tok_vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok, const char *what) {
  if (ok) return;
  fprintf(stderr, "fuzz_sp_model: %s\n", what);
  abort();
}

static const char text[] =
    "\342\226\201ab abab\342\226\201c\303\251\303\251\344\270\255 \360\237\230\200\xff\xe2\x96"
    "e\314\201 \357\254\201[x][x <s>aaaaaaaaaaaaaaaa";

/* Pieces stand for themselves, byte tokens for a byte, unk for anything. */
static void check_ids(const weir_sp_model *m, const char *p, size_t len, const weir_tokens *ids) {
  size_t at = 0;
  for (int32_t i = 0; i < ids->n; i++) {
    const int32_t id = ids->id[i];
    require(id >= 0 && id < m->n, "an id out of range");
    if (id == m->unk) return;
    const weir_str s = m->piece[id];
    if (m->type[id] == WEIR_TOKEN_BYTE) {
      at++;
      continue;
    }
    require(m->type[id] != WEIR_TOKEN_CONTROL, "text became a control token");
    require(at <= len && s.len <= len - at && memcmp(p + at, s.data, s.len) == 0, "the ids are another text");
    at += s.len;
  }
  require(at == len, "the ids are a text of another length");
}

static void segment(const weir_sp_model *m, const char *p, size_t len) {
  weir_spm *spm;
  weir_unigram *unigram;
  weir_tokens ids = {0};
  weir_err e = {0};
  if (weir_spm_create(m->piece, m->score, m->type, m->n, m->unk, &spm, &e) == WEIR_OK) {
    if (weir_spm_encode(spm, p, len, &ids, &e) == WEIR_OK) check_ids(m, p, len, &ids);
    weir_spm_destroy(spm);
  }
  ids.n = 0;
  if (weir_unigram_create(m->piece, m->score, m->type, m->n, m->unk, m->byte_fallback, &unigram, &e) ==
      WEIR_OK) {
    if (weir_unigram_encode(unigram, p, len, &ids, &e) == WEIR_OK) check_ids(m, p, len, &ids);
    weir_unigram_destroy(unigram);
  }
  weir_tokens_fini(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  weir_sp_model m;
  weir_charsmap *map;
  weir_err e = {0};
  if (weir_sp_model_parse(data, size, &m, &e) != WEIR_OK) {
    require(e.msg[0] != 0 && !strchr(e.msg, '\n'), "a failure without a clean message");
    return 0;
  }
  segment(&m, text, sizeof text - 1);
  if (weir_charsmap_create(m.charsmap, &map, &e) == WEIR_OK) {
    for (int spm = 0; spm < 2; spm++) {
      weir_buf out = {0};
      require(weir_charsmap_run(map, text, sizeof text - 1, spm, SIZE_MAX, &out, &e) == WEIR_OK, e.msg);
      segment(&m, out.data, out.len);
      weir_buf_fini(&out);
    }
    weir_charsmap_destroy(map);
  }
  weir_sp_model_fini(&m);
  return 0;
}
