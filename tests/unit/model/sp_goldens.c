/* SPDX-License-Identifier: Apache-2.0 */
/* Reader of sp_goldens.txt. Owns one vocabulary and one text at a time; runs inside cmocka tests. */
#include "sp_goldens.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#define GOLDENS "tests/vectors/tokenizer/sp_goldens.txt"

/* "\xNN" back to bytes, up to a space or the end; returns behind it. */
static char *unescape(char *p, char *out, size_t room, size_t *len) {
  *len = 0;
  for (; *p && *p != ' ' && *p != '\n'; p++) {
    unsigned byte = (unsigned char)*p;
    if (*p == '\\') {
      if (sscanf(p, "\\x%2x", &byte) != 1) fail_msg("cannot read %s", p);
      p += 3;
    }
    assert_true(*len < room);
    out[(*len)++] = (char)(unsigned char)byte;
  }
  return p;
}

static void read_vocabulary(FILE *f, char *line, int line_bytes, sp_vocabulary *v) {
  int fallback;
  size_t used = 0;
  if (sscanf(line, "m %15s %d %d %d", v->kind, &v->unk, &fallback, &v->n) != 4) fail_msg("%s", line);
  v->byte_fallback = fallback;
  assert_in_range(v->n, 1, SP_MAX_PIECES);
  for (int32_t i = 0; i < v->n; i++) {
    int type = 0, at = 0;
    size_t len;
    if (!fgets(line, line_bytes, f) || sscanf(line, "p %d %lf %n", &type, &v->score[i], &at) != 2)
      fail_msg("cannot read piece %d: %s", (int)i, line);
    unescape(line + at, v->store + used, sizeof v->store - used, &len);
    v->piece[i] = (weir_str){v->store + used, len};
    v->score_f32[i] = (float)v->score[i];
    v->type[i] = (uint8_t)type;
    used += len;
  }
}

int sp_goldens_visit(const char *kind, const sp_visitor *visitor) {
  static char line[4096], text[1024];
  static sp_vocabulary v;
  static sp_text t;
  int rows = 0;
  bool open = false;
  FILE *f = fopen(GOLDENS, "r");
  if (!f) fail_msg("cannot open %s", GOLDENS);
  while (fgets(line, sizeof line, f)) {
    if (line[0] == 'm') {
      if (open) visitor->end(visitor->self);
      read_vocabulary(f, line, sizeof line, &v);
      open = strcmp(v.kind, kind) == 0;
      if (open) visitor->begin(visitor->self, &v);
    } else if (line[0] == 't' && open) {
      size_t len;
      char *p = unescape(line + 2, text, sizeof text, &len);
      t.text = (weir_str){text, len};
      for (t.n = 0; *p == ' '; t.n++) {
        assert_true(t.n < SP_MAX_IDS);
        t.id[t.n] = (int32_t)strtol(p, &p, 10);
      }
      visitor->text(visitor->self, &v, &t);
      rows++;
    }
  }
  if (open) visitor->end(visitor->self);
  fclose(f);
  return rows;
}
