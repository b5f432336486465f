/* SPDX-License-Identifier: Apache-2.0 */
/* `weir tokenize`: text to token ids on one line, or a table, and ids back to text. Main thread. */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/mfile.h"
#include "model/tokenizer.h"
#include "programs/load.h"
#include "programs/options.h"
#include "programs/out.h"
#include "programs/prompts.h"

typedef struct tokenizing {
  const weir_config *c;
  weir_out out;
  weir_mfile *file;
  weir_tokenizer *tok;
  bool special;
} tokenizing;

static weir_status open_tokenizer(tokenizing *t, weir_err *e) {
  weir_status st = WEIR_OK;
  const char *path = weir_config_string(t->c, "model");
  weir_model_paths found = {{0}, {0}};
  if (!path) {
    WEIR_TRY(weir_find_models(t->c, &found, e));
    path = found.small;
  }
  WEIR_TRY(weir_mfile_open(path, &t->file, e));
  st = weir_tokenizer_create(t->file, &t->tok, e);
  if (st != WEIR_OK) weir_fail_ctx(e, st, "%s", path);
out:
  return st;
}

/* ---- text to ids ---- */

static weir_status encode(tokenizing *t, const weir_buf *text, weir_tokens *ids, weir_err *e) {
  if (weir_config_bool(t->c, "bos"))
    return weir_encode_prompt(t->tok, text->data, text->len, t->special, ids, e);
  return weir_tokenize(t->tok, text->data, text->len, t->special, ids, e);
}

static void print_ids(tokenizing *t, const weir_tokens *ids) {
  for (int32_t i = 0; i < ids->n; i++) weir_out_printf(&t->out, "%s%d", i ? " " : "", ids->id[i]);
  weir_out_printf(&t->out, "\n");
}

static void print_table(tokenizing *t, const weir_tokens *ids) {
  for (int32_t i = 0; i < ids->n; i++) {
    const weir_str s = weir_token_bytes(t->tok, ids->id[i]);
    weir_out_printf(&t->out, "%5d %7d  ", i, ids->id[i]);
    for (size_t k = 0; k < s.len; k++) {
      const unsigned char b = (unsigned char)s.data[k];
      if (b == '\n')
        weir_out_printf(&t->out, "\\n");
      else if (b == '\\')
        weir_out_printf(&t->out, "\\\\");
      else if (b < 0x20 || b >= 0x7f)
        weir_out_printf(&t->out, "\\x%02x", b);
      else
        weir_out_printf(&t->out, "%c", b);
    }
    weir_out_printf(&t->out, "%s\n", weir_tokenizer_is_special(t->tok, ids->id[i]) ? "  (special)" : "");
  }
}

static json_t *json_ids(const weir_tokens *ids) {
  json_t *a = json_array();
  for (int32_t i = 0; a && i < ids->n; i++) json_array_append_new(a, json_integer(ids->id[i]));
  return a;
}

static json_t *json_line(const weir_buf *text, const weir_tokens *ids) {
  return json_pack("{s:s, s:o, s:i, s:o}", "schema", "weir.tokenize.v1", "text",
                   weir_json_text(text->data, text->len), "n", ids->n, "ids", json_ids(ids));
}

static weir_status texts_to_ids(tokenizing *t, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_texts texts = {0};
  weir_tokens ids = {0};
  WEIR_TRY(weir_read_prompts(t->c, &texts, e));
  for (int32_t i = 0; i < texts.n; i++) {
    ids.n = 0;
    WEIR_TRY(encode(t, &texts.text[i], &ids, e));
    if (weir_config_bool(t->c, "json"))
      weir_out_json(&t->out, json_line(&texts.text[i], &ids));
    else if (weir_config_bool(t->c, "table"))
      print_table(t, &ids);
    else
      print_ids(t, &ids);
  }
out:
  weir_tokens_fini(&ids);
  weir_texts_fini(&texts);
  return st;
}

/* ---- ids to text ---- */

static const char separators[] = " ,\t\r\n[]";

static weir_status parse_ids(const tokenizing *t, const weir_buf *text, weir_tokens *ids, weir_err *e) {
  const int32_t n_vocab = weir_tokenizer_n_vocab(t->tok);
  for (char *p = text->data; *p;) {
    p += strspn(p, separators);
    if (!*p) break;
    char *end;
    const size_t len = strcspn(p, separators);
    errno = 0;
    const long id = strtol(p, &end, 10);
    if (end == p || errno || (*end && !strchr(separators, *end)))
      return weir_fail(e, WEIR_EINVAL, "\"%.*s\" is not a token id", len < 40 ? (int)len : 40, p);
    if (id < 0 || id >= n_vocab)
      return weir_fail(e, WEIR_EINVAL, "token id %ld is out of range, want 0 .. %d", id, n_vocab - 1);
    if (ids->n == ids->cap) {
      const int32_t cap = ids->cap ? 2 * ids->cap : 64;
      int32_t *grown = realloc(ids->id, (size_t)cap * sizeof *grown);
      if (!grown) return weir_fail(e, WEIR_ENOMEM, "cannot keep %d token ids", cap);
      ids->id = grown;
      ids->cap = cap;
    }
    ids->id[ids->n++] = (int32_t)id;
    p = end;
  }
  return WEIR_OK;
}

/* All inputs make one list: `weir tokenize --ids 1 2 3` has three operands. */
static weir_status read_ids(const tokenizing *t, weir_buf *text, weir_err *e) {
  weir_status st = WEIR_OK;
  int32_t n, m;
  const char *const *words = weir_config_operands(t->c, &n), *const *given =
                                                                 weir_config_strings(t->c, "prompt", &m);
  for (int32_t i = 0; i < m; i++) WEIR_TRY(weir_buf_printf(text, e, "%s ", given[i]));
  for (int32_t i = 0; i < n; i++) WEIR_TRY(weir_buf_printf(text, e, "%s ", words[i]));
  if (n + m == 0) WEIR_TRY(weir_read_file("-", text, e));
  if (memchr(text->data, 0, text->len)) st = weir_fail(e, WEIR_EINVAL, "the list of token ids holds a NUL");
out:
  return st;
}

static weir_status ids_to_text(tokenizing *t, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_buf in = {0}, text = {0};
  weir_tokens ids = {0};
  weir_detok detok = {0};
  WEIR_TRY(read_ids(t, &in, e));
  WEIR_TRY(parse_ids(t, &in, &ids, e));
  for (int32_t i = 0; i < ids.n; i++)
    WEIR_TRY(weir_detok_put(&detok, t->tok, ids.id[i], t->special, &text, e));
  WEIR_TRY(weir_detok_end(&detok, &text, e));
  if (weir_config_bool(t->c, "json")) {
    weir_out_json(&t->out, json_line(&text, &ids));
  } else if (weir_config_bool(t->c, "table")) {
    print_table(t, &ids);
  } else {
    weir_out_text(&t->out, text.data, text.len);
    if (t->out.terminal) weir_out_printf(&t->out, "\n");
  }
out:
  weir_tokens_fini(&ids);
  weir_buf_fini(&in);
  weir_buf_fini(&text);
  return st;
}

int weir_main_tokenize(const weir_config *c) {
  tokenizing t = {.c = c, .special = weir_config_bool(c, "special")};
  weir_err e = {0};
  int status = WEIR_EXIT_OK;
  weir_out_init(&t.out, c);
  weir_status st = open_tokenizer(&t, &e);
  if (st != WEIR_OK) {
    status = weir_tell(&e, WEIR_EXIT_FAILED);
  } else {
    st = weir_config_bool(c, "ids") ? ids_to_text(&t, &e) : texts_to_ids(&t, &e);
    if (st == WEIR_EINVAL)
      status = weir_tell_usage("tokenize", &e);
    else if (st != WEIR_OK)
      status = weir_tell(&e, WEIR_EXIT_FAILED);
  }
  if (!weir_out_end(&t.out)) status = weir_tell(&t.out.err, WEIR_EXIT_FAILED);
  weir_tokenizer_destroy(t.tok);
  weir_mfile_close(t.file);
  return status;
}
