#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of fuzz_crew into tests/fuzz/corpus/crew: what a leader is asked by two workers, and what a worker is
answered (engine/comm/crew_wire.h). Inputs found by fuzzing are added beside them by hand (found-*)."""
import os
import struct

TO_LEADER, WAIT, LEADER_SENDS, ON_UP, ON_DOWN, WORKER_SENDS, BREAK = range(7)
HELLO, POLL, UP, BYE = range(1, 5)
WELCOME, REFUSED, WAIT_A_BIT, DOWN, TAKEN, UNKNOWN, GOODBYE = range(0x81, 0x88)
OWN = 2**64 - 1  # the fuzz target puts the worker's link in its place


def frame(kind, node=1, link=77, turn=0, at=0, beat=0, data=b"", version=1, magic=b"WCRW"):
    return magic + bytes([version, kind]) + struct.pack("<HQQQQ", node, link, turn, at, beat) + data


def text(s):
    return struct.pack("<H", len(s)) + s


def hello(incarnation=9, bound=10**9, nodes=3, pid=11, host=b"gpu17", token=b"secret", version=b"1"):
    return struct.pack("<QQII", incarnation, bound, nodes, pid) + text(host) + text(token) + text(version)


def message(body):
    return struct.pack("<I", len(body)) + body


def rec(what, data=b""):
    return bytes([what]) + struct.pack("<H", len(data)) + data


def wait(hundredths):
    return bytes([WAIT]) + struct.pack("<H", hundredths)


def ask(*a, **k):
    return rec(TO_LEADER, frame(*a, **k))


def up(*a, **k):
    return rec(ON_UP, frame(*a, link=OWN, **k))


def down(*a, **k):
    return rec(ON_DOWN, frame(*a, link=OWN, **k))


JOIN = ask(HELLO, data=hello())
WELCOMED = up(WELCOME, data=hello(token=b"", version=b""))
SEEDS = {
    "join": JOIN + JOIN + ask(POLL, turn=1),
    "talk": JOIN + ask(POLL, turn=1, at=0) + rec(LEADER_SENDS, b"\x01hello") + ask(POLL, turn=2, at=7)
    + ask(UP, at=0, data=message(b"ready") + message(b"")) + ask(POLL, turn=3, at=17) + ask(BYE),
    "parts": JOIN + ask(UP, at=0, data=message(b"0123456789")[:7]) + ask(UP, at=3, data=message(b"0123456789")[3:9]) + ask(UP, at=9, data=b"56789" + message(b"x")),
    "gap": JOIN + ask(UP, at=4, data=b"abcd"),
    "huge": JOIN + ask(UP, at=0, data=b"\xff\xff\xff\xff" + b"x" * 20),
    "ahead": JOIN + ask(POLL, turn=1, at=2**63) + ask(POLL, turn=0),
    "again": JOIN + ask(HELLO, link=78, data=hello()) + ask(POLL, link=77) + ask(POLL, link=78, turn=1),
    "rival": JOIN + ask(POLL, turn=1, at=0) + ask(HELLO, link=5, data=hello(incarnation=6)) + ask(POLL, turn=2, beat=1, at=7) + ask(HELLO, link=5, beat=1, data=hello(incarnation=6)),
    "silence": JOIN + ask(POLL, turn=1) + wait(34) + ask(POLL, turn=2) + wait(101) + wait(60) + ask(POLL, turn=3) + rec(LEADER_SENDS, b"\x01x"),
    "broken": JOIN + ask(HELLO, node=2, link=8, data=hello(pid=12)) + ask(POLL, turn=1, at=7) + rec(BREAK) + wait(15) + ask(POLL, turn=2, beat=1, at=7) + wait(20) + wait(20),
    "two": JOIN + ask(HELLO, node=2, link=8, data=hello(pid=12)) + rec(LEADER_SENDS, b"\x02x") + ask(POLL, node=2, link=8, turn=1) + wait(50),
    "refused": b"".join(ask(HELLO, node=n, data=hello(**k)) for n, k in ((1, {"token": b"wrong"}), (1, {"version": b"2"}), (1, {"nodes": 4}), (3, {}), (0, {}), (1, {"bound": 0}), (1, {"bound": 2**63}), (1, {"incarnation": 0}))),
    "malformed": rec(TO_LEADER) + rec(TO_LEADER, b"WCRW") + ask(0) + ask(9) + ask(WELCOME) + ask(HELLO, magic=b"WEIR") + ask(HELLO, version=2, data=hello()) + ask(HELLO, data=hello()[:-1]) + ask(HELLO, data=hello() + b"x") + ask(HELLO, data=hello(host=b"h" * 64)),
    "worker": WELCOMED + down(DOWN, at=0, data=message(b"run")) + rec(WORKER_SENDS, b"done") + up(TAKEN, at=7) + up(TAKEN, at=15) + down(DOWN, at=7),
    "worker-refused": up(REFUSED, data=b"no\x1b[31m") + wait(200),
    "worker-waits": up(WAIT_A_BIT, beat=3, data=b"wait") + wait(10) + WELCOMED,
    "worker-goodbye": WELCOMED + down(GOODBYE) + up(TAKEN) + wait(10) + WELCOMED,
    "worker-unknown": WELCOMED + down(UNKNOWN, beat=9) + WELCOMED + up(TAKEN, at=7) + rec(WORKER_SENDS, b"x") + up(UNKNOWN, beat=4),
    "worker-lies": WELCOMED + down(DOWN, at=9, data=b"x") + WELCOMED + down(DOWN, data=b"\xff\xff\xff\x7f") + WELCOMED + up(TAKEN, at=100) + WELCOMED + rec(ON_DOWN, b"?"),
    "worker-silence": WELCOMED + wait(101) + wait(101) + WELCOMED + wait(40),
}


def main():
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "corpus", "crew")
    os.makedirs(folder, exist_ok=True)
    for name, data in SEEDS.items():
        with open(os.path.join(folder, name), "wb") as out:
            out.write(data)


main()
