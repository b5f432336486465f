#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The unmodified `openai` client against `weir serve`: completions and chats, whole and streamed, log-probabilities, n, stop,
seed, usage, errors as its exception classes, a stream that is closed in the middle, keys.

usage: openai_test.py WEIR   run by an interpreter that has the `openai` package (tools/test_python.sh makes one)
Exit status 77: SKIP, for want of the package or of `weir serve`.
"""
import asyncio
import math
import os
import sys
import time
import urllib.request

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import served  # noqa: E402

try:
    import openai
except ImportError:
    served.skip("openai_test", f"no `openai` package for {sys.executable}: tools/test_python.sh says why")

PROMPT = "Question: Convert 7 hours and 25 minutes to minutes.\nAnswer:"
TALE = "Once upon a time there was"
CHAT = [{"role": "user", "content": "Convert 7 hours and 25 minutes to minutes."}]


def need(is_so, what):
    if not is_so:
        raise SystemExit(f"openai_test: {what}")


def raises(kind, what, call):
    try:
        call()
    except kind as e:
        return e
    raise SystemExit(f"openai_test: {what}: {kind.__name__} was not raised")


def completions(c, model):
    whole = c.completions.create(model=model, prompt=TALE, max_tokens=24, temperature=0)
    need(whole.object == "text_completion" and len(whole.choices) == 1, "shape of a completion")
    need(whole.choices[0].finish_reason == "length" and whole.usage.completion_tokens == 24, f"its end: {whole}")
    need(whole.usage.total_tokens == whole.usage.prompt_tokens + 24, "total tokens")
    own = whole.usage.model_extra["weir"]
    need(sum(own["tokens_by_tier"].values()) == 24, f"tokens by tier: {own}")
    parts = list(c.completions.create(model=model, prompt=TALE, max_tokens=24, temperature=0, stream=True,
                                      stream_options={"include_usage": True}))
    text = "".join(p.choices[0].text for p in parts if p.choices)
    need(text == whole.choices[0].text, f"streamed {text!r}, whole {whole.choices[0].text!r}")
    need(not parts[-1].choices and parts[-1].usage.completion_tokens == 24, "usage comes last")
    need([p.choices[0].finish_reason for p in parts if p.choices][-1] == "length", "end of the stream")


def sampling(c, model):
    def text(**more):
        return c.completions.create(model=model, prompt=TALE, max_tokens=32, **more).choices[0].text

    need(text(temperature=1, seed=7) == text(temperature=1, seed=7), "the same seed, the same text")
    need(len({text(temperature=1, seed=s) for s in range(6)}) > 1, "other seeds, other texts")
    need(text(temperature=1, top_p=0, seed=3) == text(temperature=0), "top_p 0 is greedy")
    many = c.completions.create(model=model, prompt=TALE, max_tokens=8, n=3, temperature=1, seed=1)
    need([x.index for x in many.choices] == [0, 1, 2] and many.usage.completion_tokens == 24, f"n: {many}")
    need(many.usage.weir["seed"] == 1, f"the seed that was asked for: {many.usage}")
    two = c.completions.create(model=model, prompt=[TALE, PROMPT], max_tokens=4, temperature=0)
    need(len(two.choices) == 2 and two.choices[0].text == text(temperature=0)[:len(two.choices[0].text)], "two prompts")
    base = text(temperature=0)
    word = next(w for w in base.split() if len(w) > 2)
    cut = c.completions.create(model=model, prompt=TALE, max_tokens=32, temperature=0, stop=[word])
    need(cut.choices[0].finish_reason == "stop" and word not in cut.choices[0].text
         and base.startswith(cut.choices[0].text), f"stop {word!r}: {cut.choices[0].text!r} of {base!r}")
    loops = text(temperature=0, logit_bias={})
    need(loops == base, "an empty bias")
    first = c.completions.create(model=model, prompt=TALE, max_tokens=1, temperature=0, logprobs=3).choices[0]
    best = first.logprobs.tokens[0]
    need(best == first.text and len(first.logprobs.top_logprobs[0]) == 3, f"logprobs: {first}")
    need(abs(first.logprobs.top_logprobs[0][best] - first.logprobs.token_logprobs[0]) < 1e-4, "the token's own")
    need(text(temperature=0, extra_body={"repetition_penalty": 5.0, "ignore_eos": True}) != base, "repetition penalty")
    need(text(temperature=0, presence_penalty=2, frequency_penalty=2) != "", "penalties")


def chats(c, model):
    whole = c.chat.completions.create(model=model, messages=CHAT, max_completion_tokens=48, temperature=0, logprobs=True,
                                      top_logprobs=2)
    m = whole.choices[0]
    need(m.message.role == "assistant" and "445" in m.message.content, f"answer {m.message.content!r}")
    need(m.finish_reason == "stop", f"finish {m.finish_reason}")
    at = m.logprobs.content
    need(len(at) > 3 and all(t.logprob <= 0 and len(t.top_logprobs) == 2 for t in at), "logprobs of a chat")
    need(all(math.isfinite(t.logprob) for t in at), "finite logprobs")
    parts = list(c.chat.completions.create(model=model, messages=CHAT, max_tokens=48, temperature=0, stream=True))
    need(parts[0].choices[0].delta.role == "assistant", "the role comes first")
    text = "".join(p.choices[0].delta.content or "" for p in parts if p.choices)
    need(text == m.message.content, f"streamed {text!r}, whole {m.message.content!r}")
    ends = [p.choices[0].finish_reason for p in parts if p.choices and p.choices[0].finish_reason]
    need(ends == ["stop"], f"one end: {ends}")
    small = c.chat.completions.create(model=model, messages=CHAT, max_tokens=48, temperature=0,
                                      extra_body={"weir": {"pin": True, "receipts": True}})
    tiers = {t["tier"] for t in small.choices[0].model_extra["weir"]["tokens"]}
    need(tiers == {"small"}, f"pinned, written by {tiers}")
    need(small.usage.model_extra["weir"]["steps_by_tier"]["large"] == 0, "pinned: no step of the large model")


def errors(c, model):
    create = c.completions.create
    raises(openai.NotFoundError, "an unknown model", lambda: create(model="gpt-4", prompt="x"))
    rows = (({"temperature": -1}, "temperature"), ({"top_p": -0.1}, "top_p"), ({"max_tokens": -5}, "max_tokens"), ({"n": 100000}, "n"),
            ({"presence_penalty": 3}, "presence_penalty"), ({"logit_bias": {"99999999": 1}}, "logit_bias"), ({"stop": [""]}, "stop"),
            ({"extra_body": {"weir": {"mode": "best"}}}, "weir.mode"), ({"extra_body": {"top_k": -2}}, "top_k"),
            ({"extra_body": {"stop_token_ids": [99999999]}}, "stop_token_ids"), ({"prompt": [99999999]}, "prompt"),
            ({"max_tokens": 10 ** 9, "prompt": "x " * 5000}, None))
    for bad, param in rows:
        e = raises(openai.BadRequestError, str(bad), lambda b=bad: create(**{"model": model, "prompt": "x", **b}))
        need(e.body and e.body.get("message"), f"{bad}: no message in {e.body}")
        need(param is None or e.param == param, f"{bad}: param is {e.param}")
    raises(openai.BadRequestError, "a role", lambda: c.chat.completions.create(model=model, messages=[{"role": "robot", "content": "x"}]))
    raises(openai.BadRequestError, "no messages", lambda: c.chat.completions.create(model=model, messages=[]))


def hang_up(c, model, url):
    """A stream that is closed in the middle: the engine is free again at once."""
    stream = c.completions.create(model=model, prompt=TALE, max_tokens=480, stream=True, temperature=1,
                                  extra_body={"ignore_eos": True, "weir": {"mode": "large"}})
    next(iter(stream))
    stream.close()
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with urllib.request.urlopen(url + "stats", timeout=10) as r:
            if b'"running":0' in r.read().replace(b" ", b""):
                return
        time.sleep(0.02)
    raise SystemExit("openai_test: a request whose stream was closed goes on")


def together(url, model, want):
    """Many at once through the asynchronous client: each has the text it has alone."""
    async def run():
        async with openai.AsyncOpenAI(base_url=url + "v1", api_key="none", max_retries=0) as a:
            one = a.chat.completions.create
            return await asyncio.gather(*(one(model=model, messages=CHAT, max_tokens=48, temperature=0) for _ in range(24)))

    for r in asyncio.run(run()):
        need(r.choices[0].message.content == want, f"in company {r.choices[0].message.content!r}, alone {want!r}")


def keys(weir):
    server = served.Server(weir, env={"WEIR_API_KEY": "sesame"})
    try:
        c = openai.OpenAI(base_url=server.url + "v1", api_key="sesame", max_retries=0)
        need(c.models.list().data[0].id == "weir-demo", "the right key")
        wrong = openai.OpenAI(base_url=server.url + "v1", api_key="sesam", max_retries=0)
        raises(openai.AuthenticationError, "a wrong key", wrong.models.list)
    finally:
        server.stop()


def main():
    weir = sys.argv[1]
    if served.missing(weir):
        served.skip("openai_test", served.missing(weir))
    server = served.Server(weir)
    try:
        c = openai.OpenAI(base_url=server.url + "v1", api_key="none", max_retries=0, timeout=60)
        model = c.models.list().data[0].id
        need(c.models.retrieve(model).id == model, "one model by its name")
        completions(c, model)
        sampling(c, model)
        chats(c, model)
        errors(c, model)
        hang_up(c, model, server.url)
        together(server.url, model, c.chat.completions.create(model=model, messages=CHAT, max_tokens=48, temperature=0)
                 .choices[0].message.content)
    finally:
        server.stop()
    keys(weir)
    print(f"openai {openai.__version__}: completions, chats, streams, sampling, errors, hang-up, keys")


if __name__ == "__main__":
    main()
