/* SPDX-License-Identifier: Apache-2.0 */
/* Recognises chat templates by their marks. A rule names pieces that a template of a format must hold and
 * pieces that mean it does more than the format says (thoughts, tools without which it writes otherwise, a
 * date): such a template is refused, not approximated. Pure; any thread. */
#define _GNU_SOURCE /* memmem */
#include <string.h>

#include "model/chat.h"
#include "model/chat_style.h"

enum { MAX_MARKS = 8 };

typedef struct rule {
  const char *style;
  const char *want[MAX_MARKS], *never[MAX_MARKS]; /* NULL at the end */
} rule;

#define BAR "\xef\xbd\x9c" /* U+FF5C, in DeepSeek's marks */

/* The first that fits counts. */
static const rule rules[] = {
    {"phi4-first", {"<|im_sep|>", "<|im_end|><|im_start|>assistant<|im_sep|>"}, {"<think>"}},
    {"phi4",
     {"'<|im_start|>assistant<|im_sep|>' + message['content'] + '<|im_end|>'", "add_generation_prompt"},
     {"<think>"}},
    {"qwen3",
     {"<|im_start|>", "reasoning_content.strip(", "loop.index0 > ns.last_query_index",
      "enable_thinking is defined and enable_thinking is false",
      "if loop.last or (not loop.last and reasoning_content)"},
     {"<|vision_start|>"}},
    {"chatml",
     {"<|im_start|>", "<|im_end|>", "add_generation_prompt"},
     {"<think>", "</think>", "<|im_sep|>", "bos_token", "<end_of_utterance>", "|trim", "| trim", "strip("}},
    {"lfm2",
     {"bos_token", "\"<|im_start|>system\\n\" + ns.system_prompt + \"<|im_end|>",
      "\"<|im_start|>\" + message[\"role\"]", "add_generation_prompt"},
     {"<think>", "</think>", "strip("}},
    {"llama3.1",
     {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "Cutting Knowledge Date: December 2023\\n",
      "Today Date: \" + date_string", "message['content'] | trim"},
     {"<think>"}},
    {"llama3",
     {"'<|start_header_id|>' + message['role'] + '<|end_header_id|>", "message['content'] | trim",
      "<|eot_id|>", "bos_token"},
     {"Cutting Knowledge Date", "tools", "functions", "<think>"}},
    {"gemma3",
     {"<start_of_turn>", "<end_of_turn>", "first_user_prefix", "must alternate"},
     {"<think>", "tools"}},
    {"gemma",
     {"<start_of_turn>", "<end_of_turn>", "System role not supported", "| trim"},
     {"<think>", "tools"}},
    {"llama2",
     {"bos_token + '[INST] ' + content.strip() + ' [/INST]'", "'<<SYS>>",
      "' '  + content.strip() + ' ' + eos_token"},
     {NULL}},
    {"llama2",
     {"bos_token + '[INST] ' + content.strip() + ' [/INST]'", "'<<SYS>>",
      "' ' + content.strip() + ' ' + eos_token"},
     {NULL}},
    {"mistral-v7",
     {"'[SYSTEM_PROMPT] ' + message['content'] + '[/SYSTEM_PROMPT]'",
      "'[INST] ' + message['content'] + '[/INST]'", "' ' + message['content'] + eos_token"},
     {"default_system_message", "[THINK]"}},
    {"mistral-v7-tekken",
     {"'[SYSTEM_PROMPT]' + message['content'] + '[/SYSTEM_PROMPT]'",
      "'[INST]' + message['content'] + '[/INST]'", "message['content'] + eos_token"},
     {"default_system_message", "[THINK]"}},
    {"mistral-v1",
     {"' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]'",
      "' ' + message['content'] + eos_token"},
     {NULL}},
    {"mistral-v3-trim",
     {"\"[INST] \" + message[\"content\"] + \"[/INST]\"", "loop.last and system_message is defined",
      "\" \" + message[\"content\"]|trim + eos_token"},
     {NULL}},
    {"mistral-v3",
     {"\"[INST] \" + message[\"content\"] + \"[/INST]\"", "loop.last and system_message is defined",
      "\" \" + message[\"content\"] + eos_token"},
     {NULL}},
    {"mistral-tekken",
     {"\"[INST]\" + message[\"content\"] + \"[/INST]\"", "loop.last and system_message is defined",
      "message[\"content\"] + eos_token"},
     {NULL}},
    {"mistral-v0",
     {"bos_token", "'[INST] ' + message['content'] + ' [/INST]'", "message['content'] + eos_token",
      "must alternate"},
     {"<<SYS>>", "system_message", "' ' + message['content'] + eos_token"}},
    {"phi3",
     {"<|user|>", "<|system|>", "<|end|>", "'<|assistant|>", "add_generation_prompt", "eos_token"},
     {"<think>", "tools", "<|tool"}},
    {"phi3-mini",
     {"bos_token", "<|user|>", "'<|end|>' + '", " + '<|assistant|>'"},
     {"<think>", "add_generation_prompt", "system"}},
    {"zephyr",
     {"'<|user|>", "'<|system|>", "'<|assistant|>", "message['content'] + eos_token",
      "loop.last and add_generation_prompt"},
     {"<think>", "tools", "<|end|>"}},
    {"deepseek-r1",
     {"<" BAR "User" BAR ">", "<" BAR "Assistant" BAR "><think>\\n'", "ns.system_prompt",
      "split('</think>')[-1]"},
     {"thinking", "tojson(indent", "<" BAR "hy_"}},
    {"deepseek-v3",
     {"<" BAR "User" BAR ">", "<" BAR "Assistant" BAR ">'", "ns.system_prompt", "split('</think>')[-1]"},
     {"thinking", "tojson(indent", "<" BAR "hy_", "><think>"}},
    {"deepseek-v2",
     {"'User: ' + message['content'] + '", "'Assistant: ' + message['content'] + eos_token", "'Assistant:'"},
     {"<think>", "tools"}},
    {"qa", {"Question: {{", "Answer:"}, {"add_generation_prompt", "system"}},
};
enum { N_RULES = sizeof rules / sizeof *rules };

static bool holds(weir_str s, const char *mark) {
  return s.len > 0 && memmem(s.data, s.len, mark, strlen(mark)) != NULL;
}

static bool fits(const rule *r, weir_str jinja) {
  for (int32_t i = 0; i < MAX_MARKS && r->want[i]; i++)
    if (!holds(jinja, r->want[i])) return false;
  for (int32_t i = 0; i < MAX_MARKS && r->never[i]; i++)
    if (holds(jinja, r->never[i])) return false;
  return true;
}

/* The system message that a ChatML template brings along stands in it as a literal: '<|im_start|>system\nTEXT
 * <|im_end|>'. False when there is one that holds an escape, which would have to be understood. */
static bool find_default_system(weir_str jinja, weir_str *out) {
  static const char open[] = "<|im_start|>system", close[] = "<|im_end|>";
  *out = (weir_str){0};
  weir_str rest = jinja;
  for (const char *p; (p = memmem(rest.data, rest.len, open, sizeof open - 1));) {
    p += sizeof open - 1;
    rest = (weir_str){p, (size_t)(jinja.data + jinja.len - p)};
    if (rest.len >= 2 && p[0] == '\\' && p[1] == 'n')
      p += 2;
    else if (rest.len >= 1 && p[0] == '\n')
      p += 1;
    else
      continue;
    rest = (weir_str){p, (size_t)(jinja.data + jinja.len - p)};
    const char *end = memmem(rest.data, rest.len, close, sizeof close - 1);
    const size_t len = end ? (size_t)(end - p) : 0;
    if (len == 0 || memchr(p, '\'', len) || memchr(p, '"', len) || memchr(p, '{', len))
      continue; /* no literal */
    if (memchr(p, '\\', len)) return false;
    *out = (weir_str){p, len};
  }
  return true;
}

weir_status weir_chat_detect(weir_str jinja, weir_chat_format *out, weir_err *e) {
  *out = (weir_chat_format){0};
  if (jinja.len == 0)
    return weir_fail(e, WEIR_EUNSUP, "the model has no chat template; --template names one: %s",
                     weir_chat_names());
  for (int32_t i = 0; i < N_RULES; i++) {
    if (!fits(&rules[i], jinja)) continue;
    weir_chat_format f;
    if (!weir_chat_by_name(rules[i].style, &f)) continue;
    if (!strcmp(rules[i].style, "chatml") && !find_default_system(jinja, &f.default_system)) continue;
    *out = f;
    return WEIR_OK;
  }
  return weir_fail(
      e, WEIR_EUNSUP,
      "the model's chat template (%zu bytes of Jinja) is none that weir knows: looked for the marks of "
      "%s; --template picks one of these all the same",
      jinja.len, weir_chat_names());
}
