#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of fuzz_rpc into tests/fuzz/corpus/rpc: conversations of a client with the server. Needs nothing but
Python; the encoding of protobuf is a few lines. Run from the repository root."""
import os
import struct
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from proto_wire import f32, packed, s as raw, u as num  # noqa: E402

SUBMIT, POLL, CANCEL, STATS, MODELS, TOKENIZE, DETOKENIZE, HEALTH, SKIP, TURN = range(1, 11)


def sid(n):
    return bytes([n]) * 16


def submit(session, request, *fields):
    return SUBMIT, raw(2, sid(session)) + raw(3, sid(request)) + b"".join(fields)


def poll(session, *cursors, wait=1000, most=0):
    body = raw(2, sid(session))
    for request, have, done in cursors:
        body += raw(3, raw(1, sid(request)) + num(2, have) + num(3, done))
    return POLL, body + num(4, wait) + num(5, most)


def cancel(session, *requests):
    return CANCEL, raw(2, sid(session)) + b"".join(raw(3, sid(r)) for r in requests)


def setting(name, value):
    return raw(7, raw(1, name) + raw(2, value))


def span(threshold, start, end=""):
    return raw(8, f32(1, threshold) + raw(2, start) + raw(3, end))


IDS = packed(6, [5, 6, 7, 8])
SMALL = raw(15, raw(1, "small"))
TURNS = [(TURN, b"")] * 4

SEEDS = {
    "prompt": [submit(1, 9, raw(5, "Once upon"), num(8, 4)), poll(1, (9, 0, 0))] + TURNS + [poll(1, (9, 4, 1))],
    "ids": [submit(1, 9, IDS, num(8, 6), num(12, 1), SMALL), *TURNS, poll(1, (9, 0, 0), wait=0), poll(1, (9, 6, 1), wait=0)],
    "chat": [submit(1, 9, raw(7, raw(1, "user") + raw(2, "hello")), num(8, 3), num(19, 1), num(18, 5)), poll(1, (9, 0, 0))]
    + TURNS,
    "twice": [submit(1, 9, IDS, num(8, 3)), submit(1, 9, IDS, num(8, 3)), submit(2, 9, IDS, num(8, 3)), poll(2, (9, 0, 0))],
    "cancel": [submit(1, 9, IDS, num(8, 200), num(12, 1)), poll(1, (9, 0, 0)), cancel(1, 9), cancel(1), cancel(2, 7),
               submit(2, 7, IDS)] + TURNS,
    "replaced": [submit(1, 9, IDS, num(8, 200)), poll(1, (9, 200, 0), wait=9000), poll(1, (9, 200, 0), wait=9000)],
    "gone": [submit(1, 9, IDS, num(8, 200)), poll(1, (9, 0, 0)), (SKIP, bytes(40)), (TURN, b""), poll(1, (9, 0, 0))],
    "small-reply": [submit(1, 9, IDS, num(8, 100), num(12, 1)), *TURNS, poll(1, (9, 0, 0), most=1), poll(1, (9, 50, 0), most=1)],
    "full": [submit(s, 10 * s + i, IDS, num(8, 300), num(12, 1)) for s in range(1, 6) for i in range(5)] + TURNS,
    "sampling": [submit(1, 9, IDS, num(8, 5), raw(14, f32(1, 0.7) + num(2, 40) + f32(3, 0.9) + f32(4, 0.05) + num(5, 42)
                        + f32(6, 0.5) + f32(7, -0.5) + f32(8, 1.1) + raw(9, num(1, 7) + f32(2, -100)))), poll(1, (9, 0, 0))],
    "cascade": [submit(1, 9, IDS, num(8, 5), raw(15, raw(1, "defer") + f32(2, 0.5))),
                submit(1, 8, IDS, num(8, 5), raw(15, num(3, 1))), submit(1, 7, IDS, raw(15, raw(1, "large"))),
                poll(1, (9, 0, 0), (8, 0, 0), (7, 0, 0))],
    "stops": [submit(1, 9, IDS, num(8, 50), raw(10, "a"), raw(10, " the"), packed(11, [9, 10]), num(9, 2)), poll(1, (9, 0, 0))]
    + TURNS,
    "settings": [submit(1, 9, IDS, num(8, 40), num(19, 1), raw(15, raw(1, "exact") + setting("window", "3") + setting("gate", "entropy"))),
                 submit(1, 8, IDS, num(8, 30), raw(15, raw(1, "defer") + setting("threshold", "0.5") + setting("fusion_weight", "1.5")
                        + setting("defer_wait", "5") + span(0.4, "a", "b") + span(2, "c"))), poll(1, (9, 0, 0), (8, 0, 0))] + TURNS
    + [poll(1, (9, 40, 0), (8, 30, 1))],
    "settings-wrong": [submit(1, n, IDS, raw(15, s)) for n, s in enumerate((
        setting("window", "8") * 2, setting("window", "wide"), setting("", ""), raw(7, b""), setting("quality", "exact"),
        setting("x" * 300, "y" * 300), setting("hold", "3") * 40, span(float("nan"), "a", "b"), span(1, "", "b"), raw(8, b""),
        span(1, "a", "b") * 17, raw(1, "small") + span(1, "a", "b")), 1)],
    "choices": [submit(1, 9, raw(5, "Once upon"), num(8, 9), raw(22, "a"), raw(22, "bc"), raw(22, "b"), num(19, 1)),
                submit(1, 8, raw(5, "Once"), num(8, 1), raw(22, "no end of it")), submit(1, 7, raw(5, "Once"), raw(22, "a"), raw(10, "a")),
                submit(1, 6, raw(5, "Once"), raw(22, "")), submit(1, 5, raw(5, "Once"), raw(22, b"\xff")),
                submit(1, 4, raw(5, "Once"), raw(22, "x" * 3000) * 20), poll(1, (9, 0, 0), (8, 0, 0), (7, 0, 0))] + TURNS
    + [poll(1, (9, 2, 0), (8, 0, 0))],
    "deadline": [submit(1, 9, IDS, num(8, 300), num(17, 1), num(16, 3)), (SKIP, bytes(2)), poll(1, (9, 0, 0))] + TURNS,
    "long": [submit(1, 9, packed(6, [5] * 600)), poll(1, (9, 0, 0))] + TURNS,
    "questions": [(STATS, b""), (MODELS, b""), (HEALTH, b""), (TOKENIZE, raw(2, "hello world")),
                  (TOKENIZE, raw(5, raw(1, "user") + raw(2, "hi"))), (DETOKENIZE, packed(2, [5, 6, 7])), (TOKENIZE, b"")] + TURNS,
    "wrong": [(SUBMIT, b""), (POLL, b"\x12\x01a"), (0, b"WEIR"), (0, b"WEIR\x02\x01\x00\x00"), (SUBMIT, b"\x12\xff\xff\xff\x0f"),
              submit(1, 9), submit(1, 9, IDS, raw(5, "too")), submit(1, 9, IDS, num(8, 1 << 31)), submit(1, 9, raw(4, "other"), IDS)],
}


def main():
    folder = "tests/fuzz/corpus/rpc"
    os.makedirs(folder, exist_ok=True)
    for name, steps in SEEDS.items():
        with open(os.path.join(folder, name), "wb") as f:
            for op, body in steps:
                f.write(bytes([op]) + struct.pack("<H", len(body)) + body)


if __name__ == "__main__":
    main()
