/* SPDX-License-Identifier: Apache-2.0 */
/* Reads prompts. Main thread. */
#include "programs/prompts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void weir_texts_fini(weir_texts *t) {
  for (int32_t i = 0; i < t->n; i++) weir_buf_fini(&t->text[i]);
  free(t->text);
  *t = (weir_texts){0};
}

/* Shortens in place what \n, \t, \r and \\ stand for; another character after a backslash keeps it. */
static void unescape_buf(weir_buf *b) {
  size_t to = 0;
  for (size_t i = 0; i < b->len; i++) {
    char ch = b->data[i];
    if (ch == '\\' && i + 1 < b->len) {
      static const char from[] = "ntr\\", into[] = "\n\t\r\\";
      const char *at = memchr(from, b->data[i + 1], 4);
      if (at) {
        ch = into[at - from];
        i++;
      }
    }
    b->data[to++] = ch;
  }
  weir_buf_truncate(b, to);
}

weir_status weir_texts_add(weir_texts *t, const char *text, size_t len, bool unescape, weir_err *e) {
  if (t->n >= WEIR_MAX_PROMPTS) return weir_fail(e, WEIR_EINVAL, "more than %d prompts", WEIR_MAX_PROMPTS);
  weir_buf *grown = realloc(t->text, ((size_t)t->n + 1) * sizeof *grown);
  if (!grown) return weir_fail(e, WEIR_ENOMEM, "cannot keep %d prompts", t->n + 1);
  t->text = grown;
  weir_buf *b = &t->text[t->n++];
  *b = (weir_buf){0};
  const weir_status st = weir_buf_put(b, text, len, e);
  if (st == WEIR_OK && unescape) unescape_buf(b);
  return st;
}

weir_status weir_read_file(const char *path, weir_buf *out, weir_err *e) {
  weir_status st = WEIR_OK;
  const bool standard = !strcmp(path, "-");
  FILE *f = standard ? stdin : fopen(path, "rb");
  if (!f) return weir_fail(e, WEIR_EIO, "%s: %s", path, strerror(errno));
  char chunk[65536];
  size_t n;
  while (st == WEIR_OK && (n = fread(chunk, 1, sizeof chunk, f)) > 0) {
    st = weir_buf_put(out, chunk, n, e);
    if (st == WEIR_OK && out->len > WEIR_MAX_TEXT_BYTES)
      st = weir_fail(e, WEIR_EINVAL, "%s: longer than %d bytes", path, WEIR_MAX_TEXT_BYTES);
  }
  if (st == WEIR_OK && ferror(f)) st = weir_fail(e, WEIR_EIO, "%s: %s", path, strerror(errno));
  if (!standard) fclose(f);
  return st == WEIR_OK ? weir_buf_reserve(out, 0, e) : st;
}

static weir_status add_lines(const char *path, weir_texts *out, weir_err *e) {
  weir_buf b = {0};
  weir_status st = weir_read_file(path, &b, e);
  for (size_t i = 0; st == WEIR_OK && i < b.len;) {
    const char *line = b.data + i;
    const char *end = memchr(line, '\n', b.len - i);
    const size_t len = end ? (size_t)(end - line) : b.len - i;
    size_t keep = len;
    if (keep > 0 && line[keep - 1] == '\r') keep--;
    if (keep > 0) st = weir_texts_add(out, line, keep, true, e);
    i += len + 1;
  }
  weir_buf_fini(&b);
  return st;
}

static weir_status add_file(const char *path, weir_texts *out, weir_err *e) {
  weir_buf b = {0};
  if (!strcmp(path, "-") && isatty(STDIN_FILENO))
    fprintf(stderr, "weir: reading the prompt from the terminal, Ctrl-D ends it\n");
  weir_status st = weir_read_file(path, &b, e);
  if (st == WEIR_OK) {
    if (b.len > 0 && b.data[b.len - 1] == '\n') weir_buf_truncate(&b, b.len - 1);
    if (b.len == 0)
      st = weir_fail(e, WEIR_EINVAL, "%s: the prompt is empty", strcmp(path, "-") ? path : "standard input");
    else
      st = weir_texts_add(out, b.data, b.len, false, e);
  }
  weir_buf_fini(&b);
  return st;
}

weir_status weir_read_prompts(const weir_config *c, weir_texts *out, weir_err *e) {
  weir_status st = WEIR_OK;
  int32_t n;
  const bool unescape = weir_config_bool(c, "escape");
  const char *const *given = weir_config_strings(c, "prompt", &n);
  for (int32_t i = 0; i < n && st == WEIR_OK; i++) {
    if (!given[i][0]) return weir_fail(e, WEIR_EINVAL, "--prompt: the prompt is empty");
    st = weir_texts_add(out, given[i], strlen(given[i]), unescape, e);
  }
  const char *lines = weir_config_has(c, "prompts") ? weir_config_string(c, "prompts") : NULL;
  if (st == WEIR_OK && lines) {
    const int32_t before = out->n;
    st = add_lines(lines, out, e);
    if (st == WEIR_OK && out->n == before) return weir_fail(e, WEIR_EINVAL, "%s: no prompt in it", lines);
  }
  const char *const *files = weir_config_operands(c, &n);
  for (int32_t i = 0; i < n && st == WEIR_OK; i++) st = add_file(files[i], out, e);
  if (st == WEIR_OK && out->n == 0) st = add_file("-", out, e);
  return st;
}

weir_status weir_encode_prompt(weir_tokenizer *tok, const char *text, size_t len, bool special,
                               weir_tokens *out, weir_err *e) {
  const int32_t bos = weir_tokenizer_bos(tok);
  if (weir_tokenizer_adds_bos(tok) && bos >= 0 && out->n == 0) {
    int32_t *id = realloc(out->id, 64 * sizeof *id);
    if (!id) return weir_fail(e, WEIR_ENOMEM, "cannot keep a prompt");
    *out = (weir_tokens){.id = id, .n = 1, .cap = 64};
    id[0] = bos;
  }
  return weir_tokenize(tok, text, len, special, out, e);
}
