/* SPDX-License-Identifier: Apache-2.0 */
/* Rendering of conversations. A format is a row of a table: what opens and closes the turn of each role,
 * where a system message goes, what is trimmed. The rows say what the published templates of these models do
 * (tests/vectors/chat has the models' names). Pure; any thread. */
#define _GNU_SOURCE /* memmem */
#include "model/chat.h"

#include <stdlib.h>
#include <string.h>

#include "model/chat_style.h"

#define SYS_TURNS WEIR_CHAT_SYS_TURNS
#define SYS_NONE  WEIR_CHAT_SYS_NONE
#define SYS_FIRST WEIR_CHAT_SYS_FIRST
#define SYS_LAST  WEIR_CHAT_SYS_LAST
#define SYS_FRONT WEIR_CHAT_SYS_FRONT
#define ALTERNATE WEIR_CHAT_ALTERNATE
#define TRIM_ALL  (WEIR_CHAT_TRIM_SYS | WEIR_CHAT_TRIM_USER | WEIR_CHAT_TRIM_ANSWER)

/* clang-format off */
static const weir_chat_style style[] = {
  /* no template: base models. A text that goes on, a user's message on a line of its own. */
  {.name = "plain", .flags = SYS_FRONT, .begin = "", .sys_open = "", .sys_close = "\n", .user_open = "", .user_close = "",
   .answer_open = "", .answer_close = "\n", .generate = "", .no_generate = "", .lead = ""},
  {.name = "qa", .flags = SYS_NONE | WEIR_CHAT_SKIP_EMPTY_SYS, .begin = "", .user_open = "Question: ", .user_close = "\nAnswer:",
   .answer_open = " ", .answer_close = "\2", .generate = "", .no_generate = "", .lead = " "},

  {.name = "chatml", .flags = SYS_TURNS, .begin = "", .sys_open = "<|im_start|>system\n", .sys_close = "<|im_end|>\n",
   .user_open = "<|im_start|>user\n", .user_close = "<|im_end|>\n", .answer_open = "<|im_start|>assistant\n",
   .answer_close = "<|im_end|>\n", .generate = "<|im_start|>assistant\n", .no_generate = "", .lead = ""},
  {.name = "qwen2.5", .flags = SYS_TURNS, .begin = "", .sys_open = "<|im_start|>system\n", .sys_close = "<|im_end|>\n",
   .user_open = "<|im_start|>user\n", .user_close = "<|im_end|>\n", .answer_open = "<|im_start|>assistant\n",
   .answer_close = "<|im_end|>\n", .generate = "<|im_start|>assistant\n", .no_generate = "", .lead = "",
   .default_system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."},
  {.name = "lfm2", .flags = SYS_TURNS | WEIR_CHAT_SKIP_EMPTY_SYS, .begin = "\1", .sys_open = "<|im_start|>system\n",
   .sys_close = "<|im_end|>\n", .user_open = "<|im_start|>user\n", .user_close = "<|im_end|>\n",
   .answer_open = "<|im_start|>assistant\n", .answer_close = "<|im_end|>\n", .generate = "<|im_start|>assistant\n",
   .no_generate = "", .lead = ""},
  {.name = "qwen3", .flags = SYS_TURNS | WEIR_CHAT_QWEN3, .begin = "", .sys_open = "<|im_start|>system\n",
   .sys_close = "<|im_end|>\n", .user_open = "<|im_start|>user\n", .user_close = "<|im_end|>\n",
   .answer_open = "<|im_start|>assistant\n", .answer_close = "<|im_end|>\n", .generate = "<|im_start|>assistant\n",
   .no_generate = "", .lead = ""},
  {.name = "phi4", .flags = SYS_TURNS, .begin = "", .sys_open = "<|im_start|>system<|im_sep|>", .sys_close = "<|im_end|>",
   .user_open = "<|im_start|>user<|im_sep|>", .user_close = "<|im_end|>",
   .answer_open = "<|im_start|>assistant<|im_sep|>", .answer_close = "<|im_end|>",
   .generate = "<|im_start|>assistant<|im_sep|>", .no_generate = "", .lead = ""},
  {.name = "phi4-first", .flags = SYS_TURNS | WEIR_CHAT_GEN_IN_USER, .begin = "", .sys_open = "<|im_start|>system<|im_sep|>",
   .sys_close = "<|im_end|>", .user_open = "<|im_start|>user<|im_sep|>", .user_close = "<|im_end|>", .answer_open = "",
   .answer_close = "<|im_end|>", .generate = "<|im_start|>assistant<|im_sep|>", .no_generate = "", .lead = ""},

  {.name = "llama2", .flags = SYS_FIRST | ALTERNATE | WEIR_CHAT_TRIM_USER | WEIR_CHAT_TRIM_ANSWER, .begin = "",
   .sys_open = "<<SYS>>\n", .sys_close = "\n<</SYS>>\n\n", .user_open = "\1[INST] ", .user_close = " [/INST]",
   .answer_open = " ", .answer_close = " \2", .generate = "", .no_generate = "", .lead = " "},
  {.name = "llama3", .flags = SYS_TURNS | TRIM_ALL, .begin = "\1",
   .sys_open = "<|start_header_id|>system<|end_header_id|>\n\n", .sys_close = "<|eot_id|>",
   .user_open = "<|start_header_id|>user<|end_header_id|>\n\n", .user_close = "<|eot_id|>",
   .answer_open = "<|start_header_id|>assistant<|end_header_id|>\n\n", .answer_close = "<|eot_id|>",
   .generate = "<|start_header_id|>assistant<|end_header_id|>\n\n", .no_generate = "", .lead = ""},
  {.name = "llama3.1", .flags = SYS_TURNS | TRIM_ALL, .begin = "\1",
   .sys_first = "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: \3\n\n",
   .sys_open = "<|start_header_id|>system<|end_header_id|>\n\n", .sys_close = "<|eot_id|>",
   .user_open = "<|start_header_id|>user<|end_header_id|>\n\n", .user_close = "<|eot_id|>",
   .answer_open = "<|start_header_id|>assistant<|end_header_id|>\n\n", .answer_close = "<|eot_id|>",
   .generate = "<|start_header_id|>assistant<|end_header_id|>\n\n", .no_generate = "", .default_system = "", .lead = ""},

  /* in the order of mistral-common's versions; they differ in blanks and in where the system message goes */
  {.name = "mistral-v0", .flags = SYS_NONE | ALTERNATE, .begin = "\1", .user_open = "[INST] ", .user_close = " [/INST]",
   .answer_open = "", .answer_close = "\2", .generate = "", .no_generate = "", .lead = ""},
  {.name = "mistral-v1", .flags = SYS_FIRST | ALTERNATE, .begin = "\1", .sys_open = "", .sys_close = "\n\n",
   .user_open = " [INST] ", .user_close = " [/INST]", .answer_open = " ", .answer_close = "\2", .generate = "",
   .no_generate = "", .lead = " "},
  {.name = "mistral-v3", .flags = SYS_LAST | ALTERNATE, .begin = "\1", .sys_open = "", .sys_close = "\n\n",
   .user_open = "[INST] ", .user_close = "[/INST]", .answer_open = " ", .answer_close = "\2", .generate = "",
   .no_generate = "", .lead = " "},
  {.name = "mistral-v3-trim", .flags = SYS_LAST | ALTERNATE | WEIR_CHAT_TRIM_ANSWER, .begin = "\1", .sys_open = "",
   .sys_close = "\n\n", .user_open = "[INST] ", .user_close = "[/INST]", .answer_open = " ", .answer_close = "\2",
   .generate = "", .no_generate = "", .lead = " "},
  {.name = "mistral-tekken", .flags = SYS_LAST | ALTERNATE, .begin = "\1", .sys_open = "", .sys_close = "\n\n",
   .user_open = "[INST]", .user_close = "[/INST]", .answer_open = "", .answer_close = "\2", .generate = "",
   .no_generate = "", .lead = ""},
  {.name = "mistral-v7", .flags = SYS_TURNS, .begin = "\1", .sys_open = "[SYSTEM_PROMPT] ", .sys_close = "[/SYSTEM_PROMPT]",
   .user_open = "[INST] ", .user_close = "[/INST]", .answer_open = " ", .answer_close = "\2", .generate = "",
   .no_generate = "", .lead = " "},
  {.name = "mistral-v7-tekken", .flags = SYS_TURNS, .begin = "\1", .sys_open = "[SYSTEM_PROMPT]",
   .sys_close = "[/SYSTEM_PROMPT]", .user_open = "[INST]", .user_close = "[/INST]", .answer_open = "",
   .answer_close = "\2", .generate = "", .no_generate = "", .lead = ""},

  {.name = "gemma", .flags = SYS_NONE | ALTERNATE | TRIM_ALL, .begin = "\1", .user_open = "<start_of_turn>user\n",
   .user_close = "<end_of_turn>\n", .answer_open = "<start_of_turn>model\n", .answer_close = "<end_of_turn>\n",
   .generate = "<start_of_turn>model\n", .no_generate = "", .lead = ""},
  {.name = "gemma3", .flags = SYS_FIRST | ALTERNATE | WEIR_CHAT_TRIM_EACH | WEIR_CHAT_TRIM_ANSWER, .begin = "\1",
   .sys_open = "", .sys_close = "\n\n", .user_open = "<start_of_turn>user\n", .user_close = "<end_of_turn>\n",
   .answer_open = "<start_of_turn>model\n", .answer_close = "<end_of_turn>\n", .generate = "<start_of_turn>model\n",
   .no_generate = "", .lead = ""},

  {.name = "phi3", .flags = SYS_TURNS | WEIR_CHAT_SKIP_EMPTY_SYS, .begin = "", .sys_open = "<|system|>\n",
   .sys_close = "<|end|>\n", .user_open = "<|user|>\n", .user_close = "<|end|>\n", .answer_open = "<|assistant|>\n",
   .answer_close = "<|end|>\n", .generate = "<|assistant|>\n", .no_generate = "\2", .lead = ""},
  {.name = "phi3-mini", .flags = SYS_NONE | WEIR_CHAT_GEN_IN_USER | WEIR_CHAT_SKIP_EMPTY_SYS, .begin = "\1", .user_open = "<|user|>\n",
   .user_close = "<|end|>\n", .answer_open = "", .answer_close = "<|end|>\n", .generate = "<|assistant|>\n",
   .no_generate = "", .lead = ""},
  {.name = "zephyr", .flags = SYS_TURNS, .begin = "", .sys_open = "<|system|>\n", .sys_close = "\2\n",
   .user_open = "<|user|>\n", .user_close = "\2\n", .answer_open = "<|assistant|>\n", .answer_close = "\2\n",
   .generate = "<|assistant|>\n", .no_generate = "", .lead = ""},

  {.name = "deepseek-v2", .flags = SYS_TURNS, .begin = "\1", .sys_open = "", .sys_close = "\n\n", .user_open = "User: ",
   .user_close = "\n\n", .answer_open = "Assistant: ", .answer_close = "\2", .generate = "Assistant:", .no_generate = "",
   .lead = " "},
  {.name = "deepseek-v3", .flags = SYS_FRONT | WEIR_CHAT_CUT_THOUGHT, .begin = "\1", .sys_open = "", .sys_close = "",
   .user_open = "<\xef\xbd\x9cUser\xef\xbd\x9c>", .user_close = "",
   .answer_open = "<\xef\xbd\x9c" "Assistant\xef\xbd\x9c>",
   .answer_close = "<\xef\xbd\x9c" "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>",
   .generate = "<\xef\xbd\x9c" "Assistant\xef\xbd\x9c>", .no_generate = "", .lead = ""},
  {.name = "deepseek-r1", .flags = SYS_FRONT | WEIR_CHAT_CUT_THOUGHT, .begin = "\1", .sys_open = "", .sys_close = "",
   .user_open = "<\xef\xbd\x9cUser\xef\xbd\x9c>", .user_close = "",
   .answer_open = "<\xef\xbd\x9c" "Assistant\xef\xbd\x9c>",
   .answer_close = "<\xef\xbd\x9c" "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>",
   .generate = "<\xef\xbd\x9c" "Assistant\xef\xbd\x9c><think>\n", .no_generate = "", .lead = ""},
};
/* clang-format on */
enum { N_STYLES = sizeof style / sizeof *style };

static const char *const role_name[] = {"system", "user", "assistant"};

const char *weir_chat_role_name(weir_chat_role r) { return (size_t)r < 3 ? role_name[r] : "unknown"; }

bool weir_chat_role_parse(const char *name, weir_chat_role *out) {
  for (int32_t i = 0; i < 3; i++)
    if (!strcmp(name, role_name[i])) {
      *out = (weir_chat_role)i;
      return true;
    }
  return false;
}

const weir_chat_style *weir_chat_style_find(const char *name) {
  for (int32_t i = 0; i < N_STYLES; i++)
    if (!strcmp(name, style[i].name)) return &style[i];
  return NULL;
}

bool weir_chat_by_name(const char *name, weir_chat_format *out) {
  const weir_chat_style *s = weir_chat_style_find(name);
  if (!s) return false;
  *out = (weir_chat_format){.style = s};
  if (s->default_system) out->default_system = weir_str_of(s->default_system);
  return true;
}

const char *weir_chat_name(const weir_chat_format *f) { return f->style->name; }
const char *weir_chat_answer_lead(const weir_chat_format *f) { return f->style->lead; }

const char *weir_chat_names(void) {
  return "plain, qa, chatml, qwen2.5, lfm2, qwen3, phi4, phi4-first, llama2, llama3, llama3.1, mistral-v0, "
         "mistral-v1, mistral-v3, "
         "mistral-v3-trim, mistral-tekken, mistral-v7, mistral-v7-tekken, gemma, gemma3, phi3, phi3-mini, "
         "zephyr, "
         "deepseek-v2, deepseek-v3, deepseek-r1";
}

void weir_chat_text_fini(weir_chat_text *t) {
  weir_buf_fini(&t->text);
  free(t->span);
  *t = (weir_chat_text){0};
}

void weir_chat_text_clear(weir_chat_text *t) {
  weir_buf_truncate(&t->text, 0);
  t->n_spans = 0;
}

/* ---- white space as Python's str.strip() has it ---- */

/* Bytes of the white space that begins s, 0: none does. */
static size_t space_at(weir_str s) {
  const unsigned char *p = (const unsigned char *)s.data;
  if (s.len == 0) return 0;
  if ((p[0] >= 0x09 && p[0] <= 0x0d) || (p[0] >= 0x1c && p[0] <= 0x20)) return 1;
  if (s.len >= 2 && p[0] == 0xc2 && (p[1] == 0x85 || p[1] == 0xa0)) return 2;
  if (s.len < 3) return 0;
  const bool three = (p[0] == 0xe1 && p[1] == 0x9a && p[2] == 0x80) ||                 /* U+1680 */
                     (p[0] == 0xe2 && p[1] == 0x80 && p[2] >= 0x80 && p[2] <= 0x8a) || /* U+2000..200A */
                     (p[0] == 0xe2 && p[1] == 0x80 && (p[2] == 0xa8 || p[2] == 0xa9 || p[2] == 0xaf)) ||
                     (p[0] == 0xe2 && p[1] == 0x81 && p[2] == 0x9f) || /* U+205F */
                     (p[0] == 0xe3 && p[1] == 0x80 && p[2] == 0x80);   /* U+3000 */
  return three ? 3 : 0;
}

static weir_str trim_front(weir_str s) {
  for (size_t n; (n = space_at(s)) > 0;) s = (weir_str){s.data + n, s.len - n};
  return s;
}

static weir_str trim_back(weir_str s) {
  for (;;) {
    size_t n = 1; /* whether the last 1, 2 or 3 bytes are one white space */
    while (n <= 3 && n <= s.len && space_at((weir_str){s.data + s.len - n, n}) != n) n++;
    if (n > 3 || n > s.len) return s;
    s.len -= n;
  }
}

static weir_str trim_lines(weir_str s, bool front, bool back) { /* of line feeds alone */
  while (front && s.len > 0 && s.data[0] == '\n') s = (weir_str){s.data + 1, s.len - 1};
  while (back && s.len > 0 && s.data[s.len - 1] == '\n') s.len--;
  return s;
}

/* ---- thoughts ---- */

static const char end_of_thought[] = "</think>", begin_of_thought[] = "<think>";

static const char *find(weir_str s, const char *mark) {
  return s.len > 0 ? memmem(s.data, s.len, mark, strlen(mark)) : NULL;
}

/* What follows the last `mark` in s, all of it when there is none; what precedes the first in *before. */
static weir_str after_last(weir_str s, const char *mark, weir_str *before) {
  const size_t len = strlen(mark);
  weir_str rest = s;
  bool found = false;
  for (const char *p; (p = find(rest, mark));) {
    if (!found && before) *before = (weir_str){s.data, (size_t)(p - s.data)};
    found = true;
    rest = (weir_str){p + len, (size_t)(rest.data + rest.len - (p + len))};
  }
  return rest;
}

/* ---- writing ---- */

typedef struct render {
  const weir_chat_style *s;
  const weir_chat_words *words;
  const weir_chat_message *m;
  int32_t n, first; /* first: after a system message in front that goes elsewhere */
  bool generate;
  weir_str system; /* what waits to be joined to a user turn; data NULL: nothing */
  weir_chat_text *out;
} render;

static weir_status put(render *r, weir_str s, bool mark, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_chat_text *t = r->out;
  const size_t begin = t->text.len;
  if (s.len == 0) return WEIR_OK;
  WEIR_TRY(weir_buf_put(&t->text, s.data, s.len, e));
  if (!mark) return WEIR_OK;
  if (t->n_spans > 0 && t->span[t->n_spans - 1].end == begin) {
    t->span[t->n_spans - 1].end = t->text.len;
    return WEIR_OK;
  }
  if (t->n_spans == t->cap) {
    const int32_t cap = t->cap ? 2 * t->cap : 16;
    weir_span *grown = realloc(t->span, (size_t)cap * sizeof *grown);
    if (!grown) return weir_fail(e, WEIR_ENOMEM, "cannot keep %d spans of a conversation", cap);
    t->span = grown;
    t->cap = cap;
  }
  t->span[t->n_spans++] = (weir_span){begin, t->text.len};
out:
  return st;
}

static weir_status put_text(render *r, weir_str s, weir_err *e) { return put(r, s, false, e); }

/* Words of the template, with what \1, \2 and \3 stand for. */
static weir_status put_mark(render *r, const char *mark, weir_err *e) {
  weir_status st = WEIR_OK;
  for (const char *p = mark; *p;) {
    const size_t len = strcspn(p, "\1\2\3");
    WEIR_TRY(put(r, (weir_str){p, len}, true, e));
    p += len;
    if (*p == '\1') WEIR_TRY(put(r, r->words->bos, true, e));
    if (*p == '\2') WEIR_TRY(put(r, r->words->eos, true, e));
    if (*p == '\3')
      WEIR_TRY(put(r, r->words->date.len > 0 ? r->words->date : weir_str_of("26 Jul 2024"), true, e));
    if (*p) p++;
  }
out:
  return st;
}

static weir_status put_system(render *r, weir_str text, bool front, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_chat_style *s = r->s;
  if (s->flags & WEIR_CHAT_TRIM_SYS) text = trim_back(trim_front(text));
  if ((s->flags & WEIR_CHAT_SKIP_EMPTY_SYS) && text.len == 0) return WEIR_OK;
  WEIR_TRY(put_mark(r, front && s->sys_first ? s->sys_first : s->sys_open, e));
  WEIR_TRY(put_text(r, text, e));
  WEIR_TRY(put_mark(r, s->sys_close, e));
out:
  return st;
}

static weir_status put_user(render *r, int32_t i, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_chat_style *s = r->s;
  weir_str text = r->m[i].text;
  const bool joined = r->system.data && ((s->flags & SYS_FIRST) ? i == r->first : i == r->n - 1);
  const bool whole = (s->flags & WEIR_CHAT_TRIM_USER) != 0, each = (s->flags & WEIR_CHAT_TRIM_EACH) != 0;
  if (each || (whole && !joined)) text = trim_front(text);
  if (each || whole) text = trim_back(text);
  WEIR_TRY(put_mark(r, s->user_open, e));
  if (joined) {
    weir_str close = weir_str_of(s->sys_close);
    if (whole && trim_front(text).len == 0) { /* then the trimming goes on into what stands before */
      text.len = 0;
      close = trim_back(close);
    }
    WEIR_TRY(put_mark(r, s->sys_open, e));
    WEIR_TRY(put_text(r, r->system, e));
    WEIR_TRY(put(r, close, true, e));
    r->system = (weir_str){0};
  }
  WEIR_TRY(put_text(r, text, e));
  WEIR_TRY(put_mark(r, s->user_close, e));
  if (s->flags & WEIR_CHAT_GEN_IN_USER) WEIR_TRY(put_mark(r, s->generate, e));
out:
  return st;
}

/* Whether m[i] is a question to Qwen3: what a tool gave back is not. */
static bool is_query(const weir_chat_message *m) {
  static const char open[] = "<tool_response>", close[] = "</tool_response>";
  const size_t a = sizeof open - 1, b = sizeof close - 1;
  const weir_str t = m->text;
  if (m->role != WEIR_CHAT_USER) return false;
  return !(t.len >= a && !memcmp(t.data, open, a) && t.len >= b && !memcmp(t.data + t.len - b, close, b));
}

/* Thoughts stay in answers to the last question alone; the answer that ends the conversation has some, be
 * they empty. */
static weir_status put_answer_qwen3(render *r, int32_t i, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_str thought = {0}, text = r->m[i].text;
  int32_t query = r->n - 1;
  for (int32_t k = r->n - 1; k >= 0; k--)
    if (is_query(&r->m[k])) {
      query = k;
      break;
    }
  if (find(text, end_of_thought)) {
    text = trim_lines(after_last(text, end_of_thought, &thought), true, false);
    thought = trim_lines(after_last(trim_lines(thought, false, true), begin_of_thought, NULL), true, false);
  }
  WEIR_TRY(put_mark(r, r->s->answer_open, e));
  if (i > query && (i == r->n - 1 || thought.len > 0)) {
    WEIR_TRY(put_mark(r, "<think>\n", e));
    WEIR_TRY(put_text(r, trim_lines(thought, true, true), e));
    WEIR_TRY(put_mark(r, "\n</think>\n\n", e));
    text = trim_lines(text, true, false);
  }
  WEIR_TRY(put_text(r, text, e));
  WEIR_TRY(put_mark(r, r->s->answer_close, e));
out:
  return st;
}

static weir_status put_answer(render *r, int32_t i, weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_chat_style *s = r->s;
  weir_str text = r->m[i].text;
  if (s->flags & WEIR_CHAT_QWEN3) return put_answer_qwen3(r, i, e);
  if (s->flags & WEIR_CHAT_CUT_THOUGHT) text = after_last(text, end_of_thought, NULL);
  if (s->flags & WEIR_CHAT_TRIM_ANSWER) text = trim_back(trim_front(text));
  WEIR_TRY(put_mark(r, s->answer_open, e));
  WEIR_TRY(put_text(r, text, e));
  WEIR_TRY(put_mark(r, s->answer_close, e));
out:
  return st;
}

/* ---- order ---- */

static weir_status refuse(const render *r, int32_t i, const char *why, weir_err *e) {
  return weir_fail(e, WEIR_EINVAL, "template %s: message %d, of the %s: %s", r->s->name, i + 1,
                   weir_chat_role_name(r->m[i].role), why);
}

static weir_status check_system(render *r, weir_err *e) {
  const uint32_t f = r->s->flags;
  int32_t n_system = 0;
  for (int32_t i = 0; i < r->n; i++) {
    if (r->m[i].role != WEIR_CHAT_SYSTEM) continue;
    n_system++;
    if ((f & SYS_NONE) && (!(f & WEIR_CHAT_SKIP_EMPTY_SYS) || r->m[i].text.len > 0))
      return refuse(r, i, "it has no system messages", e);
    if ((f & (SYS_FIRST | SYS_LAST)) && i > 0) return refuse(r, i, "a system message may only come first", e);
    if ((f & SYS_FRONT) && n_system > 1) return refuse(r, i, "it has one system message at most", e);
  }
  if (!(f & (SYS_FIRST | SYS_LAST)) || n_system == 0) return WEIR_OK;
  r->first = 1;
  r->system = r->m[0].text.data ? r->m[0].text : weir_str_of("");
  /* the turn that is to carry it */
  const int32_t to = f & SYS_FIRST ? 1 : r->n - 1;
  if (to >= r->n || r->m[to].role != WEIR_CHAT_USER)
    return refuse(r, 0,
                  f & SYS_FIRST ? "it goes into the user message that must follow"
                                : "it goes into a user message that must be the last one",
                  e);
  return WEIR_OK;
}

static weir_status check_order(render *r, weir_err *e) {
  const weir_status st = check_system(r, e);
  if (st != WEIR_OK || !(r->s->flags & ALTERNATE)) return st;
  for (int32_t i = r->first; i < r->n; i++) {
    const bool user = r->m[i].role == WEIR_CHAT_USER;
    if (user == ((i - r->first) % 2 == 0)) continue;
    return refuse(r, i, i == r->first ? "the user must begin" : "user and assistant must take turns", e);
  }
  return WEIR_OK;
}

weir_status weir_chat_render(const weir_chat_format *f, const weir_chat_words *words,
                             const weir_chat_message *m, int32_t n, bool generate, weir_chat_text *out,
                             weir_err *e) {
  weir_status st = WEIR_OK;
  const weir_chat_style *s = f->style;
  render r = {.s = s, .words = words, .m = m, .n = n, .generate = generate, .out = out};
  weir_chat_text_clear(out);
  if (n < 1) return weir_fail(e, WEIR_EINVAL, "a conversation needs a message");
  WEIR_TRY(check_order(&r, e));
  WEIR_TRY(put_mark(&r, s->begin, e));
  if (s->flags & SYS_FRONT)
    for (int32_t i = 0; i < n; i++)
      if (m[i].role == WEIR_CHAT_SYSTEM) WEIR_TRY(put_system(&r, m[i].text, true, e));
  if ((s->flags & SYS_TURNS) && m[0].role != WEIR_CHAT_SYSTEM && f->default_system.data)
    WEIR_TRY(put_system(&r, f->default_system, true, e));
  for (int32_t i = r.first; i < n; i++) {
    if (m[i].role == WEIR_CHAT_USER)
      WEIR_TRY(put_user(&r, i, e));
    else if (m[i].role == WEIR_CHAT_ASSISTANT)
      WEIR_TRY(put_answer(&r, i, e));
    else if (s->flags & SYS_TURNS)
      WEIR_TRY(put_system(&r, m[i].text, i == 0, e));
  }
  if (!(s->flags & WEIR_CHAT_GEN_IN_USER)) WEIR_TRY(put_mark(&r, generate ? s->generate : s->no_generate, e));
out:
  if (st != WEIR_OK) weir_chat_text_clear(out);
  return st;
}
