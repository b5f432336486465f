#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seed inputs of fuzz_frame and fuzz_reply: corpus/frame, corpus/reply. One frame of each kind, full of fields, and some that are wrong; field numbers
are those of proto/weir.proto. Inputs found by fuzzing are added beside them by hand (found-*)."""
import os
import struct
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from proto_wire import f32, f64, packed, s, u  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))


def frame(kind, body, version=1, zero=0):
    return b"WEIR" + bytes([version, kind]) + struct.pack("<H", zero) + body


SESSION, REQUEST = bytes(range(16)), bytes(range(100, 116))
SAMPLING = f32(1, 0.0) + u(2, 40) + f32(3, 0.9) + f32(4, 0.05) + u(5, 2**64 - 1) + f32(6, 1) + f32(7, -1) + f32(8, 1.1) + s(9, u(1, 7) + f32(2, -100))
CASCADE = s(1, "rollback") + f32(2, 0.45) + u(3, 1)
SETTINGS = f32(4, 0.2) + u(5, 8) + f32(6, 0.5) + s(7, s(1, "window") + s(2, "8")) + s(7, s(1, "accept_nll") + s(2, "2.5")) + s(8, f32(1, 1.5) + s(2, "```") + s(3, "```")) + s(8, f32(1, -1) + s(2, "="))
CHAT = s(7, s(1, "system") + s(2, "Be brief.")) + s(7, s(1, "user") + s(2, "Grüße, 世界 \U0001f600"))
SUBMIT = s(1, "secret") + s(2, SESSION) + s(3, REQUEST) + s(4, "pair")
REST = u(8, 64) + u(9, 1) + s(10, "\n\n") + s(10, "END") + packed(11, [2, 3]) + u(12, 1) + s(14, SAMPLING) + s(15, CASCADE) + u(16, 5) + u(17, 1000) + u(18, 5) + u(19, 1) + s(20, "tenant")
TOKEN = s(1, b" \xe4\xb8") + u(2, 11) + f32(3, -0.5) + s(4, u(1, 11) + f32(2, -0.5) + s(3, " x")) + u(5, 1) + s(6, "deferred") + f32(7, 1.2) + f32(8, 0.4) + f32(9, 0.1) + u(10, 900) + u(11, 1)
ERROR = u(1, 429) + s(2, "256 requests wait already") + u(3, 1000) + s(4, "prompt")
USAGE = u(1, 5) + u(2, 4) + u(3, 2) + packed(4, [1, 1]) + packed(5, [3, 1]) + packed(6, [9, 6]) + u(7, 1) + u(8, 10) + u(9, 2000) + u(10, 9000) + u(11, 42) + s(12, "rollback") + f32(13, 0.45)
COST = u(15, 9) + u(16, 3) + f32(17, float("inf")) + f32(18, 0.2) + u(19, 2) + u(20, 1) + s(21, "large") + f32(22, 0.4) + s(23, f64(1, 1e9) + f64(2, 5e6) + f64(3, 4096)) * 2 + f64(24, 2e9) + f64(25, 7e6)
UPDATE = s(1, REQUEST) + u(2, 3) + u(3, 5) + u(4, 7) + s(5, TOKEN) * 3 + s(6, s(1, "stop") + s(2, "END") + s(3, USAGE))
FAILED = s(1, SESSION) + u(2, 3) + s(6, s(1, "error") + s(4, ERROR))
HEALTH = u(1, 1) + s(3, "draining") + u(4, 3) + u(5, 2) + u(6, 256)
TIER = s(1, "small") + s(2, "small.gguf") + s(3, "q4_K") + u(4, 10**9) + u(5, 4096) + u(6, 512) + s(7, "cpu")
MODELS = s(1, "pair") + u(2, 4096) + u(3, 32000) + s(4, "chatml") + s(5, TIER) * 2 + s(6, "defer") + s(6, "exact") + s(7, "defer") + f32(8, 0.45) + f32(9, 0) + f32(10, 3) + u(11, 256) + s(12, "0.1.0") + u(13, 4 << 20)
FAMILY = s(1, "weir:step_seconds") + s(2, "Time of a step") + u(3, 2) + s(4, s(1, s(1, "tier") + s(2, "small")) + s(3, f64(1, 0.1) + u(2, 3)) + s(3, f64(1, float("inf")) + u(2, 4)) + f64(4, 0.7) + u(5, 4))

SEEDS = {
    "submit-prompt": frame(1, SUBMIT + s(5, "Once upon a time") + REST),
    "submit-ids": frame(1, SUBMIT + packed(6, [1, 2, 300, 70000]) + REST),
    "submit-ids-unpacked": frame(1, SUBMIT + u(6, 1) + u(6, 300)),
    "submit-chat": frame(1, SUBMIT + CHAT + REST),
    "submit-settings": frame(1, SUBMIT + s(5, "Once") + REST + s(15, SETTINGS) + s(22, "yes") + s(22, "no")),
    "submit-settings-cut": frame(1, SUBMIT + s(5, "Once") + s(15, SETTINGS[:-2])),
    "submit-settings-many": frame(1, SUBMIT + s(5, "Once") + s(15, s(7, b"") * 300 + s(8, b"") * 300) + s(22, b"") * 300),
    "submit-reply": frame(0x81, u(1, 1) + u(2, 3)),
    "poll": frame(2, s(1, "secret") + s(2, SESSION) + s(3, s(1, REQUEST) + u(2, 7)) + s(3, s(1, SESSION) + u(3, 1)) + u(4, 5000) + u(5, 1 << 20)),
    "poll-reply": frame(0x82, s(1, UPDATE) + s(1, FAILED) + u(3, 1)),
    "poll-replaced": frame(0x82, u(2, 1)),
    "cancel": frame(3, s(2, SESSION) + s(3, REQUEST) * 2),
    "cancel-reply": frame(0x83, u(1, 2)),
    "stats": frame(4, s(1, "secret")),
    "stats-reply": frame(0x84, s(1, HEALTH) + s(2, FAMILY) * 2 + s(3, "pair")),
    "models": frame(5, b""),
    "models-reply": frame(0x85, MODELS),
    "tokenize": frame(6, s(2, "a b") + u(3, 1)),
    "tokenize-chat": frame(6, CHAT.replace(b"\x3a", b"\x2a")),
    "tokenize-reply": frame(0x86, packed(1, [4, 5]) + s(2, "a") + s(2, b"\xff")),
    "detokenize": frame(7, packed(2, [4, 5, 6])),
    "detokenize-reply": frame(0x87, s(1, b"ab\x00c")),
    "health": frame(8, b""),
    "health-reply": frame(0x88, HEALTH),
    "error": frame(0xFF, ERROR),
    "unknown-fields": frame(8, u(100, 1) + s(101, b"\xff") + f32(102, 1) + f64(103, 1)),
    "version": frame(8, b"", version=2),
    "reserved": frame(8, b"", zero=1),
    "empty-parts": frame(1, s(7, b"") * 400),
    "latin-1": frame(1, s(5, b"h\xe9")),
    "cut": frame(1, SUBMIT)[:-3],
}

# fuzz_reply's request has two tokens
REPLIES = {name: data for name, data in SEEDS.items() if data[5] & 0x80}
REPLIES["poll-next"] = frame(0x82, s(1, s(1, REQUEST) + u(2, 2) + u(3, 5) + u(4, 2) + s(5, TOKEN)))
REPLIES["poll-again"] = frame(0x82, s(1, s(1, REQUEST) + u(2, 2) + s(5, TOKEN) * 4) * 2)
REPLIES["poll-end"] = frame(0x82, s(1, s(1, REQUEST) + u(2, 3) + u(4, 1) + s(5, TOKEN) * 3 + s(6, s(1, "stop") + s(2, "END") + s(3, USAGE))) * 2)
REPLIES["poll-gap"] = frame(0x82, s(1, UPDATE))
REPLIES["poll-cost"] = frame(0x82, s(1, s(1, REQUEST) + u(2, 3) + u(4, 2) + s(6, s(1, "eos") + s(3, USAGE + COST))))
REPLIES["poll-costs-of-many"] = frame(0x82, s(1, s(1, REQUEST) + u(2, 3) + u(4, 2) + s(6, s(1, "eos") + s(3, s(21, "x" * 99) + s(23, f64(1, float("nan"))) * 9))))
REPLIES["poll-unknown"] = frame(0x82, s(1, s(1, REQUEST) + u(2, 4)))
REPLIES["poll-failed"] = frame(0x82, s(1, s(1, REQUEST) + u(2, 3) + u(4, 2) + s(6, s(1, "error") + s(4, ERROR))))


def main():
    folder = os.path.join(HERE, "corpus", "frame")
    os.makedirs(folder, exist_ok=True)
    for name, data in SEEDS.items():
        for budget, mark in ((0, ""), (65, "-tight")):
            if mark and "repl" not in name and "submit" not in name:
                continue
            with open(os.path.join(folder, name + mark), "wb") as out:
                out.write(bytes([budget]) + data)
    folder = os.path.join(HERE, "corpus", "reply")
    os.makedirs(folder, exist_ok=True)
    for name, data in REPLIES.items():
        with open(os.path.join(folder, name), "wb") as out:
            out.write(bytes([(data[5] & 0x7F) - 1 & 0xFF if data[5] != 0xFF else 1]) + data)


main()
