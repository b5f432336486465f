/* SPDX-License-Identifier: Apache-2.0 */
/* Conversations. Every turn is rendered and encoded as a whole; where the bytes of what the models have read
 * are still its beginning, their ids take the place of the encoded ones: a text has many encodings, and the
 * one that was generated is the one in the KV pages. Main thread. */
#include "programs/chat_talk.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "programs/load.h"
#include "programs/out.h"

void weir_talk_fini(weir_talk *t) {
  for (int32_t i = 0; i < t->n_turns; i++) weir_buf_fini(&t->turn[i].text);
  free(t->turn);
  weir_tokens_fini(&t->read);
  weir_buf_fini(&t->read_text);
  *t = (weir_talk){0};
}

weir_status weir_talk_add(weir_talk *t, weir_chat_role role, const char *text, size_t len, weir_err *e) {
  if (t->n_turns == t->cap) {
    const int32_t cap = t->cap ? 2 * t->cap : 16;
    weir_turn *grown = realloc(t->turn, (size_t)cap * sizeof *grown);
    if (!grown) return weir_fail(e, WEIR_ENOMEM, "cannot keep %d messages", cap);
    t->turn = grown;
    t->cap = cap;
  }
  weir_turn *turn = &t->turn[t->n_turns];
  *turn = (weir_turn){.role = role};
  const weir_status st = weir_buf_put(&turn->text, text, len, e);
  if (st != WEIR_OK)
    weir_buf_fini(&turn->text);
  else
    t->n_turns++;
  return st;
}

/* Forgets turns [from, from + n). */
static void forget(weir_talk *t, int32_t from, int32_t n) {
  for (int32_t i = from; i < from + n; i++) weir_buf_fini(&t->turn[i].text);
  memmove(t->turn + from, t->turn + from + n, (size_t)(t->n_turns - from - n) * sizeof *t->turn);
  t->n_turns -= n;
}

void weir_talk_drop_last(weir_talk *t) {
  if (t->n_turns > 0) forget(t, t->n_turns - 1, 1);
}

bool weir_talk_has_system(const weir_talk *t) {
  return t->n_turns > 0 && t->turn[0].role == WEIR_CHAT_SYSTEM;
}

void weir_talk_clear(weir_talk *t) {
  const int32_t keep = weir_talk_has_system(t);
  if (t->n_turns > keep) forget(t, keep, t->n_turns - keep);
}

weir_status weir_talk_set_system(weir_talk *t, const char *text, size_t len, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_chat_text trial = {0};
  const weir_chat_message m[] = {{WEIR_CHAT_SYSTEM, {text, len}}, {WEIR_CHAT_USER, {"x", 1}}};
  if (len > 0) {
    WEIR_TRY(weir_chat_render(&t->format, &t->words, m, 2, true, &trial, e));
    WEIR_TRY(weir_talk_add(t, WEIR_CHAT_SYSTEM, text, len, e)); /* moved to the front */
    const weir_turn turn = t->turn[t->n_turns - 1];
    memmove(t->turn + 1, t->turn, (size_t)(t->n_turns - 1) * sizeof *t->turn);
    t->turn[0] = turn;
    if (t->n_turns > 1 && t->turn[1].role == WEIR_CHAT_SYSTEM) forget(t, 1, 1);
  } else if (weir_talk_has_system(t)) {
    forget(t, 0, 1);
  }
out:
  weir_chat_text_fini(&trial);
  return st;
}

/* ---- ids ---- */

static weir_status put_ids(weir_tokens *to, const int32_t *id, int32_t n, weir_err *e) {
  if (n > to->cap - to->n) {
    const int64_t cap = 2 * ((int64_t)to->n + n);
    int32_t *grown = cap <= INT32_MAX ? realloc(to->id, (size_t)cap * sizeof *grown) : NULL;
    if (!grown) return weir_fail(e, WEIR_ENOMEM, "cannot keep %d + %d token ids", to->n, n);
    to->id = grown;
    to->cap = (int32_t)cap;
  }
  if (n > 0) memcpy(to->id + to->n, id, (size_t)n * sizeof *id);
  to->n += n;
  return WEIR_OK;
}

/* Where in ids the text from byte `from` on begins: as many tokens at the end as have just these bytes; -1: a
 * token straddles that place. */
static int32_t boundary(const weir_talk *t, const weir_tokens *ids, const weir_buf *text, size_t from) {
  size_t at = text->len;
  int32_t i = ids->n;
  while (at > from && i > 0) {
    const weir_str s = weir_token_bytes(t->tok, ids->id[i - 1]);
    if (s.len > at - from || (s.len > 0 && memcmp(text->data + at - s.len, s.data, s.len) != 0)) return -1;
    at -= s.len;
    i--;
  }
  return at == from ? i : -1;
}

static weir_status encode(weir_talk *t, const weir_chat_text *text, weir_tokens *out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_tokens whole = {0};
  const int32_t bos = weir_tokenizer_bos(t->tok);
  out->n = 0;
  WEIR_TRY(
      weir_tokenize_marked(t->tok, text->text.data, text->text.len, text->span, text->n_spans, &whole, e));
  const size_t read = t->read_text.len;
  if (read > 0 && read <= text->text.len && !memcmp(t->read_text.data, text->text.data, read)) {
    const int32_t rest = boundary(t, &whole, &text->text, read);
    if (rest >= 0) {
      WEIR_TRY(put_ids(out, t->read.id, t->read.n, e));
      WEIR_TRY(put_ids(out, whole.id + rest, whole.n - rest, e));
      goto out;
    }
  }
  /* a template may write the begin-of-text token itself */
  if (weir_tokenizer_adds_bos(t->tok) && bos >= 0 && (whole.n == 0 || whole.id[0] != bos))
    WEIR_TRY(put_ids(out, &bos, 1, e));
  WEIR_TRY(put_ids(out, whole.id, whole.n, e));
out:
  weir_tokens_fini(&whole);
  return st;
}

/* How many messages the oldest question is with its answers; 0 when it is the last. */
static int32_t oldest(const weir_talk *t, int32_t from) {
  for (int32_t i = from + 1; i < t->n_turns; i++)
    if (t->turn[i].role == WEIR_CHAT_USER) return i - from;
  return 0;
}

static weir_status render(weir_talk *t, weir_chat_text *text, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_chat_message *m = NULL;
  WEIR_TRY(WEIR_NEW((size_t)t->n_turns, &m, e));
  for (int32_t i = 0; i < t->n_turns; i++) {
    const weir_buf *b = &t->turn[i].text;
    m[i] = (weir_chat_message){t->turn[i].role, {b->data ? b->data : "", b->len}};
  }
  st = weir_chat_render(&t->format, &t->words, m, t->n_turns, true, text, e);
out:
  free(m);
  return st;
}

weir_status weir_talk_prompt(weir_talk *t, int32_t room, weir_tokens *out, int32_t *dropped, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_chat_text text = {0};
  *dropped = 0;
  for (;;) {
    WEIR_TRY(render(t, &text, e));
    WEIR_TRY(encode(t, &text, out, e));
    if (out->n <= room) break;
    const int32_t first = weir_talk_has_system(t), n = oldest(t, first);
    if (n == 0)
      WEIR_TRY(weir_fail(e, WEIR_EINVAL,
                         "the message is %d tokens long with its template; there is room for %d", out->n,
                         room));
    forget(t, first, n);
    *dropped += n;
  }
out:
  weir_chat_text_fini(&text);
  return st;
}

weir_status weir_talk_answered(weir_talk *t, const weir_tokens *prompt, const int32_t *id, int32_t n,
                               const char *text, size_t len, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_chat_text rendered = {0};
  const char *lead = weir_chat_answer_lead(&t->format);
  const size_t skip = strlen(lead);
  WEIR_TRY(render(t, &rendered, e)); /* as it was for the prompt: the answer is not among the turns yet */
  t->read.n = 0;
  weir_buf_truncate(&t->read_text, 0);
  WEIR_TRY(put_ids(&t->read, prompt->id, prompt->n, e));
  WEIR_TRY(put_ids(&t->read, id, n, e));
  WEIR_TRY(weir_buf_put(&t->read_text, rendered.text.data, rendered.text.len, e));
  for (int32_t i = 0; i < n; i++) {
    const weir_str s = weir_token_bytes(t->tok, id[i]);
    WEIR_TRY(weir_buf_put(&t->read_text, s.data, s.len, e));
  }
  if (len >= skip && !memcmp(text, lead, skip)) { /* the template writes it */
    text += skip;
    len -= skip;
  }
  WEIR_TRY(weir_talk_add(t, WEIR_CHAT_ASSISTANT, text, len, e));
out:
  if (st != WEIR_OK) weir_buf_truncate(&t->read_text, 0);
  weir_chat_text_fini(&rendered);
  return st;
}

/* ---- files ---- */

/* What may be overwritten: nothing at all, an empty file, or a conversation that was saved before. */
static weir_status check_target(const char *path, weir_err *e) {
  static const char first[] = "{\"role\":";
  char got[sizeof first - 1];
  struct stat is;
  if (stat(path, &is) != 0)
    return errno == ENOENT ? WEIR_OK : weir_fail(e, WEIR_EIO, "%s: %s", path, strerror(errno));
  if (!S_ISREG(is.st_mode)) return weir_fail(e, WEIR_EINVAL, "%s is there and not a file", path);
  if (is.st_size == 0) return WEIR_OK;
  FILE *f = fopen(path, "r");
  if (!f) return weir_fail(e, WEIR_EIO, "%s: %s", path, strerror(errno));
  const size_t n = fread(got, 1, sizeof got, f);
  fclose(f);
  if (n < sizeof got || memcmp(got, first, sizeof got) != 0)
    return weir_fail(e, WEIR_EINVAL, "%s is there and not a saved conversation; it was left as it is", path);
  return WEIR_OK;
}

weir_status weir_talk_save(const weir_talk *t, const char *path, weir_err *e) {
  weir_status st = WEIR_OK;
  char part[WEIR_PATH_BYTES];
  FILE *f = NULL;
  bool made = false;
  const int n = snprintf(part, sizeof part, "%s.part-%ld", path, (long)getpid());
  if (n < 0 || (size_t)n >= sizeof part) WEIR_TRY(weir_fail(e, WEIR_EINVAL, "the path is too long"));
  WEIR_TRY(check_target(path, e));
  f = fopen(part, "wx");
  if (!f) WEIR_TRY(weir_fail(e, WEIR_EIO, "%s: %s", path, strerror(errno)));
  made = true;
  for (int32_t i = 0; i < t->n_turns; i++) {
    const weir_turn *x = &t->turn[i];
    json_t *o = json_pack("{s:s, s:o}", "role", weir_chat_role_name(x->role), "content",
                          weir_json_text(x->text.data, x->text.len));
    if (o && x->role == WEIR_CHAT_ASSISTANT)
      json_object_set_new(o, "by_tier", json_pack("[ii]", x->by_tier[0], x->by_tier[1]));
    WEIR_TRY(weir_json_line(f, path, o, e));
  }
  const int closed = fclose(f);
  f = NULL;
  if (closed != 0 || rename(part, path) != 0)
    WEIR_TRY(weir_fail(e, WEIR_EIO, "%s: %s", path, strerror(errno)));
  made = false;
out:
  if (f) fclose(f);
  if (made) unlink(part);
  return st;
}
