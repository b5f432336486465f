/* SPDX-License-Identifier: Apache-2.0 */
/* Chat formats against what the published templates render (tests/vectors/chat, made by
 * make_chat_vectors.py), what recognises templates, and the spans. With arguments TEMPLATE VECTORS it
 * compares one template instead: the way make_chat_vectors.py --check goes over a folder of them. */
#include <dirent.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* after the above */
#include <cmocka.h>

#include "model/chat.h"
#include "model/chat_jinja.h"

static const char folder[] = "tests/vectors/chat";
enum { MAX_MESSAGES = 64 };

static weir_str str_of(const json_t *s) {
  return (weir_str){json_string_value(s) ? json_string_value(s) : "", json_string_length(s)};
}

static json_t *load(const char *path) {
  json_error_t why;
  json_t *o = json_load_file(path, JSON_REJECT_DUPLICATES, &why);
  if (!o) fail_msg("%s: %s", path, why.text);
  return o;
}

static int32_t messages_of(const json_t *conversation, weir_chat_message *m) {
  const size_t n = json_array_size(conversation);
  assert_true(n > 0 && n <= MAX_MESSAGES);
  for (size_t i = 0; i < n; i++) {
    const json_t *o = json_array_get(conversation, i);
    assert_true(weir_chat_role_parse(json_string_value(json_object_get(o, "role")), &m[i].role));
    m[i].text = str_of(json_object_get(o, "content"));
  }
  return (int32_t)n;
}

/* The spans lie in the text, ascend and are apart; outside of them stand, in order, pieces of the messages
 * and nothing else. */
static void want_spans(const weir_chat_text *t, const char *what) {
  size_t at = 0;
  for (int32_t i = 0; i < t->n_spans; i++) {
    if (t->span[i].begin < at || (i > 0 && t->span[i].begin == at) || t->span[i].end <= t->span[i].begin ||
        t->span[i].end > t->text.len)
      fail_msg("%s: span %d is [%zu, %zu) after %zu in %zu bytes", what, i, t->span[i].begin, t->span[i].end,
               at, t->text.len);
    at = t->span[i].end;
  }
}

/* What a text leaves outside its spans. */
static size_t outside(const weir_chat_text *t, char *buf, size_t bytes) {
  size_t n = 0, at = 0;
  for (int32_t i = 0; i <= t->n_spans; i++) {
    const size_t to = i < t->n_spans ? t->span[i].begin : t->text.len;
    assert_true(n + to - at < bytes);
    memcpy(buf + n, t->text.data + at, to - at);
    n += to - at;
    if (i < t->n_spans) at = t->span[i].end;
  }
  buf[n] = '\0';
  return n;
}

/* Compares one format with a file of vectors. Returns how many results differ; tells of the first when
 * `tell`. */
static size_t compare(weir_chat_format f, const json_t *file, const json_t *conversations, bool tell,
                      size_t *n) {
  size_t i, n_not = 0;
  const json_t *one, *results = json_object_get(file, "results");
  const weir_chat_words words = {.bos = str_of(json_object_get(file, "bos")),
                                 .eos = str_of(json_object_get(file, "eos")),
                                 .date = str_of(json_object_get(file, "date"))};
  weir_chat_message m[MAX_MESSAGES];
  weir_chat_text t = {0};
  json_array_foreach(results, i, one) {
    weir_err e = {0};
    const size_t k = (size_t)json_integer_value(json_object_get(one, "conversation"));
    const int32_t n_messages = messages_of(json_array_get(conversations, k), m);
    const bool generate = json_is_true(json_object_get(one, "generate"));
    const json_t *want = json_object_get(one, "text");
    const weir_status st = weir_chat_render(&f, &words, m, n_messages, generate, &t, &e);
    (*n)++;
    const bool same = want ? st == WEIR_OK && weir_str_eq((weir_str){t.text.data, t.text.len}, str_of(want))
                           : st == WEIR_EINVAL && t.text.len == 0 && t.n_spans == 0;
    want_spans(&t, json_string_value(json_object_get(file, "template")));
    if (same) continue;
    if (tell && n_not == 0)
      fail_msg("%s as %s, conversation %zu, generate %d\nwant %s\ngot  %s",
               json_string_value(json_object_get(file, "template")), weir_chat_name(&f), k, generate,
               want ? json_string_value(want) : "a refusal",
               st == WEIR_OK ? (t.text.data ? t.text.data : "") : e.msg);
    n_not++;
  }
  weir_chat_text_fini(&t);
  return n_not;
}

static void test_published(void **state) {
  (void)state;
  json_t *conversations = load("tests/vectors/chat/conversations.json");
  DIR *d = opendir(folder);
  assert_non_null(d);
  size_t n_files = 0, n = 0;
  for (const struct dirent *entry; (entry = readdir(d));) {
    char path[512];
    const size_t len = strlen(entry->d_name);
    if (len < 6 || strcmp(entry->d_name + len - 5, ".json") != 0 ||
        !strcmp(entry->d_name, "conversations.json"))
      continue;
    snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
    json_t *file = load(path);
    weir_chat_format f;
    const char *name = json_string_value(json_object_get(file, "format"));
    if (!weir_chat_by_name(name, &f)) fail_msg("%s: there is no format %s", path, name);
    const json_t *system = json_object_get(file, "default_system");
    if (system) f.default_system = str_of(system);
    compare(f, file, conversations, true, &n);
    json_decref(file);
    n_files++;
  }
  closedir(d);
  json_decref(conversations);
  if (n_files < 20 || n < 700) fail_msg("%zu files with %zu results: too few to mean much", n_files, n);
}

/* Every name can be used, and what people wrote is outside of the spans, whole and in order. */
static void test_names_and_spans(void **state) {
  (void)state;
  char names[512];
  snprintf(names, sizeof names, "%s", weir_chat_names());
  static const weir_chat_message m[] = {{WEIR_CHAT_USER, {"<|im_end|>", 10}},
                                        {WEIR_CHAT_ASSISTANT, {"[/INST]", 7}},
                                        {WEIR_CHAT_USER, {"</s><eos>", 9}}};
  const weir_chat_words words = {.bos = {"<s>", 3}, .eos = {"</s>", 4}};
  int32_t n = 0;
  for (char *name = strtok(names, ", "); name; name = strtok(NULL, ", "), n++) {
    weir_chat_format f;
    weir_chat_text t = {0};
    weir_err e = {0};
    char rest[256];
    if (!weir_chat_by_name(name, &f)) fail_msg("%s is listed and not there", name);
    assert_string_equal(weir_chat_name(&f), name);
    f.default_system = (weir_str){0};
    if (weir_chat_render(&f, &words, m, 3, true, &t, &e) != WEIR_OK) fail_msg("%s: %s", name, e.msg);
    outside(&t, rest, sizeof rest);
    if (strcmp(rest, "<|im_end|>[/INST]</s><eos>") != 0) fail_msg("%s: outside of the spans: %s", name, rest);
    weir_chat_text_fini(&t);
  }
  assert_true(n >= 20);
  weir_chat_format f;
  assert_false(weir_chat_by_name("chatm", &f));
  assert_false(weir_chat_by_name("", &f));
}

#define LOOP(BODY) "{% for message in messages %}" BODY "{% endfor %}"
#define TURN       "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
#define PROMPT     "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
#define SYSTEM(S)                                                                      \
  "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\n" S \
  "<|im_end|>\\n' }}{% endif %}"

/* Spellings of ChatML that render the same, and small edits that do not: whatever is rendered otherwise is
 * not recognised. The other published templates are gone over by make_chat_vectors.py --check. */
static void test_detect(void **state) {
  (void)state;
  static const struct {
    const char *jinja, *format, *system; /* format NULL: refused */
  } cases[] = {
      {LOOP(TURN) PROMPT, "chatml", NULL},
      {LOOP(TURN) PROMPT "\n", "chatml", NULL},
      {"{# ChatML #}\n" LOOP(TURN) "\n" PROMPT, "chatml", NULL},
      {"{# ChatML #}\n" LOOP(TURN) "\n\n" PROMPT, NULL, NULL},
      {"{# ChatML #}\n" LOOP(TURN) "{#- #}" PROMPT, "chatml", NULL},
      {"{%- for message in messages -%}\n  {{- \"<|im_start|>\" + message.role + \"\n\" -}}\n"
       "{{ message.content }}{{ '<|im_end|>\\n' }}\n  {%- endfor %}\n{% if add_generation_prompt %}\n"
       "  {{- '<|im_start|>assistant\\n' -}}\n{% endif %}",
       "chatml", NULL},
      {LOOP(
           "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n") "{% if add_generation_prompt "
                                                                                "%}<|im_start|>assistant\n{% "
                                                                                "endif %}",
       "chatml", NULL},
      {"{% for message in messages %}\r\n<|im_start|>{{ message['role'] }}\r\n{{ message['content'] "
       "}}<|im_end|>\r\n"
       "{% endfor %}\r\n{% if add_generation_prompt %}\r\n<|im_start|>assistant\r\n{% endif %}\r\n",
       "chatml", NULL},
      {LOOP(SYSTEM("Be good.") TURN) PROMPT, "chatml", "Be good."},
      {LOOP(SYSTEM("You are a helpful assistant.") TURN) PROMPT, "chatml", "You are a helpful assistant."},
      {LOOP(SYSTEM("Be\\ngood.") TURN) PROMPT, NULL, NULL}, /* not in the template as it is rendered */
      {LOOP(SYSTEM("Be \\\"good\\\".") TURN) PROMPT, NULL, NULL},
      /* a default system message that is lost, no line feed, system messages that are dropped */
      {"{% set system_message = 'You are a helpful assistant.' %}{% if messages[0]['role'] == 'system' %}"
       "{% set system_message = messages[0]['content'] %}{% endif %}{{ '<|im_start|>system\\n' + "
       "system_message + "
       "'<|im_end|>\\n' }}" LOOP("{% if message['role'] != 'system' %}" TURN "{% endif %}") PROMPT,
       NULL, NULL},
      {LOOP("{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>'}}") PROMPT, NULL,
       NULL},
      {LOOP("{% if message['role'] != 'system' %}" TURN "{% endif %}") PROMPT, NULL, NULL},
      {LOOP("{{'<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' + '\\n'}}")
           PROMPT,
       NULL, NULL},
      {LOOP(TURN) "{% if not add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}", NULL,
       NULL},
      {LOOP(TURN) "{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}", NULL, NULL},
      {LOOP(TURN) "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>' }}{% endif %}", NULL,
       NULL},
      {"{{ bos_token }}" LOOP(TURN) PROMPT, NULL, NULL},
      {LOOP(TURN TURN) PROMPT, NULL, NULL},
      {LOOP(TURN), NULL, NULL},
      {"{% for message in messages[1:] %}" TURN "{% endfor %}" PROMPT, NULL, NULL},
      {LOOP(" " TURN) PROMPT, NULL, NULL},
      {"{% for m in messages %}{% if m['role'] == 'user' %}Question: {{ m['content'] }}\nAnswer:{% elif "
       "m['role'] == "
       "'assistant' %} {{ m['content'] }}<|endoftext|>{% endif %}{% endfor %}",
       "qa", NULL},
      {"{% for m in messages %}{% if m['role'] == 'user' %}Question: {{ m['content'] }}\nAnswer: {% elif "
       "m['role'] == "
       "'assistant' %} {{ m['content'] }}<|endoftext|>{% endif %}{% endfor %}",
       NULL, NULL},
      /* not Jinja, or not all of it */
      {LOOP(TURN) PROMPT "{{", NULL, NULL},
      {LOOP(TURN) PROMPT "{#", NULL, NULL},
      {LOOP(TURN) PROMPT "{% raw %}", NULL, NULL},
      {"{{ 'never ends }}", NULL, NULL},
      {"{{ '\\", NULL, NULL},
      {"{{ '\\x' }}", NULL, NULL},
      {"{", NULL, NULL},
      {"\n", NULL, NULL},
      {"\1<|im_start|>", NULL, NULL},
      {"", NULL, NULL},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    weir_chat_format f;
    weir_err e = {0};
    const weir_status st = weir_chat_detect(weir_str_of(cases[i].jinja), &f, &e);
    if (!cases[i].format) {
      if (st != WEIR_EUNSUP) fail_msg("case %zu is taken for %s", i, weir_chat_name(&f));
      if (!strstr(e.msg, "chatml") || !strstr(e.msg, "--template")) fail_msg("case %zu: %s", i, e.msg);
      continue;
    }
    if (st != WEIR_OK) fail_msg("case %zu, a %s: %s", i, cases[i].format, e.msg);
    assert_string_equal(weir_chat_name(&f), cases[i].format);
    const weir_str want = cases[i].system ? weir_str_of(cases[i].system) : (weir_str){0};
    if (!weir_str_eq(f.default_system, want))
      fail_msg("case %zu: system message \"%.*s\"", i, (int)f.default_system.len, f.default_system.data);
  }
}

static void test_refusals(void **state) {
  (void)state;
  static const weir_chat_message twice[] = {{WEIR_CHAT_USER, {"a", 1}}, {WEIR_CHAT_USER, {"b", 1}}};
  static const weir_chat_message sys[] = {{WEIR_CHAT_SYSTEM, {"a", 1}}, {WEIR_CHAT_USER, {"b", 1}}};
  static const struct {
    const char *format, *says;
    const weir_chat_message *m;
    int32_t n;
  } cases[] = {{"mistral-v3", "message 2, of the user", twice, 2},
               {"gemma", "message 1, of the system", sys, 2},
               {"llama2", "message 1, of the system", sys, 1},
               {"chatml", "needs a message", sys, 0}};
  const weir_chat_words words = {0};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    weir_chat_format f;
    weir_chat_text t = {0};
    weir_err e = {0};
    assert_true(weir_chat_by_name(cases[i].format, &f));
    assert_int_equal(weir_chat_render(&f, &words, cases[i].m, cases[i].n, true, &t, &e), WEIR_EINVAL);
    if (!strstr(e.msg, cases[i].says)) fail_msg("%s: %s", cases[i].format, e.msg);
    weir_chat_text_fini(&t);
  }
}

/* One template of a folder. */
static int check_one(const char *template_path, const char *vectors_path) {
  json_t *vectors = load(vectors_path), *conversations = load("tests/vectors/chat/conversations.json");
  FILE *f = fopen(template_path, "rb");
  static char jinja[1 << 20];
  const size_t len = f ? fread(jinja, 1, sizeof jinja, f) : 0;
  if (f) fclose(f);
  weir_chat_format format;
  weir_chat_form form;
  weir_err e = {0};
  size_t n = 0, n_not = 0;
  const weir_status st = weir_chat_detect((weir_str){jinja, len}, &format, &e);
  if (weir_chat_form_of((weir_str){jinja, len}, &form, &e) == WEIR_OK)
    printf("form 0x%016llx: ", (unsigned long long)form.id);
  if (st != WEIR_OK) {
    printf("not known\n");
  } else {
    n_not = compare(format, vectors, conversations, false, &n);
    printf("%s, %zu results, %zu differ%s\n", weir_chat_name(&format), n, n_not, n_not ? "  <<<<" : "");
  }
  json_decref(vectors);
  json_decref(conversations);
  return n_not > 0;
}

int main(int argc, char **argv) {
  if (argc == 3) return check_one(argv[1], argv[2]);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_published),
      cmocka_unit_test(test_names_and_spans),
      cmocka_unit_test(test_detect),
      cmocka_unit_test(test_refusals),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
