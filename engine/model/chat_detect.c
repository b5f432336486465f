/* SPDX-License-Identifier: Apache-2.0 */
/* Recognises chat templates: by their form (chat_jinja.c), all of it. A template that differs from those
 * listed in anything that could be rendered is refused, not approximated. Pure; any thread. */
#include <string.h>

#include "model/chat.h"
#include "model/chat_jinja.h"
#include "model/chat_style.h"

/* The published templates whose texts the styles are, by make_chat_vectors.py --check, which prints the form
 * of every template it is given. */
/* clang-format off */
static const struct {
  uint64_t form;
  const char *style;
} known[] = {
    {0xe57643d4ecd489ef, "qa"}, /* weir-demo */
    {0x927658a06db06112, "chatml"}, /* Qwen-Qwen2.5-7B-Instruct, MiMo-VL */
    {0xd6581164d94c3458, "chatml"}, /* Qwen-Qwen2-7B-Instruct */
    {0x01296864915d7349, "chatml"}, /* teknium-OpenHermes-2.5-Mistral-7B */
    {0xaca885f2bd0f58ed, "chatml"}, /* a system message before the loop */
    {0xe1e641929fe8a868, "chatml"}, /* with a default for add_generation_prompt, m for message */
    {0x70d5ed3ab2b04718, "chatml"}, /* with a default for add_generation_prompt */
    {0xd58ef7b00923da24, "chatml"}, /* the generation prompt within the loop */
    {0x4f967bbad3f987d9, "chatml"}, /* as OpenHermes, m for message */
    {0x8c88c20910ee83dc, "chatml"}, /* a branch for each role */
    {0x485b07daf265f522, "lfm2"}, /* LFM2-8B-A1B */
    {0x78f3398a18f6a97c, "qwen3"}, /* Qwen-Qwen3-0.6B */
    {0xc3bbc08ccea4c0eb, "phi4"}, /* microsoft-phi-4 */
    {0x3a68a65ceae592dd, "phi4-first"}, /* microsoft-phi-4-first */
    {0x050b492a3aa0597f, "llama2"}, /* meta-llama-Llama-2-7b-chat-hf */
    {0xca9225fb0af704b6, "llama3"}, /* meta-llama-Meta-Llama-3-8B-Instruct-first: always with the generation prompt, as weir asks for */
    {0x0875f48990b58de4, "llama3"}, /* meta-llama-Meta-Llama-3-8B-Instruct */
    {0xb514c8d73055173d, "llama3.1"}, /* meta-llama-Llama-3.1-8B-Instruct */
    {0xaaa4a2eee34e3b3d, "llama3.1"}, /* meta-llama-Llama-3.2-3B-Instruct */
    {0x7b0f3017d1f3e986, "mistral-v0"}, /* mistralai-Mistral-7B-Instruct-v0.2-first */
    {0xe8b1596151f0ab7a, "mistral-v1"}, /* mistralai-Mistral-7B-Instruct-v0.2 */
    {0xbc520ee459af0434, "mistral-v3"}, /* mistralai-Mistral-Large-Instruct-2407 */
    {0xf2cc35c513e67094, "mistral-v3-trim"}, /* mistralai-Mistral-7B-Instruct-v0.3 */
    {0xf8d5b5400c9302bf, "mistral-v3-trim"}, /* Mistral-Large-Instruct-2407, the system message first */
    {0x34bc22d36158e970, "mistral-tekken"}, /* mistralai-Mistral-Nemo-Instruct-2407 */
    {0x518fa1184600201a, "mistral-v7"}, /* mistralai-Mistral-Large-Instruct-2411 */
    {0xb3e12930332450f5, "gemma"}, /* google-gemma-2-2b-it */
    {0xa2c77c1038eb0433, "gemma"}, /* google-gemma-7b-it: leaves the begin-of-text token to the tokenizer */
    {0x68979f4788c53e24, "gemma3"}, /* google-gemma-3-1b-it */
    {0x2044f9146af81376, "phi3"}, /* microsoft-Phi-3.5-mini-instruct */
    {0x304ad5065bf19e39, "phi3-mini"}, /* microsoft-Phi-3-mini-4k-instruct-first */
    {0xe2ceaa7e1c376b3c, "zephyr"}, /* TinyLlama-TinyLlama-1.1B-Chat-v1.0 */
    {0x47115c7bd823afc3, "deepseek-v2"}, /* deepseek-ai-DeepSeek-V2-Lite-Chat */
    {0xbd99f7f3edd6c9a9, "deepseek-v3"}, /* deepseek-ai-DeepSeek-R1-Distill-Llama-8B-first */
    {0x775fb6b26f799c5d, "deepseek-r1"}, /* deepseek-ai-DeepSeek-R1-Distill-Llama-8B */
};
/* clang-format on */
enum { N_KNOWN = sizeof known / sizeof *known };

weir_status weir_chat_detect(weir_str jinja, weir_chat_format *out, weir_err *e) {
  weir_status st = WEIR_OK;
  weir_chat_form form;
  *out = (weir_chat_format){0};
  if (jinja.len == 0)
    return weir_fail(e, WEIR_EUNSUP, "the model has no chat template; --template names one: %s",
                     weir_chat_names());
  WEIR_TRY(weir_chat_form_of(jinja, &form, e));
  for (int32_t i = 0; form.id != 0 && i < N_KNOWN; i++) {
    if (known[i].form != form.id || !weir_chat_by_name(known[i].style, out)) continue;
    if (form.system.data) out->default_system = form.system;
    return WEIR_OK;
  }
  st = weir_fail(
      e, WEIR_EUNSUP,
      "the model's chat template (%zu bytes of Jinja) is none that weir knows, and it is not guessed at; "
      "--template picks one all the same: %s",
      jinja.len, weir_chat_names());
out:
  return st;
}
