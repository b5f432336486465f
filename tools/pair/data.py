#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write training rows: files of seq + 1 uint16 ids a row, the top bit meaning "no loss on this target".

    data.py tasks --tokens 40e6 --seq 256 --out tasks.bin
    data.py books --text kids-train.txt --tokens 20e6 --seq 512 --out books.bin

A row of "tasks" is whole documents, each behind <|endoftext|>: synthetic tasks and a
share of tales. No loss falls on questions, which are random by construction. A row of
"books" is one piece of running text behind <|endoftext|>.
"""
import argparse
import random

import numpy as np

import bpe
import gen_tales
import gen_tasks
from model import NOLOSS


def documents(tok, split, seed, tale_share, weights):
    """Endless documents as ids, without <|endoftext|>; tale_share counts tokens."""
    tasks, tales, have, want = gen_tasks.generate(seed, split, weights), gen_tales.generate(seed), 0, 0
    while True:
        if have < tale_share * want:
            ids = tok.encode(next(tales))
            have += len(ids)
        else:
            e = next(tasks)
            ids = [i | NOLOSS for i in tok.encode(e.prompt)] + tok.encode(e.completion)
        want += len(ids)
        yield ids


def task_rows(tok, docs, n, look=40):
    """Rows of n ids: of the next documents always the first that still fits."""
    waiting = [next(docs) for _ in range(look)]
    while True:
        row = []
        while True:
            room = n - len(row) - 2                 # an <|endoftext|> before it and one behind
            i = next((i for i, d in enumerate(waiting) if len(d) <= room), None)
            if i is None:
                if row:
                    break
                i, waiting[0] = 0, waiting[0][:room]
            row += [tok.eot | (0 if row else NOLOSS)] + waiting.pop(i)
            waiting.append(next(docs))
        row.append(tok.eot)
        yield row + [tok.eot | NOLOSS] * (n - len(row))


def book_rows(tok, path, n, seed, chunk=40_000):
    """Rows of n ids from the chunks of a text in random order, epoch after epoch."""
    with open(path, encoding="utf8") as f:
        text = f.read().replace("<|endoftext|>", "\n")
    starts = list(range(0, len(text), chunk))
    while True:
        random.Random(seed).shuffle(starts)
        for s in starts:
            s = text.find("\n", s, s + chunk) + 1 or s          # begin at a line
            ids = tok.encode(text[s:s + chunk].strip("\n"))
            for i in range(0, len(ids) - n, n - 1):
                yield [tok.eot | NOLOSS] + ids[i:i + n - 1]
        seed += 1


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("kind", choices=("tasks", "books"))
    ap.add_argument("--tok", default="models/tokenizer.json")
    ap.add_argument("--text", help="for books")
    ap.add_argument("--split", default="train", help="for tasks: train, valid or test")
    ap.add_argument("--tales", type=float, default=.12, help="for tasks: share of tales, by token")
    ap.add_argument("--weights", default="sort=1.3,date=1.3,arith=1.3,copy=.7,lookup=.8",
                    help="for tasks: how often a task is drawn, where not 1")
    ap.add_argument("--tokens", type=float, required=True)
    ap.add_argument("--seq", type=int, required=True)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--out", required=True)
    ap.add_argument("--as-text", help="also write the documents here, for training a tokenizer")
    a = ap.parse_args()
    tok = bpe.Tokenizer.load(a.tok)
    if a.kind == "books":
        stream = book_rows(tok, a.text, a.seq + 1, a.seed)
    else:
        weights = {k: float(v) for k, v in (w.split("=") for w in a.weights.split(","))}
        stream = task_rows(tok, documents(tok, a.split, a.seed, a.tales, weights), a.seq + 1)
    out = np.empty((int(a.tokens) // (a.seq + 1), a.seq + 1), np.uint16)
    for i in range(len(out)):
        out[i] = next(stream)
    out.tofile(a.out)
    if a.as_text:
        with open(a.as_text, "wb") as f:
            f.write(tok.decode_bytes((out.flatten() & (NOLOSS - 1)).tolist()).replace(b"<|endoftext|>", b"\n"))
    print("%s: %d rows of %d, %.1fM tokens, loss on %.3f of them" %
          (a.out, len(out), a.seq + 1, out.size / 1e6, (out < NOLOSS).mean()))


if __name__ == "__main__":
    main()
