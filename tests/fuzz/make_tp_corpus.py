#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of fuzz_tp_wire into tests/fuzz/corpus/tp_wire: one message of each kind, steps of several shapes, and
such that lie about one number each. Needs nothing but Python. Run from the repository root."""
import os
import struct

(HELLO, PLAN, REFUSED, PROGRESS, LOADED, SEATS, OFFERS, INVITE, READY, FAILED, ABORT, STEP) = range(1, 13)


def message(kind, body=b"", version=3, length=None):
    return struct.pack("<BBHI", kind, version, 0, 8 + len(body) if length is None else length) + body


def text(s):
    return struct.pack("<I", len(s)) + s


def plan(nodes=2, local=2, comm=2, ctx=4096, tokens=512, seqs=16, valid=0, kv=1, bound=10**10):
    return message(PLAN, struct.pack("<8iq", nodes, local, comm, ctx, tokens, seqs, valid, kv, bound))


def ask(temperature=0.0, top_p=1.0, min_p=0.0, keep_a=0.0, keep_b=0.0, probe_q=0.0, top_k=0, pos=1, probe=-1, keep=0, edits=0, top=0, seed=0, flags=0, drafts=0):
    return struct.pack("<6f6iQ2i", temperature, top_p, min_p, keep_a, keep_b, probe_q, top_k, pos, probe, keep, edits, top, seed, flags, drafts)


def edit(i, scale=1.0, add=0.0):
    return struct.pack("<iff", i, scale, add)


def draft(i, logprob=-1.0):
    return struct.pack("<if", i, logprob)


def step(of, asks=(), edits=(), pairs=(), drafts=(), group=1, number=1, **lies):
    """of: (tokens, position of the first, pages, rows that are asked for)"""
    token, pos, q, kv, pi, page, rows = [], [], [0], [], [0], [], []
    for tokens, first, pages, wanted in of:
        rows += [len(token) + w for w in wanted]
        token += tokens
        pos += range(first, first + len(tokens))
        q.append(len(token))
        kv.append(first + len(tokens))
        page += pages
        pi.append(len(page))
    n = dict(tokens=len(token), seqs=len(of), out=len(rows), copies=len(pairs), pages=len(page), edits=len(edits), drafts=len(drafts))
    n.update(lies)
    ints = token + pos + q + kv + pi + page + rows + [x for c in pairs for x in c]
    body = struct.pack("<QQ8i", group, number, n["tokens"], n["seqs"], n["out"], n["copies"], n["pages"], n["edits"], n["drafts"], 0)
    body += struct.pack("<%di" % len(ints), *ints)
    body += bytes(-(8 + len(body)) % 8)
    return message(STEP, body + b"".join(asks) + b"".join(edits) + b"".join(drafts))


DECODE = [([5], 17, [3, 1], [0]), ([7], 0, [2], [0])]
PROMPT = [(list(range(20)), 16, [4, 5, 6], [19])]

SEEDS = {
    "hello": message(HELLO, struct.pack("<Q2i", 0x1234567890ABCDEF, 2, 2)),
    "plan": plan(),
    "plan-too-many-ranks": plan(nodes=33, local=2),
    "plan-no-rows": plan(tokens=0),
    "plan-unknown-comm": plan(comm=99),
    "refused": message(REFUSED, text(b"it has another model")),
    "progress": message(PROGRESS, struct.pack("<i", 62)),
    "progress-101": message(PROGRESS, struct.pack("<i", 101)),
    "loaded": message(LOADED, struct.pack("<q", 1 << 20)),
    "loaded-any": message(LOADED, struct.pack("<q", -1)),
    "seats": message(SEATS, struct.pack("<Qi", 3, 640)),
    "offers": message(OFFERS, struct.pack("<Qi", 3, 2) + text(b"tcp 10.0.0.1:4711") + text(b"tcp 10.0.0.1:4712")),
    "offers-65": message(OFFERS, struct.pack("<Qi", 3, 65) + text(b"x") * 65),
    "offers-long": message(OFFERS, struct.pack("<Qi", 3, 1) + text(b"x" * 192)),
    "offers-unprintable": message(OFFERS, struct.pack("<Qi", 3, 1) + text(b"a\nb")),
    "invite": message(INVITE, struct.pack("<Q", 3) + text(b"tcp 4 " + b"0123456789abcdef" * 16)),
    "invite-cut": message(INVITE, struct.pack("<Q", 3) + struct.pack("<I", 500) + b"short"),
    "ready": message(READY, struct.pack("<Q", 3)),
    "ready-long": message(READY, struct.pack("<Q", 3) + b"more"),
    "failed": message(FAILED, struct.pack("<Qi", 3, 2) + text(b"rank 2: cuda: out of memory\ntwo lines")),
    "abort": message(ABORT, struct.pack("<Q", 3) + text(b"large: rank 2 is gone")),
    "unknown": message(13, b"abcd"),
    "version": message(READY, struct.pack("<Q", 3), version=4),
    "length": message(READY, struct.pack("<Q", 3), length=99),
    "empty": b"",
    "step-decode": step(DECODE, [ask(pos=18), ask(0.7, 0.9, 0.05, seed=42, top_k=40, probe=9, keep=6, keep_a=0.09, keep_b=0.3, probe_q=-1.5)]),
    "step-prompt": step(PROMPT, [ask(pos=36, top=5)]),
    "step-no-answers": step([(list(range(20)), 0, [4, 5], [])]),
    "step-mixed": step(DECODE[:1] + PROMPT, [ask(), ask(probe=3, keep=1)], pairs=[(1, 2), (3, 30)], group=7, number=9),
    "step-edits": step(DECODE, [ask(edits=2), ask(edits=1)], [edit(3, 1.1), edit(9, 1.0, -1e30), edit(4, 2.0, 0.5)]),
    "step-draft": step(DECODE, [ask(0.8, probe=9, keep=7, drafts=2), ask(0.8, top_k=20, flags=2)],
                       drafts=[draft(9), draft(4, -0.5)]),
    "step-only-edits": step(DECODE[:1], [ask(edits=1, flags=1)], [edit(3)]),
    "step-only-nothing": step(DECODE[:1], [ask(flags=1)]),
    "step-draft-twice": step(DECODE[:1], [ask(0.8, probe=9, keep=7, drafts=2)], drafts=[draft(9), draft(9)]),
    "step-flags": step(DECODE[:1], [ask(flags=4)]),
    "step-lie-drafts": step(DECODE[:1], [ask(probe=9, keep=7, drafts=2)], drafts=[draft(9)]),
    "step-drafts-left": step(DECODE[:1], [ask()], drafts=[draft(9)]),
    "step-lie-tokens": step(DECODE, [ask(), ask()], tokens=3),
    "step-lie-seqs": step(DECODE, [ask(), ask()], seqs=2**31 - 1),
    "step-lie-out": step(DECODE, [ask(), ask()], out=-1),
    "step-lie-pages": step(DECODE, [ask(), ask()], pages=2),
    "step-lie-copies": step(DECODE, [ask(), ask()], copies=1),
    "step-lie-edits": step(DECODE, [ask(edits=5), ask()], [edit(3)]),
    "step-edits-left": step(DECODE, [ask(), ask()], [edit(3)]),
    "step-edit-order": step(DECODE[:1], [ask(edits=2)], [edit(9), edit(3)]),
    "step-keep": step(DECODE[:1], [ask(keep=8)]),
    "step-page": step([([5], 17, [3, 40], [0])], [ask()]),
    "step-token": step([([300], 17, [3, 4], [0])], [ask()]),
    "step-nan": step(DECODE[:1], [ask(float("nan"))]),
}


def main():
    folder = "tests/fuzz/corpus/tp_wire"
    os.makedirs(folder, exist_ok=True)
    for name, data in SEEDS.items():
        with open(os.path.join(folder, name), "wb") as f:
            f.write(data)


if __name__ == "__main__":
    main()
