#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the first inputs of fuzz_http and fuzz_openai: tests/fuzz/corpus/{http,openai}."""
import json
import pathlib

here = pathlib.Path(__file__).parent / "corpus"


def write(folder, inputs):
    at = here / folder
    at.mkdir(parents=True, exist_ok=True)
    for name, data in inputs.items():
        (at / name).write_bytes(data)


host = b"Host: a\r\n"
post = b"POST /v1/completions HTTP/1.1\r\n" + host
chunked = b"Transfer-Encoding: chunked\r\n"
write("http", {
    "get": b"GET /health HTTP/1.1\r\n" + host + b"\r\n",
    "get_1_0": b"GET / HTTP/1.0\r\n\r\n",
    "head_options": b"HEAD / HTTP/1.1\r\n" + host + b"\r\nOPTIONS * HTTP/1.1\r\n" + host + b"\r\n",
    "absolute": b"GET http://a.b/c?d=e HTTP/1.1\r\n" + host + b"\r\n",
    "slashes": b"GET ///x/../%2e%2e?y#z HTTP/1.1\r\n" + host + b"\r\n",
    "post": post + b"Content-Type: application/json\r\nContent-Length: 13\r\n\r\n{\"prompt\":\"\"}",
    "pipelined": post + b"Content-Length: 2\r\n\r\n{}" + post + chunked + b"\r\n2\r\n{}\r\n0\r\n\r\nGET / HTTP/1.1\r\n" + host + b"Connection: close\r\n\r\n",
    "chunks": post + chunked + b"\r\n1;a=b\r\n{\r\n0001\r\n}\r\n0\r\nTrailer: x\r\n\r\n",
    "both_lengths": post + b"Content-Length: 2\r\n" + chunked + b"\r\n0\r\n\r\n",
    "two_lengths": post + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "bare_lf": b"GET / HTTP/1.1\nHost: a\n\n",
    "no_host": b"GET / HTTP/1.1\r\n\r\n",
    "folded": b"GET / HTTP/1.1\r\n" + host + b"A: b\r\n c\r\n\r\n",
    "expect": post + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
    "large": post + b"Content-Length: 999999999999\r\n\r\n",
    "methods": b"DELETE / HTTP/1.1\r\n" + host + b"\r\nBREW / HTTP/1.1\r\n" + host + b"\r\n",
    "version": b"GET / HTTP/2.0\r\n" + host + b"\r\n",
    "smuggled": post + chunked + b"\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\n" + host + b"X: y\r\n\r\n",
    "empty_line": b"\r\nGET / HTTP/1.1\r\n" + host + b"\r\n",
})


def request(kind, body, tokens=(b"Hel", b"lo", b" w\xc3", b"\xb6rld", b"\"\n\xff")):
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return bytes([kind]) + text + b"\0" + b"\xfe".join(tokens)


chat = [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None}, {"role": "user", "content": "c"}]
everything = {"model": "m", "n": 2, "max_tokens": 5, "max_completion_tokens": 7, "min_tokens": 2, "stop": ["S", "T"], "stop_token_ids": [3, 4],
              "ignore_eos": True, "temperature": 0.5, "top_p": 0.25, "top_k": 9, "min_p": 0.125, "seed": 11, "presence_penalty": 1,
              "frequency_penalty": -1, "repetition_penalty": 1.5, "logit_bias": {"5": -100, "6": 2.5}, "stream": True,
              "stream_options": {"include_usage": True}, "priority": -3, "deadline_ms": 900, "user": "u",
              "weir": {"mode": "exact", "entropy": 0.75, "pin": True, "receipts": True}}
settings = {"mode": "speculate", "accept": "typical", "accept_epsilon": 0.09, "accept_delta": 0.3, "window": 8, "horizon": 40,
            "gate": "margin", "threshold": "0.2", "hold": 2, "fusion_weight": 1.5, "defer_wait": 30, "receipts": True,
            "spans": [{"threshold": 1.5, "start": "```", "end": "```"}, {"threshold": -1, "start": "=", "end": None}]}
write("openai", {
    "completion": request(0, {"prompt": "x"}),
    "completion_all": request(0, {**everything, "prompt": ["a", "b"], "logprobs": 3, "add_special_tokens": False}),
    "settings": request(0, {"prompt": "x", "guided_choice": ["yes", "no", "no way"], "max_tokens": 9, "weir": settings}),
    "settings_chat": request(1, {"messages": chat, "stream": True, "weir": {**settings, "mode": "auto", "quality": "exact"}}),
    "settings_route": request(0, {"prompt": "x", "weir": {"mode": "route", "route_prompt": 8, "route_after": "end", "route_share": 0.25, "defer_rate": 0.5}}),
    "settings_wrong": request(0, b'{"prompt":"x","weir":{"window":[],"hold":null,"accept":true,"threshold":1e308}}'),
    "settings_numbers": request(0, b'{"prompt":"x","weir":{"window":-9223372036854775808,"accept_alpha":-1e-300,"threshold":"inf"}}'),
    "spans_wrong": request(0, {"prompt": "x", "weir": {"spans": [{"threshold": 1, "start": "a"}, {"start": ""}, 7]}}),
    "choices_wrong": request(0, {"prompt": "x", "guided_choice": ["a", ""]}),
    "completion_ids": request(0, {"prompt": [[1, 2], [3]]}),
    "completion_flat_ids": request(0, {"prompt": [1, 2.0]}),
    "chat": request(1, {"messages": chat}),
    "chat_all": request(1, {**everything, "messages": chat, "logprobs": True, "top_logprobs": 2}),
    "chat_refused": request(1, {"messages": chat, "tools": [{"type": "function"}], "response_format": {"type": "json_object"}}),
    "chat_image": request(1, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}),
    "tokenize": request(2, {"prompt": "x"}, ()),
    "tokenize_chat": request(2, {"messages": chat}, ()),
    "detokenize": request(3, {"tokens": [1, 2, 3]}, ()),
    "numbers": request(0, b'{"prompt":"x","seed":-9223372036854775808,"n":8.0,"max_tokens":1e30,"temperature":-0.0}'),
    "twice": request(0, b'{"prompt":"x","prompt":"y"}'),
    "deep": request(0, b'{"prompt":' + b"[" * 100),
    "not_utf8": request(0, b'{"prompt":"\xff"}'),
    "weir_unknown": request(0, {"prompt": "x", "weir": {"speed": 1}}),
})
