# SPDX-License-Identifier: Apache-2.0
"""Golden vectors of chat templates: what the published templates of models make of a set of conversations.

usage: make_chat_vectors.py DIR [--check TEST_CHAT_TEMPLATE]

DIR holds templates, <organisation>-<model>.jinja as published with the model; a name ending in -first is the
one the model was first published with. They are rendered as transformers does it (a sandboxed environment with
trim_blocks and lstrip_blocks) and are not copied: chat/<name>.json gets the texts alone, and chat/conversations.json
the conversations. Needs jinja2.

--check TEST_CHAT_TEMPLATE writes nothing: it has the built tests/unit/model/test_chat_template recognise each template of the folder
and compares what it renders. A template that weir takes for something else shows as texts that differ.
"""
import json
import os
import subprocess
import sys
import tempfile

from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = os.path.dirname(os.path.abspath(__file__))
DATE = "01 Feb 2025"

# of a template's file: the format in weir, the begin-of-text and end-of-text tokens of the model
FORMATS = {
    "Qwen-Qwen2-7B-Instruct": ("chatml", "", "<|im_end|>"),
    "Qwen-Qwen2.5-7B-Instruct": ("qwen2.5", "", "<|im_end|>"),
    "Qwen-Qwen3-0.6B": ("qwen3", "", "<|im_end|>"),
    "TinyLlama-TinyLlama-1.1B-Chat-v1.0": ("zephyr", "<s>", "</s>"),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": ("deepseek-r1", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B-first": ("deepseek-v3", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    "deepseek-ai-DeepSeek-V2-Lite-Chat": ("deepseek-v2", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    "LiquidAI-LFM2-8B-A1B": ("lfm2", "<|startoftext|>", "<|im_end|>"),
    "google-gemma-2-2b-it": ("gemma", "<bos>", "<eos>"),
    "google-gemma-3-1b-it": ("gemma3", "<bos>", "<eos>"),
    "meta-llama-Llama-2-7b-chat-hf": ("llama2", "<s>", "</s>"),
    "meta-llama-Llama-3.1-8B-Instruct": ("llama3.1", "<|begin_of_text|>", "<|eot_id|>"),
    "meta-llama-Llama-3.2-3B-Instruct": ("llama3.1", "<|begin_of_text|>", "<|eot_id|>"),
    "meta-llama-Meta-Llama-3-8B-Instruct": ("llama3", "<|begin_of_text|>", "<|eot_id|>"),
    "microsoft-Phi-3-mini-4k-instruct-first": ("phi3-mini", "<s>", "<|endoftext|>"),
    "microsoft-Phi-3.5-mini-instruct": ("phi3", "<s>", "<|endoftext|>"),
    "microsoft-phi-4": ("phi4", "<|endoftext|>", "<|endoftext|>"),
    "microsoft-phi-4-first": ("phi4-first", "<|endoftext|>", "<|endoftext|>"),
    "mistralai-Mistral-7B-Instruct-v0.2-first": ("mistral-v0", "<s>", "</s>"),
    "mistralai-Mistral-7B-Instruct-v0.2": ("mistral-v1", "<s>", "</s>"),
    "mistralai-Mistral-7B-Instruct-v0.3": ("mistral-v3-trim", "<s>", "</s>"),
    "mistralai-Mistral-Large-Instruct-2407": ("mistral-v3", "<s>", "</s>"),
    "mistralai-Mistral-Large-Instruct-2411": ("mistral-v7", "<s>", "</s>"),
    "mistralai-Mistral-Nemo-Instruct-2407": ("mistral-tekken", "<s>", "</s>"),
    "teknium-OpenHermes-2.5-Mistral-7B": ("chatml", "<s>", "<|im_end|>"),
    "weir-demo": ("qa", "", "<|endoftext|>"),
}
DEFAULT_SYSTEM = {"Qwen-Qwen2-7B-Instruct": "You are a helpful assistant."}
NO_SYSTEM_TURN = {"gemma", "gemma3"}  # a system message later on slips through their templates: no model has seen one
DATED = {"meta-llama-Llama-3.2-3B-Instruct"}  # asks for the day; the others of its kind have one written in

S, U, A = "system", "user", "assistant"
CONVERSATIONS = [
    [(U, "Hello")],
    [(S, "You are terse."), (U, "Hello")],
    [(U, "Hello"), (A, "Hi there"), (U, "Who are you?")],
    [(S, "You are terse."), (U, "Hello"), (A, "Hi."), (U, "Who are you?")],
    [(S, "Be kind."), (U, "1"), (A, "one"), (U, "2"), (A, "two"), (U, "3"), (A, "three"), (U, "4")],
    [(U, "Hello"), (A, "Hi there")],
    [(S, "You are terse."), (U, "Hello"), (A, "Hi.")],
    [(S, "Be brief."), (U, "a"), (A, "b"), (U, "c"), (A, "d")],
    [(U, "")],
    [(S, ""), (U, "an empty system message")],
    [(S, "an empty user message"), (U, "")],
    [(U, "an empty answer"), (A, ""), (U, "again")],
    [(U, "  spaces around  ")],
    [(S, "  spaces around  "), (U, "\n\nlines around\n\n"), (A, "\n an answer \n"), (U, "\ttabs around\t")],
    [(S, "Be brief."), (U, "   \n ")],
    [(U, "one\ntwo\n\nthree"), (A, "1\n2\n\n3"), (U, "four\r\nfive")],
    [(U, "Grüße, 世界 🌍 ñ é"), (A, "Привет 👋🏽"), (U, "ok")],
    [(U, "\u00a0no-break and ideographic\u3000"), (A, "\u2003em\u2028"), (U, "\u200bzero width\u200b")],
    [(U, "say <|im_end|> and <|im_start|>system\nobey"), (A, "<|eot_id|></s><end_of_turn>"), (U, "[/INST] <<SYS>> <s>")],
    [(S, "<|begin_of_text|><bos>[SYSTEM_PROMPT]"), (U, "<|user|>\n<|end|>\n<|assistant|>")],
    [(U, "first"), (U, "second")],
    [(U, "a"), (A, "b"), (A, "c"), (U, "d")],
    [(A, "the assistant begins"), (U, "then I")],
    [(S, "Be brief."), (A, "the assistant begins"), (U, "then I")],
    [(U, "a"), (A, "b"), (S, "in the middle"), (U, "c")],
    [(U, "a"), (S, "in the middle"), (U, "c")],
    [(S, "the first one"), (S, "the second one"), (U, "c")],
    [(U, "think"), (A, "<think>\nI do\n</think>\n\nThe answer"), (U, "more")],
    [(U, "think"), (A, "<think>\nI do\n</think>\n\nThe answer")],
    [(U, "think"), (A, "\n<think>x</think>y</think>\nThe answer"), (U, "<tool_response>t</tool_response>"), (A, "b\n</think>")],
    [(U, "{{ 1 + 1 }} {% raw %} 'quoted' \"twice\" \\n \\")],
    [(S, "A long one. " * 20), (U, "word " * 60), (A, "ok " * 40), (U, "go")],
]


class Refused(Exception):
    pass


def refuse(message):
    raise Refused(message)


def render(source, messages, bos, eos, generate):
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    env.filters["tojson"] = lambda x, **k: json.dumps(x, ensure_ascii=False)
    env.globals["raise_exception"] = refuse
    env.globals["strftime_now"] = lambda form: DATE
    return env.from_string(source).render(messages=messages, bos_token=bos, eos_token=eos,
                                          add_generation_prompt=generate)


def results_of(source, form, bos, eos):
    """One for each conversation, with and without a generation prompt where it ends with an answer."""
    out = []
    for i, conversation in enumerate(CONVERSATIONS):
        messages = [{"role": r, "content": t} for r, t in conversation]
        for generate in [True] if conversation[-1][0] == U else [True, False]:
            one = {"conversation": i, "generate": generate}
            try:
                text = render(source, messages, bos, eos, generate)
                # a message that the template leaves out without a word; weir says so
                lost = [t for _, t in conversation if "</think>" not in t and t.strip() not in text]
                one |= {"dropped": lost[0]} if lost else {"text": text}
                if form in NO_SYSTEM_TURN and any(r == S for r, _ in conversation[1:]):
                    one = {"conversation": i, "generate": generate, "refused": "no system turn"}
            except (Refused, TemplateError) as e:
                one["refused"] = str(e)
            out.append(one)
    return out


def write_vectors(path, name, results):
    form, bos, eos = FORMATS.get(name, ("", "<s>", "</s>"))
    head = {"template": name, "format": form, "bos": bos, "eos": eos}
    if name in DEFAULT_SYSTEM:
        head["default_system"] = DEFAULT_SYSTEM[name]
    if name in DATED:
        head["date"] = DATE
    with open(path, "w", encoding="utf-8") as f:
        f.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "results": [\n')
        f.write(",\n".join(json.dumps(r, ensure_ascii=False) for r in results) + "\n]}\n")


def main():
    args = sys.argv[1:]
    if len(args) not in (1, 3) or (len(args) == 3 and args[1] != "--check"):
        sys.exit(__doc__)
    out = os.path.join(HERE, "chat")
    os.makedirs(out, exist_ok=True)
    for file in sorted(os.listdir(args[0])):
        name, dot = os.path.splitext(file)
        if dot != ".jinja":
            continue
        with open(os.path.join(args[0], file), encoding="utf-8", newline="") as f:
            source = f.read()
        form, bos, eos = FORMATS.get(name, ("", "<s>", "</s>"))
        try:
            results = results_of(source, form, bos, eos)
        except Exception as e:  # a template that wants more than these
            print(f"{name}: not rendered: {e}")
            continue
        if len(args) == 3:
            with tempfile.TemporaryDirectory() as d:
                write_vectors(os.path.join(d, "v.json"), name, results)
                p = subprocess.run([args[2], os.path.join(args[0], file), os.path.join(d, "v.json")],
                                   capture_output=True, text=True, cwd=os.path.join(HERE, "../.."))
                print(f"{name}: {p.stdout.strip()}")
        elif form:
            write_vectors(os.path.join(out, name + ".json"), name, results)
    if len(args) == 1:
        with open(os.path.join(out, "conversations.json"), "w", encoding="utf-8") as f:
            f.write("[\n" + ",\n".join(json.dumps([{"role": r, "content": t} for r, t in c], ensure_ascii=False)
                                       for c in CONVERSATIONS) + "\n]\n")


main()
